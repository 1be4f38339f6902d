//! Layout of stored zip archives as PyTorch writes them: data aligned by padding in an extra field, zip64 where 32
//! bits do not suffice. Where everything goes is known before a byte is written; checksums are filled in afterwards.
//! Numbers in parentheses are sections of APPNOTE.TXT.

use ckpt_inspect::zip::{CENTRAL_HEADER, END, LOCAL_HEADER, ZIP64_END, ZIP64_EXTRA, ZIP64_LOCATOR};

/// Storages begin at multiples of this many bytes, so that they can be used where they are mapped
/// (`kFieldAlignment` of caffe2/serialize/inline_container.cc).
const ALIGNMENT: u64 = 64;
/// Id of the extra field that PyTorch pads with (`kPadding…` there: the letters FB).
const PADDING_EXTRA: u16 = u16::from_le_bytes(*b"FB");
/// File names are UTF-8 (4.4.4, bit 11).
const FLAGS: u16 = 1 << 11;
/// 1980-01-01, the earliest possible date (4.4.6).
const DATE: u16 = 1 << 5 | 1;
/// The version that a reader needs for zip64 (4.4.3).
const VERSION: u16 = 45;
const WIDE: u64 = u32::MAX as u64;

/// An archive's layout.
pub(crate) struct Layout {
    entries: Vec<Entry>,
    /// Where the central directory begins.
    directory: u64,
}

struct Entry {
    name: String,
    len: u64,
    header: u64,
    data: u64,
}

impl Layout {
    /// The layout of an archive of these entries (name, bytes), in this order.
    pub fn new(entries: impl IntoIterator<Item = (String, u64)>) -> Self {
        let mut at = 0;
        let mut placed = Vec::new();
        for (name, len) in entries {
            let mut entry = Entry { name, len, header: at, data: 0 };
            let unpadded = at + 30 + entry.name.len() as u64 + entry.zip64_local().len() as u64 + 4;
            entry.data = unpadded.next_multiple_of(ALIGNMENT);
            at = entry.data + len;
            placed.push(entry);
        }
        Layout { entries: placed, directory: at }
    }

    /// Where the data of entry `i` begins.
    pub fn data(&self, i: usize) -> u64 {
        self.entries[i].data
    }

    /// Where the local header of entry `i` begins, and its bytes (4.3.7).
    pub fn local_header(&self, i: usize, crc: u32) -> (u64, Vec<u8>) {
        let entry = &self.entries[i];
        let narrow = (entry.len.min(WIDE) as u32).to_le_bytes();
        let zip64 = entry.zip64_local();
        let padding = (entry.data - entry.header) as usize - 30 - entry.name.len() - zip64.len() - 4;
        let mut out = LOCAL_HEADER.to_vec();
        out.extend(entry.common(crc, narrow, zip64.len() + 4 + padding));
        out.extend(entry.name.as_bytes());
        out.extend(zip64);
        out.extend(PADDING_EXTRA.to_le_bytes());
        out.extend((padding as u16).to_le_bytes());
        out.extend(std::iter::repeat_n(b'Z', padding));
        (entry.header, out)
    }

    /// Bytes of the whole archive.
    pub fn len(&self) -> u64 {
        self.directory + self.central_directory(&vec![0; self.entries.len()]).1.len() as u64
    }

    /// Where the central directory begins, and its bytes up to the end of the archive (4.3.12 to 4.3.16).
    pub fn central_directory(&self, crcs: &[u32]) -> (u64, Vec<u8>) {
        let mut out = Vec::new();
        for (entry, &crc) in self.entries.iter().zip(crcs) {
            let narrow = (entry.len.min(WIDE) as u32).to_le_bytes();
            let mut extra = Vec::new();
            if entry.len >= WIDE {
                extra.extend([entry.len, entry.len]);
            }
            if entry.header >= WIDE {
                extra.push(entry.header);
            }
            let extra = zip64_extra(&extra);
            out.extend(CENTRAL_HEADER);
            out.extend(VERSION.to_le_bytes());
            out.extend(entry.common(crc, narrow, extra.len()));
            // Comment length, disk, internal attributes (2 bytes each), external attributes (4).
            out.extend([0; 10]);
            out.extend((entry.header.min(WIDE) as u32).to_le_bytes());
            out.extend(entry.name.as_bytes());
            out.extend(extra);
        }
        let (size, count) = (out.len() as u64, self.entries.len() as u64);
        if count >= u64::from(u16::MAX) || self.directory >= WIDE || size >= WIDE {
            let record = self.directory + size;
            out.extend(ZIP64_END);
            // Size of the rest of this record, then versions and two disk numbers.
            out.extend(44u64.to_le_bytes());
            out.extend(VERSION.to_le_bytes());
            out.extend(VERSION.to_le_bytes());
            out.extend([0; 8]);
            [count, count, size, self.directory].iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(ZIP64_LOCATOR);
            out.extend([0; 4]);
            out.extend(record.to_le_bytes());
            out.extend(1u32.to_le_bytes());
        }
        out.extend(END);
        out.extend([0; 4]);
        let count = (count.min(u64::from(u16::MAX)) as u16).to_le_bytes();
        out.extend(count);
        out.extend(count);
        out.extend((size.min(WIDE) as u32).to_le_bytes());
        out.extend((self.directory.min(WIDE) as u32).to_le_bytes());
        out.extend([0; 2]);
        (self.directory, out)
    }
}

impl Entry {
    /// The fields that local and central headers share, from the version needed to the extra field's length.
    fn common(&self, crc: u32, narrow: [u8; 4], extra: usize) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(VERSION.to_le_bytes());
        out.extend(FLAGS.to_le_bytes());
        // Stored; time.
        out.extend([0; 4]);
        out.extend(DATE.to_le_bytes());
        out.extend(crc.to_le_bytes());
        out.extend(narrow);
        out.extend(narrow);
        out.extend((self.name.len() as u16).to_le_bytes());
        out.extend((extra as u16).to_le_bytes());
        out
    }

    fn zip64_local(&self) -> Vec<u8> {
        if self.len >= WIDE { zip64_extra(&[self.len, self.len]) } else { Vec::new() }
    }
}

/// The zip64 extra field (4.5.3): only what does not fit its usual place.
fn zip64_extra(wide: &[u64]) -> Vec<u8> {
    if wide.is_empty() {
        return Vec::new();
    }
    let mut out = ZIP64_EXTRA.to_le_bytes().to_vec();
    out.extend(((8 * wide.len()) as u16).to_le_bytes());
    wide.iter().for_each(|n| out.extend(n.to_le_bytes()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize, width: usize) -> u64 {
        bytes[at..at + width].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
    }

    #[test]
    fn beyond_four_gibibytes_sizes_and_offsets_are_wide() {
        let large = 5u64 << 30;
        let entries = [("m/data.pkl", 100), ("m/data/0", large), ("m/data/1", 7), ("m/version", 2)];
        let layout = Layout::new(entries.map(|(name, len)| (name.to_string(), len)));
        for i in 0..4 {
            assert!(layout.data(i).is_multiple_of(ALIGNMENT));
            let (at, header) = layout.local_header(i, 0xdead_beef);
            assert_eq!(at + header.len() as u64, layout.data(i), "data follows its header");
        }
        assert!(layout.data(2) >= layout.data(1) + large);

        let (_, header) = layout.local_header(1, 0xdead_beef);
        assert_eq!((word(&header, 18, 4), word(&header, 22, 4)), (WIDE, WIDE));
        let extra = 30 + "m/data/0".len();
        assert_eq!((word(&header, extra, 2), word(&header, extra + 2, 2)), (u64::from(ZIP64_EXTRA), 16));
        assert_eq!((word(&header, extra + 4, 8), word(&header, extra + 12, 8)), (large, large));
        let (_, header) = layout.local_header(2, 1);
        assert_eq!(word(&header, 18, 4), 7, "a small entry stays narrow");

        let (at, directory) = layout.central_directory(&[1, 2, 3, 4]);
        assert_eq!(layout.len(), at + directory.len() as u64);
        let third = directory.windows(8).position(|w| w == b"m/data/1").unwrap();
        assert_eq!(word(&directory, third - 4, 4), WIDE, "its offset is in the zip64 field");
        assert_eq!(word(&directory, third + 8, 4), 8 << 16 | u64::from(ZIP64_EXTRA));
        assert_eq!(word(&directory, third + 12, 8), layout.local_header(2, 0).0);
        let end = directory.len() - 22;
        assert_eq!(&directory[end..end + 4], END);
        assert_eq!(word(&directory, end + 16, 4), WIDE);
        let locator = end - 20;
        assert_eq!(&directory[locator..locator + 4], ZIP64_LOCATOR);
        let record = (word(&directory, locator + 8, 8) - at) as usize;
        assert_eq!(&directory[record..record + 4], ZIP64_END);
        assert_eq!(word(&directory, record + 48, 8), at);
        assert_eq!(word(&directory, record + 32, 8), 4);
    }

    #[test]
    fn more_entries_than_sixteen_bits_count() {
        let layout = Layout::new((0..70_000).map(|i| (format!("m/data/{i}"), 1)));
        let (_, directory) = layout.central_directory(&vec![0; 70_000]);
        let end = directory.len() - 22;
        assert_eq!(word(&directory, end + 10, 2), u64::from(u16::MAX));
        assert_eq!(word(&directory, end - 20 - 56 + 32, 8), 70_000);
    }
}
