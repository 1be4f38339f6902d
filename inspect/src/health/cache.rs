//! A folder of records, found by the files they were made from, so that unchanged files are not measured again.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bytes::{Stamp, stored};
use crate::health::measures;
use crate::staged::{self, is_temporary};
use crate::{Checkpoint, CheckpointRecord, DamageKind, path_text};

/// Raised whenever a measurement changes its meaning; a new one in the table is noticed by its key.
const SCHEMA: u32 = 9;

/// A record of more bytes is not kept: it is of a hundred thousand tensors and more, and is held as text and as a record
/// while it is read.
const MOST: u64 = 128 << 20;

/// Records stored in a folder, one file each.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Shared with its clones.
    written: Arc<AtomicBool>,
}

#[derive(Serialize, Deserialize)]
struct Entry<T> {
    schema: u32,
    /// Keys of the computed measures that a record has.
    measures: Vec<String>,
    program: String,
    files: Vec<Stamp>,
    record: T,
}

impl Cache {
    /// A cache in `folder`, which is created when the first record is stored.
    pub fn new(folder: PathBuf) -> Self {
        Cache { folder, written: Arc::default() }
    }

    /// Whether a record was stored through this value or a clone of it: only then need the folder be looked through
    /// for what is too much, which takes longer than reading a header.
    pub fn has_grown(&self) -> bool {
        self.written.load(Ordering::Relaxed)
    }

    /// The record of `path` made with `options`, if the files it was made from are unchanged (size, times, inode, and a
    /// digest of some of their bytes) and those it lacked are still missing.
    pub fn get(&self, path: &Path, options: &str) -> Option<CheckpointRecord> {
        let mut record: CheckpointRecord = self.read(&self.entry(&[path], options)?)?;
        record.path = path_text(path);
        Some(record)
    }

    /// Stores `record`, made from `checkpoint`, which was opened by `path`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn put(
        &self,
        path: &Path,
        options: &str,
        checkpoint: &Checkpoint,
        record: &CheckpointRecord,
    ) -> std::io::Result<()> {
        // Another try may read what this one could not.
        if record.tensors.iter().any(|tensor| tensor.damage_kind == Some(DamageKind::Unread)) {
            return Ok(());
        }
        let Some(target) = self.entry(&[path], options) else { return Ok(()) };
        self.write(&target, checkpoint.stamps().collect(), record)
    }

    /// The record that [`Cache::write`] stored under `entry`, if none of its files has changed.
    pub(crate) fn read<T: DeserializeOwned>(&self, entry: &Path) -> Option<T> {
        let mut text = Vec::new();
        std::fs::File::open(entry).ok()?.take(MOST).read_to_end(&mut text).ok()?;
        let entry: Entry<T> = serde_json::from_slice(&text).ok()?;
        drop(text);
        let current = entry.schema == SCHEMA
            && entry.measures.iter().eq(measures::computed().map(|m| m.key))
            && entry.program == env!("CARGO_PKG_VERSION")
            && entry.files.iter().all(Stamp::is_current);
        current.then_some(entry.record)
    }

    /// Stores `record`, which was made from `files`, under `target`.
    pub(crate) fn write<T: Serialize>(
        &self,
        target: &Path,
        files: Vec<Stamp>,
        record: &T,
    ) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let entry = Entry {
            schema: SCHEMA,
            measures: measures::computed().map(|m| m.key.to_string()).collect(),
            program: env!("CARGO_PKG_VERSION").into(),
            files,
            record,
        };
        let kept = staged::keep(target, MOST, |out| Ok(serde_json::to_writer(out, &entry)?));
        self.written.store(true, Ordering::Relaxed);
        kept.map_err(std::io::Error::other)
    }

    /// Removes the oldest records until `bytes` remain, and files that killed processes left.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn prune(&self, bytes: u64) -> std::io::Result<()> {
        staged::tidy(&self.folder);
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            // It is being written: its writer removes it, or the next process that prunes.
            if is_temporary(&entry.file_name()) {
                continue;
            }
            let metadata = entry.metadata()?;
            entries.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        entries.sort_by_key(|(modified, ..)| std::cmp::Reverse(*modified));
        let mut kept = 0;
        for (_, len, path) in entries {
            kept += len;
            if kept > bytes {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Where a record made from `paths` with `options` is stored.
    pub(crate) fn entry(&self, paths: &[&Path], options: &str) -> Option<PathBuf> {
        let mut hash = Sha256::new();
        for path in paths {
            // Both the name, which may contain the step, and the file that it leads to.
            for path in stored::names(path).ok()? {
                hash.update(path.as_os_str().as_encoded_bytes());
                hash.update([0]);
            }
        }
        hash.update(options);
        Some(self.folder.join(format!("{}.json", hex(&hash.finalize()[..16]))))
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Storing a record takes the same time however many there are.
    #[test]
    fn leftovers_are_looked_for_when_pruning_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().to_path_buf());
        let left = folder.path().join(".ckpt-AAAAAAAAAAAA.part");
        std::fs::write(&left, "half").unwrap();
        std::fs::File::open(&left).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let record = folder.path().join("record.json");
        assert!(!cache.has_grown());
        cache.write(&record, Vec::new(), &7).unwrap();
        assert!(cache.clone().has_grown());
        assert!(left.exists());
        cache.prune(1 << 20).unwrap();
        assert!(!left.exists());
        assert_eq!(cache.read(&record), Some(7));
    }
}
