//! One tensor in detail: its layout, measures, shares, histogram and first values.

use anstyle::Style;
use ckpt_inspect::health::measures::{Form, Measure, Part, Place, Value, shown_in};
use ckpt_inspect::record::Histogram;
use ckpt_inspect::{Checkpoint, CheckpointRecord, DType, ErrorKind, TensorRecord, without_state_dict};
use ckpt_reports::records::{Recorded, Unreadable};

use super::Args;
use super::answers::{Answers, asks_for_several};
use super::options::Format;
use super::table::shape;
use crate::load::{self, LoadOptions};
use crate::terminal;
use crate::{Failure, exit};

/// Shows the tensor called `name` of every checkpoint.
pub(super) fn run(args: &Args, name: &str, options: &LoadOptions) -> Result<u8, Failure> {
    let found = load::expand(&args.paths)?;
    let several = asks_for_several(&args.paths, &found);
    let mut code = exit::FINE;
    let mut text = String::new();
    let format = Format::of(args)?;
    let mut answers = Answers::new(format, args.rows(format), several);
    for found in found {
        let (path, examined) = match found {
            Ok(path) => {
                let examined = examine(&path, name, args, options);
                (path, examined)
            }
            Err((path, error)) => (path, Err(error.into())),
        };
        match examined {
            Ok((checkpoint, record)) => {
                if record.tensors[0].damage.is_some() {
                    code = exit::UNREADABLE;
                }
                if matches!(format, Format::Human) {
                    text += &detail(&checkpoint, &record.tensors[0]);
                }
                answers.add(Recorded::Record(Box::new(record)))?;
            }
            Err(failure) => {
                terminal::error(&failure.message);
                code = code.max(failure.code);
                let kind = if failure.code == exit::USAGE { ErrorKind::NotFound } else { ErrorKind::Damaged };
                answers.add(Recorded::Unreadable(Unreadable::new(&path, failure.message, kind)))?;
            }
        }
    }
    terminal::print(&text)?;
    answers.end()?;
    Ok(code)
}

/// The checkpoint at `path` and its record, both with the tensor `name` alone.
fn examine(
    path: &std::path::Path,
    name: &str,
    args: &Args,
    options: &LoadOptions,
) -> Result<(Checkpoint, CheckpointRecord), Failure> {
    let mut checkpoint = ckpt_inspect::open_with(path, &options.open)?;
    if args.checksum {
        checkpoint.verify_checksums();
    }
    let wanted = full_name(&checkpoint, name);
    checkpoint.tensor(&wanted).map_err(|error| error.hint("list them with `ckpt inspect --all`"))?;
    checkpoint.tensors.retain(|t| t.name == wanted);
    let mut record = ckpt_inspect::describe(&checkpoint, options.describe, &|_| ());
    ckpt_inspect::judge(&mut record, &options.thresholds);
    Ok((checkpoint, record))
}

/// The tensor's full name, when `name` lacks the state dict's key and only one tensor fits.
fn full_name(checkpoint: &Checkpoint, name: &str) -> String {
    if checkpoint.tensors.iter().any(|t| t.name == name) {
        return name.to_string();
    }
    let fits: Vec<&str> = checkpoint
        .tensors
        .iter()
        .map(|t| t.name.as_str())
        .filter(|n| without_state_dict(n) == name)
        .collect();
    match fits.as_slice() {
        [one] => one.to_string(),
        _ => name.to_string(),
    }
}

fn detail(checkpoint: &Checkpoint, tensor: &TensorRecord) -> String {
    let mut out = format!(
        "{}\n{}\n",
        terminal::bold(&terminal::escape(&tensor.name)),
        terminal::dim(&terminal::escape(&checkpoint.path.display().to_string()))
    );
    let mut line = |label: &str, text: String| out += &terminal::labelled(label, Style::new(), &text);
    line("dtype", tensor.dtype.to_string());
    line("shape", shape(&tensor.shape));
    line("strides", shape(&tensor.strides));
    line("size", terminal::bytes(tensor.bytes));
    if !tensor.shared_with.is_empty() {
        line("shares with", tensor.shared_with.join(", "));
    }
    for (i, part) in tensor.quantized.iter().flat_map(|quantized| &quantized.parts).enumerate() {
        let label = if i == 0 { "stored as" } else { "" };
        let text =
            format!("{}: {} {}, {}", terminal::escape(&part.name), part.dtype, shape(&part.shape), part.role);
        line(label, text);
    }
    if let Some(sha256) = &tensor.sha256 {
        line("sha256", sha256.to_string());
    }
    if let Some(verdict) = tensor.verdict {
        let reason = tensor.finding.as_ref().map(|f| format!(": {f}")).unwrap_or_default();
        let style = terminal::verdict_style(Some(verdict));
        out += &terminal::labelled("verdict", style, &format!("{verdict}{reason}"));
    }
    if tensor.stats.is_some() {
        out += &measures(tensor, Part::Elements);
    }
    if tensor.ternary.is_some() {
        out += &measures(tensor, Part::Codes);
    }
    if let Some(histogram) = tensor.stats.as_ref().and_then(|s| s.histogram.as_ref()) {
        out += &draw(histogram);
    }
    out + &preview(checkpoint, tensor)
}

/// The measures of one part of the tensor: one line each, faults together on one, shares as bars.
fn measures(tensor: &TensorRecord, part: Part) -> String {
    let all: Vec<&Measure> = shown_in(Place::Page).filter(|m| m.part == part).collect();
    let mut out = String::new();
    let mut line = |label: &str, text: String| out += &terminal::labelled(label, Style::new(), &text);
    let joins = |m: &Measure| m.form == Form::Faults || m.form == Form::Share && part == Part::Codes;
    for alike in all.chunk_by(|a, b| a.form == b.form && joins(a)) {
        if alike[0].form == Form::Share && joins(alike[0]) {
            for (i, measure) in alike.iter().enumerate() {
                let share = measure.real(tensor).unwrap_or(0.0);
                let bar = "█".repeat((share * 40.0).round() as usize);
                let text = format!("{:>2} {:5.1} %  {bar}", measure.label, 100.0 * share);
                line(if i == 0 { "ternary" } else { "" }, text);
            }
            continue;
        }
        let labels: Vec<&str> = alike.iter().map(|m| m.label).collect();
        let texts: Vec<String> = alike.iter().map(|m| measured(m, tensor)).collect();
        line(&labels.join(", "), texts.join(", "));
    }
    out
}

fn measured(measure: &Measure, tensor: &TensorRecord) -> String {
    let count = || tensor.stats.as_ref().map_or(1, |s| s.count.max(1));
    match (measure.form, measure.value(tensor)) {
        (Form::Part, Some(Value::Count(part))) => {
            format!("{part} ({:.2} %)", 100.0 * part as f64 / count() as f64)
        }
        (Form::Rows, Some(Value::Count(rows))) => format!("{rows} of {}", tensor.shape[0]),
        (Form::Columns, Some(Value::Count(cols))) => {
            format!("{cols} of {}", tensor.shape[1..].iter().product::<u64>())
        }
        (Form::Bits { most }, Some(Value::Real(bits))) => format!("{bits:.3} bits of {most}"),
        (Form::Share, Some(Value::Real(share))) => format!("{:.1} %", 100.0 * share),
        (Form::Scale, None) => "lost".into(),
        (_, Some(Value::Count(count))) => count.to_string(),
        (_, value) => terminal::number(value.map(Value::real)),
    }
}

fn draw(histogram: &Histogram) -> String {
    let most = histogram.counts.iter().copied().max().unwrap_or(0).max(1);
    let room = terminal::width().saturating_sub(26).clamp(8, 40);
    let mut out = String::from("  |w| by powers of two\n");
    let mut empty = 0;
    for (i, &count) in histogram.counts.iter().enumerate() {
        empty = if count == 0 { empty + 1 } else { 0 };
        if empty == 2 {
            out += "          ⋮\n";
        }
        if count == 0 {
            continue;
        }
        let low = (f64::from(histogram.first) + i as f64).exp2();
        let width = (room as f64 * count as f64 / most as f64).ceil() as usize;
        out += &format!("  {:>9} {:<room$} {count}\n", terminal::number(Some(low)), "█".repeat(width));
    }
    out
}

/// The first values of the first rows.
fn preview(checkpoint: &Checkpoint, record: &TensorRecord) -> String {
    const ROWS: usize = 4;
    const COLS: usize = 8;
    const CELL: usize = 11;
    let shown = (terminal::width().saturating_sub(4) / CELL).clamp(1, COLS);
    let Some(tensor) = checkpoint.tensors.first().filter(|t| t.numel() > 0 && record.damage.is_none()) else {
        return String::new();
    };
    let rows = tensor.numel() / tensor.shape.last().map_or(1, |&cols| cols as u64);
    let width = tensor.shape.last().copied().unwrap_or(1);
    let mut corner = tensor.clone();
    if tensor.dtype.element_size().is_some() && tensor.quantizer.is_none() && tensor.sparse.is_none() {
        // Only the first values, even of a large tensor.
        for (i, size) in corner.shape.iter_mut().rev().enumerate() {
            *size = (*size).min([COLS + 1, ROWS + 1].get(i).copied().unwrap_or(1));
        }
    }
    // f64 has values that f32 lacks.
    let values: Vec<f64> = match tensor.dtype {
        DType::F64 if tensor.sparse.is_none() => match checkpoint.view::<f64>(&corner) {
            Ok(view) => view.iter().copied().collect(),
            Err(_) => return String::new(),
        },
        _ if tensor.quantized.is_some() => {
            let Ok(elements) = checkpoint.elements(tensor) else { return String::new() };
            corner.shape = vec![rows.min(ROWS as u64 + 1) as usize, width.min(COLS + 1)];
            let mut values = vec![0.0; corner.shape[0] * corner.shape[1]];
            for (row, part) in values.chunks_mut(corner.shape[1]).enumerate() {
                elements.read_f64(row * width, part);
            }
            values
        }
        _ => match checkpoint.values(&corner) {
            Ok(values) => values.into_iter().map(f64::from).collect(),
            Err(_) => return String::new(),
        },
    };
    let cols = corner.shape.last().copied().unwrap_or(1);
    let mut out = String::from("  values\n");
    for row in values.chunks(cols).take(ROWS) {
        let cells: Vec<String> =
            row.iter().take(shown).map(|&v| format!("{:>10}", terminal::number(Some(v)))).collect();
        out += &format!("  {}{}\n", cells.join(" "), if width > shown { " …" } else { "" });
    }
    if rows > ROWS as u64 {
        out += "  …\n";
    }
    out
}
