//! Random numbers that need no saved state: each stream has a key (seed, step, parameter …), so a resumed run draws the
//! same numbers as one that was not stopped, on any number of threads.

/// A stream of SplitMix64 (Steele, Lea and Flood 2014, <https://doi.org/10.1145/2660193.2660195>).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream with this `key`.
    pub fn new(key: &[u64]) -> Self {
        let start = Random(0x243f_6a88_85a3_08d3);
        key.iter().fold(start, |stream, &part| Random(Random(stream.0 ^ part).next_u64()))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n`; 0 for `n` = 0. The bias is below n / 2^64.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// -1 or +1.
    pub fn sign(&mut self) -> f32 {
        if self.next_u64() >> 63 == 0 { 1.0 } else { -1.0 }
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.uniform()).cos()) as f32
    }
}
