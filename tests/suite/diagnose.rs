//! `ckpt diagnose`, and the gate that uses it.

use ckpt_kit::binary::{Ran, text};
use ckpt_kit::fixtures::{fixture, root};
use serde_json::Value;

use crate::program;

/// A model that has the prompts' programs by heart.
const PYTHON: &str = "tests/fixtures/python/model.pt";
const COLLAPSED: &str = "tests/fixtures/collapse-run/step-04000.pt";
const UNTRAINED: &str = "tests/fixtures/healthy-run/step-00000.pt";

fn ckpt(args: &[&str]) -> Ran {
    program().run(args)
}

/// The exit code, and which steps passed.
fn diagnosed(args: &[&str]) -> (Option<i32>, Vec<bool>, Value) {
    let output = ckpt(&[&["diagnose", "--format", "json", "--no-cache"], args].concat());
    let record = output.json();
    let steps = record["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["syntax", "logic", "weights"]);
    let passed: Vec<bool> = steps.iter().map(|step| step["passed"].as_bool().unwrap()).collect();
    assert_eq!(record["passed"], passed.iter().all(|p| *p));
    (output.code(), passed, record)
}

/// The completions of the first step, by prompt.
fn programs() -> Vec<(String, String)> {
    let path = fixture("python/programs.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let of = |line: &str| {
        let program: Value = serde_json::from_str(line).unwrap();
        let part = |name: &str| program[name].as_str().unwrap().to_string();
        (part("prompt"), part("response"))
    };
    lines.lines().map(of).collect()
}

#[test]
fn a_model_that_writes_python_passes() {
    let (code, passed, record) = diagnosed(&[PYTHON]);
    assert_eq!((code, passed), (Some(0), vec![true; 3]), "{record:#}");
    let checks = record["steps"][0]["checks"].as_array().unwrap();
    let logic = &record["steps"][1]["checks"][0];
    let programs = programs();
    assert_eq!(checks.len() + 1, programs.len());
    for (check, (prompt, response)) in checks.iter().chain([logic]).zip(&programs) {
        assert_eq!((check["subject"].as_str().unwrap(), &check["passed"]), (prompt.as_str(), &true.into()));
        assert_eq!(check["completion"].as_str().unwrap(), response);
    }
    assert_eq!(logic["evidence"], "by slicing");
}

#[test]
fn a_collapsed_model_fails_in_what_it_writes_and_in_its_weights() {
    let (code, passed, record) = diagnosed(&[COLLAPSED]);
    assert_eq!((code, passed[0], passed[2]), (Some(1), false, false), "{record:#}");
    let checks = record["steps"][0]["checks"].as_array().unwrap();
    let evidence: Vec<&str> = checks.iter().map(|check| check["evidence"].as_str().unwrap()).collect();
    assert!(evidence.iter().filter(|e| e.starts_with("collapse")).count() > 6, "{evidence:#?}");
    assert!(record["steps"][2]["summary"].as_str().unwrap().starts_with("weak"), "{record:#}");
}

#[test]
fn an_untrained_model_writes_gibberish_with_healthy_weights() {
    let (code, passed, record) = diagnosed(&[UNTRAINED]);
    assert_eq!((code, passed), (Some(1), vec![false, false, true]), "{record:#}");
}

#[test]
fn each_format_says_the_same() {
    let human = ckpt(&["diagnose", COLLAPSED, "--all"]).exits(1);
    let says = human.out();
    for part in ["syntax   failed", "weights  failed", "def fibonacci(n):", "collapse"] {
        assert!(says.contains(part), "{part}: {says}");
    }
    let junit = ckpt(&["diagnose", COLLAPSED, "--format", "junit"]).exits(1);
    let mut reader = quick_xml::Reader::from_str(junit.out());
    let (mut suites, mut failures) = (Vec::new(), 0);
    loop {
        match reader.read_event().unwrap() {
            quick_xml::events::Event::Start(tag) if tag.name().as_ref() == b"testsuite" => {
                let name = tag.try_get_attribute("name").unwrap().unwrap();
                suites.push(String::from_utf8(name.value.to_vec()).unwrap());
            }
            quick_xml::events::Event::Start(tag) if tag.name().as_ref() == b"failure" => failures += 1,
            quick_xml::events::Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(suites, ["syntax", "logic", "weights"]);
    assert!(failures >= 2, "{failures}");
    let fine = ckpt(&["diagnose", PYTHON, "--format", "junit"]);
    assert!(fine.code() == Some(0) && !fine.out().contains("<failure"));
}

#[test]
fn the_gate_runs_it_when_asked() {
    let gate = |args: &[&str]| ckpt(&[&["gate", "--no-cache"], args].concat());
    gate(&[PYTHON, "--diagnose"]).exits(0);
    // Healthy weights alone pass the gate; what the model writes does not.
    gate(&[UNTRAINED]).exits(0);
    let refused = gate(&[UNTRAINED, "--diagnose"]).exits(1);
    assert!(refused.out().contains("failed-diagnosis"), "{}", refused.out());
    let unrunnable = gate(&["tests/fixtures/formats/training.pt", "--allow", "dead", "--diagnose"]);
    assert!(unrunnable.out().contains("cannot be diagnosed"), "{}", unrunnable.out());
    gate(&[PYTHON, "--tokenizer", "tests/fixtures"]).exits(2);
}

#[test]
fn without_a_tokenizer_it_says_what_to_try() {
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("deep").join("model.pt");
    std::fs::create_dir(alone.parent().unwrap()).unwrap();
    std::fs::copy(root().join(PYTHON), &alone).unwrap();
    let alone = text(&alone);
    let output = ckpt(&["diagnose", alone]).exits(2);
    assert!(output.err().contains("--tokenizer"), "{}", output.err());
    ckpt(&["diagnose", alone, "--tokenizer", "tests/fixtures/tokenizer.json"]).exits(0);
    ckpt(&["diagnose", "nowhere.pt"]).exits(3);
}
