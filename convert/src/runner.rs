//! What the program that runs a GGUF file computes of the model: llama.cpp's graph of an architecture, or bitnet.cpp's, has
//! one activation function, certain biases, and no sliding window where it reads no key for one (`src/models` in
//! llama.cpp, `build_bitnet_158` in bitnet.cpp).

use ckpt_inspect::ModelConfig;
use ckpt_inspect::meaning::architecture::{Kind, Role};
use ckpt_inspect::meaning::{RopeScaling, SlidingLayers};

use crate::names;
use crate::note::Note;
use crate::plan::Plan;
use crate::{Error, Result};

/// A tensor of the plan that is in a layer and that the model of `config` has not.
fn unused<'p>(plan: &'p Plan<'_>, config: &ModelConfig) -> Option<&'p str> {
    let family = config.architecture;
    let is_unused = |name: &str| {
        let name = names::canonical_in(Some(family), name);
        match family.role(&name) {
            Some(role) => matches!(role, Role::Layer(..)) && config.shape(role).is_none(),
            None => name.starts_with("layers."),
        }
    };
    plan.pairs.iter().map(|pair| pair.elements.tensor.name.as_str()).find(|name| is_unused(name))
}

/// What it does not compute as the model of `plan` does, where few tokens depend on it.
///
/// # Errors
/// Where every token depends on it.
pub(crate) fn notes(plan: &Plan<'_>, config: &ModelConfig) -> Result<Vec<Note>> {
    let source = plan.source;
    let name = config.gguf_name();
    let (graph, function) = (config.written_as().graph, &config.written_as().defaults.activation);
    if config.activation != *function {
        let (own, theirs) = (config.activation.name().escape_debug(), function.name());
        let why = format!(
            "its feed-forward layers compute `{own}`, and a GGUF file cannot say so: {name} models compute {theirs} there"
        );
        return Err(Error::of_source(source, why));
    }
    if !config.tie_word_embeddings && !graph.untied {
        let why = format!("its output head is not its embedding, as it is in {name} models in GGUF");
        return Err(Error::of_source(source, why));
    }
    if !graph.factors && config.rope_scaling.factors(config.rope_base, config.head_dim).is_some() {
        let kind = config.rope_scaling.kind();
        let why = format!("its rotary scaling is `{kind}`, and {name} models in GGUF have no such factors");
        return Err(Error::of_source(source, why));
    }
    if source.model.quantization.as_ref().is_some_and(|q| q.norm_eps.is_some()) {
        let why = format!(
            "each of its BitLinears normalizes its input (`use_rms_norm`), and {name} models in GGUF have no such norms"
        );
        return Err(Error::of_source(source, why));
    }
    if let Some(unread) = source.model.given().ok().and_then(|given| given.unread.as_ref()) {
        return Err(Error::of_source(source, format!("it {unread}, and a GGUF file of it could not say so")));
    }
    if let Some(lacking) = config.written_as().not_in_gguf(config) {
        return Err(Error::of_source(source, format!("it {lacking}")));
    }
    if let Some(name) = unused(plan, config) {
        let why = format!(
            "`{}` is in its layers and its configuration does not say so (as attention_bias and mlp_bias do): transformers ignores it, and what runs a GGUF file would use it; remove such tensors, or correct config.json",
            name.escape_debug()
        );
        return Err(Error::of_source(source, why));
    }
    let in_order = |period: usize| {
        let slides = |n: usize| !(n + 1).is_multiple_of(period);
        (0..config.num_layers).all(|n| config.window_in(n).is_some() == slides(n))
    };
    let said = match graph.period {
        Some(period) => in_order(period),
        None => config.sliding_layers == SlidingLayers::All,
    };
    if config.sliding_window.is_some() && !said {
        let why = format!(
            "only some of its layers have an attention window, and a GGUF file of a {name} model cannot say which"
        );
        return Err(Error::of_source(source, why));
    }
    let mut notes = Vec::new();
    let is_bias = |name: &str| names::role(name).is_some_and(|role| role.kind() == Kind::Bias);
    let biases = plan.tensors.iter().filter(|t| is_bias(&t.name)).count();
    if biases > 0 && !graph.biased {
        notes.push(Note::Biases { count: biases, architecture: name.to_string() });
    }
    if let RopeScaling::LongRope { original_max_position_embeddings: Some(original), .. } =
        config.rope_scaling
    {
        notes.push(Note::LongTexts { original: original as usize });
    }
    if let Some(window) = config.sliding_window.filter(|_| graph.period.is_none()) {
        notes.push(Note::SlidingWindow { window, architecture: name.to_string() });
    }
    Ok(notes)
}
