//! Numpy arrays and scalars in a pickle.

use std::borrow::Cow;

use super::tensors::Args;

use super::{Inline, StorageRef, Walker};
use crate::DType;
use crate::metadata::Value;
use crate::pickle::{Id, Node, Object};
use crate::tensor::{TensorInfo, contiguous_strides, fortran_strides, numel};

impl<'p> Walker<'p, '_> {
    /// A numpy array as the tensor that `torch.from_numpy` would make of it, without a name.
    pub(super) fn array_tensor(&self, array: NumpyArray<'p>) -> (TensorInfo, StorageRef) {
        let strides = array.strides();
        let mut tensor = TensorInfo::contiguous(String::new(), array.dtype, array.shape, None, 0);
        tensor.strides = strides;
        let bytes = array.bytes.len() as u64;
        let inline = Inline { big_endian: array.big_endian, ..self.inline(array.bytes) };
        let key = format!("array {} {}", self.storages.len(), self.arrays.len());
        (
            tensor,
            StorageRef { key, dtype: array.dtype, bytes, view_of: None, inline: Some(inline), bits: None },
        )
    }

    /// `numpy.core.multiarray._reconstruct(…)` with the state (version, shape, dtype, is_fortran, bytes), or
    /// `numpy.core.numeric._frombuffer(bytes, dtype, shape, order)` of protocol 5.
    pub(super) fn numpy(&mut self, object: &Object) -> Option<NumpyArray<'p>> {
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

    /// The shape and the elements of an array of texts of any length: `numpy._core.multiarray._reconstruct(…)` with the
    /// state (version, shape, dtype, is_fortran, list), whose type is `_convert_to_stringdtype_kwargs(…)`.
    pub(super) fn numpy_texts(&self, object: &Object) -> Option<(Vec<usize>, &'p [Id])> {
        let pickle = self.pickle;
        let &[.., shape, dtype, _, texts] = pickle.sequence(*object.state.last()?)? else { return None };
        let Node::Object(dtype) = pickle.node(dtype) else { return None };
        let (module, made_by) = pickle.global(dtype.callable)?;
        let is_text = module.starts_with("numpy")
            && matches!(made_by, "_convert_to_stringdtype_kwargs" | "StringDType");
        let shape = Args { pickle, ids: &[] }.shape_of(shape).ok()?;
        is_text.then_some((shape, pickle.sequence(texts)?))
    }

    /// `numpy.dtype('f4', False, True)` with the state (3, '<', …).
    fn numpy_dtype(&self, id: Id) -> Option<(DType, bool)> {
        let Node::Object(object) = self.pickle.node(id) else { return None };
        let code = self.pickle.str(*self.pickle.sequence(object.args)?.first()?)?;
        let order = object.state.last().and_then(|&s| self.pickle.sequence(s)).and_then(|s| s.get(1));
        let big = order.and_then(|&o| self.pickle.str(o)) == Some(">");
        Some((numpy_code(code.trim_start_matches(['<', '>', '=', '|']))?, big))
    }

    pub(super) fn numpy_scalar(&mut self, args: &[Id]) -> Option<Value> {
        let &[dtype, bytes] = args else { return None };
        let (dtype, big_endian) = self.numpy_dtype(dtype)?;
        let bytes = self.byte_string(bytes)?;
        if dtype.element_size()? != bytes.len() {
            return None;
        }
        NumpyArray { dtype, shape: Vec::new(), fortran: false, big_endian, bytes }.elements()?.pop()
    }
}

/// Arrays of at most as many elements are shown whole.
pub(super) const SHOWN: usize = 64;

/// NumPy's codes of types, without their byte order.
const CODES: [(&str, DType); 14] = [
    ("f8", DType::F64),
    ("f4", DType::F32),
    ("f2", DType::F16),
    ("i8", DType::I64),
    ("i4", DType::I32),
    ("i2", DType::I16),
    ("i1", DType::I8),
    ("u8", DType::U64),
    ("u4", DType::U32),
    ("u2", DType::U16),
    ("u1", DType::U8),
    ("b1", DType::Bool),
    ("c8", DType::C64),
    ("c16", DType::C128),
];

/// The type of NumPy's code without its byte order, such as `f4`.
pub(crate) fn numpy_code(code: &str) -> Option<DType> {
    CODES.iter().find(|(theirs, _)| *theirs == code).map(|(_, ours)| *ours)
}

/// NumPy's code for elements of `dtype`, if it has one.
pub(crate) fn code_of(dtype: DType) -> Option<&'static str> {
    CODES.iter().find(|(_, ours)| *ours == dtype).map(|(theirs, _)| *theirs)
}

pub(super) struct NumpyArray<'p> {
    dtype: DType,
    pub(super) shape: Vec<usize>,
    fortran: bool,
    big_endian: bool,
    pub(super) bytes: Cow<'p, [u8]>,
}

impl NumpyArray<'_> {
    fn strides(&self) -> Vec<usize> {
        if self.fortran { fortran_strides(&self.shape) } else { contiguous_strides(&self.shape) }
    }

    /// Small arrays whole, large ones described.
    pub(super) fn to_value(&self) -> Value {
        let describe = || {
            let shape: Vec<String> = self.shape.iter().map(usize::to_string).collect();
            Value::String(format!("a numpy array of {} [{}]", self.dtype, shape.join(", ")))
        };
        if self.shape.len() > 1 || numel(&self.shape).is_none_or(|n| n > SHOWN as u64) {
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
