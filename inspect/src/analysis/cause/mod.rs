//! Why the weights of a run died, shown from measurements: rates against what the optimizer's settings predict,
//! directions, ternary codes, moments. If these do not decide, the cause is unknown, and the reason says what is
//! missing. The rules, with every threshold, are in docs/causes.md.

mod decay;
mod pair;
mod prognosis;
mod rules;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

pub use decay::{AccumulationSource, Decay, Source};
pub use pair::{Pair, PairRecord, PairRequest, PairTensor, compare, last_healthy, pairs_needed};
pub use prognosis::{Change, Prognosis, Setting};

use crate::record::{Stats, TensorRecord};
use crate::run::Run;
use crate::trend::Line;
use crate::verdict::{Finding, Verdict};
use crate::{DamageKind, Error};

/// The cause of a weight's death, past or to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// The file ends before the weight's bytes do.
    Truncated,
    /// Its values were replaced by a constant, or its bytes by zeros.
    Overwritten,
    /// It grew without bound, or holds NaN or infinity.
    Exploding,
    /// Weight decay shrank it while gradients no longer moved it.
    WeightDecay,
    /// Nearly all of its values fell into the ternary zero bucket and stayed there.
    ZeroBucket,
    /// A packed copy has codes, but has lost the scale to multiply them by.
    ScaleLost,
    /// Training never changed it.
    NeverTrained,
    /// The evidence does not decide.
    Unknown,
}

impl Cause {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Truncated => "truncated file",
            Cause::Overwritten => "overwritten",
            Cause::Exploding => "exploding or NaN",
            Cause::WeightDecay => "weight decay",
            Cause::ZeroBucket => "zero-bucket trapping",
            Cause::ScaleLost => "scale lost in packing",
            Cause::NeverTrained => "never trained",
            Cause::Unknown => "unknown",
        }
    }

    /// The cause of death of a file that cannot be read at all, from the error of reading it.
    pub fn of_unreadable(error: &Error) -> Cause {
        match error.fault {
            Some(DamageKind::ZeroBytes) => Cause::Overwritten,
            Some(fault) if fault.is_truncation() => Cause::Truncated,
            _ => Cause::Unknown,
        }
    }
}

/// Settings given by the user, which override those of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Given {
    /// Learning rate.
    pub lr: Option<f64>,
    /// Weight decay.
    pub weight_decay: Option<f64>,
    /// Steps, as checkpoints count them, per optimizer step.
    pub accumulation: Option<u64>,
}

/// What happened to a run's weights.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// Weights with findings, in the order of the run's layers.
    pub layers: Vec<LayerCause>,
    /// Layers of the same pattern that shrank, as one.
    pub groups: Vec<GroupDecline>,
    /// What remains usable, and what to do; `None` if no weight fell.
    pub prognosis: Option<Prognosis>,
}

/// What happened to one weight, and the evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerCause {
    /// Its place among the run's layers.
    pub layer: usize,
    /// The cause.
    pub cause: Cause,
    /// The evidence that decided, or what is missing to decide.
    pub reason: String,
    /// Its decline over steps, where there is one.
    pub decay: Option<Decay>,
    /// How its direction changed over the decline.
    pub direction: Option<Direction>,
    /// How its share of zeros changed, for ternary matrices in several checkpoints.
    pub occupancy: Option<Occupancy>,
    /// Step of the optimizer over step of the decay, from moments in the last checkpoint that has them.
    pub push: Option<Push>,
    /// Share of its ternary codes that agree with the last healthy checkpoint.
    pub survival: Option<f64>,
}

/// Cosines between checkpoints along a decline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Direction {
    /// Median cosine of the pairs.
    pub median: f64,
    /// Least cosine of the pairs.
    pub least: f64,
    /// Pairs compared.
    pub pairs: usize,
}

/// The zero bucket of a ternary matrix over the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Occupancy {
    /// Share of zeros in the first checkpoint.
    pub first: f64,
    /// Least share of zeros in any checkpoint.
    pub least: f64,
    /// Share of zeros in the last checkpoint.
    pub last: f64,
    /// Codes that became zero between the checkpoints compared, as a share of all, summed.
    pub silenced: f64,
    /// Codes that ceased to be zero, likewise.
    pub woken: f64,
}

/// The length (norm) of one optimizer step over that of one decay step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Push {
    /// Optimizer step over decay step.
    pub ratio: f64,
    /// Whether the ratio is only an upper bound.
    pub at_most: bool,
    /// The step at which the moments were saved.
    pub step: Option<u64>,
}

/// The common rate of layers that do the same work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GroupDecline {
    /// Their names with `*` for numbers.
    pub pattern: String,
    /// How many of them decline.
    pub layers: usize,
    /// Fall of ln std per step that they have in common, with a separate level for each.
    pub rate: f64,
    /// Half the width of its 95 % confidence interval.
    pub interval: Option<f64>,
    /// Share of the variance within layers that the common rate explains.
    pub r2: f64,
    /// Steps in which std halves.
    pub half_life: f64,
    /// First step that all of them decline at.
    pub from: u64,
    /// Last step that all of them decline at.
    pub to: u64,
}

impl Explanation {
    /// Every cause found, gravest first, with the weights it concerns.
    pub fn causes(&self) -> Vec<(Cause, Vec<&LayerCause>)> {
        let mut causes: Vec<(Cause, Vec<&LayerCause>)> = Vec::new();
        for layer in &self.layers {
            match causes.iter_mut().find(|(cause, _)| *cause == layer.cause) {
                Some((_, layers)) => layers.push(layer),
                None => causes.push((layer.cause, vec![layer])),
            }
        }
        causes.sort_by_key(|(cause, _)| *cause);
        causes
    }
}

/// Why a weight is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    /// Its bytes are missing or damaged.
    Damaged,
    /// NaN or infinity.
    NonFinite,
    /// A size that no trained weight has.
    Grown,
    /// Corrupt in another way: values that training does not make.
    Altered,
    /// Packed codes without a scale.
    Unscaled,
    /// Every value is the same.
    Constant,
    /// Below healthy for its std or its zeros.
    Fallen,
    /// Healthy, but about to fall.
    Shrinking,
    /// The same in every checkpoint.
    Unchanged,
}

/// How much std must have grown to count as exploding.
const GROWN: f64 = 10.0;

/// Weights of the run's last checkpoint that need an explanation.
fn suspects(run: &Run) -> Vec<(usize, Suspicion)> {
    let Some(end) = run.checkpoints.len().checked_sub(1) else { return Vec::new() };
    (0..run.layers.len()).filter_map(|l| Some((l, suspicion(run, l, run.tensor(l, end)?)?))).collect()
}

fn suspicion(run: &Run, layer: usize, last: &TensorRecord) -> Option<Suspicion> {
    if last.damage.is_some() {
        return Some(Suspicion::Damaged);
    }
    let stats = last.stats.as_ref()?;
    if last.verdict == Some(Verdict::Corrupt) {
        let has = |wanted: &dyn Fn(&Finding) -> bool| {
            last.finding.as_deref().into_iter().chain(&last.also).any(wanted)
        };
        if has(&|f| matches!(f, Finding::NotFinite { .. })) {
            return Some(Suspicion::NonFinite);
        }
        if has(&|f| matches!(f, Finding::FarValue { .. })) {
            return Some(Suspicion::Altered);
        }
        let too_large =
            |f: &Finding| matches!(f, Finding::LargeRelativeStd { .. } | Finding::Saturated { .. });
        return Some(match has(&too_large) || exploded(run, layer, last) {
            true => Suspicion::Grown,
            false => Suspicion::Altered,
        });
    }
    // Codes that are not all zero, without a scale.
    let packed = last.ternary.as_ref().filter(|_| is_packed(last));
    if packed.is_some_and(|t| t.zero < 1.0 && !t.scale.is_some_and(|s| s.is_finite() && s != 0.0)) {
        return Some(Suspicion::Unscaled);
    }
    last.verdict?;
    if stats.min == stats.max {
        return Some(Suspicion::Constant);
    }
    if unchanged(run, layer) {
        return Some(Suspicion::Unchanged);
    }
    if last.verdict.is_some_and(Verdict::is_below_healthy) {
        return Some(Suspicion::Fallen);
    }
    if exploded(run, layer, last) {
        return Some(Suspicion::Grown);
    }
    run.falls_soon(layer).map(|_| Suspicion::Shrinking)
}

/// Whether the matrix is stored as ternary codes. A matrix that a BitLinear quantizes as it runs has a real dtype.
fn is_packed(tensor: &TensorRecord) -> bool {
    tensor.ternary.is_some() && tensor.dtype.is_ternary()
}

fn exploded(run: &Run, layer: usize, last: &TensorRecord) -> bool {
    let size = |t: &TensorRecord| crate::verdict::relative_std(t);
    let first = (0..run.checkpoints.len()).find_map(|c| size(run.tensor(layer, c)?));
    let (Some(first), Some(last)) = (first, size(last)) else { return false };
    last >= crate::verdict::EXPLODED && last >= GROWN * first
}

/// Whether every measurement of the weight is the same in all checkpoints, of which there are two at different steps.
fn unchanged(run: &Run, layer: usize) -> bool {
    let plain = |s: &Stats| (s.count, s.mean, s.std, s.min, s.max, s.abs_mean, s.zeros);
    let measures =
        |t: &TensorRecord| Some((plain(t.stats.as_ref()?), t.ternary.as_ref().map(|t| (t.neg, t.pos))));
    let mut measured = (0..run.checkpoints.len())
        .filter_map(|c| Some((run.checkpoints[c].step?, measures(run.tensor(layer, c)?)?)));
    let Some((first_step, first)) = measured.next() else { return false };
    let mut last_step = first_step;
    for (step, stats) in measured {
        if stats != first {
            return false;
        }
        last_step = step;
    }
    last_step > first_step
}

/// Explains what happened to `run`, given the user's settings and those pairs of checkpoints that [`pairs_needed`]
/// asked for and that could be compared.
pub fn explain(run: &Run, pairs: &[Pair], given: &Given) -> Explanation {
    let layers: Vec<LayerCause> = suspects(run)
        .into_iter()
        .map(|(layer, suspicion)| rules::decide(run, layer, suspicion, pairs, given))
        .collect();
    let groups = groups(run, &layers);
    let prognosis = prognosis::prognosis(run, &layers, pairs);
    Explanation { layers, groups, prognosis }
}

/// The common rate of every pattern, over the steps that all its declining layers share.
fn groups(run: &Run, layers: &[LayerCause]) -> Vec<GroupDecline> {
    let mut patterns: Vec<(&str, Vec<(usize, &Decay)>)> = Vec::new();
    let mut index: HashMap<&str, usize> = HashMap::new();
    for (layer, decay) in layers.iter().filter_map(|l| Some((l.layer, l.decay.as_ref()?))) {
        let pattern = run.layers[layer].pattern.as_str();
        let at = *index.entry(pattern).or_insert_with(|| {
            patterns.push((pattern, Vec::new()));
            patterns.len() - 1
        });
        patterns[at].1.push((layer, decay));
    }
    let group = |(pattern, declines): (&str, Vec<(usize, &Decay)>)| {
        let from = declines.iter().map(|(_, d)| d.from).max()?;
        let to = declines.iter().map(|(_, d)| d.to).min()?;
        let courses: Vec<Vec<(f64, f64)>> = declines
            .iter()
            .map(|(layer, _)| {
                let inside = run.series(*layer).into_iter();
                let inside = inside.filter(|(step, std)| (from..=to).contains(step) && *std > 0.0);
                inside.map(|(step, std)| (step as f64, std.ln())).collect()
            })
            .collect();
        let courses: Vec<&[(f64, f64)]> = courses.iter().map(Vec::as_slice).collect();
        let line = Line::pooled(&courses).filter(|line| line.slope < 0.0)?;
        Some(GroupDecline {
            pattern: pattern.to_string(),
            layers: declines.len(),
            rate: -line.slope,
            interval: line.half_width(),
            r2: line.r2,
            half_life: -std::f64::consts::LN_2 / line.slope,
            from,
            to,
        })
    };
    patterns.into_iter().filter_map(group).collect()
}
