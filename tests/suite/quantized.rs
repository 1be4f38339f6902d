//! Quantized models on the command line: shown as their weights, refused by the gate where these are dead, converted or
//! kept.

use ckpt_kit::binary::Program;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;

use crate::program;

const LAYER: &str = "model.layers.0.mlp.up_proj";

/// A model folder with one GPTQ matrix, whose codes are `codes`, and an embedding.
fn model(program: &Program, name: &str, codes: &[u8]) -> String {
    let folder = program.at(name);
    std::fs::create_dir(&folder).unwrap();
    let mut random = Random::new(7);
    let values: Vec<f32> = (0..512).map(|_| (random.below(1 << 16) as f32 / 65536.0 - 0.5) * 0.07).collect();
    SafeTensors::new()
        .metadata(serde_json::json!({"format": "pt"}))
        .f32s("model.embed_tokens.weight", &[8, 64], &values)
        .tensor(&format!("{LAYER}.qweight"), "I32", &[16, 64], codes)
        .tensor(&format!("{LAYER}.qzeros"), "I32", &[2, 8], &[0x77; 64])
        .f32s(&format!("{LAYER}.scales"), &[2, 64], &[0.01; 128])
        .write(&folder.join("model.safetensors"));
    let config = r#"{"architectures": ["OtherForCausalLM"], "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "gptq"}}"#;
    std::fs::write(folder.join("config.json"), config).unwrap();
    name.to_string()
}

fn noise() -> Vec<u8> {
    let mut random = Random::new(2);
    (0..4096).map(|_| random.bits() as u8).collect()
}

#[test]
fn a_quantized_model_is_shown_as_its_weights_and_as_it_is_stored() {
    let program = program().in_its_folder();
    let model = model(&program, "model", &noise());
    let shown = program.run(&["inspect", &model]).exits(0);
    shown.says(&[
        "gptq 4-bit g64, 1 weight; 1 matrix is not: model.embed_tokens.weight",
        "[64, 128]",
        "healthy",
    ]);
    #[cfg(feature = "browse")]
    {
        let keys = "/up_proj enter";
        let draw = ["browse", &model, "--size", "120x40", "--keys", keys, "--snapshot", "detail.svg"];
        program.run(&draw).exits(0);
        let drawn = std::fs::read_to_string(program.at("detail.svg")).unwrap();
        for said in ["stored as", "up_proj.qweight", "codes"] {
            assert!(drawn.contains(said), "{said}");
        }
    }
    let stored = program.run(&["inspect", &model, "--stored"]).exits(0);
    stored.says(&["up_proj.qweight", "up_proj.qzeros", "up_proj.scales"]);
    let one = program.run(&["inspect", &model, "--tensor", &format!("{LAYER}.weight")]).exits(0);
    one.says(&[
        "stored as",
        "up_proj.qweight: int32 [16, 64], codes",
        "up_proj.scales: float32 [2, 64], scale",
    ]);
    let json = program.run(&["inspect", &model, "--format", "json"]).exits(0).json();
    assert_eq!(json["quantization"]["left"][0], "model.embed_tokens.weight");
    assert_eq!(json["quantization"]["kinds"][0][0], "gptq 4-bit g64");
    let tensors = json["tensors"].as_array().unwrap();
    let weight = tensors.iter().find(|t| t["name"] == format!("{LAYER}.weight")).unwrap();
    assert_eq!(weight["dtype"], "gptq 4-bit g64");
    assert_eq!(weight["quantized"]["parts"][0]["role"], "codes");
    assert_eq!(weight["quantized"]["scales"]["count"], 128);
}

#[test]
fn the_gate_refuses_codes_that_stand_for_zeros() {
    let program = program().in_its_folder();
    let (alive, dead) = (model(&program, "alive", &noise()), model(&program, "dead", &[0x88; 4096]));
    program.run(&["gate", &alive]).exits(0);
    program.run(&["gate", &dead]).exits(1).says(&["up_proj.weight"]);
}

#[test]
fn four_bit_floats_are_kept_in_gguf() {
    let program = program().in_its_folder();
    SafeTensors::new()
        .tensor(&format!("{LAYER}.weight"), "U8", &[64, 64], &noise())
        .tensor(&format!("{LAYER}.weight_scale"), "F8_E4M3", &[64, 8], &[0x38; 512])
        .f32s(&format!("{LAYER}.weight_scale_2"), &[], &[0.01])
        .write(&program.at("x.safetensors"));
    let kept = program.run(&["convert", "x.safetensors", "--to", "gguf", "--quant", "keep", "-o", "x.gguf"]);
    kept.exits(0).says(&["verified: 1 tensor, 1 with the same codes and scales"]);
    program.run(&["inspect", "x.gguf"]).exits(0).says(&["NVFP4"]);
    program.run(&["verify", "x.safetensors", "x.gguf"]).exits(0).says(&["1 with the same codes and scales"]);
}

#[test]
fn a_quantized_model_is_dequantized_or_kept() {
    let program = program().in_its_folder();
    let model = model(&program, "model", &noise());
    let config = |folder: &str| std::fs::read_to_string(program.at(folder).join("config.json")).unwrap();
    program.run(&["convert", &model, "--to", "hf", "-o", "plain"]).exits(0).says(&["verified: 2 tensors"]);
    assert!(!config("plain").contains("quantization_config"));
    program.run(&["verify", &model, "plain"]).exits(0);
    program.run(&["convert", &model, "--to", "hf", "--quant", "keep", "-o", "kept"]).exits(0);
    assert!(config("kept").contains("quantization_config"));
    program.run(&["diff", &model, "kept"]).exits(0);
    program.run(&["convert", &model, "--to", "bf16", "--quant", "keep", "-o", "x.pt"]).exits(2);
    program
        .run(&["convert", &model, "--to", "safetensors", "--quant", "q8_0", "-o", "x.safetensors"])
        .exits(2);
    program
        .run(&["convert", &model, "--to", "gguf", "--quant", "keep", "--embed", "f16", "-o", "x.gguf"])
        .exits(2);
    let refused =
        program.run(&["convert", &model, "--to", "gguf", "--quant", "keep", "-o", "x.gguf"]).exits(2);
    refused.complains(&["GGUF has no type that holds gptq 4-bit g64", "--quant q8_0"]);
    let refused =
        program.run(&["convert", &model, "--to", "safetensors", "--quant", "keep", "-o", "y"]).exits(2);
    refused.complains(&["its quantization settings (gptq) would be lost", "--to hf"]);
    // What was made of it is not it.
    program.run(&["convert", &model, "--to", "fp32", "-o", "x.safetensors"]).exits(0);
    let lost = program.at("lost");
    std::fs::create_dir(&lost).unwrap();
    SafeTensors::new()
        .tensor(&format!("{LAYER}.qweight"), "I32", &[16, 64], &noise())
        .write(&lost.join("model.safetensors"));
    let refused = program.run(&["convert", "lost", "--to", "fp32", "-o", "y.safetensors"]).exits(2);
    refused.complains(&["up_proj.qweight", "codes without their scale"]);
    assert!(!program.at("y.safetensors").exists());
}

/// A model of two layers whose matrices are these tensors each, an embedding and a head, with the config.json.
fn layers(program: &Program, name: &str, config: &str, matrix: &[(&str, &str, &[u64], usize)]) -> String {
    let folder = program.at(name);
    std::fs::create_dir(&folder).unwrap();
    let mut random = Random::new(3);
    let mut values =
        || (0..2048).map(|_| (random.below(1 << 16) as f32 / 65536.0 - 0.5) * 0.07).collect::<Vec<f32>>();
    let mut file = SafeTensors::new().f32s("model.embed_tokens.weight", &[64, 32], &values()).f32s(
        "lm_head.weight",
        &[64, 32],
        &values(),
    );
    for layer in 0..2 {
        for (field, dtype, shape, bytes) in matrix {
            let shape: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
            let name = format!("model.layers.{layer}.mlp.up_proj.{field}");
            // Numbers of about 0.01.
            let sound: Vec<u8> = (0..*bytes / 2).flat_map(|i| [(i * 7) as u8, 0x3c]).collect();
            let data = if *dtype == "BF16" { &sound } else { &noise()[..*bytes] };
            file = file.tensor(&name, dtype, &shape, data);
        }
    }
    file.write(&folder.join("model.safetensors"));
    std::fs::write(folder.join("config.json"), config).unwrap();
    name.to_string()
}

#[test]
fn a_model_whose_layers_are_not_read_is_not_healthy() {
    let program = program().in_its_folder();
    let hqq: &[(&str, &str, &[u64], usize)] =
        &[("W_q", "U8", &[32, 16], 512), ("scale", "BF16", &[32, 1], 64), ("zero", "BF16", &[32, 1], 64)];
    let other: &[(&str, &str, &[u64], usize)] = &[("packed", "I32", &[32, 4], 512)];
    let sparse: &[(&str, &str, &[u64], usize)] =
        &[("compressed", "U8", &[512], 512), ("bitmask", "U8", &[32, 4], 128), ("shape", "I64", &[2], 16)];
    let method = |name: &str| format!(r#"{{"quantization_config": {{"quant_method": "{name}"}}}}"#);
    for (name, config, tensors, what) in [
        ("hqq", method("hqq"), hqq, "HQQ"),
        ("hqq-unsaid", "{}".to_string(), hqq, "HQQ"),
        ("other", method("nobodys"), other, "nobodys"),
        ("sparse", method("compressed-tensors"), sparse, "compressed-tensors' sparse-bitmask"),
    ] {
        let model = layers(&program, name, &config, tensors);
        let judged = format!("judged 2 of 4 matrices; 2 not read: {what}");
        let why = format!("none of the matrices of its layers was judged (2 not read: {what})");
        let gate = program.run(&["gate", &model]).exits(1);
        assert!(!gate.out().contains("  healthy, "), "{}", gate.out());
        gate.says(&["nothing-judged", &judged, &why, "not-measured"]);
        let shown = program.run(&["inspect", &model]).exits(0);
        shown.says(&["not judged", &why, &format!("{what}, which is not read")]);
        let json = program.run(&["inspect", &model, "--format", "json"]).exits(0).json();
        assert_eq!(
            (&json["verdict"], &json["coverage"]["layers_unjudged"]),
            (&serde_json::Value::Null, &true.into())
        );
        assert_eq!(json["coverage"]["not_judged"][0]["reason"], "not-read");
        assert_eq!(json["quantization"]["unread"], what);
        let json = program.run(&["gate", &model, "--format", "json"]).exits(1).json();
        assert_eq!(json["checkpoints"][0]["verdict"], serde_json::Value::Null);
        program.run(&["report", &model, "--format", "json", "-o", &format!("{name}.json")]).exits(0);
        let report = std::fs::read_to_string(program.at(format!("{name}.json"))).unwrap();
        assert!(report.contains("None of the matrices of its layers could be judged"), "{report}");
    }
    // Who looks at the rest alone says so.
    let rest = program.run(&["gate", "hqq", "--ignore", "*.W_q"]).exits(0);
    rest.says(&["2 of 2 tensors healthy"]);
    // Where some layers are read, those are judged, and the others told.
    let dense = program.at("hqq").join("model.safetensors");
    let mut file = SafeTensors::new();
    for layer in 0..2 {
        let name = format!("model.layers.{layer}.mlp.up_proj.W_q");
        file = file.tensor(&name, "U8", &[32, 16], &noise()[..512]).f32s(
            &format!("model.layers.{layer}.mlp.up_proj.scale"),
            &[32, 1],
            &[0.1; 32],
        );
    }
    let mut random = Random::new(5);
    let values: Vec<f32> = (0..1024).map(|_| (random.below(1 << 16) as f32 / 65536.0 - 0.5) * 0.3).collect();
    file.f32s("model.layers.0.mlp.down_proj.weight", &[32, 32], &values).write(&dense);
    let some = program.run(&["gate", "hqq"]).exits(0);
    some.says(&["not-measured", "healthy", "judged 1 of 3 matrices; 2 not read: HQQ"]);
}
