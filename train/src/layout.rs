//! Configurations as the original trainer of bitnet-student writes them into its checkpoints.

use ckpt_inspect::metadata::Value;

use crate::{Settings, plain};

/// The settings that `ckpt report` compares a decline with, under that trainer's names.
pub(crate) fn training_config(settings: &Settings) -> Value {
    let o = &settings.optimizer;
    let (weight_decay, ternary_weight_decay) = o.weight_decay();
    let mut entries = vec![
        ("optimizer", Value::String(settings.optimizer.name())),
        ("weight_decay", Value::F64(weight_decay)),
        ("ternary_weight_decay", Value::F64(ternary_weight_decay)),
        ("gradient_accumulation_steps", Value::I64(settings.accumulate as i64)),
    ];
    entries.extend(o.rates().iter().map(|rate| (rate.setting, Value::F64(rate.lr))));
    plain(entries)
}
