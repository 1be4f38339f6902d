//! Optimizers on plain f32 slices, one file each. All take their hyper-parameters from their settings, a schedule's
//! factor on the learning rate each step, and keep their state so that PyTorch's optimizer of the same name accepts it.

mod adamw;
mod muon;
mod polarize;
mod sgd;
mod spin;

use ckpt_inspect::Checkpoint;
use ckpt_inspect::metadata::as_u64;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_pickle::{HashableValue, Value};

use crate::plain;
use crate::{Error, Gradients, Parameter, Parameters, Result, Role};
pub use adamw::AdamW;
use ckpt_convert::Object;
pub use muon::{Form, Muon, orthogonalize};
pub use polarize::{Polarized, Polarizer, Target, Well};
pub use sgd::Sgd;
pub use spin::Spin;

/// Elements per unit of parallel work.
const PART: usize = 1 << 15;

/// An optimizer with its state.
pub trait Optimizer: Send {
    /// One step: `factor` multiplies every learning rate, `step` counts from 0 and names random draws.
    fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, factor: f64, step: u64);

    /// The state in torch's layout; learning rates as of `factor`.
    fn state<'a>(&'a self, parameters: &Parameters, factor: f64) -> Object<'a>;

    /// Takes over the state that `checkpoint` holds at `key` (`optimizer_state_dict`). Returns sentences on what of it is
    /// not gone on with.
    ///
    /// # Errors
    /// `Settings` when it is another optimizer's or of another model; the checkpoint's own.
    fn load(&mut self, checkpoint: &Checkpoint, key: &str, parameters: &Parameters) -> Result<Vec<String>>;

    /// Learning rate and decoupled weight decay of each group that decays ternary weights.
    fn ternary_decay(&self, parameters: &Parameters) -> Vec<(f64, f64)>;
}

/// Steps in which decoupled weight decay alone halves a weight: `ln 2 / (lr * weight_decay)`, from
/// `w(t) = w(0) exp(-lr wd t)`.
pub fn half_life(lr: f64, weight_decay: f64) -> f64 {
    std::f64::consts::LN_2 / (lr * weight_decay)
}

/// Which optimizer, and how it is set. Fields that an optimizer does not have are ignored by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// One of [`NAMES`], with `polarized-` in front to wrap it.
    pub name: String,
    /// Learning rate; for Muon of its matrices. Each optimizer's own default when not given.
    pub lr: Option<f64>,
    /// Learning rate of what Muon leaves to AdamW.
    pub adamw_lr: f64,
    /// Decoupled weight decay of parameters that no BitLinear uses; with `muon-adamw` of what is no matrix.
    pub weight_decay: f64,
    /// Decoupled weight decay of ternary weights; with `muon-adamw` of every matrix, the embedding included, which the
    /// seed decays alike.
    pub ternary_weight_decay: f64,
    /// AdamW's betas.
    pub betas: (f64, f64),
    /// AdamW's eps.
    pub eps: f64,
    /// Momentum of Muon (0.95 when not given), SGD (0) and the spin solver (0.9).
    pub momentum: Option<f64>,
    /// Below it the spin solver's weights tunnel.
    pub hysteresis_threshold: f64,
    /// How far they tunnel, in learning rates.
    pub tunnel_strength: f64,
    /// The polarizer, for a `polarized-` optimizer.
    pub polarizer: Polarizer,
}

/// Learning rates where none is given.
const ADAMW_LR: f64 = 3e-4;
const MUON_LR: f64 = 0.02;
const SGD_LR: f64 = 0.1;
const SPIN_LR: f64 = 1e-3;

/// Names of the optimizers.
pub const NAMES: [&str; 5] = ["adamw", "muon", "muon-adamw", "sgd", "spin"];

impl Default for Settings {
    fn default() -> Self {
        Settings {
            name: "polarized-adamw".into(),
            lr: None,
            adamw_lr: ADAMW_LR,
            weight_decay: 0.0,
            ternary_weight_decay: 0.0,
            betas: (0.9, 0.95),
            eps: 1e-8,
            momentum: None,
            hysteresis_threshold: 0.05,
            tunnel_strength: 2.0,
            polarizer: Polarizer::default(),
        }
    }
}

impl Settings {
    /// The optimizer for `parameters`. `seed` names its random draws.
    ///
    /// # Errors
    /// `Settings` for a name that is none, or numbers that would not train.
    pub fn build(&self, parameters: &Parameters, seed: u64) -> Result<Box<dyn Optimizer>> {
        self.check()?;
        let (name, polarized) = match self.name.strip_prefix("polarized-") {
            Some(name) => (name, true),
            None => (self.name.as_str(), false),
        };
        let all = |_: &Parameter| true;
        let matrix = |p: &Parameter| p.shape.len() == 2;
        let hidden = |p: &Parameter| matches!(p.role, Role::Attention | Role::Mlp);
        let adamw = |lr: f64, wanted: &dyn Fn(&Parameter) -> bool| {
            let groups = Groups::new(parameters, wanted, lr, self.weight_decay, self.ternary_weight_decay);
            AdamW::new(groups, parameters, self.betas, self.eps)
        };
        let muon = |form: Form, wanted: &dyn Fn(&Parameter) -> bool| {
            let decay = match form {
                // The seed decays every matrix alike.
                Form::Cubic => (self.ternary_weight_decay, self.ternary_weight_decay),
                Form::Quintic => (self.weight_decay, self.ternary_weight_decay),
            };
            let groups = Groups::new(parameters, wanted, self.lr.unwrap_or(MUON_LR), decay.0, decay.1);
            let rest = adamw(self.adamw_lr, &|p| !wanted(p));
            Muon::new(groups, parameters, self.momentum.unwrap_or(0.95), form, rest)
        };
        let groups =
            |lr: f64| Groups::new(parameters, &all, lr, self.weight_decay, self.ternary_weight_decay);
        let base: Box<dyn Optimizer> = match name {
            "adamw" => Box::new(adamw(self.lr.unwrap_or(ADAMW_LR), &all)),
            "muon" => Box::new(muon(Form::Quintic, &hidden)),
            "muon-adamw" => Box::new(muon(Form::Cubic, &matrix)),
            "sgd" => Box::new(Sgd::new(
                groups(self.lr.unwrap_or(SGD_LR)),
                parameters,
                self.momentum.unwrap_or(0.0),
            )),
            "spin" => Box::new(Spin::new(
                groups(self.lr.unwrap_or(SPIN_LR)),
                parameters,
                self.momentum.unwrap_or(0.9),
                (self.hysteresis_threshold, self.tunnel_strength),
                seed,
            )),
            _ => {
                return Err(Error::settings(format!(
                    "`{}` is no optimizer; there are {}, and `polarized-` in front of any of them",
                    self.name.escape_debug(),
                    NAMES.join(", ")
                )));
            }
        };
        Ok(match polarized {
            true => Box::new(Polarized::new(base, self.polarizer.clone(), parameters, seed)?),
            false => base,
        })
    }

    /// What is set and does less than its name says, in a sentence.
    pub(crate) fn surprises(&self) -> Option<String> {
        let (decay, ternary) = (self.weight_decay, self.ternary_weight_decay);
        let seed = self.name.strip_prefix("polarized-").unwrap_or(&self.name) == "muon-adamw";
        (seed && decay > 0.0).then(|| {
            format!(
                "weight decay {decay} has no effect on any matrix: muon-adamw decays all of them, the embedding too, by --ternary-weight-decay ({ternary}), as the seed does"
            )
        })
    }

    /// Learning rates by the part of the state dict that holds them: the whole, or Muon's and AdamW's.
    pub fn rates(&self) -> Vec<(&'static str, f64)> {
        match self.name.strip_prefix("polarized-").unwrap_or(&self.name) {
            "muon" | "muon-adamw" => {
                vec![(".muon", self.lr.unwrap_or(MUON_LR)), (".adamw", self.adamw_lr)]
            }
            "sgd" => vec![("", self.lr.unwrap_or(SGD_LR))],
            "spin" => vec![("", self.lr.unwrap_or(SPIN_LR))],
            _ => vec![("", self.lr.unwrap_or(ADAMW_LR))],
        }
    }

    fn check(&self) -> Result<()> {
        let numbers = [
            ("lr", self.lr.unwrap_or(0.0)),
            ("adamw_lr", self.adamw_lr),
            ("weight_decay", self.weight_decay),
            ("ternary_weight_decay", self.ternary_weight_decay),
            ("eps", self.eps),
        ];
        for (name, value) in numbers {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::settings(format!("{name} {value} is not a number of at least 0")));
            }
        }
        let momenta = [self.betas.0, self.betas.1, self.momentum.unwrap_or(0.0)];
        if momenta.iter().any(|m| !(0.0..1.0).contains(m)) {
            return Err(Error::settings("betas and momentum must be at least 0 and below 1"));
        }
        Ok(())
    }
}

/// Parameters with the same learning rate and weight decay.
#[derive(Clone, Debug)]
struct Group {
    lr: f64,
    weight_decay: f64,
    /// Indices in model order.
    members: Vec<usize>,
}

/// The groups of one optimizer.
#[derive(Clone, Debug)]
struct Groups(Vec<Group>);

impl Groups {
    /// One group in model order when all decay alike, else ternary weights and the others.
    fn new(
        parameters: &Parameters,
        wanted: &dyn Fn(&Parameter) -> bool,
        lr: f64,
        weight_decay: f64,
        ternary_weight_decay: f64,
    ) -> Self {
        let members: Vec<usize> = (0..parameters.0.len()).filter(|&i| wanted(&parameters.0[i])).collect();
        if weight_decay == ternary_weight_decay {
            return Groups(vec![Group { lr, weight_decay, members }]);
        }
        let (ternary, others) = members.into_iter().partition(|&i| parameters.0[i].ternary);
        Groups(vec![
            Group { lr, weight_decay: ternary_weight_decay, members: ternary },
            Group { lr, weight_decay, members: others },
        ])
    }

    fn members(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(|g| g.members.iter().copied())
    }

    /// For each parameter its learning rate and weight decay, if it is a member.
    fn rates(&self, parameters: &Parameters) -> Vec<Option<(f64, f64)>> {
        let mut rates = vec![None; parameters.0.len()];
        for group in &self.0 {
            group.members.iter().for_each(|&i| rates[i] = Some((group.lr, group.weight_decay)));
        }
        rates
    }

    fn ternary_decay(&self, parameters: &Parameters) -> Vec<(f64, f64)> {
        let decays = |g: &&Group| g.weight_decay > 0.0 && g.members.iter().any(|&i| parameters.0[i].ternary);
        self.0.iter().filter(decays).map(|g| (g.lr, g.weight_decay)).collect()
    }

    /// `{state: {i: …}, param_groups: […]}`; `entry` gives a parameter's state, `options` what each group says besides.
    fn state<'a>(
        &self,
        parameters: &Parameters,
        factor: f64,
        options: &[(&str, Value)],
        entry: impl Fn(usize) -> Object<'a>,
    ) -> Object<'a> {
        let state = self.members().enumerate().map(|(i, at)| (HashableValue::I64(i as i64), entry(at)));
        let mut first = 0;
        let group = |group: &Group| {
            let numbers = (first..first + group.members.len()).map(|i| Value::I64(i as i64)).collect();
            first += group.members.len();
            let names = group.members.iter().map(|&i| Value::String(parameters.0[i].name.clone())).collect();
            plain(
                [("lr", Value::F64(group.lr * factor)), ("weight_decay", Value::F64(group.weight_decay))]
                    .into_iter()
                    .chain(options.iter().cloned())
                    .chain([
                        ("initial_lr", Value::F64(group.lr)),
                        ("params", Value::List(numbers)),
                        ("param_names", Value::List(names)),
                    ]),
            )
        };
        let groups = self.0.iter().map(group).collect();
        Object::dict([
            ("state", Object::Dict(state.collect())),
            ("param_groups", Object::Plain(Value::List(groups))),
        ])
    }

    /// Pairs each member with the number that the state dict at `key` gives it: by `param_names` where they are, else
    /// in order.
    fn numbers(
        &self,
        checkpoint: &Checkpoint,
        key: &str,
        parameters: &Parameters,
    ) -> Result<Vec<(usize, i64)>> {
        let foreign = |what: String| {
            Error::settings(format!(
                "{}: {what}; resume without its optimizer state (--reset-optimizer) or choose the optimizer it was saved by",
                checkpoint.path.display()
            ))
        };
        let Some(Value::List(groups)) = checkpoint.meta(&format!("{key}.param_groups")) else {
            let muon = checkpoint.meta(&format!("{key}.muon")).is_some();
            return Err(foreign(match muon {
                true => "its optimizer state is muon-adamw's".into(),
                false => format!("has no {key}.param_groups"),
            }));
        };
        let list = |group: &Value, name: &str| match ckpt_inspect::lookup(group, name) {
            Some(Value::List(items)) => items.clone(),
            _ => Vec::new(),
        };
        let (mut numbers, mut names) = (Vec::new(), Vec::new());
        for group in groups {
            numbers.extend(list(group, "params").iter().filter_map(|v| match v {
                Value::I64(i) => Some(*i),
                _ => None,
            }));
            names.extend(list(group, "param_names").into_iter().filter_map(|v| match v {
                Value::String(name) => Some(name),
                _ => None,
            }));
        }
        let members: Vec<usize> = self.members().collect();
        if names.len() == numbers.len() && !names.is_empty() {
            let by_name: std::collections::HashMap<&str, i64> =
                names.iter().map(String::as_str).zip(numbers.iter().copied()).collect();
            let number = |&at: &usize| Some((at, *by_name.get(parameters.0[at].name.as_str())?));
            let all: Option<Vec<_>> = members.iter().map(number).collect();
            return all.ok_or_else(|| foreign("its optimizer state is of other parameters".into()));
        }
        if numbers.len() != members.len() {
            return Err(foreign(format!(
                "its optimizer state is of {} parameters, not {}",
                numbers.len(),
                members.len()
            )));
        }
        let mut members = members;
        members.sort_unstable();
        Ok(members.into_iter().zip(numbers).collect())
    }

    /// Whether the state dict at `key` holds a tensor of any parameter.
    fn holds_tensors(checkpoint: &Checkpoint, key: &str) -> bool {
        let state = format!("{key}.state.");
        checkpoint.tensors.iter().any(|t| t.name.starts_with(&state))
    }

    /// Calls `take` with each member and its state tensor `name`, whose length is checked; PyTorch before 1.12 keeps the
    /// `step` as a plain number. A parameter that has none (it never had a gradient) is passed over; that none has any
    /// is an error.
    fn load(
        &self,
        checkpoint: &Checkpoint,
        key: &str,
        parameters: &Parameters,
        name: &str,
        mut take: impl FnMut(usize, Vec<f32>),
    ) -> Result<()> {
        let mut found = false;
        let members = self.numbers(checkpoint, key, parameters)?;
        let index: std::collections::HashMap<&str, usize> =
            checkpoint.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        for &(at, number) in &members {
            let values = match index.get(format!("{key}.state.{number}.{name}").as_str()) {
                Some(&tensor) => checkpoint.values(&checkpoint.tensors[tensor])?,
                None if name == "step" => match plain_step(checkpoint, key, number) {
                    Some(step) => vec![step as f32],
                    None => continue,
                },
                None => continue,
            };
            let wanted = if name == "step" { 1 } else { parameters.0[at].values.len() };
            if values.len() != wanted {
                return Err(Error::settings(format!(
                    "{}: optimizer state {number}.{name} has {} elements, and `{}` needs {wanted}",
                    checkpoint.path.display(),
                    values.len(),
                    parameters.0[at].name
                )));
            }
            take(at, values);
            found = true;
        }
        if found || members.is_empty() {
            return Ok(());
        }
        Err(Error::settings(format!(
            "{}: its optimizer state holds no {name}, so another optimizer saved it; resume without it (--reset-optimizer)",
            checkpoint.path.display()
        )))
    }
}

/// The `step` of parameter `number` in the state dict at `key`, where it is a plain number.
fn plain_step(checkpoint: &Checkpoint, key: &str, number: i64) -> Option<u64> {
    let Some(Value::Dict(state)) = checkpoint.meta(&format!("{key}.state")) else { return None };
    let of_parameter = state.get(&HashableValue::I64(number))?;
    ckpt_inspect::lookup(of_parameter, "step").and_then(as_u64)
}

/// Calls `f` with each member's weights, gradients, first state buffer, rates and index, in parallel over parts of them
/// too. Parts depend on lengths alone.
fn each_part(
    parameters: &mut Parameters,
    gradients: &Gradients,
    state: &mut [Vec<f32>],
    rates: &[Option<(f64, f64)>],
    f: impl Fn(&mut [f32], &[f32], &mut [f32], (f64, f64), (usize, usize)) + Sync,
) {
    let all = parameters.0.par_iter_mut().zip(gradients).zip(state).zip(rates).enumerate();
    all.for_each(|(at, (((parameter, gradient), state), rates))| {
        let Some(rates) = *rates else { return };
        let parts = parameter.values.par_chunks_mut(PART).zip(gradient.par_chunks(PART));
        parts.zip(state.par_chunks_mut(PART)).enumerate().for_each(|(part, ((w, g), s))| {
            f(w, g, s, rates, (at, part));
        });
    });
}

/// Zeros for the members, nothing for the others.
fn buffers(groups: &Groups, parameters: &Parameters) -> Vec<Vec<f32>> {
    let mut buffers = vec![Vec::new(); parameters.0.len()];
    groups.members().for_each(|i| buffers[i] = vec![0.0; parameters.0[i].values.len()]);
    buffers
}
