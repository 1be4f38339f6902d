//! SentencePiece's tokenizer.model: a protocol buffer of `sentencepiece_model.proto`
//! (<https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>), of which these fields count:
//!
//! ```text
//! ModelProto       1: repeated SentencePiece, 2: TrainerSpec, 3: NormalizerSpec
//! SentencePiece    1: piece, 2: score (float), 3: type (1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte)
//! TrainerSpec      3: model_type (1 unigram, 2 BPE), 24: treat_whitespace_as_suffix, 40: unk_id, 41: bos_id, 42: eos_id, 43: pad_id
//! NormalizerSpec   2: precompiled_charsmap, 3: add_dummy_prefix, 4: remove_extra_whitespaces, 5: escape_whitespaces
//! ```

use super::beside::Beside;
use super::{
    CHARSMAP_KEY, LOW_SCORE, Role, SPACE_PREFIX_KEY, TRIMS_KEY, Token, TokenType, Vocabulary, Warning, by_id,
};
use crate::gguf::Keys;
use crate::{Error, Result};

/// A field of a message.
enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    Fixed64,
}

impl<'a> Field<'a> {
    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Field::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn number(self) -> Option<u64> {
        match self {
            Field::Varint(n) => Some(n),
            _ => None,
        }
    }
}

/// The fields of a message, in order, by number.
struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the message begins in the file.
    origin: usize,
}

impl<'a> Message<'a> {
    fn new(bytes: &'a [u8], origin: usize) -> Self {
        Message { bytes, at: 0, origin }
    }

    fn error(&self, what: &str) -> Error {
        Error::damaged(format!("is not a SentencePiece model: {what}"))
            .at((self.origin + self.at) as u64)
            .hint("a tokenizer is a tokenizer.json, a SentencePiece tokenizer.model, or a GGUF file")
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or_else(|| self.error("it ends within a number"))?;
            self.at += 1;
            value |= u64::from(byte & 127).checked_shl(shift).unwrap_or(0);
            if byte < 128 {
                return Ok(value);
            }
        }
        Err(self.error("a number has more than ten bytes"))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let left = &self.bytes[self.at..];
        let taken = usize::try_from(len).ok().and_then(|len| left.get(..len));
        let taken = taken.ok_or_else(|| self.error("a field reaches beyond its message"))?;
        self.at += taken.len();
        Ok(taken)
    }

    /// Number, place in the file and value of the next field.
    fn next(&mut self) -> Result<Option<(u64, usize, Field<'a>)>> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let len = self.varint()?;
                Field::Bytes(self.take(len)?)
            }
            5 => Field::Fixed32(self.take(4)?.try_into().expect("four bytes")),
            _ => return Err(self.error("a field has an unknown encoding")),
        };
        let len = if let Field::Bytes(bytes) = &field { bytes.len() } else { 0 };
        Ok(Some((key >> 3, self.origin + self.at - len, field)))
    }
}

fn piece(bytes: &[u8], origin: usize) -> Result<Token> {
    let mut message = Message::new(bytes, origin);
    let mut token = Token::new("", 0.0, TokenType::Normal);
    while let Some((number, _, field)) = message.next()? {
        match (number, field) {
            (1, Field::Bytes(text)) => token.text = text.to_vec(),
            (2, Field::Fixed32(score)) => token.score = f32::from_le_bytes(score),
            (3, Field::Varint(kind)) => {
                let kind = i64::try_from(kind).ok().and_then(TokenType::from_number);
                token.kind = kind.ok_or_else(|| message.error("a piece has an unknown type"))?;
            }
            _ => {}
        }
    }
    Ok(token)
}

/// Reads a tokenizer.model.
pub(super) fn read(bytes: &[u8], beside: &Beside) -> Result<Vocabulary> {
    let mut message = Message::new(bytes, 0);
    let mut tokens = Vec::new();
    let mut unigram = true;
    // The defaults of sentencepiece_model.proto.
    let mut roles = [(Role::Unk, Some(0)), (Role::Bos, Some(1)), (Role::Eos, Some(2)), (Role::Pad, None)];
    let (mut prefix, mut remove, mut suffix, mut charsmap) = (true, true, false, &[][..]);
    while let Some((number, origin, field)) = message.next()? {
        let Some(bytes) = field.bytes() else { continue };
        match number {
            1 => tokens.push(piece(bytes, origin)?),
            2 => {
                let mut trainer = Message::new(bytes, origin);
                while let Some((number, _, field)) = trainer.next()? {
                    match (number, field.number()) {
                        (3, Some(kind @ (1 | 2))) => unigram = kind == 1,
                        (3, _) => {
                            return Err(Error::unsupported(
                                "it is a word or character model; only BPE and unigram models can be converted",
                            ));
                        }
                        (24, Some(on)) => suffix = on != 0,
                        // -1, an id that there is not, is a number out of range here.
                        (40..=43, Some(id)) => roles[number as usize - 40].1 = Some(id),
                        _ => {}
                    }
                }
            }
            3 => {
                let mut normalizer = Message::new(bytes, origin);
                while let Some((number, _, field)) = normalizer.next()? {
                    match (number, field) {
                        (2, Field::Bytes(map)) => charsmap = map,
                        (3, Field::Varint(on)) => prefix = on != 0,
                        (4, Field::Varint(on)) => remove = on != 0,
                        (5, Field::Varint(0)) => {
                            return Err(Error::unsupported(
                                "it has spaces as they are in its pieces (escape_whitespaces), which no other tokenizer has",
                            ));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if tokens.is_empty() {
        return Err(message.error("it lists no pieces"));
    }
    let mut keys = Keys::default();
    keys.set(SPACE_PREFIX_KEY, &prefix);
    if unigram {
        keys.set(TRIMS_KEY, &remove);
        if !charsmap.is_empty() {
            keys.set_array(CHARSMAP_KEY, charsmap.iter().copied());
        }
    }
    let mut vocabulary = Vocabulary {
        model: if unigram { "t5" } else { "llama" }.into(),
        pre: Some("default".into()),
        tokens,
        scored: true,
        merges: None,
        roles: Vec::new(),
        none: Vec::new(),
        ends: Vec::new(),
        charsmap: charsmap.to_vec(),
        trims: remove,
        suffix,
        within: Vec::new(),
        keys,
        warnings: Vec::new(),
    };
    let own = vocabulary.tokens.clone();
    add(&mut vocabulary, beside)?;
    let is_within = |(token, own): &(&Token, &Token)| token == own && own.kind == TokenType::UserDefined;
    let within = (0..).zip(vocabulary.tokens.iter().zip(&own)).filter(|(_, pair)| is_within(pair));
    vocabulary.within = within.map(|(id, _)| id).collect();
    let roles = roles.map(|(role, id)| (role, id.filter(|id| is_special(&vocabulary, *id))));
    let strips: Vec<String> = beside.added().into_iter().filter(|t| t.strips).map(|t| t.text).collect();
    if !strips.is_empty() {
        vocabulary.warnings.push(Warning::Strips(strips));
    }
    beside.settle(&mut vocabulary, &roles);
    if !unigram && !charsmap.is_empty() {
        vocabulary.warnings.push(Warning::Normalizes);
    } else if !unigram && remove {
        vocabulary.warnings.push(Warning::Trims);
    }
    if suffix && prefix {
        vocabulary.warnings.push(Warning::SpaceAfterText);
    } else if prefix && !vocabulary.within.is_empty() {
        let texts = vocabulary.within.iter().map(|id| &vocabulary.tokens[*id as usize].text);
        let texts = texts.map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        vocabulary.warnings.push(Warning::SpaceAfterPieces(texts));
    }
    if !unigram && vocabulary.lacks_bytes() {
        vocabulary.warnings.push(Warning::MissingBytes);
    }
    if unigram && vocabulary.tokens.iter().any(|t| t.kind == TokenType::Byte) {
        vocabulary.warnings.push(Warning::ByteFallback);
    }
    // If Hugging Face's files say nothing, users of SentencePiece add the beginning token and no end token.
    vocabulary.add("bos", !unigram);
    vocabulary.add("eos", unigram);
    Ok(vocabulary)
}

fn is_special(vocabulary: &Vocabulary, id: u64) -> bool {
    let token = usize::try_from(id).ok().and_then(|id| vocabulary.tokens.get(id));
    token.is_some_and(|t| matches!(t.kind, TokenType::Unknown | TokenType::Control))
}

/// Tokens that other files add or rename.
fn add(vocabulary: &mut Vocabulary, beside: &Beside) -> Result<()> {
    let mut extra = Vec::new();
    for added in beside.added() {
        let kind = if added.special { TokenType::Control } else { TokenType::UserDefined };
        // llama.cpp looks for added tokens in text before its spaces are replaced.
        let text = if added.special { added.text } else { added.text.replace('▁', " ") };
        let known = usize::try_from(added.id).ok().and_then(|id| vocabulary.tokens.get_mut(id));
        match known {
            Some(token) if matches!(token.kind, TokenType::Unknown | TokenType::Byte) => {}
            Some(token) => *token = Token::new(text, LOW_SCORE, kind),
            None => extra.push((added.id, Token::new(text, LOW_SCORE, kind))),
        }
    }
    // The last entry for an id counts, as for the model's own tokens.
    let mut last = std::collections::BTreeMap::new();
    extra.into_iter().for_each(|(id, token)| {
        last.insert(id, token);
    });
    let own = std::mem::take(&mut vocabulary.tokens);
    let own = own.into_iter().enumerate().map(|(id, token)| (id as u64, token));
    vocabulary.tokens = by_id(own.chain(last))?;
    Ok(())
}
