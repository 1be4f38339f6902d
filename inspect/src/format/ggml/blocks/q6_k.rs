use super::search::{NOTHING, largest_scale, nearest, round_again, symmetric};
use super::split::{ONE, Terms};
use super::{Block, Encode, Loss, Split, from_half, to_half};

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
    const SCALES: &[usize] = &[208];

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

impl Split<256> for Q6K {
    const LESS: u8 = 32;

    fn split(&self) -> (Self, Terms) {
        (Q6K { d: ONE, scales: [1; 16], ..*self }, Terms { scales: self.scales, ..Terms::scale(self.d) })
    }
}

impl Encode<256> for Q6K {
    #[inline(always)]
    fn encode(values: &[f32; 256]) -> Self {
        let groups = values.as_chunks::<16>().0;
        let mut block = Q6K { ql: [0; 128], qh: [0; 64], scales: [0; 16], d: [0; 2] };
        let mut codes = [0; 256];
        let mut steps = [0.0f32; 16];
        for (g, (group, codes)) in groups.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
            let fit = symmetric(group, 32);
            (*codes, steps[g]) = (fit.codes, fit.scale);
        }
        let largest = largest_scale(&steps);
        if largest.abs() < NOTHING {
            return block;
        }
        let inverse = -128.0 / largest;
        block.d = to_half(1.0 / inverse);
        block.scales = steps.map(|step| nearest(inverse * step).min(127) as i8);
        let d = from_half(block.d);
        for ((group, codes), scale) in groups.iter().zip(codes.as_chunks_mut::<16>().0).zip(block.scales) {
            round_again(group, d * f32::from(scale), 0.0, codes, -32, 31);
        }
        for (part, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
            for i in 0..32 {
                let runs: [u8; 4] = std::array::from_fn(|run| codes[32 * run + i]);
                block.ql[64 * part + i] = (runs[0] & 15) | (runs[2] << 4);
                block.ql[64 * part + 32 + i] = (runs[1] & 15) | (runs[3] << 4);
                let high = runs.map(|code| code >> 4);
                block.qh[32 * part + i] = high[0] | high[1] << 2 | high[2] << 4 | high[3] << 6;
            }
        }
        block
    }
}
