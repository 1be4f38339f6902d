//! Converting a checkpoint of 100 M parameters in f32, against `cp`, gguf-py, llama.cpp's quantizer and PyTorch doing
//! the same. `docs/benchmarks.md` says how to run it and what the figures mean.
//!
//! Everything that is compared takes turns, from a file in the page cache to a file that is on the disk, and ratios are
//! medians over the turns: a machine that is busy with something else slows neighbours in time alike. Processor time,
//! which that does not touch, stands beside.

#[path = "../../../inspect/benches/measure/checkpoint.rs"]
mod checkpoint;

use std::env;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use ckpt_convert::quant::{self, Codes, Quant};
use ckpt_convert::{Control, Gguf, Options, Plan, Target, verify_written, write};
use ckpt_inspect::DType;
use rayon::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TURNS: usize = 9;

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
    let turns = env::var("CKPT_BENCH_TURNS").ok().and_then(|n| n.parse().ok()).unwrap_or(TURNS);
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("student-125m.pt");
    let parameters = checkpoint::write(&source)?;
    let mib = std::fs::metadata(&source)?.len() >> 20;
    println!("{:.1} M parameters in f32, {mib} MiB, {threads} threads", parameters as f64 / 1e6);
    let mut peers = Vec::new();
    for variable in ["CKPT_BENCH_PYTHON", "CKPT_BENCH_LLAMA_PYTHON"] {
        let python = env::var(variable).unwrap_or_else(|_| "python3".into());
        match Peer::start(&python, threads) {
            Ok(peer) if !peer.jobs.is_empty() => {
                println!("{}", peer.versions);
                peers.push(peer);
            }
            _ => println!("{variable} names no Python with torch and gguf, or with llama_cpp"),
        }
    }
    let floats = folder.path().join("f32.gguf");
    let gguf = |quant, embed, latent| Target::Gguf(Gguf::new(quant, embed).with(|g| g.latent = latent));
    convert(&source, &Options::new(gguf(Quant::F32, Quant::F32, true)), &floats, false)?;
    println!(
        "\n{:<14}{:>10}{:>10}{:>10}{:>14}{:>12}{:>10}{:>8}{:>8}   beside",
        "", "written", "of CPU", "cp of it", "and verified", "beside it", "of CPU", "ratio", "of CPU"
    );
    let half = Options::new(gguf(Quant::F16, Quant::F16, true)).with(|o| o.dtype = Some(DType::F16));
    let ternary = || Options::new(gguf(Quant::Tq2_0, Quant::Q8_0, false));
    let python = |job| move |peers: &mut [Peer], from: &Path, to: &Path| Peer::run(peers, job, from, to);
    row(&mut peers, turns, "SafeTensors", &source, &Options::new(Target::SafeTensors), "cp", &source, cp)?;
    row(&mut peers, turns, "GGUF F16", &source, &half, "gguf-py's writer", &source, python("f16"))?;
    let name = "gguf.quants";
    row(&mut peers, turns, "GGUF TQ2_0", &source, &ternary(), name, &source, python("tq2_0"))?;
    let name = "llama.cpp, from F32 GGUF";
    row(&mut peers, turns, "GGUF TQ2_0", &source, &ternary(), name, &floats, python("quantize"))?;
    let i2s = Options::new(Target::I2s);
    row(
        &mut peers,
        turns,
        "i2s",
        &source,
        &i2s,
        "PyTorch, the original packer's formula",
        &source,
        python("i2s"),
    )?;
    blocks(&mut peers, turns, &source)
}

/// Times making TQ2_0 blocks of every projection, each block by itself, in memory: what gguf.quants has a function for.
fn blocks(peers: &mut [Peer], turns: usize, source: &Path) -> Result<()> {
    const PIECE: usize = 1 << 16;
    let checkpoint = ckpt_inspect::open(source)?;
    let matrices = checkpoint.tensors.iter().filter(|t| t.name.contains("_proj"));
    let matrices = matrices.map(|t| checkpoint.values(t)).collect::<std::result::Result<Vec<_>, _>>()?;
    let encode = |values: &[f32]| {
        let mut out = Vec::new();
        quant::encode(Quant::Tq2_0, Codes::ByBlock, values, &mut out).map(|()| out)
    };
    let (mut ours, mut theirs, nowhere) = (Vec::new(), Vec::new(), Path::new("-"));
    for _ in 0..turns {
        ours.push(Taken::by(|| {
            let pieces = matrices.par_iter().flat_map(|values| values.par_chunks(PIECE));
            std::hint::black_box(pieces.map(encode).collect::<ckpt_convert::Result<Vec<_>>>()?);
            Ok(())
        })?);
        theirs.extend(Peer::run(peers, "blocks", source, nowhere)?);
    }
    print_row("TQ2_0 blocks", [&ours, &[], &[], &theirs], "gguf.quants.quantize, in memory");
    Ok(())
}

/// Times conversions of `source` and what `theirs` makes of `from`, in turns.
#[allow(clippy::too_many_arguments)] // a table's row
fn row(
    peers: &mut [Peer],
    turns: usize,
    name: &str,
    source: &Path,
    options: &Options,
    beside: &str,
    from: &Path,
    mut theirs: impl FnMut(&mut [Peer], &Path, &Path) -> Result<Option<Taken>>,
) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (mut written, mut copied, mut verified, mut other) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for turn in 0..=turns {
        let at = |name: &str| folder.path().join(name);
        let one = Taken::by(|| convert(source, options, &at("written"), false))?;
        let copy = cp(&mut [], &at("written"), &at("copied"))?;
        let both = Taken::by(|| convert(source, options, &at("verified"), true))?;
        let their = theirs(peers, from, &at("theirs"))?;
        for entry in std::fs::read_dir(folder.path())? {
            std::fs::remove_file(entry?.path())?;
        }
        // The first turn maps and loads what the others find there.
        if turn > 0 {
            written.push(one);
            copied.extend(copy);
            verified.push(both);
            other.extend(their);
        }
    }
    print_row(name, [&written, &copied, &verified, &other], beside);
    Ok(())
}

/// Medians of the times, and of their ratios.
fn print_row(name: &str, [written, copied, verified, other]: [&[Taken]; 4], beside: &str) {
    let ms = |times: &[Taken], of: fn(&Taken) -> f64| match times.first().map(of) {
        None | Some(f64::INFINITY) => "–".into(),
        _ => format!("{:.0} ms", 1e3 * median(times.iter().map(of).collect())),
    };
    let ratio = |of: fn(&Taken) -> f64| match other.first().map(of) {
        None | Some(f64::INFINITY) => "–".into(),
        _ => format!("{:.1}", median(other.iter().zip(written).map(|(a, b)| of(a) / of(b)).collect())),
    };
    let wall: fn(&Taken) -> f64 = |t| t.seconds;
    let cpu: fn(&Taken) -> f64 = |t| t.cpu;
    println!(
        "{name:<14}{:>10}{:>10}{:>10}{:>14}{:>12}{:>10}{:>8}{:>8}   {beside}",
        ms(written, wall),
        ms(written, cpu),
        ms(copied, wall),
        ms(verified, wall),
        ms(other, wall),
        ms(other, cpu),
        ratio(wall),
        ratio(cpu)
    );
}

/// Seconds that something took, and those that processors spent on it, infinite where nobody counted them.
struct Taken {
    seconds: f64,
    cpu: f64,
}

impl Taken {
    fn by(what: impl FnOnce() -> Result<()>) -> Result<Taken> {
        let (start, busy) = (Instant::now(), cpu_seconds());
        what()?;
        Ok(Taken { seconds: start.elapsed().as_secs_f64(), cpu: cpu_seconds() - busy })
    }
}

/// Seconds that processors have spent on this process; NaN where the system is not asked.
#[cfg(not(unix))]
fn cpu_seconds() -> f64 {
    f64::NAN
}

#[cfg(unix)]
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn convert(source: &Path, options: &Options, output: &Path, verified: bool) -> Result<()> {
    let source = ckpt_inspect::open(source)?;
    let mut plan = Plan::new(&source, options)?;
    let stop = Default::default();
    write(&mut plan, options, output, Control::new(&|_| (), &stop))?;
    if verified && !verify_written(&plan, output)?.agrees() {
        return Err("what was written is something else".into());
    }
    Ok(())
}

fn cp(_: &mut [Peer], from: &Path, to: &Path) -> Result<Option<Taken>> {
    let start = Instant::now();
    let status = Command::new("cp").arg(from).arg(to).status()?;
    std::fs::File::open(to)?.sync_all()?;
    Ok(status.success().then(|| Taken { seconds: start.elapsed().as_secs_f64(), cpu: f64::INFINITY }))
}

/// A Python process that runs commands and reports how long they took.
struct Peer {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    child: Child,
    versions: String,
    jobs: Vec<String>,
}

impl Peer {
    fn start(python: &str, threads: usize) -> Result<Peer> {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/convert/peers.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(threads.to_string())
            .env("OMP_NUM_THREADS", threads.to_string())
            .env("OPENBLAS_NUM_THREADS", threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("its pipes are gone".into());
        };
        let mut peer =
            Peer { stdin, stdout: BufReader::new(stdout), child, versions: String::new(), jobs: Vec::new() };
        peer.versions = peer.line()?;
        peer.jobs = peer.line()?.split(' ').filter(|job| !job.is_empty()).map(String::from).collect();
        Ok(peer)
    }

    /// What `job` takes the first of `peers` that knows it.
    fn run(peers: &mut [Peer], job: &str, from: &Path, to: &Path) -> Result<Option<Taken>> {
        let Some(peer) = peers.iter_mut().find(|p| p.jobs.iter().any(|known| known == job)) else {
            return Ok(None);
        };
        writeln!(peer.stdin, "{job}\t{}\t{}", from.display(), to.display())?;
        let line = peer.line()?;
        let (seconds, cpu) = line.split_once(' ').ok_or("Python did not answer with two numbers")?;
        Ok(Some(Taken { seconds: seconds.parse()?, cpu: cpu.parse()? }))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(format!("Python ended without a word: {}", self.child.wait()?).into());
        }
        Ok(line.trim_end().to_string())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    (low + high) / 2.0
}
