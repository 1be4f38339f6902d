//! The student's GGUF files are run as their source is: BitLinear layers, soft caps and scales come along.

use std::path::{Path, PathBuf};

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Object, Options, Plan, Target, save, write};
use ckpt_infer::{Cache, KvType, LoadOptions, Logits, Model, Pool, Runner, Sequence, WhenFull};
use serde_pickle::HashableValue;

/// The same codes and scales: the same arithmetic to the last bit.
const EXACT: f32 = 0.0;
/// Where scales or the embedding are rounded, activations now and then round to the neighbour of 127 steps.
const NEAR: f32 = 0.1;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn convert(source: &Path, settings: Gguf, to: &Path) {
    let checkpoint = ckpt_inspect::open(source).unwrap();
    let options = Options { force: true, ..Options::new(Target::Gguf(settings)) };
    let mut plan = Plan::new(&checkpoint, &options).unwrap();
    let stop = Default::default();
    write(&mut plan, &options, to, Control { progress: &|_| (), stop: &stop }).unwrap();
}

fn logits(path: &Path) -> (Vec<f32>, Model) {
    let pool = Pool::new(2);
    let model = Model::open(path, &LoadOptions::default(), &pool).unwrap();
    let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 1024).collect();
    let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
    let sequence = Sequence { ids: &ids, cache: &mut cache, logits: Logits::All };
    let logits = Runner::new(&model, &pool).forward(&mut [sequence]).unwrap().to_vec();
    (logits, model)
}

/// Largest difference of two logits over the standard deviation of the first.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let deviation = (a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32).sqrt();
    a.iter()
        .zip(b)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most })
        / deviation
}

fn quant(layers: Quant, embed: Quant) -> Gguf {
    Gguf { quant: Some(layers), embed: Some(embed), ..Gguf::default() }
}

/// Converts `source` in each way and holds its logits to those of the source.
fn hold(source: &Path, cases: &[(Gguf, f32)]) {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("model.gguf");
    let (wanted, original) = logits(source);
    for &(settings, most) in cases {
        convert(source, settings, &to);
        let (got, model) = logits(&to);
        let apart = apart(&wanted, &got);
        assert!(apart <= most, "{settings:?}: {apart}");
        let (ours, theirs) = (model.config(), original.config());
        assert_eq!(ours.use_bitlinear_ffn, theirs.use_bitlinear_ffn);
        assert_eq!(ours.use_bitlinear_attn, theirs.use_bitlinear_attn);
        assert_eq!(ours.attn_logit_soft_cap, theirs.attn_logit_soft_cap);
        assert_eq!(ours.final_logit_soft_cap, theirs.final_logit_soft_cap);
    }
}

#[test]
fn plain_types_give_the_logits_of_their_source() {
    let latent = Gguf { latent: true, ..quant(Quant::F32, Quant::F32) };
    for source in ["healthy-run/step-02000.pt", "collapse-run/step-04000.pt"] {
        let cases = [
            (latent, EXACT),
            (quant(Quant::F32, Quant::F32), EXACT),
            (quant(Quant::F16, Quant::F32), NEAR),
            (quant(Quant::BF16, Quant::F32), NEAR),
            (quant(Quant::Q8_0, Quant::Q8_0), NEAR),
        ];
        hold(&fixture(source), &cases);
    }
}

/// A student whose rows fill the blocks of 256 that the ternary types have.
fn wide_student(path: &Path) {
    let mut state = 1u64;
    let mut normal = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.05
        });
        Object::Floats { shape: shape.to_vec(), values: values.collect() }
    };
    let ones = |n: usize| Object::Floats { shape: vec![n], values: vec![1.0; n].into() };
    let mut weights = vec![("embed_tokens".to_string(), normal(&[1024, 256])), ("norm".into(), ones(256))];
    for layer in 0..2 {
        for (name, tensor) in [
            ("input_layernorm", ones(256)),
            ("post_attention_layernorm", ones(256)),
            ("self_attn.q_norm", ones(64)),
            ("self_attn.k_norm", ones(64)),
            ("self_attn.q_proj", normal(&[256, 256])),
            ("self_attn.k_proj", normal(&[128, 256])),
            ("self_attn.v_proj", normal(&[128, 256])),
            ("self_attn.o_proj", normal(&[256, 256])),
            ("mlp.gate_proj", normal(&[512, 256])),
            ("mlp.up_proj", normal(&[512, 256])),
            ("mlp.down_proj", normal(&[256, 512])),
        ] {
            weights.push((format!("layers.{layer}.{name}"), tensor));
        }
    }
    let key = |name: String| HashableValue::String(format!("{name}.weight"));
    let weights = weights.into_iter().map(|(name, tensor)| (key(name), tensor)).collect();
    save(&Object::dict([("model_state_dict", Object::Dict(weights))]), path, false).unwrap();
}

#[test]
fn ternary_types_give_the_logits_of_their_source() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("student.pt");
    wide_student(&source);
    let exact = |layers| Gguf { exact_scales: true, ..quant(layers, Quant::F32) };
    let cases = [
        (quant(Quant::I2S, Quant::F32), EXACT),
        (exact(Quant::Tq1_0), EXACT),
        (exact(Quant::Tq2_0), EXACT),
        (quant(Quant::Tq1_0, Quant::F32), NEAR),
        (quant(Quant::Tq2_0, Quant::F32), NEAR),
        (quant(Quant::Tq2_0, Quant::F16), NEAR),
        (quant(Quant::Tq2_0, Quant::Q8_0), NEAR),
    ];
    hold(&source, &cases);
}
