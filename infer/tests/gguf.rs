//! The student's GGUF files are run as their source is: BitLinear layers, soft caps and scales come along.

#[path = "../../convert/tests/student/mod.rs"]
mod student;

use std::path::{Path, PathBuf};

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Options, Plan, Target, write};
use ckpt_infer::{Cache, KvType, LoadOptions, Logits, Model, Pool, Runner, Sequence, WhenFull};

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

#[test]
fn ternary_types_give_the_logits_of_their_source() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("student.pt");
    student::write(&source);
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
