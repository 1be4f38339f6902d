//! Paths on the command line: files, folders, and patterns with `*`, `?` or `[` that match any number of them.

use ckpt_inspect::stored::{self, Stored};
use std::collections::HashSet;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use ckpt_inspect::{Error, ErrorKind};

use crate::{Failure, terminal};

/// Whether `path` is no file but a pattern.
pub fn is_pattern(path: &Path) -> bool {
    // What follows a question mark in a URL belongs to it.
    let marks: &[char] = if stored::is_remote(path) { &['*', '['] } else { &['*', '?', '['] };
    let text = path.to_string_lossy();
    // An address of IPv6 is in brackets.
    let host = text.find("://").filter(|_| stored::is_remote(path)).map_or(0, |at| at + 3);
    let begin = text[host..].find('/').filter(|_| host > 0).map_or(host, |at| host + at);
    text[begin..].contains(marks) && !path.is_stored()
}

/// The paths that `path` matches: itself, or, if there is no such file and it is a pattern, all that match, perhaps
/// none.
///
/// # Errors
/// An invalid pattern is wrong usage.
pub fn matches(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !is_pattern(path) {
        return Ok(vec![stored::admitted(path).into_owned()]);
    }
    if stored::is_remote(path) {
        return remote_matches(path);
    }
    let text = path.to_string_lossy();
    let matches = glob::glob(&text)
        .map_err(|e| Failure::usage(format!("{}: not a valid glob pattern: {e}", terminal::path(path))))?;
    // A pattern such as `.*` is meant for what is in a folder, and not for the folder itself or the one above.
    let ways =
        |text: &str| text.split(std::path::is_separator).filter(|part| matches!(*part, "." | "..")).count();
    let within = |path: &PathBuf| ways(&path.to_string_lossy()) <= ways(&text);
    Ok(matches.filter_map(Result::ok).filter(within).collect())
}

/// What matches `pattern`, a URL, in the folders that its store lists.
fn remote_matches(pattern: &Path) -> Result<Vec<PathBuf>, Failure> {
    let text = pattern.to_string_lossy();
    let start = text.find("://").map_or(0, |at| at + 3);
    let mut parts = text[start..].split('/').filter(|part| !part.is_empty());
    let root = parts.next().unwrap_or_default();
    let mut found = vec![PathBuf::from(format!("{}{root}", &text[..start]))];
    for part in parts {
        if !part.contains(['*', '[']) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        if part.contains("**") {
            let what = "`**` matches folders of this machine only; name the folders, or the one above them";
            return Err(Failure::usage(format!("{}: {what}", terminal::path(pattern))));
        }
        // These have a meaning in patterns here, and none elsewhere or another one in URLs.
        let part = part.replace('?', "[?]").replace('{', "[{]").replace('}', "[}]");
        let glob = globset::Glob::new(&part).map_err(|e| {
            Failure::usage(format!("{}: not a valid glob pattern: {e}", terminal::path(pattern)))
        })?;
        let glob = glob.compile_matcher();
        let mut within = Vec::new();
        for folder in &found {
            let entries = folder.stored_entries().map_err(|e| Error::io(folder, &e))?;
            let names = |path: &PathBuf| path.file_name().is_some_and(|name| glob.is_match(name));
            within.extend(entries.into_iter().map(|entry| entry.path).filter(names));
        }
        within.sort();
        found = within;
    }
    found.retain(|path| path.is_stored());
    Ok(found)
}

/// `path` from the root on, without `..` or links to folders; a link to a file keeps its own name.
///
/// # Errors
/// A path that does not exist cannot be read.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    if stored::is_remote(path) {
        return Ok(path.to_path_buf());
    }
    let folder = |folder: &Path| match folder {
        empty if empty == Path::new("") => Path::new(".").canonicalize(),
        folder => folder.canonicalize(),
    };
    let resolved = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => folder(parent).map(|parent| parent.join(name)),
        _ => folder(path),
    };
    resolved.map_err(|e| Error::new(ErrorKind::Io, e.to_string()).in_file(path).into())
}

/// Refuses `outputs` that would replace an input: one of the files that `sources` lists, or a folder that contains one.
/// `sources` is called only if an output exists already.
///
/// # Errors
/// Wrong usage.
pub fn spare<'p>(
    outputs: impl IntoIterator<Item = &'p Path>,
    sources: impl FnOnce() -> Vec<PathBuf>,
) -> Result<(), Failure> {
    let there = |output: &'p Path| Some((output, output.canonicalize().ok()?));
    let outputs: Vec<_> = outputs.into_iter().filter_map(there).collect();
    if outputs.is_empty() {
        return Ok(());
    }
    let sources: Vec<PathBuf> = sources().iter().filter_map(|source| source.stored_identity().ok()).collect();
    match outputs.iter().find(|(_, output)| sources.iter().any(|source| source.starts_with(output))) {
        Some((output, _)) => {
            Err(Failure::usage(format!("{} is an input; choose another output", terminal::path(output))))
        }
        None => Ok(()),
    }
}

/// Notes which keys of a bucket are not looked at, since they can be no paths.
fn tell_left_out(keys: &[String]) {
    if let [first, more @ ..] = keys {
        let first = terminal::path(Path::new(first));
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        terminal::note(&format!("left out, since such keys can be no paths: {first}{more}"));
    }
}

/// A path that was found, or an argument that matched none and why.
pub type Found = Result<PathBuf, (PathBuf, Error)>;

/// What `list` finds at each path that `paths` match, in order, each identity once. Where it finds nothing,
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
            let error =
                Error::new(ErrorKind::Io, "no file matches this pattern").in_file(&stored::admitted(given));
            found.push(Err((stored::admitted(given).into_owned(), error)));
        }
        for path in matches {
            match list(&path) {
                Ok(listed) if listed.is_empty() => found.push(Err((path.clone(), nothing(&path)))),
                Ok(listed) => found.extend(listed.into_iter().map(Ok)),
                Err(error) => found.push(Err((path.clone(), error))),
            }
            tell_left_out(&stored::left_out(&path));
        }
    }
    let mut seen = HashSet::new();
    found.retain(|found| match found {
        Ok(path) => seen.insert(identity(path)),
        Err(_) => true,
    });
    Ok(found)
}
