//! The output formats, a table for each kind of result: their names on the command line, their help and their file
//! extensions all come from here.
//!
//! A new one is a file and a line in a table.

use std::path::Path;

use crate::gate::Outcome;
use crate::{Error, Report, Scanned, csv, github, html, json, junit, markdown, sarif};

/// A format that a `T` can be written in.
#[derive(Debug)]
#[non_exhaustive]
pub struct Exporter<T> {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its description and purpose, if the name does not say so.
    pub summary: Option<&'static str>,
    /// Extensions of files that are in this format, lower-case, the usual one first; empty where a file's name does not
    /// choose.
    pub extensions: &'static [&'static str],
    /// Whether it is a page, which is not readable on a terminal.
    pub page: bool,
    /// Writes it. The path is the top of the repository: formats that attach findings to files see them from there.
    pub write: fn(&T, Option<&Path>) -> Result<String, Error>,
}

impl<T> Exporter<T> {
    /// A format of this name, without file extensions.
    pub const fn new(name: &'static str, write: fn(&T, Option<&Path>) -> Result<String, Error>) -> Self {
        Exporter { name, summary: None, extensions: &[], page: false, write }
    }

    /// The format, with a description and purpose.
    pub const fn with_summary(mut self, summary: &'static str) -> Self {
        self.summary = Some(summary);
        self
    }
}

/// A report's formats, the default first.
pub static REPORTS: [Exporter<Report>; 4] = [html::REPORT, json::REPORT, csv::REPORT, markdown::REPORT];

/// The gate's formats for machines.
pub static GATES: [Exporter<Outcome>; 4] = [json::GATE, junit::GATE, sarif::GATE, github::GATE];

/// A scan's formats for machines.
pub static SCANS: [Exporter<Scanned>; 2] = [json::SCAN, sarif::SCAN];

impl<T> Exporter<T> {
    /// The format of `table` that has the extension of `path`.
    pub fn of_path<'a>(table: &'a [Self], path: &Path) -> Option<&'a Self> {
        let extension = path.extension()?.to_str()?;
        table.iter().find(|exporter| exporter.extensions.iter().any(|e| e.eq_ignore_ascii_case(extension)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<T>(table: &[Exporter<T>]) -> Vec<&'static str> {
        table.iter().map(|exporter| exporter.name).collect()
    }

    #[test]
    fn each_name_and_each_extension_gives_one_format() {
        for mut names in [
            names(&REPORTS),
            names(&GATES),
            names(&SCANS),
            REPORTS.iter().flat_map(|exporter| exporter.extensions).copied().collect(),
        ] {
            assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase())), "{names:?}");
            let all = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), all, "{names:?}");
        }
    }

    #[test]
    fn the_format_follows_from_the_path() {
        let format_of =
            |path: &str| Exporter::of_path(&REPORTS, Path::new(path)).map(|exporter| exporter.name);
        for (path, name) in [
            ("a/report.html", Some("html")),
            ("Report.HTM", Some("html")),
            ("a.json", Some("json")),
            ("a.csv", Some("csv")),
            ("a.b.md", Some("md")),
            ("a.markdown", Some("md")),
            ("a.pdf", None),
            ("html", None),
            (".csv", None),
        ] {
            assert_eq!(format_of(path), name, "{path}");
        }
    }
}
