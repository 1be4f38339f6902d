//! What a place on the network does.

use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;
use ckpt_inspect::stored::Stat;

/// The answer to a request.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A bucket, a repository, a web server.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    /// The bytes of `range` of the file `key`, or as many of them as it has.
    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> Answer<'a, Piece>;

    /// What lies directly in the folder `key`; `None` where such a place cannot tell.
    fn list<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<(String, Stat)>>>;

    /// What lies in the folder `key` and all folders below it, at most `most` files, by paths from there; `None` where such a
    /// place cannot tell.
    fn list_below<'a>(&'a self, key: &'a str, most: usize) -> Answer<'a, Option<Below>> {
        let _ = (key, most);
        Box::pin(std::future::ready(Ok(None)))
    }

    /// What was found at or below the folder `key` and can be no path.
    fn left_out(&self, key: &str) -> Vec<String> {
        let _ = key;
        Vec::new()
    }

    /// Whether one request lists all that there is, so that asking for single files is never cheaper.
    fn lists_whole(&self) -> bool {
        false
    }
}

/// The files below a folder.
#[derive(Debug)]
pub(crate) struct Below {
    pub files: Vec<(String, Stat)>,
    /// Whether these are all.
    pub whole: bool,
}

/// A part of a file.
#[derive(Debug)]
pub(crate) struct Piece {
    pub bytes: Bytes,
    /// Bytes of the whole file.
    pub total: u64,
    /// Its entity tag, comparable to that of a listing.
    pub version: Option<String>,
}

/// An entity tag as all of a place's answers have it: some have it in quotes, and weak ones are marked.
pub(crate) fn entity_tag(tag: &str) -> String {
    tag.trim_start_matches("W/").trim_matches('"').to_string()
}

/// The place of a location, such as a bucket with its scheme, and the key in it.
pub(crate) fn site(location: &str) -> (&str, &str) {
    let start = location.find("://").map_or(0, |at| at + 3);
    match location[start..].split_once('/') {
        Some((place, key)) => (&location[..start + place.len()], key),
        None => (location, ""),
    }
}

/// The error of a place that does not answer, for the reason `why`.
pub(crate) fn unreachable(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::HostUnreachable, why)
}

/// What is said of a location where nothing is.
pub(crate) fn nothing_there() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "does not exist")
}

/// The last cause of `error`, which says most in fewest words.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
