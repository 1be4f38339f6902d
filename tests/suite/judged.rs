//! How much was judged is said wherever a verdict is, rules can be switched off, and the page of rules says what they are.

use ckpt_inspect::{RULES, Role, Verdict};
use ckpt_kit::binary::Program;
use ckpt_kit::fixtures::root;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;

use crate::program;

fn matrix(seed: u64, size: f32) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..64 * 64).map(|_| size * random.normal()).collect()
}

/// A healthy matrix beside codes that no scheme claims.
fn in_part(program: &Program) {
    let codes: Vec<u8> = (0..512).map(|i| (i * 37 % 251) as u8).collect();
    SafeTensors::new()
        .f32s("a.weight", &[64, 64], &matrix(1, 0.1))
        .tensor("b.weight", "U8", &[512, 1], &codes)
        .write(&program.at("part.safetensors"));
}

const SAID: &str = "1 of 2 matrices, 88.8 % of parameters; 1 codes: uint8";

#[test]
fn healthy_is_never_said_of_a_part_without_saying_so() {
    let program = program().in_its_folder();
    in_part(&program);
    let part = "part.safetensors";
    for arguments in [
        &["inspect", part][..],
        &["inspect", part, part],
        &["gate", part],
        &["gate", part, "--format", "junit"],
        &["gate", part, "--format", "sarif"],
        &["report", part, "--format", "html"],
        &["report", part, "--format", "json"],
        &["report", part, "--explain"],
    ] {
        let ran = program.run(arguments).exits(0);
        let said = ran.out().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(SAID), "{arguments:?}: {said}");
    }
    // These escape what means something to them.
    for (arguments, said) in [
        (&["gate", part, "--format", "github"][..], "judged 1 of 2 matrices, 88.8 %25 of parameters"),
        (&["report", part, "--format", "md"], "Judged: 1 of 2 matrices, 88.8 % of parameters"),
    ] {
        program.run(arguments).exits(0).says(&[said]);
    }
    let report = program.run(&["report", part, "--format", "json"]).json();
    let run = &report["runs"][0];
    assert_eq!(run["title"], "Healthy, as far as judged");
    assert_eq!(run["sentences"][0], "Its one judged matrix is healthy at part.safetensors.");
    let coverage = &run["checkpoints"][0]["coverage"];
    assert_eq!((&coverage["judged"], &coverage["matrices"]), (&1.into(), &2.into()));
    assert_eq!(coverage["not_judged"][0]["parameters"], 512);
    let sarif = program.run(&["gate", part, "--format", "sarif"]).json();
    assert_eq!(sarif["runs"][0]["properties"]["judged"][0]["whole"], false);
}

#[test]
fn what_was_judged_in_whole_is_said_too() {
    let program = program().in_its_folder();
    SafeTensors::new().f32s("a.weight", &[64, 64], &matrix(1, 0.1)).write(&program.at("whole.safetensors"));
    let said = program.run(&["inspect", "whole.safetensors"]).exits(0);
    assert!(said.out().lines().any(|l| l.split_whitespace().eq(["judged", "1", "matrix"])), "{}", said.out());
    let gate = program.run(&["gate", "whole.safetensors"]).exits(0);
    assert!(!gate.out().contains("judged"), "{}", gate.out());
}

#[test]
fn rules_are_switched_off_by_option_or_policy_and_the_answer_says_so() {
    let program = program().in_its_folder();
    let rows = matrix(1, 0.1);
    SafeTensors::new()
        .f32s("layers.0.fc.weight", &[64, 64], &rows)
        .f32s("layers.1.fc.weight", &[64, 64], &rows)
        .write(&program.at("twice.safetensors"));
    let twice = "twice.safetensors";
    program.run(&["gate", twice]).exits(1).says(&["equals layers.0.fc.weight"]);
    for format in ["human", "github"] {
        let ran = program.run(&["gate", twice, "--off", "equal-layers", "--format", format]).exits(0);
        assert!(ran.out().contains("1 checkpoint passed; rule off: equal-layers"), "{}", ran.out());
    }
    let json = program
        .run(&["gate", twice, "--off", "equal-layers", "--off", "missing", "--format", "json"])
        .exits(0)
        .json();
    assert_eq!(json["policy"]["off"], serde_json::json!(["equal-layers", "missing"]));
    assert_eq!(json["checkpoints"][0]["coverage"]["off"], json["policy"]["off"]);
    program
        .run(&["gate", twice, "--off", "equal-layer"])
        .exits(2)
        .complains(&["`equal-layer` is not a rule", "equal-layers"]);
    std::fs::write(program.at("ckpt.toml"), "[gate]\noff = [\"equal-layers\"]\n").unwrap();
    program.run(&["gate", twice]).exits(0).says(&["rule off: equal-layers"]);
    program.run(&["inspect", twice]).exits(0).says(&["rule off: equal-layers"]);
    program.run(&["report", twice, "--format", "md"]).exits(0).says(&["rule off: equal-layers"]);
    std::fs::write(program.at("ckpt.toml"), "[gate]\noff = [\"equal\"]\n").unwrap();
    program.run(&["gate", twice]).exits(2).complains(&["`equal` is not a rule"]);
}

/// Grown three hundred times past any usual size, without a norm that would hold it.
#[test]
fn a_run_that_exploded_is_not_called_healthy() {
    let program = program().in_its_folder();
    std::fs::create_dir(program.at("run")).unwrap();
    for (step, size) in [(100, 0.1), (200, 3.0), (300, 60.0)] {
        SafeTensors::new()
            .f32s("first.weight", &[64, 64], &matrix(step, size))
            .f32s("second.weight", &[64, 64], &matrix(step + 1, 0.1))
            .write(&program.at(format!("run/step-{step:05}.safetensors")));
    }
    let report = program.run(&["report", "run", "--format", "json"]).exits(0).json();
    let run = &report["runs"][0];
    assert_eq!(run["causes"][0]["cause"], "exploding", "{run}");
    assert_eq!(run["title"], "Exploding");
    assert_eq!(run["sentences"][0], "At step 300, 1 of 2 matrices has grown without bound: first.weight.");
    let told = program.run(&["report", "run", "--explain"]).exits(0);
    assert!(!told.out().contains("Healthy"), "{}", told.out());
}

#[test]
fn the_page_of_verdicts_has_every_rule_with_its_verdicts_and_roles() {
    let page = std::fs::read_to_string(root().join("docs/verdicts.md")).unwrap();
    let table = page.split("\n## Rules\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<Vec<&str>> =
        table.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split(" | ").collect())).collect();
    let names: Vec<&str> = rows.iter().map(|row| row[0].trim_end_matches('`')).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    let mut all: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
    all.sort_unstable();
    assert_eq!(sorted, all);
    let is_matrix = |role: &Role| role.is_matrix();
    let matrices = RULES.iter().find(|rule| rule.name == "constant").unwrap().roles;
    assert!(matrices.iter().all(is_matrix));
    for rule in &RULES {
        let row = &rows[names.iter().position(|name| *name == rule.name).unwrap()];
        for verdict in Verdict::ALL {
            let words = row[1].split(|c: char| !c.is_alphabetic());
            assert_eq!(
                words.clone().any(|word| word == verdict.name()),
                rule.levels.contains(&verdict),
                "{}: {verdict}",
                rule.name
            );
        }
        let of = match rule.roles {
            [] if rule.is_of_whole() => "whole checkpoint".to_string(),
            [] => "any".to_string(),
            roles => {
                let every = matrices.iter().all(|role| roles.contains(role));
                let named =
                    roles.iter().filter(|role| !every || !matrices.contains(role)).map(|role| role.name());
                every.then_some("matrices").into_iter().chain(named).collect::<Vec<_>>().join(", ")
            }
        };
        assert_eq!(row[2], of, "{}", rule.name);
    }
}
