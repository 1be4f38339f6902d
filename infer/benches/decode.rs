//! Decode and prefill speed.
fn main() {}
