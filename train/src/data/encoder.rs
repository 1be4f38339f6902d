//! Turns text and records into tokens.

use std::ops::Range;
use std::path::Path;
use std::time::UNIX_EPOCH;

use ckpt_infer::{FIM_TEXTS, Specials, TokenRole, Tokenizer, Written};
use ckpt_inspect::vocabulary::{FileKind, read_file};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::chat::Writer;
use super::record::{FIELDS, Record};
use super::{Settings, Token};
use crate::{Error, Result};

/// The error of text without a tokenizer.
pub(super) const NO_TOKENIZER: &str = "text needs a tokenizer: give a tokenizer.json";

/// Turns text into tokens.
pub(super) struct Encoder {
    tokenizer: Option<Tokenizer>,
    end: Option<u32>,
    mask_prompts: bool,
    text_column: Option<String>,
    chat: Option<Writer>,
    fingerprint: Option<[u8; 32]>,
}

/// Incremented whenever the same text gives different tokens.
const VERSION: u8 = 5;
/// Usual names of the token that ends a document, for tokenizers that do not say it.
const ENDS: [&str; 6] = ["<|endoftext|>", "</s>", "<eos>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>"];

impl Encoder {
    pub fn new(settings: &Settings) -> Result<Self> {
        let mut encoder = Encoder {
            tokenizer: None,
            end: None,
            mask_prompts: settings.mask_prompts,
            text_column: settings.text_column.clone(),
            chat: None,
            fingerprint: None,
        };
        let Some(path) = settings.tokenizer.as_deref() else { return Ok(encoder) };
        let tokenizer = Tokenizer::open(path).map_err(|e| Error::data(path, e.to_string()))?;
        let named = || {
            let ids = called(&tokenizer, &ENDS);
            ids.into_iter().find_map(|id| id)
        };
        let is_none = tokenizer.says_none(TokenRole::Eos);
        encoder.end = tokenizer.role(TokenRole::Eos).or_else(|| named().filter(|_| !is_none));
        let chat = Writer::new(&tokenizer, settings.template)?;
        let mut hash = Sha256::new();
        hash.update([VERSION, settings.mask_prompts.into()]);
        identify(tokenizer.path(), &mut hash)?;
        for id in encoder.end.iter().chain(tokenizer.begin()) {
            hash.update(id.to_le_bytes());
        }
        let column = settings.text_column.as_deref().unwrap_or_default();
        for part in chat.fingerprint().into_iter().chain([column]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        encoder.fingerprint = Some(hash.finalize().into());
        (encoder.tokenizer, encoder.chat) = (Some(tokenizer), Some(chat));
        Ok(encoder)
    }

    /// A fingerprint of how text becomes tokens; `None` without a tokenizer.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        self.fingerprint
    }

    /// The columns of a table that are read.
    pub fn columns(&self) -> Vec<&str> {
        match &self.text_column {
            Some(column) => vec![column],
            None => FIELDS.to_vec(),
        }
    }

    /// The text of tokens, special ones included.
    pub fn decode(&self, ids: impl Iterator<Item = u32>) -> Option<String> {
        let mut stream = self.tokenizer.as_ref()?.stream(&[], true);
        let mut text: String = ids.map(|id| stream.push(id)).collect();
        text += &stream.finish();
        Some(text)
    }

    /// The token that ends a document.
    pub fn end_token(&self) -> Option<u32> {
        self.end
    }

    /// The tokens that a document begins with: those that `ckpt infer` puts before a prompt.
    pub fn begin_tokens(&self) -> &[u32] {
        self.tokenizer.as_ref().map_or(&[], Tokenizer::begin)
    }

    /// The tokens before prefix, middle and suffix, if the tokenizer has them.
    pub fn fill_in(&self) -> Option<[u32; 3]> {
        let ids = called(self.tokenizer.as_ref()?, FIM_TEXTS.as_flattened());
        ids.chunks_exact(3).find_map(|ids| Some([ids[0]?, ids[2]?, ids[1]?]))
    }

    pub fn text(&self, text: &str, learn: bool, out: &mut Vec<Token>) -> Result<(), String> {
        let tokenizer = self.tokenizer.as_ref().ok_or(NO_TOKENIZER)?;
        let ids = tokenizer.encode(text, Specials::Parsed).map_err(|e| e.to_string())?;
        out.extend(ids.into_iter().map(|id| Token { id, learn }));
        Ok(())
    }

    /// Adds a document of one text that is encoded as a whole, so that its tokens are those that the text has when it is asked
    /// with: up to the last of which it learns, with what begins and ends a document. Learnt are tokens that have bytes of
    /// `said`, or all.
    fn answers(&self, written: &Written, out: &mut Vec<Token>) -> Result<(), String> {
        let tokenizer = self.tokenizer.as_ref().ok_or(NO_TOKENIZER)?;
        let placed = tokenizer.place(&written.text, Specials::Parsed).map_err(|e| e.to_string())?;
        let is_said = |of: &Range<usize>| written.said.iter().any(|s| of.start < s.end && of.end > s.start);
        let said: Vec<bool> = placed.iter().map(|(_, of)| is_said(of)).collect();
        let count = said.iter().rposition(|said| *said).map_or(placed.len(), |last| last + 1);
        let at = out.len();
        let tokens = placed.iter().zip(&said).take(count);
        out.extend(tokens.map(|((id, _), said)| Token { id: *id, learn: *said || !self.mask_prompts }));
        let is_ended = said.contains(&true) && out.last().map(|token| token.id) == self.end;
        self.begin(at, out);
        if !is_ended {
            self.end(out);
        }
        Ok(())
    }

    /// Makes what is in `out` from place `at` on a document's beginning: with the tokens that one begins with, unless they
    /// are there. They are given to every prompt, so they need not be learnt.
    pub fn begin(&self, at: usize, out: &mut Vec<Token>) {
        let begin = self.begin_tokens();
        let written =
            out[at..].len() >= begin.len() && out[at..].iter().map(|t| &t.id).zip(begin).all(|(a, b)| a == b);
        if written {
            out[at..at + begin.len()].iter_mut().for_each(|token| token.learn = false);
        } else {
            out.splice(at..at, begin.iter().map(|&id| Token { id, learn: false }));
        }
    }

    pub fn end(&self, out: &mut Vec<Token>) {
        out.extend(self.end.map(|id| Token { id, learn: true }));
    }

    /// Adds a document of one text.
    fn whole(&self, text: &str, out: &mut Vec<Token>) -> Result<(), String> {
        let at = out.len();
        self.text(text, true, out)?;
        self.begin(at, out);
        self.end(out);
        Ok(())
    }

    /// The documents of one JSON line.
    pub fn line(&self, line: &str) -> Result<Vec<Token>, String> {
        let value: Value = serde_json::from_str(line).map_err(|e| {
            let (what, place) = (e.to_string(), format!(" at line {} column {}", e.line(), e.column()));
            // Its line is that of the file, which is told beside it.
            let what = what.strip_suffix(&place).unwrap_or(&what);
            let hint = match matches!(line.trim(), "[" | "{") {
                true => "; each line is to hold one whole JSON object (`jq -c '.[]'` makes such lines of an array)",
                false => "",
            };
            format!("is not valid JSON: {what} at column {}{hint}", e.column())
        })?;
        if value.is_array() {
            return Err("is a JSON array; each line is to hold one JSON object (`jq -c '.[]'` makes such lines of it)".into());
        }
        self.record(&value)
    }

    /// The documents of one record.
    pub fn record(&self, value: &Value) -> Result<Vec<Token>, String> {
        let mut out = Vec::new();
        if let Some(column) = &self.text_column {
            let text = value.get(column).and_then(Value::as_str);
            self.whole(text.ok_or_else(|| format!("has no text in `{column}`"))?, &mut out)?;
            return Ok(out);
        }
        match Record::of(value)? {
            Record::Conversation { messages, learnt } => {
                let chat = self.chat.as_ref().ok_or(NO_TOKENIZER)?;
                for written in chat.texts(&messages, learnt, value.get("tools"))? {
                    self.answers(&written, &mut out)?;
                }
            }
            Record::Answers { prompt, responses } => {
                for response in responses {
                    let mut written = Written::default();
                    written.text = [prompt, response].concat();
                    written.said.push(prompt.len()..written.text.len());
                    self.answers(&written, &mut out)?;
                }
            }
            Record::Text(text) => self.whole(text, &mut out)?,
        }
        Ok(out)
    }
}

/// The tokens with the texts `names`, each if there is one.
fn called(tokenizer: &Tokenizer, names: &[&str]) -> Vec<Option<u32>> {
    let mut ids = vec![None; names.len()];
    for id in (0..tokenizer.vocab_size() as u32).rev() {
        let text = tokenizer.token(id);
        if let Some(at) = names.iter().position(|name| text.as_deref() == Some(name)) {
            ids[at] = Some(id);
        }
    }
    ids
}

/// Adds to `hash` what tells the tokenizer at `path` from others: its bytes, or of a GGUF file, which may hold a whole
/// model, its place, size and time.
fn identify(path: &Path, hash: &mut Sha256) -> Result<()> {
    if FileKind::of(path)? != FileKind::Gguf {
        hash.update(read_file(path)?);
        return Ok(());
    }
    let metadata = std::fs::metadata(path).map_err(|e| Error::read(path, e))?;
    let time = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let place = std::fs::canonicalize(path).map_err(|e| Error::read(path, e))?;
    hash.update(place.as_os_str().as_encoded_bytes());
    hash.update(metadata.len().to_le_bytes());
    hash.update(time.map_or(0, |time| time.as_nanos()).to_le_bytes());
    Ok(())
}
