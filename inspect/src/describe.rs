//! From an opened checkpoint to its record: every tensor described and, if asked, measured.

use std::collections::HashMap;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::checkpoint::Checkpoint;
use crate::measure::{Elements, Measured, Plan, TernaryRule, measure};
use crate::record::{CheckpointRecord, Stats, TensorRecord, Ternary};
use crate::storage::{Place, Storage};
use crate::tensor::{Quantizer, Sparse, TensorInfo};
use crate::{DType, Error, Result, metadata, ternary};

/// What a record is to contain beyond the header's facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Other names listed per tensor that shares its storage.
const SHARED_NAMES: usize = 16;
/// Warnings that a record repeats: a hostile file can cause one at every turn.
const WARNINGS: usize = 50;

/// All tensors together may be read this many times the files' size,
const MAX_REREAD: u64 = 64;
/// and this many bytes more.
const FREE_READ: u64 = 512 << 20;

/// Describes and measures `checkpoint`, in parallel over its tensors. `progress` is told of bytes as they are done.
/// Verdicts are left to [`crate::judge`].
pub fn describe(
    checkpoint: &Checkpoint,
    options: Options,
    progress: &(dyn Fn(u64) + Sync),
) -> CheckpointRecord {
    let sharing = checkpoint.sharing(SHARED_NAMES);
    let first = first_alike(checkpoint);
    let affordable = affordable(checkpoint, &first);
    let left_out = affordable.iter().filter(|a| !**a).count();
    let mut tensors: Vec<TensorRecord> = checkpoint
        .tensors
        .par_iter()
        .zip(sharing)
        .enumerate()
        .map(|(i, (tensor, shared))| {
            let unread = Options { stats: false, sha256: false, ..options };
            let options = if first[i] == i && affordable[i] { options } else { unread };
            let record = describe_tensor(checkpoint, tensor, &shared, options);
            progress(record.bytes);
            record
        })
        .collect();
    for (i, &first) in first.iter().enumerate().filter(|(i, first)| i != *first) {
        let TensorRecord { sha256, stats, ternary, damage, damage_kind, .. } = tensors[first].clone();
        tensors[i] =
            TensorRecord { sha256, stats, ternary, damage, damage_kind, ..std::mem::take(&mut tensors[i]) };
    }
    // Some damage shows only when the bytes are read.
    let found_damaged = tensors
        .iter()
        .zip(&checkpoint.tensors)
        .any(|(found, told)| found.damage.is_some() && told.damage.is_none());
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
    warnings.extend(checkpoint.damage.iter().map(|d| format!("damaged: {d}")));
    CheckpointRecord {
        path: checkpoint.path.display().to_string(),
        format: checkpoint.format.name(),
        model: checkpoint.model.record(),
        step: checkpoint.step.as_ref().map(|(step, _)| *step),
        step_source: checkpoint.step.as_ref().map(|(_, source)| source.clone()),
        file_bytes: checkpoint.file_bytes(),
        parameters: checkpoint.parameters(),
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
    }
}

/// Which tensors may be read so that all reading stays in proportion to the files: views may overlap, and each view
/// of a deflated storage inflates it.
fn affordable(checkpoint: &Checkpoint, first: &[usize]) -> Vec<bool> {
    let mut left = checkpoint.file_bytes().saturating_mul(MAX_REREAD).saturating_add(FREE_READ);
    let mut affordable = vec![true; first.len()];
    for (i, tensor) in checkpoint.tensors.iter().enumerate().filter(|(i, _)| first[*i] == *i) {
        let inflated: u64 = tensor
            .storages()
            .filter(|s| matches!(s.run().place, Place::Deflated(_)))
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
        let plain = tensor.quantizer.is_none() && tensor.sparse.is_none() && tensor.damage.is_none();
        let Some(storage) = tensor.storage.as_ref().filter(|_| plain) else { return i };
        let region = (storage.clone(), tensor.byte_offset, tensor.shape.clone(), tensor.strides.clone());
        let reading = (tensor.dtype, tensor.scale.map(f32::to_bits), checkpoint.model.is_ternary(tensor));
        *known.entry((region, reading)).or_insert(i)
    };
    checkpoint.tensors.iter().enumerate().map(place).collect()
}

fn describe_tensor(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    shared: &[&str],
    options: Options,
) -> TensorRecord {
    let sizes = |dims: &[usize]| dims.iter().map(|&d| d as u64).collect();
    let mut record = TensorRecord {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: sizes(&tensor.shape),
        strides: sizes(&tensor.strides),
        group: tensor.group,
        bytes: stored_bytes(tensor),
        shared_with: shared.iter().map(|s| s.to_string()).collect(),
        damage: tensor.damage.as_ref().map(|damage| damage.what.clone()),
        damage_kind: tensor.damage.as_ref().map(|damage| damage.kind),
        ..TensorRecord::default()
    };
    if tensor.damage.is_some() {
        return record;
    }
    if options.sha256 {
        match checkpoint.tensor_bytes(tensor) {
            Ok(bytes) => record.sha256 = Some(hex(&Sha256::digest(&bytes))),
            Err(error) if error.kind == crate::ErrorKind::Damaged => record.set_damage(error),
            Err(_) => {}
        }
    }
    if options.stats && !tensor.dtype.is_complex() {
        match checkpoint.measure(tensor, options.histogram) {
            Ok((stats, ternary)) => {
                record.stats = Some(stats);
                record.ternary = ternary;
            }
            Err(error) if error.kind == crate::ErrorKind::Damaged => record.set_damage(error),
            Err(_) => {}
        }
    }
    record
}

fn stored_bytes(tensor: &TensorInfo) -> u64 {
    match &tensor.sparse {
        Some(sparse) => sparse.indices.iter().chain([&sparse.values]).map(stored_bytes).sum(),
        None => tensor.byte_len().unwrap_or(0),
    }
}

impl Checkpoint {
    /// Statistics of `tensor`, and its ternary occupancy if it is packed or a BitLinear uses it.
    ///
    /// # Errors
    /// `Damaged` when its bytes cannot be read, `Unsupported` for complex elements and block formats that are
    /// named but not decoded.
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
                eps: self.model.quantization_eps(),
                per_row: student.is_some_and(|s| s.bitlinear_per_channel),
            })
        };
        let plan = Plan { cols, ternary: rule, histogram };
        if let Some(sparse) = &tensor.sparse {
            if sparse.layout.ends_with("sparse_coo") && self.lists_twice(tensor, sparse)? {
                return Err(Error::unsupported(
                    "elements listed more than once, which are to be added up first",
                ));
            }
            let mut measured = self.measure_inner(&sparse.values, histogram)?;
            measured.add_zeros(tensor.numel().saturating_sub(sparse.values.numel()));
            measured.ternary = None;
            return Ok(measured);
        }
        let bytes = self.tensor_bytes(tensor)?;
        let mut measured = match tensor.dtype {
            DType::Ternary(packing) => {
                ternary::check_codes(&bytes)?;
                let scale = tensor.scale.unwrap_or(1.0);
                let decode = |start: usize, out: &mut [f32], scale: f32| {
                    let mut codes = [0i8; 1024];
                    for (i, chunk) in out.chunks_mut(codes.len()).enumerate() {
                        let codes = &mut codes[..chunk.len()];
                        ternary::decode(packing, &bytes, &tensor.shape, start + i * 1024, codes);
                        chunk.iter_mut().zip(codes).for_each(|(v, &mut c)| *v = f32::from(c) * scale);
                    }
                };
                let read = |start: usize, out: &mut [f32]| decode(start, out, scale);
                let len = numel(tensor)?;
                let mut measured = measure(&Elements::Decoded32 { len, granule: 1, read: &read }, &plan);
                // The signs of the values are the codes only under a positive scale.
                if !(scale > 0.0 && scale.is_finite()) {
                    let read = |start: usize, out: &mut [f32]| decode(start, out, 1.0);
                    let plan = Plan { histogram: false, ..plan };
                    measured.ternary =
                        measure(&Elements::Decoded32 { len, granule: 1, read: &read }, &plan).ternary;
                }
                measured
            }
            DType::Ggml(ggml) => {
                let decoder = ggml.decoder(&bytes, numel(tensor)?)?.scaled(tensor.scale.unwrap_or(1.0));
                let read = |start: usize, out: &mut [f32]| decoder.read(start, out);
                let granule = ggml.block_elements();
                measure(&Elements::Decoded32 { len: numel(tensor)?, granule, read: &read }, &plan)
            }
            DType::QI8 | DType::QU8 | DType::QI32 => {
                let real = self.dequantizer(tensor, &bytes)?;
                let read = |start: usize, out: &mut [f64]| {
                    out.iter_mut().enumerate().for_each(|(i, v)| *v = real(start + i));
                };
                measure(&Elements::Decoded64 { len: numel(tensor)?, read: &read }, &plan)
            }
            dtype if dtype.is_sub_byte() => {
                return Err(Error::unsupported(format!("{dtype} elements are named and not decoded")));
            }
            dtype => measure(&Elements::Plain { dtype, bytes: &bytes }, &plan),
        };
        let Measured { stats, ternary, .. } = &mut measured;
        if let (Some(ternary), DType::Ternary(_)) = (&mut *ternary, tensor.dtype) {
            ternary.scale = tensor.scale.map(f64::from);
        }
        if let (Some(ternary), DType::Ggml(_)) = (ternary, tensor.dtype) {
            // Every nonzero value of a ternary block format is its block's scale.
            let nonzero = 1.0 - ternary.zero;
            ternary.scale = stats.abs_mean.filter(|_| nonzero > 0.0).map(|m| m / nonzero);
            // Scales that are all zero hide codes that need not be.
            if nonzero == 0.0
                && let Some(codes) = self.ternary_codes(tensor)?
                && codes.iter().any(|&code| code != 0)
            {
                let read = |start: usize, out: &mut [f32]| {
                    out.iter_mut().zip(&codes[start..]).for_each(|(v, &code)| *v = code.into());
                };
                let plan = Plan { histogram: false, ..plan };
                let elements = Elements::Decoded32 { len: codes.len(), granule: 1, read: &read };
                let hidden = measure(&elements, &plan).ternary;
                *ternary = hidden.map(|t| Ternary { scale: Some(0.0), ..t }).unwrap_or_default();
            }
        }
        Ok(measured)
    }

    /// Elements as real numbers in f32, row-major: packed and quantized ones decoded, sparse ones spread out.
    ///
    /// # Errors
    /// Those of [`Checkpoint::tensor_bytes`]; `Unsupported` for complex numbers, block formats that are not decoded,
    /// and sparse tensors too large to spread out.
    pub fn values(&self, tensor: &TensorInfo) -> Result<Vec<f32>> {
        self.values_inner(tensor).map_err(|e| e.in_tensor(&tensor.name).in_file(&self.path))
    }

    fn values_inner(&self, tensor: &TensorInfo) -> Result<Vec<f32>> {
        if let Some(sparse) = &tensor.sparse {
            return Err(Error::unsupported(format!(
                "a sparse tensor ({}) has no dense values here",
                sparse.layout
            )));
        }
        let bytes = self.tensor_bytes(tensor)?;
        let n = numel(tensor)?;
        Ok(match tensor.dtype {
            DType::Ternary(packing) => {
                ternary::check_codes(&bytes)?;
                let mut codes = vec![0i8; n];
                ternary::decode(packing, &bytes, &tensor.shape, 0, &mut codes);
                let scale = tensor.scale.unwrap_or(1.0);
                codes.into_iter().map(|c| f32::from(c) * scale).collect()
            }
            DType::Ggml(ggml) => {
                let mut out = vec![0.0; n];
                ggml.decoder(&bytes, n)?.scaled(tensor.scale.unwrap_or(1.0)).read(0, &mut out);
                out
            }
            DType::QI8 | DType::QU8 | DType::QI32 => {
                let real = self.dequantizer(tensor, &bytes)?;
                (0..n).map(|i| real(i) as f32).collect()
            }
            dtype => crate::measure::to_f32(dtype, &bytes)
                .ok_or_else(|| Error::unsupported(format!("{dtype} elements are not real numbers")))?,
        })
    }

    /// The codes -1, 0, +1 of a packed ternary matrix, row-major; `None` for any other tensor.
    ///
    /// # Errors
    /// Those of [`Checkpoint::tensor_bytes`].
    pub fn ternary_codes(&self, tensor: &TensorInfo) -> Result<Option<Vec<i8>>> {
        if !tensor.dtype.is_ternary() {
            return Ok(None);
        }
        let bytes = self.tensor_bytes(tensor)?;
        let mut codes = vec![0i8; numel(tensor)?];
        match tensor.dtype {
            DType::Ternary(packing) => {
                ternary::check_codes(&bytes)?;
                ternary::decode(packing, &bytes, &tensor.shape, 0, &mut codes);
            }
            DType::Ggml(ggml) => ggml.ternary_codes(&bytes, &mut codes)?,
            _ => return Ok(None),
        }
        Ok(Some(codes))
    }

    /// How element `i` of a quantized tensor becomes a real number.
    pub(crate) fn dequantizer<'b>(
        &self,
        tensor: &'b TensorInfo,
        bytes: &'b [u8],
    ) -> Result<Box<dyn Fn(usize) -> f64 + Send + Sync + 'b>> {
        let dtype = tensor.dtype;
        let integer = move |i: usize| -> f64 {
            match dtype {
                DType::QI8 => f64::from(bytes[i] as i8),
                DType::QU8 => f64::from(bytes[i]),
                _ => f64::from(i32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"))),
            }
        };
        match &tensor.quantizer {
            None => Ok(Box::new(integer)),
            Some(Quantizer::PerTensor { scale, zero_point }) => {
                let (scale, zero) = (*scale, *zero_point as f64);
                Ok(Box::new(move |i| (integer(i) - zero) * scale))
            }
            Some(Quantizer::PerChannel { scales, zero_points, axis }) => {
                let inner = tensor
                    .shape
                    .get(axis + 1..)
                    .unwrap_or(&[])
                    .iter()
                    .fold(1usize, |n, &d| n.saturating_mul(d));
                let channels = *tensor
                    .shape
                    .get(*axis)
                    .ok_or_else(|| Error::damaged("its channel axis is not there"))?;
                if [scales, zero_points].iter().any(|t| t.numel() != channels as u64) {
                    return Err(Error::damaged("its scales do not match its channels"));
                }
                let scales = self.small_f64(scales)?;
                let zeros = self.small_f64(zero_points)?;
                Ok(Box::new(move |i| {
                    let channel = i / inner.max(1) % channels.max(1);
                    (integer(i) - zeros[channel]) * scales[channel]
                }))
            }
        }
    }

    /// Whether a COO tensor lists an element more than once (it is not coalesced). Takes eight bytes per listed
    /// element, as its indices do.
    fn lists_twice(&self, tensor: &TensorInfo, sparse: &Sparse) -> Result<bool> {
        let Some(indices) = sparse.indices.first() else { return Ok(false) };
        let indices = self.view::<i64>(indices)?;
        let &[dims, listed] = indices.shape() else {
            return Err(Error::damaged("its indices are no matrix"));
        };
        let sizes =
            tensor.shape.get(..dims).ok_or_else(|| Error::damaged("it has more indices than dimensions"))?;
        let mut places = vec![0i64; listed];
        for (row, &size) in indices.outer_iter().zip(sizes) {
            for (place, &index) in places.iter_mut().zip(row) {
                *place = place.wrapping_mul(size as i64).wrapping_add(index);
            }
        }
        places.sort_unstable();
        Ok(places.windows(2).any(|pair| pair[0] == pair[1]))
    }

    fn small_f64(&self, tensor: &TensorInfo) -> Result<Vec<f64>> {
        let bytes = self.tensor_bytes(tensor)?;
        let words = bytes.as_chunks::<8>().0.iter();
        match tensor.dtype {
            DType::F64 => Ok(words.map(|&word| f64::from_le_bytes(word)).collect()),
            DType::I64 => Ok(words.map(|&word| i64::from_le_bytes(word) as f64).collect()),
            _ => Ok(self.values_inner(tensor)?.into_iter().map(f64::from).collect()),
        }
    }
}

fn numel(tensor: &TensorInfo) -> Result<usize> {
    usize::try_from(tensor.numel())
        .map_err(|_| Error::unsupported("more elements than this machine can address"))
}

/// Row length of a matrix: what multiplies one output. Convolutions and their kin count as [out, in...].
fn matrix_cols(shape: &[usize]) -> Option<usize> {
    let cols = shape.get(1..)?.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    (shape.len() >= 2 && cols > 0).then_some(cols)
}
