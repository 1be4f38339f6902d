//! What trainers put beside a model: the optimizer's state, schedules, random states, arguments. Hugging Face's Trainer and
//! Accelerate name them so.

use std::path::{Path, PathBuf};

use super::name;
use crate::bytes::stored::{Entry, Stored};
use crate::{Error, Result};

/// What names of such files begin with, before a number or the ending, and the endings.
const STEMS: [&str; 8] = [
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "sampler",
    "dl_state_dict",
    "custom_checkpoint",
];
/// Those of them that are kept with the optimizer where a checkpoint is written anew: plain values and tensors, and no objects of
/// Python.
const PLAIN: [&str; 3] = ["optimizer", "scheduler", "scaler"];
const ENDINGS: [&str; 4] = ["pt", "pth", "bin", "pkl"];
const ARGUMENTS: &str = "training_args.bin";

/// Whether `stem`, the name of a file without its ending, is that of a companion that holds objects of Python, such as random
/// states and arguments.
pub fn holds_objects(stem: &str) -> bool {
    let is_beside = ENDINGS.iter().any(|ending| is_companion(Path::new(&format!("{stem}.{ending}"))));
    is_beside && !PLAIN.iter().any(|plain| stem.starts_with(plain))
}

/// Whether the file at `path` is, by its name, what a trainer keeps beside a model.
pub fn is_companion(path: &Path) -> bool {
    let name = name(path);
    let numbered = |rest: &str| {
        rest.is_empty() || rest.strip_prefix('_').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    let Some((before, ending)) = name.rsplit_once('.') else { return false };
    let stem = || STEMS.iter().any(|stem| before.strip_prefix(stem).is_some_and(numbered));
    name == ARGUMENTS || (ENDINGS.contains(&ending) && stem())
}

/// What such a file holds, without the number of its rank.
pub(super) fn kind(path: &Path) -> String {
    let name = name(path);
    let stem = name.split('.').next().unwrap_or_default();
    stem.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('_').to_string()
}

/// Whether the file at `path` holds, by its name, the state of an optimizer.
pub(crate) fn is_optimizer(path: &Path) -> bool {
    is_companion(path) && name(path).starts_with(STEMS[0])
}

/// What a trainer put into `folder` beside the model there, by name.
///
/// # Errors
/// `Io` when the folder cannot be listed.
pub(crate) fn companions(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for Entry { path, .. } in folder.stored_entries().map_err(|e| Error::io(folder, &e))? {
        if is_companion(&path) && path.is_stored_file() {
            found.push(path);
        }
    }
    super::sort(&mut found);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companions_are_told_by_their_names() {
        for name in [
            "optimizer.pt",
            "optimizer.bin",
            "optimizer_1.bin",
            "scheduler.pt",
            "scaler.pt",
            "rng_state.pth",
            "rng_state_7.pth",
            "random_states_0.pkl",
            "training_args.bin",
            "sampler_1.bin",
            "run/custom_checkpoint_0.pkl",
        ] {
            assert!(is_companion(Path::new(name)), "{name}");
        }
        for name in
            ["model.pt", "optimizer.safetensors", "optimizer_best.pt", "schedulers.pt", "scaler", "args.bin"]
        {
            assert!(!is_companion(Path::new(name)), "{name}");
        }
        assert!(is_optimizer(Path::new("a/optimizer_1.bin")) && !is_optimizer(Path::new("scheduler.pt")));
    }
}
