//! What a pickle would do: its imports and calls in order, followed as far as Python's unpickler would get.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::machine::{Machine, NONE};
use super::memo::Memo;
use super::{Global, Id, Node, Object, Pickle};
use crate::bytes::{ByteSource, Short};
use crate::{Error, Result};

/// Imports and calls of a pickle, each with the offset of its opcode.
#[derive(Debug, Default)]
pub struct Seen {
    /// Every import: a [`Node::Global`].
    pub imports: Vec<(u64, Id)>,
    /// Every call: a [`Node::Object`].
    pub calls: Vec<(u64, Id)>,
    /// Objects that get a state by BUILD.
    pub builds: Vec<(u64, Id)>,
    /// The last change of each list, set, byte string and object after it was made, by its number and the offset of
    /// the opcode; `u64::MAX` where the value is no longer known.
    pub changed: BTreeMap<u32, u64>,
    /// PROTO opcodes that are not the first opcode, which no pickler writes.
    pub stray_protos: Vec<u64>,
    /// PROTO opcodes of protocols that do not exist, and the protocol.
    pub odd_protos: Vec<(u64, u8)>,
    /// Opcodes that get what another pickle stored.
    pub inherited: Vec<u64>,
    /// Opcodes that reach beyond the frame in which they begin, or begin a frame that does not fit: readers differ.
    pub torn_frames: Vec<u64>,
    /// Where joblib would read an array of unknown size out of the pickle.
    pub lost_arrays: Vec<u64>,
    /// Where joblib would skip an array, whose bytes are opcodes to other readers.
    pub skipped: Vec<u64>,
    /// Separate pickles embedded in this one, as joblib writes arrays of objects: first byte and length.
    pub inner: Vec<(u64, u64)>,
    depth: usize,
    reader: Reader,
}

/// A value in a pickle's memo, and its index.
pub(crate) type Stored = (u64, Kept);

/// What is known of a value that another pickle stored.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    Text(Arc<str>),
    Global(Global),
    Other,
}

/// Who reads the pickle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reader {
    /// joblib, which reads arrays between the opcodes.
    #[default]
    Joblib,
    /// Everyone else.
    Plain,
    /// CPython's before 2026, reading from a file that cannot be looked ahead in (an archive's entry, bytes in memory): what
    /// begins in a frame and does not end there is read from behind the frame.
    Framed,
}

/// The depth to which nested pickles are distinguished.
const DEEPEST: usize = 8;

/// What a pickle does, opcode by opcode, as far as Python would get.
#[derive(Debug)]
#[non_exhaustive]
pub struct Trace<'a> {
    /// The values; its root is `None` when no STOP was reached.
    pub pickle: Pickle<'a>,
    /// What it imports and calls.
    pub seen: Seen,
    /// The reason, if it ends before a STOP.
    pub error: Option<Error>,
    memo: Memo,
}

impl<'a> Trace<'a> {
    /// Follows the pickle at the start of `input` for as long as Python's unpickler would: what only this machine
    /// cannot represent (items appended to an instance, a number beyond its range) does not end it.
    pub fn new(input: &'a [u8]) -> Self {
        Self::of_part(input, input.len() as u64, Reader::Joblib, 0).expect("all the bytes were given")
    }

    /// The result of `read` on the trace of the pickle at `at`, which may take `memory` bytes.
    ///
    /// # Errors
    /// `Io` when the bytes cannot be read.
    pub(crate) fn read_at<T>(
        source: &dyn ByteSource,
        at: u64,
        reader: Reader,
        memory: u64,
        mut read: impl FnMut(Trace<'_>) -> T,
    ) -> Result<T> {
        let len = source.len().saturating_sub(at);
        source.grow(at, |bytes| Trace::begun(bytes, len, reader, 0, memory, &[]).map(&mut read))
    }

    /// [`Trace::read_at`] where the same unpickler read other pickles before, and keeps their memo.
    ///
    /// # Errors
    /// `Io` when the bytes cannot be read.
    pub(crate) fn read_after<T>(
        source: &dyn ByteSource,
        at: u64,
        memory: u64,
        memo: &[Stored],
        mut read: impl FnMut(Trace<'_>) -> T,
    ) -> Result<T> {
        let len = source.len().saturating_sub(at);
        source.grow(at, |bytes| Trace::begun(bytes, len, Reader::Plain, 0, memory, memo).map(&mut read))
    }

    /// What its memo holds at the end, in the order of the indices; `None` if that is more than `most` values.
    pub(crate) fn stored(&self, most: usize) -> Option<Vec<Stored>> {
        let kept = |id: Id| match self.pickle.node(id) {
            Node::Str(text) => Kept::Text(text.clone()),
            Node::Global(global) => Kept::Global((**global).clone()),
            _ => Kept::Other,
        };
        let few = usize::try_from(self.memo.len()).is_ok_and(|len| len <= most);
        few.then(|| self.memo.entries().into_iter().map(|(key, id)| (key, kept(id))).collect())
    }

    /// The trace of the first `input` of `len` bytes, as the pickle number `depth` within others.
    pub(super) fn of_part(
        input: &'a [u8],
        len: u64,
        reader: Reader,
        depth: usize,
    ) -> std::result::Result<Self, Short> {
        Self::begun(input, len, reader, depth, u64::MAX, &[])
    }

    fn begun(
        input: &'a [u8],
        len: u64,
        reader: Reader,
        depth: usize,
        memory: u64,
        memo: &[Stored],
    ) -> std::result::Result<Self, Short> {
        let mut machine = Machine::new(input, len);
        machine.memory_left = machine.memory_left.min(memory);
        machine.seen = Some(Seen { depth, reader, ..Seen::default() });
        machine.inherit(memo);
        let outcome = machine.run();
        let memo = std::mem::take(&mut machine.memo);
        if let Some(short) = machine.short {
            return Err(short);
        }
        let seen = machine.seen.take().unwrap_or_default();
        let (root, error) = match outcome {
            Ok(root) => (root, None),
            Err(error) => (NONE, Some(error)),
        };
        Ok(Trace { pickle: machine.end(root), seen, error, memo })
    }
}

/// The data after joblib's description of an array.
enum JoblibArray {
    /// This many bytes.
    Numbers(usize),
    /// A pickle.
    Objects,
}

/// An element of an array.
enum Element {
    Object,
    Bytes(usize),
}

/// The element that a type of NumPy's is called after, as NumPy writes it in `dtype.__reduce__`, or by its name; `None` for
/// others that it also reads.
fn element(code: &str) -> Option<Element> {
    const NAMED: [(&str, usize); 14] = [
        ("bool", 1),
        ("int8", 1),
        ("uint8", 1),
        ("int16", 2),
        ("uint16", 2),
        ("float16", 2),
        ("int32", 4),
        ("uint32", 4),
        ("float32", 4),
        ("int64", 8),
        ("uint64", 8),
        ("float64", 8),
        ("complex64", 8),
        ("complex128", 16),
    ];
    if let Some((_, size)) = NAMED.iter().find(|(name, _)| *name == code) {
        return Some(Element::Bytes(*size));
    }
    let code = code.strip_prefix(['<', '>', '|', '=']).unwrap_or(code);
    let kind = code.chars().next()?;
    let rest = &code[kind.len_utf8()..];
    if kind == 'O' {
        return matches!(rest, "" | "8").then_some(Element::Object);
    }
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (size, unit) = rest.split_at(digits);
    let dated =
        matches!(kind, 'M' | 'm') && (unit.is_empty() || unit.starts_with('[') && unit.ends_with(']'));
    if !unit.is_empty() && !dated {
        return None;
    }
    let size: usize = size.parse().ok()?;
    let bytes = match (kind, size) {
        ('b', 1) | ('i' | 'u', 1 | 2 | 4 | 8) | ('f', 2 | 4 | 8 | 12 | 16) | ('c', 8 | 16 | 24 | 32) => size,
        ('M' | 'm', 8) | ('S' | 'V', _) => size,
        ('U', _) => size.checked_mul(4)?,
        _ => return None,
    };
    Some(Element::Bytes(bytes))
}

impl Machine<'_> {
    /// Whether what is left of a frame is dropped when an argument reaches beyond it.
    pub(super) fn drops_frames(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.reader == Reader::Framed)
    }

    /// joblib writes an array's bytes into the pickle, after the state of the object that describes it: if its state
    /// says so, a byte with the number of padding bytes, and these; then the elements; objects are a separate pickle
    /// (`joblib/numpy_pickle.py`).
    pub(super) fn skip_joblib_array(&mut self, wrapper: Id) -> Result<()> {
        if self.seen.as_ref().is_some_and(|seen| seen.reader != Reader::Joblib)
            || !self.is_joblib_array(wrapper)
        {
            return Ok(());
        }
        let at = self.at as u64;
        self.note(|seen, _| seen.skipped.push(at));
        // The byte with the number of padding bytes.
        self.have(self.left().min(1))?;
        let len = match self.joblib_array(wrapper) {
            Some(JoblibArray::Numbers(len)) => len as u64,
            Some(JoblibArray::Objects) => {
                let depth = self.seen.as_ref().map_or(0, |seen| seen.depth);
                if depth == DEEPEST {
                    self.note(|seen, at| seen.lost_arrays.push(at));
                    return Ok(());
                }
                let at = self.at as u64;
                // joblib reads it by an unpickler that knows no arrays of its own.
                let len = match Trace::of_part(&self.input[self.at..], self.left(), Reader::Plain, depth + 1)
                {
                    Ok(inner) => inner.pickle.len as u64,
                    Err(Short(needed)) => {
                        self.have(needed)?;
                        needed
                    }
                };
                self.note(|seen, _| seen.inner.push((at, len)));
                len
            }
            None => {
                self.note(|seen, at| seen.lost_arrays.push(at));
                return Ok(());
            }
        };
        self.take(len.min(self.left())).map(drop)
    }

    fn is_joblib_array(&self, wrapper: Id) -> bool {
        let node = |id: Id| &self.nodes[id.0 as usize];
        let Node::Object(object) = node(wrapper) else { return false };
        let Node::Global(class) = node(object.callable) else { return false };
        (&*class.module, &*class.name) == ("joblib.numpy_pickle", "NumpyArrayWrapper")
    }

    /// Whether one of the fields that a type's state gives it is an object; `None` if that is not known.
    fn has_objects(&self, dtype: &Object, depth: usize) -> Option<bool> {
        let node = |id: Id| &self.nodes[id.0 as usize];
        let Some(state) = dtype.state.last() else { return Some(false) };
        let Node::Tuple(parts) = node(*state) else { return None };
        let fields = match node(*parts.get(4)?) {
            Node::None => return Some(false),
            Node::Dict(fields) if depth < DEEPEST => fields,
            _ => return None,
        };
        for &(_, field) in fields {
            let Node::Tuple(field) = node(field) else { return None };
            let Node::Object(inner) = node(*field.first()?) else { return None };
            let Node::Tuple(args) = node(inner.args) else { return None };
            let Node::Str(code) = node(*args.first()?) else { return None };
            if matches!(element(code)?, Element::Object) || self.has_objects(inner, depth + 1)? {
                return Some(true);
            }
        }
        Some(false)
    }

    fn joblib_array(&self, wrapper: Id) -> Option<JoblibArray> {
        let node = |id: Id| &self.nodes[id.0 as usize];
        let Node::Object(object) = node(wrapper) else { return None };
        // joblib keeps what an earlier state set.
        let [state] = object.state.as_slice() else { return None };
        let Node::Dict(entries) = node(*state) else { return None };
        let field = |name: &str| {
            entries
                .iter()
                .rev()
                .find(|(key, _)| matches!(node(*key), Node::Str(s) if **s == *name))
                .map(|(_, v)| node(*v))
        };
        let Some(Node::Tuple(shape)) = field("shape") else { return None };
        let Some(Node::Object(dtype)) = field("dtype") else { return None };
        let Node::Tuple(args) = node(dtype.args) else { return None };
        let Node::Str(code) = node(*args.first()?) else { return None };
        let size = match element(code)? {
            Element::Object => return Some(JoblibArray::Objects),
            Element::Bytes(size) => size,
        };
        let elements = shape.iter().try_fold(1usize, |n, &size| match node(size) {
            Node::Int(size) => n.checked_mul(usize::try_from(*size).ok()?),
            _ => None,
        })?;
        // A type's state may give it another size: version, order, subarray, names, fields, size.
        let resized = |state: &Id| match node(*state) {
            Node::Tuple(parts) => match parts.get(5).map(|&part| node(part)) {
                Some(&Node::Int(given)) => given != -1 && usize::try_from(given) != Ok(size),
                _ => true,
            },
            _ => true,
        };
        if dtype.state.iter().any(resized) {
            return None;
        }
        if self.has_objects(dtype, 0)? {
            return Some(JoblibArray::Objects);
        }
        let bytes = elements.checked_mul(size)?;
        match field("numpy_array_alignment_bytes") {
            None | Some(Node::None) => Some(JoblibArray::Numbers(bytes)),
            Some(Node::Int(_)) => {
                bytes.checked_add(1 + usize::from(*self.input.get(self.at)?)).map(JoblibArray::Numbers)
            }
            // joblib pads for whatever else this may be.
            Some(_) => None,
        }
    }
}
