//! Folders whose parts are one checkpoint, through the program's commands.

use std::path::{Path, PathBuf};

use ckpt_kit::binary::text;
use ckpt_kit::fixtures::root;
use ckpt_kit::pickle::{dict, pickle};
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::{numbers, peers, torch};

use crate::program;

/// A file of one matrix of values that a trained one might have, or of this one alone.
fn matrix(path: &Path, name: &str, value: Option<f32>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let values: Vec<f32> =
        (0..64 * 48).map(|i| value.unwrap_or(((i * 37 + 11) % 101) as f32 / 640.0 - 0.07)).collect();
    SafeTensors::new().f32s(name, &[64, 48], &values).write(path);
}

fn sentence_transformer(folder: &Path, dense: Option<f32>) {
    matrix(&folder.join("model.safetensors"), "encoder.layer.0.attention.self.query.weight", None);
    matrix(&folder.join("2_Dense/model.safetensors"), "linear.weight", dense);
    let modules = r#"[{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
        {"idx":2,"name":"2","path":"2_Dense","type":"sentence_transformers.models.Dense"}]"#;
    std::fs::write(folder.join("modules.json"), modules).unwrap();
}

#[test]
fn the_gate_refuses_a_folder_of_which_one_component_is_dead() {
    let ckpt = program();
    let (good, bad, run) = (ckpt.at("good"), ckpt.at("bad"), ckpt.at("run/checkpoint-500"));
    sentence_transformer(&good, None);
    sentence_transformer(&bad, Some(f32::NAN));
    matrix(&run.join("model.safetensors"), "conv_in.weight", None);
    matrix(&run.join("unet_ema/diffusion_pytorch_model.safetensors"), "conv_in.weight", Some(f32::NAN));
    ckpt.run(&["gate", text(&good)]).exits(0);
    for folder in [&bad, &run] {
        let ran = ckpt.run(&["gate", text(folder), "--format", "json"]);
        let said = ran.exits(1).json();
        assert_eq!(said["checkpoints"].as_array().unwrap().len(), 1, "{said}");
        assert!(said.to_string().contains("NaN") || said.to_string().contains("nan"), "{said}");
    }
    let record = ckpt.run(&["inspect", text(&bad), "--format", "json"]).exits(0).json();
    assert_eq!(record["components"], serde_json::json!(["", "2_Dense"]));
    let said = ckpt.run(&["inspect", text(&bad)]).exits(0).out().to_string();
    assert!(said.contains("that of the folder itself, 2_Dense"), "{said}");
    assert!(said.contains("2_Dense.linear.weight"), "{said}");
    // The cache notices a change of a component.
    matrix(&bad.join("2_Dense/model.safetensors"), "linear.weight", None);
    ckpt.run(&["gate", text(&bad)]).exits(0);
}

fn saved() -> PathBuf {
    root().join("inspect/tests/data/distributed/step-7")
}

#[test]
fn a_distributed_checkpoint_is_converted_to_one_and_back_compared_and_scanned() {
    let ckpt = program();
    let (step, flat) = (ckpt.at("step-7"), ckpt.at("flat.safetensors"));
    ckpt.run(&["convert", text(&saved()), "--to", "dcp", "--keep-optimizer", "-o", text(&step)]).exits(0);
    ckpt.run(&["diff", text(&saved()), text(&step)]).exits(0);
    ckpt.run(&["convert", text(&step), "--to", "safetensors", "-o", text(&flat)]).exits(0);
    ckpt.run(&["verify", text(&saved()), text(&flat)]).exits(0);
    ckpt.run(&["scan", text(&step)]).exits(0);
    // One of a run, beside others.
    let out = ckpt.at("out");
    ckpt.run(&["convert", text(&saved()), "--to", "dcp", "--out-dir", text(&out)]).exits(0);
    assert!(out.join("step-7/.metadata").is_file());
}

#[test]
fn a_save_that_was_not_finished_is_shown_refused_and_recovered() {
    let ckpt = program();
    let folder = ckpt.at("step-7");
    std::fs::create_dir(&folder).unwrap();
    for file in ["__0_0.distcp", "__1_0.distcp"] {
        std::fs::copy(saved().join(file), folder.join(file)).unwrap();
    }
    let why = "saving was not finished: .metadata, which is written last";
    let shown = ckpt.run(&["inspect", text(&folder)]).exits(3);
    shown.says(&[why, "neither their names nor what they are parts of are known", "__0_0."]);
    ckpt.run(&["gate", text(&folder)]).exits(3).says(&[why]);
    ckpt.run(&["scan", text(&folder)]).exits(0);
    let copy = ckpt.at("copy.safetensors");
    let refused = ckpt.run(&["convert", text(&folder), "--to", "safetensors", "-o", text(&copy)]).exits(3);
    assert!(refused.err().contains(why) && refused.err().contains("use the checkpoint of an earlier step"));
    assert!(!copy.exists());
    ckpt.run(&["recover", text(&folder), "-o", text(&copy)]).exits(3);
    let record = ckpt.run(&["inspect", text(&copy), "--format", "json"]).exits(0).json();
    let names: Vec<&str> =
        record["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"__0_0.3") && names.iter().all(|name| name.starts_with("__")), "{names:?}");
}

#[test]
fn what_a_lost_rank_had_is_filled_and_the_rest_is_kept() {
    let ckpt = program();
    let folder = ckpt.at("step-7");
    std::fs::create_dir(&folder).unwrap();
    for file in [".metadata", "__0_0.distcp"] {
        std::fs::copy(saved().join(file), folder.join(file)).unwrap();
    }
    let out = ckpt.at("out.safetensors");
    let ran = ckpt.run(&["recover", text(&folder), "-o", text(&out), "--fill", "zeros", "--format", "json"]);
    let said = ran.exits(3).json();
    let rows = said["losses"]
        .as_array()
        .unwrap()
        .iter()
        .find(|loss| loss["name"] == "model.layers.0.mlp.up_proj.weight");
    let rows = rows.unwrap();
    assert_eq!((&rows["present"], &rows["holes"]), (&120.into(), &serde_json::json!([[120, 216]])), "{rows}");
    assert_eq!((&rows["filled"], &said["output_agrees"]), (&"zeros".into(), &true.into()));
    let said = ckpt.run(&["recover", text(&folder)]).exits(3).out().to_string();
    assert!(said.contains("in several places"), "{said}");
}

/// A dict under the key `model` and an optimizer's moments, or the tensors of that dict alone.
fn keyed(path: &Path, is_keyed: bool) {
    let mut storages = Vec::new();
    let mut tensor = |value: f32| {
        storages.push(numbers::le(&[value; 6]));
        torch::rebuild("FloatStorage", &(storages.len() - 1).to_string(), 6, 0, &[2, 3], &[3, 1])
    };
    let model = [("model.embed.weight", tensor(1.5)), ("model.head.weight", tensor(2.5))];
    let object = match is_keyed {
        true => {
            let state = dict(&[("0", dict(&[("exp_avg", tensor(0.5))]))]);
            dict(&[("model", dict(&model)), ("optim", dict(&[("state", state)]))])
        }
        false => dict(&model),
    };
    std::fs::write(path, torch::zip_of(&pickle(2, &object), &storages)).unwrap();
}

#[test]
fn the_key_of_the_only_state_dict_is_no_part_of_names_in_a_flat_file() {
    let ckpt = program();
    for is_keyed in [true, false] {
        let (source, flat) = (ckpt.at("source.pt"), ckpt.at("flat.safetensors"));
        keyed(&source, is_keyed);
        let convert = ["convert", text(&source), "--to", "safetensors", "-o", text(&flat), "--force"];
        ckpt.run(&convert).exits(0);
        ckpt.run(&["verify", text(&source), text(&flat)]).exits(0);
        let record = ckpt.run(&["inspect", text(&flat), "--format", "json"]).exits(0).json();
        let names: Vec<&str> =
            record["tensors"].as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
        assert_eq!(names, ["model.embed.weight", "model.head.weight"], "{is_keyed}");
        // What an optimizer keeps is no value of the network.
        ckpt.run(&["diff", text(&source), text(&flat), "--values-only"]).exits(0);
        let told = if is_keyed { "1 only in A, 2 the same" } else { "tensors 2 the same" };
        ckpt.run(&["diff", text(&source), text(&flat)]).exits(i32::from(is_keyed)).says(&[told]);
    }
}

/// A model and its optimizer as Accelerate and transformers' Trainer save them, files beside each other.
const TRAINED: &str = r#"
import random, sys, numpy, torch
from pathlib import Path
from safetensors.torch import save_file
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 8))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
for _ in range(2):
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    schedule.step()
for folder, ending in (("pickled", "bin"), ("plain", "pt")):
    folder = Path(sys.argv[1]) / folder
    folder.mkdir()
    if ending == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    torch.save(optimizer.state_dict(), folder / f"optimizer.{ending}")
    torch.save(schedule.state_dict(), folder / f"scheduler.{ending}")
    states = dict(step=0, numpy=numpy.random.get_state(), python=random.getstate(), torch=torch.get_rng_state())
    torch.save(states, folder / "random_states_0.pkl")
"#;
const RESUMED: &str = r#"
import sys, torch
from pathlib import Path
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
place = Path(sys.argv[1])
for name in ("pickled", "plain"):
    dcp_to_torch_save(place / f"{name}.dcp", place / "of-dcp.pt")
    saved = {f.stem: torch.load(f, weights_only=True) for f in (place / name).iterdir() if f.stem in ("optimizer", "scheduler")}
    for file in (f"{name}.pt", "of-dcp.pt"):
        whole = torch.load(place / file, weights_only=True)
        assert not [key for key in whole if "random" in key], whole.keys()
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 8))
        model.load_state_dict(whole["model"])
        state = whole["optimizer"]["state"]
        assert len(state) == 4
        for key, moments in saved["optimizer"]["state"].items():
            # A distributed checkpoint has texts for keys.
            own = state[key if key in state else str(key)]
            assert all(torch.equal(own[moment], value) for moment, value in moments.items())
        assert whole["scheduler"]["last_epoch"] == 2
        if file != "of-dcp.pt":
            torch.optim.AdamW(model.parameters()).load_state_dict(whole["optimizer"])
print("resumed")
"#;

#[test]
fn the_optimizer_beside_a_model_is_kept_where_it_is_asked_for() {
    let Some(python) = peers::python(&["torch", "numpy", "safetensors"]) else { return };
    let ckpt = program();
    let place = ckpt.at("saved");
    std::fs::create_dir(&place).unwrap();
    python.code(TRAINED, &[&place]);
    for name in ["pickled", "plain"] {
        let folder = place.join(name);
        for target in ["pt", "dcp"] {
            let output = place.join(format!("{name}.{target}"));
            let ran = ckpt.run(&[
                "convert",
                text(&folder),
                "--to",
                target,
                "--keep-optimizer",
                "-o",
                text(&output),
            ]);
            let ran = ran.exits(0);
            assert!(ran.err().contains("`random_states_0` left out"), "{ran}");
        }
        let output = place.join(format!("{name}-weights.pt"));
        let weights = ckpt.run(&["convert", text(&folder), "--to", "pt", "-o", text(&output)]).exits(0);
        assert!(weights.out().contains("4 tensors"), "{weights}");
    }
    assert_eq!(python.code(RESUMED, &[&place]).trim(), "resumed");
    // A model that has none.
    std::fs::remove_file(place.join("plain/optimizer.pt")).unwrap();
    let output = place.join("none.pt");
    let plain = place.join("plain");
    let refused =
        ckpt.run(&["convert", text(&plain), "--to", "pt", "--keep-optimizer", "-o", text(&output)]).exits(2);
    assert!(refused.err().contains("has no optimizer state to keep"), "{refused}");
}

#[test]
fn a_distributed_checkpoint_with_an_array_of_numpy_is_written_as_one_again() {
    let Some(python) = peers::python(&["torch", "numpy"]) else { return };
    let ckpt = program();
    let (step, copy) = (ckpt.at("step"), ckpt.at("copy"));
    python.code(
        "import sys, numpy, torch, torch.distributed.checkpoint as dcp
dcp.save({'w': torch.randn(4, 4), 'array': numpy.arange(5.0)}, checkpoint_id=sys.argv[1], no_dist=True)",
        &[&step],
    );
    ckpt.run(&["convert", text(&step), "--to", "dcp", "-o", text(&copy)]).exits(0);
    ckpt.run(&["verify", text(&step), text(&copy)]).exits(0);
    let read = python.code(
        "import sys, torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
dcp_to_torch_save(sys.argv[1], sys.argv[2])
print(torch.load(sys.argv[2])['array'].tolist())",
        &[&copy, &ckpt.at("whole.pt")],
    );
    assert_eq!(read.trim(), "[0.0, 1.0, 2.0, 3.0, 4.0]");
    // Who wrote a header is no difference.
    let flat = ckpt.at("flat.safetensors");
    python.code(
        "import sys, torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
dcp_to_torch_save(sys.argv[1], sys.argv[2])
whole = torch.load(sys.argv[2], weights_only=False)
save_file({key: torch.as_tensor(value) for key, value in whole.items()}, sys.argv[3], metadata={'format': 'pt'})",
        &[&copy, &ckpt.at("whole.pt"), &flat],
    );
    ckpt.run(&["diff", text(&copy), text(&flat)]).exits(0);
}
