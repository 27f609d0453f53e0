//! Where the numbers of one device are: [`WORDS`] words of 64 bits, in the byte order of the machine.
//!
//! They lie one behind the other in memory that the process of a driver domain shares with whoever may read its statistics; what is
//! in front of them and how a reader notices that one device makes room for another is in `service::board`.

/// Changes before and after the words get another owner, odd meanwhile.
pub const SEQUENCE: usize = 0;
/// Whose they are, 0 for nobody; the number is `service`'s.
pub const OWNER: usize = 1;
/// The state of the backend's directory, a number of `xen/io/xenbus.h`.
pub const STATE: usize = 2;
/// How many rings are connected.
pub const RINGS: usize = 3;
/// The counters, in the order of the fields of [`Snapshot`](super::Snapshot).
pub const COUNTERS: usize = 8;
/// How many reads took how long: [`STEPS`](super::STEPS) words.
pub const READS: usize = 56;
/// The same of writes.
pub const WRITES: usize = READS + super::STEPS;
/// The first ring's words; so many rings follow each other, connected or not.
pub const FIRST_RING: usize = WRITES + super::STEPS;
/// How many rings there is room for.
pub const RINGS_MAX: usize = crate::negotiate::MAX_QUEUES as usize;
/// Words of one ring.
pub const RING_WORDS: usize = 8;
/// Words of one device: a page.
pub const WORDS: usize = 512;
const _: () = assert!(FIRST_RING + RINGS_MAX * RING_WORDS <= WORDS);

/// Of a ring: its entries.
pub const ENTRIES: usize = 0;
/// Of a ring: requests taken since it was connected.
pub const TAKEN: usize = 1;
/// Of a ring: responses published since then.
pub const ANSWERED: usize = 2;
/// Of a ring: doorbells rung.
pub const SENT: usize = 3;
/// Of a ring: times its doorbell was found rung.
pub const RECEIVED: usize = 4;

/// The place of a ring's field.
pub const fn ring(ring: usize, field: usize) -> usize {
    FIRST_RING
        .saturating_add(ring.saturating_mul(RING_WORDS))
        .saturating_add(field)
}
