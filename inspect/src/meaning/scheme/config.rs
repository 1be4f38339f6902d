//! What configurations say of quantization, and what was made of it.

use std::collections::HashSet;

use crate::checkpoint::Checkpoint;
use crate::meaning::names::canonical_in;
use crate::meaning::wrappers::unwrapped;
use crate::meaning::{Given, Quantization, Rounding};
use crate::metadata::{HashableValue, Value, as_u64, lookup};
use crate::quantized::{Blocking, QuantFault};
use crate::{DType, Group, Notice, NoticeKind};

/// What the files beside a checkpoint say of its quantization.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    /// The method's name, in lower case.
    pub method: Option<String>,
    /// The objects that say more, the first one first.
    objects: Vec<Value>,
    /// What it says of a BitNet that is not known.
    unknown: Option<Rounding>,
    /// config.json, where it speaks of quantization.
    whole: Option<Value>,
}

/// The key by which ModelSlim's description of a model is known.
const MODELSLIM: &str = "model_quant_type";

/// Parts of parts of a model have configurations, and theirs hardly any.
const MAX_DEPTH: usize = 3;

/// Adds to `into` what `config`, a config.json or that of a part of the model, says of quantization, with its keys.
fn gather(config: &Value, depth: usize, into: &mut Vec<(&'static str, Value)>) {
    let own = Quantization::KEYS.iter().filter_map(|key| Some((*key, lookup(config, key)?.clone())));
    into.extend(own.filter(|(_, value)| matches!(value, Value::Dict(_))));
    let Value::Dict(all) = config else { return };
    for (key, value) in all.iter().filter(|_| depth < MAX_DEPTH) {
        if matches!(key, HashableValue::String(key) if Quantization::is_of_part(key)) {
            gather(value, depth + 1, into);
        }
    }
}

impl Config {
    /// Out of config.json and `other`, a file that only speaks of quantization.
    pub fn of(config: Option<&Value>, other: Option<&Value>) -> Self {
        let mut keyed = Vec::new();
        if let Some(config) = config {
            gather(config, 0, &mut keyed);
        }
        let is_mlx = keyed.iter().any(|(key, own)| *key == "quantization" && lookup(own, "bits").is_some());
        let mut objects: Vec<Value> = keyed.into_iter().map(|(_, own)| own).collect();
        // ModelOpt's own file has its settings under a key, that of GPTQ has not.
        objects.extend(other.map(|value| lookup(value, "quantization").unwrap_or(value).clone()));
        objects.retain(|value| matches!(value, Value::Dict(_)));
        let text = |key: &str| {
            objects.iter().find_map(|object| match lookup(object, key) {
                Some(Value::String(text)) => Some(text.to_ascii_lowercase()),
                _ => None,
            })
        };
        // MLX names no method, ModelOpt an algorithm.
        let nameless = || is_mlx.then(|| "mlx".to_string());
        let modelopt = || text("quant_algo").map(|_| "modelopt".to_string());
        let modelslim = || text(MODELSLIM).map(|_| "modelslim".to_string());
        let method = text("quant_method").or_else(modelopt).or_else(modelslim).or_else(nameless);
        let other = config.and_then(Quantization::of_config).and_then(|quantization| quantization.other);
        let unknown = other.filter(|other| matches!(other, Rounding::Unknown { .. }));
        let whole = config.filter(|_| !objects.is_empty()).cloned();
        Config { method, objects, unknown, whole }
    }

    /// The shape that the matrix called `name` has in the model that config.json describes, if the table of architectures
    /// has it.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let mut given = Given::of_hugging_face(self.whole.as_ref()?).ok()?;
        // Neither decides about a shape.
        given.norm_eps.get_or_insert(1e-6);
        given.max_seq_len.get_or_insert(1);
        let model = given.complete().ok()?;
        let part = model.architecture.role(&canonical_in(Some(model.architecture), &unwrapped(name)))?;
        let (_, row) = model.tensors().find(|(own, _)| *own == part)?;
        Some(row.shape_in(&model))
    }

    /// Whether the method is called `name`.
    pub fn is(&self, name: &str) -> bool {
        self.method.as_deref() == Some(name)
    }

    /// The first value at `path`.
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.objects.iter().find_map(|object| lookup(object, path)).filter(|v| !matches!(v, Value::None))
    }

    /// The first value of the key `name`, which may hold dots.
    pub fn own(&self, name: &str) -> Option<&Value> {
        let key = HashableValue::String(name.to_string());
        self.objects.iter().find_map(|object| match object {
            Value::Dict(all) => all.get(&key),
            _ => None,
        })
    }

    /// The size at `path`.
    pub fn size(&self, path: &str) -> Option<usize> {
        as_u64(self.get(path)?).and_then(|n| usize::try_from(n).ok())
    }

    /// The text at `path`.
    pub fn text(&self, path: &str) -> Option<&str> {
        match self.get(path)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The name of its scheme, if that is none of those that are read.
    pub fn unread(&self) -> Option<String> {
        self.method.as_deref().and_then(super::unread::named)
    }

    /// Whether something says that weights are quantized.
    pub fn is_given(&self) -> bool {
        self.method.is_some() || !self.objects.is_empty()
    }

    /// Whether single layers may be quantized otherwise than the whole, as GPTQModel and AutoRound have it.
    pub fn differs_by_layer(&self) -> bool {
        let keys = ["dynamic", "extra_config", "layer_config"];
        keys.iter().any(|key| {
            self.get(key).is_some_and(|value| !matches!(value, Value::Dict(all) if all.is_empty()))
        })
    }

    /// Whether it has entries for single layers, as MLX's has.
    pub fn lists_layers(&self) -> bool {
        let has_dict = |object: &Value| match object {
            Value::Dict(all) => all.values().any(|value| matches!(value, Value::Dict(_))),
            _ => false,
        };
        self.objects.iter().any(has_dict)
    }

    /// What compressed-tensors says of weights, one or several where layers differ.
    fn groups(&self) -> impl Iterator<Item = &Value> {
        let groups = match self.get("config_groups") {
            Some(Value::Dict(groups)) => Some(groups.values()),
            _ => None,
        };
        let weights = groups.into_iter().flatten().filter_map(|group| lookup(group, "weights"));
        weights.filter(|weights| matches!(weights, Value::Dict(_)))
    }

    /// The bits of weights, one or several where layers differ: those that compressed-tensors has in its groups.
    pub fn group_bits(&self) -> Vec<usize> {
        let bits = |weights| as_u64(lookup(weights, "num_bits")?).and_then(|n| usize::try_from(n).ok());
        let mut all: Vec<usize> = self.groups().filter_map(bits).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether all groups whose codes have `bits` bits and are whole numbers say what `is` asks of them.
    fn all_say(&self, bits: usize, is: impl Fn(&Value) -> bool) -> bool {
        let is_float =
            |weights: &Value| matches!(lookup(weights, "type"), Some(Value::String(t)) if t == "float");
        let has = |weights: &Value| lookup(weights, "num_bits").and_then(as_u64) == Some(bits as u64);
        let mut alike = self.groups().filter(|weights| has(weights) && !is_float(weights)).peekable();
        self.is("compressed-tensors") && alike.peek().is_some() && alike.all(is)
    }

    /// Whether compressed-tensors has zero points of codes of `bits` bits.
    pub fn has_zero_points(&self, bits: usize) -> bool {
        self.all_say(bits, |weights| matches!(lookup(weights, "symmetric"), Some(Value::Bool(false))))
    }

    /// Whether compressed-tensors has an index of the groups of codes of `bits` bits: it ordered columns by activations
    /// (its `ActivationOrdering`).
    pub fn has_index(&self, bits: usize) -> bool {
        self.all_say(bits, |weights| match lookup(weights, "actorder") {
            Some(Value::String(order)) => matches!(order.to_ascii_lowercase().as_str(), "group" | "dynamic"),
            Some(Value::Bool(orders)) => *orders,
            _ => false,
        })
    }

    /// Which elements share a scale, where it says that: one way, or several where layers differ.
    pub fn blockings(&self) -> Vec<Blocking> {
        if let Some(block) = self.get("weight_block_size").and_then(block) {
            return vec![block];
        }
        if !self.is("compressed-tensors") {
            return Vec::new();
        }
        self.groups().map(blocking).collect::<Option<_>>().unwrap_or_default()
    }
}

/// The rows and columns of a block in a list of two sizes.
fn block(sizes: &Value) -> Option<Blocking> {
    let Value::List(sizes) = sizes else { return None };
    let size = |value| as_u64(value).and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0);
    match sizes.as_slice() {
        [rows, cols] => Some(Blocking::Block(size(rows)?, size(cols)?)),
        _ => None,
    }
}

/// Which elements share a scale by the `weights` of a group of compressed-tensors (its `QuantizationArgs`).
fn blocking(weights: &Value) -> Option<Blocking> {
    let group = match lookup(weights, "group_size") {
        None | Some(Value::None) => None,
        Some(value) => Some(crate::metadata::as_f64(value)?),
    };
    let grouped = || match group {
        Some(size) if size >= 1.0 && size <= f64::from(u32::MAX) => Some(Blocking::Group(size as u32)),
        _ => None,
    };
    match lookup(weights, "strategy") {
        Some(Value::String(name)) => match name.as_str() {
            "tensor" => Some(Blocking::Tensor),
            "channel" => Some(Blocking::Channel),
            "group" | "tensor_group" => grouped(),
            "block" => lookup(weights, "block_structure").and_then(block),
            _ => None,
        },
        None | Some(Value::None) => match group {
            None => Some(Blocking::Tensor),
            Some(-1.0) => Some(Blocking::Channel),
            Some(_) => grouped(),
        },
        Some(_) => None,
    }
}

/// How the weights of a checkpoint are quantized, and what is wrong with that.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Coding {
    /// The method that its configuration names.
    pub method: Option<String>,
    /// The scheme of its codes where that is known by name and not read.
    pub unread: Option<String>,
    /// Stored tensors that should be a quantized weight or a part of one, and why they are none.
    pub faults: Vec<(String, QuantFault)>,
    /// Matrices that are not quantized, where others are.
    pub left: Vec<String>,
    /// Quantized weights whose tensors are listed as they are stored, as it was asked for.
    pub stored: usize,
}

impl Coding {
    pub(super) fn of(config: &Config) -> Self {
        let named = config.unread();
        let unknown = |other: &Rounding| format!("a BitNet that {other}");
        let unread = named.or_else(|| config.unknown.as_ref().map(unknown));
        Coding { method: config.method.clone(), unread, ..Coding::default() }
    }

    /// The schemes that are not read, of each weight that is quantized by one.
    pub(crate) fn unread_faults(&self) -> impl Iterator<Item = &str> {
        self.faults.iter().filter_map(|(_, fault)| match fault {
            QuantFault::Unread { scheme } => Some(scheme.as_str()),
            _ => None,
        })
    }

    /// Why its codes must not be taken for weights; `None` where all of them are read.
    pub fn refusal(&self) -> Option<String> {
        if let Some(name) = &self.unread {
            return Some(format!(
                "its weights are quantized by {}, which is not read: codes are not weights",
                name.escape_debug()
            ));
        }
        if self.stored > 0 {
            return Some(
                "its quantized weights were opened as they are stored: codes are not weights".into(),
            );
        }
        let (name, fault) = self.faults.first()?;
        let more = match self.faults.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more tensors are like this"),
        };
        Some(format!("{}: {fault}{more}", name.escape_debug()))
    }

    /// Finds what is not quantized in `checkpoint`, and says what is not read.
    pub(super) fn describe(&mut self, checkpoint: &mut Checkpoint) {
        let tensors = &checkpoint.tensors;
        if tensors.iter().any(|t| matches!(t.dtype, DType::Quantized(_))) {
            let roles = crate::meaning::role::roles(tensors);
            let faulty: HashSet<&str> = self.faults.iter().map(|(name, _)| name.as_str()).collect();
            let matrices = tensors.iter().zip(roles).filter(|(t, role)| {
                let dims = t.shape.iter().filter(|&&d| d > 1).count();
                let is_float = t.dtype.is_float() && !faulty.contains(t.name.as_str());
                t.group == Group::Weights && is_float && role.is_matrix() && dims > 1
            });
            self.left = matrices.map(|(t, _)| t.name.clone()).collect();
        }
        let quantized = match (&self.unread, self.unread_faults().next()) {
            (Some(name), _) => format!("quantized by {}", name.escape_debug()),
            (None, Some(first)) => {
                let count = self.unread_faults().filter(|scheme| *scheme == first).count();
                let weights = if count == 1 { "1 weight is" } else { &format!("{count} weights are") };
                format!("{weights} quantized by {}", first.escape_debug())
            }
            (None, None) => return,
        };
        let text = format!(
            "{quantized}, which is not read: its tensors are shown as they are stored, and codes are not judged"
        );
        checkpoint.warnings.push(Notice::new(NoticeKind::NotShown, text));
    }
}
