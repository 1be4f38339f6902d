//! Folders that are one checkpoint of several models, or of a model and what its trainer keeps of it.

use std::path::{Path, PathBuf};

use ckpt_inspect::{
    Checkpoint, DamageKind, ErrorKind, Group, OpenOptions, Verdict, describe, files_of, find, judge, open,
    open_with,
};
use ckpt_kit::safetensors::SafeTensors;
use serde_json::json;

/// A file of one matrix of this size, of values that a trained one might have.
fn matrix(name: &str, rows: usize, cols: usize) -> Vec<u8> {
    let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 37 + 11) % 101) as f32 / 640.0 - 0.07).collect();
    SafeTensors::new().f32s(name, &[rows, cols], &values).bytes()
}

fn nan(name: &str, rows: usize, cols: usize) -> Vec<u8> {
    SafeTensors::new().f32s(name, &[rows, cols], &vec![f32::NAN; rows * cols]).bytes()
}

/// Writes files of these paths and contents into a folder.
fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder
}

fn text(json: serde_json::Value) -> Vec<u8> {
    json.to_string().into_bytes()
}

fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    checkpoint.tensors.iter().map(|t| t.name.as_str()).collect()
}

fn verdict(folder: &Path) -> Option<Verdict> {
    let mut options = OpenOptions::default();
    options.companions = true;
    let mut record = describe(&open_with(folder, &options).unwrap(), Default::default(), &|_| ());
    judge(&mut record, &Default::default());
    record.verdict
}

fn sentence_transformer(dense: Vec<u8>) -> tempfile::TempDir {
    let module = |path: &str, class: &str| json!({"idx": 0, "name": "0", "path": path, "type": class});
    folder(&[
        ("model.safetensors", matrix("encoder.layer.0.attention.self.query.weight", 32, 32)),
        ("config.json", text(json!({"architectures": ["BertModel"]}))),
        ("2_Dense/model.safetensors", dense),
        ("2_Dense/config.json", text(json!({"in_features": 32}))),
        ("1_Pooling/config.json", text(json!({}))),
        ("onnx/model.onnx", b"other".to_vec()),
        (
            "modules.json",
            text(json!([
                module("", "sentence_transformers.models.Transformer"),
                module("1_Pooling", "sentence_transformers.models.Pooling"),
                module("2_Dense", "sentence_transformers.models.Dense"),
                module("3_Normalize", "sentence_transformers.models.Normalize"),
            ])),
        ),
    ])
}

#[test]
fn modules_of_sentence_transformers_are_one_checkpoint_and_each_is_judged() {
    let whole = sentence_transformer(matrix("linear.weight", 16, 32));
    let checkpoint = open(whole.path()).unwrap();
    assert_eq!(names(&checkpoint), ["encoder.layer.0.attention.self.query.weight", "2_Dense.linear.weight"]);
    assert_eq!(checkpoint.components, ["", "2_Dense"]);
    assert_eq!((checkpoint.damage.clone(), checkpoint.model.architecture.as_str()), (None, "BertModel"));
    assert_eq!(checkpoint.values(&checkpoint.tensors[1]).unwrap()[0], 11.0 / 640.0 - 0.07);
    assert_eq!(find(whole.path()).unwrap(), [whole.path()]);
    let files = ["model.safetensors", "2_Dense/model.safetensors"].map(|file| whole.path().join(file));
    assert_eq!(files_of(whole.path()).unwrap(), files);
    // One of its files is that component alone.
    assert_eq!(names(&open(&files[1]).unwrap()), ["linear.weight"]);
    assert!(verdict(whole.path()) <= Some(Verdict::Healthy));
    let dead = sentence_transformer(nan("linear.weight", 16, 32));
    assert!(verdict(dead.path()) > Some(Verdict::Healthy));
    // One that cannot be read is damage, and the rest is read; one that is not there, too.
    let spoilt = sentence_transformer(b"<html>404</html>".to_vec());
    let checkpoint = open(spoilt.path()).unwrap();
    let damage = checkpoint.damage.clone().unwrap();
    assert!(damage.what.contains("2_Dense") && damage.what.contains("error page"), "{damage}");
    assert_eq!(find(spoilt.path()).unwrap(), [spoilt.path()]);
    std::fs::remove_file(spoilt.path().join("2_Dense/model.safetensors")).unwrap();
    let damage = open(spoilt.path()).unwrap().damage.unwrap();
    assert_eq!(damage.what, "1 of 2 components that modules.json names missing: 2_Dense");
    assert_eq!(damage.kind, DamageKind::MissingShards);
    // Without the list the library takes others.
    let unlisted = sentence_transformer(matrix("linear.weight", 16, 32));
    std::fs::write(unlisted.path().join("config_sentence_transformers.json"), "{}").unwrap();
    assert_eq!(open(unlisted.path()).unwrap().damage, None);
    std::fs::remove_file(unlisted.path().join("modules.json")).unwrap();
    let checkpoint = open(unlisted.path()).unwrap();
    assert!(checkpoint.damage.clone().unwrap().what.starts_with("modules.json, which lists its modules, is"));
    assert_eq!(checkpoint.components, ["", "2_Dense"]);
}

#[test]
fn a_pipeline_of_diffusers_is_one_checkpoint_in_the_form_that_it_loads() {
    let index = json!({
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [null, null],
        "../outside": ["diffusers", "AutoencoderKL"],
    });
    let whole = folder(&[
        ("model_index.json", text(index)),
        ("unet/config.json", text(json!({}))),
        ("unet/diffusion_pytorch_model.safetensors", matrix("conv_in.weight", 8, 4)),
        ("unet/diffusion_pytorch_model.fp16.safetensors", matrix("half.weight", 8, 4)),
        ("unet/diffusion_pytorch_model.bin", b"not looked at".to_vec()),
        ("vae/config.json", text(json!({}))),
        ("vae/diffusion_pytorch_model.fp16.safetensors", matrix("decoder.weight", 4, 4)),
        ("text_encoder/config.json", text(json!({"architectures": ["CLIPTextModel"]}))),
        ("text_encoder/model.safetensors", matrix("final.weight", 4, 4)),
        ("tokenizer/vocab.json", text(json!({}))),
        ("whole.safetensors", matrix("all.in.one", 4, 4)),
    ]);
    let checkpoint = open(whole.path()).unwrap();
    assert_eq!(checkpoint.damage, None);
    assert_eq!(
        names(&checkpoint),
        ["text_encoder.final.weight", "unet.conv_in.weight", "vae.decoder.weight"]
    );
    assert_eq!(checkpoint.components, ["text_encoder", "unet", "vae"]);
    assert_eq!(checkpoint.model.architecture, "unknown");
    // The other form of all of it is a checkpoint, too.
    let mut found = find(whole.path()).unwrap();
    found.sort();
    assert_eq!(found, [whole.path().to_path_buf(), whole.path().join("whole.safetensors")]);
    std::fs::remove_dir_all(whole.path().join("text_encoder")).unwrap();
    let damage = open(whole.path()).unwrap().damage.unwrap();
    assert_eq!(damage.what, "1 of 3 components that model_index.json names missing: text_encoder");
}

#[test]
fn a_trainers_folder_is_its_model_what_was_saved_beside_it_and_no_other_step() {
    let run = folder(&[
        ("checkpoint-500/model.safetensors", matrix("conv_in.weight", 32, 36)),
        ("checkpoint-500/unet_ema/config.json", text(json!({}))),
        ("checkpoint-500/unet_ema/diffusion_pytorch_model.safetensors", nan("conv_in.weight", 32, 36)),
        ("adapters/adapter_model.safetensors", matrix("base_model.model.q_proj.lora_A.weight", 4, 8)),
        ("adapters/adapter_config.json", text(json!({}))),
        (
            "adapters/checkpoint-1/adapter_model.safetensors",
            matrix("base_model.model.q_proj.lora_A.weight", 4, 8),
        ),
        ("adapters/checkpoint-1/adapter_config.json", text(json!({}))),
        ("adapters/style/adapter_model.safetensors", matrix("base_model.model.q_proj.lora_A.weight", 4, 8)),
        ("adapters/style/adapter_config.json", text(json!({}))),
        ("both/model.safetensors", matrix("q_proj.weight", 8, 8)),
        ("both/adapter_model.safetensors", matrix("q_proj.lora_A.weight", 4, 8)),
    ]);
    let at = |path: &str| run.path().join(path);
    let mut found = find(run.path()).unwrap();
    found.sort();
    assert_eq!(found, ["adapters", "adapters/checkpoint-1", "both", "checkpoint-500"].map(at));
    let checkpoint = open(at("checkpoint-500")).unwrap();
    assert_eq!(names(&checkpoint), ["conv_in.weight", "unet_ema.conv_in.weight"]);
    assert_eq!(checkpoint.step, Some((500, "file name".into())));
    assert!(verdict(&at("checkpoint-500")) > Some(Verdict::Healthy));
    let adapters = open(at("adapters")).unwrap();
    assert_eq!(adapters.components, ["", "style"]);
    assert_eq!(open(at("both")).unwrap().components, ["", "adapter_model"]);
    assert_eq!(open(at("adapters/checkpoint-1")).unwrap().components, [""; 0]);
}

#[test]
fn no_other_model_is_lost_beside_a_model_or_what_a_trainer_keeps() {
    let adapter = matrix("base_model.model.q_proj.lora_A.weight", 4, 8);
    let run = folder(&[
        ("trained/training_args.bin", b"\x80\x02}.".to_vec()),
        ("trained/adapter/adapter_model.safetensors", adapter.clone()),
        ("trained/adapter/adapter_config.json", text(json!({}))),
        ("trained/merged/model.safetensors", nan("q_proj.weight", 8, 8)),
        ("trained/merged/config.json", text(json!({}))),
        ("released/model.safetensors", matrix("q_proj.weight", 8, 8)),
        ("released/config.json", text(json!({}))),
        ("released/original/consolidated.00.pth", nan("q_proj.weight", 8, 8)),
        ("released/openvino/openvino_model.bin", vec![7; 100]),
    ]);
    let at = |path: &str| run.path().join(path);
    let mut found = find(run.path()).unwrap();
    found.sort();
    assert_eq!(
        found,
        [
            "released",
            "released/original/consolidated.00.pth",
            "trained/adapter",
            "trained/merged",
            "trained/training_args.bin",
        ]
        .map(at)
    );
    assert_eq!(open(at("released")).unwrap().components, [""; 0]);
}

#[test]
fn the_model_and_the_optimizer_of_many_ranks_are_the_checkpoint_of_the_folder_that_they_are_in() {
    let saved = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/distributed/step-7");
    let run = folder(&[
        ("checkpoint-7/trainer_state.json", text(json!({"global_step": 7}))),
        ("checkpoint-7/config.json", text(json!({"architectures": ["LlamaForCausalLM"]}))),
        ("checkpoint-7/scheduler.pt", b"\x80\x02}.".to_vec()),
        ("checkpoint-7/pytorch_model_fsdp_0/x", Vec::new()),
        ("checkpoint-7/optimizer_0/x", Vec::new()),
    ]);
    let step = run.path().join("checkpoint-7");
    for inner in ["pytorch_model_fsdp_0", "optimizer_0"] {
        for entry in std::fs::read_dir(&saved).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, step.join(inner).join(path.file_name().unwrap())).unwrap();
        }
    }
    assert_eq!(find(run.path()).unwrap(), std::slice::from_ref(&step));
    let checkpoint = open(&step).unwrap();
    assert_eq!(checkpoint.damage, None);
    assert_eq!(checkpoint.components, [""; 0]);
    assert_eq!(checkpoint.model.architecture, "LlamaForCausalLM");
    assert_eq!(checkpoint.step, Some((7, "step".into())));
    let own = open(&saved).unwrap();
    // The same names twice here, which a real model and optimizer have not: the second are called after their folder.
    let (first, second) = checkpoint.tensors.split_at(own.tensors.len());
    for ((one, other), tensor) in first.iter().zip(second).zip(&own.tensors) {
        assert_eq!((&one.name, &other.name), (&tensor.name, &format!("optimizer_0.{}", tensor.name)));
        assert_eq!(one.bytes().unwrap(), tensor.bytes().unwrap());
    }
    assert!(checkpoint.tensors.iter().any(|t| t.group == Group::Optimizer));
    let files: Vec<PathBuf> = files_of(&step).unwrap();
    assert_eq!(files.len(), 6);
    // Of many ranks may be the optimizer alone.
    std::fs::remove_dir_all(step.join("pytorch_model_fsdp_0")).unwrap();
    std::fs::write(step.join("model.safetensors"), matrix("own.weight", 8, 8)).unwrap();
    let checkpoint = open(&step).unwrap();
    assert_eq!(
        (checkpoint.tensors[0].name.as_str(), checkpoint.tensors.len()),
        ("own.weight", own.tensors.len() + 1)
    );
    assert_eq!(find(run.path()).unwrap(), [step]);
}

/// Damage of the folder, opened with what its trainer keeps beside the model.
fn damage(folder: &Path) -> String {
    let mut options = OpenOptions::default();
    options.companions = true;
    let damage = open_with(folder, &options).unwrap().damage.expect("damage");
    assert!(damage.is(DamageKind::MissingShards) || damage.is(DamageKind::Inconsistent), "{damage}");
    damage.what
}

#[test]
fn a_checkpoint_of_which_only_what_lies_beside_the_weights_is_left_is_damaged() {
    let pickle = || b"\x80\x02}.".to_vec();
    let run = folder(&[
        ("run/checkpoint-20/optimizer.pt", pickle()),
        ("run/checkpoint-20/rng_state.pth", pickle()),
        ("run/checkpoint-20/trainer_state.json", text(json!({"global_step": 20}))),
        ("run/checkpoint-30/model.safetensors", matrix("a.weight", 8, 8)),
        ("run/checkpoint-30/optimizer.pt", pickle()),
        ("run/checkpoint-40/config.json", text(json!({"architectures": ["BertModel"]}))),
        ("saved/random_states_0.pkl", pickle()),
        ("saved/optimizer.bin", pickle()),
        // A model of another library.
        ("other/checkpoint-5/config.json", text(json!({"architectures": ["BertModel"]}))),
        ("other/checkpoint-5/flax_model.msgpack", b"\x81\xa1w\x00".to_vec()),
        // An optimizer that was put there by itself.
        ("alone/optimizer.pt", pickle()),
    ]);
    let at = |path: &str| run.path().join(path);
    let mut found = find(run.path()).unwrap();
    found.sort();
    let expected =
        ["alone/optimizer.pt", "run/checkpoint-20", "run/checkpoint-30", "run/checkpoint-40", "saved"];
    assert_eq!(found, expected.map(at));
    assert_eq!(
        damage(&at("run/checkpoint-20")),
        "the weights are missing: only optimizer.pt, rng_state.pth, trainer_state.json are there"
    );
    assert_eq!(
        damage(&at("saved")),
        "the weights are missing: only optimizer.bin, random_states_0.pkl are there"
    );
    for lost in ["run/checkpoint-20", "run/checkpoint-40", "saved"] {
        let error = open(at(lost)).unwrap_err();
        assert_eq!(
            (error.kind, error.fault),
            (ErrorKind::Damaged, Some(DamageKind::MissingShards)),
            "{error}"
        );
    }
    assert_eq!(open(at("run/checkpoint-30")).unwrap().damage, None);
    // The optimizer of many ranks without the model.
    let saved = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/distributed/step-7");
    std::fs::create_dir_all(at("fsdp/optimizer_0")).unwrap();
    for entry in std::fs::read_dir(&saved).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, at("fsdp/optimizer_0").join(path.file_name().unwrap())).unwrap();
    }
    assert_eq!(damage(&at("fsdp")), "the weights are missing: only optimizer_0 is there");
}

#[test]
fn what_a_folder_names_and_does_not_hold_is_said_by_its_name() {
    let index = json!({
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": [null, null],
    });
    let scheduler = ("scheduler/scheduler_config.json", text(json!({})));
    let nothing = folder(&[("model_index.json", text(index.clone())), scheduler.clone()]);
    let error = open(nothing.path()).unwrap_err();
    assert!(
        error.to_string().contains("1 of 1 components that model_index.json names missing: unet"),
        "{error}"
    );
    assert_eq!(find(nothing.path()).unwrap(), [nothing.path()]);
    let unet = ("unet/diffusion_pytorch_model.safetensors", matrix("conv_in.weight", 8, 4));
    let whole = folder(&[("model_index.json", text(index)), scheduler, unet.clone()]);
    assert_eq!(open(whole.path()).unwrap().damage, None);
    std::fs::remove_file(whole.path().join("scheduler/scheduler_config.json")).unwrap();
    assert_eq!(damage(whole.path()), "1 of 2 components that model_index.json names missing: scheduler");
    // An index that is none, and one that leads out of the folder.
    let spoilt = folder(&[("model_index.json", b"{\"unet\": [".to_vec()), unet.clone()]);
    assert_eq!(
        damage(spoilt.path()),
        "model_index.json is not valid JSON, or lists no components: which there should be is not known"
    );
    assert_eq!(names(&open(spoilt.path()).unwrap()), ["unet.conv_in.weight"]);
    let index =
        json!({"unet": ["diffusers", "UNet2DConditionModel"], "../vae": ["diffusers", "AutoencoderKL"]});
    let outside = folder(&[("model_index.json", text(index)), unet]);
    let checkpoint = open(outside.path()).unwrap();
    let [notice] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
    assert!(
        notice.is_finding() && notice.text.contains("names `../vae`, which is not a subfolder"),
        "{notice}"
    );
    // A pooling has no weights, and cannot be without its configuration.
    let sentence = sentence_transformer(matrix("linear.weight", 16, 32));
    std::fs::remove_dir_all(sentence.path().join("1_Pooling")).unwrap();
    assert_eq!(damage(sentence.path()), "1 of 3 components that modules.json names missing: 1_Pooling");
    // Adapters.
    let base = folder(&[
        ("model.safetensors", matrix("q_proj.weight", 8, 8)),
        ("style/adapter_config.json", text(json!({"peft_type": "LORA"}))),
    ]);
    assert_eq!(damage(base.path()), "1 of 2 components missing: style");
    let alone = folder(&[("adapter_config.json", text(json!({"peft_type": "LORA"})))]);
    assert!(open(alone.path()).unwrap_err().to_string().contains("the weights of the adapter"));
    assert_eq!(find(alone.path()).unwrap(), [alone.path()]);
}

/// Any byte of the files that name components changed: an error or a checkpoint, and nothing outside of the folder.
#[test]
fn indices_that_lie_lead_nowhere() {
    let whole = sentence_transformer(matrix("linear.weight", 16, 32));
    let index = whole.path().join("modules.json");
    let text = std::fs::read(&index).unwrap();
    for i in 0..text.len() {
        for changed in [b'.', b'/', b'"', b'0'] {
            let mut bytes = text.clone();
            bytes[i] = changed;
            std::fs::write(&index, &bytes).unwrap();
            if let Ok(files) = files_of(whole.path()) {
                assert!(files.iter().all(|file| file.starts_with(whole.path())), "{files:?}");
            }
            let _ = open(whole.path());
        }
    }
    for path in ["..", "/", "../..", "2_Dense/..", "", "."] {
        let module = json!([{"path": path, "type": "Dense"}, {"path": "2_Dense", "type": "Dense"}]);
        std::fs::write(&index, module.to_string()).unwrap();
        let files = files_of(whole.path()).unwrap();
        assert!(
            files.len() <= 2 && files.iter().all(|file| file.parent().unwrap().starts_with(whole.path()))
        );
    }
}

#[test]
fn files_of_other_libraries_say_what_they_are_and_what_to_do() {
    use ckpt_kit::zip::{entry, zip};
    let keras =
        [entry("metadata.json", "{}"), entry("config.json", "{}"), entry("model.weights.h5", "\u{89}HDF")];
    let exported = [entry("serialized_exported_program.json", "{}"), entry("serialized_state_dict.pt", "PK")];
    for (bytes, what, hint) in [
        (zip(&keras), "Keras", "safetensors"),
        (b"\x89HDF\r\n\x1a\n and more".to_vec(), "HDF5", "safetensors"),
        (zip(&exported), "torch.export", "state_dict"),
    ] {
        let error = ckpt_inspect::open_bytes("model", bytes).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.hint.as_ref().unwrap().contains(hint), "{error:?}");
    }
}

#[test]
fn checkpoints_of_other_libraries_say_what_they_are() {
    for (file, what) in [("_CHECKPOINT_METADATA", "Orbax"), ("manifest.ocdbt", "OCDBT")] {
        let folder = folder(&[(file, b"{}".to_vec())]);
        let error = open(folder.path()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(find(folder.path()).unwrap(), [folder.path()]);
    }
}
