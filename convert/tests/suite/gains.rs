//! Gains that one format stores less one, in every type that they are stored in.

use ckpt_convert::quant::Quant;
use ckpt_convert::{Gguf, Options, Target, verify};
use ckpt_inspect::open;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;

use super::gguf::Converted;

/// Published Gemmas are bfloat16; one more than a gain need not be.
#[test]
fn gains_that_are_stored_less_one_are_verified_in_any_type() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("gemma");
    std::fs::create_dir(&source).unwrap();
    let config = serde_json::json!({"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "vocab_size": 32,
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 8, "sliding_window": 16, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "tie_word_embeddings": true, "hidden_activation": "gelu_pytorch_tanh"});
    std::fs::write(source.join("config.json"), config.to_string()).unwrap();
    let layer = [
        ("self_attn.q_proj", vec![16, 16]),
        ("self_attn.k_proj", vec![8, 16]),
        ("self_attn.v_proj", vec![8, 16]),
        ("self_attn.o_proj", vec![16, 16]),
        ("mlp.gate_proj", vec![32, 16]),
        ("mlp.up_proj", vec![32, 16]),
        ("mlp.down_proj", vec![16, 32]),
        ("input_layernorm", vec![16]),
        ("post_attention_layernorm", vec![16]),
        ("pre_feedforward_layernorm", vec![16]),
        ("post_feedforward_layernorm", vec![16]),
    ];
    let layer = layer.map(|(name, shape)| (format!("model.layers.0.{name}.weight"), shape));
    let outer = [
        ("model.embed_tokens.weight".to_string(), vec![32, 16]),
        ("model.norm.weight".to_string(), vec![16]),
    ];
    for (dtype, bits) in [("BF16", 16), ("F16", 12), ("F32", 0)] {
        let mut random = Random::new(9);
        let mut file = SafeTensors::new();
        for (name, shape) in outer.iter().chain(&layer) {
            let count: usize = shape.iter().product();
            // Small numbers whose last bits are lost where one is added in the same type.
            let bytes: Vec<u8> = (0..count)
                .flat_map(|_| {
                    let value = 0.1 * random.normal();
                    let kept = f32::from_bits(value.to_bits() >> bits << bits);
                    match dtype {
                        "BF16" => half::bf16::from_f32(kept).to_le_bytes().to_vec(),
                        "F16" => half::f16::from_f32(kept).to_le_bytes().to_vec(),
                        _ => kept.to_le_bytes().to_vec(),
                    }
                })
                .collect();
            file = file.tensor(name, dtype, shape, &bytes);
        }
        file.write(&source.join("model.safetensors"));
        let options = Options::new(Target::Gguf(Gguf::new(Quant::F32, Quant::F32)));
        let converted = Converted::new(&source, &options);
        assert!(converted.agrees, "{dtype}");
        let written = open(converted.folder.path().join("model.gguf")).unwrap();
        let own = open(&source).unwrap();
        assert!(verify(&own, &written).unwrap().agrees(), "{dtype}");
        // The sums lose bits of the gains, and a network computes with the sums.
        let options = Options::new(Target::Hf { packed: false }).with(|o| o.max_shard_bytes = Some(1 << 20));
        let back = Converted::new(&converted.folder.path().join("model.gguf"), &options);
        let back = open(back.folder.path().join("model")).unwrap();
        assert!(verify(&own, &back).unwrap().agrees(), "{dtype}");
        let norm = |checkpoint: &ckpt_inspect::Checkpoint| {
            checkpoint.values(checkpoint.tensor("model.norm.weight").unwrap()).unwrap()
        };
        assert_eq!(norm(&own) == norm(&back), dtype != "F32");
    }
}
