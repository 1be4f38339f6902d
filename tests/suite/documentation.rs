//! Every command that README and the pages of docs/ show runs, in a copy of the project's data, and succeeds or exits
//! as the page says. A line in a `sh` block is a command; `# exit 1` at its end announces its exit code.

use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_kit::binary::Ran;
use ckpt_kit::fixtures::root;

use crate::program;

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    pages.extend(std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    pages.retain(|page| page.extension().is_some_and(|e| e == "md"));
    pages.sort();
    pages
}

/// The commands of the page's `sh` blocks, lines that end in a backslash joined.
fn commands(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap().replace("\\\n", " ");
    let mut inside = false;
    let mut commands = Vec::new();
    for line in text.lines() {
        match line.trim() {
            "```sh" => inside = true,
            "```" => inside = false,
            command if inside && !command.is_empty() && !command.starts_with('#') => {
                commands.push(command.to_string());
            }
            _ => {}
        }
    }
    commands
}

/// Commands that this test would start again, or that change the machine.
fn is_run_elsewhere(command: &str) -> bool {
    ["cargo test", "CKPT_", "cargo install", "cargo bench", "git clone", "cd ", "bash .ci/", "pip ", "PIP_"]
        .iter()
        .any(|start| command.starts_with(start))
}

#[test]
fn every_command_runs() {
    let folder = tempfile::tempdir().unwrap();
    let program = program();
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(program.path(), bin.join("ckpt")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut ran = 0;
    for page in pages() {
        let place = folder.path().join(page.file_stem().unwrap());
        std::fs::create_dir(&place).unwrap();
        std::fs::create_dir(place.join("tests")).unwrap();
        std::os::unix::fs::symlink(root().join("tests/fixtures"), place.join("tests/fixtures")).unwrap();
        for command in commands(&page) {
            if is_run_elsewhere(&command) {
                continue;
            }
            let expected = command.rsplit_once("# exit ").map_or(0, |(_, code)| code.trim().parse().unwrap());
            let direct = command.replace("cargo run --release --", "ckpt");
            let mut bash = Command::new("bash");
            bash.args(["-o", "pipefail", "-c", &direct]);
            let output = Ran::of(program.surround(&mut bash).env("PATH", &path).current_dir(&place));
            assert_eq!(output.code(), Some(expected), "{}: {output}", page.display());
            ran += 1;
        }
    }
    assert!(ran >= 5, "only {ran} commands found");
}

/// Links between the pages have existing targets.
#[test]
fn every_link_inside_the_project_leads_somewhere() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || target.contains("://") {
                continue;
            }
            assert!(page.parent().unwrap().join(file).exists(), "{}: {target}", page.display());
        }
    }
}
