//! Models whose matrices a GGUF file has in blocks: kept as they are in memory, and run as their values are.

use std::path::Path;

use ckpt_convert::quant::Quant;
use ckpt_convert::{Control, Gguf, Options, Plan, Target, write};
use ckpt_infer::{Kernel, LoadOptions, Model, Pool};
use ckpt_kit::random::Random;
use ckpt_kit::safetensors::SafeTensors;
use ckpt_kit::student::Student;
use serde_json::json;

use crate::logits::{largest_difference, logits};

/// Types that are kept, and how much larger they may be in memory: groups' scales and mins take a byte each.
const KEPT: [(Quant, f64); 10] = [
    (Quant::Q8_0, 1.01),
    (Quant::Q4_0, 1.01),
    (Quant::Q4_1, 1.01),
    (Quant::Q5_0, 1.01),
    (Quant::Q5_1, 1.01),
    (Quant::Q2K, 1.2),
    (Quant::Q3K, 1.06),
    (Quant::Q4K, 1.03),
    (Quant::Q5K, 1.03),
    (Quant::Q6K, 1.01),
];

/// A Llama of random weights, as Hugging Face saves it.
fn llama(folder: &Path) {
    let sizes = Student { vocab: 300, width: 256, tied: false, ..Student::default() };
    let mut random = Random::new(3);
    let mut tensors = sizes.tensors(|name, _| match name.contains("norm") {
        true => 1.0 + 0.1 * random.normal(),
        false => 0.05 * random.normal(),
    });
    tensors.retain(|t| !t.name.contains("self_attn.q_norm") && !t.name.contains("self_attn.k_norm"));
    for tensor in tensors.iter_mut().filter(|t| t.name != "lm_head.weight") {
        tensor.name = format!("model.{}", tensor.name);
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": sizes.width, "intermediate_size": sizes.mlp, "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads, "head_dim": sizes.head_dim,
        "vocab_size": sizes.vocab, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "tie_word_embeddings": false,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    SafeTensors::of(&tensors).write(&folder.join("model.safetensors"));
}

fn convert(source: &Path, target: Target, to: &Path) {
    let checkpoint = ckpt_inspect::open(source).unwrap();
    let options = Options::new(target);
    let mut plan = Plan::new(&checkpoint, &options).unwrap();
    write(&mut plan, &options, to, Control::new(&|_| (), &Default::default())).unwrap();
}

/// Logits within 2e-4 of those of the same values in f32, as a share of the largest of these, for every instruction set.
#[test]
fn blocks_are_kept_and_run_as_their_values() {
    let pool = Pool::new(2);
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    llama(&source);
    let ids: Vec<u32> = (0..30).map(|i| i * 29 % 300).collect();
    for (quant, most) in KEPT {
        let at = |name: &str| folder.path().join(format!("{quant}-{name}"));
        convert(&source, Target::Gguf(Gguf::new(quant, quant)), &at("model.gguf"));
        convert(&at("model.gguf"), Target::Hf { packed: false }, &at("values"));
        let open = |path: &Path, fast: bool, kernel: Kernel| {
            let options = LoadOptions::default().with(|o| (o.fast, o.kernel) = (fast, Some(kernel)));
            Model::open(path, &options, &pool).unwrap()
        };
        let values = open(&at("values"), false, Kernel::best());
        let want = logits(&values, &pool, &ids);
        let size = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let file = std::fs::metadata(at("model.gguf")).unwrap().len() as f64;
        for kernel in Kernel::available() {
            let model = open(&at("model.gguf"), false, kernel);
            let bytes = model.bytes() as f64;
            assert!(bytes <= most * file && bytes > 0.9 * file, "{quant}: {bytes} bytes of {file}");
            let got = logits(&model, &pool, &ids);
            let off = largest_difference(&got, &want) / size;
            assert!(off <= 2e-4, "{quant} {}: {off}", kernel.name());
            let one = logits(&model, &pool, &ids[..1]);
            assert_eq!(one, got[..one.len()], "{quant} {}: alone as with others", kernel.name());
            // Activations of 8 bits are what makes the difference, and no more than that.
            let fast = open(&at("model.gguf"), true, kernel);
            let coarser = largest_difference(&logits(&fast, &pool, &ids), &want) / size;
            assert!(coarser > 4.0 * off && coarser < 0.1, "{quant} {}: {coarser}", kernel.name());
            assert_ne!(model.fingerprint(), fast.fingerprint());
        }
    }
}
