//! Which tensors are 2-bit ternary matrices: outside GGUF they are recognised by the tensors next to them; the layout
//! of I2_S is derived from its rows. The packings themselves are in [`crate::packing`].

use std::collections::HashMap;

use crate::checkpoint::Checkpoint;
use crate::meaning::Quantization;
use crate::metadata::{Value, as_u64};
use crate::quantized::QuantFault;
use crate::tensor::{TensorInfo, contiguous_strides, numel};
use crate::{DType, Damage, DamageKind, Format, Group, I2sLayout, Notice, NoticeKind, TernaryPacking};

/// Finds packed matrices among the tensors of `checkpoint` and gives them their logical dtype, shape and scale.
/// `quantization` is what a Hugging Face config.json says of it, if there is one.
pub(crate) fn recognise(checkpoint: &mut Checkpoint, quantization: Option<&Quantization>) {
    let index: HashMap<String, usize> =
        checkpoint.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
    let shapes = packer_shapes(checkpoint, &index);
    let (mut hf_scales_guessed, mut strided) = (false, 0);
    let may_be_bitnet = quantization.is_none_or(|q| q.method.is_none() || q.is_bitnet());
    for i in 0..checkpoint.tensors.len() {
        let tensor = &checkpoint.tensors[i];
        let Some(layer) = tensor.name.strip_suffix(".weight") else { continue };
        if tensor.dtype != DType::U8 || tensor.damage.is_some() {
            continue;
        }
        let at = |suffix: &str| index.get(&format!("{layer}{suffix}")).copied();
        let (packing, shape, scale, helpers) = if let (1, Some(shape_at)) = (tensor.shape.len(), at("_shape"))
        {
            let Some(shape) = small_integers(checkpoint, shape_at) else { continue };
            let scale = at("_scale").and_then(|s| one_number(checkpoint, s));
            let packing = if scale.is_none() { TernaryPacking::I2sUnscaled } else { TernaryPacking::I2s };
            (packing, shape, scale, [Some(shape_at), at("_scale")])
        } else if let Some(shape) = shapes.get(&format!("{layer}.weight_shape")) {
            (TernaryPacking::I2sUnscaled, shape.clone(), None, [None; 2])
        } else if let (&[packed_rows, cols], Some(scale_at), true) =
            (tensor.shape.as_slice(), at(".weight_scale"), may_be_bitnet)
        {
            let Some(rows) = packed_rows.checked_mul(4) else { continue };
            // Other schemes pack into bytes too; only this one has a single scale per matrix.
            let Some(scale) = one_number(checkpoint, scale_at) else { continue };
            hf_scales_guessed |= quantization.is_none();
            let factor = if quantization.is_some_and(|q| q.multiplies) { scale } else { 1.0 / scale };
            (TernaryPacking::HfBitnet, vec![rows, cols], Some(factor), [Some(scale_at), None])
        } else {
            continue;
        };
        // Packed bytes are contiguous; views of them in another order are left as bytes.
        if !tensor.is_contiguous() || tensor.sparse.is_some() || tensor.quantizer.is_some() {
            strided += 1;
            continue;
        }
        for helper in helpers.into_iter().flatten() {
            checkpoint.tensors[helper].group = Group::Other;
        }
        become_packed(&mut checkpoint.tensors[i], packing, shape, scale);
    }
    if strided > 0 {
        let are = if strided == 1 { "matrix is a strided view" } else { "matrices are strided views" };
        let text = format!("{strided} packed {are}, which cannot be unpacked; raw bytes are shown");
        checkpoint.warnings.push(Notice::new(NoticeKind::NotShown, text));
    }
    let unscaled =
        checkpoint.tensors.iter().filter(|t| t.dtype == DType::Ternary(TernaryPacking::I2sUnscaled)).count();
    if unscaled > 0 {
        let store = if unscaled == 1 { "matrix stores" } else { "matrices store" };
        let text = format!(
            "{unscaled} packed {store} only codes: the scale is lost, so std and verdict say nothing about collapse"
        );
        checkpoint.warnings.push(Notice::new(NoticeKind::LostScale, text));
    }
    if hf_scales_guessed {
        checkpoint.warnings.push(Notice::new(
            NoticeKind::AssumedLayout,
            "no quantization_config says how weight_scale is applied; assumed `bitlinear` (the output is divided by it)",
        ));
    }
}

/// How many packed matrices [`recognise`] would find; `checkpoint` is left as it is.
pub(crate) fn count(checkpoint: &mut Checkpoint, quantization: Option<&Quantization>) -> usize {
    let is_packed = |t: &&TensorInfo| matches!(t.dtype, DType::Ternary(_));
    let (tensors, warnings) = (checkpoint.tensors.clone(), checkpoint.warnings.clone());
    let before = tensors.iter().filter(is_packed).count();
    recognise(checkpoint, quantization);
    let after = checkpoint.tensors.iter().filter(is_packed).count();
    (checkpoint.tensors, checkpoint.warnings) = (tensors, warnings);
    after - before
}

fn become_packed(tensor: &mut TensorInfo, packing: TernaryPacking, shape: Vec<usize>, scale: Option<f32>) {
    let packed = tensor.numel();
    let dtype = DType::Ternary(packing);
    if numel(&shape).is_none() || dtype.bytes_for(&shape) != Some(packed) {
        let what = format!("{packed} packed bytes do not fit its recorded shape {shape:?}");
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
            let crate::metadata::HashableValue::String(key) = key else { return None };
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

/// The number that a tensor of one element of the types of scales holds.
fn one_number(checkpoint: &Checkpoint, at: usize) -> Option<f32> {
    numbers(checkpoint, at, 1)?.first().copied()
}

/// The numbers that a tensor of `count` elements of the types of scales holds.
fn numbers(checkpoint: &Checkpoint, at: usize, count: usize) -> Option<Vec<f32>> {
    let tensor = checkpoint.tensors.get(at).filter(|t| t.numel() == count as u64)?;
    if !matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16) {
        return None;
    }
    checkpoint.values(tensor).ok()
}

/// Decides which layout the I2_S tensors of a GGUF checkpoint have: the one given, else ARM's where rows do not fill
/// x86 blocks, else x86's, which is assumed with a notice.
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
                "its I2_S rows do not fill blocks of 128, so the layout `arm` was assumed; the I2_S layout can be given as x86, arm or rows",
            ));
            I2sLayout::Arm
        }
        None => {
            checkpoint.warnings.push(Notice::new(
                NoticeKind::AssumedLayout,
                "I2_S does not record which build of bitnet.cpp wrote it; the layout `x86` was assumed; the I2_S layout can be given as x86, arm or rows",
            ));
            I2sLayout::X86
        }
    };
    tensors.iter_mut().for_each(|t| t.dtype = DType::Ternary(layout.packing()));
}

/// Experts whose matrices have a scale each, at most.
const MOST_EXPERTS: usize = 1024;

/// Gives the block-quantized matrices of a GGUF checkpoint the scale that is stored next to them: llama.cpp multiplies
/// the output of `L.weight` by the one number in `L.scale`, or where it holds the matrices of several experts, that of each
/// by its number. `L.input_scale` is of activations. Scales that cannot be such are listed as faults.
pub(crate) fn apply_scales(checkpoint: &mut Checkpoint) {
    if !matches!(checkpoint.format, Format::Gguf { .. }) {
        return;
    }
    let named = |suffix: &str| -> HashMap<String, usize> {
        let tensors = checkpoint.tensors.iter().enumerate();
        tensors.filter_map(|(i, t)| Some((t.name.strip_suffix(suffix)?.to_string(), i))).collect()
    };
    let (scales, input_scales) = (named(".scale"), named(".input_scale"));
    for i in 0..checkpoint.tensors.len() {
        let tensor = &checkpoint.tensors[i];
        let blocks = matches!(tensor.dtype, DType::Ggml(_));
        let Some(layer) = tensor.name.strip_suffix(".weight").filter(|_| blocks) else { continue };
        let (at, of_activations) = (scales.get(layer).copied(), input_scales.get(layer).copied());
        let experts = tensor.shape.first().filter(|&&n| tensor.shape.len() > 2 && n <= MOST_EXPERTS).copied();
        if let Some(at) = of_activations {
            checkpoint.tensors[at].group = Group::Other;
        }
        let Some(at) = at else { continue };
        let found = numbers(checkpoint, at, 1).or_else(|| numbers(checkpoint, at, experts?));
        let name = checkpoint.tensors[at].name.clone();
        let fault = match found {
            None => Some(QuantFault::shape(&checkpoint.tensors[at], &checkpoint.tensors[i])),
            Some(found) => {
                let negative = found.iter().any(|scale| *scale < 0.0);
                match found.as_slice() {
                    [scale] => checkpoint.tensors[i].scale = Some(*scale),
                    _ => checkpoint.tensors[i].scales = Some(found.into()),
                }
                negative.then(|| QuantFault::Negative { part: name.clone() })
            }
        };
        checkpoint.coding.faults.extend(fault.map(|fault| (name, fault)));
        checkpoint.tensors[at].group = Group::Other;
    }
    let orphans: Vec<usize> = scales
        .into_iter()
        .filter(|(layer, at)| is_orphan(checkpoint, layer, *at))
        .map(|(_, at)| at)
        .collect();
    for at in orphans {
        let tensor = &mut checkpoint.tensors[at];
        tensor.group = Group::Other;
        checkpoint.coding.faults.push((tensor.name.clone(), QuantFault::Orphaned));
    }
}

/// Whether the tensor at `at`, the scale of `layer` by its name and size, is beside no codes. Networks that llama.cpp does
/// not know may call other things so.
fn is_orphan(checkpoint: &Checkpoint, layer: &str, at: usize) -> bool {
    let tensor = &checkpoint.tensors[at];
    if !layer.starts_with("blk.") || !(tensor.numel() == 1 || layer.ends_with("_exps")) {
        return false;
    }
    let weight = format!("{layer}.weight");
    let weight = checkpoint.tensors.iter().find(|tensor| tensor.name == weight);
    weight.is_none_or(|weight| weight.dtype.is_float()) && one_number(checkpoint, at) != Some(1.0)
}
