//! `ckpt gate`: refuse checkpoints that are not good enough.

mod human;
mod rows;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ckpt_inspect::{CheckpointRecord, ErrorKind, Options, Verdict, path_text, stored};
#[cfg(feature = "diagnose")]
use ckpt_reports::gate::Rule;
use ckpt_reports::gate::{self, Checked, Outcome, Status};
use ckpt_reports::policy::{Pattern, Scope, Unmatched, check_factor, check_share};
use ckpt_reports::records::{Recorded, Unreadable};
use ckpt_reports::table::Rows;
use ckpt_reports::text::plural;
use ckpt_reports::{Accepted, Applied, Policy};

#[cfg(feature = "diagnose")]
use crate::diagnose;
use crate::format::{RowsArg, extension, written};
use crate::load::{self, LoadArgs, LoadOptions, Loaded, records};
use crate::{Failure, terminal};
use rows::{Answers, Format, Place, formats};

/// Refuse checkpoints that are not good enough: for CI, pre-commit hooks and scripts.
///
/// By default every weight must be healthy or untrained (zero as initialised by design), nothing may be missing or corrupt,
/// and every recorded checksum must match. A ./ckpt.toml changes that, and options override both.
/// Exit codes: 0 all pass; 1 some are refused; 2 wrong usage or policy; 3 some cannot be read or are damaged;
/// 4 a report cannot be written.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
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
    /// Switch off this verdict rule, such as equal-layers; may be repeated. docs/verdicts.md lists the rules.
    #[arg(long, value_name = "RULE")]
    off: Vec<String>,
    /// A checkpoint to compare with: none may be worse.
    #[arg(long, value_name = "CHECKPOINT")]
    baseline: Option<PathBuf>,
    /// By what factor the std (standard deviation) of a weight matrix may fall below the baseline's [default: 2].
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    max_shrink: Option<f64>,
    /// Share of a ternary matrix's rows or columns that may have died since the baseline [default: 0].
    #[arg(long, value_name = "0..1", value_parser = share)]
    max_new_dead: Option<f64>,
    /// Run each model too, and refuse those that fail `ckpt diagnose`'s syntax or logic step. The third step is the
    /// gate's own check.
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
    /// Output format [default: human; for -o, ndjson, csv or parquet if the extension says so].
    #[arg(long, value_parser = formats())]
    format: Option<Format>,
    /// Rows of tables [default: all].
    #[arg(long)]
    rows: Option<RowsArg>,
    /// Write the output to a file instead of printing it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print nothing about checkpoints that pass.
    #[arg(short, long)]
    quiet: bool,
    /// File of known findings (from --write-accepted) that no longer cause a refusal.
    #[arg(long, value_name = "FILE")]
    accept: Option<PathBuf>,
    /// Write the current findings to this file and accept them.
    #[arg(long, value_name = "FILE")]
    write_accepted: Option<PathBuf>,
    /// Write a report in another format as well, such as junit=gate.xml; may be repeated.
    #[arg(long, value_name = "FORMAT=FILE", value_parser = also)]
    also: Vec<(Format, PathBuf)>,
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

fn also(text: &str) -> Result<(Format, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or("give a format and a file, such as junit=gate.xml")?;
    if file.is_empty() {
        return Err("the file's name is missing".into());
    }
    let format = formats().named(name).ok_or_else(|| format!("invalid variant: {name}"))?;
    Ok((format, file.into()))
}

/// With --diagnose, adds the diagnosis steps that failed.
#[cfg(feature = "diagnose")]
fn diagnosed(args: &Args, mut checked: Checked, recorded: Option<&Recorded>) -> Checked {
    if let Some(record) = recorded.and_then(Recorded::record).filter(|_| args.diagnose) {
        let found = diagnose::findings(Path::new(&record.path), args.tokenizer.as_deref(), record);
        checked.add(Rule::FailedDiagnosis, &found);
    }
    checked
}

impl Args {
    /// Whether what is decided of a checkpoint is known only when all of them have been measured.
    fn is_late(&self) -> bool {
        #[cfg(feature = "diagnose")]
        if self.diagnose {
            return true;
        }
        self.write_accepted.is_some()
    }

    /// What is printed or, with an output file, written there.
    fn main_format(&self) -> Result<Format, Failure> {
        let by_name = || {
            let output = self.output.as_deref()?;
            formats().named(&extension(output)).filter(|format| matches!(format, Format::Each(_)))
        };
        let format = self.format.or_else(by_name).unwrap_or(Format::Human);
        match format {
            Format::Each(each) if !each.is_text() && self.output.is_none() && terminal::is_terminal() => {
                Err(Failure::usage("Parquet is not printed to a terminal: give -o gate.parquet"))
            }
            _ => Ok(format),
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let format = args.main_format()?;
    let outputs: Vec<(Format, Option<&Path>)> = std::iter::once((format, args.output.as_deref()))
        .chain(args.also.iter().map(|(format, file)| (*format, Some(file.as_path()))))
        .collect();
    let files: Vec<&Path> =
        outputs.iter().filter_map(|(_, file)| *file).chain(args.write_accepted.as_deref()).collect();
    writable(&files, args.force)?;
    let read: Vec<PathBuf> = args.paths.iter().chain(&args.baseline).cloned().collect();
    load::spare(files, &read)?;
    let policy = policy(args)?;
    let known = args.accept.as_deref().map(accepted).transpose()?;
    let mut places = Vec::new();
    for (format, file) in &outputs {
        if let Format::Each(each) = format {
            places.push((*each, file.map_or(Ok(Place::printed()), |file| Place::kept(file, args.force))?));
        }
    }
    let answers = Answers::begin(&mut places, args.rows.map_or(Rows::All, Rows::from))?;
    let outcome = outcome(args, policy, known.as_ref(), &answers)?;
    answers.end()?;
    tell(&outcome);
    for (_, place) in places {
        place.end(args.force)?;
    }
    report(args, &outputs, &outcome)?;
    Ok(outcome.status.exit_code())
}

/// Holds every checkpoint against the policy, and gives `answers` what is decided of each as soon as it is.
fn outcome(
    args: &Args,
    policy: Policy,
    known: Option<&Accepted>,
    answers: &Answers<'_>,
) -> Result<Outcome, Failure> {
    let options = args.load.options(Options::default(), policy.thresholds);
    // Verdicts are made by the policy.
    let options = LoadOptions { checksum: !args.no_checksum, judged: false, ..options };
    let baseline = args.baseline.as_deref().map(|path| baseline(path, &options)).transpose()?;
    let (baseline, no_baseline) = match baseline {
        Some(Ok(record)) => (Some(record), None),
        Some(Err(unreadable)) => (None, Some(unreadable)),
        None => (None, None),
    };
    let (found, skipped) = load::expanded(&args.paths)?;
    if !args.quiet {
        load::tell_skipped(&skipped);
    }
    let root = std::env::current_dir().ok();
    let idle = Mutex::new((policy.patterns(), false));
    let applied = known.map(|known| Mutex::new(known.begin(root.as_deref())));
    let settle = |checked: &mut Checked| {
        let known = applied.as_ref().map(|applied| applied.lock().expect("nothing panics while it is held"));
        known.into_iter().for_each(|mut known: std::sync::MutexGuard<'_, Applied<'_>>| known.apply(checked));
    };
    let decide = |(path, record): Loaded| -> (Recorded, Checked) {
        match record {
            Ok(mut record) => {
                let mut held = idle.lock().expect("nothing panics while it is held");
                held.0.retain(|(_, pattern)| !record.tensors.iter().any(|t| pattern.matches(&t.name)));
                held.1 = true;
                drop(held);
                let checked = gate::check(&record, &policy, baseline.as_ref());
                if answers.are_wanted() {
                    gate::judge(&mut record, &policy);
                }
                (Recorded::Record(Box::new(record)), checked)
            }
            Err(error) => {
                let reason = reason(error.clone(), &path);
                (Recorded::unreadable(&path, &error), gate::unreadable(path_text(&path), &reason))
            }
        }
    };
    let mut all = Vec::new();
    if let Some(gone) = no_baseline {
        let mut checked = gate::unreadable(gone.path.as_str(), &gone.error);
        settle(&mut checked);
        answers.add(&Recorded::Unreadable(gone), &checked)?;
        all.push(checked);
    }
    // A model is run when all are measured, and what is to be accepted is known when all are checked.
    let is_late = args.is_late();
    let taken = load::each(found, &options, |loaded| {
        let (recorded, mut checked) = decide(loaded);
        if is_late {
            return Ok((Some(recorded), checked));
        }
        settle(&mut checked);
        answers.add(&recorded, &checked)?;
        Ok((None, checked))
    })?;
    let mut late = Vec::new();
    for taken in taken {
        let (recorded, checked) = taken.map_err(|failure: Failure| failure)?;
        #[cfg(feature = "diagnose")]
        let checked = diagnosed(args, checked, recorded.as_ref());
        late.extend(recorded);
        all.push(checked);
    }
    let begin = all.len() - late.len();
    if is_late {
        all[begin..].iter_mut().for_each(settle);
    }
    let (idle, readable) = idle.into_inner().expect("nothing panics while it is held");
    let unmatched = idle.into_iter().map(|(unmatched, _)| unmatched).filter(|_| readable).collect();
    let resolved = applied.map(|applied| {
        let applied = applied.into_inner().expect("nothing panics while it is held");
        applied.resolved().cloned().collect()
    });
    let mut outcome = Outcome::new(policy, baseline.map(|b| b.path), all);
    outcome.unmatched = unmatched;
    outcome.skipped = skipped.iter().map(|path| path_text(path)).collect();
    outcome.resolved = resolved.unwrap_or_default();
    if let Some(file) = &args.write_accepted {
        let known = Accepted::of(&outcome, root.as_deref());
        terminal::write_file(file, known.to_json().as_bytes(), args.force)?;
        known.apply(&mut outcome, root.as_deref());
        let findings = plural(known.len(), "known finding");
        terminal::note(&format!("{findings} written to {}", terminal::path(file)));
    }
    for (recorded, checked) in late.iter().zip(&outcome.checkpoints[begin..]) {
        answers.add(recorded, checked)?;
    }
    Ok(outcome)
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

/// Prints and writes the outcome in the formats asked for that are of all checkpoints together.
fn report(args: &Args, outputs: &[(Format, Option<&Path>)], outcome: &Outcome) -> Result<(), Failure> {
    for (format, file) in outputs {
        let text = match (format, file) {
            (Format::Each(_), _) => continue,
            (Format::Whole(format), _) => written(format, outcome)?,
            (Format::Human, None) => human::text(outcome, terminal::width(), args.quiet),
            (Format::Human, Some(_)) => {
                anstream::adapter::strip_str(&human::text(outcome, usize::MAX, args.quiet)).to_string()
            }
        };
        match file {
            None => terminal::print(&text)?,
            Some(file) => terminal::write_file(file, text.as_bytes(), args.force)?,
        }
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

/// The baseline's record, or why there is none.
fn baseline(path: &Path, options: &LoadOptions) -> Result<Result<CheckpointRecord, Unreadable>, Failure> {
    let path = &*stored::admitted(path);
    let broken =
        |why: &str, kind: ErrorKind| Ok(Err(Unreadable::new(path, format!("as the baseline: {why}"), kind)));
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
            broken("it is damaged, so nothing can be compared with it", ErrorKind::Damaged)
        }
        Some((_, Ok(record))) => Ok(Ok(record)),
        Some((one, Err(error))) => {
            let kind = error.kind;
            broken(&reason(error, &one), kind)
        }
        None => broken("no checkpoint", ErrorKind::NotFound),
    }
}

/// What is wrong with `path`, without saying again which file it is.
fn reason(mut error: ckpt_inspect::Error, path: &Path) -> String {
    error.path = error.path.filter(|named| named != path);
    error.to_string()
}
