//! Saves of DeepSpeed whose files do not belong together, or of which one is missing: experts, pipelines, universal ones.

use std::path::{Path, PathBuf};

use ckpt_inspect::{Checkpoint, DamageKind, NoticeKind, find, lookup, open};
use ckpt_kit::pickle::{dict, int, list, long, pickle, sizes, text, tuple};
use ckpt_kit::{numbers, torch, zip};

/// A file of PyTorch that is written: its storages.
#[derive(Default)]
struct Writer(Vec<Vec<u8>>);

type Pickled = Vec<u8>;

impl Writer {
    fn tensor(&mut self, values: &[f32], shape: &[usize]) -> Pickled {
        self.0.push(numbers::le(values));
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        let key = (self.0.len() - 1).to_string();
        torch::rebuild("FloatStorage", &key, values.len(), 0, shape, &strides)
    }

    fn write(self, path: &Path, object: &[(&str, Pickled)]) {
        let root = path.file_stem().unwrap().to_str().unwrap();
        let mut entries = torch::entries(&pickle(2, &dict(object)), &self.0);
        for entry in &mut entries {
            entry.name = entry.name.replacen('m', root, 1);
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, zip::zip(&entries)).unwrap();
    }
}

/// Model states of a save at step 10, whose module has `weights`, vectors, and whose optimizer has parameters of `shapes`.
fn model_states(
    path: &Path,
    weights: &[(&str, &[f32])],
    shapes: &[(&str, &[usize])],
    more: &[(&str, Pickled)],
) {
    let mut writer = Writer::default();
    let mut module = Vec::new();
    for (name, values) in weights {
        module.push((*name, writer.tensor(values, &[values.len()])));
    }
    let module = if weights.is_empty() { b"N".to_vec() } else { dict(&module) };
    let shapes: Vec<_> = shapes.iter().map(|(name, shape)| (*name, sizes(shape))).collect();
    let mut object = vec![("module", module), ("global_steps", int(10)), ("skipped_steps", int(0))];
    if !shapes.is_empty() {
        object.push(("param_shapes", list(&[dict(&shapes)])));
    }
    object.extend(more.iter().cloned());
    writer.write(path, &object);
}

/// One rank's partition of one group, whose optimizer counted `steps`.
fn partition(path: &Path, stage: i32, world: i32, steps: f32, masters: &[f32]) {
    let mut writer = Writer::default();
    let vector = writer.tensor(masters, &[masters.len()]);
    let moment = writer.tensor(masters, &[masters.len()]);
    let step = writer.tensor(&[steps], &[]);
    let state = dict(&[("state", dict(&[("0", dict(&[("step", step), ("exp_avg", moment)]))]))]);
    let (masters, states) = match stage {
        3 => ("fp32_flat_groups", "optimizer_state_dict"),
        _ => ("single_partition_of_fp32_groups", "base_optimizer_state"),
    };
    let own = [
        (masters, list(&[vector])),
        (states, state),
        ("zero_stage", int(stage)),
        ("partition_count", int(world)),
    ];
    writer.write(path, &[("optimizer_state_dict", dict(&own))]);
}

fn told(checkpoint: &Checkpoint) -> (Option<DamageKind>, String) {
    let damage = checkpoint.damage.clone();
    (damage.as_ref().map(|damage| damage.kind), damage.map(|damage| damage.what).unwrap_or_default())
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect()
}

fn healthy(path: &Path) -> Checkpoint {
    let checkpoint = open(path).unwrap();
    assert_eq!(checkpoint.damage, None);
    checkpoint
}

const MODEL: &str = "mp_rank_00_model_states.pt";
const OPTIMIZER: &str = "zero_pp_rank_0_mp_rank_00_optim_states.pt";

#[test]
fn fp32_weights_are_what_the_module_has_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let long: Vec<f32> = (0..4000).map(|i| i as f32 / 7.0).collect();
    let module = [("norm.weight", &[1.0f32, f32::NAN, 3.0][..]), ("up.weight", &long)];
    let shapes = [("norm.weight", &[3usize][..]), ("up.weight", &[4000])];
    model_states(&at(MODEL), &module, &shapes, &[]);
    let masters = [&[1.0, f32::NAN, 3.0][..], &long].concat();
    partition(&at(OPTIMIZER), 1, 1, 10.0, &masters);
    let checkpoint = healthy(folder.path());
    assert!(checkpoint.warnings.is_empty(), "{:?}", checkpoint.warnings);
    for (element, name, at_element) in [(2, "norm.weight", 2), (3 + 2000, "up.weight", 2000)] {
        let mut other = masters.clone();
        other[element] += 0.5;
        partition(&at(OPTIMIZER), 1, 1, 10.0, &other);
        let what = format!(
            "the fp32 weights of 1 of 2 parameters are not those of the module, such as `{name}` from element {at_element} on: the optimizer's files and the model states come from different saves"
        );
        assert_eq!(told(&open(folder.path()).unwrap()), (Some(DamageKind::Inconsistent), what));
    }
}

#[test]
fn where_the_module_has_no_weights_the_steps_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let states = "zero_pp_rank_0_mp_rank_00_model_states.pt";
    let one = [("dp_world_size", int(1))];
    model_states(&at(states), &[("norm.weight", &[])], &[("norm.weight", &[3])], &one);
    for (steps, is_told) in [(10.0, false), (11.0, false), (3.0, true), (20.0, true)] {
        partition(&at(OPTIMIZER), 3, 1, steps, &[1.0, 2.0, 3.0]);
        let checkpoint = healthy(folder.path());
        let kinds: Vec<NoticeKind> = checkpoint.warnings.iter().map(|notice| notice.kind).collect();
        let expected = if is_told { vec![NoticeKind::Contradiction] } else { Vec::new() };
        assert_eq!(kinds, expected, "{steps}: {:?}", checkpoint.warnings);
        assert!(checkpoint.warnings.iter().all(|notice| notice.is_finding()));
    }
}

/// Two experts for each of two ranks.
fn experts(folder: &Path) -> impl Fn(&str) -> PathBuf {
    let at = {
        let folder = folder.to_path_buf();
        move |name: &str| folder.join(name)
    };
    let group = |size: usize| {
        let named = [
            ("moe", b"\x88".to_vec()),
            ("name", text(&format!("ep_size_{size}"))),
            ("params", list(&[int(1)])),
        ];
        dict(&[("param_groups", list(&[dict(&[("params", list(&[int(0)]))]), dict(&named)]))])
    };
    let more = [("num_experts", list(&[int(4)])), ("optimizer", group(2)), ("mp_world_size", int(1))];
    model_states(&at(MODEL), &[("gate.weight", &[0.5, 1.5])], &[], &more);
    for expert in 0..4 {
        let mut writer = Writer::default();
        let name = format!("moe.deepspeed_moe.experts.deepspeed_experts.{expert}.up.weight");
        let tensor = writer.tensor(&[expert as f32, 1.0], &[2]);
        writer.write(&at(&format!("layer_0_expert_{expert}_mp_rank_00_model_states.pt")), &[(&name, tensor)]);
    }
    for rank in 0..2 {
        let path = at(&format!("expp_rank_{rank}_mp_rank_00_optim_states.pt"));
        Writer::default().write(&path, &[("optimizer", group(2))]);
    }
    at
}

#[test]
fn every_expert_that_the_model_states_count_is_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let at = experts(folder.path());
    let whole = healthy(folder.path());
    assert_eq!(names(&whole).iter().filter(|name| name.contains("deepspeed_experts")).count(), 4);
    let missing = Some(DamageKind::MissingShards);
    for (file, what) in [
        (
            "layer_0_expert_3_mp_rank_00_model_states.pt",
            "files of experts missing: that of expert 3 of layer 0",
        ),
        (
            "layer_0_expert_0_mp_rank_00_model_states.pt",
            "files of experts missing: that of expert 0 of layer 0",
        ),
        (
            MODEL,
            "the model states are missing: only the parts of the module that have their own files are there",
        ),
        (
            "expp_rank_1_mp_rank_00_optim_states.pt",
            "files of the optimizers of experts missing: that of rank 1",
        ),
        (
            "expp_rank_0_mp_rank_00_optim_states.pt",
            "files of the optimizers of experts missing: that of rank 0",
        ),
    ] {
        let bytes = std::fs::read(at(file)).unwrap();
        std::fs::remove_file(at(file)).unwrap();
        assert_eq!(told(&open(folder.path()).unwrap()), (missing, what.to_string()), "{file}");
        std::fs::write(at(file), bytes).unwrap();
    }
    let expert = |rank: usize| at(&format!("expp_rank_{rank}_mp_rank_00_optim_states.pt"));
    std::fs::copy(expert(0), expert(1)).unwrap();
    let (kind, what) = told(&open(folder.path()).unwrap());
    assert_eq!(kind, Some(DamageKind::Inconsistent));
    assert!(what.contains("was saved as expp_rank_0_mp_rank_00_optim_states.pt"), "{what}");
    // None of them at all.
    for rank in 0..2 {
        std::fs::remove_file(expert(rank)).unwrap();
    }
    let what = "files of the optimizers of experts missing: that of rank 0";
    assert_eq!(told(&open(folder.path()).unwrap()), (missing, what.to_string()));
}

/// Shapes of parameters of models with experts are plain tuples.
#[test]
fn experts_that_all_ranks_have_are_joined_and_others_are_the_modules_own() {
    let name = |expert: usize| format!("moe.deepspeed_moe.experts.deepspeed_experts.{expert}.up.weight");
    for counts in [[2, 2], [2, 1]] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let shared = [("gate.weight", tuple(&[int(2)]))];
        let (first, second) = (name(0), name(1));
        let own = [(first.as_str(), tuple(&[int(2)])), (second.as_str(), tuple(&[int(2)]))];
        let shapes = list(&[dict(&shared), dict(&own)]);
        let more = [("num_experts", list(&[int(2)])), ("param_shapes", shapes)];
        model_states(&at(MODEL), &[("gate.weight", &[0.5, 1.5])], &[], &more);
        for (expert, values) in [[1.0f32, 2.0], [3.0, 4.0]].iter().enumerate() {
            let mut writer = Writer::default();
            let tensor = writer.tensor(values, &[2]);
            let path = at(&format!("layer_0_expert_{expert}_mp_rank_00_model_states.pt"));
            writer.write(&path, &[(&name(expert), tensor)]);
        }
        let save = |rank: usize| {
            let mut writer = Writer::default();
            let masters = match rank {
                0 => [writer.tensor(&[0.5], &[1]), writer.tensor(&[1.0, 2.0], &[2])],
                _ => [writer.tensor(&[1.5], &[1]), writer.tensor(&[3.0, 4.0], &[2])],
            };
            let counts = list(&counts.map(int));
            let own = [
                ("single_partition_of_fp32_groups", list(&masters)),
                ("zero_stage", int(1)),
                ("partition_count", counts),
            ];
            let path = at(&format!("zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"));
            writer.write(&path, &[("optimizer_state_dict", dict(&own))]);
            path
        };
        save(0);
        let last = save(1);
        let checkpoint = healthy(folder.path());
        let joined = counts == [2, 2];
        let kinds: Vec<NoticeKind> = checkpoint.warnings.iter().map(|notice| notice.kind).collect();
        assert_eq!(kinds, if joined { vec![] } else { vec![NoticeKind::NotShown] });
        for (expert, values) in [(0, [1.0, 2.0]), (1, [3.0, 4.0])] {
            let tensor = checkpoint.tensor(&name(expert)).unwrap();
            assert_eq!(checkpoint.values(tensor).unwrap(), values);
        }
        assert_eq!(names(&checkpoint).iter().filter(|n| n.contains("experts")).count(), 2);
        // Neither form lacks a rank unnoticed.
        std::fs::remove_file(last).unwrap();
        let (kind, what) = told(&open(folder.path()).unwrap());
        assert_eq!(kind, Some(DamageKind::MissingShards));
        assert!(what.contains("1 of 2 files of the optimizer missing: that of rank 1"), "{what}");
    }
}

fn expert(number: usize) -> String {
    format!("moe.deepspeed_moe.experts.deepspeed_experts.{number}.up.weight")
}

/// Files of experts, each a vector that begins with its number.
fn write_experts(folder: &Path, count: usize) {
    for number in 0..count {
        let mut writer = Writer::default();
        let tensor = writer.tensor(&[number as f32, number as f32 + 10.0], &[2]);
        let path = folder.join(format!("layer_0_expert_{number}_mp_rank_00_model_states.pt"));
        writer.write(&path, &[(&expert(number), tensor)]);
    }
}

/// Without ZeRO each rank's file has what all ranks have, and the states of its own experts.
#[test]
fn optimizers_of_experts_are_one_optimizer() {
    let folder = tempfile::tempdir().unwrap();
    let optimizer = |writer: &mut Writer, rank: usize, gate: f32| {
        let state =
            |values: [f32; 2], writer: &mut Writer| dict(&[("exp_avg", writer.tensor(&values, &[2]))]);
        let states: Vec<Pickled> =
            [gate, 2.0 * rank as f32, 2.0 * rank as f32 + 1.0].map(|x| state([x, 0.25], writer)).into();
        let group = |name: &str, params: &[i32], more: &[(&str, Pickled)]| {
            let params = list(&params.iter().map(|&n| int(n)).collect::<Vec<_>>());
            dict(&[&[("name", text(name)), ("params", params)], more].concat())
        };
        let moe = [("moe", b"\x88".to_vec())];
        let groups = [group("main", &[0], &[]), group("ep_size_2", &[1, 2], &moe)];
        let keys = ["0", "1", "2"];
        let state = dict(&keys.iter().copied().zip(states).collect::<Vec<_>>());
        dict(&[("state", state), ("param_groups", list(&groups))])
    };
    let mut writer = Writer::default();
    let module = dict(&[("gate.weight", writer.tensor(&[0.5, 1.5], &[2]))]);
    let own = optimizer(&mut writer, 0, 7.0);
    let object = [
        ("module", module),
        ("optimizer", own),
        ("num_experts", list(&[int(4)])),
        ("global_steps", int(10)),
        ("mp_world_size", int(1)),
    ];
    writer.write(&folder.path().join(MODEL), &object);
    write_experts(folder.path(), 4);
    let save = |rank: usize, gate: f32| {
        let mut writer = Writer::default();
        let own = optimizer(&mut writer, rank, gate);
        let name = format!("expp_rank_{rank}_mp_rank_00_optim_states.pt");
        writer.write(&folder.path().join(name), &[("optimizer", own)]);
    };
    save(0, 7.0);
    save(1, 7.0);
    let whole = healthy(folder.path());
    assert!(whole.warnings.is_empty(), "{:?}", whole.warnings);
    let states: Vec<&str> = names(&whole).into_iter().filter(|name| name.contains("exp_avg")).collect();
    let expected: Vec<String> = (0..5).map(|n| format!("optimizer.state.{n}.exp_avg")).collect();
    assert_eq!(states, expected);
    let value = |path: &str| format!("{:?}", lookup(&whole.metadata, path));
    assert_eq!(value("optimizer.param_groups.1.params"), "Some(List([I64(1), I64(2), I64(3), I64(4)]))");
    for number in 0..4 {
        let moment = whole.tensor(&format!("optimizer.state.{}.exp_avg", number + 1)).unwrap();
        assert_eq!(whole.values(moment).unwrap(), [number as f32, 0.25]);
        let named = value(&format!("optimizer.param_groups.1.param_names.{number}"));
        assert!(named.contains(&expert(number)), "{named}");
    }
    assert!(value("optimizer.param_groups.0.param_names.0").contains("gate.weight"));
    // What all ranks have is compared, and what does not fit together is shown as it is.
    save(1, 8.0);
    let differ = healthy(folder.path());
    let told: Vec<NoticeKind> = differ.warnings.iter().map(|notice| notice.kind).collect();
    assert_eq!(told, [NoticeKind::Contradiction], "{:?}", differ.warnings);
    std::fs::remove_file(folder.path().join("layer_0_expert_3_mp_rank_00_model_states.pt")).unwrap();
    let other = open(folder.path()).unwrap();
    assert!(names(&other).contains(&"expp_rank_1_mp_rank_00_optim_states.optimizer.state.1.exp_avg"));
}

/// With ZeRO their vectors are divided over the ranks that have the same experts, which the module's own copies tell.
#[test]
fn partitions_of_experts_are_joined_where_the_module_has_the_same_weights() {
    // Four ranks, of which two have the same expert: every other one, or neighbours.
    for order in [[0, 1, 0, 1], [0, 0, 1, 1]] {
        let folder = tempfile::tempdir().unwrap();
        let shapes = list(&[
            dict(&[("gate.weight", tuple(&[int(4)]))]),
            dict(&[(expert(0).as_str(), tuple(&[int(2)]))]),
        ]);
        let more = [("num_experts", list(&[int(2)])), ("param_shapes", shapes)];
        model_states(&folder.path().join(MODEL), &[("gate.weight", &[0.5, 1.5, 2.5, 3.5])], &[], &more);
        write_experts(folder.path(), 2);
        let save = |expert: fn(f32) -> f32| {
            let mut seen = [0, 0];
            for (rank, own) in order.into_iter().enumerate() {
                let mut writer = Writer::default();
                let weights = [expert(own as f32), own as f32 + 10.0][seen[own]];
                seen[own] += 1;
                let masters = [writer.tensor(&[rank as f32 + 0.5], &[1]), writer.tensor(&[weights], &[1])];
                let state = |x: f32, writer: &mut Writer| dict(&[("exp_avg", writer.tensor(&[x], &[1]))]);
                let states = [state(rank as f32, &mut writer), state(10.0 + rank as f32, &mut writer)];
                let groups =
                    list(&[dict(&[("params", list(&[int(0)]))]), dict(&[("params", list(&[int(1)]))])]);
                let [first, second] = states;
                let state = dict(&[("0", first), ("1", second)]);
                let own = [
                    ("single_partition_of_fp32_groups", list(&masters)),
                    ("base_optimizer_state", dict(&[("state", state), ("param_groups", groups)])),
                    ("zero_stage", int(1)),
                    ("partition_count", list(&[int(4), int(2)])),
                ];
                let path = folder.path().join(format!("zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"));
                writer.write(&path, &[("optimizer_state_dict", dict(&own))]);
            }
        };
        save(|number| number);
        let checkpoint = healthy(folder.path());
        assert!(checkpoint.warnings.is_empty(), "{:?}", checkpoint.warnings);
        for number in 0..2 {
            let weights = checkpoint.tensor(&expert(number)).unwrap();
            assert_eq!(checkpoint.values(weights).unwrap(), [number as f32, number as f32 + 10.0]);
            let moment = checkpoint.tensor(&format!("optimizer.state.{}.exp_avg", number + 1)).unwrap();
            let ranks = (0..4).filter(|&rank| order[rank] == number);
            let expected: Vec<f32> = ranks.map(|rank| 10.0 + rank as f32).collect();
            assert_eq!(checkpoint.values(moment).unwrap(), expected, "{order:?}");
            let named = format!("optimizer.param_groups.1.param_names.{number}");
            assert!(format!("{:?}", lookup(&checkpoint.metadata, &named)).contains(&expert(number)));
        }
        // Of other weights it is not known whose they are: it is said what is left out.
        save(|_| 9.0);
        let apart = healthy(folder.path());
        let [notice] = &apart.warnings[..] else { panic!("{:?}", apart.warnings) };
        assert_eq!(notice.kind, NoticeKind::NotShown);
        assert!(notice.text.contains("their fp32 weights and moments") && notice.text.contains("left out"));
        assert!(apart.tensor("optimizer.state.1.exp_avg").is_err());
        assert_eq!(apart.values(apart.tensor(&expert(1)).unwrap()).unwrap(), [1.0, 11.0]);
    }
}

/// Three layers over two stages, the first of which has two.
fn pipeline(folder: &Path, zero: bool) -> impl Fn(usize) -> PathBuf {
    let at = |name: &str| folder.join(name);
    let layers: [&[f32]; 3] = [&[1.0, 2.0], &[3.0, 4.0, 5.0], &[6.0, 7.0]];
    for (i, values) in layers.iter().enumerate() {
        let mut writer = Writer::default();
        let tensor = writer.tensor(values, &[values.len()]);
        writer.write(&at(&format!("layer_{i:02}-model_states.pt")), &[("weight", tensor)]);
    }
    let degrees = dict(&[("pp_degree", int(2)), ("tp_degree", int(1))]);
    for (stage, own) in [&[0usize, 1][..], &[2]].iter().enumerate() {
        let keys: Vec<String> = own.iter().map(|i| format!("{i}.weight")).collect();
        let counts: Vec<[usize; 1]> = own.iter().map(|&i| [layers[i].len()]).collect();
        let shapes: Vec<(&str, &[usize])> =
            keys.iter().zip(&counts).map(|(key, count)| (key.as_str(), &count[..])).collect();
        let mut more = vec![("mp_world_size", int(2)), ("checkpoint_parallel_dimensions", degrees.clone())];
        let path = at(&format!("mp_rank_{stage:02}_model_states.pt"));
        if zero {
            model_states(&path, &[], &shapes, &more);
            let masters: Vec<f32> = own.iter().flat_map(|&i| layers[i]).copied().collect();
            let path = at(&format!("zero_pp_rank_0_mp_rank_{stage:02}_optim_states.pt"));
            partition(&path, 1, 1, 10.0, &masters);
            continue;
        }
        let mut writer = Writer::default();
        let mut states = Vec::new();
        let numbers: Vec<String> = (0..own.len()).map(|number| number.to_string()).collect();
        for (number, &layer) in numbers.iter().zip(*own) {
            let moment = writer.tensor(layers[layer], &[layers[layer].len()]);
            states.push((number.as_str(), dict(&[("exp_avg", moment)])));
        }
        more.push(("optimizer", dict(&[("state", dict(&states))])));
        more.extend([("module", b"N".to_vec()), ("global_steps", int(10))]);
        writer.write(&path, &more);
    }
    let folder = folder.to_path_buf();
    move |layer: usize| folder.join(format!("layer_{layer:02}-model_states.pt"))
}

#[test]
fn stages_of_a_pipeline_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let _ = pipeline(folder.path(), true);
    let checkpoint = healthy(folder.path());
    assert!(checkpoint.warnings.is_empty(), "{:?}", checkpoint.warnings);
    assert_eq!(checkpoint.step, Some((10, "global_steps".into())));
    let weights: Vec<&str> =
        names(&checkpoint).into_iter().filter(|name| !name.starts_with("optimizer.")).collect();
    assert_eq!(weights, ["0.weight", "1.weight", "2.weight"]);
    let moment = checkpoint.tensor("optimizer.state.2.exp_avg").unwrap();
    assert_eq!(checkpoint.values(moment).unwrap(), [6.0, 7.0]);

    let folder = tempfile::tempdir().unwrap();
    let _ = pipeline(folder.path(), false);
    let checkpoint = healthy(folder.path());
    assert_eq!(checkpoint.step, Some((10, "global_steps".into())));
    let found = names(&checkpoint);
    assert!(found.contains(&"layer_02.weight"), "{found:?}");
    assert!(found.contains(&"mp_rank_01.optimizer.state.0.exp_avg"), "{found:?}");
    let parts = checkpoint.warnings.iter().filter(|notice| notice.text.contains("parts of each tensor"));
    assert_eq!(parts.count(), 0);
}

#[test]
fn a_stage_without_its_optimizer_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let _ = pipeline(folder.path(), true);
    std::fs::remove_file(folder.path().join("zero_pp_rank_0_mp_rank_01_optim_states.pt")).unwrap();
    let (kind, what) = told(&open(folder.path()).unwrap());
    assert_eq!(kind, Some(DamageKind::MissingShards));
    assert!(
        what.contains("the optimizer's files of model-parallel ranks missing: those of rank 1"),
        "{what}"
    );
}

#[test]
fn any_layer_of_a_pipeline_that_is_missing_is_told() {
    for zero in [true, false] {
        for layer in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            std::fs::remove_file(pipeline(folder.path(), zero)(layer)).unwrap();
            let (kind, what) = told(&open(folder.path()).unwrap());
            assert_eq!(kind, Some(DamageKind::MissingShards), "{layer} of {zero}");
            assert!(what.contains("of the pipeline missing"), "{what}");
            if zero {
                assert_eq!(what, format!("files of layers of the pipeline missing: that of layer {layer}"));
            }
        }
    }
}

/// What `ds_to_universal.py` makes of a vector and a matrix.
fn universal(folder: &Path, norm: &[f32], up: (&[f32], &[usize])) {
    let module = [("norm.weight", &[1.0f32, 2.0][..]), ("up.weight", &[1.0, 2.0, 3.0, 4.0])];
    let shapes = [("norm.weight", &[2usize][..]), ("up.weight", &[4])];
    model_states(&folder.join(MODEL), &module, &shapes, &[]);
    for (name, values, shape) in [("norm.weight", norm, &[2usize][..]), ("up.weight", up.0, up.1)] {
        let mut writer = Writer::default();
        let step = writer.tensor(&[10.0], &[]);
        writer.write(&folder.join(format!("zero/{name}/step.pt")), &[("param", step)]);
        for state in ["fp32", "exp_avg"] {
            let mut writer = Writer::default();
            let tensor = writer.tensor(values, shape);
            writer.write(&folder.join(format!("zero/{name}/{state}.pt")), &[("param", tensor)]);
        }
    }
}

#[test]
fn files_of_a_universal_checkpoint_are_those_of_its_module() {
    let up: (&[f32], &[usize]) = (&[1.0, 2.0, 3.0, 4.0], &[4]);
    let folder = tempfile::tempdir().unwrap();
    universal(folder.path(), &[1.0, 2.0], up);
    assert!(healthy(folder.path()).warnings.is_empty());
    universal(folder.path(), &[1.0, 2.5], up);
    let what = "the fp32 weights of 1 of 2 parameters are not those of the module, such as `norm.weight` from element 1 on: the files of `zero` and the model states come from different saves";
    assert_eq!(told(&open(folder.path()).unwrap()), (Some(DamageKind::Inconsistent), what.to_string()));
    universal(folder.path(), &[1.0, 2.0], (&[1.0, 2.0], &[2]));
    let checkpoint = open(folder.path()).unwrap();
    let (kind, what) = told(&checkpoint);
    assert_eq!(kind, Some(DamageKind::Shape));
    assert!(what.contains("`fp32` of `up.weight` has the shape [2], and the model states say [4]"), "{what}");
    let shown = checkpoint.tensor("up.weight").unwrap();
    assert_eq!(checkpoint.values(shown).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    // Vocabularies are cut to the rows that are used.
    let cut = folder.path().join("zero/up.weight");
    for state in ["fp32", "exp_avg"] {
        let mut writer = Writer::default();
        let tensor = writer.tensor(&[1.0, 2.0], &[2]);
        let saved = [("param", tensor), ("vocab_tensor", b"\x88".to_vec())];
        writer.write(&cut.join(format!("{state}.pt")), &saved);
    }
    healthy(folder.path());
}

#[test]
fn a_universal_checkpoint_without_model_states_is_one_that_lacks_them() {
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("global_step10");
    universal(&folder, &[1.0, 2.0], (&[1.0, 2.0, 3.0, 4.0], &[4]));
    std::fs::remove_file(folder.join(MODEL)).unwrap();
    assert_eq!(find(run.path()).unwrap(), std::slice::from_ref(&folder));
    for path in [folder.clone(), folder.join("zero/up.weight/fp32.pt")] {
        let checkpoint = open(&path).unwrap();
        let (kind, what) = told(&checkpoint);
        assert_eq!(kind, Some(DamageKind::MissingShards));
        assert!(what.starts_with("the model states are missing"), "{what}");
        let up = checkpoint.tensor("up.weight").unwrap();
        assert_eq!(checkpoint.values(up).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    }
}

#[test]
fn what_all_model_parallel_ranks_say_is_the_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    for rank in 0..2 {
        let path = folder.path().join(format!("mp_rank_{rank:02}_model_states.pt"));
        let more = [("mp_world_size", int(2)), ("seed", long(rank))];
        model_states(&path, &[("up.weight", &[1.0, 2.0])], &[], &more);
    }
    let checkpoint = healthy(folder.path());
    assert_eq!(checkpoint.step, Some((10, "global_steps".into())));
    assert!(lookup(&checkpoint.metadata, "seed").is_none());
    assert!(lookup(&checkpoint.metadata, "mp_rank_01.seed").is_some());
}
