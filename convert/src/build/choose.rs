//! Which source tensors are written, and under which names.

use std::collections::{HashMap, HashSet};

use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_inspect::{
    DType, Error as ReadError, Format, Group, TensorInfo, is_training_state, without_state_dict,
};

use super::experts::separate;
use super::kept::input_scale;
use super::{Builder, Chosen};
use crate::gguf;
use crate::names::{self, Style};
use crate::note::{Note, Omission, Remedy};
use crate::sharing::tied_names;
use crate::source::{beside_codes, helpers};
use crate::target::Target;
use crate::{Error, Result};

impl Builder<'_, '_> {
    /// The source tensors to write, their names and types.
    pub(super) fn choose(&mut self) -> Result<Vec<Chosen>> {
        let (source, options) = (self.plan.source, self.options);
        let (helpers, beside) = (helpers(source, options.target), beside_codes(source));
        // Those that are written beside the codes that they belong to.
        let keeps_blocks = options.keep_quantized && matches!(options.target, Target::Gguf(_));
        let kept = source.tensors.iter().filter(|_| keeps_blocks);
        let with_codes: HashSet<&str> =
            kept.filter_map(|t| input_scale(source, t)).map(|t| t.name.as_str()).collect();
        let mut chosen = Vec::new();
        let mut names: HashMap<String, &str> = HashMap::new();
        let (mut without_data, mut without_name, mut without_use) = (Vec::new(), Vec::new(), Vec::new());
        for (index, tensor) in source.tensors.iter().enumerate() {
            let inner = match &options.root {
                Some(root) => tensor.name.strip_prefix(root.as_str()).and_then(|n| n.strip_prefix('.')),
                None => Some(tensor.name.as_str()),
            };
            let Some(inner) = inner else { continue };
            let training = tensor.group == Group::Optimizer
                || (tensor.group == Group::Other && is_training_state(inner.split('.').next().unwrap_or("")));
            let in_config = self.config_has_rope && names::is_rope_factors(inner);
            if helpers.contains(&index) || in_config || (training && !options.keep_optimizer) {
                continue;
            }
            if beside.contains(&index) {
                if !with_codes.contains(tensor.name.as_str()) {
                    without_use.push(tensor.name.as_str());
                }
                continue;
            }
            if tensor.storage.is_none() && tensor.sparse.is_none() {
                without_data.push(tensor.name.as_str());
                continue;
            }
            if let Some(damage) = &tensor.damage {
                return Err(ReadError::from(damage)
                    .in_tensor(&tensor.name)
                    .in_file(&source.path)
                    .hint("a damaged checkpoint cannot be converted; recover what is intact first")
                    .into());
            }
            if self.is_foreign(inner) {
                without_name.push(tensor.name.as_str());
                continue;
            }
            let mut name = if training { inner.to_string() } else { self.name(inner) };
            // All of a layer's have the same name in GGUF, and are put together below.
            if let (Some(Style::Gguf), Some((_, number))) = (self.style, separate(source, tensor)) {
                name = format!("{name}.{number}");
            }
            if let Some(other) = names.insert(name.clone(), &tensor.name) {
                // Names of one architecture say nothing about those of another.
                if self.style == Some(Style::Gguf) {
                    gguf::check_architecture(source)?;
                }
                let why = format!(
                    "`{}` and `{}` would both be named `{}`; choose one state dict",
                    other.escape_debug(),
                    tensor.name.escape_debug(),
                    name.escape_debug()
                );
                return Err(Error::target(why).remedied_by(Remedy::Root));
            }
            let dtype = if training { tensor.dtype } else { self.dtype(tensor, &name)? };
            chosen.push(Chosen { index, name, dtype, tensor: None, grid: None, kept: None });
        }
        for (name, index) in tied_names(source) {
            if let Some(dtype) = chosen.iter().find(|c| c.index == index).map(|c| c.dtype) {
                let name = self.name(&name);
                chosen.push(Chosen { index, name, dtype, tensor: None, grid: None, kept: None });
            }
        }
        let mut chosen = self.arrange_experts(chosen)?;
        if let (Some(root), true) = (&options.root, chosen.is_empty()) {
            return Err(self.no_root(root));
        }
        for (glob, dtype) in &options.dtypes {
            if !chosen.iter().any(|c| glob.is_match(without_state_dict(&c.name))) {
                let pattern = glob.glob().glob().to_string();
                self.plan.notes.push(Note::UnmatchedType { pattern, dtype: *dtype });
            }
        }
        let left_out = [
            (without_data, Omission::NoData),
            (without_name, Omission::NoName),
            (without_use, Omission::NoCodes),
        ];
        for (left_out, why) in left_out {
            if let Some(first) = left_out.first() {
                let (count, first) = (left_out.len(), first.to_string());
                self.plan.notes.push(Note::LeftOut { count, first, why });
            }
        }
        match options.target {
            Target::Gguf(settings) => self.settle_quants(settings, &mut chosen)?,
            _ => self.settle_grids(&mut chosen)?,
        }
        Ok(chosen)
    }

    fn no_root(&self, root: &str) -> Error {
        let within = |t: &TensorInfo| t.name.strip_prefix(root).is_some_and(|rest| rest.starts_with('.'));
        if self.plan.source.tensors.iter().any(within) {
            return Error::target(format!(
                "`{}` contains training state, not weights; give the key of a state dict",
                root.escape_debug()
            ));
        }
        let weights = self.plan.source.tensors.iter().filter(|t| t.group != Group::Optimizer);
        let mut keys: Vec<&str> = weights.filter_map(|t| Some(t.name.split_once('.')?.0)).collect();
        keys.dedup();
        keys.truncate(8);
        Error::target(format!(
            "no tensor's name begins with `{}.`; keys that contain tensors: {}",
            root.escape_debug(),
            keys.join(", ")
        ))
    }

    /// Whether a tensor has no name in GGUF: neither one that readers know, nor one that it had in a GGUF source.
    fn is_foreign(&self, inner: &str) -> bool {
        let from_gguf = matches!(self.plan.source.format, Format::Gguf { .. });
        let family = self.plan.source.model.family();
        let known = names::translate_in(family, without_state_dict(inner), Style::Gguf).is_some();
        let nameless = !from_gguf && !known && !gguf::is_unknown(self.plan.source);
        matches!(self.options.target, Target::Gguf(_)) && nameless
    }

    fn name(&self, inner: &str) -> String {
        let bare = match inner.strip_prefix("model.").filter(|_| self.in_model) {
            Some(bare) => bare,
            None if self.own_names => self.without_key(inner),
            None => without_state_dict(inner),
        };
        let family = self.plan.source.model.family();
        let styled = self.style.and_then(|style| names::translate_in(family, bare, style));
        let name = styled.unwrap_or_else(|| bare.to_string());
        if self.nested {
            let key = &inner[..inner.len() - bare.len()];
            format!("{key}{name}")
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// `inner` without the key of the dict that it is in, which its own name may begin like.
    fn without_key<'n>(&self, inner: &'n str) -> &'n str {
        let Value::Dict(entries) = &self.plan.source.metadata else { return inner };
        let is_dict =
            |key: &str| matches!(entries.get(&HashableValue::String(key.into())), Some(Value::Dict(_)));
        match inner.split_once('.') {
            Some((key, rest)) if self.options.root.is_none() && is_dict(key) => rest,
            _ => inner,
        }
    }

    /// The stored type of a tensor that is not packed.
    pub(super) fn dtype(&self, tensor: &TensorInfo, name: &str) -> Result<DType> {
        let quantized = matches!(tensor.dtype, DType::QI8 | DType::QU8 | DType::QI32);
        let packed = matches!(tensor.dtype, DType::Ggml(_) | DType::Ternary(_) | DType::Quantized(_));
        let real = tensor.dtype.is_float() || packed || quantized;
        let bare = without_state_dict(name);
        let chosen =
            self.options.dtypes.iter().find(|(glob, _)| glob.is_match(bare)).map(|(_, dtype)| *dtype);
        let plain = match real && !self.plan.keeps {
            true => chosen.or(self.options.dtype),
            false => None,
        };
        let own = if tensor.dtype.is_float() || !real { tensor.dtype } else { DType::F32 };
        let dtype = plain.unwrap_or(own);
        // The rules of GGUF decide on real numbers.
        let ruled = real && matches!(self.options.target, Target::Gguf(_));
        let form = self.options.target.form();
        if !ruled && !(form.holds)(dtype) {
            let why = format!(
                "tensor `{}` has elements of type {dtype}, which {} cannot hold",
                tensor.name.escape_debug(),
                form.reader
            );
            return Err(Error::target(why).remedied_by((form.instead)(dtype)));
        }
        Ok(dtype)
    }
}
