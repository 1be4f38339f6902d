//! The student model in its usual sizes.

use ckpt_inspect::StudentConfig;

/// Names of the presets, smallest first.
pub const PRESETS: [&str; 4] = ["50m", "125m", "300m", "500m"];

/// The configuration called `name`, one of [`PRESETS`].
pub fn preset(name: &str) -> Option<StudentConfig> {
    let (hidden_dim, num_layers, num_heads, num_kv_heads, mlp_hidden_dim, max_seq_len) = match name {
        "50m" => (512, 8, 8, 2, 1408, 1024),
        "125m" => (768, 12, 12, 4, 2048, 2048),
        "300m" => (1024, 16, 16, 4, 2816, 4096),
        "500m" => (1280, 24, 20, 4, 3456, 4096),
        _ => return None,
    };
    Some(StudentConfig {
        vocab_size: 32_000,
        hidden_dim,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim: 64,
        mlp_hidden_dim,
        max_seq_len,
        rope_base: 1e6,
        use_bitlinear_ffn: true,
        use_bitlinear_attn: true,
        bitlinear_per_channel: false,
        quantization_eps: 1e-8,
        norm_eps: 1e-6,
        tie_word_embeddings: true,
        use_qk_norm: true,
        attn_logit_soft_cap: Some(50.0),
        final_logit_soft_cap: Some(30.0),
    })
}
