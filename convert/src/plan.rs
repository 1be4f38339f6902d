//! What will be written: every output tensor with its name, type and shape, and the blobs of bytes that contain them,
//! whose sizes are known before the first one is written.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use ckpt_inspect::gguf::Keys;
use ckpt_inspect::metadata::Value;
use ckpt_inspect::{Checkpoint, DType, TensorInfo, TernaryPacking, contiguous_strides};
use globset::GlobMatcher;

use crate::encode::Rotary;
use crate::names::Style;
use crate::quant::Quant;
use crate::target::Target;
use crate::ternary::Grid;
use crate::{Note, Result};

/// What to write, and how tensors are stored in it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The container and packing.
    pub target: Target,
    /// Type of all floating-point weights; by default their own. Packed and quantized ones become float32.
    pub dtype: Option<DType>,
    /// Types of the weights that a pattern matches, by the names in the output; the first match applies.
    pub dtypes: Vec<(GlobMatcher, DType)>,
    /// The key of the state dict to convert, such as `ema_state_dict`.
    pub root: Option<String>,
    /// Whether to keep optimizer state, schedulers and random states. PyTorch output only.
    pub keep_optimizer: bool,
    /// Naming; by default the target's own.
    pub names: Option<Style>,
    /// Whether tensors keep the source's names where the target's own naming could be left out: not in GGUF, and not where matrices are
    /// packed.
    pub own_names: bool,
    /// The matrices to pack, by the names in the output; by default those of BitLinear layers.
    pub ternary: Option<GlobMatcher>,
    /// SafeTensors and GGUF: begin a new file beyond this many bytes of tensors.
    pub max_shard_bytes: Option<u64>,
    /// GGUF: the tokenizer to embed, see [`ckpt_inspect::vocabulary::Vocabulary::read`]; by default the one in the
    /// source or next to it.
    pub tokenizer: Option<PathBuf>,
    /// Whether quantized weights are written as they are stored, with what says how: for a source that was opened so
    /// ([`OpenOptions::stored`](ckpt_inspect::OpenOptions::stored)), in types that the target holds. In GGUF their codes and
    /// scales are kept in its own blocks, for a source that was not opened so.
    pub keep_quantized: bool,
    /// Whether what the target cannot keep as it is stored is decoded, rather than refused: what saves a damaged file.
    pub decode_the_rest: bool,
    /// Whether a model that lacks tensors is written all the same, with a note.
    pub allow_incomplete: bool,
    /// Whether to replace an existing output.
    pub force: bool,
}

impl Options {
    /// Options that write everything unchanged to `target`.
    pub fn new(target: Target) -> Self {
        Options {
            target,
            dtype: None,
            dtypes: Vec::new(),
            root: None,
            keep_optimizer: false,
            names: None,
            own_names: false,
            ternary: None,
            max_shard_bytes: None,
            tokenizer: None,
            keep_quantized: false,
            decode_the_rest: false,
            allow_incomplete: false,
            force: false,
        }
    }

    /// These options, with what `change` changes: `Options::new(target).with(|o| o.force = true)`.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// A run of bytes of the output.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Blob<'c> {
    /// Its element type as stored: `U8` for packed codes.
    pub dtype: DType,
    /// Its length.
    pub bytes: u64,
    /// Where the bytes come from.
    pub content: Content<'c>,
}

impl<'c> Blob<'c> {
    /// `bytes` bytes of this type.
    pub fn new(dtype: DType, bytes: u64, content: Content<'c>) -> Self {
        Blob { dtype, bytes, content }
    }
}

/// Where the bytes of a blob come from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Content<'c> {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A source tensor's elements, converted to the blob's type.
    Elements(Elements<'c>),
    /// The ternary codes of a source matrix, packed.
    Codes {
        /// The matrix.
        elements: Elements<'c>,
        /// The bits.
        packing: TernaryPacking,
        /// How values become codes.
        grid: Grid,
    },
    /// A source tensor's elements in GGML's blocks.
    Blocks {
        /// The tensor.
        elements: Elements<'c>,
        /// The blocks' type.
        quant: Quant,
        /// Whether the scale of ternary blocks is 1, and the matrix's own is a separate tensor.
        unit_scale: bool,
    },
    /// The codes and scales of a quantized source tensor, in the blocks of GGML that hold them.
    Repacked(Elements<'c>),
}

/// A tensor that is read: one of the source, or one that was made of such.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Held<'c> {
    /// The source's own.
    Own(&'c TensorInfo),
    /// A part of one, a run of a storage, or several together.
    Made(Arc<TensorInfo>),
}

impl Deref for Held<'_> {
    type Target = TensorInfo;

    fn deref(&self) -> &TensorInfo {
        match self {
            Held::Own(tensor) => tensor,
            Held::Made(tensor) => tensor,
        }
    }
}

impl<'c> From<&'c TensorInfo> for Held<'c> {
    fn from(tensor: &'c TensorInfo) -> Self {
        Held::Own(tensor)
    }
}

impl From<TensorInfo> for Held<'_> {
    fn from(tensor: TensorInfo) -> Self {
        Held::Made(Arc::new(tensor))
    }
}

/// Elements of the source in the order in which they are written.
#[derive(Clone, Debug)]
pub struct Elements<'c> {
    /// The tensor, or a run of the storage that several tensors share.
    pub tensor: Held<'c>,
    /// Set if the rows are put in another order.
    pub rotary: Option<Rotary>,
    /// Set if matrices of so many rows and columns are transposed.
    pub transposed: Option<(usize, usize)>,
    /// Added to each: 0 if they stay as they are.
    pub shift: f32,
    /// Set if the ternary form of the values is written.
    pub grid: Option<Grid>,
    dense: Option<Box<TensorInfo>>,
}

impl<'c> Elements<'c> {
    /// The elements of `tensor`.
    pub fn new(tensor: impl Into<Held<'c>>, rotary: Option<Rotary>) -> Self {
        let tensor = tensor.into();
        let dense = tensor.sparse.is_some().then(|| {
            let mut dense = TensorInfo::clone(&tensor);
            (dense.sparse, dense.strides) = (None, contiguous_strides(&tensor.shape));
            Box::new(dense)
        });
        Elements { tensor, rotary, transposed: None, shift: 0.0, grid: None, dense }
    }

    /// The same, ternary codes without their scale: what is read of them are -1, 0 and 1.
    pub(crate) fn unscaled(mut self) -> Self {
        if matches!(self.tensor.dtype, DType::Ternary(_)) {
            let mut tensor = TensorInfo::clone(&self.tensor);
            tensor.scale = Some(1.0);
            self.tensor = tensor.into();
        }
        self
    }

    /// The same with `shift` added to each.
    pub(crate) fn shifted(mut self, shift: f32) -> Self {
        self.shift = shift;
        self
    }

    /// The same with matrices of so many rows and columns transposed.
    pub(crate) fn transposed(mut self, matrix: Option<(usize, usize)>) -> Self {
        self.transposed = matrix;
        self
    }

    /// The shape of what is written.
    pub(crate) fn shape(&self) -> Vec<usize> {
        let mut shape = self.tensor.shape.clone();
        if let (Some((rows, cols)), [.., a, b]) = (self.transposed, shape.as_mut_slice()) {
            (*a, *b) = (cols, rows);
        }
        shape
    }

    /// Whether they are the tensor's own in its own order.
    pub(crate) fn is_source(&self) -> bool {
        self.rotary.is_none() && self.transposed.is_none() && self.grid.is_none() && self.shift == 0.0
    }

    /// The tensor, made dense if it is sparse.
    pub fn dense(&self) -> &TensorInfo {
        self.dense.as_deref().unwrap_or(&self.tensor)
    }
}

/// A tensor of the output.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// Its full name there.
    pub name: String,
    /// Element type as stored.
    pub dtype: DType,
    /// Shape as stored.
    pub shape: Vec<usize>,
    /// Strides on the blob, in elements.
    pub strides: Vec<usize>,
    /// Index of the blob.
    pub blob: usize,
    /// First byte on the blob.
    pub offset: u64,
}

impl Output {
    /// A contiguous tensor from the first byte of a blob on.
    pub fn new(name: impl Into<String>, dtype: DType, shape: Vec<usize>, blob: usize) -> Self {
        Output { name: name.into(), dtype, strides: contiguous_strides(&shape), shape, blob, offset: 0 }
    }
}

/// A source tensor and the name of its copy in the output.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pair<'c> {
    /// The source tensor's elements in the output's order.
    pub elements: Elements<'c>,
    /// The output tensor.
    pub name: String,
}

/// Everything that a writer needs, and notes for the user.
#[derive(Debug)]
#[non_exhaustive]
pub struct Plan<'c> {
    /// The source of elements.
    pub source: &'c Checkpoint,
    /// The target.
    pub target: Target,
    /// The bytes.
    pub blobs: Vec<Blob<'c>>,
    /// The tensors on them, in source order.
    pub tensors: Vec<Output>,
    /// Names left out because the tensor is the same as another, with the name of the other.
    pub tied: Vec<(String, String)>,
    /// Plain values to keep, by key.
    pub metadata: Value,
    /// What verification compares.
    pub pairs: Vec<Pair<'c>>,
    /// What the output loses, and what else the user should know.
    pub notes: Vec<Note>,
    /// Whether quantized weights are written as they are stored.
    pub(crate) keeps: bool,
    /// The keys of a GGUF file, if they are not those of the source's model.
    pub(crate) keys: Option<Keys>,
}

impl<'c> Plan<'c> {
    /// Plans the conversion of `source`.
    ///
    /// # Errors
    /// `Read` if tensors are damaged, `Target` if the target cannot hold what was requested.
    pub fn new(source: &'c Checkpoint, options: &Options) -> Result<Self> {
        crate::build::plan(source, options)
    }

    /// Bytes of all blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|b| b.bytes).sum()
    }
}
