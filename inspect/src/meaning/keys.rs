//! What configurations of networks call their sizes: config.json, and the keys of GGUF files behind the architecture's name.
//! [`Given`](super::Given) reads those of the architectures that are known; these hold for any.

/// What configurations call the number of layers.
pub(crate) const LAYERS: [&str; 5] =
    ["num_hidden_layers", "n_layer", "num_layers", "n_layers", "block_count"];
/// What they call the number of tokens.
pub(crate) const TOKENS: [&str; 1] = ["vocab_size"];
/// What they call the width.
pub(crate) const WIDTH: [&str; 4] = ["hidden_size", "n_embd", "d_model", "embedding_length"];
/// Further layers, which predict later tokens.
pub(crate) const AHEAD: [&str; 2] = ["num_nextn_predict_layers", "nextn_predict_layers"];
/// The same of networks of two halves, and the module that each stands in.
pub(crate) const HALVES: [(&str, [&str; 2]); 2] = [
    ("encoder", ["encoder_layers", "num_encoder_layers"]),
    ("decoder", ["decoder_layers", "num_decoder_layers"]),
];
/// Keys of networks in which layers share their weights.
pub(crate) const SHARED: [&str; 1] = ["num_hidden_groups"];
