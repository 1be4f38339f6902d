//! Quantized models run as the matrices that they stand for.

use std::path::Path;

use ckpt_infer::{Assumption, LoadOptions, Model, Pool};
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::{Value, json};

const WIDTH: usize = 128;
const TOKENS: usize = 64;

/// What a byte of FP8 E4M3 stands for (OCP 8-bit Floating Point Specification 1.0, E4M3).
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match exponent {
        0 => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if code & 0x80 == 0 { size } else { -size }
}

fn projections() -> impl Iterator<Item = (String, [usize; 2])> {
    (0..2).flat_map(|layer| {
        [
            ("self_attn.q_proj", [WIDTH, WIDTH]),
            ("self_attn.k_proj", [WIDTH / 2, WIDTH]),
            ("self_attn.v_proj", [WIDTH / 2, WIDTH]),
            ("self_attn.o_proj", [WIDTH, WIDTH]),
            ("mlp.gate_proj", [2 * WIDTH, WIDTH]),
            ("mlp.up_proj", [2 * WIDTH, WIDTH]),
            ("mlp.down_proj", [WIDTH, 2 * WIDTH]),
        ]
        .map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape))
    })
}

/// A Llama in `folder`, with `matrix` adding each projection, given its codes and a scale for each 128 x 128 of them.
fn llama(
    folder: &Path,
    quantization: Option<Value>,
    matrix: impl Fn(SafeTensors, &str, [usize; 2], &[u8], &[f32]) -> SafeTensors,
) {
    let mut random = Random::new(11);
    let drawn = |random: &mut Random, n: usize| -> Vec<f32> { (0..n).map(|_| random.even()).collect() };
    let mut file = SafeTensors::new()
        .f32s("model.embed_tokens.weight", &[TOKENS, WIDTH], &drawn(&mut random, TOKENS * WIDTH))
        .f32s("lm_head.weight", &[TOKENS, WIDTH], &drawn(&mut random, TOKENS * WIDTH))
        .f32s("model.norm.weight", &[WIDTH], &[1.0; WIDTH]);
    for layer in 0..2 {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            file = file.f32s(&format!("model.layers.{layer}.{norm}.weight"), &[WIDTH], &[1.0; WIDTH]);
        }
    }
    for (name, shape) in projections() {
        // No NaN, and none of the largest.
        let codes: Vec<u8> = (0..shape[0] * shape[1]).map(|_| (random.bits() as u8) & 0xb7).collect();
        let scales = shape[0].div_ceil(128) * shape[1].div_ceil(128);
        let scales: Vec<f32> = (0..scales).map(|_| 0.05 + 0.02 * random.even()).collect();
        file = matrix(file, &name, shape, &codes, &scales);
    }
    std::fs::create_dir(folder).unwrap();
    file.write(&folder.join("model.safetensors"));
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": TOKENS, "tie_word_embeddings": false, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
    });
    if let Some(quantization) = quantization {
        config["quantization_config"] = quantization;
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

fn logits(folder: &Path) -> Vec<f32> {
    logits_and(folder, &[])
}

/// The same of a model of which this has to be assumed.
fn logits_and(folder: &Path, assumed: &[Assumption]) -> Vec<f32> {
    let pool = Pool::new(2);
    let model = Model::open(folder, &LoadOptions::default(), &pool).unwrap();
    let settings = |a: &&Assumption| !matches!(a, Assumption::Settings(_));
    assert_eq!(model.assumed().iter().filter(settings).cloned().collect::<Vec<_>>(), assumed);
    let ids: Vec<u32> = (0..24).map(|i| (i * 37 + 11) % TOKENS as u32).collect();
    crate::logits::logits(&model, &pool, &ids)
}

#[test]
fn a_model_in_fp8_computes_what_its_matrices_do() {
    let folder = tempfile::tempdir().unwrap();
    let [coded, plain] = ["coded", "plain"].map(|name| folder.path().join(name));
    let blocks = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    llama(&coded, Some(blocks), |file, name, shape, codes, scales| {
        let grid = shape.map(|n| n.div_ceil(128));
        file.tensor(name, "F8_E4M3", &shape, codes).f32s(&format!("{name}_scale_inv"), &grid, scales)
    });
    llama(&plain, None, |file, name, shape, codes, scales| {
        let across = shape[1].div_ceil(128);
        let scale = |i: usize| scales[i / shape[1] / 128 * across + i % shape[1] / 128];
        let values: Vec<f32> = codes.iter().enumerate().map(|(i, &code)| e4m3(code) * scale(i)).collect();
        file.f32s(name, &shape, &values)
    });
    let (coded, plain) = (logits(&coded), logits(&plain));
    assert!(plain.iter().all(|x| x.is_finite()) && plain.iter().any(|x| x.abs() > 0.1));
    assert_eq!(coded, plain);
}

/// Scales of activations and caches, by the names that quantizers give them.
const OF_ACTIVATIONS: [&str; 12] = [
    "self_attn.k_scale",
    "self_attn.v_scale",
    "self_attn.q_scale",
    "self_attn.kv_scale",
    "self_attn.k_proj.k_scale",
    "self_attn.v_proj.output_scale",
    "self_attn.k_zero_point",
    "mlp.down_proj.input_scale",
    "mlp.down_proj.input_global_scale",
    "mlp.down_proj.input_zero_point",
    "mlp.down_proj.activation_scale",
    "mlp.down_proj.qscale_act",
];

#[test]
fn scales_of_activations_and_caches_are_no_part_of_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let build = |name: &str, more: &[&str], scaled: bool| {
        let folder = folder.path().join(name);
        let whole = json!({"quant_method": "fp8"});
        llama(&folder, scaled.then_some(whole), |file, name, shape, codes, scales| {
            let file = match scaled {
                true => {
                    let file = file.tensor(name, "F8_E4M3", &shape, codes);
                    file.f32s(&format!("{name}_scale"), &[], &scales[..1])
                }
                false => {
                    let values: Vec<f32> = codes.iter().map(|&code| e4m3(code) * scales[0]).collect();
                    file.f32s(name, &shape, &values)
                }
            };
            let layer = name.strip_suffix("self_attn.q_proj.weight");
            more.iter()
                .filter_map(|more| Some(format!("{}{more}", layer?)))
                .fold(file, |file, name| file.f32s(&name, &[1], &[0.02]))
        });
        folder
    };
    let right = logits(&build("right", &[], true));
    let all = build("all", &OF_ACTIVATIONS, true);
    assert_eq!(logits_and(&all, &[Assumption::PlainActivations]), right);
    for name in OF_ACTIVATIONS {
        let one = build(name, &[name], true);
        assert_eq!(logits_and(&one, &[Assumption::PlainActivations]), right, "{name}");
    }
    // In a network of floats nobody knows what they are for.
    let plain = build("plain", &["self_attn.k_scale"], false);
    let pool = Pool::new(2);
    let error = Model::open(&plain, &LoadOptions::default(), &pool).unwrap_err();
    assert!(error.to_string().contains("k_scale"), "{error}");
    let other = build("other", &["mlp.down_proj.other_scale"], true);
    assert!(Model::open(&other, &LoadOptions::default(), &pool).is_err());
}
