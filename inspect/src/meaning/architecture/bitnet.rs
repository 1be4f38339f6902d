//! Hugging Face's BitNet: a Llama with two more norms in a layer. It is neither written to GGUF nor run; its tensors have
//! names.

use super::tensors::{ATTENTION_SUB_NORM, FFN_SUB_NORM, Tensor};

pub(super) static TENSORS: [&Tensor; 2] = [&ATTENTION_SUB_NORM, &FFN_SUB_NORM];
