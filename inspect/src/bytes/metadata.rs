//! Plain values of checkpoints, between [`Value`] (what they are) and JSON (how they are shown).

use serde_json::json;
/// A plain value (a number, text, list, dict …, but no tensor), and one that can be a key or in a set, as the crate
/// `serde-pickle` defines them.
pub use serde_pickle::{HashableValue, Value};

/// Arrays longer than this are described in JSON, not listed.
const LONGEST_ARRAY: usize = 256;
/// Strings longer than this are cut in JSON.
const LONGEST_STRING: usize = 4096;
const DEEPEST: usize = 64;

/// A JSON value as a plain value.
pub fn from_json(value: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::None,
        Json::Bool(b) => Value::Bool(b),
        Json::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => Value::I64(i),
            (None, Some(f)) => Value::F64(f),
            (None, None) => Value::String(n.to_string()),
        },
        Json::String(s) => Value::String(s),
        Json::Array(items) => Value::List(items.into_iter().map(from_json).collect()),
        Json::Object(entries) => {
            Value::Dict(entries.into_iter().map(|(k, v)| (HashableValue::String(k), from_json(v))).collect())
        }
    }
}

/// A plain value as JSON for people and machines: long arrays and byte strings are summarized, numbers that JSON lacks
/// (NaN, infinity) become strings.
pub fn to_json(value: &Value) -> serde_json::Value {
    convert(value, 0)
}

fn convert(value: &Value, depth: usize) -> serde_json::Value {
    if depth > DEEPEST {
        return json!("…");
    }
    match value {
        Value::None => json!(null),
        Value::Bool(b) => json!(b),
        Value::I64(i) => json!(i),
        Value::Int(i) => json!(i.to_string()),
        Value::F64(f) if f.is_finite() => json!(f),
        Value::F64(f) => json!(f.to_string()),
        Value::Bytes(bytes) => json!(format!("{} bytes", bytes.len())),
        Value::String(s) if s.len() > LONGEST_STRING => {
            let end = s.floor_char_boundary(LONGEST_STRING);
            json!(format!("{}… ({} bytes)", &s[..end], s.len()))
        }
        Value::String(s) => json!(s),
        Value::List(items) | Value::Tuple(items) => {
            if items.len() > LONGEST_ARRAY {
                return json!(format!("{} values", items.len()));
            }
            items.iter().map(|item| convert(item, depth + 1)).collect()
        }
        Value::Set(items) | Value::FrozenSet(items) => {
            if items.len() > LONGEST_ARRAY {
                return json!(format!("a set of {} values", items.len()));
            }
            items.iter().map(|item| json!(item.to_string())).collect()
        }
        Value::Dict(entries) => serde_json::Value::Object(
            entries.iter().map(|(key, value)| (key_text(key), convert(value, depth + 1))).collect(),
        ),
    }
}

/// A plain value as complete JSON. What JSON lacks becomes text.
pub fn whole_json(value: &Value) -> serde_json::Value {
    match value {
        Value::None => json!(null),
        Value::Bool(b) => json!(b),
        Value::I64(i) => json!(i),
        Value::F64(f) if f.is_finite() => json!(f),
        Value::F64(f) => json!(f.to_string()),
        Value::Int(i) => json!(i.to_string()),
        Value::String(s) => json!(s),
        Value::Bytes(bytes) => json!(bytes),
        Value::List(items) | Value::Tuple(items) => items.iter().map(whole_json).collect(),
        Value::Set(items) | Value::FrozenSet(items) => items.iter().map(|i| json!(key_text(i))).collect(),
        Value::Dict(entries) => serde_json::Value::Object(
            entries.iter().map(|(key, value)| (key_text(key), whole_json(value))).collect(),
        ),
    }
}

/// A key of a dict as text.
pub fn key_text(key: &HashableValue) -> String {
    match key {
        HashableValue::String(s) => s.clone(),
        HashableValue::I64(i) => i.to_string(),
        other => other.to_string(),
    }
}

/// The plain value at a dotted path; list elements, and entries of dicts whose keys are numbers, by these.
pub fn lookup<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, key| match value {
        Value::Dict(entries) => {
            let number = || key.parse().ok().map(HashableValue::I64);
            entries.get(&HashableValue::String(key.to_string())).or_else(|| entries.get(&number()?))
        }
        Value::List(items) | Value::Tuple(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Adds the entries of `more` that `all` lacks, at any depth.
pub(crate) fn merge(all: &mut Value, more: Value) {
    /// Deeper entries are as the first has them.
    const DEEPEST: usize = 64;
    fn below(all: &mut Value, more: Value, depth: usize) {
        let (Value::Dict(all), Value::Dict(more)) = (all, more) else { return };
        for (key, value) in more {
            match all.get_mut(&key) {
                Some(known) if depth < DEEPEST => below(known, value, depth + 1),
                Some(_) => {}
                None => drop(all.insert(key, value)),
            }
        }
    }
    below(all, more, 0);
}

/// A number, also when it was written as text.
pub fn as_f64(value: &Value) -> Option<f64> {
    match value {
        Value::F64(f) => Some(*f),
        Value::I64(i) => Some(*i as f64),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

/// A non-negative integer, also when it was written as text or as a whole float.
pub fn as_u64(value: &Value) -> Option<u64> {
    match value {
        Value::I64(i) => u64::try_from(*i).ok(),
        Value::F64(f) if f.fract() == 0.0 && (0.0..9e15).contains(f) => Some(*f as u64),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}
