//! How fast learning rate and weight decay together shrink a weight that gets no gradient.

use super::{DecayRule, ParamGroup};

impl ParamGroup {
    /// Fall of ln |w| per optimizer step of a weight that gets no gradient, if learning rate and weight decay are known
    /// and this optimizer has such a rate.
    pub fn decay_rate(&self) -> Option<f64> {
        let (lr, weight_decay) = (self.lr?, self.weight_decay?);
        match self.kind.decay() {
            DecayRule::DividedOut => (lr * weight_decay == 0.0).then_some(0.0),
            DecayRule::InGradient => sgd_rate(
                lr,
                weight_decay,
                self.momentum.unwrap_or(0.0),
                self.dampening.unwrap_or(0.0),
                self.nesterov,
            ),
            DecayRule::Decoupled => decoupled_rate(lr, weight_decay),
        }
    }
}

/// Decoupled decay, w ← (1 - lr·wd) w: -ln(1 - lr·wd) per optimizer step, which is lr·wd for small ones. `None` when a
/// single step leaves nothing.
pub fn decoupled_rate(lr: f64, weight_decay: f64) -> Option<f64> {
    let product = lr * weight_decay;
    (0.0..1.0).contains(&product).then(|| -(-product).ln_1p())
}

/// SGD adds wd·w to the gradient. Without gradient, buf ← m·buf + (1-d)·wd·w and w ← w - lr·buf (Nesterov:
/// w - lr·(wd·w + m·buf)) is linear in (w, buf); its larger eigenvalue is what w shrinks by in the long run, about
/// 1 - lr·wd/(1-m). `None` where the eigenvalues are complex: the weight then oscillates.
fn sgd_rate(lr: f64, weight_decay: f64, momentum: f64, dampening: f64, nesterov: bool) -> Option<f64> {
    let a = lr * weight_decay;
    if a < 0.0 || !(0.0..1.0).contains(&momentum) {
        return None;
    }
    if momentum == 0.0 {
        return decoupled_rate(lr, weight_decay);
    }
    let kept = 1.0 - dampening;
    let (trace, determinant) = match nesterov {
        false => (1.0 + momentum - a * kept, momentum),
        true => (1.0 - a - a * momentum * kept + momentum, momentum * (1.0 - a)),
    };
    let root = (trace * trace - 4.0 * determinant).sqrt();
    let largest = (trace + root) / 2.0;
    (largest > 0.0 && largest <= 1.0).then(|| -largest.ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::Kind;

    /// Plain recursions, as torch.optim.SGD runs them.
    #[test]
    fn sgd_shrinks_a_weight_as_its_recursion_does() {
        for (lr, wd, m, d, nesterov) in [
            (0.1, 5e-4, 0.0, 0.0, false),
            (0.1, 5e-4, 0.9, 0.0, false),
            (0.05, 1e-3, 0.9, 0.5, false),
            (0.1, 5e-4, 0.9, 0.0, true),
            (0.01, 0.02, 0.95, 0.0, true),
        ] {
            let (mut w, mut buf) = (1.0f64, 0.0);
            let mut marks = Vec::new();
            for step in 0..4000 {
                let g = wd * w;
                buf = if step == 0 { g } else { m * buf + (1.0 - d) * g };
                let update = match (m == 0.0, nesterov) {
                    (true, _) => g,
                    (false, true) => g + m * buf,
                    (false, false) => buf,
                };
                w -= lr * update;
                if step == 1999 || step == 3999 {
                    marks.push(w.ln());
                }
            }
            let measured = (marks[0] - marks[1]) / 2000.0;
            let rate = sgd_rate(lr, wd, m, d, nesterov).unwrap();
            assert!((rate / measured - 1.0).abs() < 1e-6, "{lr} {wd} {m} {d} {nesterov}: {rate}, {measured}");
        }
        assert_eq!(sgd_rate(0.01, 0.1, 0.95, 0.0, true), None, "its eigenvalues are complex: it oscillates");
    }

    #[test]
    fn decoupled_decay_is_lr_times_wd_to_first_order() {
        assert!((decoupled_rate(0.02, 0.1).unwrap() - 2.002_002_67e-3).abs() < 1e-11);
        assert_eq!(decoupled_rate(0.02, 0.0), Some(0.0));
        assert_eq!(decoupled_rate(2.0, 0.6), None);
        let group = ParamGroup {
            kind: Kind::AdamL2,
            lr: Some(0.1),
            weight_decay: Some(0.1),
            ..ParamGroup::default()
        };
        assert_eq!(group.decay_rate(), None, "coupled decay is divided by the second moment");
    }
}
