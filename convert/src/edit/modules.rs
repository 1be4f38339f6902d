//! What is known of the modules that an adapter changes: how their weights are stored, whether its configuration means them, and
//! whether the head among them is the embedding.

use ckpt_inspect::metadata::{Value, lookup};
use ckpt_inspect::{Checkpoint, Format, TensorInfo};
use regex::Regex;
use serde_json::{Map, Value as Json};

use super::adapter::{Adapter, LowRank};
use super::targets::shared;
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
        && let Some(Value::String(kind)) = lookup(config, "model_type")
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
    entries
        .values()
        .any(|part| matches!(lookup(part, "model_type"), Some(Value::String(kind)) if is_such(kind)))
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
        let weights = texts("target_parameters");
        meant
            .names
            .extend(weights.iter().filter_map(|name| name.strip_suffix(".weight")).map(str::to_string));
        meant
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
    const TABLE: &str = "embed_tokens";
    const HEAD: &str = "lm_head";
    let module = |of: &str, name: &str| shared(&format!("{name}.weight")) == format!("{of}.weight");
    let changed = |of: &str| adapter.changes.keys().find(|name| module(of, name)).cloned();
    let replaced =
        |of: &str| adapter.replaced.keys().find(|name| shared(name) == format!("{of}.weight")).cloned();
    let (tables, heads) = ((changed(TABLE), replaced(TABLE)), (changed(HEAD), replaced(HEAD)));
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
