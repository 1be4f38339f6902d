//! What kinds of data a run has, as far as the beginnings of its files tell: which settings have an effect on it.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::documents::{MAX_LINE, is_jsonl, kind_of, lines_of, sequences_of};
use super::parquet::Parquet;
use super::record::{FIELDS, Record};
use crate::Result;

/// Records of each file that are looked at.
const LOOKED_AT: usize = 64;

/// What kinds of data the files of a run are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contents {
    /// Whether some are tables: JSONL or Parquet.
    pub tables: bool,
    /// Whether some hold conversations.
    pub conversations: bool,
    /// Whether some are cut into sequences: all but ready-made ones.
    pub cut: bool,
}

impl Contents {
    /// Those of `files`.
    ///
    /// # Errors
    /// `Read` and `Data` for files that cannot be read.
    pub(super) fn of<'p>(files: impl Iterator<Item = &'p PathBuf>) -> Result<Self> {
        let mut all = Contents::default();
        for path in files {
            let (extension, packing) = kind_of(path);
            let is_parquet = extension == "parquet" && packing.is_none();
            let is_table = is_parquet || is_jsonl(&extension);
            all.tables |= is_table;
            all.cut |= is_table || sequences_of(path)?.is_none();
            all.conversations |= is_table && has_conversations(path, is_parquet)?;
        }
        Ok(all)
    }
}

/// Whether the first records of a table hold a conversation.
fn has_conversations(path: &Path, is_parquet: bool) -> Result<bool> {
    let is_one = |record: &Value| matches!(Record::of(record), Ok(Record::Conversation { .. }));
    if is_parquet {
        // Without any of the columns, what reads it says so.
        let Ok(mut rows) = Parquet::open(path, 0, &FIELDS) else { return Ok(false) };
        for _ in 0..LOOKED_AT {
            match rows.next()? {
                Some(record) if is_one(&record) => return Ok(true),
                Some(_) => {}
                None => break,
            }
        }
        return Ok(false);
    }
    let io = |e| crate::Error::read(path, e);
    let mut lines = lines_of(path, kind_of(path).1, 0).map_err(io)?.0;
    for _ in 0..LOOKED_AT {
        let mut line = Vec::new();
        if lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(io)? == 0 {
            break;
        }
        if serde_json::from_slice(&line).is_ok_and(|record| is_one(&record)) {
            return Ok(true);
        }
    }
    Ok(false)
}
