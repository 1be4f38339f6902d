//! Files that each rank saved for itself with `torch.save`: `model_world_size_8_rank_3.pt` and its kin (verl, SkyRL),
//! `NAME_rank3.pt` (FSDP's sharded state dicts). A tensor in them is a rank's part of a larger one, a DTensor or a
//! ShardedTensor, which says where it belongs; others are the same in all ranks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::join::{Opened, Reading, Whole};
use super::tiles::{self, Budget, Tile};
use super::{Layout, Set, name, parent, single};
use crate::bytes::stored::Stored;
use crate::bytes::{Source, Stamp};
use crate::format::{self, Contents, add_new};
use crate::metadata::{HashableValue, Value};
use crate::storage::{Place, Storage};
use crate::tensor::{Division, Placement, Share, TensorInfo};
use crate::{Damage, DamageKind, Format, Notice, NoticeKind, Result};

pub(super) const LAYOUT: Layout = Layout { recognises, set, identity, join, covers, ..single::LAYOUT };

const ENDINGS: [&str; 3] = ["pt", "pth", "bin"];
/// What the files of the model, of the optimizer, and of what each rank keeps to itself are called.
const MODEL: &str = "model";
const OPTIMIZER: &str = "optim";
const OWN: &str = "extra_state";
/// Names of the flat vectors of FSDP.
const FLAT: [&str; 2] = ["_flat_param", "flat_param"];

/// What a file's name says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    /// What it holds.
    stem: String,
    /// The number of ranks, where the name has it.
    world: Option<usize>,
    rank: usize,
}

impl Named {
    fn of(path: &Path) -> Option<Self> {
        let name = name(path);
        let (before, ending) = name.rsplit_once('.')?;
        let (before, rank) = before.rsplit_once("rank").filter(|_| ENDINGS.contains(&ending))?;
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
        let rank = number(rank.strip_prefix(['_', '-']).unwrap_or(rank))?;
        let before = before.strip_suffix(['_', '-']).unwrap_or(before);
        let world = before.rsplit_once("_world_size_").and_then(|(stem, n)| Some((stem, number(n)?)));
        Some(match world {
            Some((stem, world)) => Named { stem: stem.into(), world: Some(world), rank },
            None => Named { stem: before.into(), world: None, rank },
        })
    }

    /// What the names of one checkpoint's files have in common.
    fn kin(&self) -> (Option<usize>, &str) {
        (self.world, if self.world.is_some() { "" } else { &self.stem })
    }

    /// Files of the model come first.
    fn order(&self) -> (bool, &str, usize) {
        (self.stem != MODEL, &self.stem, self.rank)
    }
}

/// Sorts files by what their names say, and those of which it is the same by the names.
fn sort(files: &mut [(Named, PathBuf)]) {
    files.sort_by(|(a, at_a), (b, at_b)| (a.order(), at_a).cmp(&(b.order(), at_b)));
}

/// The files of the checkpoint that the file at `path` belongs to, if there are or should be several.
fn files(path: &Path) -> Option<Vec<(Named, PathBuf)>> {
    let named = Named::of(path).filter(|_| path.is_stored_file())?;
    let entries = parent(path).stored_entries().ok()?.into_iter().map(|entry| entry.path);
    let mut all: Vec<(Named, PathBuf)> = entries
        .filter_map(|path| Some((Named::of(&path)?, path)))
        .filter(|(other, path)| named.kin() == other.kin() && path.is_stored_file())
        .collect();
    sort(&mut all);
    is_set(&all).then_some(all)
}

/// Whether files that go together by their names are parts of one checkpoint: one that names more ranks is, too.
fn is_set(files: &[(Named, PathBuf)]) -> bool {
    let Some((first, path)) = files.first() else { return false };
    match first.world {
        Some(world) => files.len() > 1 || world > 1,
        None => files.len() > 1 && has_parts(path),
    }
}

/// Whether a tensor in the file at `path` is a rank's part of another.
fn has_parts(path: &Path) -> bool {
    let contents = Source::open(path).and_then(|source| format::read(&source));
    contents.is_ok_and(|contents| contents.tensors.iter().any(|tensor| tensor.share.is_some()))
}

fn recognises(path: &Path) -> bool {
    files(path).is_some()
}

fn identity(path: &Path) -> PathBuf {
    files(path).and_then(|files| Some(files.into_iter().next()?.1)).unwrap_or_else(|| path.to_path_buf())
}

fn set(path: &Path) -> Result<Set> {
    let Some(files) = files(path) else { return Ok(single::of(path)) };
    let files = files.into_iter().map(|(_, path)| path).collect();
    Ok(Set { files, beside: vec![Stamp::of(parent(path))], ..Set::default() })
}

/// All files of a checkpoint but the first.
fn covers(files: &[PathBuf]) -> HashSet<PathBuf> {
    type Files = Vec<(Named, PathBuf)>;
    let mut sets: BTreeMap<(Option<usize>, String), Files> = BTreeMap::new();
    for (named, path) in files.iter().filter_map(|path| Some((Named::of(path)?, path))) {
        let (world, stem) = named.kin();
        sets.entry((world, stem.to_string())).or_default().push((named.clone(), path.clone()));
    }
    let mut covered = HashSet::new();
    for mut set in sets.into_values() {
        sort(&mut set);
        if is_set(&set) {
            covered.extend(set.into_iter().skip(1).map(|(_, path)| path));
        }
    }
    covered
}

/// What the files of one name have, rank by rank.
#[derive(Default)]
struct Kin {
    /// Names of tensors in the order in which they were met.
    names: Vec<String>,
    /// What each rank has of them.
    parts: HashMap<String, Vec<(usize, TensorInfo)>>,
    metadata: Option<Value>,
    /// The ranks of which there is a file, and how it is called.
    ranks: BTreeMap<usize, String>,
    /// Whether one of the files cannot be read.
    unread: bool,
}

fn join(files: Vec<Opened>) -> Result<Whole> {
    let mut contents = Contents::new(Format::TorchDistributed);
    let mut reading = Reading::default();
    let mut all: BTreeMap<String, Kin> = BTreeMap::new();
    let mut world = None;
    let count = files.len();
    for file in files {
        let path = file.path.clone();
        let Some(named) = Named::of(&path) else { continue };
        world = world.or(named.world);
        let kin = all.entry(named.stem.clone()).or_default();
        let of_another = named.world.filter(|world| named.rank >= *world);
        match of_another {
            Some(world) => {
                let what = format!(
                    "{} is the file of a rank beyond the {world} that saved: it is not used",
                    name(&path).escape_debug()
                );
                contents.faults.push(Damage::new(DamageKind::Inconsistent, what));
            }
            None => {
                if let Some(other) = kin.ranks.get(&named.rank) {
                    let (one, other) = (other.escape_debug(), name(&path));
                    let what = format!("{one} and {} are both of rank {}", other.escape_debug(), named.rank);
                    contents.faults.push(Damage::new(DamageKind::Inconsistent, what));
                }
                kin.ranks.entry(named.rank).or_insert_with(|| name(&path));
            }
        }
        let read = reading.read(file, &name(&path), &mut contents.faults);
        match (read, of_another) {
            (Ok(more), None) => {
                contents.notices.extend(another_rank(&name(&path), named.rank, &more));
                add(&mut contents, kin, named.rank, more);
            }
            (Err(_), None) => kin.unread = true,
            (_, Some(_)) => {}
        }
    }
    reading.any()?;
    let mut budget = Budget::of_bytes(reading.bytes());
    let only = all.len() == 1;
    for (stem, mut kin) in all {
        let highest = kin.ranks.keys().last().map_or(0, |rank| rank.saturating_add(1));
        // Of many more ranks than there are files, nothing is known.
        let world = world.unwrap_or(highest.min(count.saturating_mul(64)));
        let gone = world.saturating_sub(kin.ranks.range(..world).count());
        if let Some(first) = (0..world).find(|rank| !kin.ranks.contains_key(rank)) {
            let more = if gone > 1 { " and more" } else { "" };
            let what = format!(
                "{gone} of {world} files of `{}` missing: that of rank {first}{more}",
                stem.escape_debug()
            );
            contents.faults.push(Damage::new(DamageKind::MissingShards, what));
        }
        let prefix = match stem.as_str() {
            MODEL => None,
            OPTIMIZER => Some("optimizer".to_string()),
            _ if only => None,
            _ => Some(stem.clone()),
        };
        if stem == OWN && !only {
            // Random states and the like are of no use without their rank.
            (kin.names, kin.parts) = Default::default();
        }
        let incomplete = match (gone == 0, kin.unread) {
            (true, false) => None,
            (true, true) => {
                Some((DamageKind::UnreadableShard, "the file of the rank that has it cannot be read"))
            }
            (false, false) => {
                Some((DamageKind::MissingShards, "the file of the rank that has it is missing"))
            }
            (false, true) => Some((
                DamageKind::MissingShards,
                "the file of the rank that has it is missing or cannot be read",
            )),
        };
        let incomplete = incomplete.map(|(kind, what)| Damage::new(kind, what));
        add_joined(&mut contents, kin, prefix.as_deref(), incomplete, &mut budget);
    }
    let flat = |t: &&TensorInfo| FLAT.iter().any(|name| t.name.rsplit('.').next() == Some(name));
    let mut flats = contents.tensors.iter().filter(flat);
    if let Some(first) = flats.next() {
        let text = format!(
            "{} of its tensors are flat vectors of FSDP, such as `{}`: neither names nor shapes of the parameters in them were saved",
            1 + flats.count(),
            first.name.escape_debug()
        );
        contents.notices.push(Notice::new(NoticeKind::Flat, text));
    }
    contents.tell_first();
    Ok(reading.whole(contents))
}

/// Tells if the file of `rank` says that it is another rank's: parts belong where the file says, whatever its name is.
fn another_rank(name: &str, rank: usize, contents: &Contents) -> Option<Notice> {
    let stated = contents.tensors.iter().find_map(|tensor| match &tensor.share.as_ref()?.division {
        Division::Mesh { rank, .. } => *rank,
        _ => None,
    });
    let stated = stated.filter(|stated| *stated != rank)?;
    let text = format!("{} is by what is in it the file of rank {stated}, not {rank}", name.escape_debug());
    Some(Notice::new(NoticeKind::Contradiction, text))
}

/// Adds what the file of `rank` holds.
fn add(contents: &mut Contents, kin: &mut Kin, rank: usize, more: Contents) {
    contents.listing_damaged |= more.listing_damaged;
    // Ranks have the same to tell.
    add_new(&mut contents.notices, more.notices);
    add_new(&mut contents.globals, more.globals);
    kin.metadata.get_or_insert(more.metadata);
    for tensor in more.tensors {
        // Several parts of one tensor that a rank has are named one after another.
        let number = tensor.share.as_ref().map_or(0, |share| share.number);
        let name = match number {
            0 => tensor.name.as_str(),
            n => tensor.name.strip_suffix(&format!(".shard_{n}")).unwrap_or(&tensor.name),
        };
        match kin.parts.get_mut(name) {
            Some(parts) => parts.push((rank, tensor)),
            None => {
                kin.names.push(name.to_string());
                kin.parts.insert(name.to_string(), vec![(rank, tensor)]);
            }
        }
    }
}

/// Adds the tensors and values of `kin`, under `prefix`.
fn add_joined(
    contents: &mut Contents,
    mut kin: Kin,
    prefix: Option<&str>,
    incomplete: Option<Damage>,
    budget: &mut Budget,
) {
    let below = |name: &str| prefix.map_or(name.to_string(), |prefix| format!("{prefix}.{name}"));
    for name in &kin.names {
        let parts = kin.parts.remove(name).unwrap_or_default();
        let mut notices = Vec::new();
        let joined = Parts { name: below(name), parts, incomplete: incomplete.clone() };
        contents.tensors.push(joined.joined(budget, &mut notices));
        contents.notices.append(&mut notices);
    }
    let (Some(values), Value::Dict(all)) = (kin.metadata, &mut contents.metadata) else { return };
    match (prefix, values) {
        (Some(prefix), values) => drop(all.insert(HashableValue::String(prefix.into()), values)),
        (None, Value::Dict(values)) => all.extend(values),
        (None, _) => {}
    }
}

/// What ranks have of one tensor.
struct Parts {
    name: String,
    parts: Vec<(usize, TensorInfo)>,
    /// Why a part may not be there, if files of ranks are missing or cannot be read.
    incomplete: Option<Damage>,
}

/// Where a part begins in the whole, and its size.
type Block = (Vec<usize>, Vec<usize>);

impl Parts {
    fn joined(self, budget: &mut Budget, notices: &mut Vec<Notice>) -> TensorInfo {
        let Parts { name, parts, incomplete } = self;
        let first = &parts[0].1;
        let Some(share) = first.share.clone() else {
            let tensor = agreed(&name, &parts, notices);
            let mixed = parts.iter().any(|(_, tensor)| tensor.share.is_some());
            return match mixed {
                true => {
                    refused(name, tensor, tensor.shape.clone(), "some ranks have a part of it, and some all")
                }
                false => TensorInfo { name, ..tensor.clone() },
            };
        };
        let mut blocks: BTreeMap<Block, Vec<(usize, TensorInfo)>> = BTreeMap::new();
        for (rank, tensor) in &parts {
            let block = match &tensor.share {
                Some(own) if own.whole == share.whole => block(own, tensor),
                _ => Err(format!("rank {rank} has a part of a tensor of another shape")),
            };
            match block {
                Ok(block) => blocks.entry(block).or_default().push((*rank, tensor.clone())),
                Err(what) => return refused(name, first, share.whole.clone(), &what),
            }
        }
        let mut tiles: Vec<Tile> = Vec::new();
        if let Some(damage) = incomplete {
            for (offsets, sizes) in all_blocks(&share, budget) {
                if !blocks.contains_key(&(offsets.clone(), sizes.clone())) {
                    tiles.push(Tile { offsets, sizes, part: Err(damage.clone()) });
                }
            }
        }
        for ((offsets, sizes), parts) in blocks {
            let part = agreed(&name, &parts, notices).clone();
            tiles.push(Tile { offsets, sizes, part: Ok(TensorInfo { share: None, ..part }) });
        }
        let joined = tiles::join(name, first.dtype, share.whole.clone(), tiles, budget);
        TensorInfo { requires_grad: first.requires_grad, ..joined }
    }
}

/// The tensor `name` of `whole`, of which `part` is a part, and which is not joined because of `what`.
fn refused(name: String, part: &TensorInfo, whole: Vec<usize>, what: &str) -> TensorInfo {
    let damage = Damage::new(DamageKind::Inconsistent, what);
    let mut tensor = TensorInfo::contiguous(name, part.dtype, whole, None, 0);
    tensor.storage = Some(Storage::missing(damage.clone(), tensor.byte_len().unwrap_or(0)));
    tensor.damage = Some(damage);
    tensor
}

/// The part of `whole` that chunks along the dimensions of a mesh leave to the rank at `at`.
fn chunk(
    whole: &[usize],
    sizes: &[usize],
    at: &[usize],
    placements: &[Placement],
    order: &[usize],
) -> Option<Block> {
    let (mut offsets, mut extents) = (vec![0usize; whole.len()], whole.to_vec());
    for &d in order {
        let Placement::Shard(dim) = placements.get(d)? else { continue };
        let (offset, extent) = (offsets.get_mut(*dim)?, extents.get_mut(*dim)?);
        let size = extent.div_ceil(*sizes.get(d)?);
        let start = size.saturating_mul(*at.get(d)?).min(*extent);
        *offset += start;
        *extent = size.min(*extent - start);
    }
    Some((offsets, extents))
}

/// Where the part `tensor` belongs.
fn block(share: &Share, tensor: &TensorInfo) -> std::result::Result<Block, String> {
    match &share.division {
        Division::Mesh { sizes, at, placements, order, .. } => {
            let other = placements.iter().find_map(|placement| match placement {
                Placement::Other(name) => Some(name),
                _ => None,
            });
            if let Some(other) = other {
                return Err(format!("it is placed as {other}, which is not joined"));
            }
            chunk(&share.whole, sizes, at, placements, order)
                .ok_or_else(|| "it is divided along a dimension that it does not have".into())
        }
        Division::Block { offsets, .. } => Ok((offsets.clone(), tensor.shape.clone())),
        Division::Other(what) => Err(format!("it is one rank's part of a tensor, and {what}")),
    }
}

/// Every block that the whole was divided into, empty ones left out.
fn all_blocks(share: &Share, budget: &mut Budget) -> BTreeSet<Block> {
    let mut all = BTreeSet::new();
    match &share.division {
        Division::Mesh { sizes, placements, order, .. } => {
            let count = sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
            let Some(count) = count.filter(|&count| budget.pay(count as u64)) else { return all };
            let mut at = vec![0; sizes.len()];
            for _ in 0..count {
                all.extend(chunk(&share.whole, sizes, &at, placements, order));
                for d in (0..sizes.len()).rev() {
                    at[d] += 1;
                    if at[d] < sizes[d] {
                        break;
                    }
                    at[d] = 0;
                }
            }
        }
        Division::Block { all: listed, .. } if budget.pay(listed.len() as u64) => {
            all.extend(listed.iter().cloned());
        }
        _ => {}
    }
    all.retain(|(_, sizes)| !sizes.contains(&0));
    all
}

/// Of what several ranks have the same of, the first that can be read; tells of those that differ from it.
fn agreed<'t>(name: &str, parts: &'t [(usize, TensorInfo)], notices: &mut Vec<Notice>) -> &'t TensorInfo {
    let lost = |t: &TensorInfo| match &t.storage {
        Some(storage) => matches!(storage.run().place, Place::Missing { .. }),
        None => true,
    };
    let used = parts.iter().position(|(_, tensor)| !lost(tensor)).unwrap_or(0);
    let (first, tensor) = &parts[used];
    for (rank, other) in parts[used + 1..].iter().filter(|(_, other)| !lost(other)) {
        if let Some(how) = difference(tensor, other) {
            let (full, name) = (name, name.escape_debug());
            let again = if rank == first { "another file of " } else { "" };
            let text = format!(
                "`{name}`: {again}rank {rank} disagrees with rank {first}{how}; the latter's is used"
            );
            notices.push(Notice::new(NoticeKind::Contradiction, text).about(vec![full.to_string()]));
        }
    }
    tensor
}

/// How two tensors differ that should be equal: by their checksums, and only if these differ or are missing by their
/// bytes.
fn difference(a: &TensorInfo, b: &TensorInfo) -> Option<String> {
    if a.shape != b.shape || a.dtype != b.dtype {
        return Some(format!(": {} {:?} is not {} {:?}", b.dtype, b.shape, a.dtype, a.shape));
    }
    let view = |t: &TensorInfo| {
        let run = t.storage.as_ref()?.run();
        Some((run.crc32?, run.len, t.byte_offset, t.strides.clone()))
    };
    if view(a).is_some_and(|a| view(b) == Some(a)) {
        return None;
    }
    let (Ok(a_bytes), Ok(b_bytes)) = (a.bytes(), b.bytes()) else { return None };
    let at = a_bytes.iter().zip(b_bytes.iter()).position(|(a, b)| a != b)?;
    Some(format!(" from element {} on", at / a.dtype.element_size().unwrap_or(1)))
}
