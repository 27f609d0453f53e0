//! Pages that were dropped while the peer had them mapped.

use alloc::collections::VecDeque;

use ringfence_core::GrantRef;
use ringfence_core::weakened;

/// Pages that one allocation, or one wait, looks at: the peer decides how many there are, and must not decide how long it takes
/// (CVE-2023-54081).
const LOOKS: usize = 64;

/// Frames that nobody may use yet, with their references; no more of them than the grant table has entries.
#[derive(Debug, Default)]
pub(crate) struct Quarantine(VecDeque<(u32, GrantRef)>);

impl Quarantine {
    /// The peer has the page mapped.
    pub(crate) fn put(&mut self, pfn: u32, gref: GrantRef) {
        self.0.push_back((pfn, gref));
    }

    /// Looks at those that were looked at longest ago; of whatever `end` says that it could be ended, nothing is left here.
    pub(crate) fn release(&mut self, mut end: impl FnMut(u32, GrantRef) -> bool) {
        let all = weakened!("cve_2023_54081_guest");
        let looks = if all { usize::MAX } else { LOOKS };
        for _ in 0..self.0.len().min(looks) {
            let Some((pfn, gref)) = self.0.pop_front() else {
                return;
            };
            if !end(pfn, gref) {
                self.0.push_back((pfn, gref));
            }
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All frames: nobody has anything mapped any more.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = u32> + use<> {
        core::mem::take(&mut self.0).into_iter().map(|(pfn, _)| pfn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2023_54081_so_many_pages_are_looked_at_and_no_more() {
        const HELD: u32 = 1000;
        let mut quarantine = Quarantine::default();
        for pfn in 0..HELD {
            quarantine.put(pfn, GrantRef::new(pfn + 8));
        }
        let mut looks = 0;
        for _ in 0..10 {
            quarantine.release(|_, _| {
                looks += 1;
                false
            });
        }
        assert_eq!((looks, quarantine.0.len()), (640, 1000));
        // The peer lets go of all at once: all of it comes back, each once, a few with each allocation.
        let mut back = std::collections::BTreeSet::new();
        while !quarantine.is_empty() {
            let before = back.len();
            quarantine.release(|pfn, gref| {
                assert_eq!(gref.get(), pfn + 8);
                back.insert(pfn)
            });
            assert!((1..=64).contains(&(back.len() - before)));
        }
        assert_eq!(back.len(), HELD as usize);
    }
}
