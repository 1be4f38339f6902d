//! GGUF files from checkpoints: types by rule, values and keys read back, split sets, exact scales, repairs.

use std::path::{Path, PathBuf};

use ckpt_convert::quant::Quant;
use ckpt_convert::{
    Control, Error, Gguf, Object, Options, Plan, Target, save, verify, verify_written, write,
};
use ckpt_inspect::ggml::GgmlType;
use ckpt_inspect::gguf::{Header, Keys, Layout, OutputEntry};
use ckpt_inspect::metadata::HashableValue;
use ckpt_inspect::{Checkpoint, DType, Format, metadata, open};
use ckpt_kit::fixtures::fixture;
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::student::Student;

const HEALTHY: &str = "healthy-run/step-02000.pt";

/// `source` written with `options`, its notes, and whether it says the same.
struct Converted {
    folder: tempfile::TempDir,
    notes: Vec<String>,
    agrees: bool,
}

impl Converted {
    fn new(source: &Path, options: &Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = if options.max_shard_bytes.is_some() { "model" } else { "model.gguf" };
        let checkpoint = open(source).unwrap();
        let mut plan = Plan::new(&checkpoint, options).unwrap();
        let stop = Default::default();
        let path = folder.path().join(name);
        write(&mut plan, options, &path, Control::new(&|_| (), &stop)).unwrap();
        let report = verify_written(&plan, &path).unwrap();
        let failures: Vec<_> = report.failures().collect();
        assert!(report.extra.is_empty() && report.missing.is_empty(), "{report:?}");
        eprintln!("{failures:?}");
        let (notes, agrees) = (plan.notes.clone(), report.agrees());
        Converted { folder, notes, agrees }
    }

    fn path(&self) -> PathBuf {
        let file = self.folder.path().join("model.gguf");
        if file.exists() { file } else { self.folder.path().join("model") }
    }

    fn open(&self) -> Checkpoint {
        let checkpoint = open(self.path()).unwrap();
        assert!(!checkpoint.is_damaged(), "{:?}", checkpoint.damage);
        checkpoint
    }

    fn told(&self, what: &str) -> bool {
        self.notes.iter().any(|note| note.contains(what))
    }
}

fn options(settings: Gguf) -> Options {
    Options::new(Target::Gguf(settings))
}

fn with(quant: Quant) -> Options {
    options(Gguf::default().with(|g| g.quant = Some(quant)))
}

fn plan_error(source: &Path, options: &Options) -> String {
    match Plan::new(&open(source).unwrap(), options) {
        Err(error @ (Error::Target(_) | Error::Source { .. })) => error.to_string(),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

/// A SafeTensors model of F32 tensors in a folder with a config.json; elements count up from small numbers.
fn hugging_face(config: &serde_json::Value, tensors: &[(&str, &[usize])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let values = |shape: &[usize]| -> Vec<f32> {
        (0..shape.iter().product()).map(|i: usize| (i % 251) as f32 / 256.0 - 0.4).collect()
    };
    let file =
        tensors.iter().fold(SafeTensors::new(), |file, (name, shape)| file.f32s(name, shape, &values(shape)));
    file.write(&folder.path().join("model.safetensors"));
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn llama_config() -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 1, "intermediate_size": 256,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    })
}

const LLAMA: [(&str, &[usize]); 6] = [
    ("model.embed_tokens.weight", &[40, 512]),
    ("model.layers.0.self_attn.q_proj.weight", &[512, 512]),
    ("model.layers.0.self_attn.k_proj.weight", &[256, 512]),
    ("model.layers.0.mlp.down_proj.weight", &[512, 256]),
    ("model.layers.0.input_layernorm.weight", &[512]),
    ("model.layers.0.self_attn.rotary_emb.inv_freq", &[64]),
];

#[test]
fn every_type_says_the_same() {
    let llama = hugging_face(&llama_config(), &LLAMA);
    for quant in Quant::all().filter(|q| !q.is_ternary()) {
        let converted = Converted::new(llama.path(), &with(quant));
        assert!(converted.agrees, "{quant}");
        let written = converted.open();
        let down = written.tensor("blk.0.ffn_down.weight").unwrap();
        assert_eq!((down.dtype, down.shape.as_slice()), (quant.dtype(), [512, 256].as_slice()));
        assert_eq!(written.tensor("blk.0.attn_norm.weight").unwrap().dtype, DType::F32);
        let embed = if quant.is_packed() { Quant::Q8_0 } else { quant };
        assert_eq!(written.tensor("token_embd.weight").unwrap().dtype, embed.dtype());
        assert!(converted.told("inv_freq"));
    }
}

#[test]
fn another_models_tokenizer_is_refused() {
    let llama = hugging_face(&llama_config(), &LLAMA);
    let options = with(Quant::F16).with(|o| o.tokenizer = Some(fixture("tokenizer.json")));
    let checkpoint = open(llama.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stop = Default::default();
    let written = Plan::new(&checkpoint, &options).and_then(|mut plan| {
        let control = Control::new(&|_| (), &stop);
        write(&mut plan, &options, &folder.path().join("model.gguf"), control)
    });
    let Err(Error::Target(message)) = written else { panic!("1024 tokens for 40 rows") };
    assert!(message.contains("1024") && message.contains("40"), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// The rows of an embedding without columns cost nothing to announce, and a token each to name.
#[test]
fn rows_beyond_any_vocabulary_are_refused() {
    let rows: &[usize] = &[1 << 33, 0];
    let tensors: Vec<(&str, &[usize])> =
        [("model.embed_tokens.weight", rows)].into_iter().chain(LLAMA[1..].iter().copied()).collect();
    let llama = hugging_face(&llama_config(), &tensors);
    std::fs::copy(fixture("tokenizer.json"), llama.path().join("tokenizer.json")).unwrap();
    let checkpoint = open(llama.path()).unwrap();
    let options = options(Gguf::default());
    let stop = Default::default();
    let path = llama.path().join("model.gguf");
    let error = Plan::new(&checkpoint, &options)
        .and_then(|mut plan| write(&mut plan, &options, &path, Control::new(&|_| (), &stop)))
        .unwrap_err();
    assert!(error.to_string().contains("8589934592 rows"), "{error}");
    assert!(!path.exists());
}

#[test]
fn the_student_becomes_qwen3() {
    let converted = Converted::new(&fixture(HEALTHY), &with(Quant::F16));
    assert!(converted.agrees);
    let written = converted.open();
    assert_eq!(written.format, Format::Gguf { version: 3, big_endian: false });
    assert_eq!(written.warnings, [""; 0]);
    let json = metadata::to_json(&written.metadata);
    let head_dim = written.tensor("blk.0.attn_q_norm.weight").unwrap().shape[0];
    let told = serde_json::json!({
        "general.architecture": "qwen3",
        "general.file_type": 1,
        "qwen3.block_count": 2,
        "qwen3.embedding_length": 64,
        "qwen3.attention.key_length": head_dim,
        "qwen3.vocab_size": 1024,
        "qwen3.attn_logit_softcapping": 50.0,
        "qwen3.final_logit_softcapping": 30.0,
        "ckpt.use_bitlinear_ffn": true,
        "tokenizer.ggml.model": "none",
    });
    for (key, value) in told.as_object().unwrap() {
        assert_eq!(json[key], *value, "{key}: {json}");
    }
    for what in ["soft caps", "BitLinear", "no tokenizer", "rounded to -1, 0, +1"] {
        assert!(converted.told(what), "{what}: {:?}", converted.notes);
    }
    // What is written is what BitLinear multiplies with.
    let source = open(fixture(HEALTHY)).unwrap();
    let packed = open(fixture("packed/nano-healthy-2000-i2s.pt")).unwrap();
    let find = |c: &Checkpoint, name: &str| c.tensors.iter().position(|t| t.name.ends_with(name)).unwrap();
    let codes = packed.ternary_codes(&packed.tensors[find(&packed, "layers.1.mlp.gate_proj.weight")]);
    let values = written.values(written.tensor("blk.1.ffn_gate.weight").unwrap()).unwrap();
    let signs: Vec<i8> = values.iter().map(|v| if *v == 0.0 { 0 } else { v.signum() as i8 }).collect();
    assert_eq!(signs, codes.unwrap().unwrap());
    let latent = Converted::new(
        &fixture(HEALTHY),
        &options(Gguf::default().with(|g| (g.quant, g.latent) = (Some(Quant::F32), true))),
    );
    let latent = latent.open();
    assert!(verify(&source, &latent).unwrap().agrees());
    let report = verify(&source, &written).unwrap();
    assert!(report.agrees());
    let told = |t: &&ckpt_convert::Agreement| t.detail.as_ref().is_some_and(|d| d.contains("ternary form"));
    assert_eq!(report.tensors.iter().filter(told).count(), 14, "the float weights are not there");
    // The same codes and another scale are not the same.
    let other = open(fixture("healthy-run/step-01000.pt")).unwrap();
    assert!(!verify(&other, &written).unwrap().agrees());
}

#[test]
fn rows_that_blocks_do_not_fill_are_f16_aloud() {
    let converted = Converted::new(&fixture(HEALTHY), &options(Gguf::default()));
    assert!(converted.agrees);
    assert!(converted.told("no multiple of the 256 elements of a tq2_0 block"), "{:?}", converted.notes);
    assert_eq!(converted.open().tensor("blk.0.attn_q.weight").unwrap().dtype, DType::F16);
}

/// A one-layer student of width 256, whose gate is ternary times a tiny scale, as a PyTorch file.
fn student(folder: &Path, scale: f32) -> PathBuf {
    let sizes = Student { vocab: 40, layers: 1, mlp: 256, tied: false, ..Student::default() };
    let tensors = sizes.tensors(|name, i| match name.contains("gate_proj") {
        true => scale * ((i * i / 3 % 3) as f32 - 1.0),
        false => (i * i % 509) as f32 / 512.0 - 0.5,
    });
    let path = folder.join("student.safetensors");
    SafeTensors::of(&tensors).write(&path);
    path
}

#[test]
fn ternary_types_hold_codes_and_scales() {
    let folder = tempfile::tempdir().unwrap();
    let source = student(folder.path(), 0.031);
    for quant in [Quant::Tq1_0, Quant::Tq2_0, Quant::I2S, Quant::Q8_0, Quant::F32, Quant::BF16] {
        let converted = Converted::new(&source, &with(quant));
        assert!(converted.agrees, "{quant}");
        let written = converted.open();
        assert_eq!(written.tensor("blk.0.attn_q.weight").unwrap().dtype, quant.dtype());
        assert_eq!(
            written.tensor("output.weight").unwrap().dtype,
            if quant.is_packed() { DType::Ggml(GgmlType::Q8_0) } else { quant.dtype() }
        );
        let gate = written.values(written.tensor("blk.0.ffn_gate.weight").unwrap()).unwrap();
        let largest = gate.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        assert!((largest / 0.031 - 1.0).abs() < 2f32.powi(if quant == Quant::BF16 { -8 } else { -11 }));
        // And from there to every other ternary type, and back to PyTorch's i2s.
        for next in [Quant::Tq1_0, Quant::Tq2_0, Quant::I2S] {
            let again = Converted::new(
                &converted.path(),
                &with(next).with(|o| {
                    o.ternary = Some(
                        globset::Glob::new("blk.*_{q,k,v,output,gate,up,down}.weight")
                            .unwrap()
                            .compile_matcher(),
                    )
                }),
            );
            assert!(again.agrees, "{quant} to {next}");
            let values = again.open();
            let same =
                values.ternary_codes(values.tensor("blk.0.ffn_gate.weight").unwrap()).unwrap().unwrap();
            let signs = gate.iter().map(|v| if *v == 0.0 { 0 } else { v.signum() as i8 });
            assert!(signs.eq(same.into_iter()), "{quant} to {next}");
        }
    }
}

#[test]
fn a_scale_that_f16_loses_is_told_and_can_stand_beside() {
    let folder = tempfile::tempdir().unwrap();
    let source = student(folder.path(), 5e-8);
    let lost = Converted::new(&source, &with(Quant::Tq2_0));
    assert!(lost.told("scales that f16 holds badly"), "{:?}", lost.notes);
    let source_far_gone = student(folder.path(), 1e-9);
    assert!(!Converted::new(&source_far_gone, &with(Quant::Tq2_0)).agrees, "the gate became zero");

    let exact = Gguf::default().with(|g| (g.quant, g.exact_scales) = (Some(Quant::Tq2_0), true));
    let converted = Converted::new(&source_far_gone, &options(exact));
    assert!(converted.agrees && !converted.told("f16 holds badly"), "{:?}", converted.notes);
    let written = converted.open();
    let gate = written.tensor("blk.0.ffn_gate.weight").unwrap();
    assert_eq!(gate.scale, Some(1e-9));
    assert_eq!(written.values(gate).unwrap().iter().fold(0.0f32, |a, b| a.max(*b)), 1e-9);
    let (stats, ternary) = written.measure(gate, false).unwrap();
    assert_eq!((stats.max, ternary.unwrap().scale.map(|s| s as f32)), (Some(f64::from(1e-9f32)), Some(1e-9)));
    // It stays there when written again, in another ternary type too.
    for quant in [None, Some(Quant::Tq1_0)] {
        let again = Converted::new(&converted.path(), &options(Gguf::default().with(|g| g.quant = quant)));
        assert!(again.agrees);
        assert_eq!(again.open().tensor("blk.0.ffn_gate.weight").unwrap().scale, Some(1e-9), "{quant:?}");
    }
    let flat = Converted::new(&converted.path(), &with(Quant::F32));
    assert!(flat.agrees);
    assert!(flat.open().tensor("blk.0.ffn_gate.scale").is_err(), "it went into the values");
}

#[test]
fn llama_rows_are_interleaved_and_come_back() {
    let llama = hugging_face(&llama_config(), &LLAMA);
    let converted = Converted::new(llama.path(), &with(Quant::F32));
    assert!(converted.agrees);
    let (source, written) = (open(llama.path()).unwrap(), converted.open());
    let theirs = source.values(source.tensor("model.layers.0.self_attn.k_proj.weight").unwrap()).unwrap();
    let ours = written.values(written.tensor("blk.0.attn_k.weight").unwrap()).unwrap();
    // Two heads of 128 rows: row 2i of a head is row i of its first half, row 2i + 1 row i of its second.
    for (ours_row, theirs_row) in [(0, 0), (1, 64), (2, 1), (127, 127), (128, 128), (129, 192)] {
        assert_eq!(ours[ours_row * 512..][..512], theirs[theirs_row * 512..][..512], "{ours_row}");
    }
    let report = verify(&source, &written).unwrap();
    assert!(report.failures().next().is_none(), "{report:?}");
    let back = tempfile::tempdir().unwrap();
    let options = Options::new(Target::SafeTensors);
    let mut plan = Plan::new(&written, &options).unwrap();
    let stop = Default::default();
    let path = back.path().join("back.safetensors");
    write(&mut plan, &options, &path, Control::new(&|_| (), &stop)).unwrap();
    let back = open(&path).unwrap();
    let again = back.values(back.tensor("model.layers.0.self_attn.k_proj.weight").unwrap()).unwrap();
    assert_eq!(again, theirs);
    let factors = written.values(written.tensor("rope_freqs.weight").unwrap()).unwrap();
    assert_eq!((factors.len(), factors[0], factors[63]), (64, 1.0, 8.0));
}

#[test]
fn a_model_that_is_not_whole_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let source = open(fixture(HEALTHY)).unwrap();
    const UP: &str = "layers.1.mlp.up_proj.weight";
    let gate = "layers.1.mlp.gate_proj.weight";
    for (number, (name, rows, wanted)) in [
        (UP, None, format!("`{UP}` is missing")),
        (UP, Some(100), format!("`{UP}` has shape [100, 64] where the model needs [128, 64]")),
        (UP, Some(0), format!("`{UP}` has shape [0, 64]")),
        (gate, None, format!("`{gate}` is missing")),
    ]
    .into_iter()
    .enumerate()
    {
        let weights = source.tensors.iter().filter_map(|t| {
            let bare = t.name.strip_prefix("model_state_dict.")?;
            let (mut shape, mut values) = (t.shape.clone(), source.values(t).unwrap());
            if bare == name {
                shape[0] = rows?;
                values.truncate(shape[0] * shape[1]);
            }
            Some((HashableValue::String(bare.into()), Object::Floats { shape, values: values.into() }))
        });
        let path = folder.path().join(format!("{number}.pt"));
        save(&Object::dict([("model_state_dict", Object::Dict(weights.collect()))]), &path, false).unwrap();
        let broken = open(&path).unwrap();
        for (target, told) in [
            (Target::Gguf(Gguf::default()), true),
            (Target::Hf { packed: false }, true),
            (Target::Torch, false),
        ] {
            let plan = Plan::new(&broken, &Options::new(target)).unwrap();
            let found = plan.notes.iter().any(|note| note.contains("not whole") && note.contains(&wanted));
            assert_eq!(found, told, "{wanted}: {:?}", plan.notes);
        }
    }
    let whole = Plan::new(&source, &Options::new(Target::Hf { packed: false })).unwrap();
    assert!(whole.notes.iter().all(|note| !note.contains("not whole")), "{:?}", whole.notes);
}

#[test]
fn advice_on_scales_fits_the_rows() {
    let collapsed = fixture("collapse-run/step-04000.pt");
    let exact = Gguf::default().with(|g| (g.quant, g.exact_scales) = (Some(Quant::Tq2_0), true));
    let checkpoint = open(&collapsed).unwrap();
    let plan = Plan::new(&checkpoint, &options(exact)).unwrap();
    let told = |what: &str| plan.notes.iter().any(|note| note.contains(what));
    assert!(!told("--exact-scales (tq1_0") && told("--quant f32 or bf16 keeps them"), "{:?}", plan.notes);
}

#[test]
fn split_sets_open_as_one() {
    let split = with(Quant::F16).with(|o| o.max_shard_bytes = Some(60_000));
    let converted = Converted::new(&fixture(HEALTHY), &split);
    assert!(converted.agrees);
    let mut names: Vec<String> = std::fs::read_dir(converted.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let count = names.len();
    assert!(count > 2, "{names:?}");
    assert_eq!(names[0], format!("model-00001-of-{count:05}.gguf"));
    let bytes: Vec<Vec<u8>> =
        names.iter().map(|n| std::fs::read(converted.path().join(n)).unwrap()).collect();
    let headers: Vec<Header<'_>> = bytes.iter().map(|b| Header::parse(b).unwrap()).collect();
    let tensors: usize = headers.iter().map(|h| h.tensors.len()).sum();
    for (number, header) in headers.iter().enumerate() {
        let key = |key: &str| header.get(key).and_then(|v| v.as_i64());
        assert_eq!(key("split.no"), Some(number as i64));
        assert_eq!(key("split.count"), Some(count as i64));
        assert_eq!(key("split.tensors.count"), Some(tensors as i64));
        assert_eq!(header.get("general.architecture").is_some(), number == 0);
    }
    let whole = Converted::new(&converted.path(), &options(Gguf::default()));
    assert!(whole.agrees && verify(&whole.open(), &converted.open()).unwrap().agrees());
    assert!(metadata::to_json(&whole.open().metadata).get("split.no").is_none());
}

/// The seed's exporter wrote sizes in PyTorch's order, norms as F16 and no tokenizer.
#[test]
fn a_file_written_the_wrong_way_round_is_repaired() {
    let mut keys = Keys::default();
    keys.set("general.architecture", "qwen3");
    keys.set("qwen3.embedding_length", &256u32);
    keys.set("general.name", "old");
    let tensors: [(&str, &[usize]); 3] = [
        ("token_embd.weight", &[40, 256]),
        ("blk.0.attn_k.weight", &[64, 256]),
        ("blk.0.attn_norm.weight", &[256]),
    ];
    let turned: Vec<OutputEntry> = tensors
        .iter()
        .map(|(name, shape)| {
            OutputEntry::new(*name, GgmlType::F16, shape.iter().rev().copied().collect::<Vec<_>>())
        })
        .collect();
    let layout = Layout::new(&keys, &turned).unwrap();
    let mut bytes = layout.header.clone();
    bytes.resize(layout.len as usize, 0x2c);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.gguf");
    std::fs::write(&path, &bytes).unwrap();
    let old = open(&path).unwrap();
    assert!(old.warnings.iter().any(|w| w.text.contains("PyTorch's order")), "{:?}", old.warnings);
    let repaired = Converted::new(&path, &options(Gguf::default()));
    assert!(repaired.agrees);
    let new = repaired.open();
    assert_eq!(new.warnings, [""; 0]);
    assert_eq!(new.tensor("token_embd.weight").unwrap().shape, [40, 256]);
    assert_eq!(new.tensor("blk.0.attn_k.weight").unwrap().dtype, DType::F16, "its own type");
    assert_eq!(new.tensor("blk.0.attn_norm.weight").unwrap().dtype, DType::F32);
    assert_eq!(metadata::to_json(&new.metadata)["general.name"], "old");
}

#[test]
fn what_cannot_be_is_refused() {
    let llama = hugging_face(&llama_config(), &LLAMA);
    let gguf = Gguf::default();
    let refused = |gguf: Gguf| plan_error(llama.path(), &options(gguf));
    assert!(refused(gguf.with(|g| g.quant = Some(Quant::Tq2_0))).contains("--ternary"));
    assert!(refused(gguf.with(|g| g.exact_scales = true)).contains("tq1_0"));
    assert!(refused(gguf.with(|g| (g.quant, g.latent) = (Some(Quant::I2S), true))).contains("--latent"));
    let mut config = llama_config();
    config["architectures"] = serde_json::json!(["GemmaForCausalLM"]);
    let gemma = hugging_face(&config, &LLAMA);
    let checkpoint = open(gemma.path()).unwrap();
    let mut plan = Plan::new(&checkpoint, &options(gguf)).unwrap();
    let stop = Default::default();
    let path = gemma.path().join("out.gguf");
    let error = write(&mut plan, &options(gguf), &path, Control::new(&|_| (), &stop)).unwrap_err();
    assert!(error.to_string().contains("GemmaForCausalLM"), "{error}");
    assert!(!path.exists());
}

#[test]
fn patterns_choose_types() {
    let llama = hugging_face(&llama_config(), &LLAMA);
    let glob = |text: &str| globset::Glob::new(text).unwrap().compile_matcher();
    let chosen = with(Quant::Q8_0).with(|o| {
        o.dtypes = vec![
            (glob("blk.*.ffn_*"), Quant::Q6K.dtype()),
            (glob("token_embd*"), Quant::Q4_0.dtype()),
            (glob("*norm*"), DType::F16),
        ]
    });
    let converted = Converted::new(llama.path(), &chosen);
    assert!(converted.agrees);
    let written = converted.open();
    let dtype = |name: &str| written.tensor(name).unwrap().dtype.name();
    assert_eq!(dtype("blk.0.ffn_down.weight"), "Q6_K");
    assert_eq!(dtype("token_embd.weight"), "Q4_0");
    assert_eq!(dtype("blk.0.attn_q.weight"), "Q8_0");
    assert_eq!(dtype("blk.0.attn_norm.weight"), "float32", "norms are computed with in F32");
}
