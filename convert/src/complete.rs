//! Whether a model that is about to be written has all of its tensors, in the shapes that its layers need.

use std::collections::HashMap;

use ckpt_inspect::Format;
use ckpt_inspect::meaning::architecture::Role;

use crate::names::{self, Style};
use crate::note::{Fault, Note};
use crate::plan::Plan;
use crate::source::student;

/// More layers than any model has; a configuration may say any number.
const MOST_LAYERS: usize = 1 << 12;
/// The number of tensors that are named; the rest are counted.
const NAMED: usize = 4;

/// What the model of `plan` lacks; `None` where it is complete or not recognised.
pub(crate) fn note(plan: &Plan<'_>) -> Option<Note> {
    let source = plan.source;
    // The name of its architecture alone does not determine which tensors a GGUF file should have.
    let mut config = match source.format {
        Format::Gguf { .. } => student(source)?,
        _ => source.model_config().ok()?,
    };
    let shapes: HashMap<Role, &[usize]> = plan
        .pairs
        .iter()
        .filter_map(|pair| Some((names::role(&pair.name)?, pair.elements.tensor.shape.as_slice())))
        .collect();
    // A layer counts if any of its tensors is present, even if the configuration says otherwise.
    let of_layer = |role: &Role| match role {
        Role::Layer(n, _) => n.saturating_add(1),
        _ => 0,
    };
    let there = shapes.keys().map(of_layer).max().unwrap_or(0);
    let configured = source.model.given().ok().and_then(|given| given.num_layers).unwrap_or(0);
    config.num_layers = config.num_layers.max(there).max(configured).min(MOST_LAYERS);

    let mut faults = Vec::new();
    let mut count = 0;
    let in_layers = |role: &Role| matches!(role, Role::Layer(..));
    let outer = config.tensors().filter(|(role, _)| !in_layers(role) && *role != Role::Head);
    for (role, tensor) in outer.chain(config.tensors().filter(|(role, _)| in_layers(role))) {
        let wanted = tensor.shape_in(&config);
        let shape = match shapes.get(&role) {
            None => None,
            // Tables of more rows than there are ids are common.
            Some(shape) if role != Role::Embedding && *shape != wanted => Some(shape.to_vec()),
            _ => continue,
        };
        count += 1;
        if faults.len() < NAMED {
            let name = config.architecture.name(role, Style::Student).unwrap_or_default();
            faults.push(Fault { name, shape, wanted: wanted.to_vec() });
        }
    }
    let more = count - faults.len();
    (count > 0).then_some(Note::Incomplete { faults, more })
}
