//! Any other matrix, by its standard deviation against 1 / sqrt(fan_in), which the usual initializations give.

use super::{Check, Matrix, Rule, Ruling};
use crate::meaning::role::Role;
use crate::record::TensorRecord;
use crate::verdict::{Finding, Levels, Thresholds, Verdict, relative_std};

/// Matrices of fewer columns take coordinates, not activations; they are usually drawn with a fixed std, which is
/// small against theirs.
const FEW_COLUMNS: u64 = 8;
/// The same holds for any matrix of a small network: initializations that do not look at the fan-in are not below it.
const USUAL: f64 = 2e-3;
/// And it is one that drew them where nothing was trained since.
const SMALLEST_USUAL: f64 = 9e-4;
/// Last layers often begin near zero, so that the first answers say nothing: actions of a policy, offsets of points.
/// Where it does not show that the network was trained, they may still be there.
const LAST: Levels = Levels { healthy: 3e-5, weak: 3e-5, dying: 3e-5 };
/// And this is where those of detectors' boxes are after some training.
const LAST_IN_TRAINING: f64 = 1e-2;
/// And below this nothing is drawn, whatever is as small beside it.
const LEAST_DRAWN: f64 = 3e-7;
/// By what factor the same matrix differs from layer to layer at its beginning, at most.
const ALIKE: f64 = 2.0;
/// So many times as many rows as columns, and no more columns than this, make a table.
const ROWS: u64 = 128;
const COLUMNS: u64 = 16;

pub(super) const RULE: Rule = Rule {
    name: "small-relative-std",
    summary: "A matrix is smaller than usual for its fan-in.",
    levels: &[Verdict::Weak, Verdict::Dying, Verdict::Dead],
    roles: &[Role::Matrix, Role::Convolution, Role::Head, Role::Router, Role::Embedding, Role::Positional],
    check: Check::Matrix(|matrix, thresholds| {
        if matrix.ternary.is_some() || matrix.is_average() {
            return None;
        }
        let levels = levels(matrix, thresholds)?;
        let std = matrix.std;
        let relative = relative_std(matrix.tensor).unwrap_or(std);
        // Levels that somebody asked for hold as they are.
        let asked = !thresholds.are_usual();
        let few = matrix.tensor.shape[1..].iter().product::<u64>() < FEW_COLUMNS;
        match levels.judge(relative) {
            Verdict::Healthy => None,
            Verdict::Weak if !asked && (few || std >= USUAL) => None,
            Verdict::Weak if !asked && std >= SMALLEST_USUAL && matrix.is_untrained() => None,
            Verdict::Weak if !asked && relative >= LAST_IN_TRAINING && matrix.is_last() => None,
            _ if !asked && begins_so(matrix) => None,
            worse => {
                Ruling::new(worse, Finding::SmallRelativeStd { std, relative, bound: levels.bound(worse) })
            }
        }
    }),
};

fn levels<'t>(matrix: &Matrix<'_>, thresholds: &'t Thresholds) -> Option<&'t Levels> {
    let usual = thresholds.levels(matrix.tensor)?;
    if !thresholds.are_usual() {
        return Some(usual);
    }
    let cols: u64 = matrix.tensor.shape[1..].iter().product();
    let is_table = cols <= COLUMNS && matrix.tensor.shape[0] >= ROWS * cols;
    let begins = || matrix.among.is_none_or(|(network, _)| network.trained() != Some(true));
    Some(match matrix.role() {
        Role::Matrix if is_table => &thresholds.tables,
        Role::Matrix | Role::Head if matrix.is_last() && begins() => &LAST,
        _ => usual,
    })
}

/// Whether it is as small as it begins, in a network that has not been trained: by its configuration, or because the same
/// matrix is as small in every layer, and what stands beside it is not, or so small in each block that has one called so.
fn begins_so(matrix: &Matrix<'_>) -> bool {
    let Some((network, i)) = matrix.among else { return false };
    let everywhere = || {
        let stds = network.siblings(i).filter(|siblings| siblings.alive > 1 && siblings.zero == 0)?.stds?;
        Some(stds.1 < ALIKE * stds.0 && network.beside(i)?.alive)
    };
    // Where the recurrent weight is the identity, what comes in begins next to nothing (https://arxiv.org/abs/1504.00941).
    let recurrent = matrix.tensor.name.replace("weight_ih", "weight_hh");
    if recurrent != matrix.tensor.name && network.named(&recurrent).is_some_and(TensorRecord::is_pattern) {
        return true;
    }
    match network.trained() {
        Some(true) => false,
        Some(false) => {
            network.begins_with(matrix.std)
                || (matrix.std >= LEAST_DRAWN
                    && (everywhere() == Some(true)
                        || (matrix.role() == Role::Convolution && network.end_alike(i, ALIKE))))
        }
        None => network.begins_with(matrix.std),
    }
}
