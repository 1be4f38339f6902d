//! Files of ranks that are not of the rank, the save or the content that they should be.

use std::path::{Path, PathBuf};

use ckpt_inspect::{Checkpoint, DamageKind, NoticeKind, open};
use ckpt_kit::pickle::{call, dict, global, int, list, long, pickle, tuple};
use ckpt_kit::{numbers, torch, zip};

/// What DeepSpeed saved of stage 3, in a folder to be changed.
fn zero3() -> tempfile::TempDir {
    let tag = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ranks/zero3/global_step3");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(tag).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

fn optimizer(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"))
}

fn states(folder: &Path, rank: usize) -> PathBuf {
    folder.join(format!("zero_pp_rank_{rank}_mp_rank_00_model_states.pt"))
}

fn swap(one: &Path, two: &Path) {
    let other = one.with_extension("other");
    std::fs::rename(one, &other).unwrap();
    std::fs::rename(two, one).unwrap();
    std::fs::rename(&other, two).unwrap();
}

fn told(checkpoint: &Checkpoint) -> Vec<(NoticeKind, &str)> {
    checkpoint.warnings.iter().map(|notice| (notice.kind, notice.text.as_str())).collect()
}

/// A file of PyTorch whose archive calls its folder `root`, of these tensors of one storage each.
fn file(root: &str, module: &[(&str, Vec<f32>)], values: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let tensors = module.iter().enumerate().map(|(i, (name, values))| {
        let count = values.len();
        (*name, torch::rebuild("FloatStorage", &i.to_string(), count, 0, &[count], &[1]))
    });
    let mut object = vec![("module", dict(&tensors.collect::<Vec<_>>()))];
    object.extend(values.iter().cloned());
    let storages: Vec<Vec<u8>> = module.iter().map(|(_, values)| numbers::le(values)).collect();
    let mut entries = torch::entries(&pickle(2, &dict(&object)), &storages);
    for entry in &mut entries {
        entry.name = entry.name.replacen('m', root, 1);
    }
    zip::zip(&entries)
}

#[test]
fn files_of_stage_3_under_each_others_names_are_told() {
    for (of, what) in [(optimizer as fn(&Path, usize) -> PathBuf, "optim_states"), (states, "model_states")] {
        let folder = zero3();
        let at = |rank: usize| of(folder.path(), rank);
        swap(&at(0), &at(1));
        let damage = open(folder.path()).unwrap().damage.unwrap();
        assert_eq!(damage.kind, DamageKind::Inconsistent);
        let (one, two) =
            (format!("pp_rank_0_mp_rank_00_{what}.pt"), format!("pp_rank_1_mp_rank_00_{what}.pt"));
        let both = [(&one, &two), (&two, &one)];
        for (name, saved) in both {
            assert!(damage.what.contains(&format!("{name} was saved as ")), "{damage}");
            assert!(damage.what.contains(&format!("{saved}: it is another rank's file")), "{damage}");
        }
        swap(&at(0), &at(1));
        assert_eq!(open(folder.path()).unwrap().damage, None);
        std::fs::copy(at(0), at(1)).unwrap();
        assert!(open(folder.path()).unwrap().damage.unwrap().is(DamageKind::Inconsistent));
    }
}

#[test]
fn a_file_of_a_rank_says_which_one_it_was_saved_as() {
    let folder = tempfile::tempdir().unwrap();
    let write = |rank: usize, root: &str| {
        let path = folder.path().join(format!("model_world_size_2_rank_{rank}.pt"));
        std::fs::write(path, file(root, &[("w", vec![1.0, 2.0])], &[])).unwrap();
    };
    write(0, "model_world_size_2_rank_0");
    for root in ["archive", "model_world_size_2_rank_1", "model_world_size_2_rank_1.pt"] {
        write(1, root);
        assert_eq!(open(folder.path()).unwrap().damage, None, "{root}");
    }
    for root in ["model_world_size_2_rank_0", "model_world_size_4_rank_1"] {
        write(1, root);
        let damage = open(folder.path()).unwrap().damage.unwrap();
        let expected = format!(
            "model_world_size_2_rank_1.pt was saved as {root}.pt: it is another rank's file under this one's name"
        );
        assert_eq!((damage.kind, damage.what), (DamageKind::Inconsistent, expected));
    }
}

#[test]
fn model_states_of_another_step_are_told() {
    let folder = tempfile::tempdir().unwrap();
    for (rank, step) in [(0, 10), (1, 20), (2, 10)] {
        let values = [("global_steps", int(step)), ("dp_world_size", int(3))];
        std::fs::write(states(folder.path(), rank), file("archive", &[("seen", vec![1.0])], &values))
            .unwrap();
    }
    let damage = open(folder.path()).unwrap().damage.unwrap();
    let expected = "zero_pp_rank_1_mp_rank_00_model_states.pt is of step 20, and zero_pp_rank_0_mp_rank_00_model_states.pt of step 10: the files come from different saves";
    assert_eq!((damage.kind, damage.what.as_str()), (DamageKind::Inconsistent, expected));
}

#[test]
fn buffers_that_ranks_do_not_agree_on_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let write = |rank: usize, seen: f32, mean: f32| {
        let module = [("rope.inv_freq", vec![1.0, seen]), ("bn.running_mean", vec![mean; 3]), ("w", vec![])];
        let values = [("dp_world_size", int(2))];
        std::fs::write(states(folder.path(), rank), file("archive", &module, &values)).unwrap();
    };
    write(0, 2.0, 0.5);
    write(1, 2.0, 0.5);
    assert_eq!(told(&open(folder.path()).unwrap()), []);
    write(1, 2.5, 0.75);
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(
        told(&checkpoint),
        [
            (
                NoticeKind::Contradiction,
                "`rope.inv_freq`: rank 1 disagrees with rank 0 from element 1 on; the latter's is used"
            ),
            (
                NoticeKind::Unlike,
                "`bn.running_mean`: rank 1 disagrees with rank 0 from element 0 on, as running statistics may that are not synchronized; the latter's is used"
            ),
        ]
    );
    assert!(checkpoint.warnings[0].is_finding() && checkpoint.warnings[1].is_doubt());
}

#[test]
fn a_last_tag_out_of_the_folder_is_told_and_not_followed() {
    let run = tempfile::tempdir().unwrap();
    let tag = run.path().join("global_step3");
    std::fs::rename(zero3().keep(), &tag).unwrap();
    std::fs::write(run.path().join("zero_to_fp32.py"), "").unwrap();
    for name in ["../elsewhere/global_step20", "/srv/global_step20"] {
        std::fs::write(run.path().join("latest"), name).unwrap();
        let checkpoint = open(&tag).unwrap();
        let expected = format!(
            "the file `latest` names `{name}` as the last tag, which is not in this folder, and is not followed"
        );
        assert_eq!(told(&checkpoint), [(NoticeKind::Gone, expected.as_str())]);
        assert!(checkpoint.warnings[0].is_doubt());
    }
}

#[test]
fn shapes_that_cannot_be_counted_are_said_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let size = call(&global("torch", "Size"), &[tuple(&[long(1 << 40), long(1 << 40)])]);
    let shapes = list(&[dict(&[("up.weight", size)])]);
    let values = [("param_shapes", shapes), ("dp_world_size", int(1))];
    let module = [("up.weight", vec![])];
    std::fs::write(states(folder.path(), 0), file("archive", &module, &values)).unwrap();
    let vector = torch::rebuild("FloatStorage", "0", 4, 0, &[4], &[1]);
    let state = [("zero_stage", int(3)), ("partition_count", int(1)), ("fp32_flat_groups", list(&[vector]))];
    let object = dict(&[("optimizer_state_dict", dict(&state))]);
    let saved = torch::zip_of(&pickle(2, &object), &[numbers::le(&[1.0f32; 4])]);
    std::fs::write(optimizer(folder.path(), 0), saved).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let expected = "the model states say that `up.weight` has the shape [1099511627776, 1099511627776], which is more elements than can be counted";
    assert_eq!(checkpoint.damage.as_ref().unwrap().what, expected);
    assert!(checkpoint.tensor("up.weight").unwrap().bytes().is_err());
}

/// What `ranks.py` saved in `folder` of pieces of parameters, and without what one rank lacks.
pub fn assert_pieces(folder: &Path) {
    let at = |name: &str| folder.join(name);
    // Local state dicts with the parameters' own names.
    let (pieces, whole) = (open(at("pieces")).unwrap(), open(at("pieces.pt")).unwrap());
    assert_eq!(pieces.damage, None);
    let [(kind, text)] = told(&pieces)[..] else { panic!("{:?}", pieces.warnings) };
    assert_eq!(kind, NoticeKind::Flat);
    assert!(text.starts_with("it is a local state dict of FSDP: 1 of its tensors"), "{text}");
    assert_eq!(pieces.tensors.len(), whole.tensors.len() + 1);
    for tensor in &whole.tensors {
        let joined = pieces.tensor(&tensor.name).unwrap();
        assert_eq!(joined.shape, [tensor.numel() as usize], "{}", tensor.name);
        assert_eq!(joined.bytes().unwrap(), tensor.bytes().unwrap(), "{}", tensor.name);
    }
    let file = at("pieces").join("pytorch_model_rank2.bin");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let without = open(at("pieces")).unwrap();
    assert!(without.damage.as_ref().unwrap().is(DamageKind::MissingShards));
    let up = without.tensor("up.weight").unwrap();
    assert_eq!(up.damage.as_ref().map(|damage| damage.kind), Some(DamageKind::MissingShards));
    std::fs::write(&file, bytes).unwrap();

    let lacks = open(at("lacks")).unwrap();
    assert_eq!(lacks.damage, None);
    assert_eq!(
        told(&lacks),
        [
            (
                NoticeKind::Gone,
                "`everywhere` is not in model_world_size_4_rank_1.pt, where its part is due: what other ranks have of it is shown"
            ),
            (
                NoticeKind::Gone,
                "`plain` is not in model_world_size_4_rank_1.pt, where its part is due: what other ranks have of it is shown"
            ),
        ]
    );
    assert!(lacks.warnings[0].is_doubt());
}

/// A file of Megatron-LM's with one weight of these elements, and the arguments of `rank` of two.
fn of_rank(rank: i32, values: &[f32]) -> Vec<u8> {
    let weight = torch::rebuild("FloatStorage", "0", values.len(), 0, &[values.len()], &[1]);
    let args = dict(&[("rank", int(rank)), ("tensor_model_parallel_size", int(2))]);
    let object = dict(&[("up.weight", weight), ("args", args)]);
    torch::zip_of(&pickle(2, &object), &[numbers::le(values)])
}

#[test]
fn files_of_megatron_under_other_ranks_names_are_told() {
    let told = |files: [(i32, f32); 2]| {
        let folder = tempfile::tempdir().unwrap();
        for (i, (rank, begin)) in files.into_iter().enumerate() {
            let values: Vec<f32> = (0..40).map(|n| begin + n as f32).collect();
            let path = folder.path().join(format!("iter_0000040/mp_rank_{i:02}/model_optim_rng.pt"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, of_rank(rank, &values)).unwrap();
        }
        let checkpoint = open(folder.path().join("iter_0000040")).unwrap();
        let findings = checkpoint.warnings.iter().filter(|notice| notice.is_finding());
        findings.map(|notice| notice.text.clone()).collect::<Vec<_>>()
    };
    // Data parallelism of two: the second part is of the ranks 1 and 3.
    for ranks in [[0, 1], [2, 3], [0, 3], [0, 0]] {
        assert_eq!(told([(ranks[0], 0.0), (ranks[1], 100.0)]), [""; 0], "{ranks:?}");
    }
    let swapped = told([(1, 100.0), (0, 0.0)]);
    assert!(
        swapped.len() == 2 && swapped[0].contains("mp_rank_00 is by the arguments in it of rank 1"),
        "{swapped:?}"
    );
    let copied = told([(0, 0.0), (0, 0.0)]);
    assert!(copied.len() == 1 && copied[0].contains("hold the same"), "{copied:?}");
}
