//! What several ranks have the same of: compared, and one of the copies chosen.

use crate::metadata::{Value, key_text, to_json, whole_json};
use crate::storage::Place;
use crate::tensor::TensorInfo;
use crate::{Notice, NoticeKind};

/// Buffers in which each rank may count what it saw itself: those of batch normalization.
const RUNNING: [&str; 3] = ["running_mean", "running_var", "num_batches_tracked"];

/// Of what several ranks have the same of, the first that can be read; tells of those that differ from it. Each is given
/// with its rank.
pub(super) fn agreed<'t>(
    name: &str,
    copies: &[(usize, &'t TensorInfo)],
    notices: &mut Vec<Notice>,
) -> Option<&'t TensorInfo> {
    let lost = |t: &TensorInfo| match &t.storage {
        Some(storage) => matches!(storage.run().place, Place::Missing { .. }),
        None => true,
    };
    let used = copies.iter().position(|(_, tensor)| !lost(tensor)).unwrap_or(0);
    let &(first, tensor) = copies.get(used)?;
    let running = RUNNING.iter().any(|own| name.rsplit('.').next() == Some(own));
    for &(rank, other) in copies[used + 1..].iter().filter(|(_, other)| !lost(other)) {
        let Some(how) = difference(tensor, other) else { continue };
        let shown = name.escape_debug();
        let again = if rank == first { "another file of " } else { "" };
        let (kind, why) = match running && tensor.shape == other.shape && tensor.dtype == other.dtype {
            true => (NoticeKind::Unlike, ", as running statistics may that are not synchronized"),
            false => (NoticeKind::Contradiction, ""),
        };
        let text = format!(
            "`{shown}`: {again}rank {rank} disagrees with rank {first}{how}{why}; the latter's is used"
        );
        notices.push(Notice::new(kind, text).about(vec![name.to_string()]));
    }
    Some(tensor)
}

/// How two tensors differ that should be equal: by their checksums, and only if these differ or are missing by their
/// bytes.
pub(super) fn difference(a: &TensorInfo, b: &TensorInfo) -> Option<String> {
    if a.shape != b.shape || a.dtype != b.dtype {
        return Some(format!(": {} {:?} is not {} {:?}", b.dtype, b.shape, a.dtype, a.shape));
    }
    let view = |t: &TensorInfo| {
        let run = t.storage.as_ref()?.run();
        Some((run.crc32?, run.len, t.byte_offset, t.strides.clone()))
    };
    if view(a).is_some_and(|a| view(b) == Some(a)) {
        return None;
    }
    let (Ok(a_bytes), Ok(b_bytes)) = (a.bytes(), b.bytes()) else { return None };
    let at = a_bytes.iter().zip(b_bytes.iter()).position(|(a, b)| a != b)?;
    Some(format!(" from element {} on", at / a.dtype.element_size().unwrap_or(1)))
}

/// Tells where the plain values of one rank (or file) differ from those of the `first`: both are below `path` of the
/// checkpoint. What an optimizer, a schedule or a counter of steps has is the same in all; a program may keep other values
/// of each rank. Those that are each rank's own by their names are not looked at.
pub(super) fn disagreement(
    path: &str,
    (first, a): (&str, &Value),
    (other, b): (&str, &Value),
) -> Option<Notice> {
    let mut found = Vec::new();
    compare(path, a, b, &mut found);
    let shared = found.iter().find(|(path, _)| is_shared(path));
    let (path, how) = shared.or(found.first())?;
    let (kind, why) = match shared {
        Some(_) => (NoticeKind::Contradiction, ""),
        None => (NoticeKind::Unlike, ", as what each rank keeps for itself may"),
    };
    let path = path.escape_debug();
    let text =
        format!("{other} disagrees with {first} in the value `{path}`{how}{why}; the latter's is used");
    Some(Notice::new(kind, text))
}

/// Adds where two plain values, which are at `path`, differ, and how.
fn compare(path: &str, a: &Value, b: &Value, found: &mut Vec<(String, String)>) {
    /// Longer ones are not shown.
    const LONGEST: usize = 40;
    /// So many differences are looked at.
    const MOST: usize = 1000;
    if is_of_rank(path) || found.len() >= MOST {
        return;
    }
    let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match (a, b) {
        // Ranks have states of the parameters that they have parts of.
        (Value::Dict(a), Value::Dict(b)) => {
            let both = a.iter().filter_map(|(key, a)| Some((key, a, b.get(key)?)));
            both.for_each(|(key, a, b)| compare(&below(&key_text(key)), a, b, found));
        }
        (Value::List(a) | Value::Tuple(a), Value::List(b) | Value::Tuple(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.for_each(|(i, (a, b))| compare(&below(&i.to_string()), a, b, found));
        }
        // NaN is as it was saved.
        _ if a == b || whole_json(a) == whole_json(b) => {}
        _ => {
            let shown = [a, b].map(|value| to_json(value).to_string());
            let short = shown.iter().all(|text| text.len() <= LONGEST);
            let how = if short { format!(": {} is not {}", shown[1], shown[0]) } else { String::new() };
            found.push((path.to_string(), how));
        }
    }
}

/// Whether what programs call so is each rank's own: random states, and how far it has come in its data.
fn is_of_rank(path: &str) -> bool {
    const WORDS: [&str; 6] = ["rng", "random", "seed", "dataloader", "sampler", "rank"];
    let last = path.rsplit('.').next().unwrap_or(path).to_ascii_lowercase();
    WORDS.iter().any(|word| last.contains(word))
}

/// Whether what programs call so is the same in all ranks.
fn is_shared(path: &str) -> bool {
    const COUNTERS: [&str; 6] = ["step", "steps", "global_step", "global_steps", "iteration", "epoch"];
    let mut parts = path.split('.');
    let last = path.rsplit('.').next().unwrap_or(path);
    COUNTERS.contains(&last)
        || parts.any(|part| part.starts_with("optim") || part == "param_groups" || part.contains("scheduler"))
}
