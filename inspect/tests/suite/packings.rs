//! The ternary packings outside GGUF, decoded against codes computed here from the unpacked weights or by the rule
//! that the packer documents.

use ckpt_inspect::{
    Checkpoint, DType, Finding, Group, Options, TernaryPacking, Verdict, describe, judge, open,
};
use ckpt_kit::fixtures::fixture;
use ckpt_kit::safetensors::SafeTensors;

/// A folder with this model.safetensors, and config.json if there is one.
fn model(tensors: SafeTensors, config: Option<&str>) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    tensors.write(&folder.path().join("model.safetensors"));
    if let Some(config) = config {
        std::fs::write(folder.path().join("config.json"), config).unwrap();
    }
    let checkpoint = open(folder.path()).unwrap();
    (folder, checkpoint)
}

/// clamp(round(W / (mean|W| + eps)), -1, 1) in f32, as PyTorch computes it, and the scale.
fn absmean(weights: &[f32], eps: f32) -> (Vec<i8>, f32) {
    let mean = weights.iter().map(|w| f64::from(w.abs())).sum::<f64>() / weights.len() as f64;
    let scale = mean as f32 + eps;
    (weights.iter().map(|w| (w / scale).round_ties_even().clamp(-1.0, 1.0) as i8).collect(), scale)
}

#[test]
fn the_i2s_form_holds_the_absmean_codes_of_the_weights_it_was_made_from() {
    let packed = open(fixture("packed/nano-healthy-2000-i2s.pt")).unwrap();
    let plain = open(fixture("healthy-run/step-02000.pt")).unwrap();
    let mut compared = 0;
    for tensor in packed.tensors.iter().filter(|t| t.dtype == DType::Ternary(TernaryPacking::I2s)) {
        let original = plain.tensor(&tensor.name).unwrap();
        assert_eq!(tensor.shape, original.shape, "{}", tensor.name);
        let weights = plain.values(original).unwrap();
        let (codes, scale) = absmean(&weights, 1e-8);
        assert_eq!(packed.ternary_codes(tensor).unwrap().unwrap(), codes, "{}", tensor.name);
        assert!(
            (tensor.scale.unwrap() / scale - 1.0).abs() < 1e-6,
            "{}: {:?} for {scale}",
            tensor.name,
            tensor.scale
        );
        // The layout itself: row-major, the first value in the two highest bits, code = value + 1.
        let bytes = packed.tensor_bytes(tensor).unwrap();
        let by_hand: Vec<i8> =
            (0..codes.len()).map(|i| (bytes[i / 4] >> (6 - 2 * (i % 4)) & 3) as i8 - 1).collect();
        assert_eq!(by_hand, codes);
        let (stats, ternary) = packed.measure(tensor, false).unwrap();
        let (_, unpacked) = plain.measure(original, false).unwrap();
        let (ternary, unpacked) = (ternary.unwrap(), unpacked.unwrap());
        assert_eq!(
            (ternary.neg, ternary.zero, ternary.pos, ternary.dead_rows, ternary.dead_cols),
            (unpacked.neg, unpacked.zero, unpacked.pos, unpacked.dead_rows, unpacked.dead_cols)
        );
        assert_eq!(stats.abs_max, tensor.scale.map(f64::from));
        compared += 1;
    }
    assert_eq!(compared, 14, "seven projections in two layers");
    for name in ["q_proj_shape", "q_proj_scale"] {
        let helper = packed.tensor(&format!("model_state_dict.layers.0.self_attn.{name}")).unwrap();
        assert_eq!(helper.group, Group::Other, "a helper is no weight");
    }
}

#[test]
fn a_zero_byte_is_four_times_minus_one_and_a_constant_is_dead() {
    let shape = br#"{"a.weight_shape": [4, 6], "b.weight_shape": [3, 3]}"#;
    let (_folder, checkpoint) = model(
        SafeTensors::new()
            .tensor("a.weight", "U8", &[6], &[0; 6])
            // Nine values: 1 0 -1 | 1 1 1 | -1 0 0, and three of padding.
            .tensor("b.weight", "U8", &[3], &[0b10_01_00_10, 0b10_10_00_01, 0b01_01_01_01])
            .tensor("__metadata__", "U8", &[shape.len()], shape.as_ref()),
        None,
    );
    let codes = |name: &str| checkpoint.ternary_codes(checkpoint.tensor(name).unwrap()).unwrap().unwrap();
    assert_eq!(codes("a.weight"), [-1; 24]);
    assert_eq!(codes("b.weight"), [1, 0, -1, 1, 1, 1, -1, 0, 0]);
    assert_eq!(checkpoint.tensor("b.weight").unwrap().shape, [3, 3]);
    assert!(
        checkpoint.warnings.iter().any(|w| w.text.contains("scale is lost")),
        "{:?}",
        checkpoint.warnings
    );
    let mut record = describe(&checkpoint, Options::default(), &|_| ());
    judge(&mut record, &Default::default());
    let verdict = |name: &str| record.tensors.iter().find(|t| t.name == name).unwrap().verdict;
    assert_eq!(verdict("a.weight"), Some(Verdict::Dead));
    assert_eq!(verdict("b.weight"), None, "codes do not tell how large the weights are");
    let b = record.tensors.iter().find(|t| t.name == "b.weight").unwrap();
    assert_eq!(b.finding.as_deref(), Some(&Finding::ScaleLost));
    let ternary = record.tensors.iter().find(|t| t.name == "b.weight").unwrap().ternary.clone().unwrap();
    assert_eq!(ternary.scale, None, "a lost scale is not made up");
}

#[test]
fn shapes_that_do_not_fit_the_packed_bytes_are_damage() {
    for (shape, bytes) in [("[4, 600]", 6), ("[4294967296, 4294967296]", 6), ("[4, 6]", 7)] {
        let metadata = format!(r#"{{"a.weight_shape": {shape}}}"#).into_bytes();
        let (_folder, checkpoint) = model(
            SafeTensors::new().tensor("a.weight", "U8", &[bytes], &vec![0x55; bytes]).tensor(
                "__metadata__",
                "U8",
                &[metadata.len()],
                &metadata,
            ),
            None,
        );
        assert!(checkpoint.is_damaged(), "{shape}");
        assert!(
            checkpoint.tensor("a.weight").unwrap().damage.as_ref().unwrap().what.contains("packed bytes")
        );
    }
}

/// `pack_weights` of Hugging Face's BitNet integration: row r of the original in packed row r % P, bits 2 * (r / P).
fn pack(codes: &[i8], rows: usize, cols: usize) -> Vec<u8> {
    let packed_rows = rows.div_ceil(4);
    let mut packed = vec![0u8; packed_rows * cols];
    for row in 0..rows {
        for col in 0..cols {
            packed[row % packed_rows * cols + col] |=
                ((codes[row * cols + col] + 1) as u8) << (2 * (row / packed_rows));
        }
    }
    packed
}

fn bitnet(config: Option<&str>) -> (tempfile::TempDir, Checkpoint, Vec<i8>) {
    bitnet_scaled(config, 4.0)
}

fn bitnet_scaled(config: Option<&str>, scale: f32) -> (tempfile::TempDir, Checkpoint, Vec<i8>) {
    let codes: Vec<i8> = (0..8 * 5).map(|i: i32| ((i * 7 + i / 3) % 3 - 1) as i8).collect();
    let scale = half::bf16::from_f32(scale).to_le_bytes().to_vec();
    let name = "model.layers.0.mlp.gate_proj.weight";
    let scale_name = "model.layers.0.mlp.gate_proj.weight_scale";
    let (folder, checkpoint) = model(
        SafeTensors::new().tensor(name, "U8", &[2, 5], &pack(&codes, 8, 5)).tensor(
            scale_name,
            "BF16",
            &[1],
            &scale,
        ),
        config,
    );
    (folder, checkpoint, codes)
}

#[test]
fn hugging_face_bitnet_and_how_its_scale_applies() {
    let config = |linear: &str| {
        format!(
            r#"{{"architectures":["BitNetForCausalLM"],"quantization_config":{{"quant_method":"bitnet"{linear}}}}}"#
        )
    };
    for (linear, factor) in [
        (r#","linear_class":"autobitlinear","quantization_mode":"offline""#, 4.0),
        (r#","linear_class":"bitlinear""#, 0.25),
        // transformers' default.
        ("", 0.25),
    ] {
        let (_folder, checkpoint, codes) = bitnet(Some(&config(linear)));
        let tensor = checkpoint.tensor("model.layers.0.mlp.gate_proj.weight").unwrap();
        assert_eq!(tensor.dtype, DType::Ternary(TernaryPacking::HfBitnet));
        assert_eq!(tensor.shape, [8, 5]);
        assert_eq!(checkpoint.ternary_codes(tensor).unwrap().unwrap(), codes);
        assert_eq!(tensor.scale, Some(factor), "{linear}");
        let values: Vec<f32> = codes.iter().map(|&c| f32::from(c) * factor).collect();
        assert_eq!(checkpoint.values(tensor).unwrap(), values);
        assert_eq!(checkpoint.model.architecture, "BitNetForCausalLM");
        assert_eq!(checkpoint.warnings, [""; 0]);
    }
    let (_folder, checkpoint, _) = bitnet(None);
    assert!(
        checkpoint.warnings.iter().any(|w| w.text.contains("assumed `bitlinear`")),
        "{:?}",
        checkpoint.warnings
    );
    // Whether a scale of another class multiplies or divides is not known.
    let (_folder, checkpoint, _) = bitnet(Some(&config(r#","linear_class":"trilinear""#)));
    assert_eq!(checkpoint.tensor("model.layers.0.mlp.gate_proj.weight").unwrap().dtype, DType::U8);
    assert!(checkpoint.coding.refusal().unwrap().contains("linear_class `trilinear`"));
    let told = |w: &ckpt_inspect::Notice| w.text.contains("linear_class `trilinear`");
    assert!(checkpoint.warnings.iter().any(told), "{:?}", checkpoint.warnings);
}

#[test]
fn occupancy_is_that_of_the_codes_whatever_the_scale() {
    let config = r#"{"quantization_config":{"quant_method":"bitnet","linear_class":"autobitlinear","quantization_mode":"offline"}}"#;
    for scale in [4.0, 0.0, -4.0] {
        let (_folder, checkpoint, codes) = bitnet_scaled(Some(config), scale);
        let tensor = checkpoint.tensor("model.layers.0.mlp.gate_proj.weight").unwrap();
        assert_eq!(tensor.scale, Some(scale));
        let (_, ternary) = checkpoint.measure(tensor, true).unwrap();
        let ternary = ternary.unwrap();
        let share = |code: i8| codes.iter().filter(|&&c| c == code).count() as f64 / codes.len() as f64;
        assert_eq!((ternary.neg, ternary.zero, ternary.pos), (share(-1), share(0), share(1)), "{scale}");
    }
}

#[test]
fn bytes_with_scales_of_other_schemes_are_not_taken_for_ternary() {
    // A 4-bit float scheme: two values a byte, one scale for 16 values.
    let (_folder, checkpoint) = model(
        SafeTensors::new().tensor("l.weight", "U8", &[4, 16], &[0x37; 64]).tensor(
            "l.weight_scale",
            "F8_E4M3",
            &[4, 2],
            &[0x38; 8],
        ),
        None,
    );
    assert_eq!(checkpoint.tensor("l.weight").unwrap().dtype, DType::U8);
    let config = r#"{"quantization_config":{"quant_method":"fp_quant"}}"#;
    let (_folder, checkpoint, _) = bitnet(Some(config));
    assert_eq!(checkpoint.tensor("model.layers.0.mlp.gate_proj.weight").unwrap().dtype, DType::U8);
}

#[test]
fn a_code_that_is_not_ternary_is_damage() {
    let shape = br#"{"a.weight_shape": [4, 6]}"#;
    let (_folder, checkpoint) = model(
        SafeTensors::new()
            .tensor("a.weight", "U8", &[6], &[0x55, 0x55, 0b01_11_01_01, 0x55, 0x55, 0x55])
            .tensor("__metadata__", "U8", &[shape.len()], shape.as_ref()),
        None,
    );
    let mut record = describe(&checkpoint, Options::default(), &|_| ());
    judge(&mut record, &Default::default());
    assert!(record.damaged);
    assert_eq!(record.verdict, Some(Verdict::Corrupt));
    assert!(
        record.reasons[0].contains("byte 2 of its packed values contains the code 3"),
        "{:?}",
        record.reasons
    );
}
