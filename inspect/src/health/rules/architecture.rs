//! What the table of architectures promises of the model that config.json describes: every tensor, each in its shape.
//! Weights of another model beside the configuration show here too.

use std::collections::HashMap;

use super::missing::NAMED;
use super::{Check, Network, Rule, Ruling};
use crate::meaning::architecture::{Dim, Kind, Role as Part, Tensor};
use crate::meaning::names::{Style, canonical};
use crate::meaning::role::Role;
use crate::meaning::wrappers::unwrapped;
use crate::meaning::{Given, ModelConfig};
use crate::metadata::from_json;
use crate::record::TensorRecord;
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "unlike-config",
    summary: "A tensor of the architecture that config.json names is not there, or has another shape.",
    check: Check::Whole(check),
};

fn check(network: &Network<'_>) -> Vec<Ruling> {
    let record = network.record;
    let told = from_json(serde_json::Value::Object(record.model.config.clone()));
    let Ok(mut given) = Given::of_hugging_face(&told) else { return Vec::new() };
    let weights = || record.tensors.iter().filter(|t| t.group == Group::Weights);
    // Codes have other names and shapes, an adapter has none of its base's weights, and what shards are missing is told.
    let other = |t: &TensorRecord| matches!(t.role, Role::Codes | Role::LoraA | Role::LoraB);
    if given.quantization.is_some() || record.damage.is_some() || weights().any(other) {
        return Vec::new();
    }
    // Neither decides about a tensor.
    given.norm_eps.get_or_insert(1e-6);
    given.max_seq_len.get_or_insert(1);
    // Its class may be one without a head.
    let headed =
        given.tie_word_embeddings == Some(false) && record.model.architecture.ends_with("ForCausalLM");
    // More layers than tensors need not be looked for one by one.
    let Some(config) = given.complete().ok().filter(|c| c.num_layers <= record.tensors.len()) else {
        return Vec::new();
    };
    let mut there: HashMap<Part, &TensorRecord> = HashMap::new();
    for tensor in weights() {
        if let Some(part) = config.architecture.role(&canonical(&unwrapped(&tensor.name))) {
            there.entry(part).or_insert(tensor);
        }
    }
    let mut found = Vec::new();
    let mut absent = Vec::new();
    for (part, row) in config.tensors() {
        match there.get(&part) {
            Some(tensor) => found.extend(unlike(tensor, row, &config)),
            None if part.kind() == Kind::Head && !headed => {}
            None => absent.push(part),
        }
    }
    let of_layer = |n: usize| there.keys().any(|part| matches!(part, Part::Layer(l, _) if *l == n));
    if !there.is_empty() {
        // Layers of which nothing is there are told by their number.
        absent.retain(|part| !matches!(part, Part::Layer(n, _) if !of_layer(*n)));
    }
    if !absent.is_empty() {
        let named = absent.iter().take(NAMED).filter_map(|part| config.architecture.name(*part, Style::Hf));
        let finding = Finding::Missing { count: absent.len() as u64, names: named.collect() };
        found.extend(Ruling::new(Verdict::Corrupt, finding));
    }
    found
}

/// Whether `tensor` has another shape than `row` has in a model of this configuration.
fn unlike(tensor: &TensorRecord, row: &Tensor, config: &ModelConfig) -> Option<Ruling> {
    let promised: Vec<u64> = row.shape_in(config).iter().map(|&size| size as u64).collect();
    // Vocabularies are padded, and what has no elements is told as such.
    let fits = |(i, (is, should)): (usize, (&u64, &u64))| {
        is == should || (row.shape[i] == Dim::Vocab && is >= should)
    };
    let alike =
        tensor.shape.len() == promised.len() && tensor.shape.iter().zip(&promised).enumerate().all(fits);
    if alike || tensor.shape.contains(&0) {
        return None;
    }
    Ruling::new(
        Verdict::Corrupt,
        Finding::PromisedShape { name: tensor.name.clone(), promised, found: tensor.shape.clone() },
    )
}
