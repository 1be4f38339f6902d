//! Rules that are switched off.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::rules::{COUNT, RULES};

/// Rules that are not asked, by the names that [`RULES`] gives them.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Off(u64);

const _: () = assert!(COUNT <= u64::BITS as usize);

impl Off {
    /// Switches the rule called `name` off.
    ///
    /// # Errors
    /// In words, when no rule is called so.
    pub fn add(&mut self, name: &str) -> Result<(), String> {
        let at = RULES.iter().position(|rule| rule.name == name);
        let at = at.ok_or_else(|| {
            let names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
            format!("`{name}` is not a rule: {}", names.join(", "))
        })?;
        self.0 |= 1 << at;
        Ok(())
    }

    /// Whether the rule at this place of [`RULES`] is off.
    pub(crate) fn has(self, at: usize) -> bool {
        self.0 >> at & 1 == 1
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// The names of those that are off, in the order of [`RULES`].
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        RULES.iter().enumerate().filter(move |(at, _)| self.has(*at)).map(|(_, rule)| rule.name)
    }
}

/// Their names, separated by commas.
impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Debug for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// A list of names.
impl Serialize for Off {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Off {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut off = Off::default();
        for name in Vec::<String>::deserialize(deserializer)? {
            off.add(&name).map_err(D::Error::custom)?;
        }
        Ok(off)
    }
}
