//! What a release consists of: numbers and names that several files have to agree on, manual pages, and how the action and
//! the hook come to the program.

use std::collections::BTreeSet;
#[cfg(unix)]
use std::path::Path;

use ckpt_kit::fixtures::root;
use regex::Regex;

use crate::program;

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn toml(path: &str) -> toml::Table {
    read(path).parse().unwrap()
}

/// What `pattern` catches in `text`.
fn caught(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    pattern.captures_iter(text).map(|found| found[1].to_string()).collect()
}

fn one(what: &str) -> BTreeSet<String> {
    BTreeSet::from([what.to_string()])
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn every_file_that_names_the_version_names_this_one() {
    let workspace = &toml("Cargo.toml")["workspace"];
    assert_eq!(workspace["package"]["version"].as_str(), Some(VERSION));
    for (name, dependency) in workspace["dependencies"].as_table().unwrap() {
        if let (Some(version), Some(_)) = (dependency.get("version"), dependency.get("path")) {
            assert_eq!(version.as_str(), Some(VERSION), "{name}");
        }
    }
    let hook = &toml("pyproject.toml")["project"];
    assert_eq!(hook["version"].as_str(), Some(VERSION));
    assert_eq!(hook["dependencies"][0].as_str().unwrap(), format!("ckpt-tools=={VERSION}"));
    let gate = read("docs/gate.md");
    for named in [r"OWNER/ckpt@v(\S+)", r"rev: v(\S+)", r"ckpt-tools==(\S+)", r"ckpt-(\d[^-]*)-x86_64"] {
        assert_eq!(caught(named, &gate), one(VERSION), "{named}");
    }
    assert!(read("CHANGELOG.md").contains(&format!("\n## {VERSION} - ")));
}

/// `cargo package` takes no other, except among what only tests use, which it leaves out.
#[test]
fn every_dependency_on_a_folder_names_its_version_too() {
    let workspace = &toml("Cargo.toml")["workspace"];
    let shared = &workspace["dependencies"];
    let members = workspace["members"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    let mut checked = 0;
    for member in members.chain(["."]) {
        let manifest = toml(&format!("{member}/Cargo.toml"));
        let of_targets = manifest.get("target").and_then(|all| all.as_table()).into_iter().flatten();
        let of_targets = of_targets.filter_map(|(_, target)| target.get("dependencies"));
        let own = ["dependencies", "build-dependencies"].into_iter().filter_map(|kind| manifest.get(kind));
        for (name, dependency) in own.chain(of_targets).flat_map(|table| table.as_table().unwrap()) {
            let is_shared = dependency.get("workspace").is_some();
            let dependency = if is_shared { &shared[name.as_str()] } else { dependency };
            if dependency.get("path").is_some() {
                let version = dependency.get("version").and_then(|version| version.as_str());
                assert_eq!(version, Some(VERSION), "{member}/Cargo.toml: {name}");
                checked += 1;
            }
        }
    }
    assert!(checked > 12, "{checked}");
}

#[test]
fn names_of_the_python_package_agree() {
    let package = &toml("python/pyproject.toml")["project"];
    assert_eq!(package["name"].as_str(), Some("ckpt-tools"));
    assert_eq!(package["requires-python"], toml("pyproject.toml")["project"]["requires-python"]);
    assert!(read("README.md").contains("\npip install ckpt-tools\n"));
}

/// The name of the archive for a target, as `cargo binstall` fills in the template, and the address below the repository's.
fn archive(version: &str, target: &str) -> (String, String) {
    let manifest = toml("Cargo.toml");
    let metadata = &manifest["package"]["metadata"]["binstall"];
    let fill = |template: &str| template.replace("{ version }", version).replace("{ target }", target);
    let address = fill(metadata["pkg-url"].as_str().unwrap());
    let address = address.strip_prefix("{ repo }/").unwrap().to_string();
    let name = address.rsplit('/').next().unwrap().to_string();
    let folder = name.strip_suffix(".tar.gz").unwrap();
    let program = fill(metadata["bin-dir"].as_str().unwrap());
    assert_eq!(program, format!("{folder}/{{ bin }}{{ binary-ext }}"), "the program is at the archive's top");
    assert_eq!(metadata["pkg-fmt"].as_str(), Some("tgz"));
    (name, address)
}

#[test]
fn the_action_asks_only_for_programs_that_a_release_has() {
    let released = caught(r"target: (\S+) \}", &read(".github/workflows/release.yml"));
    let wanted = caught(r"\) target=(\S+) ;;", &read("action.yml"));
    assert!(wanted.len() == 5 && wanted.is_subset(&released), "{wanted:?} of {released:?}");
    let (name, address) = archive(VERSION, "TARGET");
    assert!(address.ends_with(&format!("/v{VERSION}/{name}")), "{address}");
    for script in ["action.yml", ".ci/package"] {
        assert!(read(script).contains("field pkg-url"), "{script} has the name from Cargo.toml");
    }
}

#[test]
fn other_people_s_actions_are_pinned_to_a_commit() {
    let pinned = Regex::new(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$").unwrap();
    let mut used = 0;
    for workflow in std::fs::read_dir(root().join(".github/workflows")).unwrap() {
        let text = std::fs::read_to_string(workflow.unwrap().path()).unwrap();
        for line in text.lines().filter(|line| line.contains("uses:")) {
            assert!(pinned.is_match(line), "{line}");
            used += 1;
        }
    }
    assert!(used >= 10);
}

#[test]
fn every_command_has_a_manual_page() {
    let program = program().in_its_folder();
    program.run(&["man", "pages/man1"]).exits(0);
    let help = program.run(&["--help"]).exits(0);
    let listed = help.out().split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap().to_string();
    let commands = caught(r"(?m)^  ([a-z]+)  ", &listed);
    assert!(commands.len() > 10 && commands.contains("gate"), "{commands:?}");
    for command in commands.iter().filter(|command| *command != "help") {
        let page = std::fs::read_to_string(program.at(format!("pages/man1/ckpt-{command}.1"))).unwrap();
        assert!(page.contains(&format!(".TH ckpt-{command} 1")) && page.contains(VERSION), "{page}");
        assert!(page.contains(r"\fB\-\-help\fR"), "{page}");
    }
    let page = std::fs::read_to_string(program.at("pages/man1/ckpt.1")).unwrap();
    assert!(page.contains("ckpt\\-gate(1)") && page.contains(VERSION), "{page}");

    let again = program.run(&["man", "pages/man1"]).exits(4);
    assert!(again.err().contains("--force"), "{again}");
    program.run(&["man", "pages/man1", "--force"]).exits(0);
    program.file("file", "");
    program.run(&["man", "file/pages"]).exits(4);
}

#[cfg(target_os = "linux")]
mod action {
    use std::process::Command;

    use ckpt_kit::binary::Ran;
    use yaml_rust2::YamlLoader;

    use super::*;

    const TARGET: &str = "x86_64-unknown-linux-musl";

    /// A folder with a release of `version` in it, as the host of a repository OWNER/ckpt serves it, whose program starts
    /// the one under test.
    fn host(version: &str) -> tempfile::TempDir {
        let host = tempfile::tempdir().unwrap();
        let (name, address) = archive(version, TARGET);
        let place = host.path().join("OWNER/ckpt").join(&address);
        let place = place.parent().unwrap();
        let folder = place.join(name.strip_suffix(".tar.gz").unwrap());
        std::fs::create_dir_all(&folder).unwrap();
        let starts = format!("#!/bin/sh\nexec '{}' \"$@\"\n", program().path().display());
        std::fs::write(folder.join("ckpt"), starts).unwrap();
        let mut bash = Command::new("bash");
        bash.args([
            "-ec",
            r#"chmod +x "$1/ckpt"; tar -czf "$1.tar.gz" "$1"; rm -r "$1"; sha256sum -- * > SHA256SUMS"#,
            "bash",
        ]);
        Ran::of(bash.arg(folder.file_name().unwrap()).current_dir(place)).exits(0);
        host
    }

    /// Runs the action's first step as a runner would; the exit code, what it printed, and what it put on the PATH.
    fn install(host: &Path, version: &str, runner: (&str, &str)) -> (i32, String, Option<String>) {
        let temp = tempfile::tempdir().unwrap();
        let action = YamlLoader::load_from_str(&read("action.yml")).unwrap().remove(0);
        let script = action["runs"]["steps"][0]["run"].as_str().unwrap();
        let path = temp.path().join("github-path");
        let program = program();
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script]);
        program.surround(&mut bash).current_dir(temp.path()).envs([
            ("VERSION", version),
            ("REPOSITORY", "OWNER/ckpt"),
            ("GITHUB_SERVER_URL", &format!("file://{}", host.display())),
            ("GITHUB_ACTION_PATH", root().to_str().unwrap()),
            ("GITHUB_PATH", path.to_str().unwrap()),
            ("RUNNER_TEMP", temp.path().to_str().unwrap()),
            ("RUNNER_OS", runner.0),
            ("RUNNER_ARCH", runner.1),
        ]);
        let ran = Ran::of(&mut bash);
        let installed = std::fs::read_to_string(&path).ok().map(|line| {
            let program = Path::new(line.trim_end()).join("ckpt");
            Ran::of(Command::new(program).arg("--version")).exits(0).out().to_string()
        });
        (ran.code().unwrap(), format!("{}{}", ran.out(), ran.err()), installed)
    }

    const RUNNER: (&str, &str) = ("Linux", "X64");

    #[test]
    fn it_fetches_the_program_of_its_own_version_or_of_another() {
        for (released, asked) in [(VERSION, ""), ("9.8.7", "9.8.7"), ("9.8.7", "v9.8.7")] {
            let (code, printed, installed) = install(host(released).path(), asked, RUNNER);
            assert_eq!(code, 0, "{asked}: {printed}");
            assert_eq!(installed.unwrap(), format!("ckpt {VERSION}\n"), "{asked}");
        }
    }

    #[test]
    fn it_stops_at_a_release_that_is_not_there_and_says_what_helps() {
        let host = host("9.8.7");
        for (version, runner) in
            [("", RUNNER), ("9.8.7", ("Linux", "ARM64")), ("9.8.7", ("Windows", "ARM64"))]
        {
            let (code, printed, installed) = install(host.path(), version, runner);
            assert!(code == 2 && installed.is_none(), "{printed}");
            assert!(printed.contains("::error::") && printed.contains("'version: source'"), "{printed}");
        }
    }

    #[test]
    fn it_uses_no_program_that_differs_from_its_checksum() {
        let (name, address) = archive(VERSION, TARGET);
        let host = host(VERSION);
        let place = host.path().join("OWNER/ckpt").join(address);
        let mut bytes = std::fs::read(&place).unwrap();
        bytes[4] ^= 1;
        std::fs::write(&place, bytes).unwrap();
        let (code, printed, installed) = install(host.path(), "", RUNNER);
        assert!(code == 2 && installed.is_none() && printed.contains("SHA256SUMS"), "{printed}");

        std::fs::write(place.with_file_name("SHA256SUMS"), format!("{}  x{name}\n", "0".repeat(64))).unwrap();
        let (code, printed, installed) = install(host.path(), "", RUNNER);
        assert!(code == 2 && installed.is_none() && printed.contains("SHA256SUMS"), "{printed}");
    }

    #[test]
    fn it_takes_only_a_number_for_a_version() {
        let host = host(VERSION);
        for version in ["$(touch owned)", "../../x", "1/2", "0.2.0\n::error::owned", "0.2.0 -o x"] {
            let (code, printed, installed) = install(host.path(), version, RUNNER);
            assert!(code == 2 && installed.is_none(), "{version}: {printed}");
            assert!(printed.contains("not the number of a release"), "{version}: {printed}");
        }
    }
}
