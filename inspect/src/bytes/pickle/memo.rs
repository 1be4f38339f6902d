//! What a pickle stores for later: Python's memo.

use std::collections::HashMap;

use super::Id;

/// What a value costs whose index is larger than that of the next one.
const FAR: u64 = 48;

/// The values that the pickle stored, by index. Picklers number them from 0.
#[derive(Debug, Default)]
pub(super) struct Memo {
    near: Vec<Id>,
    /// Those whose index is larger than that of the next one.
    far: HashMap<u64, Id>,
}

impl Memo {
    pub fn get(&self, key: u64) -> Option<Id> {
        let near = usize::try_from(key).ok().and_then(|key| self.near.get(key));
        near.or_else(|| self.far.get(&key)).copied()
    }

    /// Stores `id`; returns the bytes that this took.
    pub fn put(&mut self, key: u64, id: Id) -> u64 {
        let next = self.near.len() as u64;
        if key < next {
            self.near[key as usize] = id;
            return 0;
        }
        if key > next {
            return if self.far.insert(key, id).is_none() { FAR } else { 0 };
        }
        if !self.far.is_empty() {
            self.far.remove(&key);
        }
        self.near.push(id);
        4
    }

    /// How many values are stored.
    pub fn len(&self) -> u64 {
        (self.near.len() + self.far.len()) as u64
    }

    /// What is stored, in the order of the indices.
    pub fn entries(&self) -> Vec<(u64, Id)> {
        let near = self.near.iter().enumerate().map(|(key, id)| (key as u64, *id));
        let mut entries: Vec<(u64, Id)> = near.chain(self.far.iter().map(|(key, id)| (*key, *id))).collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        entries
    }
}
