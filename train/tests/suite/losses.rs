//! The losses of a run: per learnt token, of a fixed set, in their parts.

use ckpt_kit::fixtures::fixture;
use ckpt_train::optim::sgd;
use ckpt_train::{Estimator, Loss, Network, Outcome, Settings};

use crate::trainer::{resume, run, settings, start, watched, write_ids};
use crate::truth;

/// The loss per token of a set that neither the batch size nor the threads nor a stop decide, and that is measured
/// before the first step too.
#[test]
fn validation_is_the_same_for_any_batch_threads_and_resume() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("a.jsonl");
    let line = |i: usize| {
        let (prompt, response) = ("p".repeat(1 + (7 * i) % 50), "answer ".repeat(1 + (5 * i) % 4));
        format!("{{\"prompt\": \"{prompt}\", \"response\": \"{response}\"}}\n")
    };
    std::fs::write(&data, (0..90).map(line).collect::<String>()).unwrap();
    let all = settings(&data, 2004).with(|s| {
        s.data.tokenizer = Some(truth::tokenizer(folder.path()));
        s.data.validation_tokens = 300;
        s.data.holdout = 0.5;
    });
    let on = |threads: usize, batch: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let settings = all.clone().with(|s| s.data.batch = batch);
        let place = folder.path().join(format!("{threads}-{batch}"));
        pool.install(|| watched(&mut start(&settings), &place).2[0].to_bits())
    };
    let first = on(1, 1);
    for (threads, batch) in [(3, 1), (1, 3), (2, 8), (3, 64)] {
        assert_eq!(on(threads, batch), first, "{threads} threads, batches of {batch}");
    }
    // Token by token: the sum over all learnt tokens, of one sequence at a time.
    let set = ckpt_train::data::Validation::read(&all.data, 4).unwrap();
    let trainer = start(&all);
    let mut network = Network::new(trainer.config(), trainer.parameters(), Estimator::default()).unwrap();
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in &set.batches {
        for (ids, targets) in batch.ids.chunks(batch.len).zip(batch.targets.chunks(batch.len)) {
            let mut one = batch.clone();
            (one.rows, one.ids, one.targets) = (1, ids.to_vec(), targets.to_vec());
            one.sources.truncate(1);
            let loss = network.loss(trainer.parameters(), &one, &Loss::default()).unwrap();
            sum += loss * one.counted() as f64;
            tokens += one.counted();
        }
    }
    let (got, want) = (f64::from_bits(first), sum / tokens as f64);
    assert!((got - want).abs() < 1e-6, "{got} {want}");
    // A run that goes on measures what it last measured.
    let place = folder.path().join("on");
    let (_, _, before) = watched(&mut start(&all), &place);
    let on = all.clone().with(|s| (s.steps, s.data.batch) = (2005, 7));
    let (_, warnings, after) = watched(&mut resume(&place.join("step-002004.pt"), &on), &place);
    assert_eq!(before.last().unwrap().to_bits(), after[0].to_bits());
    assert!(!warnings.iter().any(|w| w.contains("best validation")), "{warnings:?}");
    // On another set the best so far is not the best.
    let other = on.with(|s| s.data.validation_tokens = 100);
    let (_, warnings, _) = watched(&mut resume(&place.join("step-002004.pt"), &other), &place);
    assert!(warnings.iter().any(|w| w.contains("was measured on other tokens")), "{warnings:?}");
}

/// Eight batches of one sequence are one batch of eight, though most of the tokens of some are not learnt, and none of
/// others.
#[test]
fn accumulating_weighs_by_learnt_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("a.jsonl");
    let line = |i: usize| {
        let prompt = "question ".repeat(1 + (i % 5) * 3);
        format!("{{\"prompt\": \"{prompt}\", \"response\": \"{}\"}}\n", "a".repeat(1 + (i * i) % 17))
    };
    std::fs::write(&data, (0..90).map(line).collect::<String>()).unwrap();
    let of = |batch: usize, accumulate: u64| {
        let mut all = settings(&data, 2003).with(|s| {
            s.data.tokenizer = Some(truth::tokenizer(folder.path()));
            (s.data.batch, s.accumulate, s.data.length, s.validate_every) = (batch, accumulate, 15, 0);
        });
        // What the gradients decide, and nothing that magnifies a rounding.
        all.optimizer = sgd::Settings::default().with(|s| s.lr = Some(0.01)).into();
        let mut trainer = start(&all);
        let losses = run(&mut trainer, &folder.path().join(format!("{batch}x{accumulate}")));
        (losses.into_iter().map(f64::from_bits).collect::<Vec<f64>>(), trainer)
    };
    let (whole, parts) = (of(8, 1), of(1, 8));
    let mut stream = ckpt_train::data::Stream::new(&parts.1.settings().data, 4).unwrap();
    let learnt: Vec<usize> = (0..24).map(|_| stream.batch().unwrap().counted()).collect();
    assert!(learnt.contains(&0) && learnt.iter().any(|&n| n > 8), "{learnt:?}");
    for (a, b) in whole.0.iter().zip(&parts.0) {
        assert!((a - b).abs() < 1e-4 * a, "{:?} {:?}", whole.0, parts.0);
    }
    assert!((whole.0[0] - parts.0[0]).abs() < 1e-6, "{:?} {:?}", whole.0, parts.0);
    for (a, b) in whole.1.parameters().0.iter().zip(&parts.1.parameters().0) {
        let off = truth::relative(a.values.iter().copied(), &b.values);
        assert!(off < 1e-4, "{}: {off}", a.name);
    }
}

/// Cross entropy and distillation apart, and the rates of all parts.
#[test]
fn metrics_hold_the_parts_of_the_loss_and_the_rates() {
    let folder = tempfile::tempdir().unwrap();
    let data = write_ids(folder.path(), 23, 24);
    let lines = |settings: &Settings, place: &str| -> Vec<serde_json::Value> {
        let place = folder.path().join(place);
        run(&mut start(settings), &place);
        let text = std::fs::read_to_string(place.join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter(|line| line["loss"].is_f64()).collect()
    };
    let mut all = settings(&data, 2003);
    (all.schedule.warmup, all.loss.alpha) = (4000, 0.25);
    all.optimizer = toml::from_str("name = \"muon\"\nlr = 0.01\nadamw_lr = 0.002").unwrap();
    let plain = lines(&all, "plain");
    assert!(plain.iter().all(|line| line["cross_entropy"].is_null() && line["distillation"].is_null()));
    for (line, step) in plain.iter().zip(2000..) {
        let near = |key: &str, rate: f64| (line[key].as_f64().unwrap() / rate - 1.0).abs() < 1e-12;
        let factor = f64::from(step) / 4000.0;
        assert!(near("lr_muon", 0.01 * factor) && near("lr_adamw", 0.002 * factor), "{line}");
    }
    all.distill.teachers = vec![ckpt_train::distill::Teacher::new(fixture("healthy-run/step-01000.pt"), 1.0)];
    all.optimizer = "adamw".parse().unwrap();
    for line in lines(&all, "taught") {
        let number = |key: &str| line[key].as_f64().unwrap();
        let sum = 0.75 * number("cross_entropy") + 0.25 * number("distillation");
        assert!((number("loss") - sum).abs() < 1e-9, "{line}");
        assert!(number("distillation") > 0.0 && number("lr") > 0.0, "{line}");
    }
}

#[test]
fn another_length_restarts_the_data_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("a.txt");
    std::fs::write(&text, "one line of text after another\n".repeat(400)).unwrap();
    let all = settings(&text, 2002).with(|s| {
        s.data.tokenizer = Some(truth::tokenizer(folder.path()));
        s.validate_every = 0;
    });
    run(&mut start(&all), folder.path());
    let from = folder.path().join("step-002002.pt");
    let longer = all.clone().with(|s| (s.steps, s.data.length) = (2004, 40));
    let (outcome, warnings, _) = watched(&mut resume(&from, &longer), &folder.path().join("longer"));
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    let told = "was trained on sequences of 32 positions, and this run's have 40";
    assert!(warnings.iter().any(|w| w.contains(told)), "{warnings:?}");
    let same = all.with(|s| s.steps = 2004);
    let (_, warnings, _) = watched(&mut resume(&from, &same), &folder.path().join("same"));
    assert!(!warnings.iter().any(|w| w.contains("positions")), "{warnings:?}");
    // Sequences that are ready-made have their own.
    let ids = write_ids(folder.path(), 23, 24);
    let ready = settings(&ids, 2002).with(|s| s.validate_every = 0);
    run(&mut start(&ready), &folder.path().join("ready"));
    let next = ready.with(|s| (s.steps, s.data.length) = (2004, 40));
    let from = folder.path().join("ready/step-002002.pt");
    let (_, warnings, _) = watched(&mut resume(&from, &next), &folder.path().join("ready"));
    assert!(!warnings.iter().any(|w| w.contains("positions")), "{warnings:?}");
}

/// Patience counts on where a run was stopped, and the run ends with a checkpoint.
#[test]
fn a_run_that_gets_no_better_ends_when_patience_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = settings(&write_ids(folder.path(), 23, 24), 2100).with(|s| s.patience = 3);
    // Nothing is learnt, so nothing gets better.
    all.optimizer = sgd::Settings::default().with(|s| s.lr = Some(0.0)).into();
    let end = |place: &str, parts: &[u64]| {
        let place = folder.path().join(place);
        let mut trainer = start(&all.clone().with(|s| s.steps = parts[0]));
        let mut outcome = watched(&mut trainer, &place).0.unwrap();
        for steps in &parts[1..] {
            assert_eq!(outcome, Outcome::Finished);
            let from = place.join(format!("step-{:06}.pt", trainer.step()));
            trainer = resume(&from, &all.clone().with(|s| s.steps = *steps));
            outcome = watched(&mut trainer, &place).0.unwrap();
        }
        assert!(place.join(format!("step-{:06}.pt", trainer.step())).exists());
        (outcome, trainer.step())
    };
    assert_eq!(end("whole", &[2100]), (Outcome::NoBetter, 2006));
    assert_eq!(end("parts", &[2004, 2100]), (Outcome::NoBetter, 2006));
    // One that learns goes on.
    all.optimizer = toml::from_str("name = \"adamw\"\nlr = 3e-3").unwrap();
    let mut trainer = start(&all.with(|s| s.steps = 2012));
    assert_eq!(watched(&mut trainer, &folder.path().join("learns")).0.unwrap(), Outcome::Finished);
}
