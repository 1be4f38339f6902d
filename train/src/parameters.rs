//! The student model's parameters: names, shapes and roles in the order in which PyTorch numbers them, their f32
//! values, and where these come from.

use std::collections::HashMap;

use ckpt_inspect::meaning::architecture::{self as place, Part, Tensor};
use ckpt_inspect::meaning::names::{Names, Style, canonical};
use ckpt_inspect::{Checkpoint, Group, ModelConfig, TensorInfo};

pub use ckpt_inspect::meaning::architecture::Kind as Role;

use crate::random::Random;
use crate::{Error, Result, start};

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Parameter {
    /// Its name in the state dict.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Its role.
    pub role: Role,
    /// Whether a BitLinear quantizes it to -1, 0, +1 in the forward pass.
    pub ternary: bool,
    /// Its elements.
    pub values: Vec<f32>,
}

impl Parameter {
    /// A parameter that no BitLinear quantizes.
    pub fn new(name: impl Into<String>, shape: Vec<usize>, role: Role, values: Vec<f32>) -> Self {
        Parameter { name: name.into(), shape, role, ternary: false, values }
    }

    /// Rows and columns, for a matrix.
    pub fn matrix(&self) -> Option<(usize, usize)> {
        match *self.shape.as_slice() {
            [rows, cols] => Some((rows, cols)),
            _ => None,
        }
    }
}

/// All parameters of a student model, in model order. Gradients and optimizer state are kept in lists of the same
/// order and lengths.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters(pub Vec<Parameter>);

/// One gradient per parameter, in the order and of the lengths of [`Parameters`].
pub type Gradients = Vec<Vec<f32>>;

/// Standard deviation of a newly drawn embedding.
const EMBEDDING_STD: f32 = 0.02;
/// Elements a model may have: far above what a CPU can train, far below what would overflow.
const MAX_ELEMENTS: u64 = 1 << 36;

impl Parameters {
    /// Names, shapes and roles of a model of this configuration; values are left empty.
    fn layout(config: &ModelConfig) -> Result<Vec<Parameter>> {
        check(config)?;
        let parameter = |(role, tensor): (place::Role, &Tensor)| {
            Some(Parameter {
                name: config.architecture.name(role, Style::Student)?,
                shape: tensor.shape_in(config),
                role: role.kind(),
                ternary: config.is_bitlinear(role),
                values: Vec::new(),
            })
        };
        Ok(config.tensors().filter_map(parameter).collect())
    }

    /// A new model: embedding and head from a normal distribution of std 0.02, projections uniform within
    /// 1/sqrt(fan_in) (as `torch.nn.Linear` starts), norms 1. The same seed gives the same values.
    ///
    /// # Errors
    /// `Settings` when the configuration contradicts itself.
    pub fn init(config: &ModelConfig, seed: u64) -> Result<Self> {
        let mut list = Self::layout(config)?;
        for (i, parameter) in list.iter_mut().enumerate() {
            let count = parameter.shape.iter().product();
            let mut random = Random::new(&[seed, i as u64]);
            parameter.values = match (parameter.role, parameter.matrix()) {
                (Role::Attention | Role::Mlp, Some((_, fan_in))) => {
                    let bound = 1.0 / (fan_in as f64).sqrt();
                    (0..count).map(|_| (bound * (2.0 * random.uniform() - 1.0)) as f32).collect()
                }
                (Role::Embedding | Role::Head, _) => {
                    (0..count).map(|_| EMBEDDING_STD * random.normal()).collect()
                }
                _ => vec![1.0; count],
            };
        }
        Ok(Parameters(list))
    }

    /// The values in `checkpoint` for a model of this configuration, of any dtype.
    ///
    /// # Errors
    /// `Settings` for a tensor that is missing or has another shape; the checkpoint's own errors.
    pub fn load(config: &ModelConfig, checkpoint: &Checkpoint) -> Result<Self> {
        let mut list = Self::layout(config)?;
        // The first tensor of a name counts: a state dict's, before its moving average's.
        let mut by_name = HashMap::new();
        for tensor in checkpoint.tensors.iter().filter(|t| t.group == Group::Weights) {
            by_name.entry(canonical(&tensor.name)).or_insert(tensor);
        }
        let (names, interleaved) = (Names::of(checkpoint), start::is_interleaved(checkpoint));
        let roles: HashMap<String, place::Role> = (config.tensors())
            .filter_map(|(role, _)| Some((config.architecture.name(role, Style::Student)?, role)))
            .collect();
        for parameter in &mut list {
            let role = roles.get(&parameter.name);
            let wrong_shape = |tensor: &TensorInfo, rows: usize| {
                let needed: Vec<usize> =
                    [rows].into_iter().chain(parameter.shape[1..].iter().copied()).collect();
                (tensor.shape != needed).then(|| {
                    Error::settings(format!(
                        "{}: tensor `{}` has shape {:?}, but the configuration needs {needed:?}",
                        checkpoint.path.display(),
                        tensor.name.escape_debug(),
                        tensor.shape,
                    ))
                })
            };
            let rows = parameter.shape[0];
            let fused = || {
                let (part, first, all) = fused(role?, config)?;
                Some((names.get(part)?, first, all))
            };
            let (tensor, first, all) = match by_name.get(parameter.name.as_str()) {
                Some(tensor) => (*tensor, 0, rows),
                None => fused().ok_or_else(|| {
                    Error::settings(format!(
                        "{}: has no tensor `{}`, which a model of this configuration needs",
                        checkpoint.path.display(),
                        parameter.name
                    ))
                })?,
            };
            if let Some(error) = wrong_shape(tensor, all) {
                return Err(error);
            }
            let mut values = checkpoint.values(tensor)?;
            let cols = values.len() / all.max(1);
            if all != rows {
                values = values[first * cols..(first + rows) * cols].to_vec();
            }
            if interleaved && matches!(role, Some(place::Role::Layer(_, Part::Q | Part::K))) {
                let half = config.head_dim / 2;
                let stored = |row: usize| {
                    let (head, within) = (row / config.head_dim, row % config.head_dim);
                    head * config.head_dim + 2 * (within % half) + within / half
                };
                values = (0..rows).flat_map(|row| &values[stored(row) * cols..][..cols]).copied().collect();
            }
            parameter.values = values;
        }
        Ok(Parameters(list))
    }

    /// Whether they are what a model of this configuration needs.
    ///
    /// # Errors
    /// `Settings` for a parameter that is missing, or has another shape or number of values.
    pub(crate) fn check(&self, config: &ModelConfig) -> Result<()> {
        for needed in Self::layout(config)? {
            let name = &needed.name;
            let found = self.position(name).map(|at| &self.0[at]).ok_or_else(|| {
                Error::settings(format!(
                    "there is no parameter `{name}`, which a model of this configuration needs"
                ))
            })?;
            let count: usize = needed.shape.iter().product();
            if (&found.shape, found.values.len()) != (&needed.shape, count) {
                return Err(Error::settings(format!(
                    "the parameter `{name}` has shape {:?} and {} values, but the configuration needs {:?}",
                    found.shape,
                    found.values.len(),
                    needed.shape
                )));
            }
        }
        Ok(())
    }

    /// Zeros of the same lengths.
    pub fn zeros(&self) -> Gradients {
        self.0.iter().map(|p| vec![0.0; p.values.len()]).collect()
    }

    /// Elements of all parameters.
    pub fn count(&self) -> usize {
        self.0.iter().map(|p| p.values.len()).sum()
    }

    /// Index of the parameter called `name`.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|p| p.name == name)
    }

    /// Index of the parameter that has the part `role` in a model of this configuration.
    pub(crate) fn place(&self, config: &ModelConfig, role: place::Role) -> Option<usize> {
        self.position(&config.architecture.name(role, Style::Student)?)
    }
}

/// The role of the tensor that holds the part `role` among others, one after another: the first of its rows there, and how
/// many the tensor has.
fn fused(role: &place::Role, config: &ModelConfig) -> Option<(place::Role, usize, usize)> {
    let place::Role::Layer(layer, part) = *role else { return None };
    let (queries, keys) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let (whole, first, all) = match part {
        Part::Q => (Part::Qkv, 0, queries + 2 * keys),
        Part::K => (Part::Qkv, queries, queries + 2 * keys),
        Part::V => (Part::Qkv, queries + keys, queries + 2 * keys),
        Part::Gate => (Part::GateUp, 0, 2 * config.mlp_hidden_dim),
        Part::Up => (Part::GateUp, config.mlp_hidden_dim, 2 * config.mlp_hidden_dim),
        _ => return None,
    };
    Some((place::Role::Layer(layer, whole), first, all))
}

fn check(c: &ModelConfig) -> Result<()> {
    let numbers = [
        ("rope_base", Some(c.rope_base)),
        ("norm_eps", Some(c.norm_eps)),
        ("quantization_eps", Some(c.quantization_floor.number())),
        ("attn_logit_soft_cap", c.attn_logit_soft_cap),
        ("final_logit_soft_cap", c.final_logit_soft_cap),
    ];
    let is_wrong = |name: &str, number: f64| match name {
        "norm_eps" | "quantization_eps" => !(number.is_finite() && number >= 0.0),
        _ => !(number.is_finite() && number > 0.0),
    };
    for (name, number) in numbers {
        if let Some(number) = number.filter(|number| is_wrong(name, *number)) {
            return Err(Error::settings(format!("the model's {name} {number} must be a number above 0")));
        }
    }

    let sizes =
        [c.vocab_size, c.hidden_dim, c.num_layers, c.num_heads, c.num_kv_heads, c.head_dim, c.mlp_hidden_dim];
    if sizes.contains(&0) {
        return Err(Error::settings("all sizes of a model must be above 0"));
    }
    if !c.num_heads.is_multiple_of(c.num_kv_heads) {
        return Err(Error::settings(format!(
            "{} query heads cannot be shared out evenly among {} KV heads",
            c.num_heads, c.num_kv_heads
        )));
    }
    if !c.head_dim.is_multiple_of(2) {
        return Err(Error::settings(format!(
            "head_dim {} is odd, but rotary embedding rotates pairs of elements",
            c.head_dim
        )));
    }
    let product = |dims: &[usize]| dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    let elements = || {
        let heads = product(&[c.num_heads + 2 * c.num_kv_heads, c.head_dim])?;
        let layer = heads.checked_add(product(&[c.num_heads, c.head_dim])?)?;
        let layer = layer.checked_add(product(&[3, c.mlp_hidden_dim])?)?.checked_mul(c.hidden_dim as u64)?;
        product(&[2, c.vocab_size, c.hidden_dim])?.checked_add(layer.checked_mul(c.num_layers as u64)?)
    };
    match elements() {
        Some(n) if n <= MAX_ELEMENTS => Ok(()),
        _ => {
            Err(Error::settings("a model of this configuration has more parameters than can be trained here"))
        }
    }
}
