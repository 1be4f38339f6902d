//! Two tensors, element by element.

use super::{CodeDiff, Options, RowOrder, Status, TensorDiff, ValueDiff, side};
use crate::checkpoint::Checkpoint;
use crate::meaning::elements::windows::Windows;
use crate::meaning::elements::{CodeRule, Elements, in_chunks};
use crate::tensor::TensorInfo;
use crate::{DType, Error, Quantizer, Result};

/// Compares two tensors, of any names and checkpoints. Which tensors the options select does not matter here.
pub fn diff_tensors(
    a: (&Checkpoint, &TensorInfo),
    b: (&Checkpoint, &TensorInfo),
    options: Options<'_>,
) -> TensorDiff {
    let mut diff = TensorDiff {
        name: a.1.name.clone(),
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
    match compare(a, b, options) {
        Ok(None) => diff.status = Status::Same,
        Ok(Some((sums, ternary))) => {
            diff.status = status(sums.is_within(options.tolerance));
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
    options: Options<'_>,
) -> Result<Option<(Sums, Option<CodeDiff>)>> {
    let is_ternary = in_a.model.is_ternary(a) || in_b.model.is_ternary(b);
    if !is_ternary && let Some(found) = in_windows((in_a, a), (in_b, b), options) {
        return found.map(|sums| sums.map(|sums| (sums, None)));
    }
    let (bytes_a, bytes_b) = (in_a.tensor_bytes(a)?, in_b.tensor_bytes(b)?);
    let orders = [(options.rows)(in_a, a), (options.rows)(in_b, b)];
    let in_order = orders.iter().all(Option::is_none);
    let same_bytes = in_order && a.dtype == b.dtype && bytes_a == bytes_b;
    if same_bytes && same_meaning((in_a, a), (in_b, b))? {
        return Ok(None);
    }
    let [order_a, order_b] = orders;
    let x = ordered(elements((in_a, a), &bytes_a)?, a, order_a);
    let y = ordered(elements((in_b, b), &bytes_b)?, b, order_b);
    let block = x.step_with(&y);
    let parts = in_chunks(x.len().min(y.len()), block, |range| Sums::of(&x, &y, range, block));
    let mut sums = parts.into_iter().fold(Sums::default(), Sums::join);
    if in_order && a.dtype == b.dtype && matches!(a.dtype, DType::I64 | DType::U64) {
        // f64 does not distinguish neighbouring large integers.
        let words = bytes_a.as_chunks::<8>().0.iter().zip(bytes_b.as_chunks::<8>().0);
        sums.equal = words.filter(|(x, y)| x == y).count() as u64;
    }
    let ternary = is_ternary.then(|| {
        let finite = sums.count - sums.nonfinite;
        let whole = |sum: f64, alone: (f64, u64)| (sum + alone.0, finite + alone.1);
        let left = CodeRule::of(in_a, a, &x, whole(sums.abs_a, sums.alone_a));
        let right = CodeRule::of(in_b, b, &y, whole(sums.abs_b, sums.alone_b));
        let (x, y) = (x.unscaled(), y.unscaled());
        in_chunks(x.len(), block, |range| codes((&x, &left), (&y, &right), range, block)).into_iter().fold(
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

/// The same for large tensors of which at least one has to be fetched, some elements at a time; `None` where they are not
/// such, or no plain runs of elements or blocks.
fn in_windows(
    (in_a, a): (&Checkpoint, &TensorInfo),
    (in_b, b): (&Checkpoint, &TensorInfo),
    options: Options<'_>,
) -> Option<Result<Option<Sums>>> {
    let (windows, of_a) = match Windows::of(in_a, a) {
        Some(windows) => (windows, true),
        None => (Windows::of(in_b, b)?, false),
    };
    let (in_other, other) = if of_a { (in_b, b) } else { (in_a, a) };
    let in_order = (options.rows)(in_a, a).is_none() && (options.rows)(in_b, b).is_none();
    if !in_order || other.window(0, 0).is_none() || other.dtype.is_complex() {
        return None;
    }
    let exact = a.dtype == b.dtype && matches!(a.dtype, DType::I64 | DType::U64);
    let mut same = a.dtype == b.dtype && a.scale == b.scale;
    let mut sums = Sums::default();
    let mut equal = 0;
    let walked = windows.each(|window| {
        let (start, count) = (window.start as u64, window.elements.len() as u64);
        let part = other.window(start, count).ok_or_else(|| Error::damaged("its size overflows"))?;
        let bytes = in_other.tensor_bytes(&part)?;
        same = same && *bytes == *window.bytes;
        if exact {
            let words = bytes.as_chunks::<8>().0.iter().zip(window.bytes.as_chunks::<8>().0);
            equal += words.filter(|(x, y)| x == y).count() as u64;
        }
        let elements = elements((in_other, &part), &bytes)?;
        let (x, y) = if of_a { (&window.elements, &elements) } else { (&elements, &window.elements) };
        let block = x.step_with(y);
        for mut one in in_chunks(x.len(), block, |range| Sums::of(x, y, range, block)) {
            one.max_at += window.start;
            sums = sums.join(one);
        }
        Ok(())
    });
    if exact {
        sums.equal = equal;
    }
    Some(walked.map(|()| (!same).then_some(sums)))
}

fn elements<'a>(
    (checkpoint, tensor): (&Checkpoint, &'a TensorInfo),
    bytes: &'a [u8],
) -> Result<Elements<'a>> {
    let elements = checkpoint.elements_in(tensor, bytes)?;
    elements.check_codes().map_err(|e| e.in_tensor(&tensor.name).in_file(&checkpoint.path))?;
    Ok(elements)
}

/// `elements` of `tensor` with its rows in order.
fn ordered<'a>(elements: Elements<'a>, tensor: &TensorInfo, order: Option<RowOrder>) -> Elements<'a> {
    match (order, tensor.shape.as_slice()) {
        (Some(order), &[_, cols]) if cols > 0 => elements.with_rows(cols, order),
        (Some(order), &[_]) => elements.with_rows(1, order),
        _ => elements,
    }
}

/// Whether equal bytes mean equal numbers: scales and index tensors are equal, too.
fn same_meaning(
    (in_a, a): (&Checkpoint, &TensorInfo),
    (in_b, b): (&Checkpoint, &TensorInfo),
) -> Result<bool> {
    let same = |a: &TensorInfo, b: &TensorInfo| {
        Ok(a.dtype == b.dtype && a.shape == b.shape && in_a.tensor_bytes(a)? == in_b.tensor_bytes(b)?)
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
        ) => axis == along && same(scales, others)? && same(zero_points, zeros)?,
        _ => false,
    };
    let sparse = match (&a.sparse, &b.sparse) {
        (None, None) => true,
        (Some(a), Some(b)) if a.layout == b.layout && a.indices.len() == b.indices.len() => {
            let pairs = a.indices.iter().zip(&b.indices);
            pairs.map(|(a, b)| same(a, b)).collect::<Result<Vec<bool>>>()?.into_iter().all(|same| same)
        }
        _ => false,
    };
    let parts = match (&a.quantized, &b.quantized) {
        (None, None) => true,
        (Some(a), Some(b)) if a.parts().len() == b.parts().len() => {
            let pairs = a.parts().iter().zip(b.parts());
            pairs
                .map(|(a, b)| same(&a.tensor, &b.tensor))
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .all(|same| same)
        }
        _ => false,
    };
    Ok(a.scale == b.scale && a.scales == b.scales && quantizers && sparse && parts)
}

/// Sums over pairs of elements. All but the counts are over pairs that are finite on both sides.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    count: u64,
    equal: u64,
    nonfinite: u64,
    /// Unequal pairs with at least one side that is not finite.
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
    fn of(x: &Elements<'_>, y: &Elements<'_>, range: std::ops::Range<usize>, block: usize) -> Sums {
        let mut sums = Sums { max_at: range.start, ..Sums::default() };
        let (mut left, mut right) = (vec![0.0; block], vec![0.0; block]);
        for start in range.clone().step_by(block) {
            let n = block.min(range.end - start);
            let (left, right) = (&mut left[..n], &mut right[..n]);
            x.read_f64(start, left);
            y.read_f64(start, right);
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
            // Rounding must not push it above 1.
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
    (x, left): (&Elements<'_>, &CodeRule),
    (y, right): (&Elements<'_>, &CodeRule),
    range: std::ops::Range<usize>,
    block: usize,
) -> CodeDiff {
    let mut diff = CodeDiff::default();
    let (mut a, mut b) = (vec![0.0; block], vec![0.0; block]);
    for start in range.clone().step_by(block) {
        let n = block.min(range.end - start);
        x.read_f64(start, &mut a[..n]);
        y.read_f64(start, &mut b[..n]);
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
