use super::{Block, Loss, Pack, TernaryBlock, from_half, scaled, to_half};

block! {
    /// 256 ternary elements of 2 bits, code = value + 1: byte 32 * h + i holds elements 128 * h + 32 * s + i at bits
    /// 2s.
    Tq2_0 {
        /// Codes.
        qs: [u8; 64],
        /// Scale, f16.
        d: [u8; 2],
    }
}

impl Block<256> for Tq2_0 {
    const LOSS: Option<Loss> = None;

    fn decode(&self, out: &mut [f32; 256]) {
        scaled(self, from_half(self.d), out);
    }
}

impl TernaryBlock for Tq2_0 {
    fn codes(&self, out: &mut [i8; 256]) {
        for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (start, shift) = (32 * (run / 4), 2 * (run % 4));
            let qs = &self.qs[start..start + 32];
            out.iter_mut().zip(qs).for_each(|(out, q)| *out = ((q >> shift) & 3) as i8 - 1);
        }
    }
}

impl Pack<256> for Tq2_0 {
    #[inline(always)]
    fn pack(codes: &[u8; 256], scale: f32) -> Self {
        let mut qs = [0; 64];
        for (codes, qs) in codes.as_chunks::<128>().0.iter().zip(qs.as_chunks_mut::<32>().0) {
            for (i, q) in qs.iter_mut().enumerate() {
                *q = codes[i] | codes[i + 32] << 2 | codes[i + 64] << 4 | codes[i + 96] << 6;
            }
        }
        Tq2_0 { qs, d: to_half(scale) }
    }
}
