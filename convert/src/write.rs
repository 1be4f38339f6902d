//! From a plan to files.

use std::path::Path;

use ckpt_inspect::DType;
use ckpt_inspect::staged::Control;

use crate::encode::Losses;
use crate::note::Note;
use crate::plan::{Options, Plan};
use crate::target::Target;
use crate::{Error, Result};

/// What was written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Written {
    /// Bytes of all files.
    pub bytes: u64,
    /// Values that narrower types could not hold.
    pub losses: Losses,
}

/// Writes `plan`, made with the same `options`, to `path`: a file, or a folder for Hugging Face models and shards. It
/// is written completely or not at all. What was lost on the way is added to the plan's notes.
///
/// # Errors
/// Those of reading the source; `Exists`, `Foreign`, `NoSpace`, `Write` and `Stopped`, which leave `path` as it was.
pub fn write(plan: &mut Plan<'_>, options: &Options, path: &Path, control: Control<'_>) -> Result<Written> {
    let is_file = |t: Target| t.form().splits && path.extension().is_some_and(|e| e == t.form().extension);
    let folder = plan.target.form().extension.is_empty() || options.max_shard_bytes.is_some();
    if folder && Target::all().any(is_file) {
        return Err(Error::target(format!(
            "{}: a Hugging Face model or a set of several files is written to a folder, so its name must not have such an extension",
            path.display()
        )));
    }
    if let Some(limit) = options.max_shard_bytes {
        let larger: Vec<_> =
            plan.tensors.iter().filter(|t| plan.blobs[t.blob].bytes > limit).map(|t| &t.name).collect();
        if let Some(first) = larger.first() {
            let note = Note::LargeTensors { count: larger.len(), first: (*first).clone(), limit };
            plan.notes.push(note);
        }
    }
    let (bytes, written) = (plan.target.form().write)(plan, options, path, control)?;
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
        plan.notes.push(Note::OutOfRange {
            dtype,
            tensors,
            of: plan.tensors.len(),
            infinite: sum.overflowed,
            zero: sum.flushed,
        });
    }
    Ok(Written { bytes, losses })
}
