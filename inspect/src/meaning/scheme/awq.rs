//! AutoAWQ (`gemm`): a word holds eight neighbouring outputs in an order of its own
//! (<https://github.com/casper-hansen/AutoAWQ>, `packing_utils`).

use super::{Config, Found, Stored, Weight};
use crate::DType;
use crate::quantized::form::{Form, Grid, Numbers, Packed, Value, Zero};
use crate::quantized::{Blocking, Code, Maker, PartRole, QuantFault, QuantType};

/// Codes of a word.
const PACK: usize = 8;

/// Versions that store weights as `gemm` does.
const READ: [&str; 5] = ["gemm", "exllama", "exllama_v1", "exllama_v2", "ipex"];

/// Bits of a code.
const BITS: usize = 4;

/// Whether `config` says of codes that GPTQModel or another program wrote that they are AWQ's: its method may be called
/// `gptq` all the same.
fn names_awq(config: &Config) -> bool {
    let is_version = |name: &str| READ.contains(&name.to_ascii_lowercase().as_str());
    !config.is("gptq")
        || config.text("method").is_some_and(|method| method.eq_ignore_ascii_case("awq"))
        || ["checkpoint_format", "format"].iter().any(|key| config.text(key).is_some_and(is_version))
}

/// The version of AWQ that `config` names, in lower case, if its weights are stored otherwise than in `gemm`.
pub(super) fn unread_version(config: &Config) -> Option<String> {
    let version =
        ["version", "format"].iter().find_map(|key| config.text(key)).filter(|_| config.is("awq"))?;
    Some(version.to_ascii_lowercase()).filter(|version| !READ.contains(&version.as_str()))
}

pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let codes = stored.tensor(at);
    let layer = codes.name.strip_suffix(".qweight")?;
    let unread = |version: &str| Some(Err(QuantFault::Unread { scheme: format!("AWQ's {version}") }));
    if let Some(version) = unread_version(stored.config) {
        return unread(&version);
    }
    match codes.dtype {
        DType::I32 => Some(weight(stored, at, layer)),
        // Which no other version has.
        DType::I16 => unread("gemv_fast"),
        _ => None,
    }
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
    if !names_awq(stored.config) {
        return Err(QuantFault::configured(codes, "codes of GPTQ".into()));
    }
    let asked = ["bits", "w_bit"].iter().find_map(|key| stored.config.size(key));
    if let Some(bits) = asked.filter(|&bits| bits != BITS && !stored.config.differs_by_layer()) {
        return Err(QuantFault::configured(codes, format!("rows of {rows} codes of {bits} bits")));
    }
    if zeros.shape != [groups, words] || zeros.dtype != DType::I32 {
        return Err(QuantFault::shape(zeros, codes));
    }
    if !scales.dtype.is_float() {
        return Err(QuantFault::Type { part: own("scales"), found: scales.dtype.to_string() });
    }
    if let Some(asked) = super::gptq::group_size(stored.config, cols).filter(|n| cols.div_ceil(*n) != groups)
    {
        let asked = format!("{} groups of {asked}", cols.div_ceil(asked));
        return Err(QuantFault::configured(scales, asked));
    }
    let group = (cols / groups).max(1);
    let narrow = u32::try_from(group).map_err(|_| QuantFault::shape(scales, codes))?;
    let stride = words.checked_mul(4).ok_or_else(|| QuantFault::shape(codes, codes))?;
    Ok(Weight {
        name: own("weight"),
        shape: vec![rows, cols],
        kind: QuantType::new(Maker::Awq, Code::Bits(BITS as u8), Blocking::Group(narrow)),
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
