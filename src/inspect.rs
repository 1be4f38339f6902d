//! `ckpt inspect`: the contents of checkpoints, with measurements.

mod answers;
mod journal;
mod options;
mod table;
mod tensor;

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

use anstyle::Style;
use ckpt_inspect::health::measures::{Measure, Place, shown_in};
use ckpt_inspect::record::QuantizationRecord;
use ckpt_inspect::{CheckpointRecord, DType, Group, Options, TensorRecord, Verdict};
use ckpt_reports::reason;
use ckpt_reports::records::Recorded;
use ckpt_reports::table::Rows;
use ckpt_reports::text::plural;
use clap::builder::PossibleValue;

use crate::filter::Matcher;
use crate::format::RowsArg;
use crate::load::{self, LoadArgs, LoadOptions};
use crate::terminal::{self, Table};
use crate::{Failure, exit};
use answers::{Answers, asks_for_several};
use journal::Journal;
use options::{Format, Shard, formats};
use table::tensors;

/// Show what checkpoints contain: format, model, step, verdict and reasons, and their tensors.
///
/// Tensors whose names differ only in a layer number share a row; --all shows each of them.
/// Exit code 3 when a file cannot be read or is damaged.
#[derive(clap::Args)]
pub struct Args {
    /// Files, folders or glob patterns.
    #[arg(required_unless_present = "from_list")]
    paths: Vec<PathBuf>,
    /// Read further paths from a file, one per line (`-`: standard input).
    #[arg(long, value_name = "FILE")]
    from_list: Option<PathBuf>,
    /// Take only part I of N, counted from 1, so that jobs can share the work. A checkpoint's part depends on its
    /// path alone.
    #[arg(long, value_name = "I/N", value_parser = Shard::parse)]
    shard: Option<Shard>,
    /// One row per tensor; with several checkpoints, the tensors of each.
    #[arg(long)]
    all: bool,
    /// Only tensors whose name matches: a glob, or a regular expression between slashes.
    #[arg(long, value_name = "GLOB|/REGEX/")]
    filter: Option<String>,
    /// Only tensors of this group.
    #[arg(long)]
    group: Option<GroupArg>,
    /// Order of the tensors; name, size and verdict also order several checkpoints. Default: order in the file; of
    /// more than 100 rows, only the worst 100.
    #[arg(long)]
    sort: Option<Sort>,
    /// Read only the header: no statistics, no verdict.
    #[arg(long)]
    no_stats: bool,
    /// Show one tensor in detail: statistics, histogram, shares of -1, 0 and +1, dead rows, first values.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["output", "from_list", "shard"])]
    tensor: Option<String>,
    /// Show the tensors of quantized weights as they are stored: codes, scales, zero points.
    #[arg(long)]
    stored: bool,
    /// Check tensor data against the CRC-32 checksums recorded in the file.
    #[arg(long)]
    checksum: bool,
    /// Print the SHA-256 of each tensor's contiguous little-endian bytes.
    #[arg(long)]
    sha256: bool,
    /// Output format [default: human, or by the extension of the output file].
    #[arg(long, value_parser = formats())]
    format: Option<Format>,
    /// Rows of tables [default: tensors for csv, all for parquet].
    #[arg(long)]
    rows: Option<RowsArg>,
    /// Write to a file (ndjson, csv or parquet). It appears when everything is measured; until then results are in
    /// FILE.partial.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Continue an earlier output: checkpoints in FILE or FILE.partial are not measured again, except those that were
    /// unreadable or damaged.
    #[arg(long, requires = "output", conflicts_with = "force")]
    resume: bool,
    /// Replace an output file that exists.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    load: LoadArgs,
}

impl Args {
    /// The rows of a table in `format`.
    fn rows(&self, format: Format) -> Rows {
        match (self.rows, format) {
            (Some(rows), _) => rows.into(),
            (None, Format::Table(table)) if table.is_text => Rows::Tensors,
            _ => Rows::All,
        }
    }

    /// The paths that are given, and those of the list.
    fn paths(&self) -> Result<Vec<PathBuf>, Failure> {
        let Some(list) = &self.from_list else { return Ok(self.paths.clone()) };
        let cannot = |e: std::io::Error| Failure::unreadable(format!("{}: {e}", terminal::path(list)));
        let mut bytes = Vec::new();
        match list.as_os_str() == "-" {
            true => std::io::stdin().read_to_end(&mut bytes).map_err(cannot)?,
            false => File::open(list).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(cannot)?,
        };
        // A byte order mark, which editors of Windows write.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let lines = lines.filter(|line| !line.trim_ascii().is_empty());
        let listed = lines.map(|line| {
            listed_path(line).ok_or_else(|| {
                let shown = String::from_utf8_lossy(line);
                let shown = terminal::escape(&shown);
                Failure::unreadable(format!("{}: `{shown}` is not UTF-8 text", terminal::path(list)))
            })
        });
        self.paths.iter().cloned().map(Ok).chain(listed).collect()
    }
}

/// The path that a line of a list names: any bytes where names of files are such.
#[cfg(unix)]
fn listed_path(line: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    Some(std::ffi::OsStr::from_bytes(line).into())
}

#[cfg(not(unix))]
fn listed_path(line: &[u8]) -> Option<PathBuf> {
    std::str::from_utf8(line).ok().map(PathBuf::from)
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
    let mut options = LoadOptions { checksum: args.checksum, ..options };
    options.open.stored = args.stored;
    if let Some(name) = &args.tensor {
        return tensor::run(args, name, &options);
    }
    let format = Format::of(args)?;
    let rows = args.rows(format);
    let is_binary = matches!(format, Format::Table(table) if !table.is_text);
    if is_binary && args.output.is_none() && terminal::is_terminal() {
        return Err(Failure::usage("Parquet is not printed to a terminal: give -o tensors.parquet"));
    }
    let paths = args.paths()?;
    if let Some(output) = &args.output {
        load::spare([output.as_path()], &paths)?;
    }
    let mut found = load::expand(&paths)?;
    let mut journal = match &args.output {
        Some(output) => Some(Journal::begin(output, args.resume, args.force)?),
        None => None,
    };
    if let Some(journal) = &mut journal {
        journal.leave_out_what_became(&paths, &found);
    }
    if let Some(shard) = args.shard {
        found.retain(|found| shard.has(found.as_ref().unwrap_or_else(|(path, _)| path)));
    }
    let several = args.from_list.is_some() || asks_for_several(&paths, &found);
    let alone = found.len() == 1;
    let mut kept = 0;
    if let Some(journal) = &journal {
        found.retain(|found| !journal.has(found.as_ref().unwrap_or_else(|(path, _)| path)));
        kept = journal.kept(&found);
    }
    let count = found.len();
    let answers = Mutex::new(Answers::new(format, rows, several));
    let told = |answer: Recorded| match &journal {
        Some(journal) => journal.add(&answer),
        None => answers.lock().expect("nothing panics while it is held").add(answer),
    };
    let taken = load::each(found, &options, |(path, record)| -> Result<Shown, Failure> {
        let (mut summary, mut held, mut damaged, mut failure) = (String::new(), 0, true, None);
        let answer = match record {
            Ok(mut record) => {
                if matches!(format, Format::Human) {
                    summary = self::summary(&record, args);
                }
                (held, damaged) = (record.tensors.len(), record.is_unreadable());
                select(&mut record.tensors, args, matcher.as_ref());
                Recorded::Record(Box::new(record))
            }
            Err(error) => {
                let answer = Recorded::unreadable(&path, &error);
                failure = Some(error.into());
                answer
            }
        };
        // What is written at once need not be kept.
        let answer = match format {
            Format::Ndjson => told(answer).map(|()| None)?,
            _ if journal.is_some() => told(answer).map(|()| None)?,
            _ => Some(answer),
        };
        Ok(Shown { summary, held, damaged, failure, answer })
    })?;
    let mut shown = taken.into_iter().collect::<Result<Vec<Shown>, Failure>>()?;
    for failure in shown.iter().filter_map(|s| s.failure.as_ref()) {
        terminal::failure(failure);
    }
    let code = |damaged| if damaged { exit::UNREADABLE } else { exit::FINE };
    if let (Some(journal), Some(output)) = (&journal, &args.output) {
        let damaged = journal.end(format, rows, args.force || args.resume)?;
        let before = if kept > 0 {
            format!(", {kept} of them earlier (with the options of that run)")
        } else {
            String::new()
        };
        let all = plural(count + kept, "checkpoint");
        terminal::note(&format!("wrote {} with {all}{before}", terminal::path(output)));
        return Ok(code(damaged));
    }
    let code = code(shown.iter().any(|s| s.damaged));
    if let Some(sort) = args.sort {
        order(&mut shown, sort);
    }
    let text = match format {
        Format::Human if alone || args.all => {
            let each = shown.iter().filter_map(|s| Some(s.summary.clone() + &tensors(s, s.record()?, args)));
            each.collect::<Vec<_>>().join("\n")
        }
        Format::Human => overview(&mut shown, args.sort.is_none()),
        _ => String::new(),
    };
    terminal::print(&text)?;
    for answer in shown.into_iter().filter_map(|s| s.answer) {
        told(answer)?;
    }
    answers.into_inner().expect("nothing panics while it is held").end()?;
    Ok(code)
}

/// What is shown of a checkpoint, and facts about the whole.
struct Shown {
    summary: String,
    held: usize,
    /// Whether it is, or cannot be read.
    damaged: bool,
    failure: Option<Failure>,
    /// With only the tensors to be shown; `None` once it has been written.
    answer: Option<Recorded>,
}

impl Shown {
    fn record(&self) -> Option<&CheckpointRecord> {
        self.answer.as_ref()?.record()
    }
}

/// Sorts checkpoints, those that cannot be read with the worst.
fn order(shown: &mut [Shown], sort: Sort) {
    let path = |s: &Shown| s.answer.as_ref().map(|answer| answer.path().to_string());
    match sort {
        Sort::File | Sort::Measure(_) => {}
        Sort::Name => shown.sort_by_key(path),
        Sort::Size => shown.sort_by_key(|s| std::cmp::Reverse(s.record().map_or(0, |r| r.file_bytes))),
        Sort::Verdict => shown.sort_by_key(|s| {
            std::cmp::Reverse((s.failure.is_some(), s.record().and_then(CheckpointRecord::standing)))
        }),
    }
}

fn select(tensors: &mut Vec<TensorRecord>, args: &Args, matcher: Option<&Matcher>) {
    tensors
        .retain(|t| matcher.is_none_or(|m| m.matches(&t.name)) && args.group.is_none_or(|g| g.is(t.group)));
    match args.sort.unwrap_or(Sort::File) {
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

/// One line per checkpoint, and one why it is not healthy; then how many there are of each verdict. Of very many the worst,
/// if the list `may_be_cut`.
fn overview(shown: &mut [Shown], may_be_cut: bool) -> String {
    let is_cut = may_be_cut && shown.len() > terminal::MOST_LISTED;
    if is_cut {
        order(shown, Sort::Verdict);
    }
    let columns = [
        ("checkpoint", false),
        ("format", false),
        ("step", true),
        ("parameters", true),
        ("size", true),
        ("verdict", false),
    ];
    let mut table = Table::new(&columns, &["format", "size", "parameters"]);
    let records: Vec<&CheckpointRecord> = shown.iter().filter_map(Shown::record).collect();
    if records.is_empty() {
        return String::new();
    }
    let listed = if is_cut { &records[..records.len().min(terminal::MOST_LISTED)] } else { &records };
    for record in listed {
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
    let table = table.render(terminal::width());
    let mut lines = table.lines();
    let mut out = lines.next().unwrap_or_default().to_string() + "\n";
    for (line, record) in lines.zip(listed) {
        out += line;
        out.push('\n');
        if let Some(reason) = reason(record) {
            out += &terminal::wrapped(&reason, 4, Style::new().dimmed());
        }
    }
    if listed.len() < records.len() {
        let more = records.len() - listed.len();
        out += &terminal::dim(&format!("and {more} more, none of them worse; --sort file lists all"));
        out.push('\n');
    }
    out += &terminal::wrapped(&totals(shown, &records), 0, Style::new());
    out + &terminal::dim("give a single checkpoint, or add --all, to see tensors") + "\n"
}

/// `12 checkpoints, 13.7 MB, 1.68 M parameters: 8 healthy, 4 weak; 1 unreadable`.
fn totals(shown: &[Shown], records: &[&CheckpointRecord]) -> String {
    let bytes = records.iter().fold(0, |sum: u64, r| sum.saturating_add(r.file_bytes));
    let parameters = records.iter().fold(0, |sum: u64, r| sum.saturating_add(r.parameters));
    let unreadable = match shown.len() - records.len() {
        0 => String::new(),
        some => format!("; {some} unreadable"),
    };
    format!(
        "{}, {}, {} parameters: {}{unreadable}",
        plural(records.len(), "checkpoint"),
        terminal::bytes(bytes),
        terminal::count(parameters),
        terminal::verdicts(records.iter().map(|r| r.verdict))
    )
}

/// What the file is, its verdict and the reasons. `record` must contain all its tensors, even those that are not shown.
fn summary(record: &CheckpointRecord, args: &Args) -> String {
    let why_not_judged = match &record.tensors {
        none if none.is_empty() => "it contains no tensors",
        _ if args.no_stats => "--no-stats reads the header only",
        _ if record.coverage.layers_unjudged => {
            "its layers are not read, and embeddings and heads say too little"
        }
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
    if !record.components.is_empty() {
        line("models", plain, &models(&record.components));
    }
    if let Some(step) = record.step {
        let source = record.step_source.as_ref().map_or("?".into(), ToString::to_string);
        line("step", plain, &format!("{step}, from {source}"));
    }
    for key in ["loss", "epoch"] {
        if let Some(value) = record.metadata.get(key).filter(|v| v.is_number()) {
            let short = value.as_f64().filter(|_| value.is_f64()).map(|v| terminal::number(Some(v)));
            line(key, plain, &short.unwrap_or(value.to_string()));
        }
    }
    if let Some(quantization) = &record.quantization {
        line("quantized", plain, &quantized(quantization));
    }
    match record.verdict {
        Some(verdict) => line("verdict", terminal::verdict_style(Some(verdict)).bold(), verdict.name()),
        None => line("verdict", plain.dimmed(), &format!("not judged: {why_not_judged}")),
    }
    if record.verdict.is_some() || record.coverage.layers_unjudged && !args.no_stats {
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

/// The folders of the models that a checkpoint consists of.
fn models(components: &[String]) -> String {
    let shown = |name: &String| match name.as_str() {
        "" => "that of the folder itself".to_string(),
        name => terminal::escape(name),
    };
    components.iter().map(shown).collect::<Vec<_>>().join(", ")
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
    if record.averaged_parameters > 0 {
        parts.push("and a moving average of them".into());
    }
    parts.join(", ")
}

/// `gptq 4-bit g128, 224 weights; 2 matrices are not: lm_head.weight and 1 more`.
fn quantized(record: &QuantizationRecord) -> String {
    let kind = |(kind, count): &(DType, u64)| {
        format!("{kind}, {}", plural(usize::try_from(*count).unwrap_or(usize::MAX), "weight"))
    };
    let mut parts: Vec<String> = record.kinds.iter().map(kind).collect();
    let others = if parts.is_empty() { "" } else { "others " };
    parts.extend(
        record.unread.as_ref().map(|name| format!("{others}{}, which is not read", terminal::escape(name))),
    );
    let (first, more) = match record.left.as_slice() {
        [] => return parts.join("; "),
        [first] => (first, String::new()),
        [first, others @ ..] => (first, format!(" and {} more", others.len())),
    };
    let are = match record.left.len() {
        1 => "1 matrix is not".to_string(),
        n => format!("{n} matrices are not"),
    };
    parts.push(format!("{are}: {}{more}", terminal::escape(first)));
    parts.join("; ")
}
