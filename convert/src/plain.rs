//! Which plain values of a checkpoint are kept: its config and step, not its schedulers.

use std::collections::{BTreeMap, HashSet};

use ckpt_inspect::metadata::{HashableValue, Value, from_json};
use ckpt_inspect::{Checkpoint, Format, ModelConfig};
use serde_json::json;

use crate::source::gguf_student;

/// Whether the values of a checkpoint's key are only needed for training.
pub(crate) fn is_training_state(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.contains("optim")
        || key.contains("scheduler")
        || key.contains("rng")
        || key.contains("random")
        || key == "training_state"
        || key == "train_state"
        || key == "dataloader"
        || key == "scaler"
        || key.starts_with("grad_scaler")
}

/// `value` without what is only needed for training, where it is what a program keeps of a model and its optimizer under
/// one key.
pub(crate) fn without_training(value: &Value) -> Value {
    let Value::Dict(entries) = value else { return value.clone() };
    let is_optimizer = |value: &Value| match value {
        Value::Dict(own) => own.keys().any(|key| key_text(key).split('.').next() == Some("param_groups")),
        _ => false,
    };
    let has_model = entries.iter().any(|(key, value)| {
        matches!(key_text(key).as_str(), "model" | "model_state_dict" | "state_dict")
            && matches!(value, Value::Dict(_))
    });
    if !has_model || !entries.values().any(is_optimizer) {
        return value.clone();
    }
    let kept = entries.iter().filter(|(key, _)| !is_training_state(&key_text(key)));
    Value::Dict(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// A key as text.
pub(crate) fn key_text(key: &HashableValue) -> String {
    match key {
        HashableValue::String(text) => text.clone(),
        HashableValue::I64(i) => i.to_string(),
        other => other.to_string(),
    }
}

/// The values of a PyTorch object other than its tensors and its training state.
pub(crate) fn values_of(entries: &BTreeMap<HashableValue, Value>) -> BTreeMap<HashableValue, Value> {
    let empty = |value: &Value| match value {
        Value::Dict(inner) => inner.is_empty(),
        Value::List(inner) => inner.is_empty(),
        _ => false,
    };
    entries
        .iter()
        .filter(|(key, _)| !is_training_state(&key_text(key)) && key_text(key) != "packed")
        .map(|(key, value)| (key.clone(), without_training(value)))
        .filter(|(_, value)| !empty(value))
        .collect()
}

/// The plain values of SafeTensors and GGUF files that other formats can use. Their numbers are text there.
pub(crate) fn carried(
    source: &Checkpoint,
    entries: &BTreeMap<HashableValue, Value>,
) -> BTreeMap<HashableValue, Value> {
    if matches!(source.format, Format::Gguf { .. }) {
        return gguf_student(source).map(|student| of_trainer(source, &student)).unwrap_or_default();
    }
    let tied: HashSet<&str> = source.tensors.iter().map(|t| t.name.as_str()).collect();
    let number = |text: &str| match (text.parse::<i64>(), text.parse::<f64>()) {
        (Ok(n), _) => Some(Value::I64(n)),
        (_, Ok(x)) if text.contains(['.', 'e']) => Some(Value::F64(x)),
        _ => None,
    };
    entries
        .iter()
        .filter(|(key, value)| {
            let names_a_tensor = matches!(value, Value::String(text) if tied.contains(text.as_str()));
            !names_a_tensor && !matches!(key_text(key).as_str(), "format" | "config.json")
        })
        .map(|(key, value)| {
            let value = match value {
                Value::String(text) => number(text).unwrap_or_else(|| value.clone()),
                other => other.clone(),
            };
            (key.clone(), value)
        })
        .collect()
}

/// What a trainer saves next to the weights, for the student of a GGUF file. `latent` is false where the matrices of
/// its BitLinears hold codes times a scale: see [`ckpt_inspect::Model::holds_codes`].
fn of_trainer(source: &Checkpoint, student: &ModelConfig) -> BTreeMap<HashableValue, Value> {
    let mut config = student.to_trainer();
    if source.model.holds_codes() {
        config.insert("latent".into(), json!(false));
    }
    BTreeMap::from([(HashableValue::String("config".into()), from_json(json!({"model": config})))])
}
