//! What a source records about its tensors beyond type and shape.

use std::collections::HashSet;

use ckpt_inspect::Role as TensorRole;
use ckpt_inspect::meaning::architecture::{Kind, Part, Role, STUDENT};
use ckpt_inspect::meaning::{RopePairing, is_of_activations, role};
use ckpt_inspect::measure::Floor;
use ckpt_inspect::{Checkpoint, DType, Format, ModelConfig, TensorInfo};

use crate::Result;
use crate::encode::{Decoded, Rotary};
use crate::names::{self, Style};
use crate::plan::Elements;
use crate::target::Target;
use crate::ternary::Grid;

/// Tensors that only describe how others are packed, and outside of GGUF those of the activations that these multiply.
pub(crate) fn helpers(source: &Checkpoint, target: Target) -> HashSet<usize> {
    let packed: HashSet<&str> = source
        .tensors
        .iter()
        .filter(|t| matches!(t.dtype, DType::Ternary(_)) || has_scale_beside(t))
        .filter_map(|t| t.name.strip_suffix(".weight"))
        .collect();
    let is_helper = |t: &TensorInfo| {
        let suffixes = [".weight_scale", "_scale", "_shape", ".scale"].into_iter();
        let of_activations = Some(".input_scale").filter(|_| !matches!(target, Target::Gguf(_)));
        let layer = of_activations.into_iter().chain(suffixes).find_map(|s| t.name.strip_suffix(s));
        layer.is_some_and(|layer| packed.contains(layer)) || (t.name == "__metadata__" && !packed.is_empty())
    };
    source.tensors.iter().enumerate().filter(|(_, t)| is_helper(t)).map(|(i, _)| i).collect()
}

/// Scales of activations and caches of a quantized model, which say nothing of what its weights are.
pub(crate) fn beside_codes(source: &Checkpoint) -> HashSet<usize> {
    if source.tensors.iter().all(|t| t.quantized.is_none()) {
        return HashSet::new();
    }
    let roles = role::roles(&source.tensors).into_iter().enumerate();
    let is_beside = |&(i, role): &(usize, TensorRole)| {
        role == TensorRole::Scale || is_of_activations(&source.tensors[i].name)
    };
    roles.filter(is_beside).map(|(i, _)| i).collect()
}

/// Whether a separate tensor has the factor of GGML's blocks.
pub(crate) fn has_scale_beside(tensor: &TensorInfo) -> bool {
    matches!(tensor.dtype, DType::Ggml(_)) && (tensor.scale.is_some() || tensor.scales.is_some())
}

/// How a source matrix becomes ternary.
pub(crate) fn grid(source: &Checkpoint, tensor: &TensorInfo, floor: Floor) -> Result<Grid> {
    if matches!(tensor.dtype, DType::Ternary(_)) {
        return Ok(Grid { scale: tensor.scale, exact: true });
    }
    let elements = Elements::new(tensor, None);
    let bytes = source.spread(&elements.tensor)?;
    let values = Decoded::new(source, &elements, &bytes)?;
    Ok(Grid::measure(&values, floor).map_err(|e| e.in_tensor(&tensor.name).in_file(&source.path))?)
}

/// The order of query and key rows in PyTorch's terms, for those of a GGUF file that has them in another: where each is
/// in the file. `None` for all other tensors.
pub fn row_order(source: &Checkpoint, tensor: &TensorInfo) -> Option<Rotary> {
    matches!(source.format, Format::Gguf { .. }).then(|| rotary(source, tensor, None))?
}

/// The order of query and key rows, where one side is a GGUF file whose architecture has them in another.
pub(crate) fn rotary(source: &Checkpoint, tensor: &TensorInfo, style: Option<Style>) -> Option<Rotary> {
    let from_gguf = matches!(source.format, Format::Gguf { .. });
    if from_gguf == (style == Some(Style::Gguf)) {
        return None;
    }
    let query = match names::role(&tensor.name)? {
        Role::Layer(_, Part::Q | Part::QBias) => true,
        Role::Layer(_, Part::K | Part::KBias) => false,
        _ => return None,
    };
    let (heads, kv_heads, interleaved) = match &source.model.student {
        Some(student) => (student.num_heads, student.num_kv_heads, student.written_as().interleaved),
        None => {
            let given = source.model.given().ok()?;
            let heads = given.num_heads?;
            let interleaved = match from_gguf {
                true => given.rope_pairing == Some(RopePairing::Neighbours),
                false => given.architecture?.interleaved,
            };
            (heads, given.num_kv_heads.unwrap_or(heads), interleaved)
        }
    };
    let heads = if query { heads } else { kv_heads };
    let rows = *tensor.shape.first()?;
    let fits = interleaved && heads > 0 && rows.is_multiple_of(heads.checked_mul(2)?);
    fits.then(|| Rotary { head_dim: rows / heads, interleave: !from_gguf })
}

/// The rows and columns of the matrices of `tensor` if its model's class holds them transposed: experts of gpt-oss, which are
/// quantized as `[experts, out, in]` and are `[experts, in, out]` where they are not (`GptOssExperts` of transformers).
pub(crate) fn held_transposed(tensor: &TensorInfo) -> Option<(usize, usize)> {
    let quantized = tensor.quantized.as_ref()?;
    let of_gpt_oss = quantized.codes().name.ends_with("_blocks");
    match tensor.shape[..] {
        [_, rows, cols] if of_gpt_oss => Some((rows, cols)),
        _ => None,
    }
}

/// What is added to the values of `tensor` in a file whose names are of `style`, where one side is a GGUF file: the gains of
/// some architectures are stored less one outside of it.
pub(crate) fn shift(source: &Checkpoint, tensor: &TensorInfo, style: Option<Style>) -> f32 {
    let from_gguf = matches!(source.format, Format::Gguf { .. });
    let family = source.model.family().filter(|family| family.network.gains_less_one);
    if from_gguf == (style == Some(Style::Gguf)) || family.is_none() {
        return 0.0;
    }
    match names::role_in(family, &tensor.name).map(Role::kind) {
        Some(Kind::Norm) if from_gguf => -1.0,
        Some(Kind::Norm) => 1.0,
        _ => 0.0,
    }
}

/// The student's configuration, where `source` is one, a GGUF file included that was written from one.
pub(crate) fn student(source: &Checkpoint) -> Option<ModelConfig> {
    source.model.family().filter(|family| **family == STUDENT)?;
    source.model_config().ok()
}

/// The same for GGUF files only.
pub(crate) fn gguf_student(source: &Checkpoint) -> Option<ModelConfig> {
    matches!(source.format, Format::Gguf { .. }).then(|| student(source))?
}
