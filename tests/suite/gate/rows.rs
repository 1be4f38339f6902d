//! Answers with something for each checkpoint: lines of JSON and tables, against the answer in JSON.

use std::collections::BTreeMap;

use super::*;

const RUN: &str = "tests/fixtures/collapse-run";
const DAMAGED: &str = "tests/fixtures/formats/bitflip.pt";

/// The rows of a table in CSV, each by its columns.
fn table(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = csv_lines(text).into_iter();
    let columns = lines.next().unwrap();
    let row = |line: Vec<String>| {
        assert_eq!(line.len(), columns.len());
        columns.iter().cloned().zip(line).collect()
    };
    lines.map(row).collect()
}

fn csv_lines(text: &str) -> Vec<Vec<String>> {
    let mut lines = vec![vec![String::new()]];
    let mut quoted = false;
    let mut rest = text.trim_end().chars().peekable();
    while let Some(c) = rest.next() {
        let line = lines.last_mut().unwrap();
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => line.last_mut().unwrap().extend(rest.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => line.push(String::new()),
            '\n' if !quoted => lines.push(vec![String::new()]),
            '\r' if !quoted => {}
            c => line.last_mut().unwrap().push(c),
        }
    }
    lines
}

/// Rules that found something, without repetition, as a cell has them.
fn rules<'f>(findings: impl Iterator<Item = &'f Value>) -> String {
    let mut rules: Vec<&str> = Vec::new();
    for finding in findings {
        let rule = finding["rule"].as_str().unwrap();
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules.join(", ")
}

#[test]
fn a_table_says_what_the_answer_in_json_says() {
    let asked = [RUN, HEALTHY, DAMAGED, "nowhere.pt"];
    let whole = gate(&[&asked[..], &["--format", "json"]].concat()).exits(3).json();
    let rows = table(gate(&[&asked[..], &["--format", "csv"]].concat()).exits(3).out());
    let mut seen = 0;
    for checked in whole["checkpoints"].as_array().unwrap() {
        let path = checked["path"].as_str().unwrap();
        let of_it: Vec<_> = rows.iter().filter(|row| row["path"] == path).collect();
        let findings = checked["findings"].as_array().unwrap();
        let own: Vec<_> = of_it.iter().filter(|row| row["row"] != "tensor").collect();
        assert_eq!(own.len(), 1, "{path}");
        assert_eq!(own[0]["row"], if path == "nowhere.pt" { "unreadable" } else { "checkpoint" });
        assert_eq!(own[0]["gate"], checked["status"].as_str().unwrap(), "{path}");
        let code = match checked["status"].as_str().unwrap() {
            "passed" => "0",
            "refused" => "1",
            _ => "3",
        };
        assert_eq!((own[0]["exit_code"].as_str(), own[0]["schema"].as_str()), (code, "2"));
        assert_eq!(own[0]["rules"], rules(findings.iter()));
        for row in of_it.iter().filter(|row| row["row"] == "tensor") {
            let about = || findings.iter().filter(|f| f["tensor"] == row["tensor"].as_str());
            let refused = about().any(|f| f["severity"] == "error");
            assert_eq!(row["gate"], if refused { "refused" } else { "passed" }, "{path} {}", row["tensor"]);
            assert_eq!((&row["rules"], row["exit_code"].as_str()), (&rules(about()), ""));
            let messages: Vec<&str> = about().map(|f| f["message"].as_str().unwrap()).collect();
            assert_eq!(row["found"], messages.join("; "));
            seen += usize::from(refused);
        }
    }
    assert!(seen > 20, "{seen}");
    let checkpoints = gate(&[&asked[..], &["--format", "csv", "--rows", "checkpoints"]].concat()).exits(3);
    assert_eq!(table(checkpoints.out()).len(), asked.len() - 1 + 9);
}

#[test]
fn a_line_is_the_record_with_the_answer() {
    let lines = gate(&[RUN, DAMAGED, "nowhere.pt", "--format", "ndjson"]).exits(3);
    let whole = gate(&[RUN, DAMAGED, "nowhere.pt", "--format", "json"]).exits(3).json();
    let inspected = program().in_folder(root()).run(&["inspect", RUN, "--format", "json"]).exits(0).json();
    let lines: Vec<Value> = lines.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 11);
    let of = |list: &Value, path: &Value| -> Option<Value> {
        list.as_array().unwrap().iter().find(|one| one["path"] == *path).cloned()
    };
    for mut line in lines {
        let gate = line.as_object_mut().unwrap().remove("gate").unwrap();
        assert_eq!(Some(&gate), of(&whole["checkpoints"], &line["path"]).as_ref());
        match of(&inspected, &line["path"]) {
            Some(record) => assert_eq!(line, record),
            None if line["path"] == "nowhere.pt" => {
                assert_eq!((&line["kind"], line.as_object().unwrap().len()), (&json!("io"), 4));
            }
            None => assert_eq!((&line["path"], &line["damaged"]), (&json!(DAMAGED), &json!(true))),
        }
    }
}

#[test]
fn known_findings_and_what_only_the_baseline_has_are_in_tables() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| gate_in(folder.path(), args);
    let model = |name: &str| folder.path().join(name);
    f32s(
        &model("then.safetensors"),
        &[("a.weight", &[8, 8], values(64, 0.3)), ("b.weight", &[8, 8], values(64, 0.3))],
    );
    f32s(&model("now.safetensors"), &[("a.weight", &[8, 8], values(64, 2e-3))]);
    let compared = ["now.safetensors", "--baseline", "then.safetensors"];
    let told = |text: &str| -> Vec<[String; 5]> {
        let cells = |row: &BTreeMap<String, String>| {
            ["row", "tensor", "gate", "rules", "accepted"].map(|name| row[name].clone())
        };
        table(text).iter().map(cells).collect()
    };
    let rows = told(run(&[&compared[..], &["--format", "csv"]].concat()).exits(1).out());
    let all = "unhealthy-tensor, std-shrunk, verdict-worse";
    assert_eq!(
        rows,
        [
            ["checkpoint", "", "refused", &format!("{all}, tensor-vanished"), ""],
            ["tensor", "a.weight", "refused", all, ""],
            ["missing", "b.weight", "refused", "tensor-vanished", ""],
        ]
    );
    // What is accepted at the end of a run is in its tables, and in those of the runs that begin with it.
    let written =
        run(&[&compared[..], &["--write-accepted", "known.json", "--format", "csv"]].concat()).exits(0);
    let rows = told(written.out());
    assert_eq!(
        rows,
        told(run(&[&compared[..], &["--accept", "known.json", "--format", "csv"]].concat()).exits(0).out())
    );
    assert_eq!(rows[0], ["checkpoint", "", "passed", "", &format!("{all}, tensor-vanished")]);
    assert_eq!(rows[2], ["missing", "b.weight", "passed", "", "tensor-vanished"]);
}

#[test]
fn verdicts_in_tables_are_those_of_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    f32s(&folder.path().join("m.safetensors"), &[("a.weight", &[8, 8], values(64, 2e-3))]);
    let policy = "[gate]\n[[gate.tensors]]\npattern = \"a.*\"\nhealthy = 1e-4\n";
    std::fs::write(folder.path().join("ckpt.toml"), policy).unwrap();
    let rows = table(gate_in(folder.path(), &["m.safetensors", "--format", "csv", "--quiet"]).exits(0).out());
    let verdicts: Vec<&str> = rows.iter().map(|row| row["verdict"].as_str()).collect();
    assert_eq!(verdicts, ["healthy", "healthy"]);
}

#[test]
fn tables_go_to_files_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let run = [absolute(RUN)];
    let run = run[0].as_str();
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    // By the name of the file, and besides what is printed.
    let ran = gate_in(folder.path(), &[run, "-o", "gate.csv", "--also", "ndjson=gate.ndjson"]).exits(1);
    assert!(ran.err().contains("4 of 9 checkpoints refused"), "{ran}");
    assert_eq!(names(), ["gate.csv", "gate.ndjson"]);
    let csv = std::fs::read_to_string(folder.path().join("gate.csv")).unwrap();
    assert_eq!(
        table(&csv).iter().filter(|row| row["gate"] == "refused" && row["row"] == "checkpoint").count(),
        4
    );
    gate_in(folder.path(), &[run, "-o", "gate.csv"]).exits(4).complains(&["already exists"]);
    gate_in(folder.path(), &[run, "-o", "gate.csv", "--force", "--rows", "checkpoints"]).exits(1);
    let csv = std::fs::read_to_string(folder.path().join("gate.csv")).unwrap();
    assert_eq!(table(&csv).len(), 9);
    // A report is made of the answers as it is of records.
    let report = |paths: &str| {
        program().in_folder(folder.path()).run(&["report", paths, "--format", "json"]).exits(0).json()
    };
    assert_eq!(report("gate.ndjson")["runs"], report(run)["runs"]);
    #[cfg(feature = "parquet")]
    {
        gate_in(folder.path(), &[run, "-q", "--also", "parquet=gate.parquet"]).exits(1);
        assert_eq!(report("gate.parquet")["runs"], report(run)["runs"]);
    }
    // Nothing is left of what was not decided.
    let left = names();
    gate_in(folder.path(), &[run, "-o", "no.csv", "--policy", "nowhere.toml"]).exits(2);
    assert_eq!(names(), left);
}
