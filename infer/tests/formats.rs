//! One model in every format that the converter writes, run from each: what it computes stays the same to the bit where
//! the format keeps what BitLinear multiplies with, and within the rounding of scales or tables elsewhere.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Options, Plan, Target, write};
use ckpt_infer::{
    Cache, KvType, LoadOptions, Logits, Model, Pool, Runner, Sequence, Settings, WhenFull, logits_file,
};
use ckpt_inspect::DType;
use ckpt_inspect::ggml::GgmlType;
use ckpt_inspect::gguf::{Keys, Layout, OutputEntry};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const VOCAB: usize = 48;
/// Whole blocks of every GGUF type.
const WIDTH: usize = 256;
const HEAD_DIM: usize = 64;

/// Names and shapes of a student of two layers, matrices first.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes =
        vec![("embed_tokens".to_string(), vec![VOCAB, WIDTH]), ("norm".to_string(), vec![WIDTH])];
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", vec![WIDTH]),
            ("self_attn.q_proj", vec![4 * HEAD_DIM, WIDTH]),
            ("self_attn.k_proj", vec![2 * HEAD_DIM, WIDTH]),
            ("self_attn.v_proj", vec![2 * HEAD_DIM, WIDTH]),
            ("self_attn.o_proj", vec![WIDTH, 4 * HEAD_DIM]),
            ("self_attn.q_norm", vec![HEAD_DIM]),
            ("self_attn.k_norm", vec![HEAD_DIM]),
            ("post_attention_layernorm", vec![WIDTH]),
            ("mlp.gate_proj", vec![512, WIDTH]),
            ("mlp.up_proj", vec![512, WIDTH]),
            ("mlp.down_proj", vec![WIDTH, 512]),
        ] {
            shapes.push((format!("layers.{layer}.{name}"), shape));
        }
    }
    shapes
}

/// Random weights, normal-like, the same each time.
fn weights() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut state = 88172645463325252u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let sum: u64 = (0..4).map(|i| state >> (16 * i) & 0xffff).sum();
        (sum as f32 - 131_070.0) / 37_837.0
    };
    let of = |(name, shape): (String, Vec<usize>)| {
        let n = shape.iter().product();
        let values =
            (0..n).map(|_| if shape.len() == 1 { 1.0 + 0.1 * next() } else { 0.05 * next() }).collect();
        (format!("{name}.weight"), shape, values)
    };
    shapes().into_iter().map(of).collect()
}

fn student(folder: &Path) -> PathBuf {
    let weights = weights();
    let views = weights.iter().map(|(name, shape, values)| {
        let bytes = bytemuck::cast_slice(values);
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let path = folder.join("student.safetensors");
    let config =
        r#"{"model": {"hidden_dim": 256, "head_dim": 64, "max_seq_len": 128, "use_bitlinear": true}}"#;
    let metadata = HashMap::from([("config".to_string(), config.to_string())]);
    safetensors::serialize_to_file(views, Some(metadata), &path).unwrap();
    path
}

fn model(path: &Path, settings: Settings, pool: &Pool) -> Model {
    let options = LoadOptions::default().with(|o| o.settings = settings);
    Model::open(path, &options, pool).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn logits(model: &Model, pool: &Pool) -> Vec<f32> {
    let ids: Vec<u32> = (0..30).map(|i| i * 29 % VOCAB as u32).collect();
    let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
    let sequence = Sequence::new(&ids, &mut cache, Logits::All);
    Runner::new(model, pool).forward(&mut [sequence]).unwrap().to_vec()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
}

fn convert(source: &Path, options: &Options, to: &Path) {
    let checkpoint = ckpt_inspect::open(source).unwrap();
    let mut plan = Plan::new(&checkpoint, options).unwrap();
    write(&mut plan, options, to, Control::new(&|_| (), &Default::default())).unwrap();
}

fn gguf(quant: Quant, change: impl FnOnce(&mut Gguf)) -> Options {
    let mut settings = Gguf::new(quant, Quant::F32);
    change(&mut settings);
    Options::new(Target::Gguf(settings))
}

#[test]
fn every_format_computes_the_same() {
    let pool = Pool::new(2);
    let folder = tempfile::tempdir().unwrap();
    let source = student(folder.path());
    let exact = model(&source, Settings::default(), &pool);
    assert!(exact.config().use_bitlinear_ffn && exact.config().use_bitlinear_attn);
    let want = logits(&exact, &pool);
    let spread = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    assert!(spread > 1.0, "the model says something: {spread}");
    let narrow = |dtype| Options::new(Target::SafeTensors).with(|o| o.dtype = Some(dtype));
    let plain = |_: &mut Gguf| ();
    // Bounds are of logits; f16 rounds the scales of ternary matrices by up to 1/2048.
    let cases = [
        ("out.pt", Options::new(Target::Torch), 0.0),
        ("i2s.pt", Options::new(Target::I2s), 0.0),
        ("out.safetensors", Options::new(Target::SafeTensors), 0.0),
        ("hf", Options::new(Target::Hf { packed: false }), 0.0),
        ("packed", Options::new(Target::Hf { packed: true }), 0.0),
        ("f32.gguf", gguf(Quant::F32, plain), 0.0),
        ("latent.gguf", gguf(Quant::F32, |g| g.latent = true), 0.0),
        ("i2_s.gguf", gguf(Quant::I2S, plain), 0.0),
        ("exact-tq2_0.gguf", gguf(Quant::Tq2_0, |g| g.exact_scales = true), 0.0),
        ("exact-tq1_0.gguf", gguf(Quant::Tq1_0, |g| g.exact_scales = true), 0.0),
        ("tq2_0.gguf", gguf(Quant::Tq2_0, plain), 0.05),
        ("tq1_0.gguf", gguf(Quant::Tq1_0, plain), 0.05),
        ("f16.gguf", gguf(Quant::F16, plain), 0.05),
        ("q8_0.gguf", gguf(Quant::Q8_0, plain), 0.05),
        ("table.gguf", gguf(Quant::F32, |g| g.embed = Some(Quant::Q8_0)), 0.2),
        ("f16.safetensors", narrow(DType::F16), 0.5),
    ];
    for (name, options, bound) in cases {
        let path = folder.path().join(name);
        convert(&source, &options, &path);
        let model = model(&path, Settings::default(), &pool);
        assert!(model.config().use_bitlinear_ffn && model.config().use_bitlinear_attn, "{name}");
        assert_eq!(model.config().attn_logit_soft_cap, Some(50.0), "{name}");
        let off = largest_difference(&logits(&model, &pool), &want);
        assert!(off <= bound, "{name}: {off} of {spread}");
        assert_eq!(off == 0.0, bound == 0.0, "{name}");
    }
    // The packer's form loses its scales, and says so.
    let path = folder.path().join("i2s.safetensors");
    convert(&source, &Options::new(Target::I2sSafeTensors), &path);
    let lost = model(&path, Settings::default(), &pool);
    assert!(lost.assumed().iter().any(|s| s.contains("scales are lost")), "{:?}", lost.assumed());
}

/// The seed's exporter wrote sizes in PyTorch's order and everything as F16, norms too, without a word on BitLinear.
#[test]
fn a_file_written_the_wrong_way_round_runs_as_the_student() {
    let pool = Pool::new(1);
    let folder = tempfile::tempdir().unwrap();
    let mut keys = Keys::default();
    keys.set("general.architecture", "qwen3");
    for (key, value) in [
        ("block_count", 2u32),
        ("context_length", 2048),
        ("embedding_length", WIDTH as u32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        keys.set(&format!("qwen3.{key}"), &value);
    }
    keys.set("qwen3.rope.freq_base", &1e6f32);
    keys.set("qwen3.attention.layer_norm_rms_epsilon", &1e-6f32);
    let gguf_name = |name: &str| {
        let parts = [
            ("embed_tokens", "token_embd"),
            ("layers.", "blk."),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("self_attn.q_norm", "attn_q_norm"),
            ("self_attn.k_norm", "attn_k_norm"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ];
        let name = if name == "norm.weight" { "output_norm.weight" } else { name };
        parts.iter().fold(name.to_string(), |name, (torch, gguf)| name.replace(torch, gguf))
    };
    let weights = weights();
    let entry = |(name, shape, _): &(String, Vec<usize>, Vec<f32>)| {
        OutputEntry::new(gguf_name(name), GgmlType::F16, shape.iter().rev().copied().collect::<Vec<_>>())
    };
    let layout = Layout::new(&keys, &weights.iter().map(entry).collect::<Vec<_>>()).unwrap();
    let mut bytes = layout.header.clone();
    for (_, _, values) in &weights {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(values.iter().flat_map(|&w| half::f16::from_f32(w).to_le_bytes()));
    }
    bytes.resize(layout.len as usize, 0);
    let old = folder.path().join("old.gguf");
    std::fs::write(&old, bytes).unwrap();
    let old = model(&old, Settings::default(), &pool);
    assert!(old.assumed().iter().any(|s| s.contains("use_bitlinear_ffn")), "{:?}", old.assumed());

    let source = student(folder.path());
    let narrow = folder.path().join("narrow.safetensors");
    convert(&source, &Options::new(Target::SafeTensors).with(|o| o.dtype = Some(DType::F16)), &narrow);
    let want = logits(&model(&narrow, Settings::default(), &pool), &pool);
    assert_eq!(largest_difference(&logits(&old, &pool), &want), 0.0);
}

/// Hugging Face models as GGUF: Llama's interleaved heads and rotary factors, and Qwen3, against transformers.
#[test]
fn gguf_files_agree_with_transformers() {
    let pool = Pool::new(1);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/transformers");
    for name in ["llama", "qwen3"] {
        let folder = tempfile::tempdir().unwrap();
        // The folder as it was downloaded, without the truth.
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(data.join(name).join(file), folder.path().join(file)).unwrap();
        }
        let path = folder.path().join("model.gguf");
        convert(folder.path(), &gguf(Quant::F32, |_| ()), &path);
        let model = model(&path, Settings::default(), &pool);
        let truth = ckpt_inspect::open(data.join(name).join("truth.safetensors")).unwrap();
        let ids = truth.view::<i32>(truth.tensor("ids").unwrap()).unwrap();
        let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
        let want = truth.values(truth.tensor("logits").unwrap()).unwrap();
        let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
        let sequence = Sequence::new(&ids, &mut cache, Logits::All);
        let got = Runner::new(&model, &pool).forward(&mut [sequence]).unwrap().to_vec();
        let spread = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let off = largest_difference(&got, &want);
        assert!(off <= 2e-5 * spread, "{name}: {off} of {spread}");
        // And what is dumped for comparison is read back.
        let dump = folder.path().join("logits.safetensors");
        std::fs::write(&dump, logits_file(&got, model.config().vocab_size)).unwrap();
        let dump = ckpt_inspect::open(&dump).unwrap();
        assert_eq!(dump.values(dump.tensor("logits").unwrap()).unwrap(), got);
    }
}
