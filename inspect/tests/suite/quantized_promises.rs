//! Quantized models are held against what their architecture, their configuration and the headers of their files promise, as
//! others are; and parts of weights against what their library writes.

use std::path::Path;

use ckpt_inspect::quantized::{PartRole, QuantFault};
use ckpt_inspect::record::CheckpointRecord;
use ckpt_inspect::{Checkpoint, Coverage, Finding, Verdict, describe, judge, open};
use ckpt_kit::numbers::le;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::{Value, json};

use super::quantized_doubts::NF4;

const WIDTH: usize = 64;
const INNER: usize = 96;
const TOKENS: usize = 128;
const LAYERS: usize = 3;

fn judged(tensors: &SafeTensors, config: &Value) -> (Checkpoint, CheckpointRecord) {
    let folder = tempfile::tempdir().unwrap();
    tensors.write(&folder.path().join("model.safetensors"));
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let mut record = describe(&checkpoint, Default::default(), &|_| ());
    judge(&mut record, &Default::default());
    (checkpoint, record)
}

fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.bits() as u8).collect()
}

fn floats(n: usize, seed: u64) -> Vec<f32> {
    noise(n, seed).into_iter().map(|byte| (f32::from(byte) - 127.5) / 3000.0).collect()
}

fn llama(quantization: &Value) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": TOKENS,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
        "quantization_config": quantization,
    })
}

fn int8() -> Value {
    llama(&json!({"quant_method": "bitsandbytes", "load_in_8bit": true}))
}

/// A Llama whose matrices are bitsandbytes' int8, without what `lacks` says.
fn model(lacks: impl Fn(&str) -> bool) -> SafeTensors {
    let mut file = SafeTensors::new();
    let mut seed = 0;
    let mut plain = |name: &str, shape: &[usize], file: SafeTensors| {
        seed += 1;
        let n = shape.iter().product();
        let values = if shape.len() == 1 { vec![1.0; n] } else { floats(n, seed) };
        if lacks(name) { file } else { file.f32s(name, shape, &values) }
    };
    file = plain("model.embed_tokens.weight", &[TOKENS, WIDTH], file);
    file = plain("model.norm.weight", &[WIDTH], file);
    file = plain("lm_head.weight", &[TOKENS, WIDTH], file);
    for layer in 0..LAYERS {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            file = plain(&format!("model.layers.{layer}.{norm}.weight"), &[WIDTH], file);
        }
        for (nth, (module, rows, cols)) in [
            ("self_attn.q_proj", WIDTH, WIDTH),
            ("self_attn.k_proj", WIDTH / 2, WIDTH),
            ("self_attn.v_proj", WIDTH / 2, WIDTH),
            ("self_attn.o_proj", WIDTH, WIDTH),
            ("mlp.gate_proj", INNER, WIDTH),
            ("mlp.up_proj", INNER, WIDTH),
            ("mlp.down_proj", WIDTH, INNER),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("model.layers.{layer}.{module}");
            if !lacks(&format!("{name}.weight")) {
                let codes = noise(rows * cols, 100 + (layer * 10 + nth) as u64);
                file = file.tensor(&format!("{name}.weight"), "I8", &[rows, cols], &codes).f32s(
                    &format!("{name}.SCB"),
                    &[rows],
                    &vec![0.1; rows],
                );
            }
        }
    }
    file
}

fn missing(record: &CheckpointRecord) -> Vec<String> {
    let names = record.findings.iter().filter_map(|finding| match finding {
        Finding::Missing { names, .. } => Some(names.clone()),
        _ => None,
    });
    names.flatten().collect()
}

#[test]
fn an_incomplete_quantized_model_is_told_as_any_other() {
    let (_, whole) = judged(&model(|_| false), &int8());
    assert_eq!((whole.verdict, &whole.findings[..]), (Some(Verdict::Healthy), &[][..]));
    for name in ["lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"] {
        let (_, record) = judged(&model(|own| own == name), &int8());
        assert_eq!(missing(&record), [name]);
        assert_eq!(record.verdict, Some(Verdict::Corrupt), "{name}");
    }
    let (_, record) = judged(&model(|own| own.ends_with("mlp.up_proj.weight")), &int8());
    assert_eq!(missing(&record)[0], "model.layers.0.mlp.up_proj.weight");
}

#[test]
fn the_shape_of_what_codes_stand_for_is_held_against_the_configuration() {
    for (key, value) in [("intermediate_size", 112), ("num_key_value_heads", 4), ("hidden_size", 128)] {
        let mut config = int8();
        config[key] = json!(value);
        let (_, record) = judged(&model(|_| false), &config);
        let is_shape = |finding: &Finding| matches!(finding, Finding::PromisedShape { .. });
        assert!(record.findings.iter().any(is_shape), "{key}: {:?}", record.findings);
        assert_eq!(record.verdict, Some(Verdict::Corrupt), "{key}");
    }
}

#[test]
fn what_is_not_read_may_stand_for_any_matrix_but_not_for_the_ends() {
    let hqq = llama(&json!({"quant_method": "hqq"}));
    let file = |lacks: &'static str| {
        let mut file = model(|own| own.contains("_proj") || own == lacks);
        for layer in 0..LAYERS {
            let module = format!("model.layers.{layer}.mlp.gate_up");
            file = file.tensor(&format!("{module}.W_q"), "U8", &[96, 64], &noise(96 * 64, 7)).f32s(
                &format!("{module}.scale"),
                &[96, 1],
                &[0.1; 96],
            );
        }
        file
    };
    let (_, record) = judged(&file(""), &hqq);
    assert_eq!(missing(&record), [""; 0]);
    let (_, record) = judged(&file("lm_head.weight"), &hqq);
    assert_eq!(missing(&record), ["lm_head.weight"]);
}

#[test]
fn gptq_zero_points_of_zero_borrow_from_their_neighbours() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gptq_zeros.safetensors");
    let checkpoint = open(path).unwrap();
    for bits in [2, 3, 4, 8] {
        let values = |name: String| checkpoint.values(checkpoint.tensor(&name).unwrap()).unwrap();
        let (values, truth) = (values(format!("b{bits}.weight")), values(format!("b{bits}.truth")));
        let largest = truth.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let far = values.iter().zip(&truth).filter(|(x, y)| (*x - *y).abs() > largest / 1000.0).count();
        assert_eq!(far, 0, "of {bits} bits");
    }
}

/// An instance of torchao's in SafeTensors, with the fields that its header names and the tensors `there`.
fn torchao(fields: &[&str], there: &[&str], listed: bool) -> SafeTensors {
    let told = json!({"_type": "IntxUnpackedToInt8Tensor", "_data": {"block_size": [1, 32]}, "_tensor_data_names": fields});
    let mut metadata =
        json!({"layer.weight": told.to_string(), "tensor_names": "[\"layer.weight\"]", "format": "pt"});
    if !listed {
        metadata.as_object_mut().unwrap().remove("layer.weight");
    }
    let mut file = SafeTensors::new().metadata(metadata);
    for part in there {
        let name = format!("layer._weight_{part}");
        file = match *part {
            "qdata" => file.tensor(&name, "I8", &[32, 64], &noise(32 * 64, 3)),
            "scale" => file.f32s(&name, &[32, 2], &[0.01; 64]),
            _ => file.tensor(&name, "I8", &[32, 2], &[1; 64]),
        };
    }
    file
}

#[test]
fn parts_that_the_header_of_torchao_names_are_missed() {
    let all = ["qdata", "scale", "zero_point"];
    let faults = |file: SafeTensors| judged(&file, &json!({})).0.coding.faults;
    assert_eq!(faults(torchao(&all, &all, true)), []);
    let wanted = || "layer._weight_zero_point".to_string();
    let lost = QuantFault::Missing { part: PartRole::ZeroPoint, wanted: wanted() };
    assert_eq!(faults(torchao(&all, &all[..2], true)), [("layer._weight_qdata".to_string(), lost)]);
    // Without zero points that nothing promises it is whole.
    assert_eq!(faults(torchao(&all[..2], &all[..2], true)), []);
    let stray = ("layer._weight_scale".to_string(), QuantFault::Orphaned);
    assert_eq!(faults(torchao(&all, &["scale"], false)), [stray]);
}

fn mlx(mode: &str) -> Value {
    json!({"quantization": {"bits": 4, "group_size": 32, "mode": mode}})
}

/// MLX's affine codes in groups of 32, with these scales and biases.
fn affine(scale: f32, bias: f32) -> SafeTensors {
    SafeTensors::new()
        .tensor("layer.weight", "U32", &[64, 8], &noise(64 * 32, 5))
        .f32s("layer.scales", &[64, 2], &[scale; 128])
        .f32s("layer.biases", &[64, 2], &[bias; 128])
}

#[test]
fn scales_of_no_codes_are_told_by_every_method_that_calls_them_so() {
    let orphan = |name: &str| vec![(name.to_string(), QuantFault::Orphaned)];
    let faults = |file: &SafeTensors, config: &Value| judged(file, config).0.coding.faults;
    let more = affine(0.01, -0.08).f32s("other.scales", &[64, 2], &[0.01; 128]);
    assert_eq!(faults(&more, &mlx("affine")), orphan("other.scales"));
    // A vector is the network's own.
    let vector = affine(0.01, -0.08).f32s("other.scales", &[64], &[0.01; 64]);
    assert_eq!(faults(&vector, &mlx("affine")), []);
    let codes = SafeTensors::new()
        .tensor("layer.weight", "U32", &[64, 8], &noise(64 * 32, 5))
        .tensor("layer.scales", "U8", &[64, 2], &[120; 128])
        .tensor("other.scales", "U8", &[64, 2], &[120; 128]);
    assert_eq!(faults(&codes, &mlx("mxfp4")), orphan("other.scales"));
    let gptq = json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}});
    let zeros = 0x7777_7777_i32;
    let packed = SafeTensors::new()
        .tensor("layer.qweight", "I32", &[8, 64], &noise(64 * 32, 5))
        .tensor("layer.qzeros", "I32", &[2, 8], &le(&[zeros; 16]))
        .f32s("layer.scales", &[2, 64], &[0.01; 128])
        .f32s("other.scales", &[2, 64], &[0.01; 128]);
    assert_eq!(faults(&packed, &gptq), orphan("other.scales"));
}

#[test]
fn offsets_of_their_scales_sign_are_no_zero_points() {
    let verdict = |scale, bias| {
        let (_, record) = judged(&affine(scale, bias), &mlx("affine"));
        record.tensors[0].verdict
    };
    assert_eq!(verdict(0.01, -0.08), Some(Verdict::Healthy));
    assert_eq!(verdict(-0.01, 0.08), Some(Verdict::Healthy));
    for (scale, bias) in [(0.01, 0.08), (0.01, 0.0), (-0.01, -0.08)] {
        assert_eq!(verdict(scale, bias), Some(Verdict::Corrupt), "{scale} {bias}");
    }
}

/// GPTQ's codes of 64 rows and 64 columns in two groups, with this index.
fn indexed(index: &[i32]) -> SafeTensors {
    SafeTensors::new()
        .tensor("layer.qweight", "I32", &[8, 64], &noise(64 * 32, 5))
        .tensor("layer.qzeros", "I32", &[2, 8], &le(&[0x7777_7777_i32; 16]))
        .f32s("layer.scales", &[2, 64], &[0.01; 128])
        .tensor("layer.g_idx", "I32", &[64], &le(index))
}

#[test]
fn an_index_divides_columns_into_equal_groups() {
    let gptq = json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": true}});
    let verdict = |index: Vec<i32>| judged(&indexed(&index), &gptq).1.tensors[0].verdict;
    assert_eq!(verdict((0..64).map(|i| i % 2).collect()), Some(Verdict::Healthy));
    assert_eq!(verdict(vec![0; 64]), Some(Verdict::Corrupt));
    assert_eq!(verdict((0..64).map(|i| i32::from(i % 4 == 0)).collect()), Some(Verdict::Corrupt));
}

#[test]
fn full_words_are_codes_of_eight_bits_where_no_configuration_says_otherwise() {
    let file = |words: &[u8]| {
        SafeTensors::new()
            .tensor("layer.weight_packed", "I32", &[64, 16], words)
            .tensor("layer.weight_shape", "I64", &[2], &le(&[64i64, 64]))
            .f32s("layer.weight_scale", &[64, 1], &[0.01; 64])
    };
    let dtype =
        |words: &[u8]| judged(&file(words), &json!({})).0.tensor("layer.weight").unwrap().dtype.to_string();
    let mut words = noise(64 * 64, 9);
    assert!(dtype(&words).contains("8-bit"), "{}", dtype(&words));
    words.chunks_mut(4).for_each(|word| word[3] &= 15);
    assert!(dtype(&words).contains("7-bit"), "{}", dtype(&words));
}

#[test]
fn zero_points_of_activations_are_no_codes() {
    let file = model(|_| false).tensor("model.layers.0.mlp.up_proj.input_zero_point", "I8", &[1], &[3]);
    let (_, record) = judged(&file, &int8());
    assert!(Coverage::of(&record).not_judged.is_empty(), "{}", Coverage::of(&record));
}

/// NF4 with nested scales: 64 blocks, whose scales are codes of this map times these factors.
fn nested(map: &[f32; 256], factors: (&str, &[u8]), book: &[f32; 16]) -> SafeTensors {
    nested_of(&noise(64, 6), map, factors, book)
}

/// The same of these codes.
fn nested_of(codes: &[u8], map: &[f32; 256], factors: (&str, &[u8]), book: &[f32; 16]) -> SafeTensors {
    let state = json!({
        "quant_type": "nf4", "blocksize": 64, "shape": [32, 128], "nested_blocksize": 32, "nested_offset": 0.02,
    });
    let state = state.to_string().into_bytes();
    SafeTensors::new()
        .tensor("layer.weight", "U8", &[2048, 1], &noise(2048, 5))
        .tensor("layer.weight.absmax", "U8", &[64], codes)
        .tensor("layer.weight.nested_absmax", factors.0, &[2], factors.1)
        .f32s("layer.weight.nested_quant_map", &[256], map)
        .f32s("layer.weight.quant_map", &[16], book)
        .tensor("layer.weight.quant_state.bitsandbytes__nf4", "U8", &[state.len()], &state)
}

#[test]
fn nested_scales_of_bitsandbytes_and_its_tables_are_looked_at() {
    let map: [f32; 256] = std::array::from_fn(|i| (i as f32 - 127.0) / 128.0);
    let factors = le(&[0.01f32; 2]);
    let all = |file: SafeTensors| {
        let (checkpoint, record) = judged(&file, &json!({}));
        (checkpoint.coding.faults.into_iter().map(|(_, fault)| fault).next(), record.tensors[0].verdict)
    };
    assert_eq!(all(nested(&map, ("F32", &factors), &NF4)), (None, Some(Verdict::Healthy)));
    let zero = le(&[0.0f32; 2]);
    assert_eq!(all(nested(&map, ("F32", &zero), &NF4)), (None, Some(Verdict::Corrupt)));
    let is_type = |fault: &Option<QuantFault>| matches!(fault, Some(QuantFault::Type { .. }));
    assert!(is_type(&all(nested(&map, ("I32", &le(&[1i32; 2])), &NF4)).0));
    let is_book = |found: (Option<QuantFault>, Option<Verdict>)| {
        matches!(found.0, Some(QuantFault::Codebook { .. })) && found.1 == Some(Verdict::Corrupt)
    };
    // Codes of what scales differ by from their mean are not all the same.
    for code in [0, 7] {
        let same = nested_of(&[code; 64], &map, ("F32", &factors), &NF4);
        let (fault, verdict) = all(same);
        assert!(matches!(fault, Some(QuantFault::Uniform { .. })), "{fault:?}");
        assert_eq!(verdict, Some(Verdict::Corrupt));
    }
    let mut hole = map;
    hole[3] = f32::NAN;
    for map in [[0.0; 256], hole] {
        assert!(is_book(all(nested(&map, ("F32", &factors), &NF4))));
    }
    assert!(is_book(all(nested(&map, ("F32", &factors), &NF4.map(|x| -x)))));
}
