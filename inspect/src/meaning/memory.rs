//! A checkpoint of tensors that a program has in memory.

use std::path::PathBuf;
use std::sync::Arc;

use crate::bytes::{SharedBytes, Source};
use crate::format::Contents;
use crate::layout::{Set, Whole};
use crate::meaning::open;
use crate::metadata::{self, HashableValue, Value};
use crate::storage::Storage;
use crate::tensor::TensorInfo;
use crate::{Checkpoint, DType, Damage, DamageKind, Format, OpenOptions};

/// Tensors in memory, which become a checkpoint without being written or copied: a model that is being trained is
/// measured and judged as if it had been saved.
///
/// ```
/// use ckpt_inspect::{DType, Memory, Options, Verdict};
///
/// let mut memory = Memory::new("step 1000");
/// let floats = |values: Vec<f32>| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
/// let zeros = memory.storage(floats(vec![0.0; 64 * 64]));
/// memory.tensor("layers.0.mlp.up_proj.weight", DType::F32, vec![64, 64], &zeros);
///
/// let checkpoint = memory.open();
/// let mut record = ckpt_inspect::describe(&checkpoint, Options::default(), &|_| ());
/// ckpt_inspect::judge(&mut record, &Default::default());
/// assert_eq!(record.verdict, Some(Verdict::Dead));
/// ```
#[derive(Debug)]
pub struct Memory {
    name: PathBuf,
    contents: Contents,
    files: Vec<Arc<Source>>,
    config: Option<Value>,
}

impl Memory {
    /// No tensors yet, of what is called `name` in messages and in place of a path.
    pub fn new(name: impl Into<PathBuf>) -> Self {
        let contents = Contents::new(Format::Memory);
        Memory { name: name.into(), contents, files: Vec::new(), config: None }
    }

    /// A run of bytes for tensors to lie on: contiguous little-endian elements, of which several tensors may be views.
    ///
    /// Another thread may change them while they are read, as training does. What is measured is then of no one moment,
    /// and nothing worse: only bytes are borrowed.
    pub fn storage(&mut self, bytes: impl Into<SharedBytes>) -> Storage {
        let source = Source::in_memory(&self.name, bytes.into());
        let storage = Storage::mapped(&source, 0, source.len());
        self.files.push(source);
        storage
    }

    /// Adds the tensor that fills `storage` from its beginning, row-major. One that does not fit is damaged.
    pub fn tensor(&mut self, name: impl Into<String>, dtype: DType, shape: Vec<usize>, storage: &Storage) {
        let storage = Some(storage.clone());
        self.contents.tensors.push(TensorInfo::contiguous(name.into(), dtype, shape, storage, 0));
    }

    /// Adds a tensor whose elements are `strides` apart, in elements, from byte `offset` of `storage` on. One that
    /// does not fit is damaged.
    pub fn view(
        &mut self,
        name: impl Into<String>,
        dtype: DType,
        (shape, strides): (Vec<usize>, Vec<usize>),
        (storage, offset): (&Storage, u64),
    ) {
        let storage = Some(storage.clone());
        let mut tensor = TensorInfo::contiguous(name.into(), dtype, shape, storage, offset);
        match strides.len() == tensor.shape.len() {
            true => tensor.strides = strides,
            false => {
                let what = format!("has {} dimensions and {} strides", tensor.shape.len(), strides.len());
                tensor.damage = Some(Damage::new(DamageKind::Shape, what));
            }
        }
        self.contents.tensors.push(tensor);
    }

    /// Adds a plain value beside the tensors, such as `step`.
    pub fn value(&mut self, key: impl Into<String>, value: serde_json::Value) {
        if let Value::Dict(all) = &mut self.contents.metadata {
            all.insert(HashableValue::String(key.into()), metadata::from_json(value));
        }
    }

    /// Says what the model's `config.json` would, as Hugging Face has it.
    pub fn config(&mut self, config: serde_json::Value) {
        self.config = Some(metadata::from_json(config));
    }

    /// The checkpoint that they are.
    pub fn open(self) -> Checkpoint {
        let set = Set { config: self.config, ..Set::default() };
        let whole = Whole { contents: self.contents, files: self.files, unread: Vec::new() };
        open::completed(&self.name, whole, &set, &OpenOptions::default())
    }
}
