//! `ringfence_tests::fuzz::ring::ring_pages` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_tests::fuzz::ring::ring_pages(data));
