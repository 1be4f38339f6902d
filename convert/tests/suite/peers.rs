//! PyTorch, numpy, safetensors, gguf and tokenizers read what was written here. Needs a Python that has them, named by
//! CKPT_PEERS_PYTHON; without one the test says that it skips, or fails where CKPT_REQUIRE_PEERS=1.

use std::path::PathBuf;

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Options, Plan, Target, write};
use ckpt_inspect::{DType, open};
use ckpt_kit::safetensors::raw;
use ckpt_kit::student::Student;
use ckpt_kit::{fixtures, peers, torch};

#[test]
fn others_read_the_same() {
    let Some(python) = peers::python(&["torch", "numpy", "safetensors", "gguf", "tokenizers"]) else {
        return;
    };
    let fixtures = fixtures::fixture("");
    let written = tempfile::tempdir().unwrap();
    let convert = |source: PathBuf, options: Options, name: &str| {
        let checkpoint = open(&source).unwrap();
        let mut plan = Plan::new(&checkpoint, &options).unwrap();
        let stop = Default::default();
        let control = Control::new(&|_| (), &stop);
        write(&mut plan, &options, &written.path().join(name), control).unwrap();
    };
    let pt = || Options::new(Target::Torch);
    for (options, name) in [
        (pt().with(|o| o.keep_optimizer = true), "full.pt"),
        (pt(), "lean.pt"),
        (pt().with(|o| o.dtype = Some(DType::F16)), "half.pt"),
        (pt().with(|o| o.dtype = Some(DType::BF16)), "brain.pt"),
        (Options::new(Target::SafeTensors), "flat.safetensors"),
        (Options::new(Target::Hf { packed: false }).with(|o| o.max_shard_bytes = Some(200_000)), "hf"),
        (Options::new(Target::Hf { packed: true }), "hf-packed"),
        (Options::new(Target::I2s), "i2s.pt"),
        (Options::new(Target::I2sSafeTensors), "packed.safetensors"),
        (Options::new(Target::Npz), "arrays.npz"),
        (Options::new(Target::Npz).with(|o| o.dtype = Some(DType::F16)), "half.npz"),
    ] {
        convert(fixtures.join("healthy-run/step-02000.pt"), options, name);
    }
    convert(fixtures.join("formats/dtypes_int.pt"), Options::new(Target::Npz), "integers.npz");
    let odd = written.path().join("odd.safetensors");
    let header = r#"{"a/b c":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"ünï\"\n'":{"dtype":"F32","shape":[0,3],"data_offsets":[4,4]},"x\\y.npy":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"":{"dtype":"I8","shape":[1,1,1],"data_offsets":[8,9]}}"#;
    std::fs::write(&odd, raw(header, &[1; 9])).unwrap();
    convert(odd, Options::new(Target::Npz), "odd.npz");
    // As many entries as 16 bits count.
    let many = written.path().join("many.safetensors");
    let entries = (0..0xffff).map(|i| {
        let entry = serde_json::json!({"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]});
        (i.to_string(), entry)
    });
    let header = serde_json::Value::Object(entries.collect()).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[7; 0xffff]].concat();
    std::fs::write(&many, bytes).unwrap();
    convert(many, Options::new(Target::Npz), "many.npz");
    let student = || written.path().join("student.pt");
    std::fs::write(student(), torch::checkpoint(&Student::default().drawn(0.05), &[])).unwrap();
    for quant in Quant::all().filter(|q| *q != Quant::I2S) {
        let settings = Gguf::new(quant, quant);
        convert(student(), Options::new(Target::Gguf(settings)), &format!("{quant}.gguf"));
        // What the blocks say to this suite.
        let floats = pt().with(|o| o.dtype = Some(DType::F32));
        convert(written.path().join(format!("{quant}.gguf")), floats, &format!("{quant}.decoded.pt"));
    }
    // A tokenizer beside the source goes where the weights go.
    let model = written.path().join("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::copy(fixtures.join("healthy-run/step-02000.pt"), model.join("model.pt")).unwrap();
    std::fs::copy(fixtures.join("tokenizer.json"), model.join("tokenizer.json")).unwrap();
    convert(model.join("model.pt"), Options::new(Target::Hf { packed: false }), "hf-tokenizer");
    convert(model.join("model.pt"), Options::new(Target::Gguf(Gguf::default())), "model/tokenizer.gguf");
    let unknown = Options::new(Target::Gguf(Gguf::default()));
    convert(fixtures.join("formats/views.pt"), unknown, "model/views.gguf");
    let gguf = Options::new(Target::Gguf(Gguf::default().with(|g| g.latent = true)));
    convert(student(), gguf.clone(), "latent.gguf");
    convert(student(), gguf.with(|o| o.max_shard_bytes = Some(100_000)), "split-gguf");
    std::fs::create_dir(written.path().join("formats")).unwrap();
    for entry in std::fs::read_dir(fixtures.join("formats")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "pt") && !path.ends_with("truncated.pt") {
            let name = format!("formats/{}", path.file_name().unwrap().to_str().unwrap());
            convert(path, pt(), &name);
        }
    }
    for (script, word) in [("peers.py", "all read the same"), ("gguf_peers.py", "gguf reads the same")] {
        let said = python.script("convert", script, &[fixtures.as_path(), written.path()]);
        assert!(said.contains(word), "{said}");
    }
}
