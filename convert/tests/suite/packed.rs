//! Ternary matrices through the packed forms and back.

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Options, Plan, Remedy, Rule, Target, write};
use ckpt_inspect::{DType, TernaryPacking, open};
use ckpt_kit::fixtures::fixture;
use ckpt_kit::safetensors::SafeTensors;
use globset::Glob;

use super::round_trips::{bytes, convert, verified};

#[test]
fn i2s_equals_the_original_packers_file() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("i2s.pt");
    let notes = convert(&fixture("healthy-run/step-02000.pt"), &Options::new(Target::I2s), &to);
    assert!(notes.iter().any(|n| n.starts_with("14 matrices are rounded")), "{notes:?}");
    let (ours, seeds) = (open(&to).unwrap(), open(fixture("packed/nano-healthy-2000-i2s.pt")).unwrap());
    assert_eq!(ours.tensors.len(), seeds.tensors.len());
    for theirs in &seeds.tensors {
        let own = ours.tensor(&theirs.name).unwrap();
        assert_eq!((own.dtype, &own.shape), (theirs.dtype, &theirs.shape), "{}", theirs.name);
        let (a, b) = (bytes(&ours, &own.name), bytes(&seeds, &own.name));
        if own.name.ends_with("_scale") {
            // PyTorch sums |W| in f32, in an order that depends on the processor; here it is summed in f64.
            let bits = |raw: &[u8]| u32::from_le_bytes(raw.try_into().unwrap());
            assert!(bits(&a).abs_diff(bits(&b)) <= 1, "{}", own.name);
        } else {
            assert_eq!(a, b, "{}", own.name);
        }
    }
    assert_eq!(ours.meta("packed").unwrap().to_string(), seeds.meta("packed").unwrap().to_string());
    assert!(verified(&to, &fixture("packed/nano-healthy-2000-i2s.pt")).agrees());
}

#[test]
fn packed_forms_carry_codes_and_scales_between_them_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let seeds = fixture("packed/nano-healthy-2000-i2s.pt");
    convert(&seeds, &Options::new(Target::Torch).with(|o| o.dtype = Some(DType::F32)), &at("floats.pt"));
    convert(&seeds, &Options::new(Target::Hf { packed: true }), &at("hf"));
    convert(&at("floats.pt"), &Options::new(Target::I2s), &at("again.pt"));
    convert(&at("hf"), &Options::new(Target::I2s), &at("from-hf.pt"));
    convert(&at("hf"), &Options::new(Target::SafeTensors), &at("flat.safetensors"));
    // A flat file says nothing about the model.
    let ternary = Some(Glob::new("*_proj.weight").unwrap().compile_matcher());
    convert(
        &at("flat.safetensors"),
        &Options::new(Target::I2s).with(|o| o.ternary = ternary),
        &at("from-flat.pt"),
    );
    let first = open(&seeds).unwrap();
    for name in ["again.pt", "from-hf.pt", "from-flat.pt"] {
        let copy = open(at(name)).unwrap();
        for tensor in &first.tensors {
            assert_eq!(bytes(&copy, &tensor.name), bytes(&first, &tensor.name), "{name}: {}", tensor.name);
        }
    }
    let hf = open(at("hf")).unwrap();
    let gate = hf.tensor("model.layers.0.mlp.gate_proj.weight").unwrap();
    assert_eq!(gate.dtype, DType::Ternary(TernaryPacking::HfBitnet));
    assert_eq!(gate.shape, [128, 64]);
}

/// Float masters that every forward pass rounds: without its `quantization_config` a copy would compute plain products.
#[test]
fn masters_of_an_online_bitnet_stay_such() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let hf = |packed| Options::new(Target::Hf { packed });
    convert(&fixture("healthy-run/step-02000.pt"), &hf(false), &at("student"));
    let student = open(at("student")).unwrap();
    // Without the values that show that the student's trainer wrote them.
    let mut weights = SafeTensors::new();
    for tensor in &student.tensors {
        weights = weights.tensor(&tensor.name, "F32", &tensor.shape, &tensor.bytes().unwrap());
    }
    std::fs::create_dir(at("masters")).unwrap();
    weights.write(&at("masters").join("model.safetensors"));
    let config = std::fs::read(at("student").join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let online = serde_json::json!({
        "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online", "use_rms_norm": true,
    });
    config["quantization_config"] = online.clone();
    std::fs::write(at("masters").join("config.json"), config.to_string()).unwrap();
    let quantization = |name: &str| -> serde_json::Value {
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(at(name).join("config.json")).unwrap()).unwrap();
        config.get("quantization_config").cloned().unwrap_or_default()
    };
    convert(&at("masters"), &hf(false).with(|o| o.dtype = Some(DType::BF16)), &at("copy"));
    assert_eq!(quantization("copy"), online);
    let ternary = |name: &str| {
        let copy = open(at(name)).unwrap();
        copy.tensors.iter().filter(|t| copy.model.is_ternary(t)).count()
    };
    assert_eq!((ternary("masters"), ternary("copy")), (14, 14));
    convert(&at("copy"), &hf(true), &at("packed"));
    assert_eq!(
        (&quantization("packed")["quantization_mode"], &quantization("packed")["use_rms_norm"]),
        (&"offline".into(), &true.into())
    );
    assert_eq!(ternary("packed"), 14);
    // Plain layers do not normalize their input.
    let packed = open(at("packed")).unwrap();
    let mut plan = Plan::new(&packed, &hf(false)).unwrap();
    let stop = Default::default();
    let refused = write(&mut plan, &hf(false), &at("floats"), Control::new(&|_| (), &stop)).unwrap_err();
    assert!(refused.to_string().contains("use_rms_norm"), "{refused}");
    assert!(!at("floats").exists());
    // Codes times their scales are not what a layer without norms would round.
    config["quantization_config"]["use_rms_norm"] = false.into();
    std::fs::write(at("masters").join("config.json"), config.to_string()).unwrap();
    convert(&at("masters"), &hf(true), &at("plain"));
    convert(&at("plain"), &hf(false), &at("floats"));
    assert_eq!(quantization("floats"), serde_json::Value::Null);
}

#[test]
fn the_packers_form_keeps_codes_and_says_that_scales_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("packed.safetensors");
    let notes =
        convert(&fixture("packed/nano-healthy-2000-i2s.pt"), &Options::new(Target::I2sSafeTensors), &to);
    assert!(notes.iter().any(|n| n.contains("scales of all packed matrices are lost")), "{notes:?}");
    let (before, after) = (open(fixture("packed/nano-healthy-2000-i2s.pt")).unwrap(), open(&to).unwrap());
    let name = "layers.0.mlp.gate_proj.weight";
    assert_eq!(after.tensor(name).unwrap().dtype, DType::Ternary(TernaryPacking::I2sUnscaled));
    assert_eq!(bytes(&after, name), bytes(&before, &format!("model_state_dict.{name}")));
    let back = folder.path().join("back.pt");
    let notes = convert(&to, &Options::new(Target::I2s), &back);
    assert!(notes.iter().any(|n| n.contains("the copy has a scale of 1")), "{notes:?}");
}

#[test]
fn values_that_are_ternary_already_keep_their_scale_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (source, to) = (folder.path().join("t.safetensors"), folder.path().join("t.pt"));
    let scale = 0.031_4f32;
    // 5 x 7 does not fill its last byte.
    let codes: Vec<i8> = (0..35).map(|i| [0, 1, -1, 1, 0, 0, -1][i * i % 7]).collect();
    let values: Vec<f32> = codes.iter().map(|&c| f32::from(c) * scale).collect();
    SafeTensors::new().f32s("l.weight", &[5, 7], &values).write(&source);
    let ternary = Some(Glob::new("*.weight").unwrap().compile_matcher());
    let notes = convert(&source, &Options::new(Target::I2s).with(|o| o.ternary = ternary), &to);
    assert_eq!(notes, [""; 0], "nothing is lost");
    let after = open(&to).unwrap();
    let tensor = after.tensor("model_state_dict.l.weight").unwrap();
    assert_eq!(tensor.scale, Some(scale));
    assert_eq!(after.ternary_codes(tensor).unwrap().unwrap(), codes);
    assert_eq!(bytes(&after, &tensor.name).last().unwrap() & 3, 1, "the tail is padded with code 1");
    let none = Plan::new(&open(&source).unwrap(), &Options::new(Target::I2s)).unwrap_err();
    assert_eq!(none.remedy(), Some(Remedy::Ternary("*_proj.weight")));
}

/// The ternary form of a narrow matrix has its scale in f32, even if the matrix is rounded to another type.
#[test]
fn narrow_students_become_gguf_of_every_plain_type() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("healthy-run/step-02000.pt");
    for dtype in [DType::F16, DType::BF16] {
        let narrow = folder.path().join(dtype.name());
        convert(&source, &Options::new(Target::Torch).with(|o| o.dtype = Some(dtype)), &narrow);
        for quant in [Quant::F32, Quant::F16, Quant::BF16, Quant::Q8_0] {
            let to = folder.path().join(format!("{dtype}-{quant}.gguf"));
            let gguf = Gguf::new(quant, quant);
            convert(&narrow, &Options::new(Target::Gguf(gguf)), &to);
            let report = verified(&narrow, &to);
            assert!(report.agrees(), "{report:#?}");
            let gate =
                report.tensors.iter().find(|t| t.name.ends_with("layers.0.mlp.gate_proj.weight")).unwrap();
            assert!(matches!(gate.rule, Rule::Rounded | Rule::Blocks), "{gate:?}");
        }
    }
}
