//! GGUF files, of either byte order, valid or wrong in a chosen way.

use crate::numbers::Number;
use crate::random::Random;
use crate::tensor::Tensor;

/// Numbers that a file gives to the types of its keys' values.
#[allow(missing_docs)]
pub mod kind {
    pub const UINT8: u32 = 0;
    pub const UINT16: u32 = 2;
    pub const UINT32: u32 = 4;
    pub const INT32: u32 = 5;
    pub const FLOAT32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const UINT64: u32 = 10;
}

/// The number of GGML's float32.
pub const F32: u32 = 0;

/// `count` blocks of `size` bytes of the type that GGML numbers `ggml`, which decode to finite numbers of moderate size:
/// bytes that are small as exponents of f16, and as those of E4M3.
pub fn blocks(ggml: u32, size: usize, count: usize, random: &mut Random) -> Vec<u8> {
    const MXFP4: u32 = 39;
    const Q8_K: u32 = 15;
    const TQ2_0: u32 = 35;
    let byte = |i: usize, random: &mut Random| match (ggml, i % size) {
        (MXFP4, 0) => 120,
        (Q8_K, 3) => 0x3c,
        // Four codes, of which each is 0 to 2.
        (TQ2_0, 0..64) => (0..4).fold(0, |codes, _| codes << 2 | random.below(3) as u8),
        _ => random.below(0x30) as u8,
    };
    (0..size * count).map(|i| byte(i, random)).collect()
}

/// A file to be written.
#[derive(Clone, Default)]
pub struct Gguf {
    /// The byte order; little-endian unless set.
    pub big_endian: bool,
    /// 3 unless set.
    pub version: Option<u32>,
    /// How many tensors and keys the header claims, if not as many as there are.
    pub counts: Option<[u64; 2]>,
    /// Name, type and encoded value of every key.
    pub keys: Vec<(String, u32, Vec<u8>)>,
    /// The tensors, in order.
    pub tensors: Vec<Entry>,
}

/// A tensor of the file.
#[derive(Clone)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its dimensions as in the file: the length of a row first.
    pub sizes: Vec<u64>,
    /// GGML's number of its type.
    pub ggml: u32,
    /// The offset within the data that the header claims, if not the real one.
    pub offset: Option<u64>,
    /// Its bytes.
    pub data: Vec<u8>,
}

impl Gguf {
    /// A little-endian file of version 3 with nothing in it.
    pub fn new() -> Self {
        Gguf::default()
    }

    /// The same, big-endian.
    pub fn big_endian() -> Self {
        Gguf { big_endian: true, ..Gguf::default() }
    }

    /// `number` in the file's byte order.
    pub fn number(&self, number: impl Number) -> Vec<u8> {
        let mut bytes = number.low_first();
        if self.big_endian {
            bytes.reverse();
        }
        bytes
    }

    /// `text` with its length before it.
    pub fn string(&self, text: impl AsRef<[u8]>) -> Vec<u8> {
        [&self.number(text.as_ref().len() as u64), text.as_ref()].concat()
    }

    /// The value of an array of `len` encoded `elements`.
    pub fn array(&self, kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
        [&self.number(kind)[..], &self.number(len), elements].concat()
    }

    /// The value of an array of strings.
    pub fn strings(&self, all: &[&str]) -> Vec<u8> {
        let elements: Vec<u8> = all.iter().flat_map(|text| self.string(text)).collect();
        self.array(kind::STRING, all.len() as u64, &elements)
    }

    /// Adds a key of an encoded value.
    pub fn key(mut self, name: &str, kind: u32, value: Vec<u8>) -> Self {
        self.keys.push((name.into(), kind, value));
        self
    }

    /// Adds a key.
    pub fn key_u32(self, name: &str, number: u32) -> Self {
        let value = self.number(number);
        self.key(name, kind::UINT32, value)
    }

    /// Adds a key.
    pub fn key_text(self, name: &str, text: &str) -> Self {
        let value = self.string(text);
        self.key(name, kind::STRING, value)
    }

    /// Adds a tensor of the type that GGML numbers `ggml`; `sizes` as in the file.
    pub fn tensor(mut self, name: &str, sizes: &[u64], ggml: u32, data: Vec<u8>) -> Self {
        self.tensors.push(Entry { name: name.into(), sizes: sizes.to_vec(), ggml, offset: None, data });
        self
    }

    /// Adds a tensor of float32: 0, 1, 2 …
    pub fn f32s(self, name: &str, sizes: &[u64]) -> Self {
        let values = (0..sizes.iter().product()).flat_map(|i: u64| self.number(i as f32)).collect();
        self.tensor(name, sizes, F32, values)
    }

    /// Adds `tensors`.
    pub fn of(self, tensors: &[Tensor]) -> Self {
        tensors.iter().fold(self, |file, tensor| {
            let sizes: Vec<u64> = tensor.shape.iter().rev().map(|&n| n as u64).collect();
            let data = tensor.values.iter().flat_map(|&value| file.number(value)).collect();
            file.tensor(&tensor.name, &sizes, F32, data)
        })
    }

    /// Says that the last tensor is at `offset` within the data, and leaves its own data out.
    pub fn moved(mut self, offset: u64) -> Self {
        let last = self.tensors.last_mut().unwrap();
        last.offset = Some(offset);
        last.data.clear();
        self
    }

    /// The file, its tensors at multiples of 32 bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.number(self.version.unwrap_or(3)));
        let [tensors, keys] = self.counts.unwrap_or([self.tensors.len(), self.keys.len()].map(|n| n as u64));
        bytes.extend([self.number(tensors), self.number(keys)].concat());
        for (name, kind, value) in &self.keys {
            bytes.extend([self.string(name), self.number(*kind), value.clone()].concat());
        }
        let mut data: Vec<u8> = Vec::new();
        for entry in &self.tensors {
            bytes.extend(self.string(&entry.name));
            bytes.extend(self.number(entry.sizes.len() as u32));
            entry.sizes.iter().for_each(|&n| bytes.extend(self.number(n)));
            bytes.extend(self.number(entry.ggml));
            bytes.extend(self.number(entry.offset.unwrap_or(data.len() as u64)));
            data.extend(&entry.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        if !self.tensors.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
        }
        [bytes, data].concat()
    }
}
