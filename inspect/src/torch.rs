//! What PyTorch puts into a pickle: tensors, parameters, modules, and the plain values around them. Shared by the
//! zip, legacy and tar containers, which differ only in where a storage's bytes are.
//!
//! The constructors are those of `torch/_utils.py`; here they are recognised by name and their arguments read.
//! The graph is hostile: it may hold cycles, be as deep as the file is long, and share parts so that its paths
//! are exponentially many. Depth and visits are bounded, and one budget pays for everything that is copied.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use num_bigint::BigInt;
use serde_pickle::{HashableValue, Value};

use crate::pickle::{Id, Node, Object, Pickle};
use crate::storage::{Place, Storage, slice};
use crate::tensor::{Quantizer, Sparse, TensorInfo, contiguous_strides, numel};
use crate::{DType, Error, Group, Result, torch_legacy};

/// How deep containers may nest.
const MAX_DEPTH: usize = 256;
/// Characters of a name from the file that a message quotes.
const QUOTED: usize = 80;
/// Warnings kept of one pickle.
const MAX_WARNINGS: usize = 64;
/// Bytes of a storage's key: PyTorch's are decimal numbers.
const MAX_KEY: usize = 256;
/// What the entry of one tensor or storage is charged, in bytes.
const ENTRY: usize = 256;

/// A storage that tensors refer to; the container says where its bytes are.
#[derive(Clone, Debug)]
pub(crate) struct StorageRef {
    pub key: String,
    /// Its element type; `U8` for untyped storages.
    pub dtype: DType,
    /// Bytes it must hold.
    pub bytes: u64,
    /// For views of the legacy format: key of the whole storage, and first element there.
    pub view_of: Option<(String, u64)>,
    /// Bytes that are in the pickle itself (numpy arrays, tensors that `pickle.dump` wrote).
    pub inline: Option<Inline>,
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
    /// The storage, if its bytes are in `pickle`, which is at `mapped` (file, offset) unless it was compressed.
    pub fn inline(&self, pickle: &[u8], mapped: Option<(usize, u64)>) -> Option<Storage> {
        let Inline { bytes, big_endian } = self.inline.as_ref()?;
        let place = match (bytes, mapped) {
            (InlineBytes::Decoded(bytes), _) => Place::Inline(bytes.clone()),
            (InlineBytes::At(at), Some((file, base))) => Place::Mapped { file, offset: base + at },
            (InlineBytes::At(at), None) => Place::Inline(slice(pickle, *at, self.bytes)?.into()),
        };
        Some(Storage { place, len: self.bytes, crc32: None, swap: if *big_endian { 2 } else { 1 } })
    }
}

/// What one pickle of PyTorch holds.
#[derive(Debug)]
pub(crate) struct TorchObject {
    /// Tensors; their `storage` indexes `storages`.
    pub tensors: Vec<TensorInfo>,
    pub storages: Vec<StorageRef>,
    pub metadata: Value,
    pub warnings: Vec<String>,
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
        storage_keys: HashMap::new(),
        arrays: Vec::new(),
        path: HashSet::new(),
        embedded: HashMap::new(),
        warnings: Vec::new(),
        // An element of a container takes at least one byte of the pickle.
        visits_left: pickle.len.saturating_mul(2).saturating_add(4096),
        // A tensor's entry takes at least 70 bytes of the pickle, names are repeated by all that is below them.
        bytes_left: pickle.len.saturating_mul(16).saturating_add(1 << 20),
        more_warnings: 0,
        cut: false,
    };
    let metadata = walker.walk(pickle.root, None, 0).unwrap_or(Value::None);
    if walker.more_warnings > 0 {
        walker.warnings.push(format!("and {} more of its objects cannot be shown", walker.more_warnings));
    }
    // Beside tensors, arrays are random-number states and histories; alone, they are the weights.
    if walker.tensors.is_empty() {
        for (mut tensor, storage) in std::mem::take(&mut walker.arrays) {
            let Ok(index) = walker.add_storage(storage) else { break };
            tensor.storage = Some(index);
            walker.tensors.push(tensor);
        }
    }
    if walker.cut {
        walker.warnings.push(
            "the object nests or repeats itself beyond what its size explains; the listing was cut there"
                .into(),
        );
    }
    TorchObject { tensors: walker.tensors, storages: walker.storages, metadata, warnings: walker.warnings }
}

struct Walker<'p, 'a> {
    pickle: &'p Pickle<'a>,
    known: &'p dyn Fn(Id) -> Option<(TensorInfo, StorageRef)>,
    tensors: Vec<TensorInfo>,
    storages: Vec<StorageRef>,
    storage_keys: HashMap<String, usize>,
    /// Numpy arrays met on the way.
    arrays: Vec<(TensorInfo, StorageRef)>,
    /// Containers between the root and here: meeting one again is a cycle.
    path: HashSet<Id>,
    /// Storages that were read from byte strings.
    embedded: HashMap<Id, usize>,
    warnings: Vec<String>,
    visits_left: usize,
    /// Bytes that may still be copied or built.
    bytes_left: usize,
    /// Warnings that were not kept.
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

    /// Whether nothing more can be built.
    fn spent(&self) -> bool {
        self.visits_left == 0 || self.bytes_left == 0
    }

    /// Whether a copy of `bytes` more is in proportion to the pickle: a string may be referred to from many places.
    /// The first that is not ends the listing.
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
        Err(Error::unsupported("it repeats parts of the pickle beyond what its size explains"))
    }

    fn child_name(&mut self, parent: Option<&str>, key: &str) -> Option<String> {
        let length = parent.map_or(0, |p| p.len() + 1) + key.len();
        self.afford(length).then(|| match parent {
            None => key.to_string(),
            Some(parent) => format!("{parent}.{key}"),
        })
    }

    fn warn(&mut self, warning: impl FnOnce() -> String) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(warning());
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
            Node::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
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
                // Python 2 hands the pairs over as an argument.
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
            ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple") | ("torch", "Size") => {
                let items = args.first().and_then(|&a| pickle.sequence(a)).unwrap_or(&[]);
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
            let values = self.walk_items(args, Some(&child), depth)?;
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

    /// A call of one of PyTorch's `_rebuild…` functions.
    fn rebuild(&mut self, function: &str, args: &[Id], name: Option<&str>, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            self.cut = true;
            return None;
        }
        if matches!(function, "_rebuild_parameter" | "_rebuild_parameter_with_state") {
            let before = self.tensors.len();
            let value = args.first().and_then(|&data| self.walk(data, name, depth + 1));
            if let (Some(tensor), Some(&grad)) = (self.tensors.get_mut(before), args.get(1)) {
                tensor.requires_grad = matches!(self.pickle.node(grad), Node::Bool(true));
            }
            if let Some(&state) = args.get(3) {
                self.walk(state, name, depth + 1);
            }
            return value;
        }
        if matches!(function, "_rebuild_from_type" | "_rebuild_from_type_v2") {
            // (function, class, its arguments, state): a subclass of Tensor.
            let pickle = self.pickle;
            let inner = args.first().and_then(|&f| pickle.global(f)).map(|(_, f)| f);
            let inner_args = args.get(2).and_then(|&a| pickle.sequence(a));
            let value = match (inner, inner_args) {
                (Some(f), Some(a)) => self.rebuild(f, a, name, depth + 1),
                _ => None,
            };
            if let Some(&state) = args.get(3) {
                self.walk(state, name, depth + 1);
            }
            return value;
        }
        if matches!(function, "_rebuild_device_tensor_from_cpu_tensor") {
            return args.first().and_then(|&data| self.walk(data, name, depth + 1));
        }
        // A jagged tensor's values and offsets are in the state that follows.
        if function == "_rebuild_njt" {
            return None;
        }
        match self.tensor(function, args) {
            Ok(tensor) => {
                self.list(tensor, name);
                None
            }
            Err(error) => {
                let (name, function) = (name.unwrap_or(""), quoted(function));
                self.warn(|| {
                    format!("`{}` is made by {function} and cannot be shown: {error}", quoted(name))
                });
                let value = format!("a tensor made by {function}: {error}");
                if !self.afford(value.len()) {
                    return None;
                }
                // What it was to be made of may still hold tensors.
                let child = self.child_name(Some(name), "args")?;
                self.walk_items(args, Some(&child), depth);
                Some(Value::String(value))
            }
        }
    }

    /// The tensor that `function` would build from `args`; its name is still empty.
    fn tensor(&mut self, function: &str, args: &[Id]) -> Result<TensorInfo> {
        let args = Args { pickle: self.pickle, ids: args };
        match function {
            "_rebuild_tensor" | "_rebuild_tensor_v2" => {
                let mut tensor = self.strided(&args, None)?;
                tensor.requires_grad =
                    args.get(4).is_ok_and(|id| matches!(self.pickle.node(id), Node::Bool(true)));
                Ok(tensor)
            }
            "_rebuild_tensor_v3" => {
                let dtype = args.dtype(6)?;
                let mut tensor = self.strided(&args, Some(dtype))?;
                tensor.requires_grad =
                    args.get(4).is_ok_and(|id| matches!(self.pickle.node(id), Node::Bool(true)));
                Ok(tensor)
            }
            "_rebuild_qtensor" => {
                let mut tensor = self.strided(&args, None)?;
                tensor.quantizer = Some(self.quantizer(args.get(4)?)?);
                Ok(tensor)
            }
            "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => self.sparse(&args),
            // Its elements one after another; what else makes it ragged is not shown.
            "_rebuild_nested_tensor" => self.inner(args.get(0)?),
            "_rebuild_device_tensor_from_numpy" => {
                let Node::Object(object) = self.pickle.node(args.get(0)?) else {
                    return Err(Error::damaged("its numpy array is something else"));
                };
                let array =
                    self.numpy(object).ok_or_else(|| Error::damaged("its numpy array cannot be read"))?;
                self.pay(array.bytes.len())?;
                let (mut tensor, storage) = self.array_tensor(array);
                // The array stands in for a type that numpy lacks; its elements are as many bytes.
                if let Ok(dtype) = args.dtype(1)
                    && dtype.element_size() == tensor.dtype.element_size()
                {
                    tensor.dtype = dtype;
                }
                tensor.storage = Some(self.add_storage(storage)?);
                Ok(tensor)
            }
            "_rebuild_meta_tensor_no_storage" => Ok(no_storage(
                args.dtype(0)?,
                args.shape(1)?,
                args.shape(2).ok(),
                Some("is a meta tensor: saved without data"),
            )),
            // Its data are in the tensors it wraps, which follow among its attributes.
            "_rebuild_wrapper_subclass" => {
                Ok(no_storage(args.dtype(1)?, args.shape(2)?, args.shape(3).ok(), None))
            }
            _ => Err(Error::unsupported(format!("{} is not a known constructor", quoted(function)))),
        }
    }

    /// (storage, offset, size, stride, …), the arguments that all strided tensors begin with.
    fn strided(&mut self, args: &Args<'_, '_>, dtype: Option<DType>) -> Result<TensorInfo> {
        let storage = self.storage(args.get(0)?)?;
        let dtype = dtype.unwrap_or(self.storages[storage].dtype);
        let offset = args.usize(1)?;
        let shape = args.shape(2)?;
        let strides = args.shape(3)?;
        if strides.len() != shape.len() {
            return Err(Error::damaged(format!("{} strides for {} dimensions", strides.len(), shape.len())));
        }
        numel(&shape).ok_or_else(|| Error::damaged("the product of its shape overflows"))?;
        let byte_offset = (offset as u64)
            .checked_mul(dtype.element_size().unwrap_or(1) as u64)
            .ok_or_else(|| Error::damaged("its offset overflows"))?;
        let mut tensor = TensorInfo::contiguous(String::new(), dtype, shape, storage, byte_offset);
        tensor.strides = strides;
        Ok(tensor)
    }

    /// The tensor that the node `id` stands for, kept out of the list.
    fn inner(&mut self, id: Id) -> Result<TensorInfo> {
        let pickle = self.pickle;
        let Node::Object(object) = pickle.node(id) else {
            return Err(Error::damaged("a part of it is not a tensor"));
        };
        self.pay(ENTRY)?;
        let function = pickle.global(object.callable).map_or("", |(_, f)| f);
        let args = pickle.sequence(object.args).unwrap_or(&[]);
        match function {
            "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3" => self.tensor(function, args),
            _ => Err(Error::unsupported("a part of it is not a plain tensor")),
        }
    }

    fn quantizer(&mut self, id: Id) -> Result<Quantizer> {
        let pickle = self.pickle;
        let parts = pickle.sequence(id).ok_or_else(|| Error::damaged("its quantizer is not a tuple"))?;
        let args = Args { pickle, ids: parts };
        match pickle.global(args.get(0)?).map_or("", |(_, scheme)| scheme) {
            "per_tensor_affine" => {
                Ok(Quantizer::PerTensor { scale: args.float(1)?, zero_point: args.int(2)? })
            }
            "per_channel_affine" | "per_channel_affine_float_qparams" => Ok(Quantizer::PerChannel {
                scales: Box::new(self.inner(args.get(1)?)?),
                zero_points: Box::new(self.inner(args.get(2)?)?),
                axis: args.usize(3)?,
            }),
            other => Err(Error::unsupported(format!("quantization scheme `{}`", quoted(other)))),
        }
    }

    fn sparse(&mut self, args: &Args<'_, '_>) -> Result<TensorInfo> {
        let layout = match self.pickle.node(args.get(0)?) {
            Node::Object(object) => {
                let inner = self.pickle.sequence(object.args).and_then(|a| a.first().copied());
                quoted(inner.and_then(|id| self.pickle.str(id)).unwrap_or("?"))
            }
            Node::Global(g) => dotted(&quoted(&g.module), &quoted(&g.name)),
            _ => return Err(Error::damaged("its layout is not named")),
        };
        let pickle = self.pickle;
        let parts =
            pickle.sequence(args.get(1)?).ok_or_else(|| Error::damaged("its parts are not a tuple"))?;
        let parts = Args { pickle, ids: parts };
        let coo = layout.ends_with("sparse_coo");
        let index_count = if coo { 1 } else { 2 };
        let mut indices = Vec::new();
        for i in 0..index_count {
            indices.push(self.inner(parts.get(i)?)?);
        }
        let values = self.inner(parts.get(index_count)?)?;
        let shape = parts.shape(index_count + 1)?;
        numel(&shape).ok_or_else(|| Error::damaged("the product of its shape overflows"))?;
        let mut tensor = no_storage(values.dtype, shape, None, None);
        tensor.sparse = Some(Box::new(Sparse { layout, indices, values }));
        Ok(tensor)
    }

    /// A storage saved by itself: shown as the vector it is.
    fn bare_storage(&mut self, pid: Id, name: Option<&str>) -> Option<Value> {
        if let Some((mut tensor, storage)) = (self.known)(pid) {
            tensor.storage = Some(self.add_storage(storage).ok()?);
            self.list(tensor, name);
            return None;
        }
        match self.storage_from_pid(pid) {
            Ok(index) => {
                let StorageRef { dtype, bytes, .. } = self.storages[index];
                let len = bytes / dtype.element_size().unwrap_or(1) as u64;
                self.list(TensorInfo::contiguous(String::new(), dtype, vec![len as usize], index, 0), name);
                None
            }
            Err(error) => {
                let text = format!("a persistent id: {error}");
                self.afford(text.len()).then_some(Value::String(text))
            }
        }
    }

    fn storage(&mut self, id: Id) -> Result<usize> {
        match self.pickle.node(id) {
            Node::Persistent(pid) => {
                let pid = *pid;
                self.storage_from_pid(pid)
            }
            // As `pickle.dump` writes a tensor: its storage is a file of its own, in a byte string.
            Node::Object(object) => {
                let args = self.pickle.sequence(object.args).unwrap_or(&[]);
                match (self.pickle.global(object.callable), args) {
                    (Some(("torch.storage", "_load_from_bytes")), &[bytes]) => self.embedded(bytes),
                    _ => Err(Error::unsupported("its storage is neither in the file nor in the pickle")),
                }
            }
            _ => Err(Error::damaged("its storage is not a persistent id")),
        }
    }

    /// A storage that was saved in the legacy format into the byte string `id`.
    fn embedded(&mut self, id: Id) -> Result<usize> {
        if let Some(&index) = self.embedded.get(&id) {
            return Ok(index);
        }
        let key = format!("in the pickle, {}", id.index());
        let bytes = self.byte_string(id).ok_or_else(|| Error::damaged("its storage is not a byte string"))?;
        let (dtype, at, len) = torch_legacy::lone_storage(&bytes)?;
        let inline = self.inline(match bytes {
            Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[at..at + len]),
            Cow::Owned(bytes) => Cow::Owned(bytes[at..at + len].to_vec()),
        });
        self.pay(len)?;
        let bytes = len as u64;
        let storage = StorageRef { key, dtype, bytes, view_of: None, inline: Some(inline) };
        let index = self.add_storage(storage)?;
        self.embedded.insert(id, index);
        Ok(index)
    }

    fn inline(&self, bytes: Cow<'p, [u8]>) -> Inline {
        let at = match &bytes {
            Cow::Borrowed(bytes) => self.pickle.offset_of(bytes),
            Cow::Owned(_) => None,
        };
        let bytes = at.map_or_else(|| InlineBytes::Decoded(bytes.into()), InlineBytes::At);
        Inline { bytes, big_endian: false }
    }

    /// A numpy array as the tensor that `torch.from_numpy` would make of it, without a name.
    fn array_tensor(&self, array: NumpyArray<'p>) -> (TensorInfo, StorageRef) {
        let strides = array.strides();
        let mut tensor = TensorInfo::contiguous(String::new(), array.dtype, array.shape, 0, 0);
        tensor.strides = strides;
        let bytes = array.bytes.len() as u64;
        let inline = Inline { big_endian: array.big_endian, ..self.inline(array.bytes) };
        let key = format!("array {} {}", self.storages.len(), self.arrays.len());
        (tensor, StorageRef { key, dtype: array.dtype, bytes, view_of: None, inline: Some(inline) })
    }

    /// `('storage', torch.FloatStorage, '0', 'cpu', numel[, view])`.
    fn storage_from_pid(&mut self, pid: Id) -> Result<usize> {
        let (key, dtype, count, view) = persistent_storage(self.pickle, pid)?;
        let size = dtype.element_size().unwrap_or(1) as u64;
        let bytes = count.checked_mul(size).ok_or_else(|| Error::damaged("its storage's size overflows"))?;
        let mut storage = StorageRef { key, dtype, bytes, view_of: None, inline: None };
        if let Some(view) = view {
            let view = Args { pickle: self.pickle, ids: view };
            let view_key = storage_key(self.pickle, view.get(0)?)?;
            storage.bytes = (view.usize(2)? as u64)
                .checked_mul(size)
                .ok_or_else(|| Error::damaged("its view's size overflows"))?;
            storage.view_of = Some((std::mem::replace(&mut storage.key, view_key), view.usize(1)? as u64));
        }
        self.add_storage(storage)
    }

    fn add_storage(&mut self, storage: StorageRef) -> Result<usize> {
        // A key names one storage; a second class for it would be a lie, kept apart so that bounds hold for both.
        let identity = format!("{}\u{0}{}\u{0}{}", storage.key, storage.dtype, storage.bytes);
        let next = self.storages.len();
        if let Some(&index) = self.storage_keys.get(&identity) {
            return Ok(index);
        }
        self.pay(ENTRY + 2 * identity.len())?;
        self.storage_keys.insert(identity, next);
        self.storages.push(storage);
        Ok(next)
    }

    fn latin1(&mut self, object: &Object) -> Option<Vec<u8>> {
        let &[text, encoding] = self.pickle.sequence(object.args)? else { return None };
        if !matches!(self.pickle.str(encoding)?, "latin1" | "latin-1" | "iso-8859-1") {
            return None;
        }
        let text = self.pickle.str(text)?;
        if !self.afford(text.len()) {
            return None;
        }
        text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
    }

    fn byte_string(&mut self, id: Id) -> Option<Cow<'p, [u8]>> {
        let pickle = self.pickle;
        match pickle.node(id) {
            Node::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
            Node::Str(s) if !self.afford(s.len()) => None,
            // What Python 2 wrote as `str` and happens to be UTF-8.
            Node::Str(Cow::Borrowed(s)) if s.is_ascii() => Some(Cow::Borrowed(s.as_bytes())),
            Node::Str(s) => {
                s.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<_>>().map(Cow::Owned)
            }
            Node::Object(object) => self.latin1(object).map(Cow::Owned),
            _ => None,
        }
    }

    /// `numpy.core.multiarray._reconstruct(…)` with the state (version, shape, dtype, is_fortran, bytes), or
    /// `numpy.core.numeric._frombuffer(bytes, dtype, shape, order)` of protocol 5.
    fn numpy(&mut self, object: &Object) -> Option<NumpyArray<'p>> {
        let pickle = self.pickle;
        let [shape, dtype, bytes, fortran] = match (pickle.sequence(object.args)?, object.state.last()) {
            (&[bytes, dtype, shape, order], None) => [shape, dtype, bytes, order],
            (_, Some(&state)) => {
                let &[.., shape, dtype, fortran, bytes] = pickle.sequence(state)? else { return None };
                [shape, dtype, bytes, fortran]
            }
            _ => return None,
        };
        let (dtype, big_endian) = self.numpy_dtype(dtype)?;
        let shape = Args { pickle, ids: &[] }.shape_of(shape).ok()?;
        let bytes = self.byte_string(bytes)?;
        if dtype.bytes_for(&shape)? != bytes.len() as u64 {
            return None;
        }
        let fortran = matches!(pickle.node(fortran), Node::Bool(true)) || pickle.str(fortran) == Some("F");
        Some(NumpyArray { dtype, shape, fortran, big_endian, bytes })
    }

    /// `numpy.dtype('f4', False, True)` with the state (3, '<', …).
    fn numpy_dtype(&self, id: Id) -> Option<(DType, bool)> {
        let Node::Object(object) = self.pickle.node(id) else { return None };
        let code = self.pickle.str(*self.pickle.sequence(object.args)?.first()?)?;
        let order = object.state.last().and_then(|&s| self.pickle.sequence(s)).and_then(|s| s.get(1));
        let big = order.and_then(|&o| self.pickle.str(o)) == Some(">");
        Some((numpy_code(code.trim_start_matches(['<', '>', '=', '|']))?, big))
    }

    fn numpy_scalar(&mut self, args: &[Id]) -> Option<Value> {
        let &[dtype, bytes] = args else { return None };
        let (dtype, big_endian) = self.numpy_dtype(dtype)?;
        let bytes = self.byte_string(bytes)?;
        if dtype.element_size()? != bytes.len() {
            return None;
        }
        NumpyArray { dtype, shape: Vec::new(), fortran: false, big_endian, bytes }.elements()?.pop()
    }
}

/// (key, element type, elements, view) of `('storage', torch.FloatStorage, '0', 'cpu', numel[, view])`.
pub(crate) fn persistent_storage<'p>(
    pickle: &'p Pickle<'_>,
    pid: Id,
) -> Result<(String, DType, u64, Option<&'p [Id]>)> {
    let parts =
        pickle.sequence(pid).ok_or_else(|| Error::damaged("its storage's persistent id is not a tuple"))?;
    let args = Args { pickle, ids: parts };
    if pickle.str(args.get(0)?) != Some("storage") {
        return Err(Error::damaged("its persistent id does not say `storage`"));
    }
    let (_, class) =
        pickle.global(args.get(1)?).ok_or_else(|| Error::damaged("its storage's class is not a global"))?;
    let dtype = storage_dtype(class)
        .ok_or_else(|| Error::unsupported(format!("storage class `{}`", quoted(class))))?;
    let key = storage_key(pickle, args.get(2)?)?;
    let view = args.get(5).ok().and_then(|v| pickle.sequence(v));
    Ok((key, dtype, args.usize(4)? as u64, view))
}

fn storage_key(pickle: &Pickle<'_>, id: Id) -> Result<String> {
    match pickle.node(id) {
        Node::Str(s) if s.len() > MAX_KEY => {
            Err(Error::unsupported(format!("a storage key of {} bytes", s.len())))
        }
        Node::Str(s) => Ok(s.to_string()),
        Node::Int(i) => Ok(i.to_string()),
        _ => Err(Error::damaged("its storage's key is not a string")),
    }
}

/// The beginning of a name from the file, on one line.
fn quoted(name: &str) -> String {
    let mut rest = name.chars();
    let start: String = rest.by_ref().take(QUOTED).flat_map(char::escape_debug).collect();
    if rest.next().is_some() { start + "…" } else { start }
}

/// Positional arguments, read with errors that say which one is wrong.
struct Args<'p, 'a> {
    pickle: &'p Pickle<'a>,
    ids: &'p [Id],
}

impl Args<'_, '_> {
    fn get(&self, i: usize) -> Result<Id> {
        self.ids.get(i).copied().ok_or_else(|| Error::damaged(format!("argument {i} is missing")))
    }

    fn int(&self, i: usize) -> Result<i64> {
        self.pickle.int(self.get(i)?).ok_or_else(|| Error::damaged(format!("argument {i} is not an integer")))
    }

    fn usize(&self, i: usize) -> Result<usize> {
        usize::try_from(self.int(i)?).map_err(|_| Error::damaged(format!("argument {i} is negative")))
    }

    fn float(&self, i: usize) -> Result<f64> {
        match *self.pickle.node(self.get(i)?) {
            Node::Float(f) => Ok(f),
            Node::Int(i) => Ok(i as f64),
            _ => Err(Error::damaged(format!("argument {i} is not a number"))),
        }
    }

    fn shape(&self, i: usize) -> Result<Vec<usize>> {
        self.shape_of(self.get(i)?).map_err(|e| Error::damaged(format!("argument {i} {}", e.what)))
    }

    /// A tuple of sizes, bare or as `torch.Size((…))`.
    fn shape_of(&self, id: Id) -> Result<Vec<usize>> {
        let id = match self.pickle.node(id) {
            Node::Object(object) => {
                self.pickle.sequence(object.args).and_then(|a| a.first().copied()).unwrap_or(id)
            }
            _ => id,
        };
        let sizes = self.pickle.sequence(id).ok_or_else(|| Error::damaged("is not a tuple of sizes"))?;
        if sizes.len() > 64 {
            return Err(Error::damaged(format!("has {} dimensions; PyTorch stops at 64", sizes.len())));
        }
        sizes
            .iter()
            .map(|&s| self.pickle.int(s).and_then(|n| usize::try_from(n).ok()))
            .collect::<Option<_>>()
            .ok_or_else(|| Error::damaged("holds something that is not a size"))
    }

    fn dtype(&self, i: usize) -> Result<DType> {
        match self.pickle.global(self.get(i)?) {
            Some(("torch", name)) => {
                torch_dtype(name).ok_or_else(|| Error::unsupported(format!("dtype `{}`", quoted(name))))
            }
            _ => Err(Error::damaged(format!("argument {i} is not a dtype"))),
        }
    }
}

fn no_storage(dtype: DType, shape: Vec<usize>, strides: Option<Vec<usize>>, why: Option<&str>) -> TensorInfo {
    let strides = strides.filter(|s| s.len() == shape.len()).unwrap_or_else(|| contiguous_strides(&shape));
    TensorInfo {
        strides,
        storage: None,
        damage: why.map(str::to_string),
        group: Group::Other,
        ..TensorInfo::contiguous(String::new(), dtype, shape, 0, 0)
    }
}

fn dotted(module: &str, name: &str) -> String {
    format!("{module}.{name}")
}

/// PyTorch's typed storages: `torch.FloatStorage` and its kin.
const STORAGES: [(&str, DType); 15] = [
    ("DoubleStorage", DType::F64),
    ("FloatStorage", DType::F32),
    ("HalfStorage", DType::F16),
    ("BFloat16Storage", DType::BF16),
    ("LongStorage", DType::I64),
    ("IntStorage", DType::I32),
    ("ShortStorage", DType::I16),
    ("CharStorage", DType::I8),
    ("ByteStorage", DType::U8),
    ("BoolStorage", DType::Bool),
    ("ComplexFloatStorage", DType::C64),
    ("ComplexDoubleStorage", DType::C128),
    ("QInt8Storage", DType::QI8),
    ("QUInt8Storage", DType::QU8),
    ("QInt32Storage", DType::QI32),
];

/// The element type of `torch.FloatStorage` and its kin, `U8` for untyped ones.
pub(crate) fn storage_dtype(class: &str) -> Option<DType> {
    let class = class.strip_prefix("Cuda").unwrap_or(class);
    if matches!(class, "UntypedStorage" | "_UntypedStorage") {
        return Some(DType::U8);
    }
    STORAGES.iter().find(|(name, _)| *name == class).map(|(_, dtype)| *dtype)
}

/// The class in `torch` of a typed storage of `dtype`; `None` for types younger than typed storages, whose tensors
/// PyTorch writes with `_rebuild_tensor_v3` on an `UntypedStorage`.
pub fn storage_class(dtype: DType) -> Option<&'static str> {
    STORAGES.iter().find(|(_, d)| *d == dtype).map(|(name, _)| *name)
}

/// The dtypes that have a `torch` attribute of their [`DType::name`].
const DTYPES: [DType; 25] = {
    use DType::*;
    [
        F64, F32, F16, BF16, F8E4M3FN, F8E5M2, F8E4M3FNUZ, F8E5M2FNUZ, F8E8M0FNU, I64, I32, I16, I8, U64,
        U32, U16, U8, Bool, C32, C64, C128, QI8, QU8, QI32, F4E2M1X2,
    ]
};

/// Whether `dtype` is a dtype of PyTorch's, with [`DType::name`] as its name there.
pub fn has_dtype(dtype: DType) -> bool {
    DTYPES.contains(&dtype)
}

/// A dtype by the name of its `torch` attribute.
pub(crate) fn torch_dtype(name: &str) -> Option<DType> {
    let alias = match name {
        "double" => "float64",
        "float" => "float32",
        "half" => "float16",
        "long" => "int64",
        "int" => "int32",
        "short" => "int16",
        "cfloat" => "complex64",
        "cdouble" => "complex128",
        "chalf" => "complex32",
        other => other,
    };
    DTYPES.into_iter().find(|d| d.name() == alias)
}

fn numpy_code(code: &str) -> Option<DType> {
    Some(match code {
        "f8" => DType::F64,
        "f4" => DType::F32,
        "f2" => DType::F16,
        "i8" => DType::I64,
        "i4" => DType::I32,
        "i2" => DType::I16,
        "i1" => DType::I8,
        "u8" => DType::U64,
        "u4" => DType::U32,
        "u2" => DType::U16,
        "u1" => DType::U8,
        "b1" => DType::Bool,
        "c8" => DType::C64,
        "c16" => DType::C128,
        _ => return None,
    })
}

struct NumpyArray<'p> {
    dtype: DType,
    shape: Vec<usize>,
    fortran: bool,
    big_endian: bool,
    bytes: Cow<'p, [u8]>,
}

impl NumpyArray<'_> {
    fn strides(&self) -> Vec<usize> {
        if !self.fortran {
            return contiguous_strides(&self.shape);
        }
        let reversed: Vec<usize> = self.shape.iter().rev().copied().collect();
        contiguous_strides(&reversed).into_iter().rev().collect()
    }

    /// Small arrays whole, large ones described.
    fn to_value(&self) -> Value {
        const SHOWN: u64 = 64;
        let describe = || {
            let shape: Vec<String> = self.shape.iter().map(usize::to_string).collect();
            Value::String(format!("a numpy array of {} [{}]", self.dtype, shape.join(", ")))
        };
        if self.shape.len() > 1 || numel(&self.shape).is_none_or(|n| n > SHOWN) {
            return describe();
        }
        match self.elements() {
            Some(mut elements) if self.shape.is_empty() => elements.pop().unwrap_or_else(describe),
            Some(elements) => Value::List(elements),
            None => describe(),
        }
    }

    fn elements(&self) -> Option<Vec<Value>> {
        let size = self.dtype.element_size()?;
        let mut bytes = Cow::Borrowed(&self.bytes[..]);
        if self.big_endian {
            crate::storage::swap_words(bytes.to_mut(), self.dtype.word_size());
        }
        bytes.chunks_exact(size).map(|word| scalar(self.dtype, word)).collect()
    }
}

/// One little-endian element as a plain value.
pub(crate) fn scalar(dtype: DType, word: &[u8]) -> Option<Value> {
    let mut wide = [0u8; 8];
    wide.get_mut(..word.len())?.copy_from_slice(word);
    let bits = u64::from_le_bytes(wide);
    Some(match dtype {
        DType::F64 => Value::F64(f64::from_bits(bits)),
        DType::F32 => Value::F64(f32::from_bits(bits as u32).into()),
        DType::F16 => Value::F64(half::f16::from_bits(bits as u16).into()),
        DType::BF16 => Value::F64(half::bf16::from_bits(bits as u16).into()),
        DType::I64 => Value::I64(bits as i64),
        DType::I32 => Value::I64((bits as i32).into()),
        DType::I16 => Value::I64((bits as i16).into()),
        DType::I8 => Value::I64((bits as i8).into()),
        DType::U64 => i64::try_from(bits).map_or_else(|_| Value::String(bits.to_string()), Value::I64),
        DType::U32 | DType::U16 | DType::U8 => Value::I64(bits as i64),
        DType::Bool => Value::Bool(bits != 0),
        _ => return None,
    })
}
