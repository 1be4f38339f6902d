//! The floors of this crate: bytes, format, layout, meaning, health, analysis, scan. Each uses only those below it, and
//! the modules outside them (errors, damage, the processor) use none.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

const FLOORS: [&str; 7] = ["bytes", "format", "layout", "meaning", "health", "analysis", "scan"];

/// Names after `crate::` in `code`, those in braces too.
fn names_after<'c>(code: &'c str, prefix: &str) -> Vec<&'c str> {
    let name = |text: &'c str| {
        let text = text.trim_start();
        &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
    };
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.push(name(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    names.push(name(&list[start..i]));
                    start = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The code of a file without its comments and its tests.
fn code_of(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap();
    code.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The origin of names that the crate's root re-exports: `pub use format::{Format, gguf};` and the like.
fn handed_on(root: &str) -> HashMap<&str, &str> {
    let mut from = HashMap::new();
    for statement in root.split(';').filter_map(|s| s.split_once("use ").map(|(_, path)| path.trim())) {
        let top = statement.split("::").next().unwrap();
        let list = match statement.split_once('{') {
            Some((_, list)) => list.trim_end_matches('}').split(',').map(str::trim).collect(),
            None => vec![statement.rsplit("::").next().unwrap()],
        };
        for item in list.into_iter().filter(|item| !item.is_empty()) {
            from.insert(item.rsplit(" as ").next().unwrap().trim(), top);
        }
    }
    from
}

/// The floor, counted from 1, of `name` in the crate's root; 0 for modules outside the floors.
fn floor_of(name: &str, from: &HashMap<&str, &str>) -> usize {
    let mut name = name;
    for _ in 0..8 {
        if let Some(floor) = FLOORS.iter().position(|floor| *floor == name) {
            return floor + 1;
        }
        match from.get(name) {
            Some(top) if *top != name => name = top,
            _ => return 0,
        }
    }
    panic!("`{name}` is handed on in a circle");
}

#[test]
fn each_floor_uses_only_those_below() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let root = code_of(&src.join("lib.rs"));
    let from = handed_on(&root);
    for floor in FLOORS {
        assert!(src.join(floor).join("mod.rs").is_file(), "there is no floor called {floor}");
    }
    // The check itself: these are found where they are.
    assert_eq!([floor_of("zip", &from), floor_of("Format", &from), floor_of("Checkpoint", &from)], [1, 2, 4]);
    assert_eq!([floor_of("judge", &from), floor_of("cause", &from), floor_of("Error", &from)], [5, 6, 0]);

    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut looked_at = 0;
    for file in files.iter().filter(|f| **f != src.join("lib.rs")) {
        let place = file.strip_prefix(&src).unwrap();
        let own = floor_of(place.iter().next().unwrap().to_str().unwrap(), &from);
        let code = code_of(file);
        for name in names_after(&code, "crate::") {
            looked_at += 1;
            let theirs = floor_of(name, &from);
            assert!(
                theirs <= own,
                "{} uses `{name}` of a floor above: {}",
                place.display(),
                FLOORS[theirs - 1]
            );
        }
    }
    assert!(looked_at > 300, "only {looked_at} uses were found");
}

/// So that URLs can stand for paths, what reads checkpoints asks `bytes::stored`.
#[test]
fn no_floor_above_bytes_asks_the_file_system_itself() {
    const WORDS: [&str; 7] = [
        "fs::",
        "File::open",
        "path.is_file()",
        "path.is_dir()",
        ".exists()",
        ".canonicalize()",
        "Path::is_",
    ];
    let mut files = Vec::new();
    for floor in ["format", "layout", "meaning", "analysis", "scan"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(floor), &mut files);
    }
    assert!(files.len() > 100);
    for file in files.into_iter().filter(|file| !file.ends_with("tests.rs")) {
        let code = code_of(&file);
        for word in WORDS {
            assert!(!code.contains(word), "{}: {word}", file.display());
        }
    }
}

#[test]
fn names_in_braces_are_found() {
    let code = "use crate::{Error, zip::{self, Entry}, Result};\nlet x = crate::measure::BLOCK;";
    assert_eq!(names_after(code, "crate::"), ["Error", "zip", "Result", "measure"]);
}
