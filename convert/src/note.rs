//! What a copy loses, and which options would change that.

use std::fmt;

use ckpt_inspect::DType;
use ckpt_inspect::meaning::{Assumption, ConfigError};
use ckpt_inspect::vocabulary::Warning;

use crate::complete::Lacks;
use crate::quant::Quant;

/// Something about a planned copy that its user should know. As text it is a sentence.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// No tensor's name matches a pattern of [`Options::dtypes`](crate::Options::dtypes).
    UnmatchedType {
        /// The pattern.
        pattern: String,
        /// The type that it was to give.
        dtype: DType,
    },
    /// No matrix's name matches [`Options::ternary`](crate::Options::ternary).
    UnmatchedTernary {
        /// The pattern.
        pattern: String,
    },
    /// Tensors are left out.
    LeftOut {
        /// How many.
        count: usize,
        /// The name of the first.
        first: String,
        /// Why.
        why: Omission,
    },
    /// Files that a trainer keeps beside a model and its optimizer are left out: they hold objects of Python.
    LeftBeside {
        /// Their names, without endings.
        names: Vec<String>,
    },
    /// The moving average of the weights, which is saved beside them, is left out.
    AverageLeftOut {
        /// The key of the weights.
        network: String,
        /// The key of the average.
        average: String,
    },
    /// Values other than tensors are left out.
    MetadataLost,
    /// What the keys of a GGUF source say about the model is left out.
    GgufKeysLost,
    /// The model lacks tensors that its configuration asks for, or has them in other shapes.
    Incomplete(Lacks),
    /// The model is not recognised for this reason, so the folder has no config.json.
    NoConfig(ConfigError),
    /// The model is not recognised, so the GGUF file names no architecture.
    UnknownArchitecture,
    /// These parts of the model's configuration were assumed.
    Assumed(Assumption),
    /// Ternary matrices are stored as codes times a scale, which only the configuration says.
    TernaryForm,
    /// Matrices are not packed, because their rows do not fit the packing.
    Unpacked {
        /// How many.
        count: usize,
    },
    /// The float weights of matrices are rounded to ternary values.
    Rounded {
        /// How many.
        count: usize,
        /// Whether the model's BitLinear layers round them in the same way.
        as_in_training: bool,
    },
    /// The model scales each row, and the copy each matrix.
    RowScalesLost,
    /// Matrices of the source have no scale, and the copy has 1.
    Unscaled {
        /// How many.
        count: usize,
    },
    /// Packed matrices of the source have no scale, and become -1, 0 and +1 themselves.
    BareCodes {
        /// How many.
        count: usize,
    },
    /// Quantized weights are divided by a factor in the source and multiplied by it in the copy.
    Reciprocals {
        /// How many.
        count: usize,
    },
    /// The packing has no place for scales.
    ScalesLost,
    /// Tensors are written in other types, because their rows do not fill the blocks asked for.
    Misfits {
        /// How many.
        count: usize,
        /// The name of the first.
        first: String,
        /// The type asked for.
        quant: Quant,
        /// The type of the first.
        instead: Quant,
    },
    /// Matrices are written as F16, because they are not ternary.
    NotTernary {
        /// How many.
        count: usize,
    },
    /// F16 cannot represent the scales of ternary matrices exactly, or at all.
    InexactScales {
        /// How many.
        count: usize,
        /// The name of the first matrix.
        first: String,
        /// Its scale.
        scale: f32,
        /// Whether the rows of some do not fill the blocks asked for.
        misfits: bool,
    },
    /// Something about the tokenizer that is embedded.
    Tokenizer(Warning),
    /// There is no tokenizer next to the source.
    NoTokenizer {
        /// Whether it would be embedded in the output, instead of copied next to it.
        embedded: bool,
    },
    /// The vocabulary of a GGUF file is of a kind of which no tokenizer.json is made.
    TokenizerNotWritten {
        /// The kind, by llama.cpp's name.
        kind: String,
    },
    /// The vocabulary of a GGUF file cannot be read.
    TokenizerUnreadable {
        /// What is wrong with it.
        error: String,
    },
    /// How a GGUF file's vocabulary splits text is not known, so tokenizer.json has llama.cpp's default.
    UnknownPreTokenizer {
        /// The pre-tokenizer, by llama.cpp's name; empty if it has none.
        name: String,
    },
    /// A file next to the source is copied, although it is not valid JSON.
    InvalidJson {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        error: String,
    },
    /// A file next to the source is not copied, because it is too large or not a regular file.
    NotCopied {
        /// Its name.
        name: &'static str,
        /// The most bytes that are copied.
        limit: u64,
    },
    /// llama.cpp does not read where YaRN's passage between kept and divided wavelengths lies, and has the usual place.
    YarnBounds {
        /// The architecture in GGUF.
        architecture: String,
    },
    /// Not every version of llama.cpp reads these biases in models of the architecture.
    Biases {
        /// How many.
        count: usize,
        /// The architecture in GGUF.
        architecture: String,
    },
    /// llama.cpp reads no sliding window in models of the architecture.
    SlidingWindow {
        /// Positions that attention sees.
        window: usize,
        /// The architecture in GGUF.
        architecture: String,
    },
    /// llama.cpp chooses the divisors for long texts by the context that is asked for.
    LongTexts {
        /// Positions up to which the divisors for short texts hold.
        original: usize,
    },
    /// config.json cannot express the divisors of rotary frequencies that the source has.
    RopeFactors,
    /// The copy's readers do not apply soft caps.
    SoftCaps {
        /// What is capped, and at what.
        caps: Vec<(&'static str, f64)>,
        /// The GGUF architecture; `None` for Hugging Face's config.json.
        architecture: Option<String>,
    },
    /// config.json cannot express BitLinear.
    BitLinearLost,
    /// Other programs do not round activations as BitLinear does.
    Activations,
    /// Tensors are larger than the size asked for a file.
    LargeTensors {
        /// How many.
        count: usize,
        /// The name of the first.
        first: String,
        /// The size asked for.
        limit: u64,
    },
    /// Values are beyond the range of the type written.
    OutOfRange {
        /// The type.
        dtype: DType,
        /// How many tensors have such values.
        tensors: u64,
        /// How many tensors there are.
        of: usize,
        /// Values that became infinite.
        infinite: u64,
        /// Values that became zero.
        zero: u64,
    },
}

/// Why a tensor is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Omission {
    /// It was saved without data.
    NoData,
    /// GGUF has no name for it.
    NoName,
    /// It scales activations or caches of a quantized model, which the copy is not.
    NoCodes,
}

/// An option that would make a conversion possible, or keep more of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Another [`Target`](crate::Target), by its name.
    Target(&'static str),
    /// A type in [`Options::dtypes`](crate::Options::dtypes) for tensors that match a pattern.
    Type(&'static str, DType),
    /// [`Options::root`](crate::Options::root).
    Root,
    /// [`Options::max_shard_bytes`](crate::Options::max_shard_bytes).
    ShardSize,
    /// [`Options::ternary`](crate::Options::ternary), with an example of a pattern.
    Ternary(&'static str),
    /// [`Options::tokenizer`](crate::Options::tokenizer).
    Tokenizer,
    /// The packed form of a Hugging Face folder.
    Packed,
    /// Another [`Gguf::quant`](crate::Gguf::quant); one of those named, if any.
    Quant(&'static [Quant]),
    /// [`Gguf::exact_scales`](crate::Gguf::exact_scales), or one of these types.
    ExactScales(&'static [Quant]),
    /// [`Options::allow_incomplete`](crate::Options::allow_incomplete).
    AllowIncomplete,
}

impl Note {
    /// The option that would help, if there is one.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Note::AverageLeftOut { .. } => Some(Remedy::Root),
            Note::MetadataLost => Some(Remedy::Target("safetensors")),
            Note::GgufKeysLost => Some(Remedy::Target("hf")),
            Note::NoTokenizer { embedded: true } => Some(Remedy::Tokenizer),
            Note::BitLinearLost => Some(Remedy::Packed),
            Note::InexactScales { misfits: false, .. } => Some(Remedy::ExactScales(&[Quant::I2S])),
            Note::InexactScales { misfits: true, .. } => Some(Remedy::Quant(&[Quant::F32, Quant::BF16])),
            _ => None,
        }
    }
}

/// `1 matrix is`, `2 matrices are`.
fn are(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one} is") } else { format!("{n} {many} are") }
}

/// `1 matrix has`, `2 matrices have`.
fn have(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one} has") } else { format!("{n} {many} have") }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let matrices = |n: &usize| are(*n, "matrix", "matrices");
        match self {
            Note::UnmatchedType { pattern, dtype } => write!(
                f,
                "no tensor of the output matches the pattern '{}', so none becomes {dtype} by it",
                pattern.escape_debug()
            ),
            Note::UnmatchedTernary { pattern } => write!(
                f,
                "no matrix of the output matches the pattern '{}', so none is made ternary",
                pattern.escape_debug()
            ),
            Note::LeftOut { count, first, why } => {
                let left_out = are(*count, "tensor", "tensors");
                let why = match why {
                    Omission::NoData => "saved without data",
                    Omission::NoName => "without a name in GGUF",
                    Omission::NoCodes => "a scale of activations or caches, which only the quantized model has",
                };
                write!(f, "{left_out} left out, such as `{}`: {why}", first.escape_debug())
            }
            Note::LeftBeside { names } => write!(
                f,
                "{} left out: random states and other objects of Python are not copied from files beside the model",
                names.iter().map(|name| format!("`{}`", name.escape_debug())).collect::<Vec<_>>().join(", ")
            ),
            Note::AverageLeftOut { network, average } => write!(
                f,
                "the weights in `{}` are written, and not their moving average in `{}`",
                network.escape_debug(),
                average.escape_debug()
            ),
            Note::MetadataLost => f.write_str(
                "values other than tensors, such as config and step, are left out: an archive of arrays has no place for them",
            ),
            Note::GgufKeysLost => f.write_str(
                "the model's GGUF keys are left out: this format has no place for them",
            ),
            Note::Incomplete(lacks) => {
                write!(f, "the model is incomplete, and other programs will not load it: {lacks}")
            }
            Note::NoConfig(why) => {
                match why {
                    ConfigError::Unknown => f.write_str("the model is not recognised")?,
                    why => why.fmt(f)?,
                }
                f.write_str(", so the folder has no config.json: add the model's own")
            }
            Note::UnknownArchitecture => f.write_str(
                "the model is not recognised: tensors keep their names and types, the architecture is `unknown`, and other programs will not load the file",
            ),
            Note::Assumed(what) => what.fmt(f),
            Note::TernaryForm => f.write_str(
                "BitLinear matrices are stored as ternary codes times a scale, which the config records as `latent: false`; trainers other than ckpt's ignore that and would make them ternary again, with mean|W| as their scale",
            ),
            Note::Unpacked { count } => {
                write!(f, "{} not packed: the packing needs rows in multiples of 4", matrices(count))
            }
            Note::Rounded { count, as_in_training } => {
                let rounded = matrices(count);
                let how = if *as_in_training { ", as BitLinear does in every forward pass" } else { "" };
                write!(
                    f,
                    "{rounded} rounded to -1, 0, +1 times mean|W|{how}; the float weights cannot be recovered from the copy"
                )
            }
            Note::RowScalesLost => f.write_str("the model has a scale per row, and the copy one per matrix"),
            Note::Unscaled { count } => {
                let have = have(*count, "source matrix", "source matrices");
                write!(f, "{have} no scale; the copy has a scale of 1")
            }
            Note::BareCodes { count } => {
                let have = have(*count, "packed source matrix", "packed source matrices");
                write!(f, "{have} no scale; the copy has -1, 0 and +1 themselves")
            }
            Note::Reciprocals { count } => {
                let are = are(*count, "weight", "weights");
                write!(
                    f,
                    "{are} divided by a global scale, and multiplied in the copy, by the nearest f32 to its reciprocal: codes and scales of groups are the same"
                )
            }
            Note::ScalesLost => {
                f.write_str("this form stores codes only: the scales of all packed matrices are lost")
            }
            Note::Misfits { count, first, quant, instead } => {
                let rows = if *count == 1 { "its rows are" } else { "their rows are" };
                write!(
                    f,
                    "{} not written as {quant}, such as `{}`, which becomes {instead}: {rows} not a multiple of the {} elements of a {quant} block",
                    are(*count, "tensor", "tensors"),
                    first.escape_debug(),
                    quant.block()
                )
            }
            Note::NotTernary { count } => {
                write!(f, "{} written as f16: no BitLinear layer uses them as ternary", matrices(count))
            }
            Note::InexactScales { count, first, scale, .. } => write!(
                f,
                "{} scales that f16 cannot represent well, such as {scale:e} of `{}`",
                have(*count, "matrix", "matrices"),
                first.escape_debug()
            ),
            Note::Tokenizer(warning) => write!(f, "tokenizer: {warning}"),
            Note::NoTokenizer { embedded: true } => f.write_str(
                "there is no tokenizer next to the source, so the file works with token ids only",
            ),
            Note::NoTokenizer { embedded: false } => {
                f.write_str("there is no tokenizer next to the source, so the folder has none")
            }
            Note::TokenizerNotWritten { kind } => write!(
                f,
                "its vocabulary is of the kind `{}`, for which no tokenizer.json is written: the folder has no tokenizer",
                kind.escape_debug()
            ),
            Note::TokenizerUnreadable { error } => {
                write!(f, "its vocabulary cannot be read, so no tokenizer is written: {}", error.escape_debug())
            }
            Note::UnknownPreTokenizer { name } => write!(
                f,
                "its pre-tokenizer (`{}`) is unknown: tokenizer.json splits text by llama.cpp's default rule, and text may get other ids than in training",
                name.escape_debug()
            ),
            Note::InvalidJson { name, error } => write!(
                f,
                "`{name}` next to the source is not valid JSON ({error}); it is copied as it is, but nothing will load it"
            ),
            Note::NotCopied { name, limit } => write!(
                f,
                "`{name}` next to the source is not copied: it is a folder or the like, or larger than {limit} bytes"
            ),
            Note::YarnBounds { architecture } => write!(
                f,
                "its YaRN has bounds of its own (beta_fast, beta_slow), which llama.cpp does not read in {architecture} models: long texts will differ there"
            ),
            Note::Biases { count, architecture } => write!(
                f,
                "the model has {count} {}, which not every llama.cpp reads in {architecture} models: one that does not refuses the file",
                if *count == 1 { "bias" } else { "biases" }
            ),
            Note::SlidingWindow { window, architecture } => write!(
                f,
                "its attention sees {window} positions, and llama.cpp reads no window in {architecture} models: longer texts will differ there"
            ),
            Note::LongTexts { original } => write!(
                f,
                "llama.cpp chooses between the divisors for long and for short texts by the size of the context it is started with (longer than {original} positions or not), not by the length of the text: results can differ"
            ),
            Note::RopeFactors => f.write_str(
                "the divisors of its rotary frequencies do not follow Llama 3's rule, and config.json cannot express other ones",
            ),
            Note::SoftCaps { caps, architecture } => {
                let caps: Vec<String> = caps.iter().map(|(what, cap)| format!("{what} at {cap}")).collect();
                let caps = caps.join(", ");
                match architecture {
                    Some(name) => write!(
                        f,
                        "the soft caps ({caps}) are in the file for ckpt; llama.cpp does not apply them in {name} models"
                    ),
                    None => write!(
                        f,
                        "config.json cannot express the soft caps ({caps}); transformers will not apply them"
                    ),
                }
            }
            Note::BitLinearLost => f.write_str(
                "config.json cannot express BitLinear: transformers will multiply with the float weights and not quantize activations; the packed form keeps the ternary weights",
            ),
            Note::Activations => f.write_str(
                "BitLinear rounds activations to 8 bits with a scale per token; other programs round them differently or not at all",
            ),
            Note::LargeTensors { count, first, limit } => write!(
                f,
                "{} larger than the requested {limit} bytes, such as `{}`: each gets a file of its own",
                are(*count, "tensor", "tensors"),
                first.escape_debug()
            ),
            Note::OutOfRange { dtype, tensors, of, infinite, zero } => {
                let plural = if *of == 1 { "" } else { "s" };
                write!(f, "values beyond the range of {dtype}, in {tensors} of {of} tensor{plural}: ")?;
                match (infinite, zero) {
                    (n, 0) => write!(f, "{n} became infinite"),
                    (0, n) => write!(f, "{n} became zero"),
                    (n, m) => write!(f, "{n} became infinite, {m} became zero"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_in_singular_and_plural() {
        let rounded = |count| Note::Rounded { count, as_in_training: false }.to_string();
        assert!(rounded(1).starts_with("1 matrix is rounded"));
        assert!(rounded(2).starts_with("2 matrices are rounded"));
        assert!(Note::Unscaled { count: 1 }.to_string().starts_with("1 source matrix has no scale"));
    }
}
