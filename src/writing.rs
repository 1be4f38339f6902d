//! How `ckpt convert` and `ckpt edit` write what they make: the flags that they share, and what a library's notes and errors say with the flag
//! that would help.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ckpt_convert::names::Style;
use ckpt_convert::quant::Quant;
use ckpt_convert::{Gguf, Note, Options, Remedy, Target};
use ckpt_inspect::DType;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use globset::{Glob, GlobMatcher};

use crate::{Failure, terminal};

/// How outputs are written.
#[derive(clap::Args)]
pub struct WriteArgs {
    /// Replace existing outputs.
    #[arg(long)]
    pub force: bool,
    /// Key of the state dict to convert, such as ema_state_dict.
    #[arg(long, value_name = "KEY")]
    root: Option<String>,
    /// Keep optimizer state, schedulers and random states (PyTorch to PyTorch).
    #[arg(long)]
    pub keep_optimizer: bool,
    /// Type of the weights whose output name matches a pattern, such as 'embed*=f16'; the first match applies.
    #[arg(long = "dtype", value_name = "GLOB=TYPE")]
    dtypes: Vec<String>,
    /// Naming scheme of the tensors; by default the one that readers of the format expect.
    #[arg(long)]
    names: Option<Names>,
    /// Matrices to make ternary (with i2s, gguf and --packed), by their output names; by default those of BitLinear
    /// layers.
    #[arg(long, value_name = "GLOB")]
    ternary: Option<String>,
    /// hf: pack ternary matrices in Hugging Face's BitNet format.
    #[arg(long)]
    packed: bool,
    /// safetensors, hf, gguf: write a folder of files of at most this size, such as 5GB. A larger tensor gets a file of
    /// its own.
    #[arg(long, visible_alias = "split-max-size", value_name = "SIZE", value_parser = size)]
    max_shard_size: Option<u64>,
    #[arg(long, value_name = "TYPE", help = quants(), value_parser = quant)]
    quant: Option<Quantization>,
    /// gguf: type of the embedding and the output head; by default that of --quant if it is f32, f16 or bf16, else
    /// q8_0.
    #[arg(long, value_name = "TYPE")]
    embed: Option<Quant>,
    /// gguf: store the scales of tq1_0 and tq2_0 matrices as f32, in separate tensors that llama.cpp multiplies by.
    #[arg(long)]
    exact_scales: bool,
    /// gguf: keep the float weights of ternary layers, for programs that round them to ternary themselves.
    #[arg(long)]
    latent: bool,
    /// gguf: the tokenizer to embed: a tokenizer.json, a tokenizer.model, a GGUF file or a folder; by default the one
    /// next to the source.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
    /// Write a model that lacks tensors all the same.
    #[arg(long)]
    allow_incomplete: bool,
    /// Do not verify the output by reading it back.
    #[arg(long)]
    pub no_verify: bool,
}

/// The values of `--quant`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Quantization {
    /// Quantized weights as they are stored.
    Keep,
    /// Matrices of a GGUF file in this type.
    To(Quant),
}

fn quant(text: &str) -> Result<Quantization, String> {
    match text {
        "keep" => Ok(Quantization::Keep),
        other => other.parse().map(Quantization::To),
    }
}

/// The help of `--quant`, with its values.
fn quants() -> String {
    let names: Vec<&str> = Quant::all().map(Quant::name).collect();
    format!(
        "gguf: type of the layers' matrices: {}. By default tq2_0 for ternary models, or i2_s where only bitnet.cpp runs them, unchanged for GGUF sources, else f16. Other targets: keep, which writes quantized weights as they are stored instead of dequantized",
        names.join(", ")
    )
}

/// The values of `--to`.
#[derive(Clone, Copy, PartialEq)]
pub enum To {
    /// All floating-point weights as one type, in PyTorch or SafeTensors.
    Floats(DType),
    /// Types unchanged, or as the target needs them.
    Target(Target),
}

impl ValueEnum for To {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<To>> = LazyLock::new(|| {
            let floats = [DType::F32, DType::F16, DType::BF16].map(To::Floats);
            let named = Target::all().filter(|target| !target.form().name.is_empty());
            floats.into_iter().chain(named.map(To::Target)).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let floats =
            |name, dtype| PossibleValue::new(name).help(format!("All floating-point weights as {dtype}"));
        Some(match *self {
            To::Floats(dtype @ DType::F16) => floats("f16", dtype).alias("fp16"),
            To::Floats(dtype @ DType::BF16) => floats("bf16", dtype),
            To::Floats(dtype) => floats("fp32", dtype).alias("f32"),
            To::Target(target) => PossibleValue::new(target.form().name).help(target.form().about),
        })
    }
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Names {
    /// layers.0…, the names of bitnet-student (docs/bitnet.md).
    #[value(alias = "student")]
    Bitnet,
    /// model.layers.0…, the names of Hugging Face.
    Hf,
    /// blk.0…, the names of GGUF.
    Gguf,
}

impl WriteArgs {
    /// The target that is written to `output`, and the extension of generated names.
    pub fn target(&self, to: To, output: Option<&Path>) -> (Target, &'static str) {
        let safetensors = output.is_some_and(|o| o.extension().is_some_and(|e| e == "safetensors"));
        let target = match to {
            To::Target(Target::Hf { .. }) => Target::Hf { packed: self.packed },
            To::Target(Target::Gguf(_)) => {
                let WriteArgs { quant, embed, exact_scales, latent, .. } = *self;
                let mut gguf = Gguf::default();
                gguf.quant = match quant {
                    Some(Quantization::To(quant)) => Some(quant),
                    Some(Quantization::Keep) | None => None,
                };
                gguf.embed = embed;
                (gguf.exact_scales, gguf.latent) = (exact_scales, latent);
                Target::Gguf(gguf)
            }
            To::Target(Target::I2s) if safetensors => Target::I2sSafeTensors,
            To::Target(target) => target,
            To::Floats(_) if safetensors => Target::SafeTensors,
            To::Floats(_) => Target::Torch,
        };
        (target, if self.max_shard_size.is_some() { "" } else { target.form().extension })
    }

    /// Whether quantized weights are written as they are stored.
    pub fn keeps(&self) -> bool {
        self.quant == Some(Quantization::Keep)
    }

    /// How it is written to `target`.
    pub fn options(&self, to: To, target: Target) -> Result<Options, Failure> {
        let mut options = Options::new(target);
        options.dtype = match to {
            To::Floats(dtype) => Some(dtype),
            To::Target(_) => None,
        };
        let dtypes = self.dtypes.iter().map(|text| pattern(text, is_gguf(to)));
        options.dtypes = dtypes.collect::<Result<_, _>>()?;
        options.root.clone_from(&self.root);
        options.keep_optimizer = self.keep_optimizer;
        options.names = self.names.map(|names| match names {
            Names::Bitnet => Style::Student,
            Names::Hf => Style::Hf,
            Names::Gguf => Style::Gguf,
        });
        options.ternary = self.ternary.as_deref().map(glob).transpose()?;
        options.max_shard_bytes = self.max_shard_size;
        options.tokenizer.clone_from(&self.tokenizer);
        options.keep_quantized = self.keeps();
        options.allow_incomplete = self.allow_incomplete;
        options.force = self.force;
        Ok(options)
    }

    /// Refuses flags that have nothing to do with the target.
    pub fn check(&self, to: To) -> Result<(), Failure> {
        let splits = |to: &&To| matches!(to, To::Target(target) if target.form().splits);
        if self.max_shard_size.is_some() && !splits(&&to) {
            let names = To::value_variants().iter().filter(splits).filter_map(To::to_possible_value);
            let names: Vec<String> = names.map(|value| value.get_name().to_string()).collect();
            let (last, others) = names.split_last().expect("there are targets of several files");
            return Err(Failure::usage(format!(
                "--max-shard-size only works with --to {} or {last}",
                others.join(", ")
            )));
        }
        let of_gguf = [
            (matches!(self.quant, Some(Quantization::To(_))), "--quant TYPE"),
            (self.embed.is_some(), "--embed"),
            (self.exact_scales, "--exact-scales"),
            (self.latent, "--latent"),
            (self.tokenizer.is_some(), "--tokenizer"),
        ];
        if let Some((_, flag)) = of_gguf.iter().find(|(given, _)| *given && !is_gguf(to)) {
            return Err(Failure::usage(format!("{flag} only works with --to gguf")));
        }
        let changes = matches!(to, To::Floats(_)) || !self.dtypes.is_empty() || self.packed;
        if self.keeps() && (changes || self.embed.is_some()) {
            return Err(Failure::usage(
                "--quant keep writes what is stored: it goes with --to gguf, hf, safetensors, pt or npz, and no other types",
            ));
        }
        if self.names.is_some() && is_gguf(to) {
            return Err(Failure::usage("GGUF files have their own tensor names: leave out --names"));
        }
        if self.packed && !matches!(to, To::Target(Target::Hf { .. })) {
            return Err(Failure::usage("--packed only works with --to hf; --to i2s always packs"));
        }
        let makes_ternary = self.packed || is_gguf(to) || to == To::Target(Target::I2s);
        if self.ternary.is_some() && !makes_ternary {
            return Err(Failure::usage("--ternary only works with --to i2s, --to gguf or --to hf --packed"));
        }
        Ok(())
    }

    /// Refuses a name for a file of another format than `to` writes, which would be read as what it is not.
    pub fn check_name(&self, to: To, output: &Path) -> Result<(), Failure> {
        let (target, _) = self.target(to, Some(output));
        let (named, own) = (crate::format::extension(output), target.form().extension);
        let Some(other) = by_extension(&named).filter(|_| named != own) else { return Ok(()) };
        if self.writes_folder(target) {
            return Ok(());
        }
        let called = |to: To| to.to_possible_value().map(|value| value.get_name().to_string());
        let (given, other) = (called(to), called(To::Target(other)));
        Err(Failure::usage(format!(
            "{}: --to {} writes a .{own} file; give -o {}, or --to {}",
            terminal::path(output),
            given.unwrap_or_default(),
            terminal::path(&output.with_extension(own)),
            other.unwrap_or_default(),
        )))
    }

    /// Whether `target` is written as a folder.
    pub fn writes_folder(&self, target: Target) -> bool {
        target.form().extension.is_empty() || self.max_shard_size.is_some()
    }
}

/// What is written to a file with this extension, if that says it.
pub fn by_extension(extension: &str) -> Option<Target> {
    let plain = [Target::Torch, Target::SafeTensors, Target::Gguf(Gguf::default()), Target::Npz];
    plain.into_iter().find(|target| target.form().extension == extension)
}

/// Whether GGUF is written.
pub fn is_gguf(to: To) -> bool {
    matches!(to, To::Target(Target::Gguf(_)))
}

fn glob(text: &str) -> Result<GlobMatcher, Failure> {
    Glob::new(text).map(|g| g.compile_matcher()).map_err(|e| Failure::usage(e.to_string()))
}

fn pattern(text: &str, gguf: bool) -> Result<(GlobMatcher, DType), Failure> {
    let (pattern, name) = text
        .rsplit_once('=')
        .ok_or_else(|| Failure::usage(format!("`{text}` is not GLOB=TYPE, such as 'embed*=f16'")))?;
    let dtype = match name.to_ascii_lowercase().as_str() {
        "f64" | "fp64" | "float64" => DType::F64,
        "f32" | "fp32" | "float32" => DType::F32,
        "f16" | "fp16" | "float16" => DType::F16,
        "bf16" | "bfloat16" => DType::BF16,
        other => match other.parse::<Quant>() {
            Ok(quant) if gguf => quant.dtype(),
            Err(message) if gguf => return Err(Failure::usage(message)),
            _ => return Err(Failure::usage(format!("`{other}` is not one of f64, f32, f16, bf16"))),
        },
    };
    Ok((glob(pattern)?, dtype))
}

/// `5GB` in bytes; units are powers of ten, those with an i powers of two.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err("not a size such as 5GB or 500MiB".into()),
    };
    let number: f64 = digits.trim().parse().map_err(|_| "not a size such as 5GB or 500MiB".to_string())?;
    let bytes = number * unit as f64;
    match bytes {
        1.0..1e18 => Ok(bytes as u64),
        1e18.. => Err("must be less than 1000000000GB".into()),
        _ => Err("must be at least 1 byte; give a size such as 5GB or 500MiB".into()),
    }
}

/// A note about a copy, with the flag that would help.
pub fn sentence(note: &Note) -> String {
    with_flag(note, note.remedy())
}

/// `message`, with the flag for `remedy` in parentheses.
fn with_flag(message: &impl std::fmt::Display, remedy: Option<Remedy>) -> String {
    let names = |quants: &[Quant]| quants.iter().map(|q| q.name()).collect::<Vec<_>>().join(" or ");
    let flag = match remedy {
        Some(Remedy::Target(name)) => format!("--to {name}"),
        Some(Remedy::Type(pattern, dtype)) => {
            format!("--dtype '{pattern}={}'", Quant::of(dtype).map_or(dtype.name(), Quant::name))
        }
        Some(Remedy::Root) => "--root KEY".into(),
        Some(Remedy::ShardSize) => "--max-shard-size SIZE".into(),
        Some(Remedy::Ternary(example)) => format!("--ternary '{example}'"),
        Some(Remedy::Tokenizer) => "--tokenizer PATH".into(),
        Some(Remedy::Packed) => "--packed".into(),
        Some(Remedy::Quant(&[])) => "--quant TYPE".into(),
        Some(Remedy::Quant(quants)) => format!("--quant {}", names(quants)),
        Some(Remedy::AllowIncomplete) => "--allow-incomplete".into(),
        Some(Remedy::ExactScales(quants)) => format!("--exact-scales, or --quant {}", names(quants)),
        _ => return message.to_string(),
    };
    format!("{message} (try {flag})")
}

impl From<ckpt_convert::Error> for Failure {
    fn from(error: ckpt_convert::Error) -> Self {
        use ckpt_convert::Error;
        match error {
            Error::Read(error) => error.into(),
            Error::Target { .. } => Failure::usage(with_flag(&error, error.remedy())),
            Error::Source { ref path, .. } => Failure::usage(with_flag(&error, error.remedy())).naming(path),
            Error::Incomplete { ref path, .. } | Error::Unread { ref path, .. } => {
                Failure::unreadable(with_flag(&error, error.remedy())).naming(path)
            }
            Error::Output(error) => error.into(),
            other => Failure::unreadable(other.to_string()),
        }
    }
}
