//! Rotary position embedding: pair i of a head is rotated by position * frequency i.

use crate::{Config, RopePairing, RopeScaling};

/// Frequencies of a model's heads.
#[derive(Debug)]
pub(crate) struct Rope {
    /// Radians per position of each pair that rotates, in f32 as PyTorch computes them.
    frequencies: Vec<f32>,
    /// What sines and cosines are multiplied by.
    scale: f32,
    /// Whether pairs are neighbours; otherwise they have one element from each half of what rotates of a head.
    neighbours: bool,
}

/// How a model's layers rotate.
#[derive(Debug)]
pub(crate) struct Ropes {
    /// One for each kind of layer that rotates: the usual ones, and those with a base of their own.
    kinds: Vec<Rope>,
    /// The usual layers' in texts of more positions than this, and the number.
    long: Option<(usize, Rope)>,
}

/// Cosines and sines of one position.
#[derive(Debug, Default)]
pub(crate) struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Ropes {
    /// The rotations of a model; `factors` divide the frequencies of its usual layers further.
    pub fn new(config: &Config, factors: Option<&[f32]>) -> Self {
        let divided = |factors: Option<&[f32]>| {
            Rope::new(config, config.rope_base, &config.rope_scaling, |i| {
                factors.and_then(|f| f.get(i)).copied().unwrap_or(1.0)
            })
        };
        let narrow = |factors: &[f64]| divided(Some(&factors.iter().map(|x| *x as f32).collect::<Vec<_>>()));
        let (usual, long) = match &config.rope_scaling {
            RopeScaling::LongRope { short_factor, long_factor, original_max_position_embeddings, .. } => {
                let original = original_max_position_embeddings.map_or(config.max_seq_len, |n| n as usize);
                (narrow(short_factor), Some((original, narrow(long_factor))))
            }
            _ => (divided(factors), None),
        };
        let local = |base| Rope::new(config, base, &RopeScaling::None, |_| 1.0);
        Ropes { kinds: [usual].into_iter().chain(config.local_rope_base.map(local)).collect(), long }
    }

    /// Which of them `layer` uses; `None` if it does not rotate.
    pub fn of_layer(config: &Config, layer: usize) -> Option<usize> {
        let is_local = config.local_rope_base.is_some() && config.window_in(layer).is_some();
        config.rotates(layer).then_some(usize::from(is_local))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The rotation of a kind. Those of long texts differ in their angles only.
    #[inline(always)]
    pub fn kind(&self, kind: usize) -> &Rope {
        &self.kinds[kind]
    }

    /// Whether a text of `len` positions has the frequencies of long ones.
    pub fn is_long(&self, len: usize) -> bool {
        self.long.as_ref().is_some_and(|(original, _)| len > *original)
    }

    /// The angles of `position` for each kind, in a text that `is_long` or not.
    pub fn angles(&self, position: usize, is_long: bool, angles: &mut [Angles]) {
        for (rope, angles) in self.kinds.iter().zip(&mut *angles) {
            rope.angles(position, angles);
        }
        if let (Some((_, rope)), true, Some(usual)) = (&self.long, is_long, angles.first_mut()) {
            rope.angles(position, usual);
        }
    }
}

impl Rope {
    /// Frequencies base^(-2i / rotary_dim), scaled as configured; `divisor` divides each further.
    fn new(config: &Config, base: f64, scaling: &RopeScaling, divisor: impl Fn(usize) -> f32) -> Self {
        let dim = config.rotary_dim.unwrap_or(config.head_dim);
        let longest = config.max_seq_len as f64;
        let yarn = Yarn::of(scaling, base, dim, longest);
        let frequencies = (0..dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / dim as f32;
            let period = (base as f32).powf(exponent);
            match (scaling, &yarn) {
                (_, Some(yarn)) => yarn.frequency(period, i),
                (RopeScaling::LongRope { .. }, _) => 1.0 / (divisor(i) * period),
                _ => stretch(f64::from(1.0 / period), scaling) as f32 / divisor(i),
            }
        });
        let frequencies = frequencies.collect();
        let neighbours = config.rope_pairing == RopePairing::Neighbours;
        Rope { frequencies, scale: scaling.attention_factor(longest) as f32, neighbours }
    }

    /// The angles of `position`.
    fn angles(&self, position: usize, angles: &mut Angles) {
        angles.cos.clear();
        angles.sin.clear();
        for frequency in &self.frequencies {
            let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
            angles.cos.push(cos as f32 * self.scale);
            angles.sin.push(sin as f32 * self.scale);
        }
    }

    /// Rotates one head's vector, or as much of it as rotates.
    #[inline(always)]
    pub fn rotate(&self, head: &mut [f32], angles: &Angles) {
        let head = &mut head[..2 * self.frequencies.len()];
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

/// YaRN's passage from kept to divided wavelengths (`_compute_yarn_parameters` of transformers).
struct Yarn {
    factor: f32,
    /// The pair with which it begins, and the one with which it ends.
    from: f32,
    to: f32,
}

impl Yarn {
    fn of(scaling: &RopeScaling, base: f64, dim: usize, longest: f64) -> Option<Yarn> {
        let RopeScaling::Yarn { factor, original_max_position_embeddings, .. } = scaling else { return None };
        let original = original_max_position_embeddings.unwrap_or(longest);
        let (fast, slow, truncated) = scaling.yarn_bounds();
        // The pair that turns so many times over the original length.
        let pair =
            |turns: f64| dim as f64 * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln());
        let (mut from, mut to) = (pair(fast), pair(slow));
        if truncated {
            (from, to) = (from.floor(), to.ceil());
        }
        (from, to) = (from.max(0.0), to.min(dim as f64 - 1.0));
        if from == to {
            to += 0.001;
        }
        Some(Yarn { factor: *factor as f32, from: from as f32, to: to as f32 })
    }

    fn frequency(&self, period: f32, pair: usize) -> f32 {
        let kept = 1.0 - ((pair as f32 - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        1.0 / (self.factor * period) * (1.0 - kept) + 1.0 / period * kept
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
        Ropes::new(&config, None).kinds.remove(0)
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
