//! A tensor to be written into a file of any format.

use crate::numbers::le;

/// A contiguous tensor of float32.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// What it is called.
    pub name: String,
    /// Its dimensions, rows first.
    pub shape: Vec<usize>,
    /// Its elements, row after row.
    pub values: Vec<f32>,
}

impl Tensor {
    /// `name` of `shape`, which `values` fill.
    pub fn new(name: impl Into<String>, shape: &[usize], values: impl Into<Vec<f32>>) -> Self {
        let (name, values) = (name.into(), values.into());
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        Tensor { name, shape: shape.to_vec(), values }
    }

    /// Its elements as a file holds them.
    pub fn bytes(&self) -> Vec<u8> {
        le(&self.values)
    }
}
