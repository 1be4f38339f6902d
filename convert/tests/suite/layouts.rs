//! Distributed checkpoints written, and folders of several models that cannot be written as one.

use std::path::Path;

use ckpt_convert::{Control, Error, Options, Plan, Target, verify, verify_written, write};
use ckpt_inspect::{DType, Format, open};
use ckpt_kit::fixtures::{below, fixture};
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::student::Student;
use ckpt_kit::{peers, pickle, torch};

/// Converts and verifies.
fn convert(source: &Path, options: &Options, to: &Path) -> Result<(), Error> {
    let checkpoint = open(source)?;
    let mut plan = Plan::new(&checkpoint, options)?;
    let stop = Default::default();
    write(&mut plan, options, to, Control::new(&|_| (), &stop))?;
    let report = verify_written(&plan, to)?;
    assert!(report.agrees(), "{}: {report:#?}", source.display());
    Ok(())
}

fn dcp() -> Options {
    Options::new(Target::Dcp).with(|o| o.keep_optimizer = true)
}

#[test]
fn a_distributed_checkpoint_says_the_same_and_is_replaced_by_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let source = fixture("healthy-run/step-02000.pt");
    convert(&source, &dcp(), &at("step-2000")).unwrap();
    let (before, after) = (open(&source).unwrap(), open(at("step-2000")).unwrap());
    assert_eq!((after.format, after.damage.clone()), (Format::TorchDistributed, None));
    assert!(after.warnings.is_empty(), "{:?}", after.warnings);
    assert_eq!(after.step.as_ref().map(|step| step.0), Some(2000));
    assert_eq!(after.tensors.len(), before.tensors.len());
    for tensor in &before.tensors {
        let other = after.tensor(&tensor.name).unwrap();
        assert_eq!((&tensor.shape, tensor.dtype, tensor.group), (&other.shape, other.dtype, other.group));
        assert_eq!(tensor.bytes().unwrap(), other.bytes().unwrap(), "{}", tensor.name);
    }
    // And back, and from a file that is no pickle: names stay as they are.
    let flat = Options::new(Target::SafeTensors);
    convert(&at("step-2000"), &flat, &at("flat.safetensors")).unwrap();
    assert!(verify(&before, &open(at("flat.safetensors")).unwrap()).unwrap().agrees());
    convert(&at("flat.safetensors"), &Options::new(Target::Dcp), &at("from-flat")).unwrap();
    let names = |name: &str| {
        let mut names: Vec<String> = open(at(name)).unwrap().tensors.iter().map(|t| t.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names("from-flat"), names("flat.safetensors"));
    // Only its like is replaced, and only if asked for.
    assert!(convert(&source, &dcp(), &at("step-2000")).is_err());
    let force = dcp().with(|o| o.force = true);
    convert(&source, &force, &at("step-2000")).unwrap();
    std::fs::write(at("step-2000").join("notes.txt"), "mine").unwrap();
    assert!(convert(&source, &force, &at("step-2000")).unwrap_err().to_string().contains("notes.txt"));
}

#[test]
fn torch_reads_the_distributed_checkpoints() {
    let Some(python) = peers::python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut written = 0;
    let run = below(&fixture("healthy-run"), &[".pt"]);
    for source in below(&fixture("formats"), &[".pt"]).into_iter().chain(run) {
        let copy = folder.path().join(source.file_name().unwrap());
        match convert(&source, &dcp(), &copy.with_extension("")) {
            Ok(()) => drop(std::fs::copy(&source, copy).unwrap()),
            // Damaged ones, and what is no dict.
            Err(Error::Read(_) | Error::Target { .. } | Error::Source { .. }) => continue,
            Err(error) => panic!("{}: {error}", source.display()),
        }
        written += 1;
    }
    assert!(written > 15, "only {written}");
    let said = python.script("convert", "dcp_peers.py", &[folder.path()]);
    let compared: usize = said.split(' ').next().unwrap().parse().unwrap();
    assert!(compared > 15 && said.contains("read the same"), "{said}");
}

/// What a program keeps under one key, and lists with tensors among their elements.
#[test]
fn a_nested_state_is_the_same_as_torch_makes_it_and_reads_it() {
    let Some(python) = peers::python(&["torch", "zstandard"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    python.script("inspect", "layouts.py", &[folder.path()]);
    let at = |name: &str| folder.path().join(name);
    let torch = Options::new(Target::Torch).with(|o| o.keep_optimizer = true);
    convert(&at("app"), &torch, &at("ours.pt")).unwrap();
    convert(&at("app.pt"), &dcp(), &at("back")).unwrap();
    let paths = [at("app.pt"), at("ours.pt"), at("back")];
    let said = python.script("convert", "nested.py", &[&paths[0], &paths[1], &paths[2]]);
    assert!(said.contains("the same"), "{said}");
    // Without the optimizer nothing of it is left, and weights have the names of the model where names are all there is.
    convert(&at("app"), &Options::new(Target::Torch), &at("weights.pt")).unwrap();
    let weights = open(at("weights.pt")).unwrap();
    assert!(!format!("{:?}", weights.metadata).contains("param_groups"), "{:?}", weights.metadata);
    convert(&at("app"), &Options::new(Target::SafeTensors), &at("flat.safetensors")).unwrap();
    let flat = open(at("flat.safetensors")).unwrap();
    assert!(flat.tensor("0.weight").is_ok() && flat.tensor("1.bias").is_ok());
}

/// Several tensors of unlike shapes in one, which no other format has, are refused by name.
#[test]
fn nested_tensors_are_refused_by_name() {
    let Some(python) = peers::python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    const WRITE: &str = r#"
import sys, torch
from pathlib import Path
parts = [torch.randn(3, 4), torch.randn(5, 4)]
for layout in [torch.strided, torch.jagged]:
    nested = torch.nested.nested_tensor(parts, layout=layout)
    torch.save({"w": torch.randn(8, 8), "ragged": nested}, Path(sys.argv[1]) / f"{str(layout)[6:]}.pt")
"#;
    python.code(WRITE, &[folder.path()]);
    for name in ["strided.pt", "jagged.pt"] {
        for target in [Target::SafeTensors, Target::Torch, Target::Dcp, Target::Npz] {
            let copy = folder.path().join("copy");
            let error = convert(&folder.path().join(name), &Options::new(target), &copy).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("`ragged` is a nested tensor"), "{name}, {target:?}: {text}");
            assert!(text.contains("would be missing") && !copy.exists(), "{name}, {target:?}: {text}");
        }
    }
}

/// Reinforcement learning keeps the tokenizer in a folder beside the files of ranks.
#[test]
fn the_tokenizer_of_what_ranks_saved_is_copied_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let student = Student::default();
    std::fs::create_dir_all(at("actor/huggingface")).unwrap();
    std::fs::write(at("actor/model_world_size_1_rank_0.pt"), torch::checkpoint(&student.drawn(0.02), &[]))
        .unwrap();
    let other = torch::checkpoint(&[], &[("param_groups", pickle::list(&[]))]);
    std::fs::write(at("actor/optim_world_size_1_rank_0.pt"), other).unwrap();
    let files = [
        ("tokenizer.json", r#"{"version": "1.0"}"#),
        ("tokenizer_config.json", r#"{"model_max_length": 77}"#),
        ("special_tokens_map.json", "{}"),
        ("generation_config.json", r#"{"eos_token_id": 2}"#),
    ];
    std::fs::write(at("actor/huggingface/config.json"), "{}").unwrap();
    for (name, text) in files {
        std::fs::write(at("actor/huggingface").join(name), text).unwrap();
    }
    for source in ["actor", "actor/model_world_size_1_rank_0.pt"] {
        let copy = at(&format!("copy-{}", source.len()));
        convert(&at(source), &Options::new(Target::Hf { packed: false }), &copy).unwrap();
        for (name, text) in files {
            assert_eq!(std::fs::read_to_string(copy.join(name)).unwrap(), text, "{source}: {name}");
        }
    }
}

/// A matrix that two ranks have the columns of, larger than what is gathered at a time.
#[test]
fn a_large_tensor_in_blocks_of_columns_is_written_and_compared_in_stretches() {
    const SIDE: usize = 2600;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let value = |row: usize, col: usize| ((row * 31 + col * 17) % 251) as f32 / 64.0;
    let block = |cols: std::ops::Range<usize>| -> Vec<f32> {
        (0..SIDE).flat_map(|row| cols.clone().map(move |col| value(row, col))).collect()
    };
    std::fs::create_dir(at("ranks")).unwrap();
    for (rank, cols) in [(1, 0..1000), (2, 1000..SIDE)] {
        let info = serde_json::json!({"w": {"saved_offsets": [0, cols.start]}}).to_string();
        let file = SafeTensors::new().metadata(serde_json::json!({"DCP_SHARDING_INFO": info})).f32s(
            "w",
            &[SIDE, cols.len()],
            &block(cols),
        );
        file.write(&at("ranks").join(format!("shard-{rank:05}-model-00001-of-00001.safetensors")));
    }
    SafeTensors::new().f32s("w", &[SIDE, SIDE], &block(0..SIDE)).write(&at("whole.safetensors"));
    let whole = open(at("whole.safetensors")).unwrap();
    let half = Options::new(Target::Torch).with(|o| o.dtype = Some(DType::F16));
    for (options, name) in [
        (Options::new(Target::SafeTensors), "copy.safetensors"),
        (Options::new(Target::Torch), "copy.pt"),
        (half, "half.pt"),
        (Options::new(Target::Npz), "copy.npz"),
        (Options::new(Target::Dcp), "copy"),
    ] {
        convert(&at("ranks"), &options, &at(name)).unwrap();
        let mut copy = open(at(name)).unwrap();
        assert_eq!(copy.verify_checksums(), [""; 0], "{name}");
        assert!(verify(&whole, &copy).unwrap().agrees(), "{name}");
    }
    // A difference is found where it is.
    let mut values = block(0..SIDE);
    values[5_000_000] += 1.0;
    SafeTensors::new().f32s("w", &[SIDE, SIDE], &values).write(&at("other.safetensors"));
    let report = verify(&open(at("ranks")).unwrap(), &open(at("other.safetensors")).unwrap()).unwrap();
    let found = &report.tensors[0];
    assert_eq!(
        (found.agrees, found.differing, found.first, found.worst),
        (false, 1, Some(5_000_000), Some(1.0))
    );
}

#[test]
fn several_models_are_written_under_their_folders_names_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let file = |name: &str| SafeTensors::new().f32s(name, &[2], &[1.0, 2.0]).bytes();
    std::fs::create_dir_all(at("model/2_Dense")).unwrap();
    std::fs::write(at("model/model.safetensors"), file("own.weight")).unwrap();
    std::fs::write(at("model/2_Dense/model.safetensors"), file("linear.weight")).unwrap();
    let modules = r#"[{"path":"","type":"models.Transformer"},{"path":"2_Dense","type":"models.Dense"}]"#;
    std::fs::write(at("model/modules.json"), modules).unwrap();
    convert(&at("model"), &Options::new(Target::SafeTensors), &at("all.safetensors")).unwrap();
    let all = open(at("all.safetensors")).unwrap();
    let mut names: Vec<&str> = all.tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort();
    assert_eq!(names, ["2_Dense.linear.weight", "own.weight"]);
    let error = convert(&at("model"), &Options::new(Target::Hf { packed: false }), &at("hf")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("several models, those in the folder itself, 2_Dense/"), "{text}");
    assert!(!at("hf").exists());
}
