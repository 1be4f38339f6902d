//! Signs that a run explodes. None of them need be seen in the loss as such: a model that says nothing of its input any
//! more has the loss of a guess, and goes on for any number of steps.

use std::collections::VecDeque;
use std::fmt;

use ckpt_inspect::Verdict;
use rayon::prelude::*;

use crate::{Parameter, Parameters};

/// Steps whose mean loss is compared with that of a guess.
const STEPS: usize = 20;
/// Steps without a sign after which one is told again.
const QUIET: usize = 50;
/// Share of ln V from which a loss is that of a guess.
const GUESS: f64 = 0.98;
/// Share of ln V below which a model had learnt something.
const LEARNT: f64 = 0.85;
/// From so many times ln V on a loss that rose has diverged: a model that knows nothing has ln V.
const DIVERGED: f64 = 2.0;
/// How many times its first loss a loss that rose has at least.
const ROSE: f64 = 1.2;
/// The largest std of a matrix times the root of its inputs: new ones have 0.58, and trained ones up to 3 or so.
const LARGEST: f64 = 20.0;

/// One sign.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sign {
    /// The loss is that of a guess among all tokens, and was lower before.
    Guess { loss: f64, guess: f64, lowest: f64 },
    /// The loss rose to twice that of a guess, and never was lower than one.
    Diverged { of: &'static str, loss: f64, guess: f64, first: f64 },
    /// No gradient reaches any weight.
    NoGradient,
    /// A matrix holds numbers out of all proportion, or none.
    Size { name: String, std: f64, others: usize },
}

/// What may be wrong with weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ternary matrices are below healthy.
    Collapsed,
    /// Numbers are out of all proportion, or none.
    Exploded,
}

/// How far a fault goes: the worst verdict, and how many matrices have it.
pub(super) type Extent = (Verdict, usize);

/// What is wrong with weights.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub kind: Kind,
    pub extent: Extent,
    pub what: String,
}

/// What is remembered to see them.
pub(super) struct Signs {
    guess: f64,
    recent: VecDeque<f64>,
    lowest: f64,
    /// The first loss that the model had.
    first: Option<f64>,
    /// The step of the first weights since which all losses were far above the lowest.
    risen: Option<u64>,
    /// Whether the last validation's loss had diverged.
    validated_wrong: bool,
    /// How far the faults of the last health check went.
    faults: Vec<(Kind, Extent)>,
    /// Steps since the last sign: a new one is told if there was none for a while.
    quiet: usize,
}

impl Signs {
    /// For a vocabulary of `vocab` tokens.
    pub fn new(vocab: usize) -> Self {
        Signs {
            guess: (vocab as f64).ln(),
            recent: VecDeque::new(),
            lowest: f64::INFINITY,
            first: None,
            risen: None,
            validated_wrong: false,
            faults: Vec::new(),
            quiet: QUIET,
        }
    }

    /// Takes note of a loss that the model had.
    pub fn note(&mut self, loss: f64) {
        self.lowest = self.lowest.min(loss);
        self.first.get_or_insert(loss);
    }

    /// The sign that a validation's loss after `step` is, if it is one and the last was none.
    pub fn of_validation(&mut self, step: u64, loss: f64) -> Option<Sign> {
        self.follow(step, loss);
        self.note(loss);
        let sign = self.diverged("validation loss", loss);
        let told = std::mem::replace(&mut self.validated_wrong, sign.is_some());
        sign.filter(|_| !told)
    }

    /// Takes note of whether a loss of the weights after `step` is far above the lowest.
    fn follow(&mut self, step: u64, loss: f64) {
        let lowest = self.first.map_or(self.lowest, |first| first.min(self.lowest));
        match loss <= ROSE * lowest {
            true => self.risen = None,
            false => _ = self.risen.get_or_insert(step),
        }
    }

    /// The last step after which the weights' loss was not far above the lowest, as it is since; `None` if it is not.
    pub fn sound_until(&self) -> Option<u64> {
        self.risen.map(|step| step.saturating_sub(1))
    }

    /// Those of the faults of a health check that the last one did not have, or not to this extent.
    pub fn news<'f>(&mut self, faults: &'f [Fault]) -> Vec<&'f Fault> {
        let before = |fault: &&Fault| {
            let told = self.faults.iter().find(|(kind, _)| *kind == fault.kind);
            told.is_none_or(|(_, extent)| fault.extent > *extent)
        };
        let news = faults.iter().filter(before).collect();
        self.faults = faults.iter().map(|fault| (fault.kind, fault.extent)).collect();
        news
    }

    fn diverged(&self, of: &'static str, loss: f64) -> Option<Sign> {
        let first = self.first?;
        let rose = loss >= DIVERGED * self.guess && loss >= ROSE * first;
        rose.then_some(Sign::Diverged { of, loss, guess: self.guess, first })
    }

    /// The sign that the loss of the weights after `step` and the norm of its gradient are, if it is one and none was told
    /// lately.
    pub fn of_step(&mut self, step: u64, loss: f64, norm: f64) -> Option<Sign> {
        self.recent.push_back(loss);
        if self.recent.len() > STEPS {
            self.recent.pop_front();
        }
        let mean = self.recent.iter().sum::<f64>() / self.recent.len() as f64;
        let whole = self.recent.len() == STEPS;
        self.first.get_or_insert(loss);
        self.follow(step, loss);
        let sign = if norm == 0.0 {
            Some(Sign::NoGradient)
        } else if whole && mean >= GUESS * self.guess && self.lowest < LEARNT * self.guess {
            Some(Sign::Guess { loss: mean, guess: self.guess, lowest: self.lowest })
        } else if whole {
            self.diverged("loss of the last 20 steps", mean)
        } else {
            None
        };
        if whole {
            self.note(mean);
        }
        let quiet = match sign {
            Some(_) => std::mem::take(&mut self.quiet),
            None => {
                self.quiet += 1;
                0
            }
        };
        sign.filter(|_| quiet >= QUIET)
    }
}

/// The tensor of `parameters` that is farthest out of proportion, or holds NaN or infinity.
pub(super) fn size(parameters: &Parameters) -> Option<Sign> {
    let measured = |parameter: &Parameter| {
        let std = std(&parameter.values);
        let Some((_, cols)) = parameter.matrix() else {
            return (!std.is_finite()).then(|| (parameter.name.clone(), std, f64::NAN));
        };
        // A table of tokens is a matrix for the head, whose inputs are as many as its columns.
        let size = std * (cols.max(1) as f64).sqrt();
        (size > LARGEST || size.is_nan()).then(|| (parameter.name.clone(), std, size))
    };
    let mut large: Vec<_> = parameters.0.par_iter().filter_map(measured).collect();
    let others = large.len().saturating_sub(1);
    large.sort_by(|a, b| b.2.total_cmp(&a.2));
    large.into_iter().next().map(|(name, std, _)| Sign::Size { name, std, others })
}

fn std(values: &[f32]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    (values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sign::Guess { loss, guess, lowest } => write!(
                f,
                "the loss of the last {STEPS} steps, {loss:.2}, is no better than a guess (ln of the vocabulary, {guess:.2}), and was {lowest:.2}"
            ),
            Sign::Diverged { of, loss, guess, first } => write!(
                f,
                "the {of}, {loss:.2}, is more than twice that of a guess (ln of the vocabulary, {guess:.2}), and was {first:.2} at first"
            ),
            Sign::NoGradient => write!(f, "the gradient is exactly 0, so no weight learns any more"),
            Sign::Size { name, std, others } => {
                match std.is_finite() {
                    true => write!(f, "{name} is far too large (std {std:.1e})")?,
                    false => write!(f, "{name} holds NaN or infinity")?,
                }
                match others {
                    0 => Ok(()),
                    others => write!(f, ", and so are {others} more matrices"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(signs: &mut Signs, losses: impl IntoIterator<Item = f64>) -> Vec<Sign> {
        losses.into_iter().filter_map(|loss| signs.of_step(0, loss, 1.0)).collect()
    }

    #[test]
    fn the_loss_of_a_guess_is_a_sign_once_something_was_learnt() {
        let (vocab, guess) = (1000, 1000f64.ln());
        // A new model begins with it.
        let mut signs = Signs::new(vocab);
        assert!(steps(&mut signs, [guess; 50]).is_empty());
        assert!(steps(&mut signs, [0.5 * guess; 50]).is_empty());
        // One batch is not a trend; a run of them is told once, and again after it was over.
        assert!(steps(&mut signs, [guess, 0.5 * guess]).is_empty());
        let told = steps(&mut signs, [1.2 * guess; 50]);
        assert!(matches!(&told[..], [Sign::Guess { lowest, .. }] if *lowest < 0.51 * guess), "{told:?}");
        assert!(steps(&mut signs, [0.5 * guess; 60]).is_empty());
        assert_eq!(steps(&mut signs, [guess; 50]).len(), 1);
        // What validation measured counts as learnt.
        let mut signs = Signs::new(vocab);
        signs.note(0.5 * guess);
        assert_eq!(steps(&mut signs, [guess; 50]).len(), 1);
    }

    #[test]
    fn a_loss_that_rises_to_twice_that_of_a_guess_is_a_sign_though_nothing_was_learnt() {
        let guess = 1000f64.ln();
        let mut signs = Signs::new(1000);
        signs.note(guess);
        assert!(steps(&mut signs, [1.9 * guess; 50]).is_empty());
        let told = steps(&mut signs, [2.2 * guess; 50]);
        assert!(matches!(&told[..], [Sign::Diverged { first, .. }] if *first == guess), "{told:?}");
        // A validation tells it by itself.
        let mut signs = Signs::new(1000);
        signs.note(guess);
        assert_eq!(signs.of_validation(0, 1.9 * guess), None);
        assert!(matches!(signs.of_validation(0, 2.1 * guess), Some(Sign::Diverged { .. })));
        // A model that was as bad at first, and does not get worse, has not diverged here.
        let mut signs = Signs::new(1000);
        signs.note(2.5 * guess);
        assert!(steps(&mut signs, (0..100).map(|i| guess * (2.5 - 0.01 * f64::from(i)))).is_empty());
    }

    #[test]
    fn weights_are_sound_until_the_loss_rises_for_good() {
        let mut signs = Signs::new(1000);
        signs.note(4.0);
        let losses = [4.1, 3.9, 5.5, 4.0, 4.9, 5.2, 7.0];
        for (step, loss) in (10..).zip(losses) {
            signs.of_step(step, loss, 1.0);
        }
        assert_eq!(signs.sound_until(), Some(13));
        signs.of_validation(17, 4.2);
        assert_eq!(signs.sound_until(), None);
        signs.of_validation(18, f64::NAN);
        assert_eq!(signs.sound_until(), Some(17));
    }

    #[test]
    fn a_fault_is_told_again_where_it_goes_further() {
        let mut signs = Signs::new(1000);
        let fault =
            |verdict, count| Fault { kind: Kind::Collapsed, extent: (verdict, count), what: String::new() };
        let mut told = |faults: &[Fault]| signs.news(faults).len();
        assert_eq!(told(&[fault(Verdict::Weak, 2)]), 1);
        assert_eq!(told(&[fault(Verdict::Weak, 2)]), 0);
        assert_eq!(told(&[fault(Verdict::Weak, 3)]), 1);
        assert_eq!(told(&[fault(Verdict::Dead, 1)]), 1);
        assert_eq!(told(&[]), 0);
        assert_eq!(told(&[fault(Verdict::Weak, 1)]), 1);
    }

    #[test]
    fn no_gradient_is_a_sign_and_is_told_once() {
        let mut signs = Signs::new(1000);
        assert_eq!(signs.of_step(0, 1.0, 0.0), Some(Sign::NoGradient));
        assert_eq!(signs.of_step(0, 1.0, 0.0), None);
        assert_eq!(signs.of_step(0, 1.0, 1e-30), None);
        assert_eq!(signs.of_step(0, 1.0, 0.0), None);
        assert!((0..QUIET).all(|_| signs.of_step(0, 1.0, 1e-30).is_none()));
        assert_eq!(signs.of_step(0, 1.0, 0.0), Some(Sign::NoGradient));
    }
}
