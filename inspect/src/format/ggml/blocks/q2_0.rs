use super::{Block, Loss, from_half};

block! {
    /// 64 elements d * (q - 1), 2 bits each: byte i holds elements 4 * i to 4 * i + 3, the first in the lowest bits.
    Q2_0 {
        /// Scale, f16.
        d: [u8; 2],
        /// Quants.
        qs: [u8; 16],
    }
}

impl Block<64> for Q2_0 {
    // The scale is the largest magnitude.
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 2.0, levels: 1.0 });

    fn decode(&self, out: &mut [f32; 64]) {
        let d = from_half(self.d);
        for (q, out) in self.qs.iter().zip(out.as_chunks_mut::<4>().0) {
            for (i, out) in out.iter_mut().enumerate() {
                *out = f32::from(((q >> (2 * i)) & 3) as i8 - 1) * d;
            }
        }
    }
}
