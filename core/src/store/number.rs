//! Decimal numbers in nodes and requests.

/// An unsigned decimal number: digits only, no sign, no blank, not empty, below 2^64.
pub fn unsigned(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, &byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::unsigned;

    #[test]
    fn only_plain_numbers_pass() {
        assert_eq!(unsigned(b"0"), Some(0));
        assert_eq!(unsigned(b"0042"), Some(42));
        assert_eq!(unsigned(b"18446744073709551615"), Some(u64::MAX));
        for text in [
            "",
            "-1",
            "+1",
            " 1",
            "1 ",
            "0x1",
            "1\0",
            "18446744073709551616",
        ] {
            assert_eq!(unsigned(text.as_bytes()), None, "{text:?}");
        }
    }
}
