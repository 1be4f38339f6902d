//! Tables of checkpoints and tensors: what is in them, runs that are killed and go on, and reports of them alone.

use std::collections::BTreeSet;
use std::path::Path;
#[cfg(unix)]
use std::time::{Duration, Instant};

use ckpt_kit::binary::{Program, text};
use ckpt_kit::peers;
use serde_json::Value;

use crate::program;
use crate::zoo::zoo;

const RUN: &str = "tests/fixtures/collapse-run";

/// The records in a file of lines of JSON.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn paths(records: &[Value]) -> BTreeSet<String> {
    records.iter().map(|record| record["path"].as_str().unwrap().to_string()).collect()
}

/// Files of which one is no checkpoint.
fn with_junk(program: &Program, count: usize) -> (Vec<String>, String) {
    let folder = zoo(program, count);
    std::fs::write(folder.join("junk.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7fjunk").unwrap();
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_string())
        .collect();
    files.sort();
    let list = files.join("\n") + "\n";
    (files, list)
}

#[test]
fn every_checkpoint_and_every_tensor_has_a_row() {
    let program = program();
    let [csv, records] = ["all.csv", "all.ndjson"].map(|name| program.at(name));
    let folder = zoo(&program, 5);
    std::fs::write(folder.join("junk.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7fjunk").unwrap();
    let inspect = |output: &Path, more: &[&str]| {
        let asked = [&["inspect", RUN, text(&folder), "-o", text(output)], more].concat();
        program.run(&asked).exits(3);
    };
    inspect(&records, &[]);
    let records = lines(&records);
    let tensors: usize = records.iter().filter_map(|r| Some(r["tensors"].as_array()?.len())).sum();
    for (rows, count) in
        [("all", records.len() + tensors), ("checkpoints", records.len()), ("tensors", tensors + 1)]
    {
        inspect(&csv, &["--rows", rows, "--force"]);
        let lines = std::fs::read_to_string(&csv).unwrap().lines().count();
        assert_eq!(lines, count + 1, "{rows}: a heading and the rows, of which one is what cannot be read");
    }
    let junk = records.iter().find(|r| r["path"].as_str().unwrap().ends_with("junk.safetensors")).unwrap();
    assert_eq!((junk["kind"].as_str(), junk["error"].is_string()), (Some("unrecognised"), true), "{junk}");
}

#[test]
#[cfg(feature = "parquet")]
fn other_readers_of_parquet_see_what_is_in_the_records() {
    let Some(python) = peers::python(&["pyarrow"]) else { return };
    let program = program();
    let [parquet, records] = ["run.parquet", "run.ndjson"].map(|name| program.at(name));
    for output in [&parquet, &records] {
        program.run(&["inspect", RUN, "tests/fixtures/formats", "-o", text(output)]).exits(3);
    }
    python.script(".", "tables.py", &[&parquet, &records]);
}

#[test]
fn parts_of_a_list_are_all_of_it_and_nothing_twice() {
    let program = program();
    let (files, list) = with_junk(&program, 23);
    let mut all = Vec::new();
    for number in 1..=4 {
        let part = program.at(format!("part-{number}.ndjson"));
        let asked = ["inspect", "--from-list", "-", "--shard", &format!("{number}/4"), "-o", text(&part)];
        let ran = program.run_with_input(&asked, list.as_bytes());
        assert!(ran.code() == Some(0) || ran.code() == Some(3), "{ran:?}");
        let part = lines(&part);
        assert!(!part.is_empty());
        all.extend(part);
    }
    assert_eq!(all.len(), files.len());
    assert_eq!(paths(&all), files.into_iter().collect());
    for wrong in ["0/4", "5/4", "1", "a/b", "1/0"] {
        program.run(&["inspect", RUN, "--shard", wrong]).exits(2);
    }
}

#[test]
#[cfg(unix)]
fn what_a_killed_run_measured_is_not_measured_again() {
    let program = program();
    let (files, list) = with_junk(&program, 400);
    let list = program.file("list.txt", list);
    let output = program.at("fleet.ndjson");
    let asked = ["inspect", "--no-cache", "--from-list", text(&list), "-o", text(&output)];
    let journal = program.at("fleet.ndjson.partial");
    let running = program.start(&asked);
    let start = Instant::now();
    while std::fs::metadata(&journal).map_or(0, |m| m.len()) < 20_000 {
        assert!(start.elapsed() < Duration::from_secs(60), "it never writes its journal");
        std::thread::sleep(Duration::from_millis(1));
    }
    running.signal("KILL");
    running.end();
    assert!(!output.exists(), "the file is made at the end");
    // As if the last line had been cut.
    let mut torn = std::fs::read(&journal).unwrap();
    torn.truncate(torn.len() - 10);
    let kept = &torn[..torn.iter().rposition(|byte| *byte == b'\n').unwrap()];
    let read = |line: &&str| !line.contains("junk.safetensors");
    let whole = std::str::from_utf8(kept).unwrap().lines().filter(read).count();
    assert!(whole > 0 && whole < files.len() - 1, "{whole}");
    std::fs::write(&journal, &torn).unwrap();
    let refused = program.run(&asked).exits(2);
    assert!(refused.err().contains("--resume"), "{}", refused.err());
    let resumed = program.run(&[&asked[..], &["--resume"]].concat()).exits(3);
    assert!(resumed.err().contains(&format!("{whole} of them earlier")), "{}", resumed.err());
    assert!(!journal.exists());
    let records = lines(&output);
    assert_eq!(records.len(), files.len());
    assert_eq!(paths(&records), files.iter().cloned().collect());
    // A whole one has nothing left to do, and a longer list adds what is new.
    let before = std::fs::metadata(&output).unwrap().modified().unwrap();
    program.run(&[&asked[..], &["--resume"]].concat()).exits(3);
    assert_eq!(std::fs::metadata(&output).unwrap().modified().unwrap(), before);
    program.run(&[&asked[..], &["--resume", RUN]].concat()).exits(3);
    assert_eq!(lines(&output).len(), files.len() + 9);
    // A run that was killed while it copied the output into its journal loses none of it.
    let first = std::fs::read_to_string(&output).unwrap().lines().next().unwrap().to_string() + "\n";
    std::fs::write(&journal, first).unwrap();
    program.run(&["inspect", RUN, "-o", text(&output), "--resume"]).exits(3);
    assert_eq!(lines(&output).len(), files.len() + 9);
}

#[test]
fn a_finished_file_without_whole_records_is_not_resumed() {
    let program = program();
    let asked = |output: &str, rows: &str| {
        let output = text(&program.at(output)).to_string();
        ["inspect", RUN, "-o", &output, "--rows", rows].map(str::to_string)
    };
    let parquet = cfg!(feature = "parquet").then_some(["t.parquet", "tensors"]);
    for [name, rows] in [["t.csv", "tensors"], ["c.csv", "checkpoints"]].into_iter().chain(parquet) {
        let asked = asked(name, rows);
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        program.run(&asked).exits(0);
        let before = std::fs::read(program.at(name)).unwrap();
        let refused = program.run(&[&asked[..], &["--resume"]].concat()).exits(2);
        assert!(refused.err().contains("only be resumed if it has whole records"), "{}", refused.err());
        assert_eq!(std::fs::read(program.at(name)).unwrap(), before);
        assert!(!program.at(format!("{name}.partial")).exists());
    }
    #[cfg(feature = "parquet")]
    {
        let refused = program.run(&["report", text(&program.at("t.parquet"))]).exits(3);
        assert!(refused.err().contains("rows of tensors alone"), "{}", refused.err());
    }
}

#[test]
fn a_list_may_begin_with_a_byte_order_mark() {
    let program = program();
    let list = program.file("list.txt", format!("\u{feff}{RUN}/step-02000.pt\r\n"));
    program.run(&["inspect", "--from-list", text(&list), "--format", "ndjson"]).exits(0);
}

#[test]
fn a_report_of_records_is_that_of_the_files() {
    let program = program();
    let zoo = zoo(&program, 12);
    let report = |paths: &[&str]| {
        let asked = [&["report", "--format", "json"], paths].concat();
        program.run(&asked).exits(0).json()
    };
    let whole = report(&[text(&zoo)]);
    let records: &[&str] = if cfg!(feature = "parquet") { &["a.ndjson", "a.parquet"] } else { &["a.ndjson"] };
    for name in records {
        let output = program.at(name);
        program.run(&["inspect", text(&zoo), "-o", text(&output)]).exits(0);
        assert_eq!(report(&[text(&output)]), whole, "{name}");
        // Twice the same is once.
        assert_eq!(report(&[text(&output), text(&output)]), whole, "{name}");
    }
    let listed = program.file("list.json", program.run(&["inspect", text(&zoo), "--format", "json"]).out());
    assert_eq!(report(&[text(&listed)]), whole);
    // What is recorded and there is once in it.
    assert_eq!(report(&[text(&listed), text(&zoo)]), whole);
    // The weights are not needed.
    std::fs::remove_dir_all(&zoo).unwrap();
    assert_eq!(report(&[text(&listed)]), whole);
    let junk = program.file("junk.ndjson", "{\"no\": \"record\"}\n");
    let refused = program.run(&["report", text(&junk)]).exits(3);
    assert!(refused.err().contains("line 1 is not a record"), "{}", refused.err());
    let table = program.file("t.csv", "row,path\ncheckpoint,a.pt\n");
    let refused = program.run(&["report", text(&table)]).exits(3);
    assert!(refused.err().contains("records are written by"), "{}", refused.err());
    // A journal that something else was written to.
    program.file("b.ndjson.partial", "no record\n");
    let refused =
        program.run(&["inspect", text(&listed), "-o", text(&program.at("b.ndjson")), "--resume"]).exits(4);
    assert!(refused.err().contains("--force instead of --resume starts over"), "{}", refused.err());
}
