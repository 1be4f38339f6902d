//! What trainers put beside a model, and what else lies in folders of checkpoints.

use std::path::PathBuf;

use ckpt_kit::pickle::{dict, int, pickle};
use ckpt_kit::{peers, tar, torch, zip};

use super::*;

/// A folder as Hugging Face's Trainer leaves it, written by PyTorch itself.
const WRITE: &str = r#"
import sys, argparse, torch
from pathlib import Path
from safetensors.torch import save_file
folder = Path(sys.argv[1])
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.LayerNorm(64), torch.nn.Linear(64, 16))
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
for _ in range(5):
    net(torch.randn(8, 32)).square().mean().backward()
    optimizer.step(); optimizer.zero_grad(); scheduler.step()
save_file(net.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
torch.save(optimizer.state_dict(), folder / "optimizer.pt")
torch.save(scheduler.state_dict(), folder / "scheduler.pt")
torch.save(torch.amp.GradScaler("cpu", enabled=False).state_dict(), folder / "scaler.pt")
torch.save({"python": (3, (1, 2), None), "cpu": torch.get_rng_state(), "cuda": torch.get_rng_state()}, folder / "rng_state.pth")
torch.save(argparse.Namespace(learning_rate=1e-3, output_dir="out"), folder / "training_args.bin")
# On a device the scale is a tensor, and infinite once nothing was finite.
torch.save({"scale": torch.tensor(float("inf")), "growth_factor": 2.0, "_growth_tracker": torch.tensor(0)}, folder / "scaler_1.pt")
torch.save({"best": torch.full((3,), float("inf"))}, folder / "custom_checkpoint_0.pkl")
bad = optimizer.state_dict()
bad["state"][0]["exp_avg_sq"][1, 2] = float("nan")
torch.save(bad, folder / "nan.bin")
"#;

const FILES: [&str; 7] = [
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
    "scaler_1.pt",
    "custom_checkpoint_0.pkl",
    "rng_state.pth",
    "training_args.bin",
];

/// The folder, and beside it the same optimizer's state with a NaN.
fn trained() -> Option<(tempfile::TempDir, PathBuf, PathBuf)> {
    let python = peers::python(&["torch", "safetensors"])?;
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("checkpoint-5");
    std::fs::create_dir(&folder).unwrap();
    python.code(WRITE, &[&folder]);
    std::fs::write(folder.join("trainer_state.json"), r#"{"global_step": 5}"#).unwrap();
    let nan = top.path().join("nan.bin");
    std::fs::rename(folder.join("nan.bin"), &nan).unwrap();
    Some((top, folder, nan))
}

#[test]
fn a_trainers_folder_is_one_checkpoint_with_its_moments() {
    let Some((_top, folder, nan)) = trained() else { return };
    let output = gate_in(&folder, &[".", "--format", "json"]).exits(0);
    let checkpoints = output.json()["checkpoints"].as_array().unwrap().clone();
    assert_eq!((checkpoints.len(), &checkpoints[0]["step"]), (1, &json!(5)));
    assert_eq!(checkpoints[0]["companion"], false);
    let shown = program().in_folder(&folder).run(&["inspect", ".", "--format", "json"]).exits(0).json();
    let names: Vec<&str> =
        shown["tensors"].as_array().unwrap().iter().filter_map(|t| t["name"].as_str()).collect();
    assert!(names.contains(&"optimizer.state.0.exp_avg") && names.contains(&"rng_state.cpu"), "{names:?}");
    assert_eq!(shown["training"]["groups"][0]["lr"], 1e-3);

    std::fs::copy(&nan, folder.join("optimizer.pt")).unwrap();
    let output = gate_in(&folder, &[".", "--format", "json"]).exits(1);
    assert_eq!(found(&output.json(), "corrupt-optimizer"), ["optimizer.state.0.exp_avg_sq"]);
    let bytes = std::fs::read(&nan).unwrap();
    std::fs::write(folder.join("optimizer.pt"), &bytes[..bytes.len() * 2 / 3]).unwrap();
    gate_in(&folder, &["."]).exits(3).says(&["damaged-file", "optimizer.pt"]);
    std::fs::write(folder.join("optimizer.pt"), "").unwrap();
    gate_in(&folder, &["."]).exits(3).says(&["damaged-file", "optimizer.pt"]);
    // What is made of the weights has nothing to do with it.
    let convert = ["convert", ".", "--to", "pt", "-o", "../copy.pt"];
    program().in_folder(&folder).run(&convert).exits(0);
}

#[test]
fn companions_that_are_named_one_by_one_pass_and_are_told() {
    let Some((_top, folder, nan)) = trained() else { return };
    for file in FILES {
        gate_in(&folder, &[file]).exits(0).says(&["passed", "only a trainer's files"]);
    }
    gate_in(&folder, &[&FILES[..], &["model.safetensors"]].concat()).exits(0).says(&["8 checkpoints passed"]);
    std::fs::copy(&nan, folder.join("optimizer.pt")).unwrap();
    gate_in(&folder, &["optimizer.pt"]).exits(1).says(&["state.0.exp_avg_sq", "NaN"]);
    let bytes = std::fs::read(&nan).unwrap();
    std::fs::write(folder.join("optimizer.pt"), &bytes[..bytes.len() * 2 / 3]).unwrap();
    gate_in(&folder, &["optimizer.pt"]).exits(3);
    // Not by its name, and nothing to judge; what a pickle is that is skipped beside a model too.
    std::fs::copy(folder.join("scheduler.pt"), folder.join("net.pt")).unwrap();
    std::fs::write(folder.join("vocab.pkl"), pickle(2, &dict(&[("word", int(7))]))).unwrap();
    for file in ["net.pt", "vocab.pkl"] {
        gate_in(&folder, &[file]).exits(1).says(&["nothing-judged"]);
    }
}

/// Archives and pickles hold anything; those without a tensor are told and cost nothing.
#[test]
fn what_else_lies_in_a_folder_is_skipped_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    f32s(&at("model.safetensors"), &[("a.weight", &[16, 16], values(256, 0.3))]);
    std::fs::write(at("data.zip"), zip::zip(&[zip::entry("a.txt", *b"text")])).unwrap();
    std::fs::write(at("logs.tar"), tar::tar(&[("log.txt", b"text", None)])).unwrap();
    std::fs::write(at("vocab.pkl"), pickle(2, &dict(&[("word", int(7))]))).unwrap();
    // Beside a model, what PyTorch saved may be something else too.
    std::fs::write(at("vocab.pt"), torch::zip_of(&pickle(2, &dict(&[("word", int(7))])), &[])).unwrap();
    let step = torch::rebuild("LongStorage", "0", 1, 0, &[], &[]);
    std::fs::write(at("train_state.pth"), torch::zip_of(&pickle(2, &dict(&[("step", step)])), &[vec![0; 8]]))
        .unwrap();
    let output = gate_in(folder.path(), &[".", "--format", "json"]).exits(0);
    let output = output.complains(&["skipped", "data.zip", "logs.tar", "vocab.pkl"]);
    let outcome = output.json();
    assert_eq!(outcome["checkpoints"].as_array().unwrap().len(), 1);
    let skipped: Vec<&str> =
        outcome["skipped"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    assert_eq!(skipped, ["./data.zip", "./logs.tar", "./train_state.pth", "./vocab.pkl", "./vocab.pt"]);
    // Named, it is what was meant.
    gate_in(folder.path(), &["data.zip"]).exits(3);
    gate_in(folder.path(), &["vocab.pt"]).exits(1).says(&["nothing-judged"]);
    // Tensors that were emptied are no numbers.
    let empty = torch::rebuild("FloatStorage", "0", 0, 0, &[0], &[1]);
    let emptied = torch::zip_of(&pickle(2, &dict(&[("a.weight", empty)])), &[Vec::new()]);
    std::fs::write(at("emptied.pt"), emptied).unwrap();
    gate_in(folder.path(), &["."]).exits(1).says(&["emptied.pt"]);
    std::fs::remove_file(at("emptied.pt")).unwrap();
    // A checkpoint by its name is never skipped.
    std::fs::rename(at("data.zip"), at("data.pt")).unwrap();
    gate_in(folder.path(), &["."]).exits(3).says(&["data.pt"]);
}

/// A folder that cannot be entered is told, and the others are judged.
#[cfg(unix)]
#[test]
fn one_unreadable_folder_keeps_no_other_from_being_judged() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("a");
    std::fs::create_dir(&first).unwrap();
    f32s(&first.join("one.safetensors"), &[("a.weight", &[16, 16], values(256, 0.3))]);
    f32s(&folder.path().join("two.safetensors"), &[("a.weight", &[16, 16], values(256, 0.3))]);
    // Too deep for any path to lead there, which holds for root too.
    let script = "for i in $(seq 20); do mkdir $(printf 'd%.0s' $(seq 240)) && cd d*; done";
    let made =
        std::process::Command::new("bash").args(["-c", script]).current_dir(folder.path()).status().unwrap();
    assert!(made.success());
    let output = gate_in(folder.path(), &[".", "--format", "json"]).exits(3);
    let outcome = output.json();
    let statuses: Vec<&str> =
        outcome["checkpoints"].as_array().unwrap().iter().filter_map(|c| c["status"].as_str()).collect();
    assert_eq!(statuses.iter().filter(|s| **s == "passed").count(), 2, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|s| **s == "unreadable").count(), 1, "{statuses:?}");
}

/// Of unknown names nothing but NaN is told; of one value throughout, they are no checkpoint.
#[test]
fn unknown_tensors_that_are_all_of_one_value_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let verdict = |name: &str, tensors: &[(&str, &[usize], Vec<f32>)]| {
        f32s(&folder.path().join(name), tensors);
        gate_in(folder.path(), &[name])
    };
    let zero = |n: usize| vec![0.0; n];
    let blank = "each is of one value";
    verdict("a.safetensors", &[("x", &[16, 16], zero(256)), ("y", &[16, 16], vec![0.5; 256])])
        .exits(1)
        .says(&["nothing-judged", blank]);
    verdict("b.safetensors", &[("params", &[4096], zero(4096)), ("box", &[6], zero(6))])
        .exits(1)
        .says(&["nothing-judged", blank]);
    verdict("c.safetensors", &[("x", &[16, 16], zero(256)), ("y", &[16, 16], values(256, 0.3))]).exits(0);
    verdict("d.safetensors", &[("params", &[4096], values(4096, 0.3)), ("box", &[6], zero(6))]).exits(0);
    // Vectors that an adapter begins with.
    verdict("e.safetensors", &[("ia3_l", &[4096], vec![1.0; 4096])]).exits(0);
}
