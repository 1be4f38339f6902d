//! `ckpt diff`: what differs between two checkpoints.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use anstyle::Style;
use ckpt_inspect::diff::{Diff, Options, RowOrder, Side, Status, TensorDiff, ValueChange, diff};
use ckpt_inspect::meaning::role;
use ckpt_inspect::{Checkpoint, Group, I2sLayout, OpenOptions, TensorInfo, Verdict};

use crate::filter::Matcher;
use crate::format::Plain as Format;
use crate::terminal::{self, Table};
use crate::{Failure, capture, exit, fold};

/// Compare two checkpoints: tensors added, removed, reshaped, retyped and changed, and by how much.
///
/// Values are compared as numbers, whatever format they are packed in. Config, optimizer settings and other metadata
/// are compared too. Exit code 0 when nothing differs, 1 when something does, 3 when a file cannot be read or is
/// damaged.
#[derive(clap::Args)]
pub struct Args {
    /// The first checkpoint: a file, or a folder that holds one.
    a: PathBuf,
    /// The second checkpoint.
    b: PathBuf,
    /// Only tensors whose name matches: a glob, or a regular expression between slashes.
    #[arg(long, value_name = "GLOB|/REGEX/")]
    filter: Option<String>,
    /// Only tensors of this group; without it, all.
    #[arg(long)]
    group: Option<crate::inspect::GroupArg>,
    /// List every tensor in a row of its own, unchanged ones too.
    #[arg(long)]
    all: bool,
    /// Largest difference of an element that still counts as equal.
    #[arg(long, value_name = "X", default_value = "0", value_parser = tolerance)]
    tolerance: f64,
    /// Compare only the network's values; dtypes, config, other metadata and training state may differ.
    #[arg(long)]
    values_only: bool,
    /// Layout of I2_S tensors (bitnet.cpp's ternary type), which GGUF files do not record: x86, arm or rows.
    #[arg(long, value_name = "LAYOUT")]
    i2s_layout: Option<I2sLayout>,
    /// Output format.
    #[arg(long, default_value = "human")]
    format: Format,
}

fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x >= 0.0 && x.is_finite() => Ok(x),
        _ => Err("must be a number of 0 or more, such as 1e-6".into()),
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let matcher = args.filter.as_deref().map(Matcher::new).transpose()?;
    let open = OpenOptions::i2s(args.i2s_layout);
    let open = |path| -> Result<_, Failure> {
        let mut checkpoint = ckpt_inspect::open_with(path, &open)?;
        checkpoint.verify_checksums();
        Ok(checkpoint)
    };
    let (a, b) = (open(&args.a)?, open(&args.b)?);
    // What callbacks and loops keep is no value of the network, and nor is what an optimizer does.
    let beside: HashSet<String> = match args.values_only {
        true => [&a, &b].into_iter().flat_map(|checkpoint| role::of_trainers(&checkpoint.tensors)).collect(),
        false => HashSet::new(),
    };
    let select = |t: &TensorInfo| {
        matcher.as_ref().is_none_or(|m| m.matches(&t.name))
            && args.group.is_none_or(|g| g.is(t.group))
            && !(args.values_only && args.group.is_none() && t.group == Group::Optimizer)
            && !beside.contains(&t.name)
    };
    if let Some(filter) = &args.filter
        && !a.tensors.iter().chain(&b.tensors).any(select)
    {
        let of = if args.group.is_some() { " of this group" } else { "" };
        return Err(Failure::usage(format!("no tensor's name{of} matches `{}`", filter.escape_debug())));
    }
    let bytes =
        a.tensors.iter().chain(&b.tensors).filter(|t| select(t)).filter_map(TensorInfo::byte_len).sum();
    let progress = terminal::progress(bytes, "comparing");
    let watch = |bytes: u64| {
        progress.done(bytes);
        !capture::is_stopped()
    };
    let mut options = Options::default();
    (options.canonical, options.rows) = (&canonical, &rows_in_order);
    (options.select, options.tolerance) = (&select, args.tolerance);
    let mut found = diff(&a, &b, options, &watch).ok_or_else(capture::interrupted)?;
    progress.clear();
    if args.values_only {
        found.settings.clear();
        found.metadata.clear();
    }
    // Where only tensors are asked about and there are none, nothing agrees.
    let is_nothing = found.tensors.is_empty() && (args.values_only || args.group.is_some());
    let differs =
        is_nothing || if args.values_only { !found.has_same_values() } else { found.is_different() };
    let text = match args.format {
        Format::Json => json(&found, args.all, differs)?,
        Format::Human => human(&found, args),
    };
    terminal::print(&text)?;
    Ok(if found.a.damaged || found.b.damaged || found.count(Status::Unreadable) > 0 {
        exit::UNREADABLE
    } else if differs {
        exit::REFUSED
    } else {
        exit::FINE
    })
}

/// The name of a tensor that is the same in every format, so that a checkpoint is matched with its copy in another one.
pub fn canonical(name: &str) -> String {
    ckpt_inspect::meaning::names::canonical(name).into_owned()
}

/// The order in which rows of `tensor` are compared, where its format has another.
pub fn rows_in_order(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Option<RowOrder> {
    let rotary = ckpt_convert::row_order(checkpoint, tensor)?;
    Some(Arc::new(move |row| rotary.source_row(row)))
}

/// `differs` also where something could not be compared.
fn json(diff: &Diff, all: bool, differs: bool) -> Result<String, Failure> {
    let broken = |e: serde_json::Error| Failure::unwritable(format!("standard output: {e}"));
    let mut value = serde_json::to_value(diff).map_err(broken)?;
    value["differs"] = differs.into();
    if let Some(tensors) = value["tensors"].as_array_mut() {
        for (tensor, found) in tensors.iter_mut().zip(&diff.tensors) {
            if let Some(values) = &found.values {
                tensor["values"]["equal_share"] = values.equal_share().into();
            }
            if let Some(codes) = &found.ternary {
                tensor["ternary"]["agreement"] = codes.agreement().into();
            }
        }
        let mut found = diff.tensors.iter();
        tensors.retain(|_| found.next().is_some_and(|t| all || t.status != Status::Same));
    }
    value["same"] = diff.count(Status::Same).into();
    serde_json::to_string_pretty(&value)
        .map(|text| ckpt_inspect::printable_json(&text) + "\n")
        .map_err(broken)
}

fn human(diff: &Diff, args: &Args) -> String {
    let mut out = format!("{}\n{}\n\n", about("A", &diff.a), about("B", &diff.b));
    let counts: Vec<String> = ORDER
        .iter()
        .filter(|(status, _)| diff.count(*status) > 0)
        .map(|(status, words)| {
            let n = diff.count(*status);
            format!("{n} {}", if *status == Status::Same { "the same" } else { words })
        })
        .collect();
    let numbers = if counts.is_empty() { "no tensors".into() } else { counts.join(", ") };
    out += &format!("{} {numbers}\n", terminal::bold("tensors"));
    for (status, title) in ORDER {
        let members: Vec<&TensorDiff> = diff.tensors.iter().filter(|t| t.status == status).collect();
        if members.is_empty() || (status == Status::Same && !args.all) {
            continue;
        }
        out += &format!("\n{}\n", terminal::bold(title));
        out += &match status {
            Status::Changed => changes(&members, args.all),
            Status::Unreadable => members.iter().map(|t| unreadable(t)).collect(),
            _ => listing(&members, args.all),
        };
    }
    for (title, values) in [("optimizer settings", &diff.settings), ("other plain values", &diff.metadata)] {
        if !values.is_empty() {
            out += &format!("\n{}\n{}", terminal::bold(title), plain_values(values));
        }
    }
    out
}

const ORDER: [(Status, &str); 7] = [
    (Status::Unreadable, "not comparable"),
    (Status::Removed, "only in A"),
    (Status::Added, "only in B"),
    (Status::Reshaped, "reshaped"),
    (Status::Retyped, "retyped, values the same"),
    (Status::Changed, "changed"),
    (Status::Same, "the same"),
];

fn about(letter: &str, side: &Side) -> String {
    let mut facts = vec![side.format.to_string(), terminal::bytes(side.file_bytes)];
    facts.extend(side.step.map(|step| format!("step {step}")));
    if side.damaged {
        facts.push(terminal::paint(terminal::verdict_style(Some(Verdict::Corrupt)), "damaged"));
    }
    format!(
        "{} {}  {}",
        terminal::bold(letter),
        terminal::escape(&side.path),
        terminal::dim(&facts.join(", "))
    )
}

/// The rows of a table: one per tensor, or one for all tensors whose names differ only in numbers.
fn rows<'t>(members: &[&'t TensorDiff], all: bool) -> Vec<(String, Vec<&'t TensorDiff>)> {
    if all {
        return members.iter().map(|t| (t.name.clone(), vec![*t])).collect();
    }
    fold::fold(members, |t| (t.name.as_str(), ""))
        .into_iter()
        .map(|(name, members)| (name, members.into_iter().copied().collect()))
        .collect()
}

fn changes(members: &[&TensorDiff], all: bool) -> String {
    let columns = [
        ("tensor", false),
        ("change", true),
        ("relative", true),
        ("cosine", true),
        ("largest", true),
        ("equal", true),
        ("codes flipped", true),
    ];
    let mut table = Table::new(&columns, &["change", "equal", "largest"]);
    for (name, members) in rows(members, all) {
        let of = |get: fn(&TensorDiff) -> Option<f64>, show: fn(f64) -> String| range(&members, get, show);
        let number = |x: f64| terminal::number(Some(x));
        let mut name = terminal::escape(&name);
        let first = members[0];
        if let (Some(a), Some(b)) = (&first.a, &first.b)
            && a.dtype != b.dtype
        {
            name += &format!(" ({} → {})", a.dtype, b.dtype);
        }
        let cells = [
            name,
            of(|t| t.values.as_ref()?.norm_change, number),
            of(|t| t.values.as_ref()?.relative_change, number),
            of(|t| t.values.as_ref()?.cosine, |x| format!("{x:.4}")),
            of(|t| t.values.as_ref()?.max_difference, number),
            of(|t| Some(t.values.as_ref()?.equal_share()), percent),
            of(|t| Some(1.0 - t.ternary.as_ref()?.agreement()), percent),
        ];
        table.row(cells.into_iter().map(|text| (text, Style::new())).collect());
    }
    let notes: String = members.iter().filter(|t| t.note.is_some()).map(|t| unreadable(t)).collect();
    table.render(terminal::width()) + &notes
}

fn percent(share: f64) -> String {
    match 100.0 * share {
        p if p > 0.0 && p < 0.1 => "< 0.1 %".into(),
        p if p < 100.0 && p > 99.9 => "> 99.9 %".into(),
        p => format!("{p:.1} %"),
    }
}

/// `0.012`, or `0.012..0.045` over the members.
fn range(members: &[&TensorDiff], get: fn(&TensorDiff) -> Option<f64>, show: fn(f64) -> String) -> String {
    let values: Vec<f64> = members.iter().filter_map(|t| get(t)).collect();
    let low = show(values.iter().copied().fold(f64::INFINITY, f64::min));
    let high = show(values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    match values.as_slice() {
        [] => "-".into(),
        _ if low == high => low,
        _ if high.starts_with('<') => high,
        _ => format!("{}..{high}", low.trim_end_matches(" %")),
    }
}

fn unreadable(tensor: &TensorDiff) -> String {
    let why = tensor.note.as_deref().unwrap_or("its values cannot be read");
    format!("{}: {}\n", terminal::escape(&tensor.name), terminal::escape(why))
}

/// Names with dtype and shape, and the earlier ones.
fn listing(members: &[&TensorDiff], all: bool) -> String {
    let mut table = Table::new(&[("tensor", false), ("count", true), ("A", false), ("B", false)], &["count"]);
    for (name, members) in rows(members, all) {
        let side = |get: fn(&TensorDiff) -> Option<String>| {
            let mut forms: Vec<String> = members.iter().filter_map(|t| get(t)).collect();
            forms.dedup();
            match forms.as_slice() {
                [] => "-".into(),
                [one] => one.clone(),
                _ => "various".into(),
            }
        };
        let cells = [
            terminal::escape(&name),
            members.len().to_string(),
            side(|t| Some(form(t.a.as_ref()?))),
            side(|t| Some(form(t.b.as_ref()?))),
        ];
        table.row(cells.into_iter().map(|text| (text, Style::new())).collect());
    }
    table.render(terminal::width())
}

fn form(side: &ckpt_inspect::diff::TensorSide) -> String {
    let group = match side.group {
        Group::Weights => String::new(),
        other => format!(", {}", other.name()),
    };
    format!("{} {}{group}", side.dtype, ckpt_reports::text::shape(&side.shape))
}

fn plain_values(changes: &[ValueChange]) -> String {
    let mut table = Table::new(&[("value", false), ("A", false), ("B", false)], &[]);
    for change in changes {
        let cells = [terminal::escape(&change.path), value(change.a.as_ref()), value(change.b.as_ref())];
        table.row(cells.into_iter().map(|text| (text, Style::new())).collect());
    }
    table.render(terminal::width())
}

/// A value on one line: collections by their size.
fn value(value: Option<&serde_json::Value>) -> String {
    const LONGEST: usize = 40;
    match value {
        None => "-".into(),
        Some(serde_json::Value::Object(entries)) => format!("{{{} entries}}", entries.len()),
        Some(serde_json::Value::Array(items)) if items.len() > 4 => format!("[{} values]", items.len()),
        Some(other) => terminal::shorten(&terminal::escape(&other.to_string()), LONGEST),
    }
}
