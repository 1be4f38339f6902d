//! From logits to the next token: greedy, or drawn at random after temperature, top-k, top-p and min-p.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How tokens are chosen. Applied in this order: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SampleOptions {
    /// Logits are divided by it; 0 takes the most likely token, and among equals the lowest id.
    pub temperature: f32,
    /// Only the k most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this times as likely as the most likely one; 0 for all.
    pub min_p: f32,
    /// Logits of tokens that occurred are divided by it where positive and multiplied where negative (Keskar et al.
    /// 2019, <https://arxiv.org/abs/1909.05858>); 1 for none.
    pub repetition_penalty: f32,
    /// Random seed. The same seed gives the same tokens from the same logits.
    pub seed: u64,
}

impl Default for SampleOptions {
    /// Greedy, without a penalty.
    fn default() -> Self {
        SampleOptions { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SampleOptions {
    /// These options, with what `change` changes: `SampleOptions::default().with(|o| o.temperature = 0.7)`.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// Chooses tokens, and remembers which ones occurred.
#[derive(Debug)]
pub struct Sampler {
    options: SampleOptions,
    random: ChaCha8Rng,
    seen: HashSet<u32>,
    logits: Vec<f32>,
}

/// A token and its scaled logit, ordered by it, then by the lower id.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    logit: f32,
    id: u32,
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.logit.total_cmp(&other.logit).then(other.id.cmp(&self.id))
    }
}

impl Sampler {
    /// A sampler that has seen no tokens.
    pub fn new(options: &SampleOptions) -> Self {
        let random = ChaCha8Rng::seed_from_u64(options.seed);
        Sampler { options: options.clone(), random, seen: HashSet::new(), logits: Vec::new() }
    }

    /// Records that a token occurred, for the repetition penalty.
    pub fn accept(&mut self, id: u32) {
        if self.options.repetition_penalty != 1.0 {
            self.seen.insert(id);
        }
    }

    /// The next token after `logits`, `[vocab_size]`. NaN counts as impossible; among logits that are all impossible
    /// the first token is chosen.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let penalty = self.options.repetition_penalty;
        let mut penalized = std::mem::take(&mut self.logits);
        let logits = if self.seen.is_empty() {
            logits
        } else {
            penalized.clear();
            penalized.extend_from_slice(logits);
            for &id in &self.seen {
                if let Some(logit) = penalized.get_mut(id as usize) {
                    *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
                }
            }
            &penalized
        };
        let id = if self.options.temperature > 0.0 { self.draw(logits) } else { most_likely(logits) };
        self.logits = penalized;
        id
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let SampleOptions { temperature, top_k, top_p, min_p, .. } = self.options;
        let mut candidates: Vec<Candidate> = (0..)
            .zip(logits)
            .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
            .map(|(id, logit)| Candidate { logit: logit / temperature, id })
            .collect();
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, |a, b| b.cmp(a));
            candidates.truncate(top_k);
        }
        let Some(best) = candidates.iter().copied().max() else { return 0 };
        let weight = |c: &Candidate| f64::from(c.logit - best.logit).exp();
        if top_p < 1.0 {
            let enough = f64::from(top_p) * candidates.iter().map(weight).sum::<f64>();
            let mut heap = BinaryHeap::from(candidates);
            candidates = Vec::new();
            let mut sum = 0.0;
            while let Some(candidate) = heap.pop() {
                sum += weight(&candidate);
                candidates.push(candidate);
                if sum >= enough {
                    break;
                }
            }
        }
        if min_p > 0.0 {
            candidates.retain(|c| weight(c) >= f64::from(min_p));
        }
        // 53 random bits, as many as an f64 below 1 holds.
        let uniform = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut left = uniform * candidates.iter().map(weight).sum::<f64>();
        for candidate in &candidates {
            left -= weight(candidate);
            if left < 0.0 {
                return candidate.id;
            }
        }
        candidates.last().map_or(best.id, |c| c.id)
    }
}

/// The id of the largest logit; among equals the lowest.
fn most_likely(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (id, &logit) in (0..).zip(logits) {
        if logit > best.0 {
            best = (logit, id);
        }
    }
    best.1
}

/// Natural logarithms of the probabilities given by `logits`, summed in f64.
pub fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
    let log_sum = sum.ln();
    logits.iter().map(|&x| (f64::from(x - largest) - log_sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, f32::NAN];

    fn drawn(options: SampleOptions, n: usize) -> Vec<usize> {
        let mut counts = vec![0; LOGITS.len()];
        let mut sampler = Sampler::new(&options);
        (0..n).for_each(|_| counts[sampler.sample(&LOGITS) as usize] += 1);
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(Sampler::new(&SampleOptions::default()).sample(&LOGITS), 1);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let counts = drawn(SampleOptions { temperature: 1.0, seed: 7, ..Default::default() }, 20_000);
        let weights: Vec<f64> = LOGITS[..4].iter().map(|&x| f64::from(x).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            let (share, p) = (*count as f64 / 20_000.0, weight / sum);
            assert!((share - p).abs() < 4.0 * (p * (1.0 - p) / 20_000.0).sqrt(), "{share} for {p}");
        }
        assert_eq!(counts[4], 0);
    }

    #[test]
    fn filters_leave_what_they_say() {
        let base = SampleOptions { temperature: 1.0, seed: 1, ..Default::default() };
        let kept = |options| drawn(options, 2000).iter().map(|&n| n > 0).collect::<Vec<_>>();
        assert_eq!(kept(SampleOptions { top_k: 2, ..base.clone() }), [false, true, false, true, false]);
        // 0.40 each for 1 and 3, 0.15 for 2, 0.05 for 0.
        assert_eq!(kept(SampleOptions { top_p: 0.39, ..base.clone() }), [false, true, false, false, false]);
        assert_eq!(kept(SampleOptions { top_p: 0.9, ..base.clone() }), [false, true, true, true, false]);
        assert_eq!(kept(SampleOptions { min_p: 0.3, ..base.clone() }), [false, true, true, true, false]);
        assert_eq!(kept(SampleOptions { min_p: 0.5, ..base }), [false, true, false, true, false]);
    }

    #[test]
    fn a_seed_repeats_itself() {
        let options = SampleOptions { temperature: 1.5, seed: 42, ..Default::default() };
        let mut first = Sampler::new(&options);
        let mut second = Sampler::new(&options);
        let other = SampleOptions { seed: 43, ..options };
        let mut third = Sampler::new(&other);
        let ids = |sampler: &mut Sampler| (0..50).map(|_| sampler.sample(&LOGITS)).collect::<Vec<_>>();
        let reference = ids(&mut first);
        assert_eq!(reference, ids(&mut second));
        assert_ne!(reference, ids(&mut third));
    }

    #[test]
    fn the_penalty_moves_positive_down_and_negative_down() {
        let mut sampler = Sampler::new(&SampleOptions { repetition_penalty: 2.0, ..Default::default() });
        sampler.accept(1);
        sampler.accept(3);
        assert_eq!(sampler.sample(&LOGITS), 2);
        assert_eq!(sampler.sample(&[-2.5, -1.0, -3.0, -4.0]), 1);
        assert_eq!(sampler.sample(&[-1.5, -1.0, -3.0, -4.0]), 0);
    }

    #[test]
    fn log_softmax_sums_to_one() {
        let logs = log_softmax(&LOGITS[..4]);
        let sum: f64 = logs.iter().map(|&x| f64::from(x).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert!((logs[1] - logs[2] - 1.0).abs() < 1e-6);
    }
}
