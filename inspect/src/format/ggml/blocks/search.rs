//! How the K types find their scales: by weighted least squares, from a few roundings of a group's values. The sums run in
//! the order of `ggml-quants.c`, so that blocks have the bytes that llama.cpp gives them without an importance matrix.

/// Groups whose magnitudes are all below it are zero.
pub(super) const NOTHING: f32 = 1e-15;

/// The nearest integer, of halves the even one, for magnitudes below 2²²; others, and NaN, give some integer of 23 bits.
#[inline(always)]
pub(super) fn nearest(x: f32) -> i32 {
    const SHIFT: f32 = 1.5 * (1 << 23) as f32;
    ((x + SHIFT).to_bits() & 0x7f_ffff) as i32 - 0x40_0000
}

/// Codes of a group, and the scale (and what is subtracted) that make them its values again.
pub(super) struct Fit<const N: usize> {
    pub codes: [u8; N],
    pub scale: f32,
    pub min: f32,
}

/// What [`affine`] tries.
pub(super) struct Grid {
    /// The largest code.
    pub most: u8,
    /// Inverse scales tried are (most + first + i * step) / range, for each i up to `steps`.
    pub first: f32,
    pub step: f32,
    pub steps: u8,
    /// What is summed, by weight, of the differences.
    pub error: fn(f32) -> f32,
}

/// Codes from 0 to `grid.most` for values `scale * code - min`, with `min` at least 0.
#[inline(always)]
pub(super) fn affine<const N: usize>(values: &[f32; N], weights: &[f32; N], grid: &Grid) -> Fit<N> {
    let most = f32::from(grid.most);
    let (mut low, mut high) = (values[0], values[0]);
    let mut weight = weights[0];
    let mut sum = weight * values[0];
    for (&x, &w) in values.iter().zip(weights).skip(1) {
        low = if x < low { x } else { low };
        high = if x > high { x } else { high };
        weight += w;
        sum += w * x;
    }
    low = if low > 0.0 { 0.0 } else { low };
    if low == high {
        return Fit { codes: [0; N], scale: 0.0, min: -low };
    }
    let rounded = |inverse: f32, low: f32| {
        let mut codes = [0u8; N];
        for (code, &x) in codes.iter_mut().zip(values) {
            *code = nearest(inverse * (x - low)).clamp(0, i32::from(grid.most)) as u8;
        }
        codes
    };
    let error_of = |codes: &[u8; N], scale: f32, low: f32| {
        let errors = codes.map(|code| scale * f32::from(code));
        let terms = errors.iter().zip(values).zip(weights);
        terms.fold(0.0f32, |sum, ((y, x), w)| sum + w * (grid.error)(y + low - x))
    };
    let range = high - low;
    let inverse = most / range;
    let mut fit = Fit { codes: rounded(inverse, low), scale: 1.0 / inverse, min: 0.0 };
    let mut least = error_of(&fit.codes, fit.scale, low);
    for i in 0..=grid.steps {
        // From the least value of the best fit as yet; the range stays.
        let codes = rounded((grid.first + grid.step * f32::from(i) + most) / (high - low), low);
        let (mut codes_sum, mut squares, mut products) = (0.0f32, 0.0f32, 0.0f32);
        for ((&code, &x), &w) in codes.iter().zip(values).zip(weights) {
            let code = f32::from(code);
            codes_sum += w * code;
            squares += w * code * code;
            products += w * code * x;
        }
        let determinant = weight * squares - codes_sum * codes_sum;
        if determinant > 0.0 {
            let mut scale = (weight * products - sum * codes_sum) / determinant;
            let mut least_value = (squares * sum - codes_sum * products) / determinant;
            if least_value > 0.0 {
                least_value = 0.0;
                scale = products / squares;
            }
            let error = error_of(&codes, scale, least_value);
            if error < least {
                (least, low) = (error, least_value);
                (fit.codes, fit.scale) = (codes, scale);
            }
        }
    }
    Fit { min: -low, ..fit }
}

/// Sums that say how well codes fit: of weight * value * code and of weight * code², the weight being the value squared.
#[derive(Clone, Copy)]
struct Sums {
    products: f32,
    squares: f32,
}

impl Sums {
    const ZERO: Sums = Sums { products: 0.0, squares: 0.0 };

    #[inline(always)]
    fn add(&mut self, x: f32, code: i32) {
        let (weight, code) = (x * x, code as f32);
        self.products += weight * x * code;
        self.squares += weight * code * code;
    }

    /// The scale that fits best.
    #[inline(always)]
    fn scale(self) -> f32 {
        if self.squares > 0.0 { self.products / self.squares } else { 0.0 }
    }
}

/// The first value of the largest magnitude, unless all are next to nothing.
#[inline(always)]
fn extreme(values: &[f32]) -> Option<f32> {
    let extreme = values.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
    (extreme.abs() >= NOTHING).then_some(extreme)
}

/// Codes, each plus `half`, of values `scale * code` with codes from `-half` to `half - 1`: the best of some scales near
/// that of the largest magnitude.
#[inline(always)]
pub(super) fn symmetric<const N: usize>(values: &[f32; N], half: i8) -> Fit<N> {
    let Some(extreme) = extreme(values) else { return Fit { codes: [0; N], scale: 0.0, min: 0.0 } };
    let half = i32::from(half);
    let rounded = |inverse: f32| values.map(|x| nearest(inverse * x).clamp(-half, half - 1));
    let sums_of = |codes: &[i32; N]| {
        let mut sums = Sums::ZERO;
        values.iter().zip(codes).for_each(|(&x, &code)| sums.add(x, code));
        sums
    };
    let mut codes = rounded(-(half as f32) / extreme);
    let sums = sums_of(&codes);
    let mut scale = if sums.squares == 0.0 { 0.0 } else { sums.products / sums.squares };
    let mut best = scale * sums.products;
    for i in (-9i8..=9).filter(|&i| i != 0) {
        let tried = rounded(-(half as f32 + 0.1 * f32::from(i)) / extreme);
        let sums = sums_of(&tried);
        if sums.squares > 0.0 && sums.products * sums.products > best * sums.squares {
            codes = tried;
            scale = sums.products / sums.squares;
            best = scale * sums.products;
        }
    }
    Fit { codes: codes.map(|code| (code + half) as u8), scale, min: 0.0 }
}

/// [`symmetric`] for few codes, each changed alone as long as that makes the fit better, five rounds at most.
#[inline(always)]
pub(super) fn symmetric_by_rounds<const N: usize>(values: &[f32; N], half: i8) -> Fit<N> {
    let Some(extreme) = extreme(values) else { return Fit { codes: [0; N], scale: 0.0, min: 0.0 } };
    let half = i32::from(half);
    let inverse = -(half as f32) / extreme;
    let mut codes = values.map(|x| nearest(inverse * x).clamp(-half, half - 1));
    let mut sums = Sums::ZERO;
    values.iter().zip(&codes).for_each(|(&x, &code)| sums.add(x, code));
    for _ in 0..5 {
        let mut changed = false;
        for (&x, code) in values.iter().zip(&mut codes) {
            let (weight, old) = (x * x, *code as f32);
            let mut others = Sums { products: sums.products - weight * x * old, ..sums };
            if others.products > 0.0 {
                others.squares -= weight * old * old;
                let new = nearest(x * others.squares / others.products).clamp(-half, half - 1);
                if new != *code {
                    others.add(x, new);
                    let better = others.products * others.products * sums.squares
                        > sums.products * sums.products * others.squares;
                    if others.squares > 0.0 && better {
                        (*code, sums, changed) = (new, others, true);
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    Fit { codes: codes.map(|code| (code + half) as u8), scale: sums.scale(), min: 0.0 }
}

/// The first of the largest magnitude; 0 when there is none.
#[inline(always)]
pub(super) fn largest_scale(scales: &[f32; 16]) -> f32 {
    scales.iter().fold(0.0f32, |most, &scale| if scale.abs() > most.abs() { scale } else { most })
}

/// Replaces the codes of `values` by those nearest under the scale (and what is subtracted) that the block has in the
/// end; a scale of zero leaves them.
#[inline(always)]
pub(super) fn round_again(values: &[f32], scale: f32, min: f32, codes: &mut [u8], lowest: i32, highest: i32) {
    if scale != 0.0 {
        for (code, &x) in codes.iter_mut().zip(values) {
            *code = (nearest((x + min) / scale).clamp(lowest, highest) - lowest) as u8;
        }
    }
}
