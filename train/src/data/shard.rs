//! Tokenized shards: the documents of one data file as tokens, kept in a folder so that text is encoded once. A shard
//! is named by what it was made from: the file's path, inode, length and times, and the tokenizer.
//!
//! Layout, little-endian: [`MAGIC`], the name (32 bytes), then a record per document: where the next document begins in
//! the data file (u64), length (u32), tokens (i32, those that do not count in the loss as -id - 1). A bad line has a
//! length of [`BAD`], then the bytes (u32) of why, and the text. A text without some of its lines has a length of
//! [`MENDED`], then how many lines (u32) and where each begins (u32), and then length and tokens. The end is a record at
//! [`END`]. Each record ends with the CRC-32C (u32) of all before it: where it differs, the shard is removed.

use std::fs::{File, Metadata};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ckpt_inspect::staged::StagedFile;
use sha2::{Digest, Sha256};

use super::documents::Document;
use super::{decode, encode};

const MAGIC: &[u8; 8] = b"ckpttok3";
const BAD: u32 = u32::MAX;
const MENDED: u32 = u32::MAX - 1;
const END: u64 = u64::MAX;

/// The path of a data file's shard, and its name.
#[derive(Clone, Debug)]
pub(super) struct Place {
    path: PathBuf,
    name: [u8; 32],
}

impl Place {
    /// The path in `folder` of `file`'s tokens by the tokenizer of this fingerprint; `None` if the file cannot be
    /// identified.
    pub fn of(folder: &Path, file: &Path, fingerprint: [u8; 32]) -> Option<Place> {
        let full = std::fs::canonicalize(file).ok()?;
        let metadata = std::fs::metadata(&full).ok()?;
        let time = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let mut hash = Sha256::new();
        hash.update(full.as_os_str().as_encoded_bytes());
        hash.update(metadata.len().to_le_bytes());
        hash.update(time.as_nanos().to_le_bytes());
        // A file that replaces another may have its size and time.
        for number in identity(&metadata) {
            hash.update(number.to_le_bytes());
        }
        hash.update(fingerprint);
        let name: [u8; 32] = hash.finalize().into();
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Place { path: folder.join(format!("{hex}.tokens")), name })
    }
}

/// When anything about a file changed, which no program can set, and its inode.
#[cfg(unix)]
fn identity(metadata: &Metadata) -> [i128; 2] {
    use std::os::unix::fs::MetadataExt;
    [i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()), metadata.ino().into()]
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> [i128; 2] {
    [0; 2]
}

/// A shard that is read.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    reader: BufReader<File>,
    /// The checksum of what was read of a record.
    sum: u32,
    /// Bytes that are left.
    left: u64,
}

impl Shard {
    /// The shard at `place` from the document on that begins at `offset` of the data file; `None` if it does not exist
    /// or is incomplete.
    pub fn open(place: &Place, offset: u64) -> Option<Shard> {
        let file = File::open(&place.path).ok()?;
        let left = file.metadata().ok()?.len();
        let reader = BufReader::with_capacity(1 << 16, file);
        let mut shard = Shard { path: place.path.clone(), reader, sum: 0, left };
        let mut head = [0; MAGIC.len() + 32];
        shard.read(&mut head)?;
        if head[..MAGIC.len()] != *MAGIC || head[MAGIC.len()..] != place.name {
            return None;
        }
        let mut at = 0;
        while at < offset {
            at = shard.skip()?;
        }
        (at == offset).then_some(shard)
    }

    /// The next document and where the one after it begins; the inner `None` at the end, the outer one when the shard
    /// is damaged, which is then removed.
    pub fn next(&mut self) -> Option<Option<(Document, u64)>> {
        self.sum = 0;
        let record = self.record().filter(|_| {
            let sum = self.sum;
            self.array().map(u32::from_le_bytes) == Some(sum)
        });
        if record.is_none() {
            let _ = std::fs::remove_file(&self.path);
        }
        record
    }

    fn record(&mut self) -> Option<Option<(Document, u64)>> {
        let next = u64::from_le_bytes(self.array()?);
        let length = u32::from_le_bytes(self.array()?);
        if next == END {
            return Some(None);
        }
        let document = match length {
            BAD => {
                let length = u32::from_le_bytes(self.array()?);
                Document::Bad(String::from_utf8(self.bytes(length.into())?).ok()?)
            }
            MENDED => {
                let lines = u32::from_le_bytes(self.array()?);
                let bad = self.words(lines)?.into_iter().map(|word| word as u32).collect();
                let length = u32::from_le_bytes(self.array()?);
                Document::Mended { bad, tokens: decode(&self.words(length)?) }
            }
            length => Document::Tokens(decode(&self.words(length)?)),
        };
        Some(Some((document, next)))
    }

    /// Skips a document, and returns where the next one begins.
    fn skip(&mut self) -> Option<u64> {
        let next = u64::from_le_bytes(self.array()?);
        let bytes = match u32::from_le_bytes(self.array()?) {
            _ if next == END => return None,
            BAD => u32::from_le_bytes(self.array()?).into(),
            MENDED => {
                let lines = u32::from_le_bytes(self.array()?);
                self.words(lines)?;
                u64::from(u32::from_le_bytes(self.array()?)) * 4
            }
            length => u64::from(length) * 4,
        };
        let bytes = bytes.checked_add(4)?;
        self.left = self.left.checked_sub(bytes)?;
        self.reader.seek_relative(i64::try_from(bytes).ok()?).ok()?;
        Some(next)
    }

    fn read(&mut self, out: &mut [u8]) -> Option<()> {
        self.left = self.left.checked_sub(out.len() as u64)?;
        self.reader.read_exact(out).ok()?;
        self.sum = crc32c::crc32c_append(self.sum, out);
        Some(())
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut out = [0; N];
        self.read(&mut out).map(|()| out)
    }

    fn words(&mut self, count: u32) -> Option<Vec<i32>> {
        let bytes = self.bytes(u64::from(count) * 4)?;
        let word = |b: &[u8]| i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Some(bytes.chunks_exact(4).map(word).collect())
    }

    fn bytes(&mut self, count: u64) -> Option<Vec<u8>> {
        if count > self.left {
            return None;
        }
        let mut out = vec![0; count as usize];
        self.read(&mut out).map(|()| out)
    }
}

/// A shard that is written while its data file is read for the first time.
#[derive(Debug)]
pub(super) struct Recorder {
    file: BufWriter<StagedFile>,
}

impl Recorder {
    /// Begins the shard; `None` if the folder cannot be written, which does not prevent training.
    pub fn begin(place: Place) -> Option<Recorder> {
        let folder = place.path.parent()?;
        std::fs::create_dir_all(folder).ok()?;
        let file = StagedFile::begin(&place.path, true).ok()?;
        let mut file = BufWriter::with_capacity(1 << 16, file);
        file.write_all(MAGIC).and_then(|()| file.write_all(&place.name)).ok()?;
        Some(Recorder { file })
    }

    /// Adds a document, after which the next one begins at `next`; `None` when that fails.
    pub fn add(&mut self, document: &Document, next: u64) -> Option<()> {
        let length = |n: usize| u32::try_from(n).ok().filter(|n| *n < MENDED).map(u32::to_le_bytes);
        let bytes: Vec<u8> = match document {
            Document::Tokens(tokens) => {
                let words = encode(tokens).into_iter().flat_map(i32::to_le_bytes);
                length(tokens.len())?.into_iter().chain(words).collect()
            }
            Document::Mended { tokens, bad } => {
                let head = [MENDED.to_le_bytes(), length(bad.len())?].into_iter().flatten();
                let lines = bad.iter().flat_map(|at| at.to_le_bytes());
                let words = encode(tokens).into_iter().flat_map(i32::to_le_bytes);
                head.chain(lines).chain(length(tokens.len())?).chain(words).collect()
            }
            Document::Bad(why) => {
                let why = (length(why.len())?, why.bytes());
                BAD.to_le_bytes().into_iter().chain(why.0).chain(why.1).collect()
            }
            Document::Window(_) | Document::Skipped => return None,
        };
        self.record(next, &bytes)
    }

    fn record(&mut self, next: u64, bytes: &[u8]) -> Option<()> {
        let next = next.to_le_bytes();
        let sum = crc32c::crc32c_append(crc32c::crc32c(&next), bytes).to_le_bytes();
        [&next, bytes, &sum].into_iter().try_for_each(|part| self.file.write_all(part)).ok()
    }

    /// Ends the shard: from here on it is used.
    pub fn end(mut self) -> Option<()> {
        // A record's second field is always there.
        self.record(END, &0u32.to_le_bytes())?;
        self.file.into_inner().ok()?.commit().ok()
    }
}
