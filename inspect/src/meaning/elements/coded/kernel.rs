//! Codes of a piece of a row as numbers, times the scales of their groups: compiled once for any processor and once for
//! AVX2. Operations are the same in the same order, so results are the same bits.

/// What the codes of a group share.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Subtracted from codes.
    pub zero: f32,
    /// Multiplies them.
    pub scale: f32,
    /// Added to the products.
    pub offset: Option<f32>,
}

/// The groups of a piece of a row.
#[derive(Clone, Copy)]
pub(super) struct Groups<'g> {
    /// Codes of the first one that are in the piece.
    pub first: usize,
    /// Codes of every other one.
    pub size: usize,
    pub scales: &'g [f32],
    /// Subtracted from all codes, besides `zeros`.
    pub less: f32,
    /// Empty where nothing else is subtracted.
    pub zeros: &'g [f32],
    /// Empty where nothing is added.
    pub offsets: &'g [f32],
}

impl Groups<'_> {
    #[inline(always)]
    fn terms(&self, nth: usize) -> Terms {
        Terms {
            zero: self.zeros.get(nth).copied().unwrap_or(0.0) + self.less,
            scale: self.scales.get(nth).copied().unwrap_or(f32::NAN),
            offset: self.offsets.get(nth).copied(),
        }
    }

    /// Calls `run` for the part of each group in a piece of `len` codes.
    #[inline(always)]
    fn each(&self, len: usize, mut run: impl FnMut(std::ops::Range<usize>, Terms)) {
        let (mut start, mut nth) = (0, 0);
        let mut end = self.first.min(len);
        while start < len {
            run(start..end, self.terms(nth));
            (start, nth) = (end, nth + 1);
            end = end.saturating_add(self.size.max(1)).min(len);
        }
    }
}

macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $of:ty)?) = $portable:ident;)*) => {$(
        $(#[$doc])*
        pub(super) fn $name(codes: &[u8], $($arg: $of,)? groups: Groups<'_>, out: &mut [f32]) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2(codes: &[u8], $($arg: $of,)? groups: Groups<'_>, out: &mut [f32]) {
                    $portable(codes, $($arg,)? groups, out);
                }
                if crate::InstructionSet::Avx2.is_available() {
                    // SAFETY: the processor has AVX2.
                    return unsafe { avx2(codes, $($arg,)? groups, out) };
                }
            }
            $portable(codes, $($arg,)? groups, out);
        }
    )*};
}

kernels! {
    /// Whole numbers from 0.
    unsigned() = portable_unsigned;
    /// Whole numbers from -128.
    signed() = portable_signed;
    /// 4-bit floats.
    e2m1() = portable_e2m1;
    /// 8-bit floats.
    e4m3() = portable_e4m3;
    /// Numbers of a codebook.
    book(numbers: &[f32; 16]) = portable_book;
}

/// Applies what groups share to the numbers in `out`.
pub(super) fn numbers(groups: Groups<'_>, out: &mut [f32]) {
    groups.each(out.len(), |range, terms| {
        out[range]
            .iter_mut()
            .for_each(|x| *x = (*x - terms.zero) * terms.scale + terms.offset.unwrap_or(-0.0));
    });
}

#[inline(always)]
fn each(codes: &[u8], groups: Groups<'_>, out: &mut [f32], number: impl Fn(u8) -> f32) {
    groups.each(codes.len().min(out.len()), |range, Terms { zero, scale, offset }| {
        let pairs = out[range.clone()].iter_mut().zip(&codes[range]);
        match offset {
            None => pairs.for_each(|(x, &code)| *x = (number(code) - zero) * scale),
            Some(offset) => pairs.for_each(|(x, &code)| *x = (number(code) - zero) * scale + offset),
        }
    });
}

#[inline(always)]
fn portable_unsigned(codes: &[u8], groups: Groups<'_>, out: &mut [f32]) {
    each(codes, groups, out, f32::from);
}

#[inline(always)]
fn portable_signed(codes: &[u8], groups: Groups<'_>, out: &mut [f32]) {
    each(codes, groups, out, |code| f32::from(code as i8));
}

#[inline(always)]
fn portable_book(codes: &[u8], numbers: &[f32; 16], groups: Groups<'_>, out: &mut [f32]) {
    each(codes, groups, out, |code| numbers[usize::from(code & 15)]);
}

/// A float of a sign bit, `EXPONENT` bits of exponent and `MANTISSA` of mantissa in the low bits of `code`, whose largest
/// exponent is that of numbers. Subnormal ones are computed without subnormal f32s, which processors are slow at.
#[inline(always)]
fn small_float<const EXPONENT: u32, const MANTISSA: u32>(code: u8) -> f32 {
    let bits = u32::from(code);
    let magnitude = bits & ((1 << (EXPONENT + MANTISSA)) - 1);
    let sign = (bits >> (EXPONENT + MANTISSA)) << 31;
    // The exponent of f32 less that of the type.
    let base = 127 - ((1u32 << (EXPONENT - 1)) - 1);
    let normal = f32::from_bits((magnitude << (23 - MANTISSA)) + (base << 23));
    let one = f32::from_bits(base << 23);
    let value = if magnitude < 1 << MANTISSA { (normal - one) * 2.0 } else { normal };
    f32::from_bits(value.to_bits() | sign)
}

#[inline(always)]
fn portable_e2m1(codes: &[u8], groups: Groups<'_>, out: &mut [f32]) {
    each(codes, groups, out, |code| small_float::<2, 1>(code & 15));
}

#[inline(always)]
fn portable_e4m3(codes: &[u8], groups: Groups<'_>, out: &mut [f32]) {
    each(codes, groups, out, |code| {
        let value = small_float::<4, 3>(code);
        if code & 0x7f == 0x7f { f32::NAN } else { value }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::meaning::elements::float8;

    const PLAIN: Groups<'_> =
        Groups { first: usize::MAX, size: 1, scales: &[1.0], less: 0.0, zeros: &[], offsets: &[] };

    #[test]
    fn small_floats_are_those_of_their_tables() {
        let codes: Vec<u8> = (0..=255).collect();
        let mut out = [0.0; 256];
        e4m3(&codes, PLAIN, &mut out);
        let table = float8::table(DType::F8E4M3FN).unwrap();
        for (code, (x, y)) in out.iter().zip(table).enumerate() {
            assert!(x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()), "{code}: {x} is not {y}");
        }
        e2m1(&codes[..16], PLAIN, &mut out[..16]);
        // OCP Microscaling Formats 1.0, 5.3.3.
        let positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0f32];
        let all = positive.iter().copied().chain(positive.iter().map(|x| -x));
        assert!(out.iter().zip(all).all(|(x, y)| x.to_bits() == y.to_bits()), "{:?}", &out[..16]);
    }

    #[test]
    fn zero_points_scales_and_offsets_are_those_of_their_groups() {
        let mut out = [0.0; 3];
        let groups = Groups { first: 1, size: 1, scales: &[0.5, 1.0, 2.0], less: 8.0, ..PLAIN };
        unsigned(&[0, 3, 15], groups, &mut out);
        assert_eq!(out, [-4.0, -5.0, 14.0]);
        let groups = Groups {
            first: 2,
            size: 9,
            scales: &[2.0, 1.0],
            zeros: &[1.0, 0.0],
            offsets: &[10.0, 0.5],
            ..PLAIN
        };
        signed(&[0, 255, 128], groups, &mut out);
        assert_eq!(out, [8.0, 6.0, -127.5]);
        numbers(Groups { scales: &[2.0], less: 1.0, ..PLAIN }, &mut out);
        assert_eq!(out, [14.0, 10.0, -257.0]);
        let table = std::array::from_fn(|i| i as f32 / 4.0);
        book(&[0, 1, 15], &table, Groups { scales: &[4.0], ..PLAIN }, &mut out);
        assert_eq!(out, [0.0, 1.0, 15.0]);
    }
}
