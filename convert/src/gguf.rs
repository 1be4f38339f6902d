//! GGUF files as llama.cpp loads them: which type each tensor gets, the keys that describe the model, one file or a
//! split set. The header's bytes are written by [`ckpt_inspect::gguf::Layout`].
//!
//! Keys are those of `gguf-py/gguf/constants.py` in llama.cpp. The student's own (`ckpt.…`, and the soft caps under
//! architectures that have none) are for this suite's runner; others pass over them.

use std::path::Path;

use ckpt_inspect::ggml::GgmlType;
use ckpt_inspect::gguf::{ALIGNMENT_KEY, Keys, Layout, OutputEntry};
use ckpt_inspect::meaning::ConfigError;
use ckpt_inspect::meaning::architecture::{Role, TABLE};
use ckpt_inspect::staged::{Control, OutputFile, StagedFile, StagedFolder};
use ckpt_inspect::vocabulary::Vocabulary;
use ckpt_inspect::{Checkpoint, DType, Format, ModelConfig, TensorInfo};
use globset::GlobMatcher;
use half::f16;

use crate::encode::{Writer, Written};
use crate::names::{self, Style};
use crate::plan::{Options, Plan};
use crate::quant::Quant;
use crate::target::{Form, Target};
use crate::ternary::Grid;
use crate::{Error, Result, safetensors};

/// How weights go into a GGUF file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gguf {
    /// Type of the matrices in layers. By default TQ2_0 for a ternary model, the tensor's own for a GGUF source and where no
    /// model is recognised, else F16.
    pub quant: Option<Quant>,
    /// Type of the embedding and the output head. By default `quant` where that is a plain type, else Q8_0.
    pub embed: Option<Quant>,
    /// TQ1_0 and TQ2_0 blocks of scale 1, beside each matrix a tensor `.scale` with its own in f32: llama.cpp multiplies
    /// by it, in every architecture (`llama_model_base::load_tensors`).
    pub exact_scales: bool,
    /// Keep the float weights of ternary layers. Only a runner that makes them ternary itself computes the same then.
    pub latent: bool,
}

impl Gguf {
    /// Matrices in layers as `quant`, the embedding and the output head as `embed`.
    pub fn new(quant: Quant, embed: Quant) -> Self {
        Gguf { quant: Some(quant), embed: Some(embed), ..Gguf::default() }
    }

    /// These settings, with what `change` changes.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// `--to gguf`.
pub(crate) const FORM: Form = Form {
    name: "gguf",
    about: "GGUF, for llama.cpp and its kin",
    extension: "gguf",
    splits: true,
    reader: "GGUF",
    holds: |dtype| ggml_of(dtype).is_some(),
    instead: |_| "--to pt",
    style: Some(Style::Gguf),
    nests: false,
    ties: true,
    tells_values: true,
    is_model: true,
    packing: |_| None,
    check: safetensors::without_metadata,
    write,
};

/// GGML's type for elements of this type.
pub(crate) fn ggml_of(dtype: DType) -> Option<GgmlType> {
    const PLAIN: [GgmlType; 5] = [GgmlType::F64, GgmlType::I8, GgmlType::I16, GgmlType::I32, GgmlType::I64];
    Quant::of(dtype).map(Quant::ggml).or_else(|| PLAIN.into_iter().find(|ggml| ggml.dtype() == dtype))
}

/// Whether no model is recognised in `source`: its tensors go into the file as they are called and typed.
pub(crate) fn is_unknown(source: &Checkpoint) -> bool {
    let model = &source.model;
    let unknown = model.config.is_none() || model.is_unknown();
    model.student.is_none() && unknown && !matches!(source.format, Format::Gguf { .. })
}

/// GGUF's name of the token embedding.
const EMBEDDING: &str = "token_embd.weight";

/// Whether a tensor by this GGUF name is the embedding or the output head.
pub(crate) fn is_outer(name: &str) -> bool {
    matches!(names::role(name), Some(Role::Embedding | Role::Head))
}

/// Whether readers of GGUF know that a tensor of this name may be the `other` one.
pub(crate) fn is_tied_pair(name: &str, other: &str) -> bool {
    names::role(name) == Some(Role::Head) && other == EMBEDDING
}

/// Which type a tensor gets.
pub(crate) struct Rules {
    /// `None` where a tensor keeps its own.
    quant: Option<Quant>,
    fallback: Quant,
    settings: Gguf,
}

impl Rules {
    /// The rules for a source in which there are ternary matrices, or not.
    pub fn new(
        settings: Gguf,
        source: &Checkpoint,
        any_ternary: bool,
        chosen: Option<&GlobMatcher>,
    ) -> Result<Self> {
        let ternary = settings.quant.is_some_and(Quant::is_ternary);
        let keeps_types = matches!(source.format, Format::Gguf { .. }) || is_unknown(source);
        let quant = match settings.quant {
            None if keeps_types => None,
            None if any_ternary && !settings.latent => Some(Quant::Tq2_0),
            None => Some(Quant::F16),
            other => other,
        };
        if let (true, false, Some(glob)) = (ternary, any_ternary, chosen) {
            return Err(Error::Target(format!(
                "no matrix matches --ternary '{}'; the names are those in GGUF, such as `blk.0.ffn_up.weight`",
                glob.glob().glob().escape_debug()
            )));
        }
        let refused = if settings.latent && ternary {
            "float weights do not go into ternary blocks; leave out --latent, or choose another --quant"
        } else if ternary && !any_ternary {
            "no matrix in it is known to be ternary; choose them with --ternary '*attn*' or another --quant"
        } else if settings.exact_scales && !quant.is_some_and(|q| matches!(q, Quant::Tq1_0 | Quant::Tq2_0)) {
            "--exact-scales goes with --quant tq1_0 and tq2_0; i2_s and f32 scales are exact already"
        } else {
            return Ok(Rules { quant, fallback: Quant::F16, settings });
        };
        Err(Error::Target(refused.into()))
    }

    /// Whether a tensor for which nothing is asked keeps its own type.
    pub fn keeps_types(&self) -> bool {
        self.quant.is_none()
    }

    /// The type of `tensor`, called `name` there; `asked` is what a pattern wants.
    pub fn quant(
        &self,
        name: &str,
        tensor: &TensorInfo,
        ternary: bool,
        asked: Option<Quant>,
        told: &mut Told,
    ) -> Quant {
        // llama.cpp computes with norms and biases in F32.
        if tensor.shape.len() < 2 {
            return Quant::F32;
        }
        let own = match tensor.dtype {
            // Whatever its layout was, it becomes that of x86 builds.
            DType::Ternary(_) => Some(Quant::I2S),
            dtype => Quant::of(dtype),
        };
        let own = own.filter(|_| self.quant.is_none());
        let main = self.quant.unwrap_or(self.fallback);
        let of_rule = if is_outer(name) {
            let plain = !main.is_packed();
            self.settings.embed.or(own).unwrap_or(if plain { main } else { Quant::Q8_0 })
        } else if let Some(own) = own {
            own
        } else if main.is_ternary() && !ternary {
            told.not_ternary += 1;
            self.fallback
        } else {
            main
        };
        let quant = asked.unwrap_or(of_rule);
        if quant.fits(&tensor.shape) {
            return quant;
        }
        told.misfits.push((name.to_string(), quant));
        self.fallback
    }
}

/// What is to be told of the types.
#[derive(Debug, Default)]
pub(crate) struct Told {
    misfits: Vec<(String, Quant)>,
    not_ternary: usize,
    rounded: usize,
    unscaled: usize,
    inexact: Vec<(String, f32)>,
    /// Of those, how many have rows that the blocks asked for do not fit.
    inexact_misfits: usize,
}

impl Told {
    /// Notes how a matrix is made ternary.
    pub fn grid(&mut self, name: &str, quant: Quant, grid: Grid, exact_scales: bool) {
        self.rounded += usize::from(!grid.exact);
        let Some(scale) = grid.scale else {
            self.unscaled += 1;
            return;
        };
        let stored = match quant {
            Quant::F32 | Quant::BF16 | Quant::I2S => return,
            Quant::Tq1_0 | Quant::Tq2_0 if exact_scales => return,
            Quant::Q8_0 => scale / 127.0,
            _ => scale,
        };
        let back = f16::from_f32(stored).to_f32();
        if (back - stored).abs() > stored.abs() * 2f32.powi(-11) {
            self.inexact.push((name.to_string(), scale));
            self.inexact_misfits += usize::from(self.misfits.iter().any(|(misfit, _)| misfit == name));
        }
    }

    /// It, in sentences.
    pub fn notes(self, source: &Checkpoint) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some((name, quant)) = self.misfits.first() {
            notes.push(format!(
                "{} tensors are written as f16: their rows are no multiple of the {} elements of a {quant} block, such as `{name}`",
                self.misfits.len(),
                quant.block()
            ));
        }
        if self.not_ternary > 0 {
            notes.push(format!(
                "{} matrices are written as f16: no BitLinear uses them, so they are not ternary",
                self.not_ternary
            ));
        }
        if self.rounded > 0 {
            let bit = match source.model.student {
                Some(_) => ", as BitLinear rounds them in every forward pass",
                None => "",
            };
            notes.push(format!(
                "{} matrices are rounded to -1, 0, +1 times mean|W|{bit}; the float weights cannot be had back",
                self.rounded
            ));
        }
        if self.unscaled > 0 {
            notes.push(format!("{} source matrices have no scale: 1 is written for it", self.unscaled));
        }
        if let Some((name, scale)) = self.inexact.first() {
            let keeps = match self.inexact_misfits {
                0 => "--exact-scales (tq1_0, tq2_0) or --quant i2_s keeps them",
                _ => "--quant f32 or bf16 keeps them, and i2_s where rows are a multiple of 128",
            };
            notes.push(format!(
                "{} matrices have scales that f16 holds badly or not at all, such as {scale:e} of `{name}`; {keeps}",
                self.inexact.len()
            ));
        }
        if source.model.student.as_ref().is_some_and(|s| s.bitlinear_per_channel) && self.rounded > 0 {
            notes.push("the model scales each row on its own; one scale a matrix is written".into());
        }
        notes
    }
}

/// The configuration of the model in `source`, which keys are to tell.
fn model(source: &Checkpoint) -> Result<ModelConfig> {
    source.model_config().map_err(|error| {
        let (last, others) = TABLE.split_last().expect("there are architectures");
        let others: Vec<&str> = others.iter().map(|architecture| architecture.label).collect();
        let what = match error {
            ConfigError::Missing(key) => format!("its config.json has no {key}"),
            other => other.to_string(),
        };
        let written = format!("{} and {} are written", others.join(", "), last.label);
        Error::of_source(source, format!("{what}; GGUF files name one ({written})"))
    })
}

/// What GGUF divides the rotary frequencies of `source` by, where it is a Llama 3 that comes from elsewhere.
pub(crate) fn rope_factors(source: &Checkpoint) -> Option<Vec<f32>> {
    if let Format::Gguf { .. } = source.format {
        return None;
    }
    let config = source.model_config().ok()?;
    config.rope_scaling.factors(config.rope_base, config.head_dim)
}

/// Keys of a GGUF source that say nothing true of a file written from it.
fn is_of_the_file(key: &str) -> bool {
    key.starts_with("split.")
        || matches!(key, ALIGNMENT_KEY | "general.file_type" | "general.quantization_version")
}

/// All keys of the file, and what else is to be told.
fn keys(plan: &mut Plan<'_>, options: &Options) -> Result<Keys> {
    let source = plan.source;
    let latent = matches!(&options.target, Target::Gguf(settings) if settings.latent);
    let mut keys = match source.gguf_header() {
        Some(header) => {
            let mut keys = Keys::default();
            for (key, value) in header?.keys.iter().filter(|(key, _)| !is_of_the_file(key)) {
                keys.copy(key, value);
            }
            let rounded = plan.pairs.iter().any(|pair| pair.elements.grid.is_some());
            if keys.contains("ckpt.latent") && (rounded || options.ternary.is_some() && !latent) {
                keys.set("ckpt.latent", &false);
            }
            keys
        }
        None => described(plan, latent)?,
    };
    if let Some(kind) = main_type(plan).and_then(Quant::file_type) {
        keys.set("general.file_type", &kind);
    }
    // The version of the block formats since 2023 (`GGML_QNT_VERSION`).
    keys.set("general.quantization_version", &2u32);
    let rows = plan.tensors.iter().find(|t| t.name == EMBEDDING).and_then(|t| t.shape.first().copied());
    let vocabulary = match &options.tokenizer {
        Some(path) => Some(Vocabulary::read(path)?),
        None if keys.contains("tokenizer.ggml.tokens") || is_unknown(source) => return Ok(keys),
        None => Vocabulary::in_folder(match source.path.is_dir() {
            true => &source.path,
            false => source.path.parent().unwrap_or(Path::new("")),
        })?,
    };
    match vocabulary {
        Some(mut vocabulary) => {
            if let Some(rows) = rows {
                let count = vocabulary.tokens.len();
                if count > rows {
                    return Err(Error::Target(format!(
                        "the tokenizer has {count} tokens and the embedding {rows} rows: it is another model's; name the right one with --tokenizer"
                    )));
                }
                vocabulary
                    .fill(rows)
                    .map_err(|e| e.in_file(&source.path).hint("name the right one with --tokenizer"))?;
            }
            plan.notes.extend(vocabulary.warnings.iter().map(|w| format!("tokenizer: {w}")));
            keys.extend(vocabulary.to_keys());
        }
        None => {
            keys.set("tokenizer.ggml.model", "none");
            plan.notes.push(
                "no tokenizer lies beside the source, so the file takes and gives ids only; name one with --tokenizer"
                    .into(),
            );
        }
    }
    Ok(keys)
}

/// The keys of a model that does not come from GGUF.
fn described(plan: &mut Plan<'_>, latent: bool) -> Result<Keys> {
    let source = plan.source;
    if is_unknown(source) {
        let mut keys = Keys::default();
        keys.set("general.architecture", "unknown");
        plan.notes.push(
            "no model is recognised in it: tensors keep their names and types, the file says architecture `unknown`, and no runner loads it"
                .into(),
        );
        return Ok(keys);
    }
    let config = model(source)?;
    let latent = latent && !source.model.holds_codes();
    let mut keys = config.to_gguf(latent);
    let architecture = config.gguf_name();
    if !config.rope_scaling.is_known_in_gguf() {
        plan.notes.push(format!(
            "its rotary positions are scaled by `{}`, for which GGUF has no key: llama.cpp computes without it, and long texts will go wrong",
            config.rope_scaling.kind().escape_debug()
        ));
    }
    if let Some(name) = source.path.file_stem() {
        keys.set("general.name", name.to_string_lossy().as_ref());
    }
    let embedding = plan.tensors.iter().find(|t| t.name == EMBEDDING);
    if let Some(rows) = embedding.and_then(|t| t.shape.first()) {
        keys.set(&format!("{architecture}.vocab_size"), &(*rows as u32));
    }
    if !config.is_student() {
        return Ok(keys);
    }
    let caps =
        [("attention scores", config.attn_logit_soft_cap), ("final logits", config.final_logit_soft_cap)];
    let unheard: Vec<String> =
        caps.into_iter().filter_map(|(what, cap)| Some(format!("{what} at {}", cap?))).collect();
    if !unheard.is_empty() {
        plan.notes.push(format!(
            "the soft caps ({}) are in the file for `ckpt infer`; llama.cpp does not apply them in {architecture} models",
            unheard.join(", ")
        ));
    }
    if config.use_bitlinear_ffn || config.use_bitlinear_attn {
        plan.notes.push("BitLinear rounds activations to 8 bits for each token; other runners round them their own way or not at all".into());
    }
    plan.notes.extend(source.model.assumed.iter().cloned());
    Ok(keys)
}

/// The type of most of the matrices' bytes.
fn main_type(plan: &Plan<'_>) -> Option<Quant> {
    let layers = |t: &&crate::plan::Output| t.shape.len() > 1 && !is_outer(&t.name);
    let elements = |quant: &Quant| {
        let own = plan.tensors.iter().filter(layers).filter(|t| t.dtype == quant.dtype());
        own.map(|t| t.shape.iter().product::<usize>()).sum::<usize>()
    };
    Quant::all().max_by_key(elements).filter(|q| elements(q) > 0)
}

/// One file's header and tensors.
struct File {
    layout: Layout,
    /// Blobs and their offsets in the file.
    places: Vec<(usize, u64)>,
}

impl File {
    fn new(plan: &Plan<'_>, keys: &Keys, tensors: &[usize]) -> Result<File> {
        let entries: Vec<OutputEntry> = tensors
            .iter()
            .map(|&i| {
                let tensor = &plan.tensors[i];
                let ggml = ggml_of(tensor.dtype).ok_or_else(|| {
                    Error::Target(format!("`{}` cannot be written as {}", tensor.name, tensor.dtype))
                })?;
                Ok(OutputEntry::new(tensor.name.clone(), ggml, tensor.shape.clone()))
            })
            .collect::<Result<_>>()?;
        let layout = Layout::new(keys, &entries).ok_or_else(|| {
            Error::Target("a tensor has more than four dimensions, which is all that GGUF has".into())
        })?;
        let blobs = tensors.iter().map(|&i| plan.tensors[i].blob);
        let places = blobs.zip(layout.offsets.iter().copied()).collect();
        Ok(File { layout, places })
    }

    fn write(&self, plan: &Plan<'_>, output: &OutputFile, control: Control<'_>) -> Result<Vec<Written>> {
        output.write_at(0, &self.layout.header)?;
        Writer { source: plan.source, blobs: &plan.blobs, control, crc: false }.write(output, &self.places)
    }
}

/// Writes `plan` to the file `path`; with a limit for one file, to the folder `path`, as llama.cpp names and reads split
/// sets: all keys in the first file, in each its number and how many files and tensors there are.
fn write(
    plan: &mut Plan<'_>,
    options: &Options,
    path: &Path,
    control: Control<'_>,
) -> Result<(u64, Vec<Written>)> {
    let keys = keys(plan, options)?;
    let mut ordered = vec![Written::default(); plan.blobs.len()];
    let Some(limit) = options.max_shard_bytes else {
        let all: Vec<usize> = (0..plan.tensors.len()).collect();
        let file = File::new(plan, &keys, &all)?;
        let staged = StagedFile::create(path, file.layout.len, options.force)?;
        let written = file.write(plan, staged.output(), control)?;
        file.places.iter().zip(written).for_each(|((blob, _), written)| ordered[*blob] = written);
        control.check(path)?;
        staged.commit()?;
        return Ok((file.layout.len, ordered));
    };
    let mut parts: Vec<Vec<usize>> = vec![Vec::new()];
    let mut filled = 0u64;
    for (i, tensor) in plan.tensors.iter().enumerate() {
        let bytes = plan.blobs[tensor.blob].bytes;
        let last = parts.last_mut().expect("there is a first part");
        if filled > 0 && filled.saturating_add(bytes) > limit {
            parts.push(vec![i]);
            filled = bytes;
        } else {
            last.push(i);
            filled += bytes;
        }
    }
    let count = u16::try_from(parts.len()).map_err(|_| {
        Error::Target(format!("{} files are more than a split set may have; allow larger ones", parts.len()))
    })?;
    let mut files = Vec::new();
    for (number, tensors) in (0..count).zip(&parts) {
        let mut own = if number == 0 { keys.clone() } else { Keys::default() };
        if count > 1 {
            own.set("split.no", &number);
            own.set("split.count", &count);
            own.set("split.tensors.count", &(plan.tensors.len() as i32));
        }
        let name = match count {
            1 => "model.gguf".to_string(),
            _ => format!("model-{:05}-of-{count:05}.gguf", number + 1),
        };
        files.push((name, File::new(plan, &own, tensors)?));
    }
    let total = files.iter().map(|(_, f)| f.layout.len).sum();
    let staged = StagedFolder::create(path, total, options.force, |name| name.ends_with(".gguf"))?;
    let mut outputs = Vec::new();
    for (name, file) in &files {
        let output = staged.file(name, file.layout.len)?;
        let written = file.write(plan, &output, control)?;
        file.places.iter().zip(written).for_each(|((blob, _), written)| ordered[*blob] = written);
        outputs.push(output);
    }
    control.check(path)?;
    staged.commit(&outputs)?;
    Ok((total, ordered))
}
