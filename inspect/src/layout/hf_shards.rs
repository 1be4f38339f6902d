//! What the Hugging Face writer of `torch.distributed.checkpoint` saves: `shard-00003-model-00001-of-00002.safetensors`,
//! in which rank 3 has blocks of tensors; `DCP_SHARDING_INFO` in the header says where each begins in its tensor. Once
//! whole files have been made of them, they stay in the folder `sharded`.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::join::{Opened, Reading, Whole};
use super::tiles::{self, Budget, Tile};
use super::{Joined, Lacks, Layout, Set, name, single, sort};
use crate::bytes::staged;
use crate::bytes::stored::Stored;
use crate::bytes::{Source, Stamp};
use crate::format::{self, Contents};
use crate::metadata::{HashableValue, Value, as_u64};
use crate::tensor::TensorInfo;
use crate::{Damage, DamageKind, Error, Format, Notice, NoticeKind, Result};

pub(super) const LAYOUT: Layout = Layout {
    recognises: |path| is_shard(path) || shards_at(path).is_some(),
    set,
    identity: |path| folder_of(path).unwrap_or_else(|| path.to_path_buf()),
    join,
    lacks,
    is_whole: |path| shards_at(path).is_some(),
    ..single::LAYOUT
};

/// The folder that keeps the blocks beside the whole files made of them.
const BLOCKS: &str = "sharded";
/// What a header says of the blocks.
const INFO: &str = "DCP_SHARDING_INFO";
const VERSION: &str = "DCP_VERSION";

/// What a file's name says, with numbers from 1 on.
struct Named {
    /// Whose blocks are in it.
    rank: usize,
    /// Its number among the files that a rank's blocks are divided over, and how many there are.
    number: usize,
    count: usize,
}

impl Named {
    fn of(name: &str) -> Option<Self> {
        let (rank, model) = name.strip_prefix("shard-")?.split_once("-model-")?;
        let (number, count) = model.strip_suffix(".safetensors")?.split_once("-of-")?;
        let parsed = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
        Some(Named { rank: parsed(rank)?, number: parsed(number)?, count: parsed(count)? })
    }
}

fn is_shard(path: &Path) -> bool {
    Named::of(&name(path)).is_some() && path.is_stored_file()
}

/// The folder that holds the blocks, if `folder` is one of a checkpoint that consists of them: itself, or the one in it
/// as long as no whole files have been made.
fn shards_at(folder: &Path) -> Option<PathBuf> {
    let holds = |folder: &Path, wanted: fn(&Path) -> bool| {
        folder.stored_entries().is_ok_and(|entries| entries.iter().any(|entry| wanted(&entry.path)))
    };
    if holds(folder, is_shard) {
        return Some(folder.to_path_buf());
    }
    let inner = folder.join(BLOCKS);
    let is_safetensors = |path: &Path| path.extension().is_some_and(|e| e == "safetensors");
    (holds(&inner, is_shard) && !holds(folder, is_safetensors)).then_some(inner)
}

/// Whether `folder` holds the blocks that the whole files beside it were made of.
pub(super) fn are_joined(folder: &Path) -> bool {
    name(folder) == BLOCKS
        && (LAYOUT.is_whole)(folder)
        && folder.parent().is_some_and(|whole| !(LAYOUT.is_whole)(whole))
}

/// The folder of the blocks that `path` belongs to.
fn folder_of(path: &Path) -> Option<PathBuf> {
    match path.is_stored_folder() {
        true => shards_at(path),
        false => Some(staged::folder_of(path).to_path_buf()),
    }
}

fn set(path: &Path) -> Result<Set> {
    let folder = folder_of(path).unwrap_or_default();
    let entries = folder.stored_entries().map_err(|e| Error::io(&folder, &e))?;
    let mut files: Vec<PathBuf> =
        entries.into_iter().map(|entry| entry.path).filter(|path| is_shard(path)).collect();
    sort(&mut files);
    Ok(Set { files, beside: vec![Stamp::of(&folder)], ..Set::default() })
}

/// Whether whole files are what the blocks beside them say that they were made of: PyTorch's own joining lost buffers.
fn lacks(set: &Set, joined: &Joined<'_>) -> Lacks {
    let mut lacks = Lacks::default();
    let Some(blocks) = set.files.first().map(|file| staged::folder_of(file).join(BLOCKS)) else {
        return lacks;
    };
    if joined.format != Format::SafeTensors || !blocks.is_stored_folder() || !are_joined(&blocks) {
        return lacks;
    }
    let opened = |path: PathBuf| Opened { source: Source::open(&path), path, read: format::read };
    let Ok(Whole { contents, .. }) =
        self::set(&blocks).and_then(|set| join(set.files.into_iter().map(opened).collect()))
    else {
        return lacks;
    };
    let known: HashMap<&str, &TensorInfo> = joined.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut unlike: Vec<(String, String)> = Vec::new();
    for tensor in contents.tensors.iter().filter(|tensor| tensor.damage.is_none()).take(MOST_COMPARED) {
        let how = match known.get(tensor.name.as_str()) {
            Some(whole) => difference(whole, tensor),
            None => Some("is not in the whole files".into()),
        };
        unlike.extend(how.map(|how| (tensor.name.clone(), how)));
    }
    if let Some((name, how)) = unlike.first() {
        let more = match unlike.len() {
            1 => String::new(),
            count => format!(", and {} more differ", count - 1),
        };
        let text = format!(
            "`{}` {how}{more}: they were made of the blocks in `{BLOCKS}`, which are not what is read",
            name.escape_debug()
        );
        let names = unlike.iter().map(|(name, _)| name.clone()).collect();
        lacks.notices.push(Notice::new(NoticeKind::Contradiction, text).about(names));
    }
    lacks
}

/// Tensors that are compared with their blocks, at most; those of more bytes by a window.
const MOST_COMPARED: usize = 4096;
const WHOLE: u64 = 1 << 16;
const WINDOW: u64 = 1024;

/// How a tensor differs from what its blocks make up, if it does in the elements that are compared.
fn difference(whole: &TensorInfo, blocks: &TensorInfo) -> Option<String> {
    if whole.shape != blocks.shape || whole.dtype != blocks.dtype {
        return Some(format!(
            "is {} {:?} in the whole files and {} {:?} in the blocks",
            whole.dtype, whole.shape, blocks.dtype, blocks.shape
        ));
    }
    let count = blocks.numel();
    let (start, len) = match blocks.byte_len()? <= WHOLE {
        true => (0, count),
        false => (count / 2, WINDOW.min(count / 2)),
    };
    let (whole, blocks) = (whole.stretch(start, len)?, blocks.stretch(start, len)?);
    let (one, two) = (whole.bytes().ok()?, blocks.bytes().ok()?);
    let at = one.iter().zip(two.iter()).position(|(one, two)| one != two)?;
    let at = start as usize + at / whole.dtype.element_size().unwrap_or(1);
    Some(format!("differs from its blocks from element {at} on"))
}

/// The blocks of one tensor.
struct Blocks {
    shape: Vec<usize>,
    tiles: Vec<Tile>,
}

fn join(files: Vec<Opened>) -> Result<Whole> {
    let mut contents = Contents::new(Format::SafeTensors);
    let mut reading = Reading::default();
    let mut blocks: HashMap<String, Blocks> = HashMap::new();
    let mut names: Vec<String> = Vec::new();
    let mut all: Vec<Named> = Vec::new();
    for file in files {
        let path = file.path.clone();
        all.extend(Named::of(&name(&path)));
        let Ok(own) = reading.read(file, &name(&path), &mut contents.faults) else { continue };
        contents.notices.extend(own.notices);
        let info = add_values(&mut contents.metadata, own.metadata);
        for tensor in own.tensors {
            let known = blocks.entry(tensor.name.clone()).or_insert_with(|| {
                names.push(tensor.name.clone());
                Blocks { shape: vec![0; tensor.shape.len()], tiles: Vec::new() }
            });
            known.add(tensor, info.as_ref(), &path, &mut contents);
        }
    }
    reading.any()?;
    let mut budget = Budget::of_bytes(reading.bytes());
    for name in names {
        let Some(Blocks { shape, tiles }) = blocks.remove(&name) else { continue };
        let dtype = tiles.iter().find_map(|tile| tile.part.as_ref().ok()).map(|part| part.dtype);
        if let Some(dtype) = dtype {
            contents.tensors.push(tiles::join(name, dtype, shape, tiles, &mut budget));
        }
    }
    contents.faults.extend(missing_numbers(&all));
    contents.notices.extend(without_file(&all.iter().map(|named| named.rank).collect()));
    contents.tell_first();
    Ok(reading.whole(contents))
}

/// Tells of files that no rank has: each tensor is in those of one number, and of each number there are some.
fn missing_numbers(all: &[Named]) -> Option<Damage> {
    let numbers: BTreeSet<usize> = all.iter().map(|named| named.number).collect();
    let count = all.iter().map(|named| named.count).max()?;
    // A name may say 0.
    let there = numbers.iter().filter(|number| (1..=count).contains(*number)).count();
    let gone = count.saturating_sub(there);
    let first = (1..=count).find(|number| !numbers.contains(number))?;
    let more = if gone > 1 { " and more" } else { "" };
    let what = format!(
        "{gone} of the {count} files that tensors are divided over missing: no rank's is called model-{first:05}-of-{count:05}{more}"
    );
    Some(Damage::new(DamageKind::MissingShards, what))
}

/// Ranks between others of which there is no file: whether they had something to save is written nowhere.
fn without_file(ranks: &BTreeSet<usize>) -> Option<Notice> {
    let last = *ranks.last()?;
    let gone = (1..=last).filter(|rank| !ranks.contains(rank));
    let first: Vec<String> = gone.take(3).map(|rank| rank.to_string()).collect();
    let count = last.saturating_sub(ranks.iter().filter(|rank| **rank > 0).count());
    let more = if count > 3 { " and more" } else { "" };
    let text = format!(
        "no file of rank {}{more}, of {last} or more: it had nothing to save, or its tensors are missing",
        first.join(", ")
    );
    (count > 0).then(|| Notice::new(NoticeKind::Skipped, text))
}

/// Adds the plain values of a header except those about blocks, which it gives.
fn add_values(all: &mut Value, own: Value) -> Option<Value> {
    let (Value::Dict(all), Value::Dict(mut own)) = (all, own) else { return None };
    let key = |name: &str| HashableValue::String(name.into());
    let info = own.remove(&key(INFO));
    own.remove(&key(VERSION));
    for (key, value) in own {
        all.entry(key).or_insert(value);
    }
    info
}

impl Blocks {
    /// Adds `part`, a block that begins where `info` says, or at the tensor's first element if nothing is said.
    fn add(&mut self, part: TensorInfo, info: Option<&Value>, path: &Path, contents: &mut Contents) {
        let offsets = match info {
            None => Some(vec![0; part.shape.len()]),
            Some(info) => offsets(info, &part.name),
        };
        let ends = offsets.as_ref().and_then(|offsets| {
            let fits = offsets.len() == part.shape.len() && offsets.len() == self.shape.len();
            let ends = offsets.iter().zip(&part.shape).map(|(at, size)| at.checked_add(*size));
            ends.collect::<Option<Vec<usize>>>().filter(|_| fits)
        });
        let (Some(offsets), Some(ends)) = (offsets, ends) else {
            let what = format!(
                "{}: where its block of `{}` belongs is not said",
                name(path).escape_debug(),
                part.name.escape_debug()
            );
            return contents.faults.push(Damage::new(DamageKind::UnreadableEntry, what));
        };
        if self.tiles.iter().any(|tile| tile.offsets == offsets && tile.sizes == part.shape) {
            let text = format!(
                "the block of `{}` in {} is in another file, too; the first is used",
                part.name.escape_debug(),
                name(path).escape_debug()
            );
            return contents.notices.push(Notice::new(NoticeKind::Duplicate, text));
        }
        // A rank may have nothing of a tensor.
        if !part.shape.contains(&0) || self.tiles.is_empty() {
            self.shape.iter_mut().zip(ends).for_each(|(all, end)| *all = (*all).max(end));
        }
        self.tiles.push(Tile { offsets, sizes: part.shape.clone(), part: Ok(part) });
    }
}

/// Where in its tensor the block `part` of a file with the header's values `metadata` begins.
pub(super) fn begins_at(metadata: &Value, part: &TensorInfo) -> Option<Vec<usize>> {
    let Value::Dict(entries) = metadata else { return None };
    let info = entries.get(&HashableValue::String(INFO.into()))?;
    offsets(info, &part.name).filter(|offsets| offsets.len() == part.shape.len())
}

/// Where the block of `name` begins.
fn offsets(info: &Value, name: &str) -> Option<Vec<usize>> {
    let Value::Dict(entries) = info else { return None };
    let Value::Dict(entry) = entries.get(&HashableValue::String(name.into()))? else { return None };
    let Value::List(offsets) = entry.get(&HashableValue::String("saved_offsets".into()))? else {
        return None;
    };
    offsets.iter().map(|offset| as_u64(offset).and_then(|offset| usize::try_from(offset).ok())).collect()
}
