//! All tensors of a checkpoint, as the rules that compare them need them.

use std::cell::OnceCell;
use std::collections::HashMap;

use crate::meaning::role::{Role, families, is_end, is_field, sibling};
use crate::record::{CheckpointRecord, Stats, TensorRecord};
use crate::step::StepSource;
use crate::tensor::Group;

/// A checkpoint's tensors, by family.
pub(crate) struct Network<'r> {
    pub record: &'r CheckpointRecord,
    /// Indices of weights that differ only in the numbers in their names, families in the order of their first.
    pub families: Vec<Vec<usize>>,
    trained: OnceCell<Option<bool>>,
    modules: OnceCell<HashMap<String, Module>>,
    siblings: OnceCell<HashMap<String, Siblings>>,
    names: OnceCell<HashMap<String, usize>>,
    spreads: OnceCell<Vec<f64>>,
}

/// The same weight in the layers of a network.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Siblings {
    pub zero: usize,
    pub alive: usize,
    /// The least and the largest std of those that are alive.
    pub stds: Option<(f64, f64)>,
}

/// The matrices that a module holds, at any depth.
#[derive(Default)]
struct Module {
    all: usize,
    alive: usize,
    /// Those in children that have no number.
    named: usize,
    /// The highest number of a child.
    highest: u64,
    /// How many of its own parts are zero, by their shape.
    zeros: HashMap<Vec<u64>, usize>,
}

/// The other matrices of the module that a matrix is in.
pub(crate) struct Beside {
    /// Whether one of them is not zero.
    pub alive: bool,
    /// Whether one of them is zero too, and takes what the matrix gives or gives what it takes: neither will ever learn.
    pub deadlocked: bool,
    /// Whether the matrix is the last of them all, by its number or by what it is called.
    pub is_last: bool,
}

impl<'r> Network<'r> {
    pub fn of(record: &'r CheckpointRecord) -> Self {
        let mut all: Vec<Vec<usize>> = families(record.tensors.iter().map(|t| t.name.as_str()))
            .into_values()
            .map(|mut family| {
                family.retain(|&i| record.tensors[i].group == Group::Weights);
                family
            })
            .filter(|family| !family.is_empty())
            .collect();
        all.sort_by_key(|family| family[0]);
        Network {
            record,
            families: all,
            trained: OnceCell::new(),
            modules: OnceCell::new(),
            siblings: OnceCell::new(),
            names: OnceCell::new(),
            spreads: OnceCell::new(),
        }
    }

    pub fn tensor(&self, i: usize) -> &'r TensorRecord {
        &self.record.tensors[i]
    }

    fn weights(&self) -> impl Iterator<Item = (usize, &'r TensorRecord)> {
        self.record.tensors.iter().enumerate().filter(|(_, t)| t.group == Group::Weights)
    }

    fn matrices(&self) -> impl Iterator<Item = (usize, &'r TensorRecord)> {
        self.weights().filter(|(_, t)| t.role.is_matrix() && t.shape.len() >= 2 && t.stats.is_some())
    }

    /// The tensor of this name.
    pub fn named(&self, name: &str) -> Option<&'r TensorRecord> {
        let names = || self.record.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        self.names.get_or_init(names).get(name).map(|&i| self.tensor(i))
    }

    /// Whether the gains of its normalizations have moved from where they begin: each tensor at one value. `None` where it
    /// has none.
    pub fn gains_moved(&self) -> Option<bool> {
        let gains = || {
            let gains = self.weights().filter(|(_, t)| t.role == Role::NormGain);
            gains.filter_map(|(_, t)| t.stats.as_ref()).filter(|s| s.count > 1)
        };
        gains().next()?;
        Some(gains().any(|s| s.min != s.max))
    }

    /// Whether it has been trained, as far as that shows: by its step if that is 0, its gains, its step, what its optimizer
    /// keeps, its biases, the exact bounds of a uniform initialization.
    pub fn trained(&self) -> Option<bool> {
        *self.trained.get_or_init(|| {
            if self.is_at_step_0() {
                return Some(false);
            }
            self.gains_moved()
                .or_else(|| self.step().map(|_| true))
                .or_else(|| self.has_moments().then_some(true))
                .or_else(|| self.biases_at_start().then_some(false))
                .or_else(|| self.is_within_bounds().then_some(false))
        })
    }

    /// The step that the checkpoint itself tells.
    fn step(&self) -> Option<u64> {
        self.record.step.filter(|_| self.record.step_source != Some(StepSource::Name))
    }

    pub fn is_at_step_0(&self) -> bool {
        self.step() == Some(0)
    }

    fn has_moments(&self) -> bool {
        let moment = |t: &TensorRecord| t.role == Role::Moment && t.shape.iter().any(|&d| d > 1);
        let moved = |t: &TensorRecord| t.stats.as_ref().is_some_and(|s| s.abs_max > Some(0.0));
        self.record.tensors.iter().any(|t| moment(t) && moved(t))
    }

    /// Whether each of its biases is one value throughout.
    fn biases_at_start(&self) -> bool {
        let biases = || {
            let biases = self.weights().filter(|(_, t)| t.role == Role::Bias);
            biases.filter_map(|(_, t)| t.stats.as_ref()).filter(|s| s.count > 1)
        };
        biases().next().is_some() && biases().all(|s| s.min == s.max)
    }

    /// Whether its matrices are uniform within bounds, as PyTorch's layers begin: the first step of training leaves them.
    fn is_within_bounds(&self) -> bool {
        let large = || {
            let judged = |t: &TensorRecord| matches!(t.role, Role::Matrix | Role::Convolution | Role::Head);
            let matrices =
                self.matrices().filter(move |(_, t)| judged(t)).filter_map(|(_, t)| t.stats.as_ref());
            matrices.filter(|s| s.count >= 256 && s.min < s.max)
        };
        // The bound of a uniform distribution is 1.73 of its std.
        let uniform = |s: &Stats| {
            s.abs_max.zip(s.std).is_some_and(|(most, std)| (1.65 * std..1.8 * std).contains(&most))
        };
        large().count() >= 2 && large().all(uniform)
    }

    /// The same weight as tensor `i` in other layers, that one among them; `None` where its name has no number of a layer.
    pub fn siblings(&self, i: usize) -> Option<Siblings> {
        let key = sibling(&self.tensor(i).name)?;
        let siblings = self.siblings.get_or_init(|| {
            let mut siblings: HashMap<String, Siblings> = HashMap::new();
            for (_, tensor) in self.matrices() {
                let Some(key) = sibling(&tensor.name) else { continue };
                let known = siblings.entry(key).or_default();
                if is_zero(tensor) {
                    known.zero += 1;
                    continue;
                }
                known.alive += 1;
                let std = tensor.stats.as_ref().and_then(|s| s.std).unwrap_or_default();
                let (least, most) = known.stds.unwrap_or((std, std));
                known.stds = Some((least.min(std), most.max(std)));
            }
            siblings
        });
        siblings.get(&key).copied()
    }

    /// The other matrices of the nearest module around tensor `i` that has any; `None` where there is no other.
    pub fn beside(&self, i: usize) -> Option<Beside> {
        let modules = self.modules.get_or_init(|| {
            let mut modules: HashMap<String, Module> = HashMap::new();
            for (_, tensor) in self.matrices() {
                for module in around(&tensor.name) {
                    let known = modules.entry(module.to_string()).or_default();
                    known.all += 1;
                    known.alive += usize::from(!is_zero(tensor));
                    match number_in(module, &tensor.name) {
                        Some(number) => known.highest = known.highest.max(number),
                        None => {
                            known.named += 1;
                            if is_zero(tensor) && is_part(module, &tensor.name) {
                                *known.zeros.entry(tensor.shape.clone()).or_default() += 1;
                            }
                        }
                    }
                }
            }
            modules
        });
        let tensor = self.tensor(i);
        let several = |module: &str| Some((modules.get(module)?, number_in(module, &tensor.name)));
        let own_alive = usize::from(!is_zero(tensor));
        let own = |module: &Module| module.all > 1;
        // A list of matrices that are all zero says no more than one of them.
        let alive = |module: &Module| own(module) && (module.alive > own_alive || module.named > 0);
        let (nearest, _) = around(&tensor.name).filter_map(several).find(|(m, _)| own(m))?;
        let (module, _) = around(&tensor.name).filter_map(several).find(|(m, _)| alive(m))?;
        // Children of a sequence; layers that hold more than a matrix have numbers too.
        let number = around(&tensor.name).next().and_then(|module| number_in(module, &tensor.name));
        let highest = number.is_some_and(|number| nearest.named == 0 && number == nearest.highest);
        let reversed: Vec<u64> = tensor.shape.iter().rev().copied().collect();
        let itself = usize::from(reversed == tensor.shape && is_zero(tensor));
        Some(Beside {
            alive: module.alive > own_alive,
            deadlocked: nearest.zeros.get(&reversed).is_some_and(|&n| n > itself),
            is_last: highest || is_end(&tensor.name),
        })
    }

    /// Standard deviations that the configuration says weights begin with.
    pub fn begins_with(&self, std: f64) -> bool {
        let spreads = self.spreads.get_or_init(|| {
            let mut found = Vec::new();
            let root = serde_json::Value::Object(self.record.model.config.clone());
            let mut left = vec![(&root, false)];
            while let Some((value, named)) = left.pop() {
                match value {
                    serde_json::Value::Object(map) => {
                        left.extend(map.iter().map(|(key, value)| (value, key == "initializer_range")));
                    }
                    value if named => found.extend(value.as_f64()),
                    _ => {}
                }
            }
            found
        });
        spreads.iter().any(|spread| (0.9..1.1).contains(&(std / spread)))
    }
}

/// Whether all of it is zero.
pub(super) fn is_zero(tensor: &TensorRecord) -> bool {
    tensor.stats.as_ref().is_some_and(|s| s.count > 1 && s.min == Some(0.0) && s.max == Some(0.0))
}

/// The modules around the one that `name` is of, from the nearest; the last is the whole.
fn around(name: &str) -> impl Iterator<Item = &str> {
    let module = if is_field(name) { name.rsplit_once('.').map_or("", |(module, _)| module) } else { name };
    let mut rest = Some(module);
    std::iter::from_fn(move || {
        let (outer, _) = rest.take()?.rsplit_once('.').map_or(("", ""), |split| split);
        rest = (!outer.is_empty()).then_some(outer);
        Some(outer)
    })
}

/// The number that the child of `module` has in which `name` is, if it is a number.
fn number_in(module: &str, name: &str) -> Option<u64> {
    name.get(module.len()..)?.trim_start_matches('.').split('.').next()?.parse().ok()
}

/// Whether `name` is of a module directly in `module`.
fn is_part(module: &str, name: &str) -> bool {
    around(name).next() == Some(module)
}
