//! Public types of the library crates may grow: every enum, and every struct whose fields are all public, that a user
//! of a crate can name is `#[non_exhaustive]`, or stands among the few exceptions below with its reason.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use ckpt_kit::fixtures::root;

const CRATES: [&str; 7] = ["inspect", "convert", "infer", "remote", "reports", "train", "."];

/// Types that do not grow: crate, type and why. A struct of one unnamed field is a name for that field, and needs no
/// entry.
const CLOSED: [(&str, &str, &str); 29] = [
    ("convert", "agreement::Which", "there are two"),
    ("inspect", "meaning::config::Sizes", "all sizes of a model are required, so that none is forgotten"),
    ("inspect", "format::ggml::blocks::iq1_m::Iq1M", BLOCK),
    ("inspect", "format::ggml::blocks::iq1_s::Iq1S", BLOCK),
    ("inspect", "format::ggml::blocks::iq2_s::Iq2S", BLOCK),
    ("inspect", "format::ggml::blocks::iq2_xs::Iq2Xs", BLOCK),
    ("inspect", "format::ggml::blocks::iq2_xxs::Iq2Xxs", BLOCK),
    ("inspect", "format::ggml::blocks::iq3_s::Iq3S", BLOCK),
    ("inspect", "format::ggml::blocks::iq3_xxs::Iq3Xxs", BLOCK),
    ("inspect", "format::ggml::blocks::iq4_nl::Iq4Nl", BLOCK),
    ("inspect", "format::ggml::blocks::iq4_xs::Iq4Xs", BLOCK),
    ("inspect", "format::ggml::blocks::mxfp4::Mxfp4", BLOCK),
    ("inspect", "format::ggml::blocks::nvfp4::Nvfp4", BLOCK),
    ("inspect", "format::ggml::blocks::q1_0::Q1_0", BLOCK),
    ("inspect", "format::ggml::blocks::q2_0::Q2_0", BLOCK),
    ("inspect", "format::ggml::blocks::q2_k::Q2K", BLOCK),
    ("inspect", "format::ggml::blocks::q3_k::Q3K", BLOCK),
    ("inspect", "format::ggml::blocks::q4_0::Q4_0", BLOCK),
    ("inspect", "format::ggml::blocks::q4_1::Q4_1", BLOCK),
    ("inspect", "format::ggml::blocks::q4_k::Q4K", BLOCK),
    ("inspect", "format::ggml::blocks::q5_0::Q5_0", BLOCK),
    ("inspect", "format::ggml::blocks::q5_1::Q5_1", BLOCK),
    ("inspect", "format::ggml::blocks::q5_k::Q5K", BLOCK),
    ("inspect", "format::ggml::blocks::q6_k::Q6K", BLOCK),
    ("inspect", "format::ggml::blocks::q8_0::Q8_0", BLOCK),
    ("inspect", "format::ggml::blocks::q8_1::Q8_1", BLOCK),
    ("inspect", "format::ggml::blocks::q8_k::Q8K", BLOCK),
    ("inspect", "format::ggml::blocks::tq1_0::Tq1_0", BLOCK),
    ("inspect", "format::ggml::blocks::tq2_0::Tq2_0", BLOCK),
];
const BLOCK: &str = "bytes as a file has them";

/// The words and signs of Rust code, without comments; of strings only that they are there.
fn tokens(code: &str) -> Vec<String> {
    let chars: Vec<char> = code.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        match chars[i] {
            '/' if at(i + 1) == '/' => i += chars[i..].iter().take_while(|c| **c != '\n').count(),
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            '"' => {
                i += 1;
                while i < chars.len() && chars[i] != '"' {
                    i += if chars[i] == '\\' { 2 } else { 1 };
                }
                i += 1;
                found.push("\"".into());
            }
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                i += if at(i + 1) == '\\' { 3 } else { 2 };
                i += chars[i..].iter().take_while(|c| **c != '\'').count() + 1;
                found.push("\"".into());
            }
            'r' if at(i + 1) == '"' || (at(i + 1) == '#' && matches!(at(i + 2), '"' | '#')) => {
                let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
                i += hashes + 2;
                let ends = |i: usize| at(i) == '"' && (1..=hashes).all(|k| at(i + k) == '#');
                while i < chars.len() && !ends(i) {
                    i += 1;
                }
                i += hashes + 1;
                found.push("\"".into());
            }
            c if word(c) => {
                let length = chars[i..].iter().take_while(|c| word(**c)).count();
                found.push(chars[i..i + length].iter().collect());
                i += length;
            }
            c => {
                if !c.is_whitespace() {
                    found.push(c.into());
                }
                i += 1;
            }
        }
    }
    found
}

/// Where the bracket closes that opens at `at`.
fn closing(tokens: &[String], at: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    tokens.len()
}

/// The leaves of what follows `use`: path and name in this module; the name is `*` for all that is there.
fn leaves(tokens: &[String], prefix: &[String]) -> Vec<(Vec<String>, String)> {
    let (mut found, mut path, mut i) = (Vec::new(), prefix.to_vec(), 0);
    let mut renamed = None;
    let mut end = |path: &mut Vec<String>, renamed: &mut Option<String>| {
        if path.len() > prefix.len() {
            if path.last().is_some_and(|last| last == "self") {
                path.pop();
            }
            let name = renamed.take().unwrap_or_else(|| path.last().unwrap().clone());
            found.push((std::mem::replace(path, prefix.to_vec()), name));
        }
    };
    let mut groups = Vec::new();
    while i < tokens.len() {
        match tokens[i].as_str() {
            ":" => {}
            "," => end(&mut path, &mut renamed),
            "as" => {
                renamed = Some(tokens[i + 1].clone());
                i += 1;
            }
            "{" => {
                let close = closing(tokens, i);
                groups.extend(leaves(&tokens[i + 1..close], &path));
                (path, i) = (prefix.to_vec(), close);
            }
            name => path.push(name.into()),
        }
        i += 1;
    }
    end(&mut path, &mut renamed);
    found.extend(groups);
    found
}

/// What a module holds, as far as it matters here.
#[derive(Default)]
struct Module {
    /// Modules in it, and whether they are public.
    modules: HashMap<String, bool>,
    /// What it names from elsewhere, and whether it hands that on.
    uses: Vec<(Vec<String>, String, bool)>,
    /// Public items by name, and whether each would break its users when it grows.
    items: HashMap<String, bool>,
}

/// Whether all of a struct's fields are public, of which there is at least one, and more where they have no names.
fn is_record(fields: &[String], named: bool) -> bool {
    let (mut all, mut public, mut depth, mut i, mut begins) = (0, 0, 0, 0, true);
    while i < fields.len() {
        match fields[i].as_str() {
            "#" => i = closing(fields, i + 1),
            "(" | "[" | "{" | "<" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            ">" if fields[i - 1] != "-" => depth -= 1,
            "," if depth == 0 => begins = true,
            token if begins => {
                all += 1;
                begins = false;
                public += usize::from(token == "pub" && fields[i + 1] != "(");
            }
            _ => {}
        }
        i += 1;
    }
    all == public && all > usize::from(!named)
}

impl Module {
    /// Reads the items among `tokens`; `inline` is called with modules within.
    fn read(&mut self, tokens: &[String], inline: &mut dyn FnMut(&str, &[String])) {
        let (mut i, mut attributes, mut public) = (0, HashSet::new(), false);
        while i < tokens.len() {
            let name = tokens.get(i + 1).map_or("", String::as_str);
            match tokens[i].as_str() {
                "#" => {
                    let open = i + 1 + usize::from(name == "!");
                    let close = closing(tokens, open);
                    attributes.extend(tokens[open..close].iter().map(String::as_str));
                    i = close + 1;
                    continue;
                }
                "pub" => {
                    public = name != "(";
                    i = if public { i + 1 } else { closing(tokens, i + 1) + 1 };
                    continue;
                }
                "mod" if !attributes.contains("test") => {
                    self.modules.insert(name.into(), public);
                    if tokens[i + 2] == "{" {
                        let close = closing(tokens, i + 2);
                        inline(name, &tokens[i + 3..close]);
                    }
                }
                "use" => {
                    let end = i + tokens[i..].iter().position(|t| t == ";").unwrap();
                    let named = leaves(&tokens[i + 1..end], &[]);
                    self.uses.extend(named.into_iter().map(|(path, name)| (path, name, public)));
                    i = end;
                }
                // What a macro makes is written in it, at any depth.
                "macro_rules" => {
                    let close = closing(tokens, i + 3);
                    let body = &tokens[i + 4..close];
                    for start in (0..body.len()).filter(|&s| body[s] == "{" && s > 0) {
                        self.read(&body[start + 1..closing(body, start)], inline);
                    }
                }
                "enum" if public => {
                    self.items.insert(name.into(), !attributes.contains("non_exhaustive"));
                }
                "struct" if public => {
                    let opens = |t: &&String| matches!(t.as_str(), "{" | "(" | ";");
                    let open = i + tokens[i..].iter().take_while(|t| !opens(t)).count();
                    let record = match tokens[open].as_str() {
                        ";" => false,
                        sign => is_record(&tokens[open + 1..closing(tokens, open)], sign == "{"),
                    };
                    self.items.insert(name.into(), record && !attributes.contains("non_exhaustive"));
                }
                "const" | "unsafe" | "async" | "extern"
                    if matches!(name, "fn" | "unsafe" | "extern" | "\"") =>
                {
                    i += 1;
                    continue;
                }
                "fn" | "const" | "static" | "trait" | "type" | "union" if public => {
                    self.items.insert(name.into(), false);
                }
                _ => {}
            }
            // On to the end of the item: its braces, or a semicolon.
            while i < tokens.len() && tokens[i] != ";" && tokens[i] != "{" {
                i = if matches!(tokens[i].as_str(), "(" | "[") { closing(tokens, i) + 1 } else { i + 1 };
            }
            if tokens.get(i).is_some_and(|t| t == "{") {
                i = closing(tokens, i);
            }
            (i, public) = (i + 1, false);
            attributes.clear();
        }
    }
}

/// A crate's modules by their paths.
type Modules = HashMap<Vec<String>, Module>;

fn read(path: Vec<String>, tokens: &[String], folder: &Path, modules: &mut Modules) {
    let mut module = Module::default();
    let mut within = Vec::new();
    module.read(tokens, &mut |name, body| within.push((name.to_string(), body.to_vec())));
    let joined = |name: &str| path.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
    for (name, body) in &within {
        read(joined(name), body, &folder.join(name), modules);
    }
    for name in module.modules.keys().filter(|name| within.iter().all(|(inner, _)| inner != *name)) {
        let files = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
        let file = files.iter().find(|f| f.is_file()).unwrap_or_else(|| panic!("{files:?}"));
        let code = std::fs::read_to_string(file).unwrap();
        read(joined(name), &self::tokens(&code), &folder.join(name), modules);
    }
    modules.insert(path, module);
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    Module(Vec<String>),
    Item(Vec<String>, String),
    /// Another crate's.
    Elsewhere,
}

fn resolve(modules: &Modules, from: &[String], path: &[String], depth: usize) -> Option<Place> {
    assert!(depth < 32, "{path:?} leads in a circle");
    let mut at = from.to_vec();
    for (i, name) in path.iter().enumerate() {
        match name.as_str() {
            "crate" => at.clear(),
            "super" => drop(at.pop()),
            "self" => {}
            name => {
                let module = &modules[&at];
                if module.modules.contains_key(name) {
                    at.push(name.into());
                } else if let Some((path, ..)) = module
                    .uses
                    .iter()
                    .find(|(path, used, _)| used == name && (path.as_slice() != [name.to_string()]))
                {
                    match resolve(modules, &at, path, depth + 1)? {
                        Place::Module(found) => at = found,
                        other => return Some(other),
                    }
                } else if module.items.contains_key(name) || i + 1 == path.len() && i > 0 {
                    return Some(Place::Item(at, name.into()));
                } else {
                    return (i == 0).then_some(Place::Elsewhere);
                }
            }
        }
    }
    Some(Place::Module(at))
}

/// Modules and items of the crate in `folder` that its users can name, and whether each item would break them.
fn reachable(folder: &Path) -> HashMap<String, bool> {
    let mut modules = Modules::new();
    let code = std::fs::read_to_string(folder.join("lib.rs")).unwrap();
    read(Vec::new(), &tokens(&code), folder, &mut modules);
    let (mut open, mut seen, mut found) = (vec![Vec::new()], HashSet::new(), HashMap::new());
    while let Some(path) = open.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let module = &modules[&path];
        let joined = |path: &[String], name: &str| [path, &[name.to_string()]].concat();
        open.extend(
            module.modules.iter().filter(|(_, public)| **public).map(|(name, _)| joined(&path, name)),
        );
        found.extend(module.items.iter().map(|(name, grows)| (joined(&path, name).join("::"), *grows)));
        for (used, name, _) in module.uses.iter().filter(|(.., public)| *public) {
            let all = name == "*";
            let used = if all { &used[..used.len() - 1] } else { used };
            match resolve(&modules, &path, used, 0) {
                Some(Place::Module(found)) => open.push(found),
                // What a macro makes of a name it is given is not found, and has to be among the exceptions.
                Some(Place::Item(at, name)) => {
                    let breaks = modules[&at].items.get(&name).copied().unwrap_or(true);
                    found.insert(joined(&at, &name).join("::"), breaks);
                }
                Some(Place::Elsewhere) => {}
                None => panic!("{}: `{}` leads nowhere", folder.display(), used.join("::")),
            }
        }
    }
    found
}

#[test]
fn public_types_may_grow() {
    let mut closed: BTreeSet<String> = CLOSED.iter().map(|(of, name, _)| format!("{of}::{name}")).collect();
    let mut all = 0;
    for of in CRATES {
        let found = reachable(&root().join(of).join("src"));
        all += found.len();
        let breaking: BTreeSet<&String> =
            found.iter().filter(|(_, breaks)| **breaks).map(|(n, _)| n).collect();
        let unlisted: Vec<_> =
            breaking.iter().filter(|name| !closed.remove(&format!("{of}::{name}"))).collect();
        assert!(
            unlisted.is_empty(),
            "{of}: neither `#[non_exhaustive]` nor said to be closed: {unlisted:#?}"
        );
        if of == "inspect" {
            // The search itself: by a public module, by names handed on once and twice, by macros.
            for name in [
                "health::record::Stats",
                "format::dtype::DType",
                "bytes::storage::Storage",
                "format::packing::TernaryPacking",
                "scan::Rule",
            ] {
                assert_eq!(found.get(name), Some(&false), "{name}");
            }
            assert!(!found.contains_key("scan::content::Scanner"), "a private module is no user's");
        }
    }
    assert!(closed.is_empty(), "these are no exceptions: {closed:?}");
    assert!(all > 400, "only {all} public items were found");
}

#[test]
fn attributes_and_fields_are_distinguished() {
    let code = r##"
        /// It is not `pub enum No`.
        #[derive(
            Clone,
            Debug, // pub enum No { }
        )]
        #[non_exhaustive]
        #[serde(rename_all = "pub enum No {")]
        pub enum Open { A { b: u8 }, B }
        #[derive(Debug)]
        pub enum Shut<'a, T: Fn(u8) -> char> { A(&'a T) }
        pub struct Record { #[doc = "("] pub a: HashMap<u8, u8>, pub b: [u8; 2], }
        pub struct Private { pub a: u8, b: u8 }
        pub struct Part { pub a: u8, pub(crate) b: u8 }
        pub struct Name(pub u8);
        pub struct Two(pub u8, pub u8);
        pub struct Unit;
        pub(crate) enum Own { A }
        fn f(c: char) -> bool { enum Within { A } c == '{' || c == '\'' || c == '"' }
        pub const fn g() {}
        macro_rules! made { ($($name:ident)*) => { #[non_exhaustive] pub enum Made { $($name,)* } }; }
        pub mod inner { pub enum Inner { A } }
        #[cfg(test)]
        mod tests { pub enum No { A } }
    "##;
    let (mut module, mut inner) = (Module::default(), Module::default());
    module.read(&tokens(code), &mut |_, body| inner.read(body, &mut |_, _| ()));
    let breaks = |name: &str| module.items.get(name).copied();
    let open = ["Open", "Private", "Part", "Name", "Unit", "Made", "g"];
    assert!(open.iter().all(|name| breaks(name) == Some(false)), "{:?}", module.items);
    assert!(["Shut", "Record", "Two"].iter().all(|name| breaks(name) == Some(true)), "{:?}", module.items);
    assert_eq!(module.items.len(), 10, "{:?}", module.items);
    assert_eq!(inner.items, HashMap::from([("Inner".to_string(), true)]));
    let uses = tokens("a::{self, b::C as D, super::e::*}, f");
    let named: Vec<String> =
        leaves(&uses, &[]).iter().map(|(p, n)| format!("{} {n}", p.join("::"))).collect();
    assert_eq!(named, ["f f", "a a", "a::b::C D", "a::super::e::* *"]);
}
