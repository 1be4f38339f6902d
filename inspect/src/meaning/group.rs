//! What a tensor is for, derived from its path.

use crate::meaning::optimizer::STATE;
use crate::tensor::TensorInfo;
use crate::{DType, Group};

/// The key under which a trainer keeps the state dict of its model.
pub const MODEL_STATE: &str = "model_state_dict";

/// Keys under which trainers keep a state dict.
pub(crate) const STATE_DICTS: [&str; 16] = [
    MODEL_STATE,
    "state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "generator",
    "discriminator",
    "ema",
    "ema_state_dict",
    "model_ema",
    "teacher",
    "student",
];

/// Keys under which programs keep a state dict of several, the model's and the optimizer's, as PyTorch's recipe for
/// distributed checkpoints has it.
const APPLICATIONS: [&str; 2] = ["app", "app_state"];

/// What follows the key of a state dict in `name`, if that is below the key of a program.
pub(crate) fn in_application(name: &str) -> Option<&str> {
    let (first, rest) = name.split_once('.')?;
    let (second, inner) = rest.split_once('.')?;
    (APPLICATIONS.contains(&first) && STATE_DICTS.contains(&second)).then_some(inner)
}

/// Integer buffers that belong to a module.
const INTEGER_BUFFERS: [&str; 4] =
    ["num_batches_tracked", "position_ids", "relative_position_index", "attn_mask"];

/// `name` without the key that holds the state dict: `model_state_dict.layers.0.w` is `layers.0.w`, and so is
/// `app.model.layers.0.w`. The `model.` of Hugging Face names is part of the name and stays.
pub fn without_state_dict(name: &str) -> &str {
    if let Some(inner) = in_application(name) {
        return inner;
    }
    match name.split_once('.') {
        Some((first, rest)) if first != "model" && STATE_DICTS.contains(&first) => rest,
        _ => name,
    }
}

/// Whether programs keep a state dict under a key called so.
pub fn holds_state_dict(key: &str) -> bool {
    STATE_DICTS.contains(&key)
}

/// Whether programs keep the moving average of a network's weights under a key called so.
pub fn is_average_key(key: &str) -> bool {
    key.split(['_', '.']).any(|word| ["ema", "averaged", "average", "avg", "swa"].contains(&word))
}

/// Whether programs keep the state of an optimizer under a key called so, in small letters.
fn is_optimizer_key(key: &str) -> bool {
    key.starts_with("optim")
        || key.starts_with("opt_state")
        || key.ends_with("optimizer")
        || key.ends_with("optimizer_state_dict")
}

/// Whether trainers keep random states, schedulers and counters under a key called so, in small letters.
fn is_trainer_key(key: &str) -> bool {
    key.contains("scheduler")
        || key.contains("rng")
        || key.contains("random")
        || ["training_state", "train_state", "dataloader"].contains(&key)
}

/// Whether what programs keep under `key` is only needed for training.
pub fn is_training_state(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    is_optimizer_key(&key)
        || key.contains("optim")
        || is_trainer_key(&key)
        || key == "scaler"
        || key.starts_with("grad_scaler")
}

/// Whether a tensor called `name` is what an optimizer keeps.
pub fn is_of_optimizer(name: &str) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    let last = parts.last().copied().unwrap_or("");
    let nested = parts.len() > 1;
    let state = STATE.iter().find(|state| state.name == last);
    // A network may have a part of that name, whose weights are called like any.
    let is_state = |part: &&str| part.contains("state") || STATE.iter().any(|state| state.name == *part);
    if matches!(last, "weight" | "bias") && parts.len() > 2 && !parts.iter().any(is_state) {
        return false;
    }
    parts[..parts.len() - 1].iter().take(3).any(|key| is_optimizer_key(&key.to_ascii_lowercase()))
        || (nested && parts[0] == "state" && (last == "step" || state.is_some()))
        || (nested && state.is_some_and(|state| state.certain))
}

/// What `tensor` is for, from its path and type.
pub(crate) fn group(tensor: &TensorInfo) -> Group {
    if is_of_optimizer(&tensor.name) {
        return Group::Optimizer;
    }
    let parts: Vec<&str> = tensor.name.split('.').collect();
    let last = parts.last().copied().unwrap_or("");
    let lower = parts[0].to_ascii_lowercase();
    let nested = parts.len() > 1;
    // What Megatron-Core saves of each rank by itself.
    let of_rank = |part: &&str| part.split_once('/').is_some_and(|(_, shard)| shard.starts_with("shard_"));
    if is_trainer_key(&lower) || parts.iter().any(of_rank) {
        return Group::Other;
    }
    let in_state_dict = nested && STATE_DICTS.contains(&parts[0]) || in_application(&tensor.name).is_some();
    let belongs = tensor.dtype.is_float()
        || tensor.dtype.is_complex()
        || tensor.dtype.element_size().is_none()
        || matches!(tensor.dtype, DType::QI8 | DType::QU8 | DType::QI32)
        || in_state_dict
        || INTEGER_BUFFERS.contains(&last)
        || (tensor.shape.len() >= 2 && last.contains("weight"));
    if belongs { Group::Weights } else { Group::Other }
}
