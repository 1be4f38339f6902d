//! tokenizer.json of Hugging Face's tokenizers library: byte-level BPE (GPT-2 and after), and BPE on characters with
//! byte fallback (such as Llama 2), whose merges llama.cpp follows by scores.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value as Json;

use super::beside::Beside;
use super::{
    LOW_SCORE, NFC_KEY, Role, SPACE_PREFIX_KEY, Token, TokenType, Vocabulary, Warning, by_id, byte,
    pretokenizer,
};
use crate::gguf::Keys;
use crate::{Error, Result};

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
    #[serde(default)]
    decoder: Json,
    model: Json,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u64,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    normalized: bool,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: HashMap<String, u64>,
    merges: Vec<Merge>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: Option<bool>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
}

/// Older files join a pair with a space.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

impl Merge {
    fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Joined(text) => text.split_once(' '),
            Merge::Pair(left, right) => Some((left, right)),
        }
    }
}

/// The steps of a component that may be a sequence of others, listed under `parts`.
pub(super) fn steps<'j>(component: &'j Json, parts: &str) -> Vec<&'j Json> {
    match component.get(parts).and_then(Json::as_array) {
        Some(inner) => inner.iter().flat_map(|step| steps(step, parts)).collect(),
        None if component.is_null() => Vec::new(),
        None => vec![component],
    }
}

pub(super) fn kind(step: &Json) -> &str {
    step.get("type").and_then(Json::as_str).unwrap_or("")
}

/// Reads a tokenizer.json.
pub(super) fn read(bytes: &[u8], beside: &Beside) -> Result<Vocabulary> {
    let wrong = |e: serde_json::Error| Error::damaged(format!("is not a tokenizer.json: {e}"));
    let file: File = serde_json::from_slice(bytes).map_err(wrong)?;
    let name = kind(&file.model);
    if !matches!(name, "BPE" | "") {
        return Err(Error::unsupported(format!("its model is {name}; only BPE can be converted"))
            .hint("unigram models are read from a SentencePiece tokenizer.model"));
    }
    let bpe: Bpe = Deserialize::deserialize(&file.model).map_err(wrong)?;
    let affix = [&bpe.continuing_subword_prefix, &bpe.end_of_word_suffix];
    if affix.into_iter().flatten().any(|text| !text.is_empty()) {
        return Err(Error::unsupported(
            "it marks the continuation or the end of words, which no GGUF tokenizer does",
        ));
    }
    let pairs: Vec<(&str, &str)> = bpe
        .merges
        .iter()
        .map(Merge::pair)
        .collect::<Option<_>>()
        .ok_or_else(|| Error::damaged("one of its merges is not a pair of tokens"))?;
    let decoders = steps(&file.decoder, "decoders");
    let byte_level = |steps: &[&Json]| steps.iter().any(|step| kind(step) == "ByteLevel");
    if byte_level(&steps(&file.pre_tokenizer, "pretokenizers"))
        || (!bpe.byte_fallback && byte_level(&decoders))
    {
        byte_level_bpe(&file, &bpe, &pairs, beside)
    } else if bpe.byte_fallback {
        character_bpe(&file, &bpe, &pairs, beside)
    } else {
        Err(Error::unsupported(
            "its BPE is neither byte-level nor has byte fallback, and llama.cpp has no equivalent",
        ))
    }
}

fn byte_level_bpe(file: &File, bpe: &Bpe, pairs: &[(&str, &str)], beside: &Beside) -> Result<Vocabulary> {
    let normal = bpe.vocab.iter().map(|(text, id)| (*id, Token::new(text.as_str(), 0.0, TokenType::Normal)));
    let added = file.added_tokens.iter().map(|token| {
        let kind = if token.special { TokenType::Control } else { TokenType::UserDefined };
        (token.id, Token::new(token.content.as_str(), 0.0, kind))
    });
    let tokens = by_id(normal.chain(added))?;
    let (pre, mut warnings) = pretokenizer::name(&file.pre_tokenizer, bpe.ignore_merges);
    // llama.cpp normalizes nothing here. NFC changes only text that is not in that form already; the key says to others
    // that read the file whether it is done.
    let steps = steps(&file.normalizer, "normalizers");
    let composes = steps.iter().any(|step| kind(step) == "NFC");
    let mut keys = Keys::default();
    if composes != pretokenizer::composes(pre) {
        keys.set(NFC_KEY, &composes);
    }
    let changed = steps.into_iter().map(kind).filter(|k| *k != "NFC");
    let changed: Vec<String> = changed.map(str::to_string).collect();
    if !changed.is_empty() {
        warnings.push(Warning::Normalizer(changed));
    }
    // A space would end the left token; byte-level vocabularies have Ġ for it.
    let merge =
        |(left, right): &(&str, &str)| format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ"));
    let mut vocabulary = Vocabulary {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        tokens,
        scored: false,
        merges: Some(pairs.iter().map(merge).collect()),
        roles: Vec::new(),
        none: Vec::new(),
        ends: Vec::new(),
        charsmap: Vec::new(),
        trims: false,
        suffix: false,
        within: Vec::new(),
        keys,
        warnings,
    };
    settle(file, bpe, beside, &mut vocabulary);
    Ok(vocabulary)
}

/// llama.cpp merges the pair whose token has the highest score, so a token's score is the negative of the first merge
/// that makes it. Llama 2's own scores are in the same order.
fn character_bpe(file: &File, bpe: &Bpe, pairs: &[(&str, &str)], beside: &Beside) -> Result<Vocabulary> {
    let mut scores: HashMap<String, f32> = HashMap::new();
    for (left, right) in pairs {
        let score = -(scores.len() as f32);
        scores.entry(format!("{left}{right}")).or_insert(score);
    }
    let low = LOW_SCORE.min(-(scores.len() as f32));
    let kind_of = |text: &str| {
        if bpe.unk_token.as_deref() == Some(text) {
            TokenType::Unknown
        } else if byte(text.as_bytes()).is_some() {
            TokenType::Byte
        } else {
            TokenType::Normal
        }
    };
    let normal = bpe.vocab.iter().map(|(text, id)| {
        let score = scores.get(text).copied().unwrap_or(low);
        (*id, Token::new(text.as_str(), score, kind_of(text)))
    });
    let mut tokens = by_id(normal)?;
    let extra = file.added_tokens.iter().map(|token| {
        let kind = match kind_of(&token.content) {
            TokenType::Normal if token.special => TokenType::Control,
            TokenType::Normal => TokenType::UserDefined,
            other => other,
        };
        (token.id, Token::new(token.content.as_str(), low, kind))
    });
    let own = std::mem::take(&mut tokens).into_iter().enumerate().map(|(id, token)| (id as u64, token));
    // Ids that the vocabulary leaves out may be taken by added tokens.
    let own = own.filter(|(_, token)| token.kind != TokenType::Unused);
    tokens = by_id(own.chain(extra))?;
    let mut keys = Keys::default();
    let (prefix, mut warnings) = space_prefix(file);
    warnings.extend(normalized_tokens(file));
    keys.set(SPACE_PREFIX_KEY, &prefix);
    if bpe.vocab.len() < 256 || (0..=255u8).any(|byte| !bpe.vocab.contains_key(&format!("<0x{byte:02X}>"))) {
        warnings.push(Warning::MissingBytes);
    }
    let mut vocabulary = Vocabulary {
        model: "llama".into(),
        pre: Some("default".into()),
        tokens,
        scored: true,
        merges: None,
        roles: Vec::new(),
        none: Vec::new(),
        ends: Vec::new(),
        charsmap: Vec::new(),
        trims: false,
        suffix: false,
        within: Vec::new(),
        keys,
        warnings,
    };
    settle(file, bpe, beside, &mut vocabulary);
    Ok(vocabulary)
}

/// Whether a space is put before text: by a normalizer, or by the pre-tokenizer that replaced it.
fn space_prefix(file: &File) -> (bool, Vec<Warning>) {
    let (mut prefix, mut once, mut replaced) = (false, false, false);
    let mut other = Vec::new();
    for step in steps(&file.normalizer, "normalizers") {
        match kind(step) {
            "Prepend" if puts_space(step) => prefix = true,
            "Replace" if writes_spaces(step) => replaced = true,
            unknown => other.push(unknown.to_string()),
        }
    }
    for step in steps(&file.pre_tokenizer, "pretokenizers") {
        match kind(step) {
            "Metaspace" => {
                let scheme = step.get("prepend_scheme").and_then(Json::as_str);
                let older = step.get("add_prefix_space").and_then(Json::as_bool);
                let puts = scheme.map_or(older.unwrap_or(true), |s| s != "never");
                once |= puts && !prefix;
                prefix |= puts;
            }
            // There are no spaces any more.
            "Split" if replaced && is_text(step, " ") => {}
            unknown => other.push(unknown.to_string()),
        }
    }
    let steps = (!other.is_empty()).then_some(Warning::Steps(other));
    (prefix, steps.into_iter().chain(once.then_some(Warning::SpaceOnlyOnce)).collect())
}

fn is_text(step: &Json, text: &str) -> bool {
    step.get("pattern").and_then(|pattern| pattern.get("String")).and_then(Json::as_str) == Some(text)
}

/// Whether a step puts ▁ before text.
fn puts_space(step: &Json) -> bool {
    step.get("prepend").and_then(Json::as_str) == Some("▁")
}

/// Whether a step writes spaces as ▁.
fn writes_spaces(step: &Json) -> bool {
    is_text(step, " ") && step.get("content").and_then(Json::as_str) == Some("▁")
}

/// Added tokens that are looked for in normalized text, where that has them in another form.
fn normalized_tokens(file: &File) -> Option<Warning> {
    let changes = steps(&file.normalizer, "normalizers").into_iter().any(|step| !writes_spaces(step));
    let tokens = file.added_tokens.iter().filter(|token| token.normalized && changes);
    let tokens: Vec<String> = tokens.map(|token| token.content.clone()).collect();
    (!tokens.is_empty()).then_some(Warning::NormalizedTokens(tokens))
}

/// Roles of tokens, and what is put around text: as the post-processor's template has it, else nothing.
fn settle(file: &File, bpe: &Bpe, beside: &Beside, vocabulary: &mut Vocabulary) {
    let id_of = |text: &str| {
        let added = file.added_tokens.iter().find(|t| t.content == text).map(|t| t.id);
        added.or_else(|| bpe.vocab.get(text).copied())
    };
    let (mut first, mut last) = (None, None);
    for step in steps(&file.post_processor, "processors") {
        match kind(step) {
            "TemplateProcessing" => {
                let template = step.get("single").and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
                let special = |item: Option<&Json>| id_of(item?.get("SpecialToken")?.get("id")?.as_str()?);
                if template.len() > 1 {
                    (first, last) = (special(template.first()), special(template.last()));
                }
            }
            "RobertaProcessing" | "BertProcessing" => {
                let token = |key: &str| id_of(step.get(key)?.get(0)?.as_str()?);
                (first, last) = (token("cls"), token("sep"));
            }
            _ => {}
        }
    }
    // Without a template nothing is put around text, even if tokenizer_config.json says otherwise.
    vocabulary.add("bos", first.is_some());
    vocabulary.add("eos", last.is_some());
    vocabulary.give(Role::Bos, first);
    vocabulary.give(Role::Eos, last);
    let strips = file.added_tokens.iter().filter(|t| t.lstrip || t.rstrip || t.single_word);
    let strips: Vec<String> = strips.map(|t| t.content.clone()).collect();
    if !strips.is_empty() {
        vocabulary.warnings.push(Warning::Strips(strips));
    }
    beside.settle(vocabulary, &[(Role::Unk, bpe.unk_token.as_deref().and_then(id_of))]);
    let unlike = unlike(file, bpe, beside);
    if !unlike.is_empty() {
        vocabulary.warnings.push(Warning::UnlikeConfiguration(unlike));
    }
}

/// What tokenizer_config.json says, and what tokenizer.json does not do.
fn unlike(file: &File, bpe: &Bpe, beside: &Beside) -> Vec<String> {
    let mut unlike = Vec::new();
    let byte_level = steps(&file.pre_tokenizer, "pretokenizers");
    let mut byte_level = byte_level.into_iter().filter(|step| kind(step) == "ByteLevel");
    let prefix = byte_level.find_map(|step| step.get("add_prefix_space")?.as_bool());
    if let (Some(prefix), Some(said)) = (prefix, beside.switch("add_prefix_space"))
        && prefix != said
    {
        unlike.push(format!("add_prefix_space: {said}"));
    }
    let is_known = |text: &str| {
        bpe.vocab.contains_key(text) || file.added_tokens.iter().any(|token| token.content == text)
    };
    let added = beside.added().into_iter().filter(|token| !is_known(&token.text));
    unlike.extend(added.take(4).map(|token| format!("a token `{}`", token.text.escape_debug())));
    unlike
}
