//! Unusual configurations against an independent implementation in PyTorch (`data/reference.py`): odd sizes,
//! per-channel scales, BitLinear in one half of the block, no QK norm, an untied head, stretched rotary positions. And
//! the same weights under Hugging Face's names.

use std::path::Path;

use ckpt_infer::{Error, Kernel, LoadOptions, Model, Pool, Settings};
use ckpt_kit::fixtures::{data, fixture};
use ckpt_kit::numbers::le;
use ckpt_kit::safetensors::SafeTensors;
use proptest::prelude::*;

use crate::logits::{largest_difference, logits};

const HEALTHY: &str = "healthy-run/step-02000.pt";

#[test]
fn unusual_configurations_agree_with_pytorch() {
    for name in ["per_channel", "ffn_only", "attn_only"] {
        let truth = ckpt_inspect::open(data("infer", &format!("{name}.safetensors"))).unwrap();
        let ids: Vec<u32> =
            truth.view::<i32>(truth.tensor("ids").unwrap()).unwrap().iter().map(|&id| id as u32).collect();
        let want = truth.values(truth.tensor("logits").unwrap()).unwrap();
        for kernel in Kernel::available() {
            for threads in [1, 3] {
                let pool = Pool::new(threads);
                let options = LoadOptions::default().with(|o| o.kernel = Some(kernel));
                let model = Model::open(&data("infer", &format!("{name}.pt")), &options, &pool).unwrap();
                assert_eq!(model.assumed(), []);
                let off = largest_difference(&logits(&model, &pool, &ids), &want);
                assert!(off <= 2e-4, "{name} on {}: {off}", kernel.name());
            }
        }
    }
}

/// The healthy model's weights as a Hugging Face folder of `architecture`.
fn hugging_face(folder: &Path, architecture: &str, dtype: &str, leave_out: &str, config: &str) {
    let checkpoint = ckpt_inspect::open(fixture(HEALTHY)).unwrap();
    let weights = checkpoint.tensors.iter().filter(|t| t.name.starts_with("model_state_dict."));
    let mut file = SafeTensors::new();
    for tensor in weights.filter(|t| !t.name.contains(leave_out)) {
        let values = checkpoint.values(tensor).unwrap();
        let bytes = match dtype {
            "F16" => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
            "BF16" => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
            _ => le(&values),
        };
        file = file.tensor(&tensor.name.replace("model_state_dict.", "model."), dtype, &tensor.shape, &bytes);
    }
    file.write(&folder.join("model.safetensors"));
    let common = r#""hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2,
        "intermediate_size": 128, "vocab_size": 1024, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": true"#;
    let config = format!(r#"{{"architectures": ["{architecture}"], {common}, {config}}}"#);
    std::fs::write(folder.join("config.json"), config).unwrap();
}

#[test]
fn hugging_face_models_run() {
    let pool = Pool::new(2);
    let ids: Vec<u32> = (0..40).map(|i| i * 37 % 1024).collect();
    let float = Settings::default().with(|s| {
        s.use_bitlinear_attn = Some(false);
        s.use_bitlinear_ffn = Some(false);
        s.attn_logit_soft_cap = Some(None);
        s.final_logit_soft_cap = Some(None);
    });
    let options = LoadOptions::default().with(|o| o.settings = float);
    let want = logits(&Model::open(&fixture(HEALTHY), &options, &pool).unwrap(), &pool, &ids);
    let qwen = r#""rope_theta": 1000000, "head_dim": 32"#;
    for (dtype, bound) in [("F32", 0.0), ("F16", 0.03), ("BF16", 0.25)] {
        let folder = tempfile::tempdir().unwrap();
        hugging_face(folder.path(), "Qwen3ForCausalLM", dtype, "optimizer", qwen);
        let model = Model::open(folder.path(), &LoadOptions::default(), &pool).unwrap();
        let off = largest_difference(&logits(&model, &pool, &ids), &want);
        assert!(off <= bound, "{dtype:?}: {off}");
    }
    // Without QK norms it is a Llama, with the base in the newer place.
    let folder = tempfile::tempdir().unwrap();
    let llama = r#""rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}"#;
    hugging_face(folder.path(), "LlamaForCausalLM", "F32", "_norm", llama);
    let model = Model::open(folder.path(), &LoadOptions::default(), &pool).unwrap();
    let config = model.config();
    assert_eq!((config.head_dim, config.rope_base, config.use_qk_norm), (32, 5000.0, false));
    assert!(!config.use_bitlinear_ffn && config.final_logit_soft_cap.is_none());
    assert!(logits(&model, &pool, &ids).iter().all(|x| x.is_finite()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Any modified model file runs or gives an error that says what is wrong.
    #[test]
    fn damaged_models_run_or_are_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = std::fs::read(data("infer", "per_channel.pt")).unwrap();
        for (at, byte) in changes {
            // The pickle, with names, shapes and configuration, is near the beginning.
            let range = if byte & 3 == 0 { bytes.len() } else { 4000 };
            let at = at.index(range);
            bytes[at] = byte;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.pt");
        std::fs::write(&path, &bytes).unwrap();
        let pool = Pool::new(1);
        if let Ok(model) = Model::open(&path, &LoadOptions::default(), &pool) {
            prop_assert_eq!(logits(&model, &pool, &[0]).len(), model.config().vocab_size);
        }
    }
}

#[test]
fn networks_that_are_not_run_say_why() {
    let pool = Pool::new(1);
    let refused = |architecture: &str, config: &str| {
        let folder = tempfile::tempdir().unwrap();
        hugging_face(folder.path(), architecture, "F32", "optimizer", config);
        match Model::open(folder.path(), &LoadOptions::default(), &pool) {
            Err(error @ Error::Unsupported { .. }) => error.to_string(),
            other => panic!("{architecture} {config}: {other:?}"),
        }
    };
    assert!(refused("GPT2LMHeadModel", r#""head_dim": 32"#).contains("is a GPT2LMHeadModel"));
    assert!(refused("LlamaForCausalLM", r#""hidden_act": "quick_gelu""#).contains("quick_gelu"));
    let dynamic = refused("LlamaForCausalLM", r#""rope_scaling": {"type": "dynamic", "factor": 4}"#);
    assert!(dynamic.contains("`dynamic`"), "{dynamic}");
    assert!(refused("LlamaForCausalLM", r#""rope_scaling": {"type": "yarn"}"#).contains("without factor"));
    let share = refused("LlamaForCausalLM", r#""partial_rotary_factor": 0.5"#);
    assert!(share.contains("partial_rotary_factor"), "{share}");
    let both = refused("Gemma2ForCausalLM", r#""use_bidirectional_attention": true"#);
    assert!(both.contains("use_bidirectional_attention"), "{both}");
    for causal in ["false", "null"] {
        let both = refused("LlamaForCausalLM", &format!(r#""is_causal": {causal}"#));
        assert!(both.contains("is_causal"), "{both}");
    }
    let two = refused("LlamaForCausalLM", r#""model_type": "mistral""#);
    assert!(two.contains("class LlamaForCausalLM and the model_type `mistral`"), "{two}");
    let kind = r#""head_dim": 32, "layer_types": ["full_attention", "chunked_attention"]"#;
    let kind = refused("Qwen3ForCausalLM", kind);
    assert!(kind.contains("`chunked_attention`"), "{kind}");
    let nested = r#""rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}"#;
    assert!(refused("LlamaForCausalLM", nested).contains("full_attention"));
    let types = refused("Qwen3ForCausalLM", r#""head_dim": 32, "layer_types": ["full_attention"]"#);
    assert!(types.contains("`layer_types` that is not a kind for each layer"), "{types}");
    let unrotated = refused("SmolLM3ForCausalLM", r#""no_rope_layers": [1]"#);
    assert!(unrotated.contains("`no_rope_layers` for fewer layers"), "{unrotated}");
    let local = r#""rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}"#;
    assert!(refused("Gemma3ForCausalLM", local).contains("scales rotary positions in layers"));
    assert!(
        refused("LlamaForCausalLM", r#""quantization_config": {"quant_method": "gptq"}"#).contains("gptq")
    );
}

#[test]
fn configurations_that_the_tensors_contradict_are_refused() {
    let refused = |architecture: &str, leave_out: &str, config: &str| {
        let folder = tempfile::tempdir().unwrap();
        hugging_face(folder.path(), architecture, "F32", leave_out, "\"rope_theta\": 1e4");
        let path = folder.path().join("config.json");
        let mut said: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let other: serde_json::Value = serde_json::from_str(config).unwrap();
        said.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        std::fs::write(&path, said.to_string()).unwrap();
        match Model::open(folder.path(), &LoadOptions::default(), &Pool::new(1)) {
            Err(error @ Error::Inconsistent { .. }) => error.to_string(),
            other => panic!("{config}: {other:?}"),
        }
    };
    for (config, words) in [
        (r#"{"num_key_value_heads": 2}"#, "2 KV heads, and the shapes of its tensors 1"),
        (
            r#"{"num_attention_heads": 4, "head_dim": 32}"#,
            "4 attention heads, and the shapes of its tensors 2",
        ),
        (r#"{"head_dim": 16}"#, "2 attention heads, and the shapes of its tensors 4"),
        (r#"{"hidden_size": 128, "head_dim": 32}"#, "128 columns, and the shapes of its tensors 64"),
        (r#"{"intermediate_size": 100}"#, "100 columns within the MLP, and the shapes of its tensors 128"),
    ] {
        let said = refused("LlamaForCausalLM", "_norm", config);
        assert!(said.contains(words), "{config}: {said}");
    }
    let said = refused("Qwen3ForCausalLM", "_norm", r#"{"head_dim": 32}"#);
    assert!(said.contains("q_norm") && said.contains("is missing"), "{said}");
}

/// A plain Llama's stretched positions, out of GGUF again: by keys, by parameters, and by the factors alone.
#[test]
fn hugging_face_models_come_back_from_gguf() {
    use ckpt_convert::quant::Quant;
    use ckpt_convert::{Control, Gguf, Options, Plan, Target, write};
    let pool = Pool::new(2);
    let ids: Vec<u32> = (0..40).map(|i| i * 37 % 1024).collect();
    let convert = |from: &Path, target: Target, to: &Path| {
        let options = Options::new(target);
        let source = ckpt_inspect::open(from).unwrap();
        let mut plan = Plan::new(&source, &options).unwrap();
        write(&mut plan, &options, to, Control::new(&|_| (), &Default::default())).unwrap();
    };
    let open = |path: &Path| Model::open(path, &LoadOptions::default(), &pool).unwrap();
    for (architecture, leave_out, scaling) in [
        (
            "LlamaForCausalLM",
            "_norm",
            r#""rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}"#,
        ),
        (
            "Qwen3ForCausalLM",
            "optimizer",
            r#""rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 64}"#,
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let config = format!(r#""head_dim": 32, "rope_theta": 10000.0, {scaling}"#);
        hugging_face(folder.path(), architecture, "F32", leave_out, &config);
        let original = open(folder.path());
        let want = logits(&original, &pool, &ids);
        let f32s = Gguf::new(Quant::F32, Quant::F32);
        convert(folder.path(), Target::Gguf(f32s), &at("model.gguf"));
        convert(&at("model.gguf"), Target::Hf { packed: false }, &at("back"));
        let back = open(&at("back"));
        assert_eq!(back.config().rope_scaling, original.config().rope_scaling);
        for model in [&open(&at("model.gguf")), &back] {
            let off = largest_difference(&logits(model, &pool, &ids), &want);
            assert!(off < 1e-3, "{architecture}: {off}");
        }
    }
}

#[test]
fn contradictions_are_reported() {
    let pool = Pool::new(1);
    let with = |settings| {
        Model::open(&fixture(HEALTHY), &LoadOptions::default().with(|o| o.settings = settings), &pool)
    };
    for settings in [
        Settings::default().with(|s| s.rope_base = Some(f64::NAN)),
        Settings::default().with(|s| s.max_seq_len = Some(0)),
        Settings::default().with(|s| s.norm_eps = Some(-1.0)),
        Settings::default().with(|s| s.attn_logit_soft_cap = Some(Some(0.0))),
    ] {
        let outcome = with(settings.clone());
        assert!(matches!(outcome, Err(Error::Inconsistent { .. })), "{settings:?}: {outcome:?}");
    }
    // A head's size follows from the QK norm; a flag cannot change it.
    let outcome = with(Settings::default().with(|s| s.head_dim = Some(7)));
    assert!(
        matches!(&outcome, Err(Error::Setting { what, .. }) if what.contains("head_dim is 32")),
        "{outcome:?}"
    );
    // One layer's matrix of the wrong shape.
    let folder = tempfile::tempdir().unwrap();
    hugging_face(folder.path(), "Qwen3ForCausalLM", "F32", "layers.1.mlp.down", r#""head_dim": 32"#);
    let outcome = Model::open(folder.path(), &LoadOptions::default(), &pool);
    assert!(
        matches!(&outcome, Err(Error::Inconsistent { what, .. }) if what.contains("`layers.1.mlp.down_proj.weight` is missing")),
        "{outcome:?}"
    );
    // Of two layers one is configured, which transformers would run without the other.
    hugging_face(folder.path(), "Qwen3ForCausalLM", "F32", "optimizer", r#""head_dim": 32"#);
    let config = folder.path().join("config.json");
    let fewer = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, fewer.replace(r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 1"#)).unwrap();
    let outcome = Model::open(folder.path(), &LoadOptions::default(), &pool);
    assert!(
        matches!(&outcome, Err(Error::Inconsistent { what, .. }) if what.contains("has 1 layers, and 2 are there")),
        "{outcome:?}"
    );
}
