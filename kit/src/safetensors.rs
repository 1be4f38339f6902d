//! SafeTensors files.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::numbers::le;
use crate::tensor::Tensor;

/// A file to be written: tensors one after another, in the order in which they are added.
#[derive(Clone, Default)]
pub struct SafeTensors {
    header: Map<String, Value>,
    data: Vec<u8>,
    end: usize,
}

impl SafeTensors {
    /// One without tensors.
    pub fn new() -> Self {
        SafeTensors::default()
    }

    /// One of float32 tensors.
    pub fn of(tensors: &[Tensor]) -> Self {
        tensors.iter().fold(SafeTensors::new(), |file, t| file.f32s(&t.name, &t.shape, &t.values))
    }

    /// What `__metadata__` says.
    pub fn metadata(mut self, metadata: Value) -> Self {
        self.header.insert("__metadata__".into(), metadata);
        self
    }

    /// `bytes` as a tensor; `dtype` as the file says it, such as `BF16`. They are as many as it needs: a file that lies is
    /// made by [`raw`].
    pub fn tensor(mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) -> Self {
        let digits = dtype.trim_start_matches(|c: char| !c.is_ascii_digit()).split('_').next();
        let bits: usize = digits.and_then(|digits| digits.parse().ok()).unwrap_or(8);
        assert_eq!(8 * bytes.len(), bits * shape.iter().product::<usize>(), "{name}: {dtype} {shape:?}");
        self.data.extend_from_slice(bytes);
        self.entry(name, dtype, shape, bytes.len());
        self
    }

    /// A tensor of float32.
    pub fn f32s(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.tensor(name, "F32", shape, &le(values))
    }

    /// A tensor of float32 zeros that takes no room: for [`SafeTensors::write_holes`].
    pub fn hole(mut self, name: &str, shape: &[usize]) -> Self {
        self.entry(name, "F32", shape, 4 * shape.iter().product::<usize>());
        self
    }

    fn entry(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: usize) {
        let start = self.end;
        self.end += bytes;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, self.end]});
        assert!(self.header.insert(name.into(), entry).is_none(), "{name} comes twice");
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        raw(&Value::from(self.header.clone()).to_string(), &self.data)
    }

    /// Writes it to `path`.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }

    /// Writes it to `path`, where the data is a hole of the file system: as large as is asked for, on no disk space.
    pub fn write_holes(&self, path: &Path) {
        let header = raw(&Value::from(self.header.clone()).to_string(), &[]);
        let mut file = std::fs::File::create(path).unwrap();
        file.write_all(&header).unwrap();
        file.set_len((header.len() + self.end) as u64).unwrap();
    }
}

/// A file whose header is the text `header`, whatever it says of `data`.
pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}
