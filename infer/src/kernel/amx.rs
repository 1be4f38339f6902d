//! AMX: ternary tiles times blocks of tokens in the processor's tile registers, which multiply 16 x 64 by 64 x 16 int8
//! in one instruction.
//!
//! Rust has no stable intrinsics for them, so they are written out; the compiler never uses these registers itself.

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::memory::Block;
use super::simd::LANES;

/// Tokens that are multiplied together: two tile registers.
const TOKENS: usize = 32;
/// Fewer are multiplied sooner without.
const FEWEST: usize = 16;
/// Columns that one instruction multiplies.
const STEP: usize = 64;
/// Blocks of a [`super::packed::Ternary`] matrix that hold so many columns.
const STEP_BLOCKS: usize = STEP / LANES;

/// The processor has AMX int8, and the system lets this process use it.
#[derive(Clone, Copy, Debug)]
pub struct Amx(());

impl Amx {
    /// The token, where there are the instructions.
    pub fn new() -> Option<Self> {
        static IS_ALLOWED: OnceLock<bool> = OnceLock::new();
        IS_ALLOWED.get_or_init(|| has_instructions() && is_permitted()).then_some(Amx(()))
    }
}

/// Bits 24 and 25 of leaf 7: tiles, and products of int8.
fn has_instructions() -> bool {
    const BOTH: u32 = 3 << 24;
    #[allow(unused_unsafe)] // Newer compilers know that it is safe.
    // SAFETY: every processor of 64 bits has the instruction.
    let (leaves, seventh) = unsafe { (__cpuid(0).eax, __cpuid_count(7, 0)) };
    leaves >= 7 && seventh.edx & BOTH == BOTH
}

/// Asks Linux to keep the tile registers of this process' threads, which are large: it does so on request only.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: a system call that changes nothing but what the kernel saves of this process, and touches no memory.
    unsafe {
        asm!(
            "syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA, out("rcx") _, out("r11") _, options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The activations of up to [`TOKENS`] tokens, for every [`STEP`] columns those of each token, padded with zeros; and
/// this thread's tile registers.
pub struct Tokens {
    steps: Vec<[Block; TOKENS]>,
    /// The registers are those of the thread that set them up.
    thread: PhantomData<*const ()>,
}

impl Tokens {
    /// Takes the activations, and sets up the registers until it is dropped. `None` for too few tokens, or too many.
    pub fn new<'x>(_: Amx, tokens: impl ExactSizeIterator<Item = &'x [i8]>) -> Option<Self> {
        if !(FEWEST..=TOKENS).contains(&tokens.len()) {
            return None;
        }
        let mut steps = Vec::new();
        for (t, x) in tokens.enumerate() {
            steps.resize(steps.len().max(x.len().div_ceil(STEP)), [Block([0; STEP]); TOKENS]);
            for (step, x) in steps.iter_mut().zip(x.chunks(STEP)) {
                step[t].0[..x.len()].copy_from_slice(bytemuck::cast_slice(x));
            }
        }
        // Palette 1; bytes of a row from byte 16 on, rows from byte 48 on, of five registers.
        let mut shape = Block([0; 64]);
        shape.0[0] = 1;
        for register in 0..5 {
            shape.0[16 + 2 * register] = 64;
            shape.0[48 + register] = 16;
        }
        // SAFETY: the token, and a valid shape.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shape, options(nostack, readonly)) };
        Some(Tokens { steps, thread: PhantomData })
    }

    /// Sums of code times activation over one tile of a ternary matrix; element `[m][r]` is of token m and row r.
    pub fn ternary(&self, tile: &[Block]) -> [[i32; LANES]; TOKENS] {
        assert!(tile.len().div_ceil(STEP_BLOCKS) <= self.steps.len());
        // SAFETY: a processor with AMX has AVX-512, and the registers are set up.
        unsafe { self.multiply(tile) }
    }

    /// # Safety
    /// The registers are set up.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn multiply(&self, tile: &[Block]) -> [[i32; LANES]; TOKENS] {
        /// Steps whose codes are unpacked before they are read again.
        const AHEAD: usize = 4;
        let mut codes = [[Block([0; 64]); LANES]; AHEAD];
        let three = _mm512_set1_epi8(3);
        // SAFETY: the caller's promise. Nothing but these lines uses the registers, which keep what they hold.
        unsafe {
            asm!("tilezero tmm0", "tilezero tmm1", out("tmm0") _, out("tmm1") _, options(nostack, nomem))
        };
        for (n, (blocks, x)) in tile.chunks(STEP_BLOCKS).zip(&self.steps).enumerate() {
            let codes = &mut codes[n % AHEAD];
            for (block, codes) in blocks.iter().zip(codes.as_chunks_mut::<4>().0) {
                // SAFETY: blocks are 64 bytes, aligned.
                unsafe {
                    let w = _mm512_load_si512(block.0.as_ptr().cast());
                    let planes =
                        [w, _mm512_srli_epi32::<2>(w), _mm512_srli_epi32::<4>(w), _mm512_srli_epi32::<6>(w)];
                    for (plane, codes) in planes.into_iter().zip(codes) {
                        _mm512_store_si512(codes.0.as_mut_ptr().cast(), _mm512_and_si512(plane, three));
                    }
                }
            }
            // SAFETY: sixteen rows of 64 bytes each; where the last blocks are missing, codes are multiplied by
            // activations of zero.
            unsafe {
                asm!(
                    "tileloadd tmm4, [{codes} + {row}]",
                    "tileloadd tmm2, [{first} + {row}]",
                    "tdpbssd tmm0, tmm2, tmm4",
                    "tileloadd tmm3, [{second} + {row}]",
                    "tdpbssd tmm1, tmm3, tmm4",
                    codes = in(reg) codes.as_ptr(),
                    first = in(reg) x.as_ptr(),
                    second = in(reg) x.as_ptr().add(LANES),
                    row = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _,
                    options(nostack, readonly),
                );
            }
        }
        let mut out = [[0; LANES]; TOKENS];
        // SAFETY: 32 rows of 64 bytes.
        unsafe {
            asm!(
                "tilestored [{first} + {row}], tmm0",
                "tilestored [{second} + {row}], tmm1",
                first = in(reg) out.as_mut_ptr(),
                second = in(reg) out.as_mut_ptr().add(LANES),
                row = in(reg) 64usize,
                options(nostack),
            );
        }
        out
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        // SAFETY: as it was before.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
