//! Writes the checkpoint to be measured: the student model's "125m" preset (100.1 M parameters) in f32, as
//! `torch.save` lays out a file: entries stored in a zip, 64-byte aligned, `data.pkl` before the storages.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use rayon::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Standard deviation of the weights: that of a usual initialization, and of a healthy trained layer.
const STD: f32 = 0.02;

const VOCAB: usize = 32_000;
const HIDDEN: usize = 768;
const LAYERS: usize = 12;
const HEAD_DIM: usize = 64;
const KV_DIM: usize = 4 * HEAD_DIM;
const MLP_HIDDEN: usize = 2048;

/// Names and shapes in model order.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![("embed_tokens".to_string(), vec![VOCAB, HIDDEN])];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("layers.{layer}.{name}"), shape.to_vec()));
        };
        add("input_layernorm", &[HIDDEN]);
        add("self_attn.q_proj", &[HIDDEN, HIDDEN]);
        add("self_attn.k_proj", &[KV_DIM, HIDDEN]);
        add("self_attn.v_proj", &[KV_DIM, HIDDEN]);
        add("self_attn.o_proj", &[HIDDEN, HIDDEN]);
        add("self_attn.q_norm", &[HEAD_DIM]);
        add("self_attn.k_norm", &[HEAD_DIM]);
        add("post_attention_layernorm", &[HIDDEN]);
        add("mlp.gate_proj", &[MLP_HIDDEN, HIDDEN]);
        add("mlp.up_proj", &[MLP_HIDDEN, HIDDEN]);
        add("mlp.down_proj", &[HIDDEN, MLP_HIDDEN]);
    }
    tensors.push(("norm".to_string(), vec![HIDDEN]));
    tensors.into_iter().map(|(name, shape)| (name + ".weight", shape)).collect()
}

/// Writes the file; returns how many parameters it holds. The same bytes every time.
pub fn write(path: &Path) -> io::Result<usize> {
    let tensors = tensors();
    let options =
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
    let mut zip = ZipWriter::new(BufWriter::with_capacity(1 << 20, File::create(path)?));
    let mut entry = |name: &str, bytes: &[u8]| -> io::Result<()> {
        zip.start_file(format!("student/{name}"), options)?;
        zip.write_all(bytes)
    };
    entry("data.pkl", &pickle(&tensors))?;
    entry("byteorder", b"little")?;
    let mut parameters = 0;
    for (index, (_, shape)) in tensors.iter().enumerate() {
        let numel = shape.iter().product();
        let values = if shape.len() == 1 { vec![1.0; numel] } else { normal(parameters as u64, numel) };
        entry(&format!("data/{index}"), bytemuck::cast_slice(&values))?;
        parameters += numel;
    }
    entry("version", b"3\n")?;
    zip.finish()?.into_inner()?.sync_all()?;
    Ok(parameters)
}

/// `len` normal numbers of mean 0, by the Box-Muller transform of hashed counters from `first` on.
fn normal(first: u64, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    values.par_chunks_mut(1 << 16).enumerate().for_each(|(chunk, values)| {
        let start = first + ((chunk as u64) << 16);
        for (i, pair) in values.chunks_mut(2).enumerate() {
            let bits = splitmix64(start + 2 * i as u64);
            let unit = |bits: u32| ((bits >> 8) as f32 + 0.5) / (1 << 24) as f32;
            let radius = STD * (-2.0 * unit(bits as u32).ln()).sqrt();
            let (sin, cos) = (std::f32::consts::TAU * unit((bits >> 32) as u32)).sin_cos();
            pair.iter_mut().zip([cos, sin]).for_each(|(value, part)| *value = radius * part);
        }
    });
    values
}

/// The `index`-th output of SplitMix64 (Steele, Lea and Flood, 2014, <https://doi.org/10.1145/2660193.2660195>).
fn splitmix64(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `{"model_state_dict": {name: tensor, ...}, "step": 0}` in protocol 2. Tensor i is a contiguous view of storage i.
fn pickle(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, s: &str) {
        out.push(b'X');
        out.extend((s.len() as u32).to_le_bytes());
        out.extend(s.as_bytes());
    }
    fn int(out: &mut Vec<u8>, n: usize) {
        out.push(b'J');
        out.extend((n as i32).to_le_bytes());
    }
    let mut out = b"\x80\x02}".to_vec();
    text(&mut out, "model_state_dict");
    out.push(b'}');
    for (index, (name, shape)) in tensors.iter().enumerate() {
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &index.to_string());
        text(&mut out, "cpu");
        int(&mut out, shape.iter().product());
        out.extend(b"tQ");
        int(&mut out, 0);
        out.push(b'(');
        shape.iter().for_each(|&dim| int(&mut out, dim));
        out.extend(b"t(");
        (0..shape.len()).for_each(|dim| int(&mut out, shape[dim + 1..].iter().product()));
        // requires_grad False; backward_hooks OrderedDict().
        out.extend(b"t\x89ccollections\nOrderedDict\n)RtRs");
    }
    out.push(b's');
    text(&mut out, "step");
    int(&mut out, 0);
    out.extend(b"s.");
    out
}
