//! What a pickle would do: its imports and calls in order, followed as far as Python's unpickler would get.

use std::collections::BTreeMap;

use super::machine::{Machine, NONE};
use super::{Id, Node, Pickle};
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
    /// Where joblib would read an array of unknown size out of the pickle.
    pub lost_arrays: Vec<u64>,
    /// Where joblib would skip an array, whose bytes are opcodes to other readers.
    pub skipped: Vec<u64>,
    /// Separate pickles embedded in this one, as joblib writes arrays of objects: first byte and length.
    pub inner: Vec<(u64, u64)>,
    depth: usize,
    reader: Reader,
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
}

impl<'a> Trace<'a> {
    /// Follows the pickle at the start of `input` for as long as Python's unpickler would: what only this machine
    /// cannot represent (items appended to an instance, a number beyond its range) does not end it.
    pub fn new(input: &'a [u8]) -> Self {
        Self::of_part(input, input.len() as u64, Reader::Joblib, 0).expect("all the bytes were given")
    }

    /// The result of `read` on the trace of the pickle at `at`.
    ///
    /// # Errors
    /// `Io` when the bytes cannot be read.
    pub(crate) fn read_at<T>(
        source: &dyn ByteSource,
        at: u64,
        reader: Reader,
        mut read: impl FnMut(Trace<'_>) -> T,
    ) -> Result<T> {
        let len = source.len().saturating_sub(at);
        source.grow(at, |bytes| Trace::of_part(bytes, len, reader, 0).map(&mut read))
    }

    /// The trace of the first `input` of `len` bytes, as the pickle number `depth` within others.
    pub(super) fn of_part(
        input: &'a [u8],
        len: u64,
        reader: Reader,
        depth: usize,
    ) -> std::result::Result<Self, Short> {
        let mut machine = Machine::new(input, len);
        machine.seen = Some(Seen { depth, reader, ..Seen::default() });
        let outcome = machine.run();
        if let Some(short) = machine.short {
            return Err(short);
        }
        let seen = machine.seen.take().unwrap_or_default();
        let (root, error) = match outcome {
            Ok(root) => (root, None),
            Err(error) => (NONE, Some(error)),
        };
        Ok(Trace { pickle: machine.end(root), seen, error })
    }
}

/// The data after joblib's description of an array.
enum JoblibArray {
    /// This many bytes.
    Numbers(usize),
    /// A pickle.
    Objects,
}

impl Machine<'_> {
    /// joblib writes an array's bytes into the pickle, after the state of the object that describes it: if its state
    /// says so, a byte with the number of padding bytes, and these; then the elements; objects are a separate pickle
    /// (`joblib/numpy_pickle.py`).
    pub(super) fn skip_joblib_array(&mut self, wrapper: Id) -> Result<()> {
        if self.seen.as_ref().is_some_and(|seen| seen.reader == Reader::Plain)
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
                let len = match Trace::of_part(&self.input[self.at..], self.left(), Reader::Joblib, depth + 1)
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

    fn joblib_array(&self, wrapper: Id) -> Option<JoblibArray> {
        let node = |id: Id| &self.nodes[id.0 as usize];
        let Node::Object(object) = node(wrapper) else { return None };
        let Node::Dict(entries) = node(*object.state.last()?) else { return None };
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
        let digits = code.trim_start_matches(|c: char| !c.is_ascii_digit());
        if code.contains('O') {
            return Some(JoblibArray::Objects);
        }
        let elements = shape.iter().try_fold(1usize, |n, &size| match node(size) {
            Node::Int(size) => n.checked_mul(usize::try_from(*size).ok()?),
            _ => None,
        })?;
        let width = if code.contains('U') { 4 } else { 1 };
        let size: usize = digits.parse().ok()?;
        let size = size.checked_mul(width)?;
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
        let bytes = elements.checked_mul(size)?;
        match field("numpy_array_alignment_bytes") {
            Some(Node::Int(_)) => {
                bytes.checked_add(1 + usize::from(*self.input.get(self.at)?)).map(JoblibArray::Numbers)
            }
            _ => Some(JoblibArray::Numbers(bytes)),
        }
    }
}
