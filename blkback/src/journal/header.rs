//! Who a journal is for.

use ringfence_core::Words;
use ringfence_core::ids::{DomId, EvtchnPort, GrantRef};
use ringfence_core::weakened;
use ringfence_ring::RingIndex;

use super::error::JournalError;
use super::layout::{
    self, AT_ATTEMPTS, AT_COMPLETE, AT_DEVICE, AT_FLUSH_LOST, AT_GENERATION, AT_IMAGE, AT_KILLED,
    AT_MAGIC, AT_PROTOCOL, AT_QUEUES, AT_VERSION, ENTRY_INDEX, HEAD_PORT, HEAD_PUBLISH, HEAD_REFS,
    HEAD_REQ_CONS, MAGIC, MAX_PAGES, MAX_QUEUES, MAX_SLOTS, UNTOUCHED, VERSION, head, high, low,
    pair,
};

/// One queue as the frontend described it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueHeader {
    /// The frontend's port.
    pub port: EvtchnPort,
    /// The ring's pages.
    pub refs: heapless::Vec<GrantRef, MAX_PAGES>,
    /// Entries of the ring, at most [`MAX_SLOTS`].
    pub slots: u16,
}

/// Who a journal is for. It says nothing about a connection of another device, with another image or in other units; nor about rings
/// that are not these, or not laid out so: those the frontend has made since, and nothing was taken from them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The frontend's domain.
    pub frontend: DomId,
    /// What is on its rings as long as they are these, and on none that it or another domain of its number makes later
    /// ([`Back::mark`](ringfence_ring::Back::mark)); 0 where nothing is.
    pub generation: u64,
    /// The device's number.
    pub vdev: u32,
    /// What tells the image from others, such as device and inode.
    pub image: [u64; 2],
    /// Which layout the requests have on the ring, and in which units their sectors are, as numbers of the engine's own.
    pub protocol: u32,
    /// What was negotiated, as bits of the engine's own.
    pub features: u32,
    /// The queues.
    pub queues: heapless::Vec<QueueHeader, MAX_QUEUES>,
}

/// Whether no earlier process got as far as leaving a journal here; of which device is [`Header::read`]'s business.
pub fn is_empty<W: Words + ?Sized>(words: &W) -> bool {
    words.load(AT_COMPLETE) == 0
}

/// Whether the frontend began anew and an earlier process died before it took anything from the new rings.
pub fn is_untouched<W: Words + ?Sized>(words: &W) -> bool {
    words.load(AT_COMPLETE) == UNTOUCHED
}

/// What the rings of the connection that this journal is for, or is made ready for, are marked with.
pub fn generation<W: Words + ?Sized>(words: &W) -> u64 {
    words.load(AT_GENERATION)
}

/// Another generation than any before it.
pub fn next_generation<W: Words + ?Sized>(words: &W) -> u64 {
    generation(words).wrapping_add(1).max(1)
}

/// What the frontend was told: protocol and features, as in [`Header`].
pub fn told<W: Words + ?Sized>(words: &W) -> (u32, u32) {
    let word = words.load(AT_PROTOCOL);
    (low(word), high(word))
}

/// Whether a flush of this image has ever failed: what was written before it may be lost, so no later flush can succeed.
pub fn is_flush_lost<W: Words + ?Sized>(words: &W) -> bool {
    words.load(AT_FLUSH_LOST) != 0
}

/// Whether the last process was killed from outside: what it was doing is not to blame for that.
pub fn was_killed<W: Words + ?Sized>(words: &W) -> bool {
    words.load(AT_KILLED) != 0 && !weakened!("journal_killed")
}

/// Counts one more recovery that is begun. Gives how many were begun before it without one that ended.
pub fn begin_recovery<W: Words + ?Sized>(words: &W) -> u64 {
    let attempts = match was_killed(words) {
        true => 0,
        false => words.load(AT_ATTEMPTS),
    };
    words.store(AT_ATTEMPTS, attempts.saturating_add(1));
    attempts
}

/// The rings go on: the next recovery is a first one. What their requests do to a process is counted with each of them.
pub fn end_recovery<W: Words + ?Sized>(words: &W) {
    words.store(AT_ATTEMPTS, 0);
}

impl Header {
    /// Reads what an earlier process left. Total: any words give a header or a reason.
    ///
    /// # Errors
    /// [`JournalError`], naming the field and what was found.
    pub fn read<W: Words + ?Sized>(words: &W) -> Result<Self, JournalError> {
        if words.load(AT_COMPLETE) != 1 {
            return Err(JournalError::Incomplete);
        }
        let magic = words.load(AT_MAGIC);
        if magic != MAGIC {
            return Err(JournalError::Magic(magic));
        }
        let version = words.load(AT_VERSION);
        if version != VERSION {
            return Err(JournalError::Version(version));
        }
        let device = words.load(AT_DEVICE);
        let frontend =
            u16::try_from(low(device)).map_err(|_| JournalError::Frontend(low(device)))?;
        let count = words.load(AT_QUEUES);
        let (protocol, features) = told(words);
        let mut header = Self {
            frontend: DomId::new(frontend),
            generation: words.load(AT_GENERATION),
            vdev: high(device),
            image: image(words),
            protocol,
            features,
            queues: heapless::Vec::new(),
        };
        let queues = usize::try_from(count)
            .ok()
            .filter(|count| *count <= MAX_QUEUES)
            .ok_or(JournalError::Queues(count))?;
        for queue in (0..).take(queues) {
            let read = QueueHeader::read(words, queue)?;
            if header.queues.push(read).is_err() {
                return Err(JournalError::Queues(count));
            }
        }
        Ok(header)
    }

    /// Takes a journal for this connection; what was in it is gone. It counts for nothing before [`complete`]. That a flush of
    /// the same image has failed stays known, also if connections could not be made since.
    pub fn prepare<W: Words + ?Sized>(&self, words: &W) {
        self.prepare_as(words, 0);
    }

    /// The same for a connection that the frontend began without us: it [says so](is_untouched) before [`complete`].
    pub fn prepare_untouched<W: Words + ?Sized>(&self, words: &W) {
        self.prepare_as(words, UNTOUCHED);
    }

    fn prepare_as<W: Words + ?Sized>(&self, words: &W, until_complete: u64) {
        let stamp = [words.load(AT_MAGIC), words.load(AT_VERSION)];
        let same_image = stamp == [MAGIC, VERSION] && image(words) == self.image;
        words.store(AT_COMPLETE, until_complete);
        if !same_image {
            words.store(AT_FLUSH_LOST, 0);
        }
        words.store(AT_ATTEMPTS, 0);
        let device = pair(u32::from(self.frontend.get()), self.vdev);
        words.fill(AT_IMAGE, &self.image);
        for (at, value) in [
            (AT_MAGIC, MAGIC),
            (AT_VERSION, VERSION),
            (AT_DEVICE, device),
            (AT_GENERATION, self.generation),
            (AT_PROTOCOL, pair(self.protocol, self.features)),
            (AT_QUEUES, u64::try_from(self.queues.len()).unwrap_or(0)),
        ] {
            words.store(at, value);
        }
        for (queue, header) in (0..).zip(&self.queues) {
            header.prepare(words, queue);
        }
    }
}

fn image<W: Words + ?Sized>(words: &W) -> [u64; 2] {
    [AT_IMAGE, AT_IMAGE.saturating_add(1)].map(|at| words.load(at))
}

/// The journal counts from now on.
pub fn complete<W: Words + ?Sized>(words: &W) {
    words.store(AT_COMPLETE, 1);
}

impl QueueHeader {
    fn read<W: Words + ?Sized>(words: &W, queue: u16) -> Result<Self, JournalError> {
        let at = |part: usize| head(queue).saturating_add(part);
        let first = words.load(at(HEAD_PORT));
        let (pages, slots) = (high(first) & 0xFFFF, high(first) >> 16);
        let bad_pages = JournalError::Pages { queue, pages };
        let count = usize::try_from(pages).map_err(|_| bad_pages)?;
        let mut refs = heapless::Vec::new();
        for page in 0..count {
            let word = words.load(at(HEAD_REFS).saturating_add(page >> 1));
            let gref = if page & 1 == 0 { low(word) } else { high(word) };
            refs.push(GrantRef::new(gref)).map_err(|_| bad_pages)?;
        }
        let slots = match u16::try_from(slots) {
            Ok(slots) if slots.is_power_of_two() && slots <= MAX_SLOTS => slots,
            _ => return Err(JournalError::Slots { queue, slots }),
        };
        Ok(Self {
            port: EvtchnPort::new(low(first)),
            refs,
            slots,
        })
    }

    fn prepare<W: Words + ?Sized>(&self, words: &W, queue: u16) {
        let at = |part: usize| head(queue).saturating_add(part);
        let pages = u32::try_from(self.refs.len()).unwrap_or(u32::MAX);
        let shape = u32::from(self.slots) << 16 | (pages & 0xFFFF);
        words.store(at(HEAD_PORT), pair(self.port.get(), shape));
        for (place, two) in self.refs.chunks(2).enumerate() {
            let gref = |nth: usize| two.get(nth).map_or(0, |gref| gref.get());
            words.store(at(HEAD_REFS).saturating_add(place), pair(gref(0), gref(1)));
        }
        start(words, queue, RingIndex::new(0));
        for number in 0..self.slots {
            words.store(layout::entry(queue, number).saturating_add(ENTRY_INDEX), 0);
        }
    }
}

/// The queue's ring stands at this index, and nothing is open.
pub(super) fn start<W: Words + ?Sized>(words: &W, queue: u16, index: RingIndex) {
    let at = |part: usize| head(queue).saturating_add(part);
    words.store(at(HEAD_PUBLISH), pair(index.get(), index.get()));
    words.store(at(HEAD_REQ_CONS), u64::from(index.get()));
}
