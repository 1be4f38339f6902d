//! What is known of the modules that an adapter changes: how their weights are stored, whether its configuration means them, and
//! whether the head among them is the embedding.

use std::collections::HashSet;

use ckpt_inspect::meaning::architecture::Role;
use ckpt_inspect::meaning::model_type;
use ckpt_inspect::metadata::Value;
use ckpt_inspect::{Checkpoint, Format, Group, TensorInfo};
use regex::Regex;
use serde_json::{Map, Value as Json};

use super::adapter::{Adapter, LowRank};
use super::targets::{role, shared};
use crate::Result;

/// `model_type` of the classes of transformers whose layers are Conv1D, which holds its weight as [in, out]. PEFT goes by the module,
/// whatever `fan_in_fan_out` says (`dispatch_default` in its `tuners/lora/layer.py`).
const CONV1D: [&str; 6] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder"];
/// What these layers are called there.
const LAYERS: [&str; 4] = ["c_attn", "q_attn", "c_fc", "c_proj"];

/// Whether the weight of `module` is stored as [in, out] in `base`; `None` where nothing tells.
pub(super) fn is_conv1d(base: &Checkpoint, module: &str) -> Option<bool> {
    if matches!(base.format, Format::Gguf { .. }) {
        return Some(false);
    }
    let last = module.rsplit('.').next().unwrap_or(module);
    let is_layer = LAYERS.contains(&last);
    if let Some(config) = &base.model.config
        && let Some(kind) = model_type(config)
    {
        let has_such = |kind: &str| CONV1D.contains(&kind);
        return Some(is_layer && (has_such(kind) || has_parts(config, &has_such)));
    }
    // Attention's three matrices in one: their outputs are three times their inputs.
    let mut fused = base.tensors.iter().filter(|t| t.name.ends_with(".c_attn.weight"));
    let turned = fused.next().map(|t| matches!(t.shape[..], [rows, columns] if columns == 3 * rows))?;
    Some(is_layer && turned)
}

/// Whether a model within the model of `config` is of such a kind.
fn has_parts(config: &Value, is_such: &dyn Fn(&str) -> bool) -> bool {
    let Value::Dict(entries) = config else { return false };
    entries.values().any(|part| model_type(part).is_some_and(is_such))
}

/// The kind of model whose class `config` names, the configuration of an adapter: `qwen2` of `transformers.models.qwen2.modeling_qwen2`.
pub(super) fn made_for(config: &Map<String, Json>) -> Option<String> {
    let library = config.get("auto_mapping")?.get("parent_library")?.as_str()?;
    let kind = library.strip_prefix("transformers.models.")?.split('.').next()?;
    (!kind.is_empty()).then(|| kind.to_string())
}

/// What the configuration of `base` calls its kind of model.
pub(super) fn kind(base: &Checkpoint) -> Option<String> {
    let kind = model_type(base.model.config.as_ref()?)?;
    (!matches!(base.format, Format::Gguf { .. })).then(|| kind.to_string())
}

/// Whether a `model_type` is of the module of transformers called `module`, which may have several, such as `gemma3_text`.
pub(super) fn is_of_kind(model_type: &str, module: &str) -> bool {
    let bare = |name: &str| name.replace(['-', '_'], "");
    let (own, module) = (bare(model_type), bare(module));
    own.starts_with(&module) || module.starts_with(&own)
}

/// The path of the layers in one of which `module` is.
fn layers(module: &str) -> Option<String> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = module.split('.').collect();
    let at = parts.iter().position(|part| is_number(part))?;
    Some(parts[..at].join("."))
}

/// The layer that `module` is in, with its number, and the last part of its name.
fn in_layer(module: &str) -> Option<(String, String)> {
    let stack = layers(module)?;
    let number = module[stack.len()..].trim_start_matches('.').split('.').next()?;
    Some((format!("{stack}.{number}"), module.rsplit('.').next()?.to_string()))
}

/// The modules that a configuration means by `target_modules` and `target_parameters`, as `check_target_module_exists` in PEFT's
/// `tuners/tuners_utils.py` finds them.
#[derive(Debug, Default)]
pub(crate) struct Meant {
    /// Names, or ends of names after a dot.
    names: Vec<String>,
    /// An expression for whole names.
    pattern: Option<Regex>,
    /// Whether nothing is known of them.
    any: bool,
    /// Whether it leaves out modules or layers.
    leaves_out: bool,
}

impl Meant {
    /// Those of `config`. An expression of a kind that only Python has means any.
    pub fn of(config: &Map<String, Json>) -> Self {
        let texts = |key: &str| -> Vec<String> {
            let listed = config.get(key).and_then(Json::as_array);
            listed.into_iter().flatten().filter_map(Json::as_str).map(str::to_string).collect()
        };
        let mut meant = Meant { names: texts("target_modules"), ..Meant::default() };
        match config.get("target_modules") {
            Some(Json::String(pattern)) if pattern != "all-linear" => {
                match Regex::new(&format!("^(?:{pattern})$")) {
                    Ok(pattern) => meant.pattern = Some(pattern),
                    Err(_) => meant.any = true,
                }
            }
            Some(Json::Array(_)) => {}
            _ => meant.any = true,
        }
        let is_set = |key: &str| !matches!(config.get(key), None | Some(Json::Null));
        meant.leaves_out = ["exclude_modules", "layers_to_transform"].iter().any(|key| is_set(key));
        let weights = texts("target_parameters");
        meant
            .names
            .extend(weights.iter().filter_map(|name| name.strip_suffix(".weight")).map(str::to_string));
        meant
    }

    /// The modules of `base` that are meant and none of `changed`, the modules of an adapter, though these are in the same layers, as
    /// many as there may be. A model may have been loaded without its other parts, and experts as one.
    pub fn lacking<'m>(&self, base: &Checkpoint, changed: impl Iterator<Item = &'m String>) -> Vec<String> {
        if self.leaves_out || self.any {
            return Vec::new();
        }
        let canonical = |module: &str| -> String {
            let name = shared(&format!("{module}.weight"));
            name.strip_suffix(".weight").unwrap_or(&name).to_string()
        };
        let changed: HashSet<String> = changed.map(|module| canonical(module)).collect();
        let stacks: HashSet<String> = changed.iter().filter_map(|module| layers(module)).collect();
        let own = base.tensors.iter().filter_map(|t| t.name.strip_suffix(".weight")).map(canonical);
        let own: HashSet<String> = own.collect();
        // Classes may call a part of a layer otherwise than files of them do.
        let renamed: HashSet<_> = changed.difference(&own).filter_map(|module| in_layer(module)).collect();
        let mut lacking = Vec::new();
        for tensor in base.tensors.iter().filter(|t| t.group == Group::Weights && t.shape.len() == 2) {
            let Some(module) = tensor.name.strip_suffix(".weight") else { continue };
            let own = canonical(module);
            let is_meant = self.has(module) || self.has(&own);
            let is_renamed = in_layer(&own).is_some_and(|known| renamed.contains(&known));
            if !is_meant || is_renamed || changed.contains(&own) || own.contains("expert") {
                continue;
            }
            if layers(&own).is_some_and(|stack| stacks.contains(&stack)) {
                lacking.push(module.to_string());
            }
        }
        lacking
    }

    /// Whether `module` is one of them.
    pub fn has(&self, module: &str) -> bool {
        let ends = |name: &String| {
            module.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        self.any
            || self.names.iter().any(ends)
            || self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(module))
    }
}

/// Leaves out what `adapter` has of the head where that is the same change as the embedding's, as PEFT saves it for a model whose
/// head is its embedding and stays it (`ensure_weight_tying`). Returns whether it did.
///
/// # Errors
/// When a tensor cannot be read.
pub(super) fn join_head(adapter: &mut Adapter) -> Result<bool> {
    let module = |of: Role, name: &str| role(&format!("{name}.weight")) == Some(of);
    let changed = |of: Role| adapter.changes.keys().find(|name| module(of, name)).cloned();
    let replaced = |of: Role| adapter.replaced.keys().find(|name| role(name) == Some(of)).cloned();
    let [tables, heads] = [Role::Embedding, Role::Head].map(|of| (changed(of), replaced(of)));
    let mut joined = false;
    if let (Some(table), Some(head)) = (tables.1, heads.1) {
        let (table, own) = (&adapter.replaced[&table], &adapter.replaced[&head]);
        if table.shape != own.shape || adapter.input(table).to_f32()? != adapter.input(own).to_f32()? {
            return Ok(false);
        }
        adapter.replaced.remove(&head);
        joined = true;
    }
    if let (Some(table), Some(head)) = (tables.0, heads.0) {
        let (of_table, of_head) = (&adapter.changes[&table], &adapter.changes[&head]);
        if !is_same_change(adapter, of_table, of_head)? {
            return Ok(false);
        }
        adapter.changes.remove(&head);
        joined = true;
    }
    Ok(joined)
}

/// Whether the change of an embedding is that of a head: (B A)ᵀ of the one, B A of the other.
fn is_same_change(adapter: &Adapter, table: &LowRank, head: &LowRank) -> Result<bool> {
    let plain = [table, head].iter().all(|change| change.magnitude.is_none() && change.bias.is_none());
    let (Some(a), Some(b), Some(head_a), Some(head_b)) = (&table.a, &table.b, &head.a, &head.b) else {
        return Ok(false);
    };
    if !plain || !table.is_embedding || head.is_embedding || table.scaling != head.scaling {
        return Ok(false);
    }
    Ok(is_turned(adapter, a, head_b)? && is_turned(adapter, b, head_a)?)
}

/// Whether one matrix is the other transposed.
fn is_turned(adapter: &Adapter, one: &TensorInfo, other: &TensorInfo) -> Result<bool> {
    let (&[rows, columns], &[a, b]) = (&one.shape[..], &other.shape[..]) else { return Ok(false) };
    if (a, b) != (columns, rows) {
        return Ok(false);
    }
    let (one, other) = (adapter.input(one).to_f32()?, adapter.input(other).to_f32()?);
    Ok((0..rows)
        .all(|row| (0..columns).all(|column| one[row * columns + column] == other[column * rows + row])))
}
