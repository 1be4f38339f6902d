//! Local state dicts of FSDP's first version (`LOCAL_STATE_DICT`): each rank has a part of a flat vector, and with
//! `use_orig_params` beside it, under the names of the parameters, the pieces of them that lie in that part. Shapes of
//! parameters are not saved: pieces are joined as vectors.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::tensor::{Division, Share, TensorInfo};

/// Names of the flat vectors.
const FLAT: [&str; 2] = ["_flat_param", "flat_param"];

/// Whether a tensor of this name is a flat vector.
pub(super) fn is_flat(name: &str) -> bool {
    FLAT.iter().any(|own| name.rsplit('.').next() == Some(own))
}

/// Whether `tensor` is a piece of a parameter.
pub(super) fn is_piece(tensor: &TensorInfo) -> bool {
    tensor.share.as_ref().is_some_and(|share| matches!(share.division, Division::Piece(_)))
}

/// Marks those of a rank's `tensors` that are pieces of parameters: vectors within the rank's part of a flat one.
pub(super) fn mark(tensors: &mut [TensorInfo]) {
    let flats: Vec<(TensorInfo, usize)> = tensors
        .iter()
        .filter(|tensor| is_flat(&tensor.name) && tensor.shape.len() == 1 && tensor.is_contiguous())
        .filter_map(|tensor| match &tensor.share.as_ref()?.division {
            Division::Block { offsets, .. } => Some((tensor.clone(), *offsets.first()?)),
            _ => None,
        })
        .collect();
    for tensor in tensors.iter_mut().filter(|tensor| tensor.share.is_none()) {
        let place = flats.iter().find_map(|(flat, at)| within(tensor, flat)?.checked_add(*at));
        if let Some(place) = place {
            tensor.share =
                Some(Arc::new(Share { whole: Vec::new(), division: Division::Piece(place), number: 0 }));
        }
    }
}

/// The element of `flat` that the vector `tensor` begins with, if it lies within it.
fn within(tensor: &TensorInfo, flat: &TensorInfo) -> Option<usize> {
    let (&[len], &[all]) = (&tensor.shape[..], &flat.shape[..]) else { return None };
    let same = tensor.storage.is_some() && tensor.storage == flat.storage && tensor.dtype == flat.dtype;
    let width = tensor.dtype.element_size()? as u64;
    let bytes = tensor.byte_offset.checked_sub(flat.byte_offset)?;
    let at = usize::try_from(bytes / width).ok()?;
    let inside = at.checked_add(len).is_some_and(|end| end <= all) && bytes % width == 0;
    (same && len > 0 && inside && tensor.is_contiguous()).then_some(at)
}

/// `parts`, those that ranks have of one parameter, as blocks of a vector, if they are pieces. Ranks that have nothing of
/// it are left out.
///
/// # Errors
/// What is wrong with them, where they cannot be joined.
pub(super) fn as_blocks(mut parts: Vec<(usize, TensorInfo)>) -> Result<Vec<(usize, TensorInfo)>, String> {
    if !parts.iter().any(|(_, tensor)| is_piece(tensor)) {
        return Ok(parts);
    }
    parts.retain(|(_, tensor)| tensor.share.is_some() || tensor.numel() > 0);
    let places: Option<Vec<(usize, usize)>> = parts
        .iter()
        .map(|(_, tensor)| match &tensor.share.as_ref()?.division {
            Division::Piece(at) => Some((*at, *tensor.shape.first()?)),
            _ => None,
        })
        .collect();
    let places = places.ok_or("some ranks have a piece of it, and some all")?;
    let start = places.iter().map(|(at, _)| *at).min().unwrap_or(0);
    let end = places.iter().map(|(at, len)| at + len).max().unwrap_or(0);
    let all: BTreeSet<(usize, usize)> = places.iter().copied().collect();
    let all = Arc::new(all.into_iter().map(|(at, len)| (vec![at - start], vec![len])).collect());
    for ((_, tensor), (at, _)) in parts.iter_mut().zip(places) {
        let division = Division::Block { offsets: vec![at - start], all: Arc::clone(&all) };
        tensor.share = Some(Arc::new(Share { whole: vec![end - start], division, number: 0 }));
    }
    Ok(parts)
}
