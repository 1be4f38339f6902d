//! Sparse tensors made dense on request: many formats have no sparse ones, and a layer multiplies with the dense
//! matrix.

use std::borrow::Cow;

use crate::checkpoint::Checkpoint;
use crate::tensor::{Sparse, SparseLayout, TensorInfo};
use crate::{Error, Result};

/// A sparse tensor may be this many times larger than its listed elements when it is made dense.
const MAX_EXPANSION: u64 = 4096;
const FREE_ELEMENTS: u64 = 1 << 20;

impl Checkpoint {
    /// The contiguous bytes of `tensor`, as [`Checkpoint::tensor_bytes`] gives them; of a sparse one those of the dense
    /// tensor, elements not listed being zero.
    ///
    /// # Errors
    /// Those of [`Checkpoint::tensor_bytes`]. Of a sparse tensor: `Damaged` for indices that do not fit the shape;
    /// `Unsupported` for what would be out of all proportion to the file, for elements listed more than once, which
    /// PyTorch adds up in an order of its own, and for other layouts.
    pub fn spread<'a>(&'a self, tensor: &'a TensorInfo) -> Result<Cow<'a, [u8]>> {
        match &tensor.sparse {
            None => self.tensor_bytes(tensor),
            Some(sparse) => spread_inner(self, tensor, sparse)
                .map(Cow::Owned)
                .map_err(|e| e.in_tensor(&tensor.name).in_file(&self.path)),
        }
    }
}

fn spread_inner(source: &Checkpoint, tensor: &TensorInfo, sparse: &Sparse) -> Result<Vec<u8>> {
    let size = tensor.dtype.element_size().ok_or_else(|| Error::unsupported("sparse packed elements"))?;
    let listed = sparse.values.numel();
    if tensor.numel() == 0 {
        return match listed {
            0 => Ok(Vec::new()),
            _ => Err(Error::damaged("one of its indices is out of range")),
        };
    }
    if tensor.numel() > FREE_ELEMENTS && tensor.numel() / MAX_EXPANSION > listed {
        return Err(Error::unsupported(format!(
            "its {listed} stored elements would become {} dense ones, which is too many",
            tensor.numel()
        )));
    }
    let values = source.tensor_bytes(&sparse.values)?;
    let mut out = vec![0; tensor.numel() as usize * size];
    // So many elements at a place, from the ones that are listed there.
    let mut put = |place: usize, nth: usize, count: usize| -> Result<()> {
        let to = out.get_mut(place * size..(place + count) * size);
        let from = values.get(nth * size..(nth + count) * size);
        match to.zip(from) {
            Some((to, from)) => to.copy_from_slice(from),
            None => return Err(Error::damaged("one of its indices is out of range")),
        }
        Ok(())
    };
    let index = |tensor: &TensorInfo| -> Result<Vec<usize>> {
        tensor.check_expansion()?;
        let view = source.view::<i64>(tensor)?;
        let wrong = || Error::damaged("one of its indices is negative");
        view.iter().map(|&i| usize::try_from(i).map_err(|_| wrong())).collect()
    };
    match (&sparse.layout, sparse.indices.as_slice(), tensor.shape.as_slice()) {
        // What is listed may be whole rows, or more.
        (SparseLayout::Coo, [indices], shape)
            if let &[dims, n] = indices.shape.as_slice()
                && dims <= shape.len()
                && sparse.values.shape.split_first() == Some((&n, &shape[dims..])) =>
        {
            let axes = index(indices)?;
            let unit: usize = shape[dims..].iter().product();
            let mut places = vec![0; n];
            for (axis, &dim) in shape[..dims].iter().enumerate() {
                for (place, &at) in places.iter_mut().zip(&axes[axis * n..][..n]) {
                    if at >= dim {
                        return Err(Error::damaged("one of its indices is out of range"));
                    }
                    *place = *place * dim + at;
                }
            }
            places.iter().enumerate().try_for_each(|(nth, &place)| put(place * unit, nth * unit, unit))?;
            places.sort_unstable();
            if places.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(listed_twice());
            }
        }
        (
            layout @ (SparseLayout::Csr | SparseLayout::Csc | SparseLayout::Bsr | SparseLayout::Bsc),
            [compressed, plain],
            &[rows, cols],
        ) => {
            let wrong = || Error::damaged("its compressed indices do not match its shape");
            let by_row = matches!(layout, SparseLayout::Csr | SparseLayout::Bsr);
            let in_blocks = matches!(layout, SparseLayout::Bsr | SparseLayout::Bsc);
            let (height, width) = match sparse.values.shape.as_slice() {
                &[_, height, width] if in_blocks && height > 0 && width > 0 => (height, width),
                [_] if !in_blocks => (1, 1),
                _ => return Err(wrong()),
            };
            if !rows.is_multiple_of(height) || !cols.is_multiple_of(width) {
                return Err(wrong());
            }
            let (down, right) = (rows / height, cols / width);
            let (lines, across) = if by_row { (down, right) } else { (right, down) };
            let blocks = sparse.values.shape[0];
            if plain.numel() != blocks as u64 || compressed.numel() != lines as u64 + 1 {
                return Err(wrong());
            }
            let (starts, plain) = (index(compressed)?, index(plain)?);
            if !starts.is_sorted() || starts.last() != Some(&plain.len()) {
                return Err(wrong());
            }
            let mut line_of = vec![usize::MAX; across];
            for (line, run) in starts.windows(2).enumerate() {
                for (nth, &at) in plain.iter().enumerate().take(run[1]).skip(run[0]) {
                    let seen = line_of.get_mut(at);
                    let seen = seen.ok_or_else(|| Error::damaged("one of its indices is out of range"))?;
                    if std::mem::replace(seen, line) == line {
                        return Err(listed_twice());
                    }
                    let (row, column) = if by_row { (line, at) } else { (at, line) };
                    for within in 0..height {
                        let place = (row * height + within) * cols + column * width;
                        put(place, (nth * height + within) * width, width)?;
                    }
                }
            }
        }
        _ => {
            return Err(Error::unsupported(format!(
                "a sparse tensor of layout {} and shape {:?} cannot be made dense",
                sparse.layout, tensor.shape
            )));
        }
    }
    Ok(out)
}

fn listed_twice() -> Error {
    Error::unsupported(
        "it stores elements more than once, which would have to be added up: save its .coalesce() instead",
    )
}

/// Whether a COO tensor lists an element more than once (it is not coalesced). Takes eight bytes per listed element, as
/// its indices do.
pub(crate) fn lists_twice(source: &Checkpoint, tensor: &TensorInfo, sparse: &Sparse) -> Result<bool> {
    let Some(indices) = sparse.indices.first() else { return Ok(false) };
    let &[dims, listed] = indices.shape.as_slice() else {
        return Err(Error::damaged("its indices are not a matrix"));
    };
    if sparse.values.shape.first() != Some(&listed) {
        return Err(Error::damaged("it has different numbers of indices and values"));
    }
    // Without indices every value is the only element's.
    if dims == 0 {
        return Ok(listed > 1);
    }
    indices.check_expansion()?;
    let indices = source.view::<i64>(indices)?;
    let sizes =
        tensor.shape.get(..dims).ok_or_else(|| Error::damaged("it has more indices than dimensions"))?;
    let mut places = vec![0i64; listed];
    for (row, &size) in indices.outer_iter().zip(sizes) {
        for (place, &index) in places.iter_mut().zip(row) {
            *place = place.wrapping_mul(size as i64).wrapping_add(index);
        }
    }
    places.sort_unstable();
    Ok(places.windows(2).any(|pair| pair[0] == pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, ErrorKind};

    /// One index, one value, and nothing.
    fn parts() -> Checkpoint {
        let header = br#"{"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"v":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#;
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 12]].concat();
        crate::open_bytes("parts", bytes).unwrap()
    }

    /// `name`, repeated to `shape` with strides of zero.
    fn expanded(source: &Checkpoint, name: &str, shape: &[usize]) -> TensorInfo {
        let mut part = source.tensor(name).unwrap().clone();
        (part.shape, part.strides) = (shape.to_vec(), vec![0; shape.len()]);
        part
    }

    fn sparse(
        shape: &[usize],
        layout: SparseLayout,
        indices: Vec<TensorInfo>,
        values: TensorInfo,
    ) -> TensorInfo {
        let mut tensor = TensorInfo::contiguous("w".into(), DType::F32, shape.to_vec(), None, 0);
        tensor.sparse = Some(Box::new(Sparse { layout, indices, values }));
        tensor
    }

    #[test]
    fn indices_that_repeat_one_are_not_collected() {
        const MANY: usize = 1 << 40;
        let source = parts();
        let part = |name, shape: &[usize]| expanded(&source, name, shape);
        for (shape, starts, places) in [
            // More indices than values.
            ([1, 1], [2], [MANY]),
            // A row for each of the starts, and no columns.
            ([MANY, 0], [MANY + 1], [0]),
            // No rows, and a column for each mark.
            ([0, MANY], [1], [1]),
        ] {
            let listed = places[0].min(1);
            let indices = vec![part("i", &starts), part("i", &places)];
            let tensor = sparse(&shape, SparseLayout::Csr, indices, part("v", &[listed]));
            let spread = source.spread(&tensor);
            match listed {
                0 => assert!(spread.unwrap().is_empty()),
                _ => assert_eq!(spread.unwrap_err().kind, ErrorKind::Damaged),
            }
        }
        let of_scalar = sparse(&[1], SparseLayout::Coo, vec![part("i", &[1, MANY])], part("v", &[MANY]));
        assert_eq!(source.spread(&of_scalar).unwrap_err().kind, ErrorKind::Unsupported);
        assert_eq!(source.measure(&of_scalar, false).unwrap_err().kind, ErrorKind::Unsupported);
        let more = sparse(&[1], SparseLayout::Coo, vec![part("i", &[1, MANY])], part("v", &[1]));
        assert_eq!(source.measure(&more, false).unwrap_err().kind, ErrorKind::Damaged);
        let placeless = sparse(&[1], SparseLayout::Coo, vec![part("i", &[0, MANY])], part("v", &[MANY, 0]));
        assert_eq!(source.measure(&placeless, false).unwrap_err().kind, ErrorKind::Unsupported);
    }
}
