use super::codebook::{IQ2_S, SIGNS, scaled, signed};
use super::iq2_xs::quarter_scale;
use super::{Block, Loss, from_half};

block! {
    /// 256 elements in groups of 16: d / 4 * (scale + 1/2) times two points of the codebook, with signs.
    Iq2S {
        /// Scale, f16.
        d: [u8; 2],
        /// Low eight bits of the points' indices.
        qs: [u8; 32],
        /// Signs, a byte a point.
        signs: [u8; 32],
        /// High two bits of the indices of four points, the first in the lowest bits.
        qh: [u8; 8],
        /// Scales of 4 bits, the first of two groups in the low half of a byte.
        scales: [u8; 8],
    }
}

impl Block<256> for Iq2S {
    const LOSS: Option<Loss> = Some(Loss { share: 0.7, levels: 167.0 });
    const SCALES: &[usize] = &[0];

    fn decode(&self, out: &mut [f32; 256]) {
        let d = from_half(self.d);
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let high = usize::from((self.qh[i / 4] >> (2 * (i % 4))) & 3);
            let point = IQ2_S[usize::from(self.qs[i]) | high << 8];
            let signs = SIGNS[usize::from(self.signs[i])];
            scaled(signed(point, signs), quarter_scale(d, &self.scales, i / 2), out);
        }
    }
}
