//! Which modules are unfolded, for each network separately: folding a module in one does not affect another's module of
//! the same path, and applies to every checkpoint of the same network.

use std::collections::{HashMap, HashSet};

use ckpt_inspect::CheckpointRecord;
use ckpt_inspect::run::{Network, network};

use crate::browse::tree;

/// The modules of one network.
#[derive(Default)]
struct Folding {
    unfolded: HashSet<String>,
    /// Every module of its checkpoints so far.
    modules: HashSet<String>,
}

/// The modules of all networks so far, by number.
#[derive(Default)]
pub struct Foldings {
    networks: HashMap<Network, usize>,
    all: Vec<Folding>,
}

impl Foldings {
    /// The number of `record`'s network. Modules that none of its checkpoints had before are unfolded as in a first
    /// view; the others stay as the user left them.
    pub fn meet(&mut self, record: &CheckpointRecord) -> usize {
        let mut key = network(record);
        if key.is_empty() {
            // A checkpoint without matrices is identified by its path only.
            key.push((record.path.clone(), Vec::new()));
        }
        let at = *self.networks.entry(key).or_insert(self.all.len());
        if at == self.all.len() {
            self.all.push(Folding::default());
        }
        let Folding { unfolded, modules } = &mut self.all[at];
        unfolded.extend(tree::first_unfolded(record).into_iter().filter(|path| !modules.contains(path)));
        modules.extend(tree::all_modules(record));
        at
    }

    /// Paths of the modules that are unfolded in network `at`.
    pub fn unfolded(&self, at: usize) -> &HashSet<String> {
        &self.all[at].unfolded
    }

    /// Unfolds or folds the module of this path.
    pub fn set(&mut self, at: usize, path: &str, unfolded: bool) {
        let folding = &mut self.all[at];
        if unfolded {
            folding.unfolded.insert(path.to_string());
        } else {
            folding.unfolded.remove(path);
        }
    }

    /// Folds every module of network `at`.
    pub fn fold_all(&mut self, at: usize) {
        self.all[at].unfolded.clear();
    }

    /// Unfolds every module of network `at`.
    pub fn unfold_all(&mut self, at: usize) {
        let folding = &mut self.all[at];
        folding.unfolded.clone_from(&folding.modules);
    }
}
