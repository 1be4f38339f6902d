//! What staging needs from the operating system beyond the standard library.

use std::fs::File;
use std::io;
use std::path::Path;

/// Reserves space for `len` bytes of `file`. Some file systems cannot do that; then a full disk is noticed while
/// writing.
#[cfg(any(unix, windows))]
pub fn reserve(file: &File, len: u64) -> io::Result<()> {
    match fs4::FileExt::allocate(file, len) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
        other => other,
    }
}

/// Bytes that may still be written in `folder`.
#[cfg(any(unix, windows))]
pub fn available_space(folder: &Path) -> io::Result<u64> {
    fs4::available_space(folder)
}

#[cfg(unix)]
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
pub fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}

#[cfg(not(any(unix, windows)))]
pub use no_files::{available_space, reserve, write_all_at};

/// Systems without files, such as WebAssembly in a browser: checkpoints are read from memory, and nothing is written.
#[cfg(not(any(unix, windows)))]
mod no_files {
    use super::*;

    pub fn reserve(_: &File, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn available_space(_: &Path) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn write_all_at(_: &File, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
