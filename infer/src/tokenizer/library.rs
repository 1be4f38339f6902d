//! Tokenizers that use the `tokenizers` crate: whole tokenizer.json files, byte-level BPE and unigram models of other
//! files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use ckpt_inspect::vocabulary::{PreTokenizer, Role, Token, TokenType, Vocabulary, byte, pre_tokenizer};
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel as ByteLevelStep;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{DecoderWrapper, SplitDelimiterBehavior};

use super::Placed;
use super::guard::{contradiction, guarded};
use super::pattern::translate;
use super::prepare::Preparation;

/// Why the `tokenizers` crate cannot read the tokenizer.json of these `bytes`, or would not survive it; nothing if it can.
pub fn tokenizer_fault(bytes: &[u8]) -> Option<String> {
    Json::read(bytes).err()
}

/// tokenizer.json.
pub(super) struct Json {
    /// Reads special tokens as text.
    plain: tokenizers::Tokenizer,
    /// Reads special tokens as tokens.
    parsing: OnceLock<tokenizers::Tokenizer>,
}

impl std::fmt::Debug for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Json").finish_non_exhaustive()
    }
}

impl Json {
    /// Reads a file, and lists its tokens.
    pub fn read(bytes: &[u8]) -> Result<(Self, Vec<(u64, Token)>), String> {
        let wrong = |e: String| format!("is not a valid tokenizer.json: {e}");
        // The crate assumes that some of its parts are valid JSON.
        let mut parts: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        if let Some(what) = contradiction(&parts) {
            return Err(wrong(what));
        }
        let bytes = match translate(&mut parts).map_err(wrong)? {
            true => Cow::Owned(parts.to_string().into_bytes()),
            false => Cow::Borrowed(bytes),
        };
        let mut plain = guarded(|| tokenizers::Tokenizer::from_bytes(&bytes)).map_err(wrong)?;
        // Truncation and padding would change the prompt.
        guarded(|| plain.with_truncation(None).map(|t| t.with_padding(None)).map(|_| ()))?;
        plain.set_encode_special_tokens(true);
        let added = plain.get_added_tokens_decoder();
        let listed = plain.get_vocab(true);
        let mut tokens: Vec<(u64, Token)> = Vec::with_capacity(listed.len());
        for (text, id) in listed {
            let kind = match added.get(&id) {
                Some(token) if token.special => TokenType::Control,
                Some(_) => TokenType::UserDefined,
                None => TokenType::Normal,
            };
            tokens.push((id.into(), Token::new(text, 0.0, kind)));
        }
        Ok((Json { plain, parsing: OnceLock::new() }, tokens))
    }

    /// The tokens that the post-processor puts before and after a text.
    pub fn around(&self) -> Result<(Vec<u32>, Vec<u32>), String> {
        let ids = |add| guarded(|| self.plain.encode_fast("a", add)).map(|e| e.get_ids().to_vec());
        let (inner, all) = (ids(false)?, ids(true)?);
        let start = all.windows(inner.len().max(1)).position(|window| window == inner).unwrap_or(0);
        let end = (start + inner.len()).min(all.len());
        Ok((all[..start].to_vec(), all[end..].to_vec()))
    }

    /// Whether tokens are bytes, so that each can be decoded on its own.
    pub fn is_byte_level(&self) -> bool {
        matches!(self.plain.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
    }

    fn of(&self, parsed: bool) -> &tokenizers::Tokenizer {
        if !parsed {
            return &self.plain;
        }
        self.parsing.get_or_init(|| {
            let mut parsing = self.plain.clone();
            parsing.set_encode_special_tokens(false);
            parsing
        })
    }

    pub fn encode(&self, text: &str, parsed: bool, out: &mut Vec<u32>) -> Result<(), String> {
        out.extend(guarded(|| self.of(parsed).encode_fast(text, false))?.get_ids());
        Ok(())
    }

    /// Adds the tokens of `text`, each with the bytes that it is of.
    pub fn place(&self, text: &str, parsed: bool, out: &mut Vec<Placed>) -> Result<(), String> {
        out.extend(placed(&guarded(|| self.of(parsed).encode(text, false))?, |range| range));
        Ok(())
    }

    /// The text of `ids`, from the file's decoder.
    pub fn decode(&self, ids: &[u32], show_special: bool) -> String {
        guarded(|| self.plain.decode(ids, !show_special)).unwrap_or_default()
    }
}

/// The tokens of an encoding, each with the bytes that it is of, which `from` leads back to the text.
fn placed(
    encoding: &tokenizers::Encoding,
    from: impl Fn(Range<usize>) -> Range<usize>,
) -> impl Iterator<Item = Placed> {
    let all = encoding.get_ids().iter().zip(encoding.get_offsets());
    all.map(move |(&id, &(start, end))| (id, from(start..end)))
}

/// Byte-level BPE with a list of merges.
pub(super) struct ByteLevel(tokenizers::Tokenizer);

impl std::fmt::Debug for ByteLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ByteLevel").finish()
    }
}

impl ByteLevel {
    pub fn new(vocabulary: &Vocabulary, warnings: &mut Vec<String>) -> Result<Self, String> {
        let name = vocabulary.pre.as_deref();
        let known = pre_tokenizer(name.unwrap_or("default"));
        if name.is_none() || known.is_none() {
            let said = name.map_or("does not name its pre-tokenizer".to_string(), |name| {
                format!("has the unknown pre-tokenizer `{}`", ckpt_inspect::printable(name))
            });
            warnings.push(format!("the tokenizer {said}; text is split by llama.cpp's default rule, so ids may differ from those in training"));
        }
        let PreTokenizer { patterns, whole_words, .. } =
            known.or_else(|| pre_tokenizer("default")).ok_or("has no pre-tokenizer")?;
        let merges = vocabulary.merges.as_deref().ok_or("lists no merges")?;
        let text = |token: &Token| String::from_utf8(token.text.clone()).ok();
        let ids: HashMap<String, u32> =
            (0..).zip(&vocabulary.tokens).filter_map(|(id, token)| Some((text(token)?, id))).collect();
        let pair = |merge: &String| {
            // The first character may be a space itself in foreign files; llama.cpp looks from the second on.
            let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
            let (left, right) = (&merge[..at], &merge[at + 1..]);
            let known = [left, right, &format!("{left}{right}")].iter().all(|text| ids.contains_key(*text));
            known.then(|| (left.to_string(), right.to_string()))
        };
        let merges: Vec<(String, String)> = merges.iter().filter_map(pair).collect();
        let steps = patterns.iter().map(|pattern| {
            let pattern = SplitPattern::Regex((*pattern).into());
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map(PreTokenizerWrapper::from)
        });
        let mut steps = guarded(|| steps.collect::<tokenizers::Result<Vec<_>>>())?;
        steps.push(ByteLevelStep::new(false, false, false).into());
        let model = guarded(|| {
            BPE::builder()
                .vocab_and_merges(ids.into_iter().collect::<ahash::AHashMap<_, _>>(), merges)
                .ignore_merges(whole_words)
                .build()
        })?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
        if vocabulary.composes() {
            guarded(|| tokenizer.with_normalizer(Some(NFC)).map(|_| ()))?;
        }
        Ok(ByteLevel(tokenizer))
    }

    pub fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), String> {
        out.extend(guarded(|| self.0.encode_fast(text, false))?.get_ids());
        Ok(())
    }

    /// Adds the tokens of `text`, each with the bytes that it is of.
    pub fn place(&self, text: &str, out: &mut Vec<Placed>) -> Result<(), String> {
        out.extend(placed(&guarded(|| self.0.encode(text, false))?, |range| range));
        Ok(())
    }
}

/// SentencePiece's unigram model.
pub(super) struct Unigram {
    model: tokenizers::Tokenizer,
    preparation: Preparation,
}

impl std::fmt::Debug for Unigram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unigram").finish_non_exhaustive()
    }
}

impl Unigram {
    pub fn new(vocabulary: &Vocabulary) -> Result<Self, String> {
        // Pieces that are found whatever their score (`EncodeOptimized` in SentencePiece's `unigram_model.cc`).
        let normal = vocabulary.tokens.iter().filter(|token| token.kind == TokenType::Normal);
        let best = normal.map(|token| token.score).fold(f32::MIN_POSITIVE, f32::max);
        let pieces = (0..).zip(&vocabulary.tokens).map(|(id, token)| {
            let text = String::from_utf8_lossy(&token.text);
            let score = match vocabulary.within.binary_search(&id) {
                Ok(_) => token.text.len() as f32 * best - 0.1,
                Err(_) => token.score,
            };
            let matched = matches!(token.kind, TokenType::Normal | TokenType::UserDefined | TokenType::Byte);
            // Text contains no spaces when pieces are looked up, so these are never found.
            (if matched { text.into_owned() } else { format!(" {text}") }, f64::from(score))
        });
        let pieces: Vec<(String, f64)> = pieces.collect();
        let unknown = vocabulary.role(Role::Unk).map(|id| id as usize);
        let byte_fallback =
            vocabulary.tokens.iter().any(|t| t.kind == TokenType::Byte && byte(&t.text).is_some());
        let model = guarded(|| unigram::Unigram::from(pieces, unknown, byte_fallback))?;
        let preparation = Preparation::new(vocabulary)?;
        Ok(Unigram { model: tokenizers::Tokenizer::new(model), preparation })
    }

    pub fn prefix(&self) -> bool {
        self.preparation.prefix()
    }

    pub fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), String> {
        let text = self.preparation.of(text)?.text;
        out.extend(guarded(|| self.model.encode_fast(text, false))?.get_ids());
        Ok(())
    }

    /// Adds the tokens of `text`, each with the bytes that it is of.
    pub fn place(&self, text: &str, out: &mut Vec<Placed>) -> Result<(), String> {
        let prepared = self.preparation.of(text)?;
        let encoding = guarded(|| self.model.encode(prepared.text.as_str(), false))?;
        out.extend(placed(&encoding, |range| prepared.from(range)));
        Ok(())
    }
}

/// GPT-2's characters for bytes: printable ones are unchanged, the rest are moved to U+0100 and after.
pub(super) fn bytes_of_chars() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let themselves = (0..=255u8).filter(printable).map(|byte| (char::from(byte), byte));
    let moved = (0..=255u8).filter(|byte| !printable(byte));
    let moved = ('\u{100}'..).zip(moved);
    themselves.chain(moved).collect()
}
