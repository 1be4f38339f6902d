use super::q2_k::two_bits;
use super::{Block, Loss, from_half};

block! {
    /// 256 elements d * (scale - 32) * q in 16 groups of 16, 3 bits each: the low two in the order of [`super::Q2K`].
    Q3K {
        /// Bit s of byte i: element 32 * s + i is not lowered by 4.
        hmask: [u8; 32],
        /// Low two bits.
        qs: [u8; 64],
        /// 16 scales of 6 bits: low four as nibbles of the first eight bytes, high two in the last four.
        scales: [u8; 12],
        /// Scale of the scales, f16.
        d: [u8; 2],
    }
}

impl Block<256> for Q3K {
    // Levels of a sub-block's grid times those of its scale, and half as many again.
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 3.0, levels: 6.0 * 32.0 });

    fn decode(&self, out: &mut [f32; 256]) {
        let d = from_half(self.d);
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let low = (self.scales[g % 8] >> (4 * (g / 8))) & 15;
            let high = (self.scales[8 + g % 4] >> (2 * (g / 4))) & 3;
            let dl = d * (i32::from(low | high << 4) - 32) as f32;
            let (qs, shift) = two_bits(&self.qs, g);
            let hmask = &self.hmask[16 * (g % 2)..16 * (g % 2) + 16];
            for ((out, q), h) in out.iter_mut().zip(qs).zip(hmask) {
                let lowered = (!h >> (g / 2)) & 1;
                *out = dl * (i32::from((q >> shift) & 3) - i32::from(lowered << 2)) as f32;
            }
        }
    }
}
