//! Products of matrices with blocks of tokens: activations in the forms that matrices ask for, and the work divided
//! among threads.

use super::Kernel;
use super::activation::{Activation, Forms};
#[cfg(target_arch = "x86_64")]
use super::amx;
use super::coded::{self, Layout};
use super::float::{Element, soft_cap, vectors};
use super::packed::{Bytes, Dense, Matrix, Ternary};
use super::pool::{self, Pool, cuts};
use super::simd::{LANES, Simd, Work};
#[cfg(target_arch = "x86_64")]
use super::widened;

/// Matrices with the same input, their outputs side by side.
#[derive(Debug)]
pub struct Stack {
    parts: Vec<Matrix>,
    /// Added to the outputs, one for each; empty for none.
    bias: Vec<f32>,
}

/// The output of a product.
#[derive(Debug)]
pub struct Output<'a> {
    /// [tokens, width]; each row begins with the product's.
    pub out: &'a mut [f32],
    /// Elements per row.
    pub width: usize,
    /// Added to what is there instead of replacing it.
    pub add: bool,
    /// Added to the product, one for each of its columns.
    pub bias: Option<&'a [f32]>,
    /// cap * tanh(y / cap) of the result.
    pub cap: Option<f32>,
}

/// Tokens that one task multiplies: their activations stay in the first-level cache while weights pass.
const TASK_TOKENS: usize = 32;
/// Tasks for each thread, if there are several threads: faster threads take over from slower ones.
const TASKS_PER_THREAD: usize = 3;

impl Stack {
    /// Stacks matrices of equal width, with as many biases as they have rows, or none.
    pub fn new(parts: Vec<Matrix>, bias: Vec<f32>) -> Self {
        Stack { parts, bias }
    }

    /// The biases, which are added to the outputs.
    pub fn bias(&self) -> Option<&[f32]> {
        Some(self.bias.as_slice()).filter(|bias| !bias.is_empty())
    }

    /// Its matrices.
    pub fn parts(&self) -> Vec<&Matrix> {
        self.parts.iter().collect()
    }

    /// Output features altogether.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(Matrix::rows).sum()
    }

    /// Bytes that one token's product reads.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Matrix::bytes).sum()
    }

    /// The forms of activations that its product needs.
    pub fn forms(&self) -> Forms {
        self.parts.iter().map(Matrix::forms).fold(Forms::default(), Forms::and)
    }

    /// Products of all tokens with stacked matrices, divided among the pool's threads.
    pub fn multiply(
        parts: &[&Matrix],
        kernel: Kernel,
        pool: &Pool,
        tokens: &[Activation],
        output: Output<'_>,
    ) {
        let total: usize = parts.iter().map(|part| part.rows()).sum();
        let down = cuts(0..tokens.len(), TASK_TOKENS);
        let tasks = match pool.threads() {
            1 => 1,
            threads => (threads * TASKS_PER_THREAD).div_ceil(down.len() - 1),
        };
        let step = total.div_ceil(tasks).next_multiple_of(LANES);
        let mut starts = Vec::with_capacity(parts.len());
        let mut across = vec![0];
        let mut end = 0;
        for part in parts {
            starts.push(end);
            across.extend((end..end + part.rows()).step_by(step).skip(1));
            end += part.rows();
            across.push(end);
        }
        pool.blocks(output.out, output.width, &down, &across, |row, col, out| {
            let part = starts.partition_point(|&start| start <= col) - 1;
            let tokens = &tokens[row..row + out.rows()];
            let first = col - starts[part];
            let bias = output.bias.map(|bias| &bias[col..]);
            let (add, cap) = (output.add, output.cap);
            kernel.run(Product { matrix: parts[part], tokens, first, out, add, bias, cap });
        });
    }
}

/// The product of some of a matrix's rows with some tokens.
pub struct Product<'a, 'b> {
    /// The weights.
    pub matrix: &'a Matrix,
    /// One activation for each row of `out`.
    pub tokens: &'a [Activation],
    /// The matrix's row that `out`'s first column belongs to: a multiple of [`LANES`].
    pub first: usize,
    /// The output, with tokens as rows and the matrix's rows as columns.
    pub out: pool::Block<'b, f32>,
    /// Added to what is there instead of replacing it.
    pub add: bool,
    /// Added to the product, one for each of `out`'s columns.
    pub bias: Option<&'a [f32]>,
    /// cap * tanh(y / cap) of the result.
    pub cap: Option<f32>,
}

impl Work for Product<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.matrix {
            Matrix::Ternary(m) => self.ternary(s, m),
            Matrix::F32(m) => self.dense(s, m),
            Matrix::F16(m) => self.dense(s, m),
            Matrix::BF16(m) => self.dense(s, m),
            Matrix::Int8(m) => self.bytes(s, m),
            Matrix::Coded(m) => m.kind.multiply(s, self),
        }
    }
}

/// Calls `$body` for runs of tokens, as many at a time as the constants say, largest first.
macro_rules! by_tokens {
    ($tokens:expr, [$($m:literal),*], |$t:ident, $M:ident| $body:expr) => {{
        let mut $t = 0;
        $(
            while $tokens - $t >= $m {
                const $M: usize = $m;
                $body;
                $t += $m;
            }
        )*
    }};
}

impl Product<'_, '_> {
    #[inline(always)]
    fn ternary<S: Simd>(mut self, s: S, m: &Ternary) {
        let tokens = self.tokens;
        #[cfg(target_arch = "x86_64")]
        if let Some(block) = s.amx().and_then(|amx| amx::Tokens::new(amx, tokens.iter().map(|x| &*x.int8))) {
            for start in (0..self.out.cols()).step_by(LANES) {
                let (tile, scales) = m.tile(self.first + start);
                let sums = block.ternary(tile);
                for (t, sums) in sums.iter().enumerate().take(tokens.len()) {
                    self.put(s, t, start, scaled(sums, &tokens[t], scales));
                }
            }
            return;
        }
        for start in (0..self.out.cols()).step_by(LANES) {
            let (tile, scales) = m.tile(self.first + start);
            by_tokens!(tokens.len(), [16, 8, 4, 2, 1], |t, M| {
                let sums = s.ternary::<M>(tile, std::array::from_fn(|i| &*tokens[t + i].int8));
                for (i, sums) in sums.iter().enumerate() {
                    self.put(s, t + i, start, scaled(sums, &tokens[t + i], scales));
                }
            });
        }
    }

    #[inline(always)]
    fn bytes<S: Simd>(mut self, s: S, m: &Bytes) {
        let tokens = self.tokens;
        for start in (0..self.out.cols()).step_by(LANES) {
            let (tile, scales, sums) = m.tile(self.first + start);
            for (t, x) in tokens.iter().enumerate() {
                let [high, low] = s.bytes::<2>(tile, [&x.high, &x.low]);
                let mut y = [0.0; LANES];
                for r in 0..LANES {
                    let high = (high[r] - 128 * sums[r]) as f32;
                    y[r] = (high * 256.0 + low[r] as f32) * (scales[r] * x.int16_scale);
                }
                self.put(s, t, start, y);
            }
        }
    }

    /// The product with a matrix of codes in the layout `L`.
    #[inline(always)]
    pub(super) fn coded<S: Simd, L: Layout>(self, s: S) {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = s.widening().filter(|_| self.tokens.len() >= widened::LEAST) {
            return widened::multiply::<L>(avx2, self);
        }
        match self.tokens.iter().all(Activation::is_coarse) {
            true => self.of_codes::<S, L, true>(s),
            false => self.of_codes::<S, L, false>(s),
        }
    }

    #[inline(always)]
    fn of_codes<S: Simd, L: Layout, const COARSE: bool>(mut self, s: S) {
        let (Matrix::Coded(m), tokens) = (self.matrix, self.tokens) else { return };
        for start in (0..self.out.cols()).step_by(LANES) {
            let tile = m.tile(self.first + start);
            let mut t = 0;
            if S::WIDE {
                while tokens.len() - t >= 4 {
                    let x = std::array::from_fn(|i| tokens[t + i].as_digits());
                    let sums = coded::tile::<S, L, COARSE, 4>(s, tile, x);
                    for sums in sums {
                        self.put(s, t, start, sums.map(|sum| sum * m.factor));
                        t += 1;
                    }
                }
            }
            for (t, x) in tokens.iter().enumerate().skip(t) {
                let [sums] = coded::tile::<S, L, COARSE, 1>(s, tile, [x.as_digits()]);
                self.put(s, t, start, sums.map(|sum| sum * m.factor));
            }
        }
    }

    #[inline(always)]
    fn dense<S: Simd, E: Element>(mut self, s: S, m: &Dense<E>) {
        let tokens = self.tokens;
        for start in (0..self.out.cols()).step_by(LANES) {
            let first = self.first + start;
            let rows = LANES.min(m.rows() - first);
            let row = |r: usize| m.row(first + r.min(rows - 1));
            if S::WIDE {
                by_tokens!(tokens.len(), [4, 1], |t, M| {
                    let mut y = [[0.0; LANES]; M];
                    for r in (0..rows).step_by(4) {
                        let dots = dots(s, [row(r), row(r + 1), row(r + 2), row(r + 3)], {
                            let x: [&[f32]; M] = std::array::from_fn(|i| &*tokens[t + i].x);
                            x
                        });
                        for (y, dots) in y.iter_mut().zip(dots) {
                            y[r..r + 4].copy_from_slice(&dots);
                        }
                    }
                    for (i, y) in y.into_iter().enumerate() {
                        self.put(s, t + i, start, y);
                    }
                });
            } else {
                by_tokens!(tokens.len(), [2, 1], |t, M| {
                    let mut y = [[0.0; LANES]; M];
                    for r in (0..rows).step_by(2) {
                        let dots = dots(s, [row(r), row(r + 1)], {
                            let x: [&[f32]; M] = std::array::from_fn(|i| &*tokens[t + i].x);
                            x
                        });
                        for (y, dots) in y.iter_mut().zip(dots) {
                            y[r..r + 2].copy_from_slice(&dots);
                        }
                    }
                    for (i, y) in y.into_iter().enumerate() {
                        self.put(s, t + i, start, y);
                    }
                });
            }
        }
    }

    /// Writes sixteen results of one token, fewer at the matrix's end.
    #[inline(always)]
    pub(super) fn put<S: Simd>(&mut self, s: S, token: usize, start: usize, mut y: [f32; LANES]) {
        if let Some(bias) = self.bias {
            y.iter_mut().zip(&bias[start..]).for_each(|(y, bias)| *y += bias);
        }
        if let Some(cap) = self.cap {
            let capped = soft_cap(s, s.load(&y), s.splat(cap));
            s.store(capped, &mut y);
        }
        let out = self.out.row(token);
        let out = &mut out[start..];
        if let (Some(out), false) = (out.first_chunk_mut::<LANES>(), self.add) {
            *out = y;
        } else if self.add {
            out.iter_mut().zip(y).for_each(|(out, y)| *out += y);
        } else {
            out.iter_mut().zip(y).for_each(|(out, y)| *out = y);
        }
    }
}

/// Products with ternary codes out of sums of products with codes that are 1 too large.
#[inline(always)]
fn scaled(sums: &[i32; LANES], x: &Activation, scales: &[f32; LANES]) -> [f32; LANES] {
    let mut y = [0.0; LANES];
    for r in 0..LANES {
        y[r] = (sums[r] - x.int8_sum) as f32 * (scales[r] * x.int8_scale / 127.0);
    }
    y
}

/// Dot products of R rows with M tokens: element `[m][r]`.
#[inline(always)]
fn dots<S: Simd, E: Element, const R: usize, const M: usize>(
    s: S,
    rows: [&[E]; R],
    x: [&[f32]; M],
) -> [[f32; R]; M] {
    let rows = rows.map(vectors);
    let x = x.map(vectors);
    let n = rows[0].len();
    let (rows, x) = (rows.map(|row| &row[..n]), x.map(|x| &x[..n]));
    let mut sums = [[s.splat(0.0); R]; M];
    for k in 0..n {
        let mut w = [s.splat(0.0); R];
        for r in 0..R {
            w[r] = E::load(s, &rows[r][k]);
        }
        for m in 0..M {
            let x = s.load(&x[m][k]);
            for r in 0..R {
                sums[m][r] = s.fma(w[r], x, sums[m][r]);
            }
        }
    }
    let mut out = [[0.0; R]; M];
    for m in 0..M {
        for r in 0..R {
            out[m][r] = s.sum(sums[m][r]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use ckpt_inspect::measure::Floor;
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::super::memory::Block;
    use super::super::six;
    use super::*;

    /// Every sum of the tile kernels, for one row of unpacked weights at a time.
    struct Tile<'a, X>(&'a [Block], [&'a [X]; 3]);

    impl Work for Tile<'_, i8> {
        type Output = [[i32; LANES]; 3];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let one = s.ternary::<1>(self.0, [self.1[0]]);
            let three = s.ternary::<3>(self.0, self.1);
            assert_eq!(one[0], three[0]);
            three
        }
    }

    impl Work for Tile<'_, u8> {
        type Output = [[i32; LANES]; 3];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            s.bytes::<3>(self.0, self.1)
        }
    }

    fn multiplied(kernel: Kernel, pool: &Pool, matrix: &Matrix, tokens: &mut [Activation]) -> Vec<f32> {
        let mut out = vec![f32::NAN; tokens.len() * matrix.rows()];
        for token in tokens.iter_mut() {
            kernel.run(Quantize(token, matrix.forms()));
        }
        let output = Output { out: &mut out, width: matrix.rows(), add: false, bias: None, cap: None };
        Stack::multiply(&[matrix], kernel, pool, tokens, output);
        out
    }

    fn ternary(pool: &Pool, codes: &[i8], (rows, cols): (usize, usize), scales: Vec<f32>) -> Matrix {
        let row = |i: usize, out: &mut [f32]| {
            out.iter_mut().zip(&codes[i * cols..]).for_each(|(out, &code)| *out = code.into());
        };
        Matrix::Ternary(Ternary::of_signs(Kernel::best(), pool, (rows, cols), scales, row))
    }

    struct Quantize<'a>(&'a mut Activation, Forms);

    impl Work for Quantize<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            self.0.quantize(s, self.1, Floor::Added(1e-8));
        }
    }

    fn activations(values: &[f32], cols: usize) -> Vec<Activation> {
        let of = |row: &[f32]| {
            let mut activation = Activation::default();
            activation.resize(cols);
            activation.x[..cols].copy_from_slice(row);
            activation
        };
        values.chunks_exact(cols).map(of).collect()
    }

    /// A BitLinear in its simplest form: quantized activation, integer dot product, one product of scales.
    fn bitlinear(codes: &[i8], x: &[f32], scale: f32) -> f32 {
        let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs())) + 1e-8;
        let quantized = x.iter().map(|x| (x / largest * 127.0).clamp(-128.0, 127.0).round_ties_even() as i32);
        let dot: i32 = quantized.zip(codes).map(|(x, &w)| x * i32::from(w)).sum();
        dot as f32 * (scale * largest / 127.0)
    }

    /// Rows, columns and tokens of odd sizes, and numbers to fill them with.
    fn sizes() -> impl Strategy<Value = (usize, usize, usize, u64)> {
        (1usize..70, 1usize..700, 1usize..40, any::<u64>())
    }

    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u32 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as u32
        }
        fn code(&mut self) -> i8 {
            (self.next() % 3) as i8 - 1
        }
        fn float(&mut self) -> f32 {
            self.next() as f32 / (1u32 << 30) as f32 - 1.0
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn tiles_are_the_plain_integer_loop(blocks in 1usize..70, seed in any::<u64>(), extreme in any::<bool>()) {
            let mut numbers = Numbers(seed);
            // The largest possible sums, or random ones: codes 0 to 2 in every plane.
            let mut byte = || if extreme { 0xaa } else {
                (0..4).fold(0u8, |byte, _| byte << 2 | (numbers.next() % 3) as u8)
            };
            let tile: Vec<Block> = (0..blocks).map(|_| Block(std::array::from_fn(|_| byte()))).collect();
            let mut numbers = Numbers(!seed);
            let x: Vec<Vec<i8>> = (0..3i8).map(|m| {
                (0..16 * blocks).map(|_| if extreme { [-128, 127, -127][m as usize] } else { numbers.next() as i8 })
                    .collect()
            }).collect();
            let u: Vec<Vec<u8>> = x.iter().map(|x| x[..4 * blocks].iter().map(|&x| x as u8).collect()).collect();
            let mut ternary = [[0i32; LANES]; 3];
            let mut bytes = ternary;
            for (b, block) in tile.iter().enumerate() {
                for (at, &byte) in block.0.iter().enumerate() {
                    for m in 0..3 {
                        for p in 0..4 {
                            let code = i32::from(byte >> (2 * p) & 3);
                            ternary[m][at / 4] += code * i32::from(x[m][16 * b + 4 * p + at % 4]);
                        }
                        bytes[m][at / 4] += i32::from(byte as i8) * i32::from(u[m][4 * b + at % 4]);
                    }
                }
            }
            for kernel in Kernel::available() {
                prop_assert_eq!(kernel.run(Tile(&tile, [&x[0], &x[1], &x[2]])), ternary, "{}", kernel.name());
                prop_assert_eq!(kernel.run(Tile(&tile, [&u[0], &u[1], &u[2]])), bytes, "{}", kernel.name());
            }
        }

        #[test]
        fn ternary_products_are_exact((rows, cols, tokens, seed) in sizes(), threads in 1usize..4) {
            let mut numbers = Numbers(seed);
            let codes: Vec<i8> = (0..rows * cols).map(|_| numbers.code()).collect();
            let scales: Vec<f32> = (0..rows).map(|_| numbers.float()).collect();
            let x: Vec<f32> = (0..tokens * cols).map(|_| numbers.float()).collect();
            let pool = Pool::new(threads);
            let matrix = ternary(&pool, &codes, (rows, cols), scales.clone());
            for kernel in Kernel::available() {
                let y = multiplied(kernel, &pool, &matrix, &mut activations(&x, cols));
                for (i, y) in y.into_iter().enumerate() {
                    let (token, row) = (i / rows, i % rows);
                    let want = bitlinear(&codes[row * cols..][..cols], &x[token * cols..][..cols], scales[row]);
                    prop_assert_eq!(y, want, "{} token {} row {}", kernel.name(), token, row);
                }
            }
        }

        #[test]
        fn packing_follows_the_absmean_rule((rows, cols, _, seed) in sizes(), per_row in any::<bool>()) {
            let mut numbers = Numbers(seed);
            let weights: Vec<f32> = (0..rows * cols).map(|_| numbers.float()).collect();
            let mean = |w: &[f32]| (w.iter().map(|w| f64::from(w.abs())).sum::<f64>() / w.len() as f64) as f32;
            let pool = Pool::new(2);
            for kernel in Kernel::available() {
                let matrix =
                    Ternary::absmean(kernel, &pool, &weights, (rows, cols), Floor::Added(1e-8), per_row).map(Matrix::Ternary).unwrap();
                let mut row = vec![0.0; cols];
                for (r, w) in weights.chunks_exact(cols).enumerate() {
                    let scale = if per_row { mean(w) } else { mean(&weights) } + 1e-8;
                    matrix.row(r, &mut row);
                    for (&w, &got) in w.iter().zip(&row) {
                        let want = (w / scale).round_ties_even().clamp(-1.0, 1.0) * scale;
                        // Sums of other orders may differ in the last place of the scale, not in a code.
                        prop_assert!((want - got).abs() <= scale * 2e-7, "{}: {got} for {want}", kernel.name());
                    }
                }
            }
        }

        #[test]
        fn float_int8_and_six_bit_products_are_close((rows, cols, tokens, seed) in sizes()) {
            let mut numbers = Numbers(seed);
            let weights: Vec<f32> = (0..rows * cols).map(|_| numbers.float()).collect();
            let x: Vec<f32> = (0..tokens * cols).map(|_| numbers.float()).collect();
            let pool = Pool::new(2);
            let row = |r: usize| &weights[r * cols..][..cols];
            let shape = (rows, cols);
            let six = six::quantize(Kernel::best(), &pool, shape, |r, out| out.copy_from_slice(row(r)));
            let matrices = [
                Matrix::Coded(six),
                Matrix::F32(Dense::new(&pool, shape, |r, out| out.copy_from_slice(row(r)))),
                Matrix::F16(Dense::new(&pool, shape, |r, out| {
                    out.iter_mut().zip(row(r)).for_each(|(out, &x)| *out = f16::of(x));
                })),
                Matrix::BF16(Dense::new(&pool, shape, |r, out| {
                    out.iter_mut().zip(row(r)).for_each(|(out, &x)| *out = bf16::of(x));
                })),
                Matrix::Int8(Bytes::quantize(Kernel::best(), &pool, shape, |r, out| out.copy_from_slice(row(r)))),
            ];
            for (matrix, step) in matrices.iter().zip([0.017, 0.0, 5e-4, 4e-3, 4e-3]) {
                let mut stored = vec![0.0; cols];
                for kernel in Kernel::available() {
                    let y = multiplied(kernel, &pool, matrix, &mut activations(&x, cols));
                    for r in 0..rows {
                        matrix.row(r, &mut stored);
                        for (w, stored) in row(r).iter().zip(&stored) {
                            prop_assert!((w - stored).abs() <= step, "{w} stored as {stored}");
                        }
                        for t in 0..tokens {
                            let pairs = stored.iter().zip(&x[t * cols..][..cols]);
                            let want: f64 = pairs.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                            let off = (f64::from(y[t * rows + r]) - want).abs();
                            // Rounding of sums, and of 16-bit activations.
                            prop_assert!(off <= 2e-5 * (cols as f64), "{}: off by {off}", kernel.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nan_does_not_vanish() {
        let pool = Pool::new(1);
        let shape = (2, 20);
        for kernel in Kernel::available() {
            let matrices = [
                ternary(&pool, &[1; 40], shape, vec![1.0; 2]),
                Matrix::Int8(Bytes::quantize(kernel, &pool, shape, |_, out| out.fill(1.0))),
                Matrix::Coded(six::quantize(kernel, &pool, shape, |_, out| out.fill(1.0))),
            ];
            for bad in [f32::NAN, f32::INFINITY] {
                let mut x = vec![0.5; 20];
                x[3] = bad;
                for matrix in &matrices {
                    let y = multiplied(kernel, &pool, matrix, &mut activations(&x, 20));
                    assert!(y.iter().all(|y| y.is_nan()), "{} {bad}: {y:?}", kernel.name());
                }
            }
            let bad = Matrix::Coded(six::quantize(kernel, &pool, shape, |i, out| {
                out.fill(if i == 1 { f32::NAN } else { 1.0 })
            }));
            let y = multiplied(kernel, &pool, &bad, &mut activations(&[0.5; 20], 20));
            assert!(y.iter().any(|y| y.is_nan()), "{}: {y:?}", kernel.name());
        }
    }
}
