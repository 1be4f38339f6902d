//! `ckpt report` on why runs died, through the real binary: three measurements of a recorded run, the fixture runs,
//! and files that cannot be read.

use std::path::Path;

use ckpt_kit::binary::{Program, text};
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::Value;

use crate::program;

const COLLAPSE: &str = "tests/fixtures/collapse-run";
const HEALTHY: &str = "tests/fixtures/healthy-run";

fn report(program: &Program, arguments: &[&str]) -> String {
    program.run(&[&["report"], arguments].concat()).exits(0).out().to_string()
}

fn run_of(program: &Program, arguments: &[&str]) -> Value {
    let report = program.run(&[&["report"], arguments, &["--format", "json"]].concat());
    report.exits(0).json()["runs"][0].clone()
}

/// A student model of one layer as SafeTensors, its MLP matrices of unbiased std `std`, the others as they always are.
fn student(path: &Path, std: f64) {
    const SIDE: usize = 16;
    let mut random = Random::new(12_345);
    let mut values: Vec<f64> = (0..SIDE * SIDE).map(|_| random.even().into()).collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let spread = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    values.iter_mut().for_each(|v| *v = (*v - mean) / spread);
    let attention = ["q", "k", "v", "o"].map(|p| format!("layers.0.self_attn.{p}_proj.weight"));
    let mlp = ["gate", "up", "down"].map(|p| format!("layers.0.mlp.{p}_proj.weight"));
    let others = std::iter::once("embed_tokens.weight".to_string()).chain(attention);
    let mut file = SafeTensors::new();
    for (name, std) in others.map(|name| (name, 0.02)).chain(mlp.map(|name| (name, std))) {
        let scaled: Vec<f32> = values.iter().map(|v| (v * std) as f32).collect();
        file = file.f32s(&name, &[SIDE, SIDE], &scaled);
    }
    // By which a student without its configuration is known.
    for norm in ["q_norm", "k_norm"] {
        file = file.f32s(&format!("layers.0.self_attn.{norm}.weight"), &[SIDE], &[1.0; SIDE]);
    }
    file.write(path);
}

/// Recorded measurements of a run that died: std 4.5e-5, 6.2e-6 and 5.1e-7, Muon lr 0.02, weight decay 0.1, eight
/// micro-batches per optimizer step.
#[test]
fn the_recorded_run_died_of_weight_decay() {
    let program = program();
    let run = program.at("run");
    std::fs::create_dir(&run).unwrap();
    for (step, std) in [(2000, 4.5e-5), (10_000, 6.2e-6), (20_000, 5.1e-7)] {
        student(&run.join(format!("step-{step:05}.safetensors")), std);
    }
    let settings = [text(&run), "--lr", "0.02", "--weight-decay", "0.1", "--accum", "8"];
    let found = run_of(&program, &settings);
    let causes = found["causes"].as_array().unwrap();
    let mlp: Vec<&Value> = causes.iter().filter(|c| c["layer"].as_str().unwrap().contains(".mlp.")).collect();
    assert_eq!(mlp.len(), 3);
    for cause in mlp {
        assert_eq!(cause["cause"], "weight-decay", "{}", cause["reason"]);
        let number = |key: &str| cause["decay"][key].as_f64().unwrap();
        assert!((2.48e-4..=2.50e-4).contains(&number("rate")), "{}", number("rate"));
        assert!((2765.0..2795.0).contains(&number("half_life")), "{}", number("half_life"));
        assert!((number("predicted") / 2.5e-4 - 1.0).abs() < 2e-3);
        assert!(cause["direction"]["median"].as_f64().unwrap() > 0.999_999);
        // Shrinking keeps the codes, except for the eps that absmean quantization adds to such a small scale.
        let zeros = |when: &str| cause["occupancy"][when].as_f64().unwrap();
        assert!((zeros("first") - zeros("last")).abs() < 0.02);
    }
    // Weights that never changed are another finding.
    assert!(causes.iter().any(|c| c["layer"] == "embed_tokens.weight" && c["cause"] == "never-trained"));

    // Without the accumulation the rates differ by the factor of eight, and without settings there is nothing to
    // compare.
    for (arguments, hint) in [
        (&settings[..5], "if one optimizer step were 8 checkpoint steps"),
        (&settings[..1], "without the learning rate and the weight decay"),
    ] {
        let found = run_of(&program, arguments);
        let gate = found["causes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["layer"] == "layers.0.mlp.gate_proj.weight")
            .unwrap();
        assert_eq!(gate["cause"], "unknown");
        assert!(gate["reason"].as_str().unwrap().contains(hint), "{}", gate["reason"]);
    }
}

#[test]
fn a_cause_is_explained_in_the_terminal() {
    let program = program();
    let text = report(&program, &[COLLAPSE, HEALTHY, "--explain"]);
    for words in [
        "Weight decay shrinks 6 weights: their std halves every 344 steps, as fast as learning rate 0.02 × weight decay 0.1 alone makes it.",
        "2.002e-3 per step",
        "it shrinks, and does not learn",
        "Resume from tests/fixtures/collapse-run/step-02000.pt",
        "Set optimizer_state_dict.muon.param_groups.0.weight_decay to 0.001 (it is 0.1)",
        "Do not scale these weights back up",
        "tests/fixtures/healthy-run: Healthy",
        "Nothing to explain",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "no colours in a pipe");
}

#[test]
fn a_cause_is_in_json_and_markdown() {
    let program = program();
    let run = run_of(&program, &[COLLAPSE]);
    assert_eq!(run["prognosis"]["resume"], "tests/fixtures/collapse-run/step-02000.pt");
    assert_eq!(run["group_declines"].as_array().unwrap().len(), 3);
    let layer = &run["layers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|l| l["name"] == "layers.0.mlp.gate_proj.weight")
        .unwrap();
    assert_eq!(layer["segments"].as_array().unwrap().len(), 2, "it turned at step 500");
    assert_eq!(layer["segments"][1]["from"], 500);
    assert!(layer["decline"]["interval"].as_f64().unwrap() < 1e-5);
    assert!((2390.0..2410.0).contains(&layer["first_below"][0]["at"].as_f64().unwrap()));
    let text = report(&program, &[COLLAPSE, "--format", "md"]);
    assert!(text.contains("### Weight decay\n\nWeight decay shrinks 6 weights"), "{text}");
    assert!(text.contains("1. Resume from tests/fixtures/collapse-run/step-02000.pt"), "{text}");
    let run = run_of(&program, &[HEALTHY]);
    assert_eq!((&run["causes"], &run["prognosis"]), (&serde_json::json!([]), &Value::Null));
}

/// Pairs that were compared once are not read again.
#[test]
fn comparisons_are_cached() {
    let program = program();
    let first = run_of(&program, &[COLLAPSE]);
    let records = program.cache().join("ckpt/records");
    let count = || std::fs::read_dir(&records).unwrap().count();
    // Nine checkpoints, eight neighbours, and the last beside the last healthy one.
    assert_eq!(count(), 18);
    assert_eq!(run_of(&program, &[COLLAPSE]), first);
    assert_eq!(count(), 18);
    assert_eq!(run_of(&program, &[COLLAPSE, "--no-cache"]), first);
}

#[test]
fn files_that_cannot_be_read_have_a_cause_too() {
    let program = program();
    let whole = std::fs::read(Path::new(COLLAPSE).join("step-04000.pt")).unwrap();
    std::fs::write(program.at("cut.pt"), &whole[..300]).unwrap();
    std::fs::write(program.at("zeros.pt"), vec![0; 4096]).unwrap();
    let [cut, zeros] = ["cut.pt", "zeros.pt"].map(|f| text(&program.at(f)).to_string());
    let page = program.at("page.html");
    program.run(&["report", &cut, &zeros, "-o", text(&page)]).exits(3);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("(cause: truncated file)") && page.contains("(cause: overwritten)"));
    let output = program.run(&["report", &cut, &zeros, "--explain"]).exits(3);
    let text = output.out();
    assert!(text.contains("cut.pt: truncated file") && text.contains("zeros.pt: overwritten"), "{text}");
}

#[test]
fn settings_must_be_numbers() {
    let program = program();
    for wrong in
        [["--lr", "-1"], ["--lr", "NaN"], ["--weight-decay", "inf"], ["--accum", "0"], ["--accum", "0.5"]]
    {
        program.run(&["report", HEALTHY, wrong[0], wrong[1]]).exits(2);
    }
    program.run(&["report", HEALTHY, "--explain", "--format", "json"]).exits(2);
}
