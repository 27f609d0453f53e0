//! A number that stands for several words, and is the same in every version of this program.

/// FNV-1a of 128 bits. Each word is followed by its length, so that no others have the same bytes.
pub(crate) fn fnv(words: &[&[u8]]) -> u128 {
    let ends = words.iter().map(|word| (word.len() as u64).to_le_bytes());
    let words = words.iter().map(|word| word.iter().copied());
    let bytes = words.zip(ends).flat_map(|(word, end)| word.chain(end));
    bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_word_ends_counts() {
        let lists: [&[&[u8]]; 6] = [&[], &[b""], &[b"a"], &[b"a", b""], &[b"ab"], &[b"a", b"b"]];
        for (number, one) in lists.iter().enumerate() {
            for other in &lists[..number] {
                assert_ne!(fnv(one), fnv(other), "{one:?} {other:?}");
            }
        }
    }
}
