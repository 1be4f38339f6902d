//! `ckpt scan` through the real binary.

#[cfg(unix)]
use std::ffi::OsStr;

use ckpt_kit::binary::{Ran, text};
#[cfg(unix)]
use ckpt_kit::fixtures::root;
use ckpt_kit::npy::npy;
#[cfg(unix)]
use ckpt_kit::peers;
use ckpt_kit::safetensors;
use ckpt_kit::tar::tar;
use ckpt_kit::zip::{entry, zip};
use serde_json::Value;

use crate::program;

const EVIL: &str = "tests/fixtures/formats/evil.pt";

fn ckpt(arguments: &[&str]) -> Ran {
    program().run(&[&["scan"], arguments].concat())
}

/// Standard output of a run that exits with `code`.
fn exits(code: i32, arguments: &[&str]) -> String {
    ckpt(arguments).exits(code).out().to_string()
}

#[test]
fn a_malicious_file_is_refused_and_nothing_of_it_runs() {
    let human = exits(1, &[EVIL]);
    for part in ["dangerous", "posix.system", "data.pkl, offset", "1 file scanned: 1 dangerous"] {
        assert!(human.contains(part), "{part}: {human}");
    }
    let json: Value = serde_json::from_str(&exits(1, &[EVIL, "--format", "json"])).unwrap();
    assert_eq!(json["status"], "found");
    let finding = &json["files"][0]["findings"][0];
    assert_eq!(finding["rule"], "dangerous-import");
    assert_eq!(finding["global"], "posix.system");
    assert!(finding["offset"].is_u64());
}

#[test]
fn sarif_names_every_rule_and_places_every_result() {
    let log: Value = serde_json::from_str(&exits(1, &[EVIL, "--format", "sarif"])).unwrap();
    let run = &log["runs"][0];
    assert_eq!(log["version"], "2.1.0");
    assert_eq!(run["tool"]["driver"]["name"], "ckpt scan");
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    let result = &run["results"][0];
    assert_eq!(rules[result["ruleIndex"].as_u64().unwrap() as usize]["id"], result["ruleId"]);
    assert_eq!(result["level"], "error");
    let location = &result["locations"][0];
    assert_eq!(location["physicalLocation"]["artifactLocation"]["uri"], EVIL);
    assert!(location["logicalLocations"][0]["fullyQualifiedName"].as_str().unwrap().ends_with("data.pkl"));
}

#[test]
fn files_of_a_folder_can_be_left_out_and_are_counted() {
    let program = program();
    let folder = program.at("model");
    std::fs::create_dir_all(folder.join("onnx")).unwrap();
    std::fs::copy("tests/fixtures/formats/whole.pt", folder.join("whole.pt")).unwrap();
    std::fs::write(folder.join("onnx/model.onnx"), b"\x08\x07 not read here").unwrap();
    let folder = text(&folder);
    program.run(&["scan", folder]).exits(3);
    for glob in ["onnx/*", "*.onnx"] {
        let left_out = program.run(&["scan", folder, "--skip", glob]).exits(0);
        assert!(
            left_out.out().contains("1 file scanned: nothing found; 1 file left out"),
            "{}",
            left_out.out()
        );
    }
    let json = program.run(&["scan", folder, "--skip", "onnx/*", "--format", "json"]).exits(0).json();
    assert!(json["skipped"][0].as_str().unwrap().ends_with("model.onnx"));
    let evil = program.run(&["scan", EVIL, folder, "--skip", "evil.pt", "--skip", "onnx/*"]).exits(1);
    assert!(evil.out().contains("posix.system"), "what is named itself is not left out: {}", evil.out());
    program.run(&["scan", folder, "--skip", "onnx/*", "--skip", "*.pt"]).exits(2);
    let unused = program.run(&["scan", "tests/fixtures/healthy-run", "--skip", "*.onnx"]).exits(0);
    assert!(unused.err().contains("--skip matches no file"), "{}", unused.err());
}

#[test]
fn the_exit_code_says_what_was_found_and_what_was_not_read() {
    exits(0, &["tests/fixtures/formats/whole.pt"]);
    exits(
        0,
        &["tests/fixtures/healthy-run", "tests/fixtures/formats/t*.pt", "--fail-on", "dangerous"].map(|a| {
            // The truncated one is damaged.
            if a.ends_with("t*.pt") { "tests/fixtures/formats/tied.pt" } else { a }
        }),
    );
    exits(1, &["tests/fixtures/formats"]);
    exits(3, &["tests/fixtures/formats/truncated.pt"]);
    exits(3, &["tests/fixtures/formats/bitflip.pt"]);
    // Text does nothing, unless its name promises something else.
    exits(0, &["Cargo.toml", "README.md", "LICENSE-MIT", ".gitattributes"]);
    exits(3, &["not/there.pt"]);
    exits(3, &["not/*.pt"]);
    let empty = tempfile::tempdir().unwrap();
    exits(3, &[empty.path().to_str().unwrap()]);
    // In a folder only files that a loader could be given count, and text named .bin is not a pickle.
    std::fs::write(empty.path().join("vocab.bin"), "hello world").unwrap();
    std::fs::write(empty.path().join("README.md"), "cos and sin").unwrap();
    exits(0, &[empty.path().to_str().unwrap()]);
    // A file that is not what its name promises is not clean.
    let random: Vec<u8> = (0..200u32).map(|i| (i * i * 31 % 251) as u8).collect();
    let mut directory_only = b"junk".repeat(16);
    directory_only.extend(b"PK\x05\x06\0\0\0\0\x05\0\x05\0d\0\0\0?B\x0f\0\0\0");
    let files: [(&str, &[u8]); 6] = [
        ("lfs.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12345\n"),
        ("elf.bin", b"\x7fELF\x02\x01\x01\0\0\0\0\0"),
        ("picture.pt", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"),
        ("program.pt", b"MZ\x90\0\x03\0\0\0"),
        ("random.pt", &random),
        ("directory.xyz", &directory_only),
    ];
    for (name, bytes) in files {
        let path = empty.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        exits(3, &[path.to_str().unwrap()]);
        std::fs::remove_file(path).unwrap();
    }
    exits(2, &[EVIL, "--allow", "*"]);
    exits(2, &[]);
    // Imports that the user allows do not count.
    exits(0, &[EVIL, "--allow", "posix.system"]);
}

/// Files of other programs that hold weights, pointers to files, and members of archives that are not what they are called.
#[test]
fn what_promises_weights_and_is_not_read_is_not_clean() {
    let random: Vec<u8> = (0..200u32).map(|i| (i * i * 31 % 251) as u8).collect();
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12345\n";
    let hdf5 = [&b"\x89HDF\r\n\x1a\n"[..], &random].concat();
    let weights = safetensors::raw(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, &[0]);
    let in_folder = |name: &str, bytes: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), &weights).unwrap();
        std::fs::write(folder.path().join(name), bytes).unwrap();
        ckpt(&[text(folder.path())])
    };
    for name in [
        "model.msgpack",
        "model.pte",
        "model.ptl",
        "model.params",
        "model.pdparams",
        "model.engine",
        "model.plan",
        "model.ubj",
        "model.cbm",
        "model.keras",
        "model.ckpt.data-00000-of-00001",
        "saved_model.pbtxt",
        "model.ort",
        "model.mat",
        "model.caffemodel",
        "model.weights",
        "model.pkl.Z",
        "model.pkl.br",
        "model.pkl.lzo",
        "model.h5",
    ] {
        in_folder(name, &random).exits(3).says(&[name]);
    }
    in_folder("model.h5", &hdf5).exits(3).says(&["superblock"]);
    in_folder("model.pt", b"/annex/objects/SHA256E-s12--aa.pt\n").exits(3).says(&["git-annex"]);
    for (name, bytes) in [
        ("x.onnx", &random[..]),
        ("saved_model.pb", &random[..]),
        ("x.tflite", &random[..]),
        ("x.bin", &random[..]),
        ("x.safetensors", &random[..]),
        ("x.gguf", &random[..]),
        ("x.bin", &lfs[..]),
        ("x.safetensors", &lfs[..]),
    ] {
        let archives = [("a.zip", zip(&[entry(name, bytes)])), ("a.tar", tar(&[(name, bytes, None)]))];
        for (archive, whole) in archives {
            in_folder(archive, &whole).exits(3).says(&[archive, name]);
        }
    }
    // Programs beside weights are named, and what else is beside them is counted.
    let noted = in_folder("kernel.so", b"\x7fELF\x02\x01\x01\0\0\0\0\0").exits(0);
    assert!(noted.out().contains("nothing found"), "{}", noted.out());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel.so");
    std::fs::write(&path, b"\x7fELF\x02\x01\x01\0\0\0\0\0").unwrap();
    ckpt(&[text(&path), "--all"]).exits(3).says(&["native-code", "ELF machine code"]);
    assert!(in_folder("table.parquet", &random).exits(0).out().contains("1 file of other kinds"));
}

#[test]
fn unknown_classes_fail_unless_only_dangerous_ones_are_to() {
    let objects = "inspect/tests/data/objects-p5.pt";
    let human = exits(1, &[objects]);
    assert!(human.contains("unknown-import") && human.contains("__main__.Config"), "{human}");
    exits(0, &[objects, "--fail-on", "dangerous"]);
    exits(0, &[objects, "--allow", "__main__.*"]);
}

/// As in the cache of Hugging Face, whose snapshots are links into a folder of blobs without extensions.
#[cfg(unix)]
#[test]
fn links_to_files_are_followed() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (folder.path().join("blobs"), folder.path().join("snapshots/1"));
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir(&blobs).unwrap();
    std::fs::copy(root().join(EVIL), blobs.join("0f")).unwrap();
    symlink("../../blobs/0f", snapshot.join("pytorch_model.bin")).unwrap();
    symlink(&snapshot, snapshot.join("loop")).unwrap();
    ckpt(&[text(&snapshot)]).exits(1).says(&["pytorch_model.bin", "dangerous"]);
    // A broken link is not skipped if it is named like a checkpoint.
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    symlink("nowhere", empty.join("run.log")).unwrap();
    std::fs::write(empty.join("good.pkl"), b"\x80\x02}.").unwrap();
    exits(0, &[empty.to_str().unwrap()]);
    symlink("nowhere", empty.join("model.safetensors")).unwrap();
    exits(3, &[empty.to_str().unwrap()]);
}

/// The cache of Hugging Face keeps files with the same content once, whatever they are called.
#[cfg(unix)]
#[test]
fn a_file_with_several_names_is_scanned_under_each() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (number, (other, name, content)) in [
        ("aaa.bin", "config.json", r#"{"auto_map": {"AutoModel": "mine.Model"}}"#),
        ("README.md", "config.json", r#"{"auto_map": {"AutoModel": "mine.Model"}}"#),
        ("a.dat", "config.yaml", "_target_: os.system\n"),
        ("a.bin", "chat_template.jinja", "{{ x.__class__ }}"),
    ]
    .into_iter()
    .enumerate()
    {
        let inside = format!("{number}");
        std::fs::create_dir(at(&inside)).unwrap();
        std::fs::write(at(&format!("{number}-blob")), content).unwrap();
        for name in [other, name] {
            symlink(format!("../{number}-blob"), at(&format!("{inside}/{name}"))).unwrap();
        }
        ckpt(&[text(&at(&inside))]).exits(1).says(&[name]);
    }
    // What is left out under one name is scanned under another, and so is a folder.
    let hub = at("hub");
    std::fs::create_dir_all(hub.join("a")).unwrap();
    std::fs::copy(root().join(EVIL), hub.join("a/model.pt")).unwrap();
    symlink("model.pt", hub.join("a/a.md")).unwrap();
    ckpt(&[text(&hub), "--skip", "*.md"]).exits(1).says(&["model.pt", "1 file left out"]);
    symlink("a", hub.join("b")).unwrap();
    ckpt(&[text(&hub), "--skip", "a/*"]).exits(1).says(&["b/model.pt"]);
    ckpt(&[text(&hub), "--skip", "*.md", "--skip", "*.pt"]).exits(2);
    // Nothing but text is left.
    std::fs::write(hub.join("README.md"), "cos and sin").unwrap();
    ckpt(&[text(&hub), "--skip", "[ab]/*"]).exits(2);
}

#[test]
fn bytes_after_an_array_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npy");
    let array = npy("'<f4'", false, "(2, 1)", &[0; 8]);
    std::fs::write(&path, &array).unwrap();
    ckpt(&[text(&path)]).exits(0);
    std::fs::write(&path, [&array[..], b"more"].concat()).unwrap();
    ckpt(&[text(&path)]).exits(1).says(&["4 bytes follow the array's elements"]);
}

#[test]
fn a_report_is_written_whole_and_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("scan.sarif");
    let arguments = [EVIL, "--format", "sarif", "-o", report.to_str().unwrap()];
    exits(1, &arguments);
    assert!(serde_json::from_slice::<Value>(&std::fs::read(&report).unwrap()).is_ok());
    exits(4, &arguments);
    exits(1, &[&arguments[..], &["--force"]].concat());
}

#[test]
fn notes_that_fail_a_scan_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hole.safetensors");
    let header = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[20,24]}}"#;
    std::fs::write(&path, safetensors::raw(header, &[0; 24])).unwrap();
    let path = text(&path);
    let output = exits(1, &[path, "--fail-on", "note"]);
    assert!(output.contains("16 bytes between its tensors belong to no tensor"), "{output}");
    assert!(output.contains("1 with notes only") && !output.contains("clean"), "{output}");
    assert!(exits(0, &[path]).contains("nothing found"));
}

/// What CPython's unpicklers import from random and mutated programs, with every import replaced by an inert stand-in.
#[cfg(unix)]
#[test]
fn whatever_an_unpickler_imports_is_found() {
    let Some(python) = peers::python(&[]) else { return };
    let program = program();
    python.script("inspect", "pickle_programs.py", &[program.path().as_os_str(), OsStr::new("20000")]);
}

/// What the readers of zips, tars and `.npy` hand to an unpickler, which is replaced by an inert one, from mutated files.
#[cfg(unix)]
#[test]
fn whatever_a_reader_of_archives_unpickles_is_found() {
    let Some(python) = peers::python(&["torch", "numpy"]) else { return };
    let program = program();
    python.script("inspect", "archive_readings.py", &[program.path().as_os_str(), OsStr::new("5000")]);
}

/// What joblib imports from pickles with arrays between the opcodes, with every import replaced by an inert stand-in.
#[cfg(unix)]
#[test]
fn whatever_joblib_imports_is_found() {
    let Some(python) = peers::python(&["joblib"]) else { return };
    let program = program();
    python.script("inspect", "joblib_arrays.py", &[program.path().as_os_str(), OsStr::new("20000")]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_size_limit_leaves_nothing() {
    for command in [
        "scan $ROOT/tests/fixtures/formats --format json -o out",
        "report $ROOT/tests/fixtures/collapse-run -o out.html",
        "browse $ROOT/tests/fixtures/formats/whole.pt --snapshot out.svg",
    ] {
        let program = program().in_its_folder();
        let script = format!("ulimit -f 1; exec \"$0\" {}", command.replace("$ROOT", text(root())));
        program.shell(&script).exits(4);
        assert_eq!(program.files(), [""; 0], "{command}");
    }
}
