//! What the model computes: sizes from the tensors' shapes; the rest from settings, else from the checkpoint's own
//! configuration (a trainer's `config`, config.json, GGUF keys), else from defaults, which are listed.

use ckpt_inspect::meaning::architecture::{Part, Role, STUDENT, TABLE};
use ckpt_inspect::meaning::names::Names;
use ckpt_inspect::meaning::{Activation, ConfigError, Given, RopePairing, RopeScaling, SlidingLayers};
use ckpt_inspect::measure::Floor;
use ckpt_inspect::{Checkpoint, DType, ModelConfig};

use crate::{Assumption, Error, Result};

/// Sizes of a model stay below this, so that no sum of int8 products leaves i32 and no product of sizes overflows.
const LARGEST: usize = 1 << 16;

/// The configuration of the model in `checkpoint`, and what had to be assumed. `flags` come first.
///
/// # Errors
/// `Unsupported` for another network, `Inconsistent` when tensors are missing or do not fit each other.
pub fn configuration(
    checkpoint: &Checkpoint,
    names: &Names<'_>,
    flags: &Given,
) -> Result<(ModelConfig, Vec<Assumption>)> {
    let path = || checkpoint.path.clone();
    let unsupported = |what: String| Error::Unsupported { path: path(), what };
    let inconsistent = |what: String| Error::Inconsistent { path: path(), what };
    let of_heads = |what: String| match (flags.head_dim, flags.num_heads) {
        (None, None) => Error::Inconsistent { path: path(), what },
        _ => Error::Setting { path: path(), what },
    };
    let mut given = given(checkpoint).map_err(unsupported)?;
    if of_first_exporter(checkpoint, names) {
        given.architecture = Some(&STUDENT);
        given.rope_pairing = None;
        (given.use_bitlinear_ffn, given.use_bitlinear_attn) = (None, None);
        for cap in [&mut given.attn_logit_soft_cap, &mut given.final_logit_soft_cap] {
            *cap = cap.filter(Option::is_some);
        }
    }
    let read = checkpoint.tensors.iter().any(|tensor| tensor.quantized.is_some());
    refuse(&given, read).map_err(unsupported)?;
    let scaling = flags.rope_scaling.as_ref().or(given.rope_scaling.as_ref());
    scaling.map_or(Ok(()), runs).map_err(unsupported)?;
    let foreign = |name: &str| {
        unsupported(format!(
            "tensor `{}` is not part of a supported network; other biases, experts and norms are not supported",
            name.escape_debug()
        ))
    };
    if let Some(tensor) = names.unused.first() {
        return Err(foreign(&tensor.name));
    }
    let matrix = |role: Role| match names.get(role).map(|t| t.shape.as_slice()) {
        Some(&[rows, cols]) if (1..=LARGEST).contains(&cols) && rows >= 1 => Ok((rows, cols)),
        Some(shape) => {
            let name = names.called(role);
            Err(inconsistent(format!(
                "tensor `{name}` has shape {shape:?}, which is not that of a matrix of a supported size"
            )))
        }
        None => Err(inconsistent(format!("tensor `{}` is missing", names.called(role)))),
    };
    let (vocab_size, _) = matrix(Role::Embedding)?;
    let (q_rows, _) = matrix(Role::Layer(0, Part::Q))?;
    let (kv_rows, _) = matrix(Role::Layer(0, Part::K))?;
    let (mlp_hidden_dim, _) = matrix(Role::Layer(0, Part::Gate))?;
    if vocab_size > u32::MAX as usize || q_rows > LARGEST || mlp_hidden_dim > LARGEST {
        return Err(inconsistent(format!("a matrix has more than {LARGEST} rows")));
    }
    let shapes = names.shapes().ok_or_else(|| inconsistent("its tensors do not form a model".into()))?;

    // A head size given by an option overrides the one in the configuration.
    if flags.num_heads.is_some() {
        given.head_dim = None;
    }
    let architecture = given.architecture.unwrap_or(&STUDENT);
    let (mut config, mut assumed) = shapes.configure(architecture, &[flags, &given]);
    config.num_layers = names.layers();
    if let Some(promised) = given.num_layers.filter(|promised| *promised > config.num_layers) {
        let found = config.num_layers;
        return Err(inconsistent(format!(
            "it should have {promised} layers, and has {found} without a gap from the first on"
        )));
    }
    let head_dim = config.head_dim;
    let divides = head_dim >= 2 && q_rows.is_multiple_of(head_dim) && kv_rows.is_multiple_of(head_dim);
    if !divides {
        return Err(of_heads(format!(
            "the {q_rows} rows of Q and {kv_rows} rows of K do not divide into heads of {head_dim}"
        )));
    }
    let (num_heads, num_kv_heads) = (config.num_heads, config.num_kv_heads);
    for (name, flag, found) in
        [("head_dim", flags.head_dim, head_dim), ("num_heads", flags.num_heads, num_heads)]
    {
        if let Some(flag) = flag.filter(|flag| *flag != found) {
            return Err(of_heads(format!("{name} is {found} by its tensors' shapes, not {flag}")));
        }
    }
    if head_dim % 2 != 0 || !num_heads.is_multiple_of(num_kv_heads) {
        return Err(of_heads(format!(
            "{num_heads} query heads of {head_dim} cannot be shared out among {num_kv_heads} KV heads"
        )));
    }
    // Packed matrices are ternary, even if the configuration says otherwise.
    config.use_bitlinear_attn |= shapes.packed_attn;
    config.use_bitlinear_ffn |= shapes.packed_ffn;
    let by_default = assumed.iter().any(|a| a.setting == "quantization_eps");
    if (shapes.packed_attn || shapes.packed_ffn) && by_default && !config.is_student() {
        // As bitnet.cpp and transformers round the inputs of packed matrices.
        config.quantization_floor = Floor::Least(1e-5);
        assumed.retain(|a| a.setting != "quantization_eps");
    }
    if !(config.use_bitlinear_attn || config.use_bitlinear_ffn) {
        config.quantization_floor = STUDENT.defaults.quantization_floor;
        assumed.retain(|a| a.setting != "quantization_eps");
    }
    // With a sliding window, attention sees no more than the window.
    if let (None, Some(window)) = (flags.max_seq_len, config.sliding_window) {
        config.max_seq_len = config.max_seq_len.min(window);
    }
    let is_foreign = |role: Role| matches!(role, Role::Layer(..)) && config.shape(role).is_none();
    if let Some((_, tensor)) = names.played().find(|(role, _)| is_foreign(*role)) {
        return Err(foreign(&tensor.name));
    }
    check(&config).map_err(inconsistent)?;
    let assumed = if assumed.is_empty() { Vec::new() } else { vec![Assumption::Settings(assumed)] };
    Ok((config, assumed))
}

/// The checkpoint's own configuration.
fn given(checkpoint: &Checkpoint) -> Result<Given, String> {
    checkpoint.model.given().cloned().map_err(|error| match error {
        ConfigError::Unknown => {
            "is not recognised as a model: it has neither the tensor names of bitnet-student, nor a config.json \
                                 next to it, nor GGUF keys"
                .into()
        }
        ConfigError::Architecture(name) => {
            let classes = TABLE.iter().flat_map(|a| a.classes.iter().copied());
            let gguf = TABLE.iter().filter(|a| !a.classes.is_empty()).flat_map(|a| a.gguf.iter().copied());
            let mut known: Vec<&str> = classes.chain(gguf).collect();
            let mut seen = std::collections::HashSet::new();
            known.retain(|name| seen.insert(*name));
            format!("is a {}; supported are bitnet-student, {}", name.escape_debug(), known.join(", "))
        }
        ConfigError::NotUnderstood(error) => format!("has an invalid config: {error}"),
        other => format!("has an incomplete config: {other}"),
    })
}

/// Whether a GGUF file was written by bitnet-student's original exporter, which wrote norms as F16, as nobody else
/// does, and nothing about what the model computes.
fn of_first_exporter(checkpoint: &Checkpoint, names: &Names<'_>) -> bool {
    matches!(checkpoint.format, ckpt_inspect::Format::Gguf { .. })
        && STUDENT.gguf.contains(&checkpoint.model.architecture.as_str())
        && names.get(Role::FinalNorm).is_some_and(|t| t.dtype == DType::F16)
}

/// Refuses models that compute something which is not supported here. Quantized weights that could be `read` are the
/// matrices that they stand for.
fn refuse(given: &Given, read: bool) -> Result<(), String> {
    if let Some(Activation::Other(name)) = &given.activation {
        return Err(format!("has hidden_act `{}`; only silu and relu2 are supported", name.escape_debug()));
    }
    if let Some(other) = given.quantization.as_ref().filter(|q| !q.is_bitnet()) {
        if let Some(rounding) = &other.other {
            return Err(format!("{rounding}, which is not supported"));
        }
        if !read {
            let method = other.method.as_deref().unwrap_or_default().escape_debug();
            return Err(format!("is said to be quantized by `{method}`, and none of its weights is"));
        }
    }
    match &given.sliding_layers {
        None | Some(SlidingLayers::All) => Ok(()),
        Some(_) => {
            Err("has layers with attention windows of different lengths, which is not supported".into())
        }
    }
}

/// Refuses kinds of rotary scaling that are not supported here.
fn runs(scaling: &RopeScaling) -> Result<(), String> {
    if let Some(missing) = scaling.missing() {
        return Err(format!("has rope_scaling without {missing}"));
    }
    match scaling {
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => Ok(()),
        other => Err(format!(
            "has rope_scaling `{}`; only linear and llama3 are supported (the setting rope_scaling overrides it)",
            other.kind().escape_debug()
        )),
    }
}

fn check(config: &ModelConfig) -> Result<(), String> {
    let positive = |name: &str, x: f64| match x.is_finite() && x > 0.0 {
        true => Ok(()),
        false => Err(format!("{name} is {x}, which must be a positive number")),
    };
    positive("max_seq_len", config.max_seq_len as f64)?;
    positive("rope_base", config.rope_base)?;
    positive("norm_eps", config.norm_eps + f64::MIN_POSITIVE)?;
    positive("quantization_eps", config.quantization_floor.number() + f64::MIN_POSITIVE)?;
    for cap in [config.attn_logit_soft_cap, config.final_logit_soft_cap].into_iter().flatten() {
        positive("a soft cap", cap)?;
    }
    match config.rope_pairing {
        RopePairing::Halves | RopePairing::Neighbours => {}
        other => return Err(format!("pairs rotary elements in an unsupported way: {other:?}")),
    }
    match config.rope_scaling {
        RopeScaling::Linear { factor } => positive("rope_scaling.factor", factor),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            positive("rope_scaling.factor", factor)?;
            positive("rope_scaling.low_freq_factor", low_freq_factor)?;
            positive("rope_scaling.high_freq_factor", high_freq_factor - low_freq_factor)?;
            positive("rope_scaling.original_max_position_embeddings", original_max_position_embeddings)
        }
        _ => Ok(()),
    }
}
