//! `ckpt recover`: what can be saved from a damaged checkpoint.

use std::path::{Path, PathBuf};

use anstyle::Style;
use ckpt_convert::{Control, Gguf, Options, Plan, Target};
use ckpt_inspect::salvage::{Fill, Loss, Salvage, salvage};
use ckpt_inspect::{Format as Container, I2sLayout, OpenOptions, Verdict};
use serde_json::json;

use crate::format::Plain as Format;
use crate::signal::Signal;
use crate::terminal::{self, Table};
use crate::{Failure, exit, load, paths, verify};

/// Save what is intact in a damaged checkpoint, and list what is lost.
///
/// Handles PyTorch zips that are truncated, partly overwritten or have a missing or wrong directory, and truncated
/// legacy PyTorch, SafeTensors and GGUF files. Without -o nothing is written, and the list shows what could be saved.
/// Exit codes: 0 everything is intact; 1 the copy does not match; 2 wrong usage; 3 something is lost, or nothing can be
/// recovered; 4 the output cannot be written.
#[derive(clap::Args)]
pub struct Args {
    /// The damaged file, or a folder that holds one checkpoint.
    path: PathBuf,
    /// Output file: .safetensors, .npz (NumPy) or .gguf (from GGUF only); any other extension writes PyTorch.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What replaces lost tensors: zeros, nan, or from=OTHER for the tensor of the same name in another checkpoint. May
    /// be repeated: the first one that can fill a tensor is used. Without it, lost tensors are left out.
    #[arg(long, value_name = "WHAT", value_parser = filler)]
    fill: Vec<Filler>,
    /// Replace an existing output.
    #[arg(long)]
    force: bool,
    /// Output format.
    #[arg(long, default_value = "human")]
    format: Format,
    /// Layout of I2_S tensors (bitnet.cpp's ternary type), which GGUF files do not record: x86, arm or rows.
    #[arg(long, value_name = "LAYOUT")]
    i2s_layout: Option<I2sLayout>,
}

#[derive(Clone)]
enum Filler {
    With(Fill),
    From(PathBuf),
}

fn filler(text: &str) -> Result<Filler, String> {
    match (text, text.strip_prefix("from=")) {
        ("zeros", _) => Ok(Filler::With(Fill::Zeros)),
        ("nan", _) => Ok(Filler::With(Fill::Nan)),
        (_, Some(path)) if !path.is_empty() => Ok(Filler::From(path.into())),
        _ => Err("must be zeros, nan or from=CHECKPOINT".into()),
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if let Some(output) = &args.output {
        terminal::may_write(output, args.force)?;
        let others = args.fill.iter().filter_map(|filler| match filler {
            Filler::From(path) => Some(path.clone()),
            Filler::With(_) => None,
        });
        let read: Vec<PathBuf> = others.chain([args.path.clone()]).collect();
        paths::spare([output.as_path()], || load::files(&read))?;
    }
    let mut options = OpenOptions::i2s(args.i2s_layout);
    options.stored = true;
    let mut salvage = salvage(&args.path, &options)?;
    let lists_nothing = salvage.checkpoint.tensors.is_empty() && salvage.losses.is_empty();
    for filler in &args.fill {
        match filler {
            Filler::With(fill) => drop(salvage.fill(*fill)),
            Filler::From(path) => {
                let found = salvage.fill_from(ckpt_inspect::open_with(path, &options)?);
                if found == 0 && salvage.holes().next().is_some() {
                    terminal::warning(&format!(
                        "{} has no intact tensor of the same name, type and shape for any of the lost ones",
                        terminal::escape(&path.display().to_string())
                    ));
                }
            }
        }
    }
    let written = match &args.output {
        Some(output) if !salvage.checkpoint.tensors.is_empty() => Some(write(args, &mut salvage, output)?),
        _ => None,
    };
    let text = match args.format {
        Format::Json => terminal::json(&record(args, &salvage, written.as_ref())),
        Format::Human => human(args, &salvage, written.as_ref()),
    };
    terminal::print(&text)?;
    if salvage.checkpoint.tensors.is_empty() {
        let what = if lists_nothing { "it lists no tensors" } else { "none of its tensors is intact" };
        return Err(Failure::unreadable(format!(
            "{}: {what}, so nothing was written; --fill replaces lost tensors",
            args.path.display()
        )));
    }
    Ok(match written {
        Some(Written { agrees: false, .. }) => exit::REFUSED,
        _ if salvage.is_whole() => exit::FINE,
        _ => exit::UNREADABLE,
    })
}

/// What was written.
struct Written {
    bytes: u64,
    notes: Vec<String>,
    tensors: usize,
    /// The outcome of reading it back, in one line.
    verified: String,
    agrees: bool,
}

fn write(args: &Args, salvage: &mut Salvage, output: &Path) -> Result<Written, Failure> {
    let source = &salvage.checkpoint;
    let pickled = !matches!(source.format, Container::SafeTensors | Container::Gguf { .. });
    let extension = output.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let target = match extension.as_deref() {
        Some("safetensors") => Target::SafeTensors,
        Some("npz") => Target::Npz,
        Some("npy") => {
            return Err(Failure::usage(
                "a .npy file holds a single array, not a checkpoint; recover to .npz, .pt or .safetensors",
            ));
        }
        Some("gguf") if matches!(source.format, Container::Gguf { .. }) => Target::Gguf(Gguf::default()),
        Some("gguf") => {
            return Err(Failure::usage(
                "only a GGUF file can be recovered to GGUF; recover to .pt or .safetensors, then run `ckpt convert --to gguf`",
            ));
        }
        _ => Target::Torch,
    };
    // The other containers have no lists, so elements keep their names.
    if target == Target::Torch {
        salvage.close_gaps();
    }
    let source = &salvage.checkpoint;
    let keep_optimizer = pickled && target == Target::Torch;
    let options = Options::new(target).with(|o| {
        o.force = args.force;
        o.keep_optimizer = keep_optimizer;
        o.keep_quantized = true;
        o.decode_the_rest = true;
        o.allow_incomplete = true;
    });
    let mut plan = Plan::new(source, &options)?;
    let signal = Signal::listen()?;
    let progress = terminal::progress(plan.bytes(), "recovering");
    let done = |bytes| progress.done(bytes);
    let control = Control::new(&done, &signal.flag);
    let written = ckpt_convert::write(&mut plan, &options, output, control);
    progress.clear();
    let written = written.map_err(|e| signal.explain(e.into()))?;
    let report = ckpt_convert::verify_written(&plan, output)?;
    let mut notes: Vec<String> = plan.notes.iter().map(crate::writing::sentence).collect();
    let left_out = source.tensors.len() - plan.pairs.len().min(source.tensors.len());
    if !keep_optimizer && pickled && left_out > 0 {
        notes.push(format!(
            "{} are not weights and are left out; -o FILE.pt keeps them",
            verify::tensors(left_out)
        ));
    }
    Ok(Written {
        bytes: written.bytes,
        notes,
        tensors: plan.tensors.len() + plan.tied.len(),
        verified: verify::sentence(&report),
        agrees: report.agrees(),
    })
}

fn record(args: &Args, salvage: &Salvage, written: Option<&Written>) -> serde_json::Value {
    json!({
        "path": args.path.display().to_string(),
        "format": salvage.checkpoint.format.name(),
        "whole": salvage.is_whole(),
        "damage": salvage.damage,
        "tensors": {
            "verified": salvage.verified,
            "unverified": salvage.unverified.len(),
            "doubtful": salvage.doubtful.len(),
            "lost": salvage.losses.len(),
            "filled": salvage.losses.len() - salvage.holes().count(),
        },
        "unverified": salvage.unverified,
        "doubtful": salvage.doubtful,
        "losses": salvage.losses,
        "output": written.and(args.output.as_ref()).map(|output| output.display().to_string()),
        "output_bytes": written.map(|w| w.bytes),
        "output_tensors": written.map(|w| w.tensors),
        "output_agrees": written.map(|w| w.agrees),
        "notes": written.map(|w| &w.notes),
    })
}

/// Tensors listed as lost; --format json lists all.
const LISTED: usize = 200;
/// Reasons for doubt that are shown.
const NOTED: usize = 8;

fn human(args: &Args, salvage: &Salvage, written: Option<&Written>) -> String {
    let mut out = format!(
        "{}  {}\n",
        terminal::bold(&terminal::escape(&args.path.display().to_string())),
        salvage.checkpoint.format.name()
    );
    let bad = terminal::verdict_style(Some(Verdict::Dead));
    if let Some(damage) = &salvage.damage {
        out += &terminal::labelled("damage", bad, damage);
    }
    let (verified, unverified, lost) = (salvage.verified, salvage.unverified.len(), salvage.losses.len());
    let doubtful = salvage.doubtful.len();
    let all = verified + unverified + doubtful + lost;
    let vouched = match (verified, unverified) {
        (_, 0) => "all match their CRC-32".to_string(),
        (0, _) => "no checksums tell whether their bytes are what was saved".to_string(),
        (v, u) => format!("{v} match their CRC-32, for {u} there is no checksum"),
    };
    let there = verified + unverified;
    let detail = if there > 0 { format!(" ({vouched})") } else { String::new() };
    // Only checksums show that nothing was changed.
    let label = if unverified == 0 { "whole" } else { "complete" };
    out += &terminal::labelled(label, Style::new(), &format!("{there} of {}{detail}", verify::tensors(all)));
    if let Some(first) = salvage.doubtful.first() {
        let text = format!(
            "{}, such as {}: whether they are what was saved is not certain",
            verify::tensors(doubtful),
            terminal::escape(first)
        );
        out += &terminal::labelled("doubtful", terminal::verdict_style(Some(Verdict::Weak)), &text);
        let told = salvage.checkpoint.warnings.iter().filter(|notice| !notice.tensors.is_empty());
        for notice in told.take(NOTED) {
            out += &terminal::labelled("", Style::new(), &notice.text);
        }
    }
    if lost > 0 {
        let bytes = salvage.losses.iter().fold(0u64, |sum, loss| sum.saturating_add(loss.bytes));
        let unsized_ones = salvage.losses.iter().filter(|loss| loss.dtype.is_none()).count();
        let size = match unsized_ones {
            0 => terminal::bytes(bytes),
            all if all == lost => "of unknown size".to_string(),
            some => format!("{}, and {some} of unknown size", terminal::bytes(bytes)),
        };
        let text = format!("{}, {size}", verify::tensors(lost));
        out += &terminal::labelled("lost", bad, &text);
        out += &losses(&salvage.losses);
    }
    for note in written.iter().flat_map(|w| &w.notes) {
        out += &terminal::labelled("note", Style::new(), note);
    }
    let moved = salvage.holes().filter(|loss| loss.in_list).count();
    if moved > 0 {
        let text = format!(
            "{moved} lost tensors were elements of lists: the elements after them move up, unless --fill keeps their places"
        );
        out += &terminal::labelled("note", Style::new(), &text);
    }
    match (written, &args.output) {
        (Some(written), Some(output)) => {
            let what = format!(
                "{} ({}, {}); {}",
                terminal::path(output),
                terminal::bytes(written.bytes),
                verify::tensors(written.tensors),
                written.verified
            );
            out += &terminal::labelled("written", Style::new().bold(), &what);
        }
        (None, None) if there + doubtful > 0 => {
            out += &terminal::labelled("written", Style::new(), "nothing; -o FILE writes the intact tensors");
        }
        _ => {}
    }
    out
}

fn losses(losses: &[Loss]) -> String {
    let columns = [
        ("lost", false),
        ("type", false),
        ("size", true),
        ("bytes of the file", false),
        ("there", true),
        ("filled with", false),
        ("why", false),
    ];
    let mut table = Table::new(&columns, &["type", "size", "there"]);
    for loss in losses.iter().take(LISTED) {
        let shape: Vec<String> = loss.shape.iter().map(u64::to_string).collect();
        let dtype = loss.dtype.as_ref().map(|dtype| format!("{dtype} [{}]", shape.join(", ")));
        let plain = |text: String| (text, Style::new());
        table.row(vec![
            plain(terminal::escape(&loss.name)),
            plain(dtype.unwrap_or_else(|| "not known".into())),
            plain(if loss.dtype.is_some() { terminal::bytes(loss.bytes) } else { "not known".into() }),
            plain(match loss.range {
                Some((start, end)) => format!("{start}..{end}"),
                None if loss.present > 0 => "in several places".into(),
                None => "not in the file".into(),
            }),
            plain(terminal::bytes(loss.present)),
            plain(terminal::escape(loss.filled.as_deref().unwrap_or("left out"))),
            plain(terminal::escape(&loss.why)),
        ]);
    }
    let mut out = table.render(terminal::width());
    if losses.len() > LISTED {
        out += &format!("and {} more; --format json lists all\n", losses.len() - LISTED);
    }
    out
}
