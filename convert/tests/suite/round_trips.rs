//! Everything in the fixtures, through every writer and back, compared bit for bit if the types allow it.

use std::path::{Path, PathBuf};

use ckpt_convert::names::Style;
use ckpt_convert::quant::Quant;
use ckpt_convert::{
    Control, Gguf, Options, Plan, Remedy, Report, Rule, Target, verify, verify_written, write,
};
use ckpt_inspect::{Checkpoint, DType, Group, Storage, TensorInfo, open};
use ckpt_kit::fixtures::{self, fixture};
use ckpt_kit::numbers::le;
use ckpt_kit::pickle::{self, call};
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::torch;
use globset::Glob;

/// Every undamaged fixture.
fn whole_fixtures() -> Vec<PathBuf> {
    let folders = ["formats", "healthy-run", "packed"];
    let all = folders.iter().flat_map(|folder| fixtures::below(&fixture(folder), &[".pt"]));
    let all: Vec<PathBuf> = all.filter(|path| !path.ends_with("truncated.pt")).collect();
    assert!(all.len() > 20);
    all
}

/// Converts, verifies, and returns the notes.
pub(super) fn convert(source: &Path, options: &Options, to: &Path) -> Vec<String> {
    let checkpoint = open(source).unwrap();
    let mut plan = Plan::new(&checkpoint, options).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    let stop = Default::default();
    write(&mut plan, options, to, Control::new(&|_| (), &stop))
        .unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    let report = verify_written(&plan, to).unwrap();
    assert!(report.agrees(), "{}: {report:#?}", source.display());
    plan.notes.iter().map(ToString::to_string).collect()
}

pub(super) fn verified(a: &Path, b: &Path) -> Report {
    verify(&open(a).unwrap(), &open(b).unwrap()).unwrap()
}

pub(super) fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    checkpoint.tensor_bytes(checkpoint.tensor(name).unwrap()).unwrap().into_owned()
}

pub(super) fn plain(tensor: &&TensorInfo) -> bool {
    tensor.sparse.is_none() && tensor.quantizer.is_none() && tensor.dtype.element_size().is_some()
}

#[test]
fn pytorch_output_keeps_names_bytes_and_plain_values() {
    let folder = tempfile::tempdir().unwrap();
    // Packed matrices are decoded, so the tensors that describe the packing are left out too.
    for source in whole_fixtures().into_iter().filter(|p| !p.starts_with(fixture("packed"))) {
        let to = folder.path().join(source.file_name().unwrap());
        let options = Options::new(Target::Torch).with(|o| o.keep_optimizer = true);
        convert(&source, &options, &to);
        let (before, after) = (open(&source).unwrap(), open(&to).unwrap());
        for tensor in before.tensors.iter().filter(plain) {
            let copy = after.tensor(&tensor.name).unwrap();
            assert_eq!((copy.dtype, &copy.shape), (tensor.dtype, &tensor.shape), "{}", tensor.name);
            assert_eq!(bytes(&after, &tensor.name), *before.tensor_bytes(tensor).unwrap(), "{}", tensor.name);
        }
        assert_eq!(after.tensors.len(), before.tensors.len(), "{}", source.display());
        assert_eq!(after.metadata, before.metadata, "{}", source.display());
        assert_eq!(open(&to).unwrap().verify_checksums(), [""; 0]);
        assert_eq!(after.step.map(|s| s.0), before.step.map(|s| s.0));
    }
}

/// Where PyTorch's constructor is not known, its arguments are shown, and tensors in them.
#[test]
fn tensors_below_what_could_not_be_read_keep_their_names() {
    let tensor = |key: &str| torch::rebuild("FloatStorage", key, 2, 0, &[2], &[1]);
    let unknown = |arguments: &[Vec<u8>]| call(&pickle::global("torch._utils", "_rebuild_other"), arguments);
    let folder = tempfile::tempdir().unwrap();
    let dict = pickle::dict(&[("k", tensor("1"))]);
    for (object, names) in [
        (unknown(&[tensor("0"), tensor("1")]), [".args.0", ".args.1"]),
        (pickle::list(&[unknown(&[tensor("0")]), dict]), ["0.args.0", "1.k"]),
    ] {
        let storages = [le(&[0.5f32, -1.0]), le(&[2.0f32, 3.0])];
        let (from, to) = (folder.path().join("from.pt"), folder.path().join(names[0]));
        std::fs::write(&from, torch::zip_of(&pickle::pickle(2, &object), &storages)).unwrap();
        let mut options = Options::new(Target::Torch);
        options.allow_incomplete = true;
        convert(&from, &options, &to);
        let found: Vec<String> = open(&to).unwrap().tensors.into_iter().map(|tensor| tensor.name).collect();
        assert_eq!(found, names);
    }
}

#[test]
fn safetensors_come_back_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    for source in whole_fixtures().iter().filter(|p| !p.ends_with("dtypes_float.pt")) {
        let name = source.file_stem().unwrap();
        let there = folder.path().join(name).with_extension("safetensors");
        let back = folder.path().join(name).with_extension("pt");
        convert(source, &Options::new(Target::SafeTensors), &there);
        convert(&there, &Options::new(Target::Torch), &back);
        let report = verified(source, &back);
        assert!(report.agrees(), "{}: {report:#?}", source.display());
        let (before, after) = (open(source).unwrap(), open(&back).unwrap());
        let counted = before.tensors.iter().all(|t| t.quantizer.is_none() && !t.is_expanded());
        assert!(!counted || after.parameters() == before.parameters(), "{}", source.display());
        assert_eq!(after.model.student, before.model.student, "{}", source.display());
    }
}

/// As many entries as 16 bits count, which is also what they say where zip64 counts; and one more.
#[test]
fn npz_with_as_many_arrays_as_its_directory_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("many.safetensors"), folder.path().join("many.npz"));
    for count in [0xffff, 0x1_0000] {
        let file = (0..count)
            .fold(SafeTensors::new(), |file, i| file.tensor(&i.to_string(), "U8", &[1], &[i as u8]));
        file.write(&from);
        convert(&from, &Options::new(Target::Npz).with(|o| o.force = true), &to);
        let written = open(&to).unwrap();
        assert_eq!((written.tensors.len(), &written.damage), (count, &None));
        assert_eq!(self::bytes(&written, &(count - 1).to_string()), [(count - 1) as u8]);
    }
}

#[test]
fn npz_comes_back_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let mut refused = Vec::new();
    for source in whole_fixtures() {
        let name = source.file_stem().unwrap();
        let at = |extension: &str| folder.path().join(name).with_extension(extension);
        let options = Options::new(Target::Npz);
        if let Err(error) = Plan::new(&open(&source).unwrap(), &options) {
            refused.push((name.to_str().unwrap().to_string(), error));
            continue;
        }
        let notes = convert(&source, &options, &at("npz"));
        let noted = notes.iter().any(|note| note.contains("an archive of arrays has no place for them"));
        assert!(noted || open(&source).unwrap().step.is_none(), "{}: {notes:?}", source.display());
        assert_eq!(open(at("npz")).unwrap().verify_checksums(), [""; 0]);
        convert(&at("npz"), &Options::new(Target::Torch), &at("pt"));
        let report = verified(&source, &at("pt"));
        assert!(report.agrees(), "{}: {report:#?}", source.display());

        // The same bytes in SafeTensors, by whichever way they came there.
        let options = Options::new(Target::SafeTensors);
        if Plan::new(&open(&source).unwrap(), &options).is_err() {
            continue;
        }
        convert(&source, &options, &at("direct"));
        convert(&at("npz"), &options, &at("back"));
        let (direct, back) = (open(at("direct")).unwrap(), open(at("back")).unwrap());
        for tensor in &direct.tensors {
            let copy = back.tensor(&tensor.name).unwrap();
            assert_eq!((copy.dtype, &copy.shape), (tensor.dtype, &tensor.shape), "{}", tensor.name);
            assert_eq!(bytes(&back, &tensor.name), bytes(&direct, &tensor.name), "{}", tensor.name);
        }
    }
    let [(name, why)] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(name, "dtypes_float");
    assert!(why.to_string().ends_with("which NumPy cannot hold"), "{why}");
    assert_eq!(why.remedy(), Some(Remedy::Type("*", DType::F32)));

    // The suggested remedy works.
    let floats = vec![(Glob::new("*").unwrap().compile_matcher(), DType::F32)];
    let options = Options::new(Target::Npz).with(|o| o.dtypes = floats);
    let source = fixture("formats/dtypes_float.pt");
    convert(&source, &options, &folder.path().join("floats.npz"));
}

#[test]
fn gguf_comes_back_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let mut refused = Vec::new();
    for source in whole_fixtures() {
        let name = source.file_stem().unwrap();
        let there = folder.path().join(name).with_extension("gguf");
        let back = folder.path().join(name).with_extension("pt");
        let settings = Gguf::new(Quant::F32, Quant::F32).with(|g| g.latent = true);
        let model = open(&source).unwrap().model.student.is_some();
        let settings = if model { settings } else { Gguf::default() };
        let options = Options::new(Target::Gguf(settings));
        if let Err(error) = Plan::new(&open(&source).unwrap(), &options) {
            refused.push((source, error.remedy()));
            continue;
        }
        let notes = convert(&source, &options, &there);
        assert_eq!(notes.iter().any(|n| n.contains("the architecture is `unknown`")), !model, "{notes:?}");
        convert(&there, &Options::new(Target::Torch), &back);
        let report = verified(&source, &back);
        assert!(report.agrees(), "{}: {report:#?}", source.display());
    }
    let what: Vec<&str> =
        refused.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(
        what,
        ["dtypes_float.pt", "dtypes_int.pt"],
        "complex numbers, bytes and bools have no type there"
    );
    assert!(refused.iter().all(|(_, remedy)| *remedy == Some(Remedy::Target("pt"))), "{refused:?}");
}

#[test]
fn complex128_goes_to_pytorch_only() {
    let checkpoint = open(fixture("formats/dtypes_float.pt")).unwrap();
    let error = Plan::new(&checkpoint, &Options::new(Target::SafeTensors)).unwrap_err();
    assert!(error.to_string().contains("complex128"), "{error}");
    assert_eq!(error.remedy(), Some(Remedy::Target("pt")));
}

#[test]
fn tied_weights_stay_tied() {
    let folder = tempfile::tempdir().unwrap();
    let (half, flat, back) = ("half.pt", "flat.safetensors", "back.pt");
    let [half, flat, back] = [half, flat, back].map(|n| folder.path().join(n));
    let source = fixture("formats/tied.pt");
    convert(&source, &Options::new(Target::Torch).with(|o| o.dtype = Some(DType::F16)), &half);
    convert(&source, &Options::new(Target::SafeTensors), &flat);
    convert(&flat, &Options::new(Target::Torch), &back);
    let shared = open(&source).unwrap();
    let sharing = |path: &Path| {
        let checkpoint = open(path).unwrap();
        let embed = checkpoint.tensors.iter().position(|t| t.name.ends_with("embed.weight")).unwrap();
        let mut names: Vec<String> = checkpoint.sharing(16)[embed].iter().map(|s| s.to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(sharing(&source), ["alias", "lm_head.weight"]);
    assert_eq!(sharing(&half), ["alias", "lm_head.weight"]);
    // SafeTensors cannot express a view of half the matrix: it is copied.
    assert_eq!(sharing(&back), ["lm_head.weight"]);
    assert!(open(&flat).unwrap().tensors.len() < shared.tensors.len(), "written once");
}

#[test]
fn narrower_types_round_once_and_losses_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (source, to) = (folder.path().join("wide.safetensors"), folder.path().join("narrow.pt"));
    // 1 + 2^-11 + 2^-40 lies above the midpoint of two f16; rounded to f32 first it would be the midpoint itself.
    let doubles = [1.0 + 2f64.powi(-11) + 2f64.powi(-40), 70_000.0, 1e-30, f64::NAN, f64::INFINITY];
    let singles = [65_519.9f32, 65_520.0, 3e-8, -2e-8, -0.0, f32::NEG_INFINITY];
    SafeTensors::new().tensor("d", "F64", &[5], &le(&doubles)).f32s("s", &[6], &singles).write(&source);
    let options = Options::new(Target::Torch).with(|o| o.dtype = Some(DType::F16));
    let notes = convert(&source, &options, &to);
    let after = open(&to).unwrap();
    let values = |name: &str| after.values(after.tensor(name).unwrap()).unwrap();
    let d = values("d");
    assert_eq!(d[..3], [1.0 + 2f32.powi(-10), f32::INFINITY, 0.0]);
    assert!(d[3].is_nan() && d[4] == f32::INFINITY);
    assert_eq!(values("s"), [65_504.0, f32::INFINITY, 2f32.powi(-24), -0.0, -0.0, f32::NEG_INFINITY]);
    assert_eq!(
        notes,
        ["values beyond the range of float16, in 2 of 2 tensors: 2 became infinite, 2 became zero"]
    );
    let (source, to) = (folder.path().join("huge.safetensors"), folder.path().join("single.pt"));
    SafeTensors::new().tensor("d", "F64", &[3], &le(&[1e300f64, 1e-300, 0.1])).write(&source);
    let notes = convert(&source, &Options::new(Target::Torch).with(|o| o.dtype = Some(DType::F32)), &to);
    assert_eq!(
        notes,
        ["values beyond the range of float32, in 1 of 1 tensor: 1 became infinite, 1 became zero"]
    );
}

#[test]
fn a_hugging_face_folder_is_complete_and_split_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("source");
    std::fs::create_dir(&model).unwrap();
    std::fs::copy(fixture("healthy-run/step-02000.pt"), model.join("model.pt")).unwrap();
    std::fs::write(model.join("tokenizer.json"), "{\"version\":\"1.0\"}").unwrap();
    let to = folder.path().join("hf");
    let options = Options::new(Target::Hf { packed: false }).with(|o| o.max_shard_bytes = Some(200_000));
    let notes = convert(&model.join("model.pt"), &options, &to);
    assert!(
        notes.iter().any(|n| n.contains("soft caps (attention scores at 50, final logits at 30)")),
        "{notes:?}"
    );
    assert!(notes.iter().any(|n| n.contains("BitLinear")), "{notes:?}");
    let mut files: Vec<String> = std::fs::read_dir(&to)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "config.json",
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json"
        ]
    );
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(to.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"][0], "Qwen3ForCausalLM");
    let wanted = [
        ("vocab_size", 1024),
        ("hidden_size", 64),
        ("intermediate_size", 128),
        ("num_hidden_layers", 2),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("head_dim", 32),
        ("max_position_embeddings", 128),
    ];
    for (key, value) in wanted {
        assert_eq!(config[key], value, "{key}");
    }
    let hf = open(&to).unwrap();
    assert!(hf.tensors.iter().all(|t| t.name.starts_with("model.")));
    assert_eq!(hf.damage, None);
    assert!(hf.model.student.is_some(), "the trainer's config came along");
    // And back under the student's names.
    let back = folder.path().join("back.pt");
    convert(&to, &Options::new(Target::Torch).with(|o| o.names = Some(Style::Student)), &back);
    let back = open(&back).unwrap();
    assert!(back.tensor("model_state_dict.layers.1.mlp.down_proj.weight").is_ok());
    assert!(back.meta("config.model.hidden_dim").is_some());
}

#[test]
fn only_weights_are_written_by_default() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("healthy-run/step-02000.pt");
    let (lean, full) = (folder.path().join("lean.pt"), folder.path().join("full.pt"));
    convert(&source, &Options::new(Target::Torch), &lean);
    convert(&source, &Options::new(Target::Torch).with(|o| o.keep_optimizer = true), &full);
    let (lean, full, source) = (open(&lean).unwrap(), open(&full).unwrap(), open(&source).unwrap());
    assert!(lean.tensors.iter().all(|t| t.group == Group::Weights));
    assert!(lean.meta("optimizer_state_dict").is_none() && lean.meta("config.model").is_some());
    assert_eq!(full.metadata, source.metadata);
    assert_eq!(full.tensors.len(), source.tensors.len());
    for target in [Target::SafeTensors, Target::Hf { packed: false }] {
        let options = Options::new(target).with(|o| o.keep_optimizer = true);
        assert!(matches!(Plan::new(&source, &options), Err(ckpt_convert::Error::Target { .. })));
    }
}

#[test]
fn types_by_pattern_and_a_state_dict_by_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("mixed.safetensors");
    let glob = |text: &str| Glob::new(text).unwrap().compile_matcher();
    let options = Options::new(Target::SafeTensors).with(|o| {
        o.dtype = Some(DType::BF16);
        o.dtypes = vec![(glob("embed*"), DType::F16), (glob("*norm.weight"), DType::F32)];
        o.root = Some("model_state_dict".into());
    });
    convert(&fixture("healthy-run/step-02000.pt"), &options, &to);
    let after = open(&to).unwrap();
    assert_eq!(after.tensor("embed_tokens.weight").unwrap().dtype, DType::F16);
    assert_eq!(after.tensor("layers.1.self_attn.k_norm.weight").unwrap().dtype, DType::F32);
    assert_eq!(after.tensor("layers.1.self_attn.k_proj.weight").unwrap().dtype, DType::BF16);
    let source = open(fixture("healthy-run/step-02000.pt")).unwrap();
    let error = Plan::new(&source, &options.with(|o| o.root = Some("ema".into()))).unwrap_err().to_string();
    assert!(error.contains("`ema.`") && error.contains("model_state_dict"), "{error}");
}

/// tests/data/llama_gguf.py made both files: the GGUF with gguf-py, its query and key rows interleaved.
#[test]
fn gguf_becomes_what_it_was_made_from() {
    let data = fixtures::root().join("convert/tests/data");
    let (gguf, original) = (data.join("llama.gguf"), data.join("llama.safetensors"));
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("hf");
    // Its matrices are smaller than its keys say.
    convert(&gguf, &Options::new(Target::Hf { packed: false }).with(|o| o.allow_incomplete = true), &to);
    let rules = |report: &Report| {
        let count = |rule| report.tensors.iter().filter(|t| t.rule == rule).count();
        [Rule::Identical, Rule::Rounded, Rule::Ternary, Rule::Blocks].map(count)
    };
    let report = verified(&gguf, &original);
    assert!(report.agrees(), "{report:#?}");
    assert_eq!(rules(&report), [4, 2, 1, 5]);
    assert!(verified(&original, &gguf).agrees() && verified(&gguf, &to).agrees());
    // Keys are stored as float32: row for row those of the original.
    let (hf, original) = (open(&to).unwrap(), open(&original).unwrap());
    let keys = "model.layers.0.self_attn.k_proj.weight";
    assert_eq!(bytes(&hf, keys), bytes(&original, keys));
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(to.join("config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["architectures"][0], &config["rms_norm_eps"]),
        (&"LlamaForCausalLM".into(), &1e-5.into())
    );
    assert_eq!(config["tie_word_embeddings"], false);

    // A block that is off by more than its step is detected.
    let broken = folder.path().join("broken.gguf");
    let mut raw = std::fs::read(&gguf).unwrap();
    let blocks = bytes(&open(&gguf).unwrap(), "blk.0.attn_q.weight");
    let at = raw.windows(blocks.len()).position(|w| w == blocks).unwrap();
    raw[at + 2] ^= 0x40;
    std::fs::write(&broken, raw).unwrap();
    let report = verified(&broken, &folder.path().join("hf"));
    assert_eq!(report.failures().map(|t| t.differing).collect::<Vec<_>>(), [1]);
}

#[test]
fn names_that_a_format_cannot_tell_apart_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (source, pt) = (folder.path().join("s.safetensors"), folder.path().join("s.pt"));
    // A float matrix next to a tensor with a name that its packed form would need.
    SafeTensors::new().f32s("l.weight", &[1, 4], &[0.0; 4]).f32s("l_scale", &[1], &[0.0]).write(&source);
    let ternary = Some(Glob::new("l.weight").unwrap().compile_matcher());
    let checkpoint = open(&source).unwrap();
    let error = Plan::new(&checkpoint, &Options::new(Target::I2s).with(|o| o.ternary = ternary))
        .unwrap_err()
        .to_string();
    assert!(error.contains("l_scale"), "{error}");
    let mut plan = Plan::new(&checkpoint, &Options::new(Target::Torch)).unwrap();
    plan.tensors[0].name = "__metadata__".into();
    let stop = Default::default();
    write(&mut plan, &Options::new(Target::Torch), &pt, Control::new(&|_| (), &stop)).unwrap();
    let checkpoint = open(&pt).unwrap();
    let error = Plan::new(&checkpoint, &Options::new(Target::SafeTensors)).unwrap_err().to_string();
    assert!(error.contains("__metadata__"), "{error}");
}

/// All writers handle tensors that a layout pieces together from ranges of several files.
#[test]
fn a_tensor_in_ranges_of_two_files_is_written_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    convert(&fixture("healthy-run/step-02000.pt"), &Options::new(Target::SafeTensors), &at("plain"));
    let plain = open(at("plain")).unwrap();
    let halves = ["first", "second"].map(|half| {
        let mut file = SafeTensors::new();
        for tensor in &plain.tensors {
            assert_eq!(tensor.dtype, DType::F32);
            let bytes = plain.tensor_bytes(tensor).unwrap();
            let (start, end) = bytes.split_at(bytes.len() / 3 / 4 * 4);
            let part = if half == "first" { start } else { end };
            file = file.tensor(&tensor.name, "F32", &[part.len() / 4], part);
        }
        file.write(&at(half));
        open(at(half)).unwrap()
    });
    let mut pieced = open(at("plain")).unwrap();
    for tensor in &mut pieced.tensors {
        let parts = halves.each_ref().map(|half| half.tensor(&tensor.name).unwrap());
        let range = |part: &TensorInfo| part.byte_offset..part.byte_offset + part.byte_len().unwrap();
        let parts = parts.map(|part| (part.storage.as_ref().unwrap(), range(part)));
        tensor.storage = Some(Storage::pieced(parts).unwrap());
        tensor.byte_offset = 0;
    }
    let gguf = |quant| Target::Gguf(Gguf::default().with(|g| g.quant = Some(quant)));
    for target in [
        Target::SafeTensors,
        Target::Torch,
        Target::Npz,
        gguf(Quant::F16),
        gguf(Quant::Q8_0),
        gguf(Quant::Tq2_0),
        gguf(Quant::I2S),
    ] {
        let options = Options::new(target).with(|o| o.force = true);
        // The top folder of a PyTorch archive is named after its file.
        let to = at("written");
        let written = [&plain, &pieced].map(|source| {
            let mut plan = Plan::new(source, &options).unwrap();
            let stop = Default::default();
            write(&mut plan, &options, &to, Control::new(&|_| (), &stop)).unwrap();
            assert!(verify_written(&plan, &to).unwrap().agrees());
            std::fs::read(&to).unwrap()
        });
        assert!(written[0] == written[1], "{:?}", options.target);
    }
}

/// One bit too many in a copy of a wider type is told when the copy is checked, whatever rounding would make of it.
#[test]
fn a_copy_in_a_wider_type_is_checked_to_the_bit() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let values: Vec<u16> = (0..4096u32).map(|i| (((101 + i % 27) << 7) | ((i * 37) % 128)) as u16).collect();
    for (narrow, wide) in
        [("BF16", DType::F32), ("BF16", DType::F64), ("F16", DType::F32), ("F16", DType::F64)]
    {
        SafeTensors::new().tensor("w", narrow, &[64, 64], &le(&values)).write(&at("w.safetensors"));
        let source = open(at("w.safetensors")).unwrap();
        let options = Options::new(Target::SafeTensors).with(|o| (o.dtype, o.force) = (Some(wide), true));
        let (mut plan, copy) = (Plan::new(&source, &options).unwrap(), at("copy.safetensors"));
        write(&mut plan, &options, &copy, Control::new(&|_| (), &Default::default())).unwrap();
        let report = verify_written(&plan, &copy).unwrap();
        assert!(report.agrees() && report.tensors[0].rounding.is_none(), "{narrow} {wide}: {report:?}");
        let mut bytes = std::fs::read(&copy).unwrap();
        let last = bytes.len() - wide.element_size().unwrap();
        bytes[last] ^= 1;
        std::fs::write(&copy, bytes).unwrap();
        let report = verify_written(&plan, &copy).unwrap();
        assert_eq!(report.tensors[0].differing, 1, "{narrow} {wide}");
        assert_eq!(report.tensors[0].first, Some(4095));
    }
}
