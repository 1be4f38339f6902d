//! Archives of `torch.export`, as `torch/export/pt2_archive` lays them out.

use ckpt_inspect::{DamageKind, open_bytes};
use ckpt_kit::numbers::le;
use ckpt_kit::tensor::Tensor;
use ckpt_kit::torch;
use ckpt_kit::zip::{entry, zip};
use serde_json::{Value, json};

/// A vector of two elements in `path`, as it is or as an archive.
fn vector(path: &str, pickled: bool) -> Value {
    json!({
        "path_name": path, "is_param": true, "use_pickle": pickled,
        "tensor_meta": {
            "dtype": 7, "sizes": [{"as_int": 2}], "strides": [{"as_int": 1}],
            "storage_offset": {"as_int": 0}, "layout": 7,
        },
    })
}

fn table(model: &str, config: Value) -> ckpt_kit::zip::Entry {
    entry(&format!("m/data/weights/{model}_weights_config.json"), json!({"config": config}).to_string())
}

#[test]
fn weights_are_raw_bytes_or_archives() {
    let inner = torch::checkpoint(&[Tensor::new("inner", &[2], [3.0, 4.0])], &[]);
    let config = json!({
        "a": vector("weight_0", false), "b": vector("weight_1", true), "tied": vector("weight_1", true),
    });
    let archive = zip(&[
        table("model", config),
        entry("m/data/weights/weight_0", le(&[1.0f32, 2.0])),
        entry("m/data/weights/weight_1", inner),
    ]);
    let program = open_bytes("model.pt2", archive).unwrap();
    assert_eq!(program.damage, None);
    let read = |name: &str| program.values(program.tensor(name).unwrap()).unwrap();
    assert_eq!(read("a"), [1.0, 2.0]);
    assert_eq!(read("b.model_state_dict.inner"), [3.0, 4.0]);
    assert_eq!(read("tied.model_state_dict.inner"), [3.0, 4.0]);
}

#[test]
fn weights_of_several_models_are_called_after_them() {
    let of = |model: &str| table(model, json!({"fc.weight": vector(&format!("{model}_0"), false)}));
    let archive = zip(&[
        of("a"),
        of("b"),
        entry("m/data/weights/a_0", le(&[1.0f32, 2.0])),
        entry("m/data/weights/b_0", le(&[3.0f32, 4.0])),
    ]);
    let program = open_bytes("model.pt2", archive).unwrap();
    let names: Vec<&str> = program.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a.fc.weight", "b.fc.weight"]);
}

/// However deep such archives lie within each other, and however many tensors each is: only the first is a program.
#[test]
fn programs_within_programs_are_not_read() {
    let mut archive = b"nothing".to_vec();
    for _ in 0..2000 {
        let config = json!({"x": vector("weight_0", true), "y": vector("weight_0", true)});
        archive = zip(&[table("model", config), entry("m/data/weights/weight_0", archive)]);
    }
    let program = open_bytes("model.pt2", archive).unwrap();
    assert_eq!(program.tensors.len(), 0);
    assert!(program.damage.is_some());
}

#[test]
fn what_a_table_says_wrongly_is_damage() {
    let lost = zip(&[table("model", json!({"a": vector("weight_0", false)}))]);
    let program = open_bytes("model.pt2", lost).unwrap();
    let a = program.tensor("a").unwrap();
    assert_eq!(a.damage.as_ref().map(|damage| damage.kind), Some(DamageKind::StorageLost));
    let mut symbolic = vector("weight_0", false);
    symbolic["tensor_meta"]["sizes"] = json!([{"as_expr": "s0"}]);
    let odd = zip(&[table("model", json!({"a": symbolic})), entry("m/data/weights/weight_0", le(&[1.0f32]))]);
    assert!(open_bytes("model.pt2", odd).unwrap().damage.is_some());
}
