//! The vocabulary of a GGUF file as files of Hugging Face's tokenizers: tokenizer.json and tokenizer_config.json, which give
//! the ids that llama.cpp gives.

use std::collections::{BTreeMap, HashMap};

use ckpt_inspect::gguf::Value;
use ckpt_inspect::vocabulary::{
    CHAT_TEMPLATE, CHAT_TEMPLATES, Role, Token, TokenType, Vocabulary, byte, pre_tokenizer,
};
use serde_json::{Map, Value as Json, json};

use crate::note::Note;

/// The files of Hugging Face's tokenizers that say what `vocabulary` does, by their names: none for a kind that is not written,
/// and then a note that says so.
pub fn tokenizer_files(vocabulary: &Vocabulary) -> (Vec<(String, Vec<u8>)>, Vec<Note>) {
    let mut notes = Vec::new();
    (files(vocabulary, &mut notes), notes)
}

/// The file names, with their contents; nothing for kinds of vocabularies that are not written, which is noted.
pub(crate) fn files(vocabulary: &Vocabulary, notes: &mut Vec<Note>) -> Vec<(String, Vec<u8>)> {
    let texts = Texts::of(vocabulary);
    let (model, mut file) = match vocabulary.model.as_str() {
        "gpt2" => byte_level(vocabulary, &texts, notes),
        "llama" => sentencepiece(vocabulary, &texts),
        other => {
            notes.push(Note::TokenizerNotWritten { kind: other.to_string() });
            return Vec::new();
        }
    };
    file.insert("version".into(), json!("1.0"));
    file.insert("added_tokens".into(), texts.added());
    file.insert("post_processor".into(), around(vocabulary, &texts));
    file.insert("model".into(), model);
    let text = |value: Json| format!("{value:#}\n").into_bytes();
    vec![
        ("tokenizer.json".into(), text(Json::Object(file))),
        ("tokenizer_config.json".into(), text(Json::Object(settings(vocabulary, &texts)))),
    ]
}

/// The tokens of a vocabulary that text can name: fillers for ids without a token are left out, as they were never there,
/// and of equal ones the first counts.
struct Texts<'v> {
    tokens: Vec<(u32, &'v str, &'v Token)>,
    ids: HashMap<&'v str, u32>,
}

impl<'v> Texts<'v> {
    fn of(vocabulary: &'v Vocabulary) -> Self {
        let (mut tokens, mut ids) = (Vec::new(), HashMap::new());
        for (id, token) in (0u32..).zip(&vocabulary.tokens) {
            let Ok(text) = std::str::from_utf8(&token.text) else { continue };
            let is_filler = token.kind == TokenType::Unused && *text == format!("[PAD{id}]");
            if !is_filler && !ids.contains_key(text) {
                ids.insert(text, id);
                tokens.push((id, text, token));
            }
        }
        Texts { tokens, ids }
    }

    /// All of them, the added ones too: only so do ids stay as they are where some have no token.
    fn vocab(&self) -> Json {
        self.tokens.iter().map(|(id, text, _)| (text.to_string(), json!(id))).collect::<Map<_, _>>().into()
    }

    /// Tokens that are found in text before it is split.
    fn added(&self) -> Json {
        let added = self.tokens.iter().filter_map(|(id, text, token)| {
            let special = match token.kind {
                TokenType::Control | TokenType::Unknown => true,
                TokenType::UserDefined => false,
                _ => return None,
            };
            Some(json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            }))
        });
        added.collect()
    }

    fn text(&self, vocabulary: &Vocabulary, role: Role) -> Option<&'v str> {
        let id = vocabulary.role(role)?;
        self.tokens.iter().find(|(own, ..)| *own == id).map(|(_, text, _)| *text)
    }
}

/// Pairs to merge: joined by a space, as every version of the library reads them, unless a token holds one.
fn merges(pairs: &[(&str, &str)]) -> Json {
    match pairs.iter().any(|(left, right)| left.contains(' ') || right.contains(' ')) {
        true => pairs.iter().map(|(left, right)| json!([left, right])).collect(),
        false => pairs.iter().map(|(left, right)| json!(format!("{left} {right}"))).collect(),
    }
}

/// Byte-level BPE, with the pre-tokenizer that its name stands for.
fn byte_level(
    vocabulary: &Vocabulary,
    texts: &Texts<'_>,
    notes: &mut Vec<Note>,
) -> (Json, Map<String, Json>) {
    let name = vocabulary.pre.as_deref();
    let known = name.and_then(pre_tokenizer);
    if known.is_none() {
        notes.push(Note::UnknownPreTokenizer { name: name.unwrap_or_default().to_string() });
    }
    let pre = known.or_else(|| pre_tokenizer("default")).expect("it is in the table");
    let splits = pre.patterns.iter().map(|pattern| {
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
    });
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let pairs = vocabulary.merges.iter().flatten().filter_map(|merge| {
        // The first character may be a space itself in foreign files; llama.cpp looks from the second on.
        let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
        let (left, right) = (&merge[..at], &merge[at + 1..]);
        let known = [left, right, &format!("{left}{right}")].iter().all(|text| texts.ids.contains_key(*text));
        known.then_some((left, right))
    });
    let pairs: Vec<(&str, &str)> = pairs.collect();
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": pre.whole_words,
        "vocab": texts.vocab(), "merges": merges(&pairs),
    });
    let normalizer = if vocabulary.composes() { json!({"type": "NFC"}) } else { Json::Null };
    let steps: Vec<Json> = splits.chain([bytes.clone()]).collect();
    let file = [
        ("normalizer", normalizer),
        ("pre_tokenizer", json!({"type": "Sequence", "pretokenizers": steps})),
        ("decoder", bytes),
    ];
    (model, file.into_iter().map(|(key, value)| (key.to_string(), value)).collect())
}

/// BPE on characters whose pairs are merged by the score of the token that they form, as a list: for each token, every way
/// to split it into two.
fn sentencepiece(vocabulary: &Vocabulary, texts: &Texts<'_>) -> (Json, Map<String, Json>) {
    let pieces = texts.tokens.iter().filter(|(.., token)| {
        matches!(token.kind, TokenType::Normal | TokenType::UserDefined) && byte(&token.text).is_none()
    });
    let scores: BTreeMap<&str, (u32, f32)> =
        pieces.map(|(id, text, token)| (*text, (*id, token.score))).collect();
    let mut pairs: Vec<(f32, u32, u32, &str, &str)> = Vec::new();
    for (text, (_, score)) in &scores {
        for (at, _) in text.char_indices().skip(1).take(LONGEST_PIECE) {
            let (left, right) = text.split_at(at);
            if let (Some((first, _)), Some((second, _))) = (scores.get(left), scores.get(right)) {
                pairs.push((*score, *first, *second, left, right));
            }
        }
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    let pairs: Vec<(&str, &str)> = pairs.into_iter().map(|(.., left, right)| (left, right)).collect();
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": texts.text(vocabulary, Role::Unk),
        "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
        "ignore_merges": false, "vocab": texts.vocab(), "merges": merges(&pairs),
    });
    let prefix = vocabulary.prefixes_space();
    let replace =
        |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let prepend = prefix.then(|| json!({"type": "Prepend", "prepend": "▁"}));
    let strip = prefix.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    let normalizers: Vec<Json> = prepend.into_iter().chain([replace(" ", "▁")]).collect();
    let decoders = [replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let decoders: Vec<Json> = decoders.into_iter().chain(strip).collect();
    let file = [
        ("normalizer", json!({"type": "Sequence", "normalizers": normalizers})),
        ("pre_tokenizer", Json::Null),
        ("decoder", json!({"type": "Sequence", "decoders": decoders})),
    ];
    (model, file.into_iter().map(|(key, value)| (key.to_string(), value)).collect())
}

/// Longer tokens than any tokenizer has are not split at every character.
const LONGEST_PIECE: usize = 256;

/// What is put before and after a text.
fn around(vocabulary: &Vocabulary, texts: &Texts<'_>) -> Json {
    let [begin, end] = vocabulary.around();
    let text = |id: Option<u32>| {
        let id = id?;
        texts.tokens.iter().find(|(own, ..)| *own == id).map(|(_, text, _)| (id, *text))
    };
    let (begin, end) = (text(begin), text(end));
    if begin.is_none() && end.is_none() {
        return Json::Null;
    }
    let template = |sequences: &[&str]| -> Vec<Json> {
        let special =
            |(_, text): (u32, &str), kind: usize| json!({"SpecialToken": {"id": text, "type_id": kind}});
        let parts = sequences.iter().enumerate().flat_map(|(kind, sequence)| {
            let own = json!({"Sequence": {"id": sequence, "type_id": kind}});
            let begin = begin.map(|token| special(token, kind));
            let end = end.map(|token| special(token, kind));
            begin.into_iter().chain([own]).chain(end)
        });
        parts.collect()
    };
    let tokens: Map<String, Json> = [begin, end]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.to_string(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    json!({
        "type": "TemplateProcessing", "single": template(&["A"]), "pair": template(&["A", "B"]),
        "special_tokens": tokens,
    })
}

fn settings(vocabulary: &Vocabulary, texts: &Texts<'_>) -> Map<String, Json> {
    let mut settings = Map::new();
    settings.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    settings.insert("clean_up_tokenization_spaces".into(), json!(false));
    for (role, name) in [(Role::Bos, "bos"), (Role::Eos, "eos"), (Role::Unk, "unk"), (Role::Pad, "pad")] {
        if let Some(text) = texts.text(vocabulary, role) {
            settings.insert(format!("{name}_token"), json!(text));
        }
    }
    let template = |key: &str| match vocabulary.keys.get(key) {
        Some(Value::String(template)) => std::str::from_utf8(template).ok().map(str::to_string),
        _ => None,
    };
    let usual = template(CHAT_TEMPLATE);
    let names = match vocabulary.keys.get(CHAT_TEMPLATES) {
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(|name| match name {
                Value::String(name) => Some(String::from_utf8_lossy(name).into_owned()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let others =
        names.iter().filter_map(|name| Some((name.as_str(), template(&format!("{CHAT_TEMPLATE}.{name}"))?)));
    let others: Vec<(&str, String)> = others.collect();
    if !others.is_empty() {
        let all = usual.map(|template| ("default", template)).into_iter().chain(others);
        let all = all.map(|(name, template)| json!({"name": name, "template": template}));
        settings.insert("chat_template".into(), all.collect());
    } else if let Some(template) = usual {
        settings.insert("chat_template".into(), json!(template));
    }
    settings
}

/// The ids of a model's configuration: what begins, ends and fills texts; the ids that end them in a list where they are
/// several.
pub(crate) fn ids(vocabulary: &Vocabulary) -> Map<String, Json> {
    let mut ids = Map::new();
    for (role, key) in [(Role::Bos, "bos_token_id"), (Role::Pad, "pad_token_id")] {
        if let Some(id) = vocabulary.role(role) {
            ids.insert(key.into(), json!(id));
        }
    }
    let ends: Vec<u32> =
        vocabulary.role(Role::Eos).into_iter().chain(vocabulary.ends.iter().copied()).collect();
    match ends[..] {
        [] => {}
        [one] => {
            ids.insert("eos_token_id".into(), json!(one));
        }
        _ => {
            ids.insert("eos_token_id".into(), json!(ends));
        }
    }
    ids
}
