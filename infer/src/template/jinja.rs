//! A model's own template, rendered as transformers renders it with Jinja2: Python's idea of what is a sequence, its JSON,
//! the date, and blocks that mark what the model said.

use std::borrow::Cow;
use std::fmt::Write;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error as JinjaError, ErrorKind, UndefinedBehavior, context};
use serde_json::Value as Json;

use super::python::{DEEPEST, View, float, text_of};
use super::rewrite::rewritten;
use super::{Clock, Talk, filters, methods, numbers};

/// Steps that a template may take, far more than any real one takes.
const FUEL: u64 = 10_000_000;
/// Templates in use are a few kB.
pub(super) const LONGEST: usize = 1 << 20;

/// What is written of a conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// It, and the beginning of the answer to it.
    Asks,
    /// It alone.
    Finished,
    /// It, with [`MARKS`](super::rewrite::MARKS) around what the model says in it.
    Marked,
}

pub(super) fn render(
    source: &str,
    talk: Talk<'_>,
    (bos, eos): (&str, &str),
    clock: Option<Clock>,
    form: Form,
) -> Result<String, JinjaError> {
    if source.len() > LONGEST {
        return Err(wrong(format!("its {} bytes are too many", source.len())));
    }
    let source = rewritten(source, form == Form::Marked)?;
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(methods::call);
    filters::add(&mut environment);
    numbers::add(&mut environment);
    environment.set_formatter(|out, state, value| {
        let is_text = matches!(value.kind(), ValueKind::String | ValueKind::Undefined);
        if is_text || !matches!(state.auto_escape(), AutoEscape::None) {
            return minijinja::escape_formatter(out, state, value);
        }
        let text = text_of(value)?;
        out.write_str(&text).map_err(|_| wrong("what it writes is too long"))
    });
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
    environment.get_template("chat")?.render(context! {
        messages => talk.messages.iter().map(value).collect::<Vec<Value>>(),
        bos_token => bos,
        eos_token => eos,
        add_generation_prompt => form == Form::Asks,
        tools => talk.tools.map_or(Value::from(()), value),
        documents => Value::from(()),
    })
}

/// What a template takes for a value of JSON.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(yes) => Value::from(*yes),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<Value>>()),
        Json::Object(entries) => {
            Value::from_pairs(entries.iter().map(|(key, entry)| (key.as_str(), value(entry))))
        }
    }
}

pub(super) fn wrong(message: impl Into<Cow<'static, str>>) -> JinjaError {
    JinjaError::new(ErrorKind::InvalidOperation, message)
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
            ValueKind::Number if !value.is_integer() => {
                let number = f64::try_from(value.clone())?;
                match number {
                    number if number.is_nan() => out.push_str("NaN"),
                    f64::INFINITY => out.push_str("Infinity"),
                    f64::NEG_INFINITY => out.push_str("-Infinity"),
                    number => out.push_str(&float(number)),
                }
            }
            ValueKind::Number => write!(out, "{value}").unwrap_or(()),
            _ if value.downcast_object_ref::<View>().is_some() => {
                return Err(wrong("the keys, values or items of a dict cannot be written as JSON"));
            }
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
