//! Measuring GGML's blocks of every type, against the gguf package's `dequantize` and numpy's reductions of what it gives.

use std::path::Path;
use std::process::Command;

use ckpt_inspect::ggml::GgmlType;
use ckpt_kit::gguf::{Gguf, blocks};
use ckpt_kit::random::Random;

use crate::{Peer, Result, median, ratio, script, seconds};

/// Sizes of each matrix.
const ROWS: u64 = 1024;
const COLS: u64 = 4096;
const TURNS: usize = 5;
/// How many times as fast as the gguf package measuring is, at least.
const FASTER: f64 = 10.0;

/// Types that are decoded and that `gguf.quants` lacks.
const OTHERS: [GgmlType; 4] = [GgmlType::Q8_1, GgmlType::Q8_K, GgmlType::Q1_0, GgmlType::Q2_0];

/// Fails where the numbers differ, or a type is not that much faster.
pub fn measure(folder: &Path, python: &str) -> Result<()> {
    let path = folder.join("blocks.gguf");
    let types = || (0..100).map(GgmlType).filter(|ggml| ggml.decodes() && !OTHERS.contains(ggml));
    let mut random = Random::new(1);
    let file = types().fold(Gguf::new().key_text("general.architecture", "llama"), |file, ggml| {
        let (elements, size) = (ggml.block_elements() as u64, ggml.block_bytes().unwrap_or(1));
        let data = blocks(ggml.0, size, (ROWS * COLS / elements) as usize, &mut random);
        file.tensor(ggml.name(), &[COLS, ROWS], ggml.0, data)
    });
    std::fs::write(&path, file.bytes())?;
    drop(file);
    let mut gguf = match Peer::start(Command::new(python).arg(script("gguf_blocks.py")).arg(&path)) {
        Ok(gguf) => gguf,
        Err(error) => {
            println!("blocks are not measured: there is no gguf package, because {error}");
            return Ok(());
        }
    };
    println!(
        "{:<44}{:>12}{:>12}{:>16}",
        "measuring blocks, warm page cache", "median", "Melements/s", "gguf, numpy / it"
    );
    let checkpoint = ckpt_inspect::open(&path)?;
    let mut slow = Vec::new();
    for ggml in types() {
        let tensor = checkpoint.tensor(ggml.name())?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        checkpoint.measure(tensor, true)?;
        for _ in 0..TURNS {
            ours.push(seconds(|| Ok(checkpoint.measure(tensor, true)?))?);
            theirs.push(gguf.seconds(ggml.name())?);
        }
        let (time, faster) = (median(ours.clone()), ratio(&theirs, &ours));
        println!(
            "{:<44}{:>12}{:>12.0}{:>16}",
            ggml.name(),
            format!("{:.1} ms", 1e3 * time),
            (ROWS * COLS) as f64 / time / 1e6,
            format!("{faster:.1}x")
        );
        if faster < FASTER {
            slow.push(ggml.name());
        }
    }
    let theirs = gguf.finish()?;
    for ggml in types() {
        let (stats, _) = checkpoint.measure(checkpoint.tensor(ggml.name())?, true)?;
        let theirs = &theirs[ggml.name()];
        let size = stats.abs_mean.unwrap_or(1.0);
        let numbers = [("mean", stats.mean), ("std", stats.std), ("abs_mean", stats.abs_mean)];
        let exact = [("min", stats.min), ("max", stats.max)];
        let counts = [("zeros", stats.zeros), ("nan", stats.nan), ("inf", stats.inf)];
        let near = |(name, ours): (&str, Option<f64>), slack: f64| {
            ours.zip(theirs[name].as_f64()).is_some_and(|(a, b)| (a - b).abs() <= slack)
        };
        let agree = numbers.iter().all(|&pair| near(pair, 1e-9 * size))
            && exact.iter().all(|&pair| near(pair, 0.0))
            && counts.iter().all(|&(name, ours)| theirs[name].as_u64() == Some(ours));
        if !agree {
            return Err(format!("{}: {stats:?}, and {theirs} by gguf and numpy", ggml.name()).into());
        }
    }
    println!("\nThe gguf package and ckpt found the same numbers in every type.");
    match slow.is_empty() {
        true => Ok(()),
        false => Err(format!("less than {FASTER} times as fast: {}", slow.join(", ")).into()),
    }
}
