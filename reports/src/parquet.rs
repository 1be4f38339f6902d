//! Tables as Parquet, with a column for each checkpoint's whole record.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use ckpt_inspect::{Error, ErrorKind};
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::record::Field;
use parquet::schema::types::Type;

use crate::records::{Recorded, Unreadable};
use crate::table::{Cell, Column, Kind, Row, Sink, Tables, columns, record};

pub(crate) const TABLE: Tables =
    Tables { name: "parquet", is_text: false, begin: |out| Ok(Box::new(Table::begin(out)?)) };

/// Rows, and bytes of text, that are kept until they are written together.
const MOST_ROWS: usize = 1 << 16;
const MOST_TEXT: usize = 32 << 20;

struct Table<W: Write + Send> {
    out: SerializedFileWriter<W>,
    columns: Vec<Column>,
    /// The cells of rows that are still to be written, by column.
    cells: Vec<Vec<Option<Cell>>>,
    text: usize,
}

impl<W: Write + Send> Table<W> {
    fn begin(out: W) -> io::Result<Self> {
        let columns: Vec<Column> = columns().into_iter().chain([record()]).collect();
        let fields = columns.iter().map(|column| field(column).map(Arc::new)).collect::<Result<_, _>>();
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
        let schema =
            fields.and_then(|fields| Type::group_type_builder("checkpoints").with_fields(fields).build());
        let out = schema
            .and_then(|schema| SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties.build())))
            .map_err(failed)?;
        let cells = vec![Vec::new(); columns.len()];
        Ok(Table { out, columns, cells, text: 0 })
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        if self.cells[0].is_empty() {
            return Ok(());
        }
        let mut group = self.out.next_row_group()?;
        for (column, cells) in self.columns.iter().zip(&mut self.cells) {
            let cells = std::mem::take(cells);
            let text = |cell| match cell {
                Cell::Text(text) => Some(ByteArray::from(text.into_bytes())),
                _ => None,
            };
            let count = |cell| match cell {
                Cell::Count(count) => Some(i64::try_from(count).unwrap_or(i64::MAX)),
                _ => None,
            };
            let real = |cell| if let Cell::Real(real) = cell { Some(real) } else { None };
            let flag = |cell| if let Cell::Flag(flag) = cell { Some(flag) } else { None };
            match column.kind {
                Kind::Text => write::<ByteArrayType, W>(&mut group, cells, text)?,
                Kind::Count => write::<Int64Type, W>(&mut group, cells, count)?,
                Kind::Real => write::<DoubleType, W>(&mut group, cells, real)?,
                Kind::Flag => write::<BoolType, W>(&mut group, cells, flag)?,
            }
        }
        group.close()?;
        self.text = 0;
        Ok(())
    }
}

/// The next column of `group`.
fn write<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    cells: Vec<Option<Cell>>,
    value: impl Fn(Cell) -> Option<T::T>,
) -> Result<(), ParquetError> {
    let levels: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
    let values: Vec<T::T> = cells.into_iter().flatten().filter_map(value).collect();
    let mut column =
        group.next_column()?.ok_or_else(|| ParquetError::General("fewer columns than announced".into()))?;
    column.typed::<T>().write_batch(&values, Some(&levels), None)?;
    column.close()
}

impl<W: Write + Send> Sink for Table<W> {
    fn add(&mut self, row: &Row<'_>) -> io::Result<()> {
        for (column, cells) in self.columns.iter().zip(&mut self.cells) {
            let cell = column.cell(row);
            if let Some(Cell::Text(text)) = &cell {
                self.text += text.len();
            }
            cells.push(cell);
        }
        if self.cells[0].len() >= MOST_ROWS || self.text >= MOST_TEXT {
            self.flush().map_err(failed)?;
        }
        Ok(())
    }

    fn end(mut self: Box<Self>) -> io::Result<()> {
        self.flush().and_then(|()| self.out.close()).map_err(failed)?;
        Ok(())
    }
}

/// The records in the file `path`.
pub(crate) fn records(path: &Path) -> Result<Vec<Recorded>, Error> {
    let damaged = |what: String| Error::new(ErrorKind::Damaged, format!("as Parquet: {what}")).in_file(path);
    let file = File::open(path).map_err(|e| Error::new(ErrorKind::Io, e.to_string()).in_file(path))?;
    let reader = SerializedFileReader::new(file).map_err(|e| damaged(e.to_string()))?;
    let schema = reader.metadata().file_metadata().schema();
    let wanted = ["row", "path", "reason", "error", "record"];
    let fields: Vec<_> =
        schema.get_fields().iter().filter(|field| wanted.contains(&field.name())).cloned().collect();
    if fields.len() < wanted.len() {
        return Err(damaged("it lacks the columns of `ckpt inspect`, such as `record`".into())
            .hint("with `--rows checkpoints` or `--rows all` they are written"));
    }
    let projection = Type::group_type_builder(schema.name()).with_fields(fields).build();
    let rows = reader.get_row_iter(projection.ok()).map_err(|e| damaged(e.to_string()))?;
    let (mut records, mut has_whole) = (Vec::new(), false);
    for (number, row) in rows.enumerate() {
        let row = row.map_err(|e| damaged(e.to_string()))?;
        let text = |name: &str| {
            row.get_column_iter().find_map(|(column, field)| match field {
                Field::Str(text) if column == name => Some(text.clone()),
                _ => None,
            })
        };
        match text("row").as_deref() {
            Some("checkpoint") => {
                let record = Recorded::from_json(&text("record").unwrap_or_default());
                records.push(record.map_err(|e| damaged(format!("row {number} holds no record: {e}")))?);
                has_whole = true;
            }
            Some("tensor") if !has_whole => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "has rows of tensors alone, which are not records",
                )
                .in_file(path)
                .hint("with `--rows checkpoints` or `--rows all` they are written"));
            }
            Some("unreadable") => {
                let [path, error, kind] =
                    ["path", "reason", "error"].map(|name| text(name).unwrap_or_default());
                records.push(Recorded::Unreadable(Unreadable { path, error, kind, damage_kind: None }));
            }
            _ => {}
        }
    }
    Ok(records)
}

fn field(column: &Column) -> Result<Type, ParquetError> {
    let (physical, logical) = match column.kind {
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Count => (Physical::INT64, None),
        Kind::Real => (Physical::DOUBLE, None),
        Kind::Flag => (Physical::BOOLEAN, None),
    };
    Type::primitive_type_builder(column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .build()
}

fn failed(error: ParquetError) -> io::Error {
    io::Error::other(error)
}
