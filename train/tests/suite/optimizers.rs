//! Every optimizer against PyTorch's in float64 (`data/optimizers.py`), and the promises of the polarizer.

use ckpt_convert::{Object, save};
use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_train::optim::{
    Form, NAMES, Optimizer, Polarizer, Settings, Target, Well, adamw, half_life, muon, orthogonalize, sgd,
    spin,
};
use ckpt_train::{Gradients, Parameter, Parameters, Role, Schedule, clip, global_norm};

fn wave(seed: usize, n: usize) -> impl Iterator<Item = f32> {
    let seed = seed as f64;
    (0..n).map(move |i| {
        let i = i as f64;
        ((0.37 * i + 1.7 * seed).sin() * (0.3 + 0.1 * (2.1 * i * seed).cos())) as f32
    })
}

fn start() -> Parameters {
    let one = |(k, shape): (usize, &[usize])| {
        let role = if shape.len() == 2 { Role::Mlp } else { Role::Norm };
        let values = wave(k + 1, shape.iter().product()).map(|w| w * 0.1).collect();
        let mut parameter = Parameter::new(format!("p{k}"), shape.to_vec(), role, values);
        parameter.ternary = shape.len() == 2;
        parameter
    };
    let shapes: [&[usize]; 3] = [&[6, 10], &[9, 4], &[7]];
    Parameters(shapes.into_iter().enumerate().map(one).collect())
}

fn gradients(parameters: &Parameters, step: usize) -> Gradients {
    let each = |(k, p): (usize, &Parameter)| wave(10 * (k + 1) + step, p.values.len()).collect();
    parameters.0.iter().enumerate().map(each).collect()
}

fn follow(run: &str, settings: Settings, schedule: &Schedule, max_norm: Option<f64>) {
    let path = ckpt_kit::fixtures::data("train", "optimizers.json");
    let truth: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut parameters = start();
    let mut optimizer = settings.build(&parameters, 3).unwrap();
    for step in 0..12 {
        let mut gradients = gradients(&parameters, step);
        if let Some(max_norm) = max_norm {
            let norm = global_norm(&gradients);
            let want = truth[run]["norms"][step].as_f64().unwrap();
            assert!((norm / want - 1.0).abs() < 1e-6, "{run} step {step}: norm {norm} {want}");
            clip(&mut gradients, norm, max_norm);
        }
        optimizer.step(&mut parameters, &gradients, schedule.factor(step as u64), step as u64);
    }
    for (k, parameter) in parameters.0.iter().enumerate() {
        for (i, &w) in parameter.values.iter().enumerate() {
            let want = truth[run]["weights"][k][i].as_f64().unwrap();
            assert!((f64::from(w) - want).abs() < 2e-5, "{run}: p{k}[{i}] {w} {want}");
        }
    }
}

fn named(name: &str) -> Settings {
    name.parse().unwrap()
}

#[test]
fn they_agree_with_pytorch() {
    let constant = Schedule::default();
    let adamw = adamw::Settings::default().with(|s| {
        s.lr = Some(1e-2);
        s.weight_decay = 0.1;
        s.ternary_weight_decay = 0.1;
    });
    let adamw = Settings::from(adamw);
    let cosine = Schedule::cosine(4, 12);
    follow("adamw-cosine-clip", adamw.clone(), &cosine, Some(1.0));
    follow("adamw", adamw, &constant, None);
    let sgd = sgd::Settings::default().with(|s| {
        s.lr = Some(1e-2);
        s.momentum = Some(0.9);
    });
    follow("sgd", sgd.into(), &constant, None);
    let muon = muon::Settings::default().with(|s| {
        s.weight_decay = 0.1;
        s.ternary_weight_decay = 0.2;
    });
    follow("muon", muon.clone().into(), &constant, None);
    follow("muon-adamw", muon::Cubic(muon).into(), &constant, None);
    follow("spin", named("spin"), &constant, None);
}

#[test]
fn orthogonalized_matrices_are_finite_and_zero_stays_zero() {
    for (rows, cols) in [(5, 9), (9, 5), (300, 40)] {
        let matrix: Vec<f32> = wave(3, rows * cols).collect();
        for form in [Form::Cubic, Form::Quintic] {
            let mut tall = matrix.clone();
            orthogonalize(&mut tall, rows, cols, form);
            assert!(tall.iter().all(|x| x.is_finite()));
            let mut zero = vec![0.0; rows * cols];
            orthogonalize(&mut zero, rows, cols, form);
            assert!(zero.iter().all(|&x| x == 0.0));
        }
    }
}

/// One step of `well` alone: SGD with a learning rate of 0 under it.
fn push(well: Well, target: impl Into<Option<Target>>, strength: Option<f64>, weights: &[f32]) -> Vec<f32> {
    let (mut parameters, target) = (start(), target.into());
    parameters.0[0].values[..weights.len()].copy_from_slice(weights);
    let sgd = sgd::Settings::default().with(|s| s.lr = Some(0.0));
    let settings = Settings::from(sgd).with(|s| {
        s.polarizer =
            Some(Polarizer::default().with(|p| (p.well, p.target, p.strength) = (well, target, strength)))
    });
    let mut optimizer = settings.build(&parameters, 5).unwrap();
    let gradients = parameters.zeros();
    let vector = parameters.0[2].values.clone();
    optimizer.step(&mut parameters, &gradients, 1.0, 0);
    assert_eq!(parameters.0[2].values, vector, "norms are left alone");
    parameters.0[0].values[..weights.len()].to_vec()
}

#[test]
fn wells_push_weights_off_zero() {
    let weights = [0.0, 0.004, -0.004, 0.008, 0.02, -0.02];
    let close = |got: Vec<f32>, want: [f32; 6]| {
        for (got, want) in got.iter().zip(want) {
            assert!((got.abs() - want.abs()).abs() < 1e-7, "{got} {want}");
            assert!(want == 0.0 || weights.contains(got) || got.signum() == want.signum() || want == 0.001);
        }
    };
    let absolute = Target::Absolute(0.01);
    close(
        push(Well::OneSided, absolute, Some(0.05), &weights),
        [0.001, 0.0046, -0.0046, 0.0082, 0.02, -0.02],
    );
    close(push(Well::OneSided, absolute, Some(0.5), &weights), [0.01, 0.01, -0.01, 0.01, 0.02, -0.02]);
    close(
        push(Well::TwoSided, absolute, Some(0.05), &weights),
        [0.001, 0.0046, -0.0046, 0.0082, 0.019, -0.019],
    );
    // The original trainer's two, with its target and strength as defaults.
    close(push(Well::Constant, None, None, &weights), [0.0, 0.014, -0.014, 0.008, 0.02, -0.02]);
    close(push(Well::Piecewise, None, None, &weights), [0.2, 0.204, -0.204, 0.0082, 0.02, -0.02]);
}

#[test]
fn a_relative_target_is_a_share_of_the_layers_mean() {
    let parameters = start();
    let mean = parameters.0[0].values.iter().map(|w| w.abs()).sum::<f32>() / 60.0;
    let pushed = push(Well::OneSided, Target::Relative(0.5), Some(0.5), &[1e-5]);
    // The first weight was replaced, which moves the mean a little.
    assert!((pushed[0] - 0.5 * mean).abs() < 0.02 * mean, "{} {mean}", pushed[0]);
}

fn entry<'o, 'a>(object: &'o mut Object<'a>, name: &str) -> Option<&'o mut Object<'a>> {
    let Object::Dict(entries) = object else { return None };
    let key = HashableValue::String(name.into());
    entries.iter_mut().find(|(k, _)| *k == key).map(|(_, value)| value)
}

/// Saves the state of `optimizer` after `change`, and loads it into `other`; returns the result.
fn handed_over(
    optimizer: &dyn Optimizer,
    change: impl Fn(&mut Object),
    other: &mut dyn Optimizer,
    parameters: &Parameters,
) -> Result<Vec<String>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.pt");
    let mut state = optimizer.state(parameters, 1.0);
    change(&mut state);
    save(&Object::dict([("optimizer_state_dict", state)]), &path, true).unwrap();
    let checkpoint = ckpt_inspect::open(&path).unwrap();
    other.load(&checkpoint, "optimizer_state_dict", parameters).map_err(|e| e.to_string())
}

fn targets(optimizer: &dyn Optimizer, parameters: &Parameters) -> Vec<f64> {
    let mut state = optimizer.state(parameters, 1.0);
    let Some(Object::Plain(polarizer)) = entry(&mut state, "polarizer") else { panic!("no polarizer") };
    let Some(Value::Dict(all)) = ckpt_inspect::lookup(polarizer, "targets") else { panic!("no targets") };
    all.values().map(|v| ckpt_inspect::metadata::as_f64(v).unwrap()).collect()
}

/// Targets from the start are kept if the same kind is configured, and only then.
#[test]
fn targets_are_taken_over_where_they_are_the_same() {
    let began = start();
    let mut now = start();
    now.0.iter_mut().for_each(|p| p.values.iter_mut().for_each(|w| *w *= 3.0));
    let with = |target: Option<Target>, parameters: &Parameters| {
        let polarizer = Polarizer::default().with(|p| p.target = target);
        named("adamw").with(|s| s.polarizer = Some(polarizer)).build(parameters, 0).unwrap()
    };
    let (absolute, relative) = (|size| Some(Target::Absolute(size)), |share| Some(Target::Relative(share)));
    let as_it_is = |_: &mut Object| {};
    // Older checkpoints do not record how their targets were chosen.
    let as_before = |state: &mut Object| {
        let Some(Object::Plain(Value::Dict(all))) = entry(state, "polarizer") else { panic!("no polarizer") };
        all.retain(|key, _| *key == HashableValue::String("targets".into()));
    };
    let resumed = |from, to, before: bool| {
        let mut other = with(to, &now);
        let first = with(from, &began);
        let notes = match before {
            true => handed_over(&*first, as_before, &mut *other, &began),
            false => handed_over(&*first, as_it_is, &mut *other, &began),
        };
        (targets(&*other, &now), notes.unwrap())
    };
    let fresh = |target, parameters: &Parameters| targets(&*with(target, parameters), parameters);
    assert_eq!(resumed(None, None, false), (fresh(None, &began), vec![]));
    assert_eq!(resumed(None, relative(0.25), false), (fresh(None, &began), vec![]));
    assert_ne!(fresh(None, &began), fresh(None, &now));
    for (from, to) in [
        (relative(0.25), relative(0.9)),
        (absolute(0.5), relative(0.25)),
        (relative(0.25), absolute(0.01)),
        (absolute(0.5), absolute(0.01)),
    ] {
        let (got, notes) = resumed(from, to, false);
        assert_eq!(got, fresh(to, &now), "{from:?} {to:?}");
        assert!(notes.len() == 1 && notes[0].contains("but this run continues with"), "{notes:?}");
    }
    let (got, notes) = resumed(relative(0.25), relative(0.9), true);
    assert_eq!(got, fresh(relative(0.25), &began), "the start's");
    assert!(notes[0].contains("does not record"), "{notes:?}");
    let (got, notes) = resumed(absolute(0.5), relative(0.25), true);
    assert_eq!(got, fresh(relative(0.25), &now));
    assert!(notes[0].contains("one target for all layers"), "{notes:?}");
    assert_eq!(resumed(relative(0.25), absolute(0.01), true), (fresh(absolute(0.01), &now), vec![]));
}

/// PyTorch before 1.12 keeps AdamW's step as a plain number.
#[test]
fn a_step_may_be_a_plain_number() {
    let mut parameters = start();
    let build = |parameters: &Parameters| named("adamw").build(parameters, 0).unwrap();
    let (mut first, mut second) = (build(&parameters), build(&parameters));
    for step in 0..3 {
        let gradients = gradients(&parameters, step);
        first.step(&mut parameters, &gradients, 1.0, step as u64);
    }
    let plain = |state: &mut Object| {
        for i in 0..3 {
            let Some(Object::Dict(members)) = entry(state, "state") else { panic!("no state") };
            *entry(&mut members[i].1, "step").unwrap() = Object::Plain(Value::I64(3));
        }
    };
    handed_over(&*first, plain, &mut *second, &parameters).unwrap();
    let mut other = parameters.clone();
    let gradients = gradients(&parameters, 3);
    first.step(&mut parameters, &gradients, 1.0, 3);
    second.step(&mut other, &gradients, 1.0, 3);
    assert!(parameters.0.iter().zip(&other.0).all(|(a, b)| a.values == b.values));
    let none = |state: &mut Object| {
        let Some(Object::Dict(members)) = entry(state, "state") else { panic!("no state") };
        members.iter_mut().for_each(|m| *entry(&mut m.1, "step").unwrap() = Object::Plain(Value::None));
    };
    let error = handed_over(&*first, none, &mut *second, &parameters).unwrap_err();
    assert!(error.contains("has no step"), "{error}");
}

/// PyTorch's SGD without momentum keeps no buffers, or `None`.
#[test]
fn no_momentum_needs_no_buffer() {
    let parameters = start();
    let build = |momentum| {
        let settings = sgd::Settings::default().with(|s| s.momentum = Some(momentum));
        Settings::from(settings).build(&parameters, 0).unwrap()
    };
    let nothing = |state: &mut Object| *entry(state, "state").unwrap() = Object::Dict(Vec::new());
    let none = |state: &mut Object| {
        let Some(Object::Dict(members)) = entry(state, "state") else { panic!("no state") };
        members
            .iter_mut()
            .for_each(|m| m.1 = Object::dict([("momentum_buffer", Object::Plain(Value::None))]));
    };
    let sgd = build(0.0);
    handed_over(&*sgd, nothing, &mut *build(0.0), &parameters).unwrap();
    handed_over(&*sgd, none, &mut *build(0.0), &parameters).unwrap();
    let needed = handed_over(&*sgd, nothing, &mut *build(0.9), &parameters).unwrap_err();
    assert!(needed.contains("momentum_buffer"), "{needed}");
    let adamw = named("adamw").build(&parameters, 0).unwrap();
    let foreign = handed_over(&*adamw, |_| {}, &mut *build(0.0), &parameters).unwrap_err();
    assert!(foreign.contains("`reset_optimizer`"), "{foreign}");
}

#[test]
fn settings_that_would_not_train_are_refused() {
    let parameters = start();
    let refused = |settings: Settings| settings.build(&parameters, 0).err().unwrap().to_string();
    assert!("adam".parse::<Settings>().unwrap_err().to_string().contains("adamw"));
    let adamw = |lr, betas| adamw::Settings::default().with(|s| (s.lr, s.betas) = (Some(lr), betas)).into();
    assert!(refused(adamw(f64::NAN, (0.9, 0.95))).contains("lr"));
    assert!(refused(adamw(1e-3, (1.0, 0.9))).contains("betas"));
    let muon = muon::Settings::default().with(|s| s.adamw_lr = -1.0);
    assert!(refused(muon.clone().into()).contains("adamw_lr"));
    assert!(refused(muon::Cubic(muon).into()).contains("adamw_lr"));
    let polarizer = Some(Polarizer::default().with(|p| p.strength = Some(0.6)));
    assert!(refused(named("adamw").with(|s| s.polarizer = polarizer)).contains("0.6"));
}

/// A table as every version so far wrote it, with the keys of all optimizers, is read for any optimizer; what is
/// written has only the optimizer's own keys, all of them, and reads as the same settings.
#[test]
fn settings_of_any_version_are_read() {
    let before = "name = \"NAME\"\nlr = 0.5\nadamw_lr = 0.25\nweight_decay = 0.125\nternary_weight_decay = 0.0625\nbetas = [0.5, 0.75]\neps = 0.5\nmomentum = 0.25\nhysteresis_threshold = 0.75\ntunnel_strength = 4.0\n\n[polarizer]\nwell = \"two-sided\"\nstrength = 0.25\n\n[polarizer.target]\nrelative = 0.5\n";
    let polarizer = Polarizer::default().with(|p| {
        (p.well, p.target, p.strength) = (Well::TwoSided, Some(Target::Relative(0.5)), Some(0.25));
    });
    for name in NAMES {
        for front in ["", "polarized-"] {
            let name = format!("{front}{name}");
            let read: Settings = toml::from_str(&before.replace("NAME", &name)).unwrap();
            assert_eq!(read.name(), name);
            assert_eq!(read.polarizer, (!front.is_empty()).then(|| polarizer.clone()));
            assert_eq!((read.rates()[0].lr, read.weight_decay()), (0.5, (0.125, 0.0625)));
            for (settings, is_whole) in [(read, true), (named(&name), false)] {
                let written = toml::to_string(&settings).unwrap();
                let again: Settings = toml::from_str(&written).unwrap();
                // What was not given is written too.
                assert_eq!(toml::to_string(&again).unwrap(), written);
                assert_eq!(again.rates(), settings.rates());
                assert!(!is_whole || again == settings, "{written}");
                let own = serde_json::to_string(&settings).unwrap();
                assert_eq!(serde_json::from_str::<Settings>(&own).unwrap(), again, "{own}");
            }
        }
    }
    let read = |text: &str| toml::from_str::<Settings>(text);
    assert_eq!(read("").unwrap(), Settings::default());
    assert_eq!(read("name = \"spin\"\neps = 0.5").unwrap(), named("spin"));
    let spin = spin::Settings::default().with(|s| {
        s.tunnel_strength = 4.0;
        s.momentum = Some(0.25);
    });
    assert_eq!(read("name = \"spin\"\ntunnel_strength = 4\nmomentum = 0.25").unwrap(), spin.into());
    for (wrong, word) in [
        ("name = \"adam\"", "muon-adamw"),
        ("name = 3", "integer"),
        ("lrr = 3", "`lrr`"),
        ("lr = \"fast\"", "lr"),
        ("[polarizer]\nwel = \"two-sided\"", "wel"),
        ("name = \"sgd\"\n[polarizer]\nwell = \"deep\"", "deep"),
    ] {
        let error = read(wrong).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn decay_of_ternary_weights_is_known() {
    let parameters = start();
    let decay = |settings: Settings| settings.build(&parameters, 0).unwrap().ternary_decay(&parameters);
    let adamw = adamw::Settings::default().with(|s| s.weight_decay = 0.1);
    assert_eq!(decay(Settings::from(adamw).with(|s| s.polarizer = Some(Polarizer::default()))), []);
    let seed = muon::Settings::default().with(|s| s.ternary_weight_decay = 0.1);
    assert_eq!(decay(muon::Cubic(seed).into()), [(0.02, 0.1)]);
    // The recorded run of docs/causes.md: 8 micro-batches a step, a half-life of 2 780 of them.
    assert!((half_life(0.02, 0.1) * 8.0 - 2772.6).abs() < 0.1);
}
