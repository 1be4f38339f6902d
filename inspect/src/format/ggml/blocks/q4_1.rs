use super::q4_0::low_halves;
use super::round::{cut, inverse, range};
use super::split::{ONE, Terms, ZERO};
use super::{Block, Encode, Loss, Split, from_half, to_half};

block! {
    /// 32 elements d * q + m, 4 bits each, in the order of [`super::Q4_0`].
    Q4_1 {
        /// Scale, f16.
        d: [u8; 2],
        /// Smallest element, f16.
        m: [u8; 2],
        /// Quants.
        qs: [u8; 16],
    }
}

impl Block<32> for Q4_1 {
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 15.0, levels: 16.0 });
    const SCALES: &[usize] = &[0, 2];
    const IS_SIGNED: bool = false;

    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (from_half(self.d), from_half(self.m));
        for i in 0..16 {
            out[i] = d * f32::from(self.qs[i] & 15) + m;
            out[i + 16] = d * f32::from(self.qs[i] >> 4) + m;
        }
    }
}

impl Split<32> for Q4_1 {
    const LESS: u8 = 0;

    fn split(&self) -> (Self, Terms) {
        (Q4_1 { d: ONE, m: ZERO, ..*self }, Terms::scale_and_least(self.d, self.m))
    }
}

impl Encode<32> for Q4_1 {
    #[inline(always)]
    fn encode(values: &[f32; 32]) -> Self {
        let (low, high) = range(values);
        let d = (high - low) / 15.0;
        let q = cut(&values.map(|x| x - low), inverse(d), 0.5, 15);
        Q4_1 { d: to_half(d), m: to_half(low), qs: low_halves(&q) }
    }
}
