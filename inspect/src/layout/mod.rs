//! Layouts: which files make one checkpoint, and which checkpoints a folder holds.
//!
//! A new one is a file and a line in [`LAYOUTS`].

pub(crate) mod companion;
mod components;
mod copies;
mod deepspeed;
mod folder;
mod foreign;
mod gguf_split;
mod hf_shards;
mod join;
mod megatron;
mod per_rank;
mod sharded;
mod single;
mod slices;
pub(crate) mod step;
mod tiles;
mod torch_dcp;
mod twins;

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::de::DeserializeOwned;

use crate::bytes::stored::{Entry, Kind, Stored, all_answered, is_remote};
use crate::bytes::{Source, Stamp};
use crate::format::{self, Format, is_array, may_hold_anything, recognises};
use crate::metadata::Value;
use crate::step::from_name;
use crate::tensor::TensorInfo;
use crate::{Damage, Error, ErrorKind, Notice, Result};

pub(crate) use components::Component;
pub use folder::model_folder;
pub(crate) use join::{Opened, Whole};
pub(crate) use torch_dcp::is_distributed;

/// One way in which files form a checkpoint. Its defaults are those of a single file, [`single::LAYOUT`].
#[derive(Debug)]
pub(crate) struct Layout {
    /// Whether what is at `path` belongs to a checkpoint of this layout.
    pub recognises: fn(&Path) -> bool,
    /// The files of the checkpoint that `path` belongs to.
    pub set: fn(&Path) -> Result<Set>,
    /// What all files of one checkpoint have in common, so that two paths of the same are the same checkpoint.
    pub identity: fn(&Path) -> PathBuf,
    /// What the files of a set hold as one checkpoint. A tensor may lie on ranges of several of them (a
    /// [`Storage`](crate::Storage) of pieces).
    pub join: fn(Vec<Opened>) -> Result<Whole>,
    /// What a set lacks according to this layout, if the layout applies.
    pub lacks: fn(&Set, &Joined<'_>) -> Lacks,
    /// Whether a file that contains no tensors refers to others, as an index does.
    pub stands_for_files: fn(&Path) -> bool,
    /// Among the files of one folder, in name order, those that another one covers, and those that are not checkpoints.
    pub covers: fn(&[PathBuf]) -> HashSet<PathBuf>,
    /// Whether a file by its name is the model of the folder that it is in.
    pub is_model: fn(&Path) -> bool,
    /// Whether a folder is one checkpoint, and nothing in it is one on its own.
    pub is_whole: fn(&Path) -> bool,
}

/// What was read from the files of a set.
pub(crate) struct Joined<'a> {
    pub format: Format,
    /// How many files were read.
    pub files: usize,
    pub tensors: &'a [TensorInfo],
    pub metadata: &'a Value,
}

/// What is missing in a set, and what else the user should know about it.
#[derive(Default)]
pub(crate) struct Lacks {
    pub damage: Vec<Damage>,
    pub notices: Vec<Notice>,
    /// Names of tensors that the set promises and does not hold.
    pub absent: Vec<String>,
}

/// Every layout, in the order in which they are tried. The last one takes any path.
static LAYOUTS: [Layout; 11] = [
    torch_dcp::LAYOUT,
    hf_shards::LAYOUT,
    foreign::LAYOUT,
    deepspeed::LAYOUT,
    megatron::LAYOUT,
    per_rank::LAYOUT,
    components::LAYOUT,
    folder::LAYOUT,
    gguf_split::LAYOUT,
    sharded::LAYOUT,
    single::LAYOUT,
];

/// An index or trainer_state.json, which are read for single keys, may be this large.
const MAX_INDEX: u64 = 256 << 20;
/// config.json and a merge's configuration, which are kept whole, may be this large.
const MAX_CONFIG: u64 = 8 << 20;

/// The files that make one checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Set {
    pub files: Vec<PathBuf>,
    /// Instead of files, the checkpoints that it consists of.
    pub components: Vec<Component>,
    /// The layout that joins them; the single-file layout if none is named.
    pub layout: Option<&'static Layout>,
    /// Names that the index promises, and the file that each is in.
    pub weight_map: Option<BTreeMap<String, String>>,
    pub config: Option<Value>,
    /// Whether a merge's own configuration beside it lays out layers of other models.
    pub merged: bool,
    /// What a file that speaks of nothing but quantization says.
    pub quantization: Option<Value>,
    pub trainer_step: Option<u64>,
    /// What is missing in the set.
    pub missing: Option<Damage>,
    /// The same of another form of the model that lies beside it and is not read.
    pub other_map: Option<BTreeMap<String, String>>,
    /// What else the user should know.
    pub notices: Vec<Notice>,
    /// Paths that were looked at besides `files`, existing or not.
    pub beside: Vec<Stamp>,
}

/// The layout of a single file.
fn single() -> &'static Layout {
    &LAYOUTS[LAYOUTS.len() - 1]
}

/// The layout of what is at `path`.
fn layout_of(path: &Path) -> &'static Layout {
    LAYOUTS.iter().find(|layout| (layout.recognises)(path)).unwrap_or_else(single)
}

/// The set that `path` belongs to, without the files next to it.
fn laid_out(path: &Path) -> Result<Set> {
    let layout = layout_of(path);
    let mut set = (layout.set)(path)?;
    // The layout of a folder may be that of its contents.
    set.layout.get_or_insert(layout);
    Ok(set)
}

/// The set that `path` (a file, a shard, an index, or a folder) belongs to.
pub(crate) fn set_of(path: &Path) -> Result<Set> {
    path.stored().map_err(|e| Error::io(path, &e))?;
    let mut set = laid_out(path)?;
    folder::add_config(path, &mut set);
    Ok(set)
}

/// The files that [`open`](crate::open) would read of the checkpoint at `path`: the shards of a set, the one of a
/// folder.
///
/// # Errors
/// `Io` when nothing is there, and what keeps a folder or an index from being opened.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let Set { mut files, components, .. } = set_of(path)?;
    for component in components {
        files.extend(files_of(&component.path)?);
    }
    Ok(files)
}

/// What `files`, those of `set`, hold as one checkpoint.
pub(crate) fn join(set: &Set, files: Vec<Opened>) -> Result<Whole> {
    (set.layout.unwrap_or_else(single).join)(files)
}

/// What `joined`, which was read from `set`, lacks of each layout.
pub(crate) fn lacks(set: &Set, joined: &Joined<'_>) -> Vec<Lacks> {
    LAYOUTS.iter().map(|layout| (layout.lacks)(set, joined)).collect()
}

/// The identity of the checkpoint at a path: equal for all names of a file and for all shards of a set.
pub fn identity(path: &Path) -> PathBuf {
    let path = match path.stored_identity() {
        Ok(path) => path,
        // Where it is denied, so is what lies beside it.
        Err(_) if is_remote(path) => return path.to_path_buf(),
        Err(_) => path.to_path_buf(),
    };
    (layout_of(&path).identity)(&path)
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_json<T: DeserializeOwned>(path: &Path, most: u64) -> Option<T> {
    let metadata = path.stored().ok().filter(|m| m.kind == Kind::File && m.bytes <= most)?;
    let mut text = Vec::new();
    path.stored_bytes().ok()?.take(metadata.bytes).read_to_end(&mut text).ok()?;
    // Editors on Windows begin text with a byte order mark.
    serde_json::from_slice(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text)).ok()
}

fn is_model(path: &Path) -> bool {
    LAYOUTS.iter().any(|layout| (layout.is_model)(path))
}

fn stands_for_files(path: &Path) -> bool {
    LAYOUTS.iter().any(|layout| (layout.stands_for_files)(path))
}

/// Checkpoints directly in `folder`, one path each, whatever files of it there are, and what only begins like one.
fn find_in(folder: &Path) -> Result<Listing> {
    let mut files: Vec<PathBuf> = Vec::new();
    for Entry { path, .. } in folder.stored_entries().map_err(|e| Error::io(folder, &e))? {
        let candidate = || stands_for_files(&path) || recognises(&path);
        if !name(&path).starts_with('.') && path.is_stored_file() && candidate() {
            files.push(path);
        }
    }
    sort(&mut files);
    let covered: HashSet<PathBuf> = LAYOUTS.iter().flat_map(|layout| (layout.covers)(&files)).collect();
    files.retain(|file| !covered.contains(file));
    let has_model = files.iter().any(|file| is_model(file));
    let (skipped, checkpoints) =
        files.into_iter().partition(|file| is_something_else(file) || (has_model && is_beside(file)));
    Ok(Listing { checkpoints, skipped })
}

/// Whether the file at `path`, in a folder with a model, is called like a checkpoint and holds at most single numbers: a
/// vocabulary, callbacks, a counter that was saved with PyTorch.
fn is_beside(path: &Path) -> bool {
    let called = path.extension().is_some_and(|e| e == "pt" || e == "pth");
    if !called || is_model(path) || stands_for_files(path) || companion::is_companion(path) {
        return false;
    }
    Source::open(path).and_then(|source| format::read(&source)).is_ok_and(|contents| {
        contents.faults.is_empty()
            && contents.notices.is_empty()
            // Without any element it is no number, but what was emptied.
            && contents.tensors.iter().all(|t| t.numel() == 1)
    })
}

/// Whether the file at `path` only begins like a checkpoint: archives and pickles hold anything, and by its name it is none.
fn is_something_else(path: &Path) -> bool {
    if format::Extension::of(path) == Some(format::Extension::Own)
        || is_model(path)
        || stands_for_files(path)
        || companion::is_companion(path)
        // Said to be a part of one, whatever it holds.
        || path.extension().is_some_and(|e| e == "distcp")
        || !may_hold_anything(path)
    {
        return false;
    }
    let named = path.extension().is_some() && format::Extension::of(path).is_none();
    match Source::open(path).and_then(|source| format::read(&source)) {
        Ok(contents) => contents.tensors.is_empty() && contents.faults.is_empty(),
        Err(error) => match error.kind {
            ErrorKind::Unrecognised | ErrorKind::Unsupported => true,
            ErrorKind::Damaged => named,
            _ => false,
        },
    }
}

/// Files directly in `folder` that are named like checkpoints and do not begin like one: empty, overwritten, pointers
/// of Git LFS, broken links. Opening them gives an error that says what is wrong.
fn spoilt_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for Entry { path, .. } in folder.stored_entries().map_err(|e| Error::io(folder, &e))? {
        let lost = path.is_symlink() && !path.is_stored();
        let named = || match format::Extension::of(&path) {
            Some(format::Extension::Own) => true,
            // There is nothing that could be something else.
            Some(format::Extension::Shared) => {
                lost || is_model(&path) || path.stored().is_ok_and(|m| m.bytes == 0)
            }
            None => false,
        };
        if !name(&path).starts_with('.') && (lost || path.is_stored_file()) && named() && !recognises(&path) {
            files.push(path);
        }
    }
    Ok(files)
}

/// By name, numbers in it by their size.
fn sort(paths: &mut [PathBuf]) {
    paths.sort_by_cached_key(|path| {
        let name = name(path);
        let mut parts: Vec<(String, u128)> = Vec::new();
        let mut rest = name.as_str();
        while !rest.is_empty() {
            let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (text, from) = rest.split_at(digits);
            let end = from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len());
            parts.push((text.to_string(), from[..end].parse().unwrap_or(u128::MAX)));
            rest = &from[end..];
        }
        (parts, name)
    });
}

/// What was found below a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// Checkpoints, and what should be one, in name order; a folder that could not be listed is among them, so that
    /// opening it tells why.
    pub checkpoints: Vec<PathBuf>,
    /// Files that begin like checkpoints and are none: archives and pickles without a tensor.
    pub skipped: Vec<PathBuf>,
}

/// Checkpoints below `path`: those that [`list`] gives.
///
/// # Errors
/// `Io` when `path` is a folder that cannot be listed.
pub fn find(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(list(path)?.checkpoints)
}

/// Checkpoints below `path`: itself, or for a folder all that it holds, in name order. Files that are named like
/// checkpoints and do not begin like one are among them, so that none is passed over: opening them tells why. Single
/// arrays are data beside checkpoints; where nothing else is, they are what was meant. Links to folders are not entered.
///
/// # Errors
/// `Io` when `path` is a folder that cannot be listed.
pub fn list(path: &Path) -> Result<Listing> {
    let begun = Instant::now();
    // What cannot be asked for is told when it is opened; what lies beside it need not be asked for.
    if is_remote(path) && path.stored().is_err() {
        all_answered(path, begun)?;
        return Ok(Listing { checkpoints: vec![path.to_path_buf()], skipped: Vec::new() });
    }
    let (mut listing, mut arrays) = (Listing::default(), Vec::new());
    // As deep as folders lie in each other: the paths themselves end it.
    let mut rest = vec![(path.to_path_buf(), false)];
    while let Some((folder, beside)) = rest.pop() {
        match find_at(&folder, beside, &mut listing, &mut arrays) {
            Ok(below) => rest.extend(below.into_iter().rev()),
            Err(error) if folder == path => return Err(error),
            // The others are to be looked at all the same.
            Err(_) => listing.checkpoints.push(folder),
        }
    }
    if listing.checkpoints.is_empty() {
        listing.checkpoints = arrays;
    }
    all_answered(path, begun)?;
    Ok(listing)
}

/// Of the folder in which Hugging Face's cache keeps the files of a repository by their hashes, those that its snapshots
/// link to, under the names that they have; nothing of other folders.
pub(crate) fn linked_blobs(folder: &Path) -> HashSet<PathBuf> {
    let snapshots = folder.with_file_name("snapshots");
    let mut linked = HashSet::new();
    if name(folder) != "blobs"
        || !snapshots.is_stored_folder()
        || !folder.with_file_name("refs").is_stored_folder()
    {
        return linked;
    }
    let mut rest = vec![snapshots];
    while let Some(folder) = rest.pop() {
        for Entry { path, kind } in folder.stored_entries().into_iter().flatten() {
            match kind {
                Kind::Folder => rest.push(path),
                Kind::Link => linked.extend(path.stored_identity()),
                _ => {}
            }
        }
    }
    linked
}

/// Adds the checkpoints directly at `path`, in name order, and files that should be some; gives the folders where more
/// may be, and whether they lie beside a model. A folder that holds one model in Hugging Face's layout, or components, is
/// one, and beside it lie the checkpoints of its training, and other models and forms of itself. These may be those of
/// other programs, whose files are called like some of PyTorch.
fn find_at(
    path: &Path,
    beside: bool,
    all: &mut Listing,
    arrays: &mut Vec<PathBuf>,
) -> Result<Vec<(PathBuf, bool)>> {
    if !path.is_stored_folder() || LAYOUTS.iter().any(|layout| (layout.is_whole)(path)) {
        all.checkpoints.push(path.to_path_buf());
        return Ok(Vec::new());
    }
    let Listing { checkpoints: mut found, skipped } = find_in(path)?;
    all.skipped.extend(skipped);
    let linked = linked_blobs(path);
    // What is on its way has that name.
    let is_other = |file: &PathBuf| {
        linked.is_empty()
            || !(name(file).ends_with(".incomplete")
                || file.stored_identity().is_ok_and(|file| linked.contains(&file)))
    };
    found.retain(is_other);
    let composed = components::of(path);
    let own: HashSet<PathBuf> = composed.iter().flatten().map(|part| identity(&part.path)).collect();
    let model = composed.is_some() || matches!(found.as_slice(), [one] if is_model(one));
    if composed.is_some() {
        // What else is in it may be all of them in one file.
        found.retain(|file| {
            let is_beside = companion::is_companion(file) || components::is_beside_networks(file);
            !is_beside && !own.contains(&identity(file))
        });
        found.insert(0, path.to_path_buf());
    } else if model {
        found = vec![path.to_path_buf()];
    } else {
        // Of several models, whose they are is not known.
        found.extend(companion::companions(path)?.into_iter().filter(|file| recognises(file)));
        sort(&mut found);
        found.dedup();
    }
    let mut spoilt = spoilt_in(path)?;
    spoilt.retain(is_other);
    if beside {
        spoilt.retain(|file| file.extension().is_none_or(|extension| extension != "bin"));
    }
    if model {
        // They are opened with it.
        spoilt.retain(|file| !companion::is_companion(file) && !own.contains(&identity(file)));
    }
    if !spoilt.is_empty() {
        // Shards of what was found are opened with it.
        let shards: HashSet<PathBuf> =
            found.iter().filter_map(|path| files_of(path).ok()).flatten().collect();
        found.extend(spoilt.into_iter().filter(|file| !shards.contains(file)));
        sort(&mut found);
    }
    let tag = deepspeed::only_tag(path).filter(|_| model);
    let found_nothing = found.is_empty();
    all.checkpoints.extend(found);
    let (mut folders, mut files) = (Vec::new(), Vec::new());
    // What is a folder can be told of one that cannot be entered.
    for Entry { path, kind } in path.stored_entries().map_err(|e| Error::io(path, &e))? {
        if name(&path).starts_with('.') {
            continue;
        }
        match kind == Kind::Folder {
            // Its tensors have been counted.
            true if !found_nothing && hf_shards::are_joined(&path) => {}
            // The optimizer of a model beside it is no other one.
            true if tag.as_ref() == Some(&path) => {}
            // Its parts.
            true if composed.iter().flatten().any(|part| part.path.starts_with(&path)) => {}
            true => folders.push(path),
            false if is_array(&path) => files.push(path),
            _ => {}
        }
    }
    sort(&mut folders);
    sort(&mut files);
    arrays.extend(files);
    let is_beside = |folder: &Path| model && from_name(&name(folder)).is_none() && !deepspeed::is_tag(folder);
    let told = |folder: PathBuf| {
        let beside = beside || is_beside(&folder);
        (folder, beside)
    };
    Ok(folders.into_iter().map(told).collect())
}
