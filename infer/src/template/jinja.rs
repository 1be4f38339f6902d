//! A model's own template, rendered as transformers renders it with Jinja2: Python's idea of what is a sequence, its JSON,
//! the date, and blocks that mark what the model said.

use std::borrow::Cow;
use std::fmt::Write;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind, State, UndefinedBehavior, context};

use super::{Clock, Message};

/// Steps that a template may take, far more than any real one takes.
const FUEL: u64 = 10_000_000;
/// Templates in use are a few kB.
pub(super) const LONGEST: usize = 1 << 20;
/// Values that templates write as JSON are a few levels deep.
const DEEPEST: usize = 64;

pub(super) fn render(
    source: &str,
    messages: &[Message],
    (bos, eos): (&str, &str),
    clock: Option<Clock>,
    asks: bool,
) -> Result<String, JinjaError> {
    if source.len() > LONGEST {
        return Err(wrong(format!("its {} bytes are too many", source.len())));
    }
    let source = without_generation(source);
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(method);
    environment.set_fuel(Some(FUEL));
    environment.add_function("raise_exception", |message: String| -> Result<String, JinjaError> {
        Err(wrong(message))
    });
    if let Some(clock) = clock {
        environment.add_function("strftime_now", move |format: String| -> Result<String, JinjaError> {
            clock(&format).ok_or_else(|| wrong(format!("cannot write the time as `{format}`")))
        });
    }
    environment.add_filter("tojson", to_json);
    // In Python nothing is no list, and whatever has a length and items is a sequence.
    environment.add_test("iterable", |value: Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", |value: Value| {
        let kind = value.kind();
        matches!(kind, ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined)
    });
    environment.add_template("chat", &source)?;
    let turn =
        |message: &Message| context! { role => message.role.as_str(), content => message.content.as_str() };
    environment.get_template("chat")?.render(context! {
        messages => messages.iter().map(turn).collect::<Vec<Value>>(),
        bos_token => bos,
        eos_token => eos,
        add_generation_prompt => asks,
        tools => Value::from(()),
        documents => Value::from(()),
    })
}

fn wrong(message: impl Into<Cow<'static, str>>) -> JinjaError {
    JinjaError::new(ErrorKind::InvalidOperation, message)
}

/// Python's methods.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, JinjaError> {
    let texts: Option<Vec<&str>> = args.iter().map(Value::as_str).collect();
    let own = value.as_str().zip(texts).and_then(|(text, args)| of_text(text, name, &args));
    match own.or_else(|| split_from_right(value, name, args)) {
        Some(value) => Ok(value),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// `text.rsplit(at, most)`.
fn split_from_right(text: &Value, name: &str, args: &[Value]) -> Option<Value> {
    let ("rsplit", [at, most]) = (name, args) else { return None };
    let (text, at, most) = (text.as_str()?, at.as_str().filter(|at| !at.is_empty())?, most.as_i64()?);
    // Fewer than none is no limit.
    let count = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let parts: Vec<Value> = text.rsplitn(count, at).map(Value::from).collect();
    Some(parts.into_iter().rev().collect())
}

/// Methods of Python's texts, given texts, that minijinja does not have.
fn of_text(text: &str, name: &str, args: &[&str]) -> Option<Value> {
    let list = |parts: &[&str]| parts.iter().map(|part| Value::from(*part)).collect::<Value>();
    Some(match (name, args) {
        ("removeprefix", [prefix]) => Value::from(text.strip_prefix(prefix).unwrap_or(text)),
        ("removesuffix", [suffix]) => Value::from(text.strip_suffix(suffix).unwrap_or(text)),
        ("partition", [at]) if !at.is_empty() => match text.split_once(at) {
            Some((before, after)) => list(&[before, at, after]),
            None => list(&[text, "", ""]),
        },
        ("rpartition", [at]) if !at.is_empty() => match text.rsplit_once(at) {
            Some((before, after)) => list(&[before, at, after]),
            None => list(&["", "", text]),
        },
        ("rsplit", [at]) if !at.is_empty() => list(&text.split(at).collect::<Vec<_>>()),
        _ => return None,
    })
}

/// `source` without the blocks that mark what the model said, for which transformers extends Jinja: blocks with a scope of
/// their own take their place.
fn without_generation(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (text, tag) = rest.split_at(at);
        out.push_str(text);
        let len = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => end_of_tag(tag, "}}"),
            Some(b'%') => match word(tag) {
                Some((_, "raw")) => end_of_raw(tag),
                Some((at, name @ ("generation" | "endgeneration"))) => {
                    out.push_str(&tag[..at]);
                    out.push_str(if name == "generation" { "with" } else { "endwith" });
                    rest = &tag[at + name.len()..];
                    continue;
                }
                _ => end_of_tag(tag, "%}"),
            },
            _ => 1,
        };
        out.push_str(&tag[..len]);
        rest = &tag[len..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The first word of the block tag that begins here, and where it stands.
fn word(tag: &str) -> Option<(usize, &str)> {
    let inner = tag.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
    let len = inner.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(inner.len());
    (len > 0).then(|| (tag.len() - inner.len(), &inner[..len]))
}

/// The length of the tag that begins here and ends with `end`, outside of texts in quotes.
fn end_of_tag(tag: &str, end: &str) -> usize {
    let mut quote = None;
    let mut chars = tag.char_indices().skip(2);
    while let Some((at, c)) = chars.next() {
        match quote {
            Some(_) if c == '\\' => {
                chars.next();
            }
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if tag[at..].starts_with(end) => return at + end.len(),
            None => {}
        }
    }
    tag.len()
}

/// The length of the raw block that begins here.
fn end_of_raw(tag: &str) -> usize {
    let inner = end_of_tag(tag, "%}");
    let mut at = inner;
    while let Some(next) = tag[at..].find("{%") {
        at += next;
        let len = end_of_tag(&tag[at..], "%}");
        if word(&tag[at..]).is_some_and(|(_, name)| name == "endraw") {
            return at + len;
        }
        at += 2;
    }
    tag.len()
}

/// How Python's `json.dumps` lays out what it writes.
struct Layout {
    ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sorted: bool,
}

/// `tojson` of transformers.
fn to_json(value: &Value, kwargs: Kwargs) -> Result<String, JinjaError> {
    let indent: Option<Value> = kwargs.get("indent")?;
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| match indent.as_usize() {
        Some(spaces) => " ".repeat(spaces.min(64)),
        None => indent.to_string(),
    });
    let separators: Option<Value> = kwargs.get("separators")?;
    let separator = |at: usize| -> Option<String> {
        separators.as_ref()?.get_item_by_index(at).ok()?.as_str().map(str::to_string)
    };
    let item = separator(0).unwrap_or_else(|| if indent.is_some() { "," } else { ", " }.into());
    let layout = Layout {
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        indent,
        item,
        key: separator(1).unwrap_or_else(|| ": ".into()),
        sorted: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    layout.write(value, 0, &mut out)?;
    Ok(out)
}

impl Layout {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), JinjaError> {
        if depth > DEEPEST {
            return Err(wrong("a value is too deep for JSON"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => write!(out, "{value}").unwrap_or(()),
            ValueKind::String => self.text(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.collect::<Vec<Value>>();
                self.list(['[', ']'], &items, depth, out, |item, out| self.write(item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys = value.try_iter()?.collect::<Vec<Value>>();
                if self.sorted {
                    keys.sort();
                }
                self.list(['{', '}'], &keys, depth, out, |key, out| {
                    self.text(&key.to_string(), out);
                    out.push_str(&self.key);
                    self.write(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            other => return Err(wrong(format!("a value of the kind {other} cannot be written as JSON"))),
        }
        Ok(())
    }

    fn list(
        &self,
        [open, close]: [char; 2],
        items: &[Value],
        depth: usize,
        out: &mut String,
        write: impl Fn(&Value, &mut String) -> Result<(), JinjaError>,
    ) -> Result<(), JinjaError> {
        out.push(open);
        for (number, item) in items.iter().enumerate() {
            if number > 0 {
                out.push_str(&self.item);
            }
            self.line(depth + 1, out);
            write(item, out)?;
        }
        if !items.is_empty() {
            self.line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || self.ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}").unwrap_or(());
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_are_replaced() {
        for (source, wanted) in [
            ("{% generation %}x{%- endgeneration -%}", "{% with %}x{%- endwith -%}"),
            ("{%-generation-%}x{%+ endgeneration %}", "{%-with-%}x{%+ endwith %}"),
            (
                "{{ '{% generation %}' }}{# {% generation %} #}",
                "{{ '{% generation %}' }}{# {% generation %} #}",
            ),
            ("{% raw %}{% generation %}{% endraw %}", "{% raw %}{% generation %}{% endraw %}"),
            ("{% if a == '%} {% generation %}' %}", "{% if a == '%} {% generation %}' %}"),
            ("{ generation } {% generations %}{", "{ generation } {% generations %}{"),
        ] {
            assert_eq!(without_generation(source), wanted);
        }
    }
}
