//! Scales of MXFP4 that are saved as bytes: an exponent each, of which 255 is NaN. Codes beside them tell that they are
//! such scales. In GGML's blocks of MXFP4 and NVFP4 the scales are counted while they are measured, because decoders make
//! numbers of them.

use std::collections::HashMap;

use super::{Check, Network, Rule, Ruling, Tell};
use crate::DType;
use crate::meaning::role::Role;
use crate::verdict::{Finding, Verdict};

/// What ends the names of scales and of the codes that they belong to.
const PAIRS: [(&str, &str); 2] = [("_scales", "_blocks"), (".weight_scale", ".weight_packed")];
const NAN: f64 = 255.0;

pub(super) const RULE: Rule = Rule {
    name: "nan-scale",
    summary: "A scale of MXFP4 or NVFP4 codes is NaN.",
    levels: &[Verdict::Corrupt],
    roles: &[],
    check: Check::Network(check),
};

fn check(network: &Network<'_>, found: Tell<'_>) {
    let tensors = &network.record.tensors;
    let suspects = tensors.iter().enumerate().filter(|(_, t)| {
        let largest = t.stats.as_ref().and_then(|s| s.max);
        t.dtype == DType::U8 && t.role == Role::Scale && largest == Some(NAN)
    });
    for (i, tensor) in tensors.iter().enumerate() {
        let odd = tensor.stats.as_ref().and_then(|stats| stats.odd_scales.as_ref());
        let blocks = odd.map_or(0, |odd| odd.nan);
        if blocks > 0 {
            found(i, Ruling::new(Verdict::Corrupt, Finding::NanScales { blocks }));
        }
    }
    let mut bytes: Option<HashMap<&str, DType>> = None;
    for (i, tensor) in suspects {
        let bytes = bytes.get_or_insert_with(|| tensors.iter().map(|t| (t.name.as_str(), t.dtype)).collect());
        let are_its_codes = |(scale, codes): &(&str, &str)| {
            let base = tensor.name.strip_suffix(scale)?;
            Some(bytes.get(format!("{base}{codes}").as_str()) == Some(&DType::U8))
        };
        if PAIRS.iter().filter_map(are_its_codes).any(|are| are) {
            found(i, Ruling::new(Verdict::Corrupt, Finding::NanScale));
        }
    }
}
