//! MXFP4: 4-bit floats with a power of two for each 32 (OCP Microscaling Formats 1.0). gpt-oss calls them `_blocks` and
//! `_scales`, compressed-tensors `weight_packed`; the experts of DeepSeek-V4 are bytes that hold two each, which the
//! number of scales tells from int8.

use super::geometry::{Asked, Sizes, shared};
use super::{Found, Stored, Weight};
use crate::DType;
use crate::quantized::form::{Form, Grid, Numbers, Packed, Value};
use crate::quantized::{Blocking, Code, Maker, PartRole, QuantFault, QuantType};
use crate::tensor::TensorInfo;

/// Elements that share a scale.
const GROUP: usize = 32;

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    if let (Some(name), DType::U8) = (codes.name.strip_suffix("_blocks"), codes.dtype) {
        let is_of_blocks = codes.shape.len() >= 3 && codes.shape.last() == Some(&(GROUP / 2));
        return is_of_blocks.then(|| {
            let scale = stored.need(PartRole::Scale, format!("{name}_scales"))?;
            blocks(stored, at, scale, name)
        });
    }
    let packed = codes.name.strip_suffix("_packed").filter(|_| codes.dtype == DType::U8);
    let name = packed.unwrap_or(&codes.name);
    let scale = match (packed, codes.dtype) {
        (Some(_), _) => match stored.need(PartRole::Scale, format!("{name}_scale")) {
            Ok(scale) => Some(scale),
            Err(fault) => return name.ends_with(".weight").then_some(Err(fault)),
        },
        (None, DType::I8 | DType::F4E2M1X2) => super::float8::scale(stored, name),
        _ => None,
    }?;
    let scales = stored.tensor(scale);
    if !(is_exponent(scales) || (scales.dtype == DType::F32 && stored.config.is("fp8"))) {
        return None;
    }
    // Sixteen bytes for a scale; int8 has none for so few.
    let bytes = codes.shape.last().copied().unwrap_or(0);
    let few = scales.shape.last().is_some_and(|&n| n.checked_mul(GROUP / 2) == Some(bytes));
    if packed.is_none() && !few {
        return None;
    }
    // Four numbers of six bits in three bytes.
    let of_six_bits = scales.shape.last().is_some_and(|&n| n.checked_mul(GROUP / 4 * 3) == Some(bytes));
    if packed.is_some() && of_six_bits {
        return Some(Err(QuantFault::Unread { scheme: "MXFP6".into() }));
    }
    Some(rows(stored, at, scale, name))
}

fn is_exponent(scales: &TensorInfo) -> bool {
    matches!(scales.dtype, DType::U8 | DType::F8E8M0FNU)
}

/// Codes of gpt-oss: groups have a dimension of their own.
fn blocks(stored: &Stored<'_>, at: usize, scale: usize, name: &str) -> Found {
    let (codes, scales) = (stored.tensor(at), stored.tensor(scale));
    let misfit = || QuantFault::shape(scales, codes);
    let [outer @ .., groups, _] = codes.shape.as_slice() else { return Err(misfit()) };
    if scales.shape.split_last() != Some((groups, outer)) {
        return Err(misfit());
    }
    if !is_exponent(scales) {
        return Err(QuantFault::Type { part: scales.name.clone(), found: scales.dtype.to_string() });
    }
    let rows = outer.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(misfit)?;
    let cols = groups.checked_mul(GROUP).ok_or_else(misfit)?;
    let grid = Grid {
        part: 1,
        numbers: Numbers::Plain(DType::F8E8M0FNU),
        row_block: 1,
        row_stride: *groups,
        group_stride: 1,
        slice_stride: 0,
    };
    Ok(Weight {
        name: name.to_string(),
        shape: outer.iter().copied().chain([cols]).collect(),
        kind: QuantType::new(Maker::None, Code::Mxfp4, Blocking::Group(GROUP as u32)),
        parts: vec![(PartRole::Codes, at), (PartRole::Scale, scale)],
        form: Form {
            rows,
            cols,
            codes: Packed::Rows { bits: 4, stride: cols / 2 },
            value: Value::E2m1,
            group: GROUP,
            scale: Some(grid),
            ..Form::default()
        },
        assumed: None,
    })
}

/// Codes in rows.
fn rows(stored: &Stored<'_>, at: usize, scale: usize, name: &str) -> Found {
    let (codes, dtype) = (stored.tensor(at), stored.tensor(scale).dtype);
    let misfit = || QuantFault::shape(stored.tensor(scale), codes);
    let stack = Sizes::of(&codes.shape).ok_or_else(misfit)?;
    let cols = stack.cols.checked_mul(2).ok_or_else(misfit)?;
    let sizes = Sizes { cols, ..stack };
    let asked = Asked::of(&[Blocking::Group(GROUP as u32)], (1, GROUP));
    let scales = shared(stored, (1, scale), Numbers::Plain(dtype), sizes, asked, codes)?;
    if scales.blocking != Blocking::Group(GROUP as u32) {
        return Err(misfit());
    }
    Ok(Weight {
        name: name.to_string(),
        shape: sizes.shape(&codes.shape),
        kind: QuantType::new(super::float8::maker(stored), Code::Mxfp4, scales.blocking),
        parts: vec![(PartRole::Codes, at), (PartRole::Scale, scale)],
        form: Form {
            rows: sizes.rows,
            cols,
            slices: sizes.slices,
            codes: Packed::Rows { bits: 4, stride: stack.cols },
            value: Value::E2m1,
            group: GROUP,
            scale: Some(scales.grid),
            ..Form::default()
        },
        assumed: None,
    })
}
