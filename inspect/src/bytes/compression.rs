//! Compressions that wrap a whole file.

use std::io::{self, BufRead, Read};

use super::zstd;

/// What a stream's own header may ask for to decompress it, in KiB: the largest preset of xz takes 65 MiB.
const MOST_MEMORY: u32 = 512 << 10;

/// The most streams that are followed in a file of any size,
const MOST_STREAMS: usize = 64;
/// and one more for as many bytes.
const BYTES_PER_STREAM: usize = 1024;

/// A compression format for whole files.
pub(crate) struct Compression {
    /// A stable lower-case name.
    pub key: &'static str,
    /// What is appended to the name of a file.
    pub extension: &'static str,
    pub name: &'static str,
    /// The program that decompresses it.
    pub undone_by: &'static str,
    /// Whether its first bytes are too few to tell it from other files, so that the name has to promise it.
    pub is_vague: bool,
    begins: fn(&[u8]) -> bool,
    /// Reads one stream and no byte beyond it, or all of them.
    stream: for<'r> fn(&'r mut dyn BufRead) -> io::Result<Box<dyn Read + 'r>>,
}

/// Those that pandas, joblib, NumPy's users and PyTorch's writer of distributed checkpoints use.
pub(crate) const COMPRESSIONS: [Compression; 7] = [
    Compression {
        key: "gzip",
        extension: "gz",
        name: "gzip",
        undone_by: "gunzip",
        is_vague: false,
        begins: |head| head.starts_with(b"\x1f\x8b"),
        stream: |packed| Ok(Box::new(flate2::bufread::GzDecoder::new(packed))),
    },
    Compression {
        key: "zstd",
        extension: "zst",
        name: "Zstandard",
        undone_by: "unzstd",
        is_vague: false,
        begins: |head| head.starts_with(b"\x28\xb5\x2f\xfd"),
        stream: |packed| Ok(Box::new(zstd::Frames::new(packed))),
    },
    Compression {
        key: "xz",
        extension: "xz",
        name: "xz",
        undone_by: "unxz",
        is_vague: false,
        begins: |head| head.starts_with(b"\xfd7zXZ\0"),
        stream: |packed| Ok(Box::new(lzma_rust2::XzReader::new_mem_limit(packed, false, MOST_MEMORY))),
    },
    Compression {
        key: "bzip2",
        extension: "bz2",
        name: "bzip2",
        undone_by: "bunzip2",
        is_vague: false,
        begins: |head| head.starts_with(b"BZh"),
        stream: |packed| Ok(Box::new(bzip2::bufread::BzDecoder::new(packed))),
    },
    Compression {
        key: "lz4",
        extension: "lz4",
        name: "LZ4",
        undone_by: "unlz4",
        is_vague: false,
        begins: |head| head.starts_with(b"\x04\x22\x4d\x18"),
        stream: |packed| Ok(Box::new(lz4_flex::frame::FrameDecoder::new(packed))),
    },
    // joblib compresses with zlib by default.
    Compression {
        key: "zlib",
        extension: "z",
        name: "zlib",
        undone_by: "zlib-flate -uncompress",
        is_vague: true,
        begins: |head| matches!(head, [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..]),
        stream: |packed| Ok(Box::new(flate2::bufread::ZlibDecoder::new(packed))),
    },
    // Properties, and a dictionary of a power of two or three, as xz and Python's lzma write them.
    Compression {
        key: "lzma",
        extension: "lzma",
        name: "LZMA",
        undone_by: "unlzma",
        is_vague: true,
        begins: |head| matches!(head, [0x5d, 0, ..]),
        stream: |packed| {
            Ok(Box::new(lzma_rust2::LzmaReader::new_mem_limit(ByteByByte(packed), MOST_MEMORY, None)?))
        },
    },
];

/// A reader that takes no more than it is about to use, for one that keeps what it takes: what follows is another's.
struct ByteByByte<'r>(&'r mut dyn BufRead);

impl Read for ByteByByte<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(1);
        self.0.read(&mut out[..most])
    }
}

impl Compression {
    /// The compression of a file that begins with `head`, if its first bytes are enough to tell.
    pub fn of(head: &[u8]) -> Option<&'static Compression> {
        COMPRESSIONS.iter().find(|compression| !compression.is_vague && compression.begins(head))
    }

    /// The compression that the extension of a file promises.
    pub fn promised_by(extension: &str) -> Option<&'static Compression> {
        COMPRESSIONS.iter().find(|compression| compression.extension == extension)
    }

    /// The compression that a file that begins with `head` may have.
    pub fn perhaps(head: &[u8]) -> Option<&'static Compression> {
        COMPRESSIONS.iter().find(|compression| compression.begins(head))
    }

    /// Whether the first bytes of `packed` decompress: a stream of something, or one of nothing that another follows.
    pub fn begins_well(&self, packed: &mut dyn BufRead) -> bool {
        const TRIED: u64 = 1 << 16;
        let mut out = Vec::new();
        let read = (self.stream)(packed).and_then(|stream| stream.take(TRIED).read_to_end(&mut out));
        match read {
            Ok(0) => {
                let next = packed.bytes().map_while(std::result::Result::ok).find(|byte| *byte != 0);
                next.is_some_and(|first| self.begins(&[first, 0]) || self.begins(&[first, 0x9c]))
            }
            read => read.is_ok(),
        }
    }

    /// Whether a file that begins with `head` is compressed this way.
    pub fn begins(&self, head: &[u8]) -> bool {
        (self.begins)(head)
    }

    /// Appends to `out` what the streams of `packed`, one after another, decompress to, until `out` has more than `limit`
    /// bytes. Many streams of few bytes are not followed: some formats need megabytes for each.
    ///
    /// # Errors
    /// For what does not decompress, is cut short, or follows the last stream; `out` has what came before.
    pub fn unpack(&self, mut packed: &[u8], limit: u64, out: &mut Vec<u8>) -> io::Result<()> {
        let most_streams = MOST_STREAMS + packed.len() / BYTES_PER_STREAM;
        for _ in 0..most_streams {
            let room = limit.saturating_add(1).saturating_sub(out.len() as u64);
            (self.stream)(&mut packed)?.take(room).read_to_end(out)?;
            // Zero bytes may fill the last block of a tape.
            let zeros = packed.iter().take_while(|byte| **byte == 0).count();
            packed = &packed[zeros..];
            if out.len() as u64 > limit || packed.is_empty() {
                return Ok(());
            }
            // Readers differ in what they make of other bytes: some ignore them, some refuse the file.
            if !self.begins(packed) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "other bytes follow"));
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {most_streams} streams")))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpacked(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Compression::of(packed).unwrap().unpack(packed, 1 << 20, &mut out).map(|()| out)
    }

    #[test]
    fn streams_follow_each_other_wherever_one_ends() {
        for len in 8150..8200 {
            let packed = [gzip(&vec![7; len]), gzip(b"more"), vec![0; 5]].concat();
            assert_eq!(unpacked(&packed).unwrap().len(), len + 4, "{len}");
        }
        assert!(unpacked(&[gzip(b"one"), b"other".to_vec()].concat()).is_err());
    }

    /// Python's `lzma` goes on to the next stream, whatever the one before held.
    #[test]
    fn streams_of_lzma_follow_each_other() {
        let empty = b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0\x83\xff\xfb\xff\xff\xc0\0\0\0";
        let mut encoder = lzma_rust2::LzmaWriter::new_use_header(
            Vec::new(),
            &lzma_rust2::LzmaOptions::with_preset(1),
            None,
        )
        .unwrap();
        encoder.write_all(b"some text").unwrap();
        let text = encoder.finish().unwrap();
        let lzma = Compression::promised_by("lzma").unwrap();
        for (packed, len) in [
            ([&text[..], &text].concat(), 18),
            ([&empty[..], &text].concat(), 9),
            ([&text[..], empty, &text, &[0; 9]].concat(), 18),
        ] {
            let mut out = Vec::new();
            lzma.unpack(&packed, 1 << 20, &mut out).unwrap();
            assert_eq!(out.len(), len);
            assert!(lzma.begins_well(&mut &packed[..]));
        }
        assert!(!lzma.begins_well(&mut &empty[..]));
    }

    /// Each takes megabytes to decompress, whatever it holds.
    #[test]
    fn frames_of_nothing_are_not_followed_for_ever() {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(b"x").unwrap();
        let frame = encoder.finish().unwrap();
        assert!(unpacked(&frame.repeat(2000)).unwrap_err().to_string().contains("streams"));
    }
}
