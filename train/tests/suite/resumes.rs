//! Continuing with other settings than those of the checkpoint, and from weights that are lost.

use std::path::{Path, PathBuf};

use ckpt_convert::{Object, save};
use ckpt_kit::fixtures::fixture;
use ckpt_train::{Error, Parameters, Remedy, ResumeOptions, Settings, Trainer};

use crate::trainer::{run, settings, start, watched};
use crate::truth::tokenizer;

/// `count` files of text.
fn files(folder: &Path, count: usize) -> Vec<PathBuf> {
    let file = |n: usize| {
        let path = folder.join(format!("{n}.txt"));
        std::fs::write(&path, format!("def f{n}(x):\n    return x + {n}\n").repeat(40)).unwrap();
        path
    };
    (0..count).map(file).collect()
}

fn of_text(folder: &Path, count: usize) -> Settings {
    settings(Path::new(""), 2002).with(|s| {
        s.data.files = files(folder, count);
        s.data.tokenizer = Some(tokenizer(folder));
        s.validate_every = 0;
        s.health_every = 0;
    })
}

fn resumed(from: &Path, settings: &Settings) -> Result<Trainer, Box<Error>> {
    let checkpoint = ckpt_inspect::open(from).unwrap();
    Trainer::resume(&checkpoint, settings, ResumeOptions::default()).map_err(Box::new)
}

#[test]
fn another_seed_goes_on_where_the_order_is_the_same_or_begins_the_pass() {
    let folder = tempfile::tempdir().unwrap();
    let first = of_text(folder.path(), 6);
    run(&mut start(&first), &folder.path().join("run"));
    let checkpoint = folder.path().join("run/step-002002.pt");
    let mut restarted = 0;
    for seed in 0..10 {
        let other = first.clone().with(|s| (s.seed, s.steps) = (Some(seed), 2004));
        let mut trainer = resumed(&checkpoint, &other).unwrap();
        let (outcome, warnings, _) = watched(&mut trainer, &folder.path().join(format!("seed-{seed}")));
        outcome.unwrap();
        let told = |what: &str| warnings.iter().any(|w| w.contains(what));
        assert_eq!(told("was trained with random seed 4"), seed != 4, "{warnings:?}");
        restarted += usize::from(told("come in another order, so their pass starts"));
        assert!(seed != 4 || !told("another order"), "{warnings:?}");
    }
    assert!(restarted > 3, "{restarted}");
}

#[test]
fn another_number_of_files_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let first = of_text(folder.path(), 3);
    run(&mut start(&first), &folder.path().join("run"));
    let more = of_text(folder.path(), 4).with(|s| s.steps = 2004);
    let error = resumed(&folder.path().join("run/step-002002.pt"), &more).err().unwrap();
    assert!(matches!(*error, Error::Resume { remedy: Remedy::RestartData, .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("one in 3 files, at ") && error.contains("here are 4 files"), "{error}");
}

#[test]
fn another_share_held_out_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let first = of_text(folder.path(), 1);
    run(&mut start(&first), &folder.path().join("run"));
    let warned = |change: &dyn Fn(&mut Settings)| {
        let mut settings = first.clone().with(|s| s.steps = 2004);
        change(&mut settings);
        let mut trainer = resumed(&folder.path().join("run/step-002002.pt"), &settings).unwrap();
        let (_, warnings, _) = watched(&mut trainer, &folder.path().join("next"));
        warnings.iter().any(|w| w.contains("a share of 0.2 of the documents was held out, and here 0.5 is"))
    };
    assert!(warned(&|s| s.data.holdout = 0.5));
    assert!(!warned(&|_| ()));
    assert!(!warned(&|s| (s.data.holdout, s.data.validation) = (0.5, s.data.files.clone())));
}

/// The weights of the healthy fixture with a NaN in `name`.
fn with_nan(folder: &Path, name: &str) -> PathBuf {
    let healthy = ckpt_inspect::open(fixture("healthy-run/step-02000.pt")).unwrap();
    let mut parameters = Parameters::load(healthy.model.student.as_ref().unwrap(), &healthy).unwrap();
    let parameter = parameters.0.iter_mut().find(|p| p.name == name).unwrap();
    parameter.values[7] = f32::NAN;
    let named = parameters.0.iter().map(|p| (p.name.as_str(), Object::floats(&p.shape, &p.values)));
    let config = Object::Plain(healthy.meta("config").unwrap().clone());
    let path = folder.join("nan.pt");
    save(&Object::dict([("model_state_dict", Object::dict(named)), ("config", config)]), &path, true)
        .unwrap();
    path
}

#[test]
fn lost_weights_are_refused_and_no_new_ones_offered_for_them() {
    for name in ["embed_tokens.weight", "norm.weight", "layers.0.mlp.up_proj.weight"] {
        let folder = tempfile::tempdir().unwrap();
        let path = with_nan(folder.path(), name);
        let settings = of_text(folder.path(), 1).with(|s| s.steps = 2020);
        let refused = resumed(&path, &settings).err().unwrap();
        assert!(matches!(*refused, Error::Collapsed(_)), "{refused}");
        let refused = refused.to_string();
        assert!(refused.contains(&format!("{name} has NaN or infinity in 1 of its")), "{refused}");
        let options = ResumeOptions::default().with(|o| o.allow_collapsed = true);
        let checkpoint = ckpt_inspect::open(&path).unwrap();
        let mut trainer = Trainer::resume(&checkpoint, &settings, options).unwrap();
        let (outcome, warnings, _) = watched(&mut trainer, &folder.path().join("run"));
        assert!(warnings.iter().any(|w| w.contains("has NaN or infinity")), "{warnings:?}");
        let Err(Error::Stopped(text)) = outcome else { panic!("{outcome:?}") };
        assert!(!text.contains("Continue from") && text.contains("No healthy checkpoint"), "{text}");
        assert!(!folder.path().join("run/step-000000.pt").exists());
    }
}

/// The matrices of weights whose loss diverged may still have a healthy size.
#[test]
fn weights_whose_loss_rose_are_not_named_as_healthy() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&fixture("trajectories/truth.safetensors"), 2400).with(|s| {
        (s.stop_on_collapse, s.health_every, s.save_every, s.validate_every) = (true, 0, 5, 0);
        (s.data.length, s.data.holdout, s.data.buffer) = (63, 0.0, 1024);
    });
    settings.optimizer = toml::from_str("name = \"adamw\"\nlr = 0.7").unwrap();
    let (outcome, warnings, _) = watched(&mut start(&settings), &folder.path().join("run"));
    let Err(Error::Stopped(text)) = outcome else { panic!("{outcome:?} {warnings:?}") };
    assert!(text.contains("The last healthy checkpoint is") && text.contains("step-02000.pt"), "{text}");
    assert!(folder.path().join("run/step-002005.pt").exists());
}

/// What is wrong is told once, and not at each check.
#[test]
fn a_fault_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = ResumeOptions::default().with(|o| (o.reset_optimizer, o.allow_collapsed) = (true, true));
    let checkpoint = ckpt_inspect::open(fixture("collapse-run/step-04000.pt")).unwrap();
    let settings =
        of_text(folder.path(), 1).with(|s| (s.steps, s.health_every, s.validate_every) = (4012, 1, 1));
    let mut trainer = Trainer::resume(&checkpoint, &settings, options).unwrap();
    let (_, warnings, _) = watched(&mut trainer, &folder.path().join("run"));
    let unhealthy = warnings.iter().filter(|w| w.contains("ternary matrices are unhealthy")).count();
    assert!((1..=3).contains(&unhealthy), "{warnings:?}");
}
