//! Parts of quantized weights that the configuration promises and the files lack, and configurations that speak of other
//! codes than there are.

use ckpt_inspect::quantized::{PartRole, QuantFault};
use ckpt_inspect::{Checkpoint, Verdict, describe, judge, open};
use ckpt_kit::numbers::le;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::{Value, json};

const LAYER: &str = "model.layers.0.mlp.up_proj";

fn own(field: &str) -> String {
    format!("{LAYER}.{field}")
}

fn noise(n: usize) -> Vec<u8> {
    let mut random = Random::new(9);
    (0..n).map(|_| random.bits() as u8).collect()
}

fn opened(tensors: &SafeTensors, config: &Value) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    tensors.write(&folder.path().join("model.safetensors"));
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    open(folder.path()).unwrap()
}

/// The one fault, which a conversion is refused for, and the verdict on what it is about.
fn fault(tensors: &SafeTensors, config: &Value) -> (QuantFault, Option<Verdict>) {
    let checkpoint = opened(tensors, config);
    let [(name, fault)] = &checkpoint.coding.faults[..] else {
        panic!("{config}: {:?}", checkpoint.coding.faults)
    };
    assert!(checkpoint.coding.refusal().is_some());
    let mut record = describe(&checkpoint, Default::default(), &|_| ());
    judge(&mut record, &Default::default());
    (fault.clone(), record.tensors.iter().find(|t| t.name == *name).unwrap().verdict)
}

#[track_caller]
fn is_healthy(tensors: &SafeTensors, config: &Value) {
    let checkpoint = opened(tensors, config);
    assert_eq!(checkpoint.coding.faults, [], "{config}");
    assert!(checkpoint.tensor(&own("weight")).unwrap().quantized.is_some(), "{config}");
}

fn missing(part: PartRole, field: &str) -> (QuantFault, Option<Verdict>) {
    (QuantFault::Missing { part, wanted: own(field) }, Some(Verdict::Corrupt))
}

/// Groups of compressed-tensors.
fn groups(weights: &[Value]) -> Value {
    let group = |(i, weights): (usize, &Value)| (format!("group_{i}"), json!({"weights": weights}));
    let groups: serde_json::Map<String, Value> = weights.iter().enumerate().map(group).collect();
    json!({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}})
}

fn grouped(more: &Value) -> Value {
    let mut weights = json!({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64});
    weights.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    weights
}

/// A packed matrix of 40 rows and 256 columns, whose `weight_shape` says this.
fn packed(shape: &[i64]) -> SafeTensors {
    SafeTensors::new()
        .tensor(&own("weight_packed"), "I32", &[40, 32], &noise(40 * 128))
        .tensor(&own("weight_shape"), "I64", &[shape.len()], &le(shape))
        .f32s(&own("weight_scale"), &[40, 4], &[1e-3; 160])
}

fn int8() -> SafeTensors {
    SafeTensors::new().tensor(&own("weight"), "I8", &[40, 256], &noise(40 * 256)).f32s(
        &own("weight_scale"),
        &[40, 1],
        &[1e-3; 40],
    )
}

#[test]
fn codes_that_are_not_symmetric_need_their_zero_points() {
    let file = || packed(&[40, 256]);
    let (even, uneven) = (grouped(&json!({"symmetric": true})), grouped(&json!({"symmetric": false})));
    let lost = missing(PartRole::ZeroPoint, "weight_zero_point");
    assert_eq!(fault(&file(), &groups(std::slice::from_ref(&uneven))), lost);
    is_healthy(&file(), &groups(std::slice::from_ref(&even)));
    is_healthy(&file(), &groups(&[grouped(&json!({}))]));
    // Which group a layer is of is not known.
    is_healthy(&file(), &groups(&[even, uneven.clone()]));
    let points = file().tensor(&own("weight_zero_point"), "I8", &[40, 4], &[1; 160]);
    is_healthy(&points, &groups(&[uneven]));
    let channels = |symmetric: bool| {
        groups(&[json!({"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": symmetric})])
    };
    assert_eq!(fault(&int8(), &channels(false)), lost);
    is_healthy(&int8(), &channels(true));
}

#[test]
fn columns_in_an_order_of_their_own_need_their_index() {
    let file = || packed(&[40, 256]);
    let lost = missing(PartRole::Index, "weight_g_idx");
    for order in [json!("group"), json!("dynamic"), json!(true)] {
        assert_eq!(fault(&file(), &groups(&[grouped(&json!({"actorder": order}))])), lost);
    }
    for order in [json!("weight"), json!("static"), json!(false), Value::Null] {
        is_healthy(&file(), &groups(&[grouped(&json!({"actorder": order}))]));
    }
    let gptq = |groups: usize| {
        SafeTensors::new()
            .tensor(&own("qweight"), "I32", &[16, 64], &noise(4096))
            .tensor(&own("qzeros"), "I32", &[groups, 8], &vec![0x77; 32 * groups])
            .f32s(&own("scales"), &[groups, 64], &vec![0.01; 64 * groups])
    };
    let says = |more: Value| {
        let mut said =
            json!({"quant_method": "gptq", "bits": 4, "desc_act": true, "checkpoint_format": "gptq"});
        said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"quantization_config": said})
    };
    assert_eq!(fault(&gptq(2), &says(json!({}))), missing(PartRole::Index, "g_idx"));
    is_healthy(&gptq(2), &says(json!({"desc_act": false})));
    is_healthy(&gptq(2), &says(json!({"static_groups": true})));
    is_healthy(&gptq(2), &says(json!({"dynamic": {"+:.*up_proj.*": {"desc_act": false}}})));
    // One group needs none.
    is_healthy(&gptq(1), &says(json!({})));
}

#[test]
fn sizes_that_do_not_fit_their_codes_are_what_is_named() {
    for shape in [&[64, 128][..], &[40, 256, 1], &[39, 256]] {
        let (fault, verdict) = fault(&packed(shape), &groups(&[grouped(&json!({}))]));
        let said = format!("weight_shape says {shape:?}, which does not fit codes of [40, 32]");
        assert!(fault.to_string().contains(&said), "{fault}");
        assert_eq!(verdict, Some(Verdict::Corrupt));
    }
}

#[test]
fn methods_that_are_not_those_of_the_codes_are_found() {
    let awq = SafeTensors::new()
        .tensor(&own("qweight"), "I32", &[128, 8], &noise(4096))
        .tensor(&own("qzeros"), "I32", &[2, 8], &noise(64))
        .f32s(&own("scales"), &[2, 64], &[0.01; 128]);
    let gptq = SafeTensors::new()
        .tensor(&own("qweight"), "I32", &[16, 64], &noise(4096))
        .tensor(&own("qzeros"), "I32", &[2, 8], &[0x77; 64])
        .f32s(&own("scales"), &[2, 64], &[0.01; 128]);
    let says = |said: Value| json!({"quantization_config": said});
    let other = |file: &SafeTensors, said: Value| {
        let (fault, verdict) = fault(file, &says(said));
        assert!(matches!(fault, QuantFault::Configured { .. }), "{fault:?}");
        assert_eq!(verdict, Some(Verdict::Corrupt), "{fault:?}");
    };
    other(&awq, json!({"quant_method": "gptq", "bits": 4}));
    // AutoAWQ's key says nothing in a configuration of GPTQ.
    other(&awq, json!({"quant_method": "gptq", "bits": 4, "version": "gemm"}));
    other(&awq, json!({"quant_method": "awq", "bits": 8}));
    other(&gptq, json!({"quant_method": "awq", "bits": 4, "version": "gemm"}));
    for said in [
        json!({"quant_method": "awq", "bits": 4}),
        json!({"quant_method": "gptq", "bits": 4, "method": "awq"}),
        json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "gemm"}),
        json!({"quant_method": "auto-round", "bits": 4, "packing_format": "auto_round:auto_awq"}),
    ] {
        is_healthy(&awq, &says(said));
    }
    is_healthy(&gptq, &says(json!({"quant_method": "auto-round", "bits": 4})));
}

#[test]
fn the_mode_of_mlx_is_that_of_its_codes() {
    let affine = SafeTensors::new()
        .tensor(&own("weight"), "U32", &[32, 32], &noise(4096))
        .f32s(&own("scales"), &[32, 8], &[0.01; 256])
        .f32s(&own("biases"), &[32, 8], &[-0.08; 256]);
    let floats = SafeTensors::new().tensor(&own("weight"), "U32", &[32, 32], &noise(4096)).tensor(
        &own("scales"),
        "U8",
        &[32, 8],
        &[120; 256],
    );
    let says = |mode: Value| json!({"quantization": {"group_size": 32, "bits": 4, "mode": mode}});
    let named = |file: &SafeTensors, mode: &str| fault(file, &says(json!(mode))).0;
    assert!(matches!(named(&affine, "mxfp4"), QuantFault::Configured { .. }));
    assert!(matches!(named(&floats, "nvfp4"), QuantFault::Configured { .. }));
    for file in [&affine, &floats] {
        assert_eq!(named(file, "foo"), QuantFault::Unread { scheme: "MLX's foo".into() });
    }
    assert_eq!(fault(&floats, &says(Value::Null)), missing(PartRole::Offset, "biases"));
    is_healthy(&affine, &says(Value::Null));
    is_healthy(&affine, &says(json!("affine")));
    is_healthy(&floats, &says(json!("mxfp4")));
    // What is said of a layer counts more, and of others nothing.
    let mut of_layer = says(json!("mxfp4"));
    of_layer["quantization"][LAYER] = json!({"group_size": 32, "bits": 4});
    is_healthy(&affine, &of_layer);
    let mut of_others = says(json!("mxfp4"));
    of_others["quantization"]["lm_head"] = json!({"group_size": 64, "bits": 8, "mode": "affine"});
    is_healthy(&floats, &of_others);
}

#[test]
fn sparse_layouts_are_named() {
    let sparse = |bits: bool| {
        let file = SafeTensors::new().f32s(&own("compressed"), &[32, 32], &[0.1; 1024]).tensor(
            &own("shape"),
            "I64",
            &[2],
            &le(&[32i64, 64]),
        );
        if bits { file.tensor(&own("bitmask"), "U8", &[32, 8], &noise(256)) } else { file }
    };
    let of = |format: &str| json!({"format": format, "sparsity_structure": "2:4"});
    let within = |format: &str| json!({"quantization_config": {"quant_method": "compressed-tensors", "format": "dense", "sparsity_config": of(format)}});
    let named = |file: &SafeTensors, config: &Value| match fault(file, config) {
        (QuantFault::Unread { scheme }, None) => scheme,
        other => panic!("{other:?}"),
    };
    for config in [within("sparse-24-bitmask"), json!({"sparsity_config": of("sparse-24-bitmask")})] {
        for bits in [true, false] {
            assert_eq!(named(&sparse(bits), &config), "compressed-tensors' sparse-24-bitmask", "{config}");
        }
    }
    assert_eq!(named(&sparse(true), &json!({})), "compressed-tensors' sparse-bitmask");
    let marlin = SafeTensors::new()
        .tensor(&own("weight_packed"), "I32", &[2, 256], &noise(2048))
        .tensor(&own("meta"), "I16", &[64, 8], &noise(1024))
        .f32s(&own("scale_packed"), &[1, 128], &[0.01; 128]);
    assert_eq!(named(&marlin, &groups(&[grouped(&json!({}))])), "compressed-tensors' marlin-24");
    // What is called so in other models is what it is.
    let plain = SafeTensors::new().f32s(&own("compressed"), &[32, 32], &[0.1; 1024]);
    assert!(opened(&plain, &json!({})).coding.refusal().is_none());
}
