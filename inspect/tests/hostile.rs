//! Any bytes at all give a checkpoint or a typed error: mutations of every fixture, and pickles made of random opcodes.

use std::path::{Path, PathBuf};

use ckpt_inspect::pickle::Pickle;
use ckpt_inspect::{Options, describe, judge, open};
use proptest::prelude::*;

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/formats");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "pt"))
        .collect();
    files.sort();
    let mut all: Vec<(String, Vec<u8>)> = files
        .iter()
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(p).unwrap()))
        .filter(|(_, bytes)| bytes.len() < 20_000)
        .collect();
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for name in [
        "special.pt",
        "pickled-p2.pkl",
        "pickled-p4.pkl",
        "arrays-p2.pkl",
        "arrays-p5.pkl",
        "every_type.gguf",
        "big_endian.gguf",
    ] {
        all.push((name.into(), std::fs::read(made.join(name)).unwrap()));
    }
    all.push(("small.safetensors".into(), safetensors()));
    all.push(("tar.pt".into(), tar()));
    all
}

fn safetensors() -> Vec<u8> {
    let header = br#"{"__metadata__":{"step":"7"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend((0..32u8).map(|i| i.wrapping_mul(37)));
    bytes
}

fn tar() -> Vec<u8> {
    let pickled_int = |n: u8| vec![0x80, 2, b'K', n, b'.'];
    let mut storages = pickled_int(1);
    storages.extend(b"\x80\x02K\x05U\x03cpuctorch\nFloatStorage\n\x87.");
    storages.extend(2i64.to_le_bytes());
    storages.extend([1.5f32, -2.0].iter().flat_map(|v| v.to_le_bytes()));
    storages.extend(b"\x80\x02].");
    let mut tensors = pickled_int(1);
    tensors.extend(b"\x80\x02K\x09K\x05ctorch\nFloatTensor\n\x87.");
    tensors.extend(1i64.to_le_bytes());
    tensors.extend([2i64, 1, 0].iter().flat_map(|v| v.to_le_bytes()));
    let object = b"\x80\x02}U\x01wU\x019Qs.".to_vec();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [("storages", storages), ("tensors", tensors), ("pickle", object)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Opens, describes and judges `bytes`; whatever they are, this returns.
fn examine(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutated.pt");
    std::fs::write(&path, bytes).unwrap();
    match open(&path) {
        Ok(mut checkpoint) => {
            checkpoint.verify_checksums();
            let mut record = describe(&checkpoint, Options { sha256: true, ..Options::default() }, &|_| ());
            judge(&mut record, &Default::default());
            serde_json::to_string(&record).unwrap();
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    }
}

#[test]
fn the_fixtures_themselves_open() {
    for (name, bytes) in fixtures() {
        assert!(examine(&bytes), "{name}");
    }
}

#[test]
fn the_tar_form_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.pt");
    std::fs::write(&path, tar()).unwrap();
    let checkpoint = open(&path).unwrap();
    assert_eq!(checkpoint.format.name(), "pytorch-tar");
    let tensor = checkpoint.tensor("w").unwrap();
    assert_eq!(checkpoint.values(tensor).unwrap(), [1.5, -2.0]);
}

#[test]
fn every_truncation_returns() {
    for (_, bytes) in fixtures() {
        let step = (bytes.len() / 200).max(1);
        for end in (0..bytes.len()).step_by(step) {
            examine(&bytes[..end]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_mutation_of_any_fixture_returns(
        file in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        splice in prop::option::of((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..12))),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let files = fixtures();
        let mut bytes = file.get(&files).1.clone();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some((at, insert)) = splice {
            let at = at.index(bytes.len());
            bytes.splice(at..at, insert);
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        examine(&bytes);
    }

    #[test]
    fn any_mutation_of_a_gguf_header_returns(
        file in 0..2usize,
        flips in prop::collection::vec((0..1900usize, any::<u8>()), 1..6),
        big in prop::option::of((0..1900usize, any::<u64>())),
    ) {
        let name = ["every_type.gguf", "big_endian.gguf"][file];
        let (_, mut bytes) = fixtures().into_iter().find(|(n, _)| n == name).unwrap();
        for (at, value) in flips {
            bytes[at] = value;
        }
        if let Some((at, value)) = big {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        examine(&bytes);
    }

    #[test]
    fn any_bytes_are_a_pickle_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Pickle::parse(&bytes);
    }

    #[test]
    fn any_opcodes_are_a_pickle_or_an_error(
        opcodes in prop::collection::vec(prop::sample::select(
            b"()]}0122NaabddeeghijloPQRsttu.KMJGXUTBC\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8c\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x00\x01\x02\n".to_vec()
        ), 0..200),
    ) {
        let mut bytes = vec![0x80, 2];
        bytes.extend(opcodes);
        bytes.push(b'.');
        examine(&bytes);
    }
}

/// No elements, and a row length beyond any machine.
#[test]
fn empty_tensors_of_immense_rows() {
    let header =
        br#"{"a":{"dtype":"F32","shape":[0,4294967296,4294967296,4294967296],"data_offsets":[0,0]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    assert!(examine(&bytes));
}
