//! Tensor names: translation between the student's, Hugging Face's and GGUF's, and the part of the model that each
//! refers to. All of it follows from the [table of architectures](super::architecture).

use std::borrow::Cow;
use std::collections::HashMap;

use super::architecture::{Architecture, Dim, Kind, Part, Role, TABLE, Tensor, vocabulary};
use super::config::AttentionBias;
use super::shapes::Shapes;
use super::state_dicts::StateDicts;
use super::wrappers::without_wrappers;
use crate::group::without_state_dict;
use crate::{Checkpoint, Format, Group, TensorInfo};

/// A naming scheme of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Style {
    /// `layers.0.self_attn.q_proj.weight`, `lm_head.weight`.
    Student,
    /// `model.layers.0.self_attn.q_proj.weight`, `lm_head.weight`.
    Hf,
    /// `blk.0.attn_q.weight`, `output.weight`.
    Gguf,
}

/// Divisors of the rotary frequencies, which only GGUF has as a tensor.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Those for texts that are longer than the model was trained with.
pub const LONG_FACTORS: &str = "rope_factors_long.weight";
/// Those for the others, where there are two kinds.
pub const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// Whether a tensor of this name has divisors of the rotary frequencies.
pub fn is_rope_factors(name: &str) -> bool {
    [ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS].contains(&name)
}

/// The rows by which names are understood: those of the model's `family` first, since the same name means different things
/// in some architectures.
fn rows(family: Option<&'static Architecture>) -> impl Iterator<Item = &'static Tensor> {
    // Experts are called so differently that only their own family's names are any good.
    let foreign = move |t: &&Tensor| family.is_none() || !(t.is_stack() || t.role.kind() == Kind::Router);
    family.into_iter().flat_map(|a| a.tensors).copied().chain(vocabulary().filter(foreign))
}

/// What layers are called before their numbers, and whether GGUF calls them so.
const LAYERS: [(&str, bool); 2] = [("layers.", false), ("blk.", true)];

/// Whether `name` begins as those of tensors in layers do.
pub(crate) fn begins_with_layer(name: &str) -> bool {
    LAYERS.iter().any(|(prefix, _)| name.starts_with(prefix))
}

/// A name taken apart: `layers.0.self_attn.q_proj.weight` is of layer `0`, module `self_attn.q_proj` and leaf `weight`.
struct Parsed<'n> {
    /// The layer, and whether it is written as GGUF does.
    layer: Option<(&'n str, bool)>,
    /// Without the number of an expert.
    module: Cow<'n, str>,
    /// The number of the expert that it is a matrix of, if it says so.
    expert: Option<usize>,
    leaf: &'n str,
}

impl<'n> Parsed<'n> {
    fn new(name: &'n str) -> Option<Self> {
        let (module, leaf) = name.rsplit_once('.')?;
        let in_layers =
            LAYERS.into_iter().find_map(|(prefix, gguf)| Some((module.strip_prefix(prefix)?, gguf)));
        let Some((rest, gguf)) = in_layers else {
            return Some(Parsed { layer: None, module: module.into(), expert: None, leaf });
        };
        let (layer, module) = rest.split_once('.')?;
        let numbered = module.split_once(EXPERTS).and_then(|(before, rest)| {
            let (number, after) = rest.split_once('.')?;
            Some((number.parse().ok()?, format!("{before}{EXPERTS}{after}")))
        });
        let (module, expert) = match numbered {
            Some((number, module)) => (Cow::Owned(module), Some(number)),
            None => (Cow::Borrowed(module), None),
        };
        Some(Parsed { layer: Some((layer, gguf)), module, expert, leaf })
    }

    /// Whether its module is that of `tensor` in a style.
    fn is_module(&self, tensor: &Tensor, gguf: bool) -> bool {
        let called = match gguf {
            true => [Some(tensor.gguf), None],
            false => [tensor.module, tensor.also],
        };
        let in_layer = matches!(tensor.role, Role::Layer(..));
        in_layer == self.layer.is_some() && called.contains(&Some(&*self.module))
    }

    fn is(&self, tensor: &Tensor) -> bool {
        let styles: &[bool] = match self.layer {
            Some((_, true)) => &[true],
            Some((_, false)) => &[false],
            None => &[false, true],
        };
        self.leaf == tensor.leaf && styles.iter().any(|&gguf| self.is_module(tensor, gguf))
    }

    fn role(&self, tensor: &Tensor) -> Option<Role> {
        Some(match self.layer {
            Some((layer, _)) => tensor.role.of_layer(layer.parse().ok()?),
            None => tensor.role,
        })
    }
}

/// What stands before the number of an expert.
const EXPERTS: &str = ".experts.";

/// Whether a tensor called `name` has the matrices of all experts of a layer as mlx-lm keeps them, whose module no class of
/// transformers has (<https://github.com/ml-explore/mlx-lm>, `switch_layers.py`).
pub fn is_of_mlx(name: &str) -> bool {
    name.split('.').any(|part| part == "switch_mlp")
}

/// The number of the expert that a tensor called `name` is a matrix of, if it says so.
pub fn expert(name: &str) -> Option<usize> {
    Parsed::new(&canonical(name))?.expert
}

/// The name of one expert's matrix, by the name of all of them in Hugging Face's style or the student's.
pub fn of_expert(name: &str, number: usize) -> String {
    name.replacen(EXPERTS, &format!("{EXPERTS}{number}."), 1)
}

impl Architecture {
    /// The part that `name`, of any style, has in its models; without what surrounds names in state dicts. One expert's
    /// matrix has that of all of them.
    pub fn role(&self, name: &str) -> Option<Role> {
        let parsed = Parsed::new(name)?;
        let tensor = self.tensors.iter().find(|t| parsed.is(t))?;
        parsed.role(tensor).filter(|_| parsed.expert.is_none() || tensor.is_stack())
    }

    /// The name of a tensor of `role` in `style`; `None` if it has none.
    pub fn name(&self, role: Role, style: Style) -> Option<String> {
        let tensor = self.tensor(role)?;
        let module = match style {
            Style::Gguf => tensor.gguf,
            Style::Student | Style::Hf => tensor.module?,
        };
        let layer = match (role, style) {
            (Role::Layer(n, _), Style::Gguf) => format!("blk.{n}."),
            (Role::Layer(n, _), _) => format!("layers.{n}."),
            _ => String::new(),
        };
        let model = if style == Style::Hf && role.kind() != Kind::Head { "model." } else { "" };
        Some(format!("{model}{layer}{module}.{}", tensor.leaf))
    }
}

/// The part that `name`, of any style, has in the models of some architecture; without what surrounds it in state
/// dicts.
pub fn role(name: &str) -> Option<Role> {
    role_in(None, name)
}

/// The same in a model of `family`, if that is known.
pub fn role_in(family: Option<&'static Architecture>, name: &str) -> Option<Role> {
    let name = canonical_in(family, name);
    family.into_iter().chain(TABLE).find_map(|architecture| architecture.role(&name))
}

/// Whether `name` is what `style` calls the tensor of `role` in the models of some architecture.
pub fn is_called(name: &str, role: Role, style: Style) -> bool {
    TABLE.into_iter().any(|architecture| architecture.name(role, style).as_deref() == Some(name))
}

/// `name` as the student calls it: without the key of a state dict and what PyTorch wraps models in, whichever style it
/// has. A name that no style knows stays as it is.
pub fn canonical(name: &str) -> Cow<'_, str> {
    canonical_in(None, name)
}

/// The same for a tensor of a model of `family`, if that is known: some names of GGUF stand for other parts in some
/// architectures.
pub fn canonical_in<'n>(family: Option<&'static Architecture>, name: &'n str) -> Cow<'n, str> {
    let name = without_state_dict(name);
    let bare = without_wrappers(name);
    let first = bare.split('.').next().unwrap_or("");
    if first == "layers" || vocabulary().any(|t| t.module == Some(first) && !is_in_layers(t)) {
        return match bare {
            Cow::Borrowed(bare) => usual(bare),
            Cow::Owned(bare) => Cow::Owned(usual(&bare).into_owned()),
        };
    }
    from_gguf(family, name).map_or_else(|| usual(name), Cow::Owned)
}

/// `name` with what ckpt calls a module in place of what another program calls it.
fn usual(name: &str) -> Cow<'_, str> {
    let Some(Parsed { layer: Some((layer, false)), module, leaf, .. }) = Parsed::new(name) else {
        return Cow::Borrowed(name);
    };
    match vocabulary().find(|t| t.also == Some(&*module)).and_then(|t| t.module) {
        Some(module) => Cow::Owned(format!("layers.{layer}.{module}.{leaf}")),
        None => Cow::Borrowed(name),
    }
}

/// `name`, of any style, in `style`; `None` if that style has no such name.
pub fn translate(name: &str, style: Style) -> Option<String> {
    translate_in(None, name, style)
}

/// The same for a tensor of a model of `family`, if that is known.
pub fn translate_in(family: Option<&'static Architecture>, name: &str, style: Style) -> Option<String> {
    let name = canonical_in(family, name);
    match style {
        Style::Student => Some(name.into_owned()),
        Style::Hf => {
            let first = name.split('.').next().unwrap_or("");
            let in_model = |t: &Tensor| t.module == Some(first) && !is_in_layers(t) && t.role != Role::Head;
            let in_model = first == "layers" || vocabulary().any(in_model);
            Some(if in_model { format!("model.{name}") } else { name.into_owned() })
        }
        Style::Gguf => to_gguf(family, &name),
    }
}

/// Which style `names` have, by the first one that only one style would use.
pub fn style_of<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<Style> {
    let begins_with = |name: &str, role: Role, style: Style| {
        let word = TABLE[0].name(role, style);
        word.is_some_and(|word| name.starts_with(word.trim_end_matches("weight")))
    };
    let layers = [("blk.", Style::Gguf), ("model.layers.", Style::Hf), ("layers.", Style::Student)];
    names.into_iter().map(without_state_dict).find_map(|name| {
        let of_layer = layers.into_iter().find(|(prefix, _)| name.starts_with(prefix));
        let of_table = layers.into_iter().find(|(_, style)| begins_with(name, Role::Embedding, *style));
        of_layer.or(of_table).map(|(_, style)| style)
    })
}

/// Whether the shapes of a GGUF file are those of a model whose sizes were written in PyTorch's order: whether all
/// matrices that must be as wide as the embedding are that high instead, or the other way round. The embedding is as
/// wide as the file's keys say, or else as the first norm of the residual stream.
pub(super) fn is_transposed<'n>(
    width: Option<u64>,
    tensors: impl Iterator<Item = (&'n str, &'n [usize])> + Clone,
) -> bool {
    let known = tensors.filter_map(|(name, shape)| {
        let role = role(name)?;
        Some((TABLE.into_iter().find_map(|architecture| architecture.tensor(role))?.shape, shape))
    });
    let of_norm = || {
        known.clone().find_map(|known| match known {
            ([Dim::Hidden], &[size]) => Some(size as u64),
            _ => None,
        })
    };
    let Some(width) = width.or_else(of_norm) else { return false };
    let mut transposed = 0;
    for (dims, shape) in known {
        let (here, there) = match (dims, shape) {
            (_, [rows, cols]) if rows == cols => continue,
            ([_, Dim::Hidden], &[rows, cols]) => (cols, rows),
            ([Dim::Hidden, _], &[rows, cols]) => (rows, cols),
            _ => continue,
        };
        if here as u64 == width {
            return false;
        }
        transposed += usize::from(there as u64 == width);
    }
    transposed > 0
}

fn is_in_layers(tensor: &Tensor) -> bool {
    matches!(tensor.role, Role::Layer(..))
}

fn from_gguf(family: Option<&'static Architecture>, name: &str) -> Option<String> {
    let parsed = Parsed::new(name)?;
    if let Some((_, false)) = parsed.layer {
        return None;
    }
    let module = rows(family).filter(|t| parsed.is_module(t, true)).find_map(|t| t.module)?;
    Some(match parsed.layer {
        Some((layer, _)) => format!("layers.{layer}.{module}.{}", parsed.leaf),
        None => format!("{module}.{}", parsed.leaf),
    })
}

fn to_gguf(family: Option<&'static Architecture>, name: &str) -> Option<String> {
    let parsed = Parsed::new(name)?;
    if let Some((_, true)) = parsed.layer {
        return None;
    }
    let gguf = rows(family).find(|t| parsed.is_module(t, false))?.gguf;
    Some(match parsed.layer {
        Some((layer, _)) => format!("blk.{layer}.{gguf}.{}", parsed.leaf),
        None => format!("{gguf}.{}", parsed.leaf),
    })
}

/// The tensors of a checkpoint by their part in the model.
#[derive(Debug)]
pub struct Names<'a> {
    architecture: &'static Architecture,
    roles: HashMap<Role, &'a TensorInfo>,
    /// Matrices of single experts, by the role of all of them.
    experts: HashMap<(Role, usize), &'a TensorInfo>,
    /// The style of their names.
    style: Style,
    /// Weights inside layers that no part of the model uses, such as biases and further norms.
    pub unused: Vec<&'a TensorInfo>,
}

impl<'a> Names<'a> {
    /// Finds the part of every weight. The first tensor of a part counts, and a network's before its moving average's.
    pub fn of(checkpoint: &'a Checkpoint) -> Self {
        let architecture = checkpoint.model.family().unwrap_or(TABLE[0]);
        let style = match checkpoint.format {
            Format::Gguf { .. } => Style::Gguf,
            _ => Style::Student,
        };
        let Some(averaged) = StateDicts::averaged(checkpoint) else {
            return Self::new(&checkpoint.tensors, architecture, style);
        };
        let (average, own): (Vec<_>, Vec<_>) =
            checkpoint.tensors.iter().partition(|t| averaged.is_average(&t.name));
        Self::new(own.into_iter().chain(average), architecture, style)
    }

    /// The roles of `tensors`.
    pub(super) fn new(
        tensors: impl IntoIterator<Item = &'a TensorInfo>,
        architecture: &'static Architecture,
        style: Style,
    ) -> Self {
        let (mut roles, mut experts, mut unused) = (HashMap::new(), HashMap::new(), Vec::new());
        for tensor in tensors.into_iter().filter(|t| t.group == Group::Weights) {
            let name = canonical_in(Some(architecture), &tensor.name);
            match architecture.role(&name) {
                Some(role) => {
                    roles.entry(role).or_insert(tensor);
                    if let Some(number) = Parsed::new(&name).and_then(|parsed| parsed.expert) {
                        experts.entry((role, number)).or_insert(tensor);
                    }
                }
                // A buffer of older Llama files, computed from the base.
                None if name.ends_with("rotary_emb.inv_freq") => {}
                None if begins_with_layer(&name) => unused.push(tensor),
                None => {}
            }
        }
        Names { architecture, roles, experts, style, unused }
    }

    /// The name of a tensor of `role` in such a checkpoint, which may lack it.
    pub fn called(&self, role: Role) -> String {
        self.architecture.name(role, self.style).unwrap_or_default()
    }

    /// The tensor with `role`.
    pub fn get(&self, role: Role) -> Option<&'a TensorInfo> {
        self.roles.get(&role).copied()
    }

    /// The matrix of one expert, where each has a tensor of its own; `role` is that of all of them.
    pub fn expert(&self, role: Role, number: usize) -> Option<&'a TensorInfo> {
        self.experts.get(&(role, number)).copied()
    }

    /// Whether each expert has tensors of its own.
    pub fn has_separate_experts(&self) -> bool {
        !self.experts.is_empty()
    }

    /// The roles that tensors have, in no order.
    pub fn played(&self) -> impl Iterator<Item = (Role, &'a TensorInfo)> {
        self.roles.iter().map(|(role, tensor)| (*role, *tensor))
    }

    /// Layers from the first on, as far as they have an attention norm or a query projection.
    pub fn layers(&self) -> usize {
        let has = |n, part| self.roles.contains_key(&Role::Layer(n, part));
        (0..).take_while(|&n| has(n, Part::AttentionNorm) || has(n, Part::Q)).count()
    }

    /// What the tensors' shapes show, unless the embedding, Q, K or the gate are not matrices.
    pub fn shapes(&self) -> Option<Shapes> {
        let matrix = |role| match self.get(role)?.shape.as_slice() {
            &[rows, cols] => Some((rows, cols)),
            _ => None,
        };
        let of_first = |part| self.get(Role::Layer(0, part));
        let packed = |part| of_first(part).is_some_and(|t| t.dtype.is_ternary());
        let (vocab_size, hidden_dim) = matrix(Role::Embedding)?;
        let rows = |part| matrix(Role::Layer(0, part)).map(|(rows, _)| rows);
        let fused = rows(Part::Qkv);
        let is_layer = |n| [Part::Gate, Part::GateUp, Part::Router].map(|part| Role::Layer(n, part));
        let routed = rows(Part::Router);
        Some(Shapes {
            vocab_size,
            hidden_dim,
            num_layers: (0..)
                .take_while(|&n| is_layer(n).iter().any(|role| self.get(*role).is_some()))
                .count(),
            queries: rows(Part::Q).or(fused.map(|_| 0))?,
            keys: rows(Part::K).or(fused.map(|_| 0))?,
            fused,
            mlp_hidden_dim: rows(Part::Gate)
                .or_else(|| rows(Part::GateUp).map(|rows| rows / 2))
                .or(routed.map(|_| 0))?,
            query_norm: of_first(Part::QNorm).map(|t| if let [dim] = t.shape[..] { dim } else { 0 }),
            tie_word_embeddings: self.is_tied(None),
            has_head: self.get(Role::Head).is_some(),
            attention_bias: self.attention_bias(),
            mlp_bias: self.mlp_bias(),
            packed_attn: packed(Part::Q),
            packed_ffn: packed(Part::Gate),
        })
    }

    /// Whether the head is the embedding: where it has no other, unless the configuration, which says `told`, wants one.
    pub fn is_tied(&self, told: Option<bool>) -> bool {
        let same = |a: &TensorInfo, b: &TensorInfo| {
            a.storage.is_some() && a.storage == b.storage && a.byte_offset == b.byte_offset
        };
        match (self.get(Role::Head), self.get(Role::Embedding)) {
            (Some(head), Some(embedding)) => same(head, embedding),
            (Some(_), None) => false,
            (None, _) => told != Some(false),
        }
    }

    /// Which biases the first layer's projections have.
    pub fn attention_bias(&self) -> AttentionBias {
        AttentionBias::of_parts(|part| self.get(Role::Layer(0, part)).is_some())
    }

    /// Whether the projections of the first feed-forward layer have biases.
    pub fn mlp_bias(&self) -> bool {
        self.get(Role::Layer(0, Part::GateBias)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_style_are_distinguished() {
        assert_eq!(
            translate("layers.0.self_attn.q_proj.weight", Style::Gguf).unwrap(),
            "blk.0.attn_q.weight"
        );
        assert_eq!(
            translate("blk.0.attn_q.weight", Style::Hf).unwrap(),
            "model.layers.0.self_attn.q_proj.weight"
        );
        assert_eq!(translate("output.weight", Style::Hf).unwrap(), "lm_head.weight");
        assert_eq!(
            translate("blk.2.ffn_sub_norm.weight", Style::Student).unwrap(),
            "layers.2.mlp.ffn_sub_norm.weight"
        );
    }

    #[test]
    fn a_style_calls_head_and_embedding_by_its_own_names_alone() {
        use Role::{Embedding, Head};
        for (style, table, head) in [
            (Style::Student, "embed_tokens.weight", "lm_head.weight"),
            (Style::Hf, "model.embed_tokens.weight", "lm_head.weight"),
            (Style::Gguf, "token_embd.weight", "output.weight"),
        ] {
            assert!(is_called(table, Embedding, style) && is_called(head, Head, style));
            assert!(!is_called(table, Head, style) && !is_called(head, Embedding, style));
        }
        assert!(!is_called("embed_tokens.weight", Embedding, Style::Gguf));
        assert!(!is_called("embed_tokens.bias", Embedding, Style::Student));
    }

    #[test]
    fn a_head_without_data_is_not_the_embedding() {
        let tensors = ["lm_head.weight", "embed_tokens.weight"].map(|name| {
            let shape = vec![4, 2];
            let meta = TensorInfo::contiguous(name.into(), crate::DType::F32, shape, None, 0);
            TensorInfo { group: Group::Weights, ..meta }
        });
        let tied = |tensors: &[TensorInfo]| Names::new(tensors, TABLE[0], Style::Student).is_tied(None);
        assert!(!tied(&tensors) && tied(&tensors[1..]));
    }

    #[test]
    fn unknown_names_stay() {
        assert_eq!(canonical("model.encoder.w"), "model.encoder.w");
        assert_eq!(canonical("w"), "w");
        assert_eq!(canonical("model.output.weight"), "model.output.weight");
        assert_eq!(canonical("ema_model.layers.0.w"), "ema_model.layers.0.w");
        assert_eq!(canonical(ROPE_FACTORS), ROPE_FACTORS);
        assert_eq!(translate("encoder.w", Style::Gguf), None);
        assert_eq!(
            translate("layers.0.mlp.gate_proj.weight_scale", Style::Gguf).unwrap(),
            "blk.0.ffn_gate.weight_scale"
        );
        assert_eq!(style_of(["w", "model_state_dict.layers.0.w"]), Some(Style::Student));
        assert_eq!(style_of(["w", "token_embd.weight"]), Some(Style::Gguf));
        assert_eq!(style_of(["model.embed_tokens.weight"]), Some(Style::Hf));
        assert_eq!(style_of(["output.weight"]), None);
    }

    #[test]
    fn names_are_found_in_any_wrapper() {
        for before in [
            "",
            "model.",
            "module.",
            "_orig_mod.",
            "module._orig_mod.",
            "_orig_mod.module.",
            "model._orig_mod.",
            "model.model.",
            "_fsdp_wrapped_module.",
            "_forward_module.",
            "base_model.model.",
            "base_model.model.model.",
            "state_dict.module.model.",
        ] {
            for (name, own) in [
                ("embed_tokens.weight", "embed_tokens.weight"),
                ("lm_head.weight", "lm_head.weight"),
                ("layers.3.self_attn.q_proj.weight", "layers.3.self_attn.q_proj.weight"),
                (
                    "layers.3._orig_mod.mlp._checkpoint_wrapped_module.up_proj.weight",
                    "layers.3.mlp.up_proj.weight",
                ),
            ] {
                assert_eq!(canonical(&format!("{before}{name}")), own, "{before}{name}");
            }
        }
    }

    #[test]
    fn every_part_has_a_role() {
        assert_eq!(role("embed_tokens.weight"), Some(Role::Embedding));
        assert_eq!(role("token_embd.weight"), Some(Role::Embedding));
        assert_eq!(
            role("model_state_dict.layers.3.self_attn.q_norm.weight"),
            Some(Role::Layer(3, Part::QNorm))
        );
        assert_eq!(role("blk.11.ffn_down.weight"), Some(Role::Layer(11, Part::Down)));
        assert_eq!(role("blk.0.attn_k.bias"), Some(Role::Layer(0, Part::KBias)));
        assert_eq!(role(ROPE_FACTORS), Some(Role::RopeFactors));
        assert_eq!(role("layers.3.self_attn.q_proj.what"), None);
        assert_eq!(role("layers.x.self_attn.q_proj.weight"), None);
        assert_eq!(TABLE[0].role("layers.3.self_attn.q_proj.bias"), None);
    }
}
