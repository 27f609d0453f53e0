//! The statistics of a process where others see them: memory that its supervisor made, keeps, and hands to whoever may look.
//!
//! A page in front, then a page for every device. The process writes and nobody else does; who reads needs no answer from it, and
//! finds the last numbers of one that hangs or is dead.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_core::Words;
use ringfence_core::ids::DomId;

use super::DEVICES_MAX;
use super::id::{BackendType, DeviceId};
use crate::stats::{COUNTERS, Snapshot, Stats, layout, owner};

/// What is in front: words of 64 bits.
pub(super) mod front {
    /// [`MAGIC`](super::MAGIC), stored last.
    pub(in super::super) const MAGIC: usize = 0;
    /// Changes with every process.
    pub(in super::super) const PROCESS: usize = 1;
    /// Times the process asked the system what happened.
    pub(in super::super) const WAITS: usize = 2;
    /// How many pages behind it were ever in use: the first ones.
    pub(in super::super) const PAGES: usize = 3;
    /// What devices did that are gone, in the order of [`Snapshot`](crate::Snapshot).
    pub(in super::super) const GONE: usize = 8;
}
const _: () = assert!(front::GONE + COUNTERS <= layout::WORDS);

/// The first word, with the version of the layout.
pub(super) const MAGIC: u64 = 0x5246_5354_4154_0001;

/// How large such memory is. What is never used takes none.
pub const STATISTICS_BYTES: usize = (1 + DEVICES_MAX) * layout::WORDS * 8;

/// One bit says that there is a device, one of which type, 16 in which domain, 32 which device.
pub(super) const fn number(id: DeviceId) -> u64 {
    let kind = match id.backend {
        BackendType::Vbd => 0,
        BackendType::Qdisk => 1 << 62,
    };
    1 << 63 | kind | (id.front.get() as u64) << 32 | id.vdev as u64
}

#[expect(clippy::cast_possible_truncation, reason = "takes the number apart")]
pub(super) const fn device(owner: u64) -> Option<DeviceId> {
    if owner & 1 << 63 == 0 {
        return None;
    }
    Some(DeviceId {
        backend: if owner & 1 << 62 == 0 {
            BackendType::Vbd
        } else {
            BackendType::Qdisk
        },
        front: DomId::new((owner >> 32) as u16),
        vdev: owner as u32,
    })
}

/// The memory as its writer has it.
#[derive(Debug)]
pub(super) struct Board {
    words: &'static [AtomicU64],
    /// Pages without an owner, the first at the end.
    free: Mutex<Vec<usize>>,
}

/// The right to count in a page.
struct Held {
    board: Arc<Board>,
    page: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Nobody counts there any more.
        self.board.free().push(self.page);
    }
}

/// A page, or the one in front.
struct Page(&'static [AtomicU64]);

impl Words for Page {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn load(&self, at: usize) -> u64 {
        let word = self.0.get(at);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }
    fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.0.get(at) {
            word.store(value, Ordering::Release);
        }
    }
}

impl Board {
    /// Takes the memory over from the process before.
    pub(super) fn new(words: &'static [AtomicU64]) -> Self {
        let pages = words.len().checked_div(layout::WORDS).unwrap_or(0);
        let board = Self {
            words,
            free: Mutex::new((1..pages).rev().collect()),
        };
        let first = board.page(0);
        first.store(front::MAGIC, 0);
        // No others: whoever looks at a page takes memory for it.
        let used = usize::try_from(first.load(front::PAGES)).unwrap_or(pages);
        for page in 1..pages.min(used.saturating_add(1)) {
            owner::enter(&board.page(page), 0);
        }
        for at in front::WAITS..layout::WORDS {
            first.store(at, 0);
        }
        let process = first.load(front::PROCESS);
        first.store(front::PROCESS, process.wrapping_add(1));
        first.store(front::MAGIC, MAGIC);
        board
    }

    fn page(&self, page: usize) -> Page {
        let start = page.saturating_mul(layout::WORDS);
        let end = start.saturating_add(layout::WORDS);
        Page(self.words.get(start..end).unwrap_or_default())
    }

    fn free(&self) -> MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counters for a device; of its own, which nobody else sees, if there is no room.
    pub(super) fn stats(self: &Arc<Self>, id: DeviceId) -> Stats {
        let Some(page) = self.free().pop() else {
            return Stats::default();
        };
        let board = Arc::clone(self);
        let held = Held { board, page };
        let words = self.page(page);
        owner::enter(&words, number(id));
        let first = self.page(0);
        let used = u64::try_from(page).unwrap_or(u64::MAX);
        first.store(front::PAGES, first.load(front::PAGES).max(used));
        Stats::at(words.0, Box::new(held)).unwrap_or_default()
    }

    /// What devices did that are gone.
    pub(super) fn set_gone(&self, gone: &Snapshot) {
        let first = self.page(0);
        for (at, (_, value)) in (front::GONE..).zip(gone.named()) {
            first.store(at, value);
        }
    }

    pub(super) fn set_waits(&self, waits: u64) {
        self.page(0).store(front::WAITS, waits);
    }
}
