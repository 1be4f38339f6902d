//! Storages of PyTorch's: numbers, which may look like anything, and which another loader may read as a file of its own.

use std::io::BufReader;

use super::content::{Place, Scanner};
use super::hdf5;
use super::pickles::Stream;
use crate::Result;
use crate::bytes::compression::Compression;
use crate::bytes::{ByteSource, Reader};
use crate::format::{self, Family, HEAD};

/// First bytes of other files that no numbers are likely to be: NumPy's, zips, HDF5, and what is compressed.
const OTHERWISE: [&[u8]; 6] =
    [b"\x93NUMPY", b"PK\x03\x04", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"BZh", hdf5::MAGIC];

/// Whether the entry called `name` is called as PyTorch calls a storage: by a number, of the storage or of where it was in memory.
/// Whatever else a pickle refers to as one, other loaders may read by its name.
pub(super) fn names_storage(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a loader that takes `data` for a file would find one by its first bytes.
fn is_a_file(data: &dyn ByteSource, head: &[u8]) -> bool {
    let archive = |family| {
        matches!(family, Family::Zip | Family::Npz | Family::Npy | Family::Tar | Family::TorchLegacy)
    };
    OTHERWISE.iter().any(|magic| head.starts_with(magic))
        || format::candidates(head).any(|container| archive(container.family))
        || Compression::perhaps(head).is_some_and(|compression| {
            compression.begins_well(&mut BufReader::new(Reader { source: data, at: 0 }))
        })
}

impl Scanner<'_> {
    /// Scans the storage `data`.
    pub(super) fn storage(&mut self, data: &dyn ByteSource, place: &Place) -> Result<()> {
        self.members += 1;
        let head = data.window(0, HEAD)?;
        if is_a_file(data, &head) {
            self.dispatch(data, "", place)?;
        } else if matches!(*head, [0x80, 2..=5, ..]) {
            self.pickles(data, place, Stream::Chance)?;
        } else {
            self.bare(data, &head, "", place)?;
        }
        Ok(())
    }
}
