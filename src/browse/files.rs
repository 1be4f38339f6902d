//! The rows of the list of files: searched, filtered and sorted.

use std::cmp::Reverse;

use ckpt_inspect::{CheckpointRecord, Verdict};

use super::order::{Order, Sorting};
use super::search::{Found, Query};
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

/// Bytes of the folder, with the separator behind it, that all `paths` lie in.
fn shared_folder(paths: &[String]) -> usize {
    let Some(first) = paths.first() else { return 0 };
    let alike = |path: &String| first.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count();
    let alike = paths.iter().map(alike).min().unwrap_or(0);
    first.as_bytes()[..alike].iter().rposition(|&b| std::path::is_separator(b.into())).map_or(0, |at| at + 1)
}

/// The list of `files`. While a search is on, the best matches come first, by what tells the files apart: letters of
/// the folder that all lie in would match for every file or none. What cannot be read is below healthy.
pub fn rows(files: &[File], order: &Order<FileSort>) -> Vec<FileRow> {
    let kept = files.iter().enumerate().filter(|(_, file)| match standing(file) {
        (true, _) => order.verdict.keeps(Some(Verdict::Corrupt)),
        (false, verdict) => order.verdict.keeps(verdict),
    });
    let path = |file: usize| files[file].path.display().to_string();
    let mut rows: Vec<FileRow> = if order.query.is_empty() {
        kept.map(|(file, _)| FileRow { file, hits: Vec::new() }).collect()
    } else {
        let query = Query::new(&order.query);
        let paths: Vec<String> = (0..files.len()).map(path).collect();
        let folder = shared_folder(&paths);
        let mut found: Vec<_> = kept
            .filter_map(|(file, _)| query.find(&paths[file][folder..]).map(|found| (found, file)))
            .collect();
        found.sort_by_key(|(found, _)| Reverse(found.score));
        let before = paths.first().map_or(0, |path| path[..folder].chars().count());
        let row = |(found, file): (Found, usize)| FileRow {
            file,
            hits: found.hits.into_iter().map(|hit| before + hit).collect(),
        };
        found.into_iter().map(row).collect()
    };
    let known = |row: &FileRow| files[row.file].known();
    match order.sort {
        FileSort::Given => {}
        FileSort::Name => rows.sort_by_cached_key(|row| {
            let path = path(row.file);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_all_files_is_what_their_paths_begin_with_alike() {
        let folder = |paths: &[&str]| shared_folder(&paths.iter().map(|p| p.to_string()).collect::<Vec<_>>());
        assert_eq!(folder(&["/m5/a-1.pt", "/m5/a-2.pt"]), 4);
        assert_eq!(folder(&["/m5/step-1/model.pt", "/m5/step-10/model.pt"]), 4);
        assert_eq!(folder(&["runs/été/a.pt", "runs/été/b.pt"]), "runs/été/".len());
        assert_eq!(folder(&["a.pt", "b.pt"]), 0);
        assert_eq!(folder(&["runs/only.pt"]), 5);
        assert_eq!(folder(&[]), 0);
    }
}
