//! Filters, tests and functions of Jinja2 that minijinja lacks, or has otherwise (`filters.py` and `utils.py` of Jinja2, markupsafe).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind};
use minijinja::{Environment, Error as JinjaError};
use regex::Regex;

use super::jinja::wrong;
use super::macros::{ANY, Any};
use super::methods::{lines, middle};
use super::numbers::truncated;
use super::python::{Cycler, Joiner, Range, bounded, is_dict, repr_of, text_of};
use super::rewrite::{JOINED, REMAINDER};

/// Filters that are not there, and why not.
const UNSUPPORTED: [(&str, &str); 3] = [
    ("random", "random chooses another item each time"),
    ("urlize", "urlize, which makes links of addresses, is not supported"),
    ("wordwrap", "wordwrap is not supported"),
];

type Written = Result<String, JinjaError>;

/// Adds them.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("string", |value: Value| -> Result<Value, JinjaError> {
        if value.as_str().is_some() { Ok(value) } else { Ok(Value::from(text_of(&value)?)) }
    });
    environment.add_filter("attr", attribute);
    environment.add_filter("join", join);
    environment.add_filter("escape", escaped);
    environment.add_filter("e", escaped);
    environment.add_filter("forceescape", |value: Value| -> Result<Value, JinjaError> {
        Ok(Value::from_safe_string(escape(&text_of(&value)?)))
    });
    environment.add_filter("pprint", pretty);
    environment.add_filter("urlencode", url_encoded);
    environment.add_filter("wordcount", |text: Value| -> Result<usize, JinjaError> {
        static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").expect("it is valid"));
        Ok(WORD.find_iter(&text_of(&text)?).count())
    });
    environment.add_filter("center", |text: Value, given: Rest<Value>, kwargs: Kwargs| -> Written {
        let [width] = arguments(&given, &kwargs, ["width"])?;
        let (text, width) = (text_of(&text)?, number(&width, 80)?);
        bounded(width)?;
        Ok(middle(&text, width, ' '))
    });
    environment.add_filter("truncate", truncate);
    environment.add_filter("filesizeformat", file_size);
    environment.add_filter("striptags", without_tags);
    environment.add_filter("indent", indent);
    environment.add_filter("xmlattr", attributes);
    environment.add_filter("dictsort", sorted_dict);
    environment.add_filter("unique", unique);
    // In Python what is undefined can be called, to fail then.
    environment
        .add_test("callable", |value: Value| matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined));
    for (name, why) in UNSUPPORTED {
        environment.add_filter(name, move |_: Value, _: Rest<Value>| -> Written { Err(wrong(why)) });
    }
    environment.add_function(REMAINDER, remainder);
    environment.add_function(JOINED, |values: Rest<Value>| -> Written {
        let mut out = String::new();
        for value in values.iter() {
            out.push_str(&text_of(value)?);
            bounded(out.len())?;
        }
        Ok(out)
    });
    environment.add_global(ANY, Value::from_object(Any));
    environment.add_function("range", Range::value);
    environment.add_function("cycler", |items: Rest<Value>| Cycler::value(items.to_vec()));
    environment.add_function("joiner", Joiner::value);
    environment.add_function("lipsum", |_: Rest<Value>| -> Written {
        Err(wrong("lipsum writes another text each time"))
    });
}

/// The arguments `names` of a filter, by place or by name.
pub(super) fn arguments<const N: usize>(
    given: &[Value],
    kwargs: &Kwargs,
    names: [&str; N],
) -> Result<[Option<Value>; N], JinjaError> {
    if given.len() > N {
        return Err(wrong("a filter has too many arguments"));
    }
    let mut found = [const { None }; N];
    for (i, name) in names.into_iter().enumerate() {
        let named: Option<Value> = kwargs.get(name)?;
        found[i] = given.get(i).cloned().or(named);
    }
    kwargs.assert_all_used()?;
    Ok(found)
}

fn is_on(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::is_true)
}

fn number(value: &Option<Value>, usual: usize) -> Result<usize, JinjaError> {
    match value {
        None => Ok(usual),
        Some(value) => {
            value.as_usize().ok_or_else(|| wrong("a filter's argument is not a number of characters"))
        }
    }
}

/// What stands behind a name, parts of which are separated by dots.
fn part(value: &Value, path: &Option<Value>) -> Result<Value, JinjaError> {
    let Some(path) = path else { return Ok(value.clone()) };
    let Some(text) = path.as_str() else { return value.get_item(path) };
    text.split('.').try_fold(value.clone(), |value, key| match key.parse::<usize>() {
        Ok(at) => value.get_item(&Value::from(at)),
        Err(_) => value.get_item(&Value::from(key)),
    })
}

/// `attr`: an attribute, of which dicts, lists and texts have none but their methods.
fn attribute(value: Value, name: Value) -> Result<Value, JinjaError> {
    const METHODS: [&str; 9] =
        ["items", "keys", "values", "get", "copy", "pop", "update", "setdefault", "clear"];
    let named = name.as_str().unwrap_or_default();
    let is_builtin = is_dict(&value)
        || matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::String | ValueKind::Number | ValueKind::Bool | ValueKind::None
        );
    if !is_builtin {
        return value.get_item(&name);
    }
    let has_method = is_dict(&value) && METHODS.contains(&named) || value.as_str().is_some();
    match has_method {
        true => {
            Err(wrong(format!("attr gives a method (`{}`), which is not supported", named.escape_debug())))
        }
        false => Ok(Value::UNDEFINED),
    }
}

fn join(value: Value, given: Rest<Value>, kwargs: Kwargs) -> Result<Value, JinjaError> {
    let [separator, attribute] = arguments(&given, &kwargs, ["d", "attribute"])?;
    let separator_text = separator.as_ref().map(text_of).transpose()?.unwrap_or_default();
    let (mut out, mut safe) = (String::new(), false);
    for (i, item) in value.try_iter()?.enumerate() {
        let item = part(&item, &attribute)?;
        safe |= item.is_safe();
        if i > 0 {
            out.push_str(&separator_text);
        }
        out.push_str(&text_of(&item)?);
        bounded(out.len())?;
    }
    if safe {
        return Err(wrong("join of escaped texts is not supported"));
    }
    Ok(Value::from(out))
}

/// markupsafe's `escape`.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

fn escaped(value: Value) -> Result<Value, JinjaError> {
    if value.is_safe() { Ok(value) } else { Ok(Value::from_safe_string(escape(&text_of(&value)?))) }
}

/// `pprint`: on one line where that is short enough, with keys in order.
fn pretty(value: Value) -> Written {
    fn sorted(value: &Value, depth: usize) -> Result<Value, JinjaError> {
        if depth > super::python::DEEPEST {
            return Err(wrong("a value is too deep to be written"));
        }
        if is_dict(value) {
            let keys = value.try_iter()?.collect::<Vec<Value>>();
            let mut pairs = BTreeMap::new();
            for key in keys {
                pairs.insert(key.clone(), sorted(&value.get_item(&key)?, depth + 1)?);
            }
            return Ok(Value::from(pairs));
        }
        if value.kind() == ValueKind::Seq && value.downcast_object_ref::<Tuple>().is_none() {
            let items = value.try_iter()?.map(|item| sorted(&item, depth + 1));
            return Ok(items.collect::<Result<Vec<_>, JinjaError>>()?.into());
        }
        Ok(value.clone())
    }
    const WIDTH: usize = 80;
    let text = repr_of(&sorted(&value, 0)?)?;
    match text.chars().count() <= WIDTH {
        true => Ok(text),
        false => Err(wrong("pprint of what is longer than a line is not supported")),
    }
}

/// urllib's `quote`.
fn url_quoted(text: &str, slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            b'/' if slash => out.push('/'),
            b' ' if !slash => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn url_encoded(value: Value) -> Written {
    if value.as_str().is_some() || value.try_iter().is_err() || value.is_undefined() {
        return Ok(url_quoted(&text_of(&value)?, true));
    }
    let mut pairs = Vec::new();
    for item in value.try_iter()? {
        let (key, value) = match is_dict(&value) {
            true => (item.clone(), value.get_item(&item)?),
            false if item.len() == Some(2) => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
            false => return Err(wrong("urlencode takes pairs")),
        };
        pairs.push(format!(
            "{}={}",
            url_quoted(&text_of(&key)?, false),
            url_quoted(&text_of(&value)?, false)
        ));
    }
    Ok(pairs.join("&"))
}

fn truncate(text: Value, given: Rest<Value>, kwargs: Kwargs) -> Written {
    if text.as_str().is_none() {
        return Err(wrong(format!("truncate of a {} is not supported", text.kind())));
    }
    let [length, kills, end, leeway] = arguments(&given, &kwargs, ["length", "killwords", "end", "leeway"])?;
    let (length, leeway) = (number(&length, 255)?, number(&leeway.filter(|leeway| !leeway.is_none()), 5)?);
    let end = end.as_ref().map_or_else(|| Ok("...".to_string()), text_of)?;
    let text = text_of(&text)?;
    let count = end.chars().count();
    if length < count {
        return Err(wrong("truncate is given a length below that of its end"));
    }
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept: String = text.chars().take(length - count).collect();
    let kept = match kept.rsplit_once(' ').filter(|_| !is_on(&kills)) {
        Some((words, _)) => words,
        None => &kept,
    };
    Ok(format!("{kept}{end}"))
}

fn file_size(value: Value, given: Rest<Value>, kwargs: Kwargs) -> Written {
    let [binary] = arguments(&given, &kwargs, ["binary"])?;
    let bytes = match value.as_str() {
        Some(text) => text.trim().parse().ok(),
        None => f64::try_from(value.clone()).ok(),
    };
    let bytes = bytes.ok_or_else(|| wrong("filesizeformat takes a number"))?;
    let binary = is_on(&binary);
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok("1 Byte".into());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()));
    }
    let prefixes = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let mut unit = base;
    for (i, prefix) in prefixes.into_iter().enumerate() {
        unit *= base;
        if bytes < unit || i == prefixes.len() - 1 {
            let name = if binary { format!("{}iB", prefix.to_uppercase()) } else { format!("{prefix}B") };
            return Ok(format!("{:.1} {name}", base * bytes / unit));
        }
    }
    Err(wrong("filesizeformat takes a number"))
}

/// markupsafe's `striptags`.
fn without_tags(value: Value) -> Written {
    let without = |text: &str, open: &str, close: &str| {
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        while let Some((before, after)) = rest.split_once(open) {
            let Some((_, after)) = after.split_once(close) else { break };
            out.push_str(before);
            rest = after;
        }
        out + rest
    };
    let text = without(&without(&text_of(&value)?, "<!--", "-->"), "<", ">");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut out, mut rest) = (String::with_capacity(text.len()), text.as_str());
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let known =
            [("amp;", '&'), ("lt;", '<'), ("gt;", '>'), ("#34;", '"'), ("quot;", '"'), ("#39;", '\'')];
        match known.into_iter().find_map(|(name, c)| Some((after.strip_prefix(name)?, c))) {
            Some((after, c)) => {
                out.push(c);
                rest = after;
            }
            None if after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '#') => {
                return Err(wrong("striptags of characters by their names (&…;) is not supported"));
            }
            None => {
                out.push('&');
                rest = after;
            }
        }
    }
    Ok(out + rest)
}

fn indent(text: Value, given: Rest<Value>, kwargs: Kwargs) -> Written {
    let [width, first, blank] = arguments(&given, &kwargs, ["width", "first", "blank"])?;
    let text = text_of(&text)? + "\n";
    let indention = match &width {
        Some(width) if width.as_str().is_some() => text_of(width)?,
        width => {
            let width = number(width, 4)?;
            bounded(width)?;
            " ".repeat(width)
        }
    };
    let lines: Vec<&str> = lines(&text, false);
    bounded(lines.len().saturating_mul(indention.len()).saturating_add(text.len()))?;
    let mut out = String::new();
    for (i, line) in lines.into_iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if i == 0 && is_on(&first) || i > 0 && (is_on(&blank) || !line.is_empty()) {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn attributes(value: Value, given: Rest<Value>, kwargs: Kwargs) -> Written {
    let [spaced] = arguments(&given, &kwargs, ["autospace"])?;
    let mut out = Vec::new();
    for key in value.try_iter()? {
        let own = value.get_item(&key)?;
        if own.is_none() || own.is_undefined() {
            continue;
        }
        let key = text_of(&key)?;
        if key.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '>' | '=')) {
            return Err(wrong(format!("`{}` is not an attribute's name", key.escape_debug())));
        }
        out.push(format!("{}=\"{}\"", escape(&key), escape(&text_of(&own)?)));
    }
    let space = if spaced.is_none_or(|spaced| spaced.is_true()) && !out.is_empty() { " " } else { "" };
    Ok(format!("{space}{}", out.join(" ")))
}

/// What values are ordered by: texts without their case, unless that counts.
fn order(value: Value, case: bool) -> Value {
    match value.as_str().filter(|_| !case) {
        Some(text) => Value::from(text.to_lowercase()),
        None => value,
    }
}

fn sorted_dict(value: Value, given: Rest<Value>, kwargs: Kwargs) -> Result<Value, JinjaError> {
    let [case, by, reverse] = arguments(&given, &kwargs, ["case_sensitive", "by", "reverse"])?;
    let place = match by.as_ref().and_then(Value::as_str).unwrap_or("key") {
        "key" => 0,
        "value" => 1,
        _ => return Err(wrong("dictsort sorts by `key` or by `value`")),
    };
    if value.kind() != ValueKind::Map {
        return Err(wrong("dictsort takes a dict"));
    }
    let mut pairs = Vec::new();
    for key in value.try_iter()? {
        let own = value.get_item(&key)?;
        let by = order(if place == 0 { key.clone() } else { own.clone() }, is_on(&case));
        pairs.push((by, Value::from(Tuple::from([key, own]))));
    }
    match is_on(&reverse) {
        true => pairs.sort_by(|a, b| b.0.cmp(&a.0)),
        false => pairs.sort_by(|a, b| a.0.cmp(&b.0)),
    }
    Ok(pairs.into_iter().map(|(_, pair)| pair).collect())
}

fn unique(value: Value, given: Rest<Value>, kwargs: Kwargs) -> Result<Value, JinjaError> {
    let [case, attribute] = arguments(&given, &kwargs, ["case_sensitive", "attribute"])?;
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for item in value.try_iter()? {
        if seen.insert(order(part(&item, &attribute)?, is_on(&case))) {
            out.push(item);
        }
    }
    Ok(out.into())
}

/// `a % b`: of numbers the remainder, which has the sign of b; of a text what it becomes with b in its places.
fn remainder(a: Value, b: Value) -> Result<Value, JinjaError> {
    if let Some(text) = a.as_str() {
        return printed(text, &b).map(Value::from);
    }
    let whole = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    };
    let by_zero = || wrong("a number is divided by zero");
    if let (Some(a), Some(b)) = (whole(&a), whole(&b)) {
        let rest = a.checked_rem(b).ok_or_else(by_zero)?;
        let rest = if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest };
        return Ok(i64::try_from(rest).map_or_else(|_| Value::from(rest), Value::from));
    }
    let real = |value: &Value| match whole(value) {
        Some(number) => Some(number as f64),
        None if value.kind() == ValueKind::Number => f64::try_from(value.clone()).ok(),
        None => None,
    };
    let (Some(x), Some(y)) = (real(&a), real(&b)) else {
        return Err(wrong(format!("% of a {} and a {} is not supported", a.kind(), b.kind())));
    };
    if y == 0.0 {
        return Err(by_zero());
    }
    let rest = x % y;
    Ok(Value::from(if rest == 0.0 {
        0f64.copysign(y)
    } else if (rest < 0.0) != (y < 0.0) {
        rest + y
    } else {
        rest
    }))
}

/// `text % args` of Python.
fn printed(text: &str, args: &Value) -> Written {
    let places: Vec<Value> = match args.downcast_object_ref::<Tuple>() {
        Some(tuple) => tuple.to_vec(),
        None => vec![args.clone()],
    };
    let (mut out, mut values, mut rest, mut named) = (String::new(), Vec::new(), text, false);
    let mut places = places.into_iter();
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        out.push('%');
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (name, after) = match after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            Some((name, after)) => (Some(name), after),
            None => (None, after),
        };
        let is_spec = |c: char| matches!(c, '#' | '-' | '+' | ' ' | '.' | '0'..='9');
        let len = after.find(|c| !is_spec(c)).unwrap_or(after.len());
        let kind = after[len..].chars().next().ok_or_else(|| wrong("a format ends within a place"))?;
        let widths = after[..len].split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        for digits in widths {
            bounded(digits.parse().unwrap_or(usize::MAX))?;
        }
        let value = match name {
            Some(name) => {
                named = true;
                let value = args.get_item(&Value::from(name))?;
                if value.is_undefined() {
                    return Err(wrong(format!(
                        "a format has the key `{}`, which is not there",
                        name.escape_debug()
                    )));
                }
                value
            }
            None => places.next().ok_or_else(|| wrong("a format has more places than there are values"))?,
        };
        out.push_str(&after[..len]);
        out.push(if kind == 'r' { 's' } else { kind });
        values.push(match kind {
            'r' => Value::from(repr_of(&value)?),
            's' => Value::from(text_of(&value)?),
            'd' | 'i' | 'u' if value.kind() == ValueKind::Number && !value.is_integer() => {
                truncated(f64::try_from(value)?)?.ok_or_else(|| wrong("NaN is no whole number"))?
            }
            _ => value,
        });
        rest = &after[len + kind.len_utf8()..];
    }
    out.push_str(rest);
    if !named && places.next().is_some() && args.kind() != ValueKind::Map {
        return Err(wrong("a format has fewer places than there are values"));
    }
    format(FormatStyle::Printf, &out, &values)
}
