//! `ckpt inspect`: the contents of checkpoints, with measurements.

use std::path::PathBuf;
use std::sync::LazyLock;

use anstyle::Style;
use ckpt_inspect::health::measures::{Form, MEASURES, Measure, Part, Place, Value, shown_in};
use ckpt_inspect::record::Histogram;
use ckpt_inspect::{
    Checkpoint, CheckpointRecord, DType, Group, Options, TensorRecord, Verdict, without_state_dict,
};
use clap::builder::PossibleValue;

use crate::filter::Matcher;
use crate::fold;
use crate::format::Plain as Format;
use crate::load::{LoadArgs, LoadOptions, records};
use crate::terminal::{self, Table};
use crate::{Failure, exit};

/// Show what checkpoints contain: format, model, step, verdict and reasons, and their tensors.
///
/// Tensors whose names differ only in a layer number share a row; --all shows each of them.
/// Exit code 3 when a file cannot be read or is damaged.
#[derive(clap::Args)]
pub struct Args {
    /// Files, folders or glob patterns.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// One row per tensor; with several checkpoints, the tensors of each.
    #[arg(long)]
    all: bool,
    /// Only tensors whose name matches: a glob, or a regular expression between slashes.
    #[arg(long, value_name = "GLOB|/REGEX/")]
    filter: Option<String>,
    /// Only tensors of this group.
    #[arg(long)]
    group: Option<GroupArg>,
    /// Order of the tensors.
    #[arg(long, default_value = "file")]
    sort: Sort,
    /// Read only the header: no statistics, no verdict.
    #[arg(long)]
    no_stats: bool,
    /// Show one tensor in detail: statistics, histogram, shares of -1, 0 and +1, dead rows, first values.
    #[arg(long, value_name = "NAME")]
    tensor: Option<String>,
    /// Check tensor data against the CRC-32 checksums recorded in the file.
    #[arg(long)]
    checksum: bool,
    /// Print the SHA-256 of each tensor's contiguous little-endian bytes.
    #[arg(long)]
    sha256: bool,
    /// Output format.
    #[arg(long, default_value = "human")]
    format: Format,
    #[command(flatten)]
    load: LoadArgs,
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

#[derive(Clone, Copy, PartialEq)]
enum Sort {
    File,
    Name,
    Size,
    Measure(&'static Measure),
    Verdict,
}

impl clap::ValueEnum for Sort {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<Sort>> = LazyLock::new(|| {
            let measures = shown_in(Place::Layers).map(Sort::Measure);
            [Sort::File, Sort::Name, Sort::Size].into_iter().chain(measures).chain([Sort::Verdict]).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Sort::File => PossibleValue::new("file").help("Order in the file"),
            Sort::Name => PossibleValue::new("name"),
            Sort::Size => PossibleValue::new("size").help("Largest first"),
            Sort::Measure(measure) => {
                PossibleValue::new(measure.key).help(format!("Smallest {} first", measure.heading))
            }
            Sort::Verdict => PossibleValue::new("verdict").help("Worst first"),
        })
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let matcher = args.filter.as_deref().map(Matcher::new).transpose()?;
    let mut describe = Options::default();
    (describe.stats, describe.histogram, describe.sha256) = (!args.no_stats, !args.no_stats, args.sha256);
    let options = args.load.options(describe, args.load.policy()?.thresholds);
    let options = LoadOptions { checksum: args.checksum, ..options };
    if let Some(name) = &args.tensor {
        return one_tensor(args, name, &options);
    }
    let mut code = exit::FINE;
    let mut shown = Vec::new();
    let loaded = records(&args.paths, &options)?;
    let alone = loaded.len() == 1;
    for (_, record) in loaded {
        match record {
            Ok(mut record) => {
                if record.damaged {
                    code = exit::UNREADABLE;
                }
                let summary =
                    if args.format == Format::Human { summary(&record, args) } else { String::new() };
                let held = record.tensors.len();
                select(&mut record.tensors, args, matcher.as_ref());
                shown.push(Shown { summary, held, record });
            }
            Err(error) => {
                terminal::error(&error.to_string());
                code = exit::UNREADABLE;
            }
        }
    }
    let text = match (args.format, shown.as_slice()) {
        (Format::Json, []) if alone => String::new(),
        (Format::Json, [one]) if alone => json(&one.record)?,
        (Format::Json, many) => json(&many.iter().map(|s| &s.record).collect::<Vec<_>>())?,
        (Format::Human, []) => String::new(),
        (Format::Human, many) if alone || args.all => {
            many.iter().map(|s| s.summary.clone() + &tensors(s, args)).collect::<Vec<_>>().join("\n")
        }
        (Format::Human, many) => overview(many),
    };
    terminal::print(&text)?;
    Ok(code)
}

/// A record with only the tensors to be shown, and facts about the whole record.
struct Shown {
    summary: String,
    held: usize,
    record: CheckpointRecord,
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| ckpt_inspect::printable_json(&text) + "\n")
        .map_err(|e| Failure::unwritable(format!("standard output: {e}")))
}

fn select(tensors: &mut Vec<TensorRecord>, args: &Args, matcher: Option<&Matcher>) {
    tensors
        .retain(|t| matcher.is_none_or(|m| m.matches(&t.name)) && args.group.is_none_or(|g| g.is(t.group)));
    match args.sort {
        Sort::File => {}
        Sort::Name => tensors.sort_by(|a, b| a.name.cmp(&b.name)),
        Sort::Size => tensors.sort_by_key(|t| std::cmp::Reverse(t.bytes)),
        Sort::Measure(measure) => {
            let value = |t: &TensorRecord| measure.real(t).unwrap_or(f64::INFINITY);
            tensors.sort_by(|a, b| value(a).total_cmp(&value(b)));
        }
        Sort::Verdict => tensors.sort_by_key(|t| std::cmp::Reverse(t.verdict)),
    }
}

/// One line per checkpoint.
fn overview(shown: &[Shown]) -> String {
    let columns = [
        ("checkpoint", false),
        ("format", false),
        ("step", true),
        ("parameters", true),
        ("size", true),
        ("verdict", false),
    ];
    let mut table = Table::new(&columns, &["format", "size", "parameters"]);
    for Shown { record, .. } in shown {
        let verdict = record.verdict;
        let plain = |text: String| (text, Style::new());
        table.row(vec![
            plain(terminal::escape(&record.path)),
            plain(record.format.name() + if record.damaged { " (damaged)" } else { "" }),
            plain(record.step.map_or("-".into(), |s| s.to_string())),
            plain(terminal::count(record.parameters)),
            plain(terminal::bytes(record.file_bytes)),
            (verdict.map_or("not judged", Verdict::name).to_string(), terminal::verdict_style(verdict)),
        ]);
    }
    table.render(terminal::width())
        + &terminal::dim("give a single checkpoint, or add --all, to see tensors")
        + "\n"
}

/// What the file is, its verdict and the reasons. `record` must contain all its tensors, even those that are not shown.
fn summary(record: &CheckpointRecord, args: &Args) -> String {
    let why_not_judged = match &record.tensors {
        none if none.is_empty() => "it contains no tensors",
        _ if args.no_stats => "--no-stats reads the header only",
        _ => "it has no weight matrices that can be measured",
    };
    let mut out = terminal::bold(&terminal::escape(&record.path)) + "\n";
    let plain = Style::new();
    let mut line = |label: &str, style: Style, text: &str| out += &terminal::labelled(label, style, text);
    let files = if record.damaged { " (damaged)" } else { "" };
    line("format", plain, &format!("{}, {}{files}", record.format, terminal::bytes(record.file_bytes)));
    line("model", plain, &model(record));
    for assumed in &record.model.assumed {
        line("", plain.dimmed(), assumed);
    }
    if let Some(step) = record.step {
        line("step", plain, &format!("{step}, from {}", record.step_source.as_deref().unwrap_or("?")));
    }
    for key in ["loss", "epoch"] {
        if let Some(value) = record.metadata.get(key).filter(|v| v.is_number()) {
            let short = value.as_f64().filter(|_| value.is_f64()).map(|v| terminal::number(Some(v)));
            line(key, plain, &short.unwrap_or(value.to_string()));
        }
    }
    match record.verdict {
        Some(verdict) => line("verdict", terminal::verdict_style(Some(verdict)).bold(), verdict.name()),
        None => line("verdict", plain.dimmed(), &format!("not judged: {why_not_judged}")),
    }
    if record.verdict.is_some() && !record.coverage.is_whole() {
        line("judged", plain, &terminal::escape(&record.coverage.to_string()));
    }
    for reason in &record.reasons {
        line("", plain, reason);
    }
    for text in &record.warnings {
        line("warning", terminal::verdict_style(Some(Verdict::Weak)), text);
    }
    out
}

fn model(record: &CheckpointRecord) -> String {
    let config = |key: &str| record.model.config.get(key).map(|v| v.to_string());
    let mut parts = vec![terminal::escape(&record.model.architecture)];
    if record.model.is_student() {
        for (key, label, plural) in [
            ("num_layers", "layer", "s"),
            ("hidden_dim", "hidden", ""),
            ("mlp_hidden_dim", "mlp", ""),
            ("num_heads", "head", "s"),
            ("num_kv_heads", "KV head", "s"),
            ("vocab_size", "vocabulary", ""),
        ] {
            let plural = |value: &str| if value == "1" { "" } else { plural };
            parts.extend(config(key).map(|value| format!("{value} {label}{}", plural(&value))));
        }
    }
    if record.parameters > 0 {
        parts.push(format!("{} parameters", terminal::count(record.parameters)));
    }
    parts.join(", ")
}

fn tensors(shown: &Shown, args: &Args) -> String {
    let Shown { record, held, .. } = shown;
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
        out += &shared(&members);
    }
    if record.tensors.is_empty() && *held > 0 {
        out += &format!("\nno match among {}\n", ckpt_reports::text::plural(*held, "tensor"));
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
}

fn fold<'r>(members: &[&'r TensorRecord]) -> Vec<Row<'r>> {
    fold::fold(members, |t| (t.name.as_str(), t.dtype.name()))
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
        if let Sort::Measure(measure) = args.sort
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
        let worst = row.members.iter().filter_map(|t| t.verdict).max();
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
                [one] => one.sha256.clone().unwrap_or("-".into()),
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

/// `model_state_dict.` if all names begin with it; for optimizers the first key, if it is common to all.
fn common_prefix(members: &[&TensorRecord]) -> String {
    let Some(first) = members.first() else { return String::new() };
    let prefix = match first.name.split_once('.') {
        Some((key, _)) if first.group == Group::Optimizer => format!("{key}."),
        _ => first.name[..first.name.len() - without_state_dict(&first.name).len()].to_string(),
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
    let alone = paths.len() == 1;
    let mut text = String::new();
    let mut code = exit::FINE;
    let mut found = Vec::new();
    for path in paths {
        let examined = match path {
            Ok(path) => examine(&path, name, args, options),
            Err((_, error)) => Err(error.into()),
        };
        match examined {
            Ok((checkpoint, record)) => {
                if record.tensors[0].damage.is_some() {
                    code = exit::UNREADABLE;
                }
                if args.format == Format::Human {
                    text += &detail(&checkpoint, &record.tensors[0]);
                }
                found.push(record);
            }
            Err(failure) => {
                terminal::error(&failure.message);
                code = code.max(failure.code);
            }
        }
    }
    if args.format == Format::Json {
        text = match found.as_slice() {
            [] if alone => String::new(),
            [one] if alone => json(one)?,
            many => json(many)?,
        };
    }
    terminal::print(&text)?;
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
    if let Some(sha256) = &tensor.sha256 {
        line("sha256", sha256.clone());
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
