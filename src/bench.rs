//! `ckpt bench`: how fast a model runs on this machine, and how far that is from what the machine can do.

use std::path::PathBuf;

use anstyle::Style;
use ckpt_infer::bench::{self, Memory, Times};
use ckpt_infer::{KvType, Model, Pool, Runner};
use serde::Serialize;

use crate::format::Plain as Format;
use crate::model::{Kv, RunArgs, processors, runnable};
use crate::terminal::{self, Table};
use crate::{Failure, exit};

/// Measure a model's speed and memory on this machine.
///
/// Prefill runs a whole prompt and computes the logits of its last token; decode generates one token at a time after a
/// context. The limit is the machine's measured read bandwidth divided by the bytes of weights that each token reads.
/// Figures are the best of several runs, because other load on the machine can only make them lower.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    #[arg(help = runnable())]
    model: PathBuf,
    /// Numbers of threads to measure with, such as 1,2,4; by default powers of two up to all processors.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    threads: Vec<u16>,
    /// Prompt lengths in tokens [default: 32,128,512, as far as they fit into the context].
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = length)]
    prompt: Vec<usize>,
    /// Context lengths before decoding, in tokens [default: 16,512, as far as they fit into the context].
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = length)]
    context: Vec<usize>,
    /// Tokens to decode each time [default: 64, or half the context].
    #[arg(short = 'n', long, value_name = "N", value_parser = length)]
    tokens: Option<usize>,
    /// How many times to repeat each measurement.
    #[arg(long, value_name = "N", default_value = "5", value_parser = length)]
    repeat: usize,
    /// Type of the cached keys and values.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    kv: Kv,
    /// Output format.
    #[arg(long, default_value = "human")]
    format: Format,
    #[command(flatten)]
    run: RunArgs,
}

fn length(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|n| (1..=1 << 24).contains(n));
    number.ok_or_else(|| "must be a whole number of 1 or more".to_string())
}

/// Everything that was measured.
#[derive(Serialize)]
struct Record {
    model: String,
    kernel: &'static str,
    kv: &'static str,
    /// Bytes of weights in memory.
    weight_bytes: usize,
    /// Bytes of weights that one decoded token reads.
    bytes_per_token: usize,
    /// Bytes of keys and values at the longest context.
    kv_bytes: usize,
    /// Peak memory of the process.
    peak_bytes: Option<u64>,
    threads: Vec<OfThreads>,
}

/// The measurements with one number of threads.
#[derive(Serialize)]
struct OfThreads {
    threads: usize,
    load_seconds: f64,
    /// Bytes per second.
    read_bandwidth: f64,
    /// Decoded tokens per second if reading the weights were the only cost.
    limit: f64,
    prefill: Vec<Speed>,
    decode: Vec<Speed>,
}

#[derive(Serialize)]
struct Speed {
    /// Tokens of the prompt, or before the decoded ones.
    tokens: usize,
    tokens_per_second: f64,
    median_tokens_per_second: f64,
}

impl Speed {
    fn of(tokens: usize, times: &Times, per_time: usize) -> Speed {
        let rate = |seconds: f64| per_time as f64 / seconds;
        Speed {
            tokens,
            tokens_per_second: rate(times.best()),
            median_tokens_per_second: rate(times.median()),
        }
    }
}

/// Numbers of tokens to measure.
struct Lengths {
    prompts: Vec<usize>,
    contexts: Vec<usize>,
    decoded: usize,
}

impl Lengths {
    /// The lengths that the user gave, else the usual lengths that fit into a context of `fits` tokens.
    fn of(args: &Args, fits: usize) -> Result<Lengths, Failure> {
        let decoded = args.tokens.unwrap_or(64.min(fits / 2).max(1));
        let given_or = |given: &[usize], usual: &[usize], room: usize| -> Vec<usize> {
            let usual: Vec<usize> = usual.iter().copied().filter(|n| *n <= room).collect();
            match (given.is_empty(), usual.is_empty()) {
                (false, _) => given.to_vec(),
                (true, false) => usual,
                (true, true) => vec![room.max(1)],
            }
        };
        let lengths = Lengths {
            prompts: given_or(&args.prompt, &[32, 128, 512], fits),
            contexts: given_or(&args.context, &[16, 512], fits.saturating_sub(decoded)),
            decoded,
        };
        let needed =
            lengths.contexts.iter().map(|n| n.saturating_add(decoded)).chain(lengths.prompts.iter().copied());
        match needed.max().filter(|&tokens| tokens > fits) {
            Some(tokens) => Err(Failure::usage(format!(
                "{tokens} tokens do not fit into the model's context of {fits} tokens; lower --prompt, --context or -n, or raise --max-seq-len"
            ))),
            None => Ok(lengths),
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let most = processors();
    let mut threads: Vec<usize> = args.threads.iter().map(|&n| n.into()).collect();
    if threads.is_empty() {
        threads = std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < most).collect();
        threads.push(most);
    }
    let pools: Vec<Pool> = threads.into_iter().map(Pool::new).collect();
    let record = measure(args, &pools)?;
    let text = match args.format {
        Format::Json => {
            let json = serde_json::to_value(&record).map_err(|e| Failure::unwritable(e.to_string()))?;
            terminal::json(&json)
        }
        Format::Human => human(&record),
    };
    terminal::print(&text)?;
    Ok(exit::FINE)
}

fn measure(args: &Args, pools: &[Pool]) -> Result<Record, Failure> {
    let kv = KvType::from(args.kv);
    let (first, rest) = pools
        .split_first()
        .ok_or_else(|| Failure::usage("give at least one number of threads (--threads)"))?;
    let (_, model) = args.run.open(&args.model, first)?;
    let lengths = Lengths::of(args, model.config().max_seq_len)?;
    let memory = Memory::like(&model);
    let mut kv_bytes = 0;
    let mut threads = Vec::new();
    for pool in std::iter::once(first).chain(rest) {
        let mut runner = Runner::new(&model, pool);
        let (mut load, mut read) = (Times::default(), Times::default());
        let mut prefill = vec![Times::default(); lengths.prompts.len()];
        let mut decode = vec![Times::default(); lengths.contexts.len()];
        for _ in 0..args.repeat {
            load.time(|| Model::open(&args.model, &args.run.options(), pool))?;
            for (times, &n) in prefill.iter_mut().zip(&lengths.prompts) {
                times.push(bench::prefill(&mut runner, kv, n)?);
            }
            for (times, &context) in decode.iter_mut().zip(&lengths.contexts) {
                let (seconds, bytes) = bench::decode(&mut runner, kv, context, lengths.decoded)?;
                times.push(seconds);
                kv_bytes = kv_bytes.max(bytes);
            }
            read.push(memory.read(pool));
        }
        threads.push(OfThreads {
            threads: pool.threads(),
            load_seconds: load.best(),
            read_bandwidth: model.bytes_per_token() as f64 / read.best(),
            limit: 1.0 / read.best(),
            prefill: lengths.prompts.iter().zip(&prefill).map(|(&n, times)| Speed::of(n, times, n)).collect(),
            decode: lengths.contexts.iter().zip(&decode).map(|(&n, times)| Speed::of(n, times, 1)).collect(),
        });
    }
    Ok(Record {
        model: args.model.display().to_string(),
        kernel: model.kernel().name(),
        kv: if kv == KvType::F32 { "f32" } else { "f16" },
        weight_bytes: model.bytes(),
        bytes_per_token: model.bytes_per_token(),
        kv_bytes,
        peak_bytes: peak_bytes(),
        threads,
    })
}

/// The peak memory of this process, if the system reports it.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn human(record: &Record) -> String {
    let plain = |text: String| (text, Style::new());
    let columns =
        [("threads", true), ("what", false), ("tokens/s", true), ("median", true), ("of the limit", true)];
    let mut table = Table::new(&columns, &[]);
    for of in &record.threads {
        let threads = of.threads.to_string();
        let mut row = |what: String, speed: &Speed, share: String| {
            let rates = [speed.tokens_per_second, speed.median_tokens_per_second].map(|r| format!("{r:.0}"));
            let [best, median] = rates;
            table.row([threads.clone(), what, best, median, share].map(plain).to_vec());
        };
        for speed in &of.prefill {
            row(format!("prefill of {}", speed.tokens), speed, String::new());
        }
        for speed in &of.decode {
            let share = speed.tokens_per_second / of.limit;
            row(format!("decode after {}", speed.tokens), speed, format!("{share:.2}"));
        }
    }
    let mut text = table.render(terminal::width());
    for of in &record.threads {
        text += &format!(
            "{} thread{}: load {:.0} ms, read bandwidth {:.1} GB/s, limit {:.0} tokens/s\n",
            of.threads,
            if of.threads == 1 { "" } else { "s" },
            1e3 * of.load_seconds,
            of.read_bandwidth / 1e9,
            of.limit
        );
    }
    let peak =
        record.peak_bytes.map(|n| format!(", process at most {}", terminal::bytes(n))).unwrap_or_default();
    text += &format!(
        "kernel {}; weights {}, {} of them read for a token; keys and values {} in {}{peak}\n",
        record.kernel,
        terminal::bytes(record.weight_bytes as u64),
        terminal::bytes(record.bytes_per_token as u64),
        terminal::bytes(record.kv_bytes as u64),
        record.kv,
    );
    text
}
