//! What lies in folders, in few requests: what a listing does not have is not asked for, and where the folders in a folder
//! are looked at one after the other, one listing tells of all of them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex};

use ckpt_inspect::stored::{Kind, Stat};

use crate::answers::Answers;
use crate::backend::{Below, site};
use crate::store::{Remote, locked, parent};

/// What lies in a folder, by name.
pub(crate) type Listing = HashMap<String, Stat>;

/// Names that are kept of all folders, about 50 MB.
const NAMES: usize = 400_000;
/// Files that one listing of several folders may have.
const MOST: usize = 200_000;
/// Files that a request lists.
const PAGE: usize = 1000;

/// What is known of folders, by their locations.
pub(crate) struct Folders {
    /// `None` where it cannot be listed.
    known: Answers<Option<Arc<Listing>>>,
    /// How many folders within were listed, or tried to be at once.
    within: Answers<Within>,
    /// Of one at a time, all that lies below is listed.
    listing: Mutex<()>,
}

#[derive(Clone, Copy)]
enum Within {
    One,
    Tried,
}

impl Default for Folders {
    fn default() -> Self {
        let weight = |listing: &Option<Arc<Listing>>| 1 + listing.as_ref().map_or(0, |listing| listing.len());
        Folders {
            known: Answers::new(NAMES, weight),
            within: Answers::new(NAMES, |_| 1),
            listing: Mutex::default(),
        }
    }
}

impl Folders {
    /// What is known of the folder at `location`.
    pub fn known(&self, location: &str) -> Option<Option<Arc<Listing>>> {
        self.known.get(location)
    }

    pub fn keep(&self, location: &str, listing: Option<Arc<Listing>>) {
        self.known.put(location, listing);
    }

    /// The listing of the folder that `location` is in, and where that is, if it is known.
    fn above<'l>(&self, location: &'l str) -> Option<(&'l str, Arc<Listing>)> {
        let (folder, _) = parent(location)?;
        Some((folder, self.known(folder)??))
    }
}

impl Remote {
    /// Whether what is known of the folders above shows that nothing is at `location`.
    pub fn is_ruled_out(&self, location: &str) -> bool {
        let (place, _) = site(location);
        let mut at = location;
        while at.len() > place.len()
            && let Some((folder, name)) = parent(at)
        {
            // A file is no folder.
            if self.is_file(folder) {
                return true;
            }
            if let Some(Some(listing)) = self.folders.known(folder) {
                let leads_on = |stat: &Stat| stat.kind == Kind::Folder || at.len() == location.len();
                return !listing.get(name).is_some_and(leads_on);
            }
            at = folder;
        }
        false
    }

    /// What lies in the folder at `location`; `None` where a place cannot tell.
    pub fn listing(&self, location: &str) -> io::Result<Option<Arc<Listing>>> {
        if let Some(known) = self.folders.known(location) {
            return Ok(known);
        }
        if self.is_ruled_out(location) {
            return Ok(Some(Arc::default()));
        }
        if let Some(known) = self.listed_with_others(location) {
            return Ok(Some(known));
        }
        let listed = self.ask(location, |place, key| self.wait(place.list(key)))?;
        let listing = listed.map(|entries| Arc::new(listing_of(entries)));
        self.folders.keep(location, listing.clone());
        Ok(listing)
    }

    /// What lies in the folder at `location`, by a listing of all that lies below the folder that it is in, if it is not the
    /// first one in that which is looked at.
    fn listed_with_others(&self, location: &str) -> Option<Arc<Listing>> {
        let (above, beside) = self.folders.above(location)?;
        let _one = locked(&self.folders.listing);
        if let Some(known) = self.folders.known(location) {
            return known;
        }
        let before = self.folders.within.get(above);
        let now = if before.is_none() { Within::One } else { Within::Tried };
        self.folders.within.put(above, now);
        if !matches!(before, Some(Within::One)) {
            return None;
        }
        // Listing each of them takes as many requests at least.
        let folders = beside.values().filter(|stat| stat.kind == Kind::Folder).count();
        let most = (folders + 1).saturating_mul(PAGE).min(MOST);
        // What does not work for all is tried for this one, and told then.
        let below = self.ask(above, |place, key| self.wait(place.list_below(key, most))).ok().flatten()?;
        for (path, listing) in complete(below) {
            self.folders.keep(&format!("{above}/{path}"), Some(Arc::new(listing)));
        }
        self.folders.known(location).flatten()
    }
}

/// The listing of one folder. Some programs mark a folder by an empty file of its name; other files come before folders.
fn listing_of(entries: impl IntoIterator<Item = (String, Stat)>) -> Listing {
    let mut listing = Listing::new();
    for (name, stat) in entries {
        let is_marker = |there: &Stat| there.kind == Kind::Folder || there.bytes == 0;
        if stat.kind == Kind::File || listing.get(&name).is_none_or(is_marker) {
            listing.insert(name, stat);
        }
    }
    listing
}

/// The listings of all folders below one, by their paths, of which `below` has everything.
fn complete(below: Below) -> BTreeMap<String, Listing> {
    let Below { files, whole } = below;
    // In order, what has begun is only complete once something else follows.
    let last = files.last().map(|(path, _)| path.clone()).filter(|_| !whole);
    if last.is_some() && !files.is_sorted_by(|(a, _), (b, _)| a <= b) {
        return BTreeMap::new();
    }
    let mut entries: BTreeMap<String, Vec<(String, Stat)>> = BTreeMap::new();
    for (path, stat) in files {
        let (mut at, mut entry) = (path.as_str(), stat);
        // As far as no folder is known.
        while let Some((folder, name)) = at.rsplit_once('/') {
            let known = entries.contains_key(folder);
            entries.entry(folder.to_string()).or_default().push((name.to_string(), entry));
            if known {
                break;
            }
            (at, entry) = (folder, Stat::folder());
        }
    }
    let is_complete =
        |folder: &str| !last.as_ref().is_some_and(|last| last.starts_with(&format!("{folder}/")));
    let complete = entries.into_iter().filter(|(folder, _)| is_complete(folder));
    complete.map(|(folder, entries)| (folder, listing_of(entries))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(paths: &[&str], whole: bool) -> BTreeMap<String, Vec<String>> {
        let files = paths.iter().map(|path| (path.to_string(), Stat::file(1, None))).collect();
        let names = |listing: Listing| {
            let mut names: Vec<String> = listing.into_keys().collect();
            names.sort();
            names
        };
        complete(Below { files, whole }).into_iter().map(|(folder, of)| (folder, names(of))).collect()
    }

    #[test]
    fn a_listing_of_all_that_lies_below_is_one_of_each_folder() {
        let all = ["a/b/x", "a/b/y", "a/c/d/z", "a/w", "e/x", "top"];
        let expected: [(&str, &[&str]); 5] = [
            ("a", &["b", "c", "w"]),
            ("a/b", &["x", "y"]),
            ("a/c", &["d"]),
            ("a/c/d", &["z"]),
            ("e", &["x"]),
        ];
        let owned = |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
        let expected: BTreeMap<String, Vec<String>> =
            expected.into_iter().map(|(folder, names)| (folder.to_string(), owned(names))).collect();
        assert_eq!(listed(&all, true), expected);
        // Of one that breaks off, what is over by then.
        assert_eq!(listed(&all[..3], false).into_keys().collect::<Vec<_>>(), ["a/b"]);
        assert_eq!(listed(&["b/x", "a/x"], false), BTreeMap::new());
    }
}
