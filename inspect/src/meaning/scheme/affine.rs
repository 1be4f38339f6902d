//! torchao's AffineQuantizedTensor, as its versions of 2024 and 2025 save it in pickles: whole numbers or 8-bit floats in
//! a plain layout, which is an instance of its own, inside of one that says the size of blocks; and that inside of one that
//! rounds activations (<https://github.com/pytorch/ao>, `dtypes/affine_quantized_tensor.py`).

use super::geometry::{Sizes, in_blocks};
use super::instance::{of_torchao, parent};
use super::{Found, Stored, Weight};
use crate::DType;
use crate::metadata::{as_u64, lookup};
use crate::quantized::form::{Form, Numbers, Packed, Value, Zero};
use crate::quantized::{Code, Maker, PartRole, QuantFault, QuantType};

/// Classes of layouts that hold one code in a number, in the order of elements.
const PLAIN: [&str; 3] = ["Float8AQTTensorImpl", "PlainAQTLayout", "PlainAQTTensorImpl"];
const WHOLE: &str = "AffineQuantizedTensor";
/// Classes that wrap one as their `original_weight_tensor`, whose other numbers are of activations.
const WRAPPERS: [&str; 2] =
    ["LinearActivationQuantizedTensor", "WeightTensorWithLinearActivationQuantizationMetadata"];
const WRAPPED: &str = "original_weight_tensor";
/// The number of `ZeroPointDomain.FLOAT`: zero points are of the values, not of the codes.
const FLOATS: u64 = 2;

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    let (layout, "int_data" | "float8_data") = parent(&codes.name)? else { return None };
    let (whole, _) = parent(layout)?;
    let ((class, _), (WHOLE, said)) = (of_torchao(stored, layout)?, of_torchao(stored, whole)?) else {
        return None;
    };
    // Those of other layouts, and transposed ones, are named where no instance is read.
    if !PLAIN.contains(&class) || stored.tensor(stored.at(whole)?).shape != codes.shape {
        return None;
    }
    let (code, value) = match (super::float8::code(codes.dtype), codes.dtype) {
        (Some(code), dtype) => (code, Value::Float(dtype)),
        (None, DType::I8) => (Code::Int8, Value::Signed),
        (None, DType::U8) => (Code::Bits(8), Value::Unsigned(0)),
        _ => return None,
    };
    let domain = lookup(said, "zero_point_domain.args.0").and_then(as_u64);
    if domain == Some(FLOATS) {
        return None;
    }
    let block = super::torchao::block_of(said, "block_size");
    Some(match block {
        Some(block) => weight(stored, at, (layout, whole), &block, (code, value)),
        None => Err(QuantFault::State { part: whole.to_string() }),
    })
}

/// The weight whose codes are at `at` in `layout`, which `whole` has.
fn weight(
    stored: &Stored<'_>,
    at: usize,
    (layout, whole): (&str, &str),
    block: &[usize],
    (code, value): (Code, Value),
) -> Found {
    let codes = stored.tensor(at);
    let own = |field: &str| super::torchao::below(layout, field);
    let sizes = Sizes::of(&codes.shape).ok_or_else(|| QuantFault::shape(codes, codes))?;
    let scale = stored.need(PartRole::Scale, own("scale"))?;
    let dtype = stored.tensor(scale).dtype;
    if !dtype.is_float() {
        return Err(QuantFault::Type { part: own("scale"), found: dtype.to_string() });
    }
    let scales = in_blocks(stored, (1, scale), Numbers::Plain(dtype), &codes.shape, block)?;
    let mut parts = vec![(PartRole::Codes, at), (PartRole::Scale, scale)];
    let mut zero = Zero::None;
    if let Some(zeros) = stored.at(&own("zero_point")) {
        let numbers = Numbers::Plain(stored.tensor(zeros).dtype);
        zero = Zero::Numbers(in_blocks(stored, (parts.len(), zeros), numbers, &codes.shape, block)?.grid);
        parts.push((PartRole::ZeroPoint, zeros));
    }
    let mut name = whole;
    while let Some((outer, WRAPPED)) = parent(name)
        && of_torchao(stored, outer).is_some_and(|(class, _)| WRAPPERS.contains(&class))
    {
        let of_activations = ["scale", "zero_point"].map(|field| super::torchao::below(outer, field));
        parts.extend(of_activations.iter().filter_map(|name| Some((PartRole::State, stored.at(name)?))));
        name = outer;
    }
    Ok(Weight {
        name: name.to_string(),
        shape: codes.shape.clone(),
        kind: QuantType::new(Maker::Torchao, code, scales.blocking),
        parts,
        form: Form {
            rows: sizes.rows,
            cols: sizes.cols,
            slices: sizes.slices,
            codes: Packed::Rows { bits: 8, stride: sizes.cols },
            value,
            group: scales.group,
            scale: Some(scales.grid),
            zero,
            ..Form::default()
        },
        assumed: None,
    })
}
