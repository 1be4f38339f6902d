//! The blocks of GGML's quantized types, as `ggml-common.h` lays them out, each beside its decoder. Every block is made
//! of bytes alone, so a slice of them is a view of any byte slice; words are little-endian.
//!
//! Decoders follow `ggml-quants.c` operation by operation in f32, so results are the same bits.

use bytemuck::{Pod, Zeroable};
use half::f16;

/// Elements of the largest block.
pub const LARGEST: usize = 256;

/// A block of `N` elements.
pub trait Block<const N: usize>: Pod {
    /// The elements it stands for.
    fn decode(&self, out: &mut [f32; N]);
}

/// A block whose elements are -1, 0 or +1 times its scale.
pub trait TernaryBlock: Block<256> {
    /// The codes of its elements; bits that are no code give 2.
    fn codes(&self, out: &mut [i8; 256]);
}

fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

macro_rules! block {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Pod, Zeroable)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

block! {
    /// 32 elements d * (q - 8), 4 bits each: element i in the low half of byte i, i + 16 in the high half.
    Q4_0 {
        /// Scale, f16.
        d: [u8; 2],
        /// Quants.
        qs: [u8; 16],
    }
}

impl Block<32> for Q4_0 {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = half(self.d);
        for i in 0..16 {
            out[i] = d * (i32::from(self.qs[i] & 15) - 8) as f32;
            out[i + 16] = d * (i32::from(self.qs[i] >> 4) - 8) as f32;
        }
    }
}

block! {
    /// 32 elements d * q + m, 4 bits each, in the order of [`Q4_0`].
    Q4_1 {
        /// Scale, f16.
        d: [u8; 2],
        /// Smallest element, f16.
        m: [u8; 2],
        /// Quants.
        qs: [u8; 16],
    }
}

impl Block<32> for Q4_1 {
    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (half(self.d), half(self.m));
        for i in 0..16 {
            out[i] = d * f32::from(self.qs[i] & 15) + m;
            out[i + 16] = d * f32::from(self.qs[i] >> 4) + m;
        }
    }
}

block! {
    /// 32 elements d * (q - 16), 5 bits each: the low four in the order of [`Q4_0`].
    Q5_0 {
        /// Scale, f16.
        d: [u8; 2],
        /// Bit i is the fifth bit of element i, u32.
        qh: [u8; 4],
        /// Low four bits.
        qs: [u8; 16],
    }
}

impl Block<32> for Q5_0 {
    fn decode(&self, out: &mut [f32; 32]) {
        let (d, q) = (half(self.d), five_bits(self.qh, &self.qs));
        out.iter_mut().zip(q).for_each(|(out, q)| *out = d * (i32::from(q) - 16) as f32);
    }
}

block! {
    /// 32 elements d * q + m, 5 bits each, in the order of [`Q5_0`].
    Q5_1 {
        /// Scale, f16.
        d: [u8; 2],
        /// Smallest element, f16.
        m: [u8; 2],
        /// Bit i is the fifth bit of element i, u32.
        qh: [u8; 4],
        /// Low four bits.
        qs: [u8; 16],
    }
}

impl Block<32> for Q5_1 {
    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m, q) = (half(self.d), half(self.m), five_bits(self.qh, &self.qs));
        out.iter_mut().zip(q).for_each(|(out, q)| *out = d * f32::from(q) + m);
    }
}

fn five_bits(qh: [u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let qh = u32::from_le_bytes(qh);
    let mut q = [0; 32];
    for i in 0..16 {
        q[i] = (qs[i] & 15) | (((qh >> i) & 1) << 4) as u8;
        q[i + 16] = (qs[i] >> 4) | (((qh >> (i + 16)) & 1) << 4) as u8;
    }
    q
}

block! {
    /// 32 elements q * d, 8 bits each.
    Q8_0 {
        /// Scale, f16.
        d: [u8; 2],
        /// Quants.
        qs: [i8; 32],
    }
}

impl Block<32> for Q8_0 {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = half(self.d);
        out.iter_mut().zip(self.qs).for_each(|(out, q)| *out = f32::from(q) * d);
    }
}

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
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (half(self.d), half(self.dmin));
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (dl, ml) = (d * f32::from(self.scales[g] & 15), dmin * f32::from(self.scales[g] >> 4));
            let (qs, shift) = two_bits(&self.qs, g);
            out.iter_mut().zip(qs).for_each(|(out, q)| *out = dl * f32::from((q >> shift) & 3) - ml);
        }
    }
}

/// The 16 bytes that hold group `g` of 2-bit quants, and its bits' place in them.
fn two_bits(qs: &[u8; 64], g: usize) -> (&[u8], usize) {
    let start = 32 * (g / 8) + 16 * (g % 2);
    (&qs[start..start + 16], 2 * (g % 8 / 2))
}

block! {
    /// 256 elements d * (scale - 32) * q in 16 groups of 16, 3 bits each: the low two in the order of [`Q2K`].
    Q3K {
        /// Bit s of byte i: element 32 * s + i is not lowered by 4.
        hmask: [u8; 32],
        /// Low two bits.
        qs: [u8; 64],
        /// 16 scales of 6 bits: low four as nibbles of the first eight bytes, high two in the last four.
        scales: [u8; 12],
        /// Scale of the scales, f16.
        d: [u8; 2],
    }
}

impl Block<256> for Q3K {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = half(self.d);
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let low = (self.scales[g % 8] >> (4 * (g / 8))) & 15;
            let high = (self.scales[8 + g % 4] >> (2 * (g / 4))) & 3;
            let dl = d * (i32::from(low | high << 4) - 32) as f32;
            let (qs, shift) = two_bits(&self.qs, g);
            let hmask = &self.hmask[16 * (g % 2)..16 * (g % 2) + 16];
            for ((out, q), h) in out.iter_mut().zip(qs).zip(hmask) {
                let lowered = (!h >> (g / 2)) & 1;
                *out = dl * (i32::from((q >> shift) & 3) - i32::from(lowered << 2)) as f32;
            }
        }
    }
}

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
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (half(self.d), half(self.dmin));
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = scale_min(&self.scales, g);
            let (dl, ml) = (d * f32::from(scale), dmin * f32::from(min));
            let (qs, shift) = (&self.qs[32 * (g / 2)..32 * (g / 2) + 32], 4 * (g % 2));
            out.iter_mut().zip(qs).for_each(|(out, q)| *out = dl * f32::from((q >> shift) & 15) - ml);
        }
    }
}

block! {
    /// 256 elements d * scale * q - dmin * min in 8 groups of 32, 5 bits each: the low four in the order of [`Q4K`].
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
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (half(self.d), half(self.dmin));
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

block! {
    /// 256 elements d * scale * (q - 32) in 16 groups of 16, 6 bits each. In each half of the block, run r of 32
    /// elements has its low four bits in bytes 32 * (r % 2).. (the low halves for r < 2) and its high two in bits 2r.
    Q6K {
        /// Low four bits.
        ql: [u8; 128],
        /// High two bits.
        qh: [u8; 64],
        /// Scales of the groups.
        scales: [i8; 16],
        /// Scale of the scales, f16.
        d: [u8; 2],
    }
}

impl Block<256> for Q6K {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = half(self.d);
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (part, run, odd) = (g / 8, g % 8 / 2, g % 2);
            let dl = d * f32::from(self.scales[g]);
            let low = 64 * part + 32 * (run % 2) + 16 * odd;
            let high = 32 * part + 16 * odd;
            let (low_shift, high_shift) = (4 * (run / 2), 2 * run);
            for ((out, l), h) in out.iter_mut().zip(&self.ql[low..low + 16]).zip(&self.qh[high..high + 16]) {
                let q = ((l >> low_shift) & 15) | (((h >> high_shift) & 3) << 4);
                *out = dl * (i32::from(q) - 32) as f32;
            }
        }
    }
}

block! {
    /// 256 elements d * q, 8 bits each. Made while multiplying and rarely stored.
    Q8K {
        /// Scale, f32.
        d: [u8; 4],
        /// Quants.
        qs: [i8; 256],
        /// Sums of 16 quants, i16.
        bsums: [[u8; 2]; 16],
    }
}

impl Block<256> for Q8K {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f32::from_le_bytes(self.d);
        out.iter_mut().zip(self.qs).for_each(|(out, q)| *out = d * f32::from(q));
    }
}

block! {
    /// 256 ternary elements, five to a byte in base 3. A byte is ceil(v * 256 / 243) with v of five base-3 digits, the
    /// first the highest; multiplied by 3^n (modulo 256), its product with 3 has digit n in the high byte.
    Tq1_0 {
        /// Digit n of byte i: element 32 * n + i for the first 32 bytes, 160 + 16 * n + (i - 32) for the other 16.
        qs: [u8; 48],
        /// Digit n (of four) of byte i: element 240 + 4 * n + i.
        qh: [u8; 4],
        /// Scale, f16.
        d: [u8; 2],
    }
}

impl Block<256> for Tq1_0 {
    fn decode(&self, out: &mut [f32; 256]) {
        scaled(self, half(self.d), out);
    }
}

impl TernaryBlock for Tq1_0 {
    fn codes(&self, out: &mut [i8; 256]) {
        const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
        let digit = |q: u8, n: usize| ((u16::from(q.wrapping_mul(POWERS[n])) * 3) >> 8) as i8 - 1;
        let (first, second) = self.qs.split_at(32);
        for n in 0..5 {
            out[32 * n..].iter_mut().zip(first).for_each(|(out, &q)| *out = digit(q, n));
            out[160 + 16 * n..].iter_mut().zip(second).for_each(|(out, &q)| *out = digit(q, n));
        }
        for n in 0..4 {
            out[240 + 4 * n..].iter_mut().zip(self.qh).for_each(|(out, q)| *out = digit(q, n));
        }
    }
}

block! {
    /// 256 ternary elements of 2 bits, code = value + 1: byte 32 * h + i holds elements 128 * h + 32 * s + i at bits
    /// 2s.
    Tq2_0 {
        /// Codes.
        qs: [u8; 64],
        /// Scale, f16.
        d: [u8; 2],
    }
}

impl Block<256> for Tq2_0 {
    fn decode(&self, out: &mut [f32; 256]) {
        scaled(self, half(self.d), out);
    }
}

impl TernaryBlock for Tq2_0 {
    fn codes(&self, out: &mut [i8; 256]) {
        for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (start, shift) = (32 * (run / 4), 2 * (run % 4));
            let qs = &self.qs[start..start + 32];
            out.iter_mut().zip(qs).for_each(|(out, q)| *out = ((q >> shift) & 3) as i8 - 1);
        }
    }
}

fn scaled(block: &impl TernaryBlock, d: f32, out: &mut [f32; 256]) {
    let mut codes = [0; 256];
    block.codes(&mut codes);
    out.iter_mut().zip(codes).for_each(|(out, code)| *out = d * f32::from(code));
}
