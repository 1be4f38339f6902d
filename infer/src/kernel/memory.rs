//! Memory that vectors are loaded from: aligned to the cache line, so that no load touches two of them.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;

/// A cache line, and the unit of packed matrices.
#[derive(Clone, Copy, Debug, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
pub struct Block(pub [u8; 64]);

/// A slice of `T` that begins on a cache line.
#[derive(Clone, Debug, Default)]
pub struct Aligned<T> {
    blocks: Vec<Block>,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Pod> Aligned<T> {
    /// `len` elements, all zero.
    pub fn zeroed(len: usize) -> Self {
        let bytes = len.checked_mul(size_of::<T>()).expect("a slice within the address space");
        Aligned { blocks: bytemuck::zeroed_vec(bytes.div_ceil(64)), len, elements: PhantomData }
    }

    /// Makes it `len` elements long. The values of new elements, and of any that were cut off before, are unspecified.
    pub fn resize(&mut self, len: usize) {
        let blocks = (len * size_of::<T>()).div_ceil(64);
        if blocks > self.blocks.len() {
            self.blocks.resize(blocks, Block([0; 64]));
        }
        self.len = len;
    }
}

impl<T: Pod> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.blocks)[..self.len]
    }
}

impl<T: Pod> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.blocks)[..self.len]
    }
}
