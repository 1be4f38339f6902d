//! What is written of a quantized model is what its class loads: tensors in its order and under its names, and a
//! configuration that says nothing more of codes.

use std::path::Path;

use ckpt_convert::{Control, Error, Options, Plan, Report, Result, Target, verify, verify_written, write};
use ckpt_inspect::{OpenOptions, open, open_with};
use ckpt_kit::peers;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::{Value, json};

fn noise(n: usize) -> Vec<u8> {
    let mut random = Random::new(11);
    (0..n).map(|_| random.bits() as u8).collect()
}

/// A folder with these tensors and this configuration.
fn folder(tensors: &SafeTensors, config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tensors.write(&folder.path().join("model.safetensors"));
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn converted(from: &Path, to: &Path, options: &Options) -> Result<Report> {
    let mut open = OpenOptions::default();
    open.stored = options.keep_quantized;
    let source = open_with(from, &open)?;
    let mut plan = Plan::new(&source, options)?;
    write(&mut plan, options, to, Control::new(&|_| (), &Default::default()))?;
    verify_written(&plan, to)
}

fn hf() -> Options {
    Options::new(Target::Hf { packed: false })
}

fn config_of(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn experts_of_gpt_oss_are_written_with_their_inputs_first() {
    let name = "model.layers.0.mlp.experts.gate_up_proj";
    let (experts, rows, cols) = (3, 96, 64);
    let file = SafeTensors::new()
        .tensor(&format!("{name}_blocks"), "U8", &[experts, rows, 2, 16], &noise(experts * rows * 32))
        .tensor(&format!("{name}_scales"), "U8", &[experts, rows, 2], &vec![120; experts * rows * 2]);
    let config = json!({
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss",
        "quantization_config": {"quant_method": "mxfp4"},
    });
    let from = folder(&file, &config);
    let source = open(from.path()).unwrap();
    let tensor = source.tensor(name).unwrap();
    assert_eq!(tensor.shape, [experts, rows, cols]);
    let values = source.values(tensor).unwrap();
    let place = |e: usize, row: usize, col: usize| (e * rows + row) * cols + col;
    let made = tempfile::tempdir().unwrap();
    for (target, to) in [
        (Target::Hf { packed: false }, "hf"),
        (Target::SafeTensors, "x.safetensors"),
        (Target::Torch, "x.pt"),
        (Target::Npz, "x.npz"),
    ] {
        let to = made.path().join(to);
        assert!(converted(from.path(), &to, &Options::new(target)).unwrap().agrees(), "{target:?}");
        let copy = open(&to).unwrap();
        let written = copy.tensors.iter().find(|t| t.name.ends_with(name)).unwrap();
        assert_eq!(written.shape, [experts, cols, rows], "{target:?}");
        let theirs = copy.values(written).unwrap();
        for (at, x) in theirs.iter().enumerate() {
            let (e, col, row) = (at / (rows * cols), at / rows % cols, at % rows);
            assert_eq!(*x, values[place(e, row, col)], "{target:?} at {at}");
        }
        // From anywhere on, as it is read piece by piece.
        let elements = source.elements(tensor).unwrap().with_transposed(rows, cols);
        let mut random = Random::new(3);
        for _ in 0..60 {
            let start = random.below(theirs.len());
            let mut some = vec![0.0; 1 + random.below((theirs.len() - start).min(900))];
            elements.read_f32(start, &mut some);
            assert_eq!(some, theirs[start..start + some.len()]);
        }
        assert!(verify(&source, &copy).unwrap().agrees(), "{target:?}");
        assert!(verify(&copy, &source).unwrap().agrees(), "{target:?}");
    }
    assert!(config_of(&made.path().join("hf")).get("quantization_config").is_none());
}

#[test]
fn transformers_computes_the_same_of_gpt_oss_dequantized() {
    let Some(python) = peers::python(&["torch", "transformers", "safetensors"]) else { return };
    let place = tempfile::tempdir().unwrap();
    let [made, copy] = ["made", "copy"].map(|name| place.path().join(name));
    python.script("convert", "gpt_oss.py", &[Path::new("make"), &made]);
    assert!(converted(&made, &copy, &hf()).unwrap().agrees());
    let said = python.script("convert", "gpt_oss.py", &[Path::new("compare"), &made, &copy]);
    assert!(said.contains("the same logits"), "{said}");
}

#[test]
fn a_part_of_the_model_says_nothing_more_of_quantization() {
    let name = "language_model.model.layers.0.mlp.up_proj.weight";
    let codes: Vec<u8> = noise(64 * 128).iter().map(|byte| byte & 0x80 | (byte & 0x7f).min(0x6f)).collect();
    let file = SafeTensors::new().tensor(name, "F8_E4M3", &[64, 128], &codes).f32s(
        &format!("{name}_scale_inv"),
        &[1, 1],
        &[1e-4],
    );
    let fp8 = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    let config = json!({
        "architectures": ["KimiK25ForConditionalGeneration"], "model_type": "kimi_k25",
        "text_config": {"hidden_size": 128, "quantization_config": fp8},
        "thinker_config": {"text_config": {"quantization_config": fp8, "vocab_size": 7}},
    });
    let from = folder(&file, &config);
    let to = from.path().join("hf");
    assert!(converted(from.path(), &to, &hf()).unwrap().agrees());
    let written = config_of(&to);
    assert_eq!(written["text_config"], json!({"hidden_size": 128}));
    assert_eq!(written["thinker_config"], json!({"text_config": {"vocab_size": 7}}));
    // Kept, it says what it said.
    let to = from.path().join("kept");
    assert!(converted(from.path(), &to, &hf().with(|o| o.keep_quantized = true)).unwrap().agrees());
    assert_eq!(config_of(&to)["text_config"], config["text_config"]);
}

#[test]
fn a_class_that_is_not_known_keeps_its_names() {
    let codes: Vec<u8> = noise(128 * 128).iter().map(|byte| byte & 0x80 | (byte & 0x7f).min(0x6f)).collect();
    let names = ["embed.weight", "layers.0.attn.wq_a.weight", "layers.0.attn_norm.weight", "norm.weight"];
    let file = SafeTensors::new()
        .f32s(names[0], &[4, 128], &[0.5; 512])
        .tensor(names[1], "F8_E4M3", &[128, 128], &codes)
        .tensor("layers.0.attn.wq_a.scale", "F8_E8M0", &[1, 1], &[120])
        .f32s(names[2], &[128], &[1.0; 128])
        .f32s(names[3], &[128], &[1.0; 128]);
    let config = json!({
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "expert_dtype": "fp4",
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    });
    let from = folder(&file, &config);
    let to = from.path().join("hf");
    assert!(converted(from.path(), &to, &hf()).unwrap().agrees());
    let copy = open(&to).unwrap();
    let mut written: Vec<&str> = copy.tensors.iter().map(|t| t.name.as_str()).collect();
    written.retain(|name| *name != "__metadata__");
    written.sort_unstable();
    assert_eq!(written, names);
    assert!(config_of(&to).get("expert_dtype").is_none());
}

#[test]
fn codes_of_a_scheme_that_is_not_read_are_kept_or_refused() {
    let file = SafeTensors::new()
        .tensor("model.layers.0.mlp.up_proj.weight", "I8", &[64, 128], &noise(8192))
        .f32s("model.norm.weight", &[8], &[1.0; 8]);
    let config = json!({
        "architectures": ["OtherForCausalLM"],
        "quantization_config": {"quant_method": "foo_quant", "bits": 8},
    });
    let from = folder(&file, &config);
    for target in Target::all() {
        match converted(from.path(), &from.path().join("to"), &Options::new(target)) {
            Err(Error::Source { why, .. }) => assert!(why.contains("foo_quant"), "{target:?}: {why}"),
            other => panic!("{target:?}: {other:?}"),
        }
    }
    let to = from.path().join("kept");
    assert!(converted(from.path(), &to, &hf().with(|o| o.keep_quantized = true)).unwrap().agrees());
    assert_eq!(config_of(&to)["quantization_config"], config["quantization_config"]);
}

#[test]
fn sparse_weights_are_refused_or_kept_with_what_says_so() {
    let layer = "model.layers.0.mlp.up_proj";
    let file = SafeTensors::new()
        .f32s(&format!("{layer}.compressed"), &[32, 32], &[0.1; 1024])
        .tensor(&format!("{layer}.bitmask"), "U8", &[32, 8], &noise(256))
        .f32s("model.norm.weight", &[8], &[1.0; 8]);
    let sparse = json!({"format": "sparse-24-bitmask", "sparsity_structure": "2:4"});
    for config in [
        json!({"architectures": ["OtherForCausalLM"], "sparsity_config": sparse}),
        json!({"architectures": ["OtherForCausalLM"], "quantization_config": {"format": "dense", "sparsity_config": sparse}}),
    ] {
        let from = folder(&file, &config);
        let to = from.path().join("to");
        for target in [Target::Hf { packed: false }, Target::SafeTensors, Target::Torch] {
            let error = converted(from.path(), &to, &Options::new(target)).unwrap_err();
            assert!(error.to_string().contains("sparse-24-bitmask"), "{error}");
        }
        assert!(converted(from.path(), &to, &hf().with(|o| o.keep_quantized = true)).unwrap().agrees());
        let written = config_of(&to);
        for key in ["sparsity_config", "quantization_config"] {
            assert_eq!(written.get(key), config.get(key));
        }
    }
}
