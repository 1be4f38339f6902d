//! Properties of every architecture in the table.

use serde_json::{Value as Json, json};

use super::super::names::{self, Style, canonical, translate};
use super::*;
use crate::gguf::{Keys, Layout};
use crate::meaning::elements::Floor;
use crate::meaning::{Activation, RopePairing, RopeScaling, Sizes, SlidingLayers};
use crate::metadata::from_json;

/// A model of each architecture, with everything that it may have, and sizes that make all shapes distinct.
fn models() -> impl Iterator<Item = ModelConfig> {
    TABLE.into_iter().flat_map(|architecture| {
        let sizes = Sizes {
            vocab_size: 61,
            hidden_dim: 40,
            num_layers: 3,
            num_heads: 6,
            num_kv_heads: 2,
            head_dim: 10,
            mlp_hidden_dim: 52,
            max_seq_len: 128,
        };
        let mut plain = ModelConfig::new(architecture, sizes);
        if architecture.name == "mistral" {
            plain.sliding_window = Some(9);
        }
        let mut odd = plain.clone();
        odd.rope_base = 5e5;
        odd.norm_eps = 1e-5;
        odd.tie_word_embeddings = false;
        odd.rope_scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64.0,
        };
        if architecture.biases == Biases::Configured {
            odd.attention_bias = AttentionBias::All;
        }
        odd.mlp_bias = architecture.has(Part::GateBias);
        if architecture.defaults.bitlinear {
            (odd.use_bitlinear_attn, odd.bitlinear_per_channel) = (false, true);
            (odd.attn_logit_soft_cap, odd.final_logit_soft_cap) = (None, Some(20.0));
            (odd.use_qk_norm, odd.quantization_floor) = (false, Floor::Added(1e-6));
        }
        let mut yarn = plain.clone();
        yarn.rope_scaling = RopeScaling::of_config(&from_json(
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16.0}),
        ));
        [plain, odd, yarn]
    })
}

/// The configuration read from a GGUF file with these keys.
fn read(keys: &Keys) -> crate::Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, Layout::new(keys, &[]).unwrap().header).unwrap();
    crate::open(&path).unwrap()
}

#[test]
fn configurations_go_there_and_back() {
    for config in models() {
        let trainers = from_json(Json::Object(config.to_trainer()));
        let mut back = Given::of_trainer(&trainers).unwrap().complete().unwrap();
        if config.is_student() {
            assert_eq!(back, config);
        } else {
            back.architecture = config.architecture;
            let words = |c: &ModelConfig| c.to_trainer();
            assert_eq!(words(&back), words(&config));
        }

        let given = from_json(Json::Object(config.to_hugging_face()));
        let back = Given::of_hugging_face(&given).unwrap().complete().unwrap();
        assert_eq!(back.to_hugging_face(), config.to_hugging_face());
        let mut hosted = config.clone();
        if config.is_student() {
            // Settings that config.json cannot express.
            hosted.architecture = config.written_as();
            (hosted.use_bitlinear_attn, hosted.use_bitlinear_ffn) = (false, false);
            (hosted.attn_logit_soft_cap, hosted.final_logit_soft_cap) = (None, None);
            (hosted.bitlinear_per_channel, hosted.quantization_floor) = (false, back.quantization_floor);
        }
        assert_eq!(back, hosted);

        let written = config.written_as();
        let mut stored = config.clone();
        if written.interleaved {
            stored.rope_pairing = RopePairing::Neighbours;
        }
        let file = read(&config.to_gguf(true));
        let mut given = file.model.given().unwrap().clone();
        // This follows from tensors, and there are none.
        given.tie_word_embeddings = Some(config.tie_word_embeddings);
        given.attention_bias = Some(config.attention_bias);
        given.mlp_bias = Some(config.mlp_bias);
        assert_eq!(file.model.family(), Some(config.architecture));
        assert_eq!(given.complete().unwrap(), stored);
    }
}

#[test]
fn windows_of_some_layers_are_kept() {
    let mut config = models().find(|c| c.architecture.name == "qwen2").unwrap();
    for layers in [SlidingLayers::All, SlidingLayers::From(2), SlidingLayers::Listed(vec![true, false, true])]
    {
        (config.sliding_window, config.sliding_layers) = (Some(16), layers);
        let given = from_json(Json::Object(config.to_hugging_face()));
        assert_eq!(Given::of_hugging_face(&given).unwrap().complete().unwrap(), config);
    }
    config.activation = Activation::Other("gelu".into());
    let given = |change: &[(&str, Json)]| {
        let mut json = config.to_hugging_face();
        json.extend(change.iter().map(|(key, value)| (key.to_string(), value.clone())));
        json.shift_remove(if change.len() > 1 { "layer_types" } else { "" });
        let given = Given::of_hugging_face(&from_json(Json::Object(json))).unwrap();
        assert_eq!(given.activation, Some(Activation::Other("gelu".into())));
        (given.sliding_window, given.sliding_layers)
    };
    assert_eq!(given(&[("use_sliding_window", json!(false))]), (None, None));
    assert_eq!(
        given(&[("layer_types", json!(["full_attention", "full_attention", "full_attention"]))]),
        (None, None)
    );
    // Layers from the fourth on, and there are three.
    assert_eq!(given(&[("use_sliding_window", json!(true)), ("max_window_layers", json!(3))]), (None, None));
}

#[test]
fn names_roles_and_shapes_agree() {
    for config in models() {
        let architecture = config.architecture;
        let (written, mut seen) = (config.written_as(), 0);
        let mut names = std::collections::HashSet::new();
        for (role, tensor) in config.tensors() {
            seen += 1;
            let own = architecture.name(role, Style::Student).unwrap();
            assert!(names.insert(own.clone()), "{own} twice");
            for style in [Style::Student, Style::Hf, Style::Gguf] {
                let name = architecture.name(role, style).unwrap();
                assert_eq!(translate(&own, style).as_deref(), Some(name.as_str()));
                assert_eq!(canonical(&name), own, "{name}");
                assert_eq!(canonical(&format!("model_state_dict.{name}")), own, "{name}");
                assert_eq!(translate(&name, Style::Hf), architecture.name(role, Style::Hf));
                assert_eq!(names::role(&name), Some(role), "{name}");
                let bare = name.strip_prefix("model.").unwrap_or(&name);
                assert_eq!(architecture.role(bare), Some(role), "{name}");
                assert_eq!(names::style_of([name.as_str()]).unwrap_or(style), style, "{name}");
            }
            assert_eq!(written.name(role, Style::Gguf), architecture.name(role, Style::Gguf));
            assert_eq!(config.shape(role), Some(tensor.shape_in(&config)), "{own}");
            let matrix = matches!(role.kind(), Kind::Attention | Kind::Mlp | Kind::Embedding | Kind::Head);
            assert_eq!(tensor.shape.len(), if matrix { 2 } else { 1 }, "{own}");
            assert!(!config.is_bitlinear(role) || matrix);
        }
        let in_layer = seen - 2 - usize::from(!config.tie_word_embeddings);
        assert_eq!(in_layer % config.num_layers, 0);
    }
    let rows = vocabulary().filter(|t| t.module.is_some());
    for tensor in rows {
        let layer = if matches!(tensor.role, Role::Layer(..)) { "layers.11." } else { "" };
        let name = format!("{layer}{}.{}", tensor.module.unwrap(), tensor.leaf);
        for style in [Style::Student, Style::Hf, Style::Gguf] {
            assert_eq!(canonical(&translate(&name, style).unwrap()), name);
        }
    }
}

#[test]
fn shapes_and_a_configuration_make_the_model() {
    for config in models() {
        let tensors: Vec<_> = config
            .tensors()
            .map(|(role, tensor)| {
                let name = config.architecture.name(role, Style::Student).unwrap();
                let at = if role == Role::Head { 8 } else { 0 };
                let shape = tensor.shape_in(&config);
                let mut info = crate::TensorInfo::contiguous(name, crate::DType::F32, shape, None, at);
                info.group = crate::Group::Weights;
                info
            })
            .collect();
        let names = names::Names::new(&tensors, config.architecture, Style::Student, |name| name);
        assert!(names.unused.is_empty());
        let given = Given::of_trainer(&from_json(Json::Object(config.to_trainer()))).unwrap();
        let (mut back, assumed) = names.shapes().unwrap().configure(config.architecture, &[&given]);
        (back.sliding_window, back.sliding_layers) = (config.sliding_window, SlidingLayers::All);
        assert_eq!(back, config);
        assert_eq!(assumed, []);
        let (_, assumed) = names.shapes().unwrap().configure(config.architecture, &[]);
        assert_eq!(assumed.iter().any(|a| a.setting == "head_dim"), !config.use_qk_norm);
        assert!(assumed.iter().any(|a| a.setting == "rope_base"));
    }
}
