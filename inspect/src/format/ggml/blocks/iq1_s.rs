use super::codebook::IQ1;
use super::{Block, Loss, from_half};

block! {
    /// 256 elements in groups of 32: d * (2 * scale + 1) times four points of the codebook, which are all moved by an
    /// eighth up or down.
    Iq1S {
        /// Scale, f16.
        d: [u8; 2],
        /// Low eight bits of the points' indices.
        qs: [u8; 32],
        /// Per group a u16: high three bits of each index from the lowest bit up, three bits of scale, and whether the
        /// points move down.
        qh: [[u8; 2]; 8],
    }
}

impl Block<256> for Iq1S {
    const LOSS: Option<Loss> = Some(Loss { share: 1.4, levels: 17.0 });
    const SCALES: &[usize] = &[0];

    fn decode(&self, out: &mut [f32; 256]) {
        let d = from_half(self.d);
        let groups = self.qh.iter().zip(self.qs.as_chunks::<4>().0);
        for ((qh, qs), out) in groups.zip(out.as_chunks_mut::<32>().0) {
            let qh = u16::from_le_bytes(*qh);
            let scale = d * f32::from(2 * ((qh >> 12) & 7) + 1);
            for ((l, q), out) in qs.iter().enumerate().zip(out.as_chunks_mut::<8>().0) {
                let index = usize::from(*q) | usize::from((qh >> (3 * l)) & 7) << 8;
                moved(index, scale, qh >> 15 == 1, out);
            }
        }
    }
}

/// Point `index` of the codebook, moved up or down, times `scale`.
#[inline(always)]
pub(super) fn moved(index: usize, scale: f32, down: bool, out: &mut [f32; 8]) {
    let by = if down { -0.125 } else { 0.125 };
    let point = IQ1[index].to_le_bytes();
    out.iter_mut().zip(point).for_each(|(out, x)| *out = scale * (f32::from(x as i8) + by));
}
