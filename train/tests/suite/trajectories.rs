//! Twenty steps against PyTorch's.
//!
//! Rounding to levels and codes makes training chaotic: a last bit decides a level, the level moves the loss, AdamW's
//! first steps turn tiny gradients into full ones. PyTorch run twice with relative noise of 1e-7 to 4e-7 on its
//! gradients (its own rounding error is 3e-7) differs from this truth, at the worst step and in the norm of all
//! weights, by 6e-4 and 1e-3 (AdamW), 1.9e-3 and 1.8e-3 (with warm-up and clipping), 2e-1 and 2e-1 (cubic Muon, though
//! not before its fourth step). The bounds below allow twice that. Optimizers alone are held to 2e-5 in
//! `optimizers.rs`.

use crate::truth;

use ckpt_train::optim::{Settings, adamw, muon};
use ckpt_train::{Estimator, Loss, Network, Schedule, clip, global_norm};
use truth::{relative, series, truth};

/// The largest allowed distance of a run from PyTorch's.
struct Bounds {
    /// In the loss of the first four steps.
    early: f64,
    /// In the loss of any step.
    late: f64,
    /// In the relative norm of all weights at the end.
    weights: f64,
}

fn follow(run: &str, settings: &Settings, schedule: &Schedule, max_norm: Option<f64>, bounds: &Bounds) {
    let truth = truth();
    let mut parameters = truth.init.clone();
    let mut network = Network::new(&truth.config, &parameters, Estimator::ThroughScales).unwrap();
    let mut optimizer = settings.build(&parameters, 0).unwrap();
    let (losses, norms) = (series(run, "losses"), series(run, "grad_norms"));
    let mut gradients = parameters.zeros();
    for (step, batch) in truth.batches.iter().enumerate() {
        gradients.iter_mut().for_each(|g| g.fill(0.0));
        network.refresh(&parameters);
        let loss = network.accumulate(&parameters, batch, &Loss::default(), 1.0, &mut gradients).unwrap();
        network.finish(&parameters, &mut gradients);
        let bound = if step < 4 { bounds.early } else { bounds.late };
        assert!((loss - losses[step]).abs() < bound, "{run} step {step}: {loss}, PyTorch {}", losses[step]);
        if let Some(max_norm) = max_norm {
            let norm = global_norm(&gradients);
            assert!((norm / norms[step] - 1.0).abs() < 1e-2, "{run} step {step}: {norm} {}", norms[step]);
            clip(&mut gradients, norm, max_norm);
        }
        optimizer.step(&mut parameters, &gradients, schedule.factor(step as u64), step as u64);
    }
    let weights: Vec<&[f32]> = parameters.0.iter().map(|p| p.values.as_slice()).collect();
    let (got, want) = truth.sampled(run, &weights);
    let distance = relative(got.into_iter(), &want);
    assert!(distance < bounds.weights, "{run}: {distance}");
}

#[test]
fn adamw_follows_pytorchs_trajectory() {
    let settings = adamw::Settings::default().with(|s| s.lr = Some(1e-3)).into();
    let bounds = Bounds { early: 1e-3, late: 2e-3, weights: 2e-3 };
    follow("adamw", &settings, &Schedule::default(), None, &bounds);
}

#[test]
fn adamw_with_warmup_cosine_and_clipping_follows_pytorchs() {
    let settings = adamw::Settings::default().with(|s| s.lr = Some(1e-3)).into();
    let schedule = Schedule::cosine(5, 20);
    let bounds = Bounds { early: 1e-3, late: 4e-3, weights: 4e-3 };
    follow("adamw_cosine_clip", &settings, &schedule, Some(1.0), &bounds);
}

#[test]
fn cubic_muon_and_adamw_follow_their_trajectory() {
    let settings = muon::Settings::default().with(|s| {
        s.lr = Some(0.02);
        s.ternary_weight_decay = 0.1;
        s.weight_decay = 0.01;
    });
    let settings = muon::Cubic(settings).into();
    let bounds = Bounds { early: 1e-3, late: 0.5, weights: 0.5 };
    follow("muon_adamw", &settings, &Schedule::default(), None, &bounds);
}
