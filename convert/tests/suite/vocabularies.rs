//! Vocabularies in GGUF files: those that fit the model, and which tokens end a text.

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Error, Gguf, Note, Options, Plan, Target, write};
use ckpt_inspect::ggml::GgmlType;
use ckpt_inspect::gguf::{Keys, Layout, OutputEntry};
use ckpt_inspect::{metadata, open};
use ckpt_kit::fixtures::fixture;

use super::gguf::{Converted, LLAMA, hugging_face, llama_config, options, with};

#[test]
fn another_models_tokenizer_is_refused() {
    let llama = hugging_face(&llama_config(), &LLAMA);
    let options = with(Quant::F16).with(|o| o.tokenizer = Some(fixture("tokenizer.json")));
    let checkpoint = open(llama.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stop = Default::default();
    let written = Plan::new(&checkpoint, &options).and_then(|mut plan| {
        let control = Control::new(&|_| (), &stop);
        write(&mut plan, &options, &folder.path().join("model.gguf"), control)
    });
    let Err(Error::Target { why: message, .. }) = written else { panic!("1024 tokens for 40 rows") };
    assert!(message.contains("1024") && message.contains("40"), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A header can announce any number of rows of an embedding without columns, but each row would get a token.
#[test]
fn rows_beyond_any_vocabulary_are_refused() {
    let rows: &[usize] = &[1 << 33, 0];
    let tensors: Vec<(&str, &[usize])> =
        [("model.embed_tokens.weight", rows)].into_iter().chain(LLAMA[1..].iter().copied()).collect();
    let llama = hugging_face(&llama_config(), &tensors);
    std::fs::copy(fixture("tokenizer.json"), llama.path().join("tokenizer.json")).unwrap();
    let checkpoint = open(llama.path()).unwrap();
    let options = options(Gguf::default());
    let stop = Default::default();
    let path = llama.path().join("model.gguf");
    let error = Plan::new(&checkpoint, &options)
        .and_then(|mut plan| write(&mut plan, &options, &path, Control::new(&|_| (), &stop)))
        .unwrap_err();
    assert!(error.to_string().contains("8589934592 rows"), "{error}");
    assert!(!path.exists());
}

/// A vocabulary that contradicts itself costs the folder its tokenizer, and not the weights.
#[test]
fn a_vocabulary_that_cannot_be_read_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let mut keys = Keys::default();
    keys.set("general.architecture", "other");
    keys.set("tokenizer.ggml.model", "llama");
    keys.set_array("tokenizer.ggml.tokens", ["a", "b", "c"].into_iter());
    keys.set_array("tokenizer.ggml.scores", [1.0f32, 2.0].into_iter());
    let layout = Layout::new(&keys, &[OutputEntry::new("w.weight", GgmlType::F32, vec![2, 2])]).unwrap();
    let mut bytes = layout.header.clone();
    bytes.resize(layout.offsets[0] as usize, 0);
    bytes.extend([0.5f32; 4].iter().flat_map(|x| x.to_le_bytes()));
    std::fs::write(&file, bytes).unwrap();
    let source = open(&file).unwrap();
    let options = Options::new(Target::Hf { packed: false });
    let mut plan = Plan::new(&source, &options).unwrap();
    let out = folder.path().join("out");
    write(&mut plan, &options, &out, Control::new(&|_| (), &Default::default())).unwrap();
    let told = |note: &Note| matches!(note, Note::TokenizerUnreadable { .. });
    assert!(plan.notes.iter().any(told), "{:?}", plan.notes);
    assert!(out.join("model.safetensors").exists() && !out.join("tokenizer.json").exists());
}

/// llama.cpp stops at a character for which there is neither a token nor those of its bytes.
#[test]
fn a_bpe_of_characters_without_bytes_is_refused() {
    let model = ckpt_kit::fixtures::data("infer", "sentencepiece").join("bpe-no-bytes.model");
    let tensors: Vec<(&str, &[usize])> = [("model.embed_tokens.weight", &[200usize, 512][..])]
        .into_iter()
        .chain(LLAMA[1..].iter().copied())
        .collect();
    let llama = hugging_face(&llama_config(), &tensors);
    std::fs::copy(model, llama.path().join("tokenizer.model")).unwrap();
    let checkpoint = open(llama.path()).unwrap();
    let (options, path) = (options(Gguf::default()), llama.path().join("model.gguf"));
    let error = Plan::new(&checkpoint, &options)
        .and_then(|mut plan| write(&mut plan, &options, &path, Control::new(&|_| (), &Default::default())))
        .unwrap_err();
    assert!(error.to_string().contains("without tokens for bytes"), "{error}");
    assert!(!path.exists());
}

/// All ids that end a text are in the file, for llama.cpp as far as it has keys.
#[test]
fn every_end_of_text_is_written_and_read() {
    let mut config = llama_config();
    config["eos_token_id"] = serde_json::json!([2, 5, 7, 9]);
    let embedding: &[usize] = &[1024, 512];
    let wide: Vec<(&str, &[usize])> =
        [(LLAMA[0].0, embedding)].into_iter().chain(LLAMA[1..].iter().copied()).collect();
    let other = hugging_face(&config, &wide);
    std::fs::copy(fixture("tokenizer.json"), other.path().join("tokenizer.json")).unwrap();
    let converted = Converted::new(other.path(), &with(Quant::F16));
    let json = metadata::to_json(&converted.open().metadata);
    assert_eq!(json["tokenizer.ggml.eos_token_id"], 2);
    assert_eq!(
        (&json["tokenizer.ggml.eot_token_id"], &json["tokenizer.ggml.eom_token_id"]),
        (&5.into(), &7.into())
    );
    for source in [open(other.path()).unwrap(), converted.open()] {
        let mut ends = ckpt_inspect::vocabulary::end_ids(&source);
        ends.sort_unstable();
        ends.dedup();
        assert_eq!(ends, [2, 5, 7, 9], "{}", source.path.display());
    }
    let vocabulary = ckpt_inspect::vocabulary::Vocabulary::embedded(&converted.open()).unwrap().unwrap();
    assert_eq!(vocabulary.ends, [5, 7, 9]);
}

/// A model may have rows beyond its tokenizer's tokens, and end a text with one; ids beyond its rows change nothing, and are
/// kept as well.
#[test]
fn ids_without_a_token_end_texts_there_and_back() {
    let embedding: &[usize] = &[1100, 512];
    let wide: Vec<(&str, &[usize])> =
        [(LLAMA[0].0, embedding)].into_iter().chain(LLAMA[1..].iter().copied()).collect();
    for (ids, end, turn, left) in [
        (vec![2, 1080, 5000], 2, Some(1080), Some(5000)),
        (vec![1080], 1080, None, None),
        (vec![1080, 1090], 1080, Some(1090), None),
    ] {
        let mut config = llama_config();
        config["vocab_size"] = 1100.into();
        config["eos_token_id"] = serde_json::json!(ids);
        let source = hugging_face(&config, &wide);
        std::fs::copy(fixture("tokenizer.json"), source.path().join("tokenizer.json")).unwrap();
        let converted = Converted::new(source.path(), &with(Quant::F16));
        let json = metadata::to_json(&converted.open().metadata);
        assert_eq!(json["tokenizer.ggml.eos_token_id"], end);
        assert_eq!(json["tokenizer.ggml.eot_token_id"].as_i64(), turn, "{ids:?}");
        assert_eq!(json["tokenizer.ckpt.eos_token_ids"][0].as_i64(), left, "{ids:?}");
        let back = source.path().join("back");
        let options = Options::new(Target::Hf { packed: false }).with(|o| o.allow_incomplete = true);
        let checkpoint = converted.open();
        let mut plan = Plan::new(&checkpoint, &options).unwrap();
        write(&mut plan, &options, &back, Control::new(&|_| (), &Default::default())).unwrap();
        let config = std::fs::read(back.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let one_or_all = if ids.len() == 1 { ids[0].into() } else { serde_json::json!(ids) };
        assert_eq!(config["eos_token_id"], one_or_all);
    }
}
