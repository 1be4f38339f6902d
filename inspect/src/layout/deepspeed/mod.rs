//! What DeepSpeed saves (`runtime/engine.py`): a folder for each tag, and beside them `latest`, which names the last one.
//! Model states hold the module in 16 bits; with ZeRO the fp32 weights and the moments lie in the optimizer's states, as
//! flat vectors divided over the ranks.

mod agreement;
mod flat;
mod partitions;
mod universal;
mod zero;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use self::zero::Rank;
use super::join::{Opened, Reading, Whole};
use super::tiles::Budget;
use super::{Layout, Set, is_model, name, parent, single, sort};
use crate::bytes::Stamp;
use crate::bytes::stored::Stored;
use crate::format::{Contents, add_new};
use crate::metadata::{HashableValue, Value, as_u64, lookup, merge};
use crate::tensor::TensorInfo;
use crate::{Damage, DamageKind, Error, Format, Notice, NoticeKind, Result};

pub(super) const LAYOUT: Layout = Layout { recognises, set, identity, join, is_whole, ..single::LAYOUT };

/// The script that DeepSpeed leaves in each folder that it saved into.
const SCRIPT: &str = "zero_to_fp32.py";

/// What a file holds, by its name; the numbers are ranks of data and of model parallelism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// The module: whole, or with ZeRO-3 one of each rank (`divided`), with placeholders.
    Model { dp: usize, mp: usize, divided: bool },
    /// An optimizer's partition, with the type that its name has.
    Optimizer { dp: usize, mp: usize, dtype: Option<&'static str> },
    /// A layer of a pipeline.
    Layer { layer: usize, mp: usize },
    /// An expert of a layer that has several; older versions do not count those layers.
    Expert { layer: Option<usize>, expert: usize, mp: usize },
    /// The optimizer of experts.
    Experts,
}

impl Kind {
    fn of(name: &str) -> Option<Kind> {
        let stem = name.strip_suffix(".pt")?;
        let ranks = |text: &str| {
            let (dp, mp) = text.strip_prefix("zero_pp_rank_")?.split_once("_mp_rank_")?;
            Some((number(dp)?, number(mp)?))
        };
        if let Some(rest) = stem.strip_suffix("_optim_states") {
            let typed = |dtype| Some((Some(dtype), rest.strip_prefix(dtype)?));
            let (dtype, rest) = ["bf16_", "fp16_"].into_iter().find_map(typed).unwrap_or((None, rest));
            return match ranks(rest) {
                Some((dp, mp)) => Some(Kind::Optimizer { dp, mp, dtype }),
                None => rest.starts_with("expp_rank_").then_some(Kind::Experts),
            };
        }
        if let Some(rest) = stem.strip_suffix("_model_states") {
            if let Some((dp, mp)) = ranks(rest) {
                return Some(Kind::Model { dp, mp, divided: true });
            }
            return match rest.strip_prefix("mp_rank_") {
                Some(mp) => Some(Kind::Model { dp: 0, mp: number(mp)?, divided: false }),
                None => Kind::expert(rest),
            };
        }
        let layer = stem.strip_suffix("-model_states")?.strip_prefix("layer_")?;
        let (layer, mp) = layer.split_once("-model_").unwrap_or((layer, "0"));
        Some(Kind::Layer { layer: number(layer)?, mp: number(mp)? })
    }

    /// An expert, by what its file is called: `layer_3_expert_7_mp_rank_00`.
    fn expert(stem: &str) -> Option<Kind> {
        let (stem, mp) = stem.split_once("_mp_rank_")?;
        let (layer, expert) = match stem.strip_prefix("layer_") {
            Some(rest) => rest.split_once("_expert_").map(|(layer, expert)| (Some(layer), expert))?,
            None => (None, stem.strip_prefix("expert_")?),
        };
        let layer = match layer {
            Some(layer) => Some(number(layer)?),
            None => None,
        };
        Some(Kind::Expert { layer, expert: number(expert)?, mp: number(mp)? })
    }

    /// What it is a part of, however its file is called; nothing for what may be in several files.
    fn place(self) -> Option<Kind> {
        match self {
            Kind::Model { dp, mp, .. } => Some(Kind::Model { dp, mp, divided: false }),
            Kind::Optimizer { dp, mp, .. } => Some(Kind::Optimizer { dp, mp, dtype: None }),
            Kind::Layer { .. } | Kind::Expert { .. } => Some(self),
            Kind::Experts => None,
        }
    }

    /// How its file is called, whichever rank it is of.
    fn form(self) -> Kind {
        match self {
            Kind::Model { divided, .. } => Kind::Model { dp: 0, mp: 0, divided },
            Kind::Optimizer { dtype, .. } => Kind::Optimizer { dp: 0, mp: 0, dtype },
            Kind::Layer { .. } => Kind::Layer { layer: 0, mp: 0 },
            Kind::Expert { .. } => Kind::Expert { layer: None, expert: 0, mp: 0 },
            Kind::Experts => self,
        }
    }

    /// Its rank of model parallelism, where the ranks' files are joined.
    fn model_parallel(self) -> Option<usize> {
        match self {
            Kind::Model { mp, .. } | Kind::Optimizer { mp, .. } => Some(mp),
            Kind::Layer { .. } | Kind::Expert { .. } | Kind::Experts => None,
        }
    }
}

/// Which of the files are not used, because another one is of the same rank: that which is called like most of the
/// others is. Tells of each.
fn superseded<'n>(names: &'n [String], faults: &mut Vec<Damage>) -> HashSet<&'n str> {
    let mut forms: HashMap<Kind, usize> = HashMap::new();
    let mut places: HashMap<Kind, Vec<(Kind, &str)>> = HashMap::new();
    for (kind, name) in names.iter().filter_map(|name| Some((Kind::of(name)?, name.as_str()))) {
        *forms.entry(kind.form()).or_default() += 1;
        if let Some(place) = kind.place() {
            places.entry(place).or_default().push((kind, name));
        }
    }
    let mut unused = HashSet::new();
    for (kind, _) in names.iter().filter_map(|name| Some((Kind::of(name)?.place()?, name))) {
        let Some(files) = places.remove(&kind).filter(|files| files.len() > 1) else { continue };
        // The first of those that are as frequent.
        let frequent = |(kind, _): &&(Kind, &str)| forms[&kind.form()];
        let Some(&(_, used)) = files.iter().rev().max_by_key(frequent) else { continue };
        for (_, other) in files.into_iter().filter(|(_, name)| *name != used) {
            let (one, two) = (used.escape_debug(), other.escape_debug());
            let what = format!("{one} and {two} are the same rank's by their names: the latter is not used");
            faults.push(Damage::new(DamageKind::Inconsistent, what));
            unused.insert(other);
        }
    }
    unused
}

fn number(text: &str) -> Option<usize> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

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
    let folder = parent(path);
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
    entries.iter().any(|entry| known(&entry.path))
}

/// The folder that is named in `folder` as that of the last tag, whether it is there or not.
fn pointed_at(folder: &Path) -> Option<PathBuf> {
    ["latest", "latest_universal"].into_iter().find_map(|file| {
        let mut text = String::new();
        folder.join(file).stored_bytes().ok()?.take(4096).read_to_string(&mut text).ok()?;
        let tag = text.trim();
        // A name with folders in it could point anywhere.
        (Path::new(tag).file_name() == Some(tag.as_ref())).then(|| folder.join(tag))
    })
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
    files.sort_by_key(|path| matches!(Kind::of(&name(path)), Some(Kind::Optimizer { .. } | Kind::Experts)));
    files.extend(universal::files(&folder)?);
    let notices = points_nowhere(parent(&folder)).into_iter().collect();
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

fn join(files: Vec<Opened>) -> Result<Whole> {
    let mut contents = Contents::new(Format::DeepSpeed);
    let mut reading = Reading::default();
    let mut ranks: BTreeMap<usize, Rank> = BTreeMap::new();
    let mut others: Vec<(String, Saved)> = Vec::new();
    let mut experts: Vec<(usize, Saved)> = Vec::new();
    let mut parameters = universal::Parameters::default();
    let (mut steps, mut renamed) = (Vec::new(), Vec::new());
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
        if unused.contains(file_name.as_str()) {
            continue;
        }
        match (Kind::of(&file_name), saved) {
            (Some(Kind::Model { dp, mp, divided }), Ok(saved)) => {
                let rank = ranks.entry(mp).or_default();
                rank.divided |= divided;
                steps.extend(agreement::step(&saved).map(|step| (file_name.clone(), step)));
                rank.models.insert(dp, saved);
            }
            (Some(Kind::Optimizer { dp, mp, .. }), saved) => {
                ranks.entry(mp).or_default().optimizers.insert(dp, saved);
            }
            (Some(Kind::Layer { layer, mp }), Ok(saved)) => {
                others.push((
                    if mp == 0 {
                        format!("layer_{layer:02}")
                    } else {
                        format!("layer_{layer:02}-model_{mp:02}")
                    },
                    saved,
                ));
            }
            (Some(Kind::Expert { mp, .. }), Ok(saved)) => experts.push((mp, saved)),
            (Some(Kind::Experts), Ok(saved)) => {
                others.push((file_name.trim_end_matches(".pt").to_string(), saved));
            }
            (None, Ok(saved)) => contents.faults.extend(parameters.add(&path, saved)),
            (None, Err(damage)) => parameters.add_unread(&path, damage),
            (_, Err(_)) => {}
        }
    }
    reading.any()?;
    let mut budget = Budget::of_bytes(reading.bytes());
    let there: BTreeSet<usize> = names.iter().filter_map(|name| Kind::of(name)?.model_parallel()).collect();
    let world = model_parallel_ranks(&there, &ranks);
    contents.faults.extend(missing_ranks(&there, world));
    contents.faults.extend(missing_layers(&names));
    contents.faults.extend(missing_experts(&names));
    let several = world > 1;
    let mut parts = Vec::new();
    if parameters.is_empty() {
        for (mp, rank) in ranks {
            let mut part = rank.joined(&mut budget);
            if several {
                part.put_below(mp);
            }
            parts.push(part);
        }
        if several {
            let text = "its model-parallel ranks have parts of each tensor, which are not joined: each is shown under its rank (`mp_rank_00.`, `mp_rank_01.`, …)";
            contents.notices.push(Notice::new(NoticeKind::NotShown, text));
        }
    } else {
        parts.push(parameters.joined(&ranks, several, &mut budget));
    }
    for mut part in parts {
        contents.tensors.append(&mut part.tensors);
        contents.faults.append(&mut part.faults);
        contents.notices.append(&mut part.notices);
        merge(&mut contents.metadata, part.metadata);
    }
    // Their names are the module's, with the number of the expert among those of all ranks.
    for (mp, saved) in experts {
        let named = |name: String| if several { below(mp, &name) } else { name };
        let tensors = saved.tensors.into_iter();
        contents.tensors.extend(tensors.map(|t| TensorInfo { name: named(t.name.clone()), ..t }));
    }
    add_others(&mut contents, others);
    contents.faults.extend(agreement::other_steps(&steps));
    contents.faults.append(&mut renamed);
    contents.tell_first();
    Ok(reading.whole(contents))
}

/// How many model-parallel ranks there should be, of which files of those that are `there` were found.
fn model_parallel_ranks(there: &BTreeSet<usize>, ranks: &BTreeMap<usize, Rank>) -> usize {
    let last = there.last().map_or(0, |last| last.saturating_add(1));
    let models = ranks.values().flat_map(|rank| rank.models.values());
    let said = models.filter_map(|saved| lookup(&saved.metadata, "mp_world_size").and_then(as_u64)).max();
    said.and_then(|said| usize::try_from(said).ok()).map_or(last, |said| said.max(last))
}

/// Tells of model-parallel ranks of which there is no file.
fn missing_ranks(there: &BTreeSet<usize>, world: usize) -> Option<Damage> {
    let gone = world.saturating_sub(there.len());
    let first = (0..world).find(|rank| !there.contains(rank)).filter(|_| !there.is_empty())?;
    let more = if gone > 1 { " and more" } else { "" };
    let what =
        format!("the files of {gone} of {world} model-parallel ranks missing: those of rank {first}{more}");
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// Tells of layers of a pipeline that some model-parallel ranks have files of, and others not.
fn missing_layers(names: &[String]) -> Option<Damage> {
    let mut layers: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for name in names {
        if let Some(Kind::Layer { layer, mp }) = Kind::of(name) {
            layers.entry(layer).or_default().insert(mp);
        }
    }
    let all: BTreeSet<usize> = layers.values().flatten().copied().collect();
    let mut gone = layers.iter().filter(|(_, ranks)| ranks.len() < all.len());
    let (layer, ranks) = gone.next()?;
    let rank = all.difference(ranks).next()?;
    let more = if gone.next().is_some() { " and more" } else { "" };
    let what = format!("files of layers missing: that of layer {layer} of model-parallel rank {rank}{more}");
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// Tells of experts of a layer that are skipped in their numbers.
fn missing_experts(names: &[String]) -> Option<Damage> {
    type Place = (Option<usize>, usize);
    let mut layers: BTreeMap<Place, BTreeSet<usize>> = BTreeMap::new();
    for name in names {
        if let Some(Kind::Expert { layer, expert, mp }) = Kind::of(name) {
            layers.entry((layer, mp)).or_default().insert(expert);
        }
    }
    let mut gone = layers.iter().filter_map(|((layer, _), experts)| {
        Some((layer, (0..*experts.last()?).find(|expert| !experts.contains(expert))?))
    });
    let (layer, expert) = gone.next()?;
    let of = layer.map(|layer| format!(" of layer {layer}")).unwrap_or_default();
    let more = if gone.next().is_some() { " and more" } else { "" };
    let what = format!("files of experts missing: that of expert {expert}{of}{more}");
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// The name `name` under that of a model-parallel rank.
fn below(mp: usize, name: &str) -> String {
    format!("mp_rank_{mp:02}.{name}")
}

/// Adds layers of a pipeline, and the optimizers of experts, each under its file's name.
fn add_others(contents: &mut Contents, others: Vec<(String, Saved)>) {
    if others.is_empty() {
        return;
    }
    let first = others[0].0.clone();
    for (stem, saved) in others {
        for mut tensor in saved.tensors {
            tensor.name = format!("{stem}.{}", tensor.name);
            contents.tensors.push(tensor);
        }
    }
    let text = format!(
        "layers of a pipeline and optimizers of experts are shown under the names of their files (`{}.`, …)",
        first.escape_debug()
    );
    contents.notices.push(Notice::new(NoticeKind::NotShown, text));
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
}

impl Part {
    fn new() -> Self {
        let metadata = Value::Dict(BTreeMap::new());
        Part { tensors: Vec::new(), metadata, faults: Vec::new(), notices: Vec::new() }
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
