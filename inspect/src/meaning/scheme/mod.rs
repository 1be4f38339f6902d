//! Quantization schemes: which stored tensors are the codes, scales and zero points of one weight, told from the tensors
//! themselves and from what a configuration says of them. A new one is a file, and a line in [`SCHEMES`].

mod affine;
mod awq;
mod beside;
mod bitsandbytes;
mod compressed_tensors;
pub(crate) mod config;
mod float8;
mod geometry;
mod gptq;
mod instance;
mod mlx;
mod modelopt;
mod mxfp4;
pub(crate) mod names;
mod nvfp4;
mod sparse;
mod torchao;
mod unread;

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::checkpoint::Checkpoint;
use crate::metadata::{HashableValue, Value};
use crate::quantized::{Blocking, Code, Form, Maker, Part, PartRole, QuantFault, QuantType, Quantized};
use crate::tensor::{TensorInfo, contiguous_strides};
use crate::{DType, Group, Notice, NoticeKind, Role};
pub use config::Coding;
pub(crate) use config::Config;

/// One scheme: the weight whose codes are the tensor at a place, if they are of it.
type Scheme = fn(&Stored<'_>, usize) -> Option<Found>;

/// Every scheme, in the order in which they are asked; the last ones know those that are not read.
static SCHEMES: [Scheme; 14] = [
    torchao::find,
    affine::find,
    sparse::find,
    bitsandbytes::find,
    modelopt::find,
    nvfp4::find,
    mxfp4::find,
    compressed_tensors::find,
    float8::find,
    gptq::find,
    awq::find,
    mlx::find,
    unread::find,
    beside::find,
];

/// A weight, or why its codes cannot be read.
type Found = Result<Weight, QuantFault>;

/// A quantized weight among stored tensors.
struct Weight {
    name: String,
    shape: Vec<usize>,
    kind: QuantType,
    /// Places of its tensors, codes first.
    parts: Vec<(PartRole, usize)>,
    form: Form,
    /// What had to be assumed of it.
    assumed: Option<&'static str>,
}

/// The tensors of a checkpoint as its files have them.
struct Stored<'c> {
    checkpoint: &'c Checkpoint,
    config: &'c Config,
    index: HashMap<&'c str, usize>,
    /// Places by name.
    sorted: OnceCell<Vec<usize>>,
    /// Whether some 8-bit floats have scales beside them.
    float8_is_scaled: bool,
    /// The rows and columns of their blocks, where the shapes of all of them leave one choice.
    float8_blocks: OnceCell<(Option<usize>, Option<usize>)>,
}

impl<'c> Stored<'c> {
    fn new(checkpoint: &'c Checkpoint, config: &'c Config) -> Self {
        let mut index = HashMap::new();
        for (i, tensor) in checkpoint.tensors.iter().enumerate() {
            index.entry(tensor.name.as_str()).or_insert(i);
        }
        let (sorted, float8_blocks) = Default::default();
        let mut stored = Stored { checkpoint, config, index, sorted, float8_is_scaled: false, float8_blocks };
        let is_scaled = |tensor: &TensorInfo| {
            float8::code(tensor.dtype).is_some() && float8::scale(&stored, &tensor.name).is_some()
        };
        stored.float8_is_scaled = checkpoint.tensors.iter().any(is_scaled);
        stored
    }

    fn tensor(&self, at: usize) -> &'c TensorInfo {
        &self.checkpoint.tensors[at]
    }

    /// The place of the tensor called `name`.
    fn at(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Places of the tensors whose names begin with `stem`, by name.
    fn beginning_with<'s>(&'s self, stem: &'s str) -> impl Iterator<Item = usize> {
        let sorted = self.sorted.get_or_init(|| {
            let mut all: Vec<usize> = (0..self.checkpoint.tensors.len()).collect();
            all.sort_unstable_by_key(|&at| self.tensor(at).name.as_str());
            all
        });
        let first = sorted.partition_point(|&at| self.tensor(at).name.as_str() < stem);
        sorted[first..].iter().copied().take_while(move |&at| self.tensor(at).name.starts_with(stem))
    }

    /// The place of the first that there is of `names`.
    fn first_of<const N: usize>(&self, names: [String; N]) -> Option<usize> {
        names.iter().find_map(|name| self.at(name))
    }

    /// The place of the tensor called `name`, which codes need as their `part`.
    fn need(&self, part: PartRole, name: String) -> Result<usize, QuantFault> {
        self.at(&name).ok_or(QuantFault::Missing { part, wanted: name })
    }

    /// What the plain values of the files say under `name`, which may hold dots.
    fn plain_value(&self, name: &str) -> Option<&'c Value> {
        match &self.checkpoint.metadata {
            Value::Dict(all) => all.get(&HashableValue::String(name.to_string())),
            _ => None,
        }
    }

    /// The whole numbers in a small tensor; `None` for others.
    fn integers(&self, at: usize) -> Option<Vec<usize>> {
        let tensor = self.tensor(at);
        let small = tensor.numel() <= 8 && tensor.dtype.is_integer() && is_sound(tensor);
        let values = small.then(|| self.checkpoint.values(tensor).ok())??;
        // Sizes beyond those that f32 holds are no sizes of matrices.
        let size = |&x: &f32| (x >= 0.0 && x.fract() == 0.0 && x <= 16_777_216.0).then_some(x as usize);
        values.iter().map(size).collect()
    }
}

/// Whether `tensor` has no data of its own: an instance of a subclass of PyTorch's tensors, whose parts are others.
fn is_shell(tensor: &TensorInfo) -> bool {
    tensor.storage.is_none() && tensor.sparse.is_none() && tensor.damage.is_none()
}

/// Whether the bytes of `tensor` can be read as they lie.
fn is_sound(tensor: &TensorInfo) -> bool {
    tensor.damage.is_none()
        && tensor.storage.is_some()
        && tensor.sparse.is_none()
        && tensor.quantizer.is_none()
        && tensor.quantized.is_none()
        && tensor.dtype.element_size().is_some()
        && (tensor.is_contiguous() || tensor.check_expansion().is_ok())
}

impl Weight {
    /// The same, if its tensors are as large as it needs and can be read.
    fn checked(self, stored: &Stored<'_>) -> Found {
        let tensor = |part: usize| stored.tensor(self.parts[part].1);
        if let Some((_, at)) = self.parts.iter().find(|(_, at)| !is_sound(stored.tensor(*at))) {
            return Err(QuantFault::Unreadable { part: stored.tensor(*at).name.clone() });
        }
        let size = |n: u64| usize::try_from(n).unwrap_or(0);
        let bytes: Vec<usize> =
            self.parts.iter().map(|(_, at)| size(stored.tensor(*at).byte_len().unwrap_or(0))).collect();
        let counts: Vec<usize> = self.parts.iter().map(|(_, at)| size(stored.tensor(*at).numel())).collect();
        // Groups that an index tells are checked when it is read.
        let groups = if self.form.index.is_some() { 1 } else { self.form.groups() };
        let numel = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let short = match numel.is_some() && numel == self.form.numel() {
            true => self.form.too_small(groups, &bytes, &counts),
            false => Some(0),
        };
        match short {
            None => Ok(self),
            Some(part) => Err(QuantFault::shape(tensor(part), tensor(0))),
        }
    }
}

/// Makes the weights of quantized checkpoints of the tensors that they are stored in, or only counts them if they are to
/// be listed as they are `stored`.
pub(crate) fn recognise(checkpoint: &mut Checkpoint, config: &Config, stored: bool) {
    let mut coding = Coding::of(config);
    let unread = config.unread();
    let (weights, faults, shells, instances) = {
        let stored = Stored::new(checkpoint, config);
        let (mut weights, mut faults, mut shells) = (Vec::new(), Vec::new(), HashSet::new());
        let mut taken: HashSet<usize> = HashSet::new();
        for at in 0..checkpoint.tensors.len() {
            let is_read = unread.is_none() && checkpoint.tensors[at].group != Group::Optimizer;
            if taken.contains(&at) || !is_read {
                continue;
            }
            let found = SCHEMES.iter().find_map(|find| find(&stored, at));
            let found = found.map(|found| {
                let weight = modelopt::completed(found?, &stored)?.checked(&stored)?;
                let weight = beside::used(weight, &stored)?;
                let other = stored.at(&weight.name).filter(|&other| other != at);
                match other.is_some_and(|other| !is_shell(stored.tensor(other))) {
                    true => Err(QuantFault::Twice { name: weight.name }),
                    false => Ok(weight),
                }
            });
            match found {
                None => {}
                Some(Ok(weight)) => {
                    taken.extend(weight.parts.iter().map(|(_, at)| *at));
                    shells.extend(stored.at(&weight.name).filter(|&other| other != at));
                    let wraps =
                        |name: &str| stored.at(name).filter(|&at| checkpoint.tensors[at].instance.is_some());
                    shells.extend(instance::parents(&checkpoint.tensors[at].name).filter_map(wraps));
                    weights.push((at, weight));
                }
                Some(Err(fault)) => faults.push((at, fault)),
            }
        }
        for (nth, fault) in unlike(&weights, &stored).into_iter().rev() {
            faults.push((weights.remove(nth).0, fault));
        }
        if let Some(scheme) = &unread {
            let codes = unread::codes(&stored).into_iter();
            faults.extend(codes.map(|at| (at, QuantFault::Unread { scheme: scheme.clone() })));
        }
        let fault = || match &unread {
            Some(scheme) => QuantFault::Unread { scheme: scheme.clone() },
            None => QuantFault::Unexplained,
        };
        let known: HashSet<usize> = faults.iter().map(|(at, _)| *at).chain(taken).collect();
        let mut instances = instance::unread(&stored, &shells);
        instances.retain(|instance| !instance.below.iter().any(|at| known.contains(at)));
        for instance::Unread { at, what, .. } in &instances {
            if let instance::What::Of(class) = what {
                faults.push((*at, QuantFault::Class { class: class.clone() }));
            }
        }
        let known =
            known.into_iter().chain(instances.iter().flat_map(|instance| instance.below.iter().copied()));
        let known: HashSet<usize> = known.chain(faults.iter().map(|(at, _)| *at)).collect();
        let layer = |at: usize| checkpoint.tensors[at].name.rsplit_once('.').map(|(layer, _)| layer);
        // What is beside codes of a scheme that is named is explained by it.
        let named: HashSet<&str> = faults
            .iter()
            .filter(|(_, fault)| matches!(fault, QuantFault::Unread { .. }))
            .filter_map(|(at, _)| layer(*at))
            .collect();
        let unexplained = unexplained(checkpoint, config, &known);
        let unexplained = unexplained.into_iter().filter(|at| layer(*at).is_none_or(|l| !named.contains(l)));
        faults.extend(unexplained.map(|at| (at, fault())));
        (weights, faults, shells, instances)
    };
    if stored {
        coding.stored = weights.len() + faults.len();
        checkpoint.coding = coding;
        return;
    }
    let faulty: HashSet<usize> = faults.iter().map(|(at, _)| *at).collect();
    coding.faults =
        faults.into_iter().map(|(at, fault)| (checkpoint.tensors[at].name.clone(), fault)).collect();
    let mut assumed: Vec<(&'static str, usize)> = Vec::new();
    let mut gone: HashSet<usize> = shells;
    for (at, weight) in weights {
        if let Some(what) = weight.assumed {
            match assumed.iter_mut().find(|(known, _)| *known == what) {
                Some((_, count)) => *count += 1,
                None => assumed.push((what, 1)),
            }
        }
        gone.extend(weight.parts.iter().skip(1).map(|(_, at)| *at));
        let part = |&(role, at): &(PartRole, usize)| Part { role, tensor: checkpoint.tensors[at].clone() };
        let parts = weight.parts.iter().map(part).collect();
        let Some(quantized) = Quantized::new(parts, weight.form) else { continue };
        let codes = &mut checkpoint.tensors[at];
        codes.name = weight.name;
        codes.dtype = DType::Quantized(weight.kind);
        codes.strides = contiguous_strides(&weight.shape);
        codes.shape = weight.shape;
        codes.group = Group::Weights;
        codes.quantized = Some(Arc::new(quantized));
    }
    for instance::Unread { at, below, what } in instances {
        below.iter().for_each(|&at| checkpoint.tensors[at].group = Group::Other);
        if let instance::What::Same(own) = what {
            let whole = &checkpoint.tensors[at];
            let (name, group) = (whole.name.clone(), whole.group);
            (checkpoint.tensors[own].name, checkpoint.tensors[own].group) = (name, group);
            gone.insert(at);
        }
    }
    orphans(checkpoint, &gone, &faulty, &mut coding);
    let mut at = 0..;
    checkpoint.tensors.retain(|_| !at.next().is_some_and(|at| gone.contains(&at)));
    for (what, count) in assumed {
        let weights = if count == 1 { "1 quantized weight" } else { &format!("{count} quantized weights") };
        checkpoint.warnings.push(Notice::new(NoticeKind::AssumedLayout, format!("{weights}: {what}")));
    }
    coding.describe(checkpoint);
    checkpoint.coding = coding;
}

/// Which of `weights` have scales of blocks that nothing asks for, where most of their kind have others: they are another
/// weight's. Only 8-bit floats have blocks that nothing but the shape of their scales tells.
fn unlike(weights: &[(usize, Weight)], stored: &Stored<'_>) -> Vec<(usize, QuantFault)> {
    if !stored.config.blockings().is_empty() {
        return Vec::new();
    }
    // Those of instances and of microscaling formats are asked for.
    let is_float8 = |weight: &Weight| {
        let is_free = weight.kind.maker != Maker::Torchao && weight.kind.code != Code::Mxfp8;
        is_free && float8::code(stored.tensor(weight.parts[0].1).dtype).is_some()
    };
    let float8s = || weights.iter().enumerate().filter(|(_, (_, weight))| is_float8(weight));
    let mut counts: Vec<(Blocking, usize)> = Vec::new();
    for (_, (_, weight)) in float8s() {
        let blocking = weight.kind.blocking;
        match counts.iter_mut().find(|(known, _)| *known == blocking) {
            Some((_, count)) => *count += 1,
            None => counts.push((blocking, 1)),
        }
    }
    let total: usize = counts.iter().map(|(_, count)| count).sum();
    let Some(&(most, _)) = counts.iter().find(|(_, count)| *count > 1 && 2 * count > total) else {
        return Vec::new();
    };
    let differs = |weight: &Weight| {
        let own = weight.kind.blocking;
        let is_usual = matches!(own, Blocking::Tensor | Blocking::Channel) || own == float8::USUAL_BLOCK;
        own != most && !is_usual
    };
    let differing = float8s().filter(|(_, (_, weight))| differs(weight) && weight.parts.len() > 1);
    let fault = |weight: &Weight| {
        let part = stored.tensor(weight.parts[1].1);
        let found = part.shape.iter().map(|&d| d as u64).collect();
        QuantFault::Unlike { part: part.name.clone(), found, others: geometry::in_words(&[most]) }
    };
    differing.map(|(nth, (_, weight))| (nth, fault(weight))).collect()
}

/// Places of the matrices of a quantized checkpoint that must be codes, by their type, and are none that is `known`.
fn unexplained(checkpoint: &Checkpoint, config: &Config, known: &HashSet<usize>) -> Vec<usize> {
    if !config.is_given() {
        return Vec::new();
    }
    let roles = crate::meaning::role::roles(&checkpoint.tensors).into_iter();
    let is_codes = |(at, tensor): (usize, &TensorInfo), role: Role| {
        let long = tensor.shape.iter().filter(|&&d| d > 1).count() > 1;
        let typed = match tensor.dtype {
            // Numbers of other things have these types too.
            DType::I16 | DType::U16 | DType::I32 | DType::U32 => role.is_matrix(),
            // BitNet's are looked at with their scales.
            DType::U8 if config.is("bitnet") => false,
            DType::I8 | DType::U8 | DType::F4E2M1X2 => role.is_matrix() || role == Role::Unknown,
            dtype => float8::code(dtype).is_some() && (role.is_matrix() || role == Role::Unknown),
        };
        typed && long && tensor.group == Group::Weights && !known.contains(&at)
    };
    let all = checkpoint.tensors.iter().enumerate().zip(roles);
    all.filter(|(tensor, role)| is_codes(*tensor, *role)).map(|((at, _), _)| at).collect()
}

/// Lists packed matrices of Hugging Face's BitNet whose scale is missing, and scales of matrices that are not packed: such
/// a matrix holds codes as floats, which mean nothing without the scale.
fn of_bitnet(checkpoint: &Checkpoint, coding: &mut Coding) {
    let tensors: HashMap<&str, &TensorInfo> =
        checkpoint.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    for tensor in &checkpoint.tensors {
        let name = tensor.name.as_str();
        if let Some(weight) = name.strip_suffix("_scale").filter(|weight| weight.ends_with(".weight"))
            && tensors.get(weight).is_some_and(|t| t.dtype.is_float() && t.shape.len() == 2)
        {
            coding.faults.push((tensor.name.clone(), QuantFault::Orphaned));
        }
        let wanted = format!("{name}_scale");
        let is_bytes = tensor.dtype == DType::U8 && tensor.shape.len() == 2 && name.ends_with(".weight");
        if is_bytes && !tensors.contains_key(wanted.as_str()) {
            coding.faults.push((tensor.name.clone(), QuantFault::Missing { part: PartRole::Scale, wanted }));
        }
    }
}

/// Lists what belongs to codes among the tensors that belong to none.
fn orphans(checkpoint: &Checkpoint, gone: &HashSet<usize>, faulty: &HashSet<usize>, coding: &mut Coding) {
    // A network of floats may call a parameter of its own so.
    let is_quantized = !gone.is_empty() || !faulty.is_empty() || coding.method.is_some();
    if !is_quantized || coding.unread.is_some() {
        return;
    }
    if coding.method.as_deref() == Some("bitnet") {
        return of_bitnet(checkpoint, coding);
    }
    // Where codes cannot be read, what is beside them is theirs.
    let owners: HashSet<&str> = faulty
        .iter()
        .filter_map(|&at| checkpoint.tensors[at].name.rsplit_once('.').map(|(layer, _)| layer))
        .collect();
    let ternary: HashSet<&str> = checkpoint
        .tensors
        .iter()
        .filter(|t| t.dtype.is_ternary())
        .filter_map(|t| t.name.strip_suffix(".weight"))
        .collect();
    let method = coding.method.as_deref().unwrap_or_default();
    // What these call so is a part of a layer's weight: a number for each row and group.
    let of_method = |field: &str, dims: usize| match field {
        "scales" => dims >= 2 && matches!(method, "mlx" | "gptq" | "awq"),
        "biases" => dims >= 2 && method == "mlx",
        _ => false,
    };
    for (at, tensor) in checkpoint.tensors.iter().enumerate() {
        let Some((layer, field)) = tensor.name.rsplit_once('.') else { continue };
        let of_weight = layer.strip_suffix(".weight").unwrap_or(layer);
        let owned = owners.contains(layer) || owners.contains(of_weight) || ternary.contains(layer);
        let is_part = names::is_companion(field) || of_method(field, tensor.shape.len());
        if !gone.contains(&at) && is_part && !owned && tensor.group != Group::Optimizer {
            coding.faults.push((tensor.name.clone(), QuantFault::Orphaned));
        }
    }
}
