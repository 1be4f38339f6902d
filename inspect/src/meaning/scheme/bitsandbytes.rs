//! bitsandbytes: NF4 and FP4 with a scale for each block of elements, which may itself be quantized (`nested`), and int8
//! with a scale for each row. How a 4-bit weight was made is JSON in a tensor of bytes
//! (<https://github.com/bitsandbytes-foundation/bitsandbytes>, `QuantState`).

use std::ops::RangeInclusive;

use serde::Deserialize;

use super::{Found, Stored, Weight, is_sound};
use crate::metadata::Value as Plain;
use crate::quantized::form::{Form, Grid, Numbers, Packed, Value};
use crate::quantized::{Blocking, Code, Maker, PartRole, QuantFault, QuantType};
use crate::{DType, TensorInfo};

/// The names of the tensors that say how a weight was made.
const STATES: [(&str, Code); 2] =
    [("quant_state.bitsandbytes__nf4", Code::Nf4), ("quant_state.bitsandbytes__fp4", Code::Fp4)];
/// Layers of one input have fewer outputs.
const FEW: u64 = 1024;
/// Dimensions that a weight may have.
const MOST_DIMS: usize = 8;
/// Such JSON is short.
const MAX_STATE: u64 = 1 << 16;
/// Lengths of blocks, powers of two, that bitsandbytes has kernels for.
const BLOCKS: RangeInclusive<usize> = 32..=4096;
const IMPLIED: &str = "quant_state is not the JSON that bitsandbytes reads; the shape is the one that config.json asks for, the length of blocks follows from the number of scales";
/// q * SCB / 127, as bitsandbytes rounds it.
const INT8: f32 = 7.874_016e-3;

/// What codes stand for: kernels have these of their own, and read none of a file (`get_4bit_type`).
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];
const FP4: [f32; 16] = [
    0.0,
    0.005_208_333_5,
    0.666_666_7,
    1.0,
    0.333_333_34,
    0.5,
    0.166_666_67,
    0.25,
    0.0,
    -0.005_208_333_5,
    -0.666_666_7,
    -1.0,
    -0.333_333_34,
    -0.5,
    -0.166_666_67,
    -0.25,
];
/// By how much they differ at most where they are rounded to bf16.
const MARGIN: f32 = 0.004;

#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    let name = codes.name.as_str();
    if codes.dtype == DType::I8
        && let Some(layer) = name.strip_suffix(".weight")
    {
        let scale = stored.at(&format!("{layer}.SCB"));
        return match scale {
            Some(scale) => Some(int8(stored, at, scale, layer)),
            None if stored.config.is("bitsandbytes") && codes.shape.len() == 2 => {
                Some(Err(QuantFault::Missing { part: PartRole::Scale, wanted: format!("{layer}.SCB") }))
            }
            None => None,
        };
    }
    let states = STATES.map(|(field, code)| (format!("{name}.{field}"), code));
    let state = states.iter().find_map(|(state, code)| Some((stored.at(state)?, *code)));
    match (state, stored.at(&format!("{name}.absmax"))) {
        (Some((state, code)), _) => Some(four_bits(stored, at, state, code)),
        (None, Some(_)) => {
            let wanted = states[0].0.clone();
            Some(Err(QuantFault::Missing { part: PartRole::State, wanted }))
        }
        (None, None) if is_bare(stored, at) => {
            let wanted = format!("{name}.absmax");
            Some(Err(QuantFault::Missing { part: PartRole::Scale, wanted }))
        }
        (None, None) => None,
    }
}

/// Whether the tensor at `at` is a column of bytes with codes that lack whatever says what they are.
fn is_bare(stored: &Stored<'_>, at: usize) -> bool {
    let codes = stored.tensor(at);
    let in_four_bits = matches!(stored.config.get("load_in_4bit"), Some(Plain::Bool(true)));
    stored.config.is("bitsandbytes")
        && in_four_bits
        && codes.name.ends_with(".weight")
        && matches!(codes.shape[..], [n, 1] if n > 1)
        // Bytes may be kept as other types, so that layers of one input look like them.
        && (codes.dtype == DType::U8 || codes.numel() >= FEW && codes.dtype.is_float())
}

fn state(stored: &Stored<'_>, at: usize) -> Result<State, QuantFault> {
    let tensor = stored.tensor(at);
    let part = || tensor.name.clone();
    if tensor.dtype != DType::U8 || tensor.numel() > MAX_STATE || !is_sound(tensor) {
        return Err(QuantFault::State { part: part() });
    }
    let text = tensor.bytes().map_err(|_| QuantFault::Unreadable { part: part() })?;
    let is_json = text.trim_ascii_start().starts_with(b"{");
    if !is_json && text.iter().any(|&byte| byte != 0) {
        return Err(QuantFault::Foreign { part: part() });
    }
    serde_json::from_slice(&text).map_err(|_| QuantFault::State { part: part() })
}

/// What a state that is not JSON must have said of `codes`: their shape is that of config.json's model, and the number of
/// scales tells the length of blocks. `None` where either is not plain.
fn implied(stored: &Stored<'_>, codes: &TensorInfo, code: Code) -> Option<State> {
    let shape = stored.config.shape(&codes.name)?;
    let numel = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    let scale = stored.tensor(stored.at(&format!("{}.absmax", codes.name))?);
    let blocks = usize::try_from(scale.numel()).ok().filter(|&n| n > 0 && scale.dtype.is_float())?;
    let blocksize = numel / blocks;
    (BLOCKS.contains(&blocksize) && blocksize.is_power_of_two() && numel.is_multiple_of(blocks)).then(|| {
        State {
            quant_type: code.name().unwrap_or_default().to_string(),
            blocksize,
            shape,
            nested_blocksize: None,
            nested_offset: None,
        }
    })
}

/// Whether these are values for codes of 8 bits: from about -1 to 1, each more than the one before it
/// (`create_dynamic_map`).
fn is_dynamic(values: &[f32]) -> bool {
    let grow = values.windows(2).all(|pair| pair[0] < pair[1]);
    values.len() == 256 && grow && values[0] < -0.9 && (values[255] - 1.0).abs() < MARGIN && values[0] >= -1.0
}

/// That the codebook at `at` holds what it must hold, as `is_own` tells, if it can be read.
fn check_book(
    stored: &Stored<'_>,
    at: usize,
    is_own: impl Fn(&[f32]) -> bool,
    of: &str,
) -> Result<(), QuantFault> {
    let tensor = stored.tensor(at);
    if !is_sound(tensor) || !tensor.dtype.is_float() || tensor.numel() > 256 {
        return Ok(());
    }
    match stored.checkpoint.values(tensor) {
        Ok(values) if !is_own(&values) => {
            Err(QuantFault::Codebook { part: tensor.name.clone(), of: of.to_string() })
        }
        _ => Ok(()),
    }
}

/// That the codes of nested scales at `at` are not all the same. They are of what scales differ by from their mean, the largest
/// of which has the code at an end.
fn check_differ(stored: &Stored<'_>, at: usize) -> Result<(), QuantFault> {
    let tensor = stored.tensor(at);
    let Ok(codes) = tensor.bytes() else { return Ok(()) };
    match codes.as_ref() {
        [first, others @ ..] if !others.is_empty() && others.iter().all(|code| code == first) => {
            Err(QuantFault::Uniform { part: tensor.name.clone() })
        }
        _ => Ok(()),
    }
}

fn four_bits(stored: &Stored<'_>, at: usize, state_at: usize, code: Code) -> Found {
    let codes = stored.tensor(at);
    let own = |field: &str| format!("{}.{field}", codes.name);
    let unclear = || QuantFault::State { part: stored.tensor(state_at).name.clone() };
    let (state, assumed) = match state(stored, state_at) {
        Err(QuantFault::Foreign { part }) => {
            let implied = implied(stored, codes, code).ok_or(QuantFault::Foreign { part })?;
            (implied, Some(IMPLIED))
        }
        state => (state?, None),
    };
    let sound = state.blocksize > 0 && (1..=MOST_DIMS).contains(&state.shape.len());
    if Some(state.quant_type.as_str()) != code.name() || !sound {
        return Err(unclear());
    }
    let numel = state.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(unclear)?;
    if codes.byte_len() != Some(numel.div_ceil(2) as u64) {
        return Err(QuantFault::shape(codes, codes));
    }
    let scale = stored.need(PartRole::Scale, own("absmax"))?;
    let book = stored.need(PartRole::Codebook, own("quant_map"))?;
    let fill = |at: usize, blocks: usize, of: usize| match stored.tensor(at).numel() == blocks as u64 {
        true => Ok(()),
        false => Err(QuantFault::configured(stored.tensor(at), format!("{blocks} blocks of {of}"))),
    };
    let table: &[f32; 16] = if code == Code::Nf4 { &NF4 } else { &FP4 };
    let is_own = |values: &[f32]| {
        values.len() == 16 && values.iter().zip(table).all(|(value, own)| (value - own).abs() < MARGIN)
    };
    check_book(stored, book, is_own, code.name().unwrap_or_default())?;
    let blocks = numel.div_ceil(state.blocksize);
    fill(scale, blocks, state.blocksize)?;
    let mut parts = vec![
        (PartRole::Codes, at),
        (PartRole::Scale, scale),
        (PartRole::Codebook, book),
        (PartRole::State, state_at),
    ];
    let dtype = stored.tensor(scale).dtype;
    let numbers = match (dtype, stored.at(&own("nested_absmax"))) {
        (DType::U8, Some(nested)) => {
            let book = stored.need(PartRole::Codebook, own("nested_quant_map"))?;
            let block = state.nested_blocksize.filter(|&n| n > 0).ok_or_else(unclear)?;
            let offset = state.nested_offset.filter(|x| x.is_finite()).ok_or_else(unclear)?.to_bits();
            fill(nested, blocks.div_ceil(block), block)?;
            let factors = stored.tensor(nested);
            if !factors.dtype.is_float() {
                let (part, found) = (factors.name.clone(), factors.dtype.to_string());
                return Err(QuantFault::Type { part, found });
            }
            check_book(stored, book, is_dynamic, "nested scales")?;
            check_differ(stored, scale)?;
            parts.extend([(PartRole::Scale, nested), (PartRole::Codebook, book)]);
            Numbers::Nested { book: 5, scale: 4, block, offset }
        }
        (DType::U8, None) => {
            let wanted = own("nested_absmax");
            return Err(QuantFault::Missing { part: PartRole::Scale, wanted });
        }
        (dtype, _) if dtype.is_float() => Numbers::Plain(dtype),
        (dtype, _) => return Err(QuantFault::Type { part: own("absmax"), found: dtype.to_string() }),
    };
    for &(role, at) in &parts {
        let float = stored.tensor(at).dtype.is_float();
        if role == PartRole::Codebook && !float {
            let (part, found) = (stored.tensor(at).name.clone(), stored.tensor(at).dtype.to_string());
            return Err(QuantFault::Type { part, found });
        }
    }
    let group = u32::try_from(state.blocksize).map_err(|_| unclear())?;
    // Blocks go on from one row to the next.
    let grid = Grid { part: 1, numbers, row_block: 1, row_stride: 0, group_stride: 1, slice_stride: 0 };
    Ok(Weight {
        name: codes.name.clone(),
        shape: state.shape,
        kind: QuantType::new(Maker::BitsAndBytes, code, Blocking::Group(group)),
        parts,
        form: Form {
            rows: 1,
            cols: numel,
            codes: Packed::HighFirst { stride: numel.div_ceil(2) },
            value: Value::Book(2),
            group: state.blocksize,
            scale: Some(grid),
            ..Form::default()
        },
        assumed,
    })
}

fn int8(stored: &Stored<'_>, at: usize, scale: usize, layer: &str) -> Found {
    let (codes, scales) = (stored.tensor(at), stored.tensor(scale));
    let &[rows, cols] = codes.shape.as_slice() else { return Err(QuantFault::shape(scales, codes)) };
    if scales.numel() != rows as u64 {
        return Err(QuantFault::shape(scales, codes));
    }
    if !scales.dtype.is_float() {
        return Err(QuantFault::Type { part: scales.name.clone(), found: scales.dtype.to_string() });
    }
    let mut parts = vec![(PartRole::Codes, at), (PartRole::Scale, scale)];
    if let Some(format) = stored.at(&format!("{layer}.weight_format")) {
        // 0 is rows; the others are tiles of certain GPUs.
        if stored.integers(format).is_none_or(|format| format != [0]) {
            return Err(QuantFault::State { part: stored.tensor(format).name.clone() });
        }
        parts.push((PartRole::State, format));
    }
    let grid = Grid {
        part: 1,
        numbers: Numbers::Plain(scales.dtype),
        row_block: 1,
        row_stride: 1,
        group_stride: 0,
        slice_stride: 0,
    };
    Ok(Weight {
        name: codes.name.clone(),
        shape: codes.shape.clone(),
        kind: QuantType::new(Maker::BitsAndBytes, Code::Int8, Blocking::Channel),
        parts,
        form: Form {
            rows,
            cols,
            codes: Packed::Rows { bits: 8, stride: cols },
            value: Value::Signed,
            group: cols.max(1),
            scale: Some(grid),
            constant: INT8,
            ..Form::default()
        },
        assumed: None,
    })
}
