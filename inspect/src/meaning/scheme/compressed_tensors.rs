//! compressed-tensors: whole numbers of 2 to 8 bits packed into words, and int8. Codes are what is stored less half their
//! range; the width of a row of words tells how they are packed where their bits do not divide 32
//! (<https://github.com/neuralmagic/compressed-tensors>, `pack_quantized`). Its 4-bit floats are in `nvfp4` and `mxfp4`,
//! its 8-bit ones in `float8`.

use super::geometry::{Asked, GUESSED, Shared, Sizes, shared};
use super::{Found, Stored, Weight};
use crate::DType;
use crate::quantized::form::{Form, Numbers, Packed, Value, Zero};
use crate::quantized::{Blocking, Code, Maker, PartRole, QuantFault, QuantType};
use crate::tensor::TensorInfo;

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    if let (Some(layer), DType::I32) = (codes.name.strip_suffix(".weight_packed"), codes.dtype) {
        return Some(packed(stored, at, layer));
    }
    let layer = codes.name.strip_suffix(".weight").filter(|_| codes.dtype == DType::I8)?;
    let scale = stored.at(&format!("{layer}.weight_scale"));
    match scale {
        Some(scale) => Some(int8(stored, at, scale, layer)),
        None if stored.config.is("compressed-tensors") && codes.shape.len() >= 2 => {
            let wanted = format!("{layer}.weight_scale");
            Some(Err(QuantFault::Missing { part: PartRole::Scale, wanted }))
        }
        None => None,
    }
}

/// A row of `words` words that hold `cols` codes of `bits` bits; `None` if they do not.
fn layout(words: usize, cols: usize, bits: usize) -> Option<Packed> {
    let (narrow, stride) = (u8::try_from(bits).ok()?, words.checked_mul(4)?);
    if cols.checked_mul(bits)?.div_ceil(32) == words {
        return Some(Packed::Rows { bits: narrow, stride });
    }
    (cols.div_ceil(32 / bits) == words).then_some(Packed::Words { bits: narrow, stride })
}

/// Words that are looked at to see whether their highest bits are used.
const SAMPLE: usize = 4096;

/// Whether words of `codes` have nothing where no whole code of `bits` bits fits.
fn has_spare_bits(codes: &TensorInfo, bits: u8) -> bool {
    let used = 32 / u32::from(bits) * u32::from(bits);
    let Ok(bytes) = codes.bytes() else { return false };
    let words = bytes.as_chunks::<4>().0.iter().take(SAMPLE);
    words.into_iter().all(|word| u32::from_le_bytes(*word).checked_shr(used).unwrap_or(0) == 0)
}

fn packed(stored: &Stored<'_>, at: usize, layer: &str) -> Found {
    let codes = stored.tensor(at);
    let own = |field: &str| format!("{layer}.{field}");
    let scale = stored.need(PartRole::Scale, own("weight_scale"))?;
    let stack = Sizes::of(&codes.shape).ok_or_else(|| QuantFault::shape(codes, codes))?;
    let mut parts = vec![(PartRole::Codes, at), (PartRole::Scale, scale)];
    let asked = stored.config.group_bits();
    let packable: Vec<usize> = asked.iter().copied().filter(|bits| (2..=8).contains(bits)).collect();
    let all = || match packable.as_slice() {
        [] => (2..=8).collect(),
        packable => packable.to_vec(),
    };
    let recorded = stored.at(&own("weight_shape"));
    let cols = match recorded {
        Some(recorded) => {
            let unclear = || QuantFault::State { part: own("weight_shape") };
            let sizes = stored.integers(recorded).ok_or_else(unclear)?;
            let &[.., rows, cols] = sizes.as_slice() else { return Err(unclear()) };
            let fits = rows == stack.rows || rows.checked_mul(stack.slices) == Some(stack.rows);
            if !fits || sizes.len() > codes.shape.len() {
                return Err(QuantFault::said(stored.tensor(recorded), &sizes, codes));
            }
            parts.push((PartRole::State, recorded));
            cols
        }
        None => {
            // Full words: how many codes they hold is known if their bits are.
            let bits = asked.iter().copied().find(|bits| (2..=8).contains(bits));
            let bits = bits
                .ok_or_else(|| QuantFault::Missing { part: PartRole::State, wanted: own("weight_shape") })?;
            stack.cols.checked_mul(32).ok_or_else(|| QuantFault::shape(codes, codes))? / bits
        }
    };
    let placed = |bits: usize| Some((bits, layout(stack.cols, cols, bits)?));
    let mut found = all().into_iter().find_map(placed);
    // As many bytes are codes of 8 bits, or of 7 where nothing is in the highest bits of words.
    if packable.is_empty()
        && let Some((_, Packed::Words { bits: narrow, .. })) = found
        && let Some(full) =
            all().into_iter().filter_map(placed).find(|(_, p)| matches!(p, Packed::Rows { .. }))
        && !has_spare_bits(codes, narrow)
    {
        found = Some(full);
    }
    let (bits, place) = found.ok_or_else(|| {
        let bits: Vec<String> = all().iter().map(|bits| bits.to_string()).collect();
        QuantFault::configured(codes, format!("rows of {cols} codes of {} bits", bits.join(" or ")))
    })?;
    let fitting = (2..=8).filter(|&bits| layout(stack.cols, cols, bits).is_some()).count();
    let sizes = Sizes { cols, ..stack };
    let dtype = stored.tensor(scale).dtype;
    let said = stored.config.blockings();
    let Shared { blocking, group, grid, guessed } =
        shared(stored, (1, scale), Numbers::Plain(dtype), sizes, Asked::of(&said, (1, 0)), codes)?;
    // It refuses rows that end within a group.
    if said.contains(&blocking) && cols > group && !cols.is_multiple_of(group) {
        let asked = format!("rows of {cols}, which groups of {group} do not divide");
        return Err(QuantFault::configured(stored.tensor(scale), asked));
    }
    let half = 1i32 << (bits - 1);
    let mut form = Form {
        rows: sizes.rows,
        cols,
        slices: sizes.slices,
        codes: place,
        value: Value::Unsigned(half),
        group,
        scale: Some(grid),
        ..Form::default()
    };
    if let Some(zero) = stored.at(&own("weight_zero_point")) {
        let part = parts.len();
        parts.push((PartRole::ZeroPoint, zero));
        form.zero = zero_point(stored, (part, zero), bits, sizes, (&form, blocking))?;
    } else if stored.config.has_zero_points(bits) {
        return Err(QuantFault::Missing { part: PartRole::ZeroPoint, wanted: own("weight_zero_point") });
    }
    let index = stored.at(&own("weight_g_idx"));
    if index.is_none() && form.groups() > 1 && stored.config.has_index(bits) {
        return Err(QuantFault::Missing { part: PartRole::Index, wanted: own("weight_g_idx") });
    }
    if let Some(index) = index {
        // Activation ordering that was not done leaves -1 for every column.
        (form.index, form.index_may_be_unset) = (Some(parts.len()), true);
        parts.push((PartRole::Index, index));
    }
    Ok(Weight {
        name: own("weight"),
        shape: sizes.shape(&codes.shape),
        kind: QuantType::new(Maker::CompressedTensors, Code::Bits(bits as u8), blocking),
        parts,
        form,
        assumed: match fitting > 1 && packable.is_empty() {
            true => Some(
                "no configuration says how many bits their codes have; the fewest that their words can be were assumed",
            ),
            false => guessed.then_some(GUESSED),
        },
    })
}

/// Zero points: packed like codes, but down the rows, or as bytes.
fn zero_point(
    stored: &Stored<'_>,
    (part, at): (usize, usize),
    bits: usize,
    sizes: Sizes,
    (form, blocking): (&Form, Blocking),
) -> Result<Zero, QuantFault> {
    let (zero, codes) = (stored.tensor(at), stored.tensor(at));
    if zero.dtype != DType::I32 {
        let said = [blocking];
        let asked = Asked::of(&said, (1, form.group));
        let shared = shared(stored, (part, at), Numbers::Plain(zero.dtype), sizes, asked, codes)?;
        return Ok(Zero::Numbers(shared.grid));
    }
    let misfit = || QuantFault::shape(zero, codes);
    let &[words, groups] = zero.shape.as_slice() else { return Err(misfit()) };
    let whole = match layout(words, sizes.rows, bits) {
        Some(Packed::Rows { .. }) => false,
        Some(_) => true,
        None => return Err(misfit()),
    };
    if groups != form.groups() || sizes.slices != 1 {
        return Err(misfit());
    }
    let packed = Packed::Down { bits: bits as u8, width: groups, whole };
    Ok(Zero::Packed { part, packed, by_row: false, plus: -(1 << (bits - 1)) })
}

fn int8(stored: &Stored<'_>, at: usize, scale: usize, layer: &str) -> Found {
    let codes = stored.tensor(at);
    let sizes = Sizes::of(&codes.shape).ok_or_else(|| QuantFault::shape(codes, codes))?;
    let mut parts = vec![(PartRole::Codes, at), (PartRole::Scale, scale)];
    let dtype = stored.tensor(scale).dtype;
    if !dtype.is_float() {
        let (part, found) = (stored.tensor(scale).name.clone(), dtype.to_string());
        return Err(QuantFault::Type { part, found });
    }
    let said = stored.config.blockings();
    let asked = Asked::of(&said, (1, 128));
    let scales = shared(stored, (1, scale), Numbers::Plain(dtype), sizes, asked, codes)?;
    let mut form = Form {
        rows: sizes.rows,
        cols: sizes.cols,
        slices: sizes.slices,
        codes: Packed::Rows { bits: 8, stride: sizes.cols },
        value: Value::Signed,
        group: scales.group,
        scale: Some(scales.grid),
        ..Form::default()
    };
    let wanted = format!("{layer}.weight_zero_point");
    let zero = stored.at(&wanted);
    if zero.is_none() && stored.config.has_zero_points(8) {
        return Err(QuantFault::Missing { part: PartRole::ZeroPoint, wanted });
    }
    if let Some(zero) = zero {
        let numbers = Numbers::Plain(stored.tensor(zero).dtype);
        let said = [scales.blocking];
        let asked = Asked::of(&said, (1, scales.group));
        let zeros = shared(stored, (parts.len(), zero), numbers, sizes, asked, codes)?;
        form.zero = Zero::Numbers(zeros.grid);
        parts.push((PartRole::ZeroPoint, zero));
    }
    Ok(Weight {
        name: codes.name.clone(),
        shape: codes.shape.clone(),
        kind: QuantType::new(super::float8::maker(stored), Code::Int8, scales.blocking),
        parts,
        form,
        assumed: scales.guessed.then_some(GUESSED),
    })
}
