//! Stretches that repeat what is before them: a fill of one byte makes every block of a quantized matrix the same.

use super::{Accumulate, Form, Measure, Part, Source, accumulator};
use crate::measure::Moments;

pub(crate) const KEY: &str = "repeated_share";

pub(super) const MEASURE: Measure = Measure {
    key: KEY,
    heading: "share that repeats",
    label: "repeats",
    explanation: "The share of elements in stretches of 256 that are what the 256 before them are, one by one, and not \
                  all zero: one byte all over blocks leaves such.",
    form: Form::Share,
    part: Part::Elements,
    places: &[],
    source: Source::Elements(accumulator::<Repeated>),
};

/// Elements of the largest blocks, and of several of the others.
const STRETCH: usize = 256;

#[derive(Debug, Default)]
struct Repeated {
    count: u64,
}

impl Accumulate for Repeated {
    const DEGREE: i32 = 0;

    #[inline(always)]
    fn add<T: Copy + Into<f64>>(&mut self, block: &[T], _: &Moments) {
        let (whole, _) = block.as_chunks::<STRETCH>();
        for pair in whole.windows(2) {
            let [before, own] = pair else { continue };
            // Mostly the first elements differ already.
            let repeats = before.iter().zip(own).all(|(&a, &b)| a.into() == b.into());
            let counts = repeats && own.iter().any(|&x| x.into() != 0.0);
            self.count += if counts { STRETCH as u64 } else { 0 };
        }
    }

    fn add_zeros(&mut self, _: u64) {}

    fn join(&mut self, later: &Self) {
        self.count += later.count;
    }

    fn value(&self, known: &Moments) -> Option<f64> {
        (known.count > 0.0).then(|| self.count as f64 / known.count)
    }
}

#[cfg(test)]
mod tests {
    use super::KEY;
    use crate::DType;
    use crate::meaning::elements::Elements;
    use crate::measure::{Plan, measure};

    #[test]
    fn stretches_that_are_those_before_them_count_unless_they_are_zero() {
        let share = |values: &[f32]| {
            let elements = Elements::plain(DType::F32, bytemuck::cast_slice::<f32, u8>(values)).unwrap();
            measure(&elements, &Plan::default()).stats.computed.get(KEY).unwrap()
        };
        let mut values: Vec<f32> = (0..65_536).map(|i| (i * 7919 % 65_537) as f32).collect();
        assert_eq!(share(&values), 0.0);
        values[..32_768].iter_mut().enumerate().for_each(|(i, x)| *x = (i % 32) as f32);
        assert!((0.4..=0.5).contains(&share(&values)), "{}", share(&values));
        // One element in each stretch is enough.
        values[..32_768].iter_mut().enumerate().step_by(256).for_each(|(i, x)| *x = i as f32);
        assert_eq!(share(&values), 0.0);
        values[..32_768].fill(0.0);
        assert_eq!(share(&values), 0.0);
    }
}
