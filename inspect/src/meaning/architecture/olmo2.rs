//! OLMo 2: norms after attention and the feed-forward layer instead of before them, and norms of all queries and of all keys
//! of a token together.

use super::super::config::AttentionBias;
use super::tensors::{
    DOWN, EMBEDDING, FINAL_NORM, GATE, HEAD, K, K_BIAS, K_ROW_NORM, O, O_BIAS, POST_ATTENTION_NORM,
    POST_FFN_NORM, Q, Q_BIAS, Q_ROW_NORM, UP, V, V_BIAS,
};
use super::{Architecture, Biases, Graph, PLAIN, PLAIN_NETWORK, PLAIN_WORDS, WHOLE};

pub(super) static OLMO2: Architecture = Architecture {
    name: "olmo2",
    label: "OLMo 2",
    classes: &["Olmo2ForCausalLM"],
    model_types: &["olmo2"],
    gguf: &["olmo2"],
    interleaved: false,
    tensors: &[
        &EMBEDDING,
        &Q,
        &Q_BIAS,
        &K,
        &K_BIAS,
        &V,
        &V_BIAS,
        &O,
        &O_BIAS,
        &Q_ROW_NORM,
        &K_ROW_NORM,
        &GATE,
        &UP,
        &DOWN,
        &POST_ATTENTION_NORM,
        &POST_FFN_NORM,
        &FINAL_NORM,
        &HEAD,
    ],
    biases: Biases::Configured,
    graph: Graph { biased: false, factors: false, ..WHOLE },
    defaults: PLAIN,
    network: PLAIN_NETWORK,
    words: PLAIN_WORDS,
    not_in_gguf: |model| {
        if model.attention_bias != AttentionBias::None {
            return Some("has biases in its attention, which llama.cpp's graph of olmo2 does not add".into());
        }
        model.tie_word_embeddings.then(|| {
            "uses its embedding as its head, and a GGUF file of olmo2 needs a head of its own".into()
        })
    },
    is_meant: |_| true,
    written_as: |_| &OLMO2,
};
