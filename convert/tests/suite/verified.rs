//! What verification compares of two checkpoints, and what it says of what differs.

use std::path::Path;

use ckpt_convert::{Options, Report, Rule, Target, verify};
use ckpt_inspect::{DType, open};
use ckpt_kit::fixtures::fixture;
use ckpt_kit::numbers::le;
use ckpt_kit::safetensors::SafeTensors;

use super::round_trips::{bytes, convert, verified};

#[test]
fn verification_sees_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("healthy-run/step-02000.pt");
    let copy = folder.path().join("copy.safetensors");
    let packed = folder.path().join("packed.pt");
    convert(&source, &Options::new(Target::SafeTensors).with(|o| o.dtype = Some(DType::F16)), &copy);
    convert(&source, &Options::new(Target::I2s), &packed);
    assert!(verified(&source, &copy).tensors.iter().all(|t| t.agrees && t.rule == Rule::Rounded));
    let flip = |path: &Path, name: &str| {
        let offset = {
            let checkpoint = open(path).unwrap();
            let found = bytes(&checkpoint, name);
            let raw = std::fs::read(path).unwrap();
            raw.windows(found.len()).position(|w| w == found).unwrap()
        };
        let mut raw = std::fs::read(path).unwrap();
        raw[offset] ^= 1;
        std::fs::write(path, raw).unwrap();
    };
    flip(&copy, "layers.0.mlp.up_proj.weight");
    flip(&packed, "model_state_dict.layers.1.mlp.up_proj_scale");
    flip(&packed, "model_state_dict.layers.1.mlp.down_proj.weight");
    let failed = |report: &Report| -> Vec<(String, Option<u64>)> {
        report.failures().map(|t| (t.other.clone(), t.first)).collect()
    };
    let report = verified(&source, &copy);
    assert_eq!(failed(&report), [("layers.0.mlp.up_proj.weight".into(), Some(0))]);
    // One bit of a code: the first byte's last value, element 3. One bit of a scale is within what mean|W| leaves
    // open against floats, but is detected against the packed original.
    let report = verified(&source, &packed);
    assert_eq!(failed(&report), [("model_state_dict.layers.1.mlp.down_proj.weight".into(), Some(3))]);
    let other = open(fixture("healthy-run/step-01000.pt")).unwrap();
    let report = verify(&open(&source).unwrap(), &other).unwrap();
    assert!(report.failures().count() > 20);
    let report = verify(&open(fixture("formats/whole.pt")).unwrap(), &other).unwrap();
    assert_eq!((report.missing.len(), report.extra.len(), report.tensors.len()), (6, 24, 0));
    assert!(!report.agrees());
}

/// Elements of one type are compared as they are stored, and the difference is told.
#[test]
fn verification_compares_every_bit_of_a_type() {
    let folder = tempfile::tempdir().unwrap();
    let written = |name: &str, file: SafeTensors| {
        let path = folder.path().join(name);
        file.write(&path);
        path
    };
    let doubles = |name: &str, third: f64| {
        let values = [0.1f64, -1e300, third, f64::MIN_POSITIVE];
        written(name, SafeTensors::new().tensor("l.weight", "F64", &[2, 2], &le(&values)))
    };
    let (one, near) = (doubles("a.safetensors", 0.7), doubles("b.safetensors", 0.7 + 1e-12));
    let report = verified(&one, &near);
    let tensor = &report.tensors[0];
    assert_eq!((report.agrees(), tensor.differing, tensor.first), (false, 1, Some(2)));
    assert!((tensor.worst.unwrap() / 1e-12 - 1.0).abs() < 1e-3, "{:?}", tensor.worst);
    for (name, target) in [("c.npz", Target::Npz), ("c.pt", Target::Torch)] {
        let copy = folder.path().join(name);
        convert(&one, &Options::new(target), &copy);
        assert!(verified(&one, &copy).agrees() && !verified(&near, &copy).agrees(), "{name}");
    }
    // Also in another order of rows, which is that of llama.cpp's files, and what is written from them.
    let mut keys = ckpt_inspect::gguf::Keys::default();
    keys.set("general.architecture", "llama");
    for (key, n) in [("block_count", 1u32), ("embedding_length", 2), ("attention.head_count", 1)] {
        keys.set(&format!("llama.{key}"), &n);
    }
    let entry = ckpt_inspect::gguf::OutputEntry::new(
        "blk.0.attn_q.weight",
        ckpt_inspect::ggml::GgmlType::F64,
        vec![4, 2],
    );
    let layout = ckpt_inspect::gguf::Layout::new(&keys, &[entry]).unwrap();
    let rows: [f64; 8] = std::array::from_fn(|i| i as f64 + 1e-12);
    let mut file = layout.header.clone();
    file.resize(layout.offsets[0] as usize, 0);
    file.extend(le(&rows));
    let gguf = folder.path().join("m.gguf");
    std::fs::write(&gguf, file).unwrap();
    let copy = folder.path().join("m.safetensors");
    convert(&gguf, &Options::new(Target::SafeTensors).with(|o| o.allow_incomplete = true), &copy);
    let halves = [0, 1, 4, 5, 2, 3, 6, 7].map(|i: usize| rows[i]);
    let stored = open(&copy).unwrap();
    assert_eq!(bytes(&stored, stored.tensors[0].name.as_str()), le(&halves));
    assert!(verified(&gguf, &copy).agrees());
    let mut raw = std::fs::read(&copy).unwrap();
    let end = raw.len() - 16;
    raw[end] ^= 1;
    std::fs::write(&copy, raw).unwrap();
    assert!(!verified(&gguf, &copy).agrees());
    // NaNs are not all the same.
    let nan = |name: &str, bits: u32| {
        written(name, SafeTensors::new().tensor("x.weight", "F32", &[2], &le(&[1.0f32.to_bits(), bits])))
    };
    let (quiet, other) = (nan("q.safetensors", 0x7fc0_0000), nan("o.safetensors", 0x7fc0_0002));
    assert!(verified(&quiet, &quiet).agrees() && !verified(&quiet, &other).agrees());
}

/// Integers and bools too, whatever they are called; what is not compared is told.
#[test]
fn verification_compares_every_tensor_of_a_state_dict() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let file = |dtype: &str, name: &str, values: &[u8]| {
        SafeTensors::new().f32s("n.weight", &[1], &[1.0]).tensor(name, dtype, &[2, values.len() / 2], values)
    };
    for dtype in ["I8", "U8", "BOOL"] {
        for name in
            ["codes", "step", "position_ids", "layers.0.idx", "b.mask", "x.weight_scale", "quant.codebook"]
        {
            file(dtype, name, &[0, 1, 1, 0]).write(&path("a.safetensors"));
            file(dtype, name, &[0, 1, 1, 1]).write(&path("b.safetensors"));
            SafeTensors::new().f32s("n.weight", &[1], &[1.0]).write(&path("c.safetensors"));
            let (a, b, c) = (path("a.safetensors"), path("b.safetensors"), path("c.safetensors"));
            assert!(verified(&a, &a).agrees(), "{dtype} {name}");
            let report = verified(&a, &b);
            assert_eq!(report.failures().map(|t| t.first).collect::<Vec<_>>(), [Some(3)], "{dtype} {name}");
            assert_eq!(verified(&a, &c).missing.len(), 1, "{dtype} {name}");
            assert_eq!(verified(&c, &a).extra.len(), 1, "{dtype} {name}");
        }
    }
    let report = verified(&fixture("healthy-run/step-02000.pt"), &fixture("healthy-run/step-02000.pt"));
    assert!(report.agrees() && report.skipped.iter().any(|name| name.starts_with("optimizer_state_dict.")));
}
