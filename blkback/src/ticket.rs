//! A request on its way: what it takes to answer it, and nothing else.

use alloc::vec::Vec;

use ringfence_core::wire::blkif::{Op as WireOp, ResponseNative, Status};
use ringfence_ring as ring;

use crate::journal;
use crate::request::{Echo, Runs};

/// The duty to answer one request. Holds its entry of the ring and of the journal; consumed by answering.
#[must_use = "a request that is never answered takes an entry of the ring for ever"]
#[derive(Debug)]
pub struct Ticket {
    pub(crate) slot: ring::Slot,
    pub(crate) entry: journal::Slot,
    pub(crate) echo: Echo,
    /// Where a read's data goes; empty for the others.
    pub(crate) runs: Runs,
    /// When it was taken, by the engine's clock.
    pub(crate) taken_at: u64,
}

impl Ticket {
    /// The response that ends it.
    pub(crate) fn response(&self, status: Status) -> ResponseNative {
        ResponseNative {
            id: self.echo.id.get(),
            operation: self.echo.operation,
            pad: 0,
            status,
            pad2: [0; 4],
        }
    }

    /// The operation as the frontend named it.
    pub const fn operation(&self) -> WireOp {
        self.echo.operation
    }
}

/// The requests that the disk is working on, by our slot number. As many as the ring has entries; never allocates after it is
/// made.
#[derive(Debug)]
pub(crate) struct Table {
    tickets: Vec<Option<Ticket>>,
    free: Vec<u16>,
    in_flight: usize,
}

impl Table {
    pub(crate) fn new(size: u16) -> Self {
        let mut tickets = Vec::new();
        tickets.resize_with(usize::from(size), || None);
        Self {
            tickets,
            free: (0..size).rev().collect(),
            in_flight: 0,
        }
    }

    /// How many requests the disk is working on.
    pub(crate) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How many more requests have a place.
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// Reserves a slot number.
    pub(crate) fn reserve(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Reserves this slot number, which a request of an earlier process had.
    pub(crate) fn claim(&mut self, number: u16) {
        self.free.retain(|free| *free != number);
    }

    /// Gives a number back, once the answer is published.
    pub(crate) fn release(&mut self, number: u16) {
        if self.free.len() < self.tickets.len() {
            self.free.push(number);
        }
    }

    /// Puts a ticket at its number, which was reserved.
    pub(crate) fn put(&mut self, ticket: Ticket) {
        let number = usize::from(ticket.entry.number());
        if let Some(place) = self.tickets.get_mut(number)
            && place.replace(ticket).is_none()
        {
            self.in_flight = self.in_flight.saturating_add(1);
        }
    }

    /// Takes the ticket of a finished request; `None` for a number that the disk was not given.
    pub(crate) fn take(&mut self, number: u16) -> Option<Ticket> {
        let ticket = self.tickets.get_mut(usize::from(number))?.take()?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some(ticket)
    }
}
