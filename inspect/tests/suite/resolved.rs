//! Tensors that stand for others: with the negative or the conjugate bit set, and those of lazy modules that have no shape
//! yet.

use std::collections::BTreeMap;
use std::path::Path;

use ckpt_inspect::{Checkpoint, DamageKind, NoticeKind, Options, describe, open, open_bytes};
use ckpt_kit::pickle::{call, dict, global, pickle};
use ckpt_kit::{numbers, peers, torch};

const SET: &[u8] = b"\x88";
const UNSET: &[u8] = b"\x89";

/// Type, shape and bytes of each tensor, and what is measured of it.
fn tensors(checkpoint: &Checkpoint) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let content = |t: &ckpt_inspect::TensorInfo| {
        let bytes = t.bytes().unwrap_or_else(|e| panic!("{}: {e}", t.name)).into_owned();
        (t.name.clone(), (t.dtype.to_string(), t.shape.clone(), bytes))
    };
    checkpoint.tensors.iter().map(content).collect()
}

/// Those of `found` are those of `expected`, however they are read.
#[track_caller]
fn assert_same(found: &Path, expected: &Path) {
    let (mut found, expected) = (open(found).unwrap(), open(expected).unwrap());
    assert_eq!(found.damage, None);
    let [notice] = &found.warnings[..] else { panic!("{:?}", found.warnings) };
    assert!(notice.text.contains("the negative or the conjugate bit set"), "{notice}");
    assert_eq!(tensors(&found), tensors(&expected));
    assert_eq!(found.verify_checksums(), [""; 0]);
    let measured = |checkpoint: &Checkpoint| {
        let record = describe(checkpoint, Options::default().with(|o| o.sha256 = true), &|_| ());
        let of = record.tensors.iter().map(|t| (t.name.clone(), (t.sha256.clone(), t.stats.clone())));
        of.collect::<BTreeMap<_, _>>()
    };
    let (a, b) = (measured(&found), measured(&expected));
    for (name, (sha256, stats)) in &b {
        assert_eq!(&a[name].0, sha256, "{name}");
        assert_eq!(format!("{:?}", a[name].1), format!("{stats:?}"), "{name}");
    }
    for tensor in &expected.tensors {
        let other = found.tensor(&tensor.name).unwrap();
        // A part of it, as writers ask for it.
        if let Some(part) = other.stretch(1, tensor.numel() - 1) {
            let size = tensor.dtype.element_size().unwrap();
            assert_eq!(*part.bytes().unwrap(), tensor.bytes().unwrap()[size..], "{}", tensor.name);
        }
    }
}

#[test]
fn elements_are_those_that_pytorch_makes_of_the_stored_ones() {
    let values: Vec<f32> = (1..=6).map(|x| x as f32).collect();
    let bytes = numbers::le(&values);
    let tensor = |class: &str, count: usize, shape: &[usize], strides: &[usize], bits: &[(&str, Vec<u8>)]| {
        torch::rebuild_with(class, "0", count, (shape, strides), bits)
    };
    let neg = [("neg", SET.to_vec())];
    let object = dict(&[
        ("plain", tensor("FloatStorage", 6, &[2, 3], &[3, 1], &[("neg", UNSET.to_vec())])),
        ("neg", tensor("FloatStorage", 6, &[2, 3], &[3, 1], &neg)),
        ("turned", tensor("FloatStorage", 6, &[3, 2], &[1, 3], &neg)),
        ("again", tensor("FloatStorage", 6, &[2, 3], &[3, 1], &neg)),
        ("other", tensor("FloatStorage", 6, &[1], &[1], &[("backend", b"N".to_vec())])),
    ]);
    let file = torch::zip_of(&pickle(2, &object), std::slice::from_ref(&bytes));
    let checkpoint = open_bytes("bits.pt", file).unwrap();
    let read = |name: &str| checkpoint.values(checkpoint.tensor(name).unwrap()).unwrap();
    assert_eq!(read("plain"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(read("neg"), [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]);
    assert_eq!(read("turned"), [-1.0, -4.0, -2.0, -5.0, -3.0, -6.0]);
    let view =
        checkpoint.tensor("turned").unwrap().view::<f32>().unwrap().iter().copied().collect::<Vec<_>>();
    assert_eq!(view, [-1.0, -4.0, -2.0, -5.0, -3.0, -6.0]);
    assert_eq!(checkpoint.tensor("neg").unwrap().borrowed(), None);
    // Views of the same storage stay so, and the plain one is no view of theirs.
    let shared =
        [vec!["other"], vec!["turned", "again"], vec!["neg", "again"], vec!["neg", "turned"], vec!["plain"]];
    assert_eq!(checkpoint.sharing(8), shared);
    let told: Vec<(NoticeKind, &str)> =
        checkpoint.warnings.iter().map(|notice| (notice.kind, notice.text.as_str())).collect();
    let [(unread, entry), (resolved, bits)] = told[..] else { panic!("{told:?}") };
    assert_eq!((unread, resolved), (NoticeKind::NotShown, NoticeKind::Unusual));
    assert!(entry.starts_with("`other` was saved with an entry `backend`"), "{entry}");
    assert!(
        bits.starts_with("`neg` and 2 more tensors have the negative or the conjugate bit set"),
        "{bits}"
    );
    // What has no negative.
    let object = dict(&[("x", tensor("BoolStorage", 24, &[24], &[1], &neg))]);
    let checkpoint = open_bytes("bits.pt", torch::zip_of(&pickle(2, &object), &[bytes])).unwrap();
    assert!(checkpoint.tensor("x").is_err());
    assert!(
        checkpoint.warnings[0].text.contains("PyTorch has no negative of bool"),
        "{:?}",
        checkpoint.warnings
    );
}

#[test]
fn bytes_that_are_lost_under_a_bit_are_damage() {
    let bits = [("neg", SET.to_vec())];
    let x = torch::rebuild_with("FloatStorage", "0", 6, (&[6], &[1]), &bits);
    let file = torch::zip_of(&pickle(2, &dict(&[("x", x)])), &[numbers::le(&[1.0f32; 4])]);
    let checkpoint = open_bytes("bits.pt", file).unwrap();
    let damage = checkpoint.tensor("x").unwrap().damage.clone().unwrap();
    assert_eq!(damage.kind, DamageKind::BeyondStorage);
}

#[test]
fn parameters_of_lazy_modules_are_listed_and_have_no_data() {
    let lazy = |class: &str, grad: &[u8]| call(&global("torch.nn.parameter", class), &[grad.to_vec()]);
    let object = dict(&[
        ("weight", lazy("UninitializedParameter", SET)),
        ("mean", lazy("UninitializedBuffer", UNSET)),
        ("w", torch::rebuild("FloatStorage", "0", 2, 0, &[2], &[1])),
    ]);
    let file = torch::zip_of(&pickle(2, &object), &[numbers::le(&[1.0f32, 2.0])]);
    let checkpoint = open_bytes("lazy.pt", file).unwrap();
    assert_eq!(checkpoint.tensors.len(), 3);
    for (name, grad) in [("weight", true), ("mean", false)] {
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(tensor.damage.as_ref().map(|damage| damage.kind), Some(DamageKind::NoData), "{name}");
        assert_eq!((tensor.requires_grad, tensor.bytes().is_err()), (grad, true), "{name}");
    }
    assert!(checkpoint.tensor("w").unwrap().damage.is_none());
}

#[test]
fn torch_loads_the_elements_that_are_read() {
    let Some(python) = peers::python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.script("inspect", "bits.py", &[folder.path()]);
    let at = |name: &str| folder.path().join(name);
    assert_same(&at("bits.pt"), &at("whole.pt"));
    assert_same(&at("bits-legacy.pt"), &at("whole.pt"));
    assert_same(&at("distributed"), &at("whole.pt"));
    let lazy = open(at("lazy.pt")).unwrap();
    let kinds: Vec<_> = lazy.tensors.iter().map(|t| t.damage.as_ref().map(|damage| damage.kind)).collect();
    assert_eq!(kinds, [Some(DamageKind::NoData), Some(DamageKind::NoData)]);
}
