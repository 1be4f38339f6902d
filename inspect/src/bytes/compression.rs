//! Compressions that wrap a whole file.

/// A compression format for whole files.
pub(crate) struct Compression {
    magic: &'static [u8],
    pub name: &'static str,
    /// The program that decompresses it.
    pub undone_by: &'static str,
}

pub(crate) const GZIP: Compression = Compression { magic: b"\x1f\x8b", name: "gzip", undone_by: "gunzip" };
pub(crate) const ZSTD: Compression =
    Compression { magic: b"\x28\xb5\x2f\xfd", name: "Zstandard", undone_by: "unzstd" };

const COMPRESSIONS: [Compression; 5] = [
    GZIP,
    ZSTD,
    Compression { magic: b"\xfd7zXZ\0", name: "xz", undone_by: "unxz" },
    Compression { magic: b"BZh", name: "bzip2", undone_by: "bunzip2" },
    Compression { magic: b"\x04\x22\x4d\x18", name: "LZ4", undone_by: "unlz4" },
];

impl Compression {
    /// The compression of a file that begins with `head`.
    pub fn of(head: &[u8]) -> Option<&'static Compression> {
        COMPRESSIONS.iter().find(|compression| compression.begins(head))
    }

    /// Whether a file that begins with `head` is compressed this way.
    pub fn begins(&self, head: &[u8]) -> bool {
        head.starts_with(self.magic)
    }
}
