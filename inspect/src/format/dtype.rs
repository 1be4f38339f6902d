//! Element types: plain ones with PyTorch's names, GGML's block types, and the ternary packings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::format::packing::TernaryPacking;
use crate::ggml::GgmlType;
use crate::quantized::QuantType;

/// The type of an element of a tensor, or how a block of elements is packed. Records contain its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the variants are the field's own names
#[non_exhaustive]
pub enum DType {
    F64,
    /// PyTorch's default.
    #[default]
    F32,
    F16,
    BF16,
    F8E4M3FN,
    F8E5M2,
    F8E4M3FNUZ,
    F8E5M2FNUZ,
    F8E8M0FNU,
    /// 4-bit floats, two per byte.
    F4E2M1,
    /// 6-bit floats packed without gaps.
    F6E2M3,
    /// 6-bit floats packed without gaps.
    F6E3M2,
    /// PyTorch's form: one element is a byte with two 4-bit floats.
    F4E2M1X2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    /// Pairs of `float16`.
    C32,
    /// Pairs of `float32`.
    C64,
    /// Pairs of `float64`.
    C128,
    /// PyTorch's quantized signed bytes; scale and zero point are in [`crate::TensorInfo::quantizer`].
    QI8,
    /// PyTorch's quantized unsigned bytes.
    QU8,
    /// PyTorch's quantized 32-bit integers.
    QI32,
    /// One of GGML's block formats.
    Ggml(GgmlType),
    /// Four ternary values per byte, shown as the matrix that they encode.
    Ternary(TernaryPacking),
    /// Codes with scales in other tensors, shown as the weight that they stand for.
    Quantized(QuantType),
}

impl DType {
    /// The type's name in PyTorch (without `torch.`), GGML or ckpt; of a quantized weight only its family's, and as text
    /// all of it.
    pub fn name(self) -> &'static str {
        match self {
            DType::F64 => "float64",
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::F8E4M3FN => "float8_e4m3fn",
            DType::F8E5M2 => "float8_e5m2",
            DType::F8E4M3FNUZ => "float8_e4m3fnuz",
            DType::F8E5M2FNUZ => "float8_e5m2fnuz",
            DType::F8E8M0FNU => "float8_e8m0fnu",
            DType::F4E2M1 => "float4_e2m1fn",
            DType::F6E2M3 => "float6_e2m3fn",
            DType::F6E3M2 => "float6_e3m2fn",
            DType::F4E2M1X2 => "float4_e2m1fn_x2",
            DType::I64 => "int64",
            DType::I32 => "int32",
            DType::I16 => "int16",
            DType::I8 => "int8",
            DType::U64 => "uint64",
            DType::U32 => "uint32",
            DType::U16 => "uint16",
            DType::U8 => "uint8",
            DType::Bool => "bool",
            DType::C32 => "complex32",
            DType::C64 => "complex64",
            DType::C128 => "complex128",
            DType::QI8 => "qint8",
            DType::QU8 => "quint8",
            DType::QI32 => "qint32",
            DType::Ggml(ggml) => ggml.name(),
            DType::Ternary(packing) => packing.name(),
            DType::Quantized(kind) => kind.family(),
        }
    }

    /// Every type except GGML's, the packings and those of quantized weights.
    const PLAIN: [DType; 28] = {
        use DType::*;
        [
            F64, F32, F16, BF16, F8E4M3FN, F8E5M2, F8E4M3FNUZ, F8E5M2FNUZ, F8E8M0FNU, F4E2M1, F6E2M3, F6E3M2,
            F4E2M1X2, I64, I32, I16, I8, U64, U32, U16, U8, Bool, C32, C64, C128, QI8, QU8, QI32,
        ]
    };

    /// Every type except GGML's and those of quantized weights.
    fn named() -> impl Iterator<Item = DType> {
        DType::PLAIN.into_iter().chain(TernaryPacking::ALL.iter().map(|&packing| DType::Ternary(packing)))
    }

    /// Bytes of one element, or `None` where elements are packed in blocks.
    pub fn element_size(self) -> Option<usize> {
        Some(match self {
            DType::F64 | DType::I64 | DType::U64 | DType::C64 => 8,
            DType::F32 | DType::I32 | DType::U32 | DType::C32 | DType::QI32 => 4,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 2,
            DType::F8E4M3FN
            | DType::F8E5M2
            | DType::F8E4M3FNUZ
            | DType::F8E5M2FNUZ
            | DType::F8E8M0FNU
            | DType::F4E2M1X2
            | DType::I8
            | DType::U8
            | DType::Bool
            | DType::QI8
            | DType::QU8 => 1,
            DType::C128 => 16,
            DType::F4E2M1
            | DType::F6E2M3
            | DType::F6E3M2
            | DType::Ggml(_)
            | DType::Ternary(_)
            | DType::Quantized(_) => return None,
        })
    }

    /// Bytes of the words whose order a byte swap reverses (a complex number is two words).
    pub(crate) fn word_size(self) -> usize {
        match self {
            DType::C32 => 2,
            DType::C64 => 4,
            DType::C128 => 8,
            other => other.element_size().unwrap_or(1),
        }
    }

    /// Bytes that a contiguous tensor of `shape` takes; `None` on overflow or where its rows do not fill whole blocks.
    pub fn bytes_for(self, shape: &[usize]) -> Option<u64> {
        let numel = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64))?;
        match self {
            DType::Ggml(ggml) => ggml.bytes_for(shape),
            DType::F4E2M1 => numel.is_multiple_of(2).then_some(numel / 2),
            DType::F6E2M3 | DType::F6E3M2 => numel.is_multiple_of(4).then_some(numel / 4 * 3),
            DType::Ternary(packing) => packing.bytes_for(shape),
            plain => numel.checked_mul(plain.element_size()? as u64),
        }
    }

    /// Whether elements are real floating-point numbers.
    pub fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F64 | F32 | F16 | BF16 | F8E4M3FN | F8E5M2 | F8E4M3FNUZ | F8E5M2FNUZ | F8E8M0FNU)
    }

    /// Whether elements are whole numbers, signed or not.
    pub fn is_integer(self) -> bool {
        use DType::*;
        matches!(self, I64 | I32 | I16 | I8 | U64 | U32 | U16 | U8)
    }

    /// Whether elements are complex numbers.
    pub fn is_complex(self) -> bool {
        matches!(self, DType::C32 | DType::C64 | DType::C128)
    }

    /// Whether the packing can only hold -1, 0 and +1 times a scale.
    pub fn is_ternary(self) -> bool {
        match self {
            DType::Ternary(_) => true,
            DType::Ggml(ggml) => ggml.is_ternary(),
            _ => false,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DType::Quantized(kind) => kind.fmt(f),
            other => f.pad(other.name()),
        }
    }
}

/// A type by its text.
impl FromStr for DType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = DType::named().find(|dtype| dtype.name() == name);
        named
            .or_else(|| GgmlType::named(name).map(DType::Ggml))
            .or_else(|| name.parse().ok().map(DType::Quantized))
            .ok_or_else(|| format!("`{}` is not an element type", name.escape_debug()))
    }
}

impl Serialize for DType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl serde::de::Visitor<'_> for Name {
            type Value = DType;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an element type")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<DType, E> {
                name.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_read_by_its_name() {
        let ggml = (0..100).map(|number| DType::Ggml(GgmlType(number)));
        let known = ggml.filter(|t| matches!(t, DType::Ggml(ggml) if ggml.is_known()));
        let all: Vec<DType> = DType::named().chain(known).collect();
        assert!(all.len() > 70, "{}", all.len());
        for dtype in all {
            let text = serde_json::to_string(&dtype).unwrap();
            assert_eq!(text, format!("\"{}\"", dtype.name()));
            assert_eq!(serde_json::from_str::<DType>(&text).unwrap(), dtype);
        }
        let unknown = DType::Ggml(GgmlType(4711));
        assert_eq!(unknown.name().parse::<DType>().unwrap().name(), unknown.name());
        assert!("float33".parse::<DType>().is_err());
    }
}
