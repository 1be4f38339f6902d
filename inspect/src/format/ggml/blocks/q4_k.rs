use super::search::{Grid, affine, nearest, round_again};
use super::split::{ONE, Terms, ZERO};
use super::{Block, Encode, Loss, Split, from_half, to_half};

block! {
    /// 256 elements d * scale * q - dmin * min in 8 groups of 32, 4 bits each: groups 2k and 2k + 1 in the low and
    /// high halves of bytes 32k to 32k + 31.
    Q4K {
        /// Scale of the scales, f16.
        d: [u8; 2],
        /// Scale of the mins, f16.
        dmin: [u8; 2],
        /// Eight scales and eight mins of 6 bits, see [`scale_min`].
        scales: [u8; 12],
        /// Quants.
        qs: [u8; 128],
    }
}

/// The 6-bit scale and min of group `g`: groups 0 to 3 in the low bits of bytes g and g + 4; of groups 4 to 7 the low
/// four bits share byte g + 4 and the high two are the high bits of bytes g - 4 and g.
pub fn scale_min(scales: &[u8; 12], g: usize) -> (u8, u8) {
    if g < 4 {
        (scales[g] & 63, scales[g + 4] & 63)
    } else {
        let low = scales[g + 4];
        ((low & 15) | ((scales[g - 4] >> 2) & 48), (low >> 4) | ((scales[g] >> 2) & 48))
    }
}

impl Block<256> for Q4K {
    // Levels of a sub-block's grid times those of its scale, and half as many again.
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 6.0, levels: 24.0 * 64.0 });
    const SCALES: &[usize] = &[0, 2];

    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (from_half(self.d), from_half(self.dmin));
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = scale_min(&self.scales, g);
            let (dl, ml) = (d * f32::from(scale), dmin * f32::from(min));
            let (qs, shift) = (&self.qs[32 * (g / 2)..32 * (g / 2) + 32], 4 * (g % 2));
            out.iter_mut().zip(qs).for_each(|(out, q)| *out = dl * f32::from((q >> shift) & 15) - ml);
        }
    }
}

impl Split<256> for Q4K {
    const LESS: u8 = 0;

    fn split(&self) -> (Self, Terms) {
        (
            Q4K { d: ONE, dmin: ZERO, scales: SCALES_ONE, ..*self },
            six_bit_terms(self.d, self.dmin, &self.scales),
        )
    }
}

/// Scales of 1 and mins of 0.
pub(super) const SCALES_ONE: [u8; 12] = [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1];

/// The terms of blocks of 8 groups with scales and mins of 6 bits.
pub(super) fn six_bit_terms(d: [u8; 2], dmin: [u8; 2], scales: &[u8; 12]) -> Terms {
    let mut terms = Terms { dmin, ..Terms::scale(d) };
    for g in 0..8 {
        let (scale, min) = scale_min(scales, g);
        (terms.scales[g], terms.mins[g]) = (scale as i8, min as i8);
    }
    terms
}

/// The parts of blocks of 8 groups with scales and mins of 6 bits.
pub(super) struct Groups {
    pub d: [u8; 2],
    pub dmin: [u8; 2],
    pub scales: [u8; 12],
    pub codes: [u8; 256],
}

impl Groups {
    /// The parts for `values`.
    #[inline(always)]
    pub fn of(values: &[f32; 256], grid: &Grid) -> Groups {
        let groups = values.as_chunks::<32>().0;
        let mut codes = [0; 256];
        let (mut steps, mut mins) = ([0.0f32; 8], [0.0f32; 8]);
        let (mut largest, mut largest_min) = (0.0f32, 0.0f32);
        for (g, (group, codes)) in groups.iter().zip(codes.as_chunks_mut::<32>().0).enumerate() {
            let mean_square = group.iter().fold(0.0f32, |sum, x| sum + x * x) / 32.0;
            let rms = mean_square.sqrt();
            let fit = affine(group, &group.map(|x| rms + x.abs()), grid);
            (*codes, steps[g], mins[g]) = (fit.codes, fit.scale, fit.min);
            largest = if fit.scale > largest { fit.scale } else { largest };
            largest_min = if fit.min > largest_min { fit.min } else { largest_min };
        }
        let inverse = |most: f32| if most > 0.0 { 63.0 / most } else { 0.0 };
        let (inverse_scale, inverse_min) = (inverse(largest), inverse(largest_min));
        let mut scales = [0u8; 12];
        for g in 0..8 {
            let scale = (nearest(inverse_scale * steps[g]) as u8).min(63);
            let min = (nearest(inverse_min * mins[g]) as u8).min(63);
            if g < 4 {
                (scales[g], scales[g + 4]) = (scale, min);
            } else {
                scales[g + 4] = (scale & 15) | ((min & 15) << 4);
                scales[g - 4] |= (scale >> 4) << 6;
                scales[g] |= (min >> 4) << 6;
            }
        }
        let (d, dmin) = (to_half(largest / 63.0), to_half(largest_min / 63.0));
        for (g, (group, codes)) in groups.iter().zip(codes.as_chunks_mut::<32>().0).enumerate() {
            let (scale, min) = scale_min(&scales, g);
            let (step, min) = (from_half(d) * f32::from(scale), from_half(dmin) * f32::from(min));
            round_again(group, step, min, codes, 0, i32::from(grid.most));
        }
        Groups { d, dmin, scales, codes }
    }

    /// The low four bits of the codes.
    #[inline(always)]
    pub fn nibbles(&self) -> [u8; 128] {
        let mut qs = [0; 128];
        let pairs = self.codes.as_chunks::<64>().0;
        for (qs, pair) in qs.as_chunks_mut::<32>().0.iter_mut().zip(pairs) {
            for (i, byte) in qs.iter_mut().enumerate() {
                *byte = (pair[i] & 15) | (pair[i + 32] << 4);
            }
        }
        qs
    }
}

impl Encode<256> for Q4K {
    #[inline(always)]
    fn encode(values: &[f32; 256]) -> Self {
        const GRID: Grid = Grid { most: 15, first: -1.0, step: 0.1, steps: 20, error: |x| x * x };
        let groups = Groups::of(values, &GRID);
        Q4K { d: groups.d, dmin: groups.dmin, scales: groups.scales, qs: groups.nibbles() }
    }
}
