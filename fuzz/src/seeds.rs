//! Initial files: of every format at least one that opens, made here or a fixture.

use ckpt_inspect::Format;
use ckpt_inspect::ggml::GgmlType;
use ckpt_kit::fixtures::{below, data, fixture, root};
use ckpt_kit::gguf::{Gguf, kind};
use ckpt_kit::numbers::le;
use ckpt_kit::random::Random;
use ckpt_kit::student::Student;
use ckpt_kit::tensor::Tensor;
use ckpt_kit::torch::{self, TarStorage, TarTensor};
use ckpt_kit::{npy, pickle, safetensors, zip};

/// A file.
#[derive(Clone, Debug)]
pub struct Seed {
    /// What it is called.
    pub name: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

fn seed(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Seed {
    Seed { name: name.into(), bytes: bytes.into() }
}

/// A small student model with every part.
fn student() -> Vec<Tensor> {
    let sizes =
        Student { vocab: 8, width: 8, layers: 1, heads: 2, kv_heads: 1, head_dim: 4, mlp: 16, tied: false };
    sizes.drawn(0.1)
}

/// A whole file of the format.
fn made(format: Format) -> Vec<u8> {
    let student = student();
    match format {
        Format::TorchZip => {
            let group = pickle::dict(&[("lr", [&b"G"[..], &0.01f64.to_be_bytes()].concat())]);
            torch::checkpoint(&student, &[("step", pickle::int(7)), ("param_groups", pickle::list(&[group]))])
        }
        Format::TorchScript => {
            let tensor = torch::rebuild("FloatStorage", "0", 6, 0, &[2, 3], &[3, 1]);
            let body =
                [&pickle::global("__torch__.m", "Net")[..], b")\x81", &pickle::dict(&[("w", tensor)]), b"b"]
                    .concat();
            let code = "class Net(Module):\n  def forward(self, x):\n    return torch.add(x, 1)\n";
            torch::script(&pickle::pickle(2, &body), code, &[le(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])])
        }
        Format::TorchLegacy => torch::legacy(&student),
        Format::TorchTar => {
            let storage = |key, class, elements, data| TarStorage { key, class, elements, data };
            let storages = [
                storage(1, "FloatStorage", 6, le(&[0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0])),
                storage(2, "LongStorage", 1, le(&[7i64])),
            ];
            let tensor = |key, storage, class, sizes, strides, offset| TarTensor {
                key,
                storage,
                class,
                sizes,
                strides,
                offset,
            };
            let tensors = [
                tensor(10, 1, "FloatTensor", &[3, 2], &[1, 3], 0),
                tensor(11, 3, "FloatTensor", &[3], &[1], 1),
                tensor(12, 2, "LongTensor", &[1], &[1], 0),
            ];
            let object =
                pickle::dict(&[10, 11, 12].map(|key: i32| {
                    (["t", "v", "n"][key as usize - 10], pickle::persistent(&pickle::int(key)))
                }));
            torch::tar(&storages, &[[3, 1, 2, 4]], &tensors, &object)
        }
        Format::Pickle => pickle::pickle(
            2,
            &pickle::dict(&[("lr", pickle::int(3)), ("names", pickle::list(&[pickle::text("a")]))]),
        ),
        Format::SafeTensors => {
            let plain = safetensors::SafeTensors::of(&student)
                .metadata(serde_json::json!({"step": "7", "format": "pt"}));
            plain
                .tensor("ids", "I64", &[2], &le(&[3i64, -1]))
                .tensor("half", "BF16", &[2, 2], &[1; 8])
                .bytes()
        }
        Format::Npy => npy::npy("'<f4'", true, "(2, 3)", &le(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])),
        Format::Npz => zip::zip(&[
            zip::entry("layers.0.weight.npy", npy::npy("'<f4'", false, "(2, 3)", &[0; 24])),
            zip::deflated("layers.0.bias.npy", npy::npy("'>i8'", false, "(2,)", &[7; 16])),
            zip::entry("notes.txt", *b"no array"),
        ]),
        Format::Gguf { version, big_endian } => gguf(version, big_endian, &student),
        other => panic!("no file of the format {other} is made here"),
    }
}

/// A GGUF file with a vocabulary, nested arrays and blocks.
fn gguf(version: u32, big_endian: bool, tensors: &[Tensor]) -> Vec<u8> {
    let file = Gguf { version: Some(version), big_endian, ..Gguf::default() };
    let tokens = file.strings(&["<s>", "</s>", "a", "b", "ab", "c", "d", "e"]);
    let scores: Vec<u8> = (0..8).flat_map(|i| file.number(-(i as f32))).collect();
    let scores = file.array(kind::FLOAT32, 8, &scores);
    let kinds: Vec<u8> = [3, 3, 1, 1, 1, 1, 1, 1].into_iter().flat_map(|i: i32| file.number(i)).collect();
    let kinds = file.array(kind::INT32, 8, &kinds);
    let merges = file.strings(&["a b"]);
    let inner = |n: u8| file.array(kind::UINT8, 2, &[n, n + 1]);
    let nested = file.array(kind::ARRAY, 2, &[inner(1), inner(3)].concat());
    let text = [
        ("general.architecture", "qwen3"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "qwen2"),
        ("tokenizer.chat_template", "{% for m in messages %}{{ m['content'] }}{% endfor %}"),
    ];
    let numbers = [
        ("qwen3.block_count", 1),
        ("qwen3.embedding_length", 8),
        ("qwen3.feed_forward_length", 16),
        ("qwen3.attention.head_count", 2),
        ("qwen3.attention.head_count_kv", 1),
        ("qwen3.attention.key_length", 4),
        ("general.alignment", 32),
        ("tokenizer.ggml.bos_token_id", 0),
    ];
    let file = text.iter().fold(file, |file, (key, value)| file.key_text(key, value));
    let file = numbers.iter().fold(file, |file, (key, value)| file.key_u32(key, *value));
    let named = |name: &str| {
        let name = name.replace("layers.0.", "blk.0.").replace("embed_tokens", "token_embd");
        name.replace("self_attn.q_proj", "attn_q").replace("mlp.down_proj", "ffn_down")
    };
    let tensors: Vec<Tensor> = tensors.iter().map(|t| Tensor { name: named(&t.name), ..t.clone() }).collect();
    let file = file
        .key("tokenizer.ggml.tokens", kind::ARRAY, tokens)
        .key("tokenizer.ggml.scores", kind::ARRAY, scores)
        .key("tokenizer.ggml.token_type", kind::ARRAY, kinds)
        .key("tokenizer.ggml.merges", kind::ARRAY, merges)
        .key("nested", kind::ARRAY, nested)
        .of(&tensors)
        // I2_S, and a matrix with a factor for each of its experts.
        .tensor("blk.0.i2_s", &[128, 4], 36, vec![0x15; 160])
        .tensor("blk.0.ffn_up_exps.weight", &[64, 2, 2], 40, vec![0x15; 144])
        .tensor("blk.0.ffn_up_exps.scale", &[2], 0, vec![0x3e; 8]);
    // Blocks of every type.
    let types = (0..100).map(GgmlType).filter(|ggml| ggml.decodes());
    let blocks = types.fold(file, |file, ggml| {
        let bytes = vec![0x15; 512 / ggml.block_elements() * ggml.block_bytes().unwrap()];
        file.tensor(&format!("blk.0.{}.weight", ggml.name()), &[256, 2], ggml.0, bytes)
    });
    blocks.bytes()
}

/// Seeds of the checkpoints' target: of every format one made here, the small fixtures, and files that are wrong.
pub fn checkpoints() -> Vec<Seed> {
    let mut all: Vec<Seed> = Format::all().map(|format| seed(format.name(), made(format))).collect();
    let files =
        below(&fixture("formats"), &[".pt"]).into_iter().chain([fixture("packed/nano-healthy-2000-i2s.pt")]);
    let files = files.chain(below(&root().join("inspect/tests/data"), &[".pt", ".pkl", ".gguf"]));
    // Of the files of several ranks, those of the first.
    let of_rank = |path: &std::path::Path| path.to_string_lossy().contains("tests/data/ranks/");
    for path in files.filter(|path| !of_rank(path) || path.to_string_lossy().contains("rank_0")) {
        let bytes = std::fs::read(&path).unwrap();
        // What takes long to read is left to other tests.
        if bytes.len() <= 1 << 17 {
            all.push(seed(path.file_name().unwrap().to_str().unwrap(), bytes));
        }
    }
    all.push(seed("packed-rows.safetensors", hugging_face_bitnet()));
    all.extend(quantized());
    all.push(seed(
        "immense-rows.safetensors",
        safetensors::raw(
            r#"{"a":{"dtype":"F32","shape":[0,4294967296,4294967296,4294967296],"data_offsets":[0,0]}}"#,
            &[],
        ),
    ));
    all.push(seed("inner.zip", zip::zip(&[zip::entry("inner.pt", made(Format::TorchZip))])));
    all.push(seed("evil.pkl", *b"cposix\nsystem\n(S'id'\ntR."));
    all
}

/// A matrix packed as Hugging Face's BitNet integration does, beside its scale.
fn hugging_face_bitnet() -> Vec<u8> {
    safetensors::SafeTensors::new()
        .tensor("l.weight", "U8", &[1, 4], &[0x55, 0x99, 0x26, 0x12])
        .f32s("l.weight_scale", &[1], &[0.5])
        .tensor("n.weight", "BF16", &[4], &[0x3f; 8])
        .bytes()
}

/// A small weight of every quantization scheme.
fn quantized() -> Vec<Seed> {
    let file = safetensors::SafeTensors::new;
    let bytes = |n: u8| -> Vec<u8> { (0..n).map(|i| i.wrapping_mul(37) & 0x6e).collect() };
    let state = r#"{"quant_type":"nf4","blocksize":64,"dtype":"bfloat16","shape":[2,64],"nested_blocksize":256,"nested_offset":0.5}"#;
    let nested = file()
        .tensor("l.weight", "U8", &[64, 1], &bytes(64))
        .tensor("l.weight.absmax", "U8", &[2], &[7, 9])
        .f32s("l.weight.quant_map", &[16], &[0.25; 16])
        .f32s("l.weight.nested_absmax", &[1], &[0.5])
        .f32s("l.weight.nested_quant_map", &[256], &[0.125; 256])
        .tensor("l.weight.quant_state.bitsandbytes__nf4", "U8", &[state.len()], state.as_bytes());
    let gptq = file()
        .tensor("l.qweight", "I32", &[2, 8], &bytes(64))
        .tensor("l.qzeros", "I32", &[2, 1], &[0x77; 8])
        .tensor("l.scales", "F16", &[2, 8], &[0x2c; 32])
        .tensor("l.g_idx", "I32", &[16], &le(&[0i32, 1, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0]));
    let awq = file()
        .tensor("l.qweight", "I32", &[16, 2], &bytes(128))
        .tensor("l.qzeros", "I32", &[2, 2], &[0x77; 16])
        .tensor("l.scales", "F16", &[2, 16], &[0x2c; 64]);
    let float8 = file()
        .tensor("l.weight", "F8_E4M3", &[8, 8], &bytes(64))
        .f32s("l.weight_scale_inv", &[1, 2], &[0.5, 0.25])
        .tensor("m.weight", "I8", &[4, 16], &bytes(64))
        .tensor("m.weight_scale", "F8_E8M0", &[4, 1], &[120; 4])
        .tensor("n.weight", "I8", &[4, 4], &bytes(16))
        .f32s("n.SCB", &[4], &[0.5; 4]);
    let packed = file()
        .tensor("l.weight_packed", "I32", &[4, 1], &bytes(16))
        .tensor("l.weight_shape", "I64", &[2], &le(&[4i64, 8]))
        .f32s("l.weight_scale", &[4, 2], &[0.5; 8])
        .tensor("l.weight_zero_point", "I32", &[1, 2], &[0x77; 8])
        .tensor("n.weight", "I8", &[4, 4], &bytes(16))
        .f32s("n.weight_scale", &[4, 1], &[0.5; 4]);
    let float4 = file()
        .tensor("l.weight_packed", "U8", &[2, 16], &bytes(32))
        .tensor("l.weight_scale", "F8_E4M3", &[2, 2], &[0x38; 4])
        .f32s("l.weight_global_scale", &[1], &[4.0])
        .tensor("e.up_blocks", "U8", &[2, 2, 1, 16], &bytes(64))
        .tensor("e.up_scales", "U8", &[2, 2, 1], &[120; 4]);
    let mlx = file()
        .tensor("l.weight", "U32", &[2, 8], &bytes(64))
        .tensor("l.scales", "F16", &[2, 1], &[0x2c; 4])
        .tensor("l.biases", "F16", &[2, 1], &[0xac; 4])
        .tensor("m.weight", "U32", &[2, 4], &bytes(32))
        .tensor("m.scales", "U8", &[2, 1], &[120; 2]);
    // Whole blocks of GGUF, and scales in tiles.
    let blocks = file()
        .tensor("l.weight", "U8", &[2, 32], &bytes(64))
        .tensor("l.weight_scale", "F8_E4M3", &[2, 4], &[0x38; 8])
        .f32s("l.weight_scale_2", &[1], &[0.25])
        .tensor("m.weight_packed", "U8", &[2, 16], &bytes(32))
        .tensor("m.weight_scale", "U8", &[2, 1], &[120; 2])
        .tensor("n.weight", "U32", &[2, 8], &bytes(64))
        .tensor("n.scales", "U8", &[2, 4], &[0x38; 8]);
    let torchao = file()
        .tensor("l._weight_qdata", "U8", &[2, 32], &bytes(64))
        .tensor("l._weight_scale", "F8_E4M3", &[32, 16], &[0x38; 512])
        .f32s("l._weight_per_tensor_scale", &[], &[0.25])
        .tensor("m._weight_qdata", "F8_E4M3", &[2, 64], &bytes(128))
        .tensor("m._weight_scale", "F8_E8M0", &[2, 2], &[120; 4]);
    let files = [
        ("blocks", blocks),
        ("torchao", torchao),
        ("bitsandbytes", nested),
        ("gptq", gptq),
        ("awq", awq),
        ("fp8", float8),
        ("compressed", packed),
        ("fp4", float4),
        ("mlx", mlx),
    ];
    files.map(|(name, file)| seed(format!("{name}.safetensors"), file.bytes())).into()
}

/// Seeds of the pickles' target: those of every protocol, and opcodes in any order.
pub fn pickles() -> Vec<Seed> {
    const OPCODES: &[u8] = b"()]}0122NaabddeeghijloPQRsttu.KMJGXUTBC\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8c\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x00\x01\x02\n";
    let mut all = vec![
        seed("p0.pkl", *b"(dp0\nS'lr'\np1\nF0.01\nsS'steps'\np2\n(lp3\nI1\naI2\nas."),
        seed("p4.pkl", *b"\x80\x04\x95\x0c\0\0\0\0\0\0\0}\x94\x8c\x04step\x94K\x07s."),
        seed(
            "call.pkl",
            pickle::pickle(2, &pickle::call(&pickle::global("posix", "system"), &[pickle::text("id")])),
        ),
        seed("bytes.pkl", pickle::pickle(4, &pickle::bytes8(&pickle::pickle(2, b"}")))),
        seed("state-dict.pkl", pickle::pickle(2, &torch::rebuild("FloatStorage", "0", 2, 0, &[2], &[1]))),
    ];
    for path in below(&root().join("inspect/tests/data"), &[".pkl"]) {
        all.push(seed(path.file_name().unwrap().to_str().unwrap(), std::fs::read(&path).unwrap()));
    }
    let mut random = Random::new(5);
    for i in 0..16 {
        let body: Vec<u8> = (0..200).map(|_| *random.pick(OPCODES)).collect();
        all.push(seed(format!("opcodes-{i}.pkl"), pickle::pickle(2, &body)));
    }
    all
}

/// Seeds of the vocabularies' target.
pub fn vocabularies() -> Vec<Seed> {
    let bpe = serde_json::json!({
        "version": "1.0",
        "added_tokens": [{"id": 4, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "</s>": 4}, "merges": [["a", "b"]]},
    });
    let piece = |text: &str, kind: u8| {
        let inner =
            [&[0x0a, text.len() as u8], text.as_bytes(), &[0x15, 0, 0, 0x80, 0xbf, 0x18, kind]].concat();
        [&[0x0a, inner.len() as u8][..], &inner].concat()
    };
    let model = [piece("<unk>", 2), piece("<s>", 3), piece("\u{2581}a", 1), piece("<0x41>", 6)].concat();
    let old = data("infer", "vocab");
    let mut all = vec![seed("tokenizer.json", bpe.to_string()), seed("tokenizer.model", model)];
    for path in below(&old, &[".json", ".model"]) {
        let bytes = std::fs::read(&path).unwrap();
        if bytes.len() <= 1 << 17 {
            all.push(seed(path.file_name().unwrap().to_str().unwrap(), bytes));
        }
    }
    all
}
