//! What differs between two checkpoints: tensors added, removed, reshaped, retyped and changed, by how much, and plain
//! values such as config and optimizer settings.
//!
//! Values are decoded from any packing and compared as real numbers, in f64. Both sides are read in
//! blocks, once; matrices of a BitLinear a second time, because what rounds to zero depends on mean|W|. Tensors whose
//! bytes are the same are not looked at further.

mod elements;
mod moments;
mod plain;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
pub use crate::meaning::elements::RowOrder;
use crate::meaning::{StateDicts, beginnings, wrappers};
use crate::optimizer::PARAM_GROUPS;
use crate::tensor::TensorInfo;
use crate::{DType, Format, Group, path_text, without_state_dict};
pub use elements::diff_tensors;

/// Two checkpoints compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Diff {
    /// The first one.
    pub a: Side,
    /// The second one.
    pub b: Side,
    /// Every tensor of either, in the order of the first one; those that only the second one has last.
    pub tensors: Vec<TensorDiff>,
    /// Optimizer settings (`param_groups`) that differ.
    pub settings: Vec<ValueChange>,
    /// Other plain values that differ: config, step, loss, SafeTensors `__metadata__`, GGUF keys.
    pub metadata: Vec<ValueChange>,
}

/// One of the two checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
#[non_exhaustive]
pub struct Side {
    pub path: String,
    pub format: Format,
    pub step: Option<u64>,
    pub file_bytes: u64,
    pub damaged: bool,
}

/// How a tensor differs, from least to most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// No value differs by more than the tolerance.
    #[default]
    Same,
    /// Another dtype or packing, and values within the tolerance.
    Retyped,
    /// Values differ. The dtype may, too.
    Changed,
    /// Another shape, so that values are not compared.
    Reshaped,
    /// Only the second checkpoint has it.
    Added,
    /// Only the first checkpoint has it.
    Removed,
    /// Values cannot be compared, because those of one side cannot be read.
    Unreadable,
}

/// One tensor of either checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TensorDiff {
    /// Its name without the key of the state dict; where the two sides' differ, the name that the mapping gives both.
    pub name: String,
    /// How it differs.
    pub status: Status,
    /// As the first checkpoint has it.
    pub a: Option<TensorSide>,
    /// As the second checkpoint has it.
    pub b: Option<TensorSide>,
    /// By how much values differ; `None` where they were not compared, or found to be the same bytes.
    pub values: Option<ValueDiff>,
    /// Which codes differ, for matrices that a BitLinear uses or that are packed ternary.
    pub ternary: Option<CodeDiff>,
    /// Why values could not be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A tensor as one checkpoint has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
#[non_exhaustive]
pub struct TensorSide {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<u64>,
    pub group: Group,
}

/// By how much the elements x of the first and y of the second tensor differ. Norms, the cosine and the largest
/// difference are over the elements that are finite in both; `None` where f64 cannot hold them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ValueDiff {
    /// Elements (of a complex tensor: real and imaginary parts).
    pub count: u64,
    /// Elements that are equal, as numbers; NaN equals NaN.
    pub equal: u64,
    /// Elements that are NaN or infinite on either side.
    pub nonfinite: u64,
    /// |x|, Euclidean.
    pub norm_a: Option<f64>,
    /// |y|, Euclidean.
    pub norm_b: Option<f64>,
    /// |y - x|, Euclidean.
    pub norm_change: Option<f64>,
    /// |y - x| / |x|; `None` when |x| is 0.
    pub relative_change: Option<f64>,
    /// x.y / (|x| |y|); `None` when either is 0.
    pub cosine: Option<f64>,
    /// Largest |y - x| of an element.
    pub max_difference: Option<f64>,
    /// Index of the first element with this difference.
    pub max_at: Vec<u64>,
}

impl ValueDiff {
    /// Share of elements that are equal, 0 to 1; 1 for an empty tensor.
    pub fn equal_share(&self) -> f64 {
        if self.count == 0 { 1.0 } else { self.equal as f64 / self.count as f64 }
    }
}

/// How the codes -1, 0, +1 of a ternary matrix differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CodeDiff {
    /// Codes.
    pub count: u64,
    /// Codes that differ: the sum of the three below.
    pub flipped: u64,
    /// From -1 or +1 to 0.
    pub silenced: u64,
    /// From 0 to -1 or +1.
    pub woken: u64,
    /// From -1 to +1 or back.
    pub reversed: u64,
}

impl CodeDiff {
    /// Share of codes that agree, 0 to 1; 1 for an empty matrix.
    pub fn agreement(&self) -> f64 {
        if self.count == 0 { 1.0 } else { 1.0 - self.flipped as f64 / self.count as f64 }
    }
}

/// A plain value that one side lacks or that differs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ValueChange {
    /// Keys and indices joined by dots.
    pub path: String,
    /// In the first checkpoint; `None` when it is not there.
    pub a: Option<serde_json::Value>,
    /// In the second checkpoint; `None` when it is not there.
    pub b: Option<serde_json::Value>,
}

/// What is compared, and how.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Options<'o> {
    /// Maps a tensor's name, without the key of its state dict, to the name used for both sides. The identity
    /// unless formats differ.
    pub canonical: &'o (dyn Fn(&str) -> String + Sync),
    /// Gives a matrix whose rows a format keeps in an order of its own the order of the others: where row `r` is in the
    /// file. `None` for rows that are in order.
    pub rows: &'o (dyn Fn(&Checkpoint, &TensorInfo) -> Option<RowOrder> + Sync),
    /// Which tensors to compare.
    pub select: &'o (dyn Fn(&TensorInfo) -> bool + Sync),
    /// Largest difference of an element that still counts as equal.
    pub tolerance: f64,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { canonical: &|name| name.to_string(), rows: &|_, _| None, select: &|_| true, tolerance: 0.0 }
    }
}

impl Diff {
    /// Tensors of this status.
    pub fn count(&self, status: Status) -> usize {
        self.tensors.iter().filter(|t| t.status == status).count()
    }

    /// Whether any tensor or plain value differs.
    pub fn is_different(&self) -> bool {
        self.tensors.iter().any(|t| t.status != Status::Same)
            || !self.settings.is_empty()
            || !self.metadata.is_empty()
    }

    /// Whether the values of all tensors of either side are the same within the tolerance: other dtypes and
    /// plain values do not matter.
    pub fn has_same_values(&self) -> bool {
        self.tensors.iter().all(|t| matches!(t.status, Status::Same | Status::Retyped))
    }
}

/// Compares `a` with `b`. `watch` is called with the number of bytes of both sides that were processed, and stops the
/// comparison by returning false; the result is then `None`.
pub fn diff(
    a: &Checkpoint,
    b: &Checkpoint,
    options: Options<'_>,
    watch: &(dyn Fn(u64) -> bool + Sync),
) -> Option<Diff> {
    let mut tensors = Vec::new();
    for (name, left, right) in pairs(a, b, options) {
        tensors.push(match (left, right) {
            (Some(left), Some(right)) => TensorDiff { name, ..diff_tensors((a, left), (b, right), options) },
            (left, right) => TensorDiff {
                name,
                status: if left.is_some() { Status::Removed } else { Status::Added },
                a: left.map(side),
                b: right.map(side),
                ..TensorDiff::default()
            },
        });
        let sizes = left.into_iter().chain(right).filter_map(TensorInfo::byte_len);
        // A header may claim any size.
        let bytes = sizes.fold(0, u64::saturating_add);
        if !watch(bytes) {
            return None;
        }
    }
    let mut changes = plain::changes(&a.metadata, &b.metadata);
    if [a, b].iter().any(|one| one.format == Format::SafeTensors) {
        // Which library wrote a header is no value of the checkpoint: `{"format": "pt"}`.
        changes.retain(|c| c.path != "format" || (c.a.is_some() && c.b.is_some()));
    }
    let (settings, metadata) = changes.into_iter().partition(|c| c.path.contains(PARAM_GROUPS));
    let about = |c: &Checkpoint| Side {
        path: path_text(&c.path),
        format: c.format,
        step: c.step.as_ref().map(|(step, _)| *step),
        file_bytes: c.file_bytes(),
        damaged: c.is_damaged(),
    };
    Some(Diff { a: about(a), b: about(b), tensors, settings, metadata })
}

fn side(tensor: &TensorInfo) -> TensorSide {
    TensorSide {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.iter().map(|&d| d as u64).collect(),
        group: tensor.group,
    }
}

type Pair<'t> = (String, Option<&'t TensorInfo>, Option<&'t TensorInfo>);

/// Tensors of the same name: of the same full name first, then weights of the same name without what wraps them, then any
/// of the same name without the state dict's key, where that is one tensor's alone; of optimizers, then, what is kept of
/// the same weight.
fn pairs<'t>(a: &'t Checkpoint, b: &'t Checkpoint, options: Options<'_>) -> Vec<Pair<'t>> {
    let selected = |c: &'t Checkpoint| -> Vec<&'t TensorInfo> {
        c.tensors.iter().filter(|t| (options.select)(t)).collect()
    };
    let (left, right) = (selected(a), selected(b));
    let short = |t: &TensorInfo| (options.canonical)(without_state_dict(&t.name));
    let mut partner: Vec<Option<usize>> = vec![None; left.len()];
    let mut taken = vec![false; right.len()];
    let mut full: HashMap<&str, usize> = HashMap::new();
    for (i, tensor) in right.iter().enumerate() {
        full.entry(&tensor.name).or_insert(i);
    }
    for (slot, tensor) in partner.iter_mut().zip(&left) {
        if let Some(&at) = full.get(tensor.name.as_str()).filter(|&&at| !taken[at]) {
            taken[at] = true;
            *slot = Some(at);
        }
    }
    let unique = |names: Vec<(usize, String)>| {
        let mut index: HashMap<String, Option<usize>> = HashMap::new();
        for (i, name) in names {
            index.entry(name).and_modify(|i| *i = None).or_insert(Some(i));
        }
        index
    };
    let open = |list: &[&TensorInfo], free: &dyn Fn(usize) -> bool| {
        unique(list.iter().enumerate().filter(|(i, _)| free(*i)).map(|(i, t)| (i, short(t))).collect())
    };
    let unwrapped = |list: &[&'t TensorInfo], free: &dyn Fn(usize) -> bool| {
        let weights: Vec<(usize, &str)> = list
            .iter()
            .enumerate()
            .filter(|(i, t)| t.group == Group::Weights && free(*i))
            .map(|(i, t)| (i, t.name.as_str()))
            .collect();
        let names = wrappers::shared(weights.iter().map(|(_, name)| *name), &options.canonical);
        unique(weights.iter().zip(names).map(|((i, _), name)| (*i, name.into_owned())).collect())
    };
    let open_left = unwrapped(&left, &|i| partner[i].is_none());
    let open_right = unwrapped(&right, &|i| !taken[i]);
    for (name, i) in open_left {
        if let (Some(i), Some(Some(at))) = (i, open_right.get(&name)) {
            taken[*at] = true;
            partner[i] = Some(*at);
        }
    }
    let open_left = open(&left, &|i| partner[i].is_none());
    let open_right = open(&right, &|i| !taken[i]);
    for (name, i) in open_left {
        if let (Some(i), Some(Some(at))) = (i, open_right.get(&name)) {
            taken[*at] = true;
            partner[i] = Some(*at);
        }
    }
    // What nobody knows as a wrapper is one where names match without it.
    let rest = |list: &[&'t TensorInfo], free: &dyn Fn(usize) -> bool| -> (Vec<usize>, Vec<&'t str>) {
        let open = list.iter().enumerate().filter(|(i, t)| t.group == Group::Weights && free(*i));
        open.map(|(i, t)| (i, t.name.as_str())).unzip()
    };
    let (at_left, names_left) = rest(&left, &|i| partner[i].is_none());
    let (at_right, names_right) = rest(&right, &|i| !taken[i]);
    let begun = beginnings::matched(
        &beginnings::Side::new(&names_left, options.canonical),
        &beginnings::Side::new(&names_right, options.canonical),
        &|i, j| left[at_left[i]].shape == right[at_right[j]].shape,
    );
    let begun: HashMap<usize, usize> = begun.into_iter().map(|(i, j)| (at_left[i], at_right[j])).collect();
    for (&i, &at) in &begun {
        taken[at] = true;
        partner[i] = Some(at);
    }
    // Moments are kept under the number of their weight, or under its name.
    let (states_a, states_b) = (moments::States::of(a), moments::States::of(b));
    let of_weights = |list: &[&TensorInfo], states: &moments::States, free: &dyn Fn(usize) -> bool| {
        let open = list.iter().enumerate().filter(|(i, _)| free(*i));
        unique(open.filter_map(|(i, t)| Some((i, states.called(t, options.canonical)?))).collect())
    };
    let open_left = of_weights(&left, &states_a, &|i| partner[i].is_none());
    let open_right = of_weights(&right, &states_b, &|i| !taken[i]);
    for (name, i) in open_left {
        if let (Some(i), Some(Some(at))) = (i, open_right.get(&name)) {
            taken[*at] = true;
            partner[i] = Some(*at);
        }
    }
    let (dicts_a, dicts_b) = (StateDicts::of(a), StateDicts::of(b));
    let bare = |t: &TensorInfo| (options.canonical)(&wrappers::unwrapped(&t.name));
    let both = |a: &TensorInfo, b: &TensorInfo| {
        if dicts_a.own(&a.name) == dicts_b.own(&b.name) {
            dicts_a.own(&a.name).to_string()
        } else if a.name == b.name {
            a.name.clone()
        } else if short(a) == short(b) {
            short(a)
        } else {
            bare(a)
        }
    };
    let matched = left.iter().zip(partner).enumerate().map(|(i, (t, at))| match at.map(|at| right[at]) {
        // The shorter name is the one that begins with less.
        Some(other) if begun.contains_key(&i) => {
            let names = [dicts_a.own(&t.name), dicts_b.own(&other.name)];
            let shorter = names.into_iter().min_by_key(|name| name.len()).unwrap_or(&t.name);
            (shorter.to_string(), Some(*t), Some(other))
        }
        Some(other) => (both(t, other), Some(*t), Some(other)),
        None => (dicts_a.own(&t.name).to_string(), Some(*t), None),
    });
    let alone = right.iter().zip(taken).filter(|(_, taken)| !taken);
    let alone = alone.map(|(t, _)| (dicts_b.own(&t.name).to_string(), None, Some(*t)));
    let mut pairs: Vec<Pair<'t>> = matched.chain(alone).collect();
    // No two are shown as one.
    let mut uses: HashMap<String, usize> = HashMap::new();
    for (name, ..) in &pairs {
        *uses.entry(name.clone()).or_default() += 1;
    }
    for (name, left, right) in &mut pairs {
        if let (true, Some(tensor)) = (uses[name] > 1, left.or(*right)) {
            *name = tensor.name.clone();
        }
    }
    pairs
}
