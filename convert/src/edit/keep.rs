//! Leaving out tensors by name, or all others.

use std::collections::HashSet;
use std::fmt;

use serde_json::json;

use super::{Change, Draft, Edit, Pattern, Row, tensors};
use crate::{Error, Result};

/// `--drop`.
pub(super) const DROP: Row = Row {
    flag: "drop",
    value: Some("PATTERN"),
    repeats: true,
    about: "Leave out the tensors whose names match: a glob for the whole name, or /a regular expression/ found in it. May be repeated",
    settings: &[],
    make: |given| Ok(Box::new(Drop::new(patterns(&given.values)?))),
};

/// `--keep`.
pub(super) const KEEP: Row = Row {
    flag: "keep",
    value: Some("PATTERN"),
    repeats: true,
    about: "Keep only the tensors whose names match one of these patterns. May be repeated",
    settings: &[],
    make: |given| Ok(Box::new(Keep::new(patterns(&given.values)?))),
};

fn patterns(texts: &[String]) -> Result<Vec<Pattern>, String> {
    texts.iter().map(|text| Pattern::new(text)).collect()
}

/// Leaves out the tensors that any pattern matches.
#[derive(Clone, Debug)]
pub struct Drop(Vec<Pattern>);

impl Drop {
    /// Leaves out what matches one of `patterns`.
    pub fn new(patterns: Vec<Pattern>) -> Self {
        Drop(patterns)
    }
}

/// Leaves out the tensors that no pattern matches.
#[derive(Clone, Debug)]
pub struct Keep(Vec<Pattern>);

impl Keep {
    /// Keeps what matches one of `patterns`.
    pub fn new(patterns: Vec<Pattern>) -> Self {
        Keep(patterns)
    }
}

impl Edit for Drop {
    fn apply(&self, draft: &mut Draft) -> Result<()> {
        choose(draft, &self.0, DROP.flag, true)
    }
}

impl Edit for Keep {
    fn apply(&self, draft: &mut Draft) -> Result<()> {
        choose(draft, &self.0, KEEP.flag, false)
    }
}

/// Leaves out the tensors that match one of `patterns`, or those that match none.
fn choose(draft: &mut Draft, patterns: &[Pattern], flag: &'static str, matching: bool) -> Result<()> {
    let source = &draft.checkpoint;
    let mut used: HashSet<usize> = HashSet::new();
    let mut gone: HashSet<usize> = HashSet::new();
    for (i, tensor) in source.tensors.iter().enumerate() {
        let by: Vec<usize> = (0..patterns.len()).filter(|&p| patterns[p].matches(&tensor.name)).collect();
        if by.is_empty() != matching {
            gone.insert(i);
        }
        used.extend(by);
    }
    if let Some(unused) = (0..patterns.len()).find(|p| !used.contains(p)) {
        return Err(draft.unmatched(&patterns[unused], flag));
    }
    if gone.len() == source.tensors.len() {
        return Err(Error::of_source(
            source,
            format!("--{flag} would leave none of its {}", tensors(gone.len())),
        ));
    }
    let bytes = gone.iter().map(|&i| source.tensors[i].byte_len().unwrap_or(0)).fold(0, u64::saturating_add);
    let first = gone.iter().min().map(|&i| source.tensors[i].name.clone());
    let change = Left { flag, tensors: gone.len(), bytes, first };
    draft.remove(&gone);
    draft.partial = true;
    draft.changes.push(Box::new(change));
    Ok(())
}

impl Draft {
    /// The error of a pattern that matches nothing.
    pub(super) fn unmatched(&self, pattern: &Pattern, flag: &str) -> Error {
        let names = self.checkpoint.tensors.iter().map(|t| t.name.as_str());
        let why = format!(
            "no tensor's name matches --{flag} '{}'; there are {}",
            pattern.text().escape_debug(),
            super::listed(names)
        );
        Error::of_source(&self.checkpoint, why)
    }
}

/// Tensors that were left out.
#[derive(Clone, Debug)]
struct Left {
    flag: &'static str,
    tensors: usize,
    bytes: u64,
    first: Option<String>,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "left out {} ({} bytes)", tensors(self.tensors), self.bytes)?;
        match &self.first {
            Some(first) => write!(f, ", such as `{}`", first.escape_debug()),
            None => Ok(()),
        }
    }
}

impl Change for Left {
    fn record(&self) -> serde_json::Value {
        json!({"edit": self.flag, "tensors": self.tensors, "bytes": self.bytes, "first": self.first})
    }
}
