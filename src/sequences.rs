//! Files of token ids or text, as sequences for a model.

use std::path::Path;

use ckpt_infer::{Specials, Tokenizer};

use crate::{Failure, load};

/// The most bytes of a text that are read: the tokenizers crate takes more than a hundred times its size.
const LONGEST_TEXT: u64 = 32 << 20;

/// The sequences in `path`: those of a file of ids, else a single one with all its text as tokens of `tokenizer`.
pub fn read(
    path: &Path,
    tokenizer: impl FnOnce() -> Result<Tokenizer, Failure>,
) -> Result<Vec<Vec<u32>>, Failure> {
    if ckpt_infer::holds_ids(path) {
        return Ok(ckpt_infer::read_ids(path)?);
    }
    let text = load::text(path, LONGEST_TEXT).map_err(|failure| Failure {
        message: failure.message + " (token ids are read from .safetensors, .json, .jsonl and .ids files)",
        ..failure
    })?;
    Ok(vec![tokenizer()?.prompt(&text, Specials::AsText)?])
}
