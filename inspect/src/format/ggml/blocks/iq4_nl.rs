use super::{Block, Loss, from_half};

block! {
    /// 32 elements d * level, the level by its number of 4 bits: element i in the low half of byte i, i + 16 in the high
    /// half.
    Iq4Nl {
        /// Scale, f16.
        d: [u8; 2],
        /// Numbers of the levels.
        qs: [u8; 16],
    }
}

impl Block<32> for Iq4Nl {
    const LOSS: Option<Loss> = Some(Loss { share: 0.17, levels: 127.0 });

    fn decode(&self, out: &mut [f32; 32]) {
        levels(&LEVELS, from_half(self.d), &self.qs, out);
    }
}

/// The levels of the IQ4 types: `kvalues_iq4nl` of `ggml-common.h`.
pub(super) const LEVELS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Levels times `scale`: those of the low halves of the bytes, then those of the high ones.
#[inline(always)]
pub(super) fn levels<const N: usize>(of: &[i8; 16], scale: f32, qs: &[u8; N], out: &mut [f32]) {
    let scaled = of.map(|level| scale * f32::from(level));
    let (low, high) = out.split_at_mut(N);
    for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
        (*low, *high) = (scaled[usize::from(q & 15)], scaled[usize::from(q >> 4)]);
    }
}
