//! The file `.metadata` of a distributed checkpoint: a pickle of the class `Metadata` and those in it
//! (`torch/distributed/checkpoint/metadata.py`, `filesystem.py`), read as data.

use std::collections::{HashMap, HashSet};

use crate::bytes::Source;
use crate::format::Contents;
use crate::layout::name;
use crate::metadata::HashableValue;
use crate::pickle::{Id, Node, Pickle};
use crate::tensor::TensorInfo;
use crate::torch::torch_dtype;
use crate::{DType, Damage, DamageKind, Error, ErrorKind, Result};

/// The deepest nesting of an item that is kept.
const DEEPEST: usize = 64;
/// Dimensions of a tensor, at most.
const DIMENSIONS: usize = 64;

/// The extension of torch that compresses a part, before its version.
const ZSTD: &str = "stream.zstd/1";
/// The largest `.metadata` that is read.
const MAX_METADATA: u64 = 1 << 30;

/// What a distributed checkpoint holds, and where.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Tensors, and plain values, by their flat names.
    pub items: Vec<(String, Item)>,
    /// The place of each name in `items`: ranks that list by themselves have blocks of the same tensors.
    numbers: HashMap<String, usize>,
    /// Where each block of a tensor is, by its name and the first element in each dimension; plain values have none.
    /// Ranks that list by themselves each have what is replicated.
    places: HashMap<Key, Vec<Where>>,
    /// The keys that lead to an item in the nested state dict.
    pub paths: HashMap<String, Vec<HashableValue>>,
}

/// A range of a file, or why the listing does not say which.
pub(super) type Where = std::result::Result<Place, Damage>;

/// A name, and the first element of a block.
type Key = (String, Option<Vec<usize>>);

/// A thing that was saved.
#[derive(Debug)]
pub(super) enum Item {
    Tensor(Blocks),
    Value,
    /// One whose entry cannot be read, and why.
    Unreadable(Damage),
}

/// A tensor and the blocks that it was saved in.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Its element type; `None` for one that is not known here.
    pub dtype: Option<DType>,
    pub shape: Vec<usize>,
    pub chunks: Vec<Chunk>,
    /// What is wrong with an entry of `chunks` that cannot be read.
    pub wrong: Option<Damage>,
}

/// A block of a tensor.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub offsets: Vec<usize>,
    pub sizes: Vec<usize>,
}

/// A range of a file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub file: String,
    pub offset: u64,
    pub len: u64,
    /// How its bytes were transformed, such as `stream.zstd/1`.
    pub transforms: Vec<String>,
}

impl Place {
    /// Whether its bytes are compressed, in the one way that is read.
    pub fn is_packed(&self) -> bool {
        let is_zstd = |transform: &String| transform == ZSTD || transform.starts_with("stream.zstd/1.");
        matches!(&self.transforms[..], [transform] if is_zstd(transform))
    }
}

impl Listing {
    /// Adds what the file `source` lists, and its globals to `contents`.
    ///
    /// # Errors
    /// Those of a file that is no such listing.
    pub fn read(&mut self, source: &Source, contents: &mut Contents) -> Result<()> {
        if source.len() > MAX_METADATA {
            let what = format!("a listing of more than {MAX_METADATA} bytes is not read");
            return Err(Error::unsupported(what));
        }
        let bytes = source.bytes(0..source.len())?;
        let pickle = Pickle::parse(&bytes).map_err(|error| unfinished(source, error))?;
        contents.add_globals(&pickle);
        self.add(&pickle)
    }

    /// Adds what `pickle` lists.
    ///
    /// # Errors
    /// `Damaged` for a pickle that is no such listing.
    fn add(&mut self, pickle: &Pickle<'_>) -> Result<()> {
        // A name that many places share is copied for each.
        let mut reader = Reader { pickle, left: pickle.len.saturating_mul(8).saturating_add(1 << 20) };
        let items = reader.field(pickle.root, "state_dict_metadata").and_then(|id| reader.entries(id));
        let items = items.ok_or_else(|| wrong("it lists no tensors (`state_dict_metadata`)"))?;
        for &(key, value) in items {
            let name = pickle.str(key).ok_or_else(|| wrong("a name that is not text"))?;
            let name = reader.copied(name)?;
            let item = match reader.item(value) {
                Err(error) if error.kind == ErrorKind::Damaged => Item::Unreadable(error.into()),
                item => item.map_err(|e| e.in_tensor(&name))?,
            };
            match (self.numbers.get(&name).map(|&number| &mut self.items[number].1), item) {
                (None, item) => {
                    self.numbers.insert(name.clone(), self.items.len());
                    self.items.push((name, item));
                }
                (Some(Item::Tensor(Blocks { chunks, .. })), Item::Tensor(Blocks { chunks: more, .. })) => {
                    let known: HashSet<Vec<usize>> =
                        chunks.iter().map(|chunk| chunk.offsets.clone()).collect();
                    chunks.extend(more.into_iter().filter(|chunk| !known.contains(&chunk.offsets)));
                }
                // A value that each of them has.
                _ => {}
            }
        }
        let places =
            reader.field(pickle.root, "storage_data").and_then(|id| reader.entries(id)).unwrap_or(&[]);
        for &(index, info) in places {
            // A block whose place is none that can be read is one of which the listing does not say where it is.
            let key = match reader.place_of(index) {
                Err(error) if error.kind == ErrorKind::Damaged => continue,
                key => key?,
            };
            let place = match reader.place(info) {
                Err(error) if error.kind == ErrorKind::Damaged => Err(error.into()),
                place => Ok(place?),
            };
            self.places.entry(key).or_default().push(place);
        }
        let paths =
            reader.field(pickle.root, "planner_data").and_then(|id| reader.entries(id)).unwrap_or(&[]);
        for &(key, path) in paths {
            let parts = pickle.sequence(path).unwrap_or(&[]).iter().take(DEEPEST);
            let keys: Option<Vec<HashableValue>> =
                parts.map(|&part| reader.key(part)).collect::<Result<_>>()?;
            if let (Some(name), Some(keys)) = (pickle.str(key), keys) {
                self.paths.insert(reader.copied(name)?, keys);
            }
        }
        Ok(())
    }

    /// Adds the block `part`, which begins at `offsets` of its tensor and is at `place`: the tensor is as large as its blocks
    /// reach.
    pub fn found(&mut self, part: &TensorInfo, offsets: Vec<usize>, place: Place) {
        let ends = offsets.iter().zip(&part.shape).map(|(at, size)| at.saturating_add(*size));
        let ends: Vec<usize> = ends.collect();
        let number = *self.numbers.entry(part.name.clone()).or_insert_with(|| {
            let blocks = Blocks {
                dtype: Some(part.dtype),
                shape: vec![0; ends.len()],
                chunks: Vec::new(),
                wrong: None,
            };
            self.items.push((part.name.clone(), Item::Tensor(blocks)));
            self.items.len() - 1
        });
        let places = self.places.entry((part.name.clone(), Some(offsets.clone()))).or_default();
        if let (Item::Tensor(blocks), true) = (&mut self.items[number].1, places.is_empty()) {
            blocks.shape.iter_mut().zip(ends).for_each(|(all, end)| *all = (*all).max(end));
            blocks.chunks.push(Chunk { offsets, sizes: part.shape.clone() });
        }
        places.push(Ok(place));
    }

    /// Where the block of tensor `name` is that begins at `offsets`, in each rank that has it; without them, the plain
    /// value `name`.
    pub fn places(&self, name: &str, offsets: Option<&[usize]>) -> &[Where] {
        self.places.get(&(name.to_string(), offsets.map(<[usize]>::to_vec))).map_or(&[], Vec::as_slice)
    }

    /// Every range that something was written to.
    pub fn ranges(&self) -> impl Iterator<Item = &Place> {
        self.places.values().flatten().filter_map(|place| place.as_ref().ok())
    }

    /// The files that it names; `None` where some of its places cannot be read.
    pub fn files(&self) -> Option<HashSet<String>> {
        self.places
            .values()
            .flatten()
            .map(|place| place.as_ref().ok().map(|place| place.file.clone()))
            .collect()
    }
}

/// The error of a listing that is no pickle because of `error`.
fn unfinished(source: &Source, error: Error) -> Error {
    if error.kind != ErrorKind::Damaged {
        return error;
    }
    let file = name(&source.path);
    let what = match source.len() {
        0 => format!(
            "{file}, which is written last and says what the .distcp files hold, is empty: saving was not finished"
        ),
        _ => format!(
            "{file}, which is written last and says what the .distcp files hold, is cut short or damaged: {}",
            error.what
        ),
    };
    Error { what, ..error }.because(DamageKind::CutShort).hint("use the checkpoint of an earlier step")
}

/// What is wrong with the listing as a whole.
fn wrong(what: &str) -> Error {
    entry(&format!("is not a listing of a distributed checkpoint: {what}"))
}

/// What is wrong with one of its entries.
fn entry(what: &str) -> Error {
    Error::damaged(what).because(DamageKind::UnreadableEntry)
}

/// Reads objects of a pickle by their fields.
struct Reader<'p, 'a> {
    pickle: &'p Pickle<'a>,
    /// Bytes that may still be copied, in proportion to the pickle.
    left: usize,
}

impl<'p> Reader<'p, '_> {
    fn pay(&mut self, bytes: usize) -> Result<()> {
        let left = self.left.checked_sub(bytes);
        self.left =
            left.ok_or_else(|| Error::unsupported("it repeats itself out of proportion to its size"))?;
        Ok(())
    }

    fn copied(&mut self, text: &str) -> Result<String> {
        self.pay(text.len() + 16)?;
        Ok(text.to_string())
    }

    /// The state of object `id`.
    fn state(&self, id: Id) -> Option<Id> {
        match self.pickle.node(id) {
            Node::Object(object) => object.state.last().copied(),
            _ => None,
        }
    }

    /// The field `name` of object `id`.
    fn field(&self, id: Id, name: &str) -> Option<Id> {
        self.pickle.attribute(id, name)
    }

    fn entries(&self, id: Id) -> Option<&'p [(Id, Id)]> {
        match self.pickle.node(id) {
            Node::Dict(entries) => Some(entries),
            Node::Object(object) if !object.entries.is_empty() => Some(&object.entries),
            _ => None,
        }
    }

    /// The name of the class of object `id`.
    fn class(&self, id: Id) -> Option<&str> {
        self.pickle.class(id).map(|(_, name)| name)
    }

    fn item(&mut self, id: Id) -> Result<Item> {
        match self.class(id) {
            Some("BytesStorageMetadata") => return Ok(Item::Value),
            Some("TensorStorageMetadata") => {}
            other => {
                return Err(entry(&format!(
                    "the listing has it as an entry of class {}",
                    other.unwrap_or("unknown").escape_debug()
                )));
            }
        }
        let shape = self.field(id, "size").ok_or_else(|| entry("the listing has no size of it"))?;
        let shape = self.sizes(shape)?;
        // The state is a tuple that begins with the type, or a dict in between versions.
        let properties = self.field(id, "properties").and_then(|properties| {
            let dtype = || self.field(properties, "dtype");
            self.pickle.sequence(self.state(properties)?)?.first().copied().or_else(dtype)
        });
        let dtype = properties.and_then(|id| self.pickle.global(id)).and_then(|(_, name)| torch_dtype(name));
        let listed = self.field(id, "chunks").and_then(|chunks| self.pickle.sequence(chunks));
        let listed = listed.ok_or_else(|| entry("the listing has no blocks of it"))?;
        let (mut chunks, mut wrong) = (Vec::new(), None);
        for &chunk in listed {
            match self.chunk(chunk) {
                Err(error) if error.kind == ErrorKind::Damaged => drop(wrong.get_or_insert(error.into())),
                chunk => chunks.push(chunk?),
            }
        }
        Ok(Item::Tensor(Blocks { dtype, shape, chunks, wrong }))
    }

    fn chunk(&mut self, id: Id) -> Result<Chunk> {
        let without = || entry("the listing has a block of it without a place");
        let offsets = self.sizes(self.field(id, "offsets").ok_or_else(without)?)?;
        let sizes = self.sizes(self.field(id, "sizes").ok_or_else(without)?)?;
        Ok(Chunk { offsets, sizes })
    }

    /// A `torch.Size`, or a sequence of whole numbers.
    fn sizes(&mut self, id: Id) -> Result<Vec<usize>> {
        let pickle = self.pickle;
        let items = match pickle.node(id) {
            Node::Object(object) => {
                let first = pickle.sequence(object.args).and_then(|args| args.first().copied());
                first.and_then(|first| pickle.sequence(first))
            }
            _ => pickle.sequence(id),
        };
        let none = || entry("the listing has something in place of a size");
        let items = items.filter(|items| items.len() <= DIMENSIONS).ok_or_else(none)?;
        self.pay(8 * items.len() + 24)?;
        let size = |&item: &Id| match pickle.int(item) {
            Some(n) => usize::try_from(n).map_err(|_| {
                entry(&format!("the listing has the negative number {n} among its sizes and offsets"))
            }),
            None => Err(none()),
        };
        items.iter().map(size).collect()
    }

    /// What an entry of `storage_data` is the place of.
    fn place_of(&mut self, index: Id) -> Result<Key> {
        let pickle = self.pickle;
        let name = self.field(index, "fqn").and_then(|id| pickle.str(id));
        let name = name.ok_or_else(|| entry("a place of nothing"))?;
        let offsets = match self.field(index, "offset") {
            None => None,
            Some(id) if matches!(pickle.node(id), Node::None) => None,
            Some(id) => Some(self.sizes(id)?),
        };
        Ok((self.copied(name)?, offsets))
    }

    /// The place that an entry of `storage_data` names.
    fn place(&mut self, info: Id) -> Result<Place> {
        let pickle = self.pickle;
        let text = |id: Option<Id>| id.and_then(|id| pickle.str(id));
        let file = text(self.field(info, "relative_path"));
        let file = file.ok_or_else(|| entry("the listing has its place without a file"))?;
        let number = |name: &str| {
            let number = self.field(info, name).and_then(|id| pickle.int(id));
            let number = number.ok_or_else(|| entry(&format!("the listing has no {name} of it")))?;
            u64::try_from(number).map_err(|_| {
                let file = file.escape_debug();
                entry(&format!("the listing says that its {name} in {file} is {number}, which is negative"))
            })
        };
        let (offset, len) = (number("offset")?, number("length")?);
        let mut transforms = Vec::new();
        let listed = self.field(info, "transform_descriptors").and_then(|id| pickle.sequence(id));
        for &transform in listed.unwrap_or(&[]).iter().take(8) {
            transforms.push(self.copied(text(Some(transform)).unwrap_or("unknown"))?);
        }
        Ok(Place { file: self.copied(file)?, offset, len, transforms })
    }

    /// A key of a dict or an index of a list; `None` for anything else.
    fn key(&mut self, id: Id) -> Result<Option<HashableValue>> {
        let pickle = self.pickle;
        Ok(match pickle.node(id) {
            Node::Str(text) => Some(HashableValue::String(self.copied(text)?)),
            Node::Int(number) => Some(HashableValue::I64(*number)),
            _ => None,
        })
    }
}
