//! Products of matrices of codes with many tokens, for AVX2, which multiplies numbers of 16 bits: the codes of a span are
//! unpacked and widened once for all tokens, and so are its scales and mins. They stay in the first-level cache while
//! the tokens pass, four at a time.
//!
//! A register holds the codes of two columns and eight rows, the two of a row side by side: one instruction multiplies
//! them with a token's two digits and adds the products, and no sum crosses lanes.

use super::activation::Activation;
use super::avx2::Avx2;
use super::coded::{Digits, GROUP, Layout, codes, terms};
use super::memory::Block;
use super::packed::Matrix;
use super::product::Product;
use super::simd::{LANES, Simd};

/// With fewer tokens, widening takes longer than it saves.
pub const LEAST: usize = 4;
/// Tokens that are multiplied with a widened span.
pub const TOKENS: usize = 32;
/// Columns that are unpacked together: those of the largest span.
const COLS: usize = 256;
/// Columns of the smallest group.
const LEAST_GROUP: usize = 16;

/// Computes `product` with a matrix of codes.
#[inline(always)]
pub fn multiply<L: Layout>(s: Avx2, mut product: Product<'_, '_>) {
    let Matrix::Coded(m) = product.matrix else { return };
    let mut widened = Widened::new();
    let digits: Vec<Digits<'_>> = product.tokens.iter().map(Activation::as_digits).collect();
    for start in (0..product.out.cols()).step_by(LANES) {
        let tile = m.tile(product.first + start);
        for (nth, x) in digits.chunks(TOKENS).enumerate() {
            let sums = widened.tile::<L>(s, tile, x);
            for (t, sums) in sums.iter().enumerate().take(x.len()) {
                product.put(s, TOKENS * nth + t, start, sums.map(|sum| sum * m.factor));
            }
        }
    }
}

/// The codes of two columns, those of a row side by side.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Pair([i16; 2 * LANES]);

/// A span of a tile, unpacked, or several small ones.
pub struct Widened {
    pairs: [Pair; COLS / 2],
    /// What the codes of each group are multiplied by.
    scales: [[f32; LANES]; COLS / LEAST_GROUP],
    /// What the sum of each group's digits is multiplied by.
    mins: [[f32; LANES]; COLS / LEAST_GROUP],
}

impl Widened {
    /// Room for them.
    pub fn new() -> Self {
        let terms = [[0.0; LANES]; COLS / LEAST_GROUP];
        Widened { pairs: [Pair([0; 2 * LANES]); COLS / 2], scales: terms, mins: terms }
    }

    /// Products of one tile with at most [`TOKENS`] tokens: to the bit those of [`tile`](super::coded::tile).
    #[inline(always)]
    pub fn tile<L: Layout>(&mut self, s: Avx2, tile: &[Block], x: &[Digits<'_>]) -> [[f32; LANES]; TOKENS] {
        let form = L::FORM;
        let mut sums = [[0.0; LANES]; TOKENS];
        let sums_of = &mut sums[..x.len()];
        // Small spans together.
        for (n, spans) in tile.chunks(form.span() * (COLS / form.span_cols())).enumerate() {
            let mut groups = 0;
            for span in spans.chunks_exact(form.span()) {
                self.unpack::<L>(s, span, groups);
                groups += form.span_cols() / form.group;
            }
            let ((fours, rest), (sums_of_fours, sums_of_rest)) = (x.as_chunks(), sums_of.as_chunks_mut());
            for (x, sums) in fours.iter().zip(sums_of_fours) {
                self.multiply::<L, 4>(s, n, groups, x, sums);
            }
            for (x, sums) in rest.iter().zip(sums_of_rest) {
                self.multiply::<L, 1>(s, n, groups, std::array::from_ref(x), std::array::from_mut(sums));
            }
        }
        sums
    }

    /// Unpacks a span, of which the first group becomes group `first`.
    #[inline(always)]
    fn unpack<L: Layout>(&mut self, s: Avx2, span: &[Block], first: usize) {
        let form = L::FORM;
        let pairs = &mut self.pairs[form.group / 2 * first..][..form.span_cols() / 2];
        for (unit, pairs) in pairs.as_chunks_mut::<{ GROUP / 2 }>().0.iter_mut().enumerate() {
            let blocks = &span[form.head() + form.bits() * unit..][..form.bits()];
            for (j, pairs) in pairs.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let [first, last] = s.widen(codes::<Avx2, L>(s, blocks, j));
                *pairs = [Pair(first), Pair(last)];
            }
        }
        for group in 0..form.span_cols() / form.group {
            let nth = form.group * group / form.cols;
            let scales = terms::<Avx2, L>(s, span, form.d(nth), 1, group);
            s.store(scales, &mut self.scales[first + group]);
            if form.mins {
                let mins = terms::<Avx2, L>(s, span, form.dmin(nth), 1 + form.scale_blocks(), group);
                s.store(mins, &mut self.mins[first + group]);
            }
        }
    }

    /// Adds the products with `count` groups, of the `nth` [`COLS`] columns, to `sums`.
    #[inline(always)]
    fn multiply<L: Layout, const M: usize>(
        &self,
        s: Avx2,
        nth: usize,
        count: usize,
        x: &[Digits<'_>; M],
        sums: &mut [[f32; LANES]; M],
    ) {
        let form = L::FORM;
        let fours = x.map(|x| &x.fours[COLS / 4 * nth..][..count * form.group / 4]);
        let groups = x.map(|x| &x.groups[COLS / GROUP * nth..][..count * form.group / GROUP]);
        let width = form.group / 4;
        for group in 0..count {
            // No calls with closures, which would not be compiled for AVX2 where they are not inlined.
            let mut of = [(0.0, 0); M];
            let mut totals = [s.whole(0); M];
            for m in 0..M {
                let group_of = &groups[m][group * form.group / GROUP];
                let digits = if form.group == GROUP { group_of.sum } else { group_of.halves[group % 2] };
                of[m] = (group_of.step, digits);
                totals[m] = s.whole(-form.less * digits);
            }
            let pairs = &self.pairs[2 * width * group..][..2 * width];
            let fours = fours.map(|fours| &fours[width * group..][..width]);
            for (j, pairs) in pairs.as_chunks::<2>().0.iter().enumerate() {
                for (half, pair) in pairs.iter().enumerate() {
                    let codes = s.load_pair(&pair.0);
                    for m in 0..M {
                        let two = i32::from_ne_bytes(fours[m][j].0.as_chunks().0[half]);
                        totals[m] = s.dot_pair(totals[m], codes, two);
                    }
                }
            }
            let scales = s.load(&self.scales[group]);
            for m in 0..M {
                let (step, digits) = of[m];
                let mut sum = s.load(&sums[m]);
                sum = s.fma(s.mul(scales, s.splat(step)), s.float(totals[m]), sum);
                if form.mins {
                    sum = s.fma(s.load(&self.mins[group]), s.splat(-(step * digits as f32)), sum);
                }
                s.store(sum, &mut sums[m]);
            }
        }
    }
}
