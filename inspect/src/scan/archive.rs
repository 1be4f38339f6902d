//! Findings in archives: what members hold, and whether all readers see the same members.

use std::collections::{HashMap, HashSet};
use std::io::{Cursor, Read};

use super::Rule;
use super::content::{Place, Scanner};
use super::pickles::cut;
use crate::bytes::{ByteSource, slice, text};
use crate::storage::inflate;
use crate::zip::{self, Central, DATA_DESCRIPTOR, Directory, Entry, LOCAL_HEADER, Local, Method};

/// The largest data descriptor: signature, CRC-32 and two sizes (4.3.9).
const DESCRIPTOR: u64 = 24;
/// The Unix mode's bits that tell a link, in the upper half of a zip's external attributes.
const LINK: u32 = 0o120000;

impl Scanner<'_> {
    /// Scans the zip archive `bytes`, and tells what it is.
    pub(super) fn zip(&mut self, bytes: &[u8], place: &Place) -> &'static str {
        let mut entries = match directory(bytes) {
            Directory::Of(central) => {
                let mut entries = central.entries.clone();
                entries.extend(self.layout(bytes, &central, place));
                entries
            }
            Directory::Several => {
                let parts = self.parts(bytes, place);
                if parts.len() > 1 {
                    let message = format!("{} archives, one after another", parts.len());
                    self.find(Rule::SeveralArchives, place, None, message);
                    for (number, part) in parts.into_iter().enumerate() {
                        if let Some(inner) = place.inside(&format!("archive {}", number + 1)) {
                            self.zip(part, &inner);
                        }
                    }
                    return "zip";
                }
                let entries = salvage(bytes);
                let message = format!("{} entries of several archives, one after another", entries.len());
                self.find(Rule::PrependedBytes, place, None, message);
                entries
            }
            Directory::Lost(reason) => {
                let entries = salvage(bytes);
                let message = format!(
                    "the central directory cannot be read ({reason}); {} entries found by their headers",
                    entries.len()
                );
                self.damaged(place, message);
                entries
            }
        };
        let script = entries.iter().any(|e| e.name.ends_with("constants.pkl"));
        let torch = self.names(&entries, place);
        entries.sort_by_key(|e| e.header);
        for entry in &entries {
            let Some(mut inner) = place.inside(&cut(&entry.name)) else {
                let message = "archives within archives, deeper than is looked".to_string();
                self.find(Rule::OpaqueContent, place, Some(entry.header), message);
                return "zip";
            };
            inner.script = script;
            self.entry(bytes, entry, torch, &inner);
        }
        match (torch, script) {
            (true, true) => "torchscript",
            (true, false) => "pytorch-zip",
            _ => "zip",
        }
    }

    /// The archives that `bytes` are one after another; none when they are not, from the first byte to the last.
    fn parts<'b>(&mut self, bytes: &'b [u8], place: &Place) -> Vec<&'b [u8]> {
        let (mut parts, mut start) = (Vec::new(), 0);
        for at in memchr::memmem::find_iter(bytes, zip::END) {
            let comment = zip::word(bytes, at + 20, 2).unwrap_or(0) as usize;
            let end = at + zip::END_RECORD + comment;
            let Some(part) = bytes.get(start..end) else { continue };
            // Looking for its directory may read all of it.
            if !self.afford(part.len() as u64) {
                self.out_of_budget(place);
                return Vec::new();
            }
            self.spend(part.len() as u64 / 8 + 64);
            if matches!(directory(part), Directory::Of(central) if central.prefix == 0) {
                parts.push(part);
                start = end;
            }
        }
        if start == bytes.len() { parts } else { Vec::new() }
    }

    /// What the names of all entries tell. Gives whether it is an archive of PyTorch's.
    fn names(&mut self, entries: &[Entry], place: &Place) -> bool {
        let mut seen: HashMap<String, u64> = HashMap::new();
        for entry in entries {
            let count = seen.entry(entry.name.to_lowercase()).or_default();
            *count += 1;
            if *count == 2 {
                let message = format!("`{}` is there more than once", cut(&entry.name));
                self.find(Rule::DuplicateEntry, place, Some(entry.header), message);
            }
            if leads_outside(&entry.name) {
                let message = format!("`{}` leads outside the archive's folder", cut(&entry.name));
                self.find(Rule::PathOutside, place, Some(entry.header), message);
            }
        }
        let objects: HashSet<&str> = entries
            .iter()
            .map(|e| e.name.as_str())
            .filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl"))
            .collect();
        if objects.len() > 1 {
            let mut names: Vec<&str> = objects.iter().copied().collect();
            names.sort_unstable();
            let message = format!("{} objects: {}", names.len(), cut(&names.join(", ")));
            self.find(Rule::SeveralPickles, place, None, message);
        }
        !objects.is_empty()
    }

    /// Whether the directory accounts for all bytes, and agrees with the local headers. Gives entries that it conceals.
    fn layout(&mut self, bytes: &[u8], central: &Central, place: &Place) -> Vec<Entry> {
        if central.prefix > 0 {
            let message = format!("{} bytes stand before the archive", central.prefix);
            self.find(Rule::PrependedBytes, place, Some(0), message);
        }
        let after = bytes.len() as u64 - central.end.min(bytes.len() as u64);
        if after > 0 {
            let message = format!("{after} bytes follow the end of the archive");
            self.find(Rule::AppendedBytes, place, Some(central.end), message);
            if let (Some(inner), Some(rest)) =
                (place.inside("after the archive"), slice(bytes, central.end, after))
            {
                self.dispatch(rest, "", &inner);
            }
        }
        let mut order: Vec<&Entry> = central.entries.iter().collect();
        order.sort_by_key(|e| e.header);
        let mut concealed = Vec::new();
        let mut reached = central.prefix;
        for entry in &order {
            self.agreement(bytes, entry, place);
            if entry.header < reached {
                let message = format!("`{}` begins within the entry before it", cut(&entry.name));
                self.find(Rule::OverlappingEntries, place, Some(entry.header), message);
            } else {
                concealed.extend(self.gap(bytes, reached, entry.header, place));
            }
            reached = reached.max(entry.offset + entry.compressed);
        }
        if central.start >= reached {
            concealed.extend(self.gap(bytes, reached, central.start, place));
        }
        concealed
    }

    /// What lies between two entries: at most a data descriptor and padding, unless entries are concealed.
    fn gap(&mut self, bytes: &[u8], start: u64, end: u64, place: &Place) -> Vec<Entry> {
        let Some(gap) = slice(bytes, start, end - start) else { return Vec::new() };
        let mut found = Vec::new();
        for at in memchr::memmem::find_iter(gap, LOCAL_HEADER).take(1000) {
            let header = start + at as u64;
            let Some(local) = local_header(&bytes, header) else { continue };
            let left = (bytes.len() as u64).saturating_sub(local.data);
            let sized = if local.sizes_follow() { end.saturating_sub(local.data) } else { local.compressed };
            let compressed = sized.min(left);
            let name = text(&local.name);
            let message = format!("`{}` has a local header and is not in the directory", cut(&name));
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
            });
        }
        let descriptor = gap.starts_with(DATA_DESCRIPTOR) && gap.len() as u64 <= DESCRIPTOR;
        if found.is_empty() && !descriptor && gap.len() > 3 && gap.iter().any(|&b| b != 0) {
            // Some writers leave the signature out, or pad.
            if gap.len() as u64 > DESCRIPTOR {
                let message = format!("{} bytes between entries belong to none", gap.len());
                self.find(Rule::Hole, place, Some(start), message);
            }
        }
        found
    }

    fn agreement(&mut self, bytes: &[u8], entry: &Entry, place: &Place) {
        let name = cut(&entry.name);
        let Some(local) = local_header(&bytes, entry.header) else { return };
        let mut differ = Vec::new();
        let local_name = text(&local.name);
        if local_name != entry.name {
            differ.push(format!("the name, `{}` locally", cut(&local_name)));
        }
        if local.method != entry.method {
            differ.push("the compression".to_string());
        }
        if (local.flags ^ entry.flags) & zip::ENCRYPTED != 0 {
            differ.push("the mark of encryption".to_string());
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
                format!("`{name}`: local header and directory disagree on {}", differ.join(" and "));
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
    }

    /// Looks into one entry. `torch`: whether the archive is PyTorch's, whose storages are numbers.
    fn entry(&mut self, bytes: &[u8], entry: &Entry, torch: bool, place: &Place) {
        let Some(raw) = slice(bytes, entry.offset, entry.compressed) else { return };
        if !entry.whole {
            self.damaged(place, "the entry is cut short".into());
        }
        // Entries that overlap are read as often as they are named.
        if !self.afford(entry.compressed) {
            return self.out_of_budget(place);
        }
        self.spend(entry.compressed);
        let decoded = match entry.method {
            Method::Stored => std::borrow::Cow::Borrowed(raw),
            Method::Deflated => {
                if !self.afford(entry.len) {
                    return self.out_of_budget(place);
                }
                self.spend(entry.len);
                match inflate(raw, entry.len) {
                    Ok(inflated) => std::borrow::Cow::Owned(inflated),
                    // A reader that does not look at the size takes what there is.
                    Err(error) => match inflate_some(raw, entry.len.max(raw.len() as u64)) {
                        Some(inflated) => {
                            self.find(Rule::HeadersDisagree, place, None, error.what);
                            std::borrow::Cow::Owned(inflated)
                        }
                        None => return self.damaged(place, error.what),
                    },
                }
            }
            Method::Other(number) => {
                let message = format!("compressed by zip method {number}, which is not read");
                return self.find(Rule::OpaqueContent, place, None, message);
            }
        };
        let is_storage = torch
            && entry.name.rsplit('/').nth(1).is_some_and(|folder| folder == "data" || folder == "constants");
        if let Some(expected) = entry.crc32.filter(|_| entry.whole) {
            let found = crc32fast::hash(&decoded);
            if found != expected {
                let message = format!("CRC-32 is {found:08x}, the archive records {expected:08x}");
                match is_storage {
                    true => self.damaged(place, message),
                    false => self.find(Rule::ChecksumMismatch, place, None, message),
                }
            }
        }
        self.member(&decoded, &entry.name, place);
    }

    /// Scans the tar archive `bytes`.
    pub(super) fn tar(&mut self, bytes: &[u8], place: &Place) {
        let mut archive = tar::Archive::new(Cursor::new(bytes));
        let Ok(entries) = archive.entries() else { return };
        let mut names: HashSet<String> = HashSet::new();
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.damaged(place, format!("the tar archive is damaged: {error}")),
            };
            let name = text(&entry.path_bytes());
            let at = entry.raw_file_position();
            if leads_outside(&name) {
                let message = format!("`{}` leads outside the archive's folder", cut(&name));
                self.find(Rule::PathOutside, place, Some(at), message);
            }
            let kind = entry.header().entry_type();
            if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name_bytes().map(|n| text(&n));
                let target = target.unwrap_or_default();
                let message = format!("`{}` is a link to `{}`", cut(&name), cut(&target));
                let rule = if leads_outside(&target) { Rule::PathOutside } else { Rule::Link };
                self.find(rule, place, Some(at), message);
            }
            if kind.is_file() && !names.insert(name.clone()) {
                let message = format!("`{}` is there more than once", cut(&name));
                self.find(Rule::DuplicateEntry, place, Some(at), message);
            }
            let Some(inner) = place.inside(&cut(&name)) else {
                let message = "archives within archives, deeper than is looked".to_string();
                return self.find(Rule::OpaqueContent, place, Some(at), message);
            };
            let len = entry.size().min((bytes.len() as u64).saturating_sub(at));
            if len < entry.size() {
                self.damaged(&inner, "the entry is cut short".into());
            }
            let content = slice(bytes, at, len).unwrap_or_default();
            match name.trim_start_matches("./") {
                // PyTorch's oldest form: pickles between raw elements.
                "storages" | "tensors" => {
                    self.members += 1;
                    self.sweep(content, &inner);
                }
                "pickle" => self.member(content, "pickle.pkl", &inner),
                _ if kind.is_file() => self.member(content, &name, &inner),
                _ => {}
            }
        }
    }
}

/// The directory of an archive in memory, whose bytes can always be had.
pub(super) fn directory(bytes: &[u8]) -> Directory {
    zip::central_directory(&bytes).unwrap_or(Directory::Lost("it is cut short"))
}

fn salvage(bytes: &[u8]) -> Vec<Entry> {
    zip::salvage(&bytes).unwrap_or_default()
}

fn local_header<'b>(bytes: &'b &[u8], at: u64) -> Option<Local<'b>> {
    Local::read(bytes as &dyn ByteSource, at).ok().flatten()
}

/// As much as a raw deflate stream gives, up to `most` bytes; `None` when that is nothing.
fn inflate_some(packed: &[u8], most: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    // What came out before an error is there, too.
    let _ = flate2::read::DeflateDecoder::new(packed).take(most).read_to_end(&mut out);
    (!out.is_empty()).then_some(out)
}

/// Whether unpacking an entry of this name could write elsewhere than below the folder it is unpacked to.
pub(super) fn leads_outside(name: &str) -> bool {
    let drive = name.as_bytes().get(1) == Some(&b':') && name.as_bytes()[0].is_ascii_alphabetic();
    name.starts_with(['/', '\\'])
        || drive
        || name.split(['/', '\\']).any(|part| part == "..")
        || name.contains('\0')
}
