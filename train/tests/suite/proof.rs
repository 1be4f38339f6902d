//! In small what docs/training-proof.md measures: from one healthy checkpoint, the seed's recipe collapses, and the
//! polarized one stays healthy at a lower loss. Weight decay is five times the seed's, so that it takes 500 steps.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use ckpt_inspect::Verdict;
use ckpt_kit::fixtures::fixture;
use ckpt_train::{Event, Health, ResumeOptions, RunFolder, Settings, Trainer, data, optim};

/// The recipe's last held-out loss, and the health it ends in.
fn train(optimizer: optim::Settings, folder: &Path) -> (f64, Health) {
    let settings = Settings {
        steps: 2500,
        validate_every: 250,
        health_every: 0,
        save_every: 0,
        optimizer,
        data: data::Settings {
            files: vec![fixture("trajectories/truth.safetensors")],
            batch: 2,
            holdout: 0.2,
            length: 63,
            ..data::Settings::default()
        },
        ..Settings::default()
    };
    let start = ckpt_inspect::open(fixture("healthy-run/step-02000.pt")).unwrap();
    let options = ResumeOptions { reset_optimizer: true, ..ResumeOptions::default() };
    let mut trainer = Trainer::resume(&start, &settings, options).unwrap();
    let mut place = RunFolder::open(folder).unwrap();
    let mut last = f64::NAN;
    trainer
        .run(&mut place, &AtomicBool::new(false), &mut |event| {
            if let Event::Validation { loss, .. } = event {
                last = loss;
            }
        })
        .unwrap();
    (last, Health::of(trainer.parameters(), trainer.config(), &settings.thresholds))
}

#[test]
fn the_seeds_recipe_collapses_and_the_polarized_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let seed = optim::muon::Settings { lr: Some(0.02), ternary_weight_decay: 0.5, ..Default::default() };
    let (seed_loss, collapsed) = train(optim::muon::Seed(seed).into(), &folder.path().join("seed"));
    let (loss, healthy) = train(optim::Settings::default(), &folder.path().join("polarized"));
    let gone = collapsed.unhealthy();
    assert!(gone.iter().any(|l| l.name.contains("gate_proj")), "{gone:?}");
    assert!(healthy.layers.iter().all(|l| l.verdict == Verdict::Healthy), "{:?}", healthy.unhealthy());
    assert!(loss <= seed_loss, "{loss} {seed_loss}");
}
