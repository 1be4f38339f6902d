//! What configurations say of quantization, and what was made of it.

use crate::checkpoint::Checkpoint;
use crate::meaning::{Quantization, Rounding};
use crate::metadata::{Value, as_u64, lookup};
use crate::quantized::QuantFault;
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
}

/// The keys of config.json that hold such an object.
const KEYS: [&str; 3] = ["quantization_config", "compression_config", "quantization"];

impl Config {
    /// Out of config.json and `other`, a file that only speaks of quantization.
    pub fn of(config: Option<&Value>, other: Option<&Value>) -> Self {
        let inside = |value: &'_ Value| KEYS.iter().filter_map(|key| lookup(value, key).cloned()).collect();
        let mut objects: Vec<Value> = config.map(inside).unwrap_or_default();
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
        let nameless = || {
            let mlx = config.and_then(|config| lookup(config, "quantization"));
            mlx.filter(|mlx| lookup(mlx, "bits").is_some()).map(|_| "mlx".to_string())
        };
        let modelopt = || text("quant_algo").map(|_| "modelopt".to_string());
        let method = text("quant_method").or_else(modelopt).or_else(nameless);
        let other = config.and_then(Quantization::of_config).and_then(|quantization| quantization.other);
        let unknown = other.filter(|other| matches!(other, Rounding::Unknown { .. }));
        Config { method, objects, unknown }
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
        let key = crate::metadata::HashableValue::String(name.to_string());
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

    /// The bits of weights, one or several where layers differ: those that compressed-tensors has in its groups.
    pub fn group_bits(&self) -> Vec<usize> {
        let Some(Value::Dict(groups)) = self.get("config_groups") else { return Vec::new() };
        let bits = |group| as_u64(lookup(group, "weights.num_bits")?).and_then(|n| usize::try_from(n).ok());
        let mut all: Vec<usize> = groups.values().filter_map(bits).collect();
        all.sort_unstable();
        all.dedup();
        all
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
        let named = config.method.as_deref().and_then(super::unread::named).map(str::to_string);
        let unknown = |other: &Rounding| format!("a BitNet that {other}");
        let unread = named.or_else(|| config.unknown.as_ref().map(unknown));
        Coding { method: config.method.clone(), unread, ..Coding::default() }
    }

    /// Why its codes must not be taken for weights; `None` where all of them are read.
    pub fn refusal(&self) -> Option<String> {
        if let Some(name) = &self.unread {
            return Some(format!(
                "its weights are quantized by {}, which is not read: codes are no weights",
                name.escape_debug()
            ));
        }
        if self.stored > 0 {
            return Some("its quantized weights were opened as they are stored: codes are no weights".into());
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
            let matrices = tensors.iter().zip(roles).filter(|(t, role)| {
                let dims = t.shape.iter().filter(|&&d| d > 1).count();
                t.group == Group::Weights && t.dtype.is_float() && role.is_matrix() && dims > 1
            });
            self.left = matrices.map(|(t, _)| t.name.clone()).collect();
        }
        if let Some(name) = &self.unread {
            let text = format!(
                "quantized by {}, which is not read: its tensors are shown as they are stored, and codes are not judged",
                name.escape_debug()
            );
            checkpoint.warnings.push(Notice::new(NoticeKind::NotShown, text));
        }
    }
}
