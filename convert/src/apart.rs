//! How far a quantized weight is from another tensor.

use ckpt_inspect::DType;
use ckpt_inspect::quantized::{Blocking, QuantType};
use rayon::prelude::*;
use serde::Serialize;

use crate::Result;
use crate::agreement::{PIECE, Side};

/// How far a quantized weight is from what it was made of, as shares of the root mean square of the other's values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct QuantizationError {
    /// The root mean square of the differences.
    pub relative_rms: f64,
    /// The same of the block where it is largest, as a share of that block's own.
    pub worst_block: f64,
    /// Row-major index of the block's first element.
    pub worst_at: u64,
    /// Elements of a block.
    pub block: u64,
}

/// Elements of a block whose error is told, where the scheme names none.
const ERROR_BLOCK: usize = 128;

/// How far `coded` is from `other`; `None` where nothing of them is finite and not zero.
pub(crate) fn quantization_error(coded: &Side<'_>, other: &Side<'_>) -> Result<Option<QuantizationError>> {
    let block = match coded.dtype() {
        DType::Quantized(QuantType { blocking: Blocking::Group(n), .. }) if n > 0 => n as usize,
        _ => ERROR_BLOCK,
    };
    let (ours, theirs) = (coded.decoded()?, other.decoded()?);
    let len = ours.len();
    let piece = (PIECE / block).max(1).saturating_mul(block);
    /// Sums of squares, and the worst block.
    #[derive(Clone, Copy, Default)]
    struct Sums {
        error: f64,
        size: f64,
        worst: f64,
        at: u64,
    }
    let sums = (0..len.div_ceil(piece)).into_par_iter().map(|nth| {
        let (start, n) = (nth * piece, piece.min(len - nth * piece));
        let (mut x, mut y) = (Vec::new(), Vec::new());
        let (x, y) = (ours.get(start, n, &mut x), theirs.get(start, n, &mut y));
        let mut all = Sums::default();
        for (i, (x, y)) in x.chunks(block).zip(y.chunks(block)).enumerate() {
            let (mut error, mut size) = (0.0, 0.0);
            for (x, y) in x.iter().zip(y).filter(|(x, y)| x.is_finite() && y.is_finite()) {
                let (x, y) = (f64::from(*x), f64::from(*y));
                error += (x - y) * (x - y);
                size += y * y;
            }
            (all.error, all.size) = (all.error + error, all.size + size);
            if size > 0.0 && (error / size).sqrt() > all.worst {
                (all.worst, all.at) = ((error / size).sqrt(), (start + i * block) as u64);
            }
        }
        all
    });
    let all = sums.collect::<Vec<_>>().into_iter().fold(Sums::default(), |a, b| Sums {
        error: a.error + b.error,
        size: a.size + b.size,
        worst: a.worst.max(b.worst),
        at: if b.worst > a.worst { b.at } else { a.at },
    });
    Ok((all.size > 0.0).then(|| QuantizationError {
        relative_rms: (all.error / all.size).sqrt(),
        worst_block: all.worst,
        worst_at: all.at,
        block: block as u64,
    }))
}
