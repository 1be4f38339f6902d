//! Whether two checkpoints match, tensor by tensor: which tensors belong together, and what is only in one of them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use ckpt_inspect::meaning::architecture::{Role, STUDENT};
use ckpt_inspect::meaning::{beginnings, role, wrappers};
use ckpt_inspect::{Checkpoint, Format, Group, OpenOptions, TensorInfo, is_training_state};
use serde::Serialize;

use crate::Result;
use crate::agreement::{Agreement, Made, compare};
use crate::build::experts::stacked;
use crate::names::{self, Style};
use crate::plan::{Content, Elements, Plan};
use crate::sharing::tied_names;
use crate::source::{beside_codes, grid, held_transposed, helpers, rotary, shift};
use crate::target::Target;
use crate::ternary::Grid;

/// How two checkpoints compare.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Every pair that was compared.
    pub tensors: Vec<Agreement>,
    /// Weights of the first checkpoint that the second lacks.
    pub missing: Vec<String>,
    /// Weights of the second checkpoint that the first lacks.
    pub extra: Vec<String>,
    /// Tensors of either that were not compared: what only training needs, and what was saved without data.
    pub skipped: Vec<String>,
}

impl Report {
    /// Whether every tensor is present and agrees. Where nothing was compared, nothing does.
    pub fn agrees(&self) -> bool {
        !self.tensors.is_empty()
            && self.missing.is_empty()
            && self.extra.is_empty()
            && self.tensors.iter().all(|t| t.agrees)
    }

    /// The pairs that do not agree.
    pub fn failures(&self) -> impl Iterator<Item = &Agreement> {
        self.tensors.iter().filter(|t| !t.agrees)
    }
}

/// Compares the weights of `a` with those of `b`, whose names may differ.
///
/// # Errors
/// When a tensor cannot be read.
pub fn verify(a: &Checkpoint, b: &Checkpoint) -> Result<Report> {
    let (ours, mut theirs) = (weights(a), weights(b));
    call_alike((a, &ours), (b, &mut theirs));
    let mut report = Report::default();
    let find = |map: &HashMap<&str, usize>, key: &str| {
        let tied =
            || STUDENT.name(Role::Embedding, Style::Student).filter(|_| names::role(key) == Some(Role::Head));
        map.get(key).or_else(|| map.get(tied()?.as_str())).copied()
    };
    let (style_a, style_b) = (style(a), style(b));
    // Each side's rows in the order of Hugging Face's, unless both are GGUF's.
    let pair = |ours: &TensorInfo, theirs: &TensorInfo| -> Result<Agreement> {
        let out_of_gguf = |c: &Checkpoint, tensor: &TensorInfo, style| match c.format {
            Format::Gguf { .. } => rotary(c, tensor, style),
            _ => None,
        };
        // What one side stores less one is compared as the other has it.
        let into_gguf = |c: &Checkpoint, tensor: &TensorInfo, style| match c.format {
            Format::Gguf { .. } => 0.0,
            _ => shift(c, tensor, style),
        };
        let (shift_a, shift_b) = (into_gguf(a, ours, style_b), into_gguf(b, theirs, style_a));
        let mut ours = Elements::new(ours, out_of_gguf(a, ours, style_b)).shifted(shift_a);
        let mut theirs = Elements::new(theirs, out_of_gguf(b, theirs, style_a)).shifted(shift_b);
        // Blocks of codes lie in the rows of what is quantized.
        let back = |coded: &TensorInfo, checkpoint: &Checkpoint, other: &TensorInfo| {
            let held = !matches!(checkpoint.format, Format::Gguf { .. }) && other.quantized.is_none();
            let (rows, cols) = held_transposed(coded).filter(|_| held)?;
            let is_held_so = matches!(other.shape[..], [_, a, b] if (a, b) == (cols, rows));
            is_held_so.then_some((cols, rows))
        };
        let (of_ours, of_theirs) =
            (back(&theirs.tensor, a, &ours.tensor), back(&ours.tensor, b, &theirs.tensor));
        (ours, theirs) = (ours.transposed(of_ours), theirs.transposed(of_theirs));
        ours.grid = ternary_form(a, &ours.tensor, b)?;
        theirs.grid = ternary_form(b, &theirs.tensor, a)?;
        let compared = compare(a, &ours, b, &theirs, Made::Either)?;
        // Gains less one may have been more by one in a file between the two, and a network computes with the sums.
        let sums = |c: &Checkpoint, elements: &Elements<'_>| match c.format {
            Format::Gguf { .. } => 0.0,
            _ => shift(c, &elements.tensor, Some(Style::Gguf)),
        };
        let (shift_a, shift_b) = (sums(a, &ours), sums(b, &theirs));
        match !compared.agrees && shift_a != 0.0 && shift_a == shift_b {
            true => {
                let summed = compare(a, &ours.shifted(shift_a), b, &theirs.shifted(shift_b), Made::Either)?;
                Ok(if summed.agrees { summed } else { compared })
            }
            false => Ok(compared),
        }
    };
    let (in_a, in_b) = (by_name(&ours), by_name(&theirs));
    let (kept_by_a, kept_by_b) = (of_trainers(a), of_trainers(b));
    for (key, tensor) in &ours {
        match find(&in_b, key) {
            Some(j) => report.tensors.push(pair(tensor, &theirs[j].1)?),
            None if kept_by_a.contains(&tensor.name) => report.skipped.push(tensor.name.clone()),
            None => report.missing.push(key.clone()),
        }
    }
    for (j, (key, tensor)) in theirs.iter().enumerate() {
        if in_b.get(key.as_str()) != Some(&j) || in_a.contains_key(key.as_str()) {
            continue;
        }
        match find(&in_a, key) {
            Some(i) => report.tensors.push(pair(&ours[i].1, tensor)?),
            None if kept_by_b.contains(&tensor.name) => report.skipped.push(tensor.name.clone()),
            None => report.extra.push(key.clone()),
        }
    }
    let is_left = |t: &&TensorInfo| !has_data(t) || is_for_training(t);
    let left = [a, b].into_iter().flat_map(|side| side.tensors.iter().filter(is_left));
    report.skipped.extend(left.map(|t| t.name.clone()));
    let mut seen = HashSet::new();
    report.skipped.retain(|name| seen.insert(name.clone()));
    Ok(report)
}

/// Calls those weights of `theirs` as `ours` that nothing in `ours` is called like, where names match once they lose what
/// either side's begin with.
fn call_alike(
    (a, ours): (&Checkpoint, &[(String, TensorInfo)]),
    (b, theirs): (&Checkpoint, &mut [(String, TensorInfo)]),
) {
    let open = |own: &[(String, TensorInfo)], other: &[(String, TensorInfo)]| -> Vec<usize> {
        let called: HashSet<&str> = other.iter().map(|(key, _)| key.as_str()).collect();
        (0..own.len()).filter(|&i| !called.contains(own[i].0.as_str())).collect()
    };
    let (at_a, at_b) = (open(ours, theirs), open(theirs, ours));
    let names = |at: &[usize], list: &[(String, TensorInfo)]| -> Vec<String> {
        at.iter().map(|&i| list[i].0.clone()).collect()
    };
    let (names_a, names_b) = (names(&at_a, ours), names(&at_b, theirs));
    let [names_a, names_b] =
        [&names_a, &names_b].map(|names| names.iter().map(String::as_str).collect::<Vec<_>>());
    let called = |c: &Checkpoint| {
        let family = c.model.family();
        move |name: &str| names::canonical_in(family, name).into_owned()
    };
    let (called_a, called_b) = (called(a), called(b));
    let pairs = beginnings::matched(
        &beginnings::Side::new(&names_a, &called_a),
        &beginnings::Side::new(&names_b, &called_b),
        &|i, j| ours[at_a[i]].1.shape == theirs[at_b[j]].1.shape,
    );
    for (i, j) in pairs {
        theirs[at_b[j]].0.clone_from(&ours[at_a[i]].0);
    }
}

fn has_data(tensor: &TensorInfo) -> bool {
    tensor.storage.is_some() || tensor.sparse.is_some()
}

/// Whether a conversion leaves `tensor` out, unless it keeps what only training needs.
fn is_for_training(tensor: &TensorInfo) -> bool {
    let first = tensor.name.split('.').next().unwrap_or("");
    tensor.group == Group::Optimizer || (tensor.group == Group::Other && is_training_state(first))
}

/// Names of the numbers that a trainer keeps beside the weights, which not every format holds.
fn of_trainers(checkpoint: &Checkpoint) -> HashSet<String> {
    role::of_trainers(&checkpoint.tensors).collect()
}

/// Where the tensor of each name is; of several the last one.
fn by_name(weights: &[(String, TensorInfo)]) -> HashMap<&str, usize> {
    weights.iter().enumerate().map(|(i, (key, _))| (key.as_str(), i)).collect()
}

/// How a BitLinear's float matrix becomes ternary, if `other` records that it stores such matrices in ternary form.
fn ternary_form(checkpoint: &Checkpoint, tensor: &TensorInfo, other: &Checkpoint) -> Result<Option<Grid>> {
    let model = &checkpoint.model;
    let latent = tensor.dtype.is_float() && model.is_ternary(tensor) && !model.holds_codes();
    match latent && other.model.holds_codes() {
        true => Ok(Some(grid(checkpoint, tensor, checkpoint.model.quantization_floor())?)),
        false => Ok(None),
    }
}

fn style(checkpoint: &Checkpoint) -> Option<Style> {
    names::style_of(checkpoint.tensors.iter().map(|t| t.name.as_str()))
}

/// All that a conversion writes of `checkpoint` but what trainers keep, by their places, under the names that all styles and
/// wrappers share, including those recorded as tied. If several state dicts make a name ambiguous, full names are used.
pub(crate) fn shared_names(checkpoint: &Checkpoint) -> Vec<(String, usize)> {
    let of_trainers = of_trainers(checkpoint);
    let mut named = named(checkpoint);
    named.retain(|(_, i)| !of_trainers.contains(&checkpoint.tensors[*i].name));
    named
}

/// The same with what trainers keep.
fn named(checkpoint: &Checkpoint) -> Vec<(String, usize)> {
    let (beside, helpers) = (beside_codes(checkpoint), helpers(checkpoint, Target::SafeTensors));
    let mut all: Vec<(String, usize)> = checkpoint
        .tensors
        .iter()
        .enumerate()
        .filter(|(i, t)| {
            !helpers.contains(i)
                && !is_for_training(t)
                && !beside.contains(i)
                // Tensors that are plain values in other formats.
                && !names::is_rope_factors(&t.name)
                && has_data(t)
        })
        .map(|(i, t)| (t.name.clone(), i))
        .collect();
    all.extend(tied_names(checkpoint));
    let names = wrappers::shared(all.iter().map(|(name, _)| name.as_str()), &|name| {
        names::canonical_in(checkpoint.model.family(), name).into_owned()
    });
    names.into_iter().map(|name| name.into_owned()).zip(all.iter().map(|(_, i)| *i)).collect()
}

/// [`named`], with the matrices of experts apart.
fn weights(checkpoint: &Checkpoint) -> Vec<(String, TensorInfo)> {
    let apart = |(name, i): (String, usize)| {
        let tensor = &checkpoint.tensors[i];
        match stacked(checkpoint, tensor) {
            None => vec![(name, tensor.clone())],
            Some(parts) => {
                parts.into_iter().map(|(number, part)| (names::of_expert(&name, number), part)).collect()
            }
        }
    };
    named(checkpoint).into_iter().flat_map(apart).collect()
}

/// Reads back what was written from `plan` to `path` and compares it with the plan's source.
///
/// # Errors
/// When it cannot be read.
pub fn verify_written(plan: &Plan<'_>, path: &Path) -> Result<Report> {
    let mut options = OpenOptions::default();
    options.stored = plan.keeps;
    let written = ckpt_inspect::open_with(path, &options)?;
    let index: HashMap<&str, &TensorInfo> = written.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let tied: HashMap<&str, &str> = plan.tied.iter().map(|(n, kept)| (n.as_str(), kept.as_str())).collect();
    let kept: HashSet<&str> = plan
        .tensors
        .iter()
        .filter(|t| matches!(plan.blobs[t.blob].content, Content::Repacked(_)))
        .map(|t| t.name.as_str())
        .collect();
    let mut report = Report::default();
    for pair in &plan.pairs {
        let name = tied.get(pair.name.as_str()).copied().unwrap_or(&pair.name);
        match index.get(name) {
            Some(&tensor) => {
                let theirs = Elements::new(tensor, None);
                let made = if kept.contains(name) { Made::Kept } else { Made::Second };
                report.tensors.push(compare(plan.source, &pair.elements, &written, &theirs, made)?);
            }
            None => report.missing.push(pair.name.clone()),
        }
    }
    let wanted: HashSet<&str> = plan.tensors.iter().map(|t| t.name.as_str()).collect();
    report.extra.extend(index.keys().filter(|n| !wanted.contains(*n)).map(|n| n.to_string()));
    Ok(report)
}
