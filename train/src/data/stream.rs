//! Batches of training data: sequences of one source, or of several by their weights.

use std::path::PathBuf;
use std::sync::Arc;

use ckpt_convert::Object;
use ckpt_inspect::Checkpoint;
use ckpt_inspect::metadata::{HashableValue, as_f64};

use super::documents;
use super::encoder::Encoder;
use super::fill_in::FillIn;
use super::source::{Shared, Source};
use super::{LARGEST_BATCH, Restored, Settings, Token, Window, batch_of};
use crate::batch::Batch;
use crate::{Error, Random, Remedy, Result};

/// Batches of training data, without end.
pub struct Stream {
    shared: Arc<Shared>,
    /// Each with its weight among them.
    sources: Vec<(f64, Source)>,
    /// The first sequence of all batches in which something is learnt.
    example: Option<Window>,
}

impl Stream {
    /// The stream from its beginning. `seed` decides what is held out and in which order sequences come.
    ///
    /// # Errors
    /// `Settings` for sizes of zero or no files; `Data` and `Read` for a tokenizer that cannot be read.
    pub fn new(settings: &Settings, seed: u64) -> Result<Self> {
        Self::of(settings, seed, false)
    }

    /// The same of the documents that are held out, or of all others.
    pub(super) fn of(settings: &Settings, seed: u64, held_out: bool) -> Result<Self> {
        let files: Vec<PathBuf> = settings.all_files().cloned().collect();
        if files.is_empty() {
            return Err(Error::settings("there is no data to train on: give at least one file"));
        }
        if !settings.files.is_empty() && !settings.sources.is_empty() {
            return Err(Error::settings("data is given by `files` or by weighted `sources`, not both"));
        }
        for source in &settings.sources {
            if source.files.is_empty() {
                return Err(Error::settings("a source of data has no files"));
            }
            if !(source.weight.is_finite() && source.weight > 0.0) {
                return Err(Error::settings(format!(
                    "{}: the weight of a source must be a number above 0",
                    source.files[0].display()
                )));
            }
        }
        let tokens = settings.length.saturating_mul(settings.batch);
        for (sound, what) in [
            (settings.length > 0, "length must be above 0".to_string()),
            (settings.batch > 0, "batch must be above 0".into()),
            (
                tokens <= LARGEST_BATCH,
                format!(
                    "a batch of {} x {} tokens is larger than {LARGEST_BATCH}; use smaller batches, and `accumulate` to average the gradients of several",
                    settings.batch, settings.length
                ),
            ),
            ((0.0..1.0).contains(&settings.holdout), "holdout must be at least 0 and below 1".into()),
            (
                (0.0..=1.0).contains(&settings.fill_in_rate),
                "the fill-in-the-middle rate must be from 0 to 1".into(),
            ),
        ] {
            if !sound {
                return Err(Error::settings(what));
            }
        }
        let encoder = Encoder::new(settings)?;
        let fill_in = match settings.fill_in_rate {
            0.0 => None,
            rate => {
                let marks = encoder.fill_in().ok_or_else(|| {
                    Error::settings(
                        "fill-in-the-middle training needs a tokenizer with tokens for it, such as <|fim_prefix|>, <|fim_middle|> and <|fim_suffix|>",
                    )
                })?;
                let begin = encoder.begin_tokens().to_vec();
                Some(FillIn { rate, marks, end: encoder.end_token(), begin })
            }
        };
        let mut settings = settings.clone();
        if !settings.validation.is_empty() {
            settings.holdout = 0.0;
        }
        let sizes: Vec<(f64, usize)> = match settings.sources.is_empty() {
            true => vec![(1.0, files.len())],
            false => settings.sources.iter().map(|source| (source.weight, source.files.len())).collect(),
        };
        let shared = Arc::new(Shared { settings, files, encoder, seed, fill_in, held_out });
        let mut first = 0;
        let source = |(which, (weight, count)): (usize, (f64, usize))| {
            let files = first..first + count;
            first += count;
            (weight, Source::new(shared.clone(), which, files))
        };
        let sources = sizes.into_iter().enumerate().map(source).collect();
        Ok(Stream { shared, sources, example: None })
    }

    /// The sources, and the weight of each.
    pub(super) fn sources(&mut self) -> &mut [(f64, Source)] {
        &mut self.sources
    }

    /// How often the data has been read: the source that was read least often counts.
    pub fn epoch(&self) -> u64 {
        self.sources.iter().map(|(_, source)| source.epoch).min().unwrap_or(0)
    }

    /// How often each of several sources has been read; none of a single one.
    pub fn epochs(&self) -> Vec<u64> {
        let several = self.sources.len() > 1;
        self.sources.iter().filter(|_| several).map(|(_, source)| source.epoch).collect()
    }

    /// Lines of the first pass that were not documents.
    pub fn bad(&self) -> u64 {
        self.sources.iter().map(|(_, source)| source.bad).sum()
    }

    /// The first of them, and why: those that this has not told before.
    pub fn take_shown(&mut self) -> Vec<String> {
        self.sources.iter_mut().flat_map(|(_, source)| std::mem::take(&mut source.shown)).collect()
    }

    /// Goes to the beginning of pass `epoch`.
    pub fn begin_at(&mut self, epoch: u64) {
        self.sources.iter_mut().for_each(|(_, source)| source.begin_at(epoch));
    }

    /// The next batch.
    ///
    /// # Errors
    /// `Read` and `Data` for files that cannot be read, `Settings` if a whole pass yields no sequence.
    pub fn batch(&mut self) -> Result<Batch> {
        let wanted = self.shared.settings.batch;
        let windows: Vec<Window> = (0..wanted).map(|_| self.draw()).collect::<Result<_>>()?;
        if self.example.is_none() {
            let is_learnt = |window: &&Window| window.tokens[1..].iter().any(|token| token.learn);
            self.example = windows.iter().filter(|window| window.source.is_none()).find(is_learnt).cloned();
        }
        batch_of(&windows)
    }

    /// The next sequence, of a source that is drawn by weight.
    fn draw(&mut self) -> Result<Window> {
        let which = match self.sources.len() {
            1 => 0,
            _ => {
                let drawn = self.sources.iter().map(|(_, source)| source.drawn).sum();
                let total: f64 = self.sources.iter().map(|(weight, _)| weight).sum();
                let mut left = Random::new(&[self.shared.seed, 5, drawn]).uniform() * total;
                let falls = |(weight, _): &(f64, Source)| {
                    left -= weight;
                    left < 0.0
                };
                self.sources.iter().position(falls).unwrap_or(self.sources.len() - 1)
            }
        };
        self.sources[which].1.draw()
    }

    /// The tokens of a prompt, with those that a document begins with; without text, only these or, if there are none, the
    /// token that ends a document.
    pub(crate) fn prompt(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoder = &self.shared.encoder;
        if encoder.fingerprint().is_none() {
            return Err("samples of text need a tokenizer: give a tokenizer.json".into());
        }
        if text.is_empty() {
            let none = "the tokenizer has no token that begins or ends a document: give a prompt for samples";
            let begin = encoder.begin_tokens();
            if !begin.is_empty() {
                return Ok(begin.to_vec());
            }
            return encoder.end_token().map(|end| vec![end]).ok_or_else(|| none.into());
        }
        let mut tokens = Vec::new();
        encoder.text(text, true, &mut tokens)?;
        encoder.begin(0, &mut tokens);
        Ok(tokens.iter().map(|token| token.id).collect())
    }

    /// The token that ends a document, if the tokenizer has one.
    pub(crate) fn end_token(&self) -> Option<u32> {
        self.shared.encoder.end_token()
    }

    /// The text of `ids`; `None` without a tokenizer.
    pub(crate) fn text(&self, ids: &[u32]) -> Option<String> {
        self.shared.encoder.decode(ids.iter().copied())
    }

    /// The first sequence of all batches in which something is learnt, as pieces of text of which each is learnt or only
    /// context; `None` before, without a tokenizer, and where sequences are ready-made.
    pub fn example(&self) -> Option<Vec<(bool, String)>> {
        let pieces = self.example.as_ref()?.tokens.chunk_by(|a, b| a.learn == b.learn);
        let decode = |piece: &[Token]| self.shared.encoder.decode(piece.iter().map(|token| token.id));
        pieces.map(|piece| Some((piece[0].learn, decode(piece)?))).collect()
    }

    /// Whether documents are texts that no token ends.
    pub(crate) fn lacks_end(&self) -> bool {
        let Shared { encoder, files, .. } = &*self.shared;
        encoder.fingerprint().is_some()
            && encoder.end_token().is_none()
            && !files.iter().all(|path| documents::is_ready_made(path))
    }

    /// The share of documents that the run of `checkpoint`, whose position is under `key`, held out.
    pub fn held_out(checkpoint: &Checkpoint, key: &str) -> Option<f64> {
        let places = [format!("{key}.place"), format!("{key}.sources.0.place")];
        places.iter().find_map(|place| as_f64(checkpoint.meta(&format!("{place}.holdout"))?))
    }

    /// The position of the stream.
    pub fn state(&self) -> Object<'static> {
        match self.sources.as_slice() {
            [(_, source)] => source.state(),
            several => {
                let state = |(n, (_, source)): (usize, &(f64, Source))| {
                    (HashableValue::String(n.to_string()), source.state())
                };
                Object::dict([("sources", Object::Dict(several.iter().enumerate().map(state).collect()))])
            }
        }
    }

    /// Moves to the position that `checkpoint`, of a run with `seed`, has under `key`, unless it has none, or of sequences of
    /// another length.
    ///
    /// # Errors
    /// `Resume` when the position does not exist in these files; the checkpoint's and the files' own.
    pub fn restore(&mut self, checkpoint: &Checkpoint, key: &str, seed: u64) -> Result<Restored> {
        let of = |n: usize| format!("{key}.sources.{n}");
        let has = |key: &str| checkpoint.meta(&format!("{key}.place")).is_some();
        let saved = if has(key) { 1 } else { (0..).take_while(|n| has(&of(*n))).count() };
        if saved == 0 {
            return Ok(Restored::Nothing);
        }
        if saved != self.sources.len() {
            let (path, here) = (checkpoint.path.display(), self.sources.len());
            let what = format!("{path}: its position is one in {saved} sources of data, and here are {here}");
            return Err(Error::resume(Remedy::RestartData, what));
        }
        for (n, (_, source)) in self.sources.iter_mut().enumerate() {
            let key = if saved == 1 { key.to_string() } else { of(n) };
            match source.restore(checkpoint, &key, seed)? {
                Restored::Position => {}
                other => {
                    self.begin_at(0);
                    return Ok(other);
                }
            }
        }
        Ok(Restored::Position)
    }
}
