//! What PyTorch computed: `tests/fixtures/trajectories`. `init.pt` is the start; `truth.safetensors` holds the batches,
//! and of each parameter's first gradient and weights after 20 steps every element, or every eighth when there are more
//! than 2048; `truth.json` the losses and gradient norms.

use std::path::PathBuf;

use ckpt_inspect::{Checkpoint, ModelConfig};
use ckpt_kit::fixtures::fixture;
use ckpt_train::{Batch, Gradients, Parameters};

pub struct Truth {
    pub config: ModelConfig,
    pub init: Parameters,
    pub batches: Vec<Batch>,
    tensors: Checkpoint,
}

pub fn truth() -> Truth {
    let start = ckpt_inspect::open(fixture("trajectories/init.pt")).unwrap();
    let config = start.model.student.clone().unwrap();
    let init = Parameters::load(&config, &start).unwrap();
    let tensors = ckpt_inspect::open(fixture("trajectories/truth.safetensors")).unwrap();
    let ids = tensors.view::<u16>(tensors.tensor("batches").unwrap()).unwrap().into_owned();
    let ids: Vec<u32> = ids.iter().map(|&id| id.into()).collect();
    let batches = ids
        .chunks(4 * 64)
        .map(|rows| Batch::next_token(&rows.chunks(64).collect::<Vec<_>>()).unwrap())
        .collect();
    Truth { config, init, batches, tensors }
}

/// Losses, or gradient norms, of a run.
pub fn series(run: &str, what: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(fixture("trajectories/truth.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json[run][what].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

impl Truth {
    /// The largest relative distance |a - b| / |b| of any parameter from `run`'s, and its name.
    pub fn worst(&self, run: &str, values: &[&[f32]]) -> (f64, String) {
        let distance = |(i, values): (usize, &&[f32])| {
            let name = &self.init.0[i].name;
            let info = self.tensors.tensor(&format!("{run}.{name}")).unwrap();
            let want = self.tensors.values(info).unwrap();
            let step = if values.len() <= 2048 { 1 } else { 8 };
            assert_eq!(values.len().div_ceil(step), want.len());
            (relative(values.iter().step_by(step).copied(), &want), name.clone())
        };
        values.iter().enumerate().map(distance).max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
    }
}

impl Truth {
    /// The sampled elements of `values`, and `run`'s, of all parameters one after the other.
    pub fn sampled(&self, run: &str, values: &[&[f32]]) -> (Vec<f32>, Vec<f32>) {
        let (mut got, mut all) = (Vec::new(), Vec::new());
        for (parameter, values) in self.init.0.iter().zip(values) {
            let info = self.tensors.tensor(&format!("{run}.{}", parameter.name)).unwrap();
            let step = if values.len() <= 2048 { 1 } else { 8 };
            got.extend(values.iter().step_by(step));
            all.extend(self.tensors.values(info).unwrap());
        }
        (got, all)
    }
}

/// |got - want| / |want|.
pub fn relative(got: impl Iterator<Item = f32>, want: &[f32]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (got, &want) in got.zip(want) {
        difference += (f64::from(got) - f64::from(want)).powi(2);
        norm += f64::from(want).powi(2);
    }
    if difference.is_nan() { f64::INFINITY } else { (difference / norm).sqrt() }
}

pub fn slices(gradients: &Gradients) -> Vec<&[f32]> {
    gradients.iter().map(Vec::as_slice).collect()
}

/// A tokenizer of single bytes: `a` is 97 … and `</s>` is 256.
pub fn tokenizer(folder: &std::path::Path) -> PathBuf {
    let path = folder.join("tokenizer.json");
    // Byte-level BPE writes printable bytes as themselves, space as Ġ and newline as Ċ.
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        (33u8..127).map(|b| (char::from(b).to_string(), b.into())).collect();
    vocab.insert("Ġ".into(), 32.into());
    vocab.insert("Ċ".into(), 10.into());
    let end = serde_json::json!({ "id": 256, "content": "</s>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true });
    vocab.insert("</s>".into(), 256.into());
    for (id, name) in (257..).zip(["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]) {
        vocab.insert(name.into(), id.into());
    }
    let json = serde_json::json!({
        "version": "1.0", "added_tokens": [end],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] }
    });
    std::fs::write(&path, json.to_string()).unwrap();
    path
}
