//! Sharded sets: Hugging Face's `*.safetensors.index.json` and `pytorch_model.bin.index.json` with a `weight_map`, and
//! shards `NAME-00001-of-0000N.EXT`, with an index or without.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Joined, Lacks, Layout, MAX_INDEX, Set, name, read_json, single};
use crate::bytes::Stamp;
use crate::bytes::staged::folder_of;
use crate::bytes::stored::Stored;
use crate::tensor::TensorInfo;
use crate::{Damage, DamageKind, Error, ErrorKind, Notice, NoticeKind, Result};

pub(super) const LAYOUT: Layout = Layout {
    recognises,
    set,
    identity,
    lacks,
    stands_for_files: is_index,
    covers,
    is_model: is_index,
    ..single::LAYOUT
};

fn recognises(path: &Path) -> bool {
    is_index(path) || shard_parts(&name(path)).is_some()
}

fn set(path: &Path) -> Result<Set> {
    if is_index(path) { index_set(path) } else { Ok(file_set(path)) }
}

/// The path of the set's index, which may be missing.
fn identity(path: &Path) -> PathBuf {
    match shard_parts(&name(path)).filter(|_| path.is_stored_file()) {
        Some((base, .., ext)) => path.with_file_name(format!("{base}{ext}.index.json")),
        None => path.to_path_buf(),
    }
}

/// Tensors that are in the set's index but in no shard, and the reverse.
fn lacks(set: &Set, joined: &Joined<'_>) -> Lacks {
    let mut lacks = Lacks { damage: set.missing.iter().cloned().collect(), ..Lacks::default() };
    let Some(index) = &set.weight_map else { return lacks };
    let known: HashSet<&str> = joined.tensors.iter().map(|t| t.name.as_str()).collect();
    let lost: Vec<&String> = index.keys().filter(|n| !known.contains(n.as_str())).collect();
    if let Some(first) = lost.first() {
        let what = match lost.len() {
            1 => format!("1 tensor of the index is in no shard: `{}`", first.escape_debug()),
            n => format!("{n} tensors of the index are in no shard, such as `{}`", first.escape_debug()),
        };
        lacks.damage.push(Damage::new(DamageKind::MissingTensors, what));
        lacks.absent = lost.into_iter().cloned().collect();
    }
    let misplaced = |t: &&TensorInfo| {
        let file = t.storage.as_ref().and_then(|s| s.file());
        index.get(&t.name).zip(file).is_some_and(|(promised, file)| *promised != name(file))
    };
    let mut misplaced = joined.tensors.iter().filter(misplaced);
    if let Some(first) = misplaced.next() {
        let count = 1 + misplaced.count();
        let are = if count == 1 { " is" } else { "s are" };
        let such = first.name.escape_debug();
        let text = format!("{count} tensor{are} in another shard than the index says, such as `{such}`");
        lacks.notices.push(Notice::new(NoticeKind::Contradiction, text));
    }
    let unlisted = joined.tensors.iter().filter(|t| !index.contains_key(&t.name)).count();
    if unlisted > 0 {
        let are = if unlisted == 1 { " is" } else { "s are" };
        let text = format!("{unlisted} tensor{are} in the shards but not in the index");
        lacks.notices.push(Notice::new(NoticeKind::Unlisted, text));
    }
    lacks
}

/// Shards that an index lists, or that are named like its own; all but the first of a set; indices of something else.
fn covers(files: &[PathBuf]) -> HashSet<PathBuf> {
    let mut listed: BTreeSet<String> = BTreeSet::new();
    let mut indices = Vec::new();
    for index in files.iter().filter(|file| is_index(file)) {
        if let Some(map) = weight_map(index) {
            listed.extend(map.into_values());
            indices.push(name(index));
        }
    }
    let mut sets: BTreeSet<(String, usize)> = BTreeSet::new();
    let covered = |file: &&PathBuf| {
        let n = name(file);
        if listed.contains(&n) || indices.iter().any(|index| is_shard_of(&n, index)) {
            return true;
        }
        if is_index(file) && !indices.contains(&n) && !names_shards(&n) {
            return true;
        }
        shard_parts(&n).is_some_and(|(base, _, count, _)| !sets.insert((base.to_string(), count)))
    };
    files.iter().filter(covered).cloned().collect()
}

fn is_index(path: &Path) -> bool {
    name(path).ends_with(".index.json")
}

/// Whether an index of this name should hold a `weight_map`; others may be indices of something else.
fn names_shards(index: &str) -> bool {
    index.ends_with(".safetensors.index.json") || index.ends_with(".bin.index.json")
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// `base-00002-of-00005.ext` as (base, number, count, ext). The number may follow a dot or an underscore, too, and have
/// fewer digits, with zeros before it or not.
pub(super) fn shard_parts(name: &str) -> Option<(&str, usize, usize, &str)> {
    let of = name.rfind("-of-")?;
    let after = &name[of + 4..];
    let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let start = name[..of].rfind(['-', '_', '.'])?;
    let text = &name[start + 1..of];
    let padded = text.len() == digits;
    let plain = text.len() < digits && !text.starts_with('0');
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // Of few digits it may be a part of any name.
    let ends = digits >= 4 || after[digits..].starts_with('.');
    if !(is_number && ends && (padded || plain)) {
        return None;
    }
    Some((&name[..start], text.parse().ok()?, after[..digits].parse().ok()?, &after[digits..]))
}

/// Whether the file `shard` is named as one of those that the index `index` joins.
fn is_shard_of(shard: &str, index: &str) -> bool {
    shard_parts(shard)
        .is_some_and(|(base, .., ext)| index.strip_suffix(".index.json") == Some(&format!("{base}{ext}")))
}

/// Opening a shard opens its whole set.
pub(super) fn file_set(path: &Path) -> Set {
    let file = name(path);
    let Some((base, number, count, ext)) = shard_parts(&file) else {
        return single::of(path);
    };
    if number == 0 || number > count || count > 100_000 {
        return single::of(path);
    }
    let before = &file[..=base.len()];
    let total = file[..file.len() - ext.len()].rsplit_once("-of-").map_or("", |(_, total)| total);
    let padded = before.len() + total.len() + "-of-".len() + total.len() + ext.len() == file.len();
    let shard = |i: usize| {
        let called = |width: usize| path.with_file_name(format!("{before}{i:0width$}-of-{total}{ext}"));
        // Of as many digits it cannot be told from one name whether others have zeros before them.
        let plain = called(1);
        if !padded || plain.is_stored() { plain } else { called(total.len()) }
    };
    let (there, gone): (Vec<PathBuf>, Vec<PathBuf>) = (1..=count).map(shard).partition(|p| p.is_stored());
    let index = path.with_file_name(format!("{base}{ext}.index.json"));
    let beside = gone.iter().chain([&index]).map(|p| Stamp::of(p)).collect();
    let missing = (!gone.is_empty()).then(|| {
        let names: Vec<String> = gone.iter().take(3).map(|p| name(p)).collect();
        let more = if gone.len() > 3 { " and more" } else { "" };
        let what = format!("{} of {count} shards missing: {}{more}", gone.len(), names.join(", "));
        Damage::new(DamageKind::MissingShards, what)
    });
    let weight_map = weight_map(&index);
    let spoilt = (weight_map.is_none() && index.is_stored()).then(|| {
        let what = format!(
            "{} is not a shard index: it has no `weight_map` from names to files, so it is unknown what else should be there",
            name(&index)
        );
        Damage::new(DamageKind::Inconsistent, what)
    });
    let missing = Damage::joined(missing.into_iter().chain(spoilt));
    let notices = without_index(path, &index, count).into_iter().collect();
    Set { files: there, missing, weight_map, beside, notices, ..Set::default() }
}

/// What transformers calls the files of a model that is divided over several.
const DIVIDED: [&str; 2] = ["model.safetensors.index.json", "pytorch_model.bin.index.json"];

/// Tells of shards beside a model's configuration whose `index` is not there. Programs that read every file of the folder
/// load them (vLLM, llama.cpp's converter), so that it is no finding; transformers, Accelerate and PEFT ask for the index.
fn without_index(path: &Path, index: &Path, count: usize) -> Option<Notice> {
    let called = name(index);
    let of_model = DIVIDED.contains(&called.as_str()) && path.with_file_name("config.json").is_stored();
    (count > 1 && of_model && !index.is_stored()).then(|| {
        let text = format!(
            "{called} is not next to its shards: transformers does not load them without it, and it is not known which tensors should be there"
        );
        Notice::new(NoticeKind::Gone, text)
    })
}

type WeightMap = BTreeMap<String, String>;

pub(super) fn weight_map(index: &Path) -> Option<WeightMap> {
    read_json(index, MAX_INDEX).map(|Index { weight_map }| weight_map)
}

fn index_set(path: &Path) -> Result<Set> {
    let map = weight_map(path).ok_or_else(|| {
        Error::new(ErrorKind::Damaged, "is not a shard index: it has no `weight_map` from names to files")
            .in_file(path)
    })?;
    let shards: BTreeSet<String> = map.values().cloned().collect();
    let mut files = Vec::new();
    let mut gone = Vec::new();
    let mut beside = vec![Stamp::of(path)];
    for shard in &shards {
        // A name with folders in it could point anywhere.
        if Path::new(shard).file_name() != Some(shard.as_ref()) {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("names a shard outside its folder: `{}`", shard.escape_debug()),
            )
            .in_file(path));
        }
        let file = path.with_file_name(shard);
        if file.is_stored() {
            files.push(file);
        } else {
            beside.push(Stamp::of(&file));
            gone.push(shard.as_str());
        }
    }
    if files.is_empty() {
        return Err(Error::new(ErrorKind::Io, "none of the shards it names exist").in_file(path));
    }
    let missing = (!gone.is_empty()).then(|| {
        let what = format!("{} of {} shards missing: {}", gone.len(), shards.len(), gone.join(", "));
        Damage::new(DamageKind::MissingShards, what)
    });
    let folder = folder_of(path);
    let extra: Vec<String> = folder
        .stored_entries()
        .map_err(|e| Error::io(folder, &e))?
        .into_iter()
        .map(|entry| name(&entry.path))
        .filter(|n| is_shard_of(n, &name(path)) && !shards.contains(n))
        .collect();
    let notices = match extra.len() {
        0 => Vec::new(),
        n => {
            let look = if n == 1 { " looks like a shard but is" } else { "s look like shards but are" };
            let text = format!("{n} file{look} not in the index: {}", extra.join(", "));
            vec![Notice::new(NoticeKind::Unlisted, text)]
        }
    };
    beside.push(Stamp::of(folder));
    let weight_map = Some(map);
    Ok(Set { files, missing, weight_map, notices, beside, ..Set::default() })
}
