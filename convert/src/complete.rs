//! Whether a model that is about to be written has all of its tensors, in the shapes that its layers need.

use std::collections::HashMap;
use std::fmt;

use ckpt_inspect::meaning::architecture::{Part, Role};
use ckpt_inspect::meaning::names::Names;
use ckpt_inspect::{Checkpoint, Format, ModelConfig};

use crate::names::{self, Style};
use crate::plan::Plan;
use crate::source::student;
use crate::target::Target;

/// More layers than any model has; a configuration may say any number.
const MOST_LAYERS: usize = 1 << 12;
/// The number of tensors that are named; the rest are counted.
const NAMED: usize = 4;

/// What a model lacks of the tensors that its configuration asks for. As text it is a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lacks {
    /// The first of these tensors.
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub more: usize,
}

/// What is wrong with a tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// Its name.
    pub name: String,
    /// The shape that it has; `None` where it is missing.
    pub shape: Option<Vec<usize>>,
    /// The shape that the model needs.
    pub wanted: Vec<usize>,
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            write!(f, "{}`{}` ", if i > 0 { "; " } else { "" }, fault.name)?;
            match &fault.shape {
                None => f.write_str("is missing")?,
                Some(shape) => write!(f, "has shape {shape:?} where the model needs {:?}", fault.wanted)?,
            }
        }
        if self.more > 0 { write!(f, ", and {} more", self.more) } else { Ok(()) }
    }
}

/// The configuration of the model in `source`, if it determines which tensors there are.
fn configured(source: &Checkpoint) -> Option<ModelConfig> {
    match source.format {
        // One name in GGUF stands for many models: those whose layers have other tensors too are not judged.
        Format::Gguf { .. } => student(source)
            .or_else(|| source.model_config().ok().filter(|_| Names::of(source).unused.is_empty())),
        _ => source.model_config().ok(),
    }
}

/// What the model of `plan` lacks; `None` where it is complete or not recognised.
pub(crate) fn lacks(plan: &Plan<'_>) -> Option<Lacks> {
    let source = plan.source;
    // Of what the table does not describe it promises nothing.
    if source.model.given().is_ok_and(|given| given.unread.is_some()) {
        return None;
    }
    let mut config = configured(source)?;
    // Where each expert has a tensor of its own, there are as many.
    let mut experts: HashMap<Role, usize> = HashMap::new();
    for pair in &plan.pairs {
        if let (Some(role), Some(_)) =
            (names::role_in(Some(config.architecture), &pair.name), names::expert(&pair.name))
        {
            *experts.entry(role).or_default() += 1;
        }
    }
    let shapes: HashMap<Role, &[usize]> = plan
        .pairs
        .iter()
        .filter_map(|pair| {
            let role = names::role_in(Some(config.architecture), &pair.name)?;
            Some((role, pair.elements.tensor.shape.as_slice()))
        })
        .collect();
    // Tensors of which none belongs to such a model are something else, such as an adapter for it. A folder would be loaded as
    // the model that its config.json names.
    if shapes.is_empty() && !matches!(plan.target, Target::Hf { .. }) {
        return None;
    }
    // A layer counts if any of its tensors is present, even if the configuration says otherwise.
    let of_layer = |role: &Role| match role {
        Role::Layer(n, _) => n.saturating_add(1),
        _ => 0,
    };
    let there = shapes.keys().map(of_layer).max().unwrap_or(0);
    let configured = source.model.given().ok().and_then(|given| given.num_layers).unwrap_or(0);
    config.num_layers = config.num_layers.max(there).max(configured).min(MOST_LAYERS);

    // Sizes of heads are in no shape, and those that were assumed prove nothing.
    let of_heads = |role: &Role| {
        use Part::{K, KBias, KNorm, O, OBias, Q, QBias, QNorm, Qkv, V, VBias};
        matches!(role, Role::Layer(_, Qkv | Q | K | V | O | QBias | KBias | VBias | OBias | QNorm | KNorm))
    };
    let is_sure = |role: &Role| source.model.assumed.is_empty() || !of_heads(role);
    let is_stack = |role: &Role| config.architecture.tensor(*role).is_some_and(|row| row.is_stack());
    // transformers' own classes have the gates of all experts and the other projections in one tensor, which GGUF has not.
    let fused = !shapes.keys().any(is_stack) && !matches!(plan.target, Target::Gguf(_));
    let mut faults = Vec::new();
    let mut count = 0;
    let in_layers = |role: &Role| matches!(role, Role::Layer(..));
    let outer = config.tensors().filter(|(role, _)| !in_layers(role));
    for (role, tensor) in outer.chain(config.tensors().filter(|(role, _)| in_layers(role))) {
        if tensor.is_stack() && fused {
            continue;
        }
        let mut wanted = tensor.shape_in(&config);
        let mut name = config.architecture.name(role, Style::Student).unwrap_or_default();
        let mut found = shapes.get(&role);
        if let Some(count) = experts.get(&role) {
            let all = wanted.remove(0);
            if *count < all {
                name = names::of_expert(&name, *count);
                found = None;
            }
        }
        let shape = match found {
            None => None,
            // Tables of more rows than there are ids are common.
            Some(shape)
                if is_sure(&role) && !matches!(role, Role::Embedding | Role::Head) && *shape != wanted =>
            {
                Some(shape.to_vec())
            }
            _ => continue,
        };
        count += 1;
        if faults.len() < NAMED {
            faults.push(Fault { name, shape, wanted });
        }
    }
    let more = count - faults.len();
    (count > 0).then_some(Lacks { faults, more })
}
