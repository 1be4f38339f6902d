//! Instruction sets that kernels are written for, and whether the processor has them.

/// Instructions beyond those that every processor has. A kernel names the one that it is compiled for, and runs only
/// where that one [is available](InstructionSet::is_available).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstructionSet {
    /// AVX2 with FMA, F16C, POPCNT and BMI1, as since Haswell and Zen.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI, as since Cascade Lake and Zen 4, and [`InstructionSet::Avx2`].
    Avx512Vnni,
    /// AVX-512 F, BW, DQ, VBMI, BITALG and GFNI, as since Ice Lake and Zen 4, and [`InstructionSet::Avx2`].
    Avx512Bitalg,
    /// NEON, as on every 64-bit ARM.
    Neon,
}

impl InstructionSet {
    /// Whether this processor has all of it.
    #[inline]
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            match self {
                InstructionSet::Avx2 => {
                    has!("avx2") && has!("fma") && has!("f16c") && has!("popcnt") && has!("bmi1")
                }
                InstructionSet::Avx512Vnni => {
                    has!("avx512f")
                        && has!("avx512bw")
                        && has!("avx512dq")
                        && has!("avx512vl")
                        && has!("avx512vnni")
                        && InstructionSet::Avx2.is_available()
                }
                InstructionSet::Avx512Bitalg => {
                    has!("avx512f")
                        && has!("avx512bw")
                        && has!("avx512dq")
                        && has!("avx512vbmi")
                        && has!("avx512bitalg")
                        && has!("gfni")
                        && InstructionSet::Avx2.is_available()
                }
                InstructionSet::Neon => false,
            }
        }
        #[cfg(target_arch = "aarch64")]
        return self == InstructionSet::Neon && std::arch::is_aarch64_feature_detected!("neon");
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        return false;
    }
}
