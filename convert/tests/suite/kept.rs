//! Quantized weights whose codes and scales are kept in GGUF's own blocks, and what is refused instead.

use std::path::{Path, PathBuf};

use ckpt_convert::{
    Control, Error, Gguf, Note, Options, Plan, Report, Result, Rule, Target, verify, verify_written, write,
};
use ckpt_inspect::{DType, OpenOptions, open, open_with};
use ckpt_kit::numbers::le;
use ckpt_kit::peers;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::{Value, json};

const WIDTH: usize = 128;
const TOKENS: usize = 16;

/// A weight of some shape, given as random bytes.
type Add = fn(SafeTensors, &str, [usize; 2], &mut Random) -> SafeTensors;

fn bytes(random: &mut Random, n: usize, low: u8, high: u8) -> Vec<u8> {
    (0..n).map(|_| low + (random.below(usize::from(high - low) + 1) as u8)).collect()
}

/// Codes of four bits, a scale for each `group` from `low` to `high`, which is of the type `scales`.
fn four_bits(
    file: SafeTensors,
    (codes, scale): (&str, &str),
    scales: &str,
    [rows, cols]: [usize; 2],
    (group, low, high): (usize, u8, u8),
    random: &mut Random,
) -> SafeTensors {
    file.tensor(codes, "U8", &[rows, cols / 2], &bytes(random, rows * cols / 2, 0, 255)).tensor(
        scale,
        scales,
        &[rows, cols / group],
        &bytes(random, rows * cols / group, low, high),
    )
}

fn modelopt(file: SafeTensors, name: &str, shape: [usize; 2], random: &mut Random) -> SafeTensors {
    let names = (&*format!("{name}.weight"), &*format!("{name}.weight_scale"));
    four_bits(file, names, "F8_E4M3", shape, (16, 0, 0x7e), random)
        .f32s(&format!("{name}.weight_scale_2"), &[], &[0.003])
        .f32s(&format!("{name}.input_scale"), &[], &[0.5])
}

fn compressed_nvfp4(file: SafeTensors, name: &str, shape: [usize; 2], random: &mut Random) -> SafeTensors {
    let names = (&*format!("{name}.weight_packed"), &*format!("{name}.weight_scale"));
    four_bits(file, names, "F8_E4M3", shape, (16, 0, 0x7e), random).f32s(
        &format!("{name}.weight_global_scale"),
        &[1],
        &[2688.7],
    )
}

fn compressed_mxfp4(file: SafeTensors, name: &str, shape: [usize; 2], random: &mut Random) -> SafeTensors {
    let names = (&*format!("{name}.weight_packed"), &*format!("{name}.weight_scale"));
    four_bits(file, names, "U8", shape, (32, 0, 254), random)
}

/// Codes of MLX, in words.
fn mlx(
    file: SafeTensors,
    name: &str,
    [rows, cols]: [usize; 2],
    (group, low, high): (usize, u8, u8),
    random: &mut Random,
) -> SafeTensors {
    file.tensor(&format!("{name}.weight"), "U32", &[rows, cols / 8], &bytes(random, rows * cols / 2, 0, 255))
        .tensor(
            &format!("{name}.scales"),
            "U8",
            &[rows, cols / group],
            &bytes(random, rows * cols / group, low, high),
        )
}

fn mlx_nvfp4(file: SafeTensors, name: &str, shape: [usize; 2], random: &mut Random) -> SafeTensors {
    mlx(file, name, shape, (16, 0, 0x7e), random)
}

fn mlx_mxfp4(file: SafeTensors, name: &str, shape: [usize; 2], random: &mut Random) -> SafeTensors {
    mlx(file, name, shape, (32, 100, 140), random)
}

fn deepseek(file: SafeTensors, name: &str, [rows, cols]: [usize; 2], random: &mut Random) -> SafeTensors {
    let scales: Vec<f32> = (0..rows * cols / 32).map(|_| 2f32.powi(random.below(40) as i32 - 30)).collect();
    file.tensor(&format!("{name}.weight"), "I8", &[rows, cols / 2], &bytes(random, rows * cols / 2, 0, 255))
        .f32s(&format!("{name}.weight_scale_inv"), &[rows, cols / 32], &scales)
}

const SCHEMES: [(&str, &str, &str, Add); 6] = [
    (
        "modelopt",
        "nvfp4",
        r#"{"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}"#,
        modelopt,
    ),
    (
        "compressed-nvfp4",
        "nvfp4",
        r#"{"quantization_config": {"quant_method": "compressed-tensors"}}"#,
        compressed_nvfp4,
    ),
    (
        "compressed-mxfp4",
        "mxfp4",
        r#"{"quantization_config": {"quant_method": "compressed-tensors"}}"#,
        compressed_mxfp4,
    ),
    ("mlx-nvfp4", "nvfp4", r#"{"quantization": {"bits": 4, "group_size": 16, "mode": "nvfp4"}}"#, mlx_nvfp4),
    ("mlx-mxfp4", "mxfp4", r#"{"quantization": {"bits": 4, "group_size": 32, "mode": "mxfp4"}}"#, mlx_mxfp4),
    ("deepseek", "mxfp4", r#"{"quantization_config": {"quant_method": "fp8"}}"#, deepseek),
];

fn projections() -> [(&'static str, [usize; 2]); 7] {
    [
        ("self_attn.q_proj", [WIDTH, WIDTH]),
        ("self_attn.k_proj", [WIDTH / 2, WIDTH]),
        ("self_attn.v_proj", [WIDTH / 2, WIDTH]),
        ("self_attn.o_proj", [WIDTH, WIDTH]),
        ("mlp.gate_proj", [2 * WIDTH, WIDTH]),
        ("mlp.up_proj", [2 * WIDTH, WIDTH]),
        ("mlp.down_proj", [WIDTH, 2 * WIDTH]),
    ]
}

/// A Llama of one layer in `folder`, whose projections `add` adds.
fn llama(folder: &Path, quantization: &str, add: Add) {
    let mut random = Random::new(5);
    let drawn: Vec<u8> = (0..TOKENS * WIDTH).flat_map(|i| [i as u8, 0x3c]).collect();
    let mut file = SafeTensors::new()
        .tensor("model.embed_tokens.weight", "BF16", &[TOKENS, WIDTH], &drawn)
        .tensor("lm_head.weight", "F16", &[TOKENS, WIDTH], &drawn)
        .f32s("model.norm.weight", &[WIDTH], &[1.0; WIDTH]);
    for norm in ["input_layernorm", "post_attention_layernorm"] {
        file = file.f32s(&format!("model.layers.0.{norm}.weight"), &[WIDTH], &[1.0; WIDTH]);
    }
    for (name, shape) in projections() {
        file = add(file, &format!("model.layers.0.{name}"), shape, &mut random);
    }
    std::fs::create_dir_all(folder).unwrap();
    file.write(&folder.join("model.safetensors"));
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": TOKENS, "tie_word_embeddings": false, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
    });
    let Value::Object(more) = serde_json::from_str(quantization).unwrap() else { panic!("{quantization}") };
    config.as_object_mut().unwrap().extend(more);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

fn keep(target: Target) -> Options {
    Options::new(target).with(|o| o.keep_quantized = true)
}

fn gguf() -> Options {
    keep(Target::Gguf(Gguf::default()))
}

fn converted(from: &Path, to: &Path, options: &Options) -> Result<(Report, Vec<Note>)> {
    let mut open = OpenOptions::default();
    open.stored = options.keep_quantized && !matches!(options.target, Target::Gguf(_));
    let source = open_with(from, &open)?;
    let mut plan = Plan::new(&source, options)?;
    let stop = Default::default();
    write(&mut plan, options, to, Control::new(&|_| (), &stop))?;
    Ok((verify_written(&plan, to)?, plan.notes))
}

/// Folders and files of every scheme, and a gpt-oss, whose architecture is not among those that are written.
fn all(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut made = Vec::new();
    for (name, _, config, add) in SCHEMES {
        let from = folder.join(name);
        llama(&from, config, add);
        let to = folder.join(format!("{name}.gguf"));
        let (report, notes) = converted(&from, &to, &gguf()).unwrap();
        assert!(report.agrees(), "{name}: {report:#?}");
        let kept = report.tensors.iter().filter(|t| t.rule == Rule::Kept).count();
        assert_eq!(kept, projections().len(), "{name}: {report:#?}");
        let reciprocals = notes.iter().any(|note| matches!(note, Note::Reciprocals { count: 7 }));
        assert_eq!(reciprocals, name == "compressed-nvfp4", "{name}: {notes:?}");
        made.push((name.to_string(), to));
    }
    let mut random = Random::new(6);
    let name = "model.layers.0.mlp.experts.gate_up_proj";
    let from = folder.join("gpt-oss.safetensors");
    SafeTensors::new()
        .tensor(&format!("{name}_blocks"), "U8", &[3, 8, 4, 16], &bytes(&mut random, 3 * 8 * 64, 0, 255))
        .tensor(&format!("{name}_scales"), "U8", &[3, 8, 4], &bytes(&mut random, 96, 90, 130))
        .write(&from);
    let to = folder.join("gpt-oss.gguf");
    let (report, _) = converted(&from, &to, &gguf()).unwrap();
    assert!(report.agrees() && report.tensors[0].rule == Rule::Kept, "{report:#?}");
    made.push(("gpt-oss".into(), to));
    made
}

#[test]
fn codes_and_scales_are_kept_in_the_blocks_of_gguf() {
    let folder = tempfile::tempdir().unwrap();
    for (name, to) in all(folder.path()) {
        let copy = open(&to).unwrap();
        let Some((_, kind, ..)) = SCHEMES.iter().find(|(scheme, ..)| *scheme == name) else {
            let experts = &copy.tensors[0];
            assert_eq!((experts.dtype.to_string().as_str(), &experts.shape[..]), ("MXFP4", &[3, 8, 128][..]));
            continue;
        };
        let source = open(folder.path().join(&name)).unwrap();
        let gate = copy.tensor("blk.0.ffn_gate.weight").unwrap();
        assert_eq!(gate.dtype.to_string().to_lowercase(), *kind);
        let stored = source.tensor("model.layers.0.mlp.gate_proj.weight").unwrap();
        let (values, kept) = (source.values(stored).unwrap(), copy.values(gate).unwrap());
        let largest = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(largest > 0.0);
        for (x, y) in values.iter().zip(&kept) {
            // The factor of a matrix is multiplied with the scales first, or last.
            assert!(x == y || (x - y).abs() <= 2f32.powi(-22) * x.abs(), "{name}: {x} is not {y}");
        }
        // As llama.cpp's converter writes that of ModelOpt.
        let of_inputs = copy.tensor("blk.0.ffn_gate.input_scale").map(|scale| copy.values(scale).unwrap());
        assert_eq!(of_inputs.ok(), (name == "modelopt").then(|| vec![0.5]), "{name}");
        // What is not quantized keeps its type.
        let types = ["token_embd.weight", "output.weight", "blk.0.attn_norm.weight"];
        let types = types.map(|name| copy.tensor(name).unwrap().dtype);
        assert_eq!(types, [DType::BF16, DType::F16, DType::F32]);
        // Either is the other's codes and scales, whoever made it.
        let report = verify(&source, &copy).unwrap();
        assert!(report.agrees(), "{name}: {report:#?}");
        assert_eq!(report.tensors.iter().filter(|t| t.rule == Rule::Kept).count(), 7, "{name}: {report:#?}");
    }
}

#[test]
fn another_scale_or_factor_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let [source, other] = ["source", "other"].map(|name| folder.path().join(name));
    let (_, _, config, add) = SCHEMES[0];
    llama(&source, config, add);
    let to = folder.path().join("x.gguf");
    converted(&source, &to, &gguf()).unwrap();
    llama(&other, config, |file, name, shape, random| {
        let names = (&*format!("{name}.weight"), &*format!("{name}.weight_scale"));
        let factor = if name.ends_with("up_proj") { 0.003_000_001 } else { 0.003 };
        four_bits(file, names, "F8_E4M3", shape, (16, 0, 0x7e), random).f32s(
            &format!("{name}.weight_scale_2"),
            &[],
            &[factor],
        )
    });
    let report = verify(&open(&other).unwrap(), &open(&to).unwrap()).unwrap();
    let up = report.tensors.iter().find(|t| t.name.ends_with("up_proj.weight")).unwrap();
    // Close enough for blocks, and not the same.
    assert!(up.agrees && up.rule == Rule::Blocks, "{up:?}");
    assert_eq!(report.tensors.iter().filter(|t| t.rule == Rule::Kept).count(), 6, "{report:#?}");
    // A scale of a group that is one step off.
    let mut bytes = std::fs::read(&to).unwrap();
    let layout = open(&to).unwrap();
    let gate = layout.tensor("blk.0.ffn_gate.weight").unwrap().bytes().unwrap().to_vec();
    let at = bytes.windows(gate.len()).position(|window| window == gate).unwrap();
    bytes[at] ^= 1;
    drop(layout);
    std::fs::write(&to, bytes).unwrap();
    let report = verify(&open(&source).unwrap(), &open(&to).unwrap()).unwrap();
    let gate = report.tensors.iter().find(|t| t.name.ends_with("gate_proj.weight")).unwrap();
    assert_ne!(gate.rule, Rule::Kept);
}

#[test]
fn what_gguf_does_not_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("x.safetensors");
    let refused = |file: SafeTensors, says: &str| {
        file.write(&from);
        let to = folder.path().join("x.gguf");
        match converted(&from, &to, &gguf()) {
            Err(Error::Source { why, remedy, .. }) => {
                assert!(why.contains(says) && remedy.is_some(), "{why}");
            }
            other => panic!("{says}: {other:?}"),
        }
        assert!(!to.exists());
    };
    let new = SafeTensors::new;
    let fp8 = new().tensor("l.weight", "F8_E4M3", &[2, 64], &[0x30; 128]).f32s("l.weight_scale", &[], &[0.5]);
    refused(fp8, "GGUF has no type that holds fp8_e4m3 tensor");
    let nvfp4 = |cols: usize, scale: u8| {
        let scales = vec![scale; 2 * cols / 16];
        new()
            .tensor("l.weight", "U8", &[2, cols / 2], &vec![0x21; cols])
            .tensor("l.weight_scale", "F8_E4M3", &[2, cols / 16], &scales)
            .f32s("l.weight_scale_2", &[], &[0.5])
    };
    refused(nvfp4(32, 0x38), "rows of 32 are not a multiple of the 64");
    refused(nvfp4(64, 0xb8), "negative scale");
    refused(nvfp4(64, 0x7f), "NaN");
    let mxfp4 = |scale: u8| {
        new().tensor("l.up_blocks", "U8", &[1, 2, 1, 16], &[0x21; 32]).tensor(
            "l.up_scales",
            "U8",
            &[1, 2, 1],
            &[scale; 2],
        )
    };
    refused(mxfp4(255), "NaN");
    let global = |value: f32| {
        new()
            .tensor("l.weight_packed", "U8", &[2, 32], &[0x21; 64])
            .tensor("l.weight_scale", "F8_E4M3", &[2, 4], &[0x38; 8])
            .f32s("l.weight_global_scale", &[1], &[value])
    };
    refused(global(0.0), "without a reciprocal");
    refused(global(f32::INFINITY), "without a reciprocal");
    let scales = [0.75f32; 4];
    let folder = folder.path().join("deepseek");
    std::fs::create_dir(&folder).unwrap();
    new()
        .tensor("l.weight", "I8", &[2, 32], &[0x21; 64])
        .tensor("l.weight_scale_inv", "F32", &[2, 2], &le(&scales))
        .write(&folder.join("model.safetensors"));
    std::fs::write(folder.join("config.json"), r#"{"quantization_config": {"quant_method": "fp8"}}"#)
        .unwrap();
    match converted(&folder, &folder.join("x.gguf"), &gguf()) {
        Err(Error::Source { why, .. }) => assert!(why.contains("7.5e-1"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// A BitNet of one layer as transformers saves it packed.
fn bitnet(folder: &Path, quantization: &Value) {
    std::fs::create_dir_all(folder).unwrap();
    SafeTensors::new()
        .tensor("model.layers.0.mlp.up_proj.weight", "U8", &[2, 8], &[0x55, 0x99, 0x26, 0x12].repeat(4))
        .tensor("model.layers.0.mlp.up_proj.weight_scale", "BF16", &[1], &[0x80, 0x3f])
        .tensor("model.norm.weight", "BF16", &[8], &[0x3f; 16])
        .write(&folder.join("model.safetensors"));
    let config = json!({"architectures": ["OtherForCausalLM"], "quantization_config": quantization});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn a_packed_bitnet_is_kept_with_its_configuration_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
    let quantization =
        json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"});
    bitnet(&from, &quantization);
    let (report, _) = converted(&from, &to, &keep(Target::Hf { packed: false })).unwrap();
    assert!(report.agrees() && report.tensors.iter().all(|t| t.rule == Rule::Identical), "{report:#?}");
    let config: Value = serde_json::from_slice(&std::fs::read(to.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization_config"], quantization);
    let (before, after) = (open(&from).unwrap(), open(&to).unwrap());
    let name = "model.layers.0.mlp.up_proj.weight";
    let [before, after] = [&before, &after].map(|c| c.values(c.tensor(name).unwrap()).unwrap());
    assert_eq!(before, after);
    // What GGUF has for ternary matrices holds them anyway; the rest keeps its type.
    let packed = ckpt_kit::fixtures::data("infer", "ternary/bitnet-packed");
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(packed.join(name), model.join(name)).unwrap();
    }
    let (report, _) = converted(&model, &folder.path().join("x.gguf"), &gguf()).unwrap();
    assert!(report.agrees() && report.tensors.iter().all(|t| t.rule != Rule::Blocks), "{report:#?}");
    for target in [Target::SafeTensors, Target::Torch, Target::Npz] {
        let to = folder.path().join("file");
        match converted(&from, &to, &keep(target)) {
            Err(Error::Source { why, remedy, .. }) => {
                assert!(why.contains("bitnet") && remedy.is_some(), "{target:?}: {why}");
            }
            other => panic!("{target:?}: {other:?}"),
        }
        assert!(!to.exists());
    }
}

#[test]
fn a_bitnet_of_an_unknown_kind_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from");
    for (key, value) in [
        ("linear_class", json!("trilinear")),
        ("quantization_mode", json!("sometimes")),
        ("use_rms_norm", json!("yes")),
        ("rms_norm_eps", json!("small")),
        ("modules_to_not_convert", json!("lm_head")),
        ("linear_class", json!(3)),
    ] {
        let mut quantization = json!({"quant_method": "bitnet"});
        quantization[key] = value.clone();
        bitnet(&from, &quantization);
        for target in Target::all() {
            let to = folder.path().join("to");
            match converted(&from, &to, &Options::new(target)) {
                Err(Error::Source { why, .. }) => assert!(why.contains(key), "{target:?}, {key}: {why}"),
                other => panic!("{target:?}, {key} {value}: {other:?}"),
            }
            assert!(!to.exists());
        }
    }
    // As in transformers, nothing is said where nothing is set.
    bitnet(&from, &json!({"quant_method": "bitnet", "linear_class": null, "modules_to_not_convert": null}));
    converted(&from, &folder.path().join("to.safetensors"), &Options::new(Target::SafeTensors)).unwrap();
}

#[test]
fn instances_of_torchaos_classes_are_not_kept_as_their_parts() {
    use ckpt_kit::{pickle, torch};
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("x.pt");
    let tensor = |key, class, shape: &[usize], strides: &[usize]| {
        torch::rebuild(class, key, shape.iter().product(), 0, shape, strides)
    };
    let parts = pickle::dict(&[
        ("qdata", tensor("0", "CharStorage", &[2, 4], &[4, 1])),
        ("scale", tensor("1", "FloatStorage", &[2, 1], &[1, 1])),
    ]);
    let subclass = pickle::call(
        &pickle::global("torch._tensor", "_rebuild_from_type_v2"),
        &[
            pickle::global("torch._utils", "_rebuild_wrapper_subclass"),
            pickle::global("torchao", "Int8Tensor"),
            pickle::tuple(&[
                pickle::global("torchao", "Int8Tensor"),
                pickle::global("torch", "float32"),
                pickle::sizes(&[2, 4]),
            ]),
            parts,
        ],
    );
    let storages = [vec![1; 8], le(&[0.5f32, 0.25])];
    std::fs::write(&from, torch::zip_of(&pickle::pickle(2, &pickle::dict(&[("w", subclass)])), &storages))
        .unwrap();
    assert_eq!(open(&from).unwrap().tensor("w").unwrap().dtype.to_string(), "torchao int8 channel");
    match converted(&from, &folder.path().join("y.pt"), &keep(Target::Torch)) {
        Err(Error::Source { why, .. }) => assert!(why.contains("a class, torchao.Int8Tensor"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn blocks_of_gguf_are_not_dequantized_where_they_are_to_be_kept() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    llama(&source, SCHEMES[0].2, SCHEMES[0].3);
    let blocks = folder.path().join("x.gguf");
    converted(&source, &blocks, &gguf()).unwrap();
    match converted(&blocks, &folder.path().join("x.safetensors"), &keep(Target::SafeTensors)) {
        Err(Error::Source { why, .. }) => {
            assert!(why.contains("NVFP4, which SafeTensors cannot keep"), "{why}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ggufs_own_library_reads_the_values_that_the_codes_stand_for() {
    let Some(python) = peers::python(&["torch", "numpy", "safetensors", "gguf"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let made = all(folder.path());
    let said = python.script("convert", "kept.py", &[folder.path()]);
    assert!(said.contains(&format!("{} files, all the same", made.len())), "{said}");
}
