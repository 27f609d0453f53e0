//! `ringfence_tests::fuzz::nbd::nbd_client` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_tests::fuzz::nbd::nbd_client(data));
