//! What tensors are for, told from their names, shapes, types and siblings. Networks that this suite has never heard of
//! are judged by it, so a role is what the field's habits of naming say; what they do not say is [`Role::Unknown`].
//! A habit is a line in `SIGNS`.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::DType;
use crate::group::without_state_dict;
use crate::tensor::{Group, TensorInfo};

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

/// Where in a name words are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// The path begins with them.
    Start,
    /// They are somewhere in the path.
    Path,
    /// They are all that the last part says.
    Own,
    /// The last part ends with them.
    OwnEnd,
    /// They are in the last part.
    InOwn,
    /// The name of the module that it belongs to ends with them; a parameter that is called by no field's name, such
    /// as `weight`, counts as a module.
    ModuleEnd,
    /// They are in that module's own name.
    InModule,
}

/// Which shapes a sign is about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dims {
    Any,
    /// At most one dimension is longer than 1.
    Vector,
    /// Two dimensions.
    Table,
    /// Two dimensions or more.
    Matrix,
}

struct Sign(Role, Place, Dims, &'static [&'static str]);

/// The first sign that a tensor bears tells its role. Words are in lower case, taken apart at points, underscores,
/// digits and capitals: `lm_head`, `lmHead` and `lm.head` are `lm head`.
static SIGNS: &[Sign] = &[
    Sign(
        Role::TrainerState,
        Place::Start,
        Dims::Any,
        &[
            "callbacks",
            "callback",
            "loops",
            "lr scheduler",
            "lr schedulers",
            "scheduler",
            "schedulers",
            "scaler",
            "grad scaler",
            "amp",
            "hparams",
            "hyper parameters",
            "args",
            "rng",
            "random",
            "metrics",
            "history",
            "best",
            "epoch",
            "global step",
            "step",
            "training state",
            "trainer state",
            "sampler",
            "dataloader",
            "loss",
            "losses",
        ],
    ),
    Sign(Role::Observer, Place::Path, Dims::Any, &["activation post process", "fake quant", "observer"]),
    Sign(Role::Observer, Place::Own, Dims::Any, &["min val", "max val"]),
    Sign(
        Role::Index,
        Place::OwnEnd,
        Dims::Any,
        &[
            "g idx",
            "weight shape",
            "position ids",
            "relative position index",
            "relative coords",
            "token type ids",
            "indices",
            "index",
            "bitsandbytes nf 4",
            "bitsandbytes fp 4",
            "quantization version",
        ],
    ),
    Sign(Role::ZeroPoint, Place::OwnEnd, Dims::Any, &["qzeros", "zero point", "zero points"]),
    Sign(
        Role::Scale,
        Place::OwnEnd,
        Dims::Any,
        &[
            "scales",
            "weight scale",
            "weight scale inv",
            "weight scale 2",
            "global scale",
            "input scale",
            "output scale",
            "activation scale",
            "k scale",
            "v scale",
            "q scale",
            "qscale weight",
            "qscale act",
            "absmax",
            "scb",
        ],
    ),
    Sign(Role::Codes, Place::Own, Dims::Any, &["qweight", "weight packed"]),
    Sign(Role::Codes, Place::OwnEnd, Dims::Any, &["proj blocks"]),
    Sign(
        Role::Codebook,
        Place::OwnEnd,
        Dims::Any,
        &["quant map", "codebook", "codebooks", "embed avg", "embed sum"],
    ),
    Sign(Role::Codebook, Place::Path, Dims::Table, &["codebook embed", "codebooks embed"]),
    Sign(Role::Codebook, Place::ModuleEnd, Dims::Any, &["codebook", "codebooks"]),
    Sign(
        Role::Count,
        Place::OwnEnd,
        Dims::Any,
        &["num batches tracked", "cluster size", "cluster usage", "inited", "initialized", "num updates"],
    ),
    Sign(Role::RunningMean, Place::Own, Dims::Any, &["running mean", "moving mean"]),
    Sign(Role::RunningVariance, Place::Own, Dims::Any, &["running var", "moving variance", "moving var"]),
    Sign(Role::Mask, Place::OwnEnd, Dims::Any, &["mask", "masked bias", "tril", "causal"]),
    Sign(
        Role::Cache,
        Place::OwnEnd,
        Dims::Any,
        &[
            "inv freq",
            "cos cached",
            "sin cached",
            "freqs cis",
            "k cache",
            "v cache",
            "kv cache",
            "freqs",
            "rope factors long",
            "rope factors short",
            "window",
            "mel filters",
            "window function",
        ],
    ),
    Sign(Role::Cache, Place::ModuleEnd, Dims::Vector, &["rope freqs"]),
    Sign(Role::LoraA, Place::Path, Dims::Matrix, &["lora a", "lora down", "lora embedding a"]),
    Sign(Role::LoraB, Place::Path, Dims::Matrix, &["lora b", "lora up", "lora embedding b"]),
    Sign(
        Role::LayerScale,
        Place::OwnEnd,
        Dims::Vector,
        &[
            "gamma 1",
            "gamma 2",
            "gamma 3",
            "lambda 1",
            "lambda 2",
            "magnitude vector",
            "logit scale",
            "logit bias",
            "layer scale",
            "layerscale",
            "resid scale",
            "alpha",
            "temperature",
        ],
    ),
    Sign(Role::LayerScale, Place::Own, Dims::Any, &["a log", "a logs", "ds", "dt bias"]),
    Sign(Role::LayerScale, Place::InModule, Dims::Vector, &["layer scale", "layerscale"]),
    Sign(Role::LayerScale, Place::ModuleEnd, Dims::Vector, &["ls", "ls 1", "ls 2"]),
    Sign(Role::Bias, Place::OwnEnd, Dims::Any, &["bias", "beta", "biases", "bias u", "bias v"]),
    Sign(Role::Bias, Place::InOwn, Dims::Any, &["bias ih", "bias hh"]),
    Sign(
        Role::Positional,
        Place::ModuleEnd,
        Dims::Any,
        &[
            "pos embed",
            "pos embedding",
            "pos embeddings",
            "position embed",
            "position embedding",
            "position embeddings",
            "positional embed",
            "positional embedding",
            "positional embeddings",
            "positional encoding",
            "pos encoding",
            "pos emb",
            "pe",
            "wpe",
            "embed positions",
            "relative attention bias",
            "relative position bias table",
            "relative position bias",
            "rel pos",
            "rel pos h",
            "rel pos w",
            "rel pos bias",
            "relative position",
            "rel embeddings",
            "position bias",
            "time decay",
            "distance embedding",
            "pos embed spatial",
            "pos embed temporal",
            "pos embed class",
            "row embeddings",
            "column embeddings",
            "positional",
            "pos conv embed",
            "position embd",
        ],
    ),
    Sign(
        Role::NormGain,
        Place::InModule,
        Dims::Vector,
        &["norm", "layernorm", "batchnorm", "groupnorm", "rmsnorm", "ln", "bn", "gn", "layer normalization"],
    ),
    Sign(
        Role::Router,
        Place::ModuleEnd,
        Dims::Matrix,
        &["router", "switch", "router classifier", "gate inp"],
    ),
    Sign(
        Role::Embedding,
        Place::ModuleEnd,
        Dims::Table,
        &[
            "embed tokens",
            "wte",
            "embedding",
            "embeddings",
            "embed",
            "emb",
            "embeds",
            "tok embeddings",
            "token embd",
            "word embeddings",
            "shared",
            "token type embeddings",
            "embed in",
            "word embedding",
            "token embedding",
        ],
    ),
    Sign(
        Role::Head,
        Place::ModuleEnd,
        Dims::Matrix,
        &["lm head", "embed out", "head", "classifier", "output projection", "score", "logits"],
    ),
];

/// Words of modules whose weights begin at zero, whatever happens to them later: modulation by adaLN-Zero, the zero
/// convolutions of ControlNet, the last layer of a diffusion network, RWKV's projections, and what moves a detector's boxes
/// and a deformable attention's points.
static ZERO_AT_FIRST: &[&str] = &[
    "ada ln",
    "adaln",
    "adaln modulation",
    "modulation",
    "zero conv",
    "zero convs",
    "controlnet down blocks",
    "controlnet mid block",
    "controlnet blocks",
    "cond embedding conv out",
    "final layer linear",
    "conv out",
    "proj out",
    "zero module",
    "zero linear",
    "att key",
    "att receptance",
    "att output",
    "ffn value",
    "ffn receptance",
    "ada norm",
    "time maa w 1",
    "time decay w 1",
    "lokr w 2",
    "hada w 2 a",
    "img attn gate",
    "attn gate",
    "mlp gate",
    "bbox embed",
    "bbox head",
    "bbox predictor",
    "sampling offsets",
    "attention weights",
];

/// Words that the last projection of a residual branch goes by.
static LAST_OF_BRANCH: &[&str] = &[
    "c proj",
    "out proj",
    "o proj",
    "down proj",
    "fc 2",
    "proj",
    "output dense",
    "wo",
    "dense 4 h to h",
    "linear 2",
    "lin 2",
    "w 2",
    "attn output",
    "ffn down",
    "to out",
    "dense",
    "attn out",
    "ff out",
    "fc out",
];

/// Last parts of names that say no more than that it is the module's weight.
const FIELDS: [&str; 9] =
    ["weight", "bias", "kernel", "w", "scale", "gamma", "beta", "embedding", "weight_orig"];

/// Words of parameters without a module that are matrices.
const WEIGHTS: [&str; 9] =
    ["weight", "kernel", "proj", "projection", "qkv", "weights", "matrix", "linear", "original 1"];

/// A name taken apart into words.
struct Words {
    /// Of every part; begins and ends with a space, as the others do.
    path: String,
    own: String,
    module: String,
}

fn push_words(text: &str, into: &mut String) {
    let mut last = ' ';
    for c in text.chars() {
        let turns = c.is_ascii_digit() != last.is_ascii_digit() || (c.is_uppercase() && last.is_lowercase());
        if (!c.is_alphanumeric() || turns) && !into.ends_with(' ') {
            into.push(' ');
        }
        if c.is_alphanumeric() {
            into.extend(c.to_lowercase());
        }
        last = c;
    }
    if !into.ends_with(' ') {
        into.push(' ');
    }
}

fn words(text: &str) -> String {
    let mut words = String::from(" ");
    push_words(text, &mut words);
    words
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

impl Words {
    fn of(name: &str) -> Words {
        let (before, last) = name.rsplit_once(['.', '/']).unwrap_or(("", name));
        let module = match FIELDS.contains(&last) {
            true => {
                before.rsplit(['.', '/']).find(|part| !is_number(part) && *part != "default").unwrap_or(last)
            }
            false => last,
        };
        Words { path: words(name), own: words(last), module: words(module) }
    }

    fn bear(&self, place: Place, phrase: &str) -> bool {
        let begins = |text: &str| text[1..].strip_prefix(phrase).is_some_and(|rest| rest.starts_with(' '));
        let ends =
            |text: &str| text[..text.len() - 1].strip_suffix(phrase).is_some_and(|rest| rest.ends_with(' '));
        match place {
            Place::Start => begins(&self.path),
            Place::Path => holds(&self.path, phrase),
            Place::Own => self.own.len() == phrase.len() + 2 && begins(&self.own),
            Place::OwnEnd => ends(&self.own),
            Place::InOwn => holds(&self.own, phrase),
            Place::ModuleEnd => ends(&self.module),
            Place::InModule => holds(&self.module, phrase),
        }
    }
}

/// Whether `phrase` is in `text`, as whole words.
fn holds(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase)
        .any(|(at, _)| text[..at].ends_with(' ') && text[at + phrase.len()..].starts_with(' '))
}

/// Whether the weights of the module that `name` is of begin at zero by design.
pub fn is_zero_at_first(name: &str) -> bool {
    let path = words(name);
    ZERO_AT_FIRST.iter().any(|phrase| holds(&path, phrase))
}

/// Whether `name` is that of the last projection of a residual branch, which many networks let begin at zero.
pub fn is_last_of_branch(name: &str) -> bool {
    let words = Words::of(name);
    LAST_OF_BRANCH.iter().any(|phrase| words.module.trim() == *phrase)
        || words.path.trim_end().trim_end_matches(" weight").ends_with(" output dense")
}

/// The same weight in every layer and every expert: `name` with its numbered parts replaced by `*`.
pub fn family(name: &str) -> String {
    let mut family = String::with_capacity(name.len());
    for part in name.split('.') {
        if !family.is_empty() {
            family.push('.');
        }
        family.push_str(if is_number(part) { "*" } else { part });
    }
    family
}

/// The first number in `name`, which is its layer's or block's.
pub fn layer(name: &str) -> Option<u64> {
    name.split('.').find(|part| is_number(part))?.parse().ok()
}

/// Which expert of its layer `name` is of.
pub fn expert(name: &str) -> Option<u64> {
    let mut parts = name.split('.');
    parts.find(|part| matches!(*part, "experts" | "expert"))?;
    parts.next().filter(|part| is_number(part))?.parse().ok()
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
        Dims::Vector => vector,
        Dims::Table => shape.len() == 2,
        Dims::Matrix => shape.len() >= 2,
    };
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
    let is_weight =
        is_field || WEIGHTS.iter().any(|word| holds(&words.own, word)) || tensor.name.contains("experts.");
    match shape.len() {
        0 => Role::LayerScale,
        1 if is_field => Role::NormGain,
        _ if vector || !is_weight => Role::Unknown,
        2 => Role::Matrix,
        3 if !is_field && !words.own.contains(" kernel ") => Role::Matrix,
        _ => Role::Convolution,
    }
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
            let scale = ["weight_scale", "weight_scale_inv", "qscale_weight"];
            if scale.iter().any(|scale| names.contains(format!("{module}.{scale}").as_str())) {
                *role = Role::Codes;
            }
        }
    }
    roles
}

fn is_float8(dtype: DType) -> bool {
    matches!(dtype, DType::F8E4M3FN | DType::F8E5M2 | DType::F8E4M3FNUZ | DType::F8E5M2FNUZ)
}

/// Whether the last part of `name` is what modules call their weights and biases.
pub fn is_field(name: &str) -> bool {
    FIELDS.contains(&name.rsplit('.').next().unwrap_or(name))
}

/// Whether `name` is that of a weight of which only the direction counts: under weight normalization.
pub fn is_weight_normed(name: &str) -> bool {
    name.ends_with("weight_v") || name.contains(".parametrizations.") || name.ends_with("weight_orig")
}

/// Tensors by family.
pub fn families<'n>(names: impl Iterator<Item = &'n str>) -> HashMap<String, Vec<usize>> {
    let mut families: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, name) in names.enumerate() {
        families.entry(family(name)).or_default().push(i);
    }
    families
}
