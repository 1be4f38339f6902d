//! MLX: codes in 32-bit words, a scale and mostly a bias for each group; without biases, microscaling floats
//! (<https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html>).

use super::geometry::{Asked, Sizes, shared};
use super::{Found, Stored, Weight};
use crate::DType;
use crate::metadata::{Value as Plain, as_u64, lookup};
use crate::quantized::form::{Form, Numbers, Packed, Value};
use crate::quantized::{Blocking, Code, Maker, PartRole, QuantFault, QuantType};

/// Bits that codes may have, and elements of a group, the usual ones first.
const BITS: [usize; 6] = [4, 8, 6, 3, 2, 5];
const GROUPS: [usize; 4] = [64, 32, 128, 16];
/// Modes, as the configuration calls them; all but the first are those of microscaling floats.
const MODES: [&str; 4] = [AFFINE, "mxfp4", "mxfp8", "nvfp4"];
/// No group has more.
const MOST_OF_GROUP: usize = 1 << 16;

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    let layer = codes.name.strip_suffix(".weight").filter(|_| codes.dtype == DType::U32)?;
    match stored.at(&format!("{layer}.scales")) {
        Some(scale) => Some(weight(stored, at, scale, layer)),
        None if stored.config.is("mlx") || stored.at(&format!("{layer}.biases")).is_some() => {
            let wanted = format!("{layer}.scales");
            Some(Err(QuantFault::Missing { part: PartRole::Scale, wanted }))
        }
        None => None,
    }
}

/// The size under `key` for `layer`, which may differ from that of the others.
fn asked(stored: &Stored<'_>, layer: &str, key: &str) -> Option<usize> {
    let own = stored.config.own(layer).and_then(|own| as_u64(lookup(own, key)?));
    own.and_then(|n| usize::try_from(n).ok()).or_else(|| stored.config.size(key)).filter(|&n| n > 0)
}

/// The mode of codes with biases.
const AFFINE: &str = "affine";

/// The mode of the codes of `layer`, where the configuration says it: affine unless it says another one.
fn mode<'c>(stored: &Stored<'c>, layer: &str) -> Option<&'c str> {
    if !stored.config.is("mlx") {
        return None;
    }
    match stored.config.own(layer) {
        Some(own) => match lookup(own, "mode")? {
            Plain::String(mode) => Some(mode),
            _ => None,
        },
        // A layer that is not listed, where others are, may be listed under another name.
        None if stored.config.lists_layers() => None,
        None => Some(stored.config.text("mode").unwrap_or(AFFINE)),
    }
}

fn weight(stored: &Stored<'_>, at: usize, scale: usize, layer: &str) -> Found {
    let (codes, scales) = (stored.tensor(at), stored.tensor(scale));
    let mode = mode(stored, layer);
    if let Some(other) = mode.filter(|mode| !MODES.contains(mode)) {
        return Err(QuantFault::Unread { scheme: format!("MLX's {other}") });
    }
    let misfit = || QuantFault::shape(scales, codes);
    let stack = Sizes::of(&codes.shape).ok_or_else(misfit)?;
    let groups = *scales.shape.last().filter(|&&n| n > 0).ok_or_else(misfit)?;
    let row_bits = stack.cols.checked_mul(32).ok_or_else(misfit)?;
    let offset = stored.at(&format!("{layer}.biases"));
    let mut parts = vec![(PartRole::Codes, at), (PartRole::Scale, scale)];
    parts.extend(offset.map(|offset| (PartRole::Offset, offset)));
    if let (Some(offset), Some(other)) = (offset, mode.filter(|mode| *mode != AFFINE)) {
        return Err(QuantFault::configured(stored.tensor(offset), format!("codes of {other}")));
    }
    // Bits of a group, which do not tell bits and elements apart.
    let fits = |&(bits, group): &(usize, usize)| groups.checked_mul(bits * group) == Some(row_bits);
    let (bits, group, code, value, numbers, assumed) = if offset.is_some() {
        let asked = asked(stored, layer, "bits").zip(asked(stored, layer, "group_size"));
        let asked = asked.filter(|(bits, group)| (2..=8).contains(bits) && *group <= MOST_OF_GROUP);
        // A layer that is not listed, where others are, may be listed under another name.
        let is_listed = !stored.config.lists_layers() || stored.config.own(layer).is_some();
        if let Some((bits, group)) = asked.filter(|asked| is_listed && !fits(asked)) {
            let asked = format!("codes of {bits} bits in groups of {group}");
            return Err(QuantFault::configured(scales, asked));
        }
        let asked = asked.filter(fits);
        let all = GROUPS.iter().flat_map(|&group| BITS.iter().map(move |&bits| (bits, group)));
        let (bits, group) = asked.or_else(|| all.clone().find(fits)).ok_or_else(misfit)?;
        let unsure = asked.is_none() && all.filter(fits).count() > 1;
        let assumed = unsure.then_some(
            "nothing that fits says how many bits their codes have; groups of 64 were assumed, or the next that fit",
        );
        if !scales.dtype.is_float() {
            return Err(QuantFault::Type { part: scales.name.clone(), found: scales.dtype.to_string() });
        }
        let plain = Numbers::Plain(scales.dtype);
        (bits, group, Code::Bits(bits as u8), Value::Unsigned(0), plain, assumed)
    } else {
        if scales.dtype != DType::U8 || mode == Some(AFFINE) {
            let wanted = format!("{layer}.biases");
            return Err(QuantFault::Missing { part: PartRole::Offset, wanted });
        }
        let exponents = Numbers::Plain(DType::F8E8M0FNU);
        let modes = [
            (4, 32, Code::Mxfp4, Value::E2m1, exponents),
            (8, 32, Code::Mxfp8, Value::Float(DType::F8E4M3FN), exponents),
            (4, 16, Code::Nvfp4, Value::E2m1, Numbers::Plain(DType::F8E4M3FN)),
        ];
        let found = modes.into_iter().find(|&(bits, group, ..)| fits(&(bits, group)));
        let (bits, group, code, value, numbers) = found.ok_or_else(misfit)?;
        if let Some(other) = mode.filter(|mode| code.name() != Some(*mode)) {
            return Err(QuantFault::configured(scales, format!("codes of {other}")));
        }
        (bits, group, code, value, numbers, None)
    };
    let cols = row_bits / bits;
    let sizes = Sizes { cols, ..stack };
    let said = [Blocking::Group(group as u32)];
    let one_for_each = Asked::of(&said, (1, group));
    let grid = shared(stored, (1, scale), numbers, sizes, one_for_each, codes)?.grid;
    let offset = match offset {
        None => None,
        Some(at) => {
            let numbers = Numbers::Plain(stored.tensor(at).dtype);
            Some(shared(stored, (2, at), numbers, sizes, one_for_each, codes)?.grid)
        }
    };
    Ok(Weight {
        name: codes.name.clone(),
        shape: sizes.shape(&codes.shape),
        kind: QuantType::new(Maker::Mlx, code, Blocking::Group(group as u32)),
        parts,
        form: Form {
            rows: sizes.rows,
            cols,
            slices: sizes.slices,
            codes: Packed::Rows { bits: bits as u8, stride: stack.cols.saturating_mul(4) },
            value,
            group,
            scale: Some(grid),
            offset,
            ..Form::default()
        },
        assumed,
    })
}
