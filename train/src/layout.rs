//! Configurations as the seed's trainer writes them into its checkpoints.

use serde_pickle::Value;

use crate::{Settings, plain};

/// What `ckpt report` compares a decline with, under the seed's names.
pub(crate) fn training_config(settings: &Settings) -> Value {
    let o = &settings.optimizer;
    let mut entries = vec![
        ("optimizer", Value::String(o.name.clone())),
        ("weight_decay", Value::F64(o.weight_decay)),
        ("ternary_weight_decay", Value::F64(o.ternary_weight_decay)),
        ("gradient_accumulation_steps", Value::I64(settings.accumulate as i64)),
    ];
    if let Some(lr) = o.lr {
        entries.push((if o.name.contains("muon") { "muon_lr" } else { "learning_rate" }, Value::F64(lr)));
    }
    plain(entries)
}
