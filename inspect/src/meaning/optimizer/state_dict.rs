//! Optimizers' state dicts among a checkpoint's plain values, and which of its weights each parameter group has.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::kind::Signs;
use super::{Kind, PARAM_GROUPS, ParamGroup, STATE};
use crate::checkpoint::Checkpoint;
use crate::metadata::{HashableValue, Value, as_f64, as_u64, key_text, lookup};
use crate::tensor::TensorInfo;
use crate::{Group, without_state_dict};

/// Optimizers are looked for this deep among the plain values.
const DEEPEST: usize = 5;
/// More parameter groups than any real file has.
const MOST_GROUPS: usize = 4096;
/// More different settings of parameters than any real file has.
const MOST_KINDS: usize = 64;

/// The parameter groups of every optimizer in `checkpoint`, with the weights that each certainly updates, and the steps
/// that the optimizers counted.
pub(super) fn groups(checkpoint: &Checkpoint) -> (Vec<ParamGroup>, Option<u64>) {
    let mut found = Vec::new();
    state_dicts(&checkpoint.metadata, "", 0, &mut found);
    let parameters = parameters(checkpoint);
    let index: HashMap<&str, usize> =
        checkpoint.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    let moments = moments(checkpoint);
    let mut all: Vec<ParamGroup> = Vec::new();
    let mut steps = None;
    for (path, groups) in &found {
        let optimizer = StateDict { checkpoint, path, index: &index, moments: &moments };
        let mut own: Vec<ParamGroup> = Vec::new();
        let mut numbers = Vec::new();
        for (i, group) in groups.iter().enumerate().take(MOST_GROUPS - all.len().min(MOST_GROUPS)) {
            own.push(optimizer.group(i, group));
            numbers.push(Numbers::of(group));
        }
        let driven = optimizer.assign(&parameters, &numbers);
        for (group, mut driven) in own.iter_mut().zip(driven) {
            driven.sort_unstable();
            for (tensor, number) in driven {
                group.tensors.push(tensor as u32);
                let of_number = number.and_then(|n| moments.get(&optimizer.state_key(n)));
                group
                    .moments
                    .push(of_number.map(|m| m.iter().map(|&i| i as u32).collect()).unwrap_or_default());
            }
        }
        steps = steps.max(optimizer.steps(&numbers));
        all.extend(own);
    }
    (all, steps)
}

/// Every `param_groups` among the plain values, with the path of what holds it.
fn state_dicts<'v>(value: &'v Value, path: &str, depth: usize, found: &mut Vec<(String, Cow<'v, [Value]>)>) {
    let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match value {
        Value::Dict(entries) => match entries.get(&HashableValue::String(PARAM_GROUPS.into())) {
            Some(Value::List(groups) | Value::Tuple(groups)) => {
                found.push((path.to_string(), Cow::Borrowed(groups)));
            }
            _ => {
                if let Some(groups) = flattened(entries) {
                    found.push((path.to_string(), Cow::Owned(groups)));
                } else if depth < DEEPEST {
                    for (key, value) in entries {
                        state_dicts(value, &below(&key_text(key)), depth + 1, found);
                    }
                }
            }
        },
        Value::List(items) | Value::Tuple(items) if depth < DEEPEST && items.len() <= 64 => {
            for (i, value) in items.iter().enumerate() {
                state_dicts(value, &below(&i.to_string()), depth + 1, found);
            }
        }
        _ => {}
    }
}

/// The groups of a state dict that was flattened, so that ranks can divide it: `param_groups.NAME.lr` for each parameter.
/// Those of equal settings are one.
fn flattened(entries: &BTreeMap<HashableValue, Value>) -> Option<Vec<Value>> {
    let mut settings: BTreeMap<&str, BTreeMap<HashableValue, Value>> = BTreeMap::new();
    for (key, value) in entries {
        let HashableValue::String(key) = key else { continue };
        if let Some((name, setting)) =
            key.strip_prefix(PARAM_GROUPS).and_then(|rest| rest.strip_prefix('.')?.rsplit_once('.'))
        {
            let setting = HashableValue::String(setting.into());
            settings.entry(name).or_default().insert(setting, value.clone());
        }
    }
    let mut groups: Vec<(BTreeMap<HashableValue, Value>, Vec<Value>)> = Vec::new();
    for (name, settings) in settings {
        let name = Value::String(name.into());
        match groups.iter().position(|(known, _)| *known == settings) {
            Some(group) => groups[group].1.push(name),
            None if groups.len() < MOST_KINDS => groups.push((settings, vec![name])),
            None => {}
        }
    }
    let with_names = |(mut group, names): (BTreeMap<HashableValue, Value>, Vec<Value>)| {
        group.insert(HashableValue::String("params".into()), Value::List(names));
        Value::Dict(group)
    };
    (!groups.is_empty()).then(|| groups.into_iter().map(with_names).collect())
}

/// The parameters that optimizers get: weights in the model's order, tied ones once, without buffers.
pub(super) fn parameters(checkpoint: &Checkpoint) -> Vec<usize> {
    let buffer = |t: &TensorInfo| {
        ["running_mean", "running_var", "inv_freq"].iter().any(|name| t.name.ends_with(name))
    };
    let mut seen = HashSet::new();
    (0..checkpoint.tensors.len())
        .filter(|&i| {
            let tensor = &checkpoint.tensors[i];
            tensor.group == Group::Weights && tensor.dtype.is_float() && !buffer(tensor)
        })
        .filter(|&i| {
            let tensor = &checkpoint.tensors[i];
            tensor.storage.is_none() || seen.insert((&tensor.storage, tensor.byte_offset))
        })
        .collect()
}

/// Tensors of optimizers by the path of the parameter's state.
fn moments(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<usize>> {
    let mut by_state: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, tensor) in checkpoint.tensors.iter().enumerate().filter(|(_, t)| t.group == Group::Optimizer) {
        if let Some((state, last)) = tensor.name.rsplit_once('.')
            && last != "step"
        {
            by_state.entry(state.to_string()).or_default().push(i);
        }
    }
    by_state
}

/// One optimizer's state dict in a checkpoint.
struct StateDict<'a> {
    checkpoint: &'a Checkpoint,
    path: &'a str,
    index: &'a HashMap<&'a str, usize>,
    moments: &'a BTreeMap<String, Vec<usize>>,
}

/// What a parameter's state is kept under: its number, or its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'v> {
    Number(u64),
    Name(&'v str),
}

/// Which parameters a group has: their numbers, and where the file has them, their names.
struct Numbers<'v> {
    numbers: Vec<Key<'v>>,
    names: Option<Vec<&'v str>>,
}

impl<'v> Numbers<'v> {
    fn of(group: &'v Value) -> Self {
        let list = |key: &str| match lookup(group, key) {
            Some(Value::List(items) | Value::Tuple(items)) => items.as_slice(),
            _ => &[],
        };
        let text = |v: &'v Value| match v {
            Value::String(s) => Some(s.as_str()),
            _ => None,
        };
        let names = |key: &str| -> Option<Vec<&'v str>> {
            let names: Option<Vec<&str>> = list(key).iter().map(text).collect();
            names.filter(|names| !names.is_empty())
        };
        // PyTorch's `get_state_dict` has names in place of numbers.
        let key = |v: &'v Value| as_u64(v).map(Key::Number).or_else(|| text(v).map(Key::Name));
        Numbers {
            numbers: list("params").iter().filter_map(key).collect(),
            names: names("param_names").or_else(|| names("params")),
        }
    }
}

/// For each group the tensors it updates, each with what its state is kept under.
type Driven<'v> = Vec<Vec<(usize, Option<Key<'v>>)>>;

impl StateDict<'_> {
    fn below(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    fn state_key(&self, key: Key<'_>) -> String {
        match key {
            Key::Number(number) => self.below(&format!("state.{number}")),
            Key::Name(name) => self.below(&format!("state.{name}")),
        }
    }

    /// A number of the file, whether it was saved plain or as a tensor of one element.
    fn number(&self, path: &str, plain: Option<&Value>) -> Option<f64> {
        let tensor = || {
            let tensor = &self.checkpoint.tensors[*self.index.get(path)?];
            let bytes = self.checkpoint.tensor_bytes(tensor).ok().filter(|_| tensor.numel() == 1)?;
            as_f64(&crate::torch::scalar(tensor.dtype, &bytes)?)
        };
        plain.and_then(as_f64).or_else(tensor).filter(|v| v.is_finite())
    }

    fn group(&self, i: usize, group: &Value) -> ParamGroup {
        let path = self.below(&format!("{PARAM_GROUPS}.{i}"));
        let number = |key: &str| self.number(&format!("{path}.{key}"), lookup(group, key));
        ParamGroup {
            kind: self.kind(group),
            lr: number("lr"),
            weight_decay: number("weight_decay"),
            momentum: number("momentum"),
            dampening: number("dampening"),
            nesterov: matches!(lookup(group, "nesterov"), Some(Value::Bool(true))),
            // `ckpt train` has both forms and records which; the original trainer of bitnet-student records nothing and
            // has this one.
            keeps_size: match lookup(group, "keeps_size") {
                Some(Value::Bool(keeps)) => *keeps,
                _ => lookup(group, "ns_iters").is_some(),
            },
            polarized: self.polarized(),
            path,
            tensors: Vec::new(),
            moments: Vec::new(),
        }
    }

    /// What the config calls the optimizer, in lower case.
    fn configured(&self) -> Option<String> {
        let config = ["config.training.optimizer", "config.optimizer", "args.optim", "config.training.optim"];
        config.iter().find_map(|p| match lookup(&self.checkpoint.metadata, p) {
            Some(Value::String(name)) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
    }

    fn kind(&self, group: &Value) -> Kind {
        let called = self.path.rsplit('.').next().unwrap_or("").to_ascii_lowercase();
        Signs { group, called, configured: self.configured() }.kind()
    }

    /// Whether a polarizer was saved with the optimizer, or with the optimizers that include it.
    fn polarized(&self) -> bool {
        let above = self.path.rsplit_once('.').map_or("", |(above, _)| above);
        [self.path, above].iter().any(|path| {
            let key = if path.is_empty() { "polarizer".to_string() } else { format!("{path}.polarizer") };
            matches!(lookup(&self.checkpoint.metadata, &key), Some(Value::Dict(_)))
        })
    }

    /// Steps that the optimizer counted for any of its parameters.
    fn steps(&self, groups: &[Numbers<'_>]) -> Option<u64> {
        let state = lookup(&self.checkpoint.metadata, &self.below("state"));
        let step = |key: &Key<'_>| {
            let plain = state.and_then(|s| match (s, key) {
                (Value::Dict(entries), Key::Number(number)) => entries
                    .get(&HashableValue::I64(*number as i64))
                    .or_else(|| entries.get(&HashableValue::String(number.to_string()))),
                (Value::Dict(entries), Key::Name(name)) => {
                    entries.get(&HashableValue::String(name.to_string()))
                }
                _ => None,
            });
            let steps = self
                .number(&format!("{}.step", self.state_key(*key)), plain.and_then(|s| lookup(s, "step")))?;
            (steps >= 0.0 && steps.fract() == 0.0).then_some(steps as u64)
        };
        groups.iter().flat_map(|g| &g.numbers).filter_map(step).max()
    }

    /// The shape of the parameter of this number, from its moments.
    fn shape(&self, key: Key<'_>) -> Option<&[usize]> {
        let moments = self.moments.get(&self.state_key(key))?;
        let named = |name: &str| {
            let ends = |i: &&usize| self.checkpoint.tensors[**i].name.rsplit('.').next() == Some(name);
            moments.iter().find(ends)
        };
        let whole = STATE.iter().filter(|state| state.whole).find_map(|state| named(state.name))?;
        Some(&self.checkpoint.tensors[*whole].shape)
    }

    /// Which of `parameters` each group updates.
    fn assign<'v>(&self, parameters: &[usize], groups: &[Numbers<'v>]) -> Driven<'v> {
        let tensor = |p: usize| &self.checkpoint.tensors[p];
        let is_named = |g: &Numbers<'_>| g.names.is_some() || g.numbers.is_empty();
        if groups.iter().all(is_named) && groups.iter().any(|g| g.names.is_some()) {
            let mut by_name: HashMap<&str, usize> =
                parameters.iter().map(|&p| (without_state_dict(&tensor(p).name), p)).collect();
            // The key of a state dict may be one that models' own names begin with, too.
            for &p in parameters {
                if let Some(name) = tensor(p).name.strip_prefix("model.") {
                    by_name.entry(name).or_insert(p);
                }
            }
            let named = |g: &Numbers<'v>| {
                let numbers = g.numbers.iter().copied().map(Some).chain(std::iter::repeat(None));
                let names = g.names.iter().flatten().zip(numbers);
                names.filter_map(|(name, n)| Some((*by_name.get(name)?, n))).collect()
            };
            return groups.iter().map(named).collect();
        }
        // A group may be empty: a trainer makes one for each setting, whether parameters have it or not.
        let known = |g: &Numbers<'_>| g.numbers.iter().all(|key| self.shape(*key).is_some());
        if groups.iter().all(known) && groups.iter().any(|g| !g.numbers.is_empty()) {
            return groups.iter().map(|g| self.by_shapes(parameters, &g.numbers)).collect();
        }
        self.by_counts(parameters, groups)
    }

    /// Parameters of the model in order whose shapes are those of the group: the earliest such sequence and the latest
    /// one agree on what is certain.
    fn by_shapes<'v>(&self, parameters: &[usize], numbers: &[Key<'v>]) -> Vec<(usize, Option<Key<'v>>)> {
        let matches =
            |p: usize, n: Key<'_>| Some(self.checkpoint.tensors[p].shape.as_slice()) == self.shape(n);
        let mut earliest = Vec::new();
        let mut rest = parameters.iter();
        for &n in numbers {
            let Some(&p) = rest.find(|p| matches(**p, n)) else { return Vec::new() };
            earliest.push(p);
        }
        let mut latest = Vec::new();
        let mut rest = parameters.iter().rev();
        for &n in numbers.iter().rev() {
            let Some(&p) = rest.find(|p| matches(**p, n)) else { return Vec::new() };
            latest.push(p);
        }
        let certain = earliest.iter().zip(latest.iter().rev()).zip(numbers);
        certain.filter(|((early, late), _)| early == late).map(|((p, _), n)| (*p, Some(*n))).collect()
    }

    /// Without moments: all of them where there is one group, else matrices and the rest where the counts are theirs.
    fn by_counts<'v>(&self, parameters: &[usize], groups: &[Numbers<'v>]) -> Driven<'v> {
        let matrix = |p: &&usize| self.checkpoint.tensors[**p].shape.len() >= 2;
        let matrices: Vec<usize> = parameters.iter().filter(matrix).copied().collect();
        let others: Vec<usize> = parameters.iter().filter(|p| !matrix(p)).copied().collect();
        let numbered = |tensors: &[usize], g: &Numbers<'v>| {
            tensors.iter().copied().zip(g.numbers.iter().copied().map(Some)).collect()
        };
        let of = |g: &Numbers<'v>| {
            let n = g.numbers.len();
            let whole = n == parameters.len() && groups.len() == 1;
            match n {
                _ if whole => numbered(parameters, g),
                _ if n == matrices.len() && n != others.len() => numbered(&matrices, g),
                _ if n == others.len() && n != matrices.len() => numbered(&others, g),
                _ => Vec::new(),
            }
        };
        groups.iter().map(of).collect()
    }
}
