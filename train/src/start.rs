//! Where a run starts from: the model in a checkpoint, and whether it is alive.

use std::path::{Path, PathBuf};

use ckpt_infer::{Names, RopePairing, RopeScaling};
use ckpt_inspect::meaning::architecture::STUDENT;
use ckpt_inspect::meaning::{Assumption, AttentionBias};
use ckpt_inspect::measure::Floor;
use ckpt_inspect::{Checkpoint, ModelConfig, Thresholds, Verdict};

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
    let run = ckpt_infer::configuration(checkpoint, &Names::of(checkpoint), &flags);
    if let Ok((config, _)) = &run
        && (config.rope_scaling != RopeScaling::None || config.rope_pairing != RopePairing::Halves)
    {
        return Err(Error::settings(format!(
            "{path}: its rotary positions are scaled or pair neighbouring elements; only the plain form can be trained"
        )));
    }
    if let Some(student) = &checkpoint.model.student {
        let mut student = student.clone();
        student.use_bitlinear_attn = bitlinear.unwrap_or(student.use_bitlinear_attn);
        student.use_bitlinear_ffn = bitlinear.unwrap_or(student.use_bitlinear_ffn);
        return Ok((student, checkpoint.model.assumed.clone()));
    }
    let (mut config, assumed) =
        run.map_err(|e| Error::settings(format!("{path}: contains no model that can be trained: {e}")))?;
    if config.attention_bias != AttentionBias::None || config.mlp_bias {
        return Err(Error::settings(format!(
            "{path}: contains no model that can be trained: biases are not supported"
        )));
    }
    // Its window is already as long as the longest sequence.
    config.sliding_window = None;
    config.architecture = &STUDENT;
    // Its BitLinears add to their scales.
    config.quantization_floor = Floor::Added(config.quantization_floor.number());
    Ok((config, assumed))
}

/// Checkpoints of a folder that are looked at for a healthy one, newest first.
const LOOKED_AT: usize = 64;

/// Refuses a checkpoint with layers below healthy, and names the last healthy one in its folder.
///
/// # Errors
/// `Collapsed`.
pub(crate) fn refuse_collapsed(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    parameters: &Parameters,
    thresholds: &Thresholds,
) -> Result<()> {
    let health = Health::of(parameters, config, thresholds);
    let unhealthy = health.unhealthy();
    let Some(worst) = unhealthy.first() else { return Ok(()) };
    let std = worst.std.map_or("none".into(), |s| format!("{s:.1e}"));
    let what = format!(
        "{}: {} of {} ternary matrices have collapsed; {} is {} (std {std})",
        checkpoint.path.display(),
        unhealthy.len(),
        health.layers.len(),
        worst.name,
        worst.verdict
    );
    Err(Error::Collapsed(match last_healthy(checkpoint, config, thresholds) {
        Some(path) => format!("{what}. The last healthy checkpoint is {}", path.display()),
        None => format!("{what}. No other checkpoint in its folder is healthy"),
    }))
}

/// The healthy checkpoint of the same model and the latest step up to that of `checkpoint` in its folder, not in
/// subfolders.
fn last_healthy(checkpoint: &Checkpoint, config: &ModelConfig, thresholds: &Thresholds) -> Option<PathBuf> {
    let until = checkpoint.step.as_ref().map_or(u64::MAX, |(step, _)| *step);
    let folder = match checkpoint.path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut others: Vec<(u64, PathBuf)> = ckpt_inspect::find(folder)
        .ok()?
        .into_iter()
        .filter(|path| *path != checkpoint.path && path.parent() == Some(folder))
        .filter_map(|path| Some((ckpt_inspect::step_from_path(&path)?, path)))
        .filter(|(step, _)| *step <= until)
        .collect();
    others.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    let healthy = |path: &Path| {
        let checkpoint = ckpt_inspect::open(path).ok()?;
        let theirs = checkpoint.model.student.as_ref().filter(|theirs| *theirs == config)?;
        let parameters = Parameters::load(theirs, &checkpoint).ok()?;
        let health = Health::of(&parameters, theirs, thresholds);
        Some(health.layers.iter().all(|l| l.verdict == Verdict::Healthy))
    };
    others.into_iter().take(LOOKED_AT).map(|(_, path)| path).find(|path| healthy(path) == Some(true))
}
