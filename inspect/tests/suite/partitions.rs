//! What DeepSpeed saved of each rank, its partitions and universal checkpoints, against what its own scripts make of them.

use std::path::{Path, PathBuf};

use ckpt_inspect::{
    Checkpoint, DamageKind, Format, Group, NoticeKind, OpenOptions, Options, describe, find, identity, open,
    salvage,
};
use ckpt_kit::fixtures::below;
use ckpt_kit::pickle::{dict, pickle};
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::tensor::Tensor;
use ckpt_kit::{peers, torch};

use super::ranks::{assert_equal, assert_missing, content, copy, copy_into, damage, saved, sound, tensors};

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

/// Every weight and moment is what DeepSpeed says it is, also of experts that some ranks have.
#[test]
#[ignore = "trains with DeepSpeed for minutes: bash .ci/peers layouts"]
fn experts_of_deepspeed_have_the_weights_and_moments_that_its_ranks_say() {
    let Some(python) = peers::python(&["torch", "deepspeed"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.script("inspect", "experts.py", &[folder.path()]);
    for name in ["whole", "zero1", "zero2"] {
        let checkpoint = sound(&folder.path().join(name));
        let said = tensors(&open(folder.path().join(format!("{name}.pt"))).unwrap());
        let record = describe(&checkpoint, Options::default().with(|o| o.stats = false), &|_| ());
        let training = record.training.as_ref().unwrap();
        let (mut weights, mut moments) = (0, 0);
        for (at, tensor) in record.tensors.iter().enumerate().filter(|(_, t)| t.group == Group::Weights) {
            assert_eq!(content(&checkpoint.tensors[at]), said[&tensor.name], "{name}: {}", tensor.name);
            weights += 1;
            for &moment in training.moments_of(at) {
                let moment = &checkpoint.tensors[moment as usize];
                let key = moment.name.rsplit('.').next().unwrap();
                if let Some(said) = said.get(&format!("{key}/{}", tensor.name)) {
                    assert_eq!(&content(moment), said, "{name}: {}", moment.name);
                }
                moments += 1;
            }
        }
        let expected = if name == "whole" { 3 * weights } else { weights };
        assert_eq!((moments, said.len()), (2 * weights, expected), "{name}");
    }
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
