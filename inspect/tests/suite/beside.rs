//! What lies beside the weights and is not theirs, is spoilt, or is missing.

use std::path::{Path, PathBuf};

use ckpt_inspect::scan::{self, Severity};
use ckpt_inspect::{
    DamageKind, NoticeKind, OpenOptions, Options, describe, find, open, open_bytes, open_with,
};
use ckpt_kit::pickle::{call, dict, global, int, list, pickle, text, tuple};
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::{numbers, torch};

/// Adam's state of parameters of these shapes, by what each is kept under.
fn adam(parameters: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut storages = Vec::new();
    let mut states = Vec::new();
    for (key, shape) in parameters {
        let count: usize = shape.iter().product();
        let strides: Vec<usize> = (0..shape.len()).map(|d| shape[d + 1..].iter().product()).collect();
        let number = storages.len().to_string();
        storages.push(numbers::le(&vec![0.5f32; count]));
        let moment = torch::rebuild("FloatStorage", &number, count, 0, shape, &strides);
        states.push((key.as_str(), dict(&[("exp_avg", moment)])));
    }
    let keys: Vec<Vec<u8>> = parameters.iter().map(|(key, _)| text(key)).collect();
    let groups = list(&[dict(&[("lr", int(1)), ("params", list(&keys))])]);
    let object = dict(&[("state", dict(&states)), ("param_groups", groups)]);
    torch::zip_of(&pickle(2, &object), &storages)
}

fn model(folder: &Path) {
    let rising = |n: usize| (0..n).map(|i| i as f32 / 7.0 - 3.0).collect::<Vec<f32>>();
    SafeTensors::new()
        .f32s("embed.weight", &[8, 6], &rising(48))
        .f32s("up.weight", &[10, 6], &rising(60))
        .f32s("norm.weight", &[6], &rising(6))
        .write(&folder.join("model.safetensors"));
}

fn numbered(shapes: &[&[usize]]) -> Vec<(String, Vec<usize>)> {
    shapes.iter().enumerate().map(|(i, shape)| (i.to_string(), shape.to_vec())).collect()
}

/// What is said of the optimizer beside the model.
fn said(optimizer: &[u8]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    std::fs::write(folder.path().join("optimizer.pt"), optimizer).unwrap();
    let mut options = OpenOptions::default();
    options.companions = true;
    let checkpoint = open_with(folder.path(), &options).unwrap();
    let record = describe(&checkpoint, Options::default(), &|_| ());
    let notices: Vec<_> = record.notices.iter().filter(|notice| notice.text.contains("cannot be")).collect();
    assert!(notices.iter().all(|notice| notice.is_finding()));
    notices.first().map(|notice| notice.text.clone())
}

#[test]
fn an_optimizer_of_another_model_is_told() {
    let more: &[&[usize]] = &[&[8, 6], &[10, 6], &[6], &[6]];
    let what =
        "the optimizer `optimizer` cannot be this model's: it has 4 parameters, and the model 3 tensors";
    assert_eq!(said(&adam(&numbered(more))).as_deref(), Some(what));
    let other: &[&[usize]] = &[&[9, 5], &[5], &[6]];
    let what = "the optimizer `optimizer` cannot be this model's: 2 of its 3 parameters have shapes that no weight has";
    assert_eq!(said(&adam(&numbered(other))).as_deref(), Some(what));
    let named = |names: [&str; 2]| adam(&names.map(|name| (name.to_string(), vec![6])));
    let what = "the optimizer `optimizer` cannot be this model's: 2 of its 2 parameters have names that no weight has";
    assert_eq!(said(&named(["h.0.weight", "h.1.weight"])).as_deref(), Some(what));
    // Its own, wrapped; less than the model has; projected to fewer columns; flat; one layer that is made of several.
    assert_eq!(said(&named(["module.norm.weight", "_orig_mod.up.weight"])), None);
    for own in [
        &[&[8, 6][..], &[10, 6], &[6]][..],
        &[&[10, 6]],
        &[&[8, 2], &[10, 2], &[6]],
        &[&[114]],
        &[&[2, 5, 6], &[8, 6], &[6]],
    ] {
        assert_eq!(said(&adam(&numbered(own))), None, "{own:?}");
    }
}

#[test]
fn a_trainers_state_that_is_cut_short_is_told() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let state = folder.path().join("trainer_state.json");
    let told = || -> Vec<NoticeKind> {
        let warnings = open(folder.path()).unwrap().warnings;
        assert!(warnings.iter().all(|notice| notice.is_finding()));
        warnings.iter().map(|notice| notice.kind).collect()
    };
    std::fs::write(&state, r#"{"global_step": 5, "log_history": []}"#).unwrap();
    assert_eq!((told(), open(folder.path()).unwrap().step.unwrap().0), (vec![], 5));
    // Others have files of this name, too.
    std::fs::write(&state, r#"{"steps": 5}"#).unwrap();
    assert_eq!(told(), []);
    for cut in ["", r#"{"global_step": 5, "log_hi"#] {
        std::fs::write(&state, cut).unwrap();
        assert_eq!(told(), [NoticeKind::ConfigNotUnderstood], "{cut}");
    }
}

fn saved() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// As accelerate saves with `LOCAL_STATE_DICT`.
#[test]
fn the_files_of_ranks_may_be_the_model_beside_the_optimizer_of_many_ranks() {
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("checkpoint-7");
    copy(&saved().join("distributed/step-7"), &folder.join("optimizer_0"));
    for rank in 0..4 {
        let from = saved().join(format!("ranks/fsdp2/model_world_size_4_rank_{rank}.pt"));
        std::fs::copy(from, folder.join(format!("pytorch_model_fsdp_rank{rank}.bin"))).unwrap();
    }
    let checkpoint = open(&folder).unwrap();
    assert!(checkpoint.tensor("up.weight").is_ok());
    let kinds = checkpoint.damage.as_ref().map(|damage| damage.what.clone()).unwrap_or_default();
    assert!(!kinds.contains("the weights are missing"), "{kinds}");
    assert_eq!(find(run.path()).unwrap(), [folder]);
}

#[test]
fn an_optimizer_where_the_model_should_be_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    copy(&saved().join("distributed/step-7"), &at("optimizer_0"));
    std::fs::write(at("pytorch_model_fsdp.bin"), adam(&numbered(&[&[8, 6]]))).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let what = "pytorch_model_fsdp.bin is where the model should be, and holds an optimizer's state";
    assert!(checkpoint.warnings.iter().any(|notice| notice.text == what && notice.is_finding()));
}

/// Of Megatron-Core, whose states have the parameters below them, and of flat vectors.
#[test]
fn optimizers_of_which_names_say_nothing_are_not_told() {
    let megatron = "optimizer.state.exp_avg.decoder.layers.weight";
    let bytes =
        SafeTensors::new().f32s(megatron, &[6], &[0.5; 6]).f32s("up.weight", &[2, 3], &[0.5; 6]).bytes();
    let checkpoint = open_bytes("saved.safetensors", bytes).unwrap();
    let record = describe(&checkpoint, Options::default(), &|_| ());
    assert!(record.notices.iter().all(|notice| !notice.text.contains("cannot be")), "{:?}", record.notices);
}

#[test]
fn what_megatron_keeps_beside_the_blocks_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    copy(&saved().join("distributed/step-7"), folder.path());
    let told = || open(folder.path()).unwrap().damage.map(|damage| (damage.kind, damage.what));
    let missing = |name: &str| {
        let what = format!("{name}, without which Megatron-Core does not load it, is missing");
        Some((DamageKind::MissingShards, what))
    };
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("metadata.json"), r#"{"sharded_backend": "torch_dist"}"#).unwrap();
    assert_eq!(told(), missing("common.pt"));
    std::fs::write(at("common.pt"), torch::zip_of(&pickle(2, &dict(&[("iteration", int(7))])), &[])).unwrap();
    assert_eq!(told(), None);
    std::fs::remove_file(at("metadata.json")).unwrap();
    assert_eq!(told(), missing("metadata.json"));
    // Others describe their saves in files of that name.
    std::fs::remove_file(at("common.pt")).unwrap();
    std::fs::write(at("metadata.json"), r#"{"author": "me"}"#).unwrap();
    assert_eq!(told(), None);
}

/// Megatron-Core keeps what each rank planned to write.
#[test]
fn plans_in_the_listing_of_a_distributed_checkpoint_are_harmless() {
    let planner = |name: &str| global("torch.distributed.checkpoint.planner", name);
    let file = |object: Vec<u8>| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("listing.pkl");
        std::fs::write(&path, pickle(2, &object)).unwrap();
        scan::scan(&path, &scan::Options::default()).unwrap().severity()
    };
    for name in ["SavePlan", "WriteItem", "TensorWriteData", "BytesIOWriteData"] {
        assert!(file(call(&planner(name), &[])).is_none_or(|severity| severity == Severity::Note), "{name}");
    }
    assert!(file(call(&planner("WriteItemType"), &[int(2)])).is_none_or(|s| s == Severity::Note));
    assert_eq!(file(call(&planner("Any"), &[tuple(&[])])), Some(Severity::Dangerous));
}

/// `x.dequantize()` of PyTorch: 0.1 is rounded to 32 bits before it is multiplied.
#[test]
fn one_scale_of_a_quantized_tensor_has_32_bits() {
    let folder = saved().join("quantize_per_tensor.pt");
    let bytes = std::fs::read(folder).unwrap();
    let checkpoint = open_bytes("q.pt", bytes).unwrap();
    let [quantized, plain] = ["quantized", "plain"].map(|name| checkpoint.tensor(name).unwrap());
    let bits =
        |tensor| -> Vec<u32> { checkpoint.values(tensor).unwrap().iter().map(|x| x.to_bits()).collect() };
    assert_eq!(bits(quantized), bits(plain));
}

/// Of PyTorch 2.15: joining blocks lost scalars.
#[test]
fn whole_files_that_are_not_their_blocks_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = folder.path().join("sharded");
    std::fs::create_dir(&blocks).unwrap();
    let info = r#"{"seen":{"saved_offsets":[]},"up.weight":{"saved_offsets":[0,0]}}"#;
    let write = |path: PathBuf, seen: f32, last: f32| {
        let mut up: Vec<f32> = (0..40_000).map(|i| i as f32).collect();
        up[20_010] = last;
        let mut file = SafeTensors::new().f32s("seen", &[], &[seen]).f32s("up.weight", &[200, 200], &up);
        if path.starts_with(&blocks) {
            file = file.metadata(serde_json::json!({"DCP_SHARDING_INFO": info, "DCP_VERSION": "1.0"}));
        }
        file.write(&path);
    };
    write(blocks.join("shard-00000-model-00001-of-00001.safetensors"), 7.0, 1.0);
    let told = || -> Vec<String> {
        let checkpoint = open(folder.path()).unwrap();
        assert_eq!(checkpoint.damage, None);
        assert!(checkpoint.warnings.iter().all(|notice| notice.kind == NoticeKind::Contradiction));
        checkpoint.warnings.iter().map(|notice| notice.text.clone()).collect()
    };
    let whole = folder.path().join("model.safetensors");
    write(whole.clone(), 7.0, 1.0);
    assert_eq!(told(), [""; 0]);
    write(whole.clone(), 0.0, 1.0);
    let why = "they were made of the blocks in `sharded`, which are not what is read";
    assert_eq!(told(), [format!("`seen` differs from its blocks from element 0 on: {why}")]);
    write(whole, 7.0, 2.0);
    assert_eq!(told(), [format!("`up.weight` differs from its blocks from element 20010 on: {why}")]);
}

#[test]
fn a_moment_of_another_shape_than_its_parameter_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["a", "b", "c", "d"];
    let rising = |n: usize| (0..n).map(|i| i as f32 / 7.0 - 3.0).collect::<Vec<f32>>();
    let shapes: [[usize; 2]; 4] = [[8, 6], [10, 6], [12, 10], [6, 12]];
    let model = names.iter().zip(&shapes).fold(SafeTensors::new(), |file, (name, shape)| {
        file.f32s(&format!("{name}.weight"), shape, &rising(shape[0] * shape[1]))
    });
    model.write(&folder.path().join("model.safetensors"));
    let said = |optimizer: Vec<u8>| {
        std::fs::write(folder.path().join("optimizer.pt"), optimizer).unwrap();
        let mut options = OpenOptions::default();
        options.companions = true;
        let record = describe(&open_with(folder.path(), &options).unwrap(), Options::default(), &|_| ());
        let said = record.notices.iter().find(|notice| notice.text.contains("cannot be"));
        said.map(|notice| notice.text.split(": ").nth(1).unwrap().to_string())
    };
    let by = |key: &dyn Fn(usize) -> String, third: [usize; 2]| {
        let shape = |i: usize| if i == 2 { third.to_vec() } else { shapes[i].to_vec() };
        adam(&(0..4).map(|i| (key(i), shape(i))).collect::<Vec<_>>())
    };
    let number = |i: usize| i.to_string();
    let name = |i: usize| format!("{}.weight", names[i]);
    assert_eq!(said(by(&number, [12, 10])), None);
    assert_eq!(said(by(&name, [12, 10])), None);
    let what =
        "`optimizer.state.2.exp_avg` has shape [3, 3], and the only weight that is left for it has [12, 10]";
    assert_eq!(said(by(&number, [3, 3])).as_deref(), Some(what));
    let what = "`optimizer.state.c.weight.exp_avg` has shape [3, 3], and that weight has [12, 10]";
    assert_eq!(said(by(&name, [3, 3])).as_deref(), Some(what));
    // One number for each row.
    assert_eq!(said(by(&name, [12, 1])), None);
}
