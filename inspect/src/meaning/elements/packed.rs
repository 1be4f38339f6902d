//! Packed ternary matrices: codes times one scale.

use crate::TernaryPacking;

/// Codes decoded before they are multiplied.
const CODES: usize = 1024;

/// A matrix's packing, shape and scale.
#[derive(Clone)]
pub(super) struct Packed {
    packing: TernaryPacking,
    shape: Vec<usize>,
    scale: f32,
}

impl Packed {
    /// A matrix without a scale has its codes as elements.
    pub fn new(packing: TernaryPacking, shape: &[usize], scale: Option<f32>) -> Self {
        Packed { packing, shape: shape.to_vec(), scale: scale.unwrap_or(1.0) }
    }

    /// The same with the scale 1.
    pub fn unscaled(&self) -> Self {
        Packed { scale: 1.0, ..self.clone() }
    }

    /// Fills `out` with the codes from `start`.
    pub fn codes(&self, bytes: &[u8], start: usize, out: &mut [i8]) {
        self.packing.decode(bytes, &self.shape, start, out);
    }

    /// Fills `out` with the elements from `start`.
    pub fn read(&self, bytes: &[u8], start: usize, out: &mut [f32]) {
        let mut codes = [0i8; CODES];
        for (i, part) in out.chunks_mut(CODES).enumerate() {
            let codes = &mut codes[..part.len()];
            self.codes(bytes, start + i * CODES, codes);
            part.iter_mut().zip(codes).for_each(|(slot, &mut code)| *slot = f32::from(code) * self.scale);
        }
    }
}
