//! `ckpt report`: one page for any number of checkpoints and runs.

use ckpt_inspect::stored::Stored;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anstyle::Style;
use ckpt_inspect::Options;
use ckpt_inspect::cause::{self, Cause, Explanation, Given};
use ckpt_inspect::run::Run;
use ckpt_reports::cause::findings;
use ckpt_reports::exporter::REPORTS;
use ckpt_reports::records::{self, Recorded};
use ckpt_reports::text::plural;
use ckpt_reports::{Exporter, Report, Training, extent, headline, judged_in_part, worst};

use crate::format::{names, one_of, written};
use crate::load::{self, LoadArgs, LoadOptions, pairs};
use crate::{Failure, exit, paths, terminal};

/// Write a report on checkpoints and runs: which layers died, when, and how std went over steps.
///
/// The HTML page is self-contained. Checkpoints of one folder with the same tensors and different steps are a run,
/// ordered by step; others stand by themselves. Exit code 3 when a file cannot be read or is damaged; the report is
/// still written, and says so.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// Files, folders or glob patterns; or records that `ckpt inspect` wrote as ndjson, json or parquet (the weights
    /// are then not needed).
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Output file; standard output by default.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Output format; by default from the extension of the output file, else html.
    #[arg(long, value_parser = one_of(&REPORTS))]
    format: Option<&'static Exporter<Report>>,
    /// Heading of the report.
    #[arg(long, default_value = "Checkpoint report")]
    title: String,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
    /// Explain in the terminal why each run died, with the evidence, and what to do. With -o, the report is written
    /// as well.
    #[arg(long, conflicts_with = "format")]
    explain: bool,
    #[command(flatten)]
    given: GivenArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// The heading of settings. Each names it: that of a flattened struct holds for what follows it too.
const OPTIMIZER: &str = "Optimizer settings that override those in the files";

/// Settings of the run's optimizer given by the user.
#[derive(clap::Args)]
struct GivenArgs {
    /// Learning rate.
    #[arg(long, help_heading = OPTIMIZER, value_name = "X", value_parser = not_negative)]
    lr: Option<f64>,
    /// Weight decay.
    #[arg(long, help_heading = OPTIMIZER, value_name = "X", value_parser = not_negative)]
    weight_decay: Option<f64>,
    /// How many checkpoint steps make one optimizer step (micro-batches, under gradient accumulation).
    #[arg(long, help_heading = OPTIMIZER, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    accum: Option<u64>,
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("must be a number of 0 or more".into()),
    }
}

/// The metrics next to a run's checkpoints, if a trainer left readable ones.
fn training(run: &Run) -> Option<Training> {
    let folder = Path::new(&run.checkpoints.first()?.path).parent()?;
    let file = folder.join("metrics.jsonl").stored_bytes().ok()?;
    Training::read(std::io::BufReader::new(file)).ok()?
}

/// What is known of the checkpoints at `paths`: of those that are records, what they say.
fn recorded(paths: &[PathBuf], options: &LoadOptions) -> Result<Vec<Recorded>, Failure> {
    let mut all = Vec::new();
    let mut checkpoints = Vec::new();
    for path in paths {
        let matched = paths::matches(path)?;
        if matched.is_empty() {
            // Which is told.
            checkpoints.push(path.clone());
        }
        for matched in matched {
            match records::is_records(&matched) {
                true => all.extend(records::read(&matched)?),
                false => checkpoints.push(matched),
            }
        }
    }
    // A checkpoint that is recorded several times is one. Where it could be read, that is what is known of it.
    let read: HashSet<String> =
        all.iter().filter_map(Recorded::record).map(|record| record.path.clone()).collect();
    let mut seen = HashSet::new();
    all.retain(|recorded| {
        let is_best = recorded.record().is_some() || !read.contains(recorded.path());
        is_best && seen.insert(recorded.path().to_string())
    });
    for recorded in &mut all {
        if let Recorded::Record(record) = recorded {
            ckpt_inspect::judge(record, &options.thresholds);
        }
    }
    if !checkpoints.is_empty() || all.is_empty() {
        let rest = if checkpoints.is_empty() { paths } else { &checkpoints };
        let measured = load::records(rest, options)?.into_iter().map(|(path, record)| match record {
            Ok(record) => Recorded::Record(Box::new(record)),
            Err(error) => Recorded::unreadable(&path, &error),
        });
        let measured: Vec<Recorded> = measured.collect();
        // What is measured now counts, and not what was recorded of it.
        let now: HashSet<&str> = measured.iter().map(Recorded::path).collect();
        all.retain(|recorded| !now.contains(recorded.path()));
        all.extend(measured);
    }
    Ok(all)
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let format = match (args.format, &args.output) {
        (Some(format), _) => format,
        (None, Some(output)) => Exporter::of_path(&REPORTS, output).ok_or_else(|| {
            let output = output.display();
            let names = names(&REPORTS);
            Failure::usage(format!("{output}: no format has this extension; add --format {names}"))
        })?,
        (None, None) => &REPORTS[0],
    };
    if args.output.is_none() && format.page && !args.explain && terminal::is_terminal() {
        return Err(Failure::usage(
            "HTML is not printed to a terminal: give -o report.html, or choose --format md",
        ));
    }
    if let Some(output) = &args.output {
        terminal::may_write(output, args.force)?;
        load::spare([output.as_path()], &args.paths)?;
    }
    let options = args.load.options(Options::default(), args.load.policy()?.thresholds);
    let mut code = exit::FINE;
    let mut readable = Vec::new();
    let mut unreadable = Vec::new();
    for recorded in recorded(&args.paths, &options)? {
        if recorded.is_damaged() {
            code = exit::UNREADABLE;
        }
        match recorded {
            Recorded::Record(record) => readable.push(*record),
            Recorded::Unreadable(gone) => {
                let error = gone.to_error();
                terminal::failure(&error.clone().into());
                unreadable.push((gone.path, error));
            }
            _ => {}
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
        explain_all(&report)?;
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
    tell(&report);
    terminal::note(&format!("wrote {}", terminal::path(output)));
    Ok(code)
}

/// Notes how each run ends, or of many how the worst end; and how many end how.
fn tell(report: &Report) {
    const LISTED: usize = 10;
    let order = worst::runs(&report.runs);
    for &i in order.iter().take(LISTED) {
        let run = &report.runs[i];
        let words = headline(run, &report.explanations[i]);
        let style = terminal::verdict_style(words.verdict).bold();
        let first = words.sentences.first().map(|s| terminal::escape(s)).unwrap_or_default();
        terminal::note(&format!(
            "{}: {}. {first}",
            terminal::escape(run.title()),
            terminal::paint(style, &words.title)
        ));
    }
    if order.len() > LISTED {
        terminal::note(&format!("and {} more", order.len() - LISTED));
        let verdicts = terminal::verdicts(report.runs.iter().map(Run::standing));
        terminal::note(&format!("{}: {verdicts}", extent(&report.runs)));
    }
}

/// Prints why each run died, the worst first; of many, only of those that there is something to explain of.
fn explain_all(report: &Report) -> Result<(), Failure> {
    let order = worst::runs(&report.runs);
    let many = order.len() > terminal::MOST_LISTED;
    let mut well = 0;
    for &i in &order {
        let (run, explanation) = (&report.runs[i], &report.explanations[i]);
        if many && explanation.layers.is_empty() {
            well += 1;
        } else {
            terminal::print(&explained(run, explanation))?;
        }
    }
    if well > 0 {
        let noun = if report.runs.iter().any(Run::is_series) { "run" } else { "model" };
        terminal::print(&format!("{} with nothing to explain\n", plural(well, noun)))?;
    }
    Ok(())
}

/// What happened to `run`, for a terminal.
fn explained(run: &Run, explanation: &Explanation) -> String {
    let plain = Style::new();
    let words = headline(run, explanation);
    let style = terminal::verdict_style(words.verdict).bold();
    let mut out = format!("{}: {}\n", terminal::escape(run.title()), terminal::paint(style, &words.title));
    let findings = findings(run, explanation);
    if findings.is_empty() {
        out += &terminal::wrapped(&words.sentences.join(" "), 2, plain);
        out += &terminal::wrapped("Nothing to explain.", 2, plain);
    }
    let in_part = run.checkpoints.last().and_then(judged_in_part).filter(|_| !findings.is_empty());
    if let Some(in_part) = in_part {
        out += &terminal::wrapped(&in_part, 2, plain);
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
