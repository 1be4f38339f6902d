//! What may come out differently when another program uses a vocabulary.

use std::fmt;

use super::{ROLE_KEYS, Role};

/// Something about a vocabulary that its user should know. As text it is a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// No file says which tokens have these roles, so tokens with the usual texts were taken.
    GuessedRoles(Vec<(Role, String)>),
    /// No token is known to begin a text ([`Role::Bos`]) or to end one ([`Role::Eos`]).
    NoRole(Role),
    /// These steps of tokenizer.json's normalizer are not in llama.cpp.
    Normalizer(Vec<String>),
    /// These steps of tokenizer.json are not in llama.cpp's SentencePiece tokenizer.
    Steps(Vec<String>),
    /// Tokens for some of the 256 bytes are missing.
    MissingBytes,
    /// The pre-tokenizer is not one that llama.cpp has.
    UnknownPreTokenizer,
    /// The GGUF file that it comes from names no pre-tokenizer (`tokenizer.ggml.pre`), and llama.cpp uses its default.
    NoPreTokenizer,
    /// Words that are tokens themselves are taken whole here and merged by llama.cpp's pre-tokenizer of that name, or
    /// the other way round.
    WholeWords {
        /// Whether this tokenizer takes them whole.
        here: bool,
        /// llama.cpp's name of the pre-tokenizer.
        name: &'static str,
    },
    /// A space is put before text.
    SpaceBeforeText,
    /// Text is normalized, and llama.cpp does not do so for this kind of tokenizer.
    Normalizes,
    /// Spaces around text and all but one of those between words are dropped, and llama.cpp does not do so for this kind of
    /// tokenizer.
    Trims,
    /// A space is put after text, where llama.cpp puts it before.
    SpaceAfterText,
    /// llama.cpp puts a space after these pieces, as if text began there.
    SpaceAfterPieces(Vec<String>),
    /// A space is put before text only where it has none yet, or only at its beginning, and llama.cpp puts one wherever text begins.
    SpaceOnlyOnce,
    /// These added tokens are looked for in normalized text (`normalized`), and llama.cpp looks for them in the text itself.
    NormalizedTokens(Vec<String>),
    /// There are tokens for bytes, and llama.cpp does not use them for this kind of tokenizer.
    ByteFallback,
    /// These tokens take the spaces beside them, or stand only between words, and llama.cpp knows of no such thing.
    Strips(Vec<String>),
    /// tokenizer_config.json says this, and tokenizer.json does not do it; transformers' classes may follow either.
    UnlikeConfiguration(Vec<String>),
    /// The embedding has more rows than there are tokens.
    Padded {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding.
        rows: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::GuessedRoles(guessed) => {
                f.write_str("no file next to the tokenizer says which tokens these are; assumed from their usual texts: ")?;
                for (i, (role, text)) in guessed.iter().enumerate() {
                    let comma = if i > 0 { ", " } else { "" };
                    write!(f, "{comma}{} {text}", ROLE_KEYS[*role as usize].1)?;
                }
                Ok(())
            }
            Warning::NoRole(role) => {
                let what = match role {
                    Role::Bos => "begins a text",
                    Role::Eos => "ends a text",
                    other => return write!(f, "no file says which token is {}", ROLE_KEYS[*other as usize].1),
                };
                write!(f, "no file says which token {what}; llama.cpp will choose one itself")
            }
            Warning::Normalizer(steps) => {
                write!(f, "its normalizer ({}) has no equivalent in llama.cpp", steps.join(", "))
            }
            Warning::Steps(steps) => write!(
                f,
                "its steps {} have no equivalent in llama.cpp's SentencePiece tokenizer",
                steps.join(", ")
            ),
            Warning::MissingBytes => f.write_str(
                "some of the 256 byte tokens are missing; llama.cpp refuses text that needs them",
            ),
            Warning::UnknownPreTokenizer => f.write_str(
                "llama.cpp has no pre-tokenizer like its own: `default` is written, and text may get other ids than in training",
            ),
            Warning::NoPreTokenizer => f.write_str(
                "the GGUF file names no pre-tokenizer (tokenizer.ggml.pre): llama.cpp splits text by its default rule, and text may get other ids than in training",
            ),
            Warning::WholeWords { here, name } => {
                let how = if *here {
                    "takes words that are tokens as they are"
                } else {
                    "builds every word by merges"
                };
                write!(f, "it {how}, which llama.cpp's `{name}` does not")
            }
            Warning::SpaceBeforeText => {
                f.write_str("it puts a space before text, which llama.cpp does not do for this kind of tokenizer")
            }
            Warning::Normalizes => f.write_str(
                "it normalizes text, which llama.cpp does not do for this kind of tokenizer: text that is not normalized already gets other ids",
            ),
            Warning::Trims => f.write_str(
                "it drops spaces around text and all but one between words, which llama.cpp does not do for this kind of tokenizer: such text gets other ids",
            ),
            Warning::SpaceAfterText => f.write_str(
                "it puts a space after text (treat_whitespace_as_suffix), and llama.cpp one before it: text gets other ids",
            ),
            Warning::SpaceAfterPieces(pieces) => write!(
                f,
                "llama.cpp puts a space after its user-defined pieces {}: text that has them gets other ids",
                some(pieces)
            ),
            Warning::SpaceOnlyOnce => f.write_str(
                "it puts a space before text that does not begin with one (Metaspace), and llama.cpp before any, also after special tokens: such text gets other ids",
            ),
            Warning::NormalizedTokens(tokens) => write!(
                f,
                "its added tokens {} are found in normalized text (normalized), and by llama.cpp in any: text that has them gets other ids",
                some(tokens)
            ),
            Warning::ByteFallback => f.write_str(
                "it has byte tokens, which llama.cpp does not use for this kind of tokenizer: characters without a token become unknown",
            ),
            Warning::Strips(tokens) => {
                write!(
                    f,
                    "its added tokens {} take the spaces next to them or stand only between words (lstrip, rstrip, single_word), which GGUF cannot express: text around them gets other ids",
                    some(tokens)
                )
            }
            Warning::UnlikeConfiguration(said) => write!(
                f,
                "tokenizer_config.json says what tokenizer.json, which was followed, does not do: {}; classes of transformers may do it: compare the ids of a text",
                said.join(", ")
            ),
            Warning::Padded { tokens, rows } => write!(
                f,
                "the tokenizer has {tokens} tokens and the embedding {rows} rows; the missing ones are named [PAD{tokens}] and so on"
            ),
        }
    }
}

/// The first of `tokens`, and how many more there are.
fn some(tokens: &[String]) -> String {
    let named: Vec<String> = tokens.iter().take(4).map(|t| format!("`{}`", t.escape_debug())).collect();
    let more = match tokens.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    named.join(", ") + &more
}
