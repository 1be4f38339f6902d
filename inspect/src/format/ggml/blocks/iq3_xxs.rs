use super::codebook::{EVEN_SIGNS, IQ3_XXS, scaled, signed};
use super::{Block, Loss, from_half};

block! {
    /// 256 elements in groups of 32: d / 2 * (scale + 1/2) times eight points of the codebook, with signs.
    Iq3Xxs {
        /// Scale, f16.
        d: [u8; 2],
        /// The points' indices.
        qs: [u8; 64],
        /// Per group a u32: seven signs of each pair of points from the lowest bit up, and the group's scale in the
        /// highest four bits.
        scales_and_signs: [[u8; 4]; 8],
    }
}

impl Block<256> for Iq3Xxs {
    const LOSS: Option<Loss> = Some(Loss { share: 1.35, levels: 481.0 });
    const SCALES: &[usize] = &[0];

    fn decode(&self, out: &mut [f32; 256]) {
        let d = from_half(self.d);
        let groups = self.scales_and_signs.iter().zip(self.qs.as_chunks::<8>().0);
        for ((word, qs), out) in groups.zip(out.as_chunks_mut::<32>().0) {
            let word = u32::from_le_bytes(*word);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            let pairs = qs.as_chunks::<2>().0.iter().enumerate();
            for ((l, [first, second]), out) in pairs.zip(out.as_chunks_mut::<8>().0) {
                let signs = EVEN_SIGNS[(word >> (7 * l)) as usize & 127];
                let points = IQ3_XXS[usize::from(*first)] | IQ3_XXS[usize::from(*second)] << 32;
                scaled(signed(points, signs), scale, out);
            }
        }
    }
}
