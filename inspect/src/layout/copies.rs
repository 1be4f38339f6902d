//! What several ranks have the same of: compared, and one of the copies chosen.

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
