//! Files and folders that appear whole or not at all: written under a temporary name in the same folder, synced,
//! then renamed. What is not committed is removed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::{Error, Result};

/// Temporary names begin like this: out of the way of globs, and known to belong to an unfinished conversion.
const TEMPORARY: &str = ".ckpt-";

/// How a caller watches and stops the work.
#[derive(Clone, Copy)]
pub struct Control<'c> {
    /// Told of bytes as they are written.
    pub progress: &'c (dyn Fn(u64) + Sync),
    /// Set by the caller to stop: what was written so far is removed.
    pub stop: &'c AtomicBool,
}

impl Control<'_> {
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped { path: path.to_path_buf() });
        }
        Ok(())
    }
}

/// A file of known length being written, from any thread at any offset.
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
        let reserved = match fs4::FileExt::allocate(&file, len) {
            // Some file systems cannot reserve room; then a full disk shows while writing.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        };
        reserved.and_then(|()| file.set_len(len)).map_err(|e| Error::write(&path, e))?;
        Ok(OutputFile { file, path, len, written: AtomicU64::new(0), lost: OnceLock::new() })
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// `Write`: the disk is full, or a limit was met.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(&self.file, bytes, offset).map_err(|e| Error::write(&self.path, e))?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Does `work` while a thread brings to the disk what it has written, so that little is left to wait for.
    pub(crate) fn flushing<T>(&self, work: impl FnOnce() -> T) -> T {
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
        lost.map_or(synced, Err).map_err(|e| Error::write(&self.path, e))
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}

/// What an output is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
}

/// Where an output named `path` goes, symbolic links followed. What stands there is replaced only if it is of that kind:
/// a pipe or a device never is.
///
/// # Errors
/// `Occupied`, or `Target` for a name that is meant for a stream.
pub(crate) fn place(path: &Path, kind: Kind) -> Result<PathBuf> {
    if path == Path::new("-") {
        let what = "`-` is no name for an output, which is written in several places at once: name a file";
        return Err(Error::Target(what.into()));
    }
    let occupied = |by: &'static str| Error::Occupied { path: path.to_path_buf(), by };
    let Ok(link) = path.symlink_metadata() else { return Ok(path.to_path_buf()) };
    if !link.is_symlink() {
        return match (link.is_file(), link.is_dir(), kind) {
            (true, _, Kind::File) | (_, true, Kind::Folder) => Ok(path.to_path_buf()),
            (true, ..) => Err(occupied("a file, and a folder is to be written")),
            (_, true, _) => Err(occupied("a folder, and a file is to be written")),
            _ => Err(occupied("a pipe or a device, which is not replaced")),
        };
    }
    match path.canonicalize() {
        Ok(target) if target != path => place(&target, kind).map_err(|error| match error {
            Error::Occupied { by, .. } => occupied(by),
            other => other,
        }),
        _ => Err(occupied("a symbolic link that leads nowhere")),
    }
}

/// Whether a file may be written to `path`: nothing is there, or with `force` a regular file.
///
/// # Errors
/// `Exists` or `Occupied`.
pub fn may_write(path: &Path, force: bool) -> Result<()> {
    let place = place(path, Kind::File)?;
    match place.symlink_metadata() {
        Ok(_) if !force => Err(Error::Exists { path: path.to_path_buf() }),
        _ => Ok(()),
    }
}

/// One file that will be renamed to its name.
#[derive(Debug)]
pub struct StagedFile {
    output: OutputFile,
    temporary: tempfile::TempPath,
    force: bool,
}

impl StagedFile {
    /// Begins a file of `len` bytes that will be `path`, or what that links to.
    ///
    /// # Errors
    /// `Exists` unless `force`, `Occupied`, `NoSpace`, or `Write`.
    pub fn create(path: &Path, len: u64, force: bool) -> Result<Self> {
        may_write(path, force)?;
        let path = &place(path, Kind::File)?;
        let folder = folder_of(path);
        check_space(path, folder, len)?;
        let io = |e| Error::write(path, e);
        let file = builder(0o666).tempfile_in(folder).map_err(io)?;
        let (file, temporary) = file.into_parts();
        let output = OutputFile::new(file, path.to_path_buf(), len)?;
        Ok(StagedFile { output, temporary, force })
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
        let path = self.output.path.clone();
        let persisted = match self.force {
            true => self.temporary.persist(&path),
            false => self.temporary.persist_noclobber(&path),
        };
        persisted.map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists { path: path.clone() },
            _ => Error::write(&path, e.error),
        })?;
        sync_folder(folder_of(&path));
        Ok(())
    }
}

/// A folder that will be renamed to its name.
#[derive(Debug)]
pub struct StagedFolder {
    temporary: tempfile::TempDir,
    path: PathBuf,
    force: bool,
}

impl StagedFolder {
    /// Begins a folder that will be `path` and hold about `len` bytes. With `force` it replaces an existing one, if that
    /// holds nothing but what `ours` says a conversion writes. Of a link it is the folder that this leads to.
    ///
    /// # Errors
    /// `Exists`, `Occupied`, `Foreign`, `NoSpace`, or `Write`.
    pub fn create(path: &Path, len: u64, force: bool, ours: &dyn Fn(&str) -> bool) -> Result<Self> {
        let path = &place(path, Kind::Folder)?;
        let empty = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if path.symlink_metadata().is_ok() && !empty {
            if !force {
                return Err(Error::Exists { path: path.to_path_buf() });
            }
            for entry in std::fs::read_dir(path).map_err(|e| Error::write(path, e))? {
                let entry = entry.map_err(|e| Error::write(path, e))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if !ours(&name) || entry.path().is_dir() {
                    return Err(Error::Foreign { path: path.to_path_buf(), entry: name });
                }
            }
        }
        let parent = folder_of(path);
        check_space(path, parent, len)?;
        let temporary = builder(0o777).tempdir_in(parent).map_err(|e| Error::write(path, e))?;
        Ok(StagedFolder { temporary, path: path.to_path_buf(), force })
    }

    /// A file of `len` bytes in the folder.
    ///
    /// # Errors
    /// `Write`.
    pub fn file(&self, name: &str, len: u64) -> Result<OutputFile> {
        let path = self.path.join(name);
        let file = File::options().write(true).create_new(true).open(self.temporary.path().join(name));
        OutputFile::new(file.map_err(|e| Error::write(&path, e))?, path, len)
    }

    /// A file of these bytes in the folder.
    ///
    /// # Errors
    /// `Write`.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = self.file(name, bytes.len() as u64)?;
        file.write_at(0, bytes)?;
        file.sync()
    }

    /// Gives the finished folder its name; `files` are what [`StagedFolder::file`] began.
    ///
    /// # Errors
    /// `Exists` when another process made one meanwhile, or `Write`.
    pub fn commit(self, files: &[OutputFile]) -> Result<()> {
        files.iter().try_for_each(OutputFile::sync)?;
        sync_folder(self.temporary.path());
        let (path, parent) = (&self.path, folder_of(&self.path));
        let io = |e: io::Error| match e.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
                Error::Exists { path: path.to_path_buf() }
            }
            _ => Error::write(path, e),
        };
        // An existing folder is moved aside, so that at no time a mixture stands under the name.
        let aside = match self.force && path.exists() {
            true => {
                let aside = builder(0o777).tempdir_in(parent).map_err(io)?;
                std::fs::rename(path, aside.path().join("replaced")).map_err(io)?;
                Some(aside)
            }
            false => None,
        };
        if let Err(error) = std::fs::rename(self.temporary.path(), path) {
            if let Some(aside) = &aside {
                std::fs::rename(aside.path().join("replaced"), path).map_err(io)?;
            }
            return Err(io(error));
        }
        // It has left its temporary name: there is nothing to remove.
        let _ = self.temporary.keep();
        sync_folder(parent);
        Ok(())
    }
}

fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As `open` and `mkdir` would, less the umask; the library's own default is private.
        builder.permissions(std::fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn check_space(path: &Path, folder: &Path, needed: u64) -> Result<()> {
    let available = fs4::available_space(folder).map_err(|e| Error::write(path, e))?;
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
