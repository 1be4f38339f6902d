//! The student model in its usual sizes.

use ckpt_inspect::ModelConfig;
use ckpt_inspect::meaning::Sizes;
use ckpt_inspect::meaning::architecture::STUDENT;

/// Names of the presets, smallest first.
pub const PRESETS: [&str; 4] = ["50m", "125m", "300m", "500m"];

/// The configuration called `name`, one of [`PRESETS`].
pub fn preset(name: &str) -> Option<ModelConfig> {
    let (hidden_dim, num_layers, num_heads, num_kv_heads, mlp_hidden_dim, max_seq_len) = match name {
        "50m" => (512, 8, 8, 2, 1408, 1024),
        "125m" => (768, 12, 12, 4, 2048, 2048),
        "300m" => (1024, 16, 16, 4, 2816, 4096),
        "500m" => (1280, 24, 20, 4, 3456, 4096),
        _ => return None,
    };
    let vocab_size = 32_000;
    let head_dim = 64;
    let sizes = Sizes {
        vocab_size,
        hidden_dim,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        mlp_hidden_dim,
        max_seq_len,
    };
    Some(ModelConfig::new(&STUDENT, sizes))
}
