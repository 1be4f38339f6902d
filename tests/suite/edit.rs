//! `ckpt edit` as a user runs it, each edit against the same one done in PyTorch or PEFT.

use ckpt_kit::binary::{Program, text};
use ckpt_kit::fixtures::{fixture, root};
use ckpt_kit::peers::{self, Python, json};
use serde_json::Value;

mod refusals;

const HEALTHY: &str = "healthy-run/step-02000.pt";
const ADAPTER: &str = "adapter";

fn place() -> Program {
    crate::program().in_its_folder()
}

fn python(packages: &[&str]) -> Option<Python> {
    peers::python(packages)
}

/// What the function of `tests/peers/edit.py` says.
#[track_caller]
fn ask(python: &Python, arguments: &[&str]) -> Value {
    ask_all(python, &[arguments.to_vec()]).remove(0)
}

/// What each of these functions says.
#[track_caller]
fn ask_all<A: AsRef<str>>(python: &Python, asked: &[Vec<A>]) -> Vec<Value> {
    let each = asked.iter().map(|arguments| arguments.iter().map(AsRef::as_ref).collect::<Vec<&str>>());
    let printed = python.script(".", "edit.py", &each.collect::<Vec<_>>().join(&"--"));
    let said = json(printed.lines().last().unwrap_or_default());
    said.as_array().unwrap().clone()
}

/// Fails unless both checkpoints have the same names and types, and the same bits.
#[track_caller]
fn assert_same(report: &Value) {
    assert_close(report, 0.0);
    assert_eq!(report["bits"], 0, "{report}");
}

/// Fails unless both have the same names and types, and values at most `most` apart.
#[track_caller]
fn assert_close(report: &Value, most: f64) {
    for what in ["missing", "extra", "types"] {
        assert_eq!(report[what], serde_json::json!([]), "{report}");
    }
    assert!(report["worst"].as_f64().is_some_and(|worst| worst <= most), "{report}");
    assert!(report["elements"].as_u64().unwrap() > 0, "{report}");
}

/// Fails unless every element is the exact result rounded once, and never further from it than PyTorch's.
#[track_caller]
fn assert_nearest(report: &Value) {
    let nearest = &report["nearest"];
    assert_eq!((&nearest["worse"], &nearest["beyond"]), (&0.into(), &0.into()), "{report}");
    assert!(nearest["elements"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn an_average_is_that_of_pytorch() {
    let Some(python) = python(&["torch", "safetensors"]) else { return };
    for dtype in ["float32", "bfloat16"] {
        let place = place();
        ask(&python, &["networks", text(&place.at("run")), "5", dtype]);
        let step = |n: usize| place.at(format!("run/step-00{n}00.pt"));
        let all: Vec<_> = (1..=5).map(step).collect();
        let (mut asked, outputs) = (Vec::new(), place.at(""));
        let mut compare = |out: &str, weights: &str, from: usize| {
            let out = text(&outputs.join(out)).to_string();
            let sources = all[from..].iter().map(|path| text(path).to_string());
            asked.push(["average".into(), out, weights.into()].into_iter().chain(sources).collect());
        };
        place
            .run(&["edit", "run", "--average", "-o", "all.pt"])
            .exits(0)
            .says(&["5 checkpoints → all.pt", "verified: 10 tensors, 10 bit-equal"])
            .complains(&[
                "averaged 8 tensors of 5 checkpoints, steps 100 to 500",
                "warning: 1 tensor of whole numbers differs, and is that of run/step-00500.pt: `model_state_dict.bn.num_batches_tracked`",
                "left out what only training needs: 2 tensors",
                "`optimizer_state_dict`",
            ]);
        compare("all.pt", "[1,1,1,1,1]", 0);
        place.run(&["edit", "run", "--average", "--last", "2", "-o", "last.safetensors"]).exits(0);
        compare("last.safetensors", "[1,1]", 3);
        let weighted: Vec<&str> = all.iter().map(|path| text(path)).collect();
        let weighted =
            [&["edit"][..], &weighted, &["--average", "--weights", "1,0,2.5,3,4", "-o", "weighted.pt"]]
                .concat();
        place.run(&weighted).exits(0).complains(&["which count 0.095, 0.000, 0.238, 0.286, 0.381"]);
        compare("weighted.pt", "[1,0,2.5,3,4]", 0);
        // In whatever order they are given.
        let shuffled: Vec<&str> = [4, 0, 2, 1, 3].map(|i| text(&all[i])).to_vec();
        let ema = [&["edit"][..], &shuffled, &["--average", "--ema", "0.75", "-o", "ema.pt"]].concat();
        place.run(&ema).exits(0).complains(&["steps 100 to 500, as a moving average with the decay 0.75"]);
        compare("ema.pt", "[0.31640625, 0.10546875, 0.140625, 0.1875, 0.25]", 0);
        let swa = ["swa".to_string(), text(&outputs.join("all.pt")).into()];
        asked.push(swa.into_iter().chain(all.iter().map(|path| text(path).into())).collect());
        let mut reports = ask_all(&python, &asked);
        // Which adds up in the type of the weights, of which one is of float16.
        assert_close(&reports.pop().unwrap(), if dtype == "float32" { 2e-3 } else { 0.05 });
        for report in reports {
            assert_close(&report, 1e-2);
            assert_nearest(&report);
            // To 16 bits PyTorch rounds twice.
            assert!(report["bits"].as_u64() < Some(9), "{report}");
        }
    }
}

#[test]
fn the_average_of_equal_checkpoints_is_that_checkpoint_and_tied_weights_stay_tied() {
    let Some(python) = python(&["torch", "safetensors"]) else { return };
    let place = place();
    ask(&python, &["networks", text(&place.at("run")), "1"]);
    let step = place.at("run/step-00100.pt");
    for copy in ["a.pt", "b.pt"] {
        std::fs::copy(&step, place.at(copy)).unwrap();
    }
    place.run(&["edit", text(&step), "a.pt", "b.pt", "--average", "-o", "mean.pt"]).exits(0);
    assert_same(&ask(&python, &["compare", text(&place.at("mean.pt")), text(&step)]));
    let tied = "import torch, sys; s = torch.load(sys.argv[1])['model_state_dict']; print(s['fc.weight'].data_ptr() == s['tied.weight'].data_ptr())";
    assert_eq!(python.code(tied, &[place.at("mean.pt")]).trim(), "True");
}

#[test]
fn an_average_says_which_weights_have_another_type() {
    let place = place();
    let step = fixture(HEALTHY);
    let step = text(&step);
    place.run(&["edit", step, "--keep", "*norm.weight", "--to", "bf16", "-o", "b.pt"]).exits(0);
    place.run(&["edit", step, "--keep", "*norm.weight", "-o", "a.pt"]).exits(0);
    let outcome = place.run(&["edit", "b.pt", "a.pt", "--average", "-o", "mean.pt"]).exits(0);
    let said = "are bfloat16 in b.pt, and float32 in the last checkpoint and the result";
    outcome.complains(&[said]);
    std::fs::copy(place.at("a.pt"), place.at("c.pt")).unwrap();
    let same = place.run(&["edit", "c.pt", "a.pt", "--average", "-o", "same.pt"]).exits(0);
    assert!(!same.err().contains("last checkpoint and the result"), "{same}");
}

#[test]
fn an_average_says_what_it_costs() {
    let place = place();
    let [first, last] = ["healthy-run/step-01000.pt", HEALTHY].map(fixture);
    let ids = root().join("infer/tests/data/healthy.jsonl");
    let args = ["edit", text(&first), text(&last), "--average", "--perplexity", text(&ids), "-o", "mean.pt"];
    let run = place.run(&[&args[..], &["--format", "json"]].concat()).exits(0);
    let record = run.json();
    let perplexity = |path: &str| {
        let record = place.run(&["infer", path, "--perplexity", text(&ids), "--json"]).exits(0).json();
        record["perplexity"].as_f64().unwrap()
    };
    for (key, path) in [("before", text(&last)), ("after", "mean.pt")] {
        let (told, wanted) = (record["perplexity"][key].as_f64().unwrap(), perplexity(path));
        assert!((told / wanted - 1.0).abs() < 1e-9, "{told} {wanted}");
    }
    assert_eq!(record["perplexity"]["tokens"], 94);
    assert_eq!(record["verified"]["agrees"], true);
    assert_eq!(record["changes"][0]["weights"], serde_json::json!([0.5, 0.5]));
    place.run(&[&args[..], &["--force"]].concat()).exits(0).says(&[
        "perplexity ",
        " of mean.pt, ",
        "nats a token over 94 tokens)",
    ]);
}

#[test]
fn adapters_are_merged_as_peft_merges_them() {
    let Some(python) = python(&["torch", "safetensors", "peft", "transformers"]) else { return };
    let place = place();
    let cases = [
        "plain",
        "rslora",
        "patterns",
        "dora",
        "embeddings",
        "dora-embeddings",
        "saved",
        "bias-lora",
        "bias-all",
        "lora-bias",
        "tied",
        "conv",
        "conv-dora",
        "conv-square",
        "conv-head",
        "conv-head-last",
        "conv-bias-saved",
        "turned",
        "bias-saved",
        "tied-saved",
        "router",
        "router-saved",
    ];
    let [f32s, halves] = ["f32", "bf16"].map(|name| text(&place.at(name)).to_string());
    let made = [vec!["adapters", &f32s, &cases.join(",")], vec!["adapters", &halves, "plain", "bfloat16"]]
        .map(|arguments| arguments.into_iter().map(str::to_string).collect::<Vec<_>>());
    ask_all(&python, &made);
    let mut asked = Vec::new();
    for case in cases {
        let [base, adapter, merged] =
            ["base", "adapter", "merged"].map(|name| place.at(format!("f32/{case}/{name}")));
        let out = place.at(format!("{case}-out"));
        place
            .run(&["edit", text(&base), "--lora", text(&adapter), "-o", text(&out)])
            .exits(0)
            .says(&["verified: ", "bit-equal"])
            .complains(&["merged ", if case.contains("dora") { "DoRA" } else { "LoRA" }]);
        asked.push(["compare", text(&out), text(&merged)].map(str::to_string).to_vec());
        // What is a folder stays one that transformers loads.
        assert!(out.join("config.json").exists(), "{case}");
    }
    // In bf16, W + s B A is rounded once, and never further from it than what PEFT makes.
    let [base, adapter, merged] =
        ["base", "adapter", "merged"].map(|name| place.at(format!("bf16/plain/{name}")));
    place.run(&["edit", text(&base), "--lora", text(&adapter), "-o", "half.safetensors"]).exits(0);
    let half = place.at("half.safetensors");
    let exactly = ["exactly", text(&half), text(&base), text(&adapter), text(&merged)];
    asked.push(exactly.map(str::to_string).to_vec());
    let mut reports = ask_all(&python, &asked);
    assert_nearest(&reports.pop().unwrap());
    for (report, case) in reports.iter().zip(cases) {
        assert_eq!(report["missing"], serde_json::json!([]), "{case}");
        assert_close(report, 1e-6);
    }
}

#[test]
fn an_adapter_merges_into_a_gguf_file_of_its_base() {
    let Some(python) = python(&["torch", "safetensors", "peft", "transformers"]) else { return };
    let place = place();
    ask(&python, &["adapters", text(&place.at("")), "plain,dora,embeddings,fused"]);
    for case in ["plain", "dora", "embeddings", "fused"] {
        let [base, adapter, merged] =
            ["base", "adapter", "merged"].map(|name| place.at(format!("{case}/{name}")));
        for (file, source) in [("base.gguf", &base), ("merged.gguf", &merged)] {
            let to = ["--to", "gguf", "--quant", "f32", "--force", "-o", file];
            place.run(&[&["convert", text(source)][..], &to].concat()).exits(0);
        }
        place.run(&["edit", "base.gguf", "--lora", text(&adapter), "-o", "out.gguf", "--force"]).exits(0);
        let largest = "import sys, torch; from gguf import GGUFReader as R; a, b = ({t.name: t.data for t in R(p).tensors} for p in sys.argv[1:]); assert set(a) == set(b); print(max(abs(a[n].astype('f8') - b[n]).max() for n in a))";
        let found = python.code(largest, &[place.at("out.gguf"), place.at("merged.gguf")]);
        assert!(found.trim().parse::<f64>().unwrap() < 1e-6, "{case}: {found}");
    }
}

#[test]
fn an_adapter_becomes_one_of_gguf() {
    let Some(python) = python(&["torch", "safetensors", "peft", "transformers", "gguf"]) else { return };
    let place = place();
    ask(&python, &["adapters", text(&place.at("")), "plain,embeddings,rslora,dora,saved"]);
    for case in ["plain", "embeddings"] {
        let [base, adapter] = ["base", "adapter"].map(|name| place.at(format!("{case}/{name}")));
        let args = ["edit", text(&adapter), "--adapter-of", text(&base), "-o", "adapter.gguf", "--force"];
        place.run(&args).exits(0).says(&["verified: "]).complains(&["as an adapter for ", "(llama)"]);
        let report = ask(&python, &["adapter_of", text(&place.at("adapter.gguf")), text(&adapter)]);
        assert_same(&report);
        let keys = &report["keys"];
        assert_eq!(keys["general.type"], "adapter");
        assert_eq!(keys["adapter.type"], "lora");
        assert_eq!(keys["general.architecture"], "llama");
        assert_eq!(keys["adapter.lora.alpha"], 6.0);
        // The same for a base that is a GGUF file.
        place
            .run(&["convert", text(&base), "--to", "gguf", "--quant", "f16", "--force", "-o", "base.gguf"])
            .exits(0);
        let args = ["edit", text(&adapter), "--adapter-of", "base.gguf", "-o", "adapter.gguf", "--force"];
        place.run(&args).exits(0);
        assert_same(&ask(&python, &["adapter_of", text(&place.at("adapter.gguf")), text(&adapter)]));
    }
    // llama.cpp has no adapter for an embedding that is the head too.
    ask(&python, &["adapters", text(&place.at("")), "tied"]);
    let [base, adapter] = ["base", "adapter"].map(|name| place.at(format!("tied/{name}")));
    let args = ["edit", text(&adapter), "--adapter-of", text(&base), "-o", "no.gguf"];
    place.run(&args).exits(2).complains(&["is its embedding", "merge it with --lora"]);
    // alpha / r is all that llama.cpp multiplies by, so what else there is of a scale goes into B: here the root of r.
    let rslora = |name: &str| place.at(format!("rslora/{name}"));
    let [base, adapter] = ["base", "adapter"].map(rslora);
    let args = ["edit", text(&adapter), "--adapter-of", text(&base), "-o", "root.gguf"];
    place.run(&args).exits(0);
    let twice = "import sys; from gguf import GGUFReader as R; from safetensors.numpy import load_file as l; g = {t.name: t.data for t in R(sys.argv[1]).tensors}; s = l(sys.argv[2]); p = 'base_model.model.model.layers.1.mlp.up_proj.lora_'; print(abs(g['blk.1.ffn_up.weight.lora_b'] - 2 * s[p + 'B.weight']).max(), abs(g['blk.1.ffn_up.weight.lora_a'] - s[p + 'A.weight']).max())";
    let tensors = rslora("adapter").join("adapter_model.safetensors");
    assert_eq!(python.code(twice, &[&place.at("root.gguf"), &tensors]).trim(), "0.0 0.0");
    for (case, why) in [("dora", "has a magnitude (DoRA)"), ("saved", "replaces `lm_head.weight` as a whole")]
    {
        let [base, adapter] = ["base", "adapter"].map(|name| place.at(format!("{case}/{name}")));
        let args = ["edit", text(&adapter), "--adapter-of", text(&base), "-o", "no.gguf"];
        place.run(&args).exits(2).complains(&[why, "merge it with --lora"]);
        let args = ["edit", text(&adapter), "--adapter-of", text(&base), "-o", "no.safetensors"];
        place.run(&args).exits(2).complains(&["written as GGUF"]);
    }
    assert!(!place.at("no.gguf").exists() && !place.at("no.safetensors").exists());
}

#[test]
fn tensors_are_renamed_kept_and_left_out() {
    let Some(python) = python(&["torch", "safetensors"]) else { return };
    let place = place();
    ask(&python, &["networks", text(&place.at("run")), "1"]);
    let step = place.at("run/step-00100.pt");
    place
        .run(&["edit", text(&step), "--rename", "bn.*=norm.*", "-o", "named.pt"])
        .exits(0)
        .complains(&["renamed 2 tensors, such as `model_state_dict.bn.running_mean` to `model_state_dict.norm.running_mean`"]);
    let report = ask(&python, &["renamed", text(&place.at("named.pt")), text(&step), "bn.", "norm."]);
    assert_same(&report);
    place
        .run(&["edit", text(&step), "--rename", r"/^(fc|tied)\./=net.module.$1.", "-o", "named.safetensors"])
        .exits(0);
    let listed = place.run(&["inspect", "named.safetensors", "--no-stats"]).exits(0);
    assert!(listed.out().contains("net.module.fc.weight"), "{}", listed.out());
    // One after another, on what the one before left; names beyond ASCII.
    let twice = ["--rename", "fc.*=層.*", "--rename", "層.{weight,bias}=ö.*"];
    place.run(&[&["edit", text(&step)][..], &twice, &["-o", "twice.pt"]].concat()).exits(0);
    assert_same(&ask(&python, &["renamed", text(&place.at("twice.pt")), text(&step), "fc.", "ö."]));

    place
        .run(&["edit", text(&step), "--drop", "bn.*", "--drop", "/^half$/", "-o", "less.safetensors"])
        .exits(0)
        .complains(&["left out 3 tensors (110 bytes), such as `model_state_dict.bn.running_mean`"]);
    let names =
        "import sys; from safetensors import safe_open; print(*sorted(safe_open(sys.argv[1], 'pt').keys()))";
    assert_eq!(
        python.code(names, &[place.at("less.safetensors")]).trim(),
        "double fc.bias fc.weight none positions turned"
    );
    place.run(&["edit", text(&step), "--keep", "fc.*", "--keep", "double", "-o", "kept.npz"]).exits(0);
    let names = "import sys, numpy; print(*sorted(numpy.load(sys.argv[1]).keys()))";
    assert_eq!(python.code(names, &[place.at("kept.npz")]).trim(), "double fc.bias fc.weight");
}

#[test]
fn optimizer_state_is_stripped_and_named() {
    let Some(python) = python(&["torch", "safetensors"]) else { return };
    let place = place();
    ask(&python, &["networks", text(&place.at("run")), "1"]);
    let step = place.at("run/step-00100.pt");
    place
        .run(&["edit", text(&step), "--strip-optimizer", "-o", "small.pt"])
        .exits(0)
        .complains(&["left out what only training needs: 2 tensors (24 bytes), `optimizer_state_dict`"]);
    assert_same(&ask(&python, &["compare", text(&place.at("small.pt")), text(&step)]));
    let keys = "import sys, torch; print(*torch.load(sys.argv[1], weights_only=False))";
    assert_eq!(python.code(keys, &[place.at("small.pt")]).trim(), "model_state_dict step");
    place
        .run(&["edit", "small.pt", "--strip-optimizer", "-o", "again.pt"])
        .exits(2)
        .complains(&["to leave out"]);
    // Other edits keep it where that is asked.
    place.run(&["edit", text(&step), "--drop", "bn.*", "--keep-optimizer", "-o", "whole.pt"]).exits(0);
    assert_eq!(python.code(keys, &[place.at("whole.pt")]).trim().split(' ').count(), 4);
    place.run(&["edit", text(&step), "--strip-optimizer", "--keep-optimizer", "-o", "x.pt"]).exits(2);
}

#[test]
fn the_output_has_the_format_of_its_name_or_else_of_the_source() {
    let place = place();
    let source = fixture(HEALTHY);
    for (output, format) in [
        ("a.pt", "torch"),
        ("b.safetensors", "safetensors"),
        ("c.gguf", "gguf"),
        ("d.npz", "npz"),
        ("e", "torch"),
    ] {
        place.run(&["edit", text(&source), "--strip-optimizer", "-o", output]).exits(0);
        let inspected = place.run(&["inspect", output, "--no-stats", "--format", "json"]).json();
        let found =
            inspected[0]["format"].as_str().or(inspected["format"].as_str()).unwrap_or_default().to_string();
        assert!(found.contains(format), "{output}: {found}");
    }
    place.run(&["convert", text(&source), "--to", "hf", "-o", "model"]).exits(0);
    place.run(&["edit", "model", "--rename", "lm_head.*=lm_head.*", "-o", "x"]).exits(2);
    place.run(&["edit", "model", "--drop", "*.q_norm.*", "-o", "other"]).exits(0).complains(&["incomplete"]);
    assert!(place.at("other/config.json").exists());
    place
        .run(&["edit", text(&source), "--keep", "*", "--to", "bf16", "-o", "half.safetensors"])
        .exits(0)
        .says(&["24 equal after rounding"]);
}
