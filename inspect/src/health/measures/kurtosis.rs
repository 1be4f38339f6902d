//! How heavy the tails are: central moments of each block about its own mean, and blocks joined by the formulas of
//! Pébay (2008, <https://www.osti.gov/biblio/1028931>).

use super::{Accumulate, Form, Measure, Part, Place, Source, accumulator};
use crate::measure::Moments;

/// Its key.
pub(crate) const KEY: &str = "kurtosis";

pub(super) const MEASURE: Measure = Measure {
    key: KEY,
    heading: "kurtosis",
    label: "kurtosis",
    explanation: "How heavy the tails are: the mean fourth power of the distance from the mean, over the square of the \
                  variance, minus 3. A normal distribution has 0, a uniform one -1.2, and a few elements far from all \
                  others make it large. A constant tensor has none.",
    form: Form::Real,
    part: Part::Elements,
    places: &[Place::Csv, Place::Layers, Place::Details, Place::Page],
    source: Source::Elements(accumulator::<Kurtosis>),
};

const LANES: usize = 8;

/// Sums of powers of the distances from the mean. Excess kurtosis of the elements themselves, not of a population that
/// they may be a sample of: m4 / m2² - 3, the default of `scipy.stats.kurtosis`.
#[derive(Debug, Default)]
struct Kurtosis {
    count: f64,
    mean: f64,
    m2: f64,
    m3: f64,
    m4: f64,
}

impl Accumulate for Kurtosis {
    const DEGREE: i32 = 0;

    #[inline(always)]
    fn add<T: Copy + Into<f64>>(&mut self, block: &[T], known: &Moments) {
        if known.min == known.max {
            // Rounding of its mean must not count as spread.
            return self.join(&Kurtosis { count: known.count, mean: known.min, ..Kurtosis::default() });
        }
        let about = known.sum / known.count;
        let mut sums = [[0.0; LANES]; 4];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            add_powers(&mut sums, chunk.map(|x| x.into() - about));
        }
        let mut last = [0.0; LANES];
        last.iter_mut().zip(rest).for_each(|(d, &x)| *d = x.into() - about);
        add_powers(&mut sums, last);
        self.join(&Kurtosis::of_powers(known.count, about, &sums));
    }

    fn add_zeros(&mut self, count: u64) {
        self.join(&Kurtosis { count: count as f64, ..Kurtosis::default() });
    }

    fn join(&mut self, later: &Self) {
        let (na, nb) = (self.count, later.count);
        let n = na + nb;
        if nb == 0.0 {
            return;
        }
        let delta = later.mean - self.mean;
        let (a, b) = (na / n, nb / n);
        let square = delta * delta;
        *self = Kurtosis {
            count: n,
            mean: if na == 0.0 { later.mean } else { self.mean + delta * b },
            m2: self.m2 + later.m2 + square * na * b,
            m3: self.m3
                + later.m3
                + square * delta * na * b * (a - b)
                + 3.0 * delta * (a * later.m2 - b * self.m2),
            m4: self.m4
                + later.m4
                + square * square * na * b * (a * a - a * b + b * b)
                + 6.0 * square * (a * a * later.m2 + b * b * self.m2)
                + 4.0 * delta * (a * later.m3 - b * self.m3),
        };
    }

    fn value(&self, _: &Moments) -> Option<f64> {
        (self.m2 > 0.0).then(|| self.count * self.m4 / (self.m2 * self.m2) - 3.0)
    }
}

#[inline(always)]
fn add_powers(sums: &mut [[f64; LANES]; 4], d: [f64; LANES]) {
    let [first, second, third, fourth] = sums;
    for i in 0..LANES {
        first[i] += d[i];
    }
    for i in 0..LANES {
        second[i] += d[i] * d[i];
    }
    for i in 0..LANES {
        third[i] += d[i] * d[i] * d[i];
    }
    for i in 0..LANES {
        fourth[i] += (d[i] * d[i]) * (d[i] * d[i]);
    }
}

impl Kurtosis {
    /// The kurtosis of `count` elements, given sums of powers of their distances from `about`, their mean except for
    /// rounding. Never inlined: next to the loop, the totals would decide which sums share a vector.
    #[inline(never)]
    fn of_powers(count: f64, about: f64, sums: &[[f64; LANES]; 4]) -> Kurtosis {
        let [first, second, third, fourth] = sums.map(|lanes| lanes.iter().sum::<f64>());
        let off = first / count;
        let square = off * off;
        Kurtosis {
            count,
            mean: about + off,
            m2: second - off * first,
            m3: third - 3.0 * off * second + 2.0 * square * first,
            m4: fourth - 4.0 * off * third + 6.0 * square * second - 3.0 * square * off * first,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::DType;
    use crate::meaning::elements::Elements;
    use crate::measure::{Measured, Plan, measure};

    fn measured(values: &[f64]) -> Measured {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        measure(&Elements::plain(DType::F64, &bytes[..]).unwrap(), &Plan::default())
    }

    fn of_f64(values: &[f64]) -> Option<f64> {
        measured(values).stats.computed.get("kurtosis")
    }

    fn of_f32(values: &[f64]) -> Option<f64> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
        let measured = measure(&Elements::plain(DType::F32, &bytes[..]).unwrap(), &Plan::default());
        measured.stats.computed.get("kurtosis")
    }

    #[track_caller]
    fn assert_close(found: Option<f64>, wanted: f64) {
        assert!((found.unwrap() - wanted).abs() <= 1e-12 * (wanted + 3.0), "{found:?} for {wanted}");
    }

    /// Against the definition in rational arithmetic.
    #[test]
    fn small_arrays_are_exact() {
        let cases: [(&[f64], f64); 6] = [
            (&[0.0, 0.0, 0.0, 0.0, 1.0], 0.25),
            (&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], -202.0 / 165.0),
            (&[-1.0, 1.0], -2.0),
            (&[0.0, 1.0, 2.0, 7.0], -706.0 / 841.0),
            (
                &[-8.0, 0.5, 0.25, 0.0, 3.0, -0.125, 1.0, 1.5, 100.0],
                13_503_697_769_085.0 / 3_364_267_549_682.0,
            ),
            (&[1.0, 2.0, 4.0, 8.0], -14_534.0 / 13_225.0),
        ];
        for (values, wanted) in cases {
            assert_close(of_f32(values), wanted);
            assert_close(of_f64(values), wanted);
        }
    }

    /// Many blocks and chunks of the same few values, which leave a remainder in each.
    const FEW: [f64; 4] = [0.0, 1.0, 2.0, 7.0];
    const OF_FEW: f64 = -706.0 / 841.0;

    fn many(value: impl Fn(f64) -> f64) -> Vec<f64> {
        (0..600_000).map(|i| value(FEW[i * i / 7 % 2 * 2 + i % 2])).collect()
    }

    /// By the definition, over the few different values and how often each is there: sums without rounding to speak of.
    fn counted(values: &[f64]) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let runs: Vec<(f64, f64)> =
            sorted.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as f64)).collect();
        let n = values.len() as f64;
        let mean = runs.iter().map(|(v, count)| v * count).sum::<f64>() / n;
        let power = |p: i32| runs.iter().map(|(v, count)| count * (v - mean).powi(p)).sum::<f64>() / n;
        power(4) / (power(2) * power(2)) - 3.0
    }

    #[test]
    fn parts_join_whatever_the_mean_and_the_scale() {
        let wanted = counted(&many(|v| v));
        assert_close(of_f32(&many(|v| v)), wanted);
        for offset in [-3.0, 1e6, -16_000_000.0] {
            // The mean itself is rounded to 2e-9 at most.
            let found = of_f32(&many(|v| v + offset)).unwrap();
            assert!((found - wanted).abs() < 1e-9, "{found} for {wanted}");
        }
        for scale in [1e-40f32, 1e-30, 1e30].map(f64::from) {
            // Powers of two, so that f32 holds the values exactly.
            let scale = scale.log2().round().exp2();
            assert_close(of_f32(&many(|v| v * scale)), wanted);
        }
        for scale in [1e-300f64, 1e-200, 1e-75, 1e-59, 1e59, 1e75, 1e200, 1e300] {
            let scale = scale.log2().round().exp2();
            assert_close(of_f64(&many(|v| v * scale)), wanted);
            let found = of_f64(&many(|v| (v * 1e-6 + 1.0) * scale)).unwrap();
            assert!((found - wanted).abs() < 1e-8, "{found} for {wanted}");
        }
        // Half of the tensor is far from the other half: blocks differ, and all but one consist of a single value.
        let halves: Vec<f64> = (0..500_000).map(|i| if i < 300_001 { 2.0 } else { -1.0 }).collect();
        assert_close(of_f32(&halves), counted(&halves));
    }

    #[test]
    fn what_does_not_vary_has_none() {
        for values in [vec![], vec![3.0], vec![0.1; 50_000], vec![0.0; 9], vec![1e300; 3]] {
            assert_eq!(of_f64(&values), None);
        }
        for value in [0.1, 1e30, -1e-40] {
            assert_eq!(of_f32(&vec![value; 700_001]), None);
        }
        assert_eq!(of_f32(&[f64::NAN, f64::INFINITY, 2.0]), None);
    }

    #[test]
    fn nan_and_infinity_are_left_out() {
        let mut values = FEW.repeat(30_000);
        for (at, value) in [(5, f64::NAN), (70_001, f64::INFINITY), (119_998, f64::NEG_INFINITY)] {
            values.insert(at, value);
        }
        assert_close(of_f32(&values), OF_FEW);
        assert_close(of_f64(&values), OF_FEW);
    }

    /// As if the zeros that a sparse tensor does not list were there.
    #[test]
    fn zeros_that_are_not_listed_count() {
        for scale in [1.0, 1e-100] {
            let mut sparse = measured(&[5.0 * scale, -2.0 * scale, scale]);
            sparse.add_zeros(3);
            assert_close(sparse.stats.computed.get("kurtosis"), 408.0 / 1681.0);
        }
    }
}
