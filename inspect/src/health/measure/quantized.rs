//! What is measured of a quantized weight besides its elements: whether its scales are numbers to multiply by, and
//! whether its codes say anything.

use crate::meaning::elements::coded::Coded;
use crate::meaning::elements::{BLOCK, Elements, in_chunks};
use crate::record::{CodeStats, ScaleStats};

/// Pieces of codes that are looked at, and codes of each.
const PIECES: usize = 256;
const PIECE: usize = 1024;

/// The scales of `elements`, and their codes; `None` where they have none.
pub(crate) fn measure(elements: &Elements<'_>) -> Option<(ScaleStats, CodeStats)> {
    let coded = elements.coded()?;
    let mut scales = ScaleStats::default();
    for numbers in coded.all_scales() {
        let parts = in_chunks(numbers.len(), BLOCK, |range| {
            let mut stats = ScaleStats::default();
            let mut buffer = [0.0; BLOCK];
            for start in range.clone().step_by(BLOCK) {
                let block = &mut buffer[..BLOCK.min(range.end - start)];
                numbers.read_f32(start, block);
                for &scale in &*block {
                    stats.nan += u64::from(scale.is_nan());
                    stats.inf += u64::from(scale.is_infinite());
                    stats.zero += u64::from(scale == 0.0);
                    stats.negative += u64::from(scale < 0.0);
                }
                stats.count += block.len() as u64;
            }
            stats
        });
        for part in parts {
            scales.count += part.count;
            scales.nan += part.nan;
            scales.inf += part.inf;
            scales.zero += part.zero;
            scales.negative += part.negative;
        }
    }
    if let Some((points, range)) = coded.zero_points() {
        let outside = in_chunks(points.len(), BLOCK, |chunk| {
            let mut buffer = [0.0; BLOCK];
            let mut outside = 0u64;
            for start in chunk.clone().step_by(BLOCK) {
                let block = &mut buffer[..BLOCK.min(chunk.end - start)];
                points.read_f32(start, block);
                outside += block.iter().filter(|point| !range.contains(*point)).count() as u64;
            }
            outside
        });
        scales.zero_points_outside = outside.into_iter().sum();
    }
    if scales.zero > 0 {
        scales.silenced = silenced(elements) + coded.silenced_scales();
    }
    if let Some(opposed) = coded.opposed_offsets() {
        scales.zero_points_outside += opposed;
    }
    Some((scales, codes(coded, elements.len())))
}

/// Elements that are zero although their codes are not.
fn silenced(elements: &Elements<'_>) -> u64 {
    let bare = elements.unscaled();
    let parts = in_chunks(elements.len(), BLOCK, |range| {
        let (mut values, mut codes, mut count) = ([0.0; BLOCK], [0.0; BLOCK], 0);
        for start in range.clone().step_by(BLOCK) {
            let n = BLOCK.min(range.end - start);
            elements.read_f32(start, &mut values[..n]);
            bare.read_f32(start, &mut codes[..n]);
            let pairs = values[..n].iter().zip(&codes[..n]);
            count += pairs.filter(|(value, code)| **value == 0.0 && **code != 0.0).count() as u64;
        }
        count
    });
    parts.into_iter().sum()
}

fn codes(coded: &Coded<'_>, len: usize) -> CodeStats {
    let pieces = len.div_ceil(PIECE).min(PIECES);
    let mut seen = [0u64; 256];
    let mut buffer = [0u8; PIECE];
    for nth in 0..pieces {
        let start = (len.saturating_sub(PIECE) as u128 * nth as u128 / pieces.max(1) as u128) as usize;
        let piece = &mut buffer[..PIECE.min(len - start)];
        coded.read_codes(start, piece);
        piece.iter().for_each(|&code| seen[usize::from(code)] += 1);
    }
    let total: u64 = seen.iter().sum();
    let first = seen.iter().position(|&n| n > 0).unwrap_or(0) as u8;
    let alike = total > 1 && seen[usize::from(first)] == total;
    let equal = alike && {
        let parts = in_chunks(len, PIECE, |range| {
            let mut buffer = [0u8; PIECE];
            range.clone().step_by(PIECE).all(|start| {
                let piece = &mut buffer[..PIECE.min(range.end - start)];
                coded.read_codes(start, piece);
                piece.iter().all(|&code| code == first)
            })
        });
        parts.into_iter().all(|alike| alike)
    };
    let at_limit: u64 = coded.extremes().iter().map(|&code| seen[usize::from(code)]).sum();
    CodeStats {
        bits: coded.bits(),
        equal: equal.then_some(first),
        at_limit: if total == 0 { 0.0 } else { at_limit as f64 / total as f64 },
    }
}
