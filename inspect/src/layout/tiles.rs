//! Tensors that were saved in blocks, as the ranks of a distributed run save them: joined without a copy.

use crate::bytes::storage::{Place, Storage};
use crate::format::tensor::{contiguous_strides, numel};
use crate::tensor::TensorInfo;
use crate::{DType, Damage, DamageKind, Error, Result};

/// A block of a tensor.
pub(super) struct Tile {
    /// Where it begins in each dimension of the whole.
    pub offsets: Vec<usize>,
    /// Its size in each dimension.
    pub sizes: Vec<usize>,
    /// Its elements, or why they are not there.
    pub part: std::result::Result<TensorInfo, Damage>,
}

/// How many ranges the tensors of a checkpoint may be cut into: a block of columns is a range for each row, so that
/// hostile blocks of single elements would take many times their bytes to list.
pub(super) struct Budget(u64);

impl Budget {
    /// For files of so many bytes in all.
    pub fn of_bytes(bytes: u64) -> Self {
        Budget(bytes / 32 + 65_536)
    }

    pub fn pay(&mut self, ranges: u64) -> bool {
        match self.0.checked_sub(ranges) {
            Some(left) => self.0 = left,
            None => return false,
        }
        true
    }
}

/// Some elements of the whole that follow each other in a block, too.
struct Run {
    /// First element in the whole.
    at: usize,
    len: usize,
    tile: usize,
    /// First element on the block's storage, counted from the block's first.
    from: usize,
}

/// The tensor `name` of `shape` whose blocks `tiles` are. Where they do not cover it exactly, or one is missing, it is
/// damaged; what the others hold can be read if their places are known.
pub(super) fn join(
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    tiles: Vec<Tile>,
    budget: &mut Budget,
) -> TensorInfo {
    let mut whole = TensorInfo::contiguous(name, dtype, shape, None, 0);
    if let [tile @ Tile { offsets, sizes, part: Ok(part) }] = &tiles[..]
        && offsets.iter().all(|&at| at == 0)
        && *sizes == whole.shape
        && (check(&whole, tile, part).is_ok() || is_whole(&whole, part))
    {
        return TensorInfo { name: whole.name, ..part.clone() };
    }
    match pieced(&whole, &tiles, budget) {
        Ok((storage, damage)) => (whole.storage, whole.damage) = (Some(storage), damage),
        Err(error) => {
            let damage = Damage::new(error.fault.unwrap_or_default(), error.what);
            let bytes = whole.byte_len().unwrap_or(0);
            whole.storage = Some(Storage::missing(damage.clone(), bytes));
            whole.damage = Some(damage);
        }
    }
    whole
}

/// Whether `part` is all of `whole`, of a kind that has other parts than elements.
fn is_whole(whole: &TensorInfo, part: &TensorInfo) -> bool {
    (part.sparse.is_some() || part.quantizer.is_some())
        && part.shape == whole.shape
        && part.dtype == whole.dtype
        && part.damage.is_none()
}

/// The storage of `whole`, and what is missing of it.
fn pieced(whole: &TensorInfo, tiles: &[Tile], budget: &mut Budget) -> Result<(Storage, Option<Damage>)> {
    let shape = |what: String| Error::damaged(what).because(DamageKind::Shape);
    let elements = numel(&whole.shape)
        .and_then(|elements| usize::try_from(elements).ok())
        .ok_or_else(|| shape("it has more elements than can be counted".into()))?;
    let bytes = whole.byte_len().ok_or_else(|| shape("it has more bytes than can be counted".into()))?;
    let width = whole
        .dtype
        .element_size()
        .ok_or_else(|| Error::unsupported("elements of a type that shares bytes were saved in blocks"))?;
    let (mut runs, mut lost) = (Vec::new(), Vec::new());
    for (i, tile) in tiles.iter().enumerate() {
        check_place(whole, tile)?;
        match &tile.part {
            Ok(part) => match check(whole, tile, part) {
                Ok(()) => add_runs(whole, i, tile, part, budget, &mut runs)?,
                Err(error) => lost.push(Damage::new(error.fault.unwrap_or_default(), error.what)),
            },
            Err(damage) => {
                lost.push(Damage::new(
                    damage.kind,
                    format!("its block {} is not there: {damage}", place(tile)),
                ));
            }
        }
    }
    runs.sort_unstable_by_key(|run| run.at);
    let (mut next, mut hole) = (0, None);
    for run in &runs {
        if run.at < next {
            let what = format!("its element {} is in more than one block", run.at);
            return Err(Error::damaged(what).because(DamageKind::Overlap));
        }
        if run.at > next {
            hole.get_or_insert((next, run.at));
        }
        next = run.at + run.len;
    }
    if next != elements {
        hole.get_or_insert((next, elements));
    }
    let ranges = || {
        runs.iter().filter_map(|run| {
            let part = tiles[run.tile].part.as_ref().ok()?;
            let start = part.byte_offset + (run.from * width) as u64;
            let range = start..start + (run.len * width) as u64;
            Some(((run.at * width) as u64, part.storage.as_ref()?, range))
        })
    };
    let no_block = |(start, end)| {
        let what = format!("its elements {start} to {end} are in no block");
        Damage::new(DamageKind::StorageLost, what)
    };
    let Some(damage) = joined_damage(lost).or(hole.map(no_block)) else {
        return Ok((Storage::pieced(ranges().map(|(_, storage, range)| (storage, range)))?, None));
    };
    if runs.is_empty() {
        return Err((&damage).into());
    }
    Ok((Storage::holed(ranges(), bytes, damage.clone())?, Some(damage)))
}

/// What is wrong with several blocks of a tensor: of many, with the first.
fn joined_damage(mut lost: Vec<Damage>) -> Option<Damage> {
    const TOLD: usize = 3;
    let more = lost.len().saturating_sub(TOLD);
    lost.truncate(TOLD);
    let mut damage = Damage::joined(lost)?;
    if more > 0 {
        damage.what.push_str(&format!("; and {more} more blocks"));
    }
    Some(damage)
}

/// Refuses a block that is not within `whole`.
fn check_place(whole: &TensorInfo, tile: &Tile) -> Result<()> {
    let inside = tile.offsets.len() == whole.shape.len()
        && tile.sizes.len() == whole.shape.len()
        && whole
            .shape
            .iter()
            .zip(tile.offsets.iter().zip(&tile.sizes))
            .all(|(&all, (&at, &size))| at.checked_add(size).is_some_and(|end| end <= all));
    if inside {
        return Ok(());
    }
    let what = format!("its block {} reaches beyond its shape {:?}", place(tile), whole.shape);
    Err(Error::damaged(what).because(DamageKind::Shape))
}

/// Refuses a block that is not what the listing says, or whose bytes cannot be pieced together with others.
fn check(whole: &TensorInfo, tile: &Tile, part: &TensorInfo) -> Result<()> {
    if part.shape != tile.sizes || part.dtype != whole.dtype {
        let what = format!(
            "its block {} is {} {:?} where the listing says {} {:?}",
            place(tile),
            part.dtype,
            part.shape,
            whole.dtype,
            tile.sizes
        );
        return Err(Error::damaged(what).because(DamageKind::Inconsistent));
    }
    if let Some(damage) = &part.damage {
        return Err(Error::damaged(format!("its block {}: {damage}", place(tile))).because(damage.kind));
    }
    if part.sparse.is_some() || part.quantizer.is_some() {
        let what = "its blocks are of a sparse or quantized tensor, which are not joined";
        return Err(Error::unsupported(what));
    }
    match &part.storage {
        Some(storage) => match &storage.run().place {
            // The elements of a lone block are read through it.
            Place::Computed(_) if tile.sizes != whole.shape => {
                let what = "its blocks have the negative or the conjugate bit set, and are not joined";
                Err(Error::unsupported(what).hint("resolve_neg() or resolve_conj(), and save it again"))
            }
            // Where its file is cut.
            Place::Missing { why, .. } => Err((&**why).into()),
            _ => part.check_bounds(storage.byte_len()),
        },
        None if part.numel() == 0 => Ok(()),
        None => Err(Error::damaged(format!("its block {} was saved without data", place(tile)))
            .because(DamageKind::NoData)),
    }
}

/// Adds the runs of `tile`, which is the block number `i`.
fn add_runs(
    whole: &TensorInfo,
    i: usize,
    tile: &Tile,
    part: &TensorInfo,
    budget: &mut Budget,
    runs: &mut Vec<Run>,
) -> Result<()> {
    if part.numel() == 0 {
        return Ok(());
    }
    // The dimensions from `outer` on follow each other in both.
    let (mut len, mut outer) = (1, whole.shape.len());
    while outer > 0 {
        let d = outer - 1;
        if tile.sizes[d] != 1 && part.strides[d] != len {
            break;
        }
        len *= tile.sizes[d];
        outer = d;
        if tile.sizes[d] != whole.shape[d] {
            break;
        }
    }
    let count = part.numel() / len as u64;
    if !budget.pay(count) {
        return Err(Error::unsupported("its blocks are cut into ranges out of proportion to their bytes"));
    }
    let strides = contiguous_strides(&whole.shape);
    let mut index = vec![0; outer];
    let begin: usize = tile.offsets.iter().zip(&strides).map(|(at, stride)| at * stride).sum();
    for _ in 0..count {
        let along =
            |strides: &[usize]| index.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>();
        runs.push(Run { at: begin + along(&strides), len, tile: i, from: along(&part.strides) });
        for d in (0..outer).rev() {
            index[d] += 1;
            if index[d] < tile.sizes[d] {
                break;
            }
            index[d] = 0;
        }
    }
    Ok(())
}

/// A block as its ranges, such as `[0..4, 8..16]`.
fn place(tile: &Tile) -> String {
    let ranges =
        tile.offsets.iter().zip(&tile.sizes).map(|(&at, &size)| format!("{at}..{}", at.saturating_add(size)));
    format!("[{}]", ranges.collect::<Vec<_>>().join(", "))
}

/// Bytes of files that belong to nothing, of the `len` bytes of a file of which `used` are ranges that do.
pub(super) fn unclaimed(len: u64, used: impl IntoIterator<Item = (u64, u64)>) -> u64 {
    let mut used: Vec<(u64, u64)> = used.into_iter().collect();
    used.sort_unstable();
    let (mut next, mut free) = (0u64, 0u64);
    for (start, count) in used {
        free += start.min(len).saturating_sub(next);
        next = next.max(start.saturating_add(count)).min(len);
    }
    free + len.saturating_sub(next)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::bytes::Source;

    /// A block of `values`, row-major in `shape`, cut out at `offsets`; with columns first if `transposed`.
    fn tile(values: &[u16], shape: &[usize], offsets: &[usize], sizes: &[usize], transposed: bool) -> Tile {
        let strides = contiguous_strides(shape);
        let order: Vec<usize> =
            if transposed { (0..shape.len()).rev().collect() } else { (0..shape.len()).collect() };
        let stored: Vec<usize> = order.iter().map(|&d| sizes[d]).collect();
        let own = contiguous_strides(&stored);
        let mut bytes = vec![0; numel(sizes).unwrap() as usize * 2];
        for i in 0..numel(sizes).unwrap() as usize {
            let index: Vec<usize> = stored.iter().zip(&own).map(|(&n, &s)| i / s % n).collect();
            let at: usize = order.iter().zip(&index).map(|(&d, &x)| (offsets[d] + x) * strides[d]).sum();
            bytes[2 * i..2 * i + 2].copy_from_slice(&values[at].to_le_bytes());
        }
        let source = Source::in_memory(Path::new("block"), bytes.into());
        let storage = Storage::mapped(&source, 0, source.len());
        let mut part = TensorInfo::contiguous(String::new(), DType::U16, sizes.to_vec(), Some(storage), 0);
        for (place, &d) in order.iter().enumerate() {
            part.strides[d] = own[place];
        }
        Tile { offsets: offsets.to_vec(), sizes: sizes.to_vec(), part: Ok(part) }
    }

    /// The ranges that `cuts` divide `len` into.
    fn ranges(len: usize, cuts: &[usize]) -> Vec<(usize, usize)> {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (len + 1)).chain([len]).collect();
        ends.sort_unstable();
        let starts = std::iter::once(0).chain(ends.clone());
        starts.zip(ends).map(|(start, end)| (start, end - start)).collect()
    }

    proptest! {
        #[test]
        fn blocks_of_any_grid_give_the_tensor_back(
            (a, b, c) in (1usize..6, 1usize..7, 1usize..5),
            cuts in prop::collection::vec(prop::collection::vec(0usize..64, 0..3), 3),
            transposed in any::<bool>(),
            turn in 0usize..64,
        ) {
            let shape = [a, b, c];
            let values: Vec<u16> = (0..(a * b * c) as u16).map(|i| i.wrapping_mul(977)).collect();
            let mut tiles = Vec::new();
            for &(x, dx) in &ranges(a, &cuts[0]) {
                for &(y, dy) in &ranges(b, &cuts[1]) {
                    for &(z, dz) in &ranges(c, &cuts[2]) {
                        tiles.push(tile(&values, &shape, &[x, y, z], &[dx, dy, dz], transposed));
                    }
                }
            }
            let count = tiles.len();
            tiles.rotate_left(turn % count);
            let mut budget = Budget::of_bytes(0);
            let whole = join("w".into(), DType::U16, shape.to_vec(), tiles, &mut budget);
            prop_assert_eq!(&whole.damage, &None);
            let read = whole.view::<u16>().unwrap();
            prop_assert_eq!(read.iter().copied().collect::<Vec<_>>(), values);
        }
    }

    #[test]
    fn holes_overlaps_and_blocks_that_do_not_fit_are_damage() {
        let values: Vec<u16> = (0..96).collect();
        let shape = [4, 6];
        let block = |at: [usize; 2], sizes: [usize; 2]| tile(&values, &[8, 12], &at, &sizes, false);
        let damage = |tiles: Vec<Tile>| {
            let whole = join("w".into(), DType::U16, shape.to_vec(), tiles, &mut Budget::of_bytes(0));
            assert!(whole.bytes().is_err());
            whole.damage.map(|damage| (damage.kind, damage.what))
        };
        let lost = damage(vec![block([0, 0], [2, 6]), block([2, 0], [2, 5])]).unwrap();
        assert_eq!(lost, (DamageKind::StorageLost, "its elements 17 to 18 are in no block".into()));
        let twice = damage(vec![block([0, 0], [3, 6]), block([2, 0], [2, 6])]).unwrap();
        assert_eq!(twice, (DamageKind::Overlap, "its element 12 is in more than one block".into()));
        assert_eq!(damage(vec![block([1, 0], [4, 6])]).unwrap().0, DamageKind::Shape);
        let missing = Tile {
            part: Err(Damage::new(DamageKind::MissingShards, "__3_0.distcp is missing")),
            ..block([2, 0], [2, 6])
        };
        let missing = damage(vec![block([0, 0], [2, 6]), missing]).unwrap();
        assert_eq!(missing.0, DamageKind::MissingShards);
        assert_eq!(missing.1, "its block [2..4, 0..6] is not there: __3_0.distcp is missing");
    }

    #[test]
    fn bytes_of_nothing_are_counted() {
        assert_eq!(unclaimed(10, [(0, 4), (4, 6)]), 0);
        assert_eq!(unclaimed(10, [(6, 2), (1, 3), (2, 1)]), 5);
        assert_eq!(unclaimed(10, [(8, u64::MAX), (20, 1)]), 8);
        assert_eq!(unclaimed(10, []), 10);
    }
}
