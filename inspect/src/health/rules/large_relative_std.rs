//! A matrix that grew beyond all reason: its outputs are ten thousand times its inputs, whatever those are. Where a
//! network normalizes what it computes its matrices stay small, so that less is too much. So they do where a matrix is neither
//! the first nor the last and all others are small, and where it is applied again and again.

use super::{Check, Rule, Ruling};
use crate::meaning::role::{Role, is_weight_normed};
use crate::verdict::{EXPLODED, Finding, Verdict, relative_std};

/// std * sqrt(fan_in). The usual initializations have about 1, embeddings used as matrices up to 100.
const MOST: f64 = 1e4;
/// Rows and columns that make a matrix one that activations pass through.
const ENOUGH: u64 = 16;
/// How many times as large as the median it is where nothing is normalized.
const BESIDE: f64 = 100.0;
/// The same of tables, and of convolutions, which a normalization behind them lets grow.
const MOST_OTHERS: f64 = 1e5;

pub(super) const RULE: Rule = Rule {
    name: "large-relative-std",
    summary: "A matrix is ten thousand times larger than usual for its fan-in, or three hundred times in a network with norms or of small matrices.",
    levels: &[Verdict::Corrupt],
    roles: &[Role::Matrix, Role::Convolution, Role::Head, Role::Router, Role::Embedding, Role::Positional],
    check: Check::Matrix(|matrix, _| {
        let most = match matrix.role() {
            _ if matrix.ternary.is_some() || is_weight_normed(&matrix.tensor.name) => return None,
            Role::Matrix | Role::Head | Role::Router => MOST,
            Role::Convolution | Role::Embedding | Role::Positional => MOST_OTHERS,
            _ => return None,
        };
        let relative = relative_std(matrix.tensor)?;
        let inner = || {
            let cols: u64 = matrix.tensor.shape[1..].iter().product();
            let passes = cols >= ENOUGH && matrix.tensor.shape[0] >= ENOUGH;
            let Some((network, i)) = matrix.among else { return false };
            let beside = || {
                let recurs = matrix.tensor.name.contains("weight_hh");
                let within = || !network.is_at_an_end(i) && !matrix.is_last();
                matrix.role() == Role::Matrix
                    && !network.normalizes_otherwise()
                    && network.usual().is_some_and(|(_, usual)| relative > BESIDE * usual)
                    && (recurs || within())
            };
            matches!(matrix.role(), Role::Matrix | Role::Head)
                && passes
                && !matrix.has_scale()
                && (network.normalizes() || beside())
        };
        (relative > most || (relative > EXPLODED && inner()))
            .then(|| Ruling::new(Verdict::Corrupt, Finding::LargeRelativeStd { std: matrix.std, relative }))?
    }),
};
