//! The kinds of optimizers: how a parameter group shows which one it belongs to, what state each stores, and how its
//! weight decay acts.

use serde::{Deserialize, Serialize};

use crate::metadata::{Value, lookup};

/// Optimizers, as far as they can be distinguished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Adam with decoupled weight decay.
    AdamW,
    /// Adam that adds weight decay to the gradient, which its second moment then divides out.
    #[serde(rename = "adam-l2")]
    AdamL2,
    /// One of the two: state dicts before PyTorch 2.6 do not distinguish them.
    #[serde(rename = "adam-or-adamw")]
    AdamEither,
    /// Stochastic gradient descent, with or without momentum.
    Sgd,
    /// SGD whose weight decay is decoupled: SGDW (<https://arxiv.org/abs/1711.05101>).
    Sgdw,
    /// Muon: momentum, orthogonalised; decoupled weight decay.
    Muon,
    /// Lion: the sign of the momentum; decoupled weight decay.
    Lion,
    /// BitNetSpinSolver: the sign of a momentum of signs, weights near zero tunnel; decoupled weight decay.
    Spin,
    /// Something else.
    #[default]
    Unknown,
}

/// How an optimizer's weight decay acts on a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecayRule {
    /// w ← (1 - lr·wd) w, separate from the gradient step.
    Decoupled,
    /// wd·w is added to the gradient and goes through the momentum.
    InGradient,
    /// wd·w is added to a gradient that the second moment then divides, so that it has no rate of its own.
    DividedOut,
}

/// What is known of one kind of optimizer. A new kind is a line of [`KINDS`].
struct Facts {
    kind: Kind,
    /// Its name for people.
    name: &'static str,
    /// What its state stores for each parameter, besides a count of steps.
    state: &'static [&'static str],
    decay: DecayRule,
    /// Whether a parameter group is one of its: by the settings that only this kind has, else by what the file calls
    /// it.
    has: fn(&Signs<'_>) -> bool,
}

/// Running mean of the gradient.
pub(crate) const FIRST: &str = "exp_avg";
/// Running mean of its square.
pub(crate) const SECOND: &str = "exp_avg_sq";
/// Momentum of SGD, Muon and similar optimizers.
pub(crate) const MOMENTUM: &str = "momentum_buffer";

/// State that an optimizer stores for a parameter, by the last part of its name.
pub(crate) struct State {
    /// The last part of its name.
    pub name: &'static str,
    /// Whether it has the parameter's shape.
    pub whole: bool,
    /// Whether only optimizers use this name.
    pub certain: bool,
    /// Whether it is a mean or a sum of squares, or a largest magnitude, which is never negative.
    pub squares: bool,
}

/// The state that optimizers are known to store.
pub(crate) static STATE: [State; 15] = {
    const fn state(name: &'static str, whole: bool, certain: bool) -> State {
        State { name, whole, certain, squares: false }
    }
    const fn squares(name: &'static str, whole: bool, certain: bool) -> State {
        State { name, whole, certain, squares: true }
    }
    [
        state(FIRST, true, true),
        state(MOMENTUM, true, true),
        squares(SECOND, true, true),
        squares("max_exp_avg_sq", true, true),
        squares("square_avg", true, false),
        squares("sum", true, false),
        state("grad_avg", true, false),
        squares("acc_delta", true, false),
        squares("exp_inf", true, false),
        state("prev", true, false),
        squares("exp_avg_sq_row", false, false),
        squares("exp_avg_sq_col", false, false),
        squares("row_var", false, false),
        squares("col_var", false, false),
        squares("variance", true, false),
    ]
};

/// If a group matches several kinds, the first one is taken.
static KINDS: [Facts; 9] = {
    use DecayRule::*;
    const MOMENTS: &[&str] = &[FIRST, SECOND];
    const BUFFER: &[&str] = &[MOMENTUM];
    const fn facts(
        kind: Kind,
        name: &'static str,
        state: &'static [&'static str],
        decay: DecayRule,
        has: fn(&Signs<'_>) -> bool,
    ) -> Facts {
        Facts { kind, name, state, decay, has }
    }
    fn adam(g: &Signs<'_>) -> bool {
        g.has("betas") && g.has("eps")
    }
    fn sgd(g: &Signs<'_>) -> bool {
        g.has("momentum") && g.has("dampening")
    }
    [
        facts(Kind::Muon, "Muon", BUFFER, Decoupled, |g| {
            ["ns_iters", "ns_steps", "ns_coefficients"].iter().any(|k| g.has(k))
                || (g.has("momentum") && g.called.contains("muon"))
        }),
        facts(Kind::Spin, "BitNetSpinSolver", BUFFER, Decoupled, |g| {
            g.has("hysteresis_threshold") && g.has("tunnel_strength")
        }),
        facts(Kind::AdamW, "AdamW", MOMENTS, Decoupled, |g| {
            adam(g) && g.decoupled().unwrap_or_else(|| g.named("adamw"))
        }),
        facts(Kind::AdamL2, "Adam with L2", MOMENTS, DividedOut, |g| adam(g) && g.decoupled() == Some(false)),
        facts(Kind::AdamEither, "Adam or AdamW", MOMENTS, Decoupled, adam),
        facts(Kind::Lion, "Lion", &[FIRST], Decoupled, |g| {
            g.has("betas") && !g.has("eps") && g.named("lion")
        }),
        facts(Kind::Sgdw, "SGD with decoupled weight decay", BUFFER, Decoupled, |g| {
            sgd(g) && g.decoupled() == Some(true)
        }),
        facts(Kind::Sgd, "SGD", BUFFER, InGradient, sgd),
        facts(Kind::Unknown, "an unknown optimizer", &[], Decoupled, |_| true),
    ]
};

impl Kind {
    fn facts(self) -> &'static Facts {
        KINDS.iter().find(|facts| facts.kind == self).expect("every kind has a line")
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// What its state dict stores for each parameter, besides a count of steps.
    pub fn state(self) -> &'static [&'static str] {
        self.facts().state
    }

    /// How its weight decay acts.
    pub fn decay(self) -> DecayRule {
        self.facts().decay
    }
}

/// What a file says about a parameter group that identifies its optimizer.
pub(super) struct Signs<'a> {
    pub group: &'a Value,
    /// The key that the optimizer is saved under, in lower case.
    pub called: String,
    /// What the config calls the optimizer, in lower case.
    pub configured: Option<String>,
}

impl Signs<'_> {
    fn has(&self, key: &str) -> bool {
        lookup(self.group, key).is_some()
    }

    fn decoupled(&self) -> Option<bool> {
        match lookup(self.group, "decoupled_weight_decay") {
            Some(Value::Bool(decoupled)) => Some(*decoupled),
            _ => None,
        }
    }

    fn named(&self, word: &str) -> bool {
        self.called.contains(word) || self.configured.as_ref().is_some_and(|c| c.contains(word))
    }

    /// The kind that it shows.
    pub fn kind(&self) -> Kind {
        KINDS.iter().find(|facts| (facts.has)(self)).map_or(Kind::Unknown, |facts| facts.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_line_of_its_own() {
        use Kind::*;
        for kind in [AdamW, AdamL2, AdamEither, Sgd, Sgdw, Muon, Lion, Spin, Unknown] {
            assert_eq!(KINDS.iter().filter(|facts| facts.kind == kind).count(), 1, "{kind:?}");
            assert_eq!(kind.facts().kind, kind);
        }
    }
}
