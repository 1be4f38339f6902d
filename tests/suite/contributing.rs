//! What CONTRIBUTING and the page on architecture say about the code is true.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ckpt_kit::fixtures::root;
use regex::Regex;

const LIBRARIES: [&str; 6] = ["inspect", "convert", "infer", "remote", "reports", "train"];

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap()
}

/// Every file of Rust below `folder`, from the root of the repository.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path.strip_prefix(root()).unwrap().to_path_buf());
            }
        }
    }
    found.sort();
    found
}

/// Every file of Rust in the repository.
fn all_files() -> Vec<PathBuf> {
    let crates = LIBRARIES.iter().flat_map(|library| files(library));
    crates
        .chain(
            ["src", "tests", "benches", "examples", "kit", "fuzz/src", "fuzz/fuzz_targets", "python/src"]
                .into_iter()
                .flat_map(files),
        )
        .collect()
}

/// A path as it is written in the pages.
fn written(path: &Path) -> String {
    path.iter().map(|part| part.to_str().unwrap()).collect::<Vec<_>>().join("/")
}

/// The code without comments, texts, and tests below it.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    let other = regex(r##"(?m)//.*$|r#+"[\s\S]*?"#+|\br"[^"]*"|"(?:[^"\\]|\\[\s\S])*"|'(?:"|\\.)'"##);
    other.replace_all(text, "").into_owned()
}

/// The rows of the table below the heading of `page` that begins with `heading`, without its first two lines.
fn rows(page: &str, heading: &str) -> Vec<String> {
    let text = read(page);
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).expect(heading);
    section.lines().filter(|line| line.starts_with('|')).skip(2).map(str::to_string).collect()
}

#[test]
fn crates_depend_on_each_other_as_the_page_says() {
    let page = read("docs/architecture.md");
    let line = page.lines().find(|line| line.starts_with("    inspect  <-  ")).unwrap();
    let mut said: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let list =
        |names: &str| -> Vec<String> { names.split(',').map(|name| name.trim().to_string()).collect() };
    for statement in regex(r"\S+ +(?:<-|->) +\w+(?:, \w+| of them)*").find_iter(line) {
        let statement = statement.as_str();
        if let Some((one, others)) = statement.split_once("<-") {
            for other in list(others) {
                said.entry(other).or_default().insert(one.trim().to_string());
            }
        } else {
            let (one, others) = statement.split_once("->").unwrap();
            let others = match others.trim() {
                "all of them" => LIBRARIES.map(String::from).to_vec(),
                others => list(others),
            };
            said.entry(one.trim().to_string()).or_default().extend(others);
        }
    }
    said.entry("inspect".into()).or_default();

    let mut are = BTreeMap::new();
    for (name, manifest) in LIBRARIES
        .map(|library| (library, format!("{library}/Cargo.toml")))
        .into_iter()
        .chain([("src", "Cargo.toml".into()), ("python", "python/Cargo.toml".into())])
    {
        let manifest: toml::Table = read(&manifest).parse().unwrap();
        let ours = |table: &toml::Value| -> Vec<String> {
            let names = table.as_table().unwrap().keys();
            let ours = |name: &String| match name.as_str() {
                "ckpt" => Some("src".to_string()),
                other => other.strip_prefix("ckpt-").map(String::from),
            };
            names.filter_map(ours).collect()
        };
        let mut on: BTreeSet<String> = ours(&manifest["dependencies"]).into_iter().collect();
        on.extend(manifest.get("build-dependencies").map(ours).unwrap_or_default());
        for table in
            manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(|t| t.values())
        {
            on.extend(table.get("dependencies").map(ours).unwrap_or_default());
        }
        are.insert(name.to_string(), on);
    }
    assert_eq!(said, are);
}

#[test]
fn unsafe_code_is_where_the_page_says() {
    let said: Vec<String> = rows("docs/architecture.md", "Where `unsafe` is")
        .iter()
        .flat_map(|row| {
            let places = row.split('|').nth(1).unwrap();
            regex("`([^`]+)`").captures_iter(places).map(|found| found[1].to_string()).collect::<Vec<_>>()
        })
        .collect();
    assert!(said.len() > 3, "{said:?}");
    let word = regex(r"\bunsafe\b");
    let mut used = BTreeSet::new();
    for file in all_files() {
        // Tests too: their modules are part of the file.
        let text = read(&file).replace("#[cfg(test)]", "");
        if word.is_match(&code(&text)) {
            let file = written(&file);
            let place =
                said.iter().find(|place| file == **place || place.ends_with('/') && file.starts_with(*place));
            used.insert(
                place
                    .unwrap_or_else(|| panic!("{file} has unsafe code, and the page does not say so"))
                    .clone(),
            );
        }
    }
    assert_eq!(used, said.into_iter().collect(), "the page names a place without unsafe code");
}

/// Clippy then refuses what clippy.toml lists.
#[test]
fn libraries_refuse_to_print_to_exit_and_to_read_the_environment() {
    for library in LIBRARIES {
        let text = read(format!("{library}/src/lib.rs"));
        let line = "\n#![warn(clippy::disallowed_macros, clippy::disallowed_methods)]\n";
        assert!(text.contains(line), "{library}/src/lib.rs lacks{line}");
    }
    let allowed = regex(r"allow\(.*clippy::disallowed_");
    for file in LIBRARIES.iter().flat_map(|library| files(&format!("{library}/src"))) {
        assert!(!allowed.is_match(&read(&file)), "{} allows what libraries do not do", file.display());
    }
}

#[test]
fn no_module_is_called_after_nothing() {
    for file in all_files() {
        for part in file.iter() {
            let name = part.to_str().unwrap().trim_end_matches(".rs");
            let vague = ["util", "utils", "helper", "helpers", "common", "misc"].contains(&name);
            assert!(!vague, "{}: name it by what it knows", file.display());
        }
    }
}

/// A kind of thing of which a new one is a file and a line.
struct Table {
    /// Where the files are.
    folder: &'static str,
    /// The file with the table.
    file: &'static str,
    /// The beginning of the table.
    begins: &'static str,
    /// Text in every file of the kind.
    entry: &'static str,
    /// How the table refers to the file.
    named: &'static str,
}

const TABLES: [Table; 14] = [
    Table {
        folder: "inspect/src/format",
        file: "inspect/src/format/mod.rs",
        begins: "static FORMATS: ",
        entry: r": Container =",
        named: r"\b(\w+)::",
    },
    Table {
        folder: "inspect/src/layout",
        file: "inspect/src/layout/mod.rs",
        begins: "static LAYOUTS: ",
        entry: r": Layout =",
        named: r"\b(\w+)::",
    },
    Table {
        folder: "inspect/src/format/packing",
        file: "inspect/src/format/packing/mod.rs",
        begins: "\npackings! ",
        entry: r"\bimpl Layout for ",
        named: r"\b(\w+)::",
    },
    Table {
        folder: "inspect/src/format/ggml/blocks",
        file: "inspect/src/format/ggml/mod.rs",
        begins: "macro_rules! with_block ",
        entry: r"\bimpl Block<",
        named: r"\bblocks::(\w+)",
    },
    Table {
        folder: "inspect/src/meaning/architecture",
        file: "inspect/src/meaning/architecture/mod.rs",
        begins: "static TABLE: ",
        entry: r": Architecture =",
        named: r"\b(\w+)::",
    },
    Table {
        folder: "inspect/src/meaning/scheme",
        file: "inspect/src/meaning/scheme/mod.rs",
        begins: "static SCHEMES: ",
        entry: r"\bpub\(super\) fn find\(",
        named: r"\b(\w+)::find\b",
    },
    Table {
        folder: "inspect/src/health/measures",
        file: "inspect/src/health/measures/mod.rs",
        begins: "static MEASURES: ",
        entry: r": Measure =",
        named: r"\b(\w+)::",
    },
    Table {
        folder: "inspect/src/health/rules",
        file: "inspect/src/health/rules/mod.rs",
        begins: "static RULES: ",
        entry: r": Rule =",
        named: r"\b(\w+)::",
    },
    Table {
        folder: "train/src/optim",
        file: "train/src/optim/settings.rs",
        begins: "\nmethods! ",
        entry: r"\bimpl Hyperparameters for ",
        named: r"\b(\w+)::",
    },
    Table {
        folder: "reports/src",
        file: "reports/src/exporter.rs",
        begins: "pub static REPORTS: ",
        entry: r": Exporter<Report> =",
        named: r"\b(\w+)::",
    },
    Table {
        folder: "convert/src",
        file: "convert/src/target.rs",
        begins: "\ntargets! ",
        entry: r": Form =",
        named: r"\b(\w+)::",
    },
    Table {
        folder: "convert/src/edit",
        file: "convert/src/edit/mod.rs",
        begins: "static EDITS: ",
        entry: r": Row =",
        named: r"\b(\w+)::",
    },
    Table {
        folder: "remote/src",
        file: "remote/src/lib.rs",
        begins: "static SCHEMES: ",
        entry: r": Scheme =",
        named: r"\b(\w+)::",
    },
    Table {
        folder: "src",
        file: "src/lib.rs",
        begins: "\nenum Command ",
        entry: r"\bpub struct Args\b",
        named: r"\b(\w+)::Args\b",
    },
];

impl Table {
    /// The names in the table.
    fn names(&self) -> BTreeSet<String> {
        let code = code(&read(self.file));
        let (_, table) =
            code.split_once(self.begins).unwrap_or_else(|| panic!("{} has no {}", self.file, self.begins));
        let end = regex(r"\];|\n\}").find(table).unwrap().start();
        regex(self.named).captures_iter(&table[..end]).map(|found| found[1].to_string()).collect()
    }

    /// The files of the folder, or folders in it, that hold one of the kind.
    fn entries(&self) -> BTreeSet<String> {
        let entry = regex(self.entry);
        let files = files(self.folder).into_iter().filter(|file| *file != Path::new(self.file));
        files
            .filter(|file| entry.is_match(&code(&read(file))))
            .map(|file| {
                let first = file.strip_prefix(self.folder).unwrap().iter().next().unwrap();
                first.to_str().unwrap().trim_end_matches(".rs").to_string()
            })
            .collect()
    }
}

/// The name of a file, or of a type that is in it: `Q4K` is in `q4_k`.
fn is_in(name: &str, file: &str) -> bool {
    let plain = |name: &str| name.to_lowercase().replace('_', "");
    name == file || name.starts_with(char::is_uppercase) && plain(name) == plain(file)
}

#[test]
fn each_thing_is_a_file_and_a_line_in_its_table() {
    for table in &TABLES {
        let (names, files) = (table.names(), table.entries());
        let (begins, file, folder) = (table.begins.trim(), table.file, table.folder);
        assert!(names.len() > 1, "{begins} of {file}: {names:?}");
        for name in &names {
            let there = files.iter().any(|file| is_in(name, file));
            assert!(there, "{begins} of {file} names `{name}`, and no file of {folder} is one: {files:?}");
        }
        for one in &files {
            let named = names.iter().any(|name| is_in(name, one));
            assert!(named, "{folder}/{one}.rs has no line in {begins} of {file}: {names:?}");
        }
    }
}

/// The formats of reports have three tables, and a file is in each for which it has an exporter.
#[test]
fn each_exporter_is_in_a_table() {
    let tables = code(&read("reports/src/exporter.rs"));
    let of = regex(r"\bconst (\w+): Exporter<");
    let mut found = 0;
    for file in files("reports/src") {
        for exporter in of.captures_iter(&code(&read(&file))) {
            let name = format!("{}::{}", file.file_stem().unwrap().to_str().unwrap(), &exporter[1]);
            assert!(tables.contains(&name), "{name} is in no table");
            found += 1;
        }
    }
    assert!(found > 6, "{found}");
}

#[test]
fn the_page_says_where_each_kind_goes() {
    let place = regex(r"`([a-z/]+)/NAME\.rs`");
    let said: BTreeSet<String> = rows("docs/architecture.md", "What to add")
        .iter()
        .map(|row| place.captures(row).unwrap_or_else(|| panic!("{row} says no file"))[1].to_string())
        .collect();
    assert_eq!(said, TABLES.iter().map(|table| table.folder.to_string()).collect());
}

/// The measure that was added as the page says is not named in any other file of the program.
#[test]
fn a_measure_is_its_file_and_its_line() {
    let name = regex(r"(?i)kurtosis");
    let program = LIBRARIES.iter().flat_map(|library| files(&format!("{library}/src"))).chain(files("src"));
    let named: Vec<String> =
        program.filter(|file| name.is_match(&read(file))).map(|file| written(&file)).collect();
    assert_eq!(named, ["inspect/src/health/measures/kurtosis.rs", "inspect/src/health/measures/mod.rs"]);
}

#[test]
fn every_comparison_is_explained() {
    let script = read(".ci/peers");
    let cases = regex(r"(?m)^    ([a-z |]+)\) .*status=1").captures(&script).unwrap();
    let known: Vec<&str> = cases[1].split('|').map(str::trim).collect();
    let page = read("CONTRIBUTING.md");
    let explained: Vec<&str> =
        known.iter().copied().filter(|name| page.contains(&format!("| `{name}` | "))).collect();
    assert_eq!(explained, known);
    assert!(known.len() >= 6, "{known:?}");
}

#[test]
fn files_that_the_pages_name_are_there() {
    let path = regex(
        r"`((?:\.ci|\.github|src|inspect|convert|infer|train|reports|remote|python|kit|fuzz|tests|benches|examples|docs)/[\w./-]+)`",
    );
    for page in ["CONTRIBUTING.md", "docs/architecture.md"] {
        let text = read(page);
        let named: Vec<&str> =
            path.captures_iter(&text).map(|found| found.get(1).unwrap().as_str()).collect();
        assert!(named.len() > 3, "{page}: {named:?}");
        for file in named.into_iter().filter(|file| !file.contains("NAME")) {
            let rust = root().join(format!("{file}.rs"));
            assert!(root().join(file).exists() || rust.exists(), "{page} names {file}, which is not there");
        }
    }
}

/// cargo-fuzz runs what has a file and an entry, and stable Rust what is in the table.
#[test]
fn every_fuzz_target_is_in_the_table_and_has_its_file_and_entry() {
    let code = read("fuzz/src/lib.rs");
    let (_, table) = code.split_once("pub const TARGETS: ").unwrap();
    let table = table.split_once("];").unwrap().0;
    let named: BTreeSet<String> =
        regex(r#"name: "(\w+)""#).captures_iter(table).map(|found| found[1].to_string()).collect();
    assert!(named.len() >= 4, "{named:?}");
    let written: BTreeSet<String> = files("fuzz/fuzz_targets")
        .iter()
        .map(|file| file.file_stem().unwrap().to_str().unwrap().to_string())
        .collect();
    assert_eq!(written, named);
    let manifest: toml::Table = read("fuzz/Cargo.toml").parse().unwrap();
    let entries: BTreeSet<String> = (manifest["bin"].as_array().unwrap().iter())
        .filter_map(|bin| bin.get("path")?.as_str()?.strip_prefix("fuzz_targets/")?.strip_suffix(".rs"))
        .map(str::to_string)
        .collect();
    assert_eq!(entries, named);
    for name in &named {
        let file = read(format!("fuzz/fuzz_targets/{name}.rs"));
        assert!(file.contains(&format!("ckpt_fuzz::{name}")), "{name}.rs runs another target");
    }
}

/// A repository of these crates in which only `changed` is new, and what `.ci/quick` would run there.
#[cfg(unix)]
fn quick(changed: &str) -> String {
    use std::process::Command;

    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), text).unwrap();
    };
    write(".ci/quick", &read(".ci/quick"));
    write("Cargo.toml", &read("Cargo.toml"));
    for library in LIBRARIES.iter().filter(|library| root().join(library).join("tests/suite").is_dir()) {
        write(&format!("{library}/tests/suite/main.rs"), "");
    }
    write("convert/tests/fuzz.rs", "");
    let git = |args: &[&str]| {
        let as_someone =
            ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=a"];
        let ran =
            Command::new("git").args(as_someone).args(args).current_dir(folder.path()).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
    };
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-qm", "all"]);
    if !changed.is_empty() {
        write(changed, "changed");
    }
    let ran = Command::new("bash").args([".ci/quick", "-n"]).current_dir(folder.path()).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    String::from_utf8(ran.stdout).unwrap()
}

#[cfg(unix)]
#[test]
fn the_inner_loop_runs_what_tests_a_change_wherever_it_is() {
    assert!(quick("").starts_with("nothing has changed"));
    for (changed, runs) in [
        ("inspect/src/new.rs", "--test inspect"),
        ("convert/src/new.rs", "--test convert --test fuzz"),
        ("train/examples/new.rs", "--test train"),
        ("fuzz/src/new.rs", "--test convert --test fuzz"),
        ("remote/src/new.rs", "--test program"),
        ("python/src/new.rs", "--test program"),
        ("kit/src/new.rs", "--test program"),
        ("docs/new.md", "--test program"),
        ("src/new.rs", "--test program"),
        ("examples/new.rs", "--test program"),
        ("benches/new.rs", "--test program"),
        (".ci/new", "--test program"),
        (".github/workflows/new.yml", "--test program"),
        ("action.yml", "--test program"),
    ] {
        let printed = quick(changed);
        assert!(printed.contains("cargo clippy ") && printed.contains(runs), "{changed}: {printed}");
    }
}
