//! Blocks of GGUF files that are kept as they are, or become other types.

use std::path::{Path, PathBuf};

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Options, Plan, Target, verify, verify_written, write};
use ckpt_inspect::ggml::GgmlType;
use ckpt_inspect::{Checkpoint, DType, open};
use ckpt_kit::random::Random;

use super::gguf::{Converted, LLAMA, hugging_face, llama_config, options, with};

/// A file of one matrix for each type whose blocks are decoded and that is `taken`, and what its values are.
fn every_block(folder: &Path, taken: fn(GgmlType) -> bool) -> (PathBuf, Vec<(String, Vec<f32>)>) {
    let mut file = ckpt_kit::gguf::Gguf::new().key_text("general.architecture", "llama");
    let mut random = Random::new(3);
    let mut values = Vec::new();
    let types = (0..100).map(GgmlType).filter(|ggml| ggml.decodes() && taken(*ggml));
    for (i, ggml) in types.enumerate() {
        let (name, blocks) = (format!("blk.{i}.ffn_up.weight"), 3 * 512 / ggml.block_elements());
        let bytes = ckpt_kit::gguf::blocks(ggml.0, ggml.block_bytes().unwrap(), blocks, &mut random);
        let mut decoded = vec![0.0; 3 * 512];
        ggml.decoder(&bytes, 3 * 512).unwrap().read(0, &mut decoded);
        assert!(decoded.iter().all(|x| x.is_finite()) && decoded.iter().any(|x| *x != 0.0), "{ggml}");
        file = file.tensor(&name, &[512, 3], ggml.0, bytes);
        values.push((name, decoded));
    }
    let path = folder.join(format!("{}-types.gguf", values.len()));
    std::fs::write(&path, file.bytes()).unwrap();
    (path, values)
}

#[test]
fn blocks_of_every_type_are_kept_and_converted() {
    let folder = tempfile::tempdir().unwrap();
    let (path, values) = every_block(folder.path(), |_| true);
    let source = open(&path).unwrap();
    assert_eq!(values.len(), 27);
    let kept = Converted::new(&path, &options(Gguf::default()));
    assert!(kept.agrees, "{:?}", kept.notes);
    let kept = kept.open();
    for (name, values) in &values {
        let (old, new) = (source.tensor(name).unwrap(), kept.tensor(name).unwrap());
        assert_eq!(old.dtype, new.dtype, "{name}");
        assert_eq!(
            source.tensor_bytes(old).unwrap(),
            kept.tensor_bytes(new).unwrap(),
            "{name}: {}",
            old.dtype
        );
        assert_eq!(source.values(old).unwrap(), *values, "{name}");
    }
    for quant in [Quant::F32, Quant::F16, Quant::BF16] {
        let made = Converted::new(&path, &with(quant));
        assert!(made.agrees, "{quant}: {:?}", made.notes);
        let made = made.open();
        for (name, values) in &values {
            let tensor = made.tensor(name).unwrap();
            assert_eq!(tensor.dtype, quant.dtype(), "{name}");
            if quant == Quant::F32 {
                assert_eq!(made.values(tensor).unwrap(), *values, "{name}");
            }
        }
    }
    // Ternary blocks of noise have codes that are none.
    let (binary, _) = every_block(folder.path(), |ggml| !ggml.is_ternary());
    for quant in [Quant::Q8_0, Quant::Q6K] {
        let made = Converted::new(&binary, &with(quant));
        assert!(made.agrees, "{quant}: {:?}", made.notes);
    }
    let flat = folder.path().join("flat.safetensors");
    let flat_options = Options::new(Target::SafeTensors);
    let mut plan = Plan::new(&source, &flat_options).unwrap();
    write(&mut plan, &flat_options, &flat, Control::new(&|_| (), &Default::default())).unwrap();
    assert!(verify_written(&plan, &flat).unwrap().agrees());
    let flat = open(&flat).unwrap();
    assert_eq!(flat.tensors.len(), values.len());
    assert!(verify(&source, &flat).unwrap().agrees());
}

/// As llama.cpp's converter writes NVFP4: each matrix, and each expert's, has a factor in a tensor of its own.
#[test]
fn factors_of_matrices_and_of_experts_go_with_their_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(4);
    let mut blocks = |count: usize| ckpt_kit::gguf::blocks(GgmlType::NVFP4.0, 36, count, &mut random);
    let (one, three) = (blocks(8), blocks(24));
    let bytes = |factors: &[f32]| factors.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let f32s = GgmlType::F32.0;
    let file = ckpt_kit::gguf::Gguf::new()
        .key_text("general.architecture", "llama")
        .tensor("blk.0.attn_q.weight", &[128, 4], GgmlType::NVFP4.0, one.clone())
        .tensor("blk.0.attn_q.scale", &[1], f32s, bytes(&[0.25]))
        .tensor("blk.0.attn_q.input_scale", &[1], f32s, bytes(&[0.125]))
        .tensor("blk.0.ffn_up_exps.weight", &[128, 4, 3], GgmlType::NVFP4.0, three.clone())
        .tensor("blk.0.ffn_up_exps.scale", &[3], f32s, bytes(&[2.0, 0.5, 3.0]));
    let path = folder.path().join("experts.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    let scaled = |blocks: &[u8], factors: &[f32]| {
        let mut values = vec![0.0; 512 * factors.len()];
        GgmlType::NVFP4.decoder(blocks, values.len()).unwrap().read(0, &mut values);
        values.chunks_mut(512).zip(factors).for_each(|(matrix, f)| matrix.iter_mut().for_each(|x| *x *= f));
        values
    };
    let assert_values = |checkpoint: &Checkpoint, [q, up]: [&str; 2]| {
        let values = |name: &str| checkpoint.values(checkpoint.tensor(name).unwrap()).unwrap();
        assert_eq!(values(q), scaled(&one, &[0.25]));
        assert_eq!(values(up), scaled(&three, &[2.0, 0.5, 3.0]));
        let (tensor, mut piece) = (checkpoint.tensor(up).unwrap(), vec![0.0; 600]);
        checkpoint.elements(tensor).unwrap().read_f32(500, &mut piece);
        assert_eq!(piece, values(up)[500..1100], "across the borders of matrices");
    };
    let source = open(&path).unwrap();
    assert_values(&source, ["blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"]);
    let kept = Converted::new(&path, &options(Gguf::default()));
    assert!(kept.agrees);
    let kept = kept.open();
    assert_values(&kept, ["blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"]);
    for tensor in &source.tensors {
        let copy = kept.tensor(&tensor.name).unwrap();
        assert_eq!(source.tensor_bytes(tensor).unwrap(), kept.tensor_bytes(copy).unwrap(), "{}", tensor.name);
    }
    let flat = folder.path().join("flat.safetensors");
    let flat_options = Options::new(Target::SafeTensors);
    let mut plan = Plan::new(&source, &flat_options).unwrap();
    write(&mut plan, &flat_options, &flat, Control::new(&|_| (), &Default::default())).unwrap();
    let flat = open(&flat).unwrap();
    let names: Vec<&str> = flat.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["model.layers.0.self_attn.q_proj.weight", "blk.0.ffn_up_exps.weight"]);
    assert_values(&flat, [names[0], names[1]]);
    // Other factors are other values, though the blocks are the same.
    let mut other = file.clone();
    other.tensors[4].data = bytes(&[2.0, 0.5, 1.0]);
    let other = ckpt_inspect::open_bytes("other.gguf", other.bytes()).unwrap();
    assert!(!verify(&source, &other).unwrap().agrees());
}

#[test]
fn a_type_that_is_only_kept_cannot_be_chosen() {
    let llama = hugging_face(&llama_config(), &LLAMA);
    let glob = globset::Glob::new("*").unwrap().compile_matcher();
    let chosen = options(Gguf::default()).with(|o| o.dtypes = vec![(glob, DType::Ggml(GgmlType::IQ4_XS))]);
    assert!(Plan::new(&open(llama.path()).unwrap(), &chosen).unwrap_err().to_string().contains("IQ4_XS"));
    assert!("iq4_xs".parse::<Quant>().unwrap_err().contains("can only be copied from a GGUF file"));
}
