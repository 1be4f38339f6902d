//! GGUF versions 2 and 3 in both byte orders (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>):
//!
//! ```text
//! "GGUF", u32 version, u64 tensors, u64 keys
//! per key:    string name, u32 value type, value
//! per tensor: string name, u32 dimensions, u64 sizes (fastest first), u32 type, u64 offset within the data
//! padding to the alignment, then the data, each tensor on a multiple of the alignment
//! ```
//!
//! A string is a u64 length and as many bytes; an array is a u32 element type, a u64 length and its elements. All of it
//! is in the writing machine's byte order except for the magic; the version shows which order that is.
//!
//! The parser is our own because `gguf-rs`, the second opinion in the tests, allocates what a string's length announces
//! (up to 1 GiB) before it checks that the bytes are there, and refuses nested arrays. Here nothing is copied:
//! values are views of the file, arrays are checked once and read when asked for.

pub(crate) mod read;
mod value;
mod write;

use std::collections::HashSet;

pub(crate) use read::CONTAINER;
pub use value::{Array, Value, ValueType};
pub use write::{Encode, Entry as OutputEntry, Keys, Layout};

use crate::bytes::{Short, text};
use crate::error::bytes_that;
use crate::ggml::GgmlType;
use crate::{Damage, DamageKind, Error, Notice, NoticeKind, Result};
use value::Cursor;

/// The first four bytes, in either byte order.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The version to write.
pub const VERSION: u32 = 3;
/// The first version whose sizes are 64 bits wide, the oldest that is read. Version 3 differs in allowing big-endian.
pub const OLDEST_VERSION: u32 = 2;
/// Data and tensors begin at multiples of this unless [`ALIGNMENT_KEY`] says otherwise.
pub const DEFAULT_ALIGNMENT: u64 = 32;
/// The key of the architecture, whose name other keys begin with.
pub const ARCHITECTURE: &str = "general.architecture";
/// The key of the alignment, a u32 and a power of two.
pub const ALIGNMENT_KEY: &str = "general.alignment";
/// Dimensions of a tensor, at most.
pub const MAX_DIMS: usize = 4;
/// What bitnet.cpp calls its architectures.
const BITNET: [&str; 3] = ["bitnet-b1.58", "bitnet", "bitnet-25"];
/// Arrays within arrays, at most.
pub const DEEPEST_ARRAY: usize = 8;
/// Arrays longer than this are only described in plain values.
pub const LONGEST_PLAIN: usize = 1024;

/// `position` rounded up to a multiple of `alignment`, which is not 0; `None` on overflow.
pub fn padded(position: u64, alignment: u64) -> Option<u64> {
    position.checked_next_multiple_of(alignment)
}

/// A tensor as the header describes it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tensor {
    /// Its name; invalid UTF-8 is replaced.
    pub name: String,
    /// Its type.
    pub ggml: GgmlType,
    /// Row-major shape: the file's sizes reversed, unless the header is [`Header::transposed`].
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub offset: u64,
    /// Its size in bytes; 0 if that is unknown.
    pub bytes: u64,
    /// Why its bytes cannot be read, if so.
    pub damage: Option<Damage>,
}

/// Everything before a GGUF file's data.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Header<'a> {
    /// Version of the format.
    pub version: u32,
    /// Whether numbers are big-endian.
    pub big_endian: bool,
    /// Tensors begin at multiples of this, relative to the data's first byte.
    pub alignment: u64,
    /// The data's first byte in the file.
    pub data_offset: u64,
    /// Keys and values in file order; repeated keys are left out.
    pub keys: Vec<(String, Value<'a>)>,
    /// Tensors in file order; repeated names are left out.
    pub tensors: Vec<Tensor>,
    /// Whether sizes are read with the slowest dimension first, as in PyTorch's shapes. One exporter wrote
    /// them so; [`Checkpoint::gguf_header`](crate::Checkpoint::gguf_header) detects it from the embedding's width, and
    /// [`Header::parse`] does not.
    pub transposed: bool,
    /// Why the list of keys and tensors ends early, if it does.
    pub damage: Option<Damage>,
    /// What the user should know.
    pub warnings: Vec<Notice>,
    /// The number of bytes at the start of the file that it was read from.
    extent: u64,
}

impl<'a> Header<'a> {
    /// Parses the header of the GGUF file `bytes`, and checks where its tensors are. A header that is cut short gives
    /// the keys and tensors before the cut, with [`Header::damage`] set.
    ///
    /// # Errors
    /// `Unrecognised` for another format, `Unsupported` for another version, `Damaged` when not one key or tensor can
    /// be listed though some are announced.
    pub fn parse(bytes: &'a [u8]) -> Result<Header<'a>> {
        Self::parse_of(bytes, bytes.len() as u64, false)?
    }

    /// [`Header::parse`] of the first `bytes` of a file of `file_len`, whose sizes are in PyTorch's order where it is
    /// `transposed`.
    pub(crate) fn parse_of(
        bytes: &'a [u8],
        file_len: u64,
        transposed: bool,
    ) -> std::result::Result<Result<Header<'a>>, Short> {
        let mut cursor = Cursor::new(bytes, file_len, false);
        let header = Self::read(&mut cursor, file_len, transposed);
        cursor.short.map_or(Ok(header), Err)
    }

    fn read(cursor: &mut Cursor<'a>, file_len: u64, transposed: bool) -> Result<Header<'a>> {
        match cursor.take(MAGIC.len() as u64) {
            Ok(magic) if *magic == MAGIC => {}
            Err(error) if cursor.short.is_some() => return Err(error),
            _ => return Err(Error::new(crate::ErrorKind::Unrecognised, "does not begin with `GGUF`")),
        }
        let version = cursor.u32()?;
        // A version is a small number, so its high bytes are zero in the right order.
        cursor.big_endian = version & 0xffff == 0;
        let version = if cursor.big_endian { version.swap_bytes() } else { version };
        if !(OLDEST_VERSION..=VERSION).contains(&version) {
            let hint = match version {
                1 => {
                    "version 1 dates from 2023, and llama.cpp no longer reads it either; convert the original model again"
                }
                _ => "versions 2 and 3 are supported; unless a newer program wrote it, the file is damaged",
            };
            return Err(Error::unsupported(format!("is GGUF version {version}")).at(4).hint(hint));
        }
        let (tensors, keys) = (cursor.u64()?, cursor.u64()?);
        let mut header = Header {
            version,
            big_endian: cursor.big_endian,
            alignment: DEFAULT_ALIGNMENT,
            data_offset: file_len,
            keys: Vec::new(),
            tensors: Vec::new(),
            transposed,
            damage: None,
            warnings: Vec::new(),
            extent: 0,
        };
        let mut entries = Vec::new();
        let listed =
            header.read_keys(cursor, keys).and_then(|()| header.read_entries(cursor, tensors, &mut entries));
        header.extent = cursor.position();
        if let Err(error) = listed {
            if header.keys.is_empty() && entries.is_empty() {
                return Err(error);
            }
            header.damage = Some(error.into());
        }
        let unknown = |what: String| Some(Damage::new(DamageKind::UnknownPlace, what));
        let unknown_place = match (header.read_alignment(), &header.damage) {
            (Err(error), _) => unknown(error.to_string()),
            (Ok(()), Some(_)) => {
                unknown("the header is cut short, so the position of the data is unknown".into())
            }
            (Ok(()), None) => None,
        };
        if header.damage.is_none() {
            header.damage.clone_from(&unknown_place);
            header.data_offset = padded(cursor.position(), header.alignment).unwrap_or(u64::MAX);
        }
        header.place(entries, unknown_place, file_len);
        Ok(header)
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.keys.iter().find(|(k, _)| k == key).map(|(_, value)| *value)
    }

    /// The architecture that it names.
    pub fn architecture(&self) -> Option<String> {
        self.get(ARCHITECTURE)?.to_text()
    }

    /// The value of `key` of the file's architecture: `key("block_count")` is `qwen3.block_count` in a file whose
    /// `general.architecture` is `qwen3`.
    pub fn of_architecture(&self, key: &str) -> Option<Value<'a>> {
        self.get(&format!("{}.{key}", self.architecture()?))
    }

    /// The strings of the array `key`, such as `tokenizer.ggml.tokens`; bytes, since tokens need not be UTF-8.
    pub fn strings(&self, key: &str) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        let array = self.get(key)?.as_array().filter(|a| a.element_type() == ValueType::String)?;
        Some(array.iter().map(|v| v.as_bytes().unwrap_or_default()))
    }

    /// The numbers of the array `key`, such as `tokenizer.ggml.scores`, as f32.
    pub fn floats(&self, key: &str) -> Option<Vec<f32>> {
        self.get(key)?.as_array()?.iter().map(|v| v.as_f64().map(|x| x as f32)).collect()
    }

    /// The integers of the array `key`, such as `tokenizer.ggml.token_type`.
    pub fn integers(&self, key: &str) -> Option<Vec<i64>> {
        self.get(key)?.as_array()?.iter().map(|v| v.as_i64()).collect()
    }

    fn read_keys(&mut self, cursor: &mut Cursor<'a>, count: u64) -> Result<()> {
        let mut seen = HashSet::new();
        let mut again = Repeats::default();
        let mut read = || -> Result<()> {
            for number in 0..count {
                let of = |e: Error| within(e, "key", number, count);
                let key = cursor.string().map_err(of)?;
                let kind = cursor.value_type().map_err(of)?;
                let value = cursor.value(kind, 0).map_err(of)?;
                if seen.insert(key) {
                    self.keys.push((text(key), value));
                } else {
                    again.note(key);
                }
            }
            Ok(())
        };
        let outcome = read();
        self.warnings.extend(again.warning("key"));
        outcome
    }

    fn read_entries(
        &mut self,
        cursor: &mut Cursor<'a>,
        count: u64,
        entries: &mut Vec<Entry<'a>>,
    ) -> Result<()> {
        let mut seen = HashSet::new();
        let mut again = Repeats::default();
        let mut read = || -> Result<()> {
            for number in 0..count {
                let entry = Entry::read(cursor).map_err(|e| within(e, "tensor", number, count))?;
                if seen.insert(entry.name) {
                    entries.push(entry);
                } else {
                    again.note(entry.name);
                }
            }
            Ok(())
        };
        let outcome = read();
        self.warnings.extend(again.warning("tensor"));
        outcome
    }

    fn read_alignment(&mut self) -> Result<()> {
        match self.get(ALIGNMENT_KEY) {
            None => Ok(()),
            Some(Value::Uint32(n)) if n.is_power_of_two() => {
                self.alignment = n.into();
                Ok(())
            }
            Some(other) => {
                let found = match other.as_i64() {
                    Some(n) => format!("the {} {n}", other.value_type().name()),
                    None => format!("of type {}", other.value_type().name()),
                };
                Err(Error::damaged(format!(
                    "`{ALIGNMENT_KEY}` is {found}, not a uint32 that is a power of two, so the position of the data is unknown"
                )))
            }
        }
    }

    /// Tells the TL2 of bitnet.cpp from MXFP4, which has the same number: in a file of one of its architectures, where
    /// some tensor of this number has no room for MXFP4 before the next one, they are TL2.
    fn settle_tl2(&self, entries: &mut [Entry<'a>], file_len: u64) {
        if !self.architecture().is_some_and(|name| BITNET.contains(&&*name)) {
            return;
        }
        let mut ends: Vec<u64> = entries.iter().map(|entry| entry.offset).collect();
        ends.push(file_len.saturating_sub(self.data_offset));
        ends.sort_unstable();
        let too_small = |entry: &Entry<'_>| {
            let end = ends.get(ends.partition_point(|&end| end <= entry.offset)).copied();
            let room = end.unwrap_or(u64::MAX).saturating_sub(entry.offset);
            entry.ggml == GgmlType::MXFP4
                && entry.ggml.bytes_for(&entry.shape(self.transposed)).is_none_or(|bytes| bytes > room)
        };
        if entries.iter().any(too_small) {
            let theirs = entries.iter_mut().filter(|entry| entry.ggml == GgmlType::MXFP4);
            theirs.for_each(|entry| entry.ggml = GgmlType::TL2);
        }
    }

    /// Turns entries into tensors: shapes, positions, and damage.
    fn place(&mut self, mut entries: Vec<Entry<'a>>, unknown_place: Option<Damage>, file_len: u64) {
        if self.transposed {
            self.warnings.push(Notice::new(
                NoticeKind::ForeignOrder,
                "its dimensions are in PyTorch's order instead of GGUF's; they are read as intended here, but other programs will not load the file",
            ));
        }
        self.settle_tl2(&mut entries, file_len);
        let mut misaligned = 0;
        for entry in entries {
            let shape = entry.shape(self.transposed);
            let offset = self.data_offset.checked_add(entry.offset);
            let bytes = entry.ggml.bytes_for(&shape);
            let end = offset.zip(bytes).and_then(|(offset, bytes)| offset.checked_add(bytes));
            misaligned += usize::from(!entry.offset.is_multiple_of(self.alignment));
            let damaged = |kind, what: String| Some(Damage::new(kind, what));
            let damage = if unknown_place.is_some() {
                unknown_place.clone()
            } else if !entry.ggml.is_known() {
                let what = format!("{} is an unknown type: newer than this program, or damaged", entry.ggml);
                damaged(DamageKind::UnknownType, what)
            } else if bytes.is_none() {
                let elements = entry.ggml.block_elements();
                let what =
                    format!("its shape overflows, or its rows do not fill blocks of {elements} elements");
                damaged(DamageKind::Shape, what)
            } else {
                match end {
                    Some(end) if end <= file_len || bytes == Some(0) => None,
                    Some(end) => damaged(
                        DamageKind::CutShort,
                        format!(
                            "the file is cut short: its data would end at byte {end}, the file ends at {file_len}"
                        ),
                    ),
                    None => damaged(DamageKind::UnknownPlace, "its offset is beyond any file".into()),
                }
            };
            self.tensors.push(Tensor {
                name: text(entry.name),
                ggml: entry.ggml,
                shape,
                offset: offset.unwrap_or(u64::MAX),
                bytes: bytes.unwrap_or(0),
                damage,
            });
        }
        if misaligned > 0 {
            let alignment = self.alignment;
            let are = if misaligned == 1 { " is" } else { "s are" };
            let text = format!("{misaligned} tensor{are} not aligned to multiples of {alignment} bytes");
            self.warnings.push(Notice::new(NoticeKind::Misaligned, text));
        }
        self.find_overlaps();
        let end = self.tensors.iter().filter(|t| t.damage.is_none()).map(|t| t.offset + t.bytes).max();
        let end = end.and_then(|end| padded(end, self.alignment)).unwrap_or(self.data_offset);
        if self.damage.is_none() && file_len > end && self.tensors.iter().all(|t| t.damage.is_none()) {
            let text = bytes_that(file_len - end, "follow") + " the last tensor";
            self.warnings.push(Notice::new(NoticeKind::Surplus, text));
        }
    }

    /// Marks tensors whose bytes overlap. Two on exactly the same bytes share them, which is harmless.
    fn find_overlaps(&mut self) {
        let mut order: Vec<usize> = (0..self.tensors.len())
            .filter(|&i| self.tensors[i].damage.is_none() && self.tensors[i].bytes > 0)
            .collect();
        order.sort_by_key(|&i| (self.tensors[i].offset, self.tensors[i].bytes));
        let range = |t: &Tensor| (t.offset, t.offset + t.bytes);
        let Some(mut farthest) = order.first().copied() else { return };
        for &i in &order[1..] {
            let (reach, own) = (range(&self.tensors[farthest]), range(&self.tensors[i]));
            if own.0 < reach.1 && own != reach {
                for (one, other) in [(i, farthest), (farthest, i)] {
                    let what = format!("its bytes overlap those of `{}`", quoted(&self.tensors[other].name));
                    self.tensors[one].damage.get_or_insert(Damage::new(DamageKind::Overlap, what));
                }
            }
            if own.1 > reach.1 {
                farthest = i;
            }
        }
    }
}

fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// A tensor's entry in the file.
struct Entry<'a> {
    name: &'a [u8],
    dims: usize,
    sizes: [u64; MAX_DIMS],
    ggml: GgmlType,
    offset: u64,
}

impl<'a> Entry<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self> {
        let name = cursor.string()?;
        let dims = cursor.u32()? as usize;
        if dims > MAX_DIMS {
            let name = quoted(&text(name));
            return Err(cursor
                .error(format!("`{name}` has {dims} dimensions, more than {MAX_DIMS}"))
                .because(DamageKind::Inconsistent));
        }
        let mut sizes = [1; MAX_DIMS];
        for size in &mut sizes[..dims] {
            *size = cursor.u64()?;
        }
        let ggml = match GgmlType(cursor.u32()?) {
            // Not a number of files.
            GgmlType::TL2 => GgmlType(u32::MAX),
            ggml => ggml,
        };
        Ok(Entry { name, dims, sizes, ggml, offset: cursor.u64()? })
    }

    /// The row-major shape; `transposed` if the file has it so.
    fn shape(&self, transposed: bool) -> Vec<usize> {
        let sizes = self.sizes[..self.dims].iter();
        let mut shape: Vec<usize> = sizes.map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
        if !transposed {
            shape.reverse();
        }
        shape
    }
}

/// Names that occur more than once.
#[derive(Default)]
struct Repeats {
    count: usize,
    first: Option<String>,
}

impl Repeats {
    fn note(&mut self, name: &[u8]) {
        self.count += 1;
        self.first.get_or_insert_with(|| quoted(&text(name)));
    }

    fn warning(self, what: &str) -> Option<Notice> {
        let first = self.first?;
        let text = match self.count {
            1 => format!("1 {what} name occurs more than once: `{first}`; the first occurrence is used"),
            n => format!(
                "{n} {what} names occur more than once, such as `{first}`; the first occurrence is used"
            ),
        };
        Some(Notice::new(NoticeKind::Duplicate, text))
    }
}

/// A name for a message: control characters escaped, and cut if it is long.
fn quoted(name: &str) -> String {
    const LONGEST: usize = 80;
    let start: String = name.chars().take(LONGEST).collect();
    let more = if start.len() < name.len() { "…" } else { "" };
    format!("{}{more}", start.escape_debug())
}

/// Adds to `error` the entry of the header in which it happened.
fn within(mut error: Error, what: &str, number: u64, count: u64) -> Error {
    error.what = format!("the header's {what} {} of {count}: {}", number + 1, error.what);
    error.hint("the file was cut short or overwritten; download or copy it again")
}
