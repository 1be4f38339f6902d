//! What llama.cpp computes of a model that is written as GGUF: its graph of an architecture has one activation function,
//! certain biases, and no sliding window where it reads no key for one (`src/models` in llama.cpp).

use ckpt_inspect::ModelConfig;
use ckpt_inspect::meaning::architecture::Kind;
use ckpt_inspect::meaning::{Activation, SlidingLayers};

use crate::names;
use crate::note::Note;
use crate::plan::Plan;
use crate::{Error, Result};

/// What it does not compute as the model of `plan` does, where few tokens depend on it.
///
/// # Errors
/// Where every token depends on it.
pub(crate) fn notes(plan: &Plan<'_>, config: &ModelConfig) -> Result<Vec<Note>> {
    let source = plan.source;
    let name = config.gguf_name();
    if let Activation::Other(function) = &config.activation {
        let function = function.escape_debug();
        let why = format!(
            "its feed-forward layers compute `{function}`, and a GGUF file cannot say so: {name} models compute silu there"
        );
        return Err(Error::of_source(source, why));
    }
    if source.model.quantization.as_ref().is_some_and(|q| q.norms) {
        let why = format!(
            "each of its BitLinears normalizes its input (`use_rms_norm`), and {name} models in GGUF have no such norms"
        );
        return Err(Error::of_source(source, why));
    }
    if config.sliding_window.is_some() && config.sliding_layers != SlidingLayers::All {
        let why = format!(
            "only some of its layers have an attention window, and a GGUF file of a {name} model cannot say which"
        );
        return Err(Error::of_source(source, why));
    }
    let mut notes = Vec::new();
    let is_bias = |name: &str| names::role(name).is_some_and(|role| role.kind() == Kind::Bias);
    let biases = plan.tensors.iter().filter(|t| is_bias(&t.name)).count();
    if biases > 0 && !config.written_as().biased_in_gguf {
        notes.push(Note::Biases { count: biases, architecture: name.to_string() });
    }
    if let Some(window) = config.sliding_window {
        notes.push(Note::SlidingWindow { window, architecture: name.to_string() });
    }
    Ok(notes)
}
