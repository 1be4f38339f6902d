//! `ckpt edit` as a user runs it, each edit against the same one done in PyTorch or PEFT.

use std::path::Path;

use ckpt_kit::binary::{Program, text};
use ckpt_kit::fixtures::{fixture, root};
use ckpt_kit::numbers::le;
use ckpt_kit::peers::{self, Python, json};
use ckpt_kit::safetensors::SafeTensors;
use serde_json::Value;

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
    let printed = python.script(".", "edit.py", arguments);
    json(printed.lines().last().unwrap_or_default())
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
        let compare = |out: &str, weights: &str, from: usize| {
            let sources: Vec<&str> = all[from..].iter().map(|path| text(path)).collect();
            let out = place.at(out);
            let report = ask(&python, &[&["average", text(&out), weights][..], &sources].concat());
            assert_nearest(&report);
            match dtype {
                // To 16 bits PyTorch rounds twice.
                "bfloat16" => assert!(report["bits"].as_u64() < Some(9), "{report}"),
                _ => assert_close(&report, 1e-3),
            }
        };
        place
            .run(&["edit", "run", "--average", "-o", "all.pt"])
            .exits(0)
            .says(&["5 checkpoints → all.pt", "verified: 10 tensors, 10 bit-equal"])
            .complains(&[
                "note: averaged 8 of 5 checkpoints, steps 100 to 500",
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
        let swa: Vec<&str> = all.iter().map(|path| text(path)).collect();
        let report = ask(&python, &[&["swa", text(&place.at("all.pt"))][..], &swa].concat());
        assert_close(&report, if dtype == "float32" { 1e-6 } else { 0.05 });
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
    ];
    ask(&python, &["adapters", text(&place.at("f32")), &cases.join(",")]);
    for case in cases {
        let [base, adapter, merged] =
            ["base", "adapter", "merged"].map(|name| place.at(format!("f32/{case}/{name}")));
        let out = place.at(format!("{case}-out"));
        place
            .run(&["edit", text(&base), "--lora", text(&adapter), "-o", text(&out)])
            .exits(0)
            .says(&["verified: ", "bit-equal"])
            .complains(&["note: merged ", if case.contains("dora") { "DoRA" } else { "LoRA" }]);
        assert_close(&ask(&python, &["compare", text(&out), text(&merged)]), 1e-6);
        // What is a folder stays one that transformers loads.
        assert!(out.join("config.json").exists(), "{case}");
    }
    // In bf16, W + s B A is rounded once, and never further from it than what PEFT makes.
    ask(&python, &["adapters", text(&place.at("bf16")), "plain", "bfloat16"]);
    let [base, adapter, merged] =
        ["base", "adapter", "merged"].map(|name| place.at(format!("bf16/plain/{name}")));
    place.run(&["edit", text(&base), "--lora", text(&adapter), "-o", "half.safetensors"]).exits(0);
    let half = place.at("half.safetensors");
    let report = ask(&python, &["exactly", text(&half), text(&base), text(&adapter), text(&merged)]);
    assert_nearest(&report);
}

#[test]
fn an_adapter_merges_into_a_gguf_file_of_its_base() {
    let Some(python) = python(&["torch", "safetensors", "peft", "transformers"]) else { return };
    let place = place();
    ask(&python, &["adapters", text(&place.at("")), "plain,dora,embeddings"]);
    for case in ["plain", "dora", "embeddings"] {
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
    // alpha / r is all that llama.cpp multiplies by, so what else there is of a scale goes into B: here the root of r.
    let rslora = |name: &str| place.at(format!("rslora/{name}"));
    let args = ["edit", text(&rslora("adapter")), "--adapter-of", text(&rslora("base")), "-o", "root.gguf"];
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

#[test]
fn what_cannot_be_done_as_asked_is_refused_by_name() {
    let place = place();
    let source = fixture(HEALTHY);
    let source = text(&source);
    let other = fixture("python/model.pt");
    let small = SafeTensors::new().f32s("a.w", &[2], &[1.0, 2.0]).f32s("b.w", &[2], &[3.0, 4.0]);
    small.write(&place.at("small.safetensors"));
    small.clone().f32s("c.w", &[1], &[5.0]).write(&place.at("more.safetensors"));
    SafeTensors::new()
        .f32s("a.w", &[3], &[1.0, 2.0, 3.0])
        .f32s("b.w", &[2], &[3.0, 4.0])
        .write(&place.at("wide.safetensors"));
    SafeTensors::new()
        .f32s("a.w", &[2], &[1.0, f32::NAN])
        .f32s("b.w", &[2], &[3.0, 4.0])
        .write(&place.at("nan.safetensors"));
    SafeTensors::new()
        .tensor("a.w", "F8_E4M3", &[2], &[1, 2])
        .f32s("b.w", &[2], &[3.0, 4.0])
        .write(&place.at("f8.safetensors"));
    for (args, why) in [
        (&["edit", source, "-o", "x.pt"][..], "there is nothing to edit; give --average, --lora"),
        (&["edit", source, "--drop", "nothing.*"], "no tensor's name matches --drop 'nothing.*'"),
        (&["edit", source, "--keep", "/nothing/"], "no tensor's name matches --keep '/nothing/'"),
        (&["edit", source, "--rename", "nothing=x"], "no tensor's name matches --rename 'nothing'"),
        (&["edit", source, "--drop", "*"], "--drop would leave none"),
        (&["edit", source, "--drop", "[a"], "`[a`: a `[` has no `]`"),
        (&["edit", source, "--drop", "/(/"], "`/(/`: regex parse error"),
        (&["edit", source, "--rename", "layers"], "`layers` is not FROM=TO"),
        (&["edit", source, "--rename", "norm.*=*.*"], "has 2 `*` on its right, and 1 on its left"),
        (&["edit", "small.safetensors", "--rename", "?.w=w"], "`a.w` and `b.w` would both be named `w`"),
        (&["edit", "small.safetensors", "--rename", "a.*=b.*"], "`a.w` and `b.w` would both be named `b.w`"),
        (&["edit", "small.safetensors", "--rename", "/.*/="], "would be renamed to ``"),
        (&["edit", "small.safetensors", "--average"], "an average is made of several"),
        (&["edit", "small.safetensors", "wide.safetensors", "--drop", "a.w"], "2 checkpoints were given"),
        (
            &["edit", "small.safetensors", "more.safetensors", "--average"],
            "small.safetensors: it has no `c.w`, which more.safetensors has",
        ),
        (
            &["edit", "more.safetensors", "small.safetensors", "--average"],
            "more.safetensors: it has `c.w`, which small.safetensors has not",
        ),
        (
            &["edit", "wide.safetensors", "small.safetensors", "--average"],
            "its `a.w` has shape [3], and that of small.safetensors [2]",
        ),
        (&["edit", source, text(&other), "--average"], "has shape"),
        (
            &["edit", "f8.safetensors", "small.safetensors", "--average"],
            "f8.safetensors: `a.w` is float8_e4m3fn",
        ),
        (
            &["edit", "small.safetensors", "nan.safetensors", "--average", "--weights", "1"],
            "--weights has 1 numbers, and there are 2 checkpoints",
        ),
        (
            &["edit", "small.safetensors", "nan.safetensors", "--average", "--weights", "1,-1"],
            "must be numbers of 0 or more",
        ),
        (
            &["edit", "small.safetensors", "nan.safetensors", "--average", "--weights", "1,x"],
            "must be numbers of 0 or more",
        ),
        (
            &["edit", "small.safetensors", "nan.safetensors", "--average", "--ema", "1"],
            "must be from 0 to below 1",
        ),
        (
            &["edit", "small.safetensors", "nan.safetensors", "--average", "--ema", "0.5"],
            "nothing says of which step it is",
        ),
        (
            &["edit", "small.safetensors", "nan.safetensors", "--average", "--last", "1"],
            "nothing says of which step it is",
        ),
        (
            &["edit", text(&fixture("healthy-run")), "--average", "--last", "4"],
            "there are only 3 checkpoints",
        ),
        (&["edit", source, "--drop", "norm*", "--last", "4"], "--last only works with --average"),
        (&["edit", source, text(&other), "--average", "--keep-optimizer"], "an average has none to keep"),
        (&["edit", source, "--weights", "1,2", "--drop", "x"], "--average"),
    ] {
        let out = if args.contains(&"-o") { &[][..] } else { &["-o", "x.safetensors"] };
        let run = place.run(&[args, out].concat()).exits(2);
        assert!(run.err().contains(why), "{why:?}: {run}");
        assert!(!place.at("x.safetensors").exists() && !place.at("x.pt").exists(), "{args:?}");
    }
    // What is not finite is averaged, and told.
    place
        .run(&["edit", "small.safetensors", "nan.safetensors", "--average", "-o", "mean.safetensors"])
        .exits(0)
        .complains(&["1 tensor of the result have values that are NaN or infinite, 1 in all, such as `a.w`"]);
    place
        .run(&[
            "edit",
            "f8.safetensors",
            "small.safetensors",
            "--average",
            "--to",
            "bf16",
            "-o",
            "half.safetensors",
        ])
        .exits(0);
    // No input is replaced, and no output unasked.
    let args = ["edit", "small.safetensors", "nan.safetensors", "--average", "-o"];
    place.run(&[&args[..], &["mean.safetensors"]].concat()).exits(4);
    place.run(&[&args[..], &["small.safetensors", "--force"]].concat()).exits(2).complains(&["is an input"]);
    assert!(std::fs::read(place.at("small.safetensors")).unwrap() == small.bytes());
}

#[test]
fn damaged_sources_are_refused_whole_and_late() {
    let place = place();
    let good = std::fs::read(fixture(HEALTHY)).unwrap();
    place.file("step-1.pt", &good);
    place.file("step-3.pt", &good);
    let cut = place.file("step-2.pt", &good[..good.len() / 2]);
    let args = ["edit", "step-1.pt", "step-2.pt", "step-3.pt", "--average", "-o", "x.pt"];
    place.run(&args).exits(3).complains(&["step-2.pt"]);
    // A bit of a tensor, which its checksum tells while it is averaged.
    let mut flipped = good.clone();
    let at = flipped.len() / 2;
    flipped[at] ^= 1;
    std::fs::write(&cut, &flipped).unwrap();
    place.run(&args).exits(3).complains(&["step-2.pt", "checksum mismatch"]);
    place
        .run(&["edit", "step-2.pt", "--drop", "norm.weight", "-o", "x.pt"])
        .exits(3)
        .complains(&["checksum mismatch"]);
    assert_eq!(place.files(), ["step-1.pt", "step-2.pt", "step-3.pt"]);
    place.run(&[&args[..], &["--no-verify"]].concat()).exits(0).says(&["not verified"]);
}

/// The files of an adapter for the fixture: its configuration with `change` made, and its tensors.
fn adapter(place: &Program, name: &str, change: impl FnOnce(&mut Value), tensors: &[u8]) -> String {
    let folder = place.at(name);
    std::fs::create_dir(&folder).unwrap();
    let config = std::fs::read_to_string(fixture(ADAPTER).join("adapter_config.json")).unwrap();
    let mut config = json(&config);
    change(&mut config);
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), tensors).unwrap();
    text(&folder).to_string()
}

#[test]
fn hostile_adapters_are_refused_by_name() {
    let place = place();
    let base = fixture(HEALTHY);
    let own = std::fs::read(fixture(ADAPTER).join("adapter_model.safetensors")).unwrap();
    place.run(&["edit", text(&base), "--lora", text(&fixture(ADAPTER)), "-o", "merged.pt"]).exits(0);
    let module = "base_model.model.layers.0.self_attn.q_proj";
    let pair = |a: &[usize], b: &[usize], value: f32| {
        let filled = |shape: &[usize]| vec![value; shape.iter().product()];
        SafeTensors::new().f32s(&format!("{module}.lora_A.weight"), a, &filled(a)).f32s(
            &format!("{module}.lora_B.weight"),
            b,
            &filled(b),
        )
    };
    let rows = |name: &str| {
        let inspected =
            place.run(&["inspect", text(&base), "--tensor", name, "--format", "json"]).exits(0).json();
        inspected["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_u64().unwrap() as usize)
            .collect::<Vec<_>>()
    };
    let shape = rows("layers.0.self_attn.q_proj.weight");
    let (out, inp) = (shape[0], shape[1]);
    let set = |key: &'static str, value: Value| move |config: &mut Value| config[key] = value;
    let keep = |_: &mut Value| ();
    let r = 2;
    let cases: Vec<(String, &str)> = vec![
        (
            adapter(&place, "rank", set("r", 0.into()), &own),
            "is 0 by adapter_config.json, and must be 1 or more",
        ),
        (
            adapter(&place, "no-rank", |c| drop(c.as_object_mut().unwrap().remove("r")), &own),
            "has no r that is a number",
        ),
        (
            adapter(&place, "no-alpha", |c| drop(c.as_object_mut().unwrap().remove("lora_alpha")), &own),
            "has no lora_alpha",
        ),
        (adapter(&place, "ranks", set("r", 3.into()), &own), "which is not of the rank 3"),
        (adapter(&place, "kind", set("peft_type", "LOHA".into()), &own), "an adapter of the kind LOHA"),
        (
            adapter(&place, "tokens", set("trainable_token_indices", serde_json::json!([1])), &own),
            "has trainable_token_indices",
        ),
        (
            adapter(&place, "pattern", set("rank_pattern", serde_json::json!({"(": 2})), &own),
            "which is no pattern",
        ),
        (adapter(&place, "nan", keep, &pair(&[r, inp], &[out, r], f32::NAN).bytes()), "has NaN at 0"),
        (
            adapter(&place, "shape", keep, &pair(&[r, inp + 1], &[out, r], 1.0).bytes()),
            "it is an adapter for another base",
        ),
        (
            adapter(
                &place,
                "half",
                keep,
                &SafeTensors::new()
                    .f32s(&format!("{module}.lora_A.weight"), &[r, inp], &vec![1.0; r * inp])
                    .bytes(),
            ),
            "has no lora_B",
        ),
        (
            adapter(
                &place,
                "base",
                keep,
                &SafeTensors::new()
                    .f32s("base_model.model.h.0.w.lora_A.weight", &[r, 1], &[1.0; 2])
                    .f32s("base_model.model.h.0.w.lora_B.weight", &[1, r], &[1.0; 2])
                    .bytes(),
            ),
            "has no `h.0.w.weight`",
        ),
        (
            adapter(
                &place,
                "type",
                keep,
                &pair(&[r, inp], &[out, r], 1.0)
                    .tensor(&format!("{module}.lora_magnitude_vector"), "I32", &[1], &le(&[1i32]))
                    .bytes(),
            ),
            "an adapter's tensors are floating-point numbers",
        ),
        (
            adapter(
                &place,
                "unknown",
                keep,
                &pair(&[r, inp], &[out, r], 1.0).f32s(&format!("{module}.lora_E"), &[1], &[1.0]).bytes(),
            ),
            "is no part of a LoRA adapter",
        ),
        (
            adapter(
                &place,
                "magnitude",
                keep,
                &pair(&[r, inp], &[out, r], 1.0)
                    .f32s(&format!("{module}.lora_magnitude_vector"), &[1], &[1.0])
                    .bytes(),
            ),
            "it is an adapter for another base",
        ),
    ];
    for (path, why) in cases {
        let run = place.run(&["edit", text(&base), "--lora", &path, "-o", "x.pt"]).exits(2);
        assert!(run.err().contains(why), "{why:?}: {run}");
        assert!(!place.at("x.pt").exists());
    }
    let cut = adapter(&place, "cut", keep, &own[..own.len() - 5]);
    place.run(&["edit", text(&base), "--lora", &cut, "-o", "x.pt"]).exits(3);
    std::fs::write(Path::new(&cut).join("adapter_config.json"), "{").unwrap();
    place
        .run(&["edit", text(&base), "--lora", &cut, "-o", "x.pt"])
        .exits(3)
        .complains(&["is not valid JSON"]);
    std::fs::remove_file(Path::new(&cut).join("adapter_config.json")).unwrap();
    place
        .run(&["edit", text(&base), "--lora", &cut, "-o", "x.pt"])
        .exits(3)
        .complains(&["adapter_config.json"]);
    place
        .run(&["edit", text(&base), "--lora", text(&fixture("healthy-run")), "-o", "x.pt"])
        .exits(2)
        .complains(&["no adapter of PEFT"]);
    place.run(&["edit", text(&base), "--lora", "nowhere", "-o", "x.pt"]).exits(3);
    assert!(!place.at("x.pt").exists());
    // Blocks are computed with only where another type is asked for.
    place
        .run(&["convert", text(&base), "--to", "gguf", "--quant", "q8_0", "--latent", "-o", "q8.gguf"])
        .exits(0);
    let args = ["edit", "q8.gguf", "--lora", text(&fixture(ADAPTER)), "-o", "x.gguf"];
    place
        .run(&args)
        .exits(2)
        .complains(&["is q8_0, and what LoRA changes are floating-point numbers", "--quant q8_0"]);
    place.run(&[&args[..], &["--quant", "q8_0", "--latent"]].concat()).exits(0);
}
