#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ckpt_fuzz::vocabulary(bytes));
