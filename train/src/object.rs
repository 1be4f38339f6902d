//! What a checkpoint is saved from: plain values with tensors among them, as `torch.save` takes them.

use std::borrow::Cow;

use serde_pickle::{HashableValue, Value};

/// A value, a tensor, or a dict of such.
#[derive(Clone, Debug)]
pub enum Object<'a> {
    /// A value without tensors.
    Plain(Value),
    /// `torch.float32`.
    Floats {
        /// Its shape; none for a scalar.
        shape: Vec<usize>,
        /// Its elements, row-major.
        values: Cow<'a, [f32]>,
    },
    /// `torch.int32`.
    Integers {
        /// Its shape.
        shape: Vec<usize>,
        /// Its elements, row-major.
        values: Cow<'a, [i32]>,
    },
    /// A dict in this order.
    Dict(Vec<(HashableValue, Object<'a>)>),
}

impl<'a> Object<'a> {
    /// A dict with text keys.
    pub fn dict<'k>(entries: impl IntoIterator<Item = (&'k str, Object<'a>)>) -> Self {
        Object::Dict(entries.into_iter().map(|(k, v)| (HashableValue::String(k.into()), v)).collect())
    }

    /// A tensor that borrows its elements.
    pub fn floats(shape: &[usize], values: &'a [f32]) -> Self {
        Object::Floats { shape: shape.to_vec(), values: Cow::Borrowed(values) }
    }

    /// A scalar tensor.
    pub fn scalar(value: f32) -> Self {
        Object::Floats { shape: Vec::new(), values: Cow::Owned(vec![value]) }
    }
}

/// A plain dict with text keys.
pub(crate) fn plain<'k>(entries: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
    Value::Dict(entries.into_iter().map(|(k, v)| (HashableValue::String(k.into()), v)).collect())
}
