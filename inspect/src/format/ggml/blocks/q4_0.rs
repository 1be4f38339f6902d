use super::round::{cut, extreme, inverse};
use super::split::{ONE, Terms};
use super::{Block, Encode, Loss, Split, from_half, to_half};

block! {
    /// 32 elements d * (q - 8), 4 bits each: element i in the low half of byte i, i + 16 in the high half.
    Q4_0 {
        /// Scale, f16.
        d: [u8; 2],
        /// Quants.
        qs: [u8; 16],
    }
}

impl Block<32> for Q4_0 {
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 8.0, levels: 8.0 });
    const SCALES: &[usize] = &[0];

    fn decode(&self, out: &mut [f32; 32]) {
        let d = from_half(self.d);
        for i in 0..16 {
            out[i] = d * (i32::from(self.qs[i] & 15) - 8) as f32;
            out[i + 16] = d * (i32::from(self.qs[i] >> 4) - 8) as f32;
        }
    }
}

impl Split<32> for Q4_0 {
    const LESS: u8 = 8;

    fn split(&self) -> (Self, Terms) {
        (Q4_0 { d: ONE, ..*self }, Terms::scale(self.d))
    }
}

impl Encode<32> for Q4_0 {
    #[inline(always)]
    fn encode(values: &[f32; 32]) -> Self {
        let d = extreme(values) / -8.0;
        Q4_0 { d: to_half(d), qs: low_halves(&cut(values, inverse(d), 8.5, 15)) }
    }
}

/// Elements 0 to 15 in the low and 16 to 31 in the high halves of bytes.
#[inline(always)]
pub(super) fn low_halves(q: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| (q[i] & 15) | (q[i + 16] << 4))
}
