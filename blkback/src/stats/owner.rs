//! How words go from one device to another under the eyes of a reader, who is never told the numbers of one as the other's.

use ringfence_core::{Words, weakened};

use super::layout::{OWNER, SEQUENCE, STATE, WORDS};

/// A reader that finds the words changing owner looks again so often: it takes the writer microseconds, or for ever.
const LOOKS: usize = 16;

/// Gives the words to an owner, with zeros. Nobody else may write to them meanwhile.
pub fn enter<W: Words>(words: &W, owner: u64) {
    // Odd already where a process died in here.
    let odd = words.load(SEQUENCE) | 1;
    words.store(SEQUENCE, odd);
    if !weakened!("xsa_528_zeros") {
        for at in STATE..words.len().min(WORDS) {
            words.store(at, 0);
        }
    }
    words.store(OWNER, owner);
    words.store(SEQUENCE, odd.wrapping_add(1));
}

/// Who owns the words, and what `read` says of them. `None` if nobody does, or they do not come to rest.
pub fn look<W: Words, R>(words: &W, read: impl Fn(&W) -> R) -> Option<(u64, R)> {
    for _ in 0..LOOKS {
        let before = words.load(SEQUENCE);
        if before & 1 == 1 {
            continue;
        }
        let owner = words.load(OWNER);
        if owner == 0 {
            return None;
        }
        // Every load has acquire ordering, so that the last one cannot be done before these.
        let found = read(words);
        if words.load(SEQUENCE) == before {
            return Some((owner, found));
        }
    }
    None
}
