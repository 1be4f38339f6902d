//! The report as a table: one line per tensor of each checkpoint.

use ckpt_inspect::health::measures::{Form, Measure, Place, Value, shown_in};
use ckpt_inspect::{CheckpointRecord, TensorRecord, printable_in_log};

use crate::{Error, Exporter, Report};

pub(crate) const REPORT: Exporter<Report> = Exporter {
    name: "csv",
    summary: None,
    extensions: &["csv"],
    page: false,
    write: |report, _| csv(report),
};

const BEFORE: [&str; 7] = ["run", "path", "step", "tensor", "dtype", "shape", "group"];
const AFTER: [&str; 2] = ["verdict", "reason"];

/// Columns of measures: fields of the record before the verdict, others at the end, where a new one does not shift any.
fn measures(computed: bool) -> impl Iterator<Item = &'static Measure> {
    shown_in(Place::Csv).filter(move |m| m.is_computed() == computed)
}

/// The report as CSV (RFC 4180) with a heading line. Text is printable, and what a spreadsheet would take for a formula
/// gets an apostrophe in front.
///
/// # Errors
/// None in practice: it is written to memory.
pub fn csv(report: &Report) -> Result<String, Error> {
    let mut lines = Vec::new();
    for run in &report.runs {
        for checkpoint in run.checkpoints.iter().chain(run.aside.iter().map(|aside| &aside.record)) {
            let begin = plain(&run.name);
            lines.extend(of_checkpoint(checkpoint).map(|line| [vec![begin.clone()], line].concat()));
        }
    }
    table(&BEFORE, lines)
}

/// The tensors of `records` as CSV, as [`csv()`] has those of runs.
///
/// # Errors
/// None in practice: it is written to memory.
pub fn tensors<'r>(records: impl IntoIterator<Item = &'r CheckpointRecord>) -> Result<String, Error> {
    table(&BEFORE[1..], records.into_iter().flat_map(of_checkpoint))
}

/// A line for each tensor of `checkpoint`, from its path on.
fn of_checkpoint(checkpoint: &CheckpointRecord) -> impl Iterator<Item = Vec<String>> {
    let step = checkpoint.step.map(|s| s.to_string()).unwrap_or_default();
    let begin = vec![plain(&checkpoint.path), step];
    checkpoint.tensors.iter().map(move |tensor| [begin.clone(), fields(tensor)].concat())
}

fn table(before: &[&'static str], lines: impl IntoIterator<Item = Vec<String>>) -> Result<String, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Format(format!("CSV: {e}"));
    let mut out = ::csv::Writer::from_writer(Vec::new());
    let keys = |computed| measures(computed).map(|m| m.key);
    let heading = before.iter().copied().chain(keys(false)).chain(AFTER).chain(keys(true));
    out.write_record(heading).map_err(|e| failed(&e))?;
    for line in lines {
        out.write_record(line).map_err(|e| failed(&e))?;
    }
    let bytes = out.into_inner().map_err(|e| failed(&e))?;
    String::from_utf8(bytes).map_err(|e| failed(&e))
}

/// `text` that a file chose as a cell: printable, and with an apostrophe in front where it begins as a formula
/// (<https://owasp.org/www-community/attacks/CSV_Injection>).
fn plain(text: &str) -> String {
    let text = printable_in_log(text);
    if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text }
}

fn fields(tensor: &TensorRecord) -> Vec<String> {
    let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
    let group = tensor.group.name().to_string();
    let mut line = vec![plain(&tensor.name), tensor.dtype.to_string(), shape.join("x"), group];
    line.extend(measures(false).map(|m| measured(m, tensor)));
    line.push(tensor.verdict.map(|v| v.to_string()).unwrap_or_default());
    line.push(plain(&tensor.finding.as_ref().map(ToString::to_string).unwrap_or_default()));
    line.extend(measures(true).map(|m| measured(m, tensor)));
    line
}

fn measured(measure: &Measure, tensor: &TensorRecord) -> String {
    match (measure.value(tensor), measure.form) {
        (None, _) => String::new(),
        (Some(Value::Count(count)), _) => count.to_string(),
        (Some(value), Form::Share | Form::Bits { .. }) => value.real().to_string(),
        // Debug writes extremes with an exponent, where Display has hundreds of digits.
        (Some(value), _) => format!("{:?}", value.real()),
    }
}
