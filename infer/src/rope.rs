//! Rotary position embedding: pair i of a head turns by position * frequency i.

use crate::config::{Config, RopePairing, RopeScaling};

/// Frequencies of a model's heads.
#[derive(Debug)]
pub(crate) struct Rope {
    /// Radians a position, head_dim / 2 of them, in f32 as PyTorch computes them.
    frequencies: Vec<f32>,
    pairing: RopePairing,
}

/// Cosines and sines of one position.
#[derive(Debug, Default)]
pub(crate) struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// Frequencies base^(-2i / head_dim), stretched as configured; `factors` divide them further.
    pub fn new(config: &Config, factors: Option<&[f32]>) -> Self {
        let half = config.head_dim / 2;
        let frequencies = (0..half).map(|i| {
            let exponent = (2 * i) as f32 / config.head_dim as f32;
            let frequency = 1.0 / (config.rope_base as f32).powf(exponent);
            let stretched = stretch(f64::from(frequency), config.rope_scaling) as f32;
            stretched / factors.and_then(|f| f.get(i)).copied().unwrap_or(1.0)
        });
        Rope { frequencies: frequencies.collect(), pairing: config.rope_pairing }
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

    /// Turns one head's vector.
    #[inline(always)]
    pub fn rotate(&self, head: &mut [f32], angles: &Angles) {
        let turns = angles.cos.iter().zip(&angles.sin);
        match self.pairing {
            RopePairing::Halves => {
                let (first, second) = head.split_at_mut(self.frequencies.len());
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
            RopePairing::Neighbours => {
                for ([a, b], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}

/// Llama 3.1's rule is that of its reference implementation: wavelengths between the two bounds are interpolated
/// between divided and kept.
fn stretch(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let turns = original_max_position_embeddings * frequency / std::f64::consts::TAU;
            let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            frequency / factor * (1.0 - kept) + frequency * kept
        }
    }
}
