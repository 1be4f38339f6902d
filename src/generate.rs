//! Shared by the commands that generate text: the tokenizer, sampling options, prompts that a signal can stop, and
//! turning tokens into text.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use ckpt_infer::{Cache, Logits, Model, Runner, SampleOptions, Sequence, StopText, TextStream, Tokenizer};
use ckpt_inspect::Checkpoint;

use crate::signal::Signal;
use crate::{Failure, terminal};

/// Tokens of a prompt between two checks for a signal.
const BLOCK: usize = 512;

/// Which tokenizer to use.
#[derive(clap::Args)]
pub struct TokenizerArgs {
    /// Tokenizer: a tokenizer.json, a tokenizer.model, a GGUF file or a folder with one; by default that of a GGUF
    /// checkpoint itself, else the one next to the checkpoint or in the folder above.
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
}

impl TokenizerArgs {
    /// The tokenizer of `model`, which comes from `checkpoint`; its warnings are printed.
    pub fn open(&self, checkpoint: &Checkpoint, model: &Model) -> Result<Tokenizer, Failure> {
        let tokenizer = match &self.tokenizer {
            Some(path) => Tokenizer::open(path)?,
            None => Tokenizer::of(checkpoint)?.ok_or_else(|| {
                Failure::usage(format!(
                    "{}: no tokenizer.json or tokenizer.model next to it or in the folder above; name one with --tokenizer, or give token ids (ckpt infer --ids)",
                    checkpoint.path.display()
                ))
            })?,
        };
        tokenizer.check(model.config().vocab_size)?;
        tokenizer.warnings().iter().for_each(|warning| terminal::warning(warning));
        Ok(tokenizer)
    }
}

/// How tokens are chosen.
#[derive(clap::Args)]
pub struct Sampling {
    /// Sampling temperature; 0 always takes the most likely token [default: 0; chat: 0.7].
    #[arg(long, value_name = "T", value_parser = at_least_zero)]
    temperature: Option<f32>,
    /// Sample from the K most likely tokens only; 0 for all [default: 0].
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the smallest set of most likely tokens whose probabilities sum to P [default: 1; chat: 0.95].
    #[arg(long, value_name = "P", value_parser = share)]
    top_p: Option<f32>,
    /// Sample only from tokens at least P times as likely as the most likely one [default: 0].
    #[arg(long, value_name = "P", value_parser = share)]
    min_p: Option<f32>,
    /// Penalty for tokens that occurred already; 1 for none [default: 1; chat: 1.2].
    #[arg(long, value_name = "X", value_parser = above_zero)]
    repetition_penalty: Option<f32>,
    /// Random seed for sampling, to repeat a result; random by default, and part of the --json output.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn at_least_zero(text: &str) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|x| *x >= 0.0 && x.is_finite());
    number.ok_or_else(|| "must be a number of 0 or more".to_string())
}

fn share(text: &str) -> Result<f32, String> {
    at_least_zero(text).ok().filter(|x| *x <= 1.0).ok_or_else(|| "must be a number from 0 to 1".to_string())
}

fn above_zero(text: &str) -> Result<f32, String> {
    at_least_zero(text).ok().filter(|x| *x > 0.0).ok_or_else(|| "must be a number above 0".to_string())
}

/// Parses a count above 0.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "must be a number above 0".to_string())
}

impl Sampling {
    /// The options, with `default` for those that are not given.
    pub fn options(&self, default: SampleOptions) -> SampleOptions {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        default.with(|o| {
            o.temperature = self.temperature.unwrap_or(o.temperature);
            o.top_k = self.top_k.unwrap_or(o.top_k);
            o.top_p = self.top_p.unwrap_or(o.top_p);
            o.min_p = self.min_p.unwrap_or(o.min_p);
            o.repetition_penalty = self.repetition_penalty.unwrap_or(o.repetition_penalty);
            o.seed = self.seed.unwrap_or_else(now);
        })
    }
}

/// Runs a prompt's tokens, and returns the wanted logits; `None` when a signal came meanwhile.
pub fn prefill(
    runner: &mut Runner<'_>,
    cache: &mut Cache,
    ids: &[u32],
    wanted: Logits,
    signal: &Signal,
) -> Result<Option<Vec<f32>>, Failure> {
    // Without room for all of them, none are run.
    let block = if cache.room() < ids.len() { ids.len() } else { BLOCK };
    let mut logits = Vec::new();
    let mut left = ids;
    while !left.is_empty() {
        if signal.arrived() {
            return Ok(None);
        }
        let (now, later) = left.split_at(left.len().min(block));
        left = later;
        let part = if wanted == Logits::Last && !left.is_empty() { Logits::None } else { wanted };
        logits.extend_from_slice(runner.forward(&mut [Sequence::new(now, cache, part)])?);
    }
    Ok(Some(logits))
}

/// Turns tokens into text, up to a stop text.
pub struct Writer<'t> {
    stream: TextStream<'t>,
    stops: StopText,
    /// The whole text so far.
    pub text: String,
    /// Whether a stop text was found.
    pub stopped: bool,
}

impl<'t> Writer<'t> {
    /// A writer of what follows `context`.
    pub fn new(tokenizer: &'t Tokenizer, context: &[u32], show_special: bool, stops: &[String]) -> Self {
        Writer {
            stream: tokenizer.stream(context, show_special),
            stops: StopText::new(stops.iter().cloned()),
            text: String::new(),
            stopped: false,
        }
    }

    /// The text that token `id` completes.
    pub fn push(&mut self, id: u32) -> String {
        let piece = self.stream.push(id);
        self.write(&piece)
    }

    /// The text that was held back.
    pub fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        let piece = self.stream.finish();
        let mut text = self.write(&piece);
        if !self.stopped {
            let held = self.stops.finish();
            self.text.push_str(&held);
            text.push_str(&held);
        }
        text
    }

    fn write(&mut self, piece: &str) -> String {
        let (text, stopped) = self.stops.push(piece);
        self.stopped |= stopped;
        self.text.push_str(&text);
        text
    }
}
