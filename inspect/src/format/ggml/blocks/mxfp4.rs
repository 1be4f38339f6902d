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
