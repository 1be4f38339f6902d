use super::round::{inverse, largest};
use super::split::{ONE, Terms};
use super::{Block, Encode, Loss, Split, from_half, to_half};

block! {
    /// 32 elements q * d, 8 bits each.
    Q8_0 {
        /// Scale, f16.
        d: [u8; 2],
        /// Quants.
        qs: [i8; 32],
    }
}

impl Block<32> for Q8_0 {
    const LOSS: Option<Loss> = Some(Loss { share: 0.5 / 127.0, levels: 127.0 });
    const SCALES: &[usize] = &[0];
    const IS_SIGNED: bool = false;

    fn decode(&self, out: &mut [f32; 32]) {
        let d = from_half(self.d);
        out.iter_mut().zip(self.qs).for_each(|(out, q)| *out = f32::from(q) * d);
    }
}

impl Split<32> for Q8_0 {
    const LESS: u8 = 128;

    fn split(&self) -> (Self, Terms) {
        (Q8_0 { d: ONE, ..*self }, Terms::scale(self.d))
    }
}

impl Encode<32> for Q8_0 {
    #[inline(always)]
    fn encode(values: &[f32; 32]) -> Self {
        let d = largest(values) / 127.0;
        let factor = inverse(d);
        let mut qs = [0; 32];
        for i in 0..32 {
            // Halves round away from zero: exactly this results from adding the number just below a half, and
            // truncating.
            let q = (values[i] * factor).clamp(-127.0, 127.0);
            let whole = (q + JUST_BELOW_HALF.copysign(q)).trunc();
            // Here the last bits of an f32 are those of the integer it holds.
            qs[i] = (whole + 1.5 * (1 << 23) as f32).to_bits() as i8;
        }
        Q8_0 { d: to_half(d), qs }
    }
}

/// The largest f32 below 0.5.
const JUST_BELOW_HALF: f32 = 0.5f32.next_down();
