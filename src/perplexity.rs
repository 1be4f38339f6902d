//! `ckpt infer --perplexity`: how well a model predicts a text.

use std::path::PathBuf;
use std::time::Instant;

use ckpt_infer::compare::{self, Windows};
use ckpt_infer::{Model, Pool, Runner, Tokenizer};
use ckpt_reports::text::plural;
use serde_json::json;

use crate::{Failure, exit, sequences, terminal};

/// The text to predict, and the windows.
#[derive(clap::Args)]
pub struct PerplexityArgs {
    /// Print the perplexity of a text, or of a file of token ids (.safetensors, .jsonl, .ids), instead of generating.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "suffix", "ids", "dump_logits", "prompt_cache", "logprobs"])]
    pub perplexity: Option<PathBuf>,
    /// With --perplexity, the window in tokens; the model's context by default.
    #[arg(long, value_name = "N", requires = "perplexity")]
    context: Option<usize>,
    /// With --perplexity, the distance between windows in tokens; half the window by default.
    #[arg(long, value_name = "N", requires = "perplexity")]
    stride: Option<usize>,
}

impl PerplexityArgs {
    /// Whether flags are given that only `--perplexity` has a use for.
    pub fn are_idle(&self) -> bool {
        self.perplexity.is_none() && (self.context.is_some() || self.stride.is_some())
    }
}

/// Prints the perplexity that `--perplexity` asks for.
pub fn run(
    args: &PerplexityArgs,
    path: &std::path::Path,
    model: &Model,
    pool: &Pool,
    tokenizer: impl FnOnce() -> Result<Tokenizer, Failure>,
    as_json: bool,
) -> Result<u8, Failure> {
    let sequences = sequences::read(path, tokenizer)?;
    let most = model.config().max_seq_len;
    let context = args.context.unwrap_or(most);
    if !(1..=most).contains(&context) {
        return Err(Failure::usage(format!(
            "--context {context} is more than the model's context of {most} tokens"
        )));
    }
    let windows = Windows::new(context, args.stride.unwrap_or(context.div_ceil(2)));
    let start = Instant::now();
    let likelihood = compare::likelihood(&mut Runner::new(model, pool), pool, &sequences, windows)?;
    let seconds = start.elapsed().as_secs_f64();
    if likelihood.tokens == 0 {
        return Err(Failure::usage(format!(
            "{}: perplexity needs a sequence of at least two tokens",
            path.display()
        )));
    }
    if as_json {
        let record = json!({
            "perplexity": likelihood.perplexity(),
            "nats": likelihood.nats,
            "tokens": likelihood.tokens,
            "sequences": sequences.len(),
            "context": windows.context,
            "stride": windows.stride,
            "seconds": seconds,
            "kernel": model.kernel().name(),
            "assumed": model.assumed().iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        terminal::print(&terminal::json(&record))?;
    } else {
        if likelihood.perplexity().is_nan() {
            terminal::warning(
                "the model computes NaN: its weights contain NaN or infinity, or intermediate values overflow",
            );
        }
        terminal::print(&format!("{:.4}\n", likelihood.perplexity()))?;
        let rate = likelihood.tokens as f64 / seconds.max(1e-9);
        terminal::note(&format!("{} predicted, {rate:.0} tokens/s", plural(likelihood.tokens, "token")));
    }
    Ok(exit::FINE)
}
