//! Feed-forward layers that consist of experts: a router chooses some for each token, and their results are added, each
//! times its weight.

use crate::kernel::activation::{Activation, Forms};
use crate::kernel::product::{Output, Stack};
use crate::kernel::simd::LANES;
use crate::layer::Layer;
use crate::model::Runner;
use crate::prepare::{From, Join, prepare};

/// The experts of a layer.
#[derive(Debug)]
pub(crate) struct Experts {
    /// [count, hidden_dim]
    pub router: Stack,
    /// [2 * expert_dim, hidden_dim] of each
    pub gate_up: Vec<Stack>,
    /// [hidden_dim, expert_dim] of each
    pub down: Vec<Stack>,
    /// Width of each.
    pub dim: usize,
    /// How many a token uses.
    pub used: usize,
    /// Whether the weights of those are divided by their sum.
    pub normalized: bool,
}

impl Experts {
    /// All matrices, in the order in which an input passes them.
    pub fn stacks(&self) -> impl Iterator<Item = &Stack> {
        std::iter::once(&self.router).chain(&self.gate_up).chain(&self.down)
    }

    /// Bytes of weights that one token reads.
    pub fn bytes_read(&self) -> usize {
        let all: usize = self.gate_up.iter().chain(&self.down).map(Stack::bytes).sum();
        self.router.bytes() + all / self.gate_up.len().max(1) * self.used
    }

    /// The forms of its input that the router and the experts need.
    fn forms(&self) -> Forms {
        self.gate_up.iter().map(Stack::forms).fold(self.router.forms(), Forms::and)
    }
}

/// Which tokens of a step use which expert: working memory that is kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// The tokens of each expert, and its weights.
    tokens: Vec<Vec<(usize, f32)>>,
    /// The experts of one token, by what the router says.
    order: Vec<(f32, usize)>,
    /// Inputs of one expert's tokens, next to each other.
    inputs: Vec<Activation>,
    /// What its down projection multiplies.
    results: Vec<Activation>,
}

impl Routes {
    /// Adds `token` to its experts' lists: those with the largest softmax of `logits`.
    fn add(&mut self, token: usize, logits: &[f32], experts: &Experts) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        self.order.clear();
        self.order.extend(logits.iter().enumerate().map(|(expert, x)| ((x - largest).exp(), expert)));
        let all: f32 = self.order.iter().map(|(x, _)| x).sum();
        let used = experts.used.min(self.order.len());
        self.order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        self.order.truncate(used);
        let chosen: f32 = self.order.iter().map(|(x, _)| x).sum();
        let divisor = if experts.normalized { chosen } else { all };
        for &(x, expert) in &self.order {
            self.tokens[expert].push((token, x / divisor));
        }
    }
}

impl Runner<'_> {
    /// x += the sum of each token's experts.
    pub(crate) fn add_experts(&mut self, n: usize, layer: &Layer, experts: &Experts) {
        let (model, pool) = (self.model, self.pool);
        let (config, kernel) = (&model.config, model.kernel);
        self.normalize(n, layer.ffn_norm.as_deref(), None, experts.forms());
        let count = experts.router.rows();
        self.wide.resize(n * count);
        let output = Output { out: &mut self.wide, width: count, add: false, bias: None, cap: None };
        Stack::multiply(&experts.router.parts(), kernel, pool, &self.activations[..n], output);
        let mut routes = std::mem::take(&mut self.routes);
        routes.tokens.resize_with(count, Vec::new);
        routes.tokens.iter_mut().for_each(Vec::clear);
        for (token, logits) in self.wide.chunks_exact(count).take(n).enumerate() {
            routes.add(token, logits, experts);
        }
        let Routes { tokens, inputs, results, .. } = &mut routes;
        let (dim, padded) = (experts.dim, config.hidden_dim.next_multiple_of(LANES));
        for ((tokens, gate_up), down) in tokens.iter().zip(&experts.gate_up).zip(&experts.down) {
            let m = tokens.len();
            if m == 0 {
                continue;
            }
            inputs.resize_with(m.max(inputs.len()), Activation::default);
            results.resize_with(m.max(results.len()), Activation::default);
            let swap = |activations: &mut [Activation], inputs: &mut [Activation]| {
                for ((token, _), input) in tokens.iter().zip(inputs) {
                    std::mem::swap(&mut activations[*token], input);
                }
            };
            swap(&mut self.activations, inputs);
            self.wide.resize(m * 2 * dim);
            let output = Output { out: &mut self.wide, width: 2 * dim, add: false, bias: None, cap: None };
            Stack::multiply(&gate_up.parts(), kernel, pool, &inputs[..m], output);
            swap(&mut self.activations, inputs);

            let (wide, function) = (&self.wide, &config.activation);
            prepare(model, pool, &mut results[..m], dim, down.forms(), [None, None], |row| {
                let (gate, up) = wide[row * 2 * dim..][..2 * dim].split_at(dim);
                From::Gated { gate, up, function }
            });
            // Its padding stays zero: nothing else is written to it.
            self.added.resize(m * padded);
            let output = Output { out: &mut self.added, width: padded, add: false, bias: None, cap: None };
            Stack::multiply(&down.parts(), kernel, pool, &results[..m], output);
            for (row, (token, weight)) in tokens.iter().enumerate() {
                let added = &self.added[row * padded..][..padded];
                let x = &mut self.x[token * padded..][..padded];
                kernel.run(Join { x, added, norm: None, width: config.hidden_dim, scale: Some(*weight) });
            }
        }
        self.routes = routes;
    }
}
