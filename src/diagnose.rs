//! `ckpt diagnose`: the three-step diagnosis of a code model.

use std::path::Path;

use anstyle::Style;
use ckpt_infer::diagnose::{self, Check, Diagnosis, StepName};
use ckpt_infer::{Model, Pool, Tokenizer};
use ckpt_inspect::{CheckpointRecord, Verdict};
use ckpt_reports::Exporter;
use ckpt_reports::junit::{self, Case};

use crate::format::{Format, human_or, written};
use crate::generate::{TokenizerArgs, at_least_one};
use crate::load::LoadArgs;
use crate::model::ModelArgs;
use crate::signal::Signal;
use crate::{Failure, exit, terminal};

/// Diagnose a code model in three steps: syntax, logic, weights.
///
/// Syntax: given the beginnings of Python programs, most greedy completions must parse, without collapse or gibberish.
/// Logic: the model must reverse a list with a loop, slicing or reversed(). Weights: every verdict of `ckpt inspect`
/// must be healthy. Exit code 1 when a step fails.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    #[command(flatten)]
    load: LoadArgs,
    /// Maximum number of tokens of a completion.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    max_tokens: usize,
    /// Show what the model wrote.
    #[arg(long)]
    all: bool,
    /// Output format.
    #[arg(long, default_value = "human", value_parser = human_or(&FORMATS))]
    format: Format<Diagnosed>,
}

/// A diagnosis, and the path of the model.
struct Diagnosed {
    path: String,
    diagnosis: Diagnosis,
}

/// A diagnosis's formats for machines.
static FORMATS: [Exporter<Diagnosed>; 2] = [
    Exporter::new("json", |diagnosed, _| json(diagnosed)),
    Exporter::new("junit", |diagnosed: &Diagnosed, _| Ok(xml(&diagnosed.diagnosis)))
        .with_summary("JUnit XML with a test suite per step"),
];

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let thresholds = args.load.policy()?.thresholds;
    let pool = args.model.pool();
    let (checkpoint, model) = args.model.open(&pool)?;
    let tokenizer = args.tokenizer.open(&checkpoint, &model)?;
    let describe = ckpt_inspect::Options::default().with(|o| o.histogram = false);
    let mut record = ckpt_inspect::describe(&checkpoint, describe, &|_| ());
    ckpt_inspect::judge(&mut record, &thresholds);
    let signal = Signal::listen()?;
    let mut options = diagnose::Options::default();
    options.max_tokens = args.max_tokens;
    let diagnosis =
        diagnose::diagnose(&model, &pool, &tokenizer, &record, &options, &mut |_, _| !signal.arrived());
    let diagnosis = diagnosis.map_err(|e| signal.explain(e.into()))?;
    let diagnosed = Diagnosed { path: record.path, diagnosis };
    let text = match args.format {
        Format::Human => human(&diagnosed.diagnosis, args.all),
        Format::Written(format) => written(format, &diagnosed)?,
    };
    terminal::print(&text)?;
    Ok(if diagnosed.diagnosis.passed { exit::FINE } else { exit::REFUSED })
}

/// The gate's findings on the checkpoint at `path`: the steps that the model's output failed, or why it cannot be run.
pub fn findings(path: &Path, tokenizer: Option<&Path>, record: &CheckpointRecord) -> Vec<String> {
    match diagnosed(path, tokenizer, record) {
        Err(failure) => vec![format!("cannot be diagnosed: {}", failure.message)],
        Ok(diagnosis) => {
            let failed = diagnosis.steps.iter().filter(|step| !step.passed && step.name != StepName::Weights);
            failed.map(|step| format!("{}: {}", step.name, step.summary)).collect()
        }
    }
}

fn diagnosed(path: &Path, tokenizer: Option<&Path>, record: &CheckpointRecord) -> Result<Diagnosis, Failure> {
    let pool = Pool::new(std::thread::available_parallelism().map_or(1, usize::from));
    let checkpoint = ckpt_inspect::open(path)?;
    let model = Model::load(&checkpoint, &Default::default(), &pool)?;
    crate::model::tell_average(&checkpoint);
    let tokenizer = TokenizerArgs { tokenizer: tokenizer.map(Path::to_path_buf) };
    let tokenizer: Tokenizer = tokenizer.open(&checkpoint, &model)?;
    Ok(diagnose::diagnose(&model, &pool, &tokenizer, record, &diagnose::Options::default(), &mut |_, _| {
        true
    })?)
}

fn json(diagnosed: &Diagnosed) -> Result<String, ckpt_reports::Error> {
    let failed = |e| ckpt_reports::Error::Format(format!("JSON: {e}"));
    let mut value = serde_json::to_value(&diagnosed.diagnosis).map_err(failed)?;
    value["path"] = diagnosed.path.as_str().into();
    Ok(terminal::json(&value))
}

fn xml(diagnosis: &Diagnosis) -> String {
    let case = |check: &Check| {
        let details = match &check.completion {
            Some(text) => check.subject.clone() + text,
            None => check.evidence.clone(),
        };
        let failure = (!check.passed).then(|| check.evidence.clone());
        Case::new(title(&check.subject), failure, details)
    };
    let suites: Vec<(String, Vec<Case>)> = diagnosis
        .steps
        .iter()
        .map(|step| {
            // The case is the step's verdict: one bad completion does not fail the first step.
            let details: String =
                step.checks.iter().map(|c| format!("{}: {}\n", title(&c.subject), c.evidence)).collect();
            let verdict = Case::new("verdict", (!step.passed).then(|| step.summary.clone()), details);
            let checks = if step.name == StepName::Syntax {
                Vec::new()
            } else {
                step.checks.iter().map(case).collect()
            };
            (step.name.to_string(), [vec![verdict], checks].concat())
        })
        .collect();
    junit::report("ckpt diagnose", &suites)
}

/// A prompt in one line.
fn title(subject: &str) -> String {
    let mut lines = subject.lines();
    let first = lines.next().unwrap_or_default().to_string();
    if lines.next().is_some() { first + " …" } else { first }
}

fn human(diagnosis: &Diagnosis, all: bool) -> String {
    let style =
        |passed: bool| terminal::verdict_style(Some(if passed { Verdict::Healthy } else { Verdict::Dead }));
    let word = |passed: bool| if passed { "passed" } else { "failed" };
    let mut out = String::new();
    for step in &diagnosis.steps {
        let verdict = terminal::paint(style(step.passed).bold(), word(step.passed));
        out += &format!("{:<9}{verdict}  {}\n", step.name, terminal::escape(&step.summary));
        if step.name == StepName::Logic && !all {
            continue;
        }
        for check in &step.checks {
            let mark = if check.passed { "+" } else { "-" };
            let subject = terminal::escape(&terminal::shorten(&title(&check.subject), 34));
            let line = format!("  {mark} {subject:<34}  {}", terminal::escape(&check.evidence));
            let line_style = if check.passed { Style::new() } else { style(false) };
            out += &terminal::paint(line_style, &line);
            out.push('\n');
            if let Some(text) = check.completion.as_ref().filter(|_| all) {
                let written = format!("{}{text}", check.subject);
                written.lines().for_each(|line| {
                    out += &format!("      {}\n", terminal::dim(&terminal::escape(line)));
                });
            }
        }
    }
    out
}
