//! Which source tensors are written, and under which names.

use std::collections::{HashMap, HashSet};

use ckpt_inspect::{
    DType, Error as ReadError, Format, Group, TensorInfo, holds_objects, is_average_key, is_training_state,
    without_state_dict,
};

use globset::GlobMatcher;

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
    /// The other tensor and this, called `name`, if they are one weight of a network and of its average, which were saved in
    /// two dicts and would be written as one model.
    fn twice<'t>(
        &self,
        networks: &mut HashMap<&'t str, &'t str>,
        name: &'t str,
    ) -> Option<(&'t str, &'t str)> {
        if self.nested || self.options.root.is_some() {
            return None;
        }
        let key = self.dicts.key(name)?;
        let other = networks.insert(name[key.len()..].trim_start_matches('.'), name)?;
        let is_average = |name: &str| self.dicts.key(name).is_some_and(is_average_key);
        (is_average(other) != is_average(name)).then_some((other, name))
    }

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
        let mut networks: HashMap<&str, &str> = HashMap::new();
        let (mut without_data, mut without_name, mut without_use) = (Vec::new(), Vec::new(), Vec::new());
        for (index, tensor) in source.tensors.iter().enumerate() {
            let inner = match &options.root {
                Some(root) => tensor.name.strip_prefix(root.as_str()).and_then(|n| n.strip_prefix('.')),
                None => Some(tensor.name.as_str()),
            };
            let Some(inner) = inner else { continue };
            let first = inner.split('.').next().unwrap_or_default();
            let training = tensor.group == Group::Optimizer
                || (tensor.group == Group::Other && is_training_state(first));
            let in_config = self.config_has_rope && names::is_rope_factors(inner);
            if self.joined && holds_objects(first) {
                continue;
            }
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
            if matches!(options.target, Target::Hf { .. }) && !self.plan.keeps && names::is_of_mlx(&name) {
                let why = format!(
                    "`{}` has the experts of a layer as mlx-lm keeps them; how transformers' class {} has them is not known",
                    tensor.name.escape_debug(),
                    source.model.architecture.escape_debug()
                );
                return Err(Error::target(why));
            }
            // All of a layer's have the same name in GGUF, and are put together below.
            if let (Some(Style::Gguf), Some((_, number))) = (self.style, separate(source, tensor)) {
                name = format!("{name}.{number}");
            }
            if let Some((other, own)) = self.twice(&mut networks, &tensor.name).filter(|_| !training) {
                let why = format!(
                    "`{}` and `{}` are of a network and of its moving average, and would both be written; choose one state dict",
                    other.escape_debug(),
                    own.escape_debug()
                );
                return Err(Error::target(why).remedied_by(Remedy::Root));
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
            if !chosen.iter().any(|c| is_meant(glob, &c.name)) {
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
        let is_whole = self.options.root.is_none();
        let bare = match self.nested {
            // It is put back below.
            true => match self.dicts.key(inner).filter(|key| *key != "model") {
                Some(key) => &inner[key.len() + 1..],
                None => inner,
            },
            false if is_whole => self.dicts.own(inner),
            false => inner,
        };
        let name = self.style.and_then(|style| self.styled(bare, style)).unwrap_or_else(|| bare.to_string());
        if self.nested {
            let key = &inner[..inner.len() - bare.len()];
            format!("{key}{}{name}", self.prefix)
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// What `bare` is called in `style`. A name of which that takes a first part that may be a module's keeps it, unless all
    /// have it and the rest is what a model's tensor is called.
    fn styled(&self, bare: &str, style: Style) -> Option<String> {
        let family = self.plan.source.model.family();
        let key = bare.len() - without_state_dict(bare).len();
        // What is kept is kept under the names by which its configuration speaks of it.
        if self.plan.keeps && style != Style::Gguf && names::is_of_mlx(bare) {
            return None;
        }
        // Where a state dict was chosen, all in it are one network's.
        let is_chosen = self.options.root.is_some() || self.dicts.key(bare).is_some();
        let is_wrapper = |first: &str| is_chosen || self.wrapper == Some(first);
        let is_taken = key > 0 && style != Style::Gguf;
        let is_known =
            || bare.split('.').next().is_some_and(is_wrapper) && names::role_in(family, bare).is_some();
        (!is_taken || is_known()).then(|| names::translate_in(family, bare, style))?
    }

    /// The stored type of a tensor that is not packed.
    pub(super) fn dtype(&self, tensor: &TensorInfo, name: &str) -> Result<DType> {
        let quantized = matches!(tensor.dtype, DType::QI8 | DType::QU8 | DType::QI32);
        let packed = matches!(tensor.dtype, DType::Ggml(_) | DType::Ternary(_) | DType::Quantized(_));
        let real = tensor.dtype.is_float() || packed || quantized;
        let chosen =
            self.options.dtypes.iter().find(|(glob, _)| is_meant(glob, name)).map(|(_, dtype)| *dtype);
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

/// Whether `glob` matches `name`, or what follows the key of a state dict in it.
pub(super) fn is_meant(glob: &GlobMatcher, name: &str) -> bool {
    glob.is_match(without_state_dict(name)) || glob.is_match(name)
}
