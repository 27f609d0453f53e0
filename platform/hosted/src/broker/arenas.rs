//! The arenas of every ordered pair of domains.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::arena::{self, Mapped};
use crate::control::Refusal;
use crate::table::{ENTRIES, TABLE, Table};

#[derive(Debug)]
struct Pair {
    base: u32,
    read_write: OwnedFd,
    read_only: OwnedFd,
    /// The same memory as `read_only`, not to be mapped for writing.
    for_peer: OwnedFd,
    table: Mapped,
}

impl Pair {
    fn new(owner: u16, peer: u16, base: u32) -> io::Result<Self> {
        let read_write = arena::create(&format!("ringfence-{owner}-{peer}-rw"))?;
        let read_only = arena::create(&format!("ringfence-{owner}-{peer}-ro"))?;
        let for_peer = arena::read_only(&read_only)?;
        let table = Mapped::writable(read_write.try_clone()?, TABLE)?;
        Table(table.pages()).open();
        Ok(Self {
            base,
            read_write,
            read_only,
            for_peer,
            table,
        })
    }

    fn table(&self) -> Table<'_> {
        Table(self.table.pages())
    }
}

/// A pair of arenas as sent to one of its two domains.
pub(super) type Sent = (u32, [OwnedFd; 2]);

/// All arenas, by owner and peer.
#[derive(Debug, Default)]
pub(super) struct Arenas {
    pairs: BTreeMap<(u16, u16), Pair>,
    /// Pairs made so far for an owner: references of different peers differ.
    made: BTreeMap<u16, u32>,
}

fn sent(base: u32, read_write: &OwnedFd, read_only: &OwnedFd) -> Result<Sent, Refusal> {
    let refused = |error: io::Error| Refusal::Errno(error.raw_os_error().unwrap_or(0));
    let dup = |fd: &OwnedFd| fd.as_fd().try_clone_to_owned().map_err(refused);
    Ok((base, [dup(read_write)?, dup(read_only)?]))
}

impl Arenas {
    /// For the owner, who makes the pair.
    pub(super) fn own(&mut self, owner: u16, peer: u16) -> Result<Sent, Refusal> {
        if !self.pairs.contains_key(&(owner, peer)) {
            let made = self.made.entry(owner).or_default();
            let base = made.checked_mul(ENTRIES).ok_or(Refusal::Exhausted)?;
            let pair = Pair::new(owner, peer, base)
                .map_err(|error| Refusal::Errno(error.raw_os_error().unwrap_or(0)))?;
            *made += 1;
            self.pairs.insert((owner, peer), pair);
        }
        let pair = &self.pairs[&(owner, peer)];
        sent(pair.base, &pair.read_write, &pair.read_only)
    }

    /// For the peer, if the owner ever granted it anything.
    pub(super) fn reach(&self, owner: u16, peer: u16) -> Result<Sent, Refusal> {
        let pair = self.pairs.get(&(owner, peer)).ok_or(Refusal::NoArena)?;
        sent(pair.base, &pair.read_write, &pair.for_peer)
    }

    /// What the domain's process had mapped is mapped no more (contract D1).
    pub(super) fn process_died(&self, domid: u16) {
        for (_, pair) in self.pairs.iter().filter(|((_, peer), _)| *peer == domid) {
            pair.table().release_all();
        }
    }

    /// Nothing of the domain can be mapped any more (contract D4).
    pub(super) fn domain_destroyed(&mut self, domid: u16) {
        self.process_died(domid);
        for (_, pair) in self.pairs.iter().filter(|((owner, _), _)| *owner == domid) {
            pair.table().shut();
        }
        self.pairs
            .retain(|(owner, peer), _| *owner != domid && *peer != domid);
        self.made.remove(&domid);
    }
}
