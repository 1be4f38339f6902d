//! Which tensors a user means: `--filter`.

use ckpt_inspect::without_state_dict;

use crate::Failure;

/// A glob, or a regular expression between slashes.
pub enum Matcher {
    /// `*`, `?`, `[…]`, `{…}` over the whole name.
    Glob(globset::GlobMatcher),
    /// Found anywhere in the name.
    Regex(regex::Regex),
}

impl Matcher {
    /// The matcher for the user's pattern.
    pub fn new(pattern: &str) -> Result<Self, Failure> {
        let regex = pattern.strip_prefix('/').and_then(|p| p.strip_suffix('/')).filter(|p| !p.is_empty());
        match regex {
            Some(regex) => {
                regex::Regex::new(regex).map(Matcher::Regex).map_err(|e| Failure::usage(e.to_string()))
            }
            None => globset::Glob::new(pattern)
                .map(|glob| Matcher::Glob(glob.compile_matcher()))
                .map_err(|e| Failure::usage(format!("--filter: {e}"))),
        }
    }

    /// Matches the full name or the name without its state dict's key.
    pub fn matches(&self, name: &str) -> bool {
        let one = |name: &str| match self {
            Matcher::Glob(glob) => glob.is_match(name),
            Matcher::Regex(regex) => regex.is_match(name),
        };
        one(name) || one(without_state_dict(name))
    }
}
