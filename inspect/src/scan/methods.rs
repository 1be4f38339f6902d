//! Entries of zips that are compressed otherwise than with Deflate, in the ways that Python's `zipfile` reads (4.4.5).

use std::io::Read;

use crate::bytes::compression::Compression;
use crate::zip::word;

/// Methods that are those of whole files, by the ends of their names.
const OF_FILES: [(u64, &str); 3] = [(12, "bz2"), (93, "zst"), (95, "xz")];
const LZMA: u64 = 14;
/// Version of the program, and size of the properties (5.8.8).
const LZMA_HEADER: usize = 4;
const LEAST_DICTIONARY: u32 = 4096;

/// What `packed` gives by the `method`, at most about `most` bytes; `None` if that is no method that is read. What comes before
/// an error is given, as a loader reads it before it meets the error.
pub(super) fn unpack(method: u64, packed: &[u8], most: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    if let Some((_, extension)) = OF_FILES.iter().find(|(known, _)| *known == method) {
        // An error comes after what was read.
        let _ = Compression::promised_by(extension)?.unpack(packed, most, &mut out);
        return Some(out);
    }
    if method != LZMA {
        return None;
    }
    let header = packed.get(..LZMA_HEADER + 5).and_then(|header| {
        let is_known = word(header, 2, 2)? == 5;
        is_known.then_some((header[LZMA_HEADER], word(header, LZMA_HEADER + 1, 4)?))
    });
    if let Some((properties, dictionary)) = header {
        // No more of it is used than there are bytes.
        let dictionary = u32::try_from(dictionary.min(most)).unwrap_or(u32::MAX).max(LEAST_DICTIONARY);
        let rest = &packed[LZMA_HEADER + 5..];
        if let Ok(reader) =
            lzma_rust2::LzmaReader::new_with_props(rest, u64::MAX, properties, dictionary, None)
        {
            let _ = reader.take(most).read_to_end(&mut out);
        }
    }
    Some(out)
}
