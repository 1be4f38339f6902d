//! The trainer: stopping and resuming changes nothing, runs do not depend on threads, collapse and NaN are noticed.

use crate::truth;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ckpt_inspect::Group;
use ckpt_inspect::cause::{Given, Source, explain};
use ckpt_inspect::optimizer::Kind;
use ckpt_inspect::run::Run;
use ckpt_kit::fixtures::fixture;
use ckpt_kit::npy::npy;
use ckpt_kit::numbers::le;
use ckpt_kit::peers;
use ckpt_train::optim::{NAMES, sgd};
use ckpt_train::{Error, Event, Outcome, ResumeOptions, RunFolder, Settings, Trainer};

/// Token ids that follow a rule, so that there is something to learn.
pub(crate) fn write_ids(folder: &Path, rows: usize, len: usize) -> std::path::PathBuf {
    let path = folder.join("ids.npy");
    let id = |row: usize, i: usize| ((row * 7 + i * (1 + row % 3)) % 97) as u16;
    let ids: Vec<u16> = (0..rows).flat_map(|row| (0..len).map(move |i| id(row, i))).collect();
    std::fs::write(&path, npy("'<u2'", false, &format!("({rows}, {len})"), &le(&ids))).unwrap();
    path
}

pub(crate) fn settings(data: &Path, steps: u64) -> Settings {
    Settings::default().with(|s| {
        s.steps = steps;
        s.save_every = 0;
        s.validate_every = 2;
        s.health_every = 3;
        s.accumulate = 2;
        s.seed = Some(4);
        s.data.files = vec![data.to_path_buf()];
        s.data.batch = 3;
        s.data.length = 32;
        s.data.buffer = 8;
        s.data.holdout = 0.2;
    })
}

pub(crate) fn resume(from: &Path, settings: &Settings) -> Trainer {
    let options = ResumeOptions::default().with(|o| o.reset_optimizer = false);
    Trainer::resume(&ckpt_inspect::open(from).unwrap(), settings, options).unwrap()
}

/// Starts from the healthy fixture without its optimizer state.
pub(crate) fn start(settings: &Settings) -> Trainer {
    let options = ResumeOptions::default().with(|o| o.reset_optimizer = true);
    let checkpoint = ckpt_inspect::open(fixture("healthy-run/step-02000.pt")).unwrap();
    Trainer::resume(&checkpoint, settings, options).unwrap()
}

/// Runs to the end; losses of the steps.
pub(crate) fn run(trainer: &mut Trainer, folder: &Path) -> Vec<u64> {
    let mut losses = Vec::new();
    let mut folder = RunFolder::open(folder).unwrap();
    let outcome = trainer.run(&mut folder, &AtomicBool::new(false), &mut |event| {
        if let Event::Step { loss, .. } = event {
            losses.push(loss.to_bits());
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    losses
}

#[test]
fn resuming_is_not_having_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let ids = write_ids(folder.path(), 23, 24);
    for name in NAMES.iter().flat_map(|n| [n.to_string(), format!("polarized-{n}")]) {
        let place = folder.path().join(&name);
        let mut all = settings(&ids, 2010);
        all.optimizer = toml::from_str(&format!("name = \"{name}\"\nweight_decay = 0.01")).unwrap();
        all.schedule.warmup = 2004;
        let mut straight = start(&all);
        let losses = run(&mut straight, &place.join("straight"));

        let half = all.clone().with(|s| s.steps = 2006);
        let mut first = run(&mut start(&half), &place.join("halves"));
        let mut second = resume(&place.join("halves/step-002006.pt"), &all);
        assert_eq!(second.step(), 2006);
        first.extend(run(&mut second, &place.join("halves")));
        assert_eq!(losses, first, "{name}");
        for (a, b) in straight.parameters().0.iter().zip(&second.parameters().0) {
            assert!(
                a.values.iter().zip(&b.values).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{name} {}",
                a.name
            );
        }
        let file = |run: &str| std::fs::read(place.join(run).join("step-002010.pt")).unwrap();
        assert!(file("straight") == file("halves"), "{name}: the checkpoints are the same bytes");
    }
}

/// Three steps of every optimizer, saved: inspection names each of its groups, with its rates and its state, and an
/// explanation compares a decline with what that optimizer's settings predict.
#[test]
fn inspection_knows_every_optimizer() {
    let folder = tempfile::tempdir().unwrap();
    let ids = write_ids(folder.path(), 23, 24);
    let all = [
        ("adamw", 3e-4, &[(Kind::AdamW, false)][..]),
        ("muon", 0.02, &[(Kind::Muon, false), (Kind::AdamW, false)]),
        ("muon-adamw", 0.02, &[(Kind::Muon, true), (Kind::AdamW, false)]),
        ("sgd", 0.1, &[(Kind::Sgdw, false)]),
        ("spin", 1e-3, &[(Kind::Spin, false)]),
    ];
    assert_eq!(all.map(|(name, ..)| name), NAMES);
    for (name, lr, groups) in all {
        for polarized in [false, true] {
            let name = format!("{}{name}", if polarized { "polarized-" } else { "" });
            let place = folder.path().join(&name);
            let mut all = settings(&ids, 2003).with(|s| s.save_every = 1);
            // Fast enough that three checkpoints, the fewest that make a decline, show it.
            let ternary = 0.3 / lr;
            let text = format!("name = \"{name}\"\nweight_decay = 0.01\nternary_weight_decay = {ternary:?}");
            all.optimizer = toml::from_str(&text).unwrap();
            run(&mut start(&all), &place);
            let records: Vec<_> = [2001, 2002, 2003]
                .map(|step| {
                    let path = place.join(format!("step-{step:06}.pt"));
                    let checkpoint = ckpt_inspect::open(&path).unwrap();
                    let mut record = ckpt_inspect::describe(&checkpoint, Default::default(), &|_| ());
                    ckpt_inspect::judge(&mut record, &Default::default());
                    record
                })
                .into();
            let record = &records[2];
            let training = record.training.as_ref().unwrap();
            let mut seen: Vec<(Kind, bool)> =
                training.groups.iter().map(|g| (g.kind, g.keeps_size)).collect();
            // The hidden matrices' first, in whichever order the file has them.
            seen.sort_by_key(|(kind, _)| groups.iter().position(|(known, _)| known == kind));
            seen.dedup();
            assert_eq!(seen, groups, "{name}");
            let mut weights = 0;
            for group in &training.groups {
                assert_eq!(group.polarized, polarized, "{name} {}", group.path);
                let rate = if group.path.contains(".adamw.") { 3e-4 } else { lr };
                assert_eq!(group.lr, Some(rate), "{name} {}", group.path);
                weights += group.tensors.len();
                for (tensor, moments) in group.tensors.iter().zip(&group.moments) {
                    let weight = &record.tensors[*tensor as usize];
                    let hidden = weight.ternary.is_some() || (groups[0].1 && weight.shape.len() == 2);
                    let decay = if hidden { ternary } else { 0.01 };
                    assert_eq!(group.weight_decay, Some(decay), "{name} {}", weight.name);
                    let state: Vec<&str> = moments
                        .iter()
                        .map(|m| record.tensors[*m as usize].name.rsplit('.').next().unwrap())
                        .collect();
                    assert_eq!(state, group.kind.state(), "{name} {}", weight.name);
                }
            }
            let all_weights = record.tensors.iter().filter(|t| t.group == Group::Weights).count();
            assert_eq!(weights, all_weights, "{name}: every weight has its optimizer");

            let run = Run::group(records, &Default::default()).remove(0);
            let explained = explain(&run, &[], &Given::default());
            let declines: Vec<_> = explained.layers.iter().filter_map(|l| l.decay.as_ref()).collect();
            assert!(!declines.is_empty(), "{name}: none of {} layers declines", explained.layers.len());
            for decay in &declines {
                assert_eq!(decay.optimizer, groups[0].0, "{name}");
                let predicted = decay.predicted.unwrap();
                assert!((predicted + 0.7f64.ln()).abs() < 1e-9, "{name}: {predicted}");
                assert!(matches!(decay.source, Some(Source::Group(_))), "{name}: {:?}", decay.source);
            }
        }
    }
}

/// Many files in another order in each pass, cached tokens, fill-in-the-middle: a run stopped at every step is the
/// same.
#[test]
fn resuming_goes_on_in_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let ids = write_ids(folder.path(), 1, 2);
    let mut all = settings(&ids, 2012);
    all.data.tokenizer = Some(truth::tokenizer(folder.path()));
    all.data.files = (0..5)
        .map(|i| {
            let path = folder.path().join(format!("{i}.jsonl"));
            let line =
                |n: usize| format!("{{\"text\": \"{}\"}}\n", "number and name ".repeat(1 + (n * i) % 4));
            std::fs::write(&path, (0..9).map(line).collect::<String>()).unwrap();
            path
        })
        .collect();
    (all.data.length, all.data.fill_in_rate, all.data.batch, all.validate_every) = (23, 0.5, 9, 0);
    all.data.token_cache = Some(folder.path().join("tokens"));
    let straight = run(&mut start(&all), &folder.path().join("straight"));
    let place = folder.path().join("pieces");
    let mut pieces = run(&mut start(&all.clone().with(|s| s.steps = 2001)), &place);
    for step in 2001..2012 {
        let to_next = all.clone().with(|s| s.steps = step + 1);
        pieces.extend(run(&mut resume(&place.join(format!("step-{step:06}.pt")), &to_next), &place));
    }
    assert_eq!(pieces, straight);
    let end = resume_epoch(&place.join("step-002012.pt"));
    assert!(end > 1, "the data was read {end} times");
    // A position is not continued in other files.
    all.data.files.pop();
    all.steps = 2020;
    let checkpoint = ckpt_inspect::open(place.join("step-002012.pt")).unwrap();
    let error = Trainer::resume(&checkpoint, &all, ResumeOptions::default()).err().unwrap().to_string();
    assert!(error.contains("`restart_data`"), "{error}");
}

fn resume_epoch(path: &Path) -> u64 {
    let checkpoint = ckpt_inspect::open(path).unwrap();
    checkpoint.meta("training_state.epoch").and_then(ckpt_inspect::metadata::as_u64).unwrap()
}

#[test]
fn threads_do_not_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    let ids = write_ids(folder.path(), 23, 24);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let settings = settings(&ids, 2004);
        pool.install(|| run(&mut start(&settings), &folder.path().join(threads.to_string())))
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn a_run_learns_and_its_folder_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let ids = write_ids(folder.path(), 40, 24);
    let place = folder.path().join("run");
    let mut settings = settings(&ids, 2060).with(|s| {
        s.save_every = 10;
        s.keep_last = 2;
    });
    settings.optimizer = toml::from_str("lr = 3e-3").unwrap();
    let losses: Vec<f64> = run(&mut start(&settings), &place).into_iter().map(f64::from_bits).collect();
    let mean = |l: &[f64]| l.iter().sum::<f64>() / l.len() as f64;
    assert!(mean(&losses[50..]) < 0.7 * mean(&losses[..5]), "{losses:?}");
    let mut names: Vec<String> =
        std::fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let events = names.remove(1);
    assert!(events.starts_with("events.out.tfevents."), "{events}");
    let events = std::fs::read(place.join(events)).unwrap();
    for tag in ["loss", "validation_loss", "health/std/layers.0.self_attn.q_proj.weight"] {
        assert!(events.windows(tag.len()).any(|w| w == tag.as_bytes()), "{tag}");
    }
    assert_eq!(names, ["best.pt", "metrics.jsonl", "step-002050.pt", "step-002060.pt"]);
    let metrics = std::fs::read_to_string(place.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.iter().any(|l| l["validation_loss"].is_f64()));
    let health = lines.iter().find(|l| !l["health"].is_null()).unwrap();
    assert_eq!(health["health"].as_array().unwrap().len(), 14);
    let best = ckpt_inspect::open(place.join("best.pt")).unwrap();
    let lowest = lines.iter().filter_map(|l| l["validation_loss"].as_f64()).fold(f64::INFINITY, f64::min);
    assert_eq!(best.meta("training_state.best_loss").and_then(ckpt_inspect::metadata::as_f64), Some(lowest));
}

#[test]
fn stopping_saves_at_the_step_at_hand() {
    let folder = tempfile::tempdir().unwrap();
    let ids = write_ids(folder.path(), 23, 24);
    let stop = AtomicBool::new(false);
    let mut trainer = start(&settings(&ids, 2050));
    let mut place = RunFolder::open(folder.path()).unwrap();
    let mut saved = Vec::new();
    let outcome = trainer.run(&mut place, &stop, &mut |event| match event {
        Event::Step { step: 2003, .. } => stop.store(true, Ordering::Relaxed),
        Event::Saved(path) => saved.push(path.to_path_buf()),
        _ => (),
    });
    assert_eq!((outcome.unwrap(), trainer.step()), (Outcome::Interrupted, 2003));
    assert_eq!(saved, [folder.path().join("step-002003.pt")]);
    assert_eq!(ckpt_inspect::open(&saved[0]).unwrap().step.unwrap().0, 2003);
}

#[test]
fn the_original_trainers_state_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let ids = write_ids(folder.path(), 23, 24);
    let mut settings = settings(&ids, 2002);
    settings.optimizer = "muon-adamw".parse().unwrap();
    let path = fixture("healthy-run/step-02000.pt");
    let mut trainer = resume(&path, &settings);
    run(&mut trainer, folder.path());
    // AdamW counts its steps on from where the original trainer was.
    let saved = ckpt_inspect::open(folder.path().join("step-002002.pt")).unwrap();
    let steps = |c: &ckpt_inspect::Checkpoint| {
        c.values(c.tensor("optimizer_state_dict.adamw.state.0.step").unwrap()).unwrap()[0]
    };
    assert_eq!(steps(&saved), steps(&ckpt_inspect::open(&path).unwrap()) + 2.0);
    settings.optimizer = "adamw".parse().unwrap();
    let other = Trainer::resume(&ckpt_inspect::open(&path).unwrap(), &settings, ResumeOptions::default());
    let error = other.err().unwrap().to_string();
    assert!(error.contains("`reset_optimizer`"), "{error}");
}

#[test]
fn a_collapsed_checkpoint_is_refused_and_a_healthy_one_named() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&write_ids(folder.path(), 23, 24), 5000);
    let checkpoint = ckpt_inspect::open(fixture("collapse-run/step-04000.pt")).unwrap();
    let options = ResumeOptions::default().with(|o| o.reset_optimizer = true);
    match Trainer::resume(&checkpoint, &settings, options) {
        Err(Error::Collapsed(text)) => {
            assert!(
                text.contains("The last healthy checkpoint is") && text.contains("step-02000.pt"),
                "{text}"
            );
        }
        other => panic!("{:?}", other.err()),
    }
    assert!(Trainer::resume(&checkpoint, &settings, options.with(|o| o.allow_collapsed = true)).is_ok());
}

#[test]
fn a_collapsing_run_is_noticed_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&write_ids(folder.path(), 23, 24), 3000);
    (settings.stop_on_collapse, settings.health_every) = (true, 5);
    // The loss tells of it, too, and sooner.
    settings.validate_every = 0;
    settings.optimizer = sgd::Settings::default()
        .with(|s| {
            s.lr = Some(1e-3);
            s.ternary_weight_decay = 100.0;
        })
        .into();
    let mut trainer = start(&settings);
    let mut warnings = Vec::new();
    let mut place = RunFolder::open(folder.path()).unwrap();
    let result = trainer.run(&mut place, &AtomicBool::new(false), &mut |event| {
        if let Event::Warning(text) = event {
            warnings.push(text);
        }
    });
    // std falls by 0.9 a step from about 0.08: below 1e-3 after some 42 steps.
    assert!(matches!(result, Err(Error::Stopped(_))), "{result:?}");
    assert!((2035..2060).contains(&trainer.step()), "{} {warnings:?}", trainer.step());
    assert!(warnings.iter().any(|w| w.contains("every 7 steps")), "the half-life is reported: {warnings:?}");
    assert!(folder.path().join(format!("step-{:06}.pt", trainer.step())).exists());
}

#[test]
fn spoiled_steps_are_skipped_and_the_batch_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&write_ids(folder.path(), 23, 24), 2100);
    (settings.max_skipped, settings.health_every) = (3, 0);
    settings.optimizer = sgd::Settings::default().with(|s| s.lr = Some(1e30)).into();
    settings.clip = 0.0;
    let mut trainer = start(&settings);
    let mut place = RunFolder::open(folder.path()).unwrap();
    let result = trainer.run(&mut place, &AtomicBool::new(false), &mut |_| ());
    let Err(Error::Stopped(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("bad-batch"), "{text}");
    assert!(text.contains("Continue from") && text.contains("healthy-run/step-02000.pt"), "{text}");
    let saved = folder.path().join(format!("bad-batch-{:06}.pt", trainer.step() + 1));
    assert_eq!(ckpt_inspect::open(&saved).unwrap().tensor("ids").unwrap().shape, [6, 23]);
}

/// Everything a run says, and how it ended.
pub(crate) fn watched(
    trainer: &mut Trainer,
    folder: &Path,
) -> (ckpt_train::Result<Outcome>, Vec<String>, Vec<f64>) {
    let (mut warnings, mut validated) = (Vec::new(), Vec::new());
    let mut folder = RunFolder::open(folder).unwrap();
    let outcome = trainer.run(&mut folder, &AtomicBool::new(false), &mut |event| match event {
        Event::Warning(text) => warnings.push(text),
        Event::Validation { loss, .. } => validated.push(loss),
        _ => (),
    });
    (outcome, warnings, validated)
}

/// PyTorch reads the saved checkpoint and continues with it: see `peers/train.py`.
#[test]
fn pytorch_loads_checkpoint_and_optimizer() {
    let Some(python) = peers::python(&["torch", "numpy"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let ids = write_ids(folder.path(), 23, 24);
    for (name, weight_decay) in [("adamw", 0.0), ("polarized-adamw", 0.01), ("muon-adamw", 0.0)] {
        let mut settings = settings(&ids, 2004);
        settings.optimizer =
            toml::from_str(&format!("name = \"{name}\"\nweight_decay = {weight_decay:?}")).unwrap();
        run(&mut start(&settings), &folder.path().join(name));
    }
    python.script("train", "train.py", &[folder.path()]);
}

/// Going on from an earlier step does not replace what was better: neither with another seed's luck nor by forgetting it.
#[test]
fn the_best_checkpoint_of_a_folder_is_replaced_only_by_a_better_one() {
    let folder = tempfile::tempdir().unwrap();
    let ids = write_ids(folder.path(), 23, 24);
    let place = folder.path().join("run");
    let mut all = settings(&ids, 2012).with(|s| s.save_every = 2);
    run(&mut start(&all), &place);
    let number = |path: &str, name: &str| {
        let checkpoint = ckpt_inspect::open(place.join(path)).unwrap();
        checkpoint.meta(&format!("training_state.{name}")).and_then(ckpt_inspect::metadata::as_f64).unwrap()
    };
    let (best, step) = (number("best.pt", "best_loss"), number("best.pt", "step"));
    assert!(step > 2006.0, "what is learnt makes it better: {step}");
    let usual = all.clone().with(|s| s.steps = 2006);
    // On from the second step, too slowly to get there.
    all.steps = 2006;
    all.optimizer = sgd::Settings::default().with(|s| s.lr = Some(1e-4)).into();
    let again = |forced: bool, all: &Settings| {
        let options = ResumeOptions::default().with(|o| o.reset_optimizer = true);
        let from = ckpt_inspect::open(place.join("step-002002.pt")).unwrap();
        let mut trainer = Trainer::resume(&from, all, options).unwrap();
        let mut run = RunFolder::open(&place).unwrap();
        if forced {
            run.take_over();
        }
        let mut told = Vec::new();
        let outcome = trainer.run(&mut run, &AtomicBool::new(false), &mut |event| match event {
            Event::Validation { best: true, .. } => told.push("best".to_string()),
            Event::Warning(text) if text.contains("best.pt") => told.push(text),
            _ => (),
        });
        assert_eq!(outcome.unwrap(), Outcome::Finished);
        told
    };
    let told = again(false, &all);
    assert!(told[0].contains(&format!("best.pt of step {step}")) && told.len() == 1, "{told:?}");
    assert_eq!((number("best.pt", "best_loss"), number("best.pt", "step")), (best, step));
    // Of another run, it is no measure.
    let told = again(true, &usual);
    assert!(told.contains(&"best".to_string()), "{told:?}");
    assert!(number("best.pt", "step") < 2007.0);
}

/// A run that patience ended is resumed to go on: it is judged again by a validation, not by the step after it.
#[test]
fn patience_is_tested_by_validations() {
    let folder = tempfile::tempdir().unwrap();
    let ids = write_ids(folder.path(), 23, 24);
    let mut all = settings(&ids, 2040).with(|s| (s.patience, s.validate_every) = (1, 5));
    // A rate of 0 makes nothing better.
    all.optimizer = sgd::Settings::default().with(|s| s.lr = Some(0.0)).into();
    let mut trainer = start(&all);
    let (outcome, ..) = watched(&mut trainer, folder.path());
    assert_eq!((outcome.unwrap(), trainer.step()), (Outcome::NoBetter, 2005));
    let mut trainer = resume(&folder.path().join("step-002005.pt"), &all);
    let (outcome, ..) = watched(&mut trainer, folder.path());
    assert_eq!((outcome.unwrap(), trainer.step()), (Outcome::NoBetter, 2010));
}

#[test]
fn one_folder_is_one_runs_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = RunFolder::open(folder.path()).unwrap();
    let error = RunFolder::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("another process is training into this folder"), "{error}");
    drop(first);
    RunFolder::open(folder.path()).unwrap();
}

#[test]
fn numbers_with_which_no_run_is_possible_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let all = settings(&write_ids(folder.path(), 23, 24), 2002);
    type Change = fn(&mut Settings);
    let changes: [(&str, Change); 6] = [
        ("clip", |s| s.clip = f64::INFINITY),
        ("clip", |s| s.clip = f64::NAN),
        ("schedule.min_factor", |s| s.schedule.min_factor = -3.0),
        ("thresholds", |s| s.thresholds.projection.healthy = f64::NAN),
        ("thresholds.dead_zero_share", |s| s.thresholds.dead_zero_share = 1.5),
        ("steps", |s| s.steps = 0),
    ];
    for (name, change) in changes {
        let checkpoint = ckpt_inspect::open(fixture("healthy-run/step-02000.pt")).unwrap();
        let options = ResumeOptions::default().with(|o| o.reset_optimizer = true);
        let result = Trainer::resume(&checkpoint, &all.clone().with(change), options);
        let error = result.err().unwrap().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
}
