//! `ckpt verify`: whether two checkpoints have the same weights, or compute the same.

use std::path::PathBuf;

use anstyle::Style;
use ckpt_convert::{Agreement, Report, Rule, Which};
use ckpt_inspect::{I2sLayout, OpenOptions};

use crate::format::Plain as Format;
use crate::load;
#[cfg(feature = "infer")]
use crate::outputs::{self, OutputArgs};
use crate::terminal::{self, Table};
use crate::{Failure, exit};

#[cfg_attr(
    feature = "infer",
    doc = "Compare the weights of two checkpoints, whatever their formats and names; with --outputs, compare what the models compute."
)]
#[cfg_attr(
    not(feature = "infer"),
    doc = "Compare the weights of two checkpoints, whatever their formats and names."
)]
///
/// Equal types must match bit for bit, a narrower type must match the rounded wider one, packed ternary matrices must
/// match in codes and scales, block formats within their precision. Exit code 1 when they do not match.
#[derive(clap::Args)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// The first checkpoint.
    a: PathBuf,
    /// The second checkpoint.
    b: PathBuf,
    /// List every tensor, not only those that differ.
    #[arg(long)]
    all: bool,
    /// Layout of I2_S tensors (bitnet.cpp's ternary type), which GGUF files do not record: x86, arm or rows.
    #[arg(long, value_name = "LAYOUT")]
    i2s_layout: Option<I2sLayout>,
    /// Output format.
    #[arg(long, default_value = "human")]
    format: Format,
    #[cfg(feature = "infer")]
    #[command(flatten, next_help_heading = "Comparing outputs")]
    outputs: OutputArgs,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<u8, Failure> {
    #[cfg(feature = "infer")]
    if args.outputs.outputs {
        return outputs::run(&args.outputs, (&args.a, &args.b), args.format == Format::Json);
    }
    let options = OpenOptions::i2s(args.i2s_layout);
    let open = |path| -> Result<_, Failure> {
        let mut checkpoint = ckpt_inspect::open_with(path, &options)?;
        checkpoint.verify_checksums();
        load::whole(&checkpoint)?;
        Ok(checkpoint)
    };
    let report = ckpt_convert::verify(&open(&args.a)?, &open(&args.b)?)?;
    let text = match args.format {
        Format::Json => json(&report)?,
        Format::Human => details(&report, args.all) + &sentence(&report) + "\n",
    };
    terminal::print(&text)?;
    Ok(if report.agrees() { exit::FINE } else { exit::REFUSED })
}

fn json(report: &Report) -> Result<String, Failure> {
    let mut value = serde_json::to_value(report).map_err(|e| Failure::unwritable(e.to_string()))?;
    value["agrees"] = report.agrees().into();
    Ok(terminal::json(&value))
}

/// The outcome in one line.
pub fn sentence(report: &Report) -> String {
    let count = |rule: Rule| report.tensors.iter().filter(|t| t.agrees && t.rule == rule).count();
    let kinds = [
        (Rule::Identical, "bit-equal"),
        (Rule::Rounded, "equal after rounding"),
        (Rule::Ternary, "ternary-equal"),
        (Rule::Kept, "with the same codes and scales"),
        (Rule::Blocks, "within the precision of their blocks"),
    ];
    let kinds: Vec<String> = kinds
        .into_iter()
        .filter(|(rule, _)| count(*rule) > 0)
        .map(|(rule, words)| format!("{} {words}", count(rule)))
        .collect();
    let agreeing =
        if kinds.is_empty() { "none agree".to_string() } else { kinds.join(", ") + &rounding(report) };
    let total = report.tensors.len();
    let skipped = match report.skipped.len() {
        0 => String::new(),
        n => format!("; not compared: {}", tensors(n)),
    };
    if report.agrees() {
        return format!("verified: {}, {agreeing}{skipped}", tensors(total));
    }
    if report.tensors.is_empty() && report.missing.is_empty() && report.extra.is_empty() {
        return format!("differs: there was nothing to compare{skipped}");
    }
    let bad = [
        (report.failures().count(), "differ"),
        (report.missing.len(), "missing"),
        (report.extra.len(), "only in the second"),
    ];
    let bad: Vec<String> =
        bad.iter().filter(|(n, _)| *n > 0).map(|(n, words)| format!("{n} {words}")).collect();
    format!("differs: {}; of {total} compared, {agreeing}{skipped}", bad.join(", "))
}

/// Which side is rounded, and in how many elements.
fn rounding(report: &Report) -> String {
    let of = |which: Which| {
        let own = report.tensors.iter().filter_map(|t| t.rounding.filter(|r| t.agrees && r.side == which));
        own.map(|rounding| rounding.elements).sum::<u64>()
    };
    let sides = [(Which::First, "first"), (Which::Second, "second")].map(|(place, name)| (of(place), name));
    let said: Vec<String> = sides
        .into_iter()
        .filter(|(elements, _)| *elements > 0)
        .map(|(elements, name)| {
            format!("the {name} in {elements} element{}", if elements == 1 { "" } else { "s" })
        })
        .collect();
    if said.is_empty() { String::new() } else { format!(" (rounded: {})", said.join(", ")) }
}

/// `1 tensor`, `2 tensors`.
pub fn tensors(n: usize) -> String {
    format!("{n} tensor{}", if n == 1 { "" } else { "s" })
}

/// Rows on tensors that do not agree, or on all.
pub fn details(report: &Report, all: bool) -> String {
    let chosen: Vec<&Agreement> = report.tensors.iter().filter(|t| all || !t.agrees).collect();
    let mut out = String::new();
    if !chosen.is_empty() {
        let columns = [("tensor", false), ("types", false), ("outcome", false), ("largest difference", true)];
        let mut table = Table::new(&columns, &["types"]);
        for tensor in chosen {
            let style = match tensor.agrees {
                true => Style::new(),
                false => terminal::verdict_style(Some(ckpt_inspect::Verdict::Dead)),
            };
            let plain = |text: String| (text, Style::new());
            table.row(vec![
                plain(terminal::escape(&tensor.name)),
                plain(tensor.dtypes.map(|dtype| dtype.to_string()).join(" → ")),
                (outcome(tensor), style),
                plain(terminal::number(tensor.worst)),
            ]);
        }
        out += &table.render(terminal::width());
    }
    for (names, words) in [(&report.missing, "missing"), (&report.extra, "only in the second")] {
        for name in names {
            out += &format!("{words}: {}\n", terminal::escape(name));
        }
    }
    out
}

fn outcome(tensor: &Agreement) -> String {
    let detail = tensor.detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default();
    if tensor.agrees {
        return format!("agrees{detail}");
    }
    match tensor.first {
        Some(first) => {
            format!("{} of {} differ, first at {first}{detail}", tensor.differing, tensor.elements)
        }
        None => format!("differs{detail}"),
    }
}
