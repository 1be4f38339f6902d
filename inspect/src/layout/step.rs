//! The training step: from the file's own values, else from the file's or folder's name.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::metadata::{Value, as_u64, lookup};
use crate::tensor::TensorInfo;

/// Where trainers write the step, most specific first.
const KEYS: [&str; 15] = [
    "step",
    "global_step",
    "global_steps",
    "training_state.step",
    "training_state.global_step",
    "trainer_state.global_step",
    "trainer_state.step",
    "state.global_step",
    "state.step",
    "iteration",
    "iter_num",
    "num_updates",
    "train_step",
    "metadata.step",
    "iter",
];

/// Words next to a step number in file names.
const WORDS: [&str; 7] = ["step", "steps", "checkpoint", "ckpt", "iter", "iteration", "global_step"];

/// Where a step was found. In JSON it is its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum StepSource {
    /// In the checkpoint, under this key.
    Key(String),
    /// In a trainer's trainer_state.json beside it.
    Trainer,
    /// In the name of the file or of its folder.
    Name,
}

const TRAINER: &str = "trainer_state.json";
const NAME: &str = "file name";

impl fmt::Display for StepSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StepSource::Key(key) => key,
            StepSource::Trainer => TRAINER,
            StepSource::Name => NAME,
        })
    }
}

impl From<&str> for StepSource {
    fn from(text: &str) -> Self {
        match text {
            TRAINER => StepSource::Trainer,
            NAME => StepSource::Name,
            key => StepSource::Key(key.into()),
        }
    }
}

impl From<String> for StepSource {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<StepSource> for String {
    fn from(source: StepSource) -> Self {
        source.to_string()
    }
}

/// The step in `metadata` and the key it was found under.
pub(crate) fn from_metadata(metadata: &Value) -> Option<(u64, StepSource)> {
    KEYS.iter().find_map(|key| {
        let step = lookup(metadata, key).and_then(as_u64)?;
        Some((step, StepSource::Key(key.to_string())))
    })
}

/// The step that a tensor of one element holds: some trainers save it so.
pub(crate) fn from_tensors(tensors: &[TensorInfo]) -> Option<(u64, StepSource)> {
    KEYS.iter().find_map(|key| {
        let tensor = tensors.iter().find(|t| t.name == *key && t.numel() == 1)?;
        let bytes = tensor.bytes().ok()?;
        let step = crate::torch::scalar(tensor.dtype, &bytes).and_then(|value| as_u64(&value))?;
        Some((step, StepSource::Key(key.to_string())))
    })
}

/// The step that a path names: `step-00500.pt`, `run-2000steps.pt`, `checkpoint-1800/`, `epoch=3-step=700.ckpt`.
/// The file's own name counts before its folder's.
pub fn from_path(path: &Path) -> Option<u64> {
    // `model.pt` and `.` are in a folder too.
    let path = std::path::absolute(path).ok()?;
    let file = path.file_name()?.to_str()?;
    // A bare "step…" in a folder's name may belong to the whole run; only the trainer's own folder names count.
    let of_folder = |folder: Option<&Path>, prefixes: &[&str]| {
        let name = folder?.file_name()?.to_str()?;
        prefixes.iter().any(|prefix| name.starts_with(prefix)).then(|| from_name(name)).flatten()
    };
    let folder = path.parent();
    from_name(file)
        .or_else(|| {
            let prefixes = ["checkpoint-", "checkpoint_", "step-", "step_", "global_step", "iter_"];
            of_folder(folder, &prefixes)
        })
        // verl has a folder for each model of a step.
        .or_else(|| of_folder(folder?.parent(), &["global_step"]))
}

/// The step in a file's or folder's name.
pub(crate) fn from_name(name: &str) -> Option<u64> {
    let lower = name.to_ascii_lowercase();
    let bytes = lower.as_bytes();
    let mut best: Option<(usize, u64)> = None;
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        let number: Option<u64> = lower[at..end].parse().ok();
        let before = word_before(&lower[..at]);
        let after = word_after(&lower[end..]);
        // A unit right after the digits binds closest ("2000steps"); "step" before binds closer than "checkpoint".
        let rank = match (WORDS.iter().position(|w| *w == before), after) {
            (_, "step" | "steps" | "iter" | "iters") => Some(0),
            (Some(0 | 1 | 6), _) => Some(1),
            (Some(_), _) => Some(2),
            _ => None,
        };
        if let (Some(rank), Some(number)) = (rank, number)
            && best.is_none_or(|(r, _)| rank < r)
        {
            best = Some((rank, number));
        }
        at = end;
    }
    best.map(|(_, number)| number)
}

/// The word that ends right before, one separator allowed.
fn word_before(text: &str) -> &str {
    let text = text.strip_suffix(['-', '_', '=', ' ', '.']).unwrap_or(text);
    let start = text.rfind(|c: char| !c.is_ascii_alphabetic() && c != '_').map_or(0, |i| i + 1);
    let word = &text[start..];
    if word == "global_step" { word } else { word.rsplit('_').next().unwrap_or(word) }
}

/// The word that starts right after, one separator allowed, unless a number follows it: then it is that one's.
fn word_after(text: &str) -> &str {
    let text = text.strip_prefix(['-', '_', ' ']).unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
    let rest = text[end..].trim_start_matches(['-', '_', '=', ' ']);
    if rest.starts_with(|c: char| c.is_ascii_digit()) { "" } else { &text[..end] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_names_that_trainers_give() {
        for (path, step) in [
            ("run/step-00500.pt", Some(500)),
            ("distillix-v04-2000steps.pt", Some(2000)),
            ("out/checkpoint-1800/model.safetensors", Some(1800)),
            ("out/checkpoint-1800", Some(1800)),
            ("epoch=3-step=700.ckpt", Some(700)),
            ("model_500steps.pt", Some(500)),
            ("ckpt_500_step_1200.pt", Some(1200)),
            ("iter_0004000/model.pt", Some(4000)),
            ("global_step1000/mp_rank_00_model_states.pt", Some(1000)),
            ("run/global_step_100/actor/model_world_size_8_rank_0.pt", Some(100)),
            ("llama-7b.gguf", None),
            ("model-00001-of-00002.safetensors", None),
            ("epoch_12.pt", None),
            ("step-99999999999999999999999.pt", None),
            ("v2.pt", None),
            ("checkpoint.pt", None),
            ("checkpoint_4000.pt", Some(4000)),
        ] {
            assert_eq!(from_path(Path::new(path)), step, "{path}");
        }
    }
}
