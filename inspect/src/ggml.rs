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
#[allow(missing_docs)]
pub struct Dec;
#[allow(missing_docs)]
impl Dec {
    pub fn read(&self, _: usize, _: &mut [f32]) {}
}
#[allow(missing_docs)]
impl GgmlType {
    pub fn decodes(self) -> bool {
        false
    }
    pub fn decoder(self, _: &[u8], _: usize) -> crate::Result<Dec> {
        todo!()
    }
    pub fn block_elements(self) -> usize {
        1
    }
    pub fn ternary_codes(self, _: &[u8], _: &mut [i8]) -> crate::Result<()> {
        todo!()
    }
    pub fn to_little_endian(self, _: &mut [u8]) {}
}
impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
