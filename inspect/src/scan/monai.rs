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

/// The expressions in `document`, of which one is told: the worst.
pub(super) fn expressions(document: &Value, found: &mut Vec<Named>) {
    let mut all = Vec::new();
    collect(document, &mut all);
    let runs =
        |text: &&&str| paths(text).iter().any(|(_, path)| path.iter().any(|name| RUNNING.contains(name)));
    let what = |text: &str| format!("has Python code that MONAI runs: {}", cut(text));
    if let Some(text) = all.iter().find(runs) {
        found.push(Named::Source(what(text)));
    } else if let Some(text) = all.first() {
        let more = if all.len() > 1 { format!(", and {} more", all.len() - 1) } else { String::new() };
        found.push(Named::Beside(what(text) + &more));
    }
}

fn collect<'v>(value: &'v Value, all: &mut Vec<&'v str>) {
    match value {
        Value::String(text) if text.strip_prefix('$').is_some_and(is_python) => all.push(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, all)),
        Value::Object(entries) => entries.values().for_each(|item| collect(item, all)),
        _ => {}
    }
}

/// Whether `text` imports or calls something: what does not changes nothing, and may be a price or a variable of a shell.
fn is_python(text: &str) -> bool {
    let text = text.trim_start();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let calls = text.match_indices('(').any(|(at, _)| {
        let before = text[..at].trim_end();
        let name = before.rsplit(|c| !word(c)).next().unwrap_or_default();
        match name.chars().next() {
            Some(first) => !first.is_ascii_digit(),
            None => before.ends_with([')', ']']),
        }
    });
    let mut imports = ["import", "from"].into_iter().filter_map(|word| text.strip_prefix(word));
    imports.any(|rest| rest.starts_with(|c| !word(c))) || calls && text.contains(')')
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
            "$ (lambda: 1)()",
            "$@net.parameters()",
            "$[f(x) for x in y]",
        ] {
            assert_eq!(found(json!({"chat_template": [text]})).len(), 1, "{text}");
        }
        for text in ["$", "$5 (about)", "${oc.env:X}", "$HOME/x", "$ (", "$ref", "$(POD)"] {
            assert_eq!(found(json!([text])), [], "{text}");
        }
        let both = json!(["$torch.device('cpu')", "$__import__('os').system('id')"]);
        assert!(matches!(found(both)[..], [Named::Source(_)]));
    }
}
