//! How rotary positions are stretched: `rope_scaling` of config.json and of the trainer's configuration, and the keys and
//! the tensor that GGUF has for it.

use std::f64::consts::TAU;

use ckpt_inspect::gguf::Keys;
use ckpt_inspect::{Checkpoint, Format};
use serde_json::{Value as Json, json};
use serde_pickle::{HashableValue, Value};

use crate::safetensors::to_json;

/// What GGUF divides each rotary frequency by.
pub(crate) const FACTORS: &str = "rope_freqs.weight";
/// `rope_scaling` as JSON text, for this suite: GGUF has no words for some of it.
const KEY: &str = "ckpt.rope_scaling";

/// What `source` says, in the words of config.json; `None` where positions are not stretched, or nothing is said.
pub(crate) fn scaling(source: &Checkpoint) -> Option<Json> {
    let told = match source.format {
        Format::Gguf { .. } => of_gguf(source),
        _ => source.model.rope_scaling().map(to_json),
    };
    told.filter(|told| !matches!(kind(told), "default" | "none"))
}

/// The kind that `scaling` names.
pub(crate) fn kind(scaling: &Json) -> &str {
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type"));
    kind.and_then(Json::as_str).unwrap_or("default")
}

/// `scaling` as transformers wants it: its kind is called `rope_type`.
pub(crate) fn for_transformers(mut scaling: Json) -> Json {
    if let Some(entries) = scaling.as_object_mut()
        && let Some(kind) = entries.remove("type")
    {
        entries.entry("rope_type").or_insert(kind);
    }
    scaling
}

fn number(scaling: &Json, key: &str) -> Option<f64> {
    scaling.get(key)?.as_f64()
}

/// Writes what GGUF has keys for into `keys`, for `architecture`, and all of it under this suite's own. What another
/// runner will not do is added to `notes`.
pub(crate) fn to_keys(scaling: &Json, architecture: &str, keys: &mut Keys, notes: &mut Vec<String>) {
    let name = |key: &str| format!("{architecture}.rope.scaling.{key}");
    match kind(scaling) {
        // Not stretched; and Llama 3's factors are a tensor.
        "default" | "none" => return,
        "llama3" => {}
        kind @ ("linear" | "yarn") => {
            keys.set(&name("type"), kind);
            keys.set(&name("factor"), &(number(scaling, "factor").unwrap_or(1.0) as f32));
            if let Some(original) = number(scaling, "original_max_position_embeddings") {
                keys.set(&name("original_context_length"), &(original as u32));
            }
        }
        other => notes.push(format!(
            "its rotary positions are scaled by `{}`, for which GGUF has no key: llama.cpp computes without it, and long texts will go wrong",
            other.escape_debug()
        )),
    }
    keys.set(KEY, scaling.to_string().as_str());
}

fn of_gguf(source: &Checkpoint) -> Option<Json> {
    let Value::Dict(keys) = &source.metadata else { return None };
    let own = |key: &str| keys.get(&HashableValue::String(key.into()));
    if let Some(Value::String(told)) = own(KEY) {
        return serde_json::from_str(told).ok().filter(Json::is_object);
    }
    let architecture = &source.model.architecture;
    let of_model = |key: &str| own(&format!("{architecture}.{key}"));
    // An f32 in the file: its own shortest digits, not those of the f64 it became.
    let float = |key: &str| {
        let wide = ckpt_inspect::metadata::as_f64(of_model(key)?)?;
        (wide as f32).to_string().parse::<f64>().ok()
    };
    if let Some(Value::String(kind)) = of_model("rope.scaling.type") {
        let mut told = json!({"rope_type": kind, "factor": float("rope.scaling.factor").unwrap_or(1.0)});
        if let Some(original) = float("rope.scaling.original_context_length") {
            told["original_max_position_embeddings"] = json!(original as u64);
        }
        return Some(told);
    }
    let tensor = source.tensors.iter().find(|t| t.name == FACTORS)?;
    let base = float("rope.freq_base").unwrap_or(10_000.0);
    parameters(&source.values(tensor).ok()?, base)
}

/// What Llama 3 divides each rotary frequency by, one for two elements of a head: 1 for short waves, `factor` for long
/// ones, and a smooth way between (`_compute_llama3_parameters` of transformers; `rope_freqs` in llama.cpp). `None` for
/// other kinds of scaling.
pub(crate) fn factors(scaling: &Json, base: f64, head_dim: u64) -> Option<Vec<f32>> {
    const LARGEST_HEAD: u64 = 1 << 16;
    if kind(scaling) != "llama3" || head_dim > LARGEST_HEAD {
        return None;
    }
    let (factor, original) =
        (number(scaling, "factor")?, number(scaling, "original_max_position_embeddings")?);
    let low = number(scaling, "low_freq_factor").unwrap_or(1.0);
    let high = number(scaling, "high_freq_factor").unwrap_or(4.0);
    let of_pair = |pair: u64| {
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

/// The parameters of which `factors` are Llama 3's. The factors only tell original / low and original / high, so low is
/// taken for the 1 that all of its models have. `None` where no parameters give these very factors.
fn parameters(factors: &[f32], base: f64) -> Option<Json> {
    let head_dim = 2 * factors.len() as u64;
    let factor = f64::from(*factors.last()?);
    let turns = |pair: usize| 1.0 / (TAU * base.powf(2.0 * pair as f64 / head_dim as f64));
    // On the way between, `smooth` is a line over 1 / wave.
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
    let thousandths = |x: f64| (x * 1000.0).round() / 1000.0;
    let told = json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": thousandths(high),
        "original_max_position_embeddings": original.round() as u64,
    });
    let again = self::factors(&told, base, head_dim)?;
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * a.abs();
    factors.iter().zip(&again).all(near).then_some(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_llama_3_come_back_from_its_factors() {
        for (base, head_dim, factor, original) in
            [(5e5, 64, 32.0, 8192), (5e5, 128, 8.0, 8192), (1e4, 16, 8.0, 64)]
        {
            let told = json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": original});
            let factors = factors(&told, base, head_dim).unwrap();
            assert_eq!(parameters(&factors, base), Some(told));
        }
        // Phi's have another rule.
        assert_eq!(parameters(&[1.05, 1.1, 1.3, 2.9, 40.0], 1e4), None);
        assert_eq!(parameters(&[1.0, 1.0], 1e4), None);
        assert_eq!(parameters(&[], 1e4), None);
    }
}
