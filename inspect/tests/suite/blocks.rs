//! GGML's blocks: every type that is decoded, against gguf.quants and llama.cpp's C, to the bit.

use ckpt_inspect::ggml::GgmlType;
use ckpt_inspect::{
    DType, ErrorKind, Finding, Options, TensorRecord, Thresholds, Verdict, describe, judge, open_bytes,
};
use ckpt_kit::fixtures::data;
use ckpt_kit::gguf::Gguf;
use ckpt_kit::peers;
use ckpt_kit::random::Random;

/// The type by its name in GGML.
fn named(name: &str) -> GgmlType {
    match name.parse() {
        Ok(DType::Ggml(ggml)) => ggml,
        other => panic!("{name}: {other:?}"),
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Decodes `blocks`, and compares with `wanted`.
#[track_caller]
fn assert_decodes(ggml: GgmlType, blocks: &[u8], wanted: &[f32]) {
    let mut found = vec![f32::NAN; wanted.len()];
    ggml.decoder(blocks, wanted.len()).unwrap().read(0, &mut found);
    let same = |x: f32, y: f32| x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan();
    let differs = found.iter().zip(wanted).position(|(&x, &y)| !same(x, y));
    let at = differs.map(|i| (i, found[i], wanted[i]));
    assert_eq!(at, None, "{ggml}: an element, what it is here and what it should be");
}

/// Blocks of every byte, of noise, and of weights as gguf.quants encodes them.
#[test]
fn every_block_decodes_as_gguf_py_decodes_it() {
    let Some(python) = peers::python(&["numpy", "gguf"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let names = peers::json(&python.script("inspect", "ggml_blocks.py", &[folder.path()]));
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    for name in &names {
        let read = |kind: &str| std::fs::read(folder.path().join(format!("{name}.{kind}"))).unwrap();
        let (ggml, blocks, wanted) = (named(name), read("blocks"), floats(&read("f32")));
        assert!(wanted.len() / ggml.block_elements() >= 2000, "{name}");
        assert_decodes(ggml, &blocks, &wanted);
    }
    // What gguf.quants has no decoder for is compared with llama.cpp's C.
    let others: Vec<&str> = (0..100)
        .map(GgmlType)
        .filter(|ggml| ggml.decodes())
        .map(GgmlType::name)
        .filter(|name| !names.contains(name))
        .collect();
    assert_eq!(others, ["Q8_1", "Q8_K", "Q1_0", "Q2_0"]);
}

/// The types of data/ggml_blocks.c, in its order.
const IN_C: [&str; 14] = [
    "Q1_0", "Q2_0", "Q8_1", "NVFP4", "MXFP4", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS",
    "IQ3_S", "IQ4_NL", "IQ4_XS",
];

#[test]
fn blocks_of_llama_cpp_decode_as_it_decodes_them() {
    let all = std::fs::read(data("inspect", "ggml_blocks.bin")).unwrap();
    let mut rest = &all[..];
    for name in IN_C {
        let ggml = named(name);
        for _ in 0..3 {
            let (blocks, after) = rest.split_at(256 / ggml.block_elements() * ggml.block_bytes().unwrap());
            let (wanted, after) = after.split_at(4 * 256);
            assert_decodes(ggml, blocks, &floats(wanted));
            rest = after;
        }
    }
    assert!(rest.is_empty());
}

#[test]
fn types_that_are_named_and_not_decoded_say_so() {
    for name in ["Q4_2", "Q4_0_8_8", "I8_S", "TL1"] {
        let ggml = named(name);
        let bytes = vec![0x11; ggml.bytes_for(&[2, 256]).unwrap() as usize];
        let file = Gguf::new().tensor("w", &[256, 2], ggml.0, bytes).bytes();
        let checkpoint = open_bytes("model.gguf", file).unwrap();
        let tensor = checkpoint.tensor("w").unwrap();
        assert!(!checkpoint.is_damaged(), "{name}");
        assert_eq!(checkpoint.values(tensor).unwrap_err().kind, ErrorKind::Unsupported, "{name}");
        assert!(!ggml.decodes() && ggml.loss().is_none(), "{name}");
    }
}

/// GGML's decoders take the NaN of E8M0 for 2^128 and that of E4M3 for 0; it is a finding all the same, even where no
/// element shows it.
#[test]
fn a_scale_that_is_nan_is_found_in_blocks() {
    let judged = |name: &str, at: usize, scale: u8| {
        let ggml = named(name);
        let size = ggml.block_bytes().unwrap();
        let mut bytes: Vec<u8> = (0..256 * 64 / ggml.block_elements() * size)
            .map(|i| match i % size {
                0..4 if name == "NVFP4" => 0x38,
                0 if name == "MXFP4" => 120,
                within => (37 * within + i / size * 11) as u8,
            })
            .collect();
        bytes[5 * size..6 * size].fill(0);
        bytes[5 * size + at] = scale;
        let file = Gguf::new().tensor("blk.0.ffn_up.weight", &[256, 64], ggml.0, bytes).bytes();
        let checkpoint = open_bytes("model.gguf", file).unwrap();
        let mut record = describe(&checkpoint, Options::default(), &|_| ());
        judge(&mut record, &Thresholds::default());
        let json = serde_json::to_value(&record.tensors[0]).unwrap();
        assert_eq!(serde_json::from_value::<TensorRecord>(json).unwrap(), record.tensors[0]);
        let tensor = record.tensors.remove(0);
        assert_eq!(tensor.stats.as_ref().map(|s| s.nan + s.inf), Some(0), "no element is NaN");
        let odd = tensor.stats.and_then(|stats| stats.odd_scales);
        let nan_scales = odd.map_or(0, |odd| odd.nan);
        (nan_scales, tensor.verdict, tensor.finding.map(|f| *f))
    };
    for (name, at, scale) in [("MXFP4", 0, 255), ("NVFP4", 3, 0x7f), ("NVFP4", 1, 0xff)] {
        let (count, verdict, finding) = judged(name, at, scale);
        assert_eq!((count, verdict), (1, Some(Verdict::Corrupt)), "{name}");
        assert_eq!(finding, Some(Finding::NanScales { blocks: 1 }), "{name}");
    }
    for (name, at, scale) in [("MXFP4", 0, 254), ("MXFP4", 7, 255), ("NVFP4", 3, 0x7e), ("NVFP4", 9, 0x7f)] {
        let (count, verdict, _) = judged(name, at, scale);
        assert!(count == 0 && verdict != Some(Verdict::Corrupt), "{name} {at} {scale}");
    }
}

/// Blocks of signs have one magnitude each, which is no sign that they are bytes of another type.
#[test]
fn signs_with_a_scale_for_each_block_are_healthy() {
    let mut random = Random::new(8);
    let mut bytes = Vec::new();
    for _ in 0..64 * 1024 / 128 {
        // An f16 from 0.016 to 0.031.
        bytes.extend([random.below(256) as u8, 0x24 + random.below(4) as u8]);
        bytes.extend((0..16).map(|_| random.below(256) as u8));
    }
    let file = Gguf::new().tensor("blk.0.ffn_up.weight", &[1024, 64], GgmlType::Q1_0.0, bytes).bytes();
    let mut record = describe(&open_bytes("model.gguf", file).unwrap(), Options::default(), &|_| ());
    judge(&mut record, &Thresholds::default());
    assert_eq!((record.verdict, &record.tensors[0].finding), (Some(Verdict::Healthy), &None));
}
