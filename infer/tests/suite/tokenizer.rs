//! Tokenizers: the same ids as llama.cpp and Python's `tokenizers`, and text that survives a round trip.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ckpt_infer::{Error, Specials, TokenRole, Tokenizer};
use ckpt_inspect::ErrorKind;
use ckpt_inspect::gguf::{Keys, Layout};
use ckpt_inspect::vocabulary::Vocabulary;
use ckpt_kit::{fixtures, peers};
use proptest::prelude::*;
use serde_json::{Value, json};

fn data(name: &str) -> PathBuf {
    fixtures::data("infer", "vocab").join(name)
}

/// A byte-level tokenizer of 1024 tokens, trained on Python source.
fn pico() -> PathBuf {
    fixtures::fixture("tokenizer.json")
}

fn open(name: &str) -> Tokenizer {
    Tokenizer::open(&data(name)).unwrap()
}

/// All of llama.cpp's test inputs, and the ids it expects.
fn cases(name: &str) -> Vec<(String, Vec<u32>)> {
    let inputs = std::fs::read_to_string(data("inputs.txt")).unwrap();
    let ids = std::fs::read_to_string(data(&format!("{name}.ids"))).unwrap();
    let ids: Vec<Vec<u32>> =
        ids.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    let inputs: Vec<String> = inputs.split("\n__ggml_vocab_test__\n").map(str::to_string).collect();
    assert_eq!((inputs.len(), ids.len()), (47, 47));
    inputs.into_iter().zip(ids).collect()
}

#[test]
fn ids_are_those_of_llama_cpp() {
    for name in ["llama-spm", "llama-bpe", "gpt-2"] {
        let tokenizer = open(&format!("{name}.gguf"));
        assert!(tokenizer.warnings().is_empty(), "{:?}", tokenizer.warnings());
        for (text, ids) in cases(name) {
            assert_eq!(tokenizer.encode(&text, Specials::AsText).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids), text, "{name}");
        }
    }
}

#[test]
fn ids_are_those_of_python() {
    let tokenizer = Tokenizer::open(&pico()).unwrap();
    let cases: Vec<(String, Vec<u32>)> =
        serde_json::from_slice(&std::fs::read(data("pico-ids.json")).unwrap()).unwrap();
    assert_eq!(cases.len(), 50);
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(&text, Specials::AsText).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

/// SentencePiece's own ids (`data/sentencepiece_ids.py`): rules for sequences of characters, pieces of the user, spaces before
/// text, after it and dropped.
#[test]
fn ids_are_those_of_sentencepiece() {
    let folder = fixtures::data("infer", "sentencepiece");
    let all: BTreeMap<String, Vec<(String, Vec<u32>)>> =
        serde_json::from_slice(&std::fs::read(folder.join("ids.json")).unwrap()).unwrap();
    assert_eq!(all.len(), 9);
    let place = tempfile::tempdir().unwrap();
    for (name, cases) in &all {
        let path = folder.join(format!("{name}.model"));
        let tokenizer = Tokenizer::open(&path).unwrap();
        for (text, ids) in cases {
            assert_eq!(tokenizer.encode(text, Specials::AsText).unwrap(), *ids, "{name}: {text:?}");
        }
    }
    // A GGUF file has the rules of a unigram model, and llama.cpp follows them.
    let vocabulary = Vocabulary::read(&folder.join("unigram-rules.model")).unwrap();
    assert_eq!(vocabulary.warnings, []);
    let mut keys = Keys::default();
    keys.set("general.architecture", "llama");
    keys.extend(vocabulary.to_keys());
    let path = place.path().join("unigram.gguf");
    std::fs::write(&path, Layout::new(&keys, &[]).unwrap().header).unwrap();
    let tokenizer = Tokenizer::open(&path).unwrap();
    for (text, ids) in &all["unigram-rules"] {
        assert_eq!(tokenizer.encode(text, Specials::AsText).unwrap(), *ids, "{text:?}");
    }
    // What it cannot say of the others is told.
    for (name, what) in [
        ("bpe-rules", "it normalizes text"),
        ("bpe-suffix", "puts a space after text"),
        ("bpe-symbols", "puts a space after its user-defined pieces `<|x|>`"),
        ("bpe-trims", "drops spaces around text"),
        ("unigram-symbols", "puts a space after its user-defined pieces"),
        ("unigram-suffix", "puts a space after text"),
    ] {
        let vocabulary = Vocabulary::read(&folder.join(format!("{name}.model"))).unwrap();
        let told: Vec<String> = vocabulary.warnings.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|warning| warning.contains(what)), "{name}: {told:?}");
    }
    let bare = Vocabulary::read(&folder.join("bpe-symbols-bare.model")).unwrap();
    assert_eq!(bare.warnings, []);
}

/// Any bytes in the place of a map of characters give an error, or text.
#[test]
fn damaged_maps_of_characters_do_no_harm() {
    let path = fixtures::data("infer", "sentencepiece").join("unigram-rules.model");
    let bytes = std::fs::read(path).unwrap();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("tokenizer.model");
    let mut random = ckpt_kit::random::Random::new(5);
    for _ in 0..3000 {
        let mut changed = bytes.clone();
        for _ in 0..3 {
            let at = bytes.len() / 2 + random.below(bytes.len() / 2);
            changed[at] = random.below(256) as u8;
        }
        std::fs::write(&file, changed).unwrap();
        if let Ok(tokenizer) = Tokenizer::open(&file) {
            let _ = tokenizer.encode("\u{1e9b}\u{323} \u{1100}\u{1161}\u{fb01} hello", Specials::AsText);
        }
    }
}

/// The same vocabulary in GGUF's keys gives the same ids as tokenizer.json.
fn pico_as_gguf(folder: &Path) -> Tokenizer {
    let path = folder.join("pico.gguf");
    write_gguf(&Vocabulary::read(&pico()).unwrap(), &path);
    Tokenizer::open(&path).unwrap()
}

fn write_gguf(vocabulary: &Vocabulary, path: &Path) {
    let mut keys = Keys::default();
    keys.set("general.architecture", "qwen3");
    keys.extend(vocabulary.to_keys());
    std::fs::write(path, Layout::new(&keys, &[]).unwrap().header).unwrap();
}

/// A file written from a tokenizer that brings text into Unicode's form NFC says so, and is split the same.
#[test]
fn text_is_composed_where_the_tokenizer_does_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut file: Value = serde_json::from_slice(&std::fs::read(pico()).unwrap()).unwrap();
    file["normalizer"] = json!({"type": "NFC"});
    std::fs::write(at("tokenizer.json"), file.to_string()).unwrap();
    let texts = ["e\u{301}", "\u{1100}\u{1161}x", "\u{212b} caf\u{65}\u{301}s", "a\u{323}\u{307}"];
    let ids = |path: &Path| {
        let tokenizer = Tokenizer::open(path).unwrap();
        texts.map(|text| tokenizer.encode(text, Specials::AsText).unwrap())
    };
    let vocabulary = Vocabulary::read(&at("tokenizer.json")).unwrap();
    write_gguf(&vocabulary, &at("composes.gguf"));
    assert_eq!(ids(&at("composes.gguf")), ids(&at("tokenizer.json")));
    assert_ne!(ids(&at("composes.gguf")), ids(&pico()));
    write_gguf(&Vocabulary::read(&pico()).unwrap(), &at("plain.gguf"));
    assert_eq!(ids(&at("plain.gguf")), ids(&pico()));
}

/// Patterns as Python's library reads them, with Oniguruma (`peers/patterns.py`).
#[test]
fn patterns_split_as_in_python() {
    let Some(python) = peers::python(&["tokenizers"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let told = peers::json(&python.script("infer", "patterns.py", &[folder.path()]));
    let mut wrong = Vec::new();
    for (number, case) in told.as_array().unwrap().iter().enumerate() {
        let wanted: Vec<u32> =
            case[2].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let text = case[1].as_str().unwrap();
        let ids = Tokenizer::open(&folder.path().join(format!("{number}.json")))
            .and_then(|tokenizer| tokenizer.encode(text, Specials::AsText));
        if ids.as_ref().ok() != Some(&wanted) {
            let (got, all) = (ids.map(|ids| ids.len()), wanted.len());
            let beginning: String = text.chars().take(30).collect();
            wrong.push(format!("{} {beginning:?}: {got:?} pieces for {all}", case[0]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), told.as_array().unwrap().len(), wrong.join("\n"));
}

#[test]
fn special_tokens_are_parsed_only_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    for tokenizer in [Tokenizer::open(&pico()).unwrap(), pico_as_gguf(folder.path())] {
        let parsed = tokenizer.encode("<s>a</s>", Specials::Parsed).unwrap();
        assert_eq!((parsed.first(), parsed.last(), parsed.len()), (Some(&1), Some(&2), 3));
        let plain = tokenizer.encode("<s>a</s>", Specials::AsText).unwrap();
        assert!(plain.iter().all(|id| *id > 2), "{plain:?}");
        assert_eq!(tokenizer.decode(&plain), "<s>a</s>");
        assert_eq!(tokenizer.decode(&parsed), "a");
        let mut shown = tokenizer.stream(&[], true);
        assert_eq!(parsed.iter().map(|id| shown.push(*id)).collect::<String>(), "<s>a</s>");
        assert_eq!((tokenizer.special("</s>"), tokenizer.role(TokenRole::Eos)), (Some(2), Some(2)));
        assert_eq!(tokenizer.stops(), [2]);
        assert_eq!(tokenizer.begin(), [0; 0], "nothing says that this one begins texts");
    }
}

#[test]
fn the_models_rule_begins_a_prompt() {
    let spm = open("llama-spm.gguf");
    let hello = spm.encode("Hello", Specials::AsText).unwrap();
    assert_eq!(spm.prompt("Hello", Specials::AsText).unwrap(), [&[1], &hello[..]].concat());
    // Not twice, and a space only after it.
    assert_eq!(spm.prompt("<s>Hello", Specials::Parsed).unwrap(), [&[1], &hello[..]].concat());
    assert_eq!(spm.stops(), [2]);
    let mut file: Value = serde_json::from_slice(&std::fs::read(pico()).unwrap()).unwrap();
    file["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
            "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]},
        },
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    assert_eq!((tokenizer.begin(), tokenizer.end()), (&[1][..], &[2][..]));
    assert_eq!(tokenizer.prompt("a", Specials::AsText).unwrap().len(), 2);
}

#[test]
fn a_vocabulary_has_tokens_for_holes() {
    let folder = tempfile::tempdir().unwrap();
    let mut file: Value = serde_json::from_slice(&std::fs::read(pico()).unwrap()).unwrap();
    for (at, text) in ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"].into_iter().enumerate() {
        let added = json!({"id": 1024 + at, "content": text, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false});
        file["added_tokens"].as_array_mut().unwrap().push(added);
    }
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    let tokenizer = Tokenizer::open(folder.path()).unwrap();
    let fim = tokenizer.fim().unwrap();
    assert_eq!((fim.prefix, fim.suffix, fim.middle), (1024, 1025, 1026));
    assert!(Tokenizer::open(&pico()).unwrap().fim().is_none());
    assert!(matches!(tokenizer.check(1024), Err(Error::Tokenizer { .. })));
    tokenizer.check(1027).unwrap();
}

#[test]
fn files_that_are_not_tokenizers_give_typed_errors() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Tokenizer::open(&path).unwrap_err()
    };
    assert!(matches!(Tokenizer::open(folder.path()), Err(Error::Tokenizer { .. })));
    assert!(matches!(read("tokenizer.json", b"{}"), Error::Tokenizer { .. }));
    assert!(matches!(read("tokenizer.json", b"{\"model\": 3"), Error::Tokenizer { .. }));
    assert!(
        matches!(read("tokenizer.model", b"\xff\xff"), Error::Checkpoint(e) if e.kind == ErrorKind::Damaged)
    );
    assert!(matches!(read("tokenizer.json", "[".repeat(100_000).as_bytes()), Error::Tokenizer { .. }));
    #[cfg(target_os = "linux")]
    assert!(
        matches!(Tokenizer::open(Path::new("/dev/zero")), Err(Error::Checkpoint(e)) if e.kind == ErrorKind::Unsupported)
    );
    #[cfg(unix)]
    {
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = Tokenizer::open(&pipe).unwrap_err();
        assert!(matches!(&error, Error::Checkpoint(e) if e.kind == ErrorKind::Unsupported));
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }
    let spm = std::fs::read(data("llama-spm.gguf")).unwrap();
    assert!(matches!(read("cut.gguf", &spm[..spm.len() / 2]), Error::Checkpoint(_)));
    let mut keys = Keys::default();
    keys.set("tokenizer.ggml.model", "rwkv");
    keys.set_array("tokenizer.ggml.tokens", ["a"].into_iter());
    let rwkv = Layout::new(&keys, &[]).unwrap().header;
    let error = read("rwkv.gguf", &rwkv).to_string();
    assert!(error.contains("rwkv") && error.contains("give a tokenizer file"), "{error}");
    assert!(matches!(
        Tokenizer::open(Path::new("/nowhere/tokenizer.json")),
        Err(Error::Checkpoint(e)) if e.kind == ErrorKind::Io
    ));
}

/// Text with all kinds of characters, ASCII and words more often.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[ -~]{0,6}",
        2 => prop_oneof![Just(" "), Just("\n"), Just("    "), Just("def "), Just("\r\n"), Just("\u{200d}")]
            .prop_map(str::to_string),
        3 => any::<char>().prop_map(String::from),
        1 => "\\PC{1,3}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Joined token by token, every text comes back, and never with half a character.
    #[test]
    fn streamed_text_is_whole(text in any_text()) {
        thread_local! {
            static TOKENIZERS: Vec<Tokenizer> = {
                let folder = tempfile::tempdir().unwrap();
                let mut all = vec![Tokenizer::open(&pico()).unwrap(), pico_as_gguf(folder.path()), open("llama-spm.gguf")];
                all.push(of_llama_json(folder.path()));
                all
            };
        }
        TOKENIZERS.with(|tokenizers| {
            let expected = tokenizers[0].encode(&text, Specials::AsText).unwrap();
            assert_eq!(tokenizers[1].encode(&text, Specials::AsText).unwrap(), expected, "{text:?}");
            for tokenizer in tokenizers {
                let ids = tokenizer.encode(&text, Specials::AsText).unwrap();
                assert_eq!(tokenizer.decode(&ids), text);
                let mut stream = tokenizer.stream(&[], false);
                let mut joined = String::new();
                for id in ids {
                    joined += &stream.push(id);
                    let (shown, all) = (joined.trim_start_matches(' '), text.trim_start_matches(' '));
                    assert!(all.starts_with(shown), "{shown:?} of {all:?}");
                }
                joined += &stream.finish();
                assert_eq!(joined.trim_start_matches(' '), text.trim_start_matches(' '));
            }
        });
    }

    /// Tokens in any order give what their bytes are, read leniently.
    #[test]
    fn any_tokens_are_joined_as_all_at_once(ids in prop::collection::vec(0u32..1100, 0..40)) {
        let tokenizer = open_pico();
        let bytes: Vec<u8> = ids
            .iter()
            .filter(|id| !tokenizer.is_special(**id))
            .flat_map(|id| tokenizer.bytes(*id).unwrap_or_default().to_vec())
            .collect();
        let mut stream = tokenizer.stream(&[], false);
        let mut joined: String = ids.iter().map(|id| stream.push(*id)).collect();
        joined += &stream.finish();
        prop_assert_eq!(joined, String::from_utf8_lossy(&bytes));
    }

    /// A file with any byte changed gives a tokenizer or a typed error, and using the tokenizer does not panic.
    #[test]
    fn changed_files_do_no_harm(which in 0usize..2, at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let name = ["llama-bpe.gguf", "gpt-2.gguf"][which];
        let mut bytes = std::fs::read(data(name)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("changed.gguf");
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(tokenizer) = Tokenizer::open(&path)
            && let Ok(ids) = tokenizer.encode("def x(): return 12345 🦙", Specials::Parsed)
        {
            tokenizer.decode(&ids);
        }
    }
}

fn open_pico() -> &'static Tokenizer {
    static PICO: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    PICO.get_or_init(|| Tokenizer::open(&pico()).unwrap())
}

/// A tokenizer.json as Llama 2 has it, whose decoder looks at neighbours.
fn of_llama_json(folder: &Path) -> Tokenizer {
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let pieces = ["<unk>", "<s>", "</s>"].into_iter().map(str::to_string).chain(bytes);
    let pieces = pieces.chain(["▁", "d", "e", "f", "de", "def", "▁def", "1", "é"].map(str::to_string));
    let vocab: serde_json::Map<String, Value> =
        pieces.enumerate().map(|(id, text)| (text, id.into())).collect();
    let added = ["<unk>", "<s>", "</s>"].into_iter().enumerate().map(|(id, text)| {
        json!({"id": id, "content": text, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    });
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["d e", "de f", "▁ def"],
        },
    });
    let path = folder.join("llama.json");
    std::fs::write(&path, file.to_string()).unwrap();
    Tokenizer::open(&path).unwrap()
}
