//! Whether blocks of GGUF hold the codes and scales of a quantized weight: without the factors of whole matrices, elements
//! are a code times a scale, which f32 holds exactly, so both sides must be equal; and so must the factors be.

use ckpt_inspect::ggml::GgmlType;
use ckpt_inspect::quantized::{Code, QuantType};
use ckpt_inspect::{DType, Factors};

use crate::Result;
use crate::agreement::{Agreement, Found, Side, in_pieces};

/// Whether one of these types may be the other's codes and scales in another order.
pub(crate) fn are_alike(a: DType, b: DType) -> bool {
    let alike = |coded: DType, blocks: DType| match (coded, blocks) {
        (DType::Quantized(QuantType { code: Code::Mxfp4, .. }), DType::Ggml(ggml)) => ggml == GgmlType::MXFP4,
        (DType::Quantized(QuantType { code: Code::Nvfp4, .. }), DType::Ggml(ggml)) => ggml == GgmlType::NVFP4,
        _ => false,
    };
    alike(a, b) || alike(b, a)
}

/// Compares both sides, which are of types that are alike.
pub(crate) fn compare(a: &Side<'_>, b: &Side<'_>, agreement: &mut Agreement) -> Result<()> {
    let (ours, theirs) = (a.decoded()?, b.decoded()?);
    let ((ours, our_factors), (theirs, their_factors)) = (ours.unfactored(), theirs.unfactored());
    in_pieces(ours.len(), agreement, |start, n| {
        let (mut x, mut y) = (vec![0.0; n], vec![0.0; n]);
        ours.read_f32(start, &mut x);
        theirs.read_f32(start, &mut y);
        let mut found = Found::default();
        for (i, (x, y)) in x.iter().zip(&y).enumerate() {
            // GGML reads the code of -0 as 0.
            if x != y && !(x.is_nan() && y.is_nan()) {
                found.differs(start + i);
                found.worst = found.worst.max((f64::from(*x) - f64::from(*y)).abs());
            }
        }
        found
    });
    match factors_agree(&our_factors, &their_factors) {
        None => {
            agreement.agrees = false;
            agreement.detail =
                Some(format!("factors {} are not {}", in_words(&our_factors), in_words(&their_factors)));
        }
        Some(true) => {}
        Some(false) => {
            agreement.detail =
                Some("factors are reciprocals of each other, to the last bit of an f32".into());
        }
    }
    Ok(())
}

/// Whether factors are the same (`true`), or the nearest to each other's reciprocals that f32 holds (`false`).
fn factors_agree(a: &Factors, b: &Factors) -> Option<bool> {
    let all = |factors: &Factors| match factors.numbers.is_empty() {
        true => vec![1.0],
        false => factors.numbers.clone(),
    };
    let (x, y) = (all(a), all(b));
    let count = x.len().max(y.len());
    let is_one_or_all = |numbers: &[f32]| numbers.len() == 1 || numbers.len() == count;
    if !is_one_or_all(&x) || !is_one_or_all(&y) {
        return None;
    }
    let pairs = || (0..count).map(|i| (x[i % x.len()], y[i % y.len()]));
    if a.divide == b.divide || a.numbers.is_empty() || b.numbers.is_empty() {
        return pairs().all(|(x, y)| x == y || (x.is_nan() && y.is_nan())).then_some(true);
    }
    // Half a unit in the last place; the product is exact.
    let is_reciprocal = |(x, y): (f32, f32)| (f64::from(x) * f64::from(y) - 1.0).abs() <= 2f64.powi(-24);
    pairs().all(is_reciprocal).then(|| pairs().all(|(x, y)| f64::from(x) * f64::from(y) == 1.0))
}

fn in_words(factors: &Factors) -> String {
    let first = factors.numbers.first().copied().unwrap_or(1.0);
    match factors.numbers.len() {
        0 | 1 => format!("{first:e}"),
        n => format!("{first:e} and {} more", n - 1),
    }
}
