use super::{Block, Loss, from_half};

block! {
    /// 32 elements d * q, 8 bits each. Made while multiplying and rarely stored.
    Q8_1 {
        /// Scale, f16.
        d: [u8; 2],
        /// Sum of the elements, f16.
        s: [u8; 2],
        /// Quants.
        qs: [i8; 32],
    }
}

impl Block<32> for Q8_1 {
    const LOSS: Option<Loss> = Some(Loss { share: 0.5 / 127.0, levels: 127.0 });

    fn decode(&self, out: &mut [f32; 32]) {
        let d = from_half(self.d);
        out.iter_mut().zip(self.qs).for_each(|(out, q)| *out = f32::from(q) * d);
    }
}
