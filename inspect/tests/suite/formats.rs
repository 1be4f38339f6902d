//! Every file of tests/fixtures/formats against expected.json, which PyTorch wrote: names, dtypes, shapes, SHA-256
//! of the contiguous little-endian bytes, mean, unbiased std and largest magnitude.

use std::collections::BTreeSet;

use ckpt_inspect::{Checkpoint, Group, Options, describe, open};
use ckpt_kit::fixtures::fixture;
use serde_json::Value;

fn expected() -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(fixture("formats/expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn read(name: &str) -> Checkpoint {
    open(fixture(&format!("formats/{name}"))).unwrap_or_else(|e| panic!("{e}"))
}

fn close(found: Option<f64>, wanted: &Value) -> bool {
    match (found, wanted.as_f64()) {
        (Some(found), Some(wanted)) => (found - wanted).abs() <= 1e-9 * wanted.abs(),
        (found, None) => found.is_none() || wanted.is_null(),
        (None, Some(_)) => false,
    }
}

#[test]
fn every_file_agrees_with_pytorch() {
    let mut compared = 0;
    for (file, entry) in expected() {
        if file == "truncated.pt" || file == "bitflip.pt" {
            continue;
        }
        let options = Options::default().with(|o| o.sha256 = true);
        let record = describe(&read(&file), options, &|_| ());
        let tensors = entry["tensors"].as_object().unwrap();
        let found: BTreeSet<&str> = record.tensors.iter().map(|t| t.name.as_str()).collect();
        let wanted: BTreeSet<&str> = tensors.keys().map(String::as_str).collect();
        assert_eq!(found, wanted, "{file}");
        for tensor in &record.tensors {
            let wanted = &tensors[&tensor.name];
            let at = format!("{file}: `{}`", tensor.name);
            assert_eq!(tensor.damage, None, "{at}");
            if wanted.is_null() {
                continue;
            }
            assert_eq!(tensor.dtype.name(), wanted["dtype"].as_str().unwrap(), "{at}");
            assert_eq!(serde_json::to_value(&tensor.shape).unwrap(), wanted["shape"], "{at}");
            assert_eq!(tensor.sha256.as_deref(), wanted["sha256"].as_str(), "{at}");
            if let Some(mean) = wanted.get("mean") {
                let stats = tensor.stats.as_ref().unwrap();
                assert!(close(stats.mean, mean), "{at}: mean {:?} for {mean}", stats.mean);
                assert!(close(stats.std, &wanted["std"]), "{at}: std {:?} for {}", stats.std, wanted["std"]);
                assert!(close(stats.abs_max, &wanted["absmax"]), "{at}: absmax {:?}", stats.abs_max);
            }
            compared += 1;
        }
    }
    assert!(compared > 80, "only {compared} tensors had something to compare");
}

#[test]
fn a_malicious_pickle_runs_nothing_and_is_named() {
    let checkpoint = read("evil.pt");
    assert!(checkpoint.globals.contains(&"posix.system".to_string()), "{:?}", checkpoint.globals);
    assert!(checkpoint.tensor_bytes(checkpoint.tensor("w").unwrap()).is_ok());
}

#[test]
fn a_flipped_bit_is_found_in_its_tensor_alone() {
    let mut checkpoint = read("bitflip.pt");
    assert!(!checkpoint.is_damaged(), "checksums are compared on request");
    assert_eq!(checkpoint.verify_checksums(), ["model_state_dict.layers.2.w"]);
    assert!(checkpoint.is_damaged());
    for file in ["whole.pt", "deflated.pt", "training.pt", "torchscript.pt", "views.pt"] {
        assert_eq!(read(file).verify_checksums(), [""; 0], "{file}");
    }
}

#[test]
fn a_truncated_file_opens_with_what_is_whole() {
    let checkpoint = read("truncated.pt");
    assert!(checkpoint.is_damaged());
    assert!(checkpoint.damage.as_ref().unwrap().what.contains("central directory"));
    let record = describe(&checkpoint, Options::default().with(|o| o.sha256 = true), &|_| ());
    let tensors = &expected()["truncated.pt"]["tensors"];
    let mut whole = Vec::new();
    for tensor in &record.tensors {
        assert!(tensors.get(&tensor.name).is_some());
        if tensor.damage.is_none() {
            assert_eq!(tensor.sha256.as_deref(), tensors[&tensor.name]["sha256"].as_str());
            whole.push(tensor.name.as_str());
        }
    }
    assert_eq!(record.tensors.len(), 6, "the pickle still tells all six");
    assert_eq!(
        whole,
        ["model_state_dict.layers.0.w", "model_state_dict.layers.1.w", "model_state_dict.layers.2.w"]
    );
}

#[test]
fn tied_weights_and_views_are_told() {
    let checkpoint = read("tied.pt");
    let names: Vec<&str> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
    let shared = checkpoint.sharing(16);
    let embed = names.iter().position(|n| *n == "embed.weight").unwrap();
    assert_eq!(shared[embed], ["lm_head.weight", "alias"]);
    assert_eq!(checkpoint.parameters(), 40 + 20);
}

#[test]
fn views_have_their_own_strides_and_are_borrowed() {
    let checkpoint = read("views.pt");
    for tensor in &checkpoint.tensors {
        let view = checkpoint.view::<f32>(tensor).unwrap();
        assert_eq!(view.shape(), tensor.shape);
        if tensor.numel() > 0 {
            assert!(view.is_view(), "{} was copied", tensor.name);
        }
        let copied: Vec<u8> = view.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(copied, checkpoint.tensor_bytes(tensor).unwrap().into_owned(), "{}", tensor.name);
    }
    let base = checkpoint.tensor("base").unwrap();
    let transposed = checkpoint.tensor("transposed").unwrap();
    assert_eq!(transposed.strides, [1, 8]);
    assert_eq!(checkpoint.view::<f32>(base).unwrap().t(), checkpoint.view::<f32>(transposed).unwrap());
    assert!(checkpoint.view::<f64>(base).is_err());
}

#[test]
fn groups_metadata_and_step_of_a_trainer_checkpoint() {
    let checkpoint = read("training.pt");
    for tensor in &checkpoint.tensors {
        let wanted = match tensor.name.split('.').next().unwrap() {
            "model_state_dict" => Group::Weights,
            "optimizer_state_dict" => Group::Optimizer,
            _ => Group::Other,
        };
        assert_eq!(tensor.group, wanted, "{}", tensor.name);
    }
    assert!(checkpoint.step.is_some());
    assert!(checkpoint.meta("optimizer_state_dict.param_groups.0.lr").is_some());
    let args = checkpoint.meta("args.__class__").expect("the Namespace is kept as an object");
    assert_eq!(args.to_string(), "\"argparse.Namespace\"");
}
