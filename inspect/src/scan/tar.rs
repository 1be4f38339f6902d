//! Tar archives: what their members hold, and whether all readers find the same members.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::archive::{is_rooted, leads_outside};
use super::calls::cut;
use super::content::{Place, Scanner};
use super::{Rule, Severity};
use crate::Result;
use crate::bytes::tarfile::{Records, next_bytes, next_header, trimmed, walk};
use crate::bytes::{ByteSource, Reader, Section, text};
use crate::error::bytes_that;
use crate::zip::LOCAL_HEADER;

/// A member as a reader finds it: where its content begins, its bytes, and its name without slashes at its end.
type Found = (u64, u64, Arc<[u8]>);

/// A link to something else in the archive.
struct Link {
    name: String,
    /// The whole name of what it leads to.
    target: String,
    at: u64,
    message: String,
}

/// The links of an archive that stay in it, and where the contents of its files begin, with their lengths.
#[derive(Default)]
struct Links {
    links: Vec<Link>,
    files: HashMap<String, (u64, u64)>,
}

/// Links that are followed from one to the next.
const MOST_LINKS: usize = 8;

/// One bit for each reader.
const USUAL: u8 = 1;
const LOOSE: u8 = 2;
const WHOLE: u8 = 4;

impl Scanner<'_> {
    /// Scans the tar archive `data`, and those behind its end, which `tar -i` and Python's `ignore_zeros` read.
    pub(super) fn tar(&mut self, data: &dyn ByteSource, place: &Place) -> Result<()> {
        let mut begin = 0;
        let mut inner = place.clone();
        while let Some(end) = self.tar_until_its_end(&Section::from(data, begin), &inner)? {
            let Some(more) = next_bytes(data, begin + end)? else { break };
            if begin == 0 {
                let message = bytes_that(data.len() - more, "follow") + " the end of the archive";
                self.find(Rule::AppendedBytes, place, Some(more), message);
            }
            let next = next_header(data, more)?.filter(|next| *next > begin);
            if next != Some(more) {
                let Some(after) = self.inside(place, "after the archive", Some(more)) else { break };
                self.dispatch(&Section::from(data, more), "", &after)?;
            }
            let Some(next) = next else { break };
            let Some(further) = self.inside(place, &format!("archive at {next}"), Some(next)) else { break };
            (begin, inner) = (next, further);
        }
        Ok(())
    }

    /// Scans the members that other programs find, and those that only Python's `tarfile` does. Returns where the archive ends,
    /// or nothing if it was not followed so far.
    fn tar_until_its_end(&mut self, data: &dyn ByteSource, place: &Place) -> Result<Option<u64>> {
        let mut found: BTreeMap<Found, u8> = BTreeMap::new();
        if !self.usual_entries(data, place, &mut found)? {
            return Ok(None);
        }
        let mut end = 0;
        let mut more = Vec::new();
        let mut odd = None;
        for (records, reader) in [(Records::Loose, LOOSE), (Records::Whole, WHOLE)] {
            let walked = walk(data, records)?;
            odd = odd.or(walked.odd);
            end = end.max(walked.end);
            for member in walked.members {
                let name = member.undated.as_ref().unwrap_or(&member.name).clone();
                let readers = found.entry((member.at, member.len, name)).or_default();
                if *readers == 0 {
                    more.push(member);
                }
                *readers |= reader;
            }
        }
        if odd.is_some() {
            let message =
                "a member's size or its holes are written so that readers differ in them".to_string();
            self.find(Rule::ReadersDisagree, place, odd, message);
        }
        for ((at, len, name), _) in found.iter().filter(|(_, by)| **by != USUAL | LOOSE | WHOLE) {
            let name = cut(&text(name));
            let message = format!("`{name}` with {len} bytes is a member to some readers and not to others");
            self.find(Rule::ReadersDisagree, place, Some(*at), message);
        }
        for member in more {
            let name = text(&member.name);
            if leads_outside(&name) {
                let message = format!("`{}` leads outside the archive's folder", cut(&name));
                self.find(Rule::PathOutside, place, Some(member.at), message);
            }
            let Some(inner) = self.inside(place, &cut(&name), Some(member.at)) else { return Ok(None) };
            let mut content = Section::from(data, member.at);
            content.len = content.len.min(member.len);
            if !member.has_content() {
                continue;
            }
            // Members may overlap.
            if !self.afford(content.len) {
                self.out_of_budget(place);
                return Ok(None);
            }
            self.spend(content.len);
            self.tar_member(&content, &name, &inner)?;
        }
        Ok(Some(end))
    }

    /// Scans the members that are where their headers say, and puts them into `found`. Returns whether to go on.
    fn usual_entries(
        &mut self,
        data: &dyn ByteSource,
        place: &Place,
        found: &mut BTreeMap<Found, u8>,
    ) -> Result<bool> {
        let mut archive = tar::Archive::new(Reader { source: data, at: 0 });
        let entries = match archive.entries_with_seek() {
            Ok(entries) => entries,
            Err(error) => {
                let error = Reader::complaint(error)?;
                self.damaged(place, format!("the tar archive is damaged: {error}"));
                return Ok(true);
            }
        };
        let mut names: HashSet<String> = HashSet::new();
        let mut links = Links::default();
        for entry in entries {
            let mut entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let error = Reader::complaint(error)?;
                    self.damaged(place, format!("the tar archive is damaged: {error}"));
                    return Ok(true);
                }
            };
            let name = text(&entry.path_bytes());
            let kind = entry.header().entry_type();
            // Headers that describe others are none of their own.
            if !matches!(kind.as_byte(), b'g' | b'x' | b'X' | b'L' | b'K') {
                let name: Arc<[u8]> = trimmed(&entry.path_bytes()).into();
                *found.entry((entry.raw_file_position(), entry.size(), name)).or_default() |= USUAL;
            }
            // Who unpacks a file writes it without these.
            let name = if kind.is_file() { name.trim_end_matches('/').to_string() } else { name };
            let at = entry.raw_file_position();
            if leads_outside(&name) {
                let message = format!("`{}` leads outside the archive's folder", cut(&name));
                self.find(Rule::PathOutside, place, Some(at), message);
            }
            if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name_bytes().map(|n| text(&n));
                let target = target.unwrap_or_default();
                let message = format!("`{}` is a link to `{}`", cut(&name), cut(&target));
                // A symbolic link leads on from the folder that it is in.
                let folder = name.rsplit_once('/').filter(|_| kind.is_symlink());
                let outside = leaves(folder.map_or("", |(folder, _)| folder), &target);
                match outside {
                    true => self.find(Rule::PathOutside, place, Some(at), message),
                    false => links.links.push(Link {
                        target: joined(folder.map_or("", |(folder, _)| folder), &target),
                        name: name.clone(),
                        at,
                        message,
                    }),
                }
            }
            if kind.is_gnu_sparse() || is_sparse(&mut entry) {
                let message = format!("`{}` has holes, which readers fill differently", cut(&name));
                self.find(Rule::OpaqueContent, place, Some(at), message);
            }
            if kind.is_file() && !names.insert(name.clone()) {
                let message = format!("`{}` occurs more than once", cut(&name));
                self.find(Rule::DuplicateEntry, place, Some(at), message);
            }
            let Some(inner) = self.inside(place, &cut(&name), Some(at)) else { return Ok(false) };
            let mut content = Section::from(data, at);
            if content.len < entry.size() {
                self.damaged(&inner, "the entry is cut short".into());
            }
            content.len = content.len.min(entry.size());
            if kind.is_file() {
                links.files.insert(joined("", &name), (at, content.len));
            }
            // PyTorch takes the members of its oldest form whatever they are, and readers take those of unknown types for files.
            let of_torch = matches!(name.trim_start_matches("./"), "storages" | "tensors" | "pickle");
            if of_torch || !(kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) {
                self.tar_member(&content, &name, &inner)?;
            }
        }
        self.links(data, links, place)
    }

    /// Scans what links lead to under their own names, by which a loader may read it. Returns whether to go on.
    fn links(&mut self, data: &dyn ByteSource, Links { links, files }: Links, place: &Place) -> Result<bool> {
        let targets: HashMap<String, String> =
            links.iter().map(|link| (joined("", &link.name), link.target.clone())).collect();
        for Link { name, target, at, message } in links {
            let mut target = &target;
            for _ in 0..MOST_LINKS {
                let Some(next) = targets.get(target).filter(|_| !files.contains_key(target)) else { break };
                target = next;
            }
            let Some(&(begin, len)) = files.get(target) else {
                self.find(Rule::Link, place, Some(at), message);
                continue;
            };
            self.find_as(Severity::Note, Rule::Link, place, message);
            let Some(inner) = self.inside(place, &cut(&name), Some(at)) else { return Ok(false) };
            if !self.afford(len) {
                self.out_of_budget(place);
                return Ok(false);
            }
            self.spend(len);
            let mut content = Section::from(data, begin);
            content.len = content.len.min(len);
            self.tar_member(&content, &name, &inner)?;
        }
        Ok(true)
    }

    /// Scans the content of the member `name`.
    fn tar_member(&mut self, content: &Section<'_>, name: &str, inner: &Place) -> Result<()> {
        if inner.depth == 1 && (content as &dyn ByteSource).window(0, 4)?.as_ref() == LOCAL_HEADER {
            self.zips.push((content.start, content.start + content.len));
        }
        match name.trim_start_matches("./") {
            // PyTorch's oldest form: pickles between raw elements.
            "storages" | "tensors" => {
                self.members += 1;
                self.sweep(content, inner)
            }
            "pickle" => self.member(content, "pickle.pkl", inner),
            _ => self.member(content, name, inner),
        }
    }
}

/// Whether a link to `target` in the folder `folder` leads out of what is unpacked.
fn leaves(folder: &str, target: &str) -> bool {
    let mut depth = 0usize;
    let parts = folder.split(['/', '\\']).chain(target.split(['/', '\\']));
    let climbs = parts.filter(|part| !matches!(*part, "" | ".")).any(|part| match (part, depth) {
        ("..", 0) => true,
        ("..", _) => {
            depth -= 1;
            false
        }
        _ => {
            depth += 1;
            false
        }
    });
    climbs || is_rooted(target)
}

/// The path to `target` from the `folder`, without steps that lead nowhere.
fn joined(folder: &str, target: &str) -> String {
    let mut path: Vec<&str> = Vec::new();
    for part in folder.split(['/', '\\']).chain(target.split(['/', '\\'])) {
        match part {
            "" | "." => {}
            ".." => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    path.join("/")
}

/// Whether an entry's extended header says that it has holes (GNU's formats 0.0 to 1.0).
fn is_sparse<R: std::io::Read>(entry: &mut tar::Entry<'_, R>) -> bool {
    let Ok(Some(mut extensions)) = entry.pax_extensions() else { return false };
    extensions.any(|extension| extension.is_ok_and(|e| e.key_bytes().starts_with(b"GNU.sparse.")))
}
