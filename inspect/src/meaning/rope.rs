//! How rotary positions are scaled: `rope_scaling` of config.json and of the trainer's configuration, and the keys and
//! the tensor that GGUF has for it.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::architecture::{Architecture, Role};
use crate::gguf::Keys;
use crate::metadata::{Value, as_f64, whole_json};

/// `rope_scaling` as JSON text, for ckpt: GGUF cannot express some of it.
const KEY: &str = "ckpt.rope_scaling";

/// How rotary positions are scaled beyond the length that the model was trained with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RopeScaling {
    /// No scaling.
    #[default]
    None,
    /// All positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided, short ones kept, a smooth passage between.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above original / low_freq_factor are long.
        low_freq_factor: f64,
        /// Wavelengths below original / high_freq_factor are short.
        high_freq_factor: f64,
        /// Length that the model was trained with.
        original_max_position_embeddings: f64,
    },
    /// YaRN: like Llama 3's, by the number of rotations, and with larger attention scores.
    Yarn {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Length that the model was trained with, if it is given.
        original_max_position_embeddings: Option<f64>,
        /// Further parameters, under config.json's names.
        more: Map<String, Json>,
    },
    /// LongRoPE: each frequency divided by a number of its own, and other numbers for texts that are longer than those that
    /// the model was trained with.
    LongRope {
        /// The divisors for texts of at most the original length.
        short_factor: Vec<f64>,
        /// Those for longer texts, for all of their positions.
        long_factor: Vec<f64>,
        /// Length that the model was trained with, if it is given.
        original_max_position_embeddings: Option<f64>,
        /// Further parameters, under config.json's names.
        more: Map<String, Json>,
    },
    /// A kind that is not known here, or one that lacks what it needs.
    Other {
        /// Its name.
        kind: String,
        /// Its parameters, under config.json's names.
        parameters: Map<String, Json>,
    },
}

/// The parameters that each kind needs.
const NEEDED: [(&str, &[&str]); 4] = [
    ("linear", &["factor"]),
    ("llama3", &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]),
    ("yarn", &["factor"]),
    ("longrope", &["short_factor", "long_factor"]),
];

impl RopeScaling {
    /// What `rope_scaling` or `rope_parameters` of a configuration says.
    pub fn of_config(config: &Value) -> RopeScaling {
        Self::of_json(whole_json(config))
    }

    fn of_json(config: Json) -> RopeScaling {
        let mut parameters = match config {
            Json::Null => return RopeScaling::None,
            Json::Object(parameters) => parameters,
            other => return RopeScaling::Other { kind: other.to_string(), parameters: Map::new() },
        };
        // `type` is the older name, which many files have beside the newer one. The base and the rotating share are not of the
        // scaling.
        let [kind, older, ..] = ["rope_type", "type", "rope_theta", "partial_rotary_factor"]
            .map(|key| parameters.shift_remove(key));
        let kind = match [kind, older].into_iter().flatten().find(|config| !config.is_null()) {
            None => return RopeScaling::None,
            Some(Json::String(kind)) => kind,
            Some(other) => other.to_string(),
        };
        if matches!(kind.as_str(), "default" | "none") {
            return RopeScaling::None;
        }
        known(&kind, &parameters).unwrap_or(RopeScaling::Other { kind, parameters })
    }

    /// The kind's name in config.json.
    pub fn kind(&self) -> &str {
        match self {
            RopeScaling::None => "default",
            RopeScaling::Linear { .. } => "linear",
            RopeScaling::Llama3 { .. } => "llama3",
            RopeScaling::Yarn { .. } => "yarn",
            RopeScaling::LongRope { .. } => "longrope",
            RopeScaling::Other { kind, .. } => kind,
        }
    }

    /// The parameters that it lacks, if its kind is known.
    pub fn missing(&self) -> Option<&'static str> {
        match self {
            RopeScaling::Other { kind, parameters } => missing(kind, parameters),
            _ => None,
        }
    }

    /// The form in config.json; `None` for no scaling.
    pub fn to_json(&self) -> Option<Json> {
        let mut config = Map::from_iter([("rope_type".to_string(), json!(self.kind()))]);
        let mut put = |key: &str, value: Json| config.insert(key.into(), value);
        match self {
            RopeScaling::None => return None,
            RopeScaling::Linear { factor } => {
                put("factor", json!(factor));
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                put("factor", json!(factor));
                put("low_freq_factor", json!(low_freq_factor));
                put("high_freq_factor", json!(high_freq_factor));
                put(ORIGINAL, positions(*original_max_position_embeddings));
            }
            RopeScaling::Yarn { factor, original_max_position_embeddings, more } => {
                put("factor", json!(factor));
                if let Some(original) = original_max_position_embeddings {
                    put(ORIGINAL, positions(*original));
                }
                config.extend(more.clone());
            }
            RopeScaling::LongRope { short_factor, long_factor, original_max_position_embeddings, more } => {
                put("short_factor", json!(short_factor));
                put("long_factor", json!(long_factor));
                if let Some(original) = original_max_position_embeddings {
                    put(ORIGINAL, positions(*original));
                }
                config.extend(more.clone());
            }
            RopeScaling::Other { parameters, .. } => config.extend(parameters.clone()),
        }
        Some(Json::Object(config))
    }

    /// The same parameters as a scaling of another kind.
    pub(super) fn called(&self, kind: &str) -> RopeScaling {
        let mut config = self.to_json().unwrap_or_default();
        config["rope_type"] = json!(kind);
        Self::of_json(config)
    }

    /// Settles the length that the model was trained with: what is given `beside` the parameters, else their own, else the
    /// `longest` text.
    pub(super) fn settle_original(&mut self, beside: Option<f64>, longest: Option<f64>) {
        if !matches!(self.kind(), "llama3" | "yarn" | "longrope") {
            return;
        }
        let Some(mut config) = self.to_json() else { return };
        let Some(original) = beside.or(config[ORIGINAL].as_f64()).or(longest) else { return };
        config[ORIGINAL] = positions(original);
        // Later, a setting may change what the longest text is.
        if let (RopeScaling::LongRope { .. }, Some(longest), true) =
            (&*self, longest, config["factor"].is_null())
        {
            config["factor"] = json!(longest / original);
        }
        *self = Self::of_json(config);
    }

    /// Whether GGUF has keys or tensors for it that programs know which run models of `architecture`.
    pub fn is_known_in_gguf(&self, architecture: &Architecture) -> bool {
        match self {
            RopeScaling::Other { .. } => false,
            RopeScaling::LongRope { .. } => architecture.tensor(Role::LongFactors).is_some(),
            _ => true,
        }
    }

    /// What sines and cosines are multiplied by in a model whose longest text has `longest` positions
    /// (`modeling_rope_utils.py` of transformers).
    pub fn attention_factor(&self, longest: f64) -> f64 {
        match self {
            RopeScaling::Yarn { factor, more, .. } => yarn_attention(*factor, more),
            RopeScaling::LongRope { original_max_position_embeddings, more, .. } => {
                let number = |key: &str| more.get(key).and_then(Json::as_f64);
                let original = original_max_position_embeddings.unwrap_or(longest);
                let factor = number("factor").unwrap_or(longest / original);
                let usual = || if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
                number("attention_factor").unwrap_or_else(usual)
            }
            _ => 1.0,
        }
    }

    /// Where YaRN's passage between kept and divided wavelengths begins and ends, in rotations, and whether its ends are
    /// moved to whole pairs.
    pub fn yarn_bounds(&self) -> (f64, f64, bool) {
        let none = Map::new();
        let more = if let RopeScaling::Yarn { more, .. } = self { more } else { &none };
        let number = |key: &str| more.get(key).and_then(Json::as_f64).filter(|x| *x != 0.0);
        let truncated = more.get("truncate").and_then(Json::as_bool).unwrap_or(true);
        (number("beta_fast").unwrap_or(32.0), number("beta_slow").unwrap_or(1.0), truncated)
    }

    /// LongRoPE by the divisors that a GGUF file has as tensors, and what its keys say.
    pub(super) fn of_long_factors(
        [short, long]: [&[f32]; 2],
        original: Option<f64>,
        attention: Option<f64>,
    ) -> RopeScaling {
        let exact = |factors: &[f32]| factors.iter().map(|x| shortest(*x)).collect();
        let attention = attention.map(|x| ("attention_factor".to_string(), json!(x)));
        RopeScaling::LongRope {
            short_factor: exact(short),
            long_factor: exact(long),
            original_max_position_embeddings: original,
            more: attention.into_iter().collect(),
        }
    }

    /// Writes what GGUF has keys for into `keys`, for `architecture`, and all of it under ckpt's own key. Divisors of
    /// frequencies are tensors there. The longest text has `longest` positions.
    pub(super) fn to_gguf(&self, architecture: &str, longest: f64, keys: &mut Keys) {
        let Some(config) = self.to_json() else { return };
        let (factor, original) = match self {
            RopeScaling::Linear { factor } => (Some(*factor), None),
            RopeScaling::Yarn { factor, original_max_position_embeddings, .. } => {
                (Some(*factor), *original_max_position_embeddings)
            }
            RopeScaling::LongRope { original_max_position_embeddings, .. } => {
                // llama.cpp's converter names no kind either: it is told by the tensors.
                keys.set(
                    &format!("{architecture}.rope.scaling.attn_factor"),
                    &(self.attention_factor(longest) as f32),
                );
                (None, *original_max_position_embeddings)
            }
            _ => (None, None),
        };
        let name = |key: &str| format!("{architecture}.rope.scaling.{key}");
        if let Some(factor) = factor {
            keys.set(&name("type"), self.kind());
            keys.set(&name("factor"), &(factor as f32));
        }
        if let Some(original) = original {
            keys.set(&name("original_context_length"), &(original as u32));
        }
        if let RopeScaling::Yarn { factor, more, .. } = self {
            let attention = yarn_attention(*factor, more) / usual_attention(*factor);
            if (attention - 1.0).abs() > 1e-6 {
                keys.set(&name("attn_factor"), &(attention as f32));
            }
            for (key, own) in YARN_BOUNDS {
                if let Some(bound) = more.get(key).and_then(Json::as_f64) {
                    keys.set(&name(own), &(bound as f32));
                }
            }
        }
        keys.set(KEY, config.to_string().as_str());
    }

    /// The scaling in the keys of a GGUF file, with full names for `own`; `None` if they have none.
    pub(super) fn of_gguf<'v>(
        architecture: &str,
        own: &dyn Fn(&str) -> Option<&'v Value>,
    ) -> Option<RopeScaling> {
        match own(KEY) {
            Some(Value::String(text)) => {
                let config = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
                return Some(Self::of_json(config));
            }
            Some(other) => return Some(Self::of_json(json!(format!("{other:?}")))),
            None => {}
        }
        let of_model = |key: &str| own(&format!("{architecture}.rope.scaling.{key}"));
        let kind = match of_model("type")? {
            Value::String(kind) => json!(kind),
            other => json!(format!("{other:?}")),
        };
        let mut config =
            json!({"rope_type": kind, "factor": of_model("factor").and_then(single).unwrap_or(1.0)});
        if let Some(original) = of_model("original_context_length").and_then(as_f64) {
            config[ORIGINAL] = positions(original);
        }
        if config["rope_type"] == "yarn" {
            let factor = config["factor"].as_f64().unwrap_or(1.0);
            if let Some(attention) = of_model("attn_factor").and_then(single).filter(|x| *x != 1.0) {
                config["attention_factor"] = json!(attention * usual_attention(factor));
            }
            for (key, own) in YARN_BOUNDS {
                if let Some(bound) = of_model(own).and_then(single) {
                    config[key] = json!(bound);
                }
            }
        }
        Some(Self::of_json(config))
    }

    /// Whether it is YaRN with other bounds than the usual ones.
    pub fn has_own_bounds(&self) -> bool {
        let RopeScaling::Yarn { more, .. } = self else { return false };
        let other =
            |(key, usual): (&str, f64)| more.get(key).and_then(Json::as_f64).is_some_and(|x| x != usual);
        [("beta_fast", 32.0), ("beta_slow", 1.0)].into_iter().any(other)
            || more.get("truncate").and_then(Json::as_bool) == Some(false)
    }

    /// Llama 3's divisors of rotary frequencies, one per two elements of a head: 1 for short waves, `factor` for long
    /// ones, and a smooth transition between (`_compute_llama3_parameters` of transformers; `rope_freqs` in llama.cpp).
    /// `None` for other kinds of scaling.
    pub fn factors(&self, base: f64, head_dim: usize) -> Option<Vec<f32>> {
        const LARGEST_HEAD: usize = 1 << 16;
        let RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        } = *self
        else {
            return None;
        };
        if head_dim > LARGEST_HEAD {
            return None;
        }
        let of_pair = |pair: usize| {
            let wave = TAU * base.powf(2.0 * pair as f64 / head_dim as f64);
            if wave < original / high {
                1.0
            } else if wave > original / low {
                factor
            } else {
                let smooth = (original / wave - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Some((0..head_dim / 2).map(|pair| of_pair(pair) as f32).collect())
    }

    /// The parameters of Llama 3's scaling that give these `factors`. The factors only determine original / low and
    /// original / high, so low is assumed to be 1, as in all of its models. `None` if no parameters give exactly these
    /// factors.
    pub fn of_factors(factors: &[f32], base: f64) -> Option<RopeScaling> {
        let head_dim = 2 * factors.len();
        let factor = f64::from(*factors.last()?);
        let turns = |pair: usize| 1.0 / (TAU * base.powf(2.0 * pair as f64 / head_dim as f64));
        // In the transition, `smooth` is linear in 1 / wave.
        let between = factors.iter().enumerate().filter(|(_, f)| **f > 1.0 && f64::from(**f) < factor);
        let points: Vec<(f64, f64)> = between
            .map(|(pair, f)| (turns(pair), (1.0 / f64::from(*f) - 1.0 / factor) / (1.0 - 1.0 / factor)))
            .collect();
        let (first, last) = (points.first()?, points.last()?);
        let (original, high) = match points.len() {
            1 => ((3.0 * first.1 + 1.0) / first.0, 4.0),
            _ => {
                let slope = (first.1 - last.1) / (first.0 - last.0);
                let range = -1.0 / (first.1 - slope * first.0);
                (slope * range, range + 1.0)
            }
        };
        let config = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: (high * 1000.0).round() / 1000.0,
            original_max_position_embeddings: original.round(),
        };
        let again = config.factors(base, head_dim)?;
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * a.abs();
        factors.iter().zip(&again).all(near).then_some(config)
    }
}

/// Where YaRN's passage between kept and divided wavelengths begins and ends, in rotations, and GGUF's keys for it.
const YARN_BOUNDS: [(&str, &str); 2] = [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")];

/// What YaRN multiplies queries and keys by, unless its parameters say otherwise.
fn usual_attention(factor: f64) -> f64 {
    magnitude(factor, 1.0)
}

fn magnitude(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

/// What YaRN multiplies queries and keys by (`_compute_yarn_parameters` of transformers).
fn yarn_attention(factor: f64, more: &Map<String, Json>) -> f64 {
    let number = |key: &str| more.get(key).and_then(Json::as_f64);
    let of_scales = || {
        let (scale, all) = (number("mscale")?, number("mscale_all_dim")?);
        (scale != 0.0 && all != 0.0).then(|| magnitude(factor, scale) / magnitude(factor, all))
    };
    number("attention_factor").or_else(of_scales).unwrap_or_else(|| usual_attention(factor))
}

pub(super) const ORIGINAL: &str = "original_max_position_embeddings";

/// The scaling of `kind` with these parameters; `None` where it is not known or they do not suffice.
fn known(kind: &str, parameters: &Map<String, Json>) -> Option<RopeScaling> {
    let number = |key: &str| parameters.get(key)?.as_f64();
    if kind == "longrope" {
        let numbers = |key: &str| -> Option<Vec<f64>> {
            parameters.get(key)?.as_array()?.iter().map(Json::as_f64).collect()
        };
        let original = number(ORIGINAL);
        let mut more = parameters.clone();
        more.retain(|key, _| {
            !matches!(key.as_str(), "short_factor" | "long_factor") && (key != ORIGINAL || original.is_none())
        });
        return Some(RopeScaling::LongRope {
            short_factor: numbers("short_factor")?,
            long_factor: numbers("long_factor")?,
            original_max_position_embeddings: original,
            more,
        });
    }
    let factor = number("factor")?;
    Some(match kind {
        "linear" => RopeScaling::Linear { factor },
        "llama3" => RopeScaling::Llama3 {
            factor,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_max_position_embeddings: number(ORIGINAL)?,
        },
        "yarn" => {
            let original = number(ORIGINAL);
            let mut more = parameters.clone();
            more.retain(|key, _| key != "factor" && (key != ORIGINAL || original.is_none()));
            RopeScaling::Yarn { factor, original_max_position_embeddings: original, more }
        }
        _ => return None,
    })
}

/// The first thing that a scaling of `kind` needs and `parameters` lack.
fn missing(kind: &str, parameters: &Map<String, Json>) -> Option<&'static str> {
    let (_, needed) = NEEDED.iter().find(|(known, _)| *known == kind)?;
    needed
        .iter()
        .copied()
        .find(|key| !parameters.get(*key).is_some_and(|value| value.is_number() || value.is_array()))
}

/// A number of positions, as an integer where it is one.
fn positions(x: f64) -> Json {
    if x.fract() == 0.0 && (0.0..9e15).contains(&x) { json!(x as u64) } else { json!(x) }
}

/// An f32 of a GGUF file: its own shortest digits, not those of the f64 it became.
pub(super) fn single(value: &Value) -> Option<f64> {
    Some(shortest(as_f64(value)? as f32))
}

fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| x.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_llama_3_come_back_from_its_factors() {
        for (base, head_dim, factor, original) in
            [(5e5, 64, 32.0, 8192), (5e5, 128, 8.0, 8192), (1e4, 16, 8.0, 64)]
        {
            let config = json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": original});
            let scaling = RopeScaling::of_json(config.clone());
            assert_eq!(scaling.to_json(), Some(config));
            let factors = scaling.factors(base, head_dim).unwrap();
            assert_eq!(RopeScaling::of_factors(&factors, base), Some(scaling));
        }
        // Phi's have another rule.
        assert_eq!(RopeScaling::of_factors(&[1.05, 1.1, 1.3, 2.9, 40.0], 1e4), None);
        assert_eq!(RopeScaling::of_factors(&[1.0, 1.0], 1e4), None);
        assert_eq!(RopeScaling::of_factors(&[], 1e4), None);
    }

    /// What other programs need of YaRN is in keys of its own, and is read from them where ckpt's are not there.
    #[test]
    fn yarns_parameters_have_keys() {
        let read = |keys: &Keys| {
            let own = [
                "type",
                "factor",
                "original_context_length",
                "attn_factor",
                "yarn_beta_fast",
                "yarn_beta_slow",
            ];
            let values: Vec<(String, Value)> = own
                .iter()
                .map(|key| format!("llama.rope.scaling.{key}"))
                .filter_map(|key| {
                    let value = keys.get(&key)?;
                    let plain = match value.to_text() {
                        Some(text) => Value::String(text),
                        None => Value::F64(value.as_f64()?),
                    };
                    Some((key, plain))
                })
                .collect();
            RopeScaling::of_gguf("llama", &|key| values.iter().find(|(own, _)| own == key).map(|(_, v)| v))
        };
        let close = |a: Option<f64>, b: f64| a.is_some_and(|a| (a - b).abs() < 1e-6);
        for (more, attention, bounds) in [
            (json!({}), None, None),
            (json!({"attention_factor": 1.5}), Some(1.5), None),
            (json!({"mscale": 0.7, "mscale_all_dim": 0.4}), Some(1.0970406 / 1.0554518), None),
            (json!({"beta_fast": 16.0, "beta_slow": 2.0}), None, Some((16.0, 2.0))),
        ] {
            let mut config =
                json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let scaling = RopeScaling::of_json(config);
            let mut keys = Keys::default();
            scaling.to_gguf("llama", 256.0, &mut keys);
            let Some(RopeScaling::Yarn { factor, original_max_position_embeddings, more }) = read(&keys)
            else {
                panic!("{scaling:?}")
            };
            assert_eq!((factor, original_max_position_embeddings), (4.0, Some(64.0)));
            let number = |key: &str| more.get(key).and_then(Json::as_f64);
            assert_eq!(number("attention_factor").is_some(), attention.is_some(), "{more:?}");
            assert!(attention.is_none_or(|wanted| close(number("attention_factor"), wanted)), "{more:?}");
            assert_eq!(number("beta_fast").zip(number("beta_slow")), bounds);
            assert_eq!(scaling.has_own_bounds(), bounds.is_some());
        }
    }

    /// transformers' `_compute_longrope_parameters`, and the length that counts where it is given twice.
    #[test]
    fn long_texts_have_divisors_of_their_own() {
        let config = json!({"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]});
        let mut scaling = RopeScaling::of_json(config.clone());
        scaling.settle_original(None, Some(64.0));
        assert_eq!(scaling.attention_factor(64.0), 1.0);
        scaling = RopeScaling::of_json(config);
        scaling.settle_original(Some(16.0), Some(64.0));
        let RopeScaling::LongRope { original_max_position_embeddings, .. } = &scaling else {
            panic!("{scaling:?}")
        };
        assert_eq!(*original_max_position_embeddings, Some(16.0));
        assert_eq!(scaling.attention_factor(64.0), (1.0 + 4f64.ln() / 16f64.ln()).sqrt());
        let mut again = RopeScaling::of_long_factors([&[1.0, 1.5], &[2.0, 4.0]], Some(16.0), None);
        again.settle_original(None, Some(64.0));
        assert_eq!(again, scaling);
        let lacking = RopeScaling::of_json(json!({"rope_type": "longrope", "short_factor": [1.0]}));
        assert_eq!(lacking.missing(), Some("long_factor"));
    }

    #[test]
    fn every_kind_keeps_its_parameters() {
        for config in [
            json!({"rope_type": "linear", "factor": 2.0}),
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "beta_fast": 32}),
            json!({"rope_type": "yarn", "factor": 4.0}),
            json!({"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [1.5, 2.5]}),
            json!({"rope_type": "llama3", "factor": 8.0}),
        ] {
            assert_eq!(RopeScaling::of_json(config.clone()).to_json(), Some(config));
        }
        let older = json!({"type": "linear", "factor": 2, "rope_theta": 1e4});
        assert_eq!(RopeScaling::of_json(older), RopeScaling::Linear { factor: 2.0 });
        for nothing in [json!(null), json!({}), json!({"rope_type": "default", "rope_theta": 1e6})] {
            assert_eq!(RopeScaling::of_json(nothing).to_json(), None);
        }
        let lacking = RopeScaling::of_json(json!({"rope_type": "llama3", "factor": 8.0}));
        assert_eq!(lacking.missing(), Some("low_freq_factor"));
        assert_eq!(RopeScaling::of_json(json!("x")).kind(), "\"x\"");
    }
}
