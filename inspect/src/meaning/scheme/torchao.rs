//! torchao's tensor subclasses with plain layouts: their data beside each other in a pickle (`w.qdata`), or flattened
//! into SafeTensors (`_w_qdata`), where the header says which class each was
//! (<https://github.com/pytorch/ao>, `quantize_/workflows`, `prototype/mx_formats` and `prototype/safetensors`).

use super::geometry::{Asked, Shared, Sizes, in_blocks, shared};
use super::instance::of_torchao;
use super::{Found, Stored, Weight};
use crate::DType;
use crate::metadata::{Value, as_u64, lookup};
use crate::quantized::form::{Form, Global, Grid, Numbers, Packed, Value as CodeValue, Zero};
use crate::quantized::{Blocking, Code, Maker, PartRole, QuantFault, QuantType};

/// Classes whose data is a scale for each block of whole or floating-point numbers of eight bits, and those of microscaling
/// floats.
const READ: [&str; 5] = ["Int8Tensor", "IntxUnpackedToInt8Tensor", "Float8Tensor", "MXTensor", "NVFP4Tensor"];

/// The name of the part `field` of what is called `name`.
pub(super) fn below(name: &str, field: &str) -> String {
    if name.is_empty() { field.to_string() } else { format!("{name}.{field}") }
}

/// The sizes of a block under `key` of what an instance says, along each dimension.
pub(super) fn block_of(said: &Value, key: &str) -> Option<Vec<usize>> {
    let (Value::List(sizes) | Value::Tuple(sizes)) = lookup(said, key)? else { return None };
    sizes.iter().map(|size| as_u64(size).and_then(|n| usize::try_from(n).ok())).collect()
}

/// What is known of an instance besides its tensors.
struct Said<'c> {
    /// Its class; empty if that is not said.
    class: &'c str,
    /// Its attributes.
    attributes: &'c Value,
}

impl<'c> Said<'c> {
    /// What the header of SafeTensors, or the pickle, says of the instance called `name`.
    fn of(stored: &Stored<'c>, name: &str) -> Option<Self> {
        if let Some((class, attributes)) = of_torchao(stored, name) {
            return Some(Said { class, attributes });
        }
        let said = stored.plain_value(name)?;
        let class = match lookup(said, "_type") {
            Some(Value::String(class)) => class.as_str(),
            _ => "",
        };
        Some(Said { class, attributes: lookup(said, "_data").unwrap_or(&Value::None) })
    }
}

/// The name of the subclass instance whose codes `name` is, and that of another part of it.
fn parts_of(name: &str) -> Option<(String, impl Fn(&str) -> String)> {
    let (stem, whole) = match name.strip_suffix(".qdata") {
        Some(whole) => (format!("{whole}."), whole.to_string()),
        // An instance that is all that a pickle holds.
        None if name == "qdata" => (String::new(), String::new()),
        None => {
            let stem = name.strip_suffix("qdata")?;
            let (module, field) = stem.strip_suffix('_')?.rsplit_once("._")?;
            (stem.to_string(), format!("{module}.{field}"))
        }
    };
    Some((whole, move |part: &str| format!("{stem}{part}")))
}

/// The names of the instance that a scale or zero points in SafeTensors belong to, and of its codes.
fn codes_of(name: &str) -> Option<(String, String)> {
    let stem = ["scale", "zero_point"].iter().find_map(|part| name.strip_suffix(part)?.strip_suffix('_'))?;
    let (module, field) = stem.rsplit_once("._")?;
    Some((format!("{module}.{field}"), format!("{stem}_qdata")))
}

/// Whether `name`, which is called as scales or zero points are, is none of the tensors that torchao's header of SafeTensors
/// lists.
fn is_stray(stored: &Stored<'_>, name: &str) -> bool {
    let is_own = |listed: &Value| matches!(listed, Value::String(listed) if listed == name);
    match stored.plain_value("tensor_names") {
        Some(Value::List(names)) => !names.iter().any(is_own),
        _ => false,
    }
}

/// The part of the instance `name` that is not there, although the header of SafeTensors says that it was written.
fn lost(stored: &Stored<'_>, name: &str, own: &dyn Fn(&str) -> String) -> Option<QuantFault> {
    let Some(Value::List(fields)) = lookup(stored.plain_value(name)?, "_tensor_data_names") else {
        return None;
    };
    let fields = fields.iter().filter_map(|field| match field {
        Value::String(field) => Some(field.as_str()),
        _ => None,
    });
    let mut lost = fields.map(|field| (field, own(field))).filter(|(_, name)| stored.at(name).is_none());
    let (field, wanted) = lost.next()?;
    let part = match field {
        "qdata" => PartRole::Codes,
        "scale" => PartRole::Scale,
        "zero_point" => PartRole::ZeroPoint,
        "per_tensor_scale" => PartRole::GlobalScale,
        _ => PartRole::State,
    };
    Some(QuantFault::Missing { part, wanted })
}

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    let Some((name, own)) = parts_of(&codes.name) else {
        let (name, wanted) = codes_of(&codes.name)?;
        if stored.at(&wanted).is_some() {
            return None;
        }
        return match Said::of(stored, &name) {
            Some(_) => Some(Err(QuantFault::Missing { part: PartRole::Codes, wanted })),
            None => is_stray(stored, &codes.name).then_some(Err(QuantFault::Orphaned)),
        };
    };
    let said = Said::of(stored, &name);
    if said.is_none() && super::instance::of(stored, &name).is_some() {
        // Of another library, which is named where no instance is read.
        return None;
    }
    if let Some(Said { class, .. }) = said
        && !READ.contains(&class)
    {
        return Some(Err(match class {
            "" => QuantFault::State { part: name },
            class => QuantFault::Class { class: class.to_string() },
        }));
    }
    if let Some(lost) = lost(stored, &name, &own) {
        return Some(Err(lost));
    }
    let attribute = |key: &str| said.as_ref().and_then(|said| lookup(said.attributes, key));
    if let Some(Value::String(kind)) = attribute("elem_dtype")
        && kind.starts_with("fp6")
    {
        return Some(Err(QuantFault::Unread { scheme: "MXFP6".into() }));
    }
    let size = attribute("block_size").and_then(as_u64).and_then(|n| usize::try_from(n).ok());
    let block = said.as_ref().and_then(|said| block_of(said.attributes, "block_size"));
    Some(match micro(stored, at, &own) {
        Some(found) => {
            let group = size.filter(|&size| size > 0).unwrap_or(found.group);
            microscaling(stored, at, name, &own, Micro { group, ..found })
        }
        None => weight(stored, at, name, &own, block.as_deref()),
    })
}

/// Microscaling floats, whose scale belongs to so many elements of a row.
struct Micro {
    code: Code,
    value: CodeValue,
    bits: u8,
    group: usize,
}

/// What microscaling floats the codes at `at` are, by their type and that of their scale.
fn micro(stored: &Stored<'_>, at: usize, own: &dyn Fn(&str) -> String) -> Option<Micro> {
    let codes = stored.tensor(at).dtype;
    let scale = stored.tensor(stored.at(&own("scale"))?).dtype;
    let four = |code, group| Micro { code, value: CodeValue::E2m1, bits: 4, group };
    match (codes, scale) {
        (DType::U8 | DType::F4E2M1X2, DType::F8E8M0FNU) => Some(four(Code::Mxfp4, 32)),
        (DType::U8 | DType::F4E2M1X2, DType::F8E4M3FN) => Some(four(Code::Nvfp4, 16)),
        (_, DType::F8E8M0FNU) => {
            let code = super::float8::code(codes)?;
            let code = if code == Code::E4m3 { Code::Mxfp8 } else { code };
            Some(Micro { code, value: CodeValue::Float(codes), bits: 8, group: 32 })
        }
        _ => None,
    }
}

fn microscaling(
    stored: &Stored<'_>,
    at: usize,
    name: String,
    own: &dyn Fn(&str) -> String,
    Micro { code, value, bits, group }: Micro,
) -> Found {
    let codes = stored.tensor(at);
    let scale = stored.need(PartRole::Scale, own("scale"))?;
    let scales = stored.tensor(scale);
    let misfit = || QuantFault::shape(scales, codes);
    let stack = Sizes::of(&codes.shape).ok_or_else(misfit)?;
    let cols = stack.cols.checked_mul(8 / usize::from(bits)).ok_or_else(misfit)?;
    let sizes = Sizes { cols, ..stack };
    let shape = sizes.shape(&codes.shape);
    if let Some(whole) = stored.at(&name).map(|whole| &stored.tensor(whole).shape)
        && *whole != shape
    {
        // Of numbers of six bits a byte holds one, or three hold four.
        let held = whole.last().zip(codes.shape.last());
        let of_six =
            held.is_some_and(|(cols, bytes)| cols == bytes || cols.checked_mul(3) == bytes.checked_mul(4));
        return Err(match code == Code::Mxfp4 && of_six {
            true => QuantFault::Unread { scheme: "MXFP6".into() },
            false => QuantFault::State { part: name },
        });
    }
    let groups = cols.div_ceil(group);
    let (tile_rows, tile_cols) = Numbers::TILE;
    let (down, across) = (sizes.rows.div_ceil(tile_rows), groups.div_ceil(tile_cols));
    let outer = &codes.shape[..codes.shape.len() - 2];
    let of =
        |rows: usize, cols: usize| scales.shape.split_at_checked(outer.len()) == Some((outer, &[rows, cols]));
    let grid = if of(sizes.rows, groups) {
        let numbers = Numbers::Plain(scales.dtype);
        let slice_stride = sizes.rows.checked_mul(groups).ok_or_else(misfit)?;
        Grid { part: 1, numbers, row_block: 1, row_stride: groups, group_stride: 1, slice_stride }
    } else if of(down.saturating_mul(32), across.saturating_mul(16))
        && (sizes.slices == 1 || sizes.rows.is_multiple_of(tile_rows))
    {
        let numbers = Numbers::Tiled { dtype: scales.dtype, across };
        let row_stride = across * tile_cols;
        let slice_stride = sizes.rows.checked_mul(row_stride).ok_or_else(misfit)?;
        Grid { part: 1, numbers, row_block: 1, row_stride, group_stride: 1, slice_stride }
    } else {
        return Err(misfit());
    };
    let mut parts = vec![(PartRole::Codes, at), (PartRole::Scale, scale)];
    let mut global = None;
    if let Some(factor) = stored.at(&own("per_tensor_scale")) {
        let tensor = stored.tensor(factor);
        if tensor.dtype != DType::F32 {
            return Err(QuantFault::Type { part: tensor.name.clone(), found: tensor.dtype.to_string() });
        }
        if tensor.numel() != 1 && tensor.numel() != sizes.slices as u64 {
            return Err(QuantFault::shape(tensor, codes));
        }
        global = Some(Global { part: parts.len(), divides: false });
        parts.push((PartRole::GlobalScale, factor));
    }
    parts.extend(stored.at(&own("act_per_tensor_scale")).map(|at| (PartRole::State, at)));
    let narrow = u32::try_from(group).map_err(|_| misfit())?;
    Ok(Weight {
        name,
        shape,
        kind: QuantType::new(Maker::Torchao, code, Blocking::Group(narrow)),
        parts,
        form: Form {
            rows: sizes.rows,
            cols,
            slices: sizes.slices,
            codes: Packed::Rows { bits, stride: stack.cols },
            value,
            group,
            scale: Some(grid),
            global,
            ..Form::default()
        },
        assumed: None,
    })
}

fn weight(
    stored: &Stored<'_>,
    at: usize,
    name: String,
    own: &dyn Fn(&str) -> String,
    block: Option<&[usize]>,
) -> Found {
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
    let numbers_of = |part: usize, at: usize, usual: (usize, usize)| -> Result<Shared, QuantFault> {
        let numbers = Numbers::Plain(stored.tensor(at).dtype);
        match block {
            Some(block) => in_blocks(stored, (part, at), numbers, &codes.shape, block),
            None => shared(stored, (part, at), numbers, sizes, Asked::usual(usual.0, usual.1), codes),
        }
    };
    let scales = numbers_of(1, scale, (128, 128))?;
    let mut parts = vec![(PartRole::Codes, at), (PartRole::Scale, scale)];
    let mut zero = Zero::None;
    if let Some(zeros) = stored.at(&own("zero_point")) {
        zero = Zero::Numbers(numbers_of(parts.len(), zeros, (1, scales.group))?.grid);
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
