//! `ringfence_tests::fuzz::blkback::backend_requests` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_tests::fuzz::blkback::backend_requests(data));
