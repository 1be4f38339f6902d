//! Runs that explode or give NaN, and what is left of them.

use ckpt_kit::fixtures::fixture;
use ckpt_kit::numbers::le;
use ckpt_train::optim::sgd;
use ckpt_train::{Error, Outcome, ResumeOptions, Settings, Trainer};

use crate::trainer::{run, settings, start, watched, write_ids};

/// Weights that are not healthy are no best ones, unless any are.
#[test]
fn the_best_checkpoint_is_a_healthy_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = settings(&write_ids(folder.path(), 40, 24), 2012);
    all.optimizer = toml::from_str("lr = 3e-3").unwrap();
    // No layer of this model has such a std.
    all.thresholds.projection.healthy = 1.0;
    for (any, name) in [(false, "healthy"), (true, "any")] {
        let place = folder.path().join(name);
        let options =
            ResumeOptions::default().with(|o| (o.reset_optimizer, o.allow_collapsed) = (true, true));
        let checkpoint = ckpt_inspect::open(fixture("healthy-run/step-02000.pt")).unwrap();
        let settings = all.clone().with(|s| s.best_any = any);
        let mut trainer = Trainer::resume(&checkpoint, &settings, options).unwrap();
        let (_, warnings, validated) = watched(&mut trainer, &place);
        assert!(validated[1..].iter().any(|loss| *loss < validated[0]), "{validated:?}");
        assert_eq!(place.join("best.pt").exists(), any, "{warnings:?}");
        assert_eq!(warnings.iter().any(|w| w.contains("of healthy weights only")), !any, "{warnings:?}");
    }
}

/// A run that explodes goes on without a NaN: it is told by its loss, its gradient or its weights, and can be stopped.
#[test]
fn an_exploding_run_is_noticed_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let data = write_ids(folder.path(), 23, 24);
    for stops in [false, true] {
        let place = folder.path().join(stops.to_string());
        let mut settings = settings(&data, 2060).with(|s| (s.stop_on_collapse, s.health_every) = (stops, 20));
        settings.optimizer = toml::from_str("name = \"adamw\"\nlr = 3.0").unwrap();
        let mut trainer = start(&settings);
        let (result, warnings, _) = watched(&mut trainer, &place);
        let told =
            |what: &str| warnings.iter().filter(|w| w.contains("diverges") && w.contains(what)).count();
        if stops {
            let Err(Error::Stopped(text)) = result else { panic!("{result:?}") };
            assert!(
                text.contains("The last healthy checkpoint is") && text.contains("step-02000.pt"),
                "{text}"
            );
            assert!(place.join(format!("step-{:06}.pt", trainer.step())).exists() && trainer.step() < 2020);
        } else {
            assert_eq!(result.unwrap(), Outcome::Finished);
            assert!((1..=2).contains(&told("the gradient is exactly 0")), "{warnings:?}");
            assert!(told("the validation loss") > 0, "{warnings:?}");
            assert!((1..=2).contains(&told("far too large")), "{warnings:?}");
        }
        assert!(!place.join("best.pt").exists());
    }
    // Below that rate the same weights are in proportion, and their gradient is not 0.
    let mut calm = settings(&data, 2060).with(|s| s.health_every = 20);
    calm.optimizer = toml::from_str("name = \"adamw\"\nlr = 3e-3").unwrap();
    let (_, warnings, _) = watched(&mut start(&calm), &folder.path().join("calm"));
    assert!(!warnings.iter().any(|w| w.contains("diverges")), "{warnings:?}");
}

/// A new run that gives NaN before anything was saved has its start to go on from, and one whose weights are sound its
/// last step.
#[test]
fn a_checkpoint_from_before_nan_is_there_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = write_ids(folder.path(), 23, 24);
    let config = ckpt_inspect::open(fixture("healthy-run/step-02000.pt")).unwrap().model.student.clone();
    let named = |settings: &Settings, place: &str| {
        let place = folder.path().join(place);
        let mut trainer = Trainer::new(config.as_ref().unwrap(), settings).unwrap();
        let (result, ..) = watched(&mut trainer, &place);
        let Err(Error::Stopped(text)) = result else { panic!("{result:?}") };
        let path = text.split("Continue from ").nth(1).unwrap().split(" with a lower").next().unwrap();
        let record = ckpt_inspect::describe(&ckpt_inspect::open(path).unwrap(), Default::default(), &|_| ());
        assert!(record.tensors.iter().filter_map(|t| t.stats.as_ref()).all(|s| s.nan + s.inf == 0), "{path}");
        let options = ResumeOptions::default().with(|o| o.restart_data = true);
        let next = settings.clone().with(|s| s.optimizer = "adamw".parse().unwrap());
        let next = next.with(|s| s.steps += 20);
        let reset = options.with(|o| o.reset_optimizer = true);
        assert!(Trainer::resume(&ckpt_inspect::open(path).unwrap(), &next, reset).is_ok());
        path.rsplit('/').next().unwrap().to_string()
    };
    let mut settings = settings(&data, 100).with(|s| (s.max_skipped, s.health_every, s.clip) = (3, 0, 0.0));
    settings.optimizer = sgd::Settings::default().with(|s| s.lr = Some(1e30)).into();
    assert_eq!(named(&settings, "start"), "step-000000.pt");
    // With a checkpoint of a step before it went wrong, that one.
    let place = folder.path().join("earlier");
    let gentle = settings.clone().with(|s| (s.steps, s.optimizer) = (2, "adamw".parse().unwrap()));
    run(&mut Trainer::new(config.as_ref().unwrap(), &gentle).unwrap(), &place);
    assert_eq!(named(&settings, "earlier"), "step-000002.pt");
    // Where the loss is what cannot be computed, the weights are as they were.
    let mut odd = settings.clone().with(|s| s.optimizer = "adamw".parse().unwrap());
    odd.schedule.min_factor = 1.0;
    odd.loss.focal = 0.0;
    (odd.loss.temperature, odd.loss.alpha) = (1e-3, 1.0);
    let top = folder.path().join("infinite.safetensors");
    let logits = vec![f32::INFINITY; 23 * 23 * 2];
    let indices: Vec<i32> = (0..23 * 23 * 2).map(|i| i % 2).collect();
    ckpt_kit::safetensors::SafeTensors::new()
        .tensor("logits", "F32", &[23, 23, 2], &le(&logits))
        .tensor("indices", "I32", &[23, 23, 2], &le(&indices))
        .write(&top);
    odd.distill.logits = vec![top];
    assert_eq!(named(&odd, "sound"), "step-000002.pt");
}
