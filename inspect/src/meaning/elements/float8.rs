//! The 8-bit floating-point types as tables of f32 (OCP 8-bit floating point, <https://arxiv.org/abs/2209.05433>;
//! the fnuz variants, <https://arxiv.org/abs/2206.02915>; OCP microscaling scales for e8m0).

use std::sync::LazyLock;

use crate::DType;

/// The value of each of the 256 bytes, for an 8-bit floating-point `dtype`.
pub(super) fn table(dtype: DType) -> Option<&'static [f32; 256]> {
    static E4M3FN: LazyLock<[f32; 256]> = LazyLock::new(|| build(4, Special::NanAtAllOnes));
    static E5M2: LazyLock<[f32; 256]> = LazyLock::new(|| build(5, Special::Ieee));
    static E4M3FNUZ: LazyLock<[f32; 256]> = LazyLock::new(|| build(4, Special::NanAtNegativeZero));
    static E5M2FNUZ: LazyLock<[f32; 256]> = LazyLock::new(|| build(5, Special::NanAtNegativeZero));
    static E8M0: LazyLock<[f32; 256]> = LazyLock::new(|| {
        std::array::from_fn(|byte| if byte == 255 { f32::NAN } else { (byte as f32 - 127.0).exp2() })
    });
    Some(match dtype {
        DType::F8E4M3FN => &E4M3FN,
        DType::F8E5M2 => &E5M2,
        DType::F8E4M3FNUZ => &E4M3FNUZ,
        DType::F8E5M2FNUZ => &E5M2FNUZ,
        DType::F8E8M0FNU => &E8M0,
        _ => return None,
    })
}

#[derive(PartialEq)]
enum Special {
    /// Infinities and NaNs in the highest exponent.
    Ieee,
    /// No infinities; NaN where all exponent and mantissa bits are set.
    NanAtAllOnes,
    /// No infinities, no negative zero: its code is the only NaN, and the bias is one larger.
    NanAtNegativeZero,
}

fn build(exponent_bits: u32, special: Special) -> [f32; 256] {
    let mantissa_bits = 7 - exponent_bits;
    let bias = (1 << (exponent_bits - 1)) - i32::from(special != Special::NanAtNegativeZero);
    let highest = (1 << exponent_bits) - 1;
    std::array::from_fn(|byte| {
        let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
        let exponent = (byte as i32 >> mantissa_bits) & highest;
        let mantissa = byte as i32 & ((1 << mantissa_bits) - 1);
        match special {
            Special::Ieee if exponent == highest && mantissa == 0 => return sign * f32::INFINITY,
            Special::Ieee if exponent == highest => return f32::NAN,
            Special::NanAtAllOnes if byte & 0x7f == 0x7f => return f32::NAN,
            Special::NanAtNegativeZero if byte == 0x80 => return f32::NAN,
            _ => {}
        }
        let fraction = mantissa as f32 / (1 << mantissa_bits) as f32;
        let magnitude = match exponent {
            0 => fraction * ((1 - bias) as f32).exp2(),
            _ => (1.0 + fraction) * ((exponent - bias) as f32).exp2(),
        };
        sign * magnitude
    })
}
