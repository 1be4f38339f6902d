//! `ckpt diff` through the real binary and through the library, against numpy's and hand-made truth.

use std::path::{Path, PathBuf};

use ckpt_inspect::diff::{Options, Status, diff};
use ckpt_kit::binary::Ran;
use ckpt_kit::numbers::le;
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::student::Student;
use serde_json::{Value, json};

use crate::program;

const BEFORE: &str = "tests/fixtures/collapse-run/step-02000.pt";
const AFTER: &str = "tests/fixtures/collapse-run/step-04000.pt";

fn ckpt(arguments: &[&str]) -> Ran {
    program().run(arguments)
}

/// The JSON of a comparison and its exit code.
fn json(arguments: &[&str]) -> (Value, i32) {
    let output = ckpt(&[&["diff", "--format", "json"], arguments].concat());
    (output.json(), output.code().unwrap())
}

/// `file` written to `path`; its path.
fn written(file: SafeTensors, path: PathBuf) -> PathBuf {
    file.write(&path);
    path
}

#[track_caller]
fn assert_close(found: &Value, wanted: &Value, what: &str) {
    let (found, wanted) = (found.as_f64().unwrap(), wanted.as_f64().unwrap());
    assert!((found - wanted).abs() <= 1e-9 * wanted.abs(), "{what}: {found} for {wanted}");
}

#[test]
fn agrees_with_numpy() {
    let truth: Value = serde_json::from_str(include_str!("../fixtures/diff/collapse.json")).unwrap();
    let (found, code) = json(&[BEFORE, AFTER, "--group", "weights"]);
    assert_eq!(code, 1);
    let tensors = found["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), truth.as_object().unwrap().len());
    let mut matrices = 0;
    for tensor in tensors {
        let name = tensor["name"].as_str().unwrap();
        let (values, wanted) = (&tensor["values"], &truth[name]);
        assert_eq!(tensor["status"], "changed");
        for key in ["norm_a", "norm_b", "norm_change", "relative_change", "cosine", "max_difference"] {
            assert_close(&values[key], &wanted[key], &format!("{name} {key}"));
        }
        assert_eq!((&values["equal"], &values["max_at"]), (&wanted["equal"], &wanted["max_at"]), "{name}");
        if let Some(codes) = wanted["codes"].as_object() {
            let count = |key: &str| codes[key].as_u64().unwrap();
            for key in codes.keys() {
                assert_eq!(tensor["ternary"][key], codes[key], "{name} {key}");
            }
            let all = count("silenced") + count("woken") + count("reversed");
            assert_eq!(tensor["ternary"]["flipped"], all, "{name}");
            matrices += 1;
        }
    }
    assert_eq!(matrices, 14);
    assert_eq!(found["metadata"][1], json!({"path": "step", "a": 2000, "b": 4000}));
}

/// Averaged over its matrices, the run at step 4000 agrees with step 1000 on 0.67 of the codes.
#[test]
fn the_collapsed_run_keeps_two_thirds_of_its_codes() {
    let truth: Value = serde_json::from_str(include_str!("../fixtures/diff/collapse.json")).unwrap();
    let (found, _) = json(&["tests/fixtures/collapse-run/step-01000.pt", AFTER, "--filter", "*_proj.weight"]);
    let tensors = found["tensors"].as_array().unwrap();
    let mut sum = 0.0;
    for tensor in tensors {
        let name = tensor["name"].as_str().unwrap();
        assert_close(&tensor["ternary"]["agreement"], &truth[name]["agreement_of_1000"], name);
        sum += tensor["ternary"]["agreement"].as_f64().unwrap();
    }
    assert!((sum / tensors.len() as f64 - 0.67).abs() < 0.005, "{sum}");
}

#[test]
fn a_copy_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.pt");
    std::fs::copy(BEFORE, &copy).unwrap();
    let (found, code) = json(&[BEFORE, copy.to_str().unwrap()]);
    assert_eq!((code, &found["tensors"], &found["metadata"]), (0, &json!([]), &json!([])));
    assert!(found["same"].as_u64().unwrap() > 60);
    let (found, _) = json(&[BEFORE, copy.to_str().unwrap(), "--all"]);
    assert_eq!(found["tensors"].as_array().unwrap().len() as u64, found["same"].as_u64().unwrap());
}

#[test]
fn optimizer_settings_are_distinguished_from_other_values() {
    let pair = ["tests/fixtures/collapse-run/step-00000.pt", "tests/fixtures/healthy-run/step-00000.pt"];
    let (found, code) = json(&pair);
    assert_eq!(code, 1);
    let changed = &found["settings"][0];
    assert!(changed["path"].as_str().unwrap().ends_with("param_groups.0.weight_decay"), "{found}");
    assert_eq!((&changed["a"], &changed["b"]), (&json!(0.1), &json!(0.0)));
    assert_eq!(found["tensors"], json!([]), "both runs have the same start");
    let (_, code) = json(&[pair[0], pair[1], "--values-only"]);
    assert_eq!(code, 0);
    ckpt(&["diff", pair[0], pair[1]]).says(&["optimizer settings"]);
    // Against a copy without optimizer: its settings are removed, and nothing else is reported where its tensors were.
    let folder = tempfile::tempdir().unwrap();
    let copy = convert(Path::new(pair[1]), &folder.path().join("copy.pt"), &["--to", "pt"]);
    let (found, code) = json(&[pair[1], copy.to_str().unwrap()]);
    assert_eq!(code, 1);
    let settings = found["settings"].as_array().unwrap();
    let paths: Vec<&str> = settings.iter().map(|s| s["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["optimizer_state_dict.adamw.param_groups", "optimizer_state_dict.muon.param_groups"]);
    assert_eq!((&settings[1]["a"][0]["lr"], &settings[1]["b"]), (&json!(0.02), &Value::Null));
    assert!(!found["metadata"].to_string().contains("state_dict"), "{}", found["metadata"]);
}

#[test]
fn tensors_are_added_removed_reshaped_retyped_or_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let a = SafeTensors::new()
        .metadata(json!({"author": "one", "kept": "x"}))
        .f32s("same", &[2], &[1.0, 2.0])
        .f32s("wider", &[2], &[0.5, -0.25])
        .f32s("reshaped", &[2, 3], &[0.0; 6])
        .f32s("gone", &[1], &[0.0])
        .tensor("large", "I64", &[2], &le(&[1i64 << 60, 7]))
        .f32s("broken", &[4], &[1.0, f32::NAN, f32::INFINITY, 3.0])
        .f32s("nearly", &[3], &[1.0, 0.0, -1.0])
        .tensor("complex", "C64", &[1], &le(&[3.0f32, 4.0]))
        .f32s("zero", &[2], &[0.0, 0.0]);
    let a = written(a, path("a.safetensors"));
    let b = SafeTensors::new()
        .metadata(json!({"author": "two", "kept": "x"}))
        .f32s("same", &[2], &[1.0, 2.0])
        .tensor("wider", "F64", &[2], &le(&[0.5, -0.25]))
        .f32s("reshaped", &[3, 2], &[0.0; 6])
        .f32s("new", &[1], &[0.0])
        .tensor("large", "I64", &[2], &le(&[(1i64 << 60) + 1, 7]))
        .f32s("broken", &[4], &[1.0, f32::NAN, 2.0, 4.0])
        .f32s("nearly", &[3], &[1.0, 1e-7, -1.0])
        .tensor("complex", "C64", &[1], &le(&[3.0f32, 5.0]))
        .f32s("zero", &[2], &[-0.0, 0.0]);
    let b = written(b, path("b.safetensors"));
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let (found, code) = json(&[a, b, "--all"]);
    assert_eq!(code, 1);
    let one =
        |name: &str| found["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap().clone();
    for (name, status) in [
        ("same", "same"),
        ("wider", "retyped"),
        ("reshaped", "reshaped"),
        ("gone", "removed"),
        ("new", "added"),
        ("large", "changed"),
        ("broken", "changed"),
        ("nearly", "changed"),
        ("complex", "changed"),
        // Minus zero is zero.
        ("zero", "same"),
    ] {
        assert_eq!(one(name)["status"], status, "{name}");
    }
    assert_eq!(one("large")["values"]["equal"], 1);
    let broken = &one("broken")["values"];
    assert_eq!(
        (&broken["equal"], &broken["nonfinite"], &broken["norm_change"]),
        (&json!(2), &json!(2), &json!(1.0))
    );
    let complex = &one("complex")["values"];
    assert_eq!(
        (&complex["norm_a"], &complex["norm_change"], &complex["max_at"]),
        (&json!(5.0), &json!(1.0), &json!([0]))
    );
    assert_eq!(found["metadata"], json!([{"path": "author", "a": "one", "b": "two"}]));
    let (loose, code) =
        json(&[a, b, "--all", "--tolerance", "1e-6", "--filter", "{same,nearly,wider}", "--values-only"]);
    assert_eq!(code, 0, "{loose}");
    let (_, code) = json(&[a, b, "--tolerance", "1", "--filter", "broken", "--values-only"]);
    assert_eq!(code, 1, "infinity is within no tolerance");
}

#[test]
fn a_packed_copy_has_the_same_codes_in_another_dtype() {
    let pair = ["tests/fixtures/healthy-run/step-02000.pt", "tests/fixtures/packed/nano-healthy-2000-i2s.pt"];
    let (found, _) = json(&[pair[0], pair[1], "--group", "weights"]);
    let tensors = found["tensors"].as_array().unwrap();
    let packed: Vec<&Value> = tensors.iter().filter(|t| t["b"]["dtype"] == "i2s").collect();
    assert_eq!(packed.len(), 14);
    for tensor in packed {
        assert_eq!(
            (&tensor["status"], &tensor["ternary"]["flipped"]),
            (&json!("changed"), &json!(0)),
            "{tensor}"
        );
    }
}

#[test]
fn names_of_another_format_are_matched_through_a_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight"]
        .map(|name| written(SafeTensors::new().f32s(name, &[2], &[1.0, 2.0]), folder.path().join(name)));
    let (a, b) = (ckpt_inspect::open(&a).unwrap(), ckpt_inspect::open(&b).unwrap());
    let unmapped = diff(&a, &b, Options::default(), &|_| true).unwrap();
    assert_eq!((unmapped.count(Status::Removed), unmapped.count(Status::Added)), (1, 1));
    let canonical = |name: &str| name.replace("blk.", "layers.").replace("ffn_gate", "mlp.gate_proj");
    let mut options = Options::default();
    options.canonical = &canonical;
    let mapped = diff(&a, &b, options, &|_| true).unwrap();
    assert!(!mapped.is_different(), "{mapped:?}");
    assert!(diff(&a, &b, Options::default(), &|_| false).is_none(), "stopped");
}

/// A copy with the names of another format is matched with its source.
#[test]
fn a_checkpoint_is_the_same_as_its_converted_copy() {
    let folder = tempfile::tempdir().unwrap();
    let original = "tests/fixtures/healthy-run/step-02000.pt";
    let copy = folder.path().join("copy.safetensors");
    let copy = copy.to_str().unwrap();
    ckpt(&["convert", original, "--to", "safetensors", "--names", "hf", "-o", copy]).exits(0);
    let (found, code) = json(&[original, copy, "--group", "weights", "--values-only", "--all"]);
    assert_eq!(code, 0, "{found}");
    let tensors = found["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 24);
    let gate = tensors.iter().find(|t| t["name"] == "layers.0.mlp.gate_proj.weight").unwrap();
    assert_eq!(gate["b"]["name"], "model.layers.0.mlp.gate_proj.weight");
}

/// A one-layer student of width 256, so that rows fill a block of every type of GGUF, as a PyTorch file. Its head is
/// untied, and its key matrices are not square.
fn student(folder: &Path) -> PathBuf {
    let sizes = Student { vocab: 40, layers: 1, tied: false, ..Student::default() };
    let source = written(SafeTensors::of(&sizes.drawn(LARGEST)), folder.join("student.safetensors"));
    convert(&source, &folder.join("student.pt"), &["--to", "pt"])
}

/// Weights of the student are spread evenly between plus and minus this.
const LARGEST: f32 = 0.04;

fn convert(source: &Path, output: &Path, options: &[&str]) -> PathBuf {
    let paths = [source.to_str().unwrap(), "-o", output.to_str().unwrap()];
    ckpt(&[&["convert"], &paths[..], options].concat()).exits(0);
    output.to_path_buf()
}

/// For every type of a GGUF file, each matrix is found under its other name, with its dimensions in PyTorch's
/// order, and differs by what the type rounds away.
#[test]
fn a_checkpoint_against_its_gguf_differs_by_rounding_alone() {
    let folder = tempfile::tempdir().unwrap();
    let pt = student(folder.path());
    // The largest error of an element: the rounding of its value, or half a step of the block's largest and the
    // rounding of the step to f16.
    let largest = f64::from(LARGEST);
    let f16 = largest / 2048.0;
    let q8_0 = largest * (0.5 / 127.0 + 1.0 / 2048.0);
    for (quant, dtype, latent, error) in [
        ("f32", "float32", true, Some(0.0)),
        ("f16", "float16", true, Some(f16)),
        ("q8_0", "Q8_0", true, Some(q8_0)),
        ("f16", "float16", false, None),
        ("q8_0", "Q8_0", false, None),
        ("tq2_0", "TQ2_0", false, None),
        ("tq1_0", "TQ1_0", false, None),
    ] {
        let output = folder.path().join(format!("{quant}-{latent}.gguf"));
        let options = ["--to", "gguf", "--quant", quant, "--latent"];
        let gguf = convert(&pt, &output, &options[..4 + usize::from(latent)]);
        let (found, code) = json(&[pt.to_str().unwrap(), gguf.to_str().unwrap(), "--values-only", "--all"]);
        assert_eq!(code, i32::from(error != Some(0.0)), "{quant}");
        let tensors = found["tensors"].as_array().unwrap();
        assert_eq!(tensors.len(), 14, "{quant}: {found}");
        for tensor in tensors {
            let name = tensor["name"].as_str().unwrap();
            let (a, b) = (&tensor["a"], &tensor["b"]);
            assert_eq!(a["name"], name, "{quant}");
            assert_eq!(a["shape"], b["shape"], "{quant} {name}");
            let (values, codes) = (&tensor["values"], &tensor["ternary"]);
            let difference = values["max_difference"].as_f64().unwrap_or(0.0);
            if name.contains("norm") || error == Some(0.0) {
                assert_eq!(
                    (&tensor["status"], &b["dtype"]),
                    (&json!("same"), &json!("float32")),
                    "{quant} {name}"
                );
            } else if let Some(error) = error {
                assert_eq!((&tensor["status"], &b["dtype"]), (&json!("changed"), &json!(dtype)), "{name}");
                assert!(difference > 0.0 && difference <= error, "{quant} {name}: {difference}");
            } else if name.contains("_proj") {
                assert_eq!(b["dtype"], dtype, "{name}");
                // A ternary form has the codes of the weights, and their mean magnitude, half of the largest, as
                // its scale: a weight near zero or the largest is off by that much.
                assert_eq!((&tensor["status"], &codes["flipped"]), (&json!("changed"), &json!(0)), "{quant}");
                assert!((difference / (largest / 2.0) - 1.0).abs() < 0.01, "{quant} {name}: {difference}");
            }
        }
        let gate = tensors.iter().find(|t| t["name"] == "layers.0.mlp.gate_proj.weight").unwrap();
        assert_eq!(
            (&gate["b"]["name"], &gate["b"]["shape"]),
            (&json!("blk.0.ffn_gate.weight"), &json!([512, 256]))
        );
        let head = tensors.iter().find(|t| t["name"] == "lm_head.weight").unwrap();
        assert_eq!(head["b"]["name"], "output.weight");
    }
}

/// Separate scales of ternary blocks are part of the values, and a float copy that a BitLinear uses is judged as its
/// source.
#[test]
fn what_gguf_keys_and_scales_say_counts() {
    let folder = tempfile::tempdir().unwrap();
    let pt = student(folder.path());
    let to = |name: &str, options: &[&str]| {
        convert(&pt, &folder.path().join(name), &[&["--to", "gguf"], options].concat())
    };
    let (rounded, exact) = (
        to("rounded.gguf", &["--quant", "tq2_0"]),
        to("exact.gguf", &["--quant", "tq2_0", "--exact-scales"]),
    );
    let (found, code) = json(&[rounded.to_str().unwrap(), exact.to_str().unwrap(), "--values-only", "--all"]);
    assert_eq!(code, 1);
    let tensors = found["tensors"].as_array().unwrap();
    let packed = tensors.iter().filter(|t| t["a"]["dtype"] == "TQ2_0");
    let relative: Vec<f64> = packed.filter_map(|t| t["values"]["relative_change"].as_f64()).collect();
    assert_eq!(relative.len(), 7, "{found}");
    assert!(relative.iter().all(|change| *change < 1.0 / 1024.0), "{relative:?}");
    let latent = to("latent.gguf", &["--quant", "f32", "--latent"]);
    let levels = |path: &Path| {
        let done = ckpt(&["inspect", path.to_str().unwrap(), "--format", "json"]);
        let found = done.json();
        let tensors = found["tensors"].as_array().or(found[0]["tensors"].as_array()).unwrap().clone();
        tensors.iter().filter(|t| !t["ternary"].is_null()).count()
    };
    assert_eq!((levels(&pt), levels(&latent)), (7, 7));
}

/// llama.cpp's `llama` needs the halves of each head interleaved: rows are compared in PyTorch's order.
#[test]
fn rows_of_queries_and_keys_are_compared_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 1, "intermediate_size": 96, "vocab_size": 40,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    });
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let shapes: [(&str, &[usize]); 4] = [
        ("model.embed_tokens.weight", &[40, 64]),
        ("model.layers.0.self_attn.q_proj.weight", &[64, 64]),
        ("model.layers.0.self_attn.k_proj.weight", &[32, 64]),
        ("model.layers.0.mlp.down_proj.weight", &[64, 96]),
    ];
    let counting = |shape: &[usize]| (0..shape.iter().product()).map(|i: usize| i as f32).collect::<Vec<_>>();
    let file = shapes
        .iter()
        .fold(SafeTensors::new(), |file, (name, shape)| file.f32s(name, shape, &counting(shape)));
    file.write(&model.join("model.safetensors"));
    let model = model.to_str().unwrap();
    let plain = folder.path().join("f32.gguf");
    let plain = convert(Path::new(model), &plain, &["--to", "gguf", "--quant", "f32", "--allow-incomplete"]);
    let written = ckpt_inspect::open(&plain).unwrap();
    let source = ckpt_inspect::open(Path::new(model)).unwrap();
    let keys = |c: &ckpt_inspect::Checkpoint, name: &str| c.values(c.tensor(name).unwrap()).unwrap();
    let (theirs, ours) = (keys(&written, "blk.0.attn_k.weight"), keys(&source, shapes[2].0));
    // Heads of 16 rows: row 1 in the file is row 8.
    assert_eq!(theirs[64..128], ours[8 * 64..9 * 64]);
    let plain = plain.to_str().unwrap();
    let (found, code) = json(&[model, plain, "--values-only", "--all"]);
    assert_eq!(code, 0, "{found}");
    assert_eq!(found["tensors"].as_array().unwrap().len(), 4);
    // From a file to another of the same order.
    let packed = convert(
        Path::new(model),
        &folder.path().join("q8.gguf"),
        &["--to", "gguf", "--quant", "q8_0", "--allow-incomplete"],
    );
    let (found, _) = json(&[plain, packed.to_str().unwrap(), "--filter", "*attn_k*"]);
    let values = &found["tensors"][0]["values"];
    assert!(values["relative_change"].as_f64().unwrap() < 0.01, "{found}");
    assert_eq!(values["max_at"].as_array().unwrap().len(), 2);
}

#[test]
fn damaged_and_missing_files_cost_exit_code_3() {
    let (found, code) = json(&["tests/fixtures/formats/truncated.pt", "tests/fixtures/formats/whole.pt"]);
    assert_eq!(code, 3);
    let lost = found["tensors"].as_array().unwrap().iter().filter(|t| t["status"] == "unreadable").count();
    assert_eq!(lost, 3);
    let output = ckpt(&["diff", BEFORE, "tests/fixtures/no-such-file.pt"]).exits(3);
    assert!(output.err().contains("no-such-file.pt"));
    ckpt(&["diff", BEFORE, AFTER, "--tolerance", "-1"]).exits(2);
}

#[test]
fn a_name_that_matches_nothing_and_a_wrong_checksum_are_reported() {
    let output = ckpt(&["diff", BEFORE, AFTER, "--filter", "nomatch"]);
    assert_eq!(output.code(), Some(2));
    let message = output.err();
    assert!(message.contains("no tensor's name matches `nomatch`"), "{message}");

    let (whole, flipped) = ("tests/fixtures/formats/whole.pt", "tests/fixtures/formats/bitflip.pt");
    let (found, code) = json(&[whole, flipped, "--values-only"]);
    assert_eq!(code, 3);
    let tensors = found["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 1);
    assert_eq!(tensors[0]["name"], "layers.2.w");
    assert_eq!(tensors[0]["status"], "unreadable");
    assert!(tensors[0]["note"].as_str().unwrap().contains("checksum mismatch"), "{found}");
}
