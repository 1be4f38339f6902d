//! Megatron-LM's own files: a folder for each iteration, in it one for each model-parallel rank (`mp_rank_02_001`), which
//! has parts of all tensors. They are shown under their rank: how a tensor was divided is not in the files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::join::{Opened, Reading, Whole};
use super::twins::Twins;
use super::{Layout, Set, name, single, sort};
use crate::bytes::Stamp;
use crate::bytes::staged::folder_of;
use crate::bytes::stored::Stored;
use crate::format::{Contents, add_new};
use crate::metadata::{HashableValue, Value, as_u64, lookup};
use crate::tensor::TensorInfo;
use crate::{Damage, DamageKind, Format, Notice, NoticeKind, Result};

pub(super) const LAYOUT: Layout =
    Layout { recognises, set, identity, join, is_whole: is_iteration, ..single::LAYOUT };

/// The model, and the optimizer where it is distributed.
const FILES: [&str; 3] = ["model_optim_rng.pt", "model_rng.pt", "distrib_optim.pt"];
/// Says which iteration is the last.
const LATEST: &str = "latest_checkpointed_iteration.txt";

/// Whether a folder is called as those of ranks are: `mp_rank_00`, `mp_rank_00_001`.
fn is_rank(path: &Path) -> bool {
    let name = name(path);
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    name.strip_prefix("mp_rank_").is_some_and(|rest| rest.split('_').all(digits))
}

/// The files of ranks below the folder of an iteration.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.stored_entries().map(|e| e.into_iter().map(|entry| entry.path).collect());
    let mut folders: Vec<PathBuf> = entries.unwrap_or_default();
    folders.retain(|path| is_rank(path) && path.is_stored_folder());
    sort(&mut folders);
    let below = |folder: &PathBuf| FILES.map(|file| folder.join(file));
    folders.iter().flat_map(below).filter(|path| path.is_stored_file()).collect()
}

fn is_iteration(folder: &Path) -> bool {
    folder.is_stored_folder() && !files(folder).is_empty()
}

/// The folder of the iteration that `path` belongs to: itself, the one that a folder names as the last, or that of a
/// rank's file.
fn iteration_of(path: &Path) -> Option<PathBuf> {
    if path.is_stored_file() {
        if name(path) == LATEST {
            return last_in(folder_of(path)).filter(|folder| is_iteration(folder));
        }
        let rank = path.parent().filter(|rank| is_rank(rank) && FILES.contains(&name(path).as_str()))?;
        return Some(folder_of(rank).to_path_buf());
    }
    if is_iteration(path) {
        return Some(path.to_path_buf());
    }
    last_in(path).filter(|folder| is_iteration(folder))
}

/// The folder of the iteration that is named in `folder` as the last, whether it is there or not.
fn last_in(folder: &Path) -> Option<PathBuf> {
    let mut text = String::new();
    folder.join(LATEST).stored_bytes().ok()?.take(64).read_to_string(&mut text).ok()?;
    Some(match text.trim() {
        "release" => folder.join("release"),
        number => folder.join(format!("iter_{:07}", number.parse::<u64>().ok()?)),
    })
}

/// Tells of a last iteration that is named in `folder` and not there.
fn points_nowhere(folder: &Path) -> Option<Notice> {
    let last = last_in(folder).filter(|last| !last.is_stored())?;
    let text =
        format!("the folder of the last iteration, `{}`, which {LATEST} names, is not there", name(&last));
    Some(Notice::new(NoticeKind::Gone, text))
}

fn recognises(path: &Path) -> bool {
    iteration_of(path).is_some()
}

fn identity(path: &Path) -> PathBuf {
    iteration_of(path).unwrap_or_else(|| path.to_path_buf())
}

fn set(path: &Path) -> Result<Set> {
    let folder = identity(path);
    let notices = points_nowhere(folder_of(&folder)).into_iter().collect();
    Ok(Set { files: files(&folder), notices, beside: vec![Stamp::of(&folder)], ..Set::default() })
}

/// How many ranks there should be by the names of their folders, and whether some are missing. The numbers in a name are
/// of tensor, pipeline and expert parallelism, and of each there is every one up to the highest.
fn grids(ranks: &[String]) -> (usize, Option<Damage>) {
    let numbers = |rank: &String| -> Option<Vec<usize>> {
        rank.strip_prefix("mp_rank_")?.split('_').map(|number| number.parse().ok()).collect()
    };
    let mut grids: BTreeMap<usize, BTreeSet<Vec<usize>>> = BTreeMap::new();
    for rank in ranks.iter().filter_map(numbers) {
        grids.entry(rank.len()).or_default().insert(rank);
    }
    let (mut world, mut there, mut first) = (0usize, 0, None);
    for (dimensions, grid) in grids {
        let size = |d: usize| grid.iter().map(|rank| rank[d]).max().unwrap_or(0).saturating_add(1);
        let sizes: Vec<usize> = (0..dimensions).map(size).collect();
        let count = sizes.iter().fold(1usize, |count, size| count.saturating_mul(*size));
        world = world.saturating_add(count);
        there += grid.len();
        if count > grid.len() {
            let at = |i: usize| {
                let mut rest = i;
                let mut rank: Vec<usize> = sizes.iter().rev().map(|&n| (rest % n, rest /= n).0).collect();
                rank.reverse();
                rank
            };
            first = first.or((0..=grid.len()).map(at).find(|rank| !grid.contains(rank)));
        }
    }
    let damage = first.map(|first| {
        let gone = world - there;
        let more = if gone > 1 { " and more" } else { "" };
        let first: Vec<String> = first.iter().map(usize::to_string).collect();
        let what =
            format!("the files of {gone} of {world} ranks missing: those of rank {}{more}", first.join("_"));
        Damage::new(DamageKind::MissingShards, what)
    });
    (world.max(ranks.len()), damage)
}

/// The rank among all that wrote a file, and how many share each tensor, by the arguments in it.
fn stated_rank(metadata: &Value) -> Option<[u64; 2]> {
    let number = |key| lookup(metadata, key).and_then(as_u64);
    Some([number("args.rank")?, number("args.tensor_model_parallel_size").filter(|size| *size > 0)?])
}

/// Tells of ranks whose files were written by others, by what their arguments say. Tensor parallelism is what ranks are
/// numbered by first; files that a tool divided all have the arguments of the one that they were made of.
fn other_ranks(stated: &[(String, [u64; 2])]) -> Vec<Notice> {
    let mut distinct: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, [rank, _]) in stated {
        distinct.entry(name).or_insert(*rank);
    }
    let numbers: BTreeSet<u64> = distinct.values().copied().collect();
    if numbers.len() < distinct.len() {
        return Vec::new();
    }
    let own = |name: &str| name.strip_prefix("mp_rank_")?.split('_').next()?.parse::<u64>().ok();
    let mut told = BTreeSet::new();
    let wrong = stated.iter().filter(|(name, [rank, size])| own(name).is_some_and(|own| own != rank % size));
    wrong
        .filter(|(name, _)| told.insert(name.as_str()))
        .map(|(name, [rank, size])| {
            let text = format!(
                "{name} is by the arguments in it of rank {rank}, which has part {} of each tensor: it is another rank's under this one's name",
                rank % size
            );
            Notice::new(NoticeKind::Contradiction, text)
        })
        .collect()
}

fn join(files: Vec<Opened>) -> Result<Whole> {
    let rank = |path: &Path| path.parent().map(name).unwrap_or_default();
    let mut ranks: Vec<String> = files.iter().map(|file| rank(&file.path)).collect();
    ranks.dedup();
    let (world, missing) = grids(&ranks);
    let several = world > 1;
    let mut all: Option<Contents> = None;
    let (mut reading, mut faults) = (Reading::default(), Vec::new());
    let (mut twins, mut stated) = (Twins::default(), Vec::new());
    for file in files {
        let path = file.path.clone();
        let label = format!("{}/{}", rank(&path), name(&path));
        let Ok(mut more) = reading.read(file, &label, &mut faults) else { continue };
        // Replicated gains alone are the same in all.
        let is_own = |tensor: &&TensorInfo| tensor.storage.is_some() && tensor.damage.is_none();
        more.tensors.iter().filter(is_own).for_each(|tensor| twins.add(&label, &tensor.name, tensor));
        stated.extend(stated_rank(&more.metadata).map(|stated| (rank(&path), stated)));
        let optimizer = name(&path).starts_with("distrib_optim");
        let prefix = match (several, optimizer) {
            (true, false) => rank(&path),
            (true, true) => format!("{}.distrib_optim", rank(&path)),
            (false, true) => "distrib_optim".into(),
            (false, false) => String::new(),
        };
        if !prefix.is_empty() {
            more.tensors.iter_mut().for_each(|t| t.name = format!("{prefix}.{}", t.name));
        }
        match &mut all {
            // The values of ranks are the same but for what they keep to themselves.
            None => all = Some(more),
            Some(all) => {
                all.tensors.append(&mut more.tensors);
                all.notices.append(&mut more.notices);
                all.listing_damaged |= more.listing_damaged;
                add_new(&mut all.globals, more.globals);
                if let (true, Value::Dict(all)) = (optimizer, &mut all.metadata) {
                    all.entry(HashableValue::String(prefix)).or_insert(more.metadata);
                }
            }
        }
    }
    reading.any()?;
    let mut contents = all.unwrap_or_else(|| Contents::new(Format::default()));
    contents.faults.append(&mut faults);
    contents.faults.extend(missing);
    if several {
        contents.notices.extend(twins.notices());
        contents.notices.extend(other_ranks(&stated));
        let text = format!(
            "its {world} model-parallel ranks have parts of each tensor, which are not joined: each is shown under its rank (`{}.`, …)",
            ranks[0]
        );
        contents.notices.push(Notice::new(NoticeKind::NotShown, text));
    }
    contents.tell_first();
    Ok(reading.whole(contents))
}
