//! Kernels compiled for several processors.

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
