//! Optimizer settings read from checkpoints against what PyTorch's optimizers did with them (data/optimizers.py).

use std::path::Path;

use ckpt_inspect::diff::{Status, diff};
use ckpt_inspect::optimizer::Kind;
use ckpt_inspect::{Options, describe, open, open_bytes};
use ckpt_kit::pickle::{dict, int, list, pickle, text};
use ckpt_kit::{numbers, torch};
use serde_json::Value;

fn record(name: &str) -> ckpt_inspect::CheckpointRecord {
    let path = format!("tests/data/optimizers/{name}.pt");
    describe(&open(Path::new(&path)).unwrap(), Options::default().with(|o| o.stats = false), &|_| ())
}

#[test]
fn every_optimizer_decays_as_pytorch_did() {
    let truth: Value = serde_json::from_str(include_str!("../data/optimizers.json")).unwrap();
    let mut compared = 0;
    for (name, rates) in truth.as_object().unwrap() {
        let record = record(name);
        let training = record.training.as_ref().unwrap();
        for (weight, rate) in rates.as_object().unwrap() {
            let index =
                record.tensors.iter().position(|t| t.name == format!("model_state_dict.{weight}")).unwrap();
            let Some(group) = training.group_of(index) else {
                assert_eq!((name.as_str(), weight.as_str()), ("sgd_unclear", "head.weight"));
                continue;
            };
            let found = group.decay_rate();
            if group.kind == Kind::AdamL2 {
                assert_eq!(found, None, "{name}: coupled decay has no rate of its own");
                continue;
            }
            let (found, wanted) = (found.unwrap(), rate.as_f64().unwrap());
            assert!((found / wanted - 1.0).abs() < 1e-6, "{name} {weight}: {found}, PyTorch {wanted}");
            compared += 1;
        }
    }
    assert_eq!(compared, 23);
}

#[test]
fn optimizers_are_recognised_with_their_steps() {
    for (name, kind, steps) in [
        ("adamw", Kind::AdamW, Some(400)),
        ("adam_l2", Kind::AdamL2, Some(400)),
        ("sgd_nesterov", Kind::Sgd, None),
        ("muon", Kind::Muon, None),
    ] {
        let training = record(name).training.unwrap();
        assert_eq!((training.groups[0].kind, training.optimizer_steps), (kind, steps), "{name}");
    }
}

#[test]
fn vectors_and_matrices_are_distinguished_by_moments_and_by_counts() {
    let record = record("adamw");
    let training = record.training.as_ref().unwrap();
    for (group, decay, count) in [(0, 0.1, 3), (1, 0.0, 5)] {
        let group = &training.groups[group];
        assert_eq!((group.weight_decay, group.tensors.len()), (Some(decay), count));
        for (&tensor, moments) in group.tensors.iter().zip(&group.moments) {
            let tensor = &record.tensors[tensor as usize];
            assert_eq!(tensor.shape.len() >= 2, decay > 0.0, "{}", tensor.name);
            assert_eq!(moments.len(), 2, "{}", tensor.name);
            for &moment in moments {
                assert_eq!(record.tensors[moment as usize].shape, tensor.shape);
            }
        }
    }
    // Before the first step there are no moments: Muon has the matrices, AdamW the vectors.
    let path = Path::new("../tests/fixtures/collapse-run/step-00000.pt");
    let record = describe(&open(path).unwrap(), Options::default().with(|o| o.stats = false), &|_| ());
    for group in &record.training.as_ref().unwrap().groups {
        let matrices = group.tensors.iter().filter(|&&t| record.tensors[t as usize].shape.len() == 2).count();
        let wanted = if group.kind == Kind::Muon { (15, 15) } else { (9, 0) };
        assert_eq!((group.tensors.len(), matrices), wanted, "{}", group.path);
    }
}

/// `get_state_dict` of PyTorch keeps moments under names, `optimizer.state_dict()` under numbers.
#[test]
fn moments_under_names_and_under_numbers_are_compared_by_their_weights() {
    let weights: [(&str, &[usize]); 3] =
        [("up.weight", &[2, 3]), ("norm.weight", &[3]), ("down.weight", &[3, 2])];
    let save = |optimizer: &str, named: bool, changed: f32| {
        let (mut storages, mut model, mut state, mut keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (i, (name, shape)) in weights.iter().enumerate() {
            let count: usize = shape.iter().product();
            let strides: Vec<usize> = (0..shape.len()).map(|d| shape[d + 1..].iter().product()).collect();
            let mut tensor = |value: f32, shape: &[usize], strides: &[usize]| {
                let count: usize = shape.iter().product();
                storages.push(numbers::le(&vec![value; count]));
                torch::rebuild("FloatStorage", &(storages.len() - 1).to_string(), count, 0, shape, strides)
            };
            model.push((*name, tensor(i as f32 + 1.0, shape, &strides)));
            let moment = if count == 3 { changed } else { 0.5 };
            let kept = [("exp_avg", tensor(moment, shape, &strides)), ("step", tensor(7.0, &[], &[]))];
            let key = if named { name.to_string() } else { i.to_string() };
            state.push((key.clone(), dict(&kept)));
            keys.push(if named { text(&key) } else { int(i as i32) });
        }
        let state: Vec<(&str, Vec<u8>)> =
            state.iter().map(|(key, kept)| (key.as_str(), kept.clone())).collect();
        let groups = list(&[dict(&[("weight_decay", int(0)), ("params", list(&keys))])]);
        let object = [
            ("model", dict(&model)),
            (optimizer, dict(&[("state", dict(&state)), ("param_groups", groups)])),
        ];
        open_bytes("saved.pt", torch::zip_of(&pickle(2, &dict(&object)), &storages)).unwrap()
    };
    let (named, numbered) = (save("optim", true, 0.5), save("optimizer", false, 0.75));
    for (a, b) in [(&named, &numbered), (&numbered, &named)] {
        let found = diff(a, b, Default::default(), &|_| true).unwrap();
        let of = |status: Status| {
            let names = found.tensors.iter().filter(move |t| t.status == status);
            names.map(|t| (t.a.as_ref().map(|s| s.name.as_str()), t.b.as_ref().map(|s| s.name.as_str())))
        };
        assert_eq!((found.tensors.len(), of(Status::Same).count()), (9, 8));
        let mut pair: Vec<Option<&str>> = of(Status::Changed).flat_map(|(a, b)| [a, b]).collect();
        pair.sort();
        assert_eq!(pair, [Some("optim.state.norm.weight.exp_avg"), Some("optimizer.state.1.exp_avg")]);
    }
}
