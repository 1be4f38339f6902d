//! Sources that cannot be written as they are, and names that would lead out of an archive. What becomes of changed
//! files is in `fuzz/`.

use std::path::Path;

use ckpt_convert::{Control, Error, Options, Plan, Target, verify_written, write};
use ckpt_inspect::open;
use ckpt_kit::fixtures::data;
use ckpt_kit::safetensors::SafeTensors;

/// PyTorch adds up what a sparse tensor lists twice; writing one of the two would be wrong.
#[test]
fn an_uncoalesced_sparse_tensor_is_not_written() {
    let path = data("inspect", "uncoalesced.pt");
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
    names.iter().fold(SafeTensors::new(), |file, name| file.f32s(name, &[1], &[1.0])).write(path);
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
