use super::iq4_nl::levels;
use super::mxfp4::{DOUBLE_LEVELS, pack};
use super::{Block, Loss};

block! {
    /// 64 elements scale * level in groups of 16, each laid out as [`super::Mxfp4`] is. A tensor beside a matrix has one
    /// more factor for all of it.
    Nvfp4 {
        /// Scales of the groups, E4M3 without a sign.
        d: [u8; 4],
        /// Numbers of the levels, E2M1.
        qs: [u8; 32],
    }
}

impl Nvfp4 {
    /// The block of 64 codes, of which each 16 have a scale of `d`, E4M3 without a sign.
    pub fn of(codes: &[u8; 64], d: [u8; 4]) -> Self {
        let mut qs = [0; 32];
        let groups = codes.as_chunks::<16>().0.iter().zip(qs.as_chunks_mut::<8>().0);
        groups.for_each(|(codes, qs)| pack(codes, qs));
        Nvfp4 { d, qs }
    }
}

/// The magnitude that is NaN in E4M3.
const NAN: u8 = 0x7f;

/// Half of each scale. The sign is not looked at, and NaN is zero.
static HALF_SCALES: [f32; 256] = {
    let mut scales = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        let (exponent, mantissa) = ((i >> 3) & 15, (i & 7) as f32);
        if i != NAN as usize {
            scales[i] = match exponent {
                0 => mantissa / 1024.0,
                _ => (1.0 + mantissa / 8.0) * f32::from_bits((exponent as u32 + 127 - 8) << 23),
            };
        }
        i += 1;
    }
    scales
};

impl Block<64> for Nvfp4 {
    // A scale is a sixth of the largest magnitude, rounded by a sixteenth at most, or, where E4M3 is subnormal, by half
    // its step of 2^-9; the step below the largest level, 6, is 2.
    const LOSS: Option<Loss> = Some(Loss { share: 17.0 / 96.0, levels: 6.0 * 32768.0 });

    fn decode(&self, out: &mut [f32; 64]) {
        let groups = self.qs.as_chunks::<8>().0.iter().zip(self.d);
        for ((qs, d), out) in groups.zip(out.as_chunks_mut::<16>().0) {
            levels(&DOUBLE_LEVELS, HALF_SCALES[usize::from(d)], qs, out);
        }
    }

    fn has_nan_scale(&self) -> bool {
        self.d.iter().any(|d| d & NAN == NAN)
    }
}
