use ckpt_inspect::ggml::GgmlType;
use proptest::prelude::*;

use super::super::Kernel;
use super::super::activation::{Activation, Forms};
use super::super::packed::Matrix;
use super::super::product::{Output, Stack};
use super::*;

struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as u8
    }
    fn float(&mut self) -> f32 {
        (i32::from(self.next()) * 256 + i32::from(self.next())) as f32 / 32768.0 - 1.0
    }
}

/// One token with digits of one step, in the order of the instruction set.
struct Token<'a>(&'a [i16], &'a [Group]);

/// The products of one tile with three tokens.
struct Tile<'a>(Kind, &'a [Block], [Token<'a>; 3]);

struct Coarse<'a>(Tile<'a>);

impl Tile<'_> {
    #[inline(always)]
    fn of<S: Simd, const COARSE: bool>(&self, s: S) -> [[f32; LANES]; 3] {
        let Tile(kind, blocks, tokens) = self;
        let fours = tokens.each_ref().map(|token| {
            token.0.as_chunks::<4>().0.iter().map(|&digits| s.four(digits)).collect::<Vec<Four>>()
        });
        let digits: [Digits<'_>; 3] =
            std::array::from_fn(|m| Digits { fours: &fours[m], groups: tokens[m].1 });
        let one = kind.tile::<S, COARSE, 1>(s, blocks, [digits[0]]);
        let three = kind.tile::<S, COARSE, 3>(s, blocks, digits);
        assert_eq!(one[0], three[0]);
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = s.widening() {
            let nth = |i: usize| i % 3;
            let many: [Digits<'_>; 6] = std::array::from_fn(|i| digits[nth(i)]);
            for (i, sums) in kind.widened(avx2, blocks, &many).iter().enumerate() {
                assert_eq!(sums, &three[nth(i)], "{kind:?}");
            }
        }
        three
    }
}

impl Work for Tile<'_> {
    type Output = [[f32; LANES]; 3];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        self.of::<S, false>(s)
    }
}

impl Work for Coarse<'_> {
    type Output = [[f32; LANES]; 3];
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        self.0.of::<S, true>(s)
    }
}

/// The plain loop over a tile's elements for one token, in the kernels' order of groups.
fn plain(form: Form, tile: &[Block], lane: usize, digits: &[i16], groups: &[Group]) -> f32 {
    let mut sum = 0.0f32;
    for (at, digits) in digits.chunks_exact(form.group).enumerate() {
        let column = at * form.group;
        let span = &tile[column / form.span_cols() * form.span()..][..form.span()];
        let column = column % form.span_cols();
        let codes = (column..).map(|c| form.code(span, lane, c) - form.less);
        let total: i32 = codes.zip(digits).map(|(code, &digit)| code * i32::from(digit)).sum();
        let (scale, min) = form.terms(span, lane, column);
        let step = groups[at * form.group / GROUP].step;
        sum += scale * step * total as f32;
        if form.mins {
            let digits: i32 = digits.iter().map(|&digit| i32::from(digit)).sum();
            sum += min * -(step * digits as f32);
        }
    }
    sum
}

fn groups_of(digits: &[i16], numbers: &mut Numbers) -> Vec<Group> {
    let sum = |digits: &[i16]| digits.iter().map(|&q| i32::from(q)).sum();
    let group = |digits: &[i16]| Group {
        step: [1.0, 0.25, 2.0][usize::from(numbers.next() % 3)],
        sum: sum(digits),
        halves: [sum(&digits[..GROUP / 2]), sum(&digits[GROUP / 2..])],
    };
    digits.chunks_exact(GROUP).map(group).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every kernel gives what the plain loop over codes gives, up to the largest codes and digits.
    #[test]
    fn tiles_are_exact(spans in 0usize..4, seed in any::<u64>(), extreme in any::<bool>(), coarse in any::<bool>()) {
        let mut numbers = Numbers(seed);
        for &kind in Kind::ALL {
            let form = kind.form();
            let mut tile: Vec<Block> = (0..form.span() * spans)
                .map(|_| Block(std::array::from_fn(|_| if extreme { 255 } else { numbers.next() })))
                .collect();
            for span in tile.chunks_exact_mut(form.span()) {
                // Powers of two, so that fused and separate multiplication agree.
                let factors = if form.cols == GROUP { form.head() } else { 1 };
                for factor in span[..factors].iter_mut().flat_map(|block| block.0.as_chunks_mut::<2>().0) {
                    *factor = f16::from_f32([1.0, 0.5, 0.0, -4.0][usize::from(numbers.next() % 4)]).to_le_bytes();
                }
                for scale in span[factors..form.head()].iter_mut().flat_map(|block| &mut block.0) {
                    *scale = [1, 0, 2, -4i8][usize::from(numbers.next() % 4)] as u8;
                }
            }
            let most: i16 = if coarse { 127 } else { 32639 };
            let cols = form.span_cols() * spans;
            let tokens = [most, -most, 0].map(|extreme_digit| -> Vec<i16> {
                let digit = |numbers: &mut Numbers| match extreme {
                    true => extreme_digit,
                    false => (numbers.float() * f32::from(most)) as i16,
                };
                (0..cols).map(|_| digit(&mut numbers)).collect()
            });
            let groups = tokens.each_ref().map(|digits| groups_of(digits, &mut numbers));
            let want: [[f32; LANES]; 3] = std::array::from_fn(|m| {
                std::array::from_fn(|lane| plain(form, &tile, lane, &tokens[m], &groups[m]))
            });
            for kernel in Kernel::available() {
                let work = || Tile(kind, &tile, std::array::from_fn(|m| Token(&tokens[m], &groups[m])));
                let got = if coarse { kernel.run(Coarse(work())) } else { kernel.run(work()) };
                prop_assert_eq!(got, want, "{} {:?}", kernel.name(), kind);
            }
        }
    }

    /// Rows are the elements that inspecting decodes, to the bit, and products those of f64 within 16 bits of activations.
    #[test]
    fn blocks_of_files_are_kept(
        rows in 1usize..40, blocks in 1usize..4, tokens in 1usize..7, seed in any::<u64>(), threads in 1usize..3,
    ) {
        let pool = Pool::new(threads);
        let mut numbers = Numbers(seed);
        for &kind in Kind::ALL {
            let Some(ggml) = kind.ggml() else { continue };
            // An odd number of blocks of 32 too.
            let cols = blocks * ggml.block_elements();
            let bytes = file_blocks(ggml, rows * blocks, &mut numbers);
            let mut elements = vec![0.0; rows * cols];
            ggml.decoder(&bytes, elements.len()).unwrap().read(0, &mut elements);
            let fine = Coded::of_blocks(&pool, ggml, (rows, cols), &bytes).unwrap();
            let mut row = vec![0.0; cols];
            for (r, want) in elements.chunks_exact(cols).enumerate() {
                fine.row(r, &mut row);
                prop_assert_eq!(&row, want, "{} row {}", ggml, r);
            }
            let x: Vec<f32> = (0..tokens * cols).map(|_| numbers.float()).collect();
            let coarse = Coded::of_blocks(&pool, ggml, (rows, cols), &bytes).unwrap().with(1.0, Rounding::Coarse);
            // Shares of the root of the sum of squared products, which is what the sum of many is in size: half a step
            // of activations is 1/65278 and 1/254 of a group's largest one, and errors are as random as the products.
            for (matrix, bound) in [(Matrix::Coded(fine), 1e-4), (Matrix::Coded(coarse), 0.03)] {
                for kernel in Kernel::available() {
                    let y = multiplied(kernel, &pool, &matrix, &x, cols);
                    for (i, y) in y.into_iter().enumerate() {
                        let (x, w) = (&x[i / rows * cols..][..cols], &elements[i % rows * cols..][..cols]);
                        let products = || w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                        let (want, size) = (products().sum::<f64>(), products().map(|p| p * p).sum::<f64>().sqrt());
                        let off = (f64::from(y) - want).abs() / size.max(1e-30);
                        prop_assert!(off <= bound, "{} {}: off by {}", kernel.name(), ggml, off);
                    }
                }
            }
        }
    }
}

/// Blocks of random codes whose f16 factors are small and finite.
fn file_blocks(ggml: GgmlType, count: usize, numbers: &mut Numbers) -> Vec<u8> {
    let size = ggml.block_bytes().unwrap();
    let mut bytes: Vec<u8> = (0..size * count).map(|_| numbers.next()).collect();
    // Where llama.cpp has the words of a block.
    let factors: &[usize] = match ggml {
        GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
        GgmlType::Q2_K => &[80, 82],
        GgmlType::Q3_K => &[108],
        GgmlType::Q6_K => &[208],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(size) {
        for &at in factors {
            block[at..at + 2].copy_from_slice(&f16::from_f32(numbers.float() / 64.0).to_le_bytes());
        }
    }
    bytes
}

struct Quantize<'a>(&'a mut Activation, Forms);

impl Work for Quantize<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.quantize(s, self.1, ckpt_inspect::measure::Floor::Added(1e-8));
    }
}

fn multiplied(kernel: Kernel, pool: &Pool, matrix: &Matrix, x: &[f32], cols: usize) -> Vec<f32> {
    let mut tokens = Vec::new();
    for x in x.chunks_exact(cols) {
        let mut token = Activation::default();
        token.resize(cols);
        token.x[..cols].copy_from_slice(x);
        kernel.run(Quantize(&mut token, matrix.forms()));
        tokens.push(token);
    }
    let mut out = vec![f32::NAN; tokens.len() * matrix.rows()];
    let output = Output { out: &mut out, width: matrix.rows(), add: false, bias: None, cap: None };
    Stack::multiply(&[matrix], kernel, pool, &tokens, output);
    out
}

/// Activations so small that their quotients would not be finite are zero beside others, and not infinite.
#[test]
fn tiny_activations_vanish() {
    let pool = Pool::new(1);
    let mut numbers = Numbers(5);
    let bytes = file_blocks(GgmlType::Q8_0, 2, &mut numbers);
    let matrix = Matrix::Coded(Coded::of_blocks(&pool, GgmlType::Q8_0, (1, 64), &bytes).unwrap());
    let mut row = [0.0; 64];
    matrix.row(0, &mut row);
    let mut x = [1e-42f32; 64];
    x[..32].fill(1.0);
    let want: f32 = row[..32].iter().sum();
    for kernel in Kernel::available() {
        let y = multiplied(kernel, &pool, &matrix, &x, 64)[0];
        assert!((y - want).abs() <= 1e-5, "{}: {y}, not {want}", kernel.name());
    }
}
