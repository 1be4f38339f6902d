//! `ckpt gate`: refuse checkpoints that are not good enough.

mod human;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ckpt_inspect::{CheckpointRecord, Options, Verdict};
use ckpt_reports::exporter::GATES;
#[cfg(feature = "diagnose")]
use ckpt_reports::gate::Rule;
use ckpt_reports::gate::{self, Checked, Outcome, Status};
use ckpt_reports::policy::{Pattern, Scope, Unmatched, check_factor, check_share};
use ckpt_reports::text::plural;
use ckpt_reports::{Accepted, Policy};

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
    /// Do not ask this rule of verdicts, such as equal-layers; may be repeated. docs/verdicts.md lists them.
    #[arg(long, value_name = "RULE")]
    off: Vec<String>,
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
    /// Print nothing of what passes.
    #[arg(short, long)]
    quiet: bool,
    /// Known findings, which refuse nothing: a file that --write-accepted wrote.
    #[arg(long, value_name = "FILE")]
    accept: Option<PathBuf>,
    /// Write what is found to a file for --accept, and accept it.
    #[arg(long, value_name = "FILE")]
    write_accepted: Option<PathBuf>,
    /// Write a report in another format as well, such as junit=gate.xml; may be repeated.
    #[arg(long, value_name = "FORMAT=FILE", value_parser = also)]
    also: Vec<(Format<Outcome>, PathBuf)>,
    /// Replace output files that exist.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    load: LoadArgs,
}

/// The largest file of known findings that is read.
const MAX_ACCEPTED: u64 = 64 << 20;

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
    let files: Vec<&Path> =
        outputs.iter().map(|(_, file)| *file).chain(args.write_accepted.as_deref()).collect();
    writable(&files, args.force)?;
    let read: Vec<PathBuf> = args.paths.iter().chain(&args.baseline).cloned().collect();
    load::spare(files, &read)?;
    let policy = policy(args)?;
    let known = args.accept.as_deref().map(accepted).transpose()?;
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
    let (found, skipped) = load::expanded(&args.paths)?;
    if !args.quiet {
        load::tell_skipped(&skipped);
    }
    let mut idle = policy.patterns();
    let mut readable = false;
    for (path, record) in load::each(found, &options, |loaded| loaded)? {
        checked.push(match record {
            Ok(record) => {
                readable = true;
                idle.retain(|(_, pattern)| !record.tensors.iter().any(|t| pattern.matches(&t.name)));
                let checked = gate::check(&record, &policy, baseline.as_ref());
                #[cfg(feature = "diagnose")]
                let checked = diagnosed(args, checked, &path, &record);
                checked
            }
            Err(error) => gate::unreadable(path.display().to_string(), &reason(error, &path)),
        });
    }
    let unmatched = idle.into_iter().map(|(unmatched, _)| unmatched).filter(|_| readable).collect();
    let mut outcome = Outcome::new(policy, baseline.map(|b| b.path), checked);
    outcome.unmatched = unmatched;
    outcome.skipped = skipped.iter().map(|path| path.display().to_string()).collect();
    let root = std::env::current_dir().ok();
    if let Some(known) = known {
        known.apply(&mut outcome, root.as_deref());
    }
    if let Some(file) = &args.write_accepted {
        let known = Accepted::of(&outcome, root.as_deref());
        terminal::write_file(file, known.to_json().as_bytes(), args.force)?;
        known.apply(&mut outcome, root.as_deref());
        let findings = plural(known.len(), "known finding");
        terminal::note(&format!("{findings} written to {}", terminal::path(file)));
    }
    tell(&outcome);
    report(args, &outputs, &outcome)?;
    Ok(match outcome.status {
        Status::Passed => exit::FINE,
        Status::Refused => exit::REFUSED,
        _ => exit::UNREADABLE,
    })
}

/// Warns of what the user wrote down and is of no effect.
fn tell(outcome: &Outcome) {
    for Unmatched { key, pattern, .. } in &outcome.unmatched {
        terminal::warning(&format!("the pattern `{pattern}` of {key} matches no tensor"));
    }
    const TOLD: usize = 5;
    for known in outcome.resolved.iter().take(TOLD) {
        let what = known.tensor.as_deref().map_or(String::new(), |tensor| format!(" of {tensor}"));
        let rule = known.rule.id();
        terminal::warning(&format!("{}: {rule}{what} is accepted, and no longer found", known.checkpoint));
    }
    if outcome.resolved.len() > TOLD {
        let more = plural(outcome.resolved.len() - TOLD, "accepted finding");
        terminal::warning(&format!("and {more} more no longer found; write the file again"));
    }
}

/// Prints and writes the outcome in the formats asked for.
fn report(args: &Args, outputs: &[(Format<Outcome>, &Path)], outcome: &Outcome) -> Result<(), Failure> {
    if args.output.is_none() {
        terminal::print(&match args.format {
            Format::Human => human::text(outcome, terminal::width(), args.quiet),
            Format::Written(format) => written(format, outcome)?,
        })?;
    }
    for (format, file) in outputs {
        let text = match format {
            Format::Human => {
                anstream::adapter::strip_str(&human::text(outcome, usize::MAX, args.quiet)).to_string()
            }
            Format::Written(format) => written(format, outcome)?,
        };
        terminal::write_file(file, text.as_bytes(), args.force)?;
    }
    if args.output.is_some() && !(args.quiet && outcome.status == Status::Passed) {
        terminal::note(&outcome.headline());
    }
    Ok(())
}

/// The known findings in `file`. What cannot be used is wrong usage, like a policy.
fn accepted(file: &Path) -> Result<Accepted, Failure> {
    let text = load::text(file, MAX_ACCEPTED).map_err(|failure| Failure::usage(failure.message))?;
    Accepted::from_json(&text).map_err(|e| Failure::usage(format!("{}: {e}", terminal::path(file))))
}

/// Fails before anything is measured where the end could only be that a report cannot be written.
fn writable(outputs: &[&Path], force: bool) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    for file in outputs {
        if !seen.insert(file) {
            return Err(Failure::usage(format!("{}: two outputs cannot be the same file", file.display())));
        }
        terminal::may_write(file, force)?;
    }
    Ok(())
}

/// The policy of the file, with the options over it.
fn policy(args: &Args) -> Result<Policy, Failure> {
    let (mut policy, found) = args.load.policy_or_found()?;
    if found && !args.quiet {
        terminal::note("using the policy in ckpt.toml");
    }
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
    for rule in &args.off {
        policy.switch_off(rule).map_err(|e| Failure::usage(format!("--off: {e}")))?;
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
