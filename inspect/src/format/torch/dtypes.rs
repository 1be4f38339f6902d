//! The names of element types in PyTorch: those of dtypes and of typed storages.

use crate::DType;

/// PyTorch's typed storages: `torch.FloatStorage` and the like.
const STORAGES: [(&str, DType); 15] = [
    ("DoubleStorage", DType::F64),
    ("FloatStorage", DType::F32),
    ("HalfStorage", DType::F16),
    ("BFloat16Storage", DType::BF16),
    ("LongStorage", DType::I64),
    ("IntStorage", DType::I32),
    ("ShortStorage", DType::I16),
    ("CharStorage", DType::I8),
    ("ByteStorage", DType::U8),
    ("BoolStorage", DType::Bool),
    ("ComplexFloatStorage", DType::C64),
    ("ComplexDoubleStorage", DType::C128),
    ("QInt8Storage", DType::QI8),
    ("QUInt8Storage", DType::QU8),
    ("QInt32Storage", DType::QI32),
];

/// The element type of `torch.FloatStorage` and the like, `U8` for untyped ones.
pub(crate) fn storage_dtype(class: &str) -> Option<DType> {
    let class = class.strip_prefix("Cuda").unwrap_or(class);
    if matches!(class, "UntypedStorage" | "_UntypedStorage") {
        return Some(DType::U8);
    }
    STORAGES.iter().find(|(name, _)| *name == class).map(|(_, dtype)| *dtype)
}

/// The class in `torch` of a typed storage of `dtype`; `None` for types younger than typed storages, whose tensors
/// PyTorch writes with `_rebuild_tensor_v3` on an `UntypedStorage`.
pub fn storage_class(dtype: DType) -> Option<&'static str> {
    STORAGES.iter().find(|(_, d)| *d == dtype).map(|(name, _)| *name)
}

/// The dtypes that have a `torch` attribute of their [`DType::name`].
const DTYPES: [DType; 25] = {
    use DType::*;
    [
        F64, F32, F16, BF16, F8E4M3FN, F8E5M2, F8E4M3FNUZ, F8E5M2FNUZ, F8E8M0FNU, I64, I32, I16, I8, U64,
        U32, U16, U8, Bool, C32, C64, C128, QI8, QU8, QI32, F4E2M1X2,
    ]
};

/// Whether PyTorch has `dtype` under its [`DType::name`].
pub fn has_dtype(dtype: DType) -> bool {
    DTYPES.contains(&dtype)
}

/// A dtype by the name of its `torch` attribute.
pub(crate) fn torch_dtype(name: &str) -> Option<DType> {
    let alias = match name {
        "double" => "float64",
        "float" => "float32",
        "half" => "float16",
        "long" => "int64",
        "int" => "int32",
        "short" => "int16",
        "cfloat" => "complex64",
        "cdouble" => "complex128",
        "chalf" => "complex32",
        other => other,
    };
    DTYPES.into_iter().find(|d| d.name() == alias)
}
