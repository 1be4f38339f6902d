//! What config.json promises, or the keys of a GGUF file: how many layers there are, how many tokens, how wide the network
//! is, also within its MLPs. Of an architecture that is not known nothing else is held against it but what all models of its
//! class have. A configuration of another model beside the weights shows here too.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::missing::{Stack, stacks};
use super::{Check, Network, Rule, Ruling, always_there};
use crate::meaning::architecture::Architecture;
use crate::meaning::config_json::recorded_model_type;
use crate::meaning::gguf_keys::recorded;
use crate::meaning::keys::{AHEAD, HALVES, LAYERS, SHARED, TOKENS, WIDTH};
use crate::meaning::role::{Role, is_of_tokens};
use crate::record::TensorRecord;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

/// Tokens by which a padded vocabulary may be longer than promised, unless it is a quarter of them; few are padded to a
/// multiple of 128. A table may also hold several vocabularies.
const PADDING: u64 = 2048;
const FEW_TOKENS: u64 = 1000;

/// What norms of a layer's input are called.
const FIRST_NORMS: [&str; 6] =
    ["input_layernorm", "ln_1", "attention_norm", "attn_norm", "norm1", "operator_norm"];

/// What the names of classes end with that answer with tokens.
const WRITERS: [&str; 4] = ["ForCausalLM", "ForMaskedLM", "ForConditionalGeneration", "MTModel"];
/// Those of them that have two tables where they are not tied.
const TWO_TABLES: [&str; 2] = ["ForCausalLM", "T5ForConditionalGeneration"];

pub(super) const RULE: Rule = Rule {
    name: "promised",
    summary: "config.json, or a GGUF file's keys, promise other numbers of layers or tokens, or another width.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Whole(check),
};

fn check(network: &Network<'_>) -> Vec<Ruling> {
    let config = description(network);
    let given = |keys: &[&'static str]| {
        keys.iter().find_map(|key| Some((*key, config.get(*key)?.as_u64().filter(|n| *n > 0)?)))
    };
    let weights = || network.record.tensors.iter().filter(|t| t.group == Group::Weights);
    // An adapter holds none of what its base's configuration promises. Some networks have factors of their own in a few
    // layers.
    let factors = weights().filter(|t| matches!(t.role, Role::LoraA | Role::LoraB)).count();
    let matrices = weights().filter(|t| t.role == Role::Matrix).count();
    if factors > 0 && factors >= matrices || weights().filter(|t| t.role.is_matrix()).count() < 4 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut missed = |key: &str, promised: u64, there: u64| {
        let finding = Finding::Promised { key: key.into(), promised, found: there };
        found.extend(Ruling::new(Verdict::Corrupt, finding));
    };
    let stacks = stacks(network);
    let layered: Vec<&Stack<'_>> = stacks.iter().filter(|s| s.is_of_layers()).collect();
    // Convolutional networks count their layers in ways of their own.
    let of_role = |role: Role| weights().filter(|t| t.role == role).count();
    if let Some((key, promised)) = given(&LAYERS)
        && of_role(Role::Convolution) <= of_role(Role::Matrix)
        && !SHARED.iter().any(|key| config.contains_key(*key))
        && let Some(most) = layered.iter().map(|s| s.len()).max()
    {
        let further = given(&AHEAD).map_or(0, |(_, n)| n);
        // Another model's, where there are more: of several stacks it may mean any.
        if most < promised
            || (layered.len() == 1 && key != "num_layers" && most > promised.saturating_add(further))
        {
            missed(key, promised, most);
        }
    }
    for (half, keys) in HALVES {
        let of_half = |s: &&&Stack<'_>| s.is_within(half);
        if let Some((key, promised)) = given(&keys)
            && let Some(most) = layered.iter().filter(of_half).map(|s| s.len()).max()
            && most < promised
        {
            missed(key, promised, most);
        }
    }
    // Where a key is the decoder's, the other is the encoder's.
    if config.contains_key("num_decoder_layers")
        && let Some((key, promised)) = given(&["num_layers"])
        && let Some(there) = layered.iter().filter(|s| s.is_within("encoder")).map(|s| s.len()).max()
        && there < promised
        && layered.iter().any(|s| s.len() >= promised)
    {
        missed(key, promised, there);
    }
    if let Some((key, promised)) = given(&TOKENS) {
        let rows = || {
            weights()
                .filter(|t| t.role == Role::Embedding && t.shape.len() == 2 && is_of_tokens(&t.name))
                .map(|t| t.shape[0])
        };
        let padded = match promised < FEW_TOKENS {
            true => (promised + 128).next_multiple_of(128),
            false => promised.saturating_add(PADDING.max(promised / 4)),
        };
        if let Some(rows) = rows().max().filter(|rows| *rows < promised) {
            missed(key, promised, rows);
        } else if let Some(rows) =
            rows().min().filter(|rows| *rows > padded && !rows.is_multiple_of(promised))
        {
            missed(key, promised, rows);
        }
    }
    if let Some((key, promised)) = given(&WIDTH)
        && network.record.tensors.iter().all(|t| t.role != Role::Codes)
        && !has_width(weights, &layered, &config, promised)
    {
        let of_tokens = weights().find(|t| has_tokens(t, &config));
        let gains = || weights().filter(|t| t.role == Role::NormGain).map(|t| &t.shape[..]);
        let there = match of_tokens.map(|t| t.shape[1]) {
            Some(width) if width != promised => width,
            _ => match usual_width(gains()) {
                0 => usual_width(weights().map(|t| &t.shape[..])),
                width => width,
            },
        };
        if there != promised {
            missed(key, promised, there);
        }
    }
    if !layered.is_empty()
        && let Some((key, promised)) = always_there::inner_width(network, &config)
    {
        let width = given(&WIDTH).map_or(0, |(_, width)| width);
        let inner =
            |t: &&TensorRecord| t.role == Role::Matrix && t.shape.len() == 2 && t.name.contains(".mlp.");
        let sides = weights().filter(inner).flat_map(|t| t.shape.chunks(1)).filter(|side| side[0] != width);
        missed(key, promised, usual_width(sides));
    }
    let mut outer = absent_ends(network, &config, &layered);
    if network.record.damage.is_none() && !weights().any(|t| t.role == Role::Codes) {
        outer.extend(always_there::absent(network));
    }
    if !outer.is_empty() {
        let finding = Finding::Missing { count: outer.len() as u64, names: outer };
        found.extend(Ruling::new(Verdict::Corrupt, finding));
    }
    found
}

/// What a model that writes text is without, before its layers and behind them: tables of its tokens, and the norm behind
/// layers that normalize what they take.
fn absent_ends(network: &Network<'_>, config: &Map<String, Value>, layered: &[&Stack<'_>]) -> Vec<String> {
    let record = network.record;
    let weights = || record.tensors.iter().filter(|t| t.group == Group::Weights);
    let class = record.model.architecture.as_str();
    let writes = WRITERS.iter().any(|writer| class.ends_with(writer));
    if !writes || config.is_empty() || record.damage.is_some() || weights().any(|t| t.role == Role::Codes) {
        return Vec::new();
    }
    // What a known architecture lacks is told by name.
    let kind = recorded_model_type(config).unwrap_or_default();
    if Architecture::of_hugging_face(kind).is_some() {
        return Vec::new();
    }
    let mut absent = Vec::new();
    if let Some(tokens) = TOKENS.iter().find_map(|key| config.get(*key)?.as_u64()).filter(|n| *n > 1) {
        // A matrix of a layer is none, however few tokens there are.
        let may_be = |t: &TensorRecord| match t.role {
            Role::Embedding | Role::Head => true,
            Role::Positional => false,
            _ => !is_numbered(&t.name),
        };
        let long = |t: &TensorRecord| t.shape.len() == 2 && t.shape.iter().any(|side| *side >= tokens);
        let tables = weights().filter(|t| long(t) && may_be(t)).count();
        let apart = config.get("tie_word_embeddings") == Some(&Value::Bool(false))
            && TWO_TABLES.iter().any(|of| class.ends_with(of));
        // A table with fewer rows than promised is told as such.
        let shorter =
            weights().any(|t| matches!(t.role, Role::Embedding | Role::Head) && is_of_tokens(&t.name));
        match tables {
            0 if !shorter => absent.push(format!("a table of its {tokens} tokens")),
            1 if apart => {
                absent.push(format!("one of two tables of its {tokens} tokens, embedding and head"))
            }
            _ => {}
        }
    }
    let normalizes = |stack: &&&Stack<'_>| {
        let of_input =
            |after: &&str| FIRST_NORMS.iter().any(|norm| after.strip_suffix(".weight") == Some(*norm));
        stack.len() >= 3 && stack.blocks.values().all(|block| block.keys().any(of_input))
    };
    if class.ends_with(WRITERS[0])
        && let Some(stack) = layered.iter().find(normalizes)
        && !weights().any(|t| t.role == Role::NormGain && !t.name.starts_with(stack.before))
    {
        absent.push("the norm behind its layers".into());
    }
    absent
}

/// Whether a part of `name` is a number.
fn is_numbered(name: &str) -> bool {
    name.split('.').any(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

/// What config.json says, or else the keys of a GGUF file, without its architecture's name.
fn description(network: &Network<'_>) -> Map<String, Value> {
    let (config, keys) = (&network.record.model.config, &network.record.metadata);
    match config.is_empty() {
        true => recorded(keys).map(|(key, value)| (key.to_string(), value.clone())).collect(),
        false => {
            let mut all = config.clone();
            // Beside that of its text, a configuration has what its class would have without one.
            if let Some(of_text) = config.get("text_config").and_then(Value::as_object) {
                for key in LAYERS.iter().chain(&TOKENS).chain(&WIDTH) {
                    if let (Some(outer), Some(value)) = (all.get_mut(*key), of_text.get(*key)) {
                        *outer = value.clone();
                    }
                }
            }
            all
        }
    }
}

/// Whether a table has a row for each token: by its name, or by the number of its rows.
fn has_tokens(table: &TensorRecord, config: &Map<String, Value>) -> bool {
    let promised = || TOKENS.iter().find_map(|key| config.get(*key)?.as_u64()).filter(|n| *n > 1);
    table.role == Role::Embedding
        && table.shape.len() == 2
        && (is_of_tokens(&table.name) || promised() == Some(table.shape[0]))
}

/// Whether the width that is promised shows: in tables of tokens, or in vectors of the layers where there are layers with
/// norms, and anywhere, also as a part, where there are none.
fn has_width<'r, W: Iterator<Item = &'r TensorRecord>>(
    weights: impl Fn() -> W,
    layered: &[&Stack<'_>],
    config: &Map<String, Value>,
    promised: u64,
) -> bool {
    let gains = || weights().filter(|t| t.role == Role::NormGain && t.shape.len() == 1);
    let tables = || weights().filter(|t| t.role == Role::Embedding && t.shape.len() == 2);
    if layered.is_empty() || gains().count() < 2 {
        let sides: HashSet<u64> = weights().flat_map(|t| t.shape.iter().copied()).collect();
        return sides.iter().any(|side| *side > 0 && side.is_multiple_of(promised));
    }
    // A table of tokens is as wide as the network whose layers have norms of that width, unless the configuration says that
    // it is a factor.
    let of_tokens = || tables().filter(|t| has_tokens(t, config)).map(|t| t.shape[1]);
    let of_layers = |width: u64| gains().filter(|t| is_numbered(&t.name)).any(|t| t.shape[0] == width);
    let factor = |width: u64| {
        config.iter().any(|(key, value)| {
            key.contains("emb")
                && !key.contains("position")
                && !WIDTH.contains(&key.as_str())
                && value.as_u64() == Some(width)
        })
    };
    if of_tokens().next().is_some()
        && of_tokens().all(|width| width != promised && of_layers(width) && !factor(width))
    {
        return false;
    }
    // Where there is no table the layers must be of one width to contradict.
    let width = usual_width(gains().map(|t| &t.shape[..]));
    let uniform = || gains().filter(|t| t.shape[0] == width).count() * 4 >= gains().count() * 3;
    gains().any(|t| t.shape[0] == promised)
        || tables().any(|t| t.shape[1] == promised)
        || (tables().next().is_none() && !uniform())
}

/// The length of most vectors.
fn usual_width<'s>(shapes: impl Iterator<Item = &'s [u64]>) -> u64 {
    let mut lengths: HashMap<u64, usize> = HashMap::new();
    for shape in shapes.filter(|shape| shape.len() == 1) {
        *lengths.entry(shape[0]).or_default() += 1;
    }
    lengths.into_iter().max_by_key(|&(length, times)| (times, length)).map_or(0, |(length, _)| length)
}
