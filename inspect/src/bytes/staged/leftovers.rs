//! Temporary names, and what killed processes left under them. Who writes holds an advisory lock on the temporary file
//! or folder, which ends with the process: what can be locked is a leftover. A file system without locks keeps them.
//! Some file systems that several machines share keep locks to the machine that has them, so the names tell on which one
//! they were made: what another one made, or this one before it was started anew, is a leftover only after a day.
//! Releases before there were locks used shorter names; what has such a name is a leftover once nobody has written to it
//! for a day.

use std::ffi::OsStr;
use std::fs::{File, Permissions, TryLockError};
use std::path::Path;
use std::sync::OnceLock;

/// Temporary names begin like this: out of the way of globs, and known to belong to unfinished work.
const PREFIX: &str = ".ckpt-";
/// And end like this.
const SUFFIX: &str = ".part";
/// Letters and digits between them.
const LETTERS: usize = 12;
/// Of these, the first tell on which machine, since it was started last, the name was made, where that can be told.
const MACHINE: usize = 6;

/// What temporary names of this machine begin with, and whether it can be told from others.
fn beginning() -> (&'static str, bool) {
    static BEGINNING: OnceLock<(String, bool)> = OnceLock::new();
    let (beginning, told) = BEGINNING.get_or_init(|| match machine() {
        Some(machine) => (format!("{PREFIX}{machine}"), true),
        None => (PREFIX.to_string(), false),
    });
    (beginning, *told)
}

/// Letters and digits for this machine and its last start, of the random number that Linux draws then.
fn machine() -> Option<String> {
    let drawn = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let number = u128::from_str_radix(&drawn.trim().replace('-', ""), 16).ok()?;
    let letters: Vec<char> = ('0'..='9').chain('a'..='z').chain('A'..='Z').collect();
    let base = letters.len() as u128;
    Some((0..MACHINE as u32).map(|i| letters[(number / base.pow(i) % base) as usize]).collect())
}

/// Makes temporary names; a new file has the mode of what it replaces but for its owner's rights, or `mode` less the
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

/// Whether a lock of who made the temporary `name` is known here.
#[cfg(unix)]
fn shows_locks(name: &OsStr) -> bool {
    let (beginning, told) = beginning();
    told && name.as_encoded_bytes().starts_with(beginning.as_bytes())
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

/// Locks the new `file` at `path` until it is closed; false when someone took it for a leftover before.
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

/// Where no lock can be had on a folder, nor a file be removed that is open, leftovers stay.
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

    /// Neither follows a link nor waits for a pipe's other end.
    const QUIETLY: OFlags =
        OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

    /// What nobody is known to hold a lock on has to be this old, in seconds, where a lock would not be known here.
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

    /// `named`: whether a folder that was put aside keeps its name in it. `locks`: whether a lock of who writes to it is
    /// known here.
    fn remove_unheld(folder: &Path, path: &Path, named: bool, locks: bool) -> io::Result<()> {
        let file = File::from(fs::open(path, QUIETLY, Mode::empty())?);
        let metadata = file.metadata()?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        // A new name is not given to another file while this one is locked: it is either there or gone.
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
                // Where it belongs cannot be told.
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

    /// The folder `name` in `aside` was to be replaced by one of that name in `folder`. If the new one has not got there,
    /// the old one goes back, else it is done with.
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
