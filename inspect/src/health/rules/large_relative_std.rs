//! A matrix that grew beyond all reason: its outputs are ten thousand times its inputs, whatever those are. Where a
//! network normalizes what it computes its matrices stay small, so that less is too much. So they do where a matrix is neither
//! the first nor the last and all others are small, and where it is applied again and again.

use super::{Among, Check, Rule, Ruling};
use crate::meaning::role::{Role, is_weight_normed};
use crate::verdict::{EXPLODED, Finding, Verdict, relative_std};

/// std * sqrt(fan_in). The usual initializations have about 1, embeddings used as matrices up to 100.
const MOST: f64 = 1e4;
/// Rows and columns that make a matrix one that activations pass through.
const ENOUGH: u64 = 16;
/// How many times as large as the median it is where nothing is normalized.
const BESIDE: f64 = 100.0;
/// What is more than usual where a network normalizes and most of its matrices are a hundredth of it.
const GROWN: f64 = 30.0;
/// And where most of its matrices are as large.
const ALL_GROWN: f64 = 100.0;
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
        let cols: u64 = matrix.tensor.shape[1..].iter().product();
        let passes = matches!(matrix.role(), Role::Matrix | Role::Head)
            && cols >= ENOUGH
            && matrix.tensor.shape[0] >= ENOUGH
            && !matrix.has_scale();
        let inner = |(network, i): Among<'_>| {
            let beside = || {
                let recurs = matrix.tensor.name.contains("weight_hh");
                let within = || !network.is_at_an_end(i) && !matrix.is_last();
                matrix.role() == Role::Matrix
                    && !network.normalizes_otherwise()
                    && network.usual().is_some_and(|(_, usual)| relative > BESIDE * usual)
                    && (recurs || within())
            };
            // Norms without gains let matrices grow, and biases never grow so.
            let exploded = || {
                let bias = network.bias_of(matrix.tensor).and_then(|bias| bias.stats.as_ref()?.std);
                !network.normalizes_otherwise()
                    && network.usual().is_some_and(|(_, usual)| usual > EXPLODED)
                    && bias.is_some_and(|std| std > EXPLODED)
            };
            network.normalizes() || beside() || exploded()
        };
        // Networks of two or three layers have no middle that one of them would be held against.
        let grown = |(network, _): Among<'_>| {
            let beyond =
                |usual: f64| relative > BESIDE * usual || (relative > ALL_GROWN && usual > ALL_GROWN);
            network.normalizes_inputs() && network.usual().is_some_and(|(_, usual)| beyond(usual))
        };
        let too_large = || {
            passes
                && ((relative > EXPLODED && matrix.among.is_some_and(inner))
                    || (relative > GROWN && matrix.among.is_some_and(grown)))
        };
        (relative > most || too_large())
            .then(|| Ruling::new(Verdict::Corrupt, Finding::LargeRelativeStd { std: matrix.std, relative }))?
    }),
};
