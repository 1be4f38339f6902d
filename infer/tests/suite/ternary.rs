//! Ternary models as others publish them, against what transformers' own classes compute (`data/ternary_truth.py`).

use std::path::{Path, PathBuf};

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Note, Options, Plan, Target, verify_written, write};
use ckpt_infer::{
    Cache, Error, Kernel, KvType, LoadOptions, Logits, Model, Pool, Runner, Sequence, WhenFull,
};
use ckpt_inspect::{DType, TernaryPacking};
use ckpt_kit::safetensors::raw;
use serde_json::Value;

const NAMES: [&str; 7] = [
    "bitnet-packed",
    "bitnet-auto",
    "bitnet-online",
    "1bitllm",
    "llama-packed",
    "norms-packed",
    "norms-online",
];
/// Ids of the prompt whose continuation is known.
const START: usize = 6;

fn folder(name: &str) -> PathBuf {
    ckpt_kit::fixtures::data("infer", "ternary").join(name)
}

fn file(name: &str) -> PathBuf {
    folder(name).join("model.safetensors")
}

fn greedy(model: &Model, pool: &Pool, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
    let mut runner = Runner::new(model, pool);
    let (mut next, mut text) = (prompt.to_vec(), Vec::new());
    while text.len() < count {
        let logits = runner.forward(&mut [Sequence::new(&next, &mut cache, Logits::Last)]).unwrap();
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        next = vec![best as u32];
        text.push(best as u32);
    }
    text
}

/// Logits of the model in `file`, all at once and token by token, on every instruction set, are those of a float64 run of
/// `name`'s class, and the ids that it chooses are the class's. Positions after one at which an activation is on the
/// boundary of two codes are left out; returns how many that are.
fn agrees(name: &str, file: &Path) -> usize {
    let truth = ckpt_inspect::open(folder(name).join("truth.safetensors")).unwrap();
    let integers = |name: &str| -> Vec<u32> {
        let view = truth.view::<i32>(truth.tensor(name).unwrap()).unwrap();
        view.iter().map(|&id| id as u32).collect()
    };
    let (ids, close, wanted) = (integers("ids"), integers("close"), integers("greedy"));
    let want = truth.values(truth.tensor("logits").unwrap()).unwrap();
    let known = close.iter().position(|&close| close == 1).unwrap_or(ids.len());
    assert!(known >= 15 && wanted.len() == 24, "{name}");
    for kernel in Kernel::available() {
        let pool = Pool::new(2);
        let options = LoadOptions::default().with(|o| o.kernel = Some(kernel));
        let model = Model::open(file, &options, &pool).unwrap();
        assert_eq!(model.assumed(), [], "{name}");
        for step in [ids.len(), 1] {
            let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
            let mut runner = Runner::new(&model, &pool);
            let mut logits = Vec::new();
            for ids in ids.chunks(step) {
                let sequence = Sequence::new(ids, &mut cache, Logits::All);
                logits.extend_from_slice(runner.forward(&mut [sequence]).unwrap());
            }
            assert_eq!(logits.len(), want.len());
            let largest = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            for (at, (got, want)) in logits.iter().zip(&want).enumerate().take(known * want.len() / ids.len())
            {
                let off = (got - want).abs();
                let kernel = kernel.name();
                assert!(
                    off <= 2e-4 * largest,
                    "{} on {kernel}: {got} for {want}, logit {at}",
                    file.display()
                );
            }
        }
        assert_eq!(greedy(&model, &pool, &ids[..START], 24), wanted, "{}", file.display());
    }
    ids.len() - known
}

fn convert(from: &Path, target: Target, to: &Path) -> Vec<Note> {
    let options = Options::new(target);
    let source = ckpt_inspect::open(from).unwrap();
    let mut plan = Plan::new(&source, &options).unwrap();
    write(&mut plan, &options, to, Control::new(&|_| (), &Default::default())).unwrap();
    assert!(verify_written(&plan, to).unwrap().agrees(), "{}", from.display());
    let lost = |note: &Note| matches!(note, Note::Incomplete { .. } | Note::LeftOut { .. });
    assert!(!plan.notes.iter().any(lost), "{}: {:?}", from.display(), plan.notes);
    plan.notes
}

#[test]
fn logits_and_ids_are_those_of_transformers_classes() {
    let left_out: usize = NAMES.iter().map(|name| agrees(name, &file(name))).sum();
    assert_eq!(left_out, 27);
}

/// Masters and packed matrices stay what they are, masters become packed, and a model of 1bitLLM's class one of
/// transformers'.
#[test]
fn folders_that_are_made_of_them_compute_the_same() {
    let place = tempfile::tempdir().unwrap();
    for name in NAMES {
        let packed = !name.contains("online") && name != "1bitllm";
        let first = place.path().join(name);
        let notes = convert(&file(name), Target::Hf { packed }, &first);
        assert!(!notes.iter().any(|note| matches!(note, Note::BitLinearLost)), "{name}");
        agrees(name, &first);
        let second = place.path().join(format!("{name}-packed"));
        convert(&first, Target::Hf { packed: true }, &second);
        agrees(name, &second);
        // Refused where plain layers would leave out norms.
        if name.starts_with("norms") {
            continue;
        }
        let told =
            convert(&second, Target::Hf { packed: false }, &place.path().join(format!("{name}-floats")));
        assert!(told.iter().any(|note| matches!(note, Note::BitLinearLost)), "{name}");
    }
}

/// Written for bitnet.cpp and read back, and as a folder again.
#[test]
fn gguf_for_bitnet_cpp_computes_the_same() {
    for (name, architecture) in [
        ("bitnet-packed", "bitnet-b1.58"),
        ("bitnet-auto", "bitnet-b1.58"),
        ("bitnet-online", "bitnet-b1.58"),
        ("1bitllm", "bitnet"),
        ("llama-packed", "llama"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        // The type of bitnet.cpp is the default where only that runs the model.
        let quant = (architecture != "bitnet-b1.58").then_some(Quant::I2S);
        let settings = Gguf::default().with(|g| (g.quant, g.embed) = (quant, Some(Quant::F32)));
        let notes = convert(&file(name), Target::Gguf(settings), &at("model.gguf"));
        let misfit = |note: &Note| matches!(note, Note::Misfits { .. } | Note::Activations);
        assert!(!notes.iter().any(misfit), "{name}: {notes:?}");
        let file = ckpt_inspect::open(at("model.gguf")).unwrap();
        assert_eq!(file.model.architecture, architecture);
        let norms = usize::from(architecture != "llama") * 2;
        for layer in 0..file.model_config().unwrap().num_layers {
            let of_layer = |t: &&ckpt_inspect::TensorInfo| t.name.starts_with(&format!("blk.{layer}."));
            let tensors: Vec<_> = file.tensors.iter().filter(of_layer).collect();
            let packed = DType::Ternary(TernaryPacking::BitnetX86);
            let (codes, plain): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|t| t.dtype == packed);
            assert_eq!((codes.len(), plain.len()), (7, 2 + norms), "{name}");
            assert!(plain.iter().all(|t| t.dtype == DType::F32));
        }
        // What bitnet.cpp's loader requires of any model and of these.
        let header = file.gguf_header().unwrap().unwrap();
        for key in [
            "context_length",
            "embedding_length",
            "block_count",
            "feed_forward_length",
            "attention.head_count",
            "attention.layer_norm_rms_epsilon",
            "rope.dimension_count",
            "vocab_size",
        ] {
            assert!(header.of_architecture(key).is_some(), "{name}: {key}");
        }
        agrees(name, &at("model.gguf"));
        convert(&at("model.gguf"), Target::Hf { packed: true }, &at("back"));
        agrees(name, &at("back"));
    }
}

/// The logits of the model at `path` for some ids.
fn logits(path: &Path) -> Vec<f32> {
    let pool = Pool::new(2);
    let checkpoint = ckpt_inspect::open(path).unwrap();
    let model = Model::load(&checkpoint, &LoadOptions::default(), &pool).unwrap();
    let mut cache = Cache::new(model.config(), KvType::F32, WhenFull::Stop);
    let ids: Vec<u32> = (0..20).map(|i| (7 * i + 3) % 60).collect();
    Runner::new(&model, &pool).forward(&mut [Sequence::new(&ids, &mut cache, Logits::All)]).unwrap().to_vec()
}

/// The largest difference of logits, as a share of the largest of them.
fn apart(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    ours.iter().zip(theirs).fold(0.0f32, |most, (x, y)| most.max((x - y).abs())) / largest
}

/// Rows that do not fill blocks of I2_S are in other blocks, which hold the same codes: they are neither made ternary again, nor
/// written as floats into a folder that says it is packed.
#[test]
fn codes_in_blocks_of_another_type_stay_codes() {
    const NARROW: usize = 96;
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    // Masters with narrow feed-forward layers.
    std::fs::create_dir(at("masters")).unwrap();
    let source = ckpt_inspect::open(file("bitnet-online")).unwrap();
    let mut masters = ckpt_kit::safetensors::SafeTensors::new();
    for tensor in &source.tensors {
        let values = source.values(tensor).unwrap();
        let name = tensor.name.as_str();
        let columns = tensor.shape.last().copied().unwrap_or(1);
        let (shape, values) = if name.contains("gate_proj") || name.contains("up_proj") {
            (vec![NARROW, columns], values[..NARROW * columns].to_vec())
        } else if name.contains("down_proj") {
            let rows = values.chunks(columns).flat_map(|row| row[..NARROW].to_vec());
            (vec![tensor.shape[0], NARROW], rows.collect())
        } else if name.contains("ffn_sub_norm") {
            (vec![NARROW], values[..NARROW].to_vec())
        } else {
            (tensor.shape.clone(), values)
        };
        masters = masters.f32s(name, &shape, &values);
    }
    masters.write(&at("masters").join("model.safetensors"));
    let config = std::fs::read(folder("bitnet-online").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["intermediate_size"] = NARROW.into();
    std::fs::write(at("masters").join("config.json"), config.to_string()).unwrap();
    let wanted = logits(&at("masters"));

    let settings = Gguf::default().with(|g| (g.quant, g.embed) = (Some(Quant::I2S), Some(Quant::F32)));
    convert(&at("masters").join("model.safetensors"), Target::Gguf(settings), &at("i2s.gguf"));
    let packed = ckpt_inspect::open(at("i2s.gguf")).unwrap();
    let types = |part: &str| packed.tensor(&format!("blk.0.{part}.weight")).unwrap().dtype;
    assert_eq!(types("ffn_up"), DType::Ternary(TernaryPacking::BitnetX86));
    assert_eq!(types("ffn_down"), DType::Ggml(ckpt_inspect::ggml::GgmlType::Q8_0));
    assert!(packed.model.holds_codes());
    // The scale of Q8_0 is an f16.
    assert!(apart(&logits(&at("i2s.gguf")), &wanted) < 2e-3);
    convert(&at("i2s.gguf"), Target::Hf { packed: true }, &at("back"));
    let back = ckpt_inspect::open(at("back")).unwrap();
    let packed_there = back.tensors.iter().filter(|t| matches!(t.dtype, DType::Ternary(_))).count();
    assert_eq!(packed_there, 7);
    assert!(apart(&logits(&at("back")), &wanted) < 2e-3);

    let floats = Gguf::default().with(|g| (g.quant, g.embed) = (Some(Quant::F32), Some(Quant::F32)));
    convert(&at("masters").join("model.safetensors"), Target::Gguf(floats), &at("f32.gguf"));
    let masters = ckpt_inspect::open(at("masters")).unwrap();
    for copy in ["i2s.gguf", "f32.gguf"] {
        let report = ckpt_convert::verify(&masters, &ckpt_inspect::open(at(copy)).unwrap()).unwrap();
        assert!(report.agrees(), "{copy}: {:?}", report.failures().collect::<Vec<_>>());
    }
}

/// llama.cpp computes silu in its graph of BitNet, and multiplies by the embedding.
#[test]
fn what_no_graph_computes_is_refused() {
    let refused = |name: &str, quant| {
        let source = ckpt_inspect::open(file(name)).unwrap();
        let place = tempfile::tempdir().unwrap();
        let settings = Gguf::default().with(|g| g.quant = Some(quant));
        let options = Options::new(Target::Gguf(settings));
        let written = Plan::new(&source, &options).and_then(|mut plan| {
            write(
                &mut plan,
                &options,
                &place.path().join("m.gguf"),
                Control::new(&|_| (), &Default::default()),
            )
        });
        written.map(|_| ()).map_err(|error| error.to_string())
    };
    for quant in [Quant::Tq1_0, Quant::Tq2_0] {
        let why = refused("bitnet-packed", quant).unwrap_err();
        assert!(why.contains("its graph of BitNet has silu where the model has relu2"), "{why}");
        refused("1bitllm", quant).unwrap();
    }
    let why = refused("norms-packed", Quant::I2S).unwrap_err();
    assert!(why.contains("use_rms_norm"), "{why}");
}

/// A copy of a model with its table of tensors changed.
fn changed(name: &str, place: &Path, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let file = std::fs::read(folder(name).join("model.safetensors")).unwrap();
    let (length, rest) = file.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let mut header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
    change(&mut header);
    std::fs::write(place.join("model.safetensors"), raw(&Value::from(header).to_string(), data)).unwrap();
    std::fs::copy(folder(name).join("config.json"), place.join("config.json")).unwrap();
}

#[test]
fn a_configuration_that_is_not_known_is_refused() {
    for (name, key, value) in
        [("bitnet-auto", "linear_class", "trilinear"), ("bitnet-online", "quantization_mode", "both")]
    {
        let place = tempfile::tempdir().unwrap();
        changed(name, place.path(), |_| ());
        Model::open(place.path(), &LoadOptions::default(), &Pool::new(1)).unwrap();
        let file = place.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        config["quantization_config"][key] = value.into();
        std::fs::write(&file, config.to_string()).unwrap();
        let refused = Model::open(place.path(), &LoadOptions::default(), &Pool::new(1)).unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }));
        assert!(refused.to_string().contains(&format!("{key} `{value}`")), "{refused}");
    }
}

#[test]
fn packed_matrices_without_a_scale_or_of_another_shape_are_refused() {
    const GATE: &str = "model.layers.1.mlp.gate_proj.weight";
    type Change = fn(&mut serde_json::Map<String, Value>);
    let changes: [(&str, Change); 4] = [
        ("codes without their scale", |tensors| {
            let scale = tensors.remove(&format!("{GATE}_scale")).unwrap();
            tensors.insert("model.other".into(), scale);
        }),
        ("has shape", |tensors| tensors[GATE]["shape"] = serde_json::json!([64, 64])),
        ("belongs to no codes", |tensors| {
            tensors[GATE]["dtype"] = "BF16".into();
            tensors[GATE]["shape"] = serde_json::json!([32, 64]);
        }),
        ("`layers.1.mlp.ffn_sub_norm.weight` is missing", |tensors| {
            tensors.remove("model.layers.1.mlp.ffn_sub_norm.weight").unwrap();
        }),
    ];
    for (why, change) in changes {
        let place = tempfile::tempdir().unwrap();
        changed("bitnet-auto", place.path(), change);
        let refused = Model::open(place.path(), &LoadOptions::default(), &Pool::new(1)).unwrap_err();
        let source = ckpt_inspect::open(place.path()).unwrap();
        for target in [Target::Hf { packed: true }, Target::Gguf(Gguf::default()), Target::SafeTensors] {
            let refused = Plan::new(&source, &Options::new(target));
            assert!(refused.is_err(), "{why}, {target:?}");
        }
        assert!(matches!(refused, Error::Unsupported { .. } | Error::Inconsistent { .. }));
        assert!(refused.to_string().contains(why), "{refused}");
    }
}
