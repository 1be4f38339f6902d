//! Tensors of a program: as a checkpoint without a file, and as others use the bytes of a file.

use std::sync::atomic::AtomicBool;

use ckpt_inspect::{
    DType, DamageKind, Format, Memory, Options, Role, Verdict, describe, describe_until, judge, open,
    open_bytes,
};
use ckpt_kit::numbers::le;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::json;

fn normal(count: usize, std: f32) -> Vec<f32> {
    let mut random = Random::new(7);
    (0..count).map(|_| std * random.normal()).collect()
}

/// What is measured and found is the same as of a file with these tensors.
#[test]
fn tensors_in_memory_are_judged_as_if_they_had_been_saved() {
    for std in [0.02, 1e-7] {
        let (weight, gain) = (normal(64 * 32, std), vec![1.0f32; 32]);
        let mut memory = Memory::new("saved.safetensors");
        let storage = memory.storage(le(&weight));
        memory.tensor("layers.0.mlp.up_proj.weight", DType::F32, vec![64, 32], &storage);
        let storage = memory.storage(le(&gain));
        memory.tensor("norm.weight", DType::F32, vec![32], &storage);
        let file = SafeTensors::new().f32s("layers.0.mlp.up_proj.weight", &[64, 32], &weight).f32s(
            "norm.weight",
            &[32],
            &gain,
        );
        let records = [memory.open(), open_bytes("saved.safetensors", file.bytes()).unwrap()].map(|opened| {
            let mut record = describe(&opened, Options::default(), &|_| ());
            judge(&mut record, &Default::default());
            record
        });
        let [live, saved] = &records;
        assert_eq!(live.tensors, saved.tensors);
        assert_eq!((live.verdict, &live.reasons), (saved.verdict, &saved.reasons));
        assert_eq!(live.verdict == Some(Verdict::Healthy), std == 0.02, "{:?}", live.verdict);
        assert_eq!((live.format, live.parameters), (Format::Memory, 64 * 32 + 32));
    }
}

#[test]
fn views_in_memory_are_read_by_their_strides_and_share_their_storage() {
    let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let mut memory = Memory::new("views");
    let storage = memory.storage(le(&values));
    memory.tensor("rows", DType::F32, vec![3, 4], &storage);
    memory.view("columns", DType::F32, (vec![4, 3], vec![1, 4]), (&storage, 0));
    memory.view("last", DType::F32, (vec![2], vec![1]), (&storage, 40));
    memory.view("beyond", DType::F32, (vec![3], vec![1]), (&storage, 40));
    memory.view("unlike", DType::F32, (vec![2, 2], vec![1]), (&storage, 0));
    let opened = memory.open();
    let values = |name: &str| opened.values(opened.tensor(name).unwrap()).unwrap();
    assert_eq!(values("columns"), [0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.]);
    assert_eq!(values("last"), [10., 11.]);
    assert_eq!(opened.sharing(9)[0], ["columns", "last", "beyond", "unlike"]);
    let kind = |name: &str| opened.tensor(name).unwrap().damage.as_ref().map(|damage| damage.kind);
    assert_eq!((kind("beyond"), kind("unlike")), (Some(DamageKind::BeyondStorage), Some(DamageKind::Shape)));
    // Three names, and the same elements.
    assert_eq!(opened.file_bytes(), 48);
}

#[test]
fn what_is_known_of_a_live_model_is_told_with_it() {
    let mut memory = Memory::new("live");
    let storage = memory.storage(le(&normal(64 * 64, 0.02)));
    memory.tensor("model.layers.0.mlp.up_proj.weight", DType::F32, vec![64, 64], &storage);
    memory.value("step", json!(1200));
    memory.config(json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64}));
    let record = describe(&memory.open(), Options::default(), &|_| ());
    assert_eq!((record.step, record.model.architecture.as_str()), (Some(1200), "LlamaForCausalLM"));
    assert_eq!(record.tensors[0].role, Role::Matrix);
}

/// More than what a file's size would allow: nothing is read twice.
#[test]
fn large_models_in_memory_are_measured_whole() {
    let mut memory = Memory::new("large");
    let storage = memory.storage(vec![0x3fu8; 80 << 20]);
    for i in 0..20 {
        memory.view(
            format!("layers.{i}.w"),
            DType::U8,
            (vec![80 << 10, 1 << 10], vec![1 << 10, 1]),
            (&storage, 0),
        );
    }
    let record = describe(&memory.open(), Options::default(), &|_| ());
    assert!(record.tensors.iter().all(|t| t.stats.is_some()), "{:?}", record.warnings);
}

#[test]
fn measuring_stops_when_it_is_told_to() {
    let file = SafeTensors::new().f32s("w", &[4, 4], &normal(16, 1.0));
    let opened = open_bytes("w", file.bytes()).unwrap();
    let stop = AtomicBool::new(true);
    assert_eq!(describe_until(&opened, Options::default(), &|_| (), &stop), None);
    let go_on = AtomicBool::new(false);
    let record = describe_until(&opened, Options::default(), &|_| (), &go_on);
    assert_eq!(record, Some(describe(&opened, Options::default(), &|_| ())));
}

/// A program that maps the file itself finds the elements there.
#[test]
fn a_storage_tells_where_its_file_has_its_bytes() {
    let mut looked_at = 0;
    for folder in [ckpt_kit::fixtures::fixture("formats"), ckpt_kit::fixtures::data("inspect", "ranks")] {
        for path in ckpt_kit::fixtures::below(&folder, &["pt", "safetensors", "distcp"]) {
            let Ok(opened) = open(&path) else { continue };
            for tensor in &opened.tensors {
                let Some(storage) = &tensor.storage else { continue };
                let Some((file, begins)) = storage.place() else { continue };
                let Some(borrowed) = tensor.borrowed() else { continue };
                let bytes = std::fs::read(file).unwrap();
                let begin = (begins + tensor.byte_offset) as usize;
                assert_eq!(
                    &bytes[begin..begin + borrowed.len()],
                    borrowed,
                    "{} {}",
                    path.display(),
                    tensor.name
                );
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 50, "only {looked_at} tensors");
}

#[test]
fn bytes_that_are_not_in_a_file_as_they_are_are_not_lent() {
    let opened = open(ckpt_kit::fixtures::fixture("formats/deflated.pt")).unwrap();
    let compressed = |t: &&ckpt_inspect::TensorInfo| t.borrowed().is_none();
    assert!(opened.tensors.iter().any(|t| compressed(&t) && t.bytes().is_ok_and(|b| !b.is_empty())));
    // A big-endian file's numbers are others as they are.
    let opened = open(ckpt_kit::fixtures::data("inspect", "big_endian.gguf")).unwrap();
    for tensor in &opened.tensors {
        let placed = tensor.storage.as_ref().and_then(|storage| storage.place());
        assert!(tensor.borrowed().is_none() && placed.is_none(), "{}", tensor.name);
    }
    let damaged = open(ckpt_kit::fixtures::fixture("formats/truncated.pt")).unwrap();
    let lost: Vec<_> = damaged.tensors.iter().filter(|t| t.damage.is_some()).collect();
    assert!(!lost.is_empty() && lost.iter().all(|t| t.borrowed().is_none()));
}
