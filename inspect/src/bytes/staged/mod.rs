//! Files and folders that are written completely or not at all: under a temporary name in the same folder, synced, then
//! renamed, and the folder synced. What is not committed is removed; what a killed process left is removed by the next
//! write into that folder.
//!
//! A new file has the mode that the process's umask gives, one that replaces another keeps that one's mode. Symbolic
//! links are followed: their target is replaced, and they stay. With `force` a regular file, or a folder with nothing
//! but our own output, is replaced; a pipe, a device or a folder with anything else in it never is.

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

/// Why an output was not written. What was under its name before is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a write.
    #[error("{}: cannot be written: {source}; nothing was left behind", shown(path))]
    Write {
        /// The output.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
    /// A pipe or a device refused a write.
    #[error("{}: cannot be written: {source}", shown(path))]
    Stream {
        /// The pipe or device.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The folder that an output goes into does not exist.
    #[error("{}: cannot be written: its folder does not exist", shown(path))]
    NoFolder {
        /// The output.
        path: PathBuf,
    },
    /// The output exists already.
    #[error("{} already exists", shown(path))]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The path is taken by something that an output never replaces.
    #[error("{} is {by}; choose another output", shown(path))]
    Occupied {
        /// The output.
        path: PathBuf,
        /// What is there.
        by: Occupant,
    },
    /// A folder with anything in it that no conversion writes is not replaced.
    #[error("{} contains `{}`, which is not part of a converted model, so the folder is not replaced; choose another one", shown(path), entry.escape_debug())]
    Foreign {
        /// The output folder.
        path: PathBuf,
        /// What it holds.
        entry: String,
    },
    /// A folder could not be replaced, and could not be moved back either. It is intact, under another name.
    #[error(
        "{}: its previous content was moved to {} and cannot be moved back: {source}",
        shown(path),
        shown(aside)
    )]
    Displaced {
        /// The output folder.
        path: PathBuf,
        /// Where it is.
        aside: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The file system has too little space. Checked before the first byte.
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
    /// The output is named `-`, which means standard output in other programs.
    #[error(
        "`-` cannot be an output, because outputs are written completely or not at all: give a file name"
    )]
    Dash,
    /// The output is a URL.
    #[error("{}: outputs are written to files of this machine; copy it from there", shown(path))]
    Remote {
        /// The output.
        path: PathBuf,
    },
    /// The caller stopped the work.
    #[error("stopped; nothing was written to {}", shown(path))]
    Stopped {
        /// The output.
        path: PathBuf,
    },
}

/// Things at an output's path that are not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Occupant {
    /// A file, where a folder is to be written.
    File,
    /// A folder, where a file is to be written.
    Folder,
    /// A pipe or a device.
    Stream,
    /// A symbolic link without a target.
    LostLink,
}

impl std::fmt::Display for Occupant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Occupant::File => "a file, where a folder is to be written",
            Occupant::Folder => "a folder, where a file is to be written",
            Occupant::Stream => "a pipe or a device, which cannot be replaced",
            Occupant::LostLink => "a symbolic link to a file that does not exist",
        })
    }
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// A result with this module's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The text of `error` without the temporary name that a library added to it.
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
    /// Called with the number of bytes as they are written.
    pub progress: &'c (dyn Fn(u64) + Sync),
    /// Set by the caller to stop: what was written so far is removed.
    pub stop: &'c AtomicBool,
}

impl<'c> Control<'c> {
    /// Calls `progress`, and stops when `stop` is set.
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
    /// Its error in writing them to disk, which it reports only once.
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

    /// Does `work` while a thread syncs what it has written so far, so that the final sync is short.
    pub fn flushing<T>(&self, work: impl FnOnce() -> T) -> T {
        /// Bytes after which a sync is worthwhile.
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

/// The kind of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
}

/// Where an output named `path` goes, with symbolic links followed. Anything there is replaced only if it is of that
/// kind: a pipe or a device never is.
///
/// # Errors
/// `Occupied`, `Dash`, or `Remote`.
fn place(path: &Path, kind: Kind) -> Result<PathBuf> {
    if path == Path::new("-") {
        return Err(Error::Dash);
    }
    if super::stored::is_remote(path) {
        return Err(Error::Remote { path: path.to_path_buf() });
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

/// Whether a file may be written to `path`: its folder exists, and nothing is there, or with `force` a regular file.
///
/// # Errors
/// `Exists`, `Occupied`, `NoFolder`, `Dash` or `Remote`.
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

/// Whether `path` is a pipe or a device, to which [`write`] writes directly.
fn is_stream(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// Whether [`write()`] may write to `path`: as [`may_write`], but pipes and devices are allowed.
///
/// # Errors
/// Those of [`may_write`].
pub fn may_write_or_feed(path: &Path, force: bool) -> Result<()> {
    if path != Path::new("-") && is_stream(path) { Ok(()) } else { may_write(path, force) }
}

/// Writes `contents` to `path`, completely or not at all. Pipes and devices are written to directly.
///
/// # Errors
/// Those of [`StagedFile::create`] and [`StagedFile::commit`]; `Stream`.
pub fn write(path: &Path, contents: &[u8], force: bool) -> Result<()> {
    write_until(path, contents, force, &AtomicBool::new(false))
}

/// [`write()`], but it stops waiting for the reader of a pipe once the caller sets `stop`.
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

/// Writes to a pipe or a device. Writes never block, because a blocked thread could not be stopped.
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

/// Replaces `path` by what `write` writes, completely or not at all unless the machine crashes: for data that can be made
/// again more cheaply than it can be synced. Leftovers stay until [`tidy`]. More than `most` bytes are an error.
///
/// # Errors
/// As [`write`].
pub(crate) fn keep(
    path: &Path,
    most: u64,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> Result<()> {
    let file = StagedFile::stage(&free_place(path, true)?, 0, true)?;
    let mut out = io::BufWriter::new(Within { file, left: most });
    write(&mut out).and_then(|()| out.flush()).map_err(cannot(path))?;
    let Within { file, .. } = out.into_inner().map_err(|e| cannot(path)(e.into_error()))?;
    file.rename().map(drop)
}

/// A file that takes `left` more bytes.
struct Within {
    file: StagedFile,
    left: u64,
}

impl io::Write for Within {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
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
    /// Starts a file of `len` bytes that will become `path`, or the target of that link.
    ///
    /// # Errors
    /// `Exists` unless `force`, `Occupied`, `Dash`, `Remote`, `NoFolder`, `NoSpace`, or `Write`.
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

    /// Starts a file of unknown length that is written from start to end through [`io::Write`].
    ///
    /// # Errors
    /// As [`StagedFile::create`].
    pub fn begin(path: &Path, force: bool) -> Result<Self> {
        Self::create(path, 0, force)
    }

    /// The file to write to.
    pub fn output(&self) -> &OutputFile {
        &self.output
    }

    /// Gives the finished file its name.
    ///
    /// # Errors
    /// `Exists` if another process has created one meanwhile, or `Write`.
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

/// Writes from the start on, for files whose length is not known.
impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Attempts at a temporary file before another process takes it for a leftover.
const ATTEMPTS: usize = 16;

fn taken() -> io::Error {
    io::Error::other("temporary files are removed as soon as they are made")
}

/// A new, locked file in `folder`, which will replace whatever is at `path`.
fn temporary_file(folder: &Path, path: &Path) -> io::Result<(File, TempPath)> {
    let replaced = std::fs::metadata(path).ok();
    for _ in 0..ATTEMPTS {
        // The mode that `open` would give, without the umask; the library's own default is private.
        let builder = leftovers::names(replaced.as_ref().map(Metadata::permissions), 0o666);
        let (file, temporary) = builder.tempfile_in(folder)?.into_parts();
        if leftovers::hold(&file, &temporary) {
            #[cfg(unix)]
            if let Some(replaced) = &replaced {
                // The umask may have removed some of it. On file systems without permissions this fails, which is
                // ignored.
                let _ = file.set_permissions(mode_of(replaced, &file));
            }
            return Ok((file, temporary));
        }
    }
    Err(taken())
}

/// The mode of the file that `file` replaces. Its setuid and setgid bits are kept only if the owner or group stays the
/// same: whoever runs such a program trusts its owner.
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

/// The folder that `path` is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
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

/// Makes a rename in `folder` durable, if the file system can sync folders.
fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}
