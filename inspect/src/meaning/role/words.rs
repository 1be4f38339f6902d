//! Names taken apart into words.

use super::signs::{FIELDS, Place};

/// A name taken apart into words.
pub(super) struct Words {
    /// Of every part; begins and ends with a space, as the others do.
    pub path: String,
    pub own: String,
    pub module: String,
    /// A bit for each byte that some word begins with, by its lower six bits.
    initials: u64,
}

fn push_words(text: &str, into: &mut String) {
    let mut last = ' ';
    for c in text.chars() {
        let turns = c.is_ascii_digit() != last.is_ascii_digit() || (c.is_uppercase() && last.is_lowercase());
        if (!c.is_alphanumeric() || turns) && !into.ends_with(' ') {
            into.push(' ');
        }
        if c.is_alphanumeric() {
            into.extend(c.to_lowercase());
        }
        last = c;
    }
    if !into.ends_with(' ') {
        into.push(' ');
    }
}

pub(super) fn words(text: &str) -> String {
    let mut words = String::from(" ");
    push_words(text, &mut words);
    words
}

pub(super) fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
}

impl Words {
    pub fn of(name: &str) -> Words {
        // TensorFlow numbers what an operation gives.
        let name = name.strip_suffix(":0").unwrap_or(name);
        let (before, last) = name.rsplit_once(['.', '/']).unwrap_or(("", name));
        let module = match FIELDS.contains(&last) {
            true => {
                before.rsplit(['.', '/']).find(|part| !is_number(part) && *part != "default").unwrap_or(last)
            }
            false => last,
        };
        let path = words(name);
        let initials = path.as_bytes().windows(2).filter(|pair| pair[0] == b' ');
        let initials = initials.fold(0, |initials, pair| initials | bit(pair[1]));
        Words { own: words(last), module: words(module), path, initials }
    }

    pub fn module_ends_with(&self, phrase: &str) -> bool {
        self.bear(Place::ModuleEnd, phrase)
    }

    pub fn bear(&self, place: Place, phrase: &str) -> bool {
        // For every tensor this is asked a few hundred times, and seldom is there a word with that initial.
        if phrase.bytes().next().is_some_and(|initial| self.initials & bit(initial) == 0) {
            return false;
        }
        let begins = |text: &str| text[1..].strip_prefix(phrase).is_some_and(|rest| rest.starts_with(' '));
        let ends =
            |text: &str| text[..text.len() - 1].strip_suffix(phrase).is_some_and(|rest| rest.ends_with(' '));
        match place {
            Place::Start => begins(&self.path),
            Place::Path => holds(&self.path, phrase),
            Place::Own => self.own.len() == phrase.len() + 2 && begins(&self.own),
            Place::OwnEnd => ends(&self.own),
            Place::InOwn => holds(&self.own, phrase),
            Place::ModuleEnd => ends(&self.module),
            Place::InModule => holds(&self.module, phrase),
        }
    }
}

fn bit(byte: u8) -> u64 {
    1 << (byte & 63)
}

/// Whether `phrase` is in `text`, as whole words.
pub(super) fn holds(text: &str, phrase: &str) -> bool {
    // Names are short: what prepares a search takes longer than the search.
    let (text, phrase) = (text.as_bytes(), phrase.as_bytes());
    let begins = |at: usize| text[at..].strip_prefix(phrase).is_some_and(|rest| rest.first() == Some(&b' '));
    (1..text.len()).any(|at| text[at - 1] == b' ' && begins(at))
}
