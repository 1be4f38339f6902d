//! How fast a model runs, compared with the machine's limit: each decoded token reads every weight once, so the limit
//! is the read bandwidth divided by the bytes of weights.

use std::hint::black_box;
use std::time::Instant;

use crate::Result;
use crate::cache::{Cache, KvType, WhenFull};
use crate::kernel::pool::{Pool, cuts};
use crate::kernel::simd::{LANES, Simd, Work};
use crate::kernel::{Aligned, Kernel};
use crate::model::{Logits, Model, Runner, Sequence};

/// Tokens that warm up caches and clocks before decoding is timed.
const WARM_UP: usize = 4;
/// The fewest bytes that a measurement of bandwidth reads.
const READ: usize = 1 << 28;
/// The most bytes of memory that it is measured on.
const MOST: usize = 1 << 30;
/// Bytes that one of its tasks reads.
const PART: usize = 1 << 18;

/// The measured times of a piece of work.
#[derive(Clone, Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    /// Runs `work` once more and records its seconds.
    pub fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.push(start.elapsed().as_secs_f64());
        result
    }

    /// Records a time.
    pub fn push(&mut self, seconds: f64) {
        self.0.push(seconds);
    }

    /// The shortest time, because other load on the machine can only make it longer. NaN if there is none.
    pub fn best(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// The median time. NaN if there is none.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
        }
    }
}

/// Ids of an arbitrary prompt, which do not matter for the time.
pub fn some_ids(n: usize, vocab_size: usize) -> Vec<u32> {
    (0..n).map(|i| (i * 7919 % vocab_size.max(1)) as u32).collect()
}

/// Seconds for a prompt of `n` tokens, with the logits of its last.
///
/// # Errors
/// `ContextFull` when the model's context is shorter.
pub fn prefill(runner: &mut Runner<'_>, kv: KvType, n: usize) -> Result<f64> {
    let config = runner.model().config();
    let ids = some_ids(n, config.vocab_size);
    let mut cache = Cache::new(config, kv, WhenFull::Stop);
    let start = Instant::now();
    black_box(runner.forward(&mut [Sequence { ids: &ids, cache: &mut cache, logits: Logits::Last }])?);
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds for each of `n` tokens, one at a time, after `context` tokens; and the bytes of the cache at the end.
///
/// # Errors
/// `ContextFull` when the model's context is shorter than both together.
pub fn decode(runner: &mut Runner<'_>, kv: KvType, context: usize, n: usize) -> Result<(f64, usize)> {
    let config = runner.model().config();
    let mut cache = Cache::new(config, kv, WhenFull::Stop);
    let ids = some_ids(context.max(1) + n, config.vocab_size);
    let (before, tokens) = ids.split_at(context.max(1));
    let (before, warm_up) = before.split_at(before.len().saturating_sub(WARM_UP));
    runner.forward(&mut [Sequence { ids: before, cache: &mut cache, logits: Logits::None }])?;
    let mut step = |id: &u32| -> Result<()> {
        let ids = std::slice::from_ref(id);
        black_box(runner.forward(&mut [Sequence { ids, cache: &mut cache, logits: Logits::Last }])?);
        Ok(())
    };
    warm_up.iter().try_for_each(&mut step)?;
    let start = Instant::now();
    tokens.iter().try_for_each(&mut step)?;
    Ok((start.elapsed().as_secs_f64() / n.max(1) as f64, cache.bytes()))
}

/// Memory to read for [`Memory::read`].
#[derive(Debug)]
pub struct Memory {
    values: Aligned<f32>,
    /// How many times `values` must be read to have read as many bytes as the model has.
    times: f64,
    kernel: Kernel,
}

impl Memory {
    /// As many bytes as one token's weights of `model`, or a GiB that stands for more, to be read with the instructions
    /// it runs with.
    pub fn like(model: &Model) -> Self {
        let bytes = model.bytes_per_token().max(8);
        let mut values = Aligned::zeroed(bytes.min(MOST).div_ceil(4));
        let times = bytes as f64 / (4 * values.len()) as f64;
        // Pages that were never written are all one page of zeros.
        values.fill(1.0);
        Memory { values, times, kernel: model.kernel() }
    }

    /// Seconds to read all of the model's bytes once, on the threads of `pool`, where they are read again and again.
    pub fn read(&self, pool: &Pool) -> f64 {
        let passes = READ / (4 * self.values.len()) + 1;
        let parts: Vec<&[f32]> = self.values.chunks(PART / 4).collect();
        let shares = cuts(0..parts.len(), parts.len().div_ceil(pool.threads()));
        let start = Instant::now();
        for _ in 0..passes {
            pool.run(shares.len() - 1, &|i| {
                for part in &parts[shares[i]..shares[i + 1]] {
                    black_box(self.kernel.run(Sum(black_box(part))));
                }
            });
        }
        self.times * start.elapsed().as_secs_f64() / passes as f64
    }
}

/// The sum of values.
struct Sum<'a>(&'a [f32]);

impl Work for Sum<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let (vectors, rest) = self.0.as_chunks::<LANES>();
        let (fours, few) = vectors.as_chunks::<4>();
        // Four sums, so that no addition waits for the one before.
        let mut sums = [simd.splat(0.0); 4];
        for four in fours {
            for i in 0..4 {
                sums[i] = simd.add(sums[i], simd.load(&four[i]));
            }
        }
        let few = few.iter().flatten().chain(rest).sum::<f32>();
        sums.into_iter().fold(few, |sum, lanes| sum + simd.sum(lanes))
    }
}
