//! What DeepSpeed saves (`runtime/engine.py`): a folder for each tag, and beside them `latest`, which names the last one.
//! Model states hold the module in 16 bits; with ZeRO the fp32 weights and the moments lie in the optimizer's states, as
//! flat vectors divided over the ranks.

mod agreement;
mod experts;
mod flat;
mod kind;
mod lacking;
mod masters;
mod partitions;
mod pipeline;
mod universal;
mod zero;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use self::kind::{Kind, superseded};
use self::zero::Rank;
use super::join::{Opened, Reading, Whole};
use super::tiles::Budget;
use super::{Layout, Set, is_model, name, single, sort};
use crate::bytes::Stamp;
use crate::bytes::staged::folder_of;
use crate::bytes::stored::Stored;
use crate::format::{Contents, add_new};
use crate::metadata::{HashableValue, Value, merge};
use crate::tensor::TensorInfo;
use crate::{Damage, DamageKind, Error, Format, Notice, NoticeKind, Result};

pub(super) const LAYOUT: Layout = Layout { recognises, set, identity, join, is_whole, ..single::LAYOUT };

/// The files that name the last tag.
const POINTERS: [&str; 2] = ["latest", "latest_universal"];
/// The script that DeepSpeed leaves in each folder that it saved into.
const SCRIPT: &str = "zero_to_fp32.py";

fn recognises(path: &Path) -> bool {
    tag_of(path).is_some()
}

/// The folder with the files of the checkpoint that `path` belongs to: a folder of a tag, one that names its last tag, or
/// a file of it.
fn tag_of(path: &Path) -> Option<PathBuf> {
    if path.is_stored_folder() {
        let named = || latest(path).or_else(|| only_pointer(path));
        return if is_tag(path) { Some(path.to_path_buf()) } else { named() };
    }
    let folder = folder_of(path);
    if POINTERS.contains(&name(path).as_str()) {
        return named_by(path).filter(|tag| is_tag(tag));
    }
    if Kind::of(&name(path)).is_some() {
        return path.is_stored_file().then(|| folder.to_path_buf());
    }
    // A state of one parameter in a universal checkpoint, or what they have in common.
    let zero = match universal::is_common(path) {
        true => folder,
        false => folder.parent().filter(|_| universal::is_state(path))?,
    };
    let tag = zero.parent().filter(|_| name(zero) == universal::FOLDER)?;
    is_tag(tag).then(|| tag.to_path_buf())
}

/// Whether `folder` holds what DeepSpeed saved under one tag.
pub(super) fn is_tag(folder: &Path) -> bool {
    let Ok(entries) = folder.stored_entries() else { return false };
    let known = |path: &Path| Kind::of(&name(path)).is_some() && path.is_stored_file();
    let universal = |path: &Path| name(path) == universal::FOLDER && universal::has_weights(folder);
    entries.iter().any(|entry| known(&entry.path) || universal(&entry.path))
}

/// The folder that is named in `folder` as that of the last tag, whether it is there or not.
fn pointed_at(folder: &Path) -> Option<PathBuf> {
    POINTERS.iter().find_map(|file| named_by(&folder.join(file)))
}

/// The folder that the file `pointer` names.
fn named_by(pointer: &Path) -> Option<PathBuf> {
    let mut text = String::new();
    pointer.stored_bytes().ok()?.take(4096).read_to_string(&mut text).ok()?;
    let tag = text.trim();
    // A name with folders in it could point anywhere.
    (Path::new(tag).file_name() == Some(tag.as_ref())).then(|| folder_of(pointer).join(tag))
}

/// The folder of the tag that is named in `folder` as the last one.
pub(super) fn named_in(folder: &Path) -> Option<PathBuf> {
    pointed_at(folder).filter(|tag| is_tag(tag))
}

/// The folder that is named in `folder`, which DeepSpeed saved into, as that of the last tag, and that is not there.
fn lost_in(folder: &Path) -> Option<PathBuf> {
    pointed_at(folder).filter(|tag| !tag.is_stored() && folder.join(SCRIPT).is_stored_file())
}

/// What `latest` in `folder`, which DeepSpeed saved into, names where that leads out of it.
fn strays(folder: &Path) -> Option<Notice> {
    const QUOTED: usize = 80;
    let mut text = String::new();
    folder.join("latest").stored_bytes().ok()?.take(4096).read_to_string(&mut text).ok()?;
    let tag = text.trim();
    let stays = tag.is_empty() || Path::new(tag).file_name() == Some(tag.as_ref());
    if stays || !folder.join(SCRIPT).is_stored_file() {
        return None;
    }
    let tag: String = tag.chars().take(QUOTED).collect();
    let text = format!(
        "the file `latest` names `{}` as the last tag, which is not in this folder, and is not followed",
        tag.escape_debug()
    );
    Some(Notice::new(NoticeKind::Gone, text))
}

/// Tells of a last tag that is named in `folder` and not there.
pub(super) fn points_nowhere(folder: &Path) -> Option<Notice> {
    let Some(tag) = lost_in(folder) else { return strays(folder) };
    let text = format!(
        "the folder of the last tag, `{}`, which the file `latest` names, is not there",
        name(&tag).escape_debug()
    );
    Some(Notice::new(NoticeKind::Gone, text))
}

/// The folders of tags in `folder`.
fn tags(folder: &Path) -> usize {
    let entries = folder.stored_entries();
    entries.map_or(0, |entries| entries.iter().filter(|entry| is_tag(&entry.path)).count())
}

/// The folder of the last tag, of which the pointer to it is all that is left in `folder`.
fn only_pointer(folder: &Path) -> Option<PathBuf> {
    lost_in(folder).filter(|_| !has_models(folder) && tags(folder) == 0)
}

fn has_models(folder: &Path) -> bool {
    folder.stored_entries().is_ok_and(|e| e.iter().any(|entry| is_model(&entry.path)))
}

/// The same, where nothing else in `folder` is a model.
fn latest(folder: &Path) -> Option<PathBuf> {
    named_in(folder).filter(|_| !has_models(folder))
}

/// The folder of the tag that is named in `folder`, if there is no other.
pub(super) fn only_tag(folder: &Path) -> Option<PathBuf> {
    named_in(folder).filter(|_| tags(folder) == 1)
}

/// Whether `folder` is one checkpoint: of a tag, or with one tag that it names.
fn is_whole(folder: &Path) -> bool {
    let one = || latest(folder).is_some() && only_tag(folder).is_some();
    is_tag(folder) || one() || only_pointer(folder).is_some()
}

fn identity(path: &Path) -> PathBuf {
    tag_of(path).unwrap_or_else(|| path.to_path_buf())
}

fn set(path: &Path) -> Result<Set> {
    let folder = identity(path);
    if !folder.is_stored() {
        let what = format!(
            "the weights are missing: the folder of the last tag, `{}`, which the file `latest` names, is not there",
            name(&folder).escape_debug()
        );
        return Err(Error::damaged(what).because(DamageKind::MissingShards).in_file(path));
    }
    let entries = folder.stored_entries().map_err(|e| Error::io(&folder, &e))?;
    let mut files: Vec<PathBuf> = entries
        .into_iter()
        .map(|entry| entry.path)
        .filter(|path| Kind::of(&name(path)).is_some() && path.is_stored_file())
        .collect();
    sort(&mut files);
    // Model states first: they say what the others hold.
    files.sort_by_key(|path| {
        matches!(Kind::of(&name(path)), Some(Kind::Optimizer { .. } | Kind::Experts { .. }))
    });
    files.extend(universal::files(&folder)?);
    let notices = points_nowhere(folder_of(&folder)).into_iter().collect();
    Ok(Set { files, notices, beside: vec![Stamp::of(&folder)], ..Set::default() })
}

/// What one file holds.
struct Saved {
    /// In the file's order.
    tensors: Vec<TensorInfo>,
    numbers: HashMap<String, usize>,
    metadata: Value,
    sizes: Vec<(String, Vec<usize>)>,
}

impl Saved {
    fn of(contents: &mut Contents) -> Self {
        let tensors = std::mem::take(&mut contents.tensors);
        Saved {
            numbers: tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect(),
            tensors,
            metadata: std::mem::replace(&mut contents.metadata, Value::None),
            sizes: std::mem::take(&mut contents.sizes),
        }
    }

    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        Some(&self.tensors[*self.numbers.get(name)?])
    }
}

/// What the files of a save hold, by what they are parts of.
#[derive(Default)]
struct Sorted {
    ranks: BTreeMap<usize, Rank>,
    layers: Vec<pipeline::Layer>,
    /// The optimizers of experts, by what their files are called,
    optimizers: Vec<(String, Saved)>,
    /// and what experts have, by model-parallel rank.
    experts: BTreeMap<usize, experts::Files>,
    parameters: universal::Parameters,
    /// The steps of model states, by what their files are called.
    steps: Vec<(String, u64)>,
}

impl Sorted {
    /// Adds what the file at `path` holds, or why it cannot be read; tells if that is nothing.
    fn add(&mut self, path: &Path, saved: Result<Saved, Damage>) -> Option<Damage> {
        let name = name(path);
        match (Kind::of(&name), saved) {
            (Some(Kind::Model { dp, mp, divided }), Ok(saved)) => {
                let rank = self.ranks.entry(mp).or_default();
                rank.divided |= divided;
                self.steps.extend(agreement::step(&saved).map(|step| (name, step)));
                rank.models.insert(dp, saved);
            }
            (Some(Kind::Optimizer { dp, mp, .. }), saved) => {
                self.ranks.entry(mp).or_default().optimizers.insert(dp, saved);
            }
            (Some(Kind::Layer { layer, mp }), Ok(saved)) => {
                self.layers.push(pipeline::Layer { number: layer, mp, saved });
            }
            // Their names are the module's, with the number of the expert among those of all ranks.
            (Some(Kind::Expert { layer, expert, mp }), Ok(mut saved)) => {
                let own = saved.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone()));
                self.experts.entry(mp).or_default().insert((layer, expert), own.collect());
                self.ranks.entry(mp).or_default().apart.append(&mut saved.tensors);
            }
            (Some(Kind::Experts { .. }), Ok(saved)) => {
                self.optimizers.push((name.trim_end_matches(".pt").to_string(), saved));
            }
            (None, Ok(saved)) => return self.parameters.add(path, saved),
            (None, Err(damage)) => self.parameters.add_unread(path, damage),
            (_, Err(_)) => {}
        }
        None
    }

    /// What is missing, by the files' `names`; of model parallelism there should be `world` ranks, of which `tensor`
    /// divide each tensor.
    fn lacks(&self, names: &[String], world: usize, tensor: usize) -> Vec<Damage> {
        let there = model_parallel(names);
        let mut lacks = Vec::new();
        lacks.extend(lacking::missing_ranks(&there, world));
        lacks.extend(lacking::missing_layers(names));
        if !self.parameters.is_empty() {
            return lacks;
        }
        lacks.extend(lacking::missing_optimizers(&self.ranks));
        lacks.extend(lacking::missing_experts(names, &there, &self.ranks));
        let models = self.ranks.values().flat_map(|rank| rank.models.values());
        let optimizers = models.chain(self.optimizers.iter().map(|(_, saved)| saved));
        let optimizers = optimizers.map(|saved| &saved.metadata);
        lacks.extend(lacking::missing_expert_optimizers(names, optimizers));
        lacks.extend(lacking::missing_stages(names, tensor, &self.ranks));
        let layers = self.layers.iter().flat_map(|layer| &layer.saved.tensors);
        let shapes = layers.map(|tensor| tensor.shape.as_slice());
        lacks.extend(lacking::uncounted_layers(names, shapes, &self.ranks));
        lacks
    }
}

/// The model-parallel ranks of which files are there.
fn model_parallel(names: &[String]) -> BTreeSet<usize> {
    names.iter().filter_map(|name| Kind::of(name)?.model_parallel()).collect()
}

fn join(files: Vec<Opened>) -> Result<Whole> {
    let mut contents = Contents::new(Format::DeepSpeed);
    let mut reading = Reading::default();
    let mut sorted = Sorted::default();
    let mut renamed = Vec::new();
    let names: Vec<String> = files.iter().map(|file| name(&file.path)).collect();
    let unused = superseded(&names, &mut contents.faults);
    for file in files {
        let path = file.path.clone();
        let file_name = name(&path);
        let saved = reading.read(file, &file_name, &mut contents.faults).map(|mut more| {
            contents.listing_damaged |= more.listing_damaged;
            contents.notices.append(&mut more.notices);
            add_new(&mut contents.globals, std::mem::take(&mut more.globals));
            if !unused.contains(file_name.as_str()) {
                renamed.extend(agreement::renamed(&file_name, more.root.as_deref()));
            }
            Saved::of(&mut more)
        });
        if !unused.contains(file_name.as_str()) {
            contents.faults.extend(sorted.add(&path, saved));
        }
    }
    reading.any()?;
    let mut budget = Budget::of_bytes(reading.bytes());
    let of_layers: BTreeSet<usize> = sorted.layers.iter().map(|layer| layer.mp).collect();
    let tensor = pipeline::tensor_parallel(&of_layers, &sorted.ranks);
    let world = lacking::model_parallel_ranks(&model_parallel(&names), &sorted.ranks);
    contents.faults.extend(sorted.lacks(&names, world, tensor));
    // Stages have whole tensors.
    let staged = tensor == 1 && (!of_layers.is_empty() || pipeline::is_one(&sorted.ranks));
    let Sorted { mut ranks, layers, mut optimizers, experts, parameters, steps } = sorted;
    contents.notices.extend(experts::add_whole(&mut optimizers, &experts, &mut ranks));
    let mut others = pipeline::give(layers, tensor, &mut ranks);
    others.append(&mut optimizers);
    let several = !staged && (world > 1 || ranks.len() > 1);
    let parts = match parameters.is_empty() {
        true => joined(ranks, several, staged, &mut budget),
        false => vec![parameters.joined(&ranks, several, &mut budget)],
    };
    for mut part in parts {
        contents.tensors.append(&mut part.tensors);
        contents.faults.append(&mut part.faults);
        contents.notices.append(&mut part.notices);
        merge(&mut contents.metadata, part.metadata);
    }
    add_others(&mut contents, others);
    contents.faults.extend(agreement::other_steps(&steps));
    contents.faults.append(&mut renamed);
    contents.tell_first();
    Ok(reading.whole(contents))
}

/// What all model-parallel ranks have: `several` of them parts of the same tensors, `staged` ones different layers.
fn joined(ranks: BTreeMap<usize, Rank>, several: bool, staged: bool, budget: &mut Budget) -> Vec<Part> {
    let mut parts: Vec<(usize, Part)> =
        ranks.into_iter().map(|(mp, rank)| (mp, rank.joined(budget))).collect();
    if staged && parts.len() > 1 {
        return vec![pipeline::merged(parts)];
    }
    if several {
        let mut all = Part::new();
        all.metadata = agreement::common(parts.iter().map(|(_, part)| &part.metadata));
        let text = "its model-parallel ranks have parts of each tensor, which are not joined: each is shown under its rank (`mp_rank_00.`, `mp_rank_01.`, …)";
        all.notices.push(Notice::new(NoticeKind::NotShown, text));
        parts.iter_mut().for_each(|(mp, part)| part.put_below(*mp));
        parts.push((usize::MAX, all));
    }
    parts.into_iter().map(|(_, part)| part).collect()
}

/// The name `name` under that of a model-parallel rank.
fn below(mp: usize, name: &str) -> String {
    format!("mp_rank_{mp:02}.{name}")
}

/// Adds layers of a pipeline, and the optimizers of experts, each under what it is called.
fn add_others(contents: &mut Contents, others: Vec<(String, Saved)>) {
    let mut first = None;
    for (stem, saved) in others {
        for mut tensor in saved.tensors {
            tensor.name = format!("{stem}.{}", tensor.name);
            contents.tensors.push(tensor);
        }
        // Those that are called as in the module are numbers.
        first = first.or(Some(stem).filter(|stem| kind::number(stem).is_none()));
    }
    if let Some(first) = first {
        let text = format!(
            "layers of a pipeline and optimizers of experts are shown under the names of their files (`{}.`, …)",
            first.escape_debug()
        );
        contents.notices.push(Notice::new(NoticeKind::NotShown, text));
    }
}

fn text(key: impl Into<String>) -> HashableValue {
    HashableValue::String(key.into())
}

fn dict(entries: impl IntoIterator<Item = (impl Into<String>, Value)>) -> Value {
    Value::Dict(entries.into_iter().map(|(key, value)| (text(key), value)).collect())
}

/// What the files of one model-parallel rank hold together.
struct Part {
    tensors: Vec<TensorInfo>,
    metadata: Value,
    faults: Vec<Damage>,
    notices: Vec<Notice>,
    /// The parameters that `optimizer.state` numbers by the weights' order.
    numbered: usize,
}

impl Part {
    fn new() -> Self {
        let metadata = Value::Dict(BTreeMap::new());
        Part { tensors: Vec::new(), metadata, faults: Vec::new(), notices: Vec::new(), numbered: 0 }
    }

    /// Puts all of it under the name of its model-parallel rank.
    fn put_below(&mut self, mp: usize) {
        self.tensors.iter_mut().for_each(|tensor| tensor.name = below(mp, &tensor.name));
        let notices = std::mem::take(&mut self.notices).into_iter();
        self.notices = notices.map(|notice| notice.renamed(|name| below(mp, name))).collect();
        let values = std::mem::replace(&mut self.metadata, Value::None);
        self.metadata = dict([(format!("mp_rank_{mp:02}"), values)]);
    }
}
