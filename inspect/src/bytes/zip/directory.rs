//! What readers make of the end of an archive: its end records, zip64 records and central directories.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use memchr::memmem;

use super::*;

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

/// Why there is no directory where it ends in front of its record.
const NOT_THERE: &str = "it is not at the offset that it records";

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
    /// How readers disagree about those entries of the archive that `matter`, if they do. Some, such as PyTorch's, find entries
    /// without regard to `case`.
    pub fn disagreement(&self, case: bool, matter: fn(&str) -> bool) -> Option<String> {
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
        let those = || usual.entries.iter().filter(|entry| matter(&entry.name));
        if let Some((entry, what)) = those().find_map(|entry| Some((entry, entry.disputed?))) {
            return Some(format!(
                "its directory and the header of its entry `{}` disagree on {what}, and readers differ in which they believe",
                entry.name.escape_debug()
            ));
        }
        let mut names = HashSet::new();
        let mut repeated = those().filter(|entry| match case {
            true => !names.insert(Cow::Borrowed(entry.name.as_str())),
            false => !names.insert(Cow::Owned(entry.name.to_lowercase())),
        });
        let name = repeated.next()?.name.escape_debug();
        let same = if case { "" } else { ", or so but for capital letters" };
        Some(format!("it has several entries called `{name}`{same}, and readers differ in which they take"))
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
            let recorded = match counted {
                Directory::Lost(NOT_THERE) => Some(
                    read_at(
                        source,
                        record,
                        announced.start..announced.record,
                        0,
                        Until::Count,
                        announced.count,
                    )?
                    .0,
                ),
                _ => None,
            };
            found.push(counted);
            // Some readers, such as PyTorch's, go where the record says, and by no distance from it.
            found.extend(recorded.filter(|reading| matches!(reading, Directory::Of(_))));
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

/// The entries that are where a directory at the end of `source` says, whatever else it names that is not: Python opens an
/// archive without looking at its entries, and may find the directory to begin before the place that it records.
///
/// # Errors
/// When the bytes cannot be read.
pub(crate) fn named(source: &dyn ByteSource) -> Result<Vec<Entry>> {
    let (mut entries, mut known): (Vec<Entry>, HashSet<_>) = (Vec::new(), HashSet::new());
    for record in end_records(source)? {
        for Announced { size, start, record: after, .. } in announced(source, &record)? {
            let Some(actual) = after.checked_sub(size) else { continue };
            let shift = i128::from(actual) - i128::from(start);
            let headers = source.bytes(actual..after)?;
            let mut at = 0;
            while let Some(record) = Record::read(&headers, at) {
                at += record.size;
                let Ok(local) = u64::try_from(i128::from(record.local) + shift) else { continue };
                let Some(header) = Local::read(source, local)? else { continue };
                let entry = record.entry(local, header.data, source.len());
                if known.insert(entry.identity()) {
                    entries.push(entry);
                }
            }
        }
    }
    Ok(entries)
}

/// Where the archives in `source` are that begin with an entry and whose directory lies where their end record says, in
/// order of their beginnings: those that follow each other, and those that are stored in others.
///
/// # Errors
/// When the bytes cannot be read.
pub(crate) fn archives(source: &dyn ByteSource) -> Result<Vec<Range<u64>>> {
    /// Bytes of a zip64 locator and of the record in front of it.
    const WIDE: u64 = 20 + 56;
    let mut found = Vec::new();
    for at in source.positions(END, 0..source.len(), usize::MAX)? {
        let Some(record) = source.part(at, END_RECORD as u64)? else { continue };
        let field = |at, width| word(&record, at, width).unwrap_or(0);
        let end = at + END_RECORD as u64 + field(20, 2);
        let wide = match at.checked_sub(WIDE) {
            Some(record) => source
                .part(record, WIDE)?
                .filter(|wide| wide.starts_with(ZIP64_END) && wide[56..].starts_with(ZIP64_LOCATOR)),
            None => None,
        };
        let (size, start, after) = match &wide {
            Some(wide) => (word(wide, 40, 8).unwrap_or(0), word(wide, 48, 8).unwrap_or(0), at - WIDE),
            None => (field(12, 4), field(16, 4), at),
        };
        let directory = after.checked_sub(size);
        let Some((directory, begin)) = directory.and_then(|at| Some((at, at.checked_sub(start)?))) else {
            continue;
        };
        let is_archive = source.window(directory, 4)?.starts_with(CENTRAL_HEADER)
            && source.window(begin, 4)?.starts_with(LOCAL_HEADER);
        if is_archive && end <= source.len() {
            found.push(begin..end);
        }
    }
    found.sort_by_key(|range| range.start);
    Ok(found)
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

/// Where the local headers are that the central ones in `headers` point to, as long as they are likely to be.
fn local_headers(headers: &[u8], shift: u64, len: u64) -> Vec<Range<u64>> {
    /// PyTorch fills them up so that the data begins at a multiple of 64.
    const USUAL: u64 = 128;
    let (mut at, mut places) = (0, Vec::new());
    while let Some(record) = Record::read(headers, at) {
        let header = record.local.saturating_add(shift).min(len);
        let end = header.saturating_add(USUAL + record.name.len() as u64).min(len);
        places.push(header..end);
        at += record.size;
    }
    places
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
            false => lost(NOT_THERE),
        };
    }
    read_at(source, &(end, record), actual..after, shift, until, count)
}

/// The directory in the bytes of `range`, whose offsets are `shift` too small, and whether it fills them.
fn read_at(
    source: &dyn ByteSource,
    &(end, record): &EndRecord,
    range: Range<u64>,
    shift: u64,
    until: Until,
    count: u64,
) -> Result<(Directory, bool)> {
    let lost = |why| Ok((Directory::Lost(why), true));
    let start = range.start;
    let headers = source.bytes(range)?;
    if !source.is_resident() {
        source.expect(&local_headers(&headers, shift, source.len()))?;
    }
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
        let disputed = record.disputed_by(&header);
        entries.push(Entry { disputed, ..record.entry(local, header.data, source.len()) });
        at += record.size;
    }
    let comment = word(&record, 20, 2).unwrap_or(0);
    let whole = at == headers.len();
    let end = end + END_RECORD as u64 + comment;
    Ok((Directory::Of(Central { entries, prefix: shift, end, start }), whole))
}
