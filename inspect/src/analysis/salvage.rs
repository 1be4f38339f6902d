//! What can be recovered from a damaged checkpoint: every tensor whose bytes exist; for the others, where their bytes
//! were and what could replace them.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::bytes::Source;
use crate::bytes::stored::Stored;
use crate::checkpoint::Checkpoint;
use crate::format;
use crate::layout::companion;
use crate::metadata::{Value, lookup};
use crate::storage::{Place, Segment, Storage};
use crate::tensor::{TensorInfo, contiguous_strides};
use crate::{DType, Damage, Error, NoticeKind, OpenOptions, Result, open_with, ternary};

/// A tensor may always be filled up to this size,
const FREE_FILL: u64 = 64 << 20;
/// and beyond that to this many times the file's size: a header's claim alone is not enough to allocate memory.
const MAX_FILL: u64 = 64;

/// A damaged checkpoint and the state of its tensors.
#[derive(Debug)]
#[non_exhaustive]
pub struct Salvage {
    /// The checkpoint with only the recovered tensors, filled ones included.
    pub checkpoint: Checkpoint,
    /// Damage to the container.
    pub damage: Option<String>,
    /// Tensors whose bytes match a CRC-32, in a listing that matches one too.
    pub verified: usize,
    /// Tensors that cannot be verified, because the format records no checksum or the checksum is lost.
    pub unverified: Vec<String>,
    /// Tensors that are there, and of which it is not certain that they are what was saved: copies of ranks differ, or a
    /// copy of less precision is shown.
    pub doubtful: Vec<String>,
    /// Incomplete tensors, in file order.
    pub losses: Vec<Loss>,
    /// The original position of each of the checkpoint's tensors in the list of all tensors.
    positions: Vec<usize>,
}

/// An incomplete tensor.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Loss {
    /// Its name.
    pub name: String,
    /// Its type; `None` when only its name is known.
    pub dtype: Option<DType>,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Size of its elements in bytes.
    pub bytes: u64,
    /// The file that holds, or held, its bytes.
    #[serde(serialize_with = "shown")]
    pub file: Option<PathBuf>,
    /// Its first byte in that file, and the one after its last, if known.
    pub range: Option<(u64, u64)>,
    /// How many of these bytes exist and are known to be the tensor's own.
    pub present: u64,
    /// Ranges of its elements' bytes that are lost, where there are others before and after them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<(u64, u64)>,
    /// What is wrong.
    pub why: String,
    /// What it was filled with, if it was: `zeros`, `nan`, or another checkpoint.
    pub filled: Option<String>,
    /// Whether it is an element of a list: if it is left out, the elements after it move up.
    pub in_list: bool,
    #[serde(skip)]
    tensor: Option<Box<TensorInfo>>,
    /// Its original position in the list of all tensors.
    #[serde(skip)]
    position: usize,
}

/// What lost tensors are filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fill {
    /// Zeros: for packed ternary matrices the code of 0.
    Zeros,
    /// Not a number, for floating-point elements.
    Nan,
}

impl Fill {
    /// Its name as an option.
    pub fn name(self) -> &'static str {
        match self {
            Fill::Zeros => "zeros",
            Fill::Nan => "nan",
        }
    }

    /// The bytes of one element, or of any run of packed ones; `None` if the type has no such value.
    fn pattern(self, dtype: DType) -> Option<Vec<u8>> {
        match (self, dtype) {
            // Four codes of value + 1, in each of the layouts.
            (Fill::Zeros, DType::Ternary(_)) => Some(vec![0x55]),
            (Fill::Zeros, _) => Some(vec![0]),
            (Fill::Nan, DType::F64 | DType::C128) => Some(f64::NAN.to_le_bytes().to_vec()),
            (Fill::Nan, DType::F32 | DType::C64) => Some(f32::NAN.to_le_bytes().to_vec()),
            (Fill::Nan, DType::F16) => Some(half::f16::NAN.to_le_bytes().to_vec()),
            (Fill::Nan, DType::BF16) => Some(half::bf16::NAN.to_le_bytes().to_vec()),
            (Fill::Nan, DType::F8E4M3FN | DType::F8E5M2) => Some(vec![0x7f]),
            (Fill::Nan, DType::F8E4M3FNUZ | DType::F8E5M2FNUZ) => Some(vec![0x80]),
            (Fill::Nan, _) => None,
        }
    }
}

/// Opens `path`, verifies checksums, and separates intact tensors from incomplete ones.
///
/// # Errors
/// Those of [`open_with`]: nothing in it can be listed.
pub fn salvage(path: &Path, options: &OpenOptions) -> Result<Salvage> {
    // What is in the file, not what it stands for.
    let mut checkpoint = open_with(path, &OpenOptions { stored: true, ..*options })?;
    checkpoint.verify_checksums();
    // Bytes that belong to no tensor were inserted somewhere, and may have shifted those after them.
    let surplus = checkpoint.warnings.iter().filter(|notice| notice.kind == NoticeKind::Surplus);
    let surplus: Vec<String> = surplus.map(|notice| notice.text.clone()).collect();
    let beside = companion_faults(path);
    let damage = checkpoint.damage.take().map(|damage| damage.what);
    let damage: Vec<String> = damage.into_iter().chain(surplus).chain(beside).collect();
    let damage = (!damage.is_empty()).then(|| damage.join("; "));
    let mut salvage = Salvage {
        checkpoint,
        damage,
        verified: 0,
        unverified: Vec::new(),
        doubtful: Vec::new(),
        losses: Vec::new(),
        positions: Vec::new(),
    };
    // What each rank may have for itself is what was saved.
    let told = salvage.checkpoint.warnings.iter().filter(|notice| notice.kind != NoticeKind::Unlike);
    let told: HashSet<String> = told.flat_map(|notice| notice.tensors.iter().cloned()).collect();
    let tensors = std::mem::take(&mut salvage.checkpoint.tensors);
    for (position, tensor) in tensors.into_iter().enumerate() {
        let has_data = tensor.storages().next().is_some();
        match &tensor.damage {
            Some(why) if has_data => {
                let loss = salvage.checkpoint.loss(&tensor, why.to_string());
                salvage.losses.push(Loss { position, ..loss });
            }
            _ => {
                // No program gives such a name, and one flipped bit does.
                let is_odd = tensor.name.contains(char::is_control);
                if has_data && (is_odd || told.contains(&tensor.name)) {
                    salvage.doubtful.push(tensor.name.clone());
                } else if has_data
                    && !salvage.checkpoint.listing_damaged
                    && tensor.storages().all(Storage::is_vouched_for)
                {
                    salvage.verified += 1;
                } else if has_data {
                    salvage.unverified.push(tensor.name.clone());
                }
                salvage.checkpoint.tensors.push(tensor);
                salvage.positions.push(position);
            }
        }
    }
    for name in std::mem::take(&mut salvage.checkpoint.absent) {
        salvage.losses.push(Loss::absent(name));
    }
    Ok(salvage)
}

/// What is wrong with the files that a trainer put beside the model in the folder at `path`.
fn companion_faults(path: &Path) -> Vec<String> {
    let fault = |file: PathBuf| {
        let read = Source::open(&file).and_then(|source| format::read(&source));
        let damage = match read {
            Ok(contents) => Damage::joined(contents.faults)?.what,
            Err(error) => Error { path: None, ..error }.to_string(),
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Some(format!("{}: {damage}", name.escape_debug()))
    };
    let files =
        if path.is_stored_folder() { companion::companions(path).unwrap_or_default() } else { Vec::new() };
    files.into_iter().filter_map(fault).collect()
}

/// A path as text: JSON cannot express names that are not UTF-8.
fn shown<S: serde::Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.display().to_string()).serialize(serializer)
}

impl Loss {
    /// A tensor of which nothing but its name is known.
    fn absent(name: String) -> Self {
        Loss {
            name,
            dtype: None,
            shape: Vec::new(),
            bytes: 0,
            file: None,
            range: None,
            present: 0,
            holes: Vec::new(),
            why: "no file of the set contains it".into(),
            filled: None,
            in_list: false,
            tensor: None,
            position: usize::MAX,
        }
    }
}

impl Checkpoint {
    /// What is known of `tensor`, which is damaged.
    fn loss(&self, tensor: &TensorInfo, why: String) -> Loss {
        let parent = match tensor.name.rsplit_once('.') {
            Some((parent, _)) => lookup(&self.metadata, parent),
            None => Some(&self.metadata),
        };
        let mut loss = Loss {
            name: tensor.name.clone(),
            dtype: Some(tensor.dtype),
            shape: tensor.shape.iter().map(|&n| n as u64).collect(),
            bytes: tensor.byte_len().unwrap_or(0),
            why,
            in_list: parent.is_some_and(|parent| matches!(parent, Value::List(_))),
            tensor: Some(Box::new(tensor.clone())),
            ..Loss::absent(String::new())
        };
        // A tensor of several parts is lost if any of them is.
        let is_missing = |s: &&Storage| matches!(s.run().place, Place::Missing { .. });
        let Some(broken) = tensor.storages().find(is_missing).or(tensor.storages().next()) else {
            return loss;
        };
        let storage = broken.run();
        let whole = tensor.storage.as_ref() == Some(broken);
        let within = if whole { extent(tensor) } else { 0..storage.len };
        let (source, range) = match &storage.place {
            Place::Segments(segments) => {
                let [Segment { source, offset, .. }] = &segments[..] else { return loss };
                (source, offset.saturating_add(within.start)..offset.saturating_add(within.end))
            }
            Place::Missing { at: Some((source, offset)), .. } => {
                (source, offset.saturating_add(within.start)..offset.saturating_add(within.end))
            }
            Place::Deflated(Segment { source, offset, len }) => {
                (source, *offset..offset.saturating_add(*len))
            }
            Place::Holed { .. } if whole && tensor.is_contiguous() => {
                let holes = storage_holes(broken, &within);
                let lost = holes.iter().fold(0, |sum, (start, end)| sum + (end - start));
                (loss.present, loss.holes) = (loss.bytes.saturating_sub(lost), holes);
                return loss;
            }
            _ => return loss,
        };
        // The start of a storage that ends too early is intact; bytes that fail a checksum may be wrong anywhere.
        if let (Place::Segments(_), None, true) =
            (&storage.place, storage.crc32, whole && tensor.is_contiguous())
        {
            loss.present = storage.len.saturating_sub(within.start).min(loss.bytes);
        }
        loss.file = Some(source.path.clone());
        loss.range = Some((range.start, range.end));
        loss
    }
}

/// The holes in `within` of `storage`, counted from its beginning.
fn storage_holes(storage: &Storage, within: &Range<u64>) -> Vec<(u64, u64)> {
    let holes = storage.holes(within.clone());
    holes.iter().map(|hole| (hole.start - within.start, hole.end - within.start)).collect()
}

/// First byte and the one after the last of `tensor` on its storage.
fn extent(tensor: &TensorInfo) -> Range<u64> {
    let bytes = match tensor.dtype.element_size() {
        Some(size) => tensor.span().and_then(|n| n.checked_mul(size as u64)),
        None => tensor.byte_len(),
    };
    tensor.byte_offset..tensor.byte_offset.saturating_add(bytes.unwrap_or(0))
}

/// Identifies a view of a storage: equal for tensors that are the same view.
type View = (Option<Storage>, u64, Vec<usize>, Vec<usize>, DType);

fn view(tensor: &TensorInfo) -> View {
    (tensor.storage.clone(), tensor.byte_offset, tensor.shape.clone(), tensor.strides.clone(), tensor.dtype)
}

/// Puts `tensor` back at its original position.
fn put(checkpoint: &mut Checkpoint, positions: &mut Vec<usize>, position: usize, tensor: TensorInfo) {
    let at = positions.partition_point(|&p| p <= position);
    positions.insert(at, position);
    checkpoint.tensors.insert(at, tensor);
}

impl Salvage {
    /// Whether everything is present, undamaged and what was saved.
    pub fn is_whole(&self) -> bool {
        self.damage.is_none() && self.losses.is_empty() && self.doubtful.is_empty()
    }

    /// Fills the tensors that are still lost and whose type has such a value. The intact start of a truncated tensor is
    /// kept; one that fails its checksum is filled entirely. Returns how many were filled.
    pub fn fill(&mut self, fill: Fill) -> usize {
        let limit = FREE_FILL.max(self.checkpoint.file_bytes().saturating_mul(MAX_FILL));
        let Salvage { checkpoint, losses, positions, .. } = self;
        // Tied weights stay tied.
        let mut storages: HashMap<View, Storage> = HashMap::new();
        let mut filled = 0;
        for loss in losses.iter_mut().filter(|loss| loss.filled.is_none()) {
            let Some(tensor) = &loss.tensor else { continue };
            let Some(pattern) = fill.pattern(tensor.dtype) else { continue };
            if tensor.sparse.is_some() || tensor.quantizer.is_some() || loss.bytes > limit || loss.bytes == 0
            {
                continue;
            }
            let storage = storages.entry(view(tensor)).or_insert_with(|| {
                let run = tensor.storage.as_ref().map(Storage::run);
                let kept = match run.map(|run| &run.place) {
                    // A tensor with holes begins where its storage does.
                    Some(Place::Holed { kept, .. }) if loss.present > 0 => kept.to_vec(),
                    Some(Place::Segments(segments)) if loss.present > 0 => {
                        let segment = segments.first().map(|segment| Segment {
                            source: segment.source.clone(),
                            offset: segment.offset.saturating_add(tensor.byte_offset),
                            len: loss.present,
                        });
                        segment.map(|segment| (0, segment)).into_iter().collect()
                    }
                    _ => Vec::new(),
                };
                let swap = run.map_or(1, |run| run.swap);
                let mut pattern = pattern.clone();
                if swap > 1 {
                    pattern.reverse();
                }
                let place = Place::Filled { kept: kept.into(), pattern: pattern.into() };
                Storage::new(place, loss.bytes, None, swap)
            });
            let tensor = TensorInfo {
                strides: contiguous_strides(&tensor.shape),
                byte_offset: 0,
                storage: Some(storage.clone()),
                damage: None,
                ..(**tensor).clone()
            };
            put(checkpoint, positions, loss.position, tensor);
            loss.filled = Some(fill.name().to_string());
            filled += 1;
        }
        // What weights are multiplied by may have been filled.
        ternary::apply_scales(checkpoint);
        filled
    }

    /// Replaces the tensors that are still lost by intact ones of the same name, type and shape in `other`. Returns how
    /// many were replaced.
    pub fn fill_from(&mut self, mut other: Checkpoint) -> usize {
        other.verify_checksums();
        let Checkpoint { path, tensors, files, .. } = other;
        let by_name: HashMap<&str, &TensorInfo> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let mut filled = 0;
        for loss in self.losses.iter_mut().filter(|loss| loss.filled.is_none()) {
            let Some(theirs) = by_name.get(loss.name.as_str()) else { continue };
            let fits =
                loss.tensor.as_ref().is_none_or(|t| t.shape == theirs.shape && t.dtype == theirs.dtype);
            if !fits || theirs.damage.is_some() || theirs.storages().next().is_none() {
                continue;
            }
            put(&mut self.checkpoint, &mut self.positions, loss.position, (*theirs).clone());
            loss.filled = Some(path.display().to_string());
            filled += 1;
        }
        self.checkpoint.files.extend(files);
        ternary::apply_scales(&mut self.checkpoint);
        filled
    }

    /// Renumbers the elements of lists for when the lost ones are left out: the elements after them move up.
    pub fn close_gaps(&mut self) {
        let mut gaps: HashMap<String, Vec<usize>> = HashMap::new();
        for hole in self.holes().filter(|loss| loss.in_list) {
            let Some((list, index)) = hole.name.rsplit_once('.').or(Some(("", &hole.name))) else { continue };
            if let Ok(index) = index.parse() {
                gaps.entry(list.to_string()).or_default().push(index);
            }
        }
        // Lists within lists first, by the names that they have so far.
        let mut gaps: Vec<(String, Vec<usize>)> = gaps.into_iter().collect();
        gaps.sort_by_key(|(list, _)| std::cmp::Reverse(list.len()));
        for tensor in &mut self.checkpoint.tensors {
            for (list, lost) in &gaps {
                let start = if list.is_empty() { 0 } else { list.len() + 1 };
                let within = tensor.name.strip_prefix(list.as_str());
                let inner =
                    if list.is_empty() { within } else { within.and_then(|rest| rest.strip_prefix('.')) };
                let Some(inner) = inner else { continue };
                let digits = inner.split('.').next().unwrap_or_default().len();
                if let Ok(index) = inner[..digits].parse::<usize>() {
                    let moved = index - lost.iter().filter(|&&lost| lost < index).count();
                    tensor.name.replace_range(start..start + digits, &moved.to_string());
                }
            }
        }
    }

    /// What is lost and not filled.
    pub fn holes(&self) -> impl Iterator<Item = &Loss> {
        self.losses.iter().filter(|loss| loss.filled.is_none())
    }
}
