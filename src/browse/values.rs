//! The rows of the metadata tree: the facts of the file, its model, and its plain values.

use std::collections::HashSet;

use ckpt_inspect::CheckpointRecord;
use serde_json::{Map, Value, json};

/// Collections of more entries are folded at first.
const UNFOLDED: usize = 24;

/// A line of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueRow {
    /// Number of collections around it.
    pub depth: usize,
    /// Its key or index.
    pub key: String,
    /// Keys and indices joined by dots.
    pub path: String,
    /// The value on one line; of a collection, its size.
    pub text: String,
    /// Whether its entries are shown; `None` if it has none.
    pub open: Option<bool>,
}

/// The tree of `record`, where collections whose path is in `toggled` are folded if they would not be, and the other
/// way round.
pub fn rows(record: &CheckpointRecord, toggled: &HashSet<String>) -> Vec<ValueRow> {
    let mut file = Map::new();
    file.insert("path".into(), json!(record.path));
    file.insert("format".into(), json!(record.format));
    file.insert("bytes".into(), json!(record.file_bytes));
    file.insert("parameters".into(), json!(record.parameters));
    file.insert("tensors".into(), json!(record.tensors.len()));
    if let Some(step) = record.step {
        file.insert("step".into(), json!(step));
    }
    if let Some(source) = &record.step_source {
        file.insert("step comes from".into(), json!(source));
    }
    let mut model = Map::new();
    model.insert("architecture".into(), json!(record.model.architecture));
    model.extend(record.model.config.clone());
    let mut all = vec![("file", Value::Object(file))];
    for (key, list) in [("why", &record.reasons), ("warnings", &record.warnings)] {
        if !list.is_empty() {
            all.push((key, json!(list)));
        }
    }
    all.push(("model", Value::Object(model)));
    if !record.model.assumed.is_empty() {
        all.push(("assumed", json!(record.model.assumed)));
    }
    all.push(("metadata", Value::Object(record.metadata.clone())));
    if !record.globals.is_empty() {
        all.push(("globals named, none imported", json!(record.globals)));
    }
    let mut rows = Vec::new();
    for (key, value) in &all {
        list(key, key, value, 0, toggled, &mut rows);
    }
    rows
}

fn list(
    key: &str,
    path: &str,
    value: &Value,
    depth: usize,
    toggled: &HashSet<String>,
    rows: &mut Vec<ValueRow>,
) {
    let len = match value {
        Value::Object(entries) => entries.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    // Short lists of plain values are read on one line.
    let is_plain =
        |items: &[Value]| items.len() <= 6 && items.iter().all(|i| i.is_number() || i.is_boolean());
    let on_one_line = matches!(value, Value::Array(items) if is_plain(items));
    let open = (len > 0 && !on_one_line).then(|| (len <= UNFOLDED) != toggled.contains(path));
    let text = match value {
        Value::Object(_) => format!("{{{len}}}"),
        Value::Array(_) if !on_one_line => format!("[{len}]"),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    rows.push(ValueRow { depth, key: key.into(), path: path.into(), text, open });
    if open != Some(true) {
        return;
    }
    let mut below =
        |key: &str, value: &Value| list(key, &format!("{path}.{key}"), value, depth + 1, toggled, rows);
    match value {
        Value::Object(entries) => entries.iter().for_each(|(key, value)| below(key, value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| below(&i.to_string(), value)),
        _ => {}
    }
}
