//! `ckpt convert`: checkpoints into other formats, verified.

use std::path::{Component, Path, PathBuf};

use ckpt_convert::{Control, Plan, Target};
use ckpt_inspect::stored::Stored;

use crate::load::{self, LoadArgs, LoadOptions};
use crate::paths;
use crate::signal::Signal;
use crate::terminal;
use crate::verify;
use crate::writing::{self, To, WriteArgs, is_gguf};
use crate::{Failure, exit};

/// Convert checkpoints, and verify what was written by reading it back.
///
/// Converts weights only, unless --keep-optimizer is given. fp32, f16 and bf16 write PyTorch files, or SafeTensors if
/// -o ends in .safetensors. gguf writes files for llama.cpp. An output is written completely or not at all; an existing
/// one is replaced only with --force. Exit code 1 when the copy does not match the source.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// Files, folders or glob patterns.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// What to write.
    #[arg(long, value_name = "FORMAT")]
    to: To,
    /// Output file or folder for one checkpoint.
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Output folder for any number of checkpoints; subfolders are kept.
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    out_dir: Option<PathBuf>,
    /// Refuse to convert a checkpoint whose verdict is worse than healthy.
    #[arg(long)]
    strict: bool,
    /// With --strict, convert a collapsed checkpoint all the same.
    #[arg(long)]
    allow_collapsed: bool,
    #[command(flatten)]
    writing: WriteArgs,
    #[command(flatten)]
    load: LoadArgs,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    args.writing.check(args.to)?;
    if let Some(output) = &args.output {
        args.writing.check_name(args.to, output)?;
    }
    args.writing.options(args.to, Target::Torch)?;
    let mut code = exit::FINE;
    let mut paths = Vec::new();
    for found in load::expand(&args.paths)? {
        match found {
            Ok(path) => paths.push(path),
            Err((_, error)) => {
                let failure = Failure::from(error);
                terminal::failure(&failure);
                code = code.max(failure.code);
            }
        }
    }
    if paths.is_empty() {
        return Ok(code);
    }
    let outputs = outputs(args, &paths)?;
    paths::spare(outputs.iter().map(PathBuf::as_path), || {
        load::files(&paths).into_iter().chain(args.writing.tokenizer.clone()).collect()
    })?;
    make_folders(args, &outputs)?;
    let mut load = args.load.options(ckpt_inspect::Options::default(), args.load.policy()?.thresholds);
    // What a trainer keeps beside a model is no part of what is made of it, unless it is asked for.
    load.open.companions = args.writing.keep_optimizer;
    let signal = Signal::listen()?;
    for (path, output) in paths.iter().zip(&outputs) {
        match one(args, &load, path, output, &signal) {
            Ok(one) => code = code.max(one),
            Err(failure) if paths.len() > 1 && !signal.arrived() => {
                // If one file of a run cannot be converted, the others still are.
                code = code.max(failure.code);
                let message = match failure.names(path) {
                    true => failure.message.clone(),
                    false => format!("{}: {}", path.display(), failure.message),
                };
                terminal::failure(&Failure { message, ..failure });
            }
            Err(failure) => return Err(signal.explain(failure)),
        }
    }
    Ok(code)
}

/// Where each of `paths` goes.
fn outputs(args: &Args, paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let (_, extension) = args.writing.target(args.to, args.output.as_deref());
    if let Some(output) = &args.output {
        if paths.len() > 1 {
            return Err(Failure::usage(format!(
                "-o names one output, and there are {} checkpoints; use --out-dir DIR",
                paths.len()
            )));
        }
        return Ok(vec![output.clone()]);
    }
    let named = |path: &Path, is_folder: bool| match extension {
        "" if is_folder => path.to_path_buf(),
        "" => path.with_extension(""),
        extension if is_folder => {
            let mut name = path.as_os_str().to_os_string();
            name.push(format!(".{extension}"));
            name.into()
        }
        extension => path.with_extension(extension),
    };
    let Some(folder) = &args.out_dir else {
        return Err(Failure::usage(
            "where to write? Give -o PATH for one checkpoint, or --out-dir DIR for any number",
        ));
    };
    // The given path may be relative or lead through `..` and links; in any case, outputs stay in the folder.
    let places = paths.iter().map(|path| paths::absolute(path)).collect::<Result<Vec<_>, _>>()?;
    let root = common_folder(&places);
    let mut outputs = Vec::new();
    for (path, place) in paths.iter().zip(&places) {
        let relative = place.strip_prefix(&root).ok().filter(|p| *p != Path::new(""));
        let relative = relative.or(place.file_name().map(Path::new)).unwrap_or(Path::new("model"));
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Failure::usage(format!(
                "{}: its path gives no place below --out-dir; convert it by itself with -o",
                terminal::path(path)
            )));
        }
        let output = folder.join(named(relative, path.is_stored_folder()));
        if outputs.contains(&output) {
            return Err(Failure::usage(format!(
                "two of the checkpoints would be written to {}; convert them one at a time with -o",
                output.display()
            )));
        }
        outputs.push(output);
    }
    Ok(outputs)
}

/// The folders below --out-dir that `outputs` go into.
fn make_folders(args: &Args, outputs: &[PathBuf]) -> Result<(), Failure> {
    let Some(folder) = &args.out_dir else { return Ok(()) };
    for output in outputs {
        let parent = output.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent)
            .map_err(|e| Failure::unwritable(format!("{}: cannot be created: {e}", parent.display())))?;
    }
    Ok(())
}

/// The folder that all `paths` lie in.
fn common_folder(paths: &[PathBuf]) -> PathBuf {
    let mut folders = paths.iter().map(|p| p.parent().unwrap_or(Path::new("")));
    let first = folders.next().unwrap_or(Path::new("")).to_path_buf();
    folders.fold(first, |common, folder| {
        common.ancestors().find(|c| folder.starts_with(c)).unwrap_or(Path::new("")).to_path_buf()
    })
}

fn one(args: &Args, load: &LoadOptions, path: &Path, output: &Path, signal: &Signal) -> Result<u8, Failure> {
    let (target, _) = args.writing.target(args.to, args.output.as_deref());
    let options = args.writing.options(args.to, target)?;
    // Outputs that will be refused are refused before anything is read. A folder is checked once its contents are
    // known.
    if output == Path::new("-") || !output.is_dir() && !args.writing.writes_folder(target) {
        ckpt_inspect::staged::may_write(output, args.writing.force)?;
    }
    let mut open = load.open;
    open.stored = args.writing.keeps() && !is_gguf(args.to);
    let mut source = ckpt_inspect::open_with(path, &open)?;
    if !args.writing.no_verify {
        source.verify_checksums();
    }
    load::whole(&source)?;
    source
        .warnings
        .iter()
        .for_each(|w| terminal::warning(&format!("{}: {}", path.display(), terminal::escape(&w.text))));
    let mut plan = Plan::new(&source, &options)?;
    check_health(args, load, path)?;
    let progress = terminal::progress(plan.bytes(), "converting");
    let done = |bytes| progress.done(bytes);
    let control = Control::new(&done, &signal.flag);
    let written = ckpt_convert::write(&mut plan, &options, output, control);
    progress.clear();
    let written = written?;
    for note in &plan.notes {
        terminal::warning(&format!("{}: {}", path.display(), terminal::escape(&writing::sentence(note))));
    }
    let wrote = format!(
        "{} → {} ({}, {})",
        terminal::path(path),
        terminal::path(output),
        terminal::bytes(written.bytes),
        verify::tensors(plan.tensors.len())
    );
    if args.writing.no_verify {
        terminal::print(&format!("{wrote}; not verified\n"))?;
        return Ok(exit::FINE);
    }
    let report = ckpt_convert::verify_written(&plan, output)?;
    if !report.agrees() {
        terminal::print(&verify::details(&report, false))?;
    }
    terminal::print(&format!("{wrote}; {}\n", verify::sentence(&report)))?;
    Ok(if report.agrees() { exit::FINE } else { exit::REFUSED })
}

/// Warns about a checkpoint that the gate would refuse; under --strict it is not converted.
fn check_health(args: &Args, load: &LoadOptions, path: &Path) -> Result<(), Failure> {
    let measured = load::records(&[path.to_path_buf()], load)?;
    let Some((_, Ok(record))) = measured.into_iter().next() else { return Ok(()) };
    let Some(verdict) = record.verdict.filter(|v| v.is_below_healthy()) else { return Ok(()) };
    let reason = record.reasons.first().map(|r| format!(" ({})", terminal::escape(r))).unwrap_or_default();
    let message = format!("{} is {verdict}{reason}", path.display());
    if args.strict && !args.allow_collapsed {
        let message = format!("{message}, and --strict refuses it; --allow-collapsed converts it anyway");
        return Err(Failure::new(exit::REFUSED, message).naming(path));
    }
    terminal::warning(&format!("{message}, and so will be the copy"));
    Ok(())
}
