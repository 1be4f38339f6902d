//! `ckpt inspect` through the real binary, on the fixtures and on files made here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::process::Command;

#[cfg(unix)]
use ckpt_kit::binary::text;
use ckpt_kit::binary::{Program, Ran};
use ckpt_kit::safetensors::SafeTensors;
use serde_json::Value;

use crate::program;

const COLLAPSED: &str = "tests/fixtures/collapse-run/step-04000.pt";
const GATE: &str = "layers.0.mlp.gate_proj.weight";

/// The program with a cache of its own for every test.
struct Ckpt(Program);

impl Ckpt {
    fn new() -> Self {
        Ckpt(program())
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.0.run(&[&["inspect"], arguments].concat())
    }

    /// Standard output of a run that exits with `code`.
    fn exits(&self, code: i32, arguments: &[&str]) -> String {
        self.run(arguments).exits(code).out().to_string()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["--format", "json"]].concat()).exits(0).json()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        self.0.file(name, bytes)
    }
}

/// A SafeTensors file with one 2 x 2 tensor called `name`.
fn named(name: &str, metadata: Value) -> Vec<u8> {
    SafeTensors::new().metadata(metadata).f32s(name, &[2, 2], &[1.0, -2.0, 0.5, 3.0]).bytes()
}

fn inspect(arguments: &[&str]) -> String {
    Ckpt::new().exits(0, arguments)
}

/// The first column of the rows below the heading `title`.
fn names(text: &str, title: &str) -> Vec<String> {
    let table = text.split(&format!("\n{title}  ")).nth(1).unwrap_or_else(|| panic!("no {title} in\n{text}"));
    let rows =
        table.lines().skip(2).take_while(|line| !line.is_empty() && !line.contains(" shares its storage "));
    rows.map(|line| line.split_whitespace().next().unwrap().to_string()).collect()
}

#[test]
fn the_summary_says_what_it_is_how_it_is_and_why() {
    let text = inspect(&[COLLAPSED]);
    for line in [
        "tests/fixtures/collapse-run/step-04000.pt\n",
        "  format      pytorch-zip, 1.14 MB\n",
        "  model       bitnet-student, 2 layers, 64 hidden, 128 mlp, 2 heads, 1 KV head, 1024 vocabulary, 140 k parameters\n",
        "  step        4000, from step\n",
        "  verdict     weak\n",
        "              model_state_dict.layers.0.mlp.gate_proj.weight is weak: std 4.1e-5\n",
        "\nweights  24 tensors, 559 kB in model_state_dict\n",
        "\noptimizer  42 tensors, 561 kB in optimizer_state_dict\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn layers_are_folded_into_one_row_and_unfolded_on_request() {
    let folded = inspect(&[COLLAPSED, "--group", "weights"]);
    assert_eq!(names(&folded, "weights").len(), 13);
    assert!(folded.contains("layers.{0..1}.mlp.gate_proj.weight"), "{folded}");
    assert!(folded.contains("2.0e-5..4.1e-5"), "a folded row shows the range of std\n{folded}");
    assert!(!folded.contains("\noptimizer  "), "{folded}");
    let all = inspect(&[COLLAPSED, "--group", "weights", "--all"]);
    assert_eq!(names(&all, "weights").len(), 24);
    assert!(all.contains("layers.1.mlp.gate_proj.weight"));
    assert_eq!(names(&inspect(&[COLLAPSED, "--all", "--group", "optimizer"]), "optimizer").len(), 42);
}

#[test]
fn filters_by_glob_and_by_regular_expression() {
    let ckpt = Ckpt::new();
    let filtered = |filter: &str| {
        let json = ckpt.json(&[COLLAPSED, "--group", "weights", "--filter", filter]);
        json["tensors"].as_array().unwrap().len()
    };
    assert_eq!(filtered("*gate_proj*"), 2);
    assert_eq!(filtered("layers.?.self_attn.[qk]_norm.weight"), 4);
    assert_eq!(filtered(GATE), 1, "the state dict's key may be left out");
    assert_eq!(filtered("/(gate|up)_proj/"), 4);
    assert_eq!(filtered("/^layers\\.1\\./"), 11);
    let none = ckpt.exits(0, &[COLLAPSED, "--filter", "nothing*"]);
    assert!(none.contains("no match among 66 tensors"), "{none}");
    for (bad, why) in [("/(/", "regex"), ("[", "--filter")] {
        let output = ckpt.run(&[COLLAPSED, "--filter", bad]).exits(2);
        assert!(output.err().contains(why), "{}", output.err());
    }
}

#[test]
fn sorts_by_name_size_std_and_verdict() {
    let ckpt = Ckpt::new();
    let sorted = |by: &str| {
        let json = ckpt.json(&[COLLAPSED, "--group", "weights", "--sort", by]);
        json["tensors"].as_array().unwrap().clone()
    };
    let by = |key: &str, tensors: &[Value]| tensors.iter().map(|t| t[key].clone()).collect::<Vec<_>>();
    let names = by("name", &sorted("name"));
    assert!(names.windows(2).all(|w| w[0].as_str() < w[1].as_str()), "{names:?}");
    let sizes = by("bytes", &sorted("size"));
    assert!(sizes.windows(2).all(|w| w[0].as_u64() >= w[1].as_u64()), "{sizes:?}");
    let std: Vec<f64> = sorted("std").iter().map(|t| t["stats"]["std"].as_f64().unwrap()).collect();
    assert!(std.windows(2).all(|w| w[0] <= w[1]), "{std:?}");
    let verdicts = by("verdict", &sorted("verdict"));
    assert!(
        verdicts[..6].iter().all(|v| v == "weak") && verdicts[6..].iter().all(|v| v != "weak"),
        "{verdicts:?}"
    );
    assert_eq!(sorted("file")[0]["name"], "model_state_dict.embed_tokens.weight");
}

#[test]
fn no_stats_reads_the_header_only() {
    let text = inspect(&[COLLAPSED, "--no-stats"]);
    assert!(text.contains("not judged: --no-stats") && !text.contains(" std"), "{text}");
    let json = Ckpt::new().json(&[COLLAPSED, "--no-stats"]);
    assert!(
        json["tensors"].as_array().unwrap().iter().all(|t| t["stats"].is_null() && t["verdict"].is_null())
    );
}

#[test]
fn one_tensor_is_shown_in_detail() {
    let text = inspect(&[COLLAPSED, "--tensor", GATE]);
    for line in
        ["dtype       float32", "shape       [128, 64]", "std         4.1e-5", "verdict     weak: std 4.1e-5"]
    {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    for part in ["ternary     -1 ", "entropy ", "dead rows ", "|w| by powers of two", "values\n"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let json = Ckpt::new().json(&[COLLAPSED, "--tensor", GATE, "--sha256"]);
    let tensors = json["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 1);
    assert_eq!(tensors[0]["sha256"].as_str().unwrap().len(), 64);
    // A run: the tensor in each checkpoint.
    let run = inspect(&["tests/fixtures/healthy-run", "--tensor", GATE]);
    assert_eq!(run.matches("tests/fixtures/healthy-run/step-").count(), 3, "{run}");
    let output = Ckpt::new().run(&[COLLAPSED, "--tensor", "layers.0.mlp.gate_prj.weight"]).exits(2);
    assert!(output.err().contains("has no tensor `layers.0.mlp.gate_prj.weight`"), "{}", output.err());
}

#[test]
fn checksums_name_the_damaged_tensor() {
    let ckpt = Ckpt::new();
    ckpt.exits(0, &["tests/fixtures/formats/whole.pt", "--checksum"]);
    ckpt.exits(0, &["tests/fixtures/formats/bitflip.pt"]);
    let text = ckpt.exits(3, &["tests/fixtures/formats/bitflip.pt", "--checksum"]);
    assert!(text.contains("model_state_dict.layers.2.w is corrupt: checksum mismatch"), "{text}");
    assert!(text.contains("pytorch-zip, 101 kB (damaged)"), "{text}");
    ckpt.exits(0, &["tests/fixtures/formats/bitflip.pt"]);
    ckpt.exits(3, &["tests/fixtures/formats/bitflip.pt", "--checksum", "--tensor", "layers.2.w"]);
    ckpt.exits(0, &["tests/fixtures/formats/bitflip.pt", "--checksum", "--tensor", "layers.1.w"]);
}

#[test]
fn hashes_are_those_of_the_elements() {
    let expected: Value = serde_json::from_str(include_str!("../fixtures/formats/expected.json")).unwrap();
    let json = Ckpt::new().json(&["tests/fixtures/formats/views.pt", "--sha256", "--no-stats"]);
    let tensors = json["tensors"].as_array().unwrap();
    assert!(!tensors.is_empty());
    for tensor in tensors {
        let name = tensor["name"].as_str().unwrap();
        assert_eq!(tensor["sha256"], expected["views.pt"]["tensors"][name]["sha256"], "{name}");
    }
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Every existing key against the documented ones: docs/inspect.md is the schema.
#[test]
fn json_has_exactly_the_documented_keys() {
    let page = include_str!("../../docs/inspect.md");
    let documented = |section: &str| -> BTreeSet<(&str, bool)> {
        let table =
            page.split(&format!("### {section}\n")).nth(1).unwrap_or_else(|| panic!("no section {section}"));
        let rows = table.lines().skip_while(|l| !l.starts_with("| `")).take_while(|l| l.starts_with('|'));
        rows.map(|row| (row.split('`').nth(1).unwrap(), row.contains("absent"))).collect()
    };
    let agree = |section: &str, found: &Value| {
        let found = keys(found);
        let all: BTreeSet<&str> = documented(section).iter().map(|(key, _)| *key).collect();
        let always: BTreeSet<&str> =
            documented(section).iter().filter(|(_, a)| !a).map(|(key, _)| *key).collect();
        assert!(found.is_subset(&all), "{section}: {found:?} has more than {all:?}");
        assert!(always.is_subset(&found), "{section}: {found:?} lacks some of {always:?}");
    };
    let ckpt = Ckpt::new();
    let mut met = BTreeSet::new();
    for arguments in [
        &[COLLAPSED, "--sha256"][..],
        &[COLLAPSED, "--no-stats"],
        &["tests/fixtures/packed/nano-healthy-2000-i2s.pt"],
        &["tests/fixtures/formats/training.pt"],
        &["tests/fixtures/formats/views.pt"],
    ] {
        let json = ckpt.json(arguments);
        agree("Checkpoint", &json);
        agree("Model", &json["model"]);
        for tensor in json["tensors"].as_array().unwrap() {
            agree("Tensor", tensor);
            met.extend(keys(tensor).into_iter().map(str::to_string));
            if !tensor["stats"].is_null() {
                agree("Stats", &tensor["stats"]);
                agree("Histogram", &tensor["stats"]["histogram"]);
            }
            if !tensor["ternary"].is_null() {
                agree("Ternary", &tensor["ternary"]);
            }
        }
    }
    let damaged = ckpt.exits(3, &["tests/fixtures/formats/truncated.pt", "--format", "json"]);
    let damaged: Value = serde_json::from_str(&damaged).unwrap();
    damaged["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .for_each(|t| met.extend(keys(t).into_iter().map(str::to_string)));
    // Wrong in two ways.
    let values: Vec<f32> = (0..1024).map(|i| [f32::NAN, 1e30, 0.1][i.min(2)]).collect();
    let twice =
        ckpt.file("twice.safetensors", &SafeTensors::new().f32s("a.weight", &[32, 32], &values).bytes());
    let twice = ckpt.json(&[twice.to_str().unwrap()]);
    agree("Tensor", &twice["tensors"][0]);
    met.extend(keys(&twice["tensors"][0]).into_iter().map(str::to_string));
    // Two layers with the same elements.
    let values: Vec<f32> = (0..1024).map(|i| (i % 37) as f32 - 18.0).collect();
    let layers = (0..2).fold(SafeTensors::new(), |file, layer| {
        file.f32s(&format!("layers.{layer}.fc.weight"), &[32, 32], &values)
    });
    let layers = ckpt.json(&[ckpt.file("layers.safetensors", &layers.bytes()).to_str().unwrap()]);
    assert_eq!(layers["tensors"][1]["equal_to"], "layers.0.fc.weight");
    agree("Tensor", &layers["tensors"][1]);
    met.extend(keys(&layers["tensors"][1]).into_iter().map(str::to_string));
    for (key, _) in documented("Tensor") {
        assert!(met.contains(key), "`{key}` was never there to be compared");
    }
}

#[test]
fn json_is_one_object_for_one_checkpoint_and_else_a_list() {
    let ckpt = Ckpt::new();
    let run = ckpt.json(&["tests/fixtures/healthy-run", "--no-stats"]);
    assert_eq!(run.as_array().unwrap().len(), 3);
    let glob = ckpt.json(&["tests/fixtures/healthy-run/step-0[12]*.pt", "--no-stats"]);
    assert_eq!(
        glob.as_array().unwrap().iter().map(|c| c["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        [1000, 2000]
    );
    assert!(ckpt.json(&["tests/fixtures/packed/nano-healthy-2000-i2s.pt", "--no-stats"]).is_object());
    // What was asked for decides, and not how many there are.
    for several in ["tests/fixtures/healthy-run/step-02*.pt", "tests/fixtures/packed"] {
        let shown = ckpt.json(&[several, "--no-stats"]);
        assert_eq!(shown.as_array().unwrap().len(), 1, "{several}");
    }
    let model = ckpt.0.at("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("model.safetensors"), named("w", serde_json::json!({}))).unwrap();
    assert!(ckpt.json(&[model.to_str().unwrap()]).is_object(), "the folder is the checkpoint");
    // Unreadable files do not change the form, and are rows.
    let bad = ckpt.file("bad.pt", b"nothing");
    let bad = bad.to_str().unwrap();
    let output = ckpt.exits(3, &[COLLAPSED, bad, "--no-stats", "--format", "json"]);
    let shown: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(shown.as_array().unwrap().len(), 2);
    assert_eq!(
        (&shown[0]["step"], keys(&shown[1])),
        (&4000.into(), BTreeSet::from(["error", "kind", "path", "schema"]))
    );
    assert_eq!(shown[1]["path"], bad);
    for tensor in [&[][..], &["--tensor", "w"]] {
        let output = ckpt.exits(3, &[&[bad, "--format", "json"], tensor].concat());
        let shown: Value = serde_json::from_str(&output).unwrap();
        assert!(shown["error"].as_str().unwrap().contains("bad.pt"), "{output}");
    }
    let many = ckpt.json(&["tests/fixtures/healthy-run", "--tensor", GATE]);
    assert_eq!(many.as_array().unwrap().len(), 3);
}

/// A line each, with all that the list has.
#[test]
fn ndjson_has_a_line_a_checkpoint() {
    let ckpt = Ckpt::new();
    let bad = ckpt.file("bad.pt", b"nothing");
    let paths = ["tests/fixtures/healthy-run", bad.to_str().unwrap()];
    let list: Value =
        serde_json::from_str(&ckpt.exits(3, &[&paths[..], &["--format", "json"]].concat())).unwrap();
    let lines = ckpt.exits(3, &[&paths[..], &["--format", "ndjson"]].concat());
    let mut lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| (line["path"] == *paths[1], line["step"].as_u64()));
    assert_eq!(Value::Array(lines), list);
    let one = ckpt.exits(0, &[COLLAPSED, "--format", "ndjson", "--tensor", GATE]);
    assert_eq!(serde_json::from_str::<Value>(&one).unwrap()["tensors"].as_array().unwrap().len(), 1);
}

#[test]
fn csv_has_a_line_a_tensor() {
    let ckpt = Ckpt::new();
    let table = ckpt.exits(0, &["tests/fixtures/healthy-run", "--format", "csv", "--filter", "*.mlp.*"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("path,step,tensor,dtype,shape,group,count,mean,std,"), "{}", lines[0]);
    assert_eq!(lines.len(), 1 + 3 * 6);
    let path = "tests/fixtures/healthy-run/step-01000.pt";
    assert!(
        lines[7].starts_with(&format!("{path},1000,model_state_dict.{GATE},float32,128x64,weights,")),
        "{}",
        lines[7]
    );
    let one = ckpt.exits(0, &[path, "--format", "csv", "--tensor", GATE]);
    assert_eq!(one.lines().collect::<Vec<_>>(), [lines[0], lines[7]]);
    // What cannot be read has a row that says why.
    let absent = ckpt.exits(3, &["absent.pt", "--format", "csv"]);
    let rows: Vec<&str> = absent.lines().collect();
    assert!(
        rows.len() == 2 && rows[1].starts_with("absent.pt,") && rows[1].contains(",unreadable,"),
        "{absent}"
    );
}

#[test]
fn checkpoints_are_sorted_and_counted() {
    let ckpt = Ckpt::new();
    let bad = ckpt.file("bad.pt", b"nothing");
    let paths = ["tests/fixtures/healthy-run/step-02000.pt", COLLAPSED, bad.to_str().unwrap()];
    let sorted = |order: &str| -> Vec<String> {
        let output = ckpt.exits(3, &[&paths[..], &["--format", "json", "--sort", order]].concat());
        let shown: Value = serde_json::from_str(&output).unwrap();
        shown.as_array().unwrap().iter().map(|c| c["path"].as_str().unwrap().to_string()).collect()
    };
    assert_eq!(sorted("verdict"), [paths[2], paths[1], paths[0]]);
    assert_eq!(sorted("file"), paths);
    assert_eq!(sorted("name"), [paths[2], paths[1], paths[0]]);
    let text = ckpt.exits(3, &[&paths[..], &["--sort", "verdict"]].concat());
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].starts_with(COLLAPSED) && lines[1].ends_with("weak"), "{text}");
    assert_eq!(lines[2], format!("    model_state_dict.{GATE} is weak: std 4.1e-5"));
    assert!(lines[3].starts_with(paths[0]) && lines[3].ends_with("healthy"), "{text}");
    assert!(
        lines[4].starts_with("2 checkpoints, ") && lines[4].ends_with(": 1 healthy, 1 weak; 1 unreadable"),
        "{text}"
    );
}

#[test]
fn several_checkpoints_are_one_line_each() {
    let text = inspect(&["tests/fixtures/collapse-run", "tests/fixtures/healthy-run", COLLAPSED]);
    let rows: Vec<&str> = text.lines().filter(|l| l.contains(".pt ")).collect();
    assert_eq!(rows.len(), 12, "the file that is in a folder too is shown once\n{text}");
    assert!(rows[8].starts_with(COLLAPSED) && rows[8].ends_with("weak"), "{}", rows[8]);
    let all = inspect(&["tests/fixtures/healthy-run", "--all"]);
    assert_eq!(all.matches("\nweights  ").count(), 3);
}

#[test]
fn what_cannot_be_read_exits_3_and_says_why() {
    let ckpt = Ckpt::new();
    let text = ckpt.exits(3, &["tests/fixtures/formats/truncated.pt"]);
    assert!(text.contains("(damaged)") && text.contains("central directory"), "{text}");
    let page = ckpt.file("page.pt", b"<html>");
    let empty = ckpt.file("empty.pt", b"");
    let folder = ckpt.0.at("folder");
    std::fs::create_dir(&folder).unwrap();
    for (path, why) in [
        (Path::new("tests/fixtures/absent.pt"), "No such file"),
        (&page, "HTML"),
        (&empty, "is empty"),
        (&folder, "no checkpoint in this folder"),
        (Path::new("tests/fixtures/absent-*.pt"), "no file matches"),
    ] {
        let output = ckpt.run(&[path.to_str().unwrap()]).exits(3);
        assert!(output.out().is_empty());
        let error = output.err();
        assert!(error.contains(why) && error.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    // The others are still shown.
    let output = ckpt.run(&[page.to_str().unwrap(), "tests/fixtures/formats/tied.pt", "--all"]).exits(3);
    assert!(output.out().contains("lm_head.weight"));
    for usage in
        [&["--sort", "colour", COLLAPSED][..], &[], &["--nonsense", COLLAPSED], &["a[", "--filter", "["]]
    {
        ckpt.run(usage).exits(2);
    }
}

#[test]
fn shared_storage_is_reported() {
    let text = inspect(&["tests/fixtures/formats/tied.pt"]);
    assert!(text.contains("embed.weight shares its storage with lm_head.weight, alias"), "{text}");
}

#[test]
fn names_that_a_file_chose_cannot_steer_the_terminal() {
    let ckpt = Ckpt::new();
    let hostile = "w\u{1b}[2J\u{7}\nfake  line\u{202e}\u{200b}";
    let file = ckpt.file("hostile.safetensors", &named(hostile, serde_json::json!({"step": hostile})));
    let file = file.to_str().unwrap();
    for arguments in [
        &[file][..],
        &[file, "--color", "always"],
        &[file, "--tensor", hostile],
        &[file, "--tensor", "no\u{1b}[2J"],
    ] {
        let output = ckpt.run(arguments);
        let text = format!("{}{}", output.out(), output.err());
        assert!(!text.contains("\u{1b}[2J") && !text.contains(['\u{7}', '\u{202e}', '\u{200b}']), "{text:?}");
        assert!(!text.contains("\nfake"), "{text:?}");
    }
    let text = ckpt.exits(0, &[file]);
    assert!(text.contains("w\\u{1b}[2J\\u{7}\\u{a}fake  line\\u{202e}\\u{200b}"), "{text}");
    assert_eq!(ckpt.json(&[file])["tensors"][0]["name"], hostile, "machines get the name as it is");
}

#[test]
fn ten_thousand_tensors_and_a_name_of_a_hundred_kilobytes_are_no_trouble() {
    let names = (0..10_000).map(|i| format!("layers.{i}.w")).chain(["x".repeat(100_000)]);
    let bytes = names.fold(SafeTensors::new(), |file, name| file.f32s(&name, &[1], &[0.0])).bytes();
    let ckpt = Ckpt::new();
    let file = ckpt.file("many.safetensors", &bytes);
    let started = std::time::Instant::now();
    let folded = ckpt.exits(0, &[file.to_str().unwrap()]);
    assert!(folded.contains("layers.{0..9999}.w  "), "{}", &folded[..400]);
    let all = ckpt.exits(0, &[file.to_str().unwrap(), "--all"]);
    assert_eq!(all.matches("\nlayers.").count(), 10_000);
    assert!(all.contains(&"x".repeat(100_000)) && all.len() < 3_000_000, "{} bytes", all.len());
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
}

#[test]
fn colours_are_for_terminals() {
    let ckpt = Ckpt::new();
    assert!(!ckpt.exits(0, &[COLLAPSED]).contains('\u{1b}'));
    assert!(ckpt.exits(0, &[COLLAPSED, "--color", "always"]).contains("\u{1b}["));
    assert!(!ckpt.exits(0, &[COLLAPSED, "--color", "never"]).contains('\u{1b}'));
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_success() {
    let program = program();
    let piped = |script: &str| program.shell(&format!("{script}; exit ${{PIPESTATUS[0]}}")).exits(0);
    let first = piped("\"$0\" inspect tests/fixtures/collapse-run --all --no-cache | head -1");
    assert_eq!(first.out(), "tests/fixtures/collapse-run/step-00000.pt\n");
    assert_eq!(first.err(), "");
    piped("\"$0\" completions bash | head -1 >/dev/null");
}

/// An unchanged file is answered from the cache, whatever its age; one that was replaced, even by one of the same size and
/// time, is measured again.
#[test]
fn what_has_not_changed_is_not_read_again() {
    let ckpt = Ckpt::new();
    let bytes = std::fs::read("tests/fixtures/formats/whole.pt").unwrap();
    let path = ckpt.file("model.pt", &bytes);
    let name = path.to_str().unwrap();
    let set = |time| std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let time = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1_700_250);
    set(time);
    let rewrite = |bytes: &[u8], time| {
        std::fs::write(&path, bytes).unwrap();
        set(time);
    };
    let first = ckpt.json(&[name]);
    let weights = &first["tensors"][0];
    assert!(weights["stats"]["std"].as_f64().unwrap() > 0.0);
    let json = std::fs::read_dir(ckpt.0.cache().join("ckpt/records")).unwrap().count();
    assert_eq!(json, 1, "one record is kept");
    // Whether the record was used is told by a change in it.
    let kept =
        std::fs::read_dir(ckpt.0.cache().join("ckpt/records")).unwrap().next().unwrap().unwrap().path();
    let change = |pointer: &str, value: Value| {
        let mut record: Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
        *record.pointer_mut(pointer).unwrap() = value;
        std::fs::write(&kept, record.to_string()).unwrap();
    };
    change("/record/step", 987.into());
    let from_cache = ckpt.json(&[name]);
    assert_eq!(from_cache["step"], 987, "answered from the cache");
    assert_eq!(from_cache["tensors"], first["tensors"]);
    assert_eq!(ckpt.json(&[name, "--no-cache"]), first);
    // The same file with some weights replaced: a stretch without a header of the zip.
    let mut other = bytes.clone();
    let at = bytes.windows(4000).position(|w| !w.windows(2).any(|pair| pair == b"PK")).unwrap();
    other[at + 500..at + 3500].fill(0);
    rewrite(&other, time);
    let replaced = ckpt.json(&[name]);
    assert!(replaced != first && replaced["step"] == first["step"], "size and time alone are not trusted");
    assert_eq!(ckpt.json(&[name, "--no-cache"]), replaced);
    let changed = ckpt.exits(3, &[name, "--checksum"]);
    assert!(changed.contains("checksum mismatch"), "checksums are of the file itself\n{changed}");
    // A record with other computed measures than today's is not used, so that no measure is missing.
    change("/record/step", 987.into());
    assert_eq!(ckpt.json(&[name])["step"], 987);
    change("/measures", serde_json::json!(["unheard_of"]));
    assert_eq!(ckpt.json(&[name]), replaced, "measured again");
    rewrite(&other, time + std::time::Duration::from_secs(1));
    assert_ne!(ckpt.json(&[name]), first, "a new time is a change");
    let folder = ckpt.0.at("checkpoint-7");
    std::fs::create_dir(&folder).unwrap();
    let model = folder.join("model.safetensors");
    std::fs::write(&model, named("w", serde_json::json!({}))).unwrap();
    // The config.json next to it is part of its record.
    let architecture = |path: &Path| ckpt.json(&[path.to_str().unwrap()])["model"]["architecture"].clone();
    assert_eq!((architecture(&folder), architecture(&model)), ("unknown".into(), "unknown".into()));
    std::fs::write(folder.join("config.json"), r#"{"architectures": ["LlamaForCausalLM"]}"#).unwrap();
    assert_eq!(architecture(&model), "LlamaForCausalLM");
    assert_eq!(architecture(&folder), "LlamaForCausalLM");
    std::fs::write(folder.join("config.json"), r#"{"architectures": ["Qwen3ForCausalLM"]}"#).unwrap();
    assert_eq!(
        (architecture(&folder), architecture(&model)),
        ("Qwen3ForCausalLM".into(), "Qwen3ForCausalLM".into())
    );
}

/// On a terminal, lines keep to its width. Needs `script` of util-linux.
#[cfg(target_os = "linux")]
#[test]
fn lines_keep_to_the_width_of_the_terminal() {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: `script` (util-linux) is not installed");
        return;
    }
    let program = program();
    for (width, arguments) in [
        (80, COLLAPSED.to_string()),
        (40, COLLAPSED.to_string()),
        (80, format!("{COLLAPSED} --tensor {GATE}")),
        (50, "tests/fixtures/formats/unicode.pt".into()),
        (60, "tests/fixtures/collapse-run".into()),
    ] {
        let command = format!("stty cols {width} rows 50; '{}' inspect {arguments}", text(program.path()));
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]);
        let output = Ran::of(program.surround(&mut script).env("NO_COLOR", "1"));
        let shown = output.out().replace('\r', "");
        assert!(output.code() == Some(0) && shown.lines().count() > 4, "{shown}");
        assert!(!shown.contains('\u{1b}'), "NO_COLOR is respected: {shown:?}");
        // Paths and headings are shown whole.
        let whole = |line: &&str| {
            line.contains("fixtures/") || line.contains("tensors, ") || line.contains("add --all")
        };
        // And so are long names that stand alone in their line.
        let alone = |line: &&str| line.split_whitespace().count() == 1;
        for line in shown.lines().filter(|line| !whole(line) && !alone(line)) {
            assert!(line.chars().count() <= width, "{width} columns: {line:?}");
        }
    }
}
