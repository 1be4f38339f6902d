//! Why a run died, from the records of its checkpoints.

use ckpt_inspect::cause::{self, Given};
use ckpt_inspect::run::Run;
use ckpt_inspect::{CheckpointRecord, Thresholds};
use ckpt_reports::cause::findings;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde_json::{Value, json};

/// The causes that records of a run's checkpoints show, gravest first, as JSON. The settings are those of the run's
/// optimizer, where the records lack them.
#[pyfunction]
#[pyo3(signature = (records, *, lr=None, weight_decay=None, accumulation=None))]
pub fn explain(
    py: Python<'_>,
    records: Vec<String>,
    lr: Option<f64>,
    weight_decay: Option<f64>,
    accumulation: Option<u64>,
) -> PyResult<String> {
    let mut given = Given::default();
    (given.lr, given.weight_decay, given.accumulation) = (lr, weight_decay, accumulation);
    let explained = py.detach(|| -> serde_json::Result<Vec<Value>> {
        let parsed = records.iter().map(|record| serde_json::from_str(record));
        let records = parsed.collect::<serde_json::Result<Vec<CheckpointRecord>>>()?;
        let runs = Run::group(records, &Thresholds::default());
        let of_run = |run: &Run| {
            let found = findings(run, &cause::explain(run, &[], &given));
            let said = |finding: ckpt_reports::cause::Finding| {
                let evidence: Vec<Value> =
                    finding.evidence.iter().map(|(heading, text)| json!([heading, text])).collect();
                let layers: Vec<&str> =
                    finding.layers.iter().map(|&layer| run.layers[layer].name.as_str()).collect();
                json!({
                    "run": run.title(),
                    "cause": finding.cause.name(),
                    "title": finding.title,
                    "sentence": finding.sentence,
                    "layers": layers,
                    "evidence": evidence,
                    "advice": finding.advice,
                })
            };
            found.into_iter().map(said).collect::<Vec<Value>>()
        };
        Ok(runs.iter().flat_map(of_run).collect())
    });
    explained.map(|causes| Value::from(causes).to_string()).map_err(|e| PyValueError::new_err(e.to_string()))
}
