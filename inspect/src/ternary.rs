//! The 2-bit ternary packings: those outside GGUF recognised by the tensors that stand beside them, I2_S told apart by
//! its rows, all decoded. In all of them a code is value + 1, so a zero byte is four times -1.

use std::collections::HashMap;

use serde_pickle::Value;

use crate::checkpoint::{Checkpoint, lookup};
use crate::metadata::as_u64;
use crate::tensor::{TensorInfo, contiguous_strides, numel};
use crate::{
    DType, Damage, DamageKind, Error, Format, Group, I2sLayout, Notice, NoticeKind, Result, TernaryPacking,
};

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
        let text = format!(
            "{unscaled} packed matrices keep only signs: their scales are lost, so std and levels say nothing about collapse"
        );
        checkpoint.warnings.push(Notice::new(NoticeKind::LostScale, text));
    }
    if hf_scales_guessed {
        checkpoint.warnings.push(Notice::new(
            NoticeKind::AssumedLayout,
            "no quantization_config says how weight_scale is applied; assumed `bitlinear` (output divided by it)",
        ));
    }
}

fn become_packed(tensor: &mut TensorInfo, packing: TernaryPacking, shape: Vec<usize>, scale: Option<f32>) {
    let packed = tensor.numel();
    let dtype = DType::Ternary(packing);
    if numel(&shape).is_none() || dtype.bytes_for(&shape) != Some(packed) {
        let what = format!("{packed} packed bytes do not hold its recorded shape {shape:?}");
        tensor.damage = Some(Damage::new(DamageKind::Shape, what));
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

/// Decodes values `start..start + out.len()` (row-major over `shape`) of a packed matrix to -1, 0, +1. Code 3,
/// which [`check_codes`] refuses, decodes to 2.
pub(crate) fn decode(packing: TernaryPacking, packed: &[u8], shape: &[usize], start: usize, out: &mut [i8]) {
    let value = |byte: u8, shift: usize| ((byte >> shift) & 3) as i8 - 1;
    match packing {
        TernaryPacking::I2s | TernaryPacking::I2sUnscaled => {
            for (i, slot) in (start..).zip(out) {
                *slot = value(packed[i / 4], 6 - 2 * (i % 4));
            }
        }
        TernaryPacking::BitnetX86 => decode_lanes::<32>(packed, start, out),
        TernaryPacking::BitnetArm => decode_lanes::<16>(packed, start, out),
        TernaryPacking::BitnetRows => {
            let cols = *shape.last().unwrap_or(&1);
            let mut done = 0;
            while done < out.len() {
                let (row, col) = ((start + done) / cols, (start + done) % cols);
                let n = (cols - col).min(out.len() - done);
                let line = (row / 4) * cols + col;
                let shift = 6 - 2 * (row % 4);
                for (slot, &byte) in out[done..done + n].iter_mut().zip(&packed[line..line + n]) {
                    *slot = value(byte, shift);
                }
                done += n;
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

/// Decodes blocks of `LANES` bytes, byte i of which holds values i, LANES + i, 2 * LANES + i and 3 * LANES + i from its
/// high bits to its low ones.
fn decode_lanes<const LANES: usize>(packed: &[u8], start: usize, out: &mut [i8]) {
    let mut done = 0;
    while done < out.len() {
        let at = start + done;
        let (block, lane, byte) = (at / (4 * LANES), at / LANES % 4, at % LANES);
        let n = (LANES - byte).min(out.len() - done);
        let bytes = &packed[block * LANES + byte..][..n];
        let shift = 6 - 2 * lane;
        out[done..done + n].iter_mut().zip(bytes).for_each(|(out, b)| *out = ((b >> shift) & 3) as i8 - 1);
        done += n;
    }
}

/// Refuses packed bytes with the code 3, which no packer writes.
pub(crate) fn check_codes(packed: &[u8]) -> Result<()> {
    let code_3_bits = |byte: u8| byte & (byte >> 1) & 0x55;
    if packed.iter().fold(0, |found, &byte| found | code_3_bits(byte)) == 0 {
        return Ok(());
    }
    let at = packed.iter().position(|&byte| code_3_bits(byte) != 0).unwrap_or(0);
    Err(Error::damaged(format!("byte {at} of its packed values has the code 3, which stands for nothing"))
        .because(DamageKind::UnknownCode))
}

/// Decides which layout the I2_S tensors of a GGUF checkpoint have: the one given, else ARM's where rows do not fill
/// x86 blocks, else x86's, which is an assumption and said.
pub(crate) fn settle_i2s(checkpoint: &mut Checkpoint, given: Option<I2sLayout>) {
    let is_i2s = |t: &&mut TensorInfo| t.dtype == DType::Ternary(TernaryPacking::BitnetX86);
    let mut tensors: Vec<&mut TensorInfo> = checkpoint.tensors.iter_mut().filter(is_i2s).collect();
    if tensors.is_empty() {
        return;
    }
    let only_arm = |t: &&mut TensorInfo| {
        t.shape.last().is_some_and(|row| row.is_multiple_of(64) && !row.is_multiple_of(128))
    };
    let layout = match given {
        Some(layout) => layout,
        None if tensors.iter().any(only_arm) => {
            checkpoint.warnings.push(Notice::new(
                NoticeKind::AssumedLayout,
                "its I2_S rows do not fill blocks of 128, so they are read in the layout of ARM builds (`--i2s-layout` says otherwise)",
            ));
            I2sLayout::Arm
        }
        None => {
            checkpoint.warnings.push(Notice::new(
                NoticeKind::AssumedLayout,
                "I2_S does not say which build of bitnet.cpp wrote it; assumed the x86 layout (`--i2s-layout x86`), others are `arm` and `rows`",
            ));
            I2sLayout::X86
        }
    };
    tensors.iter_mut().for_each(|t| t.dtype = DType::Ternary(layout.packing()));
}

/// Gives the block-quantized matrices of a GGUF checkpoint the scale that stands beside them: llama.cpp multiplies what
/// comes out of `L.weight` by the one number in `L.scale`.
pub(crate) fn apply_scales(checkpoint: &mut Checkpoint) {
    if !matches!(checkpoint.format, Format::Gguf { .. }) {
        return;
    }
    let index: HashMap<String, usize> = checkpoint
        .tensors
        .iter()
        .enumerate()
        .filter_map(|(i, t)| Some((t.name.strip_suffix(".scale")?.to_string(), i)))
        .collect();
    for i in 0..checkpoint.tensors.len() {
        let tensor = &checkpoint.tensors[i];
        let blocks = matches!(tensor.dtype, DType::Ggml(_));
        let at = tensor.name.strip_suffix(".weight").and_then(|layer| index.get(layer)).copied();
        let Some(at) = at.filter(|_| blocks) else { continue };
        if let Some(&[scale]) = small_floats(checkpoint, at).as_deref() {
            checkpoint.tensors[i].scale = Some(scale);
            checkpoint.tensors[at].group = Group::Other;
        }
    }
}
