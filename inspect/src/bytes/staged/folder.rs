//! Folders that are written completely or not at all, and what happens to the folder that one replaces.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{
    ATTEMPTS, Error, Kind, OutputFile, Result, cannot, check_space, folder_of, leftovers, place, sync_folder,
    taken,
};

/// A folder that will be renamed to its name.
#[derive(Debug)]
pub struct StagedFolder {
    temporary: TempDir,
    /// Held as long as the temporary name is in use.
    lock: Option<File>,
    path: PathBuf,
    force: bool,
    ours: fn(&str) -> bool,
}

impl StagedFolder {
    /// Starts a folder that will become `path` and hold about `len` bytes. With `force` it replaces an existing one, if
    /// that contains only files that a conversion writes according to `ours`. If `path` is a link, its target is
    /// replaced.
    ///
    /// # Errors
    /// `Exists`, `Occupied`, `Dash`, `Remote`, `NoFolder`, `Foreign`, `NoSpace`, or `Write`.
    pub fn create(path: &Path, len: u64, force: bool, ours: fn(&str) -> bool) -> Result<Self> {
        let path = &place(path, Kind::Folder)?;
        let parent = folder_of(path);
        if !parent.is_dir() {
            return Err(Error::NoFolder { path: path.to_path_buf() });
        }
        // This comes first, because it may restore an earlier folder.
        leftovers::remove(parent);
        let empty = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if path.symlink_metadata().is_ok() && !empty {
            if !force {
                return Err(Error::Exists { path: path.to_path_buf() });
            }
            if let Some(entry) = foreign(path, ours).map_err(cannot(path))? {
                return Err(Error::Foreign { path: path.to_path_buf(), entry });
            }
        }
        check_space(path, parent, len)?;
        let (temporary, lock) = temporary_folder(parent).map_err(cannot(path))?;
        Ok(StagedFolder { temporary, lock, path: path.to_path_buf(), force, ours })
    }

    /// A file of `len` bytes in the folder.
    ///
    /// # Errors
    /// `Write`.
    pub fn file(&self, name: &str, len: u64) -> Result<OutputFile> {
        let path = self.path.join(name);
        let file = File::options().write(true).create_new(true).open(self.temporary.path().join(name));
        OutputFile::new(file.map_err(cannot(&path))?, path, len)
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

    /// Gives the finished folder its name; `files` are those that [`StagedFolder::file`] started.
    ///
    /// # Errors
    /// `Exists` if another process has created one meanwhile, `Foreign` if something else was added to the one to be
    /// replaced, `Write`, or `Displaced`.
    pub fn commit(self, files: &[OutputFile]) -> Result<()> {
        files.iter().try_for_each(OutputFile::sync)?;
        sync_folder(self.temporary.path());
        let path = &self.path;
        // An existing folder is moved aside, so that at no time the name refers to a mixture.
        let replaced = match self.force && path.exists() {
            true => Some(Replaced::take(path, self.ours)?),
            false => None,
        };
        if let Some(replaced) = &replaced {
            // Not every file system has permissions.
            let _ = std::fs::set_permissions(self.temporary.path(), replaced.mode.clone());
        }
        if let Err(error) = std::fs::rename(self.temporary.path(), path) {
            let error = match error.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
                    Error::Exists { path: path.to_path_buf() }
                }
                _ => cannot(path)(error),
            };
            return Err(match replaced {
                Some(replaced) => replaced.put_back(error),
                None => error,
            });
        }
        // It no longer has its temporary name, so there is nothing to remove.
        let _ = self.temporary.keep();
        if let Some(lock) = self.lock {
            let _ = lock.unlock();
        }
        sync_folder(folder_of(path));
        Ok(())
    }
}

/// Something in `folder` that no conversion writes.
fn foreign(folder: &Path, ours: fn(&str) -> bool) -> io::Result<Option<String>> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !ours(&name) || entry.path().is_dir() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// A folder that was moved aside for its successor. It is removed on drop.
#[derive(Debug)]
struct Replaced {
    /// A temporary folder, in which it keeps its own name: so it is found if this process is killed before the
    /// successor takes its place.
    aside: TempDir,
    /// Held until that is removed.
    _lock: Option<File>,
    /// Its original path.
    path: PathBuf,
    mode: std::fs::Permissions,
}

impl Replaced {
    /// Moves the folder at `path` aside, if it still contains only files that a conversion writes according to `ours`.
    fn take(path: &Path, ours: fn(&str) -> bool) -> Result<Self> {
        let io = cannot(path);
        let mode = std::fs::metadata(path).map_err(io)?.permissions();
        let (aside, lock) = temporary_folder(folder_of(path)).map_err(io)?;
        let replaced = Replaced { aside, _lock: lock, path: path.to_path_buf(), mode };
        std::fs::rename(path, replaced.place()).map_err(io)?;
        // From here on nothing can be added under its name.
        match foreign(&replaced.place(), ours) {
            Ok(None) => Ok(replaced),
            Ok(Some(entry)) => Err(replaced.put_back(Error::Foreign { path: path.to_path_buf(), entry })),
            Err(error) => Err(replaced.put_back(io(error))),
        }
    }

    fn place(&self) -> PathBuf {
        self.aside.path().join(self.path.file_name().unwrap_or_default())
    }

    /// Moves it back because of the error `why`; returns that error, or the one of moving it back.
    fn put_back(self, why: Error) -> Error {
        let place = self.place();
        let Err(source) = std::fs::rename(&place, &self.path) else { return why };
        let aside = self.aside.keep();
        // A name that is not taken for a leftover.
        let kept = aside.with_extension("");
        let aside = if std::fs::rename(&aside, &kept).is_ok() { kept } else { aside };
        let aside = aside.join(place.file_name().unwrap_or_default());
        Error::Displaced { path: self.path, aside, source }
    }
}

/// A new folder in `folder`, and what holds its lock, if the system locks folders.
fn temporary_folder(folder: &Path) -> io::Result<(TempDir, Option<File>)> {
    for _ in 0..ATTEMPTS {
        let temporary = leftovers::names(None, 0o777).tempdir_in(folder)?;
        match File::open(temporary.path()) {
            Ok(lock) if leftovers::hold(&lock, temporary.path()) => return Ok((temporary, Some(lock))),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                if cfg!(not(unix)) {
                    return Ok((temporary, None));
                }
                // Without a lock it would count as a leftover. Listing it, to remove it, might fail for the same
                // reason.
                let _ = std::fs::remove_dir(temporary.keep());
                return Err(error);
            }
            _ => {}
        }
    }
    Err(taken())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Someone made another folder of that name while it was aside.
    #[test]
    fn a_folder_that_cannot_be_moved_back_is_kept_and_reported() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("model");
        let make = |contents: &str| {
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("weights"), contents).unwrap();
        };
        make("old");
        let replaced = Replaced::take(&path, |_| true).unwrap();
        assert!(!path.exists());
        make("other");
        let error = replaced.put_back(Error::Dash);
        let Error::Displaced { aside, .. } = &error else { panic!("{error}") };
        assert!(error.to_string().contains(&aside.display().to_string()), "{error}");
        leftovers::remove(parent.path());
        assert_eq!(std::fs::read(aside.join("weights")).unwrap(), b"old");
        assert_eq!(std::fs::read(path.join("weights")).unwrap(), b"other");
    }
}
