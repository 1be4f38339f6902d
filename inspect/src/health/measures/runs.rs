//! Stretches of one value: holes that a lost block or a failed copy leaves in the middle of a tensor, zero or filled with
//! some byte.

use std::fmt::Debug;
use std::marker::PhantomData;

use super::{Accumulate, Form, Measure, Part, Place, Source, accumulator};
use crate::measure::Moments;

pub(super) const ZERO_RUN: Measure = Measure {
    key: "zero_run",
    heading: "longest run of zeros",
    label: "zero run",
    explanation: "The most zeros in a row, element after element through the rows. Pruning spreads zeros; a lost block \
                  leaves a hole. Runs below 128 count as 0.",
    form: Form::Count,
    part: Part::Elements,
    places: &[Place::Csv, Place::Details],
    source: Source::Elements(accumulator::<Runs<ZeroLength>>),
};

pub(super) const ZERO_RUN_AT: Measure = Measure {
    key: "zero_run_at",
    heading: "place of the longest run of zeros",
    label: "zeros at",
    explanation: "How many elements come before the longest run of zeros. A run that begins or ends within a row is no \
                  padding.",
    form: Form::Count,
    part: Part::Elements,
    places: &[],
    source: Source::Elements(accumulator::<Runs<ZeroPlace>>),
};

pub(super) const CONSTANT_RUN: Measure = Measure {
    key: "constant_run",
    heading: "longest run of another value",
    label: "same in row",
    explanation: "The most equal elements in a row that are not zero. Runs below 128 count as 0.",
    form: Form::Count,
    part: Part::Elements,
    places: &[],
    source: Source::Elements(accumulator::<Runs<Constant>>),
};

/// Shorter runs are not looked for.
pub(crate) const SHORTEST: u64 = 128;
/// Elements between those that are compared: any run of [`SHORTEST`] holds two of them.
const STRIDE: usize = SHORTEST as usize / 2;

/// Which runs are looked for, and what is told of the longest.
trait What: Debug + Default + Send + 'static {
    const ZEROS: bool;
    fn shown(longest: Run) -> f64;
}

#[derive(Debug, Default)]
struct ZeroLength;

impl What for ZeroLength {
    const ZEROS: bool = true;
    fn shown(longest: Run) -> f64 {
        longest.len as f64
    }
}

#[derive(Debug, Default)]
struct ZeroPlace;

impl What for ZeroPlace {
    const ZEROS: bool = true;
    fn shown(longest: Run) -> f64 {
        longest.start as f64
    }
}

#[derive(Debug, Default)]
struct Constant;

impl What for Constant {
    const ZEROS: bool = false;
    fn shown(longest: Run) -> f64 {
        longest.len as f64
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Run {
    start: u64,
    len: u64,
}

/// Equal elements at an end of what was seen.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    value: f64,
    len: u64,
}

/// Runs among the elements seen so far.
#[derive(Debug, Default)]
struct Runs<W> {
    count: u64,
    leading: End,
    trailing: End,
    longest: Run,
    /// Whether zeros are somewhere else than in runs.
    sparse: bool,
    what: PhantomData<W>,
}

impl<W: What> Runs<W> {
    fn keep(&mut self, value: f64, run: Run) {
        if (value == 0.0) == W::ZEROS && run.len > self.longest.len {
            self.longest = run;
        }
    }
}

impl<W: What> Accumulate for Runs<W> {
    const DEGREE: i32 = 0;

    fn add<T: Copy + Into<f64>>(&mut self, block: &[T], known: &Moments) {
        let at = |i: usize| Into::<f64>::into(block[i]);
        let n = block.len();
        let mut seen = Runs::<W> { count: n as u64, ..Runs::default() };
        if n == 0 || (W::ZEROS && known.zeros == 0) {
            return self.join(&seen);
        }
        let equal = |value: f64, i: usize| at(i) == value;
        let leading = (1..n).take_while(|&i| equal(at(0), i)).count() + 1;
        let trailing = (1..n).take_while(|&i| equal(at(n - 1), n - 1 - i)).count() + 1;
        seen.leading = End { value: at(0), len: leading as u64 };
        seen.trailing = End { value: at(n - 1), len: trailing as u64 };
        seen.keep(at(0), Run { start: 0, len: leading as u64 });
        seen.keep(at(n - 1), Run { start: (n - trailing) as u64, len: trailing as u64 });
        let mut place = leading / STRIDE * STRIDE;
        while place + STRIDE < n - trailing {
            let value = at(place);
            if !equal(value, place + STRIDE) || (value == 0.0) != W::ZEROS {
                place += STRIDE;
                continue;
            }
            let after = (place + 1..n).find(|&i| !equal(value, i)).unwrap_or(n);
            if after > place + STRIDE {
                let before = (0..place).rev().find(|&i| !equal(value, i)).map_or(0, |i| i + 1);
                seen.keep(value, Run { start: before as u64, len: (after - before) as u64 });
            }
            place = (after / STRIDE * STRIDE).max(place + STRIDE);
        }
        self.join(&seen);
    }

    fn add_zeros(&mut self, _: u64) {
        // Where they stand is not looked at.
        self.sparse = true;
    }

    fn join(&mut self, later: &Self) {
        if later.count == 0 {
            return;
        }
        let (before, own) = (self.count, self.trailing);
        let joined = own.len > 0 && later.leading.len > 0 && own.value == later.leading.value;
        let longest = later.longest;
        self.keep(if W::ZEROS { 0.0 } else { 1.0 }, Run { start: before + longest.start, ..longest });
        if joined {
            let run = Run { start: before - own.len, len: own.len + later.leading.len };
            self.keep(own.value, run);
        }
        if before == 0 {
            self.leading = later.leading;
        } else if joined && self.leading.len == before {
            self.leading.len += later.leading.len;
        }
        let all_alike = joined && later.trailing.len == later.count;
        self.trailing = match all_alike {
            true => End { len: own.len + later.count, ..own },
            false => later.trailing,
        };
        self.count += later.count;
    }

    fn value(&self, _: &Moments) -> Option<f64> {
        let longest = if self.longest.len < SHORTEST { Run::default() } else { self.longest };
        (!self.sparse).then(|| W::shown(longest))
    }
}

#[cfg(test)]
mod tests {
    use crate::DType;
    use crate::meaning::elements::Elements;
    use crate::measure::{Plan, measure};

    fn measured(values: &[f32], key: &str) -> Option<f64> {
        let elements = Elements::plain(DType::F32, bytemuck::cast_slice::<f32, u8>(values)).unwrap();
        measure(&elements, &Plan::default()).stats.computed.get(key)
    }

    fn longest(values: &[f32]) -> Option<f64> {
        measured(values, "zero_run")
    }

    /// Where the first longest run of elements that `counts` begins, and its length.
    fn wanted(values: &[f32], counts: impl Fn(f32) -> bool) -> (usize, usize) {
        let mut best = (0, 0);
        let mut start = 0;
        for run in values.chunk_by(|a, b| a == b) {
            if counts(run[0]) && run.len() > best.1 {
                best = (start, run.len());
            }
            start += run.len();
        }
        best
    }

    #[test]
    fn the_longest_run_is_found_wherever_it_lies() {
        for (len, start, end) in [
            (100_000, 5_000, 9_000),
            (100_000, 0, 700),
            (100_000, 99_000, 100_000),
            (100_000, 16_000, 17_000),
            (100_000, 16_320, 16_449),
            (100_000, 7_777, 7_905),
            (3_000_000, 1_000_000, 2_100_000),
            (1_000, 0, 1_000),
        ] {
            let mut values: Vec<f32> = (0..len).map(|i| 0.5 + (i % 8191) as f32).collect();
            let long = end - start > 600;
            values[start..end].fill(0.0);
            // A shorter one beside it, and single zeros.
            if end + 900 < len && long {
                values[end + 300..end + 890].fill(0.0);
            }
            values.iter_mut().skip(start % 7).step_by(977).for_each(|v| *v = 0.0);
            for fill in [0.0, 3.0] {
                values[start..end].fill(fill);
                let (at, run) = wanted(&values, |v| v == 0.0);
                assert_eq!(longest(&values), Some(if run < 128 { 0.0 } else { run as f64 }), "{len} {start}");
                if run >= 128 {
                    assert_eq!(measured(&values, "zero_run_at"), Some(at as f64), "{len} {start}");
                }
                let (_, run) = wanted(&values, |v| v != 0.0);
                let run = if run < 128 { 0.0 } else { run as f64 };
                assert_eq!(measured(&values, "constant_run"), Some(run), "{len} {start} of {fill}");
            }
        }
    }

    #[test]
    fn scattered_zeros_are_no_run() {
        let values: Vec<f32> = (0..100_000).map(|i| if i % 10 == 0 { 1.0 } else { 0.0 }).collect();
        assert_eq!(longest(&values), Some(0.0));
        let few: Vec<f32> = (0..100_000).map(|i| (i / 100 % 3) as f32).collect();
        assert_eq!((longest(&few), measured(&few, "constant_run")), (Some(0.0), Some(0.0)));
    }
}
