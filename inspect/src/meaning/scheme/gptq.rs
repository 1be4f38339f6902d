//! GPTQ as AutoGPTQ and GPTQModel store it: codes of a row lie down a column of 32-bit words, zero points in rows of
//! words, one less than they are in all but version 2 (<https://github.com/ModelCloud/GPTQModel>, `qlinear`, and
//! `convert_gptq_v1_to_v2_format_module` in `utils/model.py`).

use super::{Config, Found, Stored, Weight};
use crate::DType;
use crate::metadata::{Value as Plain, as_f64, lookup};
use crate::quantized::form::{Form, Grid, Numbers, Packed, Value, Zero};
use crate::quantized::{Blocking, Code, Maker, PartRole, QuantFault, QuantType};

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    let layer = codes.name.strip_suffix(".qweight")?;
    if !matches!(codes.dtype, DType::I32) {
        return None;
    }
    let scale = stored.at(&format!("{layer}.scales"));
    // AWQ packs eight outputs into a word, so that it has fewer of them than of scales.
    let outputs = |at: usize| stored.tensor(at).shape.last();
    let is_awq = match scale {
        _ if super::awq::unread_version(stored.config).is_some() => true,
        Some(scale) => outputs(scale) != codes.shape.last(),
        None => stored.config.is("awq"),
    };
    (!is_awq).then(|| weight(stored, at, layer))
}

/// The columns of a group by the configuration, of a weight that has `cols`; `None` where it does not say, or may say
/// otherwise of single layers.
pub(super) fn group_size(config: &Config, cols: usize) -> Option<usize> {
    let size = ["group_size", "q_group_size"].iter().find_map(|key| config.get(key))?;
    let size = match as_f64(size)? {
        -1.0 => Some(cols),
        size if size >= 1.0 && size <= f64::from(u32::MAX) => Some(size as usize),
        _ => None,
    };
    size.filter(|_| cols > 0 && !config.differs_by_layer())
}

/// Whether groups are of columns that activations put in order, so that nothing but an index tells which.
fn reorders(config: &Config) -> bool {
    let is = |key: &str| matches!(config.get(key), Some(Plain::Bool(true)));
    let of_layers = ["dynamic", "extra_config"].iter().any(|key| match config.get(key) {
        Some(Plain::Dict(layers)) => layers.values().any(|own| lookup(own, "desc_act").is_some()),
        _ => false,
    });
    is("desc_act") && !is("static_groups") && !of_layers
}

fn weight(stored: &Stored<'_>, at: usize, layer: &str) -> Found {
    let codes = stored.tensor(at);
    let own = |field: &str| format!("{layer}.{field}");
    if stored.config.is("awq") {
        return Err(QuantFault::configured(codes, "codes of AWQ".into()));
    }
    let scale = stored.need(PartRole::Scale, own("scales"))?;
    let zero = stored.need(PartRole::ZeroPoint, own("qzeros"))?;
    let index = stored.at(&own("g_idx"));
    let (scales, zeros) = (stored.tensor(scale), stored.tensor(zero));
    let (&[words, rows], &[groups, per_group]) = (codes.shape.as_slice(), scales.shape.as_slice()) else {
        return Err(QuantFault::shape(scales, codes));
    };
    let &[zero_groups, zero_words] = zeros.shape.as_slice() else {
        return Err(QuantFault::shape(zeros, codes));
    };
    if per_group != rows || groups == 0 {
        return Err(QuantFault::shape(scales, codes));
    }
    if zeros.dtype != DType::I32 {
        return Err(QuantFault::Type { part: own("qzeros"), found: zeros.dtype.to_string() });
    }
    if !scales.dtype.is_float() {
        return Err(QuantFault::Type { part: own("scales"), found: scales.dtype.to_string() });
    }
    let indexed = index.and_then(|at| match stored.tensor(at).shape[..] {
        [cols] => Some(cols),
        _ => None,
    });
    // What the shapes say of bits comes before what the configuration does: layers may differ.
    let by_index = |cols: usize| words.checked_mul(32)?.checked_div(cols);
    let by_zeros = || zero_words.checked_mul(32)?.checked_div(rows);
    let is_usual = |bits: &usize| (2..=8).contains(bits);
    let asked = stored.config.size("bits").filter(is_usual).filter(|_| !stored.config.differs_by_layer());
    let told = indexed.and_then(by_index);
    if let (Some(index), Some(told), Some(bits)) = (index, told, asked)
        && told != bits
        && by_zeros() == asked
    {
        let columns = format!("{} columns", words.saturating_mul(32) / bits);
        return Err(QuantFault::configured(stored.tensor(index), columns));
    }
    let bits = told.or_else(by_zeros).filter(is_usual);
    let bits = bits.ok_or_else(|| QuantFault::shape(zeros, codes))?;
    if let Some(asked) = asked.filter(|&asked| asked != bits) {
        let rows = indexed.unwrap_or(words.saturating_mul(32) / bits);
        return Err(QuantFault::configured(codes, format!("columns of {rows} codes of {asked} bits")));
    }
    // Others are packed in planes.
    if !matches!(bits, 2 | 3 | 4 | 8) {
        return Err(QuantFault::State { part: codes.name.clone() });
    }
    let whole = words.checked_mul(32).ok_or_else(|| QuantFault::shape(codes, codes))? / bits;
    let cols = indexed.unwrap_or(whole);
    let packed = |len: usize, words: usize| len.checked_mul(bits).is_some_and(|n| n.div_ceil(32) == words);
    if !packed(cols, words) {
        return Err(QuantFault::shape(codes, codes));
    }
    // Rows of codes are packed into whole words, each full.
    if let Some(index) = index.filter(|_| cols != whole) {
        return Err(QuantFault::shape(stored.tensor(index), codes));
    }
    if !packed(rows, zero_words) {
        return Err(QuantFault::shape(zeros, codes));
    }
    let asked = group_size(stored.config, cols);
    let expected = asked.map(|group| cols.div_ceil(group));
    for (part, has) in [(scales, groups), (zeros, zero_groups)] {
        if let (Some(group), Some(expected)) = (asked, expected)
            && has != expected
        {
            return Err(QuantFault::configured(part, format!("{expected} groups of {group}")));
        }
    }
    if zero_groups != groups {
        return Err(QuantFault::shape(zeros, codes));
    }
    let group = asked.unwrap_or_else(|| cols.div_ceil(groups)).max(1);
    if index.is_none() && cols.div_ceil(group) != groups {
        return Err(QuantFault::shape(scales, codes));
    }
    if index.is_none() && groups > 1 && reorders(stored.config) {
        return Err(QuantFault::Missing { part: PartRole::Index, wanted: own("g_idx") });
    }
    let format = ["checkpoint_format", "format"].iter().find_map(|key| stored.config.text(key));
    let is_second = format == Some("gptq_v2");
    let mut parts = vec![(PartRole::Codes, at), (PartRole::Scale, scale), (PartRole::ZeroPoint, zero)];
    if let Some(index) = index {
        parts.push((PartRole::Index, index));
    }
    let narrow = u32::try_from(group).map_err(|_| QuantFault::shape(scales, codes))?;
    let blocking = if groups == 1 { Blocking::Channel } else { Blocking::Group(narrow) };
    let bits = bits as u8;
    let stride = zero_words.checked_mul(4).ok_or_else(|| QuantFault::shape(zeros, codes))?;
    Ok(Weight {
        name: own("weight"),
        shape: vec![rows, cols],
        kind: QuantType::new(Maker::Gptq, Code::Bits(bits), blocking),
        form: Form {
            rows,
            cols,
            codes: Packed::Down { bits, width: rows, whole: false },
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
            zero: Zero::Packed {
                part: 2,
                packed: match is_second {
                    true => Packed::Rows { bits, stride },
                    false => Packed::LessOne { bits, stride },
                },
                by_row: false,
                plus: 0,
            },
            index: index.map(|_| 3),
            ..Form::default()
        },
        parts,
        assumed: (format.is_none() && stored.config.method.is_none()).then_some(
            "no configuration says which version of GPTQ wrote them; the first was assumed, whose zero points are stored less one",
        ),
    })
}
