//! The student model with its gradients, hand-written for the CPU: each operation's forward and backward are side by
//! side in a separate file, and this one combines them. It computes the same as [`crate::Composite`], faster
//! and in less memory.
//!
//! Work is divided by token, by sequence and key head, or by weight row, into parts that depend on shapes alone; sums
//! over parts run in their order. So results are the same bits on any number of threads. Kept from the forward
//! pass are the residual stream before and in the middle of each layer, Q K V, the attention's output, and gate and up;
//! everything else is recomputed.

mod attention;
mod bitlinear;
mod head;
mod layer;
pub(crate) mod math;
pub(crate) mod matmul;
mod norm;
mod projection;
mod swiglu;

use std::ops::Range;

use ckpt_inspect::ModelConfig;
use ckpt_inspect::meaning::architecture::Role;
use rayon::prelude::*;

use crate::batch::{Batch, IGNORE};
use crate::distill::Targets;
use crate::{Gradients, Loss, Losses, Parameters, Result};
use layer::{Activations, Layer, Scratch};
pub(crate) use norm::rotary_table;

/// How gradients pass a BitLinear's rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Estimator {
    /// Straight through, and also through the scales ws = mean|W| and xs = max|x|: as the reference trains.
    #[default]
    ThroughScales,
    /// Straight through, with the scales held constant: the usual form.
    Detached,
}

/// A student model ready to compute losses and gradients. It holds buffers, not parameters.
pub struct Network {
    config: ModelConfig,
    estimator: Estimator,
    layers: Vec<Layer>,
    embedding: usize,
    final_norm: usize,
    head: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    positions: usize,
    /// ws of each layer's matrices, one value per row.
    scales: Vec<layer::Scales>,
    activations: Vec<Activations>,
    /// Residual stream after the last layer, `[tokens, hidden]`.
    output: Vec<f32>,
    scratch: Scratch,
    head_scratch: head::Scratch,
}

/// Tokens per unit of work, computed from the number of tokens alone.
fn block(tokens: usize) -> usize {
    (tokens / 4).next_multiple_of(32).clamp(32, 256)
}

impl Network {
    /// A model of this configuration.
    ///
    /// # Errors
    /// `Settings` when the parameters are another configuration's, or the configuration contradicts itself.
    pub fn new(config: &ModelConfig, parameters: &Parameters, estimator: Estimator) -> Result<Self> {
        parameters.check(config)?;
        let at = |role: Role| {
            parameters.place(config, role).expect("the layout holds every tensor the model asks for")
        };
        let embedding = at(Role::Embedding);
        Ok(Network {
            layers: (0..config.num_layers).map(|n| Layer::new(config, n, &at)).collect(),
            embedding,
            final_norm: at(Role::FinalNorm),
            head: if config.tie_word_embeddings { embedding } else { at(Role::Head) },
            config: config.clone(),
            estimator,
            cos: Vec::new(),
            sin: Vec::new(),
            positions: 0,
            scales: Vec::new(),
            activations: Vec::new(),
            output: Vec::new(),
            scratch: Scratch::default(),
            head_scratch: head::Scratch::default(),
        })
    }

    /// Recomputes the ternary scales after parameters have changed, as after an optimizer step.
    pub fn refresh(&mut self, parameters: &Parameters) {
        self.scales = self.layers.par_iter().map(|l| l.scales(&self.config, parameters)).collect();
    }

    /// The mean loss over the positions of `batch` that count; without gradients.
    ///
    /// # Errors
    /// `Settings` for ids beyond the vocabulary.
    pub fn loss(&mut self, parameters: &Parameters, batch: &Batch, loss: &Loss) -> Result<f64> {
        batch.check(self.config.vocab_size)?;
        self.refresh(parameters);
        self.forward(parameters, batch, false);
        let head = self.head(parameters, batch, loss, None, 0.0);
        Ok(head.run(&self.output, &mut self.head_scratch, None).total)
    }

    /// The logits `[vocab]` of the token after `ids`. [`Network::refresh`] must have seen these parameters.
    ///
    /// # Errors
    /// `Settings` for no ids, and for ids beyond the vocabulary.
    pub fn next_logits(&mut self, parameters: &Parameters, ids: &[u32]) -> Result<Vec<f32>> {
        let batch = Batch {
            rows: 1,
            len: ids.len(),
            ids: ids.to_vec(),
            targets: vec![IGNORE; ids.len()],
            sources: vec![None],
        };
        batch.check(self.config.vocab_size)?;
        self.forward(parameters, &batch, false);
        let last = &self.output[(ids.len() - 1) * self.config.hidden_dim..];
        Ok(self.head(parameters, &batch, &Loss::default(), None, 0.0).logits(last))
    }

    /// The mean loss over the positions of `batch` that count. `weight` times its gradient is added to `gradients`
    /// (for several batches per step, the share of each in the positions that count); [`Network::finish`] completes them. [`Network::refresh`] must have seen
    /// these parameters.
    ///
    /// # Errors
    /// `Settings` for ids beyond the vocabulary.
    pub fn accumulate(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        loss: &Loss,
        weight: f32,
        gradients: &mut Gradients,
    ) -> Result<f64> {
        Ok(self.accumulate_distilled(parameters, batch, loss, None, weight, gradients)?.total)
    }

    /// [`Network::accumulate`], with the targets of `teachers` as part of the loss; the loss with its parts.
    ///
    /// # Errors
    /// `Settings` for ids beyond the vocabulary.
    pub fn accumulate_distilled(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        loss: &Loss,
        teachers: Option<&Targets>,
        weight: f32,
        gradients: &mut Gradients,
    ) -> Result<Losses> {
        batch.check(self.config.vocab_size)?;
        self.forward(parameters, batch, true);
        let hidden = self.config.hidden_dim;
        let mut dx = std::mem::take(&mut self.scratch.dx);
        dx.resize(batch.ids.len() * hidden, 0.0);
        dx.fill(0.0);
        let head = self.head(parameters, batch, loss, teachers, weight);
        let [d_head, d_norm] = disjoint(gradients, [self.head, self.final_norm]);
        let value = head.run(&self.output, &mut self.head_scratch, Some((&mut dx, d_head, d_norm)));
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.dx = dx;
        scratch.resize_backward(&self.config, batch.ids.len());
        for (n, layer) in self.layers.iter().enumerate().rev() {
            let pass = self.pass(parameters, batch, n);
            layer.backward(&pass, &self.activations[n], &mut scratch, gradients);
        }
        self.scratch = scratch;
        let d_embedding = &mut gradients[self.embedding];
        for (&id, dx) in batch.ids.iter().zip(self.scratch.dx.chunks(hidden)) {
            let row = &mut d_embedding[id as usize * hidden..][..hidden];
            row.iter_mut().zip(dx).for_each(|(g, &d)| *g += d);
        }
        Ok(value)
    }

    /// Adds the part that flows through the scales of the weights to accumulated gradients: once per step, after all
    /// batches.
    pub fn finish(&self, parameters: &Parameters, gradients: &mut Gradients) {
        if self.estimator == Estimator::Detached {
            return;
        }
        let mut scales: Vec<Option<&[f32]>> = vec![None; gradients.len()];
        for (layer, all) in self.layers.iter().zip(&self.scales) {
            layer.each_scale(all, |index, values| scales[index] = Some(values));
        }
        let per_row = self.config.bitlinear_per_channel;
        gradients.par_iter_mut().zip(scales).zip(&parameters.0).for_each(|((dw, scales), parameter)| {
            if let (Some(scales), Some((_, cols))) = (scales, parameter.matrix()) {
                bitlinear::through_weight_scale(&parameter.values, scales, cols, per_row, dw);
            }
        });
    }

    /// Size of its buffers in bytes.
    pub fn buffer_bytes(&self) -> usize {
        let activations: usize = self.activations.iter().map(Activations::len).sum();
        4 * (activations + self.output.len() + self.scratch.len() + self.head_scratch.len())
    }

    fn forward(&mut self, parameters: &Parameters, batch: &Batch, keep: bool) {
        let (tokens, hidden) = (batch.ids.len(), self.config.hidden_dim);
        if self.positions < batch.len {
            self.positions = batch.len;
            (self.cos, self.sin) = rotary_table(self.config.rope_base, self.config.head_dim, batch.len);
        }
        let slots = if keep { self.layers.len() } else { 1 };
        self.activations.resize_with(slots, Activations::default);
        self.activations.iter_mut().for_each(|a| a.resize(&self.config, tokens));
        self.scratch.resize_forward(&self.config, tokens);
        self.output.resize(tokens * hidden, 0.0);
        let embedding = &parameters.0[self.embedding].values;
        for (x, &id) in self.output.chunks_mut(hidden).zip(&batch.ids) {
            x.copy_from_slice(&embedding[id as usize * hidden..][..hidden]);
        }
        for n in 0..self.layers.len() {
            let mut activations = std::mem::take(&mut self.activations[if keep { n } else { 0 }]);
            let mut output = std::mem::take(&mut self.output);
            let mut scratch = std::mem::take(&mut self.scratch);
            std::mem::swap(&mut activations.input, &mut output);
            let pass = self.pass(parameters, batch, n);
            self.layers[n].forward(&pass, &mut activations, &mut scratch, &mut output);
            self.scratch = scratch;
            self.output = output;
            self.activations[if keep { n } else { 0 }] = activations;
        }
    }

    fn pass<'a>(&'a self, parameters: &'a Parameters, batch: &Batch, n: usize) -> layer::Pass<'a> {
        layer::Pass {
            config: &self.config,
            estimator: self.estimator,
            parameters,
            scales: &self.scales[n],
            cos: &self.cos,
            sin: &self.sin,
            len: batch.len,
            block: block(batch.ids.len()),
        }
    }

    fn head<'a>(
        &self,
        parameters: &'a Parameters,
        batch: &'a Batch,
        loss: &'a Loss,
        teachers: Option<&'a Targets>,
        weight: f32,
    ) -> head::Head<'a> {
        head::Head {
            weight: &parameters.0[self.head].values,
            norm: &parameters.0[self.final_norm].values,
            hidden: self.config.hidden_dim,
            eps: self.config.norm_eps as f32,
            soft_cap: self.config.final_logit_soft_cap.map(|c| c as f32),
            targets: &batch.targets,
            loss,
            teachers,
            scale: weight,
        }
    }
}

/// Mutable references to several gradients at once.
fn disjoint<const N: usize>(gradients: &mut Gradients, at: [usize; N]) -> [&mut Vec<f32>; N] {
    gradients.get_disjoint_mut(at).expect("parameters of a layer are different ones")
}

/// Ranges of `0..n` of `size` each, the last one shorter.
fn ranges(n: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(size.max(1)).map(move |start| start..n.min(start + size))
}
