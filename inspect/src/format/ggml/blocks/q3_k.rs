use super::q2_k::{pack_two_bits, two_bits};
use super::search::{largest_scale, nearest, round_again, symmetric_by_rounds};
use super::split::{ONE, Terms};
use super::{Block, Encode, Loss, Split, from_half, to_half};

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

impl Q3K {
    /// The scale of group `g`, a whole number from -32 to 31.
    fn scale(&self, g: usize) -> f32 {
        let low = (self.scales[g % 8] >> (4 * (g / 8))) & 15;
        let high = (self.scales[8 + g % 4] >> (2 * (g / 4))) & 3;
        (i32::from(low | high << 4) - 32) as f32
    }
}

impl Block<256> for Q3K {
    // Levels of a sub-block's grid times those of its scale, and half as many again.
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 3.0, levels: 6.0 * 32.0 });
    const SCALES: &[usize] = &[108];

    fn decode(&self, out: &mut [f32; 256]) {
        let d = from_half(self.d);
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let dl = d * self.scale(g);
            let (qs, shift) = two_bits(&self.qs, g);
            let hmask = &self.hmask[16 * (g % 2)..16 * (g % 2) + 16];
            for ((out, q), h) in out.iter_mut().zip(qs).zip(hmask) {
                let lowered = (!h >> (g / 2)) & 1;
                *out = dl * (i32::from((q >> shift) & 3) - i32::from(lowered << 2)) as f32;
            }
        }
    }
}

impl Split<256> for Q3K {
    const LESS: u8 = 4;

    fn split(&self) -> (Self, Terms) {
        // A scale of 1 is stored as 33, binary 10 0001.
        let ones = [0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0xaa, 0xaa, 0xaa, 0xaa];
        let scales = std::array::from_fn(|g| self.scale(g) as i8);
        (Q3K { d: ONE, scales: ones, ..*self }, Terms { scales, ..Terms::scale(self.d) })
    }
}

impl Encode<256> for Q3K {
    #[inline(always)]
    fn encode(values: &[f32; 256]) -> Self {
        let groups = values.as_chunks::<16>().0;
        let mut codes = [0; 256];
        let mut steps = [0.0f32; 16];
        for (g, (group, codes)) in groups.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
            let fit = symmetric_by_rounds(group, 4);
            (*codes, steps[g]) = (fit.codes, fit.scale);
        }
        let mut block = Q3K { hmask: [0; 32], qs: [0; 64], scales: [0; 12], d: [0; 2] };
        let largest = largest_scale(&steps);
        if largest != 0.0 {
            let inverse = -32.0 / largest;
            for (g, step) in steps.iter().enumerate() {
                let scale = ((nearest(inverse * step) as i8).clamp(-32, 31) + 32) as u8;
                block.scales[g % 8] |= (scale & 15) << (4 * (g / 8));
                block.scales[8 + g % 4] |= (scale >> 4) << (2 * (g / 4));
            }
            block.d = to_half(1.0 / inverse);
        }
        let d = from_half(block.d);
        for (g, (group, codes)) in groups.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
            round_again(group, d * block.scale(g), 0.0, codes, -4, 3);
        }
        for (run, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, h) in codes.iter_mut().zip(&mut block.hmask) {
                *h |= (*code >> 2) << run;
                *code &= 3;
            }
        }
        block.qs = pack_two_bits(&codes);
        block
    }
}
