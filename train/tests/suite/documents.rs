//! Documents as a tokenizer's own files say them: how they begin and end, and no shorter than they are.

use crate::data::in_order;
use crate::trainer::watched;
use crate::truth::tokenizer;

use std::path::Path;

use ckpt_kit::fixtures::fixture;
use ckpt_train::data::{Settings, Stream};
use ckpt_train::{ResumeOptions, Trainer};
use serde_json::{Value, json};

/// Changes the tokenizer of `folder`.
fn change(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("tokenizer.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut file);
    std::fs::write(path, file.to_string()).unwrap();
}

/// Adds the special tokens `<s>` (261) and `<END>` (262), and says what begins a text.
fn with_begin(folder: &Path) {
    change(folder, |file| {
        for (id, text) in [(261, "<s>"), (262, "<END>")] {
            file["model"]["vocab"][text] = id.into();
            let token = json!({ "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true });
            file["added_tokens"].as_array_mut().unwrap().push(token);
        }
        file["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [261], "tokens": ["<s>"] } }
        });
    });
}

/// Ids and targets of the first sequence.
fn first(settings: &Settings) -> (Vec<u32>, Vec<i32>) {
    let batch = Stream::new(settings, 0).unwrap().batch().unwrap();
    (batch.ids, batch.targets)
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn a_tokenizer_that_truncates_and_pads_leaves_training_text_whole() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        in_order(folder.path(), "a.jsonl", b"{\"text\": \"abcdefghijkl\"}\n{\"text\": \"mn\"}\n", 15);
    change(folder.path(), |file| {
        file["truncation"] =
            json!({ "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 });
        file["padding"] = json!({ "strategy": { "Fixed": 9 }, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 256, "pad_type_id": 0, "pad_token": "</s>" });
    });
    assert_eq!(first(&settings).0, [ids("abcdefghijkl"), vec![256], ids("mn")].concat());
}

#[test]
fn documents_end_with_the_token_that_the_tokenizer_names() {
    let folder = tempfile::tempdir().unwrap();
    let settings = in_order(folder.path(), "a.jsonl", b"{\"text\": \"ab\"}\n{\"text\": \"cd\"}\n", 5);
    with_begin(folder.path());
    change(folder.path(), |file| file["post_processor"] = Value::Null);
    assert_eq!(first(&settings).0, [97, 98, 256, 99, 100], "the usual one, where none is named");
    let config = folder.path().join("tokenizer_config.json");
    std::fs::write(&config, json!({ "eos_token": "<END>" }).to_string()).unwrap();
    assert_eq!(first(&settings).0, [97, 98, 262, 99, 100]);
    // Where there is none, it is told.
    std::fs::remove_file(&config).unwrap();
    change(folder.path(), |file| {
        file["added_tokens"][0]["content"] = "<stop>".into();
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        vocab.remove("</s>");
        vocab.insert("<stop>".into(), 256.into());
    });
    assert_eq!(first(&settings).0, [97, 98, 99, 100, 97]);
    let settings = crate::trainer::settings(&settings.files[0], 2001).with(|s| {
        s.data.tokenizer = settings.tokenizer.clone();
        s.data.length = 5;
        s.data.holdout = 0.0;
    });
    let (outcome, warnings, _) = watched(&mut crate::trainer::start(&settings), &folder.path().join("run"));
    outcome.unwrap();
    assert!(warnings.iter().any(|w| w.contains("no token that ends a text")), "{warnings:?}");
}

#[test]
fn documents_begin_as_prompts_do() {
    let folder = tempfile::tempdir().unwrap();
    let lines = br#"{"text": "ab"}
{"prompt": "p", "response": "q"}
{"text": "<s>x"}
{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}
"#;
    let mut settings = in_order(folder.path(), "a.jsonl", lines, 46);
    with_begin(folder.path());
    let chat = ids("User: hi\nAssistant:");
    let whole = [
        &[261, 97, 98, 256, 261, u32::from(b'p'), u32::from(b'q'), 256, 261, u32::from(b'x'), 256, 261][..],
        &chat,
        &ids(" yo\n"),
        &[256],
    ];
    settings.length = whole.concat().len() - 1;
    let (got, targets) = first(&settings);
    assert_eq!(got, whole.concat()[..settings.length]);
    // What begins a document is given, and is not learnt.
    for (id, target) in got[1..].iter().zip(&targets) {
        assert_eq!(*id == 261, *target == -100 && *id == 261, "{got:?} {targets:?}");
    }
    let mut stream = Stream::new(&settings, 0).unwrap();
    stream.batch().unwrap();
    let example = stream.example().unwrap();
    // This tokenizer has no decoder, so tokens are joined by spaces.
    assert_eq!(example[..2], [(false, "<s>".into()), (true, "a b </s>".into())]);
    // A text file is one document, and is rearranged behind its beginning.
    let mut settings = in_order(folder.path(), "b.txt", "abcdefghijklmnop\n".repeat(9).as_bytes(), 100);
    with_begin(folder.path());
    settings.fill_in_rate = 1.0;
    assert_eq!(first(&settings).0[..2], [261, 257], "<s>, and then the token before the prefix");
    assert_eq!(first(&settings).0.iter().filter(|id| **id == 261).count(), 1);
}

/// What is shown is learnt from: sequences of context alone are passed over.
#[test]
fn the_example_is_the_first_sequence_that_is_learnt_from() {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("{{\"prompt\": \"{}\", \"response\": \"answer\"}}\n", "p".repeat(20));
    let settings = in_order(folder.path(), "a.jsonl", line.as_bytes(), 8).with(|s| s.batch = 3);
    let mut stream = Stream::new(&settings, 0).unwrap();
    stream.batch().unwrap();
    let example = stream.example().unwrap();
    assert!(example.iter().any(|(learnt, text)| *learnt && text.starts_with("a n s w")), "{example:?}");
}

#[test]
fn marks_of_byte_order_are_no_text_and_other_encodings_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("a.txt", "\u{feff}abcdef\n"), ("a.jsonl", "\u{feff}{\"text\": \"abcdef\"}\n")] {
        let settings = in_order(folder.path(), name, text.as_bytes(), 6);
        assert_eq!(first(&settings).0, ids("abcdef"), "{name}");
        let utf_16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let settings = in_order(folder.path(), name, &utf_16, 6);
        let error = Stream::new(&settings, 0).unwrap().batch().unwrap_err().to_string();
        assert!(error.contains("UTF-16") && error.contains("iconv"), "{error}");
    }
}

#[test]
fn lines_say_where_they_are_wrong_and_empty_ones_are_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("\n \n{{\"text\": \n[1]\n{}{{\"text\": \"abcdef\"}}\n", "\n".repeat(5_000_000));
    let settings = in_order(folder.path(), "a.jsonl", text.as_bytes(), 6);
    let mut stream = Stream::new(&settings, 0).unwrap();
    assert_eq!(stream.batch().unwrap().ids, ids("abcdef"));
    let shown = stream.take_shown();
    assert!(shown[0].contains("line 3 is not valid JSON") && !shown[0].contains("at line 1"), "{shown:?}");
    assert!(shown[1].contains("line 4 is a JSON array") && shown[1].contains("jq"), "{shown:?}");
}

/// Whatever bit of kept tokens changes, the text's tokens are what is trained on, and they are kept anew.
#[test]
fn damage_of_kept_tokens_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..40).map(|i| format!("{{\"text\": \"line {i}\"}}\n")).collect();
    let settings = in_order(folder.path(), "a.jsonl", lines.as_bytes(), 9);
    let cache = folder.path().join("cache");
    let cached = settings.clone().with(|s| s.token_cache = Some(cache.clone()));
    let all = |settings: &Settings| {
        let mut stream = Stream::new(settings, 0).unwrap();
        (0..90).flat_map(|_| stream.batch().unwrap().ids).collect::<Vec<u32>>()
    };
    let truth = all(&settings);
    assert_eq!(all(&cached), truth);
    let shard = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let sound = std::fs::read(&shard).unwrap();
    let mut random = ckpt_train::Random::new(&[5]);
    for _ in 0..60 {
        let mut damaged = sound.clone();
        damaged[random.below(sound.len())] ^= 1 << random.below(8);
        std::fs::write(&shard, &damaged).unwrap();
        assert_eq!(all(&cached), truth);
        assert!(std::fs::read(&shard).unwrap() == sound, "kept anew");
    }
    // Another file of the same size and time.
    let path = &settings.files[0];
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    let other = folder.path().join("other");
    std::fs::write(&other, lines.replace("line", "LINE")).unwrap();
    std::fs::File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
    std::fs::rename(&other, path).unwrap();
    assert_eq!(all(&cached), all(&settings));
}

#[test]
fn samples_begin_as_documents_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("a.txt");
    std::fs::write(&data, "def f(x):\n    return x\n".repeat(200)).unwrap();
    let path = tokenizer(folder.path());
    with_begin(folder.path());
    let settings = crate::trainer::settings(&data, 2002).with(|s| {
        s.data.tokenizer = Some(path.clone());
        s.data.holdout = 0.0;
        s.sample.every = 2;
        s.sample.prompt = "def f(".into();
        s.sample.tokens = 16;
        s.validate_every = 0;
    });
    let mut greedy = None;
    let options = ResumeOptions::default().with(|o| o.reset_optimizer = true);
    let checkpoint = ckpt_inspect::open(fixture("healthy-run/step-02000.pt")).unwrap();
    let mut trainer = Trainer::resume(&checkpoint, &settings, options).unwrap();
    let mut run = ckpt_train::RunFolder::open(&folder.path().join("run")).unwrap();
    trainer
        .run(&mut run, &Default::default(), &mut |event| {
            if let ckpt_train::Event::Sample(_, sample) = event {
                greedy = Some(sample.greedy.clone());
            }
        })
        .unwrap();
    // What `ckpt infer` begins a prompt with.
    let tokens = ckpt_infer::Tokenizer::open(&path).unwrap();
    let prompt = tokens.prompt("def f(", ckpt_infer::Specials::AsText).unwrap();
    assert_eq!(prompt[0], 261);
    let pool = ckpt_infer::Pool::new(1);
    let checkpoint = ckpt_inspect::open(folder.path().join("run/step-002002.pt")).unwrap();
    let model = ckpt_infer::Model::load(&checkpoint, &Default::default(), &pool).unwrap();
    let mut runner = ckpt_infer::Runner::new(&model, &pool);
    let mut cache =
        ckpt_infer::Cache::new(model.config(), ckpt_infer::KvType::F32, ckpt_infer::WhenFull::Stop);
    let mut stop = ckpt_infer::Stop::after(16);
    stop.ids = vec![256];
    let options = ckpt_infer::SampleOptions::default();
    let outcome = ckpt_infer::Generator::new(&mut runner, &mut cache, &options, stop)
        .run(&prompt, &mut |_| true)
        .unwrap();
    let mut stream = tokens.stream(&[], true);
    let text: String = outcome.ids.iter().filter(|id| **id != 256).map(|id| stream.push(*id)).collect();
    assert_eq!(greedy.unwrap(), text + &stream.finish());
}
