//! `ckpt recover` through the real binary.

use std::path::Path;

use ckpt_kit::binary::{Ran, text};
use ckpt_kit::fixtures::{fixture, root};
use ckpt_kit::gguf::Gguf;
use ckpt_kit::safetensors;
use serde_json::Value;

use crate::program;

fn ckpt(arguments: &[&str]) -> Ran {
    program().run(arguments)
}

/// Standard output of `ckpt recover` with these arguments, which exits with `code`.
fn recover(code: i32, arguments: &[&str]) -> String {
    ckpt(&[&["recover"], arguments].concat()).exits(code).out().to_string()
}

fn json(code: i32, arguments: &[&str]) -> Value {
    serde_json::from_str(&recover(code, &[arguments, &["--format", "json"]].concat())).unwrap()
}

/// SHA-256 of every tensor, by name.
fn hashes(path: &Path) -> Value {
    let output = ckpt(&["inspect", text(path), "--all", "--sha256", "--format", "json", "--no-cache"]);
    let record = output.json();
    let tensors = record["tensors"].as_array().or(record[0]["tensors"].as_array()).unwrap();
    tensors.iter().map(|t| (t["name"].as_str().unwrap().to_string(), t["sha256"].clone())).collect()
}

fn expected(name: &str) -> Value {
    let text = std::fs::read_to_string(fixture("formats/expected.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let tensors = all[name]["tensors"].as_object().unwrap();
    tensors.iter().map(|(name, t)| (name.clone(), t["sha256"].clone())).collect()
}

fn names(losses: &Value) -> Vec<&str> {
    losses.as_array().unwrap().iter().map(|l| l["name"].as_str().unwrap()).collect()
}

const TRUNCATED: &str = "tests/fixtures/formats/truncated.pt";
const BITFLIP: &str = "tests/fixtures/formats/bitflip.pt";
const WHOLE: &str = "tests/fixtures/formats/whole.pt";

#[test]
fn what_is_intact_of_the_fixtures_is_written_and_the_rest_is_listed() {
    let folder = program();
    let truth = expected("whole.pt");
    for (file, lost, layers) in [(TRUNCATED, vec![3, 4, 5], 3), (BITFLIP, vec![2], 5)] {
        let lost: Vec<String> = lost.iter().map(|i| format!("model_state_dict.layers.{i}.w")).collect();
        let out = folder.at("out.pt");
        let record = json(3, &[file, "-o", text(&out), "--force"]);
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
    let folder = program();
    let out = folder.at("copy.pt");
    let record = json(0, &[WHOLE, "-o", text(&out)]);
    assert_eq!(record["whole"], true);
    assert_eq!(hashes(&out), expected("whole.pt"));
}

#[test]
fn another_checkpoint_fills_the_holes() {
    let folder = program();
    let out = folder.at("filled.safetensors");
    let from = format!("from={BITFLIP}");
    let record = json(3, &[TRUNCATED, "-o", text(&out), "--fill", &from, "--fill", "nan"]);
    assert_eq!(record["tensors"]["filled"], 3);
    assert_eq!(record["losses"][0]["filled"], BITFLIP);
    let truth = expected("whole.pt");
    for (name, hash) in hashes(&out).as_object().unwrap() {
        assert_eq!(*hash, truth[format!("model_state_dict.{name}")], "{name}");
    }
}

#[test]
fn nothing_is_overwritten_or_half_written() {
    let folder = program();
    let out = folder.at("out.pt");
    std::fs::write(&out, b"mine").unwrap();
    recover(4, &[TRUNCATED, "-o", text(&out)]);
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");

    let same = folder.at("same.pt");
    std::fs::copy(root().join(TRUNCATED), &same).unwrap();
    let same = text(&same);
    recover(2, &[same, "-o", same, "--force"]);

    let cut = folder.at("cut.pt");
    let bytes = std::fs::read(root().join(WHOLE)).unwrap();
    // Only the pickle is there: every tensor is known, and none is whole.
    std::fs::write(&cut, &bytes[..1100]).unwrap();
    let none = folder.at("none.pt");
    let told = recover(3, &[text(&cut), "-o", text(&none)]);
    assert!(told.contains("0 of 6 tensors"), "{told}");
    assert!(!none.exists());
    recover(3, &[text(&cut), "-o", text(&none), "--fill", "zeros"]);
    assert!(none.exists());

    std::fs::write(&cut, &bytes[..400]).unwrap();
    recover(3, &[text(&cut)]);
    recover(2, &[WHOLE, "--fill", "sevens"]);
    recover(2, &[WHOLE, "-o", text(&folder.at("x.gguf"))]);
    recover(3, &["not/there.pt"]);
    recover(2, &[WHOLE, "-o", text(&folder.at("x.npy"))]);
    let arrays = folder.at("x.npz");
    recover(0, &[WHOLE, "-o", text(&arrays)]);
    assert_eq!(ckpt_inspect::open(&arrays).unwrap().format, ckpt_inspect::Format::Npz);
}

#[test]
fn a_gguf_file_cut_short_stays_gguf() {
    let folder = program();
    let gguf = folder.at("model.gguf");
    ckpt(&[
        "convert",
        "tests/fixtures/healthy-run/step-02000.pt",
        "--to",
        "gguf",
        "--quant",
        "q8_0",
        "-o",
        text(&gguf),
    ])
    .exits(0);
    let bytes = std::fs::read(&gguf).unwrap();
    std::fs::write(&gguf, &bytes[..bytes.len() - bytes.len() / 4]).unwrap();
    let out = folder.at("out.gguf");
    let record = json(3, &[text(&gguf), "-o", text(&out)]);
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
    let folder = program();
    let mut bytes = std::fs::read(fixture("formats/list_root.pt")).unwrap();
    let name = bytes.windows(16).position(|w| w == b"list_root/data/0").unwrap();
    let at = entry_data(&bytes, name - 30);
    bytes[at] ^= 0xff;
    let (damaged, out) = (folder.at("list.pt"), folder.at("out.pt"));
    std::fs::write(&damaged, bytes).unwrap();
    let record = json(3, &[text(&damaged), "-o", text(&out)]);
    assert_eq!(record["output_agrees"], true);
    assert_eq!(names(&record["losses"]), ["0"]);
    let (written, truth) = (hashes(&out), expected("list_root.pt"));
    let written = written.as_object().unwrap();
    assert_eq!(written.len() + 1, truth.as_object().unwrap().len());
    assert_eq!(written["0.k"], truth["1.k"]);
}

#[test]
fn surplus_and_inserted_bytes_are_damage() {
    let folder = program();
    let tensors =
        safetensors::raw(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, &[1, 2, 3, 4, 5, 6]);
    let path = folder.at("a.safetensors");
    std::fs::write(&path, tensors).unwrap();
    let record = json(3, &[text(&path)]);
    assert!(record["damage"].as_str().unwrap().contains("2 bytes follow the last tensor"), "{record}");

    let legacy = std::fs::read(fixture("formats/legacy.pt")).unwrap();
    let truth = expected("legacy.pt");
    let path = folder.at("legacy.pt");
    // Nothing that is called whole after bytes were put in anywhere among the storages is other than it was.
    let mut lost = 0;
    for back in (8..120).step_by(8) {
        let mut bytes = legacy.clone();
        let at = bytes.len() - back;
        bytes.splice(at..at, [0xab; 16]);
        std::fs::write(&path, bytes).unwrap();
        let out = folder.at("out.pt");
        let _ = std::fs::remove_file(&out);
        let record = json(3, &[text(&path), "-o", text(&out)]);
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

/// GGML's number of the type.
const Q8_0: u32 = 8;

#[test]
fn a_scale_that_is_no_number_is_copied_as_such() {
    let folder = program();
    let blocks = [0x7e00u16, 0x3c00].map(|scale| [&scale.to_le_bytes()[..], &[3; 32]].concat());
    let gguf = Gguf::new().tensor("w", &[64], Q8_0, blocks.concat()).bytes();
    let (path, out) = (folder.at("nan.gguf"), folder.at("out.pt"));
    std::fs::write(&path, gguf).unwrap();
    let record = json(0, &[text(&path), "-o", text(&out)]);
    assert_eq!(record["output_agrees"], true);
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf8_are_shown() {
    use std::os::unix::ffi::OsStrExt;
    let folder = program();
    let path = folder.at(std::ffi::OsStr::from_bytes(b"n\xff.pt"));
    std::fs::copy(root().join(TRUNCATED), &path).unwrap();
    let arguments = ["recover".as_ref(), path.as_os_str(), "--format".as_ref(), "json".as_ref()];
    let record = program().run(&arguments).exits(3).json();
    assert!(record["losses"][0]["file"].as_str().unwrap().contains("n\u{fffd}.pt"), "{record}");
}
