//! Every optimizer against PyTorch's in float64 (`data/optimizers.py`), and what the polarizer promises.

use ckpt_train::optim::{Form, Polarizer, Settings, Target, Well, half_life, orthogonalize};
use ckpt_train::{Gradients, Parameter, Parameters, Role, Schedule, clip, global_norm};

fn wave(seed: usize, n: usize) -> impl Iterator<Item = f32> {
    let seed = seed as f64;
    (0..n).map(move |i| {
        let i = i as f64;
        ((0.37 * i + 1.7 * seed).sin() * (0.3 + 0.1 * (2.1 * i * seed).cos())) as f32
    })
}

fn start() -> Parameters {
    let one = |(k, shape): (usize, &[usize])| Parameter {
        name: format!("p{k}"),
        shape: shape.to_vec(),
        role: if shape.len() == 2 { Role::Mlp } else { Role::Norm },
        ternary: shape.len() == 2,
        values: wave(k + 1, shape.iter().product()).map(|w| w * 0.1).collect(),
    };
    let shapes: [&[usize]; 3] = [&[6, 10], &[9, 4], &[7]];
    Parameters(shapes.into_iter().enumerate().map(one).collect())
}

fn gradients(parameters: &Parameters, step: usize) -> Gradients {
    let each = |(k, p): (usize, &Parameter)| wave(10 * (k + 1) + step, p.values.len()).collect();
    parameters.0.iter().enumerate().map(each).collect()
}

fn follow(run: &str, settings: Settings, schedule: &Schedule, max_norm: Option<f64>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/optimizers.json");
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
    Settings { name: name.into(), ..Settings::default() }
}

#[test]
fn they_agree_with_pytorch() {
    let constant = Schedule::default();
    let adamw = Settings { lr: Some(1e-2), weight_decay: 0.1, ternary_weight_decay: 0.1, ..named("adamw") };
    let cosine = Schedule { warmup: 4, cosine_steps: Some(12), min_factor: 0.1 };
    follow("adamw-cosine-clip", adamw.clone(), &cosine, Some(1.0));
    follow("adamw", adamw, &constant, None);
    follow("sgd", Settings { lr: Some(1e-2), momentum: Some(0.9), ..named("sgd") }, &constant, None);
    let muon = |name| Settings { weight_decay: 0.1, ternary_weight_decay: 0.2, ..named(name) };
    follow("muon", muon("muon"), &constant, None);
    follow("muon-adamw", muon("muon-adamw"), &constant, None);
    follow("spin", named("spin"), &constant, None);
}

#[test]
fn orthogonalization() {
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
fn push(well: Well, target: Target, strength: Option<f64>, weights: &[f32]) -> Vec<f32> {
    let mut parameters = start();
    parameters.0[0].values[..weights.len()].copy_from_slice(weights);
    let settings =
        Settings { lr: Some(0.0), polarizer: Polarizer { well, target, strength }, ..named("polarized-sgd") };
    let mut optimizer = settings.build(&parameters, 5).unwrap();
    let gradients = parameters.zeros();
    let vector = parameters.0[2].values.clone();
    optimizer.step(&mut parameters, &gradients, 1.0, 0);
    assert_eq!(parameters.0[2].values, vector, "norms are left alone");
    parameters.0[0].values[..weights.len()].to_vec()
}

#[test]
fn wells() {
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
    close(push(Well::SeedStep, absolute, None, &weights), [0.0, 0.014, -0.014, 0.008, 0.02, -0.02]);
    close(push(Well::SeedOptimizer, absolute, None, &weights), [0.2, 0.204, -0.204, 0.0082, 0.02, -0.02]);
}

#[test]
fn a_relative_target_is_a_share_of_the_layers_mean() {
    let parameters = start();
    let mean = parameters.0[0].values.iter().map(|w| w.abs()).sum::<f32>() / 60.0;
    let pushed = push(Well::OneSided, Target::Relative(0.5), Some(0.5), &[1e-5]);
    // The first weight was replaced, which moves the mean a little.
    assert!((pushed[0] - 0.5 * mean).abs() < 0.02 * mean, "{} {mean}", pushed[0]);
}

#[test]
fn settings_that_would_not_train_are_refused() {
    let parameters = start();
    let refused = |settings: Settings| settings.build(&parameters, 0).err().unwrap().to_string();
    assert!(refused(named("adam")).contains("adamw"));
    assert!(refused(Settings { lr: Some(f64::NAN), ..named("adamw") }).contains("lr"));
    assert!(refused(Settings { betas: (1.0, 0.9), ..named("adamw") }).contains("betas"));
    let polarizer = Polarizer { strength: Some(0.6), ..Polarizer::default() };
    assert!(refused(Settings { polarizer, ..named("polarized-adamw") }).contains("0.6"));
}

#[test]
fn decay_of_ternary_weights_is_known() {
    let parameters = start();
    let decay = |settings: Settings| settings.build(&parameters, 0).unwrap().ternary_decay(&parameters);
    assert_eq!(decay(Settings { weight_decay: 0.1, ..named("polarized-adamw") }), []);
    let seed = Settings { ternary_weight_decay: 0.1, ..named("muon-adamw") };
    assert_eq!(decay(seed), [(0.02, 0.1)]);
    // The run of DESIGN's table: 8 micro-batches a step, half-life 2 780 of them.
    assert!((half_life(0.02, 0.1) * 8.0 - 2772.6).abs() < 0.1);
}
