//! Compares two models on the same tokens: how far their logits and their predictions are apart, and how well each
//! predicts the text.

use crate::cache::{Cache, KvType, WhenFull};
use crate::kernel::pool::Pool;
use crate::model::{Logits, Model, Runner, Sequence};
use crate::sample::{SampleOptions, Sampler};
use crate::{Error, Result};

/// Tokens whose logits are computed together.
const BLOCK: usize = 64;

/// How well a model predicts tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Likelihood {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Sum of -ln p over them.
    pub nats: f64,
}

impl Likelihood {
    /// The perplexity, e^(nats / tokens). NaN for no tokens.
    pub fn perplexity(self) -> f64 {
        (self.nats / self.tokens as f64).exp()
    }

    fn add(&mut self, log_probability: f64) {
        self.tokens += 1;
        self.nats -= log_probability;
    }
}

/// How sequences are divided into windows that fit the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Windows {
    /// The most tokens in a window.
    pub context: usize,
    /// Tokens from the beginning of one window to the next. A position counts once, in the first window that has it,
    /// and predicts the token that follows it.
    pub stride: usize,
}

impl Windows {
    /// Windows of `context` tokens, one every `stride`.
    pub fn new(context: usize, stride: usize) -> Self {
        Windows { context, stride }
    }
}

/// Part of a sequence.
struct Window<'a> {
    ids: &'a [u32],
    /// Its first position in the sequence.
    start: usize,
    /// The first of its positions that counts.
    new: usize,
}

impl Windows {
    /// The windows of `ids`.
    fn of(self, ids: &[u32]) -> Result<Vec<Window<'_>>> {
        if self.stride == 0 || self.stride > self.context {
            return Err(Error::Usage("the stride must be from 1 to the context"));
        }
        let mut windows = Vec::new();
        let (mut start, mut done) = (0, 0);
        while done < ids.len() {
            let end = ids.len().min(start + self.context);
            windows.push(Window { ids: &ids[start..end], start, new: done - start });
            (start, done) = (start + self.stride, end);
        }
        Ok(windows)
    }
}

impl Window<'_> {
    /// Its tokens in blocks, and the position in the window where each begins.
    fn blocks(&self) -> impl Iterator<Item = (usize, &[u32])> {
        self.ids.chunks(BLOCK).enumerate().map(|(i, ids)| (i * BLOCK, ids))
    }
}

/// One position's logits, and the logarithm to subtract for log probabilities.
struct LogProbabilities<'a> {
    logits: &'a [f32],
    largest: f32,
    log_sum: f64,
}

impl<'a> LogProbabilities<'a> {
    fn of(logits: &'a [f32]) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
        LogProbabilities { logits, largest, log_sum: sum.ln() }
    }

    fn get(&self, id: usize) -> f64 {
        f64::from(self.logits[id] - self.largest) - self.log_sum
    }

    /// The most likely token; among equals the lowest id.
    fn best(&self) -> usize {
        self.logits.iter().position(|&x| x == self.largest).unwrap_or(0)
    }
}

/// How well the runner's model predicts `sequences`, each on its own.
///
/// # Errors
/// `Token`, before anything is computed; `Usage` for invalid windows, `ContextFull` when a window is larger than the
/// model's context.
pub fn likelihood(
    runner: &mut Runner<'_>,
    pool: &Pool,
    sequences: &[Vec<u32>],
    windows: Windows,
) -> Result<Likelihood> {
    let config = runner.model().config();
    sequences.iter().try_for_each(|ids| runner.model().check_ids(ids))?;
    let mut total = Likelihood::default();
    for sequence in sequences {
        for window in windows.of(sequence)? {
            let mut cache = Cache::new(config, KvType::F32, WhenFull::Stop);
            for (at, ids) in window.blocks() {
                let wanted = if at + ids.len() <= window.new { Logits::None } else { Logits::All };
                let logits = runner.forward(&mut [Sequence { ids, cache: &mut cache, logits: wanted }])?;
                let scored = pool.map(logits.len() / config.vocab_size, |i| {
                    let next = *sequence.get(window.start + at + i + 1)?;
                    let logits = &logits[i * config.vocab_size..][..config.vocab_size];
                    (at + i >= window.new).then(|| LogProbabilities::of(logits).get(next as usize))
                });
                scored.into_iter().flatten().for_each(|log_probability| total.add(log_probability));
            }
        }
    }
    Ok(total)
}

/// The largest difference of a logit, and where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Worst {
    /// |a - b|; NaN where a logit of one model is NaN or infinite.
    pub difference: f32,
    /// Which sequence, position in it, and token of the vocabulary.
    pub at: (usize, usize, usize),
}

/// The comparison of two models on the same tokens.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Comparison {
    /// Positions whose logits were compared.
    pub positions: usize,
    /// Logits at each.
    pub vocab_size: usize,
    /// The largest difference of a logit.
    pub worst: Worst,
    /// Mean |a - b| of logits.
    pub mean_difference: f64,
    /// Mean over positions of the Kullback-Leibler divergence, sum p_a ln(p_a / p_b), in nats.
    pub kl: f64,
    /// The largest of them.
    pub largest_kl: f64,
    /// Positions at which both find the same token most likely.
    pub same_best: usize,
    /// How well the first model predicts the tokens.
    pub a: Likelihood,
    /// How well the second does.
    pub b: Likelihood,
}

impl Comparison {
    /// Share of positions at which both find the same token most likely.
    pub fn agreement(&self) -> f64 {
        self.same_best as f64 / self.positions as f64
    }

    fn add(&mut self, sequence: usize, position: usize, row: &Row) {
        let n = self.positions as f64;
        self.positions += 1;
        self.mean_difference += (row.mean_difference - self.mean_difference) / (n + 1.0);
        self.kl += (row.kl - self.kl) / (n + 1.0);
        if row.kl > self.largest_kl || row.kl.is_nan() {
            self.largest_kl = row.kl;
        }
        if row.worst.0 > self.worst.difference || row.worst.0.is_nan() && !self.worst.difference.is_nan() {
            self.worst = Worst { difference: row.worst.0, at: (sequence, position, row.worst.1) };
        }
        self.same_best += usize::from(row.same_best);
        if let Some((a, b)) = row.next {
            self.a.add(a);
            self.b.add(b);
        }
    }
}

/// The same for one position.
struct Row {
    worst: (f32, usize),
    mean_difference: f64,
    kl: f64,
    same_best: bool,
    /// ln p of the token that follows.
    next: Option<(f64, f64)>,
}

impl Row {
    fn of(a: &[f32], b: &[f32], next: Option<u32>) -> Row {
        let mut worst = (0.0f32, 0);
        let (mut sum, mut kl) = (0.0, 0.0);
        let (p, q) = (LogProbabilities::of(a), LogProbabilities::of(b));
        for (id, (&x, &y)) in a.iter().zip(b).enumerate() {
            let difference = (x - y).abs();
            if difference > worst.0 || difference.is_nan() && !worst.0.is_nan() {
                worst = (difference, id);
            }
            sum += f64::from(difference);
            let (p, q) = (p.get(id), q.get(id));
            // Tokens with p = 0 contribute nothing, even if q = 0 too.
            if p != f64::NEG_INFINITY {
                kl += p.exp() * (p - q);
            }
        }
        let next = next.map(|id| (p.get(id as usize), q.get(id as usize)));
        // Rounding may make it slightly negative.
        let kl = if kl < 0.0 { 0.0 } else { kl };
        Row { worst, mean_difference: sum / a.len() as f64, kl, same_best: p.best() == q.best(), next }
    }
}

/// Sequences of `length` tokens sampled from the model itself, starting with tokens from all over its vocabulary: they
/// resemble its training data, which may not be at hand. The same model gives the same sequences.
///
/// # Errors
/// `ContextFull` when `length` is more than the model's context.
pub fn drawn(model: &Model, pool: &Pool, count: usize, length: usize) -> Result<Vec<Vec<u32>>> {
    let config = model.config();
    let mut runner = Runner::new(model, pool);
    let first = |i: usize| (i * config.vocab_size / count) as u32;
    let mut sequences: Vec<Vec<u32>> = (0..count).map(|i| vec![first(i)]).collect();
    let mut caches: Vec<Cache> =
        (0..count).map(|_| Cache::new(config, KvType::F32, WhenFull::Stop)).collect();
    let options = |i| SampleOptions { temperature: 1.0, seed: i as u64, ..SampleOptions::default() };
    let mut samplers: Vec<Sampler> = (0..count).map(|i| Sampler::new(&options(i))).collect();
    for at in 1..length {
        let mut last: Vec<Sequence<'_>> = sequences
            .iter()
            .zip(&mut caches)
            .map(|(ids, cache)| Sequence { ids: &ids[at - 1..], cache, logits: Logits::Last })
            .collect();
        let logits = runner.forward(&mut last)?.chunks_exact(config.vocab_size);
        let next: Vec<u32> =
            logits.zip(&mut samplers).map(|(logits, sampler)| sampler.sample(logits)).collect();
        sequences.iter_mut().zip(next).for_each(|(ids, id)| ids.push(id));
    }
    Ok(sequences)
}

/// Runs both models over `sequences`, each on its own, and compares their logits at every position.
///
/// # Errors
/// `Token`, before anything is computed; `Usage` if the vocabularies differ in size, there is nothing to run, or windows
/// are invalid; `ContextFull` when a window is larger than a model's context.
pub fn compare(
    a: &Model,
    b: &Model,
    pool: &Pool,
    sequences: &[Vec<u32>],
    windows: Windows,
) -> Result<Comparison> {
    let vocab_size = a.config().vocab_size;
    if b.config().vocab_size != vocab_size {
        return Err(Error::Usage(
            "the models have vocabularies of different sizes, so their outputs cannot be compared",
        ));
    }
    sequences.iter().try_for_each(|ids| a.check_ids(ids))?;
    let (mut first, mut second) = (Runner::new(a, pool), Runner::new(b, pool));
    let mut total = Comparison { vocab_size, ..Comparison::default() };
    for (number, sequence) in sequences.iter().enumerate() {
        for window in windows.of(sequence)? {
            let mut caches = [a, b].map(|model| Cache::new(model.config(), KvType::F32, WhenFull::Stop));
            for (at, ids) in window.blocks() {
                let [of_a, of_b] = &mut caches;
                let x = first.forward(&mut [Sequence { ids, cache: of_a, logits: Logits::All }])?;
                let y = second.forward(&mut [Sequence { ids, cache: of_b, logits: Logits::All }])?;
                let start = window.start + at;
                let rows = pool.map(ids.len(), |i| {
                    let row = i * vocab_size..(i + 1) * vocab_size;
                    let next = sequence.get(start + i + 1).copied();
                    (at + i >= window.new).then(|| Row::of(&x[row.clone()], &y[row], next))
                });
                for (i, row) in rows.iter().enumerate() {
                    row.iter().for_each(|row| total.add(number, start + i, row));
                }
            }
        }
    }
    if total.positions == 0 {
        return Err(Error::Usage("there are no tokens to compare outputs on"));
    }
    Ok(total)
}
