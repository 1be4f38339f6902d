//! A summary of a run in words: how it ends, which layers are affected, since when, and where it is heading.

use std::path::Path;

use ckpt_inspect::cause::{Cause, Explanation};
use ckpt_inspect::run::{Aside, Layer, Run};
use ckpt_inspect::{CheckpointRecord, Verdict};

use crate::text::plural;

/// The verdict on a run in words.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Headline {
    /// Verdict of the last checkpoint.
    pub verdict: Option<Verdict>,
    /// One or two words.
    pub title: String,
    /// The reasons for the title, most important first.
    pub sentences: Vec<String>,
}

/// How much `runs` are: `2 runs and 3 models, 21 checkpoints`.
pub fn extent(runs: &[Run]) -> String {
    let series = runs.iter().filter(|r| r.is_series()).count();
    let checkpoints: usize = runs.iter().map(|r| r.checkpoints.len() + r.aside.len()).sum();
    let models = plural(runs.len() - series, "model");
    match (series, runs.len() - series) {
        (0, 0) => plural(0, "checkpoint"),
        (0, _) => models,
        (_, 0) => format!("{}, {}", plural(series, "run"), plural(checkpoints, "checkpoint")),
        _ => format!("{} and {models}, {}", plural(series, "run"), plural(checkpoints, "checkpoint")),
    }
}

/// How much of `checkpoint` was judged, in a sentence, where that is not all of it.
pub fn judged_in_part(checkpoint: &CheckpointRecord) -> Option<String> {
    let coverage = &checkpoint.coverage;
    (checkpoint.verdict.is_some() && !coverage.is_whole()).then(|| format!("Judged: {coverage}."))
}

/// Why `checkpoint` is not healthy, or how much of it was judged if that is not all.
pub fn reason(checkpoint: &CheckpointRecord) -> Option<String> {
    checkpoint.reasons.first().cloned().or_else(|| judged_in_part(checkpoint))
}

/// The words for `run`, of which `explanation` tells what became of it.
pub fn headline(run: &Run, explanation: &Explanation) -> Headline {
    let Some(last) = run.checkpoints.last() else {
        return Headline { verdict: None, title: "Empty".into(), sentences: Vec::new() };
    };
    let at = |i: usize| match run.checkpoints[i].step {
        Some(step) => format!("step {step}"),
        None => run.checkpoints[i].path.clone(),
    };
    let end = run.checkpoints.len() - 1;
    let judged: Vec<usize> = (0..run.layers.len()).filter(|&l| run.layers[l].judged.is_some()).collect();
    let verdict_at_end = |l: usize| run.tensor(l, end).and_then(|t| t.verdict);
    let mut below: Vec<usize> =
        (0..run.layers.len()).filter(|&l| verdict_at_end(l).is_some_and(Verdict::is_below_healthy)).collect();
    let measure = |l: usize| run.layers[l].measure(run.tensor(l, end)?);
    below.sort_by(|&a, &b| {
        let value = |l| measure(l).unwrap_or(0.0);
        verdict_at_end(b).cmp(&verdict_at_end(a)).then(value(a).total_cmp(&value(b)))
    });
    let declining = |l: &usize| run.layers[*l].decline.is_some_and(|d| Some(d.to) == last.step);

    let mut sentences = Vec::new();
    let causes = explanation.causes();
    let is_well = last.verdict.is_some_and(|verdict| !verdict.is_below_healthy());
    // What happened to weights that no level calls sick.
    let cause = causes.first().map(|(cause, _)| *cause).filter(|_| is_well);
    let in_part = judged_in_part(last);
    let title = match last.verdict {
        None => "Not judged",
        _ if cause == Some(Cause::Exploding) => "Exploding",
        Some(Verdict::Healthy) if heading_down(run).is_some() => "Healthy, but shrinking",
        Some(Verdict::Healthy) if cause == Some(Cause::NeverTrained) => "Healthy, but in part never trained",
        Some(Verdict::Healthy) if cause.is_some() => "Healthy, but something happened",
        Some(Verdict::Healthy) if in_part.is_some() => "Healthy, as far as judged",
        Some(Verdict::Healthy) => "Healthy",
        Some(Verdict::Untrained) => "Healthy, and not trained yet",
        Some(Verdict::Weak) if below.iter().any(declining) => "Collapsing",
        Some(Verdict::Weak) => "Weak",
        Some(Verdict::Dying) => "Dying",
        Some(Verdict::Dead) => "Dead",
        Some(Verdict::Corrupt) => "Corrupt",
        Some(other) => other.name(),
    };
    let place = at(end);
    let which = if in_part.is_some() { "judged " } else { "" };
    match below.as_slice() {
        [] if cause == Some(Cause::Exploding) => {
            let grown = causes.iter().find(|(cause, _)| *cause == Cause::Exploding);
            let layers: Vec<&Layer> =
                grown.iter().flat_map(|(_, layers)| layers).map(|l| &run.layers[l.layer]).collect();
            let verb = if layers.len() == 1 { "has" } else { "have" };
            sentences.push(format!(
                "At {place}, {} of {} {verb} grown without bound: {}.",
                layers.len(),
                plural(judged.len().max(layers.len()), "matrix"),
                patterns(layers.iter().copied()),
            ));
        }
        [] if last.verdict.is_none() && last.coverage.layers_unjudged => {
            sentences.push("None of the matrices of its layers could be judged.".into());
        }
        [] if judged.is_empty() => sentences.push("No weight matrix could be judged.".into()),
        [] if judged.len() == 1 => sentences.push(format!("Its one {which}matrix is healthy at {place}.")),
        [] => sentences
            .push(format!("All {} are healthy at {place}.", plural(judged.len(), &format!("{which}matrix")))),
        [worst, ..] => {
            let counts: Vec<String> = Verdict::ALL
                .iter()
                .rev()
                .map(|v| (v, below.iter().filter(|&&l| verdict_at_end(l) == Some(*v)).count()))
                .filter(|(_, n)| *n > 0)
                .map(|(v, n)| format!("{n} {v}"))
                .collect();
            let total = judged.len().max(below.len());
            let verb = if below.len() == 1 { "is" } else { "are" };
            let reason = run
                .tensor(*worst, end)
                .and_then(|t| t.finding.as_deref())
                .map(ToString::to_string)
                .unwrap_or_default();
            sentences.push(format!(
                "At {place}, {} of {} {verb} below healthy ({}): {}. The worst is {}: {reason}.",
                below.len(),
                plural(total, "matrix"),
                counts.join(", "),
                patterns(below.iter().map(|&l| &run.layers[l])),
                run.layers[*worst].name,
            ));
        }
    }
    sentences.extend(in_part);
    if run.checkpoints.len() > 1 {
        sentences.extend(when(run, &at));
        let slowest = below.iter().copied().find(|l| declining(l)).or_else(|| heading_down(run));
        sentences.extend(slowest.and_then(|l| where_to(&run.layers[l])));
        sentences.extend(last_healthy(run));
    }
    sentences.extend(aside(run));
    Headline { verdict: last.verdict, title: title.into(), sentences }
}

/// Checkpoints that stay out of the series, and what is wrong with them.
fn aside(run: &Run) -> Option<String> {
    const NAMED: usize = 4;
    let name =
        |path: &str| Path::new(path).file_name().map_or(path.into(), |n| n.to_string_lossy().into_owned());
    let one = |aside: &Aside| {
        let verdict = aside.record.verdict.filter(|v| v.is_below_healthy());
        let verdict = verdict.map(|v| format!(" ({v})")).unwrap_or_default();
        let other = &run.checkpoints[aside.same_step_as];
        let step = other.step.unwrap_or(0);
        format!("{}{verdict} is of step {step}, as {} is", name(&aside.record.path), name(&other.path))
    };
    let told: Vec<String> = run.aside.iter().take(NAMED).map(one).collect();
    let more = match run.aside.len() - told.len() {
        0 => String::new(),
        more => format!(", and so on for {more} more"),
    };
    (!told.is_empty()).then(|| format!("Not in the series: {}{more}.", told.join("; ")))
}

/// Which layers fell below healthy first, and when.
fn when(run: &Run, at: &dyn Fn(usize) -> String) -> Option<String> {
    let first = |layer: &Layer| layer.crossings.first().filter(|c| c.verdict == Verdict::Weak).copied();
    let earliest = run.layers.iter().filter_map(first).min_by_key(|c| c.checkpoint)?;
    let those = run.layers.iter().filter(|l| first(l).is_some_and(|c| c.checkpoint == earliest.checkpoint));
    let before = match earliest.after {
        Some(step) => format!("; step {step} was still healthy"),
        None => "; no earlier checkpoint shows it healthy".into(),
    };
    Some(format!("First below healthy, at {}: {}{before}.", at(earliest.checkpoint), patterns(those)))
}

/// How fast `layer` shrinks, and when it will be dead at that rate.
fn where_to(layer: &Layer) -> Option<String> {
    let decline = layer.decline?;
    let levels = layer.judged?.levels;
    let (word, level) = match decline.std {
        std if std >= levels.healthy => ("below healthy", levels.healthy),
        _ => ("dead", levels.dying),
    };
    let when = match decline.reaches(level) {
        step if decline.std < level => format!("it was {word} from about step {step:.0}"),
        step => {
            format!("at that rate it is {word} (below {}) about step {step:.0}", format_args!("{level:e}"))
        }
    };
    Some(format!(
        "{} has halved every {:.0} steps since step {}; {when}.",
        layer.name,
        decline.half_life(),
        decline.from
    ))
}

/// The healthy layer that, at its present rate, is the first to fall below healthy, if that is before the run has
/// taken as many steps again.
fn heading_down(run: &Run) -> Option<usize> {
    (0..run.layers.len())
        .filter_map(|l| Some((l, run.falls_soon(l)?)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(l, _)| l)
}

/// The checkpoint to go back to.
fn last_healthy(run: &Run) -> Option<String> {
    let last = run.checkpoints.last()?;
    if last.verdict == Some(Verdict::Healthy) {
        return None;
    }
    Some(match run.checkpoints.iter().rev().find(|c| c.verdict == Some(Verdict::Healthy)) {
        Some(good) => format!("The last healthy checkpoint is {}.", good.path),
        None => "No checkpoint of this run is healthy.".into(),
    })
}

/// `layers.*.mlp.gate_proj.weight ×12, lm_head.weight`, at most six patterns.
pub(crate) fn patterns<'r>(layers: impl Iterator<Item = &'r Layer>) -> String {
    const NAMED: usize = 6;
    let mut counts: Vec<(&str, &str, usize)> = Vec::new();
    for layer in layers {
        match counts.iter_mut().find(|(pattern, ..)| *pattern == layer.pattern) {
            Some((.., n)) => *n += 1,
            None => counts.push((&layer.pattern, &layer.name, 1)),
        }
    }
    let mut words: Vec<String> = counts
        .iter()
        .take(NAMED)
        .map(|(pattern, name, n)| if *n == 1 { name.to_string() } else { format!("{pattern} ×{n}") })
        .collect();
    let more: usize = counts.iter().skip(NAMED).map(|(.., n)| n).sum();
    if more > 0 {
        words.push(format!("and {more} more"));
    }
    words.join(", ")
}
