//! One pass over a block of f32: moments in f64, extremes, counts around the ternary line, and magnitudes by octave.
//! Versions for AVX-512, AVX2 and any processor, chosen at run time; they agree but for the order of additions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
use std::mem::MaybeUninit;

/// Sums over one block. With a NaN or infinity in it, `squares` is not finite and only `above` and `below` mean
/// anything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    pub sum: f64,
    pub squares: f64,
    pub abs: f64,
    pub min: f32,
    pub max: f32,
    pub zeros: u64,
    /// Elements beyond the line, and beyond it on the negative side.
    pub above: u64,
    pub below: u64,
}

/// A band of magnitudes that holds the ternary line, which is only estimated while a block is seen: elements in the
/// band are set aside, elements beyond it are counted. Its ends are the upper halves of f32, sign left out, so that
/// one comparison takes twice as many elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    low: u16,
    high: u16,
}

impl Line {
    /// Zero itself, with nothing near it. Magnitudes below 2^-133 pass for zero.
    pub const SIGN: Line = Line { low: 1, high: 0 };

    /// The band from `at - margin` to `at + margin`, a little widened; both ends positive.
    pub fn around(at: f32, margin: f32) -> Line {
        let upper = |x: f32| (x.max(0.0).to_bits() >> 16) as u16;
        Line { low: upper(at - margin), high: upper(at + margin) }
    }

    /// Whether `at` lies in the band.
    pub fn encloses(self, at: f32) -> bool {
        (self.low..=self.high).contains(&Line::magnitude(at))
    }

    /// Whether `x` is counted rather than set aside or zero for certain. NaN is.
    pub fn is_beyond(self, x: f32) -> bool {
        x.abs().to_bits() > self.last_near()
    }

    /// Whether `x` is set aside.
    fn is_near(self, x: f32) -> bool {
        self.encloses(x)
    }

    /// The bits of the largest magnitude not beyond the band.
    fn last_near(self) -> u32 {
        u32::from(self.high) << 16 | 0xffff
    }

    fn magnitude(x: f32) -> u16 {
        (x.abs().to_bits() >> 16) as u16
    }
}

/// Elements by exponent field: zeros and subnormals under 0, infinity and NaN under 255.
#[derive(Clone, Debug)]
pub(super) struct Octaves {
    pub bins: Box<[u64; 256]>,
    /// The least exponent field of those that are counted fast: [`Octaves::FAST`] of them.
    first: u8,
}

impl Octaves {
    /// A weight matrix has nearly all of its elements in so many octaves below its largest.
    const FAST: usize = 16;

    pub fn new() -> Self {
        Octaves { bins: Box::new([0; 256]), first: 0 }
    }

    /// Prepares for elements of magnitudes like those in `block`.
    pub fn expect_like(&mut self, block: &[f32]) {
        let largest = block.iter().fold(0, |largest: u32, x| largest.max(x.abs().to_bits()));
        self.expect(f32::from_bits(largest));
    }

    /// Prepares for elements of magnitudes up to about `largest`.
    pub fn expect(&mut self, largest: f32) {
        let field = (largest.abs().to_bits() >> 23) as usize;
        self.first = (field + 2).saturating_sub(Self::FAST).min(256 - Self::FAST) as u8;
    }
}

/// Sums over `block`. `octaves` counts its elements, and `near` receives those near the line.
pub(super) fn scan(
    block: &[f32],
    line: Option<Line>,
    octaves: Option<&mut Octaves>,
    near: &mut Vec<f32>,
) -> Sums {
    #[cfg(target_arch = "x86_64")]
    {
        if avx512::is_available() {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { avx512::scan(block, line, octaves, near) };
        }
        if avx2::is_available() {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { avx2::scan(block, line, octaves, near) };
        }
    }
    portable::scan(block, line, octaves, near)
}

/// A loop that is written for one element after the other, and that the compiler is to make vectors of.
pub(crate) trait Vectorized {
    /// Runs it. With `#[inline(always)]` all the way down to the loop, since only what is inlined is compiled for the
    /// processor at hand.
    fn run(self);
}

/// Runs `task` with the widest vectors that the processor has. Nothing is fused or reordered, so the result is the same
/// on every processor.
pub(crate) fn vectorized(task: impl Vectorized) {
    #[cfg(target_arch = "x86_64")]
    {
        if avx512::is_available() {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { avx512::run(task) };
        }
        if avx2::is_available() {
            // SAFETY: the processor has what the function is compiled for.
            return unsafe { avx2::run(task) };
        }
    }
    task.run();
}

/// Elements by which memory is asked ahead: the processor's own guesses end with each page.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 2048;
/// Room that [`set_aside`] needs beyond what it is asked to write.
#[cfg(target_arch = "x86_64")]
const SPARE: usize = 3;

/// Writes the elements of `group` whose bit in `mask` is set to the start of `spare`; returns how many. The first few
/// are written whether they are wanted or not: how many are is chance, and a branch on it would be mispredicted.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn set_aside(group: &[f32; 64], mut mask: u64, spare: &mut [MaybeUninit<f32>]) -> usize {
    let wanted = mask.count_ones() as usize;
    let (few, more) = spare.split_at_mut(SPARE);
    for slot in few {
        slot.write(group[mask.trailing_zeros() as usize % 64]);
        mask &= mask.wrapping_sub(1);
    }
    if wanted > SPARE {
        for slot in &mut more[..wanted - SPARE] {
            slot.write(group[mask.trailing_zeros() as usize % 64]);
            mask &= mask.wrapping_sub(1);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    type Scan = fn(&[f32], Option<Line>, Option<&mut Octaves>, &mut Vec<f32>) -> Sums;

    /// Every version that this processor can run.
    fn versions() -> Vec<(&'static str, Scan)> {
        #[cfg(not(target_arch = "x86_64"))]
        return vec![("chosen", scan)];
        #[cfg(target_arch = "x86_64")]
        {
            let mut versions: Vec<(&'static str, Scan)> = vec![("chosen", scan)];
            if avx2::is_available() {
                versions.push(("avx2", |block, line, octaves, near| {
                    // SAFETY: the processor has what the function is compiled for.
                    unsafe { avx2::scan(block, line, octaves, near) }
                }));
            }
            if avx512::is_available() {
                versions.push(("avx512", |block, line, octaves, near| {
                    // SAFETY: the processor has what the function is compiled for.
                    unsafe { avx512::scan(block, line, octaves, near) }
                }));
            }
            versions
        }
    }

    #[test]
    fn versions_agree() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        for len in [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 2048, 4095, 4096, 9001] {
            let block: Vec<f32> = (0..len)
                .map(|i| match i % 7 {
                    0 => 0.0,
                    1 => -0.0,
                    2 => random() * f32::MIN_POSITIVE,
                    3 => random() * 1e30,
                    _ => random() * random().powi(9),
                })
                .collect();
            let bands =
                [Line::around(0.1, 0.02), Line::around(0.1, 0.0), Line::around(1e-3, 9.9e-4), Line::SIGN];
            for line in [None].into_iter().chain(bands.map(Some)) {
                for (largest, histogram) in [(0.0, false), (0.0, true), (1.0, true), (f32::INFINITY, true)] {
                    let run = |scan: Scan| {
                        let (mut octaves, mut near) = (Octaves::new(), vec![7.0]);
                        octaves.expect(largest);
                        let sums = scan(&block, line, histogram.then_some(&mut octaves), &mut near);
                        near.sort_by(f32::total_cmp);
                        (sums, octaves.bins, near)
                    };
                    let (b, bins, near) = run(portable::scan);
                    for (name, version) in versions() {
                        let (a, its_bins, its_near) = run(version);
                        assert!((a.sum - b.sum).abs() <= 1e-12 * b.abs, "{name}");
                        assert!((a.squares - b.squares).abs() <= 1e-12 * b.squares, "{name}");
                        assert!((a.abs - b.abs).abs() <= 1e-12 * b.abs, "{name}");
                        assert_eq!((a.min, a.max, a.zeros), (b.min, b.max, b.zeros), "{name}");
                        assert_eq!((a.above, a.below), (b.above, b.below), "{name}");
                        assert_eq!((&its_bins, &its_near), (&bins, &near), "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn not_finite_shows_in_the_squares() {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 63, 64, 130] {
                let mut block = [0.5; 131];
                block[at] = special;
                for (name, version) in versions() {
                    let sums = version(&block, None, None, &mut Vec::new());
                    assert!(!sums.squares.is_finite(), "{name}: {special} at {at}");
                }
            }
        }
    }
}
