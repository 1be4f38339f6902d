//! NVFP4: 4-bit floats with an 8-bit float for each 16, and one f32 for all: ModelOpt multiplies by it,
//! compressed-tensors divides by it (<https://github.com/NVIDIA/Model-Optimizer>, `NVFP4QTensor`).

use super::geometry::{Asked, Sizes, shared};
use super::{Found, Stored, Weight};
use crate::DType;
use crate::quantized::form::{Form, Global, Numbers, Packed, Value};
use crate::quantized::{Blocking, Code, Maker, PartRole, QuantFault, QuantType};

/// Elements that share a scale.
const GROUP: u32 = 16;

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    if !matches!(codes.dtype, DType::U8 | DType::F4E2M1X2) {
        return None;
    }
    let packed = codes.name.strip_suffix("_packed");
    let name = packed.unwrap_or(&codes.name);
    let wanted = format!("{name}_scale");
    let Some(scale) = stored.at(&wanted) else {
        // The other factor is of nothing else.
        let has_factor =
            ["_scale_2", "_global_scale"].iter().any(|f| stored.at(&format!("{name}{f}")).is_some());
        return has_factor.then_some(Err(QuantFault::Missing { part: PartRole::Scale, wanted }));
    };
    let (maker, global) = match packed {
        Some(_) => (Maker::CompressedTensors, format!("{name}_global_scale")),
        None => (Maker::ModelOpt, format!("{name}_scale_2")),
    };
    let dtype = stored.tensor(scale).dtype;
    if dtype != DType::F8E4M3FN {
        // Bytes may be the same by another name.
        let is_other = dtype.is_integer() && dtype != DType::U8 && stored.at(&global).is_some();
        return is_other.then(|| Err(QuantFault::Type { part: wanted, found: dtype.to_string() }));
    }
    let global = stored.need(PartRole::GlobalScale, global);
    Some(global.and_then(|global| weight(stored, at, scale, global, (maker, name))))
}

fn weight(
    stored: &Stored<'_>,
    at: usize,
    scale: usize,
    global: usize,
    (maker, name): (Maker, &str),
) -> Found {
    let codes = stored.tensor(at);
    let misfit = || QuantFault::shape(stored.tensor(scale), codes);
    let stack = Sizes::of(&codes.shape).ok_or_else(misfit)?;
    let cols = stack.cols.checked_mul(2).ok_or_else(misfit)?;
    let sizes = Sizes { cols, ..stack };
    let asked = Asked::of(&[Blocking::Group(GROUP)], (1, GROUP as usize));
    let scales = shared(stored, (1, scale), Numbers::Plain(DType::F8E4M3FN), sizes, asked, codes)?;
    let Blocking::Group(_) = scales.blocking else { return Err(misfit()) };
    let factor = stored.tensor(global);
    if factor.dtype != DType::F32 {
        return Err(QuantFault::Type { part: factor.name.clone(), found: factor.dtype.to_string() });
    }
    if factor.numel() != 1 && factor.numel() != sizes.slices as u64 {
        return Err(QuantFault::shape(factor, codes));
    }
    Ok(Weight {
        name: name.to_string(),
        shape: sizes.shape(&codes.shape),
        kind: QuantType::new(maker, Code::Nvfp4, scales.blocking),
        parts: vec![(PartRole::Codes, at), (PartRole::Scale, scale), (PartRole::GlobalScale, global)],
        form: Form {
            rows: sizes.rows,
            cols,
            slices: sizes.slices,
            codes: Packed::Rows { bits: 4, stride: stack.cols },
            value: Value::E2m1,
            group: scales.group,
            scale: Some(scales.grid),
            global: Some(Global { part: 2, divides: maker == Maker::CompressedTensors }),
            ..Form::default()
        },
        assumed: None,
    })
}
