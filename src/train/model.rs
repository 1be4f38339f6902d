//! The model that `--init` names.

use std::collections::BTreeSet;
use std::path::Path;

use ckpt_inspect::ModelConfig;
use ckpt_inspect::meaning::{ConfigError, Given};
use ckpt_inspect::metadata::from_json;
use ckpt_inspect::stored;
use ckpt_train::{FORMER, PRESETS, configuration_of, preset, trainable};
use serde_json::{Map, Value};

use super::config::{MAX_CONFIG, endless};
use crate::{Failure, load, terminal};

/// The preset whose settings count where a file gives none.
const USUAL: &str = "100m";
/// Keys of an original trainer's configuration that say nothing of the network.
const OF_TRAINING: [&str; 2] = ["dropout", "latent"];

/// What `--init` may be.
pub(super) fn help() -> String {
    format!(
        "Start a new model: {} (parameters with a vocabulary of 32000), a TOML or JSON file with a model configuration (keys of docs/bitnet.md, or Hugging Face's config.json), or a checkpoint to take the configuration from. The vocabulary is the tokenizer's [default: 32000]",
        PRESETS.join(", ")
    )
}

/// The configuration that `--init` names, with the vocabulary of `tokenizer` where it gives none, and `bitlinear`
/// projections or not.
pub(super) fn read(
    init: &str,
    tokenizer: Option<&Path>,
    bitlinear: Option<bool>,
) -> Result<ModelConfig, Failure> {
    let (mut config, own_vocabulary) = match preset(init) {
        Some(config) => {
            if let Some((former, now)) = FORMER.iter().find(|(former, _)| *former == init) {
                terminal::note(&format!("--init {former} is now called {now}, by its size"));
            }
            (config, false)
        }
        None => from_file(Path::new(init), bitlinear)?,
    };
    if let Some(bitlinear) = bitlinear {
        (config.use_bitlinear_ffn, config.use_bitlinear_attn) = (bitlinear, bitlinear);
    }
    let Some(path) = tokenizer else { return Ok(config) };
    let tokens = ckpt_infer::Tokenizer::open(path)?.vocab_size();
    if !own_vocabulary {
        config.vocab_size = tokens;
    } else if config.vocab_size < tokens {
        return Err(Failure::usage(format!(
            "--init {}: has a vocabulary of {}, and {} has {tokens} tokens; leave vocab_size out, or give one that holds them",
            terminal::escape(init),
            config.vocab_size,
            terminal::path(path)
        )));
    }
    Ok(config)
}

/// The configuration in the file or checkpoint at `path`, and whether it gives the size of the vocabulary.
fn from_file(path: &Path, bitlinear: Option<bool>) -> Result<(ModelConfig, bool), Failure> {
    let elsewhere = stored::is_remote(path);
    if !elsewhere && !path.exists() {
        return Err(Failure::usage(format!(
            "--init {}: neither a file nor one of {}",
            terminal::escape(&path.display().to_string()),
            PRESETS.join(", ")
        )));
    }
    let has = |extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    let text = !elsewhere && path.is_file() && (has("toml") || has("json"));
    if !text {
        let checkpoint = ckpt_inspect::open(path)?;
        return Ok((configuration_of(&checkpoint, bitlinear)?, true));
    }
    let cannot = |what: String| {
        let lines: Vec<String> = what.trim_end().lines().map(terminal::escape).collect();
        Failure::usage(format!("{}: {}", path.display(), lines.join("\n")))
    };
    let text = load::text(path, MAX_CONFIG)?;
    if has("toml")
        && let Ok(table) = toml::from_str(&text)
        && let Some(key) = endless(&table, "")
    {
        return Err(cannot(format!("`{key}` must be a finite number")));
    }
    let given: Value = match has("toml") {
        true => toml::from_str(&text).map_err(|e| cannot(e.to_string()))?,
        false => serde_json::from_str(&text).map_err(|e| cannot(e.to_string()))?,
    };
    let Value::Object(given) = given else { return Err(cannot("not a table of settings".into())) };
    match Given::of_hugging_face(&from_json(Value::Object(given.clone()))) {
        // It names no class, so it is a trainer's.
        Err(ConfigError::Unknown) => {}
        told => {
            if let Some(config) = of_weights_beside(path, bitlinear) {
                return Ok((config, given.contains_key("vocab_size")));
            }
            let config = told.and_then(|given| given.complete()).map_err(|e| cannot(e.to_string()))?;
            return Ok((trainable(config).map_err(cannot)?, given.contains_key("vocab_size")));
        }
    }
    // A trainer's configuration may be the part of a larger one.
    let given = match given.get("model") {
        Some(Value::Object(model)) => model.clone(),
        _ => given,
    };
    of_trainer(given).map_err(cannot)
}

/// The configuration that the weights beside the config.json at `path` were saved with: what it cannot express, such as BitLinear
/// layers, is there.
fn of_weights_beside(path: &Path, bitlinear: Option<bool>) -> Option<ModelConfig> {
    if path.file_name()? != "config.json" {
        return None;
    }
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let checkpoint = ckpt_inspect::open(folder).ok().filter(|c| c.model.student.is_some())?;
    terminal::note(&format!(
        "{} is of the model beside it, whose own configuration is taken: config.json cannot express all of it",
        terminal::path(path)
    ));
    configuration_of(&checkpoint, bitlinear).ok()
}

/// The configuration of these settings of bitnet-student's trainer, over the usual preset's.
fn of_trainer(given: Map<String, Value>) -> Result<(ModelConfig, bool), String> {
    let usual = preset(USUAL).ok_or("the usual preset is gone")?;
    let mut known: BTreeSet<String> = usual.to_record().into_iter().map(|(key, _)| key).collect();
    known.extend(usual.to_trainer().into_iter().map(|(key, _)| key));
    known.extend(OF_TRAINING.map(String::from));
    if let Some(key) = given.keys().find(|key| !known.contains(*key)) {
        let known: Vec<String> = known.into_iter().collect();
        return Err(format!("unknown model setting `{key}`; the settings are {}", known.join(", ")));
    }
    if given.get("dropout").and_then(Value::as_f64).is_some_and(|share| share != 0.0) {
        return Err("dropout is not supported; it must be 0".into());
    }
    let own = given.contains_key("vocab_size");
    let mut all = usual.to_record();
    if given.contains_key("use_bitlinear") {
        all.retain(|key, _| !key.starts_with("use_bitlinear"));
    }
    all.extend(given);
    let config = Given::of_trainer(&from_json(Value::Object(all)));
    let config = config.and_then(|given| given.complete()).map_err(|e| e.to_string())?;
    Ok((trainable(config)?, own))
}
