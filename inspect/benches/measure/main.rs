//! Listing and measuring a checkpoint of 100 M parameters in f32, against PyTorch doing the same and against what
//! the machine can do at all: a sum over the same mapped bytes. `docs/benchmarks.md` tells how to run it and what
//! the figures mean. And GGML's blocks, against the gguf package and numpy.
//!
//! Everything that is compared takes turns, and ratios are medians over the turns: a machine that is busy with
//! something else slows neighbours in time alike.

mod blocks;
mod checkpoint;

use std::env;
use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use ckpt_inspect::{Checkpoint, CheckpointRecord, Options, describe};
use rayon::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Turns of whole processes, and of measuring.
const LISTINGS: usize = 7;
const MEASUREMENTS: usize = 21;
/// PyTorch measures in one of so many turns: it is slow, and its time varies less.
const PYTORCH_EVERY: usize = 3;
/// Seconds after which it is asked no more: where another process wants its cores, it waits for them many times.
const PYTORCH_ENOUGH: f64 = 60.0;

fn main() -> Result<()> {
    // `cargo test --benches` runs every benchmark without this flag, only to see it start.
    if !env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let threads = match env::var("CKPT_BENCH_THREADS") {
        Ok(threads) => threads.parse()?,
        Err(_) => std::thread::available_parallelism()?.get(),
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let python = env::var("CKPT_BENCH_PYTHON").unwrap_or_else(|_| "python3".into());
    let folder = tempfile::tempdir()?;
    if env::args().any(|arg| arg == "blocks") {
        return blocks::measure(folder.path(), &python);
    }
    let path = folder.path().join("student-125m.pt");
    let parameters = checkpoint::write(&path)?;
    let mib = std::fs::metadata(&path)?.len() >> 20;
    println!("{:.1} M parameters in f32, {mib} MiB, {threads} threads", parameters as f64 / 1e6);
    let mut command = Command::new(&python);
    command.arg(script("pytorch.py")).arg("measure").arg(&path).arg(threads.to_string());
    let started = Peer::start(&mut command).and_then(|mut pytorch| {
        pytorch.seconds("plain")?;
        Ok(pytorch)
    });
    let mut pytorch = match started {
        Ok(pytorch) => {
            println!("PyTorch {}", pytorch.version);
            Some(pytorch)
        }
        Err(error) => {
            println!("without PyTorch, because {error}; CKPT_BENCH_PYTHON names a Python that has it");
            None
        }
    };
    println!();
    list(&path, pytorch.is_some().then_some(&python))?;
    println!();
    measure(&path, &mut pytorch)?;
    println!();
    blocks::measure(folder.path(), &python)
}

/// Whole processes that name every tensor with its shape and dtype.
fn list(path: &Path, python: Option<&String>) -> Result<()> {
    let binary = binary()?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..LISTINGS {
        ours.push(process(Command::new(&binary).args(["inspect", "--no-stats", "--all"]).arg(path))?);
        if let Some(python) = python {
            theirs.push(process(Command::new(python).arg(script("pytorch.py")).arg("list").arg(path))?);
        }
    }
    println!("{:<44}{:>12}{:>16}", "listing, whole process", "median", "PyTorch / ckpt");
    let milliseconds = |times: &[f64]| format!("{:.1} ms", 1e3 * median(times.to_vec()));
    println!("{:<44}{:>12}", "ckpt inspect --no-stats --all", milliseconds(&ours));
    if !theirs.is_empty() {
        let faster = format!("{:.0}x", ratio(&theirs, &ours));
        println!("{:<44}{:>12}{faster:>16}", "torch.load(mmap=True), print", milliseconds(&theirs));
    }
    Ok(())
}

/// Measuring in one process, pages in memory.
fn measure(path: &Path, pytorch: &mut Option<Peer>) -> Result<()> {
    let checkpoint = ckpt_inspect::open(path)?;
    let bytes: u64 = checkpoint.tensors.iter().filter_map(|t| t.byte_len()).sum();
    let with = Options::default();
    let without = with.with(|o| o.histogram = false);
    // Once untimed, so that every page is mapped.
    let record = describe(&checkpoint, with, &|_| ());
    sum(&checkpoint)?;
    let (mut limit, mut full, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    let (mut theirs, mut theirs_tuned, mut full_beside) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..MEASUREMENTS {
        limit.push(seconds(|| sum(&checkpoint))?);
        full.push(seconds(|| Ok(black_box(describe(&checkpoint, with, &|_| ()))))?);
        plain.push(seconds(|| Ok(black_box(describe(&checkpoint, without, &|_| ()))))?);
        let enough = theirs.iter().chain(&theirs_tuned).sum::<f64>() > PYTORCH_ENOUGH;
        let its_turn = turn.is_multiple_of(PYTORCH_EVERY) && !enough;
        if let Some(pytorch) = pytorch.as_mut().filter(|_| its_turn) {
            theirs_tuned.push(pytorch.seconds("tuned")?);
            theirs.push(pytorch.seconds("plain")?);
            full_beside.extend(full.last());
        }
    }
    println!(
        "{:<44}{:>12}{:>12}{:>16}{:>12}",
        "measuring, warm page cache", "median", "GB/s", "PyTorch / it", "of limit"
    );
    let row = |name: &str, times: &[f64], faster: Option<f64>, share: Option<f64>| {
        let seconds = median(times.to_vec());
        println!(
            "{name:<44}{:>12}{:>12.2}{:>16}{:>12}",
            format!("{:.1} ms", 1e3 * seconds),
            bytes as f64 / seconds / 1e9,
            faster.map_or(String::new(), |ratio| format!("{ratio:.1}x")),
            share.map_or(String::new(), |ratio| format!("{ratio:.2}")),
        );
    };
    row("the limit: a parallel sum over the bytes", &limit, None, None);
    let faster = (!theirs.is_empty()).then(|| ratio(&theirs, &full_beside));
    row("ckpt, histogram and ternary occupancy", &full, faster, Some(ratio(&limit, &full)));
    row("ckpt, without histogram", &plain, None, Some(ratio(&limit, &plain)));
    if let Some(pytorch) = pytorch.take() {
        row("PyTorch, as one writes it", &theirs, None, None);
        row("PyTorch, fewest passes", &theirs_tuned, Some(ratio(&theirs, &theirs_tuned)), None);
        agree(&record, &pytorch.finish()?)?;
        println!("\nPyTorch and ckpt found the same numbers in every tensor.");
    }
    Ok(())
}

/// What memory allows: every byte read once and added up, in parallel over tensors and within large ones.
fn sum(checkpoint: &Checkpoint) -> Result<u64> {
    const PIECE: usize = 1 << 17;
    let storages = checkpoint
        .tensors
        .iter()
        .map(|t| checkpoint.tensor_bytes(t))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let words = storages
        .iter()
        .map(|bytes| bytemuck::try_cast_slice(bytes).map_err(|e| e.to_string()))
        .collect::<std::result::Result<Vec<&[u64]>, _>>()?;
    let sum = |piece: &[u64]| piece.iter().fold(0u64, |sum, &word| sum.wrapping_add(word));
    Ok(black_box(
        words.par_iter().flat_map(|words| words.par_chunks(PIECE)).map(sum).reduce(|| 0, u64::wrapping_add),
    ))
}

/// Fails where PyTorch measured something else than `record` says.
fn agree(record: &CheckpointRecord, theirs: &serde_json::Value) -> Result<()> {
    for tensor in &record.tensors {
        let name = tensor.name.strip_prefix("model_state_dict.").unwrap_or(&tensor.name);
        let theirs = theirs.get(name).ok_or_else(|| format!("PyTorch did not measure {name}"))?;
        let stats = tensor.stats.as_ref().ok_or_else(|| format!("{name} was not measured"))?;
        let ternary = tensor.ternary.as_ref();
        let found = [
            ("mean", stats.mean, stats.abs_mean),
            ("std", stats.std, stats.abs_mean),
            ("min", stats.min, stats.abs_max),
            ("max", stats.max, stats.abs_max),
            ("abs_mean", stats.abs_mean, stats.abs_mean),
            ("zero", Some(stats.zeros as f64 / stats.count as f64), Some(1.0)),
            ("ternary_neg", ternary.map(|t| t.neg), Some(1.0)),
            ("ternary_zero", ternary.map(|t| t.zero), Some(1.0)),
            ("ternary_pos", ternary.map(|t| t.pos), Some(1.0)),
        ];
        for (what, ours, size) in found {
            let theirs = theirs.get(what).and_then(|value| value.as_f64());
            // PyTorch adds up in f32.
            let slack = 1e-5 * size.unwrap_or(1.0);
            let same = match (ours, theirs) {
                (Some(ours), Some(theirs)) => (ours - theirs).abs() <= slack,
                (ours, theirs) => ours == theirs,
            };
            if !same {
                return Err(format!("{what} of {name} is {ours:?}, and {theirs:?} for PyTorch").into());
            }
        }
    }
    Ok(())
}

/// A Python that has loaded a file and measures it, or a part of it, at a word.
struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    version: String,
}

impl Peer {
    /// Starts `command`, which prints its library's version first.
    fn start(command: &mut Command) -> Result<Peer> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("its pipes are gone".into());
        };
        let mut peer = Peer { child, stdin, stdout: BufReader::new(stdout), version: String::new() };
        peer.version = peer.line()?;
        Ok(peer)
    }

    /// What it says that `word` took.
    fn seconds(&mut self, word: &str) -> Result<f64> {
        writeln!(self.stdin, "{word}")?;
        Ok(self.line()?.parse()?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            let mut errors = String::new();
            if let Some(stderr) = &mut self.child.stderr {
                stderr.read_to_string(&mut errors)?;
            }
            self.child.wait()?;
            return Err(errors.lines().last().unwrap_or("Python ended without a word").into());
        }
        Ok(line.trim().to_string())
    }

    /// The measurements by tensor name.
    fn finish(mut self) -> Result<serde_json::Value> {
        drop(self.stdin);
        let found = serde_json::from_reader(self.stdout)?;
        self.child.wait()?;
        Ok(found)
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/measure").join(name)
}

/// The release binary, built if it is not.
fn binary() -> Result<PathBuf> {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "ckpt", "--bin", "ckpt", "--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()?;
    let messages = String::from_utf8(built.stdout)?;
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .next_back();
    Ok(executable.ok_or("cargo did not build ckpt")?)
}

/// Seconds that a process takes, from its start to its end, its output read.
fn process(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let output = command.output()?;
    let seconds = start.elapsed().as_secs_f64();
    if !output.status.success() || output.stdout.is_empty() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(seconds)
}

fn seconds<T>(what: impl FnOnce() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    what()?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    (low + high) / 2.0
}

/// The median of a / b, turn by turn.
fn ratio(a: &[f64], b: &[f64]) -> f64 {
    median(a.iter().zip(b).map(|(a, b)| a / b).collect())
}
