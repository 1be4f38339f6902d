//! The run folder of `ckpt train`: it explains itself, goes on, and serves other commands; and how a new model is named.

use std::path::Path;

use ckpt_kit::binary::{Ran, text};
use ckpt_kit::fixtures::fixture;

use crate::program;

const DATA: &str = "tests/fixtures/trajectories/truth.safetensors";
const KNOWS: &str = "tests/fixtures/python/model.pt";

fn train(arguments: &[&str]) -> Ran {
    program().run(&[&["train"], arguments].concat())
}

/// A run from step 400 on, on text, with a tokenizer of its own; paths are relative to the repository.
fn run_on_text(folder: &Path, steps: &str, more: &[&str]) -> Ran {
    let start =
        ["--resume", KNOWS, "--tokenizer", "tests/fixtures/tokenizer.json", "--data", "docs/train.md"];
    let sizes =
        ["--steps", steps, "--length", "32", "--batch", "4", "--optimizer", "adamw", "--holdout", "0.5"];
    train(&[&start[..], &sizes, more, &["--no-token-cache", "-o", text(folder)]].concat())
}

fn config(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("config.toml")).unwrap()
}

#[test]
fn resuming_takes_the_settings_of_its_run_from_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let (run, whole) = (folder.path().join("run"), folder.path().join("whole"));
    run_on_text(&run, "402", &[]).exits(0);
    run_on_text(&whole, "404", &[]).exits(0);

    // From another working directory, without a flag but the new end, into the same folder.
    let at = |step: u64| run.join(format!("step-{step:06}.pt")).into_os_string().into_string().unwrap();
    let (at404, at405, at406, at407) = (at(404), at(405), at(406), at(407));
    let elsewhere = program().in_its_folder();
    let from = run.join("step-000402.pt");
    let on = ["train", "--resume", text(&from), "--steps", "404", "--no-token-cache"];
    let said = elsewhere.run(&on).exits(0);
    assert!(said.err().contains("config.toml; here steps 402 -> 404\n"), "{said}");
    assert!(elsewhere.files().is_empty(), "{:?}", elsewhere.files());
    let last = |run: &Path| std::fs::read(run.join("step-000404.pt")).unwrap();
    assert!(last(&run) == last(&whole), "the halves make the whole, to the byte");
    let written = config(&run);
    for part in ["name = \"adamw\"", "batch = 4", "steps = 404", "tokenizer = \"tokenizer.json\""] {
        assert!(written.contains(part), "{part}: {written}");
    }
    assert!(!run.join("config-until-000402.toml").exists());

    // Flags are over it; what they change is told, and the former settings stay.
    let on = ["--resume", &at404, "--steps", "405", "--batch", "2", "--lr", "0.001"];
    let said = train(&[&on[..], &["--no-token-cache"]].concat()).exits(0);
    let told = ["data.batch 4 -> 2", "optimizer.lr 0.0003 -> 0.001", "config-until-000404.toml"];
    let said = said.complains(&told);
    assert!(!said.err().contains("data.files"), "{said}");
    let before = std::fs::read_to_string(run.join("config-until-000404.toml")).unwrap();
    assert!(before == written && config(&run).contains("batch = 2"));

    // The defaults, when asked for, and then in the same way.
    let on = ["--resume", &at405, "--steps", "406", "--fresh-settings", "--data", "docs/train.md"];
    let said =
        train(&[&on[..], &["--optimizer", "adamw", "--length", "32", "--no-token-cache"]].concat()).exits(0);
    assert!(!said.err().contains("settings of"), "{said}");
    assert!(config(&run).contains("batch = 16") && run.join("config-until-000405.toml").exists());
    // Another length begins the data anew.
    let on = ["--resume", &at406, "--steps", "407", "--length", "16", "--no-token-cache"];
    train(&on)
        .exits(0)
        .complains(&["data.length 32 -> 16", "sequences of 32 positions, and this run's have 16"]);
    // A file that cannot be read is named, with what to do.
    std::fs::write(run.join("config.toml"), "batches = 3\n").unwrap();
    let on = ["--resume", &at407, "--steps", "408", "--no-token-cache"];
    train(&on).exits(2).complains(&["config.toml", "batches", "--fresh-settings"]);
    // One of an earlier version, with a key that is gone, is taken.
    std::fs::write(
        run.join("config.toml"),
        written.replace("batch = 4", "batch = 4\nvalidation_batches = 16"),
    )
    .unwrap();
    train(&on).exits(0);
}

/// The tokenizer comes along, so other commands need no flag for any checkpoint of the folder.
#[test]
fn every_checkpoint_of_a_run_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    run_on_text(&run, "402", &["--save-every", "1", "--validate-every", "1", "--best-any"]).exits(0);
    let own = std::fs::read(run.join("tokenizer.json")).unwrap();
    assert_eq!(own, std::fs::read(fixture("tokenizer.json")).unwrap());
    for name in ["step-000401.pt", "step-000402.pt"] {
        let checkpoint = run.join(name);
        let ckpt = |arguments: &[&str]| program().run(arguments);
        ckpt(&["infer", text(&checkpoint), "-p", "def f", "-n", "3"]).exits(0);
        ckpt(&["diagnose", text(&checkpoint), "--format", "json"]);
        let (hf, gguf) =
            (folder.path().join(format!("{name}-hf")), folder.path().join(format!("{name}.gguf")));
        ckpt(&["convert", text(&checkpoint), "--to", "hf", "-o", text(&hf)]).exits(0);
        assert_eq!(std::fs::read(hf.join("tokenizer.json")).unwrap(), own);
        ckpt(&["convert", text(&checkpoint), "--to", "gguf", "--latent", "-o", text(&gguf)]).exits(0);
        std::fs::rename(&gguf, folder.path().join("alone.gguf")).unwrap();
        ckpt(&["infer", text(&folder.path().join("alone.gguf")), "-p", "def f", "-n", "3"]).exits(0);
    }
    // A folder with another tokenizer is not mixed with it.
    let other = std::fs::read_to_string(fixture("tokenizer.json")).unwrap() + "\n";
    let tokenizer = folder.path().join("other.json");
    std::fs::write(&tokenizer, &other).unwrap();
    let from = run.join("step-000402.pt");
    let on = ["--resume", text(&from), "--steps", "403", "--no-token-cache", "--tokenizer", text(&tokenizer)];
    train(&on).exits(4).complains(&["another tokenizer", "--force"]);
    assert_eq!(std::fs::read(run.join("tokenizer.json")).unwrap(), own);
    train(&[&on[..], &["--force"]].concat()).exits(0);
    assert_eq!(std::fs::read_to_string(run.join("tokenizer.json")).unwrap(), other);
}

/// `--init` takes what a configuration is kept in.
#[test]
fn a_new_model_is_made_from_any_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let started = |init: &str, run: &str, more: &[&str]| {
        let run = path(run);
        let start = ["--init", init, "--data", DATA, "--steps", "1", "--batch", "2", "--validate-every", "0"];
        train(&[&start[..], more, &["-o", text(&run)]].concat()).exits(0);
        let shown = program().run(&["inspect", "--format", "json", text(&run.join("step-000001.pt"))]);
        shown.exits(0).json()["model"]["config"].clone()
    };
    // A checkpoint, and the configuration in it, alone and with the settings around it.
    let whole = started("tests/fixtures/healthy-run/step-02000.pt", "whole", &[]);
    assert_eq!(whole["hidden_dim"], 64, "{whole}");
    let script = "import json, sys, torch; c = torch.load(sys.argv[1], weights_only=True)['config']; \
                  json.dump(c['model'], open(sys.argv[2], 'w')); json.dump(c, open(sys.argv[3], 'w'))";
    let from = path("whole/step-000001.pt");
    if let Some(python) = ckpt_kit::peers::python(&["torch"]) {
        python.code(script, &[&from, &path("model.json"), &path("both.json")]);
        for name in ["model.json", "both.json"] {
            assert_eq!(started(text(&path(name)), &format!("{name}-run"), &[]), whole, "{name}");
        }
    }
    // Hugging Face's, whose model is not BitLinear unless asked for.
    let hf = serde_json::json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 1024, "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 16, "max_position_embeddings": 128, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": true, "hidden_act": "silu", "attention_bias": false,
    });
    std::fs::write(path("config.json"), hf.to_string()).unwrap();
    let model = started(text(&path("config.json")), "hf", &[]);
    assert_eq!(
        (&model["mlp_hidden_dim"], &model["use_bitlinear_ffn"]),
        (&64.into(), &false.into()),
        "{model}"
    );
    let model = started(text(&path("config.json")), "ternary", &["--bitlinear", "true"]);
    assert_eq!(model["use_bitlinear_ffn"], true, "{model}");
    let refused = |change: (&str, serde_json::Value), word: &str| {
        let mut other = hf.clone();
        other[change.0] = change.1;
        std::fs::write(path("other.json"), other.to_string()).unwrap();
        let (other, never) = (path("other.json"), path("never"));
        let start = ["--init", text(&other), "--data", DATA, "--steps", "1"];
        train(&[&start[..], &["-o", text(&never)]].concat()).exits(2).complains(&[word]);
    };
    refused(("hidden_act", "gelu".into()), "gelu");
    refused(("attention_bias", true.into()), "biases are not supported");
    refused(
        ("rope_scaling", serde_json::json!({ "rope_type": "linear", "factor": 2.0 })),
        "rotary positions",
    );
    refused(("architectures", serde_json::json!(["GPT2LMHeadModel"])), "GPT2LMHeadModel");
    // Keys that are not known name those that are.
    std::fs::write(path("wrong.toml"), "hidden_dimm = 32\n").unwrap();
    let (wrong, never) = (path("wrong.toml"), path("never"));
    let start = ["--init", text(&wrong), "--data", DATA, "-o", text(&never)];
    train(&start).exits(2).complains(&["`hidden_dimm`", "hidden_dim, ", "use_bitlinear", "rope_scaling"]);
    assert!(!path("never").exists());
}

/// The tokenizer decides on the vocabulary where nothing else does.
#[test]
fn a_new_model_has_its_tokenizers_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.toml");
    let sizes = "hidden_dim = 32\nnum_layers = 1\nnum_heads = 2\nnum_kv_heads = 1\nhead_dim = 16\nmlp_hidden_dim = 64\n";
    std::fs::write(&model, sizes).unwrap();
    let run = folder.path().join("run");
    let start =
        ["--init", text(&model), "--data", "docs/train.md", "--steps", "1", "--batch", "2", "--length", "16"];
    let tokenizer = ["--tokenizer", "tests/fixtures/tokenizer.json", "--no-token-cache", "-o", text(&run)];
    train(&[&start[..], &tokenizer].concat()).exits(0);
    let shown = program().run(&["inspect", "--format", "json", text(&run.join("step-000001.pt"))]).json();
    assert_eq!(shown["model"]["config"]["vocab_size"], 1024, "{}", shown["model"]);
    std::fs::write(&model, format!("{sizes}vocab_size = 1000\n")).unwrap();
    let place = folder.path().join("other");
    let other = ["--tokenizer", "tests/fixtures/tokenizer.json", "-o", text(&place)];
    train(&[&start[..], &other].concat()).exits(2).complains(&["vocabulary of 1000", "1024 tokens"]);
}

#[test]
fn help_shows_what_counts_without_a_flag() {
    let help = train(&["--help"]).exits(0);
    let words: Vec<&str> = help.out().split_whitespace().collect();
    let help = words.join(" ");
    let help = &help[help.find("Options:").unwrap()..];
    let flags = ckpt_train::keys::KEYS.iter().filter_map(|key| Some((key, key.flag?)));
    for (key, flag) in flags.filter(|(key, _)| !matches!(key.name, "data.shuffle" | "schedule.cosine_steps"))
    {
        let at = help.find(&format!("--{flag} ")).unwrap_or_else(|| panic!("--{flag}: {help}"));
        let of_flag = help[at + 2..].split(" --").next().unwrap_or_default();
        match key.default().filter(|default| default != "false") {
            Some(_) if key.name == "optimizer.polarizer.target" => {
                assert!(of_flag.contains("[default: 0.25"), "{of_flag}");
            }
            Some(default) => {
                assert!(of_flag.contains(&format!("[default: {default}]")), "--{flag}: {of_flag}")
            }
            None => {}
        }
    }
    for preset in ckpt_train::PRESETS {
        assert!(help.contains(preset), "{preset}");
    }
    assert!(help.contains("[default: 32000]") && !help.contains("125m"), "{help}");
}

#[test]
fn flags_that_change_nothing_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let start = ["--resume", "tests/fixtures/healthy-run/step-02000.pt", "--reset-optimizer", "--data", DATA];
    let steps = ["--steps", "2001", "--batch", "2", "--holdout", "0.2"];
    let mut place = 0;
    let mut told = |flags: &[&str], what: &[&str]| {
        place += 1;
        let run = folder.path().join(place.to_string());
        let said = train(&[&start[..], &steps, flags, &["-o", text(&run)]].concat()).exits(0);
        if what.is_empty() {
            assert!(!said.err().contains("has no effect"), "{said}");
        }
        said.complains(what);
    };
    told(&[], &[]);
    told(
        &["--alpha", "0.3", "--temperature", "3"],
        &["--alpha has no effect", "--temperature has no effect"],
    );
    let polarizer = ["--well", "two-sided", "--relative-target", "0.2", "--polarization-strength", "0.1"];
    let without = ["--well has", "--relative-target has no", "--polarization-strength has no effect"];
    told(&[&["--optimizer", "adamw"], &polarizer[..]].concat(), &without);
    told(&polarizer, &[]);
    told(&["--validation", DATA], &["--holdout has no effect with --validation"]);
    told(
        &["--validate-every", "0", "--validation-tokens", "9", "--best-any"],
        &["--validation-tokens has", "--best-any has"],
    );
    told(&["--save-every", "0", "--keep-last", "3"], &["--keep-last has no effect"]);
    told(&["--stop-on-collapse", "--health-every", "0"], &["--stop-on-collapse sees"]);
    told(&["--warmup", "9000"], &["full learning rate is never reached"]);
    let new = [
        "--init",
        "tests/fixtures/healthy-run/step-02000.pt",
        "--data",
        DATA,
        "--steps",
        "1",
        "--batch",
        "2",
    ];
    let useless = ["--restart-data", "--allow-collapsed", "--reset-optimizer"];
    let said = train(&[&new[..], &useless, &["-o", text(&folder.path().join("new"))]].concat()).exits(0);
    said.complains(&["--restart-data has", "--allow-collapsed has", "--reset-optimizer has"]);
}

#[test]
fn presets_by_their_former_names_say_their_size() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let start = ["--init", "50m", "--data", "no.npy", "--steps", "1", "-o", text(&run)];
    train(&start).exits(3).complains(&["--init 50m is now called 39m", "no.npy"]);
}
