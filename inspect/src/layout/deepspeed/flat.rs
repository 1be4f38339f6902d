//! Flat vectors of which each rank has a part, and the tensors that are ranges of them.

use crate::layout::tiles::{self, Budget, Tile};
use crate::tensor::{TensorInfo, contiguous_strides, numel};
use crate::{DType, Damage, DamageKind};

/// A vector, or what each rank has of it, one after another.
#[derive(Default)]
pub(super) struct Flat {
    parts: Vec<Part>,
    len: usize,
}

struct Part {
    start: usize,
    len: usize,
    /// Its elements, or why they are not there.
    elements: Result<TensorInfo, Damage>,
}

impl Part {
    fn end(&self) -> usize {
        self.start.saturating_add(self.len)
    }
}

impl Flat {
    /// Adds a part of `len` elements.
    pub fn push(&mut self, len: usize, elements: Result<TensorInfo, Damage>) {
        let elements = elements.and_then(|tensor| {
            let vector = tensor.shape == [len] && tensor.is_contiguous();
            let what = || format!("a flat vector of {len} elements is saved as {:?}", tensor.shape);
            let damage = || Damage::new(DamageKind::Shape, what());
            if vector { Ok(tensor) } else { Err(damage()) }
        });
        self.parts.push(Part { start: self.len, len, elements });
        self.len = self.len.saturating_add(len);
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The element type of the parts that are there.
    pub fn dtype(&self) -> Option<DType> {
        self.parts.iter().find_map(|part| part.elements.as_ref().ok()).map(|tensor| tensor.dtype)
    }

    /// Adds the parts of `len` elements from `from` on, as blocks of a tensor from its element `to` on.
    pub fn cut(&self, from: usize, len: usize, to: usize, tiles: &mut Vec<Tile>) {
        let end = from.saturating_add(len).min(self.len);
        let first = self.parts.partition_point(|part| part.end() <= from);
        for part in self.parts[first..].iter().take_while(|part| part.start < end) {
            let (start, stop) = (from.max(part.start), end.min(part.end()));
            if start >= stop {
                continue;
            }
            let elements = part.elements.clone().map(|tensor| {
                let width = tensor.dtype.element_size().unwrap_or(1) as u64;
                let skipped = ((start - part.start) as u64).saturating_mul(width);
                TensorInfo {
                    byte_offset: tensor.byte_offset.saturating_add(skipped),
                    shape: vec![stop - start],
                    strides: vec![1],
                    ..tensor
                }
            });
            tiles.push(Tile {
                offsets: vec![to + (start - from)],
                sizes: vec![stop - start],
                part: elements,
            });
        }
    }
}

/// The tensor `name` of `shape`, whose elements one after another are those of `tiles`.
pub(super) fn tensor(
    name: String,
    dtype: DType,
    shape: &[usize],
    tiles: Vec<Tile>,
    budget: &mut Budget,
) -> TensorInfo {
    let count = numel(shape).and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let mut tensor = tiles::join(name, dtype, vec![count], tiles, budget);
    tensor.shape = shape.to_vec();
    tensor.strides = contiguous_strides(shape);
    tensor
}
