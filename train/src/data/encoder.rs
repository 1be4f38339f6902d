//! Turns text and records into tokens.

use std::path::Path;

use ckpt_infer::FIM_TEXTS;
use ckpt_inspect::vocabulary::read_file;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::chat::Writer;
use super::{Settings, Token};
use crate::{Error, Result};

/// Fields of a record that are read, besides the text column of the settings.
pub(super) const FIELDS: [&str; 6] = ["text", "content", "prompt", "response", "responses", "messages"];

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
const VERSION: u8 = 2;
/// Usual names of the token that ends a document.
const ENDS: [&str; 6] = ["<|endoftext|>", "</s>", "<eos>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>"];

impl Encoder {
    pub fn new(settings: &Settings) -> Result<Self> {
        let (tokenizer, mask_prompts) = (settings.tokenizer.as_deref(), settings.mask_prompts);
        let chat = tokenizer.map(|path| Writer::new(path, settings.template)).transpose()?;
        let load = |path: &Path| -> Result<(Tokenizer, [u8; 32])> {
            let bytes = read_file(path)?;
            if let Some(what) = ckpt_infer::tokenizer_fault(&bytes) {
                return Err(Error::data(path, what));
            }
            let loaded = Tokenizer::from_bytes(&bytes)
                .map_err(|e| Error::data(path, format!("is not a valid tokenizer: {e}")))?;
            let mut hash = Sha256::new();
            hash.update([VERSION, mask_prompts.into()]);
            hash.update(&bytes);
            let column = settings.text_column.as_deref().unwrap_or_default();
            for part in chat.iter().flat_map(Writer::fingerprint).chain([column]) {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
            Ok((loaded, hash.finalize().into()))
        };
        let (tokenizer, fingerprint) = tokenizer.map(load).transpose()?.unzip();
        let end = tokenizer.as_ref().and_then(|t| ENDS.iter().find_map(|end| t.token_to_id(end)));
        let text_column = settings.text_column.clone();
        Ok(Encoder { tokenizer, end, mask_prompts, text_column, chat, fingerprint })
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
        let ids: Vec<u32> = ids.collect();
        self.tokenizer.as_ref()?.decode(&ids, false).ok()
    }

    /// The token that ends a document.
    pub fn end_token(&self) -> Option<u32> {
        self.end
    }

    /// The tokens before prefix, middle and suffix, if the tokenizer has them.
    pub fn fill_in(&self) -> Option<[u32; 3]> {
        let tokenizer = self.tokenizer.as_ref()?;
        FIM_TEXTS.iter().find_map(|[prefix, suffix, middle]| {
            let id = |name: &str| tokenizer.token_to_id(name);
            Some([id(prefix)?, id(middle)?, id(suffix)?])
        })
    }

    pub fn text(&self, text: &str, learn: bool, out: &mut Vec<Token>) -> Result<(), String> {
        let tokenizer = self.tokenizer.as_ref().ok_or(NO_TOKENIZER)?;
        let encoding = tokenizer.encode_fast(text, false).map_err(|e| e.to_string())?;
        out.extend(encoding.get_ids().iter().map(|&id| Token { id, learn }));
        Ok(())
    }

    pub fn end(&self, out: &mut Vec<Token>) {
        out.extend(self.end.map(|id| Token { id, learn: true }));
    }

    /// The documents of one JSON line.
    pub fn line(&self, line: &str) -> Result<Vec<Token>, String> {
        let value: Value = serde_json::from_str(line).map_err(|e| format!("is not valid JSON: {e}"))?;
        self.record(&value)
    }

    /// The documents of one record: `text` or `content`; `prompt` with `response` or several `responses`; or
    /// `messages`.
    pub fn record(&self, value: &Value) -> Result<Vec<Token>, String> {
        let mut out = Vec::new();
        let field = |name: &str| value.get(name).and_then(Value::as_str);
        if let Some(column) = &self.text_column {
            let text = field(column).ok_or_else(|| format!("has no text in `{column}`"))?;
            self.text(text, true, &mut out)?;
            self.end(&mut out);
            return Ok(out);
        }
        if let Some(messages) = value.get("messages").and_then(Value::as_array) {
            let chat = self.chat.as_ref().ok_or(NO_TOKENIZER)?;
            for (answer, text) in chat.pieces(messages)? {
                self.text(&text, answer || !self.mask_prompts, &mut out)?;
            }
            if out.last().map(|token| token.id) != self.end {
                self.end(&mut out);
            }
            return Ok(out);
        }
        let responses: Vec<&str> = match (value.get("responses"), field("response")) {
            (Some(Value::Array(all)), _) => all.iter().filter_map(response).collect(),
            (Some(Value::Object(all)), _) => all.values().filter_map(response).collect(),
            (_, Some(one)) => vec![one],
            _ => Vec::new(),
        };
        if let (Some(prompt), false) = (field("prompt"), responses.is_empty()) {
            for response in responses {
                self.text(prompt, !self.mask_prompts, &mut out)?;
                self.text(response, true, &mut out)?;
                self.end(&mut out);
            }
            return Ok(out);
        }
        let text = field("text").or(field("content"));
        let text = text.ok_or("has none of text, content, messages, or prompt with response or responses")?;
        self.text(text, true, &mut out)?;
        self.end(&mut out);
        Ok(out)
    }
}

/// A teacher's answer: text, or an object that holds it.
fn response(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("response").or_else(|| value.get("text"))?.as_str())
}
