//! What an edit costs: the perplexity of a text before and after it.

use std::path::{Path, PathBuf};

use ckpt_infer::compare::{self, Likelihood, Windows};
use ckpt_infer::{LoadOptions, Model, Pool, Runner, Tokenizer};
use ckpt_inspect::Checkpoint;
use ckpt_reports::text::plural;
use serde_json::{Value, json};

use crate::{Failure, model, sequences, terminal};

/// A text, or a file of token ids.
pub struct Text {
    path: PathBuf,
}

/// Its tokens, and how well the model that is edited predicts them.
pub struct Before {
    sequences: Vec<Vec<u32>>,
    likelihood: Likelihood,
}

/// How well both models predict it.
pub struct Measured {
    before: Likelihood,
    after: Likelihood,
}

impl Text {
    /// The one in `path`.
    ///
    /// # Errors
    /// One that cannot be opened, before anything is written.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        std::fs::File::open(path)
            .map_err(|e| Failure::unreadable(format!("{}: cannot be read: {e}", terminal::path(path))))?;
        Ok(Text { path: path.into() })
    }

    /// How well the model at `path` predicts it.
    ///
    /// # Errors
    /// A text that this model cannot be asked about, before anything is written.
    pub fn before(&self, path: &Path) -> Result<Before, Failure> {
        let pool = model::pool(None);
        let (checkpoint, model) = load(path, &pool)?;
        let tokenizer = || -> Result<Tokenizer, Failure> {
            let tokenizer = Tokenizer::of(&checkpoint)?.ok_or_else(|| {
                let path = terminal::path(path);
                Failure::usage(format!("{path}: no tokenizer.json or tokenizer.model next to it or in the folder above, which --perplexity needs for a text; give a file of token ids"))
            })?;
            tokenizer.check(model.config().vocab_size)?;
            Ok(tokenizer)
        };
        let sequences = sequences::read(&self.path, tokenizer)?;
        let likelihood = likelihood(&model, &pool, &sequences)?;
        if likelihood.tokens == 0 {
            let path = terminal::path(&self.path);
            return Err(Failure::usage(format!(
                "{path}: perplexity needs a sequence of at least two tokens"
            )));
        }
        Ok(Before { sequences, likelihood })
    }
}

impl Before {
    /// How well the model at `path` predicts the same.
    pub fn and_after(self, path: &Path) -> Result<Measured, Failure> {
        let pool = model::pool(None);
        let (_, model) = load(path, &pool)?;
        Ok(Measured { before: self.likelihood, after: likelihood(&model, &pool, &self.sequences)? })
    }
}

fn load(path: &Path, pool: &Pool) -> Result<(Checkpoint, Model), Failure> {
    let checkpoint = ckpt_inspect::open(path)?;
    let model = Model::load(&checkpoint, &LoadOptions::default(), pool)?;
    Ok((checkpoint, model))
}

fn likelihood(model: &Model, pool: &Pool, sequences: &[Vec<u32>]) -> Result<Likelihood, Failure> {
    let context = model.config().max_seq_len;
    let windows = Windows::new(context, context.div_ceil(2));
    Ok(compare::likelihood(&mut Runner::new(model, pool), pool, sequences, windows)?)
}

impl Measured {
    /// Both, in a line.
    pub fn sentence(&self, before: &Path, after: &Path) -> String {
        let (first, second) = (self.before.perplexity(), self.after.perplexity());
        format!(
            "perplexity {second:.4} of {}, {first:.4} of {} ({:+.4} nats a token over {})\n",
            terminal::path(after),
            terminal::path(before),
            second.ln() - first.ln(),
            plural(self.before.tokens, "token")
        )
    }

    /// The same for programs. Numbers that are not finite become null.
    pub fn record(&self) -> Value {
        json!({
            "before": self.before.perplexity(),
            "after": self.after.perplexity(),
            "tokens": self.before.tokens,
        })
    }
}
