//! Whether a model that is about to be written has all of its tensors, in the shapes that its layers need.

use std::collections::HashMap;

use ckpt_inspect::Format;
use ckpt_inspect::meaning::architecture::Role;

use crate::names::{self, Style};
use crate::plan::Plan;
use crate::source::student;

/// More layers than any model has; a configuration may say any number.
const MOST_LAYERS: usize = 1 << 12;
/// Tensors that are named; the rest is counted.
const NAMED: usize = 4;

/// What a runner will miss in the model of `plan`, as a sentence; `None` where nothing is, or no model is recognised.
pub(crate) fn note(plan: &Plan<'_>) -> Option<String> {
    let source = plan.source;
    // What a GGUF file of others holds, its architecture's name does not tell.
    let mut config = match source.format {
        Format::Gguf { .. } => student(source)?,
        _ => source.model_config().ok()?,
    };
    let shapes: HashMap<Role, &[usize]> = plan
        .pairs
        .iter()
        .filter_map(|pair| Some((names::role(&pair.name)?, pair.elements.tensor.shape.as_slice())))
        .collect();
    // A layer counts as soon as one tensor of it is there, whatever the configuration says.
    let of_layer = |role: &Role| match role {
        Role::Layer(n, _) => n.saturating_add(1),
        _ => 0,
    };
    let there = shapes.keys().map(of_layer).max().unwrap_or(0);
    let told = source.model.given().ok().and_then(|given| given.num_layers).unwrap_or(0);
    config.num_layers = config.num_layers.max(there).max(told).min(MOST_LAYERS);

    let mut wrong = Vec::new();
    let mut count = 0;
    let in_layers = |role: &Role| matches!(role, Role::Layer(..));
    let outer = config.tensors().filter(|(role, _)| !in_layers(role) && *role != Role::Head);
    for (role, tensor) in outer.chain(config.tensors().filter(|(role, _)| in_layers(role))) {
        let wanted = tensor.shape_in(&config);
        let fault = match shapes.get(&role) {
            None => "is missing".to_string(),
            // Tables of more rows than there are ids are common.
            Some(shape) if role != Role::Embedding && *shape != wanted => {
                format!("has shape {shape:?} where the model needs {wanted:?}")
            }
            _ => continue,
        };
        count += 1;
        if wrong.len() < NAMED {
            let name = config.architecture.name(role, Style::Student).unwrap_or_default();
            wrong.push(format!("`{name}` {fault}"));
        }
    }
    if count == 0 {
        return None;
    }
    let more =
        if count > wrong.len() { format!(", and {} more", count - wrong.len()) } else { String::new() };
    Some(format!("the model is not whole, and no runner will load it: {}{more}", wrong.join("; ")))
}
