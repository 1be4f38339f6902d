//! Tensors of a source as what an edit computes with: their elements in f64, from any piece on.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ckpt_inspect::{Checkpoint, DamageKind, Error as ReadError, Memory, Result as ReadResult, TensorInfo};
use crc32fast::Hasher;

use super::derived::{PIECE, is_made};
use super::sum;
use crate::plan::Elements;

/// What tensors of one checkpoint are read with. They know where their bytes are; it has the name for messages, and what had to be
/// copied last.
#[derive(Debug)]
pub(crate) struct Reader {
    /// A checkpoint of the same path without tensors.
    named: Checkpoint,
    /// The bytes of the last tensor that had to be inflated, gathered or spread as a whole.
    recent: Mutex<Option<(TensorInfo, Arc<Vec<u8>>)>>,
}

impl Reader {
    /// Reads tensors of the checkpoint at `path`.
    pub fn new(path: &Path) -> Arc<Reader> {
        Arc::new(Reader { named: Memory::new(path).open(), recent: Mutex::new(None) })
    }

    /// Where the checkpoint is.
    pub fn path(&self) -> &Path {
        &self.named.path
    }

    /// The bytes of `tensor`, which have to be copied: those of the last one are kept.
    fn copied(&self, tensor: &TensorInfo) -> ReadResult<Arc<Vec<u8>>> {
        let same = |kept: &TensorInfo| kept.name == tensor.name && kept.storage == tensor.storage;
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = recent.as_ref().filter(|(kept, _)| same(kept)) {
            return Ok(bytes.clone());
        }
        // The one before goes first.
        *recent = None;
        let bytes = Arc::new(self.named.spread(tensor)?.into_owned());
        *recent = Some((tensor.clone(), bytes.clone()));
        Ok(bytes)
    }
}

/// A tensor of a source.
#[derive(Debug)]
pub(crate) struct Input {
    reader: Arc<Reader>,
    elements: Elements<'static>,
    check: Option<Check>,
}

impl Input {
    /// `tensor` of the checkpoint that `reader` reads.
    pub fn new(reader: &Arc<Reader>, tensor: &TensorInfo) -> Self {
        Input { reader: reader.clone(), elements: Elements::new(tensor.clone(), None), check: None }
    }

    /// The same, comparing it with the checksum of its storage while it is read, if [`has_own_checksum`].
    pub fn checked(mut self) -> Self {
        self.check = own_checksum(self.tensor()).map(|crc| Check::new(crc, self.tensor().numel() as usize));
        self
    }

    /// The tensor.
    pub fn tensor(&self) -> &TensorInfo {
        &self.elements.tensor
    }

    /// The elements `range` as a tensor of their own, if they are of a floating-point type and stored one after another.
    pub fn part(&self, range: &Range<usize>) -> Option<TensorInfo> {
        let tensor = self.tensor();
        is_made(tensor.dtype).then(|| tensor.stretch(range.start as u64, range.len() as u64)).flatten()
    }

    /// The bytes of `part`, which is the elements `range`.
    pub fn stored<'p>(&'p self, range: &Range<usize>, part: &'p TensorInfo) -> ReadResult<Cow<'p, [u8]>> {
        let bytes = self.reader.named.tensor_bytes(part)?;
        if let Some(check) = &self.check {
            check.saw(range, &bytes).map_err(|e| e.in_tensor(&part.name).in_file(self.reader.path()))?;
        }
        Ok(bytes)
    }

    /// The elements `range` as numbers.
    pub fn numbers(&self, range: Range<usize>) -> ReadResult<Vec<f64>> {
        let tensor = self.tensor();
        if let Some(part) = self.part(&range) {
            let bytes = self.stored(&range, &part)?;
            // To which adding keeps the sign of a zero.
            let mut numbers = vec![-0.0; range.len()];
            sum::add(&bytes, tensor.dtype, 1.0, &mut numbers);
            return Ok(numbers);
        }
        let copies = tensor.sparse.is_some() || self.reader.named.copied_bytes(tensor) > 0;
        let (copied, borrowed);
        let bytes: &[u8] = match copies {
            true => {
                copied = self.reader.copied(tensor)?;
                &copied
            }
            false => {
                borrowed = self.reader.named.tensor_bytes(tensor)?;
                &borrowed
            }
        };
        let elements = self.reader.named.elements_in(self.elements.dense(), bytes)?.real();
        let elements = elements.map_err(|e| e.in_tensor(&tensor.name).in_file(self.reader.path()))?;
        let mut numbers = vec![0.0; range.len()];
        elements.read_f64(range.start, &mut numbers);
        Ok(numbers)
    }

    /// All elements in f32.
    pub fn to_f32(&self) -> ReadResult<Vec<f32>> {
        let len = self.tensor().numel() as usize;
        let mut all = Vec::with_capacity(len);
        for start in (0..len).step_by(PIECE) {
            all.extend(self.numbers(start..len.min(start + PIECE))?.into_iter().map(|x| x as f32));
        }
        Ok(all)
    }

    /// Whether all of its bytes are those of `other`, which has its type and shape.
    pub fn is_same(&self, other: &Input) -> ReadResult<bool> {
        let bytes = |input: &'_ Input| -> ReadResult<Vec<u8>> {
            Ok(input.reader.named.spread(input.tensor())?.into_owned())
        };
        if self.tensor().numel() <= PIECE as u64 {
            return Ok(bytes(self)? == bytes(other)?);
        }
        for start in (0..self.tensor().numel()).step_by(PIECE) {
            let count = (self.tensor().numel() - start).min(PIECE as u64);
            let (Some(a), Some(b)) =
                (self.tensor().stretch(start, count), other.tensor().stretch(start, count))
            else {
                return Ok(bytes(self)? == bytes(other)?);
            };
            if self.reader.named.tensor_bytes(&a)? != other.reader.named.tensor_bytes(&b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The checksum of the bytes of `tensor`, where it is all of a storage that has one, in order, and is read as it is stored.
fn own_checksum(tensor: &TensorInfo) -> Option<u32> {
    let storage = tensor.storage.as_ref()?;
    let whole = tensor.byte_offset == 0 && tensor.byte_len() == Some(storage.byte_len());
    let plain = is_made(tensor.dtype) && tensor.numel() > 0 && storage.place().is_some();
    (whole && plain && tensor.stretch(0, tensor.numel()).is_some()).then(|| storage.crc32())?
}

/// Whether reading `tensor` once from beginning to end is enough to compare it with its checksum.
pub(crate) fn has_own_checksum(tensor: &TensorInfo) -> bool {
    own_checksum(tensor).is_some()
}

/// The checksum of a tensor, of which pieces are seen in any order.
#[derive(Debug)]
struct Check {
    recorded: u32,
    /// Elements.
    len: usize,
    /// For each piece its checksum and number of bytes, above them; 0 until it was seen.
    pieces: Vec<AtomicU64>,
    left: AtomicUsize,
}

impl Check {
    fn new(recorded: u32, len: usize) -> Check {
        let count = len.div_ceil(PIECE);
        let pieces = (0..count).map(|_| AtomicU64::new(0)).collect();
        Check { recorded, len, pieces, left: AtomicUsize::new(count) }
    }

    /// Takes notice of the `bytes` of the elements `range`; compares when all pieces have been seen.
    fn saw(&self, range: &Range<usize>, bytes: &[u8]) -> ReadResult<()> {
        let piece = range.start / PIECE;
        let is_whole = range.start == piece * PIECE && range.end == self.len.min(range.start + PIECE);
        if !is_whole || self.pieces[piece].load(Ordering::Relaxed) != 0 {
            return Ok(());
        }
        let seen = (bytes.len() as u64) << 32 | u64::from(crc32fast::hash(bytes));
        if self.pieces[piece].swap(seen, Ordering::AcqRel) != 0
            || self.left.fetch_sub(1, Ordering::AcqRel) != 1
        {
            return Ok(());
        }
        let mut whole = Hasher::new();
        for piece in &self.pieces {
            let seen = piece.load(Ordering::Acquire);
            whole.combine(&Hasher::new_with_initial_len(seen as u32, seen >> 32));
        }
        let found = whole.finalize();
        match found == self.recorded {
            true => Ok(()),
            false => Err(ReadError::damaged(format!(
                "checksum mismatch: CRC-32 is {found:08x}, the file records {:08x}",
                self.recorded
            ))
            .because(DamageKind::ChecksumMismatch)),
        }
    }
}
