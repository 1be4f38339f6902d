//! The state dict that was saved, put together again from its items and the keys that lead to each, as
//! `torch.distributed.checkpoint._nested_dict.unflatten_state_dict` does.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use crate::metadata::{HashableValue, Value};
use crate::tensor::TensorInfo;

/// A dict or a list: the keys of dicts are text in a listing, and those of lists are numbers.
#[derive(Default)]
pub(super) struct Nested {
    items: BTreeMap<HashableValue, Item>,
    is_list: bool,
}

/// What a path leads to: tensors are kept apart.
pub(super) enum Element {
    Value(Value),
    Tensor,
}

enum Item {
    Within(Nested),
    Is(Element),
}

impl Nested {
    /// Puts `element` where `keys` lead to. Whether there was room: nothing is in a value, nor two in one place.
    pub fn put(&mut self, keys: &[HashableValue], element: Element) -> bool {
        let Some((last, within)) = keys.split_last() else { return true };
        let mut into = self;
        for (key, next) in within.iter().zip(&keys[1..]) {
            let is_list = matches!(next, HashableValue::I64(_));
            let opened = || Item::Within(Nested { is_list, ..Nested::default() });
            let Item::Within(inner) = into.items.entry(key.clone()).or_insert_with(opened) else {
                return false;
            };
            into = inner;
        }
        match into.items.entry(last.clone()) {
            Entry::Vacant(place) => {
                place.insert(Item::Is(element));
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// It as a dict, whatever its keys are.
    pub fn into_dict(self) -> Value {
        Value::Dict(
            self.items.into_iter().filter_map(|(key, item)| Some((key, item.into_value()?))).collect(),
        )
    }

    /// It as a list: of one that holds tensors the other elements, in their order. Nothing was saved of empty dicts, and
    /// where others follow, PyTorch has None in their place.
    fn into_list(self) -> Value {
        /// As many places without anything are filled.
        const MOST_HOLES: i64 = 1 << 16;
        let (mut next, mut list) = (0i64, Vec::new());
        let last = self.items.keys().next_back().cloned();
        let holes = match last {
            Some(HashableValue::I64(last)) => last.saturating_sub(self.items.len() as i64),
            _ => 0,
        };
        for (key, item) in self.items {
            if let (HashableValue::I64(at), true) = (key, holes < MOST_HOLES) {
                list.extend((next..at).map(|_| Value::None));
                next = at.saturating_add(1);
            }
            list.extend(item.into_value());
        }
        Value::List(list)
    }
}

impl Item {
    /// `None` for a tensor.
    fn into_value(self) -> Option<Value> {
        match self {
            Item::Is(Element::Tensor) => None,
            Item::Is(Element::Value(value)) => Some(value),
            Item::Within(nested) => {
                let is_list = nested.items.keys().all(|key| matches!(key, HashableValue::I64(_)));
                Some(if nested.is_list && is_list { nested.into_list() } else { nested.into_dict() })
            }
        }
    }
}

/// Puts those of `tensors` that are in lists, of which `paths` tell, in the order of the lists: ranks list them in any.
/// Dicts stay in the order of their keys.
pub(super) fn in_order(tensors: &mut [TensorInfo], paths: &HashMap<String, Vec<HashableValue>>) {
    let is_index = |key: &HashableValue| matches!(key, HashableValue::I64(_));
    let listed = |t: &TensorInfo| paths.get(&t.name).filter(|path| path.iter().any(is_index));
    // The place of each key of a dict, as it was first met.
    let mut met: BTreeMap<&[HashableValue], i64> = BTreeMap::new();
    let mut found: Vec<(Vec<i64>, usize)> = Vec::new();
    for (at, tensor) in tensors.iter().enumerate() {
        let Some(path) = listed(tensor) else { continue };
        let places = (1..=path.len()).map(|end| match &path[end - 1] {
            HashableValue::I64(index) => *index,
            _ => {
                let next = met.len() as i64;
                *met.entry(&path[..end]).or_insert(next)
            }
        });
        found.push((places.collect(), at));
    }
    let slots: Vec<usize> = found.iter().map(|(_, at)| *at).collect();
    found.sort();
    let sorted: Vec<TensorInfo> = found.iter().map(|(_, at)| tensors[*at].clone()).collect();
    for (slot, tensor) in slots.into_iter().zip(sorted) {
        tensors[slot] = tensor;
    }
}
