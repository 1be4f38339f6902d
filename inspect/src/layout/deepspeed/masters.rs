//! Whether fp32 weights are those that the module's own copies were rounded from. After every step DeepSpeed writes the
//! weights of the optimizer, rounded to the module's type, into the module, and saves both: files of two saves differ.

use half::{bf16, f16};

use crate::tensor::TensorInfo;
use crate::{DType, Damage, DamageKind};

/// Elements that are compared at the beginning of a weight and in its middle. A step changes most of them.
const WINDOW: u64 = 512;
/// Weights that are compared, and those among them that have to be fetched.
const MOST: usize = 4096;
const MOST_FETCHED: usize = 16;

/// What a comparison found.
#[derive(Default)]
pub(super) struct Compared {
    /// Weights that could be compared.
    pub count: usize,
    /// Those that differ: the names, and the first element in which it was seen.
    unlike: Vec<(String, usize)>,
}

impl Compared {
    /// Compares fp32 weights with copies of the same shape.
    pub fn of<'t>(pairs: impl Iterator<Item = (&'t TensorInfo, &'t TensorInfo)>) -> Self {
        let whole = |tensor: &TensorInfo| tensor.damage.is_none() && tensor.storage.is_some();
        let pairs: Vec<_> = pairs
            .filter(|(master, copy)| master.shape == copy.shape && copy.numel() > 0)
            .filter(|(master, copy)| whole(master) && whole(copy))
            .collect();
        let mut found = Compared::default();
        let mut fetched = 0;
        for (master, copy) in pairs.iter().step_by(pairs.len().div_ceil(MOST).max(1)) {
            fetched += usize::from(copy.borrowed().is_none());
            if fetched > MOST_FETCHED {
                break;
            }
            if let Some(difference) = difference(master, copy) {
                found.count += 1;
                found.unlike.extend(difference.map(|at| (master.name.clone(), at)));
            }
        }
        found
    }

    /// That some differ, where `masters` says which files have the fp32 weights.
    pub fn damage(&self, masters: &str) -> Option<Damage> {
        let (name, at) = self.unlike.first()?;
        let what = format!(
            "the fp32 weights of {} of {} parameters are not those of the module, such as `{}` from element {at} on: {masters} and the model states come from different saves",
            self.unlike.len(),
            self.count,
            name.escape_debug()
        );
        Some(Damage::new(DamageKind::Inconsistent, what))
    }
}

/// Where two tensors of one shape differ among the elements that are looked at; nothing if they cannot be compared.
fn difference(master: &TensorInfo, copy: &TensorInfo) -> Option<Option<usize>> {
    let count = master.numel();
    let windows = match count <= 2 * WINDOW {
        true => vec![(0, count)],
        false => vec![(0, WINDOW), (count / 2, WINDOW)],
    };
    let agree = agreement(master.dtype, copy.dtype)?;
    for (start, len) in windows {
        let (master, copy) = (master.stretch(start, len)?, copy.stretch(start, len)?);
        let (bytes, copied) = (master.bytes().ok()?, copy.bytes().ok()?);
        let (size, width) = (master.dtype.element_size()?, copy.dtype.element_size()?);
        let mut both = bytes.chunks_exact(size).zip(copied.chunks_exact(width));
        if let Some(at) = both.position(|(master, copy)| !agree(master, copy)) {
            return Some(Some(start as usize + at));
        }
    }
    Some(None)
}

/// Whether the bytes of an element are what another one, of the optimizer, is rounded to.
type Agree = fn(&[u8], &[u8]) -> bool;

fn agreement(master: DType, copy: DType) -> Option<Agree> {
    Some(match (master, copy) {
        (DType::F32, DType::BF16) => |master, copy| {
            let (master, copy) = (bf16::from_f32(f32_of(master)), bf16::from_bits(u16_of(copy)));
            master.to_bits() == copy.to_bits() || (master.is_nan() && copy.is_nan())
        },
        (DType::F32, DType::F16) => |master, copy| {
            let (master, copy) = (f16::from_f32(f32_of(master)), f16::from_bits(u16_of(copy)));
            master.to_bits() == copy.to_bits() || (master.is_nan() && copy.is_nan())
        },
        (DType::F32, DType::F32) => {
            |master, copy| master == copy || (f32_of(master).is_nan() && f32_of(copy).is_nan())
        }
        (one, two) if one == two => |master, copy| master == copy,
        _ => return None,
    })
}

fn f32_of(bytes: &[u8]) -> f32 {
    bytes.try_into().map_or(0.0, f32::from_le_bytes)
}

fn u16_of(bytes: &[u8]) -> u16 {
    bytes.try_into().map_or(0, u16::from_le_bytes)
}
