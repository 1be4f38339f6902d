//! Zip archives: their entries by the central directory or, if that is damaged, by the headers that are left.
//! Numbers in parentheses are sections of APPNOTE.TXT (<https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io::Read;

use memchr::memmem;

use crate::bytes::{ByteSource, Section, text};
use crate::storage::inflate;
use crate::{DamageKind, Error, Result};

/// Signature of a local file header (4.3.7).
pub const LOCAL_HEADER: &[u8; 4] = b"PK\x03\x04";
/// Signature of a data descriptor (4.3.9).
pub const DATA_DESCRIPTOR: &[u8; 4] = b"PK\x07\x08";
/// Signature of a central directory header (4.3.12).
pub const CENTRAL_HEADER: &[u8; 4] = b"PK\x01\x02";
/// Signature of the zip64 end of central directory record (4.3.14).
pub const ZIP64_END: &[u8; 4] = b"PK\x06\x06";
/// Signature of the zip64 end of central directory locator (4.3.15).
pub const ZIP64_LOCATOR: &[u8; 4] = b"PK\x06\x07";
/// Signature of the end of central directory record (4.3.16).
pub const END: &[u8; 4] = b"PK\x05\x06";
/// Id of the zip64 extended information extra field (4.5.3).
pub const ZIP64_EXTRA: u16 = 1;
/// Bytes of the end of central directory record without its comment.
pub const END_RECORD: usize = 22;

/// Bytes of a local header before its name.
const LOCAL_RECORD: usize = 30;
/// Bytes of a central header before its name.
const CENTRAL_RECORD: usize = 46;
/// Flag of an encrypted entry (4.4.4, bit 0).
pub(crate) const ENCRYPTED: u16 = 1;
/// Flag of an entry whose sizes and CRC-32 follow its data (4.4.4, bit 3).
pub(crate) const SIZES_FOLLOW: u16 = 1 << 3;
/// An inflated entry that is read whole may be this much larger than its file: pickles of real checkpoints are far
/// smaller than their weights, and what is built from one is proportional to it.
const INFLATED_ALLOWANCE: u64 = 8 << 20;
/// Entries looked for in an archive without a directory.
const MOST_ENTRIES: usize = 1 << 22;
const CUT: &str = "it is cut short";

/// How an entry is compressed (4.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Stored,
    Deflated,
    /// Not read. PyTorch writes none of these.
    Other(u64),
}

impl Method {
    fn of(number: u64) -> Self {
        match number {
            0 => Method::Stored,
            8 => Method::Deflated,
            other => Method::Other(other),
        }
    }
}

/// One file of an archive.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub flags: u16,
    pub method: Method,
    /// Where its local header is.
    pub header: u64,
    /// Where its data begins.
    pub offset: u64,
    /// Bytes in the file, at most as many as exist.
    pub compressed: u64,
    /// Bytes announced once decoded.
    pub len: u64,
    pub crc32: Option<u32>,
    /// Whether all its bytes exist.
    pub whole: bool,
    /// Why its bytes cannot be trusted, if there is nothing to verify them with.
    pub doubt: Option<&'static str>,
    /// External file attributes (4.4.15): the upper half is the Unix mode.
    pub attributes: u32,
}

impl Entry {
    /// What two entries have in common that are read alike.
    pub fn identity(&self) -> (String, u64, Method, u64, u64) {
        (self.name.clone(), self.header, self.method, self.compressed, self.len)
    }
}

/// The result of reading the central directory at the end of a file.
#[derive(Debug)]
pub(crate) enum Directory {
    /// The entries of the one archive.
    Of(Central),
    /// The entries of the last archive; there are others before it.
    Several,
    /// No entries, and why: the directory is missing, cut short, or does not point to the entries that it names.
    Lost(&'static str),
}

/// A central directory.
#[derive(Debug)]
pub(crate) struct Central {
    pub entries: Vec<Entry>,
    /// Bytes before the archive, by which its offsets are shifted.
    pub prefix: u64,
    /// Where the end record, its comment included, ends.
    pub end: u64,
    /// Where the directory begins.
    pub start: u64,
}

/// A central header, unverified.
struct Record<'a> {
    name: Cow<'a, [u8]>,
    flags: u16,
    method: Method,
    crc32: u32,
    compressed: u64,
    len: u64,
    attributes: u32,
    /// Recorded place of the local header.
    local: u64,
    /// Length of the header itself.
    size: usize,
}

impl<'a> Record<'a> {
    /// The central header at `at` of `source`, if there is one.
    fn fetch(source: &'a dyn ByteSource, at: u64) -> Result<Option<Self>> {
        let size = source.window(at, CENTRAL_RECORD as u64)?;
        let lengths = [28, 30, 32].map(|field| word(&size, field, 2).unwrap_or(0));
        let size = CENTRAL_RECORD as u64 + lengths.iter().sum::<u64>();
        Ok(match source.window(at, size)? {
            Cow::Borrowed(bytes) => Record::read(bytes, 0),
            Cow::Owned(bytes) => Record::read(&bytes, 0).map(Record::into_owned),
        })
    }

    fn into_owned<'b>(self) -> Record<'b> {
        Record { name: Cow::Owned(self.name.into_owned()), ..self }
    }

    /// The central header at `at` of `bytes`, if there is one.
    fn read(bytes: &'a [u8], at: usize) -> Option<Self> {
        let header = bytes.get(at..).filter(|h| h.starts_with(CENTRAL_HEADER))?;
        let lengths = [word(header, 28, 2)?, word(header, 30, 2)?, word(header, 32, 2)?];
        let [name_len, extra_len, comment_len] = lengths.map(|n| n as usize);
        let name = header.get(CENTRAL_RECORD..CENTRAL_RECORD + name_len)?;
        let extra = header.get(CENTRAL_RECORD + name_len..CENTRAL_RECORD + name_len + extra_len)?;
        let mut sizes = [word(header, 24, 4)?, word(header, 20, 4)?, word(header, 42, 4)?];
        widen(extra, &mut sizes);
        let [len, compressed, local] = sizes;
        Some(Record {
            name: Cow::Borrowed(name),
            flags: word(header, 8, 2)? as u16,
            method: Method::of(word(header, 10, 2)?),
            crc32: word(header, 16, 4)? as u32,
            attributes: word(header, 38, 4)? as u32,
            compressed,
            len,
            local,
            size: CENTRAL_RECORD + name_len + extra_len + comment_len,
        })
    }

    /// The entry whose local header is at `header` and whose data begins at `offset`.
    fn entry(&self, header: u64, offset: u64, file_len: u64) -> Entry {
        let left = file_len.saturating_sub(offset);
        Entry {
            name: text(&self.name),
            flags: self.flags,
            method: self.method,
            header,
            offset,
            compressed: self.compressed.min(left),
            len: self.len,
            crc32: Some(self.crc32),
            whole: self.compressed <= left,
            doubt: None,
            attributes: self.attributes,
        }
    }
}

/// A local header, unverified.
pub(crate) struct Local<'a> {
    pub name: Cow<'a, [u8]>,
    pub flags: u16,
    pub method: Method,
    pub crc32: u32,
    pub compressed: u64,
    pub len: u64,
    /// Where the data begins.
    pub data: u64,
}

impl<'a> Local<'a> {
    /// The local header at `at`, if there is one.
    pub fn read(source: &'a dyn ByteSource, at: u64) -> Result<Option<Self>> {
        let fixed = source.window(at, LOCAL_RECORD as u64)?;
        if !fixed.starts_with(LOCAL_HEADER) {
            return Ok(None);
        }
        let Some((name_len, extra_len)) = word(&fixed, 26, 2).zip(word(&fixed, 28, 2)) else {
            return Ok(None);
        };
        let after = at + LOCAL_RECORD as u64;
        let Some(name) = source.part(after, name_len)? else { return Ok(None) };
        let Some(extra) = source.part(after + name_len, extra_len)? else { return Ok(None) };
        let number = |at: usize, width: usize| word(&fixed, at, width).unwrap_or(0);
        let mut sizes = [number(22, 4), number(18, 4)];
        widen(&extra, &mut sizes);
        let [len, compressed] = sizes;
        Ok(Some(Local {
            name,
            flags: number(6, 2) as u16,
            method: Method::of(number(8, 2)),
            crc32: number(14, 4) as u32,
            compressed,
            len,
            data: after + name_len + extra_len,
        }))
    }

    /// Whether sizes and CRC-32 follow the data instead of being in this header.
    pub fn sizes_follow(&self) -> bool {
        self.flags & SIZES_FOLLOW != 0 && self.compressed == 0
    }
}

/// Whether an end of central directory record is where some reader would find one.
pub(crate) fn has_directory(source: &dyn ByteSource) -> Result<bool> {
    Ok(!end_records(source)?.is_empty())
}

/// Whether any existing central header names an entry that `wanted` accepts.
pub(crate) fn names_in_directory(source: &dyn ByteSource, wanted: fn(&[u8]) -> bool) -> Result<bool> {
    for at in source.positions(CENTRAL_HEADER, 0..source.len(), MOST_ENTRIES)? {
        if Record::fetch(source, at)?.is_some_and(|record| wanted(&record.name)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An end of central directory record, and where it is.
type EndRecord = (u64, [u8; END_RECORD]);

/// The end of central directory records that readers take (4.3.16), each once: the last whose comment fits; the last,
/// whatever its comment (PyTorch, Python); the last whose comment ends with the file (libzip).
fn end_records(source: &dyn ByteSource) -> Result<Vec<EndRecord>> {
    let start = source.len().saturating_sub((END_RECORD + usize::from(u16::MAX)) as u64);
    let tail = source.bytes(start..source.len())?;
    let (mut fits, mut last, mut exact) = (None, None, None);
    for at in memmem::rfind_iter(&tail, END) {
        let Some(record) = tail.get(at..at + END_RECORD).and_then(|r| <[u8; END_RECORD]>::try_from(r).ok())
        else {
            continue;
        };
        let end = at + END_RECORD + word(&record, 20, 2).unwrap_or(0) as usize;
        let found = (start + at as u64, record);
        last = last.or(Some(found));
        fits = fits.or((end <= tail.len()).then_some(found));
        exact = exact.or((end == tail.len()).then_some(found));
    }
    let mut records: Vec<EndRecord> = Vec::new();
    for found in [fits, last, exact].into_iter().flatten() {
        if !records.contains(&found) {
            records.push(found);
        }
    }
    Ok(records)
}

/// What readers make of the end of an archive (4.3.12 to 4.3.16).
pub(crate) struct Readings {
    /// The entries that PyTorch finds.
    pub usual: Directory,
    /// What others find that differs: by another end record, by another zip64 record or none, or as many headers as the
    /// directory's size holds (Python) and not as many as it counts (PyTorch).
    pub others: Vec<Directory>,
}

impl Readings {
    /// Those of an archive that ends before its end record.
    pub fn lost() -> Self {
        Readings { usual: Directory::Lost(CUT), others: Vec::new() }
    }
}

impl Readings {
    /// How readers disagree about what the archive holds, if they do. Some, such as PyTorch's, find entries without regard to
    /// `case`.
    pub fn disagreement(&self, case: bool) -> Option<String> {
        let Directory::Of(usual) = &self.usual else { return None };
        let known: HashSet<_> = usual.entries.iter().map(Entry::identity).collect();
        let differs = |other: &&Directory| match other {
            Directory::Of(other) => {
                other.entries.len() != known.len()
                    || other.entries.iter().any(|e| !known.contains(&e.identity()))
            }
            Directory::Several => true,
            Directory::Lost(_) => false,
        };
        if self.others.iter().any(|other| differs(&other)) {
            return Some(
                "it has several directories of entries, and readers differ in which they take".into(),
            );
        }
        let mut names = HashSet::new();
        let mut repeated = usual.entries.iter().filter(|entry| match case {
            true => !names.insert(Cow::Borrowed(entry.name.as_str())),
            false => !names.insert(Cow::Owned(entry.name.to_lowercase())),
        });
        let name = repeated.next()?.name.escape_debug();
        Some(format!("it has several entries called `{name}`, and readers differ in which they take"))
    }
}

/// The readings of the archive `source`.
///
/// # Errors
/// When the bytes cannot be read.
pub(crate) fn readings(source: &dyn ByteSource) -> Result<Readings> {
    let records = end_records(source)?;
    let usual_record = records.iter().find(|record| fits(source, record));
    let (mut usual, mut others) = (None, Vec::new());
    for record in &records {
        let is_usual = Some(record) == usual_record;
        let announced = announced(source, record)?;
        let mut found = Vec::new();
        for announced in &announced {
            let (counted, whole) = directory_of(source, record, announced, Until::Count)?;
            found.push(counted);
            if !whole
                && let (sized @ Directory::Of(_), _) = directory_of(source, record, announced, Until::Size)?
            {
                found.push(sized);
            }
        }
        if announced.is_empty() {
            found.push(Directory::Lost("its zip64 record is not where it should be"));
        }
        // The offsets of an archive behind others lead into those, where another archive of the same size may match them.
        if found.iter().any(|reading| matches!(reading, Directory::Several)) {
            found = vec![Directory::Several];
        }
        let mut found = found.into_iter();
        if is_usual {
            usual = found.next();
        }
        others.extend(found);
    }
    Ok(Readings { usual: usual.unwrap_or(Directory::Lost("there is none")), others })
}

/// [`Readings::usual`] of the archive `source`.
///
/// # Errors
/// When the bytes cannot be read.
pub(crate) fn central_directory(source: &dyn ByteSource) -> Result<Directory> {
    Ok(readings(source)?.usual)
}

/// Whether the comment of an end record fits.
fn fits(source: &dyn ByteSource, (at, record): &EndRecord) -> bool {
    at + END_RECORD as u64 + word(record, 20, 2).unwrap_or(0) <= source.len()
}

/// What an end record says of its directory, or the zip64 record in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announced {
    count: u64,
    size: u64,
    start: u64,
    /// Where the record begins, before which the directory ends.
    record: u64,
}

/// Where a directory ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Count,
    Size,
}

/// What readers take for the description of the directory, the usual one first; none if a zip64 record is announced and
/// there is none.
fn announced(source: &dyn ByteSource, &(end, record): &EndRecord) -> Result<Vec<Announced>> {
    let field = |at, width| word(&record, at, width).unwrap_or(0);
    let narrow = Announced { count: field(10, 2), size: field(12, 4), start: field(16, 4), record: end };
    let Some(at) = end.checked_sub(20) else { return Ok(vec![narrow]) };
    let locator = source.window(at, 20)?;
    if !locator.starts_with(ZIP64_LOCATOR) {
        return Ok(vec![narrow]);
    }
    // Its offset is right unless bytes were put before the archive; then the record lies right before it, where Python
    // always looks.
    let mut found: Vec<Announced> = Vec::new();
    for place in [word(&locator, 8, 8), at.checked_sub(56)].into_iter().flatten() {
        let wide = source.window(place, 56)?;
        let fields = [32, 40, 48].map(|at| word(&wide, at, 8));
        if let ([Some(count), Some(size), Some(start)], true) = (fields, wide.starts_with(ZIP64_END)) {
            let wide = Announced { count, size, start, record: place };
            if !found.contains(&wide) {
                found.push(wide);
            }
        }
    }
    // libzip takes the narrow fields unless they say that they are too narrow.
    let agrees = |narrow: u64, limit: u64, wide: u64| narrow == limit || narrow == wide;
    if let Some(wide) = found.first()
        && !(agrees(narrow.count, u16::MAX.into(), wide.count)
            && agrees(narrow.size, u32::MAX.into(), wide.size)
            && agrees(narrow.start, u32::MAX.into(), wide.start))
    {
        found.push(narrow);
    }
    Ok(found)
}

/// The directory that an end record announces, and whether it holds exactly as many headers as announced.
fn directory_of(
    source: &dyn ByteSource,
    &(end, record): &EndRecord,
    announced: &Announced,
    until: Until,
) -> Result<(Directory, bool)> {
    let lost = |why| Ok((Directory::Lost(why), true));
    let &Announced { count, size, start, record: after } = announced;
    // Bytes put before the archive shift every offset by the same amount.
    let Some(actual) = after.checked_sub(size) else { return lost("its size is larger than the file") };
    let Some(shift) = actual.checked_sub(start) else {
        return lost("its recorded offset is after its actual position");
    };
    if shift > 0 && source.window(0, 4)?.starts_with(LOCAL_HEADER) {
        return match source.contains(END, 0..actual)? {
            true => Ok((Directory::Several, true)),
            false => lost("it is not at the offset that it records"),
        };
    }
    let headers = source.bytes(actual..after)?;
    let mut at = 0;
    let mut entries = Vec::new();
    loop {
        let done = match until {
            Until::Count => entries.len() as u64 == count,
            Until::Size => at >= headers.len(),
        };
        if done {
            break;
        }
        let Some(record) = Record::read(&headers, at) else {
            return Ok((Directory::Lost("an entry is damaged"), at < headers.len()));
        };
        let Some(local) = record.local.checked_add(shift) else { return lost("an offset overflows") };
        let Some(header) = Local::read(source, local)? else {
            return lost("an entry points to no local header");
        };
        entries.push(record.entry(local, header.data, source.len()));
        at += record.size;
    }
    let comment = word(&record, 20, 2).unwrap_or(0);
    let whole = at == headers.len();
    let end = end + END_RECORD as u64 + comment;
    Ok((Directory::Of(Central { entries, prefix: shift, end, start: actual }), whole))
}

/// Entries of an archive whose central directory cannot be followed, in file order: those of local headers, and those
/// known only from a central header. If two have the same name, the one with the right CRC-32 comes first.
///
/// # Errors
/// When the bytes cannot be read.
pub(crate) fn salvage(source: &dyn ByteSource) -> Result<Vec<Entry>> {
    let mut entries = walk_local_headers(source)?;
    let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, entry) in entries.iter().enumerate() {
        by_name.entry(entry.name.clone()).or_default().push(i);
    }
    let mut records: Vec<Record<'_>> = Vec::new();
    for at in source.positions(CENTRAL_HEADER, 0..source.len(), usize::MAX)? {
        records.extend(Record::fetch(source, at)?);
    }
    let mut starts: Vec<u64> = records.iter().map(|r| r.local).collect();
    starts.sort_unstable();
    // Each guess costs a checksum over the guessed range; together they read the file a few times at most.
    let mut budget = 4 * source.len();
    let mut seen: HashSet<&[u8]> = HashSet::new();
    for record in records.iter().filter(|r| seen.insert(&r.name)) {
        let name = text(&record.name);
        let known = by_name.get(&name).map_or(&[][..], Vec::as_slice);
        let mut places: Vec<(u64, u64)> =
            known.iter().map(|&i| (entries[i].header, entries[i].offset)).collect();
        if known.is_empty() {
            // Its header is gone. Its data ends where the next header begins, less a data descriptor; or, as PyTorch
            // writes it, begins at the next multiple of 64.
            let next = starts.partition_point(|&s| s <= record.local);
            let ends = starts.get(next).map_or(&[][..], std::slice::from_ref);
            for end in ends {
                places.extend([0, 16, 24].iter().filter_map(|descriptor| {
                    Some((record.local, end.checked_sub(*descriptor)?.checked_sub(record.compressed)?))
                }));
            }
            let after = record.local.saturating_add((LOCAL_RECORD + record.name.len()) as u64);
            places.extend(after.checked_next_multiple_of(64).map(|data| (record.local, data)));
            places.retain(|(header, data)| data > header);
        }
        let mut right = None;
        for (header, data) in places {
            let entry = record.entry(header, data, source.len());
            let Some(left) = budget.checked_sub(entry.compressed) else { continue };
            budget = left;
            if entry.whole && has_its_checksum(source, &entry)? {
                right = Some(entry);
                break;
            }
        }
        match (right, known) {
            (Some(entry), &[first, ..]) => entries[first] = entry,
            (Some(entry), []) => entries.push(entry),
            (None, known) => {
                // The directory's CRC-32 still shows whether the guess is right.
                for &i in known {
                    let entry = &mut entries[i];
                    if !entry.whole && entry.compressed >= record.compressed {
                        let placed = record.entry(entry.header, entry.offset, source.len());
                        *entry = Entry { name: name.clone(), ..placed };
                    }
                }
            }
        }
    }
    Ok(entries)
}

fn has_its_checksum(source: &dyn ByteSource, entry: &Entry) -> Result<bool> {
    let Some(raw) = Section::part(source, entry.offset, entry.compressed) else { return Ok(false) };
    let found = match entry.method {
        Method::Stored => (&raw as &dyn ByteSource).crc32()?,
        Method::Deflated if entry.len <= source.len() + INFLATED_ALLOWANCE => {
            let Ok(inflated) = inflate(&raw.bytes(0..raw.len)?, entry.len) else { return Ok(false) };
            crc32fast::hash(&inflated)
        }
        _ => return Ok(false),
    };
    Ok(entry.crc32 == Some(found))
}

/// Entries by their local headers (4.3.7), in file order.
fn walk_local_headers(source: &dyn ByteSource) -> Result<Vec<Entry>> {
    // A descriptor gives the length of the data before it, and thereby where the data begins.
    let mut descriptors: HashMap<u64, (u64, u64)> = HashMap::new();
    for at in source.positions(DATA_DESCRIPTOR, 0..source.len(), MOST_ENTRIES)? {
        let descriptor = source.window(at, 16)?;
        for width in [8, 4] {
            let size = word(&descriptor, 8, width);
            if let Some(start) = size.and_then(|size| at.checked_sub(size)) {
                descriptors.entry(start).or_insert((at, width as u64));
            }
        }
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut at = 0;
    let directory = source.positions(CENTRAL_HEADER, 0..source.len(), 1)?.first().copied();
    for found in source.positions(LOCAL_HEADER, 0..source.len(), usize::MAX)? {
        if found < at {
            continue;
        }
        let Some(local) = Local::read(source, found)?.filter(|l| is_plausible(&l.name)) else { continue };
        if let Some(last) = entries.last_mut().filter(|last| !last.whole) {
            // An entry that seemed to reach the end of the file ends here.
            last.compressed = last.compressed.min(found - last.offset);
            last.doubt = Some("its end and its checksum were overwritten");
        }
        let (entry, next) = local_entry(source, found, &local, &descriptors)?;
        at = next;
        entries.push(entry);
    }
    if let (Some(last), Some(directory)) = (entries.last_mut().filter(|e| !e.whole), directory)
        && directory >= last.offset
    {
        last.compressed = last.compressed.min(directory - last.offset);
        last.doubt = Some("its end and its checksum were overwritten");
    }
    Ok(entries)
}

/// Whether an archive of a checkpoint could contain this name.
fn is_plausible(name: &[u8]) -> bool {
    !name.is_empty() && String::from_utf8(name.to_vec()).is_ok_and(|n| !n.contains(char::is_control))
}

/// The entry of the header `local`, which is at `at`, and where the next header is expected.
fn local_entry(
    source: &dyn ByteSource,
    at: u64,
    local: &Local<'_>,
    descriptors: &HashMap<u64, (u64, u64)>,
) -> Result<(Entry, u64)> {
    let left = source.len() - local.data;
    let mut entry = Entry {
        name: text(&local.name),
        flags: local.flags,
        method: local.method,
        header: at,
        offset: local.data,
        compressed: local.compressed.min(left),
        len: local.len,
        crc32: Some(local.crc32),
        whole: local.compressed <= left,
        doubt: None,
        attributes: 0,
    };
    let mut next = local.data + entry.compressed;
    if local.sizes_follow() {
        let descriptor = match descriptors.get(&local.data) {
            Some(&(found, width)) => {
                let fields = source.window(found, 8 + 2 * width)?;
                let size = word(&fields, (8 + width) as usize, width as usize);
                size.zip(word(&fields, 4, 4)).map(|(size, crc32)| (found, size, crc32, 8 + 2 * width))
            }
            None => None,
        };
        if let Some((found, len, crc32, size)) = descriptor {
            entry.compressed = found - local.data;
            entry.len = len;
            entry.crc32 = Some(crc32 as u32);
            next = found + size;
        } else {
            entry.compressed = left;
            entry.len = left;
            entry.crc32 = None;
            entry.whole = false;
        }
    }
    if !entry.whole {
        next = local.data;
    }
    Ok((entry, next))
}

/// The decoded bytes of `entry`, which is read whole.
///
/// # Errors
/// `Damaged` when it is cut short or does not inflate, `Unsupported` for other compression and for an inflated size out
/// of proportion to the file.
pub(crate) fn content<'a>(source: &'a dyn ByteSource, entry: &Entry) -> Result<Cow<'a, [u8]>> {
    let raw = source.part(entry.offset, entry.compressed)?.filter(|_| entry.whole).ok_or_else(|| {
        Error::damaged(format!("the entry `{}` is cut short", entry.name))
            .because(DamageKind::CutShort)
            .at(entry.offset)
    })?;
    match entry.method {
        Method::Stored => return Ok(raw),
        Method::Deflated => {}
        Method::Other(number) => {
            let what = format!("the entry `{}` is compressed by zip method {number}", entry.name);
            return Err(Error::unsupported(what).at(entry.offset).hint("save it again with torch.save"));
        }
    }
    if entry.len > source.len() + INFLATED_ALLOWANCE {
        return Err(Error::unsupported(format!(
            "the entry `{}` inflates to {} bytes, which is out of proportion to the file",
            entry.name, entry.len
        ))
        .at(entry.offset));
    }
    inflate(&raw, entry.len).map(Cow::Owned).map_err(|e| e.at(entry.offset))
}

/// The name in the local header at the start of `bytes`.
pub(crate) fn first_name(bytes: &[u8]) -> Option<&[u8]> {
    let len = word(bytes, 26, 2)? as usize;
    bytes.get(LOCAL_RECORD..LOCAL_RECORD + len)
}

/// The first decoded bytes of `entry`, up to `most` of them.
///
/// # Errors
/// `Unsupported` for an unsupported compression, `Io` when the bytes cannot be read.
pub(crate) fn beginning(source: &dyn ByteSource, entry: &Entry, most: u64) -> Result<Vec<u8>> {
    // Deflate lengthens data by at most a few bytes per 32 KiB.
    let raw = source.window(entry.offset, entry.compressed.min(most + most / 1024 + 64))?;
    match entry.method {
        Method::Stored => Ok(raw[..raw.len().min(most as usize)].to_vec()),
        Method::Deflated => {
            let mut out = Vec::new();
            // Only what was decoded before an error, such as that of the cut, is needed.
            let _ = flate2::read::DeflateDecoder::new(&*raw).take(most).read_to_end(&mut out);
            Ok(out)
        }
        Method::Other(number) => {
            let what = format!("the entry `{}` is compressed by zip method {number}", entry.name);
            Err(Error::unsupported(what).at(entry.offset))
        }
    }
}

/// A little-endian word of `width` bytes.
pub(crate) fn word(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(bytes.get(at..at.checked_add(width)?)?);
    Some(u64::from_le_bytes(wide))
}

/// Replaces sizes of 2^32 - 1 by those of the zip64 extra field, which holds only these, in this order.
fn widen(mut extra: &[u8], sizes: &mut [u64]) {
    while let Some((id, size)) = word(extra, 0, 2).zip(word(extra, 2, 2)) {
        let Some(field) = extra.get(4..4 + size as usize) else { break };
        if id == u64::from(ZIP64_EXTRA) {
            let wide = sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX));
            for (i, size) in wide.enumerate() {
                *size = word(field, 8 * i, 8).unwrap_or(*size);
            }
        }
        extra = &extra[4 + size as usize..];
    }
}
