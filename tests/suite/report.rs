//! `ckpt report` through the real binary: what the page and the machine formats say of the fixture runs.

use std::path::Path;

use ckpt_kit::binary::text;
use ckpt_kit::fixtures::root;
use serde_json::Value;

use crate::program;

const COLLAPSE: &str = "tests/fixtures/collapse-run";
const HEALTHY: &str = "tests/fixtures/healthy-run";

fn report(arguments: &[&str]) -> String {
    program().run(&[&["report"], arguments].concat()).exits(0).out().to_string()
}

fn json(arguments: &[&str]) -> Value {
    program().run(&[&["report"], arguments, &["--format", "json"]].concat()).exits(0).json()
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
            // The recorded run: 2.0e-3 per step from step 1500 on.
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

/// A `best.pt` and a `last.ckpt` are of steps that other files are of, and cost neither the axis nor the cause.
#[test]
fn what_shares_a_step_is_marked_and_stays_out_of_the_series() {
    let program = program().in_its_folder();
    let run = program.at("run");
    std::fs::create_dir(&run).unwrap();
    for entry in std::fs::read_dir(root().join(COLLAPSE)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, run.join(path.file_name().unwrap())).unwrap();
    }
    for (copy, of) in [("best.pt", "step-01000.pt"), ("last.ckpt", "step-04000.pt")] {
        std::fs::copy(run.join(of), run.join(copy)).unwrap();
    }
    let report = program.run(&["report", "run", "--format", "json"]).exits(0).json();
    let found = &report["runs"][0];
    assert_eq!(found["checkpoints"].as_array().unwrap().len(), 9);
    let aside: Vec<(&str, &str)> = found["aside"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["path"].as_str().unwrap(), a["same_step_as"].as_str().unwrap()))
        .collect();
    assert_eq!(aside, [("run/best.pt", "run/step-01000.pt"), ("run/last.ckpt", "run/step-04000.pt")]);
    let causes = found["causes"].as_array().unwrap();
    assert!(causes.len() == 6 && causes.iter().all(|c| c["cause"] == "weight-decay"), "{causes:?}");
    assert!(causes.iter().all(|c| c["direction"]["median"].as_f64().unwrap() > 0.99));
    for format in ["md", "html"] {
        let shown = program.run(&["report", "run", "--format", format]).exits(0);
        assert!(shown.out().contains("(not in the series)") && shown.out().contains("best.pt"), "{format}");
    }
    program.run(&["report", "run", "--explain"]).says(&["Weight decay"]);
}

#[test]
fn a_healthy_run_is_distinguished_by_its_folder() {
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
fn markdown_is_fit_for_a_pull_request() {
    let text = report(&[COLLAPSE, "--format", "md"]);
    assert!(text.contains("## `tests/fixtures/collapse-run`: Collapsing"));
    assert!(
        text.contains("| `layers.1.mlp.gate_proj.weight` | 2.0e-5 | 🟡 weak | step 2500 | 344 steps |"),
        "{text}"
    );
}

#[test]
fn damaged_and_unreadable_files_are_reported_with_exit_code_3() {
    let program = program();
    let page = program.at("report.html");
    let garbage = program.at("garbage.pt");
    std::fs::write(&garbage, b"not a checkpoint").unwrap();
    program
        .run(&["report", "tests/fixtures/formats/truncated.pt", text(&garbage), "-o", text(&page)])
        .exits(3);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("1 checkpoint could not be read"));
    assert!(html.contains("is not a PyTorch, NumPy, SafeTensors or GGUF file"));
    assert!(html.contains("(damaged)"));
}

#[test]
fn an_existing_page_needs_force() {
    let program = program();
    let page = program.at("report.html");
    std::fs::write(&page, "mine").unwrap();
    let arguments = ["report", HEALTHY, "-o", text(&page)];
    let refused = program.run(&arguments).exits(4);
    assert!(refused.err().contains("exists; --force replaces it"));
    assert_eq!(std::fs::read_to_string(&page).unwrap(), "mine");
    program.run(&[&arguments[..], &["--force"]].concat()).exits(0);
    assert!(std::fs::read_to_string(&page).unwrap().starts_with("<!DOCTYPE html>"));
    #[cfg(unix)]
    {
        let link = program.at("link.html");
        use std::os::unix::fs::{PermissionsExt, symlink};
        symlink(&page, &link).unwrap();
        std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&page, "old").unwrap();
        let arguments = ["report", HEALTHY, "-o", text(&link), "--force"];
        program.run(&arguments).exits(0);
        assert!(link.is_symlink(), "a link is followed");
        assert!(std::fs::read_to_string(&page).unwrap().starts_with("<!DOCTYPE html>"));
        assert_eq!(std::fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600);
        let pipe = program.run(&["report", HEALTHY, "-o", "/dev/stdout", "--format", "html"]).exits(0);
        assert!(pipe.out().starts_with("<!DOCTYPE html>"), "a pipe is written to");
    }
    program.run(&["report", HEALTHY, "-o", "/no/such/folder/report.html"]).exits(4);
}

/// A second report over unchanged files measures none of them: it shows what the kept records say.
#[test]
fn a_second_report_reads_no_weights() {
    let program = program();
    let run = program.at("run");
    std::fs::create_dir(&run).unwrap();
    for step in ["step-00000.pt", "step-02000.pt"] {
        std::fs::copy(Path::new(HEALTHY).join(step), run.join(step)).unwrap();
    }
    let arguments = ["report", text(&run), "--format", "json"];
    let first = program.run(&arguments).exits(0);
    assert!(first.out() == program.run(&arguments).exits(0).out(), "the records are what was measured");
    let mut marked = 0;
    for entry in std::fs::read_dir(program.cache().join("ckpt/records")).unwrap() {
        let path = entry.unwrap().path();
        let mut kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if kept["record"]["step"] == 2000 {
            kept["record"]["step"] = 2345.into();
            std::fs::write(&path, kept.to_string()).unwrap();
            marked += 1;
        }
    }
    assert_eq!(marked, 1);
    let second = program.run(&arguments).exits(0);
    assert_eq!(second.json()["runs"][0]["checkpoints"][1]["step"], 2345);
    let measured = program.run(&[&arguments[..], &["--no-cache"]].concat()).exits(0);
    assert!(measured.out() == first.out());
}
