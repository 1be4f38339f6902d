//! Documents of data files, one after the other, from any place on: JSONL lines and pieces of text, tokenized; or
//! ready-made ids.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::npy::Npy;
use super::{Token, Window};
use crate::{Error, Result};

/// Text is tokenized in pieces of about this many bytes, cut at ends of lines.
const PIECE: u64 = 1 << 14;
/// A line that is longer is bad.
const MAX_LINE: u64 = 1 << 26;
/// Ids of an array of one dimension that are taken at a time.
const IDS: u64 = 1 << 12;

/// What a file holds.
#[derive(Debug)]
enum Kind {
    /// One JSON object a line.
    Jsonl(BufReader<File>),
    Text(BufReader<File>),
    Npy(Npy),
    /// Rows of a SafeTensors file's tensor.
    Ids {
        ids: Vec<u32>,
        cols: usize,
        flat: bool,
    },
}

/// One document.
pub(super) enum Document {
    /// To be packed with its neighbours.
    Tokens(Vec<Token>),
    /// A sequence as it is.
    Window(Window),
    /// Not a document; why.
    Bad(String),
}

/// One data file, open.
#[derive(Debug)]
pub(super) struct Documents {
    path: PathBuf,
    kind: Kind,
    /// Byte or row of the next document.
    pub offset: u64,
}

/// Turns text into tokens.
pub(super) struct Encoder {
    tokenizer: Option<Tokenizer>,
    end: Option<u32>,
    mask_prompts: bool,
}

/// Names that tokenizers give the token that ends a document.
const ENDS: [&str; 6] = ["<|endoftext|>", "</s>", "<eos>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>"];

impl Encoder {
    pub fn new(tokenizer: Option<&Path>, mask_prompts: bool) -> Result<Self> {
        let load = |path: &Path| {
            Tokenizer::from_file(path).map_err(|e| Error::data(path, format!("is no tokenizer: {e}")))
        };
        let tokenizer = tokenizer.map(load).transpose()?;
        let end = tokenizer.as_ref().and_then(|t| ENDS.iter().find_map(|end| t.token_to_id(end)));
        Ok(Encoder { tokenizer, end, mask_prompts })
    }

    fn text(&self, text: &str, learn: bool, out: &mut Vec<Token>) -> Result<(), String> {
        let tokenizer =
            self.tokenizer.as_ref().ok_or("text needs a tokenizer (--tokenizer tokenizer.json)")?;
        let encoding = tokenizer.encode_fast(text, false).map_err(|e| e.to_string())?;
        out.extend(encoding.get_ids().iter().map(|&id| Token { id, learn }));
        Ok(())
    }

    fn end(&self, out: &mut Vec<Token>) {
        out.extend(self.end.map(|id| Token { id, learn: true }));
    }

    /// The documents of one JSON line: `text`; `prompt` with `response` or several `responses`; or `messages`.
    fn line(&self, line: &str) -> Result<Vec<Token>, String> {
        let value: Value = serde_json::from_str(line).map_err(|e| format!("is no JSON: {e}"))?;
        let mut out = Vec::new();
        let field = |name: &str| value.get(name).and_then(Value::as_str);
        if let Some(messages) = value.get("messages").and_then(Value::as_array) {
            for message in messages {
                let part = |name: &str| message.get(name).and_then(Value::as_str);
                let content = part("content").ok_or("has a message without content")?;
                let answer = part("role") == Some("assistant");
                self.text(content, answer || !self.mask_prompts, &mut out)?;
                match answer {
                    true => self.end(&mut out),
                    false => self.text("\n", !self.mask_prompts, &mut out)?,
                }
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
        let text = field("text").ok_or("has none of text, messages, or prompt with response or responses")?;
        self.text(text, true, &mut out)?;
        self.end(&mut out);
        Ok(out)
    }
}

/// A teacher's answer: text, or an object that holds it.
fn response(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("response").or_else(|| value.get("text"))?.as_str())
}

impl Documents {
    pub fn open(path: &Path, offset: u64) -> Result<Self> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        let reader = || -> Result<BufReader<File>> {
            let mut file = File::open(path).map_err(|e| Error::read(path, e))?;
            file.seek(SeekFrom::Start(offset)).map_err(|e| Error::read(path, e))?;
            Ok(BufReader::with_capacity(1 << 16, file))
        };
        let kind = match extension.as_str() {
            "npy" => Kind::Npy(Npy::open(path)?),
            "safetensors" => ids_of(path)?,
            "jsonl" | "ndjson" | "json" => Kind::Jsonl(reader()?),
            "parquet" | "gz" | "zst" | "zip" => {
                return Err(Error::data(
                    path,
                    "is not a form of data that is read; there are text, .jsonl, .npy and .safetensors",
                ));
            }
            _ => Kind::Text(reader()?),
        };
        Ok(Documents { path: path.to_path_buf(), kind, offset })
    }

    /// The next document; `None` at the end.
    pub fn next(&mut self, encoder: &Encoder) -> Result<Option<Document>> {
        let io = |e| Error::read(&self.path, e);
        match &mut self.kind {
            Kind::Jsonl(reader) => {
                let mut line = Vec::new();
                let n = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(io)?;
                self.offset += n as u64;
                if n == 0 {
                    return Ok(None);
                }
                let Ok(text) = std::str::from_utf8(&line) else {
                    return Ok(Some(Document::Bad("is not UTF-8".into())));
                };
                if text.trim().is_empty() {
                    return Ok(Some(Document::Tokens(Vec::new())));
                }
                Ok(Some(encoder.line(text).map_or_else(Document::Bad, Document::Tokens)))
            }
            Kind::Text(reader) => {
                let mut piece = Vec::new();
                reader.by_ref().take(PIECE).read_to_end(&mut piece).map_err(io)?;
                reader.by_ref().take(PIECE).read_until(b'\n', &mut piece).map_err(io)?;
                // A character is not cut: at most three bytes follow its first.
                for _ in 0..3 {
                    match reader.fill_buf().map_err(io)?.first() {
                        Some(&byte) if byte & 0xc0 == 0x80 => {
                            piece.push(byte);
                            reader.consume(1);
                        }
                        _ => break,
                    }
                }
                if piece.is_empty() {
                    return Ok(None);
                }
                self.offset += piece.len() as u64;
                let at_end = reader.fill_buf().map_err(io)?.is_empty();
                let Ok(text) = std::str::from_utf8(&piece) else {
                    return Ok(Some(Document::Bad("is not UTF-8".into())));
                };
                let mut tokens = Vec::new();
                if let Err(why) = encoder.text(text, true, &mut tokens) {
                    return Err(Error::data(&self.path, why));
                }
                if at_end {
                    encoder.end(&mut tokens);
                }
                Ok(Some(Document::Tokens(tokens)))
            }
            Kind::Npy(npy) => {
                let left = npy.rows.saturating_sub(self.offset);
                let count = left.min(if npy.flat { IDS } else { 1 });
                let ids = npy.read(self.offset, count as usize)?;
                self.offset += count;
                Ok((count > 0).then(|| ready_made(&ids, npy.flat)))
            }
            Kind::Ids { ids, cols, flat } => {
                let rows = (ids.len() / *cols) as u64;
                let count = rows.saturating_sub(self.offset).min(if *flat { IDS } else { 1 });
                let first = self.offset as usize * *cols;
                self.offset += count;
                let ids = &ids[first..first + count as usize * *cols];
                Ok((count > 0).then(|| ready_made(ids, *flat)))
            }
        }
    }
}

fn ready_made(ids: &[u32], flat: bool) -> Document {
    let tokens: Vec<Token> = ids.iter().map(|&id| Token { id, learn: true }).collect();
    if flat { Document::Tokens(tokens) } else { Document::Window(tokens) }
}

/// The tensor of token ids in a SafeTensors file: the one integer tensor, or the one called as such are called.
fn ids_of(path: &Path) -> Result<Kind> {
    const NAMES: [&str; 5] = ["ids", "input_ids", "tokens", "token_ids", "batches"];
    let checkpoint = ckpt_inspect::open(path)?;
    let integer = |t: &&ckpt_inspect::TensorInfo| {
        use ckpt_inspect::DType::{I16, I32, I64, U8, U16, U32, U64};
        matches!(t.dtype, I16 | I32 | I64 | U8 | U16 | U32 | U64)
    };
    let all: Vec<_> = checkpoint.tensors.iter().filter(integer).collect();
    let tensor = match all.as_slice() {
        [one] => *one,
        several => *several.iter().find(|t| NAMES.contains(&t.name.as_str())).ok_or_else(|| {
            Error::data(path, format!("has {} integer tensors and none is called `ids`", several.len()))
        })?,
    };
    // Ids above 2^24 would not survive f32, and no vocabulary has them.
    let id = |value: f32| (0.0..16_777_216.0).contains(&value).then_some(value as u32);
    let ids: Option<Vec<u32>> = checkpoint.values(tensor)?.into_iter().map(id).collect();
    let ids =
        ids.ok_or_else(|| Error::data(path, format!("`{}` holds a value that is no token id", tensor.name)))?;
    let flat = tensor.shape.len() < 2;
    let cols = if flat { 1 } else { *tensor.shape.last().unwrap_or(&1) };
    if cols == 0 || ids.is_empty() {
        return Err(Error::data(path, format!("`{}` is empty", tensor.name.escape_debug())));
    }
    Ok(Kind::Ids { ids, cols, flat })
}
