//! `ckpt`: checkpoint forensics on the command line.
fn main() {}
