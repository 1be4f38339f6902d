//! What a GGUF file of a model says to llama.cpp, and what it cannot say.

use std::path::Path;

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Error, Gguf, Note, Options, Plan, Target, write};

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
        changed(name, place.path(), |config| config["architectures"] = serde_json::json!([class]));
        let told = notes(place.path()).unwrap().into_iter();
        told.filter_map(|note| if let Note::Biases { count, .. } = note { Some(count) } else { None }).next()
    };
    assert_eq!(told("llama-biases", "LlamaForCausalLM"), None);
    assert_eq!(told("qwen2", "Qwen2ForCausalLM"), None);
    assert_eq!(told("llama-biases", "Qwen3ForCausalLM"), Some(14), "seven in each of two layers");
}
