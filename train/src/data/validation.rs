//! The fixed set of sequences that validation measures: the same for any batch size, number of threads or resume.

use sha2::{Digest, Sha256};

use super::{Settings, Stream, batch_of};
use crate::batch::Batch;
use crate::{Error, Result};

/// Positions in one batch of validation. It does not follow the batch of training: sums are then the same bits for any.
const POSITIONS: usize = 2048;

/// The sequences to validate on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Validation {
    /// The sequences, in batches of a fixed size.
    pub batches: Vec<Batch>,
    /// Their learnt tokens, over which the loss is a mean.
    pub tokens: usize,
    /// Lines that were not documents.
    pub bad: u64,
    /// The first of them, and why.
    pub shown: Vec<String>,
}

impl Validation {
    /// Reads the first sequences of `settings.validation`, else of the held-out documents of one pass, until they have
    /// `settings.validation_tokens` learnt tokens; of several sources, each by its weight.
    ///
    /// # Errors
    /// Those of [`Stream::new`] and [`Stream::batch`].
    pub fn read(settings: &Settings, seed: u64) -> Result<Validation> {
        if settings.validation_tokens == 0 {
            return Err(Error::settings("validation_tokens must be above 0"));
        }
        let mut own = Settings { shuffle: false, fill_in_rate: 0.0, ..settings.clone() };
        if settings.validation.is_empty() {
            if settings.holdout == 0.0 {
                return Ok(Validation::default());
            }
        } else {
            own.files = std::mem::take(&mut own.validation);
            own.sources.clear();
            own.holdout = 0.0;
        }
        let mut stream = Stream::of(&own, seed, settings.validation.is_empty())?;
        let (mut windows, mut tokens) = (Vec::new(), 0);
        let sources = stream.sources();
        let total: f64 = sources.iter().map(|(weight, _)| weight).sum();
        for (weight, source) in sources {
            // By its weight in training.
            let wanted = (settings.validation_tokens as f64 * (*weight / total)).ceil() as usize;
            let mut read = 0;
            while read < wanted && source.epoch == 0 && source.read()? {
                for window in source.buffer.drain(..) {
                    let learnt = window.tokens[1..].iter().filter(|token| token.learn).count();
                    if learnt > 0 && read < wanted {
                        read += learnt;
                        windows.push(window);
                    }
                }
            }
            tokens += read;
        }
        let (bad, shown) = (stream.bad(), stream.take_shown());
        let mut batches = Vec::new();
        // Ready-made sequences of several files may differ in length.
        for alike in windows.chunk_by(|a, b| a.tokens.len() == b.tokens.len()) {
            let rows = (POSITIONS / (alike[0].tokens.len() - 1)).max(1);
            for part in alike.chunks(rows) {
                batches.push(batch_of(part)?);
            }
        }
        Ok(Validation { batches, tokens, bad, shown })
    }

    /// What tells this set from others: losses on other sets cannot be compared.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for batch in &self.batches {
            hash.update((batch.len as u64).to_le_bytes());
            batch.ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
            batch.targets.iter().for_each(|target| hash.update(target.to_le_bytes()));
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
