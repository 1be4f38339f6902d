//! Elements piece by piece, for work that streams tensors and never holds one decoded as a whole.

use crate::checkpoint::Checkpoint;
use crate::tensor::TensorInfo;
use crate::{DType, Error, Result, measure, ternary};

/// The elements of one tensor, decoded to f32 where they are asked for.
pub struct Pieces<'b> {
    /// How many there are.
    pub len: usize,
    /// Pieces must begin at a multiple of this: the elements of a block of the encoding.
    pub granule: usize,
    read: measure::Read<'b>,
}

impl Pieces<'_> {
    /// Fills `out` with the elements from `start`, row-major. Code 3 of a ternary packing, which stands for nothing,
    /// reads as 2 times the scale.
    pub fn read(&self, start: usize, out: &mut [f32]) {
        (self.read)(start, out);
    }
}

impl Checkpoint {
    /// The elements of `tensor`, whose bytes [`Checkpoint::tensor_bytes`] gave, as real numbers in f32: packed and
    /// quantized ones decoded, f64 and wide integers rounded.
    ///
    /// # Errors
    /// `Unsupported` for complex numbers, sparse tensors, and block formats that are not decoded; `Damaged` when
    /// `bytes` are too few.
    pub fn pieces<'b>(&'b self, tensor: &'b TensorInfo, bytes: &'b [u8]) -> Result<Pieces<'b>> {
        self.pieces_inner(tensor, bytes).map_err(|e| e.in_tensor(&tensor.name).in_file(&self.path))
    }

    fn pieces_inner<'b>(&'b self, tensor: &'b TensorInfo, bytes: &'b [u8]) -> Result<Pieces<'b>> {
        if let Some(sparse) = &tensor.sparse {
            return Err(Error::unsupported(format!(
                "a sparse tensor ({}) has no dense values",
                sparse.layout
            )));
        }
        if tensor.byte_len() != Some(bytes.len() as u64) {
            return Err(Error::damaged("its bytes do not fill its shape"));
        }
        let len = usize::try_from(tensor.numel())
            .map_err(|_| Error::unsupported("more elements than this machine can address"))?;
        let mut granule = 1;
        let read: measure::Read<'b> = match tensor.dtype {
            DType::Ternary(packing) => {
                let scale = tensor.scale.unwrap_or(1.0);
                Box::new(move |start, out| {
                    let mut codes = [0i8; 1024];
                    for (i, chunk) in out.chunks_mut(codes.len()).enumerate() {
                        let codes = &mut codes[..chunk.len()];
                        ternary::decode(packing, bytes, &tensor.shape, start + i * 1024, codes);
                        chunk.iter_mut().zip(codes).for_each(|(v, &mut c)| *v = f32::from(c) * scale);
                    }
                })
            }
            DType::Ggml(ggml) => {
                if !ggml.decodes() {
                    return Err(Error::unsupported(format!("{ggml} blocks are named and not decoded")));
                }
                let decoder = ggml.decoder(bytes, len)?.scaled(tensor.scale.unwrap_or(1.0));
                granule = ggml.block_elements();
                Box::new(move |start, out| decoder.read(start, out))
            }
            DType::QI8 | DType::QU8 | DType::QI32 => {
                let real = self.dequantizer(tensor, bytes)?;
                Box::new(move |start, out| {
                    out.iter_mut().enumerate().for_each(|(i, v)| *v = real(start + i) as f32);
                })
            }
            dtype => measure::reader(dtype, bytes)
                .ok_or_else(|| Error::unsupported(format!("{dtype} elements are not real numbers")))?,
        };
        Ok(Pieces { len, granule, read })
    }

    /// Bytes that [`Checkpoint::tensor_bytes`] has to allocate for `tensor`: none where it can borrow from the map.
    pub fn copied_bytes(&self, tensor: &TensorInfo) -> u64 {
        let part = tensor.sparse.as_ref().map_or(tensor, |sparse| &sparse.values);
        let Some(storage) = &part.storage else { return 0 };
        let own = part.byte_len().unwrap_or(0);
        match storage.copied(own) {
            0 if storage.run().swap > 1 || !part.is_contiguous() => own,
            copied => copied,
        }
    }
}
