//! The report as a table: one line per tensor of each checkpoint.

use ckpt_inspect::TensorRecord;

use crate::{Error, Report};

const COLUMNS: [&str; 25] = [
    "run",
    "path",
    "step",
    "tensor",
    "dtype",
    "shape",
    "group",
    "count",
    "mean",
    "std",
    "min",
    "max",
    "abs_mean",
    "abs_max",
    "zeros",
    "nan",
    "inf",
    "neg",
    "zero",
    "pos",
    "entropy_bits",
    "dead_rows",
    "dead_cols",
    "verdict",
    "reason",
];

/// The report as CSV (RFC 4180) with a heading line. Text that a spreadsheet would take for a formula gets an
/// apostrophe in front.
///
/// # Errors
/// None in practice: it is written to memory.
pub fn csv(report: &Report) -> Result<String, Error> {
    let failed = |e: &dyn std::fmt::Display| Error::Format(format!("CSV: {e}"));
    let mut out = ::csv::Writer::from_writer(Vec::new());
    out.write_record(COLUMNS).map_err(|e| failed(&e))?;
    for run in &report.runs {
        for checkpoint in &run.checkpoints {
            let step = checkpoint.step.map(|s| s.to_string()).unwrap_or_default();
            for tensor in &checkpoint.tensors {
                let mut line = vec![plain(&run.name), plain(&checkpoint.path), step.clone()];
                line.extend(fields(tensor));
                out.write_record(line).map_err(|e| failed(&e))?;
            }
        }
    }
    let bytes = out.into_inner().map_err(|e| failed(&e))?;
    String::from_utf8(bytes).map_err(|e| failed(&e))
}

/// A formula begins with one of these (<https://owasp.org/www-community/attacks/CSV_Injection>).
fn plain(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_string() }
}

fn fields(tensor: &TensorRecord) -> Vec<String> {
    let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
    let group = serde_json::to_value(tensor.group).ok();
    let group = group.as_ref().and_then(|g| g.as_str()).unwrap_or_default().to_string();
    let mut line = vec![plain(&tensor.name), tensor.dtype.to_string(), shape.join("x"), group];
    // Debug writes extremes with an exponent, where Display has hundreds of digits.
    let real = |v: Option<f64>| v.map(|v| format!("{v:?}")).unwrap_or_default();
    match &tensor.stats {
        Some(s) => {
            line.push(s.count.to_string());
            line.extend([s.mean, s.std, s.min, s.max, s.abs_mean, s.abs_max].map(real));
            line.extend([s.zeros, s.nan, s.inf].map(|n| n.to_string()));
        }
        None => line.extend(std::iter::repeat_n(String::new(), 10)),
    }
    match &tensor.ternary {
        Some(t) => {
            line.extend([t.neg, t.zero, t.pos, t.entropy_bits].map(|v| v.to_string()));
            line.extend([t.dead_rows, t.dead_cols].map(|n| n.to_string()));
        }
        None => line.extend(std::iter::repeat_n(String::new(), 6)),
    }
    line.push(tensor.verdict.map(|v| v.to_string()).unwrap_or_default());
    line.push(plain(&tensor.finding.as_ref().map(ToString::to_string).unwrap_or_default()));
    line
}
