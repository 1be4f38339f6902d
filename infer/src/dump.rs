//! Logits in a file, for comparison with other implementations.

use std::collections::HashMap;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// A SafeTensors file with the tensor `logits`, f32 [positions, vocab_size].
///
/// # Panics
/// If `logits` is not a whole number of positions.
pub fn logits_file(logits: &[f32], vocab_size: usize) -> Vec<u8> {
    assert!(vocab_size > 0 && logits.len().is_multiple_of(vocab_size), "whole positions");
    let shape = vec![logits.len() / vocab_size, vocab_size];
    let view = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(logits)).expect("a shape that fits");
    safetensors::serialize([("logits", view)], None::<HashMap<String, String>>).expect("one plain tensor")
}
