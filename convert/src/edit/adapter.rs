//! LoRA adapters as PEFT saves them: adapter_config.json, and adapter_model.safetensors or adapter_model.bin beside it. What the keys mean is
//! in PEFT's `tuners/lora/config.py` and `tuners/lora/layer.py`, what tensors are called in `utils/save_and_load.py`.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ckpt_inspect::metadata::{Value, lookup};
use ckpt_inspect::stored::Stored;
use ckpt_inspect::{Checkpoint, Error as ReadError, TensorInfo};
use regex::Regex;
use serde_json::{Map, Value as Json};

use super::derived::is_made;
use super::input::{Input, Reader};
use super::listed;
use super::modules::{self, Meant};
use crate::{Error, Result};

const CONFIG: &str = "adapter_config.json";
const MODELS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// More than any configuration of an adapter has.
const MAX_CONFIG: u64 = 8 << 20;

/// An adapter.
#[derive(Debug)]
pub(crate) struct Adapter {
    /// The folder that it is in.
    pub path: PathBuf,
    /// The checkpoint of its tensors.
    pub checkpoint: Checkpoint,
    /// What reads them.
    pub reader: Arc<Reader>,
    /// The model that it was trained for, as its configuration calls it.
    pub base: Option<String>,
    /// Low-rank changes, by module.
    pub changes: BTreeMap<String, LowRank>,
    /// Tensors that replace those of the base, by name.
    pub replaced: BTreeMap<String, TensorInfo>,
    /// Those of these that are of a layer with a low-rank change, which is made to them.
    pub below: HashSet<String>,
    /// Whether stored matrices are [in, out].
    pub fan_in_fan_out: bool,
    /// alpha for modules without one of their own.
    pub alpha: f64,
    /// The modules that its configuration means.
    pub meant: Meant,
    /// The kind of model that it was made for, as transformers' module for it is called; PEFT says it where it has no task.
    kind: Option<String>,
}

/// The low-rank change of a module's weight.
#[derive(Clone, Debug, Default)]
pub(crate) struct LowRank {
    /// [r, in]; of an embedding [r, tokens].
    pub a: Option<TensorInfo>,
    /// [out, r].
    pub b: Option<TensorInfo>,
    /// [out], what the norms of the rows become.
    pub magnitude: Option<TensorInfo>,
    /// [out], added to the bias.
    pub bias: Option<TensorInfo>,
    /// Whether it is an embedding's.
    pub is_embedding: bool,
    /// Its rank.
    pub rank: usize,
    /// What the product B A is multiplied by.
    pub scaling: f64,
}

/// Ways to begin that leave the base as it is.
const BEGINNINGS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// Settings with which an adapter is more than B A, or something else.
const OTHERS: [(&str, &str); 8] = [
    ("layer_replication", "its layers are not those of the base"),
    ("use_qalora", "its A is of groups of inputs"),
    ("alora_invocation_tokens", "it acts only after certain tokens; merged, it would act always"),
    ("use_bdlora", "its matrices are in blocks"),
    ("arrow_config", "it chooses among other adapters"),
    ("kasa_config", "it changes the base's singular values"),
    ("monteclora_config", "it is drawn again each time"),
    ("trainable_token_indices", "it replaces rows of the embedding"),
];

impl Adapter {
    /// The adapter at `path`: its folder, or the file of its tensors.
    ///
    /// # Errors
    /// `Read` for files that are missing or damaged, `Source` for adapters of other kinds, and for what does not fit together.
    pub fn open(path: &Path) -> Result<Adapter> {
        path.stored().map_err(|error| ReadError::io(path, &error))?;
        let (folder, file) = match path.is_stored_folder() {
            true => {
                let file = MODELS.iter().map(|name| path.join(name)).find(|file| file.is_stored_file());
                let file = file.ok_or_else(|| {
                    refused(
                        path,
                        format!(
                            "there is no {} in it, so it is not an adapter of PEFT",
                            MODELS.join(" and no ")
                        ),
                    )
                })?;
                (path.to_path_buf(), file)
            }
            false => (path.parent().unwrap_or(Path::new("")).to_path_buf(), path.to_path_buf()),
        };
        let config = config(&folder.join(CONFIG))?;
        let mut checkpoint = ckpt_inspect::open(&file)?;
        checkpoint.verify_checksums();
        if let Some(damage) = &checkpoint.damage {
            return Err(ReadError::from(damage).in_file(&file).into());
        }
        let text = |key: &str| config.get(key).and_then(Json::as_str);
        let kind = text("peft_type").ok_or_else(|| {
            refused(&folder, format!("{CONFIG} has no peft_type, so its kind of adapter is not known"))
        })?;
        if kind != "LORA" {
            let why = format!("it is an adapter of the kind {}, and only LoRA is read", kind.escape_debug());
            return Err(refused(&folder, why));
        }
        let is_set = |key: &str| match config.get(key) {
            None | Some(Json::Null | Json::Bool(false)) => false,
            Some(Json::Array(items)) => !items.is_empty(),
            Some(Json::Object(entries)) => !entries.is_empty(),
            Some(_) => true,
        };
        if let Some((key, why)) = OTHERS.iter().find(|(key, _)| is_set(key)) {
            return Err(refused(&folder, format!("{CONFIG} has {key}: {why}")));
        }
        // Of a module's weight they are what LoRA of the module is.
        let of_parameters = config.get("target_parameters").and_then(Json::as_array).into_iter().flatten();
        let mut others = of_parameters.filter_map(Json::as_str).filter(|name| !name.ends_with(".weight"));
        if let Some(name) = others.next() {
            let why = format!(
                "{CONFIG} has target_parameters: it changes `{}`, which is not the weight of a module",
                name.escape_debug()
            );
            return Err(refused(&folder, why));
        }
        // Its matrices begin at parts of the base, which were taken out of that.
        if let Some(begun) = text("init_lora_weights").filter(|begun| !BEGINNINGS.contains(begun)) {
            let why = format!(
                "{CONFIG} has init_lora_weights `{}`: the weights that it is added to are not those of the base as it was published; save it with PEFT's path_initial_model_for_weight_conversion, or merge it there",
                begun.escape_debug()
            );
            return Err(refused(&folder, why));
        }
        let number = |key: &str| config.get(key).and_then(Json::as_f64);
        let lacks = |key: &str| refused(&folder, format!("{CONFIG} has no {key} that is a number"));
        let alpha = number("lora_alpha").ok_or_else(|| lacks("lora_alpha"))?;
        let settings = Scale {
            rank: number("r").ok_or_else(|| lacks("r"))?,
            alpha,
            by_root: is_set("use_rslora"),
            dora: is_set("use_dora"),
            ranks: patterns(&folder, &config, "rank_pattern")?,
            alphas: patterns(&folder, &config, "alpha_pattern")?,
        };
        let mut adapter = Adapter {
            reader: Reader::new(&file),
            path: folder,
            checkpoint,
            base: text("base_model_name_or_path").filter(|name| !name.is_empty()).map(str::to_string),
            changes: BTreeMap::new(),
            replaced: BTreeMap::new(),
            below: HashSet::new(),
            fan_in_fan_out: is_set("fan_in_fan_out"),
            alpha,
            meant: Meant::of(&config),
            kind: modules::made_for(&config),
        };
        adapter.sort()?;
        adapter.check(&settings)?;
        adapter.check_saved(&config)?;
        Ok(adapter)
    }

    /// What tensors are for, by their names.
    fn sort(&mut self) -> Result<()> {
        for tensor in &self.checkpoint.tensors {
            if let Some(damage) = &tensor.damage {
                return Err(ReadError::from(damage)
                    .in_tensor(&tensor.name)
                    .in_file(&self.checkpoint.path)
                    .into());
            }
            let mut name = tensor.name.as_str();
            for before in ["base_model.model.", "base_model."] {
                if let Some(rest) = name.strip_prefix(before) {
                    name = rest;
                    break;
                }
            }
            let Some((module, part, rest)) = split(name) else {
                // What a module that was saved whole replaces, as it was: biases, if all of them were trained.
                if name.contains(".original_module.") {
                    continue;
                }
                let saved = name.replace(".modules_to_save.", ".");
                let bare = saved.replace(".base_layer.", ".");
                if bare != saved {
                    self.below.insert(bare.clone());
                }
                // Saved with its module too.
                if saved == name || !self.replaced.contains_key(&bare) {
                    self.replaced.insert(bare, tensor.clone());
                }
                continue;
            };
            let change = self.changes.entry(module.replace(".base_layer", "")).or_default();
            let bias = rest.ends_with("bias");
            let slot = match part {
                "lora_A" if !bias => &mut change.a,
                "lora_B" if bias => &mut change.bias,
                "lora_B" => &mut change.b,
                "lora_embedding_A" => {
                    change.is_embedding = true;
                    &mut change.a
                }
                "lora_embedding_B" => {
                    change.is_embedding = true;
                    &mut change.b
                }
                "lora_magnitude_vector" => &mut change.magnitude,
                _ => {
                    return Err(refused(
                        &self.path,
                        format!("`{}` is not part of a LoRA adapter", tensor.name.escape_debug()),
                    ));
                }
            };
            if let Some(other) = slot.replace(tensor.clone()) {
                let why = format!(
                    "`{}` and `{}` are the same part",
                    other.name.escape_debug(),
                    tensor.name.escape_debug()
                );
                return Err(refused(&self.path, why));
            }
        }
        match self.changes.is_empty() {
            true => Err(refused(&self.path, "it has no LoRA matrices".into())),
            false => Ok(()),
        }
    }

    /// Finds ranks and scales, and refuses what does not fit together or is not finite.
    fn check(&mut self, settings: &Scale) -> Result<()> {
        let (path, reader) = (self.path.clone(), self.reader.clone());
        for (module, change) in &mut self.changes {
            let shown = module.escape_debug();
            let (Some(a), Some(b)) = (&change.a, &change.b) else {
                let lacking = if change.a.is_none() { "lora_A" } else { "lora_B" };
                return Err(refused(&path, format!("`{shown}` has no {lacking}")));
            };
            if settings.dora && change.magnitude.is_none() {
                let why = format!("`{shown}` has no lora_magnitude_vector, and {CONFIG} says use_dora");
                return Err(refused(&path, why));
            }
            if !settings.dora && change.magnitude.is_some() {
                let why =
                    format!("`{shown}` has a lora_magnitude_vector, and {CONFIG} does not say use_dora");
                return Err(refused(&path, why));
            }
            let rank = settings.rank_of(module);
            let (rows, columns) = (a.shape.first().copied(), b.shape.get(1).copied());
            if rank < 1.0 || rank.fract() != 0.0 {
                return Err(refused(
                    &path,
                    format!("the rank of `{shown}` is {rank} by {CONFIG}, and must be 1 or more"),
                ));
            }
            if rows != Some(rank as usize) || columns != rows || a.numel() == 0 || b.numel() == 0 {
                let why = format!(
                    "the matrices of `{shown}` have the shapes {:?} and {:?}, which is not of the rank {rank} that {CONFIG} says",
                    a.shape, b.shape
                );
                return Err(refused(&path, why));
            }
            change.rank = rank as usize;
            change.scaling = settings.scaling_of(module, rank);
            if !change.scaling.is_finite() {
                return Err(refused(&path, format!("the scale of `{shown}` is {}", change.scaling)));
            }
            let parts = [&change.a, &change.b, &change.magnitude, &change.bias];
            for tensor in parts.into_iter().flatten() {
                finite(&path, &reader, tensor)?;
            }
        }
        for tensor in self.replaced.values() {
            finite(&path, &reader, tensor)?;
        }
        Ok(())
    }

    /// Refuses an adapter without the modules that were saved with it. PEFT lists names of which a model has only some.
    fn check_saved(&self, config: &Map<String, Json>) -> Result<()> {
        let listed = config.get("modules_to_save").and_then(Json::as_array);
        let names: Vec<&str> = listed.into_iter().flatten().filter_map(Json::as_str).collect();
        let is_part = |name: &String| {
            let module = name.rsplit_once('.').map_or(name.as_str(), |(module, _)| module);
            names.iter().any(|listed| format!(".{module}.").contains(&format!(".{listed}.")))
        };
        if names.is_empty() || self.replaced.keys().any(is_part) {
            return Ok(());
        }
        let why = format!(
            "{CONFIG} lists modules_to_save ({}), and the adapter has none of them",
            names.join(", ")
        );
        Err(refused(&self.path, why))
    }

    /// Refuses matrices of modules that its configuration does not mean, which PEFT does not load, and an adapter that was made for
    /// another kind of model than `base` is.
    pub fn check_meant(&self, base: &Checkpoint) -> Result<()> {
        if let Some(module) = self.changes.keys().find(|module| !self.meant.has(module)) {
            let module = module.escape_debug();
            let why =
                format!("it has matrices of `{module}`, which target_modules in {CONFIG} does not mean");
            return Err(refused(&self.path, why));
        }
        if let Some(kind) = &self.kind
            && let Some(own) = modules::kind(base).filter(|own| !modules::is_of_kind(own, kind))
        {
            let why = format!(
                "it is an adapter for another base: it was made for a class of {}, and the model_type of {} is {}",
                kind.escape_debug(),
                base.path.display(),
                own.escape_debug()
            );
            return Err(refused(&self.path, why));
        }
        Ok(())
    }

    /// Refuses an adapter that lacks matrices of modules of `base` that its configuration means: these would stay as they were.
    pub fn check_whole(&self, base: &Checkpoint) -> Result<()> {
        let lacking = self.meant.lacking(base, self.changes.keys());
        if lacking.is_empty() {
            return Ok(());
        }
        let lacking = listed(lacking.iter().map(String::as_str));
        let why = format!("it has no matrices of {lacking}, which target_modules in {CONFIG} means");
        Err(refused(&self.path, why))
    }

    /// The name of the model that it was trained for, and that of `base`, where both are known and they are not the same.
    pub fn other_name(&self, base: &Checkpoint) -> Option<(String, String)> {
        let own = base.model.config.as_ref().and_then(|config| match lookup(config, "_name_or_path") {
            Some(Value::String(name)) if !name.is_empty() => Some(name.clone()),
            _ => None,
        })?;
        let last = |name: &str| {
            name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().map(str::to_ascii_lowercase)
        };
        let trained = self.base.clone()?;
        (last(&trained) != last(&own)).then_some((trained, own))
    }

    /// A tensor of it.
    pub fn input(&self, tensor: &TensorInfo) -> Input {
        Input::new(&self.reader, tensor)
    }
}

/// Refuses the adapter in `path` for the reason `why`.
pub(crate) fn refused(path: &Path, why: String) -> Error {
    Error::Source { path: path.to_path_buf(), why, remedy: None }
}

/// Refuses values that are not finite, which merging would spread over whole matrices.
fn finite(path: &Path, reader: &Arc<Reader>, tensor: &TensorInfo) -> Result<()> {
    let name = tensor.name.escape_debug();
    if !is_made(tensor.dtype) {
        let why =
            format!("`{name}` is {}, and an adapter's tensors are floating-point numbers", tensor.dtype);
        return Err(refused(path, why));
    }
    let values = Input::new(reader, tensor).to_f32()?;
    match values.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(refused(path, format!("`{name}` has {} at {at}", values[at]))),
        None => Ok(()),
    }
}

/// A name as module, part and what follows: `q_proj`, `lora_A`, `default.weight`.
fn split(name: &str) -> Option<(&str, &str, &str)> {
    let at = name.find(".lora_").filter(|_| !name.starts_with("lora_"))?;
    let rest = &name[at + 1..];
    let (part, rest) = rest.split_once('.').unwrap_or((rest, ""));
    Some((&name[..at], part, rest))
}

/// What ranks and scales follow from.
struct Scale {
    rank: f64,
    alpha: f64,
    /// Whether alpha is divided by the root of the rank.
    by_root: bool,
    /// Whether each change has a magnitude.
    dora: bool,
    ranks: Vec<(Regex, f64)>,
    alphas: Vec<(Regex, f64)>,
}

impl Scale {
    fn of(patterns: &[(Regex, f64)], module: &str, usual: f64) -> f64 {
        patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map_or(usual, |(_, number)| *number)
    }

    fn rank_of(&self, module: &str) -> f64 {
        Scale::of(&self.ranks, module, self.rank)
    }

    fn scaling_of(&self, module: &str, rank: f64) -> f64 {
        Scale::of(&self.alphas, module, self.alpha) / if self.by_root { rank.sqrt() } else { rank }
    }
}

/// The numbers that `key` has for modules by patterns: `(.*\.)?(PATTERN)$`, as `get_pattern_key` in PEFT's `utils/other.py` has it.
fn patterns(path: &Path, config: &Map<String, Json>, key: &str) -> Result<Vec<(Regex, f64)>> {
    let Some(entries) = config.get(key).filter(|value| !value.is_null()) else { return Ok(Vec::new()) };
    let wrong = |what: &str| refused(path, format!("{key} in {CONFIG} {what}"));
    let entries = entries.as_object().ok_or_else(|| wrong("is not an object of patterns and numbers"))?;
    let one = |(pattern, number): (&String, &Json)| {
        let regex = Regex::new(&format!("^(.*\\.)?({pattern})$"));
        let regex =
            regex.map_err(|_| wrong(&format!("has `{}`, which is not a pattern", pattern.escape_debug())))?;
        let number = number.as_f64().ok_or_else(|| wrong("has a value that is not a number"))?;
        Ok((regex, number))
    };
    entries.iter().map(one).collect()
}

/// The configuration in `path`.
fn config(path: &Path) -> Result<Map<String, Json>> {
    let mut bytes = Vec::new();
    let read = path.stored_bytes().and_then(|file| file.take(MAX_CONFIG + 1).read_to_end(&mut bytes));
    read.map_err(|e| ReadError::io(path, &e).hint("an adapter of PEFT has its ranks and scales there"))?;
    if bytes.len() as u64 > MAX_CONFIG {
        return Err(ReadError::unsupported("is larger than any adapter's configuration")
            .in_file(path)
            .into());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Json::Object(config)) => Ok(config),
        Ok(_) => Err(ReadError::damaged("is not a JSON object").in_file(path).into()),
        Err(error) => Err(ReadError::damaged(format!("is not valid JSON: {error}")).in_file(path).into()),
    }
}
