//! Zip archives, valid or with chosen inconsistencies.

use std::io::Write;

/// An entry of an archive.
#[derive(Clone, Default)]
pub struct Entry {
    /// Its name in the directory.
    pub name: String,
    /// Its name in its own header, if not the same.
    pub local_name: Option<String>,
    /// Its contents.
    pub data: Vec<u8>,
    /// Compressed with Deflate; stored unless set.
    pub deflated: bool,
    /// The general purpose flags.
    pub flags: u16,
    /// The CRC-32 it is said to have, if not its own.
    pub crc: Option<u32>,
    /// Left out of the directory.
    pub hidden: bool,
    /// The external attributes: a Unix mode in the upper half.
    pub attributes: u32,
    /// The extra fields in the directory.
    pub extra: Vec<u8>,
}

/// A consistent stored entry.
pub fn entry(name: &str, data: impl Into<Vec<u8>>) -> Entry {
    Entry { name: name.into(), data: data.into(), ..Entry::default() }
}

/// A consistent deflated entry.
pub fn deflated(name: &str, data: impl Into<Vec<u8>>) -> Entry {
    Entry { deflated: true, ..entry(name, data) }
}

/// The archive of `entries`.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut directory, mut count) = (Vec::new(), Vec::new(), 0u16);
    for e in entries {
        let at = out.len() as u32;
        let data = if e.deflated { deflate(&e.data) } else { e.data.clone() };
        let crc = e.crc.unwrap_or_else(|| crc32fast::hash(&e.data)).to_le_bytes();
        let common = |name: &str, extra: &[u8]| {
            let mut c = 20u16.to_le_bytes().to_vec();
            c.extend(e.flags.to_le_bytes());
            c.extend([if e.deflated { 8 } else { 0 }, 0, 0, 0, 0x21, 0]);
            c.extend(crc);
            c.extend((data.len() as u32).to_le_bytes());
            c.extend((e.data.len() as u32).to_le_bytes());
            c.extend((name.len() as u16).to_le_bytes());
            c.extend((extra.len() as u16).to_le_bytes());
            c
        };
        let local = e.local_name.as_deref().unwrap_or(&e.name);
        out.extend(b"PK\x03\x04");
        out.extend(common(local, &[]));
        out.extend(local.as_bytes());
        out.extend(&data);
        if !e.hidden {
            directory.extend(b"PK\x01\x02\x14\x03");
            directory.extend(common(&e.name, &e.extra));
            directory.extend([0; 6]);
            directory.extend(e.attributes.to_le_bytes());
            directory.extend(at.to_le_bytes());
            directory.extend(e.name.as_bytes());
            directory.extend(&e.extra);
            count += 1;
        }
    }
    let start = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}
