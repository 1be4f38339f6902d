//! `ckpt recover` through the real binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn ckpt(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ckpt"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

/// Standard output of `ckpt recover` with these arguments, which exits with `code`.
fn recover(code: i32, arguments: &[&str]) -> String {
    let output = ckpt(&[&["recover"], arguments].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(code: i32, arguments: &[&str]) -> Value {
    serde_json::from_str(&recover(code, &[arguments, &["--format", "json"]].concat())).unwrap()
}

/// SHA-256 of every tensor, by name.
fn hashes(path: &Path) -> Value {
    let output =
        ckpt(&["inspect", path.to_str().unwrap(), "--all", "--sha256", "--format", "json", "--no-cache"]);
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tensors = record["tensors"].as_array().or(record[0]["tensors"].as_array()).unwrap();
    tensors.iter().map(|t| (t["name"].as_str().unwrap().to_string(), t["sha256"].clone())).collect()
}

fn expected(name: &str) -> Value {
    let text = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats/expected.json"),
    );
    let all: Value = serde_json::from_str(&text.unwrap()).unwrap();
    let tensors = all[name]["tensors"].as_object().unwrap();
    tensors.iter().map(|(name, t)| (name.clone(), t["sha256"].clone())).collect()
}

fn names(losses: &Value) -> Vec<&str> {
    losses.as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect()
}

const TRUNCATED: &str = "tests/fixtures/formats/truncated.pt";
const BITFLIP: &str = "tests/fixtures/formats/bitflip.pt";
const WHOLE: &str = "tests/fixtures/formats/whole.pt";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[test]
fn what_is_intact_of_the_fixtures_is_written_and_the_rest_is_listed() {
    let folder = Folder::new();
    let truth = expected("whole.pt");
    for (file, lost, layers) in [(TRUNCATED, vec![3, 4, 5], 3), (BITFLIP, vec![2], 5)] {
        let lost: Vec<String> = lost.iter().map(|i| format!("model_state_dict.layers.{i}.w")).collect();
        let out = folder.path("out.pt");
        let record = json(3, &[file, "-o", out.to_str().unwrap(), "--force"]);
        assert_eq!(names(&record["losses"]), lost);
        assert_eq!(record["tensors"]["verified"], layers);
        assert_eq!(record["output_agrees"], true);
        let written = hashes(&out);
        assert_eq!(written.as_object().unwrap().len(), layers);
        for (name, hash) in written.as_object().unwrap() {
            assert_eq!(*hash, truth[name], "{name}");
        }
    }
    let human = recover(3, &[TRUNCATED]);
    for part in ["3 of 6 tensors", "layers.3.w", "50496..66880", "nothing; -o FILE writes what is whole"] {
        assert!(human.contains(part), "{part}: {human}");
    }
}

#[test]
fn an_undamaged_file_is_copied_and_that_is_success() {
    let folder = Folder::new();
    let out = folder.path("copy.pt");
    let record = json(0, &[WHOLE, "-o", out.to_str().unwrap()]);
    assert_eq!(record["whole"], true);
    assert_eq!(hashes(&out), expected("whole.pt"));
}

#[test]
fn another_checkpoint_fills_the_holes() {
    let folder = Folder::new();
    let out = folder.path("filled.safetensors");
    let from = format!("from={BITFLIP}");
    let record = json(3, &[TRUNCATED, "-o", out.to_str().unwrap(), "--fill", &from, "--fill", "nan"]);
    assert_eq!(record["tensors"]["filled"], 3);
    assert_eq!(record["losses"][0]["filled"], BITFLIP);
    let truth = expected("whole.pt");
    for (name, hash) in hashes(&out).as_object().unwrap() {
        assert_eq!(*hash, truth[format!("model_state_dict.{name}")], "{name}");
    }
}

#[test]
fn nothing_is_overwritten_or_half_written() {
    let folder = Folder::new();
    let out = folder.path("out.pt");
    std::fs::write(&out, b"mine").unwrap();
    recover(4, &[TRUNCATED, "-o", out.to_str().unwrap()]);
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");

    let cut = folder.path("cut.pt");
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(WHOLE)).unwrap();
    // Only the pickle is there: every tensor is known, and none is whole.
    std::fs::write(&cut, &bytes[..1100]).unwrap();
    let none = folder.path("none.pt");
    let text = recover(3, &[cut.to_str().unwrap(), "-o", none.to_str().unwrap()]);
    assert!(text.contains("0 of 6 tensors"), "{text}");
    assert!(!none.exists());
    recover(3, &[cut.to_str().unwrap(), "-o", none.to_str().unwrap(), "--fill", "zeros"]);
    assert!(none.exists());

    std::fs::write(&cut, &bytes[..400]).unwrap();
    recover(3, &[cut.to_str().unwrap()]);
    recover(2, &[WHOLE, "--fill", "sevens"]);
    recover(2, &[WHOLE, "-o", folder.path("x.gguf").to_str().unwrap()]);
    recover(3, &["not/there.pt"]);
}

#[test]
fn a_gguf_file_cut_short_stays_gguf() {
    let folder = Folder::new();
    let gguf = folder.path("model.gguf");
    let output = ckpt(&[
        "convert",
        "tests/fixtures/healthy-run/step-02000.pt",
        "--to",
        "gguf",
        "--quant",
        "q8_0",
        "-o",
        gguf.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&gguf).unwrap();
    std::fs::write(&gguf, &bytes[..bytes.len() - bytes.len() / 4]).unwrap();
    let out = folder.path("out.gguf");
    let record = json(3, &[gguf.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    assert!(record["tensors"]["lost"].as_u64().unwrap() > 0, "{record}");
    assert_eq!(record["output_agrees"], true);
    let (kept, all) = (hashes(&out), hashes(&gguf));
    assert!(kept.as_object().unwrap().len() > 3);
    for (name, hash) in kept.as_object().unwrap() {
        assert_eq!(*hash, all[name], "{name}");
    }
}
