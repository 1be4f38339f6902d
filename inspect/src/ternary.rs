//! The 2-bit ternary packings outside GGUF: recognised by the tensors that stand beside them, and decoded.
//! In all of them a code is value + 1, so a zero byte is four times -1.

use std::collections::HashMap;

use serde_pickle::Value;

use crate::checkpoint::{Checkpoint, lookup};
use crate::metadata::as_u64;
use crate::tensor::{TensorInfo, contiguous_strides, numel};
use crate::{DType, Group, TernaryPacking};

/// Finds packed matrices among the tensors of `checkpoint` and gives them their logical dtype, shape and scale.
/// `quantization` is `quantization_config` of a Hugging Face config.json, if there is one.
pub(crate) fn recognise(checkpoint: &mut Checkpoint, quantization: Option<&Value>) {
    let index: HashMap<String, usize> =
        checkpoint.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
    let shapes = packer_shapes(checkpoint, &index);
    let mut hf_scales_guessed = false;
    let method = quantization.and_then(|q| lookup(q, "quant_method"));
    let may_be_bitnet = method.is_none_or(|m| matches!(m, Value::String(m) if m == "bitnet"));
    for i in 0..checkpoint.tensors.len() {
        let tensor = &checkpoint.tensors[i];
        let Some(layer) = tensor.name.strip_suffix(".weight") else { continue };
        if tensor.dtype != DType::U8 || tensor.damage.is_some() {
            continue;
        }
        let at = |suffix: &str| index.get(&format!("{layer}{suffix}")).copied();
        if let (1, Some(shape_at)) = (tensor.shape.len(), at("_shape")) {
            let Some(shape) = small_integers(checkpoint, shape_at) else { continue };
            let scales = at("_scale").and_then(|s| small_floats(checkpoint, s));
            let lost = scales.is_none();
            let packing = if lost { TernaryPacking::I2sUnscaled } else { TernaryPacking::I2s };
            for helper in [Some(shape_at), at("_scale")].into_iter().flatten() {
                checkpoint.tensors[helper].group = Group::Other;
            }
            become_packed(
                &mut checkpoint.tensors[i],
                packing,
                shape,
                scales.and_then(|s| s.first().copied()),
            );
        } else if let Some(shape) = shapes.get(&format!("{layer}.weight_shape")) {
            let shape = shape.clone();
            become_packed(&mut checkpoint.tensors[i], TernaryPacking::I2sUnscaled, shape, None);
        } else if let (&[packed_rows, cols], Some(scale_at), true) =
            (tensor.shape.as_slice(), at(".weight_scale"), may_be_bitnet)
        {
            let Some(rows) = packed_rows.checked_mul(4) else { continue };
            // Other schemes pack into bytes too; only this one has a single scale a matrix.
            let Some(scale) = small_floats(checkpoint, scale_at).and_then(|s| s.first().copied()) else {
                continue;
            };
            let class = quantization.and_then(|q| lookup(q, "linear_class"));
            let multiplies = matches!(class, Some(Value::String(class)) if class == "autobitlinear");
            hf_scales_guessed |= quantization.is_none();
            let factor = if multiplies { scale } else { 1.0 / scale };
            checkpoint.tensors[scale_at].group = Group::Other;
            become_packed(
                &mut checkpoint.tensors[i],
                TernaryPacking::HfBitnet,
                vec![rows, cols],
                Some(factor),
            );
        }
    }
    let unscaled =
        checkpoint.tensors.iter().filter(|t| t.dtype == DType::Ternary(TernaryPacking::I2sUnscaled)).count();
    if unscaled > 0 {
        checkpoint.warnings.push(format!(
            "{unscaled} packed matrices keep only signs: their scales are lost, so std and levels say nothing about collapse"
        ));
    }
    if hf_scales_guessed {
        checkpoint.warnings.push(
            "no quantization_config says how weight_scale is applied; assumed `bitlinear` (output divided by it)".into(),
        );
    }
}

fn become_packed(tensor: &mut TensorInfo, packing: TernaryPacking, shape: Vec<usize>, scale: Option<f32>) {
    let packed = tensor.numel();
    let dtype = DType::Ternary(packing);
    if numel(&shape).is_none() || dtype.bytes_for(&shape) != Some(packed) {
        tensor.damage = Some(format!("{packed} packed bytes do not hold its recorded shape {shape:?}"));
        return;
    }
    tensor.strides = contiguous_strides(&shape);
    tensor.dtype = dtype;
    tensor.shape = shape;
    tensor.scale = scale;
    tensor.group = Group::Weights;
}

/// `{"L.weight_shape": [rows, cols]}` from the u8 tensor that the packer calls `__metadata__`.
fn packer_shapes(checkpoint: &Checkpoint, index: &HashMap<String, usize>) -> HashMap<String, Vec<usize>> {
    let Some(&at) = index.get("__metadata__") else { return HashMap::new() };
    let tensor = &checkpoint.tensors[at];
    let bytes = match checkpoint.tensor_bytes(tensor) {
        Ok(bytes) if tensor.dtype == DType::U8 => bytes,
        _ => return HashMap::new(),
    };
    let Some(Value::Dict(entries)) = crate::safetensors::json_of(&bytes) else { return HashMap::new() };
    entries
        .into_iter()
        .filter_map(|(key, value)| {
            let serde_pickle::HashableValue::String(key) = key else { return None };
            let Value::List(sizes) = value else { return None };
            let sizes = sizes.iter().map(|s| usize::try_from(as_u64(s)?).ok()).collect::<Option<_>>()?;
            Some((key, sizes))
        })
        .collect()
}

fn small_integers(checkpoint: &Checkpoint, at: usize) -> Option<Vec<usize>> {
    let tensor = &checkpoint.tensors[at];
    let view = (tensor.numel() <= 8).then(|| checkpoint.view::<i64>(tensor).ok())??;
    view.iter().map(|&n| usize::try_from(n).ok()).collect()
}

fn small_floats(checkpoint: &Checkpoint, at: usize) -> Option<Vec<f32>> {
    let tensor = &checkpoint.tensors[at];
    if tensor.numel() != 1 {
        return None;
    }
    match tensor.dtype {
        DType::F32 => checkpoint.view::<f32>(tensor).ok().map(|v| v.iter().copied().collect()),
        DType::F16 => {
            checkpoint.view::<half::f16>(tensor).ok().map(|v| v.iter().map(|x| x.to_f32()).collect())
        }
        DType::BF16 => {
            checkpoint.view::<half::bf16>(tensor).ok().map(|v| v.iter().map(|x| x.to_f32()).collect())
        }
        _ => None,
    }
}

/// How many of the 2-bit codes are 3, which no packer writes.
pub(crate) fn invalid_codes(packed: &[u8]) -> u64 {
    packed.iter().map(|&byte| u64::from((byte & byte >> 1 & 0x55).count_ones())).sum()
}

/// Decodes values `start..start + out.len()` (row-major over `shape`) of a packed matrix to -1, 0, +1. The fourth
/// code, which no packer writes, decodes to 2.
pub(crate) fn decode(packing: TernaryPacking, packed: &[u8], shape: &[usize], start: usize, out: &mut [i8]) {
    let value = |byte: u8, shift: usize| ((byte >> shift) & 3) as i8 - 1;
    match packing {
        TernaryPacking::I2s | TernaryPacking::I2sUnscaled => {
            for (i, slot) in (start..).zip(out) {
                *slot = value(packed[i / 4], 6 - 2 * (i % 4));
            }
        }
        TernaryPacking::HfBitnet => {
            let (rows, cols) = (shape[0], shape[1]);
            let packed_rows = rows.div_ceil(4);
            let mut done = 0;
            while done < out.len() {
                let (row, col) = ((start + done) / cols, (start + done) % cols);
                let n = (cols - col).min(out.len() - done);
                let line = (row % packed_rows) * cols + col;
                let shift = 2 * (row / packed_rows);
                for (slot, &byte) in out[done..done + n].iter_mut().zip(&packed[line..line + n]) {
                    *slot = value(byte, shift);
                }
                done += n;
            }
        }
    }
}
