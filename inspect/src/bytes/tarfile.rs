//! Tar archives as Python's `tarfile` walks them (`Lib/tarfile.py` of CPython 3.8 to 3.14): what PyTorch's oldest format, and
//! most programs that unpack models, find in one.

use std::sync::Arc;

use super::ByteSource;
use crate::Result;

const BLOCK: u64 = 512;

/// How the records of extended headers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Records {
    /// Before CPython 3.12.6 and 3.13: up to the first that does not look like one.
    Loose,
    /// Since: whole, or the archive is refused.
    Whole,
}

/// A member of the archive.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// Without slashes at its end.
    pub name: Arc<[u8]>,
    /// Its name to other readers, where Python takes a time of GNU's incremental archives for a part of it.
    pub undated: Option<Arc<[u8]>>,
    pub kind: u8,
    /// Where its first header is.
    pub header: u64,
    /// Where its content begins,
    pub at: u64,
    /// and how many bytes it is said to have.
    pub len: u64,
}

impl Member {
    /// Whether it is read as a file: links, folders, pipes and devices have no content.
    pub fn has_content(&self) -> bool {
        has_content(self.kind)
    }
}

/// What a walk finds.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub members: Vec<Member>,
    /// The first header that readers read differently: with a size that is no plain number, or of a file with holes.
    pub odd: Option<u64>,
    /// Where the walk ended: at a header that is none, or at the end of the bytes.
    pub end: u64,
}

/// Where the first block at or after `from`, in steps of a block, is that is the header of a member.
pub(crate) fn next_header(data: &dyn ByteSource, from: u64) -> Result<Option<u64>> {
    let mut at = from;
    while at < data.len() {
        if Header::read(&data.window(at, BLOCK)?).is_some() {
            return Ok(Some(at));
        }
        at += BLOCK;
    }
    Ok(None)
}

/// Where the block begins, in steps of one from `from` on, that has the first byte which is not zero.
pub(crate) fn next_bytes(data: &dyn ByteSource, from: u64) -> Result<Option<u64>> {
    let (mut at, mut found) = (from, None);
    data.walk(from, |piece| {
        found = piece.iter().position(|byte| *byte != 0).map(|first| at + first as u64);
        at += piece.len() as u64;
        found.is_none()
    })?;
    Ok(found.map(|found| found - (found - from) % BLOCK))
}

fn has_content(kind: u8) -> bool {
    !matches!(kind, b'1'..=b'6')
}

/// Walks `data`, whose extended headers have such `records`.
pub(crate) fn walk(data: &dyn ByteSource, records: Records) -> Result<Walked> {
    let mut walk = Walk { data, records, global: Fields::default(), odd: None };
    let (mut members, mut at) = (Vec::new(), 0);
    while let Some((member, next)) = walk.member(at)? {
        members.push(member);
        at = next;
    }
    Ok(Walked { members, odd: walk.odd, end: at.min(data.len()) })
}

struct Walk<'d> {
    data: &'d dyn ByteSource,
    records: Records,
    /// What global headers say, which holds for every member after them.
    global: Fields,
    odd: Option<u64>,
}

/// What an extended header says of members, in the order in which it was first said.
#[derive(Clone, Debug, Default)]
struct Fields(Vec<(Field, Arc<[u8]>)>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    Path,
    Size,
    /// Of files with holes, which have a name and a size of their own.
    HoledName,
    HoledSize,
    Holes,
}

impl Field {
    fn named(key: &[u8]) -> Option<Field> {
        Some(match key {
            b"path" => Field::Path,
            b"size" => Field::Size,
            b"GNU.sparse.name" => Field::HoledName,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => Field::HoledSize,
            _ if key.starts_with(b"GNU.sparse.") => Field::Holes,
            _ => return None,
        })
    }
}

/// A header before the one of the member that it describes.
enum Before {
    /// Its name, at this place.
    Name(u64, u64),
    Fields(Fields),
}

impl Walk<'_> {
    /// The member whose first header is at `at`, and where the next one's is; `None` where the walk ends.
    fn member(&mut self, at: u64) -> Result<Option<(Member, u64)>> {
        let mut before = Vec::new();
        let mut pos = at;
        loop {
            let block = self.data.window(pos, BLOCK)?;
            let Some(mut header) = Header::read(&block) else { return Ok(None) };
            pos += BLOCK;
            // A negative size leads back.
            let Ok(size) = u64::try_from(header.size) else {
                self.odd.get_or_insert(at);
                return Ok(None);
            };
            let padded = size.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
            match header.kind {
                b'L' | b'K' => {
                    if header.kind == b'L' {
                        before.push(Before::Name(pos, padded));
                    }
                    pos = pos.saturating_add(padded).min(self.data.len());
                }
                b'x' | b'X' | b'g' => {
                    let mut fields = self.global.clone();
                    let whole = self.fields(pos, padded, &mut fields)?;
                    match header.kind {
                        b'g' => self.global = fields,
                        _ => before.push(Before::Fields(fields)),
                    }
                    if !whole {
                        return Ok(None);
                    }
                    pos = pos.saturating_add(padded).min(self.data.len());
                }
                b'S' => {
                    while header.continues {
                        header.continues = self.data.window(pos, BLOCK)?.get(504).is_some_and(|b| *b != 0);
                        pos += BLOCK;
                    }
                    let member = header.member(at, pos, header.whole_size);
                    return Ok(Some(self.finish(member, pos.saturating_add(padded), &before)?));
                }
                _ => {
                    let next = if has_content(header.kind) { pos.saturating_add(padded) } else { pos };
                    let mut member = header.member(at, pos, size);
                    let global = self.global.clone();
                    self.apply(&global, &mut member);
                    return Ok(Some(self.finish(member, next, &before)?));
                }
            }
        }
    }

    /// `member` as the headers `before` it describe it, and where the next one is: the outermost counts most.
    fn finish(&mut self, mut member: Member, mut next: u64, before: &[Before]) -> Result<(Member, u64)> {
        for before in before.iter().rev() {
            match before {
                Before::Name(at, len) => {
                    let name = self.data.window(*at, *len)?;
                    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
                    member.name = trimmed(&name[..end]).into();
                    member.undated = None;
                }
                Before::Fields(fields) => {
                    self.apply(fields, &mut member);
                    if fields.0.iter().any(|(field, _)| *field == Field::Size) {
                        let len = if member.has_content() { member.len } else { 0 };
                        let padded = len.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
                        next = member.at.saturating_add(padded);
                    }
                }
            }
        }
        Ok((member, next))
    }

    fn apply(&mut self, fields: &Fields, member: &mut Member) {
        for (field, value) in &fields.0 {
            if matches!(field, Field::HoledName | Field::HoledSize | Field::Holes) {
                self.odd.get_or_insert(member.header);
            }
            match field {
                Field::Holes => {}
                Field::Path | Field::HoledName => {
                    member.undated = None;
                    member.name = match value.last() {
                        Some(b'/') => trimmed(value).into(),
                        _ => value.clone(),
                    }
                }
                Field::Size | Field::HoledSize => {
                    if !value.iter().all(u8::is_ascii_digit) {
                        self.odd.get_or_insert(member.header);
                    }
                    let size = number(value, 10).unwrap_or(0);
                    member.len = u64::try_from(size).unwrap_or(if size < 0 { 0 } else { u64::MAX });
                }
            }
        }
    }

    /// Adds to `fields` what the extended header of `len` bytes at `at` says. Returns whether Python goes on after it.
    fn fields(&self, at: u64, len: u64, fields: &mut Fields) -> Result<bool> {
        let records = self.data.window(at, len)?;
        let (mut at, mut equals) = (0, 0);
        loop {
            let Some(rest) = records.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(true) };
            if self.records == Records::Whole && rest[0] == 0 {
                return Ok(true);
            }
            // One that does not look like a record ends the older loop, and is an error to the newer.
            let otherwise = self.records == Records::Loose;
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 || rest.get(digits) != Some(&b' ') {
                return Ok(otherwise);
            }
            let length = number(&rest[..digits], 10).and_then(|length| usize::try_from(length).ok());
            let length = length.unwrap_or(usize::MAX);
            let key = at + digits + 1;
            // The next `=`, which may be that of a record before.
            if equals < key {
                let found = memchr::memchr(b'=', records.get(key..).unwrap_or_default());
                equals = found.map_or(usize::MAX, |found| key + found);
            }
            if equals == usize::MAX || equals == key {
                return Ok(otherwise);
            }
            let end = at.saturating_add(length);
            let sound = match self.records {
                Records::Loose => length > 0,
                Records::Whole => {
                    digits <= 20
                        && length >= 5
                        && end <= records.len()
                        && equals < end - 1
                        && records[end - 1] == b'\n'
                }
            };
            if !sound {
                return Ok(false);
            }
            if let Some(field) = Field::named(&records[key..equals]) {
                let last = (end - 1).min(records.len());
                let value = records.get(equals + 1..last).unwrap_or_default();
                match fields.0.iter_mut().find(|(known, _)| *known == field) {
                    Some((_, known)) => *known = value.into(),
                    None => fields.0.push((field, value.into())),
                }
            }
            at = end;
        }
    }
}

/// A header as it is.
struct Header {
    name: Vec<u8>,
    /// The name alone, where what precedes it is a time.
    undated: Option<Vec<u8>>,
    kind: u8,
    size: i128,
    /// Of a file with holes: whether more headers follow, and its size with them.
    continues: bool,
    whole_size: u64,
}

impl Header {
    /// That in `block`; `None` if it is none.
    fn read(block: &[u8]) -> Option<Header> {
        if block.len() < BLOCK as usize || block.iter().all(|byte| *byte == 0) {
            return None;
        }
        let rest = || block[..148].iter().chain(&block[156..]);
        let sum = 256 + rest().map(|byte| i128::from(*byte)).sum::<i128>();
        let signed = 256 + rest().map(|byte| i128::from(*byte as i8)).sum::<i128>();
        let recorded = field(&block[148..156])?;
        if recorded != sum && recorded != signed {
            return None;
        }
        for numbers in [100..108, 108..116, 116..124, 136..148, 329..337, 337..345] {
            field(&block[numbers])?;
        }
        let mut header = Header {
            name: until_zero(&block[..100]).to_vec(),
            undated: None,
            kind: block[156],
            size: field(&block[124..136])?,
            continues: false,
            whole_size: 0,
        };
        if header.kind == 0 && header.name.ends_with(b"/") {
            header.kind = b'5';
        }
        if header.kind == b'S' {
            header.continues = block[482] != 0;
            header.whole_size = u64::try_from(field(&block[483..495])?).unwrap_or(0);
        }
        let prefix = until_zero(&block[345..500]);
        if !prefix.is_empty() && !matches!(header.kind, b'L' | b'K' | b'S') {
            // GNU's own form has the times of access and change where POSIX has the folder.
            let is_time = block[257..265] == *b"ustar  \0" && prefix.len() <= 12;
            let is_time = is_time && prefix.iter().all(|byte| matches!(byte, b'0'..=b'7'));
            header.undated = is_time.then(|| header.name.clone());
            header.name = [prefix, b"/", &header.name].concat();
        }
        Some(header)
    }

    fn member(&self, header: u64, at: u64, len: u64) -> Member {
        let undated = self.undated.as_ref().map(|name| trimmed(name).into());
        Member { name: trimmed(&self.name).into(), undated, kind: self.kind, header, at, len }
    }
}

/// `name` without slashes at its end.
pub(crate) fn trimmed(name: &[u8]) -> &[u8] {
    let end = name.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    &name[..end]
}

fn until_zero(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number of a header, in octal or, after a byte that says so, as it is (`nti` in `tarfile`).
fn field(bytes: &[u8]) -> Option<i128> {
    match bytes {
        [0x80, rest @ ..] => Some(rest.iter().fold(0, |n: i128, byte| n << 8 | i128::from(*byte))),
        [0xff, rest @ ..] => {
            let n = rest.iter().fold(0, |n: i128, byte| n << 8 | i128::from(*byte));
            Some(n - (1 << (8 * rest.len())))
        }
        _ => {
            let text = until_zero(bytes);
            match stripped(text) {
                [] if text.is_ascii() => Some(0),
                digits => number(digits, 8),
            }
        }
    }
}

fn stripped(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b'\t'..=b'\r' | 0x1c..=0x1f | b' ');
    let start = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

/// Python's `int(text, base)`, saturating; `None` where that is an error, or where `text` has other digits than those of ASCII.
fn number(text: &[u8], base: u8) -> Option<i128> {
    let text = stripped(text);
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let digits = match digits {
        [b'0', b'o' | b'O', rest @ ..] if base == 8 => rest.strip_prefix(b"_").unwrap_or(rest),
        _ => digits,
    };
    let mut n: i128 = 0;
    for part in digits.split(|byte| *byte == b'_') {
        if part.is_empty() {
            return None;
        }
        for digit in part {
            let digit = char::from(*digit).to_digit(base.into())?;
            n = n.saturating_mul(base.into()).saturating_add(digit.into());
        }
    }
    Some(if negative { -n } else { n })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_python() {
        for (text, base, expected) in [
            ("512", 10, Some(512)),
            (" 5_12\t", 10, Some(512)),
            ("+0512", 10, Some(512)),
            ("-1", 10, Some(-1)),
            ("0o17", 8, Some(15)),
            ("0O_17", 8, Some(15)),
            ("0o17", 10, None),
            ("5__1", 10, None),
            ("_5", 10, None),
            ("5_", 10, None),
            ("", 10, None),
            ("8", 8, None),
        ] {
            assert_eq!(number(text.as_bytes(), base), expected, "{text}");
        }
        assert_eq!(field(b"\x80\0\0\0\0\0\0\0\0\0\x02\0"), Some(512));
        assert_eq!(field(&[0xff; 12]), Some(-1));
        assert_eq!(field(b"   \0junk"), Some(0));
        assert_eq!(field(b"\xe9\0"), None);
    }
}
