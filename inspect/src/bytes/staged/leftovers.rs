//! Temporary names, and files that killed processes left under them. A writer holds an advisory lock on its temporary
//! file or folder, which ends with the process: whatever can be locked is a leftover. On a file system without locks
//! leftovers stay. On some shared file systems locks are visible only on the machine that holds them, so the names
//! encode the machine: what another machine made, or this one before its last reboot, counts as a leftover only after a
//! day. Releases without locks used shorter names; a file with such a name is a leftover once it has not been written
//! to for a day.

use std::ffi::OsStr;
use std::fs::{File, Permissions, TryLockError};
use std::path::Path;
use std::sync::OnceLock;

/// Temporary names begin like this: hidden from globs, and recognisable as unfinished work.
const PREFIX: &str = ".ckpt-";
/// Temporary names end like this.
const SUFFIX: &str = ".part";
/// Letters and digits between them.
const LETTERS: usize = 12;
/// The first of these encode the machine and its last boot, if they are known.
const MACHINE: usize = 6;

/// The beginning of this machine's temporary names, and whether it differs from those of other machines.
fn beginning() -> (&'static str, bool) {
    static BEGINNING: OnceLock<(String, bool)> = OnceLock::new();
    let (beginning, known) = BEGINNING.get_or_init(|| match machine() {
        Some(machine) => (format!("{PREFIX}{machine}"), true),
        None => (PREFIX.to_string(), false),
    });
    (beginning, *known)
}

/// Letters and digits for this machine and its last boot, from the random boot id of Linux.
fn machine() -> Option<String> {
    let drawn = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let number = u128::from_str_radix(&drawn.trim().replace('-', ""), 16).ok()?;
    let letters: Vec<char> = ('0'..='9').chain('a'..='z').chain('A'..='Z').collect();
    let base = letters.len() as u128;
    Some((0..MACHINE as u32).map(|i| letters[(number / base.pow(i) % base) as usize]).collect())
}

/// Makes temporary names. A new file has the mode of the one it replaces plus its owner's rights, or `mode` without the
/// umask.
pub(super) fn names(replaced: Option<Permissions>, mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    let (beginning, _) = beginning();
    builder.prefix(beginning).suffix(SUFFIX).rand_bytes(PREFIX.len() + LETTERS - beginning.len());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = replaced.map_or(mode, |replaced| replaced.mode() & 0o777);
        builder.permissions(PermissionsExt::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = (replaced, mode);
    builder
}

/// Whether `name` is one that [`names`] makes.
pub(crate) fn is_temporary(name: &OsStr) -> bool {
    name.to_str()
        .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX))
        .is_some_and(|letters| letters.len() == LETTERS && letters.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Whether locks of the process that made the temporary `name` are visible on this machine.
#[cfg(unix)]
fn shows_locks(name: &OsStr) -> bool {
    let (beginning, known) = beginning();
    known && name.as_encoded_bytes().starts_with(beginning.as_bytes())
}

/// Whether `name` is one that releases without locks made: six random letters and digits. People write words and
/// numbers, in which kinds of characters alternate less than in most random ones.
#[cfg(unix)]
fn is_unlocked(name: &OsStr) -> bool {
    let Some(random) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { return false };
    let kind = |b: u8| (b.is_ascii_digit(), b.is_ascii_uppercase());
    let changes = random.as_bytes().windows(2).filter(|pair| kind(pair[0]) != kind(pair[1])).count();
    random.len() == 6 && random.bytes().all(|b| b.is_ascii_alphanumeric()) && changes >= 3
}

/// Locks the new `file` at `path` until it is closed; false if another process has already taken it for a leftover.
pub(super) fn hold(file: &File, path: &Path) -> bool {
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && is_at(file, path)
}

/// Whether `path` still names `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(open), Ok(named)) = (file.metadata(), path.symlink_metadata()) else { return false };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// On systems where folders cannot be locked and open files cannot be removed, leftovers stay.
#[cfg(not(unix))]
pub(super) fn remove(_: &Path) {}

#[cfg(unix)]
pub(super) use self::unix::remove;

#[cfg(unix)]
mod unix {
    use std::ffi::{CStr, CString};
    use std::fs::File;
    use std::io;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags};

    use super::{is_at, is_temporary, is_unlocked, shows_locks};

    /// Opens a file without following a link or waiting for the other end of a pipe.
    const QUIETLY: OFlags =
        OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

    /// The age in seconds from which an unlocked file counts as a leftover if its lock might not be visible here.
    const OLD: i64 = 24 * 60 * 60;

    /// Removes what killed processes of this user left in `folder` under temporary names. What cannot be removed stays.
    pub(in super::super) fn remove(folder: &Path) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let named = is_temporary(&name);
            if named || is_unlocked(&name) {
                let _ = remove_unheld(folder, &entry.path(), named, shows_locks(&name));
            }
        }
    }

    /// `named`: whether a folder that was put aside keeps its name in it. `locks`: whether a lock of who writes to it
    /// is known here.
    fn remove_unheld(folder: &Path, path: &Path, named: bool, locks: bool) -> io::Result<()> {
        let file = File::from(fs::open(path, QUIETLY, Mode::empty())?);
        let metadata = file.metadata()?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        // While this file is locked, no other file gets its name: it either exists or is gone.
        if !ours || file.try_lock().is_err() || !is_at(&file, path) {
            return Ok(());
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let is_old = |changed: i64| locks || (now.as_secs() as i64).saturating_sub(changed) > OLD;
        if metadata.is_file() && is_old(metadata.mtime()) {
            return std::fs::remove_file(path);
        }
        if metadata.is_dir() && is_old(metadata.mtime()) {
            match entries(&file)?.as_slice() {
                // Its original place is unknown.
                [(_, FileType::Directory)] if !named => return Ok(()),
                [(replaced, FileType::Directory)] => put_back(&file, replaced, folder)?,
                files => {
                    for (name, _) in files {
                        let changed = fs::statat(&file, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mtime;
                        if !is_old(changed) {
                            return Ok(());
                        }
                    }
                    remove_files(&file, files)?;
                }
            }
            return std::fs::remove_dir(path);
        }
        Ok(())
    }

    /// The folder `name` in `aside` was to be replaced by one of that name in `folder`. If the new one has not got
    /// there, the old one is moved back, else it is removed.
    fn put_back(aside: &File, name: &CStr, folder: &Path) -> io::Result<()> {
        let place = folder.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        if place.symlink_metadata().is_err() {
            return Ok(fs::renameat(aside, name, CWD, &place)?);
        }
        let replaced = File::from(fs::openat(aside, name, QUIETLY | OFlags::DIRECTORY, Mode::empty())?);
        remove_files(&replaced, &entries(&replaced)?)?;
        Ok(fs::unlinkat(aside, name, AtFlags::REMOVEDIR)?)
    }

    fn entries(folder: &File) -> io::Result<Vec<(CString, FileType)>> {
        let mut all = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes() != b"." && name.to_bytes() != b".." {
                let mode = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
                all.push((name.to_owned(), FileType::from_raw_mode(mode)));
            }
        }
        Ok(all)
    }

    /// Removes `files` from the folder that holds nothing else; one with folders in it is not of our making, and stays.
    fn remove_files(folder: &File, files: &[(CString, FileType)]) -> io::Result<()> {
        if files.iter().any(|(_, kind)| *kind == FileType::Directory) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        for (name, _) in files {
            fs::unlinkat(folder, name, AtFlags::empty())?;
        }
        Ok(())
    }
}
