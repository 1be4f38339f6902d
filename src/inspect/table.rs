//! The tables of tensors that `ckpt inspect` shows: a row for each tensor, or for those whose names differ in numbers.

use anstyle::Style;
use ckpt_inspect::health::measures::{MEASURES, Measure, Place, shown_in};
use ckpt_inspect::{CheckpointRecord, Group, TensorRecord, Verdict};
use ckpt_reports::text::plural;

use super::{Args, Shown, Sort};
use crate::fold;
use crate::terminal::{self, Table};

/// The tables of the tensors, one for each group.
pub(super) fn tensors(shown: &Shown, record: &CheckpointRecord, args: &Args) -> String {
    let held = shown.held;
    let mut out = String::new();
    for (group, title) in
        [(Group::Weights, "weights"), (Group::Optimizer, "optimizer"), (Group::Other, "other tensors")]
    {
        let members: Vec<&TensorRecord> = record.tensors.iter().filter(|t| t.group == group).collect();
        if members.is_empty() {
            continue;
        }
        let bytes = total(&members);
        let plural = if members.len() == 1 { "tensor" } else { "tensors" };
        let prefix = common_prefix(record, &members);
        let place = match prefix.strip_suffix('.') {
            Some(key) => format!(" in {}", terminal::escape(key)),
            None => String::new(),
        };
        let size = format!("{} {plural}, {}{place}", members.len(), terminal::bytes(bytes));
        out += &format!("\n{}  {}\n", terminal::bold(title), terminal::dim(&size));
        // Sorting by a measure only makes sense for single tensors.
        let mut rows: Vec<Row> = if args.all || args.sort.is_some_and(|sort| sort != Sort::File) {
            members.iter().map(|t| Row::new(t.name.clone(), vec![t])).collect()
        } else {
            fold(&members)
        };
        let may_be_cut = !args.all && args.sort.is_none();
        let more = if may_be_cut { rows.len().saturating_sub(terminal::MOST_LISTED) } else { 0 };
        if more > 0 {
            rows.sort_by_key(|row| std::cmp::Reverse(row.worst()));
            rows.truncate(terminal::MOST_LISTED);
        }
        out += &table(&rows, args, &prefix);
        if more > 0 {
            out += &terminal::dim(&format!("and {more} more, none of them worse; --sort file lists all"));
            out.push('\n');
        }
        out += &shared(&members);
    }
    if record.tensors.is_empty() && held > 0 {
        out += &format!("\nno match among {}\n", plural(held, "tensor"));
    }
    out
}

/// Which of `members` lie on the same storage as others: tied weights and views.
fn shared(members: &[&TensorRecord]) -> String {
    const SHOWN: usize = 4;
    let mut listed: std::collections::HashSet<&str> = Default::default();
    let mut lines = Vec::new();
    for tensor in members.iter().filter(|t| !t.shared_with.is_empty()) {
        if listed.insert(&tensor.name) {
            listed.extend(tensor.shared_with.iter().map(String::as_str));
            let others: Vec<&str> = tensor.shared_with.iter().map(String::as_str).collect();
            lines.push(format!("{} shares its storage with {}", tensor.name, others.join(", ")));
        }
    }
    let more = lines.len().saturating_sub(SHOWN);
    lines.truncate(SHOWN);
    if more > 0 {
        lines.push(format!("and {more} more share storage"));
    }
    lines.iter().map(|line| terminal::wrapped(line, 0, Style::new().dimmed())).collect()
}

/// One row: tensors whose names differ only in numbers.
struct Row<'r> {
    name: String,
    members: Vec<&'r TensorRecord>,
}

impl<'r> Row<'r> {
    fn new(name: String, members: Vec<&'r TensorRecord>) -> Self {
        Row { name, members }
    }

    /// The worst verdict among them.
    fn worst(&self) -> Option<Verdict> {
        self.members.iter().filter_map(|t| t.verdict).max()
    }
}

fn fold<'r>(members: &[&'r TensorRecord]) -> Vec<Row<'r>> {
    fold::fold(members, |t| (t.name.as_str(), t.dtype))
        .into_iter()
        .map(|(name, members)| Row::new(name, members.into_iter().copied().collect()))
        .collect()
}

/// Bytes of all; saturates, because a damaged header may claim any size.
fn total(members: &[&TensorRecord]) -> u64 {
    members.iter().fold(0, |sum, t| sum.saturating_add(t.bytes))
}

fn table(rows: &[Row<'_>], args: &Args, prefix: &str) -> String {
    let mut columns = vec![Column::Name, Column::Dtype, Column::Shape, Column::Size];
    if rows.iter().any(|row| row.members.len() > 1) {
        columns.insert(1, Column::Count);
    }
    if !args.no_stats {
        columns.extend(Column::measures());
        // The column that they are sorted by must be visible.
        if let Some(Sort::Measure(measure)) = args.sort
            && !Column::measures().any(|c| matches!(c, Column::Measure(listed) if listed.key == measure.key))
        {
            columns.push(Column::Measure(measure));
        }
    }
    if rows.iter().flat_map(|row| &row.members).any(|t| t.verdict.is_some()) {
        columns.push(Column::Verdict);
    }
    if args.sha256 {
        columns.push(Column::Sha256);
    }
    let headings: Vec<(&str, bool)> = columns.iter().map(|c| (c.heading(), c.is_number())).collect();
    let in_place = |place| shown_in(place).map(|m| m.heading);
    let expendable: Vec<&str> =
        in_place(Place::Wide).chain(["size", "count"]).chain(in_place(Place::List)).collect();
    let mut table = Table::new(&headings, &expendable);
    for row in rows {
        let first = row.members[0];
        let worst = row.worst();
        let damaged = row.members.iter().any(|t| t.damage.is_some());
        let name = row.name.strip_prefix(prefix).unwrap_or(&row.name);
        let cell = |column: &Column| match column {
            Column::Name if name.is_empty() => "(the root)".into(),
            Column::Name => terminal::escape(name),
            Column::Count => row.members.len().to_string(),
            Column::Dtype => first.dtype.to_string(),
            Column::Shape => shapes(&row.members),
            Column::Size => terminal::bytes(total(&row.members)),
            Column::Measure(measure) => range(&row.members, |t| measure.real(t)),
            Column::Verdict => match worst {
                Some(verdict) => verdict.name().into(),
                None if damaged => "damaged".into(),
                None => "-".into(),
            },
            Column::Sha256 => match row.members.as_slice() {
                [one] => one.sha256.as_deref().unwrap_or("-").to_string(),
                _ => "(--all)".into(),
            },
        };
        let style = |column: &Column| match column {
            Column::Verdict => terminal::verdict_style(worst),
            _ => Style::new(),
        };
        table.row(columns.iter().map(|column| (cell(column), style(column))).collect());
    }
    table.render(terminal::width())
}

/// A column of the table of tensors.
enum Column {
    Name,
    Count,
    Dtype,
    Shape,
    Size,
    Measure(&'static Measure),
    Verdict,
    Sha256,
}

impl Column {
    /// Columns of measures.
    fn measures() -> impl Iterator<Item = Column> {
        let is_listed = |m: &&Measure| [Place::Wide, Place::Narrow, Place::List].iter().any(|p| m.is_in(*p));
        MEASURES.iter().filter(is_listed).map(Column::Measure)
    }

    fn heading(&self) -> &'static str {
        match self {
            Column::Name => "name",
            Column::Count => "count",
            Column::Dtype => "dtype",
            Column::Shape => "shape",
            Column::Size => "size",
            Column::Measure(measure) => measure.heading,
            Column::Verdict => "verdict",
            Column::Sha256 => "sha256",
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Column::Count | Column::Size | Column::Measure(_))
    }
}

/// The key of the state dict that all were saved in, as `model_state_dict.`; for optimizers their first key.
fn common_prefix(record: &CheckpointRecord, members: &[&TensorRecord]) -> String {
    let Some(first) = members.first() else { return String::new() };
    let is_dict = |key: &str| record.metadata.get(key).is_some_and(serde_json::Value::is_object);
    let prefix = match first.name.split_once('.') {
        Some((key, _)) if first.group == Group::Optimizer && is_dict(key) => format!("{key}."),
        _ => first.name[..first.name.len() - record.own_name(&first.name).len()].to_string(),
    };
    if members.iter().all(|t| t.name.starts_with(&prefix)) { prefix } else { String::new() }
}

fn shapes(members: &[&TensorRecord]) -> String {
    if members.iter().all(|t| t.shape == members[0].shape) {
        shape(&members[0].shape)
    } else {
        "various".into()
    }
}

pub(super) fn shape(sizes: &[u64]) -> String {
    let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

/// `0.012` or `0.012..0.045` over the members.
fn range(members: &[&TensorRecord], value: impl Fn(&TensorRecord) -> Option<f64>) -> String {
    let values: Vec<f64> = members.iter().filter_map(|t| value(t)).collect();
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match values.as_slice() {
        [] => "-".into(),
        _ if low == high => terminal::number(Some(low)),
        _ => format!("{}..{}", terminal::number(Some(low)), terminal::number(Some(high))),
    }
}
