//! Token ids in the form that a training step takes.

use crate::{Error, Result};

/// The target that the loss ignores, the same as in PyTorch's cross entropy.
pub const IGNORE: i32 = -100;

/// Sequences of one length: inputs, and the target at each position.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batch {
    /// The number of sequences.
    pub rows: usize,
    /// Positions in each.
    pub len: usize,
    /// Token ids `[rows, len]`.
    pub ids: Vec<u32>,
    /// The token after each position, or [`IGNORE`], `[rows, len]`.
    pub targets: Vec<i32>,
    /// Where ready-made sequences come from: index of the file and row, for each sequence.
    pub sources: Vec<Option<(usize, usize)>>,
}

impl Batch {
    /// The batch in which every token of `sequences` (each of `len + 1` ids) is predicted from those before it.
    ///
    /// # Errors
    /// `Settings` when the sequences are empty, shorter than 2, or of different lengths.
    pub fn next_token(sequences: &[&[u32]]) -> Result<Batch> {
        let full = sequences.first().map_or(0, |s| s.len());
        if full < 2 || sequences.iter().any(|s| s.len() != full) {
            return Err(Error::settings(
                "the sequences of a batch must have the same length, of at least 2 tokens",
            ));
        }
        Ok(Batch {
            rows: sequences.len(),
            len: full - 1,
            ids: sequences.iter().flat_map(|s| &s[..full - 1]).copied().collect(),
            targets: sequences.iter().flat_map(|s| &s[1..]).map(|&id| id as i32).collect(),
            sources: vec![None; sequences.len()],
        })
    }

    /// Positions whose prediction counts in the loss.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|&&t| t != IGNORE).count()
    }

    /// Checks shapes, and that every id and target lies below `vocab`.
    ///
    /// # Errors
    /// `Settings`, naming the id.
    pub fn check(&self, vocab: usize) -> Result<()> {
        let positions = self.rows.checked_mul(self.len);
        if positions != Some(self.ids.len()) || positions != Some(self.targets.len()) || positions == Some(0)
        {
            return Err(Error::settings("a batch's ids and targets do not fill its shape"));
        }
        let high = self.ids.iter().map(|&id| i64::from(id)).max().unwrap_or(0);
        let is_bad = |t: &&i32| **t != IGNORE && usize::try_from(**t).map_or(true, |t| t >= vocab);
        let bad = (high >= vocab as i64).then_some(high);
        match bad.or_else(|| self.targets.iter().find(is_bad).map(|&t| t.into())) {
            Some(id) => Err(Error::settings(format!(
                "the data contains token id {id}, but the model's vocabulary has {vocab} tokens; was it made with another tokenizer?"
            ))),
            None => Ok(()),
        }
    }
}
