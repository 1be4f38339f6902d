//! The elements of a tensor that has to be fetched, some at a time: of a file at a URL no whole tensor need be in memory.

use crate::checkpoint::Checkpoint;
use crate::meaning::elements::{CHUNK, Elements};
use crate::storage::Storage;
use crate::tensor::TensorInfo;
use crate::{DType, Error, Result};

/// Tensors of at most this many bytes are fetched as a whole.
const WHOLE: u64 = if cfg!(test) { 1 << 18 } else { 64 << 20 };
/// Bytes of larger ones that are fetched at a time, while those before them are looked at.
const WINDOW: u64 = if cfg!(test) { 1 << 20 } else { 32 << 20 };

/// A tensor, in windows of elements one after the other.
pub(crate) struct Windows<'c> {
    checkpoint: &'c Checkpoint,
    tensor: &'c TensorInfo,
    /// Elements of each but the last: whole chunks, as [`in_chunks`](super::in_chunks) makes them of the whole tensor.
    step: u64,
}

/// Some of a tensor's elements.
pub(crate) struct Window<'w> {
    /// The number of the first one.
    pub start: usize,
    /// Their bytes, as [`TensorInfo::bytes`] gives those of the whole.
    pub bytes: &'w [u8],
    pub elements: Elements<'w>,
}

/// What was fetched of a tensor: some of its elements as a tensor of their own, and their bytes.
type Fetched = (TensorInfo, Vec<u8>);

impl<'c> Windows<'c> {
    /// Those of `tensor`; `None` for one that is borrowed, small, or no plain run of real elements or blocks.
    pub fn of(checkpoint: &'c Checkpoint, tensor: &'c TensorInfo) -> Option<Self> {
        let bytes = tensor.byte_len().filter(|bytes| *bytes > WHOLE)?;
        let fetched = tensor.storage.as_ref().is_some_and(Storage::is_fetched);
        if !fetched || tensor.dtype.is_complex() || tensor.window(0, 0).is_none() {
            return None;
        }
        let granule = match tensor.dtype {
            DType::Ggml(ggml) => ggml.blocks().ok()?.elements.max(1),
            _ => 1,
        };
        let chunk = (CHUNK.div_ceil(granule) * granule) as u64;
        let in_window = u128::from(WINDOW) * u128::from(tensor.numel()) / u128::from(bytes);
        let step = (in_window as u64 / chunk).max(1) * chunk;
        Some(Windows { checkpoint, tensor, step })
    }

    /// Whether f32 cannot hold its elements exactly.
    pub fn are_wide(&self) -> bool {
        let plain = super::plain(self.tensor.dtype);
        plain.is_ok_and(|(encoding, _)| matches!(encoding, super::Encoding::Wide(_)))
    }

    /// Bytes that are held of it at one time: of a window, and of the one after it.
    pub fn held(&self) -> u64 {
        2 * WINDOW
    }

    /// Calls `look` with each window in order, while the next is fetched.
    ///
    /// # Errors
    /// Those of [`Checkpoint::elements`], and of `look`.
    pub fn each(&self, mut look: impl FnMut(&Window<'_>) -> Result<()>) -> Result<()> {
        let numel = self.tensor.numel();
        let (mut start, mut fetched) = (0, self.fetch(0)?);
        loop {
            let next = start + self.step;
            let (tensor, bytes) = fetched;
            let mut look = || {
                let elements = self.checkpoint.elements_in(&tensor, &bytes[..])?;
                look(&Window { start: start as usize, bytes: &bytes, elements })
            };
            if next >= numel {
                return look();
            }
            fetched = std::thread::scope(|scope| {
                let ahead = std::thread::Builder::new().spawn_scoped(scope, || self.fetch(next));
                look()?;
                match ahead {
                    Ok(ahead) => ahead.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    Err(_) => self.fetch(next),
                }
            })?;
            start = next;
        }
    }

    fn fetch(&self, start: u64) -> Result<Fetched> {
        let count = self.step.min(self.tensor.numel() - start);
        let window = self.tensor.window(start, count);
        let window =
            window.ok_or_else(|| Error::damaged("its size overflows").in_tensor(&self.tensor.name))?;
        let bytes = self.checkpoint.tensor_bytes(&window)?.into_owned();
        Ok((window, bytes))
    }
}
