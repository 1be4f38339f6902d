//! The state of a file at one moment, by which a later change is noticed.

use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ByteSource;
use super::stored::{self, Kind, Stat, Stored};

/// Files of this many bytes are read whole for their digest.
const WHOLE: u64 = 64 << 10;
/// Of larger ones this many pieces, the first at the beginning and the last at the end.
const PIECES: u64 = 32;
/// Bytes of a piece.
const PIECE: u64 = 1 << 10;

/// The state of a file at one moment, to detect later changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    path: PathBuf,
    /// `None` when it is not there.
    state: Option<State>,
    /// Digest of some of its bytes; `None` for folders and for what is not there.
    sample: Option<String>,
}

/// What the file system says of a file. Times are nanoseconds since 1970, before it negative, `None` where there are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    bytes: u64,
    modified: Option<i128>,
    /// When anything about it changed, which no program can set; where the system does not tell, when it was made.
    changed: Option<i128>,
    inode: Option<u64>,
}

impl Stamp {
    /// What is at `path` now.
    pub fn of(path: &Path) -> Self {
        if stored::is_remote(path) {
            return path.stored().map_or_else(|_| Self::absent(path), |stat| Self::remote(path, &stat));
        }
        let mut stamp = Self::new(path, std::fs::metadata(path).ok().as_ref());
        stamp.sample = stamp.state.as_ref().and_then(|_| sample_of_file(path));
        stamp
    }

    /// The state of bytes in memory, which never equals that of a file: later changes could not be detected.
    pub fn never(name: &Path) -> Self {
        let state = State { bytes: u64::MAX, modified: None, changed: None, inode: None };
        Stamp { path: name.to_path_buf(), state: Some(state), sample: None }
    }

    /// What the store says of what is at `path`. A file that it cannot tell the changes of never equals a later one.
    pub(super) fn remote(path: &Path, stat: &Stat) -> Self {
        if stat.kind == Kind::File && stat.version.is_none() {
            return Self::never(path);
        }
        let state = State { bytes: stat.bytes, modified: None, changed: None, inode: None };
        Stamp { path: path.to_path_buf(), state: Some(state), sample: stat.version.clone() }
    }

    fn absent(path: &Path) -> Self {
        Stamp { path: path.to_path_buf(), state: None, sample: None }
    }

    /// The state in `metadata`, as yet without a digest.
    pub(super) fn new(path: &Path, metadata: Option<&Metadata>) -> Self {
        // The file itself, so that a link that now points elsewhere does not count as unchanged.
        let real = path.canonicalize().or_else(|_| std::path::absolute(path));
        Stamp { path: real.unwrap_or_default(), state: metadata.map(State::new), sample: None }
    }

    /// The same with a digest of `data`, the bytes of the file.
    pub(super) fn sampled(mut self, data: &dyn ByteSource) -> Self {
        // What is not a file has no later state to compare with, and a store told its own digest.
        if self.sample.is_none() && self.state.as_ref().is_some_and(|state| state.bytes == data.len()) {
            self.sample = sample(data.len(), |at, piece| {
                let bytes = data.bytes(at..at + piece.len() as u64).ok()?;
                piece.copy_from_slice(&bytes);
                Some(())
            });
        }
        self
    }

    /// The file itself, without links on the way.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is still as it was.
    pub fn is_current(&self) -> bool {
        if stored::is_remote(&self.path) {
            return Self::of(&self.path) == *self;
        }
        let now = Self::new(&self.path, std::fs::metadata(&self.path).ok().as_ref());
        let same = now.path == self.path && now.state == self.state;
        same && (self.state.is_none() || sample_of_file(&self.path) == self.sample)
    }
}

impl State {
    fn new(metadata: &Metadata) -> Self {
        let bytes = if metadata.is_dir() { 0 } else { metadata.len() };
        let (changed, inode) = identity(metadata);
        State { bytes, modified: metadata.modified().ok().map(nanoseconds), changed, inode }
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (Option<i128>, Option<u64>) {
    use std::os::unix::fs::MetadataExt;
    let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    (Some(changed), Some(metadata.ino()))
}

#[cfg(not(unix))]
fn identity(metadata: &Metadata) -> (Option<i128>, Option<u64>) {
    (metadata.created().ok().map(nanoseconds), None)
}

fn nanoseconds(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    }
}

/// The digest of what is at `path`, if it is a regular file: opening a pipe would wait for its writer.
fn sample_of_file(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok().filter(Metadata::is_file)?;
    let mut file = File::open(path).ok()?;
    sample(metadata.len(), |at, piece| {
        file.seek(SeekFrom::Start(at)).ok()?;
        file.read_exact(piece).ok()
    })
}

/// The digest of `len` bytes, of which `read` fills a piece that begins at an offset.
fn sample(len: u64, mut read: impl FnMut(u64, &mut [u8]) -> Option<()>) -> Option<String> {
    let (pieces, size) = if len <= WHOLE { (1, len) } else { (PIECES, PIECE) };
    let mut hash = Sha256::new();
    let mut piece = vec![0; size as usize];
    for i in 0..pieces {
        let at = u128::from(len - size) * u128::from(i) / u128::from((pieces - 1).max(1));
        read(at as u64, &mut piece)?;
        hash.update(&piece);
    }
    Some(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Where all that the file system says is as before, the bytes still tell.
    #[test]
    fn other_bytes_under_the_same_metadata_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for len in [0u64, 10, WHOLE, WHOLE + 1, 3 << 20] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let before = Stamp::of(&path);
            assert!(before.is_current());
            let opened = Stamp::new(&path, std::fs::metadata(&path).ok().as_ref());
            assert_eq!(opened.sampled(&&bytes[..]), before, "a map and a file give one digest");
            for place in [0, len / 2, len.saturating_sub(1)].into_iter().filter(|place| *place < len) {
                let mut other = bytes.clone();
                // A replaced file differs in more than a byte.
                let end = (place as usize + (len as usize / 20).max(1)).min(other.len());
                other[place as usize..end].iter_mut().for_each(|byte| *byte ^= 1);
                std::fs::write(&path, &other).unwrap();
                let state = Stamp::of(&path).state;
                assert!(!Stamp { state, ..before.clone() }.is_current(), "{len} bytes, {place}");
            }
        }
    }

    #[test]
    fn size_times_and_place_tell_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"one").unwrap();
        let set = |time| File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        let long_ago = UNIX_EPOCH - Duration::from_nanos(5_500_000_000);
        set(long_ago);
        let before = Stamp::of(&path);
        assert_eq!(before.state.as_ref().unwrap().modified, Some(-5_500_000_000));
        assert!(before.is_current());
        let again: Stamp = serde_json::from_slice(&serde_json::to_vec(&before).unwrap()).unwrap();
        assert_eq!(again, before);
        set(long_ago - Duration::from_secs(9));
        assert!(!before.is_current(), "times before 1970 differ, too");
        #[cfg(unix)]
        {
            // Longer than the clock of any file system ticks.
            std::thread::sleep(Duration::from_millis(50));
            set(long_ago);
            assert!(!before.is_current(), "the time of its last change cannot be set back");
            let other = folder.path().join("other");
            std::fs::write(&other, b"one").unwrap();
            let old = Stamp::of(&path);
            std::fs::rename(&other, &path).unwrap();
            let new = Stamp::of(&path).state.unwrap();
            assert_ne!(old.state.unwrap().inode, new.inode);
        }
        std::fs::remove_file(&path).unwrap();
        let gone = Stamp::of(&path);
        assert!(!before.is_current() && gone.is_current());
        std::fs::write(&path, b"one").unwrap();
        assert!(!gone.is_current());
        assert!(!Stamp::never(&path).is_current());
    }
}
