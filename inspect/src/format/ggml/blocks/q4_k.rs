use super::{Block, Loss, from_half};

block! {
    /// 256 elements d * scale * q - dmin * min in 8 groups of 32, 4 bits each: groups 2k and 2k + 1 in the low and
    /// high halves of bytes 32k to 32k + 31.
    Q4K {
        /// Scale of the scales, f16.
        d: [u8; 2],
        /// Scale of the mins, f16.
        dmin: [u8; 2],
        /// Eight scales and eight mins of 6 bits, see [`scale_min`].
        scales: [u8; 12],
        /// Quants.
        qs: [u8; 128],
    }
}

/// The 6-bit scale and min of group `g`: groups 0 to 3 in the low bits of bytes g and g + 4; of groups 4 to 7 the low
/// four bits share byte g + 4 and the high two are the high bits of bytes g - 4 and g.
pub fn scale_min(scales: &[u8; 12], g: usize) -> (u8, u8) {
    if g < 4 {
        (scales[g] & 63, scales[g + 4] & 63)
    } else {
        let low = scales[g + 4];
        ((low & 15) | ((scales[g - 4] >> 2) & 48), (low >> 4) | ((scales[g] >> 2) & 48))
    }
}

impl Block<256> for Q4K {
    // Levels of a sub-block's grid times those of its scale, and half as many again.
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 6.0, levels: 24.0 * 64.0 });

    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (from_half(self.d), from_half(self.dmin));
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = scale_min(&self.scales, g);
            let (dl, ml) = (d * f32::from(scale), dmin * f32::from(min));
            let (qs, shift) = (&self.qs[32 * (g / 2)..32 * (g / 2) + 32], 4 * (g % 2));
            out.iter_mut().zip(qs).for_each(|(out, q)| *out = dl * f32::from((q >> shift) & 15) - ml);
        }
    }
}
