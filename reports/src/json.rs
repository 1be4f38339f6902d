//! The report for machines: runs with what became of each layer, and the records themselves by path.

use ckpt_inspect::run::Run;
use serde_json::{Value, json};

use crate::headline::headline;
use crate::{Error, Report, Training};

/// The report as one JSON object: `{title, runs: [{name, verdict, title, sentences, checkpoints, layers}],
/// unreadable}`. A checkpoint there has `{path, step, format, verdict, reasons, damaged}`; a layer has `{name, shape,
/// dtype, relative, std, verdicts, first_below, decline}` with one `std` and verdict per checkpoint.
///
/// # Errors
/// None in practice: every number is finite or null.
pub fn json(report: &Report) -> Result<String, Error> {
    let value = json!({
        "title": report.title,
        "runs": report.runs.iter().enumerate().map(|(i, r)| run(r, report.training.get(&i))).collect::<Vec<_>>(),
        "unreadable": report.unreadable.iter().map(|(path, why)| json!({"path": path, "error": why})).collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&value)
        .map(|text| text + "\n")
        .map_err(|e| Error::Format(format!("JSON: {e}")))
}

fn run(run: &Run, training: Option<&Training>) -> Value {
    let words = headline(run);
    let checkpoints: Vec<Value> = run
        .checkpoints
        .iter()
        .map(|c| {
            json!({
                "path": c.path, "step": c.step, "format": c.format, "verdict": c.verdict,
                "reasons": c.reasons, "damaged": c.damaged, "loss": c.metadata.get("loss"),
            })
        })
        .collect();
    let layers: Vec<Value> = run
        .layers
        .iter()
        .enumerate()
        .map(|(l, layer)| {
            let each = |value: &dyn Fn(&ckpt_inspect::TensorRecord) -> Value| -> Vec<Value> {
                (0..run.checkpoints.len()).map(|c| run.tensor(l, c).map_or(Value::Null, value)).collect()
            };
            let any = (0..run.checkpoints.len()).rev().find_map(|c| run.tensor(l, c));
            json!({
                "name": layer.name,
                "shape": any.map(|t| &t.shape),
                "dtype": any.map(|t| &t.dtype),
                "relative": layer.judged.map(|j| j.relative),
                "std": each(&|t| json!(t.stats.as_ref().and_then(|s| s.std))),
                "verdicts": each(&|t| json!(t.verdict)),
                "first_below": layer.crossings,
                "decline": layer.decline.map(|d| json!({
                    "rate": d.rate, "half_life": d.half_life(), "from": d.from, "to": d.to,
                    "dead_at": layer.judged.map(|j| d.reaches(j.levels.dying)),
                })),
            })
        })
        .collect();
    json!({
        "name": run.name, "verdict": words.verdict, "title": words.title, "sentences": words.sentences,
        "checkpoints": checkpoints, "layers": layers,
        "training": training.map(|t| json!({
            "loss": t.loss.last(), "best_validation_loss": t.best(), "validation_loss": t.validation,
            "lowest_std": t.lowest_std, "most_zeros": t.most_zeros,
        })),
    })
}
