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
    /// Whether frames of other data may stand before its streams.
    skips: bool,
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
        skips: false,
        begins: |head| head.starts_with(b"\x1f\x8b"),
        stream: |packed| Ok(Box::new(Gzip::begin(packed)?)),
    },
    Compression {
        key: "zstd",
        extension: "zst",
        name: "Zstandard",
        undone_by: "unzstd",
        is_vague: false,
        skips: true,
        begins: |head| head.starts_with(b"\x28\xb5\x2f\xfd"),
        stream: |packed| Ok(Box::new(zstd::Frames::new(packed))),
    },
    Compression {
        key: "xz",
        extension: "xz",
        name: "xz",
        undone_by: "unxz",
        is_vague: false,
        skips: false,
        begins: |head| head.starts_with(b"\xfd7zXZ\0"),
        stream: |packed| Ok(Box::new(lzma_rust2::XzReader::new_mem_limit(packed, false, MOST_MEMORY))),
    },
    Compression {
        key: "bzip2",
        extension: "bz2",
        name: "bzip2",
        undone_by: "bunzip2",
        is_vague: false,
        skips: false,
        begins: |head| head.starts_with(b"BZh"),
        stream: |packed| Ok(Box::new(bzip2::bufread::BzDecoder::new(packed))),
    },
    Compression {
        key: "lz4",
        extension: "lz4",
        name: "LZ4",
        undone_by: "unlz4",
        is_vague: false,
        skips: true,
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
        skips: false,
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
        skips: false,
        begins: |head| matches!(head, [0x5d, 0, ..]),
        stream: |packed| {
            Ok(Box::new(lzma_rust2::LzmaReader::new_mem_limit(ByteByByte(packed), MOST_MEMORY, None)?))
        },
    },
];

/// `bytes` behind the frames that readers of Zstandard and LZ4 skip (RFC 8878, section 3.1.2).
fn behind_skipped(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, after @ ..] = rest {
        let len = u32::from_le_bytes([*a, *b, *c, *d]);
        rest = usize::try_from(len).ok().and_then(|len| after.get(len..)).unwrap_or(&[]);
    }
    rest
}

/// A stream of gzip (RFC 1952) as Python reads it, which looks neither at the checksum of the header nor at reserved flags.
struct Gzip<'r> {
    inner: flate2::bufread::DeflateDecoder<&'r mut dyn BufRead>,
    crc: crc32fast::Hasher,
    len: u32,
    is_over: bool,
}

impl<'r> Gzip<'r> {
    fn begin(packed: &'r mut dyn BufRead) -> io::Result<Self> {
        let mut fixed = [0; 10];
        packed.read_exact(&mut fixed)?;
        if fixed[2] != 8 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not compressed with Deflate"));
        }
        let has = |bit: u32| fixed[3] >> bit & 1 == 1;
        let mut two = [0; 2];
        if has(2) {
            packed.read_exact(&mut two)?;
            let extra = u64::from(u16::from_le_bytes(two));
            io::copy(&mut packed.take(extra), &mut io::sink())?;
        }
        // The file's name, and a comment.
        for _ in [3, 4].into_iter().filter(|bit| has(*bit)) {
            let mut byte = [1];
            while byte != [0] {
                packed.read_exact(&mut byte)?;
            }
        }
        if has(1) {
            packed.read_exact(&mut two)?;
        }
        let inner = flate2::bufread::DeflateDecoder::new(packed);
        Ok(Gzip { inner, crc: crc32fast::Hasher::new(), len: 0, is_over: false })
    }
}

impl Read for Gzip<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out)?;
        self.crc.update(&out[..read]);
        self.len = self.len.wrapping_add(read as u32);
        if read == 0 && !out.is_empty() && !self.is_over {
            self.is_over = true;
            let mut end = [0; 8];
            self.inner.get_mut().read_exact(&mut end)?;
            let known = [self.crc.clone().finalize().to_le_bytes(), self.len.to_le_bytes()].concat();
            if known != end {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "its checksum or its length is another",
                ));
            }
        }
        Ok(read)
    }
}

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
        (self.begins)(head) || self.skips && (self.begins)(behind_skipped(head))
    }

    /// Appends to `out` what the streams of `packed`, one after another, decompress to, until `out` has more than `limit`
    /// bytes. Many streams of few bytes are not followed: some formats need megabytes for each.
    ///
    /// # Errors
    /// For what does not decompress, is cut short, or follows the last stream; `out` has what came before.
    pub fn unpack(&self, mut packed: &[u8], limit: u64, out: &mut Vec<u8>) -> io::Result<()> {
        let most_streams = MOST_STREAMS + packed.len() / BYTES_PER_STREAM;
        for _ in 0..most_streams {
            if self.skips {
                packed = behind_skipped(packed);
            }
            let room = limit.saturating_add(1).saturating_sub(out.len() as u64);
            (self.stream)(&mut packed)?.take(room).read_to_end(out)?;
            // Zero bytes may fill the last block of a tape.
            let zeros = packed.iter().take_while(|byte| **byte == 0).count();
            packed = &packed[zeros..];
            if self.skips {
                packed = behind_skipped(packed);
            }
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

    /// Reserved flags, and a header with a checksum that is wrong, an extra field, a name and a comment, as Python reads them.
    #[test]
    fn headers_of_gzip_are_read_as_python_reads_them() {
        let plain = gzip(b"some text");
        let with =
            |flags: u8, fields: &[u8]| [&plain[..3], &[flags], &plain[4..10], fields, &plain[10..]].concat();
        for packed in [
            with(0xe0, b""),
            with(2, b"\0\0"),
            with(0x1f, b"\x03\0abcname\0comment\0\0\0"),
            [with(8, b"a\0"), with(0, b"")].concat(),
        ] {
            assert!(unpacked(&packed).unwrap().starts_with(b"some text"));
        }
        let mut wrong = plain.clone();
        let crc = wrong.len() - 8;
        wrong[crc] ^= 1;
        assert!(unpacked(&wrong).is_err() && unpacked(&plain[..crc]).is_err());
        assert!(unpacked(&with(8, b"a")[..12]).is_err());
    }

    #[test]
    fn frames_that_are_skipped_come_before_others() {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(b"some text").unwrap();
        let frame = encoder.finish().unwrap();
        let skipped = b"\x53\x2a\x4d\x18\x04\0\0\0abcd";
        assert_eq!(unpacked(&[skipped, &frame[..]].concat()).unwrap(), b"some text");
        assert_eq!(unpacked(&[&frame[..], skipped, skipped, &frame].concat()).unwrap().len(), 18);
        assert!(Compression::of(skipped).is_none() && Compression::of(&skipped[..9]).is_none());
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
