//! JSON output. The report: runs with what happened to each layer, and the records themselves by path.

use ckpt_inspect::cause::{Cause, Explanation, LayerCause};
use ckpt_inspect::health::measures::{Place, shown_in};
use ckpt_inspect::run::{Aside, Run, Segment};
use serde::Serialize;
use serde_json::{Value, json};

use crate::gate::Outcome;
use crate::headline::headline;
use crate::{Error, Exporter, Report, Scanned, Training};

pub(crate) const REPORT: Exporter<Report> = Exporter {
    name: "json",
    summary: None,
    extensions: &["json"],
    page: false,
    write: |report, _| json(report),
};

pub(crate) const GATE: Exporter<Outcome> =
    Exporter { name: "json", summary: None, extensions: &[], page: false, write: |outcome, _| text(outcome) };

pub(crate) const SCAN: Exporter<Scanned> = Exporter {
    name: "json",
    summary: None,
    extensions: &[],
    page: false,
    write: |scanned, _| text(&json!(scanned)),
};

/// The report as one JSON object: `{title, runs: [{name, verdict, title, sentences, checkpoints, layers}],
/// unreadable}`. A checkpoint there has `{path, step, format, verdict, reasons, damaged, coverage}`; a layer has `{name, shape,
/// dtype, relative, std, verdicts, first_below, segments, decline}` with one `std`, like every measure of layers, and
/// one verdict per checkpoint. docs/report.md has all of it.
///
/// # Errors
/// None in practice: every number is finite or null.
pub fn json(report: &Report) -> Result<String, Error> {
    let value = json!({
        "title": report.title,
        "runs": report.runs.iter().zip(&report.explanations).enumerate().map(|(i, (r, e))| run(r, e, report.training.get(&i))).collect::<Vec<_>>(),
        "unreadable": report.unreadable.iter().map(|(path, why)| json!({"path": path, "error": why.to_string(), "cause": Cause::of_unreadable(why)})).collect::<Vec<_>>(),
    });
    text(&value)
}

fn text(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Format(format!("JSON: {e}")))?;
    Ok(ckpt_inspect::printable_json(&text) + "\n")
}

fn segment(s: &Segment) -> Value {
    json!({"rate": s.rate, "interval": s.interval, "r2": s.r2, "points": s.points, "from": s.from, "to": s.to})
}

fn run(run: &Run, explanation: &Explanation, training: Option<&Training>) -> Value {
    let words = headline(run, explanation);
    let checkpoints: Vec<Value> = run
        .checkpoints
        .iter()
        .map(|c| {
            json!({
                "path": c.path, "step": c.step, "format": c.format, "verdict": c.verdict,
                "reasons": c.reasons, "damaged": c.damaged, "loss": c.metadata.get("loss"),
                "coverage": c.coverage,
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
            let mut record = json!({
                "name": layer.name,
                "shape": any.map(|t| &t.shape),
                "dtype": any.map(|t| t.dtype),
                "relative": layer.judged.map(|j| j.relative),
            });
            for measure in shown_in(Place::Layers) {
                record[measure.key] = each(&|t| json!(measure.value(t))).into();
            }
            let rest = json!({
                "verdicts": each(&|t| json!(t.verdict)),
                "first_below": layer.crossings,
                "segments": layer.segments.iter().map(segment).collect::<Vec<_>>(),
                "decline": layer.decline.map(|d| json!({
                    "rate": d.rate, "interval": d.interval, "r2": d.r2, "points": d.points,
                    "half_life": d.half_life(), "from": d.from, "to": d.to,
                    "weak_at": layer.judged.map(|j| d.reaches(j.levels.healthy)),
                    "dying_at": layer.judged.map(|j| d.reaches(j.levels.weak)),
                    "dead_at": layer.judged.map(|j| d.reaches(j.levels.dying)),
                })),
            });
            if let (Value::Object(record), Value::Object(rest)) = (&mut record, rest) {
                record.extend(rest);
            }
            record
        })
        .collect();
    json!({
        "name": run.name, "verdict": words.verdict, "title": words.title, "sentences": words.sentences,
        "checkpoints": checkpoints, "aside": aside(run), "layers": layers, "causes": causes(run, explanation),
        "group_declines": explanation.groups, "prognosis": prognosis(run, explanation),
        "training": training.map(|t| json!({
            "loss": t.loss.last(), "best_validation_loss": t.best(), "validation_loss": t.validation,
            "lowest_std": t.lowest_std, "most_zeros": t.most_zeros,
        })),
    })
}

/// Checkpoints of a step that another one of the run is of, which stay out of the series.
fn aside(run: &Run) -> Vec<Value> {
    let one = |aside: &Aside| {
        let Aside { record: r, same_step_as, .. } = aside;
        json!({
            "path": r.path, "step": r.step, "format": r.format, "verdict": r.verdict, "reasons": r.reasons,
            "damaged": r.damaged, "coverage": r.coverage, "same_step_as": run.checkpoints[*same_step_as].path,
        })
    };
    run.aside.iter().map(one).collect()
}

/// What became of each weight that something became of, by its name.
fn causes(run: &Run, explanation: &Explanation) -> Vec<Value> {
    let one = |cause: &LayerCause| {
        json!({
            "layer": run.layers[cause.layer].name, "cause": cause.cause, "reason": cause.reason,
            "decay": cause.decay, "direction": cause.direction, "occupancy": cause.occupancy,
            "push": cause.push, "code_agreement": cause.survival,
        })
    };
    explanation.layers.iter().map(one).collect()
}

fn prognosis(run: &Run, explanation: &Explanation) -> Value {
    let Some(prognosis) = &explanation.prognosis else { return Value::Null };
    let path = |c: Option<usize>| c.map(|c| &run.checkpoints[c].path);
    json!({
        "resume": path(prognosis.resume), "comfortable": path(prognosis.comfortable),
        "fallen_code_agreement": prognosis.fallen_agreement, "other_code_agreement": prognosis.other_agreement,
        "changes": prognosis.changes,
    })
}
