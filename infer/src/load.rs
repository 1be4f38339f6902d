//! From a checkpoint to a model: tensors found by their part, checked against each other, and packed for the kernels.

use std::borrow::Cow;

use ckpt_inspect::meaning::architecture::Dim;
use ckpt_inspect::meaning::names::of_expert;
use ckpt_inspect::meaning::{Experts as ExpertSizes, Quantization};
use ckpt_inspect::{Checkpoint, DType, Format, TensorInfo, TernaryPacking};
use half::f16;

use crate::config::{configuration, names_codes_by_type};
use crate::experts::Experts;
use crate::kernel::activation::Rounding;
use crate::kernel::coded::Coded;
use crate::kernel::float::Element;
use crate::kernel::packed::{Bytes, Dense, Matrix, Ternary};
use crate::kernel::pool::Pool;
use crate::kernel::product::Stack;
use crate::kernel::simd::LANES;
use crate::kernel::{Aligned, Kernel, six};
use crate::layer::{FeedForward, Gain, Layer, Mlp, Projection};
use crate::model::Model;
use crate::rope::Ropes;
use crate::rows::Rows;
use crate::{Assumption, Config, Error, Names, Part, Result, Role, RopeScaling, Settings};

/// The type of the embedding and the head in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TableType {
    /// f32.
    F32,
    /// f16.
    F16,
    /// int8 with a scale for each row. Hidden states are rounded to 16 bits, so only the weights' rounding matters.
    Int8,
    /// Six bits with a scale for each row and 32 columns, 6.5 bits a weight. Hidden states are rounded to 16 bits.
    Q6,
}

/// How to load a model.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Settings that override the checkpoint's configuration.
    pub settings: Settings,
    /// The type of the embedding and the head in memory; if `None` the file's own, where that is f16, bf16, or blocks that
    /// are multiplied as they are, else f32.
    pub tables: Option<TableType>,
    /// Round activations to 8 bits, with a scale for each 32 columns, instead of 16, where weights are kept in GGUF's
    /// blocks or in six bits.
    pub fast: bool,
    /// The instruction set to run with; the processor's best when `None`.
    pub kernel: Option<Kernel>,
}

impl LoadOptions {
    /// These options, with what `change` changes.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Model {
    /// Loads the model of `checkpoint`. Matrices of BitLinear layers are made ternary and packed, on the threads of
    /// `pool`; the checkpoint is no longer needed afterwards.
    ///
    /// # Errors
    /// Those of the checkpoint's tensors; `Unsupported` for networks that are not run; `Inconsistent` when tensors
    /// are missing or do not fit each other.
    pub fn load(checkpoint: &Checkpoint, options: &LoadOptions, pool: &Pool) -> Result<Model> {
        if let Some(what) = checkpoint.coding.refusal() {
            return Err(Error::Unsupported { path: checkpoint.path.clone(), what });
        }
        let names = Names::of(checkpoint);
        let (config, mut assumed) = configuration(checkpoint, &names, &options.settings)?;
        let kernel = options.kernel.unwrap_or_else(Kernel::best);
        let rounding = if options.fast { Rounding::Coarse } else { Rounding::Fine };
        let (names, tables) = (&names, options.tables);
        let loader = Loader { checkpoint, names, config: &config, tables, rounding, kernel, pool };
        let embedding = loader.table(Role::Embedding)?;
        let head = if config.tie_word_embeddings { None } else { Some(loader.table(Role::Head)?) };
        let layers = (0..config.num_layers).map(|n| loader.layer(n)).collect::<Result<Vec<_>>>()?;
        let norm = loader.vector(Role::FinalNorm)?;
        // The tensor and Llama 3's parameters mean the same scaling; apply it only once.
        let configured = matches!(config.rope_scaling, RopeScaling::Llama3 { .. });
        let factors = names.get(Role::RopeFactors).filter(|_| !configured);
        let factors = factors.map(|t| checkpoint.values(t)).transpose()?;
        let rope = Ropes::new(&config, factors.as_deref());
        if loader.scale_is_lost() {
            assumed.push(Assumption::UnitScales);
        }
        Ok(Model { config, assumed, kernel, embedding, head, layers, norm, rope })
    }
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    names: &'a Names<'a>,
    config: &'a Config,
    tables: Option<TableType>,
    /// How activations are rounded for matrices of codes.
    rounding: Rounding,
    kernel: Kernel,
    pool: &'a Pool,
}

impl<'a> Loader<'a> {
    fn layer(&self, n: usize) -> Result<Layer> {
        let norm = |part| {
            let role = Role::Layer(n, part);
            self.config.shape(role).map(|_| self.vector(role)).transpose()
        };
        let sub_norm = |part| self.gain(Role::Layer(n, part), self.config.norm_eps);
        let (q_norm, k_norm) = (norm(Part::QNorm)?, norm(Part::KNorm)?);
        let of_heads = |part| self.config.architecture.tensor(Role::Layer(0, part));
        let (q_norm, k_norm, row_norms) = match of_heads(Part::QNorm).is_some_and(|t| t.shape != [Dim::Head])
        {
            true => (None, None, q_norm.zip(k_norm).map(|(q, k)| [q, k])),
            false => (q_norm, k_norm, None),
        };
        let fused = |fused, parts: &'static [Part]| match self.config.architecture.has(fused) {
            true => self.projection(n, &[fused]).map(|one| vec![one]),
            false => self.projections(n, parts),
        };
        Ok(Layer {
            attention_norm: norm(Part::AttentionNorm)?,
            qkv: fused(Part::Qkv, &[Part::Q, Part::K, Part::V])?,
            q_norm,
            k_norm,
            row_norms,
            rope: Ropes::of_layer(self.config, n),
            window: self.config.window_in(n).unwrap_or(usize::MAX),
            attention_sub_norm: sub_norm(Part::AttentionSubNorm)?,
            o: self.projection(n, &[Part::O])?,
            post_attention_norm: sub_norm(Part::PostAttentionNorm)?,
            ffn_norm: norm(Part::FfnNorm)?,
            mlp: match self.config.experts {
                Some(experts) => Mlp::Experts(self.experts(n, experts)?),
                None => Mlp::Dense(FeedForward {
                    gate_up: fused(Part::GateUp, &[Part::Gate, Part::Up])?,
                    sub_norm: sub_norm(Part::FfnSubNorm)?,
                    down: self.projection(n, &[Part::Down])?,
                }),
            },
            post_ffn_norm: sub_norm(Part::PostFfnNorm)?,
        })
    }

    /// The experts of layer `n`.
    fn experts(&self, n: usize, experts: ExpertSizes) -> Result<Experts> {
        let matrices = |part, number| self.expert(Role::Layer(n, part), number);
        let (mut gate_up, mut down) = (Vec::new(), Vec::new());
        for number in 0..experts.count {
            let both = vec![matrices(Part::GateExperts, number)?, matrices(Part::UpExperts, number)?];
            gate_up.push(Stack::new(both, Vec::new()));
            down.push(Stack::new(vec![matrices(Part::DownExperts, number)?], Vec::new()));
        }
        let router = self.stack(n, &[Part::Router])?;
        let ExpertSizes { used, normalized, hidden_dim: dim, .. } = experts;
        Ok(Experts { router, gate_up, down, dim, used, normalized })
    }

    /// One expert's matrix, `role` being that of all of them.
    fn expert(&self, role: Role, number: usize) -> Result<Matrix> {
        let inconsistent = |what| Error::Inconsistent { path: self.checkpoint.path.clone(), what };
        let shape = self.config.shape(role).unwrap_or_default();
        let &[_, rows, cols] = &shape[..] else {
            return Err(inconsistent("experts are not matrices".into()));
        };
        let part;
        let tensor = if self.names.has_separate_experts() {
            self.names.expert(role, number).ok_or_else(|| {
                let name = of_expert(&self.names.called(role), number);
                inconsistent(format!("tensor `{name}` is missing"))
            })?
        } else {
            let stack = self.tensor(role)?;
            part = stack.part(number).ok_or_else(|| {
                let name = stack.name.escape_debug();
                inconsistent(format!("tensor `{name}` cannot be divided among experts"))
            })?;
            &part
        };
        if tensor.shape != [rows, cols] {
            let (name, found) = (tensor.name.escape_debug(), &tensor.shape);
            return Err(inconsistent(format!(
                "tensor `{name}` has shape {found:?} where the model needs {:?}",
                [rows, cols]
            )));
        }
        self.plain(tensor, (rows, cols))
    }

    /// The norm of `role`, where the model has it.
    fn gain(&self, role: Role, eps: f64) -> Result<Option<Gain>> {
        let gain = self.config.shape(role).map(|_| self.vector(role));
        Ok(gain.transpose()?.map(|weight| Gain { weight, eps: eps as f32 }))
    }

    /// Projections of layer `n` that have the same input: together, unless each normalizes it in its own way.
    fn projections(&self, n: usize, parts: &[Part]) -> Result<Vec<Projection>> {
        match self.config.bitlinear_norm_eps {
            None => Ok(vec![self.projection(n, parts)?]),
            Some(_) => parts.chunks(1).map(|part| self.projection(n, part)).collect(),
        }
    }

    /// Projections of layer `n` that are computed together, and the norm that the first has of its input.
    fn projection(&self, n: usize, parts: &[Part]) -> Result<Projection> {
        let own = self.config.bitlinear_norm_eps.zip(parts[0].input_norm());
        let norm = own.map(|(eps, part)| self.gain(Role::Layer(n, part), eps)).transpose()?.flatten();
        Ok(Projection { norm, stack: self.stack(n, parts)? })
    }

    /// Projections of layer `n` that have the same input, with the biases that the model has for them.
    fn stack(&self, n: usize, parts: &[Part]) -> Result<Stack> {
        let quantization = self.checkpoint.model.quantization.as_ref();
        let scaled = quantization.is_some_and(Quantization::scales_outputs);
        let (mut matrices, mut biases, mut any) = (Vec::new(), Vec::new(), false);
        for &part in parts {
            let matrix = self.matrix(Role::Layer(n, part))?;
            let bias = part.bias().map(|bias| Role::Layer(n, bias));
            match bias.filter(|role| self.config.shape(*role).is_some()) {
                Some(bias) => {
                    // transformers' class multiplies it by the scale, too.
                    let scale = self.tensor(Role::Layer(n, part))?.scale.filter(|_| scaled).unwrap_or(1.0);
                    biases
                        .extend(self.checkpoint.values(self.tensor(bias)?)?.iter().map(|bias| bias * scale));
                    any = true;
                }
                None => biases.resize(biases.len() + matrix.rows(), 0.0),
            }
            matrices.push(matrix);
        }
        Ok(Stack::new(matrices, if any { biases } else { Vec::new() }))
    }

    /// The tensor of `role`, in the shape that the table of architectures gives it.
    fn tensor(&self, role: Role) -> Result<&'a TensorInfo> {
        let inconsistent = |what| Error::Inconsistent { path: self.checkpoint.path.clone(), what };
        let tensor = self
            .names
            .get(role)
            .ok_or_else(|| {
                let why = match role {
                    Role::Head => ", and its configuration does not say that the embedding is the head (tie_word_embeddings)",
                    _ => "",
                };
                inconsistent(format!("tensor `{}` is missing{why}", self.names.called(role)))
            })?;
        let shape = self.config.shape(role).unwrap_or_default();
        if tensor.shape != shape {
            let (name, found) = (tensor.name.escape_debug(), &tensor.shape);
            return Err(inconsistent(format!(
                "tensor `{name}` has shape {found:?} where the model needs {shape:?}"
            )));
        }
        Ok(tensor)
    }

    /// NaN and infinity in what is rounded, or before it, would not show in what comes out.
    fn not_finite(&self, tensor: &TensorInfo) -> Error {
        let what = format!("tensor `{}` has values that are NaN or infinite", tensor.name.escape_debug());
        Error::Inconsistent { path: self.checkpoint.path.clone(), what }
    }

    /// What a norm multiplies by, padded with zeros.
    fn vector(&self, role: Role) -> Result<Aligned<f32>> {
        let tensor = self.tensor(role)?;
        let values = self.checkpoint.values(tensor)?;
        if !values.iter().all(|value| value.is_finite()) {
            return Err(self.not_finite(tensor));
        }
        let mut padded = Aligned::zeroed(values.len().next_multiple_of(LANES));
        padded[..values.len()].copy_from_slice(&values);
        // GGUF files have the sums.
        let is_gguf = matches!(self.checkpoint.format, Format::Gguf { .. });
        if self.config.architecture.network.gains_less_one && !is_gguf {
            padded[..values.len()].iter_mut().for_each(|gain| *gain += 1.0);
        }
        Ok(padded)
    }

    /// A projection [rows, cols]: ternary tensors unchanged, floats made ternary for a BitLinear, else unchanged.
    fn matrix(&self, role: Role) -> Result<Matrix> {
        let tensor = self.tensor(role)?;
        let shape = (tensor.shape[0], tensor.shape[1]);
        let bitlinear = self.config.is_bitlinear(role);
        if let DType::Ternary(_) = tensor.dtype {
            let rows = Rows::of(self.checkpoint, tensor, shape)?;
            let codes = rows.codes();
            let scale = tensor.scale.unwrap_or(1.0);
            if !scale.is_finite() {
                return Err(self.not_finite(tensor));
            }
            return Ok(self.signs(shape, scale, |i, out| codes.read(i, out)));
        }
        // Codes times their scale, in any type, must not be rounded a second time.
        let held = self.checkpoint.model.holds_codes() || names_codes_by_type(self.checkpoint);
        if tensor.dtype.is_ternary() || bitlinear && held {
            let rows = Rows::of(self.checkpoint, tensor, shape)?;
            return match rows.magnitude(self.kernel, self.pool) {
                Some(scale) if !scale.is_finite() => Err(self.not_finite(tensor)),
                Some(scale) => Ok(self.signs(shape, scale, |i, out| rows.read(i, out))),
                None => self.plain(tensor, shape),
            };
        }
        if bitlinear {
            let (floor, per_row) = (self.config.quantization_floor, self.config.bitlinear_per_channel);
            let rows = Rows::of(self.checkpoint, tensor, shape)?;
            let weights = match rows.whole() {
                Some(weights) => Cow::Borrowed(weights),
                None => Cow::Owned(self.checkpoint.values(tensor)?),
            };
            let ternary = Ternary::absmean(self.kernel, self.pool, &weights, shape, floor, per_row);
            return ternary.map(Matrix::Ternary).ok_or_else(|| self.not_finite(tensor));
        }
        self.plain(tensor, shape)
    }

    fn signs(&self, shape: (usize, usize), scale: f32, row: impl Fn(usize, &mut [f32]) + Sync) -> Matrix {
        Matrix::Ternary(Ternary::of_signs(self.kernel, self.pool, shape, vec![scale; shape.0], row))
    }

    fn scale_is_lost(&self) -> bool {
        let lost = DType::Ternary(TernaryPacking::I2sUnscaled);
        self.checkpoint.tensors.iter().any(|t| t.dtype == lost)
    }

    /// The embedding or the head [vocab_size, hidden_dim].
    fn table(&self, role: Role) -> Result<Matrix> {
        let shape = (self.config.vocab_size, self.config.hidden_dim);
        let tensor = self.tensor(role)?;
        let Some(wanted) = self.tables else { return self.plain(tensor, shape) };
        let rows = Rows::of(self.checkpoint, tensor, shape)?;
        let read = |i: usize, out: &mut [f32]| rows.read(i, out);
        Ok(match wanted {
            TableType::F32 => Matrix::F32(Dense::new(self.pool, shape, read)),
            TableType::F16 => Matrix::F16(Dense::new(self.pool, shape, |i, out: &mut [f16]| {
                let mut row = vec![0.0; shape.1];
                rows.read(i, &mut row);
                out.iter_mut().zip(row).for_each(|(out, x)| *out = f16::of(x));
            })),
            TableType::Int8 => Matrix::Int8(Bytes::quantize(self.kernel, self.pool, shape, read)),
            TableType::Q6 => {
                let six = six::quantize(self.kernel, self.pool, shape, read);
                let factor = six.factor();
                Matrix::Coded(six.with(factor, self.rounding))
            }
        })
    }

    /// A matrix that is not ternary: f16, bf16 and most of GGUF's blocks keep their type, everything else becomes f32.
    fn plain(&self, tensor: &TensorInfo, shape: (usize, usize)) -> Result<Matrix> {
        Ok(match tensor.dtype {
            DType::F16 => Matrix::F16(self.copied(tensor, shape)?),
            DType::BF16 => Matrix::BF16(self.copied(tensor, shape)?),
            DType::Ggml(ggml) if tensor.scales.is_none() && Coded::keeps(ggml) => {
                let bytes = self.checkpoint.tensor_bytes(tensor)?;
                let coded = Coded::of_blocks(self.pool, ggml, shape, &bytes).ok_or_else(|| {
                    let what =
                        format!("the bytes of tensor `{}` do not fill its shape", tensor.name.escape_debug());
                    Error::Inconsistent { path: self.checkpoint.path.clone(), what }
                })?;
                Matrix::Coded(coded.with(tensor.scale.unwrap_or(1.0), self.rounding))
            }
            _ => {
                let rows = Rows::of(self.checkpoint, tensor, shape)?;
                Matrix::F32(Dense::new(self.pool, shape, |i, out| rows.read(i, out)))
            }
        })
    }

    fn copied<E: Element>(&self, tensor: &TensorInfo, shape: (usize, usize)) -> Result<Dense<E>> {
        let bytes = self.checkpoint.tensor_bytes(tensor)?;
        let row = shape.1 * size_of::<E>();
        Ok(Dense::new(self.pool, shape, |i, out| {
            bytemuck::cast_slice_mut::<E, u8>(out).copy_from_slice(&bytes[i * row..][..row]);
        }))
    }
}
