//! What lies at a path: a file or a folder of this machine or, where a program has registered a [`Store`], of a remote
//! one. What reads checkpoints asks here and not the file system, so that the two do not differ.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::ByteSource;
use crate::{DamageKind, Error, Result};

/// Where files lie that are named by URLs, such as `s3://bucket/run/model.safetensors`. Implementations may be called from
/// many threads at a time. What they answer about one location should not change while a program runs, but for errors.
pub trait Store: fmt::Debug + Send + Sync {
    /// The schemes of the URLs that it knows, such as `s3`.
    fn schemes(&self) -> Vec<&'static str>;

    /// The location that is read, reported and compared instead of `location`: without what only proves that it may be
    /// read, such as the signature in a presigned URL, which the store remembers.
    fn admit(&self, location: &str) -> String {
        location.to_string()
    }

    /// What lies at `location`.
    ///
    /// # Errors
    /// `NotFound` when nothing does, and why it could not be found out.
    fn stat(&self, location: &str) -> io::Result<Stat>;

    /// What lies directly in the folder `location`, by name; nothing where such a store cannot tell.
    ///
    /// # Errors
    /// Why it could not be found out.
    fn list(&self, location: &str) -> io::Result<Vec<(String, Stat)>>;

    /// What was found at or below the folder `location`, as far as it was listed, and can be no path, so that no listing has
    /// it: keys such as `run//model.pt`, which buckets allow.
    fn left_out(&self, location: &str) -> Vec<String> {
        let _ = location;
        Vec::new()
    }

    /// The file at `location`.
    ///
    /// # Errors
    /// `NotFound`, and why it could not be opened.
    fn open(&self, location: &str) -> io::Result<Arc<dyn StoredFile>>;
}

/// A file of a [`Store`].
pub trait StoredFile: fmt::Debug + Send + Sync {
    /// How many bytes it has.
    fn len(&self) -> u64;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What tells that it has changed, if anything does: its entity tag.
    fn version(&self) -> Option<String>;

    /// The bytes of `range`, which lies within it.
    ///
    /// # Errors
    /// Why they could not be read, also when the file is another one by now.
    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>>;

    /// Says that `ranges` of it are about to be read, one after the other: to fetch them together.
    ///
    /// # Errors
    /// Those of [`StoredFile::read`].
    fn expect(&self, ranges: &[Range<u64>]) -> io::Result<()>;
}

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file; 0 for anything else.
    pub bytes: u64,
    /// What tells that a remote file has changed.
    pub version: Option<String>,
}

impl Stat {
    /// A file of `bytes` bytes.
    pub fn file(bytes: u64, version: Option<String>) -> Self {
        Stat { kind: Kind::File, bytes, version }
    }

    /// A folder.
    pub fn folder() -> Self {
        Stat { kind: Kind::Folder, bytes: 0, version: None }
    }

    fn of(metadata: &std::fs::Metadata) -> Self {
        let kind = match (metadata.is_file(), metadata.is_dir()) {
            (true, _) => Kind::File,
            (_, true) => Kind::Folder,
            _ => Kind::Other,
        };
        Stat { kind, bytes: if kind == Kind::File { metadata.len() } else { 0 }, version: None }
    }
}

/// What something at a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A link, of an entry that is not followed.
    Link,
    /// A pipe, a device, a socket.
    Other,
}

/// An entry of a folder.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// The folder's path and the entry's name.
    pub path: PathBuf,
    /// What it is itself: links are not followed.
    pub kind: Kind,
}

/// Locations in one folder, since when they gave no answer, and why.
type Unanswered = BTreeMap<PathBuf, (Instant, String)>;

/// Locations that could not be found out about, by the folder that they are in, and why. What is asked of them is whether
/// something is there, and "no" would be taken for an answer.
static UNANSWERED: Mutex<BTreeMap<PathBuf, Unanswered>> = Mutex::new(BTreeMap::new());

/// Keeps whether `answer` about `path`, a remote one, was none.
fn noted_answer(path: &Path, answer: io::Result<Stat>) -> io::Result<Stat> {
    let mut unanswered = UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = path.parent().unwrap_or(path);
    match &answer {
        // A server may deny access to all that is not there.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            unanswered
                .entry(folder.into())
                .or_default()
                .insert(path.into(), (Instant::now(), error.to_string()));
        }
        _ => {
            if let Some(within) = unanswered.get_mut(folder) {
                within.remove(path);
                if within.is_empty() {
                    unanswered.remove(folder);
                }
            }
        }
    }
    answer
}

/// The error for a checkpoint at `path` of which it could not be found out, since `begun`, what belongs to it.
///
/// # Errors
/// `Io`.
pub(crate) fn all_answered(path: &Path, begun: Instant) -> Result<()> {
    if !is_remote(path) {
        return Ok(());
    }
    let unanswered = UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner);
    let near = [Some(path), path.parent()].into_iter().flatten();
    match near.filter_map(|folder| unanswered.get(folder)?.iter().find(|(_, (at, _))| *at >= begun)).next() {
        Some((asked, (_, why))) => Err(Error::new(crate::ErrorKind::Io, why.clone()).in_file(asked)),
        None => Ok(()),
    }
}

/// When the commands that go on began, by their numbers.
static COMMANDS: Mutex<BTreeMap<u64, Instant>> = Mutex::new(BTreeMap::new());

/// A command that goes on for as long as this is there: what stores answer during it holds until its end.
#[derive(Debug)]
pub struct Command(u64);

impl Command {
    /// A command that begins now.
    pub fn begin() -> Self {
        let mut commands = COMMANDS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = commands.last_key_value().map_or(0, |(last, _)| last + 1);
        commands.insert(number, Instant::now());
        Command(number)
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        COMMANDS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// When the first of the commands that go on began, if there is any.
pub fn command_began() -> Option<Instant> {
    let commands = COMMANDS.lock().unwrap_or_else(PoisonError::into_inner);
    commands.values().min().copied()
}

static STORES: OnceLock<Vec<Arc<dyn Store>>> = OnceLock::new();

/// Makes `stores` known to the whole process, once: the first call counts, as with a logger. Until then paths that are URLs
/// cannot be read.
pub fn register(stores: Vec<Arc<dyn Store>>) {
    let _ = STORES.set(stores);
}

/// Whether `path` is a URL, and not a path of this machine.
pub fn is_remote(path: &Path) -> bool {
    scheme(path).is_some()
}

/// The scheme of a URL: letters first, then digits and `+`, `-` or `.`, and `://` (RFC 3986, section 3.1). A single letter
/// is a drive.
fn scheme(path: &Path) -> Option<&str> {
    let (scheme, _) = path.to_str()?.split_once("://")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let named = scheme.len() > 1 && scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    (named && scheme.chars().all(plain)).then_some(scheme)
}

/// The store of `path` and its location there; `None` for a path of this machine.
fn store(path: &Path) -> Option<io::Result<(&'static dyn Store, Cow<'_, str>)>> {
    let scheme = scheme(path)?;
    let stores = STORES.get().map_or(&[][..], Vec::as_slice);
    // They mean the same in capitals.
    let known = |store: &&Arc<dyn Store>| store.schemes().iter().any(|own| own.eq_ignore_ascii_case(scheme));
    let Some(store) = stores.iter().find(known) else {
        let known: Vec<String> =
            stores.iter().flat_map(|store| store.schemes()).map(|known| format!("{known}://")).collect();
        let why = match known.is_empty() {
            true => {
                "this program was built without access to remote files; copy it to this machine first".into()
            }
            false => format!("{scheme}:// is not read, but these are: {}", known.join(", ")),
        };
        return Some(Err(io::Error::new(io::ErrorKind::Unsupported, why)));
    };
    let location = path.to_string_lossy();
    let location = match scheme.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(format!("{}{}", scheme.to_ascii_lowercase(), &location[scheme.len()..])),
        false => location,
    };
    // What joins paths on Windows.
    let location = if cfg!(windows) { Cow::Owned(location.replace('\\', "/")) } else { location };
    Some(Ok((&**store, location)))
}

/// The path to read `path` by: without the proof in a URL that it may be read.
pub fn admitted(path: &Path) -> Cow<'_, Path> {
    match store(path) {
        Some(Ok((store, location))) => Cow::Owned(PathBuf::from(store.admit(&location))),
        _ => Cow::Borrowed(path),
    }
}

/// What was found at or below the folder `path`, as far as it was listed, and can be no path: see [`Store::left_out`].
pub fn left_out(path: &Path) -> Vec<String> {
    match store(path) {
        Some(Ok((store, location))) => store.left_out(&location),
        _ => Vec::new(),
    }
}

/// The names of what is at `path`: its own in full, and that of what it leads to.
///
/// # Errors
/// When nothing is there.
pub(crate) fn names(path: &Path) -> io::Result<[PathBuf; 2]> {
    let own = if is_remote(path) { path.to_path_buf() } else { std::path::absolute(path)? };
    Ok([own, path.stored_identity()?])
}

/// What a path leads to, wherever that is.
pub trait Stored {
    /// What is there; links are followed.
    ///
    /// # Errors
    /// `NotFound` when nothing is, and what keeps it from being found out.
    fn stored(&self) -> io::Result<Stat>;

    /// Whether a file is there.
    fn is_stored_file(&self) -> bool {
        self.stored().is_ok_and(|stat| stat.kind == Kind::File)
    }

    /// Whether a folder is there.
    fn is_stored_folder(&self) -> bool {
        self.stored().is_ok_and(|stat| stat.kind == Kind::Folder)
    }

    /// Whether anything is there.
    fn is_stored(&self) -> bool {
        self.stored().is_ok()
    }

    /// What is in the folder, in no order.
    ///
    /// # Errors
    /// When it cannot be listed.
    fn stored_entries(&self) -> io::Result<Vec<Entry>>;

    /// The file's bytes from its first on.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn stored_bytes(&self) -> io::Result<Box<dyn Read>>;

    /// The one path of what is there, whichever links lead to it.
    ///
    /// # Errors
    /// When nothing is there.
    fn stored_identity(&self) -> io::Result<PathBuf>;
}

impl Stored for Path {
    fn stored(&self) -> io::Result<Stat> {
        match store(self) {
            Some(store) => noted_answer(self, store.and_then(|(store, location)| store.stat(&location))),
            None => std::fs::metadata(self).map(|metadata| Stat::of(&metadata)),
        }
    }

    fn stored_entries(&self) -> io::Result<Vec<Entry>> {
        if let Some(store) = store(self) {
            let (store, location) = store?;
            let entry = |(name, stat): (String, Stat)| Entry { path: self.join(name), kind: stat.kind };
            return Ok(store.list(&location)?.into_iter().map(entry).collect());
        }
        let kind = |kind: std::fs::FileType| match (kind.is_file(), kind.is_dir(), kind.is_symlink()) {
            (true, ..) => Kind::File,
            (_, true, _) => Kind::Folder,
            (.., true) => Kind::Link,
            _ => Kind::Other,
        };
        let entry = |entry: io::Result<std::fs::DirEntry>| {
            let entry = entry?;
            Ok(Entry { path: entry.path(), kind: entry.file_type().map_or(Kind::Other, kind) })
        };
        std::fs::read_dir(self)?.map(entry).collect()
    }

    fn stored_bytes(&self) -> io::Result<Box<dyn Read>> {
        match store(self) {
            Some(store) => {
                let (store, location) = store?;
                Ok(Box::new(Sequence { file: store.open(&location)?, at: 0 }))
            }
            None => Ok(Box::new(std::fs::File::open(self)?)),
        }
    }

    fn stored_identity(&self) -> io::Result<PathBuf> {
        match is_remote(self) {
            true => self.stored().map(|_| self.to_path_buf()),
            false => self.canonicalize(),
        }
    }
}

/// A remote file from its first byte to its last.
struct Sequence {
    file: Arc<dyn StoredFile>,
    at: u64,
}

impl Read for Sequence {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let end = self.at.saturating_add(out.len() as u64).min(self.file.len());
        if end <= self.at {
            return Ok(0);
        }
        let bytes = self.file.read(self.at..end)?;
        out[..bytes.len()].copy_from_slice(&bytes);
        self.at = end;
        Ok(bytes.len())
    }
}

/// The bytes of a remote file.
#[derive(Debug)]
pub(super) struct Remote(Arc<dyn StoredFile>);

impl Remote {
    /// The remote file at `path`; `None` for a path of this machine.
    pub fn open(path: &Path) -> Option<io::Result<Self>> {
        Some(store(path)?.and_then(|(store, location)| store.open(&location).map(Remote)))
    }

    pub fn stat(&self) -> Stat {
        Stat::file(self.0.len(), self.0.version())
    }
}

impl ByteSource for Remote {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        if range.end > self.0.len() {
            let what = format!("bytes up to {} are needed, and there are only {}", range.end, self.0.len());
            return Err(Error::damaged(what).because(DamageKind::CutShort).at(range.start));
        }
        if range.is_empty() {
            return Ok(Cow::Borrowed(&[]));
        }
        self.0.read(range).map(Cow::Owned).map_err(|e| Error::new(crate::ErrorKind::Io, e.to_string()))
    }

    fn expect(&self, ranges: &[Range<u64>]) -> Result<()> {
        self.0.expect(ranges).map_err(|e| Error::new(crate::ErrorKind::Io, e.to_string()))
    }
}
