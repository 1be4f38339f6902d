//! `ckpt verify --outputs`: whether two checkpoints compute the same.

use std::path::{Path, PathBuf};

use ckpt_infer::compare::{self, Comparison, Windows};
use serde_json::{Value, json};

use crate::generate::TokenizerArgs;
use crate::model::{RunArgs, pool};
use crate::terminal;
use crate::{Failure, exit, sequences};

/// Prompts that the first model draws when none are given, and their length.
const DRAWN: (usize, usize) = (16, 64);

/// What to run, and how much outputs may differ.
#[derive(clap::Args)]
pub struct OutputArgs {
    /// Compare what the models compute instead of their weights.
    #[arg(long)]
    pub outputs: bool,
    /// With --outputs, a text to run on, in the first model's tokens, or token ids: .safetensors, or lists in .jsonl or
    /// .ids. By default sequences that the first model draws itself.
    #[arg(long, value_name = "FILE", requires = "outputs")]
    prompts: Option<PathBuf>,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// With --outputs, the largest mean Kullback-Leibler divergence of predictions, in nats.
    #[arg(long, value_name = "X", default_value_t = 0.01, value_parser = limit, requires = "outputs")]
    max_kl: f64,
    /// With --outputs, the least share of positions with the same most likely token.
    #[arg(long, value_name = "X", default_value_t = 0.98, value_parser = share, requires = "outputs")]
    min_agreement: f64,
    /// With --outputs, the largest ratio of the second perplexity to the first.
    #[arg(long, value_name = "X", default_value_t = 1.02, value_parser = limit, requires = "outputs")]
    max_perplexity_ratio: f64,
    /// With --outputs, the largest difference of a logit; any by default.
    #[arg(long, value_name = "X", value_parser = limit, requires = "outputs")]
    max_difference: Option<f64>,
    /// Threads; all processors by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), requires = "outputs")]
    threads: Option<u16>,
    #[command(flatten)]
    run: RunArgs,
}

fn limit(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|x| *x >= 0.0);
    number.ok_or_else(|| "a number not below 0 is needed".to_string())
}

fn share(text: &str) -> Result<f64, String> {
    limit(text).ok().filter(|x| *x <= 1.0).ok_or_else(|| "a number from 0 to 1 is needed".to_string())
}

/// Runs both models and judges what they say.
pub fn run(args: &OutputArgs, (a, b): (&Path, &Path), as_json: bool) -> Result<u8, Failure> {
    let pool = pool(args.threads);
    let (checkpoint, first) = args.run.open(a, &pool)?;
    let tokenizer = || args.tokenizer.open(&checkpoint, &first);
    let prompts = args.prompts.as_deref().map(|path| sequences::read(path, tokenizer)).transpose()?;
    let (_, second) = args.run.open(b, &pool)?;
    let context = first.config().max_seq_len.min(second.config().max_seq_len);
    let prompts = match prompts {
        Some(prompts) => prompts,
        None => compare::drawn(&first, &pool, DRAWN.0, DRAWN.1.min(context))?,
    };
    let windows = Windows::new(context, context.div_ceil(2));
    let comparison = compare::compare(&first, &second, &pool, &prompts, windows)?;
    let failures = args.failures(&comparison);
    let text = match as_json {
        true => terminal::json(&record(&comparison, prompts.len(), &failures)),
        false => sentences(&comparison, prompts.len(), &failures),
    };
    terminal::print(&text)?;
    Ok(if failures.is_empty() { exit::FINE } else { exit::REFUSED })
}

impl OutputArgs {
    /// What exceeds a limit. NaN exceeds every limit.
    fn failures(&self, c: &Comparison) -> Vec<String> {
        let ratio = c.b.perplexity() / c.a.perplexity();
        let mut failures = Vec::new();
        let mut check = |fine: bool, sentence: String| {
            if !fine {
                failures.push(sentence);
            }
        };
        let (kl, agreement) = (c.kl, c.agreement());
        check(kl <= self.max_kl, format!("the mean divergence {kl:.3e} is above {}", self.max_kl));
        check(
            agreement >= self.min_agreement,
            format!("top-1 agreement {agreement:.4} is below {}", self.min_agreement),
        );
        check(
            c.a.tokens == 0 || ratio <= self.max_perplexity_ratio,
            format!("the perplexities' ratio {ratio:.4} is above {}", self.max_perplexity_ratio),
        );
        if let Some(most) = self.max_difference {
            let worst = c.worst.difference;
            check(f64::from(worst) <= most, format!("a logit differs by {worst}, more than {most}"));
        }
        failures
    }
}

fn sentences(c: &Comparison, sequences: usize, failures: &[String]) -> String {
    let (sequence, position, token) = c.worst.at;
    let mut text = format!(
        "run on       {sequences} sequences, {} positions\n\
         logits       largest difference {:.3e} (sequence {sequence}, position {position}, token {token}), mean {:.3e}\n\
         divergence   mean {:.3e} nats, largest {:.3e}\n\
         top-1        {:.2} % the same\n\
         perplexity   {:.4} and {:.4}\n",
        c.positions,
        c.worst.difference,
        c.mean_difference,
        c.kl,
        c.largest_kl,
        100.0 * c.agreement(),
        c.a.perplexity(),
        c.b.perplexity(),
    );
    match failures {
        [] => text += "verified: the outputs agree\n",
        failures => text += &format!("not the same: {}\n", failures.join("; ")),
    }
    text
}

/// Numbers that are not finite become null.
fn record(c: &Comparison, sequences: usize, failures: &[String]) -> Value {
    let (sequence, position, token) = c.worst.at;
    json!({
        "agrees": failures.is_empty(),
        "failures": failures,
        "sequences": sequences,
        "positions": c.positions,
        "vocab_size": c.vocab_size,
        "largest_difference": c.worst.difference,
        "largest_difference_at": { "sequence": sequence, "position": position, "token": token },
        "mean_difference": c.mean_difference,
        "kl": c.kl,
        "largest_kl": c.largest_kl,
        "top1_agreement": c.agreement(),
        "perplexity": [c.a.perplexity(), c.b.perplexity()],
    })
}
