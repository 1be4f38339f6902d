//! GGUF files as llama.cpp loads them: which type each tensor gets, the keys that describe the model, one file or a
//! split set. The header's bytes are written by [`ckpt_inspect::gguf::Layout`].
//!
//! Keys are those of `gguf-py/gguf/constants.py` in llama.cpp. Those for the student (`ckpt.…`, and the soft caps under
//! architectures that have none) are for ckpt's own runner; other programs ignore them.

use std::path::Path;

use ckpt_inspect::ggml::GgmlType;
use ckpt_inspect::gguf::{ALIGNMENT_KEY, ARCHITECTURE, Keys, Layout, OutputEntry};
use ckpt_inspect::meaning::architecture::{Kind, Program, Role, TABLE};
use ckpt_inspect::meaning::{ConfigError, RopeScaling};
use ckpt_inspect::staged::{Control, OutputFile, StagedFile, StagedFolder};
use ckpt_inspect::vocabulary::{TokenType, Vocabulary};
use ckpt_inspect::{Checkpoint, DType, Format, ModelConfig, TensorInfo, model_folder};
use globset::GlobMatcher;
use half::f16;

use crate::encode::{Writer, Written};
use crate::hf::soft_caps;
use crate::names::{self, Style};
use crate::note::{Note, Remedy};
use crate::plan::{Options, Plan};
use crate::quant::Quant;
use crate::target::{Form, Target};
use crate::ternary::Grid;
use crate::{Error, Result, runner, safetensors};

/// How weights go into a GGUF file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gguf {
    /// Type of the matrices in layers. By default TQ2_0 for a ternary model, I2_S where only bitnet.cpp runs it, the
    /// tensor's own for a GGUF source and where no model is recognised, else F16.
    pub quant: Option<Quant>,
    /// Type of the embedding and the output head. By default `quant` where that is a plain type, else Q8_0.
    pub embed: Option<Quant>,
    /// TQ1_0 and TQ2_0 blocks of scale 1, and for each matrix a tensor `.scale` with its f32 scale: llama.cpp
    /// multiplies by it, in every architecture (`llama_model_base::load_tensors`).
    pub exact_scales: bool,
    /// Keep the float weights of ternary layers. Only a program that makes them ternary itself then computes the same.
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
    about: "GGUF, for llama.cpp and programs built on it",
    extension: "gguf",
    splits: true,
    reader: "GGUF",
    holds: |dtype| ggml_of(dtype).is_some(),
    instead: |_| Remedy::Target("pt"),
    style: Some(Style::Gguf),
    nests: false,
    shares: false,
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

/// Whether the model of `source` is not recognised: its tensors keep their names and types in the file.
pub(crate) fn is_unknown(source: &Checkpoint) -> bool {
    let model = &source.model;
    let unknown = model.config.is_none() || model.is_unknown();
    model.student.is_none() && unknown && !matches!(source.format, Format::Gguf { .. })
}

/// Refuses a model whose architecture is known and has no name in GGUF, by that architecture.
pub(crate) fn check_architecture(source: &Checkpoint) -> Result<()> {
    let is_named = matches!(source.model.given(), Err(ConfigError::Architecture(_)));
    match is_named && !is_unknown(source) && !matches!(source.format, Format::Gguf { .. }) {
        true => model(source).map(drop),
        false => Ok(()),
    }
}

/// Whether GGUF calls the token embedding so.
fn is_embedding(name: &str) -> bool {
    names::is_called(name, Role::Embedding, Style::Gguf)
}

/// Whether a tensor by this GGUF name is the embedding or the output head.
pub(crate) fn is_outer(name: &str) -> bool {
    matches!(names::role(name), Some(Role::Embedding | Role::Head))
}

/// Whether readers of GGUF know that a tensor of this name may be the `other` one.
pub(crate) fn is_tied_pair(name: &str, other: &str) -> bool {
    names::role(name) == Some(Role::Head) && is_embedding(other)
}

/// Which type a tensor gets.
pub(crate) struct Rules {
    /// `None` where a tensor keeps its own.
    quant: Option<Quant>,
    /// Whether matrices that are not ternary keep theirs all the same.
    keeps: bool,
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
        let of_bitnet_cpp = program(source) == Program::BitnetCpp;
        let keeps_types = matches!(source.format, Format::Gguf { .. }) || is_unknown(source);
        let quant = match settings.quant {
            None if keeps_types => None,
            None if any_ternary && !settings.latent && of_bitnet_cpp => Some(Quant::I2S),
            None if any_ternary && !settings.latent => Some(Quant::Tq2_0),
            None => Some(Quant::F16),
            other => other,
        };
        if let (true, false, Some(glob)) = (ternary, any_ternary, chosen) {
            return Err(Error::target(format!(
                "no matrix matches '{}'; the pattern is matched with the names in GGUF, such as `blk.0.ffn_up.weight`",
                glob.glob().glob().escape_debug()
            )));
        }
        if of_bitnet_cpp && ternary && settings.quant != Some(Quant::I2S) {
            let why = "these blocks are for llama.cpp, which does not compute this model: its graph of BitNet has silu where the model has relu2; bitnet.cpp computes it, and has the type i2_s";
            return Err(Error::target(why).remedied_by(Remedy::Quant(&[Quant::I2S])));
        }
        if settings.latent && ternary {
            let why =
                "ternary blocks cannot hold float (latent) weights; choose another type for the matrices";
            return Err(Error::target(why).remedied_by(Remedy::Quant(&[])));
        }
        if ternary && !any_ternary {
            let why = "no matrix is known to be ternary; choose them by a pattern, or choose another type";
            return Err(Error::target(why).remedied_by(Remedy::Ternary("*attn*")));
        }
        if settings.exact_scales && !quant.is_some_and(|q| matches!(q, Quant::Tq1_0 | Quant::Tq2_0)) {
            let why =
                "exact scales are an option of tq1_0 and tq2_0 only; those of i2_s and f32 are exact anyway";
            return Err(Error::target(why).remedied_by(Remedy::Quant(&[Quant::Tq1_0, Quant::Tq2_0])));
        }
        Ok(Rules { quant, keeps: false, fallback: Quant::F16, settings })
    }

    /// The type where the one that is wanted cannot be made.
    pub fn fallback(&self) -> Quant {
        self.fallback
    }

    /// Lets tensors for which nothing is asked keep their own types; ternary ones are in blocks of their own, if there are
    /// `any`.
    pub fn keep_types(&mut self, any_ternary: bool) {
        self.keeps = true;
        self.quant = self.quant.filter(|_| any_ternary);
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
        choices: &mut Choices,
    ) -> Quant {
        // llama.cpp computes with norms and biases in F32, and its converter keeps so what chooses experts.
        let is_router = || names::role(name).is_some_and(|role| role.kind() == Kind::Router);
        if tensor.shape.len() < 2 || is_router() {
            return Quant::F32;
        }
        let own = match tensor.dtype {
            // Any layout becomes that of x86 builds.
            DType::Ternary(_) => Some(Quant::I2S),
            dtype => Quant::of(dtype),
        };
        let own = own.filter(|_| self.quant.is_none() || (self.keeps && !ternary));
        let main = self.quant.unwrap_or(self.fallback);
        let of_rule = if is_outer(name) {
            let plain = !main.is_packed();
            self.settings.embed.or(own).unwrap_or(if plain { main } else { Quant::Q8_0 })
        } else if let Some(own) = own {
            own
        } else if main.is_ternary() && !ternary {
            choices.not_ternary += 1;
            self.fallback
        } else {
            main
        };
        let quant = asked.unwrap_or(of_rule);
        if quant.fits(&tensor.shape) {
            return quant;
        }
        let instead = quant.fallback(&tensor.shape);
        choices.misfits.push(Misfit { name: name.to_string(), quant, instead });
        instead
    }
}

/// A tensor whose rows do not fill the blocks of the type that it should have.
#[derive(Debug)]
struct Misfit {
    name: String,
    quant: Quant,
    instead: Quant,
}

/// Decisions about types and scales that the user should know.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    misfits: Vec<Misfit>,
    not_ternary: usize,
    rounded: usize,
    unscaled: usize,
    inexact: Vec<(String, f32)>,
    /// The number of these whose rows do not fill the requested blocks.
    inexact_misfits: usize,
}

impl Choices {
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
            self.inexact_misfits += usize::from(self.misfits.iter().any(|misfit| misfit.name == name));
        }
    }

    /// The notes on it.
    pub fn notes(self, source: &Checkpoint) -> Vec<Note> {
        let mut notes = Vec::new();
        if let Some(Misfit { name, quant, instead }) = self.misfits.first() {
            let (count, first) = (self.misfits.len(), name.clone());
            notes.push(Note::Misfits { count, first, quant: *quant, instead: *instead });
        }
        if self.not_ternary > 0 {
            notes.push(Note::NotTernary { count: self.not_ternary });
        }
        let student = source.model.student.as_ref();
        if self.rounded > 0 {
            notes.push(Note::Rounded { count: self.rounded, as_in_training: student.is_some() });
        }
        if self.unscaled > 0 {
            notes.push(Note::Unscaled { count: self.unscaled });
        }
        if let Some((first, scale)) = self.inexact.first() {
            notes.push(Note::InexactScales {
                count: self.inexact.len(),
                first: first.clone(),
                scale: *scale,
                misfits: self.inexact_misfits > 0,
            });
        }
        if student.is_some_and(|s| s.bitlinear_per_channel) && self.rounded > 0 {
            notes.push(Note::RowScalesLost);
        }
        notes
    }
}

/// The configuration of the model in `source`, which the keys will describe.
fn model(source: &Checkpoint) -> Result<ModelConfig> {
    source.model_config().map_err(|error| {
        let (last, others) = TABLE.split_last().expect("there are architectures");
        let others: Vec<&str> = others.iter().map(|architecture| architecture.label).collect();
        let what = match error {
            ConfigError::Missing(key) => format!("its config.json has no {key}"),
            other => other.to_string(),
        };
        let known = format!("{} and {}", others.join(", "), last.label);
        Error::of_source(source, format!("{what}, and a GGUF file needs a known architecture ({known})"))
    })
}

/// The program that runs the model of `source` from GGUF.
fn program(source: &Checkpoint) -> Program {
    source.model_config().map_or(Program::LlamaCpp, |config| config.written_as().graph.program)
}

/// The divisors of the rotary frequencies of `source` in GGUF, by the tensors' names, if it is in another format and has
/// such.
pub(crate) fn rope_factors(source: &Checkpoint) -> Vec<(&'static str, Vec<f32>)> {
    if let Format::Gguf { .. } = source.format {
        return Vec::new();
    }
    let Ok(config) = source.model_config() else { return Vec::new() };
    let narrow = |factors: &[f64]| factors.iter().map(|x| *x as f32).collect();
    match &config.rope_scaling {
        RopeScaling::LongRope { short_factor, long_factor, .. }
            if config.rope_scaling.is_known_in_gguf(config.written_as()) =>
        {
            vec![(names::LONG_FACTORS, narrow(long_factor)), (names::SHORT_FACTORS, narrow(short_factor))]
        }
        scaling => {
            let factors = scaling.factors(config.rope_base, config.head_dim);
            factors.map(|factors| (names::ROPE_FACTORS, factors)).into_iter().collect()
        }
    }
}

/// Keys of a GGUF source that do not apply to a file written from it.
fn is_of_the_file(key: &str) -> bool {
    key.starts_with("split.")
        || matches!(key, ALIGNMENT_KEY | "general.file_type" | "general.quantization_version")
}

/// All keys of the file. Adds to the plan's notes what they cannot say.
fn keys(plan: &mut Plan<'_>, options: &Options) -> Result<Keys> {
    let source = plan.source;
    if let Some(keys) = &plan.keys {
        return Ok(keys.clone());
    }
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
    let rows = plan.tensors.iter().find(|t| is_embedding(&t.name)).and_then(|t| t.shape.first().copied());
    let vocabulary = match &options.tokenizer {
        Some(path) => Some(Vocabulary::read(path)?),
        None if keys.contains("tokenizer.ggml.tokens") || is_unknown(source) => return Ok(keys),
        None => Vocabulary::in_folder(&model_folder(&source.path))?,
    };
    match vocabulary {
        Some(mut vocabulary) => {
            let has_bytes = vocabulary.tokens.iter().any(|token| token.kind == TokenType::Byte);
            if vocabulary.model == "llama" && !has_bytes {
                let why = "its tokenizer is a BPE of characters without tokens for bytes (byte_fallback), and llama.cpp stops at the first character that has no token";
                return Err(Error::of_source(source, why));
            }
            if let Some(rows) = rows {
                let count = vocabulary.tokens.len();
                if count > rows {
                    let why = format!(
                        "the tokenizer has {count} tokens and the embedding {rows} rows, so it belongs to another model; give the right one"
                    );
                    return Err(Error::target(why).remedied_by(Remedy::Tokenizer));
                }
                vocabulary
                    .fill(rows)
                    .map_err(|e| e.in_file(&source.path).hint("give the right tokenizer"))?;
            }
            plan.notes.extend(vocabulary.warnings.iter().cloned().map(Note::Tokenizer));
            keys.extend(vocabulary.to_keys());
        }
        None => {
            keys.set("tokenizer.ggml.model", "none");
            plan.notes.push(Note::NoTokenizer { embedded: true });
        }
    }
    Ok(keys)
}

/// The keys of a model that does not come from GGUF.
fn described(plan: &mut Plan<'_>, latent: bool) -> Result<Keys> {
    let source = plan.source;
    if is_unknown(source) {
        let mut keys = Keys::default();
        keys.set(ARCHITECTURE, "unknown");
        plan.notes.push(Note::UnknownArchitecture);
        return Ok(keys);
    }
    let config = model(source)?;
    let latent = latent && !source.model.holds_codes();
    let mut keys = config.to_gguf(latent);
    let architecture = config.gguf_name();
    if !config.rope_scaling.is_known_in_gguf(config.written_as()) {
        let kind = config.rope_scaling.kind().escape_debug().to_string();
        let why = format!(
            "its rotary scaling is `{kind}`, and a GGUF file of a {architecture} model cannot say so"
        );
        return Err(Error::of_source(source, why));
    }
    if config.rope_scaling.has_own_bounds() {
        plan.notes.push(Note::YarnBounds { architecture: architecture.to_string() });
    }
    plan.notes.extend(runner::notes(plan, &config)?);
    if let Some(name) = source.path.file_stem() {
        keys.set("general.name", name.to_string_lossy().as_ref());
    }
    let embedding = plan.tensors.iter().find(|t| is_embedding(&t.name));
    if let Some(rows) = embedding.and_then(|t| t.shape.first()) {
        keys.set(&format!("{architecture}.vocab_size"), &(*rows as u32));
    }
    // bitnet.cpp rounds activations as such a layer does, where it multiplies I2_S.
    let as_bitlinear = !config.is_student() && main_type(plan) == Some(Quant::I2S);
    if (config.use_bitlinear_ffn || config.use_bitlinear_attn) && !as_bitlinear {
        plan.notes.push(Note::Activations);
    }
    if !config.is_student() {
        return Ok(keys);
    }
    let caps = soft_caps(&config);
    if !caps.is_empty() {
        plan.notes.push(Note::SoftCaps { caps, architecture: Some(architecture.to_string()) });
    }
    plan.notes.extend(source.model.assumed.iter().cloned().map(Note::Assumed));
    Ok(keys)
}

/// The type of most of the matrices' bytes.
fn main_type(plan: &Plan<'_>) -> Option<Quant> {
    let layers = |t: &&crate::plan::Output| t.shape.len() > 1 && !is_outer(&t.name);
    let elements = |quant: &Quant| {
        let own = plan.tensors.iter().filter(layers).filter(|t| t.dtype == quant.dtype());
        own.map(|t| t.shape.iter().product::<usize>()).sum::<usize>()
    };
    Quant::every().max_by_key(elements).filter(|q| elements(q) > 0)
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
                    Error::target(format!("`{}` cannot be written as {}", tensor.name, tensor.dtype))
                })?;
                Ok(OutputEntry::new(tensor.name.clone(), ggml, tensor.shape.clone()))
            })
            .collect::<Result<_>>()?;
        let layout = Layout::new(keys, &entries).ok_or_else(|| {
            Error::target("a tensor has more than four dimensions, the most that GGUF allows")
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

/// Writes `plan` to the file `path`; with a limit for one file, to the folder `path`, as llama.cpp names and reads
/// split sets: all keys in the first file, in each its number and how many files and tensors there are.
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
        Error::target(format!("{} files are more than a split set may have; allow larger ones", parts.len()))
            .remedied_by(Remedy::ShardSize)
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
