//! What optimizers do step by step, in `data/steps.pt`, which the Python package compares its own optimizers with; and
//! `data/steps-torch.pt`, the states that those saved half way (`python/tests/test_torch_steps.py`), from which the rest of
//! the steps is the same. `CKPT_UPDATE_STEPS=1` makes the first anew.

use std::path::Path;

use ckpt_convert::{Object, save};
use ckpt_inspect::metadata::{HashableValue, Value, from_json};
use ckpt_inspect::{Checkpoint, open};
use ckpt_kit::fixtures::data;
use ckpt_train::optim::{NAMES, Optimizer, Settings};
use ckpt_train::{Gradients, Parameter, Parameters, Random, Role, Schedule};
use serde_json::{Value as Json, json};

const STEPS: u64 = 8;
/// The step after which a state is saved.
const HALF: u64 = 4;
const SEED: u64 = 11;
/// The largest difference of a weight from the same step of another implementation.
const SAME: f32 = 1e-6;

fn schedule() -> Schedule {
    Schedule::cosine(2, STEPS)
}

/// A model's parameters, of which every ninth weight of a BitLinear is exactly zero.
fn start() -> Parameters {
    let shapes: [(&str, &[usize], Role, bool); 7] = [
        ("embed_tokens.weight", &[9, 6], Role::Embedding, false),
        ("layers.0.input_layernorm.weight", &[6], Role::Norm, false),
        ("layers.0.self_attn.q_proj.weight", &[8, 6], Role::Attention, true),
        ("layers.0.mlp.gate_proj.weight", &[10, 6], Role::Mlp, true),
        ("layers.0.mlp.down_proj.weight", &[6, 10], Role::Mlp, true),
        ("norm.weight", &[6], Role::Norm, false),
        ("lm_head.weight", &[9, 6], Role::Head, false),
    ];
    let one = |(at, (name, shape, role, ternary)): (usize, (&str, &[usize], Role, bool))| {
        let mut random = Random::new(&[1, at as u64]);
        let value = |i: usize| match (ternary, i % 9) {
            (true, 4) => 0.0,
            _ => 0.02 * random.normal(),
        };
        let values = (0..shape.iter().product()).map(value).collect();
        let mut parameter = Parameter::new(name, shape.to_vec(), role, values);
        parameter.ternary = ternary;
        parameter
    };
    Parameters(shapes.into_iter().enumerate().map(one).collect())
}

/// The gradients of a step. Every third row of embeddings is not used, and every seventh gradient of other parameters is
/// zero at every step.
fn gradients(parameters: &Parameters, step: u64) -> Gradients {
    let each = |(at, p): (usize, &Parameter)| {
        let mut random = Random::new(&[2, step, at as u64]);
        let value = |i: usize| match p.role {
            Role::Embedding if (i / 6).is_multiple_of(3) => 0.0,
            Role::Embedding => random.normal(),
            _ if i % 7 == 3 => 0.0,
            _ => 0.1 * random.normal(),
        };
        (0..p.values.len()).map(value).collect()
    };
    parameters.0.iter().enumerate().map(each).collect()
}

/// The settings of each run, as `config.toml` and the `[optimizer]` table have them.
fn runs() -> Vec<(&'static str, Json)> {
    let polarized = |well: &str, target: Json, strength: f64| {
        json!({ "name": "polarized-adamw", "lr": 1e-3,
            "polarizer": { "well": well, "target": target, "strength": strength } })
    };
    vec![
        ("adamw", json!({ "name": "adamw", "lr": 1e-2, "weight_decay": 0.1, "ternary_weight_decay": 0.1 })),
        ("adamw-two-groups", json!({ "name": "adamw", "lr": 1e-2, "weight_decay": 0.1 })),
        ("sgd", json!({ "name": "sgd", "lr": 1e-2, "momentum": 0.9 })),
        ("spin", json!({ "name": "spin" })),
        (
            "spin-two-groups",
            json!({ "name": "spin", "lr": 2e-3, "weight_decay": 0.2, "momentum": 0.8,
                "hysteresis_threshold": 0.01, "tunnel_strength": 1.5 }),
        ),
        ("muon", json!({ "name": "muon", "weight_decay": 0.1, "ternary_weight_decay": 0.2 })),
        (
            "muon-adamw",
            json!({ "name": "muon-adamw", "adamw_lr": 1e-3, "weight_decay": 0.1, "ternary_weight_decay": 0.2 }),
        ),
        ("one-sided", json!({ "name": "polarized-adamw" })),
        ("two-sided", polarized("two-sided", json!({ "relative": 0.5 }), 0.1)),
        ("constant", polarized("constant", json!({ "absolute": 0.02 }), 3e-3)),
        ("piecewise", polarized("piecewise", json!({ "absolute": 0.01 }), 0.1)),
        ("one-sided-muon", json!({ "name": "polarized-muon", "ternary_weight_decay": 0.5 })),
        ("one-sided-spin", json!({ "name": "polarized-spin" })),
    ]
}

fn built(settings: &Json, parameters: &Parameters) -> Box<dyn Optimizer> {
    let settings: Settings = serde_json::from_value(settings.clone()).unwrap();
    settings.build(parameters, SEED).unwrap()
}

/// Takes the steps from `first` on, and calls `after` with the number of steps taken.
fn follow(
    optimizer: &mut dyn Optimizer,
    parameters: &mut Parameters,
    first: u64,
    mut after: impl FnMut(u64, &Parameters),
) {
    for step in first..STEPS {
        let gradients = gradients(parameters, step);
        optimizer.step(parameters, &gradients, schedule().factor(step), step);
        after(step + 1, parameters);
    }
}

fn named(parameters: &Parameters, values: impl Fn(usize) -> Vec<f32>, steps: Option<u64>) -> Object<'static> {
    let entry = |(at, p): (usize, &Parameter)| {
        let shape = steps.map(|s| s as usize).into_iter().chain(p.shape.iter().copied()).collect();
        let key = HashableValue::String(p.name.clone());
        (key, Object::Floats { shape, values: values(at).into() })
    };
    Object::Dict(parameters.0.iter().enumerate().map(entry).collect())
}

/// Everything: the start, the gradients, and of each run the settings, the weights after each step and the state half way.
fn everything(path: &Path) {
    let began = start();
    let gradients: Vec<Gradients> = (0..STEPS).map(|step| gradients(&began, step)).collect();
    let factors = (0..STEPS).map(|step| Value::F64(schedule().factor(step))).collect();
    let half = |settings: &Json| {
        let (mut optimizer, mut parameters) = (built(settings, &began), began.clone());
        for step in 0..HALF {
            let gradients = &gradients[step as usize];
            optimizer.step(&mut parameters, gradients, schedule().factor(step), step);
        }
        (optimizer, parameters)
    };
    let halves: Vec<_> =
        runs().into_iter().map(|(name, settings)| (name, half(&settings), settings)).collect();
    let runs = halves.iter().map(|(name, (optimizer, now), settings)| {
        let mut weights: Vec<Vec<f32>> = vec![Vec::new(); began.0.len()];
        follow(&mut *built(settings, &began), &mut began.clone(), 0, |_, now| {
            weights.iter_mut().zip(&now.0).for_each(|(all, p)| all.extend(&p.values));
        });
        let object = Object::dict([
            ("settings", Object::Plain(from_json(settings.clone()))),
            ("weights", named(&began, |at| weights[at].clone(), Some(STEPS))),
            ("state", optimizer.state(now, schedule().factor(HALF))),
        ]);
        (*name, object)
    });
    let flat = |at: usize| gradients.iter().flat_map(|step| step[at].iter().copied()).collect();
    let object = Object::dict([
        ("start", named(&began, |at| began.0[at].values.clone(), None)),
        ("gradients", named(&began, flat, Some(STEPS))),
        ("factors", Object::Plain(Value::List(factors))),
        ("half", Object::Plain(Value::I64(HALF as i64))),
        ("seed", Object::Plain(Value::I64(SEED as i64))),
        ("runs", Object::dict(runs)),
    ]);
    save(&object, path, true).unwrap();
}

fn close(name: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= SAME, "{name}[{i}]: {got} {want}");
    }
}

fn tensor(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.tensor(name).unwrap();
    checkpoint.values(tensor).unwrap().to_vec()
}

#[test]
fn what_python_compares_with_is_what_optimizers_do() {
    let committed = data("train", "steps.pt");
    if std::env::var_os("CKPT_UPDATE_STEPS").is_some() {
        everything(&committed);
    }
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("steps.pt");
    everything(&made);
    let (made, committed) = (open(&made).unwrap(), open(&committed).unwrap());
    let names = |checkpoint: &Checkpoint| -> Vec<String> {
        checkpoint.tensors.iter().map(|t| t.name.clone()).collect()
    };
    assert_eq!(names(&made), names(&committed));
    for name in names(&made) {
        close(&name, &tensor(&made, &name), &tensor(&committed, &name));
    }
    for plain in ["factors", "half", "seed"] {
        assert_eq!(made.meta(plain), committed.meta(plain), "{plain}");
    }
    for (run, settings) in runs() {
        assert_eq!(made.meta(&format!("runs.{run}.settings")), Some(&from_json(settings)));
        for part in ["state", "state.muon", "state.adamw"] {
            let groups = format!("runs.{run}.{part}.param_groups");
            assert_eq!(made.meta(&groups), committed.meta(&groups), "{groups}");
        }
    }
}

#[test]
fn every_optimizer_has_a_run() {
    let names: Vec<String> =
        runs().iter().map(|(_, settings)| settings["name"].as_str().unwrap().into()).collect();
    for name in NAMES {
        assert!(names.iter().any(|other| other == name), "{name} is not compared with Python's");
    }
}

/// Random signs are drawn only for weights, and momenta, of exactly zero: without them the file would not show that
/// Python draws the same.
#[test]
fn random_signs_are_part_of_what_is_compared() {
    let steps = open(data("train", "steps.pt")).unwrap();
    let at = |run: &str, name: &str| tensor(&steps, &format!("runs.{run}.weights.{name}"));
    let first = &at("one-sided", "layers.0.mlp.gate_proj.weight")[..60];
    let drawn: Vec<f32> = (0..60).filter(|i| i % 9 == 4 && i % 7 == 3).map(|i| first[i]).collect();
    assert!(!drawn.is_empty() && drawn.iter().all(|w| *w != 0.0), "{drawn:?}");
    // A row of the embedding that is never used moves by what it is tunnelled.
    let rows = at("spin", "embed_tokens.weight");
    let moved: Vec<f32> = (0..6).map(|i| rows[54 * 7 + i] - rows[i]).collect();
    assert!(moved.iter().any(|d| *d > 0.0) && moved.iter().any(|d| *d < 0.0), "{moved:?}");
}

#[test]
fn a_state_that_python_saved_goes_on_as_if_it_were_ours() {
    let (ours, theirs) =
        (open(data("train", "steps.pt")).unwrap(), open(data("train", "steps-torch.pt")).unwrap());
    for (run, settings) in runs() {
        let began = start();
        let mut parameters = began.clone();
        for p in &mut parameters.0 {
            p.values = tensor(&theirs, &format!("runs.{run}.model.{}", p.name));
        }
        // Targets are those of the start, as they were saved.
        let mut optimizer = built(&settings, &parameters);
        let notes = optimizer.load(&theirs, &format!("runs.{run}.state"), &parameters).unwrap();
        assert_eq!(notes, Vec::<String>::new(), "{run}");
        follow(&mut *optimizer, &mut parameters, HALF, |step, now| {
            for p in &now.0 {
                let all = tensor(&ours, &format!("runs.{run}.weights.{}", p.name));
                let n = p.values.len();
                let want = &all[(step as usize - 1) * n..step as usize * n];
                close(&format!("{run} step {step} {}", p.name), &p.values, want);
            }
        });
    }
}

/// What wraps a model in PyTorch is part of the names that its optimizer saves.
#[test]
fn names_of_a_compiled_model_are_those_of_the_model() {
    let parameters = start();
    let adamw = json!({ "name": "adamw", "lr": 1e-2, "weight_decay": 0.1 });
    let (mut first, mut second) = (built(&adamw, &parameters), built(&adamw, &parameters));
    let (mut one, folder) = (parameters.clone(), tempfile::tempdir().unwrap());
    follow(&mut *first, &mut one, STEPS - 1, |_, _| ());
    let mut state = first.state(&one, 1.0);
    let Object::Dict(entries) = &mut state else { panic!("no dict") };
    let Object::Plain(Value::List(groups)) = &mut entries[1].1 else { panic!("no groups") };
    for group in groups {
        let Value::Dict(options) = group else { panic!("no group") };
        let names = options.get_mut(&HashableValue::String("param_names".into()));
        let Some(Value::List(names)) = names else { panic!("no names") };
        for name in names {
            let Value::String(text) = name else { panic!("no name") };
            *text = format!("_orig_mod.{text}");
        }
    }
    let path = folder.path().join("state.pt");
    save(&Object::dict([("optimizer_state_dict", state)]), &path, true).unwrap();
    second.load(&open(&path).unwrap(), "optimizer_state_dict", &one).unwrap();
    let mut two = one.clone();
    let gradients = gradients(&one, 0);
    first.step(&mut one, &gradients, 1.0, 0);
    second.step(&mut two, &gradients, 1.0, 0);
    assert_eq!(one, two);
}
