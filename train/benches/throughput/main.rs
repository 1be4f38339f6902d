//! A training step (forward, backward, clipping, AdamW) against PyTorch's on the same weights and batch: tokens per
//! second and largest resident size. Both take turns, a step each, and the ratio is the median over the turns, so that
//! a machine that is busy with something else slows both. It ends with an error where the losses differ.
//!
//! Arguments: `pico` (256 hidden, 4 layers, vocabulary 1024; 16 x 128 tokens) or `125m` (2 x 256), both unless given;
//! `--threads N`; `--steps N`. PyTorch is looked for in `python3` or what CKPT_BENCH_PYTHON names, and left out where
//! it is not found.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use ckpt_convert::{Object, save};
use ckpt_inspect::ModelConfig;
use ckpt_inspect::metadata::Value;
use ckpt_train::optim::{Optimizer, Settings, adamw};
use ckpt_train::{Batch, Estimator, Gradients, Loss, Network, Parameters, Random, clip, global_norm, preset};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |flag: &str| arguments.iter().skip_while(|a| *a != flag).nth(1)?.parse().ok();
    let threads: usize =
        after("--threads").unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let wanted = |name: &str| {
        arguments.iter().any(|a| a == name) || !arguments.iter().any(|a| a == "pico" || a == "125m")
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let large = preset("100m").ok_or("the preset is gone")?;
    let mut small = large.clone();
    (small.vocab_size, small.hidden_dim, small.mlp_hidden_dim) = (1024, 256, 512);
    (small.num_layers, small.num_heads, small.num_kv_heads) = (4, 4, 2);
    println!("| model | threads | tokens/s | PyTorch's tokens/s | ratio | peak memory | PyTorch's | loss |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (name, config, rows, len, steps) in [("pico", small, 16, 128, 25), ("125m", large, 2, 256, 6)] {
        if wanted(name) {
            let steps = after("--steps").unwrap_or(steps);
            pool.install(|| compare(name, &config, rows, len, steps, threads))?;
        }
    }
    Ok(())
}

fn compare(
    name: &str,
    config: &ModelConfig,
    rows: usize,
    len: usize,
    steps: usize,
    threads: usize,
) -> Result<()> {
    let mut ours = Ours::new(config, rows, len)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("start.pt");
    ours.save(config, &path)?;
    let mut pytorch = match PyTorch::start(&path, threads) {
        Ok(pytorch) => Some(pytorch),
        Err(why) => {
            eprintln!("without PyTorch: {why}");
            None
        }
    };
    let (mut mine, mut theirs, mut losses) = (Vec::new(), Vec::new(), (0.0, 0.0));
    for step in 0..steps as u64 {
        let (seconds, loss) = ours.step(step)?;
        mine.push(seconds);
        losses.0 = loss;
        if let Some(pytorch) = &mut pytorch {
            let (seconds, loss) = pytorch.step()?;
            theirs.push(seconds);
            losses.1 = loss;
            // Levels that round the other way add up over layers and steps.
            if (losses.0 - losses.1).abs() > 1e-3 * 2f64.powi(step as i32).min(20.0) {
                return Err(format!("step {step}: loss {} here, {} in PyTorch", losses.0, losses.1).into());
            }
        }
    }
    let tokens = (rows * len) as f64;
    let rate = |seconds: &[f64]| format!("{:.0}", tokens / median(seconds));
    let ratios: Vec<f64> = mine.iter().zip(&theirs).skip(1).map(|(mine, theirs)| theirs / mine).collect();
    let (their_rate, ratio, their_peak) = match pytorch {
        Some(pytorch) => (
            rate(&theirs[1..]),
            format!("{:.2}", median(&ratios)),
            format!("{:.2} GB", pytorch.peak()? / 1e9),
        ),
        None => ("–".into(), "–".into(), "–".into()),
    };
    let peak = format!("{:.2} GB", peak()? / 1e9);
    let mine = rate(&mine[1..]);
    println!(
        "| {name}, {rows} × {len} | {threads} | {mine} | {their_rate} | {ratio} | {peak} | {their_peak} | {:.4} |",
        losses.0
    );
    Ok(())
}

/// This crate's side.
struct Ours {
    parameters: Parameters,
    network: Network,
    optimizer: Box<dyn Optimizer>,
    gradients: Gradients,
    batch: Batch,
}

impl Ours {
    fn new(config: &ModelConfig, rows: usize, len: usize) -> Result<Self> {
        let parameters = Parameters::init(config, 0)?;
        let mut random = Random::new(&[1]);
        let sequences: Vec<Vec<u32>> =
            (0..rows).map(|_| (0..=len).map(|_| random.below(config.vocab_size) as u32).collect()).collect();
        Ok(Ours {
            network: Network::new(config, &parameters, Estimator::default())?,
            optimizer: Settings::from(adamw::Settings::default()).build(&parameters, 0)?,
            gradients: parameters.zeros(),
            batch: Batch::next_token(&sequences.iter().map(Vec::as_slice).collect::<Vec<_>>())?,
            parameters,
        })
    }

    /// Seconds and loss of a step.
    fn step(&mut self, step: u64) -> Result<(f64, f64)> {
        let start = Instant::now();
        self.gradients.iter_mut().for_each(|g| g.fill(0.0));
        self.network.refresh(&self.parameters);
        let loss = self.network.accumulate(
            &self.parameters,
            &self.batch,
            &Loss::default(),
            1.0,
            &mut self.gradients,
        )?;
        self.network.finish(&self.parameters, &mut self.gradients);
        let norm = global_norm(&self.gradients);
        clip(&mut self.gradients, norm, 1.0);
        self.optimizer.step(&mut self.parameters, &self.gradients, 1.0, step);
        Ok((start.elapsed().as_secs_f64(), loss))
    }

    fn save(&self, config: &ModelConfig, path: &Path) -> Result<()> {
        let shape = || vec![self.batch.rows, self.batch.len];
        let integers = |values: Vec<i32>| Object::Integers { shape: shape(), values: values.into() };
        let weights =
            self.parameters.0.iter().map(|p| (p.name.as_str(), Object::floats(&p.shape, &p.values)));
        let object = Object::dict([
            ("weights", Object::dict(weights)),
            ("ids", integers(self.batch.ids.iter().map(|&id| id as i32).collect())),
            ("targets", integers(self.batch.targets.clone())),
            ("config", Object::Plain(Value::String(serde_json::to_string(&config.to_record())?))),
        ]);
        Ok(save(&object, path, false)?)
    }
}

/// PyTorch in a process of its own.
struct PyTorch {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl PyTorch {
    fn start(path: &Path, threads: usize) -> Result<Self> {
        let python = std::env::var("CKPT_BENCH_PYTHON").unwrap_or_else(|_| "python3".into());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/throughput/pytorch.py");
        let mut child = Command::new(&python)
            .arg(script)
            .arg(path)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{python}: {e}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("its pipes are gone".into());
        };
        let mut pytorch = PyTorch { child, input, output: BufReader::new(output) };
        let version = pytorch.line()?;
        eprintln!("PyTorch {version}");
        Ok(pytorch)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("Python ended without a word".into()),
            _ => Ok(line.trim().to_string()),
        }
    }

    /// Seconds and loss of a step.
    fn step(&mut self) -> Result<(f64, f64)> {
        self.input.write_all(b"\n")?;
        self.input.flush()?;
        let line = self.line()?;
        let (seconds, loss) = line.split_once(' ').ok_or("PyTorch's answer is none")?;
        Ok((seconds.parse()?, loss.parse()?))
    }

    /// Its largest resident size.
    fn peak(mut self) -> Result<f64> {
        drop(self.input);
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        self.child.wait()?;
        Ok(line.trim().parse()?)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The largest resident size of this process so far.
fn peak() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("the kernel does not tell")?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(1024.0 * kilobytes)
}
