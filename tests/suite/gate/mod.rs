//! `ckpt gate` as users and CI systems run it: the real binary on real checkpoints.

mod accepted;
mod ci;
mod companions;
mod formats;
mod rows;
mod whole;

use std::path::Path;

use ckpt_kit::binary::{Ran, text};
use ckpt_kit::fixtures::root;
use ckpt_kit::numbers::le;
use ckpt_kit::safetensors::{self, SafeTensors};
use serde_json::{Value, json};

use crate::program;

const HEALTHY: &str = "tests/fixtures/healthy-run/step-02000.pt";
const COLLAPSED: &str = "tests/fixtures/collapse-run/step-04000.pt";

/// `tests/fixtures/…` from the root of the file system on.
fn absolute(path: &str) -> String {
    text(&root().join(path)).to_string()
}

/// Runs in `folder`.
fn gate_in(folder: &Path, args: &[&str]) -> Ran {
    program().in_folder(folder).run(&[&["gate"], args].concat())
}

/// Runs at the top of the repository.
fn gate(args: &[&str]) -> Ran {
    gate_in(root(), args)
}

/// Tensors that `rule` found in the first checkpoint.
fn found(outcome: &Value, rule: &str) -> Vec<String> {
    let findings = outcome["checkpoints"][0]["findings"].as_array().unwrap();
    let named = findings.iter().filter(|f| f["rule"] == rule);
    named
        .map(|f| f["tensor"].as_str().unwrap_or("").trim_start_matches("model_state_dict.").to_string())
        .collect()
}

/// A SafeTensors file of float32 tensors.
fn f32s(path: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let file =
        tensors.iter().fold(SafeTensors::new(), |file, (name, shape, values)| file.f32s(name, shape, values));
    file.write(path);
}

/// Values of a size, without structure that matters.
fn values(n: usize, size: f32) -> Vec<f32> {
    (0..n).map(|i| size * ((i * 37 % 101) as f32 / 50.0 - 1.0)).collect()
}

#[test]
fn a_healthy_run_passes() {
    let output = gate(&["tests/fixtures/healthy-run"]).exits(0);
    assert!(output.out().ends_with("3 checkpoints passed\n"));
    assert_eq!(output.err(), "");
}

#[test]
fn the_collapsed_run_is_refused_from_step_2500_on() {
    let output = gate(&["tests/fixtures/collapse-run", "--format", "json"]).exits(1);
    let outcome = output.json();
    assert_eq!(outcome["status"], "refused");
    for checkpoint in outcome["checkpoints"].as_array().unwrap() {
        let refused = checkpoint["step"].as_u64().unwrap() >= 2500;
        assert_eq!(
            checkpoint["status"],
            if refused { "refused" } else { "passed" },
            "{}",
            checkpoint["path"]
        );
    }
    let outcome = gate(&[COLLAPSED, "--format", "json"]).json();
    let mlp = |layer: u8| ["gate", "up", "down"].map(|p| format!("layers.{layer}.mlp.{p}_proj.weight"));
    assert_eq!(found(&outcome, "unhealthy-tensor"), [mlp(0), mlp(1)].concat());
    let finding = &outcome["checkpoints"][0]["findings"][0];
    assert_eq!((&finding["severity"], &finding["limit"]), (&json!("error"), &json!(1e-3)));
    // The corpus' own measurement of this tensor.
    assert!((finding["measured"].as_f64().unwrap() / 4.1e-5 - 1.0).abs() < 0.01);
}

#[test]
fn options_relax_and_tighten() {
    for (args, expected) in [
        (vec!["--allow", "weak"], 0),
        (vec!["--allow", "healthy"], 1),
        (vec!["--ignore", "*.mlp.*"], 0),
        (vec!["--ignore", "layers.0.mlp.*"], 1),
        (vec!["--ignore", "*"], 1),
        (vec!["--min-healthy", "0.5"], 0),
        // Eight of fourteen projections, and the embedding.
        (vec!["--min-healthy", "0.6"], 0),
        (vec!["--min-healthy", "0.61"], 1),
        (vec!["--min-healthy", "0.6", "--scope", "projections"], 1),
        (vec!["--min-healthy", "0.5", "--allow", "healthy"], 1),
        (vec!["--allow", "weak", "--require-step", "4000"], 0),
        (vec!["--allow", "weak", "--require-step", "3999"], 1),
        (vec!["--allow", "weak", "--min-step", "3999"], 0),
        (vec!["--allow", "weak", "--min-step", "4001"], 1),
    ] {
        gate(&[args.as_slice(), &[COLLAPSED]].concat()).exits(expected);
    }
}

#[test]
fn dead_tensors_can_be_counted_instead() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.safetensors");
    let zeros = || vec![0.0; 64];
    f32s(
        &file,
        &[
            ("a.weight", &[8, 8], values(64, 0.3)),
            ("b.weight", &[8, 8], zeros()),
            ("c.weight", &[8, 8], zeros()),
        ],
    );
    for (args, expected, rule) in [
        (&["--allow", "dying"][..], 1, "unhealthy-tensor"),
        (&["--allow", "dead"], 0, ""),
        (&["--max-dead", "2"], 0, ""),
        (&["--max-dead", "1"], 1, "too-many-dead"),
        (&["--max-dead", "1", "--allow", "dead"], 1, "too-many-dead"),
    ] {
        let output =
            gate_in(folder.path(), &[args, &["m.safetensors", "--format", "json"]].concat()).exits(expected);
        let outcome = output.json();
        let rules: Vec<&str> = outcome["checkpoints"][0]["findings"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|f| f["rule"].as_str())
            .collect();
        assert!(if rule.is_empty() { rules.is_empty() } else { rules.contains(&rule) }, "{args:?} {rules:?}");
    }
}

#[test]
fn nan_is_refused_wherever_it_is_and_whatever_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let mut bad = values(8, 1e-3);
    bad[3] = f32::NAN;
    f32s(
        &folder.path().join("m.safetensors"),
        &[
            ("layers.0.mlp.up_proj.weight", &[8, 8], values(64, 0.3)),
            ("norm.weight", &[8], bad.clone()),
            ("optimizer.state.0.exp_avg", &[8], bad),
        ],
    );
    let output = gate_in(folder.path(), &["m.safetensors", "--allow", "dead", "--format", "json"]).exits(1);
    let outcome = output.json();
    assert_eq!(found(&outcome, "corrupt-tensor"), ["norm.weight"]);
    assert_eq!(found(&outcome, "corrupt-optimizer"), ["optimizer.state.0.exp_avg"]);
    let ignored = ["m.safetensors", "--ignore", "norm.weight", "--ignore", "optimizer.*"];
    gate_in(folder.path(), &ignored).exits(0);
}

#[test]
fn what_cannot_be_read_never_passes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("text.pt"), "not a checkpoint").unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let healthy = absolute(HEALTHY);
    let truncated = absolute("tests/fixtures/formats/truncated.pt");
    let flipped = absolute("tests/fixtures/formats/bitflip.pt");
    let collapsed = absolute(COLLAPSED);
    for bad in ["missing.pt", "text.pt", "empty", "none-*.pt", &truncated, &flipped] {
        for args in [&[bad, "--allow", "dead"][..], &[&healthy, bad], &[&collapsed, bad]] {
            let output = gate_in(folder.path(), &[args, &["--format", "json"]].concat()).exits(3);
            let outcome = output.json();
            assert_eq!(outcome["status"], "unreadable");
            let statuses =
                outcome["checkpoints"].as_array().unwrap().iter().map(|c| c["status"].as_str().unwrap());
            assert_eq!(statuses.filter(|s| *s == "unreadable").count(), 1);
        }
        let output = gate_in(folder.path(), &[&healthy, "--baseline", bad]).exits(3);
        assert!(output.out().contains("as the baseline"), "{}", output.out());
    }
    gate_in(folder.path(), &[&flipped, "--no-checksum"]).exits(0);
}

/// Files that are named like checkpoints but cannot be read must not be skipped silently when a folder is given.
#[test]
fn nothing_in_a_folder_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let good = run.join("step-2.pt");
    std::fs::copy(root().join("tests/fixtures/healthy-run/step-02000.pt"), &good).unwrap();
    let path = run.to_str().unwrap();
    gate_in(folder.path(), &[path]).exits(0);
    for (name, bytes, why) in [
        ("step-1.pt", &b""[..], "is empty"),
        ("step-3.pt", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("step-4.safetensors", &[0; 64], "only zero bytes"),
        ("model.safetensors.index.json", b"{\"weight_map\": {", "not a shard index"),
    ] {
        let spoilt = run.join(name);
        std::fs::write(&spoilt, bytes).unwrap();
        let output = gate_in(folder.path(), &[path]).exits(3);
        assert!(output.out().contains(why), "{name}: {}", output.out());
        std::fs::remove_file(spoilt).unwrap();
    }
    // `.*` is what begins with a dot in the folder, and not the folders that `.` and `..` are.
    std::fs::copy(root().join("tests/fixtures/healthy-run/step-02000.pt"), run.join(".kept.pt")).unwrap();
    std::fs::write(folder.path().join("spoilt.pt"), "").unwrap();
    let output = gate_in(folder.path(), &[&format!("{path}/.*"), "--format", "json"]).exits(0);
    assert_eq!(output.json()["checkpoints"].as_array().unwrap().len(), 1);
    let glob = format!("{path}/*.gguf");
    let output = gate_in(folder.path(), &[path, &glob]).exits(3);
    assert!(output.out().contains("passed") && output.out().contains("no file matches"));
}

/// A header that contradicts itself is damage, even if the rest of it is valid.
#[test]
fn a_safetensors_header_must_agree_with_itself() {
    let folder = tempfile::tempdir().unwrap();
    let q = r#""a.q_proj.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}"#;
    let check = |other: &str, status: i32, word: &str| {
        let header = format!("{{{q},{other}}}");
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, safetensors::raw(&header, &le(&[1.0f32, -2.0, 0.5, 1.5, 0.0, 0.0, 0.0, 0.0])))
            .unwrap();
        gate_in(folder.path(), &[text(&path)]).exits(status).says(&[word]);
    };
    check(r#""b":{"dtype":"F32","shape":[-4,4],"data_offsets":[16,32]}"#, 3, "is not a tensor");
    check(r#""b":{"dtype":"F32","shape":[4]}"#, 3, "is not a tensor");
    check(r#""b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}"#, 3, "overlap");
    check(&q.replace("[0,16]", "[16,32]"), 3, "twice");
    check(r#""b.k_proj.weight":{"dtype":"F4","shape":[4,8],"data_offsets":[16,32]}"#, 0, "not-measured");
}

#[test]
fn integers_are_not_judged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    SafeTensors::new()
        .tensor("model.mask.weight", "BOOL", &[4, 4], &[1; 16])
        .tensor("model.ids", "I64", &[1, 2], &[0; 16])
        .f32s("model.a.weight", &[2, 2], &[1.0, -2.0, 0.5, 1.5])
        .write(&path);
    gate_in(folder.path(), &[text(&path)]).exits(0).says(&["1 of 1 tensors healthy"]);
}

#[test]
fn a_baseline_refuses_what_got_worse() {
    let args = [COLLAPSED, "--allow", "weak", "--baseline", HEALTHY, "--format", "json"];
    let output = gate(&args).exits(1);
    let outcome = output.json();
    assert_eq!(outcome["baseline"], HEALTHY);
    assert_eq!(found(&outcome, "verdict-worse").len(), 6);
    assert!(found(&outcome, "std-shrunk").contains(&"layers.1.mlp.down_proj.weight".to_string()));
    assert_eq!(
        found(&outcome, "newly-dead"),
        ["layers.0.mlp.gate_proj.weight", "layers.1.self_attn.k_proj.weight"]
    );
    let relaxed = gate(&[&args[..], &["--max-shrink", "3", "--max-new-dead", "0.05"]].concat()).json();
    assert_eq!(found(&relaxed, "std-shrunk"), found(&relaxed, "verdict-worse"));
    assert_eq!(found(&relaxed, "newly-dead"), [""; 0]);

    // Growing is not a regression.
    gate(&[HEALTHY, "--baseline", COLLAPSED, "--max-new-dead", "1"]).exits(0);
    gate(&[COLLAPSED, "--allow", "weak", "--baseline", COLLAPSED]).exits(0);
    let many = gate(&[HEALTHY, "--baseline", "tests/fixtures/healthy-run"]);
    many.exits(2).complains(&["3 checkpoints"]);
}

#[test]
fn vanished_and_reshaped_weights_are_regressions() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.safetensors");
    let new = folder.path().join("new.safetensors");
    let matrix = || values(64, 0.3);
    f32s(
        &old,
        &[
            ("state_dict.a.weight", &[8, 8], matrix()),
            ("state_dict.b.weight", &[8, 8], matrix()),
            ("state_dict.c.weight", &[8, 8], matrix()),
        ],
    );
    f32s(&new, &[("a.weight", &[8, 8], matrix()), ("b.weight", &[4, 16], matrix())]);
    let args = ["new.safetensors", "--baseline", "old.safetensors", "--format", "json"];
    let outcome = gate_in(folder.path(), &args).json();
    assert_eq!(found(&outcome, "shape-changed"), ["b.weight"]);
    assert_eq!(found(&outcome, "tensor-vanished"), ["state_dict.c.weight"]);
    assert_eq!(outcome["status"], "refused");

    std::fs::write(folder.path().join("ckpt.toml"), "[gate.baseline]\nallow_missing = true\n").unwrap();
    let outcome = gate_in(folder.path(), &args).json();
    assert_eq!(found(&outcome, "tensor-vanished"), [""; 0]);

    std::fs::remove_file(folder.path().join("ckpt.toml")).unwrap();
    f32s(&new, &[("x.weight", &[8, 8], matrix())]);
    let outcome = gate_in(folder.path(), &args).json();
    assert_eq!(outcome["checkpoints"][0]["findings"].as_array().unwrap().len(), 1, "one finding says it all");
}

#[test]
fn the_policy_file_is_read_and_options_win_over_it() {
    let folder = tempfile::tempdir().unwrap();
    let collapsed = absolute(COLLAPSED);
    std::fs::write(folder.path().join("ckpt.toml"), "[gate]\nallow = \"weak\"\n").unwrap();
    let output = gate_in(folder.path(), &[&collapsed]);
    assert_eq!((output.code().unwrap(), output.err()), (0, "using the policy in ckpt.toml\n"));
    gate_in(folder.path(), &[&collapsed, "--allow", "healthy"]).exits(1);

    let other =
        "[[gate.tensors]]\npattern = '*.mlp.*_proj.weight'\nhealthy = 1e-5\nweak = 1e-6\ndying = 1e-7\n";
    std::fs::write(folder.path().join("other.toml"), other).unwrap();
    let output = gate_in(folder.path(), &[&collapsed, "--policy", "other.toml"]);
    assert_eq!((output.code().unwrap(), output.err()), (0, ""));

    let embedding = "[gate]\nallow = 'weak'\n[[gate.tensors]]\npattern = 'embed_tokens.weight'\nallow='healthy'\nhealthy=9\n";
    std::fs::write(folder.path().join("other.toml"), embedding).unwrap();
    let output = gate_in(folder.path(), &[&collapsed, "--policy", "other.toml", "--format", "json"]);
    assert_eq!(found(&output.json(), "unhealthy-tensor"), ["embed_tokens.weight"]);
}

#[test]
fn a_policy_that_cannot_be_used_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let healthy = absolute(HEALTHY);
    for (text, says) in [
        ("[gate]\nalow = 'weak'\n", ["line 2", "alow"]),
        ("[gate]\nmin_healthy = 2\n", ["line 2", "0 to 1"]),
        ("[gate]\nallow = \"corrupt\"\n", ["line 2", "never pass"]),
        ("[gate\n", ["line 1", "TOML"]),
    ] {
        std::fs::write(folder.path().join("ckpt.toml"), text).unwrap();
        let output = gate_in(folder.path(), &[&healthy]).exits(2);
        assert!(says.iter().all(|s| output.err().contains(s)), "{text}\n{}", output.err());
        assert!(output.out().is_empty());
    }
    std::fs::remove_file(folder.path().join("ckpt.toml")).unwrap();
    for args in [
        &["--min-healthy", "1.5"][..],
        &["--max-shrink", "0.5"],
        &["--max-shrink", "-1"],
        &["--ignore", "a["],
        &["--also", "junit"],
        &["--also", "pdf=x"],
        &["--also", "junit=x", "-o", "x"],
    ] {
        gate_in(folder.path(), &[args, &[&healthy]].concat()).exits(2);
    }
    let negative = gate_in(folder.path(), &["--max-shrink", "-1", &healthy]).exits(2);
    negative.complains(&["invalid value '-1' for '--max-shrink <FACTOR>'"]);
    for command in ["gate", "inspect", "report"] {
        let output = program().in_folder(folder.path()).run(&[command, &healthy, "--policy", "missing.toml"]);
        output.exits(2).complains(&["missing.toml"]);
    }
}

#[test]
fn reports_are_written_whole_and_not_over_others() {
    let folder = tempfile::tempdir().unwrap();
    let collapsed = absolute(COLLAPSED);
    let args =
        ["--format", "json", "-o", "gate.json", "--also", "junit=gate.xml", "--also", "human=gate.txt"];
    let output = gate_in(folder.path(), &[&args[..], &[&collapsed]].concat()).exits(1);
    assert_eq!((output.out(), output.err()), ("", "1 of 1 checkpoint refused\n"));
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let outcome: Value = serde_json::from_str(&read("gate.json")).unwrap();
    assert_eq!(outcome["status"], "refused");
    assert!(read("gate.xml").starts_with("<?xml"));
    assert!(
        read("gate.txt").contains("unhealthy-tensor  weak: std 4.1e-5")
            && !read("gate.txt").contains('\u{1b}')
    );

    std::fs::write(folder.path().join("gate.xml"), "mine").unwrap();
    let output = gate_in(folder.path(), &[&collapsed, "--also", "junit=gate.xml"]);
    assert_eq!((output.code().unwrap(), read("gate.xml").as_str()), (4, "mine"));
    gate_in(folder.path(), &[&collapsed, "--also", "junit=gate.xml", "--force"]).exits(1);
    assert!(read("gate.xml").starts_with("<?xml"));
    gate_in(folder.path(), &[&collapsed, "-o", "no/such/folder.txt"]).exits(4);
}

#[test]
fn layers_share_a_row() {
    let output = gate(&[COLLAPSED]).exits(1);
    let rows: Vec<&str> = output.out().lines().filter(|line| line.starts_with("  - ")).collect();
    assert_eq!(
        rows,
        ["gate", "up", "down"].map(|p| format!("  - layers.{{0..1}}.mlp.{p}_proj.weight  2 tensors"))
    );
    output.says(&["weak: std 4.1e-5; healthy begins at 1e-3 (the first; all from 2.0e-5 to 4.1e-5)"]);
    // Those of other verdicts have rows of their own.
    let folder = tempfile::tempdir().unwrap();
    let weak = |layer: u8| format!("layers.{layer}.fc.weight");
    let sizes = [2e-3, 2e-3, 1e-4];
    let names: Vec<String> = (0..3).map(weak).collect();
    let tensors: Vec<_> = (0..3).map(|i| (&names[i][..], &[8, 8][..], values(64, sizes[i]))).collect();
    f32s(&folder.path().join("m.safetensors"), &tensors);
    gate_in(folder.path(), &["m.safetensors"])
        .exits(1)
        .says(&["  - layers.{0..1}.fc.weight  2 tensors\n", "  - layers.2.fc.weight\n"]);
}

#[test]
fn quiet_is_silent_about_what_passes() {
    let folder = tempfile::tempdir().unwrap();
    let (healthy, collapsed) = (absolute(HEALTHY), absolute(COLLAPSED));
    std::fs::write(folder.path().join("ckpt.toml"), "[gate]\nallow = 'healthy'\n").unwrap();
    let output = gate_in(folder.path(), &[&healthy, "--quiet"]).exits(0);
    assert_eq!((output.out(), output.err()), ("", ""));
    let output = gate_in(folder.path(), &[&healthy, &collapsed, "-q"]).exits(1);
    assert!(output.out().starts_with("refused ") && !output.out().contains("passed"), "{output}");
    assert!(output.out().ends_with("1 of 2 checkpoints refused\n"));
    let output = gate_in(folder.path(), &[&healthy, "-q", "-o", "gate.json", "--format", "json"]).exits(0);
    assert_eq!((output.out(), output.err()), ("", ""));
    assert!(folder.path().join("gate.json").exists());
}

#[test]
fn a_pattern_that_matches_nothing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (healthy, collapsed) = (absolute(HEALTHY), absolute(COLLAPSED));
    let policy =
        "[gate]\nignore = ['norm.weight', 'head.*']\n[[gate.tensors]]\npattern = '*.fc.*'\nallow = 'weak'\n";
    std::fs::write(folder.path().join("p.toml"), policy).unwrap();
    let args = [&healthy, &collapsed, "--policy", "p.toml", "--ignore", "lm_hed.*", "--format", "json"];
    let output = gate_in(folder.path(), &args).exits(1);
    let told = ["`head.*` of ignore", "`lm_hed.*` of ignore", "`*.fc.*` of tensors"];
    let output = output.complains(&told);
    assert_eq!(output.err().lines().count(), 3, "{output}");
    let unmatched = output.json()["unmatched"].clone();
    assert_eq!(
        unmatched,
        json!([
            {"key": "ignore", "pattern": "head.*"}, {"key": "ignore", "pattern": "lm_hed.*"},
            {"key": "tensors", "pattern": "*.fc.*"},
        ])
    );
    // Of a checkpoint that cannot be read nothing is known.
    assert_eq!(gate_in(folder.path(), &["missing.pt", "--ignore", "a"]).exits(3).err(), "");
}
