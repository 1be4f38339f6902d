//! What remains usable of a run that fell, where to resume it, and what to change.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::decay::{Source, half_life};
use super::{Cause, LayerCause, Pair, last_healthy};
use crate::run::Run;

/// What remains usable and what to do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Prognosis {
    /// The last healthy checkpoint, by its place in the run.
    pub resume: Option<usize>,
    /// The last checkpoint in which every weight that fell later had a comfortable size (std of 0.01 or more), if that
    /// is earlier.
    pub comfortable: Option<usize>,
    /// Share of ternary codes of the weights that fell which agree with the last healthy checkpoint, by elements.
    pub fallen_agreement: Option<f64>,
    /// The same for all other ternary matrices: how much the rest of the network has changed.
    pub other_agreement: Option<f64>,
    /// What to change in the optimizer's settings.
    pub changes: Vec<Change>,
}

/// A setting, and the effect of another value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// The setting.
    pub setting: Setting,
    /// Its value.
    pub from: f64,
    /// The value to set: `from` divided by the least power of ten that gives a half-life of twice the run's length.
    pub to: f64,
    /// Steps in which std halves now.
    pub half_life_now: f64,
    /// Steps in which std would halve.
    pub half_life: f64,
}

/// A setting of an optimizer. As text: its metadata path, or `weight_decay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum Setting {
    /// The weight decay that training is started with.
    WeightDecay,
    /// A value of the optimizer's saved state, at this metadata path: loading the state brings it back.
    Saved(String),
}

const WEIGHT_DECAY: &str = "weight_decay";

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Setting::WeightDecay => WEIGHT_DECAY,
            Setting::Saved(path) => path,
        })
    }
}

impl From<String> for Setting {
    fn from(text: String) -> Self {
        if text == WEIGHT_DECAY { Setting::WeightDecay } else { Setting::Saved(text) }
    }
}

impl From<Setting> for String {
    fn from(setting: Setting) -> Self {
        setting.to_string()
    }
}

/// The lower end of the sizes in which ternary training is comfortable.
const COMFORTABLE: f64 = 0.01;

pub(super) fn prognosis(run: &Run, layers: &[LayerCause], pairs: &[Pair]) -> Option<Prognosis> {
    let fell = |l: &&LayerCause| !matches!(l.cause, Cause::NeverTrained | Cause::ScaleLost);
    let fallen: Vec<&LayerCause> = layers.iter().filter(fell).collect();
    if fallen.is_empty() || run.checkpoints.len() < 2 {
        return None;
    }
    let resume = last_healthy(run);
    let comfortable = |c: &usize| {
        let size = |l: &&LayerCause| run.layers[l.layer].measure(run.tensor(l.layer, *c)?);
        fallen.iter().all(|l| size(l).is_some_and(|s| s >= COMFORTABLE))
    };
    let shrunk = fallen.iter().all(|l| {
        matches!(l.cause, Cause::WeightDecay) && run.layers[l.layer].judged.is_some_and(|j| !j.relative)
    });
    let comfortable = resume
        .filter(|_| shrunk)
        .and_then(|resume| (0..=resume).rev().find(comfortable).filter(|c| *c < resume));
    let last = run.checkpoints.len() - 1;
    let since = pairs
        .iter()
        .filter(|p| Some(p.from) == resume && p.to == last)
        .max_by_key(|p| p.record.tensors.len());
    let names: HashSet<&str> = fallen.iter().map(|l| run.layers[l.layer].name.as_str()).collect();
    let agreement = |wanted: bool| {
        let is_fallen = |name: &str| names.contains(name);
        let tensors = since?.record.tensors.iter().filter(|t| is_fallen(&t.name) == wanted);
        let counted = tensors.filter_map(|t| t.codes.as_ref());
        let sum = counted.fold((0, 0), |sum, c| (sum.0 + c.count, sum.1 + c.flipped));
        (sum.0 > 0).then(|| 1.0 - sum.1 as f64 / sum.0 as f64)
    };
    Some(Prognosis {
        resume,
        comfortable,
        fallen_agreement: agreement(true),
        other_agreement: agreement(false),
        changes: changes(run, &fallen),
    })
}

fn changes(run: &Run, fallen: &[&LayerCause]) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    let length = run.checkpoints.last().and_then(|c| c.step).unwrap_or(0) as f64;
    for decay in fallen.iter().filter(|l| l.cause == Cause::WeightDecay).filter_map(|l| l.decay.as_ref()) {
        let Some(from) = decay.weight_decay.filter(|wd| *wd > 0.0) else { continue };
        let setting = match &decay.source {
            Some(Source::Group(path)) => Setting::Saved(format!("{path}.{WEIGHT_DECAY}")),
            _ => Setting::WeightDecay,
        };
        if changes.iter().any(|c| c.setting == setting) {
            continue;
        }
        let Some(now) = half_life(decay, from) else { continue };
        let mut divisor = 10.0;
        while now * divisor < 2.0 * length && divisor < 1e6 {
            divisor *= 10.0;
        }
        let to = from / divisor;
        if let Some(half_life) = half_life(decay, to) {
            changes.push(Change { setting, from, to, half_life_now: now, half_life });
        }
    }
    changes
}
