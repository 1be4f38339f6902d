//! Methods of Python's texts, lists and dicts that minijinja lacks, or has otherwise.

use std::sync::LazyLock;

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Error as JinjaError, State};
use regex::Regex;

use super::jinja::wrong;
use super::python::{View, bounded, is_dict, repr_of, text_of};

/// Calls the method `name` of `value`.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, JinjaError> {
    if let Some(text) = value.as_str()
        && let Some(found) = of_text(text, name, args)?
    {
        return Ok(found);
    }
    if args.is_empty()
        && is_dict(value)
        && let Some(view) = View::of(value, name)?
    {
        return Ok(view);
    }
    if name == "copy" && args.is_empty() && (is_dict(value) || value.kind() == ValueKind::Seq) {
        return Ok(value.clone());
    }
    if let (ValueKind::Seq, "index", [wanted]) = (value.kind(), name, args) {
        let at = value.try_iter()?.position(|item| item == *wanted);
        return at.map(Value::from).ok_or_else(|| wrong("what is looked for is not in the list"));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// The method `name` of a text; `None` where minijinja's is the same.
fn of_text(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, JinjaError> {
    let texts: Option<Vec<&str>> = args.iter().map(Value::as_str).collect();
    if let Some(found) = texts.and_then(|args| with_texts(text, name, &args)) {
        return Ok(Some(found));
    }
    let not_found = || wrong("what is looked for is not in the text");
    Ok(Some(match (name, args) {
        ("rsplit", [at, most]) => match split_from_right(text, at, most) {
            Some(parts) => parts,
            None => return Ok(None),
        },
        ("splitlines", [] | [_]) => {
            let keep = args.first().is_some_and(Value::is_true);
            lines(text, keep).into_iter().map(Value::from).collect()
        }
        ("find" | "rfind" | "index" | "rindex" | "count", [wanted, range @ ..])
            if range.len() <= 2 && wanted.as_str().is_some() =>
        {
            let wanted = wanted.as_str().unwrap_or_default();
            let chars: Vec<char> = text.chars().collect();
            let bound = |at: usize, usual: usize| -> Result<usize, JinjaError> {
                match range.get(at).filter(|value| !value.is_none()) {
                    None => Ok(usual),
                    Some(value) => {
                        let value = value
                            .as_i64()
                            .ok_or_else(|| wrong("a position in a text is not a whole number"))?;
                        let from_end =
                            if value < 0 { value.saturating_add(chars.len() as i64).max(0) } else { value };
                        Ok(usize::try_from(from_end).unwrap_or(usize::MAX))
                    }
                }
            };
            let (start, end) = (bound(0, 0)?, bound(1, chars.len())?.min(chars.len()));
            let part: Option<String> = chars.get(start..end).map(|part| part.iter().collect());
            let place = |at: usize, part: &str| (start + part[..at].chars().count()) as i64;
            match name {
                "count" if wanted.is_empty() => Value::from(part.map_or(0, |part| part.chars().count() + 1)),
                "count" => Value::from(part.map_or(0, |part| part.matches(wanted).count())),
                _ => {
                    let part = part.as_deref();
                    let at = match name {
                        "find" | "index" => part.and_then(|part| Some(place(part.find(wanted)?, part))),
                        _ => part.and_then(|part| Some(place(part.rfind(wanted)?, part))),
                    };
                    match name.ends_with("index") {
                        true => Value::from(at.ok_or_else(not_found)?),
                        false => Value::from(at.unwrap_or(-1)),
                    }
                }
            }
        }
        ("zfill" | "ljust" | "rjust" | "center", [width, fill @ ..]) if fill.len() <= 1 => {
            let width =
                usize::try_from(width.as_i64().ok_or_else(|| wrong("a width is not a whole number"))?);
            let (width, len) = (width.unwrap_or(0), text.chars().count());
            bounded(width)?;
            let mut fills = fill.first().map_or(" ", |fill| fill.as_str().unwrap_or_default()).chars();
            let (Some(fill), None) = (fills.next(), fills.next()) else {
                return Err(wrong("a text is filled up with one character"));
            };
            let padding = |c: char| c.to_string().repeat(width.saturating_sub(len));
            match name {
                "ljust" => Value::from(format!("{text}{}", padding(fill))),
                "rjust" => Value::from(format!("{}{text}", padding(fill))),
                "center" => Value::from(middle(text, width, fill)),
                _ => {
                    let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
                    Value::from(format!("{sign}{}{digits}", padding('0')))
                }
            }
        }
        ("expandtabs", [] | [_]) => {
            let size = args.first().map_or(Some(8), Value::as_usize);
            Value::from(without_tabs(text, size.ok_or_else(|| wrong("a width is not a whole number"))?)?)
        }
        ("format", args) => match formatted(text, args)? {
            Some(text) => Value::from(text),
            None => return Ok(None),
        },
        ("translate" | "maketrans" | "encode" | "format_map", _) => {
            return Err(wrong(format!("the method {name} of texts is not supported")));
        }
        _ => return Ok(None),
    }))
}

/// Methods that take texts alone.
fn with_texts(text: &str, name: &str, args: &[&str]) -> Option<Value> {
    let list = |parts: &[&str]| parts.iter().map(|part| Value::from(*part)).collect::<Value>();
    let tuple = |parts: [&str; 3]| Value::from(Tuple::from(parts.map(Value::from)));
    let all = |is: &dyn Fn(char) -> bool| Value::from(!text.is_empty() && text.chars().all(is));
    Some(match (name, args) {
        ("removeprefix", [prefix]) => Value::from(text.strip_prefix(prefix).unwrap_or(text)),
        ("removesuffix", [suffix]) => Value::from(text.strip_suffix(suffix).unwrap_or(text)),
        ("partition", [at]) if !at.is_empty() => match text.split_once(at) {
            Some((before, after)) => tuple([before, at, after]),
            None => tuple([text, "", ""]),
        },
        ("rpartition", [at]) if !at.is_empty() => match text.rsplit_once(at) {
            Some((before, after)) => tuple([before, at, after]),
            None => tuple(["", "", text]),
        },
        ("rsplit", [at]) if !at.is_empty() => list(&text.split(at).collect::<Vec<_>>()),
        ("swapcase", []) => Value::from(swapped(text)),
        ("title", []) => Value::from(titled(text)),
        // Case folding is lower case but for a few characters, of which this is in use.
        ("casefold", []) => Value::from(text.to_lowercase().replace('ß', "ss").replace('ς', "σ")),
        ("istitle", []) => Value::from(text.chars().any(char::is_alphabetic) && titled(text) == text),
        ("isdecimal", []) => all(&|c| is(&DECIMAL, c)),
        ("isdigit", []) => all(&|c| is(&DECIMAL, c) || is(&DIGIT, c)),
        ("isnumeric", []) => all(&|c| is(&NUMERIC, c)),
        ("isalpha", []) => all(&|c| is(&LETTER, c)),
        ("isalnum", []) => all(&|c| is(&LETTER, c) || is(&NUMERIC, c)),
        ("isidentifier", []) => {
            let begins = text.starts_with(|c: char| c == '_' || is(&LETTER, c));
            Value::from(begins && text.chars().all(|c| c == '_' || is(&LETTER, c) || is(&DECIMAL, c)))
        }
        ("isprintable", []) => Value::from(!text.chars().any(|c| c != ' ' && is(&UNPRINTED, c))),
        _ => return None,
    })
}

macro_rules! classes {
    ($($name:ident $class:literal,)*) => {
        $(static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($class).expect("it is valid"));)*
    };
}

classes! {
    DECIMAL r"^\p{Nd}$",
    // `Numeric_Type=Digit` of Unicode.
    DIGIT r"^[²³¹\u{1369}-\u{1371}\u{19DA}⁰⁴-⁹₀-₉①-⑨⑴-⑼⒈-⒐⓪⓵-⓽⓿❶-❾➀-➈➊-➒\u{10A40}-\u{10A43}\u{10E60}-\u{10E68}\u{11052}-\u{1105A}\u{1F100}-\u{1F10A}]$",
    NUMERIC r"^[\p{N}〇一二三四五六七八九十百千万億兆零壱弐参]$",
    LETTER r"^\p{L}$",
    UNPRINTED r"^[\p{C}\p{Z}]$",
}

fn is(class: &Regex, c: char) -> bool {
    class.is_match(c.encode_utf8(&mut [0; 4]))
}

/// The lines of a text, as `splitlines` has them.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(ENDS) {
        let end = &rest[at..];
        let len = if end.starts_with("\r\n") { 2 } else { end.chars().next().map_or(1, char::len_utf8) };
        lines.push(&rest[..if keep { at + len } else { at }]);
        rest = &rest[at + len..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// A text in the middle of `width` characters.
pub(super) fn middle(text: &str, width: usize, fill: char) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let left = missing / 2 + (missing & width & 1);
    let fill = |count: usize| fill.to_string().repeat(count);
    format!("{}{text}{}", fill(left), fill(missing - left))
}

fn swapped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_uppercase() {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
    }
    out
}

/// Each run of letters with a large first one.
fn titled(text: &str) -> String {
    let (mut out, mut within) = (String::with_capacity(text.len()), false);
    for c in text.chars() {
        match within {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        within = c.is_lowercase() || c.is_uppercase();
    }
    out
}

fn without_tabs(text: &str, size: usize) -> Result<String, JinjaError> {
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                bounded(out.len().saturating_add(spaces))?;
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\t' => {}
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}

/// `text.rsplit(at, most)`.
fn split_from_right(text: &str, at: &Value, most: &Value) -> Option<Value> {
    let (at, most) = (at.as_str().filter(|at| !at.is_empty())?, most.as_i64()?);
    // Fewer than none is no limit.
    let count = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let parts: Vec<Value> = text.rsplitn(count, at).map(Value::from).collect();
    Some(parts.into_iter().rev().collect())
}

/// `text.format(args)` where values are written as Python writes them: as they are, as `{!r}` or `{!s}` say, or as a share
/// of a hundred; `None` where minijinja's is the same.
fn formatted(text: &str, args: &[Value]) -> Result<Option<String>, JinjaError> {
    let converts = text.contains("!r") || text.contains("!s");
    let (mut out, mut values, mut rest, mut next) = (String::new(), args.to_vec(), text, 0);
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let place = &rest[at..];
        if place.starts_with("{{") || place.starts_with("}}") {
            out.push_str(&place[..2]);
            rest = &place[2..];
            continue;
        }
        let Some(end) = place.find('}').filter(|_| place.starts_with('{')) else { break };
        let inner = &place[1..end];
        rest = &place[end + 1..];
        if inner.contains('{') {
            // A width that is a value too.
            return match converts || text.contains("%}") {
                true => Err(wrong("a format with places in places is not supported")),
                false => Ok(None),
            };
        }
        let (field, spec) = inner.split_once(':').unwrap_or((inner, ""));
        let (field, kind) = field.split_once('!').map_or((field, None), |(field, kind)| (field, Some(kind)));
        let (head, path) = field.split_at(field.find(['.', '[']).unwrap_or(field.len()));
        let number = match head.is_empty() {
            true => {
                next += 1;
                Some(next - 1)
            }
            false => head.parse::<usize>().ok(),
        };
        let percent = spec.strip_suffix('%');
        let is_own = kind.is_some() || percent.is_some();
        let value = number.filter(|_| path.is_empty()).and_then(|number| args.get(number));
        let Some(value) = value.filter(|_| is_own || spec.is_empty()) else {
            if is_own {
                return Err(wrong("a format with parts or names of values and !r, !s or % is not supported"));
            }
            let head = number.map_or(head.to_string(), |number| number.to_string());
            let spec = if spec.is_empty() { String::new() } else { format!(":{spec}") };
            out.push_str(&format!("{{{head}{path}{spec}}}"));
            continue;
        };
        let written = match (kind, percent) {
            (None, Some(spec)) => Value::from(share(value, spec)?),
            (None | Some("s"), None) => Value::from(text_of(value)?),
            (Some("r"), None) => Value::from(repr_of(value)?),
            (Some(other), _) => return Err(wrong(format!("a format has !{}", other.escape_debug()))),
        };
        // Behind those that are given by place, before any by name.
        let at = values.iter().position(Value::is_kwargs).unwrap_or(values.len());
        values.insert(at, written);
        let spec = if percent.is_some() || spec.is_empty() { String::new() } else { format!(":{spec}") };
        out.push_str(&format!("{{{at}{spec}}}"));
    }
    out.push_str(rest);
    format(FormatStyle::StrFormat, &out, &values).map(Some)
}

/// A number as a share of a hundred, as the format `spec` before the sign says.
fn share(value: &Value, spec: &str) -> Result<String, JinjaError> {
    let is_number = matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    let number = match value.kind() {
        ValueKind::Bool => f64::from(u8::from(value.is_true())),
        _ => f64::try_from(value.clone()).map_err(|_| wrong("a format with % takes a number"))?,
    };
    let sign = spec.strip_prefix('+');
    let digits = sign.unwrap_or(spec);
    let digits =
        if digits.is_empty() { Some(6) } else { digits.strip_prefix('.').and_then(|n| n.parse().ok()) };
    let Some(digits) = digits.filter(|digits| is_number && *digits <= 300) else {
        return Err(wrong(format!("a format has `{}%`, which is not supported", spec.escape_debug())));
    };
    if !number.is_finite() {
        return Err(wrong("formatting something that is not a number is not supported"));
    }
    let sign = if sign.is_some() && !number.is_sign_negative() { "+" } else { "" };
    Ok(format!("{sign}{:.digits$}%", number * 100.0))
}
