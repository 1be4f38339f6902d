use super::q4_k::{Groups, SCALES_ONE, scale_min, six_bit_terms};
use super::search::Grid;
use super::split::{ONE, Terms, ZERO};
use super::{Block, Encode, Loss, Split, from_half};

block! {
    /// 256 elements d * scale * q - dmin * min in 8 groups of 32, 5 bits each: the low four in the order of
    /// [`super::Q4K`].
    Q5K {
        /// Scale of the scales, f16.
        d: [u8; 2],
        /// Scale of the mins, f16.
        dmin: [u8; 2],
        /// Eight scales and eight mins of 6 bits, see [`scale_min`].
        scales: [u8; 12],
        /// Bit g of byte i is the fifth bit of element i of group g.
        qh: [u8; 32],
        /// Low four bits.
        qs: [u8; 128],
    }
}

impl Block<256> for Q5K {
    // Levels of a sub-block's grid times those of its scale, and half as many again.
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 10.0, levels: 48.0 * 64.0 });
    const SCALES: &[usize] = &[0, 2];

    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (from_half(self.d), from_half(self.dmin));
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = scale_min(&self.scales, g);
            let (dl, ml) = (d * f32::from(scale), dmin * f32::from(min));
            let (qs, shift) = (&self.qs[32 * (g / 2)..32 * (g / 2) + 32], 4 * (g % 2));
            for ((out, q), h) in out.iter_mut().zip(qs).zip(self.qh) {
                *out = dl * f32::from(((q >> shift) & 15) | (((h >> g) & 1) << 4)) - ml;
            }
        }
    }
}

impl Split<256> for Q5K {
    const LESS: u8 = 0;

    fn split(&self) -> (Self, Terms) {
        (
            Q5K { d: ONE, dmin: ZERO, scales: SCALES_ONE, ..*self },
            six_bit_terms(self.d, self.dmin, &self.scales),
        )
    }
}

impl Encode<256> for Q5K {
    #[inline(always)]
    fn encode(values: &[f32; 256]) -> Self {
        const GRID: Grid = Grid { most: 31, first: -0.5, step: 0.1, steps: 15, error: |x| x * x };
        let groups = Groups::of(values, &GRID);
        let mut qh = [0; 32];
        for (g, codes) in groups.codes.as_chunks::<32>().0.iter().enumerate() {
            qh.iter_mut().zip(codes).for_each(|(h, code)| *h |= (code >> 4) << g);
        }
        Q5K { d: groups.d, dmin: groups.dmin, scales: groups.scales, qh, qs: groups.nibbles() }
    }
}
