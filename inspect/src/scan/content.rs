//! The kind of a file or an archive's member, by its first bytes and its name, and how it is scanned.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use super::archive::{is_object, understood};
use super::calls::cut;
use super::configuration::{mentions_code, names_configuration};
use super::kind::{
    Kind, PICKLED, extension, is_inert, is_named, member_promises, names_text, old_joblib, opaque, pointer,
};
use super::pickles::Stream;
use super::template::{self, Template};
use super::{Finding, Findings, Options, Rule, Severity, hdf5, native, plain, text};
use crate::bytes::compression::Compression;
use crate::bytes::stored::{self, Stored};
use crate::bytes::{ByteSource, Reader, Section, Source, text as text_of};
use crate::error::bytes_that;
use crate::format::{self, Family, HEAD, npy};
use crate::zip::Directory;
use crate::{DamageKind, Error, ErrorKind, Result, torch_legacy, zip};

/// The deepest nesting of archives within archives, and of pickles within pickles.
const DEEPEST: usize = 8;
/// Bytes that may be inflated or followed more than once in a file of any size,
const FREE_WORK: u64 = 256 << 20;
/// and beyond that this many times its size.
const MOST_WORK: u64 = 16;
/// Bytes of memory that a file of any size may take, and beyond that for each of its bytes.
const FREE_MEMORY: u64 = 160 << 20;
const MOST_MEMORY: u64 = 8;
/// What is left of it for the values of a pickle, whatever was unpacked.
const KEPT_MEMORY: u64 = 16 << 20;

/// The place of a finding: which member of which archive.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Path through the archives, joined by `!`.
    pub member: String,
    pub depth: usize,
    /// Whether it is in a TorchScript archive.
    pub script: bool,
    /// Whether it is in an archive that some reader could take for TorchScript, and run its code.
    pub code: bool,
    /// Whether it is in an archive of Java's, and of nothing that loads models.
    pub java: bool,
}

impl Place {
    fn inside(&self, name: &str) -> Option<Place> {
        let member = match self.member.is_empty() {
            true => name.to_string(),
            false => format!("{}!{name}", self.member),
        };
        (self.depth < DEEPEST).then(|| Place { member, depth: self.depth + 1, ..self.clone() })
    }
}

/// One file being scanned.
pub(super) struct Scanner<'o> {
    options: &'o Options,
    pub findings: Findings,
    pub harmless: HashSet<String>,
    pub pickles: u64,
    pub members: u64,
    pub unreadable: Option<String>,
    budget: u64,
    /// Bytes of memory that what is unpacked, and the values of a pickle, may still take.
    pub memory: u64,
    hidden: HashSet<String>,
    /// Where the members of the tar that is the file begin and end which are zips.
    pub zips: Vec<(u64, u64)>,
    /// The files next to this one that joblib unpickles with it.
    pub beside: BTreeSet<String>,
    /// The entries that are storages, because an object of the current archive refers to them, and how many bytes it
    /// says they have.
    pub storages: HashMap<String, u64>,
}

/// Whether text may contain the byte, in UTF-8 or an older encoding.
fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c)
}

impl<'o> Scanner<'o> {
    pub fn new(options: &'o Options, len: u64) -> Self {
        Scanner {
            options,
            findings: Findings::default(),
            harmless: HashSet::new(),
            pickles: 0,
            members: 0,
            unreadable: None,
            budget: FREE_WORK.saturating_add(len.saturating_mul(MOST_WORK)),
            memory: FREE_MEMORY.saturating_add(len.saturating_mul(MOST_MEMORY)),
            hidden: HashSet::new(),
            zips: Vec::new(),
            beside: BTreeSet::new(),
            storages: HashMap::new(),
        }
    }

    /// Scans the file called `name`, and returns its kind.
    pub fn file(&mut self, source: &Arc<Source>, name: &str) -> Result<String> {
        let data = source.data();
        let place = Place::default();
        let family = format::recognise(&data.window(0, HEAD)?).map(|container| container.family);
        let pickled = PICKLED.contains(&extension(name).as_str());
        let is_zip = matches!(family, Some(Family::Zip | Family::Npz));
        let has_directory = zip::has_directory(data)?;
        // It may be a pickle, too.
        let configured = self.is_configuration(data, name, &place)? | self.serialized(data, &place)?;
        let kind = match family {
            Some(Family::Zip | Family::Npz) => self.zip(data, &place)?,
            Some(Family::Gguf) => {
                self.gguf(data, &place)?;
                Kind::Gguf
            }
            Some(Family::SafeTensors) => {
                self.safetensors(source, &place)?;
                Kind::SafeTensors
            }
            _ => match self.dispatch(data, name, &place)? {
                Some(kind) => kind,
                None if has_directory && self.has_entries(data)? => Kind::Unknown,
                None if data.len() == 0 => {
                    return Err(Error::new(ErrorKind::Unrecognised, "is empty").because(DamageKind::Empty));
                }
                None if pointer(&data.window(0, HEAD)?).is_some() => {
                    let what = pointer(&data.window(0, HEAD)?).unwrap_or_default();
                    let message = format!("is {what}: the file that it stands for was not scanned");
                    return Err(Error::new(ErrorKind::Unrecognised, message));
                }
                None if configured => Kind::Configuration,
                // Text that is named like a pickle, and as one ends before it does anything.
                None if pickled && plain::is_text(data)? => Kind::NoPickle,
                None if is_inert(name, &data.window(0, HEAD)?)
                    || names_text(name) && data.all_from(0, is_text)? && !mentions_code(data)? =>
                {
                    Kind::Inert
                }
                None => match native::program(data, name)?.filter(|_| !is_named(Path::new(name))) {
                    Some(what) => {
                        self.unreadable = Some(format!("is {what}, which was not scanned"));
                        let message = format!("{what}, which something else may run");
                        self.find_as(Severity::Note, Rule::NativeCode, &place, message);
                        Kind::Program
                    }
                    None => {
                        return Err(Error::new(
                            ErrorKind::Unrecognised,
                            "is neither a pickle, nor an archive, nor a tensor file",
                        ));
                    }
                },
            },
        };
        if matches!(kind, Kind::Gguf | Kind::SafeTensors) {
            self.pickles(data, &place, Stream::Chance)?;
        }
        let mut also = String::new();
        if !is_zip
            && has_directory
            && self.has_entries(data)?
            && !(kind == Kind::Tar && self.is_of_member(data)?)
        {
            self.zip(data, &place)?;
            also += ", and zip";
        }
        let is_tar = format::candidates(&data.window(0, HEAD)?).any(|c| c.family == Family::Tar);
        if is_tar && kind != Kind::Tar {
            self.tar(data, &place)?;
            also += ", and tar";
        }
        Ok(kind.name().to_string() + &also)
    }

    /// Scans the files in the `folder` that joblib reads with the one that was scanned.
    pub fn files_beside(&mut self, folder: &Path) -> Result<()> {
        for name in std::mem::take(&mut self.beside) {
            let path = folder.join(&name);
            if !path.stored().is_ok_and(|file| file.kind == stored::Kind::File) {
                continue;
            }
            let source = Source::open(&path)?;
            self.budget = self.budget.saturating_add(source.len().saturating_mul(MOST_WORK));
            let place = Place { member: cut(&name), depth: 1, ..Place::default() };
            self.member(source.data(), &name, &place)?;
        }
        Ok(())
    }

    /// Whether some reader of zips would find entries in `data`.
    fn has_entries(&self, data: &dyn ByteSource) -> Result<bool> {
        let zip::Readings { usual, mut others } = understood(zip::readings(data), zip::Readings::lost())?;
        others.push(usual);
        Ok(others.iter().any(|reading| !matches!(reading, Directory::Lost(_)))
            || !understood(zip::named(data), Vec::new())?.is_empty())
    }

    /// Whether every reader of zips finds no others in the tar `data` than one that is a member of it, and is scanned as such.
    fn is_of_member(&self, data: &dyn ByteSource) -> Result<bool> {
        let zip::Readings { usual, mut others } = understood(zip::readings(data), zip::Readings::lost())?;
        others.push(usual);
        let within = |reading: &Directory| match reading {
            Directory::Of(central) => {
                self.zips.iter().any(|&(at, end)| central.prefix == at && central.end <= end)
            }
            _ => false,
        };
        Ok(others.iter().all(within))
    }

    /// Scans bytes that a pickle passes to a loader of PyTorch files.
    pub fn loaded(&mut self, data: &dyn ByteSource, place: &Place) -> Result<()> {
        if self.dispatch(data, "loaded.pt", place)?.is_none() {
            let message = "a loader would read bytes that are neither a pickle nor an archive".to_string();
            self.find(Rule::OpaqueContent, place, None, message);
        }
        Ok(())
    }

    /// Scans the member `name` of an archive.
    pub fn member(&mut self, data: &dyn ByteSource, name: &str, place: &Place) -> Result<()> {
        self.members += 1;
        if native::is_compiled(name) {
            let message = format!("PyTorch compiles or loads `{}` when it loads this package", cut(name));
            self.find(Rule::NativeCode, place, None, message);
        }
        let of_java = native::is_java(data)?;
        if let Some(kind) = native::kind(data)?.filter(|_| !place.java) {
            let message = format!("`{}` is {kind} machine code", cut(name));
            self.find(Rule::NativeCode, place, None, message);
        } else if of_java || place.java && native::kind(data)?.is_some() {
            // A jar has thousands, which are told together.
            let (archive, _) = place.member.rsplit_once('!').unwrap_or_default();
            let archive = Place { member: archive.to_string(), ..place.clone() };
            let what = if of_java { "classes of Java's" } else { "machine code for Java" };
            let message = format!("has {what}, which no loader of models runs");
            self.find_as(Severity::Unknown, Rule::NativeCode, &archive, message);
        } else if name.ends_with("debug_pkl") {
            self.pickles(data, place, Stream::Pickles)?;
        } else {
            if place.code && extension(name) == "py" {
                self.script(data, place)?;
            }
            // A pickle may be called like a configuration, or like a source.
            let configured = self.is_configuration(data, name, place)? | self.serialized(data, place)?;
            let kind = self.dispatch(data, name, place)?;
            let is_archive = matches!(kind, Some(Kind::Zip | Kind::TorchZip | Kind::TorchScript | Kind::Tar));
            // Other bytes may stand before a zip.
            if !is_archive && zip::has_directory(data)? && self.has_entries(data)? {
                self.zip(data, place)?;
            } else if kind.is_none()
                && !configured
                && (data.len() > 0 || is_object(name))
                && member_promises(name)
            {
                if let Some(what) = pointer(&data.window(0, HEAD)?) {
                    self.damaged(place, format!("is {what}: the file that it stands for was not scanned"));
                } else if is_object(name)
                    || !(plain::is_text(data)? || extension(name) == "tar" && data.is_zero()?)
                {
                    self.damaged(place, "is neither a pickle, nor an archive, nor a tensor file".into());
                }
            }
        }
        Ok(())
    }

    /// Scans `data` by its kind, and returns that; `None` if no loader reads it.
    pub fn dispatch(&mut self, data: &dyn ByteSource, name: &str, place: &Place) -> Result<Option<Kind>> {
        let head = data.window(0, HEAD)?;
        let Some(kind) = self.recognised(data, &head, name, place)? else { return Ok(None) };
        // First bytes may be opcodes, too, and the loader decides which they are. A zip's are a persistent id that is
        // text, at which every unpickler stops.
        let ends_at_once = head.first() == Some(&b'P');
        if !matches!(kind, Kind::Pickle | Kind::TorchLegacy) && !ends_at_once {
            self.pickles(data, place, Stream::Chance)?;
        }
        Ok(Some(kind))
    }

    fn recognised(
        &mut self,
        data: &dyn ByteSource,
        head: &[u8],
        name: &str,
        place: &Place,
    ) -> Result<Option<Kind>> {
        let pickled = PICKLED.contains(&extension(name).as_str());
        // A member that is a file of tensors or a pickle is scanned according to its name.
        let as_called = |family: &Family| matches!(family, Family::SafeTensors | Family::Pickle);
        let mut families = format::candidates(head).map(|container| container.family);
        match families.find(|family| !as_called(family)) {
            Some(Family::Zip | Family::Npz) => return self.zip(data, place).map(Some),
            Some(Family::TorchLegacy) => {
                // Magic number, protocol, system info, object, storage keys; then the storages.
                self.pickles(data, place, Stream::Then(5))?;
                self.after_storages(data, place)?;
                return Ok(Some(Kind::TorchLegacy));
            }
            Some(Family::Tar) => {
                self.tar(data, place)?;
                return Ok(Some(Kind::Tar));
            }
            Some(Family::Gguf) => {
                self.gguf(data, place)?;
                return Ok(Some(Kind::Gguf));
            }
            Some(Family::Npy) => {
                self.npy(data, place)?;
                return Ok(Some(Kind::Npy));
            }
            Some(Family::SafeTensors | Family::Pickle) | None => {}
        }
        // joblib looks at the first bytes alone, whatever the name.
        let vague = |found: &&Compression| {
            pickled
                || Compression::promised_by(&extension(name)).is_some()
                || found.begins_well(&mut BufReader::new(Reader { source: data, at: 0 }))
        };
        let compression = Compression::of(head).or_else(|| Compression::perhaps(head).filter(vague));
        if let Some(compression) = compression {
            self.compressed(compression, data, name, place)?;
            return Ok(Some(Kind::Compressed(compression.key)));
        }
        if head.starts_with(hdf5::MAGIC) {
            self.hdf5(data, place)?;
            return Ok(Some(Kind::Hdf5));
        }
        if let Some((zlib, begin)) = Compression::promised_by("z").zip(old_joblib(head)) {
            // An array's elements have no form of their own.
            self.compressed(zlib, &Section::from(data, begin), "", place)?;
            return Ok(Some(Kind::Compressed(zlib.key)));
        }
        if let Some(what) = opaque(head) {
            self.find(Rule::OpaqueContent, place, None, format!("{what}, which cannot be scanned"));
            return Ok(Some(Kind::Opaque));
        }
        match head.is_empty() {
            true => Ok(None),
            false => {
                let kind = self.bare(data, head, name, place)?;
                if kind.is_none() && hdf5::begin(data)?.is_some() {
                    self.hdf5(data, place)?;
                    return Ok(Some(Kind::Hdf5));
                }
                Ok(kind)
            }
        }
    }

    /// Scans the bytes after the storages of a legacy file.
    fn after_storages(&mut self, data: &dyn ByteSource, place: &Place) -> Result<()> {
        let Some(end) = torch_legacy::end_of_storages(data)? else {
            let message =
                "its storages cannot be located, so whatever follows them was not scanned".to_string();
            self.find(Rule::OpaqueContent, place, None, message);
            return Ok(());
        };
        let rest = Section::from(data, end);
        if rest.len == 0 {
            return Ok(());
        }
        let message = bytes_that(rest.len, "follow") + " the storages";
        self.find(Rule::AppendedBytes, place, Some(end), message);
        if let Some(inner) = self.inside(place, "after the storages", Some(end))
            && self.dispatch(&rest, "after.pkl", &inner)?.is_none()
        {
            self.sweep(&rest, &inner)?;
        }
        Ok(())
    }

    fn compressed(
        &mut self,
        compression: &Compression,
        data: &dyn ByteSource,
        name: &str,
        place: &Place,
    ) -> Result<()> {
        let limit = FREE_WORK.min(self.budget).min(self.unpackable()).max(data.len());
        let mut inflated = Vec::new();
        let read = compression.unpack(&data.bytes(0..data.len())?, limit, &mut inflated);
        self.spend(inflated.len() as u64);
        inflated.shrink_to_fit();
        let before = self.hold(inflated.len() as u64);
        if inflated.len() as u64 > limit {
            let message = format!("inflates to more than {limit} bytes; the rest was not scanned");
            self.find(Rule::OpaqueContent, place, None, message);
        } else if let Err(error) = read {
            let error = Reader::complaint(error)?;
            self.damaged(place, format!("the compressed data is damaged: {error}"));
        }
        if let Some(inner) = self.inside(place, "inflated", None) {
            let bare = match name.rsplit_once('.') {
                Some((stem, last)) if Compression::promised_by(last).is_some() => stem,
                _ => name,
            };
            // What is compressed is given to some loader; under a name that says nothing, that may be any.
            let says_nothing = !PICKLED.contains(&extension(bare).as_str()) && !is_named(Path::new(bare));
            let promised = PICKLED.contains(&extension(name).as_str())
                || Compression::promised_by(&extension(name)).is_some();
            let bare = if compression.is_vague && !promised {
                // Git's objects, for example.
                "inflated".to_string()
            } else if extension(bare).is_empty() {
                "inflated.data".to_string()
            } else if says_nothing && !names_configuration(bare) {
                format!("{bare}.data")
            } else {
                bare.to_string()
            };
            let inflated = inflated.as_slice();
            self.member(&inflated, &bare, &inner)?;
            // What looks like a configuration may be a pickle all the same.
            if names_configuration(&bare) {
                let head = &inflated[..inflated.len().min(HEAD as usize)];
                self.bare(&inflated, head, "inflated.pkl", &inner)?;
            }
        }
        self.memory = before;
        Ok(())
    }

    /// A NumPy array, whose elements are a pickle if they are objects (`numpy/lib/format.py`).
    fn npy(&mut self, data: &dyn ByteSource, place: &Place) -> Result<()> {
        let end = match npy::place(&data.window(0, npy::FIXED)?) {
            Ok(place) => place.end,
            Err(error) => {
                self.damaged(place, error.what);
                return Ok(());
            }
        };
        let Some(header) = data.part(0, end)? else {
            self.damaged(place, npy::cut_header().what);
            return Ok(());
        };
        // Python, which also reads escapes, may understand a header that this crate does not.
        let parsed = npy::Header::parse(&header).ok();
        let objects = header.contains(&b'\\') || parsed.as_ref().is_none_or(npy::Header::may_hold_objects);
        if let Some(end) = parsed.and_then(|header| header.end()).filter(|end| *end < data.len()) {
            let message = bytes_that(data.len() - end, "follow") + " the array's elements";
            self.find(Rule::AppendedBytes, place, Some(end), message);
        }
        let stream = if objects { Stream::Pickles } else { Stream::Chance };
        self.pickles(&Section::from(data, end), place, stream)?;
        Ok(())
    }

    /// Scans a chat template, which is called `name`.
    pub fn template(&mut self, text: &str, name: &str, place: &Place) {
        match template::judge(text) {
            Template::Harmless => {}
            Template::Reaches(what) => {
                let message = format!("`{}` reaches into Python: {what}", cut(name));
                self.find(Rule::DangerousTemplate, place, None, message);
            }
            Template::Unread(why) => {
                let message = format!(
                    "`{}` cannot be parsed, so only its expressions were looked at: {why}",
                    cut(name)
                );
                self.find(Rule::OpaqueContent, place, None, message);
            }
        }
    }

    fn script(&mut self, data: &dyn ByteSource, place: &Place) -> Result<()> {
        for (offset, what) in text::script(&text_of(&data.bytes(0..data.len())?)) {
            self.find(Rule::DangerousScript, place, Some(offset), what);
        }
        Ok(())
    }

    /// The member `name` at this place; `None`, which is reported, if that is nested too deeply.
    pub fn inside(&mut self, place: &Place, name: &str, offset: Option<u64>) -> Option<Place> {
        let inner = place.inside(name);
        if inner.is_none() {
            let message = "archives or pickles nested too deeply to follow".to_string();
            self.find(Rule::OpaqueContent, place, offset, message);
        }
        inner
    }

    /// Adds a finding of `rule` of another severity.
    pub fn find_as(&mut self, severity: Severity, rule: Rule, place: &Place, message: String) {
        let member = place.member.clone();
        self.findings.add(Finding { rule, severity, member, offset: None, global: None, message, count: 1 });
    }

    /// Adds a finding of `rule` that concerns no import.
    pub fn find(&mut self, rule: Rule, place: &Place, offset: Option<u64>, message: String) {
        let member = place.member.clone();
        let severity = rule.severity();
        self.findings.add(Finding { rule, severity, member, offset, global: None, message, count: 1 });
    }

    /// Notes that something is cut short or does not decode.
    pub fn damaged(&mut self, place: &Place, what: String) {
        self.unreadable.get_or_insert_with(|| match place.member.is_empty() {
            true => what.clone(),
            false => format!("{}: {what}", place.member),
        });
        self.find(Rule::Damaged, place, None, what);
    }

    pub fn harmless(&mut self, global: String) {
        if self.harmless.len() <= super::MAX_HARMLESS {
            self.harmless.insert(global);
        }
    }

    pub fn is_allowed(&self, module: &str, name: &str) -> bool {
        self.options.allow.iter().any(|pattern| pattern.matches(module, name))
    }

    /// Whether a hidden pickle was already reported at this place, and marks it as reported.
    pub fn told_hidden(&mut self, place: &Place) -> bool {
        !self.hidden.insert(place.member.clone())
    }

    /// Whether `work` more bytes may be inflated or followed.
    pub fn afford(&self, work: u64) -> bool {
        self.budget >= work
    }

    /// Bytes that may still be unpacked.
    fn unpackable(&self) -> u64 {
        self.memory.saturating_sub(KEPT_MEMORY)
    }

    /// Whether `bytes` more may be unpacked.
    pub fn may_unpack(&self, bytes: u64) -> bool {
        self.afford(bytes) && bytes <= self.unpackable()
    }

    /// Counts `bytes` as taken, and returns what there was before.
    pub fn hold(&mut self, bytes: u64) -> u64 {
        let before = self.memory;
        self.memory = self.memory.saturating_sub(bytes).max(KEPT_MEMORY.min(before));
        before
    }

    pub fn spend(&mut self, work: u64) {
        self.budget = self.budget.saturating_sub(work);
    }

    pub fn out_of_budget(&mut self, place: &Place) {
        let message = "is nested or repeated out of proportion to the file; the rest was not scanned";
        self.find(Rule::OpaqueContent, place, None, message.into());
    }
}
