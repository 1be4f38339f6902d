//! The tensors of a base that an adapter changes, by the adapter's names for them, and which of them are one.

use std::collections::HashMap;

use ckpt_inspect::meaning::architecture::{Architecture, Role};
use ckpt_inspect::meaning::wrappers;
use ckpt_inspect::{Checkpoint, TensorInfo};

use crate::names;
use crate::sharing::Place;

/// The tensors of a base, by the names that an adapter may have for them.
pub(crate) struct Targets {
    exact: HashMap<String, usize>,
    /// Without wrappers, and as all naming schemes share it.
    shared: HashMap<String, Vec<usize>>,
    /// Without the module around all others, such as `transformer.` of GPT-2.
    inner: HashMap<String, Vec<usize>>,
    /// As transformers 5 calls its modules.
    modern: HashMap<String, Vec<usize>>,
}

/// Parts of names in files, and what transformers 5 calls the modules that it makes of them (its `conversion_mapping.py`).
const RENAMED: [(&str, &str); 3] = [
    (".block_sparse_moe.", ".mlp."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
];

/// A name as that of a module of transformers 5.
fn modern(name: &str) -> String {
    RENAMED.iter().fold(name.to_string(), |name, (old, new)| name.replacen(old, new, 1))
}

/// A name without wrappers, and as all naming schemes share it.
pub(super) fn shared(name: &str) -> String {
    shared_in(None, name)
}

/// The same of a tensor of a model of `family`, some of whose names in GGUF stand for other parts.
fn shared_in(family: Option<&'static Architecture>, name: &str) -> String {
    names::canonical_in(family, &wrappers::unwrapped(name)).into_owned()
}

/// The part that a tensor called so has in the models that are known.
pub(super) fn role(name: &str) -> Option<Role> {
    names::role(&shared(name))
}

/// Whether a model says that its head is its embedding, and has no other.
pub(super) fn shares_head(base: &Checkpoint) -> bool {
    let tied = base.model.given().is_ok_and(|given| given.tie_word_embeddings != Some(false));
    tied && !base.tensors.iter().any(|tensor| role(&tensor.name) == Some(Role::Head))
}

impl Targets {
    /// Those of `base`.
    pub fn of(base: &Checkpoint) -> Self {
        let (tensors, family) = (&base.tensors, base.model.family());
        let [mut by_shared, mut inner, mut by_modern] =
            [(); 3].map(|()| HashMap::<String, Vec<usize>>::new());
        for (i, tensor) in tensors.iter().enumerate() {
            by_shared.entry(shared_in(family, &tensor.name)).or_default().push(i);
            let (own, common) = (modern(&tensor.name), modern(&shared_in(family, &tensor.name)));
            if common != own {
                by_modern.entry(common).or_default().push(i);
            }
            by_modern.entry(own).or_default().push(i);
            if let Some((_, rest)) = tensor.name.split_once('.') {
                inner.entry(rest.to_string()).or_default().push(i);
            }
        }
        let exact = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Targets { exact, shared: by_shared, inner, modern: by_modern }
    }

    /// The tensor called `name` in the adapter's model; `None` unless there is one.
    pub fn find(&self, name: &str) -> Option<usize> {
        let one = |found: &Vec<usize>| (found.len() == 1).then(|| found[0]);
        let same = || self.shared.get(&shared(name)).and_then(one);
        let outer = || name.split_once('.').and_then(|(_, rest)| self.exact.get(rest).copied());
        let inner = || self.inner.get(name).and_then(one);
        let renamed =
            || [modern(name), modern(&shared(name))].iter().find_map(|name| one(self.modern.get(name)?));
        self.exact.get(name).copied().or_else(same).or_else(outer).or_else(inner).or_else(renamed)
    }
}

/// Which tensors are one under several names.
pub(super) struct Ties {
    /// For each tensor, the first of those that it is one with.
    first: Vec<usize>,
    /// All of them, by the first.
    all: HashMap<usize, Vec<usize>>,
}

impl Ties {
    /// Those among `tensors`.
    pub fn of(tensors: &[TensorInfo]) -> Self {
        let mut places: HashMap<Place, usize> = HashMap::new();
        let mut ties = Ties { first: Vec::with_capacity(tensors.len()), all: HashMap::new() };
        for (i, tensor) in tensors.iter().enumerate() {
            let first = Place::of(tensor, tensor.dtype).map_or(i, |place| *places.entry(place).or_insert(i));
            ties.first.push(first);
            ties.all.entry(first).or_default().push(i);
        }
        ties
    }

    /// The tensors that `index` is one with, itself among them.
    pub fn with(&self, index: usize) -> Vec<usize> {
        match self.first[index] {
            usize::MAX => vec![index],
            first => self.all[&first].iter().copied().filter(|&i| self.first[i] == first).collect(),
        }
    }

    /// Makes `index` one of its own.
    pub fn part(&mut self, index: usize) {
        self.first[index] = usize::MAX;
    }
}
