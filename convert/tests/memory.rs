//! Conversion streams: for checkpoints of any size, allocations stay below 64 MiB and the largest tensor.

use std::path::Path;

use ckpt_convert::edit::{Average, Edit, Lora, Settings, edit};
use ckpt_convert::quant::Quant;
use ckpt_convert::{
    Blob, Content, Control, Elements, Gguf, Options, Output, Plan, Target, verify_written, write,
};
use ckpt_inspect::{DType, open};
use ckpt_kit::safetensors::SafeTensors;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// Layers of 8 MiB, one of 32 MiB: 128 MiB of float32 in a sparse file.
fn source(path: &Path) {
    let file = (0..13).fold(SafeTensors::new(), |file, i| {
        file.hole(&format!("layers.{i}.mlp.up_proj.weight"), &[if i == 0 { 4096 } else { 1024 }, 2048])
    });
    file.write_holes(path);
}

fn peak(mut work: impl FnMut()) -> usize {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    work();
    (ALLOCATOR.peak_usage() - before) / MIB
}

/// The mean of three checkpoints, and with an adapter of each matrix merged into it.
fn edits_are_bounded(folder: &Path, control: Control<'_>) {
    let paths: Vec<_> = (0..3).map(|i| folder.join(format!("source-{i}.safetensors"))).collect();
    paths.iter().for_each(|path| source(path));
    let to = folder.join("edited.safetensors");
    let adapter = folder.join("adapter");
    std::fs::create_dir(&adapter).unwrap();
    let config = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": true}"#;
    std::fs::write(adapter.join("adapter_config.json"), config).unwrap();
    let file = (0..13).fold(SafeTensors::new(), |file, i| {
        let (module, rows) = (format!("layers.{i}.mlp.up_proj.lora_"), if i == 0 { 4096 } else { 1024 });
        file.f32s(&format!("{module}A.weight"), &[4, 2048], &vec![0.5; 4 * 2048])
            .f32s(&format!("{module}B.weight"), &[rows, 4], &vec![0.25; 4 * rows])
            .f32s(&format!("{module}magnitude_vector"), &[rows], &vec![1.0; rows])
    });
    file.write(&adapter.join("adapter_model.safetensors"));
    let options = Options::new(Target::SafeTensors);
    let used = peak(|| {
        let sources = paths.iter().map(|path| open(path).unwrap()).collect();
        let edits: [Box<dyn Edit>; 2] = [Box::new(Average::equal()), Box::new(Lora::new([&adapter]))];
        let edited = edit(sources, &edits, &Settings::of(&options)).unwrap();
        let mut plan = edited.plan(&options).unwrap();
        write(&mut plan, &options, &to, control).unwrap();
        assert!(verify_written(&plan, &to).unwrap().agrees());
    });
    assert!(used < 32, "{used} MiB");
    let written = open(&to).unwrap();
    // Of rows that were zero, what DoRA makes is of norm 1.
    let row = written.values(&written.tensors[0]).unwrap()[..2048]
        .iter()
        .map(|x| f64::from(*x).powi(2))
        .sum::<f64>();
    assert!((row - 1.0).abs() < 1e-5, "{row}");
    std::fs::remove_file(&to).unwrap();
}

#[test]
fn conversions_and_edits_hold_pieces_and_not_whole_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("source.safetensors");
    source(&path);
    let stop = Default::default();
    let control = Control::new(&|_| (), &stop);
    edits_are_bounded(folder.path(), control);
    let checkpoint = open(&path).unwrap();
    let run = |checkpoint: &ckpt_inspect::Checkpoint, options: &Options, name: &str| {
        let to = folder.path().join(name);
        let used = peak(|| {
            let mut plan = Plan::new(checkpoint, options).unwrap();
            write(&mut plan, options, &to, control).unwrap();
            assert!(verify_written(&plan, &to).unwrap().agrees());
        });
        std::fs::remove_file(&to).unwrap();
        used
    };
    let gguf = |quant| Gguf::default().with(|g| g.quant = Some(quant));
    let ternary = Some(globset::Glob::new("*_proj.weight").unwrap().compile_matcher());
    for (options, name) in [
        (Options::new(Target::SafeTensors), "copy.safetensors"),
        (Options::new(Target::Torch), "copy.pt"),
        (Options::new(Target::SafeTensors).with(|o| o.dtype = Some(DType::F16)), "half.safetensors"),
        (Options::new(Target::I2s).with(|o| o.ternary = ternary.clone()), "i2s.pt"),
        (Options::new(Target::Gguf(gguf(Quant::F16))), "half.gguf"),
        (Options::new(Target::Gguf(gguf(Quant::Tq2_0))).with(|o| o.ternary = ternary), "ternary.gguf"),
    ] {
        let used = run(&checkpoint, &options, name);
        assert!(used < 64, "{name}: {used} MiB, though everything can be read where it is mapped");
    }

    // The same matrices, transposed, must be copied to change their layout: one at a time.
    let transposed = folder.path().join("transposed.pt");
    let mut plan = Plan::new(&checkpoint, &Options::new(Target::Torch)).unwrap();
    (plan.blobs, plan.tensors) = Default::default();
    for tensor in &checkpoint.tensors {
        let content = Content::Elements(Elements::new(tensor.clone(), None));
        plan.blobs.push(Blob::new(tensor.dtype, tensor.byte_len().unwrap(), content));
        let shape = tensor.shape.iter().rev().copied().collect();
        let mut output = Output::new(&*tensor.name, tensor.dtype, shape, plan.blobs.len() - 1);
        output.strides = tensor.strides.iter().rev().copied().collect();
        plan.tensors.push(output);
    }
    write(&mut plan, &Options::new(Target::Torch), &transposed, control).unwrap();
    let checkpoint = open(&transposed).unwrap();
    assert!(!checkpoint.tensors[0].is_contiguous());
    let options = Options::new(Target::SafeTensors).with(|o| o.dtype = Some(DType::BF16));
    let used = run(&checkpoint, &options, "laid-out.safetensors");
    assert!((32..64 + 32).contains(&used), "{used} MiB");
}
