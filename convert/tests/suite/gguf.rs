//! GGUF files from checkpoints: types by rule, values and keys read back, split sets, exact scales, repairs.

use std::path::{Path, PathBuf};

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Note, Options, Plan, Remedy, Target, verify, verify_written, write};
use ckpt_inspect::ggml::GgmlType;
use ckpt_inspect::gguf::{Header, Keys, Layout, OutputEntry};
use ckpt_inspect::{Checkpoint, DType, Format, metadata, open};
use ckpt_kit::fixtures::fixture;
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::student::Student;

pub(super) const HEALTHY: &str = "healthy-run/step-02000.pt";

/// Writes `source` with `options`; returns the copy, its notes, and whether it matches.
pub(super) struct Converted {
    pub(super) folder: tempfile::TempDir,
    pub(super) notes: Vec<String>,
    pub(super) agrees: bool,
}

impl Converted {
    pub(super) fn new(source: &Path, options: &Options) -> Self {
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
        let notes = plan.notes.iter().map(ToString::to_string).collect();
        let agrees = report.agrees();
        Converted { folder, notes, agrees }
    }

    fn path(&self) -> PathBuf {
        let file = self.folder.path().join("model.gguf");
        if file.exists() { file } else { self.folder.path().join("model") }
    }

    pub(super) fn open(&self) -> Checkpoint {
        let checkpoint = open(self.path()).unwrap();
        assert!(!checkpoint.is_damaged(), "{:?}", checkpoint.damage);
        checkpoint
    }

    fn notes_say(&self, what: &str) -> bool {
        self.notes.iter().any(|note| note.contains(what))
    }
}

/// Options for models of a few tensors, which lack the others.
pub(super) fn options(settings: Gguf) -> Options {
    Options::new(Target::Gguf(settings)).with(|o| o.allow_incomplete = true)
}

pub(super) fn with(quant: Quant) -> Options {
    options(Gguf::default().with(|g| g.quant = Some(quant)))
}

/// A SafeTensors model of F32 tensors in a folder with a config.json; elements count up from small numbers.
pub(super) fn hugging_face(config: &serde_json::Value, tensors: &[(&str, &[usize])]) -> tempfile::TempDir {
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

pub(super) fn llama_config() -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 1, "intermediate_size": 256,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "tie_word_embeddings": true, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    })
}

pub(super) const LLAMA: [(&str, &[usize]); 6] = [
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
        assert!(converted.notes_say("inv_freq"));
    }
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
    let expected = serde_json::json!({
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
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(json[key], *value, "{key}: {json}");
    }
    for what in ["soft caps", "BitLinear", "no tokenizer", "rounded to -1, 0, +1"] {
        assert!(converted.notes_say(what), "{what}: {:?}", converted.notes);
    }
    // The written values are those that BitLinear multiplies by.
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
    let as_ternary =
        |t: &&ckpt_convert::Agreement| t.detail.as_ref().is_some_and(|d| d.contains("ternary form"));
    assert_eq!(report.tensors.iter().filter(as_ternary).count(), 14, "the float weights are not there");
    // The same codes with another scale do not match.
    let other = open(fixture("healthy-run/step-01000.pt")).unwrap();
    assert!(!verify(&other, &written).unwrap().agrees());
}

#[test]
fn rows_that_blocks_do_not_fill_get_smaller_blocks_with_a_note() {
    let converted = Converted::new(&fixture(HEALTHY), &options(Gguf::default()));
    assert!(converted.agrees);
    assert!(
        converted.notes_say("not a multiple of the 256 elements of a tq2_0 block"),
        "{:?}",
        converted.notes
    );
    let written = converted.open();
    let query = written.tensor("blk.0.attn_q.weight").unwrap();
    assert_eq!(query.dtype, Quant::Q8_0.dtype());
    // Blocks of 8 bits hold codes times a scale as they are.
    let values = written.values(query).unwrap();
    let largest = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    assert!(values.iter().all(|x| *x == 0.0 || x.abs() == largest));
    // So they are ternary to whoever reads the file, and can be packed.
    assert!(written.model.is_ternary(query));
    let packed = Plan::new(&written, &Options::new(Target::I2s)).unwrap();
    let codes = |blob: &&ckpt_convert::Blob| matches!(blob.content, ckpt_convert::Content::Codes { .. });
    assert_eq!(packed.blobs.iter().filter(codes).count(), 14);
}

/// The types that llama.cpp's `tensor_type_fallback` chooses, and f16 where rows do not fill those either.
#[test]
fn fallbacks_are_those_of_llama_cpp() {
    let mut tensors = LLAMA.to_vec();
    tensors[3] = ("model.layers.0.mlp.down_proj.weight", &[512, 96]);
    tensors.push(("model.layers.0.mlp.up_proj.weight", &[96, 40]));
    let llama = hugging_face(&llama_config(), &tensors);
    for (quant, instead) in [
        (Quant::Q2K, Quant::Q4_0),
        (Quant::Q3K, Quant::Q4_0),
        (Quant::Q4K, Quant::Q5_0),
        (Quant::Q5K, Quant::Q5_1),
        (Quant::Q6K, Quant::Q8_0),
        (Quant::Q5_0, Quant::Q5_0),
    ] {
        let converted = Converted::new(llama.path(), &with(quant));
        assert!(converted.agrees, "{quant}");
        let written = converted.open();
        let dtype = |name: &str| written.tensor(name).unwrap().dtype;
        assert_eq!(dtype("blk.0.ffn_down.weight"), instead.dtype(), "{quant}");
        assert_eq!(dtype("blk.0.ffn_up.weight"), DType::F16, "{quant}");
        assert_eq!(dtype("blk.0.attn_k.weight"), quant.dtype(), "{quant}");
        let told = converted.notes_say(&format!("`blk.0.ffn_down.weight`, which becomes {instead}"));
        assert_eq!(told, quant != instead, "{:?}", converted.notes);
    }
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

/// llama.cpp divides the width of dense layers among experts that have none of their own.
#[test]
fn the_width_of_experts_is_said_also_where_dense_layers_would_have_the_same() {
    let mut config = llama_config();
    config["architectures"] = serde_json::json!(["Qwen3MoeForCausalLM"]);
    config.as_object_mut().unwrap().remove("rope_scaling");
    for (key, value) in [("num_experts", 4), ("num_experts_per_tok", 2), ("moe_intermediate_size", 256)] {
        config[key] = value.into();
    }
    config["norm_topk_prob"] = true.into();
    let model = hugging_face(&config, &LLAMA[..3]);
    let file = Converted::new(model.path(), &with(Quant::F16)).open();
    let header = file.gguf_header().unwrap().unwrap();
    let width = |key: &str| header.of_architecture(key).and_then(|value| value.as_i64());
    assert_eq!((width("expert_feed_forward_length"), width("feed_forward_length")), (Some(256), Some(256)));
}

#[test]
fn a_scale_that_f16_does_not_reach_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = student(folder.path(), 1e5);
    let checkpoint = open(&source).unwrap();
    for quant in [Quant::Tq1_0, Quant::Tq2_0] {
        let error = Plan::new(&checkpoint, &with(quant)).unwrap_err();
        assert!(error.to_string().contains("has scales in f16, up to 65504"), "{error}");
        assert!(matches!(error.remedy(), Some(Remedy::ExactScales(_))), "{error:?}");
        let settings = Gguf::default().with(|g| (g.quant, g.exact_scales) = (Some(quant), true));
        assert!(Converted::new(&source, &options(settings)).agrees);
    }
}

#[test]
fn a_scale_that_f16_loses_is_reported_and_can_be_a_separate_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let source = student(folder.path(), 5e-8);
    let lost = Converted::new(&source, &with(Quant::Tq2_0));
    assert!(lost.notes_say("scales that f16 cannot represent well"), "{:?}", lost.notes);
    let source_far_gone = student(folder.path(), 1e-9);
    assert!(!Converted::new(&source_far_gone, &with(Quant::Tq2_0)).agrees, "the gate became zero");

    let exact = Gguf::default().with(|g| (g.quant, g.exact_scales) = (Some(Quant::Tq2_0), true));
    let converted = Converted::new(&source_far_gone, &options(exact));
    assert!(converted.agrees && !converted.notes_say("f16 cannot represent well"), "{:?}", converted.notes);
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
    let options = Options::new(Target::SafeTensors).with(|o| o.allow_incomplete = true);
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
fn advice_on_scales_fits_the_rows() {
    let collapsed = fixture("collapse-run/step-04000.pt");
    let exact = Gguf::default().with(|g| (g.quant, g.exact_scales) = (Some(Quant::Tq2_0), true));
    let checkpoint = open(&collapsed).unwrap();
    let plan = Plan::new(&checkpoint, &options(exact)).unwrap();
    let remedies: Vec<Remedy> = plan.notes.iter().filter_map(Note::remedy).collect();
    assert!(remedies.contains(&Remedy::Quant(&[Quant::F32, Quant::BF16])), "{:?}", plan.notes);
    assert!(!remedies.iter().any(|r| matches!(r, Remedy::ExactScales(_))), "{:?}", plan.notes);
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

/// The original exporter of bitnet-student wrote sizes in PyTorch's order, norms as F16 and no tokenizer.
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
    let remedy = |gguf: Gguf| Plan::new(&open(llama.path()).unwrap(), &options(gguf)).unwrap_err().remedy();
    let ternary = gguf.with(|g| g.quant = Some(Quant::Tq2_0));
    assert_eq!(remedy(ternary), Some(Remedy::Ternary("*attn*")));
    let exact = gguf.with(|g| g.exact_scales = true);
    assert_eq!(remedy(exact), Some(Remedy::Quant(&[Quant::Tq1_0, Quant::Tq2_0])));
    let latent = gguf.with(|g| (g.quant, g.latent) = (Some(Quant::I2S), true));
    assert_eq!(remedy(latent), Some(Remedy::Quant(&[])));
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
