//! Many models that are no run: which reports and lists tell so, and show the worst first.

use std::path::{Path, PathBuf};

use ckpt_kit::binary::Program;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::json;

use crate::program;

/// A model of two matrices, of this size.
fn model(number: usize, size: f32) -> SafeTensors {
    let mut random = Random::new(number as u64 + 1);
    let mut matrix =
        |rows: usize, size: f32| -> Vec<f32> { (0..rows * 16).map(|_| size * random.normal()).collect() };
    let rows = 8 + number % 13;
    let (first, second) = (matrix(rows, size), matrix(16, 0.25));
    SafeTensors::new().f32s(&format!("net{}.head.weight", number % 7), &[rows, 16], &first).f32s(
        "body.weight",
        &[16, 16],
        &second,
    )
}

/// A folder of `count` models, of which every fiftieth is dead.
pub fn zoo(program: &Program, count: usize) -> PathBuf {
    let folder = program.at("zoo");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..count {
        let size = if number % 50 == 49 { 0.0 } else { 0.25 };
        model(number, size).write(&folder.join(format!("model-{number:03}.safetensors")));
    }
    folder
}

fn write(folder: &Path, name: &str, step: Option<u64>) {
    let metadata = step.map_or(json!({}), |step| json!({"step": step.to_string()}));
    model(0, 0.25).metadata(metadata).write(&folder.join(name));
}

#[test]
fn models_of_one_folder_are_a_run_only_where_steps_and_names_say_so() {
    let program = program().in_its_folder();
    let folder = program.at("models");
    std::fs::create_dir(&folder).unwrap();
    for name in ["cat.safetensors", "dog.safetensors", "bird.safetensors"] {
        write(&folder, name, None);
    }
    for (name, step) in [("a-step-1.safetensors", 1), ("a-step-2.safetensors", 2), ("a-best.safetensors", 1)]
    {
        write(&folder, name, Some(step));
    }
    for step in [10, 20] {
        write(&folder, &format!("b-step-{step}.safetensors"), Some(step));
    }
    let report = program.run(&["report", "models", "--format", "json"]).exits(0).json();
    let mut runs: Vec<(String, usize, usize)> = report["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| {
            let count = |key: &str| run[key].as_array().unwrap().len();
            (run["name"].as_str().unwrap().to_string(), count("checkpoints"), count("aside"))
        })
        .collect();
    runs.sort();
    let runs: Vec<(&str, usize, usize)> = runs.iter().map(|(name, a, b)| (name.as_str(), *a, *b)).collect();
    assert_eq!(
        runs,
        [
            ("models/a-best.safetensors and 2 more", 2, 1),
            ("models/b-step-10.safetensors and 1 more", 2, 0),
            ("models/bird.safetensors", 1, 0),
            ("models/cat.safetensors", 1, 0),
            ("models/dog.safetensors", 1, 0),
        ]
    );
    let page = program.run(&["report", "models"]).exits(0);
    page.says(&["2 runs and 3 models, 8 checkpoints", "The worst first"]);
}

#[test]
fn what_is_printed_of_very_many_is_the_worst() {
    let program = program().in_its_folder();
    zoo(&program, 110);
    let dead = ["zoo/model-049.safetensors", "zoo/model-099.safetensors"];

    let told = program.run(&["report", "zoo", "-o", "zoo.html"]).exits(0);
    let lines: Vec<&str> = told.err().lines().collect();
    assert!(lines[0].starts_with(&format!("{}: Dead.", dead[0])), "{told}");
    assert!(lines[1].starts_with(&format!("{}: Dead.", dead[1])), "{told}");
    assert!(lines[2].contains(": Healthy."), "{told}");
    assert_eq!(lines[10..12], ["and 100 more", "110 models: 108 healthy, 2 dead"], "{told}");

    let markdown = program.run(&["report", "zoo", "--format", "md"]).exits(0);
    let rows: Vec<&str> = markdown.out().lines().filter(|line| line.starts_with("| `zoo/")).collect();
    assert!(rows[0].contains(dead[0]) && rows[1].contains(dead[1]) && rows[1].contains("every value is 0"));
    assert_eq!(markdown.out().matches("\n## ").count(), 2, "of the two that are dead");
    markdown
        .says(&["110 models: 2 🔴 dead, 108 🟢 healthy", "50 more are not listed; none of them is worse."]);

    let inspected = program.run(&["inspect", "zoo"]).exits(0);
    let rows: Vec<&str> = inspected.out().lines().filter(|line| line.starts_with("zoo/")).collect();
    assert_eq!(rows.len(), 100);
    assert!(rows[0].starts_with(dead[0]) && rows[1].starts_with(dead[1]), "{inspected}");
    assert!(rows[2].starts_with("zoo/model-000.safetensors"), "the others as they are found\n{inspected}");
    inspected.says(&[
        "and 10 more, none of them worse; --sort file lists all",
        "110 checkpoints, ",
        " parameters: 108 healthy, 2 dead",
    ]);
    let all = program.run(&["inspect", "zoo", "--sort", "file"]).exits(0);
    assert_eq!(all.out().lines().filter(|line| line.starts_with("zoo/")).count(), 110);

    let gate = program.run(&["gate", "zoo"]).exits(1);
    let rows: Vec<&str> = gate.out().lines().filter(|line| line.contains(" zoo/")).collect();
    assert_eq!(rows.len(), 100);
    assert!(rows[0].starts_with("refused") && rows[0].contains(dead[0]), "{gate}");
    assert!(rows[1].starts_with("refused") && rows[1].contains(dead[1]), "{gate}");
    assert!(rows[2].starts_with("passed"), "{gate}");
    gate.says(&["and 10 more: 10 passed; --format json lists all", "2 of 110 checkpoints refused"]);

    let explained = program.run(&["report", "zoo", "--explain"]).exits(0);
    assert!(explained.out().starts_with(&format!("{}: Dead", dead[0])), "{explained}");
    explained.says(&["108 models with nothing to explain"]);
}

#[test]
fn of_very_many_tensors_the_worst_are_listed() {
    let program = program().in_its_folder();
    let mut random = Random::new(5);
    // Names without numbers share no row.
    let name = |i: usize| -> String {
        let letter = |n: usize| char::from(b'a' + (n % 26) as u8);
        format!("{}{}.weight", letter(i / 26), letter(i))
    };
    let file = (0..130).fold(SafeTensors::new(), |file, i| {
        let size = if i == 120 { 0.0 } else { 0.35 };
        let values: Vec<f32> = (0..64).map(|_| size * random.normal()).collect();
        file.f32s(&name(i), &[8, 8], &values)
    });
    file.write(&program.at("many.safetensors"));
    let shown = program.run(&["inspect", "many.safetensors"]).exits(0);
    let rows: Vec<&str> = shown.out().lines().filter(|line| line.contains(".weight ")).collect();
    // One line of the summary says why it is dead.
    let listed: Vec<&&str> = rows.iter().filter(|row| row.contains("[8, 8]")).collect();
    assert_eq!(listed.len(), 100, "{shown}");
    assert!(listed[0].starts_with(&name(120)) && listed[0].ends_with("dead"), "{shown}");
    shown.says(&["and 30 more, none of them worse; --sort file lists all"]);
    for more in [["--sort", "file"], ["--all", "--no-cache"]] {
        let all = program.run(&[&["inspect", "many.safetensors"][..], &more].concat()).exits(0);
        assert_eq!(all.out().lines().filter(|line| line.contains("[8, 8]")).count(), 130);
    }
}

/// The data of the page names hostile files and tensors as text.
#[test]
fn names_in_the_data_of_a_page_cannot_end_it() {
    let program = program().in_its_folder();
    let folder = program.at("zoo");
    std::fs::create_dir(&folder).unwrap();
    let hostile = "</script><!--<script>\u{2028}\u{1b}\"\\";
    for number in 0..3 {
        let file = model(number, 0.25).f32s(hostile, &[16, 16], &[0.0; 256]);
        file.write(&folder.join(format!("<!-- {number}.safetensors")));
    }
    let page = program.run(&["report", "zoo"]).exits(0);
    assert_eq!(page.out().matches("</script>").count(), 3, "the data, the details and the script end");
    assert_eq!(page.out().matches("<!--").count(), 0);
    assert!(!page.out().contains(['\u{1b}', '\u{2028}']));
}
