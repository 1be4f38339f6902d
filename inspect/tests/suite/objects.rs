//! Checkpoints of unusual make against what PyTorch says of them: data/objects.py writes both.

use ckpt_inspect::diff::{Status, diff};
use ckpt_inspect::metadata::Value;
use ckpt_inspect::{Checkpoint, Options, describe, judge, open};
use ckpt_kit::fixtures::data;

fn read(name: &str) -> Checkpoint {
    open(data("inspect", name)).unwrap_or_else(|e| panic!("{e}"))
}

fn truth(name: &str) -> serde_json::Map<String, serde_json::Value> {
    let all: serde_json::Value = serde_json::from_str(include_str!("../data/objects.json")).unwrap();
    all[name].as_object().unwrap().clone()
}

/// Every tensor that PyTorch lists in `name`: dtype, shape, bytes.
fn agree(name: &str) -> Checkpoint {
    let checkpoint = read(name);
    let record = describe(&checkpoint, Options::default().with(|o| o.sha256 = true), &|_| ());
    for (tensor, wanted) in truth(name) {
        let found = record.tensors.iter().find(|t| t.name == tensor);
        let found = found.unwrap_or_else(|| panic!("{name}: `{tensor}` is not listed"));
        assert_eq!(found.damage, None, "{name}: {tensor}");
        assert_eq!(found.dtype.name(), wanted["dtype"].as_str().unwrap(), "{name}: {tensor}");
        assert_eq!(serde_json::to_value(&found.shape).unwrap(), wanted["shape"], "{name}: {tensor}");
        assert_eq!(found.sha256.as_deref(), wanted["sha256"].as_str(), "{name}: {tensor}");
    }
    checkpoint
}

#[test]
fn tensors_that_pickle_itself_wrote_are_read() {
    for name in ["pickled-p2.pkl", "pickled-p4.pkl"] {
        let checkpoint = agree(name);
        assert_eq!(checkpoint.tensors.len(), 5);
        assert_eq!(checkpoint.format.name(), "pickle");
        assert_eq!(checkpoint.sharing(8)[0], ["again"], "one object, pickled once");
        assert!(checkpoint.tensor("p").unwrap().requires_grad);
    }
    // From protocol 3 on the bytes lie in the file as they are.
    let checkpoint = read("pickled-p4.pkl");
    let bytes = checkpoint.tensor_bytes(checkpoint.tensor("w").unwrap()).unwrap();
    assert!(matches!(bytes, std::borrow::Cow::Borrowed(_)));
}

#[test]
fn numpy_arrays_are_the_weights_where_there_are_no_tensors() {
    for name in ["arrays-p2.pkl", "arrays-p5.pkl"] {
        let checkpoint = agree(name);
        assert_eq!(checkpoint.tensors.len(), 5);
        let fortran = checkpoint.tensor("fortran").unwrap();
        assert_eq!(fortran.strides, [1, 2]);
        assert_eq!(checkpoint.values(fortran).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(checkpoint.values(checkpoint.tensor("big").unwrap()).unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0]);
    }
}

#[test]
fn tensors_in_objects_and_plain_values_beside_them() {
    for name in ["objects-p2.pt", "objects-p5.pt"] {
        let checkpoint = agree(name);
        let listed = checkpoint.tensors.len();
        assert_eq!(listed, truth(name).len(), "{name}: nothing else is a tensor");
        assert_eq!(checkpoint.warnings, [""; 0], "{name}");
        let is = |path: &str, value: Value| assert_eq!(checkpoint.meta(path), Some(&value), "{name}: {path}");
        let text = |s: &str| Value::String(s.into());
        is("config.__class__", text("__main__.Config"));
        is("config.hidden", Value::I64(3));
        is("args.lr", Value::F64(0.1));
        is("count.a", Value::I64(2));
        is("raw", Value::Bytes(vec![0, 255]));
        is("device", text("cuda:1"));
        is("history.2", Value::F64(2.0));
        assert_eq!(checkpoint.meta("wide").unwrap().to_string(), (1u128 << 100).to_string());
        assert_eq!(checkpoint.meta("seed").unwrap().to_string(), u64::MAX.to_string());
        let Some(Value::List(steps)) = checkpoint.meta("steps") else { panic!("{name}: no steps") };
        assert_eq!(steps.len(), 20_000, "a long list of constants is no reason to cut the listing");
    }
}

#[test]
fn quantized_sparse_nested_and_meta_tensors_are_read() {
    let checkpoint = read("special.pt");
    let mut record = describe(&checkpoint, Options::default(), &|_| ());
    judge(&mut record, &Default::default());
    for (name, wanted) in truth("special.pt") {
        let tensor = record.tensors.iter().find(|t| t.name == name).unwrap();
        let stats = tensor.stats.as_ref().unwrap_or_else(|| panic!("{name} is not measured"));
        // PyTorch dequantizes in f32.
        let close = |found: f64, key: &str| (found - wanted[key].as_f64().unwrap()).abs() < 1e-6;
        assert!(close(stats.mean.unwrap(), "mean"), "{name}: mean {:?} for {}", stats.mean, wanted["mean"]);
        assert!(close(stats.std.unwrap(), "std"), "{name}: std {:?} for {}", stats.std, wanted["std"]);
        assert_eq!(Some(stats.zeros), wanted["zeros"].as_u64(), "{name}");
    }
    let meta = record.tensors.iter().find(|t| t.name == "meta").unwrap();
    assert_eq!(meta.verdict, Some(ckpt_inspect::Verdict::Corrupt));
    assert!(!record.damaged, "a meta tensor was saved without data; the file is whole");
}

#[test]
fn a_bit_flipped_in_a_part_of_a_sparse_or_quantized_tensor_is_found() {
    let path = data("inspect", "special.pt");
    let bytes = std::fs::read(&path).unwrap();
    let whole = read("special.pt");
    let folder = tempfile::tempdir().unwrap();
    let flipped = folder.path().join("flipped.pt");
    // The values of `csr`, and the scales of `q`.
    let sparse = whole.tensor("csr").unwrap().sparse.as_ref().unwrap().values.clone();
    let Some(ckpt_inspect::Quantizer::PerChannel { scales, .. }) =
        whole.tensor("q").unwrap().quantizer.clone()
    else {
        panic!("q is quantized per channel")
    };
    for (part, name) in [(sparse, "csr"), (*scales, "q")] {
        let content = whole.tensor_bytes(&part).unwrap();
        let at = bytes.windows(content.len()).position(|w| w == &content[..]).unwrap();
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        std::fs::write(&flipped, bytes).unwrap();
        let mut checkpoint = open(&flipped).unwrap();
        assert_eq!(checkpoint.verify_checksums(), [name]);
        assert!(checkpoint.is_damaged());
    }
}

/// PyTorch adds up what an uncoalesced tensor lists twice; here it is not measured, and never measured wrong.
#[test]
fn an_uncoalesced_sparse_tensor_is_not_measured() {
    let path = data("inspect", "uncoalesced.pt");
    let record = ckpt_inspect::describe(&ckpt_inspect::open(&path).unwrap(), Default::default(), &|_| ());
    let stats = |name: &str| record.tensors.iter().find(|t| t.name == name).unwrap().stats.clone();
    assert_eq!(stats("twice"), None);
    let once = stats("once").unwrap();
    assert_eq!((once.count, once.zeros, once.max, once.min), (4, 2, Some(3.0), Some(-0.5)));
}

/// Elements of a sparse tensor whose indices cannot be read are not known to have changed.
#[test]
fn a_sparse_tensor_without_its_indices_cannot_be_compared() {
    let mut checkpoint = read("special.pt");
    let coo = checkpoint.tensors.iter_mut().find(|t| t.name == "coo").unwrap();
    let indices = &mut coo.sparse.as_mut().unwrap().indices;
    indices[0].damage = Some(ckpt_inspect::Damage::new(ckpt_inspect::DamageKind::CutShort, "is cut short"));
    let found = diff(&checkpoint, &read("special.pt"), Default::default(), &|_| true).unwrap();
    let coo = found.tensors.iter().find(|t| t.name == "coo").unwrap();
    assert_eq!(coo.status, Status::Unreadable, "{coo:?}");
}
