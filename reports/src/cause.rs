//! Why a run died, in words: one sentence for each cause, the evidence, and what to do.

use ckpt_inspect::cause::{AccumulationSource, Cause, Decay, Explanation, LayerCause, Setting, Source};
use ckpt_inspect::run::Run;

use crate::headline::patterns;
use crate::text::{number, plural};

/// One cause, for a reader.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Finding {
    /// The cause.
    pub cause: Cause,
    /// Its title, in a few words.
    pub title: String,
    /// What happened, in one sentence.
    pub sentence: String,
    /// The affected weights.
    pub those: String,
    /// The evidence, each item with a heading of one or two words.
    pub evidence: Vec<(&'static str, String)>,
    /// What to do, most important first.
    pub advice: Vec<String>,
    /// The layer of the run that shows it best.
    pub example: usize,
    /// All layers of the run that it concerns.
    pub layers: Vec<usize>,
}

/// The causes that `explanation` gives for `run`, gravest first. Empty for a run that is alive.
pub fn findings(run: &Run, explanation: &Explanation) -> Vec<Finding> {
    let causes = explanation.causes();
    let mut all: Vec<Finding> =
        causes.into_iter().map(|(cause, layers)| finding(run, explanation, cause, &layers)).collect();
    if let Some(first) = all.iter_mut().find(|f| has_prognosis(f.cause)) {
        let own = std::mem::take(&mut first.advice);
        first.advice = resume(run, explanation);
        first.advice.extend(own);
        first.advice.extend(no_rescaling(explanation));
    }
    all
}

/// Whether the findings about the whole run belong under this cause.
fn has_prognosis(cause: Cause) -> bool {
    !matches!(cause, Cause::NeverTrained | Cause::ScaleLost)
}

fn finding(run: &Run, explanation: &Explanation, cause: Cause, layers: &[&LayerCause]) -> Finding {
    let end = run.checkpoints.len() - 1;
    let size = |l: &&&LayerCause| {
        let measure = run.tensor(l.layer, end).and_then(|t| run.layers[l.layer].measure(t));
        measure.unwrap_or(f64::INFINITY)
    };
    // The one that has declined most; one whose decline can be drawn is preferred.
    let example = layers
        .iter()
        .min_by(|a, b| a.decay.is_none().cmp(&b.decay.is_none()).then(size(a).total_cmp(&size(b))))
        .expect("a cause has layers");
    let those = patterns(layers.iter().map(|l| &run.layers[l.layer]));
    let count = match layers.len() {
        1 => "one weight".to_string(),
        n => plural(n, "weight"),
    };
    let title = match cause {
        Cause::Unknown => "Cause unknown".to_string(),
        cause => capital(cause.name()),
    };
    let sentence = match (cause, &example.decay) {
        (Cause::WeightDecay, Some(decay)) => {
            let goes = if layers.len() == 1 { "its std halves" } else { "their std halves" };
            format!(
                "Weight decay shrinks {count}: {goes} every {} steps, as fast as {} alone makes it.",
                steps(decay.half_life),
                product(decay)
            )
        }
        (Cause::ZeroBucket, _) => {
            format!("Nearly all values of {count} fell into the ternary zero bucket and stay there.")
        }
        (Cause::Exploding, _) => format!("Values of {count} grew without bound or became NaN."),
        (Cause::Overwritten, _) => {
            format!("Values of {count} were replaced by something that training does not produce.")
        }
        (Cause::Truncated, _) => format!("The file ends before the bytes of {count}."),
        (Cause::ScaleLost, _) => {
            format!(
                "Packing lost the scale of {count}: the ternary codes are intact, but their magnitude is unknown."
            )
        }
        (Cause::NeverTrained, _) => format!("Training never changed {count}."),
        (Cause::WeightDecay | Cause::Unknown, _) => {
            format!("What happened to {count} cannot be determined from these files.")
        }
        (other, _) => format!("What happened to {count}: {}.", other.name()),
    };
    let mut evidence = Vec::new();
    if cause == Cause::WeightDecay {
        evidence.extend(rates(layers));
    } else {
        let whose =
            if layers.len() > 1 { format!("{}: ", run.layers[example.layer].name) } else { String::new() };
        evidence.push(("what was found", format!("{whose}{}.", example.reason)));
    }
    evidence.extend(direction(layers));
    evidence.extend(push(layers));
    evidence.extend(zeros(layers, cause));
    Finding {
        cause,
        title,
        sentence,
        those,
        evidence,
        advice: advice(cause, explanation),
        example: example.layer,
        layers: layers.iter().map(|l| l.layer).collect(),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// `2 780`, in whole steps.
fn steps(n: f64) -> String {
    let digits = format!("{n:.0}");
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && digits.len() > 4 {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

/// `learning rate 0.02 × weight decay 0.1`, as the prediction uses them.
fn product(decay: &Decay) -> String {
    let plain = |v: Option<f64>| v.map_or("?".to_string(), |v| format!("{v}"));
    let lr = match (decay.lr_from, decay.lr_to) {
        (Some(from), Some(to)) if from != to => format!("{} to {}", number(Some(from)), number(Some(to))),
        (_, to) => plain(to),
    };
    let per_step = match decay.accumulation {
        1.0 => String::new(),
        n => format!(" every {} steps", number_of_steps(n)),
    };
    format!("learning rate {lr} × weight decay {}{per_step}", plain(decay.weight_decay))
}

fn number_of_steps(n: f64) -> String {
    if n.fract() == 0.0 { format!("{n:.0}") } else { format!("{n:.2}") }
}

/// `2.01e-3`, or `2.01e-3 to 2.02e-3`.
fn range(values: impl Iterator<Item = f64> + Clone, digits: usize, exponent: bool) -> String {
    let write = |v: f64| if exponent { format!("{v:.digits$e}") } else { format!("{v:.digits$}") };
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if write(low) == write(high) { write(low) } else { format!("{} to {}", write(low), write(high)) }
}

fn rates(layers: &[&LayerCause]) -> Vec<(&'static str, String)> {
    let decays: Vec<&Decay> = layers.iter().filter_map(|l| l.decay.as_ref()).collect();
    let Some(first) = decays.first() else { return Vec::new() };
    let all = |value: fn(&Decay) -> Option<f64>| decays.iter().filter_map(move |d| value(d));
    let widest = all(|d| d.interval).fold(0.0, f64::max);
    let interval =
        if widest > 0.0 { format!(" (95 % intervals within ±{widest:.1e})") } else { String::new() };
    let straight = all(|d| Some(d.r2)).fold(1.0, f64::min);
    let begin = decays.iter().map(|d| d.from).min().unwrap_or(0);
    let end = decays.iter().map(|d| d.to).max().unwrap_or(0);
    let measured = format!(
        "ln std falls by {} per step{interval}, R² {} or more, between step {begin} and step {end}.",
        range(all(|d| Some(d.rate)), 3, true),
        floor(straight, 4),
    );
    let source = match &first.source {
        Some(Source::Given) => "as given".to_string(),
        Some(source) => format!("from {}", String::from(source.clone())),
        None => "from the files".to_string(),
    };
    let counted = match first.accumulation_source {
        AccumulationSource::Given => ", steps per optimizer step as given",
        AccumulationSource::Counter => ", steps as the optimizer counts them",
        AccumulationSource::Config => ", accumulation from the config",
        // Assumed, or found in another way.
        _ => "",
    };
    let predicted = format!(
        "{} per step from {} ({source}{counted}); measured is {} times that.",
        range(all(|d| d.predicted), 3, true),
        product(first),
        range(all(|d| d.ratio), 3, false)
    );
    vec![("measured", measured), ("predicted", predicted)]
}

/// `value` truncated, not rounded, after this many digits: 0.99997 is not 1.
fn floor(value: f64, digits: i32) -> String {
    let scale = 10f64.powi(digits);
    format!("{:.*}", digits as usize, (value * scale).floor() / scale)
}

fn direction(layers: &[&LayerCause]) -> Option<(&'static str, String)> {
    let found: Vec<_> = layers.iter().filter_map(|l| l.direction).collect();
    let median = found.iter().map(|d| d.median).fold(f64::INFINITY, f64::min);
    let least = found.iter().map(|d| d.least).fold(f64::INFINITY, f64::min);
    let verb = if median >= 0.99 { "it shrinks, and does not learn" } else { "its direction changes" };
    (!found.is_empty()).then(|| {
        let text = format!(
            "cosine from checkpoint to checkpoint {} at the median, {} at least: {verb}.",
            floor(median, 4),
            floor(least, 3)
        );
        ("direction", text)
    })
}

fn push(layers: &[&LayerCause]) -> Option<(&'static str, String)> {
    let found: Vec<_> = layers.iter().filter_map(|l| l.push).collect();
    let largest = found.iter().map(|p| p.ratio).fold(0.0, f64::max);
    let first = found.first()?;
    let at = first.step.map_or(String::new(), |s| format!(" at step {s}"));
    let about = if first.at_most { "at most" } else { "about" };
    Some((
        "gradients",
        format!("the optimizer's step{at} is {about} {} times that of the decay.", number(Some(largest))),
    ))
}

fn zeros(layers: &[&LayerCause], cause: Cause) -> Option<(&'static str, String)> {
    let found: Vec<_> = layers.iter().filter_map(|l| l.occupancy).collect();
    let moved = found.iter().any(|o| (o.last - o.first).abs() > 0.1);
    if !(moved || cause == Cause::ZeroBucket && !found.is_empty()) {
        return None;
    }
    let percent = |of: fn(&ckpt_inspect::cause::Occupancy) -> f64| {
        range(found.iter().map(move |o| 100.0 * of(o)), 0, false) + " %"
    };
    Some((
        "zeros",
        format!(
            "ternary codes that are zero: {} at first, {} at last.",
            percent(|o| o.first),
            percent(|o| o.last)
        ),
    ))
}

/// The checkpoint to go back to, and the setting to change.
fn resume(run: &Run, explanation: &Explanation) -> Vec<String> {
    let Some(prognosis) = &explanation.prognosis else { return Vec::new() };
    let path = |c: usize| run.checkpoints[c].path.as_str();
    let mut advice = Vec::new();
    let end = run.checkpoints.len() - 1;
    match (prognosis.resume, prognosis.comfortable) {
        (Some(resume), _) if resume == end => {}
        (Some(resume), None) => {
            advice.push(format!("Resume from {}, the last healthy checkpoint.", path(resume)))
        }
        (Some(resume), Some(comfortable)) => {
            let by_then = match run.checkpoints[resume].step {
                Some(step) => format!("by step {step}"),
                None => "by then".to_string(),
            };
            advice.push(format!(
                "Resume from {}, the last healthy checkpoint, or better from {}, the last one in which each of these weights had a std of 0.01 or more: {by_then} the decline was well under way.",
                path(resume),
                path(comfortable)
            ));
        }
        (None, _) => advice
            .push("No checkpoint of this run is healthy, so there is nothing here to resume from.".into()),
    }
    for change in &prognosis.changes {
        let restored = match change.setting {
            Setting::Saved(_) => {
                " Loading the optimizer's state restores the old value, so set it after loading."
            }
            _ => "",
        };
        advice.push(format!(
            "Set {} to {} (it is {}): std would halve every {} steps instead of every {}; 0 stops the decay.{restored}",
            change.setting,
            short(change.to),
            short(change.from),
            steps(change.half_life),
            steps(change.half_life_now)
        ));
    }
    advice
}

/// A setting without the digits that a division leaves.
fn short(value: f64) -> String {
    let text = format!("{value:.3e}");
    let plain: f64 = text.parse().unwrap_or(value);
    if plain == 0.0 || (1e-4..1e6).contains(&plain) { format!("{plain}") } else { format!("{plain:e}") }
}

/// Why scaling dead weights back up is not among the advice.
fn no_rescaling(explanation: &Explanation) -> Option<String> {
    // If std never fell, there is nothing to scale back.
    let shrank =
        |l: &LayerCause| l.cause == Cause::WeightDecay || (l.cause == Cause::Unknown && l.decay.is_some());
    let prognosis = explanation.prognosis.as_ref().filter(|_| explanation.layers.iter().any(shrank))?;
    let fallen = prognosis.fallen_agreement?;
    let percent = |v: f64| format!("{:.1}\u{a0}%", 100.0 * v);
    let others = match prognosis.other_agreement {
        Some(other) => {
            format!(", of the other matrices' {}: the network has adapted to their absence", percent(other))
        }
        None => String::new(),
    };
    Some(format!(
        "Do not scale these weights back up. Of their ternary codes {} agree with the last healthy checkpoint{others}. In the one run where it was measured, held-out loss rose from 4.68 to 4.89.",
        percent(fallen)
    ))
}

fn advice(cause: Cause, explanation: &Explanation) -> Vec<String> {
    let decays = explanation.layers.iter().any(|l| l.cause == Cause::Unknown && l.decay.is_some());
    let text = match cause {
        Cause::WeightDecay => return Vec::new(),
        Cause::ZeroBucket => {
            "Less weight decay alone does not free them: values below half of mean |W| are zero whatever their scale. No setting is known to free them. The polarizer of `ckpt train` leaves zeros at zero with its default target, a quarter of mean |W|; only a target above half of the resulting mean could free them, such as `ckpt train --relative-target` above 1, which has not been measured. Resuming from a checkpoint before they were trapped, a lower learning rate for these matrices may keep them free."
        }
        Cause::Exploding => {
            "Lower the learning rate or clip gradients before the first step at which it shows, and look for a bad batch there."
        }
        Cause::Overwritten => {
            "Take these weights from another copy of the file or from an earlier checkpoint: their previous values are lost."
        }
        Cause::Truncated => {
            "Copy or download the file again. If that does not help, `ckpt recover` saves what is intact, and can fill the holes from an earlier checkpoint."
        }
        Cause::ScaleLost => {
            "Pack the original again in a form that keeps scales; they cannot be derived from this copy."
        }
        Cause::NeverTrained => {
            "If it is not frozen on purpose, check that it is in one of the optimizer's groups, requires a gradient, and is used in the forward pass."
        }
        Cause::Unknown if decays => {
            "Give what the files lack (learning rate, weight decay, accumulation: `ckpt report --lr --weight-decay --accum`) or more checkpoints of the run."
        }
        Cause::Unknown => "More checkpoints of the run, or the optimizer's state, may show more.",
        _ => return Vec::new(),
    };
    vec![text.to_string()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted_for_people() {
        assert_eq!(steps(345.4), "345");
        assert_eq!(steps(2780.0), "2780");
        assert_eq!(steps(34_657.0), "34\u{202f}657");
        assert_eq!(steps(1_234_567.0), "1\u{202f}234\u{202f}567");
        assert_eq!(
            (short(0.1 / 100.0), short(0.02), short(1e-7)),
            ("0.001".into(), "0.02".into(), "1e-7".into())
        );
        assert_eq!((floor(0.99997, 4), floor(1.0, 4)), ("0.9999".into(), "1.0000".into()));
        assert_eq!(range([2.0071e-3, 2.0142e-3].into_iter(), 2, true), "2.01e-3");
        assert_eq!(range([1.0, 2.0].into_iter(), 1, false), "1.0 to 2.0");
    }
}
