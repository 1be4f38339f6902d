//! Listings of distributed checkpoints (`.metadata`) that are wrong in places.

use std::path::Path;

use ckpt_inspect::scan::{self, Rule};
use ckpt_inspect::{Checkpoint, DamageKind, NoticeKind, open};
use ckpt_kit::peers;

fn copy_of(name: &str) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/distributed").join(name);
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

fn damaged(checkpoint: &Checkpoint) -> Vec<(&str, DamageKind)> {
    let damage = |t: &'_ ckpt_inspect::TensorInfo| t.damage.as_ref().map(|damage| damage.kind);
    checkpoint.tensors.iter().filter_map(|t| Some((t.name.as_str(), damage(t)?))).collect()
}

#[test]
fn a_listing_that_is_empty_or_cut_short_is_that_of_a_save_that_did_not_finish() {
    let folder = copy_of("step-7");
    let path = folder.path().join(".metadata");
    let whole = std::fs::read(&path).unwrap();
    for (len, expected) in
        [(0, "is empty: saving was not finished"), (whole.len() / 2, "is cut short or damaged")]
    {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert_eq!(error.fault, Some(DamageKind::CutShort));
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains(".metadata, which is written last"), "{error}");
        assert_eq!(error.hint.as_deref(), Some("use the checkpoint of an earlier step"));
    }
}

#[test]
fn paths_out_of_the_folder_are_not_followed_and_are_told() {
    let folder = copy_of("step-7");
    let path = folder.path().join(".metadata");
    let mut bytes = std::fs::read(&path).unwrap();
    let (name, other) = (b"__1_0.distcp", b"../y0.distcp");
    let places: Vec<usize> =
        (0..bytes.len() - name.len()).filter(|&at| bytes[at..].starts_with(name)).collect();
    for at in places {
        bytes[at..at + other.len()].copy_from_slice(other);
    }
    std::fs::write(&path, bytes).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let damage = checkpoint.damage.clone().unwrap();
    let expected = "the listing names 1 of 2 files by paths out of the folder, which are not followed, such as ../y0.distcp";
    assert!(damage.what.starts_with(expected), "{damage}");
    assert!(!damage.what.contains("files missing"), "{damage}");
    let tensor = checkpoint.tensor("model.layers.0.mlp.up_proj.weight").unwrap();
    let why = tensor.damage.clone().unwrap().what;
    assert!(why.contains("../y0.distcp leads out of the folder, and is not followed"), "{why}");
    let scan = scan::scan(&path, &scan::Options::default()).unwrap();
    let found = scan.findings.iter().find(|finding| finding.rule == Rule::PathOutside).unwrap();
    assert!(found.message.contains("PyTorch would read `../y0.distcp`"), "{}", found.message);
}

/// What PyTorch writes, with single entries changed by it.
#[test]
fn what_is_wrong_with_an_entry_costs_that_entry() {
    let Some(python) = peers::python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.script("inspect", "listings.py", &[folder.path()]);
    let at = |name: &str| folder.path().join(name);
    let whole = open(at("whole")).unwrap();
    assert_eq!((damaged(&whole), whole.damage.clone(), whole.warnings.len()), (vec![], None, 0));

    let negative = open(at("negative")).unwrap();
    assert_eq!(damaged(&negative), [("a", DamageKind::UnreadableEntry)]);
    let why = negative.tensor("a").unwrap().damage.clone().unwrap().what;
    assert!(
        why.contains("the listing says that its offset in __0_0.distcp is -5, which is negative"),
        "{why}"
    );
    assert_eq!(negative.tensor("b").unwrap().bytes().unwrap(), whole.tensor("b").unwrap().bytes().unwrap());

    let block = open(at("block")).unwrap();
    assert_eq!(damaged(&block), [("a", DamageKind::UnreadableEntry)]);
    let why = block.tensor("a").unwrap().damage.clone().unwrap().what;
    assert!(why.contains("the negative number -2"), "{why}");

    let shared = open(at("shared")).unwrap();
    let told: Vec<_> = shared.warnings.iter().filter(|n| n.kind == NoticeKind::Contradiction).collect();
    let [notice] = told[..] else { panic!("{:?}", shared.warnings) };
    assert!(
        notice.text.starts_with("`a` and `b` are by the listing in the same bytes of __0_0.distcp"),
        "{notice}"
    );
    assert!(notice.is_finding());

    let gone = open(at("gone")).unwrap();
    let what = gone.damage.unwrap().what;
    assert!(
        what.contains("the value `values.") && what.ends_with("and 7 more entries that cannot be read"),
        "{what}"
    );

    // A tensor that has other parts than elements, in one block.
    let quantized = open(at("quantized")).unwrap();
    assert_eq!((damaged(&quantized), quantized.damage.clone()), (vec![], None));
    let values = quantized.values(quantized.tensor("x").unwrap()).unwrap();
    assert_eq!(values, [0.5, -0.5, 1.0, 0.0]);
}
