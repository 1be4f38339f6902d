//! All tensors of a checkpoint, as the rules that compare them need them.

use crate::meaning::role::{Role, families};
use crate::record::{CheckpointRecord, TensorRecord};
use crate::tensor::Group;

/// A checkpoint's tensors, by family.
pub(crate) struct Network<'r> {
    pub record: &'r CheckpointRecord,
    /// Indices of weights that differ only in the numbers in their names, families in the order of their first.
    pub families: Vec<Vec<usize>>,
}

impl<'r> Network<'r> {
    pub fn of(record: &'r CheckpointRecord) -> Self {
        let mut all: Vec<Vec<usize>> = families(record.tensors.iter().map(|t| t.name.as_str()))
            .into_values()
            .map(|mut family| {
                family.retain(|&i| record.tensors[i].group == Group::Weights);
                family
            })
            .filter(|family| !family.is_empty())
            .collect();
        all.sort_by_key(|family| family[0]);
        Network { record, families: all }
    }

    pub fn tensor(&self, i: usize) -> &'r TensorRecord {
        &self.record.tensors[i]
    }

    /// Whether the gains of its normalizations are all exactly 1, as they begin: then nothing has been trained. `None`
    /// where it has none.
    pub fn is_as_initialized(&self) -> Option<bool> {
        let mut gains = self
            .record
            .tensors
            .iter()
            .filter(|t| t.role == Role::NormGain && t.group == Group::Weights)
            .filter_map(|t| t.stats.as_ref())
            .filter(|s| s.count > 1)
            .peekable();
        gains.peek()?;
        Some(gains.all(|s| matches!((s.min, s.max), (Some(a), Some(b)) if a == b && (a == 1.0 || a == 0.0))))
    }
}
