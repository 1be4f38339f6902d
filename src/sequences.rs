//! Files of token ids or text, as sequences for a model.

use std::path::Path;

use ckpt_infer::{Specials, Tokenizer};

use crate::Failure;

/// Texts are bounded before they are read.
const LONGEST_TEXT: u64 = 1 << 30;

/// The sequences in `path`: those of a file of ids, else one of all its text in the tokens of `tokenizer`.
pub fn read(
    path: &Path,
    tokenizer: impl FnOnce() -> Result<Tokenizer, Failure>,
) -> Result<Vec<Vec<u32>>, Failure> {
    if ckpt_infer::holds_ids(path) {
        return Ok(ckpt_infer::read_ids(path)?);
    }
    let cannot = |what: String| Failure::usage(format!("{}: {what}", path.display()));
    let bytes = std::fs::metadata(path).map_err(|e| cannot(e.to_string()))?.len();
    if bytes > LONGEST_TEXT {
        return Err(cannot(format!("has {bytes} bytes, more than a text of {LONGEST_TEXT}; cut it")));
    }
    let text = std::fs::read(path).map_err(|e| cannot(e.to_string()))?;
    let text = String::from_utf8(text).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        cannot(format!(
            "is neither UTF-8 text (byte {at} is not) nor called .safetensors, .json, .jsonl or .ids, as files of token ids are"
        ))
    })?;
    Ok(vec![tokenizer()?.prompt(&text, Specials::AsText)?])
}
