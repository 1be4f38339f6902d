//! Values as Python writes them (`str` and `repr`), and the objects of Python that minijinja lacks.

use std::fmt::{self, Write};
use std::sync::{Arc, LazyLock};

use minijinja::value::{Enumerator, Object, ObjectRepr, Tuple, Value, ValueKind};
use minijinja::{Error as JinjaError, State};
use regex::Regex;

use super::jinja::wrong;

/// Values that are written are a few levels deep.
pub(super) const DEEPEST: usize = 64;
/// No text that a template makes is longer.
const LONGEST: usize = 64 << 20;

/// Refuses a text of `len` bytes that is too long.
pub(super) fn bounded(len: usize) -> Result<(), JinjaError> {
    if len > LONGEST { Err(wrong("a text is too long")) } else { Ok(()) }
}

/// `str(value)`.
pub(super) fn text_of(value: &Value) -> Result<String, JinjaError> {
    let mut out = String::new();
    write_value(value, false, 0, &mut out)?;
    Ok(out)
}

/// `repr(value)`.
pub(super) fn repr_of(value: &Value) -> Result<String, JinjaError> {
    let mut out = String::new();
    write_value(value, true, 0, &mut out)?;
    Ok(out)
}

fn write_value(value: &Value, quoted: bool, depth: usize, out: &mut String) -> Result<(), JinjaError> {
    if depth > DEEPEST {
        return Err(wrong("a value is too deep to be written"));
    }
    bounded(out.len())?;
    match value.kind() {
        ValueKind::Undefined if quoted => out.push_str("Undefined"),
        ValueKind::String if quoted => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) => out.push_str(&float(number)),
            Err(_) => write!(out, "{value}").unwrap_or(()),
        },
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            if let Some(view) = value.downcast_object_ref::<View>() {
                out.push_str(view.name);
                out.push_str("([");
                write_items(&view.items, depth, out)?;
                out.push_str("])");
            } else if let Some(tuple) = value.downcast_object_ref::<Tuple>() {
                out.push('(');
                write_items(tuple, depth, out)?;
                out.push_str(if tuple.len() == 1 { ",)" } else { ")" });
            } else {
                write_container(value, depth, out)?;
            }
        }
        _ if quoted => write!(out, "{value:?}").unwrap_or(()),
        _ => write!(out, "{value}").unwrap_or(()),
    }
    Ok(())
}

fn write_items(items: &[Value], depth: usize, out: &mut String) -> Result<(), JinjaError> {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        write_value(item, true, depth + 1, out)?;
    }
    Ok(())
}

/// Lists and dicts; other objects as they write themselves.
fn write_container(value: &Value, depth: usize, out: &mut String) -> Result<(), JinjaError> {
    let is_plain = value.downcast_object_ref::<Range>().is_none();
    if is_plain && is_list(value) {
        out.push('[');
        write_items(&value.try_iter()?.collect::<Vec<Value>>(), depth, out)?;
        out.push(']');
    } else if is_plain && is_dict(value) {
        out.push('{');
        for (i, key) in value.try_iter()?.enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            write_value(&key, true, depth + 1, out)?;
            out.push_str(": ");
            write_value(&value.get_item(&key)?, true, depth + 1, out)?;
        }
        out.push('}');
    } else {
        write!(out, "{value}").unwrap_or(());
    }
    Ok(())
}

/// Only the first character of what a value writes.
struct First(Option<char>);

impl Write for First {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match text.chars().next() {
            Some(c) => {
                self.0 = Some(c);
                Err(fmt::Error)
            }
            None => Ok(()),
        }
    }
}

fn begins_with(value: &Value, c: char) -> bool {
    let mut first = First(None);
    let _ = write!(first, "{value}");
    first.0 == Some(c)
}

fn is_list(value: &Value) -> bool {
    value.kind() == ValueKind::Seq && begins_with(value, '[')
}

/// Whether a value is a dict, and no namespace, loop or the like.
pub(super) fn is_dict(value: &Value) -> bool {
    let is_namespace = || value.as_object().is_some_and(|object| object.type_name().contains("Namespace"));
    value.kind() == ValueKind::Map && begins_with(value, '{') && !is_namespace()
}

/// A float as Python writes it: the shortest that is read back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(number: f64) -> String {
    if !number.is_finite() {
        let sign = if number < 0.0 { "-" } else { "" };
        return if number.is_nan() { "nan".into() } else { format!("{sign}inf") };
    }
    // Rust's thresholds are the same; its exponents have no sign and no leading zero.
    let text = format!("{number:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{}e{sign}{exponent:0>2}", digits.strip_suffix(".0").unwrap_or(digits))
        }
    }
}

/// Characters that Python escapes: all that are not printed, and spaces but for the common one.
static ESCAPED: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}]").expect("it is valid"));

fn quote(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => write!(out, "\\{c}").unwrap_or(()),
            ' '..='~' => out.push(c),
            c if ESCAPED.is_match(c.encode_utf8(&mut [0; 4])) => {
                let code = u32::from(c);
                let written = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
                written.unwrap_or(());
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// What `keys`, `values` and `items` of a dict give.
#[derive(Debug)]
pub(super) struct View {
    /// Its name in Python.
    pub name: &'static str,
    pub items: Vec<Value>,
}

impl View {
    /// That of a dict.
    pub fn of(dict: &Value, method: &str) -> Result<Option<Value>, JinjaError> {
        let name = match method {
            "keys" => "dict_keys",
            "values" => "dict_values",
            "items" => "dict_items",
            _ => return Ok(None),
        };
        let mut items = Vec::new();
        for key in dict.try_iter()? {
            items.push(match method {
                "keys" => key,
                "values" => dict.get_item(&key)?,
                _ => Value::from(Tuple::from([key.clone(), dict.get_item(&key)?])),
            });
        }
        Ok(Some(Value::from_object(View { name, items })))
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?})", self.name, self.items)
    }
}

/// What `range` gives.
#[derive(Debug)]
pub(super) struct Range {
    start: i64,
    stop: i64,
    step: i64,
    len: usize,
}

impl Range {
    /// The range of up to three numbers, as transformers' sandbox lets it be.
    pub fn value(first: i64, second: Option<i64>, step: Option<i64>) -> Result<Value, JinjaError> {
        const MOST: i128 = 100_000;
        let (start, stop) = second.map_or((0, first), |stop| (first, stop));
        let step = step.unwrap_or(1);
        let far = i128::from(stop) - i128::from(start);
        let len = match step {
            0 => return Err(wrong("the step of a range is 0")),
            step if far.signum() == i128::from(step.signum()) => (far.abs() - 1) / i128::from(step).abs() + 1,
            _ => 0,
        };
        if len > MOST {
            return Err(wrong("a range is too long"));
        }
        Ok(Value::from_object(Range { start, stop, step, len: len as usize }))
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = key.as_usize().filter(|at| *at < self.len)?;
        Some(Value::from(self.start + self.step * at as i64))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            1 => write!(f, "range({}, {})", self.start, self.stop),
            step => write!(f, "range({}, {}, {step})", self.start, self.stop),
        }
    }
}

/// What `cycler` gives.
#[derive(Debug)]
pub(super) struct Cycler {
    items: Vec<Value>,
    at: std::sync::Mutex<usize>,
}

impl Cycler {
    /// One of these items.
    pub fn value(items: Vec<Value>) -> Result<Value, JinjaError> {
        match items.is_empty() {
            true => Err(wrong("cycler has no items")),
            false => Ok(Value::from_object(Cycler { items, at: std::sync::Mutex::new(0) })),
        }
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = *self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match key.as_str()? {
            "current" => Some(self.items[at].clone()),
            "pos" => Some(Value::from(at)),
            _ => None,
        }
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        _: &[Value],
    ) -> Result<Value, JinjaError> {
        let mut at = self.at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match method {
            "next" => {
                let item = self.items[*at].clone();
                *at = (*at + 1) % self.items.len();
                Ok(item)
            }
            "reset" => {
                *at = 0;
                Ok(Value::from(()))
            }
            _ => Err(wrong(format!("cycler has no method named {method}"))),
        }
    }
}

/// What `joiner` gives: nothing the first time that it is called, then the separator.
#[derive(Debug)]
pub(super) struct Joiner {
    separator: Value,
    used: std::sync::atomic::AtomicBool,
}

impl Joiner {
    /// One with this separator.
    pub fn value(separator: Option<Value>) -> Value {
        let separator = separator.unwrap_or_else(|| Value::from(", "));
        Value::from_object(Joiner { separator, used: std::sync::atomic::AtomicBool::new(false) })
    }
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> Result<Value, JinjaError> {
        let used = self.used.swap(true, std::sync::atomic::Ordering::Relaxed);
        Ok(if used { self.separator.clone() } else { Value::from("") })
    }
}
