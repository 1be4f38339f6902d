use super::{Block, Loss};

block! {
    /// 256 elements d * q, 8 bits each. Made while multiplying and rarely stored.
    Q8K {
        /// Scale, f32.
        d: [u8; 4],
        /// Quants.
        qs: [i8; 256],
        /// Sums of 16 quants, i16.
        bsums: [[u8; 2]; 16],
    }
}

impl Block<256> for Q8K {
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 127.0, levels: 0.0 });

    fn decode(&self, out: &mut [f32; 256]) {
        let d = f32::from_le_bytes(self.d);
        out.iter_mut().zip(self.qs).for_each(|(out, q)| *out = d * f32::from(q));
    }
}
