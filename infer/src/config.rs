//! What the model computes: sizes from the tensors' shapes; the rest from settings, else from the checkpoint's own
//! configuration (a trainer's `config`, config.json, GGUF keys), else from defaults, which are listed.

use ckpt_inspect::meaning::architecture::{Part, Role, STUDENT, TABLE};
use ckpt_inspect::meaning::names::Names;
use ckpt_inspect::meaning::{Activation, ConfigError, Given, RopePairing, RopeScaling, is_of_activations};
use ckpt_inspect::measure::Floor;
use ckpt_inspect::{Checkpoint, DType, ModelConfig, TensorInfo};

use crate::{Assumption, Error, Result};

/// Sizes of a model stay below this, so that no sum of int8 products leaves i32 and no product of sizes overflows.
const LARGEST: usize = 1 << 16;

/// More experts than a layer of any model has.
const MOST_EXPERTS: usize = 1 << 12;

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
    checkpoint.read_long_factors(names, &mut given);
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
    let (of_activations, unused): (Vec<&TensorInfo>, Vec<&TensorInfo>) =
        names.unused.iter().copied().partition(|tensor| read && is_of_activations(&tensor.name));
    if let Some(tensor) = unused.first() {
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
    let architecture = given.architecture.unwrap_or(&STUDENT);
    let mut most_rows = 0;
    for part in [Part::Q, Part::K, Part::Qkv, Part::Gate, Part::GateUp] {
        // Stacks of experts are looked at when they are loaded.
        if architecture.has(part) {
            most_rows = matrix(Role::Layer(0, part))?.0.max(most_rows);
        }
    }
    if vocab_size > u32::MAX as usize || most_rows > 2 * LARGEST {
        return Err(inconsistent(format!("a matrix has more than {} rows", 2 * LARGEST)));
    }
    let shapes = names.shapes().ok_or_else(|| inconsistent("its tensors do not form a model".into()))?;

    // A head size given by an option overrides the one in the configuration.
    if flags.num_heads.is_some() {
        given.head_dim = None;
    }
    let (mut config, mut assumed) = shapes.configure(architecture, &[flags, &given]);
    config.num_layers = names.layers();
    let found = config.num_layers;
    if let Some(promised) = given.num_layers.filter(|promised| *promised > found) {
        return Err(inconsistent(format!(
            "it should have {promised} layers, and has {found} without a gap from the first on"
        )));
    }
    if let Some(promised) = given.num_layers.filter(|promised| *promised < found) {
        return Err(inconsistent(format!(
            "its configuration has {promised} layers, and {found} are there: which of them count is unclear"
        )));
    }
    let head_dim = config.head_dim;
    let divides = match shapes.fused {
        None => [shapes.queries, shapes.keys].iter().all(|rows| rows.is_multiple_of(head_dim.max(1))),
        Some(rows) => rows == (config.num_heads + 2 * config.num_kv_heads) * head_dim,
    };
    if !divides || head_dim < 2 || config.num_kv_heads == 0 {
        let rows = match shapes.fused {
            None => format!("{} rows of Q and {} rows of K", shapes.queries, shapes.keys),
            Some(rows) => format!("{rows} rows of Q, K and V"),
        };
        return Err(of_heads(format!("the {rows} do not divide into heads of {head_dim}")));
    }
    let widest = config.mlp_hidden_dim.max(config.num_heads * head_dim);
    if widest > LARGEST {
        return Err(inconsistent(format!("a layer is wider than {LARGEST}")));
    }
    let (num_heads, num_kv_heads) = (config.num_heads, config.num_kv_heads);
    for (name, flag, found) in
        [("head_dim", flags.head_dim, head_dim), ("num_heads", flags.num_heads, num_heads)]
    {
        if let Some(flag) = flag.filter(|flag| *flag != found) {
            return Err(of_heads(format!("{name} is {found} by its tensors' shapes, not {flag}")));
        }
    }
    // Heads of another size than the configuration has would divide queries and keys otherwise.
    let of_flags = flags.num_heads.is_some() || flags.head_dim.is_some();
    let is_dense = [Part::Gate, Part::GateUp].iter().any(|part| architecture.has(*part));
    let own = [
        ("attention heads", given.num_heads.filter(|_| !of_flags), num_heads),
        ("KV heads", given.num_kv_heads.filter(|_| !of_flags), num_kv_heads),
        ("columns", given.hidden_dim, config.hidden_dim),
        ("columns within the MLP", given.mlp_hidden_dim.filter(|_| is_dense), config.mlp_hidden_dim),
    ];
    for (what, promised, found) in own {
        if let Some(promised) = promised.filter(|promised| *promised != found) {
            return Err(inconsistent(format!(
                "its configuration says {promised} {what}, and the shapes of its tensors {found}; it may be another model's configuration"
            )));
        }
    }
    if architecture.has(Part::QNorm) && !config.is_student() && !config.use_qk_norm {
        let name = names.called(Role::Layer(0, Part::QNorm));
        return Err(inconsistent(format!("tensor `{name}` is missing")));
    }
    if head_dim % 2 != 0 || !num_heads.is_multiple_of(num_kv_heads) {
        return Err(of_heads(format!(
            "{num_heads} query heads of {head_dim} cannot be shared out among {num_kv_heads} KV heads"
        )));
    }
    // Packed matrices are ternary, even if the configuration says otherwise.
    config.use_bitlinear_attn |= shapes.packed_attn;
    config.use_bitlinear_ffn |= shapes.packed_ffn;
    if names_codes_by_type(checkpoint) && !config.is_student() && (shapes.packed_attn || shapes.packed_ffn) {
        // Where one is packed all are ternary, in other blocks where their rows do not fill these.
        (config.use_bitlinear_attn, config.use_bitlinear_ffn) = (true, true);
    }
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
    let is_foreign = |role: Role| matches!(role, Role::Layer(..)) && config.shape(role).is_none();
    if let Some((_, tensor)) = names.played().find(|(role, _)| is_foreign(*role)) {
        return Err(foreign(&tensor.name));
    }
    check(&config).map_err(inconsistent)?;
    let mut assumed = if assumed.is_empty() { Vec::new() } else { vec![Assumption::Settings(assumed)] };
    if !of_activations.is_empty() {
        assumed.push(Assumption::PlainActivations);
    }
    Ok((config, assumed))
}

/// Whether it is a GGUF file that shows by the types of its tensors alone which of them hold ternary codes. They do in every such
/// file, whoever wrote it, unless it says that its weights are the float ones (`ckpt.latent`).
pub(crate) fn names_codes_by_type(checkpoint: &Checkpoint) -> bool {
    let given = checkpoint.model.given().ok();
    let is_told = |given: &Given| {
        given.latent == Some(true)
            || [given.use_bitlinear_attn, given.use_bitlinear_ffn].contains(&Some(true))
    };
    matches!(checkpoint.format, ckpt_inspect::Format::Gguf { .. }) && !given.is_some_and(is_told)
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
        return Err(format!(
            "has hidden_act `{}`; supported are silu, relu2, gelu and gelu_pytorch_tanh",
            name.escape_debug()
        ));
    }
    if let Some(unread) = &given.unread {
        return Err(format!("{unread}; that is not supported"));
    }
    if let Some(other) = given.quantization.as_ref().filter(|q| !q.is_bitnet()) {
        if let Some(rounding) = &other.other {
            return Err(format!("{rounding}, which is not supported"));
        }
        if !read {
            let method = other.method.as_deref().unwrap_or_default().escape_debug();
            return Err(format!(
                "is quantized by `{method}` according to its configuration, but none of its weights is"
            ));
        }
    }
    Ok(())
}

/// Refuses kinds of rotary scaling that are not supported here.
fn runs(scaling: &RopeScaling) -> Result<(), String> {
    if let Some(missing) = scaling.missing() {
        return Err(format!("has rope_scaling without {missing}"));
    }
    match scaling {
        RopeScaling::None
        | RopeScaling::Linear { .. }
        | RopeScaling::Llama3 { .. }
        | RopeScaling::Yarn { .. }
        | RopeScaling::LongRope { .. } => Ok(()),
        other => Err(format!(
            "has rope_scaling `{}`; supported are linear, llama3, yarn and longrope (the setting rope_scaling overrides it)",
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
    for scale in [config.embedding_scale, config.residual_scale, config.logit_divisor, config.attention_scale]
    {
        positive("a scale or multiplier", scale.unwrap_or(1.0))?;
    }
    positive("the base of local layers", config.local_rope_base.unwrap_or(1.0))?;
    positive("sliding_window", config.sliding_window.unwrap_or(1) as f64)?;
    if let Some(experts) = config.experts {
        if !(1..=LARGEST).contains(&experts.hidden_dim) || !(1..=MOST_EXPERTS).contains(&experts.count) {
            return Err(format!("has {} experts of width {}", experts.count, experts.hidden_dim));
        }
        if !(1..=experts.count).contains(&experts.used) {
            return Err(format!("uses {} of {} experts", experts.used, experts.count));
        }
    }
    let rotary = config.rotary_dim.unwrap_or(config.head_dim);
    if rotary > config.head_dim || rotary < 2 || !rotary.is_multiple_of(2) {
        return Err(format!("rotates {rotary} of the {} elements of a head", config.head_dim));
    }
    match config.rope_scaling {
        RopeScaling::Linear { factor } => positive("rope_scaling.factor", factor),
        RopeScaling::Yarn { factor, original_max_position_embeddings, .. } => {
            positive("rope_scaling.factor", factor)?;
            positive("rope_base - 1", config.rope_base - 1.0)?;
            let (fast, slow, _) = config.rope_scaling.yarn_bounds();
            positive("rope_scaling.beta_slow", slow)?;
            positive("rope_scaling.beta_fast", fast)?;
            positive("rope_scaling.attention_factor", config.rope_scaling.attention_factor(1.0))?;
            let original = original_max_position_embeddings.unwrap_or(1.0);
            positive("rope_scaling.original_max_position_embeddings", original)
        }
        RopeScaling::LongRope {
            ref short_factor, ref long_factor, original_max_position_embeddings, ..
        } => {
            for factors in [short_factor, long_factor] {
                if factors.len() != rotary / 2 {
                    let n = factors.len();
                    return Err(format!("has {n} rotary factors for {} pairs", rotary / 2));
                }
                factors.iter().try_for_each(|factor| positive("a rotary factor", *factor))?;
            }
            let longest = config.max_seq_len as f64;
            positive("rope_scaling.attention_factor", config.rope_scaling.attention_factor(longest))?;
            let original = original_max_position_embeddings.unwrap_or(2.0);
            positive("rope_scaling.original_max_position_embeddings - 1", original - 1.0)
        }
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
