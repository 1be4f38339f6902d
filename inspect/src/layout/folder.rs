//! Folders in Hugging Face's layout: one checkpoint, with config.json and trainer_state.json next to it.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::companion::is_companion;
use super::sharded::weight_map;
use super::{Joined, Lacks, Layout, MAX_CONFIG, MAX_INDEX, Set, find_in, laid_out, name, read_json, single};
use crate::bytes::Stamp;
use crate::metadata::from_json;
use crate::{Error, ErrorKind, Notice, NoticeKind, Result};

pub(super) const LAYOUT: Layout =
    Layout { recognises: Path::is_dir, set, lacks, covers, is_model: is_canonical, ..single::LAYOUT };

fn set(folder: &Path) -> Result<Set> {
    let mut set = folder_set(folder)?;
    for (forms, library) in FORMS.iter().zip(LIBRARIES) {
        let mut forms = forms.iter().filter(|form| folder.join(form).is_file());
        let (Some(read), Some(other)) = (forms.next(), forms.next()) else { continue };
        let text = format!("it was read from {read}, as {library} does, not from {other} next to it");
        set.notices.push(Notice::new(NoticeKind::OtherForm, text));
        // Files of another format may hold what this one leaves out: tied weights, buffers that are computed.
        if [read, other].iter().all(|form| form.contains("safetensors")) {
            set.other_map = weight_map(&folder.join(other));
        }
    }
    if let Some(tag) = super::deepspeed::named_in(folder) {
        let text = format!(
            "its optimizer's state, which DeepSpeed saved in {}, is not read with it: open that folder by itself",
            name(&tag).escape_debug()
        );
        set.notices.push(Notice::new(NoticeKind::OtherForm, text));
    }
    set.notices.extend(super::deepspeed::points_nowhere(folder));
    // Files that are added or removed later.
    set.beside.push(Stamp::of(folder));
    Ok(set)
}

fn lacks(set: &Set, joined: &Joined<'_>) -> Lacks {
    let mut lacks = Lacks { notices: set.notices.clone(), ..Lacks::default() };
    if let Some(other) = &set.other_map {
        let known: HashSet<&str> = joined.tensors.iter().map(|t| t.name.as_str()).collect();
        let absent = other.keys().filter(|name| !known.contains(name.as_str())).count();
        if absent > 0 {
            let are = if absent == 1 {
                " of the other form next to it is"
            } else {
                "s of the other form next to it are"
            };
            let text = format!("{absent} tensor{are} not in what was read");
            lacks.notices.push(Notice::new(NoticeKind::Contradiction, text));
        }
    }
    lacks
}

/// The files that trainers save next to a model, and other forms of it.
fn covers(files: &[PathBuf]) -> HashSet<PathBuf> {
    if !files.iter().any(|file| super::is_model(file)) {
        return HashSet::new();
    }
    let beside = |file: &&PathBuf| is_companion(file);
    files.iter().filter(beside).cloned().chain(other_forms(files)).collect()
}

/// Adds the files next to those of `set`, which was found by `path`. A config next to a single file belongs to it only
/// if Hugging Face would load the two together.
pub(super) fn add_config(path: &Path, set: &mut Set) {
    let is_folder = path.is_dir();
    if !is_folder && set.files.len() == 1 && !is_canonical(path) {
        return;
    }
    let folder = if is_folder { path } else { path.parent().unwrap_or(Path::new("")) };
    let read = ["config.json", "trainer_state.json", MERGE].into_iter().chain(QUANTIZATION);
    set.beside.extend(read.map(|name| Stamp::of(&folder.join(name))));
    let config = folder.join("config.json");
    set.config = read_json(&config, MAX_CONFIG).map(from_json);
    if set.config.is_none() && config.is_file() {
        let text = "the config.json next to it is not valid JSON and was not used";
        set.notices.push(Notice::new(NoticeKind::ConfigNotUnderstood, text));
    }
    set.merged = lays_out_layers(&folder.join(MERGE));
    let mut others = QUANTIZATION.iter().map(|name| read_json(&folder.join(name), MAX_CONFIG).map(from_json));
    set.quantization = others.find_map(|value| value);
    let state: Option<TrainerState> = read_json(&folder.join("trainer_state.json"), MAX_INDEX);
    set.trainer_step = state.map(|state| state.global_step);
}

/// What mergekit leaves beside what it made.
const MERGE: &str = "mergekit_config.yml";

/// Whether the configuration of a merge at `path` puts layers of other models one after the other, where some may be
/// there more than once.
fn lays_out_layers(path: &Path) -> bool {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_CONFIG).read_to_string(&mut text));
    read.is_ok() && text.lines().any(|line| line.trim_start_matches([' ', '-']).starts_with("layer_range:"))
}

/// Files that say how weights are quantized: of ModelOpt, AutoGPTQ and AutoAWQ.
const QUANTIZATION: [&str; 3] = ["hf_quant_config.json", "quantize_config.json", "quant_config.json"];

/// Names of one model in several forms, in the order in which the [`LIBRARIES`] look for them.
pub(super) const FORMS: [[&str; 4]; 2] = [
    [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ],
    [
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.bin.index.json",
    ],
];
const LIBRARIES: [&str; 2] = ["transformers", "diffusers"];

/// Among `files` of one folder, the forms of its model that are not read because another form is.
fn other_forms(files: &[PathBuf]) -> Vec<PathBuf> {
    let form = |name: &&str| files.iter().find(|file| self::name(file) == **name);
    FORMS.iter().flat_map(|forms| forms.iter().filter_map(form).skip(1)).cloned().collect()
}

fn is_canonical(path: &Path) -> bool {
    matches!(
        name(path).as_str(),
        "model.safetensors"
            | "pytorch_model.bin"
            | "pytorch_model_fsdp.bin"
            | "adapter_model.safetensors"
            | "adapter_model.bin"
            | "diffusion_pytorch_model.safetensors"
            | "diffusion_pytorch_model.bin"
    )
}

#[derive(Deserialize)]
struct TrainerState {
    global_step: u64,
}

/// The one checkpoint of a folder.
fn folder_set(folder: &Path) -> Result<Set> {
    match find_in(folder)?.checkpoints.as_slice() {
        [one] => laid_out(one),
        [] => Err(Error::new(ErrorKind::Unrecognised, "is a folder without a checkpoint").in_file(folder)),
        many => {
            Err(Error::new(ErrorKind::Unrecognised, format!("is a folder of {} checkpoints", many.len()))
                .in_file(folder)
                .hint(format!("give one of them, such as {}", many[0].display())))
        }
    }
}
