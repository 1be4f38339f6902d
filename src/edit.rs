//! `ckpt edit`: changes of checkpoints that would otherwise be scripts, verified like any conversion.

use std::path::{Path, PathBuf};

use ckpt_convert::edit::{self, EDITS, Edit, Edited, Given, Settings};
use ckpt_convert::{Control, Gguf, Target};
use ckpt_inspect::stored::Stored;
use ckpt_inspect::{Checkpoint, Format as Container, I2sLayout, OpenOptions};
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use serde_json::{Value, json};

use crate::format::Plain as Format;
use crate::signal::Signal;
use crate::writing::{self, To, WriteArgs};
use crate::{Failure, exit, load, paths, terminal, verify};

#[cfg(feature = "infer")]
mod loss;

const EXAMPLES: &str = "Examples:
  ckpt edit model.pt --strip-optimizer -o small.pt
  ckpt edit model.safetensors --rename 'model.*=*' -o renamed.safetensors
  ckpt edit runs/a --average --last 5 -o mean.safetensors
  ckpt edit base/ --lora adapter/ -o merged/";

/// Edit checkpoints: leave tensors out, rename them, average checkpoints, merge LoRA adapters; verify what was written
/// by reading it back.
///
/// The output has the format that its extension or --to says, else that of the source. Tensors are computed while they
/// are written, a piece at a time. An output is written completely or not at all; an existing one is replaced only with
/// --force. Exit code 1 when what was written is not what was computed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true)]
pub struct Args {
    /// The checkpoint to edit: a file, a folder or a URL. With --average several, or folders and patterns of several.
    #[arg(required = true)]
    sources: Vec<PathBuf>,
    /// Output file or folder.
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// What to write; by default what the output's extension says, else the format of the source.
    #[arg(long, value_name = "FORMAT")]
    to: Option<To>,
    /// Format of what is printed.
    #[arg(long, default_value = "human")]
    format: Format,
    /// Layout of I2_S tensors (bitnet.cpp's ternary type), which GGUF files do not record: x86, arm or rows.
    #[arg(long, value_name = "LAYOUT")]
    i2s_layout: Option<I2sLayout>,
    #[command(flatten, next_help_heading = "Edits, done in this order")]
    edits: EditArgs,
    /// With --average, only the last K checkpoints by their steps.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Edits, done in this order")]
    last: Option<u64>,
    /// Print the perplexity of a text, or of a file of token ids (.safetensors, .jsonl, .ids), by the last source and by the
    /// result: what the edit costs.
    #[cfg(feature = "infer")]
    #[arg(long, value_name = "FILE", help_heading = "Edits, done in this order")]
    perplexity: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Writing")]
    writing: WriteArgs,
}

/// The flags of the table of edits, and their values.
struct EditArgs(Vec<(usize, Given)>);

impl clap::Args for EditArgs {
    fn augment_args(mut command: Command) -> Command {
        for row in &EDITS {
            let arg = Arg::new(row.flag).long(row.flag).help(row.about);
            command = command.arg(match row.value {
                None => arg.action(ArgAction::SetTrue),
                Some(value) => arg.value_name(value).action(match row.repeats {
                    true => ArgAction::Append,
                    false => ArgAction::Set,
                }),
            });
            for setting in row.settings {
                let arg =
                    Arg::new(setting.flag).long(setting.flag).value_name(setting.value).help(setting.about);
                let arg = arg.allow_negative_numbers(true);
                command = command.arg(arg.requires(row.flag));
            }
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for EditArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut all = Vec::new();
        for (i, row) in EDITS.iter().enumerate() {
            let is_given = match row.value {
                None => matches.get_flag(row.flag),
                Some(_) => matches.contains_id(row.flag),
            };
            if !is_given {
                continue;
            }
            let mut given = Given::default();
            if row.value.is_some() {
                given.values = matches.get_many::<String>(row.flag).into_iter().flatten().cloned().collect();
            }
            let settings = row.settings.iter();
            let settings =
                settings.filter_map(|s| Some((s.flag, matches.get_one::<String>(s.flag)?.clone())));
            given.settings = settings.collect();
            all.push((i, given));
        }
        Ok(EditArgs(all))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl EditArgs {
    /// The edits, in the order in which they are done.
    fn edits(&self) -> Result<Vec<Box<dyn Edit>>, Failure> {
        let made = self.0.iter().map(|(i, given)| (EDITS[*i].make)(given).map_err(Failure::usage));
        let edits = made.collect::<Result<Vec<_>, _>>()?;
        if edits.is_empty() {
            let flags: Vec<String> = EDITS.iter().map(|row| format!("--{}", row.flag)).collect();
            let (last, others) = flags.split_last().expect("there are edits");
            let why = format!("there is nothing to edit; give {} or {last}", others.join(", "));
            return Err(Failure::usage(why));
        }
        Ok(edits)
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    let edits = args.edits.edits()?;
    let joins = edits.iter().any(|edit| edit.joins());
    if args.last.is_some() && !joins {
        return Err(Failure::usage("--last only works with --average"));
    }
    if let Some(to) = args.to {
        args.writing.check(to)?;
        args.writing.check_name(to, &args.output)?;
    }
    let paths = sources(args, joins)?;
    let mut sources = paths.iter().map(|path| open(args, path, joins)).collect::<Result<Vec<_>, _>>()?;
    let last = sources.last().expect("there is a source");
    let to = args.to.unwrap_or_else(|| format_of(&args.output, last));
    args.writing.check(to)?;
    let (target, _) = args.writing.target(to, Some(&args.output));
    let mut options = args.writing.options(to, target)?;
    let output = args.output.as_path();
    if output == Path::new("-") || !output.is_dir() && !args.writing.writes_folder(target) {
        ckpt_inspect::staged::may_write(output, args.writing.force)?;
    }
    paths::spare([output], || {
        let beside = edits.iter().flat_map(|edit| edit.inputs()).chain(args.writing.tokenizer.clone());
        load::files(&paths.iter().cloned().chain(beside).collect::<Vec<_>>())
    })?;
    #[cfg(feature = "infer")]
    let text = args.perplexity.as_deref().map(loss::Text::of).transpose()?;
    let signal = Signal::listen()?;
    if !args.writing.no_verify {
        verify_checksums(&mut sources, joins);
    }
    sources.iter().try_for_each(load::whole)?;
    for source in &sources {
        let path = source.path.display();
        source
            .warnings
            .iter()
            .for_each(|w| terminal::warning(&format!("{path}: {}", terminal::escape(&w.text))));
    }
    options.force = args.writing.force;
    let edited = edit::edit(sources, &edits, &Settings::of(&options))?;
    #[cfg(feature = "infer")]
    if text.is_some() && edited.is_adapter() {
        return Err(Failure::usage("--perplexity needs a model, and the output is an adapter"));
    }
    #[cfg(feature = "infer")]
    let before = text.map(|text| text.before(&edited.checkpoint().path)).transpose()?;
    let written = write(args, &edited, &options, &signal).map_err(|failure| signal.explain(failure))?;
    #[allow(unused_mut)]
    let mut outcome = Outcome { args, paths: &paths, edited: &edited, written, loss: None };
    outcome.tell()?;
    #[cfg(feature = "infer")]
    if let Some(before) = before
        && outcome.agrees()
    {
        let measured = before.and_after(output)?;
        if args.format == Format::Human {
            terminal::print(&measured.sentence(outcome.last(), output))?;
        }
        outcome.loss = Some(measured.record());
    }
    if args.format == Format::Json {
        terminal::print(&terminal::json(&outcome.record()))?;
    }
    Ok(if outcome.agrees() { exit::FINE } else { exit::REFUSED })
}

/// The checkpoints to edit: one, or all that are averaged.
fn sources(args: &Args, joins: bool) -> Result<Vec<PathBuf>, Failure> {
    let found = load::expand(&args.sources)?.into_iter().map(|found| found.map_err(|(_, error)| error));
    let mut paths = found.collect::<Result<Vec<_>, _>>()?;
    if !joins && paths.len() > 1 {
        let why = format!(
            "{} checkpoints were given, but only one can be edited; --average makes one of several",
            paths.len()
        );
        return Err(Failure::usage(why));
    }
    let by_step = args.last.is_some() || paths.len() != args.sources.len();
    if joins && by_step {
        paths = in_order(paths, args.last.is_some())?;
    }
    if let Some(last) = args.last {
        let last = usize::try_from(last).unwrap_or(usize::MAX);
        if paths.len() < last {
            let why = format!("--last {last}: there are only {} checkpoints of different steps", paths.len());
            return Err(Failure::usage(why));
        }
        paths.drain(..paths.len() - last);
    }
    Ok(paths)
}

/// `paths` in the order of their steps, where all have one. If they `must`, each step is there once: by the checkpoint whose name says it.
fn in_order(paths: Vec<PathBuf>, must: bool) -> Result<Vec<PathBuf>, Failure> {
    let mut steps = Vec::new();
    for path in paths {
        let named = ckpt_inspect::step_from_path(&path);
        let step = match named {
            Some(step) => Some(step),
            None => ckpt_inspect::open(&path)?.step.map(|(step, _)| step),
        };
        match step {
            Some(step) => steps.push((Some(step), named.is_none(), path)),
            None => steps.push((None, true, path)),
        }
    }
    // What a trainer saves beside its checkpoints at the end is one of them once more.
    if steps.iter().filter(|(step, ..)| step.is_some()).count() >= 2 {
        for (.., path) in steps.iter().filter(|(step, ..)| step.is_none()) {
            let path = terminal::path(path);
            terminal::warning(&format!(
                "{path}: is left out: its step is unknown, and those of the others are known"
            ));
        }
        steps.retain(|(step, ..)| step.is_some());
    }
    if let (true, Some((.., path))) = (must, steps.iter().find(|(step, ..)| step.is_none())) {
        let why = format!("{}: its step is unknown, and --last needs steps", path.display());
        return Err(Failure::usage(why));
    }
    if must || steps.iter().all(|(step, ..)| step.is_some()) {
        steps.sort();
    }
    if must {
        steps.dedup_by_key(|(step, ..)| *step);
    }
    Ok(steps.into_iter().map(|(.., path)| path).collect())
}

fn open(args: &Args, path: &Path, joins: bool) -> Result<Checkpoint, Failure> {
    let mut options = OpenOptions::i2s(args.i2s_layout);
    let is_gguf =
        args.to.is_some_and(writing::is_gguf) || args.output.extension().is_some_and(|e| e == "gguf");
    options.stored = args.writing.keeps() && !is_gguf && !joins;
    Ok(ckpt_inspect::open_with(path, &options)?)
}

/// Compares what has a checksum with it; what an average compares by itself is not read twice.
fn verify_checksums(sources: &mut [Checkpoint], joins: bool) {
    for source in sources {
        match joins {
            true => drop(source.verify_checksums_of(|tensor| {
                tensor.group == ckpt_inspect::Group::Weights && !edit::checks_itself(tensor)
            })),
            false => drop(source.verify_checksums()),
        }
    }
}

/// The format that the extension of `output` says, else that of `source`.
fn format_of(output: &Path, source: &Checkpoint) -> To {
    let extension = crate::format::extension(output);
    if let Some(target) = writing::by_extension(&extension) {
        return To::Target(target);
    }
    // PyTorch has no extension of its own.
    let is_torch = matches!(extension.as_str(), "pth" | "bin" | "ckpt" | "tar");
    let is_model_folder = source.path.is_stored_folder() && source.path.join("config.json").is_stored_file();
    To::Target(match source.format {
        _ if is_torch => Target::Torch,
        Container::Gguf { .. } => Target::Gguf(Gguf::default()),
        Container::SafeTensors | Container::TorchZip | Container::TorchLegacy if is_model_folder => {
            Target::Hf { packed: false }
        }
        Container::SafeTensors => Target::SafeTensors,
        Container::Npy | Container::Npz => Target::Npz,
        Container::TorchDistributed | Container::DeepSpeed => Target::Dcp,
        _ => Target::Torch,
    })
}

/// What was written.
struct Written {
    bytes: u64,
    tensors: usize,
    notes: Vec<String>,
    /// How it compares with what was to be written, if that was asked.
    report: Option<ckpt_convert::Report>,
}

fn write(
    args: &Args,
    edited: &Edited,
    options: &ckpt_convert::Options,
    signal: &Signal,
) -> Result<Written, Failure> {
    let mut plan = edited.plan(options)?;
    let progress = terminal::progress(plan.bytes(), "editing");
    let done = |bytes| progress.done(bytes);
    let control = Control::new(&done, &signal.flag);
    let written = ckpt_convert::write(&mut plan, options, &args.output, control);
    progress.clear();
    let bytes = written?.bytes;
    let report = match args.writing.no_verify {
        true => None,
        false => Some(ckpt_convert::verify_written(&plan, &args.output)?),
    };
    let notes = plan.notes.iter().map(writing::sentence).collect();
    Ok(Written { bytes, tensors: plan.tensors.len(), notes, report })
}

/// Everything that there is to say.
struct Outcome<'o> {
    args: &'o Args,
    paths: &'o [PathBuf],
    edited: &'o Edited,
    written: Written,
    loss: Option<Value>,
}

impl Outcome<'_> {
    fn agrees(&self) -> bool {
        self.written.report.as_ref().is_none_or(ckpt_convert::Report::agrees)
    }

    /// The source that the result has its plain values from.
    fn last(&self) -> &Path {
        &self.edited.checkpoint().path
    }

    /// The tensors with values that are not finite, in words.
    fn not_finite(&self) -> Option<String> {
        let found = self.edited.not_finite();
        let (first, _) = found.first()?;
        let values: u64 = found.iter().map(|(_, count)| count).sum();
        Some(format!(
            "{} of the result {} values that are NaN or infinite, {values} in all, such as `{}`",
            verify::tensors(found.len()),
            if found.len() == 1 { "has" } else { "have" },
            first.escape_debug()
        ))
    }

    /// Prints it for people, and warnings in any case.
    fn tell(&self) -> Result<(), Failure> {
        for change in self.edited.changes() {
            let text = terminal::escape(&change.to_string());
            match change.is_warning() {
                true => terminal::warning(&text),
                false => terminal::note(&text),
            }
        }
        for note in self.written.notes.iter().chain(&self.not_finite()) {
            terminal::warning(&format!("{}: {}", self.last().display(), terminal::escape(note)));
        }
        if self.args.format == Format::Json {
            return Ok(());
        }
        let from = match self.paths {
            [one] => terminal::path(one),
            several => format!("{} checkpoints", several.len()),
        };
        let wrote = format!(
            "{from} → {} ({}, {})",
            terminal::path(&self.args.output),
            terminal::bytes(self.written.bytes),
            verify::tensors(self.written.tensors)
        );
        let Some(report) = &self.written.report else {
            return terminal::print(&format!("{wrote}; not verified\n"));
        };
        if !report.agrees() {
            terminal::print(&verify::details(report, false))?;
        }
        terminal::print(&format!("{wrote}; {}\n", verify::sentence(report)))
    }

    fn record(&self) -> Value {
        let changes: Vec<Value> = self.edited.changes().map(edit::Change::record).collect();
        let not_finite = self.edited.not_finite();
        let not_finite: Vec<Value> =
            not_finite.iter().map(|(name, count)| json!({"name": name, "values": count})).collect();
        let verified = self.written.report.as_ref().map(|report| {
            json!({
                "agrees": report.agrees(),
                "tensors": report.tensors.len(),
                "failures": report.failures().collect::<Vec<_>>(),
                "missing": report.missing,
                "extra": report.extra,
            })
        });
        let shown = |path: &Path| path.to_string_lossy().into_owned();
        json!({
            "sources": self.paths.iter().map(|path| shown(path)).collect::<Vec<_>>(),
            "output": shown(&self.args.output),
            "bytes": self.written.bytes,
            "tensors": self.written.tensors,
            "changes": changes,
            "notes": self.written.notes,
            "not_finite": not_finite,
            "verified": verified,
            "perplexity": self.loss,
        })
    }
}
