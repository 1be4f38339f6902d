//! Numbers that look random and are the same on every machine and every day.

/// A linear congruential generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Each seed begins a sequence of its own.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 32 bits.
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.bits()) * bound as u64) >> 32) as usize
    }

    /// One of `items`.
    pub fn pick<'i, T>(&mut self, items: &'i [T]) -> &'i T {
        &items[self.below(items.len())]
    }

    /// From -1 to 1, all values alike; exact in 24 bits.
    pub fn even(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// Nearly normal, of mean 0 and standard deviation 1.
    pub fn normal(&mut self) -> f32 {
        // The sum of twelve uniform numbers has a variance of 12 / 3.
        (0..12).map(|_| self.even()).sum::<f32>() / 2.0
    }
}
