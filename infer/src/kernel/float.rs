//! Functions of f32 vectors, each written once for every instruction set. Rows are padded to whole vectors with zeros.
//!
//! Sums have an order of their own: lane i takes elements i, 16 + i, 32 + i …, and the lanes are added last. So a
//! result does not depend on how many tokens or rows are computed together.

use half::{bf16, f16};

use super::simd::{LANES, Simd};

/// Element types that weights and the KV cache are stored in.
pub trait Element: bytemuck::Pod + Send + Sync + std::fmt::Debug + Default {
    /// The nearest value of the type.
    fn of(x: f32) -> Self;
    /// The value as f32.
    fn widen(self) -> f32;
    /// Sixteen elements as f32.
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F;
}

impl Element for f32 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F {
        simd.load(x)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        f16::from_f32(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F {
        simd.load_f16(x)
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        bf16::from_f32(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::F {
        simd.load_bf16(x)
    }
}

/// Whole vectors of a padded row.
#[inline(always)]
pub fn vectors<T>(row: &[T]) -> &[[T; LANES]] {
    row.as_chunks().0
}

/// Whole vectors of a padded row.
#[inline(always)]
pub fn vectors_mut<T>(row: &mut [T]) -> &mut [[T; LANES]] {
    row.as_chunks_mut().0
}

/// e^x, within 2 units in the last place for -87 <= x <= 88; 0 below, NaN of NaN. Cody and Waite's reduction to |r| <=
/// ln 2 / 2, then the Taylor polynomial of degree 7.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let clamped = s.min(s.splat(88.0), s.max(s.splat(-87.0), x));
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-0.693_359_4), clamped);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.unless_below(x, s.splat(-87.0), s.mul(p, s.exp2i(n)))
}

/// tanh x within 6 units in the last place: the odd rational approximation of degree 13 / 6 on |x| <= 9 that Eigen
/// uses (Eigen/src/Core/MathFunctionsImpl.h, `ptanh`), where tanh is 1 in f32 from 9 on.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.max(s.splat(-9.0), s.min(s.splat(9.0), x));
    let x2 = s.mul(x, x);
    let mut p = s.splat(-2.760_768_4e-16);
    for c in [2.000_188e-13, -8.604_672e-11, 5.122_297e-8, 1.485_722_4e-5, 6.372_619_3e-4, 4.893_524_6e-3] {
        p = s.fma(p, x2, s.splat(c));
    }
    let mut q = s.splat(1.198_258_4e-6);
    for c in [1.185_347e-4, 2.268_434_6e-3, 4.893_525e-3] {
        q = s.fma(q, x2, s.splat(c));
    }
    s.div(s.mul(x, p), q)
}

/// cap * tanh(x / cap).
#[inline(always)]
pub fn soft_cap<S: Simd>(s: S, x: S::F, cap: S::F) -> S::F {
    s.mul(cap, tanh(s, s.div(x, cap)))
}

/// 1 / sqrt(mean(x^2) + eps) over `width` elements.
#[inline(always)]
pub fn rms_scale<S: Simd>(s: S, x: &[f32], width: usize, eps: f32) -> f32 {
    let mut squares = s.splat(0.0);
    for x in vectors(x) {
        let x = s.load(x);
        squares = s.fma(x, x, squares);
    }
    1.0 / (s.sum(squares) / width as f32 + eps).sqrt()
}

/// `out` = x / sqrt(mean(x^2) + eps) * w over `width` elements.
#[inline(always)]
pub fn rms_norm<S: Simd>(s: S, x: &[f32], w: &[f32], width: usize, eps: f32, out: &mut [f32]) {
    let scale = s.splat(rms_scale(s, x, width, eps));
    for ((x, w), out) in vectors(x).iter().zip(vectors(w)).zip(vectors_mut(out)) {
        s.store(s.mul(s.mul(s.load(x), scale), s.load(w)), out);
    }
}

/// erf x within 8 units in the last place: the odd rational approximation of degree 13 / 8 on |x| <= 4 that Eigen and XLA
/// use (Eigen/src/SpecialFunctions), where erf is 1 in f32 from 4 on.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.max(s.splat(-4.0), s.min(s.splat(4.0), x));
    let x2 = s.mul(x, x);
    let mut p = s.splat(-2.726_142_3e-10);
    for c in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2] {
        p = s.fma(p, x2, s.splat(c));
    }
    let mut q = s.splat(-1.456_607_2e-5);
    for c in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_473_9e-2] {
        q = s.fma(q, x2, s.splat(c));
    }
    s.div(s.mul(x, p), q)
}

/// A function of the feed-forward layer's gate. NaN stays NaN.
pub trait Gate {
    /// The function of sixteen values.
    fn of<S: Simd>(s: S, x: S::F) -> S::F;
}

/// x / (1 + e^-x).
pub struct Silu;
/// max(x, 0)^2.
pub struct Relu2;
/// x * (1 + erf(x / sqrt(2))) / 2.
pub struct Gelu;
/// x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2.
pub struct GeluTanh;

impl Gate for Silu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F) -> S::F {
        s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), x))))
    }
}

impl Gate for Relu2 {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F) -> S::F {
        let positive = s.max(s.splat(0.0), x);
        s.mul(positive, positive)
    }
}

impl Gate for Gelu {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F) -> S::F {
        let share = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
        s.mul(s.mul(s.splat(0.5), x), s.add(s.splat(1.0), share))
    }
}

impl Gate for GeluTanh {
    #[inline(always)]
    fn of<S: Simd>(s: S, x: S::F) -> S::F {
        let x3 = s.mul(s.mul(x, x), x);
        let inner = s.mul(s.splat(0.797_884_6), s.fma(x3, s.splat(0.044_715), x));
        s.mul(s.mul(s.splat(0.5), x), s.add(s.splat(1.0), tanh(s, inner)))
    }
}

/// `out` = G(gate) * up. Rows need not be padded.
#[inline(always)]
pub fn gated<S: Simd, G: Gate>(s: S, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let ((gates, gate), (ups, up)) = (gate.as_chunks::<LANES>(), up.as_chunks::<LANES>());
    let (outs, out) = out.as_chunks_mut::<LANES>();
    for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
        s.store(s.mul(G::of(s, s.load(gate)), s.load(up)), out);
    }
    if !out.is_empty() {
        let mut last = [[0.0; LANES]; 3];
        last[0][..gate.len()].copy_from_slice(gate);
        last[1][..up.len()].copy_from_slice(up);
        s.store(s.mul(G::of(s, s.load(&last[0])), s.load(&last[1])), &mut last[2]);
        out.copy_from_slice(&last[2][..out.len()]);
    }
}

/// x = x / sqrt(mean(x^2) + eps) * w. Rows need not be padded.
#[inline(always)]
pub fn rms_norm_unpadded<S: Simd>(s: S, x: &mut [f32], w: &[f32], eps: f32) {
    let whole = x.len() / LANES * LANES;
    let mut rest = [0.0; LANES];
    rest[..x.len() - whole].copy_from_slice(&x[whole..]);
    let mut squares = s.splat(0.0);
    for x in vectors(&x[..whole]).iter().chain([&rest]) {
        let x = s.load(x);
        squares = s.fma(x, x, squares);
    }
    let scale = 1.0 / (s.sum(squares) / x.len() as f32 + eps).sqrt();
    x.iter_mut().zip(w).for_each(|(x, w)| *x = *x * scale * w);
}

/// The largest |x|; NaN where any x is NaN or infinite.
#[inline(always)]
pub fn abs_max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let zero = s.splat(0.0);
    let (mut largest, mut poison) = (zero, zero);
    for x in vectors(x) {
        let x = s.load(x);
        largest = s.max(s.abs(x), largest);
        poison = s.fma(x, zero, poison);
    }
    s.largest(largest) + s.sum(poison)
}

#[cfg(test)]
mod tests {
    use super::super::Kernel;
    use super::super::simd::Work;
    use super::*;

    /// A function of sixteen values.
    struct Apply<'a>(&'a str, &'a mut [f32]);

    impl Work for Apply<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for x in vectors_mut(self.1) {
                let v = s.load(x);
                let y = match self.0 {
                    "exp" => exp(s, v),
                    "tanh" => tanh(s, v),
                    "erf" => erf(s, v),
                    "gelu" => Gelu::of(s, v),
                    "gelu_tanh" => GeluTanh::of(s, v),
                    _ => s.round(v),
                };
                s.store(y, x);
            }
        }
    }

    fn check(name: &str, from: f32, to: f32, ulps: f64, truth: impl Fn(f64) -> f64) {
        for kernel in Kernel::available() {
            let xs: Vec<f32> = (0..4096).map(|i| from + (to - from) * i as f32 / 4095.0).collect();
            let mut ys = xs.clone();
            kernel.run(Apply(name, &mut ys));
            for (x, y) in xs.iter().zip(ys) {
                let want = truth(f64::from(*x));
                let ulp = f64::from((want as f32).abs().next_up() - (want as f32).abs());
                let off = (f64::from(y) - want).abs() / ulp;
                assert!(off <= ulps, "{} {name}({x}) = {y}, not {want}: {off} ulps", kernel.name());
            }
        }
    }

    #[test]
    fn functions_are_close_to_the_truth() {
        check("exp", -86.9, 87.9, 2.0, f64::exp);
        check("tanh", -12.0, 12.0, 6.0, f64::tanh);
        check("tanh", -1e-3, 1e-3, 6.0, f64::tanh);
        // Kummer's series, whose terms are all positive.
        let erf = |x: f64| {
            let terms = (1..200).scan(x, |term, n| {
                *term *= 2.0 * x * x / f64::from(2 * n + 1);
                Some(*term)
            });
            2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * (x + terms.sum::<f64>())
        };
        check("erf", -5.0, 5.0, 8.0, erf);
        check("erf", -1e-3, 1e-3, 8.0, erf);
        check("round", -300.25, 300.25, 0.0, f64::round_ties_even);
    }

    /// Numbers of PyTorch's `gelu`, exact and with tanh, in f64.
    #[test]
    fn gelu_is_what_pytorch_computes() {
        let xs = [-3.0f32, -0.75, -0.1, 0.0, 0.3, 1.0, 2.5, 6.0];
        let exact = [
            -0.004_049_694_094_890_31,
            -0.169_970_514_282_651_11,
            -0.046_017_216_898_856_52,
            0.0,
            0.185_373_435_386_713_14,
            0.841_344_746_068_543,
            2.484_475_836_685_559_7,
            5.999_999_994_080_474,
        ];
        let by_tanh = [
            -0.003_637_392_081_772_994,
            -0.170_039_444_834_379_66,
            -0.046_017_249_581_126_2,
            0.0,
            0.185_370_932_272_401_3,
            0.841_191_990_608_276_8,
            2.484_915_733_910_001,
            5.999_999_999_915_603_5,
        ];
        for kernel in Kernel::available() {
            for (name, wanted) in [("gelu", exact), ("gelu_tanh", by_tanh)] {
                let mut got = [f32::NAN; LANES];
                got[..xs.len()].copy_from_slice(&xs);
                kernel.run(Apply(name, &mut got));
                for (x, (got, wanted)) in xs.iter().zip(got.iter().zip(wanted)) {
                    let off = (f64::from(*got) - wanted).abs();
                    assert!(off <= 3e-7 * f64::from(x.abs()), "{} {name}({x}) = {got}", kernel.name());
                }
                assert!(got[xs.len()..].iter().all(|x| x.is_nan()), "{} {name}", kernel.name());
            }
        }
    }

    #[test]
    fn exp_of_masked_scores_is_zero() {
        for kernel in Kernel::available() {
            let mut x = [f32::NEG_INFINITY; LANES];
            kernel.run(Apply("exp", &mut x));
            assert_eq!(x, [0.0; LANES]);
        }
    }
}
