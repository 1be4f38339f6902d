//! Folders in Hugging Face's layout: one checkpoint, with config.json and trainer_state.json next to it.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::companion::is_companion;
use super::sharded::weight_map;
use super::{Joined, Lacks, Layout, MAX_CONFIG, MAX_INDEX, Set, find_in, laid_out, name, read_json, single};
use crate::bytes::Stamp;
use crate::bytes::stored::Stored;
use crate::metadata::from_json;
use crate::{Error, ErrorKind, Notice, NoticeKind, Result};

pub(super) const LAYOUT: Layout = Layout {
    recognises: |path| path.is_stored_folder(),
    set,
    lacks,
    covers,
    is_model: is_canonical,
    ..single::LAYOUT
};

fn set(folder: &Path) -> Result<Set> {
    let mut set = folder_set(folder)?;
    let entries = folder.stored_entries().map_err(|e| Error::io(folder, &e))?;
    let mut files: Vec<PathBuf> =
        entries.into_iter().map(|entry| entry.path).filter(|path| path.is_stored_file()).collect();
    files.sort();
    for (family, library) in FAMILIES.iter().zip(LIBRARIES) {
        let others = family.others(&files);
        let (Some(read), Some(other)) = (family.read(&files), others.first()) else { continue };
        let other = name(other);
        let more = match others.len() {
            1 => String::new(),
            more => format!(" and {} more files", more - 1),
        };
        let other_printed = other.escape_debug();
        let text =
            format!("it was read from {read}, as {library} does, not from {other_printed}{more} next to it");
        set.notices.push(Notice::new(NoticeKind::OtherForm, text));
        // Files of another format may hold what this one leaves out: tied weights, buffers that are computed.
        if [read, &other].iter().all(|form| form.contains("safetensors")) && is_index(&other) {
            set.other_map = weight_map(&folder.join(&other));
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
    let is_folder = path.is_stored_folder();
    if !is_folder && set.files.len() == 1 && !is_canonical(path) {
        return;
    }
    let folder = &model_folder(path);
    let is_adapter = set.files.iter().any(|file| ADAPTERS.contains(&name(file).as_str()));
    let of_adapters = is_adapter.then_some(ADAPTER_CONFIG);
    let read =
        ["config.json", "trainer_state.json", MERGE].into_iter().chain(QUANTIZATION).chain(of_adapters);
    set.beside.extend(read.map(|name| Stamp::of(&folder.join(name))));
    let config = folder.join("config.json");
    set.config = read_json(&config, MAX_CONFIG).map(from_json);
    if set.config.is_none() && config.is_stored_file() {
        let text = "the config.json next to it is not valid JSON and was not used";
        set.notices.push(Notice::new(NoticeKind::ConfigNotUnderstood, text));
    }
    if is_adapter && !folder.join(ADAPTER_CONFIG).is_stored_file() {
        let text = format!("{ADAPTER_CONFIG}, without which PEFT does not load the adapter, is missing");
        set.notices.push(Notice::new(NoticeKind::Gone, text));
    }
    set.merged = lays_out_layers(&folder.join(MERGE));
    let mut others = QUANTIZATION.iter().map(|name| read_json(&folder.join(name), MAX_CONFIG).map(from_json));
    set.quantization = others.find_map(|value| value);
    let path = folder.join("trainer_state.json");
    let state: Option<TrainerState> = read_json(&path, MAX_INDEX);
    if state.is_none() && path.is_stored_file() && read_json::<IgnoredAny>(&path, MAX_INDEX).is_none() {
        let text = "the trainer_state.json next to it is not valid JSON, and training cannot be resumed: the step is not known from it";
        set.notices.push(Notice::new(NoticeKind::ConfigNotUnderstood, text).refused());
    }
    set.trainer_step = state.map(|state| state.global_step);
}

/// The folder in which config.json and the tokenizer's files of the checkpoint at `path` lie: that of its files, or, where its
/// trainer puts them there (verl, SkyRL), one called `huggingface` in it.
pub fn model_folder(path: &Path) -> PathBuf {
    const APART: &str = "huggingface";
    let own = match path.is_stored_folder() {
        true => super::components::only_network(path).unwrap_or_else(|| path.to_path_buf()),
        false => path.parent().unwrap_or(Path::new("")).to_path_buf(),
    };
    let apart = own.join(APART);
    let describes = |folder: &Path| folder.join("config.json").is_stored_file();
    if super::per_rank::are_in(&own) && !describes(&own) && describes(&apart) { apart } else { own }
}

/// What PEFT calls adapters, and what it needs beside one.
const ADAPTERS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
const ADAPTER_CONFIG: &str = "adapter_config.json";
/// What mergekit leaves beside what it made.
const MERGE: &str = "mergekit_config.yml";

/// Whether the configuration of a merge at `path` puts layers of other models one after the other, where some may be
/// there more than once.
fn lays_out_layers(path: &Path) -> bool {
    let mut text = String::new();
    let read = path.stored_bytes().and_then(|file| file.take(MAX_CONFIG).read_to_string(&mut text));
    read.is_ok() && text.lines().any(|line| line.trim_start_matches([' ', '-']).starts_with("layer_range:"))
}

/// Files that say how weights are quantized: of ModelOpt, AutoGPTQ and AutoAWQ.
const QUANTIZATION: [&str; 4] =
    ["hf_quant_config.json", "quantize_config.json", "quant_config.json", "quant_model_description.json"];

/// The names under which one model lies in a folder in several forms.
pub(super) struct Family {
    /// Those that a library looks for, in its order.
    pub forms: [&'static str; 4],
    /// What its files are called before the variant (`fp16`) and the extension.
    stems: &'static [&'static str],
    /// Whether a file of this name is the same model as other programs have it.
    is_foreign: fn(&str) -> bool,
}

/// The families of names, in the order of [`LIBRARIES`].
pub(super) const FAMILIES: [Family; 2] = [
    Family {
        forms: [
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
        ],
        stems: &["model", "pytorch_model"],
        // What the makers of Llama and Mistral load themselves, and the Rust library of that name.
        is_foreign: |name| {
            let consolidated = name.strip_prefix("consolidated.").is_some_and(|rest| {
                rest == "safetensors" || rest == "pth" || rest.strip_suffix(".pth").is_some_and(is_number)
            });
            consolidated
                || name == "consolidated.safetensors.index.json"
                || name == "rust_model.ot"
                || super::sharded::shard_parts(name).is_some_and(|(base, ..)| base == "consolidated")
        },
    },
    Family {
        forms: [
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.safetensors.index.json",
            "diffusion_pytorch_model.bin",
            "diffusion_pytorch_model.bin.index.json",
        ],
        stems: &["diffusion_pytorch_model"],
        is_foreign: |_| false,
    },
];
const LIBRARIES: [&str; 2] = ["transformers", "diffusers"];

/// Words that name a variant. Others may be a step of a run, which is another model.
const VARIANTS: [&str; 11] =
    ["fp16", "bf16", "fp32", "fp8", "f16", "f32", "int8", "8bit", "4bit", "ema", "non_ema"];

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_index(name: &str) -> bool {
    name.ends_with(".index.json")
}

impl Family {
    /// The form that is read, if the model is there as one of them.
    fn read(&self, files: &[PathBuf]) -> Option<&'static str> {
        self.forms.into_iter().find(|form| files.iter().any(|file| name(file) == *form))
    }

    /// Among `files` of one folder, the forms of the model that are not read because another form is: those that the
    /// library would look for next first.
    fn others(&self, files: &[PathBuf]) -> Vec<PathBuf> {
        let Some(read) = self.read(files) else { return Vec::new() };
        let later = self.forms.into_iter().filter(|form| *form != read);
        let later = later.filter_map(|form| files.iter().find(|file| name(file) == form));
        let is_other = |file: &&PathBuf| {
            let name = name(file);
            (self.is_foreign)(&name) || self.is_variant(&name)
        };
        later.chain(files.iter().filter(is_other)).cloned().collect()
    }

    /// Whether a file of this name belongs to a variant of the model, such as `model.fp16.safetensors`, which a library
    /// only loads if it is asked for it.
    fn is_variant(&self, name: &str) -> bool {
        let word = |text: &str| VARIANTS.contains(&text);
        let shard = |text: &str| {
            let parts = text.split_once("-of-");
            parts.is_some_and(|(number, count)| is_number(number) && is_number(count))
        };
        self.stems.iter().filter_map(|stem| name.strip_prefix(stem)).any(|rest| {
            let rest = rest.strip_prefix(['.', '-']).unwrap_or("");
            match rest.split('.').collect::<Vec<_>>()[..] {
                // model.fp16.safetensors, model.fp16-00001-of-00002.safetensors
                [variant, "safetensors" | "bin"] if name.contains(&format!(".{variant}.")) => {
                    let own = variant.split_once('-').map_or(variant, |(own, _)| own);
                    let rest = &variant[own.len()..];
                    word(own) && (rest.is_empty() || rest.strip_prefix('-').is_some_and(shard))
                }
                // model-00001-of-00002.fp16.safetensors
                [part, variant, "safetensors" | "bin"] => shard(part) && word(variant),
                // model.safetensors.index.fp16.json
                ["safetensors" | "bin", "index", variant, "json"] => word(variant),
                _ => false,
            }
        })
    }
}

/// Among `files` of one folder, the forms of its model that are not read because another form is.
fn other_forms(files: &[PathBuf]) -> Vec<PathBuf> {
    FAMILIES.iter().flat_map(|family| family.others(files)).collect()
}

fn is_canonical(path: &Path) -> bool {
    let name = name(path);
    let is_form = |family: &Family| {
        let own = family.forms.contains(&name.as_str()) && !is_index(&name);
        own || family.is_variant(&name)
    };
    // TensorRT-LLM's, which has the number of a rank.
    let of_rank = || name.strip_prefix("rank").and_then(|rest| rest.strip_suffix(".safetensors"));
    FAMILIES.iter().any(is_form)
        || ADAPTERS.contains(&name.as_str())
        || name == "pytorch_model_fsdp.bin"
        || of_rank().is_some_and(is_number)
}

#[derive(Deserialize)]
struct TrainerState {
    global_step: u64,
}

/// The one checkpoint of a folder.
fn folder_set(folder: &Path) -> Result<Set> {
    let many = match find_in(folder)?.checkpoints {
        own if own.is_empty() => super::find(folder)?,
        own => match <[PathBuf; 1]>::try_from(own) {
            Ok([one]) => return laid_out(&one),
            Err(many) => many,
        },
    };
    Err(match many.as_slice() {
        [] => Error::new(ErrorKind::Unrecognised, "is a folder without a checkpoint").in_file(folder),
        [one, ..] => {
            let s = if many.len() == 1 { "" } else { "s" };
            Error::new(ErrorKind::Unrecognised, format!("is a folder of {} checkpoint{s}", many.len()))
                .in_file(folder)
                .hint(format!("give one of them, such as {}", one.display()))
        }
    })
}
