//! The gate: checkpoints held against a [`Policy`] and, if one is given, against a baseline. It reads records alone.

mod rule;

use std::path::Path;

use ckpt_inspect::coverage::Reason;
use ckpt_inspect::{
    CheckpointRecord, Coverage, DType, Finding as Why, Group, Judgement, Role, TensorRecord, Verdict,
    judgements, printable,
};
use serde::Serialize;

use crate::accepted::Known;
use crate::baseline::Comparison;
use crate::policy::{Policy, Scope, TensorRules, Unmatched};
use crate::text::plural;

/// Elements of a vector that may be all of a network.
const LONG_VECTOR: u64 = 1024;

pub use rule::{Rule, Severity};

/// How a check ended, from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Nothing forbids it.
    Passed,
    /// It was read, and is not good enough.
    Refused,
    /// It could not be read, or not whole.
    Unreadable,
}

impl Status {
    /// The lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Status::Passed => "passed",
            Status::Refused => "refused",
            Status::Unreadable => "unreadable",
        }
    }

    /// The exit code of `ckpt gate` that says so.
    pub fn exit_code(self) -> u8 {
        match self {
            Status::Passed => 0,
            Status::Refused => 1,
            Status::Unreadable => 3,
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// Whether it refuses the checkpoint.
    pub severity: Severity,
    /// The tensor concerned, by its name in the file, whatever that holds; `None` for the checkpoint as a whole.
    pub tensor: Option<String>,
    /// What is wrong, without the tensor's name, in one printable line.
    pub message: String,
    /// What was measured, in the unit the message names.
    pub measured: Option<f64>,
    /// The bound it missed, in the same unit.
    pub limit: Option<f64>,
    /// The tensor's verdict, where it is what was found.
    pub verdict: Option<Verdict>,
    /// What was found by the rules of verdicts, with its figures.
    pub because: Vec<Why>,
}

impl Finding {
    pub(crate) fn new(rule: Rule, message: impl AsRef<str>) -> Self {
        Finding {
            rule,
            severity: rule.severity(),
            tensor: None,
            message: printable(message.as_ref()),
            measured: None,
            limit: None,
            verdict: None,
            because: Vec::new(),
        }
    }

    pub(crate) fn on(mut self, tensor: &TensorRecord) -> Self {
        self.tensor = Some(tensor.name.clone());
        self
    }

    pub(crate) fn against(mut self, measured: Option<f64>, limit: Option<f64>) -> Self {
        (self.measured, self.limit) = (measured.filter(|m| m.is_finite()), limit);
        self
    }

    /// With the verdict and what led to it.
    pub(crate) fn since(mut self, verdict: Option<Verdict>, because: &[Why]) -> Self {
        (self.verdict, self.because) = (verdict, because.to_vec());
        self
    }

    /// Tensor and message in one printable line.
    pub fn line(&self) -> String {
        match &self.tensor {
            Some(tensor) => format!("{}: {}", printable(tensor), self.message),
            None => self.message.clone(),
        }
    }
}

/// One checkpoint held against the policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Checked {
    /// Its path as the user gave it.
    pub path: String,
    /// How it ended.
    pub status: Status,
    /// The key of the one state dict that all its weights are in, with the dot after it, which their names can do without.
    #[serde(skip)]
    pub state_dict: Option<String>,
    /// Its training step.
    pub step: Option<u64>,
    /// The worst verdict among the judged tensors and whatever is corrupt.
    pub verdict: Option<Verdict>,
    /// How many tensors were judged.
    pub judged: u64,
    /// How many of them are healthy.
    pub healthy: u64,
    /// How many of them are dead.
    pub dead: u64,
    /// How many of them are still zero, as they begin by design.
    pub untrained: u64,
    /// Whether it holds no weights, but what a trainer keeps beside them: moments were measured, and there is nothing else to
    /// judge.
    pub companion: bool,
    /// How much of the checkpoint was judged, whatever the scope.
    pub coverage: Coverage,
    /// The rules that it was held against.
    pub checks: Vec<Rule>,
    /// What was found: first the checkpoint as a whole, then tensor by tensor in file order.
    pub findings: Vec<Finding>,
    /// What was found and is known, so that it refuses nothing.
    pub accepted: Vec<Finding>,
}

impl Checked {
    /// Adds that it was held against `rule` too, and what was found of it.
    pub fn add(&mut self, rule: Rule, messages: &[String]) {
        self.checks.push(rule);
        if rule.severity() == Severity::Error && !messages.is_empty() {
            self.status = self.status.max(Status::Refused);
        }
        self.findings.extend(messages.iter().map(|message| Finding::new(rule, message)));
    }
}

/// What the gate says about all checkpoints together.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The worst of the checkpoints'.
    pub status: Status,
    /// The policy they were held against.
    pub policy: Policy,
    /// The path of the baseline they were compared with.
    pub baseline: Option<String>,
    /// Each checkpoint, in the order given.
    pub checkpoints: Vec<Checked>,
    /// Files that were passed over because no tensor is in them.
    pub skipped: Vec<String>,
    /// Patterns of the policy and of `--ignore` that match no tensor of any checkpoint.
    pub unmatched: Vec<Unmatched>,
    /// Accepted findings that no longer occur.
    pub resolved: Vec<Known>,
}

impl Outcome {
    /// The outcome of `checkpoints`; without any, nothing has passed.
    pub fn new(policy: Policy, baseline: Option<String>, checkpoints: Vec<Checked>) -> Self {
        let status = checkpoints.iter().map(|c| c.status).max().unwrap_or(Status::Unreadable);
        let (skipped, unmatched, resolved) = Default::default();
        Outcome { status, policy, baseline, checkpoints, skipped, unmatched, resolved }
    }

    /// How many findings were accepted.
    pub fn accepted(&self) -> usize {
        self.checkpoints.iter().map(|c| c.accepted.len()).sum()
    }

    /// How many checkpoints ended in `status`.
    pub fn count(&self, status: Status) -> usize {
        self.checkpoints.iter().filter(|c| c.status == status).count()
    }

    /// One sentence, such as `1 of 3 checkpoints refused`.
    pub fn headline(&self) -> String {
        let all = plural(self.checkpoints.len(), "checkpoint");
        let accepted = match self.accepted() {
            0 => String::new(),
            some => format!("; {} accepted", plural(some, "known finding")),
        };
        let ended = match (self.count(Status::Refused), self.count(Status::Unreadable)) {
            (0, 0) => format!("{all} passed"),
            (refused, 0) => format!("{refused} of {all} refused"),
            (0, unreadable) => format!("{unreadable} of {all} unreadable"),
            (refused, unreadable) => format!("{refused} of {all} refused, {unreadable} unreadable"),
        };
        ended + &accepted + &self.rules_off()
    }

    /// `; rules off: equal-layers`, if any are.
    fn rules_off(&self) -> String {
        let off = self.policy.off;
        match off.names().count() {
            0 => String::new(),
            1 => format!("; rule off: {off}"),
            _ => format!("; rules off: {off}"),
        }
    }
}

/// A checkpoint that could not be opened, and why. It never passes.
pub fn unreadable(path: impl Into<String>, error: &str) -> Checked {
    Checked {
        path: path.into(),
        status: Status::Unreadable,
        state_dict: None,
        step: None,
        verdict: None,
        judged: 0,
        healthy: 0,
        dead: 0,
        untrained: 0,
        companion: false,
        coverage: Coverage::default(),
        checks: vec![Rule::UnreadableFile],
        findings: vec![Finding::new(Rule::UnreadableFile, error)],
        accepted: Vec::new(),
    }
}

/// Holds `record` against `policy`, and against `baseline` where there is one. Verdicts in the record are not used:
/// they are made again with the policy's thresholds.
pub fn check(record: &CheckpointRecord, policy: &Policy, baseline: Option<&CheckpointRecord>) -> Checked {
    let (judged, whole_judgement) = judge_all(record, policy);
    let matrices: Vec<&Judged> = judged.iter().filter(|j| j.in_scope).collect();
    let count = |verdict| matrices.iter().filter(|j| j.verdict == Some(verdict)).count() as u64;
    let coverage = coverage(&judged, policy);
    let worst = judged
        .iter()
        .filter(|j| j.in_scope || j.verdict == Some(Verdict::Corrupt))
        .filter_map(|j| j.verdict)
        .chain(whole_judgement.verdict.filter(|_| !whole_judgement.findings.is_empty()))
        .max()
        .map(|verdict| if record.damaged { Verdict::Corrupt } else { verdict });
    let mut checked = Checked {
        path: record.path.clone(),
        status: Status::Passed,
        state_dict: record.state_dict().map(str::to_string),
        step: record.step,
        verdict: coverage.admitted(worst),
        judged: matrices.len() as u64,
        healthy: count(Verdict::Healthy),
        dead: count(Verdict::Dead),
        untrained: count(Verdict::Untrained),
        companion: is_companion(record),
        coverage,
        checks: vec![
            Rule::UnreadableFile,
            Rule::DamagedFile,
            Rule::NothingJudged,
            Rule::NotMeasured,
            Rule::Incomplete,
            Rule::Contradiction,
            Rule::Doubt,
            Rule::CorruptTensor,
            Rule::CorruptOptimizer,
            Rule::UnhealthyTensor,
        ],
        findings: Vec::new(),
        accepted: Vec::new(),
    };
    whole(&mut checked, record, &judged, policy);
    for why in &whole_judgement.findings {
        let rule = match why {
            Why::Refused { .. } => Rule::DamagedFile,
            Why::Contradiction { .. } => Rule::Contradiction,
            _ => Rule::Incomplete,
        };
        checked.findings.push(Finding::new(rule, why.to_string()).since(None, std::slice::from_ref(why)));
    }
    let doubts = record.notices.iter().filter(|notice| notice.is_doubt());
    checked.findings.extend(doubts.map(|notice| Finding::new(Rule::Doubt, &notice.text)));
    let mut comparison = baseline.map(|baseline| Comparison::new(baseline, record, policy));
    if comparison.is_some() {
        checked.checks.extend([Rule::TensorVanished, Rule::ShapeChanged, Rule::StdShrunk]);
        checked.checks.extend([Rule::NewlyDead, Rule::VerdictWorse]);
    }
    for judged in &judged {
        checked.findings.extend(single(judged, policy));
        if let Some(comparison) = &mut comparison {
            comparison.compare(judged, policy, &mut checked.findings);
        }
    }
    if let Some(comparison) = comparison {
        comparison.vanished(policy, &mut checked.findings);
    }
    let refused = checked.findings.iter().any(|f| f.severity == Severity::Error);
    let unreadable = record.damaged || checked.findings.iter().any(|f| f.rule == Rule::DamagedFile);
    checked.status = match (unreadable, refused) {
        (true, _) => Status::Unreadable,
        (false, true) => Status::Refused,
        (false, false) => Status::Passed,
    };
    checked
}

/// Judges `record` as the policy says, each tensor by its own thresholds.
pub fn judge(record: &mut CheckpointRecord, policy: &Policy) {
    ckpt_inspect::judge_each(record, &|name| policy.rules(name).thresholds, policy.off);
}

/// A tensor with its verdict under the policy's thresholds.
pub(crate) struct Judged<'r> {
    pub tensor: &'r TensorRecord,
    pub rules: TensorRules,
    pub verdict: Option<Verdict>,
    pub findings: Vec<Why>,
    /// Whether its health decides: a weight matrix of the policy's scope.
    pub in_scope: bool,
}

impl Judged<'_> {
    /// Why, in words.
    fn reason(&self) -> String {
        self.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// The share of zero codes and its bound, where that is what killed the tensor.
    fn zero_codes(&self) -> Option<(f64, f64)> {
        match self.findings.first() {
            Some(Why::ZeroCodes { share, bound }) => Some((*share, *bound)),
            _ => None,
        }
    }
}

/// Every tensor that the policy does not ignore, and what is said of the whole.
pub(crate) fn judge_all<'r>(record: &'r CheckpointRecord, policy: &Policy) -> (Vec<Judged<'r>>, Judgement) {
    let (judgements, whole) = judgements(record, &|tensor| policy.rules(&tensor.name).thresholds, policy.off);
    let considered = || record.tensors.iter().zip(&judgements).filter(|(t, _)| !policy.ignores(&t.name));
    let all = policy.scope == Scope::All || !considered().any(|(tensor, _)| is_projection(tensor));
    let judged = considered()
        .map(|(tensor, Judgement { verdict, findings, .. })| {
            let rules = policy.rules(&tensor.name);
            let weight = tensor.group == Group::Weights;
            let in_scope = verdict.is_some() && weight && (all || rules.named || is_projection(tensor));
            Judged { tensor, rules, verdict: *verdict, findings: findings.clone(), in_scope }
        })
        .collect();
    (judged, whole)
}

/// Whether `record` is of a file without weights that a trainer put beside a model, or of an optimizer's state alone.
fn is_companion(record: &CheckpointRecord) -> bool {
    let has = |group: Group| record.tensors.iter().any(|t| t.group == group);
    let named = ckpt_inspect::is_companion(Path::new(&record.path));
    !has(Group::Weights) && (named || has(Group::Optimizer))
}

/// How much of what the policy does not ignore was judged.
fn coverage(judged: &[Judged<'_>], policy: &Policy) -> Coverage {
    let mut coverage = Coverage::over(judged.iter().map(|j| (j.tensor, j.verdict)));
    coverage.off = policy.off.names().map(str::to_string).collect();
    coverage
}

pub(crate) fn is_matrix(tensor: &TensorRecord) -> bool {
    tensor.group == Group::Weights && tensor.shape.len() >= 2
}

/// A matrix that a BitLinear uses, a packed ternary one, or one named `*_proj`.
fn is_projection(tensor: &TensorRecord) -> bool {
    let named = || tensor.name.rsplit('.').nth(1).is_some_and(|module| module.ends_with("_proj"));
    is_matrix(tensor) && (tensor.ternary.is_some() || named())
}

/// Whether a ternary matrix could not be judged because only its codes are there.
fn scale_is_lost(judged: &Judged<'_>) -> bool {
    let lost = judged.tensor.ternary.as_ref().is_some_and(|t| t.scale.is_none());
    lost && judged.verdict.is_none() && is_matrix(judged.tensor)
}

/// Whether every matrix of unknown role is of one value, or, where there are only vectors, all is zero: nothing that is
/// known of it could say that it is healthy. Adapters of PEFT may begin so.
fn is_blank(judged: &[Judged<'_>]) -> bool {
    if judged.iter().any(|j| j.tensor.name.starts_with("base_model.model.")) {
        return false;
    }
    let real = |t: &TensorRecord| !t.dtype.is_integer() && t.dtype != DType::Bool;
    let of_network = |t: &TensorRecord| t.group == Group::Weights && real(t);
    let measured = judged.iter().map(|j| j.tensor).filter(|t| of_network(t));
    let measured: Vec<_> =
        measured.filter_map(|t| Some((t, t.stats.as_ref().filter(|stats| stats.count > 1)?))).collect();
    let is_long = |t: &TensorRecord| t.shape.iter().filter(|&&d| d > 1).count() >= 2;
    let unknown = || measured.iter().filter(|(t, _)| t.role == Role::Unknown);
    let mut matrices = unknown().filter(|(t, _)| is_long(t)).peekable();
    match matrices.peek().is_some() {
        true => matrices.all(|(_, stats)| stats.min.is_some() && stats.min == stats.max),
        false => {
            unknown().any(|(_, stats)| stats.count >= LONG_VECTOR)
                && measured.iter().all(|(_, stats)| stats.abs_max == Some(0.0))
        }
    }
}

/// Findings about the checkpoint as a whole.
fn whole(checked: &mut Checked, record: &CheckpointRecord, judged: &[Judged<'_>], policy: &Policy) {
    let findings = &mut checked.findings;
    if record.damaged {
        let tensors = record.tensors.iter().filter(|t| t.damage.is_some()).count();
        let message = match &record.damage {
            Some(what) if tensors == 0 => what.to_string(),
            Some(what) => format!("{what}; {} lost bytes", plural(tensors, "tensor")),
            None => format!("bytes of {tensors} of {} tensors are missing or wrong", record.tensors.len()),
        };
        findings.push(Finding::new(Rule::DamagedFile, message));
    }
    let wrong_step = |required: u64, words: &str| {
        let message = match record.step {
            Some(step) => format!("step {step}; {words} {required} is required"),
            None => {
                format!("its step is neither in the file nor in its name; {words} {required} is required")
            }
        };
        let step = record.step.map(|s| s as f64);
        Finding::new(Rule::WrongStep, message).against(step, Some(required as f64))
    };
    if let Some(required) = policy.require_step.filter(|&r| record.step != Some(r)) {
        findings.push(wrong_step(required, "step"));
    }
    if let Some(least) = policy.min_step.filter(|&least| record.step.is_none_or(|step| step < least)) {
        findings.push(wrong_step(least, "at least step"));
    }
    if policy.require_step.is_some() || policy.min_step.is_some() {
        checked.checks.push(Rule::WrongStep);
    }
    let unmeasured: Vec<&TensorRecord> = judged
        .iter()
        .map(|j| j.tensor)
        .filter(|t| is_matrix(t) && t.stats.is_none() && t.damage.is_none())
        .filter(|t| t.quantized.as_ref().is_none_or(|quantized| quantized.fault.is_none()))
        .collect();
    if let Some(first) = unmeasured.first() {
        let count = plural(unmeasured.len(), "weight matrix");
        let message = format!("not measured: {count}, such as {} ({})", first.name, first.dtype);
        findings.push(Finding::new(Rule::NotMeasured, message));
    }
    for gap in checked.coverage.not_judged.iter().filter(|gap| gap.reason == Reason::NotRead) {
        let count = plural(usize::try_from(gap.tensors).unwrap_or(usize::MAX), "weight");
        let message = format!("not read: {count}, quantized by {}, such as {}", gap.dtype, gap.example);
        findings.push(Finding::new(Rule::NotMeasured, message));
    }
    let lost: Vec<&Judged<'_>> = judged.iter().filter(|j| scale_is_lost(j)).collect();
    if let Some(first) = lost.first() {
        let count = plural(lost.len(), "ternary matrix");
        let message = format!(
            "scale lost, so these could only be checked for being dead: {count}, such as {}",
            first.tensor.name
        );
        findings.push(Finding::new(Rule::NotMeasured, message));
    }
    // Of weights whose role is not known NaN and values beyond reason are looked for, and of vectors NaN.
    let measured = |j: &Judged<'_>| {
        let real = !j.tensor.dtype.is_integer() && j.tensor.dtype != DType::Bool;
        real && j.tensor.group == Group::Weights && j.tensor.stats.as_ref().is_some_and(|s| s.count > 0)
    };
    let looked_at = checked.judged > 0 || checked.companion || judged.iter().any(measured);
    let no_layer = checked.coverage.no_layer().filter(|_| looked_at);
    let blank = !checked.companion && checked.coverage.judged == 0 && is_blank(judged);
    if (!looked_at || no_layer.is_some() || blank) && !record.damaged {
        let message = match record.tensors.len() {
            _ if no_layer.is_some() => no_layer.unwrap_or_default(),
            _ if looked_at && blank => "none of its tensors is known, and each is of one value".to_string(),
            0 => "it contains no tensors".to_string(),
            _ if judged.is_empty() => "all of its tensors are ignored".to_string(),
            _ => "none of its tensors is a weight matrix that can be judged".to_string(),
        };
        findings.push(Finding::new(Rule::NothingJudged, message));
    }
    if let Some(most) = policy.max_dead {
        checked.checks.push(Rule::TooManyDead);
        if checked.dead > most {
            let names: Vec<&str> = judged
                .iter()
                .filter(|j| j.in_scope && j.verdict == Some(Verdict::Dead))
                .map(|j| record.own_name(&j.tensor.name))
                .take(8)
                .collect();
            let more = if checked.dead > 8 { ", …" } else { "" };
            let message =
                format!("{} dead, at most {most} allowed: {}{more}", checked.dead, names.join(", "));
            findings.push(
                Finding::new(Rule::TooManyDead, message)
                    .against(Some(checked.dead as f64), Some(most as f64)),
            );
        }
    }
    if let Some(least) = policy.min_healthy {
        checked.checks.push(Rule::TooFewHealthy);
        let share = checked.healthy as f64 / checked.judged.max(1) as f64;
        if checked.judged > 0 && share < least {
            let message = format!(
                "{} of {} tensors are healthy ({:.1} %), {:.1} % required",
                checked.healthy,
                checked.judged,
                100.0 * share,
                100.0 * least
            );
            findings.push(Finding::new(Rule::TooFewHealthy, message).against(Some(share), Some(least)));
        }
    }
}

/// What is wrong with one tensor by itself.
fn single(judged: &Judged<'_>, policy: &Policy) -> Option<Finding> {
    let (tensor, rules) = (judged.tensor, &judged.rules);
    let (verdict, reason) = (judged.verdict?, judged.reason());
    if verdict == Verdict::Corrupt {
        let rule = match tensor.group {
            Group::Optimizer => Rule::CorruptOptimizer,
            _ => Rule::CorruptTensor,
        };
        let bad = tensor.stats.as_ref().map(|s| (s.nan + s.inf) as f64);
        let finding = Finding::new(rule, &reason).on(tensor).against(bad, bad.map(|_| 0.0));
        return Some(finding.since(judged.verdict, &judged.findings));
    }
    let counted = verdict == Verdict::Dead && policy.max_dead.is_some();
    let allowed = verdict <= rules.allow || (verdict == Verdict::Untrained && !policy.require_trained);
    if !judged.in_scope || allowed || counted {
        return None;
    }
    let (measured, limit) = measured(judged);
    let bound = match limit {
        Some(limit) if judged.zero_codes().is_some() => format!("dead from {:.2} %", 100.0 * limit),
        Some(limit) => format!("{} begins at {limit:e}", rules.allow),
        None => format!("at worst {} may pass", rules.allow),
    };
    let message = format!("{verdict}: {reason}; {bound}");
    let finding = Finding::new(Rule::UnhealthyTensor, message).on(tensor).against(measured, limit);
    Some(finding.since(judged.verdict, &judged.findings))
}

/// What decided a verdict, and where the worst allowed one begins.
fn measured(judged: &Judged<'_>) -> (Option<f64>, Option<f64>) {
    if let Some((share, bound)) = judged.zero_codes() {
        return (Some(share), Some(bound));
    }
    if !matches!(judged.findings.first(), Some(Why::SmallStd { .. } | Why::SmallRelativeStd { .. })) {
        return (None, None);
    }
    let tensor = judged.tensor;
    let levels = judged.rules.thresholds.levels(tensor);
    let begins = levels.and_then(|levels| levels.least(judged.rules.allow));
    let std = tensor.stats.as_ref().and_then(|s| s.std);
    if tensor.ternary.is_some() {
        return (std, begins);
    }
    let fan_in: u64 = tensor.shape[1..].iter().fold(1, |n, &d| n.saturating_mul(d));
    (std.map(|s| s * (fan_in as f64).sqrt()), begins)
}
