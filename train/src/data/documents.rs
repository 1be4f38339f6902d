//! Documents of data files, one after another, from any position on: JSONL lines, Parquet rows and pieces of text,
//! tokenized; or ready-made ids.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ckpt_inspect::{Checkpoint, TensorInfo};

use super::Token;
use super::encoder::{Encoder, NO_TOKENIZER};
use super::npy::Npy;
use super::packed::{self, Packing};
use super::parquet::Parquet;
use super::shard::{Place, Recorder, Shard};
use crate::{Error, Result};

/// Text is tokenized in pieces of about this many bytes, split at line ends.
const PIECE: u64 = 1 << 14;
/// Longer lines are invalid.
pub(super) const MAX_LINE: u64 = 1 << 26;
/// Ids of a one-dimensional array that are read at a time.
const IDS: u64 = 1 << 12;

/// Why a compressed file is not read.
const PACKED: &str = "is compressed in a way that is not read here; decompress it first (text and JSONL are read from .gz and .zst)";

/// Why a line is not read.
pub(super) const NOT_TEXT: &str = "is not UTF-8";

/// UTF-8's, which is no part of the text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Why a file in another encoding is not read.
const UTF_16: &str = "is UTF-16 text, and only UTF-8 is read; `iconv -f UTF-16 -t UTF-8` converts it";

/// Text, decompressed where it is compressed.
pub(super) type Lines = Box<dyn BufRead + Send>;

/// What a file contains.
enum Kind {
    /// One JSON object per line.
    Jsonl(Lines),
    Text(Lines),
    Parquet(Parquet),
    /// The same as cached tokens.
    Shard(Shard),
    Npy(Npy),
    /// Rows of a SafeTensors file's tensor.
    Ids {
        ids: Vec<u32>,
        cols: usize,
        flat: bool,
    },
}

/// One document.
#[derive(Debug)]
pub(super) enum Document {
    /// Tokens to be packed with neighbouring documents.
    Tokens(Vec<Token>),
    /// An unchanged sequence.
    Window(Vec<Token>),
    /// The same, without the lines at these offsets from its beginning, which are not text.
    Mended { tokens: Vec<Token>, bad: Vec<u32> },
    /// Not a document, and why.
    Bad(String),
    /// Skipped, and so not tokenized.
    Skipped,
}

/// One data file, open.
pub(super) struct Documents {
    path: PathBuf,
    kind: Kind,
    /// Byte or row of the next document.
    pub offset: u64,
    /// Bytes or rows of the file, if known.
    pub end: Option<u64>,
    recorder: Option<Recorder>,
}

impl Documents {
    /// Opens `path` at `offset`. `shard` says where its tokens are kept; they are read from there, and with `record`
    /// written there when they are not there yet.
    pub fn open(
        path: &Path,
        offset: u64,
        shard: Option<Place>,
        record: bool,
        encoder: &Encoder,
    ) -> Result<Self> {
        let mut documents = Self::source(path, offset, encoder)?;
        let text = matches!(documents.kind, Kind::Jsonl(_) | Kind::Text(_) | Kind::Parquet(_));
        let Some(place) = shard.filter(|_| text) else { return Ok(documents) };
        match Shard::open(&place, offset) {
            Some(shard) => documents.kind = Kind::Shard(shard),
            None if offset == 0 && record => documents.recorder = Recorder::begin(place),
            None => {}
        }
        Ok(documents)
    }

    fn source(path: &Path, offset: u64, encoder: &Encoder) -> Result<Self> {
        let (extension, packing) = kind_of(path);
        let mut end = None;
        let mut reader = || -> Result<Lines> {
            let mut lines;
            (lines, end) = lines_of(path, packing, offset).map_err(|e| Error::read(path, e))?;
            let is_utf_16 = |bytes: &[u8]| bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
            if offset == 0 && is_utf_16(lines.fill_buf().map_err(|e| Error::read(path, e))?) {
                return Err(Error::data(path, UTF_16));
            }
            Ok(lines)
        };
        let kind = match extension.as_str() {
            extension if is_jsonl(extension) => Kind::Jsonl(reader()?),
            "npy" | "safetensors" | "parquet" | "tar" if packing.is_some() => {
                return Err(Error::data(path, PACKED));
            }
            "npy" => Kind::Npy(Npy::open(path)?),
            "safetensors" => ids_of(path)?,
            // The reader itself refuses positions beyond its last row.
            "parquet" => Kind::Parquet(Parquet::open(path, offset, &encoder.columns())?),
            "zip" | "xz" | "bz2" | "tar" | "tgz" | "7z" | "lz4" | "br" => {
                return Err(Error::data(path, PACKED));
            }
            _ => Kind::Text(reader()?),
        };
        let end = match &kind {
            Kind::Npy(npy) => Some(npy.rows),
            Kind::Ids { ids, cols, .. } => Some((ids.len() / cols) as u64),
            _ => end,
        };
        Ok(Documents { path: path.to_path_buf(), kind, offset, end, recorder: None })
    }

    /// The next document; `None` at the end. One that is not `wanted` is passed over.
    pub fn next(&mut self, encoder: &Encoder, wanted: bool) -> Result<Option<Document>> {
        if let Kind::Shard(shard) = &mut self.kind {
            match shard.next() {
                Some(Some((document, next))) => {
                    self.offset = next;
                    return Ok(Some(document));
                }
                Some(None) => return Ok(None),
                // A damaged shard is harmless: the data itself is still there, and the next pass keeps its tokens anew.
                None => self.kind = Self::source(&self.path, self.offset, encoder)?.kind,
            }
        }
        let document = self.read(encoder, wanted || self.recorder.is_some())?;
        let recorder = self.recorder.take();
        self.recorder = match (&document, recorder) {
            (Some(document), Some(mut recorder)) => recorder.add(document, self.offset).map(|()| recorder),
            (None, Some(recorder)) => {
                // If tokens cannot be cached, they are made again next time.
                let _ = recorder.end();
                None
            }
            (_, None) => None,
        };
        Ok(document)
    }

    fn read(&mut self, encoder: &Encoder, wanted: bool) -> Result<Option<Document>> {
        let io = |e| Error::read(&self.path, e);
        if encoder.fingerprint().is_none()
            && matches!(self.kind, Kind::Jsonl(_) | Kind::Text(_) | Kind::Parquet(_))
        {
            return Err(Error::data(&self.path, NO_TOKENIZER));
        }
        match &mut self.kind {
            Kind::Jsonl(reader) => {
                let (mut line, mut n) = (Vec::new(), 0);
                // Empty lines belong to the one after them, many of them to none.
                while n < MAX_LINE as usize && line.trim_ascii().is_empty() {
                    line.clear();
                    match reader.take(MAX_LINE).read_until(b'\n', &mut line).map_err(io)? {
                        0 => break,
                        read => n += read,
                    }
                }
                if self.offset == 0 && line.starts_with(BYTE_ORDER_MARK) {
                    line.drain(..BYTE_ORDER_MARK.len());
                }
                self.offset += n as u64;
                if n == 0 {
                    return Ok(None);
                }
                if !wanted {
                    return Ok(Some(Document::Skipped));
                }
                let Ok(text) = std::str::from_utf8(&line) else {
                    return Ok(Some(Document::Bad(NOT_TEXT.into())));
                };
                if text.trim().is_empty() {
                    return Ok(Some(Document::Tokens(Vec::new())));
                }
                Ok(Some(encoder.line(text).map_or_else(Document::Bad, Document::Tokens)))
            }
            Kind::Parquet(parquet) => {
                let Some(record) = parquet.next()? else { return Ok(None) };
                self.offset += 1;
                Ok(Some(match wanted {
                    true => encoder.record(&record).map_or_else(Document::Bad, Document::Tokens),
                    false => Document::Skipped,
                }))
            }
            Kind::Text(reader) => {
                let piece = piece(reader).map_err(io)?;
                if piece.is_empty() {
                    return Ok(None);
                }
                let is_first = self.offset == 0;
                self.offset += piece.len() as u64;
                if !wanted {
                    return Ok(Some(Document::Skipped));
                }
                let at_end = reader.fill_buf().map_err(io)?.is_empty();
                let (text, bad) = mended(&piece);
                let text = if is_first { text.trim_start_matches('\u{feff}') } else { &text };
                let mut tokens = Vec::new();
                if let Err(why) = encoder.text(text, true, &mut tokens) {
                    return Err(Error::data(&self.path, why));
                }
                if is_first {
                    encoder.begin(0, &mut tokens);
                }
                if at_end {
                    encoder.end(&mut tokens);
                }
                Ok(Some(match bad.is_empty() {
                    true => Document::Tokens(tokens),
                    false => Document::Mended { tokens, bad },
                }))
            }
            Kind::Npy(npy) => {
                let left = npy.rows.saturating_sub(self.offset);
                let count = left.min(if npy.flat { IDS } else { 1 });
                if count == 0 {
                    return Ok(None);
                }
                let ids = npy.read(self.offset, count as usize)?;
                self.offset += count;
                Ok(Some(ready_made(&ids, npy.flat)))
            }
            Kind::Ids { ids, cols, flat } => {
                let rows = (ids.len() / *cols) as u64;
                let count = rows.saturating_sub(self.offset).min(if *flat { IDS } else { 1 });
                if count == 0 {
                    return Ok(None);
                }
                let first = self.offset as usize * *cols;
                self.offset += count;
                Ok(Some(ready_made(&ids[first..first + count as usize * *cols], *flat)))
            }
            // Its documents are read from it directly.
            Kind::Shard(_) => Ok(None),
        }
    }
}

pub(super) fn is_jsonl(extension: &str) -> bool {
    matches!(extension, "jsonl" | "ndjson" | "json")
}

/// Whether the file at `path` holds token ids, and no text.
pub(super) fn is_ready_made(path: &Path) -> bool {
    matches!(kind_of(path).0.as_str(), "npy" | "safetensors")
}

/// The extension that says what is in the file at `path`, in lower case, and how that is compressed, by one behind it.
pub(super) fn kind_of(path: &Path) -> (String, Option<Packing>) {
    let extension =
        |path: &Path| path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let outer = extension(path);
    match packed::by_extension(&outer) {
        Some(packing) => (extension(Path::new(path.file_stem().unwrap_or_default())), Some(packing)),
        None => (outer, None),
    }
}

/// The text of the file at `path` from byte `offset` on, and how many bytes it has, if that is known.
pub(super) fn lines_of(
    path: &Path,
    packing: Option<Packing>,
    offset: u64,
) -> io::Result<(Lines, Option<u64>)> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let Some(packing) = packing else {
        let end = metadata.is_file().then_some(metadata.len());
        file.seek(SeekFrom::Start(end.map_or(offset, |end| offset.min(end))))?;
        return Ok((Box::new(BufReader::with_capacity(1 << 16, file)), end));
    };
    let mut lines = BufReader::with_capacity(1 << 16, packing(file)?);
    let passed = io::copy(&mut lines.by_ref().take(offset), &mut io::sink())?;
    Ok((Box::new(lines), (passed < offset).then_some(passed)))
}

/// The next piece of a text: whole lines where they are short, and whole characters; empty at the end.
fn piece(reader: &mut (dyn BufRead + Send)) -> io::Result<Vec<u8>> {
    let mut piece = Vec::new();
    (&mut *reader).take(PIECE).read_to_end(&mut piece)?;
    if piece.last() != Some(&b'\n') {
        (&mut *reader).take(PIECE).read_until(b'\n', &mut piece)?;
    }
    // Characters are not split: at most three bytes follow the first byte of one.
    for _ in 0..3 {
        match reader.fill_buf()?.first() {
            Some(&byte) if byte & 0xc0 == 0x80 => {
                piece.push(byte);
                reader.consume(1);
            }
            _ => break,
        }
    }
    Ok(piece)
}

/// The lines of `piece` that are text, and where the others begin.
fn mended(piece: &[u8]) -> (Cow<'_, str>, Vec<u32>) {
    if let Ok(text) = std::str::from_utf8(piece) {
        return (text.into(), Vec::new());
    }
    let (mut text, mut bad, mut at) = (String::new(), Vec::new(), 0);
    for line in piece.split_inclusive(|&byte| byte == b'\n') {
        match std::str::from_utf8(line) {
            Ok(line) => text.push_str(line),
            Err(_) => bad.push(at),
        }
        at += line.len() as u32;
    }
    (text.into(), bad)
}

/// What is at `offset` of the file at `path`, for a message: the number of a row or, by counting, of a line, from 1 on.
pub(super) fn place(path: &Path, offset: u64) -> String {
    let (extension, packing) = kind_of(path);
    if extension == "parquet" {
        return format!("row {}", offset.saturating_add(1));
    }
    let lines = || {
        let mut reader = lines_of(path, packing, 0).ok()?.0;
        let (mut lines, mut left) = (1u64, offset);
        loop {
            let bytes = reader.fill_buf().ok()?;
            let before = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (passed, rest) = bytes.split_at(before);
            lines += passed.iter().filter(|&&byte| byte == b'\n').count() as u64;
            // Empty lines of JSONL belong to the line after them.
            let empty = match is_jsonl(&extension) && left as usize == before {
                true => rest.len() - rest.trim_ascii_start().len(),
                false => 0,
            };
            lines += rest[..empty].iter().filter(|&&byte| byte == b'\n').count() as u64;
            left -= before as u64;
            if bytes.is_empty() || empty < rest.len() || !is_jsonl(&extension) && left == 0 {
                return Some(lines);
            }
            let read = before + empty;
            reader.consume(read);
        }
    };
    lines().map_or(format!("the line at byte {offset}"), |lines| format!("line {lines}"))
}

fn ready_made(ids: &[u32], flat: bool) -> Document {
    let tokens: Vec<Token> = ids.iter().map(|&id| Token { id, learn: true }).collect();
    if flat { Document::Tokens(tokens) } else { Document::Window(tokens) }
}

/// Ready-made sequences of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sequences {
    /// How many there are.
    pub count: u64,
    /// Tokens of each.
    pub tokens: usize,
}

/// The ready-made sequences of the file at `path`, as its header says; `None` for text and for one stream of ids.
pub(crate) fn sequences_of(path: &Path) -> Result<Option<Sequences>> {
    match kind_of(path) {
        (extension, None) if extension == "npy" => {
            let npy = Npy::open(path)?;
            Ok((!npy.flat).then_some(Sequences { count: npy.rows, tokens: npy.cols }))
        }
        (extension, None) if extension == "safetensors" => {
            let checkpoint = ckpt_inspect::open(path)?;
            let shape = &ids_tensor(path, &checkpoint)?.shape;
            let [rows @ .., tokens] = shape.as_slice() else { return Ok(None) };
            let count = rows.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
            Ok((!rows.is_empty()).then_some(Sequences { count, tokens: *tokens }))
        }
        _ => Ok(None),
    }
}

/// The tensor of token ids in a SafeTensors file.
fn ids_of(path: &Path) -> Result<Kind> {
    let checkpoint = ckpt_inspect::open(path)?;
    let tensor = ids_tensor(path, &checkpoint)?;
    // Ids above 2^24 would not survive f32, and no vocabulary has them.
    let id = |value: f32| (0.0..16_777_216.0).contains(&value).then_some(value as u32);
    let ids: Option<Vec<u32>> = checkpoint.values(tensor)?.into_iter().map(id).collect();
    let ids = ids.ok_or_else(|| {
        Error::data(path, format!("`{}` contains a value that is not a token id", tensor.name))
    })?;
    let flat = tensor.shape.len() < 2;
    let cols = if flat { 1 } else { *tensor.shape.last().unwrap_or(&1) };
    if cols == 0 || ids.is_empty() {
        return Err(Error::data(path, format!("`{}` is empty", tensor.name.escape_debug())));
    }
    Ok(Kind::Ids { ids, cols, flat })
}

/// The only integer tensor of a SafeTensors file, or the one with the usual name.
fn ids_tensor<'c>(path: &Path, checkpoint: &'c Checkpoint) -> Result<&'c TensorInfo> {
    const NAMES: [&str; 5] = ["ids", "input_ids", "tokens", "token_ids", "batches"];
    let integer = |t: &&TensorInfo| {
        use ckpt_inspect::DType::{I16, I32, I64, U8, U16, U32, U64};
        matches!(t.dtype, I16 | I32 | I64 | U8 | U16 | U32 | U64)
    };
    let all: Vec<_> = checkpoint.tensors.iter().filter(integer).collect();
    match all.as_slice() {
        [one] => Ok(*one),
        several => several.iter().copied().find(|t| NAMES.contains(&t.name.as_str())).ok_or_else(|| {
            Error::data(path, format!("has {} integer tensors, and none is named `ids`", several.len()))
        }),
    }
}
