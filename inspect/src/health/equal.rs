//! Layers and experts that hold the same elements. Only tensors that measure the same to the last bit are read a second
//! time, so that where nothing repeats nothing is.

use std::collections::HashMap;

use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::meaning::elements::windows::Windows;
use crate::meaning::role::{Role, family};
use crate::record::{Stats, TensorRecord};
use crate::tensor::TensorInfo;

/// Fewer elements may agree by chance.
const ENOUGH: u64 = 256;
/// Tensors that measure the same and differ, to each of which another one is compared.
const DIFFERENT: usize = 4;

/// Fills `equal_to` of `records`, which are those of the checkpoint's tensors.
pub(super) fn find(checkpoint: &Checkpoint, records: &mut [TensorRecord]) {
    let mut alike: HashMap<(String, [u64; 6]), Vec<usize>> = HashMap::new();
    for i in 0..records.len() {
        let Some(key) = key(&records[i]) else { continue };
        let known = alike.entry((family(&records[i].name), key)).or_default();
        let is_equal = |&&first: &&usize| {
            are_equal(checkpoint, &checkpoint.tensors[first], &checkpoint.tensors[i]) == Some(true)
        };
        match known.iter().find(is_equal) {
            Some(&first) => records[i].equal_to = Some(records[first].name.as_str().into()),
            None if known.len() < DIFFERENT => known.push(i),
            None => {}
        }
    }
}

/// What equal elements have in common; `None` for too few of them, where all are one value, or zeros and ones, and for tied weights, which are
/// equal on purpose: one storage. First factors of adapters may be the same on purpose, second ones begin at zero and learn
/// what their layer does.
fn key(record: &TensorRecord) -> Option<[u64; 6]> {
    let judged = matches!(record.role, Role::Matrix | Role::Convolution | Role::Codes | Role::LoraB);
    let Stats { count, mean, std, min, max, abs_mean, .. } =
        *record.stats.as_ref().filter(|_| judged && record.shared_with.is_empty())?;
    let (mean, std, min, max, abs) = (mean?, std?, min?, max?, abs_mean?);
    (count >= ENOUGH && min < max && !record.is_pattern())
        .then(|| [count, mean.to_bits(), std.to_bits(), min.to_bits(), max.to_bits(), abs.to_bits()])
}

/// Whether the elements of `a` and `b` are the same; `None` where they cannot be read as numbers.
fn are_equal(checkpoint: &Checkpoint, a: &TensorInfo, b: &TensorInfo) -> Option<bool> {
    if let (Some(a), true) = (Windows::of(checkpoint, a), a.dtype == b.dtype && a.shape == b.shape)
        && Windows::of(checkpoint, b).is_some()
    {
        let mut same = true;
        a.each(|window| {
            if same {
                let (start, count) = (window.start as u64, window.elements.len() as u64);
                let other = b.window(start, count).ok_or_else(|| Error::damaged("its size overflows"))?;
                same = *checkpoint.tensor_bytes(&other)? == *window.bytes;
            }
            Ok(())
        })
        .ok()?;
        return Some(same);
    }
    if a.dtype == b.dtype && a.is_contiguous() && b.is_contiguous() && a.scale == b.scale {
        return Some(checkpoint.tensor_bytes(a).ok()? == checkpoint.tensor_bytes(b).ok()?);
    }
    let (a, b) = (checkpoint.elements(a).ok()?, checkpoint.elements(b).ok()?);
    let step = a.step_with(&b);
    let (mut of_a, mut of_b) = (vec![0.0; step], vec![0.0; step]);
    let same = (0..a.len()).step_by(step).all(|at| {
        let n = step.min(a.len() - at);
        a.read_f64(at, &mut of_a[..n]);
        b.read_f64(at, &mut of_b[..n]);
        of_a[..n] == of_b[..n]
    });
    Some(a.len() == b.len() && same)
}
