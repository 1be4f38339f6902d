use super::iq4_nl::levels;
use super::{Block, Loss};

block! {
    /// 32 elements scale * level, the level by its number of 4 bits: element i in the low half of byte i, i + 16 in the
    /// high half.
    Mxfp4 {
        /// Scale, E8M0: 2^(e - 127).
        e: u8,
        /// Numbers of the levels, E2M1.
        qs: [u8; 16],
    }
}

/// Twice the levels: `kvalues_fp4` of `ggml-common.h`, the E2M1 of the OCP's microscaling formats.
pub(super) const DOUBLE_LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl Mxfp4 {
    /// The block of 32 codes with the scale 2^(`e` - 127), which is no number where `e` is 255.
    pub fn of(codes: &[u8; 32], e: u8) -> Self {
        let mut qs = [0; 16];
        pack(codes, &mut qs);
        Mxfp4 { e, qs }
    }
}

/// Puts the first half of `codes` into the low halves of the bytes, and the second into the high ones.
pub(super) fn pack(codes: &[u8], qs: &mut [u8]) {
    let (low, high) = codes.split_at(codes.len() / 2);
    qs.iter_mut().zip(low.iter().zip(high)).for_each(|(q, (low, high))| *q = low & 15 | high << 4);
}

impl Block<32> for Mxfp4 {
    // The largest magnitude is 4 to 8 times the scale, the largest level 6, and the step below it 2.
    const LOSS: Option<Loss> = Some(Loss { share: 1.0 / 4.0, levels: 0.0 });

    fn decode(&self, out: &mut [f32; 32]) {
        // Half the scale.
        let half = match self.e {
            e @ ..2 => f32::from_bits(0x0020_0000 << e),
            e => f32::from_bits(u32::from(e - 1) << 23),
        };
        levels(&DOUBLE_LEVELS, half, &self.qs, out);
    }

    fn has_nan_scale(&self) -> bool {
        self.e == u8::MAX
    }
}
