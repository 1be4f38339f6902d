//! Python in configurations of MONAI's bundles: texts that begin with `$` are expressions, or imports
//! (`monai/bundle/config_item.py`).

use serde_json::Value;

use super::calls::cut;
use super::configuration::Named;
use super::text::paths;

/// Names behind which more is run, in any path of attributes.
const RUNNING: [&str; 16] = [
    "eval",
    "exec",
    "compile",
    "__import__",
    "open",
    "system",
    "popen",
    "Popen",
    "subprocess",
    "check_output",
    "builtins",
    "__builtins__",
    "__globals__",
    "__subclasses__",
    "runpy",
    "ctypes",
];

/// What is there without an import: modules that MONAI gives to every expression, and names that lead out of values.
const GIVEN: [&str; 4] = ["torch", "np", "numpy", "monai"];
const LEADING: [&str; 17] = [
    "getattr",
    "setattr",
    "delattr",
    "vars",
    "globals",
    "locals",
    "breakpoint",
    "input",
    "help",
    "gi_frame",
    "cr_frame",
    "ag_frame",
    "tb_frame",
    "f_back",
    "f_globals",
    "f_locals",
    "f_builtins",
];
/// Keys that bundles have, and no other files with such texts.
const OF_BUNDLES: [&str; 3] = ["_meta_", "_target_", "network_def"];

/// The expressions in `document`, of which one is told: the worst.
pub(super) fn expressions(document: &Value, found: &mut Vec<Named>) {
    let (mut all, mut is_bundle) = (Vec::new(), false);
    collect(document, &mut all, &mut is_bundle);
    let runs =
        |text: &&&str| paths(text).iter().any(|(_, path)| path.iter().any(|name| RUNNING.contains(name)));
    let what = |text: &str| format!("has Python code that MONAI runs: {}", cut(text));
    if let Some(text) = all.iter().find(runs) {
        found.push(Named::Source(what(text)));
        return;
    }
    // What an expression calls has to be there: by an import in another one, or without.
    is_bundle |= all.iter().any(|text| imports(text) || text.starts_with("$@"));
    all.retain(|text| is_bundle || reaches(text));
    if let Some(text) = all.first() {
        let more = if all.len() > 1 { format!(", and {} more", all.len() - 1) } else { String::new() };
        found.push(Named::Beside(what(text) + &more));
    }
}

fn collect<'v>(value: &'v Value, all: &mut Vec<&'v str>, is_bundle: &mut bool) {
    match value {
        Value::String(text) if text.strip_prefix('$').is_some_and(is_python) => all.push(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, all, is_bundle)),
        Value::Object(entries) => {
            *is_bundle |= OF_BUNDLES.iter().any(|key| entries.contains_key(*key));
            entries.values().for_each(|item| collect(item, all, is_bundle));
        }
        _ => {}
    }
}

/// Whether the expression `text` reaches anything that is there without an import.
fn reaches(text: &str) -> bool {
    let names = |path: &[&str]| {
        path.first().is_some_and(|root| GIVEN.contains(root))
            || path.iter().any(|name| LEADING.contains(name) || name.starts_with("__"))
    };
    // Names in texts are evaluated when those are formatted.
    let formatted =
        text.contains("f'") || text.contains("f\"") || text.contains("F'") || text.contains("F\"");
    formatted || paths(text).iter().any(|(_, path)| names(path))
}

/// Whether `text` is an import.
fn imports(text: &str) -> bool {
    let text = text.trim_start_matches('$').trim_start();
    let mut imports = ["import", "from"].into_iter().filter_map(|word| text.strip_prefix(word));
    imports.any(|rest| rest.starts_with(|c: char| !(c.is_alphanumeric() || c == '_')))
}

/// Whether `text` could not be an expression of Python's: it begins as none does, or has a sign that none has outside of texts.
/// What is in a text that is formatted is not looked at.
fn is_no_expression(text: &str) -> bool {
    let text = text.trim_start_matches([' ', '\t', '\x0c']);
    if text.starts_with(['|', '^', '/', '%', '&', '=', '<', '>', ')', ']', '}', ',', ':', ';', '?', '!']) {
        return true;
    }
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        match first {
            // Texts in texts, and comments, whose signs may be any.
            '\'' | '"' | '#' => return false,
            '?' | '$' | '`' => return true,
            '\\' if !rest[1..].starts_with(['\n', '\r']) => return true,
            _ => rest = &rest[first.len_utf8()..],
        }
    }
    false
}

/// Whether `text` imports or calls something: what does not changes nothing, and may be a price or a variable of a shell.
fn is_python(text: &str) -> bool {
    let text = text.trim_start();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    if imports(text) {
        return true;
    }
    let calls = text.match_indices('(').any(|(at, _)| {
        let before = text[..at].trim_end();
        let name = before.rsplit(|c| !word(c)).next().unwrap_or_default();
        match name.chars().next() {
            Some(first) => !first.is_ascii_digit(),
            None => before.ends_with([')', ']']),
        }
    });
    calls && text.contains(')') && !is_no_expression(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn code_is_told_from_other_texts_with_a_dollar() {
        let found = |value: Value| {
            let mut found = Vec::new();
            expressions(&value, &mut found);
            found
        };
        for text in [
            "$import os",
            "$open('x').close()",
            "$@net.parameters()",
            "$torch.hub.load('x')",
            "$ np.load('x')",
            "$vars()['x']",
            "$(lambda: 1).__globals__['x']()",
            "$f'{x()}'(y())",
            "$f(1)\n#?",
        ] {
            let in_bundle = |text: &str| json!([text, {"_target_": "x"}]);
            assert_eq!(found(in_bundle(text)).len(), 1, "{text}");
            if text != "$f(1)\n#?" {
                assert_eq!(found(json!({"chat_template": [text]})).len(), 1, "{text}");
            }
        }
        // Of another language, or what nothing defines.
        for text in [
            "$lowercase(Name)",
            "$split(Group, \"/\")[-1] $OR Group",
            "$ (lambda: 1)()",
            "$[f(x) for x in y]",
        ] {
            assert_eq!(found(json!([text])), [], "{text}");
        }
        for text in ["$[f(x) for x in y]", "$f(x)"] {
            assert_eq!(found(json!({"imports": ["$from a import f"], "x": text})).len(), 1, "{text}");
            assert_eq!(found(json!({"_meta_": {}, "x": text})).len(), 1, "{text}");
        }
        for text in
            ["$|^arn:aws(-cn)?:open(x)", "$a(b) ? system(c) : d", "$x(y) $OR eval(z)", "$[a-z]+\\.exec(x)"]
        {
            assert_eq!(found(json!({"_meta_": {}, "x": text})), [], "{text}");
        }
        for text in ["$", "$5 (about)", "${oc.env:X}", "$HOME/x", "$ (", "$ref", "$(POD)"] {
            assert_eq!(found(json!([text])), [], "{text}");
        }
        let both = json!(["$torch.device('cpu')", "$__import__('os').system('id')"]);
        assert!(matches!(found(both)[..], [Named::Source(_)]));
    }
}
