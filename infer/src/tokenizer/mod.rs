//! From text to tokens and back: tokenizer.json, SentencePiece's tokenizer.model, and a GGUF file's own vocabulary.

mod guard;
mod library;
mod pattern;
mod prepare;
mod scores;
mod special;
mod stream;

use ckpt_inspect::stored::Stored;
use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ckpt_inspect::Checkpoint;
use ckpt_inspect::vocabulary::{
    CHAT_TEMPLATE, FILE_NAMES, FileKind, Role, Token, TokenType, Vocabulary, byte, read_file,
};

use crate::{Error, Result};
pub use guard::panic_is_caught;
pub use library::tokenizer_fault;
use library::{ByteLevel, Json, Unigram};
use scores::Scores;
pub use special::FIM_TEXTS;
use special::Partition;
pub use stream::TextStream;

/// Splits text into a model's tokens, and joins them again.
#[derive(Debug)]
pub struct Tokenizer {
    path: PathBuf,
    vocabulary: Vocabulary,
    partition: Partition,
    cutter: Cutter,
    /// The tokens that the model's rule puts before and after a text.
    begin: Vec<u32>,
    end: Vec<u32>,
    stops: Vec<u32>,
    fim: Option<FimTokens>,
    /// The text of each token; `None` if it depends on neighbouring tokens.
    pieces: Option<Vec<Piece>>,
    /// The texts of plain tokens, made on demand.
    words: OnceLock<HashSet<Box<[u8]>>>,
    warnings: Vec<String>,
}

/// How text without special tokens is split.
#[derive(Debug)]
enum Cutter {
    /// By tokenizer.json, including special tokens.
    Json(Box<Json>),
    ByteLevel(ByteLevel),
    Scores(Scores),
    Unigram(Unigram),
}

/// A token, and the bytes of a text that it is of.
type Placed = (u32, Range<usize>);

/// The text of a token.
#[derive(Debug, Default)]
struct Piece {
    bytes: Box<[u8]>,
    /// Whether it is not text: control tokens and the like.
    special: bool,
}

/// The tokens of fill-in-the-middle prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FimTokens {
    /// Before the prefix.
    pub prefix: u32,
    /// Before the suffix.
    pub suffix: u32,
    /// Before the middle.
    pub middle: u32,
}

/// Whether special tokens that are written out in a text are read as tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Specials {
    /// `<s>` is three characters.
    AsText,
    /// `<s>` is the token that begins a text.
    Parsed,
}

impl Tokenizer {
    /// Reads the tokenizer at `path`: a tokenizer.json, a tokenizer.model or a GGUF file, recognised by content, or a
    /// folder that contains one of the first two. Files next to it in its folder say which tokens have a role.
    ///
    /// # Errors
    /// `Checkpoint` for a file that cannot be read, is damaged or of an unknown kind; `Tokenizer`.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_stored_folder() {
            let what = "contains neither tokenizer.json nor tokenizer.model";
            return Self::in_folder(path)?
                .ok_or_else(|| Error::Tokenizer { path: path.into(), what: what.into() });
        }
        if FileKind::of(path)? != FileKind::Json {
            return Self::of_vocabulary(Vocabulary::read(path)?, path);
        }
        let bytes = read_file(path)?;
        let wrong = |what: String| Error::Tokenizer { path: path.into(), what };
        let (json, tokens) = Json::read(&bytes).map_err(wrong)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let vocabulary = Vocabulary::listed("json", tokens, folder).map_err(|e| e.in_file(path))?;
        let (begin, end) = json.around().map_err(wrong)?;
        let pieces = json.is_byte_level().then(|| byte_level_pieces(&vocabulary));
        let partition = Partition::new(&vocabulary);
        Ok(Self::assemble(path, vocabulary, partition, Cutter::Json(Box::new(json)), (begin, end), pieces))
    }

    /// The tokenizer of `checkpoint`: a GGUF file's own, else the one next to the file, or in the folder above.
    /// `None` when there is none.
    ///
    /// # Errors
    /// Those of [`Tokenizer::open`].
    pub fn of(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        if let Some(own) = Self::embedded(checkpoint)? {
            return Ok(Some(own));
        }
        let path = checkpoint.path.stored_identity().unwrap_or_else(|_| checkpoint.path.clone());
        let folder = if path.is_stored_folder() { Some(path.as_path()) } else { path.parent() };
        for folder in [folder, folder.and_then(Path::parent)].into_iter().flatten() {
            if let Some(found) = Self::in_folder(folder)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn in_folder(folder: &Path) -> Result<Option<Self>> {
        let mut files = FILE_NAMES.map(|name| folder.join(name)).into_iter();
        files.find(|path| path.is_stored_file()).map(|path| Self::open(&path)).transpose()
    }

    fn embedded(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let vocabulary = Vocabulary::embedded(checkpoint)?;
        vocabulary.map(|vocabulary| Self::of_vocabulary(vocabulary, &checkpoint.path)).transpose()
    }

    fn of_vocabulary(mut vocabulary: Vocabulary, path: &Path) -> Result<Self> {
        let wrong = |what: String| Error::Tokenizer { path: path.into(), what };
        let mut warnings = Vec::new();
        vocabulary.settle_usual_roles();
        let (cutter, pieces) = match vocabulary.model.as_str() {
            "gpt2" => {
                let cutter = ByteLevel::new(&vocabulary, &mut warnings).map_err(wrong)?;
                (Cutter::ByteLevel(cutter), byte_level_pieces(&vocabulary))
            }
            "llama" => {
                let cutter = Cutter::Scores(Scores::new(&vocabulary).map_err(wrong)?);
                (cutter, sentencepiece_pieces(&vocabulary))
            }
            "t5" => {
                let cutter = Unigram::new(&vocabulary).map_err(wrong)?;
                (Cutter::Unigram(cutter), sentencepiece_pieces(&vocabulary))
            }
            other => {
                return Err(wrong(format!(
                    "its tokenizer is of the kind `{}`; only gpt2, llama and t5 are supported, so give a tokenizer file",
                    ckpt_inspect::printable(other)
                )));
            }
        };
        let [begin, end] = vocabulary.around().map(|id| id.into_iter().collect::<Vec<u32>>());
        let partition = Partition::new(&vocabulary);
        let mut tokenizer = Self::assemble(path, vocabulary, partition, cutter, (begin, end), Some(pieces));
        tokenizer.warnings = warnings;
        Ok(tokenizer)
    }

    fn assemble(
        path: &Path,
        vocabulary: Vocabulary,
        partition: Partition,
        cutter: Cutter,
        (begin, end): (Vec<u32>, Vec<u32>),
        pieces: Option<Vec<Piece>>,
    ) -> Self {
        let (stops, fim) = (special::stops(&vocabulary, &partition), special::fim(&vocabulary, &partition));
        let path = path.to_path_buf();
        let (words, warnings) = (OnceLock::new(), Vec::new());
        Tokenizer { path, vocabulary, partition, cutter, begin, end, stops, fim, pieces, words, warnings }
    }

    /// The tokens of `text`, and nothing else.
    ///
    /// # Errors
    /// `Tokenizer` if the vocabulary has neither a token for a character, nor one for unknown characters.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        let wrong = |what: String| Error::Tokenizer { path: self.path.clone(), what };
        let mut ids = Vec::new();
        if let Cutter::Json(json) = &self.cutter {
            json.encode(text, specials == Specials::Parsed, &mut ids).map_err(wrong)?;
            return Ok(ids);
        }
        for part in self.partition.parts(text, specials == Specials::Parsed) {
            match part {
                special::Part::Token(id) => ids.push(id),
                special::Part::Text(text) => match &self.cutter {
                    Cutter::Scores(cutter) => cutter.encode(text, &mut ids).map_err(wrong)?,
                    Cutter::ByteLevel(cutter) => cutter.encode(text, &mut ids).map_err(wrong)?,
                    Cutter::Unigram(cutter) => cutter.encode(text, &mut ids).map_err(wrong)?,
                    Cutter::Json(_) => {}
                },
            }
        }
        Ok(ids)
    }

    /// The same as [`Tokenizer::encode`], each token with the bytes of `text` that it is of. Tokens of one character may all be
    /// of its bytes, and one that stands for no character of the text is of none.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn place(&self, text: &str, specials: Specials) -> Result<Vec<(u32, Range<usize>)>> {
        let wrong = |what: String| Error::Tokenizer { path: self.path.clone(), what };
        let mut placed = Vec::new();
        if let Cutter::Json(json) = &self.cutter {
            json.place(text, specials == Specials::Parsed, &mut placed).map_err(wrong)?;
            return Ok(placed);
        }
        let mut left = text;
        for part in self.partition.parts(text, specials == Specials::Parsed) {
            let (at, first) = (text.len() - left.len(), placed.len());
            let part = match part {
                special::Part::Token(id) => {
                    let length = self.vocabulary.tokens.get(id as usize).map_or(0, |token| token.text.len());
                    placed.push((id, 0..length));
                    length
                }
                special::Part::Text(text) => {
                    match &self.cutter {
                        Cutter::Scores(cutter) => cutter.place(text, &mut placed).map_err(wrong)?,
                        Cutter::ByteLevel(cutter) => cutter.place(text, &mut placed).map_err(wrong)?,
                        Cutter::Unigram(cutter) => cutter.place(text, &mut placed).map_err(wrong)?,
                        Cutter::Json(_) => {}
                    }
                    text.len()
                }
            };
            for (_, range) in &mut placed[first..] {
                *range = range.start + at..range.end + at;
            }
            left = left.get(part..).unwrap_or_default();
        }
        Ok(placed)
    }

    /// The tokens of a text to continue, with the tokens that the model's rule adds before a text, unless they are
    /// there already, and without those that it adds after one.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn prompt(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        let ids = self.encode(text, specials)?;
        let written = !self.begin.is_empty() && ids.starts_with(&self.begin);
        Ok(if written { ids } else { [self.begin.as_slice(), &ids].concat() })
    }

    /// The text of `ids`, without special tokens. Invalid UTF-8 becomes U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.stream(&[], false);
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text += &stream.finish();
        if self.space_prefix() && text.starts_with(' ') {
            text.remove(0);
        }
        text
    }

    /// Joins tokens one by one. `context` is the known text before the first of them;
    /// `show_special` shows special tokens too.
    pub fn stream(&self, context: &[u32], show_special: bool) -> TextStream<'_> {
        TextStream::new(self, context, show_special)
    }

    /// Whether a space is put before text, and is therefore there after decoding.
    fn space_prefix(&self) -> bool {
        match &self.cutter {
            Cutter::Scores(cutter) => cutter.prefix(),
            Cutter::Unigram(cutter) => cutter.prefix(),
            Cutter::Json(_) | Cutter::ByteLevel(_) => false,
        }
    }

    /// Where it was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of tokens; ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// The tokens that the model's rule puts before a text.
    pub fn begin(&self) -> &[u32] {
        &self.begin
    }

    /// The tokens that the model's rule puts after a complete text.
    pub fn end(&self) -> &[u32] {
        &self.end
    }

    /// Tokens that end an answer: the one that ends a text, and those that end a turn.
    pub fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// The fill-in-the-middle tokens, if the vocabulary has them.
    pub fn fim(&self) -> Option<FimTokens> {
        self.fim
    }

    /// A token's text in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        let token = self.vocabulary.tokens.get(id as usize)?;
        Some(String::from_utf8_lossy(&token.text).into_owned())
    }

    /// The bytes of a token; `None` if they depend on its neighbours.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        self.pieces.as_ref()?.get(id as usize).map(|piece| &*piece.bytes)
    }

    /// Whether a token is not text, such as the one that begins a text.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocabulary.tokens.get(id as usize).is_none_or(|token| is_special(token.kind))
    }

    /// Whether a plain token has exactly the text `text`.
    pub fn is_word(&self, text: &str) -> bool {
        self.words.get_or_init(|| {
            let pieces = self.pieces.iter().flatten().filter(|piece| !piece.special);
            match &self.pieces {
                Some(_) => pieces.map(|piece| piece.bytes.clone()).collect(),
                // Tokens of other kinds mark a space or the inside of a word in one of these ways.
                None => {
                    let plain = self.vocabulary.tokens.iter().map(|t| String::from_utf8_lossy(&t.text));
                    plain
                        .map(|t| t.replace(['▁', 'Ġ'], " ").trim_start_matches("##").as_bytes().into())
                        .collect()
                }
            }
        });
        self.words.get().is_some_and(|words| words.contains(text.as_bytes()))
    }

    /// The id of a special token.
    pub fn special(&self, text: &str) -> Option<u32> {
        self.partition.id(text)
    }

    /// The token with a role.
    pub fn role(&self, role: Role) -> Option<u32> {
        self.vocabulary.role(role)
    }

    /// Whether the files beside the tokenizer say that no token has a role.
    pub fn says_none(&self, role: Role) -> bool {
        self.vocabulary.none.contains(&role)
    }

    /// The model's own chat template, in Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        match self.vocabulary.keys.get(CHAT_TEMPLATE) {
            Some(ckpt_inspect::gguf::Value::String(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Warnings for the user.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Checks that a model with `rows` embeddings knows every token.
    ///
    /// # Errors
    /// `Tokenizer` when it does not: then this is another model's tokenizer.
    pub fn check(&self, rows: usize) -> Result<()> {
        let count = self.vocab_size();
        if count <= rows {
            return Ok(());
        }
        Err(Error::Tokenizer {
            path: self.path.clone(),
            what: format!(
                "has {count} tokens and the model's embedding {rows} rows, so it belongs to another model; give the right one"
            ),
        })
    }
}

fn is_special(kind: TokenType) -> bool {
    matches!(kind, TokenType::Control | TokenType::Unknown | TokenType::Unused)
}

/// Byte-level vocabularies write each byte as a printable character, GPT-2's way; what a file adds is plain text.
fn byte_level_pieces(vocabulary: &Vocabulary) -> Vec<Piece> {
    let bytes = library::bytes_of_chars();
    let piece = |token: &Token| {
        let plain = || token.text.clone();
        let text = match token.kind {
            TokenType::Normal => std::str::from_utf8(&token.text)
                .ok()
                .and_then(|text| text.chars().map(|c| bytes.get(&c).copied()).collect())
                .unwrap_or_else(plain),
            _ => plain(),
        };
        Piece { bytes: text.into(), special: is_special(token.kind) }
    };
    vocabulary.tokens.iter().map(piece).collect()
}

/// SentencePiece writes a space as ▁, and a byte that no token has as `<0x0A>`.
fn sentencepiece_pieces(vocabulary: &Vocabulary) -> Vec<Piece> {
    let piece = |token: &Token| {
        let bytes = match (token.kind, byte(&token.text)) {
            (TokenType::Byte, Some(byte)) => vec![byte],
            (TokenType::Normal | TokenType::UserDefined, _) => {
                String::from_utf8_lossy(&token.text).replace('▁', " ").into_bytes()
            }
            _ => token.text.clone(),
        };
        Piece { bytes: bytes.into(), special: is_special(token.kind) }
    };
    vocabulary.tokens.iter().map(piece).collect()
}
