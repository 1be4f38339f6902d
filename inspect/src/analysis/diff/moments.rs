//! Whose an optimizer's tensors are, whether it keeps them under the number of their weight or under its name.

use std::collections::HashMap;

use crate::checkpoint::Checkpoint;
use crate::meaning::{optimizer, wrappers};
use crate::tensor::TensorInfo;

/// The weights that what a checkpoint's optimizers keep belongs to, by the path of what is kept of each.
pub(super) struct States(HashMap<String, String>);

impl States {
    /// Those of `checkpoint`.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let groups = optimizer::training(checkpoint).map(|training| training.groups).unwrap_or_default();
        let name = |index: &u32| checkpoint.tensors.get(*index as usize).map(|tensor| tensor.name.as_str());
        let mut weights = HashMap::new();
        for group in &groups {
            for (weight, moments) in group.tensors.iter().zip(&group.moments) {
                let mut states = moments.iter().filter_map(|moment| Some(name(moment)?.rsplit_once('.')?.0));
                if let (Some(weight), Some(state)) = (name(weight), states.next()) {
                    weights.insert(state.to_string(), weight.to_string());
                }
            }
        }
        States(weights)
    }

    /// What the optimizer's tensor `tensor` is in any checkpoint: the weight as others call it, and what is kept of it.
    pub fn called(&self, tensor: &TensorInfo, canonical: &dyn Fn(&str) -> String) -> Option<String> {
        let (state, kept) = tensor.name.rsplit_once('.')?;
        let weight = self.0.get(state)?;
        Some(format!("{} of {}", kept, canonical(&wrappers::unwrapped(weight))))
    }
}
