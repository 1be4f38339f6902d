//! What is known about a tensor before any of its bytes are read.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use ndarray::{ArrayViewD, CowArray, IxDyn, ShapeBuilder};
use serde::{Deserialize, Serialize};

use crate::quantized::Quantized;
use crate::storage::{Storage, swap_words};
use crate::{DType, Damage, DamageKind, Error, Instance, Result};

/// A tensor of a checkpoint, and how its elements are laid out on a storage.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Path in the object, keys and indices joined by dots.
    pub name: String,
    /// Element type or packing.
    pub dtype: DType,
    /// Logical shape; for packed types that of the matrix they encode.
    pub shape: Vec<usize>,
    /// Strides in elements (row-major ones for packed types).
    pub strides: Vec<usize>,
    /// First byte on the storage.
    pub byte_offset: u64,
    /// The storage, `None` for tensors saved without one (meta tensors, sparse tensors).
    pub storage: Option<Storage>,
    /// What the tensor is for.
    pub group: Group,
    /// Whether it is a trainable parameter (`requires_grad`).
    pub requires_grad: bool,
    /// For ternary packings with one scale: what the codes -1, 0, +1 are multiplied by. For GGML's blocks: what their
    /// elements are additionally multiplied by, if a tensor next to them says so.
    pub scale: Option<f32>,
    /// The same for GGML's blocks of several matrices, along the first dimension, of which each has its own factor.
    pub scales: Option<Arc<[f32]>>,
    /// How a quantized integer becomes a real number.
    pub quantizer: Option<Quantizer>,
    /// Coordinates and values of a sparse tensor.
    pub sparse: Option<Box<Sparse>>,
    /// The stored tensors that it is made of, if it is codes with scales beside them; then its storage is that of the
    /// codes.
    pub quantized: Option<Arc<Quantized>>,
    /// What it is an instance of, if it has no data of its own and wraps other tensors, which are listed below its name.
    pub instance: Option<Arc<Instance>>,
    /// What it is one rank's share of, if it was not joined with the others.
    pub(crate) share: Option<Arc<Share>>,
    /// Why its bytes cannot be read, if so.
    pub damage: Option<Damage>,
}

/// The tensor that a rank saved its part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Shape of the whole.
    pub whole: Vec<usize>,
    /// Which part this is.
    pub division: Division,
    /// Its number among the parts that the rank saved of it.
    pub number: usize,
}

/// How a tensor is divided over ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Division {
    /// A DTensor: over each dimension of a mesh of ranks in turn.
    Mesh {
        /// Ranks in each dimension of the mesh.
        sizes: Vec<usize>,
        /// This one's place in each.
        at: Vec<usize>,
        /// How each dimension divides the tensor.
        placements: Vec<Placement>,
        /// The dimensions of the mesh that divide it, in the order in which they do.
        order: Vec<usize>,
        /// The rank that saved it, if it says so.
        rank: Option<usize>,
    },
    /// A shard of a ShardedTensor: where it begins in the whole, and where all shards are.
    Block { offsets: Vec<usize>, all: Arc<Vec<(Vec<usize>, Vec<usize>)>> },
    /// A run of a flat vector: its first element there. Of the parameter that it is a part of, no shape is known.
    Piece(usize),
    /// In a way that is not read.
    Other(String),
}

/// What one dimension of a mesh does with a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Each rank has a chunk along this dimension, as `torch.chunk` makes them.
    Shard(usize),
    /// Each rank has the whole.
    Replicate,
    /// Anything else, such as a sum that is still to be made.
    Other(String),
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Group {
    /// Parameters and buffers of a state dict.
    Weights,
    /// Moments and counters of an optimizer.
    Optimizer,
    /// Anything else: random-number states, indices, packing helpers.
    #[default]
    Other,
}

impl Group {
    /// All of them.
    pub const ALL: &[Group] = &[Group::Weights, Group::Optimizer, Group::Other];

    /// The lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Group::Weights => "weights",
            Group::Optimizer => "optimizer",
            Group::Other => "other",
        }
    }
}

/// The affine map (q - zero_point) * scale of PyTorch's quantized tensors.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Quantizer {
    PerTensor { scale: f64, zero_point: i64 },
    PerChannel { scales: Box<TensorInfo>, zero_points: Box<TensorInfo>, axis: usize },
}

/// The parts of a sparse tensor; elements not listed are zero.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sparse {
    /// How its indices are stored.
    pub layout: SparseLayout,
    /// Index tensors: one of `[dimensions, nnz]` for COO; compressed and plain indices for CSR and similar layouts.
    pub indices: Vec<TensorInfo>,
    /// The listed elements.
    pub values: TensorInfo,
}

/// How a sparse tensor stores the positions of its elements. Shown as PyTorch's name, such as `torch.sparse_coo`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SparseLayout {
    /// A row of indices for each dimension.
    Coo,
    /// Columns, and where each row begins.
    Csr,
    /// Rows, and where each column begins.
    Csc,
    /// As `Csr`, of blocks of one size.
    Bsr,
    /// As `Csc`, of blocks of one size.
    Bsc,
    /// One that is listed but not read.
    Other(String),
}

impl SparseLayout {
    /// The layout of PyTorch's name.
    pub(crate) fn from_name(name: String) -> Self {
        match name.as_str() {
            "torch.sparse_coo" => SparseLayout::Coo,
            "torch.sparse_csr" => SparseLayout::Csr,
            "torch.sparse_csc" => SparseLayout::Csc,
            "torch.sparse_bsr" => SparseLayout::Bsr,
            "torch.sparse_bsc" => SparseLayout::Bsc,
            _ => SparseLayout::Other(name),
        }
    }
}

impl fmt::Display for SparseLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SparseLayout::Coo => "torch.sparse_coo",
            SparseLayout::Csr => "torch.sparse_csr",
            SparseLayout::Csc => "torch.sparse_csc",
            SparseLayout::Bsr => "torch.sparse_bsr",
            SparseLayout::Bsc => "torch.sparse_bsc",
            SparseLayout::Other(name) => name,
        })
    }
}

/// Row-major strides of `shape`, in elements.
pub fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        // Where nothing is in it, sizes may be immense; PyTorch's strides are signed.
        strides[i - 1] = strides[i].saturating_mul(shape[i].max(1)).min(i64::MAX as usize);
    }
    strides
}

/// Strides of `shape` in Fortran order (the first index varies fastest), in elements.
pub(crate) fn fortran_strides(shape: &[usize]) -> Vec<usize> {
    let reversed: Vec<usize> = shape.iter().rev().copied().collect();
    contiguous_strides(&reversed).into_iter().rev().collect()
}

impl TensorInfo {
    /// A contiguous tensor at `byte_offset` of `storage`, whose group is not known yet.
    pub(crate) fn contiguous(
        name: String,
        dtype: DType,
        shape: Vec<usize>,
        storage: Option<Storage>,
        byte_offset: u64,
    ) -> Self {
        let strides = contiguous_strides(&shape);
        TensorInfo {
            name,
            dtype,
            shape,
            strides,
            byte_offset,
            storage,
            group: Group::Other,
            requires_grad: false,
            scale: None,
            scales: None,
            quantizer: None,
            sparse: None,
            quantized: None,
            instance: None,
            share: None,
            damage: None,
        }
    }

    /// Number of elements. Readers refuse shapes whose product overflows, so this saturates only for a tensor that
    /// is already marked damaged.
    pub fn numel(&self) -> u64 {
        numel(&self.shape).unwrap_or(u64::MAX)
    }

    /// Bytes that its elements take when contiguous, of a quantized weight those of its codes; `None` when that overflows
    /// or blocks do not fit.
    pub fn byte_len(&self) -> Option<u64> {
        if let Some(quantized) = &self.quantized {
            return quantized.codes().byte_len();
        }
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
        if self.shape.contains(&0) {
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
            Some(end) => Err(Error::damaged(format!("needs byte {end} of a storage of {available} bytes"))
                .because(DamageKind::BeyondStorage)),
            None => Err(Error::damaged("has a shape whose size overflows, or that whole blocks do not fill")
                .because(DamageKind::Shape)),
        }
    }

    /// Passes each of its storages, and those of its parts, to `replace`.
    pub(crate) fn replace_storages(&mut self, replace: &mut dyn FnMut(&mut Storage)) {
        self.storage.iter_mut().for_each(&mut *replace);
        if let Some(sparse) = &mut self.sparse {
            sparse.indices.iter_mut().chain([&mut sparse.values]).for_each(|t| t.replace_storages(replace));
        }
        if let Some(Quantizer::PerChannel { scales, zero_points, .. }) = &mut self.quantizer {
            scales.replace_storages(replace);
            zero_points.replace_storages(replace);
        }
        if let Some(quantized) = &mut self.quantized {
            Arc::make_mut(quantized).parts_mut().for_each(|t| t.replace_storages(replace));
        }
    }

    /// All storages that its elements depend on: its own, its parts', its scales'.
    pub fn storages(&self) -> impl Iterator<Item = &Storage> {
        let sparse = self.sparse.iter().flat_map(|s| s.indices.iter().chain([&s.values]));
        let scales = match &self.quantizer {
            Some(Quantizer::PerChannel { scales, zero_points, .. }) => Some([&**scales, &**zero_points]),
            _ => None,
        };
        // The storage of its codes is its own.
        let parts = self.quantized.iter().flat_map(|q| q.parts().iter().skip(1).map(|part| &part.tensor));
        let parts = sparse.chain(scales.into_iter().flatten()).chain(parts);
        self.storage.iter().chain(parts.filter_map(|t| t.storage.as_ref()))
    }

    /// The bytes of its elements, contiguous and little-endian: borrowed from the file if it stores them so. Packed
    /// types give their packed bytes, a sparse tensor those of its values, and a quantized weight those of its codes.
    ///
    /// # Errors
    /// `Damaged` when bytes are missing or out of the storage; `Unsupported` for a view that repeats its storage
    /// out of all proportion.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        self.bytes_inner().map_err(|e| e.in_tensor(&self.name))
    }

    fn bytes_inner(&self) -> Result<Cow<'_, [u8]>> {
        if let Some(sparse) = &self.sparse {
            return sparse.values.bytes_inner();
        }
        if let (Some(quantized), None) = (&self.quantized, &self.damage) {
            return quantized.codes().bytes_inner();
        }
        if let Some(damage) = &self.damage {
            return Err(damage.into());
        }
        let len = self.byte_len().ok_or_else(|| Error::damaged("its size overflows"))?;
        let Some(storage) = &self.storage else {
            return Err(Error::unsupported("it was saved without data of its own"));
        };
        if len == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        self.check_bounds(storage.byte_len())?;
        let start = self.byte_offset;
        let mut bytes = if self.is_contiguous() {
            storage.range(start..start + len)?
        } else {
            let size =
                self.dtype.element_size().ok_or_else(|| Error::unsupported("a strided packed tensor"))?;
            self.check_expansion()?;
            let run = storage.range(start..start + self.span().unwrap_or(0) * size as u64)?;
            Cow::Owned(gather(&run, &self.shape, &self.strides, size))
        };
        if storage.run().swap > 1 {
            match self.dtype {
                DType::Ggml(ggml) => ggml.to_little_endian(bytes.to_mut()),
                _ => swap_words(bytes.to_mut(), self.dtype.word_size()),
            }
        }
        Ok(bytes)
    }

    /// The bytes of its storage from its first element to its last, which [`TensorInfo::strides`] lead through: for arrays
    /// of other libraries, which then share them. `None` where they are not in memory as they are: compressed, in several
    /// places, of another byte order, damaged, or no elements of their own (packed, sparse, quantized).
    pub fn borrowed(&self) -> Option<&[u8]> {
        let size = self.dtype.element_size()? as u64;
        let plain = self.sparse.is_none() && self.quantized.is_none() && self.damage.is_none();
        let storage = self.storage.as_ref().filter(|storage| plain && storage.run().swap <= 1)?;
        self.check_bounds(storage.byte_len()).ok()?;
        let len = self.span()?.checked_mul(size).filter(|len| *len > 0)?;
        // Bytes that would have to be put together first are not asked for.
        if storage.copied(len) > 0 {
            return None;
        }
        match storage.range(self.byte_offset..self.byte_offset.checked_add(len)?) {
            Ok(Cow::Borrowed(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Its elements from `start` on, `count` of them, as a vector; `None` for a tensor whose elements are not just one after
    /// another, or have to be inflated for each part. For tensors that are gathered from several places, and need not be
    /// in memory as a whole.
    pub fn stretch(&self, start: u64, count: u64) -> Option<TensorInfo> {
        let size = self.dtype.element_size()? as u64;
        let plain = self.sparse.is_none() && self.quantizer.is_none() && self.quantized.is_none();
        let bare = self.scale.is_none() && self.scales.is_none() && self.damage.is_none();
        let inside = start.checked_add(count).is_some_and(|end| end <= self.numel());
        let by_ranges = self.storage.as_ref().is_none_or(Storage::gives_ranges);
        if !(plain && bare && inside && by_ranges && self.is_contiguous()) {
            return None;
        }
        let mut stretch = self.clone();
        (stretch.shape, stretch.strides) = (vec![usize::try_from(count).ok()?], vec![1]);
        stretch.byte_offset = self.byte_offset.checked_add(start.checked_mul(size)?)?;
        Some(stretch)
    }

    /// The same for elements that may be in GGML's blocks, but for those that are ternary: `start` and `count` are of whole
    /// blocks.
    pub fn window(&self, start: u64, count: u64) -> Option<TensorInfo> {
        let DType::Ggml(ggml) = self.dtype else { return self.stretch(start, count) };
        let (elements, bytes) = (ggml.block_elements() as u64, ggml.block_bytes()? as u64);
        let plain = self.sparse.is_none() && self.quantizer.is_none() && self.quantized.is_none();
        let bare = self.scales.is_none() && self.damage.is_none() && !self.dtype.is_ternary();
        let inside = start.checked_add(count).is_some_and(|end| end <= self.numel());
        let whole = elements > 0 && start.is_multiple_of(elements) && count.is_multiple_of(elements);
        let by_ranges = self.storage.as_ref().is_none_or(Storage::gives_ranges);
        if !(plain && bare && inside && whole && by_ranges && self.is_contiguous()) {
            return None;
        }
        let mut window = self.clone();
        (window.shape, window.strides) = (vec![usize::try_from(count).ok()?], vec![1]);
        window.byte_offset = self.byte_offset.checked_add((start / elements).checked_mul(bytes)?)?;
        Some(window)
    }

    /// Its `number`-th part along the first dimension, such as one expert's matrix; `None` where it is no plain run of
    /// elements or blocks, or has no such part.
    pub fn part(&self, number: usize) -> Option<TensorInfo> {
        let plain = self.sparse.is_none() && self.quantizer.is_none();
        let (count, rest) = self.shape.split_first()?;
        if let Some(quantized) = self.quantized.as_ref().filter(|all| plain && all.form.slices == *count) {
            let mut part = self.clone();
            (part.shape, part.strides) = (rest.to_vec(), contiguous_strides(rest));
            part.quantized = Some(Arc::new(quantized.slice(number)?));
            return Some(part);
        }
        let plain = plain && self.quantized.is_none();
        if !plain || self.damage.is_some() || !self.is_contiguous() || number >= *count {
            return None;
        }
        let mut part = self.clone();
        (part.shape, part.strides) = (rest.to_vec(), contiguous_strides(rest));
        let bytes = part.dtype.bytes_for(rest)?;
        if bytes.checked_mul(*count as u64) != self.byte_len() {
            return None;
        }
        part.byte_offset = self.byte_offset.checked_add(bytes.checked_mul(number as u64)?)?;
        if let Some(scales) = &self.scales {
            (part.scale, part.scales) = (Some(*scales.get(number)?), None);
        }
        Some(part)
    }

    /// The tensor of which `parts` are the parts along the first dimension, one after another; `None` where they are not
    /// alike, or no plain runs of elements or blocks.
    pub fn stack(parts: &[&TensorInfo]) -> Option<TensorInfo> {
        let first = *parts.first()?;
        let bytes = first.byte_len()?;
        let is_alike = |part: &&TensorInfo| {
            let plain = part.sparse.is_none() && part.quantizer.is_none() && part.quantized.is_none();
            let bare = part.scale.is_none() && part.scales.is_none() && part.damage.is_none();
            plain && bare && part.is_contiguous() && (part.dtype, &part.shape) == (first.dtype, &first.shape)
        };
        if !parts.iter().all(is_alike) {
            return None;
        }
        let ranges = parts.iter().map(|part| {
            let end = part.byte_offset.checked_add(bytes)?;
            Some((part.storage.as_ref()?, part.byte_offset..end))
        });
        let storage = Storage::pieced(ranges.collect::<Option<Vec<_>>>()?).ok()?;
        let mut stack = first.clone();
        stack.shape.insert(0, parts.len());
        stack.strides = contiguous_strides(&stack.shape);
        (stack.storage, stack.byte_offset) = (Some(storage), 0);
        Some(stack)
    }

    /// Refuses a view that repeats its storage out of proportion, before it is copied.
    pub(crate) fn check_expansion(&self) -> Result<()> {
        let span = self.span().unwrap_or(0);
        if self.numel() > FREE_ELEMENTS && self.numel() / MAX_EXPANSION > span {
            return Err(Error::unsupported(format!(
                "it expands {span} elements to {}, which is too many to copy",
                self.numel()
            )));
        }
        Ok(())
    }

    /// The tensor as an array with its own strides: borrowed from the file if alignment, byte order and compression
    /// allow it, else copied.
    ///
    /// # Errors
    /// Those of [`TensorInfo::bytes`], and `Unsupported` when `T` does not represent the dtype.
    pub fn view<T: Element>(&self) -> Result<CowArray<'_, T, IxDyn>> {
        self.view_inner().map_err(|e| e.in_tensor(&self.name))
    }

    fn view_inner<T: Element>(&self) -> Result<CowArray<'_, T, IxDyn>> {
        if !T::matches(self.dtype) {
            return Err(Error::unsupported(format!(
                "{} elements cannot be viewed as {}",
                self.dtype,
                std::any::type_name::<T>()
            )));
        }
        let size = size_of::<T>();
        if let (Some(storage), None, None) = (&self.storage, &self.damage, &self.sparse) {
            self.check_bounds(storage.byte_len())?;
            let span = self.span().unwrap_or(0);
            if storage.run().swap <= 1
                && self.numel() > 0
                && let Cow::Borrowed(run) =
                    storage.range(self.byte_offset..self.byte_offset + span * size as u64)?
                && let Ok(elements) = bytemuck::try_cast_slice::<u8, T>(run)
            {
                let shape = IxDyn(&self.shape).strides(IxDyn(&self.strides));
                // ndarray has no view for some strides; such tensors are copied below.
                if let Ok(view) = ArrayViewD::from_shape(shape, elements) {
                    return Ok(CowArray::from(view));
                }
            }
        }
        let bytes = self.bytes_inner()?;
        let elements: Vec<T> = bytes.chunks_exact(size).map(bytemuck::pod_read_unaligned).collect();
        let array = ndarray::ArrayD::from_shape_vec(IxDyn(&self.shape), elements)
            .map_err(|e| Error::damaged(format!("its shape does not fit its elements: {e}")))?;
        Ok(CowArray::from(array))
    }

    /// Whether elements repeat through strides of 0, as `Tensor.expand` makes them.
    pub fn is_expanded(&self) -> bool {
        self.shape.iter().zip(&self.strides).any(|(&size, &stride)| size > 1 && stride == 0)
    }
}

/// Product of `shape`, `None` on overflow.
pub(crate) fn numel(shape: &[usize]) -> Option<u64> {
    shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64))
}

/// Rust types that tensors can be viewed as.
pub trait Element: bytemuck::AnyBitPattern {
    /// Whether elements of `dtype` have this representation.
    fn matches(dtype: DType) -> bool;
}

macro_rules! elements {
    ($($rust:ty: $($dtype:ident)|+;)*) => {$(
        impl Element for $rust {
            fn matches(dtype: DType) -> bool {
                matches!(dtype, $(DType::$dtype)|+)
            }
        }
    )*};
}

elements! {
    f64: F64;
    f32: F32;
    half::f16: F16;
    half::bf16: BF16;
    i64: I64;
    i32: I32 | QI32;
    i16: I16;
    i8: I8 | QI8;
    u64: U64;
    u32: U32;
    u16: U16;
    u8: U8 | QU8 | Bool | F8E4M3FN | F8E5M2 | F8E4M3FNUZ | F8E5M2FNUZ | F8E8M0FNU;
    [f32; 2]: C64;
    [f64; 2]: C128;
}

/// A tensor that repeats its storage may be this many times larger than it when copied out.
const MAX_EXPANSION: u64 = 64;
const FREE_ELEMENTS: u64 = 1 << 20;

/// Copies a strided tensor out, row-major. The caller has checked its bounds.
fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], size: usize) -> Vec<u8> {
    let numel: usize = shape.iter().product();
    let mut out = Vec::with_capacity(numel * size);
    let mut index = vec![0; shape.len()];
    let (&row, &step) = (shape.last().unwrap_or(&1), strides.last().unwrap_or(&1));
    let mut start = 0;
    for _ in 0..numel / row.max(1) {
        if step == 1 {
            out.extend_from_slice(&bytes[start * size..(start + row) * size]);
        } else {
            for i in 0..row {
                let at = (start + i * step) * size;
                out.extend_from_slice(&bytes[at..at + size]);
            }
        }
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            index[axis] += 1;
            start += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            start -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}
