//! The GitHub Action, the pre-commit hook, and the page that documents them.

#[cfg(unix)]
use std::process::Command;

use yaml_rust2::{Yaml, YamlLoader};

use super::*;

fn yaml(path: &str) -> Yaml {
    YamlLoader::load_from_str(&std::fs::read_to_string(root().join(path)).unwrap()).unwrap().remove(0)
}

#[test]
fn the_action_takes_inputs_through_the_environment_only() {
    let action = yaml("action.yml");
    assert_eq!(action["runs"]["using"].as_str(), Some("composite"));
    let steps = action["runs"]["steps"].as_vec().unwrap();
    let mut passed = String::new();
    for step in steps {
        assert_eq!(step["shell"].as_str(), Some("bash"));
        let script = step["run"].as_str().unwrap();
        assert!(!script.contains("${{"), "an expression in a script is code: {script}");
        passed += &step["env"].as_hash().unwrap().values().map(|v| v.as_str().unwrap()).collect::<String>();
    }
    for input in action["inputs"].as_hash().unwrap().keys() {
        assert!(
            passed.contains(&format!("${{{{ inputs.{} }}}}", input.as_str().unwrap())),
            "{input:?} is used"
        );
    }
}

/// Runs the action's gate step as a runner would, with these inputs; returns the exit code, what it printed, and the
/// folder it ran in, which is also where the runner's files are.
#[cfg(unix)]
fn act(inputs: &[(&str, &str)]) -> (i32, String, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let action = yaml("action.yml");
    let step = action["runs"]["steps"].as_vec().unwrap().last().unwrap();
    let program = program();
    let binaries = program.path().parent().unwrap().display().to_string();
    let mut bash = Command::new("bash");
    bash.args(["--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"].as_str().unwrap()]);
    program
        .surround(&mut bash)
        .current_dir(folder.path())
        .env("PATH", format!("{binaries}:{}", std::env::var("PATH").unwrap()))
        .env("RUNNER_TEMP", folder.path())
        .env("GITHUB_OUTPUT", folder.path().join("output"))
        .env("GITHUB_STEP_SUMMARY", folder.path().join("summary"));
    for (variable, value) in step["env"].as_hash().unwrap() {
        let input = value.as_str().unwrap().trim_start_matches("${{ inputs.").trim_end_matches(" }}");
        let default = action["inputs"][input]["default"].as_str().unwrap_or("");
        let given = inputs.iter().find(|(name, _)| *name == input).map(|(_, value)| *value);
        bash.env(variable.as_str().unwrap(), given.unwrap_or(default));
    }
    let ran = Ran::of(&mut bash);
    (ran.code().unwrap(), format!("{}{}", ran.out(), ran.err()), folder)
}

#[cfg(unix)]
#[test]
fn the_action_gates_and_summarises() {
    let paths = format!("{}\n\n{}\n", absolute(HEALTHY), absolute(COLLAPSED));
    let (code, printed, folder) =
        act(&[("paths", &paths), ("sarif-file", "gate.sarif"), ("junit-file", "gate.xml")]);
    assert_eq!(code, 1, "{printed}");
    assert!(printed.starts_with("::error file="), "{printed}");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("output"), "exit-code=1\n");
    assert!(read("summary").starts_with("### ckpt gate\n\n    passed     "));
    assert!(read("summary").trim_end().ends_with("    1 of 2 checkpoints refused"));
    assert!(read("gate.sarif").contains("\"2.1.0\"") && read("gate.xml").starts_with("<?xml"));

    let (code, printed, _) = act(&[("paths", &absolute(COLLAPSED)), ("allow", "weak"), ("format", "human")]);
    assert_eq!(code, 0, "{printed}");
    let (code, printed, _) =
        act(&[("paths", &absolute(COLLAPSED)), ("allow", "weak"), ("baseline", &absolute(HEALTHY))]);
    assert!(code == 1 && printed.contains("std-shrunk"), "{printed}");
}

#[cfg(unix)]
#[test]
fn the_action_runs_nothing_that_an_input_says() {
    for hostile in
        ["$(touch owned)", "`touch owned`", "\"; touch owned; \"", "' ; touch owned #", "-h", "--version"]
    {
        let (code, printed, folder) = act(&[("paths", hostile)]);
        assert_eq!(code, 3, "{hostile}: {printed}");
        let healthy = absolute(HEALTHY);
        for input in ["policy", "allow", "baseline", "format"] {
            let (code, printed, folder) = act(&[("paths", &healthy), (input, hostile)]);
            assert!(code == 2 || code == 3, "{input} {hostile}: {printed}");
            assert!(!folder.path().join("owned").exists());
        }
        assert!(!folder.path().join("owned").exists());
    }
}

#[test]
fn the_hook_matches_checkpoints() {
    let hooks = yaml(".pre-commit-hooks.yaml");
    let hook = &hooks[0];
    assert_eq!((hook["entry"].as_str(), hook["language"].as_str()), (Some("ckpt gate"), Some("python")));
    let files = regex::Regex::new(hook["files"].as_str().unwrap()).unwrap();
    for name in
        ["a/step-1.pt", "x.safetensors", "m.GGUF", "pytorch_model-00001-of-00002.bin", "d/pytorch_model.bin"]
    {
        assert!(files.is_match(name), "{name}");
    }
    for name in ["a.py", "data.bin", "gpt", "script.ptx", "my_pytorch_model.bin"] {
        assert!(!files.is_match(name), "{name}");
    }
}

/// The fenced blocks of docs/gate.md in `language`.
fn blocks(language: &str) -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/gate.md")).unwrap();
    let open = format!("```{language}\n");
    page.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap().to_string()).collect()
}

#[test]
fn every_command_of_the_page_prints_what_the_page_says() {
    let mut ran = 0;
    for block in blocks("console") {
        let mut last = 0;
        for entry in block.split("$ ").skip(1) {
            let (line, expected) = entry.split_once('\n').unwrap();
            if line == "echo $?" {
                assert_eq!(expected, format!("{last}\n"), "{block}");
                continue;
            }
            let args: Vec<&str> = line
                .strip_prefix("ckpt gate ")
                .unwrap()
                .split(' ')
                .map(|arg| arg.trim_matches('"'))
                .collect();
            let output = gate(&args);
            assert_eq!(output.out(), expected, "{line}");
            last = output.code().unwrap();
            ran += 1;
        }
    }
    assert!(ran >= 5);
}

#[test]
fn the_page_s_policy_is_one_and_names_every_key() {
    let policy = blocks("toml").remove(0);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ckpt.toml"), &policy).unwrap();
    let output = gate_in(folder.path(), &[&absolute(HEALTHY), "--format", "json"]).exits(0);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let known = &output.json()["policy"];
    let all = [keys(known), keys(&known["baseline"]), keys(&known["tensors"][0]), keys(&known["thresholds"])];
    for key in all.concat() {
        let written = policy.contains(&format!("{key} = ")) || policy.contains(&format!("[gate.{key}]"));
        assert!(written || policy.contains(&format!("[[gate.{key}]]")), "{key}");
    }
    assert!(policy.contains("require_step = "));
    for block in blocks("yaml") {
        YamlLoader::load_from_str(&block).unwrap();
    }
}
