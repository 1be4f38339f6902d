//! One network under the names that training and saving give it: it is compared with itself whatever wraps it.

use ckpt_kit::binary::text;
use ckpt_kit::pickle::{dict, pickle};
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::{numbers, peers, torch};
use serde_json::Value;

use crate::program;

/// The same weights eight times, as PyTorch and its trainers save them, and once moved by a step.
const WRITE: &str = r#"
import sys, torch, copy
from pathlib import Path
folder = Path(sys.argv[1])
torch.manual_seed(0)
net = torch.nn.Sequential()
net.add_module("encoder", torch.nn.Linear(32, 64))
net.add_module("norm", torch.nn.LayerNorm(64))
net.add_module("head", torch.nn.Linear(64, 16))
plain = net.state_dict()
under = lambda prefix: {prefix + key: value for key, value in plain.items()}
moved = {key: value * 1.5 for key, value in plain.items()}
save = lambda what, name: torch.save(what, folder / f"{name}.pt")
save(plain, "plain")
save({"model": plain, "step": 7}, "model")
save({"state_dict": torch.nn.DataParallel(net).state_dict()}, "parallel")
save({"state_dict": under("model."), "epoch": 1,
      "callbacks": {"EarlyStopping{'monitor': 'loss'}": {"best_score": torch.tensor(float("inf")), "wait_count": 2}}}, "lightning")
save(under("_orig_mod."), "compiled")
save({"model_state_dict": under("module._orig_mod.")}, "both")
save({"model": plain, "ema": moved}, "averaged")
save(net, "whole")
save({key.replace("encoder.", "encoder.module."): value for key, value in plain.items()}, "inside")
save({"state_dict": {"model." + key: value for key, value in moved.items()}}, "moved")
save({"netG": plain}, "dict")
save([plain, {"epoch": 1}], "list")
save({"student": under("module.backbone.")}, "student")
save({"state_dict": under("net.backbone."), "epoch": 1}, "backbone")
save({"netG": plain, "netD": {"0.weight": torch.randn(8, 8), "0.bias": torch.randn(8)}, "netG_ema": moved}, "several")
save({"a": plain, "b": moved}, "twice")
save({"step": 3}, "nothing")
save({"lr": 0.1}, "nothing-else")
"#;

const SAME: [&str; 12] = [
    "model",
    "parallel",
    "lightning",
    "compiled",
    "both",
    "averaged",
    "whole",
    "inside",
    "dict",
    "list",
    "student",
    "backbone",
];

#[test]
fn a_network_is_itself_under_every_wrapper() {
    let Some(python) = peers::python(&["torch"]) else { return };
    let program = program().in_its_folder();
    python.code(WRITE, &[program.folder()]);
    for name in SAME {
        let other = format!("{name}.pt");
        let arguments =
            ["diff", "plain.pt", &other, "--group", "weights", "--values-only", "--all", "--format", "json"];
        let found: Value = program.run(&arguments).json();
        let tensors = found["tensors"].as_array().unwrap();
        let same = tensors.iter().filter(|t| t["status"] == "same").count();
        assert!(!found.to_string().contains("best_score"), "{name}: {found}");
        assert_eq!(same, 6, "{name}: {found}");
        assert!(
            tensors
                .iter()
                .all(|t| t["status"] == "same" || t["b"]["name"].as_str().unwrap().starts_with("ema."))
        );
        // A moving average beside it is more than the first has.
        program.run(&["verify", "plain.pt", &other]).exits(i32::from(name == "averaged"));
        for pair in [["plain.pt", &other], [&other, "plain.pt"]] {
            let allowed = if name == "averaged" && pair[1] == other { 1 } else { 0 };
            program.run(&["gate", pair[0], "--baseline", pair[1]]).exits(allowed);
        }
    }
    program.run(&["verify", "plain.pt", "moved.pt"]).exits(1).says(&["6 differ"]);
    // Each of two files may begin in its own way.
    program.run(&["verify", "list.pt", "dict.pt"]).exits(0).says(&["verified: 6 tensors"]);
    // Of several networks, the one that it is.
    let found = program.run(&["gate", "several.pt", "--baseline", "plain.pt"]);
    assert!(!found.out().contains("vanished"), "{}", found.out());
    // Of two that it may be, none is taken.
    program.run(&["verify", "plain.pt", "twice.pt"]).exits(1).says(&["of 0 compared"]);
    // Nothing agrees with nothing.
    program.run(&["verify", "nothing.pt", "nothing-else.pt"]).exits(1).says(&["nothing to compare"]);
    program.run(&["diff", "nothing.pt", "nothing-else.pt", "--values-only"]).exits(1).says(&["no tensors"]);
    program
        .run(&["gate", "plain.pt", "--baseline", "nothing.pt"])
        .exits(1)
        .says(&["baseline has no weights"]);
    let found = program.run(&["gate", "moved.pt", "--baseline", "model.pt", "--max-shrink", "1"]).exits(0);
    assert!(!found.out().contains("vanished"));
    program
        .run(&["gate", "model.pt", "--baseline", "moved.pt", "--max-shrink", "1.2"])
        .exits(1)
        .says(&["std-shrunk"]);
}

/// What flat names begin with is part of them, also where it is called as the key of a state dict often is: on screen they
/// are the file's own. The key of a dict is no part of a name.
#[test]
fn names_are_shown_as_they_are_in_the_file() {
    let program = program();
    for word in ["net", "module", "state_dict", "model_state_dict", "network", "model"] {
        let values = |layer: usize| vec![if layer == 1 { 0.0f32 } else { 0.5 }; 64];
        let name = |layer: usize| format!("layers.{layer}.fc.weight");
        let tensor =
            |layer: usize| torch::rebuild("FloatStorage", &layer.to_string(), 64, 0, &[8, 8], &[8, 1]);
        let storages: Vec<Vec<u8>> = (0..2).map(|layer| numbers::le(&values(layer))).collect();
        let flat: Vec<String> = (0..2).map(|layer| format!("{word}.{}", name(layer))).collect();
        let flat_dict: Vec<(&str, Vec<u8>)> = (0..2).map(|i| (flat[i].as_str(), tensor(i))).collect();
        let inner: Vec<String> = (0..2).map(name).collect();
        let inner: Vec<(&str, Vec<u8>)> = (0..2).map(|i| (inner[i].as_str(), tensor(i))).collect();
        let save = |object: &[u8], name: &str| {
            std::fs::write(program.at(name), torch::zip_of(&pickle(2, object), &storages)).unwrap();
            program.at(name)
        };
        let keyed = save(&dict(&[(word, dict(&inner))]), "keyed.pt");
        let flat_pickle = save(&dict(&flat_dict), "flat.pt");
        let safetensors = program.at("flat.safetensors");
        let file = (0..2).fold(SafeTensors::new(), |file, i| file.f32s(&flat[i], &[8, 8], &values(i)));
        file.write(&safetensors);
        for path in [&flat_pickle, &safetensors] {
            program.run(&["inspect", text(path)]).says(&[&format!("\n{word}.layers.{{0..1}}.fc.weight ")]);
            let all = program.run(&["inspect", text(path), "--all"]);
            all.says(&[&format!("\n{word}.layers.1.fc.weight "), "weights  2 tensors, 512 B\n"]);
            let folded = format!("  - {word}.layers.{{0..1}}.fc.weight  2 tensors\n");
            program.run(&["gate", text(path)]).exits(1).says(&[&folded]);
            let gate = program.run(&["gate", text(path), "--max-dead", "0"]).exits(1);
            gate.says(&[&format!("allowed: {word}.layers.0.fc.weight, {word}.layers.1.fc.weight")]);
            let report = program.run(&["report", text(path), "--format", "md"]);
            report.says(&[&format!("`{word}.layers.1.fc.weight`")]);
            // Patterns match with the word and without it.
            for glob in ["layers.1.fc.weight", &flat[1]] {
                if word != "model" || glob != "layers.1.fc.weight" {
                    program.run(&["gate", text(path), "--ignore", glob]).says(&["0 of 1 tensors healthy"]);
                }
            }
        }
        // The dict is named once, or with the names where models have such a key themselves.
        let key = if word == "model" { "model." } else { "" };
        program.run(&["inspect", text(&keyed)]).says(&[&format!("\n{key}layers.{{0..1}}.fc.weight ")]);
        program
            .run(&["gate", text(&keyed)])
            .exits(1)
            .says(&[&format!("  - {key}layers.{{0..1}}.fc.weight  2 tensors\n")]);
    }
}
