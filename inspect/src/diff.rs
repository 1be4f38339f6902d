//! What differs between two checkpoints: tensors added, removed, reshaped, retyped and changed, by how much, and plain
//! values such as config and optimizer settings.
//!
//! Values are compared as the real numbers they stand for, in f64, whatever they are packed in. Both sides are read in
//! blocks, once; matrices of a BitLinear a second time, because what rounds to zero depends on mean|W|. Tensors whose
//! bytes are the same are not looked at further.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_pickle::Value;

use crate::checkpoint::Checkpoint;
use crate::tensor::TensorInfo;
use crate::values::{Codes, Values, in_chunks};
use crate::{DType, Group, Quantizer, Result, metadata, without_state_dict};

/// Two checkpoints compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// The first one.
    pub a: Side,
    /// The second one.
    pub b: Side,
    /// Every tensor of either, in the order of the first one; those that only the second one has last.
    pub tensors: Vec<TensorDiff>,
    /// Optimizer settings (`param_groups`) that differ.
    pub settings: Vec<ValueChange>,
    /// Other plain values that differ: config, step, loss, SafeTensors `__metadata__`, GGUF keys.
    pub metadata: Vec<ValueChange>,
}

/// One of the two checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Side {
    pub path: String,
    pub format: String,
    pub step: Option<u64>,
    pub file_bytes: u64,
    pub damaged: bool,
}

/// How a tensor differs, from least to most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No value differs by more than the tolerance.
    #[default]
    Same,
    /// Another dtype or packing, and values within the tolerance.
    Retyped,
    /// Values differ. The dtype may, too.
    Changed,
    /// Another shape, so that values are not compared.
    Reshaped,
    /// Only the second checkpoint has it.
    Added,
    /// Only the first checkpoint has it.
    Removed,
    /// Values cannot be compared, because those of one side cannot be read.
    Unreadable,
}

/// One tensor of either checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TensorDiff {
    /// Its name without the key of the state dict; where the two sides' differ, the name that the mapping gives both.
    pub name: String,
    /// How it differs.
    pub status: Status,
    /// As the first checkpoint has it.
    pub a: Option<TensorSide>,
    /// As the second checkpoint has it.
    pub b: Option<TensorSide>,
    /// By how much values differ; `None` where they were not compared, or found to be the same bytes.
    pub values: Option<ValueDiff>,
    /// Which codes differ, for matrices that a BitLinear uses or that are packed ternary.
    pub ternary: Option<CodeDiff>,
    /// Why values could not be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A tensor as one checkpoint has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TensorSide {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<u64>,
    pub group: Group,
}

/// By how much the elements x of the first and y of the second tensor differ. Norms, the cosine and the largest
/// difference are over the elements that are finite in both; `None` where f64 cannot hold them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ValueDiff {
    /// Elements (of a complex tensor: real and imaginary parts).
    pub count: u64,
    /// Elements that are equal, as numbers; NaN equals NaN.
    pub equal: u64,
    /// Elements that are NaN or infinite in either.
    pub nonfinite: u64,
    /// |x|, Euclidean.
    pub norm_a: Option<f64>,
    /// |y|, Euclidean.
    pub norm_b: Option<f64>,
    /// |y - x|, Euclidean.
    pub norm_change: Option<f64>,
    /// |y - x| / |x|; `None` when |x| is 0.
    pub relative_change: Option<f64>,
    /// x.y / (|x| |y|); `None` when either is 0.
    pub cosine: Option<f64>,
    /// Largest |y - x| of an element.
    pub max_difference: Option<f64>,
    /// Index of the first element that differs so much.
    pub max_at: Vec<u64>,
}

impl ValueDiff {
    /// Share of elements that are equal, 0 to 1; 1 for an empty tensor.
    pub fn equal_share(&self) -> f64 {
        if self.count == 0 { 1.0 } else { self.equal as f64 / self.count as f64 }
    }
}

/// How the codes -1, 0, +1 of a ternary matrix differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CodeDiff {
    /// Codes.
    pub count: u64,
    /// Codes that differ: the sum of the three below.
    pub flipped: u64,
    /// From -1 or +1 to 0.
    pub silenced: u64,
    /// From 0 to -1 or +1.
    pub woken: u64,
    /// From -1 to +1 or back.
    pub reversed: u64,
}

impl CodeDiff {
    /// Share of codes that agree, 0 to 1; 1 for an empty matrix.
    pub fn agreement(&self) -> f64 {
        if self.count == 0 { 1.0 } else { 1.0 - self.flipped as f64 / self.count as f64 }
    }
}

/// A plain value that one side lacks or that differs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ValueChange {
    /// Keys and indices joined by dots.
    pub path: String,
    /// In the first checkpoint; `None` when it is not there.
    pub a: Option<serde_json::Value>,
    /// In the second checkpoint; `None` when it is not there.
    pub b: Option<serde_json::Value>,
}

/// What is compared, and how.
#[derive(Clone, Copy)]
pub struct Options<'o> {
    /// Gives a tensor's name, without the key of its state dict, the name by which both sides call it. The identity
    /// unless formats differ.
    pub canonical: &'o (dyn Fn(&str) -> String + Sync),
    /// Which tensors to compare.
    pub select: &'o (dyn Fn(&TensorInfo) -> bool + Sync),
    /// Largest difference of an element that still counts as the same.
    pub tolerance: f64,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { canonical: &|name| name.to_string(), select: &|_| true, tolerance: 0.0 }
    }
}

impl Diff {
    /// Tensors of this status.
    pub fn count(&self, status: Status) -> usize {
        self.tensors.iter().filter(|t| t.status == status).count()
    }

    /// Whether any tensor or plain value differs.
    pub fn is_different(&self) -> bool {
        self.tensors.iter().any(|t| t.status != Status::Same)
            || !self.settings.is_empty()
            || !self.metadata.is_empty()
    }

    /// Whether values of both sides are the same within the tolerance wherever either has a tensor: other dtypes and
    /// plain values do not matter.
    pub fn has_same_values(&self) -> bool {
        self.tensors.iter().all(|t| matches!(t.status, Status::Same | Status::Retyped))
    }
}

/// Compares `a` with `b`. `watch` is told of bytes as both sides' are done, and stops the comparison by returning
/// false; the result is then `None`.
pub fn diff(
    a: &Checkpoint,
    b: &Checkpoint,
    options: Options<'_>,
    watch: &(dyn Fn(u64) -> bool + Sync),
) -> Option<Diff> {
    let mut tensors = Vec::new();
    for (name, left, right) in pairs(a, b, options) {
        tensors.push(match (left, right) {
            (Some(left), Some(right)) => {
                TensorDiff { name, ..diff_tensors((a, left), (b, right), options.tolerance) }
            }
            (left, right) => TensorDiff {
                name,
                status: if left.is_some() { Status::Removed } else { Status::Added },
                a: left.map(side),
                b: right.map(side),
                ..TensorDiff::default()
            },
        });
        let bytes = left.into_iter().chain(right).filter_map(TensorInfo::byte_len).sum();
        if !watch(bytes) {
            return None;
        }
    }
    let mut changes = Vec::new();
    changed_values("", Some(&a.metadata), Some(&b.metadata), 0, &mut changes);
    let (settings, metadata) = changes.into_iter().partition(|c| c.path.contains("param_groups"));
    let about = |c: &Checkpoint| Side {
        path: c.path.display().to_string(),
        format: c.format.name(),
        step: c.step.as_ref().map(|(step, _)| *step),
        file_bytes: c.file_bytes(),
        damaged: c.is_damaged(),
    };
    Some(Diff { a: about(a), b: about(b), tensors, settings, metadata })
}

fn side(tensor: &TensorInfo) -> TensorSide {
    TensorSide {
        name: tensor.name.clone(),
        dtype: tensor.dtype.name().into(),
        shape: tensor.shape.iter().map(|&d| d as u64).collect(),
        group: tensor.group,
    }
}

type Pair<'t> = (String, Option<&'t TensorInfo>, Option<&'t TensorInfo>);

/// Tensors of the same name: of the same full name first, then of the same name without the state dict's key, where
/// that is one tensor's alone.
fn pairs<'t>(a: &'t Checkpoint, b: &'t Checkpoint, options: Options<'_>) -> Vec<Pair<'t>> {
    let selected = |c: &'t Checkpoint| -> Vec<&'t TensorInfo> {
        c.tensors.iter().filter(|t| (options.select)(t)).collect()
    };
    let (left, right) = (selected(a), selected(b));
    let short = |t: &TensorInfo| (options.canonical)(without_state_dict(&t.name));
    let mut partner: Vec<Option<usize>> = vec![None; left.len()];
    let mut taken = vec![false; right.len()];
    let mut full: HashMap<&str, usize> = HashMap::new();
    for (i, tensor) in right.iter().enumerate() {
        full.entry(&tensor.name).or_insert(i);
    }
    for (slot, tensor) in partner.iter_mut().zip(&left) {
        if let Some(&at) = full.get(tensor.name.as_str()).filter(|&&at| !taken[at]) {
            taken[at] = true;
            *slot = Some(at);
        }
    }
    let unique = |names: Vec<(usize, String)>| {
        let mut index: HashMap<String, Option<usize>> = HashMap::new();
        for (i, name) in names {
            index.entry(name).and_modify(|i| *i = None).or_insert(Some(i));
        }
        index
    };
    let open = |list: &[&TensorInfo], free: &dyn Fn(usize) -> bool| {
        unique(list.iter().enumerate().filter(|(i, _)| free(*i)).map(|(i, t)| (i, short(t))).collect())
    };
    let open_left = open(&left, &|i| partner[i].is_none());
    let open_right = open(&right, &|i| !taken[i]);
    for (name, i) in open_left {
        if let (Some(i), Some(Some(at))) = (i, open_right.get(&name)) {
            taken[*at] = true;
            partner[i] = Some(*at);
        }
    }
    let own = |t: &TensorInfo| without_state_dict(&t.name).to_string();
    let both = |a: &TensorInfo, b: &TensorInfo| if own(a) == own(b) { own(a) } else { short(a) };
    let matched = left.iter().zip(partner).map(|(t, at)| match at.map(|at| right[at]) {
        Some(other) => (both(t, other), Some(*t), Some(other)),
        None => (own(t), Some(*t), None),
    });
    let alone = right.iter().zip(taken).filter(|(_, taken)| !taken).map(|(t, _)| (own(t), None, Some(*t)));
    matched.chain(alone).collect()
}

/// Compares two tensors, of any names and checkpoints.
pub fn diff_tensors(
    a: (&Checkpoint, &TensorInfo),
    b: (&Checkpoint, &TensorInfo),
    tolerance: f64,
) -> TensorDiff {
    let mut diff = TensorDiff {
        name: without_state_dict(&a.1.name).to_string(),
        status: Status::Reshaped,
        a: Some(side(a.1)),
        b: Some(side(b.1)),
        ..TensorDiff::default()
    };
    if a.1.shape != b.1.shape {
        return diff;
    }
    let retyped = a.1.dtype != b.1.dtype;
    let status = |within: bool| match (within, retyped) {
        (false, _) => Status::Changed,
        (true, true) => Status::Retyped,
        (true, false) => Status::Same,
    };
    // Tensors saved without data (torch's meta device).
    let is_meta = |t: &TensorInfo| t.storage.is_none() && t.sparse.is_none() && t.damage.is_none();
    if is_meta(a.1) && is_meta(b.1) {
        diff.status = status(true);
        return diff;
    }
    match compare(a, b) {
        Ok(None) => diff.status = Status::Same,
        Ok(Some((sums, ternary))) => {
            diff.status = status(sums.is_within(tolerance));
            diff.values = Some(sums.values(&a.1.shape, a.1.dtype.is_complex()));
            diff.ternary = ternary;
        }
        Err(error) if error.kind == crate::ErrorKind::Unsupported && !retyped => {
            diff.status = Status::Changed;
            diff.note = Some(error.to_string());
        }
        Err(error) => {
            diff.status = Status::Unreadable;
            diff.note = Some(error.to_string());
        }
    }
    diff
}

/// `None` when both are the same bytes with the same meaning.
fn compare(
    (in_a, a): (&Checkpoint, &TensorInfo),
    (in_b, b): (&Checkpoint, &TensorInfo),
) -> Result<Option<(Sums, Option<CodeDiff>)>> {
    let told_a = |e: crate::Error| e.in_tensor(&a.name).in_file(&in_a.path);
    let told_b = |e: crate::Error| e.in_tensor(&b.name).in_file(&in_b.path);
    let (bytes_a, bytes_b) = (in_a.tensor_bytes(a)?, in_b.tensor_bytes(b)?);
    let same_bytes = a.dtype == b.dtype && bytes_a == bytes_b;
    if same_bytes && same_meaning((in_a, a), (in_b, b)) {
        return Ok(None);
    }
    let x = Values::new(in_a, a, &bytes_a).map_err(told_a)?;
    let y = Values::new(in_b, b, &bytes_b).map_err(told_b)?;
    let block = x.block(&y);
    let parts = in_chunks(x.len.min(y.len), block, |range| Sums::of(&x, &y, range, block));
    let mut sums = parts.into_iter().fold(Sums::default(), Sums::join);
    if a.dtype == b.dtype && matches!(a.dtype, DType::I64 | DType::U64) {
        // f64 does not tell neighbouring large integers apart.
        let words = bytes_a.as_chunks::<8>().0.iter().zip(bytes_b.as_chunks::<8>().0);
        sums.equal = words.filter(|(x, y)| x == y).count() as u64;
    }
    let ternary = (in_a.model.is_ternary(a) || in_b.model.is_ternary(b)).then(|| {
        let finite = sums.count - sums.nonfinite;
        let whole = |sum: f64, alone: (f64, u64)| (sum + alone.0, finite + alone.1);
        let left = Codes::of(in_a, a, &x, whole(sums.abs_a, sums.alone_a));
        let right = Codes::of(in_b, b, &y, whole(sums.abs_b, sums.alone_b));
        in_chunks(x.len, block, |range| codes((&x, &left), (&y, &right), range, block)).into_iter().fold(
            CodeDiff::default(),
            |all, one| CodeDiff {
                count: all.count + one.count,
                flipped: all.flipped + one.flipped,
                silenced: all.silenced + one.silenced,
                woken: all.woken + one.woken,
                reversed: all.reversed + one.reversed,
            },
        )
    });
    Ok(Some((sums, ternary)))
}

/// Whether the same bytes stand for the same numbers: scales and index tensors are the same, too.
fn same_meaning((in_a, a): (&Checkpoint, &TensorInfo), (in_b, b): (&Checkpoint, &TensorInfo)) -> bool {
    let same = |a: &TensorInfo, b: &TensorInfo| {
        a.dtype == b.dtype
            && a.shape == b.shape
            && matches!((in_a.tensor_bytes(a), in_b.tensor_bytes(b)), (Ok(a), Ok(b)) if a == b)
    };
    let quantizers = match (&a.quantizer, &b.quantizer) {
        (None, None) => true,
        (
            Some(Quantizer::PerTensor { scale, zero_point }),
            Some(Quantizer::PerTensor { scale: other, zero_point: zero }),
        ) => scale == other && zero_point == zero,
        (
            Some(Quantizer::PerChannel { scales, zero_points, axis }),
            Some(Quantizer::PerChannel { scales: others, zero_points: zeros, axis: along }),
        ) => axis == along && same(scales, others) && same(zero_points, zeros),
        _ => false,
    };
    let sparse = match (&a.sparse, &b.sparse) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            a.layout == b.layout
                && a.indices.len() == b.indices.len()
                && a.indices.iter().zip(&b.indices).all(|(a, b)| same(a, b))
        }
        _ => false,
    };
    a.scale == b.scale && quantizers && sparse
}

/// Sums over pairs of elements. All but the counts are over pairs that are finite on both sides.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    count: u64,
    equal: u64,
    nonfinite: u64,
    /// Pairs of which one at least is not finite, and that are not the same.
    unlike_nonfinite: u64,
    aa: f64,
    bb: f64,
    ab: f64,
    change: f64,
    abs_a: f64,
    abs_b: f64,
    /// Sum and number of the finite magnitudes of one side whose other side is not finite.
    alone_a: (f64, u64),
    alone_b: (f64, u64),
    max: f64,
    max_at: usize,
}

const LANES: usize = 8;

impl Sums {
    fn of(x: &Values<'_>, y: &Values<'_>, range: std::ops::Range<usize>, block: usize) -> Sums {
        let mut sums = Sums { max_at: range.start, ..Sums::default() };
        let (mut left, mut right) = (vec![0.0; block], vec![0.0; block]);
        for start in range.clone().step_by(block) {
            let n = block.min(range.end - start);
            let (left, right) = (&mut left[..n], &mut right[..n]);
            x.read(start, left);
            y.read(start, right);
            let (mut one, largest) = Sums::fast(left, right);
            if !(one.aa + one.bb + one.change).is_finite() {
                one = Sums::careful(left, right);
            } else if largest > sums.max {
                // Rare: the largest difference so far.
                one.max = largest;
                one.max_at =
                    left.iter().zip(&*right).position(|(a, b)| (b - a).abs() == largest).unwrap_or(0);
            }
            one.max_at += start;
            sums = sums.join(one);
        }
        sums
    }

    /// The sums of a block whose elements are finite, and its largest difference.
    fn fast(left: &[f64], right: &[f64]) -> (Sums, f64) {
        let (mut aa, mut bb, mut ab, mut change) = ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let (mut abs_a, mut abs_b, mut max, mut equal) =
            ([0.0; LANES], [0.0; LANES], [0.0; LANES], [0u64; LANES]);
        for (left, right) in left.chunks(LANES).zip(right.chunks(LANES)) {
            for (i, (&a, &b)) in left.iter().zip(right).enumerate() {
                let d = b - a;
                aa[i] += a * a;
                bb[i] += b * b;
                ab[i] += a * b;
                change[i] += d * d;
                abs_a[i] += a.abs();
                abs_b[i] += b.abs();
                max[i] = if d.abs() > max[i] { d.abs() } else { max[i] };
                equal[i] += u64::from(a == b);
            }
        }
        let total = |lanes: [f64; LANES]| lanes.iter().sum::<f64>();
        let sums = Sums {
            count: left.len() as u64,
            equal: equal.iter().sum(),
            aa: total(aa),
            bb: total(bb),
            ab: total(ab),
            change: total(change),
            abs_a: total(abs_a),
            abs_b: total(abs_b),
            ..Sums::default()
        };
        (sums, max.into_iter().fold(0.0, f64::max))
    }

    /// The sums of a block with NaN, infinity, or numbers whose squares f64 cannot hold.
    fn careful(left: &[f64], right: &[f64]) -> Sums {
        let mut sums = Sums { count: left.len() as u64, ..Sums::default() };
        for (i, (&a, &b)) in left.iter().zip(right).enumerate() {
            let equal = a == b || (a.is_nan() && b.is_nan());
            sums.equal += u64::from(equal);
            if !(a.is_finite() && b.is_finite()) {
                sums.nonfinite += 1;
                sums.unlike_nonfinite += u64::from(!equal);
                for (alone, x) in [(&mut sums.alone_a, a), (&mut sums.alone_b, b)] {
                    if x.is_finite() {
                        *alone = (alone.0 + x.abs(), alone.1 + 1);
                    }
                }
                continue;
            }
            let d = b - a;
            sums.aa += a * a;
            sums.bb += b * b;
            sums.ab += a * b;
            sums.change += d * d;
            sums.abs_a += a.abs();
            sums.abs_b += b.abs();
            if d.abs() > sums.max {
                (sums.max, sums.max_at) = (d.abs(), i);
            }
        }
        sums
    }

    fn join(self, other: Sums) -> Sums {
        let add = |a: (f64, u64), b: (f64, u64)| (a.0 + b.0, a.1 + b.1);
        let (max, max_at) =
            if other.max > self.max { (other.max, other.max_at) } else { (self.max, self.max_at) };
        Sums {
            count: self.count + other.count,
            equal: self.equal + other.equal,
            nonfinite: self.nonfinite + other.nonfinite,
            unlike_nonfinite: self.unlike_nonfinite + other.unlike_nonfinite,
            aa: self.aa + other.aa,
            bb: self.bb + other.bb,
            ab: self.ab + other.ab,
            change: self.change + other.change,
            abs_a: self.abs_a + other.abs_a,
            abs_b: self.abs_b + other.abs_b,
            alone_a: add(self.alone_a, other.alone_a),
            alone_b: add(self.alone_b, other.alone_b),
            max,
            max_at,
        }
    }

    /// Whether no element differs by more than `tolerance`.
    fn is_within(&self, tolerance: f64) -> bool {
        self.equal == self.count || (tolerance > 0.0 && self.unlike_nonfinite == 0 && self.max <= tolerance)
    }

    fn values(&self, shape: &[usize], complex: bool) -> ValueDiff {
        let known = |value: f64| value.is_finite().then_some(value);
        let (norm_a, norm_b, norm_change) = (self.aa.sqrt(), self.bb.sqrt(), self.change.sqrt());
        ValueDiff {
            count: self.count,
            equal: self.equal,
            nonfinite: self.nonfinite,
            norm_a: known(norm_a),
            norm_b: known(norm_b),
            norm_change: known(norm_change),
            relative_change: known(norm_change / norm_a),
            // Rounding must not make it more than 1.
            cosine: known(self.ab / (norm_a * norm_b)).map(|c| c.clamp(-1.0, 1.0)),
            max_difference: known(self.max),
            max_at: index(if complex { self.max_at / 2 } else { self.max_at }, shape),
        }
    }
}

/// The index of element `at`, row-major.
fn index(mut at: usize, shape: &[usize]) -> Vec<u64> {
    let mut index: Vec<u64> = Vec::with_capacity(shape.len());
    for &size in shape.iter().rev() {
        index.push((at % size.max(1)) as u64);
        at /= size.max(1);
    }
    index.reverse();
    index
}

fn codes(
    (x, left): (&Values<'_>, &Codes),
    (y, right): (&Values<'_>, &Codes),
    range: std::ops::Range<usize>,
    block: usize,
) -> CodeDiff {
    let mut diff = CodeDiff::default();
    let (mut a, mut b) = (vec![0.0; block], vec![0.0; block]);
    for start in range.clone().step_by(block) {
        let n = block.min(range.end - start);
        x.read_for_codes(start, &mut a[..n]);
        y.read_for_codes(start, &mut b[..n]);
        for (i, (&a, &b)) in a[..n].iter().zip(&b[..n]).enumerate() {
            let (from, to) = (left.code(start + i, a), right.code(start + i, b));
            diff.silenced += u64::from(from != 0 && to == 0);
            diff.woken += u64::from(from == 0 && to != 0);
            diff.reversed += u64::from(from * to < 0);
        }
        diff.count += n as u64;
    }
    diff.flipped = diff.silenced + diff.woken + diff.reversed;
    diff
}

/// Lists longer than this are compared as a whole.
const LONGEST_LIST: usize = 256;
/// Values nested deeper are compared as a whole.
const DEEPEST: usize = 32;

fn changed_values(
    path: &str,
    a: Option<&Value>,
    b: Option<&Value>,
    depth: usize,
    changes: &mut Vec<ValueChange>,
) {
    let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match (a, b) {
        (Some(Value::Dict(left)), Some(Value::Dict(right))) if depth < DEEPEST => {
            let keys: BTreeSet<_> = left.keys().chain(right.keys()).collect();
            for key in keys {
                let name = below(&metadata::key_text(key));
                changed_values(&name, left.get(key), right.get(key), depth + 1, changes);
            }
        }
        (Some(Value::List(left) | Value::Tuple(left)), Some(Value::List(right) | Value::Tuple(right)))
            if depth < DEEPEST && left.len().max(right.len()) <= LONGEST_LIST =>
        {
            for i in 0..left.len().max(right.len()) {
                changed_values(&below(&i.to_string()), left.get(i), right.get(i), depth + 1, changes);
            }
        }
        (Some(Value::F64(left)), Some(Value::F64(right))) if left.is_nan() && right.is_nan() => {}
        (a, b) if a == b => {}
        (a, b) => changes.push(ValueChange {
            path: path.to_string(),
            a: a.map(metadata::to_json),
            b: b.map(metadata::to_json),
        }),
    }
}
