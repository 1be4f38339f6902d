//! For any processor, and for what is left over by the vector versions.

use super::{Line, Octaves, Sums};

pub(super) fn scan(
    block: &[f32],
    line: Option<Line>,
    octaves: Option<&mut Octaves>,
    near: &mut Vec<f32>,
) -> Sums {
    const LANES: usize = 8;
    let (mut sum, mut squares, mut abs) = ([0.0f64; LANES], [0.0f64; LANES], [0.0f64; LANES]);
    let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut zeros = 0;
    for chunk in block.chunks(LANES) {
        for (i, &x) in chunk.iter().enumerate() {
            let wide = f64::from(x);
            sum[i] += wide;
            squares[i] += wide * wide;
            abs[i] += wide.abs();
            min[i] = if x < min[i] { x } else { min[i] };
            max[i] = if x > max[i] { x } else { max[i] };
            zeros += u64::from(x == 0.0);
        }
    }
    let (mut above, mut below) = (0, 0);
    if let Some(line) = line {
        for &x in block {
            above += u64::from(line.is_beyond(x) && x.is_sign_positive());
            below += u64::from(line.is_beyond(x) && x.is_sign_negative());
        }
        near.extend(block.iter().filter(|x| line.is_near(**x)));
    }
    if let Some(octaves) = octaves {
        for x in block {
            octaves.bins[(x.to_bits() >> 23) as usize & 0xff] += 1;
        }
    }
    Sums {
        sum: sum.iter().sum(),
        squares: squares.iter().sum(),
        abs: abs.iter().sum(),
        min: min.into_iter().fold(f32::INFINITY, f32::min),
        max: max.into_iter().fold(f32::NEG_INFINITY, f32::max),
        zeros,
        above,
        below,
    }
}
