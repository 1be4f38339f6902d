//! Vocabularies in the form of GGUF keys: read from tokenizer.json, a SentencePiece tokenizer.model or a GGUF file, so
//! that llama.cpp gives the same ids to the same text. Its loader (`llama_vocab::impl::load`) defines what the keys
//! mean.
//!
//! Tokenizers are only read here; text is split into tokens elsewhere.

mod beside;
mod ends;
mod json;
mod pretokenizer;
mod sentencepiece;
mod warning;

use std::io::{self, Read};
use std::path::Path;

use crate::bytes::stored::{Kind, Stored};
use crate::gguf::{Header, Keys, MAGIC, ValueType};
use crate::{Checkpoint, Error, ErrorKind, Result};
use beside::Beside;
pub use beside::{BESIDE, TEMPLATES_FOLDER, files_beside};
pub use ends::{END_TEXTS, end_ids};
pub use pretokenizer::{PreTokenizer, pre_tokenizer};
pub use warning::Warning;

/// File names of tokenizers in the folder of a model.
pub const FILE_NAMES: [&str; 2] = ["tokenizer.json", "tokenizer.model"];
/// Larger files are not tokenizers. The largest in use take about 40 MB.
const LARGEST_FILE: u64 = 128 << 20;
/// Ids without a token are filled up, this many at most.
const MOST_GAPS: usize = 1 << 16;
/// The score of a token that no merge produces, below those of all tokens that merges produce.
const LOW_SCORE: f32 = -10_000.0;

/// What a token is for, as `tokenizer.ggml.token_type` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs)] // the format's own names
#[non_exhaustive]
pub enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenType {
    fn from_number(number: i64) -> Option<Self> {
        use TokenType::*;
        [Normal, Unknown, Control, UserDefined, Unused, Byte]
            .into_iter()
            .find(|t| i64::from(*t as i32) == number)
    }
}

/// One entry of a vocabulary.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Token {
    /// Its text; bytes, since those of SentencePiece need not be UTF-8.
    pub text: Vec<u8>,
    /// Order of merges: the one that makes the token with the highest score is first. Not used if
    /// [`Vocabulary::merges`] are listed.
    pub score: f32,
    /// What it is for.
    pub kind: TokenType,
}

impl Token {
    /// A token.
    pub fn new(text: impl Into<Vec<u8>>, score: f32, kind: TokenType) -> Self {
        Token { text: text.into(), score, kind }
    }

    /// A filler for an id without a token.
    fn padding(id: usize) -> Self {
        Token::new(format!("[PAD{id}]"), LOW_SCORE, TokenType::Unused)
    }
}

/// A token's special role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // their usual names
#[non_exhaustive]
pub enum Role {
    Bos,
    Eos,
    Unk,
    Sep,
    Pad,
    Cls,
    Mask,
}

/// Each role, in order, with its name in Hugging Face's files and its key in GGUF (one key really is misspelt).
const ROLE_KEYS: [(Role, &str, &str); 7] = [
    (Role::Bos, "bos", "tokenizer.ggml.bos_token_id"),
    (Role::Eos, "eos", "tokenizer.ggml.eos_token_id"),
    (Role::Unk, "unk", "tokenizer.ggml.unknown_token_id"),
    (Role::Sep, "sep", "tokenizer.ggml.seperator_token_id"),
    (Role::Pad, "pad", "tokenizer.ggml.padding_token_id"),
    (Role::Cls, "cls", "tokenizer.ggml.cls_token_id"),
    (Role::Mask, "mask", "tokenizer.ggml.mask_token_id"),
];

/// The chat template, by GGUF's name; others have names of their own after it and a dot, which [`CHAT_TEMPLATES`] lists.
pub const CHAT_TEMPLATE: &str = "tokenizer.chat_template";
/// The names of further chat templates.
pub const CHAT_TEMPLATES: &str = "tokenizer.chat_templates";
const MERGES_KEY: &str = "tokenizer.ggml.merges";
const CHARSMAP_KEY: &str = "tokenizer.ggml.precompiled_charsmap";
const SPACE_PREFIX_KEY: &str = "tokenizer.ggml.add_space_prefix";
const TRIMS_KEY: &str = "tokenizer.ggml.remove_extra_whitespaces";
/// Whether text is brought into Unicode's form NFC, where that is not what the pre-tokenizer's name stands for.
const NFC_KEY: &str = "tokenizer.ckpt.nfc";
/// Keys whose values are fields of [`Vocabulary`].
const OWN_KEYS: [&str; 7] = [
    ends::KEY,
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    MERGES_KEY,
];

/// A vocabulary, and how text is split into its tokens.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Vocabulary {
    /// `gpt2` (byte-level BPE), `llama` (SentencePiece BPE) or `t5` (SentencePiece unigram); another file's own word.
    pub model: String,
    /// The pre-tokenizer, by llama.cpp's name.
    pub pre: Option<String>,
    /// Tokens by id.
    pub tokens: Vec<Token>,
    /// Whether scores mean something.
    pub scored: bool,
    /// Pairs to merge, the first one first, as `left right`.
    pub merges: Option<Vec<String>>,
    /// Tokens with a role.
    pub roles: Vec<(Role, u32)>,
    /// Roles that no token has, as files say.
    pub none: Vec<Role>,
    /// Tokens that end a text, besides the one with that role.
    pub ends: Vec<u32>,
    /// SentencePiece's `precompiled_charsmap`, which says how text is normalized; empty if it is not.
    pub charsmap: Vec<u8>,
    /// Whether SentencePiece drops spaces around text and all but one of those between words.
    pub trims: bool,
    /// Whether SentencePiece puts a space after text, and not before it.
    pub suffix: bool,
    /// User-defined pieces that SentencePiece finds in text itself; others are found before it has the text.
    pub within: Vec<u32>,
    /// Further keys: switches, the chat template, keys of another file.
    pub keys: Keys,
    /// What may differ in other programs.
    pub warnings: Vec<Warning>,
}

impl Vocabulary {
    /// Reads the tokenizer at `path`: a tokenizer.json, a tokenizer.model, a GGUF file ([`FileKind::of`]), or a folder
    /// that contains one of the first two. Files next to it in its folder say which tokens have a role.
    ///
    /// # Errors
    /// `Io`, `Damaged`, `Unsupported`; `NotFound` for a folder without a tokenizer.
    pub fn read(path: &Path) -> Result<Self> {
        if path.is_stored_folder() {
            let none = "contains neither tokenizer.json nor tokenizer.model";
            return Self::in_folder(path)?.ok_or_else(|| Error::new(ErrorKind::NotFound, none).in_file(path));
        }
        let beside = || Beside::read(path.parent().unwrap_or(Path::new("")));
        let vocabulary = match FileKind::of(path)? {
            FileKind::Gguf => {
                let none = || Error::unsupported("has no embedded tokenizer").in_file(path);
                return Self::embedded(&crate::open(path)?)?.ok_or_else(none);
            }
            FileKind::Json => json::read(&read_file(path)?, &beside()?),
            FileKind::SentencePiece => sentencepiece::read(&read_file(path)?, &beside()?),
        };
        vocabulary.map_err(|e| e.in_file(path))
    }

    /// The tokenizer in `folder`, if it holds one. Of both kinds tokenizer.model is taken for what has scores, and
    /// tokenizer.json for byte-level BPE, beside which a tokenizer.model is of another kind.
    ///
    /// # Errors
    /// Those of [`Vocabulary::read`].
    pub fn in_folder(folder: &Path) -> Result<Option<Self>> {
        let [json, model] = FILE_NAMES.map(|name| folder.join(name));
        if json.is_stored_file() {
            let vocabulary = Self::read(&json);
            if !model.is_stored_file() || vocabulary.as_ref().is_ok_and(|v| !v.scored) {
                return vocabulary.map(Some);
            }
        }
        if model.is_stored_file() { Self::read(&model).map(Some) } else { Ok(None) }
    }

    /// Whether SentencePiece puts a space before text; it does unless a file says otherwise.
    pub fn prefixes_space(&self) -> bool {
        self.keys.get(SPACE_PREFIX_KEY).and_then(|value| value.as_bool()).unwrap_or(true)
    }

    /// The vocabulary that `checkpoint` itself holds: that of a GGUF file which has one.
    ///
    /// # Errors
    /// `Io`, `Damaged`.
    pub fn embedded(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        let Some(header) = checkpoint.gguf_header() else { return Ok(None) };
        let header = header?;
        if header.damage.is_none() && header.get("tokenizer.ggml.tokens").is_none() {
            return Ok(None);
        }
        let vocabulary = Self::of_header(&header).map_err(|e| e.in_file(&checkpoint.path))?;
        Ok(Some(vocabulary).filter(|vocabulary| vocabulary.model != "none"))
    }

    /// The vocabulary of a GGUF file.
    ///
    /// # Errors
    /// `Unsupported` if it has none, `Damaged`.
    pub fn of_header(header: &Header<'_>) -> Result<Self> {
        if let Some(damage) = &header.damage {
            return Err(Error::from(damage));
        }
        let text = |key: &str| header.get(key).and_then(|v| v.to_text());
        let (Some(model), Some(texts)) =
            (text("tokenizer.ggml.model"), header.strings("tokenizer.ggml.tokens"))
        else {
            return Err(Error::unsupported("lacks `tokenizer.ggml.model` or `tokenizer.ggml.tokens`"));
        };
        let mut tokens: Vec<Token> =
            texts.map(|text| Token::new(text, LOW_SCORE, TokenType::Normal)).collect();
        let scores = header.floats("tokenizer.ggml.scores");
        let types = header.integers("tokenizer.ggml.token_type");
        let lengths = [scores.as_ref().map(Vec::len), types.as_ref().map(Vec::len)];
        if lengths.iter().flatten().any(|len| *len != tokens.len()) {
            return Err(Error::damaged(format!(
                "there are {} tokens, but {lengths:?} scores and types",
                tokens.len()
            )));
        }
        for (token, score) in tokens.iter_mut().zip(scores.iter().flatten()) {
            token.score = *score;
        }
        for (token, kind) in tokens.iter_mut().zip(types.iter().flatten()) {
            token.kind = TokenType::from_number(*kind).unwrap_or(TokenType::Normal);
        }
        let merges = match header.get(MERGES_KEY) {
            None => None,
            Some(merges) => {
                let strings = merges.as_array().filter(|m| m.element_type() == ValueType::String);
                let merges = strings.and_then(|m| m.iter().map(|v| v.to_text()).collect());
                let wrong = || Error::damaged(format!("`{MERGES_KEY}` are not strings"));
                Some(merges.ok_or_else(wrong)?)
            }
        };
        let mut keys = Keys::default();
        for (key, value) in &header.keys {
            if key.starts_with("tokenizer.") && !OWN_KEYS.contains(&key.as_ref()) {
                keys.copy(key, value);
            }
        }
        let charsmap = keys.get(CHARSMAP_KEY).and_then(|v| v.as_array());
        let charsmap = charsmap.map(|a| a.iter().filter_map(|v| v.as_i64()).map(|byte| byte as u8).collect());
        let mut vocabulary = Vocabulary {
            model,
            pre: text("tokenizer.ggml.pre"),
            tokens,
            scored: scores.is_some(),
            merges,
            roles: Vec::new(),
            none: Vec::new(),
            ends: ends::of_header(header),
            charsmap: charsmap.unwrap_or_default(),
            trims: keys.get(TRIMS_KEY).and_then(|v| v.as_bool()).unwrap_or(false),
            suffix: false,
            within: Vec::new(),
            keys,
            warnings: Vec::new(),
        };
        if vocabulary.model == "gpt2" && vocabulary.pre.is_none() {
            vocabulary.warnings.push(Warning::NoPreTokenizer);
        }
        for (role, _, key) in ROLE_KEYS {
            let id = vocabulary.keys.get(key).and_then(|v| v.as_i64());
            vocabulary.give(role, id.and_then(|id| id.try_into().ok()));
            if vocabulary.role(role).is_some() {
                vocabulary.keys.remove(key);
            }
        }
        vocabulary.settle_ends();
        Ok(vocabulary)
    }

    /// The vocabulary of a tokenizer of `model`'s kind that lies in `folder`, whose other files say which of its
    /// tokens, given with their ids in any order, have a role.
    ///
    /// # Errors
    /// `Damaged` when ids contradict each other or leave large gaps, or when a file of the folder is no JSON; `Io`.
    pub fn listed(
        model: &str,
        tokens: impl IntoIterator<Item = (u64, Token)>,
        folder: &Path,
    ) -> Result<Self> {
        let mut vocabulary = Vocabulary {
            model: model.into(),
            pre: None,
            tokens: by_id(tokens)?,
            scored: false,
            merges: None,
            roles: Vec::new(),
            none: Vec::new(),
            ends: Vec::new(),
            charsmap: Vec::new(),
            trims: false,
            suffix: false,
            within: Vec::new(),
            keys: Keys::default(),
            warnings: Vec::new(),
        };
        Beside::read(folder)?.settle(&mut vocabulary, &[]);
        Ok(vocabulary)
    }

    /// Whether some of the 256 bytes have no token.
    pub fn lacks_bytes(&self) -> bool {
        let bytes = self.tokens.iter().filter(|t| t.kind == TokenType::Byte).filter_map(|t| byte(&t.text));
        bytes.collect::<std::collections::HashSet<u8>>().len() < 256
    }

    /// Adds tokens until there are as many as the embedding has rows.
    ///
    /// # Errors
    /// `Unsupported` for more rows without a token than any vocabulary is padded with.
    pub fn fill(&mut self, rows: usize) -> Result<()> {
        let count = self.tokens.len();
        if rows.saturating_sub(count) > MOST_GAPS {
            return Err(Error::unsupported(format!(
                "the tokenizer has {count} tokens and the embedding {rows} rows, so it belongs to another model"
            )));
        }
        if count < rows {
            self.warnings.push(Warning::Padded { tokens: count, rows });
            self.tokens.extend((count..rows).map(Token::padding));
            self.settle_filled_ends();
        }
        Ok(())
    }

    /// Its GGUF keys.
    pub fn to_keys(&self) -> Keys {
        let mut keys = Keys::default();
        keys.set("tokenizer.ggml.model", self.model.as_str());
        if let Some(pre) = &self.pre {
            keys.set("tokenizer.ggml.pre", pre.as_str());
        }
        keys.set_array("tokenizer.ggml.tokens", self.tokens.iter().map(|t| t.text.as_slice()));
        if self.scored {
            keys.set_array("tokenizer.ggml.scores", self.tokens.iter().map(|t| t.score));
        }
        keys.set_array("tokenizer.ggml.token_type", self.tokens.iter().map(|t| t.kind as i32));
        if let Some(merges) = &self.merges {
            keys.set_array(MERGES_KEY, merges.iter().map(String::as_str));
        }
        for (role, id) in &self.roles {
            keys.set(ROLE_KEYS[*role as usize].2, id);
        }
        keys.extend(self.keys.clone());
        self.set_ends(&mut keys);
        keys
    }

    /// The tokens that are put before and after a text, by the file's switches, else by what llama.cpp does for its kind.
    pub fn around(&self) -> [Option<u32>; 2] {
        let (begins, ends) = match self.model.as_str() {
            "gpt2" => (self.pre.as_deref().and_then(pre_tokenizer).is_some_and(|pre| pre.begins), false),
            "llama" => (true, false),
            "t5" => (false, true),
            _ => (false, false),
        };
        [("bos", Role::Bos, begins), ("eos", Role::Eos, ends)].map(|(name, role, default)| {
            let add = self.keys.get(&format!("tokenizer.ggml.add_{name}_token"));
            self.role(role).filter(|_| add.and_then(|add| add.as_bool()).unwrap_or(default))
        })
    }

    /// Gives the roles that llama.cpp gives where a SentencePiece vocabulary says nothing: to its first three tokens, if
    /// they are none that text becomes.
    pub fn settle_usual_roles(&mut self) {
        if self.model != "llama" {
            return;
        }
        for (role, id) in [(Role::Unk, 0), (Role::Bos, 1), (Role::Eos, 2)] {
            let token = self.tokens.get(id as usize);
            let is_special = token.is_some_and(|t| matches!(t.kind, TokenType::Unknown | TokenType::Control));
            if is_special && !self.none.contains(&role) {
                self.give(role, Some(id));
            }
        }
    }

    /// Whether text is brought into Unicode's form NFC before it is split: as the file says, else as the tokenizers with
    /// its pre-tokenizer do.
    pub fn composes(&self) -> bool {
        let said = self.keys.get(NFC_KEY).and_then(|v| v.as_bool());
        said.unwrap_or_else(|| self.pre.as_deref().is_some_and(pretokenizer::composes))
    }

    /// The id of the token with a role.
    pub fn role(&self, role: Role) -> Option<u32> {
        self.roles.iter().find(|(r, _)| *r == role).map(|(_, id)| *id)
    }

    /// Gives `role` to a token, unless it has one or the id is out of range.
    fn give(&mut self, role: Role, id: Option<u64>) {
        let id = id.filter(|id| (*id as usize) < self.tokens.len());
        if let (Some(id), None) = (id, self.role(role)) {
            self.roles.push((role, id as u32));
        }
    }

    /// Sets what to put around text, unless it is set already.
    fn add(&mut self, role: &str, add: bool) {
        let key = format!("tokenizer.ggml.add_{role}_token");
        if !self.keys.contains(&key) {
            self.keys.set(&key, &add);
        }
    }
}

/// The kind of a tokenizer's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// tokenizer.json of Hugging Face's library.
    Json,
    /// SentencePiece's tokenizer.model.
    SentencePiece,
    /// A GGUF file, which may hold a whole model.
    Gguf,
}

impl FileKind {
    /// The kind of the file at `path`, by its first bytes; if it is not GGUF and its name ends in `.json`, JSON.
    ///
    /// # Errors
    /// Those of [`open_file`].
    pub fn of(path: &Path) -> Result<Self> {
        let mut start = Vec::new();
        open_file(path)?.take(4096).read_to_end(&mut start).map_err(|e| Error::io(path, &e))?;
        let named_json = path.extension().is_some_and(|extension| extension == "json");
        Ok(if start.starts_with(&MAGIC) {
            FileKind::Gguf
        } else if named_json || start.trim_ascii_start().first() == Some(&b'{') {
            FileKind::Json
        } else {
            FileKind::SentencePiece
        })
    }
}

/// Opens a file of a tokenizer. Pipes and devices are refused before they are opened: a pipe that nobody writes to
/// would be waited for without end.
///
/// # Errors
/// `Io`; `Unsupported` for anything but a regular file.
pub fn open_file(path: &Path) -> Result<Box<dyn Read>> {
    let io = |e: io::Error| Error::io(path, &e);
    if path.stored().map_err(io)?.kind != Kind::File {
        let what = "is not a regular file; a tokenizer cannot be read from a pipe or device";
        return Err(Error::unsupported(what).in_file(path).hint("copy it into a file first"));
    }
    path.stored_bytes().map_err(io)
}

/// The bytes of a file that may be a tokenizer.
///
/// # Errors
/// `Io`; `Unsupported` for files larger than any tokenizer, such as devices.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = open_file(path)?.take(LARGEST_FILE + 1);
    file.read_to_end(&mut bytes).map_err(|e| Error::io(path, &e))?;
    if bytes.len() as u64 > LARGEST_FILE {
        let what = format!("is larger than {LARGEST_FILE} bytes, which is too much for a tokenizer");
        return Err(Error::unsupported(what).in_file(path));
    }
    Ok(bytes)
}

/// The byte of a token such as `<0x0A>`.
pub fn byte(text: &[u8]) -> Option<u8> {
    let hex = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.len() == 2)?;
    u8::from_str_radix(hex, 16).ok()
}

/// Puts tokens, in any order, at their ids.
fn by_id(entries: impl IntoIterator<Item = (u64, Token)>) -> Result<Vec<Token>> {
    let entries: Vec<(u64, Token)> = entries.into_iter().collect();
    let end = entries.iter().map(|(id, _)| id.saturating_add(1)).max().unwrap_or(0);
    let limit = entries.len() + MOST_GAPS;
    let len = usize::try_from(end).ok().filter(|len| *len <= limit).ok_or_else(|| {
        Error::damaged(format!("{} tokens have ids up to {}", entries.len(), end.saturating_sub(1)))
    })?;
    let mut tokens: Vec<Option<Token>> = vec![None; len];
    for (id, token) in entries {
        let place = &mut tokens[id as usize];
        if let Some(other) = place.as_ref().filter(|other| other.text != token.text) {
            let text = |token: &Token| String::from_utf8_lossy(&token.text).escape_debug().to_string();
            return Err(Error::damaged(format!(
                "`{}` and `{}` have the same id, {id}",
                text(other),
                text(&token)
            )));
        }
        *place = Some(token);
    }
    Ok(tokens
        .into_iter()
        .enumerate()
        .map(|(id, token)| token.unwrap_or_else(|| Token::padding(id)))
        .collect())
}
