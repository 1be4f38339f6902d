//! Everything before a GGUF file's data, written: version 3, little-endian. The layout is described at
//! [`crate::gguf`].

use super::value::Cursor;
use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, VERSION, Value, ValueType, padded};
use crate::ggml::GgmlType;

/// A Rust value that a key can have.
pub trait Encode {
    /// Its type in the file.
    const TYPE: ValueType;
    /// Appends it.
    fn encode(&self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($rust:ty: $type:ident;)*) => {$(
        impl Encode for $rust {
            const TYPE: ValueType = ValueType::$type;
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
        }
    )*};
}

numbers! {
    u8: Uint8;
    i8: Int8;
    u16: Uint16;
    i16: Int16;
    u32: Uint32;
    i32: Int32;
    f32: Float32;
    u64: Uint64;
    i64: Int64;
    f64: Float64;
}

impl Encode for bool {
    const TYPE: ValueType = ValueType::Bool;
    fn encode(&self, out: &mut Vec<u8>) {
        out.push((*self).into());
    }
}

/// A string's bytes, which should be UTF-8.
impl Encode for [u8] {
    const TYPE: ValueType = ValueType::String;
    fn encode(&self, out: &mut Vec<u8>) {
        (self.len() as u64).encode(out);
        out.extend(self);
    }
}

impl Encode for str {
    const TYPE: ValueType = ValueType::String;
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_bytes().encode(out);
    }
}

impl<T: Encode + ?Sized> Encode for &T {
    const TYPE: ValueType = T::TYPE;
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

/// Keys and their values, in the order they were first set.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<(String, Vec<u8>)>);

impl Keys {
    /// Sets `key`, in the place of an earlier value if there is one.
    pub fn set<T: Encode + ?Sized>(&mut self, key: &str, value: &T) {
        let mut bytes = Vec::new();
        (T::TYPE as u32).encode(&mut bytes);
        value.encode(&mut bytes);
        self.put(key, bytes);
    }

    /// Sets `key` to an array.
    pub fn set_array<T: Encode>(&mut self, key: &str, values: impl ExactSizeIterator<Item = T>) {
        let mut bytes = Vec::new();
        (ValueType::Array as u32).encode(&mut bytes);
        (T::TYPE as u32).encode(&mut bytes);
        (values.len() as u64).encode(&mut bytes);
        values.for_each(|value| value.encode(&mut bytes));
        self.put(key, bytes);
    }

    /// Sets `key` to a value of another file, whose byte order may differ.
    pub fn copy(&mut self, key: &str, value: &Value<'_>) {
        let mut bytes = Vec::new();
        (value.value_type() as u32).encode(&mut bytes);
        encode_value(value, &mut bytes);
        self.put(key, bytes);
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let (_, bytes) = self.0.iter().find(|(name, _)| name == key)?;
        let mut cursor = Cursor::new(bytes, bytes.len() as u64, false);
        let kind = cursor.value_type().ok()?;
        cursor.value(kind, 0).ok()
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(name, _)| name != key);
    }

    /// Whether `key` is set.
    pub fn contains(&self, key: &str) -> bool {
        self.0.iter().any(|(name, _)| name == key)
    }

    /// Adds the keys of `other`, which win over those set before.
    pub fn extend(&mut self, other: Keys) {
        other.0.into_iter().for_each(|(key, bytes)| self.put(&key, bytes));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn put(&mut self, key: &str, bytes: Vec<u8>) {
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = bytes,
            None => self.0.push((key.to_string(), bytes)),
        }
    }
}

fn encode_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match *value {
        Value::Uint8(n) => n.encode(out),
        Value::Int8(n) => n.encode(out),
        Value::Uint16(n) => n.encode(out),
        Value::Int16(n) => n.encode(out),
        Value::Uint32(n) => n.encode(out),
        Value::Int32(n) => n.encode(out),
        Value::Float32(x) => x.encode(out),
        Value::Bool(b) => b.encode(out),
        Value::String(bytes) => bytes.encode(out),
        Value::Array(array) => encode_array(&array, out),
        Value::Uint64(n) => n.encode(out),
        Value::Int64(n) => n.encode(out),
        Value::Float64(x) => x.encode(out),
    }
}

fn encode_array(array: &Array<'_>, out: &mut Vec<u8>) {
    (array.element_type() as u32).encode(out);
    (array.len() as u64).encode(out);
    array.iter().for_each(|value| encode_value(&value, out));
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ggml: GgmlType,
    /// Row-major shape, of at most [`MAX_DIMS`] dimensions; the file has it reversed.
    pub shape: Vec<usize>,
}

impl Entry {
    /// A tensor of `name`, of this type and row-major shape.
    pub fn new(name: impl Into<String>, ggml: GgmlType, shape: impl Into<Vec<usize>>) -> Self {
        Entry { name: name.into(), ggml, shape: shape.into() }
    }
}

/// A file's header and where its tensors go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layout {
    /// Everything before the data, padded.
    pub header: Vec<u8>,
    /// First byte of each tensor in the file.
    pub offsets: Vec<u64>,
    /// Bytes of the whole file; the last tensor is padded too.
    pub len: u64,
}

impl Layout {
    /// Lays out a file of `tensors`, in their order, at the default alignment. An alignment among `keys` is overruled.
    /// `None` where a tensor has too many dimensions, an unknown size, rows that its blocks do not fill, or the whole
    /// overflows.
    pub fn new(keys: &Keys, tensors: &[Entry]) -> Option<Layout> {
        let keys: Vec<_> = keys.0.iter().filter(|(key, _)| key != ALIGNMENT_KEY).collect();
        let mut header = MAGIC.to_vec();
        VERSION.encode(&mut header);
        (tensors.len() as u64).encode(&mut header);
        (keys.len() as u64).encode(&mut header);
        for (key, value) in keys {
            key.as_str().encode(&mut header);
            header.extend(value);
        }
        let (mut offsets, mut end) = (Vec::with_capacity(tensors.len()), 0u64);
        for tensor in tensors {
            if tensor.shape.len() > MAX_DIMS {
                return None;
            }
            tensor.name.as_str().encode(&mut header);
            // GGML's own files give a single number one dimension.
            let sizes: &[usize] = if tensor.shape.is_empty() { &[1] } else { &tensor.shape };
            (sizes.len() as u32).encode(&mut header);
            sizes.iter().rev().for_each(|&size| (size as u64).encode(&mut header));
            tensor.ggml.0.encode(&mut header);
            end.encode(&mut header);
            offsets.push(end);
            end = padded(end.checked_add(tensor.ggml.bytes_for(&tensor.shape)?)?, DEFAULT_ALIGNMENT)?;
        }
        let data = padded(header.len() as u64, DEFAULT_ALIGNMENT)?;
        header.resize(data as usize, 0);
        offsets.iter_mut().for_each(|offset| *offset += data);
        Some(Layout { header, offsets, len: data.checked_add(end)? })
    }
}
