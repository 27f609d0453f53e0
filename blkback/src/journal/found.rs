//! What an earlier process left of a queue, and what is to be done about it.

use alloc::vec::Vec;

use ringfence_core::Words;
use ringfence_core::weakened;
use ringfence_core::wire::blkif::{RequestNative, Status};
use ringfence_ring::RingIndex;
use zerocopy::transmute;

use super::error::JournalError;
use super::header;
use super::layout::{
    self, ENTRY_ANSWER, ENTRY_INDEX, ENTRY_REQUEST, HEAD_PUBLISH, HEAD_REQ_CONS, REQUEST, USED,
    WAITING, high, low,
};

/// An entry that was in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Our slot number.
    pub number: u16,
    /// Where on the ring the request was.
    pub index: RingIndex,
    /// At how many crashes somebody was at work on it, the last one among them.
    pub crashes: u8,
    /// Where its answer goes and what it is, if it was answered.
    pub answer: Option<(RingIndex, Status)>,
    /// The request.
    pub request: RequestNative,
}

/// What an earlier process left of a queue. Nothing in it has been checked against the ring.
#[derive(Clone, Debug, Default)]
pub struct Found {
    size: u16,
    req_cons: RingIndex,
    publish: (RingIndex, RingIndex),
    entries: Vec<Entry>,
}

/// What is to be done about it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Entries that count no more, or never did.
    pub stale: Vec<u16>,
    /// Answered and never shown: the answers go out again, in this order.
    pub republish: Vec<Entry>,
    /// Not answered: to be done again, in this order.
    pub replay: Vec<Entry>,
}

impl Found {
    /// Reads queue `queue` of a journal whose header says that its ring has `size` entries. Total.
    pub fn read<W: Words + ?Sized>(words: &W, queue: u16, size: u16) -> Self {
        let head = |part: usize| words.load(layout::head(queue).saturating_add(part));
        let publish = head(HEAD_PUBLISH);
        Self {
            size,
            req_cons: RingIndex::new(low(head(HEAD_REQ_CONS))),
            publish: (RingIndex::new(low(publish)), RingIndex::new(high(publish))),
            entries: (0..size)
                .filter_map(|number| Entry::read(words, queue, number))
                .collect(),
        }
    }

    /// Compares with the ring, which has shown responses up to `rsp_prod`.
    ///
    /// # Errors
    /// [`JournalError`] if both cannot be true.
    pub fn plan(mut self, rsp_prod: RingIndex) -> Result<Plan, JournalError> {
        let (old, new) = self.publish;
        let size = u32::from(self.size);
        if new.since(old) > size {
            return Err(JournalError::Publish { old, new, size });
        }
        let shown = rsp_prod == old || rsp_prod == new;
        if !(shown || weakened!("journal_response_index")) {
            return Err(JournalError::ResponseIndex { rsp_prod, old, new });
        }
        let mut plan = Plan::default();
        self.entries.sort_by_key(|entry| {
            // From the oldest that can be open to the youngest that was being taken.
            let oldest = self.req_cons.plus(size.wrapping_neg());
            entry.index.since(oldest)
        });
        let mut before = None;
        for entry in &self.entries {
            self.sort(entry, rsp_prod, &mut plan)?;
            let index = entry.index;
            if before.replace(index) == Some(index) {
                return Err(JournalError::Twice { index });
            }
        }
        plan.republish.sort_by_key(|entry| {
            entry
                .answer
                .map_or(u32::MAX, |(answer, _)| answer.since(rsp_prod))
        });
        for (entry, at) in plan.republish.iter().zip(0..) {
            if let Some((answer, _)) = entry.answer
                && answer != rsp_prod.plus(at)
            {
                let number = entry.number;
                return Err(JournalError::Answer {
                    number,
                    answer,
                    rsp_prod,
                });
            }
        }
        let entries = plan.republish.len().saturating_add(plan.replay.len());
        let open = self.req_cons.since(rsp_prod);
        if u32::try_from(entries).ok() == Some(open) {
            return Ok(plan);
        }
        Err(JournalError::Count { entries, open })
    }

    fn sort(
        &self,
        entry: &Entry,
        rsp_prod: RingIndex,
        plan: &mut Plan,
    ) -> Result<(), JournalError> {
        let size = u32::from(self.size);
        let Entry { number, index, .. } = *entry;
        if index.since(self.req_cons) < size {
            // Being taken when the process died: it is still on the ring.
            plan.stale.push(number);
            return Ok(());
        }
        let age = self.req_cons.since(index);
        if age > size {
            let req_cons = self.req_cons;
            return Err(JournalError::Index {
                number,
                index,
                req_cons,
            });
        }
        match entry.answer {
            None => plan.replay.push(*entry),
            Some((answer, _)) if answer.since(rsp_prod) < size => plan.republish.push(*entry),
            Some((answer, _)) if rsp_prod.since(answer) <= size => {
                // The frontend has its answer, and may have used the number and the pages again.
                if weakened!("journal_stale") {
                    plan.replay.push(*entry);
                } else {
                    plan.stale.push(number);
                }
            }
            Some((answer, _)) => {
                return Err(JournalError::Answer {
                    number,
                    answer,
                    rsp_prod,
                });
            }
        }
        Ok(())
    }
}

impl Entry {
    fn read<W: Words + ?Sized>(words: &W, queue: u16, number: u16) -> Option<Self> {
        let at = |part: usize| layout::entry(queue, number).saturating_add(part);
        let first = words.load(at(ENTRY_INDEX));
        if first & USED == 0 {
            return None;
        }
        let mut request = [0; REQUEST];
        for (place, word) in (at(ENTRY_REQUEST)..).zip(&mut request) {
            *word = words.load(place);
        }
        let answer = words.load(at(ENTRY_ANSWER));
        let [_, _, crashes, ..] = first.to_be_bytes();
        let blamed = first & WAITING == 0 && !header::was_killed(words);
        Some(Self {
            number,
            index: RingIndex::new(low(first)),
            crashes: crashes.saturating_add(blamed.into()),
            answer: (answer & USED != 0).then(|| {
                let [high, low, ..] = answer.to_be_bytes();
                let status = Status(i16::from_be_bytes([high, low]));
                (RingIndex::new(layout::low(answer)), status)
            }),
            request: transmute!(request),
        })
    }
}
