//! From an opened checkpoint to its record: every tensor described and, if asked, measured.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::checkpoint::{Checkpoint, Sharing};
use crate::ggml::OddScales;
use crate::health::equal;
use crate::meaning::elements::windows::{Window, Windows};
use crate::meaning::elements::{Elements, lists_twice};
use crate::meaning::role::{self, Role};
use crate::measure::structure::{Rows, Structure};
use crate::measure::{self, Measured, Plan, TernaryRule, measure};
use crate::quantized::{Part, QuantFault};
use crate::record::{
    CheckpointRecord, PartRecord, QuantRecord, QuantizationRecord, Stats, TensorRecord, Ternary,
};
use crate::storage::Storage;
use crate::tensor::{SparseLayout, TensorInfo};
use crate::{DType, Error, ErrorKind, Result, metadata, path_text};

/// What a record is to contain beyond the header's facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Statistics and ternary occupancy, which read every byte.
    pub stats: bool,
    /// Log-magnitude histograms, part of the statistics.
    pub histogram: bool,
    /// SHA-256 of every tensor's contiguous little-endian bytes.
    pub sha256: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { stats: true, histogram: true, sha256: false }
    }
}

impl Options {
    /// These options, with what `change` changes: `Options::default().with(|o| o.sha256 = true)`.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// Other names listed per tensor that shares its storage.
const SHARED_NAMES: usize = 16;
/// Warnings that a record repeats: a hostile file can cause one at every turn.
const WARNINGS: usize = 50;

/// Tensors that are described at one time: their records are moved to the others before the next are made.
const BESIDE: usize = 1 << 14;
/// Bytes of tensors that are measured at one time and have to be copied for it: fetched, inflated, put together.
const COPIED_AT_ONCE: u64 = 1 << 30;
/// All tensors together may be read this many times the files' size,
const MAX_REREAD: u64 = 64;
/// and this many bytes more.
const FREE_READ: u64 = 512 << 20;

/// Describes and measures `checkpoint`, in parallel over its tensors. `progress` is called with the bytes done.
/// Verdicts are left to [`crate::judge`].
pub fn describe(
    checkpoint: &Checkpoint,
    options: Options,
    progress: &(dyn Fn(u64) + Sync),
) -> CheckpointRecord {
    let never = AtomicBool::new(false);
    describe_until(checkpoint, options, progress, &never).expect("nothing stops it")
}

/// [`describe`], until `stop` is set: then `None`, as soon as the tensors are done that are being measured.
pub fn describe_until(
    checkpoint: &Checkpoint,
    options: Options,
    progress: &(dyn Fn(u64) + Sync),
    stop: &AtomicBool,
) -> Option<CheckpointRecord> {
    let stopped = || stop.load(Ordering::Relaxed);
    let sharing = Sharing::of(checkpoint);
    let roles = role::roles(&checkpoint.tensors);
    let first = first_alike(checkpoint);
    let affordable = affordable(checkpoint, &first);
    let left_out = affordable.iter().filter(|a| !**a).count();
    let faults: HashMap<&str, &QuantFault> =
        checkpoint.coding.faults.iter().map(|(name, fault)| (name.as_str(), fault)).collect();
    let unread = Options { stats: false, sha256: false, ..options };
    let options_of = |i: usize| if first[i] == i && affordable[i] { options } else { unread };
    let described = |i: usize| {
        if stopped() {
            return None;
        }
        let tensor = &checkpoint.tensors[i];
        let mut record =
            describe_tensor(checkpoint, tensor, roles[i], sharing.beside(i, SHARED_NAMES), options_of(i));
        if let Some(&fault) = faults.get(tensor.name.as_str()) {
            record.quantized.get_or_insert_default().fault = Some(fault.clone());
        }
        progress(record.bytes);
        Some(record)
    };
    let copied = |i: usize| match options_of(i) {
        Options { stats: false, sha256: false, .. } => 0,
        _ => match (
            Windows::of(checkpoint, &checkpoint.tensors[i]),
            checkpoint.copied_bytes(&checkpoint.tensors[i]),
        ) {
            (Some(windows), copied) => copied.min(windows.held()),
            (None, copied) => copied,
        },
    };
    let mut tensors: Vec<TensorRecord> = Vec::with_capacity(checkpoint.tensors.len());
    for beside in batches(checkpoint.tensors.len(), copied) {
        tensors.extend(beside.into_par_iter().map(described).collect::<Option<Vec<_>>>()?);
    }
    for (i, &first) in first.iter().enumerate().filter(|(i, first)| i != *first) {
        let TensorRecord { sha256, stats, ternary, structure, damage, damage_kind, .. } =
            tensors[first].clone();
        let own = std::mem::take(&mut tensors[i]);
        tensors[i] = TensorRecord { sha256, stats, ternary, structure, damage, damage_kind, ..own };
    }
    if options.stats {
        equal::find(checkpoint, &mut tensors);
    }
    // Some damage shows only when the bytes are read.
    let found_damaged = tensors
        .iter()
        .zip(&checkpoint.tensors)
        .any(|(found, known)| found.damage.is_some() && known.damage.is_none());
    let mut warnings: Vec<String> =
        checkpoint.warnings.iter().take(WARNINGS).map(|notice| notice.text.clone()).collect();
    let more = checkpoint.warnings.len() - warnings.len();
    if more > 0 {
        warnings.push(format!("and {more} more warnings"));
    }
    if left_out > 0 && (options.stats || options.sha256) {
        warnings.push(format!(
            "{left_out} tensors were not measured: the file's tensors are views that repeat its bytes out of proportion"
        ));
    }
    let foreign = crate::optimizer::foreign(checkpoint);
    warnings.extend(foreign.iter().map(|notice| notice.text.clone()));
    warnings.extend(checkpoint.damage.iter().map(|d| format!("damaged: {d}")));
    Some(CheckpointRecord {
        coverage: Default::default(),
        quantization: quantization(checkpoint),
        findings: Vec::new(),
        path: path_text(&checkpoint.path),
        format: checkpoint.format,
        model: checkpoint.model.record(),
        components: checkpoint.components.clone(),
        step: checkpoint.step.as_ref().map(|(step, _)| *step),
        step_source: checkpoint.step.as_ref().map(|(_, source)| source.clone()),
        file_bytes: checkpoint.file_bytes(),
        parameters: checkpoint.parameters(),
        averaged_parameters: checkpoint.averaged_parameters(),
        damaged: checkpoint.is_damaged() || found_damaged,
        damage: checkpoint.damage.clone(),
        verdict: None,
        reasons: Vec::new(),
        tensors,
        training: crate::optimizer::training(checkpoint),
        metadata: match metadata::to_json(&checkpoint.metadata) {
            serde_json::Value::Object(map) => map,
            serde_json::Value::Null => Default::default(),
            other => [("value".to_string(), other)].into_iter().collect(),
        },
        globals: checkpoint.globals.clone(),
        warnings,
        notices: checkpoint
            .warnings
            .iter()
            .filter(|notice| notice.is_finding())
            .chain(checkpoint.warnings.iter().filter(|notice| notice.is_doubt()))
            .take(WARNINGS)
            .cloned()
            .chain(foreign)
            .collect(),
    })
}

/// How the weights of `checkpoint` are quantized; `None` if none is, and none should be.
fn quantization(checkpoint: &Checkpoint) -> Option<QuantizationRecord> {
    let coding = &checkpoint.coding;
    let mut record = QuantizationRecord {
        method: coding.method.clone(),
        unread: coding.unread.clone().or_else(|| coding.unread_faults().next().map(str::to_string)),
        left: coding.left.clone(),
        ..QuantizationRecord::default()
    };
    for tensor in checkpoint.tensors.iter().filter(|t| t.quantized.is_some()) {
        match record.kinds.iter_mut().find(|(known, _)| *known == tensor.dtype) {
            Some((_, count)) => *count += 1,
            None => record.kinds.push((tensor.dtype, 1)),
        }
    }
    (!record.kinds.is_empty() || record.unread.is_some()).then_some(record)
}

/// The numbers below `count`, in ranges of at most [`BESIDE`] of which each has to copy at most [`COPIED_AT_ONCE`], or is
/// one of more.
fn batches(count: usize, copied: impl Fn(usize) -> u64) -> Vec<Range<usize>> {
    let (mut batches, mut start, mut sum) = (Vec::new(), 0, 0u64);
    for i in 0..count {
        let own = copied(i);
        sum = sum.saturating_add(own);
        if (sum > COPIED_AT_ONCE && i > start) || i - start == BESIDE {
            batches.push(start..i);
            (start, sum) = (i, own);
        }
    }
    batches.extend((start < count).then_some(start..count));
    batches
}

/// Which tensors may be read so that all reading stays in proportion to the files: views may overlap, and each view
/// of a deflated storage inflates it.
fn affordable(checkpoint: &Checkpoint, first: &[usize]) -> Vec<bool> {
    let mut left = checkpoint.file_bytes().saturating_mul(MAX_REREAD).saturating_add(FREE_READ);
    let mut affordable = vec![true; first.len()];
    for (i, tensor) in checkpoint.tensors.iter().enumerate().filter(|(i, _)| first[*i] == *i) {
        let inflated: u64 = tensor
            .storages()
            .filter(|s| !s.gives_ranges())
            .fold(0, |sum, s| sum.saturating_add(s.byte_len()));
        let outside = |s: &Storage| tensor.check_bounds(s.byte_len()).is_err();
        if tensor.storages().next().is_none() || tensor.storage.as_ref().is_some_and(outside) {
            // Nothing will be read.
            continue;
        }
        match left.checked_sub(stored_bytes(tensor).saturating_add(inflated)) {
            Some(rest) => left = rest,
            None => affordable[i] = tensor.damage.is_some(),
        }
    }
    // What is like an unread tensor is unread too, and counted so.
    first.iter().map(|&i| affordable[i]).collect()
}

/// For every tensor the first one that is the same region, read in the same way: tied weights are measured once.
fn first_alike(checkpoint: &Checkpoint) -> Vec<usize> {
    let mut known = HashMap::new();
    let place = |(i, tensor): (usize, &TensorInfo)| {
        let plain = tensor.quantizer.is_none()
            && tensor.quantized.is_none()
            && tensor.sparse.is_none()
            && tensor.damage.is_none();
        let Some(storage) = tensor.storage.as_ref().filter(|_| plain) else { return i };
        let region = (storage.clone(), tensor.byte_offset, tensor.shape.clone(), tensor.strides.clone());
        let bits = |scales: &[f32]| scales.iter().map(|scale| scale.to_bits()).collect::<Vec<_>>();
        let scales = (tensor.scale.map(f32::to_bits), tensor.scales.as_deref().map(bits));
        let reading = (tensor.dtype, scales, checkpoint.model.is_ternary(tensor));
        *known.entry((region, reading)).or_insert(i)
    };
    checkpoint.tensors.iter().enumerate().map(place).collect()
}

fn describe_tensor(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    role: Role,
    shared: Vec<String>,
    options: Options,
) -> TensorRecord {
    let sizes = |dims: &[usize]| dims.iter().map(|&d| d as u64).collect();
    let mut record = TensorRecord {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: sizes(&tensor.shape),
        strides: sizes(&tensor.strides),
        group: tensor.group,
        role,
        bytes: stored_bytes(tensor),
        shared_with: shared,
        damage: tensor.damage.as_ref().map(|damage| damage.what.clone()),
        damage_kind: tensor.damage.as_ref().map(|damage| damage.kind),
        ..TensorRecord::default()
    };
    if let Some(quantized) = &tensor.quantized {
        let part = |part: &Part| PartRecord {
            name: part.tensor.name.clone(),
            role: part.role,
            dtype: part.tensor.dtype,
            shape: sizes(&part.tensor.shape),
        };
        let parts = quantized.parts().iter().map(part).collect();
        record.quantized = Some(Box::new(QuantRecord { parts, ..QuantRecord::default() }));
    }
    if tensor.damage.is_some() {
        return record;
    }
    if (options.sha256 || options.stats)
        && let Some(windows) =
            Windows::of(checkpoint, tensor).filter(|_| !checkpoint.model.is_ternary(tensor))
        && let Ok(rows) = checkpoint.rows(tensor, role)
    {
        if let Err(error) = look_through(&windows, rows, options, &mut record)
            && is_fault(&error)
        {
            record.set_damage(error);
        }
        return record;
    }
    let held = match (options.sha256 || options.stats).then(|| held(checkpoint, tensor)).transpose() {
        Ok(held) => held.flatten(),
        Err(error) => {
            record.set_damage(error);
            return record;
        }
    };
    let tensor = held.as_ref().unwrap_or(tensor);
    if options.sha256 {
        match digest(checkpoint, tensor) {
            Ok(digest) => record.sha256 = Some(digest.into()),
            Err(error) if is_fault(&error) => record.set_damage(error),
            Err(_) => {}
        }
    }
    if options.stats {
        match checkpoint.measure(tensor, options.histogram) {
            Ok((stats, ternary)) => {
                record.stats = Some(stats);
                record.ternary = ternary.map(Box::new);
                record.structure = checkpoint.structure(tensor, role).map(Box::new);
                let elements = record.quantized.as_ref().and_then(|_| checkpoint.elements(tensor).ok());
                let parts = elements.as_ref().and_then(measure::quantized::measure);
                if let (Some(quantized), Some((scales, codes))) = (&mut record.quantized, parts) {
                    (quantized.scales, quantized.codes) = (Some(scales), Some(codes));
                }
            }
            Err(error) if is_fault(&error) => record.set_damage(error),
            Err(_) => {}
        }
    }
    record
}

/// The hash of the elements of `tensor`; of a sparse one that of all that it consists of: its layout and shape as text, then of
/// its indices and its values each the type, the shape and the elements.
fn digest(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Result<String> {
    let Some(sparse) = &tensor.sparse else {
        return Ok(hex(&Sha256::digest(checkpoint.tensor_bytes(tensor)?)));
    };
    let mut digest = Sha256::new_with_prefix(format!("{} {:?}\n", sparse.layout, tensor.shape));
    for part in sparse.indices.iter().chain([&sparse.values]) {
        digest.update(format!("{} {:?}\n", part.dtype, part.shape));
        digest.update(checkpoint.tensor_bytes(part)?);
    }
    Ok(hex(&digest.finalize()))
}

/// Fills `record` with what its tensor's `windows` show, and the `rows` of its matrix.
fn look_through(
    windows: &Windows<'_>,
    mut rows: Option<Rows>,
    options: Options,
    record: &mut TensorRecord,
) -> Result<()> {
    let mut digest = options.sha256.then(Sha256::new);
    let mut odd = OddScales::default();
    let mut see = |window: &Window<'_>| {
        if let Some(digest) = &mut digest {
            digest.update(window.bytes);
        }
        if let Some(rows) = rows.as_mut().filter(|_| options.stats) {
            rows.see(window.start, &window.elements);
        }
    };
    if options.stats {
        let measured = measure::measure_windows(windows, options.histogram, |window| {
            see(window);
            odd = odd.with(window.elements.odd_scales());
        })?;
        record.stats = Some(measured.stats.with_odd(odd));
        record.structure = rows.and_then(|rows| rows.structure()).map(Box::new);
    } else {
        windows.each(|window| {
            see(window);
            Ok(())
        })?;
    }
    record.sha256 = digest.map(|digest| hex(&digest.finalize()).into());
    Ok(())
}

/// Whether `error` is of the bytes, and not of what is known about their meaning.
fn is_fault(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Damaged | ErrorKind::Io)
}

/// `tensor` on bytes in memory, where each look at them would have to fetch them again; `None` where it needs none or only
/// a small part of what would be fetched.
fn held(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Result<Option<TensorInfo>> {
    let room = stored_bytes(tensor).saturating_mul(2);
    if checkpoint.copied_bytes(tensor) == 0 || tensor.storages().any(|s| s.byte_len() > room) {
        return Ok(None);
    }
    let (mut held, mut failed) = (tensor.clone(), None);
    held.replace_storages(&mut |storage| match storage.in_memory() {
        Ok(fetched) => *storage = fetched,
        // What is missing stays so, and is said where it is read.
        Err(error) if error.kind == ErrorKind::Io => failed = Some(error),
        Err(_) => {}
    });
    failed.map_or(Ok(Some(held)), Err)
}

fn stored_bytes(tensor: &TensorInfo) -> u64 {
    match &tensor.sparse {
        Some(sparse) => sparse.indices.iter().chain([&sparse.values]).map(stored_bytes).sum(),
        None => match &tensor.quantized {
            Some(quantized) => {
                let sizes = quantized.parts().iter().map(|part| stored_bytes(&part.tensor));
                sizes.fold(0, u64::saturating_add)
            }
            None => tensor.byte_len().unwrap_or(0),
        },
    }
}

impl Checkpoint {
    /// How the rows of `tensor` relate to each other, if its role is a matrix's.
    fn structure(&self, tensor: &TensorInfo, role: Role) -> Option<Structure> {
        let cols = judged_cols(tensor, role)?;
        Structure::of(&self.elements(tensor).ok()?.real().ok()?, cols)
    }

    /// The rows for that, where elements come some at a time.
    ///
    /// # Errors
    /// How many elements they are, where they are too many.
    fn rows(&self, tensor: &TensorInfo, role: Role) -> std::result::Result<Option<Rows>, usize> {
        match judged_cols(tensor, role) {
            Some(cols) => Rows::of(usize::try_from(tensor.numel()).unwrap_or(usize::MAX), cols),
            None => Ok(None),
        }
    }

    /// Statistics of `tensor`, and its ternary occupancy if it is packed or a BitLinear uses it. Those of complex numbers are of
    /// their real and imaginary parts.
    ///
    /// # Errors
    /// `Damaged` when its bytes cannot be read, `Unsupported` for block formats that are listed but not decoded.
    pub fn measure(&self, tensor: &TensorInfo, histogram: bool) -> Result<(Stats, Option<Ternary>)> {
        self.measure_inner(tensor, histogram)
            .map(|measured| (measured.stats, measured.ternary))
            .map_err(|e| e.in_tensor(&tensor.name).in_file(&self.path))
    }

    fn measure_inner(&self, tensor: &TensorInfo, histogram: bool) -> Result<Measured> {
        let cols = matrix_cols(&tensor.shape);
        let student = self.model.student.as_ref();
        let rule = if tensor.dtype.is_ternary() {
            Some(TernaryRule::Codes)
        } else {
            self.model.is_ternary(tensor).then(|| TernaryRule::Absmean {
                floor: self.model.quantization_floor(),
                per_row: student.is_some_and(|s| s.bitlinear_per_channel),
            })
        };
        let plan = Plan { cols, ternary: rule, histogram };
        if let Some(sparse) = &tensor.sparse {
            if sparse.layout == SparseLayout::Coo && lists_twice(self, tensor, sparse)? {
                return Err(Error::unsupported(
                    "elements listed more than once, which have to be summed first",
                ));
            }
            let mut measured = self.measure_inner(&sparse.values, histogram)?;
            measured.add_zeros(tensor.numel().saturating_sub(sparse.values.numel()));
            measured.ternary = None;
            return Ok(measured);
        }
        let elements = self.elements(tensor)?;
        elements.check_codes()?;
        let mut measured = measure(&elements, &plan);
        let plan = Plan { histogram: false, ..plan };
        // The signs of the values are the codes only under a positive scale.
        if matches!(tensor.dtype, DType::Ternary(_))
            && tensor.scale.is_some_and(|s| !(s > 0.0 && s.is_finite()))
        {
            measured.ternary = measure(&elements.unscaled(), &plan).ternary;
        }
        let Measured { stats, ternary, .. } = &mut measured;
        *stats = std::mem::take(stats).with_odd(elements.odd_scales());
        if let (Some(ternary), DType::Ternary(_)) = (&mut *ternary, tensor.dtype) {
            ternary.scale = tensor.scale.map(f64::from);
        }
        if let (Some(ternary), DType::Ggml(_)) = (ternary, tensor.dtype) {
            // Every nonzero value of a ternary block format is its block's scale.
            let nonzero = 1.0 - ternary.zero;
            ternary.scale = stats.abs_mean.filter(|_| nonzero > 0.0).map(|m| m / nonzero);
            // Scales that are all zero hide codes that need not be.
            if nonzero == 0.0
                && let Some(codes) = elements.codes()?
                && codes.iter().any(|&code| code != 0)
            {
                let codes = Elements::plain(DType::I8, bytemuck::cast_slice::<i8, u8>(&codes))?;
                let hidden = measure(&codes, &plan).ternary;
                *ternary = hidden.map(|t| Ternary { scale: Some(0.0), ..t }).unwrap_or_default();
            }
        }
        Ok(measured)
    }
}

/// Row length of `tensor`, if it is a matrix by its role.
fn judged_cols(tensor: &TensorInfo, role: Role) -> Option<usize> {
    let judged = role.is_matrix() && tensor.sparse.is_none() && !tensor.dtype.is_integer();
    matrix_cols(&tensor.shape).filter(|_| judged)
}

/// Row length of a matrix: what multiplies one output. Convolutions count as [out, in...].
fn matrix_cols(shape: &[usize]) -> Option<usize> {
    let cols = shape.get(1..)?.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    (shape.len() >= 2 && cols > 0).then_some(cols)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ckpt_kit::gguf::Gguf;
    use ckpt_kit::random::Random;
    use ckpt_kit::safetensors::SafeTensors;

    use super::*;
    use crate::bytes::tests::Fetched;
    use crate::bytes::{Source, Stamp};
    use crate::layout::{Opened, Set};
    use crate::open::assemble;
    use crate::{OpenOptions, format, open_bytes};

    /// Of what has to be fetched some at a time, the record is that of the same bytes in memory, to the last bit.
    /// Whether both are the same but for rounding, which depends on where sums are cut.
    fn alike(a: &serde_json::Value, b: &serde_json::Value) -> bool {
        use serde_json::Value::{Array, Number, Object};
        match (a, b) {
            (Object(a), Object(b)) => {
                a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
            }
            (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
            (Number(a), Number(b)) if a.is_f64() && b.is_f64() => {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
            }
            (a, b) => a == b,
        }
    }

    #[test]
    fn what_is_fetched_in_windows_measures_the_same() {
        let mut random = Random::new(7);
        let mut bytes = |n: usize| -> Vec<u8> { (0..n).map(|_| random.below(256) as u8).collect() };
        let (rows, cols) = (1111, 1024);
        let count = rows * cols;
        let mut floats: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin() + 1e4).collect();
        floats[count - 1] = f32::NAN;
        let words: Vec<u8> = floats.iter().flat_map(|x| x.to_le_bytes()).collect();
        // Beyond what f64 holds the fourth powers of.
        let wide: Vec<u8> = floats.iter().flat_map(|x| (f64::from(*x) * 1e200).to_le_bytes()).collect();
        let file = SafeTensors::new()
            .tensor("layers.0.mlp.up_proj.weight", "F32", &[rows, cols], &words)
            .tensor("layers.1.mlp.up_proj.weight", "F32", &[rows, cols], &words)
            .tensor("layers.0.mlp.down_proj.weight", "BF16", &[rows, cols], &bytes(2 * count))
            .tensor("layers.0.mlp.gate_proj.weight", "F64", &[rows, cols], &wide)
            .tensor("layers.0.self_attn.q_proj.weight", "F64", &[count], &bytes(8 * count))
            .tensor("positions", "I64", &[cols, rows], &bytes(8 * count))
            .bytes();
        let blocks = Gguf::new()
            .tensor("blk.0.ffn_up.weight", &[cols as u64, rows as u64], 8, bytes(count / 32 * 34))
            .tensor("blk.0.ffn_down.weight", &[cols as u64, rows as u64], 12, bytes(count / 256 * 144))
            .bytes();
        for (name, bytes) in [("a.safetensors", file), ("a.gguf", blocks)] {
            let source =
                Ok(Source::of(Path::new(name), Stamp::never(Path::new(name)), Fetched(bytes.clone())));
            let opened = Opened { path: name.into(), source, read: format::read };
            let fetched =
                assemble(Path::new(name), vec![opened], &Set::default(), &OpenOptions::default()).unwrap();
            let resident = open_bytes(name, bytes).unwrap();
            assert!(fetched.tensors.iter().all(|tensor| Windows::of(&fetched, tensor).is_some()));
            assert!(resident.tensors.iter().all(|tensor| Windows::of(&resident, tensor).is_none()));
            let options = Options::default().with(|o| o.sha256 = true);
            let [a, b] = [&fetched, &resident].map(|checkpoint| describe(checkpoint, options, &|_| ()));
            for (a, b) in a.tensors.iter().zip(&b.tensors) {
                let [a, b] = [a, b].map(|tensor| serde_json::to_value(tensor).unwrap());
                assert!(alike(&a, &b), "{a}\n{b}");
            }
            if name == "a.safetensors" {
                assert_eq!(a.tensors[1].equal_to.as_deref(), Some("layers.0.mlp.up_proj.weight"));
                assert!(a.tensors[0].structure.is_some());
            }
        }
    }
}
