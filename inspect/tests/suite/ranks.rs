//! What each rank of a distributed run saved for itself: DTensors and ShardedTensors, DeepSpeed's partitions, Megatron's
//! folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ckpt_inspect::scan::{self, Severity};
use ckpt_inspect::{
    Checkpoint, Damage, DamageKind, Format, NoticeKind, OpenOptions, TensorInfo, find, identity, lookup,
    open, salvage,
};
use ckpt_kit::fixtures::below;
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::tensor::Tensor;
use ckpt_kit::{peers, torch};

/// Of PyTorch 2.15 and DeepSpeed 0.19.8: what `tests/peers/ranks.py` and `deepspeed.py` save, with three and four ranks.
pub(super) fn saved(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ranks").join(name)
}

pub(super) fn copy_into(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_into(&path, &copy),
            false => drop(std::fs::copy(&path, &copy).unwrap()),
        }
    }
}

/// A copy of what was saved, to be changed.
pub(super) fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_into(&saved(name), folder.path());
    folder
}

/// Type, shape and bytes.
type Content = (String, Vec<usize>, Vec<u8>);

pub(super) fn content(tensor: &TensorInfo) -> Content {
    let bytes = tensor.bytes().unwrap_or_else(|e| panic!("{}: {e}", tensor.name)).into_owned();
    (tensor.dtype.to_string(), tensor.shape.clone(), bytes)
}

pub(super) fn tensors(checkpoint: &Checkpoint) -> BTreeMap<String, Content> {
    checkpoint.tensors.iter().map(|tensor| (tensor.name.clone(), content(tensor))).collect()
}

/// A checkpoint of which nothing is wrong.
#[track_caller]
pub(super) fn sound(path: &Path) -> Checkpoint {
    let mut checkpoint = open(path).unwrap();
    assert_eq!(checkpoint.damage, None);
    assert!(checkpoint.warnings.is_empty(), "{:?}", checkpoint.warnings);
    assert_eq!(checkpoint.verify_checksums(), [""; 0]);
    checkpoint
}

#[track_caller]
pub(super) fn assert_equal(found: &BTreeMap<String, Content>, expected: &BTreeMap<String, Content>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, content) in expected {
        assert_eq!(&found[name], content, "{name}");
    }
}

/// The tensors of `folder` are those of `whole`, and of `optimizer`.
#[track_caller]
fn assert_same(folder: &Path, whole: &Path, optimizer: Option<&Path>) {
    let mut expected = tensors(&open(whole).unwrap());
    if let Some(optimizer) = optimizer {
        let moments = tensors(&open(optimizer).unwrap());
        expected.extend(moments.into_iter().map(|(name, content)| (format!("optimizer.{name}"), content)));
    }
    let checkpoint = sound(folder);
    assert_eq!(checkpoint.format, Format::TorchDistributed);
    assert_equal(&tensors(&checkpoint), &expected);
}

#[test]
fn parts_of_ranks_are_the_tensors_that_they_were() {
    assert_same(&saved("fsdp2"), &saved("fsdp2.pt"), Some(&saved("fsdp2-optim.pt")));
    assert_same(&saved("sharded"), &saved("sharded.pt"), None);
    let checkpoint = open(saved("fsdp2")).unwrap();
    let learning_rate = lookup(&checkpoint.metadata, "optimizer.param_groups.0.lr");
    assert_eq!(format!("{learning_rate:?}"), "Some(F64(0.01))");
}

#[test]
fn any_file_of_the_folder_is_the_checkpoint() {
    for (name, most) in [("fsdp2", 12), ("sharded", 4), ("zero2", 5), ("zero3", 7), ("universal-zero3", 16)] {
        let folder = saved(name);
        let whole = open(&folder).unwrap();
        let files = below(&folder, &[".pt"]);
        assert!(files.len() >= most - 1, "{name}: {}", files.len());
        for file in files {
            let checkpoint = open(&file).unwrap();
            assert_eq!(checkpoint.tensors.len(), whole.tensors.len(), "{}", file.display());
            assert_eq!(identity(&file), identity(&find(&folder).unwrap()[0]), "{}", file.display());
        }
        assert_eq!(find(&folder).unwrap().len(), 1);
    }
    assert_eq!(find(&saved("zero2")).unwrap(), [saved("zero2")]);
}

#[test]
fn what_a_missing_rank_had_is_damaged_and_the_rest_is_read() {
    let folder = copy("fsdp2");
    std::fs::remove_file(folder.path().join("model_world_size_4_rank_1.pt")).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let damage = checkpoint.damage.clone().unwrap();
    assert_eq!(damage.kind, DamageKind::MissingShards);
    assert_eq!(damage.what, "1 of 4 files of `model` missing: that of rank 1");
    for tensor in &checkpoint.tensors {
        let lost = tensor.damage.as_ref().map(|damage| damage.kind);
        assert_eq!(
            lost,
            (!tensor.name.starts_with("optimizer.")).then_some(DamageKind::MissingShards),
            "{}",
            tensor.name
        );
    }

    let folder = copy("zero3");
    let optimizer = |rank: usize| {
        folder.path().join(format!("global_step3/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"))
    };
    std::fs::remove_file(optimizer(1)).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let damage = checkpoint.damage.clone().unwrap();
    assert_eq!(damage.what, "1 of 3 files of the optimizer missing: that of rank 1");
    for (name, lost) in [("embed_tokens.weight", true), ("lm_head.weight", true), ("frozen.weight", false)] {
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(tensor.damage.as_ref().map(|d| d.kind), lost.then_some(DamageKind::MissingShards));
        assert_eq!(tensor.bytes().is_err(), lost, "{name}");
    }
    // What is frozen lies in the model states.
    let states = folder.path().join("global_step3/zero_pp_rank_1_mp_rank_00_model_states.pt");
    std::fs::remove_file(states).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let damage = checkpoint.damage.clone().unwrap();
    assert!(damage.what.contains("1 of 3 files of model states missing, such as that of rank 1"), "{damage}");
    assert!(checkpoint.tensor("frozen.weight").unwrap().bytes().is_err());
    // Without any of them only names and shapes of the weights are left.
    for rank in [0, 2] {
        std::fs::remove_file(optimizer(rank)).unwrap();
    }
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(checkpoint.damage.as_ref().map(|damage| damage.kind), Some(DamageKind::MissingShards));
    assert_eq!(checkpoint.tensor("back.weight").unwrap().shape, [6, 5]);
    assert!(checkpoint.tensor("back.weight").unwrap().bytes().is_err());
}

#[test]
fn files_of_another_save_are_told() {
    let folder = copy("zero2");
    let tag = folder.path().join("global_step3");
    let name = |rank: usize| tag.join(format!("bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"));
    std::fs::copy(name(0), name(3)).unwrap();
    let damage = open(folder.path()).unwrap().damage.unwrap();
    assert_eq!(damage.kind, DamageKind::Inconsistent);
    assert!(damage.what.starts_with("the optimizer was divided over 3 ranks"), "{damage}");
    std::fs::remove_file(name(3)).unwrap();
    // A partition of another length.
    let other = saved("zero3/global_step3/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt");
    std::fs::copy(other, name(1)).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    assert!(checkpoint.damage.unwrap().is(DamageKind::Inconsistent));
}

#[test]
fn a_part_alone_is_shown_as_one() {
    let folder = tempfile::tempdir().unwrap();
    // Its name says that there are others.
    let alone = folder.path().join("model_world_size_4_rank_3.pt");
    std::fs::copy(saved("fsdp2/model_world_size_4_rank_3.pt"), &alone).unwrap();
    for path in [folder.path(), &alone] {
        let checkpoint = open(path).unwrap();
        let damage = checkpoint.damage.clone().unwrap();
        assert_eq!(damage.what, "3 of 4 files of `model` missing: that of rank 0 and more");
        let up = checkpoint.tensor("up.weight").unwrap();
        assert_eq!((up.shape.as_slice(), up.bytes().is_err()), (&[10, 6][..], true));
    }
    let salvage = salvage::salvage(&alone, &OpenOptions::default()).unwrap();
    let up = salvage.losses.iter().find(|loss| loss.name == "up.weight").unwrap();
    // 10 rows over two and two ranks.
    assert_eq!((up.present, &up.holes[..]), (48, &[(0, 192)][..]));
    std::fs::rename(&alone, folder.path().join("model.pt")).unwrap();
    let alone = folder.path().join("model.pt");
    let checkpoint = open(&alone).unwrap();
    let mut names: Vec<&str> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["down.weight", "up.bias", "up.weight"]);
    // 10 rows over two and two ranks.
    assert_eq!(checkpoint.tensor("up.weight").unwrap().shape, [2, 6]);
    let [notice] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
    assert_eq!(notice.kind, NoticeKind::OneRank);
    assert!(notice.text.starts_with("3 of its tensors are one rank's parts of larger ones"), "{notice}");
}

#[test]
fn files_under_the_names_of_other_ranks_are_told() {
    let swap = |folder: &Path, one: &str, two: &str| {
        let (one, two, other) = (folder.join(one), folder.join(two), folder.join("other"));
        std::fs::rename(&one, &other).unwrap();
        std::fs::rename(&two, &one).unwrap();
        std::fs::rename(&other, &two).unwrap();
    };
    let folder = copy("fsdp2");
    swap(folder.path(), "model_world_size_4_rank_1.pt", "model_world_size_4_rank_2.pt");
    let checkpoint = open(folder.path()).unwrap();
    // Each part says where it belongs.
    assert_equal(&tensors(&checkpoint), &tensors(&open(saved("fsdp2")).unwrap()));
    let told: Vec<&str> = checkpoint.warnings.iter().map(|notice| notice.text.as_str()).collect();
    assert_eq!(
        told,
        [
            "model_world_size_4_rank_1.pt is by what is in it the file of rank 2, not 1",
            "model_world_size_4_rank_2.pt is by what is in it the file of rank 1, not 2"
        ]
    );
    assert!(checkpoint.warnings.iter().all(|notice| notice.is_finding()));
    let folder = copy("zero2");
    let name = |rank: usize| format!("bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt");
    swap(&folder.path().join("global_step3"), &name(0), &name(1));
    let damage = open(folder.path()).unwrap().damage.unwrap();
    assert_eq!(damage.kind, DamageKind::Inconsistent);
    assert!(damage.what.contains("of rank 0 says that it has the part of rank 1"), "{damage}");
}

#[test]
fn a_companion_that_is_cut_short_is_said_where_the_model_is_recovered() {
    let folder = tempfile::tempdir().unwrap();
    SafeTensors::new().f32s("w", &[2], &[1.0, 2.0]).write(&folder.path().join("model.safetensors"));
    let optimizer = std::fs::read(saved("fsdp2-optim.pt")).unwrap();
    std::fs::write(folder.path().join("optimizer.pt"), &optimizer).unwrap();
    assert!(salvage::salvage(folder.path(), &OpenOptions::default()).unwrap().is_whole());
    std::fs::write(folder.path().join("optimizer.pt"), &optimizer[..optimizer.len() / 2]).unwrap();
    let salvage = salvage::salvage(folder.path(), &OpenOptions::default()).unwrap();
    assert!(
        salvage.damage.as_ref().is_some_and(|damage| damage.starts_with("optimizer.pt: ")),
        "{:?}",
        salvage.damage
    );
    assert!(!salvage.is_whole());
}

#[test]
fn nothing_in_the_files_of_ranks_is_suspicious() {
    for name in ["fsdp2", "zero2", "zero3", "universal-zero3"] {
        for file in scan::files(&saved(name)).unwrap() {
            let severity = scan::scan(&file, &scan::Options::default()).unwrap().severity();
            assert!(severity.is_none_or(|s| s == Severity::Note), "{}: {severity:?}", file.display());
        }
    }
}

/// Any byte of a file changed: an error, something that is told or shows in the checksums, or what was saved.
#[test]
fn files_of_ranks_that_lie_are_errors_or_damage() {
    let mut told = 0;
    for (name, file) in [
        ("zero2", "global_step3/mp_rank_00_model_states.pt"),
        ("zero2", "global_step3/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"),
        ("zero3", "global_step3/zero_pp_rank_0_mp_rank_00_model_states.pt"),
        ("zero3", "global_step3/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        ("fsdp2", "model_world_size_4_rank_2.pt"),
        ("sharded", "model_rank1.pt"),
    ] {
        let folder = copy(name);
        let saved = tensors(&open(folder.path()).unwrap());
        let file = folder.path().join(file);
        let whole = std::fs::read(&file).unwrap();
        for i in (0..whole.len()).step_by(13) {
            let mut bytes = whole.clone();
            bytes[i] ^= 1 << (i % 8);
            std::fs::write(&file, bytes).unwrap();
            let Ok(mut checkpoint) = open(folder.path()) else { continue };
            checkpoint.tensors.iter().for_each(|tensor| drop(tensor.bytes().map(|bytes| bytes.len())));
            if checkpoint.is_damaged()
                || !checkpoint.warnings.is_empty()
                || !checkpoint.verify_checksums().is_empty()
            {
                told += 1;
                continue;
            }
            assert!(tensors(&checkpoint) == saved, "{}: byte {i}", file.display());
        }
    }
    assert!(told > 0);
}

/// What the damage of a checkpoint is, which is there.
#[track_caller]
pub(super) fn damage(path: &Path) -> Damage {
    open(path).unwrap().damage.unwrap()
}

#[track_caller]
pub(super) fn assert_missing(path: &Path, what: &str) {
    let damage = damage(path);
    assert!(damage.is(DamageKind::MissingShards) && damage.what.contains(what), "{damage}");
}

#[test]
fn files_of_one_rank_are_told_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in [("rank0", 3.0), ("rank_0", 1.0), ("rank_1", 3.0)] {
        let file = torch::checkpoint(&[Tensor::new("w", &[2], [3.0, value])], &[]);
        std::fs::write(folder.path().join(format!("model_world_size_2_{name}.pt")), file).unwrap();
    }
    let told = damage(folder.path());
    assert_eq!(told.kind, DamageKind::Inconsistent);
    assert_eq!(told.what, "model_world_size_2_rank0.pt and model_world_size_2_rank_0.pt are both of rank 0");
    let warnings: Vec<String> =
        open(folder.path()).unwrap().warnings.into_iter().map(|notice| notice.text).collect();
    let [text] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(text.contains("another file of rank 0 disagrees with rank 0 from element 1 on"), "{text}");
}

#[test]
fn files_of_ranks_that_cannot_be_read_are_not_called_missing() {
    let folder = copy("fsdp2");
    let rank = |rank: usize| folder.path().join(format!("model_world_size_4_rank_{rank}.pt"));
    std::fs::write(rank(1), "nothing of the kind").unwrap();
    let checkpoint = open(folder.path()).unwrap();
    assert!(!checkpoint.damage.as_ref().unwrap().is(DamageKind::MissingShards), "{:?}", checkpoint.damage);
    let tensor = checkpoint.tensor("up.weight").unwrap().damage.clone().unwrap();
    assert!(tensor.what.ends_with("the file of the rank that has it cannot be read"), "{tensor}");
    // One of more ranks than saved.
    let folder = copy("fsdp2");
    let name = "model_world_size_4_rank_9.pt";
    std::fs::copy(saved("fsdp2/model_world_size_4_rank_1.pt"), folder.path().join(name)).unwrap();
    let told = damage(folder.path());
    assert_eq!(told.what, format!("{name} is the file of a rank beyond the 4 that saved: it is not used"));
    assert_equal(&tensors(&open(folder.path()).unwrap()), &tensors(&open(saved("fsdp2")).unwrap()));
}

#[test]
fn torch_divides_tensors_and_they_are_joined_to_the_same_bytes() {
    let Some(python) = peers::python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.script("inspect", "ranks.py", &[folder.path()]);
    let at = |name: &str| folder.path().join(name);
    assert_same(&at("placed"), &at("placed.pt"), None);
    assert_same(&at("fsdp2"), &at("fsdp2.pt"), Some(&at("fsdp2-optim.pt")));
    assert_same(&at("sharded"), &at("sharded.pt"), None);

    let partial = open(at("partial")).unwrap();
    let damage = partial.tensor("sum").unwrap().damage.clone().unwrap();
    assert_eq!(damage.what, "it is placed as Partial, which is not joined");
    assert_eq!(partial.tensor("rest").unwrap().shape, [5]);
    assert!(partial.tensor("rest").unwrap().bytes().is_ok());

    let mut told: Vec<String> =
        open(at("differs")).unwrap().warnings.into_iter().map(|notice| notice.text).collect();
    told.sort();
    assert_eq!(
        told,
        [
            "`everywhere`: rank 2 disagrees with rank 0 from element 6 on; the latter's is used",
            "`plain`: rank 3 disagrees with rank 0 from element 4 on; the latter's is used",
        ]
    );

    let local = open(at("local")).unwrap();
    let [notice] = &local.warnings[..] else { panic!("{:?}", local.warnings) };
    assert_eq!(notice.kind, NoticeKind::Flat);
    let [flat] = &local.tensors[..] else { panic!("{:?}", local.tensors) };
    assert_eq!(flat.shape, [130]);

    crate::other_ranks::assert_pieces(folder.path());
}
