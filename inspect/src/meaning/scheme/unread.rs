//! Schemes that are known by name: what is stored is shown, and neither judged nor converted.

/// What configurations call them, and what people do.
const NAMES: [(&str, &str); 17] = [
    ("aqlm", "AQLM"),
    ("eetq", "EETQ"),
    ("exl2", "EXL2"),
    ("exl3", "EXL3"),
    ("fouroversix", "Four Over Six"),
    ("fp_quant", "FP-Quant"),
    ("higgs", "HIGGS"),
    ("hqq", "HQQ"),
    ("marlin", "Marlin"),
    ("metal", "Metal"),
    ("quanto", "Quanto"),
    ("quark", "Quark"),
    ("quip", "QuIP"),
    ("sinq", "SINQ"),
    ("sparseml", "SparseML"),
    ("spqr", "SpQR"),
    ("vptq", "VPTQ"),
];

/// The name of the scheme that `method` is, if it is not read.
pub(super) fn named(method: &str) -> Option<&'static str> {
    NAMES.iter().find(|(key, _)| *key == method).map(|(_, name)| *name)
}
