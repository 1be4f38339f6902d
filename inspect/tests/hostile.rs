//! Any bytes at all give a checkpoint or a typed error: mutations of every fixture, and pickles made of random opcodes.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ckpt_inspect::pickle::Pickle;
use ckpt_inspect::{Checkpoint, Options, describe, find, judge, open, open_bytes};
use proptest::prelude::*;

type Files = Vec<(String, Vec<u8>)>;

fn fixtures() -> &'static Files {
    static FIXTURES: LazyLock<Files> = LazyLock::new(read_fixtures);
    &FIXTURES
}

fn read_fixtures() -> Files {
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
        .collect();
    let packed =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/packed/nano-healthy-2000-i2s.pt");
    all.push(("packed.pt".into(), std::fs::read(packed).unwrap()));
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

/// A Hugging Face BitNet model in two shards.
fn bitnet_set() -> Files {
    let shard = |header: &str, data: &[u8]| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    };
    let config = r#"{"architectures":["BitNetForCausalLM"],"model_type":"bitnet","quantization_config":{"quant_method":"bitnet","linear_class":"autobitlinear"}}"#;
    let index = r#"{"metadata":{"total_size":20},"weight_map":{"l.weight":"model-00001-of-00002.safetensors","l.weight_scale":"model-00001-of-00002.safetensors","n.weight":"model-00002-of-00002.safetensors"}}"#;
    let first = r#"{"l.weight":{"dtype":"U8","shape":[1,4],"data_offsets":[0,4]},"l.weight_scale":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let second = r#"{"n.weight":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}"#;
    vec![
        ("config.json".into(), config.into()),
        ("model.safetensors.index.json".into(), index.into()),
        ("model-00001-of-00002.safetensors".into(), shard(first, &[0x55, 0x99, 0x26, 0x12, 0, 0, 0, 0x3f])),
        ("model-00002-of-00002.safetensors".into(), shard(second, &[1, 0x3f, 2, 0x3f, 3, 0x3f, 4, 0x3f])),
    ]
}

#[test]
fn the_sharded_set_itself_opens() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in bitnet_set() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    let checkpoint = open(folder.path()).unwrap();
    assert!(!checkpoint.is_damaged(), "{:?}", checkpoint.damage);
    assert_eq!(checkpoint.tensor("l.weight").unwrap().dtype.name(), "hf_bitnet");
}

/// Opens, describes and judges `bytes`; whatever they are, this returns. In memory they are what they are in a file.
fn examine(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutated.pt");
    std::fs::write(&path, bytes).unwrap();
    let listed = |opened: Result<Checkpoint, ckpt_inspect::Error>| {
        opened.map_err(|e| e.to_string()).map(|checkpoint| {
            let tensors: Vec<String> = checkpoint.tensors.iter().map(|t| format!("{t:?}")).collect();
            (tensors, checkpoint.damage, checkpoint.warnings, checkpoint.globals)
        })
    };
    assert_eq!(listed(open_bytes(&path, bytes.to_vec())), listed(open(&path)));
    examine_at(&path)
}

fn examine_at(path: &Path) -> bool {
    match open(path) {
        Ok(mut checkpoint) => {
            checkpoint.verify_checksums();
            let mut record = describe(&checkpoint, Options::default().with(|o| o.sha256 = true), &|_| ());
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
        assert!(examine(bytes), "{name}");
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
        let mut bytes = file.get(fixtures()).1.clone();
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
    fn any_mutation_of_a_sharded_set_returns(
        file in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
        gone in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut files = bitnet_set();
        let count = files.len();
        let bytes = &mut files[file.index(count)].1;
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Some(gone) = gone {
            files.remove(gone.index(count));
        }
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        for path in find(folder.path()).unwrap() {
            examine_at(&path);
        }
    }

    #[test]
    fn any_mutation_of_a_gguf_header_returns(
        file in 0..2usize,
        flips in prop::collection::vec((0..1900usize, any::<u8>()), 1..6),
        big in prop::option::of((0..1900usize, any::<u64>())),
    ) {
        let name = ["every_type.gguf", "big_endian.gguf"][file];
        let (_, mut bytes) = fixtures().iter().find(|(n, _)| n == name).cloned().unwrap();
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

/// The SafeTensors file of a header alone.
fn without_data(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

/// A size that is zero comes after others whose product is beyond any machine.
#[test]
fn empty_tensors_whose_other_sizes_overflow() {
    let sizes = vec!["2"; 64].join(",");
    let header = format!(r#"{{"a":{{"dtype":"F32","shape":[{sizes},0],"data_offsets":[0,0]}}}}"#);
    let bytes = without_data(&header);
    let checkpoint = open_bytes("a", bytes.clone()).unwrap();
    assert_eq!((checkpoint.tensors[0].span(), checkpoint.parameters()), (Some(0), 0));
    assert!(examine(&bytes));
}

/// Heads are told and there are no rows for them to share.
#[test]
fn projections_without_rows_have_no_heads() {
    let tensor = |name: &str, rows: usize, at: [usize; 2]| {
        format!(r#""{name}.weight":{{"dtype":"F32","shape":[{rows},8],"data_offsets":{at:?}}}"#)
    };
    let tensors = [
        r#""__metadata__":{"config":"{\"num_heads\":4,\"hidden_dim\":8}"}"#.to_string(),
        tensor("embed_tokens", 4, [0, 128]),
        tensor("layers.0.self_attn.q_proj", 0, [128, 128]),
        tensor("layers.0.self_attn.k_proj", 0, [128, 128]),
        tensor("layers.0.mlp.gate_proj", 4, [128, 256]),
    ];
    let mut bytes = without_data(&format!("{{{}}}", tensors.join(",")));
    bytes.resize(bytes.len() + 256, 0);
    let student = open_bytes("a", bytes).unwrap().model.student.unwrap();
    assert_eq!((student.num_heads, student.num_kv_heads), (0, 0));
}
