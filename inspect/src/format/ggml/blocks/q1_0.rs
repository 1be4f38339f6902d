use super::{Block, Loss, from_half};

block! {
    /// 128 elements, d or -d.
    Q1_0 {
        /// Scale, f16.
        d: [u8; 2],
        /// Bit j of byte i: element 8 * i + j is d.
        qs: [u8; 16],
    }
}

impl Block<128> for Q1_0 {
    // The scale is the mean magnitude, and signs are kept: the largest magnitude, or a zero, may be off by all of it.
    const LOSS: Option<Loss> = Some(Loss { share: 1.0, levels: 1.0 });

    fn decode(&self, out: &mut [f32; 128]) {
        let d = from_half(self.d);
        for (q, out) in self.qs.iter().zip(out.as_chunks_mut::<8>().0) {
            for (bit, out) in out.iter_mut().enumerate() {
                *out = if q & (1 << bit) != 0 { d } else { -d };
            }
        }
    }
}
