//! NumPy's `.npz`: a zip whose entries are `.npy` files, stored or deflated. Arrays are named by their entries without
//! the extension. Arrays that do not contain numbers are reported in a notice and left out.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bytes::{ByteSource, Source};
use crate::format::npy::{self, FIXED, Header, MAX_HEADER};
use crate::format::{Container, Contents, Extension, Family, Format};
use crate::storage::{Place, Segment, Storage};
use crate::zip::{self, Directory, Entry, LOCAL_HEADER, Method};
use crate::{Damage, DamageKind, Error, Notice, NoticeKind, Result};

pub(crate) const CONTAINER: Container = Container {
    family: Family::Npz,
    extensions: &[("npz", Extension::Own)],
    recognises,
    recognises_later: None,
    read,
};

/// Bytes of an entry that are looked at first: as long as the headers that NumPy writes for numbers.
const USUAL_HEADER: u64 = 128;
/// Headers that are longer may take as many bytes, all together, as the file and these: entries of a hostile directory
/// may overlap, and inflate to much more than their size.
const LONG_HEADERS: u64 = 8 << 20;

/// A zip whose first entry is an array.
fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(LOCAL_HEADER) && zip::first_name(bytes).is_some_and(|name| name.ends_with(b".npy"))
}

fn read(source: &Arc<Source>) -> Result<Contents> {
    let data = source.data();
    let mut contents = Contents::new(Format::Npz);
    let readings = zip::readings(data)?;
    if let Some(what) = readings.disagreement(true, |name| name.ends_with(".npy")) {
        contents.faults.push(Damage::new(DamageKind::Duplicate, what));
    }
    let entries = match readings.usual {
        Directory::Of(central) => central.entries,
        Directory::Several => {
            return Err(Error::unsupported("contains several zip archives, one after another"));
        }
        Directory::Lost(reason) => {
            let entries = zip::salvage(data)?;
            let what = format!(
                "the zip's central directory cannot be read ({reason}): the file was truncated, overwritten or never finished; {} entries were found by their local headers",
                entries.len()
            );
            contents.faults.push(Damage::new(DamageKind::DirectoryLost, what));
            entries
        }
    };
    let last: HashMap<&str, usize> = entries.iter().enumerate().map(|(i, e)| (e.name.as_str(), i)).collect();
    let twice = last.keys().find(|name| last.contains_key(format!("{name}.npy").as_str()));
    if let Some(name) = twice {
        let what =
            format!("`{0}` and `{0}.npy` are both there, which NumPy calls the same", name.escape_debug());
        contents.faults.push(Damage::new(DamageKind::Duplicate, what));
    }
    let mut room = data.len() + LONG_HEADERS;
    for (i, entry) in entries.iter().enumerate() {
        let Some(name) = entry.name.strip_suffix(".npy") else { continue };
        let shown = name.escape_debug();
        if last.get(entry.name.as_str()) != Some(&i) {
            let text = format!("`{shown}` occurs more than once; the last occurrence is used, as NumPy does");
            contents.notices.push(Notice::new(NoticeKind::Duplicate, text));
            continue;
        }
        let placed = header(data, entry, &mut room)
            .and_then(|header| header.tensor(name.to_string(), storage(source, entry, header.numbers()?.1)));
        match placed {
            Ok(tensor) => contents.tensors.push(tensor),
            Err(error) if error.kind == crate::ErrorKind::Io => return Err(error),
            Err(error) if error.kind == crate::ErrorKind::Unsupported => {
                let text = format!("`{shown}` cannot be read: {error}");
                contents.notices.push(Notice::new(NoticeKind::NotShown, text));
            }
            Err(error) => {
                let kind = error.fault.unwrap_or(DamageKind::UnreadableEntry);
                contents.faults.push(Damage::new(kind, format!("the array `{shown}`: {error}")));
            }
        }
    }
    contents.tell_first();
    Ok(contents)
}

/// The header of the array in `entry`; the size of a long one is subtracted from `room`.
fn header(data: &dyn ByteSource, entry: &Entry, room: &mut u64) -> Result<Header> {
    let mut beginning = zip::beginning(data, entry, USUAL_HEADER)?;
    let end = npy::place(&beginning)?.end.min(MAX_HEADER + FIXED);
    if end > USUAL_HEADER {
        *room = room.checked_sub(end).ok_or_else(|| {
            Error::unsupported("its header, with those before it, is out of proportion to the file")
        })?;
        beginning = zip::beginning(data, entry, end)?;
    }
    Header::parse(&beginning)
}

/// The storage of `entry`, including the array's header.
fn storage(source: &Arc<Source>, entry: &Entry, big_endian: bool) -> Storage {
    let swap = if big_endian { 2 } else { 1 };
    let segment = Segment { source: source.clone(), offset: entry.offset, len: entry.compressed };
    let lost = |kind, what: &str| Storage::lost(Damage::new(kind, what), entry.len, source, entry.offset);
    match entry.method {
        _ if entry.doubt.is_some() => lost(DamageKind::Inconsistent, entry.doubt.unwrap_or_default()),
        Method::Stored => {
            let crc32 = entry.crc32.filter(|_| entry.whole);
            Storage::new(Place::Segments(segment.into()), entry.compressed, crc32, swap)
        }
        Method::Deflated if entry.whole => {
            Storage::new(Place::Deflated(segment), entry.len, entry.crc32, swap)
        }
        Method::Deflated => lost(DamageKind::CutShort, "its compressed array is cut short"),
        Method::Other(_) => lost(DamageKind::Compression, "it is compressed with an unsupported method"),
    }
}
