//! Causes of death: each in runs whose cause is known, and similar cases whose cause must stay unknown.

use std::path::Path;

use ckpt_inspect::cause::{
    AccumulationSource, Cause, Explanation, Given, LayerCause, Pair, PairRecord, PairTensor, Setting,
    compare, explain, pairs_needed,
};
use ckpt_inspect::diff::CodeDiff;
use ckpt_inspect::optimizer::{Kind, ParamGroup, TrainingRecord};
use ckpt_inspect::record::{Stats, TensorRecord, Ternary};
use ckpt_inspect::run::Run;
use ckpt_inspect::{
    CheckpointRecord, DType, Damage, DamageKind, Error, ErrorKind, Group, Options, Role, TernaryPacking,
    Thresholds, Verdict, describe, find, judge, open,
};

const NAME: &str = "layers.0.mlp.gate_proj.weight";

/// The run in a folder, and its explanation from its own files.
fn explained(folder: &str, given: &Given) -> (Run, Explanation) {
    let mut records = Vec::new();
    for path in find(Path::new(folder)).unwrap() {
        let mut record = describe(&open(&path).unwrap(), Options::default(), &|_| ());
        judge(&mut record, &Thresholds::default());
        records.push(record);
    }
    let run = Run::group(records, &Thresholds::default()).remove(0);
    let pair = |r: ckpt_inspect::cause::PairRequest| {
        let [a, b] = [r.from, r.to].map(|c| open(Path::new(&run.checkpoints[c].path)).unwrap());
        r.answered(compare(&a, &b, &r.names))
    };
    let pairs: Vec<Pair> = pairs_needed(&run).into_iter().map(pair).collect();
    let explanation = explain(&run, &pairs, given);
    (run, explanation)
}

#[test]
fn the_collapsed_run_died_of_weight_decay() {
    let (run, explanation) = explained("../tests/fixtures/collapse-run", &Given::default());
    assert_eq!(explanation.layers.len(), 6);
    for layer in &explanation.layers {
        let name = &run.layers[layer.layer].name;
        assert!(name.contains(".mlp."), "{name}");
        assert_eq!(layer.cause, Cause::WeightDecay, "{name}: {}", layer.reason);
        let decay = layer.decay.as_ref().unwrap();
        assert!((decay.rate / 2.0e-3 - 1.0).abs() < 0.01, "{name}: {}", decay.rate);
        assert!((decay.ratio.unwrap() - 1.0).abs() < 0.01, "{name}: {:?}", decay.ratio);
        assert!(decay.r2 > 0.9999 && decay.interval.unwrap() < 2e-5, "{name}: {decay:?}");
        assert!((343.0..348.0).contains(&decay.half_life), "{name}: {}", decay.half_life);
        assert_eq!(decay.accumulation_source, AccumulationSource::Counter);
        assert_eq!(decay.optimizer, Kind::Muon);
        assert!(layer.direction.unwrap().median > 0.9999);
        assert!(layer.push.unwrap().ratio < 1e-3, "gradients are gone");
        assert!(layer.survival.unwrap() > 0.99);
    }
    assert_eq!(explanation.groups.len(), 3);
    for group in &explanation.groups {
        assert_eq!(group.layers, 2);
        assert!((group.rate / 2.0e-3 - 1.0).abs() < 0.01, "{}: {}", group.pattern, group.rate);
    }
    let prognosis = explanation.prognosis.as_ref().unwrap();
    let path = |c: Option<usize>| run.checkpoints[c.unwrap()].path.rsplit('/').next().unwrap().to_string();
    assert_eq!(path(prognosis.resume), "step-02000.pt");
    assert_eq!(path(prognosis.comfortable), "step-00500.pt");
    assert!(prognosis.other_agreement.unwrap() < 0.6, "attention went on learning");
    let change = &prognosis.changes[0];
    assert_eq!(
        (change.setting.clone(), change.from),
        (Setting::Saved("optimizer_state_dict.muon.param_groups.0.weight_decay".into()), 0.1)
    );
    assert!((change.to - 0.001).abs() < 1e-12 && (change.half_life / 34_657.0 - 1.0).abs() < 1e-3);
}

/// Interpolated on a straight line: std 1e-3 lies between the checkpoints of steps 2000 and 2500.
#[test]
fn thresholds_are_crossed_between_checkpoints() {
    let (run, _) = explained("../tests/fixtures/collapse-run", &Given::default());
    let layer = run.layers.iter().position(|l| l.name == NAME).unwrap();
    let crossing = run.layers[layer].crossings[0];
    let std = |c: usize| run.tensor(layer, c).unwrap().stats.as_ref().unwrap().std.unwrap();
    let wanted = 2000.0 + 500.0 * (std(4) / 1e-3).ln() / (std(4) / std(5)).ln();
    assert!((crossing.at.unwrap() - wanted).abs() < 1e-6);
    assert!((2390.0..2410.0).contains(&wanted), "{wanted}");
}

#[test]
fn the_healthy_run_is_alive() {
    let (run, explanation) = explained("../tests/fixtures/healthy-run", &Given::default());
    assert_eq!(explanation, Explanation::default());
    assert!(pairs_needed(&run).is_empty(), "no weight is read twice for a run that is alive");
}

/// A matrix of 64 x 64 that a BitLinear uses, of this std and share of zeros.
fn matrix(std: f64, zero: f64) -> TensorRecord {
    let mut stats = Stats::default();
    (stats.count, stats.mean, stats.std) = (4096, Some(0.0), Some(std));
    (stats.min, stats.max) = (Some(-3.0 * std), Some(3.0 * std));
    (stats.abs_mean, stats.abs_max) = (Some(0.8 * std), Some(3.0 * std));
    let half = (1.0 - zero) / 2.0;
    let mut ternary = Ternary::default();
    (ternary.neg, ternary.zero, ternary.pos, ternary.scale) = (half, zero, half, Some(0.8 * std));
    let mut tensor = TensorRecord::default();
    (tensor.name, tensor.dtype, tensor.shape) = (NAME.into(), DType::F32, vec![64, 64]);
    (tensor.group, tensor.stats, tensor.ternary) = (Group::Weights, Some(stats), Some(Box::new(ternary)));
    tensor
}

fn constant(value: f64) -> TensorRecord {
    let mut tensor = matrix(0.0, if value == 0.0 { 1.0 } else { 0.0 });
    let stats = tensor.stats.as_mut().unwrap();
    (stats.min, stats.max, stats.mean) = (Some(value), Some(value), Some(value));
    tensor
}

fn moment(name: &str, rms: f64) -> TensorRecord {
    let mut tensor = matrix(rms, 0.5);
    if rms == 0.0 {
        tensor.stats.as_mut().unwrap().zeros = 4096;
    }
    (tensor.name, tensor.group, tensor.ternary) = (name.into(), Group::Optimizer, None);
    tensor
}

fn decoupled(lr: f64, weight_decay: f64) -> Option<TrainingRecord> {
    optimizer(Kind::AdamW, lr, weight_decay)
}

fn optimizer(kind: Kind, lr: f64, weight_decay: f64) -> Option<TrainingRecord> {
    let mut group = ParamGroup::default();
    (group.path, group.kind, group.tensors) = ("optimizer.param_groups.0".into(), kind, vec![0]);
    (group.lr, group.weight_decay) = (Some(lr), Some(weight_decay));
    let mut training = TrainingRecord::default();
    training.groups.push(group);
    Some(training)
}

fn checkpoint(step: u64, tensors: Vec<TensorRecord>, training: Option<TrainingRecord>) -> CheckpointRecord {
    let mut record = CheckpointRecord::default();
    (record.path, record.step) = (format!("run/step-{step}.pt"), Some(step));
    (record.tensors, record.training) = (tensors, training);
    judge(&mut record, &Thresholds::default());
    record
}

/// The result of pairs: a cosine, and shares of codes that became zero and ceased to be zero.
#[derive(Clone, Copy)]
struct Shown {
    cosine: f64,
    silenced: u64,
    woken: u64,
}

const SHRINKS: Shown = Shown { cosine: 0.9999, silenced: 10, woken: 10 };

fn why(records: Vec<CheckpointRecord>, shown: Option<Shown>, given: &Given) -> LayerCause {
    let run = Run::group(records, &Thresholds::default()).remove(0);
    let pairs: Vec<Pair> = pairs_needed(&run)
        .into_iter()
        .filter_map(|r| {
            let Shown { cosine, silenced, woken } = shown?;
            let mut codes = CodeDiff::default();
            (codes.count, codes.flipped) = (4096, silenced + woken);
            (codes.silenced, codes.woken) = (silenced, woken);
            let tensor = |name: &String| {
                let mut tensor = PairTensor::default();
                (tensor.name, tensor.unchanged) = (name.clone(), cosine == 1.0);
                (tensor.cosine, tensor.codes) = (Some(cosine), Some(codes.clone()));
                tensor
            };
            let mut record = PairRecord::default();
            record.tensors.extend(r.names.iter().map(tensor));
            Some(r.answered(record))
        })
        .collect();
    let mut layers = explain(&run, &pairs, given).layers;
    assert_eq!(layers.len(), 1, "{layers:?}");
    layers.remove(0)
}

/// Checkpoints of a weight that shrinks by exp(-rate) per step from 0.02.
fn shrinking(steps: &[u64], rate: f64, training: &Option<TrainingRecord>) -> Vec<CheckpointRecord> {
    let one = |&t: &u64| checkpoint(t, vec![matrix(0.02 * (-rate * t as f64).exp(), 0.33)], training.clone());
    steps.iter().map(one).collect()
}

const STEPS: [u64; 7] = [0, 1000, 2000, 3000, 4000, 5000, 6000];

#[track_caller]
fn assert_unknown(found: &LayerCause, words: &str) {
    assert_eq!(found.cause, Cause::Unknown, "{}", found.reason);
    assert!(found.reason.contains(words), "{}", found.reason);
}

#[test]
fn weight_decay_is_shown_by_rate_and_direction_together() {
    let given = Given::default();
    let run = |rate: f64, training: Option<TrainingRecord>| shrinking(&STEPS, rate, &training);
    let found = why(run(1e-3, decoupled(0.01, 0.1)), Some(SHRINKS), &given);
    assert_eq!(found.cause, Cause::WeightDecay, "{}", found.reason);
    assert!((found.decay.unwrap().rate / 1e-3 - 1.0).abs() < 1e-9);
    // The direction could not be read, but seven points lie on the line.
    assert_eq!(why(run(1e-3, decoupled(0.01, 0.1)), None, &given).cause, Cause::WeightDecay);

    let turning = Shown { cosine: 0.9, ..SHRINKS };
    assert_unknown(
        &why(run(1e-3, decoupled(0.01, 0.1)), Some(turning), &given),
        "changed direction while it fell",
    );
    assert_unknown(&why(run(1e-3, decoupled(0.01, 0.05)), Some(SHRINKS), &given), "1.999 times");
    assert_unknown(&why(run(1.3e-3, decoupled(0.01, 0.1)), Some(SHRINKS), &given), "1.299 times");
    assert_unknown(&why(run(1e-3, decoupled(0.01, 0.0)), Some(SHRINKS), &given), "was 0 throughout");
    assert_unknown(&why(run(1e-3, optimizer(Kind::AdamL2, 0.01, 0.1)), Some(SHRINKS), &given), "Adam adds");
    assert_unknown(
        &why(run(1e-3, None), Some(SHRINKS), &given),
        "without the learning rate and the weight decay",
    );
    let one = vec![checkpoint(6000, vec![matrix(5e-5, 0.33)], decoupled(0.01, 0.1))];
    assert_unknown(&why(one, None, &given), "one checkpoint");
    // Two points always lie on a line; only the direction makes them evidence.
    let two = |shown| why(shrinking(&[0, 6000], 1e-3, &decoupled(0.01, 0.1)), shown, &given);
    assert_eq!(two(Some(SHRINKS)).cause, Cause::WeightDecay);
    assert_unknown(&two(None), "its direction could not be compared");
}

#[test]
fn settings_that_the_user_gives_go_before_those_of_the_file() {
    let points = [(2000, 4.5e-5), (10_000, 6.2e-6), (20_000, 5.1e-7)];
    let run = |training: Option<TrainingRecord>| -> Vec<CheckpointRecord> {
        points.iter().map(|&(t, std)| checkpoint(t, vec![matrix(std, 0.33)], training.clone())).collect()
    };
    let mut all = Given::default();
    (all.lr, all.weight_decay, all.accumulation) = (Some(0.02), Some(0.1), Some(8));
    for training in [None, decoupled(3e-4, 0.01)] {
        let found = why(run(training), Some(SHRINKS), &all);
        assert_eq!(found.cause, Cause::WeightDecay, "{}", found.reason);
        let decay = found.decay.unwrap();
        assert!((2.48e-4..=2.50e-4).contains(&decay.rate), "{}", decay.rate);
        assert!((2770.0..2800.0).contains(&decay.half_life), "{}", decay.half_life);
        assert!((decay.predicted.unwrap() / 2.5e-4 - 1.0).abs() < 0.002);
    }
    all.accumulation = None;
    let found = why(run(None), Some(SHRINKS), &all);
    assert_unknown(&found, "if one optimizer step were 8 checkpoint steps");
    // The config has it: the rates agree with that, and with nothing else.
    let mut training = decoupled(0.02, 0.1).unwrap();
    training.accumulation = Some(8);
    let found = why(run(Some(training)), Some(SHRINKS), &Given::default());
    assert_eq!(found.cause, Cause::WeightDecay, "{}", found.reason);
    assert_eq!(found.decay.unwrap().accumulation_source, AccumulationSource::Config);
    // The optimizer counts fewer steps than the checkpoints do.
    let mut records = run(decoupled(0.02, 0.1));
    for record in &mut records {
        record.training.as_mut().unwrap().optimizer_steps = record.step.map(|s| s / 8);
    }
    let found = why(records, Some(SHRINKS), &Given::default());
    assert_eq!(found.decay.as_ref().unwrap().accumulation_source, AccumulationSource::Counter);
    assert_eq!(found.cause, Cause::WeightDecay, "{}", found.reason);
}

/// Step by step: warm-up from 0 over 500 steps, then cosine to 0; std never falls in a straight line over steps.
#[test]
fn a_schedule_is_integrated() {
    let lr = |t: u64| match t {
        0..500 => 0.02 * t as f64 / 500.0,
        _ => 0.01 * (1.0 + (std::f64::consts::PI * (t - 500) as f64 / 5500.0).cos()),
    };
    let mut std = 0.05;
    let mut records = Vec::new();
    for t in 0..=6000 {
        if t % 250 == 0 {
            records.push(checkpoint(t, vec![matrix(std, 0.33)], decoupled(lr(t), 0.1)));
        }
        std *= 1.0 - lr(t) * 0.1;
    }
    let found = why(records.clone(), Some(SHRINKS), &Given::default());
    assert_eq!(found.cause, Cause::WeightDecay, "{}", found.reason);
    let decay = found.decay.unwrap();
    assert!((decay.ratio.unwrap() - 1.0).abs() < 0.01, "{decay:?}");
    assert!(decay.share.unwrap() > 0.95);
    // At the constant rate of the first checkpoints it would not fit.
    for record in &mut records {
        record.training = decoupled(0.02, 0.1);
    }
    assert_unknown(&why(records, Some(SHRINKS), &Given::default()), "times");
}

#[test]
fn a_run_that_turned_shows_when() {
    let stds =
        [0.02, 0.021, 0.019, 0.02, 0.02, 0.02 * (-1f64).exp(), 0.02 * (-2f64).exp(), 0.02 * (-3f64).exp()];
    let records: Vec<CheckpointRecord> = (0..stds.len())
        .map(|i| checkpoint(1000 * i as u64, vec![matrix(stds[i], 0.33)], decoupled(0.01, 0.1)))
        .collect();
    let found = why(records, Some(SHRINKS), &Given::default());
    let decay = found.decay.as_ref().unwrap();
    assert_eq!((decay.from, decay.to), (4000, 7000));
    assert_eq!(found.cause, Cause::WeightDecay, "{}", found.reason);
}

#[test]
fn zero_bucket_trapping_needs_a_drift_that_does_not_come_back() {
    let given = Given::default();
    let run = |shares: &[f64]| -> Vec<CheckpointRecord> {
        let one = |(i, zero): (usize, &f64)| checkpoint(500 * i as u64, vec![matrix(0.02, *zero)], None);
        shares.iter().enumerate().map(one).collect()
    };
    let trapped = Shown { cosine: 0.98, silenced: 1300, woken: 40 };
    let found = why(run(&[0.33, 0.6, 0.95, 0.9995]), Some(trapped), &given);
    assert_eq!(found.cause, Cause::ZeroBucket, "{}", found.reason);
    assert!(found.occupancy.unwrap().silenced > 0.9);
    let both = Shown { cosine: 0.98, silenced: 1300, woken: 1200 };
    assert_unknown(&why(run(&[0.33, 0.6, 0.95, 0.9995]), Some(both), &given), "both ways");
    assert_unknown(
        &why(run(&[0.95, 0.99, 0.9995]), Some(trapped), &given),
        "high from the first checkpoint on",
    );
    assert_unknown(&why(run(&[0.9995]), None, &given), "one checkpoint");
    assert_unknown(&why(run(&[0.33, 0.9995]), None, &given), "could not be compared");
}

#[test]
fn never_trained_is_the_same_in_every_value() {
    let run = || {
        vec![checkpoint(0, vec![matrix(0.02, 0.33)], None), checkpoint(2000, vec![matrix(0.02, 0.33)], None)]
    };
    let given = Given::default();
    let same = Shown { cosine: 1.0, silenced: 0, woken: 0 };
    assert_eq!(why(run(), Some(same), &given).cause, Cause::NeverTrained);
    assert_unknown(&why(run(), Some(SHRINKS), &given), "its values are not");
    assert_unknown(&why(run(), None, &given), "could not be compared");
}

#[test]
fn exploding_is_distinguished_from_damaged_values() {
    let given = Given::default();
    let with_nan = |std: f64, nan: u64| {
        let mut tensor = matrix(std, 0.33);
        tensor.stats.as_mut().unwrap().nan = nan;
        tensor
    };
    let start = || checkpoint(0, vec![matrix(0.02, 0.33)], None);
    let found = why(vec![start(), checkpoint(500, vec![with_nan(0.02, 4096)], None)], None, &given);
    assert_eq!(found.cause, Cause::Exploding, "{}", found.reason);
    assert!(found.reason.contains("first at step 500"));
    let grown = vec![
        start(),
        checkpoint(500, vec![matrix(60.0, 0.33)], None),
        checkpoint(600, vec![with_nan(90.0, 1)], None),
    ];
    assert_eq!(why(grown, None, &given).cause, Cause::Exploding);
    let one = vec![start(), checkpoint(500, vec![with_nan(0.021, 1)], None)];
    assert_unknown(&why(one, None, &given), "damaged bytes");
    // Finite, and beyond all bounds.
    let found = why(vec![start(), checkpoint(500, vec![matrix(60.0, 0.33)], None)], None, &given);
    assert_eq!(found.cause, Cause::Exploding, "{}", found.reason);
    // The optimizer's moments are not finite either.
    let mut bad = moment("optimizer.state.0.exp_avg", 0.1);
    bad.stats.as_mut().unwrap().nan = 1;
    let mut training = decoupled(0.01, 0.0).unwrap();
    training.groups[0].moments = vec![vec![1]];
    let both = vec![start(), checkpoint(500, vec![with_nan(0.021, 1), bad], Some(training))];
    assert_eq!(why(both, None, &given).cause, Cause::Exploding);
}

/// A run that exploded without a NaN, whether its checkpoints show the growth or only the end is there; and what is
/// corrupt without having grown.
#[test]
fn a_size_that_no_training_leaves_is_an_explosion_and_a_flipped_bit_is_none() {
    let given = Given::default();
    let plain = |std: f64| {
        let mut tensor = matrix(std, 0.33);
        (tensor.ternary, tensor.role) = (None, Role::Matrix);
        tensor
    };
    let found = why(
        vec![checkpoint(0, vec![plain(0.02)], None), checkpoint(500, vec![plain(6e4)], None)],
        None,
        &given,
    );
    assert_eq!(found.cause, Cause::Exploding, "{}", found.reason);
    assert!(found.reason.contains("its std grew 3.0e6 times"), "{}", found.reason);
    let found = why(vec![checkpoint(500, vec![plain(6e4)], None)], None, &given);
    assert_eq!(found.cause, Cause::Exploding, "{}", found.reason);
    assert!(found.reason.contains("no training leaves"), "{}", found.reason);
    let mut flipped = plain(0.02);
    let stats = flipped.stats.as_mut().unwrap();
    (stats.abs_max, stats.max) = (Some(1e30), Some(1e30));
    (stats.abs_mean, stats.std) = (Some((0.016 * 4095.0 + 1e30) / 4096.0), Some(1e30 / 64.0));
    assert_unknown(&why(vec![checkpoint(500, vec![flipped], None)], None, &given), "damaged bytes");
}

#[test]
fn what_a_trainer_keeps_is_no_weight_that_explodes() {
    let mut score = matrix(0.02, 0.33);
    (score.name, score.role, score.ternary) =
        ("callbacks.EarlyStopping.best_score".into(), Role::TrainerState, None);
    score.stats.as_mut().unwrap().inf = 1;
    let records = vec![
        checkpoint(0, vec![matrix(0.02, 0.33)], None),
        checkpoint(500, vec![matrix(0.021, 0.33), score], None),
    ];
    assert!(records.iter().all(|r| r.verdict == Some(Verdict::Healthy)));
    let runs = Run::group(records, &Thresholds::default());
    assert!(runs.iter().all(|run| explain(run, &[], &Given::default()).layers.is_empty()));
}

/// `best.pt` and `last.ckpt` are of steps that other files are of: the series is that of the others.
#[test]
fn checkpoints_of_one_step_enter_the_series_once() {
    let mut records = shrinking(&STEPS, 1e-3, &decoupled(0.01, 0.1));
    for (name, of) in [("best.pt", 2), ("last.ckpt", 6)] {
        let mut copy = records[of].clone();
        copy.path = format!("run/{name}");
        records.push(copy);
    }
    let run = Run::group(records.clone(), &Thresholds::default()).remove(0);
    assert!(run.has_steps());
    assert_eq!(run.checkpoints.len(), STEPS.len());
    assert!(run.checkpoints.iter().all(|c| c.path.contains("step-")), "the names that tell the step");
    let aside: Vec<(&str, usize)> = run.aside.iter().map(|a| (&a.record.path[..], a.same_step_as)).collect();
    assert_eq!(aside, [("run/best.pt", 2), ("run/last.ckpt", 6)]);
    let found = why(records, Some(SHRINKS), &Given::default());
    assert_eq!(found.cause, Cause::WeightDecay, "{}", found.reason);
    assert!(found.direction.is_some());
}

#[test]
fn a_constant_is_overwritten_where_it_was_alive_before() {
    let given = Given::default();
    let alive = || checkpoint(0, vec![matrix(0.02, 0.33)], None);
    let found = why(vec![alive(), checkpoint(500, vec![constant(0.0)], None)], None, &given);
    assert_eq!(found.cause, Cause::Overwritten, "{}", found.reason);
    assert!(found.reason.contains("zeros"));
    let found = why(vec![alive(), checkpoint(500, vec![constant(7.0)], None)], None, &given);
    assert_eq!(found.cause, Cause::Overwritten);
    assert_unknown(&why(vec![checkpoint(500, vec![constant(0.0)], None)], None, &given), "initialised so");
    let both = vec![checkpoint(0, vec![constant(0.0)], None), checkpoint(500, vec![constant(0.0)], None)];
    assert_eq!(why(both, None, &given).cause, Cause::NeverTrained);
    for (rms, cause) in [(1e-3, Cause::Overwritten), (0.0, Cause::NeverTrained)] {
        let mut training = decoupled(0.01, 0.0).unwrap();
        training.groups[0].moments = vec![vec![1]];
        let tensors = vec![constant(0.0), moment("optimizer.state.0.exp_avg", rms)];
        assert_eq!(why(vec![checkpoint(500, tensors, Some(training))], None, &given).cause, cause);
    }
    // Weights that had nearly vanished before were not overwritten.
    let mut decayed = shrinking(&[0, 2000, 4000, 6000, 8000, 10_000], 1e-3, &decoupled(0.01, 0.1));
    decayed.push(checkpoint(12_000, vec![constant(0.0)], decoupled(0.01, 0.1)));
    assert_eq!(why(decayed, Some(SHRINKS), &given).cause, Cause::WeightDecay);
}

#[test]
fn packed_copies_lose_scales_and_bytes() {
    let given = Given::default();
    let packed = |neg: f64, zero: f64, scale: Option<f64>| {
        let mut tensor = matrix(0.8, zero);
        tensor.dtype = DType::Ternary(TernaryPacking::I2s);
        let mut ternary = Ternary::default();
        (ternary.neg, ternary.zero, ternary.pos, ternary.scale) = (neg, zero, 1.0 - neg - zero, scale);
        tensor.ternary = Some(Box::new(ternary));
        tensor
    };
    let one = |tensor: TensorRecord| why(vec![checkpoint(500, vec![tensor], None)], None, &given);
    for scale in [None, Some(0.0), Some(f64::NAN)] {
        assert_eq!(one(packed(0.3, 0.4, scale)).cause, Cause::ScaleLost, "{scale:?}");
    }
    let mut zero_bytes = packed(1.0, 0.0, Some(0.02));
    let stats = zero_bytes.stats.as_mut().unwrap();
    (stats.min, stats.max, stats.std) = (Some(-0.02), Some(-0.02), Some(0.0));
    let found = one(zero_bytes);
    assert_eq!(found.cause, Cause::Overwritten, "{}", found.reason);
}

#[test]
fn truncation_is_distinguished_from_other_damage() {
    let mut record = describe(
        &open(Path::new("../tests/fixtures/formats/truncated.pt")).unwrap(),
        Options::default(),
        &|_| (),
    );
    judge(&mut record, &Thresholds::default());
    let damaged = record.tensors.iter().filter(|t| t.damage.is_some()).count();
    let run = Run::group(vec![record], &Thresholds::default()).remove(0);
    let explanation = explain(&run, &[], &Given::default());
    let truncated = explanation.layers.iter().filter(|l| l.cause == Cause::Truncated).count();
    assert!(truncated > 0 && truncated == damaged, "{truncated} of {damaged}");

    use DamageKind::*;
    for (kind, cause) in [
        (CutShort, Cause::Truncated),
        (BeyondStorage, Cause::Truncated),
        (StorageLost, Cause::Truncated),
        (DirectoryLost, Cause::Truncated),
        (ChecksumMismatch, Cause::Unknown),
        (Overlap, Cause::Unknown),
        (ZeroBytes, Cause::Unknown),
        (Other, Cause::Unknown),
    ] {
        let mut torn = matrix(0.02, 0.33);
        torn.set_damage(Error::damaged("as it is").because(kind));
        let found = why(vec![checkpoint(500, vec![torn], None)], None, &Given::default());
        assert_eq!(found.cause, cause, "{kind:?}: {}", found.reason);
        assert!(found.reason.starts_with("as it is"), "{}", found.reason);
    }
    // If the file is cut short, that is reported too, next to the tensor.
    let mut torn = matrix(0.02, 0.33);
    torn.set_damage(Error::damaged("a hole").because(CutShort));
    for (kind, reason) in [(CutShort, "a hole; damaged: no end"), (Overlap, "a hole")] {
        let mut record = checkpoint(500, vec![torn.clone()], None);
        record.damage = Some(Damage::new(kind, "no end"));
        assert_eq!(why(vec![record], None, &Given::default()).reason, reason);
    }

    let of = |kind| Cause::of_unreadable(&Error::damaged("is what it is").because(kind));
    assert_eq!(of(ZeroBytes), Cause::Overwritten);
    assert_eq!(of(CutShort), Cause::Truncated);
    assert_eq!(of(DirectoryLost), Cause::Truncated);
    assert_eq!(of(Empty), Cause::Unknown);
    assert_eq!(Cause::of_unreadable(&Error::new(ErrorKind::Unrecognised, "cut short")), Cause::Unknown);
}

/// Files cut at any place are read as cut short, or hold all their tensors.
#[test]
fn every_cut_of_a_file_reads_as_truncation() {
    let whole = std::fs::read("../tests/fixtures/formats/whole.pt").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.pt");
    for cut in (1..40).map(|i| whole.len() * i / 40) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let mut record = match open(&path) {
            Ok(checkpoint) => describe(&checkpoint, Options::default(), &|_| ()),
            Err(error) => {
                assert_eq!(Cause::of_unreadable(&error), Cause::Truncated, "{cut}: {error}");
                continue;
            }
        };
        judge(&mut record, &Thresholds::default());
        let run = Run::group(vec![record], &Thresholds::default()).remove(0);
        for layer in explain(&run, &[], &Given::default()).layers {
            assert_eq!(layer.cause, Cause::Truncated, "{cut}: {}", layer.reason);
        }
    }
}

#[test]
fn long_runs_are_compared_in_strides() {
    let steps: Vec<u64> = (0..1000).map(|i| 10 * i).collect();
    let run = Run::group(shrinking(&steps, 1e-3, &decoupled(0.01, 0.1)), &Thresholds::default()).remove(0);
    let requests = pairs_needed(&run);
    assert!(requests.len() <= 33, "{}", requests.len());
    let chain: Vec<_> = requests.iter().filter(|r| r.link).collect();
    assert!(chain.windows(2).all(|w| w[0].to == w[1].from), "an unbroken chain");
    assert_eq!((chain[0].from, chain[chain.len() - 1].to), (0, 999));
}

/// Block scales of zero hide the codes of a GGUF tensor behind zeros; the codes are still there.
#[test]
fn block_scales_of_zero_are_a_lost_scale() {
    let source = "tests/data/every_type.gguf";
    let mut file = std::fs::read(source).unwrap();
    let checkpoint = open(Path::new(source)).unwrap();
    let tensor = checkpoint.tensors.iter().find(|t| t.dtype.name().eq_ignore_ascii_case("tq2_0")).unwrap();
    let bytes = checkpoint.tensor_bytes(tensor).unwrap().into_owned();
    let at = file.windows(bytes.len()).position(|w| w == bytes).unwrap();
    // 64 bytes of codes, then the scale as f16.
    file[at..at + bytes.len()].chunks_mut(66).for_each(|block| block[64..].fill(0));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("unscaled.gguf");
    std::fs::write(&path, file).unwrap();
    let mut record = describe(&open(&path).unwrap(), Options::default(), &|_| ());
    judge(&mut record, &Thresholds::default());
    let found = record.tensors.iter().position(|t| t.name == tensor.name).unwrap();
    let ternary = record.tensors[found].ternary.as_ref().unwrap();
    assert!(ternary.zero < 0.9 && ternary.scale == Some(0.0), "{ternary:?}");
    let run = Run::group(vec![record], &Thresholds::default()).remove(0);
    let layers = explain(&run, &[], &Given::default()).layers;
    let lost = layers.iter().find(|l| run.layers[l.layer].name == tensor.name).unwrap();
    assert_eq!(lost.cause, Cause::ScaleLost, "{}", lost.reason);
}
