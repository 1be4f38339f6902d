//! What the table of architectures promises of the model that config.json or the keys of a GGUF file describe: every
//! tensor, each in its shape. Weights of another model beside the configuration show here too.

use std::collections::{HashMap, HashSet};

use super::missing::NAMED;
use super::{Check, Network, Rule, Ruling};
use crate::DType;
use crate::meaning::architecture::{
    Architecture, Biases, Dim, Kind, Part as LayerPart, Role as Part, Tensor,
};
use crate::meaning::config_json::recorded_model_type;
use crate::meaning::gguf_keys::recorded;
use crate::meaning::names::{Style, begins_with_layer, canonical_in};
use crate::meaning::role::Role;
use crate::meaning::scheme::names::is_of_activations;
use crate::meaning::wrappers::unwrapped;
use crate::meaning::{AttentionBias, Given, ModelConfig};
use crate::metadata::from_json;
use crate::quantized::{Blocking, QuantType};
use crate::record::{CheckpointRecord, TensorRecord};
use crate::tensor::Group;
use crate::verdict::{Finding, Verdict};

pub(super) const RULE: Rule = Rule {
    name: "unlike-config",
    summary: "A tensor that the architecture named by config.json or the GGUF file needs is missing or has another shape.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Whole(check),
};

fn check(network: &Network<'_>) -> Vec<Ruling> {
    let record = network.record;
    let weights = || record.tensors.iter().filter(|t| t.group == Group::Weights);
    // An adapter has none of its base's weights, and what shards are missing is told.
    if record.damage.is_some() || weights().any(|t| matches!(t.role, Role::LoraA | Role::LoraB)) {
        return Vec::new();
    }
    let told = match record.model.config.is_empty() {
        true => of_keys(record),
        false => of_config(record),
    };
    // More layers than tensors need not be looked for one by one.
    let Some(Promise { config, there, others, headed, unread, style }) =
        told.filter(|told| told.config.num_layers <= record.tensors.len())
    else {
        return Vec::new();
    };
    // What a scheme that is not read stores under a module's name may be its weight.
    let bare: Vec<String> = weights()
        .filter(|t| unread && t.name.contains('.'))
        .map(|t| unwrapped(&t.name).into_owned())
        .collect();
    let has_parts = |part: Part| {
        let name = config.architecture.name(part, style).unwrap_or_default();
        let module = name.strip_suffix("weight").unwrap_or(&name);
        bare.iter().any(|own| own.starts_with(module))
    };
    let mut found = Vec::new();
    let mut absent = Vec::new();
    for (part, row) in config.tensors() {
        match there.get(&part) {
            // One expert's.
            // Of what is not read only the codes' shape is known.
            Some(tensor) if tensor.is_bare_codes() => {}
            Some(tensor) if row.is_stack() && tensor.shape.len() + 1 == row.shape.len() => {
                found.extend(unlike(tensor, &row.shape[1..], &row.shape_in(&config)[1..]));
            }
            Some(tensor) => found.extend(unlike(tensor, row.shape, &row.shape_in(&config))),
            None if part.kind() == Kind::Head && !headed => {}
            // transformers' own classes have the gates of all experts and the other projections in one tensor.
            None if row.is_stack() && others => {}
            None if unread && !is_plain(row) => {}
            None if has_parts(part) => {}
            None => absent.push(part),
        }
    }
    let number = |part: &Part| match part {
        Part::Layer(n, _) => Some(*n),
        _ => None,
    };
    let layers: HashSet<usize> = there.keys().filter_map(number).collect();
    if !there.is_empty() {
        // Layers of which nothing is there are told by their number.
        absent.retain(|part| number(part).is_none_or(|n| layers.contains(&n)));
    }
    // llama.cpp does without biases where there are none.
    let is_bias = |part: &Part| part.kind() == Kind::Bias;
    if style == Style::Gguf && !there.keys().any(is_bias) {
        absent.retain(|part| !is_bias(part));
    }
    if !absent.is_empty() {
        let named = absent.iter().take(NAMED).filter_map(|part| config.architecture.name(*part, style));
        let finding = Finding::Missing { count: absent.len() as u64, names: named.collect() };
        found.extend(Ruling::new(Verdict::Corrupt, finding));
    }
    found
}

/// The tensors of a record by their part in the model.
type There<'r> = HashMap<Part, &'r TensorRecord>;

/// What a description promises.
struct Promise<'r> {
    config: ModelConfig,
    there: There<'r>,
    /// Whether layers have tensors that the table does not know.
    others: bool,
    /// Whether a head of its own is promised.
    headed: bool,
    /// Whether there are codes that are not read, which may stand for any matrix of a layer, or for several.
    unread: bool,
    /// The style in which what is missing is named.
    style: Style,
}

/// What config.json promises.
fn of_config(record: &CheckpointRecord) -> Option<Promise<'_>> {
    let told = from_json(serde_json::Value::Object(record.model.config.clone()));
    let mut given = Given::of_hugging_face(&told).ok()?;
    // Neither decides about a tensor.
    given.norm_eps.get_or_insert(1e-6);
    given.max_seq_len.get_or_insert(1);
    // Its class may be one without a head.
    let headed =
        given.tie_word_embeddings == Some(false) && record.model.architecture.ends_with("ForCausalLM");
    // Of what the table does not describe it promises nothing.
    if given.unread.is_some() {
        return None;
    }
    let config = given.complete().ok()?;
    // A class that runs a model of another type names tensors as that type does.
    let kind = recorded_model_type(&record.model.config);
    if kind.is_some_and(|kind| !config.architecture.model_types.contains(&kind)) {
        return None;
    }
    let (there, others) = parts(record, config.architecture);
    let unread = record.tensors.iter().any(TensorRecord::is_bare_codes);
    Some(Promise { config, there, others, headed, unread, style: Style::Hf })
}

/// What the keys of a GGUF file promise. One name stands for many models there: those whose layers have tensors that the
/// table does not know are not held against it, nor files of a vocabulary alone.
fn of_keys(record: &CheckpointRecord) -> Option<Promise<'_>> {
    let mut given = Given::of_gguf(&from_json(serde_json::Value::Object(record.metadata.clone()))).ok()?;
    let architecture = given.architecture?;
    let (there, others) = parts(record, architecture);
    if there.is_empty() || others {
        return None;
    }
    given.norm_eps.get_or_insert(1e-6);
    given.max_seq_len.get_or_insert(1);
    // Layers of different sizes are described by lists.
    let is_told = recorded(&record.metadata).any(|(key, _)| key == "attention.head_count_kv");
    if is_told && given.num_kv_heads.is_none() {
        return None;
    }
    let has = |part| there.contains_key(&Part::Layer(0, part));
    let rows = there.get(&Part::Embedding).and_then(|t| usize::try_from(*t.shape.first()?).ok());
    given.vocab_size = rows.or(given.vocab_size).or(Some(1));
    // A file without a head uses the embedding.
    given.tie_word_embeddings = Some(!there.contains_key(&Part::Head));
    if architecture.biases == Biases::Configured {
        given.attention_bias = Some(AttentionBias::of_parts(has));
    }
    if architecture.has(LayerPart::GateBias) {
        given.mlp_bias = Some(has(LayerPart::GateBias));
    }
    let config = given.complete().ok()?;
    Some(Promise { config, there, others, headed: true, unread: false, style: Style::Gguf })
}

/// The weights of `record` by their part in a model of `architecture`, and whether its layers have others.
fn parts<'r>(record: &'r CheckpointRecord, architecture: &'static Architecture) -> (There<'r>, bool) {
    let (mut there, mut others) = (There::new(), false);
    for tensor in record.tensors.iter().filter(|t| t.group == Group::Weights) {
        let name = canonical_in(Some(architecture), &unwrapped(&tensor.name)).into_owned();
        match architecture.role(&name) {
            Some(part) => {
                there.entry(part).or_insert(tensor);
            }
            // What activations are rounded with is no weight.
            None => others |= begins_with_layer(&name) && !is_of_activations(&name),
        }
    }
    (there, others)
}

/// Whether a tensor of these dimensions is never quantized, and told apart by its name.
fn is_plain(row: &Tensor) -> bool {
    let is_outer = !matches!(row.role, Part::Layer(..));
    is_outer || (row.shape.len() == 1 && row.leaf == "weight")
}

/// The columns of a group of a quantized weight; 1 for others.
fn group(tensor: &TensorRecord) -> u64 {
    match tensor.dtype {
        DType::Quantized(QuantType { blocking: Blocking::Group(group), .. }) => u64::from(group.max(1)),
        _ => 1,
    }
}

/// Whether `tensor` has another shape than the `promised` one of these dimensions.
fn unlike(tensor: &TensorRecord, dims: &[Dim], promised: &[usize]) -> Option<Ruling> {
    let promised: Vec<u64> = promised.iter().map(|&size| size as u64).collect();
    // Vocabularies are padded, and what has no elements is told as such.
    let fits = |(i, (is, should)): (usize, (&u64, &u64))| {
        // Packed rows come four together, whatever their number was.
        let packed = i == 0 && tensor.dtype.is_ternary() && *is == should.next_multiple_of(4);
        // Rows of codes are filled up to whole groups.
        let filled =
            i + 1 == promised.len() && group(tensor) > 1 && *is == should.next_multiple_of(group(tensor));
        is == should || packed || filled || (dims[i] == Dim::Vocab && is >= should)
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
