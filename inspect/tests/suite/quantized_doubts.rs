//! Quantized weights that are not what their configuration says, or are of a kind that is not read: never judged as if they
//! were understood, and never taken for values.

use ckpt_inspect::quantized::{PartRole, QuantFault};
use ckpt_inspect::record::CheckpointRecord;
use ckpt_inspect::{Checkpoint, Finding, Verdict, describe, judge, open};
use ckpt_kit::numbers::le;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::{Value, json};

const LAYER: &str = "model.layers.0.mlp.up_proj";

fn own(field: &str) -> String {
    format!("{LAYER}.{field}")
}

fn judged(tensors: &SafeTensors, config: &Value) -> (Checkpoint, CheckpointRecord) {
    let folder = tempfile::tempdir().unwrap();
    tensors.write(&folder.path().join("model.safetensors"));
    if !config.is_null() {
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    }
    let checkpoint = open(folder.path()).unwrap();
    let mut record = describe(&checkpoint, Default::default(), &|_| ());
    judge(&mut record, &Default::default());
    (checkpoint, record)
}

fn verdict(record: &CheckpointRecord, name: &str) -> Option<Verdict> {
    record.tensors.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}")).verdict
}

/// The one fault, which a conversion is refused for.
fn fault(tensors: &SafeTensors, config: &Value) -> (QuantFault, Option<Verdict>) {
    let (checkpoint, record) = judged(tensors, config);
    let faults = &checkpoint.coding.faults;
    assert!(checkpoint.coding.refusal().is_some(), "{config}: {faults:?}");
    assert_eq!(faults.len(), 1, "{config}: {faults:?}");
    (faults[0].1.clone(), verdict(&record, &faults[0].0))
}

fn kind(tensors: &SafeTensors, config: &Value, name: &str) -> String {
    let (checkpoint, _) = judged(tensors, config);
    assert_eq!(checkpoint.coding.faults, [], "{config}");
    checkpoint.tensor(name).unwrap().dtype.to_string()
}

fn noise(n: usize) -> Vec<u8> {
    let mut random = Random::new(9);
    (0..n).map(|_| random.bits() as u8).collect()
}

/// Codes of E4M3 that are spread as weights are.
fn float8(n: usize) -> Vec<u8> {
    noise(n).iter().map(|byte| byte & 0x80 | (byte & 0x7f).min(0x6f)).collect()
}

fn method(name: &str) -> Value {
    json!({"quantization_config": {"quant_method": name}})
}

fn fp8(block: [u32; 2]) -> Value {
    json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": block}})
}

/// A group of compressed-tensors.
fn grouped(weights: Value) -> Value {
    json!({"quantization_config": {
        "quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}},
    }})
}

/// A matrix of 8-bit floats with scales of this shape.
fn blocks(shape: [usize; 2], scales: &[usize]) -> SafeTensors {
    let count = scales.iter().product();
    let values: Vec<f32> = (0..count).map(|i| 1e-4 * (1.0 + i as f32 / 8.0)).collect();
    SafeTensors::new().tensor(&own("weight"), "F8_E4M3", &shape, &float8(shape[0] * shape[1])).f32s(
        &own("weight_scale"),
        scales,
        &values,
    )
}

/// A packed matrix of compressed-tensors, 40 rows of 32 words.
fn packed(shape: [i64; 2], scales: [usize; 2]) -> SafeTensors {
    SafeTensors::new()
        .tensor(&own("weight_packed"), "I32", &[40, 32], &noise(40 * 128))
        .tensor(&own("weight_shape"), "I64", &[2], &le(&shape))
        .f32s(&own("weight_scale"), &scales, &vec![1e-3; scales[0] * scales[1]])
}

#[test]
fn codes_that_nothing_explains_are_no_values() {
    let float8s = SafeTensors::new().tensor(&own("weight"), "F8_E4M3", &[64, 128], &float8(8192));
    let int8s = SafeTensors::new().tensor(&own("weight"), "I8", &[64, 128], &noise(8192));
    for name in ["foo_quant", "w8a8_int8", "ascend", "modelslim"] {
        for file in [&float8s, &int8s] {
            let (checkpoint, record) = judged(file, &method(name));
            assert!(matches!(checkpoint.coding.faults[0].1, QuantFault::Unread { .. }), "{name}");
            assert!(checkpoint.coding.refusal().unwrap().to_lowercase().contains(name), "{name}");
            assert!(checkpoint.warnings.iter().any(|w| w.text.to_lowercase().contains(name)), "{name}");
            assert_eq!((verdict(&record, &own("weight")), record.coverage.judged), (None, 0), "{name}");
        }
    }
    for name in ["awq", "bitnet", "gptq", "mxfp4"] {
        assert_eq!(fault(&int8s, &method(name)), (QuantFault::Unexplained, None), "{name}");
    }
    // What nobody says is quantized is what it says.
    assert!(judged(&int8s, &Value::Null).0.coding.refusal().is_none());
}

#[test]
fn experts_in_one_tensor_are_read_by_either_order() {
    let name = "model.layers.1.feed_forward.experts.gate_up_proj";
    let file = SafeTensors::new().tensor(name, "F8_E4M3", &[2, 16, 8], &[0x38; 256]).f32s(
        &format!("{name}_scale"),
        &[2, 1, 8],
        &std::array::from_fn::<f32, 16, _>(|i| 1.0 + i as f32),
    );
    for config in [grouped(json!({"num_bits": 8, "type": "float", "strategy": "channel"})), Value::Null] {
        let (checkpoint, _) = judged(&file, &config);
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(tensor.shape, [2, 16, 8]);
        let values = checkpoint.values(tensor).unwrap();
        let right = (0..256).map(|i| 1.0 + (i / 128 * 8 + i % 8) as f32);
        assert_eq!(values, right.collect::<Vec<_>>(), "{}", tensor.dtype);
    }
}

#[test]
fn what_a_part_of_the_model_says_counts() {
    let inner = |key: &str, said: Value| json!({"model_type": "other", key: said});
    for key in ["text_config", "llm_config", "language_config"] {
        let config = inner(key, fp8([64, 64]));
        assert_eq!(kind(&blocks([200, 320], &[4, 5]), &config, &own("weight")), "fp8_e4m3 64x64");
    }
    let config = inner("thinker_config", inner("text_config", method("foo_quant")));
    let file = SafeTensors::new().tensor(&own("weight"), "I8", &[64, 128], &noise(8192));
    assert!(judged(&file, &config).0.coding.refusal().unwrap().contains("foo_quant"));
}

#[test]
fn blocks_are_those_of_the_configuration() {
    let of_blocks = |n: u32| {
        grouped(json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [n, n]}))
    };
    let file = blocks([200, 320], &[4, 5]);
    let of_64 = kind(&file, &of_blocks(64), &own("weight"));
    assert_eq!(of_64, "compressed-tensors fp8_e4m3 64x64");
    assert!(matches!(fault(&file, &of_blocks(128)).0, QuantFault::Configured { .. }));
    // Without one they follow from the shapes, aloud.
    let (checkpoint, _) = judged(&file, &Value::Null);
    assert!(checkpoint.warnings.iter().any(|w| w.text.contains("blocks")), "{:?}", checkpoint.warnings);
    assert_eq!(kind(&file, &Value::Null, &own("weight")), "fp8_e4m3 64x64");
    // ModelOpt's have dimensions of one.
    assert_eq!(kind(&blocks([384, 256], &[3, 1, 2, 1]), &Value::Null, &own("weight")), "fp8_e4m3 128x128");
}

#[test]
fn blocks_of_unusual_sizes_follow_from_the_shapes_of_all_or_are_not_read() {
    let add = |file: SafeTensors, name: &str, shape: [usize; 2], counts: [usize; 2]| {
        let scales: Vec<f32> = (0..counts[0] * counts[1]).map(|i| 1.0 + i as f32).collect();
        file.tensor(&own(&format!("{name}.weight")), "F8_E4M3", &shape, &vec![0x38; shape[0] * shape[1]])
            .f32s(&own(&format!("{name}.weight_scale")), &counts, &scales)
    };
    // 96 x 64: two blocks of 128 rows alone may be of 64 to 127.
    let small = || add(SafeTensors::new(), "a", [128, 256], [2, 4]);
    let (checkpoint, record) = judged(&small(), &Value::Null);
    let fault = &checkpoint.coding.faults[0].1;
    assert!(matches!(fault, QuantFault::Ambiguous { .. }), "{fault:?}");
    assert!(checkpoint.coding.refusal().unwrap().contains("several sizes of blocks"));
    assert_eq!((record.tensors[0].verdict, record.coverage.judged), (None, 0));
    let file = add(small(), "b", [384, 256], [4, 4]);
    assert_eq!(kind(&file, &Value::Null, &own("a.weight")), "fp8_e4m3 96x64");
    let (checkpoint, _) = judged(&file, &Value::Null);
    assert!(checkpoint.warnings.iter().any(|w| w.text.contains("fits all of them")));
    let values = checkpoint.values(checkpoint.tensor(&own("a.weight")).unwrap()).unwrap();
    let right = |at: usize| 1.0 + (at / 256 / 96 * 4 + at % 256 / 64) as f32;
    assert!(values.iter().enumerate().all(|(at, value)| *value == right(at)));
    // One block along a side leaves no choice.
    let file = add(SafeTensors::new(), "a", [80, 256], [1, 4]);
    let values = |file: &SafeTensors| {
        let (checkpoint, _) = judged(file, &Value::Null);
        checkpoint.values(checkpoint.tensor(&own("a.weight")).unwrap()).unwrap()
    };
    assert_eq!(values(&file)[79 * 256 + 64], 2.0);
}

#[test]
fn scales_of_other_blocks_than_the_configuration_has_are_corrupt() {
    let of_groups = |n: u32, bits: u32| {
        grouped(json!({"num_bits": bits, "type": "int", "strategy": "group", "group_size": n}))
    };
    assert_eq!(
        kind(&packed([40, 256], [40, 4]), &of_groups(64, 4), &own("weight")),
        "compressed-tensors 4-bit g64"
    );
    let nvfp4 = |groups: usize| {
        SafeTensors::new()
            .tensor(&own("weight"), "U8", &[32, 64], &noise(2048))
            .tensor(&own("weight_scale"), "F8_E4M3", &[32, groups], &vec![0x38; 32 * groups])
            .f32s(&own("weight_scale_2"), &[], &[0.003])
    };
    assert_eq!(kind(&nvfp4(8), &method("modelopt"), &own("weight")), "modelopt nvfp4 g16");
    let gptq = |bits: u32, group: i32| json!({"quantization_config": {"quant_method": "gptq", "bits": bits, "group_size": group}});
    let awq = json!({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64}});
    let words = |groups: usize, rows: usize, name: &str| {
        let shape = if name == "awq" { [256, rows / 8] } else { [32, rows] };
        SafeTensors::new()
            .tensor(&own("qweight"), "I32", &shape, &noise(4 * shape[0] * shape[1]))
            .tensor(&own("qzeros"), "I32", &[groups, rows / 8], &vec![0x77; groups * rows / 2])
            .f32s(&own("scales"), &[groups, rows], &vec![0.01; groups * rows])
    };
    assert_eq!(kind(&words(4, 64, "gptq"), &gptq(4, 64), &own("weight")), "gptq 4-bit g64");
    assert_eq!(kind(&words(4, 64, "awq"), &awq, &own("weight")), "awq 4-bit g64");
    let mlx = |groups: usize| {
        SafeTensors::new()
            .tensor(&own("weight"), "U32", &[32, 32], &noise(4096))
            .f32s(&own("scales"), &[32, groups], &vec![0.01; 32 * groups])
            .f32s(&own("biases"), &[32, groups], &vec![-0.08; 32 * groups])
    };
    let in_bits = |bits: u32| json!({"quantization": {"group_size": 64, "bits": bits}});
    assert_eq!(kind(&mlx(4), &in_bits(4), &own("weight")), "mlx 4-bit g64");
    for (name, file, config) in [
        ("fewer blocks", blocks([384, 384], &[2, 3]), fp8([128, 128])),
        ("one block", blocks([384, 384], &[1, 1]), fp8([128, 128])),
        ("transposed", blocks([768, 384], &[3, 6]), fp8([128, 128])),
        ("half the groups", packed([40, 256], [40, 2]), of_groups(64, 4)),
        ("one scale", packed([40, 256], [1, 1]), of_groups(64, 4)),
        ("other bits", packed([40, 256], [40, 4]), of_groups(64, 8)),
        ("another shape", packed([40, 512], [40, 4]), of_groups(64, 4)),
        ("a group's part", packed([40, 250], [40, 4]), of_groups(64, 4)),
        ("nvfp4", nvfp4(4), method("modelopt")),
        ("gptq", words(2, 64, "gptq"), gptq(4, 64)),
        ("gptq's bits", words(4, 64, "gptq"), gptq(8, 64)),
        ("awq", words(2, 64, "awq"), awq.clone()),
        ("mlx", mlx(2), in_bits(4)),
        ("mlx's bits", mlx(4), in_bits(8)),
    ] {
        let (fault, verdict) = fault(&file, &config);
        assert!(matches!(fault, QuantFault::Configured { .. }), "{name}: {fault:?}");
        assert_eq!(verdict, Some(Verdict::Corrupt), "{name}");
    }
    // Where layers may differ, their shapes are believed.
    let mut differs = gptq(4, 64);
    differs["quantization_config"]["dynamic"] = json!({"up_proj": {"group_size": 128}});
    assert_eq!(kind(&words(2, 64, "gptq"), &differs, &own("weight")), "gptq 4-bit g128");
}

#[test]
fn layouts_that_are_not_read_are_named() {
    let scheme = |file: &SafeTensors, config: &Value| match fault(file, config) {
        (QuantFault::Unread { scheme }, None) => scheme,
        other => panic!("{other:?}"),
    };
    let of_pairs = SafeTensors::new().tensor(&own("weight"), "U8", &[16, 128], &noise(2048)).f32s(
        &own("weight_scale"),
        &[32, 1],
        &[0.01; 32],
    );
    assert_eq!(scheme(&of_pairs, &Value::Null), "ModelOpt's W4A16_AWQ");
    let six = SafeTensors::new().tensor(&own("weight_packed"), "U8", &[40, 192], &noise(40 * 192)).tensor(
        &own("weight_scale"),
        "U8",
        &[40, 8],
        &[120; 320],
    );
    assert_eq!(scheme(&six, &method("compressed-tensors")), "MXFP6");
    let awq = |dtype: &str, shape: &[usize], bytes: usize| {
        SafeTensors::new()
            .tensor(&own("qweight"), dtype, shape, &noise(bytes))
            .tensor(&own("qzeros"), "I32", &[64, 8], &noise(2048))
            .tensor(&own("scales"), "F16", &[64, 64], &[0x1c; 8192])
    };
    let version = |name: &str| json!({"quantization_config": {"quant_method": "awq", "version": name}});
    assert_eq!(scheme(&awq("I32", &[64, 32], 8192), &version("gemv")), "AWQ's gemv");
    assert_eq!(scheme(&awq("I32", &[64, 8], 2048), &version("GEMV")), "AWQ's gemv");
    assert_eq!(scheme(&awq("I16", &[16, 256], 8192), &Value::Null), "AWQ's gemv_fast");
}

#[test]
fn what_comes_into_a_layer_is_multiplied_in() {
    let file = |factors: usize| {
        SafeTensors::new()
            .tensor(&own("weight"), "U8", &[2, 16], &[0x22; 32])
            .tensor(&own("weight_scale"), "F8_E4M3", &[2, 2], &[0x38; 4])
            .f32s(&own("weight_scale_2"), &[], &[0.5])
            .f32s(
                &own("pre_quant_scale"),
                &[factors],
                &(0..factors).map(|i| 1.0 + i as f32).collect::<Vec<_>>(),
            )
    };
    let (checkpoint, _) = judged(&file(32), &method("modelopt"));
    let tensor = checkpoint.tensor(&own("weight")).unwrap();
    let right: Vec<f32> = (0..64).map(|i| 0.5 * (1.0 + (i % 32) as f32)).collect();
    assert_eq!(checkpoint.values(tensor).unwrap(), right);
    assert!(checkpoint.elements(tensor).unwrap().repacked().is_err());
    let (fault, _) = fault(&file(31), &method("modelopt"));
    assert!(matches!(fault, QuantFault::Shape { .. }), "{fault:?}");
}

#[test]
fn codes_alone_and_parts_alone_are_found() {
    let four_bits = json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}});
    let codes = SafeTensors::new().tensor(&own("weight"), "U8", &[6144, 1], &noise(6144));
    let missing = QuantFault::Missing { part: PartRole::Scale, wanted: own("weight.absmax") };
    assert_eq!(fault(&codes, &four_bits), (missing, Some(Verdict::Corrupt)));
    let halves = SafeTensors::new().tensor(&own("weight"), "U8", &[32, 64], &noise(2048)).f32s(
        &own("weight_scale_2"),
        &[],
        &[0.003],
    );
    let missing = QuantFault::Missing { part: PartRole::Scale, wanted: own("weight_scale") };
    assert_eq!(fault(&halves, &method("modelopt")), (missing, Some(Verdict::Corrupt)));
    let orphans = SafeTensors::new().f32s(&own("scales"), &[32, 4], &[0.01; 128]).f32s(
        &own("biases"),
        &[32, 4],
        &[0.01; 128],
    );
    let (checkpoint, _) = judged(&orphans, &json!({"quantization": {"group_size": 64, "bits": 4}}));
    let faults: Vec<&QuantFault> = checkpoint.coding.faults.iter().map(|(_, fault)| fault).collect();
    assert_eq!(faults, [&QuantFault::Orphaned; 2]);
}

/// What codes of NF4 stand for, as bitsandbytes writes it beside them.
pub(crate) const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A 4-bit matrix of bitsandbytes of this shape, with as many scales and this codebook.
fn nf4(shape: &[usize], scales: usize, book: [f32; 16]) -> SafeTensors {
    let state = json!({"quant_type": "nf4", "blocksize": 64, "shape": shape}).to_string().into_bytes();
    SafeTensors::new()
        .tensor(&own("weight"), "U8", &[2048, 1], &noise(2048))
        .f32s(&own("weight.absmax"), &[scales], &vec![0.01; scales])
        .f32s(&own("weight.quant_map"), &[16], &book)
        .tensor(&own("weight.quant_state.bitsandbytes__nf4"), "U8", &[state.len()], &state)
}

#[test]
fn states_that_contradict_their_tensors_are_found() {
    let book = NF4;
    assert_eq!(kind(&nf4(&[32, 128], 64, book), &Value::Null, &own("weight")), "bitsandbytes nf4 g64");
    let (fault_of_blocks, _) = fault(&nf4(&[32, 128], 65, book), &Value::Null);
    assert!(matches!(fault_of_blocks, QuantFault::Configured { .. }));
    let deep = [&[1; 100][..], &[32, 128]].concat();
    assert!(matches!(fault(&nf4(&deep, 64, book), &Value::Null).0, QuantFault::State { .. }));
    // Kernels have a table of their own, which this is not.
    let beside = nf4(&[32, 128], 64, [0.0; 16]).f32s("model.norm.weight", &[8], &[1.0; 8]);
    let (_, record) = judged(
        &beside.f32s(
            "model.embed_tokens.weight",
            &[2, 8],
            &std::array::from_fn::<_, 16, _>(|i| (i * i % 7) as f32 / 50.0),
        ),
        &Value::Null,
    );
    assert_eq!(verdict(&record, &own("weight")), Some(Verdict::Corrupt));
}

#[test]
fn an_index_that_was_never_set_is_none_and_zero_points_are_codes() {
    let config = grouped(json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64}));
    let unset = packed([40, 256], [40, 4]).tensor(&own("weight_g_idx"), "I32", &[256], &[0xff; 1024]);
    let (checkpoint, _) = judged(&unset, &config);
    let plain = judged(&packed([40, 256], [40, 4]), &config).0;
    assert_eq!(
        checkpoint.values(checkpoint.tensor(&own("weight")).unwrap()).unwrap(),
        plain.values(plain.tensor(&own("weight")).unwrap()).unwrap()
    );
    let some = le(&std::array::from_fn::<i32, 256, _>(|i| if i == 7 { 9 } else { 0 }));
    let outside = packed([40, 256], [40, 4]).tensor(&own("weight_g_idx"), "I32", &[256], &some);
    let (checkpoint, _) = judged(&outside, &config);
    let error = checkpoint.values(checkpoint.tensor(&own("weight")).unwrap()).unwrap_err();
    assert!(error.what.contains("weight_g_idx") && error.what.contains('9'), "{}", error.what);

    let zeros = |point: u8| {
        packed([40, 256], [40, 4]).tensor(&own("weight_zero_point"), "I8", &[40, 4], &[point; 160])
    };
    assert_eq!(verdict(&judged(&zeros(3), &config).1, &own("weight")), Some(Verdict::Healthy));
    let (_, record) = judged(&zeros(9), &config);
    let tensor = record.tensors.iter().find(|t| t.name == own("weight")).unwrap();
    let told = tensor
        .finding
        .as_deref()
        .into_iter()
        .chain(&tensor.also)
        .any(|f| *f == Finding::ZeroPoints { outside: 160 });
    assert!(told, "{:?}", tensor.finding);
}

/// Names of scales that people have given, beside a matrix that nothing says is quantized.
const NAMES: [&str; 13] = [
    "weight.scale",
    "weight_scale_0",
    "fp8_scale",
    "weight_scaling_factor",
    "weight_scaler",
    "wscale",
    "weight_s",
    "weight_quantizer._scale",
    "dequant_scale",
    "weight.weight_scale",
    "weight_amax",
    "input_scale",
    "comfy_quant",
];

#[test]
fn codes_beside_scales_of_any_name_are_no_values() {
    for (name, dtype) in NAMES.into_iter().flat_map(|name| [(name, "F8_E4M3"), (name, "I8")]) {
        let file = SafeTensors::new().tensor(&own("weight"), dtype, &[64, 128], &float8(8192)).f32s(
            &own(name),
            &[1],
            &[3e-4],
        );
        let (fault, verdict) = fault(&file, &Value::Null);
        assert_eq!((fault, verdict), (QuantFault::Beside { part: own(name) }, None), "{dtype}");
    }
    // What is called so elsewhere, what is as large as the matrix, and scales of caches say nothing.
    for (name, shape) in [("other.scale", &[1][..]), ("offsets", &[64, 128]), ("k_scale", &[1])] {
        let values = vec![0.5; shape.iter().product()];
        let file = SafeTensors::new().tensor(&own("weight"), "F8_E4M3", &[64, 128], &float8(8192)).f32s(
            &own(name),
            shape,
            &values,
        );
        assert!(judged(&file, &Value::Null).0.coding.refusal().is_none(), "{name}");
    }
}

#[test]
fn the_scales_of_tensorrt_llm_are_those_of_its_weights() {
    let file = SafeTensors::new()
        .tensor(&own("weight"), "F8_E4M3", &[64, 128], &float8(8192))
        .f32s(&own("weights_scaling_factor"), &[1], &[3e-4])
        .f32s(&own("activation_scaling_factor"), &[1], &[0.1]);
    let folder = tempfile::tempdir().unwrap();
    file.write(&folder.path().join("rank0.safetensors"));
    let config = json!({"architecture": "LlamaForCausalLM", "quantization": {"quant_algo": "FP8"}});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    assert_eq!(checkpoint.coding.faults, []);
    assert_eq!(checkpoint.coding.method.as_deref(), Some("modelopt"));
    let weight = checkpoint.tensor(&own("weight")).unwrap();
    assert_eq!(weight.dtype.to_string(), "modelopt fp8_e4m3 tensor");
    let bare = SafeTensors::new().tensor(&own("weight"), "F8_E4M3", &[64, 128], &float8(8192));
    let plain = checkpoint.values(weight).unwrap();
    let codes = judged(&bare, &Value::Null).0;
    let codes = codes.values(codes.tensor(&own("weight")).unwrap()).unwrap();
    assert!(plain.iter().zip(&codes).all(|(x, code)| *x == code * 3e-4));
}

#[test]
fn codes_that_something_unknown_is_subtracted_from_are_not_read() {
    let file = |offset: f32| {
        SafeTensors::new()
            .tensor(&own("weight"), "I8", &[64, 128], &noise(8192))
            .f32s(&own("weight_scale"), &[64, 1], &[1e-3; 64])
            .f32s(&own("weight_offset"), &[64, 1], &[offset; 64])
    };
    assert_eq!(kind(&file(0.0), &Value::Null, &own("weight")), "int8 channel");
    let unused = QuantFault::Unused { part: own("weight_offset") };
    assert_eq!(fault(&file(2.0), &Value::Null), (unused, None));
    let folder = tempfile::tempdir().unwrap();
    file(2.0).write(&folder.path().join("model.safetensors"));
    let description = json!({"model_quant_type": "W8A8", own("weight"): "W8A8"});
    std::fs::write(folder.path().join("quant_model_description.json"), description.to_string()).unwrap();
    assert_eq!(open(folder.path()).unwrap().coding.unread.as_deref(), Some("ModelSlim"));
}

#[test]
fn quanto_and_hqq_are_known_by_what_their_own_files_have() {
    let scales = |file: SafeTensors, name: &str| file.f32s(&own(name), &[64], &[1e-3; 64]);
    for (codes, dtype, scale, scheme) in [
        ("weight._data", "I8", "weight._scale", "Quanto"),
        ("weight._data", "F8_E4M3", "weight._scale", "Quanto"),
        ("weight._data._data", "U8", "weight._scale", "Quanto"),
        ("W_q", "U8", "meta.scale", "HQQ"),
    ] {
        let file = SafeTensors::new().tensor(&own(codes), dtype, &[64, 128], &float8(8192));
        let (fault, verdict) = fault(&scales(file, scale), &Value::Null);
        assert_eq!((fault, verdict), (QuantFault::Unread { scheme: scheme.into() }, None), "{codes}");
    }
}

#[test]
fn one_weight_with_blocks_of_its_own_has_the_scales_of_another() {
    let layer = |n: usize, field: &str| format!("model.layers.{n}.mlp.up_proj.{field}");
    let model = |shapes: [&[usize]; 4], dtype: &str| {
        shapes.iter().enumerate().fold(SafeTensors::new(), |file, (n, shape)| {
            let count = shape.iter().product::<usize>();
            let file = file.tensor(&layer(n, "weight"), "F8_E4M3", &[64, 128], &float8(8192));
            match dtype {
                "F32" => file.f32s(&layer(n, "weight_scale"), shape, &vec![1e-3; count]),
                _ => file.tensor(&layer(n, "weight_scale"), dtype, shape, &vec![117; count]),
            }
        })
    };
    let channel: &[usize] = &[64, 1];
    let (checkpoint, _) = judged(&model([channel; 4], "F32"), &Value::Null);
    assert_eq!(checkpoint.coding.faults, []);
    // One number for a matrix is a choice that a layer may have.
    let (checkpoint, _) = judged(&model([channel, channel, &[1], channel], "F32"), &Value::Null);
    assert_eq!(checkpoint.coding.faults, []);
    for other in [&[32, 1][..], &[64, 2], &[32, 4]] {
        let (fault, verdict) = fault(&model([channel, channel, other, channel], "F32"), &Value::Null);
        assert!(matches!(fault, QuantFault::Unlike { .. }), "{fault:?}");
        assert_eq!(verdict, Some(Verdict::Corrupt));
    }
    // Powers of two are of 32 elements each, or of the usual blocks.
    let micro: &[usize] = &[64, 4];
    let (fault, _) = fault(&model([micro, micro, &[32, 4], micro], "F8_E8M0"), &Value::Null);
    assert!(matches!(fault, QuantFault::Configured { .. }), "{fault:?}");
}

#[test]
fn parts_of_other_shapes_than_their_codes_ask_for_are_found() {
    let gptq = |index: i32| {
        SafeTensors::new()
            .tensor(&own("qweight"), "I32", &[16, 64], &noise(4096))
            .tensor(&own("qzeros"), "I32", &[1, 8], &[0x77; 32])
            .f32s(&own("scales"), &[1, 64], &[1e-3; 64])
            .tensor(&own("g_idx"), "I32", &[index as usize], &le(&vec![0i32; index as usize]))
    };
    let config = json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}});
    assert_eq!(kind(&gptq(128), &config, &own("weight")), "gptq 4-bit channel");
    let (fault, verdict) = fault(&gptq(127), &config);
    assert!(matches!(&fault, QuantFault::Shape { part, .. } if *part == own("g_idx")), "{fault:?}");
    assert_eq!(verdict, Some(Verdict::Corrupt));
}

#[test]
fn codes_without_any_of_their_scales_are_found_where_their_format_is_named() {
    let codes = SafeTensors::new().tensor(&own("weight_packed"), "U8", &[64, 64], &noise(4096));
    let config = json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}});
    let missing = |part, name: &str| QuantFault::Missing { part, wanted: own(name) };
    let of_scale = missing(PartRole::Scale, "weight_scale");
    assert_eq!(fault(&codes, &config), (of_scale, Some(Verdict::Corrupt)));
    let said = json!({"_type": "Int8Tensor", "_data": {"block_size": [1, 128]}}).to_string();
    let scales = SafeTensors::new().metadata(json!({own("weight"): said})).f32s(
        &own("_weight_scale"),
        &[64, 1],
        &[1e-3; 64],
    );
    let (fault, _) = fault(&scales, &Value::Null);
    assert_eq!(fault, missing(PartRole::Codes, "_weight_qdata"));
}
