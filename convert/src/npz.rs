//! NumPy's `.npz`, as `numpy.savez` writes it: a zip of stored entries, one array each, named like the tensor plus
//! `.npy`. Its length is known before it is written, and it is written as a stream.

use std::collections::HashSet;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;

use ckpt_inspect::metadata::Value;
use ckpt_inspect::staged::{Control, Error as OutputError, OutputFile, StagedFile};
use ckpt_inspect::{DType, npy, torch};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::encode::{Writer, Written, cannot};
use crate::note::{Note, Remedy};
use crate::plan::{Options, Output, Plan};
use crate::target::Form;
use crate::{Error, Result};

/// `--to npz`.
pub(crate) const FORM: Form = Form {
    name: "npz",
    about: "NumPy archive of arrays (.npz), types unchanged",
    extension: "npz",
    splits: false,
    reader: "NumPy",
    holds: npy::has_dtype,
    instead: |dtype| match dtype {
        dtype if dtype.is_float() => Remedy::Type("*", DType::F32),
        dtype if torch::has_dtype(dtype) => Remedy::Target("pt"),
        _ => Remedy::Target("safetensors"),
    },
    style: None,
    nests: false,
    shares: false,
    ties: false,
    tells_values: false,
    is_model: false,
    packing: |_| None,
    check,
    write,
};

/// Longest name of an array: that of a zip's entry, without its extension and the rest of a header.
const LONGEST: usize = 65_000;
/// The most dimensions of a NumPy array.
const MOST_DIMENSIONS: usize = 64;
/// Sizes and offsets from here on need zip64.
const WIDE: u64 = u32::MAX as u64;

/// Refuses names that NumPy, or a program that unpacks the archive, would misread.
fn check(plan: &Plan<'_>) -> Result<()> {
    let names: HashSet<&str> = plan.tensors.iter().map(|t| t.name.as_str()).collect();
    for tensor in &plan.tensors {
        let name = tensor.name.as_str();
        let mut parts = name.split(['/', '\\']);
        let why = if name.starts_with(['/', '\\']) || name.as_bytes().get(1) == Some(&b':') {
            "has a name that is a path outside the archive"
        } else if parts.any(|part| part == "..") {
            "has a name that leads out of the folder that the archive is unpacked into"
        } else if name.contains('\0') {
            "has a NUL character in its name, where Python ends the name of an entry"
        } else if name.len() > LONGEST {
            "has a longer name than a zip entry may have"
        } else if name.strip_suffix(".npy").is_some_and(|inner| names.contains(inner)) {
            "has the name that NumPy gives the entry of another tensor"
        } else if tensor.shape.len() > MOST_DIMENSIONS {
            "has more dimensions than a NumPy array may have"
        } else {
            continue;
        };
        // Long names are cut.
        let shown: String = name.chars().take(80).collect();
        let error = Error::target(format!("tensor `{}` {why}", shown.escape_debug()));
        return Err(error.remedied_by(Remedy::Target("pt")));
    }
    Ok(())
}

/// An entry before it is written.
struct Entry {
    name: String,
    /// The bytes before the elements.
    header: Vec<u8>,
    len: u64,
}

impl Entry {
    fn new(tensor: &Output, bytes: u64) -> Result<Entry> {
        let header = npy::header(tensor.dtype, &tensor.shape).ok_or_else(|| {
            Error::target(format!("`{}` cannot be written as {}", tensor.name.escape_debug(), tensor.dtype))
        })?;
        let len = header.len() as u64 + bytes;
        Ok(Entry { name: format!("{}.npy", tensor.name), header, len })
    }

    fn is_wide(&self) -> bool {
        self.len >= WIDE
    }
}

/// Bytes of an archive of these entries (numbers in parentheses are sections of APPNOTE.TXT).
fn archive_len(entries: &[Entry]) -> u64 {
    let (mut at, mut directory) = (0u64, 0u64);
    for entry in entries {
        // Sizes (two of 8 bytes) and offset where they are wide (4.5.3), behind 4 bytes.
        let sizes = if entry.is_wide() { 16 } else { 0 };
        let offset = if at >= WIDE { 8 } else { 0 };
        let extra = |len: u64| if len > 0 { 4 + len } else { 0 };
        let name = entry.name.len() as u64;
        // Headers (4.3.7, 4.3.12).
        directory += 46 + name + extra(sizes + offset);
        at += 30 + name + extra(sizes) + entry.len;
    }
    // The end of the directory (4.3.16), before it zip64's and its locator (4.3.14, 4.3.15).
    let wide = entries.len() > usize::from(u16::MAX) || at.max(directory) > WIDE;
    at + directory + 22 + if wide { 56 + 20 } else { 0 }
}

/// A position in the output that advances with every write.
struct Cursor<'o> {
    output: &'o OutputFile,
    at: u64,
    len: u64,
}

impl io::Write for Cursor<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write_at(self.at, bytes).map_err(|error| match error {
            OutputError::Write { source, .. } => source,
            other => io::Error::other(other),
        })?;
        self.at += bytes.len() as u64;
        self.len = self.len.max(self.at);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

fn write(
    plan: &mut Plan<'_>,
    options: &Options,
    path: &Path,
    control: Control<'_>,
) -> Result<(u64, Vec<Written>)> {
    if let Value::Dict(values) = &plan.metadata
        && !values.is_empty()
    {
        plan.notes.push(Note::MetadataLost);
    }
    let entries: Vec<Entry> =
        plan.tensors.iter().map(|t| Entry::new(t, plan.blobs[t.blob].bytes)).collect::<Result<_>>()?;
    let len = archive_len(&entries);
    let staged = StagedFile::create(path, len, options.force)?;
    let output = staged.output();
    let writer = Writer { source: plan.source, blobs: &plan.blobs, control, crc: false };
    let written = output.flushing(|| archive(plan, &entries, &writer, output, len))?;
    control.check(path)?;
    staged.commit()?;
    Ok((len, written))
}

fn archive(
    plan: &Plan<'_>,
    entries: &[Entry],
    writer: &Writer<'_>,
    output: &OutputFile,
    len: u64,
) -> Result<Vec<Written>> {
    let refused = |error: zip::result::ZipError| cannot(output, error.into());
    let mut zip = ZipWriter::new(Cursor { output, at: 0, len: 0 });
    let mut written = vec![Written::default(); plan.blobs.len()];
    for (tensor, entry) in plan.tensors.iter().zip(entries) {
        let options = SimpleFileOptions::DEFAULT
            .compression_method(CompressionMethod::Stored)
            .large_file(entry.is_wide());
        zip.start_file(&entry.name, options).map_err(refused)?;
        io::Write::write_all(&mut zip, &entry.header).map_err(|error| cannot(output, error))?;
        written[tensor.blob] = writer.stream(tensor.blob, output, &mut zip)?;
    }
    let end = zip.finish().map_err(refused)?.len;
    if end != len {
        let what = format!("the archive has {end} bytes instead of the {len} planned");
        return Err(cannot(output, io::Error::other(what)).into());
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A writer that discards bytes.
    #[derive(Default)]
    struct Counted {
        at: u64,
        len: u64,
    }

    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.at += bytes.len() as u64;
            self.len = self.len.max(self.at);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Counted {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.at = match to {
                SeekFrom::Start(at) => Some(at),
                SeekFrom::Current(by) => self.at.checked_add_signed(by),
                SeekFrom::End(by) => self.len.checked_add_signed(by),
            }
            .ok_or(io::ErrorKind::InvalidInput)?;
            Ok(self.at)
        }
    }

    /// An entry of wide size, one at a wide offset, and more entries than 16 bits can count.
    #[test]
    fn the_length_is_known_before() {
        let zeros = vec![0; 1 << 20];
        let sizes = |all: &[u64]| -> Vec<Entry> {
            let entry = |(i, &len)| Entry { name: format!("{i}.npy"), header: Vec::new(), len };
            all.iter().enumerate().map(entry).collect()
        };
        for entries in [sizes(&[]), sizes(&[0, 1, 1 << 20]), sizes(&[5, WIDE, 7]), sizes(&[0; 70_000])] {
            let mut zip = ZipWriter::new(Counted::default());
            for entry in &entries {
                let options = SimpleFileOptions::DEFAULT
                    .compression_method(CompressionMethod::Stored)
                    .large_file(entry.is_wide());
                zip.start_file(&entry.name, options).unwrap();
                let mut left = entry.len;
                while left > 0 {
                    let n = left.min(zeros.len() as u64);
                    zip.write_all(&zeros[..n as usize]).unwrap();
                    left -= n;
                }
            }
            assert_eq!(zip.finish().unwrap().len, archive_len(&entries));
        }
    }
}
