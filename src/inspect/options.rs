//! The values of `ckpt inspect`'s options about what goes where.

use ckpt_reports::table::{TABLES, Tables};
use clap::builder::PossibleValue;

use super::Args;
use crate::Failure;
use crate::format::Choice;

#[derive(Clone, Copy)]
pub(super) enum Format {
    Human,
    Json,
    Ndjson,
    Table(&'static Tables),
}

pub(super) fn formats() -> Choice<Format> {
    let one = |name: &'static str, help: &'static str, format| (PossibleValue::new(name).help(help), format);
    let mut formats = vec![
        (PossibleValue::new("human"), Format::Human),
        one(
            "json",
            "An object for one checkpoint; a list for several paths, a pattern, or a folder of checkpoints",
            Format::Json,
        ),
        one("ndjson", "A line of JSON for each checkpoint, as soon as it is measured", Format::Ndjson),
    ];
    let table = |table: &'static Tables| {
        let help =
            format!("A table of checkpoints and tensors{}", if table.is_text { "" } else { ", for files" });
        (PossibleValue::new(table.name).help(help), Format::Table(table))
    };
    formats.extend(TABLES.iter().map(table));
    Choice::of(formats)
}

impl Format {
    /// What `args` ask for.
    pub(super) fn of(args: &Args) -> Result<Self, Failure> {
        let Some(output) = &args.output else { return Ok(args.format.unwrap_or(Format::Human)) };
        let extension = output.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let extension = if extension == "jsonl" { "ndjson".into() } else { extension };
        match args.format.or_else(|| formats().named(&extension)) {
            Some(format @ (Format::Ndjson | Format::Table(_))) => Ok(format),
            _ => Err(Failure::usage(
                "-o takes --format ndjson, csv or parquet; or a file with such an extension",
            )),
        }
    }
}

/// One of several equal parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shard {
    pub number: usize,
    pub of: usize,
}

impl Shard {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(number, of)| {
            let (number, of) = (number.parse().ok()?, of.parse().ok()?);
            (1..=of).contains(&number).then_some(Shard { number, of })
        });
        parsed.ok_or_else(|| "must be such as 1/4 for the first of four, up to 4/4".into())
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum RowsArg {
    /// Checkpoints, each with its tensors behind it.
    All,
    Checkpoints,
    Tensors,
}
