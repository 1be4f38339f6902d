//! Compressed files of text, by their extensions.

use std::fs::File;
use std::io::{self, Read};

/// How what is in a file is decompressed.
pub(super) type Packing = fn(File) -> io::Result<Box<dyn Read + Send>>;

/// The kinds of compression: gzip (RFC 1952) and Zstandard (RFC 8878), each of any number of members or frames.
const PACKINGS: [(&str, Packing); 2] = [
    ("gz", |file| Ok(Box::new(flate2::read::MultiGzDecoder::new(file)))),
    ("zst", |file| Ok(Box::new(zstd::Decoder::new(file)?))),
];

/// The kind of compression that a file name's last `extension`, in lower case, promises.
pub(super) fn by_extension(extension: &str) -> Option<Packing> {
    PACKINGS.into_iter().find(|(name, _)| *name == extension).map(|(_, packing)| packing)
}
