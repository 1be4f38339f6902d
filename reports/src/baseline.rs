//! Compares a checkpoint with a baseline that it must not be worse than.

use std::collections::{HashMap, HashSet};

use ckpt_inspect::meaning::names::canonical;
use ckpt_inspect::meaning::role::is_of_trainer;
use ckpt_inspect::meaning::{beginnings, wrappers};
use ckpt_inspect::{CheckpointRecord, Group, TensorRecord, Verdict, without_state_dict};

use crate::gate::{Finding, Judged, Rule, is_matrix, judge_all};
use crate::policy::Policy;
use crate::text::number;

/// A baseline's weights by name, and which of them the candidate still has.
pub(crate) struct Comparison<'b> {
    weights: Vec<(Judged<'b>, bool)>,
    by_name: HashMap<&'b str, usize>,
    /// By the name without its state dict's key; `None` where several weights would have it.
    by_short_name: HashMap<&'b str, Option<usize>>,
    /// By the name without what wraps it, likewise.
    by_shared_name: HashMap<String, Option<usize>>,
    /// The candidate's weights' names, and each without what wraps it.
    shared_names: HashMap<&'b str, String>,
    /// By the candidate's name, where the two begin differently.
    begun: HashMap<&'b str, usize>,
}

impl<'b> Comparison<'b> {
    pub fn new(baseline: &'b CheckpointRecord, candidate: &'b CheckpointRecord, policy: &Policy) -> Self {
        let weights: Vec<(Judged<'b>, bool)> = judge_all(baseline, policy)
            .0
            .into_iter()
            .filter(|j| j.tensor.group == Group::Weights)
            .map(|j| (j, false))
            .collect();
        let mut by_name = HashMap::new();
        let mut by_short_name = HashMap::new();
        for (i, (judged, _)) in weights.iter().enumerate() {
            let name: &'b str = &judged.tensor.name;
            by_name.insert(name, i);
            by_short_name.entry(without_state_dict(name)).and_modify(|at| *at = None).or_insert(Some(i));
        }
        let mut by_shared_name = HashMap::new();
        for (i, name) in shared(weights.iter().map(|(judged, _)| judged.tensor.name.as_str())).enumerate() {
            by_shared_name.entry(name).and_modify(|at| *at = None).or_insert(Some(i));
        }
        let names = candidate.tensors.iter().filter(|t| t.group == Group::Weights).map(|t| t.name.as_str());
        let shared_names = names.clone().zip(shared(names)).collect();
        let mut comparison = Comparison {
            weights,
            by_name,
            by_short_name,
            by_shared_name,
            shared_names,
            begun: HashMap::new(),
        };
        comparison.begun = comparison.beginnings(candidate);
        comparison
    }

    /// The weights that have a counterpart only where the names of one side lose what they begin with.
    fn beginnings(&self, candidate: &'b CheckpointRecord) -> HashMap<&'b str, usize> {
        let of_candidate = || candidate.tensors.iter().filter(|t| t.group == Group::Weights);
        let found: HashSet<usize> = of_candidate().filter_map(|t| self.called(&t.name)).collect();
        let now: Vec<&TensorRecord> = of_candidate().filter(|t| self.called(&t.name).is_none()).collect();
        let then: Vec<usize> = (0..self.weights.len()).filter(|i| !found.contains(i)).collect();
        let names: Vec<&str> = now.iter().map(|t| t.name.as_str()).collect();
        let before: Vec<&str> = then.iter().map(|&i| self.weights[i].0.tensor.name.as_str()).collect();
        let canonical = |name: &str| canonical(name).into_owned();
        let pairs = beginnings::matched(
            &beginnings::Side::new(&names, &canonical),
            &beginnings::Side::new(&before, &canonical),
            &|i, j| now[i].shape == self.weights[then[j]].0.tensor.shape,
        );
        pairs.into_iter().map(|(i, j)| (now[i].name.as_str(), then[j])).collect()
    }

    /// Where the weight is that the candidate calls `name`.
    fn called(&self, name: &str) -> Option<usize> {
        let short = || self.by_short_name.get(without_state_dict(name)).copied().flatten();
        let bare = || self.by_shared_name.get(self.shared_names.get(name)?).copied().flatten();
        self.by_name.get(name).copied().or_else(bare).or_else(short)
    }

    /// Compares one tensor with its counterpart, if it has one.
    pub fn compare(&mut self, now: &Judged<'_>, policy: &Policy, findings: &mut Vec<Finding>) {
        let name = now.tensor.name.as_str();
        let Some(at) = self.called(name).or_else(|| self.begun.get(name).copied()) else { return };
        if now.tensor.group != Group::Weights {
            return;
        }
        let (then, seen) = &mut self.weights[at];
        *seen = true;
        if now.tensor.shape != then.tensor.shape {
            let message = format!("shape {:?}; {:?} in the baseline", now.tensor.shape, then.tensor.shape);
            findings.push(Finding::new(Rule::ShapeChanged, message).on(now.tensor));
            return;
        }
        findings.extend(shrunk(now, then));
        findings.extend(newly_dead(now, then, policy.baseline.max_new_dead));
        if let (Some(is), Some(was)) = (now.verdict, then.verdict)
            && is > was
            && is != Verdict::Corrupt
            && !policy.baseline.allow_worse
        {
            let message = format!("{is}; {was} in the baseline");
            findings.push(
                Finding::new(Rule::VerdictWorse, message).on(now.tensor).since(now.verdict, &now.findings),
            );
        }
    }

    /// Tensors that the candidate no longer has.
    pub fn vanished(&self, policy: &Policy, findings: &mut Vec<Finding>) {
        if policy.baseline.allow_missing {
            return;
        }
        // Nothing was compared, which is no agreement.
        if self.weights.is_empty() {
            if !self.shared_names.is_empty() {
                let message = "the baseline has no weights: is it the right file?";
                findings.push(Finding::new(Rule::TensorVanished, message));
            }
            return;
        }
        let gone: Vec<&Judged<'_>> =
            self.weights.iter().filter(|(_, seen)| !seen).map(|(judged, _)| judged).collect();
        let kept = |t: &TensorRecord| {
            let elements = t.shape.iter().fold(1u64, |n, &d| n.saturating_mul(d));
            is_of_trainer(&t.name, t.role, elements)
        };
        let gone: Vec<&Judged<'_>> = gone.into_iter().filter(|judged| !kept(judged.tensor)).collect();
        if gone.len() == self.weights.len() {
            let message = format!(
                "none of the baseline's {} weights is in this checkpoint: is it the same model?",
                gone.len()
            );
            findings.push(Finding::new(Rule::TensorVanished, message));
            return;
        }
        findings.extend(gone.iter().map(|j| {
            Finding::new(Rule::TensorVanished, "in the baseline but not in this checkpoint").on(j.tensor)
        }));
    }
}

/// What each of `names` is called without what wraps it.
fn shared<'n>(names: impl Iterator<Item = &'n str> + Clone) -> impl Iterator<Item = String> {
    wrappers::shared(names, &|name| canonical(name).into_owned()).into_iter().map(|name| name.into_owned())
}

/// Whether the std of a matrix fell by more than its rules allow. A packing that lost its scale has no std to compare.
fn shrunk(now: &Judged<'_>, then: &Judged<'_>) -> Option<Finding> {
    let std = |j: &Judged<'_>| {
        let scaled = j.tensor.ternary.as_ref().is_none_or(|t| t.scale.is_some());
        j.verdict.filter(|&v| v != Verdict::Corrupt && is_matrix(j.tensor) && scaled)?;
        j.tensor.stats.as_ref()?.std
    };
    let (is, was) = (std(now)?, std(then)?);
    let limit = now.rules.max_shrink;
    if was <= is * limit {
        return None;
    }
    let factor = was / is;
    let message = format!(
        "std fell from {} to {}, by a factor of {}; at most {limit} allowed",
        number(Some(was)),
        number(Some(is)),
        number(Some(factor))
    );
    Some(Finding::new(Rule::StdShrunk, message).on(now.tensor).against(Some(factor), Some(limit)))
}

/// Whether more rows or columns are dead than before, beyond a share of all.
fn newly_dead(now: &Judged<'_>, then: &Judged<'_>, share: f64) -> Vec<Finding> {
    let (Some(is), Some(was)) = (&now.tensor.ternary, &then.tensor.ternary) else { return Vec::new() };
    let rows = now.tensor.shape.first().copied().unwrap_or(0);
    let cols = now.tensor.shape.iter().skip(1).fold(1u64, |n, &d| n.saturating_mul(d));
    [("rows", rows, is.dead_rows, was.dead_rows), ("columns", cols, is.dead_cols, was.dead_cols)]
        .into_iter()
        .filter_map(|(what, all, is, was)| {
            let (died, limit) = (is.saturating_sub(was) as f64, share * all as f64);
            let message = format!(
                "{is} of {all} {what} are dead, {was} in the baseline; at most {} more allowed",
                limit.floor()
            );
            (died > limit).then(|| {
                Finding::new(Rule::NewlyDead, message).on(now.tensor).against(Some(died), Some(limit))
            })
        })
        .collect()
}
