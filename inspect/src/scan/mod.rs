//! What loading a file would execute: imports and calls of its pickles, even hidden ones; and containers that
//! different readers read differently. Nothing is executed, and nothing is written.

mod archive;
mod calls;
mod configuration;
mod content;
mod endless;
mod executed;
mod exported;
mod forged;
mod globals;
mod hdf5;
mod hdf5_values;
mod hub;
mod interpolated;
mod json;
mod judged;
mod keras;
mod keys;
mod kind;
mod loaders;
mod methods;
mod mlflow;
mod monai;
mod native;
mod pickles;
mod plain;
#[cfg(test)]
mod ranges;
mod readers;
mod serialized;
mod shared;
mod source;
mod storages;
mod tar;
mod template;
mod tensors;
mod text;
mod unheaded;
mod uses;
mod yaml;
mod zarr;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::bytes::Source;
use crate::bytes::stored::{self, Kind, Stored};
use crate::layout::linked_blobs;
use crate::{Error, ErrorKind, Result, path_text, printable};
use content::Scanner;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Severity {
    /// Worth knowing; no reason to refuse the file.
    Note,
    /// Not known to be harmless: an import that no list knows, a container that readers may read in different ways.
    Unknown,
    /// Known to run code, to reach files, the network or any attribute, or to write outside the archive.
    Dangerous,
}

impl Severity {
    /// The lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Unknown => "unknown",
            Severity::Dangerous => "dangerous",
        }
    }
}

macro_rules! rules {
    ($($rule:ident $id:literal $severity:ident $summary:literal)*) => {
        /// What can be found. Identifiers are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)] // each has its summary
        #[non_exhaustive]
        pub enum Rule {
            $($rule,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &[Rule] = &[$(Rule::$rule,)*];

            /// The identifier, such as `dangerous-import`.
            pub fn id(self) -> &'static str {
                match self {
                    $(Rule::$rule => $id,)*
                }
            }

            /// Its description, in one sentence.
            pub fn summary(self) -> &'static str {
                match self {
                    $(Rule::$rule => $summary,)*
                }
            }

            /// The severity of its findings.
            pub fn severity(self) -> Severity {
                match self {
                    $(Rule::$rule => Severity::$severity,)*
                }
            }
        }
    };
}

rules! {
    DangerousImport "dangerous-import" Dangerous
        "Unpickling imports something that runs code, or reaches files, the network or any attribute."
    UnknownImport "unknown-import" Unknown
        "Unpickling imports something that is on no list."
    ComputedCall "computed-call" Unknown
        "Unpickling calls something that it computes, not a name that it imports."
    ExtensionCode "extension-code" Unknown
        "The pickle imports by a number that only the loading program's registry explains."
    ChangedClass "changed-class" Unknown
        "Unpickling sets attributes of a class or function that it imports, or of an object that the process shares."
    ChangedTensor "changed-tensor" Unknown
        "Unpickling sets items of a tensor or an array, which no program writes and PyTorch before 2.10 took even with `weights_only` (CVE-2026-24747)."
    ShortStorage "short-storage" Unknown
        "A storage is shorter than the pickle says: PyTorch before 2.10 read and wrote beyond it (CVE-2026-24747)."
    ForgedArray "forged-array" Unknown
        "An array or its type is described so that it reaches beyond its memory."
    Expansion "expansion" Unknown
        "The object expands to an immense number of values, or a call that makes it never ends: whatever does so runs out of time or memory."
    BrokenPickle "broken-pickle" Unknown
        "The pickle ends in an error; everything before that point is still executed."
    StrayProtocol "stray-protocol" Unknown
        "A protocol opcode is in the middle of the pickle, where no pickler writes one, or names a protocol that does not exist."
    TornFrame "torn-frame" Unknown
        "An opcode of the pickle reaches beyond its frame: readers differ in what comes next."
    BytesAfterPickle "bytes-after-pickle" Unknown
        "The pickle is followed by bytes that are not part of it."
    HiddenPickle "hidden-pickle" Note
        "A pickle is hidden in a byte string, or where tensor data should be."
    DangerousScript "dangerous-script" Dangerous
        "TorchScript code reads or writes files, or uses operators or classes of other libraries."
    DangerousTemplate "dangerous-template" Dangerous
        "A chat template reaches into Python objects."
    CustomCode "custom-code" Unknown
        "A configuration names Python code that some loaders import and run."
    NativeCode "native-code" Dangerous
        "The archive holds a program or a shared library, or what PyTorch compiles when it loads the archive."
    PathOutside "path-outside" Dangerous
        "An entry's name, or a link, leads outside the folder of the file or of what is unpacked."
    Link "link" Unknown
        "An entry of the archive is a link, or something in the file is in another file."
    DuplicateEntry "duplicate-entry" Unknown
        "Two entries of the archive have one name: which one is read depends on the reader."
    SeveralDirectories "several-directories" Unknown
        "The archive has several end records: which entries it has depends on the reader."
    ReadersDisagree "readers-disagree" Unknown
        "Readers of the archive find different members in it."
    SeveralPickles "several-pickles" Unknown
        "The archive holds more than one data.pkl."
    ChecksumMismatch "checksum-mismatch" Unknown
        "An entry that is not a tensor's storage differs from its CRC-32: some readers refuse it, PyTorch does not."
    HeadersDisagree "headers-disagree" Unknown
        "An entry's local header and the central directory disagree."
    HiddenEntry "hidden-entry" Unknown
        "An entry of the archive is not in its central directory."
    OverlappingEntries "overlapping-entries" Unknown
        "Entries of the archive overlap."
    EncryptedEntry "encrypted-entry" Unknown
        "An entry is marked as encrypted, which makes some readers skip it; PyTorch ignores the flag."
    SeveralArchives "several-archives" Note
        "There are several archives one after another, as in the parts of a distributed checkpoint; each was scanned."
    PrependedBytes "prepended-bytes" Unknown
        "There are bytes before the archive: other readers may take the file for something else."
    AppendedBytes "appended-bytes" Unknown
        "Bytes follow the end of what the format describes."
    OpaqueContent "opaque-content" Unknown
        "Part of it cannot be scanned: its compression is not supported, or it is nested too deeply."
    MalformedTensors "malformed-tensors" Unknown
        "Tensors overlap, or their header contradicts itself."
    Hole "hole" Note
        "Bytes between tensors belong to no tensor."
    Damaged "damaged" Note
        "The file is cut short or damaged; what is left of it was scanned."
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// The severity.
    pub severity: Severity,
    /// The member of the archive it is in; archives within archives are joined by `!`. Empty for the file itself.
    pub member: String,
    /// Byte offset: of the opcode in the pickle, else in the member.
    pub offset: Option<u64>,
    /// What would be imported, as `module.name`.
    pub global: Option<String>,
    /// What was found, in one line.
    pub message: String,
    /// How many times it occurs.
    pub count: u64,
}

/// The findings in one file.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Scan {
    /// The file's path as given.
    pub path: String,
    /// Its recognised kind.
    pub format: String,
    /// Pickles that were traced.
    pub pickles: u64,
    /// Members of archives that were scanned.
    pub members: u64,
    /// Imports that are known to be harmless, as `module.name`.
    pub harmless: Vec<String>,
    /// What was found, worst first.
    pub findings: Vec<Finding>,
    /// Why it could not be scanned, or not fully; `None` if it was.
    pub unreadable: Option<String>,
}

impl Scan {
    /// The report on a file that could not be scanned.
    pub fn unreadable(path: &Path, mut error: Error) -> Self {
        error.path = error.path.filter(|named| named != path);
        Scan {
            path: path_text(path),
            format: "not scanned".into(),
            pickles: 0,
            members: 0,
            harmless: Vec::new(),
            findings: Vec::new(),
            unreadable: Some(error.to_string()),
        }
    }

    /// Whether it is a file that no loader of models interprets, such as text or a picture.
    pub fn is_inert(&self) -> bool {
        self.format == kind::INERT && self.findings.is_empty()
    }

    /// Whether it is a program or a shortcut, which no loader of models interprets either: nothing in it was scanned.
    pub fn is_program(&self) -> bool {
        self.format == kind::PROGRAM
    }

    /// The worst severity that was found.
    pub fn severity(&self) -> Option<Severity> {
        self.findings.iter().map(|f| f.severity).max()
    }
}

/// How to scan.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// Further imports (`module.name`) to treat as harmless.
    pub allow: Vec<Pattern>,
}

/// `module.name`, or a prefix of such followed by `*`, which admits names defined in modules: neither those that lead through
/// what a module imports, nor those of something dangerous, or called like it. `package.config.*` admits
/// `package.config.Config`, not `package.config.os.system`, and not `package.config.run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern `text`.
    ///
    /// # Errors
    /// The reason, if it would allow too much: nothing before the `*`, or a `*` that is not at its end.
    pub fn new(text: &str) -> Result<Self> {
        let stem = text.strip_suffix('*').unwrap_or(text);
        if stem.len() < 2 || stem.contains('*') || !stem.contains('.') {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("`{}` is not an import", text.escape_debug()),
            )
            .hint("name a module and what it holds, such as mypackage.config.*"));
        }
        Ok(Pattern(text.to_string()))
    }

    fn matches(&self, module: &str, name: &str) -> bool {
        let global = format!("{module}.{name}");
        match self.0.strip_suffix('*') {
            Some(stem) => global.starts_with(stem) && globals::may_be_own(module, name),
            None => self.0 == global,
        }
    }
}

/// Findings listed of one file, worst first; the rest are counted.
const MAX_FINDINGS: usize = 2000;
/// Harmless imports listed.
const MAX_HARMLESS: usize = 1000;

/// Scans the file `path`, of any kind.
///
/// # Errors
/// `Io` if it cannot be read; `Unrecognised` if no loader of checkpoints or pickles reads such files.
pub fn scan(path: &Path, options: &Options) -> Result<Scan> {
    scan_source(&Source::open(path)?, options)
}

fn scan_source(source: &Arc<Source>, options: &Options) -> Result<Scan> {
    let path = &source.path;
    let mut scanner = Scanner::new(options, source.len());
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let format = match hub::is_generation(path) {
        true => scanner.generation(&name),
        false => scanner.file(source, &name).map_err(|e| e.in_file(path))?,
    };
    if let Some(folder) = path.parent() {
        scanner.files_beside(folder).map_err(|e| e.in_file(path))?;
    }
    Ok(scanner.finish(path, format))
}

/// Every file below `path` that a loader of checkpoints or pickles could be given, in name order; `path` itself when it
/// is a file.
///
/// # Errors
/// `Io` when a folder cannot be listed.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(Files::below(path)?.likely)
}

/// The files below a folder, in name order. Links are followed, as loaders follow them (a cache of the Hugging Face Hub
/// consists of them), and no folder is listed twice.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Files {
    /// Those that a loader of checkpoints or pickles could be given, by their names or first bytes.
    pub likely: Vec<PathBuf>,
    /// The others.
    pub others: Vec<PathBuf>,
    /// Other names of folders that are listed already, and those under which their files are.
    pub also: Vec<(PathBuf, PathBuf)>,
}

impl Files {
    /// The files below `path`, or `path` itself when it is a file.
    ///
    /// # Errors
    /// `Io` when a folder cannot be listed.
    pub fn below(path: &Path) -> Result<Self> {
        let begun = Instant::now();
        let metadata = path.stored().map_err(|e| Error::io(path, &e))?;
        let mut found = Files::default();
        if metadata.kind != Kind::Folder {
            found.likely.push(path.to_path_buf());
            return Ok(found);
        }
        let mut listed: HashMap<PathBuf, PathBuf> = HashMap::new();
        // Not limited in depth, because paths are of limited length.
        let mut rest = vec![(path.to_path_buf(), Entry::Folder)];
        while let Some((below, kind)) = rest.pop() {
            let within = below != path;
            let path = below;
            match kind {
                Entry::Folder => {
                    let identity = path.stored_identity().map_err(|e| Error::io(&path, &e))?;
                    if let Some(first) = listed.get(&identity) {
                        found.also.push((path, first.clone()));
                    } else {
                        listed.insert(identity, path.clone());
                        // By the names that they have in snapshots beside it, which say what they are.
                        let linked = if within { linked_blobs(&path) } else { HashSet::new() };
                        let is_other = |file: &Path| {
                            linked.is_empty()
                                || !file.stored_identity().is_ok_and(|file| linked.contains(&file))
                        };
                        rest.extend(list(&path)?.into_iter().filter(|(file, _)| is_other(file)));
                    }
                }
                Entry::File if kind::is_candidate(&path) => found.likely.push(path),
                Entry::Nothing if kind::is_named(&path) => found.likely.push(path),
                Entry::File | Entry::Nothing => found.others.push(path),
            }
        }
        stored::all_answered(path, begun)?;
        Ok(found)
    }
}

/// An entry of a folder.
enum Entry {
    Folder,
    File,
    /// Nothing to read: a broken link, a socket, a pipe or a device.
    Nothing,
}

/// The entries of `folder`, in reverse order of names.
fn list(folder: &Path) -> Result<Vec<(PathBuf, Entry)>> {
    let io = |e: std::io::Error| Error::io(folder, &e);
    let mut entries = Vec::new();
    for stored::Entry { path, .. } in folder.stored_entries().map_err(io)? {
        let kind = match path.stored() {
            Ok(target) if target.kind == Kind::Folder => Entry::Folder,
            Ok(target) if target.kind == Kind::File => Entry::File,
            Ok(_) | Err(_) => Entry::Nothing,
        };
        entries.push((path, kind));
    }
    entries.sort_by(|(a, _), (b, _)| b.file_name().cmp(&a.file_name()));
    Ok(entries)
}

/// Collects findings; equal ones in a member are counted together. Each severity has its own limit, so that none
/// displaces a worse one.
#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
    kept: [usize; 3],
    index: HashMap<(Rule, String, String), usize>,
    dropped: u64,
}

impl Findings {
    fn add(&mut self, finding: Finding) {
        let what = finding.global.clone().unwrap_or_else(|| finding.message.clone());
        let key = (finding.rule, finding.member.clone(), what);
        if let Some(&at) = self.index.get(&key) {
            let known = &mut self.list[at];
            known.count += 1;
            known.severity = known.severity.max(finding.severity);
        } else if self.kept[finding.severity as usize] < MAX_FINDINGS {
            self.kept[finding.severity as usize] += 1;
            self.index.insert(key, self.list.len());
            self.list.push(finding);
        } else {
            self.dropped += 1;
        }
    }
}

impl Scanner<'_> {
    fn finish(self, path: &Path, format: String) -> Scan {
        let Findings { mut list, mut dropped, .. } = self.findings;
        list.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        dropped += list.drain(list.len().min(MAX_FINDINGS)..).map(|finding| finding.count).sum::<u64>();
        if dropped > 0 {
            list.push(Finding {
                rule: Rule::Damaged,
                severity: Severity::Note,
                member: String::new(),
                offset: None,
                global: None,
                message: format!("and {dropped} more findings that are not listed"),
                count: dropped,
            });
        }
        for finding in &mut list {
            finding.member = printable(&finding.member);
            finding.message = printable(&finding.message);
            finding.global = finding.global.as_deref().map(printable);
        }
        let mut harmless: Vec<String> = self.harmless.into_iter().take(MAX_HARMLESS).collect();
        harmless.sort_unstable();
        Scan {
            path: path_text(path),
            format,
            pickles: self.pickles,
            members: self.members,
            harmless,
            findings: list,
            unreadable: self.unreadable,
        }
    }
}
