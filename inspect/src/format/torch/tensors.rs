//! Calls of PyTorch's `_rebuild…` functions as tensors, and persistent ids and byte strings as storages.

use std::borrow::Cow;
use std::sync::Arc;

use super::bits::Bits;
use super::dtypes::{storage_dtype, torch_dtype};

use super::{ENTRY, Inline, InlineBytes, MAX_DEPTH, MAX_KEY, StorageRef, Walker, dotted, quoted};
use crate::metadata::Value;
use crate::pickle::{Id, Node, Object, Pickle};
use crate::storage::Storage;
use crate::tensor::{Quantizer, Sparse, SparseLayout, TensorInfo, contiguous_strides, numel};
use crate::{DType, Damage, DamageKind, Error, Group, Instance, Notice, NoticeKind, Result, torch_legacy};

impl<'p> Walker<'p, '_> {
    /// A call of one of PyTorch's `_rebuild…` functions.
    pub(super) fn rebuild(
        &mut self,
        function: &str,
        args: &[Id],
        name: Option<&str>,
        depth: usize,
    ) -> Option<Value> {
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
            if inner == Some("_rebuild_wrapper_subclass")
                && let (Some(&class), Some(inner), Some(&state)) = (args.get(1), inner_args, args.get(3))
            {
                if let Some(local) = self.local_tensor(class, state) {
                    return self.list_local(local, inner, state, name, depth);
                }
                if let Some(shards) = self.sharded(class, state) {
                    self.list_shards(shards, name, depth);
                    return None;
                }
            }
            let at = self.tensors.len();
            let value = match (inner, inner_args) {
                (Some(f), Some(a)) => self.rebuild(f, a, name, depth + 1),
                _ => None,
            };
            let state = args.get(3).and_then(|&state| self.walk(state, name, depth + 1));
            if let (Some("_rebuild_wrapper_subclass"), Some(&class)) = (inner, args.get(1)) {
                self.keep_instance(at, class, state);
            }
            return value;
        }
        if matches!(function, "_rebuild_device_tensor_from_cpu_tensor") {
            return args.first().and_then(|&data| self.walk(data, name, depth + 1));
        }
        // A jagged tensor's values and offsets are in the state that follows.
        if function == "_rebuild_njt" {
            self.tell_ragged(name);
            return None;
        }
        if function == "_rebuild_nested_tensor" {
            self.tell_ragged(name);
            for (part, &arg) in ["_values", "_sizes", "_strides", "_offsets"].iter().zip(args) {
                let Some(child) = self.child_name(name, part) else { break };
                self.walk(arg, Some(&child), depth + 1);
            }
            return None;
        }
        match self.tensor(function, args) {
            Ok(tensor) => {
                self.tell_entries(function, args, name);
                self.list(tensor, name);
                None
            }
            Err(error) => {
                let (name, function) = (name.unwrap_or(""), quoted(function));
                self.warn_unread(name, || {
                    let what = match name {
                        "" => "what was saved".to_string(),
                        name => format!("`{}`", quoted(name)),
                    };
                    format!("{what} is created by {function} and cannot be read: {error}")
                });
                let value = format!("a tensor created by {function}: {error}");
                if !self.afford(value.len()) {
                    return None;
                }
                if let Some(tensor) = self.of_unknown_storage(args) {
                    self.list(tensor, Some(name));
                }
                // Its arguments may still contain tensors.
                let child = self.child_name(Some(name), "args")?;
                let first = self.tensors.len();
                self.walk_items(args, Some(&child), depth);
                let parts: Vec<String> = self.tensors[first..].iter().map(|t| t.name.clone()).collect();
                if let Some(notice) = self.notices.last_mut().filter(|notice| notice.tensors == [name]) {
                    notice.tensors.extend(parts);
                }
                Some(Value::String(value))
            }
        }
    }

    /// Tells that the tensor `name` is several, of unlike shapes, and not shown as one.
    fn tell_ragged(&mut self, name: Option<&str>) {
        let name = name.unwrap_or("");
        self.warn_unread(name, || {
            let what = match name {
                "" => "what was saved".to_string(),
                name => format!("`{}`", quoted(name)),
            };
            format!(
                "{what} is a nested tensor, several of unlike shapes in one: only its parts are listed, the values of all of them one after another and what says where each is"
            )
        });
    }

    /// A tensor whose storage is of a class of PyTorch's that is not known, such as four bits of whole numbers: without its
    /// data, so that its scales are no tensors of their own.
    fn of_unknown_storage(&self, args: &[Id]) -> Option<TensorInfo> {
        let args = Args { pickle: self.pickle, ids: args };
        let Node::Persistent(pid) = self.pickle.node(args.get(0).ok()?) else { return None };
        let class = self.pickle.sequence(*pid)?.get(1).copied()?;
        let (module, class) = self.pickle.global(class)?;
        if !class.ends_with("Storage") || storage_dtype(class).is_some() {
            return None;
        }
        let class = dotted(&quoted(module), &quoted(class));
        let mut tensor = no_storage(DType::QU8, args.shape(2).ok()?, None, None);
        tensor.instance = Some(Arc::new(Instance { class, attributes: Value::None }));
        Some(tensor)
    }

    /// Keeps with the wrapper that is listed at `at` its class and what `state` says besides tensors.
    fn keep_instance(&mut self, at: usize, class: Id, state: Option<Value>) {
        let Some((module, name)) = self.pickle.global(class) else { return };
        let Some(class) = self.afford_dotted(module, name) else { return };
        // With __slots__ the state is a pair.
        let attributes = match state {
            Some(Value::List(parts)) => parts.into_iter().find(|part| matches!(part, Value::Dict(_))),
            state => state,
        };
        if let Some(tensor) = self.tensors.get_mut(at).filter(|tensor| tensor.storage.is_none()) {
            let attributes = attributes.unwrap_or(Value::None);
            tensor.instance = Some(Arc::new(Instance { class, attributes }));
        }
    }

    /// Keeps that tensors from `first` on are the storages which `object`'s function makes something unknown of.
    pub(super) fn note_unmade(&mut self, object: &Object, first: usize) {
        let Some((module, function)) = self.pickle.global(object.callable) else { return };
        let names: Vec<String> =
            self.tensors[first.min(self.tensors.len())..].iter().map(|t| t.name.clone()).collect();
        let function = dotted(&quoted(module), &quoted(function));
        if self.afford(names.iter().fold(function.len(), |n, name| n.saturating_add(ENTRY + name.len()))) {
            self.unmade.entry(function).or_default().extend(names);
        }
    }

    /// The tensor that `function` would build from `args`; its name is still empty.
    fn tensor(&mut self, function: &str, args: &[Id]) -> Result<TensorInfo> {
        let args = Args { pickle: self.pickle, ids: args };
        match function {
            "_rebuild_tensor" | "_rebuild_tensor_v2" => {
                let mut tensor = self.strided(function, &args, None)?;
                tensor.requires_grad =
                    args.get(4).is_ok_and(|id| matches!(self.pickle.node(id), Node::Bool(true)));
                Ok(tensor)
            }
            "_rebuild_tensor_v3" => {
                let dtype = args.dtype(6)?;
                let mut tensor = self.strided(function, &args, Some(dtype))?;
                tensor.requires_grad =
                    args.get(4).is_ok_and(|id| matches!(self.pickle.node(id), Node::Bool(true)));
                Ok(tensor)
            }
            "_rebuild_qtensor" => {
                let mut tensor = self.strided(function, &args, None)?;
                tensor.quantizer = Some(self.quantizer(args.get(4)?)?);
                Ok(tensor)
            }
            "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => self.sparse(&args),
            "_rebuild_device_tensor_from_numpy" => {
                let Node::Object(object) = self.pickle.node(args.get(0)?) else {
                    return Err(Error::damaged("its numpy array is not an array"));
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
                let index = self.add_storage(storage)?;
                tensor.storage = Some(self.handles[index].clone());
                Ok(tensor)
            }
            "_rebuild_meta_tensor_no_storage" => Ok(no_storage(
                args.dtype(0)?,
                args.shape(1)?,
                args.shape(2).ok(),
                Some("is a meta tensor: saved without data"),
            )),
            // Its data is in the tensors that it wraps, which are among its attributes.
            "_rebuild_wrapper_subclass" => {
                Ok(no_storage(args.dtype(1)?, args.shape(2)?, args.shape(3).ok(), None))
            }
            _ => Err(Error::unsupported(format!("{} is not a known constructor", quoted(function)))),
        }
    }

    /// (storage, offset, size, stride, …), the arguments that all strided tensors begin with.
    fn strided(&mut self, function: &str, args: &Args<'_, '_>, dtype: Option<DType>) -> Result<TensorInfo> {
        let mut storage = self.storage(args.get(0)?)?;
        let dtype = dtype.unwrap_or(self.storages[storage].dtype);
        if let Some(bits) = Bits::of(function, args, dtype)? {
            storage = self.add_storage(StorageRef { bits: Some(bits), ..self.storages[storage].clone() })?;
        }
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
        let storage = Some(self.handles[storage].clone());
        let mut tensor = TensorInfo::contiguous(String::new(), dtype, shape, storage, byte_offset);
        tensor.strides = strides;
        Ok(tensor)
    }

    /// A parameter or buffer of a lazy module, which has no shape before its first batch.
    pub(super) fn list_uninitialized(&mut self, class: &str, args: &[Id], name: Option<&str>) {
        let why = format!("is an {class}: it had neither shape nor data when it was saved");
        let mut tensor = no_storage(DType::F32, vec![0], None, Some(&why));
        tensor.requires_grad =
            args.first().is_some_and(|&id| matches!(self.pickle.node(id), Node::Bool(true)));
        self.list(tensor, name);
    }

    /// The tensor of the node `id`, without adding it to the list.
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
        let layout = SparseLayout::from_name(layout);
        let index_count = if layout == SparseLayout::Coo { 1 } else { 2 };
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

    /// A storage saved on its own, shown as a vector.
    pub(super) fn bare_storage(&mut self, pid: Id, name: Option<&str>) -> Option<Value> {
        if let Some((mut tensor, storage)) = (self.known)(pid) {
            let index = self.add_storage(storage).ok()?;
            tensor.storage = Some(self.handles[index].clone());
            self.list(tensor, name);
            return None;
        }
        match self.storage_from_pid(pid) {
            Ok(index) => {
                let StorageRef { dtype, bytes, .. } = self.storages[index];
                let len = bytes / dtype.element_size().unwrap_or(1) as u64;
                let storage = Some(self.handles[index].clone());
                let tensor = TensorInfo::contiguous(String::new(), dtype, vec![len as usize], storage, 0);
                self.list(tensor, name);
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
        let storage = StorageRef { key, dtype, bytes, view_of: None, inline: Some(inline), bits: None };
        let index = self.add_storage(storage)?;
        self.embedded.insert(id, index);
        Ok(index)
    }

    pub(super) fn inline(&self, bytes: Cow<'p, [u8]>) -> Inline {
        let at = match &bytes {
            Cow::Borrowed(bytes) => self.pickle.offset_of(bytes),
            Cow::Owned(_) => None,
        };
        let bytes = at.map_or_else(|| InlineBytes::Decoded(bytes.into()), InlineBytes::At);
        Inline { bytes, big_endian: false }
    }

    /// `('storage', torch.FloatStorage, '0', 'cpu', numel[, view])`.
    fn storage_from_pid(&mut self, pid: Id) -> Result<usize> {
        let (key, dtype, count, view) = persistent_storage(self.pickle, pid)?;
        let size = dtype.element_size().unwrap_or(1) as u64;
        let bytes = count.checked_mul(size).ok_or_else(|| Error::damaged("its storage's size overflows"))?;
        let mut storage = StorageRef { key, dtype, bytes, view_of: None, inline: None, bits: None };
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

    pub(super) fn add_storage(&mut self, storage: StorageRef) -> Result<usize> {
        // A key names one storage; a second class for it is inconsistent, and kept separate so that bounds hold for
        // both.
        let StorageRef { key, dtype, bytes, bits, .. } = &storage;
        let mut identity = format!("{key}\u{0}{dtype}\u{0}{bytes}");
        if let Some(bits) = bits {
            identity.push_str(&format!("\u{0}{bits:?}"));
        }
        let next = self.storages.len();
        if let Some(&index) = self.storage_keys.get(&identity) {
            return Ok(index);
        }
        self.pay(ENTRY + 2 * identity.len())?;
        self.storage_keys.insert(identity, next);
        self.handles.push(Storage::missing(
            Damage::new(DamageKind::StorageLost, "its storage is not in the file"),
            storage.bytes,
        ));
        self.storages.push(storage);
        Ok(next)
    }

    pub(super) fn latin1(&mut self, object: &Object) -> Option<Vec<u8>> {
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

    pub(super) fn byte_string(&mut self, id: Id) -> Option<Cow<'p, [u8]>> {
        let pickle = self.pickle;
        match pickle.node(id) {
            Node::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
            Node::Str(s) if !self.afford(s.len()) => None,
            // What Python 2 wrote as `str` and happens to be UTF-8.
            Node::Str(s) if s.is_ascii() => Some(Cow::Owned(s.as_bytes().to_vec())),
            Node::Str(s) => {
                s.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<_>>().map(Cow::Owned)
            }
            Node::Object(object) => self.latin1(object).map(Cow::Owned),
            _ => None,
        }
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

/// Positional arguments, read with errors that say which one is wrong.
pub(super) struct Args<'p, 'a> {
    pub(super) pickle: &'p Pickle<'a>,
    pub(super) ids: &'p [Id],
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
    pub(super) fn shape_of(&self, id: Id) -> Result<Vec<usize>> {
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
        damage: why.map(|why| Damage::new(DamageKind::NoData, why)),
        group: Group::Other,
        ..TensorInfo::contiguous(String::new(), dtype, shape, None, 0)
    }
}

/// What is said of storages that `function` makes a tensor of.
pub(super) fn unmade((function, names): (String, Vec<String>)) -> Notice {
    let what = match names.as_slice() {
        [name] => format!("`{}` is the storage", quoted(name)),
        names => format!(
            "{} storages, such as `{}`, are those",
            names.len(),
            quoted(names.first().map_or("", |n| n))
        ),
    };
    let text =
        format!("{what} of what {function} makes, which is not known: its shape and type are not read");
    Notice::new(NoticeKind::Unread, text).about(names)
}
