//! In small what docs/training-proof.md measures: from one healthy checkpoint, the seed's recipe collapses, and the
//! polarized one stays healthy at a lower loss. Weight decay is five times the seed's, so that it takes 500 steps.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use ckpt_inspect::Verdict;
use ckpt_kit::fixtures::fixture;
use ckpt_train::{Event, Health, ResumeOptions, RunFolder, Settings, Trainer, optim};

/// The recipe's last held-out loss, and the health it ends in.
fn train(optimizer: optim::Settings, folder: &Path) -> (f64, Health) {
    let settings = Settings::default().with(|s| {
        s.steps = 2500;
        s.validate_every = 250;
        s.health_every = 0;
        s.save_every = 0;
        s.optimizer = optimizer;
        s.data.files = vec![fixture("trajectories/truth.safetensors")];
        s.data.batch = 2;
        s.data.holdout = 0.2;
        s.data.length = 63;
    });
    let start = ckpt_inspect::open(fixture("healthy-run/step-02000.pt")).unwrap();
    let options = ResumeOptions::default().with(|o| o.reset_optimizer = true);
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
    let seed = optim::muon::Settings::default().with(|s| {
        s.lr = Some(0.02);
        s.ternary_weight_decay = 0.5;
    });
    let (seed_loss, collapsed) = train(optim::muon::Seed(seed).into(), &folder.path().join("seed"));
    let (loss, healthy) = train(optim::Settings::default(), &folder.path().join("polarized"));
    let gone = collapsed.unhealthy();
    assert!(gone.iter().any(|l| l.name.contains("gate_proj")), "{gone:?}");
    assert!(healthy.layers.iter().all(|l| l.verdict == Verdict::Healthy), "{:?}", healthy.unhealthy());
    assert!(loss <= seed_loss, "{loss} {seed_loss}");
}
