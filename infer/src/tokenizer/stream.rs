//! Text from tokens one by one: characters are shown only when they are complete.

use super::{Cutter, Tokenizer};

/// Tokens of context that are decoded with what follows, where a decoder looks at neighbours.
const CONTEXT: usize = 8;
/// A character that is incomplete after this many tokens will not be completed.
const LONGEST: usize = 16;

/// Joins tokens to text. Invalid UTF-8 becomes U+FFFD, as in [`String::from_utf8_lossy`] of the whole text.
#[derive(Clone, Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    show_special: bool,
    /// The bytes of an incomplete character.
    bytes: Vec<u8>,
    /// Tokens that were shown last, and those after them that were not shown yet.
    shown: Vec<u32>,
    waiting: Vec<u32>,
}

impl<'t> TextStream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, context: &[u32], show_special: bool) -> Self {
        let shown = match tokenizer.pieces {
            Some(_) => Vec::new(),
            None => context[context.len().saturating_sub(CONTEXT)..].to_vec(),
        };
        let mut stream =
            TextStream { tokenizer, show_special, bytes: Vec::new(), shown, waiting: Vec::new() };
        // The first of them may lie within a character.
        while !stream.shown.is_empty() && stream.row().0.contains(char::REPLACEMENT_CHARACTER) {
            stream.shown.remove(0);
        }
        stream
    }

    /// The characters that `id` completes, perhaps none. Ids beyond the vocabulary have no text.
    pub fn push(&mut self, id: u32) -> String {
        let Some(pieces) = &self.tokenizer.pieces else { return self.push_to_row(id) };
        match pieces.get(id as usize) {
            Some(piece) if !piece.special || self.show_special => {
                self.bytes.extend(&piece.bytes);
                self.take_whole()
            }
            _ => String::new(),
        }
    }

    /// The rest: an incomplete character.
    pub fn finish(&mut self) -> String {
        let left = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
        left + &self.show_waiting()
    }

    /// Moves everything but an incomplete character at the end from `bytes` to text.
    fn take_whole(&mut self) -> String {
        let mut text = String::new();
        let mut used = 0;
        let mut chunks = self.bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            if chunk.invalid().is_empty() {
                continue;
            }
            let at_end = chunks.peek().is_none();
            let incomplete = std::str::from_utf8(chunk.invalid()).is_err_and(|e| e.error_len().is_none());
            if !(at_end && incomplete) {
                text.push(char::REPLACEMENT_CHARACTER);
                used += chunk.invalid().len();
            }
        }
        self.bytes.drain(..used);
        text
    }

    fn push_to_row(&mut self, id: u32) -> String {
        self.waiting.push(id);
        let (before, text) = self.row();
        let incomplete = text.ends_with(char::REPLACEMENT_CHARACTER) && self.waiting.len() < LONGEST;
        if incomplete || text.len() <= before.len() { String::new() } else { self.show_waiting() }
    }

    /// The text of the tokens already shown, and of these together with the waiting ones.
    fn row(&self) -> (String, String) {
        let Cutter::Json(json) = &self.tokenizer.cutter else { return Default::default() };
        let all = [self.shown.as_slice(), &self.waiting].concat();
        (json.decode(&self.shown, self.show_special), json.decode(&all, self.show_special))
    }

    fn show_waiting(&mut self) -> String {
        if self.waiting.is_empty() {
            return String::new();
        }
        let (before, text) = self.row();
        self.shown = std::mem::take(&mut self.waiting);
        match text.strip_prefix(before.as_str()) {
            Some(new) => new.to_string(),
            // The decoder now gives other text for the tokens already shown; only the characters beyond its length are
            // new.
            None => text.chars().skip(before.chars().count()).collect(),
        }
    }
}
