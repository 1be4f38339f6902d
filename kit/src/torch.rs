//! PyTorch's files: the zip of today, the legacy form before it, and the tar of its first version.

use crate::numbers::{Number, le};
use crate::pickle::{self, call, dict, global, int, list, persistent, pickle, sizes, text};
use crate::tensor::Tensor;
use crate::{tar, zip};

/// What a legacy file begins with: the pickle of its magic number.
pub const MAGIC: &[u8] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";

/// The opcodes of a tensor of `shape` and `strides` on the storage `key` of `elements`, `offset` elements in; `class`
/// is the storage's, such as `FloatStorage`.
pub fn rebuild(
    class: &str,
    key: &str,
    elements: usize,
    offset: usize,
    shape: &[usize],
    strides: &[usize],
) -> Vec<u8> {
    on_storage(&storage(class, key, elements, false), offset, shape, strides)
}

/// The same from the storage's first element on, with entries of its own: those of its negative and conjugate bits, and
/// others.
pub fn rebuild_with(
    class: &str,
    key: &str,
    elements: usize,
    (shape, strides): (&[usize], &[usize]),
    entries: &[(&str, Vec<u8>)],
) -> Vec<u8> {
    saying(&storage(class, key, elements, false), 0, shape, strides, Some(dict(entries)))
}

fn on_storage(storage: &[u8], offset: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    saying(storage, offset, shape, strides, None)
}

fn saying(
    storage: &[u8],
    offset: usize,
    shape: &[usize],
    strides: &[usize],
    entries: Option<Vec<u8>>,
) -> Vec<u8> {
    let hooks = call(&global("collections", "OrderedDict"), &[]);
    let mut arguments = vec![persistent(storage), pickle::long(offset as i64), sizes(shape), sizes(strides)];
    arguments.extend([b"\x89".to_vec(), hooks]);
    arguments.extend(entries);
    call(&global("torch._utils", "_rebuild_tensor_v2"), &arguments)
}

/// The tuple that names a storage. The legacy form says in a sixth place that it is no view.
fn storage(class: &str, key: &str, elements: usize, legacy: bool) -> Vec<u8> {
    let count = pickle::long(elements as i64);
    let mut parts = vec![text("storage"), global("torch", class), text(key), text("cpu"), count];
    if legacy {
        parts.push(b"N".to_vec());
    }
    pickle::tuple(&parts)
}

/// The opcodes of a dict of `tensors`, each on the storage that its place numbers.
fn state_dict(tensors: &[Tensor], legacy: bool) -> Vec<u8> {
    let opcodes = |i: usize, tensor: &Tensor| {
        let strides: Vec<usize> =
            (0..tensor.shape.len()).map(|d| tensor.shape[d + 1..].iter().product()).collect();
        let storage = storage("FloatStorage", &i.to_string(), tensor.values.len(), legacy);
        on_storage(&storage, 0, &tensor.shape, &strides)
    };
    let named = tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), opcodes(i, tensor)));
    dict(&named.collect::<Vec<_>>())
}

/// `torch.save({"model_state_dict": {…}})` as a zip, and more beside the state dict: keys and the opcodes of their
/// values.
pub fn checkpoint(tensors: &[Tensor], more: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let storages: Vec<Vec<u8>> = tensors.iter().map(Tensor::bytes).collect();
    zip_of(&object(tensors, more), &storages)
}

/// The pickle of that zip.
pub fn object(tensors: &[Tensor], more: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let root = [&[("model_state_dict", state_dict(tensors, false))][..], more].concat();
    pickle(2, &dict(&root))
}

/// PyTorch's zip around `object`, a pickle, and its storages.
pub fn zip_of(object: &[u8], storages: &[Vec<u8>]) -> Vec<u8> {
    zip::zip(&entries(object, storages))
}

/// The entries of PyTorch's zip.
pub fn entries(object: &[u8], storages: &[Vec<u8>]) -> Vec<zip::Entry> {
    let mut entries = vec![zip::entry("m/data.pkl", object), zip::entry("m/byteorder", *b"little")];
    for (i, storage) in storages.iter().enumerate() {
        entries.push(zip::entry(&format!("m/data/{i}"), storage.clone()));
    }
    entries.push(zip::entry("m/version", *b"3\n"));
    entries
}

/// TorchScript's archive: `object`, a pickle, its code and its storages.
pub fn script(object: &[u8], code: &str, storages: &[Vec<u8>]) -> Vec<u8> {
    let mut entries = entries(object, storages);
    entries.push(zip::entry("m/constants.pkl", pickle(2, b")")));
    entries.push(zip::entry("m/code/__torch__.py", code));
    zip::zip(&entries)
}

/// `torch.save` of a state dict before PyTorch 1.6: pickles one after another, then the storages.
pub fn legacy(tensors: &[Tensor]) -> Vec<u8> {
    let keys: Vec<Vec<u8>> = (0..tensors.len()).map(|i| text(&i.to_string())).collect();
    let mut file =
        legacy_of(&pickle(2, b"}"), &pickle(2, &state_dict(tensors, true)), &pickle(2, &list(&keys)));
    for tensor in tensors {
        file.extend(le(&[tensor.values.len() as u64]));
        file.extend(tensor.bytes());
    }
    file
}

/// The pickles of a legacy file: the `system` info, the `object`, the `keys` of its storages.
pub fn legacy_of(system: &[u8], object: &[u8], keys: &[u8]) -> Vec<u8> {
    [MAGIC, b"\x80\x02M\xe9\x03.", system, object, keys].concat()
}

/// A storage of the tar form: its number, its class, and elements.
pub struct TarStorage<'s> {
    /// Its name in tensors.
    pub key: i32,
    /// `FloatStorage` or the like.
    pub class: &'s str,
    /// How many elements it has.
    pub elements: i64,
    /// Them.
    pub data: Vec<u8>,
}

/// A tensor of the tar form.
pub struct TarTensor<'t> {
    /// Its name in the object.
    pub key: i32,
    /// The number of its storage, or of a view.
    pub storage: i32,
    /// `FloatTensor` or the like.
    pub class: &'t str,
    /// Its dimensions.
    pub sizes: &'t [i64],
    /// Their strides, in elements.
    pub strides: &'t [i64],
    /// Its first element.
    pub offset: i64,
}

/// The form that PyTorch 0.1 wrote: a tar of storages, views on them (numbers of the view, of its storage, offset and
/// length), tensors, and the opcodes of an object that calls tensors by their number.
pub fn tar(
    storages: &[TarStorage<'_>],
    views: &[[i32; 4]],
    tensors: &[TarTensor<'_>],
    object: &[u8],
) -> Vec<u8> {
    let count = |n: usize| pickle(2, &int(n as i32));
    let mut first = count(storages.len());
    for storage in storages {
        let named =
            [int(storage.key), text("cpu"), global("torch", storage.class), b"\x87".to_vec()].concat();
        first.extend(pickle(2, &named));
        first.extend([storage.elements.low_first(), storage.data.clone()].concat());
    }
    let views: Vec<Vec<u8>> = views.iter().map(|view| pickle::tuple(&view.map(int))).collect();
    first.extend(pickle(2, &list(&views)));
    let mut second = count(tensors.len());
    for tensor in tensors {
        let class = global("torch", tensor.class);
        second.extend(pickle(2, &[int(tensor.key), int(tensor.storage), class, b"\x87".to_vec()].concat()));
        second.extend(le(&[tensor.sizes.len() as i64]));
        second.extend(le(&[tensor.sizes, tensor.strides, &[tensor.offset]].concat()));
    }
    let object = pickle(2, object);
    tar::tar(&[("storages", &first, None), ("tensors", &second, None), ("pickle", &object, None)])
}
