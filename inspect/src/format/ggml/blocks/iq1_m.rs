use super::iq1_s::moved;
use super::{Block, Loss, from_half};

block! {
    /// 256 elements in groups of 16: d * (2 * scale + 1) times two points of the codebook of [`super::Iq1S`], each
    /// moved by an eighth up or down.
    Iq1M {
        /// Low eight bits of the points' indices.
        qs: [u8; 32],
        /// Per point four bits, the first in the low half of a byte: the high three of its index, and whether it moves
        /// down.
        qh: [u8; 16],
        /// Four u16: four scales of three bits each from the lowest bit up, and in the highest four bits a part of the
        /// scale of all, f16, the lowest first.
        scales: [[u8; 2]; 4],
    }
}

impl Block<256> for Iq1M {
    const LOSS: Option<Loss> = Some(Loss { share: 1.4, levels: 17.0 });

    fn decode(&self, out: &mut [f32; 256]) {
        let scales = self.scales.map(u16::from_le_bytes);
        let d = scales.iter().rev().fold(0u16, |d, scale| d << 4 | scale >> 12);
        let d = from_half(d.to_le_bytes());
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let g = i / 2;
            let scale = d * f32::from(2 * ((scales[g / 4] >> (3 * (g % 4))) & 7) + 1);
            let high = self.qh[i / 2] >> (4 * (i % 2));
            let index = usize::from(self.qs[i]) | usize::from(high & 7) << 8;
            moved(index, scale, high & 8 != 0, out);
        }
    }
}
