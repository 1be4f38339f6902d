//! The machine that a pickle is a program for: its stack, its memo and its opcodes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::memo::Memo;
use super::text::{integer, lossy, unescape_string, unescape_unicode};
use super::trace::{Kept, Stored};
use super::{Global, Id, Node, Object, Pickle, Seen};
use crate::bytes::Short;
use crate::{Error, Result};

pub(super) const NONE: Id = Id(0);
pub(super) const FALSE: Id = Id(1);
pub(super) const TRUE: Id = Id(2);
const EMPTY_TUPLE: Id = Id(3);

/// Memory that the graph of a pickle of any size may take,
const FREE_MEMORY: u64 = 32 << 20;
/// and beyond that for each byte of the pickle. A list of distinct integers takes 8, one of floats 5.
const MEMORY_PER_BYTE: u64 = 8;
/// What an allocation takes besides its contents, and a note about an opcode, with the room that a vector has for more.
const ALLOCATION: u64 = 24;
const NOTE: u64 = 32;

/// The machine while it reads.
pub(super) struct Machine<'a> {
    pub(super) input: &'a [u8],
    pub(super) at: usize,
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) stack: Vec<Id>,
    pub(super) marks: Vec<usize>,
    pub(super) memo: Memo,
    /// The nodes of integers of up to 16 bits, by value, as far as there are any; 0 for the others.
    small: Vec<u32>,
    /// Numbers, counted down from the largest, of memo indices of 2^63 and more.
    pub(super) far: HashMap<Vec<u8>, u64>,
    pub(super) globals: Vec<Global>,
    pub(super) known_globals: HashSet<Global>,
    /// Bytes that names of globals may still take: one memoized string may be part of many.
    pub(super) global_bytes_left: usize,
    /// Bytes of memory that the graph may still take.
    pub(super) memory_left: u64,
    /// Values that other pickles stored.
    inherited: Range<u32>,
    /// Where the current frame ends.
    pub(super) frame_end: Option<u64>,
    /// Offset of the current opcode.
    pub(super) opcode_at: u64,
    /// Set when tracing: what the pickle does is recorded, and reading continues wherever Python's would.
    pub(super) seen: Option<Seen>,
    /// Length of the whole, of which `input` may be only the first bytes.
    pub(super) len: u64,
    /// Set when reading stopped because more bytes are needed than were given.
    pub(super) short: Option<Short>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(input: &'a [u8], len: u64) -> Self {
        let nodes = vec![Node::None, Node::Bool(false), Node::Bool(true), Node::Tuple(Vec::new())];
        Machine {
            input,
            at: 0,
            nodes,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Memo::default(),
            small: Vec::new(),
            far: HashMap::new(),
            globals: Vec::new(),
            known_globals: HashSet::new(),
            global_bytes_left: usize::try_from(len)
                .unwrap_or(usize::MAX)
                .saturating_mul(16)
                .saturating_add(1 << 20),
            memory_left: len.saturating_mul(MEMORY_PER_BYTE).saturating_add(FREE_MEMORY),
            inherited: 0..0,
            frame_end: None,
            opcode_at: 0,
            seen: None,
            len,
            short: None,
        }
    }

    /// Begins with what other pickles stored, of which texts are known.
    pub(super) fn inherit(&mut self, memo: &[Stored]) {
        self.inherited = self.nodes.len() as u32..(self.nodes.len() + memo.len()) as u32;
        for (key, kept) in memo {
            let id = Id::at(self.nodes.len());
            self.nodes.push(match kept {
                Kept::Text(text) => Node::Str(text.clone()),
                Kept::Global(global) => Node::Global(Box::new(global.clone())),
                Kept::Other => Node::Buffer,
            });
            self.memo.put(*key, id);
        }
    }

    /// Follows the opcodes up to STOP, and returns what is on the stack then.
    pub(super) fn run(&mut self) -> Result<Id> {
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
    pub(super) fn end(self, root: Id) -> Pickle<'a> {
        Pickle { input: self.input, nodes: self.nodes, root, globals: self.globals, len: self.at }
    }

    #[rustfmt::skip]
    fn step(&mut self, opcode: u8) -> Result<()> {
        self.opcode_at = self.at as u64 - 1;
        match opcode {
            // Protocol 0: arguments are lines of text.
            b'(' => { self.charge(8)?; self.marks.push(self.stack.len()); }
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
            b'c' => { let module = self.name()?; let name = self.name()?; self.global(module, name)?; }
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
            b'J' => { let v = i32::from_le_bytes(self.array()?); self.int(v.into())?; }
            b'K' => { let v = self.byte()?; self.int(v.into())?; }
            b'M' => { let v = u16::from_le_bytes(self.array()?); self.int(v.into())?; }
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
            0x94 => { let key = self.memo.len(); self.put(key)?; }
            0x95 => self.frame()?,
            // Protocol 5 (0x96, BYTEARRAY8, is above).
            0x97 => self.push(Node::Buffer)?,
            0x98 => { self.top()?; }
            other => return Err(Error::damaged(format!("unknown pickle opcode {other:#04x}"))
                .hint("the file is not a pickle, or is damaged at this point")),
        }
        Ok(())
    }

    pub(super) fn is_traced(&self) -> bool {
        self.seen.is_some()
    }

    pub(super) fn note(&mut self, note: impl FnOnce(&mut Seen, u64)) {
        if let Some(seen) = &mut self.seen {
            note(seen, self.opcode_at);
            self.memory_left = self.memory_left.saturating_sub(NOTE);
        }
    }

    /// Counts `bytes` more of memory.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<()> {
        match self.memory_left.checked_sub(bytes) {
            Some(left) => self.memory_left = left,
            None => {
                return Err(Error::unsupported(
                    "the pickle describes far more values than one of this size would",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn add(&mut self, node: Node<'a>) -> Result<Id> {
        let id = u32::try_from(self.nodes.len())
            .map_err(|_| Error::unsupported("the pickle has more than 2^32 values"))?;
        let beside = match &node {
            Node::Str(text) => 2 * ALLOCATION + text.len() as u64,
            Node::Bytes(Cow::Owned(bytes)) | Node::BigInt(Cow::Owned(bytes)) => {
                ALLOCATION + bytes.len() as u64
            }
            Node::Tuple(items) | Node::List(items) | Node::Set(items) if !items.is_empty() => {
                ALLOCATION + elements::<Id>(items.len())
            }
            Node::Dict(entries) if !entries.is_empty() => ALLOCATION + elements::<(Id, Id)>(entries.len()),
            Node::Global(_) => ALLOCATION + size_of::<Global>() as u64,
            Node::Object(_) => ALLOCATION + size_of::<Object>() as u64,
            _ => 0,
        };
        // Its place on the stack counts, too.
        self.charge(size_of::<Node>() as u64 + 4 + beside)?;
        self.nodes.push(node);
        Ok(Id(id))
    }

    /// Small integers are one node each, however often they occur.
    fn int(&mut self, value: i64) -> Result<()> {
        let Ok(index) = u16::try_from(value).map(usize::from) else { return self.push(Node::Int(value)) };
        if self.small.len() <= index {
            self.small.resize(index + 1, 0);
        }
        if self.small[index] == 0 {
            self.small[index] = self.add(Node::Int(value))?.index();
        }
        self.stack.push(Id(self.small[index]));
        Ok(())
    }

    pub(super) fn push(&mut self, node: Node<'a>) -> Result<()> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    /// The lowest stack position that may be popped: what lies under a mark is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn pop(&mut self) -> Result<Id> {
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

    pub(super) fn top(&self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err(underflow());
        }
        Ok(self.stack[self.stack.len() - 1])
    }

    pub(super) fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self
            .marks
            .pop()
            .ok_or_else(|| Error::damaged("a pickle opcode needs a MARK, and there is none"))?;
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
        let id = self
            .memo
            .get(key)
            .ok_or_else(|| Error::damaged(format!("the pickle's memo has no entry {key}")))?;
        if self.inherited.contains(&id.index()) {
            self.note(|seen, at| seen.inherited.push(at));
            match self.nodes[id.0 as usize] {
                Node::Buffer => self.lost(id),
                // What it is used for here is judged here.
                Node::Global(_) => self.note(|seen, at| seen.imports.push((at, id))),
                _ => {}
            }
        }
        self.stack.push(id);
        Ok(())
    }

    fn put(&mut self, key: u64) -> Result<()> {
        let top = self.top()?;
        let taken = self.memo.put(key, top);
        self.charge(taken)
    }

    fn memo_key_line(&mut self) -> Result<u64> {
        let key = integer(self.line()?, false)
            .ok_or_else(|| Error::damaged("a memo index of the pickle is not a number"))?;
        if let Some(near) = key.small().and_then(|key| u64::try_from(key).ok()) {
            return Ok(near);
        }
        let digits =
            key.index().ok_or_else(|| Error::damaged("a memo index of the pickle is a negative number"))?;
        let next = u64::MAX - self.far.len() as u64;
        Ok(*self.far.entry(digits).or_insert(next))
    }

    fn proto(&mut self) -> Result<()> {
        if self.opcode_at > 0 {
            self.note(|seen, at| seen.stray_protos.push(at));
        }
        match self.byte()? {
            0..=5 => Ok(()),
            // Readers differ in whether they check it.
            other if self.is_traced() => {
                self.note(|seen, at| seen.odd_protos.push((at, other)));
                Ok(())
            }
            other => Err(Error::unsupported(format!("pickle protocol {other}; 0 to 5 are known"))),
        }
    }
}

/// Bytes of `count` elements of a vector.
pub(super) fn elements<T>(count: usize) -> u64 {
    (count * size_of::<T>()) as u64
}

pub(super) fn underflow() -> Error {
    Error::damaged("a pickle opcode needs a value and the stack is empty")
}

fn size(n: i64) -> Result<u64> {
    u64::try_from(n).map_err(|_| Error::damaged(format!("a pickle opcode announces {n} bytes")))
}
