//! Folders whose parts are one checkpoint: several models, each in a folder of its own (diffusers, sentence-transformers,
//! adapters beside their base), or a model and its optimizer that were saved by many ranks (accelerate).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component as Step, Path, PathBuf};

use serde::Deserialize;

use super::companion::companions;
use super::folder::FAMILIES;
use super::step::from_name;
use super::{LAYOUTS, Layout, MAX_CONFIG, Set, find_in, name, read_json, single};
use crate::bytes::Stamp;
use crate::{Damage, DamageKind, Error, Result};

pub(super) const LAYOUT: Layout =
    Layout { recognises: |path| composition(path).is_some(), set, ..single::LAYOUT };

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
}

/// The ways in which folders consist of others.
const KINDS: [fn(&Path) -> Option<Composition>; 4] = [pipeline, modules, ranks, beside];

/// What the folder at `path` consists of, if it is more than one model's files.
fn composition(folder: &Path) -> Option<Composition> {
    if !folder.is_dir() || is_whole(folder) {
        return None;
    }
    KINDS.iter().find_map(|kind| kind(folder))
}

/// Whether `folder` is one checkpoint as it is, such as what many ranks saved.
fn is_whole(folder: &Path) -> bool {
    LAYOUTS.iter().any(|layout| (layout.is_whole)(folder))
}

/// The components of the folder at `path`; none if it is none of such folders.
pub(super) fn of(folder: &Path) -> Vec<Component> {
    composition(folder).map(|whole| whole.components).unwrap_or_default()
}

fn set(folder: &Path) -> Result<Set> {
    let Composition { components, missing, listed_in } =
        composition(folder).ok_or_else(|| Error::unsupported("is no folder of components"))?;
    let missing = (!missing.is_empty()).then(|| {
        let count = missing.len() + components.len();
        let names: Vec<String> = missing.iter().take(3).map(|name| name.escape_debug().to_string()).collect();
        let more = if missing.len() > 3 { " and more" } else { "" };
        let by = listed_in.map(|file| format!(" that {file} names")).unwrap_or_default();
        let what = format!("{} of {count} components{by} missing: {}{more}", missing.len(), names.join(", "));
        Damage::new(DamageKind::MissingShards, what)
    });
    let beside = [Stamp::of(folder)].into_iter().chain(listed_in.map(|file| Stamp::of(&folder.join(file))));
    Ok(Set { components, missing, beside: beside.collect(), ..Set::default() })
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
fn file_in(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
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
        (more || (!self.missing.is_empty() && !self.components.is_empty())).then_some(self)
    }
}

/// Whether `name` is that of a folder within another: a path could lead anywhere.
fn is_inside(name: &str) -> bool {
    let mut steps = Path::new(name).components();
    matches!((steps.next(), steps.next()), (Some(Step::Normal(_)), None))
}

/// A pipeline of diffusers: `model_index.json` names the library and the class of each component.
fn pipeline(folder: &Path) -> Option<Composition> {
    const INDEX: &str = "model_index.json";
    let index: BTreeMap<String, serde_json::Value> = read_json(&folder.join(INDEX), MAX_CONFIG)?;
    let mut whole = Composition { listed_in: Some(INDEX), ..Composition::default() };
    let is_used = |value: &serde_json::Value| {
        value.as_array().is_some_and(|pair| pair.len() == 2 && pair.iter().all(serde_json::Value::is_string))
    };
    for (name, _) in index.iter().filter(|(name, value)| is_inside(name) && is_used(value)) {
        let inner = folder.join(name);
        // Schedulers and tokenizers have configurations of other names.
        whole.add(folder, name, !inner.is_dir() || inner.join("config.json").is_file());
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
    const INDEX: &str = "modules.json";
    /// Classes that cannot be without weights.
    const WEIGHTED: [&str; 6] = ["Transformer", "Dense", "LSTM", "CNN", "LayerNorm", "StaticEmbedding"];
    let modules: Vec<Module> = read_json(&folder.join(INDEX), MAX_CONFIG)?;
    let mut whole = Composition { listed_in: Some(INDEX), ..Composition::default() };
    let mut seen = BTreeSet::new();
    for Module { path, class } in modules.iter().filter(|module| seen.insert(module.path.as_str())) {
        let must = class.rsplit('.').next().is_some_and(|class| WEIGHTED.contains(&class));
        if path.is_empty() || is_inside(path) {
            whole.add(folder, path, must);
        } else if must {
            whole.missing.push(path.clone());
        }
    }
    whole.if_any()
}

/// The folders in `folder`, by name.
fn folders(folder: &Path) -> Vec<String> {
    let entries: Vec<_> =
        std::fs::read_dir(folder).map(|entries| entries.flatten().collect()).unwrap_or_default();
    let is_folder = |entry: &&std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let mut folders: Vec<PathBuf> = entries.iter().filter(is_folder).map(|entry| entry.path()).collect();
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
    if !whole.components.iter().any(|component| component.is_model)
        && let Some(path) = form_in(folder).or_else(|| file_in(folder, &["pytorch_model_fsdp.bin"]))
    {
        whole.components.insert(0, Component { name: String::new(), path, is_model: true });
    }
    Some(whole)
}

/// A model, what trainers of diffusers saved beside it (such as the average of its weights), and adapters.
fn beside(folder: &Path) -> Option<Composition> {
    let mut whole = Composition::default();
    let (own, adapter) = (form_in(folder), adapter_in(folder));
    let is_trainers = || companions(folder).is_ok_and(|files| !files.is_empty());
    if own.is_none() && adapter.is_none() && !is_trainers() {
        return None;
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
    for inner in folders(folder) {
        // Those are checkpoints of their own.
        let is_checkpoint = ["checkpoint", "epoch"].iter().any(|word| inner.starts_with(word));
        if is_checkpoint || from_name(&inner).is_some() {
            continue;
        }
        let within = folder.join(&inner);
        let is_diffusers = form_in(&within).is_some_and(|form| name(&form).starts_with("diffusion_"));
        let adapter = adapter_in(&within).filter(|_| within.join("adapter_config.json").is_file());
        if is_diffusers || adapter.is_some() {
            whole.add(folder, &inner, true);
        }
    }
    whole.if_any()
}
