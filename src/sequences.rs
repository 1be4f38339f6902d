//! Files of token ids or text, as sequences for a model.

use std::path::Path;

use crate::Failure;

/// The sequences in `path`.
pub fn read(path: &Path) -> Result<Vec<Vec<u32>>, Failure> {
    if ckpt_infer::holds_ids(path) {
        return Ok(ckpt_infer::read_ids(path)?);
    }
    Err(Failure::usage(format!(
        "{}: token ids are needed: a .safetensors file, or a list a line in a .jsonl or .ids file",
        path.display()
    )))
}
