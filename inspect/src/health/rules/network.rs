//! All tensors of a checkpoint, as the rules that compare them need them.

use std::cell::OnceCell;
use std::collections::HashMap;

use crate::health::measures::TAILS;
use crate::meaning::config_json::recorded_model_type;
use crate::meaning::role::{Role, families, is_end, is_field, is_weight_normed, sibling};
use crate::record::{CheckpointRecord, Stats, TensorRecord};
use crate::step::StepSource;
use crate::tensor::Group;
use crate::verdict::relative_std;
use crate::{DType, Format};

/// Fewer biases say nothing of the bounds that they were drawn between.
const FEW_BIASES: u64 = 16;
/// Fewer biases that are single numbers are no evidence.
const FEW_NUMBERS: usize = 8;
/// Some networks begin with biases that are zero but for a spread of 1e-6.
const LEAST_BIAS: f64 = 1e-5;

/// Words of the model types and architectures whose normalizations multiply by 1 and their gains, as transformers' classes
/// of these names do.
const ADD_ONE: [&str; 10] = [
    "gemma",
    "qwen3_next",
    "qwen3next",
    "qwen3_5",
    "qwen4_exp",
    "step3p7",
    "videoprism",
    "minimax_m3",
    "muse_glimmer",
    "muse_spark",
];
/// Those of these names that do not.
const MULTIPLY_PLAINLY: [&str; 2] = ["gemma3n", "gemma4"];
/// A model type that does, of many that are called after it and do not.
const ADDS_ONE: &str = "nemotron";
/// A running variance below this is that of a channel that gives nothing: of normal ones PyTorch adds 1e-5.
const FADED: f64 = 1e-8;

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
    normalizes: OnceCell<bool>,
    normalizes_inputs: OnceCell<bool>,
    normalizes_otherwise: OnceCell<bool>,
    usual: OnceCell<Option<(f64, f64)>>,
    outer: OnceCell<(Option<usize>, Option<usize>)>,
    as_drawn: OnceCell<bool>,
    least: OnceCell<HashMap<String, (f64, f64)>>,
    ends: OnceCell<HashMap<String, (usize, f64, f64)>>,
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
            normalizes: OnceCell::new(),
            normalizes_inputs: OnceCell::new(),
            normalizes_otherwise: OnceCell::new(),
            usual: OnceCell::new(),
            outer: OnceCell::new(),
            as_drawn: OnceCell::new(),
            least: OnceCell::new(),
            ends: OnceCell::new(),
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

    /// Whether it has been trained, as far as that shows. Gains that stay where they begin say less than a step, or what an
    /// optimizer keeps, or biases that moved: norms may be frozen, and near 1 bf16 rounds small steps away.
    pub fn trained(&self) -> Option<bool> {
        *self.trained.get_or_init(|| {
            if self.is_at_step_0() {
                return Some(false);
            }
            let norms_moved = self.gains_moved() == Some(true) || self.biases_of_norms_moved();
            if self.step().is_some() || self.has_moments() || norms_moved {
                return Some(true);
            }
            if self.biases_moved() || (self.gains_stay_in_narrow_types() && self.has_tails()) {
                return None;
            }
            let fresh = self.gains_moved() == Some(false)
                || self.biases_at_start()
                || self.biases_as_begun()
                || self.is_within_bounds();
            fresh.then_some(false)
        })
    }

    /// Whether it has gains that have not moved, none of them of a type in which every step of training shows.
    fn gains_stay_in_narrow_types(&self) -> bool {
        let mut gains = self.weights().filter(|(_, t)| t.role == Role::NormGain);
        self.gains_moved() == Some(false) && gains.all(|(_, t)| matches!(t.dtype, DType::BF16 | DType::F16))
    }

    /// Whether most biases of normalizations have left the one value that they begin at.
    fn biases_of_norms_moved(&self) -> bool {
        let (mut all, mut moved) = (0, 0);
        for (_, bias) in self.weights().filter(|(_, t)| t.role == Role::Bias && t.shape.len() == 1) {
            let Some(stats) = bias.stats.as_ref().filter(|s| s.count > 1) else { continue };
            let module = bias.name.strip_suffix("bias").unwrap_or("");
            let gain = self.named(&format!("{module}weight")).filter(|w| w.role == Role::NormGain);
            if gain.is_some() {
                all += 1;
                moved += usize::from(stats.min != stats.max);
            }
        }
        2 * moved > all
    }

    /// Whether most biases of matrices and convolutions are neither where they begin nor drawn as PyTorch draws them:
    /// uniformly, up to 1 / sqrt(fan_in).
    fn biases_moved(&self) -> bool {
        let (mut all, mut moved) = (0, 0);
        for (_, bias) in self.weights().filter(|(_, t)| t.role == Role::Bias && t.shape.len() == 1) {
            let Some(stats) = bias.stats.as_ref().filter(|s| s.count >= FEW_BIASES) else { continue };
            let module = bias.name.strip_suffix("bias").unwrap_or("");
            let weight = self.named(&format!("{module}weight")).filter(|w| w.shape.len() >= 2);
            let (Some(weight), Some(most)) = (weight, stats.abs_max) else { continue };
            let fan_in: u64 = weight.shape[1..].iter().product();
            let bound = 1.0 / (fan_in as f64).sqrt();
            let drawn = (0.75 * bound..=1.01 * bound).contains(&most);
            all += 1;
            moved += usize::from(stats.min != stats.max && most >= LEAST_BIAS && !drawn);
        }
        all > 0 && 4 * moved >= 3 * all
    }

    /// Whether most of its matrices have more values far out than any that were drawn: normally, uniformly, or cut off.
    fn has_tails(&self) -> bool {
        let plain = |t: &TensorRecord| matches!(t.role, Role::Matrix | Role::Convolution | Role::Head);
        let (mut all, mut tailed) = (0, 0);
        for stats in self.matrices().filter(|(_, t)| plain(t)).filter_map(|(_, t)| t.stats.as_ref()) {
            let Some(tails) = stats.computed.get(TAILS) else { continue };
            // Six times what a sample of that size strays by.
            let chance = 6.0 * (24.0 / stats.count as f64).sqrt();
            all += 1;
            tailed += usize::from(tails > chance + 0.01);
        }
        2 * tailed > all
    }

    /// The step that the checkpoint itself tells.
    fn step(&self) -> Option<u64> {
        self.record.step.filter(|_| self.record.step_source != Some(StepSource::Name))
    }

    /// Steps that were taken, as the checkpoint itself or an optimizer in it counted them.
    pub fn steps(&self) -> Option<u64> {
        self.step().or_else(|| self.record.training.as_ref()?.optimizer_steps)
    }

    pub fn is_at_step_0(&self) -> bool {
        self.step() == Some(0)
    }

    fn has_moments(&self) -> bool {
        let moment = |t: &TensorRecord| t.role == Role::Moment && t.shape.iter().any(|&d| d > 1);
        let moved = |t: &TensorRecord| t.stats.as_ref().is_some_and(|s| s.abs_max > Some(0.0));
        self.record.tensors.iter().any(|t| moment(t) && moved(t))
    }

    /// Whether each of its biases is one value throughout, those of matrices that are zero left out: both may be lost.
    fn biases_at_start(&self) -> bool {
        let is_lost = |bias: &TensorRecord| {
            let (module, own) = bias.name.rsplit_once('.').unwrap_or(("", &bias.name));
            let weight = self.named(&format!("{module}.{}", own.replacen("bias", "weight", 1)));
            weight.is_some_and(|weight| weight.role.is_matrix() && is_zero(weight)) && is_zero(bias)
        };
        let biases = || {
            let biases = self.weights().filter(|(_, t)| t.role == Role::Bias && !is_lost(t));
            biases.filter_map(|(_, t)| t.stats.as_ref()).filter(|s| s.count > 1)
        };
        // Fixup adds single numbers to whole activations, which the first step moves.
        let called = |name: &str| name.rsplit('.').next().is_some_and(|own| own.starts_with("bias"));
        let numbers = self.weights().filter(|(_, t)| called(&t.name)).filter_map(|(_, t)| t.stats.as_ref());
        let numbers: Vec<_> = numbers.filter(|s| s.count == 1).collect();
        let all_zero = numbers.len() >= FEW_NUMBERS && numbers.iter().all(|s| s.zeros == 1);
        (biases().next().is_some() || all_zero) && biases().all(|s| s.min == s.max)
    }

    /// Whether each of its biases is one value throughout or reaches the bounds that PyTorch draws it between and is not
    /// beyond, several of both kinds: steps of training would have moved the former apart and some of the latter out.
    fn biases_as_begun(&self) -> bool {
        let (mut plain, mut drawn) = (0, 0);
        for (_, bias) in self.weights().filter(|(_, t)| t.role == Role::Bias && t.shape.len() == 1) {
            let Some(stats) = bias.stats.as_ref().filter(|s| s.count > 1) else { continue };
            let weight =
                bias.name.strip_suffix("bias").and_then(|module| self.named(&format!("{module}weight")));
            if stats.min == stats.max {
                plain += usize::from(!weight.is_some_and(is_zero));
                continue;
            }
            let Some((weight, rounding)) = weight.filter(|w| w.shape.len() >= 2).zip(rounding(bias.dtype))
            else {
                return false;
            };
            if !reaches_bound(stats, weight, rounding) {
                return false;
            }
            drawn += usize::from(stats.count >= FEW_BIASES);
        }
        plain >= 2 && drawn >= 1
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

    /// Whether its matrices, and their biases, reach the bounds that PyTorch draws them between, up to 1 / sqrt(fan_in), and
    /// none is beyond: steps of training move some that are close to them out.
    pub fn is_as_drawn(&self) -> bool {
        *self.as_drawn.get_or_init(|| self.reaches_bounds())
    }

    fn reaches_bounds(&self) -> bool {
        let (mut all, mut drawn) = (0, true);
        let judged = |t: &TensorRecord| matches!(t.role, Role::Matrix | Role::Convolution | Role::Head);
        for (_, matrix) in self.matrices().filter(|(_, t)| judged(t)) {
            let Some(rounding) = rounding(matrix.dtype) else { continue };
            let module = matrix.name.strip_suffix("weight").unwrap_or("");
            let bias = self.named(&format!("{module}bias"));
            let both = [Some(matrix), bias].into_iter().flatten().filter(|t| !t.is_pattern());
            let both = both.filter_map(|t| t.stats.as_ref()).filter(|s| s.min < s.max);
            for stats in both {
                if stats.abs_max.is_none() || stats.std.is_none() {
                    continue;
                }
                drawn &= reaches_bound(stats, matrix, rounding);
                all += stats.count;
            }
        }
        drawn && all >= 256
    }

    /// The bias of the module that `matrix` is of.
    pub fn bias_of(&self, matrix: &TensorRecord) -> Option<&'r TensorRecord> {
        let module = matrix.name.strip_suffix("weight").unwrap_or("");
        self.named(&format!("{module}bias"))
    }

    /// Whether beside `matrix` stands a bias as PyTorch's layers draw theirs, which they do together with the matrix.
    pub fn has_drawn_bias(&self, matrix: &TensorRecord) -> bool {
        let bias = self.bias_of(matrix).filter(|t| !t.is_pattern() && t.shape.len() == 1);
        let stats = bias.and_then(|t| t.stats.as_ref()).filter(|s| s.count > 1 && s.min < s.max);
        let rounding = bias.and_then(|t| rounding(t.dtype));
        stats.zip(rounding).is_some_and(|(stats, rounding)| reaches_bound(stats, matrix, rounding))
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

    /// Whether tensor `i` is of one size with all that are called like it by its module and field, up to a factor: three or
    /// more, or it is the last one.
    pub fn end_alike(&self, i: usize, factor: f64) -> bool {
        let ends = self.ends.get_or_init(|| {
            let mut ends: HashMap<String, (usize, f64, f64)> = HashMap::new();
            for (_, tensor) in self.matrices() {
                let Some(std) = tensor.stats.as_ref().and_then(|stats| stats.std) else { continue };
                let known = ends.entry(end(&tensor.name).to_string()).or_insert((0, std, std));
                *known = (known.0 + 1, known.1.min(std), known.2.max(std));
            }
            ends
        });
        let alike = ends.get(end(&self.tensor(i).name));
        alike.is_some_and(|(count, least, most)| {
            (*count >= 3 || is_end(&self.tensor(i).name)) && *most < factor * least
        })
    }

    /// The least std of the other matrices of the nearest module around tensor `i` that has any.
    pub fn least_beside(&self, i: usize) -> Option<f64> {
        let least = self.least.get_or_init(|| {
            let mut least: HashMap<String, (f64, f64)> = HashMap::new();
            for (_, tensor) in self.matrices() {
                let Some(std) = tensor.stats.as_ref().and_then(|stats| stats.std) else { continue };
                for module in around(&tensor.name) {
                    let (first, second) =
                        least.entry(module.to_string()).or_insert((f64::INFINITY, f64::INFINITY));
                    (*first, *second) = (first.min(std), second.min(first.max(std)));
                }
            }
            least
        });
        let own = self.tensor(i).stats.as_ref()?.std?;
        let several = |module: &str| least.get(module).filter(|(_, second)| second.is_finite()).copied();
        let (first, second) = around(&self.tensor(i).name).find_map(several)?;
        Some(if own <= first { second } else { first })
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

    /// Whether it normalizes what it computes from one input alone, and no matrix by its own size.
    pub fn normalizes(&self) -> bool {
        *self.normalizes.get_or_init(|| {
            let gains = self.weights().filter(|(_, t)| t.role == Role::NormGain).count();
            gains >= 2 && !self.normalizes_otherwise()
        })
    }

    /// Whether it normalizes what it computes from one input alone, whatever single matrices are divided by.
    pub fn normalizes_inputs(&self) -> bool {
        *self.normalizes_inputs.get_or_init(|| {
            let gains = self.weights().filter(|(_, t)| t.role == Role::NormGain).count();
            gains >= 2 && !self.weights().any(|(_, t)| t.role == Role::RunningVariance)
        })
    }

    /// The medians of std, and of std * sqrt(fan_in), of its matrices that activations pass through; `None` of fewer than three.
    pub fn usual(&self) -> Option<(f64, f64)> {
        *self.usual.get_or_init(|| {
            let judged = |t: &TensorRecord| matches!(t.role, Role::Matrix | Role::Convolution | Role::Head);
            let all = self.matrices().filter(|(_, t)| judged(t) && !is_zero(t));
            let (mut stds, mut relative): (Vec<f64>, Vec<f64>) =
                all.filter_map(|(_, t)| Some((t.stats.as_ref()?.std?, relative_std(t)?))).unzip();
            stds.sort_by(f64::total_cmp);
            relative.sort_by(f64::total_cmp);
            (stds.len() >= 3).then(|| (stds[stds.len() / 2], relative[relative.len() / 2]))
        })
    }

    /// Whether tensor `i` is the first or the last of its matrices, tables of tokens included.
    pub fn is_at_an_end(&self, i: usize) -> bool {
        let (first, last) = self.outer.get_or_init(|| {
            let mut all = self.matrices().map(|(at, _)| at);
            (all.next(), all.last())
        });
        [*first, *last].contains(&Some(i))
    }

    /// Whether any of it is normalized by what was seen of its inputs, or by its own size.
    pub fn normalizes_otherwise(&self) -> bool {
        let other = |t: &TensorRecord| t.role == Role::RunningVariance || is_weight_normed(&t.name);
        *self.normalizes_otherwise.get_or_init(|| self.weights().any(|(_, t)| other(t)))
    }

    /// Whether its normalizations multiply by 1 and their gains, so that zero is where these begin.
    pub fn adds_one(&self) -> bool {
        let model = &self.record.model;
        let kind = recorded_model_type(&model.config).unwrap_or("");
        let named = |word: &str| kind.contains(word) || model.architecture.to_lowercase().contains(word);
        // Writers of GGUF files add it.
        !matches!(self.record.format, Format::Gguf { .. })
            && (kind == ADDS_ONE || ADD_ONE.into_iter().any(named))
            && !MULTIPLY_PLAINLY.into_iter().any(named)
    }

    /// Whether channels of convolution `i` have died while it was trained: the running variance behind it, of as many
    /// channels, has faded where these give nothing. What is lost of a file later leaves the variance as it was.
    pub fn has_faded_channels(&self, i: usize) -> bool {
        let tensor = self.tensor(i);
        let Some(nearest) = self.variances_of(tensor).map(|t| shared(t, tensor)).max() else { return false };
        let faded = |t: &TensorRecord| t.stats.as_ref().and_then(|s| s.min).is_some_and(|min| min < FADED);
        self.variances_of(tensor).any(|t| shared(t, tensor) == nearest && faded(t))
    }

    /// Whether a running variance of as many channels stands in the same module as convolution `i`.
    pub fn is_normalized(&self, i: usize) -> bool {
        let tensor = self.tensor(i);
        self.variances_of(tensor).any(|t| shared(t, tensor) > 0)
    }

    /// Running variances of as many channels as `tensor` gives.
    fn variances_of(&self, tensor: &'r TensorRecord) -> impl Iterator<Item = &'r TensorRecord> {
        let all = self.weights().map(|(_, t)| t).filter(|t| t.role == Role::RunningVariance);
        all.filter(|t| tensor.shape.first() == Some(&t.shape.iter().product()))
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

/// Whether `stats`, of `matrix` or of its bias, are of what was drawn uniformly up to 1 / sqrt(fan_in).
fn reaches_bound(stats: &Stats, matrix: &TensorRecord, rounding: f64) -> bool {
    let (Some(most), Some(std)) = (stats.abs_max, stats.std) else { return false };
    let bound = 1.0 / (matrix.shape[1..].iter().product::<u64>() as f64).sqrt();
    let n = stats.count as f64;
    // The largest of so many is short of the bound by some n-ths of it.
    let reaches = most <= bound * (1.0 + rounding) && most >= bound * (1.0 - 12.0 / n);
    let spread = std * 3f64.sqrt() / bound;
    reaches && (spread - 1.0).abs() <= 4.0 / n.sqrt()
}

/// By how much a value grows at most when it is rounded to this type, where a bound still shows.
fn rounding(dtype: DType) -> Option<f64> {
    match dtype {
        DType::F32 => Some(1e-6),
        DType::F16 => Some(f64::powi(2.0, -11)),
        DType::BF16 => Some(f64::powi(2.0, -8)),
        _ => None,
    }
}

/// The module and the field that `name` ends with.
fn end(name: &str) -> &str {
    name.rmatch_indices('.').nth(1).map_or(name, |(at, _)| &name[at..])
}

/// Parts of names that two tensors begin with alike.
fn shared(one: &TensorRecord, other: &TensorRecord) -> usize {
    one.name.split('.').zip(other.name.split('.')).take_while(|(a, b)| a == b).count()
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
