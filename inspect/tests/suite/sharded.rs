//! Sharded sets and folders: complete, with shards missing, added, renamed or broken, and indices that lie.

use std::collections::HashMap;
use std::path::Path;

use ckpt_inspect::{Error, ErrorKind, NoticeKind, find, open, step_from_path};
use ckpt_kit::fixtures::fixture;
use ckpt_kit::safetensors::SafeTensors;

/// A file of tensors of one element.
fn safetensors(tensors: &[(&str, f32)]) -> Vec<u8> {
    tensors.iter().fold(SafeTensors::new(), |file, (name, value)| file.f32s(name, &[1], &[*value])).bytes()
}

fn shard(i: usize) -> String {
    format!("model-{i:05}-of-00002.safetensors")
}

/// a in the first shard, b and c in the second.
fn set(folder: &Path) {
    std::fs::write(folder.join(shard(1)), safetensors(&[("a", 1.0)])).unwrap();
    std::fs::write(folder.join(shard(2)), safetensors(&[("b", 2.0), ("c", 3.0)])).unwrap();
    index(folder, &[("a", &shard(1)), ("b", &shard(2)), ("c", &shard(2))]);
}

fn index(folder: &Path, map: &[(&str, &str)]) {
    let map: HashMap<&str, &str> = map.iter().copied().collect();
    let json = serde_json::json!({"metadata": {"total_size": 12}, "weight_map": map});
    std::fs::write(folder.join("model.safetensors.index.json"), json.to_string()).unwrap();
}

fn names(path: &Path) -> Vec<String> {
    let checkpoint = open(path).unwrap();
    assert_eq!(checkpoint.damage, None);
    let mut names: Vec<String> = checkpoint.tensors.iter().map(|t| t.name.clone()).collect();
    names.sort();
    names
}

#[test]
fn folder_index_and_any_shard_open_the_whole_set() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path());
    // As editors on Windows write it.
    let config = "\u{feff}{\"architectures\":[\"LlamaForCausalLM\"]}";
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    std::fs::write(folder.path().join("trainer_state.json"), r#"{"global_step":1800}"#).unwrap();
    for extra in ["optimizer.pt", "scheduler.pt", "rng_state.pth"] {
        std::fs::write(folder.path().join(extra), b"\x80\x02}.").unwrap();
    }
    let files = [shard(1), shard(2), "model.safetensors.index.json".into()];
    for path in files.iter().map(|f| folder.path().join(f)).chain([folder.path().to_path_buf()]) {
        assert_eq!(names(&path), ["a", "b", "c"], "{}", path.display());
        let checkpoint = open(&path).unwrap();
        assert_eq!(checkpoint.model.architecture, "LlamaForCausalLM");
        assert_eq!(checkpoint.step, Some((1800, "trainer_state.json".into())));
        assert_eq!(checkpoint.values(checkpoint.tensor("c").unwrap()).unwrap(), [3.0]);
        assert_eq!(checkpoint.warnings, [""; 0]);
    }
    assert_eq!(find(folder.path()).unwrap(), [folder.path()], "one model, found once");
}

#[test]
fn a_missing_or_broken_shard_is_damage_and_the_others_are_read() {
    type Break<'a> = &'a dyn Fn(&Path);
    let broken: [(&str, Break<'_>); 4] = [
        ("missing", &|p| std::fs::remove_file(p).unwrap()),
        ("error", &|p| std::fs::write(p, "<html>404</html>").unwrap()),
        ("Git LFS", &|p| std::fs::write(p, "version https://git-lfs.github.com/spec/v1\n").unwrap()),
        ("cut short", &|p| {
            let bytes = std::fs::read(p).unwrap();
            std::fs::write(p, &bytes[..bytes.len() - 2]).unwrap();
        }),
    ];
    for (what, break_it) in broken {
        for number in [1, 2] {
            let folder = tempfile::tempdir().unwrap();
            set(folder.path());
            break_it(&folder.path().join(shard(number)));
            assert_eq!(
                find(folder.path()).unwrap(),
                [folder.path()],
                "{what}, shard {number}: of its set alone"
            );
            let checkpoint = open(folder.path()).unwrap();
            let damage = checkpoint.damage.clone().unwrap_or_default();
            assert!(
                checkpoint.is_damaged() && damage.what.contains(what),
                "{what}, shard {number}: {damage}"
            );
            let intact = if number == 1 { "b" } else { "a" };
            let tensor = checkpoint.tensor(intact).unwrap();
            assert!(checkpoint.tensor_bytes(tensor).is_ok(), "{what}, shard {number}");
        }
    }
    // Without an index, the names of the files say how many there should be.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(shard(1)), safetensors(&[("a", 1.0)])).unwrap();
    let damage = open(folder.path()).unwrap().damage.unwrap();
    assert!(damage.what.contains(&shard(2)), "{damage}");
    // With nothing left there is nothing to open.
    let folder = tempfile::tempdir().unwrap();
    index(folder.path(), &[("a", &shard(1))]);
    assert_eq!(open(folder.path()).unwrap_err().kind, ErrorKind::Io);
}

#[test]
fn differences_between_index_and_shards_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path());
    index(folder.path(), &[("a", &shard(1)), ("b", &shard(2)), ("lost", &shard(2))]);
    let checkpoint = open(folder.path()).unwrap();
    assert!(checkpoint.damage.as_ref().unwrap().what.contains("`lost`"), "{:?}", checkpoint.damage);
    assert!(
        checkpoint.warnings.iter().any(|w| w.text.contains("not in the index")),
        "{:?}",
        checkpoint.warnings
    );
    // A shard left over from an earlier save.
    let folder = tempfile::tempdir().unwrap();
    set(folder.path());
    let extra = "model-00003-of-00003.safetensors";
    std::fs::write(folder.path().join(extra), safetensors(&[("z", 9.0)])).unwrap();
    assert_eq!(find(folder.path()).unwrap(), [folder.path()]);
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(checkpoint.tensors.len(), 3);
    assert!(checkpoint.warnings.iter().any(|w| w.text.contains(extra)), "{:?}", checkpoint.warnings);
}

#[test]
fn an_index_cannot_point_outside_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("model");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(folder.path().join("secret.safetensors"), safetensors(&[("a", 1.0)])).unwrap();
    let absolute = folder.path().join("secret.safetensors").to_string_lossy().into_owned();
    for name in
        ["../secret.safetensors", "./../secret.safetensors", &absolute, "..", ".", "", "/", "sub/../x"]
    {
        index(&inner, &[("a", name)]);
        let error: Error = open(&inner).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Damaged, "{name}: {error}");
        assert!(error.to_string().contains("outside its folder"), "{error}");
    }
    for text in ["", "[]", "{}", r#"{"weight_map": 3}"#, r#"{"weight_map": {"a": 3}}"#, &"[".repeat(100_000)]
    {
        let path = inner.join("model.safetensors.index.json");
        std::fs::write(&path, text).unwrap();
        assert_eq!(open(&path).unwrap_err().kind, ErrorKind::Damaged);
    }
}

#[test]
fn pytorch_shards_open_as_one() {
    let fixtures = fixture("formats");
    let folder = tempfile::tempdir().unwrap();
    let shard = |i: usize| format!("pytorch_model-{i:05}-of-00002.bin");
    std::fs::copy(fixtures.join("tied.pt"), folder.path().join(shard(1))).unwrap();
    std::fs::copy(fixtures.join("parameter.pt"), folder.path().join(shard(2))).unwrap();
    let alone: usize =
        ["tied.pt", "parameter.pt"].iter().map(|f| open(fixtures.join(f)).unwrap().tensors.len()).sum();
    let mut map = serde_json::Map::new();
    for (i, file) in [(1, "tied.pt"), (2, "parameter.pt")] {
        for tensor in open(fixtures.join(file)).unwrap().tensors {
            map.insert(tensor.name, shard(i).into());
        }
    }
    let json = serde_json::json!({ "weight_map": map });
    std::fs::write(folder.path().join("pytorch_model.bin.index.json"), json.to_string()).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(checkpoint.tensors.len(), alone);
    assert_eq!(checkpoint.damage, None);
    for tensor in checkpoint.tensors.iter().filter(|t| t.damage.is_none()) {
        checkpoint.tensor_bytes(tensor).unwrap();
    }
}

#[test]
fn parts_of_a_distributed_checkpoint_without_its_listing_are_unfinished_and_wrong_listings_refused() {
    let fixtures = fixture("formats");
    let folder = tempfile::tempdir().unwrap();
    let parts =
        [std::fs::read(fixtures.join("tied.pt")).unwrap(), std::fs::read(fixtures.join("whole.pt")).unwrap()];
    std::fs::write(folder.path().join("__0_0.distcp"), parts.concat()).unwrap();
    let unfinished = open(folder.path().join("__0_0.distcp")).unwrap();
    assert!(unfinished.is_damaged() && unfinished.damage.unwrap().what.contains(".metadata"));
    std::fs::write(folder.path().join(".metadata"), b"\x80\x04}.").unwrap();
    assert_eq!(find(folder.path()).unwrap(), [folder.path()]);
    let error = open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("is not a listing of a distributed checkpoint"), "{error}");
}

/// Files that are named like checkpoints but are not are reported, so that none is silently skipped. An extension that
/// data files use as well is not enough.
#[test]
fn what_is_spoilt_is_found_by_the_endings_of_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\n";
    for name in ["a.bin", "a.ckpt", "a.gguf", "a.npz", "a.pt", "a.PTH", "a.safetensors"] {
        write(name, b"");
    }
    write("pytorch_model.bin", pointer);
    for (name, bytes) in
        [("tokens.bin", &[7; 64][..]), ("training_args.bin", pointer), ("a.npy", b""), ("a.txt", b"")]
    {
        write(name, bytes);
    }
    let found = find(folder.path()).unwrap();
    let mut names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        ["a.PTH", "a.bin", "a.ckpt", "a.gguf", "a.npz", "a.pt", "a.safetensors", "pytorch_model.bin"]
    );
}

#[test]
fn a_step_is_named_by_the_folder_also_when_the_path_does_not_say_it() {
    assert_eq!(step_from_path(Path::new("out/checkpoint-1800/./model.safetensors")), Some(1800));
}

#[test]
fn a_finished_model_and_what_lies_in_folders_beside_it_are_all_found() {
    let folder = tempfile::tempdir().unwrap();
    let weights = safetensors(&[("a", 1.0)]);
    for place in ["", "checkpoint-200", "checkpoint-1000", "original", "runs/step-5"] {
        std::fs::create_dir_all(folder.path().join(place)).unwrap();
        std::fs::write(folder.path().join(place).join("model.safetensors"), &weights).unwrap();
    }
    let found = find(folder.path()).unwrap();
    let names: Vec<_> =
        found.iter().map(|p| p.strip_prefix(folder.path()).unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["", "checkpoint-200", "checkpoint-1000", "original", "runs/step-5"]);
    let steps: Vec<Option<u64>> = found.iter().map(|p| open(p).unwrap().step.map(|(step, _)| step)).collect();
    assert_eq!(steps[1..], [Some(200), Some(1000), None, Some(5)]);
}

#[test]
fn an_index_that_cannot_be_read_is_damage_of_its_shards() {
    let folder = tempfile::tempdir().unwrap();
    set(folder.path());
    for spoilt in ["{bad", "", r#"{"metadata": {}}"#] {
        std::fs::write(folder.path().join("model.safetensors.index.json"), spoilt).unwrap();
        let checkpoint = open(folder.path().join(shard(2))).unwrap();
        let damage = checkpoint.damage.unwrap();
        assert!(damage.what.contains("model.safetensors.index.json is not a shard index"), "{}", damage.what);
        assert_eq!(checkpoint.tensors.len(), 3);
    }
    std::fs::remove_file(folder.path().join("model.safetensors.index.json")).unwrap();
    assert_eq!(names(&folder.path().join(shard(2))), ["a", "b", "c"]);
}

#[test]
fn of_a_model_in_two_forms_the_one_that_transformers_takes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("pytorch_model.bin"), safetensors(&[("old", 1.0)])).unwrap();
    assert_eq!(names(folder.path()), ["old"]);
    set(folder.path());
    for (added, read) in [(None, &["a", "b", "c"][..]), (Some("model.safetensors"), &["new"])] {
        if let Some(name) = added {
            std::fs::write(at(name), safetensors(&[("new", 1.0)])).unwrap();
        }
        assert_eq!(names(folder.path()), read);
        assert_eq!(find(folder.path()).unwrap(), [folder.path().to_path_buf()]);
        let warnings = open(folder.path()).unwrap().warnings;
        assert!(warnings.iter().any(|w| w.kind == NoticeKind::OtherForm), "{warnings:?}");
    }
}

/// Repositories have a model as its makers load it too, and in variants that a library loads if it is asked to.
#[test]
fn forms_for_other_programs_and_variants_give_way_to_the_model() {
    let others = [
        "consolidated.safetensors",
        "consolidated.00.pth",
        "consolidated-00001-of-00002.safetensors",
        "rust_model.ot",
        "model.fp16.safetensors",
        "model.bf16-00001-of-00002.safetensors",
        "model-00001-of-00002.fp16.safetensors",
        "pytorch_model.fp16.bin",
    ];
    for other in others {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at(other), safetensors(&[("other", 1.0)])).unwrap();
        assert_eq!(find(folder.path()).unwrap().len(), 1, "alone it is a checkpoint");
        std::fs::write(at("model.safetensors"), safetensors(&[("own", 1.0)])).unwrap();
        assert_eq!(find(folder.path()).unwrap(), [folder.path().to_path_buf()], "{other}");
        assert_eq!(names(folder.path()), ["own"], "{other}");
        let told = open(folder.path()).unwrap().warnings;
        let told = told.iter().filter(|w| w.kind == NoticeKind::OtherForm).map(|w| w.text.as_str());
        assert!(told.collect::<String>().contains(&format!("not from {other}")), "{other}");
    }
    // A variant alone is the model of its folder; steps of a run are models of their own.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("config.json"), r#"{"architectures": ["LlamaForCausalLM"]}"#).unwrap();
    std::fs::write(at("model.fp16.safetensors"), safetensors(&[("other", 1.0)])).unwrap();
    assert_eq!(open(at("model.fp16.safetensors")).unwrap().model.architecture, "LlamaForCausalLM");
    for name in ["model.safetensors", "model.step100.safetensors", "model_ema.safetensors"] {
        std::fs::write(at(name), safetensors(&[("a", 1.0)])).unwrap();
    }
    assert_eq!(find(folder.path()).unwrap().len(), 3);
}

#[test]
fn folders_are_searched_however_deep() {
    let folder = tempfile::tempdir().unwrap();
    let mut deep = folder.path().to_path_buf();
    (0..400).for_each(|_| deep.push("d"));
    std::fs::create_dir_all(&deep).unwrap();
    let (shallow, deep) = (folder.path().join("z.safetensors"), deep.join("w.safetensors"));
    for path in [&shallow, &deep] {
        std::fs::write(path, safetensors(&[("a", 1.0)])).unwrap();
    }
    assert_eq!(find(folder.path()).unwrap(), [shallow, deep.clone()]);
    assert_eq!(ckpt_inspect::scan::files(&folder.path().join("d")).unwrap(), [deep]);
}

#[test]
#[cfg(unix)]
fn in_the_cache_of_hugging_face_snapshots_are_models_and_blobs_are_not() {
    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("models--a--b/snapshots/0f");
    let blobs = cache.path().join("models--a--b/blobs");
    for folder in [&snapshot, &blobs, &cache.path().join("models--a--b/refs")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(blobs.join("aa"), safetensors(&[("a", 1.0)])).unwrap();
    std::fs::write(blobs.join("bb.incomplete"), &safetensors(&[("a", 1.0)])[..20]).unwrap();
    std::os::unix::fs::symlink("../../blobs/aa", snapshot.join("model.safetensors")).unwrap();
    assert_eq!(find(cache.path()).unwrap(), std::slice::from_ref(&snapshot));
    // What no snapshot has is a checkpoint of its own.
    std::fs::write(blobs.join("cc"), safetensors(&[("c", 1.0)])).unwrap();
    assert_eq!(find(cache.path()).unwrap(), [blobs.join("cc"), snapshot]);
}

/// Single arrays count as data next to checkpoints, and as checkpoints if there is nothing else.
#[test]
fn a_folder_of_arrays_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut array = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    array.extend(format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }").bytes());
    array.extend([0; 8]);
    for name in ["b.npy", "a.npy", "other.txt"] {
        std::fs::write(at(name), &array).unwrap();
    }
    assert_eq!(find(folder.path()).unwrap(), [at("a.npy"), at("b.npy")]);
    assert_eq!(open(at("a.npy")).unwrap().tensors.len(), 1);
    std::fs::write(at("w.safetensors"), safetensors(&[("a", 1.0)])).unwrap();
    assert_eq!(find(folder.path()).unwrap(), [at("w.safetensors")]);
}

#[test]
fn a_missing_shard_is_told_however_the_series_is_numbered() {
    for (there, gone, pattern) in [
        ("model_00001-of-00002.safetensors", "model_00002-of-00002.safetensors", "_00001-of-00002"),
        ("model.00-of.safetensors", "", ""),
        ("model.1-of-3.safetensors", "model.2-of-3.safetensors, model.3-of-3.safetensors", ".1-of-3"),
        ("weights-9-of-10.safetensors", "weights-1-of-10.safetensors", "-9-of-10"),
        ("weights-02-of-10.safetensors", "weights-01-of-10.safetensors", "-02-of-10"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(there);
        std::fs::write(&file, safetensors(&[("a", 1.0)])).unwrap();
        for path in [folder.path(), &file] {
            let damage = open(path).unwrap().damage.map(|damage| damage.what).unwrap_or_default();
            assert_eq!(damage.contains(" shards missing: "), !pattern.is_empty(), "{there}: {damage}");
            assert!(damage.contains(gone), "{there}: {damage}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    for i in 1..=10 {
        let file = safetensors(&[(format!("t{i}").as_str(), 1.0)]);
        std::fs::write(folder.path().join(format!("weights-{i}-of-10.safetensors")), file).unwrap();
    }
    assert_eq!(names(&folder.path().join("weights-10-of-10.safetensors")).len(), 10);
    assert_eq!(find(folder.path()).unwrap().len(), 1);
}

/// vLLM and llama.cpp's converter read all files of a folder; transformers asks for the index.
#[test]
fn shards_of_a_model_without_their_index_are_told() {
    let told = |prepare: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        set(folder.path());
        std::fs::write(folder.path().join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
        prepare(folder.path());
        let checkpoint = open(folder.path()).unwrap();
        assert_eq!((checkpoint.tensors.len(), &checkpoint.damage), (3, &None));
        let gone: Vec<_> = checkpoint.warnings.into_iter().filter(|w| w.kind == NoticeKind::Gone).collect();
        assert!(gone.iter().all(|notice| notice.is_doubt() && !notice.is_finding()));
        gone.len()
    };
    let without = |folder: &Path| std::fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    assert_eq!(told(&|_| ()), 0);
    assert_eq!(told(&without), 1);
    // Other programs divide files too.
    assert_eq!(
        told(&|folder| {
            without(folder);
            std::fs::remove_file(folder.join("config.json")).unwrap();
        }),
        0
    );
}
