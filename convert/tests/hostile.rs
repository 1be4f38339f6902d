//! Damaged sources: whatever a fixture is changed into, converting it works or says why not, and never leaves a file
//! that does not say the same.

use std::path::{Path, PathBuf};

use ckpt_convert::{Control, Error, Gguf, Options, Plan, Target, verify_written, write};
use ckpt_inspect::{DType, open, staged};
use proptest::prelude::*;

const FIXTURES: [&str; 8] = [
    "formats/views.pt",
    "formats/tied.pt",
    "formats/sparse.pt",
    "formats/quantized.pt",
    "formats/training.pt",
    "formats/legacy.pt",
    "formats/dtypes_int.pt",
    "formats/deflated.pt",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// PyTorch adds up what a sparse tensor lists twice; writing one of the two would be wrong.
#[test]
fn an_uncoalesced_sparse_tensor_is_not_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inspect/tests/data/uncoalesced.pt");
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = open(&path).unwrap();
    let options = Options::new(Target::SafeTensors);
    let mut plan = Plan::new(&checkpoint, &options).unwrap();
    let stop = Default::default();
    let control = Control::new(&|_| (), &stop);
    let error = write(&mut plan, &options, &folder.path().join("to"), control).unwrap_err();
    assert!(error.to_string().contains("`twice`") && error.to_string().contains("coalesce"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A SafeTensors file of one-element tensors by these names.
fn named(path: &Path, names: &[&str]) {
    let entry = |(i, name): (usize, &&str)| {
        let entry = serde_json::json!({"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]});
        (name.to_string(), entry)
    };
    let header: serde_json::Map<_, _> = names.iter().enumerate().map(entry).collect();
    let header = serde_json::Value::Object(header).to_string().into_bytes();
    let values: Vec<u8> = (0..names.len()).flat_map(|i| (i as f32).to_le_bytes()).collect();
    std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &values].concat()).unwrap();
}

/// Entries of an archive are names of files for whoever unpacks it.
#[test]
fn names_of_arrays_stay_inside_the_archive() {
    let folder = tempfile::tempdir().unwrap();
    let (source, to) = (folder.path().join("source"), folder.path().join("to"));
    let convert = |names: &[&str]| {
        named(&source, names);
        let checkpoint = open(&source).unwrap();
        let options = Options::new(Target::Npz);
        let mut plan = Plan::new(&checkpoint, &options)?;
        let stop = Default::default();
        write(&mut plan, &options, &to, Control::new(&|_| (), &stop))?;
        assert!(verify_written(&plan, &to)?.agrees());
        Ok::<(), Error>(())
    };
    convert(&["a/b", "ünï.cödé", "two words", "\"'\n\t", "b.npy", "x\\y", "...", "a..b", "", "ab:c"])
        .unwrap();
    std::fs::remove_file(&to).unwrap();
    let long = "n".repeat(65_001);
    for (names, why) in [
        (&["w", "/etc/passwd"][..], "outside of the archive"),
        (&["\\\\server\\share"], "outside of the archive"),
        (&["C:w"], "outside of the archive"),
        (&["../w"], "leads out"),
        (&["a/../../w"], "leads out"),
        (&["a\\..\\w"], "leads out"),
        (&["a\0b"], "zero character"),
        (&["w", "w.npy"], "another tensor"),
        (&[&long], "longer"),
    ] {
        let error = convert(names).unwrap_err();
        assert!(matches!(&error, Error::Target(text) if text.contains(why) && text.len() < 300), "{error}");
        assert!(!to.exists());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_fixture_converts_or_says_why_not(
        which in 0..FIXTURES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        target in 0..6usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (source, to) = (folder.path().join("source"), folder.path().join("to"));
        let mut bytes = std::fs::read(fixture(FIXTURES[which])).unwrap();
        // Most of the pickle, and what stands before it, lies in the first bytes.
        let reach = bytes.len().min(4096);
        for (at, byte) in &changes {
            bytes[at.index(reach)] = *byte;
        }
        std::fs::write(&source, bytes).unwrap();
        let Ok(checkpoint) = open(&source) else { return Ok(()) };
        let ternary = Some(globset::Glob::new("*").unwrap().compile_matcher());
        let options = match target {
            0 => Options::new(Target::Torch),
            1 => Options::new(Target::SafeTensors),
            2 => Options::new(Target::Torch).with(|o| { o.dtype = Some(DType::F16); o.keep_optimizer = true; }),
            3 => Options::new(Target::I2s).with(|o| o.ternary = ternary),
            4 => Options::new(Target::Gguf(Gguf::default())),
            _ => Options::new(Target::Npz),
        };
        let Ok(mut plan) = Plan::new(&checkpoint, &options) else { return Ok(()) };
        let stop = Default::default();
        match write(&mut plan, &options, &to, Control::new(&|_| (), &stop)) {
            Ok(_) => prop_assert!(verify_written(&plan, &to).is_ok_and(|report| report.agrees())),
            Err(error) => {
                let foreseen = match &error {
                    Error::Read(_) | Error::Target(_) | Error::Source { .. } => true,
                    Error::Output(error) => matches!(error, staged::Error::NoSpace { .. } | staged::Error::Write { .. }),
                    _ => false,
                };
                prop_assert!(foreseen, "{error}");
                let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
                prop_assert_eq!(left, ["source"]);
            }
        }
    }
}
