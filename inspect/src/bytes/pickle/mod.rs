//! The pickle machine: reads any pickle of protocols 0 to 5 into a graph of values. It imports nothing and calls
//! nothing: what a pickle would call becomes an [`Object`] node that names the callable.
//!
//! Opcodes are those of CPython's `Lib/pickletools.py`. Every opcode adds at most three nodes and a copy of the text
//! that it holds; byte strings borrow from the input. So the graph's size is proportional to the input's. Nothing here recurses; who walks the graph must
//! expect cycles and any depth.

mod text;
mod trace;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::bytes::{ByteSource, Short, text as text_of};
use crate::{Error, Result};
use text::{big_decimal, unescape_string, unescape_unicode};
pub use trace::{Seen, Trace};

/// Index of a node in its [`Pickle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(u32);

impl Id {
    /// The node made as number `index`.
    pub(crate) fn at(index: usize) -> Self {
        Id(index as u32)
    }

    /// Its number, by which nodes were made.
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
    /// What BUILD hands to `__setstate__` or `__dict__`.
    pub state: Vec<Id>,
    /// What APPEND, APPENDS and ADDITEMS add.
    pub items: Vec<Id>,
    /// What SETITEM and SETITEMS add.
    pub entries: Vec<(Id, Id)>,
}

/// One pickle, read.
#[derive(Debug)]
pub struct Pickle<'a> {
    input: &'a [u8],
    nodes: Vec<Node<'a>>,
    /// The value the pickle stands for.
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

    /// What `read` makes of the pickle at `at`, and of the bytes that begin with it.
    ///
    /// # Errors
    /// Those of [`Pickle::parse`], and `Io` when the bytes cannot be had.
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

    /// Number of nodes: the measure for budgets of those who walk the graph.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Where `part`, a slice of a node's bytes, begins in the input; `None` if it was not borrowed from there.
    pub fn offset_of(&self, part: &[u8]) -> Option<u64> {
        let range = self.input.as_ptr_range();
        let inside = range.start <= part.as_ptr() && part.as_ptr_range().end <= range.end;
        inside.then(|| (part.as_ptr().addr() - range.start.addr()) as u64)
    }

    /// The string `id` is, if it is one.
    pub fn str(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Str(s) => Some(s),
            _ => None,
        }
    }

    /// The integer `id` is, if it is one that fits.
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

    /// `(module, name)` of a global.
    pub fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.node(id) {
            Node::Global(g) => Some((&g.module, &g.name)),
            _ => None,
        }
    }
}

const NONE: Id = Id(0);
const FALSE: Id = Id(1);
const TRUE: Id = Id(2);
const EMPTY_TUPLE: Id = Id(3);

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    globals: Vec<Global>,
    known_globals: HashSet<Global>,
    /// What the names of globals may still take: one memoized string may be part of many.
    global_bytes_left: usize,
    /// Offset of the opcode at work.
    opcode_at: u64,
    /// Set when it is traced: what it does is noted, and it goes on where Python would.
    seen: Option<Seen>,
    /// Bytes that there are, of which `input` may be the first alone.
    len: u64,
    /// Set when it ends for want of those that were not given.
    short: Option<Short>,
}

impl<'a> Machine<'a> {
    fn new(input: &'a [u8], len: u64) -> Self {
        let nodes = vec![Node::None, Node::Bool(false), Node::Bool(true), Node::Tuple(Vec::new())];
        Machine {
            input,
            at: 0,
            nodes,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            globals: Vec::new(),
            known_globals: HashSet::new(),
            global_bytes_left: usize::try_from(len)
                .unwrap_or(usize::MAX)
                .saturating_mul(16)
                .saturating_add(1 << 20),
            opcode_at: 0,
            seen: None,
            len,
            short: None,
        }
    }

    /// Follows the opcodes up to the STOP, and gives what is on the stack then.
    fn run(&mut self) -> Result<Id> {
        loop {
            let start = self.at;
            let opcode = self
                .byte()
                .map_err(|_| Error::damaged("the pickle ends without a STOP opcode").at(start as u64))?;
            if opcode == b'.' {
                return self.pop().map_err(|e| e.at(start as u64));
            }
            self.step(opcode).map_err(|e| e.at(start as u64))?;
        }
    }

    /// What was read so far.
    fn end(self, root: Id) -> Pickle<'a> {
        Pickle { input: self.input, nodes: self.nodes, root, globals: self.globals, len: self.at }
    }

    #[rustfmt::skip]
    fn step(&mut self, opcode: u8) -> Result<()> {
        self.opcode_at = self.at as u64 - 1;
        match opcode {
            // Protocol 0: arguments are lines of text.
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.pop_or_mark()?,
            b'1' => { self.pop_to_mark()?; }
            b'2' => { let top = self.top()?; self.stack.push(top); }
            b'F' => { let v = self.decimal_float()?; self.push(Node::Float(v))?; }
            b'I' => self.int_line()?,
            b'L' => self.long_line()?,
            b'N' => self.stack.push(NONE),
            b'P' => { let s = lossy(self.line()?); let id = self.add(Node::Str(s))?; self.push(Node::Persistent(id))?; }
            b'R' => { let args = self.pop()?; let callable = self.pop()?; self.object(callable, args, None)?; }
            b'S' => { let line = self.line()?; let s = unescape_string(line)?; self.push(Node::Str(s))?; }
            b'V' => { let s = unescape_unicode(self.line()?); self.push(Node::Str(s))?; }
            b'a' => { let item = self.pop()?; self.extend(&[item])?; }
            b'b' => self.build()?,
            b'c' => { let module = lossy(self.line()?); let name = lossy(self.line()?); self.global(module, name)?; }
            b'd' => { let items = self.pop_to_mark()?; let pairs = self.pairs(&items)?; self.push(Node::Dict(pairs))?; }
            b'g' => { let key = self.memo_key_line()?; self.get(key)?; }
            b'i' => self.inst()?,
            b'l' => { let items = self.pop_to_mark()?; self.push(Node::List(items))?; }
            b'p' => { let key = self.memo_key_line()?; self.put(key)?; }
            b's' => { let value = self.pop()?; let key = self.pop()?; self.set(vec![(key, value)])?; }
            b't' => { let items = self.pop_to_mark()?; self.push(Node::Tuple(items))?; }
            // Protocol 1: binary arguments.
            b')' => self.stack.push(EMPTY_TUPLE),
            b']' => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'G' => { let v = f64::from_be_bytes(self.array()?); self.push(Node::Float(v))?; }
            b'J' => { let v = i32::from_le_bytes(self.array()?); self.push(Node::Int(v.into()))?; }
            b'K' => { let v = self.byte()?; self.push(Node::Int(v.into()))?; }
            b'M' => { let v = u16::from_le_bytes(self.array()?); self.push(Node::Int(v.into()))?; }
            b'Q' => { let id = self.pop()?; self.push(Node::Persistent(id))?; }
            b'T' => { let n = i32::from_le_bytes(self.array()?); let n = size(n.into())?; self.old_string(n)?; }
            b'U' => { let n = self.byte()?; self.old_string(n.into())?; }
            b'X' => { let n = u32::from_le_bytes(self.array()?); self.string(n.into())?; }
            b'e' => { let items = self.pop_to_mark()?; self.extend(&items)?; }
            b'h' => { let key = self.byte()?; self.get(key.into())?; }
            b'j' => { let key = u32::from_le_bytes(self.array()?); self.get(key.into())?; }
            b'o' => self.obj()?,
            b'q' => { let key = self.byte()?; self.put(key.into())?; }
            b'r' => { let key = u32::from_le_bytes(self.array()?); self.put(key.into())?; }
            b'u' => { let items = self.pop_to_mark()?; let pairs = self.pairs(&items)?; self.set(pairs)?; }
            // Protocol 2.
            0x80 => self.proto()?,
            0x81 => { let args = self.pop()?; let class = self.pop()?; self.object(class, args, None)?; }
            0x82 => { let code = self.byte()?; self.extension(code.into())?; }
            0x83 => { let code = u16::from_le_bytes(self.array()?); self.extension(code.into())?; }
            0x84 => { let code = u32::from_le_bytes(self.array()?); self.extension(code)?; }
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            0x88 => self.stack.push(TRUE),
            0x89 => self.stack.push(FALSE),
            0x8a => { let n = self.byte()?; self.long(n.into())?; }
            0x8b => { let n = i32::from_le_bytes(self.array()?); let n = size(n.into())?; self.long(n)?; }
            // Protocol 3.
            b'B' => { let n = u32::from_le_bytes(self.array()?); self.bytes(n.into())?; }
            b'C' => { let n = self.byte()?; self.bytes(n.into())?; }
            // Protocol 4.
            0x8c => { let n = self.byte()?; self.string(n.into())?; }
            0x8d => { let n = u64::from_le_bytes(self.array()?); self.string(n)?; }
            0x8e | 0x96 => { let n = u64::from_le_bytes(self.array()?); self.bytes(n)?; }
            0x8f => self.push(Node::Set(Vec::new()))?,
            0x90 => { let items = self.pop_to_mark()?; self.extend(&items)?; }
            0x91 => { let items = self.pop_to_mark()?; self.push(Node::Set(items))?; }
            0x92 => {
                let kwargs = self.pop()?; let args = self.pop()?; let class = self.pop()?;
                self.object(class, args, Some(kwargs))?;
            }
            0x93 => self.stack_global()?,
            0x94 => { let key = self.memo.len() as u64; self.put(key)?; }
            0x95 => self.frame()?,
            // Protocol 5 (0x96, BYTEARRAY8, is above).
            0x97 => self.push(Node::Buffer)?,
            0x98 => { self.top()?; }
            other => return Err(Error::damaged(format!("unknown pickle opcode {other:#04x}"))
                .hint("the file is not a pickle, or is damaged here")),
        }
        Ok(())
    }

    fn is_traced(&self) -> bool {
        self.seen.is_some()
    }

    fn note(&mut self, note: impl FnOnce(&mut Seen, u64)) {
        if let Some(seen) = &mut self.seen {
            note(seen, self.opcode_at);
        }
    }

    /// Bytes that there are from here on, given or not.
    fn left(&self) -> u64 {
        self.len - self.at as u64
    }

    /// Makes sure that the next `n` bytes were given.
    fn have(&mut self, n: u64) -> Result<()> {
        if n > (self.input.len() - self.at) as u64 {
            let left = self.left();
            if n <= left {
                self.short = Some(Short(self.at as u64 + n));
            }
            return Err(Error::damaged(format!("a pickle opcode announces {n} bytes and {left} are left")));
        }
        Ok(())
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        self.have(n)?;
        let rest = &self.input[self.at..];
        self.at += n as usize;
        Ok(&rest[..n as usize])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N as u64)?.try_into().expect("take returns as many bytes as asked for"))
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn line(&mut self) -> Result<&'a [u8]> {
        let rest = &self.input[self.at..];
        match rest.iter().position(|&b| b == b'\n') {
            Some(end) => {
                self.at += end + 1;
                Ok(&rest[..end])
            }
            None if (rest.len() as u64) < self.left() => {
                self.have(rest.len() as u64 + 1)?;
                Ok(rest)
            }
            None if self.is_traced() && !rest.is_empty() => {
                self.at = self.input.len();
                Ok(rest)
            }
            None => Err(Error::damaged("a text argument of a pickle opcode has no end of line")),
        }
    }

    fn add(&mut self, node: Node<'a>) -> Result<Id> {
        let id = u32::try_from(self.nodes.len())
            .map_err(|_| Error::unsupported("the pickle has more than 2^32 values"))?;
        self.nodes.push(node);
        Ok(Id(id))
    }

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    /// The lowest stack position that may be popped: what lies under a mark is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err(underflow());
        }
        Ok(self.stack.pop().expect("longer than its floor"))
    }

    fn pop_or_mark(&mut self) -> Result<()> {
        if self.stack.len() == self.floor() && self.marks.pop().is_some() {
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn top(&self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err(underflow());
        }
        Ok(self.stack[self.stack.len() - 1])
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| Error::damaged("a pickle opcode needs a MARK and there is none"))?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, n: usize) -> Result<()> {
        if self.stack.len() < self.floor() + n {
            return Err(underflow());
        }
        let items = self.stack.split_off(self.stack.len() - n);
        self.push(Node::Tuple(items))
    }

    fn get(&mut self, key: u64) -> Result<()> {
        let id = *self
            .memo
            .get(&key)
            .ok_or_else(|| Error::damaged(format!("the pickle's memo has no entry {key}")))?;
        self.stack.push(id);
        Ok(())
    }

    fn put(&mut self, key: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn memo_key_line(&mut self) -> Result<u64> {
        let line = self.line()?;
        parse_ascii(line).ok_or_else(|| Error::damaged("a memo index of the pickle is not a number"))
    }

    fn extend(&mut self, items: &[Id]) -> Result<()> {
        let (target, traced) = (self.top()?, self.is_traced());
        match &mut self.nodes[target.0 as usize] {
            Node::List(list) | Node::Set(list) => list.extend_from_slice(items),
            Node::Object(object) => object.items.extend_from_slice(items),
            // A bytearray takes its bytes so.
            Node::Bytes(_) if traced => {
                let more: Vec<u8> = items
                    .iter()
                    .filter_map(|id| match self.nodes[id.0 as usize] {
                        Node::Int(i) => u8::try_from(i).ok(),
                        _ => None,
                    })
                    .collect();
                if let Node::Bytes(bytes) = &mut self.nodes[target.0 as usize] {
                    bytes.to_mut().extend(more);
                }
            }
            _ if traced => {}
            _ => return Err(Error::damaged("the pickle appends to something that is not a list")),
        }
        Ok(())
    }

    fn set(&mut self, pairs: Vec<(Id, Id)>) -> Result<()> {
        let (target, traced) = (self.top()?, self.is_traced());
        match &mut self.nodes[target.0 as usize] {
            Node::Dict(entries) if entries.is_empty() => *entries = pairs,
            Node::Dict(entries) => entries.extend(pairs),
            Node::Object(object) => object.entries.extend(pairs),
            _ if traced => {}
            _ => return Err(Error::damaged("the pickle sets an item of something that is not a dict")),
        }
        Ok(())
    }

    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let (target, traced) = (self.top()?, self.is_traced());
        self.note(|seen, at| seen.builds.push((at, target)));
        match &mut self.nodes[target.0 as usize] {
            Node::Object(object) => object.state.push(state),
            // A class or function with attributes set on it: the attributes are kept nowhere in Python's value.
            Node::Global(_) | Node::Persistent(_) => {}
            _ if traced => {}
            _ => return Err(Error::damaged("the pickle gives a state to something that has none")),
        }
        if traced {
            self.skip_joblib_array(target)?;
        }
        Ok(())
    }

    fn object(&mut self, callable: Id, args: Id, kwargs: Option<Id>) -> Result<()> {
        let object =
            Object { callable, args, kwargs, state: Vec::new(), items: Vec::new(), entries: Vec::new() };
        let id = self.add(Node::Object(Box::new(object)))?;
        self.note(|seen, at| seen.calls.push((at, id)));
        self.stack.push(id);
        Ok(())
    }

    fn inst(&mut self) -> Result<()> {
        let args = self.pop_to_mark()?;
        let module = lossy(self.line()?);
        let name = lossy(self.line()?);
        let args = self.add(Node::Tuple(args))?;
        self.global(module, name)?;
        let callable = self.pop()?;
        self.object(callable, args, None)
    }

    fn obj(&mut self) -> Result<()> {
        let mut args = self.pop_to_mark()?;
        if args.is_empty() {
            return Err(underflow());
        }
        let callable = args.remove(0);
        let args = self.add(Node::Tuple(args))?;
        self.object(callable, args, None)
    }

    fn global(&mut self, module: Arc<str>, name: Arc<str>) -> Result<()> {
        self.global_bytes_left =
            self.global_bytes_left.checked_sub(module.len() + name.len()).ok_or_else(|| {
                Error::unsupported("the names of its globals repeat beyond what the pickle's size explains")
            })?;
        let global = Global { module, name };
        if self.known_globals.insert(global.clone()) {
            self.globals.push(global.clone());
        }
        let id = self.add(Node::Global(Box::new(global)))?;
        self.note(|seen, at| seen.imports.push((at, id)));
        self.stack.push(id);
        Ok(())
    }

    fn stack_global(&mut self) -> Result<()> {
        let name = self.pop()?;
        let module = self.pop()?;
        match (&self.nodes[module.0 as usize], &self.nodes[name.0 as usize]) {
            (Node::Str(module), Node::Str(name)) => {
                let (module, name) = (module.clone(), name.clone());
                self.global(module, name)
            }
            _ => Err(Error::damaged("STACK_GLOBAL of the pickle is given something that is not a name")),
        }
    }

    fn extension(&mut self, code: u32) -> Result<()> {
        self.global("copyreg".into(), format!("_inverted_registry[{code}]").into())
    }

    fn proto(&mut self) -> Result<()> {
        if self.opcode_at > 0 {
            self.note(|seen, at| seen.stray_protos.push(at));
        }
        match self.byte()? {
            0..=5 => Ok(()),
            // Readers differ in whether they look at it.
            other if self.is_traced() => {
                self.note(|seen, at| seen.odd_protos.push((at, other)));
                Ok(())
            }
            other => Err(Error::unsupported(format!("pickle protocol {other}; 0 to 5 are known"))),
        }
    }

    fn pairs(&self, items: &[Id]) -> Result<Vec<(Id, Id)>> {
        if !items.len().is_multiple_of(2) && !self.is_traced() {
            return Err(Error::damaged("the pickle sets items with a key that has no value"));
        }
        Ok(items.chunks_exact(2).map(|kv| (kv[0], kv[1])).collect())
    }

    fn frame(&mut self) -> Result<()> {
        let len = u64::from_le_bytes(self.array()?);
        let left = self.left();
        if len > left && !self.is_traced() {
            return Err(Error::damaged(format!("a pickle frame announces {len} bytes and {left} are left")));
        }
        Ok(())
    }

    fn string(&mut self, n: u64) -> Result<()> {
        let bytes = self.take(n)?;
        self.push(Node::Str(lossy(bytes)))
    }

    /// A `str` of Python 2: text in most files, raw bytes in some (numpy arrays).
    fn old_string(&mut self, n: u64) -> Result<()> {
        let bytes = self.take(n)?;
        // Looked at first, so that arrays are not copied to find out that they are no text.
        let copy = std::str::from_utf8(bytes).is_ok().then(|| String::from_utf8(bytes.to_vec()));
        self.push(match copy {
            Some(Ok(s)) => Node::Str(s.into()),
            _ => Node::Bytes(Cow::Borrowed(bytes)),
        })
    }

    fn bytes(&mut self, n: u64) -> Result<()> {
        let bytes = self.take(n)?;
        self.push(Node::Bytes(Cow::Borrowed(bytes)))
    }

    fn long(&mut self, n: u64) -> Result<()> {
        let bytes = self.take(n)?;
        self.push(long_node(Cow::Borrowed(bytes)))
    }

    fn int_line(&mut self) -> Result<()> {
        match self.line()? {
            b"00" => self.stack.push(FALSE),
            b"01" => self.stack.push(TRUE),
            line => return self.decimal_int(line),
        }
        Ok(())
    }

    fn long_line(&mut self) -> Result<()> {
        let line = self.line()?;
        self.decimal_int(line.strip_suffix(b"L").unwrap_or(line))
    }

    fn decimal_int(&mut self, digits: &'a [u8]) -> Result<()> {
        let node = if let Some(small) = parse_ascii(digits) {
            Node::Int(small)
        } else {
            match big_decimal(digits) {
                Ok(bytes) => long_node(Cow::Owned(bytes)),
                Err(_) if self.is_traced() => Node::Int(0),
                Err(error) => return Err(error),
            }
        };
        self.push(node)
    }

    fn decimal_float(&mut self) -> Result<f64> {
        let line = self.line()?;
        let number = parse_ascii(line).or(self.is_traced().then_some(0.0));
        number.ok_or_else(|| Error::damaged("a FLOAT of the pickle is not a number"))
    }
}

fn underflow() -> Error {
    Error::damaged("a pickle opcode needs a value and the stack is empty")
}

fn size(n: i64) -> Result<u64> {
    u64::try_from(n).map_err(|_| Error::damaged(format!("a pickle opcode announces {n} bytes")))
}

fn parse_ascii<T: std::str::FromStr>(line: &[u8]) -> Option<T> {
    String::from_utf8(line.to_vec()).ok()?.trim().parse().ok()
}

/// Text as Python wrote it; lone surrogates, which UTF-8 has no place for, become replacement characters.
fn lossy(bytes: &[u8]) -> Arc<str> {
    text_of(bytes).into()
}

fn long_node(bytes: Cow<'_, [u8]>) -> Node<'_> {
    if bytes.len() <= 8 {
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut word = [fill; 8];
        word[..bytes.len()].copy_from_slice(&bytes);
        Node::Int(i64::from_le_bytes(word))
    } else {
        Node::BigInt(bytes)
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

    /// Of the first bytes of a pickle the machine says what it says of all, or that it is short of some that are there.
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
            let told = |pickle: &Pickle<'_>| format!("{:?} {:?} {}", pickle.nodes, pickle.root, pickle.len);
            let parsed = |given: &[u8]| {
                let outcome = Pickle::parse_part(given, bytes.len() as u64)?;
                Ok::<_, Short>(outcome.map_or_else(|error| error.to_string(), |pickle| told(&pickle)))
            };
            let traced = |given: &[u8]| {
                let trace = Trace::of_part(given, bytes.len() as u64, 0)?;
                Ok::<_, Short>(format!("{} {:?} {:?}", told(&trace.pickle), trace.seen, trace.error))
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
