//! Parquet files as records, from any row on. Only the columns that are asked for are read.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::serialized_reader::ReadOptionsBuilder;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::Value;

use crate::{Error, Remedy, Result};

/// Rows of one file.
pub(super) struct Parquet {
    path: PathBuf,
    rows: RowIter<'static>,
}

impl Parquet {
    /// Opens `path` at row `first`, with those of the `wanted` columns that it has.
    pub fn open(path: &Path, first: u64, wanted: &[&str]) -> Result<Self> {
        sound(path, || Self::open_unguarded(path, first, wanted))?
    }

    fn open_unguarded(path: &Path, first: u64, wanted: &[&str]) -> Result<Self> {
        let damaged = |e: ParquetError| Error::data(path, format!("is not a readable Parquet file: {e}"));
        let open = || File::open(path).map_err(|e| Error::read(path, e));
        let whole = SerializedFileReader::new(open()?).map_err(damaged)?;
        let columns = columns(path, &whole, wanted)?;
        let chunks = whole.metadata().row_groups().iter().flat_map(|group| group.columns());
        let is_read = |chunk: &&ColumnChunkMetaData| {
            chunk.column_path().parts().first().is_some_and(|name| wanted.contains(&name.as_str()))
        };
        if let Some(unread) = chunks.filter(is_read).map(|chunk| chunk.compression()).find(|c| !is_known(*c))
        {
            let name = unread.to_string();
            let name = name.split('(').next().unwrap_or_default();
            return Err(Error::data(
                path,
                format!(
                    "is compressed with {name}, which is not read here; write it with Snappy, Zstandard, gzip or LZ4"
                ),
            ));
        }
        let (mut skipped, mut before) = (0, 0u64);
        for group in whole.metadata().row_groups() {
            let rows = u64::try_from(group.num_rows()).unwrap_or(0);
            let after = before.saturating_add(rows);
            if after > first {
                break;
            }
            (skipped, before) = (skipped + 1, after);
        }
        let from =
            ReadOptionsBuilder::new().with_predicate(Box::new(move |_, group| group >= skipped)).build();
        let reader = SerializedFileReader::new_with_options(open()?, from).map_err(damaged)?;
        let rows = RowIter::from_file_into(Box::new(reader)).project(Some(columns)).map_err(damaged)?;
        let mut parquet = Parquet { path: path.to_path_buf(), rows };
        for row in before..first {
            if parquet.rows.next().transpose().map_err(damaged)?.is_none() {
                let what = format!("{}: ends after {row} rows, before row {first}", path.display());
                return Err(Error::resume(Remedy::RestartData, what));
            }
        }
        Ok(parquet)
    }

    /// The next row as a record.
    pub fn next(&mut self) -> Result<Option<Value>> {
        let Parquet { path, rows } = self;
        let row = sound(path, || rows.next().transpose())?;
        let row = row.map_err(|e| Error::data(path, format!("is damaged: {e}")))?;
        Ok(row.map(|row| record(&row)))
    }
}

/// Whether columns of this compression are read.
fn is_known(compression: Compression) -> bool {
    use Compression::{GZIP, LZ4, LZ4_RAW, SNAPPY, UNCOMPRESSED, ZSTD};
    matches!(compression, UNCOMPRESSED | SNAPPY | GZIP(_) | LZ4 | LZ4_RAW | ZSTD(_))
}

/// The schema of the columns that are read.
fn columns(path: &Path, reader: &SerializedFileReader<File>, asked: &[&str]) -> Result<Type> {
    let root = reader.metadata().file_metadata().schema();
    let wanted: Vec<Arc<Type>> =
        root.get_fields().iter().filter(|f| asked.contains(&f.name())).cloned().collect();
    if wanted.is_empty() {
        let names: Vec<String> =
            root.get_fields().iter().take(20).map(|f| f.name().escape_debug().to_string()).collect();
        return Err(Error::data(
            path,
            format!("has none of the columns {}; its columns are {}", asked.join(", "), names.join(", ")),
        ));
    }
    let group = Type::group_type_builder(root.name()).with_fields(wanted).build();
    group.map_err(|e| Error::data(path, format!("has an invalid schema: {e}")))
}

/// What `f` returns; a panic of the Parquet reader on a damaged file is an error.
fn sound<T>(path: &Path, f: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f))
        .map_err(|_| Error::data(path, "is damaged: the Parquet reader gave up on it"))
}

fn record(row: &Row) -> Value {
    Value::Object(row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect())
}

fn value(field: &Field) -> Value {
    match field {
        Field::Str(text) => Value::String(text.clone()),
        // Older writers do not mark text as such.
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_or(Value::Null, Value::from),
        Field::Group(row) => record(row),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        Field::MapInternal(map) => {
            let entry = |(key, item): &(Field, Field)| match key {
                Field::Str(key) => Some((key.clone(), value(item))),
                _ => None,
            };
            Value::Object(map.entries().iter().filter_map(entry).collect())
        }
        _ => Value::Null,
    }
}
