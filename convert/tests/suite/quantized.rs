//! Quantized weights dequantized, kept as they are, or refused: codes are never written as if they were values.

use std::path::Path;

use ckpt_convert::quant::Quant;
use ckpt_convert::{
    Control, Error, Gguf, Options, Plan, Report, Result, Rule, Target, verify, verify_written, write,
};
use ckpt_inspect::{DType, OpenOptions, open, open_with};
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::{Value, json};

const LAYER: &str = "model.layers.0.mlp.up_proj";

fn own(field: &str) -> String {
    format!("{LAYER}.{field}")
}

fn noise(n: usize) -> Vec<u8> {
    let mut random = Random::new(4);
    (0..n).map(|_| random.bits() as u8).collect()
}

/// An FP8 matrix and a GPTQ matrix, and their norm.
fn model(folder: &Path) {
    let float8: Vec<u8> = noise(64 * 128).iter().map(|byte| byte & 0x80 | (byte & 0x7f).min(0x6f)).collect();
    SafeTensors::new()
        .tensor(&own("weight"), "F8_E4M3", &[64, 128], &float8)
        .f32s(&own("weight_scale_inv"), &[1, 1], &[1e-4])
        .tensor("model.layers.0.mlp.down_proj.qweight", "I32", &[16, 64], &noise(4096))
        .tensor("model.layers.0.mlp.down_proj.qzeros", "I32", &[2, 8], &[0x77; 64])
        .tensor("model.layers.0.mlp.down_proj.scales", "F16", &[2, 64], &[0x1c; 256])
        .f32s("model.norm.weight", &[8], &[1.0; 8])
        .f32s(&own("input_scale"), &[1], &[1.0])
        .write(&folder.join("model.safetensors"));
    let config = json!({
        "architectures": ["OtherForCausalLM"],
        "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "gptq"},
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

fn converted(from: &Path, to: &Path, options: &Options) -> Result<Report> {
    let mut open = OpenOptions::default();
    open.stored = options.keep_quantized;
    let source = open_with(from, &open)?;
    let mut plan = Plan::new(&source, options)?;
    let stop = Default::default();
    write(&mut plan, options, to, Control::new(&|_| (), &stop))?;
    verify_written(&plan, to)
}

fn config_of(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn codes_become_the_values_that_they_stand_for() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let source = open(folder.path()).unwrap();
    let made = tempfile::tempdir().unwrap();
    let hf = made.path().join("hf");
    let options = Options::new(Target::Hf { packed: false }).with(|o| o.dtype = Some(DType::BF16));
    let report = converted(folder.path(), &hf, &options).unwrap();
    assert!(report.agrees() && report.tensors.len() == 3, "{report:#?}");
    assert!(config_of(&hf).get("quantization_config").is_none());
    let copy = open(&hf).unwrap();
    assert!(copy.tensor(&own("input_scale")).is_err(), "there is nothing that it scales");
    for name in [own("weight"), "model.layers.0.mlp.down_proj.weight".into()] {
        let (tensor, written) = (source.tensor(&name).unwrap(), copy.tensor(&name).unwrap());
        assert_eq!((written.dtype, &written.shape), (DType::BF16, &tensor.shape));
        let values = source.values(tensor).unwrap();
        let rounded: Vec<f32> = values.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
        assert_eq!(copy.values(written).unwrap(), rounded, "{name}");
        assert!(values.iter().any(|&x| x != 0.0) && values.iter().all(|x| x.abs() < 1.0));
    }
    // As they are in f32, and within the precision of GGUF's blocks.
    let report =
        converted(folder.path(), &made.path().join("x.safetensors"), &Options::new(Target::SafeTensors));
    assert!(report.unwrap().agrees());
    // A model that is not recognised keeps its names there.
    let mut config = config_of(folder.path());
    config.as_object_mut().unwrap().remove("architectures");
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let gguf = Gguf::default().with(|g| g.quant = Some(Quant::Q8_0));
    let to = made.path().join("x.gguf");
    let report = converted(folder.path(), &to, &Options::new(Target::Gguf(gguf))).unwrap();
    assert!(report.agrees() && report.tensors.iter().any(|t| t.rule == Rule::Blocks), "{report:#?}");
}

#[test]
fn what_is_kept_is_the_same_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    std::fs::write(folder.path().join("quantize_config.json"), r#"{"bits": 4}"#).unwrap();
    let to = folder.path().join("kept");
    let options = Options::new(Target::Hf { packed: false }).with(|o| o.keep_quantized = true);
    let report = converted(folder.path(), &to, &options).unwrap();
    assert!(report.agrees() && report.tensors.iter().all(|t| t.rule == Rule::Identical), "{report:#?}");
    assert_eq!(config_of(&to)["quantization_config"], config_of(folder.path())["quantization_config"]);
    assert!(to.join("quantize_config.json").is_file());
    let mut stored = OpenOptions::default();
    stored.stored = true;
    let (before, after) = (open_with(folder.path(), &stored).unwrap(), open_with(&to, &stored).unwrap());
    assert_eq!(before.tensors.len(), 7);
    for tensor in &before.tensors {
        let copy = after.tensor(&tensor.name).unwrap();
        assert_eq!((copy.dtype, &copy.shape), (tensor.dtype, &tensor.shape));
        assert_eq!(copy.bytes().unwrap(), tensor.bytes().unwrap(), "{}", tensor.name);
    }
    let gguf = Options::new(Target::Gguf(Gguf::default())).with(|o| o.keep_quantized = true);
    assert!(matches!(converted(folder.path(), &to, &gguf), Err(Error::Source { .. })));
}

#[test]
fn codes_that_cannot_be_read_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |file: SafeTensors, config: Value, says: &str| {
        file.write(&folder.path().join("model.safetensors"));
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        for target in Target::all() {
            let to = folder.path().join("to");
            match converted(folder.path(), &to, &Options::new(target)) {
                Err(Error::Source { why, .. }) => assert!(why.contains(says), "{target:?}: {why}"),
                other => panic!("{target:?}: {other:?}"),
            }
            assert!(!to.exists());
        }
    };
    let codes = || SafeTensors::new().tensor(&own("weight"), "F8_E4M3", &[64, 128], &[0x30; 64 * 128]);
    let fp8 = json!({"quantization_config": {"quant_method": "fp8"}});
    refused(codes(), fp8.clone(), "there is no model.layers.0.mlp.up_proj.weight_scale");
    refused(codes().f32s(&own("weight_scale_inv"), &[3, 9], &[1.0; 27]), fp8, "shape [3, 9]");
    refused(codes(), json!({"quantization_config": {"quant_method": "quanto"}}), "Quanto");
    // Opened as they are stored, they are no weights either.
    model(folder.path());
    let mut stored = OpenOptions::default();
    stored.stored = true;
    let source = open_with(folder.path(), &stored).unwrap();
    let plan = Plan::new(&source, &Options::new(Target::SafeTensors));
    assert!(matches!(plan, Err(Error::Source { .. })));
}

#[test]
fn the_error_of_quantization_is_told_for_each_weight() {
    let folder = tempfile::tempdir().unwrap();
    model(folder.path());
    let quantized = open(folder.path()).unwrap();
    let mut values = quantized.values(quantized.tensor(&own("weight")).unwrap()).unwrap();
    let original = values.clone();
    let size = |values: &[f32]| values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    // A block of 128 is off by a tenth of it.
    values[256..384].iter_mut().for_each(|x| *x *= 1.1);
    let file = folder.path().join("original.safetensors");
    SafeTensors::new().f32s(&own("weight"), &[64, 128], &values).write(&file);
    let report = verify(&quantized, &open(&file).unwrap()).unwrap();
    let tensor = report.tensors.iter().find(|t| t.name == own("weight")).unwrap();
    let error = tensor.quantization_error.unwrap();
    assert!(!tensor.agrees && error.worst_at == 256 && error.block == 128, "{tensor:?}");
    assert!((error.worst_block - 0.1 / 1.1).abs() < 1e-6, "{error:?}");
    let part = 0.1 * size(&original[256..384]) / size(&values);
    assert!((error.relative_rms / part - 1.0).abs() < 1e-5, "{error:?} is not {part}");
    assert!(tensor.detail.as_ref().unwrap().contains("relative RMS"), "{tensor:?}");
}

/// A Qwen3-MoE or another class with the experts of a layer as mlx-lm keeps them, four bits each.
fn switched(class: &str, model_type: &str) -> (SafeTensors, Value) {
    let (mut file, mut config) = mixture(class, model_type);
    for (module, rows, cols) in MATRICES {
        let own = |field: &str| format!("model.layers.0.mlp.switch_mlp.{module}.{field}");
        let groups = cols / 32;
        file = file
            .tensor(&own("weight"), "U32", &[3, rows, cols / 8], &noise(3 * rows * cols / 2))
            .f32s(&own("scales"), &[3, rows, groups], &vec![0.01; 3 * rows * groups])
            .f32s(&own("biases"), &[3, rows, groups], &vec![-0.08; 3 * rows * groups]);
    }
    config["quantization"] = json!({ "bits": 4, "group_size": 32 });
    (file, config)
}

/// The matrices of an expert, with their rows and columns.
const MATRICES: [(&str, usize, usize); 3] =
    [("gate_proj", 32, 64), ("up_proj", 32, 64), ("down_proj", 64, 32)];

/// A Qwen3-MoE or another class without its experts, which are three.
fn mixture(class: &str, model_type: &str) -> (SafeTensors, Value) {
    let mut file = SafeTensors::new()
        .f32s("model.embed_tokens.weight", &[32, 64], &[0.01; 2048])
        .f32s("model.norm.weight", &[64], &[1.0; 64])
        .f32s("lm_head.weight", &[32, 64], &[0.01; 2048]);
    let layer = "model.layers.0";
    for (norm, size) in [
        ("input_layernorm", 64),
        ("post_attention_layernorm", 64),
        ("self_attn.q_norm", 32),
        ("self_attn.k_norm", 32),
    ] {
        file = file.f32s(&format!("{layer}.{norm}.weight"), &[size], &vec![1.0; size]);
    }
    for (module, rows) in [("q_proj", 64), ("k_proj", 64), ("v_proj", 64), ("o_proj", 64)] {
        file = file.f32s(&format!("{layer}.self_attn.{module}.weight"), &[rows, 64], &vec![0.01; rows * 64]);
    }
    file = file.f32s(&format!("{layer}.mlp.gate.weight"), &[3, 64], &[0.01; 192]);
    let config = json!({
        "architectures": [class], "model_type": model_type, "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 128, "moe_intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 32, "num_experts": 3, "num_experts_per_tok": 2, "norm_topk_prob": true,
        "vocab_size": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
    });
    (file, config)
}

#[test]
fn experts_that_mlx_keeps_together_are_those_of_their_class() {
    let folder = tempfile::tempdir().unwrap();
    let put = |class: &str, model_type: &str| {
        let (file, config) = switched(class, model_type);
        file.write(&folder.path().join("model.safetensors"));
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    };
    put("Qwen3MoeForCausalLM", "qwen3_moe");
    let made = tempfile::tempdir().unwrap();
    let hf = made.path().join("hf");
    let options = Options::new(Target::Hf { packed: false });
    let report = converted(folder.path(), &hf, &options).unwrap();
    assert!(report.agrees(), "{:?}", report.failures().next());
    let (source, copy) = (open(folder.path()).unwrap(), open(&hf).unwrap());
    let stack = source.tensor("model.layers.0.mlp.switch_mlp.down_proj.weight").unwrap();
    let all = source.values(stack).unwrap();
    for number in 0..3 {
        let one = copy.tensor(&format!("model.layers.0.mlp.experts.{number}.down_proj.weight")).unwrap();
        assert_eq!(one.shape, [64, 32]);
        assert_eq!(copy.values(one).unwrap(), all[number * 2048..][..2048]);
    }
    let gguf = Gguf::default().with(|g| g.quant = Some(Quant::F32));
    let to = made.path().join("x.gguf");
    let report = converted(folder.path(), &to, &Options::new(Target::Gguf(gguf))).unwrap();
    assert!(report.agrees(), "{:?}", report.failures().next());
    assert_eq!(open(&to).unwrap().tensor("blk.0.ffn_down_exps.weight").unwrap().shape, [3, 64, 32]);
    // What is kept keeps its names, by which mlx-lm loads it.
    let kept = options.clone().with(|o| o.keep_quantized = true);
    converted(folder.path(), &made.path().join("kept"), &kept).unwrap();
    let names = |path: &Path| {
        let names = open(path).unwrap().tensors.into_iter().map(|t| t.name);
        names.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&made.path().join("kept")), names(folder.path()));
    // Of a class that is not known, nobody knows how it has them.
    put("OtherMoeForCausalLM", "other_moe");
    let error = converted(folder.path(), &made.path().join("other"), &options).unwrap_err();
    assert!(error.to_string().contains("as mlx-lm keeps them"), "{error}");
}

#[test]
fn quantized_experts_that_are_apart_are_put_together_as_numbers() {
    let (mut file, mut config) = mixture("Qwen3MoeForCausalLM", "qwen3_moe");
    for number in 0..3 {
        for (module, rows, cols) in MATRICES {
            let own = |field: &str| format!("model.layers.0.mlp.experts.{number}.{module}.{field}");
            let codes: Vec<u8> = noise(rows * cols).iter().map(|byte| (byte & 0xbf) ^ number).collect();
            file = file.tensor(&own("weight"), "F8_E4M3", &[rows, cols], &codes).f32s(
                &own("weight_scale_inv"),
                &[1, 1],
                &[0.01 + f32::from(number)],
            );
        }
    }
    config["quantization_config"] =
        json!({ "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128] });
    let folder = tempfile::tempdir().unwrap();
    file.write(&folder.path().join("model.safetensors"));
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let source = open(folder.path()).unwrap();
    let made = tempfile::tempdir().unwrap();
    for quant in [Quant::F32, Quant::Q8_0] {
        let gguf = Gguf::default().with(|g| g.quant = Some(quant));
        let to = made.path().join(format!("{quant}.gguf"));
        let report = converted(folder.path(), &to, &Options::new(Target::Gguf(gguf))).unwrap();
        assert!(report.agrees(), "{:?}", report.failures().next());
        let copy = open(&to).unwrap();
        for (module, short) in [("gate_proj", "gate"), ("up_proj", "up"), ("down_proj", "down")] {
            let stack = copy.tensor(&format!("blk.0.ffn_{short}_exps.weight")).unwrap();
            let own = |number: usize| format!("model.layers.0.mlp.experts.{number}.{module}.weight");
            let matrices = (0..3).map(|number| source.values(source.tensor(&own(number)).unwrap()).unwrap());
            let (wanted, got): (Vec<f32>, _) = (matrices.flatten().collect(), copy.values(stack).unwrap());
            if quant == Quant::F32 {
                assert_eq!(got, wanted, "{module}");
                continue;
            }
            // A block's values are off by half a step at most, of which the largest is 127, whose scale is an f16.
            let fits = |(got, wanted): (&[f32], &[f32])| {
                let largest = wanted.iter().fold(0f32, |most, x| most.max(x.abs()));
                got.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= largest / 200.0)
            };
            assert!(got.chunks(32).zip(wanted.chunks(32)).all(fits), "{module}");
        }
    }
    // Codes are kept only in blocks that hold them.
    let kept = Options::new(Target::Gguf(Gguf::default())).with(|o| o.keep_quantized = true);
    assert!(converted(folder.path(), &made.path().join("kept.gguf"), &kept).is_err());
}
