//! Tables as CSV (RFC 4180) with a heading line. Text is printable, and what a spreadsheet would take for a formula gets an
//! apostrophe in front.

use std::io::{self, Write};

use crate::table::{Cell, Column, Row, Rows, Sink, Tables, columns};
use crate::{Error, Exporter, Report};

pub(crate) const REPORT: Exporter<Report> = Exporter {
    name: "csv",
    summary: None,
    extensions: &["csv"],
    page: false,
    write: |report, _| csv(report),
};

pub(crate) const TABLE: Tables =
    Tables { name: "csv", is_text: true, begin: |out| Ok(Box::new(Csv::begin(out, &[])?)) };

/// The tensors of a report's checkpoints, behind the name of each one's run.
///
/// # Errors
/// None in practice: it is written to memory.
pub fn csv(report: &Report) -> Result<String, Error> {
    let mut text = Vec::new();
    report_to(report, &mut text).map_err(|e| Error::Format(format!("CSV: {e}")))?;
    String::from_utf8(text).map_err(|e| Error::Format(format!("CSV: {e}")))
}

fn report_to(report: &Report, out: &mut Vec<u8>) -> io::Result<()> {
    let mut table = Csv::begin(out, &["run"])?;
    for run in &report.runs {
        for checkpoint in run.checkpoints.iter().chain(run.aside.iter().map(|aside| &aside.record)) {
            for row in Rows::Tensors.of(checkpoint) {
                table.write(vec![printable(&run.name)], &row)?;
            }
        }
    }
    Box::new(table).end()
}

struct Csv<W: Write> {
    out: ::csv::Writer<W>,
    columns: Vec<Column>,
}

impl<W: Write> Csv<W> {
    /// A table with `before` in front of its columns.
    fn begin(out: W, before: &[&str]) -> io::Result<Self> {
        let (mut out, columns) = (::csv::Writer::from_writer(out), columns());
        out.write_record(before.iter().copied().chain(columns.iter().map(|column| column.name)))?;
        Ok(Csv { out, columns })
    }

    fn write(&mut self, mut line: Vec<String>, row: &Row<'_>) -> io::Result<()> {
        line.extend(self.columns.iter().map(|column| column.cell(row).map(written).unwrap_or_default()));
        Ok(self.out.write_record(line)?)
    }
}

impl<W: Write + Send> Sink for Csv<W> {
    fn add(&mut self, row: &Row<'_>) -> io::Result<()> {
        self.write(Vec::new(), row)
    }

    fn end(mut self: Box<Self>) -> io::Result<()> {
        self.out.flush()
    }
}

fn written(cell: Cell) -> String {
    match cell {
        Cell::Text(text) => printable(&text),
        Cell::Count(count) => count.to_string(),
        // Debug writes extremes with an exponent, where Display has hundreds of digits.
        Cell::Real(real) => format!("{real:?}"),
        Cell::Flag(flag) => flag.to_string(),
    }
}

/// Text of a file as a cell: printable, and with an apostrophe in front where it begins as a formula
/// (<https://owasp.org/www-community/attacks/CSV_Injection>).
fn printable(text: &str) -> String {
    let text = ckpt_inspect::printable_in_log(text);
    if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text }
}
