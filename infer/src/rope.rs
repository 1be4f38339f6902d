//! Rotary position embedding: pair i of a head is rotated by position * frequency i.

use crate::{Config, RopePairing, RopeScaling};

/// Frequencies of a model's heads.
#[derive(Debug)]
pub(crate) struct Rope {
    /// Radians per position, head_dim / 2 values, in f32 as PyTorch computes them.
    frequencies: Vec<f32>,
    /// Whether pairs are neighbours; otherwise they have one element from each half of the head.
    neighbours: bool,
}

/// Cosines and sines of one position.
#[derive(Debug, Default)]
pub(crate) struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// Frequencies base^(-2i / head_dim), scaled as configured; `factors` divide them further.
    pub fn new(config: &Config, factors: Option<&[f32]>) -> Self {
        let half = config.head_dim / 2;
        let frequencies = (0..half).map(|i| {
            let exponent = (2 * i) as f32 / config.head_dim as f32;
            let frequency = 1.0 / (config.rope_base as f32).powf(exponent);
            let stretched = stretch(f64::from(frequency), &config.rope_scaling) as f32;
            stretched / factors.and_then(|f| f.get(i)).copied().unwrap_or(1.0)
        });
        let neighbours = config.rope_pairing == RopePairing::Neighbours;
        Rope { frequencies: frequencies.collect(), neighbours }
    }

    /// The angles of `position`.
    pub fn angles(&self, position: usize, angles: &mut Angles) {
        angles.cos.clear();
        angles.sin.clear();
        for frequency in &self.frequencies {
            let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
            angles.cos.push(cos as f32);
            angles.sin.push(sin as f32);
        }
    }

    /// Rotates one head's vector.
    #[inline(always)]
    pub fn rotate(&self, head: &mut [f32], angles: &Angles) {
        let turns = angles.cos.iter().zip(&angles.sin);
        if self.neighbours {
            for ([a, b], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        } else {
            let (first, second) = head.split_at_mut(self.frequencies.len());
            for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

/// Llama 3.1's rule is that of its reference implementation: wavelengths between the two bounds are interpolated
/// between divided and kept.
fn stretch(frequency: f64, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let turns = original_max_position_embeddings * frequency / std::f64::consts::TAU;
            let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            frequency / factor * (1.0 - kept) + frequency * kept
        }
        // Other kinds are refused earlier.
        _ => frequency,
    }
}

#[cfg(test)]
mod tests {
    use ckpt_inspect::meaning::Sizes;
    use ckpt_inspect::meaning::architecture::STUDENT;

    use super::*;

    fn rope(base: f64, head_dim: usize, scaling: RopeScaling, pairing: RopePairing) -> Rope {
        let sizes = Sizes {
            vocab_size: 1,
            hidden_dim: 1,
            num_layers: 1,
            num_heads: 1,
            num_kv_heads: 1,
            head_dim,
            mlp_hidden_dim: 1,
            max_seq_len: 1,
        };
        let mut config = Config::new(&STUDENT, sizes);
        (config.rope_base, config.rope_scaling, config.rope_pairing) = (base, scaling, pairing);
        Rope::new(&config, None)
    }

    /// Rotating a pair of positions by the same amount leaves their product, and neighbours are halves permuted.
    #[test]
    fn only_distances_count_in_either_pairing() {
        let halves = rope(1e4, 8, RopeScaling::None, RopePairing::Halves);
        let neighbours = rope(1e4, 8, RopeScaling::None, RopePairing::Neighbours);
        let q = [0.3f32, -1.0, 0.5, 2.0, 1.5, -0.7, 0.1, 0.9];
        let k = [1.1f32, 0.2, -0.4, 0.6, -1.3, 0.8, 0.5, -0.2];
        let turned = |rope: &Rope, x: [f32; 8], position| {
            let (mut x, mut angles) = (x, Angles::default());
            rope.angles(position, &mut angles);
            rope.rotate(&mut x, &angles);
            x
        };
        let dot = |a: [f32; 8], b: [f32; 8]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let near = dot(turned(&halves, q, 5), turned(&halves, k, 2));
        let far = dot(turned(&halves, q, 105), turned(&halves, k, 102));
        assert!((near - far).abs() < 1e-4 && (near - dot(q, k)).abs() > 1e-2, "{near} {far}");
        let permuted = |x: [f32; 8]| std::array::from_fn(|i| x[i / 2 + i % 2 * 4]);
        assert_eq!(turned(&neighbours, permuted(q), 9), permuted(turned(&halves, q, 9)));
    }

    /// Llama 3.2 1B's settings; the numbers are those of transformers' `_compute_llama3_parameters`.
    #[test]
    fn scaling_divides_long_wavelengths() {
        let plain = rope(5e5, 64, RopeScaling::None, RopePairing::Halves).frequencies;
        let linear = rope(5e5, 64, RopeScaling::Linear { factor: 4.0 }, RopePairing::Halves).frequencies;
        assert!(plain.iter().zip(&linear).all(|(a, b)| a / 4.0 == *b));
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let llama3 = rope(5e5, 64, scaling, RopePairing::Halves).frequencies;
        assert_eq!(llama3[0], 1.0);
        for (i, ratio) in [(13, 1.0), (31, 1.0 / 32.0)] {
            assert!((llama3[i] / plain[i] - ratio).abs() < 1e-6, "{i}");
        }
        assert!(llama3[16] < plain[16] && llama3[16] > plain[16] / 32.0);
    }
}
