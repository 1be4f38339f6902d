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

    let same = folder.path("same.pt");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(TRUNCATED), &same).unwrap();
    let same = same.to_str().unwrap();
    recover(2, &[same, "-o", same, "--force"]);

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
    recover(2, &[WHOLE, "-o", folder.path("x.npy").to_str().unwrap()]);
    let arrays = folder.path("x.npz");
    recover(0, &[WHOLE, "-o", arrays.to_str().unwrap()]);
    assert_eq!(ckpt_inspect::open(&arrays).unwrap().format, ckpt_inspect::Format::Npz);
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

/// First byte of the entry whose local header is at `header`.
fn entry_data(zip: &[u8], header: usize) -> usize {
    let word = |at: usize| usize::from(u16::from_le_bytes([zip[at], zip[at + 1]]));
    header + 30 + word(header + 26) + word(header + 28)
}

#[test]
fn elements_of_a_list_move_up_and_are_compared_where_they_are() {
    let folder = Folder::new();
    let mut bytes = std::fs::read(fixture("list_root.pt")).unwrap();
    let name = bytes.windows(16).position(|w| w == b"list_root/data/0").unwrap();
    let at = entry_data(&bytes, name - 30);
    bytes[at] ^= 0xff;
    let (damaged, out) = (folder.path("list.pt"), folder.path("out.pt"));
    std::fs::write(&damaged, bytes).unwrap();
    let record = json(3, &[damaged.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    assert_eq!(record["output_agrees"], true);
    assert_eq!(names(&record["losses"]), ["0"]);
    let (written, truth) = (hashes(&out), expected("list_root.pt"));
    let written = written.as_object().unwrap();
    assert_eq!(written.len() + 1, truth.as_object().unwrap().len());
    assert_eq!(written["0.k"], truth["1.k"]);
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats").join(name)
}

#[test]
fn surplus_and_inserted_bytes_are_damage() {
    let folder = Folder::new();
    let header = br#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
    let tensors = [&(header.len() as u64).to_le_bytes()[..], header, &[1, 2, 3, 4, 5, 6]].concat();
    let path = folder.path("a.safetensors");
    std::fs::write(&path, tensors).unwrap();
    let record = json(3, &[path.to_str().unwrap()]);
    assert!(record["damage"].as_str().unwrap().contains("2 bytes follow the last tensor"), "{record}");

    let legacy = std::fs::read(fixture("legacy.pt")).unwrap();
    let truth = expected("legacy.pt");
    let path = folder.path("legacy.pt");
    // Nothing that is called whole after bytes were put in anywhere among the storages is other than it was.
    let mut lost = 0;
    for back in (8..120).step_by(8) {
        let mut bytes = legacy.clone();
        let at = bytes.len() - back;
        bytes.splice(at..at, [0xab; 16]);
        std::fs::write(&path, bytes).unwrap();
        let out = folder.path("out.pt");
        let _ = std::fs::remove_file(&out);
        let output =
            ckpt(&["recover", path.to_str().unwrap(), "-o", out.to_str().unwrap(), "--format", "json"]);
        assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
        let record: Value = serde_json::from_slice(&output.stdout).unwrap();
        lost += names(&record["losses"]).len();
        // The last storage's own bytes cannot be told from those that follow it.
        if out.exists() && record["damage"].as_str().unwrap().contains("says that it has") {
            for (name, hash) in hashes(&out).as_object().unwrap() {
                assert_eq!(*hash, truth[name], "{name}, {back} bytes from the end");
            }
        }
    }
    assert!(lost > 0);
}

#[test]
fn a_scale_that_is_no_number_is_copied_as_such() {
    let folder = Folder::new();
    let mut gguf = b"GGUF\x03\0\0\0".to_vec();
    gguf.extend(1u64.to_le_bytes());
    gguf.extend(0u64.to_le_bytes());
    gguf.extend(1u64.to_le_bytes());
    gguf.extend(b"w\x01\0\0\0");
    gguf.extend(64u64.to_le_bytes());
    gguf.extend(8u32.to_le_bytes());
    gguf.extend(0u64.to_le_bytes());
    gguf.resize(gguf.len().next_multiple_of(32), 0);
    for scale in [0x7e00u16, 0x3c00] {
        gguf.extend(scale.to_le_bytes());
        gguf.extend([3; 32]);
    }
    gguf.resize(gguf.len().next_multiple_of(32), 0);
    let (path, out) = (folder.path("nan.gguf"), folder.path("out.pt"));
    std::fs::write(&path, gguf).unwrap();
    let record = json(0, &[path.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    assert_eq!(record["output_agrees"], true);
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf8_are_shown() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let path = folder.0.path().join(std::ffi::OsStr::from_bytes(b"n\xff.pt"));
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(TRUNCATED), &path).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ckpt"))
        .arg("recover")
        .arg(&path)
        .args(["--format", "json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(record["losses"][0]["file"].as_str().unwrap().contains("n\u{fffd}.pt"), "{record}");
}
