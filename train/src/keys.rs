//! Every key of a run's `config.toml`: what it means, the flag that sets it, and what counts without it. The help of
//! `ckpt train` and the table in `docs/train.md` are made of these.

use std::fmt::Write;

use serde_json::Value;

use crate::Settings;
use crate::optim::{self, Method, muon, spin};

/// A key of `config.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Key {
    /// Its tables and itself, joined by dots.
    pub name: &'static str,
    /// The flag that sets it, without dashes.
    pub flag: Option<&'static str>,
    /// What it means: a sentence, and more where needed.
    pub what: &'static str,
}

const fn key(name: &'static str, flag: &'static str, what: &'static str) -> Key {
    Key { name, flag: Some(flag), what }
}

const fn file_only(name: &'static str, what: &'static str) -> Key {
    Key { name, flag: None, what }
}

/// All keys, in the order of the file.
pub const KEYS: &[Key] = &[
    key("steps", "steps", "Step to stop at, counted from the start of the model's training."),
    key(
        "accumulate",
        "accumulate",
        "Gradient accumulation: batches per optimizer step. Batches are weighted by their learnt tokens (tokens that count in the loss), so 8 batches of 1 equal 1 batch of 8.",
    ),
    key("clip", "clip", "Clip the global gradient norm to this; 0 for no limit."),
    key(
        "detached_scales",
        "detached-scales",
        "Treat the scales of BitLinear layers as constants in the backward pass.",
    ),
    key("seed", "seed", "Random seed."),
    key("save_every", "save-every", "Steps between checkpoints; 0 for only one at the end."),
    key("keep_last", "keep-last", "Number of latest checkpoints to keep; 0 for all."),
    key(
        "validate_every",
        "validate-every",
        "Steps between validations (there is also one at the start and one at the end); 0 for none.",
    ),
    key(
        "patience",
        "patience",
        "Early stopping: stop after this many validations in a row without a lower loss; 0: never.",
    ),
    key("health_every", "health-every", "Steps between health checks of the weights; 0 for none."),
    key(
        "stop_on_collapse",
        "stop-on-collapse",
        "Stop when a layer falls below healthy or the run diverges: the loss rises back to that of guessing (ln of the vocabulary size) or to twice that, the gradient is exactly 0, or a matrix becomes far too large.",
    ),
    key(
        "best_any",
        "best-any",
        "Write best.pt for the lowest validation loss even if the weights are not healthy.",
    ),
    key(
        "ema",
        "ema",
        "Decay of an exponential moving average of the weights, such as 0.999, which checkpoints keep as ema_state_dict; 0 for none.",
    ),
    file_only("max_skipped", "How many steps in a row may give NaN or infinity before the run stops."),
    file_only(
        "thresholds.projection",
        "Smallest std (standard deviation) of a ternary matrix for each verdict: `healthy`, `weak`, `dying`.",
    ),
    file_only(
        "thresholds.relative",
        "The same for other matrices, times the root of their inputs; not measured in training.",
    ),
    file_only("thresholds.convolutions", "The same for convolutions; not measured in training."),
    file_only("thresholds.tables", "The same for embeddings; not measured in training."),
    file_only(
        "thresholds.dead_zero_share",
        "Share of zeros after quantization from which a ternary matrix is dead.",
    ),
    key("schedule.warmup", "warmup", "Steps of linear warm-up from 0."),
    key(
        "schedule.cosine_steps",
        "cosine",
        "Step at which the learning rate's cosine decay, which follows the warm-up, ends; --cosine sets it to --steps.",
    ),
    file_only("schedule.min_factor", "Share of the learning rate that the cosine ends at."),
    key("loss.label_smoothing", "label-smoothing", "Label smoothing of the loss."),
    key(
        "loss.focal",
        "focal",
        "Focal loss: weight each token by (1 - p)^GAMMA, so that tokens already predicted well count less.",
    ),
    key("loss.alpha", "alpha", "Weight of the teachers in the loss, from 0 to 1."),
    key("loss.temperature", "temperature", "Distillation temperature."),
    key(
        "optimizer.name",
        "optimizer",
        "The prefix polarized- adds the polarizer, which pushes ternary weights away from zero. muon-adamw is the Muon variant of the trainer whose checkpoints ckpt reads natively (docs/bitnet.md).",
    ),
    key("optimizer.lr", "lr", "Learning rate."),
    file_only("optimizer.adamw_lr", "Learning rate of the parameters that Muon leaves to AdamW."),
    key(
        "optimizer.weight_decay",
        "weight-decay",
        "Decoupled weight decay of parameters outside BitLinear layers; with muon-adamw, of parameters that are not matrices.",
    ),
    key(
        "optimizer.ternary_weight_decay",
        "ternary-weight-decay",
        "Decoupled weight decay of ternary weights; with muon-adamw, of every matrix. Off, because it shrinks ternary weights to nothing.",
    ),
    file_only("optimizer.momentum", "Momentum."),
    file_only("optimizer.betas", "Decay of AdamW's two moments."),
    file_only("optimizer.eps", "What AdamW adds to the root of its second moment."),
    file_only("optimizer.hysteresis_threshold", "Size below which weights tunnel (spin)."),
    file_only("optimizer.tunnel_strength", "How far they tunnel, in learning rates (spin)."),
    key(
        "optimizer.polarizer.well",
        "well",
        "The polarizer's rule: one-sided, two-sided, constant or piecewise.",
    ),
    key(
        "optimizer.polarizer.target",
        "relative-target",
        "Size that the polarizer pushes weights to: `relative` to each layer's mean|w| at the start (--relative-target), or `absolute` (--target-scale).",
    ),
    key("optimizer.polarizer.strength", "polarization-strength", "How strongly the polarizer pushes."),
    key(
        "data.files",
        "data",
        "Data: text and JSONL (.gz and .zst too), Parquet, or token ids (.npy, .safetensors); glob patterns such as 'src/**/*.py' too.",
    ),
    file_only(
        "data.sources",
        "Instead of `files`: sources, each with `files` and a `weight` (1 when not given). Sequences are drawn from them in proportion to the weights. On the command line: `--data a.jsonl=3 b.jsonl`.",
    ),
    key("data.validation", "validation", "Validation data."),
    key(
        "data.tokenizer",
        "tokenizer",
        "The tokenizer of text: tokenizer.json, tokenizer.model, a folder that holds one of them, or a GGUF file.",
    ),
    key("data.text_column", "text-column", "Column of JSONL and Parquet files that holds the text."),
    key(
        "data.template",
        "template",
        "How `messages` are written: auto (as `ckpt chat` does), model (the tokenizer's own chat template), tags or plain.",
    ),
    key("data.length", "length", "Positions per sequence."),
    key("data.batch", "batch", "Sequences per batch."),
    key("data.shuffle", "no-shuffle", "Whether sequences, and the files of each pass, are shuffled."),
    file_only("data.buffer", "Sequences in the shuffle buffer."),
    key("data.holdout", "holdout", "Share of documents held out for validation."),
    key(
        "data.validation_tokens",
        "validation-tokens",
        "Size of the validation set in learnt tokens (tokens that count in the loss); whole sequences are taken until it is reached.",
    ),
    file_only("data.mask_prompts", "Whether prompts are context only, and do not count in the loss."),
    key(
        "data.fill_in_rate",
        "fim-rate",
        "Share of documents rearranged for fill-in-the-middle training (prefix, suffix, middle).",
    ),
    key(
        "distill.teachers",
        "teacher",
        "Checkpoint to distill from (`path`), with its `weight` among several; any model that `ckpt infer` runs.",
    ),
    key(
        "distill.logits",
        "teacher-logits",
        "Stored logits to distill from: SafeTensors files with `logits` and `indices`, one for each file of the data.",
    ),
    file_only("distill.logits_weight", "Weight of the stored logits among the teachers."),
    key("sample.every", "sample-every", "Steps between samples of text, greedy and drawn; 0 for none."),
    key("sample.prompt", "sample-prompt", "The text that samples continue."),
    key("sample.tokens", "sample-tokens", "Maximum number of tokens of a sample."),
    key("sample.temperature", "sample-temperature", "Temperature of the sample that is drawn."),
];

/// The key called `name`.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    /// What counts without it; `None` if nothing does.
    pub fn default(&self) -> Option<String> {
        let by_well = "0.25 for one-sided and two-sided";
        Some(match self.name {
            "seed" => "that of the resumed checkpoint, or 0".into(),
            "schedule.cosine_steps" => "none: the rate stays constant".into(),
            "optimizer.name" => optim::Settings::default().name(),
            "optimizer.momentum" => {
                format!("{} for muon and muon-adamw, {} for spin, 0 for sgd", muon::MOMENTUM, spin::MOMENTUM)
            }
            "optimizer.lr" => {
                let rate = |name: &&str| {
                    let settings: optim::Settings = name.parse().ok()?;
                    Some(format!("{} for {name}", settings.rates().first()?.lr))
                };
                optim::NAMES.iter().filter_map(rate).collect::<Vec<_>>().join(", ")
            }
            "optimizer.polarizer.well" => "one-sided".into(),
            "optimizer.polarizer.target" => {
                format!("relative {by_well}, absolute 0.01 for constant and piecewise")
            }
            "optimizer.polarizer.strength" => {
                "0.05 for one-sided and two-sided, 0.01 for constant, 0.1 for piecewise".into()
            }
            "data.validation" => "a part of the data is held out".into(),
            "sample.prompt" => "the beginning of a document".into(),
            "data.text_column" => "text or content".into(),
            "data.tokenizer" => "the one next to the checkpoint, if there is one".into(),
            "data.holdout" => format!("{}, or 0 with validation data or without shuffling", self.number()?),
            "distill.logits_weight" => "1".into(),
            name => match all().into_iter().find(|(key, _)| key == name)?.1 {
                Value::Array(items) if items.is_empty() => return None,
                Value::Object(levels) => {
                    let level = |(name, value): (&String, &Value)| format!("{name} {}", shown(value));
                    levels.iter().map(level).collect::<Vec<_>>().join(", ")
                }
                value => shown(&value),
            },
        })
    }

    fn number(&self) -> Option<String> {
        all().into_iter().find(|(key, _)| key == self.name).map(|(_, value)| shown(&value))
    }

    /// What it means and what counts without it, for the help of a flag.
    pub fn help(&self) -> String {
        match self.default().filter(|default| default != "false") {
            Some(default) => format!("{} [default: {default}]", self.what.trim_end_matches('.')),
            None => self.what.to_string(),
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Number(number) => number.as_f64().map_or(number.to_string(), |n| n.to_string()),
        other => other.to_string(),
    }
}

/// The keys that [`Settings`] have, with their defaults: the tables within a table joined to it by dots, and of the
/// optimizers the keys of all.
pub fn all() -> Vec<(String, Value)> {
    let mut keys = Vec::new();
    let whole = serde_json::to_value(Settings::default()).unwrap_or_default();
    let Value::Object(whole) = whole else { return keys };
    for (name, value) in whole {
        match value {
            Value::Object(_) if name == "optimizer" => {
                keys.push(("optimizer.name".into(), Value::Null));
                keys.extend(Method::defaults().into_iter().map(|(k, v)| (format!("optimizer.{k}"), v)));
                let polarizer = serde_json::to_value(optim::Polarizer::default()).unwrap_or_default();
                for (key, value) in polarizer.as_object().into_iter().flatten() {
                    keys.push((format!("optimizer.polarizer.{key}"), value.clone()));
                }
            }
            Value::Object(table) => keys.extend(table.into_iter().map(|(k, v)| (format!("{name}.{k}"), v))),
            value => keys.push((name, value)),
        }
    }
    keys
}

/// All keys as a table in Markdown.
pub fn markdown() -> String {
    let mut table = "| key | flag | default | what |\n| --- | --- | --- | --- |\n".to_string();
    for key in KEYS {
        let flag = key.flag.map_or(String::new(), |flag| format!("`--{flag}`"));
        let default = key.default().unwrap_or_default();
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(table, "| `{}` | {flag} | {} | {} |", key.name, cell(&default), cell(key.what));
    }
    table
}
