//! Plain values: config, optimizer settings, counters.

use std::collections::{BTreeMap, BTreeSet};

use super::ValueChange;
use crate::metadata;
use crate::metadata::{HashableValue, Value};
use crate::optimizer::PARAM_GROUPS;

/// Lists longer than this are compared as a whole.
const LONGEST_LIST: usize = 256;
/// Values nested deeper are compared as a whole.
const DEEPEST: usize = 32;

/// Values that differ, in the order of their keys.
pub fn changes(a: &Value, b: &Value) -> Vec<ValueChange> {
    let mut changes = Vec::new();
    changed_values("", Some(a), Some(b), 0, &mut changes);
    changes
}

fn changed_values(
    path: &str,
    a: Option<&Value>,
    b: Option<&Value>,
    depth: usize,
    changes: &mut Vec<ValueChange>,
) {
    let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match (a, b) {
        (Some(Value::Dict(left)), Some(Value::Dict(right))) if depth < DEEPEST => {
            let keys: BTreeSet<_> = left.keys().chain(right.keys()).collect();
            for key in keys {
                let name = below(&metadata::key_text(key));
                changed_values(&name, left.get(key), right.get(key), depth + 1, changes);
            }
        }
        (Some(Value::List(left) | Value::Tuple(left)), Some(Value::List(right) | Value::Tuple(right)))
            if depth < DEEPEST && left.len().max(right.len()) <= LONGEST_LIST =>
        {
            for i in 0..left.len().max(right.len()) {
                changed_values(&below(&i.to_string()), left.get(i), right.get(i), depth + 1, changes);
            }
        }
        // For optimizers that one side lacks, the settings are separated from the rest. If there were only tensors,
        // nothing is left.
        (Some(Value::Dict(only)), None) | (None, Some(Value::Dict(only)))
            if is_bare(only, depth) || holds_settings(only, depth) =>
        {
            for (key, value) in only {
                let (left, right) = (a.map(|_| value), b.map(|_| value));
                changed_values(&below(&metadata::key_text(key)), left, right, depth + 1, changes);
            }
        }
        (Some(Value::F64(left)), Some(Value::F64(right))) if left.is_nan() && right.is_nan() => {}
        (a, b) if a == b => {}
        (a, b) => changes.push(ValueChange {
            path: path.to_string(),
            a: a.map(metadata::to_json),
            b: b.map(metadata::to_json),
        }),
    }
}

/// Whether it contains only such dicts, which contained only tensors (tensors are not plain values).
fn is_bare(dict: &BTreeMap<HashableValue, Value>, depth: usize) -> bool {
    depth < DEEPEST
        && dict.values().all(|value| matches!(value, Value::Dict(inner) if is_bare(inner, depth + 1)))
}

/// Whether it contains an optimizer's settings at any depth.
fn holds_settings(dict: &BTreeMap<HashableValue, Value>, depth: usize) -> bool {
    depth < DEEPEST
        && dict.iter().any(|(key, value)| match value {
            Value::Dict(inner) => holds_settings(inner, depth + 1),
            _ => matches!(key, HashableValue::String(key) if key == PARAM_GROUPS),
        })
}
