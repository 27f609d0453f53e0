//! `ringfence_tests::fuzz::blkfront::frontend_responses` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_tests::fuzz::blkfront::frontend_responses(data));
