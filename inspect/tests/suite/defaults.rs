//! What a config.json means that does not say everything.

use std::path::Path;

use ckpt_inspect::meaning::RopeScaling;
use ckpt_inspect::meaning::architecture::TABLE;
use ckpt_inspect::open;
use ckpt_kit::peers;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::json;

/// The kinds of models that transformers has a class for; what there is of another name is another's.
const KINDS: [&str; 13] = [
    "bitnet",
    "gemma2",
    "gemma3_text",
    "granite",
    "llama",
    "mistral",
    "mixtral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "smollm3",
];

#[test]
fn keys_that_are_missing_have_the_values_of_transformers_classes() {
    let Some(python) = peers::python(&["transformers"]) else { return };
    let theirs = peers::json(&python.script("inspect", "defaults.py", &[Path::new(&KINDS.join(","))]));
    for kind in KINDS {
        let family = TABLE.iter().find(|family| family.model_types.contains(&kind));
        let class = family.unwrap_or_else(|| panic!("no {kind}")).classes[0];
        let factors = [1.0; 8];
        let config = json!({"architectures": [class], "model_type": kind, "hidden_size": 64,
            "num_attention_heads": 4, "num_hidden_layers": 1,
            "rope_scaling": {"rope_type": "longrope", "short_factor": factors, "long_factor": factors}});
        let folder = tempfile::tempdir().unwrap();
        SafeTensors::new().f32s("x", &[1], &[1.0]).write(&folder.path().join("model.safetensors"));
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let checkpoint = open(folder.path()).unwrap();
        let given = checkpoint.model.given().unwrap();
        assert_eq!(given.norm_eps, theirs[kind]["rms_norm_eps"].as_f64(), "{kind}");
        let longest = given.max_seq_len.map(|n| n as u64);
        assert_eq!(longest, theirs[kind]["max_position_embeddings"].as_u64(), "{kind}");
        let original = match &given.rope_scaling {
            Some(RopeScaling::LongRope { original_max_position_embeddings, .. }) => {
                *original_max_position_embeddings
            }
            // It has one for each kind of layer.
            _ if kind == "gemma3_text" => continue,
            other => panic!("{kind}: {other:?}"),
        };
        let wanted = theirs[kind]["original_max_position_embeddings"].as_f64();
        assert_eq!(original, wanted.or(longest.map(|n| n as f64)), "{kind}");
    }
}
