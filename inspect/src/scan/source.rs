//! Python in texts that loaders evaluate: whether it only makes values.

use super::calls::cut;
use super::text::string;

/// Statements and expressions that define, import or repeat.
const KEYWORDS: [&str; 22] = [
    "import", "from", "lambda", "class", "def", "for", "while", "with", "async", "await", "yield", "del",
    "global", "nonlocal", "assert", "raise", "try", "except", "finally", "exec", "match", "return",
];
/// Keywords behind which a parenthesis is no call.
const OPERATORS: [&str; 7] = ["and", "or", "not", "in", "is", "if", "else"];

/// What texts within the source may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Texts {
    /// Anything.
    Any,
    /// Names and numbers: SymPy evaluates texts again.
    Words,
}

/// What stood before.
enum Before {
    /// Nothing, or an operator.
    Mark,
    /// A path of names.
    Name(String),
    /// The end of a value.
    Value,
}

/// The first part of `code` that does more than to make values, by arithmetic and by calls of what `may_call`; paths of names
/// have dots, and attributes of values begin with one.
pub(super) fn beyond(code: &str, texts: Texts, may_call: &dyn Fn(&str) -> bool) -> Option<String> {
    let mut rest = code;
    let mut before = Before::Mark;
    let word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(first) = rest.chars().next() {
        let len = match first {
            ' ' | '\t' | '\n' | '\r' | '\x0c' => {
                rest = &rest[1..];
                continue;
            }
            '#' if texts == Texts::Any => {
                rest = rest.find(['\n', '\r']).map_or("", |end| &rest[end..]);
                continue;
            }
            '"' | '\'' => {
                let len = string(rest);
                let quotes = if rest[1..].starts_with(&rest[..1].repeat(2)) { 3 } else { 1 };
                let inner = rest.get(quotes..len.saturating_sub(quotes)).unwrap_or("");
                let plain = inner.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                    || inner.parse::<f64>().is_ok();
                if texts == Texts::Words && !plain {
                    return Some(cut(&rest[..len]));
                }
                before = match before {
                    // What such a letter begins may be evaluated.
                    Before::Name(prefix) if prefix.contains(['f', 'F', 't', 'T']) && prefix.len() <= 2 => {
                        return Some(cut(&(prefix + &rest[..len])));
                    }
                    _ => Before::Value,
                };
                len
            }
            first if first.is_ascii_digit() => {
                before = Before::Value;
                rest.find(|c| !(word(c) || c == '.')).unwrap_or(rest.len())
            }
            first if word(first) => {
                let len = rest.find(|c| !word(c)).unwrap_or(rest.len());
                let name = &rest[..len];
                if !name.is_ascii() || name.starts_with("__") || KEYWORDS.contains(&name) {
                    return Some(cut(rest));
                }
                before = match before {
                    Before::Name(path) if path.ends_with('.') => Before::Name(path + name),
                    _ if OPERATORS.contains(&name) => Before::Mark,
                    _ => Before::Name(name.to_string()),
                };
                len
            }
            '.' => {
                before = match before {
                    Before::Name(path) if !path.ends_with('.') => Before::Name(path + "."),
                    Before::Value => Before::Name(".".into()),
                    _ => Before::Mark,
                };
                1
            }
            '(' => {
                match before {
                    Before::Name(path) if !may_call(&path) => return Some(cut(&(path + rest))),
                    Before::Value => return Some(cut(rest)),
                    _ => {}
                }
                before = Before::Mark;
                1
            }
            ')' | ']' | '}' => {
                before = Before::Value;
                1
            }
            '!' if rest.starts_with("!=") => 2,
            '+' | '-' | '*' | '/' | '%' | ',' | '<' | '>' | '=' | '&' | '|' | '~' | '^' | '[' | '{' | ':' => {
                before = Before::Mark;
                1
            }
            _ => return Some(cut(rest)),
        };
        rest = &rest[len..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_that_makes_values_is_told_from_source_that_does_more() {
        let called = |name: &str| matches!(name, "dict" | "Max");
        for code in [
            "a = dict(type='X', b=[1, 2.5e-3, (None, True)])\n# import os\nc = 'import os'\n",
            "x = -1 if not (a and b) else {'a': 2}",
            "Max(s0, 3)**2 // 4 != 7",
        ] {
            assert_eq!(beyond(code, Texts::Any, &called), None, "{code}");
        }
        for code in [
            "__import__('os')",
            "a = x.__class__",
            "import os",
            "a = (lambda: 1)()",
            "a = f'{x}'",
            "a = dict()(1)",
            "a = dict(a=1).update (b)",
            "''.join(a)",
            "Max.x(1)",
            "eval ('1')",
            "ｅval('1')",
            "@a",
            "[Max][0](1)",
            "a; b",
        ] {
            assert!(beyond(code, Texts::Any, &called).is_some(), "{code}");
        }
        assert!(beyond("Max('s0', '2.5')", Texts::Words, &called).is_none());
        assert!(beyond("Max('x()')", Texts::Words, &called).is_some());
    }
}
