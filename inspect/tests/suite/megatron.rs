//! The folders of Megatron's ranks.

use ckpt_inspect::{NoticeKind, find, open};
use ckpt_kit::fixtures::below;
use ckpt_kit::pickle::{dict, pickle};
use ckpt_kit::torch;

use super::ranks::{assert_missing, copy, saved, tensors};

#[test]
fn model_parallel_ranks_layers_and_iterations_are_shown_apart() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for name in [
        "megatron/iter_0000040/mp_rank_00/model_optim_rng.pt",
        "pipeline/global_step3/layer_00-model_states.pt",
        "pipeline/global_step3/layer_01-model_states.pt",
    ] {
        std::fs::copy(saved("sharded.pt"), at(name)).unwrap();
    }
    // Each has parts of its own.
    let weight = torch::rebuild("FloatStorage", "0", 2, 0, &[2], &[1]);
    let other = torch::zip_of(&pickle(2, &dict(&[("up.weight", weight)])), &[vec![0; 8]]);
    std::fs::write(at("megatron/iter_0000040/mp_rank_01/model_optim_rng.pt"), other).unwrap();
    std::fs::write(at("megatron/latest_checkpointed_iteration.txt"), "40").unwrap();
    let names = |name: &str| {
        let checkpoint = open(folder.path().join(name)).unwrap();
        assert_eq!(checkpoint.damage, None);
        let [notice] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
        assert_eq!(notice.kind, NoticeKind::NotShown);
        checkpoint.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>()
    };
    let found = names("megatron");
    assert!(found.contains(&"mp_rank_00.up.weight".into()) && found.contains(&"mp_rank_01.up.weight".into()));
    assert_eq!(names("megatron/iter_0000040/mp_rank_01/model_optim_rng.pt"), found);
    assert_eq!(find(&folder.path().join("megatron")).unwrap(), [at("megatron/iter_0000040")]);
    assert!(names("pipeline/global_step3").contains(&"layer_01.up.weight".into()));

    let parallel = copy("zero2");
    let tag = parallel.path().join("global_step3");
    for file in below(&tag, &[".pt"]) {
        let name = file.file_name().unwrap().to_string_lossy().replace("mp_rank_00", "mp_rank_01");
        std::fs::copy(&file, tag.join(name)).unwrap();
    }
    let checkpoint = open(&tag).unwrap();
    let one = tensors(&open(saved("zero2")).unwrap());
    let found = tensors(&checkpoint);
    assert_eq!(found.len(), 2 * one.len());
    for (name, content) in one {
        assert_eq!(found[&format!("mp_rank_01.{name}")], content, "{name}");
    }
}

#[test]
fn missing_ranks_of_megatron_are_told() {
    let megatron = |ranks: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        for rank in ranks {
            let rank = folder.path().join(rank);
            std::fs::create_dir(&rank).unwrap();
            std::fs::copy(saved("sharded.pt"), rank.join("model_optim_rng.pt")).unwrap();
        }
        folder
    };
    assert_missing(
        megatron(&["mp_rank_00", "mp_rank_02"]).path(),
        "the files of 1 of 3 ranks missing: those of rank 1",
    );
    let pipeline = ["mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_001"];
    assert_missing(megatron(&pipeline).path(), "the files of 1 of 4 ranks missing: those of rank 1_0");
    let whole = megatron(&["mp_rank_00_000", "mp_rank_00_001", "mp_rank_01_000", "mp_rank_01_001"]);
    assert_eq!(open(whole.path()).unwrap().damage, None);
}
