//! The loss of one position, with its gradient.

use serde::{Deserialize, Serialize};

use crate::network::math;

/// The loss that is minimised at each position with logits z, p = softmax(z) and target t:
///
/// `(1 - alpha) * (1 - p_t)^focal * ((1 - s) * -ln p_t + s * mean_v -ln p_v) + alpha * T^2 * KL(q || softmax(z / T))`
///
/// with `s` the label smoothing as in `torch.nn.functional.cross_entropy`, the focal weight of Lin et al. 2017
/// (<https://arxiv.org/abs/1708.02002>), and the teachers' probabilities `q` at temperature `T` as in Hinton et al.
/// 2015 (<https://arxiv.org/abs/1503.02531>). Without a teacher, alpha counts as 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Loss {
    /// Share of the target's probability that is spread over the vocabulary, 0 to 1.
    pub label_smoothing: f64,
    /// Exponent of the focal weight, by which well-predicted tokens count less; 0 for none.
    pub focal: f64,
    /// Share of the teachers in the loss, 0 to 1.
    pub alpha: f64,
    /// The temperature at which student and teachers are compared.
    pub temperature: f64,
}

impl Default for Loss {
    fn default() -> Self {
        Loss { label_smoothing: 0.0, focal: 0.0, alpha: 0.5, temperature: 2.0 }
    }
}

/// A loss with its two parts, per position that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Losses {
    /// What is minimised: `(1 - alpha) * cross_entropy + alpha * distillation`.
    pub total: f64,
    /// The cross entropy, with focal weight and label smoothing as set.
    pub cross_entropy: f64,
    /// `T^2 * KL(q || softmax(z / T))`; 0 without teachers.
    pub distillation: f64,
}

impl Losses {
    /// Adds `weight` times `other`.
    pub(crate) fn add(&mut self, other: Losses, weight: f64) {
        self.total += weight * other.total;
        self.cross_entropy += weight * other.cross_entropy;
        self.distillation += weight * other.distillation;
    }
}

impl Loss {
    /// What must be otherwise, if a number is not valid.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let share = 0.0..=1.0;
        let all = [
            (share.contains(&self.label_smoothing), "label smoothing must be from 0 to 1"),
            (share.contains(&self.alpha), "alpha must be from 0 to 1"),
            ((0.0..=100.0).contains(&self.focal), "focal must be from 0 to 100"),
            ((1e-3..=1e3).contains(&self.temperature), "temperature must be from 0.001 to 1000"),
        ];
        all.into_iter().find(|(sound, _)| !sound).map(|(_, what)| what)
    }

    /// The loss of one position from its `logits` (`[vocab]`), which become `weight` times its gradient. `teacher`
    /// holds the teachers' probabilities (`[vocab]`), and is overwritten.
    pub(crate) fn row(
        &self,
        target: usize,
        mut teacher: Option<&mut [f32]>,
        logits: &mut [f32],
        weight: f32,
    ) -> Losses {
        math::simd(|| {
            let highest = math::max(logits);
            let divergence = teacher.as_mut().map(|q| self.divergence(logits, highest, q, weight));
            let share = if teacher.is_some() { 1.0 - self.alpha } else { 1.0 };
            let smoothing = self.label_smoothing;
            let chosen = f64::from(logits[target] - highest);
            let mean = match smoothing {
                0.0 => 0.0,
                _ => f64::from(math::sum(logits)) / logits.len() as f64 - f64::from(highest),
            };
            logits.iter_mut().for_each(|z| *z = math::exp(*z - highest));
            let total = math::sum(logits);
            let entropy = f64::from(total).ln() - (1.0 - smoothing) * chosen - smoothing * mean;
            let (focus, slope) = self.focus(f64::from(logits[target] / total), entropy);

            let each = (f64::from(weight) * share * (focus + slope)) as f32 / total;
            let uniform = (f64::from(weight) * share * focus * smoothing / logits.len() as f64) as f32;
            logits.iter_mut().for_each(|z| *z = *z * each - uniform);
            logits[target] -= (f64::from(weight) * share * (focus * (1.0 - smoothing) + slope)) as f32;
            if let Some(teacher) = teacher {
                logits.iter_mut().zip(teacher.iter()).for_each(|(z, q)| *z += q);
            }
            let (cross_entropy, distillation) = (focus * entropy, divergence.unwrap_or(0.0));
            let total = share * cross_entropy + (1.0 - share) * distillation;
            Losses { total, cross_entropy, distillation }
        })
    }

    /// The focal weight of a target of probability `p`, and minus its derivative by ln p times the entropy.
    fn focus(&self, p: f64, entropy: f64) -> (f64, f64) {
        let rest = 1.0 - p;
        match self.focal {
            0.0 => (1.0, 0.0),
            _ if rest <= 0.0 => (0.0, 0.0),
            gamma => (rest.powf(gamma), entropy * gamma * rest.powf(gamma - 1.0) * p),
        }
    }

    /// `T^2 * KL(q || softmax(z / T))`; `q` becomes `weight * alpha` times its gradient by z, which is
    /// `T * (softmax(z / T) - q)`.
    #[inline(always)]
    fn divergence(&self, logits: &[f32], highest: f32, q: &mut [f32], weight: f32) -> f64 {
        let inverse = (1.0 / self.temperature) as f32;
        let scaled = |z: f32| (z - highest) * inverse;
        let total = f64::from(math::sum_of(logits, |z| math::exp(scaled(z))));
        let log_total = total.ln();
        let mut divergence = 0.0;
        for (q, &z) in q.iter().zip(logits) {
            if *q > 0.0 {
                divergence += f64::from(*q) * (f64::from(*q).ln() - f64::from(scaled(z)) + log_total);
            }
        }
        let factor = weight * (self.alpha * self.temperature) as f32;
        let inverse_total = (1.0 / total) as f32;
        for (q, &z) in q.iter_mut().zip(logits) {
            *q = factor * (math::exp(scaled(z)) * inverse_total - *q);
        }
        self.temperature * self.temperature * divergence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(value: &serde_json::Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    }

    /// See tests/data/losses.py.
    #[test]
    fn losses_and_gradients_are_pytorchs() {
        let truth: serde_json::Value =
            serde_json::from_str(include_str!("../tests/data/losses.json")).unwrap();
        let cases = truth.as_array().unwrap();
        assert!(cases.len() >= 8);
        for case in cases {
            let number = |name: &str| case[name].as_f64().unwrap();
            let loss = Loss {
                label_smoothing: number("label_smoothing"),
                focal: number("focal"),
                alpha: number("alpha"),
                temperature: number("temperature"),
            };
            assert_eq!(loss.fault(), None);
            let mut logits = floats(&case["logits"]);
            let mut teacher = case["teacher"].is_array().then(|| floats(&case["teacher"]));
            let target = case["target"].as_u64().unwrap() as usize;
            let got = loss.row(target, teacher.as_deref_mut(), &mut logits, 0.5).total;
            let wanted = number("loss");
            assert!((got - wanted).abs() < 1e-5 * wanted.abs().max(1.0), "{got} {wanted} {loss:?}");
            for (got, wanted) in logits.iter().zip(floats(&case["gradient"])) {
                assert!((got - 0.5 * wanted).abs() < 2e-6, "{got} {} {loss:?}", 0.5 * wanted);
            }
        }
    }
}
