//! What `ckpt train` starts from, and that it is what was meant: models of other families, tokenizers, settings, folders.

use std::path::Path;

use ckpt_kit::binary::{Ran, text};
use serde_json::{Value, json};

use crate::program;

const HEALTHY: &str = "tests/fixtures/healthy-run/step-02000.pt";
const DATA: &str = "tests/fixtures/trajectories/truth.safetensors";
const PROGRAMS: &str = "tests/fixtures/python/programs.jsonl";
const TOKENIZER: &str = "tests/fixtures/tokenizer.json";
const SMALL: &str =
    "hidden_dim = 32\nnum_layers = 2\nnum_heads = 4\nnum_kv_heads = 2\nhead_dim = 8\nmlp_hidden_dim = 48\n";

fn train(folder: &Path, arguments: &[&str]) -> Ran {
    program().run(&[&["train"], arguments, &["-o", text(folder)]].concat())
}

fn losses(run: &Path) -> Vec<f64> {
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn families_that_compute_the_same_are_trained_and_others_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    let usual = json!({
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "hidden_act": "silu", "vocab_size": 1024, "tie_word_embeddings": false,
    });
    let of = |class: &str, model_type: &str, more: Value| {
        let mut given = usual.clone();
        given["architectures"] = json!([class]);
        given["model_type"] = model_type.into();
        given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        std::fs::write(&config, given.to_string()).unwrap();
        let run = folder.path().join(class);
        train(&run, &["--init", text(&config), "--data", DATA, "--batch", "2", "--steps", "1", "--force"])
    };
    of("LlamaForCausalLM", "llama", json!({})).exits(0);
    of("MistralForCausalLM", "mistral", json!({})).exits(0);
    of("Phi3ForCausalLM", "phi3", json!({ "pad_token_id": 0 })).exits(0);
    of("Qwen3ForCausalLM", "qwen3", json!({ "head_dim": 8 })).exits(0);
    of("SmolLM3ForCausalLM", "smollm3", json!({ "no_rope_layers": [1, 1], "pad_token_id": 0 })).exits(0);
    // What is refused is what the model has.
    of("Olmo2ForCausalLM", "olmo2", json!({})).exits(2).complains(&["norms within its attention or MLP"]);
    of("LlamaForCausalLM", "llama", json!({ "attention_bias": true })).exits(2).complains(&["biases"]);
}

/// llama.cpp's Llamas have the rows of queries and keys in another order; and some families have three matrices in one.
#[test]
fn copies_whose_rows_are_ordered_or_joined_otherwise_are_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let model = file("model.json");
    let given = json!({
        "hidden_dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "mlp_hidden_dim": 48,
        "vocab_size": 1024, "use_qk_norm": false, "attn_logit_soft_cap": null, "final_logit_soft_cap": null,
    });
    std::fs::write(&model, given.to_string()).unwrap();
    let first = file("first");
    train(&first, &["--init", text(&model), "--data", DATA, "--batch", "2", "--steps", "1"]).exits(0);
    let from = first.join("step-000001.pt");
    let resumed = |from: &Path, name: &str| {
        let start = ["--resume", text(from), "--fresh-settings", "--reset-optimizer", "--restart-data"];
        let more = ["--bitlinear", "true", "--no-shuffle", "--data", DATA, "--batch", "2", "--steps", "9"];
        train(&file(name), &[&start[..], &more].concat()).exits(0);
        losses(&file(name))
    };
    let original = resumed(&from, "of-pt");
    let copy = file("model-step-1.gguf");
    let exact = ["--to", "gguf", "--quant", "f32", "--embed", "f32", "--latent", "-o", text(&copy)];
    program().run(&[&["convert", text(&from)], &exact[..]].concat()).exits(0);
    assert_eq!(resumed(&copy, "of-gguf"), original);
}

/// Another tokenizer of the same name, in the working directory, is not the run's.
#[test]
fn a_runs_own_tokenizer_is_not_another_one_of_that_name() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let start =
        ["--resume", HEALTHY, "--reset-optimizer", "--steps", "2001", "--length", "16", "--data", PROGRAMS];
    train(&run, &[&start[..], &["--tokenizer", TOKENIZER]].concat()).exits(0);
    std::fs::remove_file(run.join("tokenizer.json")).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::copy(TOKENIZER, elsewhere.join("tokenizer.json")).unwrap();
    let from = run.join("step-002001.pt");
    let resume = ["train", "--resume", text(&from), "--steps", "2002"];
    program()
        .in_folder(&elsewhere)
        .run(&resume)
        .exits(3)
        .complains(&[text(&run.join("tokenizer.json")), "--tokenizer"]);
    let named = [&resume[..], &["--tokenizer", "tokenizer.json"]].concat();
    program().in_folder(&elsewhere).run(&named).exits(0);
    assert!(run.join("tokenizer.json").is_file(), "it is in the run folder again");
}

#[test]
fn tokenizers_are_taken_as_infer_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::create_dir(file("hf")).unwrap();
    std::fs::copy(TOKENIZER, file("hf/tokenizer.json")).unwrap();
    std::fs::write(file("hf/tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
    std::fs::write(file("hf/added_tokens.json"), "{}").unwrap();
    std::fs::create_dir(file("hf/additional_chat_templates")).unwrap();
    std::fs::write(file("hf/additional_chat_templates/tool_use.jinja"), "{{ tools }}").unwrap();
    let start =
        ["--resume", HEALTHY, "--reset-optimizer", "--steps", "2001", "--length", "16", "--no-token-cache"];
    let with = |tokenizer: &Path, name: &str, more: &[&str]| {
        let run = file(name);
        train(&run, &[&start[..], &["--data", PROGRAMS, "--tokenizer", text(tokenizer)], more].concat())
            .exits(0);
        losses(&run)
    };
    let wanted = with(Path::new(TOKENIZER), "of-file", &[]);
    assert_eq!(with(&file("hf"), "of-folder", &[]), wanted);
    let run = file("of-folder");
    for kept in ["tokenizer_config.json", "added_tokens.json", "additional_chat_templates/tool_use.jinja"] {
        let [given, kept] = [file("hf").join(kept), run.join(kept)].map(|path| std::fs::read(path).unwrap());
        assert_eq!(given, kept);
    }
    let gguf = file("model.gguf");
    let exact = ["--to", "gguf", "--quant", "f32", "--embed", "f32", "--latent", "-o", text(&gguf)];
    program().run(&[&["convert", text(&run.join("step-002001.pt"))], &exact[..]].concat()).exits(0);
    let of_gguf = with(&gguf, "of-gguf", &[]);
    let kept = file("of-gguf/tokenizer.json");
    assert_eq!(with(&kept, "of-kept", &[]), of_gguf, "what is kept in the run folder gives the same tokens");
    // The run goes on, and its checkpoints are run, by what is in its folder.
    let from = file("of-gguf/step-002001.pt");
    program().run(&["train", "--resume", text(&from), "--steps", "2002"]).exits(0);
    program().run(&["infer", text(&from), "-p", "def", "-n", "2"]).exits(0);
    // A tokenizer that is replaced takes what was said of it along.
    let other = file("other.json");
    let mut changed: Value = serde_json::from_slice(&std::fs::read(TOKENIZER).unwrap()).unwrap();
    changed["version"] = "1.0".into();
    std::fs::write(&other, format!("{changed:#}\n\n")).unwrap();
    let from = run.join("step-002001.pt");
    let resume = ["--resume", text(&from), "--steps", "2002"];
    program().run(&[&["train"], &resume[..], &["--tokenizer", text(&other)]].concat()).exits(4);
    program().run(&[&["train"], &resume[..], &["--force", "--tokenizer", text(&other)]].concat()).exits(0);
    for stale in ["tokenizer_config.json", "added_tokens.json", "additional_chat_templates/tool_use.jinja"] {
        assert!(!run.join(stale).exists(), "{stale}");
    }
}

#[test]
fn settings_files_take_patterns_and_refuse_what_is_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::create_dir(file("data")).unwrap();
    for name in ["data/a.jsonl", "data/b.jsonl"] {
        std::fs::copy(PROGRAMS, file(name)).unwrap();
    }
    std::fs::copy(TOKENIZER, file("tokenizer.json")).unwrap();
    std::fs::write(file("model.toml"), SMALL).unwrap();
    let data = "[data]\nlength = 16\ntokenizer = \"tokenizer.json\"\nfiles = [\"data/*.jsonl\"]\n";
    let with = |settings: &str, run: &str| {
        std::fs::write(file("c.toml"), settings).unwrap();
        let [init, config] = ["model.toml", "c.toml"].map(file);
        train(&file(run), &["--init", text(&init), "--config", text(&config), "--no-token-cache"])
    };
    with(&format!("steps = 1\n{data}"), "globbed").exits(0);
    let written = std::fs::read_to_string(file("globbed/config.toml")).unwrap();
    assert!(written.contains("data/a.jsonl") && written.contains("data/b.jsonl"), "{written}");
    for (key, text) in [
        ("optimizer.lr", "[optimizer]\nlr = nan\n"),
        ("optimizer.betas", "[optimizer]\nbetas = [0.9, inf]\n"),
        ("clip", "clip = -inf\n"),
        ("sample.temperature", "[sample]\ntemperature = nan\n"),
    ] {
        with(&format!("{text}{data}"), "none").exits(2).complains(&["c.toml", &format!("`{key}`"), "finite"]);
    }
    with(&format!("[schedule]\nmin_factor = -3.0\n{data}"), "none")
        .exits(2)
        .complains(&["schedule.min_factor"]);
    for (key, setting) in
        [("rope_base", "rope_base = -1.0"), ("norm_eps", "norm_eps = nan"), ("norm_eps", "norm_eps = -1.0")]
    {
        std::fs::write(file("model.toml"), format!("{SMALL}{setting}\n")).unwrap();
        with(data, "none").exits(2).complains(&[key]);
    }
    // What is wrong in a file is shown where it is, on lines of their own.
    std::fs::write(file("model.toml"), "hidden_dim = \n").unwrap();
    let output = with(data, "none").exits(2);
    assert!(!output.err().contains("\\n"), "{}", output.err());
}

#[test]
fn a_checkpoint_that_is_not_there_is_said_not_to_be_and_the_last_one_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let start =
        ["--resume", HEALTHY, "--reset-optimizer", "--data", DATA, "--batch", "2", "--save-every", "1"];
    train(&run, &[&start[..], &["--steps", "2002"]].concat()).exits(0);
    let last = run.join("step-002002.pt");
    let resume = |from: &Path| program().run(&["train", "--resume", text(from), "--steps", "2004"]);
    resume(&run.join("step-002009.pt")).exits(3).complains(&["no such file", text(&last)]);
    resume(&run).exits(3).complains(&["is a run folder", text(&last)]);
    resume(&last).exits(0);
}

/// A checkpoint that was copied with its settings has them, and another program's file of that name is left.
#[test]
fn settings_beside_a_copied_checkpoint_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let start = ["--resume", HEALTHY, "--reset-optimizer", "--data", DATA, "--batch", "2", "--steps", "2001"];
    train(&run, &start).exits(0);
    let copy = folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for name in ["step-002001.pt", "config.toml"] {
        std::fs::copy(run.join(name), copy.join(name)).unwrap();
    }
    let from = copy.join("step-002001.pt");
    let next = folder.path().join("next");
    train(&next, &["--resume", text(&from), "--steps", "2002"]).exits(0);
    let config = std::fs::read_to_string(next.join("config.toml")).unwrap();
    assert!(config.contains("batch = 2\n"), "{config}");
    std::fs::write(copy.join("config.toml"), "[server]\nport = 1\n").unwrap();
    let other = folder.path().join("other");
    train(&other, &["--resume", text(&from), "--data", DATA, "--steps", "2002"])
        .exits(0)
        .complains(&["config.toml is not the settings of a run"]);
}

/// A later version's defaults change no run that is continued.
#[test]
fn a_runs_settings_are_all_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let start = ["--resume", HEALTHY, "--reset-optimizer", "--data", DATA, "--batch", "2", "--steps", "2001"];
    train(&run, &[&start[..], &["--optimizer", "polarized-muon"]].concat()).exits(0);
    let optimizer = |run: &Path| {
        let text = std::fs::read_to_string(run.join("config.toml")).unwrap();
        toml::from_str::<toml::Table>(&text).unwrap()["optimizer"].clone()
    };
    let written = optimizer(&run);
    for (key, value) in [("lr", 0.02), ("momentum", 0.95), ("adamw_lr", 3e-4)] {
        assert_eq!(written[key].as_float(), Some(value), "{key}");
    }
    assert_eq!(written["polarizer"]["strength"].as_float(), Some(0.05));
    assert_eq!(written["polarizer"]["target"]["relative"].as_float(), Some(0.25));
    // Another optimizer and another well have their own.
    let from = run.join("step-002001.pt");
    let more =
        ["--optimizer", "polarized-adamw", "--well", "constant", "--reset-optimizer", "--steps", "2002"];
    let next = folder.path().join("next");
    train(&next, &[&["--resume", text(&from)], &more[..]].concat()).exits(0);
    let written = optimizer(&next);
    assert_eq!(written["lr"].as_float(), Some(3e-4));
    assert_eq!(written["polarizer"]["strength"].as_float(), Some(0.01));
    assert_eq!(written["polarizer"]["target"]["absolute"].as_float(), Some(0.01));
}

#[test]
fn refusals_to_resume_name_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let start = ["--resume", HEALTHY, "--reset-optimizer", "--data", DATA, "--batch", "2", "--steps", "2001"];
    train(&run, &start).exits(0);
    let from = run.join("step-002001.pt");
    let again = |more: &[&str]| {
        let next = folder.path().join("next");
        train(&next, &[&["--resume", text(&from)], more].concat()).exits(2)
    };
    again(&[]).complains(&["at step 2001 already", "--steps"]);
    again(&["--steps", "2002", "--optimizer", "muon-adamw"])
        .complains(&["another optimizer", "--reset-optimizer"]);
    let data = format!("{DATA}=2");
    let two = ["--steps", "2002", "--tokenizer", TOKENIZER, "--data", &data, PROGRAMS];
    again(&two).complains(&["2", "--restart-data"]);
}
