//! A matrix that grew beyond all reason: its outputs are ten thousand times its inputs, whatever those are. Where a
//! network normalizes what it computes its matrices stay small, so that less is too much.

use super::{Check, Rule, Ruling};
use crate::meaning::role::{Role, is_weight_normed};
use crate::verdict::{EXPLODED, Finding, Verdict, relative_std};

/// std * sqrt(fan_in). The usual initializations have about 1, embeddings used as matrices up to 100.
const MOST: f64 = 1e4;
/// Rows and columns that make a matrix one that activations pass through.
const ENOUGH: u64 = 16;
/// The same of tables, and of convolutions, which a normalization behind them lets grow.
const MOST_OTHERS: f64 = 1e5;

pub(super) const RULE: Rule = Rule {
    name: "large-relative-std",
    summary: "A matrix is ten thousand times larger than usual for its fan-in, or three hundred times in a network with norms.",
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
            let normalizes = matrix.among.is_some_and(|(network, _)| network.normalizes());
            matches!(matrix.role(), Role::Matrix | Role::Head) && passes && normalizes && !matrix.has_scale()
        };
        (relative > most || (relative > EXPLODED && inner()))
            .then(|| Ruling::new(Verdict::Corrupt, Finding::LargeRelativeStd { std: matrix.std, relative }))?
    }),
};
