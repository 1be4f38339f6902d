//! GGML's tensor types: numbers, names and block sizes as `ggml.h` and `ggml-common.h` define them.

/// A tensor type of GGML by its number in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GgmlType(pub u32);

impl GgmlType {
    /// GGML's own name, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        "?"
    }
    /// Bytes of a contiguous tensor of `shape` (row-major, so the last dimension is GGML's first).
    pub fn bytes_for(self, _shape: &[usize]) -> Option<u64> {
        None
    }
    /// Whether every value is -1, 0 or +1 times a scale.
    pub fn is_ternary(self) -> bool {
        false
    }
}
