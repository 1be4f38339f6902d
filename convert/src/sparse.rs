//! Sparse tensors spread out: SafeTensors has none, and what a layer multiplies with is the dense matrix.

use ckpt_inspect::{Checkpoint, Error, Result, Sparse, TensorInfo};

/// A sparse tensor may be this many times larger than its listed elements when spread out.
const MAX_EXPANSION: u64 = 4096;
const FREE_ELEMENTS: u64 = 1 << 20;

/// The contiguous bytes of `tensor`, elements not listed being zero. Of elements listed twice the last one counts;
/// PyTorch's own are coalesced when saved.
pub(crate) fn spread(source: &Checkpoint, tensor: &TensorInfo, sparse: &Sparse) -> Result<Vec<u8>> {
    spread_inner(source, tensor, sparse).map_err(|e| e.in_tensor(&tensor.name).in_file(&source.path))
}

fn spread_inner(source: &Checkpoint, tensor: &TensorInfo, sparse: &Sparse) -> Result<Vec<u8>> {
    let size = tensor.dtype.element_size().ok_or_else(|| Error::unsupported("sparse packed elements"))?;
    let listed = sparse.values.numel();
    if tensor.numel() > FREE_ELEMENTS && tensor.numel() / MAX_EXPANSION > listed {
        return Err(Error::unsupported(format!(
            "{listed} listed elements would be spread out to {}",
            tensor.numel()
        )));
    }
    let values = source.tensor_bytes(&sparse.values)?;
    let mut out = vec![0; tensor.numel() as usize * size];
    let mut put = |place: usize, nth: usize| -> Result<()> {
        let to = out.get_mut(place * size..(place + 1) * size);
        let from = values.get(nth * size..(nth + 1) * size);
        match to.zip(from) {
            Some((to, from)) => to.copy_from_slice(from),
            None => return Err(Error::damaged("an index of it is out of range")),
        }
        Ok(())
    };
    let index = |tensor: &TensorInfo| -> Result<Vec<usize>> {
        let view = source.view::<i64>(tensor)?;
        let wrong = || Error::damaged("an index of it is negative");
        view.iter().map(|&i| usize::try_from(i).map_err(|_| wrong())).collect()
    };
    match (sparse.layout.rsplit('.').next(), sparse.indices.as_slice(), tensor.shape.as_slice()) {
        (Some("sparse_coo"), [indices], shape)
            if indices.shape.len() == 2
                && indices.shape[0] == shape.len()
                && sparse.values.shape.as_slice() == [indices.shape[1]].as_slice() =>
        {
            let (places, n) = (index(indices)?, indices.shape[1]);
            for nth in 0..n {
                let mut place = 0;
                for (axis, &dim) in shape.iter().enumerate() {
                    let at = places[axis * n + nth];
                    if at >= dim {
                        return Err(Error::damaged("an index of it is out of range"));
                    }
                    place = place * dim + at;
                }
                put(place, nth)?;
            }
        }
        (Some(layout @ ("sparse_csr" | "sparse_csc")), [compressed, plain], &[rows, cols]) => {
            let by_row = layout == "sparse_csr";
            let (lines, across) = if by_row { (rows, cols) } else { (cols, rows) };
            let (starts, plain) = (index(compressed)?, index(plain)?);
            if starts.len() != lines + 1 {
                return Err(Error::damaged("its compressed indices do not match its shape"));
            }
            for (line, run) in starts.windows(2).enumerate() {
                for nth in run[0]..run[1] {
                    let at = *plain
                        .get(nth)
                        .filter(|at| **at < across)
                        .ok_or_else(|| Error::damaged("an index of it is out of range"))?;
                    put(if by_row { line * cols + at } else { at * cols + line }, nth)?;
                }
            }
        }
        _ => {
            return Err(Error::unsupported(format!(
                "a sparse tensor of layout {} and shape {:?} is not spread out",
                sparse.layout, tensor.shape
            )));
        }
    }
    Ok(out)
}
