//! The tokens that end a text: besides the one with that role, those that a list in config.json or a GGUF file's further
//! keys name, and those with a usual text.

use super::beside::Beside;
use super::{Role, Vocabulary, Warning};
use crate::Checkpoint;
use crate::bytes::stored::Stored;
use crate::gguf::{Header, Keys};

/// Those that llama.cpp's keys have no room for.
pub(super) const KEY: &str = "tokenizer.ckpt.eos_token_ids";
/// llama.cpp's keys for tokens that end a turn or a message, which end a text there.
const FURTHER: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Texts of tokens that end an answer in every model that has them.
pub const END_TEXTS: [&str; 15] = [
    "</s>",
    "<eos>",
    "[EOS]",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
];
/// Those of them that llama.cpp does not know by their text.
const OURS: [&str; 1] = ["<|eot|>"];

/// The further ones of a GGUF file.
pub(super) fn of_header(header: &Header<'_>) -> Vec<u32> {
    let listed = header.integers(KEY).into_iter().flatten();
    let single = FURTHER.iter().filter_map(|key| header.get(key)?.as_i64());
    listed.chain(single).filter_map(|id| u32::try_from(id).ok()).collect()
}

/// The tokens that end a text by what `checkpoint` itself or the files beside it say, whether or not there is a
/// tokenizer; none where these cannot be read.
pub fn end_ids(checkpoint: &Checkpoint) -> Vec<u32> {
    if let Some(header) = checkpoint.gguf_header() {
        let Ok(header) = header else { return Vec::new() };
        let first = header.get("tokenizer.ggml.eos_token_id").and_then(|v| v.as_i64());
        let first = first.and_then(|id| u32::try_from(id).ok());
        return first.into_iter().chain(of_header(&header)).collect();
    }
    let path = &checkpoint.path;
    let folder = if path.is_stored_folder() { Some(path.as_path()) } else { path.parent() };
    let beside = folder.and_then(|folder| Beside::read(folder).ok());
    beside.map(|beside| beside.ends()).unwrap_or_default()
}

impl Vocabulary {
    /// Keeps the tokens that end a text once each, without the one with that role. Ids for which the tokenizer has no
    /// token stay: the model may have a row for them, and then it may choose them.
    pub(super) fn settle_ends(&mut self) {
        let first = self.role(Role::Eos);
        self.ends.retain(|id| Some(*id) != first);
        self.ends.sort_unstable();
        self.ends.dedup();
    }

    /// Whether the files name only ids to end a text for which there is no token.
    pub(super) fn ends_without_token(&self) -> bool {
        !self.ends.is_empty() && self.ends.iter().all(|id| *id as usize >= self.tokens.len())
    }

    /// Gives the role to end a text to an id that has a token now, where the files name one and no token had the role.
    pub(super) fn settle_filled_ends(&mut self) {
        let count = self.tokens.len();
        let found = self.ends.iter().copied().find(|id| (*id as usize) < count);
        if let (None, Some(id)) = (self.role(Role::Eos), found) {
            self.give(Role::Eos, Some(u64::from(id)));
            self.settle_ends();
            self.warnings.retain(|warning| *warning != Warning::NoRole(Role::Eos));
        }
    }

    /// Writes the further tokens that end a text that `keys` do not say yet: llama.cpp has a key each for two whose text it
    /// does not know.
    pub(super) fn set_ends(&self, keys: &mut Keys) {
        let said: Vec<i64> = FURTHER.iter().filter_map(|key| keys.get(key)?.as_i64()).collect();
        let mut left: Vec<u32> = self.ends.clone();
        left.retain(|id| !said.contains(&i64::from(*id)));
        let known = |id: &u32| {
            let Some(token) = self.tokens.get(*id as usize) else { return true };
            END_TEXTS.iter().any(|text| text.as_bytes() == token.text && !OURS.contains(text))
        };
        for key in FURTHER {
            if let (false, Some(at)) = (keys.contains(key), left.iter().position(|id| !known(id))) {
                keys.set(key, &left.remove(at));
            }
        }
        if !left.is_empty() {
            keys.set_array(KEY, left.into_iter());
        }
    }
}
