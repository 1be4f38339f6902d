use super::q4_0::low_halves;
use super::q5_0::{fifth_bits, five_bits};
use super::round::{cut, inverse, range};
use super::split::{ONE, Terms, ZERO};
use super::{Block, Encode, Loss, Split, from_half, to_half};

block! {
    /// 32 elements d * q + m, 5 bits each, in the order of [`super::Q5_0`].
    Q5_1 {
        /// Scale, f16.
        d: [u8; 2],
        /// Smallest element, f16.
        m: [u8; 2],
        /// Bit i is the fifth bit of element i, u32.
        qh: [u8; 4],
        /// Low four bits.
        qs: [u8; 16],
    }
}

impl Block<32> for Q5_1 {
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 31.0, levels: 32.0 });
    const SCALES: &[usize] = &[0, 2];
    const IS_SIGNED: bool = false;

    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m, q) = (from_half(self.d), from_half(self.m), five_bits(self.qh, &self.qs));
        out.iter_mut().zip(q).for_each(|(out, q)| *out = d * f32::from(q) + m);
    }
}

impl Split<32> for Q5_1 {
    const LESS: u8 = 0;

    fn split(&self) -> (Self, Terms) {
        (Q5_1 { d: ONE, m: ZERO, ..*self }, Terms::scale_and_least(self.d, self.m))
    }
}

impl Encode<32> for Q5_1 {
    #[inline(always)]
    fn encode(values: &[f32; 32]) -> Self {
        let (low, high) = range(values);
        let d = (high - low) / 31.0;
        let q = cut(&values.map(|x| x - low), inverse(d), 0.5, 31);
        Q5_1 { d: to_half(d), m: to_half(low), qh: fifth_bits(&q), qs: low_halves(&q) }
    }
}
