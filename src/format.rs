//! The output formats of every command, by the names that `--format` takes.

use std::path::Path;

use clap::ValueEnum;

/// For people or programs: `inspect`, `diff`, `verify`, `recover`, `bench`.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Plain {
    Human,
    Json,
}

/// `gate`.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Gate {
    Human,
    Json,
    /// JUnit XML, for GitLab, Jenkins and others.
    Junit,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// GitHub workflow commands: annotations on the run.
    Github,
}

/// `scan`.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Scan {
    Human,
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
}

/// `diagnose`.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Diagnose {
    Human,
    Json,
    /// JUnit XML, a suite for each step.
    Junit,
}

/// `report`.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Report {
    Html,
    Json,
    Csv,
    Md,
}

impl Report {
    /// The format that the extension of `path` tells.
    pub fn of(path: &Path) -> Option<Report> {
        Some(match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "html" | "htm" => Report::Html,
            "json" => Report::Json,
            "csv" => Report::Csv,
            "md" | "markdown" => Report::Md,
            _ => return None,
        })
    }
}
