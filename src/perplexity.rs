//! `ckpt infer --perplexity`: how well a model predicts a text.

use std::path::PathBuf;
use std::time::Instant;

use ckpt_infer::compare::{self, Windows};
use ckpt_infer::{Model, Pool, Runner, Tokenizer};
use serde_json::json;

use crate::{Failure, exit, sequences, terminal};

/// What to predict, and from how much.
#[derive(clap::Args)]
pub struct PerplexityArgs {
    /// Print the perplexity of a text instead of continuing one, or of token ids: .safetensors, or lists in .jsonl or
    /// .ids.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "suffix", "ids", "dump_logits", "prompt_cache", "logprobs"])]
    pub perplexity: Option<PathBuf>,
    /// With --perplexity, tokens that are predicted from at most; the model's context by default.
    #[arg(long, value_name = "N", requires = "perplexity")]
    context: Option<usize>,
    /// With --perplexity, tokens from one window to the next; half the context by default.
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
            "--context {context} does not fit the model's context of {most}"
        )));
    }
    let windows = Windows::new(context, args.stride.unwrap_or(context.div_ceil(2)));
    let start = Instant::now();
    let likelihood = compare::likelihood(&mut Runner::new(model, pool), pool, &sequences, windows)?;
    let seconds = start.elapsed().as_secs_f64();
    if likelihood.tokens == 0 {
        return Err(Failure::usage(format!(
            "{}: a sequence of at least two tokens is needed",
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
            "assumed": model.assumed(),
        });
        terminal::print(&terminal::json(&record))?;
    } else {
        if likelihood.perplexity().is_nan() {
            terminal::warning(
                "the model computes NaN: its weights hold NaN or infinity, or overflow on the way",
            );
        }
        terminal::print(&format!("{:.4}\n", likelihood.perplexity()))?;
        let rate = likelihood.tokens as f64 / seconds.max(1e-9);
        terminal::note(&format!("{} tokens predicted, {rate:.0} tokens/s", likelihood.tokens));
    }
    Ok(exit::FINE)
}
