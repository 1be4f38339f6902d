//! What torchao's header of SafeTensors says of each tensor, under its name: the class of an instance, and the parts that it
//! was taken apart into (<https://github.com/pytorch/ao>, `prototype/safetensors`).

use std::collections::HashMap;

use ckpt_inspect::Checkpoint;
use ckpt_inspect::metadata::{HashableValue, Value, lookup};

use crate::{Error, Result};

/// The list of all tensors that are described.
const LIST: &str = "tensor_names";
const FIELDS: &str = "_tensor_data_names";
const CLASS: &str = "_type";

/// The name of the part `field` of the instance `name`.
fn part(name: &str, field: &str) -> Option<String> {
    let (module, own) = name.rsplit_once('.')?;
    Some(format!("{module}._{own}_{field}"))
}

/// The plain values of `checkpoint` once its tensors have these `names`, and what is described the name that `rename` gives it.
///
/// # Errors
/// The name of an instance whose parts would not be called after it any more.
pub(super) fn renamed(
    checkpoint: &Checkpoint,
    names: &[String],
    rename: &dyn Fn(&str) -> String,
) -> Result<Value> {
    let Value::Dict(entries) = &checkpoint.metadata else { return Ok(checkpoint.metadata.clone()) };
    let describes = |value: &Value| matches!(lookup(value, CLASS), Some(Value::String(_)));
    if !entries.values().any(describes) {
        return Ok(checkpoint.metadata.clone());
    }
    let now: HashMap<&str, &str> =
        checkpoint.tensors.iter().zip(names).map(|(t, name)| (t.name.as_str(), name.as_str())).collect();
    let mut changed = entries.clone();
    for (key, value) in entries {
        let HashableValue::String(old) = key else { continue };
        if !describes(value) {
            continue;
        }
        let new = rename(old);
        let fields = match lookup(value, FIELDS) {
            Some(Value::List(fields)) => fields.as_slice(),
            _ => &[],
        };
        for field in fields {
            let Value::String(field) = field else { continue };
            if let Some(own) = part(old, field)
                && let Some(called) = now.get(own.as_str())
                && part(&new, field).as_deref() != Some(called)
            {
                let why = format!(
                    "`{}` would be renamed to `{}`, and `{}`, of which it is a part, to `{}`: torchao would not find it",
                    own.escape_debug(),
                    called.escape_debug(),
                    old.escape_debug(),
                    new.escape_debug()
                );
                return Err(Error::of_source(checkpoint, why));
            }
        }
        if new != *old
            && let Some(value) = changed.remove(key)
        {
            changed.insert(HashableValue::String(new), value);
        }
    }
    if let Some(Value::List(listed)) = changed.get_mut(&HashableValue::String(LIST.into())) {
        for name in listed {
            if let Value::String(name) = name {
                *name = rename(name);
            }
        }
    }
    Ok(Value::Dict(changed))
}
