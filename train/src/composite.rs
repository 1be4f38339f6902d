//! The student model in plain candle operations: the readable reference that the fused network is tested against, and
//! the form that runs on any device candle knows. Forward as `docs/bitnet.md` describes it; backward by candle's
//! autograd.

use candle_core::{D, DType, Device, Tensor, Var};
use ckpt_inspect::ModelConfig;
use ckpt_inspect::meaning::architecture::{Part, Role};
use ckpt_inspect::meaning::names::Style;

use crate::batch::{Batch, IGNORE};
use crate::{Estimator, Gradients, Loss, Parameters, Result};

/// A student model whose parameters are candle variables: the readable reference, without its own backward pass.
/// `ckpt train` runs [`Network`](crate::Network), which is tested against it.
///
/// It computes on the [`Device`] that it is given. For an NVIDIA GPU, build this crate with its feature `cuda` (candle
/// then needs the CUDA toolkit) and pass `Device::new_cuda(0)?`.
pub struct Composite {
    config: ModelConfig,
    estimator: Estimator,
    names: Vec<String>,
    vars: Vec<Var>,
}

/// Rounds to the nearest integer, ties to even: adding and subtracting 1.5 * 2^23 leaves f32 no fraction bits. Exact
/// for |x| < 2^22.
fn round(x: &Tensor) -> candle_core::Result<Tensor> {
    const SHIFT: f64 = 12_582_912.0;
    (x + SHIFT)? - SHIFT
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> candle_core::Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)
}

/// `cap * tanh(x / cap)`.
fn soft_cap(x: Tensor, cap: Option<f64>) -> candle_core::Result<Tensor> {
    match cap {
        Some(cap) => (x / cap)?.tanh()? * cap,
        None => Ok(x),
    }
}

impl Composite {
    /// The model with these parameters on `device`.
    ///
    /// # Errors
    /// `Settings` when the parameters are another configuration's; those of candle, such as too little memory on a GPU.
    pub fn new(
        config: &ModelConfig,
        parameters: &Parameters,
        estimator: Estimator,
        device: &Device,
    ) -> Result<Self> {
        parameters.check(config)?;
        let var = |p: &crate::Parameter| {
            Var::from_tensor(&Tensor::from_slice(&p.values, p.shape.as_slice(), device)?)
        };
        Ok(Composite {
            config: config.clone(),
            estimator,
            names: parameters.0.iter().map(|p| p.name.clone()).collect(),
            vars: parameters.0.iter().map(var).collect::<candle_core::Result<_>>()?,
        })
    }

    fn weight(&self, role: Role) -> &Tensor {
        let name = self.config.architecture.name(role, Style::Student);
        let at = self.names.iter().position(|n| Some(n) == name.as_ref());
        self.vars[at.expect("the layout holds every tensor the model asks for")].as_tensor()
    }

    fn projection(&self, x: &Tensor, role: Role) -> candle_core::Result<Tensor> {
        let (weight, ternary) = (self.weight(role), self.config.is_bitlinear(role));
        if ternary { self.bit_linear(x, weight) } else { linear(x, weight) }
    }

    /// BitLinear: `y = (xq . Wq) * (ws * xs / 127)`, gradients by the straight-through estimator.
    fn bit_linear(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        let eps = self.config.quantization_floor.number();
        let abs_mean = if self.config.bitlinear_per_channel {
            weight.abs()?.mean_keepdim(D::Minus1)?
        } else {
            weight.abs()?.mean_all()?.reshape((1, 1))?
        };
        let mut weight_scale = (abs_mean + eps)?;
        // Among equal largest elements, one gets the gradient, as with torch.max. They are common: at a sequence's
        // first position all heads of a group output the same values.
        let magnitudes = x.abs()?;
        let mut token_scale = (magnitudes.gather(&magnitudes.argmax_keepdim(D::Minus1)?, D::Minus1)? + eps)?;
        if self.estimator == Estimator::Detached {
            (weight_scale, token_scale) = (weight_scale.detach(), token_scale.detach());
        }
        let scaled = weight.broadcast_div(&weight_scale)?;
        let codes = (&scaled + (round(&scaled.clamp(-1f32, 1f32)?)? - &scaled)?.detach())?;
        let spread = (x.broadcast_div(&token_scale)? * 127.0)?;
        let levels = (&spread + (round(&spread.clamp(-128f32, 127f32)?)? - &spread)?.detach())?;
        let dot = linear(&levels, &codes)?;
        dot.broadcast_mul(&(token_scale.broadcast_mul(&weight_scale.t()?)? / 127.0)?)
    }

    /// Logits `[rows * len, vocab]` of token ids `[rows, len]`.
    ///
    /// # Errors
    /// candle's.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        let (c, rows, len) = (&self.config, batch.rows, batch.len);
        let device = self.vars[0].device();
        let (heads, kv_heads, dim) = (c.num_heads, c.num_kv_heads, c.head_dim);
        let (cos, sin) = rotary(c, len, device)?;
        let mask: Vec<f32> =
            (0..len * len).map(|i| if i % len > i / len { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (len, len), device)?;
        let ids = Tensor::from_slice(&batch.ids, rows * len, device)?;
        let mut x = self.weight(Role::Embedding).index_select(&ids, 0)?;
        for n in 0..c.num_layers {
            let of_layer = |part| Role::Layer(n, part);
            let h = rms_norm(&x, self.weight(of_layer(Part::AttentionNorm)), c.norm_eps)?;
            let head = |part: Part, heads: usize| {
                let y = self.projection(&h, of_layer(part))?;
                y.reshape((rows, len, heads, dim))?.transpose(1, 2)?.contiguous()
            };
            let (mut q, mut k, v) =
                (head(Part::Q, heads)?, head(Part::K, kv_heads)?, head(Part::V, kv_heads)?);
            if c.use_qk_norm {
                q = rms_norm(&q, self.weight(of_layer(Part::QNorm)), c.norm_eps)?;
                k = rms_norm(&k, self.weight(of_layer(Part::KNorm)), c.norm_eps)?;
            }
            let (q, k) = (rotate(&q, &cos, &sin)?, rotate(&k, &cos, &sin)?);
            let (k, v) = (repeat_heads(&k, heads / kv_heads)?, repeat_heads(&v, heads / kv_heads)?);
            let scores = (q.matmul(&k.t()?.contiguous()?)? / (dim as f64).sqrt())?;
            let scores = soft_cap(scores, c.attn_logit_soft_cap)?.broadcast_add(&mask)?;
            let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
            let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
            let mixed =
                weights.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((rows * len, heads * dim))?;
            x = (x + self.projection(&mixed, of_layer(Part::O))?)?;
            let h = rms_norm(&x, self.weight(of_layer(Part::FfnNorm)), c.norm_eps)?;
            let mlp = |h: &Tensor, part: Part| self.projection(h, of_layer(part));
            let h = (mlp(&h, Part::Gate)?.silu()? * mlp(&h, Part::Up)?)?;
            x = (x + mlp(&h, Part::Down)?)?;
        }
        let x = rms_norm(&x, self.weight(Role::FinalNorm), c.norm_eps)?;
        let head = if c.tie_word_embeddings { Role::Embedding } else { Role::Head };
        Ok(soft_cap(linear(&x, self.weight(head))?, c.final_logit_soft_cap)?)
    }

    /// The mean loss over the positions that count, and its gradient for every parameter.
    ///
    /// # Errors
    /// `Settings` for ids beyond the vocabulary; candle's.
    pub fn loss_and_gradients(&self, batch: &Batch, loss: &Loss) -> Result<(f64, Gradients)> {
        batch.check(self.config.vocab_size)?;
        let logits = self.logits(batch)?;
        let device = logits.device();
        let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
        let log_probs = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
        let positions = batch.targets.len();
        let target: Vec<u32> = batch.targets.iter().map(|&t| t.max(0) as u32).collect();
        let target = Tensor::from_vec(target, (positions, 1), device)?;
        let counts: Vec<f32> = batch.targets.iter().map(|&t| f32::from(t != IGNORE)).collect();
        let counts = Tensor::from_vec(counts, positions, device)?;
        let smoothing = loss.label_smoothing;
        let chosen = log_probs.gather(&target, 1)?.squeeze(1)?;
        let entropy = ((&chosen * (1.0 - smoothing))? + (log_probs.mean(D::Minus1)? * smoothing)?)?;
        let each = match loss.focal {
            0.0 => entropy,
            gamma => (entropy * chosen.exp()?.affine(-1.0, 1.0)?.powf(gamma)?)?,
        };
        let counted = batch.counted().max(1) as f64;
        let mean = ((each * counts)?.sum_all()? / -counted)?;
        let store = mean.backward()?;
        let gradient = |var: &Var| match store.get(var) {
            Some(g) => g.flatten_all()?.to_vec1::<f32>(),
            None => Ok(vec![0.0; var.elem_count()]),
        };
        let gradients = self.vars.iter().map(gradient).collect::<candle_core::Result<_>>()?;
        Ok((f64::from(mean.to_dtype(DType::F32)?.to_scalar::<f32>()?), gradients))
    }
}

/// `x . weight'`.
fn linear(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    x.matmul(&weight.t()?)
}

/// cos and sin of position * base^(-2i/dim), `[len, dim]`, the same for both halves of the last dimension.
fn rotary(c: &ModelConfig, len: usize, device: &Device) -> candle_core::Result<(Tensor, Tensor)> {
    let (cos, sin) = crate::network::rotary_table(c.rope_base, c.head_dim, len);
    let table = |values: Vec<f32>| {
        let half = Tensor::from_vec(values, (len, c.head_dim / 2), device)?;
        Tensor::cat(&[&half, &half], 1)
    };
    Ok((table(cos)?, table(sin)?))
}

/// Rotary embedding in the rotate-half form: the first half of each head is rotated with the second.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> candle_core::Result<Tensor> {
    let half = x.dim(D::Minus1)? / 2;
    let (first, second) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let turned = Tensor::cat(&[&second.neg()?, &first], D::Minus1)?;
    x.broadcast_mul(cos)? + turned.broadcast_mul(sin)?
}

/// Key and value heads repeated for the query heads that share them: head h uses h / groups.
fn repeat_heads(x: &Tensor, groups: usize) -> candle_core::Result<Tensor> {
    let (rows, heads, len, dim) = x.dims4()?;
    let shape = (rows, heads, groups, len, dim);
    x.unsqueeze(2)?.broadcast_as(shape)?.reshape((rows, heads * groups, len, dim))
}
