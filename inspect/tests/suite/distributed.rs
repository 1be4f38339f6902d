//! What several ranks saved: `torch.distributed.checkpoint`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ckpt_inspect::scan::{self, Severity};
use ckpt_inspect::{Checkpoint, DamageKind, ErrorKind, Format, find, identity, lookup, open};
use ckpt_kit::peers;

/// Two ranks' blocks of a few tensors, and the same state dict whole (`tests/data/distributed.py`).
fn saved() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/distributed/step-7")
}

fn copy(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// Every tensor by its name: type, shape and bytes.
fn tensors(checkpoint: &Checkpoint) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let tensor = |t: &ckpt_inspect::TensorInfo| {
        let bytes = t.bytes().unwrap_or_else(|e| panic!("{}: {e}", t.name)).into_owned();
        (t.name.clone(), (t.dtype.to_string(), t.shape.clone(), bytes))
    };
    checkpoint.tensors.iter().map(tensor).collect()
}

#[track_caller]
fn assert_same(folder: &Path, whole: &Path) {
    let mut checkpoint = open(folder).unwrap();
    assert_eq!(checkpoint.format, Format::TorchDistributed);
    assert_eq!(checkpoint.damage, None);
    assert!(checkpoint.warnings.is_empty(), "{:?}", checkpoint.warnings);
    assert_eq!(checkpoint.verify_checksums(), [""; 0]);
    let (found, expected) = (tensors(&checkpoint), tensors(&open(whole).unwrap()));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in &expected {
        assert_eq!(&found[name], tensor, "{name}");
    }
}

#[test]
fn blocks_of_ranks_are_the_tensors_that_were_saved() {
    assert_same(&saved(), &saved().with_file_name("whole.pt"));
    let checkpoint = open(saved()).unwrap();
    assert_eq!(checkpoint.step, Some((7, "step".into())));
    let learning_rate = lookup(&checkpoint.metadata, "optimizer.param_groups.0.lr");
    assert_eq!(format!("{learning_rate:?}"), "Some(F64(0.001))");
    let files: BTreeSet<String> =
        checkpoint.files().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(files.iter().collect::<Vec<_>>(), [".metadata", "__0_0.distcp", "__1_0.distcp"]);
}

#[test]
fn any_file_of_the_folder_is_the_checkpoint() {
    for file in [".metadata", "__0_0.distcp", "__1_0.distcp"] {
        let file = saved().join(file);
        assert_eq!(open(&file).unwrap().tensors.len(), open(saved()).unwrap().tensors.len());
        assert_eq!(identity(&file), identity(&saved()));
    }
    assert_eq!(find(saved().parent().unwrap()).unwrap(), [saved().with_file_name("whole.pt"), saved()]);
}

#[test]
fn a_save_that_did_not_finish_is_said_to_be_one() {
    let folder = copy(&saved());
    std::fs::remove_file(folder.path().join(".metadata")).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged);
    assert!(error.to_string().contains("not finished"), "{error}");
    assert_eq!(find(folder.path()).unwrap(), [folder.path()]);
}

#[test]
fn what_a_missing_rank_had_is_damaged_and_the_rest_is_read() {
    let folder = copy(&saved());
    std::fs::remove_file(folder.path().join("__0_0.distcp")).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let damage = checkpoint.damage.clone().unwrap();
    assert_eq!(damage.kind, DamageKind::MissingShards);
    assert!(damage.what.starts_with("1 of 2 files missing: __0_0.distcp"), "{damage}");
    let (lost, whole): (Vec<_>, Vec<_>) = checkpoint.tensors.iter().partition(|t| t.damage.is_some());
    assert!(!lost.is_empty() && !whole.is_empty());
    for tensor in whole {
        tensor.bytes().unwrap();
    }
    for tensor in lost {
        assert!(tensor.damage.as_ref().unwrap().what.ends_with("__0_0.distcp is missing"), "{tensor:?}");
        assert!(tensor.bytes().is_err());
    }
}

#[test]
fn a_flipped_byte_shows_in_the_checksums() {
    let folder = copy(&saved());
    let file = folder.path().join("__0_0.distcp");
    let whole = std::fs::read(&file).unwrap();
    let data: Vec<u8> = open(saved().with_file_name("whole.pt"))
        .unwrap()
        .tensors
        .iter()
        .find(|t| t.name == "model.layers.0.mlp.up_proj.weight")
        .map(|t| t.bytes().unwrap()[..16].to_vec())
        .unwrap();
    let at = whole.windows(16).position(|bytes| bytes == data).unwrap();
    let mut flipped = whole;
    flipped[at + 2] ^= 1;
    std::fs::write(&file, flipped).unwrap();
    assert_eq!(open(folder.path()).unwrap().verify_checksums(), ["model.layers.0.mlp.up_proj.weight"]);
}

#[test]
fn the_listing_and_every_part_are_scanned() {
    let scanned = |folder: &Path| -> Vec<(String, Option<Severity>)> {
        let files = scan::files(folder).unwrap();
        let name = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
        let severity = |file: &PathBuf| scan::scan(file, &scan::Options::default()).unwrap().severity();
        let mut all: Vec<_> = files.iter().map(|file| (name(file), severity(file))).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let clean = scanned(&saved());
    assert_eq!(
        clean.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        [".metadata", "__0_0.distcp", "__1_0.distcp"]
    );
    assert!(
        clean.iter().all(|(_, severity)| severity.is_none_or(|severity| severity == Severity::Note)),
        "{clean:?}"
    );
    // torch unpickles the listing without any restriction.
    let folder = copy(&saved());
    let file = folder.path().join(".metadata");
    let listing = std::fs::read(&file).unwrap();
    let call = b"cos\nsystem\n(X\x02\0\0\0idtR0";
    std::fs::write(&file, [&listing[..2], call, &listing[2..]].concat()).unwrap();
    assert_eq!(scanned(folder.path())[0], (".metadata".into(), Some(Severity::Dangerous)));
}

/// Any byte of the listing changed, and any end cut off: an error or a checkpoint, in little time.
#[test]
fn a_listing_that_lies_is_an_error_or_damage() {
    let folder = copy(&saved());
    let file = folder.path().join(".metadata");
    let whole = std::fs::read(&file).unwrap();
    let mut read = 0;
    let mut try_out = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        if let Ok(checkpoint) = open(folder.path()) {
            read += 1;
            for tensor in &checkpoint.tensors {
                let _ = tensor.bytes();
            }
        }
    };
    for i in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[i] ^= 1 << (i % 8);
        try_out(&bytes);
        try_out(&whole[..i]);
    }
    assert!(read > 0);
}

#[test]
fn torch_saves_it_in_every_form_and_joins_it_to_the_same_bytes() {
    let Some(python) = peers::python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.script("inspect", "distributed.py", &[folder.path()]);
    let at = |name: &str| folder.path().join(name);
    for form in ["plain", "threads", "by-rank", "async"] {
        assert_same(&at(form), &at("whole.pt"));
    }
    assert_same(&at("safetensors"), &at("weights.pt"));
    // What every rank has is the same in all, unless one of them was changed.
    let file = at("by-rank").join("__2_0.distcp");
    let name = "model.layers.0.input_layernorm.weight";
    let norm = open(at("whole.pt")).unwrap().tensor(name).unwrap().bytes().unwrap().into_owned();
    let whole = std::fs::read(&file).unwrap();
    let place = whole.windows(norm.len()).position(|bytes| bytes == norm).unwrap();
    let crc = crc32fast::hash(&norm).to_le_bytes();
    let mut changed = whole.clone();
    changed[place] ^= 1;
    let other = crc32fast::hash(&changed[place..place + norm.len()]).to_le_bytes();
    for at in 0..whole.len() - 4 {
        if whole[at..at + 4] == crc {
            changed[at..at + 4].copy_from_slice(&other);
        }
    }
    std::fs::write(&file, changed).unwrap();
    let notices: Vec<String> =
        open(at("by-rank")).unwrap().warnings.into_iter().map(|notice| notice.text).collect();
    assert_eq!(
        notices,
        [format!(
            "`{name}` differs between __0_0.distcp and __2_0.distcp by their checksums; the first is used"
        )]
    );
    assert_same(&at("alone"), &at("alone.pt"));
}
