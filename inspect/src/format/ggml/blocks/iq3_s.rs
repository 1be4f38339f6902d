use super::codebook::{IQ3_S, SIGNS, scaled, signed};
use super::{Block, Loss, from_half};

block! {
    /// 256 elements in groups of 32: d * (2 * scale + 1) times eight points of the codebook, with signs.
    Iq3S {
        /// Scale, f16.
        d: [u8; 2],
        /// Low eight bits of the points' indices.
        qs: [u8; 64],
        /// The ninth bits of the indices of eight points, the first in the lowest bit.
        qh: [u8; 8],
        /// Signs, a byte for two points.
        signs: [u8; 32],
        /// Scales of 4 bits, the first of two groups in the low half of a byte.
        scales: [u8; 4],
    }
}

impl Block<256> for Iq3S {
    const LOSS: Option<Loss> = Some(Loss { share: 2.4, levels: 465.0 });
    const SCALES: &[usize] = &[0];

    fn decode(&self, out: &mut [f32; 256]) {
        let d = from_half(self.d);
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let scale = d * f32::from(1 + 2 * ((self.scales[g / 2] >> (4 * (g % 2))) & 15));
            let qh = usize::from(self.qh[g]);
            for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let pair = 4 * g + l;
                let first = usize::from(self.qs[2 * pair]) | (qh << (8 - 2 * l)) & 256;
                let second = usize::from(self.qs[2 * pair + 1]) | (qh << (7 - 2 * l)) & 256;
                let points = IQ3_S[first] | IQ3_S[second] << 32;
                scaled(signed(points, SIGNS[usize::from(self.signs[pair])]), scale, out);
            }
        }
    }
}
