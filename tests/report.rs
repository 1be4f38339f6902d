//! `ckpt report` through the real binary: what the page and the machine formats say of the fixture runs.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const COLLAPSE: &str = "tests/fixtures/collapse-run";
const HEALTHY: &str = "tests/fixtures/healthy-run";

fn ckpt(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ckpt"))
        .args(arguments)
        .env("XDG_CACHE_HOME", folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

fn report(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = ckpt(folder.path(), &[&["report"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&report(&[arguments, &["--format", "json"]].concat())).unwrap()
}

#[test]
fn says_which_layers_collapsed_when_and_how_fast() {
    let report = json(&[COLLAPSE]);
    let run = &report["runs"][0];
    assert_eq!(run["title"], "Collapsing");
    assert_eq!(run["verdict"], "weak");
    let steps: Vec<u64> =
        run["checkpoints"].as_array().unwrap().iter().map(|c| c["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 500, 1000, 1500, 2000, 2500, 3000, 3500, 4000]);
    let layers = run["layers"].as_array().unwrap();
    let mut fallen = 0;
    for layer in layers {
        let name = layer["name"].as_str().unwrap();
        let first = layer["first_below"].as_array().unwrap();
        if name.contains(".mlp.") {
            assert_eq!(first.len(), 1, "{name} is below healthy and no further down");
            assert_eq!(first[0]["verdict"], "weak");
            assert_eq!((&first[0]["step"], &first[0]["after"]), (&2500.into(), &2000.into()), "{name}");
            // The corpus: 2.0e-3 a step from step 1500 on.
            let rate = layer["decline"]["rate"].as_f64().unwrap();
            assert!((1.95e-3..2.1e-3).contains(&rate), "{name}: {rate}");
            assert!(layer["decline"]["from"].as_u64().unwrap() <= 1500);
            fallen += 1;
        } else {
            assert!(first.is_empty(), "{name}");
        }
    }
    assert_eq!(fallen, 6);
    let gate = layers.iter().find(|l| l["name"] == "layers.0.mlp.gate_proj.weight").unwrap();
    let std: Vec<f64> = gate["std"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert!((std[0] / 7.3e-2 - 1.0).abs() < 0.05 && (std[8] / 4.1e-5 - 1.0).abs() < 0.05, "{std:?}");
    let words = run["sentences"].to_string();
    assert!(
        words.contains("The last healthy checkpoint is tests/fixtures/collapse-run/step-02000.pt"),
        "{words}"
    );
}

#[test]
fn a_healthy_run_is_told_apart_by_its_folder() {
    let report = json(&[COLLAPSE, HEALTHY]);
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!((&runs[1]["name"], &runs[1]["title"]), (&HEALTHY.into(), &"Healthy".into()));
    assert_eq!(runs[1]["sentences"][0], "All 15 matrices are healthy at step 2000.");
}

#[test]
fn the_page_needs_nothing_else() {
    let page = report(&[COLLAPSE]);
    assert!(page.contains("default-src 'none'"));
    for outside in ["http://", "https://", "src=", "@import", "url(", " style="] {
        let found = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(outside), "{outside}");
    }
    assert!(page.contains("<svg class=\"chart\""));
    assert!(page.contains("layers.1.mlp.gate_proj.weight, step 4000: std 2.0e-5"));
}

#[test]
fn csv_has_a_line_per_tensor_of_each_checkpoint() {
    let text = report(&[COLLAPSE, "--format", "csv"]);
    let mut lines = text.lines();
    let heading: Vec<&str> = lines.next().unwrap().split(',').collect();
    let column = |name: &str| heading.iter().position(|h| *h == name).unwrap();
    let gate: Vec<Vec<&str>> = lines
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|cells| cells[column("tensor")] == "model_state_dict.layers.0.mlp.gate_proj.weight")
        .collect();
    assert_eq!(gate.len(), 9);
    let last = &gate[8];
    assert_eq!(
        (last[column("step")], last[column("verdict")], last[column("shape")]),
        ("4000", "weak", "128x64")
    );
    let shares: f64 = ["neg", "zero", "pos"].iter().map(|s| last[column(s)].parse::<f64>().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-12);
}

#[test]
fn markdown_for_a_pull_request() {
    let text = report(&[COLLAPSE, "--format", "md"]);
    assert!(text.contains("## `tests/fixtures/collapse-run`: Collapsing"));
    assert!(
        text.contains("| `layers.1.mlp.gate_proj.weight` | 2.0e-5 | 🟡 weak | step 2500 | 344 steps |"),
        "{text}"
    );
}

#[test]
fn damaged_and_unreadable_files_are_told_and_cost_exit_code_3() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let garbage = folder.path().join("garbage.pt");
    std::fs::write(&garbage, b"not a checkpoint").unwrap();
    let output = ckpt(
        folder.path(),
        &[
            "report",
            "tests/fixtures/formats/truncated.pt",
            garbage.to_str().unwrap(),
            "-o",
            page.to_str().unwrap(),
        ],
    );
    assert_eq!(output.status.code(), Some(3));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("1 checkpoint could not be read"));
    assert!(html.contains("is not a PyTorch, NumPy, SafeTensors or GGUF file"));
    assert!(html.contains("(damaged)"));
}

#[test]
fn an_existing_page_needs_force() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    std::fs::write(&page, "mine").unwrap();
    let arguments = ["report", HEALTHY, "-o", page.to_str().unwrap()];
    let refused = ckpt(folder.path(), &arguments);
    assert_eq!(refused.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("exists; --force replaces it"));
    assert_eq!(std::fs::read_to_string(&page).unwrap(), "mine");
    let replaced = ckpt(folder.path(), &[&arguments[..], &["--force"]].concat());
    assert_eq!(replaced.status.code(), Some(0));
    assert!(std::fs::read_to_string(&page).unwrap().starts_with("<!DOCTYPE html>"));
    #[cfg(unix)]
    {
        let link = folder.path().join("link.html");
        use std::os::unix::fs::{PermissionsExt, symlink};
        symlink(&page, &link).unwrap();
        std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&page, "old").unwrap();
        let arguments = ["report", HEALTHY, "-o", link.to_str().unwrap(), "--force"];
        assert_eq!(ckpt(folder.path(), &arguments).status.code(), Some(0));
        assert!(link.is_symlink(), "a link is followed");
        assert!(std::fs::read_to_string(&page).unwrap().starts_with("<!DOCTYPE html>"));
        assert_eq!(std::fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600);
        let pipe = ckpt(folder.path(), &["report", HEALTHY, "-o", "/dev/stdout", "--format", "html"]);
        assert_eq!(pipe.status.code(), Some(0), "{}", String::from_utf8_lossy(&pipe.stderr));
        assert!(pipe.stdout.starts_with(b"<!DOCTYPE html>"), "a pipe is written to");
    }
    let unwritable = ckpt(folder.path(), &["report", HEALTHY, "-o", "/no/such/folder/report.html"]);
    assert_eq!(unwritable.status.code(), Some(4));
}

/// A second report over unchanged files opens none of them: here they are no longer checkpoints, and only their sizes
/// and times are what they were.
#[test]
fn a_second_report_reads_no_weights() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    for step in ["step-00000.pt", "step-02000.pt"] {
        std::fs::copy(Path::new(HEALTHY).join(step), run.join(step)).unwrap();
    }
    let arguments = ["report", run.to_str().unwrap(), "--format", "json"];
    let first = ckpt(folder.path(), &arguments);
    for entry in std::fs::read_dir(&run).unwrap() {
        let path = entry.unwrap().path();
        let metadata = std::fs::metadata(&path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        // The beginning is what a folder's checkpoints are recognised by.
        bytes[64..].fill(0);
        std::fs::write(&path, bytes).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(metadata.modified().unwrap()).unwrap();
    }
    let second = ckpt(folder.path(), &arguments);
    assert!(first.stdout == second.stdout, "the cached records are not what was measured");
    assert_eq!(second.status.code(), Some(0));
    let measured = ckpt(folder.path(), &[&arguments[..], &["--no-cache"]].concat());
    assert_eq!(measured.status.code(), Some(3));
}
