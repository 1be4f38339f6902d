//! What every model of a class of transformers has before its layers, whatever its head, its size and what is tied in it:
//! the embedding of its words, patches or sound, what only its first block has, and the norm behind them. Checked against the classes of
//! transformers 5.24, with the names that models were always saved with.

use serde_json::{Map, Value};

use super::Network;
use crate::record::TensorRecord;
use crate::tensor::Group;

const PATCHES: &str = "patch_embeddings.projection.weight";
const WORDS: &str = "word_embeddings.weight";
const POSITIONS: &str = "position_embeddings.weight";
const DISTANCES: &str = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
const DECODER_DISTANCES: &str = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
const SOUND: &str = "feature_extractor.conv_layers.0.conv.weight";
const FEATURES: &str = "feature_projection.projection.weight";

/// Models by what the names of their classes begin with, and what their weights' names end with.
static FAMILIES: &[(&[&str], &[&str])] = &[
    (&["ViT"], &[PATCHES, "cls_token", "position_embeddings"]),
    (&["ViTMAE", "ViTMSN", "DeiT", "Beit", "Data2VecVision", "Dinov2", "Swin", "Swinv2"], &[PATCHES]),
    (&["ConvNext", "ConvNextV2"], &["patch_embeddings.weight"]),
    (&["ResNet"], &["embedder.embedder.convolution.weight"]),
    (&["T5", "MT5", "UMT5"], &[DISTANCES]),
    (&["Bloom", "Deberta", "DebertaV2", "Esm", "FNet", "Funnel"], &[WORDS]),
    (&["ModernBert"], &["tok_embeddings.weight", "final_norm.weight"]),
    (&["Mamba", "Mamba2", "FalconMamba"], &["embeddings.weight", "norm_f.weight"]),
    (&["Rwkv"], &["embeddings.weight", "ln_out.weight"]),
    (&["XGLM"], &["layer_norm.weight"]),
    (&["RecurrentGemma"], &["final_norm.weight"]),
    (
        &[
            "Albert",
            "Bert",
            "BigBird",
            "Camembert",
            "ConvBert",
            "DistilBert",
            "Electra",
            "Ernie",
            "IBert",
            "LayoutLM",
            "Longformer",
            "MPNet",
            "MegatronBert",
            "MobileBert",
            "Nystromformer",
            "RemBert",
            "Roberta",
            "SqueezeBert",
            "XLMRoberta",
        ],
        &[WORDS, POSITIONS],
    ),
    (&["GPT2"], &["wte.weight", "wpe.weight"]),
    (&["Hubert", "UniSpeechSat", "Wav2Vec2", "WavLM"], &[SOUND, FEATURES]),
];
/// The same of single classes.
static CLASSES: &[(&[&str], &[&str])] = &[
    (
        &[
            "T5ForConditionalGeneration",
            "T5ForQuestionAnswering",
            "T5ForSequenceClassification",
            "T5Model",
            "MT5ForConditionalGeneration",
            "MT5ForQuestionAnswering",
            "MT5ForSequenceClassification",
            "MT5Model",
            "UMT5ForConditionalGeneration",
            "UMT5ForQuestionAnswering",
            "UMT5ForSequenceClassification",
            "UMT5Model",
        ],
        &[DECODER_DISTANCES, "encoder.final_layer_norm.weight", "decoder.final_layer_norm.weight"],
    ),
    (
        &["CLIPModel"],
        &[
            "text_projection.weight",
            "visual_projection.weight",
            "patch_embedding.weight",
            "token_embedding.weight",
        ],
    ),
    (&["SiglipModel"], &["patch_embedding.weight", "token_embedding.weight"]),
    (&["CLIPTextModel", "CLIPTextModelWithProjection"], &["token_embedding.weight"]),
    (&["CLIPVisionModel", "CLIPVisionModelWithProjection"], &["patch_embedding.weight"]),
    (
        &["WhisperForConditionalGeneration", "WhisperModel", "WhisperForAudioClassification"],
        &["encoder.conv1.weight", "encoder.conv2.weight", "encoder.layer_norm.weight"],
    ),
    (
        &["WhisperForConditionalGeneration", "WhisperModel"],
        &["decoder.embed_positions.weight", "decoder.layer_norm.weight"],
    ),
];
/// How the names of classes go on.
const HEADS: [&str; 4] = ["Model", "For", "LMHeadModel", "DoubleHeadsModel"];

/// The names of what is not there.
pub(super) fn absent(network: &Network<'_>) -> Vec<String> {
    let class = network.record.model.architecture.as_str();
    let of_family = |name: &&str| class.strip_prefix(*name).is_some_and(goes_on);
    let families = FAMILIES.iter().filter(|(names, _)| names.iter().any(of_family));
    let classes = CLASSES.iter().filter(|(names, _)| names.contains(&class));
    let promised = families.chain(classes).flat_map(|(_, weights)| weights.iter());
    let there = |name: &str| {
        let ends =
            |t: &TensorRecord| t.name.strip_suffix(name).is_some_and(|b| b.is_empty() || b.ends_with('.'));
        network.record.tensors.iter().any(ends)
    };
    // Without this norm where layers normalize what they give.
    let config = &network.record.model.config;
    let set = |key: &str| config.get(key).and_then(Value::as_bool);
    let last_of_opt = (class.strip_prefix("OPT").is_some_and(goes_on)
        && set("do_layer_norm_before") == Some(true)
        && set("_remove_final_layer_norm") != Some(true))
    .then_some(&"decoder.final_layer_norm.weight");
    promised.chain(last_of_opt).filter(|name| !there(name)).map(|name| name.to_string()).collect()
}

fn goes_on(head: &str) -> bool {
    HEADS.iter().any(|known| match *known {
        "For" => head.starts_with("For"),
        known => head == known,
    })
}

/// What configurations call the width within an MLP.
const INNER: [&str; 5] = ["intermediate_size", "ffn_dim", "d_ff", "encoder_ffn_dim", "ffn_hidden_size"];

/// The width within MLPs that is promised, if no matrix has a side of that, of a multiple (fused ones) or of half of it
/// (Qwen, where it counts both halves). Networks with experts, or with a ratio, have further widths and may not use that one.
pub(super) fn inner_width(network: &Network<'_>, config: &Map<String, Value>) -> Option<(&'static str, u64)> {
    let other = |key: &String| ["expert", "moe", "mlp_ratio"].iter().any(|word| key.contains(word));
    let weights =
        || network.record.tensors.iter().filter(|t| t.group == Group::Weights && t.shape.len() >= 2);
    if config.keys().any(other) || weights().any(TensorRecord::is_bare_codes) {
        return None;
    }
    let (key, promised) =
        INNER.iter().find_map(|key| Some((*key, config.get(*key)?.as_u64().filter(|n| *n > 1)?)))?;
    let fits =
        |side: &u64| *side > 0 && (side.is_multiple_of(promised) || side.checked_mul(2) == Some(promised));
    (!weights().any(|t| t.shape.iter().any(fits))).then_some((key, promised))
}
