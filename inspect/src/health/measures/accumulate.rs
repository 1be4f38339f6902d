//! How measures are computed together: block after block of elements while they are in the cache, part after
//! part of the tensor, parts joined in their order.

use std::any::Any;
use std::fmt::Debug;

use super::{Computed, Source, computed};
use crate::measure::Moments;
use crate::measure::kernel::{Vectorized, vectorized};

/// The state of one measure after the elements seen so far. Its [`Default`] has seen none.
pub trait Accumulate: Debug + Default + Send + 'static {
    /// The power of a factor by which the value grows when all elements are multiplied by that factor: 0 for a ratio of
    /// elements, 1 for a length, 2 for a variance. Elements of f64 near the ends of its range come scaled, so that
    /// their fourth powers are in range.
    const DEGREE: i32;

    /// Adds a block of finite elements, of which `known` are the moments. With `#[inline(always)]` it is compiled for
    /// every set of vector instructions that the processor may have.
    fn add<T: Copy + Into<f64>>(&mut self, block: &[T], known: &Moments);

    /// Adds `count` zeros: the elements that a sparse tensor does not list.
    fn add_zeros(&mut self, count: u64);

    /// Adds the state of `later`, which has seen the elements after these.
    fn join(&mut self, later: &Self);

    /// The value, given the moments of all elements. Values that are not finite count as missing.
    fn value(&self, known: &Moments) -> Option<f64>;
}

/// An [`Accumulate`] of any measure.
pub trait Accumulator: Any + Debug + Send {
    /// Adds a block of f32, see [`Accumulate::add`].
    fn add_f32(&mut self, block: &[f32], known: &Moments);
    /// Adds a block of f64.
    fn add_f64(&mut self, block: &[f64], known: &Moments);
    /// See [`Accumulate::add_zeros`].
    fn add_zeros(&mut self, count: u64);
    /// See [`Accumulate::join`]; `later` is of the same measure.
    fn join(&mut self, later: &dyn Accumulator);
    /// See [`Accumulate::value`]. Elements and moments were given in `unit`.
    fn value(&self, known: &Moments, unit: f64) -> Option<f64>;
}

/// A new accumulator of a measure, for its [`Source::Elements`].
pub fn accumulator<A: Accumulate>() -> Box<dyn Accumulator> {
    Box::new(A::default())
}

struct Add<'a, A, T> {
    accumulator: &'a mut A,
    block: &'a [T],
    known: &'a Moments,
}

impl<A: Accumulate, T: Copy + Into<f64>> Vectorized for Add<'_, A, T> {
    #[inline(always)]
    fn run(self) {
        self.accumulator.add(self.block, self.known);
    }
}

impl<A: Accumulate> Accumulator for A {
    fn add_f32(&mut self, block: &[f32], known: &Moments) {
        vectorized(Add { accumulator: self, block, known });
    }

    fn add_f64(&mut self, block: &[f64], known: &Moments) {
        vectorized(Add { accumulator: self, block, known });
    }

    fn add_zeros(&mut self, count: u64) {
        Accumulate::add_zeros(self, count);
    }

    fn join(&mut self, later: &dyn Accumulator) {
        if let Some(later) = (later as &dyn Any).downcast_ref::<A>() {
            Accumulate::join(self, later);
        }
    }

    fn value(&self, known: &Moments, unit: f64) -> Option<f64> {
        Some(Accumulate::value(self, known)? * unit.powi(A::DEGREE)).filter(|v| v.is_finite())
    }
}

/// One accumulator for each measure that is computed from the elements.
#[derive(Debug)]
pub(crate) struct Accumulators(Vec<Box<dyn Accumulator>>);

impl Default for Accumulators {
    fn default() -> Self {
        let new = |source| match source {
            Source::Elements(new) => Some(new()),
            Source::Field(_) => None,
        };
        Accumulators(computed().filter_map(|m| new(m.source)).collect())
    }
}

impl Accumulators {
    /// Adds a block of f32 to each.
    pub(crate) fn add_f32(&mut self, block: &[f32], known: &Moments) {
        self.0.iter_mut().for_each(|a| a.add_f32(block, known));
    }

    /// Adds a block of f64 to each.
    pub(crate) fn add_f64(&mut self, block: &[f64], known: &Moments) {
        self.0.iter_mut().for_each(|a| a.add_f64(block, known));
    }

    pub(crate) fn add_zeros(&mut self, count: u64) {
        self.0.iter_mut().for_each(|a| a.add_zeros(count));
    }

    pub(crate) fn join(&mut self, later: &Accumulators) {
        self.0.iter_mut().zip(&later.0).for_each(|(a, later)| a.join(later.as_ref()));
    }

    /// The values, of elements that were given in `unit`.
    pub(crate) fn values(&self, known: &Moments, unit: f64) -> Computed {
        Computed::collect(self.0.iter().map(|a| a.value(known, unit)))
    }
}
