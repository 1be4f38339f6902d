//! What each rank of a distributed run saved for itself: DTensors and ShardedTensors, DeepSpeed's partitions, Megatron's
//! folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ckpt_inspect::salvage;
use ckpt_inspect::scan::{self, Severity};
use ckpt_inspect::{
    Checkpoint, Damage, DamageKind, Format, NoticeKind, OpenOptions, Options, TensorInfo, describe, find,
    identity, lookup, open,
};
use ckpt_kit::fixtures::below;
use ckpt_kit::pickle::{dict, pickle};
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::tensor::Tensor;
use ckpt_kit::{peers, torch};

/// Of PyTorch 2.15 and DeepSpeed 0.19.8: what `tests/peers/ranks.py` and `deepspeed.py` save, with three and four ranks.
fn saved(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ranks").join(name)
}

fn copy_into(from: &Path, to: &Path) {
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
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_into(&saved(name), folder.path());
    folder
}

/// Type, shape and bytes.
type Content = (String, Vec<usize>, Vec<u8>);

fn content(tensor: &TensorInfo) -> Content {
    let bytes = tensor.bytes().unwrap_or_else(|e| panic!("{}: {e}", tensor.name)).into_owned();
    (tensor.dtype.to_string(), tensor.shape.clone(), bytes)
}

fn tensors(checkpoint: &Checkpoint) -> BTreeMap<String, Content> {
    checkpoint.tensors.iter().map(|tensor| (tensor.name.clone(), content(tensor))).collect()
}

/// A checkpoint of which nothing is wrong.
#[track_caller]
fn sound(path: &Path) -> Checkpoint {
    let mut checkpoint = open(path).unwrap();
    assert_eq!(checkpoint.damage, None);
    assert!(checkpoint.warnings.is_empty(), "{:?}", checkpoint.warnings);
    assert_eq!(checkpoint.verify_checksums(), [""; 0]);
    checkpoint
}

#[track_caller]
fn assert_equal(found: &BTreeMap<String, Content>, expected: &BTreeMap<String, Content>) {
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

/// The weights of `folder` are those that zero_to_fp32.py finds, which makes fp32 of buffers.
#[track_caller]
fn assert_consolidated(folder: &Path, whole: &Path) -> Checkpoint {
    let checkpoint = sound(folder);
    assert_eq!(checkpoint.format, Format::DeepSpeed);
    let mut found = tensors(&checkpoint);
    found.retain(|name, _| !name.starts_with("optimizer."));
    let seen = found.remove("seen").unwrap();
    assert_eq!((seen.0.as_str(), &seen.2[..]), ("int64", &7u64.to_le_bytes()[..]));
    let mut expected = tensors(&open(whole).unwrap());
    expected.remove("seen");
    if !expected.contains_key("frozen.weight") {
        // Of stage 1 it loses what is not trained, which is in the module all the same.
        let frozen = ["frozen.weight", "frozen.bias"].map(|name| found.remove(name).unwrap().0);
        assert_eq!(frozen, ["bfloat16", "bfloat16"]);
    }
    assert_equal(&found, &expected);
    checkpoint
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
fn partitions_of_zero_are_what_deepspeed_makes_of_them() {
    for name in ["zero2", "zero3"] {
        let checkpoint = assert_consolidated(&saved(name), &saved(&format!("{name}.pt")));
        assert_eq!(checkpoint.step, Some((3, "global_steps".into())));
        // Tied weights are one.
        let (a, b) = ("embed_tokens.weight", "lm_head.weight");
        assert_eq!(checkpoint.tensor(a).unwrap().storage, checkpoint.tensor(b).unwrap().storage);
        let options = Options::default().with(|o| o.stats = false);
        let training = describe(&checkpoint, options, &|_| ()).training.unwrap();
        assert_eq!(training.optimizer_steps, Some(3));
        let groups = &training.groups;
        let of = |numbers: &[u32]| -> Vec<&str> {
            numbers.iter().map(|&i| checkpoint.tensors[i as usize].name.as_str()).collect()
        };
        let names: Vec<Vec<&str>> = groups.iter().map(|group| of(&group.tensors)).collect();
        assert_eq!(names, [["embed_tokens.weight", "back.weight"], ["norm.weight", "norm.bias"]]);
        let moments = ["optimizer.state.3.exp_avg", "optimizer.state.3.exp_avg_sq"];
        assert_eq!(of(&groups[1].moments[1]), moments);
        assert_eq!(groups.iter().map(|group| group.weight_decay).collect::<Vec<_>>(), [Some(0.1), Some(0.0)]);
    }
}

/// DeepSpeed's own conversion has every moment of every parameter in a file.
#[test]
fn moments_are_cut_like_their_weights() {
    let (zero, universal) = (sound(&saved("zero3")), sound(&saved("universal-zero3")));
    let (mut zero, universal) = (tensors(&zero), tensors(&universal));
    assert_eq!(zero.keys().filter(|name| name.ends_with(".exp_avg")).count(), 4);
    // It does not keep the steps of stage 3.
    zero.retain(|name, _| !name.ends_with(".step"));
    assert_equal(&universal, &zero);
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
fn a_run_of_deepspeed_is_a_checkpoint_for_each_tag() {
    let folder = copy("zero2");
    copy_into(&saved("zero2/global_step3"), &folder.path().join("global_step12"));
    let tags: Vec<PathBuf> = ["global_step3", "global_step12"].map(|tag| folder.path().join(tag)).into();
    assert_eq!(find(folder.path()).unwrap(), tags);
    // The folder of all is the last one.
    assert_eq!(identity(folder.path()), identity(&tags[0]));
    // As Hugging Face's Trainer has it.
    let run = tempfile::tempdir().unwrap();
    let trainer = run.path().join("checkpoint-500");
    copy_into(&saved("zero2"), &trainer);
    std::fs::write(trainer.join("trainer_state.json"), r#"{"global_step": 500}"#).unwrap();
    assert_eq!(find(run.path()).unwrap(), [trainer]);
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
fn without_the_masters_the_weights_are_the_modules_own() {
    let folder = copy("zero2");
    let optimizer = |rank: usize| {
        folder.path().join(format!("global_step3/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"))
    };
    let kinds = |checkpoint: &Checkpoint| {
        (
            checkpoint.damage.as_ref().map(|damage| damage.kind),
            checkpoint.warnings.iter().map(|notice| notice.kind).collect::<Vec<_>>(),
        )
    };
    std::fs::remove_file(optimizer(2)).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let missing = Some(DamageKind::MissingShards);
    assert_eq!(kinds(&checkpoint), (missing, vec![NoticeKind::OtherForm]));
    // Every weight is whole, some of them in 16 bits.
    let types: Vec<String> = ["embed_tokens.weight", "back.weight", "norm.bias"]
        .map(|name| content(checkpoint.tensor(name).unwrap()).0)
        .into();
    assert!(types.contains(&"bfloat16".to_string()), "{types:?}");
    for rank in [0, 1] {
        std::fs::remove_file(optimizer(rank)).unwrap();
    }
    let checkpoint = open(folder.path()).unwrap();
    // The rest is not said to be what was saved.
    assert_eq!(kinds(&checkpoint), (None, vec![NoticeKind::Gone]));
    assert!(checkpoint.warnings[0].is_doubt());
    assert_eq!(content(checkpoint.tensor("embed_tokens.weight").unwrap()).0, "bfloat16");
    let salvage = salvage::salvage(folder.path(), &OpenOptions::default()).unwrap();
    assert_eq!(salvage.doubtful, ["embed_tokens.weight", "back.weight", "norm.weight", "norm.bias"]);
    assert!(!salvage.is_whole() && salvage.losses.is_empty());
    // The other way round nothing says what the vectors hold.
    let folder = copy("zero2");
    std::fs::remove_file(folder.path().join("global_step3/mp_rank_00_model_states.pt")).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(kinds(&checkpoint).0, missing);
    let name = "rank_1.optimizer_state_dict.single_partition_of_fp32_groups.0";
    assert_eq!(checkpoint.tensor(name).unwrap().shape.len(), 1);
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
fn a_last_tag_that_is_not_there_is_told() {
    let folder = copy("zero2");
    let latest = folder.path().join("latest");
    std::fs::write(&latest, "global_step9").unwrap();
    std::fs::write(folder.path().join("zero_to_fp32.py"), "").unwrap();
    let tag = folder.path().join("global_step3");
    assert_eq!(find(folder.path()).unwrap(), std::slice::from_ref(&tag));
    let checkpoint = open(&tag).unwrap();
    let [notice] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
    assert_eq!((notice.kind, checkpoint.damage.clone()), (NoticeKind::Gone, None));
    assert!(notice.text.contains("`global_step9`"), "{notice}");
    // Nothing but what points at it.
    std::fs::remove_dir_all(&tag).unwrap();
    assert_eq!(find(folder.path()).unwrap(), [folder.path()]);
    let error = open(folder.path()).unwrap_err();
    assert!(
        error.to_string().contains("the weights are missing") && error.to_string().contains("global_step9")
    );
    let megatron = tempfile::tempdir().unwrap();
    let rank = megatron.path().join("iter_0000040/mp_rank_00");
    std::fs::create_dir_all(&rank).unwrap();
    std::fs::copy(saved("sharded.pt"), rank.join("model_optim_rng.pt")).unwrap();
    std::fs::write(megatron.path().join("latest_checkpointed_iteration.txt"), "50").unwrap();
    let checkpoint = open(megatron.path().join("iter_0000040")).unwrap();
    assert_eq!(checkpoint.warnings.iter().map(|notice| notice.kind).collect::<Vec<_>>(), [NoticeKind::Gone]);
}

#[test]
fn experts_have_their_names_in_the_module_and_layers_are_counted() {
    let folder = copy("zero2");
    let tag = folder.path().join("global_step3");
    let key = |expert: usize| format!("moe.deepspeed_moe.experts.deepspeed_experts.{expert}.up.weight");
    let write = |name: &str, key: &str| {
        let tensor = Tensor::new(key, &[2, 2], [1.0, 2.0, 3.0, 4.0]);
        let object = dict(&[(key, torch::rebuild("FloatStorage", "0", 4, 0, &[2, 2], &[2, 1]))]);
        let file = torch::zip_of(&pickle(2, &object), &[tensor.bytes()]);
        std::fs::write(tag.join(name), file).unwrap();
    };
    for expert in [0, 1, 3] {
        write(&format!("layer_0_expert_{expert}_mp_rank_00_model_states.pt"), &key(expert));
    }
    let checkpoint = open(&tag).unwrap();
    assert_eq!(checkpoint.values(checkpoint.tensor(&key(3)).unwrap()).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(checkpoint.damage.unwrap().what, "files of experts missing: that of expert 2 of layer 0");
    write("layer_0_expert_2_mp_rank_00_model_states.pt", &key(2));
    assert_eq!(open(&tag).unwrap().damage, None);
    for layer in ["layer_00-model_00", "layer_00-model_01", "layer_02-model_00"] {
        write(&format!("{layer}-model_states.pt"), "up.weight");
    }
    let damage = open(&tag).unwrap().damage.unwrap().what;
    assert!(damage.contains("files of layers missing: that of layer 2 of model-parallel rank 1"), "{damage}");
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
fn damage(path: &Path) -> Damage {
    open(path).unwrap().damage.unwrap()
}

#[track_caller]
fn assert_missing(path: &Path, what: &str) {
    let damage = damage(path);
    assert!(damage.is(DamageKind::MissingShards) && damage.what.contains(what), "{damage}");
}

#[test]
fn a_second_partition_of_a_rank_is_told_and_not_used() {
    let folder = copy("zero2");
    let tag = folder.path().join("global_step3");
    let (one, other) =
        ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt");
    std::fs::copy(tag.join("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"), tag.join(other)).unwrap();
    let told = damage(folder.path());
    assert_eq!(told.kind, DamageKind::Inconsistent);
    assert_eq!(
        told.what,
        format!("{one} and {other} are the same rank's by their names: the latter is not used")
    );
    // The file is used that is called like the others.
    assert_equal(&tensors(&open(folder.path()).unwrap()), &tensors(&open(saved("zero2")).unwrap()));
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
fn a_parameter_without_its_file_is_missing_from_a_universal_checkpoint() {
    let whole = tensors(&open(saved("universal-zero3")).unwrap());
    let folder = copy("universal-zero3");
    let zero = folder.path().join("zero");
    std::fs::remove_file(zero.join("norm.bias/fp32.pt")).unwrap();
    std::fs::remove_dir_all(zero.join("back.weight")).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let told = checkpoint.damage.clone().unwrap();
    assert_eq!(told.kind, DamageKind::MissingShards);
    assert_eq!(told.what, "files of 2 of 4 parameters missing, such as that of `exp_avg` of `back.weight`");
    for (name, shape) in [("norm.bias", &[6][..]), ("back.weight", &[6, 5])] {
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!((&tensor.shape[..], tensor.bytes().is_err()), (shape, true), "{name}");
    }
    assert_eq!(content(checkpoint.tensor("norm.weight").unwrap()), whole["norm.weight"]);
    // A model that has its own copies.
    for rank in 0..3 {
        std::fs::remove_file(folder.path().join(format!("zero_pp_rank_{rank}_mp_rank_00_model_states.pt")))
            .unwrap();
    }
    let model = "mp_rank_00_model_states.pt";
    std::fs::copy(saved("zero2/global_step3").join(model), folder.path().join(model)).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    assert!(checkpoint.damage.unwrap().is(DamageKind::MissingShards));
    assert!(checkpoint.warnings.iter().any(|notice| notice.kind == NoticeKind::OtherForm));
    assert_eq!(
        checkpoint.tensors.iter().find(|t| t.name == "norm.bias").unwrap().dtype.to_string(),
        "bfloat16"
    );

    // Moments that others have, and a file that holds nothing.
    let folder = copy("universal-zero3");
    let moment = folder.path().join("zero/norm.bias/exp_avg.pt");
    std::fs::remove_file(&moment).unwrap();
    let told = damage(folder.path());
    assert_eq!(told.what, "files of 1 of 4 parameters missing, such as that of `exp_avg` of `norm.bias`");
    let nothing = pickle(2, &dict(&[("nothing", b"N".to_vec())]));
    std::fs::write(&moment, torch::zip_of(&nothing, &[])).unwrap();
    let told = damage(folder.path());
    assert_eq!(told.kind, DamageKind::UnreadableEntry);
    assert_eq!(told.what, "the file of `exp_avg` of `norm.bias` holds neither a tensor nor a number");
}

#[test]
fn the_weights_of_a_universal_checkpoint_are_those_of_all_model_parallel_ranks() {
    let folder = copy("universal-zero3");
    for rank in 0..3 {
        let name =
            |mp: usize| folder.path().join(format!("zero_pp_rank_{rank}_mp_rank_{mp:02}_model_states.pt"));
        // As it would have been saved: the archive has its file's name.
        let (mut bytes, saved_as) = (std::fs::read(name(0)).unwrap(), b"_mp_rank_00_model_states/");
        for at in 0..bytes.len() - saved_as.len() {
            if bytes[at..].starts_with(saved_as) {
                bytes[at + 10] = b'1';
            }
        }
        std::fs::write(name(1), bytes).unwrap();
    }
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(checkpoint.damage, None);
    assert_eq!(checkpoint.step, Some((3, "global_steps".into())));
    let (found, whole) = (tensors(&checkpoint), tensors(&open(saved("universal-zero3")).unwrap()));
    for (name, content) in &whole {
        let apart = ["mp_rank_00", "mp_rank_01"].map(|rank| found.get(&format!("{rank}.{name}")));
        match name.as_str() {
            "shift" | "seen" | "frozen.weight" | "frozen.bias" => {
                assert_eq!(apart, [Some(content); 2], "{name}")
            }
            _ => assert_eq!((found.get(name), apart), (Some(content), [None; 2]), "{name}"),
        }
    }
    let [notice] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
    assert_eq!(notice.kind, NoticeKind::NotShown);
}

#[test]
fn tags_beside_a_gathered_model_are_passed_over_only_where_it_is_theirs() {
    let folder = copy("zero2");
    let at = |name: &str| folder.path().join(name);
    SafeTensors::new().f32s("w", &[2], &[1.0, 2.0]).write(&at("model.safetensors"));
    assert_eq!(find(folder.path()).unwrap(), [folder.path()]);
    std::fs::rename(at("global_step3"), at("last")).unwrap();
    // It names no tag that is there.
    assert_eq!(find(folder.path()).unwrap(), [folder.path().to_path_buf(), at("last")]);
    std::fs::rename(at("last"), at("global_step3")).unwrap();
    copy_into(&saved("zero2/global_step3"), &at("global_step12"));
    let all = [folder.path().to_path_buf(), at("global_step3"), at("global_step12")];
    assert_eq!(find(folder.path()).unwrap(), all);
}

#[test]
fn missing_model_parallel_ranks_are_told() {
    let folder = copy("zero2");
    let tag = folder.path().join("global_step3");
    let model = tag.join("mp_rank_00_model_states.pt");
    let mut bytes = std::fs::read(&model).unwrap();
    let key = bytes.windows(13).position(|bytes| bytes == b"mp_world_size").unwrap();
    let number = key + bytes[key..].iter().position(|byte| *byte == b'K').unwrap() + 1;
    assert_eq!(std::mem::replace(&mut bytes[number], 2), 1);
    std::fs::write(&model, bytes).unwrap();
    assert_missing(&tag, "the files of 1 of 2 model-parallel ranks missing: those of rank 1");

    let folder = copy("zero2");
    let tag = folder.path().join("global_step3");
    for file in below(&tag, &[".pt"]) {
        let name = file.file_name().unwrap().to_string_lossy().replace("mp_rank_00", "mp_rank_02");
        std::fs::rename(&file, tag.join(name)).unwrap();
    }
    assert_missing(&tag, "the files of 2 of 3 model-parallel ranks missing: those of rank 0 and more");
    let checkpoint = open(&tag).unwrap();
    assert!(checkpoint.tensors.iter().all(|tensor| tensor.name.starts_with("mp_rank_02.")));
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

#[test]
fn what_is_not_trained_does_not_vanish() {
    let folder = copy("zero3");
    for rank in 0..3 {
        let states =
            folder.path().join(format!("global_step3/zero_pp_rank_{rank}_mp_rank_00_model_states.pt"));
        let mut bytes = std::fs::read(&states).unwrap();
        let key = bytes.windows(22).position(|bytes| bytes == b"frozen_param_fragments").unwrap();
        bytes[key + 21] = b'z';
        std::fs::write(&states, bytes).unwrap();
        let checkpoint = open(folder.path()).unwrap();
        let tensor = checkpoint.tensor("frozen.weight").unwrap();
        assert_eq!((&tensor.shape[..], tensor.bytes().is_err()), (&[5, 6][..], true));
        let dtype = if rank == 2 { "float32" } else { "bfloat16" };
        assert_eq!(tensor.dtype.to_string(), dtype);
        let told = checkpoint.damage.is_some_and(|damage| damage.is(DamageKind::StorageLost));
        assert_eq!(told, rank == 2);
    }
}

#[test]
fn moments_of_other_lengths_than_their_weights_do_not_move_the_others() {
    let folder = copy("zero2");
    let file = folder.path().join("global_step3/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt");
    let mut bytes = std::fs::read(&file).unwrap();
    let key = bytes.windows(7).position(|bytes| bytes == b"exp_avg").unwrap();
    // The tuple of its only size.
    let size = key + 1 + bytes[key..].windows(3).position(|bytes| bytes == [b'K', 38, 0x85]).unwrap();
    assert_eq!(std::mem::replace(&mut bytes[size], 37), 38);
    std::fs::write(&file, bytes).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let whole = open(saved("zero2")).unwrap();
    let (first, second) = ("optimizer.state.0.exp_avg", "optimizer.state.1.exp_avg");
    assert_eq!(checkpoint.tensor(first).unwrap().damage.as_ref().map(|d| d.kind), Some(DamageKind::Shape));
    assert_eq!(content(checkpoint.tensor(second).unwrap()), content(whole.tensor(second).unwrap()));
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

#[test]
#[ignore = "trains with DeepSpeed for minutes: bash .ci/peers layouts"]
fn deepspeed_saves_every_stage_and_it_is_joined_to_what_its_script_makes() {
    let Some(python) = peers::python(&["torch", "deepspeed"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.script("inspect", "deepspeed.py", &[folder.path()]);
    let at = |name: &str| folder.path().join(name);
    for name in ["zero1", "zero2", "zero2-aligned", "zero3"] {
        assert_consolidated(&at(name), &at(&format!("{name}.pt")));
    }
    let mut zero0 = tensors(&sound(&at("zero0")));
    zero0.retain(|name, _| !name.starts_with("optimizer."));
    assert_equal(&zero0, &tensors(&open(at("zero0.pt")).unwrap()));
    for stage in [2, 3] {
        let [mut zero, mut universal] = [format!("zero{stage}"), format!("universal-zero{stage}")]
            .map(|name| tensors(&sound(&at(&name))));
        // In one of the two what is not trained is fp32, and in the other there are no steps.
        for tensors in [&mut zero, &mut universal] {
            tensors.retain(|name, _| !name.ends_with(".step") && !name.starts_with("frozen."));
        }
        assert_equal(&universal, &zero);
    }
}
