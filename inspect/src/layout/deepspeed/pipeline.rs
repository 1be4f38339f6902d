//! Pipelines: each layer of the module is in a file of its own, and each stage, which has some of the layers whole, has an
//! optimizer. `PipelineModule` calls a layer's parameters after its number.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::zero::{self, Rank};
use super::{Part, Saved, below, dict, text};
use crate::layout::copies;
use crate::metadata::{HashableValue, Value, as_u64, lookup, merge};
use crate::tensor::TensorInfo;
use crate::torch::PARAM_GROUPS;
use crate::{Notice, NoticeKind};

/// What layers that are in several stages are called after.
const TIED: &str = "tied_modules";

/// The file of a layer.
pub(super) struct Layer {
    pub number: usize,
    /// The rank of tensor parallelism.
    pub mp: usize,
    pub saved: Saved,
}

impl Layer {
    /// What its file is called.
    fn stem(&self) -> String {
        match self.mp {
            0 => format!("layer_{:02}", self.number),
            mp => format!("layer_{:02}-model_{mp:02}", self.number),
        }
    }
}

/// The layer that a parameter of a pipeline belongs to.
pub(super) fn layer_of(parameter: &str) -> Option<usize> {
    let (number, _) = parameter.split_once('.')?;
    super::kind::number(number)
}

/// How many ranks divide the tensors of each layer; `layers` are the ranks that have files of some.
pub(super) fn tensor_parallel(layers: &BTreeSet<usize>, ranks: &BTreeMap<usize, Rank>) -> usize {
    let stated = |rank: &Rank| {
        let saved = rank.models.values().next()?;
        as_u64(lookup(&saved.metadata, "checkpoint_parallel_dimensions.tp_degree")?)
    };
    let stated = ranks.values().filter_map(stated).max().and_then(|degree| usize::try_from(degree).ok());
    let last = layers.last().map_or(0, |last| last.saturating_add(1));
    stated.unwrap_or(0).max(last).max(1)
}

/// Whether model states say that they are of the stages of a pipeline.
pub(super) fn is_one(ranks: &BTreeMap<usize, Rank>) -> bool {
    let stages = |saved: &Saved| {
        as_u64(lookup(&saved.metadata, "checkpoint_parallel_dimensions.pp_degree")?)
            .filter(|&degree| degree > 1)
    };
    ranks.values().filter_map(|rank| rank.models.values().next()).any(|saved| stages(saved).is_some())
}

/// What the first moments of parameters are called.
const MOMENTS: [&str; 5] = ["exp_avg", "momentum_buffer", "sum", "square_avg", "momentum"];

/// One tensor of each parameter that the optimizer of a stage has: its fp32 weights, or a moment.
pub(super) fn moments(saved: &Saved) -> impl Iterator<Item = &TensorInfo> {
    let masters = |tensor: &&TensorInfo| tensor.name.starts_with("optimizer.fp32_groups.");
    let with_masters = saved.tensors.iter().any(|tensor| masters(&tensor));
    let moment = |tensor: &&TensorInfo| {
        let key = tensor.name.rsplit('.').next().unwrap_or_default();
        tensor.name.starts_with("optimizer.") && MOMENTS.contains(&key)
    };
    saved.tensors.iter().filter(move |tensor| if with_masters { masters(tensor) } else { moment(tensor) })
}

/// What the model states of a rank say of its stage.
struct Stage {
    mp: usize,
    layers: BTreeSet<usize>,
    /// Shapes of parameters of layers that are in several stages, by these layers' keys and by name.
    tied: BTreeMap<String, HashMap<String, Vec<usize>>>,
}

impl Stage {
    fn of(mp: usize, rank: &Rank) -> Option<Self> {
        let parameters = zero::parameters(rank.models.values().next()?);
        let mut tied: BTreeMap<String, HashMap<String, Vec<usize>>> = BTreeMap::new();
        for parameter in &parameters {
            let own = parameter.name.strip_prefix(TIED).and_then(|rest| rest.strip_prefix('.'));
            if let Some((key, name)) = own.and_then(|own| own.split_once('.')) {
                tied.entry(key.into()).or_default().insert(name.into(), parameter.shape.clone());
            }
        }
        let layers = parameters.iter().filter_map(|parameter| layer_of(&parameter.name)).collect();
        Some(Stage { mp, layers, tied })
    }

    /// What the stage calls a layer.
    fn name(&self, layer: &Layer) -> Option<String> {
        if self.layers.contains(&layer.number) {
            return Some(layer.number.to_string());
        }
        let tensors = &layer.saved.tensors;
        let all = |shapes: &HashMap<String, Vec<usize>>| {
            !tensors.is_empty() && tensors.iter().all(|t| shapes.get(&t.name) == Some(&t.shape))
        };
        let (key, _) = self.tied.iter().find(|(_, shapes)| all(shapes))?;
        Some(format!("{TIED}.{key}"))
    }
}

/// Gives layers to the ranks whose optimizers have their parameters, under the names that these have there. Of others the
/// tensors, by what they are shown under.
pub(super) fn give(
    layers: Vec<Layer>,
    tensor: usize,
    ranks: &mut BTreeMap<usize, Rank>,
) -> Vec<(String, Saved)> {
    let stages: Vec<Stage> = ranks.iter().filter_map(|(&mp, rank)| Stage::of(mp, rank)).collect();
    let named = tensor == 1 && stages.iter().any(|stage| !stage.layers.is_empty());
    let mut others = Vec::new();
    for layer in layers {
        let own = stages.iter().filter(|stage| stage.mp % tensor == layer.mp);
        let mut own = own.filter_map(|stage| Some((stage.mp, stage.name(&layer)?)));
        match own.next() {
            Some((mp, prefix)) => {
                let tensors = layer.saved.tensors.into_iter();
                let tensors = tensors.map(|t| TensorInfo { name: format!("{prefix}.{}", t.name), ..t });
                ranks.entry(mp).or_default().apart.extend(tensors);
            }
            None if named => others.push((layer.number.to_string(), layer.saved)),
            None => others.push((layer.stem(), layer.saved)),
        }
    }
    others
}

/// The stages of a pipeline as one: parameters are numbered through where their optimizers name them.
pub(super) fn merged(parts: Vec<(usize, Part)>) -> Part {
    let numbered = parts.iter().all(|(_, part)| part.numbered > 0);
    let mut whole = Part::new();
    let (mut groups, mut states) = (Vec::new(), BTreeMap::new());
    let mut known: HashMap<String, (usize, usize)> = HashMap::new();
    let mut first = None;
    for (mp, mut part) in parts {
        let by = whole.numbered;
        for tensor in part.tensors {
            match tensor.name.strip_prefix("optimizer.") {
                Some(_) if !numbered => {
                    let name = below(mp, &tensor.name);
                    first.get_or_insert(mp);
                    whole.tensors.push(TensorInfo { name, ..tensor });
                }
                Some(rest) => {
                    let name = format!("optimizer.{}", counted_on(rest, by));
                    whole.tensors.push(TensorInfo { name, ..tensor });
                }
                // What several stages have is in each.
                None => match known.get(&tensor.name) {
                    Some(&(rank, at)) => {
                        let copies = [(rank, &whole.tensors[at]), (mp, &tensor)];
                        copies::agreed(&tensor.name, &copies, &mut whole.notices);
                    }
                    None => {
                        known.insert(tensor.name.clone(), (mp, whole.tensors.len()));
                        whole.tensors.push(tensor);
                    }
                },
            }
        }
        if let Value::Dict(entries) = &mut part.metadata
            && let Some(optimizer) = entries.remove(&text("optimizer"))
        {
            match numbered {
                true => add_optimizer(optimizer, by, &mut groups, &mut states),
                false => {
                    let own = dict([("optimizer", optimizer)]);
                    entries.insert(text(format!("mp_rank_{mp:02}")), own);
                }
            }
        }
        merge(&mut whole.metadata, part.metadata);
        whole.faults.append(&mut part.faults);
        whole.notices.append(&mut part.notices);
        whole.numbered += part.numbered;
    }
    if numbered {
        let optimizer = dict([(PARAM_GROUPS, Value::List(groups)), ("state", Value::Dict(states))]);
        merge(&mut whole.metadata, dict([("optimizer", optimizer)]));
    }
    if let Some(mp) = first {
        let text = format!(
            "the optimizers of the stages of its pipeline number their parameters each by itself: they are shown under their ranks (`{}`, …)",
            below(mp, "optimizer")
        );
        whole.notices.push(Notice::new(NoticeKind::NotShown, text));
    }
    whole
}

/// `state.3.exp_avg` with `by` added to the number.
fn counted_on(name: &str, by: usize) -> String {
    let parts = || {
        let (number, key) = name.strip_prefix("state.")?.split_once('.')?;
        Some((number.parse::<usize>().ok()?, key))
    };
    parts().map_or_else(|| name.to_string(), |(number, key)| format!("state.{}.{key}", number + by))
}

/// Adds the settings and the counters of a stage's optimizer, whose parameters are numbered from `by` on.
fn add_optimizer(
    optimizer: Value,
    by: usize,
    groups: &mut Vec<Value>,
    states: &mut BTreeMap<HashableValue, Value>,
) {
    let Value::Dict(mut entries) = optimizer else { return };
    if let Some(Value::List(own)) = entries.remove(&text(PARAM_GROUPS)) {
        groups.extend(own.into_iter().map(|mut group| {
            if let Value::Dict(entries) = &mut group
                && let Some(Value::List(numbers)) = entries.get_mut(&text("params"))
            {
                for number in numbers {
                    if let Value::I64(number) = number {
                        *number += by as i64;
                    }
                }
            }
            group
        }));
    }
    if let Some(Value::Dict(own)) = entries.remove(&text("state")) {
        states.extend(own.into_iter().map(|(key, value)| match key {
            HashableValue::I64(number) => (HashableValue::I64(number + by as i64), value),
            key => (key, value),
        }));
    }
}
