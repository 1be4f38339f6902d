//! How fast a weight shrank, compared with how fast weight decay alone would have shrunk it.

use serde::{Deserialize, Serialize};

use super::Given;
use crate::optimizer::{Kind, ParamGroup, decoupled_rate};
use crate::run::Run;
use crate::trend::{Line, pieces};

/// A decline of ln std, and what the optimizer's settings predict for the same steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Decay {
    /// First step of the decline.
    pub from: u64,
    /// Last step of the decline.
    pub to: u64,
    /// Measurements in it.
    pub points: u64,
    /// Fall of ln std per step, measured.
    pub rate: f64,
    /// Half the width of its 95 % confidence interval.
    pub interval: Option<f64>,
    /// Share of the variance of ln std that the line explains.
    pub r2: f64,
    /// Steps in which std halves at this rate.
    pub half_life: f64,
    /// Fall of ln std per step under weight decay alone, the mean over these steps.
    pub predicted: Option<f64>,
    /// Measured over predicted: the slope of ln std against the decay accumulated since the first checkpoint.
    pub ratio: Option<f64>,
    /// Half the width of the ratio's 95 % confidence interval.
    pub ratio_interval: Option<f64>,
    /// Share of the fall of ln std since its highest that happened at the predicted rate, within a tenth.
    pub share: Option<f64>,
    /// Checkpoint steps per optimizer step.
    pub accumulation: f64,
    /// Where that number was found.
    pub accumulation_source: AccumulationSource,
    /// Learning rate at the beginning of the decline.
    pub lr_from: Option<f64>,
    /// Learning rate at its end.
    pub lr_to: Option<f64>,
    /// Weight decay.
    pub weight_decay: Option<f64>,
    /// The optimizer.
    pub optimizer: Kind,
    /// Where its settings were found.
    pub source: Option<Source>,
    /// Predicted std at each checkpoint of the decline, (step, std), from the first measurement there.
    pub line: Vec<(u64, f64)>,
}

/// Where an optimizer's settings were found. As text: `given`, `config`, or the metadata path of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum Source {
    /// The user gave it.
    Given,
    /// The config has them.
    Config,
    /// The parameter group at this metadata path has them.
    Group(String),
}

const GIVEN: &str = "given";
const CONFIG: &str = "config";

impl From<String> for Source {
    fn from(text: String) -> Self {
        match text.as_str() {
            GIVEN => Source::Given,
            CONFIG => Source::Config,
            _ => Source::Group(text),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        match source {
            Source::Given => GIVEN.into(),
            Source::Config => CONFIG.into(),
            Source::Group(path) => path,
        }
    }
}

/// How the number of checkpoint steps per optimizer step is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AccumulationSource {
    /// It is assumed to be one, and nothing contradicts that.
    #[default]
    Assumed,
    /// The user gave it.
    Given,
    /// The optimizer counts its own steps.
    Counter,
    /// The config has it, and the rates agree only with it.
    Config,
}

/// Ratio of measured to predicted rate that counts as the same, and the one that counts as consistent with it over
/// other parts of the run.
pub(super) const SAME: f64 = 0.05;
const CONSISTENT: f64 = 0.1;

/// The settings at one checkpoint.
#[derive(Clone, Debug, PartialEq)]
struct Setting {
    lr: Option<f64>,
    weight_decay: Option<f64>,
    rate: Option<f64>,
    kind: Kind,
    source: Option<Source>,
}

fn setting(run: &Run, layer: usize, checkpoint: usize, given: &Given) -> Setting {
    let training = run.checkpoints[checkpoint].training.as_ref();
    let group = training.zip(run.index(layer, checkpoint)).and_then(|(training, index)| {
        // Settings that are the same in all groups apply to every weight.
        let settings = |g: &ParamGroup| (g.lr, g.weight_decay, g.kind);
        let first = training.groups.first();
        let alike = first.filter(|f| training.groups.iter().all(|g| settings(g) == settings(f)));
        training.group_of(index).or(alike)
    });
    let from_config = |of: fn(&crate::optimizer::TrainingRecord) -> Option<f64>| {
        training.filter(|t| t.groups.is_empty()).and_then(of)
    };
    let mut used = group.cloned().unwrap_or_else(|| ParamGroup {
        lr: from_config(|t| t.config_lr),
        weight_decay: from_config(|t| t.config_weight_decay),
        ..ParamGroup::default()
    });
    let source = match (given.lr.is_some() || given.weight_decay.is_some(), group) {
        (true, _) => Some(Source::Given),
        (false, Some(group)) => Some(Source::Group(group.path.clone())),
        (false, None) => (used.lr.is_some() && used.weight_decay.is_some()).then_some(Source::Config),
    };
    used.lr = given.lr.or(used.lr);
    used.weight_decay = given.weight_decay.or(used.weight_decay);
    Setting { lr: used.lr, weight_decay: used.weight_decay, rate: used.decay_rate(), kind: used.kind, source }
}

/// Possible numbers of checkpoint steps per optimizer step, most certain first.
fn accumulations(run: &Run, given: &Given) -> Vec<(f64, AccumulationSource)> {
    if let Some(accumulation) = given.accumulation {
        return vec![(accumulation as f64, AccumulationSource::Given)];
    }
    let counted: Vec<(f64, f64)> = run
        .checkpoints
        .iter()
        .filter_map(|c| Some((c.step? as f64, c.training.as_ref()?.optimizer_steps? as f64)))
        .collect();
    if let (Some(first), Some(last)) = (counted.first(), counted.last()) {
        let (steps, own) = if last.1 > first.1 { (last.0 - first.0, last.1 - first.1) } else { *last };
        let ratio = steps / own;
        if ratio.is_finite() && ratio > 0.0 {
            let whole = ratio.round().max(1.0);
            let ratio = if (ratio / whole - 1.0).abs() < 0.01 { whole } else { ratio };
            return vec![(ratio, AccumulationSource::Counter)];
        }
    }
    let configured =
        run.checkpoints.iter().rev().find_map(|c| c.training.as_ref()?.accumulation).filter(|n| *n > 1);
    let mut all = vec![(1.0, AccumulationSource::Assumed)];
    all.extend(configured.map(|n| (n as f64, AccumulationSource::Config)));
    all
}

/// The steepest long decline of layer `layer`, and what was predicted for it. `None` where ln std never falls by a
/// fifth over one stretch.
///
/// Learning rate and weight decay are known at checkpoints; between them the rate is taken as the mean of the two
/// (trapezoids), so a schedule is integrated as finely as checkpoints were kept. ln std is then fitted against that
/// integral: under decay alone the slope is -1 for every schedule.
pub(super) fn decay(run: &Run, layer: usize, given: &Given) -> Option<Decay> {
    const LEAST_FALL: f64 = 0.2;
    let mut points: Vec<(usize, u64, f64)> = Vec::new();
    for c in 0..run.checkpoints.len() {
        let measured = run.tensor(layer, c).and_then(|t| run.layers[layer].measure(t));
        if let (Some(step), Some(std)) = (run.checkpoints[c].step, measured)
            && std > 0.0
            && points.last().is_none_or(|p| step > p.1)
        {
            points.push((c, step, std.ln()));
        }
    }
    if points.len() < 2 {
        return None;
    }
    let settings: Vec<Setting> = points.iter().map(|p| setting(run, layer, p.0, given)).collect();
    let by_time: Vec<(f64, f64)> = points.iter().map(|p| (p.1 as f64, p.2)).collect();
    let accumulated = accumulated(&by_time, &settings);
    // Against accumulated decay where there is some, else against steps.
    let axis: Vec<(f64, f64)> = match &accumulated {
        Some(decay) if decay.last() > decay.first() => {
            decay.iter().zip(&by_time).map(|(x, p)| (*x, p.1)).collect()
        }
        _ => by_time.clone(),
    };
    // Where nothing decayed (a learning rate of 0), the axis does not advance: such points are left out.
    let mut kept: Vec<usize> = Vec::new();
    for (i, point) in axis.iter().enumerate() {
        if kept.last().is_none_or(|&k| point.0 > axis[k].0) {
            kept.push(i);
        }
    }
    let line_points: Vec<(f64, f64)> = kept.iter().map(|&i| axis[i]).collect();
    let stretches: Vec<(usize, usize, Line, f64)> = pieces(&line_points)
        .into_iter()
        .filter_map(|piece| {
            let line = Line::fit(&line_points[piece.clone()])?;
            let (first, last) = (*piece.start(), *piece.end());
            let fall = -line.slope * (line_points[last].0 - line_points[first].0);
            Some((kept[first], kept[last], line, fall))
        })
        .collect();
    let (first, last, line, fall) = *stretches.iter().max_by(|a, b| a.3.total_cmp(&b.3))?;
    if fall < LEAST_FALL {
        return None;
    }
    let measured = Line::fit(&by_time[first..=last])?;
    let mut found = Decay {
        from: points[first].1,
        to: points[last].1,
        points: measured.points,
        rate: -measured.slope,
        interval: measured.half_width(),
        r2: measured.r2,
        half_life: -std::f64::consts::LN_2 / measured.slope,
        lr_from: settings[first].lr,
        lr_to: settings[last].lr,
        weight_decay: settings[last].weight_decay,
        optimizer: settings[last].kind,
        source: settings[last].source.clone(),
        accumulation: 1.0,
        ..Decay::default()
    };
    let Some(decay) = accumulated else { return Some(found) };
    let total = decay[last] - decay[first];
    let mean = total / (found.to - found.from) as f64;
    if total <= 0.0 {
        found.predicted = Some(0.0);
        return Some(found);
    }
    let candidates = accumulations(run, given);
    let ratio = |accumulation: f64| -line.slope * accumulation;
    let agrees = |(accumulation, _): &&(f64, AccumulationSource)| (ratio(*accumulation) - 1.0).abs() <= SAME;
    let (accumulation, source) = *candidates.iter().find(agrees).unwrap_or(&candidates[0]);
    let highest = by_time.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let lowest = by_time[last..].iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let whole_fall = highest - lowest;
    let consistent: f64 =
        stretches.iter().filter(|s| (-s.2.slope * accumulation - 1.0).abs() <= CONSISTENT).map(|s| s.3).sum();
    found.predicted = Some(mean / accumulation);
    found.ratio = Some(ratio(accumulation));
    found.ratio_interval = line.half_width().map(|w| w * accumulation);
    found.share = Some((consistent / whole_fall).clamp(0.0, 1.0));
    (found.accumulation, found.accumulation_source) = (accumulation, source);
    let start = by_time[first].1;
    found.line = (first..=last)
        .map(|i| (points[i].1, (start - (decay[i] - decay[first]) / accumulation).exp()))
        .collect();
    Some(found)
}

/// Decay accumulated since the first point, per counted step; `None` if the rate is never known.
fn accumulated(points: &[(f64, f64)], settings: &[Setting]) -> Option<Vec<f64>> {
    let mut rates: Vec<Option<f64>> = settings.iter().map(|s| s.rate).collect();
    rates.iter().flatten().next()?;
    // Settings that one checkpoint lacks are taken from its neighbour.
    for i in 1..rates.len() {
        rates[i] = rates[i].or(rates[i - 1]);
    }
    for i in (0..rates.len() - 1).rev() {
        rates[i] = rates[i].or(rates[i + 1]);
    }
    let rates: Vec<f64> = rates.into_iter().flatten().collect();
    let mut sum = 0.0;
    let mut all = vec![0.0];
    for i in 1..points.len() {
        sum += (points[i].0 - points[i - 1].0) * (rates[i] + rates[i - 1]) / 2.0;
        all.push(sum);
    }
    Some(all)
}

/// A whole number of micro-batches per optimizer step that would make the rates agree.
pub(super) fn accumulation_hint(decay: &Decay) -> Option<u64> {
    let ratio = decay.ratio?;
    let wanted = decay.accumulation / ratio;
    let whole = wanted.round();
    let usual = (1.0..=16.0).contains(&whole) || (whole as u64).is_power_of_two();
    let fits = (wanted / whole - 1.0).abs() <= SAME / 2.0 && whole != decay.accumulation;
    (fits && usual && (1.0..=1024.0).contains(&whole)).then_some(whole as u64)
}

/// The half-life, in counted steps, that weight decay `weight_decay` would give at the last learning rate.
pub(super) fn half_life(decay: &Decay, weight_decay: f64) -> Option<f64> {
    let rate = decoupled_rate(decay.lr_to.filter(|lr| *lr > 0.0)?, weight_decay)?;
    (rate > 0.0).then(|| std::f64::consts::LN_2 * decay.accumulation / rate)
}
