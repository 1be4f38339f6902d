//! A part of a tensor: in each dimension a first index, a number of indices, and the step between them.

/// One dimension of a selection.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// The first index.
    pub start: usize,
    /// How many indices.
    pub count: usize,
    /// From each to the next, at least 1.
    pub step: usize,
}

/// What is selected of each dimension.
#[derive(Clone, Debug)]
pub struct Selection(pub Vec<Axis>);

impl Selection {
    /// All of `shape`.
    pub fn all(shape: &[usize]) -> Self {
        Selection(shape.iter().map(|&count| Axis { start: 0, count, step: 1 }).collect())
    }

    /// Whether it is one of tensors of `shape`.
    pub fn fits(&self, shape: &[usize]) -> bool {
        let inside = |(axis, &size): (&Axis, &usize)| {
            let last = axis.count.saturating_sub(1).checked_mul(axis.step);
            axis.step > 0
                && (axis.count == 0
                    || last.and_then(|last| last.checked_add(axis.start)).is_some_and(|last| last < size))
        };
        self.0.len() == shape.len() && self.0.iter().zip(shape).all(inside)
    }

    /// Whether it is all of `shape`.
    pub fn is_all(&self, shape: &[usize]) -> bool {
        self.0.iter().zip(shape).all(|(axis, &size)| axis.start == 0 && axis.count == size)
    }

    /// How many elements it has, which fit in memory; `None` if they do not.
    pub fn len(&self) -> Option<usize> {
        self.0.iter().try_fold(1usize, |len, axis| len.checked_mul(axis.count))
    }

    /// The elements in order, as runs that follow one another in a row-major tensor of `shape`: calls `run` with the first
    /// element of each, and how many there are.
    ///
    /// # Errors
    /// The first that `run` returns.
    pub fn runs<E>(
        &self,
        shape: &[usize],
        mut run: impl FnMut(usize, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.0.iter().any(|axis| axis.count == 0) {
            return Ok(());
        }
        // The dimensions from `whole` on are selected entirely; the one before them, if its indices follow one another,
        // belongs to the run too.
        let mut whole = shape.len();
        while whole > 0 && self.0[whole - 1].count == shape[whole - 1] {
            whole -= 1;
        }
        let inner: usize = shape[whole..].iter().product();
        let (outer, count, first) = match self.0[..whole].split_last() {
            Some((last, outer)) if last.step == 1 || last.count == 1 => {
                (outer, last.count * inner, last.start * inner)
            }
            _ => (&self.0[..whole], inner, 0),
        };
        let strides = ckpt_inspect::contiguous_strides(shape);
        let mut index = vec![0; outer.len()];
        loop {
            let place =
                |((i, axis), stride): ((&usize, &Axis), &usize)| (axis.start + i * axis.step) * stride;
            let start: usize = index.iter().zip(outer).zip(&strides).map(place).sum();
            run(start + first, count)?;
            let Some(next) = (0..outer.len()).rev().find(|&axis| index[axis] + 1 < outer[axis].count) else {
                return Ok(());
            };
            index[next] += 1;
            index[next + 1..].fill(0);
        }
    }

    /// Copies its elements, of `size` bytes each, from `bytes`, where they are `strides` apart, to `out`.
    pub fn gather(&self, bytes: &[u8], strides: &[usize], size: usize, out: &mut [u8]) {
        if self.0.iter().any(|axis| axis.count == 0) {
            return;
        }
        let base: usize = self.0.iter().zip(strides).map(|(axis, stride)| axis.start * stride).sum();
        let (row, step) = match (self.0.last(), strides.last()) {
            (Some(axis), Some(stride)) => (axis.count, axis.step * stride),
            _ => (1, 1),
        };
        let outer = &self.0[..self.0.len().saturating_sub(1)];
        let mut index = vec![0; outer.len()];
        for line in out.chunks_exact_mut(row * size) {
            let place = |((i, axis), stride): ((&usize, &Axis), &usize)| i * axis.step * stride;
            let start = base + index.iter().zip(outer).zip(strides).map(place).sum::<usize>();
            if step == 1 {
                line.copy_from_slice(&bytes[start * size..(start + row) * size]);
            } else {
                for (i, element) in line.chunks_exact_mut(size).enumerate() {
                    let at = (start + i * step) * size;
                    element.copy_from_slice(&bytes[at..at + size]);
                }
            }
            if let Some(next) = (0..outer.len()).rev().find(|&axis| index[axis] + 1 < outer[axis].count) {
                index[next] += 1;
                index[next + 1..].fill(0);
            }
        }
    }
}
