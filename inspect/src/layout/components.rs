//! Folders whose parts are one checkpoint: several models, each in a folder of its own (diffusers, sentence-transformers,
//! adapters beside their base), or a model and its optimizer that were saved by many ranks (accelerate).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component as Step, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::companion::{companions, is_companion, kind};
use super::folder::FAMILIES;
use super::step::from_name;
use super::{LAYOUTS, Layout, MAX_CONFIG, Set, find_in, name, read_json, single, stands_for_files};
use crate::bytes::Stamp;
use crate::bytes::staged;
use crate::bytes::stored::{Entry, Kind, Stored};
use crate::format::{Extension, recognises};
use crate::{Damage, DamageKind, Error, Notice, NoticeKind, Result};

pub(super) const LAYOUT: Layout =
    Layout { recognises: |path| composition(&folder_of(path)).is_some(), set, identity, ..single::LAYOUT };

/// A model of such a folder, or its optimizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Component {
    /// What its tensors are called after; nothing for those of the folder's own model.
    pub name: String,
    /// What of it is opened.
    pub path: PathBuf,
    /// Whether it holds weights, rather than what a trainer keeps of them.
    pub is_model: bool,
}

/// What a folder consists of.
#[derive(Debug, Default)]
struct Composition {
    components: Vec<Component>,
    /// Components that the folder names and that are not there.
    missing: Vec<String>,
    /// The file that names them.
    listed_in: Option<&'static str>,
    /// What else is wrong.
    faults: Vec<Damage>,
    notices: Vec<Notice>,
}

/// The ways in which folders consist of others.
const KINDS: [fn(&Path) -> Option<Composition>; 7] =
    [pipeline, modules, ranks, reinforced, numbered, beside, remains];

/// What the folder at `path` consists of, if it is more than one model's files.
fn composition(folder: &Path) -> Option<Composition> {
    if !folder.is_stored_folder() || is_whole(folder) {
        return None;
    }
    KINDS.iter().find_map(|kind| kind(folder))
}

/// Whether `folder` is one checkpoint as it is, such as what many ranks saved.
fn is_whole(folder: &Path) -> bool {
    LAYOUTS.iter().any(|layout| (layout.is_whole)(folder))
}

/// The components of the folder at `path` that are there, if it is such a folder.
pub(super) fn of(folder: &Path) -> Option<Vec<Component>> {
    composition(folder).map(|whole| whole.components)
}

/// The folder that `path` stands for: itself, or that of a file which lists the components beside it.
fn folder_of(path: &Path) -> PathBuf {
    let lists = [PIPELINE, MODULES].contains(&name(path).as_str()) && path.is_stored_file();
    if lists { staged::folder_of(path).to_path_buf() } else { path.to_path_buf() }
}

fn identity(path: &Path) -> PathBuf {
    folder_of(path)
}

fn set(path: &Path) -> Result<Set> {
    let folder = &*folder_of(path);
    let Composition { components, missing, listed_in, faults, notices } =
        composition(folder).ok_or_else(|| Error::unsupported("is not a folder of components"))?;
    let missing = (!missing.is_empty()).then(|| {
        let count = missing.len() + components.len();
        let names: Vec<String> = missing.iter().take(3).map(|name| name.escape_debug().to_string()).collect();
        let more = if missing.len() > 3 { " and more" } else { "" };
        let by = listed_in.map(|file| format!(" that {file} names")).unwrap_or_default();
        let what = format!("{} of {count} components{by} missing: {}{more}", missing.len(), names.join(", "));
        Damage::new(DamageKind::MissingShards, what)
    });
    let missing = Damage::joined(missing.into_iter().chain(faults));
    let beside = [Stamp::of(folder)].into_iter().chain(listed_in.map(|file| Stamp::of(&folder.join(file))));
    Ok(Set { components, missing, notices, beside: beside.collect(), ..Set::default() })
}

/// What is directly in a folder.
enum Weights {
    None,
    At(PathBuf),
    /// Files of which none is named as the one that libraries load.
    Several,
}

/// The weights directly in `folder`, in whatever form: of several, the one that libraries load.
fn weights(folder: &Path) -> Weights {
    if is_whole(folder) {
        return Weights::At(folder.to_path_buf());
    }
    if let Some(form) = form_in(folder) {
        return Weights::At(form);
    }
    let found = find_in(folder).map(|found| found.checkpoints).unwrap_or_default();
    match <[PathBuf; 1]>::try_from(found) {
        Ok([one]) => Weights::At(one),
        Err(none) if none.is_empty() => Weights::None,
        Err(_) => Weights::Several,
    }
}

/// The model in `folder` that is named as libraries name one.
fn form_in(folder: &Path) -> Option<PathBuf> {
    let forms: Vec<&str> = FAMILIES.iter().flat_map(|family| family.forms).collect();
    file_in(folder, &forms)
}

/// The weights of an adapter in `folder`.
fn adapter_in(folder: &Path) -> Option<PathBuf> {
    file_in(folder, &["adapter_model.safetensors", "adapter_model.bin"])
}

/// The first of `names` that is a file of `folder`.
fn file_in(folder: &Path, names: &[impl AsRef<str>]) -> Option<PathBuf> {
    names.iter().map(|name| folder.join(name.as_ref())).find(|path| path.is_stored_file())
}

impl Composition {
    /// Adds the model in the folder `name` of `folder`, of `folder` itself if it has no name; notes that it is missing if
    /// it `must` be there.
    fn add(&mut self, folder: &Path, name: &str, must: bool) {
        let shown = || if name.is_empty() { "the model of the folder itself" } else { name }.to_string();
        match weights(&folder.join(name)) {
            Weights::At(path) => self.push(name, path),
            Weights::None if must => self.missing.push(shown()),
            Weights::None => {}
            Weights::Several => {
                self.missing.push(shown() + " (several files, and which is the model is not known)")
            }
        }
    }

    fn push(&mut self, name: &str, path: PathBuf) {
        self.components.push(Component { name: name.to_string(), path, is_model: true });
    }

    /// It, unless it is nothing but a folder's own model.
    fn if_any(self) -> Option<Self> {
        let more = self.components.iter().any(|component| !component.name.is_empty());
        (more || !self.missing.is_empty() || !self.faults.is_empty()).then_some(self)
    }

    /// What there is in `folder`, whose list of components is spoilt.
    fn unlisted(folder: &Path, damage: Damage) -> Self {
        let mut whole = Composition { faults: vec![damage], ..Composition::default() };
        for name in std::iter::once(String::new()).chain(folders(folder)) {
            if let Some(path) = form_in(&folder.join(&name)) {
                whole.push(&name, path);
            }
        }
        whole
    }
}

/// Whether `name` is that of a folder within another: a path could lead anywhere.
fn is_inside(name: &str) -> bool {
    let mut steps = Path::new(name).components();
    matches!((steps.next(), steps.next()), (Some(Step::Normal(_)), None))
}

/// What the file `index` of `folder` lists, or what is wrong with it; `None` if it is not there.
fn listed<T: DeserializeOwned>(folder: &Path, index: &str) -> Option<Result<T, Damage>> {
    let path = folder.join(index);
    path.is_stored_file().then(|| {
        read_json(&path, MAX_CONFIG).ok_or_else(|| {
            let what = format!(
                "{index} is not valid JSON, or lists no components: which there should be is not known"
            );
            Damage::new(DamageKind::Inconsistent, what)
        })
    })
}

/// Tells of a component that is no folder in the one whose index names it.
fn outside(index: &str, name: &str) -> Notice {
    let text =
        format!("{index} names `{}`, which is not a subfolder: it is not looked at", name.escape_debug());
    Notice::new(NoticeKind::Contradiction, text)
}

/// Whether there is nothing in `folder`.
fn is_empty(folder: &Path) -> bool {
    folder.stored_entries().is_ok_and(|entries| entries.is_empty())
}

/// What lists the components of a pipeline, and the modules of a model of sentence-transformers.
const PIPELINE: &str = "model_index.json";
const MODULES: &str = "modules.json";

/// A pipeline of diffusers: `model_index.json` names the library and the class of each component.
fn pipeline(folder: &Path) -> Option<Composition> {
    const INDEX: &str = PIPELINE;
    /// What classes end with that have no weights.
    const PLAIN: [&str; 5] = ["Scheduler", "Tokenizer", "TokenizerFast", "Processor", "FeatureExtractor"];
    let index: BTreeMap<String, serde_json::Value> = match listed(folder, INDEX)? {
        Ok(index) => index,
        Err(damage) => return Some(Composition::unlisted(folder, damage)),
    };
    let mut whole = Composition { listed_in: Some(INDEX), ..Composition::default() };
    for (name, value) in &index {
        // The library and the class; those that are not used are null.
        let Some([serde_json::Value::String(_), serde_json::Value::String(class)]) =
            value.as_array().map(Vec::as_slice)
        else {
            continue;
        };
        if !is_inside(name) {
            whole.notices.push(outside(INDEX, name));
            continue;
        }
        let inner = folder.join(name);
        let plain = PLAIN.iter().any(|end| class.ends_with(end));
        // Of other classes, those that have no weights have configurations of other names.
        let has_weights = !plain && inner.join("config.json").is_stored_file();
        whole.add(folder, name, !inner.is_stored_folder() || is_empty(&inner) || has_weights);
    }
    whole.if_any()
}

#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    class: String,
}

/// A model of sentence-transformers: `modules.json` names the folder and the class of each module.
fn modules(folder: &Path) -> Option<Composition> {
    const INDEX: &str = MODULES;
    /// What the library keeps beside it.
    const BESIDE: [&str; 2] = ["config_sentence_transformers.json", "sentence_bert_config.json"];
    /// Classes that cannot be without weights,
    const WEIGHTED: [&str; 6] = ["Transformer", "Dense", "LSTM", "CNN", "LayerNorm", "StaticEmbedding"];
    /// and those that save nothing.
    const BARE: [&str; 1] = ["Normalize"];
    // Without the list the library takes other modules than were trained, without a word.
    if !folder.join(INDEX).is_stored_file() && folder.join(BESIDE[0]).is_stored_file() {
        let what =
            format!("{INDEX}, which lists its modules, is missing: which there should be is not known");
        return Some(Composition::unlisted(folder, Damage::new(DamageKind::MissingShards, what)));
    }
    let modules: Vec<Module> = match listed(folder, INDEX)? {
        Ok(modules) => modules,
        // Other programs have files of this name, too.
        Err(damage) => {
            let is_theirs = BESIDE.iter().any(|file| folder.join(file).is_stored_file());
            return is_theirs.then(|| Composition::unlisted(folder, damage));
        }
    };
    let mut whole = Composition { listed_in: Some(INDEX), ..Composition::default() };
    let mut seen = BTreeSet::new();
    for Module { path, class } in modules.iter().filter(|module| seen.insert(module.path.as_str())) {
        let class = class.rsplit('.').next().unwrap_or_default();
        let must = WEIGHTED.contains(&class);
        if path.is_empty() || is_inside(path) {
            let inner = folder.join(path);
            let gone = !path.is_empty() && (!inner.is_stored_folder() || is_empty(&inner));
            whole.add(folder, path, must || (gone && !BARE.contains(&class)));
        } else {
            whole.notices.push(outside(INDEX, path));
            if must {
                whole.missing.push(path.clone());
            }
        }
    }
    whole.if_any()
}

/// The folders in `folder`, by name.
fn folders(folder: &Path) -> Vec<String> {
    let entries = folder.stored_entries().unwrap_or_default().into_iter();
    let mut folders: Vec<PathBuf> =
        entries.filter(|entry| entry.kind == Kind::Folder).map(|entry| entry.path).collect();
    super::sort(&mut folders);
    folders.iter().map(|path| name(path)).collect()
}

/// What accelerate saves of a model, and its optimizer, that lie on many ranks: folders of theirs within the checkpoint's.
fn ranks(folder: &Path) -> Option<Composition> {
    const MODELS: &str = "pytorch_model_fsdp_";
    const OPTIMIZERS: &str = "optimizer_";
    let mut whole = Composition::default();
    for (begin, is_model) in [(MODELS, true), (OPTIMIZERS, false)] {
        for inner in folders(folder) {
            let number = inner.strip_prefix(begin).and_then(|number| number.parse::<u32>().ok());
            let path = folder.join(&inner);
            if let Some(number) = number
                && is_whole(&path)
            {
                // Names are the state dict's own where there is one of each.
                let name = if number == 0 { String::new() } else { inner };
                whole.components.push(Component { name, path, is_model });
            }
        }
    }
    if whole.components.is_empty() {
        return None;
    }
    // The model may have been saved as one file beside its optimizer.
    if !whole.components.iter().any(|component| component.is_model) {
        let own = form_in(folder).or_else(|| file_in(folder, &["pytorch_model_fsdp.bin"]));
        match own.or_else(|| adapter_in(folder)).or_else(|| only_model(folder)) {
            Some(path) => whole.components.insert(0, Component { name: String::new(), path, is_model: true }),
            None => whole.faults.push(without_weights(&["optimizer_0".into()])),
        }
    }
    Some(whole)
}

/// The networks of reinforcement learning that trainers save in folders of a step, of many ranks each: the one that is
/// trained first (verl, SkyRL).
const NETWORKS: [&str; 4] = ["actor", "policy", "critic", "reward_model"];
/// What they keep beside these: how far the data was read, and the trainer's own state.
const OF_TRAINER: [&str; 2] = ["data.pt", "trainer_state.pt"];

/// The folders of such networks in `folder`.
fn networks(folder: &Path) -> Vec<&'static str> {
    // A web server cannot list a folder, and is not asked for each of them.
    if !folder.is_stored_folder() {
        return Vec::new();
    }
    let of_ranks = |path: &Path| is_whole(path) || super::per_rank::are_in(path);
    NETWORKS.into_iter().filter(|name| of_ranks(&folder.join(name))).collect()
}

/// The networks of a step of reinforcement learning. One alone is the folder's own model.
fn reinforced(folder: &Path) -> Option<Composition> {
    let networks = networks(folder);
    let mut whole = Composition::default();
    for inner in &networks {
        whole.push(if networks.len() > 1 { inner } else { "" }, folder.join(inner));
    }
    (!networks.is_empty()).then_some(whole)
}

/// Whether the file at `path` is what a trainer keeps beside the networks of a step.
pub(super) fn is_beside_networks(path: &Path) -> bool {
    OF_TRAINER.contains(&name(path).as_str()) && !networks(staged::folder_of(path)).is_empty()
}

/// The folder of the only network in `folder`, if that is a step of reinforcement learning.
pub(super) fn only_network(folder: &Path) -> Option<PathBuf> {
    match networks(folder)[..] {
        [inner] => Some(folder.join(inner)),
        _ => None,
    }
}

/// The only checkpoint directly in `folder`, such as the files of ranks, beside what a trainer keeps.
fn only_model(folder: &Path) -> Option<PathBuf> {
    let mut found = find_in(folder).ok()?.checkpoints;
    found.retain(|path| !is_companion(path));
    <[PathBuf; 1]>::try_from(found).ok().map(|[one]| one)
}

/// The models that accelerate saved of one run, each in files of its own: `model.safetensors`, `model_1.safetensors`, ….
fn numbered(folder: &Path) -> Option<Composition> {
    const STEMS: [&str; 2] = ["model", "pytorch_model"];
    const ENDINGS: [&str; 4] = [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json"];
    // Without it these may be steps of a run.
    if companions(folder).ok()?.is_empty() {
        return None;
    }
    STEMS.iter().find_map(|stem| {
        let of = |inner: &str| file_in(folder, &ENDINGS.map(|ending| format!("{inner}{ending}")));
        let mut whole = Composition::default();
        whole.push("", of(stem)?);
        for number in 1.. {
            let inner = format!("{stem}_{number}");
            let Some(path) = of(&inner) else { break };
            whole.push(&inner, path);
        }
        whole.if_any()
    })
}

/// What describes an adapter, beside its weights.
const ADAPTER: &str = "adapter_config.json";

/// A model, what trainers of diffusers saved beside it (such as the average of its weights), and adapters.
fn beside(folder: &Path) -> Option<Composition> {
    let mut whole = Composition::default();
    let (own, adapter) = (form_in(folder), adapter_in(folder));
    let is_trainers = || companions(folder).is_ok_and(|files| !files.is_empty());
    let names_adapter = |folder: &Path| folder.join(ADAPTER).is_stored_file();
    let without = |folder: &Path| names_adapter(folder) && !holds_weights(folder);
    if own.is_none() && adapter.is_none() && !names_adapter(folder) && !is_trainers() {
        return None;
    }
    if adapter.is_none() && (own.is_some() && names_adapter(folder) || without(folder)) {
        whole.missing.push("the weights of the adapter in the folder itself".into());
        whole.listed_in = Some(ADAPTER);
    }
    match (own, adapter) {
        (Some(model), Some(adapter)) => {
            whole.push("", model);
            whole.push("adapter_model", adapter);
        }
        (model, adapter) => {
            if let Some(path) = model.or(adapter) {
                whole.push("", path);
            }
        }
    }
    // Those of steps are checkpoints of their own.
    let is_checkpoint = |inner: &String| {
        ["checkpoint", "epoch"].iter().any(|word| inner.starts_with(word)) || from_name(inner).is_some()
    };
    let inner: Vec<String> = folders(folder).into_iter().filter(|inner| !is_checkpoint(inner)).collect();
    let is_part = |inner: &String| {
        let within = folder.join(inner);
        let is_diffusers = form_in(&within).is_some_and(|form| name(&form).starts_with("diffusion_"));
        let is_adapter = names_adapter(&within) && adapter_in(&within).is_some();
        is_diffusers || is_adapter || without(&within) || is_named_by_diffusers(&within)
    };
    let (parts, others): (Vec<String>, Vec<String>) = inner.into_iter().partition(is_part);
    // What a trainer keeps beside folders belongs to them only where they are all of one model.
    let is_bare = whole.components.is_empty() && whole.missing.is_empty();
    if is_bare && others.iter().any(|inner| holds_weights(&folder.join(inner))) {
        return None;
    }
    for part in parts {
        whole.add(folder, &part, true);
    }
    whole.if_any()
}

/// Whether `folder` describes a model of diffusers, whether its weights are there or not.
fn is_named_by_diffusers(folder: &Path) -> bool {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "_class_name")]
        _class: String,
        #[serde(rename = "_diffusers_version")]
        _version: String,
    }
    read_json::<Config>(&folder.join("config.json"), MAX_CONFIG).is_some()
}

/// What is left of a checkpoint whose weights are gone: what its trainer keeps beside them, or a configuration alone in
/// the folder of a step.
fn remains(folder: &Path) -> Option<Composition> {
    const STATE: &str = "trainer_state.json";
    let kept = companions(folder).ok()?;
    let is_step = from_name(&name(folder)).is_some();
    let mut left: Vec<String> = kept.iter().map(|path| name(path)).collect();
    left.extend(
        [STATE, "config.json"]
            .into_iter()
            .filter(|file| folder.join(file).is_stored_file())
            .map(String::from),
    );
    // One of them may have been put there by itself, and so may a configuration.
    let kinds: BTreeSet<String> = kept.iter().map(|path| kind(path)).collect();
    let state = left.iter().any(|file| file == STATE);
    let enough = kinds.len() > 1 || (is_step && !left.is_empty()) || (state && !kept.is_empty());
    if !enough || holds_weights(folder) {
        return None;
    }
    Some(Composition { faults: vec![without_weights(&left)], ..Composition::default() })
}

/// Whether a file at any depth in `folder` holds weights, or what should be some, by its name or its first bytes: also
/// those that are read elsewhere only.
fn holds_weights(folder: &Path) -> bool {
    const OTHERS: [&str; 9] = ["h5", "hdf5", "keras", "msgpack", "onnx", "tflite", "pb", "mlmodel", "distcp"];
    let mut rest = vec![folder.to_path_buf()];
    while let Some(folder) = rest.pop() {
        let Ok(entries) = folder.stored_entries() else { continue };
        for Entry { path, kind } in entries {
            if kind == Kind::Folder {
                rest.push(path);
            } else if !is_companion(&path) {
                let named = matches!(Extension::of(&path), Some(Extension::Own));
                let is_other = path.extension().is_some_and(|e| OTHERS.iter().any(|other| e == *other));
                if named || is_other || stands_for_files(&path) || recognises(&path) {
                    return true;
                }
            }
        }
    }
    false
}

/// The weights of a checkpoint of which only `left` is there.
fn without_weights(left: &[String]) -> Damage {
    let first: Vec<String> = left.iter().take(3).map(|name| name.escape_debug().to_string()).collect();
    let (are, more) =
        (if left.len() == 1 { "is" } else { "are" }, if left.len() > 3 { " and more" } else { "" });
    let what = format!("the weights are missing: only {}{more} {are} there", first.join(", "));
    Damage::new(DamageKind::MissingShards, what)
}
