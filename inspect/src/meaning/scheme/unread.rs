//! Schemes that are not read: what is stored is shown, and neither judged nor converted. Some are known by name; of others
//! only the method's name is known.

/// What configurations call them, and what people do.
const NAMES: [(&str, &str); 22] = [
    ("aqlm", "AQLM"),
    ("ascend", "Ascend"),
    ("bitblas", "BitBLAS"),
    ("eetq", "EETQ"),
    ("exl2", "EXL2"),
    ("exl3", "EXL3"),
    ("fouroversix", "Four Over Six"),
    ("fp_quant", "FP-Quant"),
    ("gemma", "Gemma"),
    ("higgs", "HIGGS"),
    ("hqq", "HQQ"),
    ("marlin", "Marlin"),
    ("metal", "Metal"),
    ("modelslim", "ModelSlim"),
    ("quanto", "Quanto"),
    ("quark", "Quark"),
    ("quip", "QuIP"),
    ("sinq", "SINQ"),
    ("sparseml", "SparseML"),
    ("spqr", "SpQR"),
    ("vptq", "VPTQ"),
    ("w8a8_int8", "w8a8_int8"),
];

/// Methods that are read, by the schemes of this folder or as a packing of ternary codes.
const READ: [&str; 23] = [
    "auto-gptq",
    "auto-round",
    "auto_round",
    "autoround",
    "awq",
    "bitnet",
    "bitsandbytes",
    "compressed-tensors",
    "compressed_tensors",
    "fbgemm_fp8",
    "finegrained_fp8",
    "fp8",
    "gptq",
    "gptqmodel",
    "intel/auto-round",
    "mlx",
    "modelopt",
    "modelopt_fp4",
    "modelopt_mixed",
    "mxfp4",
    "mxfp8",
    "nvfp4",
    "torchao",
];

/// The name of the scheme that `method` is, if it is not read.
pub(super) fn named(method: &str) -> Option<String> {
    if READ.contains(&method) {
        return None;
    }
    let known = NAMES.iter().find(|(key, _)| *key == method);
    Some(known.map_or(method, |(_, name)| name).to_string())
}
