//! What is known of one tensor before any of its bytes are looked at.

use crate::record::Group;
use crate::{DType, Error, Result};

/// A tensor of a checkpoint: how its elements are laid out on a storage.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Path in the object, keys and indices joined by dots.
    pub name: String,
    /// Element type or packing.
    pub dtype: DType,
    /// Logical shape; for packed types that of the matrix they stand for.
    pub shape: Vec<usize>,
    /// Strides in elements (row-major ones for packed types).
    pub strides: Vec<usize>,
    /// First byte on the storage.
    pub byte_offset: u64,
    /// Index of the storage, `None` for tensors saved without one (meta tensors, sparse tensors).
    pub storage: Option<usize>,
    /// What the tensor is for.
    pub group: Group,
    /// Whether it is a parameter that gradients reach.
    pub requires_grad: bool,
    /// For ternary packings with one scale: what the codes -1, 0, +1 are multiplied by. For GGML's blocks: what their
    /// elements are multiplied by besides, when a tensor beside them says so.
    pub scale: Option<f32>,
    /// How a quantized integer becomes a real number.
    pub quantizer: Option<Quantizer>,
    /// Coordinates and values of a sparse tensor.
    pub sparse: Option<Box<Sparse>>,
    /// Why its bytes cannot be read, when they cannot.
    pub damage: Option<String>,
}

/// The affine map (q - zero_point) * scale of PyTorch's quantized tensors.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Quantizer {
    PerTensor { scale: f64, zero_point: i64 },
    PerChannel { scales: Box<TensorInfo>, zero_points: Box<TensorInfo>, axis: usize },
}

/// The parts of a sparse tensor; elements not listed are zero.
#[derive(Clone, Debug)]
pub struct Sparse {
    /// PyTorch's name of the layout, such as `torch.sparse_coo`.
    pub layout: String,
    /// Index tensors: one of `[dimensions, nnz]` for COO; compressed and plain indices for CSR and its kin.
    pub indices: Vec<TensorInfo>,
    /// The listed elements.
    pub values: TensorInfo,
}

/// Row-major strides of `shape`, in elements.
pub fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i].max(1));
    }
    strides
}

impl TensorInfo {
    /// A contiguous tensor at `byte_offset` of `storage`, group still to be told.
    pub(crate) fn contiguous(
        name: String,
        dtype: DType,
        shape: Vec<usize>,
        storage: usize,
        byte_offset: u64,
    ) -> Self {
        let strides = contiguous_strides(&shape);
        TensorInfo {
            name,
            dtype,
            shape,
            strides,
            byte_offset,
            storage: Some(storage),
            group: Group::Other,
            requires_grad: false,
            scale: None,
            quantizer: None,
            sparse: None,
            damage: None,
        }
    }

    /// Number of elements. Readers refuse shapes whose product overflows, so this saturates only for a tensor that
    /// is already marked damaged.
    pub fn numel(&self) -> u64 {
        numel(&self.shape).unwrap_or(u64::MAX)
    }

    /// Bytes that its elements take when contiguous; `None` when that overflows or blocks do not fit.
    pub fn byte_len(&self) -> Option<u64> {
        self.dtype.bytes_for(&self.shape)
    }

    /// Whether elements lie row-major without gaps (dimensions of one element may have any stride).
    pub fn is_contiguous(&self) -> bool {
        if self.numel() == 0 {
            return true;
        }
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected = expected.saturating_mul(size);
            fits
        })
    }

    /// Elements between the first and the last one, both counted; 0 when empty.
    pub fn span(&self) -> Option<u64> {
        if self.numel() == 0 {
            return Some(0);
        }
        let reach = self.shape.iter().zip(&self.strides).try_fold(0u64, |reach, (&size, &stride)| {
            reach.checked_add((size as u64 - 1).checked_mul(stride as u64)?)
        })?;
        reach.checked_add(1)
    }

    /// Checks that the tensor lies within a storage of `available` bytes.
    pub(crate) fn check_bounds(&self, available: u64) -> Result<()> {
        let bytes = match self.dtype.element_size() {
            Some(size) => self.span().and_then(|n| n.checked_mul(size as u64)),
            None => self.byte_len(),
        };
        let end = bytes.and_then(|b| b.checked_add(self.byte_offset));
        match end {
            Some(end) if end <= available || bytes == Some(0) => Ok(()),
            Some(end) => Err(Error::damaged(format!("reaches byte {end} of a storage that has {available}"))),
            None => Err(Error::damaged("has a shape whose size overflows, or that its blocks do not fill")),
        }
    }

    /// Moves the indices of its storages, and of its parts, up by `by`.
    pub(crate) fn shift_storages(&mut self, by: usize) {
        self.storage = self.storage.map(|s| s + by);
        if let Some(sparse) = &mut self.sparse {
            sparse.indices.iter_mut().for_each(|t| t.shift_storages(by));
            sparse.values.shift_storages(by);
        }
        if let Some(Quantizer::PerChannel { scales, zero_points, .. }) = &mut self.quantizer {
            scales.shift_storages(by);
            zero_points.shift_storages(by);
        }
    }

    /// Indices of all storages its elements depend on: its own, its parts', its scales'.
    pub(crate) fn storages(&self) -> impl Iterator<Item = usize> {
        let sparse = self.sparse.iter().flat_map(|s| s.indices.iter().chain([&s.values]));
        let scales = match &self.quantizer {
            Some(Quantizer::PerChannel { scales, zero_points, .. }) => Some([&**scales, &**zero_points]),
            _ => None,
        };
        self.storage.into_iter().chain(sparse.chain(scales.into_iter().flatten()).filter_map(|t| t.storage))
    }

    /// Whether an element is there more than once, with stride 0: as `Tensor.expand` makes it.
    pub fn is_expanded(&self) -> bool {
        self.shape.iter().zip(&self.strides).any(|(&size, &stride)| size > 1 && stride == 0)
    }
}

/// Product of `shape`, `None` on overflow.
pub(crate) fn numel(shape: &[usize]) -> Option<u64> {
    shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64))
}
