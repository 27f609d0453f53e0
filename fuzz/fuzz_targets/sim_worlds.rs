//! `ringfence_tests::fuzz::worlds::sim_worlds` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_tests::fuzz::worlds::sim_worlds(data));
