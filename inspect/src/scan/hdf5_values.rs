//! Values in HDF5 that its readers unpickle: PyTables, and pandas with it, do that with attributes that are texts and with what
//! is in the global heap (HDF5 File Format Specification 3.0, sections IV.A.2.m and III.E).

use super::Rule;
use super::content::{Place, Scanner};
use super::hdf5::Addresses;
use crate::Result;
use crate::bytes::{ByteSource, Section};
use crate::format::HEAD;

/// How a collection of the global heap begins.
pub(super) const COLLECTION: &[u8] = b"GCOL\x01";
/// Of the header of a collection, and of each object in it.
const HEADER: u64 = 16;
/// The class of types of any length, whose values are in the heap.
const VARIABLE: u8 = 9;
/// The attribute in which Keras keeps what a model is made of (`keras/src/legacy/saving/legacy_h5_format.py`).
const KERAS_MODEL: &[u8] = b"model_config";
/// The most elements of it that are read, of which Keras takes the first.
const MOST_CONFIGS: u64 = 16;
/// The longest name, and the longest description of a type and of a shape, that is followed.
const LONGEST: usize = 4096;

impl Scanner<'_> {
    /// Judges what the models of Keras in `data` are made of, as in its other files.
    pub(super) fn keras_models(
        &mut self,
        data: &dyn ByteSource,
        addresses: Addresses,
        place: &Place,
    ) -> Result<()> {
        for at in data.positions(KERAS_MODEL, 0..data.len(), usize::MAX)? {
            if !self.may_trace(place) {
                return Ok(());
            }
            self.spend(HEADER);
            // The header before the name has 8 bytes, and 9 in the third version.
            let mut found = None;
            for header in [8, 9] {
                let Some(begins) = at.checked_sub(header) else { continue };
                let bytes = data.window(begins, 4 * LONGEST as u64)?;
                let one = parsed(&bytes).filter(|one| one.name == KERAS_MODEL);
                if let Some(Attribute { start, kind, .. }) = one {
                    found = Some((begins + start, kind));
                    break;
                }
            }
            let named = data.window(at + KERAS_MODEL.len() as u64, 1)?.first() == Some(&0);
            let judged = match found {
                None if !named => continue,
                None | Some((_, None)) => false,
                Some((start, Some((class, size, count)))) => {
                    let mut judged = count > 0 && count <= MOST_CONFIGS;
                    for number in 0..count.min(MOST_CONFIGS) {
                        let value = start.saturating_add(size.saturating_mul(number));
                        let text = match class & 15 {
                            VARIABLE => self.in_heap(data, value, addresses)?,
                            _ => Some((value, size)),
                        };
                        judged &= match text {
                            Some((at, len)) => self.keras_model(data, at, len, place)?,
                            None => false,
                        };
                    }
                    judged
                }
            };
            if !judged {
                let message = "a model of Keras in HDF5, whose configuration cannot be read".to_string();
                self.find(Rule::OpaqueContent, place, Some(at), message);
            }
        }
        Ok(())
    }

    /// Whether the `len` bytes at `at` are a configuration; then it is judged.
    fn keras_model(&mut self, data: &dyn ByteSource, at: u64, len: u64, place: &Place) -> Result<bool> {
        let bytes = data.window(at, len)?;
        self.spend(bytes.len() as u64);
        // Python reads up to the end that fills the space up.
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or(&[]);
        Ok(bytes.len() as u64 == len && self.described(text, "model_config.json", place))
    }

    /// Where the value in the global heap is that the element at `at` refers to, and its length: that, the address of a collection and
    /// the number of an object in it (section IV.B).
    fn in_heap(
        &mut self,
        data: &dyn ByteSource,
        at: u64,
        Addresses { size, base }: Addresses,
    ) -> Result<Option<(u64, u64)>> {
        let element = data.window(at, 8 + size as u64)?;
        let Some((len, rest)) = element.split_first_chunk::<4>() else { return Ok(None) };
        let Some((address, index)) = rest.split_at_checked(size) else { return Ok(None) };
        let (len, wanted) = (u64::from(u32::from_le_bytes(*len)), number(index));
        let collection = number(address).saturating_add(base);
        if !data.window(collection, COLLECTION.len() as u64)?.starts_with(COLLECTION) {
            return Ok(None);
        }
        let end = collection.saturating_add(number(&data.window(collection + 8, 8)?)).min(data.len());
        let mut at = collection + HEADER;
        while at + HEADER < end && self.afford(HEADER) {
            self.spend(HEADER);
            let object = data.window(at, HEADER)?;
            let here = u64::from(u16::from_le_bytes([object[0], object[1]]));
            let size = number(&object[8..]);
            at += HEADER;
            if here == wanted {
                return Ok((len <= size).then_some((at, len)));
            }
            if here == 0 {
                break;
            }
            at = at.saturating_add(size.checked_next_multiple_of(8).unwrap_or(u64::MAX));
        }
        Ok(None)
    }

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
            self.bare(&value, &head, "", &inner)?;
        }
        Ok(())
    }
}

/// An attribute: where its value begins, and the type and the number of its elements, unless these are elsewhere.
struct Attribute<'b> {
    name: &'b [u8],
    start: u64,
    kind: Option<(u8, u64, u64)>,
}

/// Where in `bytes` the value of the attribute begins that they are, and its length; it is told by all that its form demands.
pub(super) fn attribute(bytes: &[u8]) -> Option<(u64, u64)> {
    let Attribute { start, kind, .. } = parsed(bytes)?;
    // A type or a shape that is somewhere else.
    let Some((class, size, count)) = kind else { return Some((start, LONGEST as u64)) };
    // Texts of any length are in the heap.
    (class & 15 != VARIABLE).then(|| (start, size.saturating_mul(count)))
}

fn parsed(bytes: &[u8]) -> Option<Attribute<'_>> {
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
    let (_, name) = name?;
    let start = (start + padded.iter().sum::<usize>()) as u64;
    if flags != 0 {
        return Some(Attribute { name, start, kind: None });
    }
    let &[class, _, _, _, s, t, u, v, ..] = kind else { return None };
    if !(0x10..0x50).contains(&class) || class & 15 > 11 {
        return None;
    }
    let dimensions = match *shape {
        [1, rank, ..] => shape.get(8..8 + 8 * usize::from(rank))?,
        [2, rank, _, 0 | 1, ..] => shape.get(4..4 + 8 * usize::from(rank))?,
        _ => return None,
    };
    let count = dimensions.chunks_exact(8).map(number).fold(1, u64::saturating_mul);
    Some(Attribute { name, start, kind: Some((class, u64::from(u32::from_le_bytes([s, t, u, v])), count)) })
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
