//! Keys without which programs that run GGUF files do not load them: what llama.cpp's loader asks for (`load_hparams` and
//! `llama_vocab::load`) of the architectures that the table knows.

use serde_json::Value;

use super::{Check, Network, Rule, Ruling};
use crate::Format;
use crate::gguf::ARCHITECTURE;
use crate::meaning::architecture::{Architecture, Role};
use crate::meaning::gguf_keys::{recorded, recorded_architecture};
use crate::meaning::names::{Style, begins_with_layer, is_called, style_of};
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "missing-keys",
    summary: "A GGUF file lacks keys without which llama.cpp does not load it.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Whole(check),
};

/// What is asked for after the name of the architecture. Where all feed-forward layers are experts the last may be theirs.
const SIZES: [&str; 6] = [
    "block_count",
    "context_length",
    "embedding_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
    FEED_FORWARD,
];
const FEED_FORWARD: &str = "feed_forward_length";
const EXPERTS: &str = "expert_feed_forward_length";

fn check(network: &Network<'_>) -> Vec<Ruling> {
    let record = network.record;
    let keys = &record.metadata;
    let names = record.tensors.iter().filter(|t| t.group == Group::Weights).map(|t| t.name.as_str());
    let is_model = keys.get("general.type").is_none_or(|kind| kind == "model");
    // Whoever has layers and a table of tokens is a language model, and no vocabulary, picture model, adapter or part.
    let is_table = |name: &str| is_called(name, Role::Embedding, Style::Gguf);
    let has_layers = || names.clone().any(begins_with_layer) && names.clone().any(is_table);
    if !matches!(record.format, Format::Gguf { .. })
        || record.damage.is_some()
        || !is_model
        || !has_layers()
        || style_of(names) != Some(Style::Gguf)
    {
        return Vec::new();
    }
    let mut absent = Vec::new();
    match recorded_architecture(keys) {
        None => absent.push(ARCHITECTURE.to_string()),
        Some(name) if Architecture::of_gguf(name).is_some() => {
            let has = |wanted: &str| recorded(keys).any(|(key, _)| key == wanted);
            let is_there = |key: &str| has(key) || (key == FEED_FORWARD && has(EXPERTS));
            absent.extend(SIZES.iter().filter(|key| !is_there(key)).map(|key| format!("{name}.{key}")));
        }
        Some(_) => return Vec::new(),
    }
    let tokenizer = |key: &str| keys.get(&format!("tokenizer.ggml.{key}"));
    if tokenizer("tokens").is_some() {
        match tokenizer("model").and_then(Value::as_str) {
            None => absent.push("tokenizer.ggml.model".into()),
            Some("gpt2") if tokenizer("merges").is_none() => absent.push("tokenizer.ggml.merges".into()),
            Some(_) => {}
        }
    }
    if absent.is_empty() {
        return Vec::new();
    }
    Ruling::new(Verdict::Corrupt, Finding::MissingKeys { names: absent }).into_iter().collect()
}
