//! Models opened and run, against what PyTorch, transformers and llama.cpp compute.

mod blocks;
mod cache;
mod configurations;
mod families;
mod formats;
mod gguf;
mod logits;
mod quantized;
mod templates;
mod ternary;
mod tokenizer;
mod transformers;
mod truth;
