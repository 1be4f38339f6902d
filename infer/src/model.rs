//! The model and its forward pass. One block is: x += o(attention(norm x)), x += down(f(gate) * up), with norms of what is
//! added, and other scales, in some architectures.

use ckpt_inspect::Checkpoint;
use serde_json::to_vec;
use sha2::{Digest, Sha256};

use crate::Config;
use crate::attention::Attend;
use crate::cache::{Cache, Paged, Pages, with_pages};
use crate::experts::Routes;
use crate::kernel::activation::{Activation, Forms};
use crate::kernel::float::Element;
use crate::kernel::packed::Matrix;
use crate::kernel::pool::{Block, Pool, cuts};
use crate::kernel::product::{Output, Stack};
use crate::kernel::simd::{LANES, Simd, Work};
use crate::kernel::{Aligned, Kernel};
use crate::layer::{FeedForward, Gain, Layer, Mlp, Projection};
use crate::prepare::{From, Join, NormalizeRow, Prepare, normalize_in_place, prepare};
use crate::rope::{Angles, Rope, Ropes};
use crate::{Assumption, Error, Result};

/// The most tokens that go through the model together.
const STEP: usize = 256;
/// Tokens whose attention one task computes.
const ATTENTION_TOKENS: usize = 8;

/// A loaded model, ready to run. Weights only: sequences live in [`Cache`]s, working memory in [`Runner`]s.
#[derive(Debug)]
pub struct Model {
    pub(crate) config: Config,
    pub(crate) assumed: Vec<Assumption>,
    pub(crate) kernel: Kernel,
    /// [vocab_size, hidden_dim]
    pub(crate) embedding: Matrix,
    /// [vocab_size, hidden_dim]; `None` when it is the embedding.
    pub(crate) head: Option<Matrix>,
    pub(crate) layers: Vec<Layer>,
    /// `[hidden_dim]`, padded
    pub(crate) norm: Aligned<f32>,
    pub(crate) rope: Ropes,
}

impl Model {
    /// Its configuration, which determines the computation.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What had to be assumed.
    pub fn assumed(&self) -> &[Assumption] {
        &self.assumed
    }

    /// The instruction set that it is packed for.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Bytes of weights that one decoded token reads: all matrices but those of experts that it does not use, and of the
    /// embedding one row unless it is the head.
    pub fn bytes_per_token(&self) -> usize {
        self.layers.iter().map(Layer::bytes_read).sum::<usize>() + self.head().bytes()
    }

    /// Bytes of all weights in memory.
    pub fn bytes(&self) -> usize {
        let outer = if self.head.is_some() { self.embedding.bytes() } else { 0 };
        let gains = self.layers.iter().flat_map(Layer::gains).map(|gain| gain.len()).sum::<usize>();
        let matrices: usize = self.layers.iter().flat_map(Layer::stacks).map(Stack::bytes).sum();
        matrices + self.head().bytes() + outer + 4 * (gains + self.norm.len())
    }

    /// A fingerprint of the configuration and weights in use, for files that belong to a model.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(to_vec(&self.config).unwrap_or_default());
        let mut matrix = |m: &Matrix| m.parts().iter().for_each(|part| hash.update(part));
        matrix(&self.embedding);
        self.head.iter().for_each(&mut matrix);
        self.layers.iter().flat_map(Layer::stacks).flat_map(Stack::parts).for_each(&mut matrix);
        for bias in self.layers.iter().flat_map(Layer::stacks).filter_map(Stack::bias) {
            hash.update(bytemuck::cast_slice::<f32, u8>(bias));
        }
        let mut vector = |v: &Aligned<f32>| hash.update(bytemuck::cast_slice::<f32, u8>(v));
        self.layers.iter().flat_map(Layer::gains).for_each(&mut vector);
        vector(&self.norm);
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether all `ids` are in the vocabulary.
    ///
    /// # Errors
    /// `Token`.
    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocab_size = self.config.vocab_size;
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(Error::Token { id, vocab_size }),
            None => Ok(()),
        }
    }

    fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Opens and loads a model in one call.
    ///
    /// # Errors
    /// Those of [`ckpt_inspect::open`] and [`Model::load`].
    pub fn open(path: &std::path::Path, options: &crate::LoadOptions, pool: &Pool) -> Result<Model> {
        let checkpoint: Checkpoint = ckpt_inspect::open(path)?;
        Model::load(&checkpoint, options, pool)
    }
}

/// The positions whose logits to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Logits {
    /// None: the tokens only go into the cache.
    None,
    /// The last token's.
    Last,
    /// Every token's.
    All,
}

/// Tokens that continue one sequence.
#[derive(Debug)]
#[non_exhaustive]
pub struct Sequence<'a> {
    /// The tokens.
    pub ids: &'a [u32],
    /// The tokens before them; these tokens are added to it.
    pub cache: &'a mut Cache,
    /// Which of their logits to compute.
    pub logits: Logits,
}

impl<'a> Sequence<'a> {
    /// These tokens after what `cache` holds.
    pub fn new(ids: &'a [u32], cache: &'a mut Cache, logits: Logits) -> Self {
        Sequence { ids, cache, logits }
    }
}

/// Runs a model: its working memory, and the threads it uses.
#[derive(Debug)]
pub struct Runner<'m> {
    pub(crate) model: &'m Model,
    pub(crate) pool: &'m Pool,
    /// Residual stream [tokens, hidden_dim padded].
    pub(crate) x: Aligned<f32>,
    /// Outputs of fused projections [tokens, …padded].
    pub(crate) wide: Aligned<f32>,
    /// Attention's results [tokens, num_heads * head_dim padded].
    mixed: Aligned<f32>,
    /// What is normalized or scaled before it is added to `x`, as wide.
    pub(crate) added: Aligned<f32>,
    pub(crate) activations: Vec<Activation>,
    /// Which tokens use which experts.
    pub(crate) routes: Routes,
    /// Those of each token, for each kind of rotation.
    angles: Vec<Angles>,
    logits: Vec<f32>,
}

/// Part of a sequence that goes through the model in one step.
struct Piece<'s> {
    cache: &'s mut Cache,
    ids: &'s [u32],
    /// Tokens whose logits are wanted: the last ones.
    logits: usize,
}

impl<'m> Runner<'m> {
    /// A runner for `model` on the threads of `pool`.
    pub fn new(model: &'m Model, pool: &'m Pool) -> Self {
        Runner {
            model,
            pool,
            x: Aligned::zeroed(0),
            wide: Aligned::zeroed(0),
            mixed: Aligned::zeroed(0),
            added: Aligned::zeroed(0),
            activations: Vec::new(),
            routes: Routes::default(),
            angles: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Runs the sequences' tokens through the model, and returns the wanted logits [rows, vocab_size], in the order of
    /// sequences and tokens. A sequence's logits do not depend on the others, nor on how its tokens are divided among
    /// calls, except in models whose rotary frequencies are others in longer texts: there those count that the whole
    /// sequence has after the call, and what a cache holds is computed anew once when it becomes that long.
    ///
    /// # Errors
    /// `Token`, `ContextFull`, and `Usage` for a cache made for a model of other layers or heads, before anything is
    /// computed.
    pub fn forward(&mut self, sequences: &mut [Sequence<'_>]) -> Result<&[f32]> {
        for sequence in sequences.iter() {
            self.model.check_ids(sequence.ids)?;
            sequence.cache.check_model(&self.model.config)?;
            sequence.cache.check_room(sequence.ids.len())?;
        }
        for sequence in sequences.iter_mut() {
            let is_long = self.model.rope.is_long(sequence.cache.len() + sequence.ids.len());
            if sequence.cache.is_long() == is_long || sequence.ids.is_empty() {
                continue;
            }
            let before = sequence.cache.restart(is_long);
            self.run(&mut [Sequence::new(&before, sequence.cache, Logits::None)])?;
        }
        self.run(sequences)?;
        Ok(&self.logits)
    }

    /// Runs the sequences' tokens, with the rotary frequencies that their caches' keys have.
    fn run(&mut self, sequences: &mut [Sequence<'_>]) -> Result<()> {
        self.logits.clear();
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        let mut room = STEP;
        for sequence in sequences {
            let mut ids = sequence.ids;
            while !ids.is_empty() {
                let (now, later) = ids.split_at(ids.len().min(room));
                let logits = match sequence.logits {
                    Logits::All => now.len(),
                    Logits::Last if later.is_empty() => 1,
                    Logits::Last | Logits::None => 0,
                };
                room -= now.len();
                ids = later;
                if room > 0 {
                    pieces.push(Piece { cache: sequence.cache, ids: now, logits });
                    break;
                }
                let mut step = std::mem::take(&mut pieces);
                step.push(Piece { cache: &mut *sequence.cache, ids: now, logits });
                self.step(&mut step)?;
                room = STEP;
            }
        }
        self.step(&mut pieces)
    }

    fn step(&mut self, pieces: &mut [Piece<'_>]) -> Result<()> {
        let Model { config, kernel, embedding, layers, norm, rope, .. } = self.model;
        let n: usize = pieces.iter().map(|p| p.ids.len()).sum();
        if n == 0 {
            return Ok(());
        }
        self.activations.resize_with(n.max(self.activations.len()), Activation::default);
        let kinds = rope.len();
        self.angles.resize_with((n * kinds).max(self.angles.len()), Angles::default);
        let width = config.hidden_dim.next_multiple_of(LANES);
        self.x.resize(n * width);
        self.x.fill(0.0);
        let (mut rows, mut boundaries) = (0..n, vec![0]);
        for piece in pieces.iter_mut() {
            let (start, is_long) = (piece.cache.len(), piece.cache.is_long());
            piece.cache.extend(piece.ids)?;
            for ((i, &id), row) in piece.ids.iter().enumerate().zip(&mut rows) {
                let x = &mut self.x[row * width..][..config.hidden_dim];
                embedding.row(id as usize, x);
                if let Some(scale) = config.embedding_scale {
                    x.iter_mut().for_each(|x| *x *= scale as f32);
                }
                rope.angles(start + i, is_long, &mut self.angles[row * kinds..][..kinds]);
                if i > 0 && i % ATTENTION_TOKENS == 0 {
                    boundaries.push(row);
                }
            }
            boundaries.push(rows.start);
        }
        for (number, layer) in layers.iter().enumerate() {
            self.project(n, layer.attention_norm.as_deref(), &layer.qkv);
            if let Some(norms) = &layer.row_norms {
                self.normalize_rows(n, norms);
            }
            self.remember(pieces, number, layer);
            self.attend(pieces, &boundaries, number, layer);
            self.take_mixed(n, layer);
            self.add(n, &layer.o.stack, layer.post_attention_norm.as_ref());

            match &layer.mlp {
                Mlp::Dense(mlp) => {
                    self.project(n, layer.ffn_norm.as_deref(), &mlp.gate_up);
                    self.gate(n, mlp);
                    self.add(n, &mlp.down.stack, layer.post_ffn_norm.as_ref());
                }
                Mlp::Experts(experts) => self.add_experts(n, layer, experts),
            }
        }
        let wanted = pieces.iter().map(|p| p.logits).sum::<usize>();
        if wanted == 0 {
            return Ok(());
        }
        let mut rows = Vec::with_capacity(wanted);
        let mut end = 0;
        for piece in pieces.iter() {
            end += piece.ids.len();
            rows.extend(end - piece.logits..end);
        }
        let head = self.model.head();
        for (&row, activation) in rows.iter().zip(&mut self.activations) {
            let x = &self.x[row * width..][..width];
            kernel.run(Prepare {
                from: From::Norm { x, weight: norm, eps: config.norm_eps as f32 },
                gains: [None, None],
                width: config.hidden_dim,
                forms: head.forms(),
                floor: config.quantization_floor,
                to: activation,
            });
        }
        let old = self.logits.len();
        self.logits.resize(old + wanted * config.vocab_size, 0.0);
        let cap = config.final_logit_soft_cap.map(|cap| cap as f32);
        let divisor = config.logit_divisor.map(|divisor| divisor as f32);
        let (width, out) = (config.vocab_size, &mut self.logits[old..]);
        let output = Output { out, width, add: false, bias: None, cap: cap.filter(|_| divisor.is_none()) };
        Stack::multiply(&[head], *kernel, self.pool, &self.activations[..wanted], output);
        if let Some(divisor) = divisor {
            let capped = |x: f32| cap.map_or(x, |cap| cap * (x / cap).tanh());
            self.logits[old..].iter_mut().for_each(|x| *x = capped(*x / divisor));
        }
        Ok(())
    }

    /// Activations = norm(x), or x where there is no norm, and again by `own` if there is such a norm, in the requested
    /// forms.
    pub(crate) fn normalize(&mut self, n: usize, weight: Option<&[f32]>, own: Option<&Gain>, forms: Forms) {
        let (config, x) = (&self.model.config, &self.x);
        let width = config.hidden_dim.next_multiple_of(LANES);
        let (eps, gains) = (config.norm_eps as f32, [own, None]);
        prepare(self.model, self.pool, &mut self.activations[..n], config.hidden_dim, forms, gains, |row| {
            let x = &x[row * width..][..width];
            match weight {
                Some(weight) => From::Norm { x, weight, eps },
                None => From::Copy(&x[..config.hidden_dim]),
            }
        });
    }

    /// Normalizes the queries of all heads together, and the keys.
    fn normalize_rows(&mut self, n: usize, [queries, keys]: &[Aligned<f32>; 2]) {
        let config = &self.model.config;
        let (q_rows, kv_rows) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let (width, eps) = (q_rows + 2 * kv_rows, config.norm_eps as f32);
        let rows = cuts(0..n, ATTENTION_TOKENS);
        let kernel = self.model.kernel;
        self.pool.blocks(
            &mut self.wide,
            width,
            &rows,
            &[0, q_rows, q_rows + kv_rows],
            |_, col, mut block| {
                let weight = if col == 0 { queries } else { keys };
                for row in 0..block.rows() {
                    kernel.run(NormalizeRow { x: block.row(row), weight, eps });
                }
            },
        );
    }

    /// Activations = attention's results, normalized where the model does so, as O needs them.
    fn take_mixed(&mut self, n: usize, layer: &Layer) {
        let dim = self.model.config.num_heads * self.model.config.head_dim;
        let (mixed, forms) = (&self.mixed, layer.o.stack.forms());
        let gains = [layer.attention_sub_norm.as_ref(), layer.o.norm.as_ref()];
        prepare(self.model, self.pool, &mut self.activations[..n], dim, forms, gains, |row| {
            From::Copy(&mixed[row * dim..][..dim])
        });
    }

    /// Activations = f(gate) * up, normalized where the model does so, as the down projection needs them.
    fn gate(&mut self, n: usize, mlp: &FeedForward) {
        let (dim, function) = (self.model.config.mlp_hidden_dim, &self.model.config.activation);
        let (wide, forms) = (&self.wide, mlp.down.stack.forms());
        let gains = [mlp.sub_norm.as_ref(), mlp.down.norm.as_ref()];
        prepare(self.model, self.pool, &mut self.activations[..n], dim, forms, gains, |row| {
            let (gate, up) = wide[row * 2 * dim..][..2 * dim].split_at(dim);
            From::Gated { gate, up, function }
        });
    }

    /// wide = norm(x) . weights + biases, the outputs of all projections side by side.
    fn project(&mut self, n: usize, norm: Option<&[f32]>, projections: &[Projection]) {
        let width = projections.iter().map(|projection| projection.stack.rows()).sum::<usize>();
        // The last row of a projection whose outputs do not begin a row ends beyond the others'.
        self.wide.resize((n + projections.len() - 1) * width);
        let mut start = 0;
        for Projection { norm: own, stack } in projections {
            self.normalize(n, norm, own.as_ref(), stack.forms());
            let out = &mut self.wide[start..][..n * width];
            let output = Output { out, width, add: false, bias: stack.bias(), cap: None };
            Stack::multiply(&stack.parts(), self.model.kernel, self.pool, &self.activations[..n], output);
            start += stack.rows();
        }
    }

    /// x += activations . weights + biases, normalized and scaled where the model does so.
    fn add(&mut self, n: usize, weights: &Stack, norm: Option<&Gain>) {
        let config = &self.model.config;
        let width = config.hidden_dim.next_multiple_of(LANES);
        let (kernel, tokens) = (self.model.kernel, &self.activations[..n]);
        if norm.is_none() && config.residual_scale.is_none() {
            let output = Output { out: &mut self.x, width, add: true, bias: weights.bias(), cap: None };
            return Stack::multiply(&weights.parts(), kernel, self.pool, tokens, output);
        }
        // Its padding stays zero: nothing else is written to it.
        self.added.resize(n * width);
        let output = Output { out: &mut self.added, width, add: false, bias: weights.bias(), cap: None };
        Stack::multiply(&weights.parts(), kernel, self.pool, tokens, output);
        let (added, scale) = (&self.added, config.residual_scale.map(|scale| scale as f32));
        self.pool.blocks(
            &mut self.x,
            width,
            &cuts(0..n, ATTENTION_TOKENS),
            &[0, width],
            |first, _, mut block| {
                for i in 0..block.rows() {
                    let added = &added[(first + i) * width..][..width];
                    kernel.run(Join { x: block.row(i), added, norm, width: config.hidden_dim, scale });
                }
            },
        );
    }

    /// How the queries and keys of the step's token `row` are rotated in a layer that has the rotation `kind`.
    #[inline(always)]
    fn turn(&self, row: usize, kind: Option<usize>) -> Option<(&Rope, &Angles)> {
        let rope = &self.model.rope;
        kind.map(|kind| (rope.kind(kind), &self.angles[row * rope.len() + kind]))
    }

    /// Normalizes and rotates the new keys, and stores them and the values.
    fn remember(&self, pieces: &mut [Piece<'_>], layer: usize, weights: &Layer) {
        let mut row = 0;
        for piece in pieces {
            let work = Remember { runner: self, row, n: piece.ids.len(), layer, weights };
            let start = piece.cache.len() - piece.ids.len();
            with_pages!(&mut piece.cache.pages, pages => self.model.kernel.run(work.of(start, pages)));
            row += piece.ids.len();
        }
    }

    /// mixed = attention of all queries, one task for some of a sequence's tokens and one KV head.
    fn attend(&mut self, pieces: &[Piece<'_>], boundaries: &[usize], layer: usize, weights: &Layer) {
        let config = &self.model.config;
        let mut mixed = std::mem::take(&mut self.mixed);
        let width = config.num_heads * config.head_dim;
        mixed.resize(self.x.len() / config.hidden_dim.next_multiple_of(LANES) * width);
        let group = width / config.num_kv_heads;
        let starts: Vec<usize> = pieces
            .iter()
            .scan(0, |end, piece| {
                *end += piece.ids.len();
                Some(*end - piece.ids.len())
            })
            .collect();
        self.pool.blocks(&mut mixed, width, boundaries, &cuts(0..width, group), |row, col, out| {
            let number = starts.partition_point(|&start| start <= row) - 1;
            let (piece, in_piece) = (&pieces[number], row - starts[number]);
            let position = piece.cache.len() - piece.ids.len() + in_piece;
            let work = Mix {
                runner: self,
                row,
                position,
                window: piece.cache.window().min(weights.window),
                layer,
                weights,
                head: col / group,
                out,
            };
            let kernel = self.model.kernel;
            with_pages!(&piece.cache.pages, pages => kernel.run((work, pages)));
        });
        self.mixed = mixed;
    }
}

/// Stores the keys and values of one piece's tokens.
struct Remember<'a> {
    runner: &'a Runner<'a>,
    row: usize,
    n: usize,
    layer: usize,
    weights: &'a Layer,
}

struct RememberIn<'a, E> {
    what: Remember<'a>,
    start: usize,
    pages: &'a mut Paged<E>,
}

impl<'a> Remember<'a> {
    fn of<E>(self, start: usize, pages: &'a mut Paged<E>) -> RememberIn<'a, E> {
        RememberIn { what: self, start, pages }
    }
}

impl<E: Element> Work for RememberIn<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Remember { runner, row, n, layer, weights } = self.what;
        let (config, norm) = (&runner.model.config, weights.k_norm.as_deref());
        let (q_rows, kv_rows) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let mut key = vec![0.0; self.pages.value_dim];
        for i in 0..n {
            let qkv = &runner.wide[(row + i) * (q_rows + 2 * kv_rows)..][..q_rows + 2 * kv_rows];
            let (keys, values) = qkv[q_rows..].split_at(kv_rows);
            let heads = keys.chunks_exact(config.head_dim).zip(values.chunks_exact(config.head_dim));
            for (head, (k, v)) in heads.enumerate() {
                head_vector(s, config, k, norm, runner.turn(row + i, weights.rope), &mut key);
                self.pages.put(self.start + i, layer, head, &key[..config.head_dim], v);
            }
        }
    }
}

/// One head's query or key: normalized and rotated, if the layer rotates, into `out` padded to whole vectors.
#[inline(always)]
fn head_vector<S: Simd>(
    s: S,
    config: &Config,
    x: &[f32],
    norm: Option<&[f32]>,
    turn: Option<(&Rope, &Angles)>,
    out: &mut [f32],
) {
    out[..x.len()].copy_from_slice(x);
    out[x.len()..].fill(0.0);
    if let Some(weight) = norm {
        normalize_in_place(s, out, weight, x.len(), config.norm_eps as f32);
    }
    if let Some((rope, angles)) = turn {
        rope.rotate(&mut out[..x.len()], angles);
    }
}

/// Attention of some of one sequence's tokens, with one KV head.
struct Mix<'a, 'b> {
    runner: &'a Runner<'a>,
    row: usize,
    position: usize,
    window: usize,
    layer: usize,
    weights: &'a Layer,
    head: usize,
    out: Block<'b, f32>,
}

impl<E: Element> Work for (Mix<'_, '_>, &Paged<E>) {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut mix, pages) = self;
        let (runner, config) = (mix.runner, &mix.runner.model.config);
        let (dim, padded) = (config.head_dim, pages.value_dim);
        let group = config.num_heads / config.num_kv_heads;
        let width = (config.num_heads + 2 * config.num_kv_heads) * dim;
        let n = mix.out.rows() * group;
        let mut queries = vec![0.0; 2 * n * padded];
        let (queries, out) = queries.split_at_mut(n * padded);
        let mut positions = Vec::with_capacity(n);
        for (i, query) in queries.chunks_exact_mut(padded).enumerate() {
            let (token, head) = (i / group, mix.head * group + i % group);
            let x = &runner.wide[(mix.row + token) * width + head * dim..][..dim];
            let turn = runner.turn(mix.row + token, mix.weights.rope);
            head_vector(s, config, x, mix.weights.q_norm.as_deref(), turn, query);
            positions.push(mix.position + token);
        }
        let attend = Attend {
            pages,
            layer: mix.layer,
            head: mix.head,
            queries,
            positions: &positions,
            window: mix.window,
            scale: config.attention_scale.map_or_else(|| 1.0 / (dim as f32).sqrt(), |scale| scale as f32),
            cap: config.attn_logit_soft_cap.map(|cap| cap as f32),
            out: &mut *out,
        };
        attend.run(s);
        for (i, mixed) in out.chunks_exact(padded).enumerate() {
            mix.out.row(i / group)[i % group * dim..][..dim].copy_from_slice(&mixed[..dim]);
        }
    }
}
