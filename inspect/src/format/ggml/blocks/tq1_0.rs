use super::{Block, Loss, Pack, TernaryBlock, from_half, scaled, to_half};

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
    const LOSS: Option<Loss> = None;

    fn decode(&self, out: &mut [f32; 256]) {
        scaled(self, from_half(self.d), out);
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

impl Pack<256> for Tq1_0 {
    #[inline(always)]
    fn pack(codes: &[u8; 256], scale: f32) -> Self {
        let mut qs = [0; 48];
        let (first, second) = qs.split_at_mut(32);
        for (i, q) in first.iter_mut().enumerate() {
            *q = five_digits(std::array::from_fn(|n| codes[32 * n + i]));
        }
        for (i, q) in second.iter_mut().enumerate() {
            *q = five_digits(std::array::from_fn(|n| codes[160 + 16 * n + i]));
        }
        let qh = std::array::from_fn(|i| {
            five_digits([codes[240 + i], codes[244 + i], codes[248 + i], codes[252 + i], 0])
        });
        Tq1_0 { qs, qh, d: to_half(scale) }
    }
}

/// Five base-3 digits, the first the highest, as a byte that multiplication decodes.
#[inline(always)]
fn five_digits(digits: [u8; 5]) -> u8 {
    let number = digits.into_iter().fold(0, |number, digit| 3 * number + digit);
    (u16::from(number) * 256).div_ceil(243) as u8
}
