//! One model in every format that the converter writes, run from each: what it computes stays the same to the bit where
//! the format keeps what BitLinear multiplies with, and within the rounding of scales or tables elsewhere.

use std::path::{Path, PathBuf};

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Options, Plan, Target, write};
use ckpt_infer::{Assumption, LoadOptions, Model, Pool, Settings, logits_file};
use ckpt_inspect::DType;
use ckpt_inspect::ggml::GgmlType;
use ckpt_inspect::gguf::{Header, Keys, Layout, OutputEntry};
use ckpt_kit::fixtures::data;
use ckpt_kit::gguf::blocks;
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::student::Student;
use ckpt_kit::tensor::Tensor;

use crate::logits::largest_difference;

const VOCAB: usize = 48;
/// Whole blocks of every GGUF type.
const WIDTH: usize = 256;

/// Random weights of two layers, normal-like, the same each time.
fn weights() -> Vec<Tensor> {
    let mut random = Random::new(1);
    let sizes = Student { vocab: VOCAB, width: WIDTH, ..Student::default() };
    sizes.tensors(|name, _| match name.contains("norm") {
        true => 1.0 + 0.1 * random.normal(),
        false => 0.05 * random.normal(),
    })
}

fn student(folder: &Path) -> PathBuf {
    let path = folder.join("student.safetensors");
    let config =
        r#"{"model": {"hidden_dim": 256, "head_dim": 64, "max_seq_len": 128, "use_bitlinear": true}}"#;
    SafeTensors::of(&weights()).metadata(serde_json::json!({"config": config})).write(&path);
    path
}

fn model(path: &Path, settings: Settings, pool: &Pool) -> Model {
    let options = LoadOptions::default().with(|o| o.settings = settings);
    Model::open(path, &options, pool).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn logits(model: &Model, pool: &Pool) -> Vec<f32> {
    let ids: Vec<u32> = (0..30).map(|i| i * 29 % VOCAB as u32).collect();
    crate::logits::logits(model, pool, &ids)
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
    assert!(lost.assumed().contains(&Assumption::UnitScales), "{:?}", lost.assumed());
}

/// GGUF files with blocks of every type run as their values do, written as f32: those that are not kept in memory to
/// the bit, and the others within the rounding of activations.
#[test]
fn blocks_of_every_type_run() {
    let kept = |ggml: GgmlType| ggml.splitter().is_some();
    let (ran, wanted) = run_blocks(|ggml| !kept(ggml));
    assert_eq!(ran, wanted);
    let (ran, wanted) = run_blocks(kept);
    let spread = wanted.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let off = largest_difference(&ran, &wanted);
    assert!(off > 0.0 && off <= 2e-4 * spread, "{off} of {spread}");
}

/// The logits of a model in blocks of such types, and of their values.
fn run_blocks(which: impl Fn(GgmlType) -> bool) -> (Vec<f32>, Vec<f32>) {
    let pool = Pool::new(2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("float.safetensors");
    let config =
        r#"{"model": {"hidden_dim": 256, "head_dim": 64, "max_seq_len": 128, "use_bitlinear": false}}"#;
    SafeTensors::of(&weights()).metadata(serde_json::json!({"config": config})).write(&path);
    let plain = folder.path().join("plain.gguf");
    convert(&path, &gguf(Quant::F32, |_| ()), &plain);
    let bytes = std::fs::read(&plain).unwrap();
    let header = Header::parse(&bytes).unwrap();
    let mut keys = Keys::default();
    header.keys.iter().for_each(|(key, value)| keys.copy(key, value));
    let types = (0..100).map(GgmlType).filter(|&ggml| ggml.decodes() && !ggml.is_ternary() && which(ggml));
    let count = types.clone().count();
    let mut types = types.cycle();
    let mut used = std::collections::BTreeSet::new();
    let mut random = Random::new(6);
    let mut tensors = Vec::new();
    for tensor in &header.tensors {
        let own = bytes[tensor.offset as usize..][..tensor.bytes as usize].to_vec();
        let is_matrix = tensor.shape.len() == 2;
        let ggml = if is_matrix { types.next().unwrap() } else { tensor.ggml };
        used.insert(ggml.name());
        let data = match is_matrix {
            true => {
                let size = ggml.block_bytes().unwrap();
                blocks(ggml.0, size, ggml.bytes_for(&tensor.shape).unwrap() as usize / size, &mut random)
            }
            false => own,
        };
        tensors.push((OutputEntry::new(&*tensor.name, ggml, tensor.shape.clone()), data));
    }
    // The others are the types of vectors.
    assert!(used.len() > count.min(14), "{used:?}");
    let entries: Vec<OutputEntry> = tensors.iter().map(|(entry, _)| entry.clone()).collect();
    let layout = Layout::new(&keys, &entries).unwrap();
    let mut file = layout.header.clone();
    file.resize(layout.len as usize, 0);
    for ((_, data), offset) in tensors.iter().zip(&layout.offsets) {
        file[*offset as usize..][..data.len()].copy_from_slice(data);
    }
    let mixed = folder.path().join("mixed.gguf");
    std::fs::write(&mixed, file).unwrap();
    let floats = folder.path().join("floats.safetensors");
    convert(&mixed, &Options::new(Target::SafeTensors), &floats);
    let [ran, wanted] = [&mixed, &floats].map(|path| logits(&model(path, Settings::default(), &pool), &pool));
    assert!(ran.iter().all(|x| x.is_finite()) && ran.iter().any(|x| *x != 0.0));
    (ran, wanted)
}

/// The original exporter of bitnet-student wrote sizes in PyTorch's order and everything as F16, norms too, without a
/// key about BitLinear.
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
    let entry = |tensor: &Tensor| {
        let shape: Vec<usize> = tensor.shape.iter().rev().copied().collect();
        OutputEntry::new(gguf_name(&tensor.name), GgmlType::F16, shape)
    };
    let layout = Layout::new(&keys, &weights.iter().map(entry).collect::<Vec<_>>()).unwrap();
    let mut bytes = layout.header.clone();
    for Tensor { values, .. } in &weights {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(values.iter().flat_map(|&w| half::f16::from_f32(w).to_le_bytes()));
    }
    bytes.resize(layout.len as usize, 0);
    let old = folder.path().join("old.gguf");
    std::fs::write(&old, bytes).unwrap();
    let old = model(&old, Settings::default(), &pool);
    let switch = |a: &Assumption| matches!(a, Assumption::Settings(s) if s.iter().any(|s| s.setting == "use_bitlinear_ffn"));
    assert!(old.assumed().iter().any(switch), "{:?}", old.assumed());

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
    let data = data("infer", "transformers");
    for name in ["llama", "qwen3"] {
        let folder = tempfile::tempdir().unwrap();
        // The folder as it would be downloaded, without the expected results.
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
        let got = crate::logits::logits(&model, &pool, &ids);
        let spread = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let off = largest_difference(&got, &want);
        assert!(off <= 2e-5 * spread, "{name}: {off} of {spread}");
        // And dumped logits are read back for comparison.
        let dump = folder.path().join("logits.safetensors");
        std::fs::write(&dump, logits_file(&got, model.config().vocab_size)).unwrap();
        let dump = ckpt_inspect::open(&dump).unwrap();
        assert_eq!(dump.values(dump.tensor("logits").unwrap()).unwrap(), got);
    }
}
