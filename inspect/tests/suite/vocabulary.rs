//! Tokenizers: what is read from each kind of file, and that hostile ones give typed errors.

use std::path::Path;

use ckpt_inspect::gguf::{Header, Keys, Layout};
use ckpt_inspect::vocabulary::{FileKind, Role, TokenType, Vocabulary, Warning};
use ckpt_inspect::{ErrorKind, Result};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The tokenizer in a folder of these files, read by the name of the first.
fn read(files: &[(&str, &[u8])]) -> Result<Vocabulary> {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    Vocabulary::read(&folder.path().join(files[0].0))
}

fn kind(result: Result<Vocabulary>) -> ErrorKind {
    let error = result.unwrap_err();
    assert!(error.path.is_some(), "{error}");
    error.kind
}

/// The keys as a file has them, read back.
fn keys(vocabulary: &Vocabulary) -> Value {
    let bytes = Layout::new(&vocabulary.to_keys(), &[]).unwrap().header;
    let header = Header::parse(&bytes).unwrap();
    let plain = |v: &ckpt_inspect::gguf::Value<'_>| ckpt_inspect::metadata::to_json(&v.to_plain(usize::MAX));
    Value::Object(header.keys.iter().map(|(k, v)| (k.to_string(), plain(v))).collect())
}

fn byte_level() -> Value {
    json!({
        "added_tokens": [
            {"id": 0, "content": "<unk>", "special": true},
            {"id": 1, "content": "<s>", "special": true},
            {"id": 6, "content": "<|tool|>", "special": false},
        ],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "vocab": {"<unk>": 0, "<s>": 1, "a": 2, "b": 3, "Ġ": 4, "ab": 5},
            "merges": [["a", "b"], ["Ġ", "ab"]],
        },
    })
}

#[test]
fn byte_level_bpe_has_merges() {
    let file = byte_level().to_string();
    let mut vocabulary = read(&[("tokenizer.json", file.as_bytes())]).unwrap();
    vocabulary.fill(9).unwrap();
    let keys = keys(&vocabulary);
    assert_eq!(keys["tokenizer.ggml.model"], "gpt2");
    assert_eq!(keys["tokenizer.ggml.pre"], "gpt-2");
    assert_eq!(
        keys["tokenizer.ggml.tokens"],
        json!(["<unk>", "<s>", "a", "b", "Ġ", "ab", "<|tool|>", "[PAD7]", "[PAD8]"])
    );
    assert_eq!(keys["tokenizer.ggml.token_type"], json!([3, 3, 1, 1, 1, 1, 4, 5, 5]));
    assert_eq!(keys["tokenizer.ggml.merges"], json!(["a b", "Ġ ab"]));
    assert_eq!(keys["tokenizer.ggml.bos_token_id"], 1);
    assert_eq!(keys["tokenizer.ggml.unknown_token_id"], 0);
    assert_eq!(keys["tokenizer.ggml.add_bos_token"], false);
    assert!(keys.get("tokenizer.ggml.scores").is_none());
    let padded = Warning::Padded { tokens: 7, rows: 9 };
    assert!(vocabulary.warnings.contains(&padded), "{:?}", vocabulary.warnings);
    assert!(padded.to_string().contains("[PAD7]"), "{padded}");
    vocabulary.fill(8).unwrap();
    assert_eq!(vocabulary.tokens.len(), 9, "a token is never taken away");
}

#[test]
fn files_beside_it_give_roles_and_templates() {
    let mut file = byte_level();
    file["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    });
    let config = json!({
        "eos_token": {"content": "<|tool|>"},
        "chat_template": [{"name": "default", "template": "{{ x }}"}],
        "add_eos_token": true,
    });
    let files: [(&str, &[u8]); 3] = [
        ("tokenizer.json", &file.to_string().into_bytes()),
        ("tokenizer_config.json", &config.to_string().into_bytes()),
        ("generation_config.json", br#"{"pad_token_id": [2, 3], "bos_token_id": 99}"#),
    ];
    let vocabulary = read(&files).unwrap();
    let keys = keys(&vocabulary);
    assert_eq!((vocabulary.role(Role::Bos), vocabulary.role(Role::Eos)), (Some(1), Some(6)));
    assert_eq!(vocabulary.role(Role::Pad), Some(2));
    assert_eq!(keys["tokenizer.ggml.add_bos_token"], true);
    assert_eq!(keys["tokenizer.ggml.add_eos_token"], false, "the template puts none there");
    assert_eq!(keys["tokenizer.chat_template"], "{{ x }}");
}

#[test]
fn a_null_says_that_no_token_has_the_role() {
    let file = byte_level().to_string().into_bytes();
    let of = |name: &str, config: Value| {
        let files: [(&str, &[u8]); 2] = [("tokenizer.json", &file), (name, &config.to_string().into_bytes())];
        read(&files).unwrap()
    };
    let guessed = of("added_tokens.json", json!({}));
    assert_eq!(guessed.role(Role::Bos), Some(1));
    assert!(guessed.warnings.iter().any(|w| matches!(w, Warning::GuessedRoles(_))));
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let none = of(name, json!({"bos_token": null, "eos_token": null, "pad_token": null}));
        assert_eq!([Role::Bos, Role::Eos, Role::Pad].map(|role| none.role(role)), [None; 3], "{name}");
        assert!(none.none.contains(&Role::Eos), "{name}");
        // That no token ends a text is told; that none begins one is what was asked for.
        assert!(none.warnings.contains(&Warning::NoRole(Role::Eos)), "{:?}", none.warnings);
        let is_told = |w: &Warning| match w {
            Warning::NoRole(role) => *role == Role::Bos,
            // What stands for unknown text is its own.
            Warning::GuessedRoles(roles) => roles.iter().any(|(role, _)| *role != Role::Unk),
            _ => false,
        };
        assert!(!none.warnings.iter().any(is_told), "{:?}", none.warnings);
        assert_eq!(keys(&none)["tokenizer.ggml.add_bos_token"], false);
    }
    // An id in another file is one.
    let files: [(&str, &[u8]); 3] = [
        ("tokenizer.json", &file),
        ("tokenizer_config.json", br#"{"bos_token": null}"#),
        ("config.json", br#"{"bos_token_id": 3}"#),
    ];
    assert_eq!(read(&files).unwrap().role(Role::Bos), Some(3));
}

#[test]
fn character_bpe_has_scores_in_the_order_of_its_merges() {
    let bytes: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
    let pieces = ["<unk>", "<s>", "</s>"].into_iter().map(str::to_string).chain(bytes);
    let pieces = pieces.chain(["▁a", "ab", "▁ab", "▁", "a", "b"].map(str::to_string));
    let vocab: serde_json::Map<String, Value> =
        pieces.enumerate().map(|(id, text)| (text, id.into())).collect();
    let file = json!({
        "added_tokens": [
            {"id": 0, "content": "<unk>", "special": true},
            {"id": 1, "content": "<s>", "special": true},
            {"id": 2, "content": "</s>", "special": true},
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        ]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]},
        "model": {
            "type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "vocab": vocab,
            "merges": ["▁ a", "a b", "▁a b", "▁ ab"],
        },
    });
    let vocabulary = read(&[("tokenizer.json", file.to_string().as_bytes())]).unwrap();
    assert_eq!((vocabulary.model.as_str(), vocabulary.tokens.len()), ("llama", 265));
    // What llama.cpp does otherwise is told, and what makes no difference is not.
    let told = |change: &dyn Fn(&mut Value)| {
        let mut file = file.clone();
        change(&mut file);
        read(&[("tokenizer.json", file.to_string().as_bytes())]).unwrap().warnings
    };
    assert_eq!(vocabulary.warnings, told(&|_| ()));
    let more = |change: &dyn Fn(&mut Value)| -> Vec<Warning> {
        told(change).into_iter().filter(|warning| !vocabulary.warnings.contains(warning)).collect()
    };
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    let of_gemma = |file: &mut Value| {
        file["normalizer"] = spaces.clone();
        file["pre_tokenizer"] = split.clone();
    };
    assert_eq!(more(&of_gemma), []);
    let unlike = |file: &mut Value| {
        of_gemma(file);
        file["pre_tokenizer"]["pattern"] = json!({"String": "▁"});
    };
    assert_eq!(more(&unlike), [Warning::Steps(vec!["Split".into()])]);
    let collapses = |file: &mut Value| {
        let step = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "});
        file["normalizer"]["normalizers"].as_array_mut().unwrap().insert(0, step);
    };
    assert_eq!(more(&collapses), [Warning::Steps(vec!["Replace".into()])]);
    for (scheme, wanted) in
        [("first", vec![Warning::SpaceOnlyOnce]), ("always", vec![Warning::SpaceOnlyOnce]), ("never", vec![])]
    {
        let metaspace =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        let change = |file: &mut Value| {
            file["normalizer"] = Value::Null;
            file["pre_tokenizer"] = metaspace.clone();
        };
        assert_eq!(more(&change), wanted, "{scheme}");
    }
    let normalized = |file: &mut Value| {
        let token = json!({"id": 300, "content": "word", "special": false, "normalized": true});
        file["added_tokens"].as_array_mut().unwrap().push(token);
    };
    assert_eq!(more(&normalized), [Warning::NormalizedTokens(vec!["word".into()])]);
    let found_anyway = |file: &mut Value| {
        normalized(file);
        of_gemma(file);
    };
    assert_eq!(more(&found_anyway), []);
    let score = |text: &str| vocabulary.tokens.iter().find(|t| t.text == text.as_bytes()).unwrap().score;
    assert_eq!([score("▁a"), score("ab"), score("▁ab")], [0.0, -1.0, -2.0]);
    assert!(score("a") < -100.0);
    let kinds: Vec<TokenType> = [0, 1, 3, 258, 259].map(|i: usize| vocabulary.tokens[i].kind).into();
    assert_eq!(
        kinds,
        [TokenType::Unknown, TokenType::Control, TokenType::Byte, TokenType::Byte, TokenType::Normal]
    );
    let keys = keys(&vocabulary);
    assert_eq!(keys["tokenizer.ggml.add_bos_token"], true);
    assert_eq!(keys["tokenizer.ggml.add_space_prefix"], true);
    assert!(keys.get("tokenizer.ggml.merges").is_none());
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n > 127 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn number(field: u64, n: u64) -> Vec<u8> {
    [varint(field << 3), varint(n)].concat()
}

fn message(field: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

/// A SentencePiece model of five pieces; `kind` 1 is unigram, 2 is BPE.
fn sentencepiece(model: u64) -> Vec<u8> {
    let piece = |text: &str, score: f32, kind: u64| {
        let score = [varint(2 << 3 | 5), score.to_le_bytes().to_vec()].concat();
        message(1, &[message(1, text.as_bytes()), score, number(3, kind)].concat())
    };
    // pad_id is -1, as SentencePiece writes it.
    let trainer =
        [number(3, model), number(40, 0), number(41, 1), number(42, 2), number(43, u64::MAX)].concat();
    let normalizer = [message(2, &[7, 8]), number(3, 0), number(4, 1)].concat();
    [
        piece("<unk>", 0.0, 2),
        piece("<s>", 0.0, 3),
        piece("</s>", 0.0, 3),
        piece("<0x0A>", 0.0, 6),
        piece("▁a", -1.5, 1),
        message(2, &trainer),
        message(3, &normalizer),
    ]
    .concat()
}

#[test]
fn sentencepiece_models_keep_scores_and_types() {
    let added = br#"{"<extra>": 7, "<0x0A>": 3}"#;
    let vocabulary = read(&[("tokenizer.model", &sentencepiece(2)), ("added_tokens.json", added)]).unwrap();
    let keys_of_bpe = keys(&vocabulary);
    assert_eq!(keys_of_bpe["tokenizer.ggml.model"], "llama");
    assert_eq!(keys_of_bpe["tokenizer.ggml.token_type"], json!([2, 3, 3, 6, 1, 5, 5, 4]));
    assert_eq!(keys_of_bpe["tokenizer.ggml.scores"][4], -1.5);
    assert_eq!(keys_of_bpe["tokenizer.ggml.add_space_prefix"], false);
    assert_eq!(keys_of_bpe["tokenizer.ggml.add_bos_token"], true);
    assert_eq!((vocabulary.role(Role::Eos), vocabulary.role(Role::Pad)), (Some(2), None));
    assert_eq!(vocabulary.warnings, [Warning::Normalizes, Warning::MissingBytes]);
    let unigram = read(&[("tokenizer.model", &sentencepiece(1))]).unwrap();
    assert_eq!(unigram.warnings, [Warning::ByteFallback]);
    let unigram = keys(&unigram);
    assert_eq!(unigram["tokenizer.ggml.model"], "t5");
    assert_eq!(unigram["tokenizer.ggml.precompiled_charsmap"], json!([7, 8]));
    assert_eq!(kind(read(&[("tokenizer.model", &sentencepiece(3))])), ErrorKind::Unsupported);
}

#[test]
fn another_file_gives_its_keys_as_they_are() {
    let file = byte_level().to_string();
    let mut first = read(&[("tokenizer.json", file.as_bytes())]).unwrap();
    first.keys.set("tokenizer.ggml.eot_token_id", &5u32);
    let mut whole = Keys::default();
    whole.set("general.architecture", "llama");
    whole.extend(first.to_keys());
    let gguf = Layout::new(&whole, &[]).unwrap().header;
    let again = read(&[("other.gguf", &gguf)]).unwrap();
    assert_eq!(keys(&again), keys(&first));
    assert!(!again.warnings.contains(&Warning::NoPreTokenizer));
    whole.remove("tokenizer.ggml.pre");
    let bare = Layout::new(&whole, &[]).unwrap().header;
    assert!(read(&[("other.gguf", &bare)]).unwrap().warnings.contains(&Warning::NoPreTokenizer));
    let cut = read(&[("other.gguf", &gguf[..gguf.len() / 2])]);
    assert_eq!(kind(cut), ErrorKind::Damaged);
    let empty = Layout::new(&Keys::default(), &[]).unwrap().header;
    assert_eq!(kind(read(&[("other.gguf", &empty)])), ErrorKind::Unsupported);
}

#[test]
fn a_file_is_recognised_by_its_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        FileKind::of(&path).unwrap()
    };
    assert_eq!(of("a.json", b"GGUF\x03"), FileKind::Gguf);
    assert_eq!(of("b", b" \n{\"model\""), FileKind::Json);
    assert_eq!(of("c.json", b"[1]"), FileKind::Json);
    assert_eq!(of("d.model", b"\x0a\x0e\x0a"), FileKind::SentencePiece);
    assert_eq!(FileKind::of(folder.path()).unwrap_err().kind, ErrorKind::Unsupported);
}

#[test]
fn hostile_files_give_typed_errors() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut file = byte_level();
        change(&mut file);
        kind(read(&[("tokenizer.json", file.to_string().as_bytes())]))
    };
    assert_eq!(with(&|f| f["model"]["vocab"]["a"] = json!(4_000_000_000u64)), ErrorKind::Damaged);
    assert_eq!(with(&|f| f["model"]["vocab"]["a"] = json!(u64::MAX)), ErrorKind::Damaged);
    assert_eq!(with(&|f| f["model"]["vocab"]["a"] = json!(-1)), ErrorKind::Damaged);
    assert_eq!(with(&|f| f["model"]["vocab"]["a"] = json!(3)), ErrorKind::Damaged, "two tokens, one id");
    assert_eq!(with(&|f| f["model"]["merges"] = json!(["ab"])), ErrorKind::Damaged);
    assert_eq!(with(&|f| f["model"]["merges"] = json!([["a", "b", "c"]])), ErrorKind::Damaged);
    assert_eq!(with(&|f| f["model"]["type"] = json!("WordPiece")), ErrorKind::Unsupported);
    assert_eq!(with(&|f| f["model"]["end_of_word_suffix"] = json!("</w>")), ErrorKind::Unsupported);
    assert_eq!(with(&|f| f["added_tokens"] = json!({"a": 1})), ErrorKind::Damaged);
    for bytes in
        [&b"{"[..], b"{}", b"", b"\xff\xff\xff\xff", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"GGUF"]
    {
        assert_eq!(kind(read(&[("tokenizer.json", bytes)])), ErrorKind::Damaged, "{bytes:?}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(
        kind(read(&[("tokenizer.json", format!("{{\"model\": {deep}").as_bytes())])),
        ErrorKind::Damaged
    );
    let file = byte_level().to_string();
    let beside = read(&[("tokenizer.json", file.as_bytes()), ("config.json", b"{]")]);
    assert_eq!(kind(beside), ErrorKind::Damaged);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(kind(Vocabulary::read(folder.path())), ErrorKind::NotFound);
    assert!(Vocabulary::in_folder(folder.path()).unwrap().is_none());
    assert_eq!(kind(Vocabulary::read(Path::new("/nowhere/tokenizer.json"))), ErrorKind::Io);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any change of a byte gives a vocabulary or a typed error.
    #[test]
    fn changed_bytes_do_no_harm(which in 0usize..3, at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<bool>()) {
        let (name, mut bytes) = match which {
            0 => ("tokenizer.json", byte_level().to_string().into_bytes()),
            1 => ("tokenizer.model", sentencepiece(2)),
            _ => ("tokenizer.model", sentencepiece(1)),
        };
        let at = at.index(bytes.len());
        bytes[at] = to;
        if cut {
            bytes.truncate(at);
        }
        if let Ok(vocabulary) = read(&[(name, &bytes)]) {
            prop_assert!(vocabulary.tokens.len() <= bytes.len() + (1 << 16));
            prop_assert!(Layout::new(&vocabulary.to_keys(), &[]).is_some());
        }
    }
}
