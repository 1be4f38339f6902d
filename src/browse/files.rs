//! The rows of the list of files: searched, filtered and sorted.

use std::cmp::Reverse;

use ckpt_inspect::{CheckpointRecord, Verdict};

use super::order::{Order, Sorting};
use super::search::Query;
use super::state::File;
use super::tree::natural;

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRow {
    /// Its place among the files.
    pub file: usize,
    /// Characters of the path that the search matched, in order.
    pub hits: Vec<usize>,
}

/// Order of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileSort {
    #[default]
    Given,
    Name,
    Step,
    Verdict,
    Size,
}

impl Sorting for FileSort {
    fn next(self) -> Self {
        match self {
            FileSort::Given => FileSort::Name,
            FileSort::Name => FileSort::Step,
            FileSort::Step => FileSort::Verdict,
            FileSort::Verdict => FileSort::Size,
            FileSort::Size => FileSort::Given,
        }
    }

    fn name(self) -> &'static str {
        match self {
            FileSort::Given => "given order",
            FileSort::Name => "checkpoint",
            FileSort::Step => "step",
            FileSort::Verdict => "verdict",
            FileSort::Size => "size",
        }
    }
}

/// How bad a file is. One that cannot be read is worse than any.
fn standing(file: &File) -> (bool, Option<Verdict>) {
    let failed = matches!(file.record, Some(Err(_)));
    (failed, file.known().and_then(CheckpointRecord::standing))
}

/// The list of `files`. While a search is on, the best matches come first. What cannot be read is below healthy.
pub fn rows(files: &[File], order: &Order<FileSort>) -> Vec<FileRow> {
    let kept = files.iter().enumerate().filter(|(_, file)| match standing(file) {
        (true, _) => order.verdict.keeps(Some(Verdict::Corrupt)),
        (false, verdict) => order.verdict.keeps(verdict),
    });
    let path = |row: &FileRow| files[row.file].path.display().to_string();
    let mut rows: Vec<FileRow> = if order.query.is_empty() {
        kept.map(|(file, _)| FileRow { file, hits: Vec::new() }).collect()
    } else {
        let query = Query::new(&order.query);
        let mut found: Vec<_> = kept
            .filter_map(|(file, known)| {
                query.find(&known.path.display().to_string()).map(|found| (found, file))
            })
            .collect();
        found.sort_by_key(|(found, _)| Reverse(found.score));
        found.into_iter().map(|(found, file)| FileRow { file, hits: found.hits }).collect()
    };
    let known = |row: &FileRow| files[row.file].known();
    match order.sort {
        FileSort::Given => {}
        FileSort::Name => rows.sort_by_cached_key(|row| {
            let path = path(row);
            natural(&path).into_iter().map(|(number, part)| (number, part.to_string())).collect::<Vec<_>>()
        }),
        // What has no step comes last.
        FileSort::Step => {
            rows.sort_by_key(|row| known(row).and_then(|r| r.step).map_or((true, 0), |s| (false, s)))
        }
        FileSort::Verdict => rows.sort_by_key(|row| Reverse(standing(&files[row.file]))),
        FileSort::Size => rows.sort_by_key(|row| Reverse(known(row).map(|r| r.file_bytes))),
    }
    if order.reversed {
        rows.reverse();
    }
    rows
}
