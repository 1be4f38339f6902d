//! What a container gives: how elements and blocks of them lie in bytes.

pub mod packing;
