//! NumPy's arrays. Archives of them are zips: [`crate::zip`].

use crate::numbers::le;

/// A `.npy` file. `descr` and `shape` are Python, such as `'<f4'` with its quotes and `(2, 3)`; `fortran` says that
/// columns come first.
pub fn npy(descr: &str, fortran: bool, shape: &str, elements: &[u8]) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    raw(1, &format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"), elements)
}

/// A `.npy` file of version 1 or 2 with the header `header`, whatever it says, filled up to a multiple of 64 bytes.
/// Version 2 has a longer length.
pub fn raw(version: u8, header: &str, elements: &[u8]) -> Vec<u8> {
    let before = if version == 1 { 10 } else { 12 };
    let header = format!("{header}{}\n", " ".repeat((63 - (before + header.len()) % 64) % 64));
    let length = if version == 1 { le(&[header.len() as u16]) } else { le(&[header.len() as u32]) };
    [&b"\x93NUMPY"[..], &[version, 0], &length, header.as_bytes(), elements].concat()
}
