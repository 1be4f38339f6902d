//! How one pair of tensors compares: as exactly as both element types allow. Exact types must match to the bit; only block
//! formats have a tolerance, which is the error that their own grid implies.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

use ckpt_inspect::{Checkpoint, DType, Error as ReadError, Result as ReadResult, TensorInfo, TernaryPacking};
use rayon::prelude::*;
use serde::Serialize;

use crate::apart::{QuantizationError, quantization_error};
use crate::bound::{bound, precision};
use crate::compare::{all_within, any_differs, largest_difference, same_codes, was_given, widen};
use crate::encode::{Decoded, GATHERED, gathered};
use crate::narrow::{narrow, narrow_f64};
use crate::plan::Elements;
use crate::ternary::Grid;
use crate::{Result, kept};

const TERNARY_FORM: &str = "ternary form compared; the float weights are not in the other";
/// Elements compared in one piece: whole blocks of every format.
pub(crate) const PIECE: usize = 1 << 16;

/// The rule by which two tensors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Rule {
    /// The same elements, bit for bit.
    Identical,
    /// The narrower type holds exactly what the wider one rounds to; of f16 and bf16, which hold each other's values in
    /// part, the one that was made of the other.
    Rounded,
    /// The same ternary codes and scale.
    Ternary,
    /// Within what a block's step allows.
    Blocks,
    /// The same codes and scales in another order; factors of whole matrices the same, or where one side divides by them,
    /// the nearest to the reciprocal that f32 holds.
    Kept,
}

/// How one pair of tensors compares.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Agreement {
    /// Its name in the first checkpoint.
    pub name: String,
    /// Its name in the second.
    pub other: String,
    /// Types of both.
    pub dtypes: [DType; 2],
    /// The rule that they must satisfy.
    pub rule: Rule,
    /// Whether they satisfy it.
    pub agrees: bool,
    /// Elements compared.
    pub elements: u64,
    /// Elements that break the rule.
    pub differing: u64,
    /// Row-major index of the first of them.
    pub first: Option<u64>,
    /// Largest difference of two values, where values are compared.
    pub worst: Option<f64>,
    /// Further details.
    pub detail: Option<String>,
    /// Which side has rounded values of the other, if any of its values differs from the other's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
    /// How far a quantized weight is from the other, if they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization_error: Option<QuantizationError>,
}

/// Values of one side that are not the other's, but what those round to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rounding {
    /// The side that is rounded.
    pub side: Which,
    /// How many elements.
    pub elements: u64,
}

/// One of two checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// The first.
    First,
    /// The second.
    Second,
}

/// One side of a comparison, with its bytes.
pub(crate) struct Side<'s> {
    checkpoint: &'s Checkpoint,
    elements: &'s Elements<'s>,
    bytes: Cow<'s, [u8]>,
}

impl<'s> Side<'s> {
    fn new(checkpoint: &'s Checkpoint, elements: &'s Elements<'s>) -> ReadResult<Self> {
        Ok(Side { checkpoint, elements, bytes: checkpoint.spread(&elements.tensor)? })
    }

    pub fn dtype(&self) -> DType {
        self.elements.tensor.dtype
    }

    /// The type of its values: for a matrix made ternary here, a code times a scale in f32; for what is stored less one,
    /// the sum in f32.
    fn value_type(&self) -> DType {
        let summed = self.elements.shift != 0.0 && self.dtype() != DType::F64;
        if self.elements.grid.is_some() || summed { DType::F32 } else { self.dtype() }
    }

    pub fn decoded(&self) -> ReadResult<Decoded<'_>> {
        Decoded::new(self.checkpoint, self.elements, &self.bytes)
    }
}

/// Compares elements of `a` with elements of `b`.
pub(crate) fn compare(
    a: &Checkpoint,
    elements: &Elements<'_>,
    b: &Checkpoint,
    theirs: &Elements<'_>,
    made: Made,
) -> Result<Agreement> {
    let other = &theirs.tensor;
    let tensor = &elements.tensor;
    // GGUF has no tensors without dimensions.
    let of_one = |shape: &[usize]| matches!(shape, [] | [1]);
    let (ours, others) = (elements.shape(), theirs.shape());
    let same_shape = ours == others || (of_one(&ours) && of_one(&others));
    let rounds = |e: &Elements<'_>| e.grid.is_some_and(|grid| !grid.exact);
    let blocks_of = |e: &Elements<'_>| e.grid.is_some() && matches!(e.tensor.dtype, DType::Ggml(_));
    let rule = match rule(tensor.dtype, other.dtype) {
        // Matrices made ternary were encoded again.
        Some(Rule::Identical) if blocks_of(elements) || blocks_of(theirs) => Some(Rule::Blocks),
        // Equal blocks say the same only with equal factors.
        Some(Rule::Identical) if tensor.scale != other.scale || tensor.scales != other.scales => {
            Some(Rule::Blocks)
        }
        Some(Rule::Identical) if rounds(elements) || rounds(theirs) => Some(Rule::Rounded),
        rule => rule,
    };
    let mut agreement = Agreement {
        name: tensor.name.clone(),
        other: other.name.clone(),
        dtypes: [tensor.dtype, other.dtype],
        rule: rule.unwrap_or(Rule::Identical),
        agrees: false,
        elements: tensor.numel(),
        differing: 0,
        first: None,
        worst: None,
        detail: None,
        rounding: None,
        quantization_error: None,
    };
    if !same_shape {
        agreement.detail = Some(format!("shape {ours:?} is not {others:?}"));
        return Ok(agreement);
    }
    let Some(rule) = rule else {
        agreement.detail = Some("the types have no values in common".into());
        return Ok(agreement);
    };
    let are_as_stored = elements.is_source() && theirs.is_source();
    if rule == Rule::Identical && are_as_stored && was_given(tensor, b, other)? {
        (agreement.agrees, agreement.worst) = (true, Some(0.0));
        return Ok(agreement);
    }
    let gathers = |c: &Checkpoint, e: &Elements<'_>| c.copied_bytes(&e.tensor) > GATHERED;
    let sides = [elements, theirs];
    // What is rounded either way is judged as a whole.
    if (matches!(rule, Rule::Identical | Rule::Blocks) || (rule == Rule::Rounded && made == Made::Second))
        && (gathers(a, elements) || gathers(b, theirs))
        && sides.iter().all(|side| side.is_source() && side.tensor.window(0, 0).is_some())
    {
        compare_stretches((a, tensor), (b, other), made, rule, &mut agreement)?;
        return Ok(agreement);
    }
    let (a, b) = (Side::new(a, elements)?, Side::new(b, theirs)?);
    if kept::are_alike(a.dtype(), b.dtype()) {
        let mut as_kept = agreement.clone();
        as_kept.rule = Rule::Kept;
        apply(Rule::Kept, &a, &b, made, &mut as_kept)?;
        if as_kept.agrees || made == Made::Kept {
            return Ok(as_kept);
        }
    }
    apply(rule, &a, &b, made, &mut agreement)?;
    let is_coded = |side: &Side<'_>| matches!(side.dtype(), DType::Quantized(_));
    if !agreement.agrees && (is_coded(&a) || is_coded(&b)) {
        let (coded, other) = if is_coded(&a) { (&a, &b) } else { (&b, &a) };
        let error = quantization_error(coded, other)?;
        if let Some(error) = error {
            let QuantizationError { relative_rms, worst_block, worst_at, .. } = error;
            agreement.detail.get_or_insert_with(|| {
                format!("relative RMS error {relative_rms:.2e}, in the worst block {worst_block:.2e} (at {worst_at})")
            });
        }
        agreement.quantization_error = error;
    }
    if rounds(elements) || rounds(theirs) {
        agreement.detail.get_or_insert_with(|| TERNARY_FORM.into());
    }
    Ok(agreement)
}

/// Compares both sides by `rule`.
fn apply(rule: Rule, a: &Side<'_>, b: &Side<'_>, made: Made, agreement: &mut Agreement) -> Result<()> {
    match rule {
        Rule::Identical if a.elements.is_source() && b.elements.is_source() => {
            identical(a, b, agreement);
            // They must be decoded to find how far apart they are.
            if !agreement.agrees && a.dtype().is_float() {
                let mut apart = agreement.clone();
                rounded(a, b, made, &mut apart)?;
                agreement.worst = apart.worst;
            }
        }
        Rule::Identical | Rule::Rounded => rounded(a, b, made, agreement)?,
        Rule::Ternary => ternary(a, b, agreement)?,
        Rule::Blocks => blocks(a, b, agreement)?,
        Rule::Kept => kept::compare(a, b, agreement)?,
    }
    Ok(())
}

/// Compares tensors of which one has to be gathered, some elements at a time.
fn compare_stretches(
    (a, ours): (&Checkpoint, &TensorInfo),
    (b, theirs): (&Checkpoint, &TensorInfo),
    made: Made,
    rule: Rule,
    agreement: &mut Agreement,
) -> Result<()> {
    let size = ours.dtype.element_size().unwrap_or(1).max(theirs.dtype.element_size().unwrap_or(1));
    let step = gathered(&[ours, theirs]) / size as u64;
    agreement.agrees = true;
    let mut start = 0;
    while start < ours.numel() {
        let count = step.min(ours.numel() - start);
        let stretch = |tensor: &TensorInfo| {
            let stretch = tensor.window(start, count);
            let stretch =
                stretch.ok_or_else(|| ReadError::damaged("its size overflows").in_tensor(&tensor.name));
            stretch.map(|stretch| Elements::new(stretch, None))
        };
        let (ours, theirs) = (stretch(ours)?, stretch(theirs)?);
        let mut part = agreement.clone();
        (part.differing, part.first, part.worst, part.rounding) = (0, None, None, None);
        apply(rule, &Side::new(a, &ours)?, &Side::new(b, &theirs)?, made, &mut part)?;
        agreement.agrees &= part.agrees;
        agreement.differing += part.differing;
        agreement.rounding = match (agreement.rounding, part.rounding) {
            (Some(one), Some(other)) => Some(Rounding { elements: one.elements + other.elements, ..one }),
            (one, other) => one.or(other),
        };
        agreement.first = agreement.first.or(part.first.map(|first| start + first));
        agreement.worst = match (agreement.worst, part.worst) {
            (Some(one), Some(other)) => Some(one.max(other)),
            (one, other) => one.or(other),
        };
        start += count;
    }
    Ok(())
}

fn rule(a: DType, b: DType) -> Option<Rule> {
    let quantized = |d| matches!(d, DType::QI8 | DType::QU8 | DType::QI32);
    let real = |d: DType| {
        d.is_float() || quantized(d) || matches!(d, DType::Ggml(_) | DType::Ternary(_) | DType::Quantized(_))
    };
    if a.is_ternary() || b.is_ternary() {
        return (real(a) && real(b)).then_some(Rule::Ternary);
    }
    let blocks = |d: DType| matches!(d, DType::Ggml(_));
    let is_coded = |d| quantized(d) || matches!(d, DType::Quantized(_));
    if a == b && !is_coded(a) {
        return Some(Rule::Identical);
    }
    if blocks(a) || blocks(b) {
        return (real(a) && real(b)).then_some(Rule::Blocks);
    }
    (real(a) && real(b)).then_some(Rule::Rounded)
}

/// The outcome of a piece of a comparison.
#[derive(Clone, Copy, Default)]
pub(crate) struct Found {
    differing: u64,
    first: Option<u64>,
    pub worst: f64,
}

impl Found {
    /// Element `at` breaks the rule.
    pub fn differs(&mut self, at: usize) {
        self.differing += 1;
        self.first.get_or_insert(at as u64);
    }
}

/// Runs `piece(start, count)` over `len` elements and puts the outcome into `agreement`.
pub(crate) fn in_pieces(len: usize, agreement: &mut Agreement, piece: impl Fn(usize, usize) -> Found + Sync) {
    let found: Vec<Found> = (0..len.div_ceil(PIECE))
        .into_par_iter()
        .map(|i| piece(i * PIECE, PIECE.min(len - i * PIECE)))
        .collect();
    agreement.differing = found.iter().map(|f| f.differing).sum();
    agreement.first = found.iter().find_map(|f| f.first);
    let worst = found.iter().map(|f| f.worst).fold(0.0, f64::max);
    agreement.worst = Some(worst);
    agreement.agrees = agreement.differing == 0;
}

fn identical(a: &Side<'_>, b: &Side<'_>, agreement: &mut Agreement) {
    let len = a.elements.tensor.numel() as usize;
    match a.dtype().element_size() {
        Some(size) => in_pieces(len, agreement, |start, n| {
            let range = start * size..(start + n) * size;
            let (ours, theirs) = (&a.bytes[range.clone()], &b.bytes[range]);
            let mut found = Found::default();
            if ours != theirs {
                let pairs = ours.chunks_exact(size).zip(theirs.chunks_exact(size)).enumerate();
                pairs.filter(|(_, (x, y))| x != y).for_each(|(i, _)| found.differs(start + i));
            }
            found
        }),
        None => {
            agreement.agrees = a.bytes == b.bytes;
            agreement.differing = u64::from(!agreement.agrees);
        }
    }
    if !agreement.agrees {
        agreement.worst = None;
    }
}

/// Which of two tensors was made from the other, if their types do not show it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Made {
    /// The second.
    Second,
    /// The second, with the codes and scales of the first.
    Kept,
    /// Unknown: either of them.
    Either,
}

/// Whether every value of `thin` is one of `wide`. What bf16 and powers of two (E8M0) reach, f16 does not.
fn holds(wide: DType, thin: DType) -> bool {
    let ((bits, size), (thin_bits, thin_size)) = (precision(wide), precision(thin));
    let beyond = wide == DType::F16 && matches!(thin, DType::BF16 | DType::F8E8M0FNU);
    !beyond && (size, bits) >= (thin_size, thin_bits)
}

/// A tensor that was made of the other has what that one's values round to, and exactly these where its type holds them. If
/// either may have been made of the other, the one of the narrower type was.
fn rounded(a: &Side<'_>, b: &Side<'_>, made: Made, agreement: &mut Agreement) -> Result<()> {
    let (first, second) = (a.value_type(), b.value_type());
    if made == Made::Either && !holds(first, second) && holds(second, first) {
        return rounds_to((b, Which::Second), a, agreement);
    }
    rounds_to((a, Which::First), b, agreement)?;
    if !agreement.agrees && !holds(first, second) && made == Made::Either {
        let mut reverse = agreement.clone();
        rounds_to((b, Which::Second), a, &mut reverse)?;
        if reverse.differing < agreement.differing {
            *agreement = reverse;
        }
    }
    Ok(())
}

/// Whether `thin` holds what the values of `wide` round to, which is the side `from`.
fn rounds_to((wide, from): (&Side<'_>, Which), thin: &Side<'_>, agreement: &mut Agreement) -> Result<()> {
    let thin_type = match thin.value_type() {
        DType::QI8 | DType::QU8 | DType::QI32 | DType::Quantized(_) => DType::F32,
        other => other,
    };
    let same_type = wide.value_type() == thin_type;
    let narrows = matches!(thin_type, DType::F16 | DType::BF16);
    let (wides, thins) = (wide.decoded()?, thin.decoded()?);
    // What f64 holds of narrower values, it holds exactly.
    if thins.are_double() {
        in_pieces(wides.len(), agreement, |start, n| {
            let (x, y) = (doubles(&wides, start, n), thins.get_f64(start, n));
            let mut found = Found::default();
            for (i, (x, y)) in x.iter().zip(&y).enumerate() {
                if x.to_bits() != y.to_bits() && (wides.are_double() || !(x.is_nan() && y.is_nan())) {
                    found.differs(start + i);
                    let apart = (x - y).abs();
                    found.worst = if apart.is_finite() { found.worst.max(apart) } else { found.worst };
                }
            }
            found
        });
        return Ok(());
    }
    let moved = AtomicU64::new(0);
    let compare = |x: &[f32], rounded: &[f32], y: &[f32], start: usize| {
        let mut found = Found { worst: largest_difference(x, y), ..Found::default() };
        if any_differs(rounded, y) {
            for (i, (x, y)) in rounded.iter().zip(y).enumerate() {
                if x.to_bits() != y.to_bits() && (same_type || !(x.is_nan() && y.is_nan())) {
                    found.differs(start + i);
                }
            }
        }
        found
    };
    in_pieces(wides.len(), agreement, |start, n| {
        let (mut large, mut small, mut as_thin) = (Vec::new(), Vec::new(), Vec::new());
        let (x, y) = (wides.get(start, n, &mut large), thins.get(start, n, &mut small));
        let differ = |x: f64, y: f64| x != y && !(x.is_nan() && y.is_nan());
        let apart = match wides.are_double() {
            true => {
                wides.get_f64(start, n).iter().zip(y).filter(|(x, y)| differ(**x, f64::from(**y))).count()
            }
            false => x.iter().zip(y).filter(|(x, y)| x != y && !(x.is_nan() && y.is_nan())).count(),
        };
        moved.fetch_add(apart as u64, Ordering::Relaxed);
        if !narrows {
            return compare(x, x, y, start);
        }
        match wides.are_double() {
            true => narrow_f64(&wides.get_f64(start, n), thin_type, &mut as_thin),
            false => narrow(x, thin_type, &mut as_thin),
        };
        compare(x, &widen(&as_thin, thin_type), y, start)
    });
    let elements = moved.into_inner();
    let side = if from == Which::First { Which::Second } else { Which::First };
    agreement.rounding = (agreement.agrees && elements > 0).then_some(Rounding { side, elements });
    Ok(())
}

/// `n` values from `start` on, as f64.
fn doubles(values: &Decoded<'_>, start: usize, n: usize) -> Vec<f64> {
    match values.are_double() {
        true => values.get_f64(start, n).to_vec(),
        false => {
            let mut small = Vec::new();
            values.get(start, n, &mut small).iter().map(|x| f64::from(*x)).collect()
        }
    }
}

/// Whether a ternary matrix of this type has its scale from 16-bit floats.
fn has_half_scale(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::Ggml(_))
}

/// How far a scale may be off: only by the rounding of the type that stores it.
fn scale_tolerance(side: &Side<'_>) -> f64 {
    match side.dtype() {
        // Stored as a reciprocal in some files.
        DType::Ternary(TernaryPacking::HfBitnet) => f64::from(f32::EPSILON),
        DType::Ternary(_) => 0.0,
        // A block's scale is an f16.
        DType::Ggml(_) => 2f64.powi(-11),
        other => match precision(other).0 {
            24.. => 0.0,
            bits => 2f64.powi(-(bits as i32)),
        },
    }
}

fn ternary(a: &Side<'_>, b: &Side<'_>, agreement: &mut Agreement) -> Result<()> {
    let grid = |side: &Side<'_>, values: &Decoded<'_>| match side.dtype() {
        DType::Ternary(_) => Ok(Grid { scale: side.elements.tensor.scale, exact: true }),
        _ => Grid::measure(values, side.checkpoint.model.quantization_floor())
            .map_err(|e| e.in_tensor(&side.elements.tensor.name)),
    };
    let (unit_a, unit_b) = (a.elements.clone().unscaled(), b.elements.clone().unscaled());
    let (ours, theirs) =
        (Decoded::new(a.checkpoint, &unit_a, &a.bytes)?, Decoded::new(b.checkpoint, &unit_b, &b.bytes)?);
    let (grid_a, grid_b) = (grid(a, &ours)?, grid(b, &theirs)?);
    // Another's mean|W| may be summed in another order; a value that close to the line may fall on either side.
    const NEAR: f32 = 1e-5;
    let near = |grid: Grid, x: f32| {
        !grid.exact && grid.scale.is_some_and(|scale| ((x / scale).abs() - 0.5).abs() < NEAR)
    };
    // A value beyond these is not a code of a packed matrix.
    let limit = |side: &Side<'_>| match side.dtype() {
        DType::Ternary(_) => 1.0,
        _ => f32::INFINITY,
    };
    let lines = ((grid_a.line(), limit(a)), (grid_b.line(), limit(b)));
    let invalid = |side: &Side<'_>, x: f32| matches!(side.dtype(), DType::Ternary(_)) && x.abs() > 1.0;
    in_pieces(ours.len(), agreement, |start, n| {
        let mut found = Found::default();
        let (mut x, mut y) = (Vec::new(), Vec::new());
        let (x, y) = (ours.get(start, n, &mut x), theirs.get(start, n, &mut y));
        if same_codes(x, lines.0, y, lines.1) {
            return found;
        }
        for (i, (&x, &y)) in x.iter().zip(y).enumerate() {
            let wrong = invalid(a, x) || invalid(b, y);
            let same = grid_a.code(x) == grid_b.code(y) || near(grid_a, x) || near(grid_b, y);
            if wrong || !same {
                found.differs(start + i);
            }
        }
        found
    });
    agreement.worst = None;
    /// Four units in the last place of an f32.
    const LAST_BITS: f64 = 4.0 * f32::EPSILON as f64;
    match (grid_a.scale, grid_b.scale) {
        (Some(x), Some(y)) => {
            let (x, y) = (f64::from(x), f64::from(y));
            let absmean = if grid_a.exact && grid_b.exact { 0.0 } else { f64::from(NEAR) };
            let tolerance = (scale_tolerance(a) + scale_tolerance(b)).max(absmean);
            agreement.worst = Some((x - y).abs());
            // Where an f16 is subnormal its steps are 2^-24, whatever the scale.
            let halves = [a, b].into_iter().filter(|side| has_half_scale(side.dtype())).count();
            let off = ((x - y).abs() - halves as f64 * 2f64.powi(-25)).max(0.0) / x.abs().max(y.abs());
            if off > tolerance.max(LAST_BITS) && !all_zero(&ours, grid_a) {
                agreement.agrees = false;
                agreement.detail = Some(format!("scale {x:e} is not {y:e}"));
            } else if off > tolerance {
                agreement.detail =
                    Some("scales differ in their last bits, as mean|W| does when summed otherwise".into());
            } else if !(grid_a.exact && grid_b.exact) {
                agreement.detail = Some(TERNARY_FORM.into());
            }
        }
        _ => agreement.detail = Some("codes compared; a scale is not there".into()),
    }
    Ok(())
}

fn all_zero(values: &Decoded<'_>, grid: Grid) -> bool {
    (0..values.len().div_ceil(PIECE)).into_par_iter().all(|i| {
        let mut piece = vec![0.0f32; PIECE.min(values.len() - i * PIECE)];
        values.read(i * PIECE, &mut piece);
        piece.iter().all(|x| grid.code(*x) == 0)
    })
}

fn blocks(a: &Side<'_>, b: &Side<'_>, agreement: &mut Agreement) -> Result<()> {
    let of = |side: &Side<'_>| {
        bound(side.value_type()).ok_or_else(|| {
            ReadError::unsupported(format!("there is no bound on the error of {} blocks", side.dtype()))
                .in_tensor(&side.elements.tensor.name)
        })
    };
    let (first, second) = (of(a)?, of(b)?);
    let (block, share) = (first.block.max(second.block), first.share + second.share);
    let absolute = first.absolute + second.absolute;
    let (ours, theirs) = (a.decoded()?, b.decoded()?);
    in_pieces(ours.len(), agreement, |start, n| {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        let (x, y) = (ours.get(start, n, &mut x), theirs.get(start, n, &mut y));
        let mut found = Found { worst: largest_difference(x, y), ..Found::default() };
        for (j, (x, y)) in x.chunks(block).zip(y.chunks(block)).enumerate() {
            if all_within(x, y, share, absolute) {
                continue;
            }
            let finite = x.iter().chain(y).filter(|v| v.is_finite());
            let largest = finite.map(|v| f64::from(v.abs())).fold(0.0, f64::max);
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                // A NaN scale makes NaN elements, on both sides.
                if x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()) {
                    continue;
                }
                let error = (f64::from(*x) - f64::from(*y)).abs();
                if error.is_nan() || error > share * largest + absolute {
                    found.differs(start + j * block + i);
                }
            }
        }
        found
    });
    Ok(())
}
