//! The student model in its usual sizes.

use ckpt_inspect::ModelConfig;
use ckpt_inspect::meaning::Sizes;
use ckpt_inspect::meaning::architecture::STUDENT;

/// Names of the presets, smallest first: their parameters with a vocabulary of 32,000 tokens, in millions.
pub const PRESETS: [&str; 4] = ["39m", "100m", "213m", "454m"];

/// What the presets are called in bitnet-student's original trainer, whose names round up, and one of [`PRESETS`].
pub const FORMER: [(&str, &str); 4] = [("50m", "39m"), ("125m", "100m"), ("300m", "213m"), ("500m", "454m")];

/// The configuration called `name`, one of [`PRESETS`] or [`FORMER`].
pub fn preset(name: &str) -> Option<ModelConfig> {
    let name = FORMER.iter().find(|(former, _)| *former == name).map_or(name, |(_, now)| now);
    let (hidden_dim, num_layers, num_heads, num_kv_heads, mlp_hidden_dim, max_seq_len) = match name {
        "39m" => (512, 8, 8, 2, 1408, 1024),
        "100m" => (768, 12, 12, 4, 2048, 2048),
        "213m" => (1024, 16, 16, 4, 2816, 4096),
        "454m" => (1280, 24, 20, 4, 3456, 4096),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parameters;

    #[test]
    fn presets_are_called_by_their_size() {
        for name in PRESETS {
            let config = preset(name).unwrap();
            // Counted without drawing the weights: shapes are what tensors are made of.
            let of = |tensor: &ckpt_inspect::meaning::architecture::Tensor| {
                tensor.shape_in(&config).iter().product::<usize>()
            };
            let count: usize = config.tensors().map(|(_, tensor)| of(tensor)).sum();
            assert_eq!(format!("{:.0}m", count as f64 / 1e6), name);
        }
        let small = preset("39m").unwrap();
        assert_eq!(Parameters::init(&small, 0).unwrap().count() / 100_000, 389);
        assert!(FORMER.iter().all(|(former, now)| preset(former) == preset(now)));
        assert!(preset("9b").is_none());
    }
}
