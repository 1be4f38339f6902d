//! What `ckpt edit` refuses, and how it says so.

use std::path::Path;

use ckpt_kit::binary::{Program, text};
use ckpt_kit::fixtures::fixture;
use ckpt_kit::numbers::le;
use ckpt_kit::peers::json;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::Value;

use super::{ADAPTER, HEALTHY, place};

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
        .tensor("a.w", "I32", &[2], &le(&[1i32, 2]))
        .f32s("b.w", &[2], &[3.0, 4.0])
        .write(&place.at("whole.safetensors"));
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
        (&["edit", "small.safetensors", "--rename", "a.w="], "would be renamed to ``"),
        (
            &["edit", "small.safetensors", "--rename", "/w/="],
            "would be renamed to `a.`, which is not a valid name",
        ),
        (&["edit", source, "--rename", "norm.weight="], "`model_state_dict.`, which is not a valid name"),
        (
            &["edit", "whole.safetensors", "small.safetensors", "--average"],
            "`a.w` is float32 there and int32 in",
        ),
        (
            &["edit", "small.safetensors", "whole.safetensors", "--average"],
            "`a.w` is int32 there and float32 in",
        ),
        (
            &["edit", "small.safetensors", "--rename", "/(.)\\.w/=v.$1_x"],
            "refers to the group `1_x`, which its pattern does not have",
        ),
        (
            &["edit", "small.safetensors", "nan.safetensors", "--average", "--ema", "-1"],
            "--ema `-1`: must be from 0 to below 1",
        ),
        (
            &["edit", "small.safetensors", "nan.safetensors", "--average", "--weights", "1e308,1e308"],
            "with a sum that is a number",
        ),
        (&["edit", "small.safetensors", "--average"], "an average needs several checkpoints"),
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
            "its step is unknown",
        ),
        (
            &["edit", "small.safetensors", "nan.safetensors", "--average", "--last", "1"],
            "its step is unknown",
        ),
        (
            &["edit", text(&fixture("healthy-run")), "--average", "--last", "4"],
            "there are only 3 checkpoints",
        ),
        (&["edit", source, "--drop", "norm*", "--last", "4"], "--last only works with --average"),
        (
            &["edit", source, text(&other), "--average", "--keep-optimizer"],
            "an average cannot keep optimizer state",
        ),
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
        .complains(&["1 tensor of the result has values that are NaN or infinite, 1 in all, such as `a.w`"]);
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
    flipped[100_000] ^= 1;
    std::fs::write(&cut, &flipped).unwrap();
    place.run(&args).exits(3).complains(&["step-2.pt", "checksum mismatch"]);
    place
        .run(&["edit", "step-2.pt", "--drop", "norm.weight", "-o", "x.pt"])
        .exits(3)
        .complains(&["checksum mismatch"]);
    place.run(&[&args[..], &["--no-verify"]].concat()).exits(3).complains(&["checksum mismatch"]);
    assert_eq!(place.files(), ["step-1.pt", "step-2.pt", "step-3.pt"]);
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
    let (out, inp) = (64, 64);
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
        (
            adapter(&place, "pissa", set("init_lora_weights", "pissa_niter_4".into()), &own),
            "the weights that it is added to are not those of the base",
        ),
        (
            adapter(&place, "half-dora", set("use_dora", true.into()), &own),
            "has no lora_magnitude_vector, and adapter_config.json says use_dora",
        ),
        (adapter(&place, "kind", set("peft_type", "LOHA".into()), &own), "an adapter of the kind LOHA"),
        (
            adapter(&place, "tokens", set("trainable_token_indices", serde_json::json!([1])), &own),
            "has trainable_token_indices",
        ),
        (
            adapter(&place, "saved", set("modules_to_save", serde_json::json!(["score", "head"])), &own),
            "lists modules_to_save (score, head), and the adapter has none of them",
        ),
        (
            adapter(&place, "meant", set("target_modules", serde_json::json!(["q_proj"])), &own),
            "v_proj`, which target_modules in adapter_config.json does not mean",
        ),
        (
            adapter(
                &place,
                "parameters",
                set("target_parameters", serde_json::json!(["mlp.experts.down_proj"])),
                &own,
            ),
            "it changes `mlp.experts.down_proj`, which is not the weight of a module",
        ),
        (
            adapter(&place, "pattern", set("rank_pattern", serde_json::json!({"(": 2})), &own),
            "which is not a pattern",
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
                set("use_dora", true.into()),
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
            "is not part of a LoRA adapter",
        ),
        (
            adapter(
                &place,
                "magnitude",
                set("use_dora", true.into()),
                &pair(&[r, inp], &[out, r], 1.0)
                    .f32s(&format!("{module}.lora_magnitude_vector"), &[1], &[1.0])
                    .bytes(),
            ),
            "it is an adapter for another base",
        ),
        (
            adapter(
                &place,
                "plain-magnitude",
                keep,
                &pair(&[r, inp], &[out, r], 1.0)
                    .f32s(&format!("{module}.lora_magnitude_vector"), &[64], &[1.0; 64])
                    .bytes(),
            ),
            "has a lora_magnitude_vector, and adapter_config.json does not say use_dora",
        ),
        (
            adapter(&place, "no-kind", |c| drop(c.as_object_mut().unwrap().remove("peft_type")), &own),
            "has no peft_type",
        ),
        (
            adapter(&place, "lacking", keep, &pair(&[r, inp], &[out, r], 1.0).bytes()),
            "which target_modules in adapter_config.json means",
        ),
    ];
    for (path, why) in cases {
        let run = place.run(&["edit", text(&base), "--lora", &path, "-o", "x.pt"]).exits(2);
        assert!(run.err().contains(why), "{why:?}: {run}");
        assert!(!place.at("x.pt").exists());
    }
    // What overflows is told.
    let huge = adapter(&place, "huge", set("lora_alpha", 1e45.into()), &own);
    place
        .run(&["edit", text(&base), "--lora", &huge, "-o", "huge.pt"])
        .exits(0)
        .complains(&["values that are NaN or infinite"]);
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
        .complains(&["not an adapter of PEFT"]);
    place.run(&["edit", text(&base), "--lora", "nowhere", "-o", "x.pt"]).exits(3);
    assert!(!place.at("x.pt").exists());
    // Blocks are computed with only where another type is asked for.
    place
        .run(&["convert", text(&base), "--to", "gguf", "--quant", "q8_0", "--latent", "-o", "q8.gguf"])
        .exits(0);
    let own = fixture(ADAPTER);
    let args = ["edit", "q8.gguf", "--lora", text(&own), "-o", "x.gguf"];
    place
        .run(&args)
        .exits(2)
        .complains(&["is Q8_0, and what LoRA changes are floating-point numbers", "--quant q8_0"]);
    place.run(&[&args[..], &["--quant", "q8_0", "--latent"]].concat()).exits(0);
}

#[test]
fn an_adapter_says_for_which_model_it_was_made() {
    let place = place();
    let folder = ckpt_kit::fixtures::data("infer", "transformers").join("llama");
    let base = place.at("base");
    std::fs::create_dir(&base).unwrap();
    std::fs::copy(folder.join("model.safetensors"), base.join("model.safetensors")).unwrap();
    let mut config = json(&std::fs::read_to_string(folder.join("config.json")).unwrap());
    config["_name_or_path"] = "someone/llama-small".into();
    std::fs::write(base.join("config.json"), config.to_string()).unwrap();
    let checkpoint = ckpt_inspect::open(&base).unwrap();
    let queries = checkpoint.tensors.iter().filter(|t| t.name.ends_with("q_proj.weight"));
    let file = queries.fold(SafeTensors::new(), |file, tensor| {
        let module = format!("base_model.model.{}", tensor.name.strip_suffix(".weight").unwrap());
        let (out, inp) = (tensor.shape[0], tensor.shape[1]);
        file.f32s(&format!("{module}.lora_A.weight"), &[2, inp], &vec![0.01; 2 * inp]).f32s(
            &format!("{module}.lora_B.weight"),
            &[out, 2],
            &vec![0.01; 2 * out],
        )
    });
    let made = |name: &str, trained: &str, library: Option<&str>| {
        let change = |config: &mut Value| {
            config["target_modules"] = serde_json::json!(["q_proj"]);
            config["r"] = 2.into();
            config["base_model_name_or_path"] = trained.into();
            if let Some(library) = library {
                config["auto_mapping"] =
                    serde_json::json!({"base_model_class": "AnyForCausalLM", "parent_library": library});
            }
        };
        adapter(&place, name, change, &file.bytes())
    };
    let merge = |adapter: &str, out: &str| {
        place.run(&["edit", "base", "--lora", adapter, "-o", &format!("{out}-merged")])
    };
    let own = Some("transformers.models.llama.modeling_llama");
    let run = merge(&made("same", "/models/llama-small/", own), "same").exits(0);
    assert!(!run.err().contains("was trained for"), "{run}");
    merge(&made("named", "other/llama-tiny", None), "named")
        .exits(0)
        .complains(&["was trained for other/llama-tiny, and its base calls itself someone/llama-small"]);
    let other = Some("transformers.models.qwen2.modeling_qwen2");
    merge(&made("class", "x", other), "class")
        .exits(2)
        .complains(&["an adapter for another base: it was made for a class of qwen2"]);
}
