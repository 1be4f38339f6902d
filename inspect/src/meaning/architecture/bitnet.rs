//! Hugging Face's BitNet: a Llama with two more norms per layer. It is neither written to GGUF nor run; only its
//! tensors' names are known.

use super::tensors::{ATTENTION_SUB_NORM, FFN_SUB_NORM, Tensor};

pub(super) static TENSORS: [&Tensor; 2] = [&ATTENTION_SUB_NORM, &FFN_SUB_NORM];
