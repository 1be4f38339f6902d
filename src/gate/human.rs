//! The gate's answer for people: findings of tensors whose names differ in numbers alone share a row.

use anstyle::Style;
use ckpt_inspect::Verdict;
use ckpt_reports::gate::{Checked, Finding, Outcome, Severity, Status};
use ckpt_reports::text::{number, plural};

use crate::{fold, terminal};

/// Rows of findings listed per checkpoint.
const LISTED: usize = 30;

/// Each checkpoint with its findings, tensor by tensor, and the headline; `quiet` leaves out what passes. Of very many
/// checkpoints, the worst.
pub(super) fn text(outcome: &Outcome, width: usize, quiet: bool) -> String {
    if quiet && outcome.status == Status::Passed {
        return String::new();
    }
    let mut out = String::new();
    let mut told: Vec<&Checked> =
        outcome.checkpoints.iter().filter(|c| !quiet || c.status != Status::Passed).collect();
    let more = told.len().saturating_sub(terminal::MOST_LISTED);
    if more > 0 {
        told.sort_by_key(|c| std::cmp::Reverse((c.status, c.verdict)));
    }
    for checked in told.iter().take(terminal::MOST_LISTED) {
        out += &checkpoint(checked, width);
    }
    if more > 0 {
        let rest = &told[terminal::MOST_LISTED..];
        let ended = [Status::Unreadable, Status::Refused, Status::Passed]
            .map(|status| (rest.iter().filter(|c| c.status == status).count(), status.name()));
        let ended: Vec<String> =
            ended.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect();
        let more = format!("and {more} more: {}; --format json lists all", ended.join(", "));
        out += &format!("{}\n", terminal::dim(&more));
    }
    if let Some(baseline) = &outcome.baseline {
        out += &terminal::dim(&format!("compared with {}", terminal::escape(baseline)));
        out.push('\n');
    }
    out + &terminal::paint(style(outcome.status).bold(), &outcome.headline()) + "\n"
}

fn style(status: Status) -> Style {
    terminal::verdict_style(Some(match status {
        Status::Passed => Verdict::Healthy,
        Status::Refused => Verdict::Dead,
        _ => Verdict::Corrupt,
    }))
}

fn checkpoint(checked: &Checked, width: usize) -> String {
    let status = format!("{:<10}", checked.status.name());
    let mut facts = Vec::new();
    facts.extend(checked.step.map(|step| format!("step {step}")));
    facts.extend(checked.verdict.map(|verdict| verdict.to_string()));
    if checked.companion {
        facts.push("no weights, only a trainer's files".into());
    }
    if checked.judged > 0 {
        facts.push(format!("{} of {} tensors healthy", checked.healthy, checked.judged));
    }
    if checked.untrained > 0 {
        facts.push(format!("{} untrained", checked.untrained));
    }
    if !checked.coverage.is_whole() {
        facts.push(format!("judged {}", terminal::escape(&checked.coverage.to_string())));
    } else if checked.judged == 0 && checked.coverage.parameters > 0 {
        facts.push("no matrix; checked only for NaN and infinity".into());
    }
    if !checked.accepted.is_empty() {
        facts.push(format!("{} accepted", plural(checked.accepted.len(), "known finding")));
    }
    let mut out =
        terminal::paint(style(checked.status).bold(), &status) + " " + &terminal::escape(&checked.path);
    if !facts.is_empty() {
        out += "  ";
        out += &terminal::dim(&facts.join(", "));
    }
    out.push('\n');
    let rows = rows(checked);
    for row in rows.iter().take(LISTED) {
        out += &row.text(width);
    }
    if rows.len() > LISTED {
        let more = format!("and {} more; --format json lists all", rows.len() - LISTED);
        out += &format!("  - {}\n", terminal::dim(&more));
    }
    out
}

/// What was found of one tensor, or one finding about the whole.
struct Place<'f> {
    name: &'f str,
    /// Equal for tensors whose findings read alike.
    kind: String,
    findings: Vec<&'f Finding>,
}

/// Findings that share a row.
struct Row<'f> {
    name: String,
    /// Of each tensor in it.
    findings: Vec<Vec<&'f Finding>>,
}

/// What was found by tensor, folded by the pattern of their names and by what it is.
fn rows(checked: &Checked) -> Vec<Row<'_>> {
    let key = checked.state_dict.as_deref().unwrap_or_default();
    let mut places: Vec<Place<'_>> = Vec::new();
    for finding in &checked.findings {
        let tensor = finding.tensor.as_deref().map(|name| name.strip_prefix(key).unwrap_or(name));
        let kind = |verdict: Option<Verdict>| verdict.map_or("", Verdict::name);
        let kind = format!("{} {};", finding.rule.id(), kind(finding.verdict));
        match places.last_mut() {
            Some(last) if tensor == Some(last.name) => {
                last.kind += &kind;
                last.findings.push(finding);
            }
            // What is said of the whole is never folded.
            _ => places.push(match tensor {
                Some(name) => Place { name, kind, findings: vec![finding] },
                None => Place { name: "", kind: format!("{kind}{}", places.len()), findings: vec![finding] },
            }),
        }
    }
    let folded = fold::fold(&places, |place| (place.name, place.kind.as_str()));
    folded
        .into_iter()
        .map(|(name, members)| Row {
            name,
            findings: members.iter().map(|place| place.findings.clone()).collect(),
        })
        .collect()
}

impl Row<'_> {
    fn text(&self, width: usize) -> String {
        let first = &self.findings[0];
        let named = first[0].tensor.is_some();
        let mut out = String::new();
        if named {
            let members = match self.findings.len() {
                1 => String::new(),
                several => terminal::dim(&format!("  {}", plural(several, "tensor"))),
            };
            out += &format!("  - {}{members}\n", terminal::escape(&self.name));
        }
        let indent = if named { "      " } else { "  - " };
        let room = width.saturating_sub(indent.len() + 18).max(40);
        for (i, finding) in first.iter().enumerate() {
            let rule = format!("{:<17}", finding.rule.id());
            let style = match finding.severity {
                Severity::Warning => terminal::verdict_style(Some(Verdict::Weak)),
                _ => Style::new(),
            };
            let message = finding.message.clone() + &self.others(i);
            for (i, line) in wrap(&terminal::escape(&message), room).iter().enumerate() {
                let lead = if i == 0 { terminal::paint(style, &rule) } else { " ".repeat(17) };
                let indent = if i == 0 { indent } else { &"      "[..indent.len()] };
                out += &format!("{indent}{lead} {line}\n");
            }
        }
        out
    }

    /// What the other tensors have where the first one has its finding `i`.
    fn others(&self, i: usize) -> String {
        if self.findings.len() == 1 {
            return String::new();
        }
        let all = || self.findings.iter().filter_map(|findings| findings.get(i));
        if all().all(|finding| finding.message == self.findings[0][i].message) {
            return String::new();
        }
        let measured: Vec<f64> = all().filter_map(|finding| finding.measured).collect();
        let low = measured.iter().copied().fold(f64::INFINITY, f64::min);
        let high = measured.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if measured.len() == self.findings.len() && low < high {
            format!(" (the first; all from {} to {})", number(Some(low)), number(Some(high)))
        } else {
            format!(" (the first of {})", self.findings.len())
        }
    }
}

/// `text` in lines of at most `width` characters where its words allow it.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            *line = word.to_string();
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            *line += " ";
            *line += word;
        } else {
            lines.push(word.to_string());
        }
    }
    lines
}
