//! Blocks taken apart: whole numbers, and what they are multiplied by, for arithmetic on the numbers themselves.

use super::{Block, LARGEST};

/// The bytes of 1 in f16.
pub(super) const ONE: [u8; 2] = [0, 0x3c];
/// The bytes of 0 in f16.
pub(super) const ZERO: [u8; 2] = [0; 2];
/// The most groups of a block.
pub const MOST_GROUPS: usize = 16;

/// What the codes of a block are multiplied by. An element of group `g` is
/// `d * scales[g] * (code - LESS) - dmin * mins[g]`, with [`Split::LESS`] of its type.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Terms {
    /// The factor of the scales, f16.
    pub d: [u8; 2],
    /// The factor of the mins, f16.
    pub dmin: [u8; 2],
    /// The scale of each group, 1 where the type has none.
    pub scales: [i8; MOST_GROUPS],
    /// The min of each group; 0 where the type has none, 1 where there is one for the block.
    pub mins: [i8; MOST_GROUPS],
}

impl Terms {
    /// One scale for the block.
    pub(super) fn scale(d: [u8; 2]) -> Self {
        Terms { d, dmin: ZERO, scales: [1; MOST_GROUPS], mins: [0; MOST_GROUPS] }
    }

    /// One scale for the block, and a number that is added to all elements.
    pub(super) fn scale_and_least(d: [u8; 2], [low, high]: [u8; 2]) -> Self {
        Terms { dmin: [low, high ^ 0x80], mins: [1; MOST_GROUPS], ..Terms::scale(d) }
    }
}

/// A block whose elements are whole numbers, scaled and shifted a group at a time.
pub trait Split<const N: usize>: Block<N> {
    /// Subtracted from codes, which are not negative.
    const LESS: u8;

    /// The block with scales 1 and mins 0, whose elements are its codes less [`Split::LESS`], and its terms.
    fn split(&self) -> (Self, Terms);
}

/// The codes and terms of a block.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Parts {
    /// One code for each element of the block.
    pub codes: [u8; LARGEST],
    /// What they are multiplied by.
    pub terms: Terms,
}

impl Default for Parts {
    fn default() -> Self {
        Parts { codes: [0; LARGEST], terms: Terms::scale(ZERO) }
    }
}

/// Takes apart the block that `bytes` are.
pub(in crate::format::ggml) fn split<const N: usize, B: Split<N>>(bytes: &[u8], parts: &mut Parts) {
    let (bare, terms) = bytemuck::from_bytes::<B>(bytes).split();
    let mut values = [0.0; N];
    bare.decode(&mut values);
    let less = f32::from(B::LESS);
    parts.codes.iter_mut().zip(values).for_each(|(code, value)| *code = (value + less) as i32 as u8);
    parts.terms = terms;
}
