//! `ckpt report`: one page for any number of checkpoints and runs.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anstyle::Style;
use ckpt_inspect::Options;
use ckpt_inspect::cause::{self, Cause, Explanation, Given};
use ckpt_inspect::run::Run;
use ckpt_reports::cause::findings;
use ckpt_reports::exporter::REPORTS;
use ckpt_reports::{Exporter, Report, Training, headline};

use crate::format::{names, one_of, written};
use crate::load::{self, LoadArgs, pairs, records};
use crate::{Failure, exit, terminal};

/// Write a report on checkpoints and runs: which layers died, when, and how std went over steps.
///
/// The HTML page is self-contained. Checkpoints of one folder are a run, ordered by step. Exit code 3 when a file
/// cannot be read or is damaged; the report is written all the same, and says so.
#[derive(clap::Args)]
pub struct Args {
    /// Files, folders or glob patterns.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Where to write; standard output when not given.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Output format; by default the output file's extension says it, else html.
    #[arg(long, value_parser = one_of(&REPORTS))]
    format: Option<&'static Exporter<Report>>,
    /// Heading of the report.
    #[arg(long, default_value = "Checkpoint report")]
    title: String,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
    /// Say in the terminal what each run died of, with the evidence, and what to do. With -o, the report is written
    /// besides.
    #[arg(long, conflicts_with = "format")]
    explain: bool,
    #[command(flatten)]
    given: GivenArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// What the user knows of the run's optimizer.
#[derive(clap::Args)]
#[command(next_help_heading = "The optimizer, where the files do not say or are wrong")]
struct GivenArgs {
    /// Learning rate.
    #[arg(long, value_name = "X", value_parser = not_negative)]
    lr: Option<f64>,
    /// Weight decay.
    #[arg(long, value_name = "X", value_parser = not_negative)]
    weight_decay: Option<f64>,
    /// Steps, as the checkpoints count them, per step of the optimizer: micro-batches where gradients are accumulated.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    accum: Option<u64>,
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("not a number of 0 or more".into()),
    }
}

/// The metrics beside a run's checkpoints, if a trainer left some there that can be read.
fn training(run: &Run) -> Option<Training> {
    let folder = Path::new(&run.checkpoints.first()?.path).parent()?;
    let file = std::fs::File::open(folder.join("metrics.jsonl")).ok()?;
    Training::read(std::io::BufReader::new(file)).ok()?
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let format = match (args.format, &args.output) {
        (Some(format), _) => format,
        (None, Some(output)) => Exporter::of_path(&REPORTS, output).ok_or_else(|| {
            let output = output.display();
            let names = names(&REPORTS);
            Failure::usage(format!("{output}: its extension tells no format; add --format {names}"))
        })?,
        (None, None) => &REPORTS[0],
    };
    if args.output.is_none() && format.page && !args.explain && std::io::stdout().is_terminal() {
        return Err(Failure::usage("name the page to write: -o report.html (or choose --format md)"));
    }
    if let Some(output) = &args.output {
        terminal::may_write(output, args.force)?;
        load::spare([output.as_path()], &args.paths)?;
    }
    let options = args.load.options(Options::default(), args.load.policy()?.thresholds);
    let mut code = exit::FINE;
    let mut readable = Vec::new();
    let mut unreadable = Vec::new();
    for (path, record) in records(&args.paths, &options)? {
        match record {
            Ok(record) => {
                if record.damaged {
                    code = exit::UNREADABLE;
                }
                readable.push(record);
            }
            Err(error) => {
                code = exit::UNREADABLE;
                terminal::error(&error.to_string());
                unreadable.push((path.display().to_string(), error));
            }
        }
    }
    let runs = Run::group(readable, &options.thresholds);
    let mut given = Given::default();
    (given.lr, given.weight_decay) = (args.given.lr, args.given.weight_decay);
    given.accumulation = args.given.accum;
    let explain = |run: &Run| cause::explain(run, &pairs(run, &options), &given);
    let training = runs.iter().enumerate().filter_map(|(i, run)| Some((i, training(run)?))).collect();
    let explanations = runs.iter().map(explain).collect();
    let mut report = Report::new(&args.title, runs, explanations);
    (report.training, report.unreadable) = (training, unreadable);
    if args.explain {
        for (run, explanation) in report.runs.iter().zip(&report.explanations) {
            terminal::print(&explained(run, explanation))?;
        }
        for (path, why) in &report.unreadable {
            terminal::print(&format!("{}: {}\n", terminal::escape(path), Cause::of_unreadable(why).name()))?;
        }
        if args.output.is_none() {
            return Ok(code);
        }
    }
    let text = written(format, &report)?;
    let Some(output) = &args.output else {
        terminal::print(&text)?;
        return Ok(code);
    };
    terminal::write_file(output, text.as_bytes(), args.force)?;
    const TOLD: usize = 10;
    for run in report.runs.iter().take(TOLD) {
        let words = headline(run);
        let style = terminal::verdict_style(words.verdict).bold();
        let first = words.sentences.first().map(|s| terminal::escape(s)).unwrap_or_default();
        terminal::note(&format!(
            "{}: {}. {first}",
            terminal::escape(&run.name),
            terminal::paint(style, &words.title)
        ));
    }
    if report.runs.len() > TOLD {
        terminal::note(&format!("and {} more runs", report.runs.len() - TOLD));
    }
    terminal::note(&format!("wrote {}", terminal::path(output)));
    Ok(code)
}

/// What became of `run`, for a terminal.
fn explained(run: &Run, explanation: &Explanation) -> String {
    let plain = Style::new();
    let words = headline(run);
    let style = terminal::verdict_style(words.verdict).bold();
    let mut out = format!("{}: {}\n", terminal::escape(&run.name), terminal::paint(style, &words.title));
    let findings = findings(run, explanation);
    if findings.is_empty() {
        out += &terminal::wrapped(&words.sentences.join(" "), 2, plain);
        out += &terminal::wrapped("Nothing to explain.", 2, plain);
    }
    for finding in &findings {
        out += &format!("\n  {}\n", terminal::bold(&finding.title));
        out += &terminal::wrapped(&finding.sentence, 2, plain);
        out += &terminal::wrapped(&finding.those, 2, Style::new().dimmed());
        out.push('\n');
        for (heading, text) in &finding.evidence {
            out += &terminal::labelled_in(heading, EVIDENCE, plain, text);
        }
        for (i, advice) in finding.advice.iter().enumerate() {
            let label = if i == 0 { "what to do" } else { "" };
            out += &terminal::labelled_in(label, EVIDENCE, plain, advice);
        }
    }
    out.push('\n');
    out
}

/// Columns that headings of evidence take.
const EVIDENCE: usize = 18;
