use super::{Block, Loss, from_half};

block! {
    /// 256 elements d * scale * q - dmin * min in 16 groups of 16, 2 bits each: in each half of the block, element
    /// 32 * s + i has bits 2s of byte i.
    Q2K {
        /// Per group, scale in the low and min in the high four bits.
        scales: [u8; 16],
        /// Quants.
        qs: [u8; 64],
        /// Scale of the scales, f16.
        d: [u8; 2],
        /// Scale of the mins, f16.
        dmin: [u8; 2],
    }
}

impl Block<256> for Q2K {
    // Levels of a sub-block's grid times those of its scale, and half as many again.
    const LOSS: Option<Loss> = Some(Loss { share: 0.7, levels: 6.0 * 16.0 });

    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (from_half(self.d), from_half(self.dmin));
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (dl, ml) = (d * f32::from(self.scales[g] & 15), dmin * f32::from(self.scales[g] >> 4));
            let (qs, shift) = two_bits(&self.qs, g);
            out.iter_mut().zip(qs).for_each(|(out, q)| *out = dl * f32::from((q >> shift) & 3) - ml);
        }
    }
}

/// The 16 bytes that hold group `g` of 2-bit quants, and its bits' place in them.
pub(super) fn two_bits(qs: &[u8; 64], g: usize) -> (&[u8], usize) {
    let start = 32 * (g / 8) + 16 * (g % 2);
    (&qs[start..start + 16], 2 * (g % 8 / 2))
}
