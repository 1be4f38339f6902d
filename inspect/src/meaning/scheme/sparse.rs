//! Sparse weights of compressed-tensors, which are not read: what is not zero, one after another, beside a bit for each
//! element; and codes in 2:4 sparsity as Marlin's kernel takes them
//! (<https://github.com/neuralmagic/compressed-tensors>, `sparse_bitmask`, `sparse_24_bitmask` and `marlin_24`).

use super::{Found, Stored};
use crate::DType;
use crate::quantized::QuantFault;

/// Where a configuration says how sparse weights are stored: that of the quantization, or one of its own.
const FORMATS: [&str; 2] = ["sparsity_config.format", "format"];
/// What formats begin with that leave zeros out.
const SPARSE: &str = "sparse-";
const MARLIN: &str = "marlin-24";

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let tensor = stored.tensor(at);
    let (layer, field) = tensor.name.rsplit_once('.')?;
    let has = |field: &str| stored.at(&format!("{layer}.{field}")).is_some();
    let format = FORMATS.iter().filter_map(|key| stored.config.text(key)).find(|f| f.starts_with(SPARSE));
    let scheme = match field {
        "compressed" if has("bitmask") || format.is_some() => {
            format!("compressed-tensors' {}", format.unwrap_or("sparse-bitmask"))
        }
        "weight_packed" if tensor.dtype == DType::I32 && is_marlin(stored, has) => {
            format!("compressed-tensors' {MARLIN}")
        }
        _ => return None,
    };
    Some(Err(QuantFault::Unread { scheme }))
}

fn is_marlin(stored: &Stored<'_>, has: impl Fn(&str) -> bool) -> bool {
    has("scale_packed") || has("meta") || stored.config.text("format") == Some(MARLIN)
}
