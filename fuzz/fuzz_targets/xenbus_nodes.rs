//! `ringfence_tests::fuzz::blkfront::xenbus_nodes` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_tests::fuzz::blkfront::xenbus_nodes(data));
