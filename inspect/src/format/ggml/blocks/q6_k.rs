use super::{Block, Loss, from_half};

block! {
    /// 256 elements d * scale * (q - 32) in 16 groups of 16, 6 bits each. In each half of the block, run r of 32
    /// elements has its low four bits in bytes 32 * (r % 2).. (the low halves for r < 2) and its high two in bits 2r.
    Q6K {
        /// Low four bits.
        ql: [u8; 128],
        /// High two bits.
        qh: [u8; 64],
        /// Scales of the groups.
        scales: [i8; 16],
        /// Scale of the scales, f16.
        d: [u8; 2],
    }
}

impl Block<256> for Q6K {
    // Levels of a sub-block's grid times those of its scale, and half as many again.
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 20.0, levels: 48.0 * 128.0 });

    fn decode(&self, out: &mut [f32; 256]) {
        let d = from_half(self.d);
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (part, run, odd) = (g / 8, g % 8 / 2, g % 2);
            let dl = d * f32::from(self.scales[g]);
            let low = 64 * part + 32 * (run % 2) + 16 * odd;
            let high = 32 * part + 16 * odd;
            let (low_shift, high_shift) = (4 * (run / 2), 2 * run);
            for ((out, l), h) in out.iter_mut().zip(&self.ql[low..low + 16]).zip(&self.qh[high..high + 16]) {
                let q = ((l >> low_shift) & 15) | (((h >> high_shift) & 3) << 4);
                *out = dl * (i32::from(q) - 32) as f32;
            }
        }
    }
}
