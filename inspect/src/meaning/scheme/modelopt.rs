//! What ModelOpt has besides its scales: `pre_quant_scale`, by which AWQ and SmoothQuant multiply what comes into a layer, so
//! that the weight is what is stored with its columns multiplied by it; low-rank matrices that are added to a layer
//! (SVDQuant); and 4-bit whole numbers, two rows of outputs in a row of bytes, which are not read
//! (<https://github.com/NVIDIA/Model-Optimizer>, `export/quant_utils.py` and `plugins/vllm_fakequant_hf.py`).

use super::{Found, Stored, Weight};
use crate::DType;
use crate::quantized::{PartRole, QuantFault};

/// Algorithms whose 4-bit whole numbers are not read.
const UNREAD: [&str; 2] = ["W4A16_AWQ", "W4A8_AWQ"];

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    let layer = codes.name.strip_suffix(".weight").filter(|_| codes.dtype == DType::U8)?;
    let &[rows, _] = codes.shape.as_slice() else { return None };
    let scale = stored.tensor(stored.at(&format!("{layer}.weight_scale"))?);
    let is_of_pairs = matches!(scale.shape[..], [outputs, _] if rows.checked_mul(2) == Some(outputs));
    if !is_of_pairs || !scale.dtype.is_float() || scale.dtype == DType::F8E4M3FN {
        return None;
    }
    let algorithm =
        stored.config.text("quant_algo").and_then(|said| UNREAD.iter().find(|name| **name == said));
    let scheme = format!("ModelOpt's {}", algorithm.unwrap_or(&UNREAD[0]));
    Some(Err(QuantFault::Unread { scheme }))
}

/// `weight` with what its layer has besides.
pub(super) fn completed(mut weight: Weight, stored: &Stored<'_>) -> Found {
    let Some(layer) = weight.name.strip_suffix(".weight") else { return Ok(weight) };
    if stored.at(&format!("{layer}.svdquant_lora_a")).is_some() {
        return Err(QuantFault::Unread { scheme: "ModelOpt's NVFP4_SVD".into() });
    }
    let Some(at) = stored.at(&format!("{layer}.pre_quant_scale")) else { return Ok(weight) };
    let factors = stored.tensor(at);
    if !factors.dtype.is_float() {
        let (part, found) = (factors.name.clone(), factors.dtype.to_string());
        return Err(QuantFault::Type { part, found });
    }
    if factors.numel() != weight.form.cols as u64 {
        return Err(QuantFault::shape(factors, stored.tensor(weight.parts[0].1)));
    }
    weight.form.columns = Some(weight.parts.len());
    weight.parts.push((PartRole::ColumnScale, at));
    Ok(weight)
}
