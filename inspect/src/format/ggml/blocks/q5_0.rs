use super::q4_0::low_halves;
use super::round::{cut, extreme, inverse};
use super::split::{ONE, Terms};
use super::{Block, Encode, Loss, Split, from_half, to_half};

block! {
    /// 32 elements d * (q - 16), 5 bits each: the low four in the order of [`super::Q4_0`].
    Q5_0 {
        /// Scale, f16.
        d: [u8; 2],
        /// Bit i is the fifth bit of element i, u32.
        qh: [u8; 4],
        /// Low four bits.
        qs: [u8; 16],
    }
}

impl Block<32> for Q5_0 {
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 16.0, levels: 16.0 });
    const SCALES: &[usize] = &[0];

    fn decode(&self, out: &mut [f32; 32]) {
        let (d, q) = (from_half(self.d), five_bits(self.qh, &self.qs));
        out.iter_mut().zip(q).for_each(|(out, q)| *out = d * (i32::from(q) - 16) as f32);
    }
}

impl Split<32> for Q5_0 {
    const LESS: u8 = 16;

    fn split(&self) -> (Self, Terms) {
        (Q5_0 { d: ONE, ..*self }, Terms::scale(self.d))
    }
}

impl Encode<32> for Q5_0 {
    #[inline(always)]
    fn encode(values: &[f32; 32]) -> Self {
        let d = extreme(values) / -16.0;
        let q = cut(values, inverse(d), 16.5, 31);
        Q5_0 { d: to_half(d), qh: fifth_bits(&q), qs: low_halves(&q) }
    }
}

/// The 5-bit quants.
pub(super) fn five_bits(qh: [u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let qh = u32::from_le_bytes(qh);
    let mut q = [0; 32];
    for i in 0..16 {
        q[i] = (qs[i] & 15) | (((qh >> i) & 1) << 4) as u8;
        q[i + 16] = (qs[i] >> 4) | (((qh >> (i + 16)) & 1) << 4) as u8;
    }
    q
}

/// The fifth bit of each quant.
#[inline(always)]
pub(super) fn fifth_bits(q: &[u8; 32]) -> [u8; 4] {
    q.iter().enumerate().fold(0u32, |bits, (i, q)| bits | u32::from(q >> 4) << i).to_le_bytes()
}
