//! What a source says of its tensors beyond their type and shape.

use std::collections::HashSet;

use ckpt_inspect::{Checkpoint, DType, Format, TensorInfo};
use serde_pickle::{HashableValue, Value};

use crate::encode::{Decoded, Rotary};
use crate::names::{self, Style};
use crate::plan::Elements;
use crate::ternary::Grid;
use crate::{Result, gguf};

/// Tensors that only say how others are packed.
pub(crate) fn helpers(source: &Checkpoint) -> HashSet<usize> {
    let packed: HashSet<&str> = source
        .tensors
        .iter()
        .filter(|t| matches!(t.dtype, DType::Ternary(_)) || has_scale_beside(t))
        .filter_map(|t| t.name.strip_suffix(".weight"))
        .collect();
    let is_helper = |t: &TensorInfo| {
        let layer =
            [".weight_scale", "_scale", "_shape", ".scale"].iter().find_map(|s| t.name.strip_suffix(s));
        layer.is_some_and(|layer| packed.contains(layer)) || (t.name == "__metadata__" && !packed.is_empty())
    };
    source.tensors.iter().enumerate().filter(|(_, t)| is_helper(t)).map(|(i, _)| i).collect()
}

/// Whether a tensor of its own says what GGML's blocks are multiplied by.
pub(crate) fn has_scale_beside(tensor: &TensorInfo) -> bool {
    matches!(tensor.dtype, DType::Ggml(_)) && tensor.scale.is_some()
}

/// How the ternary form of a source matrix comes about.
pub(crate) fn grid(source: &Checkpoint, tensor: &TensorInfo, eps: f64) -> Result<Grid> {
    if matches!(tensor.dtype, DType::Ternary(_)) {
        return Ok(Grid { scale: tensor.scale, exact: true });
    }
    let elements = Elements::new(tensor.clone(), None);
    let bytes = source.spread(&elements.tensor)?;
    let values = Decoded::new(source, &elements, &bytes)?;
    Ok(Grid::measure(&values, eps).map_err(|e| e.in_tensor(&tensor.name).in_file(&source.path))?)
}

/// The order of query and key rows in PyTorch's terms, for those of a GGUF file of architecture `llama`: where each is
/// in the file. `None` for all other tensors.
pub fn row_order(source: &Checkpoint, tensor: &TensorInfo) -> Option<Rotary> {
    matches!(source.format, Format::Gguf { .. }).then(|| rotary(source, tensor, None))?
}

/// The order of query and key rows, where one side is a GGUF file of architecture `llama` and the other is not.
pub(crate) fn rotary(source: &Checkpoint, tensor: &TensorInfo, style: Option<Style>) -> Option<Rotary> {
    let from_gguf = matches!(source.format, Format::Gguf { .. });
    if from_gguf == (style == Some(Style::Gguf)) {
        return None;
    }
    let name = names::canonical(&tensor.name);
    let (module, _) = name.rsplit_once('.')?;
    let query = module.ends_with(".self_attn.q_proj");
    if !query && !module.ends_with(".self_attn.k_proj") {
        return None;
    }
    let (heads, kv_heads) = if from_gguf {
        let Value::Dict(keys) = &source.metadata else { return None };
        let number =
            |key: &str| keys.get(&HashableValue::String(key.into())).and_then(ckpt_inspect::metadata::as_u64);
        let heads = number("llama.attention.head_count").filter(|_| source.model.architecture == "llama")?;
        (heads, number("llama.attention.head_count_kv").unwrap_or(heads))
    } else {
        gguf::interleaved_heads(source)?
    };
    let heads = if query { heads } else { kv_heads };
    let rows = *tensor.shape.first()? as u64;
    let fits = heads > 0 && rows.is_multiple_of(2 * heads);
    fits.then(|| Rotary { head_dim: (rows / heads) as usize, interleave: !from_gguf })
}
