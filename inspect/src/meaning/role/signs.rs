//! The field's habits of naming, a line each: which words in a name, and which shape, tell a role.

use super::Role;
use crate::meaning::scheme::names::SCALES_IN_WORDS;

/// Where in a name words are looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
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
pub(super) enum Dims {
    Any,
    /// One element.
    Number,
    /// At most one dimension is longer than 1.
    Vector,
    /// Two dimensions.
    Table,
    /// Two dimensions or more.
    Matrix,
}

pub(super) struct Sign(
    pub(super) Role,
    pub(super) Place,
    pub(super) Dims,
    pub(super) &'static [&'static str],
);

/// The first sign that a tensor bears tells its role. Words are in lower case, taken apart at points, underscores,
/// digits and capitals: `lm_head`, `lmHead` and `lm.head` are `lm head`.
pub(super) static SIGNS: &[Sign] = &[
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
            "training state",
            "trainer state",
            "dataloader",
            "grads",
            "gradients",
        ],
    ),
    // A loss may have matrices of its own, and a whole network may be kept as the best one.
    Sign(
        Role::TrainerState,
        Place::Start,
        Dims::Vector,
        &[
            "metrics",
            "history",
            "epoch",
            "global step",
            "step",
            "sampler",
            "loss",
            "losses",
            "best score",
            "best scores",
            "best loss",
            "best losses",
            "best metric",
            "best metrics",
        ],
    ),
    Sign(Role::TrainerState, Place::Start, Dims::Number, &["best"]),
    Sign(Role::Observer, Place::Path, Dims::Any, &["activation post process", "fake quant", "observer"]),
    Sign(
        Role::Observer,
        Place::Own,
        Dims::Any,
        &["min val", "max val", "input min", "input max", "output min", "output max"],
    ),
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
            "in accs",
            "n averaged",
        ],
    ),
    Sign(Role::ZeroPoint, Place::OwnEnd, Dims::Any, &["qzeros", "zero point", "zero points"]),
    Sign(Role::Scale, Place::OwnEnd, Dims::Any, &SCALES_IN_WORDS),
    Sign(Role::Codes, Place::Own, Dims::Any, &["qweight", "weight packed"]),
    Sign(Role::Codes, Place::OwnEnd, Dims::Any, &["proj blocks"]),
    Sign(
        Role::Codebook,
        Place::OwnEnd,
        Dims::Any,
        &["quant map", "codebook", "codebooks", "embed avg", "embed sum"],
    ),
    Sign(Role::Codebook, Place::Path, Dims::Matrix, &["codebook embed", "codebooks embed"]),
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
    // GPyTorch keeps the bounds of a constraint beside its value.
    Sign(Role::Mask, Place::Path, Dims::Number, &["constraint lower bound", "constraint upper bound"]),
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
            "weight integer",
            "bias integer",
        ],
    ),
    Sign(Role::Cache, Place::ModuleEnd, Dims::Vector, &["rope freqs"]),
    // Edges of the bins that values are sorted into; the outer ones may be infinite.
    Sign(
        Role::Cache,
        Place::Own,
        Dims::Vector,
        &["bins", "bin edges", "boundaries", "bin boundaries", "quantiles", "thresholds"],
    ),
    Sign(Role::LoraA, Place::Path, Dims::Matrix, &["lora a", "lora down", "lora embedding a", "hada w 1"]),
    // LyCORIS begins with the second factors at zero, and PEFT with some of the first.
    Sign(
        Role::LoraB,
        Place::Path,
        Dims::Matrix,
        &[
            "lora b",
            "lora up",
            "lora embedding b",
            "lora latent mapping",
            "oft r",
            "hada w 2",
            "lokr w 1",
            "lokr w 2",
        ],
    ),
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
            // Under weight normalization, how long each direction is.
            "weight g",
            "original 0",
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
        &[
            "norm",
            "layernorm",
            "batchnorm",
            "groupnorm",
            "rmsnorm",
            "rms",
            "ln",
            "bn",
            "gn",
            "layer normalization",
        ],
    ),
    Sign(
        Role::Router,
        Place::ModuleEnd,
        Dims::Matrix,
        &["router", "switch", "router classifier", "gate inp"],
    ),
    Sign(Role::Router, Place::Path, Dims::Matrix, &["router gate weight"]),
    // Spreads of weights that are random variables, and the numbers drawn for them.
    Sign(
        Role::Unknown,
        Place::OwnEnd,
        Dims::Any,
        &[
            "weight sigma",
            "weight epsilon",
            "weight rho",
            "weight log sigma",
            "weight logvar",
            "weight log var",
            "weight std",
        ],
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
            "hash tables",
            "hash table",
            "hash grid",
            "tables",
            "factors",
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
pub(super) static ZERO_AT_FIRST: &[&str] = &[
    "ada ln",
    "adaln",
    "adaln modulation",
    "modulation",
    "zero conv",
    "zero convs",
    "middle block out",
    "controlnet down blocks",
    "controlnet mid block",
    "controlnet blocks",
    "controlnet single blocks",
    "controlnet x embedder",
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
    "lokr w 1",
    "lokr w 2",
    "hada w 2",
    "lora embedding a",
    "img attn gate",
    "attn gate",
    "mlp gate",
    "bbox embed",
    "bbox head",
    "bbox predictor",
    "sampling offsets",
    "igate",
    "fgate",
    "attention weights",
];

/// Words that the modules of last layers are called by, or end with.
pub(super) static ENDS: &[&str] = &[
    "out",
    "output",
    "final",
    "last",
    "logits",
    "pred",
    "prediction",
    "predictions",
    "predictor",
    "readout",
    "mu",
    "mean",
    "logvar",
    "log var",
    "log std",
    "actor",
    "policy",
    "action",
    "action net",
    "actor mean",
    "critic",
    "value",
    "value net",
    "head",
    "heads",
    "offset",
    "offsets",
    "delta",
    "warp",
    "rgb",
    "density",
    "sigma",
    "end",
    "post",
    "output projection",
    "output layer",
    "final layer",
    "last layer",
    "out conv",
    "output conv",
    "conv out",
    "conv last",
    "last conv",
];

/// Those of them that many networks let begin at zero, so that they begin by saying nothing.
pub(super) static OUTLETS: &[&str] = &[
    "out",
    "output",
    "output projection",
    "output layer",
    "out layer",
    "final",
    "final layer",
    "final conv",
    "final linear",
    "final proj",
    "final projection",
    "last",
    "last layer",
    "last conv",
    "last linear",
    "end",
    "post",
    "to rgb",
    // Of skip-gram, as word2vec itself begins.
    "out embed",
    "out embedding",
    "out embeddings",
    "output embedding",
    "output embeddings",
];

/// Words that the modules of attention and MLPs are called by, which no layer of their kind does without.
pub(super) static ESSENTIAL: &[&str] = &[
    "q proj",
    "k proj",
    "v proj",
    "o proj",
    "qkv",
    "qkv proj",
    "query",
    "key",
    "value",
    "query key value",
    "c attn",
    "c proj",
    "c fc",
    "attn q",
    "attn k",
    "attn v",
    "attn output",
    "attn qkv",
    "ffn up",
    "ffn down",
    "ffn gate",
    "up proj",
    "down proj",
    "gate proj",
    "gate up proj",
    "fc 1",
    "fc 2",
    "wq",
    "wk",
    "wv",
    "wo",
    "w 1",
    "w 2",
    "w 3",
    "dense h to 4 h",
    "dense 4 h to h",
    "linear 1",
    "linear 2",
    "in proj",
    "out proj",
];

/// Last parts of names that say no more than that it is the module's weight.
pub(super) const FIELDS: [&str; 9] =
    ["weight", "bias", "kernel", "w", "scale", "gamma", "beta", "embedding", "weight_orig"];

/// Words of parameters without a module that are matrices.
pub(super) const WEIGHTS: [&str; 10] =
    ["coefs", "weight", "kernel", "proj", "projection", "qkv", "weights", "matrix", "linear", "original"];

/// Matrices that are called by a capital letter and what they are for, and modules that they are in, or any: those of
/// TransformerLens and SAELens, and of networks written as formulas are.
pub(super) static CAPITALS: &[(&str, Option<&str>, Role)] = &[
    ("W_Q", None, Role::Matrix),
    ("W_K", None, Role::Matrix),
    ("W_V", None, Role::Matrix),
    ("W_O", None, Role::Matrix),
    ("_W_K", None, Role::Matrix),
    ("_W_V", None, Role::Matrix),
    ("W_in", Some("mlp"), Role::Matrix),
    ("W_gate", Some("mlp"), Role::Matrix),
    ("W_out", Some("mlp"), Role::Matrix),
    ("W_E", Some("embed"), Role::Embedding),
    ("W_pos", None, Role::Positional),
    ("W_U", Some("unembed"), Role::Head),
    ("W_enc", None, Role::Matrix),
    ("W_dec", None, Role::Matrix),
    ("W1", None, Role::Matrix),
    ("W2", None, Role::Matrix),
    ("W3", None, Role::Matrix),
];

/// What attention's matrices are called where a letter is all.
pub(super) const ATTENTION: [&str; 5] = [" q ", " k ", " v ", " o ", " r "];

/// What matrices are called that hold those of queries, keys and values.
pub(super) static FUSED: &[&str] = &["qkv", "qkv proj", "query key value", "c attn", "in proj", "linear 1"];

/// What tables of places are called that are drawn at random.
pub(super) static PLACES: &[&str] = &["wpe", "position embeddings", "embed positions"];

/// Words of tables that have a row for each token of the vocabulary, and those that say that it is of other things.
pub(super) const TOKENS: [&str; 9] =
    ["tok", "token", "tokens", "word", "words", "wte", "shared", "embed in", "vocab"];
pub(super) const NOT_OF_TOKENS: [&str; 8] =
    ["type", "mask", "cls", "task", "special", "patch", "pos", "position"];
