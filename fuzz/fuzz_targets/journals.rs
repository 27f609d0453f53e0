//! `ringfence_tests::fuzz::journal::journals` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_tests::fuzz::journal::journals(data));
