//! Quantized weights that keep their codes and scales in GGUF's blocks.

use ckpt_inspect::quantized::{Code, Maker};
use ckpt_inspect::{Checkpoint, DType, TensorInfo};

use super::Builder;
use crate::encode::Decoded;
use crate::note::{Note, Remedy};
use crate::plan::Elements;
use crate::quant::Quant;
use crate::{Error, Result};

/// A quantized weight whose codes and scales blocks of GGUF hold.
pub(super) struct Kept {
    /// The type of the blocks.
    pub dtype: DType,
    /// What a matrix is multiplied by besides, one number for all or one for each matrix of a stack; empty for 1.
    pub factors: Vec<f32>,
}

/// The scale of the activations that `tensor`, a weight of ModelOpt's NVFP4, multiplies. GGUF has it beside the weight, as
/// llama.cpp's converter writes it (`_repack_nvfp4`).
pub(super) fn input_scale<'c>(source: &'c Checkpoint, tensor: &TensorInfo) -> Option<&'c TensorInfo> {
    let DType::Quantized(kind) = tensor.dtype else { return None };
    let layer = tensor.name.strip_suffix(".weight")?;
    let scale = source.tensor(&format!("{layer}.input_scale")).ok()?;
    let is_one = scale.numel() == 1 && scale.dtype.is_float();
    (is_one && (kind.maker, kind.code) == (Maker::ModelOpt, Code::Nvfp4)).then_some(scale)
}

impl Builder<'_, '_> {
    /// How `tensor`, called `name` there, is kept. `reciprocals` counts the weights that are divided by their factor here
    /// and multiplied there.
    pub(super) fn kept(&self, tensor: &TensorInfo, name: &str, reciprocals: &mut usize) -> Result<Kept> {
        let source = self.plan.source;
        let elements = Elements::new(tensor, None);
        let bytes = source.spread(tensor)?;
        let values = Decoded::new(source, &elements, &bytes)?;
        let dtype = values.repacked(source, tensor)?.ggml().dtype();
        let (_, factors) = values.unfactored();
        let refused = |why: &str| {
            let why = format!("`{}` cannot be kept: {why}", tensor.name.escape_debug());
            Error::of_source(source, why).remedied_by(Remedy::Quant(&[Quant::Q8_0]))
        };
        let mut numbers = factors.numbers;
        if factors.divide {
            numbers.iter_mut().for_each(|factor| *factor = factor.recip());
            if numbers.iter().any(|factor| !factor.is_normal()) {
                return Err(refused("it is divided by a global scale without a reciprocal in 32 bits"));
            }
            *reciprocals += 1;
        }
        if numbers.iter().all(|&factor| factor == 1.0) {
            numbers.clear();
        }
        if !numbers.is_empty() && !name.ends_with(".weight") {
            return Err(refused(
                "it has a global scale, which GGUF allows only for tensors called `….weight`",
            ));
        }
        Ok(Kept { dtype, factors: numbers })
    }

    /// Tells of reciprocals.
    pub(super) fn note_reciprocals(&mut self, count: usize) {
        if count > 0 {
            self.plan.notes.push(Note::Reciprocals { count });
        }
    }
}
