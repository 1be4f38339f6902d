//! The state dict that was saved, put together again from its items and the keys that lead to each.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::metadata::{HashableValue, Value};

/// A dict or a list: the keys of dicts are text in a listing, and those of lists are numbers.
#[derive(Default)]
pub(super) struct Nested(BTreeMap<HashableValue, Item>);

enum Item {
    Within(Nested),
    Value(Value),
}

impl Nested {
    /// Puts `value` where `keys` lead to, or opens what is there if there is none: tensors are kept apart, and what they
    /// lie in is not. Whether there was room: nothing is in a value, nor two in one place.
    pub fn put(&mut self, keys: &[HashableValue], value: Option<Value>) -> bool {
        let mut into = self;
        let (last, within) = match (keys, &value) {
            ([], _) => return true,
            ([within @ .., last], Some(_)) => (Some(last), within),
            (all, None) => (None, all),
        };
        for key in within {
            let item = into.0.entry(key.clone()).or_insert_with(|| Item::Within(Nested::default()));
            let Item::Within(inner) = item else { return false };
            into = inner;
        }
        let (Some(last), Some(value)) = (last, value) else { return true };
        match into.0.entry(last.clone()) {
            Entry::Vacant(place) => {
                place.insert(Item::Value(value));
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// It as a dict, whatever its keys are.
    pub fn into_dict(self) -> Value {
        Value::Dict(self.0.into_iter().map(|(key, item)| (key, item.into_value())).collect())
    }
}

impl Item {
    /// Of a list that holds tensors the other elements are left, in their order.
    fn into_value(self) -> Value {
        let nested = match self {
            Item::Value(value) => return value,
            Item::Within(nested) => nested,
        };
        let is_list = |nested: &Nested| nested.0.keys().all(|key| matches!(key, HashableValue::I64(_)));
        match !nested.0.is_empty() && is_list(&nested) {
            true => Value::List(nested.0.into_values().map(Item::into_value).collect()),
            false => nested.into_dict(),
        }
    }
}
