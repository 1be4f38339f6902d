//! First-step loss and gradients: composite and fused against PyTorch, and fused against composite where PyTorch's run
//! does not reach (other estimators, scales per row, untied head, no caps, odd shapes, ignored targets).

use crate::truth;

use ckpt_inspect::ModelConfig;
use ckpt_inspect::meaning::Sizes;
use ckpt_inspect::meaning::architecture::STUDENT;
use ckpt_train::{
    Batch, Composite, Device, Error, Estimator, Gradients, IGNORE, Loss, Network, Parameters, Random,
};
use truth::{relative, series, slices, truth};

fn fused(
    config: &ModelConfig,
    parameters: &Parameters,
    estimator: Estimator,
    batches: &[Batch],
    loss: &Loss,
) -> (f64, Gradients) {
    let mut network = Network::new(config, parameters, estimator).unwrap();
    let mut gradients = parameters.zeros();
    network.refresh(parameters);
    let weight = 1.0 / batches.len() as f32;
    let losses: Vec<f64> = batches
        .iter()
        .map(|b| network.accumulate(parameters, b, loss, weight, &mut gradients).unwrap())
        .collect();
    network.finish(parameters, &mut gradients);
    (losses.iter().sum::<f64>() / losses.len() as f64, gradients)
}

#[test]
fn composite_agrees_with_pytorch() {
    let truth = truth();
    let model = Composite::new(&truth.config, &truth.init, Estimator::ThroughScales, &Device::Cpu).unwrap();
    let (loss, gradients) = model.loss_and_gradients(&truth.batches[0], &Loss::default()).unwrap();
    assert!((loss - series("adamw", "losses")[0]).abs() < 1e-5, "{loss}");
    let (distance, name) = truth.worst("grad0", &slices(&gradients));
    assert!(distance < 1e-4, "{name}: {distance}");
}

#[test]
fn fused_agrees_with_pytorch() {
    let truth = truth();
    let (loss, gradients) =
        fused(&truth.config, &truth.init, Estimator::ThroughScales, &truth.batches[..1], &Loss::default());
    assert!((loss - series("adamw", "losses")[0]).abs() < 1e-5, "{loss}");
    let (distance, name) = truth.worst("grad0", &slices(&gradients));
    assert!(distance < 1e-4, "{name}: {distance}");
}

/// A model with odd sizes, and a batch for it.
fn odd(change: impl FnOnce(&mut ModelConfig)) -> (ModelConfig, Parameters, Vec<Batch>) {
    let sizes = Sizes {
        vocab_size: 61,
        hidden_dim: 40,
        num_layers: 2,
        num_heads: 6,
        num_kv_heads: 2,
        head_dim: 10,
        mlp_hidden_dim: 52,
        max_seq_len: 128,
    };
    let mut config = ModelConfig::new(&STUDENT, sizes);
    change(&mut config);
    let mut parameters = Parameters::init(&config, 7).unwrap();
    let mut random = Random::new(&[11]);
    for parameter in &mut parameters.0 {
        parameter.values.iter_mut().for_each(|w| *w += 0.05 * random.normal());
    }
    let mut batch = |rows: usize, len: usize| {
        let sequences: Vec<Vec<u32>> =
            (0..rows).map(|_| (0..=len).map(|_| random.below(61) as u32).collect()).collect();
        let mut batch = Batch::next_token(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        batch.targets.iter_mut().step_by(5).for_each(|t| *t = IGNORE);
        batch
    };
    let batches = vec![batch(3, 67), batch(1, 130)];
    (config, parameters, batches)
}

fn compare(what: &str, estimator: Estimator, loss: &Loss, change: impl FnOnce(&mut ModelConfig)) {
    let (config, parameters, batches) = odd(change);
    let composite = Composite::new(&config, &parameters, estimator, &Device::Cpu).unwrap();
    for batch in &batches {
        let (want_loss, want) = composite.loss_and_gradients(batch, loss).unwrap();
        let (got_loss, got) = fused(&config, &parameters, estimator, std::slice::from_ref(batch), loss);
        assert!((got_loss - want_loss).abs() < 2e-5, "{what}: {got_loss} {want_loss}");
        for ((got, want), parameter) in got.iter().zip(&want).zip(&parameters.0) {
            let distance = relative(got.iter().copied(), want);
            // A level that rounds the other way in one of them moves a gradient by some 1e-3.
            assert!(distance < 5e-3, "{what}: {}: {distance}", parameter.name);
        }
    }
}

#[test]
fn fused_agrees_with_composite() {
    let plain = Loss::default();
    let (through, detached) = (Estimator::ThroughScales, Estimator::Detached);
    compare("through scales", through, &plain, |_| ());
    compare("detached", detached, &plain, |_| ());
    compare("scales per row", through, &plain, |c| c.bitlinear_per_channel = true);
    compare("scales per row, detached", detached, &plain, |c| c.bitlinear_per_channel = true);
    compare("label smoothing", through, &Loss::default().with(|l| l.label_smoothing = 0.1), |_| ());
    let focal = Loss::default().with(|l| {
        l.focal = 1.5;
        l.label_smoothing = 0.1;
    });
    compare("focal weighting", through, &focal, |_| ());
    compare("untied, no norm of Q and K", through, &plain, |c| {
        c.tie_word_embeddings = false;
        c.use_qk_norm = false;
    });
    compare("no caps, floating-point MLP", through, &plain, |c| {
        (c.attn_logit_soft_cap, c.final_logit_soft_cap) = (None, None);
        c.use_bitlinear_ffn = false;
    });
    compare("no BitLinear", through, &plain, |c| {
        (c.use_bitlinear_ffn, c.use_bitlinear_attn) = (false, false);
    });
}

#[test]
fn batches_accumulate_to_their_mean() {
    let (config, parameters, batches) = odd(|_| ());
    let loss = Loss::default();
    let (both, got) = fused(&config, &parameters, Estimator::default(), &batches, &loss);
    let each: Vec<_> =
        batches.chunks(1).map(|b| fused(&config, &parameters, Estimator::default(), b, &loss)).collect();
    assert!((both - (each[0].0 + each[1].0) / 2.0).abs() < 1e-9);
    for ((got, a), b) in got.iter().zip(&each[0].1).zip(&each[1].1) {
        let want: Vec<f32> = a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect();
        assert!(relative(got.iter().copied(), &want) < 1e-4);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (config, parameters, batches) = odd(|_| ());
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fused(&config, &parameters, Estimator::default(), &batches, &Loss::default()))
    };
    let bits = |(loss, gradients): (f64, Gradients)| {
        (loss.to_bits(), gradients.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    assert_eq!(bits(on(1)), bits(on(3)));
}

#[test]
fn bad_batches_are_refused() {
    let (config, parameters, batches) = odd(|_| ());
    let mut network = Network::new(&config, &parameters, Estimator::default()).unwrap();
    let mut batch = batches[0].clone();
    batch.ids[3] = 61;
    let error = network.loss(&parameters, &batch, &Loss::default()).unwrap_err().to_string();
    assert!(error.contains("61"), "{error}");
    batch.ids[3] = 0;
    batch.targets[0] = -7;
    assert!(network.loss(&parameters, &batch, &Loss::default()).is_err());
    assert!(Batch::next_token(&[&[1, 2], &[1, 2, 3]]).is_err());
    assert!(Batch::next_token(&[]).is_err());
}

#[test]
fn parameters_of_another_configuration_are_refused() {
    let (_, parameters, _) = odd(|_| ());
    let mut short = parameters.clone();
    short.0[2].values.pop();
    type Change = fn(&mut ModelConfig);
    let changes: [(&str, Change); 4] = [
        ("layers.2", |c| c.num_layers = 3),
        ("shape [60, 40]", |c| c.num_heads = 4),
        ("lm_head", |c| c.tie_word_embeddings = false),
        ("shape [61, 40]", |c| c.vocab_size = 60),
    ];
    let refused = |config: &ModelConfig, parameters: &Parameters, says: &str| {
        let network = Network::new(config, parameters, Estimator::default()).err();
        let composite = Composite::new(config, parameters, Estimator::default(), &Device::Cpu).err();
        for error in [network, composite] {
            let error = error.expect("it is refused");
            assert!(matches!(error, Error::Settings(_)) && error.to_string().contains(says), "{error}");
        }
    };
    for (says, change) in changes {
        refused(&odd(change).0, &parameters, says);
    }
    refused(&odd(|_| ()).0, &short, &parameters.0[2].name);
}
