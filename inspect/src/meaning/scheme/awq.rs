//! AutoAWQ (`gemm`): a word holds eight neighbouring outputs in an order of its own
//! (<https://github.com/casper-hansen/AutoAWQ>, `packing_utils`).

use super::{Found, Stored, Weight};
use crate::DType;
use crate::quantized::form::{Form, Grid, Numbers, Packed, Value, Zero};
use crate::quantized::{Blocking, Code, Maker, PartRole, QuantFault, QuantType};

/// Codes of a word.
const PACK: usize = 8;

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    let layer = codes.name.strip_suffix(".qweight").filter(|_| codes.dtype == DType::I32)?;
    Some(weight(stored, at, layer))
}

fn weight(stored: &Stored<'_>, at: usize, layer: &str) -> Found {
    let codes = stored.tensor(at);
    let own = |field: &str| format!("{layer}.{field}");
    let scale = stored.need(PartRole::Scale, own("scales"))?;
    let zero = stored.need(PartRole::ZeroPoint, own("qzeros"))?;
    let (scales, zeros) = (stored.tensor(scale), stored.tensor(zero));
    let (&[cols, words], &[groups, rows]) = (codes.shape.as_slice(), scales.shape.as_slice()) else {
        return Err(QuantFault::shape(scales, codes));
    };
    if words.checked_mul(PACK) != Some(rows) || groups == 0 || !cols.is_multiple_of(groups) {
        return Err(QuantFault::shape(scales, codes));
    }
    if zeros.shape != [groups, words] || zeros.dtype != DType::I32 {
        return Err(QuantFault::shape(zeros, codes));
    }
    if !scales.dtype.is_float() {
        return Err(QuantFault::Type { part: own("scales"), found: scales.dtype.to_string() });
    }
    let group = (cols / groups).max(1);
    let narrow = u32::try_from(group).map_err(|_| QuantFault::shape(scales, codes))?;
    let stride = words.checked_mul(4).ok_or_else(|| QuantFault::shape(codes, codes))?;
    Ok(Weight {
        name: own("weight"),
        shape: vec![rows, cols],
        kind: QuantType::new(Maker::Awq, Code::Bits(4), Blocking::Group(narrow)),
        parts: vec![(PartRole::Codes, at), (PartRole::Scale, scale), (PartRole::ZeroPoint, zero)],
        form: Form {
            rows,
            cols,
            codes: Packed::Awq { stride },
            value: Value::Unsigned(0),
            group,
            scale: Some(Grid {
                part: 1,
                numbers: Numbers::Plain(scales.dtype),
                row_block: 1,
                row_stride: 1,
                group_stride: rows,
                slice_stride: 0,
            }),
            zero: Zero::Packed { part: 2, packed: Packed::AwqRows { stride }, by_row: false, plus: 0 },
            ..Form::default()
        },
        assumed: None,
    })
}
