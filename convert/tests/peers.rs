//! PyTorch, numpy, safetensors and gguf read what was written here. Needs a Python that has them, named by
//! CKPT_PEERS_PYTHON; without one the test says that it skips, or fails where CKPT_REQUIRE_PEERS=1.

use std::path::{Path, PathBuf};
use std::process::Command;

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Options, Plan, Target, write};
use ckpt_inspect::{DType, open};

#[test]
fn others_read_the_same() {
    let Some(python) = std::env::var_os("CKPT_PEERS_PYTHON") else {
        let required = std::env::var_os("CKPT_REQUIRE_PEERS").is_some_and(|v| v == "1");
        assert!(!required, "CKPT_PEERS_PYTHON must name a Python with torch, numpy, safetensors and gguf");
        eprintln!("skipped: CKPT_PEERS_PYTHON names no Python with torch, numpy, safetensors and gguf");
        return;
    };
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let written = tempfile::tempdir().unwrap();
    let convert = |source: PathBuf, options: Options, name: &str| {
        let checkpoint = open(&source).unwrap();
        let mut plan = Plan::new(&checkpoint, &options).unwrap();
        let stop = Default::default();
        let control = Control { progress: &|_| (), stop: &stop };
        write(&mut plan, &options, &written.path().join(name), control).unwrap();
    };
    let pt = || Options::new(Target::Torch);
    for (options, name) in [
        (Options { keep_optimizer: true, ..pt() }, "full.pt"),
        (pt(), "lean.pt"),
        (Options { dtype: Some(DType::F16), ..pt() }, "half.pt"),
        (Options { dtype: Some(DType::BF16), ..pt() }, "brain.pt"),
        (Options::new(Target::SafeTensors), "flat.safetensors"),
        (Options { max_shard_bytes: Some(200_000), ..Options::new(Target::Hf { packed: false }) }, "hf"),
        (Options::new(Target::Hf { packed: true }), "hf-packed"),
        (Options::new(Target::I2s), "i2s.pt"),
        (Options::new(Target::I2sSafeTensors), "packed.safetensors"),
    ] {
        convert(fixtures.join("healthy-run/step-02000.pt"), options, name);
    }
    for quant in Quant::all().filter(|q| *q != Quant::I2S) {
        let settings = Gguf { quant: Some(quant), embed: Some(quant), ..Gguf::default() };
        let student = fixtures.join("healthy-run/step-02000.pt");
        convert(student, Options::new(Target::Gguf(settings)), &format!("{quant}.gguf"));
    }
    let gguf = Options::new(Target::Gguf(Gguf { latent: true, ..Gguf::default() }));
    let student = || fixtures.join("healthy-run/step-02000.pt");
    convert(student(), gguf.clone(), "latent.gguf");
    convert(student(), Options { max_shard_bytes: Some(100_000), ..gguf }, "split-gguf");
    std::fs::create_dir(written.path().join("formats")).unwrap();
    for entry in std::fs::read_dir(fixtures.join("formats")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "pt") && !path.ends_with("truncated.pt") {
            let name = format!("formats/{}", path.file_name().unwrap().to_str().unwrap());
            convert(path, pt(), &name);
        }
    }
    for (script, word) in [("peers.py", "all read the same"), ("gguf_peers.py", "gguf reads the same")] {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
        let output = Command::new(&python).arg(script).arg(&fixtures).arg(written.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(word), "{said}");
    }
}
