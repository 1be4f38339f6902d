//! The pickle machine: reads any pickle of protocols 0 to 5 into a graph of values. It imports nothing and calls
//! nothing: what a pickle would call becomes an [`Object`] node that names the callable.
//!
//! Opcodes are those of CPython's `Lib/pickletools.py`. Every opcode adds at most three nodes and a copy of the text
//! that it contains; byte strings borrow from the input. So the graph's size is proportional to the input's; a pickle
//! that would take more than 8 bytes of memory for each of its own, and 32 MiB besides, is refused. Nothing
//! here recurses; code that walks the graph must expect cycles and any depth.

mod input;
mod machine;
mod memo;
mod objects;
mod text;
mod trace;

use std::borrow::Cow;
use std::sync::Arc;

use crate::Result;
use crate::bytes::{ByteSource, Short};
use machine::Machine;
pub(crate) use trace::Stored;
pub use trace::{Reader, Seen, Trace};

/// Index of a node in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(u32);

impl Id {
    /// The id of the node that was created as number `index`.
    pub(crate) fn at(index: usize) -> Self {
        Id(index as u32)
    }

    /// Its number in the order of creation.
    pub fn index(self) -> u32 {
        self.0
    }
}

/// A value of the pickle. Containers hold the ids of their elements.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // named after the Python types
#[non_exhaustive]
pub enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits: little-endian two's complement.
    BigInt(Cow<'a, [u8]>),
    Float(f64),
    Str(Arc<str>),
    Bytes(Cow<'a, [u8]>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Set(Vec<Id>),
    /// A name that Python would import.
    Global(Box<Global>),
    /// Something Python would construct by a call.
    Object(Box<Object>),
    /// A persistent id: in PyTorch files, a storage.
    Persistent(Id),
    /// An out-of-band buffer (protocol 5), which is not in the file.
    Buffer,
}

/// `module.name`, never imported.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[non_exhaustive]
pub struct Global {
    pub module: Arc<str>,
    pub name: Arc<str>,
}

/// An instance that Python would make by calling `callable`, with everything the pickle then puts into it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Object {
    /// What would be called, usually a [`Node::Global`].
    pub callable: Id,
    /// Positional arguments, usually a [`Node::Tuple`].
    pub args: Id,
    /// Keyword arguments (NEWOBJ_EX).
    pub kwargs: Option<Id>,
    /// What BUILD passes to `__setstate__` or `__dict__`.
    pub state: Vec<Id>,
    /// What APPEND, APPENDS and ADDITEMS add.
    pub items: Vec<Id>,
    /// What SETITEM and SETITEMS add.
    pub entries: Vec<(Id, Id)>,
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle<'a> {
    input: &'a [u8],
    nodes: Vec<Node<'a>>,
    /// The value of the pickle.
    pub root: Id,
    /// Every distinct global, in order of appearance.
    pub globals: Vec<Global>,
    /// Bytes read, up to and including STOP: the next pickle of a stream starts here.
    pub len: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the start of `input`.
    ///
    /// # Errors
    /// `Damaged` with the offset in the pickle where an opcode is unknown, an argument runs past the end, or the
    /// stack does not hold what an opcode needs.
    pub fn parse(input: &'a [u8]) -> Result<Self> {
        Self::parse_part(input, input.len() as u64)?
    }

    /// [`Pickle::parse`] of the first `input` of `len` bytes.
    fn parse_part(input: &'a [u8], len: u64) -> std::result::Result<Result<Self>, Short> {
        let mut machine = Machine::new(input, len);
        let outcome = machine.run();
        match machine.short {
            Some(short) => Err(short),
            None => Ok(outcome.map(|root| machine.end(root))),
        }
    }

    /// The result of `read` on the pickle at `at` and the bytes that begin with it.
    ///
    /// # Errors
    /// Those of [`Pickle::parse`], and `Io` when the bytes cannot be read.
    pub(crate) fn read_at<T>(
        source: &dyn ByteSource,
        at: u64,
        mut read: impl FnMut(Pickle<'_>, &[u8]) -> T,
    ) -> Result<T> {
        let len = source.len().saturating_sub(at);
        source.grow(at, |bytes| Ok(Pickle::parse_part(bytes, len)?.map(|pickle| read(pickle, bytes))))?
    }

    /// The node `id`.
    pub fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    /// Number of nodes, by which code that walks the graph limits its work.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Where `part`, a slice of a node's bytes, begins in the input; `None` if it was not borrowed from there.
    pub fn offset_of(&self, part: &[u8]) -> Option<u64> {
        let range = self.input.as_ptr_range();
        let inside = range.start <= part.as_ptr() && part.as_ptr_range().end <= range.end;
        inside.then(|| (part.as_ptr().addr() - range.start.addr()) as u64)
    }

    /// The opcode at `at`.
    pub(crate) fn opcode(&self, at: u64) -> Option<u8> {
        self.input.get(usize::try_from(at).ok()?).copied()
    }

    /// The value of node `id`, if it is a string.
    pub fn str(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The value of node `id`, if it is an integer that fits.
    pub fn int(&self, id: Id) -> Option<i64> {
        match *self.node(id) {
            Node::Int(i) => Some(i),
            Node::Bool(b) => Some(b.into()),
            _ => None,
        }
    }

    /// The elements of a tuple or list.
    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// The attribute `name` of the object `id`, from what was last put into it.
    pub(crate) fn attribute(&self, id: Id, name: &str) -> Option<Id> {
        let Node::Object(object) = self.node(id) else { return None };
        let state = object.state.last()?;
        // With `__slots__` the state is a pair.
        let parts = match self.node(*state) {
            Node::Tuple(parts) if parts.len() == 2 => parts,
            _ => std::slice::from_ref(state),
        };
        parts.iter().find_map(|&part| self.entry(part, name))
    }

    /// The value of the key `name` of the dict `id`.
    pub(crate) fn entry(&self, id: Id, name: &str) -> Option<Id> {
        let Node::Dict(entries) = self.node(id) else { return None };
        entries.iter().rev().find(|(key, _)| self.str(*key) == Some(name)).map(|&(_, value)| value)
    }

    /// `(module, name)` of the callable of the object `id`.
    pub(crate) fn class(&self, id: Id) -> Option<(&str, &str)> {
        match self.node(id) {
            Node::Object(object) => self.global(object.callable),
            _ => None,
        }
    }

    /// `(module, name)` of a global.
    pub fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.node(id) {
            Node::Global(g) => Some((&g.module, &g.name)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// joblib's description of an array, before a STOP: of bytes, and of objects.
    const ARRAYS: [&[u8]; 2] = [
        b"\x80\x02cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}(X\x05\0\0\0shapeK\x09\x85X\x05\0\0\0dtypecnumpy\ndtype\nX\x02\0\0\0i8\x85RX\x1b\0\0\0numpy_array_alignment_bytesK\x10ub\x03...012345678901234567890123456789012345678901234567890123456789012345678901.",
        b"\x80\x02cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}(X\x05\0\0\0shapeK\x02\x85X\x05\0\0\0dtypecnumpy\ndtype\nX\x02\0\0\0O8\x85Rub\x80\x02]X\x03\0\0\0abca..",
    ];

    /// Given only the first bytes of a pickle, the machine gives the same result as for all, or asks for more.
    #[test]
    fn the_first_bytes_are_enough_or_known_to_be_too_few() {
        let mut pickles = ARRAYS.map(<[u8]>::to_vec).to_vec();
        pickles.extend([
            b"(dp0\nVname\nI12\nsVlong\nL123456789012345678901L\ns.".to_vec(),
            b"\x80\x04\x95\x10\0\0\0\0\0\0\0C\x05bytes\x8c\x04text\x86.behind".to_vec(),
            b"\x80\x02X\xff\xff\xff\x7fmore than there is".to_vec(),
            b"\x80\x02cno end of line".to_vec(),
            b"\x80\x02]\xf0".to_vec(),
        ]);
        for bytes in pickles {
            let shown = |pickle: &Pickle<'_>| format!("{:?} {:?} {}", pickle.nodes, pickle.root, pickle.len);
            let parsed = |given: &[u8]| {
                let outcome = Pickle::parse_part(given, bytes.len() as u64)?;
                Ok::<_, Short>(outcome.map_or_else(|error| error.to_string(), |pickle| shown(&pickle)))
            };
            let traced = |given: &[u8]| {
                let trace = Trace::of_part(given, bytes.len() as u64, Reader::Joblib, 0)?;
                Ok::<_, Short>(format!("{} {:?} {:?}", shown(&trace.pickle), trace.seen, trace.error))
            };
            let whole = (parsed(&bytes).unwrap(), traced(&bytes).unwrap());
            for given in 0..bytes.len() {
                for (outcome, whole) in
                    [(parsed(&bytes[..given]), &whole.0), (traced(&bytes[..given]), &whole.1)]
                {
                    match outcome {
                        Ok(outcome) => assert_eq!(outcome, *whole, "{given} of {}", bytes.escape_ascii()),
                        Err(Short(needed)) => {
                            assert!((given as u64 + 1..=bytes.len() as u64).contains(&needed), "{given}");
                        }
                    }
                }
            }
        }
    }
}
