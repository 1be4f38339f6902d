//! Findings in archives: the contents of members, and whether all readers see the same members.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use super::calls::cut;
use super::configuration::HANDLERS;
use super::content::{Place, Scanner};
use super::kind::Kind;
use super::storages::names_storage;
use super::{Rule, methods, native};
use crate::bytes::{ByteSource, Section, SharedBytes, text};
use crate::error::bytes_that;
use crate::storage::inflate;
use crate::zip::{self, Central, Directory, Entry, LOCAL_HEADER, Local, Method};
use crate::{ErrorKind, Result};

/// The largest data descriptor: signature, CRC-32 and two sizes (4.3.9).
const DESCRIPTOR: u64 = 24;
/// The bits of the Unix mode that identify a link, in the upper half of a zip's external attributes.
const LINK: u32 = 0o120000;

impl Scanner<'_> {
    /// Scans the zip archive `data`, and returns what it is.
    pub(super) fn zip(&mut self, data: &dyn ByteSource, place: &Place) -> Result<Kind> {
        let readings = understood(zip::readings(data), zip::Readings::lost())?;
        let is_lost = |reading: &Directory| matches!(reading, Directory::Lost(_));
        let some_lost = is_lost(&readings.usual) || readings.others.iter().any(is_lost);
        let mut entries = match readings.usual {
            Directory::Of(central) => {
                let mut entries = central.entries.clone();
                entries.extend(self.layout(data, &central, place)?);
                entries
            }
            Directory::Several => {
                let parts = self.parts(data, place)?;
                if parts.len() > 1 {
                    let message = format!("{} archives, one after another", parts.len());
                    self.find(Rule::SeveralArchives, place, None, message);
                    for (number, part) in parts.into_iter().enumerate() {
                        if let Some(inner) = self.inside(place, &format!("archive {}", number + 1), None) {
                            self.zip(&part, &inner)?;
                        }
                    }
                    return Ok(Kind::Zip);
                }
                let entries = understood(zip::salvage(data), Vec::new())?;
                let message = format!("{} entries of several archives, one after another", entries.len());
                self.find(Rule::PrependedBytes, place, None, message);
                entries
            }
            Directory::Lost(reason) => {
                let entries = understood(zip::salvage(data), Vec::new())?;
                let message = format!(
                    "the central directory cannot be read ({reason}); {} entries found by their headers",
                    entries.len()
                );
                self.damaged(place, message);
                entries
            }
        };
        for other in readings.others {
            let what = match other {
                Directory::Of(central) => {
                    let message = format!("{} entries by another reading of its end", central.entries.len());
                    let known: HashSet<_> = entries.iter().map(Entry::identity).collect();
                    let more = central.entries.iter().filter(|e| !known.contains(&e.identity()));
                    let more: Vec<Entry> = more.cloned().collect();
                    entries.extend(more);
                    message
                }
                Directory::Several => "another reading finds several archives".into(),
                Directory::Lost(reason) => format!("another reading has no directory ({reason})"),
            };
            self.find(Rule::SeveralDirectories, place, None, what);
        }
        if some_lost {
            // Some readers pass over what is not where it should be.
            let known: HashSet<_> = entries.iter().map(Entry::identity).collect();
            let more = understood(zip::named(data), Vec::new())?;
            entries.extend(more.into_iter().filter(|entry| !known.contains(&entry.identity())));
        }
        let aliased = entries.iter().filter_map(|entry| {
            let name = entry.alias.clone()?;
            Some(Entry { name, ..entry.clone() })
        });
        let aliased: Vec<Entry> = aliased.collect();
        for Entry { name, header, .. } in &aliased {
            let message =
                format!("to some readers, an entry is called `{}` by its name in Unicode", cut(name));
            self.find(Rule::HeadersDisagree, place, Some(*header), message);
        }
        entries.extend(aliased);
        // PyTorch's packages (torch.package), whose sources PackageImporter runs.
        // Its reader does not distinguish cases.
        let ends = |e: &Entry, end: &str| e.name.to_lowercase().ends_with(end);
        let is_package = |e: &Entry| ends(e, ".data/extern_modules");
        if let (true, Some(source)) =
            (entries.iter().any(is_package), entries.iter().find(|e| ends(e, ".py")))
        {
            let message = format!("`{}` is a source that the loader of this package runs", cut(&source.name));
            self.find(Rule::CustomCode, place, Some(source.header), message);
        }
        // TorchServe imports a file called as one of its own handlers before that.
        let is_served = |e: &Entry| {
            let mut parts = e.name.split('/').filter(|part| !matches!(*part, "" | "."));
            parts.next() == Some("MAR-INF") && parts.next() == Some("MANIFEST.json") && parts.next().is_none()
        };
        let stands_for = |e: &&Entry| {
            let file = e.name.rsplit('/').next().unwrap_or(&e.name);
            file.strip_suffix(".py").is_some_and(|stem| HANDLERS.contains(&stem))
        };
        if let (true, Some(source)) = (entries.iter().any(is_served), entries.iter().find(stands_for)) {
            let message =
                format!("`{}` is a source that TorchServe runs for its own handler", cut(&source.name));
            self.find(Rule::CustomCode, place, Some(source.header), message);
        }
        let (script, code) = torch_script(&entries);
        let java = native::is_jar(entries.iter().map(|e| &*e.name));
        let torch = self.names(&entries, place);
        // Which members are storages is known from the pickles.
        entries.sort_by_key(|e| (!e.name.ends_with(".pkl"), e.header));
        let outer = std::mem::take(&mut self.storages);
        for entry in &entries {
            let Some(mut inner) = self.inside(place, &cut(&entry.name), Some(entry.header)) else {
                return Ok(Kind::Zip);
            };
            inner.script = script;
            inner.code = code;
            inner.java = java;
            self.entry(data, entry, &inner)?;
        }
        self.storages = outer;
        Ok(match (torch, script) {
            (true, true) => Kind::TorchScript,
            (true, false) => Kind::TorchZip,
            _ => Kind::Zip,
        })
    }

    /// The concatenated archives in `data`; empty unless they cover it from the first byte to the last.
    fn parts<'b>(&mut self, data: &'b dyn ByteSource, place: &Place) -> Result<Vec<Section<'b>>> {
        let (mut parts, mut start) = (Vec::new(), 0);
        for at in data.positions(zip::END, 0..data.len(), usize::MAX)? {
            let record = data.window(at, zip::END_RECORD as u64)?;
            let end = at + zip::END_RECORD as u64 + zip::word(&record, 20, 2).unwrap_or(0);
            let Some(part) = end.checked_sub(start).and_then(|len| Section::part(data, start, len)) else {
                continue;
            };
            // Looking for its directory may read all of it.
            if !self.afford(part.len) {
                self.out_of_budget(place);
                return Ok(Vec::new());
            }
            self.spend(part.len / 8 + 64);
            if matches!(directory(&part)?, Directory::Of(central) if central.prefix == 0) {
                parts.push(part);
                start = end;
            }
        }
        Ok(if start == data.len() { parts } else { Vec::new() })
    }

    /// Findings from the names of all entries. Returns whether it is a PyTorch archive.
    fn names(&mut self, entries: &[Entry], place: &Place) -> bool {
        let ends_so = |e: &Entry| e.name.to_lowercase().ends_with("data.pkl");
        let is_torch = entries.iter().any(ends_so);
        let mut seen: HashMap<String, u64> = HashMap::new();
        for entry in entries {
            // PyTorch's reader does not distinguish cases.
            let name = if is_torch { entry.name.to_lowercase() } else { entry.name.clone() };
            let count = seen.entry(name).or_default();
            *count += 1;
            if *count == 2 {
                let message = format!("`{}` occurs more than once", cut(&entry.name));
                self.find(Rule::DuplicateEntry, place, Some(entry.header), message);
            }
            if leads_outside(&entry.name) {
                let message = format!("`{}` leads outside the archive's folder", cut(&entry.name));
                self.find(Rule::PathOutside, place, Some(entry.header), message);
            }
        }
        let objects: HashSet<&str> =
            entries.iter().map(|e| e.name.as_str()).filter(|name| is_object(name)).collect();
        if objects.len() > 1 {
            let mut names: Vec<&str> = objects.iter().copied().collect();
            names.sort_unstable();
            let message = format!("{} objects: {}", names.len(), cut(&names.join(", ")));
            self.find(Rule::SeveralPickles, place, None, message);
        }
        // What PyTorch leaves when it fails to write the object.
        let marks = |e: &Entry| e.name.ends_with("/.data/serialization_id") || e.name.ends_with("/byteorder");
        let others = |e: &Entry| e.name.ends_with(".pkl") || e.name.ends_with("/archive_format");
        if objects.is_empty() && entries.iter().any(marks) && !entries.iter().any(others) {
            self.damaged(place, "the archive has no data.pkl, so PyTorch did not finish it".into());
        }
        !objects.is_empty()
    }

    /// Checks that the directory accounts for all bytes and agrees with the local headers. Returns entries that it
    /// conceals.
    fn layout(&mut self, data: &dyn ByteSource, central: &Central, place: &Place) -> Result<Vec<Entry>> {
        if central.prefix > 0 {
            let message = bytes_that(central.prefix, "stand") + " before the archive";
            self.find(Rule::PrependedBytes, place, Some(0), message);
        }
        let rest = Section::from(data, central.end);
        if rest.len > 0 {
            let message = bytes_that(rest.len, "follow") + " the end of the archive";
            self.find(Rule::AppendedBytes, place, Some(central.end), message);
            if let Some(inner) = self.inside(place, "after the archive", Some(central.end)) {
                self.dispatch(&rest, "", &inner)?;
            }
        }
        let mut order: Vec<&Entry> = central.entries.iter().collect();
        order.sort_by_key(|e| e.header);
        let mut concealed = Vec::new();
        let mut reached = central.prefix;
        for entry in &order {
            self.agreement(data, entry, place)?;
            if entry.header < reached {
                let message = format!("`{}` begins within the entry before it", cut(&entry.name));
                self.find(Rule::OverlappingEntries, place, Some(entry.header), message);
            } else {
                concealed.extend(self.gap(data, reached, entry.header, place)?);
            }
            reached = reached.max(entry.offset + entry.compressed);
        }
        if central.start >= reached {
            concealed.extend(self.gap(data, reached, central.start, place)?);
        }
        Ok(concealed)
    }

    /// What lies between two entries: at most a data descriptor and padding, unless entries are concealed.
    fn gap(&mut self, data: &dyn ByteSource, start: u64, end: u64, place: &Place) -> Result<Vec<Entry>> {
        let Some(gap) = Section::part(data, start, end - start) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for header in data.positions(LOCAL_HEADER, start..end, usize::MAX)? {
            let Some(local) = Local::read(data, header)? else { continue };
            let left = data.len().saturating_sub(local.data);
            let sized = if local.sizes_follow() { end.saturating_sub(local.data) } else { local.compressed };
            let compressed = sized.min(left);
            let name = text(&local.name);
            let message = format!("`{}` has a local header but is not in the central directory", cut(&name));
            self.find(Rule::HiddenEntry, place, Some(header), message);
            found.push(Entry {
                name,
                flags: local.flags,
                method: local.method,
                header,
                offset: local.data,
                compressed,
                len: if local.sizes_follow() { compressed } else { local.len },
                crc32: None,
                whole: true,
                doubt: None,
                attributes: 0,
                alias: local.alias.clone(),
                disputed: None,
            });
        }
        // A data descriptor is no longer; some writers leave its signature out, or pad.
        if found.is_empty() && gap.len > DESCRIPTOR && !(&gap as &dyn ByteSource).is_zero()? {
            let message = format!("{} bytes between entries belong to no entry", gap.len);
            self.find(Rule::Hole, place, Some(start), message);
        }
        Ok(found)
    }

    fn agreement(&mut self, data: &dyn ByteSource, entry: &Entry, place: &Place) -> Result<()> {
        let name = cut(&entry.name);
        let Some(local) = Local::read(data, entry.header)? else { return Ok(()) };
        let mut differ = Vec::new();
        let local_name = text(&local.name);
        if local_name != entry.name {
            differ.push(format!("the name, `{}` locally", cut(&local_name)));
        }
        if local.method != entry.method {
            differ.push("the compression".to_string());
        }
        if (local.flags ^ entry.flags) & zip::ENCRYPTED != 0 {
            differ.push("the encryption flag".to_string());
        }
        if !local.sizes_follow() {
            if local.compressed != entry.compressed || local.len != entry.len {
                differ.push("the sizes".to_string());
            }
            if local.flags & zip::SIZES_FOLLOW == 0 && entry.crc32.is_some_and(|crc| crc != local.crc32) {
                differ.push("the CRC-32".to_string());
            }
        }
        if !differ.is_empty() {
            let message =
                format!("`{name}`: local header and central directory disagree on {}", differ.join(" and "));
            self.find(Rule::HeadersDisagree, place, Some(entry.header), message);
        }
        if (local.flags | entry.flags) & zip::ENCRYPTED != 0 {
            let message = format!("`{name}` is marked as encrypted");
            self.find(Rule::EncryptedEntry, place, Some(entry.header), message);
        }
        let mode = entry.attributes >> 16;
        if mode & 0o170000 == LINK {
            self.find(Rule::Link, place, Some(entry.header), format!("`{name}` is a symbolic link"));
        }
        Ok(())
    }

    /// Scans one entry.
    fn entry(&mut self, data: &dyn ByteSource, entry: &Entry, place: &Place) -> Result<()> {
        let Some(raw) = Section::part(data, entry.offset, entry.compressed) else {
            self.damaged(place, "the entry lies outside the file".into());
            return Ok(());
        };
        if !entry.whole {
            self.damaged(place, "the entry is cut short".into());
        }
        // Entries that overlap are read as often as they are named.
        if !self.afford(entry.compressed) {
            self.out_of_budget(place);
            return Ok(());
        }
        self.spend(entry.compressed);
        let inflated: SharedBytes;
        let decoded: &dyn ByteSource = match entry.method {
            Method::Stored => &raw,
            Method::Deflated => {
                if !self.may_unpack(entry.len) {
                    self.out_of_budget(place);
                    return Ok(());
                }
                self.spend(entry.len);
                let packed = raw.bytes(0..raw.len)?;
                inflated = match inflate(&packed, entry.len) {
                    Ok(inflated) => inflated.into(),
                    // A reader that ignores the size uses all bytes that exist.
                    Err(error) => match inflate_some(&packed, entry.len.max(raw.len)) {
                        Some(inflated) => {
                            self.find(Rule::HeadersDisagree, place, None, error.what);
                            inflated.into()
                        }
                        None => {
                            self.damaged(place, error.what);
                            return Ok(());
                        }
                    },
                };
                &inflated
            }
            Method::Other(number) => {
                let most = entry.len.max(raw.len);
                if !self.may_unpack(most) {
                    self.out_of_budget(place);
                    return Ok(());
                }
                let packed = raw.bytes(0..raw.len)?;
                let Some(unpacked) = methods::unpack(number, &packed, most) else {
                    let message = format!("compressed by zip method {number}, which is not supported");
                    self.find(Rule::OpaqueContent, place, None, message);
                    return Ok(());
                };
                self.spend(unpacked.len() as u64);
                if unpacked.len() as u64 != entry.len {
                    let message =
                        format!("it has {} bytes, and not the {} announced", unpacked.len(), entry.len);
                    self.find(Rule::HeadersDisagree, place, None, message);
                }
                inflated = unpacked.into();
                &inflated
            }
        };
        let announced = self.storages.get(&entry.name).copied();
        // Whatever a pickle calls a storage: one has a number.
        let is_storage = announced.is_some() && names_storage(&entry.name);
        // One that is cut short is damaged, and told as such.
        if let Some(announced) = announced.filter(|bytes| entry.whole && *bytes > decoded.len()) {
            let message = format!("{} of the {announced} bytes that the pickle says it has", decoded.len());
            self.find(Rule::ShortStorage, place, Some(entry.header), message);
        }
        if let Some(expected) = entry.crc32.filter(|_| entry.whole) {
            let found = decoded.crc32()?;
            if found != expected {
                let message = format!("CRC-32 is {found:08x}, the archive records {expected:08x}");
                match is_storage {
                    true => self.damaged(place, message),
                    false => self.find(Rule::ChecksumMismatch, place, None, message),
                }
            }
        }
        let unpacked = if entry.method == Method::Stored { 0 } else { decoded.len() };
        let before = self.hold(unpacked);
        match is_storage {
            true => self.storage(decoded, place)?,
            false => self.member(decoded, &entry.name, place)?,
        }
        self.memory = before;
        Ok(())
    }
}

/// Whether the entry called `name` is the object of a PyTorch archive, to a reader that does not distinguish cases.
pub(super) fn is_object(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|last| last.eq_ignore_ascii_case("data.pkl"))
}

/// Whether PyTorch takes the archive for TorchScript, which it does by `constants.pkl` in the folder of the first entry;
/// and whether it could be read as such at all: its reader does not distinguish cases.
fn torch_script(entries: &[Entry]) -> (bool, bool) {
    let folder = entries.first().and_then(|e| e.name.split_once('/')).map(|(folder, _)| folder);
    let marker = folder.map(|folder| format!("{folder}/constants.pkl"));
    let is_one = marker.is_some_and(|marker| entries.iter().any(|e| e.name == marker));
    (is_one, is_one || entries.iter().any(|e| e.name.to_lowercase().ends_with("constants.pkl")))
}

/// The usual directory of the archive `data`.
fn directory(data: &dyn ByteSource) -> Result<Directory> {
    understood(zip::central_directory(data), Directory::Lost("it is cut short"))
}

/// What was read, or `otherwise` if the bytes could be read but are invalid.
pub(super) fn understood<T>(read: Result<T>, otherwise: T) -> Result<T> {
    match read {
        Err(error) if error.kind != ErrorKind::Io => Ok(otherwise),
        read => read,
    }
}

/// As much as a raw deflate stream yields, up to `most` bytes; `None` if that is nothing.
fn inflate_some(packed: &[u8], most: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    // This includes what was decoded before an error.
    let _ = flate2::read::DeflateDecoder::new(packed).take(most).read_to_end(&mut out);
    (!out.is_empty()).then_some(out)
}

/// Whether unpacking an entry of this name could write outside the target folder: any `..` may, where the archive has
/// links.
pub(super) fn leads_outside(name: &str) -> bool {
    is_rooted(name) || name.split(['/', '\\']).any(|part| part == "..")
}

/// Whether `name` begins at the root of a file system, or is no name.
pub(super) fn is_rooted(name: &str) -> bool {
    let drive = name.as_bytes().get(1) == Some(&b':') && name.as_bytes()[0].is_ascii_alphabetic();
    name.starts_with(['/', '\\']) || drive || name.contains('\0')
}
