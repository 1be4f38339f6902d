//! HDF5, of which only what leads out of the file or to code is looked for: links to other files, data kept in them, values
//! that are pickles, and the configuration of a Keras model (HDF5 File Format Specification 3.0, sections IV.A.2.g, i and h).

use super::Rule;
use super::archive::leads_outside;
use super::calls::cut;
use super::content::{Place, Scanner};
use super::hdf5_values::{COLLECTION, attribute, is_compressed_heap};
use crate::Result;
use crate::bytes::ByteSource;

/// The first bytes of HDF5.
pub(super) const MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";
/// Bytes that are looked at together, and the most that one message takes: its length has two bytes.
const WINDOW: u64 = 1 << 20;
const MESSAGE: u64 = 1 << 17;

/// What leads to another file.
#[derive(Debug, PartialEq)]
enum Reference {
    /// A link to an object in this file.
    Link(String),
    /// The data of a dataset, or parts of them, in files that are named elsewhere.
    Data,
}

impl Scanner<'_> {
    /// Reports what in the HDF5 file `data` leads to code or out of the file.
    pub(super) fn hdf5(&mut self, data: &dyn ByteSource, place: &Place) -> Result<()> {
        let addresses = Addresses::of(data)?;
        if let Some(what) = broken(data, addresses)? {
            self.damaged(place, what.to_string());
        }
        self.keras_models(data, addresses, place)?;
        let mut at = 0;
        while at < data.len() {
            let window = data.window(at, WINDOW + MESSAGE)?;
            for start in 0..window.len().min(WINDOW as usize) {
                let (bytes, begins) = (&window[start..], at + start as u64);
                let offset = Some(begins);
                if bytes.starts_with(COLLECTION) {
                    self.heap_objects(data, begins, place)?;
                } else if let Some((value, len)) = attribute(bytes)
                    && self.may_trace(place)
                {
                    self.value(data, begins + value, len, place)?;
                } else if is_compressed_heap(bytes) {
                    let message = "compressed links or attributes, which cannot be scanned".to_string();
                    self.find(Rule::OpaqueContent, place, offset, message);
                }
                let Some(found) = reference(data, bytes, addresses)? else { continue };
                match found {
                    Reference::Link(file) if leads_outside(&file) => {
                        let message = format!("a link to something in the file `{}`", cut(&file));
                        self.find(Rule::PathOutside, place, offset, message);
                    }
                    Reference::Link(file) => {
                        let message = format!("a link to something in the file `{}` next to it", cut(&file));
                        self.find(Rule::Link, place, offset, message);
                    }
                    Reference::Data => {
                        let message = "a dataset whose data are read from other files".to_string();
                        self.find(Rule::Link, place, offset, message);
                    }
                }
            }
            at += WINDOW;
        }
        Ok(())
    }
}

/// What is wrong with the superblock of `data`, which says where everything else is (section II).
fn broken(data: &dyn ByteSource, Addresses { size, .. }: Addresses) -> Result<Option<&'static str>> {
    let begins = begin(data)?.unwrap_or(0);
    let head = data.window(begins, 96)?;
    let number = |at: usize| -> Option<u64> {
        let mut number = [0; 8];
        number[..size].copy_from_slice(head.get(at..at + size)?);
        Some(u64::from_le_bytes(number))
    };
    let sizes = |at: usize| head.get(at..at + 2).is_some_and(|s| s.iter().all(|s| matches!(s, 2 | 4 | 8)));
    // Addresses are the base's, that of free space or of an extension, and that of the end.
    let (sound, end) = match head.get(MAGIC.len()) {
        Some(0) => (sizes(13) && head[9..12] == [0; 3], number(24 + 2 * size)),
        Some(1) => (sizes(13) && head[9..12] == [0; 3], number(28 + 2 * size)),
        Some(2 | 3) => (sizes(9), number(12 + 2 * size)),
        _ => (false, None),
    };
    Ok(match end {
        Some(end) if sound => (end > data.len()).then_some("HDF5 that is cut short"),
        _ => Some("begins like HDF5, and its superblock cannot be read"),
    })
}

/// The reference to another file in the message at the start of `bytes`, which are part of `data`. Messages are told by
/// all that their form demands, wherever they are: in an object's header or in a heap.
fn reference(
    data: &dyn ByteSource,
    bytes: &[u8],
    Addresses { size, base }: Addresses,
) -> Result<Option<Reference>> {
    let refers = |at: &[u8], signature: &[u8]| -> Result<bool> {
        let mut address = [0; 8];
        address[..size].copy_from_slice(&at[..size]);
        let at = u64::from_le_bytes(address).saturating_add(base);
        Ok(at > base && at < data.len() && data.window(at, 4)?.starts_with(signature))
    };
    Ok(match bytes {
        [1, flags, 64, rest @ ..] if flags & 0xe8 == 8 => link(*flags, rest).map(Reference::Link),
        // External data files: slots that are there, slots that are used, and the heap of their names.
        [1, 0, 0, 0, a, b, c, d, heap @ ..] if heap.len() >= size => {
            let (there, used) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
            let sound = used > 0 && used <= there;
            (sound && refers(heap, b"HEAP")?).then_some(Reference::Data)
        }
        // The layout of a virtual dataset, and the heap of its sources.
        [4 | 5, 3, heap @ ..] if heap.len() >= size => refers(heap, b"GCOL")?.then_some(Reference::Data),
        _ => None,
    })
}

/// How addresses are written.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    /// Their bytes.
    pub size: usize,
    /// Where they count from.
    pub base: u64,
}

impl Addresses {
    /// As the superblock of `data` says.
    fn of(data: &dyn ByteSource) -> Result<Self> {
        let base = begin(data)?.unwrap_or(0);
        let head = data.window(base, 16)?;
        let at = match head.get(MAGIC.len()) {
            Some(0 | 1) => 13,
            _ => 9,
        };
        Ok(Addresses { size: head.get(at).map_or(8, |size| usize::from(*size).clamp(1, 8)), base })
    }
}

/// Where HDF5 begins in `data`: at the start, or behind a block of the user's of 512 bytes or twice as many each time.
pub(super) fn begin(data: &dyn ByteSource) -> Result<Option<u64>> {
    for at in std::iter::once(0).chain((9..40).map(|power| 1 << power)).take_while(|at| *at < data.len()) {
        if data.window(at, MAGIC.len() as u64)?.starts_with(MAGIC) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The file that an external link names; `rest` follows its type.
fn link(flags: u8, rest: &[u8]) -> Option<String> {
    let order = if flags & 4 != 0 { 8 } else { 0 };
    let characters = usize::from(flags & 16 != 0);
    let rest = rest.get(order + characters..)?;
    let (size, rest) = rest.split_at_checked(1 << (flags & 3))?;
    let mut length = [0; 8];
    length[..size.len()].copy_from_slice(size);
    let length = usize::try_from(u64::from_le_bytes(length)).ok().filter(|n| *n > 0)?;
    let (name, rest) = rest.split_at_checked(length)?;
    if name.contains(&0) {
        return None;
    }
    let ([a, b], rest) = rest.split_first_chunk::<2>().map(|(size, rest)| (*size, rest))?;
    let value = rest.get(..usize::from(u16::from_le_bytes([a, b])))?;
    // Its version and flags, the file, and the object there.
    let [0, names @ .., 0] = value else { return None };
    let (file, object) = names.split_at(names.iter().position(|byte| *byte == 0)?);
    (!file.is_empty() && !object[1..].contains(&0)).then(|| String::from_utf8_lossy(file).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_told_by_its_form() {
        let addresses = Addresses { size: 8, base: 0 };
        let value = b"\0/etc/passwd\0x\0";
        let message = [&[1u8, 8, 64, 4][..], b"vars", &(value.len() as u16).to_le_bytes(), value].concat();
        let found = reference(&message.as_slice(), &message, addresses).unwrap();
        assert_eq!(found, Some(Reference::Link("/etc/passwd".into())));
        for (at, byte) in [(0, 2), (2, 1), (3, 0), (8, 90), (10, 1), (message.len() - 1, 7)] {
            let mut other = message.clone();
            other[at] = byte;
            assert_eq!(reference(&other.as_slice(), &other, addresses).unwrap(), None, "{at}");
        }
    }
}
