//! Tokens per second of a training step (forward, backward, clipping, AdamW) and memory of its buffers, for the model of
//! 256 hidden, 4 layers, 4/2 heads, MLP 512, vocabulary 1024 on 16 x 128 tokens; with the argument `125m`, of that preset
//! on 2 x 256. `--threads N` chooses the number of threads.

use std::time::Instant;

use ckpt_inspect::StudentConfig;
use ckpt_train::optim::Settings;
use ckpt_train::{Batch, Estimator, Loss, Network, Parameters, Random, clip, global_norm, preset};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let large = arguments.iter().any(|a| a == "125m");
    let after = |flag: &str| arguments.iter().skip_while(|a| *a != flag).nth(1)?.parse().ok();
    let (threads, preset) = (after("--threads").unwrap_or(0), preset("125m").expect("a preset"));
    let (config, rows, len, steps) = match large {
        true => (preset, 2, 256, 5),
        false => (
            StudentConfig {
                vocab_size: 1024,
                hidden_dim: 256,
                num_layers: 4,
                num_heads: 4,
                num_kv_heads: 2,
                mlp_hidden_dim: 512,
                ..preset
            },
            16,
            128,
            30,
        ),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
    pool.install(|| measure(&config, rows, len, steps));
}

fn measure(config: &StudentConfig, rows: usize, len: usize, steps: u64) {
    let mut parameters = Parameters::init(config, 0).expect("the configuration is sound");
    let mut network = Network::new(config, &parameters, Estimator::default());
    let mut optimizer = Settings { name: "adamw".into(), ..Settings::default() }
        .build(&parameters, 0)
        .expect("settings are sound");
    let mut random = Random::new(&[1]);
    let sequences: Vec<Vec<u32>> =
        (0..rows).map(|_| (0..=len).map(|_| random.below(config.vocab_size) as u32).collect()).collect();
    let batch =
        Batch::next_token(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>()).expect("sequences fit");
    let mut gradients = parameters.zeros();
    let mut times = Vec::new();
    let (mut network_seconds, mut loss) = (0.0, 0.0);
    for step in 0..steps {
        let start = Instant::now();
        gradients.iter_mut().for_each(|g| g.fill(0.0));
        network.refresh(&parameters);
        let weighted = network.accumulate(&parameters, &batch, &Loss::default(), 1.0, &mut gradients);
        loss = weighted.expect("ids are in the vocabulary");
        network.finish(&parameters, &mut gradients);
        network_seconds += start.elapsed().as_secs_f64();
        let norm = global_norm(&gradients);
        clip(&mut gradients, norm, 1.0);
        optimizer.step(&mut parameters, &gradients, 1.0, step);
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[times.len() / 2]);
    let tokens = (rows * len) as f64;
    println!(
        "{} threads, {rows} x {len}: {:.0} tokens/s best, {:.0} median; step {:.1} ms, {:.0} % of it the network; loss {loss:.3}; {:.1} MB buffers, {:.1} MB weights, gradients and moments",
        rayon::current_num_threads(),
        tokens / best,
        tokens / median,
        1e3 * median,
        100.0 * network_seconds / times.iter().sum::<f64>(),
        network.buffer_bytes() as f64 / 1e6,
        16.0 * parameters.count() as f64 / 1e6,
    );
}
