//! The longest stretch of zeros: a hole that a lost block or a failed copy leaves in the middle of a tensor.

use super::{Accumulate, Form, Measure, Part, Place, Source, accumulator};
use crate::measure::Moments;

pub(super) const MEASURE: Measure = Measure {
    key: "zero_run",
    heading: "longest run of zeros",
    label: "zero run",
    explanation: "The most zeros in a row, element after element through the rows. Pruning spreads zeros; a lost block \
                  leaves a hole. Runs below 512 are told as 0.",
    form: Form::Count,
    part: Part::Elements,
    places: &[Place::Csv, Place::Details],
    source: Source::Elements(accumulator::<ZeroRun>),
};

/// Shorter runs are not looked for.
pub(crate) const SHORTEST: u64 = 512;

/// A run of the shortest length has one part of so many elements to itself, wherever it begins.
const WITHIN: usize = SHORTEST as usize / 2;

/// Runs of zeros among the elements seen so far.
#[derive(Debug, Default)]
struct ZeroRun {
    count: u64,
    /// Zeros at the start, and at the end.
    leading: u64,
    trailing: u64,
    longest: u64,
    /// Whether zeros are somewhere else than in runs.
    sparse: bool,
}

impl Accumulate for ZeroRun {
    const DEGREE: i32 = 0;

    fn add<T: Copy + Into<f64>>(&mut self, block: &[T], known: &Moments) {
        let count = block.len() as u64;
        if known.zeros == 0 {
            return self.join(&ZeroRun { count, ..ZeroRun::default() });
        }
        let is_zero = |x: &&T| Into::<f64>::into(**x) == 0.0;
        let leading = block.iter().take_while(is_zero).count() as u64;
        let trailing = block.iter().rev().take_while(is_zero).count() as u64;
        let mut longest = leading.max(trailing);
        // Zeros are in every block of some types, and in pruned matrices: most blocks have none of these.
        let all_zero = |part: &[T]| part.iter().all(|x| is_zero(&x));
        if known.zeros >= SHORTEST.max(2 * longest) && block.chunks_exact(WITHIN).any(all_zero) {
            let mut run = 0;
            for x in block {
                run = if is_zero(&x) { run + 1 } else { 0 };
                longest = longest.max(run);
            }
        }
        self.join(&ZeroRun { count, leading, trailing, longest, sparse: false });
    }

    fn add_zeros(&mut self, _: u64) {
        // Where they stand is not looked at.
        self.sparse = true;
    }

    fn join(&mut self, later: &Self) {
        if later.count == 0 {
            return;
        }
        self.longest = self.longest.max(later.longest).max(self.trailing + later.leading);
        if self.leading == self.count {
            self.leading += later.leading;
        }
        self.trailing = match later.trailing == later.count {
            true => self.trailing + later.count,
            false => later.trailing,
        };
        self.count += later.count;
    }

    fn value(&self, _: &Moments) -> Option<f64> {
        let longest = if self.longest < SHORTEST { 0 } else { self.longest };
        (!self.sparse).then_some(longest as f64)
    }
}

#[cfg(test)]
mod tests {
    use crate::DType;
    use crate::meaning::elements::Elements;
    use crate::measure::{Plan, measure};

    fn longest(values: &[f32]) -> Option<f64> {
        let elements = Elements::plain(DType::F32, bytemuck::cast_slice::<f32, u8>(values)).unwrap();
        measure(&elements, &Plan::default()).stats.computed.get("zero_run")
    }

    #[test]
    fn the_longest_run_is_found_wherever_it_lies() {
        for (len, start, end) in [
            (100_000, 5_000, 9_000),
            (100_000, 0, 700),
            (100_000, 99_000, 100_000),
            (100_000, 16_000, 17_000),
            (3_000_000, 1_000_000, 2_100_000),
            (1_000, 0, 1_000),
        ] {
            let mut values = vec![0.5; len];
            values[start..end].fill(0.0);
            // A shorter one beside it, and single zeros.
            if end + 900 < len {
                values[end + 300..end + 890].fill(0.0);
            }
            values.iter_mut().skip(start % 7).step_by(977).for_each(|v| *v = 0.0);
            let wanted = {
                let (mut run, mut longest) = (0, 0);
                for v in &values {
                    run = if *v == 0.0 { run + 1 } else { 0 };
                    longest = longest.max(run);
                }
                longest
            };
            assert_eq!(longest(&values), Some(f64::from(wanted)), "{len} {start} {end}");
        }
    }

    #[test]
    fn scattered_zeros_are_no_run() {
        let values: Vec<f32> = (0..100_000).map(|i| if i % 10 == 0 { 1.0 } else { 0.0 }).collect();
        assert_eq!(longest(&values), Some(0.0));
    }
}
