//! What a pickle would do: its imports and calls in order, followed as far as Python's unpickler would get.

use super::{Id, Machine, NONE, Node, Pickle};
use crate::Error;

/// Imports and calls of a pickle, each with the offset of its opcode.
#[derive(Debug, Default)]
pub struct Seen {
    /// Every import: a [`Node::Global`].
    pub imports: Vec<(u64, Id)>,
    /// Every call: a [`Node::Object`].
    pub calls: Vec<(u64, Id)>,
    /// What gets a state by BUILD.
    pub builds: Vec<(u64, Id)>,
    /// PROTO opcodes that are not the first opcode, which no pickler writes.
    pub stray_protos: Vec<u64>,
    /// PROTO opcodes of protocols that do not exist, and the protocol.
    pub odd_protos: Vec<(u64, u8)>,
    /// Where joblib would read an array's bytes out of the pickle, of a size that cannot be told.
    pub lost_arrays: Vec<u64>,
    /// Pickles of their own that stand within this one, as joblib writes arrays of objects: first byte and length.
    pub inner: Vec<(u64, u64)>,
    depth: usize,
}

/// Pickles within pickles that are told apart.
const DEEPEST: usize = 8;

/// What a pickle does, opcode by opcode, as far as Python would get.
#[derive(Debug)]
#[non_exhaustive]
pub struct Trace<'a> {
    /// The values; its root is `None` when no STOP was reached.
    pub pickle: Pickle<'a>,
    /// What it imports and calls.
    pub seen: Seen,
    /// Why it ends before a STOP, when it does.
    pub error: Option<Error>,
}

impl<'a> Trace<'a> {
    /// Follows the pickle at the start of `input` for as long as Python's unpickler would: what only this machine
    /// cannot represent (items appended to an instance, a number beyond its range) does not end it.
    pub fn new(input: &'a [u8]) -> Self {
        Self::at_depth(input, 0)
    }

    fn at_depth(input: &'a [u8], depth: usize) -> Self {
        let mut machine = Machine::new(input);
        machine.seen = Some(Seen { depth, ..Seen::default() });
        let result = loop {
            let start = machine.at;
            let step = match machine.byte() {
                Ok(b'.') => break machine.pop().map_err(|e| e.at(start as u64)),
                Ok(opcode) => machine.step(opcode),
                Err(_) => Err(Error::damaged("the pickle ends without a STOP opcode")),
            };
            if let Err(error) = step {
                break Err(error.at(start as u64));
            }
        };
        let (root, error) = match result {
            Ok(root) => (root, None),
            Err(error) => (NONE, Some(error)),
        };
        let Machine { nodes, globals, at, seen, .. } = machine;
        let pickle = Pickle { input, nodes, root, globals, len: at };
        Trace { pickle, seen: seen.unwrap_or_default(), error }
    }
}

/// What follows joblib's description of an array.
enum JoblibArray {
    /// So many bytes.
    Numbers(usize),
    /// A pickle.
    Objects,
}

impl Machine<'_> {
    /// joblib writes an array's bytes into the pickle, after the state of the object that describes it: a byte that
    /// tells how many more align them, when its state says so, then the elements; objects are a pickle of their own
    /// (`joblib/numpy_pickle.py`).
    pub(super) fn skip_joblib_array(&mut self, wrapper: Id) {
        let len = match self.joblib_array(wrapper) {
            Some(JoblibArray::Numbers(len)) => len,
            Some(JoblibArray::Objects) => {
                let depth = self.seen.as_ref().map_or(0, |seen| seen.depth);
                if depth == DEEPEST {
                    return;
                }
                let len = Trace::at_depth(&self.input[self.at..], depth + 1).pickle.len;
                let at = self.at as u64;
                self.note(|seen, _| seen.inner.push((at, len as u64)));
                len
            }
            None => {
                if self.is_joblib_array(wrapper) {
                    self.note(|seen, at| seen.lost_arrays.push(at));
                }
                return;
            }
        };
        self.at = self.at.saturating_add(len).min(self.input.len());
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
        if !self.is_joblib_array(wrapper) {
            return None;
        }
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
