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

#[test]
fn what_the_gate_lets_pass_with_a_doubt_is_told_in_every_form() {
    let ckpt = program();
    let tag = ckpt.at("global_step3");
    std::fs::create_dir_all(&tag).unwrap();
    std::fs::copy(
        saved("zero2/global_step3/mp_rank_00_model_states.pt"),
        tag.join("mp_rank_00_model_states.pt"),
    )
    .unwrap();
    let said = ckpt.run(&["gate", text(&tag), "--format", "json"]).exits(0).json();
    let finding = &said["checkpoints"][0]["findings"][0];
    assert_eq!((&finding["rule"], &finding["severity"]), (&"doubt".into(), &"warning".into()), "{said}");
    let gone = "the files of the optimizer, in which the fp32 weights are, are not there";
    assert!(finding["message"].as_str().unwrap().starts_with(gone), "{finding}");
    assert!(ckpt.run(&["gate", text(&tag)]).exits(0).out().contains("are not there"));
    let sarif = ckpt.run(&["gate", text(&tag), "--format", "sarif"]).exits(0).json();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!((&result["ruleId"], &result["level"]), (&"doubt".into(), &"warning".into()), "{sarif}");
    let said = ckpt.run(&["recover", text(&tag), "--format", "json"]).exits(3).json();
    assert_eq!((&said["whole"], &said["tensors"]["doubtful"]), (&false.into(), &4.into()), "{said}");
    let said = ckpt.run(&["recover", text(&tag)]).exits(3).out().to_string();
    assert!(said.contains("doubtful") && said.contains("4 tensors, such as embed_tokens.weight"), "{said}");
}

#[test]
fn a_folder_whose_weights_are_gone_is_refused() {
    let ckpt = program();
    let step = ckpt.at("run/checkpoint-20");
    std::fs::create_dir_all(&step).unwrap();
    std::fs::copy(saved("fsdp2-optim.pt"), step.join("optimizer.pt")).unwrap();
    std::fs::write(step.join("trainer_state.json"), r#"{"global_step": 20}"#).unwrap();
    let said = ckpt.run(&["gate", text(&ckpt.at("run"))]).exits(3).out().to_string();
    assert!(said.contains("the weights are missing: only optimizer.pt, trainer_state.json are"), "{said}");
    let said = ckpt.run(&["inspect", text(&step)]).exits(3).out().to_string();
    assert!(said.contains("the weights are missing") && said.contains("exp_avg"), "{said}");
    ckpt.run(&["convert", text(&step), "--to", "safetensors", "-o", text(&ckpt.at("x.safetensors"))])
        .exits(3);
    // One rank's file says how many others there are.
    let alone = ckpt.at("model_world_size_4_rank_2.pt");
    std::fs::copy(saved("fsdp2/model_world_size_4_rank_2.pt"), &alone).unwrap();
    let said = ckpt.run(&["gate", text(&alone)]).exits(3).out().to_string();
    assert!(said.contains("3 of 4 files of `model` missing"), "{said}");
    ckpt.run(&["scan", text(&saved("zero2"))]).exits(0);
}
