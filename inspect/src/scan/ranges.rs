//! A file of any format is read and scanned by ranges: nothing asks for all of it at once, so that it may be far away.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use super::{Options, scan_source};
use crate::bytes::{ByteSource, Source, Stamp};
use crate::format::{self, FORMATS, Family, HEAD, npy};
use crate::{DType, Result};

const LEN: u64 = 64 << 20;
/// Of which this much is given at once.
const LONGEST: u64 = 2 << 20;

/// Zeros between a beginning and an end.
#[derive(Debug)]
struct Sparse {
    start: Vec<u8>,
    end: Vec<u8>,
}

impl ByteSource for Sparse {
    fn len(&self) -> u64 {
        LEN
    }

    fn bytes(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        assert!(range.end <= LEN, "{range:?} reaches beyond the end");
        assert!(range.end - range.start <= LONGEST, "{range:?} was asked for at once");
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for (at, part) in [(0, &self.start), (LEN - self.end.len() as u64, &self.end)] {
            let (from, to) = (at.max(range.start), (at + part.len() as u64).min(range.end));
            if from < to {
                let part = &part[(from - at) as usize..(to - at) as usize];
                bytes[(from - range.start) as usize..(to - range.start) as usize].copy_from_slice(part);
            }
        }
        Ok(Cow::Owned(bytes))
    }
}

/// `{"w": a tensor of floats}`, on the storage `0`, as PyTorch pickles it; `view` ends the storage's persistent id.
fn object(count: u64, view: &[u8]) -> Vec<u8> {
    let count = [b"J", &(count as u32).to_le_bytes()[..]].concat();
    [
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu",
        &*count,
        view,
        b"tQK\0",
        &*count,
        b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs.",
    ]
    .concat()
}

/// A zip of `small` and of an entry `name`, which is `header` and zeros.
fn zip(small: Option<(&str, &[u8])>, name: &str, header: &[u8]) -> Sparse {
    let record = |signature: &[u8], version: &[u8], name: &str, crc: u32, len: u64| {
        let sizes = [(len as u32).to_le_bytes(); 2].concat();
        let name = (name.len() as u16).to_le_bytes();
        [signature, version, b"\0\0\0\0\0\0\x21\0", &crc.to_le_bytes(), &sizes, &name, b"\0\0"].concat()
    };
    let local = |name: &str, crc, len| {
        [record(b"PK\x03\x04", b"\x14\0", name, crc, len), name.as_bytes().to_vec()].concat()
    };
    let central = |name: &str, crc, len, at: usize| {
        let record = record(b"PK\x01\x02", b"\x14\0\x14\0", name, crc, len);
        [&record, &[0; 10][..], &(at as u32).to_le_bytes(), name.as_bytes()].concat()
    };
    let (mut start, mut end, mut count) = (Vec::new(), Vec::new(), 1u8);
    if let Some((name, bytes)) = small {
        let (crc, len) = (crc32fast::hash(bytes), bytes.len() as u64);
        start = [local(name, crc, len), bytes.to_vec()].concat();
        end = central(name, crc, len, 0);
        count += 1;
    }
    let at = start.len();
    let before = at + local(name, 0, 0).len();
    let len = LEN - (before + end.len() + central(name, 0, 0, at).len() + 22) as u64;
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    let mut left = len as usize - header.len();
    while left > 0 {
        let zeros = [0; 1 << 16];
        crc.update(&zeros[..left.min(zeros.len())]);
        left -= left.min(zeros.len());
    }
    let crc = crc.finalize();
    start.extend([&local(name, crc, len), header].concat());
    end.extend(central(name, crc, len, at));
    let place = [end.len() as u32, before as u32 + len as u32].map(u32::to_le_bytes).concat();
    end.extend([b"PK\x05\x06\0\0\0\0", &[count, 0, count, 0][..], &place, b"\0\0"].concat());
    Sparse { start, end }
}

/// The legacy form up to the elements, which begin at a multiple of their size.
fn legacy(floats: u64) -> Vec<u8> {
    let magic: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";
    let object = object(floats, b"N");
    let keys: &[u8] = b"\x80\x02]X\x01\0\0\x000a.";
    let written = |system_info: &[u8]| [magic, system_info, &object, keys, &floats.to_le_bytes()].concat();
    let system_info = |len: usize| [b"\x80\x02U", &[len as u8][..], &vec![b' '; len], b"."].concat();
    let odd = written(&system_info(0)).len();
    written(&system_info(odd.next_multiple_of(4) - odd))
}

fn tar() -> Sparse {
    let entry = |name: &str, content: &[u8], len: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(len);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_cksum();
        [header.as_bytes(), content].concat()
    };
    let padded = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    const VIEWS: &[u8] = b"\x80\x02].";
    let before = b"\x80\x02K\x01.\x80\x02(X\x01\0\0\x000X\x03\0\0\0cpuctorch\nFloatStorage\nt.";
    let object: &[u8] = b"\x80\x02}X\x01\0\0\0wX\x01\0\0\x000Qs.";
    let record =
        b"\x80\x02K\x01.\x80\x02(X\x01\0\0\x000X\x01\0\0\x000ctorch\nFloatTensor\nt.\x01\0\0\0\0\0\0\0";
    // Before the storages: two entries of a header and a block, and a header; behind them two blocks of zeros.
    let first = (5 * 512 + before.len() + 8) as u64;
    let count = (LEN - 3 * 512 - first) / 4;
    let tensor = [&record[..], &[count, 1, 0].map(u64::to_le_bytes).concat()].concat();
    let storages = [&before[..], &count.to_le_bytes()].concat();
    let len = storages.len() as u64 + 4 * count + VIEWS.len() as u64;
    let start = [
        padded(entry("tensors", &tensor, tensor.len() as u64)),
        padded(entry("pickle", object, object.len() as u64)),
        entry("storages", &storages, len),
    ]
    .concat();
    assert_eq!(start.len() as u64, first);
    let mut end = VIEWS.to_vec();
    end.resize((LEN - first - 4 * count) as usize, 0);
    Sparse { start, end }
}

/// A file of this format, whose one tensor is almost all of it; a bare pickle has none.
fn made(family: Family) -> Sparse {
    let open = |start: Vec<u8>| Sparse { start, end: Vec::new() };
    match family {
        Family::Zip => {
            let floats = (LEN - 4096) / 4;
            zip(Some(("m/data.pkl", &object(floats, b""))), "m/data/0", b"")
        }
        Family::Npz => {
            // The file but for the records of the zip around it: local, central and at the end.
            let entry = LEN as usize - (30 + 46 + 2 * "w.npy".len() + 22);
            let header = npy::header(DType::F32, &[(entry - 128) / 4]).unwrap();
            assert_eq!((header.len(), entry % 4), (128, 0));
            zip(None, "w.npy", &header)
        }
        Family::Npy => {
            let len = npy::header(DType::F32, &[LEN as usize]).unwrap().len();
            open(npy::header(DType::F32, &[(LEN as usize - len) / 4]).unwrap())
        }
        Family::Gguf => {
            let entry = [&b"\x01\0\0\0\0\0\0\0w\x01\0\0\0"[..], &((LEN - 64) / 4).to_le_bytes(), &[0; 12]];
            let counts = [1u64, 0].map(u64::to_le_bytes).concat();
            let mut start = [b"GGUF\x03\0\0\0", &*counts, &entry.concat()].concat();
            start.resize(start.len().next_multiple_of(32), 0);
            assert_eq!(start.len(), 64);
            open(start)
        }
        Family::SafeTensors => {
            let header = |len: u64| {
                let text = format!(r#"{{"w":{{"dtype":"U8","shape":[{len}],"data_offsets":[0,{len}]}}}}"#);
                [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
            };
            open(header(LEN - header(LEN).len() as u64))
        }
        Family::TorchLegacy => open(legacy((LEN - legacy(0).len() as u64) / 4)),
        Family::Tar => tar(),
        Family::Pickle => open(b"\x80\x02}X\x01\0\0\0wK\x01s.".to_vec()),
    }
}

#[test]
fn nothing_asks_for_a_file_as_a_whole() {
    for container in &FORMATS {
        let family = container.family;
        let name = Path::new("w.ckpt");
        let source = Source::of(name, Stamp::never(name), made(family));
        let head = source.data().window(0, HEAD).unwrap();
        assert_eq!(format::recognise(&head).map(|container| container.family), Some(family));
        let contents = format::read(&source).unwrap();
        assert!(contents.faults.is_empty(), "{family:?}: {:?}", contents.faults);
        let held: u64 = contents.tensors.iter().filter_map(|t| t.byte_len()).sum();
        match family {
            Family::Pickle => assert_eq!(held, 0),
            _ => assert!((LEN - 8192..LEN).contains(&held), "{family:?}: {held} bytes of tensors"),
        }
        let scan = scan_source(&source, &Options::default()).unwrap();
        assert_eq!((scan.unreadable.as_deref(), &*scan.findings), (None, &[][..]), "{family:?}");
    }
}

#[test]
fn what_follows_the_storages_is_swept_in_pieces() {
    // Its storage ends early, and a pickle that imports lies across a piece's border.
    let floats = 1000;
    let mut start = legacy(floats);
    let end = start.len() + 4 * floats as usize;
    let at = (1 << 20) - 1;
    start.resize(end + at, 0);
    start.extend(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.");
    let made = Sparse { start, end: Vec::new() };
    let name = Path::new("w.ckpt");
    let source = Source::of(name, Stamp::never(name), made);
    let scan = scan_source(&source, &Options::default()).unwrap();
    let found = scan.findings.iter().find(|f| f.global.as_deref() == Some("os.system")).unwrap();
    assert_eq!(found.offset, Some(at as u64 + 2));
}
