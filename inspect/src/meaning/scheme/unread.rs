//! Schemes that are not read: what is stored is shown, and neither judged nor converted. Some are known by name, or by what
//! stands beside their codes; of others only the method's name is known.

use std::collections::BTreeMap;

use super::{Found, Stored};
use crate::meaning::role::roles;
use crate::quantized::QuantFault;
use crate::tensor::TensorInfo;
use crate::{DType, Group, Role};

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

/// Names by which codes are known without a configuration: a scheme's, what it calls them, and what stands beside them.
const SIGNS: [(&str, &str, &[&str]); 10] = [
    ("HQQ", "W_q", &["scale", "meta"]),
    ("Quanto", "_data", &["_scale"]),
    ("AQLM", "codes", &["codebooks"]),
    ("EXL2", "q_weight", &["q_scale"]),
    ("EXL3", "trellis", &["suh", "svh"]),
    ("QuIP#", "Qidxs", &["SU", "SV"]),
    ("Marlin", "B", &["s"]),
    ("VPTQ", "indices", &["centroids.weight"]),
    ("SpQR", "dense_weights", &["row_offsets"]),
    ("HIGGS", "weight", &["tables", "tables2"]),
];

/// Codes of a scheme that is known by its names for them.
pub(super) fn find(stored: &Stored<'_>, at: usize) -> Option<Found> {
    let (layer, field) = stored.tensor(at).name.rsplit_once('.')?;
    // Codes may be an instance of their own within the weight's, and numbers in a dict beside them.
    let outer = layer.strip_suffix(field).and_then(|outer| outer.strip_suffix('.')).unwrap_or(layer);
    let (scheme, ..) = SIGNS.iter().find(|(_, codes, beside)| {
        let has = |name: &&str| {
            stored.at(&format!("{outer}.{name}")).is_some()
                || stored.beginning_with(&format!("{outer}.{name}.")).next().is_some()
        };
        field == *codes && is_code(stored.tensor(at)) && beside.iter().any(has)
    })?;
    Some(Err(QuantFault::Unread { scheme: (*scheme).to_string() }))
}

/// Whether its elements are whole numbers or 8-bit floats, more than one.
fn is_code(tensor: &TensorInfo) -> bool {
    (tensor.dtype.is_integer() || super::float8::code(tensor.dtype).is_some()) && tensor.numel() > 1
}

/// Places of the codes of each layer in a model that is quantized by a scheme that is not read: what is largest in it, if
/// that is of whole numbers or small floats, and no matrix of floats is beside it.
pub(super) fn codes(stored: &Stored<'_>) -> Vec<usize> {
    let tensors = &stored.checkpoint.tensors;
    let mut largest: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (at, (tensor, role)) in tensors.iter().zip(roles(tensors)).enumerate() {
        let is_known = matches!(role, Role::Mask | Role::Cache | Role::Count | Role::Observer);
        if tensor.group != Group::Weights || is_known {
            continue;
        }
        let layer = tensor.name.rsplit_once('.').map_or("", |(layer, _)| layer);
        let bytes = if find(stored, at).is_some() { u64::MAX } else { tensor.byte_len().unwrap_or(0) };
        let known = largest.entry(layer).or_insert((bytes, at));
        if known.0 < bytes {
            *known = (bytes, at);
        }
    }
    // Codes are stored in these; positions and lengths are of 64 bits.
    let is_code = |dtype: DType| {
        let is_small = super::float8::code(dtype).is_some() || dtype == DType::F4E2M1X2;
        is_small || dtype.is_integer() && !matches!(dtype, DType::I64 | DType::U64)
    };
    let all = largest.into_values();
    let codes =
        all.filter(|&(bytes, at)| bytes == u64::MAX || is_code(tensors[at].dtype) && tensors[at].numel() > 1);
    codes.map(|(_, at)| at).collect()
}
