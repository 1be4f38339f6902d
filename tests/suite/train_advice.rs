//! What `ckpt train` says of flags and settings that change nothing or are wrong.

use std::path::Path;

use ckpt_kit::binary::{Ran, text};

use crate::program;

const HEALTHY: &str = "tests/fixtures/healthy-run/step-02000.pt";
const IDS: &str = "tests/fixtures/trajectories/truth.safetensors";
const TOKENIZER: &str = "tests/fixtures/tokenizer.json";
const PROGRAMS: &str = "tests/fixtures/python/programs.jsonl";

fn train(folder: &Path, arguments: &[&str]) -> Ran {
    program().run(&[&["train"], arguments, &["-o", text(folder)]].concat())
}

/// A small model, with or without BitLinear layers.
fn small(folder: &Path, bitlinear: bool) -> String {
    let path = folder.join(format!("{bitlinear}.toml"));
    let sizes = "hidden_dim = 32\nnum_layers = 1\nnum_heads = 2\nnum_kv_heads = 1\nhead_dim = 16\nmlp_hidden_dim = 64";
    std::fs::write(&path, format!("vocab_size = 1024\n{sizes}\nuse_bitlinear = {bitlinear}\n")).unwrap();
    text(&path).to_string()
}

#[test]
fn flags_for_ternary_layers_are_told_where_there_are_none() {
    let folder = tempfile::tempdir().unwrap();
    const WHY: &str = "has no effect on a model without BitLinear layers";
    let said = |bitlinear: bool, flags: &[&str]| {
        let model = small(folder.path(), bitlinear);
        let start = ["--init", &model, "--data", IDS, "--batch", "2", "--steps", "1", "--force"];
        let ran = train(&folder.path().join("run"), &[&start[..], flags].concat()).exits(0);
        ran.err().lines().filter(|line| line.contains(WHY)).map(str::to_string).collect::<Vec<_>>()
    };
    let all = ["--well", "two-sided", "--relative-target", "0.2", "--polarization-strength", "0.1"];
    let all = [&all[..], &["--ternary-weight-decay", "0.1", "--detached-scales"]].concat();
    let told = said(false, &all);
    for flag in [
        "--well",
        "--relative-target",
        "--polarization-strength",
        "--ternary-weight-decay",
        "--detached-scales",
    ] {
        assert!(told.iter().any(|line| line.contains(flag)), "{flag}: {told:?}");
    }
    assert_eq!(told.len(), 5, "{told:?}");
    assert_eq!(said(false, &["--optimizer", "polarized-adamw"]).len(), 1);
    assert_eq!(said(true, &all), Vec::<String>::new());
    // These do something all the same.
    let some = ["--optimizer", "polarized-muon-adamw", "--well", "constant", "--ternary-weight-decay", "0.1"];
    assert_eq!(said(false, &some), Vec::<String>::new());
    assert_eq!(said(false, &[]), Vec::<String>::new(), "nobody asked for the polarizer");
}

#[test]
fn flags_for_other_kinds_of_data_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, contents.repeat(64)).unwrap();
        text(&path).to_string()
    };
    let plain = file("a.txt", "def f(x):\n    return x\n");
    let talk =
        r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}"#;
    let talks = file("talks.jsonl", &format!("{talk}\n"));
    let turns = r#"{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}"#;
    let turns = file("turns.jsonl", &format!("{turns}\n"));
    let model = small(folder.path(), true);
    let said = |data: &str, flags: &[&str]| {
        let start =
            ["--init", &model, "--tokenizer", TOKENIZER, "--data", data, "--batch", "1", "--steps", "1"];
        let flags = [&start[..], &["--force", "--holdout", "0"], flags].concat();
        let ran = train(&folder.path().join("run"), &flags).exits(0);
        ran.err().lines().filter(|line| line.contains("has no effect")).count()
    };
    for (data, flags, told) in [
        (plain.as_str(), &["--length", "16", "--text-column", "code"][..], 1),
        (IDS, &["--text-column", "code"], 1),
        (PROGRAMS, &["--length", "16", "--template", "plain"], 1),
        (PROGRAMS, &["--length", "8", "--text-column", "prompt"], 0),
        (&talks, &["--length", "8", "--template", "plain"], 0),
        (&turns, &["--length", "8", "--template", "plain"], 0),
        (IDS, &["--length", "16"], 1),
        (plain.as_str(), &["--length", "16"], 0),
    ] {
        assert_eq!(said(data, flags), told, "{data} {flags:?}");
    }
}

#[test]
fn the_configuration_of_weights_is_that_of_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let hf = folder.path().join("hf");
    program().run(&["convert", HEALTHY, "--to", "hf", "-o", text(&hf)]).exits(0);
    let config = |name: &str, init: &Path| {
        let run = folder.path().join(name);
        let start = ["--init", text(init), "--data", IDS, "--batch", "2", "--steps", "1"];
        let ran = train(&run, &start).exits(0);
        let record =
            program().run(&["inspect", "--format", "json", text(&run.join("step-000001.pt"))]).json();
        let model = match &record {
            serde_json::Value::Array(all) => all[0]["model"]["config"].clone(),
            one => one["model"]["config"].clone(),
        };
        assert!(model.is_object(), "{record}");
        (model, ran)
    };
    let (whole, _) = config("whole", &hf);
    let (alone, ran) = config("alone", &hf.join("config.json"));
    assert_eq!(alone, whole);
    ran.complains(&["the model beside it"]);
    // By itself it says what it says.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(hf.join("config.json"), other.join("config.json")).unwrap();
    assert_ne!(config("bare", &other.join("config.json")).0, whole);
}

#[test]
fn errors_name_the_one_setting_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |settings: &str, flags: &[&str]| {
        let config = folder.path().join("config.toml");
        std::fs::write(&config, settings).unwrap();
        let start = ["--resume", HEALTHY, "--reset-optimizer", "--data", IDS, "--steps", "2001"];
        let ran = train(folder.path(), &[&start[..], &["--config", text(&config)], flags].concat()).exits(2);
        ran.err().to_string()
    };
    for (optimizer, wrong, words) in [
        ("sgd", "betas = [2.0, 0.9]", "betas 2 must be at least 0 and below 1"),
        ("sgd", "betas = \"no\"", "betas"),
        ("adamw", "momentum = -1.0", "momentum -1"),
        ("adamw", "polarizer = { strength = -1.0 }", "polarization strength -1"),
        ("adamw", "tunnel_strength = -3.0", "tunnel_strength -3"),
    ] {
        let said = refused(&format!("[optimizer]\nname = \"{optimizer}\"\n{wrong}\n"), &[]);
        assert!(said.contains(words), "{words}: {said}");
    }
    let said = refused("", &["--label-smoothing", "1.2"]);
    assert!(said.contains("label smoothing must be") && !said.contains("focal"), "{said}");
    let said = refused("[optimizer.polarizer]\nwell = \"round\"\n", &[]);
    assert!(said.contains("one-sided, two-sided, constant, piecewise") && !said.contains("seed-"), "{said}");
}

/// Every key that an error names is in the page's table.
#[test]
fn settings_of_a_model_are_documented() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.toml");
    std::fs::write(&model, "other = 1\n").unwrap();
    let ran = train(folder.path(), &["--init", text(&model), "--data", IDS]).exits(2);
    let listed = ran.err().split("the settings are ").nth(1).unwrap();
    let page = std::fs::read_to_string("docs/bitnet.md").unwrap();
    let table: String = page.lines().filter(|line| line.starts_with("| `")).collect();
    let keys: Vec<&str> = listed.split(", ").map(str::trim).collect();
    assert!(keys.len() > 15, "{keys:?}");
    for key in keys {
        assert!(
            table.contains(&format!("`{key}`"))
                || key == "use_bitlinear" && page.contains("`use_bitlinear` sets both"),
            "{key}"
        );
    }
}

#[test]
fn a_run_whose_documents_are_all_held_out_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("a.jsonl");
    std::fs::write(&data, "{\"text\": \"def f(x):\\n    return x + 1\"}\n").unwrap();
    let start = [
        "--resume",
        HEALTHY,
        "--reset-optimizer",
        "--steps",
        "2001",
        "--tokenizer",
        TOKENIZER,
        "--length",
        "4",
    ];
    // Whether the one document is held out depends on the seed.
    let seeds = (0..8).map(|seed| seed.to_string());
    let said: Vec<String> = seeds
        .map(|seed| {
            let more = ["--data", text(&data), "--holdout", "0.9", "--seed", &seed, "--force"];
            train(&folder.path().join("run"), &[&start[..], &more].concat()).err().to_string()
        })
        .collect();
    assert!(said.iter().any(|said| said.contains("all documents of the data are held out")), "{said:?}");
    assert!(!said.iter().any(|said| said.contains("contains no sequence")), "{said:?}");
}
