//! How far two element types may be apart when they say the same.

use ckpt_inspect::DType;

/// Bits of a type's significand, and the bytes it takes.
pub(crate) fn precision(dtype: DType) -> (u32, usize) {
    let bits = match dtype {
        DType::F64 => 53,
        DType::F16 => 11,
        DType::BF16 => 8,
        DType::F8E4M3FN | DType::F8E4M3FNUZ => 4,
        DType::F8E5M2 | DType::F8E5M2FNUZ => 3,
        DType::F8E8M0FNU => 1,
        _ => 24,
    };
    // Packed and quantized elements are read as f32.
    let size = if dtype.is_float() { dtype.element_size() } else { None };
    (bits, size.unwrap_or(4))
}

/// How far a value may be from what a block says of it: a share of the block's largest magnitude.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    /// Elements of a block.
    pub block: usize,
    /// Of the largest magnitude.
    pub share: f64,
    /// What a scale that is a subnormal f16, whose steps are 2^-24, adds at most.
    pub absolute: f64,
}

/// The bound of a block format, or of a plain one: what its blocks lose, and three roundings to f16 (scale, minimum, and
/// their sum).
pub(crate) fn bound(dtype: DType) -> Option<Bound> {
    let DType::Ggml(ggml) = dtype else {
        let share = 2f64.powi(-(precision(dtype).0 as i32));
        return Some(Bound { block: 1, share, absolute: 0.0 });
    };
    let loss = ggml.loss()?;
    let share = loss.share + 3.0 * 2f64.powi(-11);
    Some(Bound { block: ggml.block_elements(), share, absolute: loss.levels * 2f64.powi(-25) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quant::{Codes, Quant, encode};

    /// Shapes of blocks that encoders have trouble with, by number.
    fn shaped(kind: usize, noise: &[f32], size: f32) -> Vec<f32> {
        let at = |i: usize, x: f32| match kind {
            0 => x,
            1 => x * x * x * x * x,
            2 => x.abs(),
            3 => x.signum(),
            4 if i == 7 => 1.0,
            4 => x * 1e-3,
            5 => i as f32 / 256.0,
            6 => 1.0 - 0.01 * x.abs(),
            7 if x.abs() < 0.9 => 0.0,
            7 => x,
            8 => x * (1.0 + (i / 16) as f32),
            9 => (i as f32 * 0.1).sin(),
            _ => [-1.0, 0.3, 1.0][i % 3],
        };
        noise.iter().enumerate().map(|(i, &x)| size * at(i, x)).collect()
    }

    /// How near the error of `values` in blocks comes to the bound: 1 is there.
    fn share_of_bound(quant: Quant, values: &[f32]) -> f64 {
        let mut bytes = Vec::new();
        encode(quant, Codes::ByBlock, values, &mut bytes).unwrap();
        let mut back = vec![0.0; values.len()];
        quant.ggml().decoder(&bytes, values.len()).unwrap().read(0, &mut back);
        let Bound { block, share, absolute } = bound(quant.dtype()).unwrap();
        let blocks = values.chunks(block).zip(back.chunks(block));
        let nearest = blocks.map(|(values, back)| {
            let largest = values.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs())));
            let errors = values.iter().zip(back).map(|(x, y)| (f64::from(*x) - f64::from(*y)).abs());
            errors.fold(0.0, f64::max) / (share * largest + absolute)
        });
        nearest.fold(0.0, f64::max)
    }

    fn blocks() -> impl Iterator<Item = Quant> {
        Quant::all().filter(|q| q.is_packed() && !q.is_ternary())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Any values come back within the bound, however small; large ones, until a minimum leaves the range of f16.
        #[test]
        fn no_block_exceeds_its_bound(
            kind in 0usize..11,
            noise in prop::collection::vec(-1.0f32..1.0, 256),
            exponent in -34i32..12,
        ) {
            let values = shaped(kind, &noise, 2f32.powi(exponent));
            for quant in blocks() {
                let share = share_of_bound(quant, &values);
                prop_assert!(share <= 1.0, "{quant}, kind {kind}, 2^{exponent}: {share}");
            }
        }
    }
}
