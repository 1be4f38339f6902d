//! Paths on the command line: files, folders, and patterns with `*`, `?` or `[` that stand for any number of them.

use std::collections::HashSet;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use ckpt_inspect::{Error, ErrorKind};

use crate::{Failure, terminal};

/// The paths that `path` stands for: itself, or if nothing of that name is there and it is a pattern, what matches,
/// which may be nothing.
///
/// # Errors
/// A pattern that is none is wrong usage.
pub fn matches(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let text = path.to_string_lossy();
    if path.exists() || !text.contains(['*', '?', '[']) {
        return Ok(vec![path.to_path_buf()]);
    }
    let matches = glob::glob(&text)
        .map_err(|e| Failure::usage(format!("{}: is no pattern: {e}", terminal::path(path))))?;
    Ok(matches.filter_map(Result::ok).collect())
}

/// A path that was found, or an argument that led to none and why.
pub type Found = Result<PathBuf, (PathBuf, Error)>;

/// What `list` finds at each path that `paths` stand for, in order, each identity once. Where it finds nothing,
/// `nothing` says so.
///
/// # Errors
/// Those of [`matches`].
pub fn expand<I: Eq + Hash>(
    paths: &[PathBuf],
    list: impl Fn(&Path) -> Result<Vec<PathBuf>, Error>,
    nothing: impl Fn(&Path) -> Error,
    identity: impl Fn(&Path) -> I,
) -> Result<Vec<Found>, Failure> {
    let mut found: Vec<Found> = Vec::new();
    for given in paths {
        let matches = matches(given)?;
        if matches.is_empty() {
            let error = Error::new(ErrorKind::Io, "no file matches this pattern").in_file(given);
            found.push(Err((given.clone(), error)));
        }
        for path in matches {
            match list(&path) {
                Ok(listed) if listed.is_empty() => found.push(Err((path.clone(), nothing(&path)))),
                Ok(listed) => found.extend(listed.into_iter().map(Ok)),
                Err(error) => found.push(Err((path, error))),
            }
        }
    }
    let mut seen = HashSet::new();
    found.retain(|found| match found {
        Ok(path) => seen.insert(identity(path)),
        Err(_) => true,
    });
    Ok(found)
}
