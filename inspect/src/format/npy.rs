//! NumPy's arrays (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>): `.npy`, one array, and
//! its header, which `.npz` uses too.
//!
//! ```text
//! "\x93NUMPY", u8 major version, u8 minor version, u16 (version 1) or u32 header length
//! a Python dict: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }, spaces, a line feed
//! the elements
//! ```

use std::ops::Range;
use std::sync::Arc;

use crate::bytes::{Source, slice, text};
use crate::format::{Container, Contents, Family, Format};
use crate::storage::{Place, Segment, Storage};
use crate::tensor::{TensorInfo, fortran_strides};
use crate::torch::{code_of, numpy_code};
use crate::{DType, Damage, DamageKind, Error, Result};

/// The first bytes.
pub const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Bytes that say how long the header is.
pub(crate) const FIXED: u64 = 12;
/// A header of structured elements may be long; NumPy itself refuses to evaluate more than 10 000 characters.
pub const MAX_HEADER: u64 = 1 << 16;

pub(crate) const CONTAINER: Container =
    Container { family: Family::Npy, extensions: &[], recognises, recognises_later: None, read };

/// The kinds of elements in an array.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ElementKind {
    /// Numbers.
    Plain {
        /// Their type.
        dtype: DType,
        /// Whether their bytes are in big-endian order.
        big_endian: bool,
    },
    /// Python objects, which are a pickle.
    Objects,
    /// Records of several fields.
    Structured {
        /// Whether fields may be Python objects.
        objects: bool,
    },
    /// Any other type, by NumPy's code: strings, dates, types of other packages.
    Other(String),
}

/// Everything before an array's elements.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// What the elements are.
    pub elements: ElementKind,
    /// Whether the first index is the fastest.
    pub fortran: bool,
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// The first byte of the elements.
    pub start: u64,
}

/// Whether `code` is an array-protocol string of a type without objects: `<U5`, `|V16`, `<M8[ns]`
/// (<https://numpy.org/doc/stable/reference/arrays.interface.html>).
fn is_plain(code: &str) -> bool {
    let code = code.trim_start_matches(['<', '>', '|', '=']);
    let Some(rest) = code.strip_prefix(|c| "biufcmMSUVta".contains(c)) else { return false };
    let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    unit.is_empty() && !rest.is_empty() || unit.starts_with('[') && unit.ends_with(']')
}

impl Header {
    /// Whether its elements may be a pickle. Python also reads escapes in a type's code.
    pub fn may_hold_objects(&self) -> bool {
        match &self.elements {
            ElementKind::Plain { .. } => false,
            ElementKind::Objects => true,
            ElementKind::Structured { objects } => *objects,
            // NumPy knows many names, such as `object`.
            ElementKind::Other(code) => !is_plain(code),
        }
    }

    /// Where its elements end, if they are numbers and their size does not overflow.
    pub fn end(&self) -> Option<u64> {
        let ElementKind::Plain { dtype, .. } = &self.elements else { return None };
        let count = self.shape.iter().try_fold(1u64, |count, &size| count.checked_mul(size as u64))?;
        count.checked_mul(dtype.element_size()? as u64)?.checked_add(self.start)
    }

    /// Parses the header at the start of `bytes`, of which [`MAX_HEADER`] and 12 more are enough.
    ///
    /// # Errors
    /// `Unrecognised` without the magic, `Unsupported` for another version, `Damaged` when it is cut short or says no
    /// type, order or shape.
    pub fn parse(bytes: &[u8]) -> Result<Header> {
        let (header, start) = written(bytes)?;
        let after = start - header.len() as u64;
        if header.len() as u64 > MAX_HEADER {
            return Err(Error::damaged(format!("a header of {} bytes for one array", header.len())).at(8));
        }
        let header = text(header);
        let mut literal = Literal { rest: &header, depth: 0 };
        let bad = |what: &str| Error::damaged(format!("the array's header {what}")).at(after);
        let Some(Python::Dict(entries)) = literal.value() else { return Err(bad("is not a Python dict")) };
        // If a key occurs twice, Python takes the last one.
        let field = |name: &str| entries.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value);
        let elements = match field("descr") {
            Some(Python::Text(code)) => ElementKind::of(code),
            Some(fields @ Python::List(_)) => ElementKind::Structured { objects: fields.may_be_objects() },
            _ => return Err(bad("names no type")),
        };
        let fortran = match field("fortran_order") {
            Some(Python::Bool(fortran)) => *fortran,
            _ => return Err(bad("names no memory order")),
        };
        let shape = match field("shape") {
            Some(Python::List(sizes)) => sizes.iter().map(|size| match size {
                Python::Int(n) => usize::try_from(*n).ok(),
                _ => None,
            }),
            _ => return Err(bad("names no shape")),
        };
        let shape: Vec<usize> =
            shape.collect::<Option<_>>().ok_or_else(|| bad("has a shape that is not a tuple of sizes"))?;
        Ok(Header { elements, fortran, shape, start })
    }

    /// The tensor `name` on `storage`, which begins with this header.
    ///
    /// # Errors
    /// `Unsupported` for elements that are no numbers.
    pub(crate) fn tensor(&self, name: String, storage: Storage) -> Result<TensorInfo> {
        let (dtype, _) = self.numbers()?;
        let mut tensor = TensorInfo::contiguous(name, dtype, self.shape.clone(), Some(storage), self.start);
        if self.fortran {
            tensor.strides = fortran_strides(&self.shape);
        }
        Ok(tensor)
    }

    /// The type of its elements, and whether they are big-endian.
    ///
    /// # Errors
    /// `Unsupported`, with the reason, for elements that are no numbers.
    pub fn numbers(&self) -> Result<(DType, bool)> {
        Err(Error::unsupported(match &self.elements {
            ElementKind::Plain { dtype, big_endian } => return Ok((*dtype, *big_endian)),
            ElementKind::Objects => {
                "contains Python objects, or texts of any length (NumPy's StringDType), which are pickled"
                    .to_string()
            }
            ElementKind::Other(code) if code.trim_start_matches(['<', '>', '=', '|']) == "T" => {
                "contains texts of any length (NumPy's StringDType), which are pickled".to_string()
            }
            ElementKind::Structured { .. } => "contains records of several fields".to_string(),
            ElementKind::Other(code) => {
                format!("contains elements of the NumPy type `{}`", code.escape_debug())
            }
        })
        .hint("save arrays of numbers"))
    }
}

impl ElementKind {
    /// The elements of NumPy's type `code`, such as `<f4`.
    fn of(code: &str) -> ElementKind {
        let plain = code.trim_start_matches(['<', '>', '=', '|']);
        match numpy_code(plain) {
            Some(dtype) => ElementKind::Plain { dtype, big_endian: code.starts_with('>') },
            None if plain.starts_with('O') => ElementKind::Objects,
            None => ElementKind::Other(code.to_string()),
        }
    }
}

/// The text of the header at the start of `bytes`, and where the elements begin.
///
/// # Errors
/// Those of [`Header::parse`], the text's own aside.
fn written(bytes: &[u8]) -> Result<(&[u8], u64)> {
    let place = place(bytes)?;
    let header = slice(bytes, place.start, place.end - place.start).ok_or_else(cut_header)?;
    Ok((header, place.end))
}

pub(crate) fn cut_header() -> Error {
    Error::damaged("the header of the array is cut short").because(DamageKind::CutShort).at(6)
}

/// Where the header's text is, by the first [`FIXED`] `bytes`. The elements follow it.
///
/// # Errors
/// Those of [`Header::parse`], the text's own aside.
pub(crate) fn place(bytes: &[u8]) -> Result<Range<u64>> {
    let fixed = bytes
        .strip_prefix(MAGIC)
        .ok_or_else(|| Error::new(crate::ErrorKind::Unrecognised, "does not begin like a NumPy array"))?;
    let cut = cut_header;
    let after = |width: usize| {
        let start = MAGIC.len() as u64 + 2 + width as u64;
        let len = crate::zip::word(fixed, 2, width).ok_or_else(cut)?;
        Ok::<_, Error>(start..start + len)
    };
    match fixed.first().ok_or_else(cut)? {
        1 => after(2),
        2 | 3 => after(4),
        other => Err(Error::unsupported(format!("an array in version {other} of the .npy format"))),
    }
}

/// Whether NumPy has elements of this type.
pub fn has_dtype(dtype: DType) -> bool {
    code_of(dtype).is_some()
}

/// Everything before the elements of an array, little-endian and row-major: the bytes that `numpy.save` writes, in
/// version 2 if the header is too long for version 1. `None` for a type that NumPy does not have.
pub fn header(dtype: DType, shape: &[usize]) -> Option<Vec<u8>> {
    /// Elements begin at a multiple of this.
    const ALIGNMENT: usize = 64;
    /// Digits that NumPy reserves so that the first size can grow.
    const GROWTH: usize = 21;
    let code = code_of(dtype)?;
    let order = if dtype.word_size() == 1 { '|' } else { '<' };
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    let comma = if shape.len() == 1 { "," } else { "" };
    let mut text = format!(
        "{{'descr': '{order}{code}', 'fortran_order': False, 'shape': ({}{comma}), }}",
        sizes.join(", ")
    );
    text.extend(std::iter::repeat_n(' ', sizes.first().map_or(0, |size| GROWTH - size.len())));
    let padded = |fixed: usize| {
        let len = fixed + text.len() + 1;
        text.len() + ALIGNMENT - len % ALIGNMENT + 1
    };
    let (narrow, wide) = (padded(MAGIC.len() + 4), padded(MAGIC.len() + 6));
    let mut out = MAGIC.to_vec();
    let len = match u16::try_from(narrow) {
        Ok(len) => {
            out.extend([1, 0]);
            out.extend(len.to_le_bytes());
            narrow
        }
        Err(_) => {
            out.extend([2, 0]);
            out.extend(u32::try_from(wide).ok()?.to_le_bytes());
            wide
        }
    };
    out.extend(text.as_bytes());
    out.resize(out.len() + len - text.len() - 1, b' ');
    out.push(b'\n');
    Some(out)
}

fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

fn read(source: &Arc<Source>) -> Result<Contents> {
    let header = Header::parse(&source.data().window(0, MAX_HEADER + FIXED)?)?;
    let (_, big_endian) = header.numbers()?;
    let segment = Segment { source: source.clone(), offset: 0, len: source.len() };
    let swap = if big_endian { 2 } else { 1 };
    let storage = Storage::new(Place::Segments(segment.into()), source.len(), None, swap);
    let name = source.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut contents = Contents::new(Format::Npy);
    let tensor = header.tensor(name, storage)?;
    if let Err(error) = tensor.check_bounds(source.len()) {
        let kind = error.fault.unwrap_or_default();
        contents.faults.push(Damage::new(kind, format!("its array {}", error.what)));
    }
    contents.tensors.push(tensor);
    Ok(contents)
}

/// A Python literal, of the kinds that occur in headers. Tuples are lists.
#[derive(Debug)]
enum Python {
    Text(String),
    Int(u64),
    Bool(bool),
    List(Vec<Python>),
    Dict(Vec<(String, Python)>),
}

impl Python {
    /// Whether any type code in it, a type, may be that of objects, or of texts of any length, which are pickled as well.
    fn may_be_objects(&self) -> bool {
        match self {
            Python::Text(text) => text.contains(['O', 'T', '\\']),
            Python::List(items) => items.iter().any(|item| match item {
                // A field's name says nothing of its type.
                Python::List(field) if matches!(&field[..], [Python::Text(_), kind, ..] if kind.holds_text()) => {
                    field[1..].iter().any(Python::may_be_objects)
                }
                other => other.may_be_objects(),
            }),
            Python::Dict(entries) => entries.iter().any(|(_, value)| value.may_be_objects()),
            Python::Int(_) | Python::Bool(_) => false,
        }
    }

    /// Whether there is text in it, as in every type, and in no shape.
    fn holds_text(&self) -> bool {
        match self {
            Python::Text(_) => true,
            Python::List(items) => items.iter().any(Python::holds_text),
            Python::Dict(entries) => entries.iter().any(|(_, value)| value.holds_text()),
            Python::Int(_) | Python::Bool(_) => false,
        }
    }
}

/// Reads literals, one after another.
struct Literal<'t> {
    rest: &'t str,
    depth: usize,
}

impl Literal<'_> {
    /// Whether `token` is next, and skips it.
    fn takes(&mut self, token: char) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self) -> Option<Python> {
        const DEEPEST: usize = 16;
        self.depth += 1;
        let value = if self.depth > DEEPEST { None } else { self.inner() };
        self.depth -= 1;
        value
    }

    fn inner(&mut self) -> Option<Python> {
        if self.takes('{') {
            let mut entries = Vec::new();
            while !self.takes('}') {
                let Python::Text(key) = self.value()? else { return None };
                if !self.takes(':') {
                    return None;
                }
                entries.push((key, self.value()?));
                if !self.takes(',') && !self.rest.starts_with('}') {
                    return None;
                }
            }
            return Some(Python::Dict(entries));
        }
        for (open, close) in [('(', ')'), ('[', ']')] {
            if self.takes(open) {
                let mut items = Vec::new();
                while !self.takes(close) {
                    items.push(self.value()?);
                    if !self.takes(',') && !self.rest.starts_with(close) {
                        return None;
                    }
                }
                return Some(Python::List(items));
            }
        }
        for quote in ['\'', '"'] {
            if self.takes(quote) {
                let (text, rest) = self.rest.split_once(quote)?;
                self.rest = rest;
                return Some(Python::Text(text.to_string()));
            }
        }
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Some(Python::Bool(value));
            }
        }
        let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = self.rest[..digits].parse().ok()?;
        // Python 2 writes 3L.
        self.rest = &self.rest[digits..];
        self.rest = self.rest.strip_prefix('L').unwrap_or(self.rest);
        Some(Python::Int(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(dict: &str) -> Result<Header> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((dict.len() as u16).to_le_bytes());
        bytes.extend(dict.as_bytes());
        Header::parse(&bytes)
    }

    #[test]
    fn headers_that_programs_write() {
        let plain = header("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }     \n").unwrap();
        let elements = ElementKind::Plain { dtype: DType::F32, big_endian: false };
        assert_eq!((plain.elements, plain.fortran, plain.shape), (elements, false, vec![3, 4]));
        let old = header("{'shape': (3L,), 'fortran_order': True, 'descr': \">i2\"}").unwrap();
        let elements = ElementKind::Plain { dtype: DType::I16, big_endian: true };
        assert_eq!((old.elements, old.fortran, old.shape), (elements, true, vec![3]));
        let objects = header("{'descr': '|O', 'fortran_order': False, 'shape': ()}").unwrap();
        assert_eq!((objects.elements, objects.shape), (ElementKind::Objects, vec![]));
        let records = "{'descr': [('a', '<f4'), ('b', '<i8', (2,))], 'fortran_order': False, 'shape': (1,)}";
        assert_eq!(header(records).unwrap().elements, ElementKind::Structured { objects: false });
    }

    #[test]
    fn headers_that_contradict_themselves_are_errors() {
        for dict in [
            "",
            "{",
            "{'descr': '<f4'}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': ('3',)}",
            "{'descr': '<f4' 'fortran_order': False, 'shape': (3,)}",
            &"(".repeat(60_000),
        ] {
            assert_eq!(header(dict).unwrap_err().kind, crate::ErrorKind::Damaged, "{dict:.60}");
        }
        for cut in 0..10 {
            assert!(Header::parse(&b"\x93NUMPY\x01\0\x40\0"[..cut]).is_err());
        }
    }
}
