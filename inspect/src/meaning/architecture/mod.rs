//! The architectures that ckpt knows, one file each: their names in other programs, and their tensors. Names,
//! roles, shapes and whether a model is complete all follow from [`TABLE`]; a new architecture is a file and a line in
//! it.

mod bitnet;
mod bitnet_silu;
mod gemma2;
mod gemma3;
mod granite;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3moe;
mod smollm3;
mod student;
mod tensors;
#[cfg(test)]
mod tests;
mod windows;

use std::fmt;

use serde_json::{Map, Value as Json};

pub use student::STUDENT;
pub use tensors::{Dim, Tensor, When};
pub(super) use windows::WindowWords;

use super::config::{Activation, AttentionBias, ModelConfig};
use super::elements::Floor;
use super::given::Given;
use crate::gguf::Keys;
use crate::metadata::Value;

/// Every architecture. Of those that share a name in GGUF or a class, the first one that the keys or config.json match is
/// taken.
pub static TABLE: [&Architecture; 15] = [
    &student::STUDENT,
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &bitnet::BITNET,
    &bitnet_silu::BITNET_SILU,
    &smollm3::SMOLLM3,
    &granite::GRANITE,
    &olmo2::OLMO2,
    &phi3::PHI3,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &mixtral::MIXTRAL,
    &qwen3moe::QWEN3MOE,
];

/// A family of networks that differ only in sizes and settings.
#[non_exhaustive]
pub struct Architecture {
    /// Its name in ckpt.
    pub name: &'static str,
    /// Its name in sentences.
    pub label: &'static str,
    /// Hugging Face's classes; the first one is written.
    pub classes: &'static [&'static str],
    /// Hugging Face's `model_type`; the first one is written.
    pub model_types: &'static [&'static str],
    /// `general.architecture` of GGUF files; the first one is written.
    pub gguf: &'static [&'static str],
    /// Whether GGUF stores the rows of queries and keys in another order, in which rows that rotate together are
    /// neighbours.
    pub interleaved: bool,
    /// Its tensors in the order in which PyTorch numbers parameters. Rows of a layer stand for every layer.
    pub tensors: &'static [&'static Tensor],
    /// Which attention projections have biases.
    pub biases: Biases,
    /// What the program computes that runs it from GGUF.
    pub graph: Graph,
    /// Settings of models that do not give them.
    pub defaults: Defaults,
    /// What its network does otherwise than a Llama's, besides what its tensors and its configuration show.
    pub network: Network,
    /// What is its own in config.json and in GGUF's keys.
    pub(super) words: Words,
    /// What such a model computes that a GGUF file cannot say, in words that follow "its" or "it", if it does.
    not_in_gguf: fn(&ModelConfig) -> Option<String>,
    /// Whether a GGUF file with one of its names, or a config.json with one of its classes, is of this family, by what else
    /// it says.
    is_meant: fn(&Given) -> bool,
    /// The family whose name is written in formats that have none for it.
    written_as: fn(&ModelConfig) -> &'static Architecture,
}

/// What determines the biases of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Biases {
    /// The architecture, which always has these.
    Fixed(AttentionBias),
    /// `attention_bias` of config.json, which concerns all four projections.
    Configured,
}

/// What the program computes that runs an architecture's models from GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Graph {
    /// The program.
    pub program: Program,
    /// Whether every version of it adds the biases that such models may have.
    pub biased: bool,
    /// Whether it multiplies by a head that is not the embedding.
    pub untied: bool,
    /// Whether it divides rotary frequencies by the factors of a tensor.
    pub factors: bool,
    /// Every how many layers one has no attention window, where it computes windows.
    pub period: Option<usize>,
    /// Every how many layers one does not rotate queries and keys, if there are such layers.
    pub unrotated: Option<usize>,
}

/// What a network does otherwise than Llama's, besides what its tensors and its configuration show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Network {
    /// Norms multiply by one more than the gains in its checkpoints. GGUF files have the sums.
    pub gains_less_one: bool,
    /// Embeddings are multiplied by the root of their width.
    pub scaled_embedding: bool,
}

/// What is an architecture's own in config.json and in GGUF's keys.
pub(super) struct Words {
    /// Words of config.json that it knows, of those that others do not.
    pub own: &'static [&'static str],
    /// The token that transformers' class pads with where config.json names none.
    pub padding: Option<usize>,
    /// `original_max_position_embeddings` of transformers' class where config.json has none.
    pub original: Option<f64>,
    /// Which layers have a window by config.json.
    pub windows: fn(&WindowWords<'_>) -> windows::Found,
    /// Reads its own words of config.json.
    pub read: fn(&Value, &mut Given),
    /// Writes them.
    pub write: fn(&ModelConfig, &mut Map<String, Json>),
    /// Adds what a GGUF file of it means without a key.
    pub read_keys: fn(&mut Given),
    /// Writes its own keys, under the name of the architecture.
    pub write_keys: fn(&ModelConfig, &str, &mut Keys),
}

/// No words but those that all have, and no windows.
const PLAIN_WORDS: Words = Words {
    own: &[],
    padding: None,
    original: None,
    windows: windows::none,
    read: |_, _| (),
    write: |_, _| (),
    read_keys: |_| (),
    write_keys: |_, _, _| (),
};

/// A network that does nothing otherwise.
const PLAIN_NETWORK: Network = Network { gains_less_one: false, scaled_embedding: false };

/// A program that runs GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Program {
    /// llama.cpp.
    LlamaCpp,
    /// bitnet.cpp, whose architectures and block types llama.cpp does not have.
    BitnetCpp,
}

/// A graph of llama.cpp that computes all that its models may have.
const WHOLE: Graph = Graph {
    program: Program::LlamaCpp,
    biased: true,
    untied: true,
    factors: true,
    period: None,
    unrotated: None,
};

/// Settings of models that do not give them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)] // as in `ModelConfig`
pub struct Defaults {
    pub max_seq_len: usize,
    pub head_dim: usize,
    pub rope_base: f64,
    pub norm_eps: f64,
    pub quantization_floor: Floor,
    pub bitlinear: bool,
    pub attn_logit_soft_cap: Option<f64>,
    pub final_logit_soft_cap: Option<f64>,
    pub activation: Activation,
    /// Whether the head is the embedding, by the class in transformers, where config.json does not say.
    pub tied: bool,
}

/// The defaults of architectures without BitLinear.
const PLAIN: Defaults = Defaults {
    max_seq_len: 2048,
    head_dim: 64,
    rope_base: 1e4,
    norm_eps: 1e-5,
    quantization_floor: Floor::Added(1e-8),
    bitlinear: false,
    attn_logit_soft_cap: None,
    final_logit_soft_cap: None,
    activation: Activation::Silu,
    tied: false,
};

/// A tensor's part in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // the variants are the field's own names
pub enum Role {
    Embedding,
    FinalNorm,
    Head,
    /// Divisors of the rotary frequencies.
    RopeFactors,
    /// Those for texts that are longer than the model was trained with.
    LongFactors,
    /// Those for the others, where there are two kinds.
    ShortFactors,
    /// One of a layer's tensors.
    Layer(usize, Part),
}

/// A tensor of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // the variants are the field's own names
pub enum Part {
    AttentionNorm,
    Q,
    K,
    V,
    /// Q, K and V, one after another.
    Qkv,
    O,
    QBias,
    KBias,
    VBias,
    OBias,
    QNorm,
    KNorm,
    AttentionSubNorm,
    /// Of attention's output, before it is added to the residual stream.
    PostAttentionNorm,
    FfnNorm,
    Gate,
    Up,
    /// The gate and the other one, one after another.
    GateUp,
    Down,
    /// What chooses experts.
    Router,
    /// The gates of all experts.
    GateExperts,
    /// The other projections of their input.
    UpExperts,
    /// The projections of their results.
    DownExperts,
    GateBias,
    UpBias,
    DownBias,
    FfnSubNorm,
    /// Of the feed-forward layer's output, before it is added to the residual stream.
    PostFfnNorm,
    QInputNorm,
    KInputNorm,
    VInputNorm,
    OInputNorm,
    GateInputNorm,
    UpInputNorm,
    DownInputNorm,
}

/// The part of a tensor in its layer or model, without the layer's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Token embedding `[vocab, hidden]`, also the output head when tied.
    Embedding,
    /// Scale of an RMSNorm.
    Norm,
    /// `{q,k,v,o}_proj`, `[out, in]`.
    Attention,
    /// `{gate,up,down}_proj`, `[out, in]`; of several experts, `[experts, out, in]`.
    Mlp,
    /// What chooses experts, `[experts, hidden]`.
    Router,
    /// Untied output head `[vocab, hidden]`.
    Head,
    /// Added to a projection's output.
    Bias,
    /// Divisors of the rotary frequencies.
    RopeFactors,
}

impl Role {
    /// The part of a tensor of this role.
    pub fn kind(self) -> Kind {
        match self {
            Role::Embedding => Kind::Embedding,
            Role::FinalNorm => Kind::Norm,
            Role::Head => Kind::Head,
            Role::RopeFactors | Role::LongFactors | Role::ShortFactors => Kind::RopeFactors,
            Role::Layer(_, part) => part.kind(),
        }
    }

    /// The same role in layer `layer`, if it is in a layer.
    pub(super) fn of_layer(self, layer: usize) -> Role {
        match self {
            Role::Layer(_, part) => Role::Layer(layer, part),
            outer => outer,
        }
    }
}

impl Part {
    /// What a tensor of this part does.
    pub fn kind(self) -> Kind {
        match self {
            Part::AttentionNorm
            | Part::FfnNorm
            | Part::QNorm
            | Part::KNorm
            | Part::AttentionSubNorm
            | Part::FfnSubNorm
            | Part::PostAttentionNorm
            | Part::PostFfnNorm
            | Part::QInputNorm
            | Part::KInputNorm
            | Part::VInputNorm
            | Part::OInputNorm
            | Part::GateInputNorm
            | Part::UpInputNorm
            | Part::DownInputNorm => Kind::Norm,
            Part::Q | Part::K | Part::V | Part::Qkv | Part::O => Kind::Attention,
            Part::Gate | Part::Up | Part::GateUp | Part::Down => Kind::Mlp,
            Part::GateExperts | Part::UpExperts | Part::DownExperts => Kind::Mlp,
            Part::Router => Kind::Router,
            Part::QBias | Part::KBias | Part::VBias | Part::OBias => Kind::Bias,
            Part::GateBias | Part::UpBias | Part::DownBias => Kind::Bias,
        }
    }
}

impl Part {
    /// The bias of this projection.
    pub fn bias(self) -> Option<Part> {
        match self {
            Part::Q => Some(Part::QBias),
            Part::K => Some(Part::KBias),
            Part::V => Some(Part::VBias),
            Part::O => Some(Part::OBias),
            Part::Gate => Some(Part::GateBias),
            Part::Up => Some(Part::UpBias),
            Part::Down => Some(Part::DownBias),
            _ => None,
        }
    }

    /// The norm that this projection has of its input, where BitLinears have such norms.
    pub fn input_norm(self) -> Option<Part> {
        match self {
            Part::Q => Some(Part::QInputNorm),
            Part::K => Some(Part::KInputNorm),
            Part::V => Some(Part::VInputNorm),
            Part::O => Some(Part::OInputNorm),
            Part::Gate => Some(Part::GateInputNorm),
            Part::Up => Some(Part::UpInputNorm),
            Part::Down => Some(Part::DownInputNorm),
            _ => None,
        }
    }
}

impl Architecture {
    /// The architecture with this class or `model_type` in config.json.
    pub fn of_hugging_face(name: &str) -> Option<&'static Architecture> {
        TABLE.into_iter().find(|a| a.classes.contains(&name) || a.model_types.contains(&name))
    }

    /// The architecture with this `name` in GGUF, regardless of other keys.
    pub fn of_gguf(name: &str) -> Option<&'static Architecture> {
        let plain = Given::default();
        TABLE.into_iter().find(|a| a.gguf.contains(&name) && (a.is_meant)(&plain))
    }

    /// The architecture with this class or `model_type` in a config.json that says `given`.
    pub(super) fn meant_in_config(name: &str, given: &Given) -> Option<&'static Architecture> {
        let called = |a: &&Architecture| a.classes.contains(&name) || a.model_types.contains(&name);
        let meant = TABLE.into_iter().filter(called).find(|a| (a.is_meant)(given));
        meant.or_else(|| Architecture::of_hugging_face(name))
    }

    /// The architecture of a GGUF file with this `name` and the keys in `given`.
    pub(super) fn meant_in_gguf(name: &str, given: &Given) -> Option<&'static Architecture> {
        TABLE.into_iter().find(|a| a.gguf.contains(&name) && (a.is_meant)(given))
    }

    pub(super) fn called(name: &str) -> Option<&'static Architecture> {
        TABLE.into_iter().find(|a| a.name == name)
    }

    /// The row of `role`, if its models can have it.
    pub fn tensor(&self, role: Role) -> Option<&'static Tensor> {
        self.tensors.iter().copied().find(|t| t.role == role.of_layer(0))
    }

    /// What a model of this configuration computes that a GGUF file of it cannot say, in words that follow "it", if there is
    /// such a thing.
    pub fn not_in_gguf(&self, config: &ModelConfig) -> Option<String> {
        (self.not_in_gguf)(config)
    }

    /// Whether its models can have a tensor of `part` in their layers.
    pub fn has(&self, part: Part) -> bool {
        self.tensor(Role::Layer(0, part)).is_some()
    }
}

impl ModelConfig {
    /// The architecture under whose name this model is written: its own, or for the student the one that it is written
    /// as.
    pub fn written_as(&self) -> &'static Architecture {
        (self.architecture.written_as)(self)
    }

    /// The tensors that such a model has, in the order in which PyTorch numbers its parameters.
    pub fn tensors(&self) -> impl Iterator<Item = (Role, &'static Tensor)> {
        let rows = self.architecture.tensors;
        let is_layers = |t: &&Tensor| matches!(t.role, Role::Layer(..));
        let first = rows.iter().position(is_layers).unwrap_or(rows.len());
        let end = rows.iter().rposition(is_layers).map_or(first, |last| last + 1);
        let outer = |t: &'static Tensor| (t.role, t);
        let of_layers = (0..self.num_layers)
            .flat_map(move |n| rows[first..end].iter().map(move |t| (t.role.of_layer(n), *t)));
        let all = rows[..first].iter().copied().map(outer).chain(of_layers);
        all.chain(rows[end..].iter().copied().map(outer)).filter(|(_, t)| t.when.holds(self))
    }

    /// The shape that a tensor of `role` has in such a model; `None` where it has no such tensor.
    pub fn shape(&self, role: Role) -> Option<Vec<usize>> {
        let tensor = self.architecture.tensor(role)?;
        tensor.when.holds(self).then(|| tensor.shape_in(self))
    }
}

impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Every row of the table.
pub(super) fn vocabulary() -> impl Iterator<Item = &'static Tensor> {
    TABLE.into_iter().flat_map(|a| a.tensors).copied()
}
