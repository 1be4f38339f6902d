//! torchao's tensor subclasses with plain layouts: their data beside each other in a pickle (`w.qdata`), or flattened
//! into SafeTensors (`_w_qdata`), where the header says which class each was
//! (<https://github.com/pytorch/ao>, `quantize_/workflows` and `prototype/safetensors`).

use super::geometry::{Sizes, shared};
use super::{Found, Stored, Weight};
use crate::DType;
use crate::metadata::{Value, lookup};
use crate::quantized::form::{Form, Numbers, Packed, Value as CodeValue, Zero};
use crate::quantized::{Code, Maker, PartRole, QuantFault, QuantType};

/// Classes whose data is a scale for each block of whole or floating-point numbers of eight bits.
const READ: [&str; 3] = ["Int8Tensor", "IntxUnpackedToInt8Tensor", "Float8Tensor"];

/// The name of the subclass instance whose codes `name` is, and that of another part of it.
fn parts_of(name: &str) -> Option<(String, impl Fn(&str) -> String)> {
    let (stem, whole) = match name.strip_suffix(".qdata") {
        Some(whole) => (format!("{whole}."), whole.to_string()),
        None => {
            let stem = name.strip_suffix("qdata")?;
            let (module, field) = stem.strip_suffix('_')?.rsplit_once("._")?;
            (stem.to_string(), format!("{module}.{field}"))
        }
    };
    Some((whole, move |part: &str| format!("{stem}{part}")))
}

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    let (name, own) = parts_of(&codes.name)?;
    if let Some(said) = stored.plain_value(&name) {
        let class = match lookup(said, "_type") {
            Some(Value::String(class)) => class.as_str(),
            _ => "",
        };
        if !READ.contains(&class) {
            return Some(Err(QuantFault::State { part: name }));
        }
    }
    Some(weight(stored, at, name, &own))
}

fn weight(stored: &Stored<'_>, at: usize, name: String, own: &dyn Fn(&str) -> String) -> Found {
    let codes = stored.tensor(at);
    let (code, value) = match (super::float8::code(codes.dtype), codes.dtype) {
        (Some(code), dtype) => (code, CodeValue::Float(dtype)),
        (None, DType::I8) => (Code::Int8, CodeValue::Signed),
        // Other layouts, such as two codes a byte.
        _ => return Err(QuantFault::State { part: codes.name.clone() }),
    };
    // The instance itself, in a pickle: its shape is that of its codes where these are not packed.
    if stored.at(&name).is_some_and(|whole| stored.tensor(whole).shape != codes.shape) {
        return Err(QuantFault::State { part: name });
    }
    let scale = stored.need(PartRole::Scale, own("scale"))?;
    let sizes = Sizes::of(&codes.shape).ok_or_else(|| QuantFault::shape(codes, codes))?;
    let dtype = stored.tensor(scale).dtype;
    if !dtype.is_float() {
        return Err(QuantFault::Type { part: own("scale"), found: dtype.to_string() });
    }
    let scales = shared(stored, (1, scale), Numbers::Plain(dtype), sizes, (128, 128), codes)?;
    let mut parts = vec![(PartRole::Codes, at), (PartRole::Scale, scale)];
    let mut zero = Zero::None;
    if let Some(zeros) = stored.at(&own("zero_point")) {
        let numbers = Numbers::Plain(stored.tensor(zeros).dtype);
        let preferred = (1, scales.group);
        zero = Zero::Numbers(shared(stored, (parts.len(), zeros), numbers, sizes, preferred, codes)?.grid);
        parts.push((PartRole::ZeroPoint, zeros));
    }
    // What activations are quantized with says nothing of the weight.
    for activations in ["act_quant_scale", "act_quant_zero_point"] {
        parts.extend(stored.at(&own(activations)).map(|at| (PartRole::State, at)));
    }
    if stored.at(&own("act_pre_scale")).is_some() {
        // The weight was divided by it.
        return Err(QuantFault::State { part: own("act_pre_scale") });
    }
    Ok(Weight {
        name,
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
