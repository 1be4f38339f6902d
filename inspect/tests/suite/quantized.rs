//! Quantized weights: read as the libraries of their formats read them, and found at fault where their parts are.

use ckpt_inspect::quantized::{PartRole, QuantFault};
use ckpt_inspect::record::CheckpointRecord;
use ckpt_inspect::{
    Checkpoint, Coverage, DType, Finding, OpenOptions, Verdict, describe, judge, open, open_bytes, open_with,
};
use ckpt_kit::numbers::le;
use ckpt_kit::peers;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::{Value, json};

const LAYER: &str = "model.layers.0.mlp.up_proj";

/// A folder with this model.safetensors, and config.json if there is one.
fn folder(tensors: &SafeTensors, config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tensors.write(&folder.path().join("model.safetensors"));
    if !config.is_null() {
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    }
    folder
}

fn judged(tensors: &SafeTensors, config: &Value) -> (Checkpoint, CheckpointRecord) {
    let checkpoint = open(folder(tensors, config).path()).unwrap();
    let mut record = describe(&checkpoint, Default::default(), &|_| ());
    judge(&mut record, &Default::default());
    (checkpoint, record)
}

fn found(record: &CheckpointRecord, name: &str) -> (Option<Verdict>, Vec<Finding>) {
    let tensor = record.tensors.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}"));
    (tensor.verdict, tensor.finding.as_deref().into_iter().chain(&tensor.also).cloned().collect())
}

fn own(field: &str) -> String {
    format!("{LAYER}.{field}")
}

/// Bytes without a pattern.
fn noise(n: usize) -> Vec<u8> {
    let mut random = Random::new(9);
    (0..n).map(|_| random.bits() as u8).collect()
}

/// Codes of E4M3 whose magnitudes are spread as those of weights are: none at the limit, none NaN.
fn float8_codes(n: usize) -> Vec<u8> {
    noise(n).iter().map(|byte| byte & 0x80 | (byte & 0x7f).min(0x6f)).collect()
}

/// A matrix of 8-bit floats in blocks of 128, with `scale` as the bytes of its two scales.
fn float8(scale: &[f32]) -> SafeTensors {
    SafeTensors::new().tensor(&own("weight"), "F8_E4M3", &[128, 256], &float8_codes(128 * 256)).f32s(
        &own("weight_scale_inv"),
        &[1, 2],
        scale,
    )
}

/// A GPTQ matrix of 64 rows and 128 columns, in two groups.
fn gptq(codes: &[u8], scales: [f32; 128], index: Option<[i32; 128]>) -> SafeTensors {
    let file = SafeTensors::new()
        .tensor(&own("qweight"), "I32", &[16, 64], codes)
        .tensor(&own("qzeros"), "I32", &[2, 8], &[0x77; 64])
        .f32s(&own("scales"), &[2, 64], &scales);
    match index {
        Some(index) => file.tensor(&own("g_idx"), "I32", &[128], &le(&index)),
        None => file,
    }
}

fn gptq_config() -> Value {
    json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "gptq"}})
}

#[test]
fn weights_are_those_that_the_formats_own_libraries_read() {
    let Some(python) = peers::python(&["torch", "safetensors"]) else { return };
    let made = tempfile::tempdir().unwrap();
    let cases = peers::json(&python.script("inspect", "quantized.py", &[made.path()]));
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let checkpoint = open(made.path().join(name)).unwrap();
        let truth = open(made.path().join(format!("{name}.truth.safetensors"))).unwrap();
        for wanted in &truth.tensors {
            let tensor = checkpoint.tensor(&wanted.name).unwrap();
            assert_eq!(tensor.dtype.to_string(), case["dtype"].as_str().unwrap(), "{name}");
            assert_eq!(tensor.shape, wanted.shape, "{name}");
            let (values, right) = (checkpoint.values(tensor).unwrap(), truth.values(wanted).unwrap());
            let largest = right.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let allowed = f64::from(largest) * case["tolerance"].as_f64().unwrap();
            for (i, (x, y)) in values.iter().zip(&right).enumerate() {
                let close = f64::from((x - y).abs()) <= allowed || x.to_bits() == y.to_bits();
                assert!(close, "{name}, element {i}: {x} is not {y}");
            }
            // From anywhere on, any number of them.
            let elements = checkpoint.elements(tensor).unwrap();
            let mut random = Random::new(3);
            for _ in 0..50 {
                let start = random.below(values.len());
                let mut some = vec![0.0; 1 + random.below((values.len() - start).min(700))];
                elements.read_f32(start, &mut some);
                assert_eq!(some, values[start..start + some.len()], "{name} from {start}");
            }
        }
        let record = describe(&checkpoint, Default::default(), &|_| ());
        let quantization = record.quantization.unwrap_or_else(|| panic!("{name}"));
        assert_eq!(quantization.left, ["model.embed_tokens.weight"], "{name}");
        assert!(checkpoint.coding.faults.is_empty(), "{name}: {:?}", checkpoint.coding.faults);
    }
    assert!(cases.as_array().unwrap().len() >= 4, "{cases}");
}

#[test]
fn a_weight_takes_the_place_of_its_parts() {
    let file = float8(&[1e-4; 2]);
    let config = json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}});
    let (checkpoint, record) = judged(&file, &config);
    let names: Vec<&str> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, [own("weight")]);
    let tensor = &checkpoint.tensors[0];
    assert_eq!(tensor.dtype.to_string(), "fp8_e4m3 128x128");
    let parts: Vec<(PartRole, String)> = tensor
        .quantized
        .iter()
        .flat_map(|quantized| quantized.parts())
        .map(|part| (part.role, part.tensor.name.clone()))
        .collect();
    assert_eq!(parts, [(PartRole::Codes, own("weight")), (PartRole::Scale, own("weight_scale_inv"))]);
    assert_eq!(found(&record, &own("weight")), (Some(Verdict::Healthy), vec![]));
    assert_eq!(record.tensors[0].bytes, 128 * 256 + 8);
    let expected = Coverage::of(&record);
    assert!(expected.is_whole() && expected.judged == 1, "{expected}");

    let mut options = OpenOptions::default();
    options.stored = true;
    let stored = open_with(folder(&file, &config).path(), &options).unwrap();
    assert_eq!(stored.tensor(&own("weight")).unwrap().dtype, DType::F8E4M3FN);
    assert_eq!(stored.tensors.len(), 2);
}

#[test]
fn scales_that_nothing_can_be_multiplied_by_are_found() {
    let config = Value::Null;
    let of = |scale: [f32; 2]| found(&judged(&float8(&scale), &config).1, &own("weight"));
    let only = |nan, inf, zero, negative| Finding::QuantScales { nan, inf, zero, negative, count: 2 };
    for (scale, finding) in [
        ([f32::NAN, 1e-4], only(1, 0, 0, 0)),
        ([f32::INFINITY, 1e-4], only(0, 1, 0, 0)),
        ([0.0, 1e-4], only(0, 0, 1, 0)),
        ([-1e-4, 1e-4], only(0, 0, 0, 1)),
    ] {
        let (verdict, findings) = of(scale);
        assert_eq!(verdict, Some(Verdict::Corrupt), "{scale:?}");
        assert!(findings.contains(&finding), "{scale:?}: {findings:?}");
    }
    // As small as that, the codes are of no use.
    let (verdict, _) = of([1e-13; 2]);
    assert_eq!(verdict, Some(Verdict::Dead));
}

#[test]
fn a_scale_of_zero_beside_zeros_is_none_to_worry_about() {
    let mut codes = float8_codes(128 * 256);
    codes.chunks_mut(256).for_each(|row| row[..128].fill(0));
    let file = SafeTensors::new().tensor(&own("weight"), "F8_E4M3", &[128, 256], &codes).f32s(
        &own("weight_scale_inv"),
        &[1, 2],
        &[0.0, 1e-4],
    );
    let (_, record) = judged(&file, &Value::Null);
    let (_, findings) = found(&record, &own("weight"));
    assert!(!findings.iter().any(|f| matches!(f, Finding::QuantScales { .. })), "{findings:?}");
}

#[test]
fn codes_without_their_scale_are_no_weights() {
    let file = SafeTensors::new()
        .tensor(&own("weight"), "F8_E4M3", &[128, 256], &float8_codes(128 * 256))
        .tensor("model.layers.1.mlp.up_proj.weight", "F8_E4M3", &[128, 256], &float8_codes(128 * 256))
        .f32s("model.layers.1.mlp.up_proj.weight_scale", &[1], &[1e-4]);
    let (checkpoint, record) = judged(&file, &Value::Null);
    let missing = QuantFault::Missing { part: PartRole::Scale, wanted: own("weight_scale") };
    assert_eq!(
        found(&record, &own("weight")),
        (Some(Verdict::Corrupt), vec![Finding::QuantParts { fault: missing }])
    );
    assert!(checkpoint.coding.refusal().is_some());
    // Alone, 8-bit floats are what they say.
    let plain = SafeTensors::new().tensor(&own("weight"), "F8_E4M3", &[128, 256], &float8_codes(128 * 256));
    let (checkpoint, _) = judged(&plain, &Value::Null);
    assert_eq!((checkpoint.coding.refusal(), checkpoint.tensors[0].dtype), (None, DType::F8E4M3FN));
}

#[test]
fn scales_of_no_codes_are_found_and_those_of_activations_are_not() {
    let file = float8(&[1e-4; 2])
        .f32s("model.layers.1.mlp.up_proj.weight_scale_inv", &[1, 2], &[1e-4; 2])
        .f32s(&own("input_scale"), &[1], &[1.0])
        .f32s("model.layers.0.self_attn.k_scale", &[1], &[1.0])
        .f32s("model.layers.0.self_attn.v_scale", &[1], &[1.0]);
    let (checkpoint, record) = judged(&file, &Value::Null);
    let orphan = "model.layers.1.mlp.up_proj.weight_scale_inv";
    assert_eq!(checkpoint.coding.faults, [(orphan.to_string(), QuantFault::Orphaned)]);
    assert_eq!(found(&record, orphan).0, Some(Verdict::Corrupt));
    assert_eq!(found(&record, &own("input_scale")).0, None);
}

#[test]
fn a_parameter_that_is_called_like_a_scale_is_no_fault_of_a_float_network() {
    let values: Vec<f32> = noise(64 * 64).iter().map(|&byte| f32::from(byte) * 1e-4 - 0.0128).collect();
    let file = SafeTensors::new().f32s(&own("weight"), &[64, 64], &values).f32s(
        &own("weight_scale"),
        &[64],
        &[1.0; 64],
    );
    let (checkpoint, record) = judged(&file, &Value::Null);
    assert!(checkpoint.coding.faults.is_empty(), "{:?}", checkpoint.coding.faults);
    assert_eq!(record.quantization, None);
}

#[test]
fn kernels_of_eight_bit_floats_are_weights_too() {
    let file = SafeTensors::new().tensor(&own("weight"), "F8_E4M3", &[8, 4, 3, 3], &float8_codes(288)).f32s(
        &own("scale_weight"),
        &[],
        &[0.5],
    );
    let (checkpoint, _) = judged(&file, &Value::Null);
    let tensor = checkpoint.tensor(&own("weight")).unwrap();
    assert_eq!(
        (tensor.dtype.to_string().as_str(), tensor.shape.as_slice()),
        ("fp8_e4m3 tensor", &[8, 4, 3, 3][..])
    );
    let bare = open_bytes(
        "x.safetensors",
        SafeTensors::new().tensor("w", "F8_E4M3", &[288], &float8_codes(288)).bytes(),
    );
    let bare = bare.unwrap();
    let halves: Vec<f32> = bare.values(&bare.tensors[0]).unwrap().iter().map(|x| 0.5 * x).collect();
    assert_eq!(checkpoint.values(tensor).unwrap(), halves);
}

#[test]
fn scales_of_another_tensor_do_not_fit() {
    let file = SafeTensors::new()
        .tensor(&own("weight"), "F8_E4M3", &[128, 256], &float8_codes(128 * 256))
        .f32s(&own("weight_scale_inv"), &[3, 300], &[1e-4; 900]);
    let (_, record) = judged(&file, &Value::Null);
    let (verdict, findings) = found(&record, &own("weight"));
    assert_eq!(verdict, Some(Verdict::Corrupt));
    let Some(Finding::QuantParts { fault: QuantFault::Shape { part, found, .. } }) = findings.first() else {
        panic!("{findings:?}")
    };
    assert_eq!((part, found), (&own("weight_scale_inv"), &vec![3, 300]));
}

#[test]
fn a_gptq_matrix_that_stands_for_zeros_is_dead() {
    let scales = std::array::from_fn(|i| 0.01 + i as f32 * 1e-5);
    let (_, record) = judged(&gptq(&[0x88; 4096], scales, None), &gptq_config());
    let (verdict, findings) = found(&record, &own("weight"));
    assert_eq!(verdict, Some(Verdict::Dead), "{findings:?}");
    let (_, alive) = judged(&gptq(&noise(4096), scales, None), &gptq_config());
    assert_eq!(found(&alive, &own("weight")), (Some(Verdict::Healthy), vec![]));
    // Not zero, and all alike all the same.
    let (_, record) = judged(&gptq(&[0x33; 4096], scales, None), &gptq_config());
    let (verdict, findings) = found(&record, &own("weight"));
    assert_eq!(verdict, Some(Verdict::Dead));
    assert!(findings.contains(&Finding::EqualCodes { code: 3 }), "{findings:?}");
}

#[test]
fn an_index_that_names_no_group_is_damage() {
    let scales = [0.01; 128];
    let mut index: [i32; 128] = std::array::from_fn(|i| i as i32 / 64);
    let (checkpoint, _) = judged(&gptq(&noise(4096), scales, Some(index)), &gptq_config());
    assert!(checkpoint.values(&checkpoint.tensors[0]).is_ok());
    for wrong in [2, -1, i32::MAX] {
        index[7] = wrong;
        let (_, record) = judged(&gptq(&noise(4096), scales, Some(index)), &gptq_config());
        assert_eq!(found(&record, &own("weight")).0, Some(Verdict::Corrupt), "{wrong}");
    }
}

#[test]
fn codes_at_the_ends_of_their_range_are_found() {
    let codes: Vec<u8> =
        noise(4096).iter().map(|byte| [0x0f, 0xf0, 0xff, 0x00, 0x75][usize::from(byte % 5)]).collect();
    let (_, record) = judged(&gptq(&codes, [0.01; 128], None), &gptq_config());
    let (verdict, findings) = found(&record, &own("weight"));
    assert_eq!(verdict, Some(Verdict::Weak));
    assert!(
        matches!(findings[0], Finding::SaturatedCodes { share } if (0.7..0.9).contains(&share)),
        "{findings:?}"
    );
}

#[test]
fn words_with_waste_are_told_by_their_number() {
    // Ten codes of three bits a word: code i of a row is i % 8.
    let row: Vec<u32> = (0..7)
        .map(|word| {
            (0..10).filter(|i| 10 * word + i < 64).fold(0, |all, i| all | ((10 * word + i) % 8) << (3 * i))
        })
        .collect();
    let words: Vec<u32> = [row.clone(), row].concat();
    let file = SafeTensors::new()
        .tensor(&own("weight_packed"), "I32", &[2, 7], &le(&words))
        .tensor(&own("weight_shape"), "I64", &[2], &le(&[2i64, 64]))
        .f32s(&own("weight_scale"), &[2, 1], &[0.5, 2.0]);
    let (checkpoint, _) = judged(&file, &Value::Null);
    let tensor = checkpoint.tensor(&own("weight")).unwrap();
    assert_eq!(tensor.dtype.to_string(), "compressed-tensors 3-bit channel");
    let expected: Vec<f32> =
        [0.5, 2.0].iter().flat_map(|scale| (0..64).map(move |i| ((i % 8) as f32 - 4.0) * scale)).collect();
    assert_eq!(checkpoint.values(tensor).unwrap(), expected);
}

#[test]
fn schemes_that_are_not_read_are_named() {
    let file = SafeTensors::new().tensor(&own("W_q"), "U8", &[64, 64], &noise(4096)).f32s(
        &own("scale"),
        &[64, 1],
        &[0.01; 64],
    );
    let config = json!({"quantization_config": {"quant_method": "hqq"}});
    let (checkpoint, record) = judged(&file, &config);
    assert_eq!(record.quantization.unwrap().unread.as_deref(), Some("HQQ"));
    assert!(record.warnings.iter().any(|text| text.contains("HQQ")), "{:?}", record.warnings);
    assert!(checkpoint.coding.refusal().unwrap().contains("HQQ"));
}

#[test]
fn what_no_configuration_says_is_assumed_aloud() {
    let (checkpoint, _) = judged(&gptq(&noise(4096), [0.01; 128], None), &Value::Null);
    assert_eq!(checkpoint.tensors[0].dtype.to_string(), "gptq 4-bit g64");
    assert!(checkpoint.warnings.iter().any(|w| w.text.contains("GPTQ")), "{:?}", checkpoint.warnings);
    let (checkpoint, _) = judged(&gptq(&noise(4096), [0.01; 128], None), &gptq_config());
    assert!(checkpoint.warnings.is_empty(), "{:?}", checkpoint.warnings);
}

#[test]
fn a_class_of_torchao_that_is_not_read_is_named() {
    let class = |class: &str| json!({"_type": class, "_data": {"block_size": [1, 128]}}).to_string();
    let file = |of: &str| {
        SafeTensors::new()
            .metadata(json!({format!("{LAYER}.weight"): class(of)}))
            .tensor(&own("_weight_qdata"), "U8", &[32, 64], &noise(2048))
            .tensor(&own("_weight_scale"), "F8_E8M0", &[32, 4], &[120; 128])
    };
    let (checkpoint, _) = judged(&file("MXTensor"), &Value::Null);
    assert_eq!(checkpoint.tensor(&own("weight")).unwrap().dtype.to_string(), "torchao mxfp4 g32");
    let (checkpoint, record) = judged(&file("Int4Tensor"), &Value::Null);
    let fault = QuantFault::Class { class: "Int4Tensor".into() };
    assert_eq!(checkpoint.coding.faults, [(own("_weight_qdata"), fault)]);
    assert!(checkpoint.coding.refusal().unwrap().contains("Int4Tensor"));
    // Not judged, and not passed over.
    assert_eq!(found(&record, &own("_weight_qdata")).0, None);
    // Scales of neither layout.
    for shape in [[32, 3], [16, 8], [32, 8], [1, 128]] {
        let scales = vec![120; shape[0] * shape[1]];
        let lies = SafeTensors::new().tensor(&own("_weight_qdata"), "U8", &[32, 64], &noise(2048)).tensor(
            &own("_weight_scale"),
            "F8_E8M0",
            &shape,
            &scales,
        );
        let (checkpoint, _) = judged(&lies, &Value::Null);
        assert!(matches!(checkpoint.coding.faults[0].1, QuantFault::Shape { .. }), "{shape:?}");
    }
}

#[test]
fn a_state_that_lies_is_refused() {
    let state = |text: Value| text.to_string().into_bytes();
    let nf4 = |text: Vec<u8>| {
        SafeTensors::new()
            .tensor(&own("weight"), "U8", &[2048, 1], &noise(2048))
            .f32s(&own("weight.absmax"), &[64], &[0.05; 64])
            .f32s(&own("weight.quant_map"), &[16], &super::quantized_doubts::NF4)
            .tensor(&own("weight.quant_state.bitsandbytes__nf4"), "U8", &[text.len()], &text)
    };
    let right = json!({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [32, 128]});
    let (checkpoint, _) = judged(&nf4(state(right.clone())), &Value::Null);
    assert_eq!(checkpoint.tensor(&own("weight")).unwrap().dtype.to_string(), "bitsandbytes nf4 g64");
    for (key, value) in [
        ("shape", json!([32, 129])),
        ("shape", json!([u64::MAX, 2])),
        ("shape", json!([])),
        ("shape", json!("large")),
        ("blocksize", json!(0)),
        ("blocksize", json!(-1)),
        ("blocksize", json!(8)),
        ("quant_type", json!("fp4")),
    ] {
        let mut wrong = right.clone();
        wrong[key] = value;
        let (checkpoint, record) = judged(&nf4(state(wrong.clone())), &Value::Null);
        assert_eq!(checkpoint.coding.faults.len(), 1, "{wrong}: {:?}", checkpoint.coding.faults);
        assert_eq!(found(&record, &own("weight")).0, Some(Verdict::Corrupt), "{wrong}");
    }
    let (checkpoint, _) = judged(&nf4(b"{".to_vec()), &Value::Null);
    assert!(matches!(checkpoint.coding.faults[0].1, QuantFault::State { .. }));
    // What is no JSON at all may be of another version: not judged, and not passed over.
    let (checkpoint, record) = judged(&nf4(b"\x01state of another kind".to_vec()), &Value::Null);
    assert!(matches!(checkpoint.coding.faults[0].1, QuantFault::Foreign { .. }));
    assert_eq!(found(&record, &own("weight")).0, None);
    assert!(record.coverage.measured_parameters < record.coverage.parameters, "{:?}", record.coverage);
    // Unless config.json tells its shape, and the number of scales the length of blocks.
    let mut llama = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 128, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16,
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true},
    });
    let (checkpoint, record) = judged(&nf4(b"\x01state of another kind".to_vec()), &llama);
    let weight = checkpoint.tensor(&own("weight")).unwrap();
    assert_eq!(
        (weight.shape.as_slice(), weight.dtype.to_string().as_str()),
        (&[32, 128][..], "bitsandbytes nf4 g64")
    );
    assert_eq!(found(&record, &own("weight")).0, Some(Verdict::Healthy));
    let warnings: Vec<String> = checkpoint.warnings.iter().map(|notice| notice.to_string()).collect();
    assert!(warnings.iter().any(|text| text.contains("the JSON that bitsandbytes reads")), "{warnings:?}");
    llama["intermediate_size"] = json!(64);
    let (checkpoint, _) = judged(&nf4(b"\x01state of another kind".to_vec()), &llama);
    assert!(matches!(checkpoint.coding.faults[0].1, QuantFault::Foreign { .. } | QuantFault::Shape { .. }));
}
