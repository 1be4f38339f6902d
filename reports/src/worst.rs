//! What comes first, and what is kept, where not everything is shown: the worst.

use std::cmp::Reverse;

use ckpt_inspect::Verdict;
use ckpt_inspect::run::Run;

/// How many of each verdict there are, worst first; what is not judged comes last.
pub fn counts(verdicts: impl IntoIterator<Item = Option<Verdict>>) -> Vec<(Option<Verdict>, usize)> {
    let mut counts: Vec<(Option<Verdict>, usize)> = Vec::new();
    for verdict in verdicts {
        match counts.iter_mut().find(|(known, _)| *known == verdict) {
            Some((_, count)) => *count += 1,
            None => counts.push((verdict, 1)),
        }
    }
    counts.sort_unstable_by_key(|(verdict, _)| Reverse(*verdict));
    counts
}

/// The places of `runs` with the worst first; of equally bad ones, those of which more is below healthy; and by name.
pub fn runs(runs: &[Run]) -> Vec<usize> {
    let below = |run: &Run| {
        let last = run.checkpoints.last().map_or(&[][..], |c| &c.tensors);
        last.iter().filter(|t| t.verdict.is_some_and(Verdict::is_below_healthy)).count()
    };
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_cached_key(|&i| {
        (Reverse((runs[i].standing(), below(&runs[i]))), runs[i].title().to_string())
    });
    order
}

/// The `most` worst of `layers` by the worst verdict that each ever had, in their own order.
pub(crate) fn layers(run: &Run, mut layers: Vec<usize>, most: usize) -> Vec<usize> {
    if layers.len() > most {
        let worst = |l: usize| (0..run.checkpoints.len()).filter_map(|c| run.tensor(l, c)?.verdict).max();
        layers.sort_by_cached_key(|&l| Reverse(worst(l)));
        layers.truncate(most);
        layers.sort_unstable();
    }
    layers
}
