//! Training runs: checkpoints of the same network in the order of their steps, and what happened to each matrix over
//! them. Computed from records alone.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::analysis::series;
pub use crate::analysis::series::{Network, network};
use crate::group::without_state_dict;
use crate::record::{CheckpointRecord, TensorRecord};
use crate::tensor::Group;
use crate::trend::{self, Line};
use crate::verdict::{Levels, Thresholds, Verdict, relative_std};

/// Checkpoints of one network from one folder, ordered by step.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Run {
    /// The folder, with a suffix if it contains several runs.
    pub name: String,
    /// Ordered by step; those of unknown step come last, by path.
    pub checkpoints: Vec<CheckpointRecord>,
    /// Every weight tensor of any of the checkpoints.
    pub layers: Vec<Layer>,
    /// Checkpoints of a step that one in the series is of too, such as `best.pt` and `last.ckpt`.
    pub aside: Vec<Aside>,
}

/// A checkpoint that stays out of its run's series.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Aside {
    /// It.
    pub record: CheckpointRecord,
    /// Which checkpoint of the series is of the same step.
    pub same_step_as: usize,
}

/// One weight tensor over the checkpoints of a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Layer {
    /// Its name in the first checkpoint that has it, without the key of the state dict that it was saved in.
    pub name: String,
    /// The name with `*` for numbers: layers of the same pattern do the same work.
    pub pattern: String,
    /// For each checkpoint, its index among the tensors there.
    at: Vec<Option<usize>>,
    /// Levels it is judged by, for [`Layer::measure`]'s value; `None` for tensors that are not judged.
    pub judged: Option<Judged>,
    /// First checkpoint at or below each level: weak, dying, dead.
    pub crossings: Vec<Crossing>,
    /// The course of ln std over steps, for tensors that are judged: a new segment where the slope changed.
    pub segments: Vec<Segment>,
    /// The last segment, if it falls by a fifth at least over three checkpoints or more.
    pub decline: Option<Segment>,
}

/// The scale that a matrix is judged by.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Judged {
    /// Whether std is taken times sqrt(fan_in) (matrices that no BitLinear uses).
    pub relative: bool,
    /// Lower bounds of each level on that scale.
    pub levels: Levels,
}

/// Where a tensor first was at or below a level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Crossing {
    /// The level.
    pub verdict: Verdict,
    /// Index of the first checkpoint there.
    pub checkpoint: usize,
    /// Its step.
    pub step: Option<u64>,
    /// The step of the checkpoint before, which was still above the level.
    pub after: Option<u64>,
    /// Where ln std, interpolated between the two, crossed the level.
    #[serde(default)]
    pub at: Option<f64>,
}

/// A stretch of the run over which ln std follows one straight line: std(t) = std * exp(-rate * (t - to)), as decoupled
/// weight decay alone makes it fall.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Segment {
    /// Fall of ln std per step; negative where std grows.
    pub rate: f64,
    /// Half the width of the rate's 95 % confidence interval; `None` below three points.
    pub interval: Option<f64>,
    /// Share of the variance of ln std that the line explains.
    pub r2: f64,
    /// Measurements that the line was fitted to.
    pub points: u64,
    /// First step.
    pub from: u64,
    /// Last step.
    pub to: u64,
    /// std of the line at `to`.
    pub std: f64,
}

impl Segment {
    /// Steps in which std halves: ln 2 / rate; negative where std grows.
    pub fn half_life(&self) -> f64 {
        std::f64::consts::LN_2 / self.rate
    }

    /// The step at which std is (or was) `level`, if nothing changes.
    pub fn reaches(&self, level: f64) -> f64 {
        self.to as f64 + (self.std / level).ln() / self.rate
    }

    /// Fall of ln std from `from` to `to`.
    pub fn fall(&self) -> f64 {
        self.rate * self.to.abs_diff(self.from) as f64
    }

    /// The stretches of `points` (step, std), in order, each beginning where the one before ends (see
    /// [`trend::pieces`]). Points without positive std, and those whose step is not greater than the one before, are
    /// left out.
    pub fn fit(points: &[(u64, f64)]) -> Vec<Segment> {
        let mut logs: Vec<(f64, f64)> = Vec::with_capacity(points.len());
        for &(step, std) in points.iter().filter(|(_, std)| *std > 0.0 && std.is_finite()) {
            if logs.last().is_none_or(|last| (step as f64) > last.0) {
                logs.push((step as f64, std.ln()));
            }
        }
        let segment = |piece: std::ops::RangeInclusive<usize>| {
            let (from, to) = (logs[*piece.start()].0, logs[*piece.end()].0);
            let line = Line::fit(&logs[piece])?;
            Some(Segment {
                rate: -line.slope,
                interval: line.half_width(),
                r2: line.r2,
                points: line.points,
                from: from as u64,
                to: to as u64,
                std: line.at(to).exp(),
            })
        };
        trend::pieces(&logs).into_iter().filter_map(segment).collect()
    }

    /// Whether this is a decline: three points or more, over which std falls by a fifth at least.
    fn is_decline(&self) -> bool {
        const LEAST_FALL: f64 = 0.2;
        self.points >= 3 && self.rate > 0.0 && self.fall() > LEAST_FALL
    }
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
    /// Sorts `records` into runs: by folder, by the names and shapes of their matrices, and by what their steps and names
    /// say; models that are no run are runs of one checkpoint. Records must have been judged with `thresholds`.
    pub fn group(records: Vec<CheckpointRecord>, thresholds: &Thresholds) -> Vec<Run> {
        let runs = series::runs(records);
        let mut named: BTreeMap<&Path, usize> = BTreeMap::new();
        for (folder, _) in &runs {
            *named.entry(folder).or_default() += 1;
        }
        let names: Vec<String> = runs
            .iter()
            .map(|(folder, checkpoints)| match checkpoints.as_slice() {
                [one] if named[folder.as_path()] > 1 => one.path.clone(),
                [one, rest @ ..] if named[folder.as_path()] > 1 => {
                    format!("{} and {} more", one.path, rest.len())
                }
                _ if folder.as_os_str().is_empty() => ".".to_string(),
                _ => folder.to_string_lossy().into_owned(),
            })
            .collect();
        let new = |(name, (_, checkpoints))| Run::new(name, checkpoints, thresholds);
        names.into_iter().zip(runs).map(new).collect()
    }

    fn new(name: String, checkpoints: Vec<CheckpointRecord>, thresholds: &Thresholds) -> Run {
        let (checkpoints, aside) = series::in_order(checkpoints);
        let mut layers: Vec<Layer> = Vec::new();
        let mut index: BTreeMap<String, usize> = BTreeMap::new();
        for (i, checkpoint) in checkpoints.iter().enumerate() {
            for (j, tensor) in checkpoint.tensors.iter().enumerate() {
                if tensor.group != Group::Weights {
                    continue;
                }
                let layer = *index.entry(without_state_dict(&tensor.name).to_string()).or_insert_with(|| {
                    let name = checkpoint.own_name(&tensor.name);
                    layers.push(Layer {
                        name: name.to_string(),
                        pattern: pattern(name),
                        at: vec![None; checkpoints.len()],
                        judged: None,
                        crossings: Vec::new(),
                        segments: Vec::new(),
                        decline: None,
                    });
                    layers.len() - 1
                });
                layers[layer].at[i].get_or_insert(j);
                if tensor.verdict.is_some() && tensor.stats.is_some() {
                    let relative = tensor.ternary.is_none();
                    // Where size says nothing, no size is too small.
                    let levels = *thresholds.levels(tensor).unwrap_or(&thresholds.tables);
                    layers[layer].judged.get_or_insert(Judged { relative, levels });
                }
            }
        }
        let mut run = Run { name, checkpoints, layers, aside };
        let courses: Vec<(Vec<Crossing>, Vec<Segment>)> = (0..run.layers.len())
            .into_par_iter()
            .map(|i| {
                let crossings =
                    [Verdict::Weak, Verdict::Dying, Verdict::Dead].map(|verdict| run.crossing(i, verdict));
                let judged = run.layers[i].judged.is_some();
                let segments = if judged { Segment::fit(&run.series(i)) } else { Vec::new() };
                (crossings.into_iter().flatten().collect(), segments)
            })
            .collect();
        for (layer, (crossings, segments)) in run.layers.iter_mut().zip(courses) {
            layer.crossings = crossings;
            layer.decline = segments.last().copied().filter(Segment::is_decline);
            layer.segments = segments;
        }
        run
    }

    /// The tensor of layer `layer` in checkpoint `checkpoint`.
    pub fn tensor(&self, layer: usize, checkpoint: usize) -> Option<&TensorRecord> {
        self.checkpoints[checkpoint].tensors.get(self.index(layer, checkpoint)?)
    }

    /// The index of layer `layer` among the tensors of checkpoint `checkpoint`.
    pub fn index(&self, layer: usize, checkpoint: usize) -> Option<usize> {
        self.layers[layer].at[checkpoint]
    }

    /// Whether every checkpoint's step is known and no two are the same, so that things can be shown over steps.
    pub fn has_steps(&self) -> bool {
        let steps: Vec<Option<u64>> = self.checkpoints.iter().map(|c| c.step).collect();
        steps.iter().all(Option::is_some) && steps.windows(2).all(|w| w[0] < w[1])
    }

    /// The step at which layer `layer`, healthy at the last checkpoint, falls below healthy at its present rate, if
    /// that is before the run has taken as many steps again.
    pub fn falls_soon(&self, layer: usize) -> Option<f64> {
        let end = self.checkpoints.last()?.step?;
        let layer = &self.layers[layer];
        let decline = layer.decline.filter(|d| d.to == end)?;
        let healthy = layer.judged?.levels.healthy;
        let step = decline.reaches(healthy);
        (decline.std >= healthy && step < 2.0 * end as f64).then_some(step)
    }

    /// The worst verdict on the last checkpoint.
    pub fn verdict(&self) -> Option<Verdict> {
        self.checkpoints.last()?.verdict
    }

    /// How bad the last checkpoint is (see [`CheckpointRecord::standing`]).
    pub fn standing(&self) -> Option<Verdict> {
        self.checkpoints.last()?.standing()
    }

    /// What people call it: the path of a single checkpoint, else its name.
    pub fn title(&self) -> &str {
        match self.checkpoints.as_slice() {
            [one] if self.aside.is_empty() => &one.path,
            _ => &self.name,
        }
    }

    /// Whether there are several checkpoints: a single one may be any model.
    pub fn is_series(&self) -> bool {
        self.checkpoints.len() > 1
    }

    /// Step and judged measure of layer `layer`, where both are known.
    pub fn series(&self, layer: usize) -> Vec<(u64, f64)> {
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
        let step = self.checkpoints[checkpoint].step;
        let after_step = after.and_then(|i| self.checkpoints[i].step);
        let measure = |i: usize| self.layers[layer].measure(self.tensor(layer, i)?);
        let at = || {
            let level = self.layers[layer].judged?.levels.bound(verdict)?;
            let (from, to) = (after_step? as f64, step? as f64);
            let (high, low) = (measure(after?)?, measure(checkpoint)?);
            // A matrix may be dead for a reason other than its std.
            let crossed = low > 0.0 && low < level && level <= high;
            crossed.then(|| from + (to - from) * (high / level).ln() / (high / low).ln())
        };
        Some(Crossing { verdict, checkpoint, step, after: after_step, at: at() })
    }
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
    fn a_decline_is_fitted_where_it_is_steady() {
        let decay = |t: u64| (t, 0.02 * (-2.5e-4 * t as f64).exp());
        let mut points = vec![(0, 0.5), (1000, 0.3)];
        points.extend((2..9).map(|i| decay(1000 * i)));
        let fit = *Segment::fit(&points).last().unwrap();
        assert_eq!((fit.from, fit.to, fit.points), (2000, 8000, 7));
        assert!((fit.rate / 2.5e-4 - 1.0).abs() < 1e-9);
        assert!((fit.half_life() - 2772.6).abs() < 0.1);
        assert!((fit.reaches(decay(20_000).1) - 20_000.0).abs() < 1e-3);
        assert!((fit.fall() - 1.5).abs() < 1e-9);
        assert!(fit.is_decline());
        let last = |points: &[(u64, f64)]| Segment::fit(points).last().copied();
        let declines = |points: &[(u64, f64)]| last(points).is_some_and(|s| s.is_decline());
        assert!(!declines(&points[..2]));
        assert!(!declines(&(0..9).map(|i| (i, 0.02)).collect::<Vec<_>>()));
        let growing: Vec<(u64, f64)> = (0..9).map(|i| (i, 0.02 * (i + 1) as f64)).collect();
        assert!(!declines(&growing) && last(&growing).unwrap().rate < 0.0);
        assert_eq!(last(&[(5, 0.3), (5, 0.2), (5, 0.1)]), None);
        assert_eq!(last(&[(5, 0.0), (6, f64::NAN), (7, 0.1)]), None);
    }
}
