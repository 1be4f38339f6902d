//! What tensors are for, told from their names, shapes, types and siblings. Networks that this suite has never heard of
//! are judged by it, so a role is what the field's habits of naming say; what they do not say is [`Role::Unknown`].
//! A habit is a line in `signs.rs`.

mod kin;
mod signs;
mod words;

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::DType;
use crate::group::without_state_dict;
use crate::meaning::scheme::names::SCALES;
use crate::tensor::{Group, TensorInfo};
pub use kin::{expert, families, family, of_expert, sibling};
use signs::{
    ATTENTION, CAPITALS, Dims, ENDS, ESSENTIAL, FIELDS, FUSED, NOT_OF_TOKENS, OUTLETS, PLACES, SIGNS, Sign,
    TOKENS, WEIGHTS, ZERO_AT_FIRST,
};
use words::{Words, holds, words};

/// What a tensor is for in its network, or beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// Multiplies its input: `[out, in]`, or one such matrix for each expert or head.
    Matrix,
    /// The kernel of a convolution.
    Convolution,
    /// A row for each token, or each of some other few things.
    Embedding,
    /// A row for each token or class that the network can answer with.
    Head,
    /// Multiplies what a normalization gives.
    NormGain,
    /// Is added to an output.
    Bias,
    /// A row or a vector for each position, or for each distance of two.
    Positional,
    /// Chooses the experts.
    Router,
    /// The first factor of a low-rank adapter, which begins at random.
    LoraA,
    /// The second one, which begins at zero.
    LoraB,
    /// Codes of a quantized weight.
    Codes,
    /// What codes are multiplied by, or activations and caches of a quantized network.
    Scale,
    /// What is subtracted from codes.
    ZeroPoint,
    /// Which elements the scales belong to, shapes of packed matrices and other whole numbers.
    Index,
    /// The vectors or values that codes stand for.
    Codebook,
    /// Says which positions count. Infinity is meant there.
    Mask,
    /// Computed from the configuration, or from inputs that have passed.
    Cache,
    /// A mean that a normalization has seen.
    RunningMean,
    /// A variance that a normalization has seen.
    RunningVariance,
    /// How often something was seen.
    Count,
    /// The range that calibration has seen. Infinity is meant before it.
    Observer,
    /// A factor for a branch, a layer or its channels.
    LayerScale,
    /// What an optimizer keeps for a weight.
    Moment,
    /// Counters, schedules, random states and what callbacks keep.
    TrainerState,
    /// Not told by what is known of it.
    #[default]
    Unknown,
}

impl Role {
    /// The word that it has in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Role::Matrix => "matrix",
            Role::Convolution => "convolution",
            Role::Embedding => "embedding",
            Role::Head => "head",
            Role::NormGain => "norm-gain",
            Role::Bias => "bias",
            Role::Positional => "positional",
            Role::Router => "router",
            Role::LoraA => "lora-a",
            Role::LoraB => "lora-b",
            Role::Codes => "codes",
            Role::Scale => "scale",
            Role::ZeroPoint => "zero-point",
            Role::Index => "index",
            Role::Codebook => "codebook",
            Role::Mask => "mask",
            Role::Cache => "cache",
            Role::RunningMean => "running-mean",
            Role::RunningVariance => "running-variance",
            Role::Count => "count",
            Role::Observer => "observer",
            Role::LayerScale => "layer-scale",
            Role::Moment => "moment",
            Role::TrainerState => "trainer-state",
            Role::Unknown => "unknown",
        }
    }

    /// Whether it is one of the matrices, kernels and tables that a network's knowledge is in.
    pub fn is_matrix(self) -> bool {
        matches!(
            self,
            Role::Matrix
                | Role::Convolution
                | Role::Embedding
                | Role::Head
                | Role::Positional
                | Role::Router
                | Role::LoraA
                | Role::LoraB
                | Role::Codes
                | Role::Codebook
        )
    }

    /// Whether infinity in it is meant, or says nothing about the network.
    pub fn may_be_infinite(self) -> bool {
        matches!(self, Role::Mask | Role::Observer | Role::TrainerState | Role::Cache)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What `tensor` alone tells of its role.
fn alone(tensor: &TensorInfo) -> Role {
    if tensor.group == Group::Optimizer {
        return Role::Moment;
    }
    let words = Words::of(&tensor.name);
    let shape = &tensor.shape;
    let vector = shape.iter().filter(|&&d| d > 1).count() <= 1;
    let fits = |dims: Dims| match dims {
        Dims::Any => true,
        Dims::Number => shape.iter().all(|&d| d == 1),
        Dims::Vector => vector,
        Dims::Table => shape.len() == 2,
        Dims::Matrix => shape.len() >= 2,
    };
    if let Some(role) = of_capitals(tensor) {
        return role;
    }
    let bears = |sign: &&Sign| fits(sign.2) && sign.3.iter().any(|phrase| words.bear(sign.1, phrase));
    if let Some(sign) = SIGNS.iter().find(bears) {
        // GPT-2's causal mask is called a bias.
        let square = matches!(shape[..], [1, 1, a, b] if a == b && a > 1);
        return if sign.0 == Role::Bias && square { Role::Mask } else { sign.0 };
    }
    if tensor.group == Group::Other {
        return Role::TrainerState;
    }
    if tensor.dtype.is_integer() || tensor.dtype == DType::Bool {
        return if shape.len() >= 2 && words.own == " weight " { Role::Codes } else { Role::Index };
    }
    // A parameter without a module is a matrix where its name says so.
    let is_field = matches!(words.own.as_str(), " weight " | " kernel " | " scale " | " gamma " | " w ");
    // Attention's matrices, by a letter each.
    let of_attention = ATTENTION.contains(&words.own.as_str())
        && [" attn ", " attention "].iter().any(|word| words.path.contains(word));
    let is_weight = is_field
        || of_attention
        || WEIGHTS.iter().any(|word| holds(&words.own, word))
        || tensor.name.contains("experts.");
    match shape.len() {
        0 => Role::LayerScale,
        // What stands in no normalization: means and spreads of inputs are kept so.
        1 if words.own == " scale " => Role::LayerScale,
        1 if is_field => Role::NormGain,
        // Gains of several dimensions, one for each head or place.
        _ if matches!(words.own.as_str(), " scale " | " gamma ") => Role::LayerScale,
        // One output.
        2.. if vector && words.own == " weight " && shape[0] == 1 => match shape.len() {
            2 => Role::Matrix,
            _ => Role::Convolution,
        },
        _ if vector || !is_weight => Role::Unknown,
        2 => Role::Matrix,
        3 if !is_field && !words.own.contains(" kernel ") => Role::Matrix,
        _ => Role::Convolution,
    }
}

/// What a matrix that is called by a capital letter is for.
fn of_capitals(tensor: &TensorInfo) -> Option<Role> {
    if tensor.shape.iter().filter(|&&d| d > 1).count() < 2 || tensor.dtype.is_integer() {
        return None;
    }
    let mut parts = tensor.name.rsplit('.');
    let (own, module) = (parts.next()?, parts.next());
    let fits = |of: Option<&str>| of.is_none() || of == module;
    CAPITALS.iter().find(|(name, of, _)| *name == own && fits(*of)).map(|(.., role)| *role)
}

/// Whether it is called as matrices are that hold those of queries, keys and values.
pub fn is_fused(name: &str) -> bool {
    let words = Words::of(name);
    FUSED.iter().any(|phrase| words.module_ends_with(phrase) || holds(&words.path, phrase))
}

/// Whether the weight of a module called so is a table of places that begins at random.
pub fn is_table_of_places(name: &str) -> bool {
    let words = Words::of(name);
    name.ends_with(".weight") && PLACES.iter().any(|phrase| words.module_ends_with(phrase))
}

/// The role of each of `tensors`, which are all of a checkpoint.
pub fn roles(tensors: &[TensorInfo]) -> Vec<Role> {
    let mut roles: Vec<Role> = tensors.iter().map(alone).collect();
    let names: HashSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    // Modules with a part called `experts`.
    let of_experts: HashSet<&str> =
        tensors.iter().filter_map(|t| t.name.split_once(".experts.")).map(|(module, _)| module).collect();
    // Single numbers beside a state dict are a trainer's: the best score, the lowest loss.
    let in_state_dict = |t: &TensorInfo| {
        without_state_dict(&t.name) != t.name && t.name.split('.').next().unwrap_or("").contains("state")
    };
    let has_state_dict = tensors.iter().any(|t| in_state_dict(t) && t.shape.len() >= 2);
    for (tensor, role) in tensors.iter().zip(&mut roles) {
        if has_state_dict && tensor.group == Group::Weights && tensor.numel() <= 1 && !in_state_dict(tensor) {
            *role = Role::TrainerState;
        }
        let Some((module, field)) = tensor.name.rsplit_once('.') else { continue };
        if *role == Role::Matrix
            && let Some((block, "gate" | "w_gate" | "wg")) = module.rsplit_once('.')
            && of_experts.contains(block)
        {
            *role = Role::Router;
        }
        if field == "weight" && role.is_matrix() && is_float8(tensor.dtype) {
            let mut scales = SCALES.iter().filter(|scale| scale.of_weight && scale.certain);
            if scales.any(|scale| names.contains(format!("{module}.{}", scale.last).as_str())) {
                *role = Role::Codes;
            }
        }
    }
    roles
}

/// Whether a tensor of this name, role and number of elements is what a trainer keeps, and no network computes with: a
/// single number, or what callbacks and loops hold. A whole network may be kept as the best one, which is another matter.
pub fn is_of_trainer(name: &str, role: Role, elements: u64) -> bool {
    let first = name.split('.').next().unwrap_or("");
    role == Role::TrainerState && (elements <= 1 || matches!(first, "callbacks" | "loops"))
}

/// The names of those of `tensors`, which are all of a checkpoint, that a trainer keeps.
pub fn of_trainers(tensors: &[TensorInfo]) -> impl Iterator<Item = String> {
    let those = tensors.iter().zip(roles(tensors));
    those.filter(|(t, role)| is_of_trainer(&t.name, *role, t.numel())).map(|(t, _)| t.name.clone())
}

fn is_float8(dtype: DType) -> bool {
    matches!(dtype, DType::F8E4M3FN | DType::F8E5M2 | DType::F8E4M3FNUZ | DType::F8E5M2FNUZ)
}

/// Whether the weights of the module that `name` is of begin at zero by design.
pub fn is_zero_at_first(name: &str) -> bool {
    let path = words(name);
    // The gate of an MLP is none of modulation.
    let of_mlp = Words::of(name).module_ends_with("gate proj");
    ZERO_AT_FIRST.iter().any(|phrase| holds(&path, phrase)) && !of_mlp
}

/// Whether the module that `name` is of is called as last layers are.
pub fn is_end(name: &str) -> bool {
    let words = Words::of(name);
    ENDS.iter().any(|phrase| words.module_ends_with(phrase))
}

/// Whether it is called as the matrices that every layer of a transformer needs.
pub fn is_essential(name: &str) -> bool {
    let words = Words::of(name);
    ESSENTIAL.iter().any(|phrase| words.module_ends_with(phrase))
}

/// Whether it is called as last layers that many networks let begin at zero.
pub fn is_outlet(name: &str) -> bool {
    let words = Words::of(name);
    OUTLETS.iter().any(|phrase| words.module_ends_with(phrase))
}

/// Whether the last part of `name` is what modules call their weights and biases.
pub fn is_field(name: &str) -> bool {
    FIELDS.contains(&name.rsplit('.').next().unwrap_or(name))
}

/// Whether `name` is that of the sizes that weight normalization gives to directions.
pub fn is_size_of_direction(name: &str) -> bool {
    name.ends_with("weight_g") || name.ends_with(".parametrizations.weight.original0")
}

/// Whether a table called so has a row for each token of the vocabulary.
pub fn is_of_tokens(name: &str) -> bool {
    let words = Words::of(name);
    let module = |word: &&str| holds(&words.module, word);
    TOKENS.iter().any(&module) && !NOT_OF_TOKENS.iter().any(module)
}

/// Whether `name` is that of a weight of which only the direction counts: under weight normalization.
pub fn is_weight_normed(name: &str) -> bool {
    name.ends_with("weight_v") || name.contains(".parametrizations.") || name.ends_with("weight_orig")
}
