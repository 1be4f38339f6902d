//! Folders of components: each is opened as the checkpoint that it is, and their tensors become those of one, called after
//! the folders that they are in.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::OnceLock;

use super::open::open_set;
use super::{Coding, Model};
use crate::bytes::Stamp;
use crate::checkpoint::Checkpoint;
use crate::format::{self, Format};
use crate::layout::companion::companions;
use crate::layout::{self, Component, Set};
use crate::metadata::{HashableValue, Value};
use crate::step::{self, StepSource};
use crate::{Damage, DamageKind, Error, ErrorKind, Group, Notice, NoticeKind, OpenOptions, Result};

/// The checkpoint at `path` that consists of the components of `set`. One that cannot be opened damages it.
pub(super) fn compose(path: &Path, set: &Set, options: &OpenOptions) -> Result<Checkpoint> {
    let mut whole = Checkpoint {
        path: path.to_path_buf(),
        format: Format::default(),
        tensors: Vec::new(),
        metadata: Value::Dict(BTreeMap::new()),
        globals: Vec::new(),
        warnings: set.notices.clone(),
        damage: None,
        model: Model::unknown(),
        coding: Coding::default(),
        step: None,
        components: Vec::new(),
        files: Vec::new(),
        header: OnceLock::new(),
        beside: set.beside.clone(),
        absent: Vec::new(),
        listing_damaged: false,
    };
    let mut errors: Vec<Error> = Vec::new();
    let mut names = HashSet::new();
    for component in &set.components {
        match opened(component, set, options) {
            Ok(own) => add(&mut whole, component, own, &mut names),
            Err(error) => {
                whole.beside.push(Stamp::of(&component.path));
                errors.push(error.in_file(&component.path));
            }
        }
    }
    // What a trainer left of it may be all there is.
    let is_left = options.companions && companions(path).is_ok_and(|files| !files.is_empty());
    if whole.files.is_empty() && !(errors.is_empty() && set.missing.is_some() && is_left) {
        let nothing = || Error::new(ErrorKind::Unrecognised, "holds no checkpoint");
        let missing = || set.missing.as_ref().map_or_else(nothing, Error::from);
        return Err(errors.into_iter().next().unwrap_or_else(missing).in_file(path));
    }
    let failed = errors
        .into_iter()
        .map(|error| Damage::new(error.fault.unwrap_or(DamageKind::UnreadableShard), error.to_string()));
    set.missing.iter().cloned().chain(failed).for_each(|damage| whole.add_damage(damage));
    whole.step = whole
        .step
        .or_else(|| set.trainer_step.map(|step| (step, StepSource::Trainer)))
        .or_else(|| step::from_path(path).map(|step| (step, StepSource::Name)));
    if whole.components.len() < 2 && whole.components.iter().all(String::is_empty) {
        whole.components.clear();
    }
    Ok(whole)
}

/// The component as a checkpoint of its own. What lies in the folder itself is of the model there.
fn opened(component: &Component, whole: &Set, options: &OpenOptions) -> Result<Checkpoint> {
    let mut set = layout::set_of(&component.path)?;
    if component.name.is_empty() && component.is_model {
        set.config = set.config.or_else(|| whole.config.clone());
        set.quantization = set.quantization.or_else(|| whole.quantization.clone());
        set.merged |= whole.merged;
    }
    open_set(&component.path, &set, options)
}

/// Whether all that is in `checkpoint` is what an optimizer keeps.
fn holds_an_optimizer(checkpoint: &Checkpoint) -> bool {
    let of = |group: Group| checkpoint.tensors.iter().any(|tensor| tensor.group == group);
    of(Group::Optimizer) && !of(Group::Weights)
}

/// Adds `own`, which `component` is. The tensors of several may have the same name where they should be called nothing
/// else: then the folder tells them apart. `names` are those of the tensors so far.
fn add(whole: &mut Checkpoint, component: &Component, mut own: Checkpoint, names: &mut HashSet<String>) {
    let mut name = component.name.clone();
    if name.is_empty() && own.tensors.iter().any(|tensor| names.contains(&tensor.name)) {
        name = component.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    }
    let named = |inner: &str| match name.as_str() {
        "" => inner.to_string(),
        name if inner.is_empty() => name.to_string(),
        name => format!("{name}.{inner}"),
    };
    let told = |text: &str| match name.as_str() {
        "" => text.to_string(),
        name => format!("{}: {text}", name.escape_debug()),
    };
    if whole.files.is_empty() {
        whole.format = own.format;
    }
    if component.is_model && holds_an_optimizer(&own) {
        let folder = component.path.file_name().unwrap_or_default().to_string_lossy();
        let text =
            format!("{} is where the model should be, and holds an optimizer's state", folder.escape_debug());
        whole.warnings.push(Notice::new(NoticeKind::Contradiction, text));
    }
    if component.is_model {
        whole.components.push(name.clone());
    }
    if name.is_empty() && component.is_model {
        whole.model = own.model;
    }
    // What a path is called says nothing of the whole.
    let step = own.step.filter(|(_, source)| *source != StepSource::Name);
    whole.step = whole.step.take().or(step);
    for mut tensor in own.tensors {
        tensor.name = named(&tensor.name);
        names.insert(tensor.name.clone());
        whole.tensors.push(tensor);
    }
    if let Value::Dict(all) = &mut whole.metadata {
        match (own.metadata, name.as_str()) {
            (Value::Dict(entries), "") => {
                for (key, value) in entries {
                    all.entry(key).or_insert(value);
                }
            }
            (value, _) => {
                all.entry(HashableValue::String(name.clone())).or_insert(value);
            }
        }
    }
    if let Some(mut damage) = own.damage.take() {
        damage.what = told(&damage.what);
        whole.add_damage(damage);
    }
    whole
        .warnings
        .extend(own.warnings.into_iter().map(|n| Notice { text: told(&n.text), ..n }.renamed(named)));
    format::add_new(&mut whole.globals, own.globals);
    whole.absent.extend(own.absent.iter().map(|inner| named(inner)));
    whole.listing_damaged |= own.listing_damaged;
    whole.files.extend(own.files);
    whole.beside.extend(own.beside);
    let Coding { method, unread, faults, left, stored } = own.coding;
    whole.coding.method = whole.coding.method.take().or(method);
    whole.coding.unread = whole.coding.unread.take().or(unread);
    whole.coding.faults.extend(faults.into_iter().map(|(inner, fault)| (named(&inner), fault)));
    whole.coding.left.extend(left.iter().map(|inner| named(inner)));
    whole.coding.stored += stored;
}
