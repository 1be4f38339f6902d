//! What PyTorch puts into a pickle: tensors, parameters, modules, and the plain values around them. Shared by the
//! zip, legacy and tar containers, which differ only in where a storage's bytes are.
//!
//! The constructors are those of `torch/_utils.py`; here they are recognised by name and their arguments read.
//! The graph is hostile: it may hold cycles, be as deep as the file is long, and share parts so that its paths
//! are exponentially many. Depth and visits are bounded, and one budget pays for everything that is copied.

mod bits;
mod dtypes;
mod numpy;
mod shares;
mod tensors;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use num_bigint::BigInt;

use bits::Bits;
pub(crate) use bits::bit_notice;
pub use dtypes::{has_dtype, storage_class};
pub(crate) use dtypes::{storage_dtype, torch_dtype};
pub(crate) use numpy::{code_of, numpy_code, scalar};
pub(crate) use tensors::persistent_storage;

use crate::bytes::{Source, slice};
use crate::format::Extension;
use crate::metadata::{HashableValue, Value};
use crate::pickle::{Id, Node, Object, Pickle};
use crate::storage::{Place, Segment, Storage};
use crate::tensor::TensorInfo;
use crate::{DType, Error, Notice, NoticeKind, Result};

/// Extensions of PyTorch's files.
pub(crate) const EXTENSIONS: &[(&str, Extension)] =
    &[("pt", Extension::Own), ("pth", Extension::Own), ("ckpt", Extension::Own), ("bin", Extension::Shared)];

/// Where an optimizer's state dict has the settings of its groups of parameters.
pub const PARAM_GROUPS: &str = "param_groups";

/// The deepest nesting of containers.
const MAX_DEPTH: usize = 256;
/// Characters of a name from the file that a message quotes.
const QUOTED: usize = 80;
/// Warnings kept of one pickle.
const MAX_WARNINGS: usize = 64;
/// Bytes of a storage's key: PyTorch's are decimal numbers.
const MAX_KEY: usize = 256;
/// The cost of one tensor's or storage's entry against the budget, in bytes.
const ENTRY: usize = 256;

/// A storage that tensors refer to; the container says where its bytes are.
#[derive(Clone, Debug)]
pub(crate) struct StorageRef {
    pub key: String,
    /// Its element type; `U8` for untyped storages.
    pub dtype: DType,
    /// Bytes it must contain.
    pub bytes: u64,
    /// For views of the legacy format: key of the whole storage, and first element there.
    pub view_of: Option<(String, u64)>,
    /// Bytes that are in the pickle itself (numpy arrays, tensors that `pickle.dump` wrote).
    pub inline: Option<Inline>,
    /// What its elements stand for, if not for themselves.
    pub bits: Option<Bits>,
}

/// Bytes of a storage within a pickle.
#[derive(Clone, Debug)]
pub(crate) struct Inline {
    bytes: InlineBytes,
    big_endian: bool,
}

#[derive(Clone, Debug)]
enum InlineBytes {
    /// First byte, counted from the pickle's.
    At(u64),
    /// Written as text, which had to be decoded.
    Decoded(Arc<[u8]>),
}

impl StorageRef {
    /// The storage, if its bytes are in `pickle`, which begins at `mapped` (a file, an offset) unless it was
    /// compressed.
    pub fn inline(&self, pickle: &[u8], mapped: Option<(&Arc<Source>, u64)>) -> Option<Storage> {
        let Inline { bytes, big_endian } = self.inline.as_ref()?;
        let place = match (bytes, mapped) {
            (InlineBytes::Decoded(bytes), _) => Place::Inline(bytes.clone()),
            (InlineBytes::At(at), Some((source, base))) => {
                Place::Segments(Segment { source: source.clone(), offset: base + at, len: self.bytes }.into())
            }
            (InlineBytes::At(at), None) => Place::Inline(slice(pickle, *at, self.bytes)?.into()),
        };
        Some(Storage::new(place, self.bytes, None, if *big_endian { 2 } else { 1 }))
    }
}

/// The contents of one pickle of PyTorch.
#[derive(Debug)]
pub(crate) struct TorchObject {
    /// Tensors, on storages whose position only the container knows.
    pub tensors: Vec<TensorInfo>,
    pub storages: Vec<StorageRef>,
    /// The placeholder for each of `storages` in `tensors`.
    handles: Vec<Storage>,
    pub metadata: Value,
    pub notices: Vec<Notice>,
    /// Every `torch.Size` by the keys that lead to it, in the pickle's order.
    pub sizes: Vec<(String, Vec<usize>)>,
}

impl TorchObject {
    /// The tensors, on the storages that `place` gives for those that the pickle refers to.
    pub fn placed(&mut self, mut place: impl FnMut(&StorageRef) -> Storage) -> Vec<TensorInfo> {
        let places: HashMap<&Storage, Storage> = self
            .handles
            .iter()
            .zip(&self.storages)
            .map(|(handle, storage)| {
                let placed = place(storage);
                (handle, storage.bits.map_or(placed.clone(), |bits| bits.applied(placed)))
            })
            .collect();
        let mut tensors = std::mem::take(&mut self.tensors);
        for tensor in &mut tensors {
            tensor.replace_storages(&mut |storage| {
                if let Some(placed) = places.get(storage) {
                    *storage = placed.clone();
                }
            });
        }
        tensors
    }
}

/// Finds the tensors and the plain values in `pickle`.
pub(crate) fn interpret(pickle: &Pickle<'_>) -> TorchObject {
    interpret_with(pickle, &|_| None)
}

/// As [`interpret`], for containers that name tensors by persistent ids (the tar form): `known` gives them.
pub(crate) fn interpret_with(
    pickle: &Pickle<'_>,
    known: &dyn Fn(Id) -> Option<(TensorInfo, StorageRef)>,
) -> TorchObject {
    let mut walker = Walker {
        pickle,
        known,
        tensors: Vec::new(),
        storages: Vec::new(),
        handles: Vec::new(),
        storage_keys: HashMap::new(),
        arrays: Vec::new(),
        path: HashSet::new(),
        embedded: HashMap::new(),
        notices: Vec::new(),
        sizes: Vec::new(),
        unmade: BTreeMap::new(),
        // An element of a container takes at least one byte of the pickle.
        visits_left: pickle.len.saturating_mul(2).saturating_add(4096),
        // A tensor's entry takes at least 70 bytes of the pickle; names are repeated for everything below them.
        bytes_left: pickle.len.saturating_mul(16).saturating_add(1 << 20),
        more_warnings: 0,
        cut: false,
    };
    let metadata = walker.walk(pickle.root, None, 0).unwrap_or(Value::None);
    if walker.more_warnings > 0 {
        walker.notices.push(Notice::new(
            NoticeKind::NotShown,
            format!("and {} more of its objects cannot be read", walker.more_warnings),
        ));
    }
    // Beside tensors, arrays are random-number states and histories; alone, they are the weights.
    if walker.tensors.is_empty() {
        for (mut tensor, storage) in std::mem::take(&mut walker.arrays) {
            let Ok(index) = walker.add_storage(storage) else { break };
            tensor.storage = Some(walker.handles[index].clone());
            walker.tensors.push(tensor);
        }
    }
    walker.notices.extend(walker.resolved());
    walker.notices.extend(std::mem::take(&mut walker.unmade).into_iter().map(tensors::unmade));
    if walker.cut {
        walker.notices.push(Notice::new(
            NoticeKind::ListingCut,
            "its objects are nested or repeated out of proportion to the file's size; the listing stops there",
        ));
    }
    let Walker { tensors, storages, handles, notices, sizes, .. } = walker;
    TorchObject { tensors, storages, handles, metadata, notices, sizes }
}

struct Walker<'p, 'a> {
    pickle: &'p Pickle<'a>,
    known: &'p dyn Fn(Id) -> Option<(TensorInfo, StorageRef)>,
    tensors: Vec<TensorInfo>,
    storages: Vec<StorageRef>,
    handles: Vec<Storage>,
    storage_keys: HashMap<String, usize>,
    /// NumPy arrays found so far.
    arrays: Vec<(TensorInfo, StorageRef)>,
    /// Containers between the root and here: finding one again is a cycle.
    path: HashSet<Id>,
    /// Storages that were read from byte strings.
    embedded: HashMap<Id, usize>,
    notices: Vec<Notice>,
    sizes: Vec<(String, Vec<usize>)>,
    /// By the function that made them, which is not known, the storages that are listed in place of tensors.
    unmade: BTreeMap<String, Vec<String>>,
    visits_left: usize,
    /// Bytes that may still be copied or built.
    bytes_left: usize,
    /// The number of warnings that were not kept.
    more_warnings: usize,
    cut: bool,
}

impl<'p> Walker<'p, '_> {
    /// Walks `id`, collecting tensors under `name`, and gives the plain value that remains; `None` for a tensor.
    fn walk(&mut self, id: Id, name: Option<&str>, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH || self.spent() {
            self.cut = true;
            return None;
        }
        self.visits_left -= 1;
        let pickle = self.pickle;
        match pickle.node(id) {
            Node::None => Some(Value::None),
            Node::Bool(b) => Some(Value::Bool(*b)),
            Node::Int(i) => Some(Value::I64(*i)),
            // Writing an integer in decimal takes the square of its length.
            Node::BigInt(bytes) if bytes.len() > 256 => {
                let text = format!("an integer of {} bytes", bytes.len());
                self.afford(text.len()).then_some(Value::String(text))
            }
            Node::BigInt(bytes) => {
                self.afford(4 * bytes.len()).then(|| Value::Int(BigInt::from_signed_bytes_le(bytes)))
            }
            Node::Float(f) => Some(Value::F64(*f)),
            Node::Str(s) => self.afford(s.len()).then(|| Value::String(s.to_string())),
            Node::Bytes(b) => self.afford(b.len()).then(|| Value::Bytes(b.to_vec())),
            Node::Global(g) => self.afford_dotted(&g.module, &g.name).map(Value::String),
            Node::Buffer => Some(Value::String("an out-of-band buffer".into())),
            Node::Persistent(pid) => self.bare_storage(*pid, name),
            Node::Tuple(items) | Node::List(items) | Node::Set(items) => {
                if matches!(pickle.node(id), Node::Tuple(_)) {
                    self.keep_shape(name, id);
                }
                self.inside(id, |w| w.walk_items(items, name, depth)).map(Value::List)
            }
            Node::Dict(entries) => self.inside(id, |w| w.walk_entries(entries, name, depth)).map(Value::Dict),
            Node::Object(object) => self.inside(id, |w| Some(w.walk_object(object, name, depth))).flatten(),
        }
    }

    /// Runs `visit` unless `id` is being visited already.
    fn inside<T>(&mut self, id: Id, visit: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        if !self.path.insert(id) {
            return None;
        }
        let result = visit(self);
        self.path.remove(&id);
        result
    }

    /// Whether the budget is used up.
    fn spent(&self) -> bool {
        self.visits_left == 0 || self.bytes_left == 0
    }

    /// Whether the budget, which is in proportion to the pickle, covers a copy of `bytes` more: many places may refer
    /// to one string. The first one that it does not cover ends the listing.
    fn afford(&mut self, bytes: usize) -> bool {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => self.bytes_left = left,
            None => (self.bytes_left, self.cut) = (0, true),
        }
        !self.spent()
    }

    fn afford_dotted(&mut self, module: &str, name: &str) -> Option<String> {
        self.afford(module.len() + name.len() + 1).then(|| dotted(module, name))
    }

    /// As [`Walker::afford`], for what an error can report.
    fn pay(&mut self, bytes: usize) -> Result<()> {
        if self.afford(bytes) {
            return Ok(());
        }
        Err(Error::unsupported("it repeats parts of the pickle out of proportion to its size"))
    }

    fn child_name(&mut self, parent: Option<&str>, key: &str) -> Option<String> {
        let length = parent.map_or(0, |p| p.len() + 1) + key.len();
        self.afford(length).then(|| match parent {
            None => key.to_string(),
            Some(parent) => format!("{parent}.{key}"),
        })
    }

    fn warn(&mut self, warning: impl FnOnce() -> String) {
        self.tell(|| Notice::new(NoticeKind::NotShown, warning()));
    }

    /// Warns that the tensor called `name` is not read.
    fn warn_unread(&mut self, name: &str, warning: impl FnOnce() -> String) {
        self.tell(|| Notice::new(NoticeKind::Unread, warning()).about(vec![name.to_string()]));
    }

    fn tell(&mut self, notice: impl FnOnce() -> Notice) {
        if self.notices.len() < MAX_WARNINGS {
            self.notices.push(notice());
        } else {
            self.more_warnings += 1;
        }
    }

    /// Lists `tensor` under `name`.
    fn list(&mut self, mut tensor: TensorInfo, name: Option<&str>) {
        let name = name.unwrap_or("");
        let entry = ENTRY + name.len() + 16 * tensor.shape.len();
        if self.afford(entry) {
            tensor.name = name.to_string();
            self.tensors.push(tensor);
        }
    }

    fn walk_items(&mut self, items: &[Id], name: Option<&str>, depth: usize) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        for (i, &item) in items.iter().enumerate() {
            if self.spent() {
                self.cut = true;
                break;
            }
            let leaf = self.is_leaf(item);
            let child = if leaf { None } else { Some(self.child_name(name, &i.to_string())?) };
            values.extend(self.walk(item, child.as_deref().or(name), depth + 1));
        }
        Some(values)
    }

    fn walk_entries(
        &mut self,
        entries: &[(Id, Id)],
        name: Option<&str>,
        depth: usize,
    ) -> Option<BTreeMap<HashableValue, Value>> {
        let mut values = BTreeMap::new();
        for &(key, value) in entries {
            if self.spent() {
                self.cut = true;
                break;
            }
            let (text, hashable) = self.key(key);
            if !self.afford(text.len()) {
                break;
            }
            let child = if self.is_leaf(value) { None } else { Some(self.child_name(name, &text)?) };
            if let Some(value) = self.walk(value, child.as_deref().or(name), depth + 1) {
                values.insert(hashable, value);
            }
        }
        Some(values)
    }

    /// Whether `id` holds nothing that could need a name.
    fn is_leaf(&self, id: Id) -> bool {
        use Node::*;
        matches!(
            self.pickle.node(id),
            None | Bool(_) | Int(_) | BigInt(_) | Float(_) | Str(_) | Bytes(_) | Global(_) | Buffer
        )
    }

    fn key(&self, id: Id) -> (String, HashableValue) {
        let text = match self.pickle.node(id) {
            Node::Str(s) => s.to_string(),
            Node::Int(i) => return (i.to_string(), HashableValue::I64(*i)),
            Node::Bool(b) => return (if *b { "True" } else { "False" }.into(), HashableValue::Bool(*b)),
            Node::None => return ("None".into(), HashableValue::None),
            Node::Float(f) => return (format!("{f:?}"), HashableValue::F64(*f)),
            Node::Bytes(b) => crate::bytes::text(b),
            Node::Global(g) => dotted(&g.module, &g.name),
            Node::Tuple(items) => {
                let parts: Vec<String> = items
                    .iter()
                    .take(8)
                    .map(|&item| match self.pickle.node(item) {
                        Node::Str(s) => s.to_string(),
                        Node::Int(i) => i.to_string(),
                        _ => "?".into(),
                    })
                    .collect();
                format!("({})", parts.join(", "))
            }
            _ => "?".into(),
        };
        (text.clone(), HashableValue::String(text))
    }

    fn walk_object(&mut self, object: &Object, name: Option<&str>, depth: usize) -> Option<Value> {
        let pickle = self.pickle;
        let callable = pickle.global(object.callable);
        let (module, function) = callable.unwrap_or(("", ""));
        let args = pickle.sequence(object.args).unwrap_or(&[]);
        match (module, function) {
            ("torch._utils" | "torch._tensor", f) if f.starts_with("_rebuild") => {
                return self.rebuild(f, args, name, depth);
            }
            ("collections", "OrderedDict" | "defaultdict" | "Counter")
            | ("builtins" | "__builtin__", "dict") => {
                let mut entries = Vec::new();
                // Python 2 passes the pairs as an argument.
                for &arg in args {
                    let listed = pickle.sequence(arg).unwrap_or(&[]);
                    if let Node::Dict(pairs) = pickle.node(arg)
                        && self.afford(pairs.len().saturating_mul(16))
                    {
                        entries.extend_from_slice(pairs);
                    }
                    if !self.afford(listed.len().saturating_mul(16)) {
                        break;
                    }
                    for &pair in listed {
                        if let Some(&[key, value]) = pickle.sequence(pair) {
                            entries.push((key, value));
                        }
                    }
                }
                entries.extend_from_slice(&object.entries);
                return self.walk_entries(&entries, name, depth).map(Value::Dict);
            }
            ("torch.nn.parameter", "UninitializedParameter" | "UninitializedBuffer") => {
                self.list_uninitialized(function, args, name);
                return None;
            }
            // As versions wrote it in which it was no tensor itself.
            ("torch.distributed._shard.sharded_tensor.api", "ShardedTensor") => {
                if let Some(&state) = object.state.last()
                    && let Some(shards) = self.sharded(object.callable, state)
                {
                    self.list_shards(shards, name, depth);
                    return None;
                }
            }
            ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple") | ("torch", "Size") => {
                let items = args.first().and_then(|&a| pickle.sequence(a)).unwrap_or(&[]);
                if function == "Size" {
                    self.keep_size(name, args);
                }
                return self.walk_items(items, name, depth).map(Value::List);
            }
            ("torch", "device" | "Device") | ("torch.serialization", "_get_layout") => {
                let first = args.first().and_then(|&a| pickle.str(a)).unwrap_or(function);
                let index = args.get(1).and_then(|&a| pickle.int(a));
                return self
                    .afford(first.len() + 20)
                    .then(|| Value::String(index.map_or(first.into(), |i| format!("{first}:{i}"))));
            }
            ("pathlib" | "pathlib._local", "PosixPath" | "WindowsPath" | "PurePosixPath" | "Path") => {
                let parts: Vec<&str> = args.iter().filter_map(|&a| self.pickle.str(a)).collect();
                let length = parts.iter().fold(0usize, |n, part| n.saturating_add(part.len() + 1));
                return self.afford(length).then(|| Value::String(parts.join("/").replace("//", "/")));
            }
            ("_codecs", "encode") => {
                if let Some(bytes) = self.latin1(object) {
                    return Some(Value::Bytes(bytes));
                }
            }
            ("builtins" | "__builtin__", "bytearray" | "bytes") => {
                let bytes = args.first().map_or(Some(Cow::Borrowed(&[][..])), |&a| self.byte_string(a));
                if let Some(bytes) = bytes {
                    return self.afford(bytes.len()).then(|| Value::Bytes(bytes.into_owned()));
                }
            }
            (m, "_reconstruct" | "_frombuffer") if m.starts_with("numpy") => {
                if let Some(array) = self.numpy(object) {
                    let name = name.unwrap_or("");
                    let copied = array.bytes.len().saturating_add(16 * array.shape.len());
                    if !self.afford(copied.saturating_add(4 * ENTRY + name.len())) {
                        return None;
                    }
                    let value = array.to_value();
                    let (mut tensor, storage) = self.array_tensor(array);
                    tensor.name = name.to_string();
                    self.arrays.push((tensor, storage));
                    return Some(value);
                }
                if let Some((shape, texts)) = self.numpy_texts(object) {
                    let described = || format!("a numpy array of texts {shape:?}");
                    return match shape.len() <= 1 && texts.len() <= numpy::SHOWN {
                        true => Some(Value::List(self.walk_items(texts, None, depth + 1)?)),
                        false => self.afford(16 * shape.len() + 32).then(|| Value::String(described())),
                    };
                }
            }
            (m, "scalar") if m.starts_with("numpy") => {
                if let Some(value) = self.numpy_scalar(args) {
                    return Some(value);
                }
            }
            _ => {}
        }
        let class = match callable {
            Some((module, class)) => Some(self.afford_dotted(module, class)?),
            None => None,
        };
        self.walk_instance(object, class, args, name, depth)
    }

    /// An instance of any class: its state's entries are its children, as attributes are in Python.
    fn walk_instance(
        &mut self,
        object: &Object,
        class: Option<String>,
        args: &[Id],
        name: Option<&str>,
        depth: usize,
    ) -> Option<Value> {
        let mut fields = BTreeMap::new();
        if let Some(class) = class {
            fields.insert(HashableValue::String("__class__".into()), Value::String(class));
        }
        // `copyreg._reconstructor(class, base, state)` and `functools.partial` keep the class among the arguments.
        if !args.is_empty() {
            let child = self.child_name(name, "args")?;
            let first = self.tensors.len();
            let values = self.walk_items(args, Some(&child), depth)?;
            if args.iter().any(|&arg| matches!(self.pickle.node(arg), Node::Persistent(_))) {
                self.note_unmade(object, first);
            }
            fields.insert(HashableValue::String("args".into()), Value::List(values));
        }
        let pickle = self.pickle;
        for state in object.state.iter().chain(&object.kwargs) {
            // With __slots__ the state is a pair: attributes, slots.
            let parts = match pickle.node(*state) {
                Node::Tuple(parts) if parts.len() == 2 => parts,
                _ => std::slice::from_ref(state),
            };
            for &part in parts {
                match pickle.node(part) {
                    Node::Dict(entries) => {
                        fields.append(&mut self.walk_entries(entries, name, depth)?);
                    }
                    Node::None => {}
                    _ => {
                        let child = self.child_name(name, "state")?;
                        if let Some(value) = self.walk(part, Some(&child), depth + 1) {
                            fields.insert(HashableValue::String("state".into()), value);
                        }
                    }
                }
            }
        }
        fields.append(&mut self.walk_entries(&object.entries, name, depth)?);
        if !object.items.is_empty() {
            let values = self.walk_items(&object.items, name, depth)?;
            fields.insert(HashableValue::String("items".into()), Value::List(values));
        }
        Some(Value::Dict(fields))
    }
}

/// The beginning of a name from the file, on one line.
fn quoted(name: &str) -> String {
    let mut rest = name.chars();
    let start: String = rest.by_ref().take(QUOTED).flat_map(char::escape_debug).collect();
    if rest.next().is_some() { start + "…" } else { start }
}

fn dotted(module: &str, name: &str) -> String {
    format!("{module}.{name}")
}
