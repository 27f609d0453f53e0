//! The fuzz function over generated input.

use proptest::prelude::*;
use ringfence_tests::fuzz::ring::ring_pages;

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_page(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        ring_pages(&data);
    }

    /// An idle ring to begin with, small numbers to scribble: gets past attaching.
    #[test]
    fn idle_page_and_small_numbers(kind in 0u8..7, lane: u8, script in proptest::collection::vec(0u8..40, 0..300)) {
        let mut data = vec![kind, lane, 0, 0, 0];
        data.extend(vec![0; script.len()]);
        data.extend(script);
        ring_pages(&data);
    }
}
