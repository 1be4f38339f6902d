//! The values of `ckpt inspect`'s options about what goes where.

use std::path::Path;

use ckpt_reports::table::{TABLES, Tables};
use clap::builder::PossibleValue;

use super::Args;
use crate::Failure;
use crate::format::{Choice, extension};

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
        match args.format.or_else(|| formats().named(&extension(output))) {
            Some(format @ (Format::Ndjson | Format::Table(_))) => Ok(format),
            _ => Err(Failure::usage(
                "-o takes --format ndjson, csv or parquet; or a file with such an extension",
            )),
        }
    }
}

/// One of several parts, which are about equal.
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

    /// Whether the checkpoint at `path` is in it. That depends on the path alone: a checkpoint that comes, goes or cannot be
    /// read on some machine does not move the others to other parts.
    pub(super) fn has(self, path: &Path) -> bool {
        // FNV-1a in 64 bits, and the finalizer of MurmurHash3 for its low bits.
        let mut hash =
            path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
            hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
        }
        (hash ^ (hash >> 33)) % self.of as u64 == self.number as u64 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_in_one_part_and_parts_are_about_equal() {
        for of in [2, 3, 64] {
            let mut parts = vec![0; of];
            for i in 0..6400 {
                let path = format!("/runs/{}/step-{:05}.pt", i % 80, i * 100);
                let of_it: Vec<usize> =
                    (1..=of).filter(|&number| Shard { number, of }.has(Path::new(&path))).collect();
                assert_eq!(of_it.len(), 1, "{path}");
                parts[of_it[0] - 1] += 1;
            }
            let (least, most) = (parts.iter().min().unwrap(), parts.iter().max().unwrap());
            assert!(least * 2 > *most, "{parts:?}");
        }
        // What parts hold must not change from one version to the next, in which a job is begun again.
        let path = Path::new("/runs/a/step-01000.pt");
        assert_eq!((1..=10).find(|&number| Shard { number, of: 10 }.has(path)), Some(3));
    }
}
