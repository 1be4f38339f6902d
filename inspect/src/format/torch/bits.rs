//! The negative and the conjugate bit of tensors: PyTorch saves what lies under such a view, and says beside it what is to
//! be done to each element when it is loaded (`set_tensor_metadata` in `torch/_utils.py`).

use std::ops::Range;
use std::sync::Arc;

use super::tensors::Args;
use super::{Walker, quoted};
use crate::bytes::computed::Compute;
use crate::pickle::{Id, Node, Pickle};
use crate::storage::{Place, Storage};
use crate::tensor::TensorInfo;
use crate::{DType, Error, Notice, NoticeKind, Result};

/// What is to be done to each element of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bits {
    /// Whether elements are negated,
    negative: bool,
    /// and whether complex ones are conjugated.
    conjugate: bool,
    /// As what the storage is read.
    dtype: DType,
}

/// The entries of a tensor that are read.
const NEGATIVE: &str = "neg";
const CONJUGATE: &str = "conj";

/// What else the call of `function` with `args` says of its tensor.
fn entries<'p>(pickle: &'p Pickle<'_>, function: &str, args: &[Id]) -> Result<&'p [(Id, Id)]> {
    let place = match function {
        "_rebuild_tensor_v2" => 6,
        "_rebuild_tensor_v3" => 7,
        _ => return Ok(&[]),
    };
    match args.get(place).map(|&id| pickle.node(id)) {
        None | Some(Node::None) => Ok(&[]),
        Some(Node::Dict(entries)) => Ok(entries),
        Some(Node::Object(object)) => Ok(&object.entries),
        Some(_) => Err(Error::unsupported("what its pickle says besides its elements is not a dict")),
    }
}

impl Bits {
    /// Those of the tensor of `dtype` that `function` builds from `args`, if any is set.
    pub(super) fn of(function: &str, args: &Args<'_, '_>, dtype: DType) -> Result<Option<Self>> {
        let mut bits = Bits { negative: false, conjugate: false, dtype };
        for &(key, value) in entries(args.pickle, function, args.ids)? {
            let bit = match args.pickle.str(key) {
                Some(NEGATIVE) => &mut bits.negative,
                Some(CONJUGATE) => &mut bits.conjugate,
                _ => continue,
            };
            *bit = match args.pickle.node(value) {
                Node::Bool(set) => *set,
                _ => return Err(Error::damaged("its negative or conjugate bit is neither set nor unset")),
            };
        }
        if bits.conjugate && !dtype.is_complex() {
            return Err(Error::damaged(format!("its conjugate bit is set, and {dtype} is not complex")));
        }
        if bits.negative && !dtype.is_complex() && negated(dtype).is_none() {
            let what =
                format!("its negative bit is set, and PyTorch has no negative of {dtype}: it cannot load it");
            return Err(Error::unsupported(what));
        }
        Ok((bits.negative || bits.conjugate).then_some(bits))
    }

    /// A storage of the elements that those of `storage` stand for.
    pub fn applied(self, storage: Storage) -> Storage {
        match storage.run().place {
            Place::Missing { .. } => storage,
            _ => Storage::derived(&storage.clone(), Arc::new(Resolved { bits: self, storage })),
        }
    }

    /// Turns `bytes`, whole elements, into what they stand for.
    fn apply(self, bytes: &mut [u8], big_endian: bool) {
        let word = self.dtype.word_size();
        let (flip, count) = match self.dtype.is_complex() {
            // Real parts and imaginary ones in turn: of both bits, one undoes the other there.
            true => ([self.negative, self.negative != self.conjugate], 2),
            false => ([self.negative; 2], 1),
        };
        let integer = negated(self.dtype) == Some(Form::Integer);
        let sign = if big_endian { 0 } else { word - 1 };
        for (_, word) in bytes.chunks_exact_mut(word).enumerate().filter(|(i, _)| flip[i % count]) {
            if !integer {
                word[sign] ^= 0x80;
                continue;
            }
            // The complement, and one more.
            let mut carry = true;
            let mut negate = |byte: &mut u8| (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
            match big_endian {
                true => word.iter_mut().rev().for_each(&mut negate),
                false => word.iter_mut().for_each(&mut negate),
            }
        }
    }
}

/// How a number is negated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// By its sign.
    Float,
    /// By its complement.
    Integer,
}

/// How elements of `dtype` are negated; `None` for those that PyTorch does not negate, and for pairs.
fn negated(dtype: DType) -> Option<Form> {
    match dtype {
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => Some(Form::Float),
        DType::I64 | DType::I32 | DType::I16 | DType::I8 | DType::U8 => Some(Form::Integer),
        _ => None,
    }
}

/// A storage whose elements stand for others.
#[derive(Debug)]
struct Resolved {
    bits: Bits,
    storage: Storage,
}

impl Compute for Resolved {
    fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let size = self.bits.dtype.element_size().unwrap_or(1) as u64;
        let len = self.storage.byte_len();
        let start = range.start - range.start % size;
        let end = range.end.checked_next_multiple_of(size).map_or(len, |end| end.min(len));
        let mut bytes = self.storage.range(start..end)?.into_owned();
        self.bits.apply(&mut bytes, self.storage.run().swap > 1);
        bytes.truncate((range.end - start) as usize);
        bytes.drain(..(range.start - start) as usize);
        Ok(bytes)
    }

    fn gives_ranges(&self) -> bool {
        self.storage.gives_ranges()
    }
}

impl Walker<'_, '_> {
    /// Tells of what the call of `function` says of the tensor `name` and is not read.
    pub(super) fn tell_entries(&mut self, function: &str, args: &[Id], name: Option<&str>) {
        let pickle = self.pickle;
        for &(key, _) in entries(pickle, function, args).unwrap_or(&[]) {
            let key = pickle.str(key).unwrap_or("?");
            if ![NEGATIVE, CONJUGATE].contains(&key) {
                let (name, key) = (quoted(name.unwrap_or("")), quoted(key));
                self.warn(|| {
                    format!("`{name}` was saved with an entry `{key}` of its own, which is not read")
                });
            }
        }
    }

    /// Tells of tensors whose elements are not those in the file.
    pub(super) fn resolved(&self) -> Option<Notice> {
        let is_resolved = |handle: &Storage| {
            let place = self.handles.iter().position(|other| other == handle);
            place.is_some_and(|place| self.storages[place].bits.is_some())
        };
        if self.storages.iter().all(|storage| storage.bits.is_none()) {
            return None;
        }
        let resolved = self.tensors.iter().filter(|tensor: &&TensorInfo| tensor.storages().any(is_resolved));
        bit_notice(resolved.map(|tensor| tensor.name.as_str()))
    }
}

/// Tells that the tensors called `names` have a bit set.
pub(crate) fn bit_notice<'n>(mut names: impl Iterator<Item = &'n str>) -> Option<Notice> {
    let first = names.next()?;
    let (more, have) = match names.count() {
        0 => (String::new(), "has"),
        1 => (" and 1 more tensor".into(), "have"),
        n => (format!(" and {n} more tensors"), "have"),
    };
    let text = format!(
        "`{}`{more} {have} the negative or the conjugate bit set: the elements are shown as PyTorch loads them",
        quoted(first)
    );
    Some(Notice::new(NoticeKind::Unusual, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `values` with these bits, in both orders of bytes.
    fn applied<const N: usize>(dtype: DType, bits: (bool, bool), values: &[[u8; N]]) -> Vec<[u8; N]> {
        let (negative, conjugate) = bits;
        let bits = Bits { negative, conjugate, dtype };
        let mut little: Vec<u8> = values.iter().flatten().copied().collect();
        let mut big: Vec<u8> = values.iter().flat_map(|word| word.iter().rev()).copied().collect();
        bits.apply(&mut little, false);
        bits.apply(&mut big, true);
        let little: Vec<[u8; N]> = little.chunks_exact(N).map(|word| word.try_into().unwrap()).collect();
        let turned: Vec<u8> = little.iter().flat_map(|word| word.iter().rev()).copied().collect();
        assert_eq!(big, turned);
        little
    }

    #[test]
    fn numbers_become_their_negatives_in_every_type() {
        let of = |values: [f32; 4]| values.map(f32::to_le_bytes).to_vec();
        let values = of([1.5, -2.0, 0.0, f32::INFINITY]);
        let negative = of([-1.5, 2.0, -0.0, f32::NEG_INFINITY]);
        assert_eq!(applied(DType::F32, (true, false), &values), negative);
        for number in [0i16, 1, -1, 255, 256, -256, i16::MIN, i16::MAX] {
            let found = applied(DType::I16, (true, false), &[number.to_le_bytes()]);
            assert_eq!(i16::from_le_bytes(found[0]), number.wrapping_neg());
        }
        // Pairs: 1 + 2i, 3 - 4i.
        let pairs = of([1.0, 2.0, 3.0, -4.0]);
        for (bits, expected) in [
            ((false, true), [1.0, -2.0, 3.0, 4.0]),
            ((true, false), [-1.0, -2.0, -3.0, 4.0]),
            ((true, true), [-1.0, 2.0, -3.0, -4.0]),
        ] {
            assert_eq!(applied(DType::C64, bits, &pairs), of(expected), "{bits:?}");
        }
    }
}
