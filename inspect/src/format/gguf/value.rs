//! Metadata values of a GGUF file, and the cursor that reads them in either byte order.

use super::DEEPEST_ARRAY;
use crate::bytes::{Short, text};
use crate::metadata::Value as Plain;
use crate::{DamageKind, Error, Result};

/// The type of a metadata value, by its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // the format's own names
#[non_exhaustive]
pub enum ValueType {
    Uint8 = 0,
    Int8 = 1,
    Uint16 = 2,
    Int16 = 3,
    Uint32 = 4,
    Int32 = 5,
    Float32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    Uint64 = 10,
    Int64 = 11,
    Float64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = {
        use ValueType::*;
        [Uint8, Int8, Uint16, Int16, Uint32, Int32, Float32, Bool, String, Array, Uint64, Int64, Float64]
    };

    /// The type of a number.
    pub fn from_number(number: u32) -> Option<ValueType> {
        Self::ALL.get(number as usize).copied()
    }

    /// Bytes of a value; `None` for strings and arrays, which tell their own length.
    pub fn size(self) -> Option<usize> {
        use ValueType::*;
        Some(match self {
            Uint8 | Int8 | Bool => 1,
            Uint16 | Int16 => 2,
            Uint32 | Int32 | Float32 => 4,
            Uint64 | Int64 | Float64 => 8,
            String | Array => return None,
        })
    }

    /// The fewest bytes a value takes.
    fn least(self) -> u64 {
        match self {
            ValueType::String => 8,
            ValueType::Array => 12,
            plain => plain.size().unwrap_or(1) as u64,
        }
    }

    /// A lower-case name.
    pub fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            Uint8 => "uint8",
            Int8 => "int8",
            Uint16 => "uint16",
            Int16 => "int16",
            Uint32 => "uint32",
            Int32 => "int32",
            Float32 => "float32",
            Bool => "bool",
            String => "string",
            Array => "array",
            Uint64 => "uint64",
            Int64 => "int64",
            Float64 => "float64",
        }
    }
}

/// A metadata value, as a view of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // named as in `ValueType`
#[non_exhaustive]
pub enum Value<'a> {
    Uint8(u8),
    Int8(i8),
    Uint16(u16),
    Int16(i16),
    Uint32(u32),
    Int32(i32),
    Float32(f32),
    Bool(bool),
    /// Meant to be UTF-8, and not checked to be.
    String(&'a [u8]),
    Array(Array<'a>),
    Uint64(u64),
    Int64(i64),
    Float64(f64),
}

impl<'a> Value<'a> {
    /// Its type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::Uint8(_) => ValueType::Uint8,
            Value::Int8(_) => ValueType::Int8,
            Value::Uint16(_) => ValueType::Uint16,
            Value::Int16(_) => ValueType::Int16,
            Value::Uint32(_) => ValueType::Uint32,
            Value::Int32(_) => ValueType::Int32,
            Value::Float32(_) => ValueType::Float32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::Uint64(_) => ValueType::Uint64,
            Value::Int64(_) => ValueType::Int64,
            Value::Float64(_) => ValueType::Float64,
        }
    }

    /// An integer that i64 holds.
    pub fn as_i64(&self) -> Option<i64> {
        Some(match *self {
            Value::Uint8(n) => n.into(),
            Value::Int8(n) => n.into(),
            Value::Uint16(n) => n.into(),
            Value::Int16(n) => n.into(),
            Value::Uint32(n) => n.into(),
            Value::Int32(n) => n.into(),
            Value::Uint64(n) => return i64::try_from(n).ok(),
            Value::Int64(n) => n,
            _ => return None,
        })
    }

    /// A float, or an integer as one.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::Float32(x) => Some(x.into()),
            Value::Float64(x) => Some(x),
            Value::Uint64(n) => Some(n as f64),
            _ => self.as_i64().map(|n| n as f64),
        }
    }

    /// A boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    /// A string's bytes.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        match *self {
            Value::String(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// A copy of a string that is UTF-8.
    pub fn to_text(&self) -> Option<String> {
        String::from_utf8(self.as_bytes()?.to_vec()).ok()
    }

    /// An array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// The plain value. Arrays of more than `longest` elements are described (`32000 string values`), not copied;
    /// invalid UTF-8 is replaced.
    pub fn to_plain(&self, longest: usize) -> Plain {
        match *self {
            Value::Bool(b) => Plain::Bool(b),
            Value::Float32(x) => Plain::F64(x.into()),
            Value::Float64(x) => Plain::F64(x),
            Value::String(bytes) => Plain::String(text(bytes)),
            Value::Array(array) if array.len() > longest => {
                Plain::String(format!("{} {} values", array.len(), array.element_type().name()))
            }
            Value::Array(array) => Plain::List(array.iter().map(|v| v.to_plain(longest)).collect()),
            Value::Uint64(n) => i64::try_from(n).map_or_else(|_| Plain::Int(n.into()), Plain::I64),
            ref integer => integer.as_i64().map_or(Plain::None, Plain::I64),
        }
    }
}

/// An array of values of one type, checked to lie within the file.
#[derive(Clone, Copy, PartialEq)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    bytes: &'a [u8],
    big_endian: bool,
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}; {}]", self.element.name(), self.len)
    }
}

impl<'a> Array<'a> {
    /// The type of its elements.
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes, self.bytes.len() as u64, self.big_endian);
        let element = self.element;
        (0..self.len).map_while(move |_| cursor.value(element, 0).ok())
    }
}

/// Reads forward through the bytes of a file, never past their end.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes that there are, of which `bytes` may be the first alone.
    len: u64,
    pub big_endian: bool,
    /// Set when it ends for want of those that were not given.
    pub short: Option<Short>,
}

impl<'a> Cursor<'a> {
    /// At the first of `len` bytes, of which `bytes` were given.
    pub fn new(bytes: &'a [u8], len: u64, big_endian: bool) -> Self {
        Cursor { bytes, at: 0, len, big_endian, short: None }
    }

    pub fn position(&self) -> u64 {
        self.at as u64
    }

    /// The damage `what`, at the cursor.
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::damaged(what).at(self.at as u64)
    }

    fn left(&self) -> u64 {
        self.len - self.at as u64
    }

    pub fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        if len > (self.bytes.len() - self.at) as u64 {
            if len <= self.left() {
                self.short = Some(Short(self.at as u64 + len));
            }
            return Err(self
                .error(format!("{len} bytes are announced and {} are left", self.left()))
                .because(DamageKind::CutShort));
        }
        let bytes = &self.bytes[self.at..self.at + len as usize];
        self.at += bytes.len();
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes: [u8; N] = self.take(N as u64)?.try_into().expect("as many as asked for");
        if self.big_endian {
            bytes.reverse();
        }
        Ok(bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn string(&mut self) -> Result<&'a [u8]> {
        let len = self.u64()?;
        self.take(len)
    }

    pub fn value_type(&mut self) -> Result<ValueType> {
        let number = self.u32()?;
        ValueType::from_number(number).ok_or_else(|| {
            self.error(format!("{number} is no type of value")).because(DamageKind::UnknownType)
        })
    }

    pub fn value(&mut self, kind: ValueType, depth: usize) -> Result<Value<'a>> {
        Ok(match kind {
            ValueType::Uint8 => Value::Uint8(self.array::<1>()?[0]),
            ValueType::Int8 => Value::Int8(self.array().map(i8::from_le_bytes)?),
            ValueType::Uint16 => Value::Uint16(self.array().map(u16::from_le_bytes)?),
            ValueType::Int16 => Value::Int16(self.array().map(i16::from_le_bytes)?),
            ValueType::Uint32 => Value::Uint32(self.u32()?),
            ValueType::Int32 => Value::Int32(self.array().map(i32::from_le_bytes)?),
            ValueType::Float32 => Value::Float32(self.array().map(f32::from_le_bytes)?),
            ValueType::Bool => Value::Bool(self.array::<1>()?[0] != 0),
            ValueType::String => Value::String(self.string()?),
            ValueType::Array => Value::Array(self.values(depth)?),
            ValueType::Uint64 => Value::Uint64(self.u64()?),
            ValueType::Int64 => Value::Int64(self.array().map(i64::from_le_bytes)?),
            ValueType::Float64 => Value::Float64(self.array().map(f64::from_le_bytes)?),
        })
    }

    /// An array, walked once so that its end is known and all its lengths are true.
    fn values(&mut self, depth: usize) -> Result<Array<'a>> {
        if depth >= DEEPEST_ARRAY {
            return Err(self
                .error(format!("arrays are nested more than {DEEPEST_ARRAY} deep"))
                .because(DamageKind::Inconsistent));
        }
        let element = self.value_type()?;
        let len = self.u64()?;
        if len.checked_mul(element.least()).is_none_or(|least| least > self.left()) {
            let name = element.name();
            return Err(self
                .error(format!("{len} {name} values are announced and {} bytes are left", self.left()))
                .because(DamageKind::CutShort));
        }
        let start = self.at;
        match (element, element.size()) {
            (_, Some(size)) => {
                self.take(len * size as u64)?;
            }
            (ValueType::String, None) => {
                for _ in 0..len {
                    self.string()?;
                }
            }
            (_, None) => {
                for _ in 0..len {
                    self.values(depth + 1)?;
                }
            }
        }
        let bytes = &self.bytes[start..self.at];
        Ok(Array { element, len: len as usize, bytes, big_endian: self.big_endian })
    }
}
