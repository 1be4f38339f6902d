//! Training runs: checkpoints of the same network in the order of their steps, and what became of each matrix over
//! them. Made from records alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::names::without_state_dict;
use crate::record::{CheckpointRecord, Group, TensorRecord};
use crate::step_from_path;
use crate::verdict::{Levels, Thresholds, Verdict, relative_std};

/// Checkpoints of one network from one folder, ordered by step.
#[derive(Clone, Debug)]
pub struct Run {
    /// The folder, and what else it takes to tell it from other runs there.
    pub name: String,
    /// By step; those of unknown step last, by path.
    pub checkpoints: Vec<CheckpointRecord>,
    /// Every weight tensor of any of the checkpoints.
    pub layers: Vec<Layer>,
}

/// One weight tensor over the checkpoints of a run.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its name without the key that holds the state dict.
    pub name: String,
    /// The name with `*` for numbers: layers of the same pattern do the same work.
    pub pattern: String,
    /// For each checkpoint, its index among the tensors there.
    at: Vec<Option<usize>>,
    /// Levels it is judged by, for [`Layer::measure`]'s value; `None` for tensors that are not judged.
    pub judged: Option<Judged>,
    /// First checkpoint at or below each level: weak, dying, dead.
    pub crossings: Vec<Crossing>,
    /// The steady decline that its last checkpoints show, if they do.
    pub decline: Option<Decline>,
}

/// By which scale a matrix is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// Whether std is taken times sqrt(fan_in) (matrices that no BitLinear uses).
    pub relative: bool,
    /// Lower bounds of each level on that scale.
    pub levels: Levels,
}

/// Where a tensor first was at or below a level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crossing {
    /// The level.
    pub verdict: Verdict,
    /// Index of the first checkpoint there.
    pub checkpoint: usize,
    /// Its step.
    pub step: Option<u64>,
    /// The step of the checkpoint before, when the level was still better.
    pub after: Option<u64>,
}

/// An exponential decline of std, fitted to the last checkpoints: std(t) = std(from) * exp(-rate * (t - from)), as
/// decoupled weight decay alone makes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decline {
    /// Fall of ln std per step.
    pub rate: f64,
    /// First step of the fit.
    pub from: u64,
    /// Last step of the fit.
    pub to: u64,
    /// std of the fit at `to`.
    pub std: f64,
}

impl Decline {
    /// Steps in which std halves: ln 2 / rate.
    pub fn half_life(&self) -> f64 {
        std::f64::consts::LN_2 / self.rate
    }

    /// The step at which std is (or was) `level`, if nothing changes.
    pub fn reaches(&self, level: f64) -> f64 {
        self.to as f64 + (self.std / level).ln() / self.rate
    }

    /// The line through the last of `points` (step, std), as far back as the rate between neighbours stays the same
    /// within a tenth; least squares on ln std. `None` below three points, or when they do not fall by a fifth.
    pub fn fit(points: &[(u64, f64)]) -> Option<Decline> {
        const SAME: f64 = 0.1;
        const LEAST_FALL: f64 = 0.2;
        let logs: Vec<(f64, f64)> =
            points.iter().filter(|(_, std)| *std > 0.0).map(|&(t, std)| (t as f64, std.ln())).collect();
        let slope = |i: usize| (logs[i - 1].1 - logs[i].1) / (logs[i].0 - logs[i - 1].0);
        let last = logs.len().checked_sub(1)?;
        let mut first = last;
        let mut rate = 0.0;
        while first > 0 {
            let next = slope(first);
            if !next.is_finite() || next <= 0.0 || (first < last && (next / rate - 1.0).abs() > SAME) {
                break;
            }
            first -= 1;
            rate = least_squares(&logs[first..]).0;
        }
        let (rate, end) = least_squares(&logs[first..]);
        let fall = logs[first].1 - logs[last].1;
        (last - first >= 2 && rate > 0.0 && fall > LEAST_FALL).then(|| Decline {
            rate,
            from: logs[first].0 as u64,
            to: logs[last].0 as u64,
            std: end.exp(),
        })
    }
}

/// Fall per unit of x, and the line's value at the last x.
fn least_squares(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let xx: f64 = points.iter().map(|p| (p.0 - mean_x).powi(2)).sum();
    let xy: f64 = points.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum();
    let slope = if xx > 0.0 { xy / xx } else { 0.0 };
    let last_x = points.last().map_or(0.0, |p| p.0);
    (-slope, mean_y + slope * (last_x - mean_x))
}

impl Layer {
    /// The value its level depends on: std, or std * sqrt(fan_in).
    pub fn measure(&self, tensor: &TensorRecord) -> Option<f64> {
        match self.judged {
            Some(Judged { relative: true, .. }) => relative_std(tensor),
            _ => tensor.stats.as_ref()?.std,
        }
    }
}

impl Run {
    /// Sorts `records` into runs: by folder and by the names and shapes of their matrices. Records must have been
    /// judged with `thresholds`.
    pub fn group(records: Vec<CheckpointRecord>, thresholds: &Thresholds) -> Vec<Run> {
        let mut runs: BTreeMap<(PathBuf, Network), Vec<CheckpointRecord>> = BTreeMap::new();
        for record in records {
            runs.entry((folder(Path::new(&record.path)), network(&record))).or_default().push(record);
        }
        let mut named: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for (folder, _) in runs.keys() {
            *named.entry(folder.clone()).or_default() += 1;
        }
        runs.into_iter()
            .map(|((folder, _), checkpoints)| {
                let place = match folder.to_string_lossy() {
                    empty if empty.is_empty() => ".".to_string(),
                    place => place.into_owned(),
                };
                let name = match checkpoints.as_slice() {
                    [one] if named[&folder] > 1 => one.path.clone(),
                    [one, rest @ ..] if named[&folder] > 1 => format!("{} and {} more", one.path, rest.len()),
                    _ => place,
                };
                Run::new(name, checkpoints, thresholds)
            })
            .collect()
    }

    fn new(name: String, mut checkpoints: Vec<CheckpointRecord>, thresholds: &Thresholds) -> Run {
        checkpoints.sort_by(|a, b| {
            let key = |r: &CheckpointRecord| (r.step.is_none(), r.step, r.path.clone());
            key(a).cmp(&key(b))
        });
        let mut layers: Vec<Layer> = Vec::new();
        let mut index: BTreeMap<String, usize> = BTreeMap::new();
        for (i, checkpoint) in checkpoints.iter().enumerate() {
            for (j, tensor) in checkpoint.tensors.iter().enumerate() {
                if tensor.group != Group::Weights {
                    continue;
                }
                let name = without_state_dict(&tensor.name);
                let layer = *index.entry(name.to_string()).or_insert_with(|| {
                    layers.push(Layer {
                        name: name.to_string(),
                        pattern: pattern(name),
                        at: vec![None; checkpoints.len()],
                        judged: None,
                        crossings: Vec::new(),
                        decline: None,
                    });
                    layers.len() - 1
                });
                layers[layer].at[i].get_or_insert(j);
                if tensor.verdict.is_some() && tensor.stats.is_some() {
                    let relative = tensor.ternary.is_none();
                    let levels = if relative { thresholds.relative } else { thresholds.projection };
                    layers[layer].judged.get_or_insert(Judged { relative, levels });
                }
            }
        }
        let mut run = Run { name, checkpoints, layers };
        for i in 0..run.layers.len() {
            let crossings =
                [Verdict::Weak, Verdict::Dying, Verdict::Dead].map(|verdict| run.crossing(i, verdict));
            let decline = Decline::fit(&run.series(i));
            run.layers[i].crossings = crossings.into_iter().flatten().collect();
            run.layers[i].decline = decline.filter(|_| run.layers[i].judged.is_some());
        }
        run
    }

    /// The tensor of layer `layer` in checkpoint `checkpoint`.
    pub fn tensor(&self, layer: usize, checkpoint: usize) -> Option<&TensorRecord> {
        self.checkpoints[checkpoint].tensors.get(self.layers[layer].at[checkpoint]?)
    }

    /// Whether every checkpoint's step is known and no two are the same, so that things can be shown over steps.
    pub fn has_steps(&self) -> bool {
        let steps: Vec<Option<u64>> = self.checkpoints.iter().map(|c| c.step).collect();
        steps.iter().all(Option::is_some) && steps.windows(2).all(|w| w[0] < w[1])
    }

    /// The worst verdict on the last checkpoint.
    pub fn verdict(&self) -> Option<Verdict> {
        self.checkpoints.last()?.verdict
    }

    /// Step and judged measure of layer `layer`, where both are known.
    fn series(&self, layer: usize) -> Vec<(u64, f64)> {
        (0..self.checkpoints.len())
            .filter_map(|i| {
                let step = self.checkpoints[i].step?;
                Some((step, self.layers[layer].measure(self.tensor(layer, i)?)?))
            })
            .collect()
    }

    fn crossing(&self, layer: usize, verdict: Verdict) -> Option<Crossing> {
        let level = |i: usize| {
            let found = self.tensor(layer, i)?.verdict?;
            Some(found >= verdict && found != Verdict::Corrupt)
        };
        let checkpoint = (0..self.checkpoints.len()).find(|&i| level(i) == Some(true))?;
        let above = |i: usize| self.tensor(layer, i).and_then(|t| t.verdict).is_some_and(|v| v < verdict);
        let after = (0..checkpoint).rev().find(|&i| above(i));
        Some(Crossing {
            verdict,
            checkpoint,
            step: self.checkpoints[checkpoint].step,
            after: after.and_then(|i| self.checkpoints[i].step),
        })
    }
}

/// The folder that holds the run: `checkpoint-500/` and its like hold one checkpoint each.
fn folder(path: &Path) -> PathBuf {
    let parent = path.parent().unwrap_or(Path::new(""));
    let own = |p: &Path| p.file_name().and_then(|n| step_from_path(Path::new(n)));
    match parent.parent() {
        Some(above) if own(path).is_none() && own(parent).is_some() => above.to_path_buf(),
        _ => parent.to_path_buf(),
    }
}

/// What tells one network from another: names, without the key of the state dict, and shapes of its matrices, sorted.
pub type Network = Vec<(String, Vec<u64>)>;

/// The network that `record` is a checkpoint of; empty when it has no matrices.
pub fn network(record: &CheckpointRecord) -> Network {
    let mut all: Network = record
        .tensors
        .iter()
        .filter(|t| t.group == Group::Weights && t.shape.len() >= 2)
        .map(|t| (without_state_dict(&t.name).to_string(), t.shape.clone()))
        .collect();
    all.sort();
    all
}

fn pattern(name: &str) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = name.split('.').map(|part| if number(part) { "*" } else { part }).collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_runs() {
        for (path, run) in [
            ("runs/a/step-100.pt", "runs/a"),
            ("runs/a/checkpoint-500", "runs/a"),
            ("runs/a/checkpoint-500/model.safetensors", "runs/a"),
            ("a-2000steps/step-100.pt", "a-2000steps"),
            ("step-100.pt", ""),
        ] {
            assert_eq!(folder(Path::new(path)), Path::new(run), "{path}");
        }
    }

    #[test]
    fn a_decline_is_fitted_where_it_is_steady() {
        let decay = |t: u64| (t, 0.02 * (-2.5e-4 * t as f64).exp());
        let mut points = vec![(0, 0.5), (1000, 0.3)];
        points.extend((2..9).map(|i| decay(1000 * i)));
        let fit = Decline::fit(&points).unwrap();
        assert_eq!((fit.from, fit.to), (2000, 8000));
        assert!((fit.rate / 2.5e-4 - 1.0).abs() < 1e-9);
        assert!((fit.half_life() - 2772.6).abs() < 0.1);
        assert!((fit.reaches(decay(20_000).1) - 20_000.0).abs() < 1e-3);
        assert_eq!(Decline::fit(&points[..2]), None);
        let steady: Vec<(u64, f64)> = (0..9).map(|i| (i, 0.02)).collect();
        assert_eq!(Decline::fit(&steady), None);
        let growing: Vec<(u64, f64)> = (0..9).map(|i| (i, 0.02 * (i + 1) as f64)).collect();
        assert_eq!(Decline::fit(&growing), None);
        assert_eq!(Decline::fit(&[(5, 0.3), (5, 0.2), (5, 0.1)]), None);
    }
}
