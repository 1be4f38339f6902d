//! Leaving out what only training needs.

use std::collections::HashSet;
use std::fmt;

use ckpt_inspect::metadata::Value;
use ckpt_inspect::{Group, TensorInfo, is_training_state};
use serde_json::json;

use super::{Change, Draft, Edit, Row, tensors};
use crate::plain::key_text;
use crate::{Error, Result};

/// `--strip-optimizer`.
pub(super) const ROW: Row = Row {
    flag: "strip-optimizer",
    value: None,
    repeats: false,
    about: "Leave out optimizer state, schedulers and random states, and list what was left out. Other edits leave them out too, unless --keep-optimizer is given",
    settings: &[],
    make: |_| Ok(Box::new(Strip)),
};

/// Leaves out optimizer state, schedulers and random states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Strip;

impl Edit for Strip {
    fn apply(&self, draft: &mut Draft) -> Result<()> {
        if draft.settings.keep_optimizer {
            return Err(Error::target("optimizer state can be stripped or kept, not both"));
        }
        if !strip(draft) {
            let why = "it has no optimizer state, no schedulers and no random states to leave out";
            return Err(Error::of_source(&draft.checkpoint, why));
        }
        Ok(())
    }
}

/// What was left out.
#[derive(Clone, Debug)]
struct Stripped {
    tensors: usize,
    bytes: u64,
    /// Keys of the checkpoint that held nothing else.
    keys: Vec<String>,
}

/// Leaves out what only training needs; whether there was anything.
pub(super) fn strip(draft: &mut Draft) -> bool {
    let is_training = |tensor: &TensorInfo| {
        let first = tensor.name.split('.').next().unwrap_or("");
        tensor.group == Group::Optimizer || (tensor.group == Group::Other && is_training_state(first))
    };
    let source = &draft.checkpoint;
    let gone: HashSet<usize> =
        source.tensors.iter().enumerate().filter(|(_, t)| is_training(t)).map(|(i, _)| i).collect();
    let bytes = gone.iter().map(|&i| source.tensors[i].byte_len().unwrap_or(0)).fold(0, u64::saturating_add);
    let mut keys: Vec<String> = match &source.metadata {
        Value::Dict(entries) => entries.keys().map(key_text).filter(|key| is_training_state(key)).collect(),
        _ => Vec::new(),
    };
    // Those that held nothing but tensors, such as the state of a generator of random numbers.
    for &at in &gone {
        let key = source.tensors[at].name.split('.').next().unwrap_or("");
        if source.tensors[at].group == Group::Other && !keys.iter().any(|known| known == key) {
            keys.push(key.to_string());
        }
    }
    keys.sort_unstable();
    draft.stripped = true;
    if gone.is_empty() && keys.is_empty() {
        return false;
    }
    draft.remove(&gone);
    if let Value::Dict(entries) = &mut draft.checkpoint.metadata {
        entries.retain(|key, _| !is_training_state(&key_text(key)));
    }
    draft.changes.push(Box::new(Stripped { tensors: gone.len(), bytes, keys }));
    true
}

impl fmt::Display for Stripped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("left out what only training needs: ")?;
        if self.tensors > 0 {
            write!(f, "{} ({} bytes)", tensors(self.tensors), self.bytes)?;
        }
        if !self.keys.is_empty() {
            let keys: Vec<String> = self.keys.iter().map(|key| format!("`{}`", key.escape_debug())).collect();
            write!(f, "{}{}", if self.tensors > 0 { ", " } else { "" }, keys.join(", "))?;
        }
        Ok(())
    }
}

impl Change for Stripped {
    fn record(&self) -> serde_json::Value {
        json!({"edit": ROW.flag, "tensors": self.tensors, "bytes": self.bytes, "keys": self.keys})
    }
}
