use super::codebook::{EVEN_SIGNS, IQ2_XS, scaled, signed};
use super::{Block, Loss, from_half};

block! {
    /// 256 elements in groups of 16: d / 4 * (scale + 1/2) times two points of the codebook, with signs.
    Iq2Xs {
        /// Scale, f16.
        d: [u8; 2],
        /// Per point a u16: its index in the low nine bits, and seven signs.
        qs: [[u8; 2]; 32],
        /// Scales of 4 bits, the first of two groups in the low half of a byte.
        scales: [u8; 8],
    }
}

impl Block<256> for Iq2Xs {
    const LOSS: Option<Loss> = Some(Loss { share: 1.5, levels: 167.0 });
    const SCALES: &[usize] = &[0];

    fn decode(&self, out: &mut [f32; 256]) {
        let d = from_half(self.d);
        for ((g, out), q) in
            out.as_chunks_mut::<16>().0.iter_mut().enumerate().zip(self.qs.as_chunks::<2>().0)
        {
            let scale = quarter_scale(d, &self.scales, g);
            for (out, q) in out.as_chunks_mut::<8>().0.iter_mut().zip(q) {
                let q = usize::from(u16::from_le_bytes(*q));
                scaled(signed(IQ2_XS[q & 511], EVEN_SIGNS[q >> 9]), scale, out);
            }
        }
    }
}

/// The factor of group `g` in types with scales of 4 bits: a quarter of scale and a half.
#[inline(always)]
pub(super) fn quarter_scale(d: f32, scales: &[u8; 8], g: usize) -> f32 {
    d * (0.5 + f32::from((scales[g / 2] >> (4 * (g % 2))) & 15)) * 0.25
}
