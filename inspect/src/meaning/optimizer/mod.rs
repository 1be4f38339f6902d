//! What the optimizers in a checkpoint do to each weight: learning rate, weight decay, and how fast the two together
//! shrink a weight that gets no gradient.
//!
//! Optimizer state dicts are PyTorch's: `{state: {i: {…}}, param_groups: [{lr, weight_decay, …, params: [i, …]}]}`,
//! parameters numbered from group to group, within a group in the model's order. Several optimizers lie side by side
//! (`{muon: …, adamw: …}`). The file does not say which weight has which number: that is derived from the shapes of the
//! moments, else from counts; if neither decides, it stays unknown.

mod decay;
mod foreign;
mod kind;
mod state_dict;

use serde::{Deserialize, Serialize};

pub use self::decay::decoupled_rate;
pub(crate) use self::foreign::foreign;
pub use self::kind::{DecayRule, Kind};
pub(crate) use self::kind::{FIRST, MOMENTUM, SECOND, STATE};
use crate::checkpoint::Checkpoint;
use crate::metadata::{as_f64, lookup};
pub use crate::torch::PARAM_GROUPS;

/// Whether state whose name ends so is a mean of squares, or otherwise never negative.
pub(crate) fn is_of_squares(last: &str) -> bool {
    STATE.iter().any(|state| state.squares && state.name == last)
}

/// The training settings when a checkpoint was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrainingRecord {
    /// Parameter groups of every optimizer.
    pub groups: Vec<ParamGroup>,
    /// Steps that the optimizers counted themselves.
    pub optimizer_steps: Option<u64>,
    /// Micro-batches per optimizer step, as the config has it.
    pub accumulation: Option<u64>,
    /// Learning rate of matrices as the config has it: where a schedule starts from, or its peak.
    pub config_lr: Option<f64>,
    /// Weight decay of matrices as the config has it.
    pub config_weight_decay: Option<f64>,
}

/// A parameter group of an optimizer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ParamGroup {
    /// Where it is, as a metadata path such as `optimizer_state_dict.muon.param_groups.0`.
    pub path: String,
    /// The optimizer that it belongs to.
    pub kind: Kind,
    /// Learning rate.
    pub lr: Option<f64>,
    /// Weight decay.
    pub weight_decay: Option<f64>,
    /// Momentum of SGD and Muon.
    pub momentum: Option<f64>,
    /// SGD's dampening: the share of the gradient that is not added to the momentum.
    pub dampening: Option<f64>,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Whether this is Muon in the form that scales what it orthogonalised back to the size it had, so that steps
    /// shrink with the gradient.
    #[serde(default)]
    pub keeps_size: bool,
    /// Whether a polarizer follows its steps, which pushes small weights away from zero.
    #[serde(default)]
    pub polarized: bool,
    /// Weights that it certainly updates, as ascending indices of the record's tensors.
    pub tensors: Vec<u32>,
    /// For each of `tensors`, in the same order, the indices of its moments among the record's tensors.
    pub moments: Vec<Vec<u32>>,
}

impl TrainingRecord {
    /// The group that updates tensor `index` of the record.
    pub fn group_of(&self, index: usize) -> Option<&ParamGroup> {
        Some(self.find(index)?.0)
    }

    /// The moments of tensor `index`, as indices of the record's tensors.
    pub fn moments_of(&self, index: usize) -> &[u32] {
        self.find(index).and_then(|(group, at)| group.moments.get(at)).map_or(&[], Vec::as_slice)
    }

    fn find(&self, index: usize) -> Option<(&ParamGroup, usize)> {
        let index = u32::try_from(index).ok()?;
        self.groups.iter().find_map(|g| Some((g, g.tensors.binary_search(&index).ok()?)))
    }
}

/// The training settings of `checkpoint`; `None` where it has none.
pub(crate) fn training(checkpoint: &Checkpoint) -> Option<TrainingRecord> {
    let (groups, optimizer_steps) = state_dict::groups(checkpoint);
    let mut record = TrainingRecord { groups, optimizer_steps, ..TrainingRecord::default() };
    let config = ["config.training", "config", "training", "hyper_parameters", "args", "hparams"];
    let setting = |names: &[&str]| {
        names.iter().find_map(|name| {
            let inside = config.iter().filter_map(|c| lookup(&checkpoint.metadata, c));
            let mut inside = inside.filter_map(|c| lookup(c, name).and_then(as_f64));
            inside.find(|v| v.is_finite() && *v >= 0.0)
        })
    };
    record.accumulation = setting(&[
        "gradient_accumulation_steps",
        "grad_accum_steps",
        "accumulate_grad_batches",
        "accumulation_steps",
        "grad_accum",
    ])
    .filter(|n| n.fract() == 0.0 && (1.0..1e6).contains(n))
    .map(|n| n as u64);
    record.config_lr = setting(&["muon_lr", "learning_rate", "lr", "max_lr"]);
    record.config_weight_decay =
        setting(&["muon_weight_decay", "ternary_weight_decay", "weight_decay", "wd"]);
    (record != TrainingRecord::default()).then_some(record)
}
