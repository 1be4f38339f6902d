//! Attention of a block of queries over the KV cache: scores, soft cap, causal softmax, weighted values.
//!
//! Keys are transposed in their pages, so sixteen positions' scores are summed at once, over the head's elements in
//! order; values are summed over positions in order. A query's result therefore does not depend on which other
//! queries are computed with it: decoding gives what prefill gave, to the last bit.

use crate::cache::{PAGE, Paged};
use crate::kernel::float::{Element, exp, soft_cap, vectors, vectors_mut};
use crate::kernel::simd::{LANES, Simd, Work};

/// Queries that share their loads of keys and values.
const TOGETHER: usize = 4;
const VECTORS: usize = PAGE / LANES;

/// One KV head's attention for the queries that use it.
pub(crate) struct Attend<'a, E> {
    pub pages: &'a Paged<E>,
    pub layer: usize,
    pub head: usize,
    /// Queries [n, value_dim], rotated.
    pub queries: &'a [f32],
    /// Position of each query.
    pub positions: &'a [usize],
    /// The most positions that a query sees, including its own.
    pub window: usize,
    /// 1 / sqrt(head_dim).
    pub scale: f32,
    /// cap * tanh(score / cap).
    pub cap: Option<f32>,
    /// Results [n, value_dim].
    pub out: &'a mut [f32],
}

impl<E: Element> Work for Attend<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (n, mut scores) = (self.positions.len(), Vec::new());
        let mut q = 0;
        if S::WIDE {
            while q + TOGETHER <= n {
                self.queries::<S, TOGETHER>(s, q, &mut scores);
                q += TOGETHER;
            }
            if q + 3 == n {
                self.queries::<S, 3>(s, q, &mut scores);
                q += 3;
            }
        }
        while q < n {
            self.queries::<S, 1>(s, q, &mut scores);
            q += 1;
        }
    }
}

impl<E: Element> Attend<'_, E> {
    /// Queries `first` to `first + M`.
    #[inline(always)]
    fn queries<S: Simd, const M: usize>(&mut self, s: S, first: usize, scores: &mut Vec<f32>) {
        let ends: [usize; M] = std::array::from_fn(|m| self.positions[first + m] + 1);
        let starts = ends.map(|end| end.saturating_sub(self.window));
        let first_page = starts.iter().fold(usize::MAX, |a, &b| a.min(b)) / PAGE;
        let end = ends.iter().fold(0, |a, &b| a.max(b));
        let base = first_page * PAGE;
        // Scores of positions from `base`, whole vectors.
        let row = (end - base).next_multiple_of(PAGE);
        scores.resize(M * row, 0.0);
        for page in first_page..end.div_ceil(PAGE) {
            let (keys, _) = self.pages.page(page, self.layer, self.head);
            self.score::<S, M>(s, first, keys, page * PAGE - base, row, scores);
        }
        for m in 0..M {
            let scores = &mut scores[m * row..][..row];
            softmax(s, scores, starts[m] - base, ends[m] - base);
        }
        let dim = self.pages.value_dim;
        let mut at = 0;
        while at + 4 * LANES <= dim {
            self.values::<S, M, 4>(s, first, (first_page, end), at, row, scores);
            at += 4 * LANES;
        }
        while at < dim {
            self.values::<S, M, 1>(s, first, (first_page, end), at, row, scores);
            at += LANES;
        }
    }

    /// Scores of one page's positions.
    #[inline(always)]
    fn score<S: Simd, const M: usize>(
        &self,
        s: S,
        first: usize,
        keys: &[E],
        at: usize,
        row: usize,
        scores: &mut [f32],
    ) {
        let dim = self.pages.head_dim;
        let queries: [&[f32]; M] =
            std::array::from_fn(|m| &self.queries[(first + m) * self.pages.value_dim..][..dim]);
        let mut sums = [[s.splat(0.0); VECTORS]; M];
        for (d, keys) in keys.as_chunks::<PAGE>().0.iter().enumerate().take(dim) {
            let mut k = [s.splat(0.0); VECTORS];
            for (k, keys) in k.iter_mut().zip(vectors(keys)) {
                *k = E::load(s, keys);
            }
            for m in 0..M {
                let q = s.splat(queries[m][d]);
                for v in 0..VECTORS {
                    sums[m][v] = s.fma(q, k[v], sums[m][v]);
                }
            }
        }
        let scale = s.splat(self.scale);
        for m in 0..M {
            let out = vectors_mut(&mut scores[m * row + at..][..PAGE]);
            for v in 0..VECTORS {
                let mut score = s.mul(sums[m][v], scale);
                if let Some(cap) = self.cap {
                    score = soft_cap(s, score, s.splat(cap));
                }
                s.store(score, &mut out[v]);
            }
        }
    }

    /// C vectors of the weighted values, from element `at` on.
    #[inline(always)]
    fn values<S: Simd, const M: usize, const C: usize>(
        &mut self,
        s: S,
        first: usize,
        (first_page, end): (usize, usize),
        at: usize,
        row: usize,
        weights: &[f32],
    ) {
        let dim = self.pages.value_dim;
        let base = first_page * PAGE;
        let mut sums = [[s.splat(0.0); C]; M];
        for page in first_page..end.div_ceil(PAGE) {
            let (_, values) = self.pages.page(page, self.layer, self.head);
            let here = page * PAGE - base;
            let n = PAGE.min(end - page * PAGE);
            let weights: [&[f32]; M] = std::array::from_fn(|m| &weights[m * row + here..][..n]);
            for (j, value) in values.chunks_exact(dim).enumerate().take(n) {
                let value = vectors(&value[at..at + C * LANES]);
                let mut v = [s.splat(0.0); C];
                for c in 0..C {
                    v[c] = E::load(s, &value[c]);
                }
                for m in 0..M {
                    let p = s.splat(weights[m][j]);
                    for c in 0..C {
                        sums[m][c] = s.fma(p, v[c], sums[m][c]);
                    }
                }
            }
        }
        for (m, sums) in sums.into_iter().enumerate() {
            let out = vectors_mut(&mut self.out[(first + m) * dim + at..][..C * LANES]);
            for (sum, out) in sums.into_iter().zip(out) {
                s.store(sum, out);
            }
        }
    }
}

/// Softmax of `scores[start..end]`; 0 outside.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32], start: usize, end: usize) {
    scores[..start].fill(f32::NEG_INFINITY);
    scores[end..].fill(f32::NEG_INFINITY);
    let mut largest = s.splat(f32::NEG_INFINITY);
    for x in vectors(scores) {
        largest = s.max(s.load(x), largest);
    }
    let largest = s.splat(s.largest(largest));
    let mut sum = s.splat(0.0);
    for x in vectors_mut(scores) {
        let p = exp(s, s.sub(s.load(x), largest));
        sum = s.add(sum, p);
        s.store(p, x);
    }
    let sum = s.splat(s.sum(sum));
    for x in vectors_mut(scores) {
        s.store(s.div(s.load(x), sum), x);
    }
}
