//! Kernels compiled for several processors, and reading ahead.

/// Runs a kernel that is compiled once for any processor and once for AVX2, if the processor has it. Floating-point
/// operations are the same, in the same order, so results are the same bits. The kernel must be `#[inline(always)]`.
macro_rules! with_avx2 {
    ($vis:vis $name:ident$(<const $n:ident: usize, $t:ident: $bound:path>)?($($arg:ident: $type:ty),*) $(-> $out:ty)? = $portable:ident) => {
        $vis fn $name$(<const $n: usize, $t: $bound>)?($($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2$(<const $n: usize, $t: $bound>)?($($arg: $type),*) $(-> $out)? {
                    $portable$(::<$n, $t>)?($($arg),*)
                }
                if ckpt_inspect::InstructionSet::Avx2.is_available() {
                    // SAFETY: the processor has AVX2.
                    return unsafe { avx2$(::<$n, $t>)?($($arg),*) };
                }
            }
            $portable$(::<$n, $t>)?($($arg),*)
        }
    };
}

pub(crate) use with_avx2;

/// Asks for the byte `at` of `bytes`, which will be read soon, to be brought into the cache. It may lie beyond their end.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8], at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address has no effect that a program sees, and every processor of this kind has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at);
}
