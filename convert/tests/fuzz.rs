//! Any bytes at all, some thousands of them: the targets of `fuzz/` on changes of files of every format. In a process of
//! its own, so that the allocator's peak is its own.
//!
//! The same cases run each time. `CKPT_FUZZ_CASES` sets how many, `CKPT_FUZZ_SEED` which.

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use ckpt_inspect::{Format, open_bytes};
use ckpt_kit::random::Random;
use fuzz::mutate::mutate;
use fuzz::{TARGETS, Target, seeds};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// More than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a case may allocate, whatever its bytes announce, and for each of its bytes.
const MEMORY: (usize, usize) = (96 << 20, 256);

fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, and is {text:?}"))
    })
}

/// Runs `target` on `bytes`, which are kept where they can be looked at if the process does not survive them.
fn case(target: &Target, what: &str, bytes: &[u8]) {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
    std::fs::write(&kept, bytes).unwrap();
    let (begun, before) = (Instant::now(), ALLOCATOR.current_usage());
    ALLOCATOR.reset_peak_usage();
    let survived = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_ok();
    let used = ALLOCATOR.peak_usage().saturating_sub(before);
    let told = format!("{}, {what}; its bytes are in {}", target.name, kept.display());
    assert!(survived, "panics: {told}");
    assert!(used <= MEMORY.0 + MEMORY.1 * bytes.len(), "takes {} MiB: {told}", used >> 20);
    assert!(begun.elapsed() < PATIENCE, "takes {:?}: {told}", begun.elapsed());
    std::fs::remove_file(&kept).unwrap();
}

/// All in one test: whatever runs beside it would count as its memory.
#[test]
fn any_bytes_give_an_answer_or_a_typed_error() {
    // A new format has no place in the list of seeds without being made there, and its seed is what it says.
    let all: BTreeSet<String> = Format::all().map(Format::name).collect();
    let opened = seeds::checkpoints().into_iter().filter_map(|seed| {
        let checkpoint = open_bytes(&seed.name, seed.bytes).ok()?;
        assert!(
            !all.contains(&seed.name) || !checkpoint.is_damaged(),
            "{}: {:?}",
            seed.name,
            checkpoint.damage
        );
        Some(checkpoint.format.name())
    });
    assert_eq!(opened.collect::<BTreeSet<_>>(), all);

    let cases = setting("CKPT_FUZZ_CASES", 8000);
    let first = setting("CKPT_FUZZ_SEED", 1);
    for target in &TARGETS {
        let seeds = (target.seeds)();
        for seed in &seeds {
            case(target, &seed.name, &seed.bytes);
            let cuts = (seed.bytes.len() / 200).max(1);
            for end in (0..seed.bytes.len()).step_by(cuts) {
                case(target, &format!("{} cut to {end} bytes", seed.name), &seed.bytes[..end]);
            }
        }
        for i in 0..cases / TARGETS.len() as u64 {
            let mut random = Random::new(first.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i));
            let seed = &seeds[i as usize % seeds.len()];
            let bytes = mutate(&mut random, &seed.bytes, &seeds);
            case(target, &format!("case {i} of CKPT_FUZZ_SEED={first}, made of {}", seed.name), &bytes);
        }
    }
}
