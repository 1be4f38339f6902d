//! What the gate decided of a checkpoint, beside what is known of it: rows of tables with columns of their own, and a line
//! of JSON.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::gate::{Checked, Finding, Severity, Status};
use crate::records::Recorded;
use crate::table::{Cell, Column, Kind, Row, Rows, text};

/// What is known of a checkpoint, and what the gate decided of it. In JSON it is the record with a further key, `gate`.
#[derive(Debug, Serialize)]
pub struct Gated<'r> {
    #[serde(flatten)]
    recorded: &'r Recorded,
    gate: &'r Checked,
    /// What was found, by the tensor; of the whole under `None`.
    #[serde(skip)]
    findings: HashMap<Option<&'r str>, Vec<&'r Finding>>,
    #[serde(skip)]
    accepted: HashMap<Option<&'r str>, Vec<&'r Finding>>,
}

impl<'r> Gated<'r> {
    /// What is known of a checkpoint, which `checked` is about.
    pub fn new(recorded: &'r Recorded, checked: &'r Checked) -> Self {
        let by_tensor = |findings: &'r [Finding]| {
            let mut of: HashMap<_, Vec<_>> = HashMap::new();
            for finding in findings {
                of.entry(finding.tensor.as_deref()).or_default().push(finding);
            }
            of
        };
        let (findings, accepted) = (by_tensor(&checked.findings), by_tensor(&checked.accepted));
        Gated { recorded, gate: checked, findings, accepted }
    }

    /// Its rows in a table.
    pub fn rows(&'r self, rows: Rows) -> Vec<Row<'r>> {
        rows.of_gated(self)
    }

    /// As a line of JSON, without the end of the line.
    ///
    /// # Errors
    /// None in practice: keys are strings.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    pub(crate) fn recorded(&self) -> &'r Recorded {
        self.recorded
    }

    /// Tensors that something was found about and that are not there, in the order of the findings.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &'r str> {
        let tensors = self.recorded.record().map_or(&[][..], |record| &record.tensors);
        let mut told: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let named = self.gate.findings.iter().chain(&self.gate.accepted).filter_map(|f| f.tensor.as_deref());
        named.filter(move |name| told.insert(name))
    }
}

impl<'r> Row<'r> {
    /// What was found about the tensor, or of a row about a checkpoint about the whole.
    fn found(&self) -> Option<&'r [&'r Finding]> {
        let found = self.gated()?.findings.get(&self.tensor_name());
        Some(found.map_or(&[][..], Vec::as_slice))
    }
}

/// The rules that found `findings`, each once.
fn rules<'f>(findings: impl Iterator<Item = &'f Finding>) -> Option<Cell> {
    let mut rules: Vec<&str> = Vec::new();
    for rule in findings.map(|finding| finding.rule.id()) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    if rules.is_empty() { None } else { text(rules.join(", ")) }
}

/// The columns, which are empty where the gate was not asked.
pub(crate) static COLUMNS: [Column; 5] = [
    Column::new(
        "gate",
        Kind::Text,
        "the gate's decision: `passed`, `refused` or `unreadable`; for a tensor, `refused` if a finding on it refuses the checkpoint",
        |row| {
            let gated = row.gated()?;
            text(match row.tensor_name() {
                None => gated.gate.status.name(),
                Some(_) if row.found()?.iter().any(|f| f.severity == Severity::Error) => {
                    Status::Refused.name()
                }
                Some(_) => Status::Passed.name(),
            })
        },
    ),
    Column::new(
        "exit_code",
        Kind::Count,
        "the exit code of `ckpt gate` for this checkpoint alone: 0, 1 or 3",
        |row| match row.tensor_name() {
            None => Some(Cell::Count(row.gated()?.gate.status.exit_code().into())),
            Some(_) => None,
        },
    ),
    Column::new(
        "rules",
        Kind::Text,
        "the gate's rules that found something; for a checkpoint, in any of its tensors too",
        |row| match row.tensor_name() {
            None => rules(row.gated()?.gate.findings.iter()),
            Some(_) => rules(row.found()?.iter().copied()),
        },
    ),
    Column::new(
        "found",
        Kind::Text,
        "what they found, in words; for a checkpoint, only what concerns it as a whole",
        |row| {
            let messages: Vec<&str> = row.found()?.iter().map(|f| f.message.as_str()).collect();
            if messages.is_empty() { None } else { text(messages.join("; ")) }
        },
    ),
    Column::new(
        "accepted",
        Kind::Text,
        "the rules whose findings are known and accepted, so that they refuse nothing",
        |row| {
            let gated = row.gated()?;
            match row.tensor_name() {
                None => rules(gated.gate.accepted.iter()),
                name => rules(gated.accepted.get(&name)?.iter().copied()),
            }
        },
    ),
];

#[cfg(test)]
mod tests {
    use ckpt_inspect::CheckpointRecord;

    use super::*;
    use crate::Policy;
    use crate::gate;
    use crate::table::columns;

    fn record(names: &[&str]) -> CheckpointRecord {
        let mut record = CheckpointRecord::default();
        record.path = "m.pt".into();
        for name in names {
            let mut tensor = ckpt_inspect::TensorRecord::default();
            (tensor.name, tensor.shape) = ((*name).into(), vec![4, 4]);
            let stats = r#"{"count": 16, "mean": 0.0, "std": 0.0, "min": 0.0, "max": 0.0, "abs_mean": 0.0,
                "abs_max": 0.0, "zeros": 16, "nan": 0, "inf": 0, "unique": 1}"#;
            tensor.stats = serde_json::from_str(stats).ok();
            record.tensors.push(tensor);
        }
        record
    }

    #[test]
    fn tensors_that_only_the_baseline_has_are_rows() {
        let (now, then) = (record(&["a.weight"]), record(&["a.weight", "b.weight"]));
        let mut checked = gate::check(&now, &Policy::default(), None);
        checked.findings.clear();
        let gone = Finding::new(crate::gate::Rule::TensorVanished, "gone").on(&then.tensors[1]);
        checked.findings = vec![gone.clone(), gone];
        let recorded = Recorded::Record(Box::new(now));
        let gated = Gated::new(&recorded, &checked);
        let columns = columns();
        let told = |row: &Row<'_>| {
            ["row", "tensor", "gate", "rules", "found"].map(|name| {
                let column = columns.iter().find(|column| column.name == name).unwrap();
                match column.cell(row) {
                    Some(Cell::Text(text)) => text,
                    _ => String::new(),
                }
            })
        };
        let rows = gated.rows(Rows::Tensors);
        assert_eq!(rows.len(), 2);
        assert_eq!(told(&rows[0]), ["tensor", "a.weight", "passed", "", ""]);
        assert_eq!(told(&rows[1]), ["missing", "b.weight", "refused", "tensor-vanished", "gone; gone"]);
        assert_eq!(gated.rows(Rows::Checkpoints).len(), 1);
    }
}
