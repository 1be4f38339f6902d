//! What `torch.distributed.checkpoint` writes (torchtitan, FSDP2, Accelerate, Megatron-Core, NeMo): a folder of `.distcp`
//! files, in which each rank saved blocks of tensors and plain values one after another, each as an archive of
//! `torch.save` or as a SafeTensors file; and `.metadata`, written last, that says what is where.

mod beside;
mod claims;
mod metadata;
mod nested;
mod others;
mod replicas;
mod unfinished;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::beside::{BACKEND, COMMON, add_beside, without_common};
use self::claims::Claims;
use self::metadata::{Blocks, Chunk, Item, Listing, Place};
use self::nested::{Element, Nested};
use self::others::{of_other_saves, unlisted};
use self::replicas::in_pairs;
use self::unfinished::Parts;
use super::join::{Opened, Reading, Whole, shares};
use super::tiles::{self, Budget, Tile};
use super::twins::Twins;
use super::{Layout, Set, name, single, sort};
use crate::bytes::staged::folder_of;
use crate::bytes::storage::Storage;
use crate::bytes::stored::Stored;
use crate::bytes::zstd::{self, Recent};
use crate::bytes::{Source, Stamp};
use crate::format::{Contents, safetensors, torch_zip};
use crate::metadata::HashableValue;
use crate::tensor::TensorInfo;
use crate::torch::bit_notice;
use crate::{DType, Damage, DamageKind, Error, Format, Notice, NoticeKind, Result};

pub(super) const LAYOUT: Layout =
    Layout { recognises, set, identity, join, is_whole: is_folder, ..single::LAYOUT };

fn recognises(path: &Path) -> bool {
    let is_beside = || [COMMON, BACKEND].contains(&name(path).as_str()) && path.is_stored_file();
    let is_set =
        |folder: &Path| files(folder).is_ok_and(|files| files.iter().any(|f| is_listing(f) || is_part(f)));
    is_folder(path) || ((is_file(path) || is_beside()) && is_set(folder_of(path)))
}

/// Whether `path` is a file of a distributed checkpoint by its name.
fn is_file(path: &Path) -> bool {
    (is_part(path) || is_listing(path)) && path.is_stored_file()
}

fn is_part(path: &Path) -> bool {
    name(path).ends_with(".distcp")
}

/// Whether `path` is named as what a distributed checkpoint consists of: a part, or what lists parts beside it.
pub(crate) fn is_distributed(path: &Path) -> bool {
    is_part(path) || (is_listing(path) && is_folder(folder_of(path)))
}

/// Whether `path` is named like a listing: that of all ranks, or of one.
fn is_listing(path: &Path) -> bool {
    let name = name(path);
    name == ".metadata" || (name.starts_with("__") && name.ends_with(".metadata"))
}

/// What follows the name of a listing while it is written.
const DRAFT: &str = ".tmp";

/// Whether `path` is named like a listing that was not finished, or not given its name.
fn is_draft(path: &Path) -> bool {
    name(path).strip_suffix(DRAFT).is_some_and(|listing| is_listing(Path::new(listing)))
}

fn is_folder(path: &Path) -> bool {
    let known = |files: &[PathBuf]| files.iter().any(|file| is_part(file)) || lists_alone(path, files);
    path.is_stored_folder() && files(path).is_ok_and(|files| known(&files))
}

/// Whether of a distributed checkpoint in `folder` nothing is left but what lists its parts, `files`: the name alone does
/// not tell, and the listing may be of files in another form.
fn lists_alone(folder: &Path, files: &[PathBuf]) -> bool {
    const CLASS: &[u8] = b"torch.distributed.checkpoint.metadata";
    let is_listing = |path: &PathBuf| {
        let mut head = Vec::new();
        let read = path.stored_bytes().and_then(|file| file.take(4096).read_to_end(&mut head));
        read.is_ok() && head.windows(CLASS.len()).any(|bytes| bytes == CLASS)
    };
    let is_other = |path: &Path| path.extension().is_some_and(|e| e == "safetensors");
    let others = || folder.stored_entries().is_ok_and(|e| e.iter().any(|entry| is_other(&entry.path)));
    files.iter().any(is_listing) && !others()
}

/// The files of a distributed checkpoint in `folder`: listings first, then by their names.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = folder.stored_entries().map_err(|e| Error::io(folder, &e))?;
    let (mut files, others): (Vec<PathBuf>, Vec<PathBuf>) =
        entries.into_iter().map(|entry| entry.path).partition(|path| is_file(path));
    if files.iter().all(|file| is_part(file)) && !files.is_empty() {
        files.extend(others.into_iter().filter(|path| is_draft(path) && path.is_stored_file()));
    }
    sort(&mut files);
    files.sort_by_key(|path| is_part(path));
    // The listing of all ranks is made from those of single ones.
    if files.iter().any(|file| name(file) == ".metadata") {
        files.retain(|file| !is_listing(file) || name(file) == ".metadata");
    }
    Ok(files)
}

/// The folder of the checkpoint that `path` belongs to.
fn identity(path: &Path) -> PathBuf {
    match path.is_stored_folder() {
        true => path.to_path_buf(),
        false => folder_of(path).to_path_buf(),
    }
}

fn set(path: &Path) -> Result<Set> {
    let folder = identity(path);
    let files = files(&folder)?;
    let is_listed = files.first().is_some_and(|file| is_listing(file));
    // What Megatron-Core keeps beside the blocks.
    let common = [COMMON, BACKEND].map(|name| folder.join(name));
    let beside = common.iter().map(|path| Stamp::of(path)).collect();
    let missing = without_common(&common).filter(|_| is_listed);
    let files = files.into_iter().chain(common.into_iter().filter(|path| path.is_stored_file())).collect();
    Ok(Set { files, beside, missing, ..Set::default() })
}

fn join(files: Vec<Opened>) -> Result<Whole> {
    let mut contents = Contents::new(Format::TorchDistributed);
    let (mut listing, mut reading, mut unread) = (Listing::default(), Reading::default(), Vec::new());
    let (mut beside, mut others, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    // Listings come first.
    let mut named = None;
    let mut parts: HashMap<String, std::result::Result<Arc<Source>, Damage>> = HashMap::new();
    let (mut drafts, mut unlisted_parts) = (false, Parts::new());
    for file in files {
        let path = file.path.clone();
        if [COMMON, BACKEND].contains(&name(&path).as_str()) {
            beside.push(file);
        } else if is_listing(&path) {
            let source = reading.open(file, &mut unread).map_err(|damage| Error::from(&damage))?;
            listing.read(&source, &mut contents).map_err(|e| e.in_file(&path))?;
            lists.push(name(&path));
        } else if is_draft(&path) {
            let source = reading.open(file, &mut Vec::new()).ok();
            if source.is_some_and(|source| listing.read(&source, &mut contents).is_ok()) {
                drafts = true;
                lists.extend(name(&path).strip_suffix(DRAFT).map(str::to_string));
            }
        } else if lists.is_empty() {
            let part = reading.open(file, &mut unread);
            if let Ok(source) = &part {
                unlisted_parts.add(&path, source, &mut listing, &mut contents)?;
            }
            parts.insert(name(&path), part);
        } else if named
            .get_or_insert_with(|| listing.files())
            .as_ref()
            .is_none_or(|named| named.contains(&name(&path)))
        {
            parts.insert(name(&path), reading.open(file, &mut unread));
        } else {
            others.push(name(&path));
        }
    }
    let bytes = parts.values().flatten().fold(0u64, |sum, part| sum.saturating_add(part.len()));
    let folder = Folder {
        parts,
        bytes,
        left: Cell::new(bytes.saturating_mul(2)),
        used: RefCell::default(),
        blobs: RefCell::default(),
        streams: RefCell::default(),
        unpacked: Cell::new(bytes.saturating_mul(MAX_RATIO).max(FREE_RATIO)),
        recent: Arc::default(),
        objects: Cell::new(0),
        claims: RefCell::default(),
        own: RefCell::default(),
        spare: RefCell::default(),
    };
    folder.add_missing(&listing, &mut contents);
    contents.faults.append(&mut unread);
    folder.add_items(&listing, &mut contents);
    let parts = shares(
        &contents.tensors,
        "they are in values that were saved as one, of which PyTorch keeps what one rank had",
    );
    contents.faults.extend(unlisted(&lists, &mut others));
    contents.notices.extend(of_other_saves(&others, parts.is_some()));
    contents.notices.extend(folder.spoilt_copies());
    contents.notices.extend(parts);
    contents.notices.extend(folder.claims.take().shared());
    contents.notices.extend(folder.own.take().notices());
    match lists.is_empty() {
        true => unlisted_parts.finish(&listing, &mut contents)?,
        false => folder.add_unclaimed(&listing, &mut contents),
    }
    contents.faults.extend(drafts.then(unfinished::draft));
    for file in beside {
        add_beside(file, &mut reading, &mut contents);
    }
    contents.tell_first();
    Ok(reading.whole(contents))
}

/// The files that ranks wrote, by their names.
struct Folder {
    parts: HashMap<String, std::result::Result<Arc<Source>, Damage>>,
    /// Bytes of all of them.
    bytes: u64,
    /// Bytes that may still be read: places of a true listing do not overlap.
    left: Cell<u64>,
    /// The ranges that were read, by file.
    used: RefCell<HashMap<String, Vec<(u64, u64)>>>,
    /// The tensors of SafeTensors files that were read, by the file and where in it they begin.
    blobs: RefCell<HashMap<(String, u64), HashMap<String, TensorInfo>>>,
    /// The run of empty compressed streams that was last looked at, by file, and whether SafeTensors follow.
    streams: RefCell<HashMap<String, (Range<u64>, bool)>>,
    /// Bytes that parts may still decompress to,
    unpacked: Cell<u64>,
    /// and those that did last.
    recent: Arc<Recent>,
    /// Objects of Megatron-Core's own that are not shown.
    objects: Cell<u64>,
    /// The archives that were read, and what each is of.
    claims: RefCell<Claims>,
    /// The parts of divided tensors, by file.
    own: RefCell<Twins>,
    /// What each file should have copies of, and has not.
    spare: RefCell<BTreeMap<String, Vec<String>>>,
}

/// All parts together may decompress to this many times the bytes of their files, and always to this many bytes: weights
/// hardly compress.
const MAX_RATIO: u64 = 64;
const FREE_RATIO: u64 = 256 << 20;
/// Bytes of an archive besides those of its tensor, at most.
const AROUND: u64 = 1 << 20;
/// Entries that cannot be read, of which so many are told.
const TOLD: usize = 3;
/// A plain value may decompress to this many bytes.
const MAX_VALUE: u64 = 64 << 20;

impl Folder {
    /// Tells which files the listing names and the folder lacks.
    fn add_missing(&self, listing: &Listing, contents: &mut Contents) {
        let named: BTreeMap<&str, ()> = listing.ranges().map(|place| (place.file.as_str(), ())).collect();
        let gone: Vec<&str> = named.keys().copied().filter(|file| !self.parts.contains_key(*file)).collect();
        let (outside, gone): (Vec<&str>, Vec<&str>) = gone.into_iter().partition(|file| is_outside(file));
        if let Some(first) = outside.first() {
            let what = format!(
                "the listing names {} of {} files by paths out of the folder, which are not followed, such as {}",
                outside.len(),
                named.len(),
                first.escape_debug()
            );
            contents.faults.push(Damage::new(DamageKind::MissingShards, what));
        }
        if !gone.is_empty() {
            let first: Vec<String> =
                gone.iter().take(3).map(|file| file.escape_debug().to_string()).collect();
            let more = if gone.len() > 3 { " and more" } else { "" };
            let what = format!("{} of {} files missing: {}{more}", gone.len(), named.len(), first.join(", "));
            contents.faults.push(Damage::new(DamageKind::MissingShards, what));
        }
    }

    fn add_items(&self, listing: &Listing, contents: &mut Contents) {
        let mut budget = Budget::of_bytes(self.bytes);
        let mut nested = Nested::default();
        let mut spoilt = Vec::new();
        for (name, item) in &listing.items {
            match item {
                Item::Tensor(blocks) => {
                    if let Some(path) = listing.paths.get(name) {
                        nested.put(path, Element::Tensor);
                    }
                    let tensor = self.tensor(listing, name, blocks, &mut budget, &mut contents.notices);
                    contents.tensors.push(tensor);
                }
                Item::Value => spoilt.extend(self.add_value(listing, name, &mut nested, contents)),
                Item::Unreadable(damage) => spoilt.push(called(name, damage.clone())),
            }
        }
        // Those of one file are lost together.
        let more = spoilt.len().saturating_sub(TOLD);
        contents.faults.extend(spoilt.into_iter().take(TOLD));
        if more > 0 {
            let what = format!("and {more} more entries that cannot be read");
            contents.faults.push(Damage::new(DamageKind::UnreadableEntry, what));
        }
        contents.metadata = nested.into_dict();
        nested::in_order(&mut contents.tensors, &listing.paths);
        let resolved = contents.tensors.iter().filter(|tensor| tensor.storages().any(Storage::is_computed));
        contents.notices.extend(bit_notice(resolved.map(|tensor| tensor.name.as_str())));
        if !self.streams.borrow().is_empty() {
            let text = "its tensors are SafeTensors with empty compressed streams before them, as PyTorch writes where both are asked for";
            contents.notices.push(Notice::new(NoticeKind::Unusual, text).refused());
        }
        let objects = self.objects.get();
        if objects > 0 {
            let are = if objects == 1 { " of a layer's own is" } else { "s of layers' own are" };
            let text = format!("{objects} object{are} bytes of a form that is not read");
            contents.notices.push(Notice::new(NoticeKind::NotShown, text));
        }
    }

    fn tensor(
        &self,
        listing: &Listing,
        name: &str,
        Blocks { dtype, shape, chunks, wrong }: &Blocks,
        budget: &mut Budget,
        notices: &mut Vec<Notice>,
    ) -> TensorInfo {
        let tile = |chunk: &Chunk| {
            let places = listing.places(name, Some(&chunk.offsets));
            let bytes = dtype.and_then(|dtype| dtype.bytes_for(&chunk.sizes)).unwrap_or(MAX_VALUE);
            let (part, found) = self.block(name, places, bytes);
            notices.extend(found.map(|mut notice| {
                notice.text = format!("`{}` {}", name.escape_debug(), notice.text);
                notice.about(vec![name.to_string()])
            }));
            let part = part.map(|part| in_pairs(part, *dtype, &chunk.sizes));
            Tile { offsets: chunk.offsets.clone(), sizes: chunk.sizes.clone(), part }
        };
        let tiles: Vec<Tile> = chunks.iter().map(tile).collect();
        if tiles.len() > 1 {
            self.add_own(listing, name, &tiles);
        }
        let stored = || tiles.iter().find_map(|tile| tile.part.as_ref().ok()).map(|part| part.dtype);
        match dtype.or_else(stored) {
            Some(dtype) if wrong.is_none() => {
                tiles::join(name.to_string(), dtype, shape.clone(), tiles, budget)
            }
            dtype => {
                let unknown = || Damage::new(DamageKind::UnknownType, "its element type is unknown");
                let damage = wrong.clone().unwrap_or_else(unknown);
                let dtype = dtype.unwrap_or(DType::U8);
                let mut tensor = TensorInfo::contiguous(name.to_string(), dtype, shape.clone(), None, 0);
                tensor.storage = Some(Storage::missing(damage.clone(), 0));
                tensor.damage = Some(damage);
                tensor
            }
        }
    }

    /// Keeps which file each of `tiles` of the tensor `name` is in.
    fn add_own(&self, listing: &Listing, name: &str, tiles: &[Tile]) {
        for tile in tiles {
            let places = listing.places(name, Some(&tile.offsets));
            if let (Ok(part), [Ok(place)]) = (&tile.part, places) {
                self.own.borrow_mut().add(&place.file, name, part);
            }
        }
    }

    /// The tensor `name` that was saved at `place`, alone or in a SafeTensors file with others.
    fn tensor_at(&self, name: &str, place: &Place, bytes: u64) -> std::result::Result<TensorInfo, Damage> {
        let key = (place.file.clone(), self.begin(place));
        let of_blob = |tensors: &HashMap<String, TensorInfo>| {
            let what = || lost(format!("{} does not hold it", place.file.escape_debug()));
            tensors.get(name).cloned().ok_or_else(what)
        };
        if let Some(tensors) = self.blobs.borrow().get(&key) {
            return of_blob(tensors);
        }
        let mut saved = self.saved(place, bytes)?;
        match (saved.format, saved.tensors.len()) {
            (Format::SafeTensors, _) => {
                let tensors = saved.tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
                let found = of_blob(&tensors);
                self.blobs.borrow_mut().insert(key, tensors);
                found
            }
            (_, 1) => {
                self.claims.borrow_mut().add(name, place);
                Ok(saved.tensors.remove(0))
            }
            (_, n) => Err(lost(format!("{n} tensors are in its place in {}", place.file.escape_debug()))),
        }
    }

    /// Adds the plain value `name` where its keys lead to, and tensors that lie in it; gives what keeps it from being read.
    fn add_value(
        &self,
        listing: &Listing,
        name: &str,
        nested: &mut Nested,
        contents: &mut Contents,
    ) -> Option<Damage> {
        let places = listing.places(name, None);
        let (saved, differ) = self.value(name, places);
        contents.notices.extend(differ);
        let opaque = || places.first().is_some_and(|p| p.as_ref().is_ok_and(|place| self.is_opaque(place)));
        let saved = match saved {
            Ok(saved) => saved,
            // Bytes of a layer's own making, which a rank saved for itself.
            Err(_) if is_object(name) && opaque() => {
                self.objects.set(self.objects.get() + 1);
                return None;
            }
            Err(mut damage) => {
                damage.what = format!("the value `{}`: {damage}", name.escape_debug());
                return Some(damage);
            }
        };
        for mut tensor in saved.tensors {
            tensor.name =
                if tensor.name.is_empty() { name.to_string() } else { format!("{name}.{}", tensor.name) };
            contents.tensors.push(tensor);
        }
        crate::format::add_new(&mut contents.globals, saved.globals);
        contents.notices.extend(saved.notices);
        let whole = [HashableValue::String(name.to_string())];
        let keys = listing.paths.get(name).map_or(&whole[..], Vec::as_slice);
        if !nested.put(keys, Element::Value(saved.metadata)) {
            let name = name.escape_debug();
            let text =
                format!("the value `{name}` is left out: another one is where it should be, or on its way");
            contents.notices.push(Notice::new(NoticeKind::NotShown, text));
        }
        None
    }

    /// Where in its file what was saved at `place` begins. With both of torch's options SafeTensors are written behind empty
    /// compressed streams, one for each tensor, and are not compressed themselves.
    fn begin(&self, place: &Place) -> u64 {
        const EMPTY: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];
        let len = EMPTY.len() as u64;
        let Some(Ok(source)) = self.parts.get(&place.file).filter(|_| place.is_packed()) else {
            return place.offset;
        };
        let mut streams = self.streams.borrow_mut();
        if let Some((run, before)) = streams
            .get(&place.file)
            .filter(|(run, _)| run.contains(&place.offset) && (place.offset - run.start).is_multiple_of(len))
        {
            return if *before { run.end } else { place.offset };
        }
        let is_empty = |at: u64| source.bytes(at..at.saturating_add(len)).is_ok_and(|bytes| *bytes == EMPTY);
        let mut end = place.offset;
        while is_empty(end) {
            end += len;
        }
        if end == place.offset {
            return end;
        }
        let before = safetensors::extent(source.data(), end).is_some();
        streams.insert(place.file.clone(), (place.offset..end, before));
        if before { end } else { place.offset }
    }

    /// What was saved at `place`, which is of about `bytes` bytes once it is decompressed.
    fn saved(&self, place: &Place, bytes: u64) -> std::result::Result<Contents, Damage> {
        let file = place.file.escape_debug();
        let source = match self.parts.get(&place.file) {
            Some(Ok(source)) => source,
            Some(Err(damage)) => return Err(damage.clone()),
            None if is_outside(&place.file) => {
                let what = format!("{file} leads out of the folder, and is not followed");
                return Err(Damage::new(DamageKind::MissingShards, what));
            }
            None => return Err(Damage::new(DamageKind::MissingShards, format!("{file} is missing"))),
        };
        let start = self.begin(place);
        let packed = place.is_packed() && start == place.offset;
        if let ([transform, ..], false) = (&place.transforms[..], place.is_packed()) {
            let what = format!("{file} has it as {}, which is not read", transform.escape_debug());
            return Err(Damage::new(DamageKind::Compression, what));
        }
        let section = |len| {
            Source::section(source, start, len).ok_or_else(|| {
                let end = start.saturating_add(len);
                let what = format!("{file} has {} bytes, and {end} are needed", source.len());
                Damage::new(DamageKind::CutShort, what)
            })
        };
        // The length of a tensor in a SafeTensors file is that of its elements alone.
        let extent = safetensors::extent(source.data(), start).filter(|_| !packed);
        let len = extent.unwrap_or(place.len);
        let mut section = section(len)?;
        let Some(left) = self.left.get().checked_sub(len) else {
            let what = "the places that the listing names overlap out of proportion to the files";
            return Err(Damage::new(DamageKind::Overlap, what));
        };
        self.left.set(left);
        self.used.borrow_mut().entry(place.file.clone()).or_default().push((start, len));
        let failed = |error: Error| {
            let kind = error.fault.unwrap_or_default();
            Damage::new(kind, format!("{file}, from byte {}: {error}", place.offset))
        };
        if packed {
            let limit = bytes.saturating_add(AROUND).min(self.unpacked.get());
            section = zstd::source(source, (place.offset, len), limit, &self.recent).map_err(failed)?;
            self.unpacked.set(self.unpacked.get().saturating_sub(section.len()));
        }
        let read = match extent {
            Some(_) => safetensors::read(&section),
            None => torch_zip::read(&section),
        };
        let mut contents = read.map_err(failed)?;
        match Damage::joined(std::mem::take(&mut contents.faults)) {
            Some(mut damage) => {
                damage.what = format!("{file}, from byte {}: {damage}", place.offset);
                Err(damage)
            }
            None => Ok(contents),
        }
    }

    /// Whether all bytes at `place` are there and are not the remains of an archive, so that they are of another form.
    fn is_opaque(&self, place: &Place) -> bool {
        /// How parts of a zip begin: an entry, its line in the directory, the end of that.
        const ZIP: [&[u8]; 3] = [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"];
        /// As much as this is looked at.
        const LOOKED_AT: u64 = 1 << 20;
        let Some(Ok(source)) = self.parts.get(&place.file) else { return false };
        let end = place.offset.checked_add(place.len).filter(|end| *end <= source.len());
        let Some(end) = end.filter(|_| place.transforms.is_empty()) else { return false };
        let Ok(bytes) = source.bytes(place.offset..end.min(place.offset + LOOKED_AT)) else { return false };
        let is_zip = bytes.windows(4).any(|bytes| ZIP.contains(&bytes));
        !is_zip && (bytes.is_empty() || bytes.iter().any(|byte| *byte != 0))
    }

    /// Tells of bytes that the listing does not mention.
    fn add_unclaimed(&self, listing: &Listing, contents: &mut Contents) {
        let mut used = self.used.borrow_mut();
        for place in listing.ranges() {
            used.entry(place.file.clone()).or_default().push((place.offset, place.len));
        }
        let mut parts: Vec<_> = self.parts.iter().collect();
        parts.sort_by_key(|(file, _)| file.as_str());
        for (file, part) in parts {
            let Ok(source) = part else { continue };
            let free = tiles::unclaimed(source.len(), used.remove(file).unwrap_or_default());
            if free > 0 {
                let text =
                    format!("{free} bytes of {} are in no place that .metadata names", file.escape_debug());
                contents.notices.push(Notice::new(NoticeKind::Hole, text));
            }
        }
    }
}

/// Whether Megatron-Core saved the object `name` for each rank by itself, such as `…/shard_0_8`.
fn is_object(name: &str) -> bool {
    name.rsplit_once('/').is_some_and(|(_, shard)| shard.starts_with("shard_"))
}

/// Whether a file that the listing names is in another folder than the listing.
fn is_outside(file: &str) -> bool {
    file.contains('\\') || Path::new(file).file_name() != Some(file.as_ref())
}

/// What is wrong with the entry `name`.
fn called(name: &str, damage: Damage) -> Damage {
    Damage { what: format!("`{}`: {damage}", name.escape_debug()), ..damage }
}

fn lost(what: String) -> Damage {
    Damage::new(DamageKind::StorageLost, what)
}
