//! Speed of a student model of 100 M random parameters, over instruction sets: loading, decoding and prefill over
//! threads, beside the machine's limit. Each decoded token reads every weight once, so the limit is the read bandwidth
//! over the bytes of weights; it is measured on as many bytes, read over and over by as many threads.
//!
//! `cargo bench -p ckpt-infer --bench decode`

use std::borrow::Cow;
use std::path::Path;

use ckpt_infer::bench::{self, Memory, Times};
use ckpt_infer::{Kernel, KvType, LoadOptions, Model, Pool, Runner, TableType};

const VOCAB: usize = 32_000;
const HIDDEN: usize = 768;
const LAYERS: usize = 12;
const MLP: usize = 2048;
const HEAD_DIM: usize = 64;
const HEADS: usize = 12;
const KV_HEADS: usize = 4;

const PROMPT: usize = 512;
const DECODED: usize = 64;
/// Each figure is the best of so many, taken in turn: what else the machine does only makes things slower.
const REPEATS: usize = 15;

/// A tensor of normal-like random numbers, made when it is written.
struct Random(Vec<usize>);

impl safetensors::View for Random {
    fn dtype(&self) -> safetensors::Dtype {
        safetensors::Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.0
    }
    fn data(&self) -> Cow<'_, [u8]> {
        let mut state = self.data_len() as u64 | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // The sum of four 16-bit uniforms, about 0, with standard deviation 0.02; norms are about 1.
            let sum: u64 = (0..4).map(|i| state >> (16 * i) & 0xffff).sum();
            let x = (sum as f32 - 131_070.0) / 37_837.0 * 0.02;
            if self.0.len() == 1 { 1.0 + x } else { x }
        };
        Cow::Owned((0..self.data_len() / 4).flat_map(|_| next().to_le_bytes()).collect())
    }
    fn data_len(&self) -> usize {
        4 * self.0.iter().product::<usize>()
    }
}

fn write_model(path: &Path) {
    let mut tensors = vec![
        ("embed_tokens.weight".to_string(), Random(vec![VOCAB, HIDDEN])),
        ("norm.weight".to_string(), Random(vec![HIDDEN])),
    ];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HEADS * HEAD_DIM, HIDDEN]),
            ("self_attn.k_proj", vec![KV_HEADS * HEAD_DIM, HIDDEN]),
            ("self_attn.v_proj", vec![KV_HEADS * HEAD_DIM, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HEADS * HEAD_DIM]),
            ("self_attn.q_norm", vec![HEAD_DIM]),
            ("self_attn.k_norm", vec![HEAD_DIM]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![MLP, HIDDEN]),
            ("mlp.up_proj", vec![MLP, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, MLP]),
        ] {
            tensors.push((format!("layers.{layer}.{name}.weight"), Random(shape)));
        }
    }
    safetensors::serialize_to_file(tensors, None, path).expect("room for 400 MB");
}

/// Best times in seconds: loading, one prompt, one token, and reading as many bytes as a token's weights.
struct Best {
    load: f64,
    prefill: f64,
    token: f64,
    limit: f64,
}

fn measure(path: &Path, threads: usize, tables: TableType, kernel: Kernel) -> Best {
    let pool = Pool::new(threads);
    let options = LoadOptions::default().with(|o| {
        o.tables = Some(tables);
        o.kernel = Some(kernel);
    });
    let open = || Model::open(path, &options, &pool).expect("the model just written");
    let model = open();
    let memory = Memory::like(&model);
    let mut runner = Runner::new(&model, &pool);
    let [mut load, mut prefill, mut token, mut limit] = [(); 4].map(|()| Times::default());
    for _ in 0..REPEATS {
        load.time(open);
        prefill.push(bench::prefill(&mut runner, KvType::F32, PROMPT).expect("room"));
        limit.push(memory.read(&pool));
        token.push(bench::decode(&mut runner, KvType::F32, 1, DECODED).expect("room").0);
    }
    Best { load: load.best(), prefill: prefill.best(), token: token.best(), limit: limit.best() }
}

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    write_model(&path);
    println!(
        "| kernel | tables | threads | load ms | prefill tokens/s | decode tokens/s | limit tokens/s | share |"
    );
    println!("| --- | --- | --: | --: | --: | --: | --: | --: |");
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads: Vec<usize> =
        std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < most).collect();
    threads.push(most);
    for (nth, kernel) in Kernel::available().into_iter().enumerate() {
        if kernel.name() == "portable" {
            continue;
        }
        for tables in [TableType::Int8, TableType::Q6, TableType::F32] {
            if nth > 0 && tables != TableType::Int8 {
                continue;
            }
            for &threads in &threads {
                let best = measure(&path, threads, tables, kernel);
                println!(
                    "| {} | {tables:?} | {threads} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} |",
                    kernel.name(),
                    1e3 * best.load,
                    PROMPT as f64 / best.prefill,
                    1.0 / best.token,
                    1.0 / best.limit,
                    best.limit / best.token
                );
            }
        }
    }
}
