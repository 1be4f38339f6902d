use super::codebook::{EVEN_SIGNS, IQ2_XXS, scaled, signed};
use super::{Block, Loss, from_half};

block! {
    /// 256 elements in groups of 32: d / 4 * (scale + 1/2) times four points of the codebook, with signs.
    Iq2Xxs {
        /// Scale, f16.
        d: [u8; 2],
        /// Per group four indices, then a u32: seven signs of each point from the lowest bit up, and the group's scale
        /// in the highest four bits.
        groups: [[u8; 8]; 8],
    }
}

impl Block<256> for Iq2Xxs {
    const LOSS: Option<Loss> = Some(Loss { share: 1.6, levels: 167.0 });
    const SCALES: &[usize] = &[0];

    fn decode(&self, out: &mut [f32; 256]) {
        let d = from_half(self.d);
        for (group, out) in self.groups.iter().zip(out.as_chunks_mut::<32>().0) {
            let [a, b, c, e, word @ ..] = *group;
            let word = u32::from_le_bytes(word);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            for ((l, index), out) in [a, b, c, e].into_iter().enumerate().zip(out.as_chunks_mut::<8>().0) {
                let signs = EVEN_SIGNS[(word >> (7 * l)) as usize & 127];
                scaled(signed(IQ2_XXS[usize::from(index)], signs), scale, out);
            }
        }
    }
}
