//! `ckpt scan`: what loading files would do besides reading data.

use ckpt_inspect::stored::{Kind, Stored};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anstyle::Style;
use ckpt_inspect::ErrorKind;
use ckpt_inspect::Verdict;
use ckpt_inspect::scan::{Files, Finding, Options, Pattern, Rule, Scan, Severity, scan};
use ckpt_reports::exporter::SCANS;
use ckpt_reports::text::plural;
use ckpt_reports::{ScanStatus, Scanned};
use globset::{Glob, GlobMatcher};
use rayon::prelude::*;

use crate::format::{Format, human_or, written};
use crate::paths::{self, Found};
use crate::{Failure, capture, exit, terminal};

/// List what loading files would import, call and write, without doing any of it.
///
/// Finds pickles, even hidden ones (PyTorch files of any age, nested archives, NumPy and joblib files), TorchScript
/// code, classes and functions that configurations name (JSON, YAML), chat templates that reach into Python, a model's
/// own code beside it, archives that different readers read differently, and inconsistent SafeTensors and GGUF files.
/// Exit codes: 0 nothing found; 1 something found; 2 wrong usage; 3 a file cannot be read or fully scanned; 4 the output
/// cannot be written.
#[derive(clap::Args)]
pub struct Args {
    /// Files, folders or glob patterns.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The lowest severity that makes the exit code 1.
    #[arg(long, value_name = "SEVERITY", default_value = "unknown")]
    fail_on: FailOn,
    /// Imports to treat as harmless: package.module.Name, or a prefix followed by *; may be repeated.
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    allow: Vec<Pattern>,
    /// Files in folders to leave out, by their name or their path there, such as '*.onnx' or 'onnx/*'; may be repeated.
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    skip: Vec<GlobMatcher>,
    /// List harmless imports, notes and clean files too.
    #[arg(long)]
    all: bool,
    /// Output format.
    #[arg(long, default_value = "human", value_parser = human_or(&SCANS))]
    format: Format<Scanned>,
    /// Write the output to a file instead of printing it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace an output file that exists.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum FailOn {
    Note,
    Unknown,
    Dangerous,
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|e| e.to_string())
}

fn glob(text: &str) -> Result<GlobMatcher, String> {
    Glob::new(text).map(|glob| glob.compile_matcher()).map_err(|e| e.to_string())
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if let Some(output) = &args.output {
        terminal::may_write(output, args.force)?;
    }
    let mut options = Options::default();
    options.allow.clone_from(&args.allow);
    let Listing { found, others, skipped } = Listing::of(args)?;
    paths::spare(args.output.as_deref(), || found.iter().flatten().cloned().collect())?;
    let mut files: Vec<Scan> = found
        .par_iter()
        .filter_map(|found| match found {
            _ if capture::is_stopped() => None,
            Ok(path) => Some(scan(path, &options).unwrap_or_else(|e| Scan::unreadable(path, e))),
            // Its other files are scanned all the same.
            Err((path, error)) if error.kind == ErrorKind::Unrecognised && path.is_stored_folder() => None,
            Err((path, error)) => Some(Scan::unreadable(path, error.clone())),
        })
        .collect();
    // Files that no loader interprets, and those of which that is not known.
    let (mut inert, mut passed_over) = (Vec::new(), Vec::new());
    for (path, scanned) in others.par_iter().map(|p| (p, scan(p, &options))).collect::<Vec<_>>() {
        match scanned {
            Ok(scan) if scan.is_inert() => inert.push(path.display().to_string()),
            // What is beside the weights is named, and refuses nothing.
            Ok(mut scan) if scan.is_program() => {
                scan.unreadable = None;
                files.push(scan);
            }
            Ok(scan) => files.push(scan),
            Err(error) if error.kind == ErrorKind::Unrecognised || is_no_file(path) => {
                passed_over.push(path.display().to_string());
            }
            Err(error) => files.push(Scan::unreadable(path, error)),
        }
    }
    // A folder that was named and in which nothing could be scanned is not passed over, whatever else was named.
    for (path, error) in found.iter().filter_map(|found| found.as_ref().err()) {
        let mut known = files.iter().map(|scan| &scan.path).chain(&inert);
        if known.all(|file| !Path::new(file).starts_with(path)) {
            files.push(Scan::unreadable(path, error.clone()));
        }
    }
    if capture::is_stopped() {
        return Err(capture::interrupted());
    }
    if files.is_empty() && !skipped.is_empty() {
        return Err(Failure::usage("--skip leaves no file to scan"));
    }
    let least = match args.fail_on {
        FailOn::Note => Severity::Note,
        FailOn::Unknown => Severity::Unknown,
        FailOn::Dangerous => Severity::Dangerous,
    };
    // Findings that make the exit code 1 are shown.
    let shown = if args.all { Severity::Note } else { least.min(Severity::Unknown) };
    passed_over.extend(inert);
    passed_over.sort();
    let scanned = Scanned::new(files, least).beside(passed_over).without(skipped);
    let code = match scanned.status {
        ScanStatus::Clean => exit::FINE,
        ScanStatus::Found => exit::REFUSED,
        _ => exit::UNREADABLE,
    };
    let text = match args.format {
        Format::Human => human(args, shown, &scanned),
        Format::Written(format) => written(format, &scanned)?,
    };
    match &args.output {
        None => terminal::print(&text)?,
        Some(file) => {
            let text = match args.format {
                Format::Human => anstream::adapter::strip_str(&text).to_string(),
                Format::Written(_) => text,
            };
            terminal::write_file(file, text.as_bytes(), args.force)?;
            terminal::note(&headline(&scanned, shown));
        }
    }
    Ok(code)
}

/// Whether nothing is at `path` any more, or a socket, a pipe or a device.
fn is_no_file(path: &Path) -> bool {
    match path.stored() {
        Ok(found) => found.kind == Kind::Other,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// The files of what was named, each once under each of its names: a loader goes by the name, and what has several is another
/// thing under each.
struct Listing {
    /// Those that a loader could be given.
    found: Vec<Found>,
    /// The others in folders.
    others: Vec<PathBuf>,
    /// What `--skip` leaves out of folders. What was named itself stays.
    skipped: Vec<String>,
}

impl Listing {
    fn of(args: &Args) -> Result<Self, Failure> {
        let (others, skipped, emptied) =
            (RefCell::new(Vec::new()), RefCell::new(Vec::new()), RefCell::new(HashSet::new()));
        let list = |path: &Path| {
            let mut files = Files::below(path)?;
            if path.is_stored_folder() {
                let left_out = leave_out(args, path, &mut files);
                if !left_out.is_empty() && files.likely.is_empty() {
                    emptied.borrow_mut().insert(path.to_path_buf());
                }
                skipped.borrow_mut().extend(left_out);
            }
            others.borrow_mut().extend(files.others);
            Ok(files.likely)
        };
        let nothing = |_: &Path| {
            let what = "contains no file that a loader would read";
            ckpt_inspect::Error::new(ErrorKind::Unrecognised, what)
        };
        let mut found = paths::expand(&args.paths, list, nothing, identity)?;
        let emptied = emptied.into_inner();
        found.retain(|found| !found.as_ref().is_err_and(|(path, _)| emptied.contains(path)));
        let mut seen: HashSet<_> = found.iter().flatten().map(|path| identity(path)).collect();
        let mut others = others.into_inner();
        others.retain(|path| seen.insert(identity(path)));
        let mut skipped = skipped.into_inner();
        if !args.skip.is_empty() && skipped.is_empty() {
            terminal::warning("--skip matches no file");
        }
        skipped.sort();
        skipped.dedup();
        Ok(Listing { found, others, skipped })
    }
}

/// A file, and what it is called.
fn identity(path: &Path) -> (PathBuf, Option<OsString>) {
    let file = path.stored_identity().unwrap_or_else(|_| path.to_path_buf());
    (file, path.file_name().map(OsStr::to_os_string))
}

/// Takes what `--skip` names out of the `files` of `folder`, and returns it. A folder that has another name, under which
/// nothing is left out, keeps its files.
fn leave_out(args: &Args, folder: &Path, files: &mut Files) -> Vec<String> {
    let is_skipped = |path: &Path| {
        let Ok(inside) = path.strip_prefix(folder) else { return false };
        let names = [Some(inside.as_os_str()), inside.file_name()];
        names.into_iter().flatten().any(|name| args.skip.iter().any(|glob| glob.is_match(name)))
    };
    let mut skipped = Vec::new();
    let also = std::mem::take(&mut files.also);
    for list in [&mut files.likely, &mut files.others] {
        list.retain_mut(|path| {
            if !is_skipped(path) {
                return true;
            }
            let under = |(name, first): &(PathBuf, PathBuf)| Some(name.join(path.strip_prefix(first).ok()?));
            if let Some(other) = also.iter().filter_map(under).find(|other| !is_skipped(other)) {
                *path = other;
                return true;
            }
            skipped.push(path.display().to_string());
            false
        });
    }
    skipped
}

fn style(severity: Severity) -> Style {
    terminal::verdict_style(match severity {
        Severity::Dangerous => Some(Verdict::Dead),
        Severity::Note => None,
        _ => Some(Verdict::Weak),
    })
}

/// Findings listed per file; --format json lists all.
const LISTED: usize = 40;

fn human(args: &Args, shown: Severity, scanned: &Scanned) -> String {
    let scans = &scanned.files;
    let mut out = String::new();
    for scan in scans {
        let worst = scan.severity().filter(|s| *s >= shown);
        if worst.is_none() && scan.unreadable.is_none() && !args.all && scans.len() > 1 {
            continue;
        }
        let (word, paint) = match (worst, &scan.unreadable) {
            (Some(severity), _) => (severity.name(), style(severity)),
            (None, Some(_)) => ("unreadable", style(Severity::Unknown)),
            (None, None) => ("clean", terminal::verdict_style(Some(Verdict::Healthy))),
        };
        out += &format!(
            "{} {}  {}\n",
            terminal::paint(paint.bold(), &format!("{word:<10}")),
            terminal::escape(&scan.path),
            terminal::dim(&scan.format)
        );
        if let Some(why) = &scan.unreadable {
            out += &terminal::labelled("incomplete", style(Severity::Unknown), why);
        }
        let findings: Vec<&Finding> = scan.findings.iter().filter(|f| f.severity >= shown).collect();
        for finding in findings.iter().take(LISTED) {
            out += &line(finding);
        }
        if findings.len() > LISTED {
            let more = format!("and {} more; --format json lists all", findings.len() - LISTED);
            out += &format!("  {}\n", terminal::dim(&more));
        }
        let unknown: BTreeSet<&str> = scan
            .findings
            .iter()
            .filter(|f| matches!(f.rule, Rule::UnknownImport | Rule::CustomCode) && f.severity >= shown)
            .filter_map(|f| f.global.as_deref())
            .collect();
        if !unknown.is_empty() && scan.severity() == Some(Severity::Unknown) {
            let options: Vec<String> =
                unknown.iter().take(LISTED).map(|name| format!("--allow {name}")).collect();
            out += &terminal::labelled("if trusted", Style::new().dimmed(), &options.join(" "));
        }
        if args.all && !scan.harmless.is_empty() {
            out += &terminal::labelled("harmless", Style::new(), &scan.harmless.join(", "));
        }
    }
    if args.all && !scanned.others.is_empty() {
        out += &terminal::labelled("others", Style::new(), &scanned.others.join(", "));
    }
    if args.all && !scanned.skipped.is_empty() {
        out += &terminal::labelled("left out", Style::new(), &scanned.skipped.join(", "));
    }
    out + &terminal::bold(&headline(scanned, shown)) + "\n"
}

fn line(finding: &Finding) -> String {
    let mut place = finding.member.clone();
    if let Some(offset) = finding.offset {
        place += if place.is_empty() { "offset " } else { ", offset " };
        place += &offset.to_string();
    }
    if finding.count > 1 {
        place += &format!(", {} times", finding.count);
    }
    format!(
        "  {} {:<18} {}\n{}",
        terminal::paint(style(finding.severity), &format!("{:<10}", finding.severity.name())),
        finding.rule.id(),
        terminal::dim(&terminal::escape(&place)),
        terminal::wrapped(&finding.message, 13, Style::new())
    )
}

/// `3 files scanned: 1 dangerous, 1 unreadable`.
fn headline(scanned: &Scanned, shown: Severity) -> String {
    let scans = &scanned.files;
    let count = |severity: Severity| scans.iter().filter(|s| s.severity() == Some(severity)).count();
    let unread =
        scans.iter().filter(|s| s.unreadable.is_some() && s.severity() <= Some(Severity::Note)).count();
    let noted = match shown {
        Severity::Note => {
            scans.iter().filter(|s| s.severity() == Some(Severity::Note) && s.unreadable.is_none()).count()
        }
        _ => 0,
    };
    let parts = [
        (count(Severity::Dangerous), "dangerous"),
        (count(Severity::Unknown), "unknown"),
        (noted, "with notes only"),
        (unread, "not fully scanned"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let outcome = if parts.is_empty() { "nothing found".to_string() } else { parts.join(", ") };
    let others = match scanned.others.len() {
        0 => String::new(),
        n => format!("; {} of other kinds", plural(n, "file")),
    };
    let skipped = match scanned.skipped.len() {
        0 => String::new(),
        n => format!("; {} left out", plural(n, "file")),
    };
    format!("{} scanned: {outcome}{others}{skipped}", plural(scans.len(), "file"))
}
