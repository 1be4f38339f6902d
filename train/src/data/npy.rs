//! Token ids in NumPy's `.npy` form (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>): read in
//! rows as they are needed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ckpt_inspect::{DType, ErrorKind, npy};

use crate::{Error, Result};

/// An array of token ids in C order, as rows.
#[derive(Debug)]
pub(super) struct Npy {
    path: PathBuf,
    file: File,
    /// Where elements begin.
    start: u64,
    kind: Kind,
    pub rows: u64,
    /// Elements in a row; all but the first dimension of an array of two or more are rows of the last.
    pub cols: usize,
    /// Whether the array has one dimension.
    pub flat: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    U8,
    U16,
    I16,
    U32,
    I32,
    I64,
}

impl Kind {
    fn of(header: &npy::Header) -> Option<Kind> {
        let (dtype, big_endian) = header.numbers().ok()?;
        if big_endian {
            return None;
        }
        Some(match dtype {
            DType::U8 => Kind::U8,
            DType::U16 => Kind::U16,
            DType::I16 => Kind::I16,
            DType::U32 => Kind::U32,
            DType::I32 => Kind::I32,
            DType::I64 | DType::U64 => Kind::I64,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Kind::U8 => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 => 4,
            Kind::I64 => 8,
        }
    }

    fn decode(self, b: &[u8]) -> Option<u32> {
        match self {
            Kind::U8 => Some(b[0].into()),
            Kind::U16 => Some(u16::from_le_bytes([b[0], b[1]]).into()),
            Kind::I16 => u32::try_from(i16::from_le_bytes([b[0], b[1]])).ok(),
            Kind::U32 => Some(u32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Kind::I32 => u32::try_from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])).ok(),
            Kind::I64 => u32::try_from(i64::from_le_bytes(b.try_into().ok()?)).ok(),
        }
    }
}

impl Npy {
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::read(path, e);
        let bad = |what: &str| Error::data(path, what);
        let mut file = File::open(path).map_err(io)?;
        let mut beginning = Vec::new();
        (&mut file).take(npy::MAX_HEADER + 12).read_to_end(&mut beginning).map_err(io)?;
        let header = npy::Header::parse(&beginning).map_err(|error| match error.kind {
            ErrorKind::Unrecognised => bad("cannot be read: it is not a .npy file"),
            _ => bad(&format!("cannot be read: {}", error.what)),
        })?;
        let kind = Kind::of(&header).ok_or_else(|| {
            bad("does not contain integers that can be token ids; save it as int32, int64, uint16 or uint32")
        })?;
        if header.fortran {
            return Err(bad("is in Fortran order; save numpy.ascontiguousarray(x) instead"));
        }
        let dims: Vec<u64> = header.shape.iter().map(|&d| d as u64).collect();
        let flat = dims.len() == 1;
        let cols = if flat { 1 } else { *dims.last().ok_or_else(|| bad("is a scalar"))? };
        let rows = dims[..dims.len() - usize::from(!flat)].iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let bytes = rows.and_then(|r| r.checked_mul(cols)?.checked_mul(kind.size() as u64));
        let start = header.start;
        let available = file.metadata().map_err(io)?.len().saturating_sub(start);
        match (rows, bytes) {
            (Some(rows), Some(bytes)) if bytes <= available => {
                Ok(Npy { path: path.to_path_buf(), file, start, kind, rows, cols: cols as usize, flat })
            }
            _ => Err(bad("is shorter than its shape says")),
        }
    }

    /// The ids of `count` rows from `first`.
    pub fn read(&mut self, first: u64, count: usize) -> Result<Vec<u32>> {
        let io = |e| Error::read(&self.path, e);
        let size = self.kind.size();
        let at = self.start + first * (self.cols * size) as u64;
        self.file.seek(SeekFrom::Start(at)).map_err(io)?;
        let mut bytes = vec![0; count * self.cols * size];
        self.file.read_exact(&mut bytes).map_err(io)?;
        let ids: Option<Vec<u32>> = bytes.chunks_exact(size).map(|b| self.kind.decode(b)).collect();
        ids.ok_or_else(|| {
            Error::data(&self.path, format!("rows from {first} on contain a value that is not a token id"))
        })
    }
}
