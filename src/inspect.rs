//! `ckpt inspect`: what is in checkpoints, and how it measures.

use std::path::PathBuf;

use anstyle::Style;
use ckpt_inspect::record::{Group, Histogram, Stats};
use ckpt_inspect::{Checkpoint, CheckpointRecord, Options, TensorRecord, Verdict, without_state_dict};

use crate::filter::Matcher;
use crate::fold;
use crate::load::{LoadOptions, records};
use crate::terminal::{self, Table};
use crate::{Failure, exit};

/// Show what checkpoints hold: format, model, step, verdict and why, and their tensors.
///
/// Tensors of the same name but for a layer number are folded into one row; --all shows every one.
/// Exit code 3 when a file cannot be read or is damaged.
#[derive(clap::Args)]
pub struct Args {
    /// Files, folders or glob patterns.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// One row per tensor, nothing folded; for several checkpoints, the tensors of each.
    #[arg(long)]
    all: bool,
    /// Only tensors whose name matches: a glob, or a regular expression between slashes.
    #[arg(long, value_name = "GLOB|/REGEX/")]
    filter: Option<String>,
    /// Only tensors of this group.
    #[arg(long)]
    group: Option<GroupArg>,
    /// Order of the rows.
    #[arg(long, default_value = "file")]
    sort: Sort,
    /// Read the header only: no statistics, no verdict.
    #[arg(long)]
    no_stats: bool,
    /// One tensor in detail: values, histogram, ternary occupancy, dead rows.
    #[arg(long, value_name = "NAME")]
    tensor: Option<String>,
    /// Compare storages with the CRC-32 that the file records.
    #[arg(long)]
    checksum: bool,
    /// SHA-256 of each tensor's contiguous little-endian bytes.
    #[arg(long)]
    sha256: bool,
    /// Measure again even when the file has not changed.
    #[arg(long)]
    no_cache: bool,
    /// Output format.
    #[arg(long, default_value = "human")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
pub enum GroupArg {
    /// Parameters and buffers.
    Weights,
    /// Moments and counters of an optimizer.
    Optimizer,
    /// Anything else.
    Other,
}

impl GroupArg {
    /// Whether `group` is meant.
    pub fn is(self, group: Group) -> bool {
        match self {
            GroupArg::Weights => group == Group::Weights,
            GroupArg::Optimizer => group == Group::Optimizer,
            GroupArg::Other => group == Group::Other,
        }
    }
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Sort {
    /// As in the file.
    File,
    Name,
    /// Largest first.
    Size,
    /// Smallest standard deviation first.
    Std,
    /// Worst first.
    Verdict,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    Human,
    Json,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let matcher = args.filter.as_deref().map(Matcher::new).transpose()?;
    let options = LoadOptions {
        describe: Options { stats: !args.no_stats, histogram: !args.no_stats, sha256: args.sha256 },
        checksum: args.checksum,
        cache: !args.no_cache,
        ..LoadOptions::default()
    };
    if let Some(name) = &args.tensor {
        return one_tensor(args, name, &options);
    }
    let mut code = exit::FINE;
    let mut shown = Vec::new();
    for (_, record) in records(&args.paths, &options)? {
        match record {
            Ok(mut record) => {
                if record.damaged {
                    code = exit::UNREADABLE;
                }
                select(&mut record.tensors, args, matcher.as_ref());
                shown.push(record);
            }
            Err(error) => {
                terminal::error(&error.to_string());
                code = exit::UNREADABLE;
            }
        }
    }
    let text = match (args.format, shown.as_slice()) {
        (_, []) => String::new(),
        (Format::Json, [one]) if args.paths.len() == 1 => json(one)?,
        (Format::Json, many) => json(many)?,
        (Format::Human, [one]) => summary(one) + &tensors(one, args),
        (Format::Human, many) if args.all => {
            many.iter().map(|r| summary(r) + &tensors(r, args)).collect::<Vec<_>>().join("\n")
        }
        (Format::Human, many) => overview(many),
    };
    terminal::print(&text)?;
    Ok(code)
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|e| Failure::unwritable(format!("standard output: {e}")))
}

fn select(tensors: &mut Vec<TensorRecord>, args: &Args, matcher: Option<&Matcher>) {
    tensors
        .retain(|t| matcher.is_none_or(|m| m.matches(&t.name)) && args.group.is_none_or(|g| g.is(t.group)));
    let std = |t: &TensorRecord| t.stats.as_ref().and_then(|s| s.std).unwrap_or(f64::INFINITY);
    match args.sort {
        Sort::File => {}
        Sort::Name => tensors.sort_by(|a, b| a.name.cmp(&b.name)),
        Sort::Size => tensors.sort_by_key(|t| std::cmp::Reverse(t.bytes)),
        Sort::Std => tensors.sort_by(|a, b| std(a).total_cmp(&std(b))),
        Sort::Verdict => tensors.sort_by_key(|t| std::cmp::Reverse(t.verdict)),
    }
}

/// One line per checkpoint.
fn overview(records: &[CheckpointRecord]) -> String {
    let columns = [
        ("checkpoint", false),
        ("format", false),
        ("step", true),
        ("parameters", true),
        ("size", true),
        ("verdict", false),
    ];
    let mut table = Table::new(&columns, &["format", "size", "parameters"]);
    for record in records {
        let verdict = record.verdict;
        let plain = |text: String| (text, Style::new());
        table.row(vec![
            plain(terminal::escape(&record.path)),
            plain(record.format.clone() + if record.damaged { " (damaged)" } else { "" }),
            plain(record.step.map_or("-".into(), |s| s.to_string())),
            plain(terminal::count(record.parameters)),
            plain(terminal::bytes(record.file_bytes)),
            (verdict.map_or("not judged", Verdict::name).to_string(), terminal::verdict_style(verdict)),
        ]);
    }
    table.render(terminal::width())
        + &terminal::dim("name one checkpoint, or add --all, to see tensors")
        + "\n"
}

fn summary(record: &CheckpointRecord) -> String {
    let mut out = terminal::bold(&terminal::escape(&record.path)) + "\n";
    let mut line = |label: &str, text: &str| out += &format!("  {label:<11} {text}\n");
    line("format", &format!("{}, {}", record.format, terminal::bytes(record.file_bytes)));
    line("model", &model(record));
    for assumed in &record.model.assumed {
        line("", &terminal::dim(assumed));
    }
    if let Some(step) = record.step {
        let source = record.step_source.as_deref().unwrap_or("?");
        line("step", &format!("{step} {}", terminal::dim(&format!("(from {})", terminal::escape(source)))));
    }
    for key in ["loss", "epoch"] {
        if let Some(value) = record.metadata.get(key).filter(|v| v.is_number()) {
            line(key, &value.to_string());
        }
    }
    let judged = record.tensors.iter().any(|t| t.stats.is_some() || t.damage.is_some());
    match record.verdict {
        Some(verdict) => {
            let style = terminal::verdict_style(Some(verdict)).bold();
            line("verdict", &terminal::paint(style, verdict.name()));
        }
        None if judged => line("verdict", &terminal::dim("not judged: no weight matrices")),
        None => line("verdict", &terminal::dim("not judged: header only")),
    }
    for reason in &record.reasons {
        line("", &terminal::escape(reason));
    }
    let warning = terminal::verdict_style(Some(Verdict::Weak));
    for text in &record.warnings {
        line("warning", &terminal::paint(warning, &terminal::escape(text)));
    }
    out
}

fn model(record: &CheckpointRecord) -> String {
    let config = |key: &str| record.model.config.get(key).map(|v| v.to_string());
    let mut parts = vec![terminal::escape(&record.model.architecture)];
    if record.model.architecture == "bitnet-student" {
        for (key, label) in [
            ("num_layers", "layers"),
            ("hidden_dim", "hidden"),
            ("mlp_hidden_dim", "mlp"),
            ("num_heads", "heads"),
            ("num_kv_heads", "KV heads"),
            ("vocab_size", "vocabulary"),
        ] {
            parts.extend(config(key).map(|value| format!("{value} {label}")));
        }
    }
    if record.parameters > 0 {
        parts.push(format!("{} parameters", terminal::count(record.parameters)));
    }
    parts.join(", ")
}

fn tensors(record: &CheckpointRecord, args: &Args) -> String {
    let mut out = String::new();
    for (group, title) in
        [(Group::Weights, "weights"), (Group::Optimizer, "optimizer"), (Group::Other, "other tensors")]
    {
        let members: Vec<&TensorRecord> = record.tensors.iter().filter(|t| t.group == group).collect();
        if members.is_empty() {
            continue;
        }
        let bytes: u64 = members.iter().map(|t| t.bytes).sum();
        let plural = if members.len() == 1 { "tensor" } else { "tensors" };
        let prefix = common_prefix(&members);
        let place = match prefix.strip_suffix('.') {
            Some(key) => format!(" in {}", terminal::escape(key)),
            None => String::new(),
        };
        let size = format!("{} {plural}, {}{place}", members.len(), terminal::bytes(bytes));
        out += &format!("\n{}  {}\n", terminal::bold(title), terminal::dim(&size));
        // Sorting by a measure only makes sense for single tensors.
        let rows: Vec<Row> = if args.all || args.sort != Sort::File {
            members.iter().map(|t| Row::new(t.name.clone(), vec![t])).collect()
        } else {
            fold(&members)
        };
        out += &table(&rows, args, &prefix);
    }
    if record.tensors.is_empty() {
        out += "\nno tensors match\n";
    }
    out
}

/// One line: tensors whose names differ in numbers only.
struct Row<'r> {
    name: String,
    members: Vec<&'r TensorRecord>,
}

impl<'r> Row<'r> {
    fn new(name: String, members: Vec<&'r TensorRecord>) -> Self {
        Row { name, members }
    }
}

fn fold<'r>(members: &[&'r TensorRecord]) -> Vec<Row<'r>> {
    fold::fold(members, |t| (t.name.as_str(), t.dtype.as_str()))
        .into_iter()
        .map(|(name, members)| Row::new(name, members.into_iter().copied().collect()))
        .collect()
}

fn table(rows: &[Row<'_>], args: &Args, prefix: &str) -> String {
    let mut columns = vec![("name", false), ("dtype", false), ("shape", false), ("size", true)];
    if rows.iter().any(|row| row.members.len() > 1) {
        columns.insert(1, ("count", true));
    }
    if !args.no_stats {
        columns.extend([("mean", true), ("std", true), ("zero", true), ("verdict", false)]);
    }
    if args.sha256 {
        columns.push(("sha256", false));
    }
    let mut table = Table::new(&columns, &["mean", "size", "count", "zero"]);
    for row in rows {
        let first = row.members[0];
        let worst = row.members.iter().filter_map(|t| t.verdict).max();
        let damaged = row.members.iter().any(|t| t.damage.is_some());
        let name = row.name.strip_prefix(prefix).unwrap_or(&row.name);
        let cell = |heading: &str| match heading {
            "name" if name.is_empty() => "(the root)".into(),
            "name" => terminal::escape(name),
            "count" => row.members.len().to_string(),
            "dtype" => first.dtype.clone(),
            "shape" => shapes(&row.members),
            "size" => terminal::bytes(row.members.iter().map(|t| t.bytes).sum()),
            "mean" => range(&row.members, |t| t.stats.as_ref()?.mean),
            "std" => range(&row.members, |t| t.stats.as_ref()?.std),
            "zero" => range(&row.members, zero_share),
            "verdict" => match worst {
                Some(verdict) => verdict.name().into(),
                None if damaged => "damaged".into(),
                None => "-".into(),
            },
            _ => match row.members.as_slice() {
                [one] => one.sha256.clone().unwrap_or("-".into()),
                _ => "(--all)".into(),
            },
        };
        let style = |heading: &str| match heading {
            "verdict" => terminal::verdict_style(worst),
            _ => Style::new(),
        };
        table.row(columns.iter().map(|(heading, _)| (cell(heading), style(heading))).collect());
    }
    table.render(terminal::width())
}

/// `model_state_dict.` when all names begin so.
fn common_prefix(members: &[&TensorRecord]) -> String {
    let first = members.first().map_or("", |t| t.name.as_str());
    let short = without_state_dict(first);
    let prefix = &first[..first.len() - short.len()];
    if members.iter().all(|t| t.name.starts_with(prefix)) { prefix.to_string() } else { String::new() }
}

fn zero_share(tensor: &TensorRecord) -> Option<f64> {
    match (&tensor.ternary, &tensor.stats) {
        (Some(ternary), _) => Some(ternary.zero),
        (None, Some(stats)) if stats.count > 0 => Some(stats.zeros as f64 / stats.count as f64),
        _ => None,
    }
}

fn shapes(members: &[&TensorRecord]) -> String {
    if members.iter().all(|t| t.shape == members[0].shape) {
        shape(&members[0].shape)
    } else {
        "various".into()
    }
}

fn shape(sizes: &[u64]) -> String {
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

fn one_tensor(args: &Args, name: &str, options: &LoadOptions) -> Result<u8, Failure> {
    let paths = crate::load::expand(&args.paths)?;
    let mut text = String::new();
    let mut code = exit::FINE;
    let mut found = Vec::new();
    for path in &paths {
        let mut checkpoint = ckpt_inspect::open(path)?;
        if args.checksum {
            checkpoint.verify_checksums();
        }
        let wanted = full_name(&checkpoint, name);
        checkpoint.tensor(&wanted)?;
        checkpoint.tensors.retain(|t| t.name == wanted);
        let mut record = ckpt_inspect::describe(&checkpoint, options.describe, &|_| ());
        ckpt_inspect::judge(&mut record, &options.thresholds);
        if record.tensors[0].damage.is_some() {
            code = exit::UNREADABLE;
        }
        if args.format == Format::Human {
            text += &detail(&checkpoint, &record.tensors[0]);
        }
        found.push(record);
    }
    if args.format == Format::Json {
        text = match found.as_slice() {
            [one] => json(one)?,
            many => json(many)?,
        };
    }
    terminal::print(&text)?;
    Ok(code)
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
    let mut line = |label: &str, text: String| out += &format!("  {label:<11} {text}\n");
    line("dtype", tensor.dtype.clone());
    line("shape", shape(&tensor.shape));
    line("strides", shape(&tensor.strides));
    line("size", terminal::bytes(tensor.bytes));
    if !tensor.shared_with.is_empty() {
        line("shares with", terminal::escape(&tensor.shared_with.join(", ")));
    }
    if let Some(sha256) = &tensor.sha256 {
        line("sha256", sha256.clone());
    }
    if let Some(damage) = &tensor.damage {
        line(
            "damaged",
            terminal::paint(terminal::verdict_style(Some(Verdict::Corrupt)), &terminal::escape(damage)),
        );
    }
    if let Some(verdict) = tensor.verdict {
        let reason =
            tensor.reason.as_deref().map(|r| format!(": {}", terminal::escape(r))).unwrap_or_default();
        line("verdict", terminal::paint(terminal::verdict_style(Some(verdict)), verdict.name()) + &reason);
    }
    if let Some(stats) = &tensor.stats {
        for (label, value) in [
            ("mean", stats.mean),
            ("std", stats.std),
            ("min", stats.min),
            ("max", stats.max),
            ("mean |w|", stats.abs_mean),
            ("max |w|", stats.abs_max),
        ] {
            line(label, terminal::number(value));
        }
        line("zeros", share(stats.zeros, stats));
        line("NaN, Inf", format!("{}, {}", stats.nan, stats.inf));
    }
    if let Some(ternary) = &tensor.ternary {
        let bar = |label: &str, share: f64| {
            format!("{label:>2} {:5.1} %  {}", 100.0 * share, "█".repeat((share * 40.0).round() as usize))
        };
        line("ternary", bar("-1", ternary.neg));
        line("", bar("0", ternary.zero));
        line("", bar("+1", ternary.pos));
        line("entropy", format!("{:.3} bits of 1.585", ternary.entropy_bits));
        line("scale", ternary.scale.map_or("lost".into(), |s| terminal::number(Some(s))));
        line("dead rows", format!("{} of {}", ternary.dead_rows, tensor.shape[0]));
        line("dead cols", format!("{} of {}", ternary.dead_cols, tensor.shape[1..].iter().product::<u64>()));
    }
    if let Some(histogram) = tensor.stats.as_ref().and_then(|s| s.histogram.as_ref()) {
        out += &draw(histogram);
    }
    out + &preview(checkpoint, tensor)
}

fn share(part: u64, stats: &Stats) -> String {
    format!("{part} ({:.2} %)", 100.0 * part as f64 / stats.count.max(1) as f64)
}

fn draw(histogram: &Histogram) -> String {
    let most = histogram.counts.iter().copied().max().unwrap_or(0).max(1);
    let mut out = String::from("  |w| by powers of two\n");
    for (i, &count) in histogram.counts.iter().enumerate() {
        let low = (f64::from(histogram.first) + i as f64).exp2();
        let width = (40.0 * count as f64 / most as f64).ceil() as usize;
        out += &format!("  {:>9} {:<40} {count}\n", terminal::number(Some(low)), "█".repeat(width));
    }
    out
}

/// The first values of the first rows.
fn preview(checkpoint: &Checkpoint, record: &TensorRecord) -> String {
    const ROWS: usize = 4;
    const COLS: usize = 8;
    let Some(tensor) = checkpoint.tensors.first().filter(|t| t.numel() > 0 && record.damage.is_none()) else {
        return String::new();
    };
    let Ok(values) = checkpoint.values(tensor) else { return String::new() };
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let mut out = String::from("  values\n");
    for row in values.chunks(cols).take(ROWS) {
        let cells: Vec<String> =
            row.iter().take(COLS).map(|&v| format!("{:>10}", terminal::number(Some(v.into())))).collect();
        out += &format!("  {}{}\n", cells.join(" "), if cols > COLS { " …" } else { "" });
    }
    if values.len() / cols.max(1) > ROWS {
        out += "  …\n";
    }
    out
}
