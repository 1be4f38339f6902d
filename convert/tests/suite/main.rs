//! Checkpoints written in every format, read back, and read by others.

mod complete;
mod dequantized;
mod edit;
mod gains;
mod gguf;
mod gguf_blocks;
mod golden;
mod hostile;
mod kept;
mod large;
mod layouts;
mod names;
mod nested;
mod packed;
mod peers;
mod quantized;
mod round_trips;
mod runner;
mod strides;
mod transformers;
mod verified;
mod vocabularies;
