//! Properties of every architecture in the table.

use serde_json::{Value as Json, json};

use super::super::names::{self, Style, canonical, canonical_in, translate, translate_in};
use super::*;
use crate::gguf::{Keys, Layout};
use crate::meaning::elements::Floor;
use crate::meaning::{Activation, Experts, RopePairing, RopeScaling, Sizes, SlidingLayers};
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
        let scaling = |config| RopeScaling::of_config(&from_json(config));
        match architecture.name {
            "mistral" => plain.sliding_window = Some(9),
            "granite" => {
                (plain.embedding_scale, plain.residual_scale) = (Some(3.0), Some(0.5));
                (plain.attention_scale, plain.logit_divisor) = (Some(0.25), Some(4.0));
            }
            "phi3" => {
                plain.rotary_dim = Some(6);
                plain.rope_scaling = scaling(json!({"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0],
                    "long_factor": [1.5, 2.5, 4.5], "original_max_position_embeddings": 32, "factor": 4.0}));
            }
            "mixtral" => {
                plain.experts = Some(Experts { count: 7, used: 2, hidden_dim: 52, normalized: true });
            }
            "qwen3moe" => {
                plain.experts = Some(Experts { count: 7, used: 3, hidden_dim: 17, normalized: true });
            }
            "gemma2" | "gemma3" => {
                plain.attention_scale = Some(1.0 / 10f64.sqrt());
                plain.sliding_window = Some(9);
                plain.sliding_layers = match architecture.name {
                    "gemma2" => SlidingLayers::Listed(vec![true, false, true]),
                    _ => SlidingLayers::All,
                };
                plain.local_rope_base = (architecture.name == "gemma3").then_some(2e4);
            }
            _ => {}
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
        // Of the class of Phi-3, that is an older name of its own kind.
        if architecture.name != "phi3" {
            yarn.rope_scaling = scaling(
                json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16.0}),
            );
        }
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
    config.activation = Activation::Other("quick_gelu".into());
    let given = |change: &[(&str, Json)]| {
        let mut json = config.to_hugging_face();
        json.extend(change.iter().map(|(key, value)| (key.to_string(), value.clone())));
        json.shift_remove(if change.len() > 1 { "layer_types" } else { "" });
        let given = Given::of_hugging_face(&from_json(Json::Object(json))).unwrap();
        assert_eq!(given.activation, Some(Activation::Other("quick_gelu".into())));
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
                let of_family = Some(architecture);
                assert_eq!(translate_in(of_family, &own, style).as_deref(), Some(name.as_str()));
                assert_eq!(canonical_in(of_family, &name), own, "{name}");
                assert_eq!(canonical_in(of_family, &format!("model_state_dict.{name}")), own, "{name}");
                assert_eq!(translate_in(of_family, &name, Style::Hf), architecture.name(role, Style::Hf));
                assert_eq!(names::role_in(of_family, &name), Some(role), "{name}");
                let bare = name.strip_prefix("model.").unwrap_or(&name);
                assert_eq!(architecture.role(bare), Some(role), "{name}");
                assert_eq!(names::style_of([name.as_str()]).unwrap_or(style), style, "{name}");
                // Names that mean the same in all architectures are understood without knowing which it is.
                if !AMBIGUOUS.iter().any(|part| name.contains(part)) {
                    assert_eq!(translate(&own, style).as_deref(), Some(name.as_str()));
                    assert_eq!(canonical(&name), own, "{name}");
                    assert_eq!(translate(&name, Style::Hf), architecture.name(role, Style::Hf));
                    assert_eq!(names::role(&name), Some(role), "{name}");
                }
            }
            assert_eq!(written.name(role, Style::Gguf), architecture.name(role, Style::Gguf));
            assert_eq!(config.shape(role), Some(tensor.shape_in(&config)), "{own}");
            let matrix = !matches!(role.kind(), Kind::Norm | Kind::Bias | Kind::RopeFactors);
            let dimensions = 1 + usize::from(matrix) + usize::from(tensor.is_stack());
            assert_eq!(tensor.shape.len(), dimensions, "{own}");
            if tensor.is_stack() {
                let third = names::of_expert(&own, 3);
                assert_eq!(architecture.role(&third), Some(role), "{third}");
                assert_eq!((names::expert(&third), names::expert(&own)), (Some(3), None));
            }
            assert!(!config.is_bitlinear(role) || matrix);
        }
        let in_layer = seen - 2 - usize::from(!config.tie_word_embeddings);
        assert_eq!(in_layer % config.num_layers, 0);
    }
    for architecture in TABLE {
        for tensor in architecture.tensors.iter().filter(|t| t.module.is_some()) {
            let layer = if matches!(tensor.role, Role::Layer(..)) { "layers.11." } else { "" };
            let name = format!("{layer}{}.{}", tensor.module.unwrap(), tensor.leaf);
            for style in [Style::Student, Style::Hf, Style::Gguf] {
                let other = translate_in(Some(architecture), &name, style).unwrap();
                assert_eq!(canonical_in(Some(architecture), &other), name);
            }
        }
    }
}

/// Parts of names that stand for different parts of a layer, by the architecture.
const AMBIGUOUS: [&str; 8] = [
    "post_attention_layernorm",
    "post_attention_norm",
    "ffn_norm",
    "pre_feedforward_layernorm",
    "ffn_up",
    "block_sparse_moe",
    "ffn_gate_inp",
    "_exps",
];

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
        let names = names::Names::new(&tensors, config.architecture, Style::Student);
        assert!(names.unused.is_empty());
        let given = Given::of_trainer(&from_json(Json::Object(config.to_trainer()))).unwrap();
        let (mut back, assumed) = names.shapes().unwrap().configure(config.architecture, &[&given]);
        // What no trainer says.
        (back.sliding_window, back.sliding_layers) = (config.sliding_window, config.sliding_layers.clone());
        (back.local_rope_base, back.rotary_dim) = (config.local_rope_base, config.rotary_dim);
        (back.embedding_scale, back.attention_scale) = (config.embedding_scale, config.attention_scale);
        (back.residual_scale, back.logit_divisor) = (config.residual_scale, config.logit_divisor);
        back.experts = config.experts;
        assert_eq!(back, config);
        assert_eq!(assumed, []);
        let (_, assumed) = names.shapes().unwrap().configure(config.architecture, &[]);
        let norm = config.architecture.tensor(Role::Layer(0, Part::QNorm));
        let told = config.use_qk_norm && norm.is_some_and(|t| t.shape == [Dim::Head]);
        assert_eq!(assumed.iter().any(|a| a.setting == "head_dim"), !told);
        assert!(assumed.iter().any(|a| a.setting == "rope_base"));
    }
}

/// What transformers 5 takes where config.json says the same in two words.
#[test]
fn of_two_words_for_rotary_settings_the_one_counts_that_transformers_takes() {
    let given = |class: &str, more: Json| {
        let mut config = json!({"architectures": [class], "hidden_size": 64, "num_attention_heads": 4});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Given::of_hugging_face(&from_json(config)).unwrap()
    };
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    let plain = json!({"rope_type": "default", "rope_theta": 5e5});
    let llama = |more: Json| given("LlamaForCausalLM", more);
    let both = llama(json!({"rope_scaling": yarn, "rope_parameters": plain, "rope_theta": 2e4}));
    assert_eq!((both.rope_scaling.unwrap().kind(), both.rope_base), ("yarn", Some(2e4)));
    for nothing in [json!(null), json!({})] {
        let new = llama(json!({"rope_scaling": nothing, "rope_parameters": plain, "rope_theta": 2e4}));
        assert_eq!((new.rope_scaling, new.rope_base), (Some(RopeScaling::None), Some(5e5)));
    }
    let phi = json!({"partial_rotary_factor": 0.5, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}});
    assert_eq!(given("Phi3ForCausalLM", phi).rotary_dim, Some(12));
    let of_layers = json!({"full_attention": {"rope_type": "default", "rope_theta": 7e5}, "sliding_attention": {"rope_type": "default", "rope_theta": 3e4}});
    let linear = json!({"rope_type": "linear", "factor": 8.0});
    let gemma = given(
        "Gemma3ForCausalLM",
        json!({"rope_scaling": linear, "rope_parameters": of_layers, "rope_theta": 2e4}),
    );
    assert_eq!((gemma.rope_base, gemma.local_rope_base), (Some(7e5), Some(3e4)));
    assert_eq!(gemma.rope_scaling.unwrap().kind(), "linear");
    let gemma = given("Gemma3ForCausalLM", json!({"rope_parameters": of_layers}));
    assert_eq!((gemma.rope_base, gemma.rope_scaling), (Some(7e5), Some(RopeScaling::None)));
}
