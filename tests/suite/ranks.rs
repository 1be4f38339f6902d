//! What ranks saved for themselves, through the program's commands.

use std::path::PathBuf;

use ckpt_kit::binary::text;
use ckpt_kit::fixtures::root;

use crate::program;

fn saved(name: &str) -> PathBuf {
    root().join("inspect/tests/data/ranks").join(name)
}

#[test]
fn partitions_pass_the_gate_and_are_converted_compared_and_verified() {
    let ckpt = program();
    for name in ["zero2", "zero3", "universal-zero3", "fsdp2", "sharded"] {
        let (folder, joined) = (saved(name), ckpt.at(format!("{name}.safetensors")));
        ckpt.run(&["gate", text(&folder)]).exits(0);
        ckpt.run(&["convert", text(&folder), "--to", "safetensors", "-o", text(&joined)]).exits(0);
        ckpt.run(&["verify", text(&folder), text(&joined)]).exits(0);
        let whole = match name {
            "universal-zero3" => saved("zero3.pt"),
            name => saved(&format!("{name}.pt")),
        };
        let said = ckpt.run(&["diff", text(&folder), text(&whole), "--format", "json"]).out().to_string();
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        for tensor in said["tensors"].as_array().unwrap() {
            let called = tensor["name"].as_str().unwrap();
            // zero_to_fp32.py makes fp32 of a buffer of whole numbers.
            let other = called == "seen" || called.starts_with("optimizer.");
            assert!(tensor["status"] == "same" || other, "{name}: {tensor}");
        }
        assert!(said["same"].as_u64().unwrap() >= 3, "{name}: {said}");
    }
}

#[test]
fn a_missing_rank_is_refused_and_what_is_left_is_recovered() {
    let ckpt = program();
    let tag = ckpt.at("global_step3");
    std::fs::create_dir_all(&tag).unwrap();
    for entry in std::fs::read_dir(saved("zero3/global_step3")).unwrap() {
        let path = entry.unwrap().path();
        if !text(&path).contains("rank_1_mp_rank_00_optim") {
            std::fs::copy(&path, tag.join(path.file_name().unwrap())).unwrap();
        }
    }
    ckpt.run(&["gate", text(&tag)]).exits(3);
    let rest = ckpt.at("rest.safetensors");
    let said = ckpt.run(&["recover", text(&tag), "-o", text(&rest), "--fill", "zeros"]).out().to_string();
    assert!(said.contains("the optimizer's file of rank 1 is missing"), "{said}");
    let said = ckpt.run(&["inspect", text(&rest)]).exits(0).out().to_string();
    assert!(said.contains("frozen.weight") && said.contains("embed_tokens.weight"), "{said}");
}

#[test]
fn steps_of_a_run_are_reported_each_as_one() {
    let ckpt = program();
    for step in ["global_step3", "global_step9"] {
        let to = ckpt.at(format!("run/{step}"));
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(saved("zero2/global_step3")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    std::fs::write(ckpt.at("run/latest"), "global_step9").unwrap();
    let page = ckpt.at("run.html");
    ckpt.run(&["report", text(&ckpt.at("run")), "-o", text(&page)]).exits(0);
    let said = ckpt.run(&["gate", text(&ckpt.at("run"))]).exits(0).out().to_string();
    assert!(said.contains("2 checkpoints passed"), "{said}");
    ckpt.run(&["scan", text(&ckpt.at("run"))]).exits(0);
}
