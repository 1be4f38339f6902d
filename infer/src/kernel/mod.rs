//! The fastest arithmetic for the processor, chosen at run time: packed matrices, vectors of sixteen f32, and
//! the threads they run on. The only unsafe code of the crate is in this folder.

pub mod activation;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod coded;
pub mod float;
mod memory;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod packed;
pub mod pool;
mod portable;
pub mod product;
pub mod simd;
pub mod six;
#[cfg(target_arch = "x86_64")]
mod widened;

pub use memory::{Aligned, Block};
use simd::{Simd, Work};

/// The instruction set that a model runs with.
#[derive(Clone, Copy, Debug)]
pub struct Kernel(Set);

#[derive(Clone, Copy, Debug)]
enum Set {
    Portable(portable::Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
}

impl Kernel {
    /// Every instruction set that this processor has, the fastest first and the portable one last.
    pub fn available() -> Vec<Kernel> {
        let sets = [
            #[cfg(target_arch = "x86_64")]
            avx512::Avx512::with_amx().map(Set::Avx512),
            #[cfg(target_arch = "x86_64")]
            avx512::Avx512::new().map(Set::Avx512),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::new().map(Set::Avx2),
            #[cfg(target_arch = "aarch64")]
            neon::Neon::new().map(Set::Neon),
            Some(Set::Portable(portable::Portable)),
        ];
        sets.into_iter().flatten().map(Kernel).collect()
    }

    /// The fastest instruction set that this processor has.
    pub fn best() -> Kernel {
        Kernel::available()[0]
    }

    /// Its name: `amx` (and AVX-512 with it), `avx512`, `avx2`, `neon` or `portable`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => simd.name(),
            #[cfg(target_arch = "aarch64")]
            Set::Neon(_) => "neon",
        }
    }

    /// Runs `work` with the instruction set.
    #[inline]
    pub(crate) fn run<W: Work>(self, work: W) -> W::Output {
        match self.0 {
            Set::Portable(simd) => simd.run(work),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(simd) => simd.run(work),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => simd.run(work),
            #[cfg(target_arch = "aarch64")]
            Set::Neon(simd) => simd.run(work),
        }
    }
}
