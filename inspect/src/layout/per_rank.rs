//! Files that each rank saved for itself with `torch.save`: `model_world_size_8_rank_3.pt` and its kin (verl, SkyRL),
//! `NAME_rank3.pt` (FSDP's sharded state dicts). A tensor in them is a rank's part of a larger one, a DTensor or a
//! ShardedTensor, which says where it belongs; others are the same in all ranks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::copies::{agreed, disagreement};
use super::join::{Opened, Reading, Whole};
use super::tiles::{self, Budget, Tile};
use super::{Layout, Set, name, single, slices};
use crate::bytes::staged::folder_of;
use crate::bytes::stored::Stored;
use crate::bytes::{Source, Stamp};
use crate::format::{self, Contents, add_new};
use crate::metadata::{HashableValue, Value};
use crate::storage::Storage;
use crate::tensor::{Division, Placement, Share, TensorInfo};
use crate::{Damage, DamageKind, Format, Notice, NoticeKind, Result};

pub(super) const LAYOUT: Layout = Layout { recognises, set, identity, join, covers, ..single::LAYOUT };

const ENDINGS: [&str; 3] = ["pt", "pth", "bin"];
/// What the files of the model, of the optimizer, and of what each rank keeps to itself are called.
const MODEL: &str = "model";
const OPTIMIZER: &str = "optim";
const OWN: &str = "extra_state";

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
    let entries = folder_of(path).stored_entries().ok()?.into_iter().map(|entry| entry.path);
    let mut all: Vec<(Named, PathBuf)> = entries
        .filter_map(|path| Some((Named::of(&path)?, path)))
        .filter(|(other, path)| named.kin() == other.kin() && path.is_stored_file())
        .collect();
    sort(&mut all);
    is_set(&all).then_some(all)
}

/// Whether files that ranks saved of a model, and say how many they are, lie in `folder`.
pub(super) fn are_in(folder: &Path) -> bool {
    let is_of_rank =
        |path: &Path| Named::of(path).is_some_and(|named| named.world.is_some() && named.stem == MODEL);
    folder.stored_entries().is_ok_and(|entries| entries.iter().any(|entry| is_of_rank(&entry.path)))
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
    Ok(Set { files, beside: vec![Stamp::of(folder_of(path))], ..Set::default() })
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
    /// The plain values of the first rank, and which that is,
    metadata: Option<(usize, Value)>,
    /// and how another's differ.
    differ: Option<Notice>,
    /// The ranks of which there is a file, and how it is called.
    ranks: BTreeMap<usize, String>,
    /// Whether one of the files cannot be read.
    unread: bool,
}

fn join(files: Vec<Opened>) -> Result<Whole> {
    let mut contents = Contents::new(Format::TorchDistributed);
    let mut reading = Reading::default();
    let mut all: BTreeMap<String, Kin> = BTreeMap::new();
    let (mut world, mut renamed) = (None, Vec::new());
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
                match stated_rank(&more) {
                    Some(stated) => {
                        contents.notices.extend(another_rank(&name(&path), named.rank, stated));
                    }
                    None => renamed.extend(saved_as_another(&path, &named, more.root.as_deref())),
                }
                add(&mut contents, kin, &named.stem, named.rank, more);
            }
            (Err(_), None) => kin.unread = true,
            (_, Some(_)) => {}
        }
    }
    reading.any()?;
    let mut budget = Budget::of_bytes(reading.bytes());
    let only = all.len() == 1;
    let mut sliced: Option<String> = None;
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
        let pieced = |name: &&String| kin.parts[*name].iter().any(|(_, tensor)| slices::is_piece(tensor));
        sliced = sliced.or_else(|| kin.names.iter().find(pieced).cloned());
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
    contents.notices.extend(vectors(&contents.tensors, sliced.as_deref()));
    contents.faults.append(&mut renamed);
    contents.tell_first();
    Ok(reading.whole(contents))
}

/// The rank that the file of `contents` says it is of.
fn stated_rank(contents: &Contents) -> Option<usize> {
    contents.tensors.iter().find_map(|tensor| match &tensor.share.as_ref()?.division {
        Division::Mesh { rank, .. } => *rank,
        _ => None,
    })
}

/// Tells if the file of `rank` says that it is of rank `stated`: parts belong where the file says, whatever its name is.
fn another_rank(name: &str, rank: usize, stated: usize) -> Option<Notice> {
    let text = format!("{} is by what is in it the file of rank {stated}, not {rank}", name.escape_debug());
    (stated != rank).then(|| Notice::new(NoticeKind::Contradiction, text))
}

/// Tells of the file at `path` if it was saved under the name of another rank: `root` is what the archive calls its own
/// folder, which PyTorch takes from the file's name.
fn saved_as_another(path: &Path, named: &Named, root: Option<&str>) -> Option<Damage> {
    let saved_as = format!("{}.pt", root?);
    let saved = Named::of(Path::new(&saved_as))?;
    let worlds = named.world.zip(saved.world);
    let other = saved.rank != named.rank || worlds.is_some_and(|(own, saved)| own != saved);
    let what = || {
        let (name, saved_as) = (name(path), saved_as.escape_debug());
        format!(
            "{} was saved as {saved_as}: it is another rank's file under this one's name",
            name.escape_debug()
        )
    };
    other.then(|| Damage::new(DamageKind::Inconsistent, what()))
}

/// Tells of flat vectors among `tensors`, and of parameters that were joined of pieces, such as `sliced`.
fn vectors(tensors: &[TensorInfo], sliced: Option<&str>) -> Option<Notice> {
    let mut flats = tensors.iter().filter(|tensor| slices::is_flat(&tensor.name));
    let first = flats.next()?;
    let flat = format!(
        "{} of its tensors are flat vectors of FSDP, such as `{}`",
        1 + flats.count(),
        first.name.escape_debug()
    );
    let text = match sliced {
        Some(sliced) => format!(
            "it is a local state dict of FSDP: {flat}, and parameters such as `{}` are joined of the pieces that ranks have of them, as vectors: their shapes were not saved",
            sliced.escape_debug()
        ),
        None => format!("{flat}: neither names nor shapes of the parameters in them were saved"),
    };
    Some(Notice::new(NoticeKind::Flat, text))
}

/// Adds what the file of `rank` holds.
fn add(contents: &mut Contents, kin: &mut Kin, stem: &str, rank: usize, more: Contents) {
    contents.listing_damaged |= more.listing_damaged;
    // Ranks have the same to tell.
    add_new(&mut contents.notices, more.notices);
    add_new(&mut contents.globals, more.globals);
    match &kin.metadata {
        Some((first, known)) if kin.differ.is_none() => {
            let path = if stem == OPTIMIZER { "optimizer" } else { "" };
            let (one, two) = (format!("rank {first}"), format!("rank {rank}"));
            kin.differ = disagreement(path, (&one, known), (&two, &more.metadata));
        }
        Some(_) => {}
        None => kin.metadata = Some((rank, more.metadata)),
    }
    let mut tensors = more.tensors;
    slices::mark(&mut tensors);
    for tensor in tensors {
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
    let (flat, together) = (kin.names.iter().any(|name| slices::is_flat(name)), kin.are_together());
    for name in &kin.names {
        let parts = kin.parts.remove(name).unwrap_or_default();
        let mut notices = Vec::new();
        // Of ranks without a file it has been told.
        let complete = incomplete.is_none();
        let lacking = lacking(&below(name), &parts, &kin.ranks, together).filter(|_| complete);
        let joined = Parts { name: below(name), parts, incomplete: incomplete.clone(), flat };
        let tensor = joined.joined(budget, &mut notices);
        notices.extend(lacking.filter(|_| tensor.damage.is_none()));
        contents.tensors.push(tensor);
        contents.notices.append(&mut notices);
    }
    contents.notices.extend(kin.differ);
    let (Some((_, values)), Value::Dict(all)) = (kin.metadata, &mut contents.metadata) else { return };
    match (prefix, values) {
        (Some(prefix), values) => drop(all.insert(HashableValue::String(prefix.into()), values)),
        (None, Value::Dict(values)) => all.extend(values),
        (None, _) => {}
    }
}

impl Kin {
    /// Whether one tensor is divided over all ranks, so that each has what the others have.
    fn are_together(&self) -> bool {
        self.parts.values().any(|parts| mesh_of(&parts[0].1) == Some(self.ranks.len()))
    }
}

/// How many ranks have parts of the DTensor that `tensor` is one of.
fn mesh_of(tensor: &TensorInfo) -> Option<usize> {
    match &tensor.share.as_ref()?.division {
        Division::Mesh { sizes, .. } => sizes.iter().try_fold(1usize, |count, &size| count.checked_mul(size)),
        _ => None,
    }
}

/// Tells of ranks whose files lack the tensor `name`, of which other ranks have `parts`, and with it what they should have:
/// a replica may fill that. `together` says that ranks have the same tensors.
fn lacking(
    name: &str,
    parts: &[(usize, TensorInfo)],
    ranks: &BTreeMap<usize, String>,
    together: bool,
) -> Option<Notice> {
    let have: BTreeSet<usize> = parts.iter().map(|(rank, _)| *rank).collect();
    let shared = parts.iter().find_map(|(_, tensor)| mesh_of(tensor));
    // One rank may keep something to itself.
    let plain = || together && have.len() * 2 > ranks.len() && parts.iter().all(|(_, t)| t.share.is_none());
    let expected = shared.or_else(|| plain().then_some(ranks.len()))?;
    if have.len() >= expected {
        return None;
    }
    let (shown, gone) = (name.escape_debug(), expected - have.len());
    let first = ranks.iter().find(|(rank, _)| !have.contains(rank)).filter(|_| expected == ranks.len());
    let text = match (first, gone) {
        (Some((_, file)), 1) => format!("`{shown}` is not in {}, where its part is due", file.escape_debug()),
        (Some((_, file)), _) => {
            format!("`{shown}` is not in {gone} of the ranks' files, such as {}", file.escape_debug())
        }
        (None, _) => format!("`{shown}` is in the files of {} of its {expected} ranks", have.len()),
    };
    let text = format!("{text}: what other ranks have of it is shown");
    Some(Notice::new(NoticeKind::Gone, text).about(vec![name.to_string()]))
}

/// What ranks have of one tensor.
struct Parts {
    name: String,
    parts: Vec<(usize, TensorInfo)>,
    /// Why a part may not be there, if files of ranks are missing or cannot be read.
    incomplete: Option<Damage>,
    /// Whether the ranks have flat vectors of FSDP, so that what they have plain may be pieces of parameters.
    flat: bool,
}

/// Where a part begins in the whole, and its size.
type Block = (Vec<usize>, Vec<usize>);

impl Parts {
    fn joined(self, budget: &mut Budget, notices: &mut Vec<Notice>) -> TensorInfo {
        let Parts { name, parts, incomplete, flat } = self;
        let example = parts[0].1.clone();
        let pieces = parts.iter().any(|(_, tensor)| slices::is_piece(tensor));
        let parts = match slices::as_blocks(parts) {
            Ok(parts) => parts,
            Err(what) => return refused(name, &example, example.shape.clone(), &what),
        };
        let first = &parts[0].1;
        let Some(share) = first.share.clone() else {
            let differ = parts.iter().any(|(_, tensor)| tensor.shape != first.shape);
            if flat && differ && parts.iter().all(|(_, tensor)| tensor.shape.len() == 1) {
                let what = "ranks have pieces of it, as in FSDP's local state dicts, and where each belongs is not recorded";
                return refused(name, first, first.shape.clone(), what);
            }
            let tensor = same(&name, &parts, notices);
            let mixed = parts.iter().any(|(_, tensor)| tensor.share.is_some());
            return match mixed {
                true => {
                    refused(name, tensor, tensor.shape.clone(), "some ranks have a part of it, and some all")
                }
                false => TensorInfo { name, ..tensor.clone() },
            };
        };
        if let Some(damage) = incomplete.clone().filter(|_| pieces) {
            // How much of it is missing, before and after the others, is not known.
            return lost(name, first, share.whole.clone(), damage);
        }
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
            let part = same(&name, &parts, notices).clone();
            tiles.push(Tile { offsets, sizes, part: Ok(TensorInfo { share: None, ..part }) });
        }
        let joined = tiles::join(name, first.dtype, share.whole.clone(), tiles, budget);
        TensorInfo { requires_grad: first.requires_grad, ..joined }
    }
}

/// Of what several ranks have the same of, the one that is used.
fn same<'t>(name: &str, parts: &'t [(usize, TensorInfo)], notices: &mut Vec<Notice>) -> &'t TensorInfo {
    let copies: Vec<(usize, &TensorInfo)> = parts.iter().map(|(rank, tensor)| (*rank, tensor)).collect();
    agreed(name, &copies, notices).unwrap_or(&parts[0].1)
}

/// The tensor `name` of `whole`, of which `part` is a part, and which is not joined because of `what`.
fn refused(name: String, part: &TensorInfo, whole: Vec<usize>, what: &str) -> TensorInfo {
    lost(name, part, whole, Damage::new(DamageKind::Inconsistent, what))
}

/// The same, whose elements are not there because of `damage`.
fn lost(name: String, part: &TensorInfo, whole: Vec<usize>, damage: Damage) -> TensorInfo {
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
        Division::Piece(_) => Err("some ranks have a piece of it, and some all".into()),
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
