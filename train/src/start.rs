//! Where a run starts from: the model in a checkpoint, and whether it is alive.

use std::path::{Path, PathBuf};

use ckpt_infer::{Names, RopePairing, RopeScaling};
use ckpt_inspect::meaning::architecture::{Part, Role, STUDENT};
use ckpt_inspect::meaning::{Activation, Assumption, AttentionBias};
use ckpt_inspect::measure::Floor;
use ckpt_inspect::{Checkpoint, Format, ModelConfig, Thresholds, Verdict};

use crate::{Error, Health, Parameters, Result};

/// The configuration of the model in `checkpoint`, and what was assumed: that of the student, or of an equivalent
/// model in another format. `bitlinear` says whether its projections are BitLinear, if the format does not.
///
/// # Errors
/// `Settings` for a network that cannot be trained here.
pub(crate) fn configuration(
    checkpoint: &Checkpoint,
    bitlinear: Option<bool>,
) -> Result<(ModelConfig, Vec<Assumption>)> {
    let path = checkpoint.path.display();
    let flags = ckpt_infer::Settings::default().with(|s| {
        s.use_bitlinear_attn = bitlinear;
        s.use_bitlinear_ffn = bitlinear;
    });
    let mut run = ckpt_infer::configuration(checkpoint, &Names::of(checkpoint), &flags);
    if let Ok((config, _)) = &mut run
        && matches!(checkpoint.format, Format::Gguf { .. })
    {
        // Their rows are put in order as they are read.
        config.rope_pairing = RopePairing::Halves;
    }
    let cannot =
        |what: String| Error::settings(format!("{path}: contains no model that can be trained: {what}"));
    if let Some(student) = &checkpoint.model.student {
        if let Ok((config, _)) = run {
            plain_positions(&config).map_err(cannot)?;
        }
        let mut student = student.clone();
        student.use_bitlinear_attn = bitlinear.unwrap_or(student.use_bitlinear_attn);
        student.use_bitlinear_ffn = bitlinear.unwrap_or(student.use_bitlinear_ffn);
        return Ok((student, checkpoint.model.assumed.clone()));
    }
    let (config, assumed) = run.map_err(|e| cannot(e.to_string()))?;
    Ok((trainable(config).map_err(cannot)?, assumed))
}

/// Whether the rows of queries and keys are stored in the order of GGUF's Llamas, in which rows that rotate together are
/// neighbours.
pub(crate) fn is_interleaved(checkpoint: &Checkpoint) -> bool {
    let settings = ckpt_infer::Settings::default();
    let run = || ckpt_infer::configuration(checkpoint, &Names::of(checkpoint), &settings);
    matches!(checkpoint.format, Format::Gguf { .. })
        && run().is_ok_and(|(config, _)| config.rope_pairing == RopePairing::Neighbours)
}

/// The model of `checkpoint` as a configuration for a new one. `bitlinear` says whether its projections are BitLinear.
///
/// # Errors
/// `Settings` for a network that cannot be trained here.
pub fn configuration_of(checkpoint: &Checkpoint, bitlinear: Option<bool>) -> Result<ModelConfig> {
    configuration(checkpoint, bitlinear).map(|(config, _)| config)
}

/// `config`, of any architecture that computes what the student does, as a student's; or why it cannot be trained here.
///
/// # Errors
/// What it has that cannot be trained.
pub fn trainable(mut config: ModelConfig) -> Result<ModelConfig, String> {
    plain_positions(&config)?;
    if config.attention_bias != AttentionBias::None || config.mlp_bias {
        return Err("biases are not supported".into());
    }
    if config.activation != Activation::Silu {
        return Err(format!("its activation is {}, and only silu is supported", config.activation.name()));
    }
    let parts = config.tensors().filter_map(|(role, _)| match role {
        Role::Layer(_, part) => Some(part),
        _ => None,
    });
    if let Some(part) = parts.into_iter().find(|part| !STUDENT.has(*part) && !FUSED.contains(part)) {
        return Err(match part {
            Part::Router | Part::GateExperts | Part::UpExperts | Part::DownExperts => {
                "it has experts, which are not supported".into()
            }
            _ => "it has norms within its attention or MLP, which are not supported".into(),
        });
    }
    let scales =
        [config.embedding_scale, config.attention_scale, config.residual_scale, config.logit_divisor];
    if scales.iter().any(Option::is_some) || config.architecture.network != Default::default() {
        return Err(format!("it is a {}, whose scales are not supported", config.architecture.label));
    }
    // Within a window nothing is out of sight.
    config.max_seq_len = config.sliding_window.unwrap_or(usize::MAX).min(config.max_seq_len);
    config.sliding_window = None;
    config.rotated_layers = None;
    config.architecture = &STUDENT;
    // Its BitLinears add to their scales.
    config.quantization_floor = Floor::Added(config.quantization_floor.number());
    Ok(config)
}

/// Parts that are several of the student's, one after another.
const FUSED: [Part; 2] = [Part::Qkv, Part::GateUp];

fn plain_positions(config: &ModelConfig) -> Result<(), String> {
    let all = (0..config.num_layers).all(|layer| config.rotates(layer))
        && config.rotary_dim.is_none()
        && config.local_rope_base.is_none();
    match all && config.rope_scaling == RopeScaling::None && config.rope_pairing == RopePairing::Halves {
        true => Ok(()),
        false => Err("its rotary positions are scaled, pair neighbouring elements or are not those of all layers; only the plain form can be trained".into()),
    }
}

/// Checkpoints of a folder that are looked at for a healthy one, newest first.
const LOOKED_AT: usize = 64;

/// Refuses a checkpoint with NaN or infinity in its weights, or layers below healthy, and names the last healthy one in its folder.
///
/// # Errors
/// `Collapsed`.
pub(crate) fn refuse_collapsed(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    parameters: &Parameters,
    thresholds: &Thresholds,
) -> Result<()> {
    let refused = |what: String| {
        let what = format!("{}: {what}", checkpoint.path.display());
        Err(Error::Collapsed(match last_healthy(checkpoint, config, thresholds) {
            Some(path) => format!("{what}. The last healthy checkpoint is {}", path.display()),
            None => format!("{what}. No other checkpoint in its folder is healthy"),
        }))
    };
    if let Some(what) = lost_numbers(parameters) {
        return refused(what);
    }
    let health = Health::of(parameters, config, thresholds);
    let unhealthy = health.unhealthy();
    let Some(worst) = unhealthy.first() else { return Ok(()) };
    let std = worst.std.map_or("none".into(), |s| format!("{s:.1e}"));
    refused(format!(
        "{} of {} ternary matrices have collapsed; {} is {} (std {std})",
        unhealthy.len(),
        health.layers.len(),
        worst.name,
        worst.verdict
    ))
}

/// That there are NaN and infinity among the weights.
pub(crate) fn lost_numbers(parameters: &Parameters) -> Option<String> {
    let lost = |values: &[f32]| values.iter().filter(|value| !value.is_finite()).count();
    let mut lost = parameters.0.iter().map(|p| (lost(&p.values), p)).filter(|(count, _)| *count > 0);
    let (count, first) = lost.next()?;
    let others = match lost.count() {
        0 => String::new(),
        others => format!(", and so have {others} more tensors"),
    };
    let values = first.values.len();
    Some(format!("{} has NaN or infinity in {count} of its {values} values{others}", first.name))
}

/// The healthy checkpoint of the same model and the latest step up to that of `checkpoint` in its folder, not in
/// subfolders.
fn last_healthy(checkpoint: &Checkpoint, config: &ModelConfig, thresholds: &Thresholds) -> Option<PathBuf> {
    let until = checkpoint.step.as_ref().map_or(u64::MAX, |(step, _)| *step);
    let folder = match checkpoint.path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    last_healthy_in(folder, until, Some(&checkpoint.path), config, thresholds)
}

/// The healthy checkpoint of a model of this `config` and the latest step up to `until` in `folder`, not in subfolders
/// and not `except`.
pub(crate) fn last_healthy_in(
    folder: &Path,
    until: u64,
    except: Option<&Path>,
    config: &ModelConfig,
    thresholds: &Thresholds,
) -> Option<PathBuf> {
    let mut others: Vec<(u64, PathBuf)> = ckpt_inspect::find(folder)
        .ok()?
        .into_iter()
        .filter(|path| Some(path.as_path()) != except && path.parent() == Some(folder))
        .filter_map(|path| Some((ckpt_inspect::step_from_path(&path)?, path)))
        .filter(|(step, _)| *step <= until)
        .collect();
    others.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    let healthy = |path: &Path| {
        let checkpoint = ckpt_inspect::open(path).ok()?;
        let theirs = checkpoint.model.student.as_ref().filter(|theirs| *theirs == config)?;
        let parameters = Parameters::load(theirs, &checkpoint).ok()?;
        let health = Health::of(&parameters, theirs, thresholds);
        let alive = health.layers.iter().all(|l| l.verdict == Verdict::Healthy);
        Some(alive && crate::trainer::is_in_proportion(&parameters))
    };
    others.into_iter().take(LOOKED_AT).map(|(_, path)| path).find(|path| healthy(path) == Some(true))
}
