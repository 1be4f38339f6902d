//! `ckpt gate`: refuse checkpoints that are not good enough.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anstyle::Style;
use ckpt_inspect::{CheckpointRecord, Options, Verdict, without_state_dict};
use ckpt_reports::Policy;
use ckpt_reports::exporter::GATES;
#[cfg(feature = "diagnose")]
use ckpt_reports::gate::Rule;
use ckpt_reports::gate::{self, Checked, Finding, Outcome, Severity, Status};
use ckpt_reports::policy::{Pattern, Scope, check_factor, check_share};

#[cfg(feature = "diagnose")]
use crate::diagnose;
use crate::format::{Format, human_or, written};
use crate::load::{self, LoadArgs, LoadOptions, records};
use crate::{Failure, exit, terminal};

/// Refuse checkpoints that are not good enough: for CI, pre-commit hooks and scripts.
///
/// By default every weight must be healthy or untrained (zero as initialised by design), nothing may be missing or corrupt,
/// and every recorded checksum must match. A ./ckpt.toml changes that, and options override both.
/// Exit codes: 0 all pass; 1 some are refused; 2 wrong usage or policy; 3 some cannot be read or are damaged;
/// 4 a report cannot be written.
#[derive(clap::Args)]
pub struct Args {
    /// Files, folders or glob patterns.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The worst verdict that a tensor may have.
    #[arg(long, value_name = "VERDICT")]
    allow: Option<Allow>,
    /// Which weights decide: all of them, or only those of ternary layers and those called *_proj.
    #[arg(long, value_name = "SCOPE")]
    scope: Option<ScopeArg>,
    /// Refuse untrained weights: zero as initialised by design, such as the B factors of a new adapter.
    #[arg(long)]
    require_trained: bool,
    /// Smallest share of the judged tensors that must be healthy; weak ones pass then, unless --allow says otherwise.
    #[arg(long, value_name = "0..1", value_parser = share)]
    min_healthy: Option<f64>,
    /// How many of the judged tensors may be dead.
    #[arg(long, value_name = "COUNT")]
    max_dead: Option<u64>,
    /// The training step that every checkpoint must have.
    #[arg(long, value_name = "STEP")]
    require_step: Option<u64>,
    /// The training step that every checkpoint must have reached.
    #[arg(long, value_name = "STEP")]
    min_step: Option<u64>,
    /// Do not judge tensors whose name matches; may be repeated.
    #[arg(long, value_name = "GLOB")]
    ignore: Vec<String>,
    /// A checkpoint to compare with: none may be worse.
    #[arg(long, value_name = "CHECKPOINT")]
    baseline: Option<PathBuf>,
    /// By what factor the std of a weight matrix may fall below the baseline's [default: 2].
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    max_shrink: Option<f64>,
    /// Share of a ternary matrix's rows or columns that may have died since the baseline [default: 0].
    #[arg(long, value_name = "0..1", value_parser = share)]
    max_new_dead: Option<f64>,
    /// Run each model too, and refuse those that fail `ckpt diagnose`'s syntax or logic step. Its third step is what the
    /// gate does anyway.
    #[cfg(feature = "diagnose")]
    #[arg(long)]
    diagnose: bool,
    /// With --diagnose, the models' tokenizer; by default the one next to each checkpoint.
    #[cfg(feature = "diagnose")]
    #[arg(long, value_name = "FILE", requires = "diagnose")]
    tokenizer: Option<PathBuf>,
    /// Do not check storages against the CRC-32 recorded in the file. Measurements of unchanged files then come from the
    /// cache.
    #[arg(long)]
    no_checksum: bool,
    /// Output format.
    #[arg(long, default_value = "human", value_parser = human_or(&GATES))]
    format: Format<Outcome>,
    /// Write the output to a file instead of printing it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write a report in another format as well, such as junit=gate.xml; may be repeated.
    #[arg(long, value_name = "FORMAT=FILE", value_parser = also)]
    also: Vec<(Format<Outcome>, PathBuf)>,
    /// Replace output files that exist.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum ScopeArg {
    All,
    Projections,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Allow {
    Healthy,
    Weak,
    Dying,
    Dead,
}

fn share(text: &str) -> Result<f64, String> {
    check_share(text.parse().map_err(|_| format!("`{text}` is not a number"))?)
}

fn factor(text: &str) -> Result<f64, String> {
    check_factor(text.parse().map_err(|_| format!("`{text}` is not a number"))?)
}

fn also(text: &str) -> Result<(Format<Outcome>, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("give a format and a file, such as junit=gate.xml")?;
    if file.is_empty() {
        return Err("the file's name is missing".into());
    }
    let format = human_or(&GATES).named(name).ok_or_else(|| format!("invalid variant: {name}"))?;
    Ok((format, file.into()))
}

/// With --diagnose, adds the diagnosis steps that failed.
#[cfg(feature = "diagnose")]
fn diagnosed(args: &Args, mut checked: Checked, path: &Path, record: &CheckpointRecord) -> Checked {
    if args.diagnose {
        let found = diagnose::findings(path, args.tokenizer.as_deref(), record);
        checked.add(Rule::FailedDiagnosis, &found);
    }
    checked
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let outputs: Vec<(Format<Outcome>, &Path)> = args
        .output
        .iter()
        .map(|file| (args.format, file.as_path()))
        .chain(args.also.iter().map(|(format, file)| (*format, file.as_path())))
        .collect();
    writable(&outputs, args.force)?;
    let read: Vec<PathBuf> = args.paths.iter().chain(&args.baseline).cloned().collect();
    load::spare(outputs.iter().map(|(_, file)| *file), &read)?;
    let policy = policy(args)?;
    let options = args.load.options(Options::default(), policy.thresholds);
    let options = LoadOptions { checksum: !args.no_checksum, ..options };
    let mut checked = Vec::new();
    let baseline = args.baseline.as_deref().map(|path| baseline(path, &options)).transpose()?;
    let baseline = match baseline {
        Some(Ok(record)) => Some(record),
        Some(Err(unreadable)) => {
            checked.push(unreadable);
            None
        }
        None => None,
    };
    for (path, record) in records(&args.paths, &options)? {
        checked.push(match record {
            Ok(record) => {
                let checked = gate::check(&record, &policy, baseline.as_ref());
                #[cfg(feature = "diagnose")]
                let checked = diagnosed(args, checked, &path, &record);
                checked
            }
            Err(error) => gate::unreadable(path.display().to_string(), &reason(error, &path)),
        });
    }
    let outcome = Outcome::new(policy, baseline.map(|b| b.path), checked);
    if args.output.is_none() {
        terminal::print(&match args.format {
            Format::Human => human(&outcome, terminal::width()),
            Format::Written(format) => written(format, &outcome)?,
        })?;
    }
    for (format, file) in &outputs {
        let text = match format {
            Format::Human => anstream::adapter::strip_str(&human(&outcome, usize::MAX)).to_string(),
            Format::Written(format) => written(format, &outcome)?,
        };
        terminal::write_file(file, text.as_bytes(), args.force)?;
    }
    if args.output.is_some() {
        terminal::note(&outcome.headline());
    }
    Ok(match outcome.status {
        Status::Passed => exit::FINE,
        Status::Refused => exit::REFUSED,
        _ => exit::UNREADABLE,
    })
}

/// Fails before anything is measured where the end could only be that a report cannot be written.
fn writable(outputs: &[(Format<Outcome>, &Path)], force: bool) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    for (_, file) in outputs {
        if !seen.insert(file) {
            return Err(Failure::usage(format!("{}: two reports cannot be the same file", file.display())));
        }
        terminal::may_write(file, force)?;
    }
    Ok(())
}

/// The policy of the file, with the options over it.
fn policy(args: &Args) -> Result<Policy, Failure> {
    let mut policy = args.load.policy()?;
    let allow = args.allow.map(|allow| match allow {
        Allow::Healthy => Verdict::Healthy,
        Allow::Weak => Verdict::Weak,
        Allow::Dying => Verdict::Dying,
        Allow::Dead => Verdict::Dead,
    });
    policy.allow = allow.or(policy.allow);
    policy.scope = args.scope.map_or(policy.scope, |scope| match scope {
        ScopeArg::All => Scope::All,
        ScopeArg::Projections => Scope::Projections,
    });
    policy.require_trained |= args.require_trained;
    policy.min_healthy = args.min_healthy.or(policy.min_healthy);
    policy.max_dead = args.max_dead.or(policy.max_dead);
    policy.require_step = args.require_step.or(policy.require_step);
    policy.min_step = args.min_step.or(policy.min_step);
    policy.baseline.max_shrink = args.max_shrink.unwrap_or(policy.baseline.max_shrink);
    policy.baseline.max_new_dead = args.max_new_dead.unwrap_or(policy.baseline.max_new_dead);
    for glob in &args.ignore {
        policy.ignore.push(Pattern::new(glob).map_err(|e| Failure::usage(format!("--ignore: {e}")))?);
    }
    Ok(policy)
}

/// The baseline's record, or its place among the unreadable.
fn baseline(path: &Path, options: &LoadOptions) -> Result<Result<CheckpointRecord, Checked>, Failure> {
    let broken =
        |why: &str| Ok(Err(gate::unreadable(path.display().to_string(), &format!("as the baseline: {why}"))));
    let mut loaded = records(&[path.to_path_buf()], options)?;
    if loaded.len() != 1 {
        let message = format!(
            "--baseline {}: there are {} checkpoints; name one of them",
            path.display(),
            loaded.len()
        );
        return Err(Failure::usage(message));
    }
    match loaded.pop() {
        Some((_, Ok(record))) if record.damaged => {
            broken("it is damaged, so nothing can be compared with it")
        }
        Some((_, Ok(record))) => Ok(Ok(record)),
        Some((one, Err(error))) => broken(&reason(error, &one)),
        None => broken("no checkpoint"),
    }
}

/// What is wrong with `path`, without saying again which file it is.
fn reason(mut error: ckpt_inspect::Error, path: &Path) -> String {
    error.path = error.path.filter(|named| named != path);
    error.to_string()
}

/// Tensors with findings listed per checkpoint.
const LISTED: usize = 30;

/// Each checkpoint with its findings, tensor by tensor, and the headline.
fn human(outcome: &Outcome, width: usize) -> String {
    let mut out = String::new();
    for checked in &outcome.checkpoints {
        out += &checkpoint(checked, width);
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
        facts.push("no weights: what a trainer keeps beside them".into());
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
        facts.push("no matrix; looked for NaN and infinity alone".into());
    }
    let mut out =
        terminal::paint(style(checked.status).bold(), &status) + " " + &terminal::escape(&checked.path);
    if !facts.is_empty() {
        out += "  ";
        out += &terminal::dim(&facts.join(", "));
    }
    out.push('\n');
    let mut groups: Vec<(Option<&str>, Vec<&Finding>)> = Vec::new();
    for finding in &checked.findings {
        let tensor = finding.tensor.as_deref();
        match groups.last_mut() {
            Some((last, group)) if *last == tensor && tensor.is_some() => group.push(finding),
            _ => groups.push((tensor, vec![finding])),
        }
    }
    for (tensor, findings) in groups.iter().take(LISTED) {
        if let Some(tensor) = tensor {
            out += &format!("  - {}\n", terminal::escape(without_state_dict(tensor)));
        }
        let indent = if tensor.is_some() { "      " } else { "  - " };
        for finding in findings {
            let rule = format!("{:<17}", finding.rule.id());
            let style = match finding.severity {
                Severity::Warning => terminal::verdict_style(Some(Verdict::Weak)),
                _ => Style::new(),
            };
            let room = width.saturating_sub(indent.len() + 18).max(40);
            for (i, line) in wrap(&terminal::escape(&finding.message), room).iter().enumerate() {
                let lead = if i == 0 { terminal::paint(style, &rule) } else { " ".repeat(17) };
                let indent = if i == 0 { indent } else { &"      "[..indent.len()] };
                out += &format!("{indent}{lead} {line}\n");
            }
        }
    }
    if groups.len() > LISTED {
        let more = format!("and {} more; --format json lists all", groups.len() - LISTED);
        out += &format!("  - {}\n", terminal::dim(&more));
    }
    out
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
