//! Two checkpoints of a run, matrix by matrix: whether a weight kept its direction, and how its ternary codes changed.

use std::collections::HashMap;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Suspicion;
use crate::diff::{self, CodeDiff, Status, diff_tensors};
use crate::run::Run;
use crate::{Cache, Checkpoint, Group, Verdict, without_state_dict};

/// Weights of one checkpoint compared with those of a later one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PairRecord {
    /// The requested matrices that both have, by name.
    pub tensors: Vec<PairTensor>,
}

/// One matrix in both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PairTensor {
    /// Its name as it was asked for.
    pub name: String,
    /// Whether all its values are the same.
    pub unchanged: bool,
    /// Cosine of the angle between the two as vectors; `None` when either is zero or could not be read.
    pub cosine: Option<f64>,
    /// How the codes -1, 0, +1 changed, for matrices that a BitLinear uses or that are packed ternary.
    pub codes: Option<CodeDiff>,
}

/// A pair of checkpoints, by their place in the run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Pair {
    /// The earlier one.
    pub from: usize,
    /// The later one.
    pub to: usize,
    /// Whether it is a link of the chain that leads through the run.
    pub link: bool,
    /// The comparison.
    pub record: PairRecord,
}

impl Pair {
    /// The comparison of the matrix `name`.
    pub fn tensor(&self, name: &str) -> Option<&PairTensor> {
        let tensors = &self.record.tensors;
        tensors.get(tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok()?)
    }
}

/// A pair that an explanation needs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PairRequest {
    /// The earlier checkpoint, by its place in the run.
    pub from: usize,
    /// The later one.
    pub to: usize,
    /// Whether it is a link of the chain that leads through the run.
    pub link: bool,
    /// Names of the matrices to compare.
    pub names: Vec<String>,
}

impl PairRequest {
    /// The pair that was asked for, with the `record` of its comparison.
    pub fn answered(&self, record: PairRecord) -> Pair {
        Pair { from: self.from, to: self.to, link: self.link, record }
    }
}

/// The most pairs of consecutive checkpoints that are compared; in longer runs, checkpoints 2, 4, 8 … apart are.
const MOST_PAIRS: usize = 32;

/// Which checkpoints to compare so that [`super::explain`] can say what happened to `run`: none if nothing did.
pub fn pairs_needed(run: &Run) -> Vec<PairRequest> {
    let suspects = super::suspects(run);
    let named = |wanted: &dyn Fn(Suspicion) -> bool| -> Vec<String> {
        suspects.iter().filter(|(_, s)| wanted(*s)).map(|(l, _)| run.layers[*l].name.clone()).collect()
    };
    let moving = named(&|s| matches!(s, Suspicion::Fallen | Suspicion::Shrinking));
    let still = named(&|s| s == Suspicion::Unchanged);
    if !run.has_steps() {
        return Vec::new();
    }
    let whole: Vec<usize> = (0..run.checkpoints.len()).filter(|&c| !run.checkpoints[c].damaged).collect();
    let (Some(&first), Some(&last)) = (whole.first(), whole.last()) else { return Vec::new() };
    if first == last {
        return Vec::new();
    }
    let mut requests = Vec::new();
    if !moving.is_empty() {
        let mut stride = 1;
        while (whole.len() - 1).div_ceil(stride) > MOST_PAIRS {
            stride *= 2;
        }
        let mut chain: Vec<usize> = whole.iter().copied().step_by(stride).collect();
        if chain.last() != Some(&last) {
            chain.push(last);
        }
        requests.extend(chain.windows(2).map(|w| PairRequest {
            from: w[0],
            to: w[1],
            link: true,
            names: moving.clone(),
        }));
        if let Some(healthy) = last_healthy(run).filter(|&h| h < last) {
            let ternary = |l: &usize| run.tensor(*l, last).is_some_and(|t| t.ternary.is_some());
            let names = (0..run.layers.len()).filter(ternary).map(|l| run.layers[l].name.clone()).collect();
            requests.push(PairRequest { from: healthy, to: last, link: false, names });
        }
    }
    if !still.is_empty() {
        requests.push(PairRequest { from: first, to: last, link: false, names: still });
    }
    requests
}

/// The last checkpoint of the run that is healthy throughout.
pub fn last_healthy(run: &Run) -> Option<usize> {
    (0..run.checkpoints.len()).rev().find(|&c| run.checkpoints[c].verdict == Some(Verdict::Healthy))
}

/// Compares the matrices called `names` (with the key of their state dict or without it) of `a` with those of `b`, in
/// parallel. One that either lacks, or whose values cannot be read, is left out.
pub fn compare(a: &Checkpoint, b: &Checkpoint, names: &[String]) -> PairRecord {
    let index = |checkpoint: &Checkpoint| {
        let weights = || checkpoint.tensors.iter().enumerate().filter(|(_, t)| t.group == Group::Weights);
        let mut index: HashMap<String, usize> = HashMap::new();
        weights().for_each(|(i, tensor)| _ = index.entry(tensor.name.clone()).or_insert(i));
        for (i, tensor) in weights() {
            index.entry(without_state_dict(&tensor.name).to_string()).or_insert(i);
        }
        index
    };
    let find = |index: &HashMap<String, usize>, name: &str| {
        index.get(name).or_else(|| index.get(without_state_dict(name))).copied()
    };
    let (in_a, in_b) = (index(a), index(b));
    let mut tensors: Vec<PairTensor> = names
        .par_iter()
        .filter_map(|name| {
            let (left, right) = (&a.tensors[find(&in_a, name)?], &b.tensors[find(&in_b, name)?]);
            let diff = diff_tensors((a, left), (b, right), diff::Options::default());
            let unchanged = match diff.status {
                Status::Same => true,
                Status::Retyped | Status::Changed => false,
                _ => return None,
            };
            let cosine = match &diff.values {
                Some(values) => values.cosine,
                None => unchanged.then_some(1.0),
            };
            Some(PairTensor { name: name.clone(), unchanged, cosine, codes: diff.ternary })
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    PairRecord { tensors }
}

impl Cache {
    /// The record that [`Cache::put_pair`] stored for `paths`, if none of the files has changed.
    pub fn get_pair(&self, paths: [&Path; 2], options: &str) -> Option<PairRecord> {
        self.read(&self.entry(&paths, options)?)
    }

    /// Stores `record`, made from two checkpoints, which were opened by `paths`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn put_pair(
        &self,
        paths: [&Path; 2],
        options: &str,
        checkpoints: [&Checkpoint; 2],
        record: &PairRecord,
    ) -> std::io::Result<()> {
        let Some(target) = self.entry(&paths, options) else { return Ok(()) };
        self.write(&target, checkpoints.iter().flat_map(|c| c.stamps()).collect(), record)
    }
}
