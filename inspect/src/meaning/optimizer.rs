//! What the optimizers in a checkpoint do to each weight: learning rate, weight decay, and how fast the two together
//! shrink a weight that gets no gradient.
//!
//! Optimizer state dicts are PyTorch's: `{state: {i: {…}}, param_groups: [{lr, weight_decay, …, params: [i, …]}]}`,
//! parameters numbered from group to group, within a group in the model's order. Several optimizers lie side by side
//! (`{muon: …, adamw: …}`). Which weight has which number the file does not say: it is found by the shapes of the
//! moments, else by counts, and where neither decides it stays open.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::metadata::{HashableValue, Value, as_f64, as_u64, key_text, lookup};
use crate::tensor::TensorInfo;
use crate::{Group, without_state_dict};

/// How training was set when a checkpoint was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TrainingRecord {
    /// Parameter groups of every optimizer.
    pub groups: Vec<ParamGroup>,
    /// Steps that the optimizers counted themselves.
    pub optimizer_steps: Option<u64>,
    /// Micro-batches per optimizer step, as the config has it.
    pub accumulation: Option<u64>,
    /// Learning rate of matrices as the config has it: where a schedule starts from, or its peak.
    pub config_lr: Option<f64>,
    /// Weight decay of matrices as the config has it.
    pub config_weight_decay: Option<f64>,
}

/// A parameter group of an optimizer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ParamGroup {
    /// Where it is, as a metadata path such as `optimizer_state_dict.muon.param_groups.0`.
    pub path: String,
    /// Which optimizer it is a group of.
    pub kind: Kind,
    /// Learning rate.
    pub lr: Option<f64>,
    /// Weight decay.
    pub weight_decay: Option<f64>,
    /// Momentum of SGD and Muon.
    pub momentum: Option<f64>,
    /// Share of the gradient that SGD's momentum leaves out.
    pub dampening: Option<f64>,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Whether this is Muon in the form that scales what it orthogonalised back to the size it had, so that steps shrink
    /// with the gradient.
    #[serde(default)]
    pub keeps_size: bool,
    /// Whether a polarizer follows its steps, which pushes small weights away from zero.
    #[serde(default)]
    pub polarized: bool,
    /// Weights that it certainly drives, as indices of the record's tensors, rising.
    pub tensors: Vec<u32>,
    /// For each of `tensors`, in the same order, the indices of its moments among the record's tensors.
    pub moments: Vec<Vec<u32>>,
}

/// Optimizers as far as they can be told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Adam with decoupled weight decay.
    AdamW,
    /// Adam that adds weight decay to the gradient, which its second moment then divides out.
    #[serde(rename = "adam-l2")]
    AdamL2,
    /// One of the two: state dicts before PyTorch 2.6 do not tell them apart.
    #[serde(rename = "adam-or-adamw")]
    AdamEither,
    /// Stochastic gradient descent, with or without momentum.
    Sgd,
    /// SGD whose weight decay is decoupled: SGDW (<https://arxiv.org/abs/1711.05101>).
    Sgdw,
    /// Muon: momentum, orthogonalised; decoupled weight decay.
    Muon,
    /// Lion: the sign of the momentum; decoupled weight decay.
    Lion,
    /// BitNetSpinSolver: the sign of a momentum of signs, weights near zero tunnel; decoupled weight decay.
    Spin,
    /// Something else.
    #[default]
    Unknown,
}

/// How an optimizer's weight decay acts on a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecayRule {
    /// w ← (1 - lr·wd) w beside the step.
    Decoupled,
    /// wd·w is added to the gradient and goes through the momentum.
    InGradient,
    /// wd·w is added to a gradient that the second moment then divides, so that it has no rate of its own.
    DividedOut,
}

/// What is known of one kind of optimizer. A new kind is a line of [`KINDS`].
struct Facts {
    kind: Kind,
    /// The name people use.
    name: &'static str,
    /// What its state keeps of each parameter, besides a count of steps.
    state: &'static [&'static str],
    decay: DecayRule,
    /// Whether a parameter group is one of its: by the settings that only this kind has, else by what the file calls it.
    has: fn(&Signs<'_>) -> bool,
}

/// Running mean of the gradient.
pub(crate) const FIRST: &str = "exp_avg";
/// Running mean of its square.
pub(crate) const SECOND: &str = "exp_avg_sq";
/// Momentum of SGD, Muon and their kin.
pub(crate) const MOMENTUM: &str = "momentum_buffer";

/// What an optimizer keeps of a parameter, by the last part of its name.
pub(crate) struct State {
    /// That part.
    pub name: &'static str,
    /// Whether it has the parameter's shape.
    pub whole: bool,
    /// Whether nothing but an optimizer calls a tensor so.
    pub certain: bool,
}

/// The state that optimizers are known to keep.
pub(crate) static STATE: [State; 12] = {
    const fn state(name: &'static str, whole: bool, certain: bool) -> State {
        State { name, whole, certain }
    }
    [
        state(FIRST, true, true),
        state(MOMENTUM, true, true),
        state(SECOND, true, true),
        state("max_exp_avg_sq", true, true),
        state("square_avg", true, false),
        state("sum", true, false),
        state("grad_avg", true, false),
        state("acc_delta", true, false),
        state("exp_inf", true, false),
        state("prev", true, false),
        state("exp_avg_sq_row", false, false),
        state("exp_avg_sq_col", false, false),
    ]
};

/// Of kinds that a group has the signs of, the first one counts.
static KINDS: [Facts; 9] = {
    use DecayRule::*;
    const MOMENTS: &[&str] = &[FIRST, SECOND];
    const BUFFER: &[&str] = &[MOMENTUM];
    const fn facts(
        kind: Kind,
        name: &'static str,
        state: &'static [&'static str],
        decay: DecayRule,
        has: fn(&Signs<'_>) -> bool,
    ) -> Facts {
        Facts { kind, name, state, decay, has }
    }
    fn adam(g: &Signs<'_>) -> bool {
        g.has("betas") && g.has("eps")
    }
    fn sgd(g: &Signs<'_>) -> bool {
        g.has("momentum") && g.has("dampening")
    }
    [
        facts(Kind::Muon, "Muon", BUFFER, Decoupled, |g| {
            ["ns_iters", "ns_steps", "ns_coefficients"].iter().any(|k| g.has(k))
                || (g.has("momentum") && g.called.contains("muon"))
        }),
        facts(Kind::Spin, "BitNetSpinSolver", BUFFER, Decoupled, |g| {
            g.has("hysteresis_threshold") && g.has("tunnel_strength")
        }),
        facts(Kind::AdamW, "AdamW", MOMENTS, Decoupled, |g| {
            adam(g) && g.decoupled().unwrap_or_else(|| g.named("adamw"))
        }),
        facts(Kind::AdamL2, "Adam with L2", MOMENTS, DividedOut, |g| adam(g) && g.decoupled() == Some(false)),
        facts(Kind::AdamEither, "Adam or AdamW", MOMENTS, Decoupled, adam),
        facts(Kind::Lion, "Lion", &[FIRST], Decoupled, |g| {
            g.has("betas") && !g.has("eps") && g.named("lion")
        }),
        facts(Kind::Sgdw, "SGD with decoupled weight decay", BUFFER, Decoupled, |g| {
            sgd(g) && g.decoupled() == Some(true)
        }),
        facts(Kind::Sgd, "SGD", BUFFER, InGradient, sgd),
        facts(Kind::Unknown, "an optimizer not known here", &[], Decoupled, |_| true),
    ]
};

impl Kind {
    fn facts(self) -> &'static Facts {
        KINDS.iter().find(|facts| facts.kind == self).expect("every kind has a line")
    }

    /// The name people use.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// What its state dict keeps of each parameter, besides a count of steps.
    pub fn state(self) -> &'static [&'static str] {
        self.facts().state
    }

    /// How its weight decay acts.
    pub fn decay(self) -> DecayRule {
        self.facts().decay
    }
}

/// What a file says of a parameter group that tells its optimizer.
struct Signs<'a> {
    group: &'a Value,
    /// The key that the optimizer is saved under, in lower case.
    called: String,
    /// What the config calls the optimizer, in lower case.
    configured: Option<String>,
}

impl Signs<'_> {
    fn has(&self, key: &str) -> bool {
        lookup(self.group, key).is_some()
    }

    fn decoupled(&self) -> Option<bool> {
        match lookup(self.group, "decoupled_weight_decay") {
            Some(Value::Bool(decoupled)) => Some(*decoupled),
            _ => None,
        }
    }

    fn named(&self, word: &str) -> bool {
        self.called.contains(word) || self.configured.as_ref().is_some_and(|c| c.contains(word))
    }

    fn kind(&self) -> Kind {
        KINDS.iter().find(|facts| (facts.has)(self)).map_or(Kind::Unknown, |facts| facts.kind)
    }
}

impl ParamGroup {
    /// Fall of ln |w| per optimizer step of a weight that gets no gradient, if learning rate and weight decay are known
    /// and this optimizer has such a rate.
    pub fn decay_rate(&self) -> Option<f64> {
        let (lr, weight_decay) = (self.lr?, self.weight_decay?);
        match self.kind.decay() {
            DecayRule::DividedOut => (lr * weight_decay == 0.0).then_some(0.0),
            DecayRule::InGradient => sgd_rate(
                lr,
                weight_decay,
                self.momentum.unwrap_or(0.0),
                self.dampening.unwrap_or(0.0),
                self.nesterov,
            ),
            DecayRule::Decoupled => decoupled_rate(lr, weight_decay),
        }
    }
}

/// Decoupled decay, w ← (1 - lr·wd) w: -ln(1 - lr·wd) per optimizer step, which is lr·wd for small ones. `None` when a
/// single step leaves nothing.
pub fn decoupled_rate(lr: f64, weight_decay: f64) -> Option<f64> {
    let product = lr * weight_decay;
    (0.0..1.0).contains(&product).then(|| -(-product).ln_1p())
}

/// SGD adds wd·w to the gradient. Without gradient, buf ← m·buf + (1-d)·wd·w and w ← w - lr·buf (Nesterov:
/// w - lr·(wd·w + m·buf)) is linear in (w, buf); its larger eigenvalue is what w shrinks by in the long run, about
/// 1 - lr·wd/(1-m). `None` where the eigenvalues are complex: the weight then oscillates.
fn sgd_rate(lr: f64, weight_decay: f64, momentum: f64, dampening: f64, nesterov: bool) -> Option<f64> {
    let a = lr * weight_decay;
    if a < 0.0 || !(0.0..1.0).contains(&momentum) {
        return None;
    }
    if momentum == 0.0 {
        return decoupled_rate(lr, weight_decay);
    }
    let kept = 1.0 - dampening;
    let (trace, determinant) = match nesterov {
        false => (1.0 + momentum - a * kept, momentum),
        true => (1.0 - a - a * momentum * kept + momentum, momentum * (1.0 - a)),
    };
    let root = (trace * trace - 4.0 * determinant).sqrt();
    let largest = (trace + root) / 2.0;
    (largest > 0.0 && largest <= 1.0).then(|| -largest.ln())
}

impl TrainingRecord {
    /// The group that drives tensor `index` of the record.
    pub fn group_of(&self, index: usize) -> Option<&ParamGroup> {
        Some(self.find(index)?.0)
    }

    /// The moments of tensor `index`, as indices of the record's tensors.
    pub fn moments_of(&self, index: usize) -> &[u32] {
        self.find(index).and_then(|(group, at)| group.moments.get(at)).map_or(&[], Vec::as_slice)
    }

    fn find(&self, index: usize) -> Option<(&ParamGroup, usize)> {
        let index = u32::try_from(index).ok()?;
        self.groups.iter().find_map(|g| Some((g, g.tensors.binary_search(&index).ok()?)))
    }
}

/// Optimizers are looked for this deep among the plain values.
const DEEPEST: usize = 5;
/// No file has more parameter groups of use.
const MOST_GROUPS: usize = 4096;

/// The training settings of `checkpoint`; `None` where it has none.
pub(crate) fn training(checkpoint: &Checkpoint) -> Option<TrainingRecord> {
    let mut found = Vec::new();
    state_dicts(&checkpoint.metadata, "", 0, &mut found);
    let parameters = parameters(checkpoint);
    let index: HashMap<&str, usize> =
        checkpoint.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
    let moments = moments(checkpoint);
    let mut record = TrainingRecord::default();
    for (path, groups) in found {
        let optimizer = StateDict { checkpoint, path: &path, index: &index, moments: &moments };
        let mut own: Vec<ParamGroup> = Vec::new();
        let mut numbers = Vec::new();
        for (i, group) in groups.iter().enumerate().take(MOST_GROUPS - record.groups.len().min(MOST_GROUPS)) {
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
        record.optimizer_steps = record.optimizer_steps.max(optimizer.steps(&numbers));
        record.groups.extend(own);
    }
    let config = ["config.training", "config", "training", "hyper_parameters", "args", "hparams"];
    let setting = |names: &[&str]| {
        names.iter().find_map(|name| {
            let inside = config.iter().filter_map(|c| lookup(&checkpoint.metadata, c));
            let mut inside = inside.filter_map(|c| lookup(c, name).and_then(as_f64));
            inside.find(|v| v.is_finite() && *v >= 0.0)
        })
    };
    record.accumulation = setting(&[
        "gradient_accumulation_steps",
        "grad_accum_steps",
        "accumulate_grad_batches",
        "accumulation_steps",
        "grad_accum",
    ])
    .filter(|n| n.fract() == 0.0 && (1.0..1e6).contains(n))
    .map(|n| n as u64);
    record.config_lr = setting(&["muon_lr", "learning_rate", "lr", "max_lr"]);
    record.config_weight_decay =
        setting(&["muon_weight_decay", "ternary_weight_decay", "weight_decay", "wd"]);
    (record != TrainingRecord::default()).then_some(record)
}

/// Every `param_groups` among the plain values, with the path of what holds it.
fn state_dicts<'v>(value: &'v Value, path: &str, depth: usize, found: &mut Vec<(String, &'v [Value])>) {
    let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match value {
        Value::Dict(entries) => match entries.get(&HashableValue::String("param_groups".into())) {
            Some(Value::List(groups) | Value::Tuple(groups)) => found.push((path.to_string(), groups)),
            _ if depth < DEEPEST => {
                for (key, value) in entries {
                    state_dicts(value, &below(&key_text(key)), depth + 1, found);
                }
            }
            _ => {}
        },
        Value::List(items) | Value::Tuple(items) if depth < DEEPEST && items.len() <= 64 => {
            for (i, value) in items.iter().enumerate() {
                state_dicts(value, &below(&i.to_string()), depth + 1, found);
            }
        }
        _ => {}
    }
}

/// What optimizers are given: weights in the model's order, tied ones once, without buffers.
fn parameters(checkpoint: &Checkpoint) -> Vec<usize> {
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

/// Which parameters a group has: their numbers, and where the file has them, their names.
struct Numbers<'v> {
    numbers: Vec<u64>,
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
        let names: Option<Vec<&str>> = list("param_names").iter().map(text).collect();
        Numbers {
            numbers: list("params").iter().filter_map(as_u64).collect(),
            names: names.filter(|n| !n.is_empty()),
        }
    }
}

/// For each group the tensors it drives, each with its number.
type Driven = Vec<Vec<(usize, Option<u64>)>>;

impl StateDict<'_> {
    fn below(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    fn state_key(&self, number: u64) -> String {
        self.below(&format!("state.{number}"))
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
        let path = self.below(&format!("param_groups.{i}"));
        let number = |key: &str| self.number(&format!("{path}.{key}"), lookup(group, key));
        ParamGroup {
            kind: self.kind(group),
            lr: number("lr"),
            weight_decay: number("weight_decay"),
            momentum: number("momentum"),
            dampening: number("dampening"),
            nesterov: matches!(lookup(group, "nesterov"), Some(Value::Bool(true))),
            // `ckpt train` has both forms, and says which; the seed, whose form it is, has no word for it.
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

    /// Whether a polarizer was saved beside the optimizer, or beside those that it is one of.
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
        let step = |number: &u64| {
            let plain = state.and_then(|s| match s {
                Value::Dict(entries) => entries
                    .get(&HashableValue::I64(*number as i64))
                    .or_else(|| entries.get(&HashableValue::String(number.to_string()))),
                _ => None,
            });
            let steps = self.number(
                &format!("{}.step", self.state_key(*number)),
                plain.and_then(|s| lookup(s, "step")),
            )?;
            (steps >= 0.0 && steps.fract() == 0.0).then_some(steps as u64)
        };
        groups.iter().flat_map(|g| &g.numbers).filter_map(step).max()
    }

    /// The shape of the parameter of this number, from its moments.
    fn shape(&self, number: u64) -> Option<&[usize]> {
        let moments = self.moments.get(&self.state_key(number))?;
        let named = |name: &str| {
            let ends = |i: &&usize| self.checkpoint.tensors[**i].name.rsplit('.').next() == Some(name);
            moments.iter().find(ends)
        };
        let whole = STATE.iter().filter(|state| state.whole).find_map(|state| named(state.name))?;
        Some(&self.checkpoint.tensors[*whole].shape)
    }

    /// Which of `parameters` each group drives.
    fn assign(&self, parameters: &[usize], groups: &[Numbers<'_>]) -> Driven {
        let tensor = |p: usize| &self.checkpoint.tensors[p];
        if groups.iter().all(|g| g.names.is_some()) {
            let by_name: HashMap<&str, usize> =
                parameters.iter().map(|&p| (without_state_dict(&tensor(p).name), p)).collect();
            let named = |g: &Numbers<'_>| {
                let numbers = g.numbers.iter().copied().map(Some).chain(std::iter::repeat(None));
                let names = g.names.iter().flatten().zip(numbers);
                names.filter_map(|(name, n)| Some((*by_name.get(name)?, n))).collect()
            };
            return groups.iter().map(named).collect();
        }
        // A group may be empty: a trainer makes one for each setting, whether parameters have it or not.
        let known = |g: &Numbers<'_>| g.numbers.iter().all(|n| self.shape(*n).is_some());
        if groups.iter().all(known) && groups.iter().any(|g| !g.numbers.is_empty()) {
            return groups.iter().map(|g| self.by_shapes(parameters, &g.numbers)).collect();
        }
        self.by_counts(parameters, groups)
    }

    /// Parameters of the model in order whose shapes are those of the group: the earliest such sequence and the latest
    /// one agree on what is certain.
    fn by_shapes(&self, parameters: &[usize], numbers: &[u64]) -> Vec<(usize, Option<u64>)> {
        let matches = |p: usize, n: u64| Some(self.checkpoint.tensors[p].shape.as_slice()) == self.shape(n);
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
    fn by_counts(&self, parameters: &[usize], groups: &[Numbers<'_>]) -> Driven {
        let matrix = |p: &&usize| self.checkpoint.tensors[**p].shape.len() >= 2;
        let matrices: Vec<usize> = parameters.iter().filter(matrix).copied().collect();
        let others: Vec<usize> = parameters.iter().filter(|p| !matrix(p)).copied().collect();
        let numbered = |tensors: &[usize], g: &Numbers<'_>| {
            tensors.iter().copied().zip(g.numbers.iter().copied().map(Some)).collect()
        };
        let of = |g: &Numbers<'_>| {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain recursions, as torch.optim.SGD runs them.
    #[test]
    fn sgd_shrinks_a_weight_as_its_recursion_does() {
        for (lr, wd, m, d, nesterov) in [
            (0.1, 5e-4, 0.0, 0.0, false),
            (0.1, 5e-4, 0.9, 0.0, false),
            (0.05, 1e-3, 0.9, 0.5, false),
            (0.1, 5e-4, 0.9, 0.0, true),
            (0.01, 0.02, 0.95, 0.0, true),
        ] {
            let (mut w, mut buf) = (1.0f64, 0.0);
            let mut marks = Vec::new();
            for step in 0..4000 {
                let g = wd * w;
                buf = if step == 0 { g } else { m * buf + (1.0 - d) * g };
                let update = match (m == 0.0, nesterov) {
                    (true, _) => g,
                    (false, true) => g + m * buf,
                    (false, false) => buf,
                };
                w -= lr * update;
                if step == 1999 || step == 3999 {
                    marks.push(w.ln());
                }
            }
            let measured = (marks[0] - marks[1]) / 2000.0;
            let rate = sgd_rate(lr, wd, m, d, nesterov).unwrap();
            assert!((rate / measured - 1.0).abs() < 1e-6, "{lr} {wd} {m} {d} {nesterov}: {rate}, {measured}");
        }
        assert_eq!(sgd_rate(0.01, 0.1, 0.95, 0.0, true), None, "its eigenvalues are complex: it oscillates");
    }

    #[test]
    fn every_kind_has_a_line_of_its_own() {
        use Kind::*;
        for kind in [AdamW, AdamL2, AdamEither, Sgd, Sgdw, Muon, Lion, Spin, Unknown] {
            assert_eq!(KINDS.iter().filter(|facts| facts.kind == kind).count(), 1, "{kind:?}");
            assert_eq!(kind.facts().kind, kind);
        }
    }

    #[test]
    fn decoupled_decay_is_lr_times_wd_to_first_order() {
        assert!((decoupled_rate(0.02, 0.1).unwrap() - 2.002_002_67e-3).abs() < 1e-11);
        assert_eq!(decoupled_rate(0.02, 0.0), Some(0.0));
        assert_eq!(decoupled_rate(2.0, 0.6), None);
        let group = ParamGroup {
            kind: Kind::AdamL2,
            lr: Some(0.1),
            weight_decay: Some(0.1),
            ..ParamGroup::default()
        };
        assert_eq!(group.decay_rate(), None, "coupled decay is divided by the second moment");
    }
}
