//! Blocks that tell nothing of single elements: all codes of a block are the same, so that its scale is what all of them
//! are, or bits of codes that lie in bytes of their own repeat with these.

use super::{Accumulate, Form, Measure, Part, Source, accumulator};
use crate::measure::Moments;

pub(crate) const KEY: &str = "flat_share";

pub(super) const MEASURE: Measure = Measure {
    key: KEY,
    heading: "share in flat blocks",
    label: "flat",
    explanation: "The share of elements in blocks of 32 whose halves repeat one value or eight, and are not all zero: \
                  codes that are the same all over a block of a quantized weight leave no more.",
    form: Form::Share,
    part: Part::Elements,
    places: &[],
    source: Source::Elements(accumulator::<Flat>),
};

/// Elements of a block. The smallest blocks with a scale of their own are halves of it.
const BLOCK: usize = 32;
/// The upper bits of so many codes share a byte (Q5_0, Q5_1), and so do the signs of IQ types.
const RUN: usize = 8;

#[derive(Debug, Default)]
struct Flat {
    flat: u64,
}

impl Accumulate for Flat {
    const DEGREE: i32 = 0;

    #[inline(always)]
    fn add<T: Copy + Into<f64>>(&mut self, block: &[T], _: &Moments) {
        let (whole, _) = block.as_chunks::<BLOCK>();
        for block in whole {
            let (left, right) = block.split_at(BLOCK / 2);
            let repeats = |half: &[T], at: usize| half[at].into() == half[at + RUN].into();
            // Mostly the first elements differ already.
            let is_flat = [left, right].iter().all(|half| (0..RUN).all(|at| repeats(half, at)))
                && block.iter().any(|&x| x.into() != 0.0);
            self.flat += if is_flat { BLOCK as u64 } else { 0 };
        }
    }

    fn add_zeros(&mut self, _: u64) {}

    fn join(&mut self, later: &Self) {
        self.flat += later.flat;
    }

    fn value(&self, known: &Moments) -> Option<f64> {
        (known.count > 0.0).then(|| self.flat as f64 / known.count)
    }
}

#[cfg(test)]
mod tests {
    use super::KEY;
    use crate::DType;
    use crate::meaning::elements::Elements;
    use crate::measure::{Plan, measure};

    fn share(values: &[f32]) -> Option<f64> {
        let elements = Elements::plain(DType::F32, bytemuck::cast_slice::<f32, u8>(values)).unwrap();
        measure(&elements, &Plan::default()).stats.computed.get(KEY)
    }

    #[test]
    fn blocks_that_repeat_one_value_or_eight_count_unless_they_are_zero() {
        let mut values: Vec<f32> = (0..100_000).map(|i| 1.0 + (i % 977) as f32).collect();
        assert_eq!(share(&values), Some(0.0));
        values[..32_000].iter_mut().enumerate().for_each(|(i, x)| *x = 1.0 + (i / 16 % 7) as f32);
        assert_eq!(share(&values), Some(0.32));
        values[..32_000].iter_mut().enumerate().for_each(|(i, x)| *x = 1.0 + (i / 16 % 7 + i % 8) as f32);
        assert_eq!(share(&values), Some(0.32));
        // One element that differs is something, wherever it is.
        values[..32_000].iter_mut().step_by(33).for_each(|x| *x = 9.5);
        assert!(share(&values).unwrap() < 0.02, "{:?}", share(&values));
        values[..32_000].fill(0.0);
        assert_eq!(share(&values), Some(0.0));
        assert_eq!(share(&[]), None);
    }
}
