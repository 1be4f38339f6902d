//! A matrix that grew beyond all reason: its outputs are ten thousand times its inputs, whatever those are.

use super::{Check, Rule, Ruling};
use crate::meaning::role::{Role, is_weight_normed};
use crate::verdict::{Finding, Verdict, relative_std};

/// std * sqrt(fan_in). The usual initializations have about 1, embeddings used as matrices up to 100.
const MOST: f64 = 1e4;
/// The same of tables, and of convolutions, which a normalization behind them lets grow.
const MOST_OTHERS: f64 = 1e5;

pub(super) const RULE: Rule = Rule {
    name: "large-relative-std",
    summary: "A matrix is ten thousand times larger than usual for its fan-in.",
    check: Check::Matrix(|matrix, _| {
        let most = match matrix.role() {
            _ if matrix.ternary.is_some() || is_weight_normed(&matrix.tensor.name) => return None,
            Role::Matrix | Role::Head | Role::Router => MOST,
            Role::Convolution | Role::Embedding | Role::Positional => MOST_OTHERS,
            _ => return None,
        };
        let relative = relative_std(matrix.tensor)?;
        (relative > most)
            .then(|| Ruling::new(Verdict::Corrupt, Finding::LargeRelativeStd { std: matrix.std, relative }))?
    }),
};
