//! Numbers beside what may be codes that no scheme of this folder takes: whose they are is known, and what they do is
//! not. An 8-bit matrix with a scale next to it is codes, whatever the scale is called, and codes that something is
//! subtracted from, of which a reader does not know, are not what it reads.

use super::names::{is_of_codes, is_shift};
use super::{Found, Stored, Weight, float8};
use crate::DType;
use crate::quantized::QuantFault;
use crate::tensor::TensorInfo;

/// Most numbers that are looked at to see whether all of them are zero.
const MOST: u64 = 1 << 22;

/// Codes that have numbers beside them which no scheme explains.
pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    let is_byte = matches!(codes.dtype, DType::I8 | DType::U8) && !stored.config.is("bitnet");
    let is_matrix = codes.shape.iter().filter(|&&d| d > 1).count() > 1;
    if !is_matrix || !super::is_sound(codes) || !(is_byte || float8::code(codes.dtype).is_some()) {
        return None;
    }
    let fits = |part: &TensorInfo| part.numel() <= codes.numel() / 4 && is_number(part.dtype);
    let part = of_layer(stored, &codes.name).find(|(last, at)| is_of_codes(last) && fits(stored.tensor(*at)));
    let (_, part) = part?;
    Some(Err(QuantFault::Beside { part: stored.tensor(part).name.clone() }))
}

/// `weight`, if nothing else is subtracted from its codes than what is known.
pub(super) fn used(weight: Weight, stored: &Stored<'_>) -> Found {
    let is_part = |at: usize| weight.parts.iter().any(|(_, part)| *part == at);
    let is_other = |(last, at): &(&str, usize)| is_shift(last) && !is_part(*at) && !is_zero(stored, *at);
    let other = of_layer(stored, &weight.name).find(is_other).map(|(_, at)| at);
    match other {
        None => Ok(weight),
        Some(at) => Err(QuantFault::Unused { part: stored.tensor(at).name.clone() }),
    }
}

fn is_zero(stored: &Stored<'_>, at: usize) -> bool {
    let tensor = stored.tensor(at);
    let read = tensor.numel() <= MOST && super::is_sound(tensor);
    let values = read.then(|| stored.checkpoint.values(tensor).ok()).flatten();
    values.is_some_and(|values| values.iter().all(|value| *value == 0.0))
}

fn is_number(dtype: DType) -> bool {
    dtype.is_float() || matches!(dtype, DType::U8 | DType::I8 | DType::I16 | DType::I32)
}

/// What belongs to the codes called `name` by its own name, with the end that says what it is: `X.weight_scale`,
/// `X.scale`, `X.weight.scale` and `X.weight_quantizer._scale` to `X.weight`; `X_scale` to `X`.
fn of_layer<'s>(stored: &'s Stored<'_>, name: &'s str) -> impl Iterator<Item = (&'s str, usize)> {
    let layer = name.strip_suffix(".weight");
    let stem = layer.unwrap_or(name);
    stored.beginning_with(stem).filter_map(move |at| {
        let rest = stored.tensor(at).name.strip_prefix(stem)?;
        let field = match layer {
            Some(_) => rest.strip_prefix('.')?,
            None => rest.strip_prefix(['.', '_'])?,
        };
        let (outer, last) = field.rsplit_once('.').unwrap_or(("", field));
        let is_own = outer.is_empty() || ["weight", "weight_quantizer", "input_quantizer"].contains(&outer);
        (is_own && rest != ".weight").then_some((last, at))
    })
}
