//! Values in HDF5 that its readers unpickle: PyTables, and pandas with it, do that with attributes that are texts and with what
//! is in the global heap (HDF5 File Format Specification 3.0, sections IV.A.2.m and III.E).

use super::content::{Place, Scanner};
use crate::Result;
use crate::bytes::{ByteSource, Section};
use crate::format::HEAD;

/// How a collection of the global heap begins.
pub(super) const COLLECTION: &[u8] = b"GCOL\x01";
/// Of the header of a collection, and of each object in it.
const HEADER: u64 = 16;
/// The longest name, and the longest description of a type and of a shape, that is followed.
const LONGEST: usize = 4096;

impl Scanner<'_> {
    /// Scans the objects of the collection at `at`. Their order is that of the file, and their sizes are all that is known.
    pub(super) fn heap_objects(&mut self, data: &dyn ByteSource, at: u64, place: &Place) -> Result<()> {
        let size = number(&data.window(at + 8, 8)?);
        let end = at.saturating_add(size).min(data.len());
        let mut at = at + HEADER;
        while at + HEADER < end && self.may_trace(place) {
            let object = data.window(at, HEADER)?;
            let len = number(&object[8..]);
            if object[..2] == [0, 0] {
                break;
            }
            at += HEADER;
            self.value(data, at, len.min(end - at), place)?;
            at = at.saturating_add(len.checked_next_multiple_of(8).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// Scans the `len` bytes at `at`, which may be a pickle.
    pub(super) fn value(&mut self, data: &dyn ByteSource, at: u64, len: u64, place: &Place) -> Result<()> {
        let mut value = Section::from(data, at);
        value.len = value.len.min(len);
        let head = data.window(at, HEAD.min(len))?;
        self.spend(value.len + 1);
        if let Some(inner) = self.inside(place, &format!("value at {at}"), Some(at)) {
            self.bare(&value, &head, false, &inner)?;
        }
        Ok(())
    }
}

/// Where in `bytes` the value of the attribute begins that they are, and its length; it is told by all that its form demands.
pub(super) fn attribute(bytes: &[u8]) -> Option<(u64, u64)> {
    let &[version @ 1..=3, flags @ 0..=3, a, b, c, d, e, f, ref rest @ ..] = bytes else { return None };
    let sizes = [[a, b], [c, d], [e, f]].map(|size| usize::from(u16::from_le_bytes(size)));
    if sizes[0] < 2 || sizes[1] < 4 || sizes[2] < 4 || sizes.iter().any(|size| *size > LONGEST) {
        return None;
    }
    let (start, rest) = match version {
        3 => (9, rest.get(1..)?),
        _ => (8, rest),
    };
    let padded = sizes.map(|size| if version == 1 { size.next_multiple_of(8) } else { size });
    let (name, rest) = rest.split_at_checked(padded[0])?;
    let name = name[..sizes[0]].split_last().filter(|(end, name)| **end == 0 && !name.contains(&0));
    let (kind, rest) = rest.split_at_checked(padded[1])?;
    let (shape, _) = rest.split_at_checked(padded[2])?;
    name?;
    let start = (start + padded.iter().sum::<usize>()) as u64;
    // A type or a shape that is somewhere else.
    if flags != 0 {
        return Some((start, LONGEST as u64));
    }
    let &[class, _, _, _, s, t, u, v, ..] = kind else { return None };
    // Texts of any length are in the heap.
    if !(0x10..0x50).contains(&class) || class & 15 == 9 || class & 15 > 11 {
        return None;
    }
    let dimensions = match *shape {
        [1, rank, ..] => shape.get(8..8 + 8 * usize::from(rank))?,
        [2, rank, _, 0 | 1, ..] => shape.get(4..4 + 8 * usize::from(rank))?,
        _ => return None,
    };
    let count = dimensions.chunks_exact(8).map(number).fold(1, u64::saturating_mul);
    Some((start, u64::from(u32::from_le_bytes([s, t, u, v])).saturating_mul(count)))
}

/// Whether `bytes` are the header of a heap whose blocks are compressed, and with it the links or attributes in them
/// (section III.G).
pub(super) fn is_compressed_heap(bytes: &[u8]) -> bool {
    matches!(bytes, [b'F', b'R', b'H', b'P', 0, _, _, a, b, ..] if (*a, *b) != (0, 0))
}

fn number(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    let len = bytes.len().min(8);
    number[..len].copy_from_slice(&bytes[..len]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_an_attribute_is_found_in_every_version() {
        let kind = b"\x13\0\0\0\x05\0\0\0";
        let scalar = b"\x02\0\0\0";
        let second = [&b"\x02\0\x02\0\x08\0\x04\0x\0"[..], kind, scalar, b"(dp0."].concat();
        assert_eq!(attribute(&second), Some((22, 5)));
        let third = [&b"\x03\0\x02\0\x08\0\x04\0\0x\0"[..], kind, scalar, b"(dp0."].concat();
        assert_eq!(attribute(&third), Some((23, 5)));
        let first =
            [&b"\x01\0\x02\0\x08\0\x08\0x\0\0\0\0\0\0\0"[..], kind, b"\x01\0\0\0\0\0\0\0", b"(dp0."].concat();
        assert_eq!(attribute(&first), Some((32, 5)));
        for (at, byte) in [(0, 4), (1, 9), (2, 1), (8, 0), (9, b'y'), (10, 0x19), (18, 3)] {
            let mut other = second.clone();
            other[at] = byte;
            assert_eq!(attribute(&other), None, "{at}");
        }
    }
}
