//! Cross entropy of one position, with its gradient.

use crate::network::math;

/// What is minimised: `(1 - s) * -log p(target) + s * mean_v -log p(v)`, as `torch.nn.functional.cross_entropy` with
/// `label_smoothing = s`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss {
    /// Share of the target's probability that is spread over the vocabulary, 0 to 1.
    pub label_smoothing: f64,
}

impl Loss {
    /// The loss of one position from its `logits` (`[vocab]`), which become `weight` times its gradient.
    pub(crate) fn row(&self, target: usize, logits: &mut [f32], weight: f32) -> f64 {
        let smoothing = self.label_smoothing as f32;
        math::simd(|| {
            let highest = math::max(logits);
            let chosen = f64::from(logits[target] - highest);
            let mean = match self.label_smoothing {
                0.0 => 0.0,
                _ => f64::from(math::sum(logits)) / logits.len() as f64 - f64::from(highest),
            };
            logits.iter_mut().for_each(|z| *z = math::exp(*z - highest));
            let total = math::sum(logits);
            let (each, uniform) = (weight / total, weight * smoothing / logits.len() as f32);
            logits.iter_mut().for_each(|z| *z = *z * each - uniform);
            logits[target] -= weight * (1.0 - smoothing);
            f64::from(total).ln() - (1.0 - self.label_smoothing) * chosen - self.label_smoothing * mean
        })
    }
}
