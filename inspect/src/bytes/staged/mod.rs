//! Files and folders that appear whole or not at all: written under a temporary name in the same folder, synced, then
//! renamed, and the folder synced. What is not committed is removed; what a killed process left is removed by the next
//! write into that folder.
//!
//! A new file has the mode that the process's umask gives, one that replaces another has that one's. Symbolic links are
//! followed: what they lead to is replaced, and they stay. With `force` a regular file, or a folder of our own making,
//! is replaced; a pipe, a device or a folder with anything else in it never is.

mod folder;
mod leftovers;
mod system;

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempPath;

use crate::printable;

pub use folder::StagedFolder;
pub(crate) use leftovers::is_temporary;

/// Why an output was not written. Nothing is left under its name but what was there before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a write.
    #[error("{}: cannot be written: {source}; nothing was left there", shown(path))]
    Write {
        /// The output.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// A pipe or a device did not take what it was given.
    #[error("{}: cannot be written: {source}", shown(path))]
    Stream {
        /// The pipe or device.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The folder that an output goes into does not exist.
    #[error("{}: cannot be written: its folder is not there", shown(path))]
    NoFolder {
        /// The output.
        path: PathBuf,
    },
    /// The output is there already.
    #[error("{} exists", shown(path))]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// Something that an output does not replace stands there.
    #[error("{} is {by}; name another output", shown(path))]
    Occupied {
        /// The output.
        path: PathBuf,
        /// What stands there.
        by: Occupant,
    },
    /// A folder that holds something no conversion writes is not replaced.
    #[error("{} holds `{}`, which no conversion writes, so it is not replaced; choose another folder", shown(path), entry.escape_debug())]
    Foreign {
        /// The output folder.
        path: PathBuf,
        /// What it holds.
        entry: String,
    },
    /// A folder that was to be replaced, and is not, could not be put back either. It is whole, under another name.
    #[error("{}: what stood there is in {}, and cannot be put back: {source}", shown(path), shown(aside))]
    Displaced {
        /// The output folder.
        path: PathBuf,
        /// Where it is.
        aside: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The file system has too little room. Checked before the first byte.
    #[error(
        "{}: needs {needed} bytes and the file system has {available} left; nothing was written",
        shown(path)
    )]
    NoSpace {
        /// The output.
        path: PathBuf,
        /// Bytes to write.
        needed: u64,
        /// Bytes free to this user.
        available: u64,
    },
    /// `-` was named, which elsewhere is standard output.
    #[error("`-` is no name for an output, which is written whole or not at all: name a file")]
    Dash,
    /// The caller stopped the work.
    #[error("stopped; nothing was written to {}", shown(path))]
    Stopped {
        /// The output.
        path: PathBuf,
    },
}

/// What stands where an output was to go, and is not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Occupant {
    /// A file where a folder is to be.
    File,
    /// A folder where a file is to be.
    Folder,
    /// A pipe or a device.
    Stream,
    /// A symbolic link without a target.
    LostLink,
}

impl std::fmt::Display for Occupant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Occupant::File => "a file, and a folder is to be written",
            Occupant::Folder => "a folder, and a file is to be written",
            Occupant::Stream => "a pipe or a device, which is not replaced",
            Occupant::LostLink => "a symbolic link that leads nowhere",
        })
    }
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// A result with this module's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What `error` says without the temporary name that a library added to it.
fn unnamed(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Other => error,
        kind if error.get_ref().is_some() => kind.into(),
        _ => error,
    }
}

fn cannot(path: &Path) -> impl Fn(io::Error) -> Error + Copy {
    move |source| Error::Write { path: path.to_path_buf(), source: unnamed(source) }
}

/// How a caller watches and stops the work.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Control<'c> {
    /// Told of bytes as they are written.
    pub progress: &'c (dyn Fn(u64) + Sync),
    /// Set by the caller to stop: what was written so far is removed.
    pub stop: &'c AtomicBool,
}

impl<'c> Control<'c> {
    /// Tells `progress`, and stops when `stop` is set.
    pub fn new(progress: &'c (dyn Fn(u64) + Sync), stop: &'c AtomicBool) -> Self {
        Control { progress, stop }
    }

    /// Fails once the caller has asked to stop the writing of `path`.
    ///
    /// # Errors
    /// `Stopped`.
    pub fn check(&self, path: &Path) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped { path: path.to_path_buf() });
        }
        Ok(())
    }
}

/// A file being written, of known length from any thread at any offset.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    /// The name it will have, for errors.
    path: PathBuf,
    len: u64,
    /// Bytes handed to the operating system.
    written: AtomicU64,
    /// What it said when it could not bring them to the disk. It says so once.
    lost: OnceLock<io::Error>,
}

impl OutputFile {
    fn new(file: File, path: PathBuf, len: u64) -> Result<Self> {
        if len > 0 {
            system::reserve(&file, len).and_then(|()| file.set_len(len)).map_err(cannot(&path))?;
        }
        Ok(OutputFile { file, path, len, written: AtomicU64::new(0), lost: OnceLock::new() })
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// `Write`: the disk is full, or a limit was met.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        system::write_all_at(&self.file, bytes, offset).map_err(cannot(&self.path))?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Does `work` while a thread brings to the disk what it has written, so that little is left to wait for.
    pub fn flushing<T>(&self, work: impl FnOnce() -> T) -> T {
        /// Bytes that are worth a trip.
        const ENOUGH: u64 = 8 << 20;
        struct Ends<'e>(&'e AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        if self.len < 2 * ENOUGH {
            return work();
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut flushed = 0;
                while !done.load(Ordering::Relaxed) {
                    let written = self.written.load(Ordering::Relaxed);
                    if written < flushed + ENOUGH {
                        std::thread::sleep(Duration::from_millis(1));
                    } else if let Err(error) = self.file.sync_data() {
                        let _ = self.lost.set(error);
                        break;
                    } else {
                        flushed = written;
                    }
                }
            });
            let _ends = Ends(&done);
            work()
        })
    }

    /// The name it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn sync(&self) -> Result<()> {
        let synced = self.file.sync_all();
        let lost = self.lost.get().map(|e| io::Error::new(e.kind(), e.to_string()));
        lost.map_or(synced, Err).map_err(cannot(&self.path))
    }
}

/// What an output is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
}

/// Where an output named `path` goes, symbolic links followed. What stands there is replaced only if it is of that kind:
/// a pipe or a device never is.
///
/// # Errors
/// `Occupied`, or `Dash`.
fn place(path: &Path, kind: Kind) -> Result<PathBuf> {
    if path == Path::new("-") {
        return Err(Error::Dash);
    }
    let occupied = |by| Error::Occupied { path: path.to_path_buf(), by };
    let Ok(link) = path.symlink_metadata() else { return Ok(path.to_path_buf()) };
    if !link.is_symlink() {
        return match (link.is_file(), link.is_dir(), kind) {
            (true, _, Kind::File) | (_, true, Kind::Folder) => Ok(path.to_path_buf()),
            (true, ..) => Err(occupied(Occupant::File)),
            (_, true, _) => Err(occupied(Occupant::Folder)),
            _ => Err(occupied(Occupant::Stream)),
        };
    }
    match path.canonicalize() {
        Ok(target) if target != path => place(&target, kind).map_err(|error| match error {
            Error::Occupied { by, .. } => occupied(by),
            other => other,
        }),
        _ => Err(occupied(Occupant::LostLink)),
    }
}

/// Whether a file may be written to `path`: nothing is there, or with `force` a regular file, in a folder that is.
///
/// # Errors
/// `Exists`, `Occupied`, `NoFolder` or `Dash`.
pub fn may_write(path: &Path, force: bool) -> Result<()> {
    free_place(path, force).map(drop)
}

fn free_place(path: &Path, force: bool) -> Result<PathBuf> {
    let place = place(path, Kind::File)?;
    match place.symlink_metadata() {
        Ok(_) if !force => Err(Error::Exists { path: path.to_path_buf() }),
        Err(_) if !folder_of(&place).is_dir() => Err(Error::NoFolder { path: path.to_path_buf() }),
        _ => Ok(place),
    }
}

/// Whether `path` leads to a pipe or a device, which [`write`] gives what it is to write.
fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// Whether [`write()`] may write to `path`: as [`may_write`], but a pipe or a device takes what it is given.
///
/// # Errors
/// Those of [`may_write`].
pub fn may_write_or_feed(path: &Path, force: bool) -> Result<()> {
    if path != Path::new("-") && is_stream(path) { Ok(()) } else { may_write(path, force) }
}

/// Writes `contents` to `path`, whole or not at all. A pipe or a device takes what it is given.
///
/// # Errors
/// Those of [`StagedFile::create`] and [`StagedFile::commit`]; `Stream`.
pub fn write(path: &Path, contents: &[u8], force: bool) -> Result<()> {
    write_until(path, contents, force, &AtomicBool::new(false))
}

/// [`write()`], which waits for who reads a pipe no longer than until the caller sets `stop`.
///
/// # Errors
/// Those of [`write()`]; `Stopped`.
pub fn write_until(path: &Path, contents: &[u8], force: bool, stop: &AtomicBool) -> Result<()> {
    may_write_or_feed(path, force)?;
    if is_stream(path) {
        return feed(path, contents, stop);
    }
    let file = StagedFile::create(path, contents.len() as u64, force)?;
    file.output().write_at(0, contents)?;
    file.commit()
}

/// Gives a pipe or a device what it is to take. The system is never let wait for its reader, since whoever asks this to
/// stop would be waiting as well.
#[cfg(unix)]
fn feed(path: &Path, contents: &[u8], stop: &AtomicBool) -> Result<()> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let cannot = |source| Error::Stream { path: path.to_path_buf(), source };
    let wait = || {
        std::thread::sleep(Duration::from_millis(10));
        Control { progress: &|_| (), stop }.check(path)
    };
    let is_pipe = || std::fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo());
    let no_reader = rustix::io::Errno::NXIO.raw_os_error();
    let mut options = File::options();
    options.write(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    let mut file = loop {
        match options.open(path) {
            Ok(file) => break file,
            Err(e) if e.raw_os_error() == Some(no_reader) && is_pipe() => wait()?,
            Err(e) => return Err(cannot(e)),
        }
    };
    let mut rest = contents;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(cannot(io::ErrorKind::WriteZero.into())),
            Ok(taken) => rest = &rest[taken..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait()?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(cannot(e)),
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn feed(path: &Path, contents: &[u8], _: &AtomicBool) -> Result<()> {
    let open = File::options().write(true).open(path);
    open.and_then(|mut file| file.write_all(contents))
        .map_err(|source| Error::Stream { path: path.to_path_buf(), source })
}

/// Replaces `path` by `contents`, whole or not at all as long as the machine runs: for what can be made again, and would
/// cost more to sync. Leftovers stay until [`tidy`].
///
/// # Errors
/// As [`write`].
pub(crate) fn keep(path: &Path, contents: &[u8]) -> Result<()> {
    let mut file = StagedFile::stage(&free_place(path, true)?, 0, true)?;
    file.write_all(contents).map_err(cannot(path))?;
    file.rename().map(drop)
}

/// Removes what killed processes left in `folder`.
pub(crate) fn tidy(folder: &Path) {
    leftovers::remove(folder);
}

/// One file that will be renamed to its name.
#[derive(Debug)]
pub struct StagedFile {
    output: OutputFile,
    temporary: TempPath,
    force: bool,
}

impl StagedFile {
    /// Begins a file of `len` bytes that will be `path`, or what that links to.
    ///
    /// # Errors
    /// `Exists` unless `force`, `Occupied`, `Dash`, `NoFolder`, `NoSpace`, or `Write`.
    pub fn create(path: &Path, len: u64, force: bool) -> Result<Self> {
        let path = &free_place(path, force)?;
        leftovers::remove(folder_of(path));
        Self::stage(path, len, force)
    }

    fn stage(path: &Path, len: u64, force: bool) -> Result<Self> {
        let folder = folder_of(path);
        check_space(path, folder, len)?;
        let (file, temporary) = temporary_file(folder, path).map_err(cannot(path))?;
        let output = OutputFile::new(file, path.to_path_buf(), len)?;
        Ok(StagedFile { output, temporary, force })
    }

    /// Begins a file that is written from its beginning to an end not known yet, through [`io::Write`].
    ///
    /// # Errors
    /// As [`StagedFile::create`].
    pub fn begin(path: &Path, force: bool) -> Result<Self> {
        Self::create(path, 0, force)
    }

    /// What to write to.
    pub fn output(&self) -> &OutputFile {
        &self.output
    }

    /// Gives the finished file its name.
    ///
    /// # Errors
    /// `Exists` when another process made one meanwhile, or `Write`.
    pub fn commit(self) -> Result<()> {
        self.output.sync()?;
        let output = self.rename()?;
        sync_folder(folder_of(&output.path));
        Ok(())
    }

    fn rename(self) -> Result<OutputFile> {
        let path = &self.output.path;
        let persisted = match self.force {
            true => self.temporary.persist(path),
            false => self.temporary.persist_noclobber(path),
        };
        persisted.map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists { path: path.clone() },
            _ => cannot(path)(e.error),
        })?;
        // Its lock is held until here.
        Ok(self.output)
    }
}

/// From the beginning on, for files whose length is not known.
impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Attempts at a temporary name that nobody else takes for a leftover.
const ATTEMPTS: usize = 16;

fn taken() -> io::Error {
    io::Error::other("temporary files are removed as soon as they are made")
}

/// A new file in `folder`, locked, which is to replace what `path` may be.
fn temporary_file(folder: &Path, path: &Path) -> io::Result<(File, TempPath)> {
    let replaced = std::fs::metadata(path).ok();
    for _ in 0..ATTEMPTS {
        // As `open` would, less the umask; the library's own default is private.
        let builder = leftovers::names(replaced.as_ref().map(Metadata::permissions), 0o666);
        let (file, temporary) = builder.tempfile_in(folder)?.into_parts();
        if leftovers::hold(&file, &temporary) {
            #[cfg(unix)]
            if let Some(replaced) = &replaced {
                // The umask may have taken from it. A file system without modes does without.
                let _ = file.set_permissions(mode_of(replaced, &file));
            }
            return Ok((file, temporary));
        }
    }
    Err(taken())
}

/// The mode of what `file` replaces. Who starts a program with the rights of its owner or group trusts the one it had: of
/// another's file they do not stay.
#[cfg(unix)]
fn mode_of(replaced: &Metadata, file: &File) -> std::fs::Permissions {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    const RIGHTS: u32 = 0o6000;
    let owner = |m: &Metadata| (m.uid(), m.gid());
    match file.metadata() {
        Ok(new) if owner(&new) == owner(replaced) => replaced.permissions(),
        _ => PermissionsExt::from_mode(replaced.mode() & !RIGHTS & 0o7777),
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn check_space(path: &Path, folder: &Path, needed: u64) -> Result<()> {
    let available = system::available_space(folder).map_err(cannot(path))?;
    if available < needed {
        return Err(Error::NoSpace { path: path.to_path_buf(), needed, available });
    }
    Ok(())
}

/// Makes a rename in `folder` durable. File systems that cannot sync a folder do without.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}
