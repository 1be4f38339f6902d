//! Records in files, as `ckpt inspect` writes them: a line of JSON each, a list in JSON, or Parquet. Reports are made from
//! them without the weights.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use ckpt_inspect::{CheckpointRecord, DamageKind, Error, ErrorKind, path_text};
use serde::{Deserialize, Serialize, Serializer};

use crate::table::{Row, Rows, SCHEMA};

/// What is known of one checkpoint. As JSON it has the version of its columns as `schema`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Recorded {
    /// Its record.
    Record(Box<CheckpointRecord>),
    /// It cannot be read.
    Unreadable(Unreadable),
}

/// A checkpoint that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Unreadable {
    /// Its path.
    pub path: String,
    /// Why not, in words.
    pub error: String,
    /// The kind of failure: [`ErrorKind::name`].
    #[serde(default)]
    pub kind: String,
    /// The kind of damage, where it is one that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage_kind: Option<DamageKind>,
}

impl Unreadable {
    /// That `path` cannot be read for `error`.
    pub fn new(path: &Path, error: impl Into<String>, kind: ErrorKind) -> Self {
        let (path, kind) = (path_text(path), kind.name().to_string());
        Unreadable { path, error: error.into(), kind, damage_kind: None }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::of_name(&self.kind).unwrap_or(ErrorKind::Damaged)
    }

    /// The error.
    pub fn to_error(&self) -> Error {
        let error = Error::new(self.kind(), self.error.as_str());
        self.damage_kind.map_or(error.clone(), |kind| error.because(kind))
    }
}

/// A record with the version of its columns.
#[derive(Serialize)]
pub(crate) struct Versioned<'r, T> {
    schema: u64,
    #[serde(flatten)]
    known: &'r T,
}

impl<'r, T> Versioned<'r, T> {
    pub(crate) fn of(known: &'r T) -> Self {
        Versioned { schema: SCHEMA, known }
    }
}

impl Serialize for Recorded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Recorded::Record(record) => Versioned::of(&**record).serialize(serializer),
            Recorded::Unreadable(unreadable) => Versioned::of(unreadable).serialize(serializer),
        }
    }
}

impl Recorded {
    /// What `path` cannot be read for.
    pub fn unreadable(path: &Path, error: &Error) -> Self {
        let unreadable = Unreadable::new(path, error.to_string(), error.kind);
        Recorded::Unreadable(Unreadable { damage_kind: error.fault, ..unreadable })
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        match self {
            Recorded::Record(record) => &record.path,
            Recorded::Unreadable(unreadable) => &unreadable.path,
        }
    }

    /// Its record, if it could be read.
    pub fn record(&self) -> Option<&CheckpointRecord> {
        match self {
            Recorded::Record(record) => Some(record),
            Recorded::Unreadable(_) => None,
        }
    }

    /// Whether it is damaged, refused by its format's library, or cannot be read.
    pub fn is_damaged(&self) -> bool {
        self.record().is_none_or(|record| record.is_unreadable())
    }

    /// Its rows in a table.
    pub fn rows(&self, rows: Rows) -> Vec<Row<'_>> {
        rows.of_recorded(self)
    }

    /// Reads one from JSON.
    ///
    /// # Errors
    /// It is neither a record nor says why there is none.
    pub fn from_json(text: &str) -> serde_json::Result<Self> {
        match serde_json::from_str(text) {
            Ok(record) => Ok(Recorded::Record(record)),
            Err(error) => serde_json::from_str(text).map(Recorded::Unreadable).map_err(|_| error),
        }
    }
}

/// Whether the file `path` is named as records are; one that ends in `.json` may be something else, and is looked into.
pub fn is_records(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    match &*extension {
        // CSV has no whole records, which reading it tells.
        "ndjson" | "jsonl" | "parquet" | "csv" => path.is_file(),
        "json" => path.is_file() && read(path).is_ok_and(|records| !records.is_empty()),
        _ => false,
    }
}

/// The records in the file `path`, in order.
///
/// # Errors
/// It cannot be read, or something in it is no record.
pub fn read(path: &Path) -> Result<Vec<Recorded>, Error> {
    let io = |e: std::io::Error| Error::new(ErrorKind::Io, e.to_string()).in_file(path);
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let begin = file.fill_buf().map_err(io)?;
    if begin.starts_with(b"PAR1") {
        #[cfg(feature = "parquet")]
        return crate::parquet::records(path);
        #[cfg(not(feature = "parquet"))]
        return Err(Error::new(ErrorKind::Unsupported, "is Parquet, which this program was built without")
            .in_file(path));
    }
    let is_list = begin.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let wrong = |what: String| {
        Error::new(ErrorKind::Damaged, what)
            .in_file(path)
            .hint("records are written by `ckpt inspect --format ndjson` or `--format parquet`")
    };
    if is_list {
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io)?;
        let parts: Vec<serde_json::Value> =
            serde_json::from_str(&text).map_err(|e| wrong(format!("is not valid JSON: {e}")))?;
        let read = |(number, part): (usize, serde_json::Value)| {
            Recorded::from_json(&part.to_string())
                .map_err(|e| wrong(format!("element {number} is not a record of a checkpoint: {e}")))
        };
        return parts.into_iter().enumerate().map(read).collect();
    }
    let (mut text, mut records) = (String::new(), Vec::new());
    for number in 1.. {
        text.clear();
        if file.read_line(&mut text).map_err(io)? == 0 {
            break;
        }
        if text.trim().is_empty() {
            continue;
        }
        match Recorded::from_json(&text) {
            Ok(record) => records.push(record),
            // One object that is written over several lines.
            Err(_) if number == 1 && text.trim_end() == "{" => {
                file.read_to_string(&mut text).map_err(io)?;
                let record = Recorded::from_json(&text);
                records.push(record.map_err(|e| wrong(format!("is not a record of a checkpoint: {e}")))?);
                break;
            }
            Err(e) => return Err(wrong(format!("line {number} is not a record of a checkpoint: {e}"))),
        }
    }
    Ok(records)
}
