//! What the model computes: sizes from the tensors' shapes; the rest from flags, else from the checkpoint's own
//! configuration (a trainer's `config`, config.json, GGUF keys), else from defaults, which are told.

use ckpt_inspect::meaning::architecture::{Part, Role, STUDENT, TABLE};
use ckpt_inspect::meaning::names::Names;
use ckpt_inspect::meaning::{Activation, ConfigError, Given, RopePairing, RopeScaling, SlidingLayers};
use ckpt_inspect::{Checkpoint, DType, ModelConfig};

use crate::{Error, Result};

/// Sizes of a model stay below this, so that no sum of int8 products leaves i32 and no product of sizes overflows.
const LARGEST: usize = 1 << 16;

/// The configuration of the model in `checkpoint`, and sentences on what had to be assumed. `flags` come first.
///
/// # Errors
/// `Unsupported` for another network, `Inconsistent` when tensors are missing or do not fit each other.
pub fn configuration(
    checkpoint: &Checkpoint,
    names: &Names<'_>,
    flags: &Given,
) -> Result<(ModelConfig, Vec<String>)> {
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
    refuse(&given).map_err(unsupported)?;
    let scaling = flags.rope_scaling.as_ref().or(given.rope_scaling.as_ref());
    scaling.map_or(Ok(()), runs).map_err(unsupported)?;
    let foreign = |name: &str| {
        unsupported(format!(
            "tensor `{}` has no part in this network; further biases, experts and norms are not run",
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
            Err(inconsistent(format!("tensor `{name}` has shape {shape:?}, which no matrix here may have")))
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
    let shapes = names.shapes().ok_or_else(|| inconsistent("its tensors are no model's".into()))?;

    // The heads that a flag gives are heads of that many elements, whatever the configuration says of these.
    if flags.num_heads.is_some() {
        given.head_dim = None;
    }
    let architecture = given.architecture.unwrap_or(&STUDENT);
    let (mut config, mut assumed) = shapes.configure(architecture, &[flags, &given]);
    config.num_layers = names.layers();
    let head_dim = config.head_dim;
    let divides = head_dim >= 2 && q_rows.is_multiple_of(head_dim) && kv_rows.is_multiple_of(head_dim);
    if !divides {
        return Err(of_heads(format!("{q_rows} and {kv_rows} rows of Q and K are no heads of {head_dim}")));
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
            "{num_heads} query heads of {head_dim} do not share {num_kv_heads} KV heads"
        )));
    }
    // What is packed is ternary, whatever is said of it.
    config.use_bitlinear_attn |= shapes.packed_attn;
    config.use_bitlinear_ffn |= shapes.packed_ffn;
    if !(config.use_bitlinear_attn || config.use_bitlinear_ffn) {
        config.quantization_eps = STUDENT.defaults.quantization_eps;
        assumed.retain(|a| a.setting != "quantization_eps");
    }
    // A window that slides is what is seen at most.
    if let (None, Some(window)) = (flags.max_seq_len, config.sliding_window) {
        config.max_seq_len = config.max_seq_len.min(window);
    }
    let is_foreign = |role: Role| matches!(role, Role::Layer(..)) && config.shape(role).is_none();
    if let Some((_, tensor)) = names.played().find(|(role, _)| is_foreign(*role)) {
        return Err(foreign(&tensor.name));
    }
    check(&config).map_err(inconsistent)?;
    let list: Vec<String> = assumed.iter().map(|a| format!("{} {}", a.setting, a.value)).collect();
    let assumed = match list.as_slice() {
        [] => Vec::new(),
        list => vec![format!("not told by names, shapes, config or flags, so assumed: {}", list.join(", "))],
    };
    Ok((config, assumed))
}

/// What the checkpoint's own configuration tells.
fn given(checkpoint: &Checkpoint) -> Result<Given, String> {
    checkpoint.model.given().cloned().map_err(|error| match error {
        ConfigError::Unknown => {
            "is not recognised as a model: neither the student's tensor names, nor a config.json \
                                 beside it, nor GGUF keys"
                .into()
        }
        ConfigError::Architecture(name) => {
            let classes = TABLE.iter().flat_map(|a| a.classes.iter().copied());
            let gguf = TABLE.iter().filter(|a| !a.classes.is_empty()).flat_map(|a| a.gguf.iter().copied());
            let mut known: Vec<&str> = classes.chain(gguf).collect();
            let mut seen = std::collections::HashSet::new();
            known.retain(|name| seen.insert(*name));
            format!("is a {}; the student model and {} are run", name.escape_debug(), known.join(", "))
        }
        ConfigError::NotUnderstood(error) => format!("has a config that is not understood: {error}"),
        other => format!("has a config that does not suffice: {other}"),
    })
}

/// Whether a GGUF file was written by the student's first exporter, which wrote norms as F16, as nobody else does, and
/// nothing on what the student computes.
fn of_first_exporter(checkpoint: &Checkpoint, names: &Names<'_>) -> bool {
    matches!(checkpoint.format, ckpt_inspect::Format::Gguf { .. })
        && STUDENT.gguf.contains(&checkpoint.model.architecture.as_str())
        && names.get(Role::FinalNorm).is_some_and(|t| t.dtype == DType::F16)
}

/// Refuses what is told of a model and is not computed here.
fn refuse(given: &Given) -> Result<(), String> {
    if let Some(Activation::Other(name)) = &given.activation {
        return Err(format!("has hidden_act `{}`; silu is run", name.escape_debug()));
    }
    if let Some(other) = given.quantization.as_ref().filter(|q| !q.is_bitnet()) {
        let method = other.method.as_deref().unwrap_or_default();
        return Err(format!("is quantized by `{}`, which is not run", method.escape_debug()));
    }
    match &given.sliding_layers {
        None | Some(SlidingLayers::All) => Ok(()),
        Some(_) => Err("has layers that see windows of different lengths, which are not run".into()),
    }
}

/// Refuses stretched positions of kinds that are not computed here.
fn runs(scaling: &RopeScaling) -> Result<(), String> {
    if let Some(missing) = scaling.missing() {
        return Err(format!("has rope_scaling without {missing}"));
    }
    match scaling {
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => Ok(()),
        other => Err(format!(
            "has rope_scaling `{}`; linear and llama3 are run (or give --rope-scaling)",
            other.kind().escape_debug()
        )),
    }
}

fn check(config: &ModelConfig) -> Result<(), String> {
    let positive = |name: &str, x: f64| match x.is_finite() && x > 0.0 {
        true => Ok(()),
        false => Err(format!("{name} is {x}, which makes no sense")),
    };
    positive("max_seq_len", config.max_seq_len as f64)?;
    positive("rope_base", config.rope_base)?;
    positive("norm_eps", config.norm_eps + f64::MIN_POSITIVE)?;
    positive("quantization_eps", config.quantization_eps + f64::MIN_POSITIVE)?;
    for cap in [config.attn_logit_soft_cap, config.final_logit_soft_cap].into_iter().flatten() {
        positive("a soft cap", cap)?;
    }
    match config.rope_pairing {
        RopePairing::Halves | RopePairing::Neighbours => {}
        other => return Err(format!("has rotary pairs of a kind that is not run: {other:?}")),
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
