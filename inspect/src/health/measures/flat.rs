//! Blocks that tell nothing of single elements: all codes of a block are the same, so that its scale is what all of them are.

use super::{Accumulate, Form, Measure, Part, Source, accumulator};
use crate::measure::Moments;

pub(crate) const KEY: &str = "flat_share";

pub(super) const MEASURE: Measure = Measure {
    key: KEY,
    heading: "share in flat blocks",
    label: "flat",
    explanation: "The share of elements in blocks of 32 whose halves are of one value each, and not all zero: codes that \
                  are the same all over a block of a quantized weight leave no more.",
    form: Form::Share,
    part: Part::Elements,
    places: &[],
    source: Source::Elements(accumulator::<Flat>),
};

/// Elements of a block. The smallest blocks with a scale of their own are halves of it.
const BLOCK: usize = 32;

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
            let [first, second] = [0, BLOCK / 2].map(|at| Into::<f64>::into(block[at]));
            // Mostly the last elements differ already.
            let ends = [BLOCK / 2 - 1, BLOCK - 1].map(|at| Into::<f64>::into(block[at]));
            if ends != [first, second] || (first == 0.0 && second == 0.0) {
                continue;
            }
            let (left, right) = block.split_at(BLOCK / 2);
            let is_flat =
                left.iter().all(|&x| x.into() == first) && right.iter().all(|&x| x.into() == second);
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
    fn blocks_of_one_value_count_unless_it_is_zero() {
        let mut values: Vec<f32> = (0..100_000).map(|i| 1.0 + (i % 977) as f32).collect();
        assert_eq!(share(&values), Some(0.0));
        values[..32_000].iter_mut().enumerate().for_each(|(i, x)| *x = 1.0 + (i / 16 % 7) as f32);
        assert_eq!(share(&values), Some(0.32));
        // One element that differs is something, wherever it is.
        values[..32_000].iter_mut().step_by(33).for_each(|x| *x = 9.5);
        assert!(share(&values).unwrap() < 0.02, "{:?}", share(&values));
        values[..32_000].fill(0.0);
        assert_eq!(share(&values), Some(0.0));
        assert_eq!(share(&[]), None);
    }
}
