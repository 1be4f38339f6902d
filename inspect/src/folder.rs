//! Folders and sharded sets: which files make one checkpoint, and which checkpoints a folder holds.
//!
//! Conventions: Hugging Face's `*.safetensors.index.json` and `pytorch_model.bin.index.json` with a `weight_map`,
//! shards `NAME-00001-of-0000N.EXT` (SafeTensors, PyTorch and GGUF splits), config.json and trainer_state.json beside.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_pickle::Value;

use crate::metadata::from_json;
use crate::open::recognises;
use crate::step::from_name;
use crate::storage::Stamp;
use crate::torch_zip::DCP_HINT;
use crate::{Error, ErrorKind, Result};

/// How deep folders are searched for checkpoints.
const DEEPEST: usize = 6;
/// An index or trainer_state.json, which are read for single keys, may be this large.
const MAX_INDEX: u64 = 256 << 20;
/// config.json, which is kept whole, may be this large.
const MAX_CONFIG: u64 = 8 << 20;

/// The files that make one checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Set {
    pub files: Vec<PathBuf>,
    /// Names that the index promises.
    pub weight_map: Option<BTreeSet<String>>,
    pub config: Option<Value>,
    pub trainer_step: Option<u64>,
    /// What of the set is not there.
    pub missing: Option<String>,
    /// What else the user should know.
    pub warnings: Vec<String>,
    /// What was looked at besides `files`, there or not.
    pub beside: Vec<Stamp>,
}

/// The set that `path` (a file, a shard, an index, or a folder) belongs to.
pub(crate) fn set_of(path: &Path) -> Result<Set> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, &e))?;
    let folder = if metadata.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let mut set = if metadata.is_dir() {
        folder_set(path)?
    } else if is_index(path) {
        index_set(path)?
    } else {
        file_set(path)
    };
    let alone = !metadata.is_dir() && set.files.len() == 1;
    if metadata.is_dir() {
        // Files that come or go.
        set.beside.push(Stamp::of(path));
    }
    // A config beside a lone file is that file's only if Hugging Face would load the two together.
    if !alone || is_canonical(path) {
        set.beside.extend(["config.json", "trainer_state.json"].map(|name| Stamp::of(&folder.join(name))));
        let config = folder.join("config.json");
        set.config = read_json(&config, MAX_CONFIG).map(from_json);
        if set.config.is_none() && config.is_file() {
            set.warnings
                .push("the config.json beside it is not JSON that can be read, and was not used".into());
        }
        let state: Option<TrainerState> = read_json(&folder.join("trainer_state.json"), MAX_INDEX);
        set.trainer_step = state.map(|state| state.global_step);
    }
    Ok(set)
}

fn is_index(path: &Path) -> bool {
    name(path).ends_with(".index.json")
}

fn is_canonical(path: &Path) -> bool {
    matches!(
        name(path).as_str(),
        "model.safetensors"
            | "pytorch_model.bin"
            | "adapter_model.safetensors"
            | "diffusion_pytorch_model.safetensors"
    )
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_json<T: DeserializeOwned>(path: &Path, most: u64) -> Option<T> {
    let metadata = std::fs::metadata(path).ok().filter(|m| m.is_file() && m.len() <= most)?;
    let mut text = Vec::new();
    std::fs::File::open(path).ok()?.take(metadata.len()).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[derive(Deserialize)]
struct TrainerState {
    global_step: u64,
}

#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// `base-00002-of-00005.ext` as (base, number, count, ext).
fn shard_parts(name: &str) -> Option<(&str, usize, usize, &str)> {
    let of = name.rfind("-of-")?;
    let digits = name[of + 4..].len() - name[of + 4..].trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let start = name[..of].rfind('-')?;
    let number = name[start + 1..of].parse().ok()?;
    let count = name[of + 4..of + 4 + digits].parse().ok()?;
    (digits >= 4 && name[start + 1..of].len() == digits).then_some((
        &name[..start],
        number,
        count,
        &name[of + 4 + digits..],
    ))
}

/// Whether the file `shard` is named as one of those that the index `index` joins.
fn is_shard_of(shard: &str, index: &str) -> bool {
    shard_parts(shard)
        .is_some_and(|(base, .., ext)| index.strip_suffix(".index.json") == Some(&format!("{base}{ext}")))
}

/// A shard brings its whole set along.
fn file_set(path: &Path) -> Set {
    let file = name(path);
    let Some((base, number, count, ext)) = shard_parts(&file) else {
        return Set { files: vec![path.to_path_buf()], ..Set::default() };
    };
    let width = file.len() - base.len() - ext.len() - "-of-".len() - 1;
    let shard = |i: usize| path.with_file_name(format!("{base}-{i:0w$}-of-{count:0w$}{ext}", w = width / 2));
    if number == 0 || number > count || count > 100_000 {
        return Set { files: vec![path.to_path_buf()], ..Set::default() };
    }
    let (there, gone): (Vec<PathBuf>, Vec<PathBuf>) = (1..=count).map(shard).partition(|p| p.exists());
    let index = path.with_file_name(format!("{base}{ext}.index.json"));
    let beside = gone.iter().chain([&index]).map(|p| Stamp::of(p)).collect();
    let missing = (!gone.is_empty()).then(|| {
        let names: Vec<String> = gone.iter().take(3).map(|p| name(p)).collect();
        let more = if gone.len() > 3 { " and more" } else { "" };
        format!("{} of {count} shards missing: {}{more}", gone.len(), names.join(", "))
    });
    let weight_map = weight_map(&index).map(|m| m.into_keys().collect());
    Set { files: there, missing, weight_map, beside, ..Set::default() }
}

type WeightMap = BTreeMap<String, String>;

fn weight_map(index: &Path) -> Option<WeightMap> {
    read_json(index, MAX_INDEX).map(|Index { weight_map }| weight_map)
}

fn index_set(path: &Path) -> Result<Set> {
    let map = weight_map(path).ok_or_else(|| {
        Error::new(ErrorKind::Damaged, "is not a shard index: it has no `weight_map` of names to files")
            .in_file(path)
    })?;
    let shards: BTreeSet<&String> = map.values().collect();
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
        if file.exists() {
            files.push(file);
        } else {
            beside.push(Stamp::of(&file));
            gone.push(shard.as_str());
        }
    }
    if files.is_empty() {
        return Err(Error::new(ErrorKind::Io, "none of the shards it names is there").in_file(path));
    }
    let missing = (!gone.is_empty())
        .then(|| format!("{} of {} shards missing: {}", gone.len(), shards.len(), gone.join(", ")));
    let folder = path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
    let extra: Vec<String> = std::fs::read_dir(folder)
        .map_err(|e| Error::io(folder, &e))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|n| is_shard_of(n, &name(path)) && !shards.contains(n))
        .collect();
    let warnings = match extra.len() {
        0 => Vec::new(),
        n => vec![format!("{n} files look like shards and are not in the index: {}", extra.join(", "))],
    };
    beside.push(Stamp::of(folder));
    let weight_map = Some(map.into_keys().collect());
    Ok(Set { files, missing, weight_map, warnings, beside, ..Set::default() })
}

/// The one checkpoint of a folder.
fn folder_set(folder: &Path) -> Result<Set> {
    if is_distributed(folder) {
        let what = "is a distributed checkpoint (.distcp files with their .metadata), which is not read";
        return Err(Error::unsupported(what).in_file(folder).hint(DCP_HINT));
    }
    match find_in(folder)?.as_slice() {
        [one] if one.is_dir() => folder_set(one),
        [one] if is_index(one) => index_set(one),
        [one] => Ok(file_set(one)),
        [] => Err(Error::new(ErrorKind::Unrecognised, "is a folder without a checkpoint").in_file(folder)),
        many => {
            Err(Error::new(ErrorKind::Unrecognised, format!("is a folder of {} checkpoints", many.len()))
                .in_file(folder)
                .hint(format!("name one of them, such as {}", many[0].display())))
        }
    }
}

/// Whether `folder` is what `torch.distributed.checkpoint` writes.
fn is_distributed(folder: &Path) -> bool {
    let distcp =
        |entry: std::io::Result<std::fs::DirEntry>| entry.is_ok_and(|e| name(&e.path()).ends_with(".distcp"));
    folder.join(".metadata").is_file()
        && std::fs::read_dir(folder).is_ok_and(|mut entries| entries.any(distcp))
}

/// Checkpoints directly in `folder`: an index stands for its shards, the first shard for its set, and files that
/// Hugging Face's trainer puts beside a model (optimizer.pt, scheduler.pt, rng_state.pth) are not checkpoints.
fn find_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, &e))? {
        let path = entry.map_err(|e| Error::io(folder, &e))?.path();
        if !name(&path).starts_with('.') && path.is_file() && (is_index(&path) || recognises(&path)) {
            files.push(path);
        }
    }
    sort(&mut files);
    let mut covered: BTreeSet<String> = BTreeSet::new();
    let mut indices = Vec::new();
    for index in files.iter().filter(|f| is_index(f)) {
        if let Some(map) = weight_map(index) {
            covered.extend(map.into_values());
            indices.push(name(index));
        }
    }
    let has_model = files.iter().any(|f| is_canonical(f) || is_index(f));
    let beside = |n: &str| {
        has_model
            && (n.starts_with("optimizer.")
                || n.starts_with("scheduler.")
                || n.starts_with("rng_state")
                || n == "training_args.bin")
    };
    let mut sets: BTreeSet<(String, usize)> = BTreeSet::new();
    files.retain(|file| {
        let n = name(file);
        if covered.contains(&n)
            || indices.iter().any(|index| is_shard_of(&n, index))
            || beside(&n)
            || (is_index(file) && !names_shards(&n) && weight_map(file).is_none())
        {
            return false;
        }
        match shard_parts(&n) {
            Some((base, _, count, _)) => sets.insert((base.to_string(), count)),
            None => true,
        }
    });
    Ok(files)
}

/// Whether an index of this name should hold a `weight_map`; others may be indices of something else.
fn names_shards(index: &str) -> bool {
    index.ends_with(".safetensors.index.json") || index.ends_with(".bin.index.json")
}

/// Files directly in `folder` that are named like checkpoints and do not begin like one: empty, overwritten, pointers
/// of Git LFS, links that lead nowhere. Opening them tells what is wrong.
fn spoilt_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, &e))? {
        let path = entry.map_err(|e| Error::io(folder, &e))?.path();
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let named = matches!(extension.as_str(), "pt" | "pth" | "ckpt" | "safetensors" | "gguf");
        let there = path.is_file() || (path.is_symlink() && !path.exists());
        if named && there && !name(&path).starts_with('.') && !recognises(&path) {
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

/// What `path` is a part of: itself with every link followed, or for a shard or an index the set's index, whether that
/// is there or not. Two paths of the same identity are the same checkpoint.
pub(crate) fn identity(path: &Path) -> PathBuf {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let own = name(&path);
    match shard_parts(&own).filter(|_| path.is_file()) {
        Some((base, .., ext)) if ext.ends_with(".gguf") => path.with_file_name(format!("{base}{ext}")),
        Some((base, .., ext)) => path.with_file_name(format!("{base}{ext}.index.json")),
        None => path,
    }
}

/// All checkpoints below `path`, in name order, and files that should be some. A folder that holds one model in Hugging Face's layout is one, and so
/// is each folder in it that is named after a step.
pub(crate) fn find(path: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    if is_distributed(path) {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = find_in(path)?;
    let model = matches!(found.as_slice(), [one] if is_canonical(one) || is_index(one));
    if model {
        found = vec![path.to_path_buf()];
    }
    let spoilt = spoilt_in(path)?;
    if !spoilt.is_empty() {
        found.extend(spoilt);
        sort(&mut found);
    }
    if depth < DEEPEST {
        let mut folders: Vec<PathBuf> = std::fs::read_dir(path)
            .map_err(|e| Error::io(path, &e))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|p| !name(p).starts_with('.') && p.is_dir() && !p.is_symlink())
            // Beside a finished model lie the checkpoints of its training, and other forms of itself.
            .filter(|p| !model || from_name(&name(p)).is_some())
            .collect();
        sort(&mut folders);
        for folder in folders {
            found.extend(find(&folder, depth + 1)?);
        }
    }
    Ok(found)
}
