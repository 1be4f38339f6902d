use super::iq4_nl::{LEVELS, levels};
use super::{Block, Loss, from_half};

block! {
    /// 256 elements d * (scale - 32) * level in groups of 32, each laid out as [`super::Iq4Nl`].
    Iq4Xs {
        /// Scale of the scales, f16.
        d: [u8; 2],
        /// High two bits of the groups' scales, the first in the lowest bits, u16.
        scales_h: [u8; 2],
        /// Low four bits, the first of two groups in the low half of a byte.
        scales_l: [u8; 4],
        /// Numbers of the levels.
        qs: [u8; 128],
    }
}

impl Block<256> for Iq4Xs {
    const LOSS: Option<Loss> = Some(Loss { share: 0.19, levels: 32.0 * 127.0 });

    fn decode(&self, out: &mut [f32; 256]) {
        let (d, high) = (from_half(self.d), u16::from_le_bytes(self.scales_h));
        let groups = self.qs.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0);
        for (g, (qs, out)) in groups.enumerate() {
            let low = (self.scales_l[g / 2] >> (4 * (g % 2))) & 15;
            let scale = i16::from(low) | (((high >> (2 * g)) & 3) << 4) as i16;
            levels(&LEVELS, d * f32::from(scale - 32), qs, out);
        }
    }
}
