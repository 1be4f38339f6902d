use super::search::{Grid, affine, nearest, round_again};
use super::split::{ONE, Terms, ZERO};
use super::{Block, Encode, Loss, Split, from_half, to_half};

block! {
    /// 256 elements d * scale * q - dmin * min in 16 groups of 16, 2 bits each: in each half of the block, element
    /// 32 * s + i has bits 2s of byte i.
    Q2K {
        /// Per group, scale in the low and min in the high four bits.
        scales: [u8; 16],
        /// Quants.
        qs: [u8; 64],
        /// Scale of the scales, f16.
        d: [u8; 2],
        /// Scale of the mins, f16.
        dmin: [u8; 2],
    }
}

impl Block<256> for Q2K {
    // Levels of a sub-block's grid times those of its scale, and half as many again.
    const LOSS: Option<Loss> = Some(Loss { share: 0.7, levels: 6.0 * 16.0 });
    const SCALES: &[usize] = &[80, 82];

    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (from_half(self.d), from_half(self.dmin));
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (dl, ml) = (d * f32::from(self.scales[g] & 15), dmin * f32::from(self.scales[g] >> 4));
            let (qs, shift) = two_bits(&self.qs, g);
            out.iter_mut().zip(qs).for_each(|(out, q)| *out = dl * f32::from((q >> shift) & 3) - ml);
        }
    }
}

impl Split<256> for Q2K {
    const LESS: u8 = 0;

    fn split(&self) -> (Self, Terms) {
        let scales = self.scales.map(|s| (s & 15) as i8);
        let mins = self.scales.map(|s| (s >> 4) as i8);
        (
            Q2K { d: ONE, dmin: ZERO, scales: [1; 16], ..*self },
            Terms { d: self.d, dmin: self.dmin, scales, mins },
        )
    }
}

/// The 16 bytes that hold group `g` of 2-bit quants, and its bits' place in them.
pub(super) fn two_bits(qs: &[u8; 64], g: usize) -> (&[u8], usize) {
    let start = 32 * (g / 8) + 16 * (g % 2);
    (&qs[start..start + 16], 2 * (g % 8 / 2))
}

/// The bytes of 2-bit quants.
#[inline(always)]
pub(super) fn pack_two_bits(codes: &[u8; 256]) -> [u8; 64] {
    let mut qs = [0; 64];
    for (half, qs) in qs.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (i, byte) in qs.iter_mut().enumerate() {
            let code = |s: usize| codes[128 * half + 32 * s + i] << (2 * s);
            *byte = code(0) | code(1) | code(2) | code(3);
        }
    }
    qs
}

impl Encode<256> for Q2K {
    #[inline(always)]
    fn encode(values: &[f32; 256]) -> Self {
        const GRID: Grid = Grid { most: 3, first: -0.5, step: 0.1, steps: 15, error: f32::abs };
        let groups = values.as_chunks::<16>().0;
        let mut codes = [0; 256];
        let (mut steps, mut mins) = ([0.0f32; 16], [0.0f32; 16]);
        let (mut largest, mut largest_min) = (0.0f32, 0.0f32);
        for (g, (group, codes)) in groups.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
            let fit = affine(group, &group.map(f32::abs), &GRID);
            (*codes, steps[g], mins[g]) = (fit.codes, fit.scale, fit.min);
            largest = if fit.scale > largest { fit.scale } else { largest };
            largest_min = if fit.min > largest_min { fit.min } else { largest_min };
        }
        let mut block = Q2K { scales: [0; 16], qs: [0; 64], d: [0; 2], dmin: [0; 2] };
        if largest > 0.0 {
            let inverse = 15.0 / largest;
            block.scales = steps.map(|step| nearest(inverse * step) as u8);
            block.d = to_half(largest / 15.0);
        }
        if largest_min > 0.0 {
            let inverse = 15.0 / largest_min;
            block.scales.iter_mut().zip(mins).for_each(|(s, min)| *s |= (nearest(inverse * min) << 4) as u8);
            block.dmin = to_half(largest_min / 15.0);
        }
        let (d, dmin) = (from_half(block.d), from_half(block.dmin));
        for ((group, codes), s) in groups.iter().zip(codes.as_chunks_mut::<16>().0).zip(block.scales) {
            round_again(group, d * f32::from(s & 15), dmin * f32::from(s >> 4), codes, 0, 3);
        }
        block.qs = pack_two_bits(&codes);
        block
    }
}
