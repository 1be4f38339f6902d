//! `ckpt train` through the real binary.

use std::path::Path;

use ckpt_kit::binary::{Ran, text};

use crate::program;

const HEALTHY: &str = "tests/fixtures/healthy-run/step-02000.pt";
const DATA: &str = "tests/fixtures/trajectories/truth.safetensors";

fn train(folder: &Path, arguments: &[&str]) -> Ran {
    program().run(&[&["train"], arguments, &["-o", text(folder)]].concat())
}

#[test]
fn a_resumed_half_makes_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, half) = (folder.path().join("whole"), folder.path().join("half"));
    let start = ["--resume", HEALTHY, "--reset-optimizer", "--data", DATA, "--batch", "4", "--no-shuffle"];
    let run = |folder: &Path, more: &[&str]| {
        let output = train(folder, &[&start, more].concat()).exits(0);
        output.err().to_string()
    };
    let said = run(&whole, &["--steps", "2006", "--threads", "2"]);
    assert!(said.contains("from step 2000 to 2006 with polarized-adamw"), "{said}");
    run(&half, &["--steps", "2003", "--threads", "1"]);
    let config = half.join("config.toml");
    let from = half.join("step-002003.pt");
    train(&half, &["--resume", text(&from), "--config", text(&config), "--steps", "2006"]).exits(0);
    let checkpoint = |run: &Path| std::fs::read(run.join("step-002006.pt")).unwrap();
    assert!(checkpoint(&whole) == checkpoint(&half), "the halves make the whole, to the byte");
    let metrics = std::fs::read_to_string(half.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().filter(|l| l.contains("\"loss\"")).count(), 6);
    // From a distributed checkpoint, with its moments.
    let (parts, other) = (folder.path().join("parts"), folder.path().join("other"));
    let convert = ["convert", text(&from), "--to", "dcp", "--keep-optimizer", "-o", text(&parts)];
    program().run(&convert).exits(0);
    train(&other, &["--resume", text(&parts), "--config", text(&config), "--steps", "2006"]).exits(0);
    assert!(checkpoint(&whole) == checkpoint(&other), "parts continue like the file");
    // An optimizer that another trainer keeps beside the model.
    let trainer = folder.path().join("checkpoint-2000");
    program().run(&["convert", HEALTHY, "--to", "hf", "-o", text(&trainer)]).exits(0);
    std::fs::copy("inspect/tests/data/ranks/fsdp2-optim.pt", trainer.join("optimizer.pt")).unwrap();
    let start = ["--resume", text(&trainer), "--bitlinear", "true", "--data", DATA, "--steps", "2001"];
    train(&other, &[&start[..], &["--force"]].concat()).exits(2).complains(&[
        "optimizer.state",
        "kept as other trainers keep it",
        "--reset-optimizer",
    ]);
}

/// What is held out and in which order data comes follow from the seed: it comes along with the checkpoint.
#[test]
fn a_resumed_run_keeps_its_seed() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, half) = (folder.path().join("whole"), folder.path().join("half"));
    let data = ["--data", DATA, "--batch", "4", "--holdout", "0.2"];
    let run = |folder: &Path, more: &[&str]| {
        let output = train(folder, &[&data[..], more].concat()).exits(0);
        output.err().to_string()
    };
    let start = ["--resume", HEALTHY, "--reset-optimizer", "--seed", "18446744073709551615", "--steps"];
    run(&whole, &[&start[..], &["2006"]].concat());
    run(&half, &[&start[..], &["2003"]].concat());
    let from = half.join("step-002003.pt");
    let resume = ["--resume", text(&from), "--steps", "2006"];
    let said = run(&half, &resume);
    assert!(!said.contains("seed"), "{said}");
    let checkpoint = |run: &Path| std::fs::read(run.join("step-002006.pt")).unwrap();
    assert!(checkpoint(&whole) == checkpoint(&half), "the halves make the whole, to the byte");
    let config = half.join("config.toml");
    let written = std::fs::read_to_string(&config).unwrap();
    assert!(written.contains("seed = 18446744073709551615"), "{written}");
    let said = run(&folder.path().join("again"), &[&resume[..], &["--config", text(&config)]].concat());
    assert!(!said.contains("seed"), "{said}");
    let other = folder.path().join("other");
    let said = run(&other, &[&resume[..], &["--seed", "8"]].concat());
    assert!(said.contains("with random seed 18446744073709551615, but this run continues with 8"), "{said}");
    assert!(checkpoint(&whole) != checkpoint(&other));
}

/// A failed start leaves nothing that prevents the next one.
#[test]
fn a_failed_start_leaves_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let start = ["--resume", HEALTHY, "--reset-optimizer", "--steps", "2001", "--batch", "4", "--data"];
    for missing in ["no.npy", "no.jsonl", "README.md"] {
        train(&run, &[&start[..], &[missing]].concat()).exits(3);
        assert!(!run.exists(), "{missing}");
    }
    // A run that was killed before its first step does not count either.
    std::fs::create_dir(&run).unwrap();
    std::fs::write(run.join("metrics.jsonl"), "").unwrap();
    train(&run, &[&start[..], &[DATA]].concat()).exits(0);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |file: &str| std::fs::metadata(run.join(file)).unwrap().permissions().mode();
        assert_eq!(mode("config.toml"), mode("metrics.jsonl"), "files are for whom others are for");
    }
}

#[test]
fn a_new_model_is_made_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.toml");
    let sizes = "vocab_size = 1024\nhidden_dim = 32\nnum_layers = 1\nnum_heads = 2\nnum_kv_heads = 1\nhead_dim = 16\nmlp_hidden_dim = 64\n";
    std::fs::write(&model, sizes).unwrap();
    let start = ["--init", text(&model), "--data", DATA, "--steps", "3"];
    let output =
        train(&folder.path().join("run"), &[&start[..], &["--ternary-weight-decay", "0.1"]].concat());
    assert!(output.code() == Some(0), "{}", output.err());
    assert!(output.err().contains("halves them every 23105 steps"), "{}", output.err());
    let output = train(
        &folder.path().join("seed"),
        &[&start[..], &["--optimizer", "muon-adamw", "--weight-decay", "0.1"]].concat(),
    )
    .exits(0);
    assert!(output.err().contains("weight_decay 0.1 has no effect on any matrix"), "{}", output.err());
    std::fs::write(&model, "hidden_size = 32\n").unwrap();
    train(&folder.path().join("other"), &start).exits(2).complains(&["hidden_size"]);
    for (wrong, key) in [
        ("tie_word_embeddings = 0", "tie_word_embeddings"),
        ("use_qk_norm = \"no\"", "use_qk_norm"),
        ("vocab_size = -5", "vocab_size"),
    ] {
        std::fs::write(&model, wrong).unwrap();
        let output = train(&folder.path().join("other"), &start).exits(2);
        assert!(output.err().contains(&format!("`{key}` that is not")), "{output}");
    }
}

#[test]
fn wells_are_known_by_their_old_names() {
    let folder = tempfile::tempdir().unwrap();
    let start = ["--resume", HEALTHY, "--reset-optimizer", "--data", DATA, "--steps", "2001"];
    for (old, new) in [("seed-step", "constant"), ("seed-optimizer", "piecewise")] {
        let run = folder.path().join(old);
        train(&run, &[&start[..], &["--optimizer", "polarized-adamw", "--well", old]].concat()).exits(0);
        let written = std::fs::read_to_string(run.join("config.toml")).unwrap();
        assert!(written.contains(&format!("well = \"{new}\"")), "{written}");
        // An older configuration is read, and means the same.
        let config = folder.path().join("old.toml");
        std::fs::write(&config, written.replace(new, old)).unwrap();
        let again = folder.path().join(new);
        train(&again, &["--resume", HEALTHY, "--reset-optimizer", "--config", text(&config)]).exits(0);
        assert_eq!(std::fs::read_to_string(again.join("config.toml")).unwrap(), written);
    }
    let help = train(folder.path(), &["--help"]);
    assert!(help.out().contains("piecewise") && !help.out().contains("seed-"), "{}", help.out());
}

#[test]
fn refusals_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |code: i32, arguments: &[&str], word: &str| {
        let output = train(folder.path(), arguments).exits(code);
        assert!(output.err().contains(word), "{word}: {}", output.err());
    };
    let collapsed = "tests/fixtures/collapse-run/step-04000.pt";
    refused(1, &["--resume", collapsed, "--data", DATA, "--steps", "4001"], "step-02000.pt");
    refused(1, &["--resume", collapsed, "--data", DATA, "--steps", "4001"], "--allow-collapsed");
    refused(2, &["--resume", HEALTHY, "--data", DATA, "--steps", "9"], "step 2000 already");
    refused(2, &["--resume", HEALTHY, "--steps", "2001"], "--data");
    let most = usize::MAX.to_string();
    for batch in [most.as_str(), "99999999999"] {
        let asked =
            ["--resume", HEALTHY, "--reset-optimizer", "--data", DATA, "--steps", "2001", "--batch", batch];
        refused(2, &asked, "`accumulate`");
    }
    for nothing in [&[][..], &["--data", DATA]] {
        refused(2, nothing, "give --resume CKPT to continue a run, or --init 100m to start one");
    }
    refused(2, &["--init", "9b", "--data", DATA], "100m");
    refused(2, &["--resume", HEALTHY, "--data", DATA, "--optimizer", "adam"], "adamw");
    refused(3, &["--resume", "README.md", "--data", DATA], "README.md");
    let config = |file| ["--resume", HEALTHY, "--data", DATA, "--config", file];
    refused(3, &config("no.toml"), "no.toml");
    refused(3, &["--resume", HEALTHY, "--data", DATA, "--tokenizer", "no.json"], "no.json");
    refused(2, &config("README.md"), "README.md");
    #[cfg(unix)]
    refused(3, &config("/dev/zero"), "/dev/zero");
    refused(3, &["--resume", HEALTHY, "--reset-optimizer", "--data", "no.npy", "--steps", "2001"], "no.npy");
}

/// SIGTERM finishes the current step and saves.
#[cfg(unix)]
#[test]
fn a_signal_saves_before_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let program = program();
    let start = ["train", "--resume", HEALTHY, "--reset-optimizer", "--data", DATA, "--steps", "100000000"];
    let run = program.start(&[&start[..], &["--validate-every", "0", "-o", text(folder.path())]].concat());
    let metrics = folder.path().join("metrics.jsonl");
    for _ in 0..600 {
        if std::fs::metadata(&metrics).is_ok_and(|m| m.len() > 0) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    run.signal("TERM");
    let output = run.end().exits(128 + 15);
    let saved: Vec<_> = ckpt_inspect::find(folder.path()).unwrap();
    assert_eq!(saved.len(), 1, "{}", output.err());
    let checkpoint = ckpt_inspect::open(&saved[0]).unwrap();
    assert!(!checkpoint.is_damaged() && checkpoint.step.unwrap().0 > 2000);
}

#[test]
fn a_report_shows_loss_and_health_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let start = ["--resume", HEALTHY, "--reset-optimizer", "--data", DATA, "--batch", "4", "--steps", "2012"];
    let often = [
        "--holdout",
        "0.2",
        "--validate-every",
        "4",
        "--health-every",
        "3",
        "--save-every",
        "6",
        "--no-token-cache",
    ];
    train(&run, &[&start[..], &often].concat()).exits(0);
    let page = folder.path().join("page.html");
    let report = |page: &Path| {
        program().run(&["report", "--no-cache", "-o", text(page), text(&run)]).exits(0);
        std::fs::read_to_string(page).unwrap()
    };
    let html = report(&page);
    for word in ["training loss", "validation loss, step 2008", "lowest std of any ternary matrix over steps"]
    {
        assert!(html.contains(word), "{word}");
    }
    let json: serde_json::Value = serde_json::from_str(&report(&folder.path().join("page.json"))).unwrap();
    let training = &json["runs"][0]["training"];
    assert_eq!(
        (training["loss"][0].as_u64(), training["lowest_std"].as_array().unwrap().len()),
        (Some(2012), 5)
    );
}

#[test]
fn teachers_and_patterns_of_files_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("run");
    let start = ["--resume", HEALTHY, "--reset-optimizer", "--steps", "2002", "--batch", "4", "--teacher"];
    let output =
        train(&place, &[&start[..], &[&format!("{HEALTHY}=2"), "--alpha", "0.9", "--data", DATA]].concat());
    assert!(output.code() == Some(0), "{}", output.err());
    let config = std::fs::read_to_string(place.join("config.toml")).unwrap();
    assert!(config.contains("weight = 2.0") && config.contains("alpha = 0.9"), "{config}");
    let refused = |data: &str, word: &str| {
        let output = train(&place, &["--resume", HEALTHY, "--reset-optimizer", "--data", data]).exits(2);
        assert!(output.err().contains(word), "{}", output.err());
    };
    let output =
        train(&place, &["--resume", HEALTHY, "--reset-optimizer", "--data", DATA, "--steps", "2003"]);
    assert_eq!(output.code(), Some(4), "{}", output.err());
    assert!(output.err().contains("--force"), "{}", output.err());
    refused("src", "src/**/*.py");
    refused("src/*.none", "no file matches");
}

/// A run resumed from a copy in another format continues like one resumed from the original.
#[test]
fn copies_in_other_formats_are_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let losses = |from: &str, name: &str| {
        let run = folder.path().join(name);
        let start = ["--resume", from, "--reset-optimizer", "--bitlinear", "true", "--steps", "2002"];
        train(&run, &[&start[..], &["--no-shuffle", "--data", DATA, "--batch", "4"]].concat()).exits(0);
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let lines = metrics.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        lines.filter_map(|l| l["loss"].as_f64()).take(2).collect::<Vec<f64>>()
    };
    let original = losses(HEALTHY, "original");
    for (name, to) in [
        ("model-step-2000.safetensors", &["--to", "safetensors"][..]),
        ("hf-step-2000", &["--to", "hf"]),
        ("parts-step-2000", &["--to", "dcp"]),
        ("model-step-2000.gguf", &["--to", "gguf", "--quant", "f32", "--embed", "f32", "--latent"]),
    ] {
        let copy = folder.path().join(name);
        program().run(&[&["convert", HEALTHY, "-o", text(&copy)], to].concat()).exits(0);
        assert_eq!(losses(text(&copy), &format!("run-{name}")), original, "{name}");
    }
}

#[test]
fn sources_have_weights_and_what_is_called_like_one_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let code = "def f(x):\n    return x\n".repeat(80);
    for name in ["a.txt", "b.txt", "c=3"] {
        std::fs::write(folder.path().join(name), &code).unwrap();
    }
    let file = |name: &str| text(&folder.path().join(name)).to_string();
    let start = ["--resume", HEALTHY, "--reset-optimizer", "--steps", "2002", "--length", "16"];
    let start =
        [&start[..], &["--tokenizer", "tests/fixtures/tokenizer.json", "--holdout", "0", "--data"]].concat();
    let run = folder.path().join("run");
    train(&run, &[&start[..], &[&format!("{}=2.5", file("a.txt")), &file("b.txt")]].concat()).exits(0);
    let config: toml::Table =
        toml::from_str(&std::fs::read_to_string(run.join("config.toml")).unwrap()).unwrap();
    let sources = config["data"]["sources"].as_array().unwrap();
    let weights: Vec<f64> = sources.iter().map(|source| source["weight"].as_float().unwrap()).collect();
    assert_eq!(weights, [2.5, 1.0]);
    // Resumed, by the run's own settings.
    program().run(&["train", "--resume", text(&run.join("step-002002.pt")), "--steps", "2003"]).exits(0);
    let one = folder.path().join("one");
    train(&one, &[&start[..], &[&file("c=3")]].concat()).exits(0);
    let config: toml::Table =
        toml::from_str(&std::fs::read_to_string(one.join("config.toml")).unwrap()).unwrap();
    assert!(config["data"]["sources"].as_array().unwrap().is_empty());
    let other = folder.path().join("other");
    train(&other, &[&start[..], &[&format!("{}=2", file("a.txt")), &file("a.txt")]].concat())
        .exits(2)
        .complains(&["a.txt", "is in two sources"]);
    train(&other, &[&start[..], &[&format!("{}=0", file("a.txt"))]].concat()).exits(2).complains(&["weight"]);
    train(&other, &[&start[..], &[&format!("{}=2", file("none.txt"))]].concat()).exits(3);
}

#[test]
fn samples_are_printed_and_averages_taken_out() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let start = ["--resume", HEALTHY, "--reset-optimizer", "--steps", "2004", "--length", "32", "--data"];
    let data = ["tests/fixtures/python/programs.jsonl", "--tokenizer", "tests/fixtures/tokenizer.json"];
    let flags = ["--sample-every", "2", "--sample-prompt", "def f(", "--ema", "0.5"];
    train(&run, &[&start[..], &data, &flags].concat())
        .exits(0)
        .complains(&["step 2002: sample, greedy: [[def f(]]", "step 2004: sample, drawn: [[def f(]]"]);
    let [model, average] = ["model", "ema"].map(|name| folder.path().join(format!("{name}.safetensors")));
    let saved = text(&run.join("step-002004.pt")).to_string();
    let convert = ["convert", &saved, "--to", "safetensors", "-o"];
    program().run(&[&convert[..], &[text(&model)]].concat()).exits(0).complains(&[
        "the weights in `model_state_dict` are written, and not their moving average in `ema_state_dict`",
        "--root KEY",
    ]);
    program().run(&[&convert[..], &[text(&average), "--root", "ema_state_dict"]].concat()).exits(0);
    program().run(&["diff", text(&model), text(&average)]).exits(1);
    let named = folder.path().join("named.safetensors");
    program().run(&[&convert[..], &[text(&named), "--root", "model_state_dict"]].concat()).exits(0);
    program().run(&["diff", text(&model), text(&named)]).exits(0);
    // Any command takes any checkpoint of the folder.
    for (to, name) in [("hf", "model"), ("gguf", "model.gguf")] {
        let place = folder.path().join(name);
        let written = ["convert", &saved, "--to", to, "-o", text(&place)];
        program().run(&written).exits(0).complains(&["`model_state_dict`"]);
        let other = folder.path().join(format!("ema-{name}"));
        let written = ["convert", &saved, "--to", to, "-o", text(&other), "--root", "ema_state_dict"];
        program().run(&written).exits(0);
    }
    let run = |path: &str| program().run(&["infer", path, "--prompt", "def f(", "--json"]).exits(0);
    run(&saved).complains(&["the weights in `model_state_dict` are run"]);
    program().run(&["diagnose", &saved]).exits(1).complains(&["the weights in `model_state_dict` are run"]);
    program().run(&["inspect", &saved]).exits(0).says(&["140 k parameters, and a moving average of them"]);
    let idle = ["--sample-prompt", "x", "--sample-tokens", "3"];
    train(&folder.path().join("idle"), &[&start[..], &data, &idle].concat()).exits(0).complains(&[
        "--sample-prompt has no effect without --sample-every",
        "--sample-tokens and --sample-temperature have no effect",
    ]);
}
