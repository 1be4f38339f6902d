//! Matrices of codes of few bits with a scale, and sometimes a min, for each group of a row's columns: the quantized
//! types of GGUF files, whose numbers they keep, and six bits for embeddings and heads.
//!
//! An element is `d * scale * (code - less) - dmin * min`. d and dmin are f16, for each row and 32 columns, and then
//! there are no other scales; or for each row and 256 columns, with a scale and a min of 8 bits for each group of them.
//!
//! Tiles of sixteen rows are a run of spans of 64 or 256 columns. A span begins with its terms, sixteen rows' side by
//! side: of 64 columns a block with the d of the first and the second 32, and a block with the dmin of both if there are
//! any; of 256 columns a block with d and dmin, then four groups' scales in a block, and so the mins. The codes of every
//! 32 columns follow, a block for each bit; in each, bytes 4r to 4r + 3 belong to row r. Byte i of these has the low bits
//! of column 4j + i at the bottom, and above them those of columns 4j + 4 + i and so on, as many as fit; the blocks after
//! have the high bits in the same way.

use std::marker::PhantomData;

use ckpt_inspect::ggml::{GgmlType, Parts};
use half::f16;

use super::activation::Rounding;
use super::memory::Block;
use super::pool::{Pool, cuts};
use super::product::Product;
use super::simd::{Four, LANES, Simd, Work};

/// Columns whose activations share a step.
pub const GROUP: usize = 32;
/// Activations are padded to so many columns.
pub const SPAN_COLS: usize = 64;

/// How the codes and terms of a kind of matrix are laid out.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Columns that share d: 32 or 256.
    pub(super) cols: usize,
    /// Columns that share a scale: 16 or 32.
    pub(super) group: usize,
    /// Low bits of a code, which lie together: 2, 4 or 8.
    low: usize,
    /// The bits above: 0, 1 or 2.
    high: usize,
    /// Subtracted from codes.
    pub(super) less: i32,
    /// Whether there are mins.
    pub(super) mins: bool,
}

impl Form {
    /// Columns of a span.
    pub(super) const fn span_cols(self) -> usize {
        if self.cols == GROUP { SPAN_COLS } else { self.cols }
    }

    /// Blocks of the scales of a span's groups.
    pub(super) const fn scale_blocks(self) -> usize {
        if self.cols == GROUP { 0 } else { self.cols / self.group / 4 }
    }

    /// Blocks before the codes.
    pub(super) const fn head(self) -> usize {
        let mins = self.mins as usize;
        if self.cols == GROUP { 1 + mins } else { 1 + self.scale_blocks() * (1 + mins) }
    }

    /// Blocks of the codes of 32 columns.
    pub(super) const fn bits(self) -> usize {
        self.low + self.high
    }

    /// Blocks of a span.
    pub(super) const fn span(self) -> usize {
        self.head() + self.bits() * (self.span_cols() / GROUP)
    }

    /// The block of the `nth` d of a span, and its half there.
    pub(super) const fn d(self, nth: usize) -> (usize, usize) {
        (0, nth)
    }

    /// The block of the `nth` dmin of a span, and its half there.
    pub(super) const fn dmin(self, nth: usize) -> (usize, usize) {
        if self.cols == GROUP { (1, nth) } else { (0, 1) }
    }

    /// Writes what codes of one row are multiplied by: `terms` of the `nth` run of a span that shares d.
    pub(super) fn put_d(self, span: &mut [Block], lane: usize, nth: usize, d: [u8; 2]) {
        let (block, half) = self.d(nth);
        span[block].0[32 * half + 2 * lane..][..2].copy_from_slice(&d);
    }

    fn put_terms(self, span: &mut [Block], lane: usize, nth: usize, parts: &Parts) {
        let terms = &parts.terms;
        self.put_d(span, lane, nth, terms.d);
        if self.mins {
            let (block, half) = self.dmin(nth);
            span[block].0[32 * half + 2 * lane..][..2].copy_from_slice(&terms.dmin);
        }
        let blocks = self.scale_blocks();
        for group in 0..4 * blocks {
            let at = 16 * (group % 4) + lane;
            span[1 + group / 4].0[at] = terms.scales[group] as u8;
            if self.mins {
                span[1 + blocks + group / 4].0[at] = terms.mins[group] as u8;
            }
        }
    }

    /// Writes the codes of one row and the `nth` 32 columns of a span.
    pub(super) fn put_codes(self, span: &mut [Block], lane: usize, nth: usize, codes: &[u8; GROUP]) {
        let blocks = &mut span[self.head() + self.bits() * nth..][..self.bits()];
        let (low, high) = blocks.split_at_mut(self.low);
        let put = |blocks: &mut [Block], from: usize, bits: usize| {
            let each = 0x0101_0101 * ((1u32 << bits) - 1);
            // Bits divide a byte, so that this many columns share one.
            let together = 8 / bits;
            for (block, codes) in blocks.iter_mut().zip(codes.chunks_exact(4 * together)) {
                let mut word = 0;
                for (i, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
                    word |= (u32::from_le_bytes(*codes) >> from & each) << (bits * i);
                }
                block.0[4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
            }
        };
        put(low, 0, self.low);
        if self.high > 0 {
            put(high, self.low, self.high);
        }
    }

    /// The code of one row and column of a span.
    fn code(self, span: &[Block], lane: usize, column: usize) -> i32 {
        let (blocks, c) = (&span[self.head() + self.bits() * (column / GROUP)..], column % GROUP);
        let bits = |first: usize, n: usize| match n {
            0 => 0,
            _ => {
                let (j, apart) = (c / 4, 8 / n);
                let byte = blocks[first + j / apart].0[4 * lane + c % 4];
                i32::from(byte) >> (n * (j % apart)) & ((1 << n) - 1)
            }
        };
        bits(0, self.low) | bits(self.low, self.high) << self.low
    }

    /// The scale and the min of one row and column of a span.
    fn terms(self, span: &[Block], lane: usize, column: usize) -> (f32, f32) {
        let half = |(block, half): (usize, usize)| {
            let at = 32 * half + 2 * lane;
            f16::from_le_bytes([span[block].0[at], span[block].0[at + 1]]).to_f32()
        };
        let (nth, group, blocks) = (column / self.cols, column / self.group, self.scale_blocks());
        let of_group = |first: usize| match blocks {
            0 => 1.0,
            _ => f32::from(span[first + group / 4].0[16 * (group % 4) + lane] as i8),
        };
        let min = if self.mins { half(self.dmin(nth)) * of_group(1 + blocks) } else { 0.0 };
        (half(self.d(nth)) * of_group(1), min)
    }
}

/// A [`Form`] that is known when kernels are compiled.
pub(super) trait Layout {
    const FORM: Form;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident($ggml:expr) = $cols:literal / $group:literal, $low:literal + $high:literal,
       less $less:literal, mins $mins:literal;)*) => {
        /// The kinds of matrices of codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(non_camel_case_types, missing_docs)] // GGML's own names
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        mod layouts {
            use super::{Form, Layout};
            $(
                #[allow(non_camel_case_types)]
                pub enum $name {}
                impl Layout for $name {
                    const FORM: Form = Form {
                        cols: $cols, group: $group, low: $low, high: $high, less: $less, mins: $mins,
                    };
                }
            )*
        }

        impl Kind {
            /// All of them.
            #[cfg(test)]
            pub(super) const ALL: &[Kind] = &[$(Kind::$name),*];

            /// How it is laid out.
            pub(super) fn form(self) -> Form {
                match self {
                    $(Kind::$name => layouts::$name::FORM,)*
                }
            }

            /// The type of GGUF's blocks that it keeps.
            fn ggml(self) -> Option<GgmlType> {
                match self {
                    $(Kind::$name => $ggml,)*
                }
            }

            /// The kind that keeps blocks of this type.
            pub fn of(ggml: GgmlType) -> Option<Kind> {
                [$(Kind::$name),*].into_iter().find(|kind| kind.ggml() == Some(ggml))
            }

            /// Computes `product` with the kernel for this kind.
            #[inline(always)]
            pub(super) fn multiply<S: Simd>(self, s: S, product: Product<'_, '_>) {
                match self {
                    $(Kind::$name => s.run(Multiply(product, PhantomData::<layouts::$name>)),)*
                }
            }

            /// [`tile`] with the kernel for this kind.
            #[cfg(test)]
            #[inline(always)]
            fn tile<S: Simd, const COARSE: bool, const M: usize>(
                self,
                s: S,
                blocks: &[Block],
                x: [Digits<'_>; M],
            ) -> [[f32; LANES]; M] {
                match self {
                    $(Kind::$name => tile::<S, layouts::$name, COARSE, M>(s, blocks, x),)*
                }
            }

            /// The same with widened codes, for any number of tokens.
            #[cfg(all(test, target_arch = "x86_64"))]
            #[inline(always)]
            fn widened(
                self,
                s: super::avx2::Avx2,
                blocks: &[Block],
                x: &[Digits<'_>],
            ) -> Vec<[f32; LANES]> {
                let mut widened = super::widened::Widened::new();
                let sums = match self {
                    $(Kind::$name => widened.tile::<layouts::$name>(s, blocks, x),)*
                };
                sums[..x.len()].to_vec()
            }
        }
    };
}

// Columns that share d and columns that share a scale, low and high bits, what is subtracted from codes, and whether
// there are mins.
kinds! {
    Q8_0(Some(GgmlType::Q8_0)) = 32 / 32, 8 + 0, less 128, mins false;
    Q4_0(Some(GgmlType::Q4_0)) = 32 / 32, 4 + 0, less 8, mins false;
    Q4_1(Some(GgmlType::Q4_1)) = 32 / 32, 4 + 0, less 0, mins true;
    Q5_0(Some(GgmlType::Q5_0)) = 32 / 32, 4 + 1, less 16, mins false;
    Q5_1(Some(GgmlType::Q5_1)) = 32 / 32, 4 + 1, less 0, mins true;
    Q2_K(Some(GgmlType::Q2_K)) = 256 / 16, 2 + 0, less 0, mins true;
    Q3_K(Some(GgmlType::Q3_K)) = 256 / 16, 2 + 1, less 4, mins false;
    Q4_K(Some(GgmlType::Q4_K)) = 256 / 32, 4 + 0, less 0, mins true;
    Q5_K(Some(GgmlType::Q5_K)) = 256 / 32, 4 + 1, less 0, mins true;
    Q6_K(Some(GgmlType::Q6_K)) = 256 / 16, 4 + 2, less 32, mins false;
    /// Six bits, see [`super::six`].
    Six(None) = 32 / 32, 4 + 2, less 32, mins false;
}

struct Multiply<'a, 'b, L>(Product<'a, 'b>, PhantomData<L>);

impl<L: Layout> Work for Multiply<'_, '_, L> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.coded::<S, L>(s);
    }
}

/// A matrix of `rows` x `cols` codes.
#[derive(Debug)]
pub struct Coded {
    pub(super) kind: Kind,
    pub(super) blocks: Vec<Block>,
    /// The factor of all elements.
    pub(super) factor: f32,
    /// How activations are rounded for it.
    pub(super) rounding: Rounding,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl Coded {
    /// Lays out rows that `pack(row, lane, spans)` writes to their lane of the spans of a tile.
    pub(super) fn packed(
        pool: &Pool,
        kind: Kind,
        (rows, cols): (usize, usize),
        pack: impl Fn(usize, usize, &mut [Block]) + Sync,
    ) -> Self {
        let (form, tiles) = (kind.form(), rows.div_ceil(LANES));
        let tile_blocks = form.span() * cols.div_ceil(form.span_cols());
        let mut blocks: Vec<Block> = bytemuck::zeroed_vec(tiles * tile_blocks);
        pool.blocks(&mut blocks, tile_blocks, &cuts(0..tiles, 1), &[0, tile_blocks], |tile, _, mut out| {
            for lane in 0..LANES.min(rows - tile * LANES) {
                pack(tile * LANES + lane, lane, out.row(0));
            }
        });
        Coded { kind, blocks, factor: 1.0, rounding: Rounding::Fine, rows, cols }
    }

    /// Whether blocks of this type are kept.
    pub fn keeps(ggml: GgmlType) -> bool {
        Kind::of(ggml).is_some()
    }

    /// The factor of all elements.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// The matrix whose rows are blocks of `ggml`, in `bytes`; `None` for a type that is not kept in blocks, and where
    /// bytes do not fill the shape.
    pub fn of_blocks(
        pool: &Pool,
        ggml: GgmlType,
        (rows, cols): (usize, usize),
        bytes: &[u8],
    ) -> Option<Self> {
        let (kind, split, size) = (Kind::of(ggml)?, ggml.splitter()?, ggml.block_bytes()?);
        if ggml.bytes_for(&[rows, cols]) != Some(bytes.len() as u64) {
            return None;
        }
        let (form, row_bytes) = (kind.form(), cols / ggml.block_elements() * size);
        let runs = form.span_cols() / form.cols;
        Some(Coded::packed(pool, kind, (rows, cols), |row, lane, spans| {
            let mut parts = Parts::default();
            for (nth, block) in bytes[row * row_bytes..][..row_bytes].chunks_exact(size).enumerate() {
                split(block, &mut parts);
                let span = &mut spans[nth / runs * form.span()..][..form.span()];
                form.put_terms(span, lane, nth % runs, &parts);
                let groups = form.cols / GROUP;
                for (i, codes) in parts.codes.as_chunks::<GROUP>().0.iter().enumerate().take(groups) {
                    form.put_codes(span, lane, nth % runs * groups + i, codes);
                }
            }
        }))
    }

    /// The same matrix with a factor of all elements, and another rounding of activations.
    pub fn with(self, factor: f32, rounding: Rounding) -> Self {
        Coded { factor, rounding, ..self }
    }

    /// The tile that begins with row `first`.
    #[inline(always)]
    pub(super) fn tile(&self, first: usize) -> &[Block] {
        let form = self.kind.form();
        let blocks = form.span() * self.cols.div_ceil(form.span_cols());
        &self.blocks[first / LANES * blocks..][..blocks]
    }

    /// Row `row` in f32.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (form, tile, lane) = (self.kind.form(), self.tile(row), row % LANES);
        let spans = tile.chunks_exact(form.span()).zip(out.chunks_mut(form.span_cols()));
        for (span, out) in spans {
            for (nth, out) in out.chunks_mut(form.group).enumerate() {
                let (scale, min) = form.terms(span, lane, nth * form.group);
                for (c, out) in out.iter_mut().enumerate() {
                    let code = form.code(span, lane, nth * form.group + c) - form.less;
                    let product = scale * code as f32;
                    *out = if form.mins { product - min } else { product };
                }
            }
        }
        if self.factor != 1.0 {
            out.iter_mut().for_each(|x| *x *= self.factor);
        }
    }
}

/// What activations of [`GROUP`] columns have in common.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    /// What digits are multiplied by.
    pub step: f32,
    /// The sum of digits.
    pub sum: i32,
    /// Those of the first and the other sixteen.
    pub halves: [i32; 2],
}

/// One token's activations: digits of a step for each group.
#[derive(Clone, Copy)]
pub struct Digits<'a> {
    /// The digits of four columns each, whole spans.
    pub fours: &'a [Four],
    /// Whole spans.
    pub groups: &'a [Group],
}

/// The codes of columns 4j to 4j + 3 out of the blocks of 32 columns.
#[inline(always)]
pub(super) fn codes<S: Simd, L: Layout>(s: S, blocks: &[Block], j: usize) -> S::Codes {
    let Form { low, high, .. } = L::FORM;
    let field = |first: usize, bits: usize, to: usize| {
        let apart = 8 / bits;
        let mask = ((1u32 << bits) - 1) << to;
        (&blocks[first + j / apart], (bits * (j % apart)) as i32 - to as i32, mask as u8)
    };
    let low_bits = match low {
        8 => s.codes_of(&blocks[j]),
        _ => {
            let (block, right, mask) = field(0, low, 0);
            s.field(s.codes_of(block), right, mask)
        }
    };
    if high == 0 {
        return low_bits;
    }
    let (block, right, mask) = field(low, high, low);
    s.or(low_bits, s.field(s.codes_of(block), right, mask))
}

/// Sixteen numbers that are products of d or dmin and those of a group.
#[inline(always)]
pub(super) fn terms<S: Simd, L: Layout>(
    s: S,
    span: &[Block],
    (block, half): (usize, usize),
    first: usize,
    group: usize,
) -> S::F {
    let halves: &[[f16; LANES]; 2] = bytemuck::cast_ref(&span[block]);
    let factor = s.load_f16(&halves[half]);
    if L::FORM.scale_blocks() == 0 {
        return factor;
    }
    let of_groups: &[[i8; LANES]; 4] = bytemuck::cast_ref(&span[first + group / 4]);
    s.mul(factor, s.load_i8(&of_groups[group % 4]))
}

/// Products of one tile with M tokens: the sum of each group's integers is exact, and the groups are added in order.
#[inline(always)]
pub(super) fn tile<S: Simd, L: Layout, const COARSE: bool, const M: usize>(
    s: S,
    tile: &[Block],
    x: [Digits<'_>; M],
) -> [[f32; LANES]; M] {
    let form = L::FORM;
    let units = form.span_cols() / GROUP;
    let mut sums = [s.splat(0.0); M];
    for (n, span) in tile.chunks_exact(form.span()).enumerate() {
        for unit in 0..units {
            let blocks = &span[form.head() + form.bits() * unit..][..form.bits()];
            let at = n * units + unit;
            let mut tokens = [(&[Four([0; 8]); GROUP / 4], Group::default()); M];
            for m in 0..M {
                tokens[m] = (&x[m].fours.as_chunks().0[at], x[m].groups[at]);
            }
            for part in 0..GROUP / form.group {
                let mut totals = [s.no_sums(); M];
                let fours = form.group / 4;
                for i in 0..fours {
                    let j = part * fours + i;
                    let codes = codes::<S, L>(s, blocks, j);
                    for m in 0..M {
                        totals[m] = s.dot::<COARSE>(totals[m], codes, &tokens[m].0[j]);
                    }
                }
                let group = (GROUP * unit) / form.group + part;
                let nth = GROUP * unit / form.cols;
                let scales = terms::<S, L>(s, span, form.d(nth), 1, group);
                for m in 0..M {
                    let of = &tokens[m].1;
                    let sum = if form.group == GROUP { of.sum } else { of.halves[part] };
                    let total = s.total(totals[m], form.less * sum);
                    sums[m] = s.fma(s.mul(scales, s.splat(of.step)), total, sums[m]);
                }
                if form.mins {
                    let mins = terms::<S, L>(s, span, form.dmin(nth), 1 + form.scale_blocks(), group);
                    for m in 0..M {
                        let of = &tokens[m].1;
                        let sum = if form.group == GROUP { of.sum } else { of.halves[part] };
                        sums[m] = s.fma(mins, s.splat(-(of.step * sum as f32)), sums[m]);
                    }
                }
            }
        }
    }
    let mut out = [[0.0; LANES]; M];
    for m in 0..M {
        s.store(sums[m], &mut out[m]);
    }
    out
}

#[cfg(test)]
mod tests;
