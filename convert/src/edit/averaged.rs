//! What is told of an average.

use std::fmt;

use ckpt_inspect::{Checkpoint, DType};
use serde_json::json;

use super::average::{ROW, Weights};
use super::{Change, listed};

/// Several checkpoints of which the mean was made.
#[derive(Clone, Debug)]
pub(super) struct Averaged {
    pub paths: Vec<String>,
    pub steps: Vec<Option<u64>>,
    pub factors: Vec<f64>,
    pub tensors: usize,
    pub weights: Weights,
}

impl Averaged {
    /// What each counts, of 1.
    fn shares(&self) -> Vec<f64> {
        let total: f64 = self.factors.iter().sum();
        self.factors.iter().map(|factor| factor / total).collect()
    }
}

impl fmt::Display for Averaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "averaged {} of {} checkpoints", super::tensors(self.tensors), self.paths.len())?;
        let steps: Option<Vec<u64>> = self.steps.iter().copied().collect();
        if let Some(steps) = steps.filter(|steps| steps.is_sorted_by(|a, b| a < b)) {
            write!(f, ", steps {} to {}", steps[0], steps[steps.len() - 1])?;
        }
        match &self.weights {
            Weights::Equal => Ok(()),
            Weights::Given(_) => {
                let shares: Vec<String> = self.shares().iter().map(|share| format!("{share:.3}")).collect();
                write!(f, ", which count {}", shares.join(", "))
            }
            Weights::Ema(decay) => write!(f, ", as a moving average with the decay {decay}"),
        }
    }
}

impl Change for Averaged {
    fn record(&self) -> serde_json::Value {
        let ema = match self.weights {
            Weights::Ema(decay) => Some(decay),
            _ => None,
        };
        json!({
            "edit": ROW.flag,
            "sources": self.paths,
            "steps": self.steps,
            "weights": self.shares(),
            "ema": ema,
            "tensors": self.tensors,
        })
    }
}

/// What two checkpoints of one average say differently of the model that they hold.
#[derive(Debug)]
pub(super) struct OtherModel {
    pub paths: [String; 2],
    pub differ: Vec<String>,
}

/// The settings of two models that differ where both are told, as `name one -> other`.
pub(super) fn settings_that_differ(one: &Checkpoint, other: &Checkpoint) -> Vec<String> {
    let (Ok(a), Ok(b)) = (one.model.given(), other.model.given()) else { return Vec::new() };
    let shown = |architecture: Option<&'static ckpt_inspect::meaning::architecture::Architecture>| {
        architecture.map(|architecture| architecture.name.to_string())
    };
    let number = |n: Option<usize>| n.map(|n| n.to_string());
    let real = |x: Option<f64>| x.map(|x| x.to_string());
    let settings = [
        ("architecture", shown(a.architecture), shown(b.architecture)),
        ("num_heads", number(a.num_heads), number(b.num_heads)),
        ("num_kv_heads", number(a.num_kv_heads), number(b.num_kv_heads)),
        ("head_dim", number(a.head_dim), number(b.head_dim)),
        ("rope_base", real(a.rope_base), real(b.rope_base)),
        ("norm_eps", real(a.norm_eps), real(b.norm_eps)),
    ];
    let differ =
        settings.into_iter().filter_map(|(name, a, b)| Some((name, a?, b?))).filter(|(_, a, b)| a != b);
    differ.map(|(name, a, b)| format!("{name} {a} -> {b}")).collect()
}

impl fmt::Display for OtherModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, last] = &self.paths;
        write!(
            f,
            "{} and {} are models of different settings, and their weights may not mean the same: {}",
            one.escape_debug(),
            last.escape_debug(),
            self.differ.join(", ")
        )
    }
}

impl Change for OtherModel {
    fn record(&self) -> serde_json::Value {
        json!({"edit": ROW.flag, "paths": self.paths, "settings_that_differ": self.differ})
    }

    fn is_warning(&self) -> bool {
        true
    }
}

/// Tensors of whole numbers that are the last checkpoint's.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub names: Vec<String>,
    pub equal: usize,
    pub path: String,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, whose) = if self.names.len() == 1 { ("differs", "is") } else { ("differ", "are") };
        write!(
            f,
            "{} of whole numbers {verb}, and {whose} that of {}: {}",
            super::tensors(self.names.len()),
            self.path.escape_debug(),
            listed(self.names.iter().map(String::as_str))
        )
    }
}

impl Change for Taken {
    fn record(&self) -> serde_json::Value {
        json!({"edit": ROW.flag, "differing": self.names, "equal": self.equal, "taken_from": self.path})
    }

    fn is_warning(&self) -> bool {
        true
    }
}

/// Weights that another checkpoint holds in another type than the last one, which has the result's.
#[derive(Clone, Debug)]
pub(super) struct OtherTypes {
    names: Vec<String>,
    path: String,
    dtypes: [DType; 2],
}

impl OtherTypes {
    /// Adds to `all` that the checkpoint `path` holds `name` in the first of `dtypes`, and the last one in the second.
    pub fn add(all: &mut Vec<Self>, path: &str, dtypes: [DType; 2], name: &str) {
        match all.iter_mut().find(|one| one.path == path && one.dtypes == dtypes) {
            Some(one) => one.names.push(name.into()),
            None => all.push(OtherTypes { names: vec![name.into()], path: path.into(), dtypes }),
        }
    }
}

impl fmt::Display for OtherTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, [theirs, ours]) = (self.path.escape_debug(), self.dtypes);
        write!(
            f,
            "{} {} {theirs} in {path}, and {ours} in the last checkpoint and the result: {}",
            super::tensors(self.names.len()),
            if self.names.len() == 1 { "is" } else { "are" },
            listed(self.names.iter().map(String::as_str))
        )
    }
}

impl Change for OtherTypes {
    fn record(&self) -> serde_json::Value {
        let dtypes = self.dtypes.map(|dtype| dtype.to_string());
        json!({"edit": ROW.flag, "other_types": self.names, "path": self.path, "dtypes": dtypes})
    }

    fn is_warning(&self) -> bool {
        true
    }
}
