//! Codes of a group as numbers, times their scale: compiled once for any processor and once for AVX2. Operations are the
//! same in the same order, so results are the same bits.

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

macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident($codes:ident: $type:ty $(, $arg:ident: $of:ty)*) = $portable:ident;)*) => {$(
        $(#[$doc])*
        pub(super) fn $name($codes: $type $(, $arg: $of)*, terms: Terms, out: &mut [f32]) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($codes: $type $(, $arg: $of)*, terms: Terms, out: &mut [f32]) {
                    $portable($codes $(, $arg)*, terms, out);
                }
                if crate::InstructionSet::Avx2.is_available() {
                    // SAFETY: the processor has AVX2.
                    return unsafe { avx2($codes $(, $arg)*, terms, out) };
                }
            }
            $portable($codes $(, $arg)*, terms, out);
        }
    )*};
}

kernels! {
    /// Whole numbers from 0.
    unsigned(codes: &[u8]) = portable_unsigned;
    /// Whole numbers from -128.
    signed(codes: &[u8]) = portable_signed;
    /// 4-bit floats.
    e2m1(codes: &[u8]) = portable_e2m1;
    /// 8-bit floats.
    e4m3(codes: &[u8]) = portable_e4m3;
    /// Numbers of a codebook.
    book(codes: &[u8], numbers: &[f32; 16]) = portable_book;
}

/// Multiplies the numbers in `out`.
pub(super) fn scale(terms: Terms, out: &mut [f32]) {
    out.iter_mut().for_each(|x| *x = (*x - terms.zero) * terms.scale + terms.offset.unwrap_or(-0.0));
}

#[inline(always)]
fn each(codes: &[u8], terms: Terms, out: &mut [f32], number: impl Fn(u8) -> f32) {
    match terms.offset {
        None => {
            let of = |code: u8| (number(code) - terms.zero) * terms.scale;
            out.iter_mut().zip(codes).for_each(|(x, &code)| *x = of(code));
        }
        Some(offset) => {
            let of = |code: u8| (number(code) - terms.zero) * terms.scale + offset;
            out.iter_mut().zip(codes).for_each(|(x, &code)| *x = of(code));
        }
    }
}

#[inline(always)]
fn portable_unsigned(codes: &[u8], terms: Terms, out: &mut [f32]) {
    each(codes, terms, out, f32::from);
}

#[inline(always)]
fn portable_signed(codes: &[u8], terms: Terms, out: &mut [f32]) {
    each(codes, terms, out, |code| f32::from(code as i8));
}

#[inline(always)]
fn portable_book(codes: &[u8], numbers: &[f32; 16], terms: Terms, out: &mut [f32]) {
    each(codes, terms, out, |code| numbers[usize::from(code & 15)]);
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
fn portable_e2m1(codes: &[u8], terms: Terms, out: &mut [f32]) {
    each(codes, terms, out, |code| small_float::<2, 1>(code & 15));
}

#[inline(always)]
fn portable_e4m3(codes: &[u8], terms: Terms, out: &mut [f32]) {
    each(codes, terms, out, |code| {
        let value = small_float::<4, 3>(code);
        if code & 0x7f == 0x7f { f32::NAN } else { value }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::meaning::elements::float8;

    const PLAIN: Terms = Terms { zero: 0.0, scale: 1.0, offset: None };

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
    fn zero_points_scales_and_offsets_are_applied_in_order() {
        let mut out = [0.0; 3];
        unsigned(&[0, 3, 15], Terms { zero: 8.0, scale: 0.5, offset: None }, &mut out);
        assert_eq!(out, [-4.0, -2.5, 3.5]);
        signed(&[0, 255, 128], Terms { zero: 1.0, scale: 2.0, offset: Some(10.0) }, &mut out);
        assert_eq!(out, [8.0, 6.0, -248.0]);
        let numbers = std::array::from_fn(|i| i as f32 / 4.0);
        book(&[0, 1, 15], &numbers, Terms { scale: 4.0, ..PLAIN }, &mut out);
        assert_eq!(out, [0.0, 1.0, 15.0]);
    }
}
