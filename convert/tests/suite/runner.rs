//! What a GGUF file of a model says to llama.cpp, and what it cannot say.

use std::path::Path;

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Error, Gguf, Note, Options, Plan, Target, write};
use ckpt_kit::safetensors::SafeTensors;

/// The folder `name` of models that transformers saved, with `change` made in its config.json.
fn changed(name: &str, place: &Path, change: impl Fn(&mut serde_json::Value)) {
    let folder = ckpt_kit::fixtures::data("infer", "transformers").join(name);
    std::fs::copy(folder.join("model.safetensors"), place.join("model.safetensors")).unwrap();
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let mut config = serde_json::from_slice(&config).unwrap();
    change(&mut config);
    std::fs::write(place.join("config.json"), config.to_string()).unwrap();
}

/// Writes the model in `place` as GGUF and returns what is told.
fn notes(place: &Path) -> Result<Vec<Note>, Error> {
    let source = ckpt_inspect::open(place).unwrap();
    let options = Options::new(Target::Gguf(Gguf::new(Quant::F32, Quant::F32)));
    // Some are called what they are not.
    let options = options.with(|o| o.allow_incomplete = true);
    let mut plan = Plan::new(&source, &options)?;
    write(&mut plan, &options, &place.join("model.gguf"), Control::new(&|_| (), &Default::default()))?;
    Ok(plan.notes)
}

#[test]
fn another_activation_function_is_refused() {
    let place = tempfile::tempdir().unwrap();
    changed("llama", place.path(), |config| config["hidden_act"] = "gelu_pytorch_tanh".into());
    let refused = notes(place.path()).unwrap_err().to_string();
    assert!(refused.contains("compute `gelu_pytorch_tanh`"), "{refused}");
    assert!(!place.path().join("model.gguf").exists());
}

#[test]
fn norms_within_bitlinears_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let bitnet = |norms: bool| {
        serde_json::json!({"quant_method": "bitnet", "linear_class": "autobitlinear",
            "quantization_mode": "online", "use_rms_norm": norms})
    };
    changed("llama", place.path(), |config| config["quantization_config"] = bitnet(true));
    let refused = notes(place.path()).unwrap_err().to_string();
    assert!(refused.contains("use_rms_norm"), "{refused}");
    changed("llama", place.path(), |config| config["quantization_config"] = bitnet(false));
    notes(place.path()).unwrap();
}

#[test]
fn a_sliding_window_is_told() {
    let window = |note: &Note| matches!(note, Note::SlidingWindow { .. });
    let place = tempfile::tempdir().unwrap();
    changed("mistral", place.path(), |_| ());
    assert!(notes(place.path()).unwrap().iter().any(window));
    let place = tempfile::tempdir().unwrap();
    changed("mistral", place.path(), |config| config["sliding_window"] = serde_json::Value::Null);
    assert!(!notes(place.path()).unwrap().iter().any(window));
}

#[test]
fn divisors_for_long_texts_are_told() {
    let place = tempfile::tempdir().unwrap();
    let factors = [1.0; 4];
    let config = serde_json::json!({"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "vocab_size": 32,
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 256, "original_max_position_embeddings": 64,
        "rope_scaling": {"type": "longrope", "short_factor": factors, "long_factor": factors}});
    let shapes = [
        ("embed_tokens", vec![32, 16]),
        ("norm", vec![16]),
        ("layers.0.self_attn.qkv_proj", vec![32, 16]),
        ("layers.0.self_attn.o_proj", vec![16, 16]),
        ("layers.0.mlp.gate_up_proj", vec![64, 16]),
        ("layers.0.mlp.down_proj", vec![16, 32]),
        ("layers.0.input_layernorm", vec![16]),
        ("layers.0.post_attention_layernorm", vec![16]),
    ];
    let file = shapes.iter().fold(SafeTensors::new(), |file, (name, shape)| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i % 7) as f32 * 0.01).collect();
        file.f32s(&format!("model.{name}.weight"), shape, &values)
    });
    file.f32s("lm_head.weight", &[32, 16], &[0.5; 512]).write(&place.path().join("model.safetensors"));
    let told = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut config = config.clone();
        change(&mut config);
        std::fs::write(place.path().join("config.json"), config.to_string()).unwrap();
        let notes = notes(place.path()).unwrap();
        std::fs::remove_file(place.path().join("model.gguf")).unwrap();
        notes.into_iter().find_map(|note| match note {
            Note::LongTexts { original } => Some(original),
            _ => None,
        })
    };
    assert_eq!(told(&|_| ()), Some(64));
    // What its class has where nothing is said.
    assert_eq!(
        told(&|config| drop(config.as_object_mut().unwrap().remove("original_max_position_embeddings"))),
        Some(4096)
    );
    assert_eq!(told(&|config| drop(config.as_object_mut().unwrap().remove("rope_scaling"))), None);
}

#[test]
fn windows_of_some_layers_are_refused() {
    let place = tempfile::tempdir().unwrap();
    changed("qwen2", place.path(), |config| {
        config["sliding_window"] = 8.into();
        config["use_sliding_window"] = true.into();
        config["layer_types"] = serde_json::json!(["full_attention", "sliding_attention"]);
    });
    let refused = notes(place.path()).unwrap_err().to_string();
    assert!(refused.contains("only some of its layers"), "{refused}");
}

#[test]
fn biases_that_a_runner_may_not_read_are_told() {
    let told = |name: &str, class: &str| {
        let place = tempfile::tempdir().unwrap();
        changed(name, place.path(), |config| {
            config["architectures"] = serde_json::json!([class]);
            config.as_object_mut().unwrap().remove("model_type");
        });
        let told = notes(place.path()).unwrap().into_iter();
        told.filter_map(|note| if let Note::Biases { count, .. } = note { Some(count) } else { None }).next()
    };
    assert_eq!(told("llama-biases", "LlamaForCausalLM"), None);
    assert_eq!(told("qwen2", "Qwen2ForCausalLM"), None);
    assert_eq!(told("llama-biases", "SmolLM3ForCausalLM"), Some(14), "seven in each of two layers");
}
