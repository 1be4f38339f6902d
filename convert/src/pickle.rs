//! Writes pickles of protocol 2, as `torch.save` does: plain values, and tensors of PyTorch 1.13's form
//! (`_rebuild_tensor_v2` with six arguments), which every later version's `weights_only` unpickler accepts.

use ckpt_inspect::DType;
use ckpt_inspect::metadata::{HashableValue, Value};
use ckpt_inspect::torch::storage_class;

/// The state of an `io.BytesIO`, in which programs keep what they save by themselves: its bytes, the position in them, its
/// attributes. `None` for any other value.
pub(crate) fn buffer(value: &Value) -> Option<&[Value]> {
    let Value::Dict(entries) = value else { return None };
    let field = |name: &str| entries.get(&HashableValue::String(name.into()));
    match (field("__class__")?, field("state")?) {
        (Value::String(class), Value::List(parts) | Value::Tuple(parts))
            if class == "_io.BytesIO" && matches!(parts[..], [Value::Bytes(_), Value::I64(_), ..]) =>
        {
            Some(parts)
        }
        _ => None,
    }
}

/// The pickle's description of a tensor.
pub(crate) struct TensorRef<'t> {
    /// Its storage: `data/<key>` of the archive.
    pub key: usize,
    pub dtype: DType,
    /// Elements on the storage.
    pub numel: u64,
    /// First element on the storage.
    pub offset: u64,
    pub shape: &'t [usize],
    /// Strides in elements.
    pub strides: &'t [usize],
}

/// A pickle being written: values are appended as they come.
#[derive(Default)]
pub(crate) struct Pickler {
    out: Vec<u8>,
    /// Classes and functions that were named, and can be referred to by their number.
    named: Vec<(&'static str, &'static str)>,
}

impl Pickler {
    /// Begins a pickle.
    pub fn new() -> Self {
        Pickler { out: vec![0x80, 2], named: Vec::new() }
    }

    /// The finished pickle of the one value that was appended.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.push(b'.');
        self.out
    }

    /// `{`; its keys and values follow in turn, then [`Pickler::end_dict`].
    pub fn begin_dict(&mut self) {
        self.out.extend(b"}(");
    }

    /// `}`.
    pub fn end_dict(&mut self) {
        self.out.push(b'u');
    }

    /// `[`; its items follow, then [`Pickler::end_list`].
    pub fn begin_list(&mut self) {
        self.out.extend(b"](");
    }

    /// `]`.
    pub fn end_list(&mut self) {
        self.out.push(b'e');
    }

    /// An instance of a class, whose state `state` appends; without one, of a class that has none.
    pub fn instance(
        &mut self,
        (module, name): (&'static str, &'static str),
        state: Option<&mut dyn FnMut(&mut Self)>,
    ) {
        self.known(module, name);
        self.out.extend([b')', 0x81]);
        if let Some(state) = state {
            state(self);
            self.out.push(b'b');
        }
    }

    /// What a function returns for the one argument that `argument` appends.
    pub fn call(&mut self, module: &'static str, name: &'static str, argument: impl FnOnce(&mut Self)) {
        self.known(module, name);
        argument(self);
        self.out.extend([0x85, b'R']);
    }

    /// A tuple of what `items` appends.
    pub fn tuple(&mut self, items: impl FnOnce(&mut Self)) {
        self.out.push(b'(');
        items(self);
        self.out.push(b't');
    }

    /// A text.
    pub fn text(&mut self, text: &str) {
        self.str(text);
    }

    /// A whole number.
    pub fn number(&mut self, number: u64) {
        self.int(number as i64);
    }

    /// A `torch.Size`.
    pub fn size(&mut self, sizes: &[usize]) {
        self.call("torch", "Size", |pickler| pickler.sizes(sizes));
    }

    /// A class or function: in full the first time, then by its number.
    pub fn known(&mut self, module: &'static str, name: &'static str) {
        if let Some(number) = self.named.iter().position(|known| *known == (module, name)) {
            self.out.extend([b'h', number as u8]);
            return;
        }
        self.global(module, name);
        if let Ok(number) = u8::try_from(self.named.len()) {
            self.out.extend([b'q', number]);
            self.named.push((module, name));
        }
    }

    /// A dict's key.
    pub fn key(&mut self, key: &HashableValue) {
        self.value(&key.clone().into_value());
    }

    /// A plain value. Sets become lists: protocol 2 has none of its own.
    pub fn value(&mut self, value: &Value) {
        match value {
            Value::None => self.out.push(b'N'),
            Value::Bool(true) => self.out.push(0x88),
            Value::Bool(false) => self.out.push(0x89),
            Value::I64(i) => self.int(*i),
            Value::Int(big) => match big.to_signed_bytes_le() {
                bytes if bytes.len() < 256 => self.long(&bytes),
                // The restricted unpickler does not read LONG4.
                _ => self.str(&big.to_string()),
            },
            Value::F64(f) => {
                self.out.push(b'G');
                self.out.extend(f.to_be_bytes());
            }
            Value::String(s) => self.str(s),
            Value::Bytes(bytes) => {
                // Protocol 2 has no bytes either; this is what Python writes for them.
                let latin1: String = bytes.iter().map(|&b| char::from(b)).collect();
                self.global("_codecs", "encode");
                self.str(&latin1);
                self.str("latin1");
                self.out.extend([0x86, b'R']);
            }
            Value::List(items) => self.list(items),
            Value::Tuple(items) => {
                self.out.push(b'(');
                items.iter().for_each(|item| self.value(item));
                self.out.push(b't');
            }
            Value::Set(items) | Value::FrozenSet(items) => {
                self.begin_list();
                items.iter().for_each(|item| self.key(item));
                self.end_list();
            }
            Value::Dict(_) if buffer(value).is_some() => {
                let parts = buffer(value).unwrap_or_default();
                let mut state = |pickler: &mut Self| {
                    pickler.tuple(|pickler| parts.iter().for_each(|part| pickler.value(part)));
                };
                self.instance(("_io", "BytesIO"), Some(&mut state));
            }
            Value::Dict(entries) => {
                self.begin_dict();
                for (key, value) in entries {
                    self.key(key);
                    self.value(value);
                }
                self.end_dict();
            }
        }
    }

    fn list(&mut self, items: &[Value]) {
        self.begin_list();
        items.iter().for_each(|item| self.value(item));
        self.end_list();
    }

    /// A tensor on a storage of its own or a shared one.
    pub fn tensor(&mut self, tensor: &TensorRef<'_>) {
        let class = storage_class(tensor.dtype);
        let function = if class.is_some() { "_rebuild_tensor_v2" } else { "_rebuild_tensor_v3" };
        self.global("torch._utils", function);
        self.out.extend(b"((");
        self.str("storage");
        let size = tensor.dtype.element_size().unwrap_or(1) as u64;
        let length = match class {
            Some(class) => {
                self.global("torch", class);
                tensor.numel
            }
            None => {
                self.global("torch.storage", "UntypedStorage");
                tensor.numel * size
            }
        };
        self.str(&tensor.key.to_string());
        self.str("cpu");
        self.int(length as i64);
        self.out.extend(b"tQ");
        self.int(tensor.offset as i64);
        self.sizes(tensor.shape);
        self.sizes(tensor.strides);
        // requires_grad, backward hooks.
        self.out.push(0x89);
        self.global("collections", "OrderedDict");
        self.out.extend(b")R");
        if class.is_none() {
            self.global("torch", tensor.dtype.name());
        }
        self.out.extend(b"tR");
    }

    fn sizes(&mut self, sizes: &[usize]) {
        self.out.push(b'(');
        sizes.iter().for_each(|&size| self.int(size as i64));
        self.out.push(b't');
    }

    fn global(&mut self, module: &str, name: &str) {
        self.out.push(b'c');
        self.out.extend(format!("{module}\n{name}\n").into_bytes());
    }

    fn str(&mut self, text: &str) {
        self.out.push(b'X');
        self.out.extend((text.len() as u32).to_le_bytes());
        self.out.extend(text.as_bytes());
    }

    fn int(&mut self, i: i64) {
        match (u8::try_from(i), u16::try_from(i), i32::try_from(i)) {
            (Ok(i), _, _) => self.out.extend([b'K', i]),
            (_, Ok(i), _) => {
                self.out.push(b'M');
                self.out.extend(i.to_le_bytes());
            }
            (_, _, Ok(i)) => {
                self.out.push(b'J');
                self.out.extend(i.to_le_bytes());
            }
            _ => self.long(&i.to_le_bytes()),
        }
    }

    /// An integer as little-endian two's complement of at most 255 bytes.
    fn long(&mut self, bytes: &[u8]) {
        self.out.extend([0x8a, bytes.len() as u8]);
        self.out.extend(bytes);
    }
}
