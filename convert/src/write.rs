//! From a plan to files, by target.

use std::path::Path;

use ckpt_inspect::DType;
use ckpt_inspect::staged::Control;

use crate::encode::Losses;
use crate::plan::{Options, Plan, Target};
use crate::{Error, Result, gguf, hf, safetensors, torch};

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Bytes of all files.
    pub bytes: u64,
    /// What narrower types could not hold.
    pub losses: Losses,
}

/// Writes `plan`, made with the same `options`, to `path`: a file, or a folder for Hugging Face models and shards. It
/// appears whole or not at all. What was lost on the way is added to the plan's notes.
///
/// # Errors
/// Those of reading the source; `Exists`, `Foreign`, `NoSpace`, `Write` and `Stopped`, which leave `path` as it was.
pub fn write(plan: &mut Plan<'_>, options: &Options, path: &Path, control: Control<'_>) -> Result<Written> {
    let file_name = path.extension().is_some_and(|e| e == "safetensors" || e == "gguf");
    let folder = matches!(plan.target, Target::Hf { .. }) || options.max_shard_bytes.is_some();
    if folder && file_name {
        return Err(Error::Target(format!(
            "{}: a Hugging Face model, or a set of several files, is a folder; name one",
            path.display()
        )));
    }
    if let Some(limit) = options.max_shard_bytes {
        let larger: Vec<_> =
            plan.tensors.iter().filter(|t| plan.blobs[t.blob].bytes > limit).map(|t| &t.name).collect();
        if let Some(first) = larger.first() {
            let note = format!(
                "{} tensors are larger than the {limit} bytes asked for, such as `{}`: each has a file of its own",
                larger.len(),
                first.escape_debug()
            );
            plan.notes.push(note);
        }
    }
    let (bytes, written) = match plan.target {
        Target::Torch | Target::I2s => torch::write(plan, path, options.force, control)?,
        Target::SafeTensors | Target::I2sSafeTensors if !folder => {
            safetensors::write(plan, path, options.force, control)?
        }
        Target::SafeTensors | Target::I2sSafeTensors => {
            safetensors::write_folder(plan, path, options.max_shard_bytes, &[], options.force, control)?
        }
        Target::Gguf(_) => gguf::write(plan, options, path, control)?,
        Target::Hf { .. } => {
            let beside = hf::beside(plan)?;
            safetensors::write_folder(plan, path, options.max_shard_bytes, &beside, options.force, control)?
        }
    };
    let mut losses = Losses::default();
    let mut by_dtype: Vec<(DType, Losses, u64)> = Vec::new();
    for (blob, written) in plan.blobs.iter().zip(&written).filter(|(_, w)| w.losses != Losses::default()) {
        losses += written.losses;
        match by_dtype.iter_mut().find(|(dtype, ..)| *dtype == blob.dtype) {
            Some((_, sum, tensors)) => {
                *sum += written.losses;
                *tensors += 1;
            }
            None => by_dtype.push((blob.dtype, written.losses, 1)),
        }
    }
    for (dtype, sum, tensors) in by_dtype {
        let lost = [(sum.overflowed, "infinite"), (sum.flushed, "zero")];
        let lost: Vec<String> =
            lost.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} became {what}")).collect();
        plan.notes.push(format!(
            "values beyond the range of {dtype}, in {tensors} of {} tensors: {}",
            plan.tensors.len(),
            lost.join(", ")
        ));
    }
    Ok(Written { bytes, losses })
}
