//! The student's GGUF files are run as their source is: BitLinear layers, soft caps and scales come along.

use std::path::Path;

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Note, Object, Options, Plan, Target, save, write};
use ckpt_infer::{Config, Error, LoadOptions, Model, Pool, RopeScaling};
use ckpt_inspect::meaning::architecture::STUDENT;
use ckpt_inspect::metadata;
use ckpt_inspect::metadata::HashableValue;
use ckpt_kit::fixtures::fixture;
use ckpt_kit::student::Student;
use ckpt_kit::torch;
use serde_json::json;

/// The same codes and scales: the same arithmetic to the last bit.
const EXACT: f32 = 0.0;
/// Where scales or the embedding are rounded, activations now and then round to the neighbour of 127 steps.
const NEAR: f32 = 0.1;

fn convert(source: &Path, settings: Gguf, to: &Path) {
    write_as(source, Target::Gguf(settings), to);
}

/// Converts, and returns the notes.
fn write_as(source: &Path, target: Target, to: &Path) -> Vec<Note> {
    let checkpoint = ckpt_inspect::open(source).unwrap();
    let options = Options::new(target).with(|o| o.force = true);
    let mut plan = Plan::new(&checkpoint, &options).unwrap();
    let stop = Default::default();
    write(&mut plan, &options, to, Control::new(&|_| (), &stop)).unwrap();
    plan.notes
}

/// A student whose rows fill the blocks of ternary types.
fn student(path: &Path) {
    std::fs::write(path, torch::checkpoint(&Student::default().drawn(0.05), &[])).unwrap();
}

/// A copy of a student with another configuration.
fn configured(source: &Path, change: impl FnOnce(&mut serde_json::Value), to: &Path) {
    let checkpoint = ckpt_inspect::open(source).unwrap();
    let mut config = metadata::to_json(&checkpoint.metadata)["config"].take();
    if config.is_null() {
        config = json!({"model": checkpoint.model.student.as_ref().map(|student| student.to_record())});
    }
    change(&mut config["model"]);
    let weights = checkpoint.tensors.iter().filter(|t| t.name.starts_with("model_state_dict.")).map(|t| {
        let values = checkpoint.values(t).unwrap();
        let floats = Object::Floats { shape: t.shape.clone(), values: values.into() };
        (HashableValue::String(t.name["model_state_dict.".len()..].into()), floats)
    });
    let entries = [
        ("model_state_dict", Object::Dict(weights.collect())),
        ("config", Object::Plain(metadata::from_json(config))),
    ];
    save(&Object::dict(entries), to, false).unwrap();
}

fn logits(path: &Path) -> (Vec<f32>, Model) {
    let pool = Pool::new(2);
    let model = Model::open(path, &LoadOptions::default(), &pool).unwrap();
    let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 1024).collect();
    (crate::logits::logits(&model, &pool, &ids), model)
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
    Gguf::new(layers, embed)
}

/// Converts `source` in each way and compares its logits with those of the source.
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
    let latent = quant(Quant::F32, Quant::F32).with(|g| g.latent = true);
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
    student(&source);
    let exact = |layers| quant(layers, Quant::F32).with(|g| g.exact_scales = true);
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

/// The configuration without what other formats say otherwise; GGUF has epsilons as f32.
fn computed(model: &Model) -> Config {
    let mut config = model.config().clone();
    let single = |x: f64| f64::from(x as f32);
    config.architecture = &STUDENT;
    config.rope_pairing = Default::default();
    config.norm_eps = single(config.norm_eps);
    let floor = config.quantization_floor;
    config.quantization_floor = floor.with_number(single(floor.number()));
    config
}

/// Out of GGUF into everything else: the configuration comes along, and codes are not rounded a second time.
#[test]
fn the_student_comes_back_from_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    student(&at("plain.pt"));
    let change = |config: &mut serde_json::Value| {
        config["attn_logit_soft_cap"] = json!(20.0);
        config["final_logit_soft_cap"] = json!(null);
        config["rope_base"] = json!(5000.0);
        config["norm_eps"] = json!(1e-3);
    };
    configured(&at("plain.pt"), change, &at("source.pt"));
    let (wanted, original) = logits(&at("source.pt"));
    for (layers, most) in [(Quant::F32, EXACT), (Quant::F16, NEAR), (Quant::Q8_0, NEAR), (Quant::Tq2_0, NEAR)]
    {
        convert(&at("source.pt"), quant(layers, Quant::F32), &at("model.gguf"));
        let (of_gguf, _) = logits(&at("model.gguf"));
        for (target, name) in [
            (Target::Torch, "back.pt"),
            (Target::SafeTensors, "back.safetensors"),
            (Target::Hf { packed: false }, "back"),
        ] {
            let notes = write_as(&at("model.gguf"), target, &at(name));
            let (got, model) = logits(&at(name));
            assert_eq!(apart(&of_gguf, &got), EXACT, "{layers} {name}");
            assert!(apart(&wanted, &got) <= most, "{layers} {name}");
            assert_eq!(computed(&model), computed(&original), "{layers} {name}");
            let is_noted = |note: &Note| match name {
                "back" => matches!(note, Note::SoftCaps { architecture: None, .. }),
                _ => matches!(note, Note::TernaryForm),
            };
            assert!(notes.iter().any(is_noted), "{notes:?}");
            // And to GGUF once more, requesting float weights that do not exist.
            convert(&at(name), quant(Quant::F32, Quant::F32).with(|g| g.latent = true), &at("again.gguf"));
            assert_eq!(apart(&got, &logits(&at("again.gguf")).0), EXACT, "{layers} {name}");
        }
    }
    // Float weights stay float weights, and are rounded if the next file asks for it.
    convert(&at("source.pt"), quant(Quant::F32, Quant::F32).with(|g| g.latent = true), &at("latent.gguf"));
    for (target, name) in [(Target::Torch, "latent.pt"), (Target::Gguf(Gguf::default()), "codes.gguf")] {
        write_as(&at("latent.gguf"), target, &at(name));
        assert_eq!(apart(&wanted, &logits(&at(name)).0), EXACT, "{name}");
    }
}

#[test]
fn a_llama_student_comes_back_from_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let checkpoint = ckpt_inspect::open(fixture("healthy-run/step-02000.pt")).unwrap();
    let weights = checkpoint.tensors.iter().filter_map(|t| {
        let name =
            t.name.strip_prefix("model_state_dict.").filter(|name| !name.contains("self_attn.q_norm"))?;
        let name = Some(name).filter(|name| !name.contains("self_attn.k_norm"))?;
        let values = checkpoint.values(t).unwrap().into();
        Some((HashableValue::String(name.into()), Object::Floats { shape: t.shape.clone(), values }))
    });
    let config = json!({"model": {"hidden_dim": 64, "head_dim": 32, "use_bitlinear": false, "rope_base": 1e4,
                                  "attn_logit_soft_cap": null, "final_logit_soft_cap": 30.0}});
    let entries = [
        ("model_state_dict", Object::Dict(weights.collect())),
        ("config", Object::Plain(metadata::from_json(config))),
    ];
    save(&Object::dict(entries), &at("source.pt"), false).unwrap();
    let (wanted, original) = logits(&at("source.pt"));
    assert!(!original.config().use_qk_norm);
    convert(&at("source.pt"), quant(Quant::F32, Quant::F32), &at("model.gguf"));
    assert!(apart(&wanted, &logits(&at("model.gguf")).0) < 1e-4, "rows in another order are summed so");
    for (target, name) in [(Target::Torch, "back.pt"), (Target::Hf { packed: false }, "back")] {
        write_as(&at("model.gguf"), target, &at(name));
        let (got, model) = logits(&at(name));
        assert_eq!(apart(&wanted, &got), EXACT, "{name}");
        assert_eq!(computed(&model), computed(&original), "{name}");
    }
}

#[test]
fn stretched_positions_go_along_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let plain = fixture("healthy-run/step-02000.pt");
    let (unstretched, _) = logits(&plain);
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 64});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 0.7,
                      "mscale_all_dim": 0.4, "beta_fast": 16.0});
    let linear = json!({"type": "linear", "factor": 2.0});
    for (number, scaling) in [linear, llama3, yarn].into_iter().enumerate() {
        let file = |name: &str| at(&format!("{number}-{name}"));
        configured(&plain, |config| config["rope_scaling"] = scaling.clone(), &file("source.pt"));
        let (wanted, original) = logits(&file("source.pt"));
        assert!(apart(&wanted, &unstretched) > 0.01, "{scaling}");
        assert_ne!(original.config().rope_scaling, RopeScaling::None);
        convert(&file("source.pt"), quant(Quant::F32, Quant::F32), &file("model.gguf"));
        for (from, target, name) in [
            ("source.pt", Target::Hf { packed: false }, "hf"),
            ("model.gguf", Target::Torch, "back.pt"),
            ("model.gguf", Target::SafeTensors, "back.safetensors"),
            ("model.gguf", Target::Hf { packed: false }, "back"),
            ("model.gguf", Target::Gguf(Gguf::default()), "again.gguf"),
        ] {
            write_as(&file(from), target, &file(name));
            let (got, model) = logits(&file(name));
            assert_eq!(apart(&wanted, &got), EXACT, "{scaling} {name}");
            assert_eq!(computed(&model), computed(&original), "{scaling} {name}");
        }
        let config = std::fs::read_to_string(file("back").join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["rope_scaling"]["factor"], scaling["factor"]);
        assert!(config["rope_scaling"]["rope_type"].is_string() && config["rope_scaling"]["type"].is_null());
        let back = ckpt_inspect::open(file("back")).unwrap();
        assert!(back.tensor("rope_freqs.weight").is_err(), "config.json says it");
    }
    // Models that are not run here are not written for other programs, which would run them otherwise.
    let change =
        |config: &mut serde_json::Value| config["rope_scaling"] = json!({"type": "dynamic", "factor": 4.0});
    configured(&plain, change, &at("dynamic.pt"));
    let source = ckpt_inspect::open(at("dynamic.pt")).unwrap();
    let options = Options::new(Target::Gguf(quant(Quant::F32, Quant::F32)));
    let (mut plan, stop) = (Plan::new(&source, &options).unwrap(), Default::default());
    let why = write(&mut plan, &options, &at("dynamic.gguf"), Control::new(&|_| (), &stop))
        .unwrap_err()
        .to_string();
    assert!(why.contains("its rotary scaling is `dynamic`"), "{why}");
    let refused = Model::open(&at("dynamic.pt"), &LoadOptions::default(), &Pool::new(1));
    assert!(
        matches!(&refused, Err(Error::Unsupported { what, .. }) if what.contains("dynamic")),
        "{refused:?}"
    );
}
