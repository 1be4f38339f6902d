//! Very many checkpoints, shared by jobs of a Slurm array as docs/fleet.md shows: killed, started again, put together.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_kit::binary::{Program, Ran, text};
use ckpt_kit::fixtures::root;
use ckpt_kit::peers;
use serde_json::Value;

use crate::program;
use crate::zoo::zoo;

const JOBS: usize = 5;

/// The script of docs/fleet.md, in a file.
fn script(program: &Program) -> PathBuf {
    let page = std::fs::read_to_string(root().join("docs/fleet.md")).unwrap();
    let (_, from) = page.split_once("```bash\n").unwrap();
    program.file("job.sh", from.split_once("```").unwrap().0)
}

/// A job of the array, which `script` is, in the program's folder.
fn job(program: &Program, script: &Path, number: usize) -> Command {
    let bin = program.at("bin");
    if !bin.exists() {
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(program.path(), bin.join("ckpt")).unwrap();
    }
    let mut command = Command::new("bash");
    program.surround(command.arg(script));
    command
        .current_dir(program.folder())
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
        .env("SLURM_ARRAY_TASK_ID", number.to_string())
        .env("SLURM_ARRAY_TASK_COUNT", JOBS.to_string());
    command
}

/// The checkpoints in a report of records.
fn reported(program: &Program, parts: &[String]) -> (Vec<String>, Vec<String>) {
    let asked: Vec<&str> =
        ["report", "--format", "json"].into_iter().chain(parts.iter().map(String::as_str)).collect();
    let report = program.run(&asked).json();
    let paths = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|c| c["path"].as_str().unwrap().to_string()).collect()
    };
    let runs = report["runs"].as_array().unwrap();
    let read = runs.iter().flat_map(|run| [paths(&run["checkpoints"]), paths(&run["aside"])].concat());
    (read.collect(), paths(&report["unreadable"]))
}

#[test]
#[cfg(feature = "parquet")]
fn a_slurm_array_loses_nothing_when_jobs_are_killed() {
    let program = program().in_its_folder();
    let folder = zoo(&program, 600);
    std::fs::write(folder.join("junk.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\x7fjunk").unwrap();
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_string())
        .collect();
    files.sort();
    let late = folder.join("late.safetensors");
    files.push(text(&late).to_string());
    program.file("checkpoints.txt", files.join("\n"));
    let script = script(&program);
    let part = |number: usize| format!("part-{number}.parquet");

    // The third one is killed in the middle.
    let mut third = job(&program, &script, 3);
    let mut running = third.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let journal = program.at(part(3) + ".partial");
    let start = Instant::now();
    while std::fs::metadata(&journal).map_or(0, |m| m.len()) < 20_000 {
        assert!(start.elapsed() < Duration::from_secs(60), "it never writes its journal");
        std::thread::sleep(Duration::from_millis(1));
    }
    // The shell and the program that it waits for.
    let killed = Command::new("pkill").args(["-KILL", "-P", &running.id().to_string()]).status().unwrap();
    assert!(killed.success());
    running.wait().unwrap();
    assert!(!program.at(part(3)).exists());
    let measured = std::fs::read_to_string(&journal).unwrap().lines().count();
    assert!((1..120).contains(&measured), "{measured}");
    for number in 1..=JOBS {
        let ran = Ran::of(&mut job(&program, &script, number));
        assert!(ran.code() == Some(0) || ran.code() == Some(3), "{ran}");
        if number == 3 {
            assert!(ran.err().contains("of them earlier"), "{ran}");
        }
    }
    let parts: Vec<String> = (1..=JOBS).map(part).collect();
    let (read, unreadable) = reported(&program, &parts);
    assert_eq!((read.len(), unreadable.len()), (600, 2));
    let all: BTreeSet<String> = read.into_iter().chain(unreadable).collect();
    assert_eq!(all, files.iter().cloned().collect());

    // What was away is there now, and each job starts again.
    std::fs::copy(&files[1], &late).unwrap();
    let whole = |number: usize| std::fs::metadata(program.at(part(number))).unwrap().modified().unwrap();
    let before: Vec<_> = (1..=JOBS).map(whole).collect();
    for number in 1..=JOBS {
        Ran::of(&mut job(&program, &script, number));
    }
    let changed = (1..=JOBS).filter(|&number| whole(number) != before[number - 1]).count();
    assert_eq!(changed, 1, "only the part that it is in is written again");
    let (read, unreadable) = reported(&program, &parts);
    assert_eq!((read.len(), unreadable.len()), (601, 1));
    if let Some(python) = peers::python(&["pyarrow"]) {
        let arguments: Vec<PathBuf> = parts.iter().map(|part| program.at(part)).collect();
        let counted = python.script(".", "parts.py", &arguments);
        assert_eq!(counted.trim(), "602 checkpoints, each once");
    }
}

#[test]
fn what_could_not_be_read_is_tried_again_and_is_there_once() {
    let program = program().in_its_folder();
    let folder = zoo(&program, 4);
    let models: Vec<PathBuf> = (0..4).map(|i| folder.join(format!("model-{i:03}.safetensors"))).collect();
    let whole = std::fs::read(&models[1]).unwrap();
    // Not yet there, being copied, and a folder that will be.
    std::fs::rename(&models[0], program.at("away")).unwrap();
    std::fs::write(&models[1], &whole[..whole.len() - 100]).unwrap();
    let later = program.at("later");
    let list = [&models[0], &models[1], &models[2], &later].map(|path| text(path).to_string());
    program.file("list.txt", list.join("\n"));
    let asked = ["inspect", "--from-list", "list.txt", "-o", "all.ndjson", "--resume"];
    let records = |program: &Program| -> Vec<Value> {
        let lines = std::fs::read_to_string(program.at("all.ndjson")).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let told = |records: &[Value]| -> BTreeSet<(String, bool)> {
        let fine = |r: &Value| r["damaged"] == false;
        let told: BTreeSet<_> =
            records.iter().map(|r| (r["path"].as_str().unwrap().to_string(), fine(r))).collect();
        assert_eq!(told.len(), records.len(), "each once");
        told
    };
    let all = |fine: [bool; 4]| list.iter().cloned().zip(fine).collect::<BTreeSet<_>>();
    program.run(&asked).exits(3);
    assert_eq!(told(&records(&program)), all([false, false, true, false]));
    // As long as nothing has changed, nothing is written.
    let modified = || std::fs::metadata(program.at("all.ndjson")).unwrap().modified().unwrap();
    let before = modified();
    program.run(&asked).exits(3);
    assert_eq!(modified(), before);
    // One after the other is there. The process may have been killed before it made the output of them.
    std::fs::rename(program.at("away"), &models[0]).unwrap();
    program.run(&asked).exits(3);
    assert_eq!(told(&records(&program)), all([true, false, true, false]));
    std::fs::rename(program.at("all.ndjson"), program.at("all.ndjson.partial")).unwrap();
    std::fs::write(&models[1], &whole).unwrap();
    program.run(&asked).exits(3).complains(&["wrote all.ndjson with 4 checkpoints, 2 of them earlier"]);
    assert_eq!(told(&records(&program)), all([true, true, true, false]));
    // What was nothing is a folder of checkpoints, which stand for themselves.
    std::fs::create_dir(&later).unwrap();
    for name in ["a.safetensors", "b.safetensors"] {
        std::fs::copy(&models[3], later.join(name)).unwrap();
    }
    program.run(&asked).exits(0);
    let told = told(&records(&program));
    assert_eq!(told.len(), 5);
    assert!(told.contains(&(text(&later.join("b.safetensors")).to_string(), true)));
}

#[test]
fn a_checkpoint_stays_in_its_part_whatever_becomes_of_the_others() {
    let program = program().in_its_folder();
    let folder = zoo(&program, 40);
    let parts = |program: &Program, list: &[String]| -> Vec<BTreeSet<String>> {
        program.file("list.txt", list.join("\n"));
        let part = |number| {
            let shard = format!("{number}/3");
            let ran = program.run(&[
                "inspect",
                "--from-list",
                "list.txt",
                "--shard",
                &shard,
                "--no-stats",
                "--format",
                "ndjson",
            ]);
            let path = |line: &str| {
                serde_json::from_str::<Value>(line).unwrap()["path"].as_str().unwrap().to_string()
            };
            ran.out().lines().map(path).collect()
        };
        (1..=3).map(part).collect()
    };
    let file = |i: usize| text(&folder.join(format!("model-{i:03}.safetensors"))).to_string();
    let files: Vec<String> = (0..40).map(file).collect();
    let before = parts(&program, &files);
    assert!(before.iter().all(|part| part.len() > 5), "{before:?}");
    std::fs::remove_file(&files[3]).unwrap();
    assert_eq!(parts(&program, &files), before, "one is away");
    let fewer = parts(&program, &files[7..]);
    assert!(fewer.iter().zip(&before).all(|(fewer, before)| fewer.is_subset(before)));
}

#[test]
fn two_processes_do_not_write_one_output() {
    let program = program().in_its_folder();
    zoo(&program, 2);
    let held = std::fs::File::create(program.at("all.ndjson.partial")).unwrap();
    held.lock().unwrap();
    let asked = ["inspect", "zoo", "-o", "all.ndjson", "--resume"];
    program.run(&asked).exits(4).complains(&["another process is writing it"]);
    drop(held);
    program.run(&asked).exits(0);
}

#[test]
#[cfg(target_os = "linux")]
fn names_that_are_not_utf_8_stay_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let program = program().in_its_folder();
    std::fs::create_dir(program.at("zoo")).unwrap();
    let names: [&[u8]; 3] = [b"zoo/a\xff.pt", b"zoo/a\xfe.pt", "zoo/a\t\u{fffd}.pt".as_bytes()];
    for name in names {
        std::fs::copy(
            root().join("tests/fixtures/healthy-run/step-02000.pt"),
            program.at(OsStr::from_bytes(name)),
        )
        .unwrap();
    }
    std::fs::write(program.at("list.txt"), names.join(&b'\n')).unwrap();
    let shown = BTreeSet::from([r"zoo/a\xff.pt", r"zoo/a\xfe.pt", "zoo/a\t\u{fffd}.pt"].map(String::from));
    for asked in [&["zoo"][..], &["--from-list", "list.txt"]] {
        let command = [&["inspect", "-o", "all.ndjson", "--force"], asked].concat();
        program.run(&command).exits(0);
        let lines = std::fs::read_to_string(program.at("all.ndjson")).unwrap();
        let path =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["path"].as_str().unwrap().to_string();
        assert_eq!(lines.lines().map(path).collect::<BTreeSet<_>>(), shown);
        let again = program.run(&["inspect", "-o", "all.ndjson", "--resume", "zoo"]).exits(0);
        drop(again);
        assert_eq!(std::fs::read_to_string(program.at("all.ndjson")).unwrap().lines().count(), 3);
    }
}
